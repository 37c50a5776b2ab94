"""Progress of a run: a bar in a terminal or a notebook, and a line of log for each failure."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from time import perf_counter

from xgeocat.runs.unit import Outcome

log = logging.getLogger(__name__)


def watched(
    outcomes: Iterable[Outcome], total: int, finished: int, show: bool
) -> Iterator[Outcome]:
    """Pass outcomes on, and show how far the run has come.

    Parameters
    ----------
    outcomes : iterable of Outcome
        As they come.
    total : int
        Units of the whole run.
    finished : int
        Units that were finished before.
    show : bool
        Whether to show a bar.
    """
    with warnings.catch_warnings():
        # In a notebook without widgets it says that they are missing, and shows text.
        warnings.simplefilter("ignore")
        from tqdm.auto import tqdm

        bar = tqdm(desc="run", unit="unit", total=total, initial=finished, disable=not show)
    failed, pixels, start = 0, 0, perf_counter()
    with bar:
        for outcome in outcomes:
            if outcome.error is None:
                pixels += outcome.pixels
            else:
                failed += 1
                log.warning("%s", outcome.error)
            speed = pixels / 1e6 / max(perf_counter() - start, 1e-9)
            bar.set_postfix({"failed": failed, "Mpx/s": f"{speed:.1f}"}, refresh=False)
            bar.update()
            yield outcome


def peak_memory() -> str:
    """Say how much memory this process has had at most, where the system tells."""
    peak = _peak_bytes()
    if peak is None:
        return "peak memory is not known on this system"
    return f"peak memory of this process {peak / 2**20:,.0f} MiB"


def _peak_bytes() -> int | None:
    # What getrusage says begins, on Linux, with the peak of the process that started this one.
    status = Path("/proc/self/status")
    if status.exists() and "VmHWM:" in (text := status.read_text()):
        return int(text.split("VmHWM:")[1].split()[0]) * 1024
    try:
        import resource
    except ImportError:
        return None
    # https://man7.org/linux/man-pages/man2/getrusage.2.html: KiB, but bytes on macOS.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
