"""Law 9: a query equals brute force, for every AOI, CRS and interval, across 180 degrees too."""

from __future__ import annotations

import geopandas as gpd
import numpy as np
import odc.geo.xr
import pandas as pd
import pyproj
import pytest
import shapely
import xarray as xr
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox
from odc.geo.geom import Geometry
from shapely.geometry import LineString, MultiPoint, MultiPolygon, Point, Polygon, box, mapping

import xgeocat as xgc
from xgeocat.catalog.query import bounds

WORLD = box(-180, -90, 180, 90)


def ids(ds: xr.Dataset) -> list[str]:
    return list(ds.scene.values)


#: Brute force is slow: a failure is shown as it was found.
UNSHRUNK = (Phase.explicit, Phase.reuse, Phase.generate)

# --- by place, against brute force ----------------------------------------------------------------

#: Catalog CRS: (region of the footprints in degrees, size of a footprint in degrees, CRSs of AOIs,
#: tolerance in units of the catalog's CRS for what two reprojections may decide differently).
CATALOGS = {
    "EPSG:4326": ((10, 44, 16, 50), 1, ["EPSG:32633", "EPSG:3035", "EPSG:3857"], 2e-5),
    "EPSG:32633": ((10, 44, 16, 50), 1, ["EPSG:4326", "EPSG:3035", "EPSG:32632", "EPSG:3857"], 2),
    "EPSG:3413": ((-180, 68, 180, 86), 6, ["EPSG:4326", "EPSG:3995", "EPSG:3575"], 60),
    "EPSG:3031": ((-180, -86, 180, -68), 6, ["EPSG:4326", "EPSG:3976"], 60),
    "EPSG:6933": ((-180, -60, 180, 60), 9, ["EPSG:4326", "EPSG:3857", "EPSG:4267"], 60),
}


def shape_in(kind, west, south, east, north):
    """A shape whose box is the one given: itself, or an L, a triangle, a diagonal strip."""
    if kind == "box":
        return box(west, south, east, north)
    if kind == "triangle":
        return Polygon([(west, south), (east, south), (west, north)])
    if kind == "strip":
        w, h = (east - west) / 8, (north - south) / 8
        return Polygon([(west, south), (west + w, south), (east, north - h), (east, north),
                        (east - w, north), (west, south + h)])  # fmt: skip
    w, h = (east - west) / 4, (north - south) / 4
    return box(west, south, west + w, north).union(box(west, south, east, south + h))


KINDS = ["box", "triangle", "strip", "L"]


@st.composite
def footprints(draw, region, size):
    west, south, east, north = region
    made = []
    for _ in range(draw(st.integers(0, 8))):
        across, up = (draw(st.integers(1, 4)) / 4 * size for _ in range(2))
        x = west + draw(st.integers(0, 64)) / 64 * (east - west - across)
        y = south + draw(st.integers(0, 64)) / 64 * (north - south - up)
        made.append(shape_in(draw(st.sampled_from(KINDS)), x, y, x + across, y + up))
    return made


@st.composite
def windows(draw, region):
    """A box in a region, its edges at fractions that footprints do not have."""
    west, south, east, north = region
    x = sorted(draw(st.lists(st.integers(0, 97), min_size=2, max_size=2, unique=True)))
    y = sorted(draw(st.lists(st.integers(0, 97), min_size=2, max_size=2, unique=True)))
    return (west + x[0] / 97 * (east - west), south + y[0] / 97 * (north - south),
            west + x[1] / 97 * (east - west), south + y[1] / 97 * (north - south))  # fmt: skip


def region_in(region, crs):
    to_crs = pyproj.Transformer.from_crs(4326, crs, always_xy=True)
    return to_crs.transform_bounds(*region, densify_pts=51)


def grid_over(window, crs):
    grid = GeoBox.from_bbox(window, crs, shape=(7, 9), tight=True)
    return grid, box(*grid.boundingbox.bbox)


def feature(geometry):
    return {"type": "Feature", "properties": None, "geometry": mapping(geometry)}


#: AOIs that carry no CRS, and are read in the catalog's: (what is given, what it means).
BARE = {
    "bbox": lambda w, k: (w, box(*w)),
    "bbox list": lambda w, k: (list(w), box(*w)),
    "bbox array": lambda w, k: (np.array(w), box(*w)),
    "polygon": lambda w, k: (shape_in(k, *w), shape_in(k, *w)),
    "multipolygon": lambda w, k: (two(w), two(w)),
    "point": lambda w, k: (Point(w[:2]), Point(w[:2])),
    "multipoint": lambda w, k: (MultiPoint([w[:2], w[2:]]), MultiPoint([w[:2], w[2:]])),
    "line": lambda w, k: (LineString([w[:2], w[2:]]), LineString([w[:2], w[2:]])),
    "slice without crs": lambda w, k: (xgc.GeoSlice(w), box(*w)),
    "geoseries without crs": lambda w, k: (gpd.GeoSeries([box(*w)]), box(*w)),
}
#: AOIs that carry a CRS.
CARRIED = {
    "geodataframe": lambda w, k, crs: (
        gpd.GeoDataFrame({"n": [1, 2]}, geometry=list(two(w).geoms), crs=crs), two(w)),
    "geoseries": lambda w, k, crs: (gpd.GeoSeries([shape_in(k, *w)], crs=crs), shape_in(k, *w)),
    "line geoseries": lambda w, k, crs: (
        gpd.GeoSeries([LineString([w[:2], w[2:]])], crs=crs), LineString([w[:2], w[2:]])),
    "point geoseries": lambda w, k, crs: (gpd.GeoSeries([Point(w[:2])], crs=crs), Point(w[:2])),
    "odc geometry": lambda w, k, crs: (Geometry(shape_in(k, *w), crs), shape_in(k, *w)),
    "geobox": lambda w, k, crs: grid_over(w, crs),
    "geoslice": lambda w, k, crs: (xgc.GeoSlice(w, crs=crs), box(*w)),
    "geoslice of a geobox": lambda w, k, crs: (
        xgc.GeoSlice(geobox=grid_over(w, crs)[0]), grid_over(w, crs)[1]),
    "dataarray": lambda w, k, crs: (
        odc.geo.xr.xr_zeros(grid_over(w, crs)[0], "uint8"), grid_over(w, crs)[1]),
    "dataset": lambda w, k, crs: (
        odc.geo.xr.xr_zeros(grid_over(w, crs)[0], "uint8").to_dataset(name="red"),
        grid_over(w, crs)[1]),
}  # fmt: skip
GEOJSON = {
    "geometry": lambda w, k: (mapping(shape_in(k, *w)), shape_in(k, *w)),
    "feature": lambda w, k: (feature(shape_in(k, *w)), shape_in(k, *w)),
    "collection": lambda w, k: (
        {"type": "FeatureCollection", "features": [feature(g) for g in two(w).geoms]}, two(w)),
}  # fmt: skip


def two(window):
    west, south, east, north = window
    third = (east - west) / 3
    return MultiPolygon(
        [box(west, south, west + third, north), box(east - third, south, east, north)]
    )


@pytest.mark.parametrize("kind", BARE)
@pytest.mark.parametrize("crs", CATALOGS)
@given(st.data())
@settings(max_examples=4, deadline=None, phases=UNSHRUNK)
def test_an_aoi_in_the_catalog_s_crs_finds_what_brute_force_finds(
    make_catalog, brute_force, crs, kind, data
):
    region, size, _, tolerance = CATALOGS[crs]
    made = data.draw(footprints(region, size))
    window = data.draw(windows(region_in(region, crs)))
    aoi, place = BARE[kind](window, data.draw(st.sampled_from(KINDS)))
    exact = crs == "EPSG:4326"
    must, may = brute_force(made, place, crs, crs, 0 if exact else tolerance)
    found = ids(make_catalog(made, crs=crs).geocat.query(aoi))
    assert found == [s for s in map("s{}".format, range(len(made))) if s in found]
    assert must <= set(found) <= may


@pytest.mark.parametrize("kind", CARRIED)
@pytest.mark.parametrize("crs", CATALOGS)
@given(st.data())
@settings(max_examples=4, deadline=None, phases=UNSHRUNK)
def test_an_aoi_in_another_crs_finds_what_brute_force_finds(
    make_catalog, brute_force, crs, kind, data
):
    region, size, others, tolerance = CATALOGS[crs]
    made = data.draw(footprints(region, size))
    other = data.draw(st.sampled_from(others))
    window = data.draw(windows(region_in(region, other)))
    aoi, place = CARRIED[kind](window, data.draw(st.sampled_from(KINDS)), other)
    must, may = brute_force(made, place, other, crs, tolerance)
    found = set(ids(make_catalog(made, crs=crs).geocat.query(aoi)))
    assert must <= found <= may


@pytest.mark.parametrize("kind", GEOJSON)
@pytest.mark.parametrize("crs", CATALOGS)
@given(st.data())
@settings(max_examples=4, deadline=None, phases=UNSHRUNK)
def test_geojson_is_in_degrees_and_finds_what_brute_force_finds(
    make_catalog, brute_force, crs, kind, data
):
    region, size, _, tolerance = CATALOGS[crs]
    made = data.draw(footprints(region, size))
    aoi, place = GEOJSON[kind](data.draw(windows(region)), data.draw(st.sampled_from(KINDS)))
    must, may = brute_force(made, place, 4326, crs, 0 if crs == "EPSG:4326" else tolerance)
    found = set(ids(make_catalog(made, crs=crs).geocat.query(aoi)))
    assert must <= found <= may


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:32633", "EPSG:3857"])
@pytest.mark.parametrize(
    "footprint",
    [
        Polygon([(14, 46), (15, 46), (15, 46.1), (14.1, 46.1), (14.1, 47), (14, 47)]),
        Polygon([(14, 46), (14.1, 46), (15, 46.9), (15, 47), (14.9, 47), (14, 46.1)]),
        MultiPolygon([box(14, 46, 14.1, 47), box(14.9, 46, 15, 47)]),
        Polygon(box(14, 46, 15, 47).exterior, [box(14.1, 46.1, 14.9, 46.9).exterior]),
    ],
    ids=["L", "diagonal", "two parts", "hole"],
)
def test_the_true_footprint_counts_and_not_its_box(footprint, crs, make_catalog):
    ds = make_catalog([footprint], crs=crs)
    hole = gpd.GeoSeries([box(14.4, 46.6, 14.45, 46.65)], crs=4326)
    assert shapely.box(*footprint.bounds).intersects(hole[0])
    assert ids(ds.geocat.query(hole)) == []
    assert ids(ds.geocat.query(gpd.GeoSeries([Point(14.02, 46.04)], crs=4326))) == ["s0"]


def test_a_footprint_that_only_touches_meets(make_catalog):
    ds = make_catalog([box(0, 0, 1, 1), box(1, 0, 2, 1), box(1, 1, 2, 2), box(1.0001, 0, 2, 1)])
    assert ids(ds.geocat.query((0, 0, 1, 1))) == ["s0", "s1", "s2"]
    assert ids(ds.geocat.query(Point(1, 1))) == ["s0", "s1", "s2"]
    assert ids(ds.geocat.query(LineString([(0, 2), (1, 2)]))) == ["s2"]


@pytest.mark.parametrize("crs", [32633, 3035])
def test_a_long_thin_edge_is_bent_by_the_projection_and_not_cut_straight(crs, make_catalog):
    # Scenes of some metres, between a straight chord and the true curve of a 600 km UTM edge.
    strip = gpd.GeoSeries([box(200_000, 6_600_000, 800_000, 6_600_050)], crs=32633)
    to_wgs84 = pyproj.Transformer.from_crs(32633, 4326, always_xy=True)
    west, middle, east = (to_wgs84.transform(x, 6_600_025) for x in (200_000, 500_000, 800_000))
    on_chord = Point((west[0] + east[0]) / 2, (west[1] + east[1]) / 2)
    assert abs(on_chord.y - middle[1]) > 0.01
    ds = make_catalog([Point(middle).buffer(1e-4), on_chord.buffer(1e-4)])
    assert ids(ds.geocat.query(strip)) == ["s0"]
    as_line = gpd.GeoSeries([LineString([(200_000, 6_600_025), (800_000, 6_600_025)])], crs=32633)
    assert ids(ds.geocat.query(as_line)) == ["s0"]
    projected = xgc.from_items(xgc.to_items(ds), crs=crs)
    assert ids(projected.geocat.query(strip)) == ["s0"]


def test_a_small_part_of_a_wide_aoi_is_bent_as_finely_as_alone(make_catalog):
    # At 60 N a straight UTM line between the ends of 4 degrees of a parallel is 460 m off it.
    part = box(13, 60, 17, 60.0005)
    ds = make_catalog([box(14.99, 60.0001, 15.01, 60.0003), box(14.99, 60.002, 15.01, 60.0022)],
                      crs=32633)  # fmt: skip
    alone = gpd.GeoSeries([part], crs=4326)
    assert ids(ds.geocat.query(alone)) == ["s0"]
    wide = gpd.GeoSeries([part, box(-170, -80, -160, -70), box(100, 0, 170, 10)], crs=4326)
    assert ids(ds.geocat.query(wide)) == ["s0"]
    projected = wide.segmentize(0.001).to_crs(3857)
    assert ids(ds.geocat.query(projected)) == ["s0"]


# --- across the antimeridian ----------------------------------------------------------------------


def turned(geometry, degrees):
    return shapely.transform(geometry, lambda xy: xy + np.array([degrees, 0]))


def wrapped(geometry):
    """Continuous longitudes to the pieces in -180..180, independently of the product."""
    return shapely.union_all([turned(geometry, d).intersection(WORLD) for d in (-360, 0, 360)])


def as_written(geometry, convention):
    """Write a footprint with continuous longitudes the way an archive does."""
    if convention == "beyond" or not geometry.intersects(LineString([(180, -90), (180, 90)])):
        return geometry if convention == "beyond" else wrapped(geometry)
    if convention == "split":
        return wrapped(geometry)
    return shapely.transform(geometry, lambda xy: np.where(
        (np.arange(2) == 0) & (xy > 180), xy - 360, xy))  # fmt: skip


@st.composite
def around_180(draw):
    """A footprint near 180 degrees, longitudes continuous, no vertex on 180 itself."""
    west = 170 + draw(st.integers(0, 19)) + 0.25
    width, height = draw(st.integers(1, 12)), draw(st.integers(1, 6))
    south = draw(st.integers(-40, 40))
    kind = draw(st.sampled_from(["box", "triangle", "strip"]))
    return shape_in(kind, west, south, west + width + 0.5, south + height)


@pytest.mark.parametrize("convention", ["split", "beyond", "jump"])
@given(st.data())
@settings(max_examples=40, deadline=None)
def test_scenes_across_180_are_found_from_both_sides_in_every_convention(
    make_catalog, convention, data
):
    true = data.draw(st.lists(around_180(), min_size=1, max_size=6))
    ds = make_catalog([as_written(f, convention) for f in true])
    west = data.draw(st.integers(160, 200)) + 0.4
    south = data.draw(st.integers(-45, 45)) + 0.3
    width, height = data.draw(st.integers(1, 20)), data.draw(st.integers(1, 10))
    aoi = box(west, south, west + width, south + height)
    expected = [
        f"s{i}" for i, f in enumerate(true)
        if any(turned(f, d).intersects(aoi) for d in (-360, 0, 360))
    ]  # fmt: skip
    lon = [(x + 180) % 360 - 180 for x in (west, west + width)]
    for place in (
        (lon[0], south, lon[1], south + height),
        aoi,
        wrapped(aoi),
        mapping(wrapped(aoi)),
        gpd.GeoSeries([wrapped(aoi)], crs=4326),
        gpd.GeoDataFrame(geometry=list(shapely.get_parts(wrapped(aoi))), crs=4326),
        turned(aoi, -360),
    ):
        assert ids(ds.geocat.query(place)) == expected


@pytest.mark.parametrize("convention", ["split", "beyond", "jump"])
@pytest.mark.parametrize("crs", ["EPSG:32601", "EPSG:32660", "EPSG:3413", "EPSG:3857"])
def test_a_projected_catalog_keeps_scenes_across_180_in_one_place(convention, crs, make_catalog):
    true = [box(178.3, 60.2, 179.6, 61), box(179.3, 60.2, 181.2, 61), box(180.4, 60.2, 181.5, 61)]
    ds = make_catalog([as_written(f, convention) for f in true], crs=crs)
    for lon, expected in ((178.5, ["s0"]), (179.45, ["s0", "s1"]), (179.9, ["s1"]),
                          (-179.9, ["s1"]), (-179.1, ["s1", "s2"]), (-178.6, ["s2"]), (0, []),
                          (177, []), (-177, [])):  # fmt: skip
        point = gpd.GeoSeries([Point(lon, 60.6)], crs=4326)
        assert ids(ds.geocat.query(point)) == expected
        assert ids(ds.geocat.query(mapping(Point(lon, 60.6)))) == expected


@pytest.fixture(scope="module")
def scenes_around_180(make_catalog):
    """Many small scenes around 180 degrees: (footprints with continuous longitudes, catalog)."""
    true = [box(lon, lat, lon + 0.9, lat + 0.4) for lon in np.arange(176.3, 184, 0.97)
            for lat in np.arange(68.6, 71.5, 0.53)]  # fmt: skip
    return gpd.GeoSeries(true, crs=4326), make_catalog([as_written(f, "split") for f in true])


@pytest.mark.parametrize("crs", ["EPSG:32601", "EPSG:32660", "EPSG:3413"])
@given(west=st.integers(-100, 60), south=st.integers(-100, 60), width=st.integers(1, 80),
       height=st.integers(1, 80))  # fmt: skip
@settings(max_examples=20, deadline=None, phases=UNSHRUNK)
def test_a_projected_aoi_across_180_finds_what_brute_force_finds(
    scenes_around_180, crs, west, south, width, height
):
    true, ds = scenes_around_180
    x, y = pyproj.Transformer.from_crs(4326, crs, always_xy=True).transform(180, 70)
    aoi = box(west, south, west + width, south + height)
    aoi = gpd.GeoSeries([shapely.transform(aoi, lambda xy: xy * 1000 + (x, y))], crs=crs)
    in_crs = true.segmentize(0.02).to_crs(crs)
    must = in_crs.intersects(aoi[0].buffer(-5))
    may = in_crs.distance(aoi[0]) < 5
    found = set(ids(ds.geocat.query(aoi)))
    assert {f"s{i}" for i in np.flatnonzero(must)} <= found
    assert found <= {f"s{i}" for i in np.flatnonzero(may)}


def test_a_grid_across_180_is_an_aoi_there_and_not_round_the_globe(shared_data, make_catalog):
    import rioxarray

    with rioxarray.open_rasterio(shared_data / "cog_dateline.tif", chunks={}) as field:
        ds = make_catalog([box(179, 51, 179.5, 52), box(-179.5, 51, -179, 52), box(0, 51, 1, 52)])
        assert ids(ds.geocat.query(field)) == ["s0", "s1"]


@pytest.mark.parametrize("west", [-180, -179.5, -100])
@pytest.mark.parametrize("east", [180, 179.5, 100])
def test_a_wide_bbox_is_wide(west, east, make_catalog):
    ds = make_catalog([box(lon, 0, lon + 1, 1) for lon in range(-180, 180, 9)])
    expected = [f"s{i}" for i, lon in enumerate(range(-180, 180, 9)) if west <= lon + 1 and
                lon <= east]  # fmt: skip
    for aoi in ((west, -5, east, 5), box(west, -5, east, 5), mapping(box(west, -5, east, 5)),
                gpd.GeoSeries([box(west, -5, east, 5)], crs=4326)):  # fmt: skip
        assert ids(ds.geocat.query(aoi)) == expected


# --- by time --------------------------------------------------------------------------------------

DAY = np.datetime64("2024-01-01", "us")
ticks = st.integers(0, 40)


@st.composite
def intervals(draw):
    a, b = sorted((draw(ticks), draw(ticks)))
    return a, b


@given(st.lists(st.one_of(st.none(), intervals()), max_size=8), intervals(),
       st.sampled_from(["D", "us"]))  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_a_closed_interval_finds_what_pandas_finds(make_catalog, scenes, asked, unit):
    def at(tick):
        return DAY + np.timedelta64(tick, unit)

    def spelled(tick):
        return f"{np.datetime_as_string(at(tick), unit='us')}Z"

    ds = make_catalog(
        [box(0, 0, 1, 1)] * len(scenes),
        [None if s is None else (spelled(s[0]), spelled(s[1])) for s in scenes],
    )
    wanted = pd.Interval(pd.Timestamp(at(asked[0])), pd.Timestamp(at(asked[1])), closed="both")
    expected = [
        f"s{i}" for i, s in enumerate(scenes) if s is not None and wanted.overlaps(
            pd.Interval(pd.Timestamp(at(s[0])), pd.Timestamp(at(s[1])), closed="both"))
    ]  # fmt: skip
    first, last = (spelled(t) for t in asked)
    for time in (
        f"{first}/{last}",
        (first, last),
        slice(first, last),
        (at(asked[0]), at(asked[1])),
    ):
        assert ids(ds.geocat.query(time=time)) == expected


def test_the_last_microsecond_of_a_bare_date_counts_and_the_next_does_not(make_catalog):
    times = ["2024-08-14T23:59:59.999999Z", "2024-08-15T00:00:00Z", "2024-08-15T23:59:59.999999Z",
             "2024-08-16T00:00:00Z"]  # fmt: skip
    ds = make_catalog([box(0, 0, 1, 1)] * 4, times)
    assert ids(ds.geocat.query(time="2024-08-15")) == ["s1", "s2"]
    assert ids(ds.geocat.query(time=("2024-08-01", "2024-08-15"))) == ["s0", "s1", "s2"]
    assert ids(ds.geocat.query(time=("2024-08-15", None))) == ["s1", "s2", "s3"]
    assert ids(ds.geocat.query(time="../2024-08-14")) == ["s0"]
    assert ids(ds.geocat.query(time="2024-08")) == ids(ds)
    assert ids(ds.geocat.query(time="2024-08-15T02:00:00+02:00")) == ["s1"]


def test_place_and_time_are_both_asked(make_catalog):
    ds = make_catalog(
        [box(0, 0, 1, 1), box(0, 0, 1, 1), box(5, 5, 6, 6), box(5, 5, 6, 6)],
        ["2024-01-01T00:00:00Z", "2024-02-01T00:00:00Z"] * 2,
    )
    assert ids(ds.geocat.query((0, 0, 1, 1), "2024-02")) == ["s1"]
    assert ids(ds.geocat.query((0, 0, 1, 1)).geocat.query(time="2024-02")) == ["s1"]
    assert ids(ds.geocat.query(time="2024-02").geocat.query((0, 0, 1, 1))) == ["s1"]
    assert ids(ds.geocat.query((0, 0, 1, 1), "2023")) == []


def test_a_geoslice_brings_its_own_interval_unless_another_is_given(make_catalog):
    ds = make_catalog(
        [box(0, 0, 1, 1), box(0, 0, 1, 1), box(5, 5, 6, 6)],
        ["2024-01-01T00:00:00Z", "2024-02-01T00:00:00Z", "2024-02-01T00:00:00Z"],
    )
    place = (0.2, 0.2, 0.8, 0.8)
    assert ids(ds.geocat.query(xgc.GeoSlice(place, "2024-02", crs="EPSG:4326"))) == ["s1"]
    assert ids(ds.geocat.query(xgc.GeoSlice(place, crs="EPSG:4326"))) == ["s0", "s1"]
    asked = xgc.GeoSlice(place, "2024-02", crs="EPSG:4326")
    assert ids(ds.geocat.query(asked, time="2024-01")) == ["s0"]
    assert ids(ds.geocat.query(asked, time=("2024", "2024"))) == ["s0", "s1"]


# --- what comes back ------------------------------------------------------------------------------


@pytest.fixture
def ds(make_catalog):
    return make_catalog([box(i, 0, i + 1, 1) for i in range(5)], cloud=[9, 7, 5, 3, 1])


def test_a_query_is_a_selection_of_rows_and_nothing_else(ds):
    before = ds.copy(deep=True)
    found = ds.geocat.query((1.5, 0, 2.5, 1))
    xr.testing.assert_identical(found.drop_attrs(deep=False), ds.isel(scene=[1, 2]))
    xr.testing.assert_identical(ds, before)
    again = found.geocat.query((1.5, 0, 2.5, 1))
    xr.testing.assert_identical(*(one.drop_attrs(deep=False) for one in (again, found)))


def test_order_of_the_catalog_is_kept(ds):
    turned_round = ds.isel(scene=[4, 2, 0, 1])
    assert ids(turned_round.geocat.query((0.5, 0, 2.5, 1))) == ["s2", "s0", "s1"]


def test_asking_nothing_gives_all_scenes(ds, make_catalog):
    xr.testing.assert_identical(ds.geocat.query(), ds)
    xr.testing.assert_identical(xgc.query(ds), ds)
    unknown = make_catalog([None, box(0, 0, 1, 1)], [None, None])
    assert ids(unknown.geocat.query()) == ["s0", "s1"]
    assert ids(unknown.geocat.query(WORLD)) == ["s1"]
    assert ids(unknown.geocat.query(time="../..")) == []


def test_nothing_found_is_an_empty_catalog_that_can_be_asked_again(ds):
    nothing = ds.geocat.query((50, 50, 51, 51))
    assert nothing.sizes["scene"] == 0
    assert set(nothing.data_vars) == set(ds.data_vars)
    assert nothing.geocat.crs == ds.geocat.crs
    assert nothing.geocat.bounds is None
    assert nothing.geocat.query((0, 0, 5, 5), time="2024").sizes["scene"] == 0


def test_the_function_and_the_method_are_the_same(ds):
    xr.testing.assert_identical(
        xgc.query(ds, (1.5, 0, 2.5, 1), "2024"), ds.geocat.query((1.5, 0, 2.5, 1), time="2024")
    )


def test_bounds_are_those_of_all_known_footprints(make_catalog):
    ds = make_catalog([box(1, 2, 3, 4), None, box(-5, 3, 0, 9)])
    assert tuple(bounds(ds).bbox) == (-5, 2, 3, 9)
    assert bounds(ds).crs.epsg == 4326
    assert bounds(make_catalog([])) is None
    assert bounds(make_catalog([None])) is None


def test_bounds_are_in_the_catalog_s_crs(make_catalog):
    ds = make_catalog([box(14, 46, 15, 47)], crs=32633)
    assert tuple(ds.geocat.bounds.bbox) == tuple(ds.geometry.item().bounds)
    assert ds.geocat.bounds.crs.epsg == 32633


# --- real data with known answers -----------------------------------------------------------------

DENVER = (-105.5, 39.5, -104.5, 40.2)


def test_known_answers_on_a_thousand_real_scenes(planetary_computer):
    ds = planetary_computer
    hits = ds.geocat.query(DENVER)
    assert hits.sizes["scene"] == 83
    fortnight = ds.geocat.query(DENVER, ("2024-08-01", "2024-08-15"))
    assert fortnight.sizes["scene"] == 24
    assert fortnight.isel(scene=fortnight["eo:cloud_cover"] < 20).sizes["scene"] == 15
    assert ds.geocat.query(time="2024-08").sizes["scene"] == 559
    assert ds.geocat.query(Point(-105, 40)).sizes["scene"] == 40
    in_two_zones = ds.geocat.query(Point(-108, 39))
    assert in_two_zones.sizes["scene"] == 38
    assert len(set(in_two_zones["proj:code"].sel(asset="B04").values)) == 2


@pytest.mark.parametrize(
    ("aoi", "geometry", "crs"),
    [
        (box(*DENVER), box(*DENVER), 4326),
        (gpd.GeoSeries([box(450_000, 4_300_000, 560_000, 4_400_000)], crs=32613),
         box(450_000, 4_300_000, 560_000, 4_400_000), 32613),
        (xgc.GeoSlice((-900_000, 1_800_000, -700_000, 1_900_000), crs="EPSG:5070"),
         box(-900_000, 1_800_000, -700_000, 1_900_000), 5070),
        (mapping(LineString([(-111, 37), (-102, 41)])), LineString([(-111, 37), (-102, 41)]), 4326),
        (MultiPoint([(-110, 38), (-103.3, 40.1)]), MultiPoint([(-110, 38), (-103.3, 40.1)]), 4326),
    ],
    ids=["polygon", "utm", "albers", "line", "points"],
)  # fmt: skip
@pytest.mark.parametrize("time", [None, "2024-08-05", ("2024-07-20", "2024-08-02")])
def test_a_thousand_real_scenes_answer_as_geopandas_does(
    aoi, geometry, crs, time, planetary_computer, shared_data
):
    frame = gpd.read_parquet(shared_data / "stac" / "1000-sentinel-2-items.parquet")
    place = gpd.GeoSeries([geometry], crs=crs).segmentize(200 if crs != 4326 else 0.01)
    hit = frame.intersects(place.to_crs(4326)[0])
    if time is not None:
        first, last = (time, time) if isinstance(time, str) else time
        when = frame["datetime"].dt.tz_convert(None)
        hit &= (when >= first) & (when < pd.Timestamp(last) + pd.Timedelta("1D"))
    assert 0 < hit.sum() < len(frame)
    assert ids(planetary_computer.geocat.query(aoi, time)) == list(frame["id"][hit])
