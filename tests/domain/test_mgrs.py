"""MGRS: squares are called and lie as those of real Sentinel-2 tiles, in the zone of each place."""

import json

import numpy as np
import pyproj
import pytest
import shapely
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from xgeocat.domain.mgrs import EDGE, Square, squares, zone_limits


def test_squares_are_named_as_the_tiles_of_real_scenes(shared_data):
    """A Sentinel-2 tile starts 20 m beside the north-west corner of the square it is named by."""
    found = {}
    for path in (shared_data / "stac").glob("*.ndjson"):
        for line in path.read_text().splitlines():
            item = json.loads(line) if line.strip() else {}
            said = item.get("properties", {})
            tile = said.get("s2:mgrs_tile", said.get("grid:code", ""))
            tile = tile.removeprefix("MGRS-") if isinstance(tile, str) else ""
            code = said.get("proj:epsg") or str(said.get("proj:code", "")).removeprefix("EPSG:")
            for asset in item.get("assets", {}).values():
                transform = asset.get("proj:transform")
                shape = asset.get("proj:shape") or [0]
                if transform and len(tile) == 5 and abs(transform[0]) * shape[0] == 109800 and code:
                    found[tile] = (int(code), transform[2], transform[5])
    # This one has the grid of its neighbour.
    assert found.pop("34LBQ") == found["34LBP"]
    assert len(found) > 50
    for tile, (code, west, north) in found.items():
        square = Square(code % 100, code // 100 == 327, round(west / EDGE), round(north / EDGE) - 1)
        assert (square.name, square.epsg) == (tile, code)


@pytest.mark.parametrize(("zone", "south", "column", "row", "name"), [
    (33, False, 5, 51, "33TWM"), (33, False, 5, 50, "33TWL"), (1, False, 3, 74, "01WCQ"),
    (10, False, 7, 43, "10SGJ"), (56, True, 3, 62, "56HLH"), (31, False, 4, 54, "31UDQ"),
    (29, False, 2, 27, "29RKH"), (22, True, 2, 58, "22HBD"), (46, False, 5, 91, "46XES"),
])  # fmt: skip
def test_names_of_known_squares(zone, south, column, row, name):
    assert Square(zone, south, column, row).name == name


@settings(max_examples=60, deadline=None)
@given(st.floats(-179.9, 179.9), st.floats(-79.9, 83.9))
def test_every_place_is_in_the_limits_of_one_zone_and_in_one_of_its_squares(longitude, latitude):
    # Not on a border.
    assume(min(longitude % 3, 3 - longitude % 3, abs(latitude)) > 1e-3)
    place = shapely.Point(longitude, latitude).buffer(1e-4)
    inside = [
        square for square, limits in squares(place)
        if limits.contains(shapely.Point(longitude, latitude))
        and shapely.box(square.column, square.row, square.column + 1, square.row + 1).contains(
            shapely.Point(*(np.array(pyproj.Transformer.from_crs(4326, square.epsg, always_xy=True)
                            .transform(longitude, latitude)) / EDGE)))
    ]  # fmt: skip
    assert len(inside) == 1
    if not 56 <= latitude < 64 and latitude < 72:
        assert inside[0].zone == int((longitude + 180) // 6) + 1
    assert inside[0].south == (latitude < 0)


@pytest.mark.parametrize(("longitude", "latitude", "zone"), [
    (4, 60, 32), (2, 60, 31), (8, 75, 31), (10, 75, 33), (22, 75, 35), (34, 75, 37), (41.9, 83, 37),
])  # fmt: skip
def test_norway_and_svalbard_have_their_own_zones(longitude, latitude, zone):
    place = shapely.Point(longitude, latitude)
    zones = [n for n in range(1, 61) if zone_limits(n, south=False).contains(place)]
    assert zones == [zone]


def test_zones_tile_the_globe_between_80_south_and_84_north():
    limits = [zone_limits(n, south) for n in range(1, 61) for south in (True, False)]
    assert sum(shape.area for shape in limits) == pytest.approx(360 * 164)
    assert shapely.union_all(limits).equals(shapely.box(-180, -80, 180, 84))


def test_names_are_unique_in_a_zone():
    rows = range(0, 93)
    for zone in (1, 2, 33):
        named = [Square(zone, False, c, r).name for c in range(1, 9) for r in rows]
        named += [Square(zone, True, c, r).name for c in range(1, 9) for r in range(12, 100)]
        assert len(set(named)) == len(named)


def test_beyond_utm_there_are_no_squares():
    assert list(squares(shapely.box(0, 84.5, 10, 86))) == []
    assert list(squares(shapely.box(0, -86, 10, -81))) == []
