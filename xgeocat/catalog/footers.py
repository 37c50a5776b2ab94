"""Footers: what the statistics of row groups say of where and when their scenes are."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from xgeocat.catalog.metadata import CORNERS

TIMES = ("datetime", "start_datetime", "end_datetime")
#: Degrees by which boxes of other people may have been rounded.
ROUNDED = 1e-3
WORLD = (-180.0, 180.0)
ALWAYS = np.array(["0001-01-01", "9999-12-31T23:59:59.999999"], "datetime64[us]")


@dataclass(frozen=True, slots=True)
class Places:
    """Which columns say where scenes are, and how far they can be trusted.

    Parameters
    ----------
    footprint, box : str
        Columns of the footprints (WKB) and of their boxes; no box column: None.
    exact : bool
        Whether boxes are those of the footprints as they are in the file. Otherwise they may be
        rounded, or cross the antimeridian in one of several spellings.
    """

    footprint: str
    box: str | None
    exact: bool


def extents(
    footer: pq.FileMetaData, places: Places
) -> tuple[NDArray[np.float64], NDArray[np.datetime64]]:
    """Where and when the scenes of each row group of a file are.

    Returns
    -------
    boxes : numpy.ndarray
        Shape ``(4, group)``: west, south, east, north. Infinite where the footer does not say, NaN
        where no footprint is known.
    times : numpy.ndarray
        Shape ``(2, group)``, ``datetime64[us]``: first and last moment. All of time where the
        footer does not say, NaT where no time is known.
    """
    wanted = {f"{places.box}.{corner}": corner for corner in CORNERS} | {n: n for n in TIMES}
    paths = (footer.schema.column(i).path for i in range(footer.num_columns))
    columns = {wanted[path]: i for i, path in enumerate(paths) if path in wanted}
    boxes = np.empty((4, footer.num_row_groups))
    times = np.empty((2, footer.num_row_groups), "datetime64[us]")
    for i in range(footer.num_row_groups):
        group = footer.row_group(i)
        boxes[:, i] = _box(group, columns, places.exact)
        times[:, i] = _times(group, columns)
    return (boxes if places.exact else widened(boxes)), times


def _box(
    group: pq.RowGroupMetaData, columns: dict[str, int], exact: bool
) -> tuple[float, float, float, float]:
    said = [_range(group, columns, corner) for corner in CORNERS]
    # Other people may have no box for a footprint.
    if not exact and any(_has_gaps(group, columns, corner) for corner in CORNERS):
        return -np.inf, -np.inf, np.inf, np.inf
    if any(one is None for one in said):
        return -np.inf, -np.inf, np.inf, np.inf
    corners = np.array(said, float)
    west, south, east, north = corners[0, 0], corners[1, 0], corners[2, 1], corners[3, 1]
    # A box across the antimeridian has its west east of its east, which shows in the other ends.
    if not exact and corners[0, 1] >= 0 >= corners[2, 0]:
        east = np.inf
    return float(west), float(south), float(east), float(north)


def _times(
    group: pq.RowGroupMetaData, columns: dict[str, int]
) -> tuple[np.datetime64, np.datetime64]:
    edges: list[dt.datetime] = []
    for name in TIMES:
        said = _range(group, columns, name) if name in columns else (None, None)
        if said is None:
            return ALWAYS[0], ALWAYS[1]
        edges += [edge.replace(tzinfo=None) for edge in said if isinstance(edge, dt.datetime)]
        if any(edge is not None and not isinstance(edge, dt.datetime) for edge in said):
            return ALWAYS[0], ALWAYS[1]
    if not edges:
        return np.datetime64("NaT"), np.datetime64("NaT")
    return np.datetime64(min(edges), "us"), np.datetime64(max(edges), "us")


def _range(
    group: pq.RowGroupMetaData, columns: dict[str, int], name: str
) -> tuple[object, object] | None:
    """Smallest and largest value of a column: None and None where all are null; None: not said."""
    if name not in columns:
        return None
    said = group.column(columns[name]).statistics
    if said is not None and said.has_null_count and said.null_count == group.num_rows:
        return None, None
    return (said.min, said.max) if said is not None and said.has_min_max else None


def _has_gaps(group: pq.RowGroupMetaData, columns: dict[str, int], name: str) -> bool:
    said = group.column(columns[name]).statistics if name in columns else None
    return said is None or not said.has_null_count or said.null_count > 0


def widened(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Boxes in degrees, shape ``(4, n)``, that hold what other people's boxes mean.

    Longitudes of one that crosses the antimeridian are west > east (RFC 7946), beyond 180, or of
    the long way round.
    """
    west, south, east, north = boxes
    across = ~((west <= east) & (east - west <= 180) & (west >= -180) & (east <= 180))
    across &= ~np.isnan(west)
    return np.stack(
        [
            np.where(across, WORLD[0], west - ROUNDED),
            south - ROUNDED,
            np.where(across, WORLD[1], east + ROUNDED),
            north + ROUNDED,
        ]
    )
