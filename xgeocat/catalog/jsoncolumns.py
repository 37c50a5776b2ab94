"""JSON columns: members of many JSON objects as columns of a table."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj

LINKS = pa.list_(pa.struct([(name, pa.string()) for name in ("href", "rel", "type", "title")]))


def parsed(texts: pa.StringArray) -> dict[str, pa.Array]:
    """Members of JSON objects as columns; where they are of several kinds, as texts."""
    if not len(texts):
        return {}
    lines = "\n".join(texts.to_pylist()).encode()
    try:
        options = pj.ReadOptions(use_threads=False, block_size=len(lines) + 1)
        table = pj.read_json(io.BytesIO(lines), read_options=options)
        # Of a list that begins with null it makes no array (github.com/apache/arrow/issues/51305).
        table.validate(full=True)
    except pa.ArrowInvalid:
        return _one_by_one(texts)
    return {
        name: table[name].combine_chunks()
        for name in table.column_names
        if _storable(table.schema.field(name).type)
    }


def _one_by_one(texts: pa.StringArray) -> dict[str, pa.Array]:
    objects = [json.loads(text) for text in texts.to_pylist()]
    columns = {}
    for name in dict.fromkeys(name for found in objects for name in found):
        values = [found.get(name) for found in objects]
        if name == "properties":
            plain = [
                {k: _as_text(v) for k, v in p.items()} if isinstance(p, dict) else {}
                for p in values
            ]
            columns[name] = pa.array(plain) if any(plain) else None
        elif name == "links":
            columns[name] = pa.array(
                [[{k.name: _as_text(link.get(k.name)) for k in LINKS.value_type}
                  for link in _listed(links) or () if isinstance(link, dict)] for links in values],
                LINKS)  # fmt: skip
        elif name in ("roles", "stac_extensions"):
            lists = map(_listed, values)
            columns[name] = pa.array(
                [None if found is None else list(map(_as_text, found)) for found in lists],
                pa.list_(pa.string()),
            )
        else:
            columns[name] = pa.array(map(_as_text, values), pa.string())
    return {name: column for name, column in columns.items() if column is not None}


def _listed(value: object) -> list[object] | None:
    """A list; None for what should have been one."""
    return value if isinstance(value, list) else None


def _as_text(value: object) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value)


def _storable(kind: pa.DataType) -> bool:
    """Tell whether Parquet can hold a kind: not one of which nothing but nulls was seen."""
    if pa.types.is_struct(kind):
        return kind.num_fields > 0 and all(_storable(field.type) for field in kind)
    return _storable(kind.value_type) if pa.types.is_list(kind) else not pa.types.is_null(kind)


def members_of(struct: pa.StructArray | None) -> dict[str, pa.Array]:
    """Columns of a struct, null where it is."""
    if struct is None or not pa.types.is_struct(struct.type):
        return {}
    fields = zip(struct.type, struct.flatten(), strict=True)
    return {field.name: column for field, column in fields if _storable(field.type)}


def struct_of(
    members: Mapping[str, pa.Array], mask: pa.BooleanArray | None = None
) -> pa.StructArray:
    """One struct of some columns, null where the mask is true."""
    return pa.StructArray.from_arrays(list(members.values()), list(members), mask=mask)


def lists_or_none(found: pa.Array | None, rows: int) -> pa.Array:
    """A column of lists of texts, null where there is nothing of the kind."""
    kind = pa.list_(pa.string())
    return found if found is not None and found.type.equals(kind) else pa.nulls(rows, kind)


def links_or_none(found: pa.Array | None, rows: int) -> pa.Array:
    """A column of STAC links, empty where there is nothing of the kind."""
    none = pa.array([[]] * rows, LINKS)
    if found is None or not pa.types.is_list(found.type):
        return none
    try:
        return pc.coalesce(found.cast(LINKS), none)
    except pa.ArrowException:
        return none
