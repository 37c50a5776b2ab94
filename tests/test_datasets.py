"""The made archive of Lake Tahoe: real COGs, true items, a plausible picture."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pystac
import pytest
import rasterio
import shapely
from pyproj import Transformer

from xgeocat.datasets import DATES, lake_tahoe

NODATA, SHADOW, VEGETATION, BARE, WATER, CLOUDS = 0, 3, 4, 5, 6, (8, 9)
NAMES = ("blue", "green", "red", "nir", "scl")


@pytest.fixture(scope="module")
def items_path(tmp_path_factory) -> Path:
    return lake_tahoe(tmp_path_factory.mktemp("archive"), resolution=200)


@pytest.fixture(scope="module")
def items(items_path) -> list[dict]:
    return json.loads(items_path.read_text())["features"]


def read(items_path, item, name):
    with rasterio.open(items_path.parent / item["assets"][name]["href"]) as file:
        return file.read(1)


def reflectance(items_path, item, name):
    band = item["assets"][name]["raster:bands"][0]
    return read(items_path, item, name) * band["scale"] + band["offset"]


def test_archive_is_laid_out_like_earth_search(items_path, items):
    assert items_path.name == "items.json"
    assert [item["id"] for item in items] == [
        f"S2{'AB'[n % 2]}_10SGJ_{day.replace('-', '')}_0_L2A" for n, day in enumerate(DATES)
    ]
    assert items[1]["assets"]["green"]["href"] == (
        "S2B_10SGJ_20240607_0_L2A/T10SGJ_20240607T184921_B03_200m.tif"
    )
    on_disk = {str(f.relative_to(items_path.parent)) for f in items_path.parent.rglob("*.tif")}
    assert on_disk == {asset["href"] for item in items for asset in item["assets"].values()}


@pytest.mark.parametrize("name", NAMES)
def test_files_are_cogs_on_the_tile(items_path, items, name):
    for item in items:
        asset = item["assets"][name]
        with rasterio.open(items_path.parent / asset["href"]) as file:
            assert file.driver == "GTiff"
            assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
            assert file.tags(ns="IMAGE_STRUCTURE")["COMPRESSION"] == "DEFLATE"
            assert file.block_shapes == [(512, 512)]
            assert file.overviews(1) == [2]
            assert file.nodata == 0
            assert file.dtypes == (asset["raster:bands"][0]["data_type"],)
            assert file.crs == "EPSG:32610"
            assert file.bounds == (699960, 4290240, 809760, 4400040)
            assert list(file.shape) == asset["proj:shape"] == [549, 549]
            assert list(file.transform)[:6] == asset["proj:transform"]


def test_items_round_trip_through_pystac(items_path, items):
    for item in items:
        parsed = pystac.Item.from_dict(item, migrate=False)
        again = parsed.to_dict(include_self_link=False, transform_hrefs=False)
        for key in ("id", "collection", "geometry", "bbox", "properties", "assets"):
            assert json.loads(json.dumps(again[key])) == item[key]
        assert parsed.datetime.isoformat() == item["properties"]["datetime"].replace("Z", "+00:00")
    assert len(pystac.ItemCollection.from_file(str(items_path))) == len(items)


def test_footprint_covers_what_is_valid_and_no_more(items_path, items):
    to_degrees = Transformer.from_crs("EPSG:32610", "EPSG:4326", always_xy=True)
    cut = []
    for item in items:
        footprint = shapely.geometry.shape(item["geometry"])
        assert footprint.is_valid
        assert footprint.exterior.is_ccw
        assert item["bbox"] == pytest.approx(footprint.bounds)
        valid = read(items_path, item, "scl") != NODATA
        with rasterio.open(items_path.parent / item["assets"]["scl"]["href"]) as file:
            rows, columns = np.indices(valid.shape)
            x, y = file.transform @ (columns + 0.5, rows + 0.5)
        inside = shapely.contains_xy(footprint, *to_degrees.transform(x, y)).reshape(valid.shape)
        assert inside[valid].all()
        assert (inside & ~valid).sum() < 2 * len(
            valid
        )  # only the pixels that the edge runs through
        assert item["properties"]["s2:nodata_pixel_percentage"] == pytest.approx(
            100 * (~valid).mean(), abs=1e-4
        )
        if not valid.all():
            cut.append(item["properties"]["datetime"][:10])
    assert cut == ["2024-06-07", "2024-07-12"]


def test_bands_are_nodata_where_the_classes_are(items_path, items):
    for item in items:
        unseen = read(items_path, item, "scl") == NODATA
        for name in NAMES[:4]:
            np.testing.assert_array_equal(read(items_path, item, name) == 0, unseen)


def test_cloud_cover_is_measured(items_path, items):
    covers = [item["properties"]["eo:cloud_cover"] for item in items]
    for item, cover in zip(items, covers, strict=True):
        classes = read(items_path, item, "scl")
        cloudy = np.isin(classes[classes != NODATA], CLOUDS)
        assert cover == pytest.approx(100 * cloudy.mean(), abs=1e-4)
        assert (classes == SHADOW).any()
    assert min(covers) < 5
    assert max(covers) > 40


def test_ndwi_tells_water_from_clear_land(items_path, items):
    for item in items:
        classes = read(items_path, item, "scl")
        green, nir = (reflectance(items_path, item, name) for name in ("green", "nir"))
        water, land = classes == WATER, np.isin(classes, (VEGETATION, BARE))
        assert (green > nir)[water].mean() > 0.99
        assert (green < nir)[land].mean() > 0.99


def test_lake_tahoe_is_where_it_is(items_path, items):
    clearest = min(items, key=lambda item: item["properties"]["eo:cloud_cover"])
    water = read(items_path, clearest, "scl") == WATER
    to_metres = Transformer.from_crs("EPSG:4326", "EPSG:32610", always_xy=True)
    with rasterio.open(items_path.parent / clearest["assets"]["scl"]["href"]) as file:
        for place, wet in {(-120.04, 39.09): True, (-119.77, 39.16): False}.items():
            assert water[file.index(*to_metres.transform(*place))] == wet
    assert 450 < water.sum() * 0.2**2 < 560  # km2; the lake itself has 496


def test_baselines_store_the_same_reflectance_differently(items_path, items):
    old, new = items[2], items[4]
    assert old["properties"]["s2:processing_baseline"] == "03.01"
    assert {item["properties"]["s2:processing_baseline"] for item in items} == {"03.01", "05.10"}
    clear = np.logical_and.reduce(
        [np.isin(read(items_path, item, "scl"), (VEGETATION, WATER)) for item in (old, new)]
    )
    for name in NAMES[:4]:
        stored = [read(items_path, item, name)[clear].astype(int) for item in (old, new)]
        assert np.median(stored[1] - stored[0]) == 1000
        decoded = [reflectance(items_path, item, name)[clear] for item in (old, new)]
        assert np.median(np.abs(decoded[1] - decoded[0])) < 0.0021


def test_a_seed_always_makes_the_same_bytes(items_path, items, tmp_path):
    again = lake_tahoe(tmp_path / "again", resolution=200)
    assert again.read_bytes() == items_path.read_bytes()
    for asset in (asset for item in items for asset in item["assets"].values()):
        first, second = (f.parent / asset["href"] for f in (items_path, again))
        assert first.read_bytes() == second.read_bytes()
    other = lake_tahoe(tmp_path / "other", resolution=200, dates=DATES[:1], seed=1)
    assert (read(other, items[0], "red") != read(items_path, items[0], "red")).mean() > 0.5


def test_every_resolution_shows_the_same_landscape(items_path, items, tmp_path):
    coarse_path = lake_tahoe(tmp_path, resolution=600, dates=DATES[:1])
    (coarse,) = json.loads(coarse_path.read_text())["features"]
    fine = reflectance(items_path, items[0], "nir").reshape(183, 3, 183, 3).mean((1, 3))
    seen = reflectance(coarse_path, coarse, "nir")
    assert np.corrcoef(fine.ravel(), seen.ravel())[0, 1] > 0.9


def test_progress_is_shown_on_request(tmp_path, capsys):
    lake_tahoe(tmp_path, resolution=1098, dates=DATES[:1], progress=True)
    assert "Lake Tahoe" in capsys.readouterr().err


@pytest.mark.parametrize("resolution", [70, 5, 2000, 12.5, 0, -60])
def test_a_resolution_that_does_not_divide_the_tile_is_refused(tmp_path, resolution):
    with pytest.raises(ValueError, match=rf"divides .* 10, 20, 60, .*; got {resolution}"):
        lake_tahoe(tmp_path / "archive", resolution=resolution)
    assert not (tmp_path / "archive").exists()


def test_repeated_dates_are_refused(tmp_path):
    with pytest.raises(ValueError, match="dates must differ"):
        lake_tahoe(tmp_path, dates=["2024-06-02", "2024-06-02"])
