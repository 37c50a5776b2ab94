"""Regrid: a prediction on the part of a common grid that it meets."""

from __future__ import annotations

import numpy as np
import odc.geo.xr  # noqa: F401 - registers .odc
import pyproj
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox
from odc.geo.overlap import compute_reproject_roi

from xgeocat.domain.geoslice import crs_of
from xgeocat.patching.nodata import nodata_of
from xgeocat.patching.tiling import Array
from xgeocat.runs.accumulate import Mask
from xgeocat.runs.grid import Window, require_grid

#: Source pixels around those that are needed, for resampling at the edge.
PADDING = 4
#: Every how many pixels a tile is asked where it comes from.
SAMPLE = 16


def on_tile(field: xr.Dataset, tile: GeoBox, resampling: str) -> tuple[xr.Dataset, Window] | None:
    """Bring a field onto a tile, lazily: only what falls on it is needed.

    Parameters
    ----------
    field : Dataset
        Predictions, on any grid.
    tile : GeoBox
        Part of the common grid. Where it has the same pixels, nothing is resampled.
    resampling : str
        Where it has not: a GDAL resampling name.

    Returns
    -------
    (Dataset, (slice, slice)) or None
        The part of the field that falls on the tile, and where; None if nothing does. Variables
        without a way to say "not known" have a mask beside them, see :func:`known`.
    """
    source = require_grid(field)
    y, x = field.odc.spatial_dims
    if _aligned(source, tile):
        found = compute_reproject_roi(source, tile, padding=0)
        rows, columns = (slice(s.start, s.stop) for s in found.roi_dst)
        if rows.stop <= rows.start or columns.stop <= columns.start:
            return None
        return field.isel({y: found.roi_src[0], x: found.roi_src[1]}), (rows, columns)
    needed = _needed(source, tile)
    if needed is None:
        return None
    # In memory: piece by piece, what lies across the antimeridian or a pole is not found.
    part = field.isel({y: needed[0], x: needed[1]}).compute()
    made = {}
    for name, var in part.data_vars.items():
        plain = var.astype(np.uint8) if var.dtype.kind == "b" else var
        made[str(name)] = plain.odc.reproject(tile, resampling=resampling)
        if var.dtype.kind != "f" and nodata_of(var) is None:
            inside = xr.ones_like(plain, np.uint8).assign_attrs(nodata=0)
            made[_inside(str(name))] = inside.odc.reproject(tile, resampling="nearest")
    return xr.Dataset(made), (slice(0, tile.shape[0]), slice(0, tile.shape[1]))


def _needed(source: GeoBox, tile: GeoBox) -> Window | None:
    """Where the pixels of a tile come from: some of them are asked, inside the tile too."""
    rows, columns = (np.unique(np.r_[0 : int(n) : SAMPLE, int(n)]) for n in tile.shape)
    across, down = np.meshgrid(columns.astype(float), rows.astype(float))
    to_source = pyproj.Transformer.from_crs(crs_of(tile).proj, crs_of(source).proj, always_xy=True)
    placed = to_source.transform(*_placed(tile.transform, across, down))
    column, row = _placed(~source.transform, *map(np.asarray, placed))
    found = []
    for place, n in ((row, int(source.shape[0])), (column, int(source.shape[1]))):
        place = place[np.isfinite(place)]
        if not place.size:
            return None
        # As much again as lies between two that are asked, for what is bent between them.
        span = float(place.max() - place.min())
        more = PADDING + int(np.ceil(span / max(min(down.shape) - 1, 1)))
        first, stop = int(place.min()) - more, int(np.ceil(place.max())) + more
        if stop <= 0 or first >= n:
            return None
        found.append(slice(max(first, 0), min(stop, n)))
    return found[0], found[1]


def _placed(transform: Affine, x: Array, y: Array) -> tuple[Array, Array]:
    a, b, c, d, e, f = transform[:6]
    return a * x + b * y + c, d * x + e * y + f


def known(computed: xr.Dataset, name: str, nodata: float | None) -> tuple[Array, Mask]:
    """Values of a variable on a tile ``(..., y, x)``, and where there are any."""
    y, x = computed.odc.spatial_dims
    values = computed[name].transpose(..., y, x).values
    if _inside(name) in computed:
        return values, computed[_inside(name)].transpose(..., y, x).values > 0
    mask = ~np.isnan(values) if values.dtype.kind == "f" else np.ones(values.shape, bool)
    if nodata is not None and nodata == nodata:
        mask &= values != nodata
    return values, mask


def _inside(name: str) -> str:
    return f"{name} is inside"


def _aligned(one: GeoBox, other: GeoBox) -> bool:
    """Tell whether two grids have the same pixels, to a hundredth of one."""
    if one.crs != other.crs:
        return False
    a = ~other.transform @ one.transform
    square = np.allclose((a.a, a.b, a.d, a.e), (1, 0, 0, 1), rtol=0, atol=1e-6)
    return bool(square and np.allclose((a.c, a.f), np.round((a.c, a.f)), rtol=0, atol=0.01))
