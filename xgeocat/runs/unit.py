"""One unit of a run: load a slice, predict, write, and record what came of it."""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import rasterio
import xarray as xr

from xgeocat.domain.geoslice import GeoSlice
from xgeocat.domain.protocol import Domain
from xgeocat.pipeline import Field
from xgeocat.runs.errors import UnitError, is_full, passes
from xgeocat.runs.items import failure_item, output_item
from xgeocat.runs.ledger import Ledger
from xgeocat.runs.sinks import Sink

PREDICTION = "prediction"
#: Options of GDAL for a retry: nothing that is known of remote files counts.
AGAIN = {"CPL_VSIL_CURL_NON_CACHED": "/vsicurl/:/vsis3/:/vsigs/:/vsiaz/"}
#: Seconds before the first retry; doubled before each further one.
PAUSE = 0.5


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a unit.

    Parameters
    ----------
    name : str
        Its name.
    pixels : int
        Pixels of its grid.
    error : UnitError or None
        Why it failed; None if it is finished.
    """

    name: str
    pixels: int
    error: UnitError | None


@dataclass(frozen=True, slots=True)
class Job:
    """All that is needed to do any unit of a run, in any process.

    Parameters
    ----------
    pipe : callable
        From a cube to a field.
    domain : Domain
        What loads slices.
    bands : sequence of str or None
        What to load.
    ledger : Ledger
        Where to record.
    sink : Sink
        What outputs are written as.
    retries : int
        How often to try again after an error that may pass.
    """

    pipe: Callable[[Field], Field]
    domain: Domain
    bands: Sequence[str] | None
    ledger: Ledger
    sink: Sink
    retries: int

    def do(self, piece: GeoSlice) -> Outcome:
        """Do one unit.

        Raises
        ------
        OSError
            When nothing more can be written, so that the failure cannot be recorded either.
        """
        error = self._try(piece)
        if error is not None:
            return self.failed(piece, error)
        return Outcome(piece.name, pixels(piece), None)

    def failed(self, piece: GeoSlice, error: UnitError) -> Outcome:
        """Record a failure."""
        self.ledger.fail(piece.name, failure_item(piece, error))
        return Outcome(piece.name, pixels(piece), error)

    def _try(self, piece: GeoSlice) -> UnitError | None:
        again = self.ledger.has_failed(piece.name)
        for attempt in range(1, self.retries + 2):
            try:
                # GDAL remembers what it could not read, but here the server is to be asked again.
                with rasterio.Env(**(AGAIN if again or attempt > 1 else {})):
                    self._once(piece)
            except _StepError as failed:
                if is_full(failed.cause):
                    raise failed.cause from None
                if attempt > self.retries or not passes(failed.cause):
                    return UnitError.of(piece.name, failed.step, attempt, failed.cause)
                # Workers that failed together shall not all come back at once.
                time.sleep(PAUSE * 2 ** (attempt - 1) * random.uniform(0.5, 1.5))
            else:
                return None
        raise AssertionError("unreachable: the last attempt returns")

    def _once(self, piece: GeoSlice) -> None:
        """Write the output beside its place and move it there whole; then record it.

        However many attempts there are at one time, each writes on its own, and one is kept.
        """
        path = self.ledger.data_path(piece.name, self.sink.suffix)
        beside = path.with_name(f".{path.name}.{os.getpid()}-{uuid4().hex[:8]}.tmp")
        step = "load"
        try:
            cube = self.domain.load(piece, self.bands)
            step = "pipeline"
            field = _as_dataset(self.pipe(cube))
            step = "write"
            geobox = self.sink.write(field, beside)
            move(beside, path)
            item = output_item(piece, field, geobox, path, self.sink)
            self.ledger.finish(piece.name, item)
        except Exception as error:
            raise _StepError(step, error) from error
        finally:
            shutil.rmtree(beside, ignore_errors=True)


@dataclass(slots=True, eq=False)
class _StepError(Exception):
    """One attempt failed at a step."""

    step: str
    cause: Exception


def pixels(piece: GeoSlice) -> int:
    """Pixels of a unit's grid."""
    rows, columns = piece.shape
    return rows * columns


def move(beside: Path, path: Path) -> None:
    """Move a finished output to its place, unless another attempt has put it there."""
    try:
        beside.rename(path)
    except OSError:
        # A folder is only ever moved here whole, so what is there is finished.
        if not path.exists():
            raise


def _as_dataset(field: Field) -> xr.Dataset:
    if isinstance(field, xr.Dataset):
        return field
    return field.to_dataset(name=PREDICTION)
