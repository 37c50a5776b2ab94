"""FootprintIndex: an xarray Index over the footprints and times of scenes."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Protocol, Self, cast

import numpy as np
import pyproj
import shapely
import xarray as xr
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry
from xarray.core.indexes import Index
from xarray.core.indexing import IndexSelResult

from xgeocat.catalog.aoi import same_crs
from xgeocat.catalog.interval import Interval
from xgeocat.catalog.schema import END, GEOMETRY, SCENE, START, TIME_DTYPE

Geometries = NDArray[np.object_]
Times = NDArray[np.datetime64]


class Footprints(Protocol):
    """Footprints and times of some scenes, in memory or in a file."""

    @property
    def geometry(self) -> Geometries:
        """Shape ``(scene,)``, in memory; None for a scene whose footprint is not known."""
        ...

    @property
    def start(self) -> Times:
        """Shape ``(scene,)``, in memory; ``datetime64[us]``, UTC; NaT where not known."""
        ...

    @property
    def end(self) -> Times:
        """As `start`."""
        ...

    @property
    def boxes(self) -> NDArray[np.float64]:
        """Bounds of each, shape ``(4, scene)``; NaN for a scene whose footprint is not known."""
        ...

    @property
    def bounds(self) -> tuple[float, float, float, float] | None:
        """Bounds of all; None where none is known."""
        ...

    @property
    def reach(self) -> tuple[float, float, float, float] | None:
        """Bounds that hold all, and perhaps more, without reading anything."""
        ...

    def __len__(self) -> int: ...

    def overlapping(
        self, geometry: BaseGeometry | None, interval: Interval | None
    ) -> NDArray[np.int64]:
        """Positions, ascending, of those that meet a geometry and a closed interval."""
        ...

    def take(self, which: slice | NDArray[np.generic]) -> Footprints:
        """Some of them."""
        ...

    def columns(self) -> Mapping[str, object]:
        """`geometry`, `start` and `end` as arrays for xarray, read when they are asked for."""
        ...

    @property
    def drawn(self) -> Drawn:
        """The same, in memory."""
        ...


class Drawn:
    """Footprints in memory; see :class:`Footprints`."""

    def __init__(self, geometry: Geometries, start: Times, end: Times) -> None:
        self.geometry = geometry
        self.start = start.astype(TIME_DTYPE, copy=False)
        self.end = end.astype(TIME_DTYPE, copy=False)

    def __len__(self) -> int:
        return len(self.geometry)

    @cached_property
    def tree(self) -> shapely.STRtree:
        """Packed R-tree over the footprints."""
        return shapely.STRtree(self.geometry)

    def overlapping(
        self, geometry: BaseGeometry | None, interval: Interval | None
    ) -> NDArray[np.int64]:
        """Test footprints themselves, not their boxes."""
        hit = np.ones(len(self.geometry), bool)
        if geometry is not None:
            hit[:] = False
            hit[self.tree.query(geometry, predicate="intersects")] = True
        if interval is not None:
            hit &= (self.start <= interval[1]) & (self.end >= interval[0])
        return np.flatnonzero(hit)

    @property
    def boxes(self) -> NDArray[np.float64]:
        """Bounds of each."""
        return shapely.bounds(self.geometry).T

    @property
    def bounds(self) -> tuple[float, float, float, float] | None:
        """Bounds of all."""
        boxes = self.boxes
        if not boxes.size or np.isnan(boxes).all():
            return None
        low, high = np.nanmin(boxes[:2], axis=1), np.nanmax(boxes[2:], axis=1)
        return float(low[0]), float(low[1]), float(high[0]), float(high[1])

    @property
    def reach(self) -> tuple[float, float, float, float] | None:
        """The same."""
        return self.bounds

    def take(self, which: slice | NDArray[np.generic]) -> Drawn:
        """Some of them, with a tree of their own."""
        which = cast("slice", which)
        return Drawn(self.geometry[which], self.start[which], self.end[which])

    def columns(self) -> Mapping[str, object]:
        """As they are."""
        return {GEOMETRY: self.geometry, START: self.start, END: self.end}

    @property
    def drawn(self) -> Drawn:
        """These."""
        return self


def selected(which: object, dim: Hashable = SCENE) -> slice | NDArray[np.generic] | None:
    """What a selection keeps of the scenes; None where the dimension does not stay."""
    if isinstance(which, slice):
        return which
    if isinstance(which, xr.Variable):
        if which.dims != (dim,):
            return None
        which = which.values
    positions = np.asarray(which)
    if positions.ndim == 0:
        return None
    return positions if positions.size else positions.astype(np.int64)


class FootprintIndex(Index):
    """Index over the ``geometry``, ``start_time`` and ``end_time`` of scenes.

    Parameters
    ----------
    footprints : Footprints
        The footprints and times. A packed R-tree over them is built when first asked, and again on
        demand after a selection; of those in a file, the file's order is one.
    crs : pyproj.CRS
        CRS of the footprints.
    """

    def __init__(self, footprints: Footprints, crs: pyproj.CRS) -> None:
        self.footprints = footprints
        self.crs = crs
        # By which names and dim a user calls them now, where he renamed them.
        self._names: Mapping[Hashable, Hashable] = {}
        self._dims: Mapping[Hashable, Hashable] = {}

    @property
    def geometry(self) -> Geometries:
        """Footprints, shape ``(scene,)``; None for a scene whose footprint is not known."""
        return self.footprints.geometry

    @property
    def start(self) -> Times:
        """First moments, shape ``(scene,)``, ``datetime64[us]``, UTC; NaT where not known."""
        return self.footprints.start

    @property
    def end(self) -> Times:
        """Last moments; as `start`."""
        return self.footprints.end

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
        drawn = Drawn(geometry, variables[START].values, variables[END].values)
        return cls(drawn, pyproj.CRS.from_user_input(options["crs"]))

    def create_variables(
        self, variables: Mapping[Hashable, xr.Variable] | None = None
    ) -> dict[Hashable, xr.Variable]:
        """Return the three coordinates, or those of them that there are already."""
        named = {self._names.get(k, k): data for k, data in self.footprints.columns().items()}
        if not variables:
            return {name: xr.Variable((SCENE,), data) for name, data in named.items()}
        return {
            name: xr.Variable(
                [self._dims.get(dim, dim) for dim in variable.dims],
                named[name],
                attrs=variable.attrs,
            )
            for name, variable in variables.items()
        }

    def overlapping(
        self, geometry: BaseGeometry | None, interval: Interval | None
    ) -> NDArray[np.int64]:
        """Positions of the scenes that meet a geometry (in this CRS) and a closed interval.

        Footprints themselves are tested, not their boxes. Scenes whose footprint or time is not
        known meet nothing.
        """
        return self.footprints.overlapping(geometry, interval)

    def isel(self, indexers: Mapping[Hashable, object]) -> Self | None:
        """Select scenes; a single one leaves the dimension, and the index with it."""
        # All coordinates are along one dimension, whatever it is called by now.
        ((dim, which),) = indexers.items()
        positions = selected(which, dim)
        return None if positions is None else self._of(self.footprints.take(positions))

    def sel(self, labels: dict[object, object], **options: object) -> IndexSelResult:
        """Refuse, saying what selects by place and time."""
        asked = ", ".join(f"{name}={label!r:.60}" for name, label in labels.items())
        raise NotImplementedError(
            f"Footprints and times are no labels that .sel({asked}) could look up. Ask for scenes "
            "with .geocat.query(aoi, time=...), or compare: ds.isel(scene=ds.start_time > ...)."
        )

    def rename(
        self, name_dict: Mapping[Hashable, Hashable], dims_dict: Mapping[Hashable, Hashable]
    ) -> Self:
        """Call coordinates, or their dimension, by other names."""
        renamed = self._of(self.footprints)
        names = {name: self._names.get(name, name) for name in (GEOMETRY, START, END)}
        renamed._names = {name: name_dict.get(now, now) for name, now in names.items()}
        renamed._dims = dims_dict
        return renamed

    def _of(self, footprints: Footprints) -> Self:
        """The same of other footprints."""
        made = type(self)(footprints, self.crs)
        made._names, made._dims = self._names, self._dims
        return made

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
        return cls(Drawn(geometry, start, end), first.crs)

    def equals(self, other: Index, **kwargs: object) -> bool:
        """Tell whether `other` holds the same footprints and times in the same CRS."""
        if not isinstance(other, FootprintIndex) or self.crs != other.crs:
            return False
        return self.footprints is other.footprints or (
            len(self.footprints) == len(other.footprints)
            and np.array_equal(self.start, other.start, equal_nan=True)
            and np.array_equal(self.end, other.end, equal_nan=True)
            and all(a == b for a, b in zip(self.geometry, other.geometry, strict=True))
        )

    def join(self, other: Self, how: str = "inner") -> Self:
        """Refuse: two different lists of scenes do not combine row by row."""
        self._require_same_crs(other)
        raise ValueError(
            f"Two catalogs of different scenes ({len(self.footprints)} and "
            f"{len(other.footprints)} rows) do not combine row by row. Put them behind each other "
            "with xr.concat([a, b], 'scene'), or select the same scenes in both first."
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


def loaded(ds: xr.Dataset) -> xr.Dataset:
    """Return a catalog whose columns and footprints are all in memory."""
    index = footprint_index(ds)
    drawn = FootprintIndex(index.footprints.drawn, index.crs)
    columns = ds.drop_vars([GEOMETRY, START, END]).compute()
    return columns.assign_coords(xr.Coordinates.from_xindex(drawn))
