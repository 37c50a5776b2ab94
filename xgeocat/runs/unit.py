"""One unit of a run: load a slice, predict, write, and record what came of it."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
import rasterio
import xarray as xr
from odc.geo.geobox import GeoBox

from xgeocat.catalog.sources import Json
from xgeocat.domain.geoslice import GeoSlice
from xgeocat.domain.protocol import Domain, OfItems
from xgeocat.domain.signing import unsigned
from xgeocat.patching.index import PATCH
from xgeocat.pipeline import Field, Sequential, computed
from xgeocat.runs.errors import UnitError, is_full, passes
from xgeocat.runs.grid import Window, require_grid, windows
from xgeocat.runs.items import failure_item, in_collection, output_item
from xgeocat.runs.ledger import Ledger, safe_name
from xgeocat.runs.sinks import Sink

log = logging.getLogger(__name__)
Done = TypeVar("Done")

PREDICTION = "prediction"
#: Options of GDAL for a retry: nothing that is known of remote files counts.
AGAIN = {"CPL_VSIL_CURL_NON_CACHED": "/vsicurl/:/vsis3/:/vsigs/:/vsiaz/"}
#: Seconds before the first retry; doubled before each further one.
PAUSE = 0.5


@dataclass(frozen=True, slots=True)
class Pending:
    """An output that is written, but not committed yet.

    Parameters
    ----------
    item : dict
        Its record.
    changes : bytes
        What is to be committed.
    """

    item: Json
    changes: bytes


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a unit.

    Parameters
    ----------
    name : str
        Name of its slice.
    pixels : int
        Pixels of its grid.
    error : UnitError or None
        Why it failed; None if it is finished, but for what is pending.
    pending : Pending or None
        What is still to be committed and recorded.
    """

    name: str
    pixels: int
    error: UnitError | None
    pending: Pending | None = None


@dataclass(frozen=True, slots=True)
class Unit:
    """What is done as one: a slice, or a part of one.

    Parameters
    ----------
    piece : GeoSlice
        The slice.
    window : (slice, slice) or None
        Rows and columns of a part. None for all of it, or to join its parts, where it has any.
    """

    piece: GeoSlice
    window: Window | None = None

    @property
    def name(self) -> str:
        """Name of the slice, which is what outputs are recorded by."""
        return self.piece.name

    @property
    def part(self) -> str:
        """Name of the part, within the slice: its rows and its columns."""
        return "_".join(f"{s.start}-{s.stop}" for s in self.window or ())

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        if self.window is None:
            return self.piece.shape
        rows, columns = (s.stop - s.start for s in self.window)
        return rows, columns

    @property
    def pixels(self) -> int:
        """Number of pixels."""
        rows, columns = self.shape
        return rows * columns


@dataclass(frozen=True, slots=True)
class Job:
    """All that is needed to do any unit of a run, in any process.

    Parameters
    ----------
    pipe : callable
        From a cube to a field.
    domain : Domain
        What loads slices.
    ledger : Ledger
        Where to record.
    sink : Sink
        What outputs are written as.
    collection : str
        Id of the STAC collection of the outputs.
    retries : int
        How often to try again after an error that may pass.
    part : int or None
        Edge of the parts that larger slices are divided into; none are if None.
    """

    pipe: Callable[[Field], Field]
    domain: Domain
    ledger: Ledger
    sink: Sink
    collection: str
    retries: int
    part: int | None = None

    def parts(self, piece: GeoSlice) -> list[Unit]:
        """The parts that a slice is done in; none if it is done as a whole."""
        if self.part is None or max(piece.shape) <= self.part:
            return []
        return [Unit(piece, window) for window in windows(piece.shape, self.part)]

    def todo(self, piece: GeoSlice) -> list[Unit]:
        """What is to be done of an unfinished slice before its parts are joined, if it has any."""
        parts = self.parts(piece)
        done = self.ledger.parts(piece.name) if parts else set()
        return [unit for unit in parts if unit.part not in done] if parts else [Unit(piece)]

    def lost(self, slices: Sequence[GeoSlice]) -> list[str]:
        """Names of finished slices whose outputs are not there any more."""
        there = set(self.ledger.data.names())
        names = [piece.name for piece in slices]
        unfinished = set(self.ledger.unfinished(names))
        return [
            name
            for name in names
            if name not in unfinished
            and self.sink.entry(safe_name(name), "").partition("/")[0] not in there
        ]

    def do(self, unit: Unit) -> Outcome:
        """Do one unit.

        Raises
        ------
        OSError
            When nothing more can be written, so that the failure cannot be recorded either.
        """
        again = self.ledger.has_failed(unit.name)
        done = attempts(unit.name, partial(self._once, unit), self.retries, again=again)
        if isinstance(done, UnitError):
            return self.failed(unit, done)
        return Outcome(unit.name, unit.pixels, None, done)

    def failed(self, unit: Unit, error: UnitError) -> Outcome:
        """Record a failure."""
        source = self.domain.item(unit.piece) if isinstance(self.domain, OfItems) else None
        self.ledger.fail(unit.name, failure_item(unit.piece, error, source))
        return Outcome(unit.name, unit.pixels, error)

    def _once(self, unit: Unit) -> Pending | None:
        """Load, predict, write; and record it last of all, if nothing is to be committed."""
        step = "load"
        try:
            cube = self.domain.load(unit.piece)
            step = "pipeline"
            field = as_dataset(predicted(self.pipe, cube))
            step = "write"
            if unit.window is not None:
                _require_same_grid(field, unit.piece)
                self.sink.write_part(field, unit.window, self.ledger.data, safe_name(unit.name))
                self.ledger.finish_part(unit.name, unit.part)
            elif self.parts(unit.piece):
                self.sink.join(field, self.ledger.data, safe_name(unit.name))
                self.ledger.finish(unit.name, self._item(unit, field, require_grid(field)))
                self.forget_parts(unit.name)
            else:
                written = self.sink.write(field, self.ledger.data, safe_name(unit.name))
                item = self._item(unit, field, written.geobox)
                if written.changes is not None:
                    return Pending(item, written.changes)
                self.ledger.finish(unit.name, item)
        except Exception as error:
            raise StepError(step, error) from error
        return None

    def forget_parts(self, name: str) -> None:
        """Remove what is left of the parts of a finished slice; the record of them last."""
        self.sink.forget_parts(self.ledger.data, safe_name(name))
        self.ledger.forget_parts(name)

    def _item(self, unit: Unit, field: xr.Dataset, geobox: GeoBox) -> Json:
        item = output_item(unit.piece, field, geobox, safe_name(unit.name), self.sink)
        return in_collection(item, self.collection)


@dataclass(slots=True, eq=False)
class StepError(Exception):
    """One attempt failed at a step."""

    step: str
    cause: Exception


def attempts(name: str, once: Callable[[], Done], retries: int, *, again: bool) -> Done | UnitError:
    """Do something until it succeeds, or fails for good.

    Parameters
    ----------
    name : str
        What fails then.
    once : callable
        Does it; raises a StepError.
    retries : int
        How often to try again after an error that may pass.
    again : bool
        Whether it failed before, in an earlier run.

    Returns
    -------
    object
        What `once` returns, or a UnitError.

    Raises
    ------
    OSError
        When nothing more can be written.
    """
    for attempt in range(1, retries + 2):
        try:
            # GDAL remembers what it could not read, but here the server is to be asked again.
            with rasterio.Env(**(AGAIN if again or attempt > 1 else {})):
                return once()
        except StepError as failed:
            if is_full(failed.cause):
                raise failed.cause from None
            if attempt > retries or not passes(failed.cause):
                return UnitError.of(name, failed.step, attempt, failed.cause)
            log.info("%s: try %d failed: %s", name, attempt, unsigned(str(failed.cause)))
            # Workers that failed together shall not all come back at once.
            time.sleep(PAUSE * 2 ** (attempt - 1) * random.uniform(0.5, 1.5))
    raise AssertionError("unreachable: the last attempt returns")


def _require_same_grid(field: xr.Dataset, piece: GeoSlice) -> None:
    """Refuse a field that cannot be done in parts, as it is on another grid than its slice."""
    geobox = require_grid(field)
    if not _is_same(geobox, piece.geobox):
        raise ValueError(
            f"Slices larger than part= are done in parts, for which the result must be on the grid "
            f"of its slice, and it is on another: {tuple(geobox.shape)} pixels instead of "
            f"{piece.shape}, or elsewhere. Give a larger part=, or None, to do each slice as a "
            "whole."
        )


def _is_same(one: GeoBox, other: GeoBox) -> bool:
    """Tell whether two grids are the same, to a hundredth of a pixel."""
    a, b = (np.array(geobox.boundingbox.bbox) for geobox in (one, other))
    step = np.abs([one.resolution.x, one.resolution.y] * 2)
    near = bool((np.abs(a - b) <= step / 100).all())
    return one.shape == other.shape and one.crs == other.crs and near


def predicted(pipe: Callable[[Field], Field], cube: Field) -> Field:
    """What a pipeline makes of a cube."""
    return pipe(cube) if isinstance(pipe, Sequential) else computed(pipe, cube)


def as_dataset(field: Field) -> xr.Dataset:
    """A field as a Dataset.

    Raises
    ------
    TypeError
        For what is none.
    ValueError
        For patches, and for one without anything to write.
    """
    if not isinstance(field, (xr.DataArray, xr.Dataset)):
        raise TypeError(
            f"The pipeline returned {type(field).__name__}, which is no field: return a DataArray "
            "or a Dataset on the grid of the cube, e.g. cube['red'] > 0.3."
        )
    if PATCH in field.dims:
        raise ValueError(
            f"The pipeline returned patches, with dims {tuple(map(str, field.dims))}. End it with "
            "Stitch()."
        )
    made = field if isinstance(field, xr.Dataset) else field.to_dataset(name=PREDICTION)
    texts = {str(name): str(v.dtype) for name, v in made.data_vars.items() if v.dtype.kind in "OSU"}
    if texts or not made.data_vars:
        raise ValueError(
            f"The pipeline returned {f'{texts}, which are no numbers' if texts else 'no variables'}"
            "; return at least one variable of numbers, with y and x."
        )
    return made
