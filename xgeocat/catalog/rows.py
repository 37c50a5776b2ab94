"""Rows of a catalog drawn anew: other footprints and times, or another CRS."""

from __future__ import annotations

import json

import numpy as np
import pyproj
import shapely
import xarray as xr
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from xgeocat.catalog import schema
from xgeocat.catalog.aoi import CENTIMETRE, WGS84, Where, outline, reproject, same_crs
from xgeocat.catalog.index import Drawn, FootprintIndex, Geometries, Times, footprint_index
from xgeocat.catalog.overlap import clean
from xgeocat.catalog.sources import Json
from xgeocat.catalog.stac import (
    TIME_KEYS,
    bbox_of,
    crs_code,
    from_items,
    is_plain,
    iso_texts,
    item_rest,
    to_dicts,
)

#: Properties that tell a footprint once more.
DRAWN = ("proj:geometry", "proj:bbox", "proj:centroid")


def footprints_in(ds: xr.Dataset, index: FootprintIndex) -> Geometries:
    """Clean footprints of a catalog in the CRS of another one, near the footprints of that one.

    Those that are reprojected are so to the centimetre.
    """
    own = footprint_index(ds)
    geometry = clean(own.geometry)
    if same_crs(own.crs, index.crs):
        return geometry
    within = index.footprints.reach
    if within is None:
        # Nothing is near no footprint; to project all the same could fail.
        return np.full(len(geometry), None, dtype=object)
    for i in np.flatnonzero(shapely.is_geometry(geometry) & ~shapely.is_empty(geometry)):
        moved = reproject(Where(geometry[i], own.crs), index.crs, within)
        # Edges were cut up to be bent, and a thousand vertices make every clip slow.
        geometry[i] = shapely.simplify(moved, CENTIMETRE if index.crs.is_geographic else 0.01)
    return clean(geometry)


def in_crs(ds: xr.Dataset, crs: pyproj.CRS) -> xr.Dataset:
    """Draw the footprints of a catalog in another CRS, as :func:`from_items` would have."""
    index = footprint_index(ds)
    if same_crs(index.crs, crs):
        return ds
    built = from_items(to_dicts(ds), crs=crs)
    moved = FootprintIndex(Drawn(footprint_index(built).geometry, index.start, index.end), crs)
    return _with_index(ds, moved).assign({schema.ITEM_JSON: built[schema.ITEM_JSON].variable})


def redrawn(ds: xr.Dataset, geometry: Geometries, start: Times, end: Times) -> xr.Dataset:
    """Give the rows of a catalog other footprints and times.

    Parameters
    ----------
    ds : Dataset
        A catalog.
    geometry : numpy.ndarray of shapely geometries
        Shape ``(scene,)``, in its CRS. Where one is the very object of before, its row is.
    start, end : numpy.ndarray
        Shape ``(scene,)``, ``datetime64[us]``.

    Returns
    -------
    Dataset
        A catalog whose items say so too: geometry, bbox, times, and what else says where a
        footprint is.
    """
    old = footprint_index(ds)
    moved = np.array([new is not was for new, was in zip(geometry, old.geometry, strict=True)])
    timed = ~(_same(start, old.start) & _same(end, old.end))
    ids, texts = ds[schema.SCENE].values, ds[schema.ITEM_JSON].values.copy()
    # Not all rows: to read and write JSON takes longer than to cut footprints.
    for i in np.flatnonzero(moved.astype(bool) | timed):
        rest = item_rest(ids[i], texts[i])
        if moved[i]:
            _draw(rest, geometry[i], old.crs)
        if timed[i]:
            rest["properties"].update(_times(start[i], end[i]))
        texts[i] = item_text(rest)
    changed = _with_index(ds, FootprintIndex(Drawn(geometry, start, end), old.crs))
    return changed.assign({schema.ITEM_JSON: (schema.SCENE, texts)})


def _same(one: Times, other: Times) -> NDArray[np.bool_]:
    return (one == other) | (np.isnat(one) & np.isnat(other))


def _with_index(ds: xr.Dataset, index: FootprintIndex) -> xr.Dataset:
    names = [schema.GEOMETRY, schema.START, schema.END]
    out = ds.drop_vars(names).assign_coords(xr.Coordinates.from_xindex(index))
    for name in names:
        out[name].attrs.update(ds[name].attrs)
    return out


def _draw(rest: Json, geometry: BaseGeometry, crs: pyproj.CRS) -> None:
    drawn: Json = json.loads(shapely.to_geojson(outline(Where(geometry, crs))))
    rest.pop("geometry", None)
    rest["bbox"] = bbox_of(shapely.from_geojson(json.dumps(drawn)))
    properties = rest["properties"]
    for name in DRAWN:
        properties.pop(name, None)
    code = crs_code(properties)
    if not same_crs(crs, WGS84):
        rest["geometry"] = drawn
        if code and same_crs(pyproj.CRS.from_user_input(code), crs):
            properties["proj:geometry"] = json.loads(shapely.to_geojson(geometry))
    elif not is_plain(drawn):
        rest["geometry"] = drawn


def _times(start: np.datetime64, end: np.datetime64) -> dict[str, str | None]:
    first, last = iso_texts([start, end])
    return dict(zip(TIME_KEYS, (first if first == last else None, first, last), strict=True))


def item_text(rest: Json) -> str:
    """Write what is kept of an item in the order in which :func:`from_items` writes it."""
    kept = {k: v for k, v in rest.items() if k not in ("properties", "geometry")}
    kept.setdefault("stac_version", "1.0.0")
    kept.setdefault("links", [])
    kept["properties"] = rest["properties"]
    if "geometry" in rest:
        kept["geometry"] = rest["geometry"]
    return json.dumps(kept, separators=(",", ":"))
