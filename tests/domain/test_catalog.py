"""CatalogDomain: the scenes of a catalog, each a slice on its own grid or on one you name."""

import os

import numpy as np
import pytest
import rasterio
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox
from odc.geo.geom import BoundingBox
from rasterio.warp import Resampling, reproject

import xgeocat as xgc
from tests.domain import scenes

UTM = "EPSG:32610"
GRID = GeoBox((70, 90), scenes.GRID, UTM)


def loaded(domain, i=0, **options):
    return domain.load(list(domain.slices())[i], **options)


# --- exactly the scene's pixels -------------------------------------------------------------------


@pytest.mark.parametrize("proj", [True, False], ids=["proj in item", "proj in header"])
def test_each_slice_loads_exactly_its_scene(make_catalog, proj):
    catalog = make_catalog(4, proj=proj)
    domain = xgc.CatalogDomain(catalog)
    assert len(domain) == 4
    for i, piece in enumerate(domain.slices()):
        assert piece.scenes == (f"s{i}",)
        assert piece.geobox == GRID
        cube = domain.load(piece)
        assert cube.attrs["scene"] == f"s{i}"
        for k, band in enumerate(("red", "nir"), start=1):
            got = cube[band].values[0]
            np.testing.assert_array_equal(got, scenes.read(catalog.href.sel(asset=band).values[i]))
            np.testing.assert_array_equal(got, scenes.pixels(seed=10 * i + k))


def test_two_scenes_of_one_day_and_place_are_two_cubes(make_item):
    one = make_item("a", red=scenes.pixels(seed=1), when="2024-06-01T18:00:00Z")
    other = make_item("b", red=scenes.pixels(seed=2), when="2024-06-01T18:00:00Z")
    domain = xgc.from_items([one, other]).geocat.domain()
    pieces = list(domain.slices())
    assert [p.scenes for p in pieces] == [("a",), ("b",)]
    assert pieces[0] != pieces[1]
    for piece, seed in zip(pieces, (1, 2), strict=True):
        np.testing.assert_array_equal(domain.load(piece)["red"].values[0], scenes.pixels(seed=seed))


@pytest.mark.parametrize("shape", [(1, 1), (3, 201), (131, 129), (257, 64)])
def test_nothing_is_resampled_on_a_scene_s_own_grid(make_item, shape):
    made = make_item("a", red=scenes.pixels(shape, edge=2), cog={"driver": "GTiff"})
    domain = xgc.from_items([made]).geocat.domain(resampling="cubic", chunks=50)
    cube = loaded(domain)
    np.testing.assert_array_equal(cube["red"].values[0], scenes.pixels(shape, edge=2))
    (piece,) = domain.slices()
    assert piece.shape == shape


def test_slices_say_time_footprint_and_what_is_known_of_the_scene(make_item):
    properties = {"eo:cloud_cover": 12.5, "platform": "sentinel-2a", "valid": True, "n": 3}
    made = make_item("a", properties=properties, when="2024-06-01T18:00:00Z")
    (piece,) = xgc.from_items([made]).geocat.domain().slices()
    assert piece.interval == (np.datetime64("2024-06-01T18:00:00", "us"),) * 2
    assert {k: piece.properties[k] for k in properties} == properties
    # The made footprint is the outline of the grid; a slice's is in WGS 84, as STAC has it.
    outline = scenes.outline(made["assets"]["red"]["href"])
    assert piece.footprint.symmetric_difference(outline).area < 1e-6 * outline.area


def test_a_property_that_a_scene_lacks_is_not_invented(make_item):
    items = [make_item("a", properties={"x": 1.5, "y": "text"}), make_item("b")]
    one, other = xgc.from_items(items).geocat.domain().slices()
    assert (one.properties["x"], one.properties["y"]) == (1.5, "text")
    assert not {"x", "y"} & set(other.properties)


def test_the_order_of_the_catalog_is_the_order_of_the_slices(make_catalog):
    catalog = make_catalog(4).isel(scene=[2, 0, 3])
    assert [p.scenes[0] for p in catalog.geocat.domain().slices()] == ["s2", "s0", "s3"]


def test_a_queried_catalog_is_a_domain_of_its_hits(make_catalog):
    domain = make_catalog(4).geocat.query(time="2024-06-02/2024-06-03").geocat.domain()
    assert [p.scenes[0] for p in domain.slices()] == ["s1", "s2"]
    np.testing.assert_array_equal(loaded(domain)["red"].values[0], scenes.pixels(seed=11))


# --- grids ----------------------------------------------------------------------------------------


@pytest.fixture
def mixed(make_item, make_cog):
    """A scene with bands of 10, 20 and 60 m."""
    made = make_item("a", red=scenes.pixels((120, 60), seed=1))
    for name, factor in (("swir", 2), ("coastal", 6)):
        path = make_cog(
            f"a/{name}.tif", scenes.pixels((120 // factor, 60 // factor), seed=factor),
            transform=scenes.GRID @ scenes.Affine.scale(factor),
        )  # fmt: skip
        made["assets"][name] = scenes.asset(path)
    return xgc.from_items([made])


def test_bands_of_several_resolutions_come_on_the_finest_grid(mixed):
    domain = mixed.geocat.domain()
    (piece,) = domain.slices()
    assert (piece.resolution, piece.shape) == (10, (120, 60))
    cube = domain.load(piece)
    for name, factor in (("red", 1), ("swir", 2), ("coastal", 6)):
        stored = scenes.read(mixed.href.sel(asset=name).item())
        want = np.kron(stored, np.ones((factor, factor), "uint16"))
        np.testing.assert_array_equal(cube[name].values[0], want)


def test_the_bands_chosen_decide_which_grid_is_the_finest(mixed):
    domain = mixed.geocat.domain(bands=["coastal", "swir"])
    (piece,) = domain.slices()
    assert (piece.resolution, piece.shape) == (20, (60, 30))
    cube = domain.load(piece)
    assert list(cube.data_vars) == ["coastal", "swir"]
    np.testing.assert_array_equal(
        cube["swir"].values[0], scenes.read(mixed.href.sel(asset="swir").item())
    )


@pytest.mark.parametrize("resolution", [20, 25, 60, 120, 5])
def test_another_resolution_keeps_the_north_west_corner_and_covers_the_scene(mixed, resolution):
    domain = mixed.geocat.domain(resolution=resolution)
    (piece,) = domain.slices()
    assert piece.resolution == resolution
    box = piece.geobox.boundingbox
    assert (box.left, box.top) == (500000, 4300000)
    assert 0 <= box.right - 500600 < resolution
    assert 0 <= 4298800 - box.bottom < resolution


@pytest.mark.parametrize("method", ["nearest", "average", "bilinear"])
def test_another_resolution_is_filled_as_gdal_resamples(make_item, method):
    made = make_item("a", red=scenes.pixels((120, 90), dtype="float32", edge=0), cog={"nodata": -1})
    domain = xgc.from_items([made]).geocat.domain(resolution=30, resampling=method)
    got = loaded(domain)["red"].values[0]
    want = np.zeros((40, 30), "float32")
    with rasterio.open(made["assets"]["red"]["href"]) as file:
        reproject(
            rasterio.band(file, 1), want, dst_crs=UTM, dst_nodata=-1, resampling=Resampling[method],
            dst_transform=scenes.GRID @ scenes.Affine.scale(3),
        )  # fmt: skip
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_another_crs_puts_all_slices_in_it(make_catalog):
    catalog = make_catalog(2)
    domain = catalog.geocat.domain(crs="EPSG:3857", resolution=15)
    assert domain.crs == CRS("EPSG:3857")
    for i, piece in enumerate(domain.slices()):
        assert piece.crs == CRS("EPSG:3857")
        assert piece.resolution == 15
        got = domain.load(piece)["red"].values[0]
        want = np.zeros(piece.shape, "uint16")
        with rasterio.open(catalog.href.sel(asset="red").values[i]) as file:
            reproject(
                rasterio.band(file, 1), want, dst_crs="EPSG:3857", dst_nodata=0,
                dst_transform=piece.geobox.transform, resampling=Resampling.nearest,
            )  # fmt: skip
            want_box = rasterio.warp.transform_bounds(file.crs, "EPSG:3857", *file.bounds)
        # Nearest neighbours may fall to either side of a tie; all else is the same.
        assert (got == want).mean() > 0.995
        box = piece.geobox.boundingbox
        assert box.left <= want_box[0] + 15
        assert box.right >= want_box[2] - 15
        assert box.bottom <= want_box[1] + 15
        assert box.top >= want_box[3] - 15


@pytest.fixture
def two_zones(make_item):
    west = make_item("west", red=scenes.pixels(seed=1))
    east = make_item("east", red=scenes.pixels(seed=2), cog={"crs": "EPSG:32611"})
    return xgc.from_items([west, east])


def test_scenes_in_several_crss_are_refused_with_both_remedies(two_zones):
    with pytest.raises(ValueError, match="32610.*32611") as error:
        two_zones.geocat.domain()
    assert "crs='native'" in str(error.value)
    assert "crs='EPSG:" in str(error.value)


def test_native_keeps_each_scene_on_its_own_grid(two_zones):
    domain = two_zones.geocat.domain(crs="native")
    pieces = list(domain.slices())
    assert [p.crs.to_epsg() for p in pieces] == [32610, 32611]
    for i, piece in enumerate(pieces):
        got = domain.load(piece)["red"].values[0]
        np.testing.assert_array_equal(got, scenes.pixels(seed=i + 1))
    # With no CRS in common, bounds are in that of the footprints.
    assert domain.crs == CRS("EPSG:4326")
    assert domain.bounds.crs == CRS("EPSG:4326")
    assert domain.bounds.left == pytest.approx(-123, abs=1e-6)
    assert domain.bounds.right == pytest.approx(-117 + 0.0105, abs=1e-3)


def test_one_of_the_crss_can_be_chosen_for_all_and_its_scenes_stay_as_they_are(two_zones):
    domain = two_zones.geocat.domain(crs="EPSG:32610", resolution=10)
    west, east = domain.slices()
    assert west.geobox == GRID
    assert {west.crs.to_epsg(), east.crs.to_epsg()} == {32610}
    np.testing.assert_array_equal(domain.load(west)["red"].values[0], scenes.pixels(seed=1))
    assert (domain.load(east)["red"].values > 0).any()


def test_bounds_are_those_of_all_slices(make_item):
    far = scenes.Affine(10, 0, 600000, 0, -10, 4200000)
    items = [
        make_item("a", red=scenes.pixels()),
        make_item("b", red=scenes.pixels(), cog={"transform": far}),
    ]
    domain = xgc.from_items(items).geocat.domain()
    assert domain.bounds == BoundingBox(500000, 4199300, 600900, 4300000, crs=UTM)


def test_many_sparse_full_tiles_are_slices_of_full_size(make_cog):
    """22 tiles of 10980 x 10980 px that take no disk: the real shape of an archive."""
    items = []
    for i in range(22):
        transform = scenes.Affine(
            10, 0, 300000 + 99960 * (i % 5), 0, -10, 4300020 - 99960 * (i // 5)
        )
        path = make_cog(f"t{i}/red.tif", np.zeros((1, 1), "uint16"), driver="GTiff")
        with rasterio.open(
            path, "w", driver="GTiff", count=1, height=10980, width=10980, dtype="uint16", crs=UTM,
            transform=transform, nodata=0, tiled=True, blockxsize=512, blockysize=512,
            sparse_ok=True,
        ) as file:  # fmt: skip
            file.write(np.full((512, 512), i + 1, "uint16"), 1, window=((512, 1024), (1024, 1536)))
        assert os.stat(path).st_size < 2_000_000
        items.append(scenes.item(f"t{i}", {"red": scenes.asset(path, proj=i % 2 == 0)}))
    domain = xgc.from_items(items).geocat.domain()
    pieces = list(domain.slices())
    assert len(pieces) == 22
    assert {p.shape for p in pieces} == {(10980, 10980)}
    cube = domain.load(pieces[21])
    assert cube["red"].sizes == {"time": 1, "y": 10980, "x": 10980}
    assert cube["red"].chunks[1:] == ((2048,) * 5 + (740,),) * 2
    corner = cube["red"].isel(time=0, y=slice(510, 514), x=slice(1022, 1026)).values
    np.testing.assert_array_equal(corner, np.kron([[0, 0], [0, 22]], np.ones((2, 2))))


# --- radiometry -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "float32"])
def test_dtype_nodata_scale_and_offset_are_kept(make_item, dtype):
    about = {"nodata": 3, "raster:scale": 0.5, "raster:offset": -2.0}
    made = make_item("a", red=scenes.pixels(dtype=dtype), about=about, cog={"nodata": 3})
    cube = loaded(xgc.from_items([made]).geocat.domain())
    assert cube["red"].dtype == dtype
    assert cube["red"].attrs == {"nodata": 3, "scale": 0.5, "offset": -2.0}


def reflectances():
    rng = np.random.default_rng(5)
    return rng.integers(100, 9000, (70, 90))


@pytest.fixture
def two_baselines(make_item):
    """One reflectance, stored before and after the offset of January 2022; 0 is nodata."""
    stored = reflectances()
    valid = scenes.pixels() > 0
    old = np.where(valid, stored, 0).astype("uint16")
    new = np.where(valid, stored + 1000, 0).astype("uint16")
    return old, new


def by_raster_bands(offset):
    band = {"nodata": 0, "data_type": "uint16", "scale": 1e-4, "offset": offset}
    return {"about": {"raster:bands": [band]}}


def by_baseline(offset):
    baseline = "05.10" if offset else "03.01"
    properties = {"s2:processing_baseline": baseline, "s2:product_type": "S2MSI2A"}
    return {"properties": properties, "about": {"nodata": 0}}


@pytest.mark.parametrize("said", [by_raster_bands, by_baseline])
def test_scenes_of_two_baselines_come_out_as_the_same_reflectance(make_item, two_baselines, said):
    items = [
        make_item("old", B04=two_baselines[0], **said(0)),
        make_item("new", B04=two_baselines[1], **said(-0.1)),
    ]
    domain = xgc.from_items(items).geocat.domain(mask_and_scale=True)
    old, new = (domain.load(piece)["B04"].values[0] for piece in domain.slices())
    want = np.where(two_baselines[0] == 0, np.nan, reflectances() * 1e-4)
    np.testing.assert_allclose(old, want, rtol=1e-6)
    np.testing.assert_allclose(new, want, atol=1e-7)


def test_an_offset_that_is_applied_already_is_not_applied_again(make_item, two_baselines):
    band = {"nodata": 0, "data_type": "uint16", "scale": 1e-4, "offset": -0.1}
    made = make_item(
        "a", B04=two_baselines[0], about={"raster:bands": [band]},
        properties={"earthsearch:boa_offset_applied": True},
    )  # fmt: skip
    cube = loaded(xgc.from_items([made]).geocat.domain(mask_and_scale=True))
    want = np.where(two_baselines[0] == 0, np.nan, reflectances() * 1e-4)
    np.testing.assert_allclose(cube["B04"].values[0], want, rtol=1e-6)


# --- names of bands -------------------------------------------------------------------------------


def test_common_names_are_band_names_and_stay_the_names_of_the_cube(make_item, make_cog):
    made = make_item("a", B04=scenes.pixels(seed=1), B08=scenes.pixels(seed=2))
    for key, common in (("B04", "red"), ("B08", "nir")):
        made["assets"][key]["eo:bands"] = [{"name": key, "common_name": common}]
    domain = xgc.from_items([made]).geocat.domain(bands=["nir", "red"])
    cube = loaded(domain)
    assert list(cube.data_vars) == ["nir", "red"]
    np.testing.assert_array_equal(cube["nir"].values[0], scenes.pixels(seed=2))
    np.testing.assert_array_equal(cube["red"].values[0], scenes.pixels(seed=1))


def test_bands_of_a_file_with_several_are_numbered_by_default_and_by_name(make_cog):
    path = make_cog("a_20240601.tif", scenes.pixels(count=4))
    catalog = xgc.from_files([path], pattern=r".*_(?P<date>\d{8})\.tif")
    cube = loaded(catalog.geocat.domain())
    assert list(cube.data_vars) == ["data.1", "data.2", "data.3", "data.4"]
    for number in range(1, 5):
        np.testing.assert_array_equal(cube[f"data.{number}"].values[0], scenes.read(path, number))
    second = loaded(catalog.geocat.domain(bands=["data.2"]))
    np.testing.assert_array_equal(second["data.2"].values[0], scenes.read(path, 2))


def test_bands_given_to_load_are_stronger_than_the_domain_s(make_catalog):
    cube = loaded(make_catalog(1).geocat.domain(bands=["red"]), bands=["nir"])
    assert list(cube.data_vars) == ["nir"]


def test_files_named_relative_to_the_working_folder_load(make_cog, monkeypatch):
    path = make_cog("a_20240601.tif")
    monkeypatch.chdir(path.parent)
    catalog = xgc.from_files([path.name], pattern=r".*_(?P<date>\d{8})\.tif")
    cube = loaded(catalog.geocat.domain())
    np.testing.assert_array_equal(cube["data"].values[0], scenes.read(path))


# --- what goes wrong ------------------------------------------------------------------------------


def test_a_band_that_no_scene_has_is_refused_with_those_there_are(make_catalog):
    with pytest.raises(ValueError, match="swir") as error:
        make_catalog(2).geocat.domain(bands=["red", "swir"])
    assert "nir" in str(error.value)


def test_a_band_that_one_scene_lacks_fails_there_and_nowhere_else(make_item):
    items = [
        make_item("whole", red=scenes.pixels(seed=1), nir=scenes.pixels(seed=2)),
        make_item("half", red=scenes.pixels(seed=3)),
    ]
    domain = xgc.from_items(items).geocat.domain(bands=["red", "nir"])
    whole, half = domain.slices()
    np.testing.assert_array_equal(domain.load(whole)["nir"].values[0], scenes.pixels(seed=2))
    with pytest.raises(KeyError, match="half.*nir"):
        domain.load(half)


def test_scenes_whose_grid_nobody_knows_are_listed(make_item):
    items = [make_item(f"s{i}", proj=False) for i in range(3)]
    for i in (0, 2):
        for band in ("red", "nir"):
            os.remove(items[i]["assets"][band]["href"])
    with pytest.raises(ValueError, match="2 of 3") as error:
        xgc.from_items(items).geocat.domain()
    assert "s0" in str(error.value)
    assert "s2" in str(error.value)
    assert "drop_sel" in str(error.value)
    good = xgc.from_items(items).drop_sel(scene=["s0", "s2"]).geocat.domain()
    assert len(good) == 1


def test_a_scene_without_any_raster_is_listed(make_item):
    made = make_item("a")
    for asset in made["assets"].values():
        asset |= {"type": "application/xml", "href": "/nowhere/a.xml"}
    with pytest.raises(ValueError, match="a: .*raster"):
        xgc.from_items([made]).geocat.domain()


def test_repeated_ids_are_refused_with_a_remedy(make_item):
    items = [make_item("a"), make_item("a"), make_item("b")]
    catalog = xgc.from_items(items)
    with pytest.raises(ValueError, match="drop_duplicates") as error:
        catalog.geocat.domain()
    assert "'a'" in str(error.value)
    assert len(catalog.drop_duplicates("scene").geocat.domain()) == 2


def test_only_a_catalog_is_a_catalog_domain(make_catalog):
    domain = make_catalog(1).geocat.domain()
    for thing in (loaded(domain), loaded(domain)["red"], None, []):
        with pytest.raises(TypeError, match="catalog"):
            xgc.CatalogDomain(thing)


def test_a_slice_of_another_catalog_or_of_several_scenes_is_refused(make_catalog):
    domain = make_catalog(2).geocat.domain()
    for names in (["elsewhere"], ["s0", "s1"], []):
        with pytest.raises(ValueError, match=r"domain\.slices"):
            domain.load(xgc.GeoSlice(geobox=GRID, scenes=names))


def test_a_scene_can_be_loaded_on_another_grid_than_its_slice_s(make_catalog):
    domain = make_catalog(1).geocat.domain()
    window = GRID[10:30, 40:90]
    cube = domain.load(xgc.GeoSlice(geobox=window, scenes=["s0"]))
    np.testing.assert_array_equal(cube["red"].values[0], scenes.pixels(seed=1)[10:30, 40:90])


# --- nothing --------------------------------------------------------------------------------------


def nothing(make_catalog, how):
    if how == "from_items":
        return xgc.from_items([])
    if how == "from_files":
        return xgc.from_files([])
    return make_catalog(2).geocat.query(time="1999")


@pytest.mark.parametrize("how", ["from_items", "from_files", "query"])
@pytest.mark.parametrize(
    "options", [{}, {"bands": ["red"]}, {"resolution": 10}, {"crs": UTM}, {"crs": "native"}]
)
def test_an_empty_catalog_is_a_domain_without_slices(make_catalog, how, options):
    domain = nothing(make_catalog, how).geocat.domain(**options)
    assert len(domain) == 0
    assert list(domain.slices()) == []
    assert domain.bounds is None
    assert domain.crs == CRS(UTM) if options.get("crs") == UTM else domain.crs is not None
    assert "0 scenes" in repr(domain)


@pytest.mark.parametrize("how", ["from_items", "from_files", "query"])
def test_an_empty_catalog_goes_through_a_run_and_comes_back_empty(make_catalog, tmp_path, how):
    pipe = xgc.Sequential([xgc.GridSampler(32), xgc.Stitch()])
    domain = nothing(make_catalog, how).geocat.domain()
    out = xgc.run(pipe, domain, tmp_path / "out", progress=False)
    assert out.sizes["scene"] == 0
    assert out.geocat.query((-180, -90, 180, 90), time="2024").sizes["scene"] == 0
    assert out.geocat.bounds is None
    assert xgc.failures(tmp_path / "out").sizes["scene"] == 0
    assert xgc.open_catalog(tmp_path / "out").sizes["scene"] == 0
    assert len(out.geocat.domain()) == 0
    again = xgc.run(pipe, out.geocat.domain(), tmp_path / "again", progress=False)
    assert again.sizes["scene"] == 0


@pytest.mark.parametrize(("options", "error", "told"), [
    ({"resolution": "10m"}, TypeError, "resolution='10m' is a str; give a number"),
    ({"resolution": -10}, ValueError, "resolution=-10 must be a positive number"),
    ({"resolution": 0}, ValueError, "must be a positive number"),
    ({"resolution": np.nan}, ValueError, "must be a positive number"),
    ({"resampling": "best"}, ValueError, "resampling='best' must be one of"),
    ({"chunks": 0}, ValueError, "chunks=0 must be a number of pixels"),
    ({"chunks": 10.5}, ValueError, "chunks=10.5 must be a number of pixels"),
])  # fmt: skip
def test_options_with_which_nothing_loads_are_refused_at_once(make_catalog, options, error, told):
    with pytest.raises(error, match=told):
        make_catalog(1).geocat.domain(**options)


def test_a_grid_refuses_them_too(make_catalog):
    from tests.domain import scenes

    grid = GeoBox((9, 9), scenes.GRID, scenes.UTM)
    for options in ({"resampling": "best"}, {"chunks": -1}):
        with pytest.raises(ValueError, match="must be"):
            xgc.GridDomain(make_catalog(1), grid, **options)
