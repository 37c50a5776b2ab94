"""Runs that are killed, as programs of their own.

``python kills.py anywhere ITEMS WORK SINK KILLS SEED``   kill a run at random moments; resume
``python kills.py workers ITEMS OUT SEED``                kill workers of a LocalCluster
``python kills.py client ITEMS OUT LOG ADDRESS``          run on a cluster elsewhere, when told to
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import threading
import time
from itertools import cycle
from pathlib import Path

from tests.runs import job


def slowly(batch):
    """A model that takes a second for each scene of twenty patches."""
    time.sleep(0.05 * len(batch))
    return job.ndvi(batch)


def units(out):
    """What is finished, by the ledger: name, and inode and time of each of its files."""
    found = {}
    for record in sorted(out.glob("items/*.json")):
        files = [record, *out.glob(f"data/{record.stem}*/**/*")]
        found[record.stem] = {str(f): (f.stat().st_ino, f.stat().st_mtime_ns) for f in files}
    return found


def untrue(out, want):
    """Records of finished units, and their outputs, that are not those of an undisturbed run."""
    got = job.files(out) if out.exists() else {}
    done = {Path(name).stem for name in got if name.startswith("items/") and "/." not in name}
    return [
        name
        for name, content in want.items()
        if len(parts := Path(name).parts) > 1
        and Path(parts[1].removesuffix(".zarr").removesuffix(".json")).name in done
        and got.get(name) != content
    ]


# --- one process ----------------------------------------------------------------------------------


def child(work):
    """Start some work in a fork."""
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return pid


def killed_at(moment, work):
    """Start some work and kill it at a moment; tell how it ended."""
    pid, end = child(work), time.monotonic() + moment
    while time.monotonic() < end:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return status
        time.sleep(0.001)
    os.kill(pid, signal.SIGKILL)
    return os.waitpid(pid, 0)[1]


def anywhere(items, work, sink, kills, seed):
    """Kill runs at moments spread over their length until each is complete; report what is wrong."""
    # Imported here once, and not in every fork.
    import distributed  # noqa: F401
    import stac_geoparquet.arrow  # noqa: F401

    import xgeocat.patching.kernels  # noqa: F401

    assert threading.active_count() == 1, "a fork of threads would prove nothing"
    rng, calm, log = random.Random(seed), work / "calm", work / "log"

    def run(out, log=None):
        job.run(items, out, log, job.slow_ndvi, sink=sink)

    def length(out):
        start = time.monotonic()
        assert os.waitpid(child(lambda: run(out)), 0)[1] == 0
        return time.monotonic() - start

    length(work / "warm")
    whole = length(calm)
    want, last, total = job.files(calm), work / "last", len(units(calm))
    shutil.copytree(calm, last)
    next(last.glob("items/*.json")).unlink()
    # Some of it goes by before the first unit, and after the last one.
    one = length(last)
    shares = [1.4 * (k + rng.random()) / kills for k in range(kills)]
    rng.shuffle(shares)
    report = {"kills": 0, "completed": 0, "finished": [], "bad": []}

    def attempt(out, share):
        """Start a run and kill it after a share of the time that is left; tell whether it died."""
        was = units(out)
        log.unlink(missing_ok=True)
        moment = share * (one + (whole - one) * (total - len(was) - 1) / (total - 1))
        status = killed_at(moment, lambda: run(out, log))
        killed = os.WIFSIGNALED(status)
        now, about = units(out), f"{moment:.3f} s, {len(was)} units before: "
        redone = set(was) & set(log.read_text().split() if log.exists() else [])
        problems = [f"did {sorted(redone)} again"] if redone else []
        problems += ["touched what was finished"] if not was.items() <= now.items() else []
        problems += [f"untrue: {name}" for name in untrue(out, want)[:3]]
        if not killed:
            problems += [f"ended with {status}"] if status else []
            problems += ["other bytes"] if job.files(out) != want else []
        report["bad"] += [about + p for p in problems]
        report["kills"] += killed
        report["completed"] += not killed
        report["finished"] += [len(now)] * killed
        return killed

    out, coming = work / "out", cycle(shares)
    while report["kills"] < kills:
        shutil.rmtree(out, ignore_errors=True)
        while attempt(out, next(coming) if report["kills"] < kills else 1000):
            pass
    return report


# --- a cluster ------------------------------------------------------------------------------------


def workers(items, out, seed):
    """A run on a LocalCluster: one of its workers is killed, later all of them at once."""
    from distributed import Client, LocalCluster

    rng = random.Random(seed)
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None,
                     memory_limit=0) as machines,
        Client(machines),
    ):  # fmt: skip
        finished = []

        def kill():
            for pick in (1, 2):
                while len(list(out.glob("items/*.json"))) < 3 * pick - 2:
                    time.sleep(0.005)
                time.sleep(rng.uniform(0, 0.3))
                finished.append(len(list(out.glob("items/*.json"))))
                for nanny in rng.sample(list(machines.workers.values()), pick):
                    os.kill(nanny.pid, signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        found = job.run(items, out, model=job.slow_ndvi)
        killer.join()
        return {"scenes": found.scene.values.tolist(), "finished": finished}


def client(items, out, log, address):
    """Wait until told to, then run on a cluster that is there already."""
    from distributed import Client

    with Client(address):
        print("ready", flush=True)
        sys.stdin.readline()
        job.run(items, out, log, slowly)


if __name__ == "__main__":
    task, *arguments = sys.argv[1:]
    items, where = map(Path, arguments[:2])
    if task == "anywhere":
        sink, *numbers = arguments[2:]
        print(json.dumps(anywhere(items, where, sink, *map(int, numbers))))
    elif task == "workers":
        print(json.dumps(workers(items, where, int(arguments[2]))))
    elif task == "client":
        client(items, where, Path(arguments[2]), arguments[3])
