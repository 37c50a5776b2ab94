"""What may go wrong in a unit of a run: which errors pass, and what is told of them."""

from __future__ import annotations

import errno
import re
import traceback
from collections.abc import Iterator
from dataclasses import dataclass

import rasterio

from xgeocat.domain.signing import unsigned
from xgeocat.patching import batches

#: Nothing that comes after could be written either.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
#: Wrong for good, whoever asks, and however often.
LASTING = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
#: GDAL tells these apart by their text alone.
MISSING = re.compile(r"No such file or directory")
STATUS = re.compile(r"(?:HTTP response code|HTTP error code|status(?: code)?)\s*:?\s*(\d{3})")
#: Timeout, too early, too many requests; and 401, 403 may be a signature that ran out.
PASSING = {"401", "403", "408", "425", "429"}


@dataclass(slots=True, eq=False)
class UnitError(Exception):
    """A unit of a run failed.

    Parameters
    ----------
    unit : str
        Its name.
    step : {"load", "pipeline", "write", "worker"}
        Where.
    tries : int
        How often it was tried.
    error : str
        Name of the type of the last error.
    message : str
        What that said, with the errors it came of. Queries of URLs are left out: they hold
        signatures.
    trace : str
        Its traceback.
    """

    unit: str
    step: str
    tries: int
    error: str
    message: str
    trace: str

    @classmethod
    def of(cls, unit: str, step: str, tries: int, error: BaseException) -> UnitError:
        """What is to be told of an error."""
        trace = "".join(traceback.format_exception(error))
        # Object stores append how they look from inside.
        texts = (str(e).partition("\n\nDebug source:")[0] for e in chain(error))
        said = " <- ".join(dict.fromkeys(texts))
        step = step_of(error, step)
        return cls(unit, step, tries, type(error).__name__, unsigned(said), unsigned(trace))

    def __str__(self) -> str:
        times = "try" if self.tries == 1 else "tries"
        return (
            f"{self.unit} failed at {self.step}, after {self.tries} {times}: "
            f"{self.error}: {self.message}"
        )

    def __reduce__(self) -> tuple[type[UnitError], tuple[str, str, int, str, str, str]]:
        about = (self.unit, self.step, self.tries, self.error, self.message, self.trace)
        return type(self), about


def chain(error: BaseException) -> Iterator[BaseException]:
    """An error, and those that it came of; rasterio says which file only in the latter."""
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__ or current.__context__


def passes(error: BaseException) -> bool:
    """Tell whether an error may pass by itself: of a network, a file system, a busy server."""
    # Errors of object stores are those of a module that is there only with its extra.
    of_store = type(error).__module__ == "obstore.exceptions"
    if not (of_store or isinstance(error, (OSError, rasterio.errors.RasterioError))):
        return False
    for one in chain(error):
        if isinstance(one, LASTING) or MISSING.search(str(one)):
            return False
        status = STATUS.search(str(one))
        if status and status[1].startswith("4") and status[1] not in PASSING:
            return False
    return True


def is_full(error: BaseException) -> bool:
    """Tell whether nothing more can be written: no room, or no right to."""
    return any(isinstance(one, OSError) and one.errno in FULL for one in chain(error))


def step_of(error: BaseException, step: str) -> str:
    """Name the step that an error comes from; all of them are computed while it is written."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        module = frame.f_globals.get("__name__", "")
        if module == batches.__name__:
            return "pipeline"
        if module.startswith(("odc.loader", "rasterio")):
            return "load"
    return step
