"""Layout: scenes as a table of the stac-geoparquet layout, beside it what such a table loses.

Arrow cannot tell a missing member of an item from a null one, nor keep the spelling of a time. So
the columns that other tools read are made of what the catalog knows, and beside them stand texts,
column by column, from which the catalog comes back as it was.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyproj
import shapely
import xarray as xr
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from xgeocat.catalog import schema
from xgeocat.catalog.aoi import WGS84, Where, cut_at_antimeridian, outline, same_crs
from xgeocat.catalog.index import footprint_index
from xgeocat.catalog.interval import to_utc
from xgeocat.catalog.jsoncolumns import (
    links_or_none,
    lists_or_none,
    members_of,
    parsed,
    struct_of,
)
from xgeocat.catalog.metadata import (
    ASSETS,
    BOOLEAN,
    BOX,
    CORNERS,
    FOOTPRINT,
    ITEM,
    LONG,
    MEMBERS,
    MOMENTS,
    TEXTS,
    ULONG,
    VERSION,
    is_from_text,
    of_file,
)
from xgeocat.catalog.sources import Json

MOMENT = pa.timestamp("us", tz="UTC")
#: By name, all of one length.
Arrays: TypeAlias = dict[str, pa.Array]
#: Texts of a whole catalog may be longer than 32 bits can count.
TEXT = pa.large_string()

# --- scenes to columns ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Columns:
    """What tables of scenes are made of, scene by scene: in the order of a catalog, or any other.

    Parameters
    ----------
    scenes, places, properties, exact, hrefs, texts : dict of str to pyarrow.Array
        Ids, items and times; footprints and boxes; properties, and as texts those that do not come
        back from a column; by asset its href and, coded, what else it says.
    about : dict
        What the table says of itself; see :func:`about_of`.
    """

    scenes: Arrays
    places: Arrays
    properties: Arrays
    exact: Arrays
    hrefs: Arrays
    texts: Arrays
    about: Json

    def take(self, rows: NDArray[np.int64]) -> Columns:
        """Some of the scenes."""
        at = pa.array(rows)

        def some(arrays: Arrays) -> Arrays:
            return {name: array.take(at) for name, array in arrays.items()}

        return Columns(
            some(self.scenes),
            some(self.places),
            some(self.properties),
            some(self.exact),
            some(self.hrefs),
            some(self.texts),
            self.about,
        )

    def table(self) -> pa.Table:
        """Lay the scenes out as a table, in their order; see :func:`table_of`."""
        items = self.scenes[schema.ITEM_JSON].cast(pa.string())
        said, (assets, own) = parsed(items), _assets(self.hrefs, self.texts, len(items))
        columns: dict[str, pa.Array] = {
            "type": pa.repeat(pa.scalar("Feature"), len(items)),
            "stac_version": said.pop("stac_version", pa.repeat(pa.scalar("1.0.0"), len(items))),
            "stac_extensions": lists_or_none(said.pop("stac_extensions", None), len(items)),
            "id": self.scenes[schema.SCENE].cast(pa.string()),
            "collection": self.scenes[schema.COLLECTION].cast(pa.string()),
            **self.places,
            "links": links_or_none(said.pop("links", None), len(items)),
            "assets": assets,
            **_moments(self.scenes[schema.START], self.scenes[schema.END], items),
        }
        exact = {name: texts.cast(pa.string()) for name, texts in self.exact.items()}
        columns |= {
            name: column.cast(pa.string()) if column.type == TEXT else column
            for name, column in self.properties.items()
        }
        for name, column in members_of(said.pop("properties", None)).items():
            if name not in columns and name not in {*schema.RESERVED, *MEMBERS}:
                columns[name] = column
        columns[ITEM] = items
        for name, texts in ((ASSETS, own), (TEXTS, exact)):
            columns |= {name: struct_of(texts)} if texts else {}
        return pa.table(columns).replace_schema_metadata(of_file(self.about))


def columns_of(ds: xr.Dataset) -> Columns:
    """Read the columns of a catalog, each of all scenes.

    Raises
    ------
    ValueError
        For scenes that were masked, and so have lost what they were.
    """
    index = footprint_index(ds)
    items = texts_of(ds[schema.ITEM_JSON])
    if items.null_count:
        lost = ds[schema.SCENE].values[np.asarray(items.is_null())]
        raise ValueError(
            f"Scene {lost[0]!r} has no item_json: it was masked, as by .where(...). Select "
            "scenes with .isel(scene=...), or use .where(..., drop=True)."
        )
    properties, exact, kinds = _read_properties(ds)
    hrefs = ds[schema.HREF].transpose(schema.SCENE, schema.ASSET).values
    texts = ds[schema.ASSET_JSON].transpose(schema.SCENE, schema.ASSET).values
    keys = [str(key) for key in ds[schema.ASSET].values]
    return Columns(
        {
            schema.ITEM_JSON: items,
            schema.SCENE: texts_of(ds[schema.SCENE]),
            schema.COLLECTION: texts_of(ds[schema.COLLECTION]),
            schema.START: pa.array(index.start, MOMENT),
            schema.END: pa.array(index.end, MOMENT),
        },
        _places(index.geometry, index.crs, items),
        properties,
        exact,
        {key: _texts(hrefs[:, i]) for i, key in enumerate(keys)},
        {key: _texts(texts[:, i]).dictionary_encode() for i, key in enumerate(keys)},
        _about(ds, kinds),
    )


def table_of(ds: xr.Dataset) -> pa.Table:
    """Lay out the scenes of a catalog as a table, in their order.

    Parameters
    ----------
    ds : Dataset
        A catalog.

    Returns
    -------
    pyarrow.Table
        One row per scene, with all of `ds`, its attrs in the metadata; see :func:`about_of`.

    Raises
    ------
    ValueError
        For scenes that were masked, and so have lost what they were.
    """
    return columns_of(ds).table()


# --- properties -----------------------------------------------------------------------------------


def is_lost(ds: xr.Dataset, name: str) -> bool:
    """Tell whether a table has no place for a variable."""
    dtype = ds[name].dtype
    # Arrow has no longer floats, and JSON no bytes; texts are objects here.
    unknown = dtype.kind in "mMcVST" or (dtype.kind == "f" and dtype.itemsize > 8)
    return name not in schema.RESERVED and (
        ds[name].dims != (schema.SCENE,) or name in ds.coords or unknown
    )


def _properties(ds: xr.Dataset) -> dict[str, NDArray[np.generic]]:
    return {
        str(name): var.values
        for name, var in ds.variables.items()
        if var.dims == (schema.SCENE,) and name not in schema.RESERVED
    }


def _read_properties(ds: xr.Dataset) -> tuple[Arrays, Arrays, dict[str, str]]:
    """Properties as columns; as texts those that do not come back from one; their kinds."""
    columns, exact, kinds = {}, {}, {}
    for name, values in _properties(ds).items():
        column = _plain_column(values)
        kinds[name] = _kind(name, values, column)
        if kinds[name] in ("json", BOOLEAN) or is_from_text(name):
            exact[name] = _as_json(name, values)
        if column is None:
            column = exact[name]
        elif name in MOMENTS and column.type == TEXT:
            column = _as_moments(column)
        if name not in MEMBERS:
            columns[name] = column
    return columns, exact, kinds


def texts_of(values: xr.DataArray) -> pa.LargeStringArray:
    """Texts as a column, null where there is none."""
    return _texts(values.values)


def _texts(values: NDArray[np.generic]) -> pa.LargeStringArray:
    try:
        return pa.array(values, TEXT, from_pandas=True)
    except pa.ArrowTypeError:
        plain = (None if v is None or v != v else str(v) for v in values.tolist())
        return pa.array(plain, TEXT)


def _plain_column(values: NDArray[np.generic]) -> pa.Array | None:
    """One column of numbers, booleans or texts; None for a mixture of them."""
    if values.dtype.kind not in "OU":
        return pa.array(values.astype(values.dtype.newbyteorder("="), copy=False), from_pandas=True)
    kind = pd.api.types.infer_dtype(values, skipna=True)
    if kind not in ("string", "boolean", "integer", "empty"):
        return None
    try:
        plain = {"string": TEXT, "empty": TEXT}.get(kind)
        return pa.array(values, plain, from_pandas=True)
    except (pa.ArrowException, OverflowError):
        return None


def _as_json(name: str, values: NDArray[np.generic]) -> pa.LargeStringArray:
    try:
        return pa.array(map(_json_or_none, values.tolist()), TEXT)
    except TypeError as error:
        raise ValueError(
            f"The property {name!r} has a value that is no JSON: {error}. Turn its values into "
            f"numbers, booleans or text, or drop it: ds.drop_vars({name!r})."
        ) from error


def _json_or_none(value: object) -> str | None:
    missing = value is None or (isinstance(value, float) and np.isnan(value))
    return None if missing else json.dumps(value, default=_plain_value)


def _plain_value(value: object) -> object:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{value!r} is of type {type(value).__name__}")


def _as_moments(texts: pa.LargeStringArray) -> pa.Array:
    found = pd.to_datetime(texts.to_pandas(), utc=True, format="ISO8601", errors="coerce")
    return pa.array(found.dt.as_unit("us"), MOMENT, from_pandas=True)


# --- places and times -----------------------------------------------------------------------------


def _places(footprints: NDArray[np.object_], crs: pyproj.CRS, items: pa.LargeStringArray) -> Arrays:
    if same_crs(crs, WGS84):
        return {"geometry": _wkb(footprints), "bbox": _boxes(footprints)}
    degrees = np.empty(len(footprints), object)
    degrees[:] = [
        None if drawn is None else _in_degrees(drawn, crs, json.loads(item))
        for drawn, item in zip(footprints, items.to_pylist(), strict=True)
    ]
    return {
        "geometry": _wkb(degrees),
        "bbox": _boxes(degrees),
        FOOTPRINT: _wkb(footprints),
        BOX: _boxes(footprints),
    }


def _in_degrees(footprint: BaseGeometry, crs: pyproj.CRS, item: Json) -> BaseGeometry:
    if item.get("geometry") is not None:
        return cut_at_antimeridian(shapely.from_geojson(json.dumps(item["geometry"])))
    return outline(Where(footprint, crs))


def _wkb(geometry: NDArray[np.object_]) -> pa.BinaryArray:
    # ISO is what GeoParquet asks of heights (https://geoparquet.org/releases/v1.1.0).
    return pa.array(shapely.to_wkb(geometry, flavor="iso"), pa.binary())


def _boxes(geometry: NDArray[np.object_]) -> pa.StructArray:
    bounds = shapely.bounds(geometry)
    return struct_of(
        {name: pa.array(bounds[:, i], from_pandas=True) for i, name in enumerate(CORNERS)}
    )


def _moments(start: pa.Array, end: pa.Array, items: pa.StringArray) -> Arrays:
    """``datetime`` as the item has it, and the interval where it says one."""
    says = [
        np.asarray(pc.match_substring(items, f'"{edge}_datetime"')) for edge in ("start", "end")
    ]
    differ = pc.fill_null(pc.not_equal(start, end), pc.xor(start.is_null(), end.is_null()))
    ranged = says[0] | says[1] | np.asarray(differ)
    middle = start.cast(pa.timestamp("us")).to_numpy(zero_copy_only=False).copy()
    middle[ranged] = np.datetime64("NaT")
    null = np.asarray(pc.match_substring(items, '"datetime":null'))
    for i in np.flatnonzero(ranged & ~null):
        middle[i] = to_utc(json.loads(items[i].as_py())["properties"].get("datetime"))
    moments = {"datetime": pa.array(middle, pa.timestamp("us")).cast(MOMENT)}
    for name, edge in (("start_datetime", start), ("end_datetime", end)):
        moments[name] = pc.if_else(ranged, edge, pa.scalar(None, MOMENT))
    return moments


# --- assets ---------------------------------------------------------------------------------------


def _assets(hrefs: Arrays, texts: Arrays, rows: int) -> tuple[pa.StructArray, Arrays]:
    """What each asset says: as columns for others, and as it is.

    Most say the same as their like in other scenes, which is read once.
    """
    assets, own = {}, {}
    for key, coded in texts.items():
        # Of the texts of a whole catalog those that are in use here.
        used = coded.indices.dictionary_encode()
        distinct = coded.dictionary.take(used.dictionary).cast(pa.string())
        at = used.indices
        columns = {"href": hrefs[key].cast(pa.string())}
        columns |= {
            name: column.take(at) for name, column in parsed(distinct).items() if name != "href"
        }
        assets[key] = struct_of(columns, at.is_null())
        own[key] = distinct.take(at)
    # Parquet has no struct without members; this one may be that of an asset in another table.
    none = pa.nulls(rows, pa.struct([(schema.HREF, pa.string())]))
    return struct_of(assets or {"none": none}), own


# --- what a table says of itself ------------------------------------------------------------------


def about_of(ds: xr.Dataset) -> Json:
    """What the table of a catalog says of itself beyond the STAC layout.

    Its version, the CRS of the footprints, the names of the assets, how each property comes back,
    attrs.
    """
    properties = _properties(ds).items()
    return _about(ds, {name: _kind(name, v, _plain_column(v)) for name, v in properties})


def _about(ds: xr.Dataset, kinds: Mapping[str, str]) -> Json:
    return {
        "version": VERSION,
        "crs": footprint_index(ds).crs.to_json_dict(),
        "assets": [str(key) for key in ds[schema.ASSET].values],
        "variables": dict(kinds),
        "attrs": ds.attrs,
    }


def _kind(name: str, values: NDArray[np.generic], plain: pa.Array | None) -> str:
    """How a property comes back: a numpy dtype, a long, ``"object"``, or perhaps from text.

    Of the last kind are ``"json"`` and :data:`BOOLEAN`, longs :data:`LONG` and :data:`ULONG`.
    """
    if values.dtype.kind in "iu" and not _are_exact_as_floats(values):
        return LONG if values.dtype.kind == "i" else ULONG
    if values.dtype.kind not in "OU":
        return values.dtype.str
    if is_from_text(name):
        return "json"
    if plain is not None and pa.types.is_boolean(plain.type):
        return BOOLEAN
    return "object" if plain is not None and plain.type == TEXT else "json"


def _are_exact_as_floats(values: NDArray[np.generic]) -> bool:
    return not values.size or -(2**53) <= values.min() <= values.max() <= 2**53
