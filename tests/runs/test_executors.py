"""Where units are done: side by side on threads, or as tasks of a cluster."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import dask
import numpy as np
import pytest

import xgeocat as xgc
from tests.runs.archive import run
from xgeocat.runs import executors
from xgeocat.runs.executors import active_client, one_thread, outcomes, threads_here
from xgeocat.runs.ledger import Ledger, RunMismatchError
from xgeocat.runs.sinks import find_sink
from xgeocat.runs.unit import Job, Unit
from xgeocat.storage.folder import folder_at

JOB = Path(__file__).with_name("job.py")


@pytest.fixture
def make_job(tmp_path):
    """Factory of jobs and their slices."""

    def make(pipe, domain, name="out"):
        ledger = Ledger(folder_at(tmp_path / name))
        ledger.open({})
        return Job(pipe, domain, ledger, find_sink("zarr"), "made", 0), [
            Unit(s) for s in domain.slices()
        ]

    return make


class Together:
    """A model that waits until as many calls as asked for are at work at once, if ever."""

    def __init__(self, wanted):
        self.wanted, self.now, self.most, self.lock = wanted, 0, 0, threading.Lock()

    def __call__(self, batch):
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        end = time.monotonic() + 5
        while batch.size and self.most < self.wanted and time.monotonic() < end:
            time.sleep(0.001)
        with self.lock:
            self.now -= 1
        return batch[:, 0].astype("float32")


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_small_units_are_done_side_by_side_as_many_as_there_are_threads(
    make_domain, make_pipe, make_job, workers
):
    model = Together(workers)
    with dask.config.set(num_workers=workers):
        job, slices = make_job(make_pipe(model, name="t"), make_domain(7))
        found = list(outcomes(job, slices))
    assert model.most == workers
    assert sorted(o.name for o in found) == [f"s{i}" for i in range(7)]
    assert all(o.error is None and o.pixels == 70 * 90 for o in found)


def test_a_large_unit_has_all_threads_to_itself(make_domain, make_pipe, make_job, monkeypatch):
    monkeypatch.setattr(executors, "TARGET_BLOCK", 32)
    inside = threading.local()
    overlapping = []

    class Noting(xgc.CatalogDomain):
        at_work = 0

        def load(self, request, bands=None):
            inside.at = threading.get_ident()
            overlapping.append(threading.current_thread() is threading.main_thread())
            return super().load(request, bands)

    domain = make_domain(3)
    job, slices = make_job(make_pipe(), Noting(domain.catalog))
    with dask.config.set(num_workers=3):
        assert len(list(outcomes(job, slices))) == 3
    assert overlapping == [True] * 3


def test_whoever_stops_early_begins_nothing_new(make_domain, make_pipe, make_job):
    seen = []

    def model(batch):
        if batch.size:
            seen.append(1)
        return batch[:, 0].astype("float32")

    with dask.config.set(num_workers=2):
        job, slices = make_job(make_pipe(model, name="t", size=128, overlap=0), make_domain(30))
        coming = outcomes(job, slices)
        next(coming)
        coming.close()
    assert len(list((job.ledger.folder.root / "items").iterdir())) <= 6
    done = len(seen)
    time.sleep(0.1)
    assert len(seen) == done


def test_dask_says_how_many_threads_there_are():
    with dask.config.set(num_workers=5):
        assert threads_here() == 5
    with dask.config.set(scheduler="synchronous"):
        assert threads_here() == 1
    assert active_client() is None


def test_the_scheduler_is_given_back_by_the_last_of_several_threads():
    """dask's configuration is of the process; threads that overlap must not undo each other's."""
    first_in, first_out = threading.Event(), threading.Event()
    seen = []

    def second():
        first_in.wait()
        with one_thread():
            first_out.wait()
            seen.append(dask.config.get("scheduler", None))

    with dask.config.set(scheduler="threads"):
        thread = threading.Thread(target=second)
        thread.start()
        with one_thread():
            first_in.set()
            while len(executors._inside) < 2:
                time.sleep(0.001)
        first_out.set()
        thread.join()
        assert seen == ["synchronous"]
        assert dask.config.get("scheduler") == "threads"


def test_two_attempts_at_one_unit_end_in_one_output(make_domain, make_pipe, make_job, tree):
    domain = make_domain(1)
    job, slices = make_job(make_pipe(), domain)
    threads = [threading.Thread(target=job.do, args=slices) for _ in range(4)]
    with dask.config.set(scheduler="synchronous"):
        [t.start() for t in threads]
        [t.join() for t in threads]
    other, slices = make_job(make_pipe(), domain, "other")
    other.do(slices[0])
    assert tree(job.ledger.folder.root) == tree(other.ledger.folder.root)


# --- two runs, a plan -----------------------------------------------------------------------------


@pytest.fixture
def other_run(tmp_path, job_environment):
    """Hold the lock of a folder in another process, until it is killed."""
    script = (
        "import sys, time; from xgeocat.runs.ledger import Ledger\n"
        "from xgeocat.storage.folder import folder_at\n"
        "with Ledger(folder_at(sys.argv[1])).locked(): print('held', flush=True); time.sleep(60)"
    )
    started = []

    def start(out):
        process = subprocess.Popen([sys.executable, "-c", script, str(out)], env=job_environment,
                                   stdout=subprocess.PIPE, text=True)  # fmt: skip
        assert process.stdout.readline() == "held\n"
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_of_two_runs_on_one_folder_the_second_is_refused_until_the_first_is_gone(
    make_domain, make_pipe, tmp_path, other_run, tree
):
    domain = make_domain(2)
    run(make_pipe(), domain, tmp_path / "calm")
    first = other_run(tmp_path / "out")
    before = tree(tmp_path / "out")
    with pytest.raises(RunMismatchError, match="Another run is at work"):
        run(make_pipe(), domain, tmp_path / "out")
    assert tree(tmp_path / "out") == before
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    run(make_pipe(), domain, tmp_path / "out")
    assert tree(tmp_path / "out") == tree(tmp_path / "calm")


def test_a_dry_run_says_what_would_be_done_and_changes_nothing(make_domain, make_pipe, tmp_path):
    out, domain = tmp_path / "out", make_domain(3)
    plan = run(make_pipe(), domain, out, dry_run=True)
    assert not out.exists()
    assert (plan.units, plan.finished, plan.failed) == (3, 0, 0)
    assert plan.pixels == 3 * 70 * 90
    assert plan.of_largest.patches == 3 * 4
    assert plan.of_largest.recompute == 1
    assert "3 to do" in str(plan)
    run(make_pipe(), domain, out)
    plan = run(make_pipe(), domain, out, dry_run=True)
    assert (plan.finished, plan.pixels, plan.largest) == (3, 0, None)
    with pytest.raises(RunMismatchError, match="ndvi v2"):
        run(make_pipe(name="ndvi v2"), domain, out, dry_run=True)


def test_progress_says_how_many_failed_and_how_fast_it_goes(
    make_domain, make_pipe, tmp_path, capfd
):
    xgc.run(make_pipe(), make_domain(3), tmp_path / "out", progress=True)
    shown = capfd.readouterr().err
    assert "3/3" in shown
    assert "failed=0" in shown
    assert "Mpx/s=" in shown
    run(make_pipe(), make_domain(1), tmp_path / "silent")
    assert capfd.readouterr().err == ""


# --- a cluster ------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_worker_that_is_lost_loses_nothing(make_archive, tmp_path, tree, job_environment):
    pytest.importorskip("distributed")
    items = tmp_path / "items.json"
    features = make_archive(8, shape=(150, 170))
    items.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    found = {}
    for task, out in (("cluster", "calm"), ("lossy", "out")):
        done = subprocess.run(
            [sys.executable, "-W", "ignore", str(JOB), task, str(items), str(tmp_path / out)],
            env=job_environment, capture_output=True, text=True, timeout=240, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        found[task] = json.loads(done.stdout.splitlines()[-1])
    assert found["lossy"]["scenes"] == [f"s{i}" for i in range(8)]
    assert found["lossy"]["killed"] > 0
    assert found["lossy"]["tasks"] == 1 + 8
    assert tree(tmp_path / "calm") == tree(tmp_path / "out")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_unit_that_kills_its_workers_fails_alone(make_archive, tmp_path, job_environment):
    pytest.importorskip("distributed")
    items = tmp_path / "items.json"
    features = make_archive(4, shape=(70, 90))
    items.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(JOB), "deadly", str(items), str(tmp_path / "out")],
        env=job_environment, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    failed = xgc.failures(tmp_path / "out")
    assert failed.scene.values.tolist() == ["s2"]
    assert failed["failure:step"].item() == "worker"
    assert json.loads(done.stdout.splitlines()[-1])["scenes"] == ["s0", "s1", "s3"]
    assert np.isfinite(failed["failure:tries"].item())
