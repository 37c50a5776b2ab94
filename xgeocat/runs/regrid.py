"""Regrid: a prediction on the part of a common grid that it meets."""

from __future__ import annotations

import numpy as np
import odc.geo.xr  # noqa: F401 - registers .odc
import xarray as xr
from odc.geo.geobox import GeoBox
from odc.geo.overlap import compute_reproject_roi

from xgeocat.patching.nodata import nodata_of
from xgeocat.patching.tiling import Array
from xgeocat.runs.accumulate import Mask
from xgeocat.runs.grid import Window, require_grid

#: Source pixels around those that are needed, for resampling at the edge.
PADDING = 4


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
    found = compute_reproject_roi(source, tile, padding=0 if _aligned(source, tile) else PADDING)
    rows, columns = (slice(s.start, s.stop) for s in found.roi_dst)
    if rows.stop <= rows.start or columns.stop <= columns.start:
        return None
    part = field.isel({y: found.roi_src[0], x: found.roi_src[1]})
    if _aligned(source, tile):
        return part, (rows, columns)
    onto = tile[rows, columns]
    made = {}
    for name, var in part.data_vars.items():
        plain = var.astype(np.uint8) if var.dtype.kind == "b" else var
        made[str(name)] = plain.odc.reproject(onto, resampling=resampling)
        if var.dtype.kind != "f" and nodata_of(var) is None:
            inside = xr.ones_like(plain, np.uint8).assign_attrs(nodata=0)
            made[_inside(str(name))] = inside.odc.reproject(onto, resampling="nearest")
    return xr.Dataset(made), (rows, columns)


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
