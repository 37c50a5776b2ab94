"""GeoParquet: catalogs on disk, in the stac-geoparquet layout that other tools read too."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xarray as xr
from numpy.typing import NDArray

from xgeocat.catalog import fitting, layout, schema
from xgeocat.catalog.columns import StoredCatalog
from xgeocat.catalog.index import Drawn, footprint_index
from xgeocat.catalog.opening import stored_catalog
from xgeocat.catalog.ordering import BATCH, GLOBE, GROUP, SLAB, scene_order, sorted_tables
from xgeocat.catalog.provenance import is_json
from xgeocat.catalog.sources import Json
from xgeocat.catalog.stored import start_and_end
from xgeocat.storage.folder import Folder, is_remote, parent_and_name

By: TypeAlias = Literal["year", "month"]
Tables: TypeAlias = Callable[[], Iterator[pa.Table]]

#: Columns whose statistics a query uses; those of a thousand others would fill the footer.
INDEXED = [f"{box}.{corner}" for box in ("bbox", layout.BOX) for corner in layout.CORNERS]
INDEXED += ["id", "collection", "datetime", "start_datetime", "end_datetime"]


def to_geoparquet(
    ds: xr.Dataset, path: str | os.PathLike[str], *, by: By | None = None
) -> Path | str:
    """Write a catalog as GeoParquet in the stac-geoparquet layout.

    The file, or folder, appears whole or not at all. Scenes of more than one row group (16,384) are
    brought into an order in which a query finds them together: along a Hilbert curve, at each place
    by time. Catalogs that are in a file themselves are read and written piece by piece.

    Parameters
    ----------
    ds : Dataset
        A catalog, empty or not, with attrs that JSON can hold.
    path : path or URL
        Where to, on a disk or in an object store (``s3://``); an older file there is replaced.
    by : {"year", "month"}, optional
        Write a folder of files, one for each year or month in which scenes begin, as Hive has
        them: ``year=2024/month=06/``. There must be nothing at `path` yet.

    Returns
    -------
    Path or str
        The path, or URL, written.

    Raises
    ------
    FileNotFoundError
        When the folder of the file does not exist.
    FileExistsError
        When there is something where a folder should be written.
    ValueError
        For variables that a table has no place for.
    """
    schema.require_catalog(ds, "to_geoparquet")
    _require_kept(ds)
    folder, name = parent_and_name(path)
    if not is_remote(os.fspath(path)) and not Path(folder.url).is_dir():
        raise FileNotFoundError(f"There is no folder {folder.url} to write {name} into; make it.")
    if by is not None and (folder.has(name) or folder.names(name)):
        raise FileExistsError(
            f"There is something at {os.fspath(path)} already. Add to it with xgeocat.append, or "
            "choose another place."
        )
    with tempfile.TemporaryDirectory(prefix="xgeocat-") as scratch:
        tables = _sorted(ds, by, Path(scratch))
        with folder.new_file(name) if by is None else folder.new_files(name) as place:
            _fill(place, tables, by)
    return os.fspath(path) if is_remote(os.fspath(path)) else Path(path)


def append(ds: xr.Dataset, path: str | os.PathLike[str]) -> int:
    """Add the scenes of a catalog to one on disk, those that are not there yet.

    A scene is there when one of its id and collection is; it stays as it is. A file is written
    anew, a folder gets further files.

    Parameters
    ----------
    ds : Dataset
        A catalog.
    path : path or URL
        What :func:`to_geoparquet` wrote. Where there is nothing, it is written.

    Returns
    -------
    int
        How many scenes were new.

    Raises
    ------
    ValueError
        For footprints in another CRS, properties of another kind, and a file of other tools. Then
        nothing was written.
    RuntimeError
        When somebody else wrote the file in the meantime.
    """
    schema.require_catalog(ds, "append")
    _require_kept(ds)
    folder, name = parent_and_name(path)
    if not (folder.has(name) or folder.names(name)):
        to_geoparquet(ds, path)
        return ds.sizes[schema.SCENE]
    stored = stored_catalog(path)
    if stored.items is not None:
        raise ValueError(
            f"{os.fspath(path)} was not written by xgeocat. Write it as one of ours first: "
            "xgeocat.open_catalog(path).geocat.to_geoparquet(other)."
        )
    layout.about_all([stored.about, layout.about_table(layout.table_of(ds).schema)])
    new = ds.isel({schema.SCENE: _unknown(ds, stored.ids())})
    if not new.sizes[schema.SCENE]:
        return 0
    if folder.names(name):
        _add_files(new, folder.inside(name), stored)
    else:
        _rewrite(new, folder, name, stored)
    return new.sizes[schema.SCENE]


def _require_kept(ds: xr.Dataset) -> None:
    lost = [str(name) for name in ds.variables if layout.is_lost(ds, str(name))]
    lost += [f"attrs[{name!r}]" for name, value in ds.attrs.items() if not is_json({name: value})]
    if lost:
        raise ValueError(
            f"A GeoParquet catalog has no place for {lost}: it keeps variables over "
            f"({schema.SCENE!r},) of numbers, booleans and text, and attrs that JSON can hold. "
            "Turn them into such, or drop them."
        )


# --- rows to write --------------------------------------------------------------------------------


def _sorted(ds: xr.Dataset, by: By | None, scratch: Path) -> Tables:
    """Tables of the scenes of a catalog, in the order in which they are written."""
    footprints = footprint_index(ds).footprints
    rows = len(footprints)
    if rows <= GROUP and by is None:
        order = np.arange(rows)
    else:
        part = None if by is None else _part(footprints.start, by)
        extent = GLOBE if footprint_index(ds).crs.is_geographic else footprints.reach or GLOBE
        order = scene_order(footprints.boxes, footprints.start, extent, part)
    if isinstance(footprints, Drawn) or rows <= SLAB:
        return lambda: _laid_out(ds, order, GROUP)
    return sorted_tables(lambda: _laid_out(ds, np.arange(rows), BATCH), order, scratch)


def _laid_out(ds: xr.Dataset, order: NDArray[np.int64], rows: int) -> Iterator[pa.Table]:
    # An empty table still has the columns that readers look for.
    for first in range(0, max(len(order), 1), rows):
        yield layout.table_of(ds.isel({schema.SCENE: order[first : first + rows]}))


def _part(start: NDArray[np.datetime64], by: By) -> NDArray[np.generic]:
    return start.astype(f"datetime64[{by[0].upper()}]")


def _unknown(ds: xr.Dataset, known: set[tuple[object, object]]) -> list[int]:
    """Positions of the scenes that are not known yet, each once."""
    fresh, seen = [], set(known)
    columns = (ds[schema.COLLECTION].values.tolist(), ds[schema.SCENE].values.tolist())
    for i, scene in enumerate(zip(*columns, strict=True)):
        if scene not in seen:
            seen.add(scene)
            fresh.append(i)
    return fresh


# --- files ----------------------------------------------------------------------------------------


def _fill(place: Path, tables: Tables, by: By | None, name: str = "part-0.parquet") -> None:
    """Write tables into one file, or into a folder of them.

    Each has the columns of all. Those of later tables are not known before, so a new one makes it
    begin again.
    """
    wanted = fitting.same_layout([table.schema for table in _first(tables)])
    while True:
        wider = _filled(place, tables, wanted, by, name)
        if wider is None:
            return
        wanted = wider


def _first(tables: Tables) -> Iterator[pa.Table]:
    for table in tables():
        yield table
        return


def _filled(
    place: Path, tables: Tables, wanted: pa.Schema, by: By | None, name: str
) -> pa.Schema | None:
    """Write tables with the columns of a schema; return a wider one where that is not enough."""
    abouts: list[Json] = []
    path: Path | None = None
    with ExitStack() as one:
        for table in tables():
            wider = fitting.same_layout([wanted, table.schema])
            if not wider.equals(wanted):
                return wider
            about = layout.about_table(table.schema)
            if about not in abouts:
                abouts.append(about)
            for of_file, part in _parts(table, place, by, name):
                if of_file != path:
                    one.close()
                    path = of_file
                    writer = one.enter_context(_writer(path, wanted, abouts))
                writer.write_table(fitting.fitted(part, wanted), row_group_size=GROUP)
    return None


def _parts(
    table: pa.Table, place: Path, by: By | None, name: str
) -> Iterator[tuple[Path, pa.Table]]:
    """Rows of a table, which are in order, by the file that they belong into."""
    if by is None:
        yield place, table
        return
    start, _ = start_and_end(table)
    parts = _part(start, by)
    edges = np.flatnonzero(np.concatenate([[True], (parts[1:] != parts[:-1])]))
    for first, after in zip(edges, [*edges[1:], len(table)], strict=True):
        yield place / hive_folder(parts[first], by) / name, table.slice(first, after - first)


def hive_folder(part: np.datetime64, by: By) -> str:
    """``year=2024/month=06``, as Hive has it; of a time that is not known, its word for null."""
    if np.isnat(part):
        return "/".join(
            f"{unit}=__HIVE_DEFAULT_PARTITION__"
            for unit in ("year", "month")[: 1 + (by == "month")]
        )
    year, _, month = str(part).partition("-")
    return f"year={year}" if by == "year" else f"year={year}/month={month}"


@contextmanager
def _writer(path: Path, wanted: pa.Schema, abouts: Sequence[Json]) -> Iterator[pq.ParquetWriter]:
    """Open a file to write, whose footer says at the end what all tables say of themselves."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with pq.ParquetWriter(
        path,
        wanted,
        compression="zstd",
        write_statistics=[name for name in INDEXED if _has(wanted, name)],
        write_page_checksum=True,
    ) as writer:
        yield writer
        about = json.dumps(layout.about_all(abouts))
        writer.add_key_value_metadata({layout.METADATA_KEY.decode(): about})


def _has(wanted: pa.Schema, column: str) -> bool:
    return column.partition(".")[0] in wanted.names


def _add_files(new: xr.Dataset, folder: Folder, stored: StoredCatalog) -> None:
    """Add files to a folder, each whole, named by what is in them."""
    by = stored.partitioning
    ids = "\n".join(map(str, new[schema.SCENE].values))
    name = f"part-{hashlib.sha256(ids.encode()).hexdigest()[:12]}.parquet"
    with folder.locked(), tempfile.TemporaryDirectory(prefix="xgeocat-") as scratch:
        filled, spilled = Path(scratch) / "new", Path(scratch) / "spilled"
        filled.mkdir()
        spilled.mkdir()
        _fill(filled if by else filled / name, _sorted(new, by, spilled), by, name)
        for path in sorted(filled.rglob("*.parquet")):
            place = path.relative_to(filled).as_posix()
            with folder.inside(place.rpartition("/")[0]).new_file(name) as beside:
                shutil.copyfile(path, beside)


def _rewrite(new: xr.Dataset, folder: Folder, name: str, stored: StoredCatalog) -> None:
    """Write the scenes of a file, and new ones, in its place."""
    scenes = stored.scenes
    old = len(scenes)
    fresh = footprint_index(new).footprints
    boxes = np.concatenate([scenes.boxes, fresh.boxes], axis=1)
    start = np.concatenate([stored.values(schema.START, range(old)), fresh.start])
    order = np.arange(len(start))
    if len(order) > GROUP:
        geographic = stored.crs.is_geographic
        order = scene_order(boxes, start, GLOBE if geographic else scenes.reach or GLOBE)

    def tables() -> Iterator[pa.Table]:
        for first in range(0, old, BATCH):
            yield scenes.read(range(first, min(first + BATCH, old)), scenes.schema.names)
        yield from _laid_out(new, np.arange(len(fresh)), BATCH)

    with tempfile.TemporaryDirectory(prefix="xgeocat-") as scratch:
        in_order = sorted_tables(tables, order, Path(scratch))
        with folder.new_file(name) as place:
            _fill(place, in_order, None)
            scenes.require_unchanged()
