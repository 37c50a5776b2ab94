"""RasterDomain: a raster in memory, dask-backed, or opened from Zarr, as a domain."""

import numpy as np
import odc.geo.xr
import pandas as pd
import pytest
import rasterio
import rioxarray
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox

import xgeocat as xgc
from tests.domain import scenes

UTM = "EPSG:32610"


def field(shape=(70, 90), transform=scenes.GRID, crs=UTM, times=None, dims=None, seed=0):
    """A raster on a grid; with dims (time, y, x) if `times` is given."""
    geobox = GeoBox(shape, transform, crs)
    grid = odc.geo.xr.xr_zeros(geobox, dtype="uint8")
    size = shape if times is None else (len(times), *shape)
    names = grid.dims if times is None else ("time", *grid.dims)
    values = np.random.default_rng(seed).integers(1, 9000, size).astype("uint16")
    made = xr.DataArray(values, dims=names, coords=grid.coords, attrs={"nodata": 0})
    return made if times is None else made.assign_coords(time=times)


DAYS = pd.date_range("2024-06-01T10:00", periods=3, freq="D")


def test_a_raster_without_time_is_one_slice_on_its_own_grid():
    domain = xgc.RasterDomain(field())
    (piece,) = domain.slices()
    assert len(domain) == 1
    assert piece.geobox == GeoBox((70, 90), scenes.GRID, UTM)
    assert piece.interval is None
    assert domain.crs == CRS(UTM)
    assert tuple(domain.bounds) == (500000, 4299300, 500900, 4300000)
    xr.testing.assert_identical(domain.load(piece), field())


def test_each_time_step_is_a_slice_of_that_moment():
    raster = field(times=DAYS)
    domain = xgc.RasterDomain(raster)
    pieces = list(domain.slices())
    assert len(domain) == len(pieces) == 3
    for i, piece in enumerate(pieces):
        assert piece.interval == (np.datetime64(DAYS[i], "us"),) * 2
        xr.testing.assert_identical(domain.load(piece), raster.isel(time=[i]))


def test_a_scalar_time_coordinate_is_the_time_of_the_one_slice():
    raster = field(times=DAYS).isel(time=1)
    domain = xgc.RasterDomain(raster)
    (piece,) = domain.slices()
    assert piece.interval == (np.datetime64(DAYS[1], "us"),) * 2
    xr.testing.assert_identical(domain.load(piece), raster)


@pytest.mark.parametrize("order", [[2, 1, 0], [1, 2, 0]])
def test_time_steps_may_come_in_any_order(order):
    raster = field(times=DAYS).isel(time=order)
    domain = xgc.RasterDomain(raster)
    for i, piece in enumerate(domain.slices()):
        xr.testing.assert_identical(domain.load(piece), raster.isel(time=[i]))


def test_a_time_step_between_two_microseconds_is_found_again():
    raster = field(times=np.array(["2024-06-01T10:00:00.123456789"], "datetime64[ns]"))
    domain = xgc.RasterDomain(raster)
    (piece,) = domain.slices()
    xr.testing.assert_identical(domain.load(piece), raster)


def test_a_time_dimension_without_times_is_refused_or_one_slice():
    raster = field(times=DAYS).drop_vars("time")
    try:
        domain = xgc.RasterDomain(raster)
    except ValueError as error:
        assert "time" in str(error)  # noqa: PT017 - either answer will do, a KeyError will not
    else:
        assert len(list(domain.slices())) == len(domain)


def test_times_that_are_no_times_are_refused():
    with pytest.raises((TypeError, ValueError), match="time"):
        list(xgc.RasterDomain(field(times=[0, 1, 2])).slices())


def test_repeated_times_are_refused():
    with pytest.raises(ValueError, match="repeat"):
        xgc.RasterDomain(field(times=[DAYS[0], DAYS[0]]))


def test_time_steps_within_one_second_can_be_run(tmp_path):
    times = pd.date_range("2024-06-01", periods=3, freq="200ms")
    pipe = xgc.Sequential([xgc.GridSampler(32), xgc.Stitch()])
    out = xgc.run(pipe, xgc.RasterDomain(field(times=times)), tmp_path / "out", progress=False)
    assert out.sizes["scene"] == 3


@pytest.mark.parametrize("thing", [np.zeros((3, 3)), "raster.tif", None])
def test_anything_but_xarray_is_refused_with_a_remedy(thing):
    with pytest.raises(TypeError, match="open_rasterio|open_zarr"):
        xgc.RasterDomain(thing)


def test_a_raster_without_crs_is_refused_with_a_remedy():
    bare = field().drop_vars(["spatial_ref", "y", "x"])
    bare = bare.assign_coords(y=field().y.values, x=field().x.values)
    bare.encoding.clear()
    with pytest.raises(ValueError, match="no CRS.*assign_crs"):
        xgc.RasterDomain(bare)


@pytest.mark.parametrize("columns", [[0, 1, 3, 7], [0, 3, 1, 2], [0, 0, 1, 1]])
def test_an_irregular_grid_is_refused(columns):
    with pytest.raises(ValueError, match="grid"):
        xgc.RasterDomain(field().isel(x=columns))


def test_bands_of_a_dataset_come_in_the_order_asked_for():
    raster = xr.Dataset({name: field(seed=i) for i, name in enumerate(("red", "green", "nir"))})
    domain = xgc.RasterDomain(raster)
    (piece,) = domain.slices()
    loaded = domain.load(piece, bands=["nir", "red"])
    assert list(loaded.data_vars) == ["nir", "red"]
    xr.testing.assert_identical(loaded["nir"], raster["nir"])
    assert list(domain.load(piece).data_vars) == ["red", "green", "nir"]


def test_unknown_bands_and_bands_of_a_data_array_are_refused():
    (piece,) = xgc.RasterDomain(field()).slices()
    with pytest.raises(ValueError, match="swir.*red"):
        xgc.RasterDomain(xr.Dataset({"red": field()})).load(piece, bands=["swir"])
    with pytest.raises(ValueError, match="DataArray"):
        xgc.RasterDomain(field()).load(piece, bands=["red"])


@given(st.data())
def test_any_window_on_the_raster_s_pixels_is_cut_from_them(data):
    raster = field()
    top, left = data.draw(st.integers(0, 69)), data.draw(st.integers(0, 89))
    bottom, right = data.draw(st.integers(top + 1, 70)), data.draw(st.integers(left + 1, 90))
    window = GeoBox((70, 90), scenes.GRID, UTM)[top:bottom, left:right]
    cut = xgc.RasterDomain(raster).load(xgc.GeoSlice(geobox=window))
    np.testing.assert_array_equal(cut.values, raster.values[top:bottom, left:right])
    assert cut.odc.geobox == window or 1 in cut.shape


GRID = GeoBox((70, 90), scenes.GRID, UTM)


@pytest.mark.parametrize(
    "geobox",
    [
        GRID.pad(1),
        GRID.translate_pix(0.5, 0)[:50, :50],
        GRID.zoom_out(2),
        GeoBox((70, 90), scenes.GRID, "EPSG:32611"),
        GRID.translate_pix(-1, 0),
        GRID.translate_pix(0, 70),
        GRID.rotate(10)[:5, :5],
    ],
    ids=["beyond", "half a pixel", "coarser", "other crs", "left of it", "below it", "rotated"],
)
def test_a_grid_that_is_not_on_the_raster_s_pixels_is_refused_not_resampled(geobox):
    with pytest.raises(ValueError, match="not part of"):
        xgc.RasterDomain(field()).load(xgc.GeoSlice(geobox=geobox))


def test_a_time_that_the_raster_does_not_have_is_refused():
    domain = xgc.RasterDomain(field(times=DAYS))
    with pytest.raises(ValueError, match="no time"):
        domain.load(xgc.GeoSlice(geobox=GRID, interval="2020"))


def test_a_dask_backed_raster_stays_lazy():
    raster = field().chunk(y=16, x=90)
    domain = xgc.RasterDomain(raster)
    loaded = domain.load(next(domain.slices()))
    assert loaded.chunks is not None
    np.testing.assert_array_equal(loaded.values, raster.values)


def test_a_file_opened_with_rioxarray_is_a_domain(make_cog):
    path = make_cog(values=scenes.pixels())
    with rioxarray.open_rasterio(path, chunks=True) as raster:
        domain = xgc.RasterDomain(raster.squeeze("band", drop=True))
        (piece,) = domain.slices()
        np.testing.assert_array_equal(domain.load(piece).values, scenes.read(path))
        assert piece.geobox == GRID


DEGREES = scenes.Affine(0.001, 0, -120.5, 0, -0.001, 39.25)


def test_a_geographic_raster_is_a_domain_under_odc_s_dimension_names():
    raster = field(transform=DEGREES, crs="EPSG:4326")
    assert raster.dims == ("latitude", "longitude")
    domain = xgc.RasterDomain(raster)
    (piece,) = domain.slices()
    np.testing.assert_array_equal(domain.load(piece).values, raster.values)


def test_a_geographic_raster_is_a_domain_under_rioxarray_s_dimension_names(make_cog, tmp_path):
    path = make_cog(values=scenes.pixels(), crs="EPSG:4326", transform=DEGREES)
    with rioxarray.open_rasterio(path, chunks=True) as raster:
        assert raster.dims == ("band", "y", "x")
        domain = xgc.RasterDomain(raster.squeeze("band", drop=True))
        (piece,) = domain.slices()
        np.testing.assert_array_equal(domain.load(piece).values, scenes.read(path))


def test_a_raster_whose_dimensions_come_last_first_is_a_domain():
    raster = field().transpose("x", "y")
    domain = xgc.RasterDomain(raster)
    (piece,) = domain.slices()
    np.testing.assert_array_equal(domain.load(piece).transpose("y", "x").values, field().values)


@pytest.mark.parametrize("shape", [(1, 90), (70, 1), (1, 1)])
def test_a_raster_of_one_row_or_column_keeps_its_grid(shape, make_cog):
    path = make_cog(values=scenes.pixels(shape, edge=0), driver="GTiff")
    with rioxarray.open_rasterio(path) as raster, rasterio.open(path) as file:
        domain = xgc.RasterDomain(raster.squeeze("band", drop=True))
        (piece,) = domain.slices()
        assert piece.shape == shape
        assert piece.geobox.transform == file.transform
        np.testing.assert_array_equal(domain.load(piece).values, scenes.read(path))


def test_a_south_up_raster_keeps_its_grid():
    transform = scenes.Affine(10, 0, 500000, 0, 10, 4299300)
    domain = xgc.RasterDomain(field(transform=transform))
    (piece,) = domain.slices()
    assert piece.geobox.transform == transform
    np.testing.assert_array_equal(domain.load(piece).values, field().values)
