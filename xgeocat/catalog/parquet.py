"""GeoParquet: catalogs on disk, in the stac-geoparquet layout that other tools read too."""

from __future__ import annotations

import io
import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyproj
import shapely
import xarray as xr
from xarray.backends import BackendEntrypoint

from xgeocat.catalog import schema
from xgeocat.catalog.aoi import WGS84
from xgeocat.catalog.index import footprint_index
from xgeocat.catalog.interval import to_utc
from xgeocat.catalog.provenance import attrs_from_json, is_json
from xgeocat.catalog.sources import Json, absolute
from xgeocat.catalog.stac import from_items, to_dicts
from xgeocat.storage.folder import is_remote, parent_and_name

#: File metadata: what the STAC layout has no place for.
METADATA_KEY = b"geocat"
#: Items as they are, in JSON. Arrow columns cannot tell a missing member from a null one, nor keep
#: the spelling of a time, so the columns are for other tools and for pruning, and this is for us.
ITEM_COLUMN = "geocat:item"
#: Properties that stac-geoparquet reads as moments.
TIMES = ("datetime", "start_datetime", "end_datetime", "created", "updated", "expires",
         "published", "unpublished")  # fmt: skip
STAC_MEMBERS = ("type", "stac_version", "stac_extensions", "id", "collection", "geometry", "bbox",
                "links")  # fmt: skip
#: The table of a run, inside its output folder.
CATALOG_FILE = "catalog.parquet"


def to_geoparquet(ds: xr.Dataset, path: str | os.PathLike[str]) -> Path | str:
    """Write a catalog as GeoParquet in the stac-geoparquet layout.

    The file appears whole or not at all.

    Parameters
    ----------
    ds : Dataset
        A catalog, empty or not.
    path : path or URL
        Where to, on a disk or in an object store (``s3://``); an older file there is replaced.

    Returns
    -------
    Path or str
        The path, or URL, written.

    Raises
    ------
    FileNotFoundError
        When the folder of the file does not exist.
    ValueError
        When a property has values of kinds that one column cannot hold.
    """
    schema.require_catalog(ds, "to_geoparquet")
    lost = [
        str(name)
        for name in ds.variables
        if name not in schema.RESERVED
        and (ds[name].dims != (schema.SCENE,) or name in ds.coords or ds[name].dtype.kind in "mM")
    ] + [f"attrs[{name!r}]" for name, value in ds.attrs.items() if not is_json({name: value})]
    if lost:
        raise ValueError(
            f"A GeoParquet catalog has no place for {lost}: it keeps variables over "
            f"({schema.SCENE!r},) of numbers, booleans and text, and attrs of JSON values. Turn "
            "them into such, or drop them."
        )
    folder, name = parent_and_name(path)
    if not is_remote(os.fspath(path)) and not Path(folder.url).is_dir():
        raise FileNotFoundError(f"There is no folder {folder.url} to write {name} into; make it.")
    about = json.dumps({"crs": footprint_index(ds).crs.to_json_dict(), "attrs": ds.attrs}).encode()
    try:
        table = _with_exact_items(to_dicts(ds))
    except (pa.ArrowException, OverflowError) as error:
        raise ValueError(
            f"The catalog cannot be written as one table: {error}. Items of different collections "
            "may give one property different kinds; write a file for each collection."
        ) from error
    written = io.BytesIO()
    metadata = {**table.schema.metadata, METADATA_KEY: about}
    pq.write_table(table.replace_schema_metadata(metadata), written, compression="zstd")
    folder.write(name, written.getvalue())
    return os.fspath(path) if is_remote(os.fspath(path)) else Path(path)


def _with_exact_items(items: list[Json]) -> pa.Table:
    """The table of some items, with its GeoParquet metadata, and with the items as they are."""
    # Imported late: it costs more than the rest of the catalog together.
    import stac_geoparquet.arrow as sga

    # A table of no items still has the columns that readers look for.
    exact = pa.array([json.dumps(item, separators=(",", ":")) for item in items], pa.string())
    with tempfile.TemporaryDirectory(prefix="xgeocat-") as temporary:
        file = Path(temporary) / CATALOG_FILE
        for simpler in (False, True):
            try:
                table = _table(items or [_EXAMPLE], simpler).slice(0, len(items))
                sga.to_parquet(table.append_column(ITEM_COLUMN, exact), file)
            except (pa.ArrowException, OverflowError):
                if simpler:
                    raise
            else:
                return pq.read_table(file)
    raise AssertionError("unreachable: the second way returns or raises")


def _table(items: list[Json], simpler: bool) -> pa.Table:
    """Columns of the stac-geoparquet layout, for other tools and for pruning."""
    import stac_geoparquet.arrow as sga

    known = [
        {**item, "geometry": _plainest(item["geometry"]),
         "bbox": item.get("bbox") or [0, 0, 0, 0]}
        for item in items
    ]  # fmt: skip
    # The exact items stand beside: in the columns, what Arrow has no kind for is text.
    rows = [_as_text(item) for item in known] if simpler else known
    return sga.parse_stac_items_to_arrow(rows).read_all()


def _plainest(geometry: Json | None) -> Json:
    """As shapely writes it; empty where the footprint is not known."""
    known = shapely.Polygon() if geometry is None else shapely.from_geojson(json.dumps(geometry))
    found: Json = json.loads(shapely.to_geojson(known))
    return found


def _as_text(item: Json) -> Json:
    properties = {}
    for key, value in item["properties"].items():
        if key in TIMES and value is not None:
            try:
                value = f"{np.datetime_as_string(to_utc(value), unit='us')}Z"
            except ValueError:
                value = None
        elif value is not None and not isinstance(value, str):
            value = json.dumps(value)
        properties[key] = value
    assets = {
        key: {k: v if isinstance(v, str) or k == "roles" else json.dumps(v) for k, v in a.items()}
        for key, a in item["assets"].items()
    }
    kept = {k: item[k] for k in STAC_MEMBERS if k in item}
    return {**kept, "properties": properties, "assets": assets}


_EXAMPLE = {
    "type": "Feature",
    "stac_version": "1.0.0",
    "id": "example",
    "geometry": {"type": "Point", "coordinates": [0, 0]},
    "bbox": [0, 0, 0, 0],
    "properties": {"datetime": "2000-01-01T00:00:00Z"},
    "links": [],
    "assets": {},
}


def open_catalog(path: str | os.PathLike[str]) -> xr.Dataset:
    """Open a catalog from GeoParquet.

    Parameters
    ----------
    path : path or URL
        A stac-geoparquet file, or the output folder of a run, on a disk or in an object store.

    Returns
    -------
    Dataset
        The catalog, as :func:`xgeocat.from_items` makes it, in the CRS it was written from.

    Raises
    ------
    FileNotFoundError
        When there is no such file, or no catalog in the folder.
    ValueError
        When the file is no GeoParquet of STAC items, or is damaged.
    """
    import stac_geoparquet.arrow as sga

    folder, name = parent_and_name(path)
    if folder.inside(name).has(CATALOG_FILE):
        folder, name = folder.inside(name), CATALOG_FILE
    file = os.fspath(path)
    try:
        table = pq.read_table(pa.BufferReader(folder.read(name)))
    except (FileNotFoundError, IsADirectoryError) as error:
        raise FileNotFoundError(
            f"There is no catalog at {file}. Give a GeoParquet file, or the output folder of a "
            f"run that has finished (it holds {CATALOG_FILE})."
        ) from error
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{file} is no readable Parquet file: {error}.") from error
    missing = {"id", "geometry"} - set(table.column_names)
    if missing:
        raise ValueError(
            f"{file} holds no STAC items: it has no column {sorted(missing)}, but "
            f"{table.column_names[:12]}. Tables of other kinds can be read with geopandas."
        )
    about = json.loads((table.schema.metadata or {}).get(METADATA_KEY, b"{}"))
    crs = pyproj.CRS.from_json_dict(about["crs"]) if "crs" in about else WGS84
    if ITEM_COLUMN in table.column_names:
        items: Iterable[Json] = map(json.loads, table[ITEM_COLUMN].to_pylist())
    else:
        try:
            items = list(map(_without_nulls, sga.stac_table_to_items(table)))
        except (pa.ArrowException, KeyError) as error:
            raise ValueError(f"{file} holds no STAC items that can be read: {error}.") from error
    # Outputs of a run are named relative to its folder, so that it can be moved.
    base = f"{folder.absolute}/{name}"
    catalog = from_items((absolute(item, base) for item in items), crs=crs)
    return catalog.assign_attrs(attrs_from_json(about.get("attrs", {})))


def _without_nulls(item: Json) -> Json:
    """Leave out the nulls that a table has for members an item never had."""
    kept = cast("Json", _prune(item))
    kept.setdefault("geometry", None)
    for member in ("properties", "assets"):
        kept.setdefault(member, {})
    kept["properties"].setdefault("datetime", None)
    return kept


def _prune(value: object) -> object:
    if isinstance(value, dict):
        return {k: _prune(v) for k, v in value.items() if v is not None}
    return [_prune(v) for v in value] if isinstance(value, list) else value


class GeocatBackend(BackendEntrypoint):
    """``xr.open_dataset(path, engine="geocat")``."""

    description = "Open catalogs of scenes (stac-geoparquet) with xgeocat"
    open_dataset_parameters = ("filename_or_obj", "drop_variables")

    def open_dataset(  # type: ignore[override]
        self,
        filename_or_obj: str | os.PathLike[str],
        *,
        drop_variables: str | Iterable[str] | None = None,
    ) -> xr.Dataset:
        """Open a catalog; see :func:`open_catalog`."""
        ds = open_catalog(filename_or_obj)
        return ds if drop_variables is None else ds.drop_vars(drop_variables, errors="ignore")

    def guess_can_open(self, filename_or_obj: object) -> bool:
        """Leave other people's Parquet files alone: only ``engine="geocat"`` opens with this."""
        return False
