"""Bounded memory: the peak of a streamed run does not follow the size of the raster."""

import json
import subprocess
import sys
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from dask.callbacks import Callback

from xgeocat.patching import writing
from xgeocat.patching.fold import Canvas
from xgeocat.patching.parts import Parts

JOB = Path(__file__).with_name("job.py")


@pytest.fixture
def peak(tmp_path, job_environment):
    """Peak resident memory in MiB of a run over one raster, in a process of its own."""

    def measure(size, source):
        done = subprocess.run(
            [sys.executable, "-W", "ignore", str(JOB), "memory", str(tmp_path / f"{size}"),
             str(size), source],
            # GDAL keeps blocks it has read, up to a share of the machine: not what is measured here.
            env={**job_environment, "GDAL_CACHEMAX": "64"},
            capture_output=True, text=True, timeout=600, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        found = json.loads(done.stdout.splitlines()[-1])
        assert found["scenes"] == 1
        return found

    return measure


@pytest.mark.slow
def test_four_times_the_pixels_take_little_more_memory(peak):
    small, large = peak(2048, "dask"), peak(4096, "dask")
    assert large["after"] < 1.3 * small["after"], (small, large)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("source", ["dask", "cog"])
def test_a_scene_twice_as_wide_and_high_takes_little_more_memory(peak, source):
    # From two blocks a side on, both threads have all that they ever keep.
    small, large = peak(4096, source), peak(8192, source)
    assert large["after"] < 1.3 * small["after"], (small, large)


def weight(result):
    """Bytes of all arrays that a task's result holds."""
    if isinstance(result, np.ndarray):
        return result.nbytes
    if isinstance(result, (list, tuple)):
        return sum(map(weight, result))
    if isinstance(result, dict):
        return sum(map(weight, result.values()))
    if isinstance(result, Parts):
        return sum(answers.nbytes for answers in result.answers)
    return result.values.nbytes if isinstance(result, Canvas) else 0


class Waiting(Callback):
    """The most bytes of results that wait in memory at once."""

    def __init__(self):
        super().__init__()
        self.most = 0

    def _posttask(self, key, result, dsk, state, worker_id):
        self.most = max(self.most, sum(map(weight, state["cache"].values())))


class Nowhere:
    def __setitem__(self, region, values):
        pass


def most_waiting(side, bands):
    """For a field of `side` x `side` blocks of 96 px: full scenes in blocks of 2048, made small."""
    cube = xr.Dataset({
        str(i): (("y", "x"), da.zeros((side * 96,) * 2, chunks=96, dtype="uint16") + i)
        for i in range(bands)
    })  # fmt: skip
    patches = cube.geocat.patch(32, overlap=8)
    field = patches.geocat.map(lambda batch: batch[:, 0].astype("float32")).geocat.stitch()
    with Waiting() as waiting, dask.config.set(scheduler="synchronous"):
        writing.write([field.data], [Nowhere()], "nowhere")
    return waiting.most


@pytest.mark.parametrize("bands", [1, 2])
def test_what_waits_in_memory_grows_less_than_the_side_of_a_scene(bands):
    """Edges of one row of blocks may wait; a scene's worth may not (sixteen times as much)."""
    assert most_waiting(12, bands) < 4 * most_waiting(3, bands)
