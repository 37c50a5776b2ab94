"""What a raster file says of itself in its header."""

from __future__ import annotations

from dataclasses import dataclass

import pyproj
import rasterio
import shapely
from shapely.geometry.base import BaseGeometry

from xgeocat.catalog.remote import reading


@dataclass(frozen=True, slots=True)
class Header:
    """Grid and radiometry of a raster file, as GDAL reads them.

    Parameters
    ----------
    crs : str or None
        ``"EPSG:32610"`` where there is a code, else WKT; None for a file without a CRS.
    shape : (int, int)
        Rows, columns.
    transform : tuple of 6 floats
        Affine transform, pixel to CRS, row-major.
    dtypes : tuple of str
        One per band.
    nodata : tuple of (float or None)
        One per band.
    scales, offsets : tuple of float
        One per band.
    """

    crs: str | None
    shape: tuple[int, int]
    transform: tuple[float, ...]
    dtypes: tuple[str, ...]
    nodata: tuple[float | None, ...]
    scales: tuple[float, ...]
    offsets: tuple[float, ...]

    @property
    def footprint(self) -> BaseGeometry:
        """Outline of the grid, in the file's CRS."""
        a, b, c, d, e, f = self.transform
        rows, columns = self.shape
        corners = [(0, 0), (columns, 0), (columns, rows), (0, rows)]
        return shapely.Polygon([(a * x + b * y + c, d * x + e * y + f) for x, y in corners])


def read_header(href: str) -> Header:
    """Read the header of a raster file, without its pixels.

    Raises
    ------
    rasterio.errors.RasterioIOError
        When GDAL cannot open it.
    """
    with reading(), rasterio.open(href) as file:
        crs = None
        if file.crs is not None:
            authority = pyproj.CRS.from_wkt(file.crs.to_wkt()).to_authority()
            crs = ":".join(authority) if authority else file.crs.to_wkt()
        return Header(
            crs=crs,
            shape=(file.height, file.width),
            transform=tuple(file.transform)[:6],
            dtypes=tuple(file.dtypes),
            nodata=tuple(file.nodatavals),
            scales=tuple(file.scales),
            offsets=tuple(file.offsets),
        )
