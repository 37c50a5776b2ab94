"""GeoParquet: catalogs on disk, in the stac-geoparquet layout that other tools read too."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import cast

import pyarrow as pa
import pyarrow.parquet as pq
import pyproj
import xarray as xr
from xarray.backends import BackendEntrypoint

from xgeocat.catalog.aoi import WGS84
from xgeocat.catalog.index import footprint_index
from xgeocat.catalog.sources import Json, absolute
from xgeocat.catalog.stac import from_items, to_dicts

#: File metadata: what the STAC layout has no place for.
METADATA_KEY = b"geocat"
#: Items as they are, in JSON. Arrow columns cannot tell a missing member from a null one, nor keep
#: the spelling of a time, so the columns are for other tools and for pruning, and this is for us.
ITEM_COLUMN = "geocat:item"
#: The table of a run, inside its output folder.
CATALOG_FILE = "catalog.parquet"


def to_geoparquet(ds: xr.Dataset, path: str | os.PathLike[str]) -> Path:
    """Write a catalog as GeoParquet in the stac-geoparquet layout.

    The file appears whole or not at all: it is written beside its place and moved there.

    Parameters
    ----------
    ds : Dataset
        A catalog, empty or not.
    path : str or path
        Where to; an older file there is replaced.

    Returns
    -------
    Path
        The path written.

    Raises
    ------
    ValueError
        When a property has values of kinds that one column cannot hold.
    """
    # Imported late: it costs more than the rest of the catalog together.
    import stac_geoparquet.arrow as sga

    items = to_dicts(ds)
    target = Path(path)
    beside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    about = json.dumps({"crs": footprint_index(ds).crs.to_json_dict()}).encode()
    try:
        # A table of no items still has the columns that readers look for.
        table = sga.parse_stac_items_to_arrow(items or [_EXAMPLE]).read_all()
        exact = pa.array([json.dumps(item, separators=(",", ":")) for item in items], pa.string())
        sga.to_parquet(table.slice(0, len(items)).append_column(ITEM_COLUMN, exact), beside)
        written = pq.read_table(beside)
        metadata = {**written.schema.metadata, METADATA_KEY: about}
        pq.write_table(written.replace_schema_metadata(metadata), beside, compression="zstd")
        beside.replace(target)
    except pa.ArrowInvalid as error:
        raise ValueError(
            f"The catalog cannot be written as one table: {error}. Items of different collections "
            "may give one property different kinds; write a file for each collection."
        ) from error
    finally:
        beside.unlink(missing_ok=True)
    return target


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
    path : str or path
        A stac-geoparquet file, or the output folder of a run.

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

    file = Path(path)
    if file.is_dir():
        file = file / CATALOG_FILE
    if not file.exists():
        raise FileNotFoundError(
            f"There is no catalog at {file}. Give a GeoParquet file, or the output folder of a "
            f"run that has finished (it holds {CATALOG_FILE})."
        )
    try:
        table = pq.read_table(file)
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
        items = map(_without_nulls, sga.stac_table_to_items(table))
    # Outputs of a run are named relative to its folder, so that it can be moved.
    return from_items((absolute(item, str(file.resolve())) for item in items), crs=crs)


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
        return ds if drop_variables is None else ds.drop_vars(drop_variables)

    def guess_can_open(self, filename_or_obj: object) -> bool:
        """Leave other people's Parquet files alone: only ``engine="geocat"`` opens with this."""
        return False
