"""Across: no pixel is lost where a raster crosses the antimeridian or holds a pole."""

import numpy as np
import pyproj
import pytest
from affine import Affine
from odc.geo.geobox import GeoBox

import xgeocat as xgc
from tests.domain import scenes
from xgeocat.domain.across import is_cut
from xgeocat.domain.assets import scenes_of
from xgeocat.domain.load import load_scene


def grid(west, north, step, shape, crs="EPSG:4326"):
    return GeoBox(shape, Affine(step, 0, west, 0, -step, north), crs)


UTM01 = grid(300000, 7500000, 1000, (110, 110), "EPSG:32601")
INLAND = grid(500000, 4300000, 10, (100, 100), "EPSG:32610")
POLE = grid(-60000, 60000, 1000, (120, 120), "EPSG:3413")


def asked(values, source, target):
    """The oracle: each cell of the target is asked, by pyproj, which pixel its middle is in."""
    lon, lat = np.meshgrid(*(np.asarray(c.values) for c in reversed(target.coords.values())))
    to_source = pyproj.Transformer.from_crs(str(target.crs), str(source.crs), always_xy=True)
    column, row = ~source.transform @ to_source.transform(lon.ravel(), lat.ravel())
    j, i = np.floor(column).astype(int), np.floor(row).astype(int)
    inside = (i >= 0) & (i < values.shape[0]) & (j >= 0) & (j < values.shape[1])
    made = np.zeros(lon.size, values.dtype)
    made[inside] = values[i[inside], j[inside]]
    return made.reshape(target.shape)


@pytest.mark.parametrize(("source", "target", "want"), [
    (INLAND, grid(-123, 39, 0.001, (9, 9)), False), (INLAND, INLAND, False),
    (UTM01, UTM01, False), (UTM01, grid(179, 68, 0.01, (9, 9)), True),
    (INLAND, grid(175, 68, 0.01, (9, 600)), True),
    (POLE, grid(0, 90, 0.1, (9, 9)), True), (POLE, POLE, False),
    (grid(-180, 90, 1, (180, 360)), POLE, True), (grid(-180, 90, 1, (180, 360)), INLAND, False),
    (grid(-180, 90, 1, (180, 360)), grid(170, 10, 1, (20, 20)), True),
])  # fmt: skip
def test_jumps_of_longitude_are_found(source, target, want):
    assert is_cut(source, target) is want


@pytest.mark.parametrize(("west", "shape"), [
    (177.5, (100, 250)), (-180, (100, 120)), (179, (100, 250)), (-182.5, (100, 350)),
    (180, (100, 120)),
])  # fmt: skip
def test_a_scene_across_180_degrees_is_whole_on_each_side(make_item, west, shape):
    values = scenes.pixels((110, 110), seed=3)
    cog = {"crs": "EPSG:32601", "transform": UTM01.transform}
    (scene,) = scenes_of(xgc.from_items([make_item("a", cog=cog, red=values)]))
    target = grid(west, 67.6, 0.01, shape)
    cube = load_scene(scene, target, ["red"], chunks=64)
    want = asked(values, UTM01, target)
    assert (want != 0).sum() > 500
    np.testing.assert_array_equal(cube["red"].values[0], want)
    assert cube["red"].chunks is not None
    assert cube.odc.geobox == target


@pytest.mark.parametrize("resampling", ["nearest", "mode", "average"])
def test_chunks_change_nothing(make_item, resampling):
    cog = {"crs": "EPSG:32601", "transform": UTM01.transform}
    values = scenes.pixels((110, 110), dtype="float32", seed=3)
    (scene,) = scenes_of(xgc.from_items([make_item("a", cog=cog, red=values)]))
    target = grid(178, 67.6, 0.01, (100, 250))
    one, other = (
        load_scene(scene, target, ["red"], resampling=resampling, chunks=c)["red"]
        for c in (37, 999)
    )
    np.testing.assert_allclose(one, other, rtol=1e-3)
    assert ((one.values[0] != 0) == (asked(values, UTM01, target) != 0)).mean() > 0.95


@pytest.mark.parametrize("target", [
    grid(-180, 90, 0.05, (12, 7200)), grid(0, 89.9, 0.01, (20, 900)), grid(170, 89.8, 0.1, (5, 200)),
])  # fmt: skip
def test_a_scene_over_the_pole_is_whole_in_degrees(make_item, target):
    values = scenes.pixels((120, 120), seed=4)
    cog = {"crs": "EPSG:3413", "transform": POLE.transform}
    (scene,) = scenes_of(xgc.from_items([make_item("a", cog=cog, red=values)]))
    got = load_scene(scene, target, ["red"], chunks=512)["red"].values[0]
    want = asked(values, POLE, target)
    assert (want != 0).mean() > 0.05
    # Where a cell falls on the edge of a pixel, either is right.
    assert (got == want).mean() > 0.999


@pytest.mark.parametrize("west", [175, -185, 178])
def test_a_raster_in_degrees_is_found_beyond_180(make_item, west):
    values = scenes.pixels((20, 60), seed=5)
    items = [
        make_item("east", cog={"crs": "EPSG:4326", "transform": Affine(0.1, 0, 174, 0, -0.1, 2)},
                  red=values),
        make_item("west", cog={"crs": "EPSG:4326", "transform": Affine(0.1, 0, -180, 0, -0.1, 2)},
                  red=values + 1),
    ]  # fmt: skip
    ds = xgc.from_items(items)
    target = grid(west, 2, 0.1, (20, 100))
    got = [
        load_scene(scene, target, ["red"], chunks=33)["red"].values[0] for scene in scenes_of(ds)
    ]
    columns = (np.round((west + 180) * 10).astype(int) + np.arange(100)) % 3600
    want = [np.zeros((20, 3600), values.dtype) for _ in items]
    want[0][:, 3540:3600] = values
    want[1][:, :60] = values + 1
    for found, whole in zip(got, want, strict=True):
        np.testing.assert_array_equal(found, whole[:, columns])


def test_real_scenes_across_180_degrees_are_whole_on_both_sides(shared_data):
    ds = xgc.from_items(shared_data / "s2_antimeridian" / "catalog.json")
    scene = scenes_of(ds)[0]
    values = scenes.read(scene.hrefs["red"])
    # The item says 10 m, and the file has 120 m.
    source = grid(300000, 7500000, 120, (915, 915), "EPSG:32601")
    for west in (177.5, -180, 179):
        target = grid(west, 67.6, 0.004, (250, 600))
        got = load_scene(scene, target, ["red"], chunks=256)["red"].values[0]
        np.testing.assert_array_equal(got, asked(values, source, target))
