"""Fuse: several scenes on one grid as a lazy cube, those of one step of time into one another."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import dask.array as da
import numpy as np
import xarray as xr
from odc.geo.geobox import GeoBox

from xgeocat.catalog import schema
from xgeocat.domain.bands import Band, describe_bands
from xgeocat.domain.load import TIME, load_bands
from xgeocat.patching.tiling import Array

RADIOMETRY = (schema.NODATA, schema.SCALE, schema.OFFSET)


def load_steps(
    steps: Sequence[Sequence[xr.Dataset]],
    geobox: GeoBox,
    bands: Sequence[str],
    *,
    mask_and_scale: bool = False,
    resampling: str = "nearest",
    chunks: int = 2048,
) -> xr.Dataset:
    """Load scenes onto a grid, one time step for each group of them.

    Every scene is loaded by itself, with its own nodata, scale and offset; then the first valid
    pixel wins, band by band.

    Parameters
    ----------
    steps : sequence of sequences of Dataset
        Rows of a catalog, ``ds.isel(scene=i)``: those of each step, the first on top.
    geobox : GeoBox
        The grid.
    bands : sequence of str
        As for :func:`xgeocat.domain.load.load_scene`, like the other parameters.

    Returns
    -------
    Dataset
        Dims ``(time, y, x)``, one variable per band, dask-backed. The time of a step is that of its
        earliest scene. ``attrs["scenes"]`` lists the scenes.

    Raises
    ------
    KeyError
        For a band that a scene does not have.
    ValueError
        For integers without nodata, of which none says where a scene ends; and without
        `mask_and_scale` for scenes that differ in dtype, nodata, scale or offset.
    """
    cubes: list[list[xr.Dataset]] = []
    for step in steps:
        cubes.append([])
        for scene in step:
            found = describe_bands(scene, bands)
            _require_nodata(scene, found)
            cubes[-1].append(
                load_bands(
                    scene,
                    found,
                    geobox,
                    mask_and_scale=mask_and_scale,
                    resampling=resampling,
                    chunks=chunks,
                )
            )
    _require_same_numbers([cube for step in cubes for cube in step], bands)
    fused = [_fused(step, bands) for step in cubes]
    made = fused[0] if len(fused) == 1 else xr.concat(fused, TIME, join="exact")
    ids = [str(scene[schema.SCENE].item()) for step in steps for scene in step]
    return made.assign_attrs({"scenes": ids})


def first_valid(*layers: Array, nodata: float | None) -> Array:
    """Take each cell from the first layer that has a value there.

    Parameters
    ----------
    *layers : numpy.ndarray
        Of one shape and dtype.
    nodata : float or None
        What is no value, beside NaN.
    """
    made = layers[0].copy()
    for layer in layers[1:]:
        missing = np.isnan(made) if made.dtype.kind == "f" else np.zeros(made.shape, bool)
        if nodata is not None and nodata == nodata:
            missing |= made == nodata
        if not missing.any():
            break
        np.copyto(made, layer, where=missing)
    return made


def _fused(step: Sequence[xr.Dataset], bands: Sequence[str]) -> xr.Dataset:
    """One time step."""
    first = step[0]
    time = min(cube[TIME].values[0] for cube in step)
    made = {}
    for band in bands:
        top = first[band]
        layers = [cube[band].data.rechunk(top.data.chunks) for cube in step]
        if len(layers) > 1:
            fuse = partial(first_valid, nodata=top.attrs.get("nodata"))
            top = top.copy(data=da.map_blocks(fuse, *layers, dtype=top.dtype, meta=layers[0]._meta))
        made[band] = top.assign_coords({TIME: [time]})
        made[band].encoding["grid_mapping"] = "spatial_ref"
    return xr.Dataset(made)


def _require_nodata(scene: xr.Dataset, found: Sequence[Band]) -> None:
    without = [b.name for b in found if b.nodata is None and not str(b.dtype).startswith("float")]
    if without:
        raise ValueError(
            f"The bands {without} of scene {scene[schema.SCENE].item()} have no nodata, so nothing "
            "tells where the scene ends on a grid that is not its own. Say which value it is, e.g. "
            "ds['nodata'] = ds['nodata'].fillna(0)."
        )


def _require_same_numbers(cubes: Sequence[xr.Dataset], bands: Sequence[str]) -> None:
    """Refuse stored numbers that do not mean the same, for one cube says once what they mean."""
    for band in bands:
        first = _numbers(cubes[0][band])
        for cube in cubes[1:]:
            other = _numbers(cube[band])
            if other != first:
                raise ValueError(
                    f"Stored numbers of {band!r} mean one thing in scene {cubes[0].attrs['scene']} "
                    f"and another in {cube.attrs['scene']}: {first} and {other}. Load physical "
                    "values with mask_and_scale=True, or make a domain of each kind."
                )


def _numbers(var: xr.DataArray) -> dict[str, object]:
    """What stored numbers mean; NaN as text, as it is not equal to itself."""
    known = {name: float(var.attrs[name]) for name in RADIOMETRY if name in var.attrs}
    return {"dtype": str(var.dtype)} | {k: "NaN" if v != v else v for k, v in known.items()}
