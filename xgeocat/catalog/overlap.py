"""Overlap: which footprints share an area, which area, and how much of one that is."""

from __future__ import annotations

import numpy as np
import pyproj
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from xgeocat.catalog.index import Geometries

Positions = NDArray[np.int64]
Numbers = NDArray[np.float64]

#: What is less than this part of a footprint is rounding: of a Sentinel-2 tile, an edge of 0.1 mm.
SLIVER = 1e-9
#: Along an edge, from -1 to 1, and their weights, which add up to 2.
NODES = np.polynomial.legendre.leggauss(5)
#: Type of a GeometryCollection in shapely.
COLLECTION = 7


def clean(geometry: Geometries) -> Geometries:
    """Make footprints that can be cut: valid, flat, and of one dimension each.

    Parameters
    ----------
    geometry : numpy.ndarray of shapely geometries
        None where not known.

    Returns
    -------
    numpy.ndarray of shapely geometries
        What is invalid as ``shapely.make_valid`` has it; of a collection the parts of the highest
        dimension; without z.
    """
    flat: Geometries = shapely.force_2d(geometry)
    wrong = ~shapely.is_valid(flat)
    flat[wrong] = shapely.make_valid(flat[wrong])
    return _of_one_dimension(flat)


def _of_one_dimension(geometry: Geometries) -> Geometries:
    mixed = np.flatnonzero(shapely.get_type_id(geometry) == COLLECTION)
    for i in mixed:
        geometry[i] = _highest(geometry[i])
    return geometry


def _highest(collection: BaseGeometry) -> BaseGeometry:
    parts = shapely.get_parts(collection)
    parts = parts[shapely.get_dimensions(parts) == shapely.get_dimensions(collection)]
    return shapely.union_all(_of_one_dimension(parts))


def meeting(one: Geometries, two: Geometries) -> tuple[Positions, Positions]:
    """Positions of all pairs that meet, be it in a point, ordered by the first, then the second."""
    first, second = shapely.STRtree(two).query(one, predicate="intersects")
    order = np.lexsort((second, first))
    return first[order], second[order]


def shared(one: Geometries, two: Geometries) -> Geometries:
    """Return what clean footprints share, pair by pair; None where they only touch.

    Two areas share an area; two lines a stretch. A line or point shares what lies inside (not on
    the edge) of an area, a point what lies inside a line. What is less than `SLIVER` of the
    smaller one is rounding.
    """
    both = _of_one_dimension(shapely.intersection(one, two))
    dimensions = shapely.get_dimensions(one), shapely.get_dimensions(two)
    lower = np.minimum(*dimensions)
    smaller = np.minimum(
        *(
            np.where(d == lower, size(g), np.inf)
            for g, d in zip((one, two), dimensions, strict=True)
        )
    )
    found = (shapely.get_dimensions(both) == lower) & (size(both) > SLIVER * smaller)
    uneven = np.flatnonzero(found & (dimensions[0] != dimensions[1]))
    found[uneven] = ~shapely.touches(one[uneven], two[uneven])
    both[~found] = None
    return both


def size(geometry: Geometries) -> Numbers:
    """Area, length or number, whichever is of the geometry's own dimension; in the plane."""
    return _by_dimension(geometry, shapely.area(geometry), shapely.length(geometry))


def _by_dimension(geometry: Geometries, area: Numbers, length: Numbers) -> Numbers:
    number = shapely.get_num_geometries(geometry).astype(np.float64)
    return np.select([shapely.get_dimensions(geometry) == d for d in (2, 1, 0)],
                     [area, length, number], 0.0)  # fmt: skip


def fraction(part: Geometries, whole: Geometries, crs: pyproj.CRS) -> Numbers:
    """Say how much of some footprints is in a part of them, on the ground.

    Parameters
    ----------
    part, whole : numpy.ndarray of shapely geometries
        Shape ``(n,)``.
    crs : pyproj.CRS
        Of both. In a geographic one areas are those on its ellipsoid and lengths geodesic; in a
        projected one both are those of the plane.

    Returns
    -------
    numpy.ndarray
        From 0 to 1, in the dimension of `whole`: of an area, a line or point is 0.
    """
    lower = shapely.get_dimensions(part) < shapely.get_dimensions(whole)
    ratio = ground_size(part, crs) / ground_size(whole, crs)
    found: Numbers = np.where(lower, 0.0, np.clip(ratio, 0.0, 1.0))
    return found


def ground_size(geometry: Geometries, crs: pyproj.CRS) -> Numbers:
    """Area (m2), length (m) or number of points; in units of the plane if `crs` is projected."""
    if not crs.is_geographic:
        return size(geometry)
    geod = crs.get_geod()
    assert geod is not None, "a geographic CRS has an ellipsoid"
    lines = np.zeros(len(geometry))
    for i in np.flatnonzero(shapely.get_dimensions(geometry) == 1):
        lines[i] = geod.geometry_length(geometry[i])
    return _by_dimension(geometry, _ellipsoid_area(geometry, geod.a, geod.es), lines)


def _ellipsoid_area(geometry: Geometries, a: float, es: float) -> Numbers:
    """Area of polygons whose edges are straight in longitude and latitude.

    The area between an edge and the equator is ``a**2 / 2 * integral of q d(lon)``, with the
    authalic ``q`` of the latitude (Snyder 1987, Map Projections, equation 3-12); along an edge it
    is taken by Gauss and Legendre's rule with five nodes.
    """
    parts, of_part = shapely.get_parts(geometry, return_index=True)
    polygonal = shapely.get_dimensions(parts) == 2
    parts, of_part = shapely.orient_polygons(parts[polygonal]), of_part[polygonal]
    rings, of_ring = shapely.get_rings(parts, return_index=True)
    lonlat, of_point = shapely.get_coordinates(rings, return_index=True)
    lon, lat = np.deg2rad(lonlat).T
    middle, half = (lat[:-1] + lat[1:]) / 2, np.diff(lat) / 2
    mean = sum(w / 2 * _authalic(middle + x * half, es) for x, w in zip(*NODES, strict=True))
    under = np.diff(lon) * mean
    edge = of_point[:-1] == of_point[1:]
    owner = of_part[of_ring[of_point[:-1][edge]]]
    # A ring that runs counterclockwise has its lower edges run east.
    total = np.bincount(owner, under[edge], minlength=len(geometry))
    return np.multiply(total, -(a**2) / 2, dtype=np.float64)


def _authalic(lat: Numbers, es: float) -> Numbers:
    sine, e = np.sin(lat), np.sqrt(es)
    curved = np.arctanh(e * sine) / e if e else sine
    q: Numbers = (1 - es) * (sine / (1 - es * sine**2) + curved)
    return q
