"""Run: a pipeline over every slice of a domain, to outputs and a catalog of them."""

import os
from pathlib import Path

import numpy as np
import odc.geo.xr
import pandas as pd
import pyproj
import pytest
import rioxarray  # noqa: F401 - registers .rio
import xarray as xr
from odc.geo.geobox import GeoBox

import xgeocat as xgc
from tests.domain import scenes
from tests.runs.conftest import ndvi
from xgeocat.runs.ledger import RunMismatchError
from xgeocat.runs.run import RunFailuresWarning

UTM = "EPSG:32610"
GRID = GeoBox((70, 90), scenes.GRID, UTM)


def bands_of(catalog, i):
    """Stored pixels (band, y, x) of a scene of the source catalog, by rasterio."""
    return np.stack([scenes.read(href) for href in catalog.href.values[i]])


def open_raw(href):
    """One output variable as it is stored."""
    group, name = str(href).rsplit("/", 1)
    return xr.open_zarr(group, consolidated=False, mask_and_scale=False, decode_coords="all")[name]


def run(pipe, domain, out, **options):
    return xgc.run(pipe, domain, out, progress=False, **options)


# --- the result -----------------------------------------------------------------------------------


def test_the_result_is_the_catalog_that_lies_in_the_folder(make_domain, make_pipe, tmp_path):
    out = run(make_pipe(), make_domain(3), tmp_path / "out")
    for again in (
        xgc.open_catalog(tmp_path / "out"),
        xgc.open_catalog(tmp_path / "out" / "catalog.parquet"),
        xr.open_dataset(tmp_path / "out" / "catalog.parquet", engine="geocat"),
    ):
        xr.testing.assert_identical(again, out)
        assert again.xindexes["geometry"].equals(out.xindexes["geometry"])


def test_the_result_has_a_row_per_scene_with_its_time_place_and_properties(make_archive, make_pipe, tmp_path):
    items = make_archive(3, properties={"eo:cloud_cover": 12.5, "platform": "x", "n": 3, "ok": True})
    source = xgc.from_items(items)
    out = run(make_pipe(), source.geocat.domain(), tmp_path / "out")
    assert out.scene.values.tolist() == ["s0", "s1", "s2"]
    np.testing.assert_array_equal(out.start_time.values, source.start_time.values)
    np.testing.assert_array_equal(out.end_time.values, source.end_time.values)
    for name in ("eo:cloud_cover", "platform", "n", "ok"):
        assert out[name].values.tolist() == source[name].values.tolist()
    for got, want in zip(out.geometry.values, source.geometry.values, strict=True):
        assert got.symmetric_difference(want).area < 1e-6 * want.area


def test_the_result_is_queried_like_any_catalog(make_domain, make_pipe, tmp_path):
    out = run(make_pipe(), make_domain(3), tmp_path / "out")
    assert out.geocat.query(GRID[:5, :5], time="2024-06-02").scene.values.tolist() == ["s1"]
    assert out.geocat.query((10, 10, 11, 11)).sizes["scene"] == 0


def test_footprints_of_the_result_are_no_heavier_than_those_of_the_source(make_archive, make_pipe, tmp_path):
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


def contextual(batch):
    """A model that sees its whole patch, so that tiling and blending show."""
    answer = ndvi(batch)
    if len(batch):
        answer = answer + batch[:, 1].mean(axis=(-2, -1), keepdims=True).astype("float32") / 1e4
    return answer.astype("float32")


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
    (grid, kind) for grid in ("degrees", "thirds") for kind in ("bool", "int16 with nodata", "float32")
]


@pytest.mark.parametrize(("grid", "kind"), WHERE)
def test_outputs_of_every_kind_reload_as_they_were_answered(make_domain, make_pipe, tmp_path, kind, grid):
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
def test_several_bands_of_an_answer_are_one_asset_with_a_band_dimension(make_domain, tmp_path, named):
    def both(batch):
        return np.stack([batch[:, 0], batch[:, 1] // 2, batch[:, 0] // 3], axis=1).astype("float32")

    options = {"dims": ("head", "y", "x")} if named else {}
    pipe = xgc.Sequential(
        [xgc.GridSampler(32, overlap=8), xgc.ApplyToChips(both, name="both", **options), xgc.Stitch("hann")]
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
            yield xgc.GeoSlice(geobox=self.geobox, interval=("2024-06-01", "2024-06-03"), scenes=["a"])

    out = run(lambda cube: cube, Whole(raster), tmp_path / "out")
    (piece,) = out.geocat.domain().slices()
    got = out.geocat.domain().load(piece)["prediction"]
    np.testing.assert_array_equal(got.values, values)
    np.testing.assert_array_equal(got.time.values, times.values)


def test_results_that_keep_the_names_of_source_bands_are_not_scaled_again(make_archive, tmp_path):
    """What is known of a scene (its processing baseline) is not true of what was made from it."""
    items = make_archive(1, properties={"s2:processing_baseline": "05.10", "s2:product_type": "S2MSI2A"})
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
    clip = xgc.Sequential([xgc.GridSampler(32, overlap=8), xgc.ApplyToChips(positive, name="positive"), xgc.Stitch()])
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
    east = scenes.shapely.transform(unrolled & scenes.shapely.box(180, -90, 360, 90), lambda xy: xy - (360, 0))
    return scenes.shapely.MultiPolygon([west, east])


@pytest.mark.parametrize("cut", [True, False])
@pytest.mark.parametrize("zone", ["EPSG:32601", "EPSG:32660"])
def test_scenes_across_180_degrees_run_and_are_found_there(make_archive, make_pipe, tmp_path, zone, cut):
    easting = 350000 if zone == "EPSG:32601" else 650000
    grid = scenes.Affine(1200, 0, easting - 45 * 1200, 0, -1200, 7500000)
    items = make_archive(2, crs=zone, transform=grid)
    for item in items:
        footprint = across_180(item["assets"]["red"]["href"], cut)
        item |= {"geometry": scenes.shapely.geometry.mapping(footprint), "bbox": list(footprint.bounds)}
    domain = xgc.from_items(items).geocat.domain()
    out = run(make_pipe(), domain, tmp_path / "out")
    assert out.sizes["scene"] == 2
    for aoi, count in [((179.9, 67.0, -179.9, 67.1), 2), ((0, 66, 10, 68), 0), ((-100, 66, 100, 68), 0)]:
        assert out.geocat.query(aoi).sizes["scene"] == count
    for i, piece in enumerate(out.geocat.domain().slices()):
        got = out.geocat.domain().load(piece)["prediction"].values[0]
        scenes.assert_same(got, ndvi(bands_of(domain.catalog, i)[None])[0])


def test_a_failure_that_cannot_be_described_is_recorded_all_the_same(
    make_domain, make_pipe, tmp_path, monkeypatch
):
    """Recording a failure must not end the run."""
    from xgeocat.runs import run as module

    whole = module.reproject

    def fails(where, crs, *args):
        if len(calls) < 2 and not calls.append(1):
            raise scenes.shapely.errors.GEOSException("TopologyException")
        return whole(where, crs, *args)

    calls = []
    monkeypatch.setattr(module, "reproject", fails)
    with pytest.warns(RunFailuresWarning):
        out = run(make_pipe(), make_domain(3), tmp_path / "out")
    assert out.sizes["scene"] == 2
    assert xgc.failures(tmp_path / "out").scene.values.tolist() == ["s0"]


# --- ids ------------------------------------------------------------------------------------------

NASTY = ["../../x", "a/b", "a_b", "a b", ".hidden", "x" * 300, "ä雪🛰", "/abs", "a.zarr", "a#b?c", "a%20b"]


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


# --- failures are data ----------------------------------------------------------------------------


def broken(items, i, how):
    """Break one scene of an archive; return what mends it."""
    path = Path(items[i]["assets"]["red"]["href"])
    whole = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "truncated":
        path.write_bytes(whole[: len(whole) // 2])
    elif how == "garbage":
        path.write_bytes(b"this is no TIFF" * 100)
    return lambda: path.write_bytes(whole)


@pytest.mark.parametrize("how", ["missing", "truncated", "garbage"])
def test_a_scene_that_cannot_be_read_fails_alone_and_is_done_once_mended(
    make_archive, make_pipe, tmp_path, tree, how
):
    items = make_archive(4, shape=(200, 300))
    domain = xgc.from_items(items).geocat.domain()
    run(make_pipe(), domain, tmp_path / "undisturbed")
    mend = broken(items, 2, how)
    with pytest.warns(RunFailuresWarning, match="1 of 4"):
        out = run(make_pipe(), domain, tmp_path / "out", retries=1)
    assert out.scene.values.tolist() == ["s0", "s1", "s3"]
    failed = xgc.failures(tmp_path / "out")
    assert failed.scene.values.tolist() == ["s2"]
    assert failed["failure:tries"].item() == 2
    assert "Error" in failed["failure:error"].item()
    assert failed["failure:message"].item()
    assert failed.geocat.query(GRID[:3, :3], time="2024-06-03").sizes["scene"] == 1
    assert not (tmp_path / "out" / "data" / "s2.zarr").exists()

    mend()
    out = run(make_pipe(), domain, tmp_path / "out")
    assert out.scene.values.tolist() == ["s0", "s1", "s2", "s3"]
    assert xgc.failures(tmp_path / "out").sizes["scene"] == 0
    assert tree(tmp_path / "out") == tree(tmp_path / "undisturbed")


@pytest.mark.parametrize("how", ["missing", "truncated", "garbage"])
@pytest.mark.parametrize("what", ["step", "file"])
def test_the_record_of_a_file_that_cannot_be_read_says_load_and_which(
    make_archive, make_pipe, tmp_path, how, what
):
    """Pixels are read while the field streams to disk; that is no failure to write."""
    items = make_archive(1, shape=(200, 300))
    domain = xgc.from_items(items).geocat.domain()
    broken(items, 0, how)
    with pytest.warns(RunFailuresWarning):
        run(make_pipe(), domain, tmp_path / "out", retries=0)
    failed = xgc.failures(tmp_path / "out")
    if what == "step":
        assert failed["failure:step"].item() == "load"
    else:
        assert "red.tif" in failed["failure:message"].item()


def test_the_record_of_a_model_that_fails_says_pipeline(marked, make_pipe, tmp_path):
    pipe = make_pipe(Fails(ValueError("shape of things"), 9999, 10**6), overlap=0)
    with pytest.warns(RunFailuresWarning):
        run(pipe, marked, tmp_path / "out")
    assert xgc.failures(tmp_path / "out")["failure:step"].item() == "pipeline"


def test_the_record_of_a_disk_that_fails_says_write(make_domain, make_pipe, tmp_path, monkeypatch):
    from zarr.storage import LocalStore

    async def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(LocalStore, "set", full)
    with pytest.warns(RunFailuresWarning):
        run(make_pipe(), make_domain(1), tmp_path / "out", retries=1)
    failed = xgc.failures(tmp_path / "out")
    assert failed["failure:step"].item() == "write"
    assert failed["failure:tries"].item() == 2
    assert "No space left" in failed["failure:message"].item()


class Fails:
    """A model that fails `times` times on batches of one scene, then works."""

    def __init__(self, error, value, times):
        self.error, self.value, self.times, self.calls = error, value, times, 0

    def __call__(self, batch):
        # Each made scene is told by a number that only it has.
        if batch.size and (batch == self.value).any():
            self.calls += 1
            if self.calls <= self.times:
                raise self.error
        return ndvi(batch)


@pytest.fixture
def marked(make_archive):
    """Three scenes, of which the second alone holds the number 9999, in one patch."""
    items = make_archive(3)
    path = Path(items[1]["assets"]["red"]["href"])
    values = scenes.read(path)
    values[40, 40] = 9999
    scenes.write_cog(path, values)
    return xgc.from_items(items).geocat.domain()


def test_a_model_that_fails_fails_its_scene_alone(marked, make_pipe, tmp_path):
    pipe = make_pipe(Fails(ValueError("shape of things"), 9999, 10**6), overlap=0)
    with pytest.warns(RunFailuresWarning):
        out = run(pipe, marked, tmp_path / "out")
    assert out.scene.values.tolist() == ["s0", "s2"]
    failed = xgc.failures(tmp_path / "out")
    row = {name: failed[f"failure:{name}"].item() for name in ("step", "error", "tries", "message", "traceback")}
    assert failed.scene.item() == "s1"
    assert (row["error"], row["tries"], row["message"]) == ("ValueError", 1, "shape of things")
    assert "raise self.error" in row["traceback"]


@pytest.mark.parametrize("error", [OSError("network"), ConnectionError("reset"), TimeoutError("slow")])
def test_an_error_that_passes_is_tried_again_and_leaves_no_trace(marked, make_pipe, tmp_path, tree, error):
    run(make_pipe(ndvi, overlap=0), marked, tmp_path / "undisturbed")
    model = Fails(error, 9999, 2)
    out = run(make_pipe(model, overlap=0), marked, tmp_path / "out", retries=2)
    assert model.calls == 3
    assert out.scene.values.tolist() == ["s0", "s1", "s2"]
    assert xgc.failures(tmp_path / "out").sizes["scene"] == 0
    assert tree(tmp_path / "out") == tree(tmp_path / "undisturbed")


@pytest.mark.parametrize(("retries", "calls"), [(0, 1), (1, 2), (3, 4)])
def test_an_error_that_stays_is_tried_as_often_as_asked_for(marked, make_pipe, tmp_path, retries, calls):
    model = Fails(OSError("network"), 9999, 10**6)
    with pytest.warns(RunFailuresWarning):
        run(make_pipe(model, overlap=0), marked, tmp_path / "out", retries=retries)
    assert model.calls == calls
    assert xgc.failures(tmp_path / "out")["failure:tries"].item() == calls


@pytest.mark.parametrize("error", [ValueError("no"), TypeError("no"), KeyError("no"), ZeroDivisionError("no")])
def test_an_error_that_will_not_pass_is_not_tried_again(marked, make_pipe, tmp_path, error):
    model = Fails(error, 9999, 10**6)
    with pytest.warns(RunFailuresWarning):
        run(make_pipe(model, overlap=0), marked, tmp_path / "out", retries=5)
    assert model.calls == 1


def test_on_error_raise_ends_the_run_and_keeps_what_was_done(marked, make_pipe, tmp_path):
    model = Fails(ValueError("stop here"), 9999, 1)
    with pytest.raises(ValueError, match="stop here"):
        run(make_pipe(model, overlap=0), marked, tmp_path / "out", on_error="raise")
    assert [p.name for p in (tmp_path / "out" / "items").iterdir()] == ["s0.json"]
    done = (tmp_path / "out" / "items" / "s0.json").stat().st_mtime_ns
    out = run(make_pipe(model, overlap=0), marked, tmp_path / "out", on_error="raise")
    assert out.scene.values.tolist() == ["s0", "s1", "s2"]
    assert (tmp_path / "out" / "items" / "s0.json").stat().st_mtime_ns == done


def test_an_unknown_on_error_is_refused_before_anything_runs(make_domain, make_pipe, tmp_path):
    with pytest.raises(ValueError, match="on_error"):
        run(make_pipe(), make_domain(1), tmp_path / "out", on_error="ignore")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("retries", [-1, -5])
def test_fewer_than_no_retries_are_refused(make_domain, make_pipe, tmp_path, retries):
    with pytest.raises(ValueError, match="retries"):
        run(make_pipe(), make_domain(1), tmp_path / "out", retries=retries)


def test_interruption_ends_the_run_and_can_be_resumed(marked, make_pipe, tmp_path, tree):
    run(make_pipe(ndvi, overlap=0), marked, tmp_path / "undisturbed")
    model = Fails(KeyboardInterrupt(), 9999, 1)
    with pytest.raises(KeyboardInterrupt):
        run(make_pipe(model, overlap=0), marked, tmp_path / "out")
    run(make_pipe(model, overlap=0), marked, tmp_path / "out")
    assert tree(tmp_path / "out") == tree(tmp_path / "undisturbed")


def test_a_band_that_one_scene_lacks_fails_that_scene_alone(make_archive, make_pipe, tmp_path):
    items = make_archive(3)
    del items[1]["assets"]["nir"]
    domain = xgc.from_items(items).geocat.domain(bands=["red", "nir"])
    with pytest.warns(RunFailuresWarning):
        out = run(make_pipe(), domain, tmp_path / "out")
    assert out.scene.values.tolist() == ["s0", "s2"]
    failed = xgc.failures(tmp_path / "out")
    assert (failed["failure:step"].item(), failed["failure:error"].item()) == ("load", "KeyError")
    assert "nir" in failed["failure:message"].item()


def test_an_answer_that_is_nowhere_fails_with_a_remedy(make_domain, tmp_path):
    def lost(cube):
        return xr.DataArray(cube["red"].values[0], dims=("y", "x"))

    with pytest.warns(RunFailuresWarning):
        run(lost, make_domain(1), tmp_path / "out")
    assert "spatial_ref" in xgc.failures(tmp_path / "out")["failure:message"].item()


def test_failures_of_a_folder_without_a_run_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="no run"):
        xgc.failures(tmp_path / "nothing")


def test_every_scene_may_fail(make_archive, make_pipe, tmp_path):
    items = make_archive(2)
    domain = xgc.from_items(items).geocat.domain()
    for i in (0, 1):
        broken(items, i, "missing")
    with pytest.warns(RunFailuresWarning, match="2 of 2"):
        out = run(make_pipe(), domain, tmp_path / "out", retries=0)
    assert out.sizes["scene"] == 0
    assert xgc.failures(tmp_path / "out").sizes["scene"] == 2


# --- nothing is mixed -----------------------------------------------------------------------------


def pipes(make_pipe, **changes):
    return make_pipe(**{"overlap": 8, "window": "hann", "name": "ndvi v1", "size": 32, **changes})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "ndvi v2"}, ["model", "ndvi v1", "ndvi v2"]),
        ({"size": 40}, ["size", "32", "40"]),
        ({"overlap": 16}, ["overlap", "8", "16"]),
        ({"window": "boxcar"}, ["window", "hann", "boxcar"]),
        ({"fill": -1.0}, ["fill", "-1.0"]),
        ({"skip_empty": True}, ["skip_empty", "False", "True"]),
        ({"stitch": {"crop": 2}}, ["crop", "0", "2"]),
        ({"stitch": {"fill": 5.0}}, ["fill", "5.0"]),
    ],
)
def test_a_changed_pipeline_is_refused_by_name(make_domain, make_pipe, tmp_path, tree, changes, words):
    domain = make_domain(2)
    run(pipes(make_pipe), domain, tmp_path / "out")
    before = tree(tmp_path / "out")
    with pytest.raises(RunMismatchError) as error:
        run(pipes(make_pipe, **changes), domain, tmp_path / "out")
    for word in words:
        assert word in str(error.value)
    assert tree(tmp_path / "out") == before


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda ds: ds.isel(scene=[0, 1]), "slices"),
        (lambda ds: ds.isel(scene=[1, 0, 2]), "slices"),
        (lambda ds: ds.assign(href=ds.href.where(ds.asset != "red", ds.href.sel(asset="nir"))), "assets"),
        (lambda ds: ds.assign(nodata=ds.nodata.fillna(5)), "assets"),
        (lambda ds: ds.assign(scale=ds["scale"].fillna(5)), "assets"),
    ],
    ids=["a row fewer", "another order", "another href", "another nodata", "another scale"],
)
def test_a_changed_catalog_is_refused(make_archive, make_pipe, tmp_path, tree, change, word):
    catalog = xgc.from_items(make_archive(3))
    run(make_pipe(), catalog.geocat.domain(), tmp_path / "out")
    before = tree(tmp_path / "out")
    with pytest.raises(RunMismatchError, match=word):
        run(make_pipe(), change(catalog).geocat.domain(), tmp_path / "out")
    assert tree(tmp_path / "out") == before


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"resolution": 20}, "slices"),
        ({"crs": "EPSG:3857"}, "slices"),
        ({"bands": ["nir", "red"]}, "bands"),
        ({"mask_and_scale": True}, "mask_and_scale"),
        ({"resampling": "bilinear"}, "resampling"),
    ],
)
def test_changed_options_of_the_domain_are_refused(make_archive, make_pipe, tmp_path, options, word):
    catalog = xgc.from_items(make_archive(2))
    run(make_pipe(), catalog.geocat.domain(), tmp_path / "out")
    with pytest.raises(RunMismatchError, match=word):
        run(make_pipe(), catalog.geocat.domain(**options), tmp_path / "out")


def test_changed_bands_of_the_run_are_refused(make_domain, make_pipe, tmp_path):
    domain = make_domain(2)
    run(make_pipe(), domain, tmp_path / "out")
    with pytest.raises(RunMismatchError, match=r"bands.*'nir', 'red'"):
        run(make_pipe(), domain, tmp_path / "out", bands=["nir", "red"])


@pytest.mark.parametrize("options", [{"chunks": 64}, {"chunks": 1000}])
def test_what_changes_no_answer_is_not_refused(make_archive, make_pipe, tmp_path, options):
    catalog = xgc.from_items(make_archive(2))
    run(make_pipe(), catalog.geocat.domain(), tmp_path / "out")
    run(make_pipe(batch_size=3), catalog.geocat.domain(**options), tmp_path / "out")


def test_another_model_under_its_own_name_is_refused(make_domain, tmp_path):
    def piped(model):
        return xgc.Sequential([xgc.GridSampler(32), xgc.ApplyToChips(model), xgc.Stitch()])

    domain = make_domain(1)
    run(piped(ndvi), domain, tmp_path / "out")
    with pytest.raises(RunMismatchError, match="ndvi.*contextual"):
        run(piped(contextual), domain, tmp_path / "out")


def above(batch, threshold):
    return batch[:, 0] > threshold


def test_a_partial_with_other_arguments_is_another_model(make_domain, tmp_path):
    from functools import partial

    def piped(threshold):
        model = partial(above, threshold=threshold)
        return xgc.Sequential([xgc.GridSampler(32), xgc.ApplyToChips(model), xgc.Stitch()])

    domain = make_domain(1)
    run(piped(1000), domain, tmp_path / "out")
    with pytest.raises(RunMismatchError, match="1000.*2000"):
        run(piped(2000), domain, tmp_path / "out")


def test_another_raster_on_the_same_grid_is_not_taken_for_the_first(make_pipe, tmp_path):
    def domain(seed):
        grid = odc.geo.xr.xr_zeros(GRID, dtype="uint8")
        return xgc.RasterDomain(xr.Dataset(
            {name: (("y", "x"), scenes.pixels(seed=seed + k), {"nodata": 0}) for k, name in enumerate(("red", "nir"))},
            coords=grid.coords,
        ))  # fmt: skip

    run(make_pipe(), domain(1), tmp_path / "out")
    with pytest.raises(RunMismatchError):
        run(make_pipe(), domain(5), tmp_path / "out")


@pytest.mark.parametrize("content", ["file", "folder", "hidden", "foreign run.json"])
def test_a_folder_with_something_else_is_refused_and_untouched(make_domain, make_pipe, tmp_path, tree, content):
    root = tmp_path / "out"
    root.mkdir()
    if content == "file":
        (root / "thesis.tex").write_text("all of it")
    elif content == "folder":
        (root / "items").mkdir()
        (root / "items" / "mine.json").write_text("{}")
    elif content == "hidden":
        (root / ".keep").write_text("")
    else:
        (root / "run.json").write_text("not even JSON")
    before = tree(root)
    with pytest.raises(RunMismatchError, match="out"):
        run(make_pipe(), make_domain(1), root)
    assert tree(root) == before


def test_whole_numbers_of_numpy_are_numbers(make_domain, tmp_path):
    def piped(kind):
        return xgc.Sequential(
            [xgc.GridSampler(kind(32), overlap=kind(8)), xgc.ApplyToChips(ndvi), xgc.Stitch(crop=0)]
        )

    domain = make_domain(1)
    run(piped(int), domain, tmp_path / "out")
    run(piped(np.int64), domain, tmp_path / "out")


def test_sizes_per_dimension_and_windows_with_a_parameter_are_described(make_domain, tmp_path):
    def piped(taper):
        return xgc.Sequential([
            xgc.GridSampler({"y": 32, "x": 40}, overlap={"y": 8, "x": 4}), xgc.ApplyToChips(ndvi),
            xgc.Stitch(("tukey", taper), crop={"y": 2, "x": 0}),
        ])  # fmt: skip

    domain = make_domain(1)
    run(piped(0.5), domain, tmp_path / "out")
    run(piped(0.5), domain, tmp_path / "out")
    with pytest.raises(RunMismatchError, match=r"window.*0\.25"):
        run(piped(0.25), domain, tmp_path / "out")


def test_two_slices_of_one_name_are_refused_before_anything_runs(make_pipe, tmp_path):
    class Twice(xgc.RasterDomain):
        def slices(self):
            yield from [xgc.GeoSlice(geobox=self.geobox, scenes=["a"])] * 2

    raster = odc.geo.xr.xr_zeros(GRID, dtype="uint8")
    with pytest.raises(ValueError, match="repeated.*'a'"):
        run(make_pipe(), Twice(raster), tmp_path / "out")
    assert not (tmp_path / "out").exists()


# --- resuming -------------------------------------------------------------------------------------


def test_a_finished_run_run_again_does_nothing(make_domain, make_pipe, tmp_path):
    calls = []

    def model(batch):
        calls.append(len(batch))
        return ndvi(batch)

    domain = make_domain(3)
    run(make_pipe(model), domain, tmp_path / "out")
    root = tmp_path / "out"
    before = {p: p.stat().st_mtime_ns for p in root.rglob("*") if p.is_file() and p.name != "catalog.parquet"}
    assert sum(calls) > 0
    calls.clear()
    out = run(make_pipe(model), domain, tmp_path / "out")
    assert calls == []
    assert out.scene.values.tolist() == ["s0", "s1", "s2"]
    assert all(p.stat().st_mtime_ns == at for p, at in before.items())


def test_two_runs_of_the_same_thing_are_the_same_bytes(make_domain, make_pipe, tmp_path, tree):
    domain = make_domain(3, shape=(600, 700))
    run(make_pipe(size=64), domain, tmp_path / "one")
    run(make_pipe(size=64, batch_size=5), domain, tmp_path / "other")
    assert tree(tmp_path / "one") == tree(tmp_path / "other")


def test_each_patch_of_a_run_meets_the_model_once(make_domain, make_pipe, tmp_path):
    seen = []

    def model(batch):
        seen.append(len(batch))
        return ndvi(batch)

    run(make_pipe(model, size=32, overlap=8), make_domain(2), tmp_path / "out")
    rows, columns = (len(scenes.starts(n, 32, 24)) for n in (70, 90))
    assert sum(seen) in (2 * rows * columns, 2 * rows * columns + 2)  # asked once about its answers


def test_progress_can_be_shown(make_domain, make_pipe, tmp_path, capsys):
    xgc.run(make_pipe(), make_domain(2), tmp_path / "out")
    assert "scene" in capsys.readouterr().err
    run(make_pipe(), make_domain(2), tmp_path / "quiet")
    assert capsys.readouterr().err == ""


def test_a_run_leaves_no_files_but_its_own(make_domain, make_pipe, tmp_path):
    run(make_pipe(), make_domain(2), tmp_path / "out")
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert names == {"run.json", "items", "failures", "data", "catalog.parquet"}
    assert not [p for p in (tmp_path / "out").rglob("*.tmp")]
    assert os.listdir(tmp_path / "out" / "failures") == []
