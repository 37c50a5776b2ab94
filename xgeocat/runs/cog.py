"""Cloud-Optimized GeoTIFFs: a stitched field, one file for each variable.

https://docs.ogc.org/is/21-026/21-026.html. A COG has its overviews before its pixels, so it cannot
be written front to back while these come. They are written to a plain tiled file first, block by
block, of which GDAL then makes the COG (https://gdal.org/en/stable/drivers/raster/cog.html), tile
by tile: disk, and not memory, is what it takes twice. What GDAL could not write it may find out as
it closes a file, and rasterio says nothing of that: so the COG is read again.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from threading import Lock
from typing import TypeAlias

import numpy as np
import rasterio
import rasterio.shutil
import xarray as xr
from odc.geo.geobox import GeoBox
from rasterio.io import DatasetWriter
from rasterio.windows import Window

from xgeocat.domain.geoslice import crs_of
from xgeocat.patching import writing
from xgeocat.patching.nodata import nodata_of
from xgeocat.patching.tiling import Array
from xgeocat.runs.grid import WRITE, require_grid
from xgeocat.runs.room import Writer, writer

#: Edge of a tile; what a map viewer reads.
TILE = 512
#: Memory that GDAL may use for blocks, in bytes.
CACHE = 64 << 20
#: What a GeoTIFF has no dtype for, and what holds all its values.
WIDER: dict[str, np.dtype] = {"bool": np.dtype(np.uint8), "float16": np.dtype(np.float32)}

#: Checksum of each tile: (band, row, column) of its first pixel.
Sums: TypeAlias = "dict[tuple[int, int, int], int]"


def write_cogs(field: xr.Dataset, path: Path) -> GeoBox:
    """Write a field as Cloud-Optimized GeoTIFFs, ``path/<variable>.tif``.

    Dimensions before ``(y, x)`` become bands, described by their labels. Tiles are compressed
    (deflate), nodata is declared (NaN for floats), and overviews are of averages for floats, of
    every second pixel for all others.

    Parameters
    ----------
    field : Dataset
        On a regular grid with a CRS; dask-backed fields are streamed.
    path : Path
        Folder; made where there is none.

    Returns
    -------
    GeoBox
        The grid written.

    Raises
    ------
    ValueError
        For a field without a regular grid or a CRS, or of a dtype that GeoTIFF has not.
    OSError
        When it could not be written; ``ENOSPC`` where that is for want of room.
    """
    geobox = require_grid(field)
    for name, var in field.data_vars.items():
        _require_dtype(str(name), var.dtype)
    path.mkdir(parents=True, exist_ok=True)
    # A COG that cannot be compressed takes this much, with what its overviews are made in.
    with rasterio.Env(GDAL_CACHEMAX=CACHE), writer(2 * field.nbytes) as me:
        for name, var in field.data_vars.items():
            plain, made = path / f".{name}.plain.tif", path / f"{name}.tif"
            sums = _write_plain(var.transpose(..., *var.odc.spatial_dims), geobox, plain, me)
            with me.writing(made):
                rasterio.shutil.copy(
                    plain,
                    made,
                    driver="COG",
                    compress="deflate",
                    blocksize=TILE,
                    bigtiff="if_safer",
                    num_threads="all_cpus",
                    overview_resampling="average" if var.dtype.kind == "f" else "nearest",
                )
                _require_whole(made, sums)
            plain.unlink()
    return geobox


def _require_dtype(name: str, dtype: np.dtype) -> None:
    if dtype.name not in WIDER and not rasterio.dtypes.check_dtype(dtype):
        raise ValueError(
            f"{name!r} is {dtype}, which a GeoTIFF cannot hold. Cast it in the pipeline, or write "
            "Zarr: sink='zarr'."
        )


def _require_whole(path: Path, sums: Sums) -> None:
    """Read all tiles, those of the overviews too."""
    with rasterio.open(path) as file:
        for (band, row, column), wanted in sums.items():
            window = Window(column, row, TILE, TILE).intersection(Window(0, 0, *file.shape[::-1]))
            if _sum(file.read(band, window=window)) != wanted:
                raise OSError(f"band {band} at row {row}, column {column} is not what was written")
        levels = len(file.overviews(1))
    for level in range(levels):
        with rasterio.open(path, overview_level=level) as file:
            for band, (_, window) in product(file.indexes, file.block_windows(1)):
                file.read(band, window=window)


def _sum(tile: Array) -> int:
    """Checksum of values; GDAL does not tell one NaN, or one zero, from another."""
    if tile.dtype.kind in "fc":
        tile = np.where(np.isnan(tile), tile.dtype.type(np.nan), tile + tile.dtype.type(0))
    return zlib.crc32(tile.tobytes())


def _write_plain(var: xr.DataArray, geobox: GeoBox, path: Path, me: Writer) -> Sums:
    """Write the pixels as they come; return what to look for in the COG."""
    dtype = WIDER.get(var.dtype.name, var.dtype)
    nodata = nodata_of(var)
    if nodata is None and var.dtype.kind == "f":
        nodata = np.nan
    lengths = var.shape[:-2]
    sums: Sums = {}
    with me.writing(path):
        file = rasterio.open(
            path,
            "w",
            driver="GTiff",
            height=geobox.shape.y,
            width=geobox.shape.x,
            count=int(np.prod(lengths)),
            dtype=dtype,
            crs=crs_of(geobox).to_wkt(),
            transform=geobox.transform,
            nodata=nodata,
            tiled=True,
            blockxsize=TILE,
            blockysize=TILE,
            bigtiff="if_safer",
            sparse_ok=True,
        )
    with file:
        for band, label in enumerate(_labels(var), start=1):
            file.set_band_description(band, label)
        target = _Bands(file, lengths, np.dtype(dtype), me, Lock(), sums)
        if var.chunks is None:
            target[tuple(slice(0, n) for n in var.shape)] = var.values
        else:
            y, x = var.dims[-2:]
            aligned = all(c % TILE == 0 for dim in (y, x) for c in var.chunksizes[dim][:-1])
            lazy = var if aligned else var.chunk({y: WRITE, x: WRITE})
            writing.write([lazy.data], [target], label=str(path))
    return sums


def _labels(var: xr.DataArray) -> Iterator[str]:
    """What the bands are: ``red``, or ``2024-06-01, red``."""
    dims = var.dims[:-2]
    for place in product(*(range(var.sizes[dim]) for dim in dims)):
        labels = (
            str(var[dim].values[i]) if dim in var.coords else f"{dim} {i}"
            for dim, i in zip(dims, place, strict=True)
        )
        yield ", ".join(labels) or str(var.name)


@dataclass(frozen=True, slots=True)
class _Bands:
    """A file that takes blocks of ``(..., y, x)``, one at a time: GDAL files are of one thread."""

    file: DatasetWriter
    lengths: tuple[int, ...]
    dtype: np.dtype
    me: Writer
    lock: Lock
    sums: Sums

    def __setitem__(self, region: tuple[slice, ...], values: Array) -> None:
        *outer, rows, columns = region
        window = Window.from_slices(rows, columns)
        places = product(*(range(s.start, s.stop) for s in outer))
        planes = values.reshape(-1, *values.shape[-2:]).astype(self.dtype, copy=False)
        tiles = list(product(range(0, planes.shape[1], TILE), range(0, planes.shape[2], TILE)))
        with self.lock, self.me.writing(Path(self.file.name)):
            for place, plane in zip(places, planes, strict=True):
                band = 1 + (int(np.ravel_multi_index(place, self.lengths)) if place else 0)
                self.file.write(plane, band, window=window)
                for y, x in tiles:
                    at = band, rows.start + y, columns.start + x
                    self.sums[at] = _sum(plane[y : y + TILE, x : x + TILE])
