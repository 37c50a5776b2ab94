"""Foreign: files of scenes that other tools wrote, and the STAC items in them."""

from __future__ import annotations

import datetime as dt
import json
from base64 import b64encode
from collections.abc import Sequence
from decimal import Decimal
from typing import cast

import pyarrow as pa
import pyarrow.compute as pc
import pyproj
import shapely

from xgeocat.catalog import metadata
from xgeocat.catalog.aoi import WGS84, same_crs
from xgeocat.catalog.openfile import ScenesFile
from xgeocat.catalog.sources import Json, absolute
from xgeocat.catalog.stac import NOT_COLUMNS

#: Members of an item; all other columns are properties.
ITEM = ("type", "stac_version", "stac_extensions", "id", "collection", "geometry", "bbox", "links",
        "assets")  # fmt: skip
#: Corners of a bbox of six numbers, in the order in which an item has them.
CORNERS = ("xmin", "ymin", "zmin", "xmax", "ymax", "zmax")


def require_degrees(file: ScenesFile) -> None:
    """Refuse footprints that are no WKB in WGS 84, as stac-geoparquet has them.

    Raises
    ------
    ValueError
        For a file of them, with what to do.
    """
    geo = json.loads((file.footer.metadata or {}).get(b"geo", b"{}"))
    column = geo.get("columns", {}).get("geometry", {})
    crs = column.get("crs")
    encoding = str(column.get("encoding", "WKB"))
    if encoding.upper() != "WKB" or (
        isinstance(crs, dict) and not same_crs(pyproj.CRS.from_json_dict(crs), WGS84)
    ):
        where = "WGS 84" if crs is None else pyproj.CRS.from_user_input(crs).to_string()
        raise ValueError(
            f"{file.folder.url}/{file.name} has its footprints as {encoding} in {where}; STAC "
            "items have them in degrees. Write it again as WKB, with geopandas: gdf.to_crs(4326)"
            ".to_parquet(...)."
        )


def box_column(known: pa.Schema) -> str | None:
    """Name of the column of boxes, if there is one."""
    box = known.field("bbox").type if "bbox" in known.names else None
    has = (
        box is not None and pa.types.is_struct(box) and {f.name for f in box} >= {*metadata.CORNERS}
    )
    return "bbox" if has else None


# --- what the columns are -------------------------------------------------------------------------


def about_others(files: Sequence[ScenesFile], known: pa.Schema) -> Json:
    """What files would say of themselves, had we written them.

    Footers are enough for it where they have statistics; of integers and booleans without any the
    column is read.
    """
    assets = known.field("assets").type if "assets" in known.names else pa.struct([])
    names = [field.name for field in assets] if pa.types.is_struct(assets) else []
    kinds = {
        field.name: _kind(field, files)
        for field in known
        if field.name not in {*metadata.MEMBERS, *NOT_COLUMNS, "links", "bbox"}
    }
    return {
        "crs": WGS84.to_json_dict(),
        "assets": names,
        "variables": {name: kind for name, kind in kinds.items() if kind is not None},
    }


def _kind(field: pa.Field, files: Sequence[ScenesFile]) -> str | None:
    """How a column comes back; None for one that is no property with a single value."""
    if pa.types.is_nested(field.type) or pa.types.is_null(field.type):
        return None
    counted = pa.types.is_integer(field.type) or pa.types.is_boolean(field.type)
    nulls, rows, largest = _counts(field.name, files, read=counted)
    if rows and nulls == rows:
        return None
    if pa.types.is_floating(field.type):
        return "<f8"
    if pa.types.is_boolean(field.type):
        return "object" if nulls else "|b1"
    if pa.types.is_integer(field.type):
        if nulls:
            return "<f8" if largest <= 2**53 else "object"
        return "<i8" if largest < 2**63 else "object"
    return "object" if pa.types.is_string(field.type) else "item"


def _counts(name: str, files: Sequence[ScenesFile], *, read: bool) -> tuple[int, int, int]:
    """Nulls of a column, its rows, and how large integers get; with `read` not by footers alone."""
    nulls = rows = largest = 0
    for file in files:
        footer = file.footer
        paths = [footer.schema.column(i).path for i in range(footer.num_columns)]
        for number in range(footer.num_row_groups):
            group = footer.row_group(number)
            rows += group.num_rows
            if name not in paths:
                nulls += group.num_rows
                continue
            said = group.column(paths.index(name)).statistics
            known = said is not None and said.has_null_count
            if known and (said.has_min_max or said.null_count == group.num_rows):
                nulls += said.null_count
                edges = (said.min, said.max) if said.has_min_max else ()
            elif read:
                column = file.read(number, [name])[name]
                nulls += column.null_count
                edges = tuple(pc.min_max(column).as_py().values())
            else:
                edges = ()
            largest = max([largest, *(abs(e) for e in edges if isinstance(e, int))])
    return nulls, rows, largest


# --- items ----------------------------------------------------------------------------------------


def items_of(path: str, base: str, table: pa.Table) -> list[Json]:
    """Items of rows of a table.

    Parameters
    ----------
    path : str
        What to call it in an error.
    base : str
        Where relative hrefs start.
    table : pyarrow.Table
        Rows, with all columns.

    Raises
    ------
    ValueError
        For rows that are no items.
    """
    # What stands beside the columns of a file of ours is not theirs any more.
    own = [name for name in table.column_names if name.startswith("geocat:")]
    try:
        columns = {name: _values(table[name]) for name in table.column_names if name not in own}
        columns["geometry"] = list(map(_geojson, columns["geometry"]))
        columns["bbox"] = _bboxes(table)
        rows = zip(*columns.values(), strict=True)
        items = [_item(dict(zip(columns, row, strict=True))) for row in rows]
    except (pa.ArrowException, TypeError, ValueError, shapely.errors.ShapelyError) as error:
        raise ValueError(f"{path} holds no STAC items that can be read: {error}.") from error
    return [absolute(item, base) for item in items]


def _values(column: pa.ChunkedArray) -> list[object]:
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("us", tz=column.type.tz), safe=False)
    found: list[object] = column.to_pylist()
    return found


def _geojson(wkb: object) -> Json | None:
    if not isinstance(wkb, bytes):
        return None
    found: Json = json.loads(shapely.to_geojson(shapely.from_wkb(wkb)))
    return found


def _item(row: Json) -> Json:
    """Item of a row, without the nulls that a table has for members an item never had."""
    said = cast("Json", _as_json(row))
    item = {name: said.pop(name) for name in ITEM if name in said}
    moment = {"datetime": said.pop("datetime", None)}
    return {"type": "Feature", "geometry": None, "assets": {}, **item, "properties": moment | said}


def _bboxes(table: pa.Table) -> list[object]:
    """Bboxes as items have them: of four or six numbers."""
    if "bbox" not in table.column_names:
        return [None] * len(table)
    found = table["bbox"].to_pylist()
    if pa.types.is_struct(table.schema.field("bbox").type):
        found = [
            None if box is None else [box[c] for c in CORNERS if box.get(c) is not None]
            for box in found
        ]
    return [list(box) if box else None for box in found]


def _as_json(value: object) -> object:
    """What JSON has in place of a value of a table, without nulls; bytes as base64."""
    if isinstance(value, dict):
        return {
            k: _geojson(v) if k == "proj:geometry" and isinstance(v, bytes) else _as_json(v)
            for k, v in value.items()
            if v is not None
        }
    if isinstance(value, list):
        return [_as_json(v) for v in value]
    if isinstance(value, dt.datetime):
        there = value.replace(tzinfo=dt.UTC) if value.tzinfo is None else value.astimezone(dt.UTC)
        return there.isoformat().replace("+00:00", "Z")
    if isinstance(value, (dt.date, dt.time)):
        return value.isoformat()
    if isinstance(value, bytes):
        return b64encode(value).decode()
    return float(value) if isinstance(value, Decimal) else value
