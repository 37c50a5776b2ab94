"""FootprintIndex: an xarray Index over the footprints and times of scenes."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Self, cast

import numpy as np
import pyproj
import shapely
import xarray as xr
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry
from xarray.core.indexes import Index

from xgeocat.catalog.aoi import same_crs
from xgeocat.catalog.interval import Interval
from xgeocat.catalog.schema import END, GEOMETRY, SCENE, START, TIME_DTYPE

Geometries = NDArray[np.object_]
Times = NDArray[np.datetime64]


class FootprintIndex(Index):
    """Index over the ``geometry``, ``start_time`` and ``end_time`` of scenes.

    It carries the CRS of the footprints and a packed R-tree over them, which is built when first
    asked and again on demand after a selection.

    Parameters
    ----------
    geometry : numpy.ndarray of shapely geometries
        Shape ``(scene,)``; None for a scene whose footprint is not known.
    start, end : numpy.ndarray
        Shape ``(scene,)``, ``datetime64[us]``, UTC; NaT where not known.
    crs : pyproj.CRS
        CRS of the footprints.
    """

    def __init__(self, geometry: Geometries, start: Times, end: Times, crs: pyproj.CRS) -> None:
        self.geometry = geometry
        self.start = start.astype(TIME_DTYPE, copy=False)
        self.end = end.astype(TIME_DTYPE, copy=False)
        self.crs = crs

    @classmethod
    def from_variables(
        cls, variables: Mapping[Hashable, xr.Variable], *, options: Mapping[str, object]
    ) -> Self:
        """Build the index from the three coordinates; ``crs=`` is required.

        Used as ``ds.set_xindex(["geometry", "start_time", "end_time"], FootprintIndex, crs=...)``.
        """
        if set(variables) != {GEOMETRY, START, END} or "crs" not in options:
            raise ValueError(
                f"FootprintIndex needs the coordinates {GEOMETRY!r}, {START!r} and {END!r} and "
                f"crs=...; got {sorted(map(str, variables))} and {sorted(options)}."
            )
        geometry = np.array(variables[GEOMETRY].values, dtype=object)
        # xarray writes NaN for a missing object; shapely wants None.
        geometry[~shapely.is_geometry(geometry)] = None
        return cls(
            geometry,
            variables[START].values,
            variables[END].values,
            pyproj.CRS.from_user_input(options["crs"]),
        )

    def create_variables(
        self, variables: Mapping[Hashable, xr.Variable] | None = None
    ) -> dict[Hashable, xr.Variable]:
        """Return the three coordinates."""
        given = variables or {}
        values: dict[str, NDArray[np.generic]] = {
            GEOMETRY: self.geometry,
            START: self.start,
            END: self.end,
        }
        return {
            name: xr.Variable((SCENE,), data, attrs=given[name].attrs if name in given else None)
            for name, data in values.items()
        }

    @cached_property
    def tree(self) -> shapely.STRtree:
        """Packed R-tree over the footprints."""
        return shapely.STRtree(self.geometry)

    @property
    def bounds(self) -> tuple[float, float, float, float] | None:
        """Bounds of all footprints; None if there are none."""
        boxes = shapely.bounds(self.geometry)
        if not len(boxes) or np.isnan(boxes).all():
            return None
        low, high = np.nanmin(boxes[:, :2], axis=0), np.nanmax(boxes[:, 2:], axis=0)
        return float(low[0]), float(low[1]), float(high[0]), float(high[1])

    def overlapping(
        self, geometry: BaseGeometry | None, interval: Interval | None
    ) -> NDArray[np.int64]:
        """Positions of the scenes that meet a geometry (in this CRS) and a closed interval.

        Footprints themselves are tested, not their boxes. Scenes whose footprint or time is not
        known meet nothing.
        """
        hit = np.ones(len(self.geometry), bool)
        if geometry is not None:
            hit[:] = False
            hit[self.tree.query(geometry, predicate="intersects")] = True
        if interval is not None:
            hit &= (self.start <= interval[1]) & (self.end >= interval[0])
        return np.flatnonzero(hit)

    def isel(self, indexers: Mapping[Hashable, object]) -> Self | None:
        """Select scenes; a single one leaves the dimension, and the index with it."""
        which = indexers.get(SCENE, slice(None))
        if isinstance(which, xr.Variable):
            if which.dims != (SCENE,):
                return None
            which = which.values
        which = cast("slice", which)
        geometry = self.geometry[which]
        if not isinstance(geometry, np.ndarray):
            return None
        return type(self)(geometry, self.start[which], self.end[which], self.crs)

    @classmethod
    def concat(
        cls,
        indexes: Sequence[Self],
        dim: Hashable,
        positions: Iterable[Iterable[int]] | None = None,
    ) -> Self:
        """Put the scenes of catalogs in one CRS behind each other."""
        first = indexes[0]
        for other in indexes[1:]:
            first._require_same_crs(other)
        geometry = np.concatenate([index.geometry for index in indexes])
        start = np.concatenate([index.start for index in indexes])
        end = np.concatenate([index.end for index in indexes])
        if positions is not None:
            order = np.argsort(np.concatenate([np.asarray(list(p), np.int64) for p in positions]))
            geometry, start, end = geometry[order], start[order], end[order]
        return cls(geometry, start, end, first.crs)

    def equals(self, other: Index, **kwargs: object) -> bool:
        """Tell whether `other` holds the same footprints and times in the same CRS."""
        return (
            isinstance(other, FootprintIndex)
            and self.crs == other.crs
            and np.array_equal(self.start, other.start, equal_nan=True)
            and np.array_equal(self.end, other.end, equal_nan=True)
            and len(self.geometry) == len(other.geometry)
            and all(a == b for a, b in zip(self.geometry, other.geometry, strict=True))
        )

    def join(self, other: Self, how: str = "inner") -> Self:
        """Refuse: two different lists of scenes do not combine row by row."""
        self._require_same_crs(other)
        raise ValueError(
            f"Two catalogs of different scenes ({len(self.geometry)} and {len(other.geometry)} "
            "rows) do not combine row by row. Put them behind each other with "
            "xr.concat([a, b], 'scene'), or select the same scenes in both first."
        )

    def _require_same_crs(self, other: FootprintIndex) -> None:
        if not same_crs(self.crs, other.crs):
            raise ValueError(
                f"Catalogs with footprints in {self.crs.to_string()} and {other.crs.to_string()} "
                "do not mix. Build both with the same crs=..."
            )

    def _repr_inline_(self, max_width: int) -> str:
        return f"FootprintIndex (crs={self.crs.to_string()})"


def footprint_index(ds: xr.Dataset) -> FootprintIndex:
    """Return the FootprintIndex of a catalog.

    Raises
    ------
    ValueError
        When the catalog lost it.
    """
    index = ds.xindexes.get(GEOMETRY)
    if isinstance(index, FootprintIndex):
        return index
    raise ValueError(
        "This catalog has lost its FootprintIndex. Set it again: ds.set_xindex("
        f"['{GEOMETRY}', '{START}', '{END}'], FootprintIndex, crs=...), with FootprintIndex from "
        "xgeocat.catalog.index."
    )
