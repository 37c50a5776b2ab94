"""The whole chain on real satellite data, each step against numpy on what rasterio reads."""

import json

import numpy as np
import pytest
import rasterio
import rioxarray
import shapely
from affine import Affine
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox
from rasterio.warp import Resampling, reproject, transform_bounds

import xgeocat as xgc
from tests.domain import scenes

BANDS = ["green", "nir"]
# A lake and its shore in both tiles' overlap, in the CRS of the tiles.
AOI = xgc.GeoSlice(bounds=(520000, 5092000, 560000, 5098000), crs="EPSG:32633")


def ndwi_above(batch):
    """(batch, green nir, y, x) to 0/1 where NDWI > 0, 255 where either is nodata (0)."""
    green, nir = batch[:, 0].astype("float32"), batch[:, 1].astype("float32")
    with np.errstate(invalid="ignore", divide="ignore"):
        water = (green - nir) / (green + nir) > 0
    return np.where((green == 0) | (nir == 0), 255, water).astype("uint8")


def stored(catalog, i, bands=BANDS):
    return np.stack([scenes.read(catalog.href.sel(asset=band).values[i]) for band in bands])


@pytest.fixture(scope="module")
def archive(shared_data):
    return xgc.from_items(shared_data / "s2_33TW" / "catalog.json")


@pytest.fixture(scope="module")
def chain(archive, tmp_path_factory):
    """Catalog, hits, domain, pipeline and result of the whole chain, run once."""
    hits = archive.geocat.query(AOI, time=("2023-08-10", "2023-08-15"))
    domain = hits.geocat.domain(bands=BANDS, resolution=120)
    pipe = xgc.Sequential([
        xgc.GridSampler(256, overlap=64),
        xgc.ApplyToChips(ndwi_above, name="ndwi > 0", fill=255),
        xgc.Stitch("hann"),
    ])  # fmt: skip
    folder = tmp_path_factory.mktemp("chain") / "water"
    return hits, domain, pipe, xgc.run(pipe, domain, folder, progress=False), folder


# --- Sentinel-2, two neighbouring tiles, three dates ----------------------------------------------


def test_a_static_catalog_of_sentinel_2_is_a_catalog_of_its_scenes(archive, shared_data):
    folders = {p.name for p in (shared_data / "s2_33TW" / "sentinel-2-l2a").iterdir() if p.is_dir()}
    assert set(archive.scene.values) == folders
    assert {"B02", "green", "nir"} & set(archive.asset.values)


def test_the_query_finds_what_a_loop_over_the_items_finds(chain, archive, shared_data):
    box = transform_bounds("EPSG:32633", "EPSG:4326", *AOI.bounds)
    want = set()
    for path in (shared_data / "s2_33TW" / "sentinel-2-l2a").glob("*/*.json"):
        made = json.loads(path.read_text())
        day = made["properties"]["datetime"][:10]
        footprint = shapely.geometry.shape(made["geometry"])
        if "2023-08-10" <= day <= "2023-08-15" and footprint.intersects(shapely.box(*box)):
            want.add(made["id"])
    assert want
    assert set(chain[0].scene.values) == want


def test_cubes_are_the_pixels_of_the_files(chain):
    hits, domain, *_ = chain
    assert len(domain) == hits.sizes["scene"]
    for i, piece in enumerate(domain.slices()):
        with rasterio.open(hits.href.sel(asset="green").values[i]) as file:
            assert piece.geobox == GeoBox(file.shape, file.transform, file.crs.to_wkt())
        cube = domain.load(piece)
        for k, band in enumerate(BANDS):
            assert cube[band].dtype == "uint16"
            assert cube[band].attrs["nodata"] == 0
            np.testing.assert_array_equal(cube[band].values[0], stored(hits, i)[k])


@pytest.mark.parametrize("by", [None, "month"])
def test_a_stored_catalog_opened_lazily_gives_the_same_pixels(archive, chain, tmp_path, by):
    path = archive.geocat.to_geoparquet(tmp_path / "archive", by=by)
    hits = xgc.open_catalog(path).geocat.query(AOI, time=("2023-08-10", "2023-08-15"))
    domain = hits.geocat.domain(bands=BANDS, resolution=120)
    pieces = {piece.name: piece for piece in domain.slices()}
    assert set(pieces) == set(chain[0].scene.values)
    for name, piece in pieces.items():
        cube = domain.load(piece)
        for band in BANDS:
            href = archive.href.sel(scene=name, asset=band).item()
            np.testing.assert_array_equal(cube[band].values[0], scenes.read(href))


def test_the_pipeline_on_a_cube_equals_numpy_on_the_files(chain):
    hits, domain, pipe, *_ = chain
    seen_water = False
    for i, piece in enumerate(domain.slices()):
        want = ndwi_above(stored(hits, i)[None])[0]
        np.testing.assert_array_equal(pipe(domain.load(piece)).values, want)
        seen_water |= bool((want == 1).any())
    assert seen_water


def test_the_result_catalog_has_a_row_per_scene_where_and_when_it_was(chain):
    hits, _, _, out, folder = chain
    assert out.scene.values.tolist() == hits.scene.values.tolist()
    np.testing.assert_array_equal(out.start_time.values, hits.start_time.values)
    np.testing.assert_array_equal(out["eo:cloud_cover"].values, hits["eo:cloud_cover"].values)
    assert xgc.failures(folder).sizes["scene"] == 0
    for got, want in zip(out.geometry.values, hits.geometry.values, strict=True):
        assert got.symmetric_difference(want).area < 1e-5 * want.area
    again = xgc.open_catalog(folder)
    assert again.geocat.query(AOI).sizes["scene"] == hits.sizes["scene"]


def test_reloaded_predictions_equal_numpy_on_the_files(chain):
    hits, domain, _, out, _ = chain
    reloaded = out.geocat.domain()
    for i, (piece, source) in enumerate(zip(reloaded.slices(), domain.slices(), strict=True)):
        assert piece.geobox == source.geobox
        got = reloaded.load(piece)["prediction"]
        assert got.attrs["nodata"] == 255
        np.testing.assert_array_equal(got.values[0], ndwi_above(stored(hits, i)[None])[0])


def test_beyond_the_swath_edge_there_is_nodata_and_nothing_else(chain):
    hits, _, _, out, _ = chain
    reloaded = out.geocat.domain()
    edges = 0
    for i, piece in enumerate(reloaded.slices()):
        beyond = (stored(hits, i) == 0).any(axis=0)
        got = reloaded.load(piece)["prediction"].values[0]
        np.testing.assert_array_equal(got == 255, beyond)
        edges += 0 < beyond.mean() < 1
    assert edges, "none of these scenes has a swath edge"


def test_a_model_that_sees_its_patch_is_blended_as_an_eager_loop_blends_it(chain):
    hits, domain, *_ = chain

    def contextual(batch):
        green, nir = batch[:, 0].astype("float32"), batch[:, 1].astype("float32")
        with np.errstate(invalid="ignore", divide="ignore"):
            index = (green - nir) / (green + nir)
        mean = green.mean(axis=(-2, -1), keepdims=True) if len(batch) else green
        return np.where((green == 0) | (nir == 0), np.nan, index + mean / 1e4).astype("float32")

    pipe = xgc.Sequential([
        xgc.GridSampler(256, overlap=64), xgc.ApplyToChips(contextual), xgc.Stitch("hann")
    ])  # fmt: skip
    for i in range(2):
        piece = list(domain.slices())[i]
        want = scenes.eager(stored(hits, i), contextual, 256, 64, scenes.hann)
        scenes.assert_same(pipe(domain.load(piece)).values, want)


def test_an_offset_that_earth_search_applied_is_not_applied_again(archive):
    domain = archive.geocat.domain(bands=["red"], resolution=120, mask_and_scale=True)
    for i, piece in enumerate(domain.slices()):
        numbers = scenes.read(archive.href.sel(asset="red").values[i]).astype("float32")
        want = np.where(numbers == 0, np.nan, numbers * np.float32(1e-4))
        np.testing.assert_allclose(domain.load(piece)["red"].values[0], want, rtol=1e-6)


# --- the antimeridian -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def far_east(shared_data):
    return xgc.from_items(shared_data / "s2_antimeridian" / "catalog.json")


def unrolled(geometry):
    """A WGS 84 geometry near 180 degrees with longitudes in 0..360, where it is in one piece."""

    def turn(xy):
        return np.column_stack([np.where(xy[:, 0] < 0, xy[:, 0] + 360, xy[:, 0]), xy[:, 1]])

    return shapely.union_all([shapely.transform(g, turn) for g in shapely.get_parts(geometry)])


@pytest.mark.parametrize("box", [
    (179.0, 66.0, -179.0, 68.5), (179.9, 67.0, -179.9, 67.1), (179.9, 67.55, -179.0, 67.6),
    (178.2, 68.0, 178.4, 68.1), (-179.2, 67.55, -179.1, 67.7), (179.9, 60.0, -179.9, 66.0),
])  # fmt: skip
def test_a_query_near_180_degrees_equals_brute_force(far_east, shared_data, box):
    west, south, east, north = box
    aoi = shapely.box(west % 360, south, east % 360, north)
    want = []
    for path in (shared_data / "s2_antimeridian").rglob("S2A*.json"):
        made = json.loads(path.read_text())
        if unrolled(shapely.geometry.shape(made["geometry"])).intersects(aoi):
            want.append(made["id"])
    assert sorted(far_east.geocat.query(box).scene.values) == sorted(want)


def test_a_tile_s_own_grid_finds_it_across_180_degrees(far_east):
    grid = xgc.GeoSlice(bounds=(300000, 7390200, 409800, 7600020), crs="EPSG:32601")
    assert far_east.geocat.query(grid).sizes["scene"] == 3


@pytest.mark.parametrize(
    "aoi", [(-10.0, 66.0, 10.0, 68.5), (0.0, 66.0, 170.0, 68.5), (-170.0, 66.0, 0.0, 68.5)]
)
def test_a_query_elsewhere_at_the_same_latitude_finds_none(far_east, aoi):
    assert far_east.geocat.query(aoi).sizes["scene"] == 0


def test_scenes_across_180_degrees_load_as_their_files(far_east):
    domain = far_east.geocat.domain(bands=["red", "scl"], resolution=120)
    assert domain.crs == CRS("EPSG:32601")
    for i, piece in enumerate(domain.slices()):
        assert piece.shape == (915, 915)
        cube = domain.load(piece)
        for k, band in enumerate(("red", "scl")):
            np.testing.assert_array_equal(
                cube[band].values[0], stored(far_east, i, ["red", "scl"])[k]
            )


def test_scenes_across_180_degrees_run_and_stay_where_they_are(far_east, tmp_path):
    domain = far_east.geocat.domain(bands=["red", "scl"], resolution=120)
    pipe = xgc.Sequential([
        xgc.GridSampler(256), xgc.ApplyToChips(lambda b: b[:, 0] > 3000, name="bright"), xgc.Stitch()
    ])  # fmt: skip
    out = xgc.run(pipe, domain, tmp_path / "out", progress=False)
    narrow = (179.0, 66.0, -179.0, 68.5)
    assert (
        out.geocat.query(narrow).scene.values.tolist()
        == far_east.geocat.query(narrow).scene.values.tolist()
    )
    assert out.geocat.query((-10.0, 66.0, 10.0, 68.5)).sizes["scene"] == 0
    for i, piece in enumerate(out.geocat.domain().slices()):
        got = out.geocat.domain().load(piece)["prediction"].values[0]
        np.testing.assert_array_equal(got, stored(far_east, i, ["red"])[0] > 3000)


def test_a_file_in_zone_60_that_crosses_180_degrees_is_found_from_both_sides(shared_data):
    path = shared_data / "cog_dateline.tif"
    catalog = xgc.from_files([path], time="2020-01-01", crs="EPSG:4326")
    with rasterio.open(path) as file:
        west, south, east, north = transform_bounds(file.crs, "EPSG:4326", *file.bounds)
    assert west > east, "it does not cross"
    middle = (south + north) / 2
    for aoi in [(179.5, middle, 179.9, middle + 0.1), (-179.9, middle, -179.5, middle + 0.1),
                (179.5, middle, -179.5, middle + 0.1)]:  # fmt: skip
        assert catalog.geocat.query(aoi).sizes["scene"] == 1
    assert catalog.geocat.query((-170.0, south, 170.0, north)).sizes["scene"] == 0
    domain = catalog.geocat.domain()
    (piece,) = domain.slices()
    cube = domain.load(piece)
    np.testing.assert_array_equal(cube["data"].values[0], scenes.read(path))


# --- mixed resolutions, two zones -----------------------------------------------------------------


@pytest.fixture(scope="module")
def mixed(shared_data):
    paths = sorted((shared_data / "s2_29RKH_mixed_resolution").glob("*.tif"))
    return xgc.from_files(paths, pattern=r"(?P<band>B..|SCL)\.tif", time="2020-02-19")


def test_bands_of_one_folder_are_one_scene(mixed):
    assert mixed.sizes["scene"] == 1
    assert set(mixed.asset.values) == {
        *(f"B{n:02d}" for n in (1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12)), "B8A", "SCL"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("bands", "size"), [(["B01", "B05", "B04"], 1098), (["B01", "B05"], 549), (["B01"], 183)]
)
def test_real_bands_of_several_resolutions_come_on_the_finest_grid(mixed, bands, size):
    domain = mixed.geocat.domain(bands=bands)
    (piece,) = domain.slices()
    assert piece.shape == (size, size)
    cube = domain.load(piece)
    for band in bands:
        numbers = scenes.read(mixed.href.sel(asset=band).item())
        factor = size // len(numbers)
        np.testing.assert_array_equal(
            cube[band].values[0], np.kron(numbers, np.ones((factor, factor), numbers.dtype))
        )


@pytest.fixture(scope="module")
def two_zones(shared_data):
    near = sorted(
        (shared_data / "s2_33TW" / "sentinel-2-l2a" / "S2B_33TWM_20230820_0_L2A").glob("B0[48].tif")
    )
    far = sorted((shared_data / "s2_33TWM_utm34").glob("B0[48].tif"))
    return xgc.from_files(
        [*near, *far], pattern=r".*/(?P<folder>[^/]+)/(?P<band>B\d\d)\.tif", time="2023-08-20",
        crs="EPSG:4326",
    )  # fmt: skip


def test_the_same_ground_in_two_zones_is_two_scenes_that_need_one_crs(two_zones):
    assert two_zones.sizes["scene"] == 2
    with pytest.raises(ValueError, match="32633.*32634|32634.*32633"):
        two_zones.geocat.domain()


def test_in_one_crs_both_zones_show_the_same_ground(two_zones):
    domain = two_zones.geocat.domain(crs="EPSG:32633", resolution=120)
    near, far = sorted(domain.slices(), key=lambda s: "utm34" in s.name)
    assert near.crs == far.crs == CRS("EPSG:32633")
    here = domain.load(near)["B08"].values[0]
    np.testing.assert_array_equal(
        here, scenes.read(two_zones.href.sel(asset="B08", scene=near.name).item())
    )
    # The other zone's pixels, brought onto this grid by xgeocat and by rasterio.
    path = two_zones.href.sel(asset="B08", scene=far.name).item()
    request = xgc.GeoSlice(geobox=near.geobox, scenes=far.scenes)
    there = domain.load(request)["B08"].values[0]
    want = np.zeros(near.shape, "uint16")
    with rasterio.open(path) as file:
        reproject(
            rasterio.band(file, 1), want, dst_crs="EPSG:32633", dst_nodata=0,
            dst_transform=near.geobox.transform, resampling=Resampling.nearest,
        )  # fmt: skip
    assert (there == want).mean() > 0.999
    # It is the same picture: warped there and back, it correlates with the original.
    both = (here > 0) & (there > 0)
    assert both.mean() > 0.5
    assert np.corrcoef(here[both], there[both])[0, 1] > 0.95


def test_native_keeps_both_zones_as_their_files(two_zones):
    domain = two_zones.geocat.domain(crs="native")
    for piece in domain.slices():
        path = two_zones.href.sel(asset="B04", scene=piece.name).item()
        np.testing.assert_array_equal(domain.load(piece)["B04"].values[0], scenes.read(path))


def test_a_run_over_two_zones_keeps_each_on_its_own_grid(two_zones, tmp_path):
    pipe = xgc.Sequential([
        xgc.GridSampler(256, overlap=64),
        xgc.ApplyToChips(lambda b: b[:, 1] > b[:, 0], name="green land"),
        xgc.Stitch(),
    ])  # fmt: skip
    domain = two_zones.geocat.domain(bands=["B04", "B08"], crs="native")
    out = xgc.run(pipe, domain, tmp_path / "out", progress=False)
    reloaded = out.geocat.domain(crs="native")
    codes = set()
    for piece, source in zip(reloaded.slices(), domain.slices(), strict=True):
        assert piece.geobox == source.geobox
        codes.add(piece.crs.to_epsg())
        red, nir = (
            scenes.read(two_zones.href.sel(asset=b, scene=piece.name).item())
            for b in ("B04", "B08")
        )
        np.testing.assert_array_equal(reloaded.load(piece)["prediction"].values[0], nir > red)
    assert codes == {32633, 32634}


# --- single files ---------------------------------------------------------------------------------


def test_a_real_model_input_of_eight_bands_goes_through_the_pipeline(shared_data, tmp_path):
    path = shared_data / "s2_10m_8band_33N.tif"
    with rasterio.open(path) as file:
        numbers, transform = file.read(), file.transform

    def change(batch):
        assert batch.shape[1] == 8
        return (batch[:, 7].astype("float32") - batch[:, 3]) / 1e4

    catalog = xgc.from_files([path], time="2023")
    domain = catalog.geocat.domain()
    pipe = xgc.Sequential([
        xgc.GridSampler(128, overlap=32), xgc.ApplyToChips(change, name="change"), xgc.Stitch("hann")
    ])  # fmt: skip
    (piece,) = domain.slices()
    cube = domain.load(piece)
    assert list(cube.data_vars) == [f"data.{n}" for n in range(1, 9)]
    np.testing.assert_array_equal(np.stack([v.values[0] for v in cube.data_vars.values()]), numbers)
    out = xgc.run(pipe, domain, tmp_path / "out", progress=False)
    (piece,) = out.geocat.domain().slices()
    assert piece.geobox.transform == transform
    got = out.geocat.domain().load(piece)["prediction"].values[0]
    scenes.assert_same(got, change(numbers[None])[0])


def test_the_same_file_as_a_raster_in_memory_gives_the_same_answers(shared_data):
    path = shared_data / "s2_10m_8band_33N.tif"

    def change(batch):
        return (batch[:, 7].astype("float32") - batch[:, 3]) / 1e4

    pipe = xgc.Sequential(
        [xgc.GridSampler(128, overlap=32), xgc.ApplyToChips(change), xgc.Stitch("hann")]
    )
    with rioxarray.open_rasterio(path) as raster:
        domain = xgc.RasterDomain(raster)
        (piece,) = domain.slices()
        scenes.assert_same(pipe(domain.load(piece)).values, change(raster.values[None])[0])


def test_consecutive_landsat_scenes_stay_two_though_they_overlap(shared_data):
    paths = sorted((shared_data / "landsat8_overlap").glob("*.TIF"))
    catalog = xgc.from_files(
        paths, pattern=r"LC08_L1TP_(?P<path_row>\d{6})_(?P<date>\d{8})_\d{8}_01_RT_B4\.TIF"
    )
    assert catalog["path_row"].values.tolist() == ["224077", "224078"]
    domain = catalog.geocat.domain()
    first, second = domain.slices()
    assert shapely.box(*first.bounds).intersection(shapely.box(*second.bounds)).area > 0
    for piece, path in zip((first, second), paths, strict=True):
        with rasterio.open(path) as file:
            assert piece.geobox.transform == Affine(*file.transform[:6])
        cube = domain.load(piece)
        np.testing.assert_array_equal(cube["data"].values[0], scenes.read(path))
        assert "nodata" not in cube["data"].attrs
    hits = catalog.geocat.query(
        xgc.GeoSlice(bounds=(725000, -2800000, 726000, -2799000), crs="EPSG:32621")
    )
    assert hits.sizes["scene"] == 2
