"""Anything that can say where, as a geometry in a catalog's CRS."""

from __future__ import annotations

import json

import geopandas as gpd
import numpy as np
import odc.geo.xr
import pyproj
import pytest
import shapely
import xarray as xr
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox
from odc.geo.geom import BoundingBox, Geometry
from shapely.geometry import (
    GeometryCollection,
    LineString,
    MultiPoint,
    MultiPolygon,
    Point,
    Polygon,
    box,
    mapping,
)

import xgeocat as xgc
from xgeocat.catalog.aoi import WGS84, aoi_geometry, cut_at_antimeridian, locate, same_crs

UTM = pyproj.CRS.from_epsg(32633)
UTM_1 = pyproj.CRS.from_epsg(32601)
PLACE = box(14, 46, 15, 47)
GRID = GeoBox((20, 30), Affine(1000, 0, 480000, 0, -1000, 5200000), "EPSG:32633")


def ids(ds: xr.Dataset) -> list[str]:
    return list(ds.scene.values)


def same_place(one: shapely.Geometry, other: shapely.Geometry, tolerance: float = 1e-9) -> bool:
    return shapely.symmetric_difference(one, other).buffer(-tolerance).is_empty


# --- what says where ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("aoi", "crs"),
    [
        ((14, 46, 15, 47), None),
        ([14, 46, 15, 47], None),
        (np.array([14, 46, 15, 47]), None),
        (PLACE, None),
        (gpd.GeoSeries([PLACE]), None),
        (gpd.GeoSeries([PLACE], crs=4326), 4326),
        (gpd.GeoDataFrame(geometry=[box(14, 46, 15, 46.5), box(14, 46.5, 15, 47)], crs=4326), 4326),
        (Geometry(PLACE, "EPSG:4326"), 4326),
        (Geometry(PLACE, None), None),
        (GeoBox.from_bbox((14, 46, 15, 47), "EPSG:4326", resolution=0.1), 4326),
        (xgc.GeoSlice((14, 46, 15, 47), crs="EPSG:4326"), 4326),
        (xgc.GeoSlice((14, 46, 15, 47)), None),
        (mapping(PLACE), 4326),
        ({"type": "Feature", "properties": {}, "geometry": mapping(PLACE)}, 4326),
        (
            {"type": "FeatureCollection", "features": [
                {"type": "Feature", "properties": {}, "geometry": mapping(part)}
                for part in (box(14, 46, 14.5, 47), box(14.5, 46, 15, 47))
            ]},
            4326,
        ),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_every_kind_says_its_place_and_the_crs_it_carries(aoi, crs):
    where = locate(aoi)
    assert same_place(where.geometry, PLACE)
    assert where.crs == (None if crs is None else pyproj.CRS.from_user_input(crs))


@pytest.mark.parametrize("kind", ["DataArray", "Dataset"])
def test_a_field_says_the_outline_of_its_grid_to_the_pixel_edge(kind):
    field = odc.geo.xr.xr_zeros(GRID, dtype="uint8")
    where = locate(field if kind == "DataArray" else field.to_dataset(name="red"))
    assert where.crs == UTM
    assert same_place(where.geometry, box(480000, 5180000, 510000, 5200000), 1e-6)


def test_a_field_with_a_rotated_grid_is_not_its_box():
    grid = GeoBox((20, 20), Affine(700, 700, 480000, 700, -700, 5200000), "EPSG:32633")
    found = locate(odc.geo.xr.xr_zeros(grid, dtype="uint8")).geometry
    assert found.area == pytest.approx(20 * 20 * 2 * 700**2)
    assert found.area < 0.6 * shapely.box(*found.bounds).area


def test_bounds_that_the_library_itself_gives_are_an_aoi(make_catalog):
    ds = make_catalog([box(0, 0, 1, 1), box(10, 0, 11, 1)])
    bounds = ds.isel(scene=[1]).geocat.bounds
    assert isinstance(bounds, BoundingBox)
    assert list(ds.geocat.query(bounds).scene.values) == ["s1"]


def test_a_bounding_box_brings_its_own_crs(make_catalog):
    ds = make_catalog([box(14, 46, 15, 47), box(20, 46, 21, 47)])
    assert list(ds.geocat.query(GRID.boundingbox).scene.values) == ["s0"]


def test_an_aoi_without_a_crs_is_read_in_the_catalog_s():
    assert same_place(aoi_geometry((480000, 5180000, 490000, 5190000), UTM),
                      box(480000, 5180000, 490000, 5190000))  # fmt: skip


def test_a_bow_tie_is_read_as_the_place_that_it_covers():
    found = aoi_geometry(Polygon([(0, 0), (2, 2), (2, 0), (0, 2)]), WGS84)
    assert found.is_valid
    assert found.area == pytest.approx(2)


def test_a_degenerate_bbox_is_a_line_or_a_point():
    assert aoi_geometry((1, 2, 3, 2), WGS84).geom_type == "LineString"
    assert aoi_geometry((1, 2, 1, 4), WGS84).length == 2
    assert aoi_geometry((1, 2, 1, 2), WGS84).equals(Point(1, 2))


def test_a_geodataframe_with_gaps_says_where_its_geometries_are():
    frame = gpd.GeoDataFrame(geometry=[None, PLACE, Polygon()], crs=4326)
    assert same_place(locate(frame).geometry, PLACE)


def test_a_feature_collection_with_gaps_says_where_its_geometries_are():
    # RFC 7946, 3.2: a Feature without a place has "geometry": null.
    features = [
        {"type": "Feature", "properties": {}, "geometry": g} for g in (None, mapping(PLACE))
    ]
    aoi = {"type": "FeatureCollection", "features": features}
    assert same_place(locate(aoi).geometry, PLACE)


@pytest.mark.parametrize(
    "aoi",
    [
        Polygon(), Point(), gpd.GeoSeries([], crs=4326),
        gpd.GeoDataFrame(geometry=[None], crs=4326),
        {"type": "FeatureCollection", "features": []},
        {"type": "Polygon", "coordinates": []},
    ],
)  # fmt: skip
def test_an_empty_aoi_is_refused(aoi):
    with pytest.raises(ValueError, match="empty"):
        aoi_geometry(aoi, WGS84)


@pytest.mark.parametrize(
    ("aoi", "text"),
    [
        ((0, 1, 1, 0), "south > north"),
        ((0, 0, np.inf, 1), "not finite"),
        ((0, 0, np.nan, 1), "finite|empty"),
        (Point(np.inf, 0), "not finite"),
        ((500000, 4_000_000, 510000, 4_100_000), r"out of range.*Give its CRS"),
        (box(0, 80, 1, 91), "out of range"),
        ((500000, 0, 400000, 1), "west > east"),
        (("a", "b", "c", "d"), "."),
        ({"type": "Nonsense"}, "no GeoJSON"),
        ({"a": 1}, "no GeoJSON"),
        ({"type": "Feature", "geometry": None}, "no GeoJSON|empty"),
        ({"type": "FeatureCollection"}, "no GeoJSON"),
        (xr.DataArray(np.zeros((3, 3)), dims=("y", "x")), "no regular grid"),
    ],
)
def test_a_place_that_cannot_be_is_refused_with_its_reason(aoi, text):
    with pytest.raises(ValueError, match=text):
        aoi_geometry(aoi, WGS84)


@pytest.mark.parametrize("aoi", ["lake tahoe", 5, None, (1, 2, 3), [[0, 0], [1, 1]], object()])
def test_what_does_not_say_where_is_refused_with_the_kinds_that_do(aoi):
    with pytest.raises(TypeError, match=r"does not say where.*bbox.*GeoDataFrame.*GeoJSON"):
        aoi_geometry(aoi, WGS84)


def test_a_bbox_with_a_none_in_it_is_refused_as_an_aoi():
    with pytest.raises((TypeError, ValueError), match=r"AOI|bbox"):
        aoi_geometry((0, 0, None, 1), WGS84)


def test_a_catalog_is_no_aoi_but_says_so(make_item):
    with pytest.raises(ValueError, match="no regular grid"):
        aoi_geometry(xgc.from_items([make_item()]), WGS84)


# --- reprojection ---------------------------------------------------------------------------------


def test_a_long_straight_edge_bows_with_the_projection():
    # A parallel of 6 degrees at 60 N lies up to 1.1 km off the straight line between its ends.
    found = aoi_geometry(gpd.GeoSeries([box(12, 59.9, 18, 60)], crs=4326), UTM)
    to_utm = pyproj.Transformer.from_crs(4326, 32633, always_xy=True)
    for lon in np.linspace(12, 18, 61):
        on_edge = Point(to_utm.transform(lon, 60.0))
        assert found.boundary.distance(on_edge) < 1
    middle, end = (Point(to_utm.transform(lon, 60.0)).y for lon in (15, 12))
    assert end - middle > 1000


def test_a_long_utm_edge_bows_in_longitude_and_latitude():
    found = aoi_geometry(gpd.GeoSeries([box(200000, 6600000, 800000, 6600100)], crs=32633), WGS84)
    to_wgs84 = pyproj.Transformer.from_crs(32633, 4326, always_xy=True)
    for x in np.linspace(200000, 800000, 61):
        assert found.distance(Point(to_wgs84.transform(x, 6600050))) == 0
    assert not found.intersects(
        LineString([to_wgs84.transform(200000, 6600050), to_wgs84.transform(800000, 6600050)])
        .segmentize(0.01)
        .intersection(box(14, 50, 16, 70))
    )


def test_epsg_4326_and_crs84_are_the_same_place_in_x_y_order():
    assert same_crs(pyproj.CRS.from_epsg(4326), pyproj.CRS.from_user_input("OGC:CRS84"))
    found = aoi_geometry(gpd.GeoSeries([PLACE], crs="OGC:CRS84"), WGS84)
    assert found.equals(PLACE)


def test_the_same_crs_leaves_coordinates_as_they_are():
    shape = Polygon([(480000.123456789, 5180000), (490000, 5180000), (490000, 5190000.3)])
    assert aoi_geometry(gpd.GeoSeries([shape], crs=32633), UTM).equals_exact(shape, 0)


def test_a_place_outside_a_projection_is_empty_or_refused_but_never_folded_back():
    far = gpd.GeoSeries([box(-170, -10, -160, 10)], crs=4326)
    within = (300000.0, 5000000.0, 700000.0, 5500000.0)
    try:
        found = aoi_geometry(far, UTM, within)
    except ValueError as error:
        assert "cannot be projected" in str(error)  # noqa: PT017 - one of two right answers
    else:
        assert not found.intersects(box(*within))


@pytest.mark.parametrize("crs", ["EPSG:3857", "EPSG:6933", "EPSG:8857", "EPSG:4267", "EPSG:4326"])
@pytest.mark.parametrize("target", ["EPSG:32633", "EPSG:3413", "EPSG:4326"])
def test_the_whole_world_in_any_crs_covers_every_scene(crs, target, make_catalog):
    footprints = [box(14, 60, 15, 61), box(16, 65, 17, 66)]
    ds = make_catalog(footprints, crs=target)
    area = pyproj.CRS.from_user_input(crs).area_of_use
    world = box(-180, max(area.south, -85), 180, min(area.north, 85))
    if crs == "EPSG:4267":
        world = gpd.GeoSeries([box(-180, -85, 180, 85)], crs=crs)
    else:
        world = gpd.GeoSeries([world], crs=4326).segmentize(1).to_crs(crs)
    assert list(ds.geocat.query(world).scene.values) == ["s0", "s1"]


@pytest.mark.parametrize("crs", ["EPSG:3857", "EPSG:6933", "EPSG:8857", "EPSG:3413", "EPSG:3995"])
def test_a_geographic_aoi_finds_its_scenes_in_a_catalog_that_goes_round_the_globe(
    crs, make_catalog
):
    footprints = [box(lon, 75, lon + 5, 80) for lon in range(-180, 180, 20)]
    aoi = gpd.GeoSeries([box(-45, 74, 33, 79)], crs=4326)
    in_degrees = make_catalog(footprints).geocat.query(aoi)
    found = make_catalog(footprints, crs=crs).geocat.query(aoi)
    assert in_degrees.sizes["scene"] == 4
    assert list(found.scene.values) == list(in_degrees.scene.values)


@pytest.mark.parametrize("turn", ["clockwise", "counter-clockwise"])
@pytest.mark.parametrize(("crs", "sign"), [(3413, 1), (3995, 1), (3031, -1), (3976, -1)])
def test_an_aoi_over_a_pole_covers_all_longitudes_and_nothing_else(crs, sign, turn, make_catalog):
    lats = sorted((80 * sign, 85 * sign))
    footprints = [box(lon, lats[0], lon + 5, lats[1]) for lon in range(-180, 180, 20)]
    ds = make_catalog([*footprints, box(0, 0, 1, 1), box(0, -84 * sign, 1, -83 * sign)])
    for radius, count in ((900e3, len(footprints)), (100e3, 0)):
        cap = shapely.geometry.polygon.orient(
            Point(0, 0).buffer(radius), 1 if turn == "counter-clockwise" else -1
        )
        assert ids(ds.geocat.query(gpd.GeoSeries([cap], crs=crs))) == ids(ds)[:count]


def test_a_world_aoi_on_an_empty_catalog_finds_nothing(make_catalog):
    world = gpd.GeoSeries([box(-180, -90, 180, 90)], crs=4326)
    for crs in (4326, 32633, 3413):
        assert make_catalog([], crs=crs).geocat.query(world).sizes["scene"] == 0


# --- the antimeridian -----------------------------------------------------------------------------


@pytest.fixture
def dateline(make_catalog):
    """Scenes east and west of 180 degrees, and one at Greenwich."""
    return make_catalog([box(178, -1, 180, 1), box(-180, -1, -178, 1), box(-1, -1, 1, 1)])


def test_a_bbox_with_west_beyond_east_is_two_boxes(dateline):
    assert ids(dateline.geocat.query((179, -1, -179, 1))) == ["s0", "s1"]
    assert aoi_geometry((179, -1, -179, 1), WGS84).area == pytest.approx(4)


@pytest.mark.parametrize(
    ("aoi", "found"),
    [
        (box(179, -0.5, 181, 0.5), ["s0", "s1"]),
        (box(-181, -0.5, -179, 0.5), ["s0", "s1"]),
        (MultiPolygon([box(179, -0.5, 180, 0.5), box(-180, -0.5, -179, 0.5)]), ["s0", "s1"]),
        (box(181, -0.5, 181.5, 0.5), ["s1"]),
        (Point(181, 0), ["s1"]),
        (Point(-181, 0), ["s0"]),
        (MultiPoint([(181, 0), (179, 0)]), ["s0", "s1"]),
        (LineString([(179, 0), (181, 0)]), ["s0", "s1"]),
        (GeometryCollection([box(179, 0, 181, 0.5), Point(179, 0)]), ["s0", "s1"]),
        ((179, -0.5, 181, 0.5), ["s0", "s1"]),
        ((359, -0.5, 359.5, 0.5), ["s2"]),
    ],
)
@pytest.mark.parametrize("carrier", ["bare", "geoseries", "geojson"])
def test_longitudes_beyond_180_go_on_across_the_antimeridian(aoi, found, carrier, dateline):
    if carrier != "bare":
        aoi = box(*aoi) if isinstance(aoi, tuple) else aoi
        aoi = gpd.GeoSeries([aoi], crs=4326) if carrier == "geoseries" else mapping(aoi)
        aoi = json.loads(json.dumps(aoi)) if carrier == "geojson" else aoi
    assert ids(dateline.geocat.query(aoi)) == found


@pytest.mark.parametrize(
    "shape",
    [
        lambda line: line,
        lambda line: line.buffer(1000),
        lambda line: MultiPoint(line.coords),
        lambda line: GeometryCollection([line.buffer(1000), Point(line.coords[0])]),
        lambda line: shapely.MultiLineString([line]),
    ],
    ids=["line", "polygon", "points", "collection", "lines"],
)
def test_a_projected_aoi_across_180_does_not_run_round_the_globe(shape, dateline):
    to_utm = pyproj.Transformer.from_crs(4326, UTM_1, always_xy=True)
    line = LineString([to_utm.transform(179, 0.1), to_utm.transform(-179, 0.1)])
    aoi = gpd.GeoSeries([shape(line)], crs=UTM_1)
    assert ids(dateline.geocat.query(aoi)) == ["s0", "s1"]


@pytest.mark.parametrize(
    ("aoi", "found"),
    [
        (gpd.GeoSeries([box(179, -0.5, 181, 0.5)], crs=4326), ["s0", "s1"]),
        (gpd.GeoSeries([box(180.5, -0.5, 181, 0.5)], crs=4326), ["s1"]),
        (gpd.GeoSeries([box(-181, -0.5, -180.5, 0.5)], crs=4326), ["s0"]),
        (
            gpd.GeoSeries([box(179, -0.5, 180, 0.5), box(-180, -0.5, -179, 0.5)], crs=4326),
            ["s0", "s1"],
        ),
        (xgc.GeoSlice((179, -0.5, 181, 0.5), crs="EPSG:4326"), ["s0", "s1"]),
    ],
)
def test_an_aoi_across_180_finds_both_sides_in_a_projected_catalog(aoi, found, make_catalog):
    ds = make_catalog([box(178, -1, 180, 1), box(-180, -1, -178, 1)], crs=UTM_1)
    assert ids(ds.geocat.query(aoi)) == found


@pytest.mark.parametrize("corner", [(0, 0), (-1000, -1000), (-400, -400)])
def test_a_projected_aoi_with_a_corner_on_180_itself_is_read(corner, make_catalog):
    ds = make_catalog([box(179, 69, 180, 71), box(-180, 69, -179, 71), box(0, 69, 1, 71)])
    x, y = pyproj.Transformer.from_crs(4326, UTM_1, always_xy=True).transform(180, 70)
    aoi = box(x + corner[0], y + corner[1], x + corner[0] + 1000, y + corner[1] + 1000)
    assert ids(ds.geocat.query(gpd.GeoSeries([aoi], crs=UTM_1))) == ["s0", "s1"]


def test_a_crossing_bbox_is_refused_where_numbers_are_no_longitudes(make_catalog):
    ds = make_catalog([box(178, -1, 180, 1), box(-180, -1, -178, 1)], crs=UTM_1)
    with pytest.raises(ValueError, match="west > east"):
        ds.geocat.query((179, -0.5, -179, 0.5))


@pytest.mark.parametrize(
    "aoi",
    [
        (-180, -90, 180, 90), (-170, -5, 170, 5), (-100, -5, 100, 5), (-180, -5, 0.5, 5),
        box(-180, -90, 180, 90), box(-170, -5, 170, 5), mapping(box(-170, -5, 170, 5)),
        gpd.GeoSeries([box(-170, -5, 170, 5)], crs=4326),
        gpd.GeoSeries([box(-170, -5, 170, 5)], crs=4258),
        gpd.GeoSeries([box(-170, -5, 170, 5)], crs=4267),
        gpd.GeoSeries([box(-19e6, -5e5, 19e6, 5e5)], crs=3857),
        GeoBox.from_bbox((-170, -5, 170, 5), "EPSG:4326", resolution=1),
    ],
    ids=str,
)  # fmt: skip
def test_a_wide_aoi_is_not_mistaken_for_one_that_crosses(aoi, dateline):
    west, _, east, _ = gpd.GeoSeries([locate(aoi).geometry], crs=locate(aoi).crs or 4326).to_crs(
        4326).total_bounds  # fmt: skip
    expected = {"s0": east >= 178, "s1": west <= -178, "s2": True}
    assert ids(dateline.geocat.query(aoi)) == [name for name, hit in expected.items() if hit]


coordinates = st.integers(-8, 8)


@st.composite
def crossing(draw):
    """A quadrilateral around 180 degrees, longitudes continuous, edges at binary fractions."""
    south = draw(st.integers(-60, 50))
    north = south + draw(st.integers(1, 10))
    west_s, west_n = 180 - draw(st.integers(1, 40)) / 4, 180 - draw(st.integers(1, 40)) / 4
    east_s, east_n = 180 + draw(st.integers(1, 40)) / 4, 180 + draw(st.integers(1, 40)) / 4
    return Polygon([(west_s, south), (east_s, south), (east_n, north), (west_n, north)])


def turned(geometry, degrees):
    return shapely.transform(geometry, lambda xy: xy + np.array([degrees, 0]))


@given(crossing())
@settings(max_examples=60, deadline=None)
def test_three_conventions_of_crossing_footprints_are_one_place(true):
    jumping = shapely.transform(true, lambda xy: np.where(
        (np.arange(2) == 0) & (xy > 180), xy - 360, xy))  # fmt: skip
    split = shapely.union_all([
        true.intersection(box(0, -90, 180, 90)),
        turned(true.intersection(box(180, -90, 360, 90)), -360),
    ])  # fmt: skip
    west = turned(true, -360)
    for footprint in (jumping, split, true, west):
        cut = cut_at_antimeridian(footprint)
        assert cut.is_valid
        assert cut.area == pytest.approx(true.area)
        assert same_place(cut, split, 1e-7)
        assert cut.bounds[0] == -180
        assert cut.bounds[2] == 180


def test_a_footprint_that_jumps_along_180_itself_is_cut_there():
    ring = [(170, 0), (180, 0), (-180, 0), (-170, 0), (-170, 9), (-180, 9), (180, 9), (170, 9)]
    cut = cut_at_antimeridian(Polygon(ring))
    assert cut.area == pytest.approx(2 * 10 * 9)
    assert not cut.intersects(Point(0, 5))


@pytest.mark.parametrize("footprint", [box(-180, -90, 180, 90), box(-180, -60, 180, 60)])
def test_a_global_footprint_stays_global(footprint):
    assert cut_at_antimeridian(footprint).equals(footprint)


def test_a_footprint_away_from_180_is_returned_as_it_is():
    for geometry in (PLACE, MultiPolygon([PLACE]), Point(1, 2), LineString([(0, 0), (1, 1)])):
        assert cut_at_antimeridian(geometry) is geometry


def test_a_footprint_with_a_hole_keeps_it_when_cut():
    ring = box(175, -5, 185, 5)
    cut = cut_at_antimeridian(Polygon(ring.exterior, [box(178, -1, 182, 1).exterior]))
    assert cut.area == pytest.approx(100 - 8)
    assert not cut.intersects(Point(179.5, 0))
    assert not cut.intersects(Point(-179.5, 0))


@pytest.mark.parametrize("step", [20, -20])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_footprint_round_a_pole_covers_it_whichever_way_it_turns(step, sign):
    # Longitudes run once round the globe: a swath over the pole, as MODIS and Sentinel-5P have.
    lons = range(-170, 180, 20) if step > 0 else range(170, -180, -20)
    cut = cut_at_antimeridian(Polygon([(lon, 80 * sign) for lon in lons]))
    assert cut.intersects(Point(0, 89 * sign))
    assert cut.intersects(Point(180, 85 * sign))
    assert not cut.intersects(Point(0, 70 * sign))
    assert not cut.intersects(Point(0, -85 * sign))
