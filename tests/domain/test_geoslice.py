"""GeoSlice: a frozen request for one piece of the world and of time."""

import copy
import dataclasses
import math
import pickle

import numpy as np
import pytest
import shapely
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox

import xgeocat as xgc

UTM = "EPSG:32610"
BOX = (500000.0, 4290000.0, 510000.0, 4300000.0)
GRID = GeoBox((70, 90), Affine(10, 0, 500000, 0, -10, 4300000), UTM)


def test_bounds_resolution_and_crs_give_a_grid_from_the_north_west_corner():
    piece = xgc.GeoSlice(bounds=BOX, resolution=10, crs=UTM)
    assert piece.shape == (1000, 1000)
    assert piece.geobox.transform == Affine(10, 0, BOX[0], 0, -10, BOX[3])
    assert piece.geobox.crs == CRS(UTM)
    assert piece.bounds == BOX
    assert piece.resolution == 10


def test_a_geobox_gives_bounds_crs_shape_and_resolution():
    piece = xgc.GeoSlice(geobox=GRID)
    assert piece.geobox == GRID
    assert piece.bounds == (500000, 4299300, 500900, 4300000)
    assert (piece.shape, piece.resolution, piece.crs) == ((70, 90), 10, CRS(UTM))


def test_interval_is_closed_and_a_bare_date_means_all_of_it():
    piece = xgc.GeoSlice(bounds=BOX, interval=("2024-08-01", "2024-08-15"), crs=UTM)
    start, end = piece.interval
    assert start == np.datetime64("2024-08-01T00:00:00", "us")
    assert end == np.datetime64("2024-08-15T23:59:59.999999", "us")


def test_interval_in_another_time_zone_becomes_utc():
    piece = xgc.GeoSlice(bounds=BOX, interval="2024-08-01T02:00:00+02:00", crs=UTM)
    assert piece.interval == (np.datetime64("2024-08-01T00:00:00", "us"),) * 2


def test_without_interval_there_is_none():
    assert xgc.GeoSlice(bounds=BOX, crs=UTM).interval is None


@pytest.mark.parametrize("name", ["bounds", "interval", "crs", "grid", "scenes", "new"])
def test_it_is_frozen(name):
    piece = xgc.GeoSlice(geobox=GRID)
    with pytest.raises((dataclasses.FrozenInstanceError, AttributeError, TypeError)):
        setattr(piece, name, None)


def test_the_mapping_it_was_made_from_can_change_without_changing_it():
    properties, scenes = {"eo:cloud_cover": 3}, ["a"]
    piece = xgc.GeoSlice(geobox=GRID, properties=properties, scenes=scenes)
    properties["eo:cloud_cover"] = 99
    scenes.append("b")
    assert piece.properties == {"eo:cloud_cover": 3}
    assert piece.scenes == ("a",)


def one(**changes):
    return xgc.GeoSlice(**{"geobox": GRID, "interval": "2024-08", "scenes": ("a",), **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {"geobox": GRID.pad(1)},
        {"interval": "2024-07"},
        {"interval": None},
        {"scenes": ("b",)},
        {"geobox": GeoBox(GRID.shape, GRID.transform, "EPSG:32611")},
    ],
)
def test_it_equals_its_like_and_nothing_else(changes):
    assert one() == one()
    assert hash(one()) == hash(one())
    assert one(**changes) != one()
    assert len({one(), one(), one(**changes)}) == 2


def test_what_is_merely_known_of_it_does_not_change_its_identity():
    assert one(properties={"a": 1}, footprint=shapely.box(0, 0, 1, 1)) == one()


@pytest.mark.parametrize(
    "clone", [copy.copy, copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))]
)
@pytest.mark.parametrize(
    "piece",
    [
        xgc.GeoSlice(bounds=BOX),
        xgc.GeoSlice(bounds=BOX, resolution=30, crs=UTM, interval="2024"),
        one(properties={"eo:cloud_cover": 1.5}, footprint=shapely.box(0, 0, 1, 1)),
    ],
    ids=["aoi", "request", "scene"],
)
def test_it_survives_copies_and_pickling_with_all_it_carries(piece, clone):
    other = clone(piece)
    assert other == piece
    assert hash(other) == hash(piece)
    assert other.properties == piece.properties
    assert other.footprint == piece.footprint


def test_with_interval_keeps_place_grid_and_scenes():
    moved = one(properties={"a": 1}).with_interval("2020")
    assert moved.geobox == GRID
    assert moved.scenes == ("a",)
    assert moved.properties == {"a": 1}
    assert moved.interval[0] == np.datetime64("2020-01-01", "us")
    bare = xgc.GeoSlice(bounds=BOX, crs=UTM).with_interval("2020")
    assert (bare.bounds, bare.crs, bare.grid) == (BOX, CRS(UTM), None)


def test_an_aoi_without_a_grid_says_what_is_missing_when_asked_for_one():
    piece = xgc.GeoSlice(bounds=BOX, crs=UTM)
    assert piece.resolution is None
    assert piece.grid is None
    with pytest.raises(ValueError, match="resolution="):
        _ = piece.geobox
    with pytest.raises(ValueError, match="resolution="):
        _ = piece.shape


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "bounds"),
        ({"bounds": BOX, "geobox": GRID}, "geobox"),
        ({"bounds": (2, 0, 1, 1), "crs": UTM}, "west, south"),
        ({"bounds": (0, 2, 1, 1)}, "west, south"),
        ({"bounds": (0, 0, 0, 1)}, "west, south"),
        ({"bounds": (0, 0, math.nan, 1)}, "bounds"),
        ({"bounds": (0, 0, math.inf, 1), "resolution": 1, "crs": UTM}, "bounds"),
        ({"bounds": (0, 0, 1)}, "bounds|west"),
        ({"bounds": BOX, "resolution": 10}, "crs"),
        ({"bounds": BOX, "resolution": 0, "crs": UTM}, "resolution"),
        ({"bounds": BOX, "resolution": -10, "crs": UTM}, "resolution"),
        ({"bounds": BOX, "resolution": math.nan, "crs": UTM}, "resolution"),
        ({"bounds": BOX, "resolution": math.inf, "crs": UTM}, "resolution"),
        ({"bounds": BOX, "interval": ("2024-08-02", "2024-08-01")}, "ends"),
        ({"bounds": BOX, "interval": "yesterday"}, "time"),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_name(arguments, words):
    with pytest.raises(ValueError, match=words):
        xgc.GeoSlice(**arguments)


@pytest.mark.parametrize("extra", [{"resolution": 30}, {"crs": "EPSG:3857"}])
def test_a_grid_beside_a_geobox_is_refused_rather_than_ignored(extra):
    with pytest.raises(ValueError, match="geobox"):
        xgc.GeoSlice(geobox=GRID, **extra)


@given(
    west=st.floats(-1e6, 1e6),
    north=st.floats(-1e6, 1e6),
    rows=st.integers(1, 4000),
    columns=st.integers(1, 4000),
    resolution=st.sampled_from([0.1, 1 / 3, 0.6, 10.0, 15.5, 30.0, 120.0]),
)
def test_bounds_of_whole_pixels_give_exactly_those_pixels(west, north, rows, columns, resolution):
    box = (west, north - rows * resolution, west + columns * resolution, north)
    piece = xgc.GeoSlice(bounds=box, resolution=resolution, crs=UTM)
    assert piece.shape == (rows, columns)


@given(
    west=st.floats(-1e6, 1e6),
    south=st.floats(-1e6, 1e6),
    width=st.floats(1, 1e5),
    height=st.floats(1, 1e5),
    resolution=st.floats(1, 1000),
)
def test_the_grid_covers_the_bounds_with_less_than_a_pixel_to_spare(
    west, south, width, height, resolution
):
    box = (west, south, west + width, south + height)
    grid = xgc.GeoSlice(bounds=box, resolution=resolution, crs=UTM).geobox.boundingbox
    slack = 1e-5 * resolution
    assert grid.left == pytest.approx(box[0])
    assert grid.top == pytest.approx(box[3])
    assert -slack <= grid.right - box[2] < resolution + slack
    assert -slack <= box[1] - grid.bottom < resolution + slack


def test_names_come_from_scenes_else_time_else_place():
    assert one(scenes=("a",)).name == "a"
    assert one(scenes=("a", "b")).name == "a+b"
    timed = xgc.GeoSlice(geobox=GRID, interval="2024-08-01T10:20:30")
    assert timed.name == "2024-08-01T102030"
    assert xgc.GeoSlice(geobox=GRID).name == "500000_4299300_500900_4300000"


def test_a_slice_with_an_interval_is_a_place_and_a_time_to_query(make_catalog):
    catalog = make_catalog(3)
    here = xgc.GeoSlice(bounds=(500000, 4299300, 500900, 4300000), crs=UTM, interval="2024-06-02")
    assert catalog.geocat.query(here).scene.values.tolist() == ["s1"]
    away = xgc.GeoSlice(bounds=(900000, 4299300, 900900, 4300000), crs=UTM, interval="2024-06-02")
    assert catalog.geocat.query(away).sizes["scene"] == 0
    anytime = xgc.GeoSlice(bounds=(500000, 4299300, 500900, 4300000), crs=UTM)
    assert catalog.geocat.query(anytime).sizes["scene"] == 3
    # A time that is given is stronger than the slice's own.
    assert catalog.geocat.query(here, time="2024-06-03").scene.values.tolist() == ["s2"]


def test_a_slice_of_a_domain_finds_its_own_scene(make_catalog):
    catalog = make_catalog(3)
    for piece in catalog.geocat.domain().slices():
        assert catalog.geocat.query(piece).scene.values.tolist() == list(piece.scenes)


def test_a_slice_across_the_antimeridian_is_an_aoi_like_the_same_bbox():
    box = (179.0, 60.0, -179.0, 61.0)
    items = [
        {"type": "Feature", "stac_version": "1.1.0", "id": name, "bbox": list(shape.bounds),
         "geometry": shapely.geometry.mapping(shape), "links": [], "assets": {},
         "properties": {"datetime": "2024-06-01T00:00:00Z"}}
        for name, shape in [("east", shapely.box(179.5, 60, 179.9, 61)),
                            ("west", shapely.box(-179.9, 60, -179.5, 61)),
                            ("away", shapely.box(0, 60, 1, 61))]
    ]  # fmt: skip
    catalog = xgc.from_items(items)
    assert catalog.geocat.query(box).scene.values.tolist() == ["east", "west"]
    piece = xgc.GeoSlice(bounds=box, crs="EPSG:4326")
    assert catalog.geocat.query(piece).scene.values.tolist() == ["east", "west"]


def test_a_label_is_the_name_whatever_else_there_is():
    grid = GeoBox((2, 2), Affine(10, 0, 0, 0, -10, 0), "EPSG:32610")
    many = [f"scene{i}" for i in range(100)]
    piece = xgc.GeoSlice(geobox=grid, scenes=many, interval="2024", label="x1_y2_2024")
    assert piece.name == "x1_y2_2024"
    assert piece.with_interval("2025").name == "x1_y2_2024"
    assert piece != xgc.GeoSlice(geobox=grid, scenes=many, interval="2024")
    assert pickle.loads(pickle.dumps(piece)) == piece
