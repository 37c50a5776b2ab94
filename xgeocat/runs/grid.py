"""The grid of an output: where it lies, and how much of it one task writes."""

from __future__ import annotations

import xarray as xr
from odc.geo.geobox import GeoBox

from xgeocat.domain.geoslice import regular_geobox

#: Edge of what one task writes, in pixels: a whole number of chunks or tiles.
WRITE = 2048


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
