"""Fields of stacks, opened one by one; xarray reads the same."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from xgeocat.catalog.fields import NETCDF, ZARR, is_unsigned, media_type, open_field, open_stack

DAYS = np.datetime64("2024-06-01", "ns") + np.arange(4) * np.timedelta64(1, "D")


@pytest.fixture(params=["a.nc", "a.zarr"])
def stack(request, tmp_path):
    """Path of a stack ``(day, level, lat, lon)``, south up, and what is in it."""
    values = np.random.default_rng(0).integers(0, 99, (4, 2, 30, 50), dtype="int16")
    ds = xr.Dataset(
        {"a": (("day", "level", "lat", "lon"), values, {"scale_factor": 0.5})},
        {"day": ("day", DAYS, {"standard_name": "time"}), "lat": np.arange(30.0), "lon": np.arange(50.0)},
    )  # fmt: skip
    ds["a"].encoding = {"chunks" if "zarr" in request.param else "chunksizes": (1, 1, 10, 20)}
    path = tmp_path / request.param
    if request.param.endswith("nc"):
        pytest.importorskip("h5py", reason="NetCDF needs h5netcdf and h5py")
        ds.to_netcdf(path, engine="h5netcdf")
    else:
        ds.to_zarr(path, zarr_format=3, consolidated=False)
    return str(path), values


@pytest.mark.parametrize(
    ("href", "kind"),
    [
        ("a.nc", NETCDF), ("/b/a.NC4", NETCDF), ("https://example.com/a.h5?key=1", NETCDF),
        ("a.zarr", ZARR), ("s3://bucket/a.zarr/group", ZARR), ("a", ZARR),
    ],
)  # fmt: skip
def test_what_a_stack_is_stored_as_is_told_by_its_name(href, kind):
    assert media_type(href) == kind


def test_a_stack_is_opened_as_it_is_stored(stack):
    path, values = stack
    with open_stack(path) as ds:
        assert ds["a"].attrs["scale_factor"] == 0.5
        assert ds["day"].dtype.kind in "if"
        assert ds["a"].chunks is None
        np.testing.assert_array_equal(ds["a"], values)


@pytest.mark.parametrize("band", [1, 2])
def test_a_field_is_one_step_and_band_north_up(stack, band):
    path, values = stack
    field = open_field(path, "a", "2024-06-03T00:00:00.000000", band=band)
    assert field.dims == ("latitude", "longitude")
    assert set(field.coords) == {"latitude", "longitude", "spatial_ref"}
    np.testing.assert_array_equal(field, values[2, band - 1, ::-1])
    np.testing.assert_allclose(field.latitude, np.arange(30.0)[::-1], atol=1e-12)


def test_without_a_step_all_come(stack):
    path, values = stack
    field = open_field(path, "a", None, band=2)
    assert field.dims == ("time", "latitude", "longitude")
    np.testing.assert_array_equal(field.time, DAYS)
    np.testing.assert_array_equal(field, values[:, 1, ::-1])
    assert field.chunks[0] == (1, 1, 1, 1)


@pytest.mark.parametrize(("chunks", "rows", "columns"), [(25, 20, 20), (5, 10, 20), (2048, 30, 50)])
def test_chunks_are_whole_stored_ones(stack, chunks, rows, columns):
    field = open_field(stack[0], "a", "2024-06-01", chunks=chunks)
    assert (max(field.chunks[0]), max(field.chunks[1])) == (rows, columns)


def test_a_step_that_is_not_there_is_refused(stack):
    with pytest.raises(
        ValueError, match=r"no step 2023-01-01 of 'a'; it has 4, from 2024-06-01T00"
    ):
        open_field(stack[0], "a", "2023-01-01")


@pytest.mark.parametrize(
    ("dtype", "said", "unsigned"),
    [("i1", "true", True), ("i1", "false", False), ("i1", None, False), ("f4", "true", False)],
)
def test_integers_may_be_meant_without_a_sign(dtype, said, unsigned):
    attrs = {} if said is None else {"_Unsigned": said}
    assert is_unsigned(xr.DataArray(np.zeros(2, dtype), attrs=attrs)) == unsigned


@pytest.mark.parametrize("name", ["nothing.nc", "nothing.zarr"])
def test_what_is_not_there_is_said(tmp_path, name):
    pytest.importorskip("h5py", reason="NetCDF needs h5netcdf and h5py")
    with pytest.raises(OSError, match=name):
        open_stack(str(tmp_path / name))


def test_what_is_no_stack_is_refused(tmp_path):
    pytest.importorskip("h5py", reason="NetCDF needs h5netcdf and h5py")
    (tmp_path / "a.nc").write_text("hello")
    with pytest.raises(OSError, match="signature"):
        open_stack(str(tmp_path / "a.nc"))
