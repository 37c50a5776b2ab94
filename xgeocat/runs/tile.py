"""One tile of a mosaic: fold the scenes that are new, keep what is needed to go on, write."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import xarray as xr
import zarr
from odc.geo.geobox import GeoBox

from xgeocat.catalog.sources import Json
from xgeocat.domain.geoslice import GeoSlice
from xgeocat.domain.protocol import Domain
from xgeocat.patching.nodata import nodata_of
from xgeocat.pipeline import Field
from xgeocat.runs.accumulate import State, dtype_of, empty_state, fill_of, fold, result
from xgeocat.runs.errors import UnitError
from xgeocat.runs.fingerprint import digest, request_of
from xgeocat.runs.grid import Window
from xgeocat.runs.items import failure_item
from xgeocat.runs.ledger import Ledger, encoded
from xgeocat.runs.regrid import known, on_tile
from xgeocat.runs.store import write_region
from xgeocat.runs.unit import Outcome, StepError, as_dataset, attempts

MOSAIC = "mosaic.zarr"
STATE, TILES = "state", "tiles"


@dataclass(frozen=True, slots=True)
class Scene:
    """A scene that a mosaic is made of.

    Parameters
    ----------
    piece : GeoSlice
        Its slice.
    order : tuple
        What it is sorted by: the smaller goes first.
    """

    piece: GeoSlice
    order: tuple[float | str, ...]

    @property
    def about(self) -> Json:
        """What is recorded once it is applied."""
        sha = digest(request_of(self.piece))[:16]
        return {"scene": self.piece.name, "sha256": sha, "order": list(self.order)}


@dataclass(frozen=True, slots=True)
class Tile:
    """A tile of the common grid, at one time.

    Parameters
    ----------
    name : str
        Its name.
    window : (slice, slice)
        Rows and columns of the grid.
    geobox : GeoBox
        Its grid.
    number : int
        Which of the tiles of the grid it is.
    step : int or None
        Number of the time step; None without a time axis.
    scenes : tuple of Scene
        Those that may meet it, sorted.
    """

    name: str
    window: Window
    geobox: GeoBox
    number: int
    step: int | None
    scenes: tuple[Scene, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        rows, columns = self.geobox.shape
        return int(rows), int(columns)


@dataclass(frozen=True, slots=True)
class Answer:
    """What the pipeline answers, in one variable.

    Parameters
    ----------
    dtype : dtype
        Of its values.
    nodata : float or None
        What it declares.
    leading : tuple of int
        Lengths of the dims before ``(y, x)``.
    """

    dtype: np.dtype
    nodata: float | None
    leading: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TileJob:
    """All that is needed to do any tile of a mosaic, in any process.

    Parameters
    ----------
    pipe, domain, ledger, retries
        See :class:`xgeocat.runs.unit.Job`.
    answers : mapping of str to Answer
        What the pipeline answers.
    reducers : mapping of (str, str) to str
        Name of the result of each variable and reducer.
    resampling : str
        Where the grids differ.
    """

    pipe: Callable[[Field], Field]
    domain: Domain
    ledger: Ledger
    retries: int
    answers: Mapping[str, Answer]
    reducers: Mapping[tuple[str, str], str]
    resampling: str

    def do(self, unit: Tile) -> Outcome:
        """Do one tile.

        Raises
        ------
        OSError
            When nothing more can be written, so that the failure cannot be recorded either.
        """
        again = self.ledger.has_failed(unit.name)
        error = attempts(unit.name, partial(self._once, unit), self.retries, again=again)
        if isinstance(error, UnitError):
            return self.failed(unit, error)
        return Outcome(unit.name, int(np.prod(unit.shape)), None)

    def failed(self, unit: Tile, error: UnitError) -> Outcome:
        """Record a failure; what is in the tile stays, but it is not finished."""
        piece = GeoSlice(geobox=unit.geobox, scenes=tuple(s.piece.name for s in unit.scenes))
        self.ledger.fail(unit.name, {**failure_item(piece, error), "id": unit.name})
        return Outcome(unit.name, 0, error)

    def _once(self, unit: Tile) -> None:
        """Fold what is new and commit it; only then write the pixels, which follow from it.

        Killed in between, the record says that the pixels are still to be written.
        """
        record = record_of(self.ledger, unit.name)
        applied = {about["scene"] for about in record["applied"]}
        new = [scene for scene in unit.scenes if scene.piece.name not in applied]
        state, step = self._kept(unit, record), "load"
        try:
            for scene in new:
                self._fold(unit, scene, state, record)
            step = "write"
            if new or not record["state"]:
                record = self._commit(unit, state, record)
            self._write(unit, state)
            keep_record(self.ledger, unit.name, {**record, "written": True})
            self.ledger.forget_failure(unit.name)
        except StepError:
            raise
        except Exception as error:
            raise StepError(step, error) from error

    def _kept(self, unit: Tile, record: Json) -> dict[str, State]:
        if not record["state"]:
            names = tuple(name for _, name in self.reducers)
            return {
                name: empty_state(sorted(set(names)), (*answer.leading, *unit.shape), answer.dtype)
                for name, answer in self.answers.items()
            }
        store = self.ledger.folder.group(f"{STATE}/{record['state']}")
        return {name: _read(zarr.open_group(store, path=name, mode="r")) for name in self.answers}

    def _fold(self, unit: Tile, scene: Scene, state: dict[str, State], record: Json) -> None:
        """Add one scene to the state and to the record."""
        step = "load"
        try:
            cube = self.domain.load(scene.piece)
            step = "pipeline"
            field = as_dataset(self.pipe(cube))
            self._require_answers(field)
            found = on_tile(field, unit.geobox, self.resampling)
            if found is not None:
                part, window = found
                computed = part.compute()
                order = [scene.order < tuple(about["order"]) for about in record["applied"]]
                for name, answer in self.answers.items():
                    values, mask = known(computed, name, answer.nodata)
                    there = _part(state[name], window)
                    fold(there, values, mask, len(record["applied"]), order)
                    _take_votes(state[name], there, window)
        except Exception as error:
            error.add_note(f"while scene {scene.piece.name} was added")
            raise StepError(step, error) from error
        record["applied"].append(scene.about)

    def _require_answers(self, field: xr.Dataset) -> None:
        found = answers_of(field)
        if found != self.answers:
            raise ValueError(
                f"All scenes of a mosaic have to give the same variables, dtypes and bands; this "
                f"one gives {found}, and others {dict(self.answers)}."
            )

    def _commit(self, unit: Tile, state: Mapping[str, State], record: Json) -> Json:
        old, name = record["state"], f"{unit.name}.{digest(record['applied'])[:12]}"
        with self.ledger.folder.new_group(f"{STATE}/{name}") as store:
            for variable, arrays in state.items():
                for key, values in arrays.items():
                    zarr.create_array(store, name=f"{variable}/{key}", data=values, overwrite=True)
        place = {"tile": unit.number, "step": unit.step}
        record = {**record, **place, "state": name, "written": False}
        keep_record(self.ledger, unit.name, record)
        if old and old != name:
            self.ledger.folder.remove_all(f"{STATE}/{old}")
        return record

    def _write(self, unit: Tile, state: Mapping[str, State]) -> None:
        store = self.ledger.folder.group(MOSAIC)
        for (name, reducer), made in self.reducers.items():
            answer = self.answers[name]
            fill = fill_of(dtype_of(reducer, answer.dtype), answer.nodata)
            values = result(state[name], reducer, answer.dtype, fill)
            outer = (slice(None),) * len(answer.leading)
            step = () if unit.step is None else (unit.step,)
            write_region(store, made, (*step, *outer, *unit.window), values)


def record_of(ledger: Ledger, name: str) -> Json:
    """What is recorded of a tile: scenes applied, where its state is, whether pixels follow it."""
    path = f"{TILES}/{name}.json"
    if not ledger.folder.has(path):
        return {"applied": [], "state": "", "written": False}
    found: Json = json.loads(ledger.folder.read(path))
    return found


def sweep(ledger: Ledger) -> None:
    """Remove what was begun and never finished, and states that no record is about any more."""
    ledger.sweep()
    ledger.folder.sweep((STATE, TILES))
    ledger.folder.sweep_group(MOSAIC)
    states = set(ledger.folder.names(STATE))
    if states:
        records = (name.removesuffix(".json") for name in ledger.folder.names(TILES))
        for name in states - {record_of(ledger, record)["state"] for record in records}:
            ledger.folder.remove_all(f"{STATE}/{name}")


def unwritten(ledger: Ledger) -> list[Json]:
    """Records of the tiles whose pixels do not follow their state yet."""
    names = (name.removesuffix(".json") for name in ledger.folder.names(TILES))
    return [record for name in names if not (record := record_of(ledger, name))["written"]]


def keep_record(ledger: Ledger, name: str, record: Json) -> None:
    """Record a tile."""
    ledger.folder.write(f"{TILES}/{name}.json", encoded(record))


def answers_of(field: xr.Dataset) -> dict[str, Answer]:
    """What a pipeline answers; nothing is computed."""
    y, x = field.odc.spatial_dims
    return {
        str(name): Answer(var.dtype, nodata_of(var), var.transpose(..., y, x).shape[:-2])
        for name, var in field.data_vars.items()
    }


def _read(group: zarr.Group) -> State:
    return {key: np.asarray(array[...]) for key, array in group.arrays()}


def _part(state: State, window: Window) -> State:
    """What is kept of a part of a tile: views, so that it is counted in place."""
    return {
        key: array if key == "labels" else array[(..., *window)] for key, array in state.items()
    }


def _take_votes(state: State, there: State, window: Window) -> None:
    """Put votes back, for which there may be new labels; all else was counted in place."""
    if "votes" not in state:
        return
    rows, columns = window
    labels = there["labels"]
    votes = np.zeros((len(labels), *state["votes"].shape[1:]), np.uint32)
    votes[np.searchsorted(labels, state["labels"])] = state["votes"]
    votes[..., rows, columns] = there["votes"]
    state["labels"], state["votes"] = labels, votes
