"""Metadata: what a file of scenes says of itself, beside the stac-geoparquet layout."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyproj

from xgeocat.catalog.aoi import WGS84, same_crs
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
CORNERS = ("xmin", "ymin", "xmax", "ymax")
#: Places of rows, while they are brought into an order.
RANK = "geocat:rank"
#: Properties that the layout has as moments.
MOMENTS = ("created", "updated", "expires", "published", "unpublished")
#: Columns that are not of a property.
MEMBERS = ("type", "stac_version", "stac_extensions", "id", "collection", "geometry", "bbox",
           "links", "assets", "datetime", "start_datetime", "end_datetime",
           ITEM, ASSETS, TEXTS, FOOTPRINT, BOX, RANK)  # fmt: skip

#: Kinds of properties that no numpy dtype says: integers of which some are not exact as floats,
#: signed or not; booleans with gaps; any of them, with gaps where a table has no such column.
LONG, ULONG, BOOLEAN, GAPS = "long", "ulong", "boolean", "?"
NO_DTYPES = {LONG, ULONG, BOOLEAN, "object", "json"}


def is_from_text(name: str) -> bool:
    """Tell whether a property comes back from its text alone, as its column is of another use."""
    return name in MEMBERS or name in MOMENTS


def of_file(about: Json) -> dict[bytes, bytes]:
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


def about_table(table: pa.Schema) -> Json:
    """What a table of ours says of itself; see :func:`xgeocat.catalog.layout.about_of`."""
    found: Json = json.loads(table.metadata[METADATA_KEY])
    return found


def namesakes(table: pa.Schema, own: Json, whole: Json) -> frozenset[str]:
    """Columns of a table that are no properties of its scenes, but are of others.

    Its items have lists and objects under these names, which a catalog keeps in `ITEM`: beside the
    others' values their columns are null, as they are where one table has both.

    Parameters
    ----------
    table : pyarrow.Schema
        Of a table of ours.
    own, whole : dict
        What it says of itself, and what one says that holds the others' rows too.
    """
    others = whole["variables"].keys() - own["variables"].keys() - {*MEMBERS}
    return frozenset(others.intersection(table.names))


def common_metadata(tables: Sequence[pa.Schema]) -> dict[bytes, bytes]:
    """Metadata of one table that holds the rows of several of ours."""
    said = dict.fromkeys(table.metadata[METADATA_KEY] for table in tables)
    return of_file(about_all(list(map(json.loads, said))))


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
    for long, signs in ((LONG, "iu"), (ULONG, "u")):
        integers = {kind for kind in plain - NO_DTYPES if kind[1] in signs}
        if long in plain and plain - {long} == integers:
            return long + GAPS if gaps else long
    if plain & {*NO_DTYPES, booleans}:
        raise ValueError(
            f"The property {name!r} is of kinds {sorted(known)}, which do not go into one column. "
            "Turn one into the other, or drop it: ds.drop_vars(...)."
        )
    common = np.result_type(*plain)
    return common.str if None not in kinds else np.result_type(common, np.float64).str


def dtype_of(kind: str) -> np.dtype[np.generic]:
    """Dtype of a property that comes back as a kind."""
    if kind in (LONG, ULONG):
        return np.dtype(np.int64 if kind == LONG else np.uint64)
    objects = kind in ("object", "json", "item", BOOLEAN) or kind.endswith(GAPS)
    return np.dtype(object if objects else kind)


def is_complete(table: pa.Schema, about: Json) -> bool:
    """Tell whether a table has the columns of which it says that it has them."""
    named = {name for name in about["variables"] if not is_from_text(name)}
    always = {"id", "collection", "geometry", "bbox", "assets", "datetime", ITEM}
    return set(table.names) >= named | always


def about_file(said: Mapping[bytes, bytes] | None, file: str) -> Json | None:
    """What our metadata says of a file; None for a file that is not ours.

    Raises
    ------
    ValueError
        For a file of a later version.
    """
    text = (said or {}).get(METADATA_KEY)
    about: Json | None = None if text is None else json.loads(text)
    if about is not None and about.get("version", VERSION) > VERSION:
        raise ValueError(
            f"{file} was written by a later xgeocat (layout {about['version']}; this one reads up "
            f"to {VERSION}). Update xgeocat."
        )
    return about
