"""Nodata, scale, offset and dtype as STAC says them, in its versions and dialects."""

from __future__ import annotations

import math

import pytest

import xgeocat as xgc
from xgeocat.catalog.radiometry import Radiometry, asset_radiometry

L2A = {"s2:product_type": "S2MSI2A"}


def test_nothing_said_is_nothing_known():
    assert asset_radiometry("red", {"href": "x"}, {}) == Radiometry(None, None, None, None)


@pytest.mark.parametrize(
    ("asset", "expected"),
    [
        # raster extension v1
        (
            {"raster:bands": [{"data_type": "uint16", "nodata": 0, "scale": 1e-4, "offset": -0.1}]},
            ("uint16", 0, 1e-4, -0.1),
        ),
        ({"raster:bands": [{"nodata": -9999}]}, (None, -9999, None, None)),
        ({"raster:bands": [{"scale": 0.01}]}, (None, None, 0.01, None)),
        ({"raster:bands": []}, (None, None, None, None)),
        ({"raster:bands": None}, (None, None, None, None)),
        # STAC 1.1 with raster extension v2: on the band, or common to all bands on the asset
        (
            {"bands": [{"data_type": "int16", "nodata": -1, "raster:scale": 0.5,
                        "raster:offset": 3}]},
            ("int16", -1, 0.5, 3),
        ),
        (
            {"data_type": "uint8", "nodata": 255, "raster:scale": 2, "raster:offset": 1},
            ("uint8", 255, 2, 1),
        ),
        ({"nodata": 255, "bands": [{"nodata": 0}]}, (None, 0, None, None)),
        ({"data_type": "uint8", "bands": [{"name": "red"}]}, ("uint8", None, None, None)),
        # of several bands, the first
        ({"raster:bands": [{"nodata": 1}, {"nodata": 2}]}, (None, 1, None, None)),
        # both extensions in one item: the more specific one says what the other leaves out
        (
            {"bands": [{"name": "red", "data_type": "uint16"}], "raster:bands": [{"nodata": 7}]},
            ("uint16", 7, None, None),
        ),
        # numbers that JSON has no way to write
        ({"raster:bands": [{"nodata": "-inf"}]}, (None, -math.inf, None, None)),
        ({"raster:bands": [{"nodata": "not a number"}]}, (None, None, None, None)),
        ({"raster:bands": [{"nodata": None, "scale": None}]}, (None, None, None, None)),
        # integer bands of old eo extensions say nothing of radiometry
        ({"bands": [0, 1], "eo:bands": [0]}, (None, None, None, None)),
    ],
)  # fmt: skip
def test_an_asset_says_its_radiometry(asset, expected):
    assert asset_radiometry("red", asset, {}) == Radiometry(*expected)


def test_nodata_written_as_the_text_nan_is_nan():
    found = asset_radiometry("dem", {"raster:bands": [{"nodata": "nan"}]}, {})
    assert math.isnan(found.nodata)


def test_the_band_speaks_before_the_asset_and_the_asset_before_the_item():
    item = {"nodata": 1, "raster:scale": 10, "data_type": "uint8"}
    assert asset_radiometry("red", {}, item) == Radiometry("uint8", 1, 10, None)
    asset = {"nodata": 2, "raster:scale": 20}
    assert asset_radiometry("red", asset, item) == Radiometry("uint8", 2, 20, None)
    asset["bands"] = [{"nodata": 3, "raster:scale": 30}]
    assert asset_radiometry("red", asset, item) == Radiometry("uint8", 3, 30, None)


def test_raster_bands_speak_before_an_item_wide_scale_of_the_newer_spelling():
    asset = {"raster:bands": [{"scale": 1e-4, "offset": -0.1}]}
    found = asset_radiometry("red", asset, {"raster:scale": 1.0, "raster:offset": 0.0})
    assert (found.scale, found.offset) == (1e-4, -0.1)


@pytest.mark.parametrize(
    ("applied", "offset"), [(True, 0.0), (False, -0.1), (None, -0.1), ("true", -0.1)]
)
def test_earth_search_says_when_the_offset_is_in_the_numbers_already(applied, offset):
    asset = {"raster:bands": [{"scale": 1e-4, "offset": -0.1}]}
    properties = {} if applied is None else {"earthsearch:boa_offset_applied": applied}
    found = asset_radiometry("red", asset, properties)
    assert (found.scale, found.offset) == (1e-4, offset)


@pytest.mark.parametrize(
    ("baseline", "offset"),
    [("02.14", 0.0), ("03.01", 0.0), ("04.00", -0.1), ("05.00", -0.1), ("05.11", -0.1)],
)
@pytest.mark.parametrize("key", ["B01", "B02", "B8A", "B12", "b04"])
def test_sentinel_2_without_a_scale_is_known_by_its_baseline(baseline, offset, key):
    found = asset_radiometry(key, {}, {**L2A, "s2:processing_baseline": baseline})
    assert (found.scale, found.offset) == (1e-4, offset)


@pytest.mark.parametrize("key", ["SCL", "AOT", "WVP", "visual", "B13", "B00", "thumbnail"])
def test_what_is_no_reflectance_of_sentinel_2_is_not_scaled(key):
    found = asset_radiometry(key, {}, {**L2A, "s2:processing_baseline": "05.09"})
    assert (found.scale, found.offset) == (None, None)


@pytest.mark.parametrize(
    "properties",
    [
        {"s2:processing_baseline": "05.09"},
        {"s2:product_type": "S2MSI1C", "s2:processing_baseline": "05.09"},
        {**L2A},
        {**L2A, "s2:processing_baseline": None},
        {**L2A, "s2:processing_baseline": 5.09},
        {"platform": "landsat-8"},
    ],
)
def test_bands_of_other_products_are_not_taken_for_sentinel_2_l2a(properties):
    found = asset_radiometry("B02", {}, properties)
    assert (found.scale, found.offset) == (None, None)


def test_an_item_s_own_scale_is_not_overruled_by_its_baseline():
    asset = {"raster:bands": [{"scale": 2e-4, "offset": 0}]}
    found = asset_radiometry("B02", asset, {**L2A, "s2:processing_baseline": "05.09"})
    assert (found.scale, found.offset) == (2e-4, 0)


def test_it_arrives_in_the_catalog_per_scene_and_asset(make_item):
    red = {"href": "r.tif", "raster:bands": [{"data_type": "uint16", "nodata": 0, "scale": 1e-4,
                                              "offset": -0.1}]}  # fmt: skip
    scl = {"href": "s.tif", "raster:bands": [{"data_type": "uint8", "nodata": 0}]}
    ds = xgc.from_items(
        [
            make_item("a", assets={"red": red, "scl": scl}),
            make_item("b", assets={"red": red}, **{"earthsearch:boa_offset_applied": True}),
        ]
    )
    assert ds.offset.sel(asset="red").values.tolist() == [-0.1, 0.0]
    assert ds.scale.sel(asset="red").values.tolist() == [1e-4, 1e-4]
    assert ds.nodata.sel(asset="scl").isnull().values.tolist() == [False, True]
    assert ds["dtype"].sel(scene="a").values.tolist() == ["uint16", "uint8"]
    assert ds.scale.sel(scene="a", asset="scl").isnull()


def test_real_items_that_say_both_are_not_shifted_twice(shared_data):
    ds = xgc.from_items(shared_data / "s2_33TW" / "catalog.json")
    for band in ("blue", "green", "red", "nir"):
        assert ds.scale.sel(asset=band).values.tolist() == [1e-4] * 6
        assert ds.offset.sel(asset=band).values.tolist() == [0.0] * 6
        assert ds.nodata.sel(asset=band).values.tolist() == [0.0] * 6


def test_real_planetary_computer_items_are_known_by_their_baseline(planetary_computer):
    ds = planetary_computer
    baseline = ds["s2:processing_baseline"].values
    assert set(baseline) > {"05.11"} or set(baseline) == {"05.11"}
    expected = [-0.1 if b >= "04.00" else 0.0 for b in baseline]
    assert ds.offset.sel(asset="B04").values.tolist() == expected
    assert ds.scale.sel(asset="SCL").isnull().all()
