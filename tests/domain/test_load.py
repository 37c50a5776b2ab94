"""Load: one scene on one grid as a lazy cube, against rasterio."""

import threading

import numpy as np
import pytest
import rasterio
import rioxarray  # noqa: F401 - registers .rio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox
from rasterio.warp import Resampling, reproject

import xgeocat as xgc
from tests.domain import scenes
from xgeocat.domain.assets import scenes_of
from xgeocat.domain.load import load_scene

UTM = "EPSG:32610"


def scene_of(made):
    return scenes_of(xgc.from_items([made]))[0]


def grid_of(path):
    with rasterio.open(path) as file:
        return GeoBox(file.shape, file.transform, file.crs.to_wkt())


def load(made, *bands, geobox=None, **options):
    bands = bands or tuple(made["assets"])
    geobox = geobox or grid_of(made["assets"][bands[0]]["href"])
    return load_scene(scene_of(made), geobox, bands, **options)


@pytest.mark.parametrize(
    "dtype", ["uint8", "int8", "int16", "uint16", "int32", "float32", "float64"]
)
@pytest.mark.parametrize("proj", [True, False])
def test_pixels_dtype_and_nodata_are_those_of_the_file(make_item, dtype, proj):
    made = make_item("a", proj=proj, red=scenes.pixels(dtype=dtype))
    cube = load(made)
    assert cube["red"].dtype == dtype
    assert cube["red"].attrs["nodata"] == 0
    np.testing.assert_array_equal(cube["red"].values[0], scenes.read(made["assets"]["red"]["href"]))


@pytest.mark.parametrize("shape", [(1, 1), (1, 90), (70, 1), (13, 17), (129, 257), (300, 130)])
@pytest.mark.parametrize("chunks", [32, 50, 2048])
def test_no_pixel_moves_whatever_the_size_and_the_chunks(make_item, shape, chunks):
    made = make_item("a", red=scenes.pixels(shape, edge=0), cog={"driver": "GTiff"})
    cube = load(made, chunks=chunks)
    assert cube["red"].dims == ("time", "y", "x")
    np.testing.assert_array_equal(cube["red"].values[0], scenes.read(made["assets"]["red"]["href"]))
    path = made["assets"]["red"]["href"]
    with rasterio.open(path) as file:
        assert cube.odc.geobox.transform.almost_equals(file.transform, precision=1e-9)


@settings(
    max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(
    rows=st.integers(1, 150),
    columns=st.integers(1, 150),
    resolution=st.sampled_from([10.0, 0.3, 1 / 3, 15.5]),
    west=st.sampled_from([500000.0, 499980.5, 233333.3]),
)
def test_no_pixel_moves_on_grids_that_binary_numbers_cannot_hold(
    make_item, rows, columns, resolution, west
):
    transform = scenes.Affine(resolution, 0, west, 0, -resolution, 4300000.1)
    name = f"a{rows}x{columns}-{resolution}-{west}"
    made = make_item(
        name, red=scenes.pixels((rows, columns), edge=0),
        cog={"transform": transform, "driver": "GTiff"},
    )  # fmt: skip
    cube = load(made)
    np.testing.assert_array_equal(cube["red"].values[0], scenes.read(made["assets"]["red"]["href"]))


def test_a_south_up_file_keeps_its_pixels_and_grid(make_item):
    transform = scenes.Affine(10, 0, 500000, 0, 10, 4299300)
    made = make_item("a", red=scenes.pixels(), cog={"transform": transform, "driver": "GTiff"})
    cube = load(made)
    assert cube.odc.geobox.transform == transform
    np.testing.assert_array_equal(cube["red"].values[0], scenes.read(made["assets"]["red"]["href"]))


def test_a_geographic_file_keeps_its_pixels_and_grid(make_item):
    transform = scenes.Affine(0.001, 0, -120.5, 0, -0.001, 39.25)
    made = make_item("a", red=scenes.pixels(), cog={"crs": "EPSG:4326", "transform": transform})
    cube = load(made)
    assert cube["red"].dims == ("time", "latitude", "longitude")
    np.testing.assert_array_equal(cube["red"].values[0], scenes.read(made["assets"]["red"]["href"]))


def test_a_crs_without_a_code_keeps_its_pixels_and_grid(make_cog):
    albers = "+proj=aea +lat_1=29.5 +lat_2=45.5 +lat_0=23 +lon_0=-96 +datum=NAD83 +units=m"
    path = make_cog("a/red.tif", crs=albers, transform=scenes.Affine(30, 0, -2e6, 0, -30, 2e6))
    made = scenes.item("a", {"red": scenes.asset(path, proj=False)})
    cube = load(made)
    np.testing.assert_array_equal(cube["red"].values[0], scenes.read(path))


def test_valid_pixels_at_the_swath_edge_and_corners_all_come(make_item):
    values = np.zeros((140, 131), "uint16")
    values[[0, 0, -1, -1], [0, -1, 0, -1]] = 11, 12, 13, 14
    values[:, 0], values[0, :] = 21, 22
    made = make_item("a", red=values)
    np.testing.assert_array_equal(load(made)["red"].values[0], values)


def test_a_footprint_that_is_drawn_too_small_cuts_no_pixel(make_item):
    made = make_item("a", red=scenes.pixels(edge=0))
    centre = scenes.shapely.geometry.shape(made["geometry"]).centroid.buffer(1e-4)
    made["geometry"] = scenes.shapely.geometry.mapping(centre)
    made["bbox"] = list(centre.bounds)
    np.testing.assert_array_equal(
        load(made)["red"].values[0], scenes.read(made["assets"]["red"]["href"])
    )


def test_bands_come_in_the_order_and_under_the_names_asked_for(make_item):
    made = make_item(
        "a", red=scenes.pixels(seed=1), green=scenes.pixels(seed=2), nir=scenes.pixels(seed=3)
    )
    cube = load(made, "nir", "red")
    assert list(cube.data_vars) == ["nir", "red"]
    for name in cube.data_vars:
        np.testing.assert_array_equal(
            cube[name].values[0], scenes.read(made["assets"][name]["href"])
        )


@pytest.mark.parametrize("described", [True, False])
def test_each_band_of_a_file_with_several_is_read_by_its_number(make_cog, described):
    path = make_cog("a/image.tif", scenes.pixels(count=3), driver="GTiff", interleave="pixel")
    fields = {"bands": [{"name": n} for n in ("R", "G", "B")]} if described else {}
    made = scenes.item("a", {"image": scenes.asset(path, **fields)})
    names = ["image.3", "image.1", "G"] if described else ["image"]
    cube = load_scene(scene_of(made), grid_of(path), names)
    for name, number in zip(names, [3, 1, 2] if described else [1], strict=True):
        np.testing.assert_array_equal(cube[name].values[0], scenes.read(path, number))


def test_bands_of_one_asset_and_of_others_load_together(make_cog):
    image = make_cog("a/image.tif", scenes.pixels(count=2))
    mask = make_cog("a/mask.tif", scenes.pixels(dtype="uint8"))
    made = scenes.item("a", {
        "image": scenes.asset(image, bands=[{"name": "R"}, {"name": "G"}]),
        "mask": scenes.asset(mask),
    })  # fmt: skip
    cube = load(made, "image.2", "mask", "image.1", geobox=grid_of(image))
    np.testing.assert_array_equal(cube["image.2"].values[0], scenes.read(image, 2))
    np.testing.assert_array_equal(cube["image.1"].values[0], scenes.read(image, 1))
    np.testing.assert_array_equal(cube["mask"].values[0], scenes.read(mask))
    assert cube["mask"].dtype == "uint8"


def test_a_coarser_band_is_repeated_onto_the_finer_grid(make_item, make_cog):
    made = make_item("a", red=scenes.pixels((80, 60)))
    coarse = make_cog(
        "a/swir.tif",
        scenes.pixels((40, 30), seed=5),
        transform=scenes.GRID @ scenes.Affine.scale(2),
    )
    made["assets"]["swir"] = scenes.asset(coarse)
    cube = load(made, "red", "swir")
    want = np.kron(scenes.read(coarse), np.ones((2, 2), "uint16"))
    np.testing.assert_array_equal(cube["swir"].values[0], want)


@pytest.mark.parametrize("method", ["nearest", "bilinear", "cubic", "average"])
def test_another_grid_is_filled_as_gdal_resamples(make_item, method):
    made = make_item(
        "a", red=scenes.pixels((120, 100), dtype="float32", edge=0), cog={"nodata": -1}
    )
    path = made["assets"]["red"]["href"]
    target = GeoBox((50, 40), scenes.Affine(20, 0, 500100, 0, -20, 4299900), UTM)
    got = load(made, geobox=target, resampling=method)["red"].values[0]
    want = np.zeros((50, 40), "float32")
    with rasterio.open(path) as file:
        reproject(
            rasterio.band(file, 1), want, dst_transform=target.transform, dst_crs=UTM,
            resampling=Resampling[method], dst_nodata=-1,
        )  # fmt: skip
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_outside_the_scene_there_is_nodata(make_item):
    made = make_item("a", red=scenes.pixels(edge=0))
    target = GeoBox((90, 110), scenes.Affine(10, 0, 499900, 0, -10, 4300100), UTM)
    got = load(made, geobox=target)["red"].values[0]
    want = np.zeros((90, 110), "uint16")
    want[10:80, 10:100] = scenes.read(made["assets"]["red"]["href"])
    np.testing.assert_array_equal(got, want)


def test_a_window_of_the_grid_reads_those_pixels(make_item):
    made = make_item("a", red=scenes.pixels((140, 131)))
    window = grid_of(made["assets"]["red"]["href"])[33:90, 5:77]
    np.testing.assert_array_equal(
        load(made, geobox=window)["red"].values[0],
        scenes.read(made["assets"]["red"]["href"])[33:90, 5:77],
    )


def test_mask_and_scale_gives_float32_with_nan_for_nodata(make_item):
    about = {"nodata": 0, "raster:scale": 1e-4, "raster:offset": -0.1}
    made = make_item("a", red=scenes.pixels(), about=about)
    stored = scenes.read(made["assets"]["red"]["href"]).astype("float64")
    cube = load(made, mask_and_scale=True)
    assert cube["red"].dtype == "float32"
    want = np.where(stored == 0, np.nan, stored * 1e-4 - 0.1)
    np.testing.assert_allclose(cube["red"].values[0], want, rtol=1e-5, atol=1e-7)
    assert np.isnan(cube["red"].values).any()
    assert not {"scale", "offset"} & set(cube["red"].attrs)


def test_without_mask_and_scale_the_stored_numbers_and_their_meaning_come(make_item):
    about = {"nodata": 0, "raster:scale": 1e-4, "raster:offset": -0.1}
    cube = load(make_item("a", red=scenes.pixels(), about=about))
    assert cube["red"].attrs == {"nodata": 0, "scale": 1e-4, "offset": -0.1}


def test_nan_nodata_of_a_float_file_stays_nan(make_item):
    values = scenes.pixels(dtype="float32")
    values[values == 0] = np.nan
    made = make_item("a", red=values, cog={"nodata": np.nan})
    for mask_and_scale in (False, True):
        cube = load(made, mask_and_scale=mask_and_scale)
        np.testing.assert_array_equal(cube["red"].values[0], values)


def test_a_file_without_nodata_keeps_its_zeros_when_masked(make_item):
    made = make_item("a", red=scenes.pixels(), cog={"nodata": None})
    got = load(made, mask_and_scale=True)["red"].values[0]
    np.testing.assert_array_equal(got, scenes.pixels().astype("float32"))


def test_time_is_the_scene_s_start_as_naive_utc(make_item):
    made = make_item("a", when="2024-06-01T20:30:40.5+02:00", red=scenes.pixels())
    cube = load(made)
    assert cube["red"].sizes["time"] == 1
    assert cube.time.values[0] == np.datetime64("2024-06-01T18:30:40.500000", "us")


def test_a_scene_without_a_time_loads_with_an_unknown_one(make_item):
    made = make_item("a", red=scenes.pixels())
    made["properties"]["datetime"] = None
    cube = load(made)
    assert np.isnat(cube.time.values[0])
    np.testing.assert_array_equal(cube["red"].values[0], scenes.read(made["assets"]["red"]["href"]))


def test_load_opens_no_file_when_the_item_says_all(make_item, monkeypatch):
    made = make_item("a", red=scenes.pixels(), about={"nodata": 0, "data_type": "uint16"})
    scene, geobox = scene_of(made), grid_of(made["assets"]["red"]["href"])

    def refuse(*args, **kwargs):
        raise AssertionError("opened a file")

    monkeypatch.setattr(rasterio, "open", refuse)
    cube = load_scene(scene, geobox, ["red"])
    assert cube["red"].chunks == ((1,), (70,), (90,))


def test_chunks_are_as_asked_for(make_item):
    cube = load(make_item("a", red=scenes.pixels((140, 131))), chunks=64)
    assert cube["red"].chunks == ((1,), (64, 64, 12), (64, 64, 3))


def test_a_corner_reads_only_its_chunk(make_item, monkeypatch):
    made = make_item("a", red=scenes.pixels((256, 256), edge=0))
    cube = load(made, chunks=64)
    from odc.loader._rio import RioReader

    seen, lock, whole = [], threading.Lock(), RioReader.read

    def counted(self, *args, **kwargs):
        with lock:
            seen.append(args)
        return whole(self, *args, **kwargs)

    monkeypatch.setattr(RioReader, "read", counted)
    corner = cube["red"].isel(time=0, y=slice(0, 10), x=slice(0, 10)).values
    np.testing.assert_array_equal(corner, scenes.read(made["assets"]["red"]["href"])[:10, :10])
    assert len(seen) == 1


def test_a_missing_file_fails_when_computed_and_names_itself(make_item, tmp_path):
    made = make_item("a", red=scenes.pixels(), about={"nodata": 0, "data_type": "uint16"})
    geobox = grid_of(made["assets"]["red"]["href"])
    made["assets"]["red"]["href"] = str(tmp_path / "gone.tif")
    cube = load_scene(scene_of(made), geobox, ["red"])
    with pytest.raises(OSError, match="gone.tif"):
        cube.compute()


def test_a_truncated_file_fails_rather_than_giving_zeros(make_item):
    made = make_item(
        "a", red=scenes.pixels((300, 300), edge=0), about={"nodata": 0, "data_type": "uint16"}
    )
    path = made["assets"]["red"]["href"]
    geobox = grid_of(path)
    with open(path, "r+b") as file:
        file.truncate(40_000)
    cube = load_scene(scene_of(made), geobox, ["red"])
    with pytest.raises(OSError):  # noqa: PT011 - GDAL words it by driver
        cube.compute()


def test_the_grid_mapping_is_kept_so_that_readers_find_the_crs(make_item):
    cube = load(make_item("a"))
    for var in cube.data_vars.values():
        assert var.odc.geobox.crs.to_epsg() == 32610
        assert var.rio.crs.to_epsg() == 32610
