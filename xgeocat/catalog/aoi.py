"""AOI: anything that can say where, as a geometry in the CRS of a catalog."""

from __future__ import annotations

import json
import threading
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol, TypeAlias, runtime_checkable

import antimeridian
import geopandas as gpd
import numpy as np
import pyproj
import shapely
import xarray as xr
from odc.geo.geobox import GeoBox
from odc.geo.geom import BoundingBox, Geometry
from shapely.geometry.base import BaseGeometry

from xgeocat.catalog.interval import Interval

WGS84 = pyproj.CRS.from_epsg(4326)

#: Edges are cut into at least this many pieces over the AOI's extent before reprojection: the
#: error of a straight piece falls with its square, to centimetres over one Sentinel-2 tile.
PIECES = 256
#: And into none longer than this, in units of a projected and of a geographic CRS, so that a part
#: of a wide AOI is as exact as alone.
LONGEST = (5_000.0, 0.05)
#: In degrees of latitude.
CENTIMETRE = 1e-7


@runtime_checkable
class Request(Protocol):
    """What a slice of a domain says of itself; see `xgeocat.domain.geoslice.GeoSlice`."""

    @property
    def crs(self) -> object: ...
    @property
    def bounds(self) -> tuple[float, float, float, float]: ...
    @property
    def interval(self) -> Interval | None: ...


AOI: TypeAlias = (
    tuple[float, float, float, float]
    | BaseGeometry
    | gpd.GeoDataFrame
    | gpd.GeoSeries
    | Geometry
    | GeoBox
    | Request
    | Mapping[str, object]
    | xr.DataArray
    | xr.Dataset
)


@dataclass(frozen=True, slots=True)
class Where:
    """A place: a valid geometry and its CRS (None: it carries none)."""

    geometry: BaseGeometry
    crs: pyproj.CRS | None


def aoi_geometry(
    aoi: AOI, crs: pyproj.CRS, within: tuple[float, float, float, float] | None = None
) -> BaseGeometry:
    """Return an AOI as a geometry in `crs`.

    Parameters
    ----------
    aoi : bbox, shapely, GeoDataFrame, GeoSeries, odc Geometry, GeoBox, GeoSlice, GeoJSON, DataArray
        A bbox is ``(west, south, east, north)``; ``west > east`` crosses the antimeridian in a
        geographic CRS. GeoJSON is in WGS 84, as RFC 7946 says. An AOI that carries no CRS is read
        in `crs`.
    crs : pyproj.CRS
        CRS of the result.
    within : tuple of float, optional
        Bounds in `crs` of all that the result is compared with. A geographic AOI is clipped to
        their neighbourhood before it is projected, because projections fold far from home.

    Returns
    -------
    shapely.Geometry
        Valid, with edges densified before they were reprojected, and cut at the antimeridian.

    Raises
    ------
    ValueError
        For an AOI that is empty, not finite, upside down, or out of range without a CRS.
    TypeError
        For something that does not say where.
    """
    where = locate(aoi)
    if where.crs is None:
        if not crs.is_geographic and _crosses(aoi):
            raise ValueError(
                f"The bbox {aoi!r} has west > east, and carries no CRS, so it is read in the "
                f"catalog's {crs.to_string()}, whose numbers are no longitudes. Give its CRS."
            )
        _require_in_range(where.geometry, crs)
        where = Where(where.geometry, crs)
    return reproject(where, crs, within)


def _crosses(aoi: object) -> bool:
    return isinstance(aoi, (tuple, list, np.ndarray)) and len(aoi) == 4 and aoi[0] > aoi[2]


def locate(aoi: AOI) -> Where:
    """Read an AOI as geometry and CRS, as it comes; see :func:`aoi_geometry`."""
    where = _read(aoi)
    geometry = where.geometry
    if geometry is None or geometry.is_empty:
        raise ValueError(f"The AOI is empty: {aoi!r:.200}. Give one that covers some place.")
    if not np.isfinite(shapely.get_coordinates(geometry)).all():
        raise ValueError(f"The AOI has coordinates that are not finite: {aoi!r:.200}.")
    valid = geometry if geometry.is_valid else shapely.make_valid(geometry)
    return Where(valid, where.crs)


def _read(aoi: AOI) -> Where:
    if isinstance(aoi, BaseGeometry):
        return Where(aoi, None)
    if isinstance(aoi, (gpd.GeoDataFrame, gpd.GeoSeries)):
        return Where(aoi.geometry.union_all(), aoi.crs)
    if isinstance(aoi, Geometry):
        return Where(aoi.geom, _pyproj(aoi.crs))
    if isinstance(aoi, BoundingBox):
        return Where(_box(aoi.bbox), _pyproj(aoi.crs))
    if isinstance(aoi, GeoBox):
        return Where(aoi.extent.geom, _pyproj(aoi.crs))
    if isinstance(aoi, (xr.DataArray, xr.Dataset)):
        return _read_grid(aoi)
    if isinstance(aoi, Mapping):
        return _read_geojson(aoi)
    if isinstance(aoi, Request):
        return Where(_box(aoi.bounds), _pyproj(aoi.crs))
    if isinstance(aoi, (tuple, list, np.ndarray)) and len(aoi) == 4:
        try:
            return Where(_box(tuple(float(v) for v in aoi)), None)
        except TypeError as error:
            raise ValueError(f"The bbox {aoi!r} has parts that are no numbers.") from error
    raise TypeError(
        f"{type(aoi).__name__} does not say where: {aoi!r:.120}. An AOI is a bbox (west, south, "
        "east, north), a shapely geometry, GeoDataFrame, GeoBox, GeoSlice, GeoJSON mapping, or a "
        "DataArray with a CRS."
    )


def _pyproj(crs: object) -> pyproj.CRS | None:
    return None if crs is None else pyproj.CRS.from_user_input(getattr(crs, "proj", crs))


def _box(bounds: tuple[float, ...]) -> BaseGeometry:
    west, south, east, north = bounds
    if south > north:
        raise ValueError(
            f"The bbox {tuple(bounds)} has south > north; its order is west, south, east, north."
        )
    if west > east:
        # Only longitudes wrap; that the CRS is geographic shows in the range of the numbers.
        if max(abs(west), abs(east)) > 180:
            raise ValueError(
                f"The bbox {tuple(bounds)} has west > east, which is only read as crossing the "
                "antimeridian for longitudes in -180..180."
            )
        parts = [shapely.box(west, south, 180, north), shapely.box(-180, south, east, north)]
        return shapely.MultiPolygon(parts)
    if west == east or south == north:
        return (
            shapely.LineString([(west, south), (east, north)])
            if (west, south) != (east, north)
            else shapely.Point(west, south)
        )
    return shapely.box(west, south, east, north)


def _read_grid(field: xr.DataArray | xr.Dataset) -> Where:
    import odc.geo.xr  # noqa: F401 - registers .odc

    geobox = field.odc.geobox
    if geobox is None:
        raise ValueError(
            f"The {type(field).__name__} with dims {tuple(map(str, field.dims))} has no regular "
            "grid to take the place from. Give its y and x coordinates and a CRS "
            "(.odc.assign_crs)."
        )
    return Where(geobox.extent.geom, _pyproj(geobox.crs))


def _read_geojson(geojson: Mapping[Any, Any]) -> Where:
    kind = geojson.get("type")
    try:
        if kind == "FeatureCollection":
            parts = [
                shapely.from_geojson(json.dumps(f["geometry"]))
                for f in geojson["features"]
                if f["geometry"] is not None
            ]
            geometry = shapely.union_all(parts)
        else:
            body = geojson["geometry"] if kind == "Feature" else geojson
            geometry = shapely.from_geojson(json.dumps(body))
    except (KeyError, TypeError, shapely.errors.GEOSException) as error:
        raise ValueError(
            f"The mapping with keys {sorted(map(str, geojson))} is no GeoJSON ({error}); give a "
            "geometry, Feature or FeatureCollection."
        ) from error
    return Where(geometry, WGS84)


def _require_in_range(geometry: BaseGeometry, crs: pyproj.CRS) -> None:
    west, south, east, north = geometry.bounds
    if crs.is_geographic and (max(abs(west), abs(east)) > 360 or max(abs(south), abs(north)) > 90):
        raise ValueError(
            f"The AOI carries no CRS, so it is read in the catalog's {crs.to_string()}, where its "
            f"bounds {geometry.bounds} are out of range. Give its CRS, e.g. as "
            "gpd.GeoSeries([aoi], crs='EPSG:32610') or GeoSlice(bounds=..., crs=...)."
        )


def reproject(
    where: Where, crs: pyproj.CRS, within: tuple[float, float, float, float] | None = None
) -> BaseGeometry:
    """Reproject a place, with densified edges; see :func:`aoi_geometry`."""
    geometry, source = where.geometry, where.crs
    if source is None or same_crs(source, crs):
        # An AOI may be wider than half the globe, so a long edge says nothing about crossing.
        return cut_at_antimeridian(geometry, long_edges=False) if crs.is_geographic else geometry
    if source.is_geographic:
        geometry = cut_at_antimeridian(geometry, long_edges=False)
    if not crs.is_geographic and within is not None:
        if not source.is_geographic:
            # By way of degrees, where it can be clipped: projections fold far from home.
            geometry, source = reproject(Where(geometry, source), WGS84), WGS84
        geometry = shapely.intersection(geometry, _neighbourhood(within, crs, source))
        if geometry.is_empty:
            return geometry
    west, south, east, north = geometry.bounds
    step = min(max(east - west, north - south) / PIECES, LONGEST[source.is_geographic])
    if step > 0:
        geometry = shapely.segmentize(geometry, step)
    to_target = _transformer(source, crs, threading.get_ident())
    # What is not interleaved takes x and y apart, which the stubs do not say.
    moved = shapely.transform(geometry, to_target.transform, interleaved=False)  # type: ignore[arg-type]
    if not np.isfinite(shapely.get_coordinates(moved)).all():
        raise ValueError(
            f"The AOI with bounds {where.geometry.bounds} in {source.to_string()} cannot be "
            f"projected to {crs.to_string()}: part of it lies outside that projection. Clip it."
        )
    if crs.is_geographic:
        if not source.is_geographic:
            # PROJ may answer 180.00000000000003 on the antimeridian itself.
            moved = shapely.transform(moved, lambda xy: np.clip(xy, -180, 180))
        moved = cut_at_antimeridian(moved)
    return moved if moved.is_valid else shapely.make_valid(moved)


@lru_cache(maxsize=64)
def _transformer(source: pyproj.CRS, target: pyproj.CRS, thread: int) -> pyproj.Transformer:
    """The way from one CRS to another, for one thread; to find it takes longer than to go it."""
    return pyproj.Transformer.from_crs(source, target, always_xy=True)


def outline(where: Where) -> BaseGeometry:
    """Outline in WGS 84 of what was drawn in another CRS, to the centimetre.

    A grid has four corners. Its edges are bent in degrees, but those of a small one hardly are, and
    a thousand vertices would make the most of an item.
    """
    if where.crs is None or same_crs(where.crs, WGS84):
        return where.geometry
    return shapely.simplify(reproject(where, WGS84), CENTIMETRE)


def same_crs(one: pyproj.CRS, other: pyproj.CRS) -> bool:
    """Tell whether two CRS are the same in x, y order (EPSG:4326 and OGC:CRS84 are)."""
    return one is other or one == other or one.equals(other, ignore_axis_order=True)


def _neighbourhood(
    bounds: tuple[float, float, float, float], crs: pyproj.CRS, target: pyproj.CRS
) -> BaseGeometry:
    """Bounds in `crs` as boxes in a geographic `target`, with one degree around them."""
    to_target = pyproj.Transformer.from_crs(crs, target, always_xy=True)
    corners = np.meshgrid(np.linspace(*bounds[::2], 9), np.linspace(*bounds[1::2], 9))
    back = to_target.transform(*to_target.transform(*corners), direction="INVERSE")
    if not np.allclose(back, corners, atol=1):
        # The box reaches beyond the edge of the projection, as of a map of the globe.
        return shapely.box(-180, -90, 180, 90)
    west, south, east, north = to_target.transform_bounds(*bounds, densify_pts=21)
    south, north = max(south - 1, -90), min(north + 1, 90)
    if west <= east and east - west >= 358:
        return shapely.box(-180, south, 180, north)
    west, east = west - 1, east + 1
    if west < -180 or east > 180 or west > east:
        west, east = (west + 180) % 360 - 180, (east + 180) % 360 - 180
        return shapely.MultiPolygon(
            [shapely.box(west, south, 180, north), shapely.box(-180, south, east, north)]
        )
    return shapely.box(west, south, east, north)


def cut_at_antimeridian(geometry: BaseGeometry, *, long_edges: bool = True) -> BaseGeometry:
    """Cut a geographic geometry at 180 degrees, as RFC 7946 (section 3.1.9) has it.

    Parameters
    ----------
    geometry : shapely.Geometry
        Longitude, latitude in degrees.
    long_edges : bool, default: True
        Whether an edge of more than 180 degrees means that the polygon runs across the
        antimeridian (true of footprints), besides longitudes beyond 180, which always do. Both
        conventions are found in STAC archives.

    Returns
    -------
    shapely.Geometry
        Polygons cut in two where they crossed; all else as it was.
    """
    west, _, east, _ = geometry.bounds
    if west < -180 or east > 180:
        return _wrap(geometry)
    if not long_edges or not east - west > 180:
        return geometry
    parts = shapely.get_parts(geometry)
    cut = [_cut(part) for part in parts]
    if all(one is part for one, part in zip(cut, parts, strict=True)):
        return geometry
    return shapely.union_all(cut)


def _cut(part: BaseGeometry) -> BaseGeometry:
    if isinstance(part, shapely.LineString):
        return antimeridian.fix_line_string(part, great_circle=False) if _jumps(part) else part
    if not isinstance(part, shapely.Polygon) or not _jumps(part.exterior, part.is_valid):
        return part
    lon, lat = shapely.get_coordinates(part.exterior).T
    turn = ((np.diff(lon) + 180) % 360 - 180).sum()
    with warnings.catch_warnings():
        # Winding is put right by the library; nothing a user can act on.
        warnings.simplefilter("ignore", category=antimeridian.FixWindingWarning)
        if abs(turn) > 180:
            # A ring once round the globe has its pole on the left when it runs the right way.
            right = part if (turn > 0) == (lat.mean() > 0) else part.reverse()
            fixed = antimeridian.fix_polygon(right, fix_winding=False, great_circle=False)
        else:
            fixed = antimeridian.fix_polygon(part, fix_winding=True, great_circle=False)
    return fixed if fixed.is_valid else shapely.make_valid(fixed)


def _wrap(geometry: BaseGeometry) -> BaseGeometry:
    """Bring longitudes beyond 180 degrees back, piece by piece."""
    world = shapely.box(-180, -90, 180, 90)

    def turned(turns: int) -> BaseGeometry:
        moved = shapely.transform(geometry, lambda xy: xy + np.array([360 * turns, 0]))
        return moved if moved.is_valid else shapely.make_valid(moved)

    return shapely.union_all([shapely.intersection(turned(n), world) for n in (-1, 0, 1)])


def _jumps(line: BaseGeometry, valid: bool = True) -> bool:
    """Tell whether an edge spans more than half the globe (all of it: a global footprint)."""
    jumps = np.abs(np.diff(shapely.get_coordinates(line)[:, 0]))
    return bool(((jumps > 180) & ((jumps < 360) | (not valid))).any())
