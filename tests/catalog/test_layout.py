"""Scenes as columns: brought into any order, and laid out some at a time, they say the same."""

import json

import numpy as np
import pyarrow as pa
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely.geometry import box

import xgeocat as xgc
from xgeocat.catalog import layout, metadata, parquet
from xgeocat.catalog.stac import to_dicts

#: What properties may be; texts with all that separates lines, and quotes.
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**53), 2**53), st.floats(allow_nan=False),
    st.text(st.sampled_from("aä\u2028\n\r\t\"'\\{}[],: "), max_size=5),
)  # fmt: skip
VALUES = st.one_of(
    SCALARS, st.lists(SCALARS, max_size=2), st.dictionaries(st.text("ab.", max_size=2), SCALARS, max_size=2)
)  # fmt: skip
KEYS = st.sampled_from(["red", "a.b", "", 'x"y', "geometry", "none"])


@st.composite
def items(draw):
    """Items that have little in common."""
    made = []
    for i in range(draw(st.integers(0, 8))):
        x = draw(st.integers(-179, 178))
        keys = draw(st.lists(KEYS, unique=True, max_size=3))
        made.append(
            {
                "type": "Feature", "stac_version": "1.0.0", "id": f"s{i}", "collection": "made",
                "geometry": json.loads(json.dumps(box(x, 0, x + 1, 1).__geo_interface__)),
                "bbox": [x, 0.0, x + 1, 1.0], "links": [],
                "properties": {"datetime": f"2024-06-{1 + i:02d}T00:00:00Z"}
                | draw(st.dictionaries(st.sampled_from(["n", "bbox", "none", "a.b"]), VALUES)),
                "assets": {
                    key: {"href": f"https://example.com/{i}/{n}.tif"}
                    | draw(st.dictionaries(st.sampled_from(["title", "n"]), SCALARS))
                    for n, key in enumerate(keys)
                },
            }
        )  # fmt: skip
    return made


@settings(deadline=None, max_examples=40)
@given(items(), st.data())
def test_columns_in_an_order_are_those_of_the_scenes_in_that_order(made, data):
    ds = xgc.from_items(made)
    rows = np.array(data.draw(st.permutations(range(len(made)))), np.int64)
    rows = rows[: data.draw(st.integers(0, len(made)))]
    columns = layout.columns_of(ds).take(rows)
    others = layout.columns_of(ds.isel(scene=rows))
    for found, wanted in zip(
        (columns.scenes, columns.places, columns.hrefs),
        (others.scenes, others.places, others.hrefs),
        strict=True,
    ):
        assert {k: v.to_pylist() for k, v in found.items()} == {
            k: v.to_pylist() for k, v in wanted.items()
        }
    table = columns.table()
    assert table["id"].to_pylist() == [f"s{i}" for i in rows]
    texts = ds["asset_json"].values
    for n, key in enumerate(map(str, ds["asset"].values)):
        own = pa.compute.struct_field(table[metadata.ASSETS], [key]).to_pylist()
        assert own == [text if isinstance(text, str) else None for text in texts[rows, n]]


@settings(deadline=None, max_examples=30)
@given(items())
def test_written_a_few_rows_at_a_time_a_catalog_comes_back_the_same(tmp_path_factory, made):
    ds = xgc.from_items(made)
    path = tmp_path_factory.mktemp("layout") / "c.parquet"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(parquet, "GROUP", 3)
        ds.geocat.to_geoparquet(path)
    back = xgc.open_catalog(path)
    order = [int(str(name)[1:]) for name in back["scene"].values]
    assert sorted(order) == list(range(len(made)))
    xr.testing.assert_identical(back, ds.isel(scene=order))
    assert to_dicts(back) == [to_dicts(ds)[i] for i in order]


def test_texts_that_repeat_are_stored_once_and_only_those_in_use_are_read(make_item, monkeypatch):
    about = [{"title": "a"}, {"title": "b"}, {"title": "c"}]
    ds = xgc.from_items(
        make_item(f"s{i}", assets={"red": {"href": f"{i}.tif", **about[i % 3]}}) for i in range(9)
    )
    columns = layout.columns_of(ds)
    assert len(columns.texts["red"].dictionary) == 3
    seen = []
    whole = layout.parsed

    def counted(texts):
        seen.append(len(texts))
        return whole(texts)

    monkeypatch.setattr(layout, "parsed", counted)
    columns.take(np.array([0, 3, 6, 1])).table()
    # Four items, and of the three texts the two that they have.
    assert seen == [4, 2]


def test_texts_of_a_catalog_may_be_longer_than_32_bits_count(make_item):
    columns = layout.columns_of(xgc.from_items([make_item(note="x")]))
    texts = {**columns.scenes, **columns.hrefs, "note": columns.properties["note"]}
    kinds = {name: v.type for name, v in texts.items() if not pa.types.is_timestamp(v.type)}
    assert set(kinds.values()) == {pa.large_string()}
    assert columns.texts["red"].type.value_type == pa.large_string()
    # In the file they are what other tools expect.
    table = columns.table()
    assert {table.schema.field(name).type for name in ("id", "collection", "note")} == {pa.string()}
