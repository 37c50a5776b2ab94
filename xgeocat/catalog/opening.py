"""Opening: catalogs from GeoParquet files, ours and those of other tools."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import cast

import numpy as np
import pyarrow as pa
import pyproj
import xarray as xr
from xarray.backends import BackendEntrypoint

from xgeocat.catalog import fitting, layout
from xgeocat.catalog.aoi import WGS84, same_crs
from xgeocat.catalog.columns import StoredCatalog
from xgeocat.catalog.footers import Places
from xgeocat.catalog.lazy import lazy_dataset
from xgeocat.catalog.sources import Json, absolute
from xgeocat.catalog.stac import NOT_COLUMNS
from xgeocat.catalog.stored import ScenesFile, StoredScenes
from xgeocat.storage.folder import Folder, folder_at, parent_and_name

#: The table of a run, inside its output folder.
CATALOG_FILE = "catalog.parquet"
SUFFIXES = (".parquet", ".geoparquet")
#: Footers that are read at one time.
READERS = 16


def open_catalog(path: str | os.PathLike[str]) -> xr.Dataset:
    """Open a catalog from GeoParquet, lazily.

    Columns are read when they are used, and rows when they are selected. A query reads the footers,
    then the row groups that are left; what it read is kept for the next one. ``.load()`` reads all.

    Parameters
    ----------
    path : path or URL
        A stac-geoparquet file, a folder of them (Hive-partitioned or not), or the output folder of
        a run, on a disk or in an object store.

    Returns
    -------
    Dataset
        The catalog, as :func:`xgeocat.from_items` makes it, in the CRS it was written from. Of more
        than 100,000 scenes the ids are no pandas index, but are looked up in the file.

    Raises
    ------
    FileNotFoundError
        When there is no such file, or no catalog in the folder.
    ValueError
        When a file is no GeoParquet of STAC items, is damaged, or of a later version.
    """
    return lazy_dataset(stored_catalog(path))


def stored_catalog(path: str | os.PathLike[str]) -> StoredCatalog:
    """Read the footers of a catalog; see :func:`open_catalog`."""
    folder, name = parent_and_name(path)
    # What is read later is read from here, wherever somebody has gone by then.
    folder = folder_at(folder.absolute)
    places = list(_files(folder, name))
    if not places:
        raise FileNotFoundError(
            f"There is no catalog at {os.fspath(path)}. Give a GeoParquet file, a folder of them, "
            f"or the output folder of a run that has finished (it holds {CATALOG_FILE})."
        )
    with ThreadPoolExecutor(READERS) as pool:
        files = list(pool.map(lambda place: ScenesFile.at(*place), places))
    schemas = [file.footer.schema.to_arrow_schema() for file in files]
    for file, found in zip(files, schemas, strict=True):
        _require_items(file, found)
    known = fitting.same_layout(schemas)
    # Outputs of a run are named relative to its folder, so that it can be moved.
    base = f"{places[0][0].absolute if len(places) == 1 else folder.inside(name).absolute}/_"
    abouts = [
        layout.about_file(file.footer.metadata, f"{file.folder.url}/{file.name}") for file in files
    ]
    ours = [about for about in abouts if about is not None]
    if len(ours) == len(abouts):
        about = layout.about_all(ours)
        projected = layout.FOOTPRINT in known.names
        columns = (layout.FOOTPRINT, layout.BOX) if projected else ("geometry", "bbox")
        scenes = StoredScenes(files, known, Places(*columns, exact=True))
        return StoredCatalog(scenes, about, base)
    for file in files:
        _require_degrees(file)
    scenes = StoredScenes(files, known, Places("geometry", _box_column(known), exact=False))
    catalog = StoredCatalog(
        scenes, _about_others(files, known), base, partial(_items, os.fspath(path), base)
    )
    catalog.scene_items(np.arange(min(len(scenes), 1)))
    return catalog


def _files(folder: Folder, name: str) -> Iterator[tuple[Folder, str]]:
    inside = folder.inside(name)
    entries = inside.names()
    if CATALOG_FILE in entries:
        yield inside, CATALOG_FILE
    elif entries:
        yield from _walked(inside, entries)
    elif folder.has(name):
        yield folder, name


def _walked(folder: Folder, entries: Sequence[str]) -> Iterator[tuple[Folder, str]]:
    for entry in entries:
        if entry.endswith(SUFFIXES):
            yield folder, entry
        elif "=" in entry:
            yield from _walked(folder.inside(entry), folder.names(entry))


def _require_items(file: ScenesFile, found: pa.Schema) -> None:
    missing = {"id", "geometry"} - set(found.names)
    if missing:
        raise ValueError(
            f"{file.folder.url}/{file.name} holds no STAC items: it has no column "
            f"{sorted(missing)}, but {found.names[:12]}. Tables of other kinds can be read with "
            "geopandas."
        )


# --- files of other tools -------------------------------------------------------------------------


def _about_others(files: Sequence[ScenesFile], known: pa.Schema) -> Json:
    """What a table says of itself where we did not write it."""
    assets = known.field("assets").type if "assets" in known.names else pa.struct([])
    names = [field.name for field in assets] if pa.types.is_struct(assets) else []
    kinds = {
        field.name: _kind(field, files)
        for field in known
        if field.name not in {*layout.MEMBERS, *NOT_COLUMNS, "links", "bbox"}
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
    gaps = _gaps(field.name, files)
    if gaps == "all":
        return None
    if pa.types.is_floating(field.type):
        return "<f8"
    if pa.types.is_boolean(field.type) and not gaps:
        return "|b1"
    if pa.types.is_integer(field.type):
        exact = pa.types.is_signed_integer(field.type) and field.type.bit_width <= 32
        return "<i8" if not gaps else "<f8" if exact or _is_short(field.name, files) else "object"
    return "object" if pa.types.is_string(field.type) or pa.types.is_boolean(field.type) else "item"


def _gaps(name: str, files: Sequence[ScenesFile]) -> bool | str:
    """Tell whether a column has gaps, or is nothing else ("all"); where it is not said, it has."""
    nulls = rows = 0
    for file in files:
        footer = file.footer
        paths = [footer.schema.column(i).path for i in range(footer.num_columns)]
        for group in map(footer.row_group, range(footer.num_row_groups)):
            said = group.column(paths.index(name)).statistics if name in paths else None
            if name in paths and (said is None or not said.has_null_count):
                return True
            nulls += group.num_rows if said is None else said.null_count
            rows += group.num_rows
    return "all" if nulls == rows and rows else nulls > 0


def _is_short(name: str, files: Sequence[ScenesFile]) -> bool:
    """Tell whether all integers of a column are exact as floats."""
    for file in files:
        paths = [file.footer.schema.column(i).path for i in range(file.footer.num_columns)]
        for group in map(file.footer.row_group, range(file.footer.num_row_groups)):
            said = group.column(paths.index(name)).statistics if name in paths else None
            if said is not None and said.has_min_max and max(-said.min, said.max) > 2**53:
                return False
    return True


def _box_column(known: pa.Schema) -> str | None:
    box = known.field("bbox").type if "bbox" in known.names else None
    has = box is not None and pa.types.is_struct(box) and {f.name for f in box} >= {*layout.CORNERS}
    return "bbox" if has else None


def _require_degrees(file: ScenesFile) -> None:
    """Refuse footprints that are no WKB in WGS 84, as stac-geoparquet has them."""
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


def _items(path: str, base: str, table: pa.Table) -> list[Json]:
    """Items of rows of a table of another tool."""
    import stac_geoparquet.arrow as sga

    # What stands beside the columns of a file of ours is not theirs any more.
    own = [name for name in table.column_names if name.startswith("geocat:")]
    try:
        items = list(map(_without_nulls, sga.stac_table_to_items(table.drop_columns(own))))
    except (pa.ArrowException, KeyError) as error:
        raise ValueError(f"{path} holds no STAC items that can be read: {error}.") from error
    return [absolute(item, base) for item in items]


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
