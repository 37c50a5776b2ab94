"""CF attributes: axes, edges, CRS and times of stacks in memory; numpy and pyproj say what is right."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyproj
import pytest
import shapely
import xarray as xr
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from xgeocat.catalog.cf import axes_of, nodata_of, stack_grid, stack_times

LON = {"standard_name": "longitude", "units": "degrees_east"}
LAT = {"standard_name": "latitude", "units": "degrees_north"}
METRES = [{"standard_name": f"projection_{axis}_coordinate", "units": "m"} for axis in "yx"]


def field(y, x, names=("lat", "lon"), attrs=(LAT, LON), **more):
    """A stack of one field, with these coordinates."""
    y, x = np.asarray(y), np.asarray(x)
    values = np.arange(len(y) * len(x), dtype="float32").reshape(len(y), len(x))
    coords = {n: (n, v, dict(a)) for n, v, a in zip(names, (y, x), attrs, strict=True)}
    return xr.Dataset({"a": (names, values, more)}, coords=coords)


# --- grids ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("descending", [True, False])
def test_edges_are_half_a_cell_beyond_the_centres(descending):
    lat = np.array([10.5, 9.5, 8.5])
    grid = stack_grid(field(lat if descending else lat[::-1], [1, 3, 5, 7]), "a")
    assert grid.geobox.boundingbox.bbox == (0, 8, 8, 11)
    assert grid.shape == (3, 4)
    assert grid.crs.to_epsg() == 4326
    assert grid.flipped == (() if descending else ("lat",))
    assert grid.footprint.equals(shapely.box(0, 8, 8, 11))


@pytest.mark.parametrize("reverse", [False, True])
def test_bounds_go_before_centres(reverse):
    # Coordinates at the south-western corner of cells, as some write them.
    lat, lon = np.arange(40, 43.0), np.arange(5, 9.0)
    ds = field(lat, lon, attrs=({**LAT, "bounds": "lat_bnds"}, {**LON, "bounds": "lon_bnds"}))
    for name, values in (("lat", lat), ("lon", lon)):
        pairs = np.stack([values, values + 1], axis=1)
        ds[f"{name}_bnds"] = (name, "two"), pairs[:, ::-1] if reverse else pairs
    assert stack_grid(ds, "a").geobox.boundingbox.bbox == (5, 40, 9, 43)
    one = ds.isel(lat=[1], lon=[2])
    assert stack_grid(one, "a").geobox.boundingbox.bbox == (7, 41, 8, 42)


@settings(deadline=None)
@given(
    west=st.integers(-720, 720), columns=st.integers(2, 40), rows=st.integers(2, 9),
    step=st.sampled_from([0.1, 0.25, 0.5, 1.0, 2.5]), flip=st.booleans(), dtype=st.sampled_from(["f4", "f8"]),
)  # fmt: skip
def test_a_grid_is_where_its_cells_are(west, columns, rows, step, flip, dtype):
    lon = (west + step * (np.arange(columns) + 0.5)).astype(dtype)
    lat = (50 - step * (np.arange(rows) + 0.5)).astype(dtype)
    ds = field(lat[::-1] if flip else lat, lon)
    assume(columns * step < 359)
    grid = stack_grid(ds, "a")
    placed = grid.placed(ds["a"])
    # Each value lies at its own longitude, but for whole turns, and its own latitude.
    turn = (placed["longitude"].values - lon + 180) % 360 - 180
    np.testing.assert_allclose(turn, 0, atol=step * 0.02)
    np.testing.assert_allclose(placed["latitude"], lat, atol=step * 0.02)
    np.testing.assert_array_equal(placed, ds["a"].sortby("lat", ascending=False))
    assert abs(placed["longitude"].values.mean()) <= 180.001
    # The outline covers every cell, wherever its longitude is counted from.
    wrapped = (lon.astype("f8") + 180) % 360 - 180
    points = shapely.points(*np.meshgrid(wrapped, lat))
    assert shapely.intersects(shapely.buffer(grid.footprint, 1e-4), points.ravel()).all()
    assert grid.footprint.area == pytest.approx(columns * rows * step**2, rel=1e-3)


@pytest.mark.parametrize("first", [0, -180, 0.5, -179.5, 180, 20])
@pytest.mark.parametrize("step", [1.0, 2.5, 0.1])
def test_once_round_the_globe_starts_at_minus_180(first, step):
    lon = first + step * np.arange(round(360 / step))
    ds = field([1, 0], lon)
    grid = stack_grid(ds, "a")
    expected = ds.assign_coords(lon=(np.round(ds.lon, 6) + 180) % 360 - 180).sortby("lon")
    placed = grid.placed(ds["a"])
    np.testing.assert_array_equal(placed, expected["a"])
    np.testing.assert_allclose(placed["longitude"], expected["lon"], atol=1e-6)
    assert grid.is_global
    assert grid.footprint.equals(shapely.box(-180, -0.5, 180, 1.5))


def test_a_grid_across_the_antimeridian_stays_whole_and_its_footprint_is_cut():
    grid = stack_grid(field([1, 0], np.arange(170.5, 190)), "a")
    assert grid.geobox.boundingbox.bbox == (170, -0.5, 190, 1.5)
    assert len(grid.footprint.geoms) == 2
    assert grid.footprint.equals(
        shapely.union_all([shapely.box(170, -0.5, 180, 1.5), shapely.box(-180, -0.5, -170, 1.5)])
    )


def test_cells_at_the_poles_end_there():
    grid = stack_grid(field([90, 0, -90], [0, 90, 180, 270]), "a")
    assert grid.geobox.boundingbox.bbox[1::2] == (-135, 135)
    assert grid.footprint.equals(shapely.box(-180, -90, 180, 90))


def test_float32_coordinates_are_the_decimals_they_were():
    grid = stack_grid(field(np.float32([0.3, 0.2, 0.1]), np.float32([0.1, 0.2, 0.3])), "a")
    np.testing.assert_allclose(grid.geobox.boundingbox.bbox, (0.05, 0.05, 0.35, 0.35), rtol=1e-12)


def test_packed_coordinates_are_unpacked():
    ds = field([2, 1, 0], [10, 11, 12])
    ds.lon.attrs |= {"scale_factor": 0.5, "add_offset": 100.0}
    assert stack_grid(ds, "a").geobox.boundingbox.bbox == (104.75, -0.5, 106.25, 2.5)


# --- axes and CRS ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "attrs"),
    [
        (("j", "i"), ({"standard_name": "latitude"}, {"standard_name": "longitude"})),
        (("j", "i"), ({"units": "degrees_north"}, {"units": "degrees_east"})),
        (("j", "i"), ({"axis": "Y", "units": "degree_north"}, {"axis": "X", "units": "degree_E"})),
        (("latitude", "longitude"), ({}, {})),
        (("Lat", "Lon"), ({}, {})),
    ],
)
def test_axes_are_told_by_attributes_or_names(names, attrs):
    ds = field([2, 1, 0], [10, 11, 12, 13], names, attrs)
    assert axes_of(ds, "a") == {"Y": names[0], "X": names[1]}
    assert stack_grid(ds, "a").geobox.boundingbox.bbox == (9.5, -0.5, 13.5, 2.5)
    turned = ds.transpose(*names[::-1])
    np.testing.assert_array_equal(stack_grid(turned, "a").placed(turned["a"]), ds["a"])


UTM = pyproj.CRS.from_epsg(32633)


@pytest.mark.parametrize(
    "mapping",
    [UTM.to_cf(), {"crs_wkt": UTM.to_wkt()}, {"spatial_ref": UTM.to_wkt()},
     {k: v for k, v in UTM.to_cf().items() if k != "crs_wkt"}],
    ids=["all", "crs_wkt", "spatial_ref", "parameters"],
)  # fmt: skip
@pytest.mark.parametrize("units", ["m", "km"])
def test_the_crs_is_that_of_the_grid_mapping(mapping, units):
    factor = 1000 if units == "km" else 1
    y, x = (np.array([5e6, 5e6 - 100, 5e6 - 200]) / factor, np.array([4e5, 4e5 + 100]) / factor)
    attrs = [{"standard_name": f"projection_{a}_coordinate", "units": units} for a in "yx"]
    ds = field(y, x, ("y", "x"), attrs, grid_mapping="crs")
    ds["crs"] = (), 0, mapping
    grid = stack_grid(ds, "a")
    assert grid.crs.equals(UTM, ignore_axis_order=True) or grid.crs.utm_zone == "33N"
    np.testing.assert_allclose(
        grid.geobox.boundingbox.bbox, (4e5 - 50, 5e6 - 250, 4e5 + 150, 5e6 + 50), rtol=1e-12
    )


@pytest.mark.parametrize(
    ("mapping", "epsg", "radius"),
    [
        ({}, 4326, 6378137),
        ({"semi_major_axis": 6378137.0, "inverse_flattening": 298.257223563}, 4326, 6378137),
        ({"horizontal_datum_name": "WGS84"}, 4326, 6378137),
        ({"earth_radius": 6371229.0}, None, 6371229),
    ],
)
def test_longitudes_of_no_datum_are_wgs84_unless_of_another_earth(mapping, epsg, radius):
    ds = field([2, 1, 0], [10, 11], grid_mapping="crs")
    ds["crs"] = (), 0, {"grid_mapping_name": "latitude_longitude", **mapping}
    grid = stack_grid(ds, "a")
    assert grid.crs.to_epsg() == epsg
    assert grid.crs.ellipsoid.semi_major_metre == radius
    assert grid.geobox.boundingbox.bbox == (9.5, -0.5, 11.5, 2.5)


def test_a_rotated_pole_is_where_pyproj_says():
    about = {
        "grid_mapping_name": "rotated_latitude_longitude",
        "grid_north_pole_latitude": 39.25,
        "grid_north_pole_longitude": -162.0,
    }
    attrs = [
        {"standard_name": f"grid_{name}", "units": "degrees"} for name in ("latitude", "longitude")
    ]
    ds = field(
        np.arange(-5, 5.0), np.arange(-10, 10.0), ("rlat", "rlon"), attrs, grid_mapping="rotated"
    )
    ds["rotated"] = (), 0, about
    grid = stack_grid(ds, "a")
    assert grid.geobox.boundingbox.bbox == (-10.5, -5.5, 9.5, 4.5)
    to_degrees = pyproj.Transformer.from_crs(grid.crs, 4326, always_xy=True)
    # The centre of the rotated grid lies on the meridian opposite its pole.
    assert to_degrees.transform(0, 0) == pytest.approx((18, 50.75))


def test_a_crs_is_given_where_there_is_none():
    ds = field([2, 1, 0], [10, 11], ("y", "x"), METRES)
    assert stack_grid(ds, "a", UTM).crs == UTM
    with pytest.raises(ValueError, match="neither a grid mapping nor longitudes.*grid_crs="):
        stack_grid(ds, "a")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda ds: ds.assign_coords(lon=[0, 1, 2, 4]), "'lon' is uneven: .* off by up to 0.666667"),
        (lambda ds: ds.assign_coords(lon=[0, 1, np.nan, 3]), "'lon' is uneven"),
        (lambda ds: ds.assign_coords(lon=[1, 1, 1, 1]), "'lon' is uneven"),
        (lambda ds: ds.isel(lon=[0]), "'lon' has one cell and no bounds"),
        (lambda ds: ds.rename(lon="i").drop_vars("i"), "has no x and y axis.*rename"),
        (lambda ds: ds.rename(lat="j", lon="i").drop_vars(["i", "j"]).assign_coords(
            lat=(("j", "i"), np.zeros((3, 4)), LAT), lon=(("j", "i"), np.zeros((3, 4)), LON)),
         r"curvilinear grid: its coordinates \['lat', 'lon'\]"),
        (lambda ds: ds.assign_coords(lon=("lon", ds.lon.values, {**LON, "units": "radian"})), "in 'radian', which is no unit"),
        (lambda ds: ds.assign(crs=((), 0, {"grid_mapping_name": "nonsense"})).assign(
            a=ds.a.assign_attrs(grid_mapping="crs")), "'crs' of 'a' says no CRS that can be read"),
    ],
)  # fmt: skip
def test_grids_that_are_none_are_refused(spoil, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        stack_grid(spoil(field([2, 1, 0], [10, 11, 12, 13])), "a")


def test_bounds_with_gaps_are_uneven():
    ds = field([1, 0], [0, 1], attrs=(LAT, {**LON, "bounds": "b"}))
    ds["b"] = ("lon", "two"), [[-0.5, 0.3], [0.5, 1.5]]
    with pytest.raises(ValueError, match="'lon' is uneven"):
        stack_grid(ds, "a")


# --- times ----------------------------------------------------------------------------------------


def timed(values, bounds=None, **attrs):
    ds = field([1, 0], [0, 1]).expand_dims(t=len(values))
    attrs = {"units": "days since 2020-01-01", "standard_name": "time", **attrs}
    ds = ds.assign_coords(t=("t", np.asarray(values), attrs))
    if bounds is not None:
        ds.t.attrs["bounds"] = "t_bnds"
        ds["t_bnds"] = ("t", "two"), np.asarray(bounds)
    return ds


@pytest.mark.parametrize(
    ("values", "attrs", "expected"),
    [
        ([0, 1.5], {}, ["2020-01-01T00", "2020-01-02T12"]),
        ([0, 6], {"units": "hours since 2020-01-01 00:00:00 +02:00"}, ["2019-12-31T22", "2020-01-01T04"]),
        ([0, 1], {"calendar": "proleptic_gregorian"}, ["2020-01-01T00", "2020-01-02T00"]),
        ([0.001], {"units": "seconds since 1970-01-01"}, ["1970-01-01T00:00:00.001"]),
        ([1200], {"units": "days since 1700-01-01"}, ["1703-04-16T00"]),
    ],
)  # fmt: skip
def test_times_are_utc(values, attrs, expected):
    dim, steps = stack_times(timed(values, **attrs), "a")
    assert dim == "t"
    np.testing.assert_array_equal(steps, np.array([[t] * 3 for t in expected], "datetime64[us]"))


def test_time_bounds_end_before_the_next_begin():
    _, steps = stack_times(timed([15, 45], [[0, 31], [31, 60]]), "a")
    month = pd.period_range("2020-01", periods=2, freq="M")
    np.testing.assert_array_equal(steps[:, 1], month.start_time.to_numpy("datetime64[us]"))
    np.testing.assert_array_equal(steps[:, 2], month.end_time.to_numpy().astype("datetime64[us]"))
    _, instant = stack_times(timed([3], [[3, 3]]), "a")
    assert len(set(instant[0])) == 1


def test_one_moment_and_no_time():
    ds = timed([2]).isel(t=0)
    dim, steps = stack_times(ds, "a")
    assert dim is None
    assert steps[0, 0] == np.datetime64("2020-01-03", "us")
    dim, steps = stack_times(ds.drop_vars("t"), "a")
    assert dim is None
    assert steps.shape == (0, 3)


@pytest.mark.parametrize(
    ("ds", "message"),
    [
        (timed([0, 1], calendar="360_day"), "calendar '360_day'.*convert_calendar"),
        (timed([0, 1], calendar="noleap"), "calendar 'noleap'"),
        (timed([0, 0]), "missing or repeat.*drop_duplicates"),
        (timed([0, np.nan]), "missing or repeat"),
        (timed([0, 1], units="days"), "units 'days', which CF does not know"),
    ],
)
def test_times_of_another_world_are_refused(ds, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        stack_times(ds, "a")


# --- packing --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attrs", "nodata"),
    [
        ({}, None),
        ({"_FillValue": np.int16(-99)}, -99),
        ({"missing_value": np.array([-99], "i2")}, -99),
        ({"_FillValue": np.float32("nan"), "missing_value": -9999.0}, -9999),
        ({"_FillValue": -1, "missing_value": -1.0}, -1),
    ],
)
def test_what_stands_for_nothing(attrs, nodata):
    assert nodata_of(xr.DataArray([1], attrs=attrs, name="a")) == nodata


def test_nan_stands_for_nothing():
    assert np.isnan(nodata_of(xr.DataArray([1.0], attrs={"_FillValue": np.nan})))


def test_two_values_for_nothing_are_refused():
    with pytest.raises(ValueError, match=r"'a' has two values for nothing, \[-9.0, -1.0\]"):
        nodata_of(xr.DataArray([1], attrs={"_FillValue": -1, "missing_value": -9}, name="a"))
