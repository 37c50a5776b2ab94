"""Query: the scenes that meet a place and a time."""

from __future__ import annotations

import xarray as xr
from odc.geo.geom import BoundingBox

from xgeocat.catalog.aoi import AOI, Request, aoi_geometry
from xgeocat.catalog.index import footprint_index
from xgeocat.catalog.interval import TimeLike, parse_interval
from xgeocat.catalog.provenance import moments, place, recorded
from xgeocat.catalog.schema import SCENE, require_catalog


def query(ds: xr.Dataset, aoi: AOI | None = None, time: TimeLike | None = None) -> xr.Dataset:
    """Select the scenes whose true footprint meets an AOI and whose time meets an interval.

    Parameters
    ----------
    ds : Dataset
        A catalog.
    aoi : bbox, shapely, GeoDataFrame, GeoBox, GeoSlice, GeoJSON or DataArray, optional
        Anything that can say where; see :func:`xgeocat.catalog.aoi.aoi_geometry`. Without a CRS
        it is read in the catalog's. A footprint that only touches it meets it.
    time : str, date, pair, slice, optional
        Closed interval, UTC; a bare date or month means all of it; see
        :func:`xgeocat.catalog.interval.parse_interval`. A GeoSlice brings its own.

    Returns
    -------
    Dataset
        The catalog of the matching scenes, in their order; empty if none matches. Its attrs say
        under ``geocat:provenance`` what was asked, and when.

    Raises
    ------
    TypeError
        When `ds` is no catalog or `aoi` does not say where.
    ValueError
        For an AOI or time that cannot be read.
    """
    ds = require_catalog(ds, "query")
    index = footprint_index(ds)
    geometry = None if aoi is None else aoi_geometry(aoi, index.crs, index.footprints.reach)
    interval = None if time is None else parse_interval(time)
    if interval is None and isinstance(aoi, Request):
        interval = aoi.interval
    found = ds.isel({SCENE: index.overlapping(geometry, interval)})
    if geometry is None and interval is None:
        return found
    where = None if aoi is None else place(aoi, index.crs)
    return recorded(found, "query", aoi=where, time=moments(interval))


def bounds(ds: xr.Dataset) -> BoundingBox | None:
    """Bounds of all footprints, in the catalog's CRS; None for an empty catalog."""
    index = footprint_index(require_catalog(ds, "bounds"))
    found = index.footprints.bounds
    return None if found is None else BoundingBox(*found, crs=index.crs.to_wkt())
