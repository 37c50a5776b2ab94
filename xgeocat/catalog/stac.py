"""STAC items to catalog and back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from sys import intern

import numpy as np
import pyproj
import pystac
import shapely
import xarray as xr
from shapely.geometry.base import BaseGeometry

from xgeocat.catalog import schema
from xgeocat.catalog.aoi import WGS84, Where, cut_at_antimeridian, outline, reproject, same_crs
from xgeocat.catalog.build import Scene, catalog_dataset
from xgeocat.catalog.index import footprint_index
from xgeocat.catalog.interval import Interval, to_utc
from xgeocat.catalog.radiometry import ITEM_SAYS, asset_radiometry
from xgeocat.catalog.sources import Json, Source, read_items

GRID_KEYS = ("proj:code", "proj:epsg", "proj:wkt2", "proj:projjson")
TIME_KEYS = ("datetime", "start_datetime", "end_datetime")
#: Properties that are read into other columns, or whose names a catalog uses itself.
NOT_COLUMNS = {*TIME_KEYS, *GRID_KEYS, *schema.RESERVED}

#: JSON as a catalog keeps it; one encoder, for there are tens of assets to a scene.
encoded = json.JSONEncoder(separators=(",", ":")).encode


def from_items(source: Source, *, crs: object = WGS84) -> xr.Dataset:
    """Build a catalog from STAC items.

    Parameters
    ----------
    source : iterable of pystac.Item or dict, ItemCollection, or path
        A path may be an Item, an ItemCollection or FeatureCollection, newline-delimited items, or
        a static Catalog or Collection, which is walked. Relative hrefs are resolved against it.
    crs : CRS, default: EPSG:4326
        CRS of the catalog's footprints.

    Returns
    -------
    Dataset
        Dims ``(scene, asset)``, one row per item in the order given: ``scene`` ids, ``geometry``
        with its FootprintIndex, ``start_time`` and ``end_time`` (UTC), ``collection``; ``href``,
        grid and radiometry of each asset; every scalar property under its own STAC name.

    Raises
    ------
    ValueError
        For a file or mapping that holds no STAC items, and for items without an id or with a time
        that cannot be read, with the list of offenders.
    """
    target = pyproj.CRS.from_user_input(crs)
    scenes, wrong = [], []
    known: dict[tuple[str, str, str], Json] = {}
    for item in read_items(source):
        try:
            scenes.append(_scene(item, target, known))
        except (
            AttributeError,
            KeyError,
            TypeError,
            ValueError,
            shapely.errors.ShapelyError,
        ) as error:
            wrong.append(f"{item.get('id', '(no id)')}: {error!r}")
    if wrong:
        shown = "\n  ".join(wrong[:10])
        raise ValueError(
            f"{len(wrong)} of {len(wrong) + len(scenes)} items cannot be read as scenes; leave "
            f"them out or mend them:\n  {shown}"
        )
    return catalog_dataset(scenes, target)


def _scene(item: Json, crs: pyproj.CRS, known: dict[tuple[str, str, str], Json]) -> Scene:
    properties = item["properties"]
    rest = {
        k: v
        for k, v in item.items()
        if k not in ("id", "collection", "properties", "assets", "geometry", "type")
    }
    scalars = {
        k: v
        for k, v in properties.items()
        if isinstance(v, (str, int, float, bool)) and k not in NOT_COLUMNS
    }
    rest["properties"] = {k: v for k, v in properties.items() if k not in scalars}
    geometry, raw = _footprint(item, crs)
    if raw is not None:
        rest["geometry"] = raw
    start, end = _times(properties)
    said = {k: v for k, v in properties.items() if k in ITEM_SAYS or k.startswith("proj:")}
    words = encoded(said)
    assets = {key: _asset(key, asset, said, words, known) for key, asset in item["assets"].items()}
    return Scene(
        id=item["id"],
        collection=item.get("collection"),
        geometry=geometry,
        start=start,
        end=end,
        properties=scalars,
        assets=assets,
        rest=encoded(rest),
    )


def _footprint(item: Json, crs: pyproj.CRS) -> tuple[BaseGeometry | None, Json | None]:
    """Footprint in `crs`, and the geometry as given where the footprint does not give it back."""
    if item.get("geometry") is None:
        return None, None
    given = shapely.from_geojson(json.dumps(item["geometry"]))
    if same_crs(crs, WGS84):
        footprint = cut_at_antimeridian(given)
        same = footprint is given and is_plain(item["geometry"])
        return footprint, None if same else item["geometry"]
    native = item["properties"].get("proj:geometry")
    code = crs_code(item["properties"])
    if native is not None and code and same_crs(pyproj.CRS.from_user_input(code), crs):
        return shapely.from_geojson(json.dumps(native)), item["geometry"]
    return reproject(Where(cut_at_antimeridian(given), WGS84), crs), item["geometry"]


def is_plain(geometry: Json) -> bool:
    """Tell whether a geometry in memory says all that is said: a polygon, in two dimensions."""
    return (
        geometry.keys() == {"type", "coordinates"}
        and geometry["type"] == "Polygon"
        and all(len(place) == 2 for ring in geometry["coordinates"] for place in ring)
    )


def _times(properties: Mapping[str, object]) -> tuple[np.datetime64, np.datetime64]:
    moment, start, end = (to_utc(properties.get(key)) for key in TIME_KEYS)
    return (
        moment if np.isnat(start) else start,
        moment if np.isnat(end) else end,
    )


def crs_code(fields: Mapping[str, object]) -> str | None:
    """Read the CRS of an item or asset, in whichever of the projection extension's spellings."""
    code, epsg = fields.get("proj:code"), fields.get("proj:epsg")
    if isinstance(code, str):
        return code
    if epsg is not None:
        return f"EPSG:{epsg}"
    if isinstance(fields.get("proj:wkt2"), str):
        return str(fields["proj:wkt2"])
    projjson = fields.get("proj:projjson")
    return None if projjson is None else json.dumps(projjson)


def _asset(
    key: str, asset: Json, said: Json, words: str, known: dict[tuple[str, str, str], Json]
) -> Json:
    """Read an asset of an item, of which `words` are all that it says of its assets.

    Most assets of a collection say the same beyond their href, and are read once.
    """
    rest = intern(encoded({k: v for k, v in asset.items() if k != "href"}))
    found = known.get((key, rest, words))
    if found is None:
        found = known[key, rest, words] = _read_asset(key, asset, said, rest)
    return {schema.HREF: asset.get("href"), **found}


def _read_asset(key: str, asset: Json, said: Json, rest: str) -> Json:
    if schema.OWN_ITEM in asset:
        said = asset[schema.OWN_ITEM]
        key = own_key(key, asset)
    grid = {name: value for name, value in said.items() if name.startswith("proj:")}
    radiometry = asset_radiometry(key, asset, said)
    shape = asset.get("proj:shape", grid.get("proj:shape"))
    transform = asset.get("proj:transform", grid.get("proj:transform"))
    # Its own, in whatever spelling, before the item's in any other.
    has_crs = any(asset.get(name) is not None for name in GRID_KEYS)
    return {
        schema.CRS: crs_code(asset if has_crs else {**grid, **asset}),
        schema.SHAPE: list(map(float, shape)) if shape and len(shape) == 2 else None,
        schema.TRANSFORM: list(map(float, transform[:6]))
        if transform and len(transform) >= 6
        else None,
        schema.NODATA: radiometry.nodata,
        schema.SCALE: radiometry.scale,
        schema.OFFSET: radiometry.offset,
        schema.DTYPE: radiometry.dtype,
        schema.ASSET_JSON: rest,
    }


def own_key(key: str, asset: Json) -> str:
    """Key of an asset in its own item: another one if it was put beside those of another item."""
    return str(asset.get(schema.OWN_ITEM, {}).get("key", key))


# --- the way back ---------------------------------------------------------------------------------


def to_items(ds: xr.Dataset) -> list[pystac.Item]:
    """Turn a catalog into STAC items.

    Parameters
    ----------
    ds : Dataset
        A catalog. Variables over ``scene`` that it gained become properties.

    Returns
    -------
    list of pystac.Item
        One per scene, in order; what :func:`from_items` was given comes back as it was.
    """
    return [pystac.Item.from_dict(item) for item in to_dicts(ds)]


def to_dicts(ds: xr.Dataset) -> list[Json]:
    """Turn a catalog into STAC items as plain dicts; see :func:`to_items`."""
    ds = schema.require_catalog(ds, "to_items")
    crs = footprint_index(ds).crs
    geometries = ds[schema.GEOMETRY].values
    properties = property_columns(ds)
    assets = _asset_columns(ds)
    columns = (ds[schema.SCENE].values, ds[schema.COLLECTION].values, ds[schema.ITEM_JSON].values)
    items = []
    for i, (scene, collection, rest) in enumerate(zip(*columns, strict=True)):
        item: Json = {"type": "Feature", "id": str(scene), **item_rest(scene, rest)}
        item.setdefault("stac_version", "1.0.0")
        item.setdefault("links", [])
        for name, values in properties.items():
            if values[i] is not None:
                item["properties"][name] = values[i]
        item["assets"] = {
            key: {"href": href, **json.loads(text)} if href is not None else json.loads(text)
            for key, href, text in assets[i]
        }
        if isinstance(collection, str):
            item["collection"] = collection
        if "geometry" not in item:
            item["geometry"] = _geojson(geometries[i], crs)
        if "bbox" not in item and item["geometry"] is not None:
            item["bbox"] = bbox_of(shapely.from_geojson(json.dumps(item["geometry"])))
        items.append(item)
    return items


def item_rest(scene: object, text: object) -> Json:
    """Read what ``item_json`` keeps of a scene's item.

    Raises
    ------
    ValueError
        When there is none, because the scene was masked.
    """
    if not isinstance(text, str):
        raise ValueError(
            f"Scene {scene!r} has no item_json: it was masked, as by .where(...). Select "
            "scenes with .isel(scene=...), or use .where(..., drop=True)."
        )
    rest: Json = json.loads(text)
    return rest


def _geojson(geometry: BaseGeometry | None, crs: pyproj.CRS) -> Json | None:
    if geometry is None:
        return None
    found: Json = json.loads(shapely.to_geojson(outline(Where(geometry, crs))))
    return found


def bbox_of(geometry: BaseGeometry) -> list[float]:
    """Bounds in degrees; of what was cut at 180 degrees, west > east (RFC 7946, section 5.2)."""
    west, south, east, north = geometry.bounds
    parts = shapely.bounds(shapely.get_parts(geometry))
    if (west, east) == (-180, 180):
        firsts, lasts = parts[parts[:, 2] == 180, 0], parts[parts[:, 0] == -180, 2]
        if firsts.min() > lasts.max():
            west, east = float(firsts.min()), float(lasts.max())
    return [west, south, east, north]


def time_fields(interval: Interval) -> Json:
    """Time of a scene, in the properties of its item; NaT is null."""
    start, end = (
        None if np.isnat(t) else f"{np.datetime_as_string(t, unit='us')}Z" for t in interval
    )
    if start == end and start is not None:
        return {"datetime": start}
    # STAC wants both wherever there is no moment, null or not.
    return {"datetime": None, "start_datetime": start, "end_datetime": end}


def native_fields(geometry: BaseGeometry | None, crs: pyproj.CRS) -> Json:
    """Footprint in a CRS of its own, which STAC has a place for beside the WGS 84 one.

    With it nothing moves on the way to a file and back.
    """
    if geometry is None or same_crs(crs, WGS84):
        return {}
    code = crs.to_authority()
    said = {"proj:code": ":".join(code)} if code else {"proj:wkt2": crs.to_wkt()}
    return {**said, "proj:geometry": json.loads(shapely.to_geojson(geometry))}


def property_columns(ds: xr.Dataset) -> dict[str, Sequence[object]]:
    """Properties of the scenes, in JSON values; None where a scene has none."""
    columns: dict[str, Sequence[object]] = {}
    for name, var in ds.variables.items():
        if var.dims == (schema.SCENE,) and name not in schema.RESERVED:
            columns[str(name)] = (
                [_plain(v) for v in var.values.tolist()]
                if (var.dtype.kind != "M")
                else iso_texts(var.values)
            )
    return columns


def _plain(value: object) -> object:
    missing = value is None or (isinstance(value, float) and np.isnan(value))
    return None if missing else value


def iso_texts(times: Iterable[np.datetime64]) -> list[str | None]:
    """Write times as ISO 8601; None where not known."""
    return [None if np.isnat(t) else f"{np.datetime_as_string(t, unit='us')}Z" for t in times]


def _asset_columns(ds: xr.Dataset) -> list[list[tuple[str, str | None, str]]]:
    keys = [str(key) for key in ds[schema.ASSET].values]
    hrefs = ds[schema.HREF].transpose(schema.SCENE, schema.ASSET).values
    texts = ds[schema.ASSET_JSON].transpose(schema.SCENE, schema.ASSET).values
    return [
        [
            (k, href if isinstance(href, str) else None, text)
            for k, href, text in zip(keys, row, more, strict=True)
            if isinstance(text, str)
        ]
        for row, more in zip(hrefs, texts, strict=True)
    ]
