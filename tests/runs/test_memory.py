"""Bounded memory: the peak of a streamed run does not follow the size of the raster."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

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


@pytest.mark.parametrize("source", ["dask"])
def test_four_times_the_pixels_take_little_more_memory(peak, source):
    small, large = peak(2048, source), peak(4096, source)
    assert large["after"] < 1.3 * small["after"], (small, large)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("source", ["dask", "cog"])
def test_sixteen_times_the_pixels_take_little_more_memory(peak, source):
    small, large = peak(2048, source), peak(8192, source)
    assert large["after"] < 1.3 * small["after"], (small, large)
