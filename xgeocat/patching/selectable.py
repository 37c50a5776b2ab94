"""A dask array that can build itself again for a selection of its cells."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from typing import TypeAlias

import cloudpickle
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

    dask computes whole blocks, and slices them afterwards. This one is asked first; so is what was
    selected of it before, or transposed. What comes of any other operation is a plain dask array.
    """

    _select: Callable[[Selection], da.Array | None]
    made: object

    @classmethod
    def wrap(
        cls,
        array: da.Array,
        select: Callable[[Selection], da.Array | None],
        made: object = None,
    ) -> Selectable:
        """Give a dask array a function that builds a selection of it (None: it cannot).

        A selection has one entry a dimension, each for itself (outer indexing). What the array was
        `made` of may be kept, for those who can make something better of that.
        """
        if isinstance(array, Selectable):
            return array
        self = cls(array.dask, array.name, array.chunks, meta=array._meta)
        self._select = select
        self.made = made
        return self

    def __getitem__(self, index: object) -> da.Array:
        selection = _selection(index, self.shape)
        if selection is None:
            return da.Array.__getitem__(self, index)
        return self.pick(selection)

    def __setitem__(self, index: object, values: object) -> None:
        """Set some cells. From then on this is as any dask array: it was made of others."""
        da.Array.__setitem__(self, index, values)
        self._select = _cannot
        self.made = None

    def pick(self, selection: Selection) -> da.Array:
        """Select along each dimension for itself."""
        picked = self._select(selection)
        if picked is None:
            picked = outer_getitem(self, selection)
        of = self.copy()
        return Selectable.wrap(picked, lambda again: of.pick(_compose(selection, again, of.shape)))

    def transpose(self, *axes: int) -> da.Array:
        """Transpose; what is selected of the result is selected of this before."""
        given = axes[0] if len(axes) == 1 and isinstance(axes[0], (tuple, list)) else axes
        order = [axis % self.ndim for axis in given or range(self.ndim)[::-1]]
        of = self.copy()

        def select(selection: Selection) -> da.Array:
            entries = dict(zip(order, selection, strict=True))
            picked = of.pick(tuple(entries[axis] for axis in range(of.ndim)))
            kept = [axis for axis in order if np.ndim(_probe(entries[axis])) == 1]
            return picked.transpose([sorted(kept).index(axis) for axis in kept])

        return Selectable.wrap(da.Array.transpose(self, order), select)

    def copy(self) -> Selectable:
        """Copy; the copy selects as this does."""
        return Selectable.wrap(da.Array.copy(self), self._select, self.made)

    __copy__ = copy

    def __reduce__(self) -> tuple[Callable[[bytes], object], tuple[bytes]]:
        return pickle.loads, (packed(self),)


def _cannot(_: Selection) -> None:
    """Build no selection."""


def packed(thing: object) -> bytes:
    """Pickle with the functions that build selections, which have no name to be imported by."""
    # What arrays share, such as a source in memory, is packed once: so one pickler for all.
    table = cloudpickle.Pickler.dispatch_table.new_child({da.Array: _parts})
    pickler = type("Pickler", (cloudpickle.Pickler,), {"dispatch_table": table})
    file = io.BytesIO()
    pickler(file).dump(thing)
    return file.getvalue()


def _parts(array: da.Array) -> tuple[object, ...]:
    plain = da.Array.__reduce__(array)
    if not isinstance(array, Selectable):
        return plain
    return Selectable.wrap, (da.Array(*plain[1]), array._select, array.made)


def outer_getitem(array: da.Array, selection: Selection) -> da.Array:
    """Select of a dask array along each dimension for itself; dask takes one list at a time."""
    for axis in reversed(range(array.ndim)):
        if not is_whole(selection[axis]):
            array = da.Array.__getitem__(array, (*[slice(None)] * axis, selection[axis]))
    return array


def _probe(entry: int | slice | Array) -> Array | np.integer:
    return np.zeros(0) if isinstance(entry, slice) else np.asarray(entry)


def _compose(first: Selection, then: Selection, shape: tuple[int, ...]) -> Selection:
    """One selection for two, the second made on what the first left."""
    rest = iter(then)
    entries: list[int | slice | Array] = []
    for entry, n in zip(first, shape, strict=True):
        if np.ndim(_probe(entry)) == 0:
            entries.append(entry)
            continue
        cells = np.arange(n)[entry][next(rest)]
        if np.ndim(cells) == 0:
            entries.append(int(cells))
        elif np.array_equal(cells, np.arange(n)):
            entries.append(slice(None))
        else:
            entries.append(cells)
    return tuple(entries)


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
