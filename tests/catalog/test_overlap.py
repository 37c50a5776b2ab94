"""Areas on the ellipsoid, and footprints made fit to be cut."""

from __future__ import annotations

import numpy as np
import pyproj
import pytest
import shapely
from shapely.geometry import GeometryCollection, LineString, MultiPolygon, Point, Polygon, box

from xgeocat.catalog.overlap import clean, fraction, ground_size, meeting, shared

WGS84 = pyproj.CRS.from_epsg(4326)


def many(*geometries):
    out = np.empty(len(geometries), dtype=object)
    out[:] = geometries
    return out


@pytest.mark.parametrize(
    "polygon",
    [
        box(0, 0, 1, 1),
        box(5, -62, 9, -58),
        Polygon([(0, 70), (10, 70), (0, 78)]),
        Polygon(box(0, 40, 5, 45).exterior, [box(1, 41, 3, 44).exterior]),
        MultiPolygon([box(178, 10, 180, 12), box(-180, 10, -177, 12)]),
        box(0, 0, 1, 1).reverse(),
        box(-180, -90, 180, 90),
    ],
)
def test_areas_are_those_of_the_ellipsoid(polygon):
    """The oracle: a cylindrical equal-area projection by PROJ, of edges cut very finely."""
    to_flat = pyproj.Transformer.from_crs(WGS84, "+proj=cea +datum=WGS84 +over", always_xy=True)
    fine = shapely.segmentize(polygon, 0.01)
    flat = shapely.transform(fine, to_flat.transform, interleaved=False)
    assert ground_size(many(polygon), WGS84)[0] == pytest.approx(flat.area, rel=2e-7)


def test_a_sphere_has_an_area_too():
    sphere = pyproj.CRS.from_proj4("+proj=longlat +R=1000 +no_defs")
    assert ground_size(many(box(-180, -90, 180, 90)), sphere)[0] == pytest.approx(4e6 * np.pi)


def test_sizes_are_of_the_own_dimension():
    mixed = many(LineString([(0, 0), (0, 1)]), Point(0, 0), shapely.MultiPoint([(0, 0), (1, 1)]), None, box(0, 0, 1, 1))  # fmt: skip
    found = ground_size(mixed, WGS84)
    assert found[0] == pytest.approx(WGS84.get_geod().geometry_length(mixed[0]))
    assert list(found[1:4]) == [1, 2, 0]
    flat = ground_size(mixed, pyproj.CRS.from_epsg(32633))
    assert list(flat) == [1, 1, 2, 0, 1]


def test_fractions_are_of_the_whole():
    whole = many(box(0, 0, 2, 1), box(0, 0, 1, 1), Point(0, 0))
    part = many(box(0, 0, 1, 1), Point(0.5, 0.5), Point(0, 0))
    np.testing.assert_allclose(fraction(part, whole, WGS84), [0.5, 0, 1])


def test_what_cannot_be_cut_is_made_fit():
    bow = Polygon([(0, 0), (1, 1), (0, 1), (1, 0)])
    high = shapely.from_wkt("POLYGON Z ((0 0 5, 1 0 5, 1 1 5, 0 0 5))")
    nested = GeometryCollection(
        [GeometryCollection([box(0, 0, 1, 1), Point(9, 9)]), box(1, 0, 2, 1)]
    )
    given = many(bow, high, nested, None, Polygon())
    found = clean(given)
    assert given[0] is bow
    assert shapely.is_valid(found[[0, 1, 2, 4]]).all()
    assert found[0].area == pytest.approx(0.5)
    assert not found[1].has_z
    assert found[2].equals(box(0, 0, 2, 1))
    assert found[3] is None
    assert found[4].is_empty


def test_pairs_are_in_order_and_all_there():
    rng = np.random.default_rng(0)
    one, two = (shapely.box(*(c := rng.uniform(0, 9, (2, 60))), *(c + 1.5)) for _ in range(2))
    i, j = meeting(one, two)
    want = np.argwhere(shapely.intersects(one[:, None], two[None, :]))
    np.testing.assert_array_equal(np.column_stack([i, j]), want)
    areas = shapely.area(shapely.intersection(one[i], two[j]))
    np.testing.assert_allclose(shapely.area(shared(one[i], two[j])), areas)
