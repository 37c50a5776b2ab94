"""CatalogDomain(groupby="solar_day"): one slice for all scenes of a day, on a grid of them all."""

import numpy as np
import pytest
import shapely
from affine import Affine
from odc.geo.crs import CRS

import xgeocat as xgc
from tests.domain import scenes


@pytest.fixture
def swaths(make_item):
    """Two days of two neighbours; the second day's pass is round midnight UTC."""
    when = ["2024-06-01T18:00:00Z", "2024-06-01T18:00:20Z", "2024-06-11T23:59:50Z",
            "2024-06-12T00:00:10Z"]  # fmt: skip
    items = [
        make_item(
            f"s{i}", red=scenes.pixels(seed=i), when=moment,
            cog={"transform": scenes.GRID @ Affine.translation(60 * (i % 2), -30 * (i % 2))},
            properties={"platform": "made", "n": i},
        )
        for i, moment in enumerate(when)
    ]  # fmt: skip
    return xgc.from_items(items)


def fused(top, under, dy, dx, shape):
    """The oracle: the first on top, the other `dy` up and `dx` right of it."""
    made = [np.zeros(shape, top.dtype) for _ in range(2)]
    made[0][dy : dy + 70, :90] = top
    made[1][:70, dx : dx + 90] = under
    return np.where(made[0] != 0, *made)


def test_a_day_is_one_slice_on_the_union_of_its_grids(swaths):
    domain = swaths.geocat.domain(groupby="solar_day")
    pieces = list(domain.slices())
    assert [p.name for p in pieces] == ["2024-06-01", "2024-06-11"]
    assert [p.scenes for p in pieces] == [("s0", "s1"), ("s2", "s3")]
    assert len(domain) == 2
    for k, piece in enumerate(pieces):
        assert piece.shape == (100, 150)
        assert piece.bounds == (500000, 4299300, 501500, 4300300)
        times = swaths.start_time.values[2 * k : 2 * k + 2]
        assert piece.interval == tuple(times)
        assert piece.properties["platform"] == "made"
        assert "n" not in piece.properties
        assert piece.properties["source:scenes"] == list(piece.scenes)
        want = shapely.union_all(swaths.geometry.values[2 * k : 2 * k + 2])
        assert piece.footprint.symmetric_difference(want).area < 1e-6 * want.area
        one, two = (scenes.pixels(seed=2 * k + i) for i in (0, 1))
        cube = domain.load(piece)
        assert cube.sizes["time"] == 1
        got = cube["red"].values[0]
        np.testing.assert_array_equal(got, fused(one, two, 30, 60, (100, 150)))


def test_the_order_of_the_catalog_says_which_scene_is_on_top(swaths):
    domain = swaths.isel(scene=[1, 0]).geocat.domain(groupby="solar_day")
    (piece,) = domain.slices()
    under, top = (scenes.pixels(seed=i) for i in (0, 1))
    made = np.zeros((2, 100, 150), "uint16")
    made[0, :70, 60:] = top
    made[1, 30:, :90] = under
    np.testing.assert_array_equal(
        domain.load(piece)["red"].values[0], np.where(made[0] != 0, *made)
    )


def test_a_resolution_puts_all_days_on_multiples_of_it(swaths):
    domain = swaths.geocat.domain(groupby="solar_day", resolution=30)
    for piece in domain.slices():
        edges = np.array(piece.bounds) / 30
        np.testing.assert_array_equal(edges, np.round(edges))
        assert piece.resolution == 30
        assert domain.load(piece)["red"].shape == (1, *piece.shape)
    other = swaths.geocat.domain(groupby="solar_day", crs="EPSG:3857", resolution=30)
    assert {p.crs for p in other.slices()} == {CRS("EPSG:3857")}


def test_scenes_on_pixels_of_their_own_have_no_union(make_item):
    items = [
        make_item(name, red=scenes.pixels(), cog={"transform": scenes.GRID @ Affine.translation(x, 0)})
        for name, x in (("a", 0), ("b", 7.5))
    ]  # fmt: skip
    catalog = xgc.from_items(items)
    with pytest.raises(
        ValueError, match=r"a is not on the own pixels of scene b.*0\.5.*resolution"
    ):
        catalog.geocat.domain(groupby="solar_day")
    assert len(catalog.geocat.domain(groupby="solar_day", resolution=10.5)) == 1


def test_refusals(swaths, make_item):
    with pytest.raises(ValueError, match="'solar_day' or None"):
        swaths.geocat.domain(groupby="month")
    with pytest.raises(ValueError, match="needs resolution="):
        swaths.geocat.domain(groupby="solar_day", crs="EPSG:3857")
    made = make_item("a", red=scenes.pixels())
    made["properties"] = {"datetime": None}
    with pytest.raises(ValueError, match="no time"):
        xgc.from_items([made]).geocat.domain(groupby="solar_day")
    domain = swaths.geocat.domain(groupby="solar_day")
    with pytest.raises(ValueError, match=r"domain\.slices\(\)"):
        domain.load(xgc.GeoSlice(geobox=next(domain.slices()).geobox, scenes=["s0", "s9"]))
    alone = swaths.geocat.domain()
    with pytest.raises(ValueError, match="one scene"):
        alone.load(next(domain.slices()))


def test_an_empty_catalog_has_no_days(swaths):
    domain = swaths.isel(scene=[]).geocat.domain(groupby="solar_day")
    assert (len(domain), list(domain.slices()), domain.bounds) == (0, [], None)


def test_one_swath_on_both_sides_of_180_degrees_is_one_day(make_item):
    """East of Fiji at local noon: UTC midnight, in the zones 60 and 1."""
    transform = Affine(1000, 0, 700000, 0, -1000, 8000000)
    items = [
        make_item("west", red=scenes.pixels(), cog={"crs": "EPSG:32760", "transform": transform},
                  when="2024-06-01T00:10:00Z"),
        make_item("east", red=scenes.pixels(seed=1), when="2024-06-01T00:10:05Z",
                  cog={"crs": "EPSG:32701", "transform": Affine(1000, 0, 260000, 0, -1000, 8e6)}),
    ]  # fmt: skip
    catalog = xgc.from_items(items)
    domain = catalog.geocat.domain(groupby="solar_day", crs="EPSG:3832", resolution=2000)
    (piece,) = domain.slices()
    assert piece.name == "2024-06-01"
    values = domain.load(piece)["red"].values[0]
    # Both halves are there.
    assert (values[:, : values.shape[1] // 4] != 0).mean() > 0.5
    assert (values[:, -values.shape[1] // 4 :] != 0).mean() > 0.5
    own = catalog.geocat.domain(groupby="solar_day", crs="native")
    assert [p.name for p in own.slices()] == ["2024-06-01_EPSG32701", "2024-06-01_EPSG32760"]


def test_real_scenes_at_180_degrees_are_of_two_days(shared_data):
    """Two of one pass at 2023-06-02T00:07, one of the next day's; all in UTM zone 1."""
    catalog = xgc.from_items(shared_data / "s2_antimeridian" / "catalog.json")
    domain = catalog.geocat.domain(bands=["red"], resolution=120, groupby="solar_day")
    found = {piece.name: piece for piece in domain.slices()}
    assert {name: [s[-6:] for s in piece.scenes] for name, piece in found.items()} == {
        "2023-06-02": ["T01WCQ", "T01WCR"], "2023-06-03": ["T01WCQ"],
    }  # fmt: skip
    for piece in found.values():
        assert (domain.load(piece)["red"] != 0).mean() > 0.1
