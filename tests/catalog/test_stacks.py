"""Catalogs of stacks: what xarray opens is what the catalog says, and what its domain loads."""

from __future__ import annotations

import json
import pickle
import sys

import numpy as np
import pandas as pd
import pyproj
import pytest
import rioxarray  # noqa: F401 - registers .rio
import shapely
import xarray as xr
from odc.geo.geobox import GeoBox

import xgeocat as xgc
from tests import faults

FORMATS = ("netcdf", "zarr2", "zarr3", "consolidated")
DAYS = np.datetime64("2024-06-01", "ns") + np.arange(5) * np.timedelta64(1, "D")


@pytest.fixture
def make_stack(tmp_path):
    """Factory of stacks ``(time, lat, lon)``, written in one of the formats."""

    def make(name="stack", form="zarr3", ds=None, **changes):
        stack = make_dataset(**changes) if ds is None else ds
        path = tmp_path / f"{name}.{'nc' if form == 'netcdf' else 'zarr'}"
        if form == "netcdf":
            pytest.importorskip("h5py", reason="NetCDF needs h5netcdf and h5py")
            stack.to_netcdf(path, engine="h5netcdf")
        else:
            options = {"zarr2": (2, True), "zarr3": (3, False), "consolidated": (3, None)}
            zarr_format, consolidated = options[form]
            if form == "consolidated":
                zarr_format, consolidated = 2, False
            stack.to_zarr(path, zarr_format=zarr_format, consolidated=consolidated)
        return path

    return make


def make_dataset(lat=(3.0, 2, 1), lon=(10.0, 11, 12, 13), times=DAYS, seed=0):
    rng = np.random.default_rng(seed)
    shape = (len(times), len(lat), len(lon))
    coords = {
        "time": ("time", times),
        "lat": ("lat", np.array(lat), {"standard_name": "latitude", "units": "degrees_north"}),
        "lon": ("lon", np.array(lon), {"standard_name": "longitude", "units": "degrees_east"}),
    }
    packed = rng.integers(0, 9000, shape).astype("int16")
    packed[:, 0, 0] = -99
    about = {"scale_factor": 0.01, "add_offset": 5.0, "_FillValue": np.int16(-99), "units": "K"}
    return xr.Dataset(
        {
            "tas": (("time", "lat", "lon"), packed, about),
            "rain": (("time", "lat", "lon"), rng.normal(size=shape).astype("float32")),
        },
        coords=coords,
    )


def opened(path, **options):
    """What xarray reads itself."""
    engine = "h5netcdf" if path.suffix == ".nc" else "zarr"
    options = (
        options
        if engine == "h5netcdf"
        else {"consolidated": (path / ".zmetadata").exists(), **options}
    )
    return xr.open_dataset(path, engine=engine, **options)


def loaded(ds, i=0, **options):
    domain = ds.geocat.domain(**options)
    return domain.load(list(domain.slices())[i])


# --- what the catalog says ------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMATS)
def test_each_step_is_a_scene(make_stack, form):
    path = make_stack(form=form)
    ds = xgc.from_stacks([path], collection="weather")
    assert ds.scene.values.tolist() == [f"stack_2024060{d}T000000" for d in range(1, 6)]
    np.testing.assert_array_equal(ds.start_time, DAYS)
    np.testing.assert_array_equal(ds.end_time, DAYS)
    assert all(g.equals(shapely.box(9.5, 0.5, 13.5, 3.5)) for g in ds.geometry.values)
    assert set(ds.collection.values) == {"weather"}
    tas = ds.sel(asset="tas").isel(scene=0)
    assert (tas["nodata"], tas["scale"], tas["offset"]) == (-99, 0.01, 5)
    assert tas["dtype"] == "int16"
    assert tas["href"] == str(path)
    assert sorted(ds.asset.values) == ["rain", "tas"]
    if form == "netcdf":
        assert list(ds.asset.values) == ["tas", "rain"]  # in the order of the file


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    ("lat", "lon"),
    [
        ((3, 2, 1), (10, 11, 12, 13)),
        ((1, 2, 3), (10, 11, 12, 13)),
        ((1, 2, 3), (13, 12, 11, 10)),
        ((60, 0, -60), (0, 90, 180, 270)),
        ((1, 2, 3), (250, 251, 252, 253)),
    ],
    ids=["as it is", "south up", "from the east", "global", "west"],
)
def test_pixels_are_those_that_xarray_reads(make_stack, form, lat, lon):
    path = make_stack(form=form, lat=lat, lon=lon)
    ds = xgc.from_stacks([path])
    stored = opened(path, mask_and_scale=False)
    expected = stored.assign_coords(lon=(stored.lon + 180) % 360 - 180)
    expected = expected.sortby("lon").sortby("lat", ascending=False)
    for step in (0, 3):
        cube = loaded(ds, step)
        assert cube["tas"].dims == ("time", "latitude", "longitude")
        assert cube.time.values == DAYS[step]
        for name in ("tas", "rain"):
            np.testing.assert_array_equal(cube[name][0], expected[name][step])
            assert cube[name].dtype == expected[name].dtype
        np.testing.assert_allclose(cube.latitude, expected.lat)
        np.testing.assert_allclose(cube.longitude, expected.lon)
        assert cube["tas"].attrs == {"nodata": -99, "scale": 0.01, "offset": 5.0}
        assert cube.odc.geobox.crs == "EPSG:4326"


@pytest.mark.parametrize("form", FORMATS)
def test_numbers_are_unpacked_as_xarray_does(make_stack, form):
    path = make_stack(form=form)
    cube = loaded(xgc.from_stacks([path]), 1, mask_and_scale=True)
    expected = opened(path)
    for name in ("tas", "rain"):
        np.testing.assert_allclose(cube[name][0], expected[name][1], rtol=1e-6)
    assert np.isnan(cube["tas"][0, 0, 0])


def test_unsigned_bytes_of_netcdf_are_unsigned(make_stack):
    ds = make_dataset()
    signed = (np.arange(60) * 4).astype("uint8").view("int8").reshape(ds.tas.shape)
    ds["u"] = ds.tas.dims, signed, {"_Unsigned": "true", "_FillValue": np.int8(-1)}
    path = make_stack(ds=ds[["u"]], form="netcdf")
    catalog = xgc.from_stacks([path])
    assert catalog["nodata"].values[0, 0] == 255
    cube = loaded(catalog)
    assert cube["u"].dtype == "uint8"
    np.testing.assert_array_equal(cube["u"][0], signed.view("uint8")[0])


def test_time_bounds_are_the_time_of_a_scene(make_stack):
    ds = make_dataset(times=pd.date_range("2024-01-01", periods=3, freq="MS"))
    edges = pd.date_range("2024-01-01", periods=4, freq="MS")
    ds["time_bnds"] = ("time", "two"), np.stack([edges[:-1], edges[1:]], axis=1)
    ds.time.attrs["bounds"] = "time_bnds"
    catalog = xgc.from_stacks([make_stack(ds=ds)])
    assert sorted(catalog.asset.values) == ["rain", "tas"]
    assert catalog.geocat.query(time="2024-02").scene.values.tolist() == ["stack_20240201T000000"]
    np.testing.assert_array_equal(loaded(catalog, 1)["rain"][0], ds["rain"][1])


@pytest.mark.parametrize("form", ["netcdf", "zarr3"])
def test_a_whole_stack_is_a_scene(make_stack, form):
    path = make_stack(form=form, lat=(1, 2, 3))
    ds = xgc.from_stacks([path], scenes="stack", variables=["rain"])
    assert ds.scene.values.tolist() == ["stack"]
    assert (ds.start_time.values[0], ds.end_time.values[0]) == (DAYS[0], DAYS[-1])
    cube = loaded(ds)
    np.testing.assert_array_equal(cube.time, DAYS)
    np.testing.assert_array_equal(cube["rain"], opened(path)["rain"].values[:, ::-1])


def test_stacks_without_time(make_stack):
    ds = make_dataset().isel(time=0, drop=True)
    always = xgc.from_stacks([make_stack(ds=ds)])
    assert always.scene.values.tolist() == ["stack"]
    assert always.geocat.query(time="1850").sizes["scene"] == 1
    np.testing.assert_array_equal(loaded(always)["rain"][0], ds["rain"])
    ds.attrs = {"time_coverage_start": "2024-06-01T10:00:00Z", "time_coverage_end": "2024-06-02"}
    covered = xgc.from_stacks([make_stack("covered", ds=ds)])
    assert covered.start_time.values[0] == np.datetime64("2024-06-01T10:00", "us")
    assert covered.end_time.values[0] == np.datetime64("2024-06-02T23:59:59.999999", "us")
    moment = make_stack("moment", ds=make_dataset().isel(time=2))
    one = xgc.from_stacks([moment])
    assert one.start_time.values.tolist() == one.end_time.values.tolist()
    np.testing.assert_array_equal(loaded(one)["rain"][0], opened(moment)["rain"])


def test_a_dim_more_makes_bands(make_stack):
    ds = make_dataset()
    levels = np.arange(3)
    factor = xr.DataArray(levels + 1, coords={"level": [1000, 850, 500]}, dims="level")
    ds["t"] = (ds["rain"] * factor).transpose("time", "lat", "level", "lon")
    ds["one"] = ds["rain"].expand_dims(height=[2.0])
    path = make_stack(ds=ds, form="zarr2")
    cube = loaded(xgc.from_stacks([path]), 2)
    assert list(cube) == ["one", "rain", "t.1", "t.2", "t.3", "tas"]
    for k in levels:
        np.testing.assert_array_equal(
            cube[f"t.{k + 1}"][0], opened(path)["t"].isel(time=2, level=k)
        )
    np.testing.assert_array_equal(cube["one"], cube["rain"])
    only = loaded(xgc.from_stacks([path], variables=["t"]), 2, bands=["t.2"])
    np.testing.assert_array_equal(only["t.2"], cube["t.2"])
    named = loaded(xgc.from_stacks([path], variables="t"), 2, bands=["t_850", "t_500"])
    np.testing.assert_array_equal(named["t_850"], cube["t.2"])
    np.testing.assert_array_equal(named["t_500"], cube["t.3"])


def test_projected_stacks_lie_where_rioxarray_puts_them(make_stack, make_field):
    field = make_field((20, 30), crs="EPSG:32633").expand_dims(time=DAYS).rename("red")
    upside_down = field.isel(y=slice(None, None, -1)).to_dataset()
    del upside_down.spatial_ref.attrs["GeoTransform"]  # which is not turned with it
    path = make_stack(ds=upside_down)
    ds = xgc.from_stacks([path])
    assert ds.geocat.crs.to_epsg() == 32633
    with opened(path, decode_coords="all") as stored:
        assert ds.geometry.values[0].equals(shapely.box(*stored.rio.bounds()))
    cube = loaded(ds, 4)
    assert cube.odc.geobox == field.odc.geobox
    np.testing.assert_array_equal(cube["red"][0], field[4])


def test_several_stacks_make_one_catalog(make_stack, tmp_path):
    (tmp_path / "b").mkdir()
    paths = [make_stack("y2024"), make_stack("y2025", times=DAYS + np.timedelta64(365, "D"))]
    ds = xgc.from_stacks(paths)
    assert ds.sizes["scene"] == 10
    assert ds.geocat.query((10, 1, 11, 2), "2025").sizes["scene"] == 5
    twin = make_stack("b/y2024", seed=1)
    both = xgc.from_stacks([paths[0], twin])
    assert len(set(both.scene.values)) == 10
    assert both.scene.values[5] == "b_y2024_20240601T000000"
    np.testing.assert_array_equal(loaded(both, 7)["rain"][0], opened(twin)["rain"][2])


def test_it_is_a_catalog_like_any_other(make_stack, tmp_path):
    ds = xgc.from_stacks([make_stack()])
    path = ds.geocat.to_geoparquet(tmp_path / "c.parquet")
    again = xgc.open_catalog(path)
    xr.testing.assert_identical(again, ds)
    xr.testing.assert_identical(loaded(again, 3).compute(), loaded(ds, 3).compute())
    item = ds.geocat.to_items()[0].to_dict()
    assert item["assets"]["tas"]["type"] == "application/vnd.zarr"
    json.dumps(item, allow_nan=False)


@pytest.mark.parametrize("form", ["netcdf", "zarr3"])
def test_a_run_over_steps_is_what_numpy_says(make_stack, tmp_path, form):
    path = make_stack(form=form, lat=np.arange(20.0), lon=np.arange(100, 130.0))
    domain = xgc.from_stacks([path]).geocat.domain(bands=["tas", "rain"], mask_and_scale=True)
    pipe = xgc.Sequential(
        [xgc.GridSampler(8, overlap=2), xgc.ApplyToChips(lambda b: b[:, 0] - b[:, 1], name="less"), xgc.Stitch()]
    )  # fmt: skip
    out = xgc.run(pipe, domain, tmp_path / "out", progress=False)
    assert out.sizes["scene"] == 5
    stored = opened(path).isel(lat=slice(None, None, -1))
    expected = stored["tas"].astype("float32") - stored["rain"]
    for step in range(5):
        np.testing.assert_allclose(
            loaded(out, step)["prediction"][0], expected[step], rtol=1e-5, atol=1e-4
        )


# --- lazy, elsewhere ------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["netcdf", "zarr3"])
def test_a_step_of_a_long_stack_is_a_small_graph(make_stack, form):
    times = DAYS[0] + np.arange(80) * np.timedelta64(1, "h")
    ds = xgc.from_stacks([make_stack(form=form, times=times)])
    cube = loaded(ds, 50)
    assert len(cube["rain"].__dask_graph__()) < 30
    again = loaded(ds, 50)
    assert again["rain"].data.name == cube["rain"].data.name != loaded(ds, 49)["rain"].data.name


@pytest.mark.parametrize("form", ["netcdf", "zarr3"])
def test_a_cube_travels(make_stack, form):
    cube = loaded(xgc.from_stacks([make_stack(form=form)]), 1)
    xr.testing.assert_identical(pickle.loads(pickle.dumps(cube)).compute(), cube.compute())


@pytest.mark.parametrize("form", ["netcdf", "zarr3"])
def test_in_an_object_store_it_is_the_same(make_stack, new_bucket, form):
    obstore = pytest.importorskip("obstore")
    path, url = make_stack(form=form), f"{new_bucket()}/deep"
    store = obstore.store.from_url(url)
    for file in [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]:
        obstore.put(store, str(file.relative_to(path.parent)), file.read_bytes())
    here, there = xgc.from_stacks([path]), xgc.from_stacks([f"{url}/{path.name}"])
    xr.testing.assert_identical(there.drop_vars("href"), here.drop_vars("href"))
    cube = loaded(there, 2)
    xr.testing.assert_identical(cube.compute(), loaded(here, 2).compute())
    xr.testing.assert_identical(pickle.loads(pickle.dumps(cube)).compute(), cube.compute())


@pytest.mark.parametrize("form", [pytest.param("netcdf", marks=pytest.mark.slow), "zarr2"])
def test_on_a_web_server_it_is_the_same(make_stack, form):
    pytest.importorskip("obstore")
    path = make_stack(form=form)
    with faults.serving(path.parent) as server:
        there = xgc.from_stacks([f"{server.url}/{path.name}"])
        cube = loaded(there, 2).compute()
    xr.testing.assert_identical(cube, loaded(xgc.from_stacks([path]), 2).compute())


# --- other grids ----------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [0.0, -180.0, 1.0])
def test_nothing_is_lost_across_the_antimeridian(make_stack, first):
    lon = first + np.arange(0, 360, 2.0)
    path = make_stack(lat=np.arange(30, -31, -2.0), lon=lon, times=DAYS[:1])
    ds = xgc.from_stacks([path], variables=["rain"])
    pacific = GeoBox.from_bbox((-3e6, -2e6, 3e6, 2e6), "EPSG:3832", resolution=100_000)
    grid = xgc.GeoSlice(geobox=pacific, scenes=ds.scene.values.tolist())
    cube = ds.geocat.domain().load(grid)
    x, y = np.meshgrid(cube.x, cube.y)
    to_degrees = pyproj.Transformer.from_crs(3832, 4326, always_xy=True)
    there, lat = to_degrees.transform(x, y)
    stored = opened(path)["rain"][0]
    # The column that is nearest on the globe.
    column = np.abs((lon[:, None, None] - there + 180) % 360 - 180).argmin(axis=0)
    expected = stored.values[np.abs(stored.lat.values[:, None, None] - lat).argmin(axis=0), column]
    assert np.isfinite(cube["rain"]).all()
    assert (cube["rain"][0].values == expected).mean() > 0.97  # GDAL's nearest is nearly so


def test_a_grid_across_the_antimeridian_is_found_from_both_sides(make_stack):
    path = make_stack(lat=(1, 2, 3), lon=np.arange(176.5, 184))
    ds = xgc.from_stacks([path])
    assert ds.geocat.query((-179, 1, -178, 2)).sizes["scene"] == 5
    assert ds.geocat.query((178, 1, 179, 2)).sizes["scene"] == 5
    assert ds.geocat.query((0, 1, 10, 2)).sizes["scene"] == 0
    west, _, east, _ = ds.geocat.to_items()[0].bbox
    assert (west, east) == (176, -176)
    np.testing.assert_array_equal(loaded(ds)["rain"][0], opened(path)["rain"][0, ::-1])
    with pytest.raises(
        ValueError, match="across the antimeridian, from 176.0 to 184.0.*own pixels"
    ):
        loaded(ds, resolution=0.5)


# --- refusals -------------------------------------------------------------------------------------


def test_stacks_that_cannot_be_read_are_told_together(make_stack, tmp_path):
    uneven = make_stack("uneven", lon=(10, 11, 12, 14))
    noleap = make_dataset(times=np.arange(5))
    noleap.time.attrs = {"units": "days since 2000-01-01", "calendar": "noleap"}
    bent = make_dataset().rename(lat="j", lon="i").drop_vars(["j", "i"])
    for name, units in (("lat", "degrees_north"), ("lon", "degrees_east")):
        bent[name] = ("j", "i"), np.zeros((3, 4)), {"units": units}
    (tmp_path / "empty.zarr").mkdir()
    with pytest.raises(ValueError, match="5 of 6 stacks cannot be read") as caught:
        xgc.from_stacks(
            [uneven, make_stack("noleap", ds=noleap), make_stack("bent", ds=bent), make_stack("fine"),
             tmp_path / "nothing.zarr", tmp_path / "empty.zarr"]
        )  # fmt: skip
    message = str(caught.value)
    for said in ("uneven.zarr: The axis 'lon'", "noleap.zarr: The times 'time' are of the calendar",
                 "bent.zarr: ", "curvilinear", "nothing.zarr: "):  # fmt: skip
        assert said in message


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"variables": ["wind"]}, ValueError, r"no variables \['wind'\]; it has .*'tas'"),
        ({"variables": ["t"]}, ValueError, "beside time, y and x there may be one more"),
        ({"variables": ["text"]}, ValueError, "holds .*no numbers"),
        ({"variables": ["rain", "old"]}, ValueError, "have different times"),
        ({"scenes": "file"}, ValueError, "scenes='file'"),
    ],
)
def test_what_cannot_be_done_is_refused(make_stack, arguments, error, message):
    ds = make_dataset()
    ds["t"] = ds["rain"].expand_dims(level=2, member=2)
    ds["text"] = ds["rain"].isel(time=0).astype("U1")
    ds["old"] = ds["rain"].isel(time=0, drop=True)
    with pytest.raises(error, match=f"(?s){message}"):
        xgc.from_stacks([make_stack(ds=ds)], **arguments)


def test_a_path_or_a_dataset_alone_is_refused(make_stack):
    path = make_stack()
    with pytest.raises(TypeError, match=r"takes a list of paths; got a .*Path"):
        xgc.from_stacks(path)
    for given in (make_dataset(), [make_dataset()]):
        with pytest.raises(TypeError, match=r"RasterDomain\(ds\)"):
            xgc.from_stacks(given)


def test_stacks_in_several_crss_need_one(make_stack, make_field):
    utm = make_field((20, 30), crs="EPSG:32633").rename("red").to_dataset()
    paths = [make_stack("utm", ds=utm), make_stack("degrees")]
    with pytest.raises(ValueError, match=r"are in 2 CRSs.*from_stacks\(..., crs='EPSG:4326'\)"):
        xgc.from_stacks(paths)
    ds = xgc.from_stacks(paths, crs="EPSG:4326")
    assert ds.geocat.crs.to_epsg() == 4326
    assert loaded(ds.isel(scene=[0])).odc.geobox.crs == "EPSG:32633"


def test_a_stack_that_changed_is_refused(make_stack, tmp_path):
    ds = xgc.from_stacks([make_stack(form="zarr2")])
    make_dataset(times=DAYS + np.timedelta64(9, "D")).to_zarr(
        tmp_path / "stack.zarr", mode="w", zarr_format=2
    )
    with pytest.raises(ValueError, match="has no step 2024-06-01T00:00:00.000000.*it has 5.*again"):
        loaded(ds)
    make_dataset(lat=(4, 3, 2)).to_zarr(tmp_path / "stack.zarr", mode="w", zarr_format=2)
    with pytest.raises(ValueError, match="was written anew: make the catalog again"):
        loaded(ds)


def test_netcdf_without_its_extra_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match=r"pip install 'xgeocat\[netcdf\]'"):
        xgc.from_stacks([tmp_path / "a.nc"])
