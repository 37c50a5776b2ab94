"""Tile grids: which tiles there are, on one lattice, wherever on the globe."""

import geopandas as gpd
import numpy as np
import pyproj
import pytest
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox, GeoboxTiles
from odc.geo.gridspec import GridSpec
from odc.geo.types import xy_

import xgeocat as xgc
from xgeocat.catalog.aoi import WGS84
from xgeocat.domain.tilegrid import candidates, require_grid

UTM = GeoBox((100, 150), Affine(10, 0, 500000, 0, -10, 4300000), "EPSG:32610")


def names(grid, *footprints):
    return [tile.name for tile in candidates(grid, footprints, WGS84)]


def met(grid, *footprints):
    """Tiles that a footprint reaches into, as a domain asks."""
    tree = shapely.STRtree(footprints)
    return [t.name for t in candidates(grid, footprints, WGS84)
            if len(tree.query(t.area(WGS84), "intersects"))]  # fmt: skip


def test_one_grid_is_one_tile():
    (tile,) = candidates(UTM, [], WGS84)
    assert (tile.name, tile.geobox) == ("grid", UTM)


def test_a_grid_that_is_cut_has_a_tile_for_each_piece():
    tiles = candidates(GeoboxTiles(UTM, (40, 60)), [], WGS84)
    assert len(tiles) == 3 * 3
    assert tiles[5].name == "row1_col2"
    assert tiles[5].geobox == UTM[40:80, 120:150]


@settings(max_examples=25, deadline=None)
@given(
    st.floats(-125, -120), st.floats(35, 45), st.floats(0.01, 0.5), st.booleans(),
    st.sampled_from([(0, 0), (3.0, -7.0)]),
)  # fmt: skip
def test_a_grid_spec_has_the_tiles_that_geopandas_finds(west, south, size, flip, origin):
    footprint = shapely.box(west, south, west + size, south + size * 0.7)
    spec = GridSpec("EPSG:32610", (100, 120), 100, origin=xy_(*origin), flipy=flip)
    own = gpd.GeoSeries([shapely.segmentize(footprint, size / 500)], crs=4326).to_crs(32610)[0]
    left, bottom, right, top = own.bounds
    want = set()
    for ix in range(int(left // 12000) - 2, int(right // 12000) + 2):
        for iy in range(int(bottom // 10000) - 2, int(top // 10000) + 2):
            at = (ix, -iy if flip else iy)
            box = spec[at].extent.geom
            if box.intersection(own).area > 1e-3 * 100**2:
                want.add(f"x{at[0]}_y{at[1]}")
    assert set(met(spec, footprint)) == want


def test_to_touch_is_not_enough():
    spec = GridSpec("EPSG:4326", (10, 10), 0.1)
    assert met(spec, shapely.box(1, 1, 2, 2)) == ["x1_y1"]
    assert met(spec, shapely.box(1, 1, 2.01, 2)) == ["x1_y1", "x2_y1"]
    assert met(spec, shapely.box(0.9999999, 1, 2, 2)) == ["x1_y1"]


# --- the lattice ----------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", [
    GridSpec("EPSG:4326", (10, 10), 1 / 3600), GridSpec("EPSG:4326", (512, 512), 1 / 3600),
    GridSpec("EPSG:32610", (7, 13), 0.3), GridSpec("EPSG:3857", (256, 256), 19.109257071294063),
])  # fmt: skip
@pytest.mark.parametrize("number", [1, 17, 300, 10_000])
def test_no_rounding_moves_a_tile(spec, number):
    """Corners against exact fractions: in pixels, far from the origin, on all four sides."""
    rows, columns = spec.tile_shape
    for sign in (1, -1):
        tile = spec[sign * number, sign * number]
        rx, ry = tile.resolution.xy
        west, top = tile.transform.c / rx, tile.transform.f / ry
        assert west == pytest.approx(sign * number * columns, abs=1e-6)
        assert top == pytest.approx(-(sign * number + 1) * rows, abs=1e-6)
        right = spec[sign * number + 1, sign * number]
        assert tile.transform @ (columns, 0) == pytest.approx(
            (right.transform.c, right.transform.f), abs=abs(rx) * 1e-6
        )


# --- across 180 degrees and at the poles ----------------------------------------------------------

ACROSS = shapely.MultiPolygon([shapely.box(179, 60, 180, 61), shapely.box(-180, 60, -179, 61)])


def test_a_geographic_grid_has_tiles_on_both_sides_of_180_degrees():
    spec = GridSpec("EPSG:4326", (50, 50), 0.1)
    assert met(spec, ACROSS) == ["x-36_y12", "x35_y12"]
    assert met(spec, shapely.box(175, 60, 180, 61)) == ["x35_y12"]
    assert met(spec, shapely.box(-180, 60, -175, 61)) == ["x-36_y12"]


def test_tiles_that_reach_beyond_180_degrees_count_on_this_side():
    spec = GridSpec("EPSG:4326", (70, 70), 0.1)
    tiles = {tile.name: tile for tile in candidates(spec, [ACROSS], WGS84)}
    assert set(tiles) == {"x-26_y8", "x25_y8"}
    assert tiles["x25_y8"].limits.bounds == (175, -90, 180, 90)
    assert tiles["x-26_y8"].limits.bounds == (-180, -90, -175, 90)


def test_a_web_mercator_tile_lies_on_one_side_of_180_degrees():
    spec = GridSpec.web_tiles(3)
    assert met(spec, ACROSS) == ["x0_y2", "x7_y2"]


def test_utm_zones_meet_at_180_degrees():
    found = {tile.name: tile for tile in candidates(xgc.MGRS(100), [ACROSS], WGS84)}
    assert {name[:2] for name in found} == {"60", "01"}
    for name, tile in found.items():
        west, _, east, _ = tile.limits.bounds
        assert (west, east) == ((174, 180) if name.startswith("60") else (-180, -174))


@pytest.mark.parametrize(("epsg", "south", "north"), [(3413, 89, 90), (3031, -90, -89)])
def test_a_scene_over_a_pole_meets_all_tiles_round_it(epsg, south, north):
    spec = GridSpec(f"EPSG:{epsg}", (500, 500), 1000)
    cap = shapely.box(-180, south, 180, north)
    assert set(met(spec, cap)) == {"x0_y0", "x-1_y0", "x0_y-1", "x-1_y-1"}
    to_polar = pyproj.Transformer.from_crs(4326, epsg, always_xy=True)
    x, y = to_polar.transform(30.0, (south + north) / 2)
    sector = shapely.box(20, south, 40, north)
    assert f"x{int(np.floor(x / 5e5))}_y{int(np.floor(y / 5e5))}" in met(spec, sector)
    assert len(met(spec, sector)) == 1


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", ["utm", None, (1, 2, 3, 4), "EPSG:4326"])
def test_what_says_nothing_of_tiles_is_refused(grid):
    with pytest.raises(TypeError, match="GridSpec.*GeoBox.*GeoboxTiles.*MGRS"):
        require_grid(grid)


@pytest.mark.parametrize("made", [lambda box: box, lambda box: GeoboxTiles(box, (2, 2))])
def test_a_grid_without_a_crs_is_refused(made):
    with pytest.raises(ValueError, match="no CRS"):
        require_grid(made(GeoBox((4, 4), Affine.identity(), None)))


@pytest.mark.parametrize("resolution", [60, 30, 7, 0, -10, float("nan")])
def test_squares_hold_a_whole_number_of_pixels(resolution):
    with pytest.raises(ValueError, match="100 km"):
        xgc.MGRS(resolution)


def test_scenes_beyond_utm_are_refused_not_left_out():
    assert names(xgc.MGRS(100), shapely.box(10, 83.5, 11, 84.5)) != []
    with pytest.raises(ValueError, match="84 degrees north.*EPSG:3413"):
        names(xgc.MGRS(100), shapely.box(0, 45, 1, 46), shapely.box(10, 84.5, 11, 85))


@pytest.mark.parametrize(("spec", "footprint"), [
    (GridSpec("EPSG:3413", (10, 10), 1000), shapely.box(0, -90, 10, -89)),
    (GridSpec("EPSG:3857", (10, 10), 1000), shapely.box(0, 80, 10, 90)),
])  # fmt: skip
def test_scenes_that_a_projection_does_not_reach_are_refused_not_left_out(spec, footprint):
    with pytest.raises(ValueError, match="cannot be projected|outside of where"):
        names(spec, footprint)


def test_names_are_stable_whatever_else_is_there():
    spec = GridSpec("EPSG:4326", (10, 10), 0.1)
    one, other = shapely.box(1.2, 1.2, 1.8, 1.8), shapely.box(50, 50, 52, 52)
    assert names(spec, one)[0] in names(spec, one, other)
