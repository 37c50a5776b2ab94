"""Stored: scenes in Parquet files, of which rows and columns are read as they are asked for."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, lru_cache
from typing import Self, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from xgeocat.catalog import fitting, footers, metadata
from xgeocat.catalog.aoi import cut_at_antimeridian
from xgeocat.catalog.footers import TIMES, Places
from xgeocat.catalog.interval import Interval, to_utc
from xgeocat.catalog.openfile import OpenFile, ScenesFile

#: Rows of a table, by number and in this order.
Rows: TypeAlias = "range | NDArray[np.int64]"
Box: TypeAlias = tuple[float, float, float, float]

#: Row groups whose boxes and times are kept, and whose footprints and ids: 1 GB, and some 100 MB.
KEYS_KEPT, COLUMNS_KEPT, FILES_KEPT = 1024, 128, 32
READERS = 4
#: Parts of an AOI that are looked for one by one; more are looked for together.
PARTS = 16
MICROSECONDS = pa.timestamp("us")


class StoredScenes:
    """The rows of one or more Parquet files, behind each other.

    Row groups are to a query what the leaves of a packed R-tree are: the statistics in the footer
    are their boxes. What is read of them to answer a query is kept for the next one.

    Parameters
    ----------
    files : sequence of ScenesFile
        Their rows, in this order.
    schema : pyarrow.Schema
        One that holds the columns of all.
    places : Places
        Which columns say where scenes are.
    """

    def __init__(self, files: Sequence[ScenesFile], schema: pa.Schema, places: Places) -> None:
        self.files = tuple(files)
        self.schema = schema
        self.places = places
        self.groups = [
            (file, number) for file in self.files for number in range(file.footer.num_row_groups)
        ]
        sizes = [file.footer.row_group(number).num_rows for file, number in self.groups]
        self.first = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        self.keys = lru_cache(KEYS_KEPT)(self._keys)
        self._kept = lru_cache(COLUMNS_KEPT)(self._read_group)
        # Of some files those that are open, and that no thread is reading.
        self._idle = lru_cache(FILES_KEPT)(_no_files)

    def __len__(self) -> int:
        return int(self.first[-1])

    def __reduce__(self) -> tuple[object, ...]:
        return StoredScenes, (self.files, self.schema, self.places)

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def require_unchanged(self) -> None:
        """See to it that all files are those that were opened; a ChangedFileError if not."""
        for file in self.files:
            file.require_unchanged()

    # --- rows -------------------------------------------------------------------------------------

    def read(self, rows: Rows, columns: Sequence[str], *, keep: bool = False) -> pa.Table:
        """Read some columns of some rows.

        Parameters
        ----------
        rows : range or numpy.ndarray
            Which, from 0, in any order, each as often as it is named.
        columns : sequence of str
            Of the schema; of a struct some members: ``"assets.red.href"``.
        keep : bool, default: False
            Whether what is read is soon read again.

        Returns
        -------
        pyarrow.Table
            In the order of `rows`.
        """
        wanted = np.asarray(rows, np.int64)
        group_of = np.searchsorted(self.first, wanted, side="right") - 1
        order = np.argsort(group_of, kind="stable")
        groups, starts = np.unique(group_of[order], return_index=True)

        def part(group: int, of_group: NDArray[np.int64]) -> pa.Table:
            table = (self._kept if keep else self._read_group)(int(group), tuple(columns))
            local = wanted[of_group] - self.first[group]
            whole = len(local) == len(table) and bool((np.diff(local) == 1).all())
            return table if whole else table.take(pa.array(local))

        if len(groups) < READERS:
            parts = list(map(part, groups, np.split(order, starts[1:])))
        else:
            with ThreadPoolExecutor(READERS) as pool:
                parts = list(pool.map(part, groups, np.split(order, starts[1:])))
        table = pa.concat_tables(parts) if parts else self._empty(columns)
        if len(order) and not bool((np.diff(order) == 1).all()):
            table = table.take(pa.array(np.argsort(order)))
        return table

    def _read_group(self, group: int, columns: Sequence[str]) -> pa.Table:
        file, number = self.groups[group]
        idle = self._idle(file)
        try:
            opened = idle.pop()
        except IndexError:
            opened = OpenFile(file)
        table = opened.read(number, columns)
        idle.append(opened)
        return fitting.fitted(table, self._some(columns), file.hidden)

    def _some(self, columns: Sequence[str]) -> pa.Schema:
        """Schema of some columns, and of some members of structs."""
        return pa.schema(
            [
                found
                for field in self.schema
                if (found := fitting.part_of(field, columns)) is not None
            ]
        )

    def _empty(self, columns: Sequence[str]) -> pa.Table:
        return self._some(columns).empty_table()

    # --- where and when ---------------------------------------------------------------------------

    def overlapping(
        self, geometry: BaseGeometry | None, interval: Interval | None
    ) -> NDArray[np.int64]:
        """Rows whose footprint meets a geometry and whose time meets a closed interval, ascending.

        Row groups are left out by their statistics, rows by their boxes; the footprints of those
        that are left are tested.
        """
        windows = None if geometry is None else _windows(geometry)
        if geometry is not None:
            shapely.prepare(geometry)
        found = [np.empty(0, np.int64)]
        for group in self._groups_meeting(windows, interval):
            boxes, start, end = self.keys(int(group))
            rows = np.arange(len(start))
            if interval is not None:
                rows = np.flatnonzero((start <= interval[1]) & (end >= interval[0]))
            if windows is not None:
                rows = rows[_meet(boxes[:, rows], windows)]
            if geometry is not None and len(rows):
                rows = rows[self._touching(int(group), rows, boxes[:, rows], geometry)]
            found.append(rows + self.first[group])
        return np.concatenate(found)

    def _touching(
        self,
        group: int,
        rows: NDArray[np.int64],
        boxes: NDArray[np.float64],
        geometry: BaseGeometry,
    ) -> NDArray[np.bool_]:
        hit = np.zeros(len(rows), bool)
        if self.places.exact:
            # A footprint whose box lies in the AOI meets it, whatever its shape.
            hit |= shapely.covers(geometry, shapely.box(*boxes))
        unsure = np.flatnonzero(~hit)
        if len(unsure):
            hit[unsure] = shapely.intersects(geometry, self.footprints(group, rows[unsure]))
        return hit

    def _groups_meeting(
        self, windows: NDArray[np.float64] | None, interval: Interval | None
    ) -> NDArray[np.int64]:
        boxes, (start, end) = self._extents
        hit = np.ones(len(self.groups), bool)
        if windows is not None:
            hit &= _meet(boxes, windows)
        if interval is not None:
            hit &= (start <= interval[1]) & (end >= interval[0])
        return np.flatnonzero(hit)

    @cached_property
    def _extents(self) -> tuple[NDArray[np.float64], NDArray[np.datetime64]]:
        """Boxes, shape (4, group), and first and last time, shape (2, group), of row groups.

        Where the footer does not say, they are without end.
        """
        extents = [footers.extents(file.footer, self.places) for file in self.files]
        nothing = (np.empty((4, 0)), np.empty((2, 0), "datetime64[us]"))
        boxes, times = (
            np.concatenate(parts, axis=1) for parts in zip(nothing, *extents, strict=True)
        )
        return boxes, times

    def _keys(
        self, group: int
    ) -> tuple[NDArray[np.float64], NDArray[np.datetime64], NDArray[np.datetime64]]:
        """Boxes, shape (4, row), and first and last times of the rows of a group."""
        columns = [self.places.box] if self.places.box is not None else []
        times = [name for name in TIMES if name in self.schema.names]
        table = self._read_group(group, [*columns, *times])
        start, end = start_and_end(table)
        if self.places.box is None:
            boxes = shapely.bounds(self.footprints(group, None)).T
        else:
            struct = table[self.places.box].combine_chunks()
            boxes = np.stack(
                [
                    pc.struct_field(struct, corner).to_numpy(zero_copy_only=False).astype(float)
                    for corner in metadata.CORNERS
                ]
            )
            unsaid = np.flatnonzero(np.isnan(boxes).any(axis=0))
            if not self.places.exact and len(unsaid):
                boxes[:, unsaid] = shapely.bounds(self.footprints(group, unsaid)).T
        return (boxes if self.places.exact else footers.widened(boxes)), start, end

    def footprints(self, group: int, rows: NDArray[np.int64] | None) -> NDArray[np.object_]:
        """Footprints of some rows of a group, all by default."""
        column = self.places.footprint
        # A column of a row group is in one piece, which combine_chunks would copy.
        (stored,) = self._kept(group, (column,))[column].chunks
        return self.drawn(stored if rows is None else stored.take(pa.array(rows)))

    def drawn(self, wkb: pa.BinaryArray) -> NDArray[np.object_]:
        """Footprints as they are in a catalog."""
        footprints = shapely.from_wkb(wkb.to_numpy(zero_copy_only=False))
        if not self.places.exact:
            for i in np.flatnonzero(shapely.is_empty(footprints)):
                footprints[i] = None
            low, high = shapely.bounds(footprints)[:, ::2].T
            for i in np.flatnonzero((high - low > 180) | (low < -180) | (high > 180)):
                footprints[i] = cut_at_antimeridian(footprints[i])
        return footprints

    @property
    def boxes(self) -> NDArray[np.float64]:
        """Boxes of all rows, shape (4, row); NaN where the footprint is not known."""
        groups = (self.keys(group)[0] for group in range(len(self.groups)))
        return np.concatenate([np.empty((4, 0)), *groups], axis=1)

    @property
    def times(self) -> tuple[NDArray[np.datetime64], NDArray[np.datetime64]]:
        """First and last moments of all rows; NaT where not known."""
        groups = [self.keys(group)[1:] for group in range(len(self.groups))]
        nothing = np.empty(0, "datetime64[us]")
        start, end = (np.concatenate(edge) for edge in zip((nothing,) * 2, *groups, strict=True))
        return start, end

    @property
    def bounds(self) -> Box | None:
        """Bounds of all footprints; None where there is none."""
        return _bounds(self.boxes)

    @property
    def reach(self) -> Box | None:
        """Bounds within which all footprints are, as the footers say; None if they do not."""
        found = _bounds(self._extents[0])
        return found if found is not None and np.isfinite(found).all() else None


def _no_files(file: ScenesFile) -> deque[OpenFile]:
    return deque()


def start_and_end(table: pa.Table) -> tuple[NDArray[np.datetime64], NDArray[np.datetime64]]:
    """First and last moments of scenes: of their interval where they say one, else the moment."""
    moments = {name: _as_times(table[name]) for name in TIMES if name in table.column_names}
    nothing = np.full(len(table), np.datetime64("NaT", "us"))
    moment = moments.get("datetime", nothing)
    start, end = (moments.get(name, nothing) for name in TIMES[1:])
    return np.where(np.isnat(start), moment, start), np.where(np.isnat(end), moment, end)


def _as_times(column: pa.ChunkedArray) -> NDArray[np.datetime64]:
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        # As other people's tables may have it.
        moments = [to_utc(text) for text in column.to_pylist()]
        return np.array(moments, "datetime64[us]")
    return column.cast(MICROSECONDS, safe=False).to_numpy().astype("datetime64[us]")


def _windows(geometry: BaseGeometry) -> NDArray[np.float64]:
    parts = shapely.get_parts(geometry)
    return shapely.bounds(parts if len(parts) <= PARTS else [geometry])


def _meet(boxes: NDArray[np.float64], windows: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Tell which boxes, shape (4, n), meet one of some windows, shape (k, 4)."""
    hit = np.zeros(boxes.shape[1], bool)
    for west, south, east, north in windows:
        hit |= (boxes[0] <= east) & (boxes[2] >= west) & (boxes[1] <= north) & (boxes[3] >= south)
    return hit


def _bounds(boxes: NDArray[np.float64]) -> Box | None:
    if not boxes.size or np.isnan(boxes).all():
        return None
    west, south = np.nanmin(boxes[:2], axis=1)
    east, north = np.nanmax(boxes[2:], axis=1)
    return float(west), float(south), float(east), float(north)
