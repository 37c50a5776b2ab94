"""Names and plainest arrays of a catalog, and what is refused as one."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import xgeocat as xgc
from xgeocat.catalog import schema
from xgeocat.catalog.stac import to_dicts

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=5),
)


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([1, 2, 3], np.int64),
        ([True, False], bool),
        ([1.5, 2.0], np.float64),
        ([1, 2.5], np.float64),
        ([1, None], np.float64),
        ([0.5, None], np.float64),
        ([None, None], object),
        (["a", "b"], object),
        (["a", None], object),
        ([True, None], object),
        ([True, 1], object),
        ([1, "a"], object),
        ([2**60, None], object),
        ([2**60, 0.5], object),
        ([2**63], object),
        ([-(2**63)], np.int64),
    ],
)
def test_column_has_the_plainest_dtype_that_holds_its_values(values, dtype):
    found = schema.column(values)
    assert found.dtype == dtype
    assert len(found) == len(values)


@given(st.lists(scalars, max_size=8))
@settings(max_examples=80, deadline=None)
def test_column_keeps_every_value_exactly(values):
    found = schema.column(values).tolist()
    back = [None if isinstance(v, float) and np.isnan(v) else v for v in found]
    assert back == values
    assert [isinstance(v, bool) for v in back] == [isinstance(v, bool) for v in values]


def test_text_array_keeps_none_and_shape():
    found = schema.text_array([["a", None], [None, "bcd"]])
    assert found.dtype == object
    assert found.shape == (2, 2)
    assert found.tolist() == [["a", None], [None, "bcd"]]


def test_require_catalog_returns_a_catalog_itself(make_catalog):
    ds = make_catalog([])
    assert schema.require_catalog(ds, "query") is ds


@pytest.mark.parametrize(
    ("what", "got"),
    [
        ([1, 2], "list"),
        (None, "NoneType"),
        ({"type": "FeatureCollection"}, "dict"),
        (np.zeros(3), "ndarray"),
        (xr.DataArray(np.zeros((2, 2)), dims=("y", "x")), r"DataArray with dims \('y', 'x'\)"),
        (xr.Dataset({"red": (("y", "x"), np.zeros((2, 2)))}), r"Dataset with dims \('y', 'x'\)"),
        (xr.Dataset({"a": ("scene", [1])}), r"Dataset with dims \('scene',\)"),
    ],
)
def test_what_is_no_catalog_is_refused_by_what_it_is(what, got):
    with pytest.raises(TypeError, match=rf"query works on a catalog.*from_items.*got a {got}"):
        schema.require_catalog(what, "query")


def test_one_column_of_a_catalog_is_refused_as_such(make_catalog, make_item):
    with pytest.raises(TypeError, match="one column of a catalog"):
        schema.require_catalog(xgc.from_items([make_item()])["href"], "query")


def test_a_catalog_has_the_dims_and_names_of_the_design(make_item):
    ds = xgc.from_items([make_item("a", platform="x"), make_item("b", platform="y")])
    assert ds.sizes["scene"] == 2
    assert ds.sizes["asset"] == 1
    assert set(ds.coords) == {"scene", "asset", "geometry", "start_time", "end_time", "collection"}
    assert {"href", "nodata", "scale", "offset", "dtype", "platform"} <= set(ds.data_vars)
    assert ds["href"].dims == ("scene", "asset")
    for name in ("geometry", "start_time", "end_time", "collection", "platform"):
        assert ds[name].dims == ("scene",)
    assert ds["start_time"].dtype == ds["end_time"].dtype == schema.TIME_DTYPE


def test_all_names_that_a_catalog_takes_are_reserved(make_item):
    ds = xgc.from_items([make_item()])
    assert set(ds.variables) | set(ds.dims) <= schema.RESERVED


@pytest.mark.parametrize(
    "name", sorted({*schema.RESERVED, "grid_axis", "affine"} - {"proj:shape", "proj:transform"})
)
def test_a_property_may_have_a_name_that_the_catalog_uses(name, make_item):
    item = make_item("a")
    item["properties"][name] = "foreign"
    ds = xgc.from_items([item])
    assert ds.scene.item() == "a"
    assert ds.href.item() == "https://example.com/a_red.tif"
    assert to_dicts(ds) == [item]
