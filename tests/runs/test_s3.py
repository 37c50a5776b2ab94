"""Runs into an object store: the same as on a disk, over HTTP."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import obstore
import pytest
import xarray as xr
from obstore.store import from_url

import xgeocat as xgc
from tests.runs.archive import ndvi, run
from xgeocat.runs.ledger import RunMismatchError
from xgeocat.runs.run import RunFailuresWarning
from xgeocat.storage import lease

SHAPE = (600, 700)


@pytest.fixture
def out(new_bucket):
    return f"{new_bucket()}/deep/run"


@pytest.fixture
def objects():
    """Every object below a URL with its bytes."""

    def read(url):
        store = from_url(url)
        names = [found["path"] for page in obstore.list(store) for found in page]
        return {name: obstore.get(store, name).bytes().to_bytes() for name in names}

    return read


@pytest.mark.parametrize(
    ("sink", "part"),
    [
        ("zarr", None),
        ("zarr", 512),
        pytest.param("cog", 512, marks=pytest.mark.slow),
        (xgc.sinks.Zarr(128, shard=512), None),
    ],
)
def test_objects_are_the_files_of_the_same_run_on_a_disk(
    make_domain, make_pipe, tmp_path, tree, objects, out, sink, part
):
    domain, pipe = make_domain(2, shape=SHAPE), make_pipe()
    found = run(pipe, domain, out, sink=sink, part=part)
    run(pipe, domain, tmp_path / "disk", sink=sink, part=part)
    files = tree(tmp_path / "disk")
    del files[".lock"]
    assert objects(out) == files
    assert found.scene.values.tolist() == ["s0", "s1"]


@pytest.mark.parametrize("sink", ["zarr", pytest.param("cog", marks=pytest.mark.slow)])
def test_the_catalog_there_is_a_domain_like_any_other(make_domain, make_pipe, out, tmp_path, sink):
    run(make_pipe(), make_domain(2, shape=SHAPE), out, sink=sink)
    run(make_pipe(), make_domain(2, shape=SHAPE), tmp_path / "disk", sink=sink)
    found = xgc.open_catalog(out)
    xr.testing.assert_identical(found.drop_vars("href"), xgc.open_catalog(tmp_path / "disk").drop_vars("href"))  # fmt: skip
    assert all(href.startswith(f"{out}/data/") for href in found.href.values.ravel())
    there, here = found.geocat.domain(), xgc.open_catalog(tmp_path / "disk").geocat.domain()
    for one, other in zip(there.slices(), here.slices(), strict=True):
        np.testing.assert_array_equal(
            there.load(one)["prediction"].values, here.load(other)["prediction"].values
        )
    again = run(lambda cube: cube["prediction"].isel(time=0) * 2, there, f"{out}-twice")
    assert again.scene.values.tolist() == ["s0", "s1"]


def test_what_is_finished_is_not_done_again(make_domain, make_pipe, out):
    calls = []

    def model(batch):
        calls.append(len(batch))
        return ndvi(batch)

    run(make_pipe(model), make_domain(2), out)
    assert calls
    calls.clear()
    run(make_pipe(model), make_domain(2), out)
    assert not calls


def test_what_somebody_removed_is_done_again(make_domain, make_pipe, out, objects):
    run(make_pipe(), make_domain(2), out)
    before, store = objects(out), from_url(out)
    for page in obstore.list(store, "data/s1.zarr"):
        obstore.delete(store, [found["path"] for found in page])
    assert len(objects(out)) < len(before)
    run(make_pipe(), make_domain(2), out)
    assert objects(out) == before


def test_failures_are_recorded_there_and_tried_again(make_archive, make_pipe, out):
    items = make_archive(3)
    href = Path(items[1]["assets"]["red"]["href"])
    domain = xgc.from_items(items).geocat.domain()
    pixels = href.read_bytes()
    href.unlink()
    with pytest.warns(RunFailuresWarning, match="1 of 3"):
        found = run(make_pipe(), domain, out)
    assert found.scene.values.tolist() == ["s0", "s2"]
    assert xgc.failures(out).scene.values.tolist() == ["s1"]
    href.write_bytes(pixels)
    assert run(make_pipe(), domain, out).sizes["scene"] == 3
    assert xgc.failures(out).sizes["scene"] == 0


def test_another_run_is_refused_and_nothing_touched(make_domain, make_pipe, out, objects):
    run(make_pipe(), make_domain(1), out)
    before = objects(out)
    with pytest.raises(RunMismatchError, match="window"):
        run(make_pipe(window="boxcar"), make_domain(1), out)
    assert objects(out) == before
    with pytest.raises(RunMismatchError, match="no run of xgeocat"):
        run(make_pipe(), make_domain(1), out.rpartition("/")[0])


def test_where_there_is_no_run_there_are_no_failures(out):
    with pytest.raises(FileNotFoundError, match="no run"):
        xgc.failures(out)
    with pytest.raises(FileNotFoundError, match="no catalog"):
        xgc.open_catalog(out)


def test_a_catalog_is_written_and_read_there(make_archive, out, tmp_path):
    catalog = xgc.from_items(make_archive(3))
    assert catalog.geocat.to_geoparquet(f"{out}/mine.parquet") == f"{out}/mine.parquet"
    xr.testing.assert_identical(xgc.open_catalog(f"{out}/mine.parquet"), catalog)
    xr.testing.assert_identical(
        xr.open_dataset(f"{out}/mine.parquet", engine="geocat").load(), catalog
    )


def test_of_two_runs_at_once_the_second_is_refused(make_domain, make_pipe, out, monkeypatch):
    monkeypatch.setattr(lease, "RENEW", 0.1)
    refused = []

    def model(batch):
        if len(batch) and not refused:
            with pytest.raises(RunMismatchError, match="Another run is at work") as error:
                run(make_pipe(), make_domain(1), out)
            refused.append(error)
        return ndvi(batch)

    assert run(make_pipe(model), make_domain(1), out).sizes["scene"] == 1
    assert refused


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("options", [{}, {"sink": "cog"}, {"part": 512}])
def test_killed_and_resumed_the_objects_are_the_same(
    make_archive, tmp_path, job_environment, objects, out, options
):
    items = tmp_path / "items.json"
    features = make_archive(3, shape=(520, 300))
    items.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    path = {"PYTHONPATH": job_environment["PYTHONPATH"]}

    def go(url, log, seconds=None):
        child = subprocess.Popen(
            [sys.executable, "-W", "ignore", str(Path(__file__).with_name("job.py")), "run",
             str(items), url, str(tmp_path / log), json.dumps(options)],
            env={**os.environ, **path},
        )  # fmt: skip
        try:
            return child.wait(seconds)
        except subprocess.TimeoutExpired:
            child.kill()
            return child.wait()

    start = time.monotonic()
    assert go(f"{out}-calm", "calm") == 0
    length = time.monotonic() - start
    kills = sum(go(out, "log", share * length) != 0 for share in (0.5, 0.6, 0.7))
    assert kills
    assert go(out, "log") == 0
    assert objects(out) == objects(f"{out}-calm")
