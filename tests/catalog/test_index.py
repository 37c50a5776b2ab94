"""FootprintIndex: what it holds, and what it survives."""

from __future__ import annotations

import pickle

import numpy as np
import pyproj
import pytest
import shapely
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely.geometry import Point, box

import xgeocat as xgc
from xgeocat.catalog import lazy, parquet
from xgeocat.catalog.index import Drawn, FootprintIndex, footprint_index

COORDS = ["geometry", "start_time", "end_time"]
TIMES = [f"2024-{month:02d}-01T00:00:00Z" for month in range(1, 9)]
#: Meets s2 and s3, and no other.
PLACE = box(2.5, 0.2, 3.5, 0.4)


def ids(ds):
    return list(ds.scene.values)


@pytest.fixture(params=["in memory", "in a file", "in a large file"])
def ds(request, make_item, tmp_path, monkeypatch):
    """Eight scenes in a row, one degree each, one month after another, in two collections."""
    made = xgc.from_items(
        make_item(f"s{i}", box(i, 0, i + 1, 1), TIMES[i], collection="ab"[i % 2], cloud=7.0 - i,
                  number=i)
        for i in range(8)
    )  # fmt: skip
    if request.param == "in memory":
        return made
    if request.param == "in a large file":
        # As if more than two scenes were too many to have in memory, and three for a row group.
        monkeypatch.setattr(lazy, "IN_MEMORY", 2)
        monkeypatch.setattr(parquet, "GROUP", 3)
    return xgc.open_catalog(xgc.to_geoparquet(made, tmp_path / "c.parquet"))


def rebuilt(ds: xr.Dataset) -> FootprintIndex:
    """Index made afresh from the coordinates that a catalog shows."""
    drawn = Drawn(ds.geometry.values, ds.start_time.values, ds.end_time.values)
    return FootprintIndex(drawn, footprint_index(ds).crs)


def check(ds: xr.Dataset, expected: list[str]) -> None:
    """The index is there, agrees with the coordinates, and finds the scenes of PLACE."""
    assert isinstance(ds.xindexes["geometry"], FootprintIndex)
    assert footprint_index(ds).equals(rebuilt(ds))
    assert footprint_index(ds).crs == pyproj.CRS.from_epsg(4326)
    assert ids(ds.geocat.query(PLACE)) == expected
    assert ids(ds.geocat.query(time="2024-03")) == [s for s in ids(ds) if s == "s2"]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda ds: ds, ["s2", "s3"]),
        (lambda ds: ds.isel(scene=[5, 3, 2]), ["s3", "s2"]),
        (lambda ds: ds.isel(scene=slice(None, None, -1)), ["s3", "s2"]),
        (lambda ds: ds.isel(scene=slice(3, 6)), ["s3"]),
        (lambda ds: ds.isel(scene=[-5]), ["s3"]),
        (lambda ds: ds.isel(scene=[]), []),
        (lambda ds: ds.isel(scene=[3, 3]), ["s3", "s3"]),
        (lambda ds: ds.isel(scene=ds.cloud < 5), ["s3"]),
        (lambda ds: ds.isel(scene=(ds.cloud < 5).values), ["s3"]),
        (lambda ds: ds.isel(scene=xr.DataArray([2, 6], dims="scene")), ["s2"]),
        (lambda ds: ds[{"scene": [2]}], ["s2"]),
        (lambda ds: ds.isel(asset=0), ["s2", "s3"]),
        (lambda ds: ds.isel(asset=[0]), ["s2", "s3"]),
        (lambda ds: ds.sel(scene=["s3", "s0"]), ["s3"]),
        (lambda ds: ds.sel(scene=slice("s3", "s5")), ["s3"]),
        (lambda ds: ds.head(scene=3), ["s2"]),
        (lambda ds: ds.thin(scene=2), ["s2"]),
        (lambda ds: ds.sortby("cloud"), ["s3", "s2"]),
        (lambda ds: ds.sortby("start_time", ascending=False), ["s3", "s2"]),
        (lambda ds: ds.where(ds.cloud < 5), ["s2", "s3"]),
        (lambda ds: ds.where(ds.cloud < 5, drop=True), ["s3"]),
        (lambda ds: ds.dropna("scene", subset=["number"]), ["s2", "s3"]),
        (lambda ds: ds.drop_duplicates("scene"), ["s2", "s3"]),
        (lambda ds: ds.assign(half=ds.cloud / 2), ["s2", "s3"]),
        (lambda ds: ds.assign_coords(label=("scene", list("abcdefgh"))), ["s2", "s3"]),
        (lambda ds: ds.drop_vars("cloud"), ["s2", "s3"]),
        (lambda ds: ds.rename(cloud="eo:cloud_cover"), ["s2", "s3"]),
        (lambda ds: ds.transpose("asset", "scene", ...), ["s2", "s3"]),
        (lambda ds: ds.copy(), ["s2", "s3"]),
        (lambda ds: ds.copy(deep=True), ["s2", "s3"]),
        (lambda ds: pickle.loads(pickle.dumps(ds)), ["s2", "s3"]),
        (lambda ds: ds.chunk(scene=3), ["s2", "s3"]),
        (lambda ds: ds.chunk(scene=3).compute(), ["s2", "s3"]),
        (lambda ds: ds.groupby("collection").map(lambda g: g), ["s2", "s3"]),
        (lambda ds: ds.groupby("collection").map(lambda g: g.isel(scene=[1])), ["s2", "s3"]),
        (lambda ds: ds.groupby("start_time.month").map(lambda g: g.isel(scene=[0])), ["s2", "s3"]),
        (lambda ds: xr.concat([ds.isel(scene=[3, 5]), ds.isel(scene=[0, 2])], "scene"),
         ["s3", "s2"]),
        (lambda ds: xr.concat([ds, ds.isel(scene=[])], "scene"), ["s2", "s3"]),
        (lambda ds: xr.concat([ds, ds], "scene").drop_duplicates("scene"), ["s2", "s3"]),
        (lambda ds: xr.align(ds, ds["cloud"])[0], ["s2", "s3"]),
        (lambda ds: ds.merge(ds[["cloud"]]), ["s2", "s3"]),
    ],
)  # fmt: skip
def test_the_index_survives(ds, change, expected):
    check(change(ds), expected)


def test_a_query_of_a_selection_does_not_use_the_tree_of_the_whole(ds):
    assert ids(ds.geocat.query(PLACE)) == ["s2", "s3"]
    assert ids(ds.isel(scene=[6, 7, 3]).geocat.query(PLACE)) == ["s3"]


@given(st.lists(st.integers(0, 7), max_size=10), st.integers(0, 8), st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_selections_and_concatenation_keep_rows_together(picks, cut, step):
    geometry = np.array([box(i, 0, i + 1, 1) for i in range(8)], dtype=object)
    times = np.datetime64("2024-01-01", "us") + np.arange(8).astype("m8[D]")
    index = FootprintIndex(Drawn(geometry, times, times), pyproj.CRS.from_epsg(4326))
    ds = xr.Dataset({"number": ("scene", np.arange(8))}, coords=xr.Coordinates.from_xindex(index))
    changed = xr.concat([ds.isel(scene=slice(cut, None, step)), ds.isel(scene=picks)], "scene")
    numbers = changed["number"].values
    assert list(numbers) == [*range(cut, 8, step), *picks]
    found = footprint_index(changed)
    assert list(found.geometry) == list(geometry[numbers])
    assert (found.start == times[numbers]).all()
    for n in range(8):
        assert list(found.overlapping(Point(n + 0.5, 0.5), None)) == list(
            np.flatnonzero(numbers == n)
        )


def test_one_scene_is_no_catalog_any_more(ds):
    one = ds.isel(scene=3)
    assert "geometry" not in one.xindexes
    assert one.geometry.item().equals(box(3, 0, 4, 1))


def test_columns_of_one_catalog_combine_and_keep_the_index(ds):
    total = ds[["cloud"]] + ds[["number"]].rename(number="cloud")
    assert list(total["cloud"].values) == [7.0] * 8
    assert isinstance(total.xindexes["geometry"], FootprintIndex)
    assert (ds["cloud"] + ds["number"]).sizes == {"scene": 8}


def test_different_lists_of_scenes_do_not_combine_row_by_row(ds):
    with pytest.raises(ValueError, match=r"do not combine row by row.*xr.concat"):
        xr.align(ds, ds.isel(scene=[0, 1]), join="inner")


def test_catalogs_in_different_crs_do_not_concatenate(ds, make_catalog):
    other = make_catalog([box(0, 0, 1, 1)], crs=32631)
    with pytest.raises(ValueError, match=r"EPSG:4326.*EPSG:32631.*do not mix.*same crs"):
        xr.concat([ds, other], "scene")
    with pytest.raises(ValueError, match="do not mix"):
        xr.align(ds, other, join="outer")


def test_catalogs_of_one_crs_spelled_differently_concatenate(ds, make_item):
    other = xgc.from_items([make_item("t", PLACE, cloud=1.0, number=1)], crs="OGC:CRS84")
    both = xr.concat([ds, other], "scene")
    assert ids(both.geocat.query(PLACE)) == ["s2", "s3", "t"]


def test_catalogs_with_other_assets_and_properties_concatenate(ds, make_item):
    other = xgc.from_items(
        [make_item("t", PLACE, assets={"nir": {"href": "https://example.com/t.tif"}}, other="x")]
    )
    both = xr.concat([ds, other], "scene", join="outer")
    assert ids(both.geocat.query(PLACE)) == ["s2", "s3", "t"]
    assert [i.to_dict() for i in xgc.to_items(both)] == [
        i.to_dict() for i in [*xgc.to_items(ds), *xgc.to_items(other)]
    ]


def test_set_xindex_brings_the_index_back(ds):
    lost = ds.drop_indexes(COORDS)
    with pytest.raises(ValueError, match=r"lost its FootprintIndex.*set_xindex"):
        lost.geocat.query(PLACE)
    check(lost.set_xindex(COORDS, FootprintIndex, crs=4326), ["s2", "s3"])


def test_set_xindex_without_a_crs_is_refused(ds):
    with pytest.raises(ValueError, match=r"crs=\.\.\."):
        ds.drop_indexes(COORDS).set_xindex(COORDS, FootprintIndex)


def test_set_xindex_on_other_coordinates_is_refused(ds):
    with pytest.raises(ValueError, match="FootprintIndex needs the coordinates"):
        ds.drop_indexes(COORDS).set_xindex(["geometry", "start_time"], FootprintIndex, crs=4326)


def test_one_of_its_coordinates_cannot_be_replaced_behind_its_back(ds):
    with pytest.raises(ValueError, match="corrupt"):
        ds.assign_coords(start_time=ds.start_time + np.timedelta64(1, "D"))


def test_attrs_of_its_coordinates_are_kept(ds):
    ds["geometry"].attrs["note"] = "swath"
    assert ds.isel(scene=[1, 2])["geometry"].attrs == {"note": "swath"}


def test_equals_looks_at_footprints_times_and_crs(ds):
    index = footprint_index(ds)
    assert index.equals(rebuilt(ds))
    g, s, e, crs = index.geometry, index.start, index.end, index.crs
    other = g.copy()
    other[3] = box(9, 9, 10, 10)
    later = s + np.timedelta64(1, "us")
    assert not index.equals(FootprintIndex(Drawn(other, s, e), crs))
    assert not index.equals(FootprintIndex(Drawn(g, later, e), crs))
    assert not index.equals(FootprintIndex(Drawn(g, s, later), crs))
    assert not index.equals(FootprintIndex(Drawn(g, s, e), pyproj.CRS.from_epsg(4258)))
    assert not index.equals(FootprintIndex(Drawn(g[:-1], s[:-1], e[:-1]), crs))
    assert not index.equals(ds.xindexes["scene"])


def test_unknown_footprints_and_times_meet_nothing_and_equal_themselves(make_catalog):
    ds = make_catalog([None, PLACE, PLACE], [TIMES[0], None, TIMES[0]])
    index = footprint_index(ds)
    assert list(index.overlapping(box(-180, -90, 180, 90), None)) == [1, 2]
    assert list(index.overlapping(None, (np.datetime64("0001-01-01", "us"),
                                         np.datetime64("9999-01-01", "us")))) == [0, 2]  # fmt: skip
    assert list(index.overlapping(None, None)) == [0, 1, 2]
    assert index.equals(rebuilt(ds))
    assert ids(ds.isel(scene=[0, 1]).geocat.query(PLACE)) == ["s1"]


def test_times_of_other_units_are_kept_to_the_microsecond():
    drawn = Drawn(np.array([Point(0, 0)], dtype=object), np.array(["2024-01-01"], "M8[D]"),
                  np.array(["2024-01-02T00:00:00.123456789"], "M8[ns]"))  # fmt: skip
    index = FootprintIndex(drawn, pyproj.CRS.from_epsg(4326))
    assert index.start.dtype == index.end.dtype == np.dtype("M8[us]")
    assert index.end[0] == np.datetime64("2024-01-02T00:00:00.123456", "us")


def test_its_line_in_the_repr_says_the_crs(ds):
    assert "FootprintIndex (crs=EPSG:4326)" in repr(ds)


def test_a_hundred_thousand_footprints_are_asked_through_a_tree():
    corners = np.random.default_rng(0).uniform((-180, -80), (179, 79), (100_000, 2))
    geometry = shapely.box(corners[:, 0], corners[:, 1], corners[:, 0] + 1, corners[:, 1] + 1)
    times = np.full(len(geometry), np.datetime64("2024-01-01", "us"))
    index = FootprintIndex(Drawn(geometry, times, times), pyproj.CRS.from_epsg(4326))
    place = box(10, 10, 12, 12)
    assert list(index.overlapping(place, None)) == list(
        np.flatnonzero(shapely.intersects(geometry, place))
    )
    assert isinstance(index.footprints.tree, shapely.STRtree)
    assert index.footprints.tree is index.footprints.tree


# --- under other names ----------------------------------------------------------------------------


@pytest.mark.parametrize("change", [
    lambda ds: ds.rename(scene="id"), lambda ds: ds.rename_dims(scene="time"),
    lambda ds: ds.swap_dims(scene="start_time"), lambda ds: ds.rename(start_time="time"),
    lambda ds: ds.rename(scene="id", geometry="footprint").rename(id="name"),
    lambda ds: ds.rename(scene="id").swap_dims(id="end_time"), lambda ds: ds.rename(number="n"),
])  # fmt: skip
@pytest.mark.parametrize("pick", [[2, 0], slice(1, None), slice(None, None, -1)])
@pytest.mark.parametrize("stored", [False, True])
def test_whatever_scenes_are_called_all_that_is_known_of_them_is_selected(
    make_catalog, tmp_path, change, pick, stored
):
    days = [f"2024-06-{day:02d}T00:00:00Z" for day in (3, 1, 2)]
    ds = make_catalog([box(i, 0, i + 1, 1) for i in range(3)], days, number=[5, 6, 7])
    want = ds.isel(scene=pick)
    if stored:
        ds = xgc.open_catalog(ds.geocat.to_geoparquet(tmp_path / "c.parquet"))
    changed = change(ds)
    (dim,) = changed["href"].dims[:1]
    got = changed.isel({dim: pick})
    assert dict(got.sizes) == {**{k: v for k, v in want.sizes.items() if k != "scene"},
                               dim: want.sizes["scene"]}  # fmt: skip
    names = {k: k for k in ("geometry", "start_time", "end_time", "scene", "number")}
    names |= {"geometry": "footprint"} if "footprint" in changed else {}
    names |= {"number": "n"} if "n" in changed else {}
    names |= {"start_time": "time"} if "start_time" not in changed.variables else {}
    for name, now in names.items():
        if now in got.variables:
            assert got[now].dims == (dim,)
            assert list(got[now].values) == list(want[name].values)
    assert list(got.compute()[names["geometry"]].values) == list(want["geometry"].values)


@pytest.mark.parametrize("label", [{"start_time": "2024-06"}, {"geometry": box(0, 0, 1, 1)}])
def test_what_is_no_label_is_refused_with_what_to_call(ds, label):
    with pytest.raises(NotImplementedError, match=r"\.geocat\.query\(aoi, time=\.\.\.\)"):
        ds.sel(**label)
