"""Nothing is lost: whatever process of a run is killed, and whenever."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.runs import job

pytest.importorskip("distributed")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

KILLS = Path(__file__).with_name("kills.py")


@pytest.fixture
def items_file(make_archive, tmp_path):
    """Factory of an archive with its ItemCollection on disk."""

    def make(n, shape=(100, 110)):
        path = tmp_path / "items.json"
        features = make_archive(n, shape=shape)
        path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
        return path

    return make


@pytest.fixture
def start(job_environment):
    """Start programs, and end them with the test."""
    started = []

    def run(*arguments):
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", *map(str, arguments)], env=job_environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def report(process):
    out, _ = process.communicate(timeout=240)
    assert process.returncode == 0
    return json.loads(out.splitlines()[-1])


@pytest.mark.parametrize(("sink", "kills", "seed"), [("zarr", 50, 1), ("cog", 10, 2)])
def test_killed_at_any_moment_the_output_is_the_same_and_nothing_is_done_twice(
    items_file, start, tmp_path, sink, kills, seed
):
    found = report(start(KILLS, "anywhere", items_file(6), tmp_path, sink, kills, seed))
    assert not found["bad"], "\n".join(found["bad"])
    assert found["kills"] == kills
    assert len(set(found["finished"])) >= 3, "the moments are not spread over the run"
    assert found["completed"] >= 2


def test_workers_that_are_killed_one_by_one_and_all_at_once_lose_nothing(
    items_file, start, tmp_path, tree
):
    items = items_file(12)
    job.run(items, tmp_path / "calm")
    found = report(start(KILLS, "workers", items, tmp_path / "out", 3))
    assert found["scenes"] == [f"s{i}" for i in range(12)]
    assert all(0 < n < 12 for n in found["finished"])
    assert tree(tmp_path / "out") == tree(tmp_path / "calm")


# --- the client -----------------------------------------------------------------------------------


@pytest.fixture
def cluster(start, tmp_path):
    """Address of a scheduler with one worker of two threads, each a process of its own."""
    file = tmp_path / "scheduler.json"
    common = ("--scheduler-file", file, "--no-dashboard")
    start("-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", 0, *common)
    start("-m", "distributed.cli.dask_worker", "--nthreads", 2, "--no-nanny", *common)
    deadline = time.monotonic() + 60
    while not file.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    return json.loads(file.read_text())["address"]


def wait_for(path, lines, deadline=60):
    """Wait until a file has so many lines."""
    end = time.monotonic() + deadline
    while not path.exists() or path.read_text().count("\n") < lines:
        assert time.monotonic() < end, f"{path.name} did not come"
        time.sleep(0.005)


@pytest.mark.parametrize("seed", [4, 5])
def test_a_client_that_is_killed_leaves_units_at_work_and_the_next_one_ends_the_same(
    items_file, start, cluster, tmp_path, tree, seed
):
    """Workers go on with what the dead client gave them, while another one runs into the folder."""
    items, out, rng = items_file(6), tmp_path / "out", random.Random(seed)
    job.run(items, tmp_path / "calm")
    logs = [tmp_path / f"log{i}" for i in range(3)]
    clients = [start(KILLS, "client", items, out, log, cluster) for log in logs]
    assert [c.stdout.readline() for c in clients] == ["ready\n"] * 3
    kept = {}
    for one, log in zip(clients[:2], logs[:2], strict=True):
        one.stdin.write("go\n")
        one.stdin.flush()
        wait_for(log, 2)
        time.sleep(rng.uniform(0.1, 0.9))
        os.kill(one.pid, signal.SIGKILL)
        one.wait()
        kept = {p: p.stat().st_mtime_ns for p in out.glob("items/*.json")}
    clients[2].communicate("go\n", timeout=60)
    assert clients[2].returncode == 0
    assert len(kept) < 6
    finished_before = {p.stem for p in kept}
    assert not finished_before & set(logs[2].read_text().split())
    assert tree(out) == tree(tmp_path / "calm")
