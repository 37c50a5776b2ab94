"""The grid of an output: where it lies, and how it is divided among those who write it."""

from __future__ import annotations

from typing import TypeAlias

import xarray as xr
from odc.geo.geobox import GeoBox

from xgeocat.domain.geoslice import regular_geobox

#: Edge of what one task writes, in pixels: a whole number of chunks or tiles.
WRITE = 2048
#: Rows and columns of a part of a grid.
Window: TypeAlias = tuple[slice, slice]


def require_grid(field: xr.Dataset) -> GeoBox:
    """Return the grid of a field; a ValueError for one without a regular grid or a CRS."""
    geobox = regular_geobox(field)
    if geobox is None:
        raise ValueError(
            f"The result with dims {tuple(map(str, field.dims))} has no regular grid with a CRS, "
            "so it cannot be put on a map. Keep the y and x coordinates and spatial_ref in every "
            "step."
        )
    return geobox


def windows(shape: tuple[int, int], edge: int) -> list[Window]:
    """Divide a grid into squares, the last ones of which may be smaller; row by row."""
    rows, columns = ([slice(i, min(i + edge, n)) for i in range(0, n, edge)] for n in shape)
    return [(row, column) for row in rows for column in columns]
