"""Run: what a pipeline over every slice of a domain leaves on disk and returns."""

from pathlib import Path

import numpy as np
import odc.geo.xr
import pandas as pd
import pyproj
import pytest
import rioxarray  # noqa: F401 - registers .rio
import xarray as xr

import xgeocat as xgc
from tests.domain import scenes
from tests.runs.archive import GRID, UTM, bands_of, contextual, ndvi, open_raw, run


def test_the_result_is_the_catalog_that_lies_in_the_folder(make_domain, make_pipe, tmp_path):
    out = run(make_pipe(), make_domain(3), tmp_path / "out")
    for again in (
        xgc.open_catalog(tmp_path / "out"),
        xgc.open_catalog(tmp_path / "out" / "catalog.parquet"),
        xr.open_dataset(tmp_path / "out" / "catalog.parquet", engine="geocat"),
    ):
        xr.testing.assert_identical(again, out)
        assert again.xindexes["geometry"].equals(out.xindexes["geometry"])


def test_the_result_has_a_row_per_scene_with_its_time_place_and_properties(
    make_archive, make_pipe, tmp_path
):
    items = make_archive(
        3, properties={"eo:cloud_cover": 12.5, "platform": "x", "n": 3, "ok": True}
    )
    source = xgc.from_items(items)
    out = run(make_pipe(), source.geocat.domain(), tmp_path / "out")
    assert out.scene.values.tolist() == ["s0", "s1", "s2"]
    np.testing.assert_array_equal(out.start_time.values, source.start_time.values)
    np.testing.assert_array_equal(out.end_time.values, source.end_time.values)
    for name in ("eo:cloud_cover", "platform", "n", "ok"):
        assert out[name].values.tolist() == source[name].values.tolist()
    for got, want in zip(out.geometry.values, source.geometry.values, strict=True):
        assert got.symmetric_difference(want).area < 1e-5 * want.area


def test_the_result_is_queried_like_any_catalog(make_domain, make_pipe, tmp_path):
    out = run(make_pipe(), make_domain(3), tmp_path / "out")
    assert out.geocat.query(GRID[:5, :5], time="2024-06-02").scene.values.tolist() == ["s1"]
    assert out.geocat.query((10, 10, 11, 11)).sizes["scene"] == 0


def test_footprints_of_the_result_are_no_heavier_than_those_of_the_source(
    make_archive, make_pipe, tmp_path
):
    """Ten thousand rectangles of a thousand corners each are half a gigabyte of JSON."""
    items = make_archive(1)
    plain = scenes.shapely.geometry.shape(items[0]["geometry"]).envelope
    items[0]["geometry"] = scenes.shapely.geometry.mapping(plain)
    out = run(make_pipe(), xgc.from_items(items).geocat.domain(), tmp_path / "out")
    assert len(out.geometry.values[0].exterior.coords) <= 20 * len(plain.exterior.coords)
    assert (tmp_path / "out" / "items" / "s0.json").stat().st_size < 20_000


@pytest.mark.parametrize("overlap", [0, 8])
@pytest.mark.parametrize("window", ["boxcar", "hann"])
def test_reloaded_predictions_equal_the_pipeline_on_the_cube_and_an_eager_loop(
    make_domain, make_pipe, tmp_path, overlap, window
):
    domain = make_domain(3, shape=(101, 87))
    pipe = make_pipe(contextual, overlap=overlap, window=window)
    out = run(pipe, domain, tmp_path / "out")
    reloaded = out.geocat.domain()
    pieces = zip(domain.slices(), reloaded.slices(), strict=True)
    for i, (source, piece) in enumerate(pieces):
        assert piece.geobox == source.geobox
        got = reloaded.load(piece)["prediction"]
        assert got.dtype == "float32"
        direct = pipe(domain.load(source))
        scenes.assert_same(got.values[0], direct.values)
        weights = scenes.hann if window == "hann" else np.ones
        want = scenes.eager(bands_of(domain.catalog, i), contextual, 32, overlap, weights)
        scenes.assert_same(got.values[0], want)


def test_a_scene_smaller_than_a_patch_is_predicted_whole(make_domain, make_pipe, tmp_path):
    domain = make_domain(1, shape=(20, 17))
    out = run(make_pipe(size=32), domain, tmp_path / "out")
    (piece,) = out.geocat.domain().slices()
    got = out.geocat.domain().load(piece)["prediction"].values[0]
    scenes.assert_same(got, ndvi(bands_of(domain.catalog, 0)[None])[0])


# Pixelwise models of every kind of answer, with the options that go with them.
MODELS = {
    "bool": (lambda b: b[:, 1] > b[:, 0], {}),
    "uint8": (lambda b: (b[:, 1] // 40).astype("uint8"), {}),
    "uint8 with nodata": (lambda b: np.where(b[:, 0] == 0, 255, b[:, 1] // 40).astype("uint8"), {"fill": 255}),
    "int16 with nodata": (lambda b: np.where(b[:, 0] == 0, -999, b[:, 1].astype("int16") - 4000).astype("int16"), {"fill": -999}),
    "float32": (ndvi, {}),
    "float32 with nodata": (lambda b: np.nan_to_num(ndvi(b), nan=-9999.0).astype("float32"), {"fill": -9999.0}),
    "float64": (lambda b: ndvi(b).astype("float64"), {}),
}  # fmt: skip
GRIDS = {
    "utm": {},
    "degrees": {"crs": "EPSG:4326", "transform": scenes.Affine(0.001, 0, -120.5, 0, -0.001, 39.25)},
    "thirds": {"crs": "EPSG:3857", "transform": scenes.Affine(1 / 3, 0, 0.1, 0, -1 / 3, 0.7)},
}


WHERE = [("utm", kind) for kind in MODELS] + [
    (grid, kind)
    for grid in ("degrees", "thirds")
    for kind in ("bool", "int16 with nodata", "float32")
]


@pytest.mark.parametrize(("grid", "kind"), WHERE)
def test_outputs_of_every_kind_reload_as_they_were_answered(
    make_domain, make_pipe, tmp_path, kind, grid
):
    model, options = MODELS[kind]
    domain = make_domain(1, **GRIDS[grid])
    out = run(make_pipe(model, window="boxcar", overlap=0, **options), domain, tmp_path / "out")
    reloaded = out.geocat.domain()
    (piece,), (source,) = reloaded.slices(), domain.slices()
    cube = reloaded.load(piece)["prediction"]
    want = model(bands_of(domain.catalog, 0)[None])[0]
    assert cube.dtype == want.dtype
    np.testing.assert_array_equal(cube.values[0], want)
    assert piece.geobox == source.geobox
    assert cube.odc.geobox.transform == source.geobox.transform
    if "fill" in options:
        assert cube.attrs["nodata"] == options["fill"]
        masked = next(iter(out.geocat.domain(mask_and_scale=True).slices()))
        values = out.geocat.domain(mask_and_scale=True).load(masked)["prediction"].values[0]
        np.testing.assert_array_equal(
            values, np.where(want == options["fill"], np.nan, want.astype("float32"))
        )


@pytest.mark.parametrize(("grid", "kind"), WHERE)
def test_rioxarray_odc_and_gdal_see_the_same_map(
    make_domain, make_pipe, tmp_path, read_with_gdal, kind, grid
):
    model, options = MODELS[kind]
    domain = make_domain(1, **GRIDS[grid])
    out = run(make_pipe(model, window="boxcar", overlap=0, **options), domain, tmp_path / "out")
    (name,) = out.asset.values
    crs = pyproj.CRS(GRIDS[grid].get("crs", UTM))
    transform = GRIDS[grid].get("transform", scenes.GRID)
    for i, href in enumerate(out.href.sel(asset=name).values):
        want = model(bands_of(domain.catalog, i)[None])[0]
        raw = open_raw(href)
        y, x = raw.dims
        spatial = raw.rio.set_spatial_dims(x_dim=x, y_dim=y)
        seen = read_with_gdal(Path(href).parent, name)
        for values in (raw.values, seen.values[0]):
            np.testing.assert_array_equal(values.astype(want.dtype), want)
        for found in (raw.odc.geobox.transform, spatial.rio.transform(), seen.transform):
            np.testing.assert_allclose(tuple(found)[:6], transform[:6], rtol=1e-9)
        for found in (raw.odc.geobox.crs.to_wkt(), spatial.rio.crs.to_wkt(), seen.crs):
            assert pyproj.CRS(found).equals(crs, ignore_axis_order=True)
        assert tuple(raw.odc.geobox.shape) == seen.shape == want.shape
        if "fill" in options:
            assert seen.nodata == options["fill"]
            assert spatial.rio.nodata == options["fill"]
        elif want.dtype.kind == "f":
            assert np.isnan(seen.nodata)
            assert np.isnan(spatial.rio.nodata)


@pytest.mark.parametrize("named", [False, True])
def test_several_bands_of_an_answer_are_one_asset_with_a_band_dimension(
    make_domain, tmp_path, named
):
    def both(batch):
        return np.stack([batch[:, 0], batch[:, 1] // 2, batch[:, 0] // 3], axis=1).astype("float32")

    options = {"dims": ("head", "y", "x")} if named else {}
    pipe = xgc.Sequential(
        [
            xgc.GridSampler(32, overlap=8),
            xgc.ApplyToChips(both, name="both", **options),
            xgc.Stitch("hann"),
        ]
    )
    domain = make_domain(2)
    out = run(pipe, domain, tmp_path / "out")
    reloaded = out.geocat.domain()
    for i, piece in enumerate(reloaded.slices()):
        cube = reloaded.load(piece)["prediction"]
        assert cube.sizes == {"time": 1, ("head" if named else "band"): 3, "y": 70, "x": 90}
        scenes.assert_same(cube.values[0], both(bands_of(domain.catalog, i)[None])[0])


def test_a_dataset_of_answers_is_an_asset_for_each_variable(make_domain, tmp_path):
    def indices(cube):
        red, nir = (cube[name].isel(time=0).astype("float32") for name in ("red", "nir"))
        return xr.Dataset({"sum": nir + red, "difference": nir - red})

    domain = make_domain(2)
    out = run(indices, domain, tmp_path / "out")
    assert sorted(out.asset.values) == ["difference", "sum"]
    reloaded = out.geocat.domain(bands=["difference"])
    for i, piece in enumerate(reloaded.slices()):
        red, nir = bands_of(domain.catalog, i).astype("float32")
        np.testing.assert_array_equal(reloaded.load(piece)["difference"].values[0], nir - red)


def test_a_function_may_keep_the_time_dimension_of_the_cube(make_domain, tmp_path):
    domain = make_domain(2)
    out = run(lambda cube: cube["red"] * np.uint16(2), domain, tmp_path / "out")
    reloaded = out.geocat.domain()
    for i, piece in enumerate(reloaded.slices()):
        got = reloaded.load(piece)["red" if "red" in out.asset.values else "prediction"]
        np.testing.assert_array_equal(got.values[0], bands_of(domain.catalog, i)[0] * 2)


def test_a_slice_of_several_time_steps_reloads_with_all_of_them(tmp_path):
    grid = odc.geo.xr.xr_zeros(GRID, dtype="uint8")
    times = pd.date_range("2024-06-01", periods=3, freq="D")
    values = np.random.default_rng(0).integers(1, 99, (3, 70, 90)).astype("uint8")
    raster = xr.DataArray(values, dims=("time", "y", "x"), coords={**grid.coords, "time": times})

    class Whole(xgc.RasterDomain):
        def __len__(self):
            return 1

        def slices(self):
            yield xgc.GeoSlice(
                geobox=self.geobox, interval=("2024-06-01", "2024-06-03"), scenes=["a"]
            )

    out = run(lambda cube: cube, Whole(raster), tmp_path / "out")
    (piece,) = out.geocat.domain().slices()
    got = out.geocat.domain().load(piece)["prediction"]
    np.testing.assert_array_equal(got.values, values)
    np.testing.assert_array_equal(got.time.values, times.values)


def test_results_that_keep_the_names_of_source_bands_are_not_scaled_again(make_archive, tmp_path):
    """What is known of a scene (its processing baseline) is not true of what was made from it."""
    items = make_archive(
        1, properties={"s2:processing_baseline": "05.10", "s2:product_type": "S2MSI2A"}
    )
    items[0]["assets"] = {"B04": items[0]["assets"]["red"], "B08": items[0]["assets"]["nir"]}
    domain = xgc.from_items(items).geocat.domain(mask_and_scale=True)
    (source,) = domain.slices()
    reflectance = domain.load(source)["B04"].values[0]
    pipe = xgc.Sequential([xgc.GridSampler(32), xgc.Stitch()])
    out = run(pipe, domain, tmp_path / "out")
    for mask_and_scale in (False, True):
        reloaded = out.geocat.domain(mask_and_scale=mask_and_scale)
        (piece,) = reloaded.slices()
        np.testing.assert_array_equal(reloaded.load(piece)["B04"].values[0], reflectance)


def test_scale_and_offset_of_numbers_passed_through_are_still_known(make_archive, tmp_path):
    items = make_archive(1)
    for asset in items[0]["assets"].values():
        asset |= {"nodata": 0, "raster:scale": 1e-4, "raster:offset": -0.1}
    domain = xgc.from_items(items).geocat.domain()
    out = run(xgc.Sequential([xgc.GridSampler(32), xgc.Stitch()]), domain, tmp_path / "out")
    (piece,), (source,) = out.geocat.domain().slices(), domain.slices()
    want = xgc.from_items(items).geocat.domain(mask_and_scale=True).load(source)["red"].values
    got = out.geocat.domain(mask_and_scale=True).load(piece)["red"].values
    np.testing.assert_array_equal(got, want)


def test_a_run_over_results_is_a_run_like_any_other(make_domain, make_pipe, tmp_path):
    domain = make_domain(2)
    first = run(make_pipe(), domain, tmp_path / "first")
    clip = xgc.Sequential(
        [xgc.GridSampler(32, overlap=8), xgc.ApplyToChips(positive, name="positive"), xgc.Stitch()]
    )
    second = run(clip, first.geocat.domain(), tmp_path / "second")
    reloaded = second.geocat.domain()
    for i, piece in enumerate(reloaded.slices()):
        want = ndvi(bands_of(domain.catalog, i)[None])[0] > 0
        np.testing.assert_array_equal(reloaded.load(piece)["prediction"].values[0], want)


def positive(batch):
    return batch[:, 0] > 0


@pytest.mark.parametrize("shape", [(1, 90), (70, 1), (1, 1)])
def test_a_scene_of_one_row_or_column_reloads_on_its_grid(make_domain, tmp_path, shape):
    domain = make_domain(1, shape=shape, driver="GTiff")
    out = run(lambda cube: cube.isel(time=0), domain, tmp_path / "out")
    (piece,), (source,) = out.geocat.domain().slices(), domain.slices()
    assert piece.geobox == source.geobox
    got = out.geocat.domain().load(piece)["red"].values[0]
    np.testing.assert_array_equal(got, bands_of(domain.catalog, 0)[0])


def test_the_output_folder_can_be_moved(make_domain, make_pipe, tmp_path):
    domain = make_domain(2)
    run(make_pipe(), domain, tmp_path / "out")
    (tmp_path / "deep").mkdir()
    (tmp_path / "out").rename(tmp_path / "deep" / "moved")
    out = xgc.open_catalog(tmp_path / "deep" / "moved")
    for i, piece in enumerate(out.geocat.domain().slices()):
        got = out.geocat.domain().load(piece)["prediction"].values[0]
        scenes.assert_same(got, ndvi(bands_of(domain.catalog, i)[None])[0])


@pytest.mark.parametrize("as_path", [str, Path])
def test_the_output_folder_may_be_relative(make_domain, make_pipe, tmp_path, monkeypatch, as_path):
    monkeypatch.chdir(tmp_path)
    domain = make_domain(1)
    out = run(make_pipe(), domain, as_path("predictions/deep"))
    monkeypatch.chdir("/")
    (piece,) = out.geocat.domain().slices()
    got = out.geocat.domain().load(piece)["prediction"].values[0]
    scenes.assert_same(got, ndvi(bands_of(domain.catalog, 0)[None])[0])


def test_a_run_over_a_raster_is_named_by_time_and_reloads(make_pipe, tmp_path):
    grid = odc.geo.xr.xr_zeros(GRID, dtype="uint8")
    times = pd.date_range("2024-06-01T10:00", periods=2, freq="D")
    raster = xr.Dataset(
        {name: (("time", "y", "x"), np.stack([scenes.pixels(seed=k + i) for i in (0, 10)]), {"nodata": 0})
         for k, name in enumerate(("red", "nir"))},
        coords={**grid.coords, "time": times},
    )  # fmt: skip
    out = run(make_pipe(), xgc.RasterDomain(raster), tmp_path / "out")
    np.testing.assert_array_equal(out.start_time.values, times.values)
    for i, piece in enumerate(out.geocat.domain().slices()):
        got = out.geocat.domain().load(piece)["prediction"].values[0]
        want = ndvi(np.stack([scenes.pixels(seed=k + 10 * i) for k in (0, 1)])[None])[0]
        scenes.assert_same(got, want)


def across_180(path, cut):
    """Footprint of a grid across 180 degrees: cut in two there, or with longitudes beyond."""
    outline = scenes.outline(path)
    unrolled = scenes.shapely.transform(
        outline, lambda xy: np.column_stack([xy[:, 0] % 360, xy[:, 1]])
    )
    if not cut:
        return unrolled
    west = unrolled & scenes.shapely.box(0, -90, 180, 90)
    east = scenes.shapely.transform(
        unrolled & scenes.shapely.box(180, -90, 360, 90), lambda xy: xy - (360, 0)
    )
    return scenes.shapely.MultiPolygon([west, east])


@pytest.mark.parametrize("cut", [True, False])
@pytest.mark.parametrize("zone", ["EPSG:32601", "EPSG:32660"])
def test_scenes_across_180_degrees_run_and_are_found_there(
    make_archive, make_pipe, tmp_path, zone, cut
):
    easting = 350000 if zone == "EPSG:32601" else 650000
    grid = scenes.Affine(1200, 0, easting - 45 * 1200, 0, -1200, 7500000)
    items = make_archive(2, crs=zone, transform=grid)
    for item in items:
        footprint = across_180(item["assets"]["red"]["href"], cut)
        item |= {
            "geometry": scenes.shapely.geometry.mapping(footprint),
            "bbox": list(footprint.bounds),
        }
    domain = xgc.from_items(items).geocat.domain()
    out = run(make_pipe(), domain, tmp_path / "out")
    assert out.sizes["scene"] == 2
    for aoi, count in [
        ((179.9, 67.0, -179.9, 67.1), 2),
        ((0, 66, 10, 68), 0),
        ((-100, 66, 100, 68), 0),
    ]:
        assert out.geocat.query(aoi).sizes["scene"] == count
    for i, piece in enumerate(out.geocat.domain().slices()):
        got = out.geocat.domain().load(piece)["prediction"].values[0]
        scenes.assert_same(got, ndvi(bands_of(domain.catalog, i)[None])[0])


NASTY = [
    "../../x",
    "a/b",
    "a_b",
    "a b",
    ".hidden",
    "x" * 300,
    "ä雪🛰",
    "/abs",
    "a.zarr",
    "a#b?c",
    "a%20b",
]


def test_any_id_is_run_reloaded_and_kept_inside_the_folder(make_archive, make_pipe, tmp_path):
    items = make_archive(len(NASTY), ids=NASTY)
    domain = xgc.from_items(items).geocat.domain()
    before = sorted(p.name for p in tmp_path.iterdir())
    out = run(make_pipe(), domain, tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*before, "out"])
    assert not Path("/abs.zarr").exists()
    assert out.scene.values.tolist() == NASTY
    assert len(list((tmp_path / "out" / "data").iterdir())) == len(NASTY)
    for i, piece in enumerate(out.geocat.domain().slices()):
        got = out.geocat.domain().load(piece)["prediction"].values[0]
        scenes.assert_same(got, ndvi(bands_of(domain.catalog, i)[None])[0])


def test_an_index_of_nothing_is_no_unknown(make_domain, tmp_path):
    """Where both bands are alike NDVI is 0, which is nodata of the bands and not of the index."""

    def functions(cube):
        red, nir = cube["red"].isel(time=0), cube["nir"].isel(time=0)
        seen = (red != 0) & (nir != 0)
        red, nir = red.astype("float32"), (nir // 500 * 500).astype("float32")
        level = ((nir - red // 500 * 500) / (nir + red)).where(seen)
        return xr.Dataset({"level": level, "high": nir > 2500})

    domain = make_domain(2)
    found = run(functions, domain, tmp_path / "out")
    for i in range(2):
        red, nir = (band.astype("float32") for band in bands_of(domain.catalog, i))
        with np.errstate(all="ignore"):
            want = (nir // 500 * 500 - red // 500 * 500) / (nir // 500 * 500 + red)
        want[(red == 0) | (nir == 0)] = np.nan
        assert (want == 0).sum() > 10
        stored = xr.open_zarr(tmp_path / "out" / "data" / f"s{i}.zarr", consolidated=False)
        np.testing.assert_allclose(stored["level"].values, want, rtol=1e-6)
        np.testing.assert_array_equal(stored["high"].values, nir // 500 * 500 > 2500)
    assert found["nodata"].sel(asset="high").isnull().all()
    assert found["scale"].isnull().all() or (found["scale"] == 1).all()
    read = found.geocat.domain(bands=["level"], mask_and_scale=True)
    np.testing.assert_allclose(
        read.load(next(read.slices()))["level"].values[0],
        xr.open_zarr(tmp_path / "out" / "data" / "s0.zarr", consolidated=False)["level"].values,
    )
    grid = next(domain.slices()).geobox
    mosaic = xgc.mosaic(functions, domain, grid, tmp_path / "m", reduce="count", progress=False)
    seen = sum((bands_of(domain.catalog, i) != 0).all(axis=0).astype(int) for i in range(2))
    np.testing.assert_array_equal(mosaic["level"].values, seen)
