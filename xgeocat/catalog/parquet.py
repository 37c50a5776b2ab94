"""GeoParquet: catalogs on disk, in the stac-geoparquet layout that other tools read too."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xarray as xr
from numpy.typing import NDArray

from xgeocat.catalog import fitting, layout, metadata, schema
from xgeocat.catalog.index import Drawn, footprint_index
from xgeocat.catalog.ordering import BATCH, GLOBE, GROUP, SLAB, scene_order, sorted_tables
from xgeocat.catalog.provenance import is_json
from xgeocat.catalog.sources import Json
from xgeocat.catalog.stored import start_and_end
from xgeocat.storage.folder import is_remote, parent_and_name

By: TypeAlias = Literal["year", "month"]
Tables: TypeAlias = Callable[[], Iterator[pa.Table]]

#: Columns whose statistics a query uses; those of a thousand others would fill the footer.
INDEXED = [f"{box}.{corner}" for box in ("bbox", metadata.BOX) for corner in metadata.CORNERS]
INDEXED += ["id", "collection", "datetime", "start_datetime", "end_datetime"]
#: Columns of which every scene has a value of its own.
UNLIKE = {"id", "geometry", "bbox", "datetime", "start_datetime", "end_datetime"}
UNLIKE |= {metadata.ITEM, metadata.FOOTPRINT, metadata.BOX}


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
    IsADirectoryError
        When there is a folder where a file should be written.
    ValueError
        For variables that a table has no place for, and an unknown `by`.
    """
    schema.require_catalog(ds, "to_geoparquet")
    require_kept(ds)
    if by is not None and by not in get_args(By):
        raise ValueError(f"by={by!r} must be one of {get_args(By)}, or None for one file.")
    folder, name = parent_and_name(path)
    require_parent(path)
    if by is None and not is_remote(os.fspath(path)) and Path(path).is_dir():
        raise IsADirectoryError(
            f"{os.fspath(path)} is a folder. Name the file to write in it, or add to it with "
            "xgeocat.append."
        )
    if by is not None and (folder.has(name) or folder.names(name)):
        raise FileExistsError(
            f"There is something at {os.fspath(path)} already. Add to it with xgeocat.append, or "
            "choose another place."
        )
    with tempfile.TemporaryDirectory(prefix="xgeocat-") as scratch:
        tables = in_order(ds, by, Path(scratch))
        with folder.new_file(name) if by is None else folder.new_files(name) as place:
            fill(place, tables, by)
    return os.fspath(path) if is_remote(os.fspath(path)) else Path(path)


def require_parent(path: str | os.PathLike[str]) -> None:
    """See to it that a folder is there to write into; a FileNotFoundError if not."""
    folder, name = parent_and_name(path)
    if not is_remote(os.fspath(path)) and not Path(folder.url).is_dir():
        raise FileNotFoundError(f"There is no folder {folder.url} to write {name} into; make it.")


def require_kept(ds: xr.Dataset) -> None:
    """See to it that a table has a place for all of a catalog; a ValueError if not."""
    lost = [str(name) for name in ds.variables if layout.is_lost(ds, str(name))]
    lost += [f"attrs[{name!r}]" for name, value in ds.attrs.items() if not is_json({name: value})]
    if lost:
        raise ValueError(
            f"A GeoParquet catalog has no place for {lost}: it keeps variables over "
            f"({schema.SCENE!r},) of numbers, booleans and text, and attrs that JSON can hold. "
            "Turn them into such, or drop them."
        )


# --- rows to write --------------------------------------------------------------------------------


def in_order(ds: xr.Dataset, by: By | None, scratch: Path) -> Tables:
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
        columns = layout.columns_of(ds)
        return lambda: (columns.take(some).table() for some in _groups(order))
    return sorted_tables(lambda: in_batches(ds), order, scratch)


def _groups(order: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    # An empty table still has the columns that readers look for.
    return (order[first : first + GROUP] for first in range(0, max(len(order), 1), GROUP))


def in_batches(ds: xr.Dataset) -> Iterator[pa.Table]:
    """Scenes of a catalog in its order, as tables of some of them at a time."""
    for first in range(0, max(ds.sizes[schema.SCENE], 1), BATCH):
        yield layout.table_of(ds.isel({schema.SCENE: slice(first, first + BATCH)}))


def _part(start: NDArray[np.datetime64], by: By) -> NDArray[np.generic]:
    return start.astype(f"datetime64[{by[0].upper()}]")


# --- files ----------------------------------------------------------------------------------------


def fill(place: Path, tables: Tables, by: By | None, name: str = "part-0.parquet") -> None:
    """Write tables into one file, or into a folder of them.

    Each has the columns of all. Those of later tables are not known before, so a new one makes it
    begin again.
    """
    wanted = fitting.same_layout([table.schema for table in _first(tables)])
    wider = _filled(place, tables, wanted, by, name)
    if not wider.equals(wanted):
        _filled(place, tables, wider, by, name)


def _ahead(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """The same tables, each made while the one before is written."""
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(next, tables, None)
        while (table := following.result()) is not None:
            following = pool.submit(next, tables, None)
            yield table


def _first(tables: Tables) -> Iterator[pa.Table]:
    for table in tables():
        yield table
        return


def _filled(place: Path, tables: Tables, wanted: pa.Schema, by: By | None, name: str) -> pa.Schema:
    """Write tables with the columns of a schema; return a wider one where that is not enough."""
    abouts: list[Json] = []
    path: Path | None = None
    wider = wanted
    with ExitStack() as one:
        for table in _ahead(tables()):
            wider = fitting.same_layout([wider, table.schema])
            if not wider.equals(wanted):
                # What was written is of no use, but what else there is has to be known.
                continue
            about = metadata.about_table(table.schema)
            if about not in abouts:
                abouts.append(about)
            for of_file, part in _parts(table, place, by, name):
                if of_file != path:
                    one.close()
                    path = of_file
                    writer = one.enter_context(_writer(path, wanted, abouts))
                writer.write_table(fitting.fitted(part, wanted), row_group_size=GROUP)
    return wider


def _parts(
    table: pa.Table, place: Path, by: By | None, name: str
) -> Iterator[tuple[Path, pa.Table]]:
    """Rows of a table, which are in order, by the file that they belong into."""
    if by is None:
        yield place, table
        return
    if not len(table):
        # It is of no month, but without any file there would be no catalog.
        yield place / name, table
        return
    start, _ = start_and_end(table)
    parts = _part(start, by)
    # As numbers, because unknown times are not even equal to each other.
    changes = np.diff(parts.astype(np.int64)) != 0
    edges = np.flatnonzero(np.concatenate([[True], changes]))
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
        use_dictionary=[leaf for field in wanted for leaf in _leaves(field) if _repeats(leaf)],
        write_statistics=[name for name in INDEXED if _has(wanted, name)],
        write_page_checksum=True,
    ) as writer:
        yield writer
        about = json.dumps(metadata.about_all(abouts))
        writer.add_key_value_metadata({metadata.METADATA_KEY.decode(): about})


def _leaves(field: pa.Field, path: str = "") -> Iterator[str]:
    """Paths of the columns of a field, as Parquet has them."""
    path += field.name
    if pa.types.is_struct(field.type):
        for member in field.type:
            yield from _leaves(member, f"{path}.")
    elif pa.types.is_list(field.type):
        yield from _leaves(pa.field("element", field.type.value_type), f"{path}.list.")
    else:
        yield path


def _repeats(leaf: str) -> bool:
    """Tell whether a dictionary of its values makes a column smaller."""
    return leaf.partition(".")[0] not in UNLIKE and not leaf.endswith(f".{schema.HREF}")


def _has(wanted: pa.Schema, column: str) -> bool:
    return column.partition(".")[0] in wanted.names
