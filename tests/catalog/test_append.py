"""Append: scenes come into a catalog on disk once, or the catalog stays as it is."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest
from shapely.geometry import box

import xgeocat as xgc
from xgeocat.catalog import append, ordering, parquet
from xgeocat.catalog.stac import to_dicts

PLACES = ["file", "flat folder", "Hive folder"]


@pytest.fixture(params=PLACES)
def written(request, tmp_path):
    """Writer of a catalog into a file or a folder; gives its path."""

    def write(ds):
        if request.param == "file":
            return xgc.to_geoparquet(ds, tmp_path / "c.parquet")
        if request.param == "Hive folder":
            return xgc.to_geoparquet(ds, tmp_path / "c", by="month")
        (tmp_path / "c").mkdir()
        xgc.to_geoparquet(ds, tmp_path / "c" / "first.parquet")
        return tmp_path / "c"

    return write


def by_key(ds):
    """Items by collection and id, of which each is there once."""
    items = {(item.get("collection"), item["id"]): item for item in to_dicts(ds)}
    assert len(items) == ds.sizes["scene"]
    return items


def test_scenes_are_appended_with_all_they_say(written, make_item):
    old = [make_item(f"a{i}", box(i, 0, i + 1, 1), f"2024-0{i + 1}-01T00:00:00Z", q=i)
           for i in range(3)]  # fmt: skip
    new = [
        make_item("b0", box(1, 0, 2, 1), "2024-02-10T00:00:00Z", r="x", q=7,
                  assets={"nir": {"href": "https://example.com/n.tif", "title": "N"}}),
        make_item("b1", box(5, 0, 6, 1), None, q=8),
    ]  # fmt: skip
    path = written(xgc.from_items(old))
    assert xgc.append(xgc.from_items(new), path) == 2
    back = xgc.open_catalog(path)
    assert by_key(back) == by_key(xgc.from_items([*old, *new]))
    assert set(back.asset.values) == {"red", "nir"}
    assert back["q"].dtype == np.int64
    assert set(back.geocat.query((1.2, 0.2, 1.8, 0.8)).scene.values) == {"a1", "b0"}


def test_appending_again_adds_nothing(written, make_item):
    old = xgc.from_items([make_item("a")])
    new = xgc.from_items([make_item("a"), make_item("b"), make_item("b"), make_item("c")])
    path = written(old)
    assert [xgc.append(new, path), xgc.append(new, path)] == [2, 0]
    assert sorted(xgc.open_catalog(path).scene.values) == ["a", "b", "c"]


@pytest.mark.parametrize("collections", [("A", "B"), (None, "B")], ids=str)
def test_scenes_of_one_id_in_two_collections_are_two(collections, written, make_item):
    path = written(xgc.from_items([make_item("a")]))
    for collection in collections:
        new = xgc.from_items([make_item("x", collection=collection)])
        assert [xgc.append(new, path), xgc.append(new, path)] == [1, 0]
    assert {c for c, i in by_key(xgc.open_catalog(path)) if i == "x"} == set(collections)


def test_what_is_appended_to_the_output_of_a_run_is_found_there(make_item, tmp_path):
    xgc.to_geoparquet(xgc.from_items([make_item("a")]), tmp_path / "catalog.parquet")
    assert xgc.append(xgc.from_items([make_item("b")]), tmp_path) == 1
    assert sorted(xgc.open_catalog(tmp_path).scene.values) == ["a", "b"]


def test_an_empty_folder_is_appended_to(make_item, tmp_path):
    for name in "ab":
        xgc.append(xgc.from_items([make_item(name)]), tmp_path)
    assert sorted(xgc.open_catalog(tmp_path).scene.values) == ["a", "b"]


VALUES = {
    "integers": [1, 2], "long integers": [2**60 + 1, 5], "longer": [2**70, 1], "floats": [0.5, 1.5],
    "booleans": [True, False], "boolean gap": [True, None], "texts": ["x", ""],
    "text gap": ["x", None], "integer gap": [3, None], "long gap": [2**60 + 1, None],
    "mixed": [1, "x"], "nothing": [None, None],
}  # fmt: skip


OFTEN = ("integers", "long integers", "booleans", "boolean gap", "texts")
PAIRS = [
    pytest.param(one, other, marks=() if {one, other} <= {*OFTEN, "nothing"} else pytest.mark.slow)
    for one in VALUES
    for other in VALUES
]


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_values_of_two_kinds_come_back_as_they_were_or_are_refused(one, other, make_item, tmp_path):
    old, new = (
        [make_item(f"{kind}{i}", **({} if v is None else {"q": v})) for i, v in enumerate(values)]
        for kind, values in zip("ab", (VALUES[one], VALUES[other]), strict=True)
    )
    path = xgc.to_geoparquet(xgc.from_items(old), tmp_path / "c.parquet")
    before = path.read_bytes()
    try:
        xgc.append(xgc.from_items(new), path)
    except ValueError as error:
        assert "'q' is of kinds" in str(error)  # noqa: PT017 - the documented answer
        assert path.read_bytes() == before
        return
    found = xgc.open_catalog(path)
    expected = xgc.from_items([*old, *new])
    assert [i["properties"] for i in to_dicts(found)] == [
        i["properties"] for i in to_dicts(expected)
    ]
    if "q" in expected:
        assert found["q"].dtype == expected["q"].dtype


@pytest.mark.parametrize("kinds", [("texts", "booleans"), ("long gap", "texts"),
                                   ("mixed", "boolean gap"), ("floats", "texts", "longer")])  # fmt: skip
def test_kinds_that_change_from_one_row_group_to_the_next_come_back(
    kinds, make_item, tmp_path, monkeypatch
):
    monkeypatch.setattr(parquet, "GROUP", 2)
    values = [v for kind in kinds for v in VALUES[kind]]
    made = xgc.from_items(
        make_item(f"s{i}", **({} if v is None else {"q": v})) for i, v in enumerate(values)
    )
    back = xgc.open_catalog(xgc.to_geoparquet(made, tmp_path / "c.parquet"))
    assert to_dicts(back) == to_dicts(made)


def test_scenes_of_unknown_time_share_a_row_group(make_item, tmp_path):
    made = xgc.from_items(make_item(f"s{i}", time=None) for i in range(5))
    path = xgc.to_geoparquet(made, tmp_path / "c", by="month")
    (file,) = path.rglob("*.parquet")
    assert pq.read_metadata(file).num_row_groups == 1


def test_a_rewritten_file_is_brought_into_order(make_item, tmp_path, monkeypatch):
    for module, name, size in ((append, "GROUP", 3), (append, "BATCH", 6), (parquet, "GROUP", 3), (parquet, "SLAB", 6), (ordering, "GROUP", 3),
                               (ordering, "SLAB", 6)):  # fmt: skip
        monkeypatch.setattr(module, name, size)
    items = [make_item(f"s{i}", box(i % 5, 0, i % 5 + 1, 1), f"2024-06-{i + 1:02d}T00:00:00Z", q=i)
             for i in range(20)]  # fmt: skip
    path = xgc.to_geoparquet(xgc.from_items(items[:11]), tmp_path / "c.parquet")
    assert xgc.append(xgc.from_items(items[7:]), path) == 9
    back = xgc.open_catalog(path)
    assert by_key(back) == by_key(xgc.from_items(items))
    assert pq.read_metadata(path).num_row_groups >= 7
