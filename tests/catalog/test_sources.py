"""Where items come from: objects, generators, and every kind of STAC file."""

from __future__ import annotations

import json
from pathlib import Path

import pystac
import pytest
import xarray as xr

import xgeocat as xgc
from xgeocat.catalog.sources import absolute, read_items
from xgeocat.catalog.stac import to_dicts


@pytest.fixture
def items(make_item):
    return [make_item(f"s{i}", number=i) for i in range(3)]


@pytest.fixture
def write(tmp_path):
    def make(name, content):
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return make


def collection_of(items):
    return {"type": "FeatureCollection", "features": items}


@pytest.mark.parametrize(
    "source",
    [
        lambda items: items,
        tuple,
        iter,
        lambda items: (i for i in items),
        collection_of,
        lambda items: [collection_of(items[:2]), items[2]],
        lambda items: [pystac.Item.from_dict(i) for i in items],
        lambda items: (pystac.Item.from_dict(i) for i in items),
        lambda items: [pystac.Item.from_dict(items[0]), *items[1:]],
        lambda items: pystac.ItemCollection([pystac.Item.from_dict(i) for i in items]),
    ],
    ids=["list", "tuple", "iterator", "generator", "mapping", "nested", "pystac",
         "pystac generator", "mixed", "ItemCollection"],
)  # fmt: skip
def test_objects_in_memory_make_the_same_catalog(source, items):
    ds = xgc.from_items(source(items))
    assert list(ds.scene.values) == ["s0", "s1", "s2"]
    # pystac adds members of its own to what it is given; through it, all are the same.
    assert [i.to_dict() for i in xgc.to_items(ds)] == [
        pystac.Item.from_dict(i).to_dict() for i in items
    ]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("collection.json", lambda items: json.dumps(collection_of(items))),
        ("items.geojson", lambda items: json.dumps(collection_of(items), indent=2)),
        ("items.ndjson", lambda items: "\n".join(map(json.dumps, items))),
        ("blank.jsonl", lambda items: "\n\n".join(map(json.dumps, items)) + "\n\n"),
        ("windows.ndjson", lambda items: "\r\n".join(map(json.dumps, items))),
        ("pages.ndjson", lambda items: "\n".join(
            [json.dumps(collection_of(items[:2])), json.dumps(items[2])])),
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", [Path, str])
def test_files_make_the_same_catalog(name, content, kind, items, write):
    path = kind(write(name, content(items)))
    xr.testing.assert_identical(xgc.from_items(path), xgc.from_items(items))


def test_a_file_of_one_item_is_a_catalog_of_one(items, write):
    for name in ("one.json", "one.ndjson"):
        assert to_dicts(xgc.from_items(write(name, items[0]))) == items[:1]


def test_one_item_by_itself_is_a_catalog_of_one(items):
    assert to_dicts(xgc.from_items(items[0])) == items[:1]
    assert xgc.from_items(pystac.Item.from_dict(items[0])).sizes["scene"] == 1


@pytest.mark.parametrize(
    "source", [[], (), iter([]), {"type": "FeatureCollection", "features": []}]
)
def test_no_items_make_an_empty_catalog(source):
    ds = xgc.from_items(source)
    assert ds.sizes["scene"] == 0
    assert ds.geocat.query((0, 0, 1, 1)).sizes["scene"] == 0
    assert xgc.to_items(ds) == []


def test_text_beyond_ascii_is_read(items, write):
    items[0]["properties"]["title"] = "Müritz – Süd"
    path = write("umlaut.json", "")
    path.write_text(json.dumps(items[0], ensure_ascii=False), encoding="utf-8")
    assert xgc.from_items(path).title.item() == "Müritz – Süd"


def test_relative_hrefs_are_resolved_against_the_file(items, write, tmp_path):
    hrefs = {
        "a": ("./red.tif", f"{tmp_path}/red.tif"),
        "b": ("../nir.tif", f"{tmp_path.parent}/nir.tif"),
        "c": ("deep/scl.tif", f"{tmp_path}/deep/scl.tif"),
        "d": ("/data/x.tif", "/data/x.tif"),
        "e": ("s3://bucket/x.tif", "s3://bucket/x.tif"),
        "f": ("https://example.com/x.tif?sig=1", "https://example.com/x.tif?sig=1"),
    }
    items[0]["assets"] = {key: {"href": href} for key, (href, _) in hrefs.items()}
    expected = [resolved for _, resolved in hrefs.values()]
    for path in (write("one.json", items[0]), write("more.ndjson", json.dumps(items[0]))):
        assert xgc.from_items(path).href.values.tolist() == [expected]
    assert xgc.from_items([items[0]]).href.values.tolist() == [[h for h, _ in hrefs.values()]]


def test_absolute_changes_only_what_is_relative_and_not_its_argument(items):
    item = {**items[0], "assets": {"a": {"href": "x.tif", "title": "A"}, "b": {"title": "B"}}}
    before = json.dumps(item)
    found = absolute(item, "/data/catalog/item.json")
    assert found["assets"] == {"a": {"href": "/data/catalog/x.tif", "title": "A"},
                               "b": {"title": "B"}}  # fmt: skip
    assert json.dumps(item) == before
    assert absolute(item, None) == item


def test_a_static_catalog_is_walked_to_its_items(items, tmp_path):
    root = pystac.Catalog("root", "made")
    child = pystac.Catalog("child", "made")
    root.add_child(child)
    for i, item in enumerate(items):
        item["assets"]["red"]["href"] = "./red.tif"
        (child if i else root).add_item(pystac.Item.from_dict(item))
    root.normalize_and_save(str(tmp_path / "cat"), pystac.CatalogType.SELF_CONTAINED)
    ds = xgc.from_items(tmp_path / "cat" / "catalog.json")
    assert sorted(ds.scene.values) == ["s0", "s1", "s2"]
    by_id = dict(zip(ds.scene.values, ds.href.values[:, 0], strict=True))
    assert by_id == {
        "s0": f"{tmp_path}/cat/s0/red.tif",
        "s1": f"{tmp_path}/cat/child/s1/red.tif",
        "s2": f"{tmp_path}/cat/child/s2/red.tif",
    }


def test_the_real_static_catalog_has_files_where_it_says(shared_data):
    ds = xgc.from_items(shared_data / "s2_33TW" / "catalog.json")
    assert ds.sizes["scene"] == 6
    local = [h for h in ds.href.values.ravel() if isinstance(h, str) and h.endswith(".tif")
             and "://" not in h]  # fmt: skip
    assert len(local) == 6 * 5
    assert all(Path(h).is_file() for h in local)
    assert set(ds["proj:code"].sel(asset="red").values) == {"EPSG:32633"}


def test_a_pystac_item_from_a_file_brings_its_place_with_it(items, write, tmp_path):
    items[0]["assets"]["red"]["href"] = "red.tif"
    item = pystac.Item.from_file(str(write("item.json", items[0])))
    assert xgc.from_items([item]).href.item() == f"{tmp_path}/red.tif"


def test_a_source_is_not_changed_by_reading_it(items):
    before = json.dumps(items)
    xgc.from_items(items)
    assert json.dumps(items) == before


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ({"hello": 1}, "no STAC item"),
        ([1, 2], "no STAC item"),
        ({"type": "Feature", "id": "x"}, "no STAC item"),
        ("not json at all", "neither JSON"),
        ('{"type": "Feature"', "neither JSON"),
        ("5", "no STAC item"),
        ("", "no STAC|neither JSON|empty"),
        ("\n \n", "no STAC|neither JSON|empty"),
    ],
)
def test_a_file_of_something_else_is_refused_by_name(content, text, write):
    path = write("odd.json", content)
    with pytest.raises(ValueError, match=text) as caught:
        xgc.from_items(path)
    assert "odd.json" in str(caught.value)


def test_a_list_in_a_file_is_refused_or_read(items, write):
    path = write("list.json", items)
    try:
        assert xgc.from_items(path).sizes["scene"] == 3
    except ValueError as error:
        assert "list.json" in str(error)  # noqa: PT017 - refusing is one of two right answers


def test_the_bad_line_of_a_long_file_is_named(items, write):
    path = write("cut.ndjson", "\n".join([*map(json.dumps, items), '{"type": "Fea']))
    with pytest.raises(ValueError, match="line 4"):
        xgc.from_items(path)


def test_a_missing_file_is_refused_by_name(tmp_path):
    with pytest.raises((ValueError, FileNotFoundError), match=r"nowhere\.json"):
        xgc.from_items(tmp_path / "nowhere.json")


def test_a_binary_file_is_refused_by_name(tmp_path):
    (tmp_path / "x.parquet").write_bytes(b"PAR1\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"x\.parquet cannot be read as STAC JSON"):
        xgc.from_items(tmp_path / "x.parquet")


def test_a_catalog_without_its_file_is_refused_with_what_to_give():
    with pytest.raises(ValueError, match="give its path"):
        xgc.from_items({"type": "Catalog", "id": "x", "links": []})


@pytest.mark.parametrize("source", [[1], ["id"], [None], [object()]])
def test_an_element_that_is_no_item_is_refused_by_its_type(source):
    with pytest.raises(TypeError, match=rf"{type(source[0]).__name__} is no STAC item"):
        list(read_items(source))


@pytest.mark.parametrize("source", [None, 5])
def test_what_is_no_source_is_refused(source):
    with pytest.raises(TypeError, match="STAC|iterable"):
        xgc.from_items(source)
