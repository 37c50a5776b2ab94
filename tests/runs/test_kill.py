"""Nothing is lost: a run that is killed anywhere and started again ends in the same bytes."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

JOB = Path(__file__).with_name("job.py")


@pytest.fixture
def items_file(make_archive, tmp_path):
    """Factory of an archive with its ItemCollection on disk."""

    def make(n, **options):
        path = tmp_path / "items.json"
        content = {"type": "FeatureCollection", "features": make_archive(n, **options)}
        path.write_text(json.dumps(content))
        return path

    return make


@pytest.fixture
def report(job_environment):
    """Run a task of job.py that prints a report."""

    def run(*arguments):
        done = subprocess.run(
            [sys.executable, "-W", "ignore", str(JOB), *map(str, arguments)],
            env=job_environment, capture_output=True, text=True, timeout=900, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout.splitlines()[-1])

    return run


def check(found, most):
    assert found["points"] >= min(found["total"], most), "no point was hit"
    shown = "\n".join(f"  before change {n} of {found['total']}: {p}" for n, p in found["bad"])
    assert not found["bad"], f"{len(found['bad'])} of {found['points']} points:\n{shown}"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_before_some_changes_of_files_and_resumed_the_output_is_the_same(
    items_file, report, tmp_path
):
    check(report("points", items_file(2, shape=(40, 50)), tmp_path, 60), 8)


@pytest.fixture
def start(job_environment):
    def run(items, out, log):
        return subprocess.Popen(
            [sys.executable, "-W", "ignore", str(JOB), "run", str(items), str(out), str(log)],
            env=job_environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip

    return run


def finished(out):
    return {p.stem: p.stat().st_mtime_ns for p in (out / "items").glob("*.json")}


def kill_at_random(start, items, out, log, rng, longest):
    """Start a run and kill it some time after its first sign of life; tell whether it died."""
    process = start(items, out, log)
    before = log.read_text() if log.exists() else ""
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        if log.exists() and log.read_text() != before:
            break
        time.sleep(0.002)
    time.sleep(rng.uniform(0, longest))
    os.kill(process.pid, signal.SIGKILL) if process.poll() is None else None
    process.communicate()
    return process.returncode == -signal.SIGKILL


def killed_and_resumed(start, items, tmp_path, tree, kills, seed):
    calm = start(items, tmp_path / "calm", tmp_path / "calm.log")
    assert calm.wait(120) == 0, calm.stderr.read()[-2000:]
    scenes = (tmp_path / "calm.log").read_text().split()
    assert len(scenes) >= 8

    out, log, rng = tmp_path / "out", tmp_path / "log", random.Random(seed)
    died = 0
    for _ in range(kills):
        was = finished(out)
        died += kill_at_random(start, items, out, log, rng, 0.9)
        now = finished(out)
        assert was.items() <= now.items(), "a finished unit was done again, or lost"
    was = finished(out)
    log.unlink()
    last = start(items, out, log)
    assert last.wait(120) == 0, last.stderr.read()[-2000:]
    assert died
    assert was.items() <= finished(out).items()
    redone = log.read_text().split() if log.exists() else []
    assert sorted(redone) == sorted(set(scenes) - set(was))
    assert tree(out) == tree(tmp_path / "calm")


@pytest.mark.slow
def test_killed_at_random_moments_and_resumed_the_output_is_the_same(
    start, items_file, tmp_path, tree
):
    killed_and_resumed(start, items_file(8, shape=(100, 110)), tmp_path, tree, kills=2, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(2, 4))
def test_killed_at_many_random_moments_and_resumed_the_output_is_the_same(
    start, items_file, tmp_path, tree, seed
):
    killed_and_resumed(start, items_file(12, shape=(100, 110)), tmp_path, tree, kills=9, seed=seed)
