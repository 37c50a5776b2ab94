"""STAC items of what a run made, and of what it failed to make."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pyproj
import shapely
import xarray as xr
from odc.geo.geobox import GeoBox

from xgeocat.catalog.aoi import Where, outline
from xgeocat.catalog.sources import Json
from xgeocat.domain.geoslice import GeoSlice, crs_code, crs_of
from xgeocat.domain.signing import without_queries
from xgeocat.patching.nodata import nodata_of
from xgeocat.runs.errors import UnitError
from xgeocat.runs.ledger import DATA, ITEMS
from xgeocat.runs.sinks import Sink

COLLECTION_FILE = "collection.json"
#: What the properties of a failed slice begin with.
FAILURE = "failure:"


def output_item(piece: GeoSlice, field: xr.Dataset, geobox: GeoBox, unit: str, sink: Sink) -> Json:
    """Describe the output of one slice, with hrefs relative to the folder of the items."""
    grid = {
        "proj:code": crs_code(geobox),
        "proj:shape": list(geobox.shape),
        "proj:transform": list(geobox.transform)[:6],
    }
    item = _item(piece, geobox)
    for name, var in field.data_vars.items():
        nodata = nodata_of(var)
        if nodata is None and var.dtype.kind == "f":
            nodata = np.nan
        # Said even where there is none: readers must not take the source's for it.
        about: Json = {
            "data_type": str(var.dtype),
            "raster:scale": float(var.attrs.get("scale", 1)),
            "raster:offset": float(var.attrs.get("offset", 0)),
        }
        if nodata is not None:
            about["nodata"] = nodata if np.isfinite(nodata) else str(nodata)
        item["assets"][str(name)] = {
            "href": f"../{DATA}/{sink.entry(unit, str(name))}",
            "type": sink.media_type,
            "roles": ["data"],
            **grid,
            **about,
        }
    return item


def in_collection(item: Json, collection: str) -> Json:
    """Say which STAC collection an item is of."""
    links = [
        {"rel": rel, "href": f"../{COLLECTION_FILE}", "type": "application/json"}
        for rel in ("root", "parent", "collection")
    ]
    return {**item, "collection": collection, "links": links}


def by_itself(item: Json) -> Json:
    """An item as one of a table in the folder of the run: without links, with hrefs from there."""
    assets = {
        key: {**asset, "href": asset["href"].removeprefix("../")}
        for key, asset in item["assets"].items()
    }
    return {**item, "links": [], "assets": assets}


def collection_of(items: Sequence[Json], names: Sequence[str], collection: str) -> Json:
    """Describe the outputs of a run as a static STAC collection.

    https://github.com/radiantearth/stac-spec/blob/master/collection-spec/collection-spec.md

    Parameters
    ----------
    items : sequence of dict
        The items, at least one.
    names : sequence of str
        Names of their files.
    collection : str
        Its id.
    """
    boxes = np.array([item["bbox"] for item in items])
    times = [
        sorted(filter(None, (item["properties"].get(key) for item in items)))
        for keys in (("start_datetime", "datetime"), ("end_datetime", "datetime"))
        for key in keys
    ]
    earliest = min((found[0] for found in times[:2] if found), default=None)
    latest = max((found[-1] for found in times[2:] if found), default=None)
    return {
        "type": "Collection",
        "stac_version": "1.1.0",
        "id": collection,
        "description": "Predictions, one item for each scene; made with xgeocat.",
        "license": "other",
        "extent": {
            "spatial": {"bbox": [[*boxes[:, :2].min(axis=0), *boxes[:, 2:].max(axis=0)]]},
            "temporal": {"interval": [[earliest, latest]]},
        },
        "links": [
            {"rel": "root", "href": f"./{COLLECTION_FILE}", "type": "application/json"},
            *(
                {"rel": "item", "href": f"./{ITEMS}/{name}", "type": "application/geo+json"}
                for name in names
            ),
        ],
    }


def failure_item(piece: GeoSlice, error: UnitError, source: Json | None = None) -> Json:
    """Describe a slice that failed.

    Parameters
    ----------
    piece : GeoSlice
        The slice.
    error : UnitError
        Why.
    source : dict, optional
        STAC item of its scene, so that it can be loaded from the record; what signs its URLs is
        left out.
    """
    if source is None:
        item = _item(piece, piece.geobox)
    else:
        item = {**without_queries(source), "links": []}
    item["properties"] |= {
        f"{FAILURE}step": error.step,
        f"{FAILURE}error": error.error,
        f"{FAILURE}message": error.message,
        f"{FAILURE}tries": error.tries,
        f"{FAILURE}traceback": error.trace,
    }
    return item


def _item(piece: GeoSlice, geobox: GeoBox) -> Json:
    geometry = piece.footprint
    if geometry is None:
        crs = pyproj.CRS.from_user_input(crs_of(geobox).to_wkt())
        geometry = outline(Where(geobox.extent.geom, crs))
    start, end = (
        (None, None)
        if piece.interval is None
        else (f"{np.datetime_as_string(t, unit='us')}Z" for t in piece.interval)
    )
    times = (
        {"datetime": start}
        if start == end
        else {"datetime": None, "start_datetime": start, "end_datetime": end}
    )
    # A scene that failed once and is run again from the record of that.
    about = {k: v for k, v in piece.properties.items() if not k.startswith(FAILURE)}
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "id": piece.name,
        "geometry": json.loads(shapely.to_geojson(geometry)),
        "bbox": list(geometry.bounds),
        "properties": {**about, **times},
        "links": [],
        "assets": {},
    }
