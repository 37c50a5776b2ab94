"""Fitting: tables of which each has columns of its own, as one."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence

import pyarrow as pa
import pyarrow.compute as pc


def same_layout(schemas: Sequence[pa.Schema]) -> pa.Schema:
    """One schema that holds the columns of several tables, with the metadata of the first.

    A column that is of kinds that do not go together becomes text.
    """
    fields: dict[str, pa.DataType] = {}
    for one in schemas:
        for field in one:
            known = fields.get(field.name)
            fields[field.name] = field.type if known is None else _common(known, field.type)
    return pa.schema(list(fields.items()), metadata=schemas[0].metadata)


def _common(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    if one.equals(other):
        return one
    if pa.types.is_struct(one) and pa.types.is_struct(other):
        members = {field.name: field.type for field in one}
        for field in other:
            known = members.get(field.name)
            members[field.name] = field.type if known is None else _common(known, field.type)
        return pa.struct(list(members.items()))
    if pa.types.is_list(one) and pa.types.is_list(other):
        return pa.list_(_common(one.value_type, other.value_type))
    try:
        both = [pa.schema([("", kind)]) for kind in (one, other)]
        return pa.unify_schemas(both, promote_options="permissive").field(0).type
    except pa.ArrowException:
        return pa.string()


def fitted(table: pa.Table, schema: pa.Schema, hidden: Collection[str] = ()) -> pa.Table:
    """A table with exactly the columns of a schema; null where it has them not, or hides them."""
    own = {*table.column_names} - {*hidden}
    columns = [
        _fit(table[field.name].combine_chunks(), field.type)
        if field.name in own
        else pa.nulls(len(table), field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)


def _fit(column: pa.Array, kind: pa.DataType) -> pa.Array:
    if column.type.equals(kind):
        return column
    if pa.types.is_struct(column.type) and pa.types.is_struct(kind):
        own = dict(zip((f.name for f in column.type), column.flatten(), strict=True))
        members = {
            field.name: _fit(own[field.name], field.type)
            if field.name in own
            else pa.nulls(len(column), field.type)
            for field in kind
        }
        arrays = list(members.values())
        return pa.StructArray.from_arrays(arrays, list(members), mask=column.is_null())
    if pa.types.is_list(column.type) and pa.types.is_list(kind):
        ends = pc.cumulative_sum(pc.fill_null(pc.list_value_length(column), 0))
        starts = pa.concat_arrays([pa.array([0], ends.type), ends])
        values = _fit(column.flatten(), kind.value_type)
        return pa.ListArray.from_arrays(starts, values, type=kind, mask=column.is_null())
    try:
        return column.cast(kind)
    except pa.ArrowException:
        texts = (None if v is None else json.dumps(v, default=str) for v in column.to_pylist())
        return pa.array(texts, pa.string()).cast(kind)


def part_of(field: pa.Field, columns: Sequence[str]) -> pa.Field | None:
    """A field, of a struct those members that are asked for: ``"assets.red.href"``."""
    if field.name in columns:
        return field
    inside = [name.removeprefix(f"{field.name}.") for name in columns
              if name.startswith(f"{field.name}.")]  # fmt: skip
    if not inside or not pa.types.is_struct(field.type):
        return None
    parts = [part for child in field.type if (part := part_of(child, inside)) is not None]
    return pa.field(field.name, pa.struct(parts)) if parts else None
