"""Overviews: a stored field at half its resolution, at half of that, and on down to one chunk.

They stand in groups of their own beside the field, ``1``, ``2``, ..., each like it in all else; the
group of the field says which there are, as the multiscales convention of Zarr has it
(https://github.com/zarr-conventions/multiscales/blob/v0.1/README.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

import dask.array
import numpy as np
import odc.geo.xr
import xarray as xr
import zarr
from affine import Affine
from odc.geo.geobox import GeoBox

from xgeocat.catalog.sources import Json
from xgeocat.patching.nodata import nodata_of
from xgeocat.patching.tiling import Array
from xgeocat.runs.grid import WRITE, require_grid
from xgeocat.runs.store import Layout, write_zarr

if TYPE_CHECKING:
    from zarr.abc.store import Store

CONVENTION = {
    "uuid": "d35379db-88df-4056-af3a-620245f8e347",
    "schema_url": "https://raw.githubusercontent.com/zarr-conventions/multiscales/refs/tags/v0.1/"
    "schema.json",
    "spec_url": "https://github.com/zarr-conventions/multiscales/blob/v0.1/README.md",
    "name": "multiscales",
}


def grids(geobox: GeoBox, edge: int) -> list[GeoBox]:
    """Grids of the overviews: each half as fine as the one before, the last of one chunk."""
    found = [geobox]
    while max(found[-1].shape) > edge:
        rows, columns = found[-1].shape
        halved = found[-1].affine @ Affine.scale(2)
        found.append(GeoBox((-(-rows // 2), -(-columns // 2)), halved, geobox.crs))
    return found[1:]


def described(field: xr.Dataset, edge: int) -> Json:
    """What the group of a field says of its overviews; nothing where it has none."""
    geobox = require_grid(field)
    below = grids(geobox, edge)
    if not below:
        return {}
    levels: list[Json] = []
    for name in map(str, field.data_vars):
        paths = [name, *(f"{level}/{name}" for level in range(1, len(below) + 1))]
        for path, finer, grid in zip(paths, ["", *paths], [geobox, *below], strict=False):
            level: Json = {"asset": path, "transform": {"scale": [2.0, 2.0]}, "derived_from": finer}
            if not finer:
                level = {"asset": path, "transform": {"scale": [1.0, 1.0]}}
            else:
                level["resampling_method"] = method(field[name].dtype)
            levels.append(
                level | {"proj:shape": list(grid.shape), "proj:transform": list(grid.transform)[:6]}
            )
    return {"zarr_conventions": [CONVENTION], "multiscales": {"layout": levels}}


def method(dtype: np.dtype) -> str:
    """How four cells become one: averages of floats, of all others the first, as in our COGs."""
    return "average" if dtype.kind == "f" else "nearest"


def write_overviews(field: xr.Dataset, store: Store, layout: Layout) -> None:
    """Write the overviews of a field that is stored whole; done again, they are the same.

    Parameters
    ----------
    field : Dataset
        As it was given to :func:`xgeocat.runs.store.write_zarr`; pixels are read from the store.
    store : Store
        Where it is.
    layout : Layout
        How arrays are stored.
    """
    for level, grid in enumerate(grids(require_grid(field), layout.chunk), start=1):
        finer = "" if level == 1 else f"{level - 1}/"
        made = {
            name: _halved(var, _stored(store, f"{finer}{name}", layout), grid)
            for name, var in field.data_vars.items()
        }
        write_zarr(xr.Dataset(made), store, layout, group=f"{level}/")


def _stored(store: Store, path: str, layout: Layout) -> dask.array.Array:
    """An array in blocks of which four are whole chunks of the next one."""
    array = zarr.open_array(store, path=path, mode="r")
    edge = 2 * layout.edge
    block = -(-WRITE // edge) * edge
    chunks = (1,) * (len(array.shape) - 2) + (block, block)
    return dask.array.from_array(array, chunks=chunks, name=False)


def _halved(var: xr.DataArray, stored: dask.array.Array, grid: GeoBox) -> xr.DataArray:
    y, x = var.odc.spatial_dims
    like = var.transpose(..., y, x)
    chunks = (*stored.chunks[:-2], *(_halves(sizes) for sizes in stored.chunks[-2:]))
    data = dask.array.map_blocks(
        partial(halve, nodata=nodata_of(var)), stored, chunks=chunks, dtype=stored.dtype
    )
    coords = {n: c for n, c in like.coords.items() if not {y, x} & {*c.dims} and n not in (y, x)}
    made = xr.DataArray(data, coords, like.dims, attrs=like.attrs)
    made.encoding = like.encoding
    return made.assign_coords(odc.geo.xr.xr_coords(grid, dims=(y, x)))


def _halves(sizes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(-(-size // 2) for size in sizes)


def halve(values: Array, nodata: float | None) -> Array:
    """Make one cell of four, or of what is left of them at an edge.

    Parameters
    ----------
    values : numpy.ndarray
        Shape ``(..., y, x)``.
    nodata : float or None
        What is no value, beside NaN.

    Returns
    -------
    numpy.ndarray
        Shape ``(..., ceil(y / 2), ceil(x / 2))``, of the same dtype: averages of the floats that
        are known, nodata (or NaN) where none is; of all others the first of the four.
    """
    if method(values.dtype) == "nearest":
        return values[..., ::2, ::2]
    total = np.zeros((*values.shape[:-2], *_halves(values.shape[-2:])), np.float64)
    count = np.zeros(total.shape, np.uint8)
    for quarter, rows, columns in _quarters(values):
        known = ~np.isnan(quarter)
        if nodata is not None:
            known &= quarter != nodata
        place = (..., slice(rows), slice(columns))
        total[place] += np.where(known, quarter, 0)
        count[place] += known
    made = total / np.maximum(count, 1)
    made[count == 0] = np.nan if nodata is None else nodata
    return made.astype(values.dtype)


def _quarters(values: Array) -> Iterator[tuple[Array, int, int]]:
    """One of each four cells, and how many rows and columns of such there are."""
    for row in (0, 1):
        for column in (0, 1):
            quarter = values[..., row::2, column::2]
            yield quarter, quarter.shape[-2], quarter.shape[-1]
