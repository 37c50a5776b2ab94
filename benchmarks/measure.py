"""Measure variants of one job against each other; what all benchmarks share.

A *variant* is a function of a benchmark file. It gets ready, and returns the job: a function that
takes a path of its own, free to write to, and returns an array, or the path of the Zarr array that
it wrote, or facts (a dict), or an array and facts. Only the job is timed.

Each variant lives in a process of its own, all of them at once; they take turns, one at a time, so
that what else goes on in the machine hits all alike. The first round is a warm-up; of the others
the medians count, for ratios the median of the ratios in each round. Peak memory is the largest
resident set of the whole process (ru_maxrss), Python and libraries included.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

# No numpy up here: a child inherits the peak memory of its parent, so the parent stays small.

THREADS = 2
SIZE, OVERLAP = 256, 64
CHUNK = 2048
EDGE = 10980

Job = Callable[[Path], Any]


@dataclass
class Found:
    """What was measured of one variant: seconds of each round, MiB, facts, and its result."""

    seconds: list[float] = field(default_factory=list)
    before: float = 0
    peak: float = 0
    facts: dict[str, Any] = field(default_factory=dict)
    result: Path | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def times_faster_than(self, other: Found) -> float:
        """How many times faster than another that was measured in the same rounds."""
        pairs = zip(other.seconds, self.seconds, strict=True)
        return statistics.median(theirs / mine for theirs, mine in pairs)


# --- the parent -----------------------------------------------------------------------------------


def options(about: str | None, repeats: int = 5, **more: Any) -> argparse.Namespace:
    """Read the command line: ``--edge``, ``--repeats``, and an option for each of `more`."""
    parser = argparse.ArgumentParser(description=(about or "").strip().splitlines()[0])
    for name, default in {"edge": EDGE, "repeats": repeats, **more}.items():
        choices = default if isinstance(default, tuple) else None
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            type=type(choices[0] if choices else default),
            default=choices[0] if choices else default,
            choices=choices,
            help=f"default: {choices[0] if choices else default}",
        )
    return parser.parse_args()


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder for inputs and outputs, removed in the end."""
    folder = Path(tempfile.mkdtemp(prefix="bench-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def installed(*packages: str) -> list[str]:
    """Those of some peers that are here; says which are not."""
    here = [p for p in packages if importlib.util.find_spec(p) is not None]
    for package in sorted(set(packages) - set(here)):
        print(f"{package} is left out: it is not installed (benchmarks/README.md says how)")
    return here


class Child:
    """A process of its own for one variant."""

    def __init__(self, file: str, variant: str, folder: Path, given: Mapping[str, Any]) -> None:
        self.variant = variant
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - lives as long as the child
        call = [sys.executable, "-W", "ignore", __file__, Path(file).stem, variant, str(folder)]
        self.process = subprocess.Popen(
            [*call, json.dumps(dict(given), default=str)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            # GDAL keeps what it has read in up to 5 % of the machine's memory: say how much.
            env={"GDAL_CACHEMAX": "64", **os.environ},
        )
        self.before = self.answer()["before"]

    def ask(self, question: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(question + "\n")
        self.process.stdin.flush()
        return self.answer()

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            self.errors.seek(0)
            raise SystemExit(f"{self.variant} failed:\n{self.errors.read()[-3000:]}")
        return json.loads(line)

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()
        self.errors.close()


def race(
    file: str, variants: Sequence[str], repeats: int, folder: Path, **given: Any
) -> dict[str, Found]:
    """Let variants of a benchmark file take turns, after a warm-up each."""
    children: list[Child] = []
    try:
        shared = {"folder": folder, **given}
        children.extend(Child(file, variant, folder, shared) for variant in variants)
        found = {child.variant: Found(before=child.before) for child in children}
        for turn in range(repeats + 1):
            for child in children:
                seconds = child.ask("run")["seconds"]
                if turn or not repeats:
                    found[child.variant].seconds.append(seconds)
        for child in children:
            end, this = child.ask("end"), found[child.variant]
            this.peak, this.facts = end["peak"], end["facts"]
            this.result = Path(end["result"]) if end["result"] else None
        return found
    finally:
        for child in children:
            child.end()


def once(file: str, variant: str, folder: Path, **given: Any) -> Found:
    """Run one variant once, in a process of its own: to make an input, or to see its memory."""
    return race(file, [variant], 0, folder, **given)[variant]


def table(found: Mapping[str, Found], against: str, pixels: int) -> None:
    """Print what was measured; a ratio above 1 is faster than `against`."""
    print(f"{'':14}{'seconds':>9}{'fastest':>9}{'Mpx/s':>8}{'ratio':>8}{'peak MiB':>10}")
    for name, this in found.items():
        print(
            f"{name:14}{this.median:9.3f}{min(this.seconds):9.3f}{pixels / 1e6 / this.median:8.1f}"
            f"{this.times_faster_than(found[against]):8.2f}{this.peak:10.0f}"
        )


def reach(what: str, got: float, wanted: float, *, below: bool = False, unit: str = "") -> None:
    """Print whether a figure reaches what is asked of it."""
    good = got < wanted if below else got >= wanted
    bound = "under" if below else "at least"
    verdict = "reached" if good else "NOT reached"
    print(f"  {what}: {got:.3g}{unit} ({bound} {wanted:g}{unit}: {verdict})")


def agree(found: Mapping[str, Found], folder: Path, margin: int = 0, within: float = 1e-5) -> None:
    """Compare all results with each other, a margin of cells left out, and stop if they differ."""
    results = [str(this.result) for this in found.values()]
    facts = once(__file__, "differences", folder, results=results, margin=margin).facts
    worst = facts["largest"]
    print(f"  largest difference between any two results: {worst:.2g}")
    if not worst <= within:
        raise SystemExit(f"the results of {list(found)} differ by up to {worst}")


# --- the child ------------------------------------------------------------------------------------


def differences(folder: str, results: Sequence[str], margin: int) -> Job:
    """Compare arrays, a strip of rows at a time."""
    import numpy as np

    def load(path: str) -> Any:
        if path.endswith(".npy"):
            return np.load(path, mmap_mode="r")
        import zarr

        return zarr.open_array(path, mode="r")

    def rows_of(array: Any, rows: slice, columns: slice) -> Any:
        # Of a time of length one, the one.
        return np.asarray(array[(*[0] * (array.ndim - 2), rows, columns)])

    def largest(a: Any, b: Any) -> float:
        (height, width), worst = a.shape[-2:], 0.0
        if a.shape[-2:] != b.shape[-2:] or a.dtype != b.dtype:
            raise SystemExit(f"{a.shape} {a.dtype} is not {b.shape} {b.dtype}")
        for row in range(margin, height - margin, 1024):
            at = slice(row, min(row + 1024, height - margin)), slice(margin, width - margin)
            x, y = rows_of(a, *at), rows_of(b, *at)
            away = np.abs(x.astype("float64") - y)[~((x == y) | (np.isnan(x) & np.isnan(y)))]
            worst = max(worst, float(np.where(np.isnan(away), np.inf, away).max(initial=0)))
        return worst

    def job(out: Path) -> dict[str, float]:
        arrays = [load(path) for path in results]
        return {"largest": max((largest(*two) for two in combinations(arrays, 2)), default=0.0)}

    return job


def two_threads() -> None:
    """Let dask compute with two threads in this process."""
    import dask

    dask.config.set(scheduler="threads", num_workers=THREADS)


def peak() -> float:
    """The most memory this process has had so far, in MiB."""
    unit = 2**20 if platform.system() == "Darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def _serve(module: str, variant: str, folder: Path, given: str) -> None:
    """Get ready; then run the job each time that the parent asks for it."""
    import numpy as np

    # Whatever a library prints goes to stderr; stdout is for the parent.
    to_parent = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def tell(**facts: Any) -> None:
        to_parent.write(json.dumps(facts) + "\n")
        to_parent.flush()

    job: Job = getattr(importlib.import_module(module), variant)(**json.loads(given))
    result, out = None, folder / variant
    tell(before=peak())
    for question in sys.stdin:
        if question.strip() == "end":
            break
        result = None
        if out.exists():
            shutil.rmtree(out)
        start = time.perf_counter()
        result = job(out)
        tell(seconds=time.perf_counter() - start)
    most = peak()
    result, facts = result if isinstance(result, tuple) else (result, {})
    if isinstance(result, dict):
        result, facts = None, result
    if isinstance(result, np.ndarray):
        np.save(folder / f"{variant}.npy", result)
        result = folder / f"{variant}.npy"
    tell(peak=most, facts=facts, result=None if result is None else str(result))


if __name__ == "__main__":
    _serve(sys.argv[1], sys.argv[2], Path(sys.argv[3]), sys.argv[4])
