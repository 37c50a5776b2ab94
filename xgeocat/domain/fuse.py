"""Fuse: several scenes on one grid as a lazy cube, those of one step of time into one another."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import dask.array as da
import numpy as np
import xarray as xr
from odc.geo.geobox import GeoBox

from xgeocat.catalog import schema
from xgeocat.domain.across import is_cut
from xgeocat.domain.assets import Scene
from xgeocat.domain.bands import Band, describe_bands
from xgeocat.domain.load import TIME, load_alike, load_bands
from xgeocat.patching.tiling import Array

RADIOMETRY = (schema.NODATA, schema.SCALE, schema.OFFSET)


def load_steps(
    steps: Sequence[Sequence[Scene]],
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
    steps : sequence of sequences of Scene
        Rows of a catalog: those of each step, the first on top.
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
    described = [[describe_bands(scene, bands) for scene in step] for step in steps]
    for step, founds in zip(steps, described, strict=True):
        for scene, found in zip(step, founds, strict=True):
            _require_nodata(scene, found)
    ids = [scene.name for step in steps for scene in step]
    flat = [found for founds in described for found in founds]
    if _are_alike(flat, geobox):
        numbers = [number for number, step in enumerate(steps) for _ in step]
        scenes = [scene for step in steps for scene in step]
        made = load_alike(
            scenes,
            numbers,
            flat,
            geobox,
            mask_and_scale=mask_and_scale,
            resampling=resampling,
            chunks=chunks,
        )
        return made.assign_attrs({"scenes": ids})
    load = partial(
        load_bands,
        geobox=geobox,
        mask_and_scale=mask_and_scale,
        resampling=resampling,
        chunks=chunks,
    )
    cubes = [
        [load(scene, found) for scene, found in zip(step, founds, strict=True)]
        for step, founds in zip(steps, described, strict=True)
    ]
    _require_same_numbers([cube for step in cubes for cube in step], bands)
    fused = [_fused(step, bands) for step in cubes]
    made = fused[0] if len(fused) == 1 else xr.concat(fused, TIME, join="exact")
    return made.assign_attrs({"scenes": ids})


def _are_alike(scenes: Sequence[Sequence[Band]], geobox: GeoBox) -> bool:
    """Tell whether bands of all scenes are rasters of one kind, none in pieces on the grid."""

    def kind(band: Band) -> tuple[object, ...]:
        known = (band.nodata, band.scale, band.offset)
        return (band.index, band.count, band.dtype, *("NaN" if v != v else v for v in known))

    first = [kind(band) for band in scenes[0]]
    return all(
        [kind(band) for band in scene] == first
        and not any(b.is_zarr or b.variable or is_cut(b.geobox, geobox) for b in scene)
        for scene in scenes
    )


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


def _require_nodata(scene: Scene, found: Sequence[Band]) -> None:
    without = [b.name for b in found if b.nodata is None and not str(b.dtype).startswith("float")]
    if without:
        raise ValueError(
            f"The bands {without} of scene {scene.name} have no nodata, so nothing "
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
