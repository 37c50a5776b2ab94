"""Parts: slices too large for one task are done in squares, and come out the same."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import dask
import numpy as np
import pytest
import rasterio
import xarray as xr
from rasterio.windows import Window

import xgeocat as xgc
from tests.runs.archive import contextual, ndvi, open_raw, run
from xgeocat.runs.ledger import Ledger
from xgeocat.runs.run import RunFailuresWarning
from xgeocat.runs.unit import UnitError
from xgeocat.storage.folder import folder_at

SHAPE = (1100, 1300)


@pytest.mark.parametrize(
    ("sink", "part", "scheduler"),
    [("zarr", 512, "threads"), ("zarr", 1024, "sync"),
     pytest.param("cog", 512, "threads", marks=pytest.mark.slow),
     pytest.param(xgc.sinks.Zarr(64, shard=512), 512, "threads", marks=pytest.mark.slow)],
)  # fmt: skip
def test_parts_end_in_the_bytes_of_the_whole(
    make_domain, make_pipe, tmp_path, tree, sink, part, scheduler
):
    domain, pipe = make_domain(2, shape=SHAPE), make_pipe(contextual, size=96, overlap=32)
    with dask.config.set(scheduler=scheduler):
        whole = run(pipe, domain, tmp_path / "whole", sink=sink, part=None)
        parts = run(pipe, domain, tmp_path / "parts", sink=sink, part=part)
    assert tree(tmp_path / "parts") == tree(tmp_path / "whole")
    assert parts.scene.values.tolist() == whole.scene.values.tolist()


def test_the_default_does_small_scenes_as_a_whole_and_large_ones_in_parts(
    make_domain, make_pipe, tmp_path
):
    plan = run(make_pipe(), make_domain(1), tmp_path / "out", dry_run=True)
    assert "scenes       1: 0 finished, 1 to do" in str(plan)
    field = xr.DataArray(
        dask.array.zeros((20000, 30000), "uint8", chunks=4096), dims=("y", "x"),
        coords={"y": -np.arange(20000.0), "x": np.arange(30000.0)},
    ).odc.assign_crs("EPSG:32610")  # fmt: skip
    domain = xgc.RasterDomain(field)
    plan = run(lambda field: field, domain, tmp_path / "other", dry_run=True)
    # The plan is of one part, for that is what a worker has to hold.
    assert plan.of_largest.blocks == 16
    assert plan.pixels == 20000 * 30000


@pytest.mark.parametrize(
    ("sink", "part", "edge"),
    [("zarr", 500, 512), ("cog", 100, 512), (xgc.sinks.Zarr(256, shard=1024), 512, 1024)],
)
def test_parts_that_would_share_a_chunk_are_refused(
    make_domain, make_pipe, tmp_path, sink, part, edge
):
    with pytest.raises(ValueError, match=f"part={part} is no whole number of the {edge} px"):
        run(make_pipe(), make_domain(1), tmp_path / "out", sink=sink, part=part)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("chunk", "shard"), [(512, 700), (512, 256), (0, None), (-1, 4)])
def test_shards_that_are_no_whole_chunks_are_refused(chunk, shard):
    with pytest.raises(ValueError, match="whole number of chunks"):
        xgc.sinks.Zarr(chunk, shard=shard)


def test_a_result_on_another_grid_cannot_be_done_in_parts(make_domain, tmp_path):
    def half(cube):
        return cube["red"].isel(time=0, drop=True).coarsen(y=2, x=2).mean()

    domain = make_domain(1, shape=SHAPE)
    with pytest.warns(RunFailuresWarning):
        run(half, domain, tmp_path / "out", part=512)
    assert "must be on the grid" in xgc.failures(tmp_path / "out")["failure:message"].item()
    run(half, domain, tmp_path / "whole", part=None)


def test_a_part_that_fails_fails_its_scene_and_only_that_part_is_done_again(
    make_archive, make_pipe, tmp_path, tree
):
    items = make_archive(2, shape=SHAPE)
    with rasterio.open(
        items[1]["assets"]["red"]["href"], "r+", IGNORE_COG_LAYOUT_BREAK="YES"
    ) as file:
        file.write(np.full((1, 1), 65000, "uint16"), 1, window=Window(1200, 1000, 1, 1))
    domain = xgc.from_items(items).geocat.domain()
    seen, broken = [], [True]

    def model(batch):
        seen.append(len(batch))
        if broken and (batch[:, 0] == 65000).any():
            raise ValueError("this one not")
        return ndvi(batch)

    pipe = make_pipe(model, size=64, overlap=0)
    with pytest.warns(RunFailuresWarning, match="1 of 2 slices failed"):
        found = run(pipe, domain, tmp_path / "out", part=512)
    assert found.scene.values.tolist() == ["s0"]
    assert xgc.failures(tmp_path / "out").scene.values.tolist() == ["s1"]
    done = Ledger(folder_at(tmp_path / "out")).parts("s1")
    assert len(done) == 8
    assert "512-1024_1024-1300" not in done
    broken.clear()
    seen.clear()
    run(pipe, domain, tmp_path / "out", part=512)
    # 512 x 276 px, in patches of 64 px.
    assert sum(seen) == 8 * 5
    whole = make_pipe(ndvi, size=64, overlap=0)
    run(whole, domain, tmp_path / "whole", part=None)
    assert tree(tmp_path / "out" / "data") == tree(tmp_path / "whole" / "data")
    assert not (tmp_path / "out" / "parts" / "s0").exists()


def test_parts_of_another_size_are_not_taken_for_these(make_domain, make_pipe, tmp_path, tree):
    domain, broken = make_domain(1, shape=SHAPE), [True]

    def model(batch):
        if broken:
            raise ValueError("not yet")
        return ndvi(batch)

    pipe = make_pipe(model, size=64, overlap=0)
    with pytest.raises(UnitError):
        run(pipe, domain, tmp_path / "out", part=512, on_error="raise")
    Ledger(folder_at(tmp_path / "out")).finish_part("s0", "0-512_0-512")
    broken.clear()
    run(pipe, domain, tmp_path / "out", part=1024)
    run(pipe, domain, tmp_path / "whole", part=None)
    assert tree(tmp_path / "out" / "data") == tree(tmp_path / "whole" / "data")


@pytest.mark.parametrize("shard", [512, 2048, 16384])
def test_shards_are_objects_and_hold_what_chunks_hold(make_domain, make_pipe, tmp_path, shard):
    domain = make_domain(1, shape=SHAPE)
    plain = run(make_pipe(), domain, tmp_path / "plain")
    sharded = run(make_pipe(), domain, tmp_path / "sharded", sink=xgc.sinks.Zarr(256, shard=shard))
    xr.testing.assert_identical(
        open_raw(plain.href.values[0, 0]), open_raw(sharded.href.values[0, 0])
    )
    stored = list((tmp_path / "sharded" / "data" / "s0.zarr" / "prediction" / "c").rglob("*"))
    edge = min(shard, 1536)
    rows, columns = -(-1100 // edge), -(-1300 // edge)
    assert sum(path.is_file() for path in stored) == rows * columns


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("sink", ["zarr", "cog"])
def test_killed_again_and_again_between_parts_the_bytes_are_the_same(
    make_archive, tmp_path, tree, job_environment, sink
):
    items = tmp_path / "items.json"
    features = make_archive(2, shape=(600, 1100))
    items.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    job, random_moments = Path(__file__).with_name("job.py"), random.Random(7)

    def go(out, seconds=None):
        arguments = [items, tmp_path / out, tmp_path / f"{out}.log"]
        options = json.dumps({"sink": sink, "part": 512})
        child = subprocess.Popen(
            [sys.executable, "-W", "ignore", str(job), "run", *map(str, arguments), options],
            env={**os.environ, **job_environment},
        )
        try:
            return child.wait(seconds)
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGKILL)
            return child.wait()

    start = time.monotonic()
    assert go("calm") == 0
    length = time.monotonic() - start
    kills = 0
    while go("out", random_moments.uniform(0.3, 0.9) * length) != 0:
        kills += 1
        assert kills < 30
    assert kills
    assert tree(tmp_path / "out") == tree(tmp_path / "calm")
