"""GridDomain: a catalog on a common grid, a slice for each tile and step of time."""

import json
import pickle
import shutil

import geopandas as gpd
import numpy as np
import pyproj
import pytest
import rasterio
import shapely
from affine import Affine
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox, GeoboxTiles
from odc.geo.gridspec import GridSpec
from odc.geo.types import AnchorEnum, xy_
from rasterio.windows import Window

import xgeocat as xgc
from tests.domain import scenes

UTM = "EPSG:32610"
#: Tiles of 32 x 40 pixels whose lattice is that of the made scenes.
SPEC = GridSpec(UTM, (32, 40), 10)
#: Of steps of ten days from 1970 on.
STARTS = ["2024-05-27", "2024-06-06", "2024-06-16"]
SAID = {"data_type": "uint16", "nodata": 0}


def moved(dx, dy):
    return scenes.GRID @ Affine.translation(dx, dy)


@pytest.fixture
def archive(make_item):
    """Six scenes: two places that overlap, three days."""
    items = [
        make_item(
            f"{place}{day}",
            red=scenes.pixels(seed=10 * day + number),
            cog={"transform": moved(60 * number, 20 * number)},
            about=SAID,
            when=f"2024-06-{10 * day + 1:02d}T18:00:{number:02d}Z",
            properties={"platform": "made", "eo:cloud_cover": 10.0 * day + number},
        )
        for day in range(3)
        for number, place in enumerate("ab")
    ]
    return xgc.from_items(items)


def on_lattice(catalog, ids, tile):
    """The oracle: numpy, scene by scene under the ones before, on the pixels of the files."""
    made = np.zeros(tile.shape, "uint16")
    for name in ids:
        with rasterio.open(catalog.sel(scene=name).href.sel(asset="red").item()) as file:
            column, row = ~file.transform @ (tile.transform.c, tile.transform.f)
            window = Window(round(column), round(row), tile.shape[1], tile.shape[0])
            there = file.read(1, window=window, boundless=True, fill_value=0)
        made = np.where(made != 0, made, there)
    return made


# --- slices ---------------------------------------------------------------------------------------


def test_a_slice_for_each_tile_that_a_footprint_reaches_into(archive):
    domain = xgc.GridDomain(archive, SPEC)
    footprints = gpd.GeoSeries(archive.geometry.values, crs=4326)
    found = {piece.name: piece for piece in domain.slices()}
    want = {}
    for ix in range(1248, 1256):
        for iy in range(13430, 13440):
            box = shapely.segmentize(SPEC[ix, iy].extent.geom, 5)
            tile = gpd.GeoSeries([box], crs=UTM).to_crs(4326)[0]
            # A made pixel is about 1e-8 square degrees.
            area = footprints.intersection(tile).area
            if (area > 1e-11).any():
                want[f"x{ix}_y{iy}"] = tuple(archive.scene.values[area > 1e-11])
    assert {name: piece.scenes for name, piece in found.items()} == want
    assert len(domain) == len(want) > 4
    for name, piece in found.items():
        ix, iy = (int(part[1:]) for part in name.split("_"))
        assert piece.geobox == SPEC[ix, iy]


def test_slices_are_tile_by_tile_in_time_and_always_the_same(archive):
    domain = xgc.GridDomain(archive, SPEC, time="10D")
    pieces = list(domain.slices())
    names = [piece.name for piece in pieces]
    assert len(set(names)) == len(names) == len(domain)
    tiles = list(dict.fromkeys(name.rpartition("_")[0] for name in names))
    assert names == [f"{t}_{d}" for t in tiles for d in STARTS
                     if f"{t}_{d}" in names]  # fmt: skip
    assert pieces == list(pickle.loads(pickle.dumps(domain)).slices())
    for piece in pieces:
        start, end = piece.interval
        assert end - start == np.timedelta64(10, "D") - np.timedelta64(1, "us")
        assert {s[1] for s in piece.scenes} == {str(STARTS.index(str(start)[:10]))}


def test_a_step_is_what_it_is_whatever_scenes_there_are(archive):
    all_of = {p.name: p for p in xgc.GridDomain(archive, SPEC, time="1MS").slices()}
    for i in range(archive.sizes["scene"]):
        one = xgc.GridDomain(archive.isel(scene=[i]), SPEC, time="1MS")
        for piece in one.slices():
            assert piece.name.endswith("_2024-06")
            assert all_of[piece.name].interval == piece.interval
            assert set(piece.scenes) <= set(all_of[piece.name].scenes)


def test_solar_days_are_slices_of_their_own(archive):
    pieces = list(xgc.GridDomain(archive, SPEC, time="solar_day").slices())
    assert {p.name.rpartition("_")[2] for p in pieces} == {"2024-06-01", "2024-06-11", "2024-06-21"}
    for piece in pieces:
        times = archive.start_time.sel(scene=list(piece.scenes)).values
        assert piece.interval == (times.min(), times.max())


def test_a_slice_says_where_its_scenes_are_and_what_they_share(archive):
    for piece in xgc.GridDomain(archive, SPEC).slices():
        drawn = archive.geometry.sel(scene=list(piece.scenes)).values
        tile = gpd.GeoSeries([shapely.segmentize(piece.geobox.extent.geom, 5)], crs=UTM)
        want = shapely.union_all(drawn).intersection(tile.to_crs(4326)[0])
        assert piece.footprint.symmetric_difference(want).area < 1e-3 * want.area
        assert piece.properties["platform"] == "made"
        assert piece.properties["source:scenes"] == list(piece.scenes)
        clouds = set(archive["eo:cloud_cover"].sel(scene=list(piece.scenes)).values)
        assert ("eo:cloud_cover" in piece.properties) == (len(clouds) == 1)


def test_one_grid_is_one_slice_and_one_that_is_cut_several(archive):
    whole = GeoBox((120, 160), scenes.GRID, UTM)
    (piece,) = xgc.GridDomain(archive, whole).slices()
    assert (piece.name, piece.geobox, len(piece.scenes)) == ("grid", whole, 6)
    cut = xgc.GridDomain(archive, GeoboxTiles(whole, (50, 60)))
    assert {"row0_col0", "row1_col1"} <= {piece.name for piece in cut.slices()}
    # Between the places, in the corner, there is none.
    assert "row2_col0" not in {piece.name for piece in cut.slices()}


def test_an_empty_catalog_is_a_domain_without_slices(archive):
    domain = xgc.GridDomain(archive.isel(scene=[]), SPEC, time="1MS")
    assert (len(domain), list(domain.slices()), domain.bounds) == (0, [], None)
    assert isinstance(domain, xgc.Domain)


def test_bounds_are_those_of_all_tiles(archive):
    domain = xgc.GridDomain(archive, SPEC)
    boxes = np.array([piece.bounds for piece in domain.slices()])
    assert domain.crs == CRS(UTM)
    assert domain.bounds.bbox == (*boxes[:, :2].min(axis=0), *boxes[:, 2:].max(axis=0))
    assert "6 scenes" in repr(domain)


# --- cubes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunks", [16, 2048])
def test_cubes_are_the_pixels_of_the_files_the_first_of_the_catalog_on_top(archive, chunks):
    for catalog in (archive, archive.isel(scene=[5, 4, 3, 2, 1, 0])):
        domain = xgc.GridDomain(catalog, SPEC, align="native", chunks=chunks)
        for piece in list(domain.slices())[:: 2 if chunks > 16 else 5]:
            cube = domain.load(piece)
            days = sorted({name[1] for name in piece.scenes})
            assert cube.odc.geobox == piece.geobox
            assert dict(cube.sizes) == {"time": len(days), "y": 32, "x": 40}
            for step, day in enumerate(days):
                ids = [name for name in catalog.scene.values if name[1] == day]
                want = on_lattice(catalog, ids, piece.geobox)
                np.testing.assert_array_equal(cube["red"].values[step], want)


def test_every_scene_can_be_a_step_of_its_own(archive):
    domain = xgc.GridDomain(archive, SPEC, groupby="id")
    for piece in domain.slices():
        cube = domain.load(piece)
        assert cube.sizes["time"] == len(piece.scenes)
        for step, name in enumerate(sorted(piece.scenes, key=lambda name: (name[1], name[0]))):
            want = on_lattice(archive, [name], piece.geobox)
            np.testing.assert_array_equal(cube["red"].values[step], want)


def test_tiles_lie_side_by_side_without_seam(archive):
    domain = xgc.GridDomain(archive, SPEC, time="solar_day")
    day = [p for p in domain.slices() if p.name.endswith("2024-06-11")]
    whole = GeoBox((120, 160), scenes.GRID, UTM)
    made = np.zeros(whole.shape, "uint16")
    for piece in day:
        values = domain.load(piece)["red"].values[0]
        column, row = (round(v) for v in ~whole.transform @ (piece.bounds[0], piece.bounds[3]))
        for i in range(max(row, 0), min(row + 32, 120)):
            for j in range(max(column, 0), min(column + 40, 160)):
                made[i, j] = values[i - row, j - column]
    np.testing.assert_array_equal(made, on_lattice(archive, ["a1", "b1"], whole))


def test_nothing_is_read_before_it_is_computed_and_then_only_what_serves(archive, monkeypatch):
    """Items that say all: then files are opened by computing, and only those of the tile."""
    opened = []
    real = rasterio.open

    def watched(path, *args, **options):
        opened.append(str(path))
        return real(path, *args, **options)

    monkeypatch.setattr(rasterio, "open", watched)
    domain = xgc.GridDomain(archive, SPEC, align="native", time="solar_day", mask_and_scale=True)
    pieces = list(domain.slices())
    cubes = [domain.load(piece) for piece in pieces]
    assert opened == []
    alone = next(i for i, piece in enumerate(pieces) if piece.scenes == ("b1",))
    cubes[alone].compute()
    assert set(opened) == {archive.href.sel(asset="red", scene="b1").item()}
    assert len(cubes[alone]["red"].__dask_graph__()) < 20


def test_a_scene_elsewhere_cannot_break_a_tile(archive, tmp_path):
    domain = xgc.GridDomain(archive, SPEC)
    shutil.rmtree(tmp_path / "a0")
    for piece in domain.slices():
        if "a0" in piece.scenes:
            with pytest.raises(rasterio.errors.RasterioIOError):
                domain.load(piece).compute()
        else:
            domain.load(piece).compute()


def test_baselines_are_mixed_as_physical_values_only(make_item):
    numbers = [("04.00", -0.1), ("03.01", 0.0)]
    items = [
        make_item(f"s{i}", red=scenes.pixels(seed=i),
                  about={**SAID, "raster:scale": 1e-4, "raster:offset": offset},
                  properties={"s2:processing_baseline": baseline})
        for i, (baseline, offset) in enumerate(numbers)
    ]  # fmt: skip
    catalog = xgc.from_items(items)
    grid = GeoBox((70, 90), scenes.GRID, UTM)
    stored = xgc.GridDomain(catalog, grid)
    with pytest.raises(ValueError, match="mask_and_scale=True"):
        stored.load(next(stored.slices()))
    domain = xgc.GridDomain(catalog, grid, mask_and_scale=True)
    got = domain.load(next(domain.slices()))["red"].values[0]
    one, two = (
        np.where(v != 0, v.astype("f4") * np.float32(1e-4) + np.float32(offset), np.nan)
        for v, (_, offset) in ((scenes.pixels(seed=i), n) for i, n in enumerate(numbers))
    )
    scenes.assert_same(got, np.where(np.isnan(one), two, one))


def test_several_collections_are_one_catalog(make_item):
    """Two sensors: other assets, dtypes and scales, one common name, two days."""
    fine = make_item("fine", B04=scenes.pixels(seed=1), when="2024-06-01T18:00:00Z",
                     about={"bands": [{"name": "red"}], "raster:scale": 1e-4})  # fmt: skip
    coarse = make_item(
        "coarse", SR_B4=scenes.pixels((35, 45), dtype="int16", seed=2), when="2024-06-02T18:00:00Z",
        cog={"transform": scenes.GRID @ Affine.scale(2)},
        about={"bands": [{"name": "red"}], "raster:scale": 1e-3},
    )  # fmt: skip
    catalog = xgc.from_items([{**fine, "collection": "s2"}, {**coarse, "collection": "ls"}])
    grid = GeoBox((70, 90), scenes.GRID, UTM)
    domain = xgc.GridDomain(catalog, grid, bands=["red"], mask_and_scale=True)
    (piece,) = domain.slices()
    got = domain.load(piece)["red"].values
    for step, (values, scale) in enumerate([
        (scenes.pixels(seed=1), 1e-4),
        (np.kron(scenes.pixels((35, 45), dtype="int16", seed=2), np.ones((2, 2), "int16")), 1e-3),
    ]):  # fmt: skip
        want = np.where(values != 0, values.astype("f4") * np.float32(scale), np.nan)
        scenes.assert_same(got[step], want)
    with pytest.raises(ValueError, match=r"(?s)differ by some bands.*Name bands="):
        xgc.GridDomain(catalog, grid)


def test_urls_are_signed_when_they_are_read(archive):
    bare = archive.assign(
        href=("nowhere/" + archive["href"].astype(str)).where(archive.href.notnull())
    )
    asked = []

    def sign(href):
        asked.append(href)
        return href.removeprefix("nowhere/")

    domain = xgc.GridDomain(bare, SPEC, sign=sign)
    assert asked == []
    piece = next(domain.slices())
    want = xgc.GridDomain(archive, SPEC).load(piece)
    np.testing.assert_array_equal(domain.load(piece)["red"], want["red"])
    assert len(asked) == len(piece.scenes)
    assert "nowhere" not in json.dumps(dict(domain.describe()))


# --- the lattice ----------------------------------------------------------------------------------


def test_native_tiles_off_the_pixels_are_refused_with_how_much(archive):
    off = GridSpec(UTM, (32, 40), 10, origin=xy_(2.5, -1.0))
    with pytest.raises(ValueError, match=r"off by 0\.25 pixels in x and -?0\.1 in y"):
        xgc.GridDomain(archive, off, align="native")
    assert len(xgc.GridDomain(archive, off)) > 0
    with pytest.raises(ValueError, match="20.*10"):
        xgc.GridDomain(archive, GridSpec(UTM, (32, 40), 20), align="native")
    with pytest.raises(ValueError, match="it is in EPSG:32611"):
        xgc.GridDomain(archive, GridSpec("EPSG:32611", (32, 40), 10), align="native")


@pytest.mark.parametrize(("origin", "align", "ok"), [
    (0.0, "edge", True), (5.0, "edge", False), (5.0, "center", True), (0.0, "center", False),
    (3.3, "floating", True), (5.0, AnchorEnum.EDGE, False), (5.0, AnchorEnum.CENTER, True),
])  # fmt: skip
def test_anchors_are_checked_on_the_tiles(archive, origin, align, ok):
    spec = GridSpec(UTM, (32, 40), 10, origin=xy_(origin, origin))
    if ok:
        assert len(xgc.GridDomain(archive, spec, align=align)) > 0
    else:
        with pytest.raises(ValueError, match=r"0\.5 pixels in x"):
            xgc.GridDomain(archive, spec, align=align)


@pytest.mark.parametrize("side", [1, -1])
def test_pixels_of_an_arc_second_stay_where_they_are_ten_thousand_tiles_away(make_item, side):
    step = 1 / 3600
    spec = GridSpec("EPSG:4326", (20, 30), step)
    # Across the corner of tile 10 000, 83 degrees from the origin.
    west, north = side * 10_000 * 30 * step, (9_000 * 20 + 8) * step
    transform = Affine(step, 0, west - 11 * step, 0, -step, north)
    made = make_item("a", red=scenes.pixels((25, 40), seed=6), about=SAID,
                     cog={"transform": transform, "crs": "EPSG:4326"})  # fmt: skip
    catalog = xgc.from_items([made])
    domain = xgc.GridDomain(catalog, spec, align="native", resampling="cubic")
    assert f"x{side * 10_000}_y9000" in {piece.name for piece in domain.slices()}
    assert xgc.GridDomain(catalog, spec, align="edge").bounds == domain.bounds
    seen = 0
    for piece in domain.slices():
        got = domain.load(piece)["red"].values[0]
        np.testing.assert_array_equal(got, on_lattice(catalog, ["a"], piece.geobox))
        seen += (got != 0).sum()
    assert seen == (scenes.pixels((25, 40), seed=6) != 0).sum()


# --- across 180 degrees and over the poles --------------------------------------------------------


@pytest.fixture
def far_east(make_item):
    """A scene of UTM zone 1 with 180 degrees in its middle."""
    made = make_item("a", red=scenes.pixels((110, 110), seed=3), about=SAID,
                     cog={"crs": "EPSG:32601", "transform": Affine(1000, 0, 3e5, 0, -1000, 7.5e6)})  # fmt: skip
    return xgc.from_items([made])


@pytest.mark.parametrize(("spec", "tiles"), [
    (GridSpec("EPSG:4326", (100, 100), 0.05), {"x35_y13", "x-36_y13"}),
    (GridSpec("EPSG:4326", (140, 140), 0.05), {"x25_y9", "x-26_y9"}),
    (GeoBox((80, 120), Affine(0.05, 0, 176, 0, -0.05, 69), "EPSG:4326"), {"grid"}),
    (GridSpec("EPSG:3413", (100, 100), 5000), {"x-4_y3"}),
    (xgc.MGRS(1000), None),
])  # fmt: skip
def test_all_of_a_scene_across_180_degrees_is_on_the_tiles(far_east, spec, tiles):
    """Every cell of every tile, asked by pyproj which pixel of the scene it is on."""
    domain = xgc.GridDomain(far_east, spec, bands=["red"])
    values, reached = scenes.pixels((110, 110), seed=3), np.zeros((110, 110), bool)
    for piece in domain.slices():
        got = domain.load(piece)["red"].values[0]
        cells = np.meshgrid(*(piece.geobox.coordinates[d].values for d in piece.geobox.dims[::-1]))
        to_scene = pyproj.Transformer.from_crs(str(piece.crs), 32601, always_xy=True)
        x, y = to_scene.transform(*cells)
        j, i = np.floor((x - 3e5) / 1000).astype(int), np.floor((7.5e6 - y) / 1000).astype(int)
        inside = (i >= 0) & (i < 110) & (j >= 0) & (j < 110)
        want = np.zeros(got.shape, "uint16")
        want[inside] = values[i[inside], j[inside]]
        # Between zones GDAL errs by up to an eighth of a pixel.
        assert (got == want).mean() > 0.95
        assert (got != 0).sum() == pytest.approx((want != 0).sum(), rel=0.05, abs=20)
        reached[i[inside], j[inside]] = True
    names = {piece.name for piece in domain.slices()}
    if tiles is None:
        assert {name[:2] for name in names} == {"01", "60"}
        assert reached.mean() > 0.9
    else:
        assert names == tiles


@pytest.mark.parametrize("epsg", [3413, 3031])
def test_tiles_round_a_pole_are_the_pixels_of_the_scene_over_it(make_item, epsg):
    transform = Affine(1000, 0, -55000, 0, -1000, 65000)
    made = make_item("a", red=scenes.pixels((120, 110), seed=8), about=SAID,
                     cog={"crs": f"EPSG:{epsg}", "transform": transform})  # fmt: skip
    catalog = xgc.from_items([made])
    domain = xgc.GridDomain(catalog, GridSpec(f"EPSG:{epsg}", (80, 70), 1000), align="native")
    assert {p.name for p in domain.slices()} == {"x0_y0", "x-1_y0", "x0_y-1", "x-1_y-1"}
    for piece in domain.slices():
        want = on_lattice(catalog, ["a"], piece.geobox)
        np.testing.assert_array_equal(domain.load(piece)["red"].values[0], want)


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("options", "error", "message"), [
    ({"time": "fortnight"}, ValueError, "solar_day"), ({"groupby": "day"}, ValueError, "'id'"),
    ({"align": "corner"}, ValueError, "'native'"), ({"bands": ["nir"]}, ValueError, "nir"),
])  # fmt: skip
def test_unknown_options_are_refused(archive, options, error, message):
    with pytest.raises(error, match=message):
        xgc.GridDomain(archive, SPEC, **options)


def test_what_is_no_catalog_or_no_grid_is_refused(archive):
    with pytest.raises(TypeError, match="GridDomain works on a catalog"):
        xgc.GridDomain(archive["href"], SPEC)
    with pytest.raises(TypeError, match="GridSpec"):
        xgc.GridDomain(archive, "utm")


def test_scenes_without_a_time_belong_to_no_day(make_item):
    made = make_item("a", red=scenes.pixels(), about=SAID)
    made["properties"] = {"datetime": None}
    catalog = xgc.from_items([made])
    for options in ({}, {"time": "1MS", "groupby": "id"}):
        with pytest.raises(ValueError, match="no time"):
            xgc.GridDomain(catalog, SPEC, **options)
    domain = xgc.GridDomain(catalog, SPEC, groupby="id")
    piece = next(domain.slices())
    assert piece.interval is None
    assert np.isnat(domain.load(piece).time.values[0])


def test_a_scene_without_a_footprint_is_where_its_grid_is(make_item):
    made = make_item("a", red=scenes.pixels(), about=SAID)
    known = xgc.GridDomain(xgc.from_items([made]), SPEC)
    made["geometry"] = made["bbox"] = None
    unknown = xgc.GridDomain(xgc.from_items([made]), SPEC)
    assert [p.name for p in unknown.slices()] == [p.name for p in known.slices()]
    assert next(unknown.slices()).footprint.area > 0


@pytest.mark.parametrize("ids", [(), ("nobody",), ("a0", "nobody")])
def test_a_slice_of_other_scenes_is_refused(archive, ids):
    domain = xgc.GridDomain(archive, SPEC)
    grid = next(domain.slices()).geobox
    with pytest.raises(ValueError, match=r"domain\.slices\(\)"):
        domain.load(xgc.GeoSlice(geobox=grid, scenes=ids))


def test_repeated_ids_are_refused(archive):
    with pytest.raises(ValueError, match="drop_duplicates"):
        xgc.GridDomain(archive.isel(scene=[0, 0]), SPEC)
