"""Columns: values that are read of some rows of a file are those of the catalog in memory."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely.geometry import box

import xgeocat as xgc
from xgeocat.catalog import columns, ordering, parquet, schema
from xgeocat.catalog.opening import stored_catalog
from xgeocat.catalog.stac import to_dicts

URL = "https://example.com/x.tif"
KEYS = ["red", "", "a.b", "a", "href", 'q"', "\u2028"]


def made_of(make_item):
    """Ten scenes of which each has something that others have not."""
    for i in range(10):
        assets = {
            key: {
                "href": f"{URL}?{i}{key}",
                "title": f"t{i % 3}",
                "b": {"href": "no file"},
                "b.href": i,
            }
            for key in KEYS[i % 4 :: 2]
        }
        if i == 3:
            assets = {"a": {"title": "no file"}}
        yield make_item(
            f"s{i}", None if i == 5 else box(i, 0, i + 1, 1), None if i == 6 else f"2024-01-{i + 1:02d}T00:00:00Z",
            assets=assets, collection=[None, "", "x\n"][i % 3], number=i, long=2**60 + i, flag=i % 2 == 0,
            share=i / 3, **{"a.b": f"\u2028{i}", "": "empty", "type": i, "created": f"2024-0{i % 9 + 1}-01"},
            **({"gap": i, "some": i > 4, "mixed": [i, f"{i}", None, True, 2**70][i % 5]} if i % 3 else {}),
            nested={"a": [i]},
        )  # fmt: skip


@pytest.fixture(scope="module")
def both(make_item, tmp_path_factory):
    """A catalog in memory, and what is stored of it: in three files of some row groups each."""
    folder = tmp_path_factory.mktemp("c")
    ds = xgc.from_items(made_of(make_item))
    with pytest.MonkeyPatch.context() as patched:
        for module in (parquet, ordering):
            patched.setattr(module, "GROUP", 2)
        for name, part in {"0": slice(0, 4), "1": slice(4, 7), "2": slice(7, None)}.items():
            path = folder / f"{name}.parquet"
            xgc.to_geoparquet(ds.isel(scene=part), path)
    stored = stored_catalog(folder)
    order = stored.values(schema.SCENE, range(10))
    return ds.sel(scene=order).isel(
        asset=[list(ds.asset.values).index(key) for key in stored.assets]
    ), stored


def names_of(ds):
    return [*ds.data_vars, "geometry", "start_time", "end_time", "collection", "scene"]


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_values_of_any_rows_and_assets_are_those_in_memory(both, data):
    ds, stored = both
    name = data.draw(st.sampled_from(names_of(ds)))
    rows = data.draw(st.lists(st.integers(0, 9), max_size=12))
    wanted = ds[name].isel(scene=rows)
    assets = None
    if "asset" in wanted.dims:
        assets = data.draw(st.none() | st.lists(st.integers(0, len(KEYS) - 1), max_size=4))
        wanted = wanted if assets is None else wanted.isel(asset=assets)
    found = stored.values(str(name), np.array(rows, np.int64), assets)
    assert found.dtype == ds[name].dtype == stored.dtype(str(name))
    assert wanted.dims == stored.dims(str(name))
    assert found.shape == wanted.shape
    xr.testing.assert_identical(
        xr.Variable(wanted.dims, found), xr.Variable(wanted.dims, wanted.values)
    )


def test_shapes_and_dtypes_are_known_without_reading(both, monkeypatch):
    ds, stored = both
    monkeypatch.setattr(type(stored.scenes), "read", None)
    for name in names_of(ds):
        assert stored.shape(name) == ds[name].shape, name
        assert stored.dtype(name) == ds[name].dtype, name
    assert stored.assets == list(ds.asset.values)
    assert stored.crs == ds.geocat.crs


def test_items_of_rows_are_those_in_memory(both):
    ds, stored = both
    for rows in ([], [3], [9, 0, 5, 5], list(range(10))):
        assert stored.scene_items(np.array(rows, np.int64)) == to_dicts(ds.isel(scene=rows))
    drawn = stored.drawn(range(10))
    assert [a == b for a, b in zip(drawn.geometry, ds.geometry.values, strict=True)] == [True] * 10
    np.testing.assert_array_equal(drawn.start, ds.start_time.values)
    np.testing.assert_array_equal(drawn.end, ds.end_time.values)


def test_keys_are_collections_and_ids(both, make_item):
    _, stored = both
    assert stored.keys() == {(item.get("collection"), item["id"]) for item in made_of(make_item)}


def test_a_stored_catalog_is_itself_when_copied_and_the_same_when_sent(both):
    ds, stored = both
    assert copy.deepcopy(stored) is stored
    sent = pickle.loads(pickle.dumps(stored))
    for name in ("scene", "asset_json", "nodata", "mixed"):
        xr.testing.assert_identical(
            xr.Variable(ds[name].dims, sent.values(name, range(10))), ds[name].variable
            if name != "scene" else xr.Variable("scene", ds.scene.values),
        )  # fmt: skip


def test_items_are_made_once_for_columns_of_the_same_rows(both, monkeypatch):
    stored = pickle.loads(pickle.dumps(both[1]))
    calls = []
    monkeypatch.setattr(
        columns, "from_items", lambda items: calls.append(1) or xgc.from_items(items)
    )
    for name in ("nodata", "scale", "proj:shape", "dtype"):
        stored.values(name, range(3))
        stored.values(name, np.arange(3, 7))
    assert len(calls) == 2
    stored.values("nodata", range(4))
    assert len(calls) == 3


@pytest.mark.parametrize("assets", [{}, None], ids=["without assets", "with"])
@pytest.mark.parametrize("count", [0, 2])
def test_catalogs_without_scenes_or_assets_have_columns(count, assets, make_item, tmp_path):
    ds = xgc.from_items(make_item(f"s{i}", assets=assets, q=i) for i in range(count))
    stored = stored_catalog(xgc.to_geoparquet(ds, tmp_path / "c.parquet"))
    for name in names_of(ds):
        found = stored.values(str(name), range(count))
        assert (found.shape, found.dtype) == (ds[name].shape, ds[name].dtype), name
    assert stored.scene_items(np.arange(count)) == to_dicts(ds)
    assert stored.keys() == {("made", f"s{i}") for i in range(count)}


# --- files of others ------------------------------------------------------------------------------


def test_values_of_files_of_others_are_those_of_their_items(shared_data, planetary_computer):
    stored = stored_catalog(shared_data / "stac" / "1000-sentinel-2-items.parquet")
    rows = np.array([7, 990, 7, 3])
    ds = xgc.from_items(stored.scene_items(rows))
    assert list(ds.scene.values) == list(planetary_computer.scene.values[rows])
    at = [stored.assets.index(key) for key in ds.asset.values]
    for name in schema.ASSET_VARIABLES:
        found = xr.Variable(ds[name].dims, stored.values(name, rows, at))
        assert found.equals(ds[name].variable), name
    for name in stored.kinds:
        found = xr.Variable("scene", stored.values(name, rows))
        wanted = ds[name].values if name in ds else np.full(4, None)
        assert found.equals(xr.Variable("scene", wanted.astype(found.dtype))), name


def test_of_hrefs_those_that_are_relative_start_at_the_file(make_item, tmp_path):
    hrefs = ["x.tif", "./a/../x.tif", "/data/x.tif", "s3://b/x.tif", "https://e.com/x.tif", None]
    items = [make_item(f"s{i}", assets={"red": {} if href is None else {"href": href}})
             for i, href in enumerate(hrefs)]  # fmt: skip
    stored = stored_catalog(xgc.to_geoparquet(xgc.from_items(items), tmp_path / "c.parquet"))
    here = f"{tmp_path}/x.tif"
    assert list(stored.values("href", range(6))[:, 0]) == [here, here, *hrefs[2:]]
