"""Sinks: a stitched field to a georeferenced Zarr v3 group."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeAlias

import dask.array
import numpy as np
import odc.geo.xr
import xarray as xr
import zarr
from odc.geo.geobox import GeoBox

from xgeocat.domain.geoslice import crs_of
from xgeocat.patching import writing
from xgeocat.patching.nodata import nodata_of
from xgeocat.patching.tiling import Array
from xgeocat.runs.grid import WRITE, require_grid

if TYPE_CHECKING:
    from zarr.core.metadata import ArrayV3Metadata

ZarrArray: TypeAlias = "zarr.Array[ArrayV3Metadata]"

#: Chunk edge on disk: what a map viewer or a corner of the field reads.
CHUNK = 512
#: Attributes that are written anew, or that would tell a reader to scale what is not scaled.
OURS = ("nodata", "_FillValue", "missing_value", "grid_mapping", "scale_factor", "add_offset")


def write_zarr(field: xr.Dataset, path: Path) -> GeoBox:
    """Write a field as one Zarr v3 group, replacing what a broken attempt left there.

    Every chunk is written whole, by one task. Where it lies is said three times, because readers
    differ: a CF grid mapping (rioxarray, odc-geo), its GeoTransform, and the ``_CRS`` attribute
    of GDAL's Zarr driver (https://gdal.org/en/stable/drivers/raster/zarr.html).

    Parameters
    ----------
    field : Dataset
        On a regular grid with a CRS; dask-backed fields are streamed.
    path : Path
        Folder of the group.

    Returns
    -------
    GeoBox
        The grid written.

    Raises
    ------
    ValueError
        For a field without a regular grid or a CRS.
    """
    geobox = require_grid(field)
    shutil.rmtree(path, ignore_errors=True)
    variables = {name: _prepared(var, geobox) for name, var in field.data_vars.items()}
    ready = _with_grid_mapping(xr.Dataset(variables, attrs={}), geobox)
    encoding = {str(name): _encoding(var) for name, var in ready.data_vars.items()}
    for var in ready.data_vars.values():
        var.attrs.pop("nodata", None)
    _write_template(ready, path, encoding)
    lazy = {}
    for name, var in variables.items():
        target = _Chunks.open(path / str(name))
        if isinstance(var.data, np.ndarray):
            target[tuple(slice(0, n) for n in var.shape)] = var.data
        else:
            lazy[name] = (var.data, target)
    sources, targets = [s for s, _ in lazy.values()], [t for _, t in lazy.values()]
    writing.write(sources, targets, label=str(path))
    return geobox


@dataclass(frozen=True, slots=True)
class _Chunks:
    """An array whose chunks of nothing but fill value are not stored, which is looked for seldom.

    zarr compares all of every chunk with the fill value. One cell of each tells as well that none
    of them is empty, and most often none is.
    """

    seldom: ZarrArray
    always: ZarrArray

    @classmethod
    def open(cls, path: Path) -> Self:
        one, other = (
            zarr.open_array(path, mode="r+", config={"write_empty_chunks": empty})
            for empty in (True, False)
        )
        return cls(one, other)

    def __setitem__(self, region: tuple[slice, ...], values: Array) -> None:
        sample = values[tuple(slice(None, None, n) for n in self.seldom.chunks)]
        fill = self.seldom.fill_value
        maybe_empty = np.isnan(sample).any() if fill != fill else (sample == fill).any()
        (self.always if maybe_empty else self.seldom)[region] = values


def _with_grid_mapping(ready: xr.Dataset, geobox: GeoBox) -> xr.Dataset:
    """Give one grid mapping, with its GeoTransform, and text coordinates a dtype Zarr can hold."""
    mappings = [n for n, c in ready.coords.items() if {"crs_wkt", "spatial_ref"} & set(c.attrs)]
    spatial_ref = odc.geo.xr.xr_coords(geobox)["spatial_ref"]
    ready = ready.drop_vars(mappings).assign_coords(spatial_ref=spatial_ref)
    for name, coord in ready.coords.items():
        if coord.dtype.kind == "O":
            ready = ready.assign_coords({name: coord.astype(str)})
    return ready


def _write_template(ready: xr.Dataset, path: Path, encoding: dict[str, dict[str, object]]) -> None:
    """Write everything but the pixels: metadata, coordinates, grid mapping."""
    empty = ready.copy(
        data={
            name: var.data
            if var.chunks is not None
            else dask.array.empty(var.shape, dtype=var.dtype)
            for name, var in ready.data_vars.items()
        }
    )
    empty.to_zarr(
        path, mode="w", zarr_format=3, consolidated=False, encoding=encoding, compute=False
    )


def _prepared(var: xr.DataArray, geobox: GeoBox) -> xr.DataArray:
    """Bring a variable into chunks that are written whole, with the CRS said to GDAL."""
    y, x = var.odc.spatial_dims
    var = var.transpose(..., y, x)
    if var.chunks is not None:
        aligned = all(c % CHUNK == 0 for dim in (y, x) for c in var.chunksizes[dim][:-1])
        if not aligned:
            var = var.chunk({y: WRITE, x: WRITE})
    crs = crs_of(geobox)
    nodata = nodata_of(var)
    attrs = {k: v for k, v in var.attrs.items() if k not in OURS}
    if nodata is not None:
        attrs["nodata"] = nodata
    attrs["_CRS"] = {"wkt": crs.to_wkt(), "projjson": crs.proj.to_json_dict()}
    prepared = var.copy(deep=False)
    prepared.attrs = attrs
    prepared.encoding = {"grid_mapping": "spatial_ref"}
    return prepared


def _encoding(var: xr.DataArray) -> dict[str, object]:
    nodata = nodata_of(var)
    if nodata is None and var.dtype.kind == "f":
        nodata = np.nan
    edges = (1,) * (var.ndim - 2) + tuple(min(CHUNK, max(n, 1)) for n in var.shape[-2:])
    encoding: dict[str, object] = {"chunks": edges, "grid_mapping": "spatial_ref"}
    if nodata is None and var.dtype.kind in "iu":
        # Zarr wants a fill value, and GDAL takes it for nodata: then let it be an unlikely one.
        limits = np.iinfo(var.dtype)
        encoding["fill_value"] = limits.max if var.dtype.kind == "u" else limits.min
    if nodata is not None:
        encoding["_FillValue"] = var.dtype.type(nodata)
        encoding["fill_value"] = var.dtype.type(nodata)
    return encoding
