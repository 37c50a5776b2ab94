"""Across: read a raster onto a grid where one of the two crosses the antimeridian or a pole."""

from __future__ import annotations

from functools import lru_cache

import dask.array as da
import numpy as np
import odc.geo.xr
import pyproj
import rasterio
import xarray as xr
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.env import getenv, hasenv
from rasterio.vrt import WarpedVRT
from rasterio.warp import Resampling

from xgeocat.catalog.remote import reading
from xgeocat.domain.bands import Band
from xgeocat.domain.geoslice import crs_of
from xgeocat.patching.tiling import Array

#: Points along each edge of a grid that are asked for their longitude.
POINTS = 65
#: What may not be named in a `rasterio.Env`; GDAL has it from the environment.
CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")


def is_cut(source: GeoBox, target: GeoBox) -> bool:
    """Tell whether longitudes jump between two grids, so that one lies in pieces on the other.

    odc-stac looks for the part of a grid that a raster reaches by the outline of the raster there,
    and with it loses pixels on both sides of the jump.
    """
    if _turns(target) or _turns(source):
        return True
    return source.crs != target.crs and (_crosses(source) or _crosses(target))


def load_across(band: Band, geobox: GeoBox, resampling: str, chunks: int) -> xr.DataArray:
    """Read a band onto any grid, lazily, by asking of each cell where it comes from.

    Parameters
    ----------
    band : Band
        Of a raster file.
    geobox : GeoBox
        The grid. In degrees it may count beyond 180.
    resampling : str
        A GDAL resampling name.
    chunks : int
        Chunk edge in pixels.

    Returns
    -------
    DataArray
        Dims ``(y, x)``, dask-backed, of the stored dtype; where the raster does not reach, nodata,
        or NaN, or 0 where an integer has none.
    """
    dtype = np.dtype(band.dtype)
    options = {k: v for k, v in (getenv() if hasenv() else {}).items() if k not in CREDENTIALS}
    blocks = da.core.normalize_chunks((chunks, chunks), tuple(map(int, geobox.shape)))
    cells = da.map_blocks(
        _read,
        band=band,
        geobox=geobox,
        resampling=Resampling[resampling],
        options=options,
        chunks=blocks,
        dtype=dtype,
        meta=np.empty((0, 0), dtype),
    )
    return odc.geo.xr.wrap_xr(cells, geobox, nodata=band.nodata)


def _read(
    band: Band,
    geobox: GeoBox,
    resampling: Resampling,
    options: dict[str, str],
    block_info: dict[None, dict[str, list[tuple[int, int]]]],
) -> Array:
    """Read one block."""
    rows, columns = (slice(*ends) for ends in block_info[None]["array-location"])
    block = geobox[rows, columns]
    dtype = np.dtype(band.dtype)
    fill = band.nodata
    if fill is None:
        fill = np.nan if dtype.kind == "f" else 0
    made = np.full(block.shape, fill, dtype)
    with rasterio.Env(**options), reading(), rasterio.open(band.href) as file:
        # Degrees are numbers to PROJ: a raster in degrees is where it says, and one turn further.
        turns = (0, -360, 360) if crs_of(band.geobox).geographic else (0,)
        for turn in turns if crs_of(block).geographic else (0,):
            with WarpedVRT(
                file,
                src_crs=file.crs or crs_of(band.geobox).to_wkt(),
                crs=crs_of(block).to_wkt(),
                transform=Affine.translation(turn, 0) @ block.transform,
                width=int(block.shape[1]),
                height=int(block.shape[0]),
                resampling=resampling,
                src_nodata=band.nodata,
                nodata=fill,
                # Exactly: what is interpolated over a block would depend on the chunks.
                tolerance=1e-6,
            ) as warped:
                there = warped.read(band.index)
            np.copyto(made, there, where=np.isnan(made) if fill != fill else made == fill)
    return made


def _turns(geobox: GeoBox) -> bool:
    """Tell whether a grid in degrees counts beyond 180."""
    if not crs_of(geobox).geographic:
        return False
    box = geobox.boundingbox
    return bool(box.left < -180 - 1e-9 or box.right > 180 + 1e-9)


@lru_cache(maxsize=4096)
def _crosses(geobox: GeoBox) -> bool:
    """Tell whether longitudes jump along the outline of a grid, or it has a pole in it."""
    crs = crs_of(geobox)
    if crs.geographic:
        return False
    rows, columns = map(int, geobox.shape)
    along = np.linspace(0, 1, POINTS)
    zero, one = np.zeros(POINTS), np.ones(POINTS)
    x = np.r_[along, one, along[::-1], zero] * columns
    y = np.r_[zero, along, one, along[::-1]] * rows
    to_wgs84 = pyproj.Transformer.from_crs(crs.to_wkt(), 4326, always_xy=True)
    longitude: NDArray[np.float64] = np.asarray(to_wgs84.transform(*_placed(geobox, x, y))[0])
    return bool((np.abs(np.diff(longitude)) > 180).any())


def _placed(geobox: GeoBox, x: Array, y: Array) -> tuple[Array, Array]:
    a, b, c, d, e, f = geobox.transform[:6]
    return a * x + b * y + c, d * x + e * y + f
