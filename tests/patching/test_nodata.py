from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from xgeocat.patching.nodata import nodata_of, representable, valid_mask, without_inherited


@pytest.fixture
def declaring():
    """Factory of small fields that declare nodata in attrs or encoding."""

    def make(dtype, attrs=None, encoding=None):
        field = xr.DataArray(np.zeros(3, dtype), dims="x", attrs=attrs)
        field.encoding.update(encoding or {})
        return field

    return make


# --- what a field declares ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "attrs", "encoding", "expected"),
    [
        ("uint8", {"nodata": 255}, {}, 255),
        ("uint8", {"_FillValue": np.uint8(7)}, {}, 7),
        ("uint8", {"nodata": 1, "_FillValue": 2}, {"_FillValue": 3}, 1),
        ("uint8", {"_FillValue": 2}, {"_FillValue": 3}, 2),
        ("uint8", {}, {"_FillValue": 3}, 3),
        ("float32", {"nodata": -9999.0}, {}, -9999.0),
        ("float32", {}, {"_FillValue": -9999.0}, None),
        ("uint8", {}, {}, None),
        ("uint8", {"nodata": -9999}, {}, None),
        ("uint8", {"nodata": 0.5}, {}, None),
        ("uint8", {"nodata": np.nan}, {}, None),
        ("int16", {"nodata": -9999.0}, {}, -9999),
        ("bool", {"nodata": 255}, {}, None),
        ("uint64", {"nodata": 2**64 - 1}, {}, 2**64 - 1),
    ],
)
def test_nodata_is_looked_up_in_attrs_then_encoding_and_must_fit(
    declaring, dtype, attrs, encoding, expected
):
    assert nodata_of(declaring(dtype, attrs, encoding)) == expected


def test_nodata_is_a_plain_python_number(declaring):
    assert type(nodata_of(declaring("uint8", {"nodata": np.uint8(3)}))) is int


def test_nodata_written_as_float_loses_no_64_bit_integer(declaring):
    # rasterio reports nodata as a float, of integer bands too.
    lowest = np.iinfo("int64").min
    nodata = nodata_of(declaring("int64", {"nodata": float(lowest)}))
    valid = valid_mask(np.array([lowest, lowest + 1]), nodata)
    assert valid is not None
    assert valid.tolist() == [False, True]


# --- what a dtype can hold ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "dtype", "expected"),
    [
        (255, "uint8", True),
        (256, "uint8", False),
        (-1, "uint8", False),
        (-128, "int8", True),
        (3.0, "int8", True),
        (3.5, "int8", False),
        (np.nan, "int8", False),
        (np.inf, "int8", False),
        (1, "bool", True),
        (2, "bool", False),
        (np.nan, "float32", True),
        (1j, "float32", False),
        (1j, "complex64", True),
        (1j, "int32", False),
        (2**64 - 1, "uint64", True),
        (2**64, "uint64", False),
        (-(2**64), "int64", False),
    ],
)
def test_representable(value, dtype, expected):
    assert representable(value, np.dtype(dtype)) is expected


# --- which cells are known ------------------------------------------------------------------------

awkward = st.sampled_from([np.nan, np.inf, -np.inf, 3e38, -3e38, 0.0, -9999.0, 1.0])


@given(
    st.lists(awkward, max_size=12),
    st.sampled_from([None, np.nan, -9999.0, 0.0]),
    st.sampled_from(["float32", "float64", "complex64", "complex128"]),
)
@settings(max_examples=200, deadline=None)
def test_a_mask_is_false_exactly_at_nan_and_nodata(values, nodata, dtype):
    array = np.array(values, dtype)
    expected = [not (np.isnan(v) or (nodata is not None and v == nodata)) for v in array]
    mask = valid_mask(array, nodata)
    if mask is None:
        assert all(expected)
    else:
        assert mask.tolist() == expected


@given(st.lists(st.integers(0, 3), max_size=12), st.sampled_from([None, 0, 3, np.nan]))
@settings(max_examples=100, deadline=None)
def test_a_mask_of_integers_is_false_exactly_at_nodata(values, nodata):
    mask = valid_mask(np.array(values, "uint8"), nodata)
    expected = [v != nodata for v in values]
    assert all(expected) if mask is None else mask.tolist() == expected


def test_a_half_known_complex_number_is_not_known():
    mask = valid_mask(np.array([1 + 1j, complex(np.nan, 1), complex(1, np.nan)]), None)
    assert mask is not None
    assert mask.tolist() == [True, False, False]


# --- what a result is not to inherit --------------------------------------------------------------


def stored(dtype="uint16", name="red", **attrs):
    about = {"nodata": 0, "scale": 0.1, "offset": -0.1, "units": "1", **attrs}
    values = np.array([[0, 5], [7, 7]], dtype)
    return xr.DataArray(values, dims=("y", "x"), name=name, attrs=about)


def inheriting(made, source):
    """A result as xarray makes it from 2025.11 on, whichever version this is."""
    return made.assign_attrs(source.attrs)


@pytest.mark.parametrize(
    ("compute", "kept"),
    [
        (lambda red, nir: ((nir - red) / (nir + red)).astype("float32").rename(None), False),
        (lambda red, nir: red > 5, False),
        (lambda red, nir: (red > 5).astype("uint8"), False),
        (lambda red, nir: red.astype("int32").rename("label"), False),
        (lambda red, nir: red.where(nir > 5), True),
        (lambda red, nir: red.astype("float32"), True),
        (lambda red, nir: red.isel(y=0), True),
        (lambda red, nir: red.where(nir > 5, 0).astype("uint16"), True),
    ],
)
@pytest.mark.parametrize("as_dataset", [False, True])
def test_only_what_still_is_a_band_keeps_how_its_numbers_are_meant(compute, kept, as_dataset):
    red, nir = stored(), stored(name="nir")
    made = inheriting(compute(red, nir), red)
    cube = xr.Dataset({"red": red, "nir": nir})
    if as_dataset:
        found = without_inherited(xr.Dataset({made.name or "index": made}), cube)
        (found,) = found.data_vars.values()
    else:
        found = without_inherited(made, cube)
    xr.testing.assert_equal(found, made.rename(found.name))
    wanted = made.attrs if kept else {"units": "1"}
    assert found.attrs == wanted
    assert made.attrs["nodata"] == 0


def test_what_a_result_says_by_itself_is_kept():
    red = stored()
    made = (red > 5).astype("uint8").assign_attrs(nodata=255, scale=2.0, offset=-0.1)
    assert without_inherited(made, red).attrs["nodata"] == 255
    assert without_inherited(made, red).attrs["scale"] == 2.0
    assert "offset" not in without_inherited(made, red).attrs
    assert without_inherited(made, red.drop_attrs()) is made
