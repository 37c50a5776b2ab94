"""PatchIndex: an xarray Index that remembers, through every operation, where patches came from."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self, cast

import numpy as np
import pyproj
import xarray as xr
from xarray.core.indexes import Index

from xgeocat.patching.record import ATTRIBUTE, read_back, write_down
from xgeocat.patching.tiling import Ints, Tiling

PATCH = "patch"


def start_name(dim: str) -> str:
    """Name of the coordinate that holds the patch starts along `dim`."""
    return f"{dim}_start"


@dataclass(frozen=True, eq=False)
class Parent:
    """What stitching needs to know of the field that was cut.

    Parameters
    ----------
    tiling : Tiling
        How it is tiled.
    dims : mapping of str to tuple of str
        Order of the dims of each variable, and under None that of all of them.
    coords : mapping of str to Variable
        Its coordinates along the tiled dimensions.
    mapping : mapping of str to Variable
        Its grid mapping by name, or nothing.
    """

    tiling: Tiling
    dims: Mapping[Hashable, tuple[Hashable, ...]]
    coords: Mapping[Hashable, xr.Variable]
    mapping: Mapping[Hashable, xr.Variable]

    @property
    def crs(self) -> str | None:
        """CRS of the field as WKT, where it has one."""
        return next((v.attrs["crs_wkt"] for v in self.mapping.values()), None)

    @cached_property
    def record(self) -> str:
        """All of this as text; see :mod:`xgeocat.patching.record`."""
        return write_down(self.tiling, self.dims, self.coords, self.mapping)

    def same_grid(self, other: Parent) -> bool:
        """Tell whether both are the same tiling of the same grid."""
        mine, theirs = self.coords, other.coords
        return (
            (self.tiling.dims, self.tiling.shape, self.tiling.size)
            == (other.tiling.dims, other.tiling.shape, other.tiling.size)
            and self.crs == other.crs
            and mine.keys() == theirs.keys()
            and all(mine[name].equals(theirs[name]) for name in mine)
        )


class PatchIndex(Index):
    """Index over the integer starts of patches, carrying the tiling of the field they came from.

    It lives on the ``patch`` dimension with one coordinate per tiled dimension (``y_start``,
    ``x_start``), so it survives ``isel``, ``where``, arithmetic, ``apply_ufunc``, ``concat``,
    ``chunk`` and pickling; patches of two different grids refuse to mix.

    Parameters
    ----------
    parent : Parent
        The field that was cut.
    starts : numpy.ndarray
        Shape ``(patch, dim)``, int64: the first cell of each patch in the parent's grid.
    """

    def __init__(self, parent: Parent, starts: Ints) -> None:
        self.parent = parent
        self.starts = starts

    @property
    def tiling(self) -> Tiling:
        """The tiling of the parent field."""
        return self.parent.tiling

    def create_variables(
        self, variables: Mapping[Hashable, xr.Variable] | None = None
    ) -> dict[Hashable, xr.Variable]:
        """One integer coordinate per tiled dimension, the first with the record of the parent."""
        return {
            start_name(dim): xr.Variable(
                (PATCH,), self.starts[:, axis], None if axis else {ATTRIBUTE: self.parent.record}
            )
            for axis, dim in enumerate(self.tiling.dims)
        }

    @classmethod
    def from_variables(
        cls, variables: Mapping[Hashable, xr.Variable], *, options: Mapping[str, object]
    ) -> Self:
        """Make the index of saved patches again: ``set_xindex(["y_start", ...], PatchIndex)``."""
        coords = xr.Dataset(coords=variables)
        records = {v.attrs[ATTRIBUTE] for v in variables.values() if ATTRIBUTE in v.attrs}
        if len(records) != 1:
            raise ValueError(
                f"{sorted(map(str, variables))} are no starts of saved patches. Cut a field with "
                ".geocat.patch(size, overlap=...)."
            )
        found = _reopened(coords, records.pop())
        return cls(found.parent, found.starts)

    def isel(self, indexers: Mapping[Hashable, object]) -> Self | None:
        """Select patches; a single one leaves the dimension, and the index with it."""
        selected = indexers.get(PATCH, slice(None))
        if isinstance(selected, xr.Variable):
            if selected.dims != (PATCH,):
                return None
            selected = selected.values
        starts = self.starts[cast("slice", selected)]
        return type(self)(self.parent, starts) if starts.ndim == 2 else None

    @classmethod
    def concat(
        cls,
        indexes: Sequence[Self],
        dim: Hashable,
        positions: Iterable[Iterable[int]] | None = None,
    ) -> Self:
        """Put patches of one grid behind each other, in their order or at `positions`."""
        first = indexes[0]
        for other in indexes[1:]:
            first._require_same_grid(other)
        starts = np.concatenate([index.starts for index in indexes])
        if positions is not None:
            order = np.concatenate([np.asarray(list(p), dtype=np.int64) for p in positions])
            starts = starts[np.argsort(order)]
        return cls(first.parent, starts)

    def equals(self, other: Index, **kwargs: object) -> bool:
        """Tell whether `other` holds the same patches of the same grid, in the same order."""
        return (
            isinstance(other, PatchIndex)
            and np.array_equal(self.starts, other.starts)
            and self.parent.same_grid(other.parent)
        )

    def join(self, other: Self, how: str = "inner") -> Self:
        """Refuse: xarray only asks when the two differ, and then no cell would match."""
        self._require_same_grid(other)
        raise ValueError(
            f"These are different patches of one grid ({len(self.starts)} and "
            f"{len(other.starts)}, or in another order). Select the same patches in both, or "
            "stitch each of them first and combine the fields."
        )

    def rename(
        self, name_dict: Mapping[Hashable, Hashable], dims_dict: Mapping[Hashable, Hashable]
    ) -> Self:
        """Refuse to rename what stitching needs by name."""
        own = {PATCH, *(start_name(dim) for dim in self.tiling.dims)}
        renamed = own & (name_dict.keys() | dims_dict.keys())
        if renamed:
            raise ValueError(f"{sorted(map(str, renamed))} cannot be renamed: stitch() needs them.")
        return self

    def _require_same_grid(self, other: PatchIndex) -> None:
        if not self.parent.same_grid(other.parent):
            raise ValueError(
                "Patches of two different grids do not mix: one is tiled as "
                f"{_describe(self.parent)}, the other as {_describe(other.parent)}. Put both "
                "fields on one grid (e.g. with .odc.reproject) before cutting them."
            )

    def __repr__(self) -> str:
        return f"PatchIndex({len(self.starts)} patches of {_describe(self.parent)})"


def _describe(parent: Parent) -> str:
    tiling = parent.tiling
    sizes = ", ".join(
        f"{dim}: {size} of {length} px"
        for dim, size, length in zip(tiling.dims, tiling.size, tiling.shape, strict=True)
    )
    origin = [parent.coords[d].values[0] for d in tiling.dims if d in parent.coords]
    crs = "no CRS" if parent.crs is None else pyproj.CRS.from_wkt(parent.crs).to_string()
    return f"{sizes}, from {tuple(map(str, origin))} in {crs[:60]}"


def patch_index(patches: xr.DataArray | xr.Dataset) -> PatchIndex:
    """Return the PatchIndex of an object.

    Raises
    ------
    ValueError
        When it has none, because it was never cut or its patch coordinates were dropped.
    """
    for index in patches.xindexes.values():
        if isinstance(index, PatchIndex):
            return index
    for coord in patches.coords.values():
        if ATTRIBUTE in coord.attrs and coord.dims == (PATCH,):
            return _reopened(patches, coord.attrs[ATTRIBUTE])
    had = "it was never cut"
    if PATCH in patches.dims:
        had = "its patch coordinates were dropped"
    elif any(str(name).endswith("_start") for name in patches.coords):
        had = "it is a single patch (select with a list, .isel(patch=[0]), to keep the dimension)"
    raise ValueError(
        f"This {type(patches).__name__} with dims {tuple(map(str, patches.dims))} carries no "
        f"PatchIndex: {had}. Cut it with .geocat.patch(size, overlap=...), and keep the "
        "'*_start' coordinates until .geocat.stitch()."
    )


def _reopened(patches: xr.DataArray | xr.Dataset, record: str) -> PatchIndex:
    """Make the index of patches that were saved, and opened again, from their coordinates."""
    parent = Parent(*read_back(record))
    names = [start_name(dim) for dim in parent.tiling.dims]
    missing = [name for name in names if name not in patches.coords]
    if missing:
        raise ValueError(
            f"These patches were saved with the coordinates {names}, of which {missing} are gone: "
            "where they belong is not known any more. Keep them (reset_coords and drop_vars drop "
            "them)."
        )
    starts = [patches.coords[name].values.astype(np.int64) for name in names]
    return PatchIndex(parent, np.stack(starts, axis=-1))
