"""Metadata: files that were written apart are one catalog, in which no value has changed."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pyarrow as pa
import pyproj
import pytest
import xarray as xr
from shapely.geometry import box

import xgeocat as xgc
from xgeocat.catalog import layout, metadata
from xgeocat.catalog.stac import to_dicts

KINDS = ["|b1", "|i1", "|u1", "<i4", "<u4", "<i8", "<u8", "<f2", "<f4", "<f8", "long", "ulong", "boolean",
         "object", "json"]  # fmt: skip


def said(crs=4326, assets=("red",), **variables):
    """What a table says of itself."""
    return {"version": metadata.VERSION, "crs": pyproj.CRS(crs).to_json_dict(),
            "assets": list(assets), "variables": variables, "attrs": {}}  # fmt: skip


def common(*kinds):
    """Kind of a property in one table of several; None: one has no such property."""
    abouts = [said() if kind is None else said(q=kind) for kind in kinds]
    return metadata.about_all(abouts)["variables"]["q"]


# --- kinds ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("one", KINDS)
def test_tables_of_one_kind_have_that_kind(one):
    assert common(one, one) == common(one) == one


@pytest.mark.parametrize(("one", "other"), list(itertools.combinations(KINDS, 2)))
def test_of_two_kinds_there_is_one_that_holds_both_or_none(one, other):
    try:
        found = common(one, other)
    except ValueError as error:
        assert "do not go into one column" in str(error)  # noqa: PT017
        with pytest.raises(ValueError, match="do not go into"):
            common(other, one)
        return
    assert found == common(other, one)
    kinds = [np.dtype(k) for k in (one, other) if k not in metadata.NO_DTYPES]
    if len(kinds) == 2:
        assert found == np.result_type(*kinds).str
    # Of unsigned integers that are not long all are integers of any other kind too.
    if {one, other} != {"<u8", "long"} and metadata.dtype_of(found) != np.dtype(object):
        assert all(np.can_cast(k, metadata.dtype_of(found)) for k in kinds)


def test_kinds_are_the_same_in_whichever_order_tables_come():
    for kinds in itertools.combinations([*KINDS, None], 3):
        found = set()
        for order in itertools.permutations(kinds):
            try:
                found.add(common(*order))
            except ValueError:
                found.add("refused")
        assert len(found) == 1, kinds


VALUES = {
    "|b1": np.array([True]), "boolean": np.array([True, None], object), "|i1": np.array([-128], "i1"),
    "<i4": np.array([-(2**31)], "i4"), "<i8": np.array([-(2**53)]), "long": np.array([2**60 + 1]),
    "<u8": np.array([2**53], "u8"), "ulong": np.array([2**64 - 1], "u8"), "<f4": np.array([0.1], "f4"),
    "<f8": np.array([0.1, np.nan]), "object": np.array(["x", None], object),
    "json": np.array([2**70, None, "x", 1.5], object),
}  # fmt: skip


def go_together(one, other):
    try:
        return bool(common(one, other))
    except ValueError:
        return False


def test_values_of_files_that_were_written_apart_have_not_changed(make_item, tmp_path):
    pairs = [pair for pair in itertools.product([*VALUES, None], repeat=2)
             if pair != (None, None) and go_together(*pair)]  # fmt: skip
    assert ("long", None) in pairs
    assert ("<f8", "long") not in pairs
    for file in (0, 1):
        ds = xgc.from_items(make_item(f"s{file}{i}") for i in range(2))
        mine = {str(pair): pair[file] for pair in pairs if pair[file] is not None}
        ds = ds.assign({name: ("scene", np.resize(VALUES[k], 2)) for name, k in mine.items()})
        assert layout.about_of(ds)["variables"] == mine
        ds.geocat.to_geoparquet(tmp_path / f"{file}.parquet")
    back = xgc.open_catalog(tmp_path)
    for pair in pairs:
        was = [
            v for k in pair for v in ([None] * 2 if k is None else np.resize(VALUES[k], 2).tolist())
        ]
        for one, found in zip(was, back[str(pair)].values.tolist(), strict=True):
            missing = one is None or one != one
            assert (found is None or found != found) if missing else found == one, pair
            assert missing or isinstance(found, bool) == isinstance(one, bool), pair


# --- properties that are nested in some files -----------------------------------------------------


@pytest.mark.parametrize("place", ["file", "folder"])
def test_values_stand_beside_nested_ones_of_other_files(place, make_item, tmp_path):
    deep = [[1], ["x"], {"a": 1}, [{"a": None}], {}]
    pairs = list(itertools.product([1, 2**60, 2.5, "x", True, None], deep))
    names = list(map(str, pairs))
    parts = [
        [make_item("a", **{name: value for name, (value, _) in zip(names, pairs, strict=True)})],
        [make_item("b", **{name: nested for name, (_, nested) in zip(names, pairs, strict=True)})],
        # Of several kinds, nested values are columns of text.
        [make_item("c", m=[1, {"a": "x"}], **{name: nested for name, (_, nested) in zip(names, pairs, strict=True)})],
    ]  # fmt: skip
    for order in ("abc", "cba"):
        path = tmp_path / order
        if place == "folder":
            path.mkdir()
        for part in sorted(parts, key=lambda items: order.index(items[0]["id"])):
            xgc.append(xgc.from_items(part), path)
        back = xgc.open_catalog(path)
        wanted = {items[0]["id"]: to_dicts(xgc.from_items(items))[0] for items in parts}
        for ds in (back, back.load()):
            assert {item["id"]: item for item in to_dicts(ds)} == wanted
        for name, (value, _) in zip(names, pairs, strict=True):
            found = (
                [back[name].sel(scene=scene).item() for scene in "abc"] if name in back else [None]
            )
            assert found[0] == value, name
            assert all(v is None or v != v for v in found[1:]), name
        again = xgc.to_geoparquet(back, tmp_path / f"{order}.parquet")
        xr.testing.assert_identical(xgc.open_catalog(again).load(), back)


def test_namesakes_are_columns_that_others_have_as_properties():
    table = pa.schema([(name, pa.string()) for name in ("id", "type", "a", "b", "c")])
    whole = said(a="<i8", b="object", type="json", d="<f8")
    assert metadata.namesakes(table, said(b="object"), whole) == {"a"}
    assert metadata.namesakes(table, whole, whole) == frozenset()


# --- what tables say ------------------------------------------------------------------------------


def test_assets_and_properties_are_those_of_all_in_the_order_in_which_they_come():
    found = metadata.about_all([said(assets=["b", "a"], q="<i8"), said(assets=["a", "c"], p="<f4")])
    assert found["assets"] == ["b", "a", "c"]
    assert found["variables"] == {"q": "<f8", "p": "<f8"}
    assert list(found["variables"]) == ["q", "p"]


def test_footprints_in_two_crs_are_refused_by_name():
    with pytest.raises(ValueError, match=r"EPSG:4326 and EPSG:32631 .*crs="):
        metadata.about_all([said(4326), said(4326), said(32631)])
    found = metadata.about_all([said("OGC:CRS84"), said("EPSG:4326")])
    assert pyproj.CRS.from_json_dict(found["crs"]).name.startswith("WGS 84")


def test_kinds_that_do_not_go_together_are_refused_with_what_to_do():
    with pytest.raises(ValueError, match=r"'q' is of kinds \['<i8', 'object'\].*drop_vars"):
        metadata.about_all([said(q="<i8"), said(q="object")])


@pytest.mark.parametrize("crs", [4326, 32631])
def test_metadata_of_a_file_names_the_columns_of_footprints(crs, make_catalog):
    ds = make_catalog([box(2, 0, 3, 1)], crs=crs)
    table = layout.table_of(ds)
    geo = json.loads(table.schema.metadata[b"geo"])
    assert set(geo["columns"]) == {"geometry", *([metadata.FOOTPRINT] if crs != 4326 else [])}
    for name, column in geo["columns"].items():
        assert pyproj.CRS.from_json_dict(column["crs"]) == (4326 if name == "geometry" else crs)
        for path in column["covering"]["bbox"].values():
            assert table.schema.field(path[0]).type.field(path[1]).type == pa.float64()
    assert metadata.about_table(table.schema) == layout.about_of(ds)
    both = metadata.common_metadata([table.schema, table.schema])
    assert both == table.schema.metadata


def test_a_file_says_what_it_is_or_that_it_is_not_ours():
    ours = metadata.of_file(said(q="<i8"))
    assert metadata.about_file(ours, "c.parquet") == said(q="<i8")
    assert (
        metadata.about_file(None, "c.parquet") is metadata.about_file({b"geo": b"{}"}, "") is None
    )
    later = {metadata.METADATA_KEY: json.dumps({"version": metadata.VERSION + 1}).encode()}
    with pytest.raises(ValueError, match=r"c\.parquet was written by a later xgeocat \(layout 2"):
        metadata.about_file(later, "c.parquet")


def test_a_table_is_complete_with_the_columns_of_its_properties(make_catalog):
    ds = make_catalog([box(0, 0, 1, 1)], a=[1], created=["2024"], type=["x"])
    found = layout.table_of(ds).schema
    about = metadata.about_table(found)
    assert metadata.is_complete(found, about)
    for name in ("a", "id", "bbox", "assets", "datetime", metadata.ITEM):
        assert not metadata.is_complete(pa.schema([f for f in found if f.name != name]), about)
    # These come back from their texts.
    kept = [f for f in found if f.name not in ("created", "type")]
    assert metadata.is_complete(pa.schema(kept), about)


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [("long", "i8"), ("ulong", "u8"), ("long?", object), ("ulong?", object), ("|b1?", object),
     ("boolean", object), ("object", object), ("json", object), ("item", object), (">f4", ">f4")],
)  # fmt: skip
def test_kinds_have_a_dtype(kind, dtype):
    assert metadata.dtype_of(kind) == np.dtype(dtype)
