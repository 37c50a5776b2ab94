"""STAC items of what a run made, and of what it failed to make."""

from __future__ import annotations

import json
import traceback
from pathlib import Path

import numpy as np
import pyproj
import shapely
import xarray as xr
from odc.geo.geobox import GeoBox

from xgeocat.catalog.aoi import WGS84, Where, reproject
from xgeocat.catalog.sources import Json
from xgeocat.domain.geoslice import GeoSlice, crs_code, crs_of
from xgeocat.patching.nodata import nodata_of
from xgeocat.runs.ledger import DATA

ZARR_TYPE = "application/vnd+zarr; version=3"


def output_item(piece: GeoSlice, field: xr.Dataset, geobox: GeoBox, path: Path) -> Json:
    """Describe the output of one slice, with hrefs relative to the folder of the run."""
    grid = {
        "proj:code": crs_code(geobox),
        "proj:shape": list(geobox.shape),
        "proj:transform": list(geobox.transform)[:6],
    }
    item = _item(piece, geobox)
    for name, var in field.data_vars.items():
        nodata = nodata_of(var)
        if nodata is None and var.dtype.kind == "f":
            nodata = np.nan
        # Said even where there is none: readers must not take the source's for it.
        about: Json = {
            "data_type": str(var.dtype),
            "raster:scale": float(var.attrs.get("scale", 1)),
            "raster:offset": float(var.attrs.get("offset", 0)),
        }
        if nodata is not None:
            about["nodata"] = nodata if np.isfinite(nodata) else str(nodata)
        item["assets"][str(name)] = {
            "href": f"{DATA}/{path.name}/{name}",
            "type": ZARR_TYPE,
            "roles": ["data"],
            **grid,
            **about,
        }
    return item


def failure_item(piece: GeoSlice, step: str, tries: int, cause: BaseException) -> Json:
    """Describe a slice that failed."""
    item = _item(piece, piece.geobox)
    item["properties"] |= {
        "failure:step": step,
        "failure:error": type(cause).__name__,
        "failure:message": _message(cause),
        "failure:tries": tries,
        "failure:traceback": "".join(traceback.format_exception(cause)),
    }
    return item


def _message(error: BaseException) -> str:
    """Message of an error with those it comes from; rasterio says which file only in the latter."""
    said: list[str] = []
    current: BaseException | None = error
    while current is not None:
        said += [str(current)] if str(current) not in said else []
        current = current.__cause__ or current.__context__
    return " <- ".join(said)


def _item(piece: GeoSlice, geobox: GeoBox) -> Json:
    geometry = piece.footprint
    if geometry is None:
        crs = pyproj.CRS.from_user_input(crs_of(geobox).to_wkt())
        geometry = reproject(Where(geobox.extent.geom, crs), WGS84)
    start, end = (
        (None, None)
        if piece.interval is None
        else (f"{np.datetime_as_string(t, unit='us')}Z" for t in piece.interval)
    )
    times = (
        {"datetime": start}
        if start == end
        else {"datetime": None, "start_datetime": start, "end_datetime": end}
    )
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "id": piece.name,
        "geometry": json.loads(shapely.to_geojson(geometry)),
        "bbox": list(geometry.bounds),
        "properties": {**piece.properties, **times},
        "links": [],
        "assets": {},
    }
