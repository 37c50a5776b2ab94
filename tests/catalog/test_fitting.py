"""Fitting: tables of different columns become one, and nothing of any of them is lost."""

from __future__ import annotations

import json
import math

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from xgeocat.catalog.fitting import fitted, part_of, same_layout

#: Values of each shape; those of one shape are of one kind to Arrow.
PLAIN = [st.integers(-9, 9), st.floats(allow_nan=False), st.booleans(), st.text(max_size=3)]
values = st.recursive(
    st.sampled_from(PLAIN),
    lambda inner: st.one_of(
        inner.map(lambda one: st.lists(one, max_size=3)),
        st.dictionaries(st.sampled_from("abc"), inner, min_size=1, max_size=3).map(
            st.fixed_dictionaries
        ),
    ),
    max_leaves=5,
)


@st.composite
def tables(draw):
    """Tables of a few rows, whose columns of one name may be of different kinds."""
    columns = draw(st.dictionaries(st.sampled_from("pqr"), values, min_size=1))
    rows = draw(st.integers(0, 4))
    made = {
        name: draw(st.lists(st.none() | one, min_size=rows, max_size=rows))
        for name, one in columns.items()
    }
    table = pa.table(made)
    # As tables come: one behind the other, or a part of a longer one.
    return table.slice(draw(st.integers(0, rows))) if draw(st.booleans()) else table


def told(value, kind):
    """What a value is in a column of a kind: itself, without nulls, or as text."""
    if value is None:
        return None
    if pa.types.is_struct(kind) and isinstance(value, dict):
        found = {field.name: told(value.get(field.name), field.type) for field in kind}
        return {name: inner for name, inner in found.items() if inner is not None}
    if pa.types.is_list(kind) and isinstance(value, list):
        return [told(inner, kind.value_type) for inner in value]
    if pa.types.is_string(kind) and not isinstance(value, str):
        return json.loads(json.dumps(value))
    return value


def read_back(value, kind, was):
    """The same of what stands in the column, with texts read where they stand for another value."""
    if value is None:
        return None
    if pa.types.is_struct(kind):
        found = {
            field.name: read_back(value[field.name], field.type, was.get(field.name))
            for field in kind
        }
        return {name: inner for name, inner in found.items() if inner is not None}
    if pa.types.is_list(kind):
        return [
            read_back(inner, kind.value_type, one) for inner, one in zip(value, was, strict=True)
        ]
    if pa.types.is_string(kind) and isinstance(was, float):
        return float(value)
    if pa.types.is_string(kind) and not isinstance(was, str):
        return json.loads(value)
    return value


@given(st.lists(tables(), min_size=1, max_size=3))
@example([pa.table({"p": [math.inf]}), pa.table({"p": [False]})])
@settings(max_examples=150, deadline=None)
def test_tables_of_any_columns_become_one_in_which_all_they_say_is(parts):
    schema = same_layout([part.schema for part in parts])
    whole = pa.concat_tables(fitted(part, schema) for part in parts)
    whole.validate(full=True)
    assert whole.schema.equals(schema)
    rows = [row for part in parts for row in part.to_pylist()]
    for field in schema:
        for found, row in zip(whole[field.name].to_pylist(), rows, strict=True):
            was = row.get(field.name)
            assert read_back(found, field.type, was) == told(was, field.type)


@given(st.lists(tables(), min_size=1, max_size=3))
@settings(max_examples=50, deadline=None)
def test_one_schema_is_one_whatever_came_before(parts):
    schemas = [part.schema for part in parts]
    whole = same_layout(schemas)
    assert same_layout([whole, *schemas]).equals(whole)
    assert same_layout([same_layout(schemas[:1]), *schemas[1:]]).equals(whole)


@pytest.mark.parametrize(
    ("one", "other", "kind"),
    [
        ([1], [{"a": 1}], pa.list_(pa.string())),
        ([{"a": 1}], ["x"], pa.list_(pa.string())),
        ([[1]], [{"a": 1}], pa.list_(pa.string())),
        ([{"a": {"b": 1}}], [{"a": 1, "c": "x"}],
         pa.list_(pa.struct([("a", pa.string()), ("c", pa.string())]))),
        ([{"a": 1}], [{"b": "x"}], pa.list_(pa.struct([("a", pa.int64()), ("b", pa.string())]))),
        ([1], [2.5], pa.list_(pa.float64())), ([None], [2], pa.list_(pa.int64())),
        ([], [{"a": [1]}], pa.list_(pa.struct([("a", pa.list_(pa.int64()))]))),
        ("x", [{"a": 1}], pa.string()), (1, {"a": 1}, pa.string()), (True, "x", pa.string()),
        (1, 2.5, pa.float64()),
    ],
    ids=str,
)  # fmt: skip
def test_columns_of_other_kinds_become_one(one, other, kind):
    for first, second in ((one, other), (other, one)):
        parts = [pa.table({"q": [None, value, None]}).slice(1) for value in (first, second)]
        schema = same_layout([part.schema for part in parts])
        # In a struct, members stand in the order in which they came.
        assert schema.field("q").type.equals(kind) or first is other
        found = [row["q"] for part in parts for row in fitted(part, schema).to_pylist()]
        kind_found = schema.field("q").type
        for value, was in zip(found, [first, None, second, None], strict=True):
            assert read_back(value, kind_found, was) == told(was, kind_found)


def test_columns_that_are_hidden_or_not_there_are_null():
    schema = pa.schema([("a", pa.int64()), ("b", pa.list_(pa.string())), ("c", pa.string())])
    found = fitted(pa.table({"a": [1, 2], "c": [{"x": 1}, None]}), schema, hidden={"c"})
    assert found.to_pylist() == [{"a": 1, "b": None, "c": None}, {"a": 2, "b": None, "c": None}]
    assert found.schema.equals(schema)


def test_metadata_is_that_of_the_first():
    one = pa.schema([("a", pa.int64())], metadata={"k": "1"})
    other = pa.schema([("a", pa.int64())], metadata={"k": "2"})
    assert same_layout([one, other]).metadata == {b"k": b"1"}
    assert fitted(pa.table({"a": [1]}), one).schema.metadata == {b"k": b"1"}


# --- parts of fields ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "columns",
    [["a"], ["s.x"], ["s.y.z"], ["s"], ["a", "s.y"], ["s.x", "s.y.w"], ["s..href"], ["s.a.b"],
     ["a.b"], ["s.", "s.x"]],
    ids=str,
)  # fmt: skip
def test_parts_of_fields_are_what_parquet_reads_of_them(columns, tmp_path):
    deep = {"x": 1, "y": {"z": "t", "w": [1]}, "": {"href": "h"}, "a.b": 2, "a": {"b": 3}}
    table = pa.Table.from_pylist([{"a": 1, "a.b": 2, "s": deep}, {"a": 2, "a.b": 3, "s": None}])
    pq.write_table(table, tmp_path / "t.parquet")
    read = pq.ParquetFile(tmp_path / "t.parquet").read(columns=columns)
    parts = [p for field in table.schema if (p := part_of(field, columns)) is not None]
    assert pa.schema(parts).equals(read.schema)


@pytest.mark.parametrize("columns", [[], ["b"], ["s.q"], ["sx"], ["a.x"], ["s.x.y"]], ids=str)
def test_fields_that_nobody_asked_for_have_no_parts(columns):
    table = pa.Table.from_pylist([{"a": 1, "s": {"x": 1}}])
    assert [part_of(field, columns) for field in table.schema] == [None, None]
