"""Union, intersection and difference equal what sets of cells and geopandas say."""

from __future__ import annotations

import json

import geopandas as gpd
import numpy as np
import pystac
import pytest
import shapely
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely.geometry import LineString, MultiPolygon, Point, Polygon, box

import xgeocat as xgc
from xgeocat.catalog.index import footprint_index
from xgeocat.catalog.stac import to_dicts

DAY = "2024-06-{:02d}T00:00:00Z"


def ids(ds: xr.Dataset) -> list[str]:
    return list(ds.scene.values)


def outlines(ds: xr.Dataset) -> np.ndarray:
    return footprint_index(ds).geometry


@pytest.fixture(scope="module")
def catalog(make_item):
    """Factory of catalogs of (id, footprint, time) or (id, footprint, time, collection)."""

    def make(*rows, crs=4326, assets=None, **properties):
        items = [
            make_item(row[0], *row[1:3], assets=assets, collection=[*row, "made"][3], **properties)
            for row in rows
        ]
        return xgc.from_items(items, crs=crs)

    return make


# --- against sets of cells, in place and time -----------------------------------------------------

Row = tuple[frozenset, tuple[int, int] | None]


@st.composite
def rows(draw) -> list[Row]:
    """Scenes as sets of unit cells (boxes and Ls) with closed intervals of days, or unknown."""
    made = []
    for _ in range(draw(st.integers(0, 5))):
        x, y, w, h = (draw(st.integers(0, 4)) for _ in range(4))
        cells = {(a, b) for a in range(x, x + w + 1) for b in range(y, y + h + 1)}
        if draw(st.booleans()):
            cells = {(a, b) for a, b in cells if a == x or b == y}
        first = draw(st.integers(1, 9))
        time = draw(
            st.sampled_from([None, (first, first), (first, first + draw(st.integers(1, 6)))])
        )
        made.append((frozenset(cells), time))
    return made


def shape_of(cells):
    return shapely.union_all([box(a, b, a + 1, b + 1) for a, b in cells])


def area_of(geometry):
    return round(geometry.area, 6)


@pytest.fixture(scope="module")
def drawn(catalog):
    def make(prefix, made: list[Row]):
        return catalog(
            *(
                (f"{prefix}{i}", shape_of(cells), time and tuple(DAY.format(d) for d in time))
                for i, (cells, time) in enumerate(made)
            )
        )

    return make


@given(rows(), rows(), st.booleans())
@settings(max_examples=40, deadline=None)
def test_intersect_equals_sets_of_cells_and_days(drawn, one, two, spatial_only):
    found = drawn("a", one).geocat.intersect(drawn("b", two), spatial_only=spatial_only)
    want = {}
    for i, (cells, time) in enumerate(one):
        for j, (others, when) in enumerate(two):
            both = cells & others
            if both and spatial_only:
                want[f"a{i}__b{j}"] = both, time
            elif both and time and when:
                span = max(time[0], when[0]), min(time[1], when[1])
                if span[0] <= span[1]:
                    want[f"a{i}__b{j}"] = both, span
    assert ids(found) == list(want)
    index = footprint_index(found)
    for geometry, start, end, (cells, span) in zip(
        index.geometry, index.start, index.end, want.values(), strict=True
    ):
        assert area_of(geometry.symmetric_difference(shape_of(cells))) == 0
        if span is None:
            assert np.isnat(start)
            assert np.isnat(end)
        else:
            assert [start, end] == [np.datetime64(DAY.format(d)[:-1]) for d in span]


@given(rows(), rows(), st.booleans())
@settings(max_examples=40, deadline=None)
def test_difference_equals_sets_of_cells_and_days(drawn, one, two, spatial_only):
    ds = drawn("a", one)
    found = ds.geocat.difference(drawn("b", two), spatial_only=spatial_only)
    want = {}
    for i, (cells, time) in enumerate(one):
        covered = set()
        for cell in cells:
            spans = [when for others, when in two if cell in others]
            if spatial_only:
                full = bool(spans)
            else:
                # Days and the nights between them: intervals end at midnight, and are closed.
                hours = time and range(2 * time[0], 2 * time[1] + 1)
                full = time is not None and all(
                    any(s is not None and 2 * s[0] <= h <= 2 * s[1] for s in spans) for h in hours
                )
            covered |= {cell} if full else set()
        if cells - covered:
            want[f"a{i}"] = cells - covered
    assert ids(found) == list(want)
    for geometry, cells in zip(outlines(found), want.values(), strict=True):
        assert area_of(geometry.symmetric_difference(shape_of(cells))) == 0
    kept = ds.sel(scene=ids(found))
    np.testing.assert_array_equal(found.start_time, kept.start_time)
    np.testing.assert_array_equal(found.end_time, kept.end_time)


@given(rows(), rows())
@settings(max_examples=40, deadline=None)
def test_intersection_and_difference_make_up_the_whole(drawn, one, two):
    ds, other = drawn("a", one), drawn("b", two)
    both = ds.geocat.intersect(other, spatial_only=True)
    rest = ds.geocat.difference(other, spatial_only=True)
    for name, whole in zip(ids(ds), outlines(ds), strict=True):
        inside = [
            g for n, g in zip(ids(both), outlines(both), strict=True) if n.startswith(f"{name}__")
        ]
        outside = [g for n, g in zip(ids(rest), outlines(rest), strict=True) if n == name]
        assert len(outside) <= 1
        assert area_of(shapely.union_all([*inside, *outside])) == area_of(whole)
        assert area_of(shapely.union_all(inside).intersection(shapely.union_all(outside))) == 0


@given(rows(), rows())
@settings(max_examples=6, deadline=None)
def test_what_comes_out_is_a_catalog_that_goes_to_geoparquet_and_back(
    drawn, tmp_path_factory, one, two
):
    ds, other = drawn("a", one), drawn("b", two)
    path = tmp_path_factory.mktemp("c") / "c.parquet"
    for found in (
        ds.geocat.union(other),
        ds.geocat.intersect(other),
        ds.geocat.difference(other),
        ds.geocat.matchup(other),
    ):
        back = xgc.open_catalog(found.geocat.to_geoparquet(path))
        assert ids(back) == ids(found)
        np.testing.assert_array_equal(outlines(back), outlines(found))
        np.testing.assert_array_equal(back.start_time, found.start_time)
        assert back.attrs == found.attrs
        for item, geometry in zip(to_dicts(found), outlines(found), strict=True):
            assert item["bbox"] == list(geometry.bounds)
            assert shapely.geometry.shape(item["geometry"]).equals(geometry)


# --- against geopandas ----------------------------------------------------------------------------


def scattered(seed, number, prefix):
    rng = np.random.default_rng(seed)
    centres = rng.uniform(-8, 8, (number, 2))
    made = []
    for i, (x, y) in enumerate(centres):
        angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 9)))
        ring = np.column_stack([x + 3 * np.cos(angles), y + 2 * np.sin(angles)])
        made.append((f"{prefix}{i}", Polygon(ring), "2024-06-01T00:00:00Z"))
    return made


@pytest.mark.parametrize("seed", range(4))
def test_place_equals_geopandas_overlay(catalog, seed):
    one, two = scattered(seed, 40, "a"), scattered(seed + 50, 40, "b")
    a, b = (
        gpd.GeoDataFrame({"id": [r[0] for r in m]}, geometry=[r[1] for r in m], crs=4326)
        for m in (one, two)
    )
    found = catalog(*one).geocat.intersect(catalog(*two))
    want = gpd.overlay(a, b, how="intersection", keep_geom_type=True)
    areas = {f"{r.id_1}__{r.id_2}": r.geometry.area for r in want.itertuples()}
    assert dict(zip(ids(found), shapely.area(outlines(found)), strict=True)) == pytest.approx(areas)
    left = catalog(*one).geocat.difference(catalog(*two))
    rest = gpd.overlay(a, b, how="difference", keep_geom_type=True)
    areas = dict(zip(rest.id, rest.area, strict=True))
    assert dict(zip(ids(left), shapely.area(outlines(left)), strict=True)) == pytest.approx(areas)


def test_real_scenes_and_their_tiles(planetary_computer):
    ds = planetary_computer.isel(scene=slice(0, 120))
    tiles = ds.drop_duplicates("s2:mgrs_tile" if "s2:mgrs_tile" in ds.dims else "scene")
    half = ds.isel(scene=slice(0, 60))
    both = ds.geocat.union(half)
    xr.testing.assert_identical(both.drop_attrs(deep=False), ds.drop_attrs(deep=False))
    found = half.geocat.intersect(tiles, spatial_only=True)
    frames = [
        gpd.GeoDataFrame({"i": np.arange(c.sizes["scene"])}, geometry=outlines(c), crs=4326)
        for c in (half, tiles)
    ]
    joined = gpd.sjoin(*frames, predicate="intersects")
    touching = (
        frames[0]
        .geometry.loc[joined.index]
        .touches(frames[1].geometry.loc[joined.index_right], align=False)
    )
    assert found.sizes["scene"] == int((~touching.to_numpy()).sum())
    assert len(set(ids(found))) == found.sizes["scene"]
    assert half.geocat.difference(ds).sizes["scene"] == 0


# --- what counts as sharing a place ---------------------------------------------------------------

SQUARE = box(0, 0, 1, 1)
MOMENT = "2024-06-01T00:00:00Z"


@pytest.mark.parametrize(
    ("one", "other", "want"),
    [
        (SQUARE, box(1, 0, 2, 1), None),
        (SQUARE, box(1, 1, 2, 2), None),
        (box(0, 0, 0.1 + 0.2, 1), box(0.3, 0, 1, 1), None),
        (SQUARE, box(0.5, 0, 2, 1), box(0.5, 0, 1, 1)),
        (SQUARE, None, None),
        (None, SQUARE, None),
        (SQUARE, Polygon(), None),
        (SQUARE, Point(0.5, 0.5), Point(0.5, 0.5)),
        (SQUARE, Point(1, 0.5), None),
        (Point(0.5, 0.5), SQUARE, Point(0.5, 0.5)),
        (Point(0.5, 0.5), Point(0.5, 0.5), Point(0.5, 0.5)),
        (SQUARE, LineString([(0.5, 0.5), (3, 0.5)]), LineString([(0.5, 0.5), (1, 0.5)])),
        (SQUARE, LineString([(1, 0), (1, 1)]), None),
        (LineString([(0, 0), (2, 0)]), LineString([(1, 0), (3, 0)]), LineString([(1, 0), (2, 0)])),
        (LineString([(0, 0), (2, 2)]), LineString([(0, 2), (2, 0)]), None),
        # An L and a square that touch along an edge and share an area besides.
        (shapely.union(box(0, 0, 3, 1), box(0, 0, 1, 3)), box(0.5, 1, 2, 2), box(0.5, 1, 1, 2)),
        # A bow tie, whose lower half is there too.
        (Polygon([(0, 0), (1, 1), (0, 1), (1, 0)]), box(0, 0, 1, 0.5),
         Polygon([(0, 0), (1, 0), (0.5, 0.5)])),
    ],
)  # fmt: skip
def test_what_two_footprints_share(catalog, one, other, want):
    a, b = catalog(("a", one, MOMENT)), catalog(("b", other, MOMENT))
    found = a.geocat.intersect(b)
    assert ids(a.geocat.matchup(b)) == ids(found) == ([] if want is None else ["a__b"])
    if want is not None:
        assert outlines(found)[0].equals(want)


def test_across_the_antimeridian(catalog):
    cut = MultiPolygon([box(178, 0, 180, 2), box(-180, 0, -178, 2)])
    a, b = catalog(("a", cut, MOMENT)), catalog(("b", box(-179, 1, -170, 5), MOMENT))
    found = a.geocat.intersect(b)
    assert outlines(found)[0].equals(box(-179, 1, -178, 2))
    left = a.geocat.difference(b)
    assert outlines(left)[0].area == pytest.approx(7)
    assert left.geocat.to_items()[0].bbox == [178, 0, -178, 2]
    assert ids(left.geocat.query((179, 0, -179.5, 1))) == ["a"]


def test_a_footprint_of_which_nothing_is_clipped_stays_as_it_was(catalog):
    ring = Polygon([(0, 0), (0.5, 0), (1, 0), (1, 1), (0, 1)])
    a, b = catalog(("a", ring, MOMENT)), catalog(("b", box(-1, -1, 2, 2), MOMENT))
    kept = a.geocat.intersect(b)
    assert outlines(kept)[0] is outlines(a)[0]
    untouched = a.geocat.difference(catalog(("b", box(1, 0, 2, 1), MOMENT)))
    xr.testing.assert_identical(untouched.drop_attrs(deep=False), a)


def test_another_crs_is_reprojected(catalog):
    here, there = box(10, 45, 11, 46), box(10.5, 45, 11.5, 46)
    a = catalog(("a", here, MOMENT))
    plain = a.geocat.intersect(catalog(("b", there, MOMENT)))
    moved = a.geocat.intersect(catalog(("b", there, MOMENT), crs=32632))
    assert moved.geocat.crs == a.geocat.crs
    off = outlines(plain)[0].symmetric_difference(outlines(moved)[0]).area
    assert off < 1e-6
    far = catalog(("c", box(-100, -10, -99, -9), MOMENT))
    utm = catalog(("a", here, MOMENT), crs=32632)
    assert utm.geocat.intersect(far).sizes["scene"] == 0
    assert utm.geocat.intersect(catalog(("b", there, MOMENT))).sizes["scene"] == 1
    assert utm.isel(scene=[]).geocat.intersect(far).sizes["scene"] == 0
    assert utm.isel(scene=[]).geocat.difference(far).sizes["scene"] == 0
    joined = a.geocat.union(catalog(("b", there, MOMENT), crs=32632))
    item = joined.geocat.to_items()[1].to_dict()
    assert shapely.geometry.shape(item["geometry"]).equals_exact(there, 1e-6)


def test_clipped_in_a_projected_crs_items_say_so_too(catalog, make_item, tmp_path):
    native = box(500_000, 5_000_000, 510_000, 5_010_000)
    series = gpd.GeoSeries([native, box(505_000, 5_000_000, 520_000, 5_010_000)], crs=32632)
    degrees = list(series.to_crs(4326))
    extra = {
        "proj:code": "EPSG:32632",
        "proj:geometry": json.loads(shapely.to_geojson(native)),
        "proj:bbox": list(native.bounds),
    }
    ds = xgc.from_items([make_item("a", degrees[0], MOMENT, **extra)], crs=32632)
    found = ds.geocat.intersect(catalog(("b", degrees[1], MOMENT), crs=32632))
    want = box(505_000, 5_000_000, 510_000, 5_010_000)
    assert outlines(found)[0].symmetric_difference(want).area < 2e4  # straight in degrees
    item = found.geocat.to_items()[0]
    assert "proj:bbox" not in item.properties
    assert shapely.geometry.shape(item.properties["proj:geometry"]).equals(outlines(found)[0])
    back = gpd.GeoSeries([shapely.geometry.shape(item.geometry)], crs=4326).to_crs(32632)
    assert back[0].symmetric_difference(outlines(found)[0]).area < 3e3
    assert item.bbox == list(shapely.geometry.shape(item.geometry).bounds)
    path = found.geocat.to_geoparquet(tmp_path / "c.parquet")
    xr.testing.assert_identical(xgc.open_catalog(path), found)


# --- time -----------------------------------------------------------------------------------------


def test_items_carry_the_intersected_interval(catalog):
    a = catalog(("a", SQUARE, ("2024-06-01T00:00:00Z", "2024-06-10T00:00:00Z")))
    b = catalog(("b", SQUARE, ("2024-06-05T00:00:00Z", "2024-06-20T00:00:00Z")))
    item = a.geocat.intersect(b).geocat.to_items()[0].to_dict()
    told = {k: v for k, v in item["properties"].items() if k.endswith("datetime")}
    assert xgc.from_items([item]).start_time.values == [np.datetime64("2024-06-05")]
    assert told["start_datetime"].startswith("2024-06-05T00:00:00")
    assert told["end_datetime"].startswith("2024-06-10T00:00:00")
    assert told.get("datetime") is None
    static = a.geocat.intersect(catalog(("b", SQUARE, None)), spatial_only=True)
    xr.testing.assert_equal(static.start_time.reset_coords(drop=True), a.start_time.reset_coords(drop=True).assign_coords(scene=["a__b"]))  # fmt: skip


def test_several_scenes_in_turn_cover_an_interval(catalog):
    whole = ("2024-06-01T00:00:00Z", "2024-06-03T00:00:00Z")
    a = catalog(("a", box(0, 0, 2, 1), whole))
    early = ("b", box(0, 0, 1, 1), ("2024-05-01T00:00:00Z", "2024-06-01T23:59:59.999999Z"))
    late = ("c", box(0, 0, 2, 1), ("2024-06-02T00:00:00Z", "2024-06-09T00:00:00Z"))
    assert outlines(a.geocat.difference(catalog(early, late)))[0].equals(box(1, 0, 2, 1))
    gap = ("c", box(0, 0, 2, 1), ("2024-06-02T00:00:00.000001Z", "2024-06-09T00:00:00Z"))
    assert outlines(a.geocat.difference(catalog(early, gap)))[0].equals(box(0, 0, 2, 1))


# --- union ----------------------------------------------------------------------------------------


def test_a_scene_is_known_by_id_and_collection_and_the_first_stays(catalog):
    a = catalog(("x", SQUARE, MOMENT, "one"), ("y", SQUARE, MOMENT, None), cloud=1)
    b = catalog(("x", SQUARE, MOMENT, "two"), ("x", SQUARE, MOMENT, "one"), ("y", SQUARE, MOMENT, None), cloud=2)  # fmt: skip
    both = a.geocat.union(b, a)
    assert ids(both) == ["x", "y", "x"]
    assert [c if isinstance(c, str) else None for c in both.collection.values] == [
        "one",
        None,
        "two",
    ]
    assert list(both.cloud.values) == [1, 1, 2]
    assert both.cloud.dtype == np.int64


def test_columns_and_assets_are_those_of_all(catalog):
    a = catalog(
        ("a", SQUARE, MOMENT), number=2**60, flag=True, name="n", cloud=3, assets={"red": {"href": "a.tif"}}
    )  # fmt: skip
    b = catalog(("b", SQUARE, MOMENT), other=1.5, cloud=4, assets={"nir": {"href": "b.tif"}, "red": {"href": "c.tif"}})  # fmt: skip
    b = b.assign(quality=(("scene", "asset"), [[1.0, 2.0]])).assign_coords(when=b.start_time)
    both = a.geocat.union(b)
    for name, known in {"number": 2**60, "flag": True, "name": "n"}.items():
        assert both[name].values[0] == known
        assert type(both[name].values[0]) is type(known)
        assert both[name].isnull().values.tolist() == [False, True]
    assert both.cloud.dtype == np.int64
    np.testing.assert_array_equal(both["other"], [np.nan, 1.5])
    assert list(both.asset.values) == ["red", "nir"]
    assert both.href.fillna("-").values.tolist() == [["a.tif", "-"], ["c.tif", "b.tif"]]
    np.testing.assert_array_equal(both["quality"], [[np.nan, np.nan], [2.0, 1.0]])
    assert "when" in both.coords
    assert np.isnat(both["when"].values[0])
    assert [sorted(item.assets) for item in both.geocat.to_items()] == [["red"], ["nir", "red"]]


def test_union_with_nothing_changes_no_dtype(catalog):
    a = catalog(("a", SQUARE, MOMENT), cloud=3, flag=False)
    for both in (
        a.geocat.union(xgc.from_items([])),
        xgc.union(xgc.from_items([]), a),
        a.geocat.union(),
    ):
        xr.testing.assert_identical(both.drop_attrs(deep=False), a)
    assert xgc.union(xgc.from_items([]), xgc.from_items([])).sizes["scene"] == 0


def test_variables_over_no_scene_that_differ_are_refused(catalog):
    a, b = catalog(("a", SQUARE, MOMENT)), catalog(("b", SQUARE, MOMENT))
    with pytest.raises(ValueError, match="note"):
        a.assign(note=1).geocat.union(b.assign(note=2))
    assert a.assign(note=1).geocat.union(b.assign(note=1))["note"].item() == 1


@pytest.mark.parametrize("sizes", [(3, 4), (1, 1, 1)])
def test_union_equals_items_put_behind_each_other(catalog, sizes):
    parts = [
        catalog(*((f"{k}{i}", box(i, k, i + 1, k + 1), MOMENT) for i in range(n)), cloud=k)
        for k, n in enumerate(sizes)
    ]
    want = xgc.from_items([item for part in parts for item in to_dicts(part)])
    xr.testing.assert_identical(xgc.union(*parts).drop_attrs(deep=False), want)


# --- columns, assets and ids of pairs -------------------------------------------------------------


def test_pairs_keep_the_columns_and_assets_of_both(catalog):
    a = catalog(("a", SQUARE, MOMENT), cloud=3, mine="m", assets={"red": {"href": "a.tif"}})
    b = catalog(("b", SQUARE, MOMENT, "labels"), cloud=4, theirs=True, assets={"red": {"href": "b.tif"}, "mask": {"href": "m.tif"}})  # fmt: skip
    both = a.geocat.intersect(b)
    assert {n: both[n].item() for n in ("cloud", "cloud_other", "mine", "theirs", "match", "match:collection")} == {
        "cloud": 3, "cloud_other": 4, "mine": "m", "theirs": True, "match": "b", "match:collection": "labels"}  # fmt: skip
    assert list(both.asset.values) == ["red", "red_other", "mask"]
    assert both.href.values.tolist() == [["a.tif", "b.tif", "m.tif"]]
    again = both.geocat.intersect(b, suffix="_o")
    assert list(again.asset.values) == ["red", "red_other", "mask", "red_o", "mask_o"]
    assert again["match_o"].item() == "b"
    assert again["cloud_o"].item() == 4


def test_ids_of_pairs_are_unique_though_scenes_share_theirs(catalog):
    a = catalog(
        ("x", SQUARE, MOMENT, "one"), ("x", SQUARE, MOMENT, "two"), ("x__y", SQUARE, MOMENT)
    )
    b = catalog(("y", SQUARE, MOMENT), ("y__y", SQUARE, MOMENT))
    found = ids(a.geocat.intersect(b))
    assert len(set(found)) == 6
    assert found == ["x__y", "x__y__y", "x__y-2", "x__y__y-2", "x__y__y-3", "x__y__y__y"]


def test_assets_beside_those_of_another_item_keep_their_grid_and_numbers(make_item, tmp_path):
    """What an item says of its assets does not rub off on those of another one."""
    sentinel = make_item(
        "s2", SQUARE, MOMENT, assets={"B04": {"href": "https://x.org/a.tif"}},
        **{"proj:code": "EPSG:32632", "proj:shape": [10, 20], "proj:transform": [10, 0, 0, 0, -10, 0],
           "s2:product_type": "S2MSI2A", "s2:processing_baseline": "05.00",
           "earthsearch:boa_offset_applied": True},
    )  # fmt: skip
    other = make_item(
        "l8", SQUARE, MOMENT, collection="l",
        assets={"B04": {"href": "https://x.org/b.tif"}, "B05": {"href": "https://x.org/c.tif", "raster:bands": [{"scale": 2, "offset": -3}]}},
        **{"proj:epsg": 32633, "proj:shape": [5, 5]},
    )  # fmt: skip
    for one, two in ((sentinel, other), (other, sentinel)):
        a, b = xgc.from_items([one]), xgc.from_items([two])
        both = a.geocat.intersect(b)
        back = xgc.open_catalog(both.geocat.to_geoparquet(tmp_path / "c.parquet"))
        xr.testing.assert_identical(back, both)
        for name in ("proj:code", "proj:shape", "proj:transform", "scale", "offset"):
            want = np.concatenate([a[name].values, b[name].values], axis=1)
            np.testing.assert_array_equal(back[name].values, want)


def test_the_domain_reads_bands_of_both(tmp_path):
    from xgeocat.datasets import lake_tahoe

    ds = xgc.from_items(lake_tahoe(tmp_path, resolution=600))
    pairs = ds.isel(scene=[0]).geocat.intersect(ds.isel(scene=[0, 1]), spatial_only=True)
    domain = pairs.geocat.domain(bands=["green", "green_other"], crs="native")
    assert len(domain) == 2
    cube = domain.load(next(domain.slices())).compute()
    np.testing.assert_array_equal(cube["green"], cube["green_other"])


def test_extensions_of_both_items_are_declared(make_item):
    one, two = make_item("a", SQUARE, MOMENT), make_item("b", SQUARE, MOMENT)
    one["stac_extensions"], two["stac_extensions"] = ["https://x/eo.json"], ["https://x/sar.json"]
    both = xgc.from_items([one]).geocat.intersect(xgc.from_items([two]))
    item = both.geocat.to_items()[0]
    assert isinstance(item, pystac.Item)
    assert item.stac_extensions == ["https://x/eo.json", "https://x/sar.json"]


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", ["union", "intersect", "difference", "matchup"])
def test_what_is_no_catalog_is_refused(catalog, action):
    ds = catalog(("a", SQUARE, MOMENT))
    with pytest.raises(TypeError, match=action):
        getattr(ds.geocat, action)(xr.Dataset({"a": 1}))
    with pytest.raises(TypeError, match=action):
        getattr(xgc, action)(ds["href"], ds)


def test_an_empty_suffix_is_refused(catalog):
    ds = catalog(("a", SQUARE, MOMENT))
    with pytest.raises(ValueError, match="suffix=''"):
        ds.geocat.intersect(ds, suffix="")


def test_masked_rows_are_refused_by_name(catalog):
    ds = catalog(("a", SQUARE, MOMENT), ("b", box(5, 5, 6, 6), MOMENT), cloud=1)
    masked = ds.where(ds.scene == "b")
    with pytest.raises(ValueError, match="masked"):
        masked.geocat.difference(catalog(("c", box(0, 0, 0.5, 1), MOMENT)))


def test_nothing_given_is_changed(catalog):
    a, b = catalog(("a", SQUARE, MOMENT)), catalog(("b", box(0.5, 0, 2, 1), MOMENT))
    before = a.copy(deep=True), b.copy(deep=True)
    for action in (xgc.union, xgc.intersect, xgc.difference, xgc.matchup):
        action(a, b)
    xr.testing.assert_identical(a, before[0])
    xr.testing.assert_identical(b, before[1])
