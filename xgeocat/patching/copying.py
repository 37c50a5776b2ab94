"""Copy many boxes of pixels in one go.

numpy copies them one by one, and takes the interpreter's lock in between: two threads that cut
patches then wait for each other most of the time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from xgeocat.patching.tiling import Array, Ints

#: What elements of 1, 2, 4 and 8 bytes are copied as.
UNITS = {size: np.empty(0, f"u{size}") for size in (1, 2, 4, 8)}


@dataclass(frozen=True, slots=True)
class Rows:
    """Boxes in memory, whose rows are contiguous.

    Parameters
    ----------
    addresses : numpy.ndarray
        Shape ``(box,)``: of the first element of each box. What lies there must be kept alive.
    strides : numpy.ndarray
        Shape ``(box,)``: bytes from row to row.
    """

    addresses: Ints
    strides: Ints

    @classmethod
    def joined(cls, several: Sequence[Rows]) -> Rows:
        """All boxes of several."""
        return cls(
            np.concatenate([rows.addresses for rows in several]),
            np.concatenate([rows.strides for rows in several]),
        )


def has_rows(array: Array) -> bool:
    """Tell whether the elements of an array can be copied row by row, as they are."""
    return (
        array.strides[-1] == array.itemsize and array.dtype.isnative and not array.dtype.hasobject
    )


def copy_planes(to: Sequence[Array], of: Sequence[Array]) -> None:
    """Copy arrays ``(..., y, x)`` of one dtype into others of their shapes.

    All have the same lengths but along y and x, and rows that are contiguous.
    """
    shapes = np.array([array.shape[-2:] for array in of])
    for plane in product(*map(range, of[0].shape[:-2])):
        copy_rows(_plane(to, plane), _plane(of, plane), shapes, of[0].dtype)


def _plane(arrays: Sequence[Array], plane: tuple[int, ...]) -> Rows:
    """One plane of each array."""
    addresses = np.array([address_of(array) for array in arrays])
    strides = np.array([array.strides for array in arrays])
    return Rows(addresses + strides[:, :-2] @ np.array(plane, np.int64), strides[:, -2])


def rows_in(array: Array, first: Ints) -> Rows:
    """Boxes in each plane of one array.

    Parameters
    ----------
    array : numpy.ndarray
        Shape ``(..., y, x)``.
    first : numpy.ndarray
        Shape ``(box, 2)``: row and column of the first element of each box.

    Returns
    -------
    Rows
        Of the boxes in the first plane, then in the next.
    """
    strides = np.array(array.strides)
    planes = np.array(list(product(*map(range, array.shape[:-2]))), np.int64)
    base = address_of(array) + planes @ strides[:-2]
    addresses = base[:, None] + first @ strides[-2:]
    return Rows(addresses.ravel(), np.full(addresses.size, strides[-2]))


def address_of(array: Array) -> int:
    """Where in memory the first element of an array is."""
    return int(array.__array_interface__["data"][0])


def copy_rows(to: Rows, of: Rows, shapes: Ints, dtype: np.dtype) -> None:
    """Copy boxes.

    Parameters
    ----------
    to, of : Rows
        Boxes that do not overlap.
    shapes : numpy.ndarray
        Shape ``(box, 2)``: rows, and elements in each.
    dtype : numpy.dtype
        Of the elements.
    """
    from xgeocat.patching import kernels

    unit = UNITS.get(dtype.itemsize, UNITS[1])
    lengths = shapes * np.array([1, dtype.itemsize // unit.itemsize])
    kernels.copy_rows(unit, to.addresses, to.strides, of.addresses, of.strides, lengths)
