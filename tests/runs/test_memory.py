"""Bounded memory: the peak of a streamed run does not follow the size of the raster."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import dask
import numpy as np
import pytest
from dask.callbacks import Callback

import xgeocat as xgc
from tests.domain import scenes
from xgeocat.runs import store

JOB = Path(__file__).with_name("job.py")


@pytest.fixture
def peak(tmp_path, job_environment):
    """Peak resident memory in MiB of a run over one raster, in a process of its own."""

    def measure(size, source):
        done = subprocess.run(
            [sys.executable, "-W", "ignore", str(JOB), "memory", str(tmp_path / f"{size}"),
             str(size), source],
            env=job_environment, capture_output=True, text=True, timeout=600, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        found = json.loads(done.stdout.splitlines()[-1])
        assert found["scenes"] == 1
        return found

    return measure


def test_four_times_the_pixels_take_little_more_memory(peak):
    small, large = peak(2048, "dask"), peak(4096, "dask")
    assert large["after"] < 1.3 * small["after"], (small, large)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("source", ["dask", "cog"])
def test_sixteen_times_the_pixels_take_little_more_memory(peak, source):
    small, large = peak(2048, source), peak(8192, source)
    assert large["after"] < 1.3 * small["after"], (small, large)


def weight(result):
    """Bytes of all arrays that a task's result holds."""
    if isinstance(result, np.ndarray):
        return result.nbytes
    if isinstance(result, (list, tuple)):
        return sum(map(weight, result))
    if isinstance(result, dict):
        return sum(map(weight, result.values()))
    if dataclasses.is_dataclass(result):
        return sum(weight(getattr(result, f.name)) for f in dataclasses.fields(result))
    return 0


class Waiting(Callback):
    """The most bytes of results that wait in memory at once."""

    def __init__(self):
        super().__init__()
        self.most = 0

    def _posttask(self, key, result, dsk, state, worker_id):
        self.most = max(self.most, sum(map(weight, state["cache"].values())))


def test_what_waits_in_memory_grows_with_a_side_of_the_scene_not_with_its_area(
    make_archive, tmp_path, monkeypatch
):
    """Half-done work along one row of blocks may wait; a scene's worth of it may not.

    The same as with chunks of 2048 px on full scenes, made small: 3 x 3 and 12 x 12 blocks of 96.
    """
    monkeypatch.setattr(store, "CHUNK", 96)

    def invert(batch):
        return (9999.0 - batch[:, 0]).astype("float32")

    pipe = xgc.Sequential([
        xgc.GridSampler(32, overlap=8), xgc.ApplyToChips(invert, name="invert"), xgc.Stitch("hann")
    ])  # fmt: skip
    most = {}
    for side in (3, 12):
        items = make_archive(1, shape=(side * 96, side * 96), folder=f"archive{side}")
        domain = xgc.from_items(items).geocat.domain(chunks=96)
        with Waiting() as waiting, dask.config.set(scheduler="synchronous"):
            out = xgc.run(pipe, domain, tmp_path / f"out{side}", progress=False)
        most[side] = waiting.most
        (piece,) = out.geocat.domain().slices()
        got = out.geocat.domain().load(piece)["prediction"].values[0]
        want = 9999.0 - scenes.read(items[0]["assets"]["red"]["href"]).astype("float32")
        scenes.assert_same(got, want)
    assert most[12] < 6 * most[3], most
