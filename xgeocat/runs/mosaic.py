"""Mosaic: the predictions of all scenes that meet each tile of a grid, folded into one Zarr."""

from __future__ import annotations

import json
import logging
import os
import warnings
from collections.abc import Callable, Sequence
from contextlib import closing

import numpy as np
import odc.geo.xr
import pandas as pd
import rasterio
import xarray as xr
from dask.array import empty
from odc.geo.geobox import GeoBox

from xgeocat.catalog.sources import Json
from xgeocat.domain.geoslice import GeoSlice, crs_of
from xgeocat.domain.protocol import Domain
from xgeocat.domain.scenes import require_options
from xgeocat.patching.names import qualified_name
from xgeocat.pipeline import Described, Field, describe
from xgeocat.runs.accumulate import dtype_of, fill_of, require_reducers
from xgeocat.runs.executors import outcomes
from xgeocat.runs.ledger import Ledger, RunMismatchError
from xgeocat.runs.progress import peak_memory, watched
from xgeocat.runs.run import (
    RunFailuresWarning,
    require_pipe_and_domain,
    require_unique_names,
)
from xgeocat.runs.store import CHUNK, Layout, is_written, write_template
from xgeocat.runs.tile import (
    MOSAIC,
    TIME,
    Scene,
    Tile,
    TileJob,
    answers_of,
    at_one_time,
    records,
    sweep,
)
from xgeocat.runs.tiles import tiles_to_do
from xgeocat.runs.unit import predicted
from xgeocat.storage.folder import folder_at

log = logging.getLogger(__name__)

#: The time steps there are.
STEPS_FILE = "steps.json"
#: How often a tile is tried again after an error that may pass.
RETRIES = 2


def mosaic(
    pipe: Callable[[Field], Field],
    domain: Domain,
    grid: GeoBox,
    out: str | os.PathLike[str],
    *,
    reduce: str | Sequence[str] = "mean",
    time: str | None = None,
    precedence: str | None = None,
    resampling: str = "nearest",
    tile: int = 2048,
    progress: bool = True,
) -> xr.Dataset:
    """Fold the predictions of many scenes into one Zarr on a common grid.

    Tile by tile: each scene that meets a tile is predicted on its own grid, where the tile needs
    it, brought onto the tile and added to what is known there. Memory is that of one tile and the
    part of one scene, however many there are. Called again, with the same or with further scenes,
    it goes on: only tiles that new scenes meet are touched, and the result is that of all scenes
    at once (floats to rounding).

    Parameters
    ----------
    pipe : callable
        A Sequential, or any function from a cube to a field.
    domain : Domain
        The scenes; all of them, or only those that are new.
    grid : GeoBox
        The common grid.
    out : path or URL
        Output folder: new, empty, or of the same mosaic; see :func:`xgeocat.run`. The Zarr group
        is ``out/mosaic.zarr``.
    reduce : str or sequence of str, default: "mean"
        "mean", "std" (of all, not of a sample), "sum", "min", "max", "count", "vote" (the most
        frequent label; of two as frequent, the smaller), "first" (see `precedence`). With several,
        variables are called ``<variable>_<reducer>``.
    time : str, optional
        Length of the time steps, as pandas has it: "1MS", "7D". Scenes count where they start. By
        default there is no time axis.
    precedence : str, optional
        For ``"first"``: the property of the scenes that says which one is taken, that with the
        smallest value (``"eo:cloud_cover"``). By default, and where it is equal, the earliest.
    resampling : str, default: "nearest"
        A GDAL resampling name, for scenes on other pixels than the grid's.
    tile : int, default: 2048
        Edge of a tile in pixels, a multiple of 512.
    progress : bool, default: True
        Show a bar.

    Returns
    -------
    Dataset
        Lazy, dims ``(time, ..., y, x)``. A cell that no scene reaches is NaN, or the ``nodata`` in
        the attrs; its count is 0.

    Raises
    ------
    RunMismatchError
        When `out` holds another mosaic or something else, or a scene has changed since it was
        applied; nothing is touched.
    ValueError
        For reducers that are unknown, tiles that would share a chunk, a grid without a CRS, scenes
        without a time or without the property to sort by, or before the first step of the mosaic.
    """
    require_pipe_and_domain(pipe, domain)
    if not isinstance(grid, GeoBox):
        raise TypeError(
            f"grid={grid!r} is no GeoBox. Make one: odc.geo.geobox.GeoBox.from_bbox((west, south, "
            "east, north), crs, resolution=...)."
        )
    require_options(None, resampling, 1)
    reducers = (reduce,) if isinstance(reduce, str) else tuple(reduce)
    require_reducers(reducers)
    if tile < CHUNK or tile % CHUNK:
        raise ValueError(
            f"tile={tile} is no multiple of {CHUNK}, so that two tasks would write into one chunk."
        )
    ledger = Ledger(folder_at(out))
    slices = list(domain.slices())
    require_unique_names(slices)
    scenes = sorted(
        (Scene(piece, _order(piece, precedence)) for piece in slices), key=lambda s: s.order
    )
    about = _about(pipe, domain, grid, [*reducers, time, precedence, resampling, tile])
    ledger.require(about)
    # All that may be refused is, before anything is written.
    steps = _steps(ledger, scenes, time)
    template, job = _prepared(pipe, domain, ledger, scenes, (grid, reducers, resampling))
    _require_compatible(template, open_mosaic(ledger))
    tiles = tiles_to_do(ledger, grid, scenes, steps, tile)
    if scenes and not tiles and not records(ledger):
        warnings.warn(
            f"None of the {len(scenes)} scenes meets the grid, whose bounds are "
            f"{grid.boundingbox}; see domain.bounds, and the order of x and y.",
            stacklevel=2,
        )
    with ledger.locked():
        ledger.open(about)
        sweep(ledger)
        if scenes:
            _require_template(ledger, template, steps)
            _work(job, tiles, progress)
            sweep(ledger)
        return open_mosaic(ledger)


def open_mosaic(ledger: Ledger) -> xr.Dataset:
    """Open what has been written so far, lazily."""
    if not is_written(ledger.folder.group(MOSAIC)):
        return xr.Dataset()
    try:
        found = xr.open_zarr(
            ledger.folder.group(MOSAIC),
            consolidated=False,
            decode_coords="all",
            mask_and_scale=False,
            chunks={},
        )
    except ValueError:
        # Killed while its axis grew; its metadata are written anew, and pixels stay.
        if ledger.folder.has(STEPS_FILE):
            return xr.Dataset()
        raise
    for var in found.data_vars.values():
        fill = var.attrs.pop("_FillValue", None)
        if fill is not None:
            var.attrs["nodata"] = fill
    return found


def _order(piece: GeoSlice, precedence: str | None) -> tuple[float | str, ...]:
    start = "" if piece.interval is None else str(piece.interval[0])
    if precedence is None:
        return (start, piece.name)
    value = piece.properties.get(precedence)
    if not isinstance(value, (bool, int, float, str)):
        raise ValueError(
            f"Scene {piece.name} has no property {precedence!r} to sort by; it has "
            f"{sorted(piece.properties)}."
        )
    return (value, start, piece.name)


def _about(
    pipe: Callable[[Field], Field], domain: Domain, grid: GeoBox, options: Sequence[object]
) -> Json:
    """All that the mosaic depends on but its scenes, of which there may be more."""
    of_domain = dict(domain.describe()) if isinstance(domain, Described) else {}
    of_domain.pop("assets", None)
    return {
        "mosaic": list(options),
        "pipeline": describe(pipe),
        "domain": {"kind": qualified_name(domain), **of_domain},
        "grid": [list(grid.shape), list(grid.transform)[:6], crs_of(grid).to_wkt()],
    }


def _steps(ledger: Ledger, scenes: Sequence[Scene], time: str | None) -> pd.DatetimeIndex | None:
    """Starts of the time steps: those there are, and further ones up to the last scene."""
    if time is None:
        return None
    without = [scene.piece.name for scene in scenes if scene.piece.interval is None]
    if without:
        raise ValueError(
            f"{len(without)} scenes have no time, e.g. {without[:3]}, so that they belong to no "
            "time step. Leave them out, or make a mosaic without a time axis."
        )
    starts = pd.DatetimeIndex([scene.piece.interval[0] for scene in scenes if scene.piece.interval])
    kept = json.loads(ledger.folder.read(STEPS_FILE)) if ledger.folder.has(STEPS_FILE) else []
    if not len(starts):
        return pd.DatetimeIndex(kept)
    first = pd.Timestamp(kept[0]) if kept else _begins(starts.min(), time)
    if starts.min() < first:
        raise ValueError(
            f"The mosaic begins at {first}, and a scene at {starts.min()}: an axis can grow only "
            "at its end. Make it anew, elsewhere, with all scenes."
        )
    last = max(starts.max(), pd.Timestamp(kept[-1]) if kept else first)
    return pd.date_range(first, last, freq=time)


def _begins(moment: pd.Timestamp, time: str) -> pd.Timestamp:
    """The start of the step that a moment is in."""
    offset = pd.tseries.frequencies.to_offset(time)
    if isinstance(offset, pd.offsets.Tick):
        return moment.floor(time)
    return offset.rollback(moment.normalize())


def _prepared(
    pipe: Callable[[Field], Field],
    domain: Domain,
    ledger: Ledger,
    scenes: Sequence[Scene],
    how: tuple[GeoBox, Sequence[str], str],
) -> tuple[xr.Dataset, TileJob]:
    """Say what a step will hold, from what the pipeline makes of one scene; nothing is computed."""
    grid, reducers, resampling = how
    field = _first_field(pipe, domain, scenes)
    if TIME in field.dims:
        raise ValueError("The pipeline answers with a time axis; take one time in it.")
    answers = answers_of(field) if scenes else {}
    names = {
        (name, reducer): name if len(reducers) == 1 else f"{name}_{reducer}"
        for name in answers
        for reducer in reducers
    }
    y, x = field.odc.spatial_dims if answers else ("y", "x")
    rows, columns = grid.dimensions
    coords = odc.geo.xr.xr_coords(grid)
    made = {}
    for (name, reducer), result in names.items():
        leading = [dim for dim in field[name].dims if dim not in (y, x)]
        known = {dim: field[dim] for dim in leading if dim in field.coords}
        dtype = dtype_of(reducer, answers[name].dtype)
        shape = (*answers[name].leading, *grid.shape)
        var = xr.DataArray(empty(shape, dtype=dtype, chunks=-1), dims=(*leading, rows, columns),
                           coords={**known, **coords})  # fmt: skip
        if reducer == "count":
            # Where there is no tile at all, no scene is.
            var.attrs["nodata"] = 0
        elif dtype.kind != "f":
            var.attrs["nodata"] = fill_of(dtype, answers[name].nodata)
        made[result] = var
    job = TileJob(pipe, domain, ledger, RETRIES, answers, names, resampling)
    return xr.Dataset(made), job


def _first_field(
    pipe: Callable[[Field], Field], domain: Domain, scenes: Sequence[Scene]
) -> xr.Dataset:
    """What the pipeline makes of the first scene that can be opened; others fail as they may."""
    last: Exception | None = None
    for scene in scenes:
        try:
            return at_one_time(predicted(pipe, domain.load(scene.piece)))
        except (OSError, rasterio.errors.RasterioError) as error:
            last = error
    if last is not None:
        raise last
    return xr.Dataset()


def _require_compatible(template: xr.Dataset, kept: xr.Dataset) -> None:
    """Refuse answers of another kind than those that are in the mosaic."""
    for name, var in template.data_vars.items() if kept else ():
        was = kept.get(name)
        labels = [
            dim for dim in var.dims if dim in var.coords and dim not in template.odc.spatial_dims
        ]
        same = (
            was is not None
            and var.dtype == was.dtype
            and (var.dtype.kind == "f" or var.attrs.get("nodata") == was.attrs.get("nodata"))
            and all(np.array_equal(var[dim], was[dim]) for dim in labels)
        )
        if not same:
            raise RunMismatchError(
                f"The pipeline answers with {name!r}, {var.dtype}, {dict(var.attrs)}, and in the "
                f"mosaic there is {None if was is None else (str(was.dtype), was.attrs)}: other "
                "answers are not mixed in. Make a mosaic of its own, elsewhere."
            )


def _require_template(ledger: Ledger, step: xr.Dataset, steps: pd.DatetimeIndex | None) -> None:
    """Write the metadata of the mosaic, or a longer time axis."""
    template = step
    if steps is not None:
        whole = {
            name: var.copy(data=np.broadcast_to(np.empty((), var.dtype), var.shape)).expand_dims(
                {TIME: len(steps)}
            )
            for name, var in step.items()
        }
        template = xr.Dataset(whole).assign_coords({TIME: steps.values})
        template[TIME].encoding = {"units": "seconds since 1970-01-01", "dtype": "int64"}
        # Kept by itself: the axis in the group is written chunk by chunk.
        ledger.folder.write(STEPS_FILE, json.dumps([str(step) for step in steps]).encode())
    kept = open_mosaic(ledger)
    if not kept or template.sizes != kept.sizes:
        write_template(template, ledger.folder.group(MOSAIC), Layout())


def _work(job: TileJob, tiles: Sequence[Tile], progress: bool) -> None:
    log.info("%s: %d tiles to do", job.ledger.folder.url, len(tiles))
    failed = 0
    with closing(outcomes(job, tiles)) as coming:
        for outcome in watched(coming, len(tiles), 0, progress):
            failed += outcome.error is not None
    log.info("%s: done, %d tiles failed, %s", job.ledger.folder.url, failed, peak_memory())
    if failed:
        warnings.warn(
            f"{failed} of {len(tiles)} tiles failed; xgeocat.failures({job.ledger.folder.url!r}) "
            "says which and why. Call again to try them again.",
            RunFailuresWarning,
            stacklevel=3,
        )
