"""Layout: a table of scenes, in any order, from which the catalog comes back as it was."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import numpy as np
import pytest
import shapely
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely.geometry import (
    GeometryCollection,
    LineString,
    MultiPoint,
    MultiPolygon,
    Point,
    Polygon,
    box,
)

import xgeocat as xgc
from xgeocat.catalog import layout, metadata, parquet
from xgeocat.catalog.stac import to_dicts

URL = "https://example.com/x.tif"
#: What JSON can say, and what is like something else.
TEXTS = ["", "a", "x\ny", "\r\n", "\u2028\u2029\x85", "'\"\\", "a\x00b", "ü\U0001f6f0", "null", "true",
         "1", "NaN", "[1]", '{"datetime":null}', '"start_datetime"', "2024-01-01", "2024-01-01T00:00:00Z"]  # fmt: skip
NUMBERS = [0, 1, -1, 0.0, -0.0, 2.5, 1e308, 5e-324, float("nan"), float("inf"), -float("inf"),
           2**53, 2**53 + 1, -(2**53) - 1, 2**63 - 1, -(2**63), 2**63, 2**64, -(2**70)]  # fmt: skip
PLAIN = [*TEXTS, *NUMBERS, True, False, None]
NESTED = [[], [1], ["a"], [None], [None, 1], [[1], ["a"]], [{"a": 1}, {"b": 2}], [{}], {}, {"a": None}, {"": 1},
          {"a.b": {"c": [1]}}, {"a": {"b": "x"}}]  # fmt: skip
VALUES = st.sampled_from([*PLAIN, *NESTED])
NAMES = ["q", "eo:cloud_cover", "", "a.b", "a.b.c", 'q"', "a\nb", "\u2028", "none", "rank", "year", "href",
         "scene", "geometry", "bbox", "type", "id", "links", "assets", "collection", "created", "xmin",
         "item_json", "stac_version", "assets.red.href", *metadata.MEMBERS[-6:]]  # fmt: skip
KEYS = [
    "red",
    "",
    "a.b",
    "a",
    "a:b",
    "a b/c",
    'a"b',
    "none",
    "href",
    "red.href",
    "\u2028",
    "list.element",
]
FOOTPRINTS = [box(2, 0, 3, 1), None, Polygon(), Point(2, 1), GeometryCollection(), MultiPoint([(2, 1)]),
              LineString([(2, 0), (3, 1)]), MultiPolygon([box(2, 0, 3, 1), box(4, 0, 5, 1)]),
              Polygon([(2, 0, 9), (3, 0, 9), (3, 1, 9)])]  # fmt: skip
AROUND = [box(179, 0, 181, 1), MultiPolygon([box(179, 0, 180, 1), box(-180, 0, -179, 1)])]
TIMES = [
    {"datetime": "2024-06-01T10:00:00Z"},
    {"datetime": "2024-06-01T10:00:00+02:00"},
    {"datetime": None},
    {},
    {"datetime": None, "start_datetime": "2024-01-01T00:00:00Z"},
    {"datetime": None, "end_datetime": "2024-01-01T00:00:00Z"},
    {"datetime": None, "start_datetime": "2024-01-01T00:00:00Z", "end_datetime": None},
    {"datetime": "2024-01-02T00:00:00Z", "start_datetime": "2024-01-01T00:00:00Z",
     "end_datetime": "2024-01-03T00:00:00Z"},
    {"datetime": "2024-01-02T00:00:00Z", "end_datetime": "2024-01-03T00:00:00Z"},
    {"datetime": "0001-01-01T00:00:00Z"},
    {"datetime": "9999-12-31T23:59:59.999999Z"},
]  # fmt: skip


def objects(*values):
    out = np.empty(len(values), object)
    out[:] = values
    return out


def written(table, path):
    parquet.fill(path, lambda: iter([table]), None)
    return xgc.open_catalog(path).load()


def same(one, other):
    """Equal, and NaN where NaN is."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True) or one == other


def check(back, ds):
    xr.testing.assert_identical(back, ds)
    assert {k: v.dtype for k, v in back.variables.items()} == {
        k: v.dtype for k, v in ds.variables.items()
    }
    assert back.geocat.crs == ds.geocat.crs
    assert same(to_dicts(back), to_dicts(ds))


assets = st.dictionaries(
    st.sampled_from(KEYS),
    st.dictionaries(st.sampled_from(["title", "roles", "raster:bands", "", "b.c", "properties", "links"]),
                    VALUES, max_size=3).map(lambda said: {"href": URL, **said}),
    max_size=3,
)  # fmt: skip
scenes = st.fixed_dictionaries(
    {
        "geometry": st.sampled_from(FOOTPRINTS),
        "times": st.sampled_from(TIMES),
        "assets": assets,
        "collection": st.sampled_from([None, "a", ""]),
        "properties": st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=3),
        "links": st.lists(
            st.sampled_from([{"rel": "self", "href": URL}, {}, {"rel": 1, "href": None}]),
            max_size=2,
        ),
    }
)


def items_of(make_item, rows):
    for i, row in enumerate(rows):
        item = make_item(f"s{i}", row["geometry"], assets=row["assets"])
        item["properties"] = {**row["properties"], **row["times"]}
        item["links"] = row["links"]
        item["collection"] = row["collection"]
        if row["collection"] is None:
            del item["collection"]
        if row["geometry"] is not None and row["geometry"].is_empty:
            del item["bbox"]
        yield item


# --- tables of catalogs in any order --------------------------------------------------------------


@given(st.lists(scenes, max_size=4), st.sampled_from([4326, 32631]), st.data())
@settings(max_examples=20, deadline=None)
def test_scenes_of_any_kind_in_any_order_come_back_identical(
    tmp_path_factory, make_item, rows, crs, data
):
    ds = xgc.from_items(items_of(make_item, rows), crs=crs)
    order = data.draw(st.lists(st.integers(0, max(len(rows) - 1, 0)), max_size=5 * bool(rows)))
    folder = tmp_path_factory.mktemp("any")
    wanted = ds.isel(scene=order)
    taken = layout.columns_of(ds).take(np.array(order, np.int64)).table()
    check(written(taken, folder / "taken.parquet"), wanted)
    check(written(layout.table_of(wanted), folder / "alone.parquet"), wanted)


def test_some_scenes_are_laid_out_as_they_would_be_alone(real_items):
    ds = xgc.from_items([*real_items("sentinel2-planetarycomputer"), *real_items("hls")][::3])
    rows = np.random.default_rng(0).permutation(ds.sizes["scene"])[:9]
    taken, alone = layout.columns_of(ds).take(rows).table(), layout.table_of(ds.isel(scene=rows))
    assert taken.column_names == alone.column_names
    for name in taken.column_names:
        # Alone, no scene may have a text that another kind of column would need.
        assert taken[name].to_pylist() == alone[name].cast(taken[name].type).to_pylist(), name


@pytest.mark.parametrize("rows", [[], [1], [1, 1, 0]], ids=str)
def test_tables_of_any_part_have_columns_that_a_query_looks_for(rows, make_item, tmp_path):
    ds = xgc.from_items(
        [make_item("a", created="2020-01-01", q=None), make_item("b", assets={"nir": {}})]
    )
    table = layout.columns_of(ds).take(np.array(rows, np.int64)).table()
    assert len(table) == len(rows)
    assert {"id", "geometry", "bbox", "datetime", "start_datetime", "assets"} <= {
        *table.schema.names
    }
    check(written(table, tmp_path / "c.parquet"), ds.isel(scene=rows))


@pytest.mark.parametrize("crs", [4326, 32660])
@pytest.mark.parametrize("footprint", AROUND, ids=["beyond 180", "cut"])
def test_footprints_across_180_degrees_come_back_identical(footprint, crs, make_item, tmp_path):
    ds = xgc.from_items([make_item("a", footprint), make_item("b", None)], crs=crs)
    table = layout.table_of(ds)
    check(written(table, tmp_path / "c.parquet"), ds)
    # Others find them in degrees, in two parts.
    found = shapely.from_wkb(table["geometry"][0].as_py())
    assert found.symmetric_difference(AROUND[1]).area < 1e-6
    assert list(table["bbox"][0].as_py().values()) == list(found.bounds)
    assert table["geometry"][1].as_py() is None


# --- assets ---------------------------------------------------------------------------------------


def test_columns_of_assets_say_what_the_items_say(make_item):
    said = [
        {"red": {"href": URL, "title": "R", "gsd": 10}, "nir": {"href": "https://e.com/n"}},
        {"red": {"href": URL, "title": "R", "gsd": 10}},
        {},
        {"red": {"title": "no file", "gsd": None}, "qa": {"href": URL, "roles": ["data", "qa"]}},
    ]
    ds = xgc.from_items(make_item(f"s{i}", assets=each) for i, each in enumerate(said))
    columns = layout.columns_of(ds)
    for rows in ([0, 1, 2, 3], [3, 0], [1, 2], [2], []):
        found = columns.take(np.array(rows, np.int64)).table()["assets"].to_pylist()
        for row, every in zip(rows, found, strict=True):
            assert {key for key, asset in every.items() if asset is not None} == {*said[row]}
            for key, asset in said[row].items():
                plain = {k: v for k, v in every[key].items() if v is not None}
                assert plain == {k: v for k, v in asset.items() if v is not None}


def test_texts_of_assets_are_only_those_of_the_scenes_in_a_table(make_item):
    ds = xgc.from_items(
        make_item(f"s{i}", assets={"red": {"href": URL, f"only{i}": i}}) for i in range(5)
    )
    table = layout.columns_of(ds).take(np.array([3, 1])).table()
    assert {f.name for f in table.schema.field("assets").type.field("red").type} == {
        "href",
        "only3",
        "only1",
    }


def test_assets_that_no_scene_has_any_more_come_back_as_such(make_item, tmp_path):
    items = [make_item("a", assets={"gone": {"href": URL}}), make_item("b", assets={})]
    alone = xgc.from_items(items).isel(scene=[1])
    check(written(layout.table_of(alone), tmp_path / "c.parquet"), alone)
    assert list(alone.asset.values) == ["gone"]


@pytest.mark.parametrize("key", ["none", "red"])
def test_scenes_without_assets_stand_beside_those_with_any(key, make_item, tmp_path):
    parts = [
        [make_item("a", assets={})],
        [make_item("b", assets={key: {"href": URL, "title": "t"}})],
    ]
    for i, items in enumerate(parts):
        xgc.from_items(items).geocat.to_geoparquet(tmp_path / f"{i}.parquet")
    back = xgc.open_catalog(tmp_path)
    assert to_dicts(back) == [item for items in parts for item in items]
    assert list(back.asset.values) == [key]
    check(back.load(), xgc.from_items([item for items in parts for item in items]))


# --- properties -----------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [1, 2**60, "x", True, [1], {"a": 1}], ids=str)
def test_properties_of_any_name_come_back(value, make_item, tmp_path):
    item = make_item("a")
    item["properties"].update(dict.fromkeys(NAMES, value))
    ds = xgc.from_items([item, make_item("b")])
    check(written(layout.table_of(ds), tmp_path / "c.parquet"), ds)


@pytest.mark.parametrize(
    "values",
    [
        np.array([1, 2**64 - 1, 0], np.uint64),
        np.array([1, 2**60 + 1, 0], ">i8"),
        np.array([1, np.nan, 3], ">f4"),
        np.array([1, np.nan, 3], np.float16),
        np.array([1, 2, 255], np.uint8),
        np.array(["a", "", "c"]),
        objects(np.int64(1), None, np.int64(2**60 + 1)),
        objects(np.int64(1), "x", None),
        objects(np.bool_(True), None, np.bool_(False)),
        objects(np.float32(0.1), "x", np.str_("y")),
        objects(True, 1, 0),
        objects(-0.0, 0, None),
        objects(2**63, None, 2**80),
        objects([1, 2], {"a": [None]}, None),
        objects(None, np.nan, None),
    ],
    ids=lambda values: f"{values.dtype} {values.tolist()}",
)
def test_values_that_a_catalog_gained_come_back(values, make_catalog, tmp_path):
    ds = make_catalog([box(0, 0, 1, 1)] * 3).assign(q=("scene", values))
    back = written(layout.table_of(ds), tmp_path / "c.parquet")
    xr.testing.assert_identical(back, ds)
    kinds = [[type(v) for v in one.q.values.astype(object)] for one in (back, ds)]
    if values.dtype != object:
        assert kinds[0] == kinds[1]


@pytest.mark.parametrize(
    "value",
    [b"x", dt.date(2024, 1, 1), {1}, Path("x"), np.zeros(2), np.datetime64("2024")],
    ids=repr,
)
def test_values_that_are_no_json_are_refused_with_what_they_are(value, make_catalog, tmp_path):
    ds = make_catalog([box(0, 0, 1, 1)] * 2).assign(q=("scene", objects("x", value)))
    with pytest.raises(ValueError, match=r"property 'q' .* no JSON: .*drop_vars\('q'\)"):
        ds.geocat.to_geoparquet(tmp_path / "c.parquet")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "values",
    [np.array([b"a", b""]), np.array([1j, 2]), np.array([1, 2], "m8[s]"),
     np.array(["2024", "NaT"], "M8[us]"), np.array(["a", "b"], np.dtypes.StringDType()),
     pytest.param(np.array([1, 2], np.longdouble),
                  marks=pytest.mark.skipif(np.dtype(np.longdouble).itemsize == 8, reason="no longer one"))],
    ids=lambda values: str(values.dtype),
)  # fmt: skip
def test_kinds_that_no_column_holds_are_refused_by_name(values, make_catalog, tmp_path):
    ds = make_catalog([box(0, 0, 1, 1)] * 2).assign(q=("scene", values))
    assert layout.is_lost(ds, "q")
    with pytest.raises(ValueError, match=r"no place for \['q'\]"):
        ds.geocat.to_geoparquet(tmp_path / "c.parquet")


@pytest.mark.parametrize("dtype", ["?", "i1", "<i8", ">i8", "u8", "f2", "f4", "f8", "O", "U3"])
def test_numbers_booleans_and_texts_are_not_lost(dtype, make_catalog):
    ds = make_catalog([box(0, 0, 1, 1)] * 2).assign(q=("scene", np.ones(2, dtype)))
    assert not layout.is_lost(ds, "q")
    assert layout.is_lost(ds.set_coords("q"), "q")
    assert not any(layout.is_lost(ds, str(name)) for name in ds.variables)


@pytest.mark.parametrize("name", metadata.MOMENTS)
def test_moments_of_properties_are_columns_of_time_to_others(name, make_item):
    texts = [
        "2024-01-02T03:04:05.000006Z",
        "2020-10-31",
        "not a date",
        None,
        "2024-01-01T01:00:00+02:00",
    ]
    ds = xgc.from_items(make_item(f"s{i}", **{name: text}) for i, text in enumerate(texts))
    found = layout.table_of(ds)[name]
    assert found.type == layout.MOMENT
    zone = dt.UTC
    assert found.to_pylist() == [
        dt.datetime(2024, 1, 2, 3, 4, 5, 6, zone),
        dt.datetime(2020, 10, 31, tzinfo=zone),
        None,
        None,
        dt.datetime(2023, 12, 31, 23, tzinfo=zone),
    ]


# --- times ----------------------------------------------------------------------------------------


def test_columns_of_time_say_what_the_items_say(make_item):
    items = []
    for i, times in enumerate(TIMES):
        items.append(make_item(f"s{i}"))
        # Words of an item that are not of its times.
        items[-1]["properties"] = (
            {**times, "deep": {"datetime": None, "end_datetime": "x"}} if i % 2 else times
        )
    table = layout.table_of(xgc.from_items(items))
    for times, *found in zip(
        TIMES,
        *(table[n].to_pylist() for n in ("datetime", "start_datetime", "end_datetime")),
        strict=True,
    ):
        said = [
            None if times.get(name) is None else dt.datetime.fromisoformat(times[name])
            for name in ("datetime", "start_datetime", "end_datetime")
        ]
        moment, start, end = found
        assert (start or moment) == (said[1] or said[0])
        assert (end or moment) == (said[2] or said[0])
        assert moment in (said[0], None)


# --- what goes wrong ------------------------------------------------------------------------------


def test_masked_scenes_are_refused_by_name(make_catalog):
    ds = make_catalog([box(0, 0, 1, 1)] * 3, number=[1, 2, 3])
    with pytest.raises(ValueError, match=r"Scene 's0' has no item_json.*drop=True"):
        layout.columns_of(ds.where(ds["number"] > 1))


def test_malformed_members_of_one_item_do_not_stop_the_others(make_item, tmp_path):
    asset = {"href": URL, "title": "x"}
    odd = {"red": {**asset, "roles": "data", "properties": [1], "links": "x", "title": 1}}
    items = [
        make_item("a", assets=odd),
        make_item("b", assets={"red": {**asset, "roles": ["data"]}}),
    ]
    items[0]["links"], items[0]["stac_extensions"] = ["x", None], "eo"
    ds = xgc.from_items(items)
    table = layout.table_of(ds)
    assert table["assets"].to_pylist()[1]["red"]["roles"] == ["data"]
    # A text is no list of its letters.
    assert table["assets"].to_pylist()[0]["red"]["roles"] is None
    assert table["links"].to_pylist() == [[], []]
    check(written(table, tmp_path / "c.parquet"), ds)


def test_about_a_catalog_is_what_its_table_says(make_catalog):
    ds = make_catalog([box(0, 0, 1, 1)] * 2, crs=32631, a=[1, 2], b=["x", None], c=[True, None],
                      d=[2**60, 1], e=[1.5, None], created=["2024", 1]).assign_attrs(title="t")  # fmt: skip
    about = layout.about_of(ds)
    assert about == metadata.about_table(layout.table_of(ds).schema)
    assert about["variables"] == {"a": "<i8", "b": "object", "c": "boolean", "d": "long", "e": "<f8",
                                  "created": "json"}  # fmt: skip
    assert (about["assets"], about["attrs"]) == (["red"], {"title": "t"})


def test_texts_of_a_table_are_plain_strings_to_others(make_catalog):
    ds = make_catalog([box(0, 0, 1, 1)] * 2, text=["a", "b"], mixed=["a", 1])
    kinds = [str(field.type) for field in layout.table_of(ds).schema]
    assert not any("large" in kind or "dictionary" in kind for kind in kinds), kinds
