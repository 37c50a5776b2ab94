"""A dask array that can build itself again for a selection of its cells."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import dask.array as da
import numpy as np

from xgeocat.patching.tiling import Array

#: One entry per dimension of an array: what of it was asked for.
Selection: TypeAlias = tuple[int | slice | Array, ...]


class _ComparesAsArray(type):
    """Type of a type that passes for dask's own array.

    xarray refuses to combine lazy arrays whose types differ, and finds out by comparing the types
    (``xarray.namedarray.parallelcompat.get_chunked_array_type``). A `Selectable` is a dask array in
    every respect, so it must not be told apart.
    """

    def __eq__(cls, other: object) -> bool:
        return other is da.Array or other is cls

    def __hash__(cls) -> int:
        return hash(da.Array)


class Selectable(da.Array, metaclass=_ComparesAsArray):
    """A dask array that builds itself again for a selection, where it can.

    dask computes whole blocks, and slices them afterwards. This one is asked first. What comes of
    any other operation on it is a plain dask array.
    """

    _select: Callable[[Selection], da.Array | None]

    @classmethod
    def wrap(cls, array: da.Array, select: Callable[[Selection], da.Array | None]) -> Selectable:
        """Give a dask array a function that builds a selection of it (None: it cannot)."""
        self = cls(array.dask, array.name, array.chunks, meta=array._meta)
        self._select = select
        return self

    def __getitem__(self, index: object) -> da.Array:
        selection = _selection(index, self.shape)
        if selection is not None:
            selected = self._select(selection)
            if selected is not None:
                return selected
        return da.Array.__getitem__(self, index)


def _selection(index: object, shape: tuple[int, ...]) -> Selection | None:
    """Write an index as one entry a dimension; None where it is of another kind, or everything."""
    key = index if isinstance(index, tuple) else (index,)
    if not all(isinstance(k, (int, np.integer, slice, np.ndarray, type(...))) for k in key):
        return None
    if sum(isinstance(k, np.ndarray) for k in key) > 1 or any(np.ndim(k) > 1 for k in key):
        return None
    dots = next((i for i, k in enumerate(key) if k is ...), len(key))
    tail = key[dots + 1 :]
    key = (*key[:dots], *[slice(None)] * (len(shape) - dots - len(tail)), *tail)
    if len(key) != len(shape):
        return None
    entries = [
        slice(None) if isinstance(k, slice) and k.indices(n) == (0, n, 1) else k
        for k, n in zip(key, shape, strict=True)
    ]
    return None if all(is_whole(k) for k in entries) else tuple(entries)


def is_whole(entry: object) -> bool:
    """Tell whether an entry asks for all of its dimension."""
    return isinstance(entry, slice) and entry == slice(None)
