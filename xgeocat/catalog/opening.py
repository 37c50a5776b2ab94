"""Opening: catalogs from GeoParquet files, ours and those of other tools."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import pyarrow as pa
import xarray as xr
from xarray.backends import BackendEntrypoint

from xgeocat.catalog import fitting, foreign, metadata
from xgeocat.catalog.columns import StoredCatalog
from xgeocat.catalog.footers import TIMES, Places
from xgeocat.catalog.lazy import lazy_dataset
from xgeocat.catalog.openfile import ScenesFile
from xgeocat.catalog.stored import StoredScenes
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
    TypeError
        When `path` is neither a path nor a URL.
    ValueError
        When a file is no GeoParquet of STAC items, is damaged, or of a later version.
    """
    return lazy_dataset(stored_catalog(path))


def stored_catalog(path: str | os.PathLike[str]) -> StoredCatalog:
    """Read the footers of a catalog; see :func:`open_catalog`."""
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(
            f"A catalog is opened from a path or URL, not from a {type(path).__name__}. Of STAC "
            "items xgeocat.from_items makes one."
        )
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
    schemas = [file.schema for file in files]
    for file, found in zip(files, schemas, strict=True):
        _require_items(file, found)
    # Outputs of a run are named relative to its folder, so that it can be moved.
    base = f"{places[0][0].absolute if len(places) == 1 else folder.inside(name).absolute}/_"
    abouts = [
        metadata.about_file(file.footer.metadata, f"{file.folder.url}/{file.name}")
        for file in files
    ]
    ours = [about for about in abouts if about is not None]
    about = metadata.about_all(ours) if len(ours) == len(abouts) else None
    if about is not None:
        hidden = [metadata.namesakes(*one, about) for one in zip(schemas, ours, strict=True)]
        files = [replace(file, hidden=names) for file, names in zip(files, hidden, strict=True)]
        if any(hidden):
            schemas = [file.schema for file in files]
    known = fitting.same_layout(schemas)
    # Tools that leave out a column may leave what we said of the table as it was.
    if about is not None and metadata.is_complete(known, about):
        projected = metadata.FOOTPRINT in known.names
        columns = (metadata.FOOTPRINT, metadata.BOX) if projected else ("geometry", "bbox")
        scenes = StoredScenes(files, known, Places(*columns, exact=True))
        return StoredCatalog(scenes, about, base)
    for file in files:
        foreign.require_degrees(file)
    scenes = StoredScenes(files, known, Places("geometry", foreign.box_column(known), exact=False))
    items = partial(foreign.items_of, os.fspath(path), base)
    return StoredCatalog(scenes, foreign.about_others(files, known), base, items)


def _files(folder: Folder, name: str) -> Iterator[tuple[Folder, str]]:
    inside = folder.inside(name)
    entries = inside.names()
    if CATALOG_FILE in entries:
        yield inside, CATALOG_FILE
    elif entries:
        yield from _walked(inside, entries)
    elif name and folder.has(name):
        yield folder, name


def _walked(folder: Folder, entries: Sequence[str]) -> Iterator[tuple[Folder, str]]:
    for entry in entries:
        if entry.endswith(SUFFIXES):
            yield folder, entry
        elif "=" in entry:
            yield from _walked(folder.inside(entry), folder.names(entry))


def _require_items(file: ScenesFile, found: pa.Schema) -> None:
    missing = [name for name in ("id", "geometry") if name not in found.names]
    if not {"assets", *TIMES} & set(found.names):
        missing += ["assets", "datetime"]
    if missing:
        raise ValueError(
            f"{file.folder.url}/{file.name} holds no STAC items: it has no column "
            f"{missing}, but {found.names[:12]}. Tables of other kinds can be read with "
            "geopandas."
        )


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
