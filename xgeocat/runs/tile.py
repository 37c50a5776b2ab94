"""One tile of a mosaic: fold the scenes that are new, keep what is needed to go on, write."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from urllib.parse import quote

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
from xgeocat.runs.unit import Outcome, StepError, as_dataset, attempts, predicted

MOSAIC = "mosaic.zarr"
TIME = "time"
STATE, TILES = "state", "tiles"
#: Property of a failed tile: the scenes that it lacks, quoted.
MISSING = "failure:scenes"


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
        item = {**failure_item(piece, error), "id": unit.name}
        item["properties"][MISSING] = " ".join(sorted(self._missing(unit)))
        self.ledger.fail(unit.name, item)
        return Outcome(unit.name, 0, error)

    def _once(self, unit: Tile) -> None:
        """Fold what is new and commit it; only then write the pixels, which follow from it.

        Killed in between, the record says that the pixels are still to be written.
        """
        step = "load"
        try:
            record = record_of(self.ledger, unit.name)
            before = record["state"]
            state = self._kept(unit, record)
            self._require_alone(unit, before)
            applied = {about["scene"] for about in record["applied"]}
            new = [scene for scene in unit.scenes if scene.piece.name not in applied]
            for scene in new:
                self._fold(unit, scene, state, record)
            step = "write"
            if new or not before:
                record = self._commit(unit, state, record, before)
            self._require_alone(unit, record["state"])
            self._write(unit, state)
            self._require_alone(unit, record["state"])
            keep_record(self.ledger, unit.name, {**record, "written": True})
            if self._missing(unit) <= {quote(about["scene"]) for about in record["applied"]}:
                self.ledger.forget_failure(unit.name)
        except StepError:
            raise
        except Exception as error:
            raise StepError(step, error) from error

    def _missing(self, unit: Tile) -> set[str]:
        """Scenes that a tile is to have: those of this call, and of earlier ones that failed."""
        failure = self.ledger.failure(unit.name)
        earlier = str(failure["properties"].get(MISSING, "")).split() if failure else []
        return {*earlier, *(quote(scene.piece.name) for scene in unit.scenes)}

    def _require_alone(self, unit: Tile, state: str) -> None:
        """Stop where somebody else is at work: a worker that was given up, and came back."""
        found = record_of(self.ledger, unit.name)["state"]
        if found != state:
            raise StepError("write", OSError(f"Another worker is at work on tile {unit.name}."))

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
            field = at_one_time(predicted(self.pipe, cube))
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

    def _commit(self, unit: Tile, state: Mapping[str, State], record: Json, before: str) -> Json:
        """Keep the state and say so. The one before stays for a while: it may still be read."""
        name = f"{unit.name}.{digest(record['applied'])[:12]}"
        with self.ledger.folder.new_group(f"{STATE}/{name}") as store:
            for variable, arrays in state.items():
                for key, values in arrays.items():
                    zarr.create_array(store, name=f"{variable}/{key}", data=values, overwrite=True)
        place = {"tile": unit.number, "step": unit.step}
        record = {**record, **place, "state": name, "written": False}
        self._require_alone(unit, before)
        keep_record(self.ledger, unit.name, record)
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
        for name in states - {record["state"] for record in records(ledger).values()}:
            ledger.folder.remove_all(f"{STATE}/{name}")


def records(ledger: Ledger) -> dict[str, Json]:
    """Records of all tiles, by name."""
    names = (name.removesuffix(".json") for name in ledger.folder.names(TILES))
    return {name: record_of(ledger, name) for name in names}


def at_one_time(field: Field) -> xr.Dataset:
    """A field as a Dataset, without a time axis of length one."""
    made = as_dataset(field)
    if made.sizes.get(TIME) == 1:
        made = made.isel({TIME: 0})
    return made.drop_vars(TIME, errors="ignore") if TIME not in made.dims else made


def keep_record(ledger: Ledger, name: str, record: Json) -> None:
    """Record a tile."""
    ledger.folder.write(f"{TILES}/{name}.json", encoded(record))


def answers_of(field: xr.Dataset) -> dict[str, Answer]:
    """What a pipeline answers; nothing is computed."""
    y, x = field.odc.spatial_dims
    found = {}
    for name, var in field.data_vars.items():
        nodata = nodata_of(var)
        # NaN says nothing more, and is not equal to itself.
        nodata = None if nodata is None or nodata != nodata else nodata
        found[str(name)] = Answer(var.dtype, nodata, var.transpose(..., y, x).shape[:-2])
    return found


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
