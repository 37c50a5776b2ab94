"""Room: tell whether a file could not be written for want of room on its disk.

Only the system's own calls say so (``ENOSPC``). GDAL logs it, or finds a file broken that it could
not write all of; so what is free has to tell.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock


@dataclass(slots=True, eq=False)
class Writer:
    """One of those that write at one time.

    Parameters
    ----------
    most : int
        Bytes that it may take, and all those that were at work beside it. Those that failed before
        it have removed what they wrote: what is free by now is not all that it had.
    own : int
        What it may take by itself.
    """

    most: int
    own: int

    @contextmanager
    def writing(self, path: Path) -> Iterator[None]:
        """Turn whatever goes wrong with a file into an OSError: ``ENOSPC``, or ``EIO``."""
        try:
            yield
        except Exception as error:
            short = shutil.disk_usage(path.parent).free < self.most
            number = errno.ENOSPC if short else errno.EIO
            raise OSError(number, f"{os.strerror(number)} ({error})", str(path)) from error


_at_work: list[Writer] = []
_changing = Lock()


@contextmanager
def writer(most: int) -> Iterator[Writer]:
    """Be at work on files that may take some bytes, beside the others of this process."""
    own = Writer(most, most)
    with _changing:
        for other in _at_work:
            other.most += own.own
            own.most += other.own
        _at_work.append(own)
    try:
        yield own
    finally:
        with _changing:
            _at_work.remove(own)
