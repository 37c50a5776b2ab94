"""Ordering: scenes that are near each other in place, then in time, side by side in a file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path

import geopandas as gpd
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from xgeocat.catalog import fitting, metadata

#: Rows of a row group: what a query reads at least.
GROUP = 16_384
#: Rows that are sorted in memory at a time, and rows that are laid out at a time.
SLAB, BATCH = 8 * GROUP, 4 * GROUP
#: Cells of the Hilbert curve over the globe are 1.4 by 0.7 degrees, about one Sentinel-2 tile: so
#: that the scenes of one place follow each other in time.
LEVEL = 8
COMPRESSED = pa.ipc.IpcWriteOptions(compression="lz4")
GLOBE = (-180.0, -90.0, 180.0, 90.0)


def scene_order(
    boxes: NDArray[np.float64],
    start: NDArray[np.datetime64],
    extent: tuple[float, float, float, float] = GLOBE,
    part: NDArray[np.generic] | None = None,
) -> NDArray[np.int64]:
    """Order in which scenes are written.

    Parameters
    ----------
    boxes : numpy.ndarray
        Shape ``(4, scene)``: west, south, east, north; NaN where not known.
    start : numpy.ndarray
        Shape ``(scene,)``, ``datetime64``; NaT where not known.
    extent : (float, float, float, float), default: the globe, in degrees
        What the Hilbert curve fills, in units of the boxes.
    part : numpy.ndarray, optional
        Shape ``(scene,)``: what comes before anything else.

    Returns
    -------
    numpy.ndarray
        Positions: along a Hilbert curve, in one cell of it by time. Scenes of which
        one is not known come last; what is equal stays in order.
    """
    known = ~np.isnan(boxes[0])
    cell = np.full(boxes.shape[1], np.iinfo(np.int64).max)
    if known.any():
        west, south, east, north = extent
        centres = (boxes[:2, known] + boxes[2:, known]) / 2
        reach = np.array([[east - west], [north - south]])
        places = (centres - [[west], [south]]) / np.where(reach > 0, reach, 1) * 2**LEVEL
        column, row = np.clip(places.astype(np.int64), 0, 2**LEVEL - 1)
        cell[known] = hilbert_cells()[row, column]
    keys = (start, cell) if part is None else (start, cell, part)
    return np.lexsort(keys).astype(np.int64)


@cache
def hilbert_cells() -> NDArray[np.int64]:
    """Distances along a Hilbert curve of all cells of a square, by row and column."""
    edge = 2**LEVEL
    column, row = np.meshgrid(np.arange(edge), np.arange(edge))
    cells = gpd.GeoSeries(gpd.points_from_xy(column.ravel(), row.ravel()))
    distances = cells.hilbert_distance((0, 0, edge - 1, edge - 1), LEVEL)
    return distances.to_numpy(np.int64).reshape(edge, edge)


def sorted_tables(
    tables: Callable[[], Iterable[pa.Table]], order: NDArray[np.int64], folder: Path
) -> Callable[[], Iterator[pa.Table]]:
    """Bring rows into an order, of which no more than some are in memory at a time.

    They are dealt out into files by where they are going to, and each file is sorted by itself.

    Parameters
    ----------
    tables : callable
        Gives the tables, of our layout, whose rows follow each other.
    order : numpy.ndarray
        Of all their rows: positions.
    folder : Path
        Where there is room for all of them.

    Returns
    -------
    callable
        Gives tables of up to `GROUP` rows, as often as it is called.
    """
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    seen = 0
    for number, table in enumerate(tables()):
        ranks = rank[seen : seen + len(table)]
        seen += len(table)
        for slab in np.unique(ranks // SLAB):
            mine = np.flatnonzero(ranks // SLAB == slab)
            part = table.take(pa.array(mine)).append_column(metadata.RANK, pa.array(ranks[mine]))
            path = folder / f"{slab:06d}-{number:06d}.arrow"
            with pa.ipc.new_file(path, part.schema, options=COMPRESSED) as file:
                file.write_table(part)

    def again() -> Iterator[pa.Table]:
        for slab in range(-(-len(order) // SLAB)):
            parts = []
            for path in sorted(folder.glob(f"{slab:06d}-*.arrow")):
                with pa.ipc.open_file(path) as file:
                    parts.append(file.read_all())
            schemas = [part.schema for part in parts]
            schema = fitting.same_layout(schemas).with_metadata(metadata.common_metadata(schemas))
            table = pa.concat_tables(fitting.fitted(part, schema) for part in parts)
            table = table.sort_by(metadata.RANK).drop_columns(metadata.RANK)
            for first in range(0, len(table), GROUP):
                yield table.slice(first, GROUP)

    return again
