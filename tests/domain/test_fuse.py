"""Fuse: the first valid pixel wins, each scene in its own numbers; nothing is mixed in silence."""

import numpy as np
import pytest
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from odc.geo.geobox import GeoBox

import xgeocat as xgc
from tests.domain import scenes
from xgeocat.domain.assets import scenes_of
from xgeocat.domain.fuse import first_valid, load_steps

GRID = GeoBox((70, 90), scenes.GRID, scenes.UTM)
#: Half a scene further east and south.
SHIFTED = scenes.GRID @ Affine.translation(45, 35)


def rows(*items):
    return scenes_of(xgc.from_items(items))


def placed(values, dy=0, dx=0, shape=(105, 135), fill=0):
    """Values on a larger grid."""
    made = np.full(shape, fill, values.dtype)
    made[dy : dy + values.shape[0], dx : dx + values.shape[1]] = values
    return made


@given(st.lists(arrays(np.int16, (3, 4), elements=st.integers(0, 3)), min_size=1, max_size=4))
def test_each_cell_is_from_the_first_layer_that_has_one(layers):
    kept = [layer.copy() for layer in layers]
    want = np.zeros((3, 4), np.int16)
    for layer in reversed(layers):
        want = np.where(layer != 0, layer, want)
    np.testing.assert_array_equal(first_valid(*layers, nodata=0), want)
    np.testing.assert_array_equal(layers, kept)


def test_nan_is_no_value_whatever_nodata_says():
    layers = np.array([[np.nan, -9, 1, np.nan]]), np.array([[2.0, 3, 4, -9]])
    np.testing.assert_array_equal(first_valid(*layers, nodata=-9.0), [[2, 3, 1, -9]])
    np.testing.assert_array_equal(first_valid(*layers, nodata=None), [[2, -9, 1, -9]])


def test_two_scenes_fuse_as_numpy_does(make_item):
    one, two = scenes.pixels(seed=1), scenes.pixels(seed=2)
    items = [make_item("a", red=one), make_item("b", red=two, cog={"transform": SHIFTED})]
    whole = GeoBox((105, 135), scenes.GRID, scenes.UTM)
    a, b = rows(*items)
    for step, layers in (([a, b], (one, two)), ([b, a], (two, one))):
        at = {id(one): (0, 0), id(two): (35, 45)}
        top, under = (placed(v, *at[id(v)]) for v in layers)
        cube = load_steps([step], whole, ["red"], chunks=50)
        assert dict(cube.sizes) == {"time": 1, "y": 105, "x": 135}
        np.testing.assert_array_equal(cube["red"].values[0], np.where(top != 0, top, under))
        assert cube["red"].attrs == {"nodata": 0}
        assert cube.attrs["scenes"] == [s.name for s in step]


def test_steps_are_in_the_order_given_at_the_time_of_their_earliest_scene(make_item):
    items = [
        make_item(name, red=scenes.pixels(seed=n), when=f"2024-06-{day}T{hour}:00:00Z")
        for n, (name, day, hour) in enumerate([("a", "01", 12), ("b", "01", 11), ("c", "02", 10)])
    ]
    a, b, c = rows(*items)
    cube = load_steps([[a, b], [c]], GRID, ["red"])
    times = np.array(["2024-06-01T11", "2024-06-02T10"], "datetime64[us]")
    np.testing.assert_array_equal(cube.time.values, times)
    one, two = scenes.pixels(seed=0), scenes.pixels(seed=1)
    np.testing.assert_array_equal(cube["red"].values[0], np.where(one != 0, one, two))
    np.testing.assert_array_equal(cube["red"].values[1], scenes.pixels(seed=2))
    assert cube["red"].encoding["grid_mapping"] == "spatial_ref"


# --- numbers that mean different things -----------------------------------------------------------


@pytest.fixture
def baselines(make_item):
    """Two scenes of one day, before and after Sentinel-2's offset, and with other nodata."""
    one, two = scenes.pixels(seed=1), scenes.pixels(seed=2)
    two = np.where(two == 0, 65535, two).astype("uint16")
    items = [
        make_item("old", red=one, about={"raster:scale": 1e-4, "raster:offset": 0.0}),
        make_item("new", red=two, cog={"nodata": 65535},
                  about={"raster:scale": 1e-4, "raster:offset": -0.1}),
    ]  # fmt: skip
    return rows(*items), one, two


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_each_scene_is_scaled_by_its_own_numbers_before_it_is_fused(baselines, order):
    found, one, two = baselines
    physical = [
        np.where(one != 0, one.astype("f4") * np.float32(1e-4), np.nan),
        np.where(two != 65535, two.astype("f4") * np.float32(1e-4) + np.float32(-0.1), np.nan),
    ]
    top, under = (physical[i] for i in order)
    cube = load_steps([[found[i] for i in order]], GRID, ["red"], mask_and_scale=True)
    assert cube["red"].dtype == np.float32
    scenes.assert_same(cube["red"].values[0], np.where(np.isnan(top), under, top))


@pytest.mark.parametrize("steps", [1, 2])
def test_stored_numbers_that_mean_different_things_are_refused(baselines, steps):
    old, new = baselines[0]
    groups = [[old, new]] if steps == 1 else [[old], [new]]
    with pytest.raises(ValueError, match=r"(?s)old.*new.*offset.*mask_and_scale=True"):
        load_steps(groups, GRID, ["red"])


def test_other_dtypes_are_refused_and_physical_values_are_not(make_item):
    a, b = rows(
        make_item("a", red=scenes.pixels(dtype="uint16", seed=1)),
        make_item("b", red=scenes.pixels(dtype="float32", seed=2)),
    )
    with pytest.raises(ValueError, match="uint16.*float32"):
        load_steps([[a, b]], GRID, ["red"])
    assert load_steps([[a, b]], GRID, ["red"], mask_and_scale=True)["red"].dtype == np.float32


@pytest.mark.parametrize("mask_and_scale", [True, False])
def test_integers_without_nodata_are_refused_until_somebody_says_which(make_item, mask_and_scale):
    made = make_item("a", red=scenes.pixels(seed=1), cog={"nodata": None})
    ds = xgc.from_items([made])
    with pytest.raises(ValueError, match=r"(?s)\['red'\] of scene a have no nodata.*fillna\(0\)"):
        load_steps([[scenes_of(ds)[0]]], GRID, ["red"], mask_and_scale=mask_and_scale)
    ds["nodata"] = ds["nodata"].fillna(0)
    beyond = GeoBox((80, 90), scenes.GRID, scenes.UTM)
    cube = load_steps([[scenes_of(ds)[0]]], beyond, ["red"], mask_and_scale=mask_and_scale)
    bottom = cube["red"].values[0, 70:]
    assert np.isnan(bottom).all() if mask_and_scale else (bottom == 0).all()


def test_floats_without_nodata_are_nan_where_no_scene_is(make_item):
    values = scenes.pixels(dtype="float32", seed=1)
    made = make_item("a", red=values, cog={"nodata": None})
    beyond = GeoBox((80, 90), scenes.GRID, scenes.UTM)
    got = load_steps([rows(made)], beyond, ["red"])["red"].values[0]
    np.testing.assert_array_equal(got[:70], values)
    assert np.isnan(got[70:]).all()


def test_a_band_that_one_scene_lacks_is_an_error(make_item):
    a, b = rows(make_item("a", red=scenes.pixels()), make_item("b", nir=scenes.pixels()))
    with pytest.raises(KeyError, match="b has no band"):
        load_steps([[a, b]], GRID, ["red"])
