"""Sinks: a stitched field to a georeferenced Zarr v3 group."""

from __future__ import annotations

import shutil
from pathlib import Path

import dask.array
import numpy as np
import odc.geo.xr  # noqa: F401 - registers .odc
import xarray as xr
import zarr
from odc.geo.geobox import GeoBox

from xgeocat.domain.geoslice import crs_of
from xgeocat.patching import graph
from xgeocat.patching.nodata import nodata_of

#: Chunk edge on disk: what a map viewer or a corner of the field reads.
CHUNK = 512
#: Edge of what one task writes, a whole number of chunks.
WRITE = 2048


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
    geobox = field.odc.geobox
    if not isinstance(geobox, GeoBox) or geobox.crs is None:
        raise ValueError(
            f"The result with dims {tuple(map(str, field.dims))} has no grid with a CRS, so it "
            "cannot be put on a map. Keep the y and x coordinates and spatial_ref in every step."
        )
    shutil.rmtree(path, ignore_errors=True)
    variables = {name: _prepared(var, geobox) for name, var in field.data_vars.items()}
    ready = xr.Dataset(variables, attrs={}).odc.assign_crs(geobox.crs)
    extra = [n for n, c in ready.coords.items() if c.dtype.kind == "O"]
    ready = ready.drop_vars(extra)
    encoding = {str(name): _encoding(var) for name, var in ready.data_vars.items()}
    for var in ready.data_vars.values():
        var.attrs.pop("nodata", None)
    _write_template(ready, path, encoding)
    for name, var in variables.items():
        target = zarr.open_array(path / str(name), mode="r+")
        if isinstance(var.data, np.ndarray):
            target[...] = var.data
        else:
            graph.write(var.data, target, label=str(path / str(name)))
    return geobox


def _write_template(ready: xr.Dataset, path: Path, encoding: dict[str, dict[str, object]]) -> None:
    """Write everything but the pixels: metadata, coordinates, grid mapping."""
    empty = ready.copy(
        data={
            name: var.data if var.chunks is not None else dask.array.empty(var.shape, var.dtype)
            for name, var in ready.data_vars.items()
        }
    )
    empty.to_zarr(
        path, mode="w", zarr_format=3, consolidated=False, encoding=encoding, compute=False
    )


def _prepared(var: xr.DataArray, geobox: GeoBox) -> xr.DataArray:
    """Bring a variable into chunks that are written whole, with the CRS said to GDAL."""
    y, x = geobox.dimensions
    var = var.transpose(..., y, x)
    if var.chunks is not None:
        aligned = all(c % CHUNK == 0 for dim in (y, x) for c in var.chunksizes[dim][:-1])
        if not aligned:
            var = var.chunk({y: WRITE, x: WRITE})
    crs = crs_of(geobox)
    nodata = nodata_of(var)
    attrs = {**var.attrs, "_CRS": {"wkt": crs.to_wkt(), "projjson": crs.proj.to_json_dict()}}
    attrs.pop("_FillValue", None)
    if nodata is None:
        attrs.pop("nodata", None)
    prepared = var.assign_attrs(attrs)
    prepared.encoding = {"grid_mapping": "spatial_ref"}
    return prepared


def _encoding(var: xr.DataArray) -> dict[str, object]:
    nodata = nodata_of(var)
    if nodata is None and var.dtype.kind == "f":
        nodata = np.nan
    edges = (1,) * (var.ndim - 2) + tuple(min(CHUNK, max(n, 1)) for n in var.shape[-2:])
    encoding: dict[str, object] = {"chunks": edges, "grid_mapping": "spatial_ref"}
    if nodata is not None:
        encoding["_FillValue"] = var.dtype.type(nodata)
        encoding["fill_value"] = var.dtype.type(nodata)
    return encoding
