"""Real satellite scenes on common grids, against numpy on what rasterio reads."""

import json

import geopandas as gpd
import numpy as np
import pyproj
import pytest
import rasterio
import rioxarray
import shapely
from affine import Affine
from odc.geo.geobox import GeoBox
from odc.geo.gridspec import GridSpec
from odc.geo.types import xy_
from rasterio.windows import Window

import xgeocat as xgc
from tests.domain import scenes
from xgeocat.runs.ledger import RunMismatchError

UTM = "EPSG:32633"


@pytest.fixture(scope="module")
def archive(shared_data):
    """Two neighbouring tiles, three days, on their true grids of 120 m."""
    items = []
    for path in sorted((shared_data / "s2_33TW").rglob("S2*.json")):
        item = json.loads(path.read_text())
        for asset in item["assets"].values():
            asset.pop("proj:shape", None)
            asset.pop("proj:transform", None)
            if not asset["href"].startswith(("http", "s3")):
                asset["href"] = str(path.parent / asset["href"])
        items.append(item)
    assert len(items) == 6
    return xgc.from_items(items)


def window(path, tile):
    """Pixels of a file on a tile of its own lattice."""
    with rasterio.open(path) as file:
        column, row = ~file.transform @ (tile.transform.c, tile.transform.f)
        assert (column, row) == pytest.approx((round(column), round(row)), abs=1e-6)
        at = Window(round(column), round(row), tile.shape[1], tile.shape[0])
        return file.read(1, window=at, boundless=True, fill_value=0)


def href(catalog, scene, band):
    return catalog.href.sel(scene=scene, asset=band).item()


def test_native_pixels_on_tiles_are_the_pixels_of_the_files(archive):
    """Of one of the two: the tiles of Sentinel-2 are half a pixel of 120 m apart."""
    lower = archive.isel(scene=["33TWL" in name for name in archive.scene.values])
    spec = GridSpec(UTM, (256, 256), 120, origin=xy_(499980, 5100000))
    domain = xgc.GridDomain(lower, spec, bands=["red", "scl"], align="native", time="solar_day")
    assert len(domain) == 3 * 16
    for piece in list(domain.slices())[::5]:
        (name,) = piece.scenes
        cube = domain.load(piece)
        for band in ("red", "scl"):
            want = window(href(lower, name, band), piece.geobox)
            np.testing.assert_array_equal(cube[band].values[0], want)
    with pytest.raises(ValueError, match=r"33TWM.*off by -?0 pixels in x and -?0\.5 in y"):
        xgc.GridDomain(archive, spec, bands=["red", "scl"], align="native")


def test_the_scenes_of_a_tile_are_those_that_geopandas_finds(archive):
    spec = GridSpec(UTM, (200, 200), 120)
    domain = xgc.GridDomain(archive, spec, bands=["red"], time="1MS")
    found = {piece.name: set(piece.scenes) for piece in domain.slices()}
    own = gpd.GeoSeries(shapely.segmentize(archive.geometry.values, 1e-3), crs=4326).to_crs(UTM)
    want = {}
    for ix in range(18, 30):
        for iy in range(203, 220):
            area = own.intersection(spec[ix, iy].extent.geom).area
            if (area > 120**2).any():
                want[f"x{ix}_y{iy}_2023-08"] = set(archive.scene.values[area > 120**2])
    assert found == want
    assert {len(ids) for ids in found.values()} >= {3, 6}


def test_a_day_of_two_tiles_is_one_mosaic(archive):
    """Nearest pixel of each scene, asked by numpy."""
    grid = GeoBox((250, 400), Affine(120, 0, 510020, 0, -120, 5110000), UTM)
    domain = xgc.GridDomain(archive, grid, bands=["red"])
    (piece,) = domain.slices()
    cube = domain.load(piece)
    days = ["2023-08-10", "2023-08-15", "2023-08-20"]
    assert [str(t)[:10] for t in cube.time.values] == days
    x, y = (grid.coordinates[dim].values for dim in ("x", "y"))
    for step, day in enumerate(days):
        made = np.zeros(grid.shape, "uint16")
        for name in archive.scene.values:
            if day.replace("-", "") not in name:
                continue
            with rasterio.open(href(archive, name, "red")) as file:
                values = file.read(1)
                column = np.floor((x - file.transform.c) / 120).astype(int)
                row = np.floor((file.transform.f - y) / 120).astype(int)
            inside = (row >= 0) & (row < 915)
            there = np.zeros(grid.shape, "uint16")
            there[inside] = values[np.ix_(row[inside], column)]
            made = np.where(made != 0, made, there)
        assert (made != 0).mean() > 0.9
        np.testing.assert_array_equal(cube["red"].values[step], made)


def test_physical_values_of_earth_search_have_no_offset_twice(archive):
    grid = GeoBox.from_bbox((510000, 5020000, 520000, 5030000), UTM, resolution=120)
    stored = xgc.GridDomain(archive, grid, bands=["red"])
    physical = xgc.GridDomain(archive, grid, bands=["red"], mask_and_scale=True)
    (piece,) = stored.slices()
    numbers = stored.load(piece)["red"].values
    got = physical.load(next(physical.slices()))["red"].values
    np.testing.assert_allclose(got, np.where(numbers != 0, numbers * 1e-4, np.nan), rtol=1e-6)


def test_the_same_ground_in_the_next_zone_falls_on_the_same_tiles(archive, shared_data):
    """One scene of zone 33, and the same warped into 34, on a grid of zone 33."""
    files = shared_data / "s2_33TWM_utm34"
    warped = scenes.item(
        "warped", {"B04": scenes.asset(files / "B04.tif", nodata=0)}, when="2023-08-20T10:00:00Z"
    )
    other = xgc.from_items([warped])
    grid = GeoBox.from_bbox((520000, 5120000, 580000, 5180000), UTM, resolution=120)
    domain = xgc.GridDomain(other, grid, bands=["B04"])
    got = domain.load(next(domain.slices()))["B04"].values[0]
    x, y = np.meshgrid(*(grid.coordinates[dim].values for dim in ("x", "y")))
    to_34 = pyproj.Transformer.from_crs(32633, 32634, always_xy=True)
    with rasterio.open(files / "B04.tif") as file:
        column, row = ~file.transform @ to_34.transform(x.ravel(), y.ravel())
        want = file.read(1)[row.astype(int), column.astype(int)].reshape(grid.shape)
    assert (want != 0).mean() > 0.9
    # GDAL asks for coordinates here and there, and errs by up to an eighth of a pixel between.
    assert (got == want).mean() > 0.9
    one = xgc.GridDomain(archive.sel(scene=["S2B_33TWM_20230820_0_L2A"]), grid, bands=["red"])
    original = one.load(next(one.slices()))["red"].values[0]
    assert ((original != 0) == (got != 0)).mean() > 0.99
    squares = {p.name for p in xgc.GridDomain(other, xgc.MGRS(100)).slices()}
    assert {"33TWM", "33TXM"} <= squares


def test_bands_of_three_resolutions_share_the_tiles_of_the_finest(shared_data):
    folder = shared_data / "s2_29RKH_mixed_resolution"
    said = json.loads(next(folder.glob("*.json")).read_text())
    files = {"B04": 100, "B11": 200, "B01": 600}
    assets = {k: scenes.asset(folder / f"{k}.tif", proj=False, nodata=0) for k in files}
    made = scenes.item("mixed", assets, footprint=shapely.geometry.shape(said["geometry"]))
    catalog = xgc.from_items([made])
    spec = GridSpec("EPSG:32629", (600, 600), 100, origin=xy_(199980, 2800020))
    domain = xgc.GridDomain(catalog, spec, bands=list(files), align="native")
    assert {"x0_y-1", "x1_y-1", "x0_y-2", "x1_y-2"} <= {piece.name for piece in domain.slices()}
    for piece in domain.slices():
        cube = domain.load(piece)
        row, column = (
            round(v / 100) for v in (2800020 - piece.bounds[3], piece.bounds[0] - 199980)
        )
        if row < 0 or column < 0:
            # The footprint is drawn a little too large.
            assert all((cube[band] == 0).all() for band in files)
            continue
        for band, size in files.items():
            values = scenes.read(folder / f"{band}.tif")
            fine = np.kron(values, np.ones((size // 100, size // 100), values.dtype))
            want = np.zeros((600, 600), values.dtype)
            part = fine[row : row + 600, column : column + 600]
            want[: part.shape[0], : part.shape[1]] = part
            np.testing.assert_array_equal(cube[band].values[0], want)


def test_a_model_input_is_cut_into_tiles_bit_for_bit(shared_data):
    path = shared_data / "s2_10m_8band_33N.tif"
    catalog = xgc.from_files([path], time="2020-01-01")
    with rasterio.open(path) as file:
        transform, whole = file.transform, file.read()
    catalog["nodata"] = catalog["nodata"].fillna(0)
    spec = GridSpec(UTM, (100, 100), 10, origin=xy_(transform.c, transform.f))
    domain = xgc.GridDomain(catalog, spec, align="native")
    seen = 0
    for piece in domain.slices():
        cube = domain.load(piece)
        column, row = (round(v) for v in ~transform @ (piece.bounds[0], piece.bounds[3]))
        for k, band in enumerate(cube.data_vars):
            got = cube[band].values[0]
            part = whole[k, max(row, 0) : row + 100, max(column, 0) : column + 100]
            np.testing.assert_array_equal(got[: part.shape[0], : part.shape[1]], part)
            seen += part.size
    assert seen == whole.size


# --- runs -----------------------------------------------------------------------------------------


def bright(cube):
    """How many days a pixel was above 1500, of those it was seen on."""
    return (cube["red"] > 1500).sum("time").astype("uint8").rename("bright")


def test_a_run_over_tiles_resumes_and_its_outputs_lie_on_the_tiles(archive, tmp_path, monkeypatch):
    spec = GridSpec(UTM, (512, 512), 120)
    domain = xgc.GridDomain(archive, spec, bands=["red"], time="1MS")
    out = xgc.run(bright, domain, tmp_path / "out", sink="cog", progress=False)
    pieces = list(domain.slices())
    assert sorted(out.scene.values) == sorted(piece.name for piece in pieces)
    assert len(pieces) >= 4
    for piece in pieces:
        path = out.href.sel(scene=piece.name, asset="prediction").item()
        with rasterio.open(path) as file:
            assert GeoBox(file.shape, file.transform, file.crs.to_wkt()) == piece.geobox
        opened = rioxarray.open_rasterio(path)
        assert opened.rio.transform() == piece.geobox.transform
        want = (domain.load(piece)["red"].values > 1500).sum(axis=0)
        np.testing.assert_array_equal(opened.values[0], want)
        item = json.loads((tmp_path / "out" / "items" / f"{piece.name}.json").read_text())
        assert item["properties"]["source:scenes"] == list(piece.scenes)
        assert item["properties"]["start_datetime"].startswith("2023-08-01")
    kept = {p: p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()}
    loads = []
    monkeypatch.setattr(xgc.GridDomain, "load", lambda *a, **k: loads.append(a))
    again = xgc.run(bright, domain, tmp_path / "out", sink="cog", progress=False)
    assert loads == []
    assert {p: p.read_bytes() for p in kept} == kept
    assert again.identical(out)


def test_other_scenes_in_a_tile_are_another_run(archive, tmp_path):
    grid = GeoBox.from_bbox((510000, 5020000, 520000, 5030000), UTM, resolution=120)
    domain = xgc.GridDomain(archive, grid, bands=["red"])
    xgc.run(bright, domain, tmp_path / "out", progress=False)
    fewer = xgc.GridDomain(archive.isel(scene=[0, 1, 2, 3]), grid, bands=["red"])
    with pytest.raises(RunMismatchError):
        xgc.run(bright, fewer, tmp_path / "out", progress=False)


def test_days_of_a_grid_become_a_mosaic(archive, tmp_path):
    """Tiles and days are what the mosaic folds: the mean of what was seen is numpy's."""
    grid = GeoBox.from_bbox((510000, 5020000, 520000, 5030000), UTM, resolution=120, anchor="edge")
    spec = GridSpec(UTM, (64, 64), 120)
    domain = xgc.GridDomain(archive, spec, bands=["red"], time="solar_day", mask_and_scale=True)
    made = xgc.mosaic(lambda cube: cube["red"].isel(time=0).rename("red"), domain, grid,
                      tmp_path / "mosaic", reduce="mean", progress=False)  # fmt: skip
    whole = xgc.GridDomain(archive, grid, bands=["red"], mask_and_scale=True)
    cube = whole.load(next(whole.slices()))
    want = cube["red"].mean("time").values
    np.testing.assert_allclose(made["prediction"].values, want, rtol=1e-5)


@pytest.mark.slow
def test_a_mosaic_of_tiles_grows_by_days_and_refuses_other_scenes_in_a_day(archive, tmp_path):
    grid = GeoBox.from_bbox((510000, 5092000, 520000, 5104000), UTM, resolution=120, anchor="edge")
    spec = GridSpec(UTM, (64, 64), 120)
    day = archive.sel(scene=["S2A_33TWL_20230815_0_L2A", "S2A_33TWM_20230815_0_L2A"])

    def folded(catalog, name):
        domain = xgc.GridDomain(catalog, spec, bands=["red"], time="solar_day", mask_and_scale=True)
        return xgc.mosaic(lambda cube: cube["red"].isel(time=0), domain, grid, tmp_path / name,
                          reduce="mean", progress=False)["prediction"].values  # fmt: skip

    at_once = folded(archive, "at once")
    folded(day, "grown")
    np.testing.assert_allclose(folded(archive, "grown"), at_once, rtol=1e-5)
    folded(day.isel(scene=[0]), "other")
    with pytest.raises(RunMismatchError, match="has changed"):
        folded(day, "other")
