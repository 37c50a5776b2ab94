"""Rows to Dataset."""

from __future__ import annotations

import numpy as np
import pyproj
import pytest
from shapely.geometry import box

from xgeocat.catalog import schema
from xgeocat.catalog.build import Scene, catalog_dataset

NOW = np.datetime64("2024-06-01T10:00:00", "us")
CRS = pyproj.CRS.from_epsg(32610)


@pytest.fixture
def make_scene():
    def make(id="a", **fields):
        return Scene(**{
            "id": id, "collection": None, "geometry": box(0, 0, 1, 1), "start": NOW, "end": NOW,
            **fields,
        })  # fmt: skip

    return make


def test_rows_keep_their_order_and_assets_the_order_of_first_appearance(make_scene):
    ds = catalog_dataset(
        [
            make_scene("b", assets={"red": {"href": "r1"}, "nir": {"href": "n1"}}),
            make_scene("a", assets={"scl": {"href": "s2"}, "red": {"href": "r2"}}),
        ],
        CRS,
    )
    assert list(ds.scene.values) == ["b", "a"]
    assert list(ds.asset.values) == ["red", "nir", "scl"]
    assert ds.href.fillna("-").values.tolist() == [["r1", "n1", "-"], ["r2", "-", "s2"]]


def test_what_an_asset_does_not_say_is_null_in_every_column(make_scene):
    ds = catalog_dataset([make_scene(assets={"red": {"href": "r"}}), make_scene("b")], CRS)
    for name, extra in schema.ASSET_VARIABLES.items():
        assert ds[name].dims == ("scene", "asset", *extra)
        if name != "href":
            assert ds[name].isnull().all(), name
    assert ds.href.isnull().values.tolist() == [[False], [True]]


def test_grids_and_radiometry_of_assets_are_columns(make_scene):
    asset = {
        schema.HREF: "r", schema.CRS: "EPSG:32610", schema.SHAPE: [10, 20],
        schema.TRANSFORM: [10, 0, 5e5, 0, -10, 4e6], schema.NODATA: 0, schema.SCALE: 1e-4,
        schema.OFFSET: -0.1, schema.DTYPE: "uint16",
    }  # fmt: skip
    ds = catalog_dataset([make_scene(assets={"red": asset})], CRS)
    assert ds[schema.SHAPE].values.tolist() == [[[10, 20]]]
    assert ds[schema.TRANSFORM].values.tolist() == [[[10, 0, 5e5, 0, -10, 4e6]]]
    assert ds[schema.NODATA].item() == 0
    assert ds[schema.SCALE].item() == 1e-4
    assert ds[schema.OFFSET].item() == -0.1
    assert ds[schema.DTYPE].item() == "uint16"
    assert ds[schema.CRS].item() == "EPSG:32610"


def test_an_empty_catalog_has_all_columns_and_its_crs():
    ds = catalog_dataset([], CRS)
    assert ds.sizes["scene"] == ds.sizes["asset"] == 0
    assert ds.geocat.crs == CRS
    assert ds.geocat.bounds is None
    assert set(schema.ASSET_VARIABLES) <= set(ds.data_vars)
    assert ds.geocat.query((0, 0, 1, 1), time="2024").sizes["scene"] == 0


def test_a_property_of_some_scenes_is_a_column_with_gaps(make_scene):
    ds = catalog_dataset(
        [make_scene("a", properties={"n": 1, "t": "x"}), make_scene("b", properties={"n": None}),
         make_scene("c", properties={"flag": True})],
        CRS,
    )  # fmt: skip
    np.testing.assert_array_equal(ds.n.values, [1, np.nan, np.nan])
    assert ds.t.fillna("-").values.tolist() == ["x", "-", "-"]
    assert ds.flag.values.tolist() == [None, None, True]


def test_a_scene_without_footprint_or_time_has_nulls(make_scene):
    ds = catalog_dataset(
        [make_scene(geometry=None, start=np.datetime64("NaT", "us"), end=np.datetime64("NaT"))], CRS
    )
    assert ds.geometry.item() is None
    assert np.isnat(ds.start_time.values[0])
    assert np.isnat(ds.end_time.values[0])
    assert ds.start_time.dtype == schema.TIME_DTYPE


def test_two_scenes_of_one_id_are_two_rows(make_scene):
    ds = catalog_dataset([make_scene("a"), make_scene("a", geometry=box(5, 5, 6, 6))], CRS)
    assert list(ds.scene.values) == ["a", "a"]
    assert ds.geocat.query((5.5, 5.5, 5.6, 5.6)).sizes["scene"] == 1
