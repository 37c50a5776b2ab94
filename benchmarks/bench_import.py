"""How long `import xgeocat` takes, against xarray and odc-geo alone.

    python benchmarks/bench_import.py [--repeats 15]

Each import is in a fresh interpreter, whose own start is part of every figure. Seconds are those on
the clock; processor seconds (user and system) say the same with less noise. The last line imports
all that is public, which `import xgeocat` leaves to when a name is first used.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
from functools import partial
from pathlib import Path

import measure

REACH = 1.3
IMPORTS = {
    "xarray": "import xarray",
    "bare": "import xarray, odc.geo",
    "xgeocat": "import xarray, odc.geo, xgeocat",
    "names": "from xgeocat import *",
}


def fresh(folder: str, code: str) -> measure.Job:
    """Run a line of Python in an interpreter of its own."""
    spent: list[float] = []

    def job(out: Path) -> dict[str, float]:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", code], check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        return {"processor": statistics.median(spent[1:] or spent)}

    return job


# Each variant of a race is a function by its name.
xarray, bare, xgeocat, names = (partial(fresh, code=code) for code in IMPORTS.values())


def main() -> None:
    given = measure.options(__doc__, repeats=15)
    with measure.scratch() as folder:
        found = measure.race(__file__, list(IMPORTS), given.repeats, folder)
    print(f"\n{'':34}{'seconds':>9}{'fastest':>9}{'processor':>11}{'ratio':>7}")
    for name, this in found.items():
        print(
            f"{IMPORTS[name]:34}{this.median:9.3f}{min(this.seconds):9.3f}"
            f"{this.facts['processor']:11.3f}{found['bare'].times_faster_than(this):7.2f}"
        )
    ours, theirs = found["xgeocat"], found["bare"]
    ratio = theirs.times_faster_than(ours)
    measure.reach("seconds, times the bare import", ratio, REACH, below=True)
    ratio = ours.facts["processor"] / theirs.facts["processor"]
    measure.reach("processor seconds, times the bare import", ratio, REACH, below=True)


if __name__ == "__main__":
    main()
