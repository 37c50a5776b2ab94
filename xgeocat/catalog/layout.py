"""Layout: scenes as a table of the stac-geoparquet layout, beside it what such a table loses.

Arrow cannot tell a missing member of an item from a null one, nor keep the spelling of a time. So
the columns that other tools read are made of what the catalog knows, and beside them stand texts,
column by column, from which the catalog comes back as it was.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

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
from xgeocat.catalog.sources import Json

#: What is written here; a file of a later version is refused.
VERSION = 1
#: File metadata: what the STAC layout has no place for.
METADATA_KEY = b"geocat"
#: Texts beside the columns: what an item says beyond its columns; for each asset what it says but
#: its href; properties whose column does not give them back.
ITEM, ASSETS, TEXTS = "geocat:item", "geocat:assets", "geocat:texts"
#: Footprints in the catalog's CRS, where that is not WGS 84, and their boxes.
FOOTPRINT, BOX = "geocat:footprint", "geocat:box"
#: Properties that the layout has as moments.
MOMENTS = ("created", "updated", "expires", "published", "unpublished")
#: Columns that are not of a property.
MEMBERS = ("type", "stac_version", "stac_extensions", "id", "collection", "geometry", "bbox",
           "links", "assets", "datetime", "start_datetime", "end_datetime",
           ITEM, ASSETS, TEXTS, FOOTPRINT, BOX)  # fmt: skip

#: Kinds of properties that no numpy dtype says: integers of which some are not exact as floats;
#: booleans with gaps; either of them, with gaps where a table has no such column.
LONG, BOOLEAN, GAPS = "long", "boolean", "?"

MOMENT = pa.timestamp("us", tz="UTC")
CORNERS = ("xmin", "ymin", "xmax", "ymax")

# --- scenes to table ------------------------------------------------------------------------------


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
    index = footprint_index(ds)
    items = texts_of(ds[schema.ITEM_JSON])
    if items.null_count:
        lost = ds[schema.SCENE].values[np.asarray(items.is_null())]
        raise ValueError(
            f"Scene {lost[0]!r} has no item_json: it was masked, as by .where(...). Select "
            "scenes with .isel(scene=...), or use .where(..., drop=True)."
        )
    said, (assets, own) = parsed(items), _assets(ds)
    columns: dict[str, pa.Array] = {
        "type": pa.repeat(pa.scalar("Feature"), len(items)),
        "stac_version": said.pop("stac_version", pa.repeat(pa.scalar("1.0.0"), len(items))),
        "stac_extensions": lists_or_none(said.pop("stac_extensions", None), len(items)),
        "id": texts_of(ds[schema.SCENE]),
        "collection": texts_of(ds[schema.COLLECTION]),
        **_places(index.geometry, index.crs, items),
        "links": links_or_none(said.pop("links", None), len(items)),
        "assets": assets,
        **_moments(index.start, index.end, items),
    }
    nested = said.pop("properties", None)
    exact: dict[str, pa.Array] = {}
    kinds: dict[str, str] = {}
    for name, values in _properties(ds).items():
        column = _plain_column(values)
        kinds[name] = _kind(name, values, column)
        if kinds[name] in ("json", BOOLEAN) or is_from_text(name):
            exact[name] = pa.array(map(_json_or_none, values.tolist()), pa.string())
        if column is None:
            column = exact[name]
        elif name in MOMENTS and pa.types.is_string(column.type):
            column = _as_moments(column)
        if name not in MEMBERS:
            columns[name] = column
    for name, column in members_of(nested).items():
        if name not in columns and name not in schema.RESERVED:
            columns[name] = column
    columns[ITEM] = items
    columns |= {name: struct_of(texts) for name, texts in ((ASSETS, own), (TEXTS, exact)) if texts}
    return pa.table(columns).replace_schema_metadata(metadata(_about(ds, kinds)))


def is_from_text(name: str) -> bool:
    """Tell whether a property comes back from its text alone, as its column is of another use."""
    return name in MEMBERS or name in MOMENTS


def is_lost(ds: xr.Dataset, name: str) -> bool:
    """Tell whether a table has no place for a variable."""
    return name not in schema.RESERVED and (
        ds[name].dims != (schema.SCENE,) or name in ds.coords or ds[name].dtype.kind in "mMcV"
    )


def _properties(ds: xr.Dataset) -> dict[str, NDArray[np.generic]]:
    return {
        str(name): var.values
        for name, var in ds.variables.items()
        if var.dims == (schema.SCENE,) and name not in schema.RESERVED
    }


def texts_of(values: xr.DataArray) -> pa.StringArray:
    """Texts as a column, null where there is none."""
    found = values.values
    try:
        return pa.array(found, pa.string(), from_pandas=True)
    except pa.ArrowTypeError:
        plain = (None if v is None or v != v else str(v) for v in found.tolist())
        return pa.array(plain, pa.string())


def _plain_column(values: NDArray[np.generic]) -> pa.Array | None:
    """One column of numbers, booleans or texts; None for a mixture of them."""
    if values.dtype.kind not in "OU":
        return pa.array(values.astype(values.dtype.newbyteorder("="), copy=False), from_pandas=True)
    kind = pd.api.types.infer_dtype(values, skipna=True)
    if kind not in ("string", "boolean", "integer", "empty"):
        return None
    try:
        plain = {"string": pa.string(), "empty": pa.string()}.get(kind)
        return pa.array(values, plain, from_pandas=True)
    except (pa.ArrowException, OverflowError):
        return None


def _json_or_none(value: object) -> str | None:
    missing = value is None or (isinstance(value, float) and np.isnan(value))
    return None if missing else json.dumps(value)


def _as_moments(texts: pa.StringArray) -> pa.Array:
    found = pd.to_datetime(texts.to_pandas(), utc=True, format="ISO8601", errors="coerce")
    return pa.array(found.dt.as_unit("us"), MOMENT, from_pandas=True)


# --- places and times -----------------------------------------------------------------------------


def _places(
    footprints: NDArray[np.object_], crs: pyproj.CRS, items: pa.StringArray
) -> dict[str, pa.Array]:
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


def _moments(
    start: NDArray[np.datetime64], end: NDArray[np.datetime64], items: pa.StringArray
) -> dict[str, pa.Array]:
    """``datetime`` as the item has it, and the interval where it says one."""
    says = [
        np.asarray(pc.match_substring(items, f'"{edge}_datetime"')) for edge in ("start", "end")
    ]
    ranged = says[0] | says[1] | ((start != end) & ~(np.isnat(start) & np.isnat(end)))
    middle = start.copy()
    middle[ranged] = np.datetime64("NaT")
    null = np.asarray(pc.match_substring(items, '"datetime":null'))
    for i in np.flatnonzero(ranged & ~null):
        middle[i] = to_utc(json.loads(items[i].as_py())["properties"].get("datetime"))
    moments = {"datetime": pa.array(middle, pa.timestamp("us")).cast(MOMENT)}
    for name, edge in (("start_datetime", start), ("end_datetime", end)):
        moments[name] = pa.array(edge, pa.timestamp("us"), mask=~ranged).cast(MOMENT)
    return moments


# --- assets ---------------------------------------------------------------------------------------


def _assets(ds: xr.Dataset) -> tuple[pa.StructArray, dict[str, pa.StringArray]]:
    """What each asset says: as columns for others, and as it is.

    Most say the same as their like in other scenes, which is read once.
    """
    hrefs = ds[schema.HREF].transpose(schema.SCENE, schema.ASSET).values
    texts = ds[schema.ASSET_JSON].transpose(schema.SCENE, schema.ASSET).values
    assets, own = {}, {}
    for i, key in enumerate(map(str, ds[schema.ASSET].values)):
        codes, found = pd.factorize(texts[:, i])
        at, distinct = pa.array(codes, mask=codes < 0), pa.array(found, pa.string())
        columns = {"href": pa.array(hrefs[:, i], pa.string(), from_pandas=True)}
        columns |= {
            name: column.take(at) for name, column in parsed(distinct).items() if name != "href"
        }
        assets[key] = struct_of(columns, at.is_null())
        own[key] = distinct.take(at)
    # Parquet has no struct without members.
    return struct_of(assets or {"none": pa.nulls(ds.sizes[schema.SCENE], pa.string())}), own


# --- file metadata --------------------------------------------------------------------------------


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


def metadata(about: Json) -> dict[bytes, bytes]:
    """Metadata of a file of which we know what it says of itself."""
    crs = pyproj.CRS.from_json_dict(about["crs"])
    places = {"geometry": _geo_column("bbox", WGS84)}
    if not same_crs(crs, WGS84):
        places[FOOTPRINT] = _geo_column(BOX, crs)
    geo = {"version": "1.1.0", "primary_column": "geometry", "columns": places}
    return {
        b"geo": json.dumps(geo).encode(),
        b"stac-geoparquet": json.dumps({"version": "1.0.0"}).encode(),
        METADATA_KEY: json.dumps(about).encode(),
    }


def _geo_column(box: str, crs: pyproj.CRS) -> Json:
    """https://geoparquet.org/releases/v1.1.0, section "Column metadata"."""
    covering = {"bbox": {corner: [box, corner] for corner in CORNERS}}
    return {
        "encoding": "WKB",
        "geometry_types": [],
        "crs": crs.to_json_dict(),
        "covering": covering,
    }


def _kind(name: str, values: NDArray[np.generic], plain: pa.Array | None) -> str:
    """How a property comes back: a numpy dtype, :data:`LONG`, ``"object"``, or perhaps from text.

    Of the last kind are ``"json"`` and :data:`BOOLEAN`.
    """
    if values.dtype == np.int64:
        return values.dtype.str if _are_exact_as_floats(values) else LONG
    if values.dtype.kind not in "OU":
        return values.dtype.str
    if is_from_text(name):
        return "json"
    if plain is not None and pa.types.is_boolean(plain.type):
        return BOOLEAN
    return "object" if plain is not None and pa.types.is_string(plain.type) else "json"


def _are_exact_as_floats(values: NDArray[np.generic]) -> bool:
    return not values.size or -(2**53) <= values.min() <= values.max() <= 2**53


def about_table(table: pa.Schema) -> Json:
    """What a table of ours says of itself; see :func:`about_of`."""
    found: Json = json.loads(table.metadata[METADATA_KEY])
    return found


def common_metadata(tables: Sequence[pa.Schema]) -> dict[bytes, bytes]:
    """Metadata of one table that holds the rows of several of ours."""
    said = dict.fromkeys(table.metadata[METADATA_KEY] for table in tables)
    return metadata(about_all(list(map(json.loads, said))))


def about_all(abouts: Sequence[Json]) -> Json:
    """What tables say of themselves, as of one that holds the rows of all.

    Raises
    ------
    ValueError
        For footprints in different CRSs, and a property of kinds that do not go together.
    """
    crs = [pyproj.CRS.from_json_dict(about["crs"]) for about in abouts]
    other = next((one for one in crs if not same_crs(one, crs[0])), None)
    if other is not None:
        raise ValueError(
            f"Footprints in {crs[0].to_string()} and {other.to_string()} do not go into one "
            "catalog. Build both with the same crs=..."
        )
    names = dict.fromkeys(name for about in abouts for name in about["variables"])
    return {
        **abouts[0],
        "assets": list(dict.fromkeys(key for about in abouts for key in about["assets"])),
        "variables": {
            name: _common_kind(name, [about["variables"].get(name) for about in abouts])
            for name in names
        },
    }


def _common_kind(name: str, kinds: Sequence[str | None]) -> str:
    """Kind that a property has in all tables; None: one has no such property."""
    known = {kind for kind in kinds if kind is not None}
    if len(known) == 1 and None not in kinds:
        return known.pop()
    if known <= {"object", "json", BOOLEAN}:
        return known.pop() if len(known) == 1 else "json"
    gaps = None in kinds or any(kind.endswith(GAPS) for kind in known)
    plain = {kind.removesuffix(GAPS) for kind in known}
    booleans = np.dtype(bool).str
    if plain <= {booleans, BOOLEAN}:
        return booleans + GAPS if gaps or BOOLEAN in plain else booleans
    integers = {kind for kind in plain - {LONG, "object", "json", BOOLEAN} if kind[1] in "iu"}
    if LONG in plain and plain - {LONG} == integers:
        return LONG + GAPS if gaps else LONG
    if plain & {LONG, "object", "json", BOOLEAN, booleans}:
        raise ValueError(
            f"The property {name!r} is of kinds {sorted(known)}, which do not go into one column. "
            "Turn one into the other, or drop it: ds.drop_vars(...)."
        )
    common = np.result_type(*plain)
    return common.str if None not in kinds else np.result_type(common, np.float64).str


def dtype_of(kind: str) -> np.dtype[np.generic]:
    """Dtype of a property that comes back as a kind."""
    if kind == LONG:
        return np.dtype(np.int64)
    objects = kind in ("object", "json", "item", BOOLEAN) or kind.endswith(GAPS)
    return np.dtype(object if objects else kind)


def is_complete(table: pa.Schema, about: Json) -> bool:
    """Tell whether a table has the columns of which it says that it has them."""
    named = {name for name in about["variables"] if not is_from_text(name)}
    always = {"id", "collection", "geometry", "bbox", "assets", "datetime", ITEM}
    return set(table.names) >= named | always


def about_file(metadata: Mapping[bytes, bytes] | None, file: str) -> Json | None:
    """What our metadata says of a file; None for a file that is not ours.

    Raises
    ------
    ValueError
        For a file of a later version.
    """
    text = (metadata or {}).get(METADATA_KEY)
    about: Json | None = None if text is None else json.loads(text)
    if about is not None and about.get("version", VERSION) > VERSION:
        raise ValueError(
            f"{file} was written by a later xgeocat (layout {about['version']}; this one reads up "
            f"to {VERSION}). Update xgeocat."
        )
    return about
