"""Bands of a scene: which asset, and which of its bands, a name means."""

import numpy as np
import pytest
import rasterio

import xgeocat as xgc
from tests.domain import scenes
from xgeocat.domain.assets import scenes_of
from xgeocat.domain.bands import data_bands, describe_bands, find_bands, native_geobox


def scene_of(*items):
    return scenes_of(xgc.from_items(list(items)))[0]


def bare(key="red", **asset):
    """One-asset item without a file behind it."""
    asset = {"href": "/nowhere/red.tif", "roles": ["data"], "type": "image/tiff", **asset}
    return scenes.item("a", {key: {k: v for k, v in asset.items() if v is not None}})


def test_every_raster_asset_is_data_and_pictures_and_texts_are_not(make_item):
    made = make_item("a", red=scenes.pixels(), nir=scenes.pixels())
    made["assets"] |= {
        "thumbnail": {"href": "t.jpg", "type": "image/jpeg", "roles": ["thumbnail"]},
        "overview": {"href": "o.tif", "type": "image/tiff", "roles": ["overview"]},
        "visual": {"href": "v.tif", "type": "image/tiff", "roles": ["visual", "data"]},
        "preview": {"href": "p.tif", "type": "image/tiff", "roles": ["overview"]},
        "metadata": {"href": "m.xml", "type": "application/xml", "roles": ["metadata"]},
        "table": {"href": "m.csv"},
    }
    assert data_bands(scene_of(made)) == ["red", "nir"]


@pytest.mark.parametrize(
    "kind",
    [
        "image/tiff",
        "image/tiff; application=geotiff",
        "image/tiff; application=geotiff; profile=cloud-optimized",
        "image/jp2",
        "application/vnd+zarr",
        "application/vnd+zarr; version=3",
        # Media types of older catalogs; all occur in shared/data/stac/*.ndjson.
        "image/vnd.stac.geotiff",
        "image/vnd.stac.geotiff; cloud-optimized=true",
        "image/x.geotiff",
    ],
)
def test_media_types_of_rasters_are_known(kind):
    assert data_bands(scene_of(bare(type=kind))) == ["red"]


@pytest.mark.parametrize("end", [".tif", ".TIF", ".tiff", ".jp2", ".vrt", ".zarr"])
def test_without_a_media_type_the_file_name_tells(end):
    assert data_bands(scene_of(bare(type=None, href=f"/nowhere/red{end}"))) == ["red"]
    assert data_bands(scene_of(bare(type=None, href="/nowhere/red.txt"))) == []


def test_an_asset_with_several_bands_is_numbered():
    described = bare("image", bands=[{"name": "R"}, {"name": "G"}, {"name": "B"}])
    assert data_bands(scene_of(described)) == ["image.1", "image.2", "image.3"]


@pytest.mark.parametrize(
    "bands",
    [
        {"eo:bands": [{"name": "B04", "common_name": "red"}]},
        {"bands": [{"name": "B04", "eo:common_name": "red"}]},
    ],
    ids=["STAC 1.0", "STAC 1.1"],
)
@pytest.mark.parametrize("name", ["key", "B04", "red", "key.1"])
def test_key_band_name_and_common_name_all_find_the_asset(bands, name):
    assert find_bands(scene_of(bare("key", **bands)), [name]) == [(name, "key", 1)]


def test_common_names_find_the_right_band_of_a_file_with_several():
    bands = [{"name": n} for n in ("blue", "green", "red")]
    scene = scene_of(bare("image", **{"eo:bands": bands}))
    assert find_bands(scene, ["red", "image.2", "image"]) == [
        ("red", "image", 3), ("image.2", "image", 2), ("image", "image", 1),
    ]  # fmt: skip


def test_an_asset_s_own_key_is_stronger_than_another_s_band_name():
    made = bare("B04", **{"eo:bands": [{"name": "red"}]})
    made["assets"]["red"] = {"href": "/nowhere/other.tif", "type": "image/tiff", "roles": ["data"]}
    assert find_bands(scene_of(made), ["red"]) == [("red", "red", 1)]


def test_a_true_colour_picture_does_not_take_the_names_of_bands():
    made = scenes.item(
        "a",
        {
            "visual": {"href": "/v.tif", "type": "image/tiff", "roles": ["visual"],
                       "eo:bands": [{"common_name": "red"}, {"common_name": "green"}]},
            "B04": {"href": "/r.tif", "type": "image/tiff", "roles": ["data"],
                    "eo:bands": [{"common_name": "red"}]},
        },
    )  # fmt: skip
    assert find_bands(scene_of(made), ["red"]) == [("red", "B04", 1)]


def test_unknown_names_are_refused_with_those_there_are(make_item):
    scene = scene_of(make_item("a", red=scenes.pixels(), nir=scenes.pixels()))
    with pytest.raises(KeyError) as error:
        find_bands(scene, ["red", "swir", "blue"])
    for word in ("a", "swir", "blue", "nir"):
        assert word in str(error.value)


def test_a_number_beyond_the_last_band_is_refused(make_cog):
    path = make_cog("image.tif", scenes.pixels(count=3))
    about = scenes.asset(path, bands=[{"name": n} for n in "RGB"])
    with pytest.raises(KeyError, match="image.4"):
        find_bands(scene_of(scenes.item("a", {"image": about})), ["image.4"])


def test_an_asset_that_this_scene_lacks_is_unknown(make_item):
    catalog = xgc.from_items(
        [make_item("a", red=scenes.pixels()), make_item("b", nir=scenes.pixels())]
    )
    assert data_bands(scenes_of(catalog)[0]) == ["red"]
    with pytest.raises(KeyError, match="nir"):
        find_bands(scenes_of(catalog)[0], ["nir"])


@pytest.mark.parametrize("proj", [True, False], ids=["from the item", "from the header"])
def test_the_native_grid_is_that_of_the_file(make_item, proj):
    made = make_item("a", proj=proj, red=scenes.pixels((61, 47)))
    geobox = native_geobox(scene_of(made), ["red"])
    with rasterio.open(made["assets"]["red"]["href"]) as file:
        assert tuple(geobox.shape) == file.shape
        assert geobox.transform == file.transform
        assert geobox.crs.to_epsg() == file.crs.to_epsg()


@pytest.mark.parametrize("missing", ["proj:code", "proj:shape", "proj:transform"])
def test_half_a_grid_in_the_item_is_completed_from_the_header(make_item, missing):
    made = make_item("a", red=scenes.pixels((61, 47)))
    del made["assets"]["red"][missing]
    geobox = native_geobox(scene_of(made), ["red"])
    assert tuple(geobox.shape) == (61, 47)
    assert geobox.transform == scenes.GRID


def test_the_native_grid_of_several_bands_is_the_finest(make_item, make_cog):
    made = make_item("a", red=scenes.pixels((80, 60)))
    for factor in (2, 3):
        path = make_cog(
            f"a/coarse{factor}.tif", scenes.pixels((80 // factor, 60 // factor)),
            transform=scenes.GRID @ scenes.Affine.scale(factor),
        )  # fmt: skip
        made["assets"][f"coarse{factor}"] = scenes.asset(path)
    scene = scene_of(made)
    assert native_geobox(scene, ["coarse3", "red", "coarse2"]).resolution.x == 10
    assert native_geobox(scene, ["coarse3", "coarse2"]).resolution.x == 20


def test_a_file_without_crs_anywhere_is_refused_by_name(make_cog):
    path = make_cog("a/red.tif", crs=None)
    made = scenes.item(
        "a", {"red": scenes.asset(path, proj=False)}, footprint=scenes.shapely.box(0, 0, 1, 1)
    )
    with pytest.raises(ValueError, match="red.tif has no CRS"):
        native_geobox(scene_of(made), ["red"])


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float32", "float64"])
@pytest.mark.parametrize("proj", [True, False])
def test_dtype_and_nodata_come_from_the_header_where_the_item_is_silent(make_item, dtype, proj):
    made = make_item("a", proj=proj, red=scenes.pixels(dtype=dtype), cog={"nodata": 7})
    (band,) = describe_bands(scene_of(made), ["red"])
    assert (band.dtype, band.nodata, band.index) == (dtype, 7, 1)


def test_what_the_item_says_is_stronger_than_the_header(make_item):
    made = make_item("a", red=scenes.pixels(), cog={"nodata": 0}, about={"nodata": 5})
    (band,) = describe_bands(scene_of(made), ["red"])
    assert band.nodata == 5


def test_a_file_without_nodata_has_none(make_item):
    (band,) = describe_bands(
        scene_of(make_item("a", red=scenes.pixels(), cog={"nodata": None})), ["red"]
    )
    assert band.nodata is None


def test_nan_as_nodata_is_read_from_text_and_from_headers(make_item):
    values = scenes.pixels(dtype="float32")
    for about in ({"nodata": "nan"}, {}):
        made = make_item("a", red=values, cog={"nodata": np.nan}, about=about)
        (band,) = describe_bands(scene_of(made), ["red"])
        assert np.isnan(band.nodata)


def test_scale_and_offset_of_each_band_of_a_file_are_its_own():
    """STAC 1.0 says names in eo:bands and radiometry in raster:bands, band by band."""
    about = {
        "eo:bands": [{"name": "red"}, {"name": "nir"}],
        "raster:bands": [
            {"data_type": "uint16", "nodata": 0, "scale": 0.0001, "offset": 0.0},
            {"data_type": "uint16", "nodata": 0, "scale": 0.5, "offset": -3.0},
        ],
    }
    grid = {
        "proj:code": "EPSG:32610",
        "proj:shape": [70, 90],
        "proj:transform": list(scenes.GRID)[:6],
    }
    red, nir = describe_bands(scene_of(bare("image", **about, **grid)), ["red", "nir"])
    assert (red.scale, red.offset) == (0.0001, 0.0)
    assert (nir.scale, nir.offset) == (0.5, -3.0)


def test_nodata_of_each_band_of_a_file_is_its_own():
    about = {
        "bands": [
            {"name": "red", "data_type": "uint16", "nodata": 0},
            {"name": "nir", "data_type": "uint16", "nodata": 65535},
        ],
    }
    grid = {
        "proj:code": "EPSG:32610",
        "proj:shape": [70, 90],
        "proj:transform": list(scenes.GRID)[:6],
    }
    red, nir = describe_bands(scene_of(bare("image", **about, **grid)), ["red", "nir"])
    assert (red.nodata, nir.nodata) == (0, 65535)


def test_scale_and_offset_come_from_the_header_where_the_item_is_silent(make_item):
    made = make_item("a", red=scenes.pixels(), cog={"scales": (0.0001,), "offsets": (-0.1,)})
    (band,) = describe_bands(scene_of(made), ["red"])
    assert (band.scale, band.offset) == (0.0001, -0.1)


def test_scale_and_offset_of_each_band_come_from_a_file_with_several(make_cog):
    path = make_cog(
        "a_20240601.tif", scenes.pixels(count=2), scales=(0.0001, 0.5), offsets=(0, -3),
        driver="GTiff",
    )  # fmt: skip
    catalog = xgc.from_files([path], pattern=r".*_(?P<date>\d{8})\.tif")
    first, second = describe_bands(scenes_of(catalog)[0], ["data.1", "data.2"])
    assert (first.scale, first.offset) == (0.0001, 0)
    assert (second.scale, second.offset) == (0.5, -3)
