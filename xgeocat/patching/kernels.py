"""The loops that numpy cannot do in a single pass, compiled by numba on first use.

They read every answer once, widen it in registers and leave no temporaries; in numpy that takes
three passes over memory and more. They run without the interpreter's lock, so threads fold side by
side.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numba
import numpy as np
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from xgeocat.patching.tiling import Array, Ints

if TYPE_CHECKING:
    Floats = NDArray[np.float64]


@numba.njit(nogil=True, cache=True)
def add_weighted(
    sums: Floats,
    y0: int,
    x0: int,
    values: Array,
    of_y: int,
    of_x: int,
    along_y: Floats,
    along_x: Floats,
) -> None:
    """Add a box of values, times its separable weights, to a box of sums, in place.

    Parameters
    ----------
    sums : numpy.ndarray
        Shape ``(y, x)``, float64.
    y0, x0 : int
        First cell of the box in the sums.
    values : numpy.ndarray
        Shape ``(y, x)``, integers or floats (numba knows no float16).
    of_y, of_x : int
        First cell of the box in the values. Whole arrays are given, rather than views of the boxes,
        because of those the compiler would not know that their rows are contiguous.
    along_y, along_x : numpy.ndarray
        Weights; their lengths are those of the box.
    """
    width = len(along_x)
    for y in range(len(along_y)):
        weight = along_y[y]
        row_of_sums = sums[y0 + y, x0 : x0 + width]
        row = values[of_y + y, of_x : of_x + width]
        for x in range(width):
            row_of_sums[x] += weight * along_x[x] * row[x]


@numba.njit(nogil=True, cache=True)
def copy_rows(
    unit: Array, to: Ints, to_strides: Ints, of: Ints, of_strides: Ints, shapes: Ints
) -> None:
    """Copy many boxes in one go, without the interpreter's lock.

    Parameters
    ----------
    unit : numpy.ndarray
        Any array of the dtype, or of another of the same size.
    to, of : numpy.ndarray
        Shape ``(box,)``: addresses of the first element of each box.
    to_strides, of_strides : numpy.ndarray
        Shape ``(box,)``, bytes from row to row. Rows are contiguous.
    shapes : numpy.ndarray
        Shape ``(box, 2)``: rows, and elements in each.
    """
    for box in range(len(to)):
        rows, n = shapes[box]
        for row in range(rows):
            target = numba.carray(_pointer(to[box] + row * to_strides[box], unit), n)  # type: ignore[attr-defined, call-arg]
            source = numba.carray(_pointer(of[box] + row * of_strides[box], unit), n)
            for x in range(n):
                target[x] = source[x]


@intrinsic
def _pointer(typing_context, address, like):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202 - numba's own form
    """Make a pointer to numbers such as `like` holds, from their address."""
    kind = types.CPointer(like.dtype)

    def code(context, builder, signature, arguments):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202 - numba's own form
        return builder.inttoptr(arguments[0], context.get_value_type(kind))

    return kind(address, like), code


@numba.njit(nogil=True, cache=True)
def mean_rows(
    out: Array,
    at: Ints,
    addresses: Ints,
    strides: Ints,
    boxes: Ints,
    weights: Ints,
    along_y: Floats,
    along_x: Floats,
    whole: bool,
) -> bool:
    """Blend the answers that reach a box, row by row, in float64; a row of sums fits in cache.

    Parameters
    ----------
    out : numpy.ndarray
        Shape ``(y, x)``, contiguous, of the dtype of the answers.
    at : numpy.ndarray
        The box in it: first and past-the-last row, first and past-the-last column. All of its
        cells must be in `boxes`.
    addresses, strides : numpy.ndarray
        Shape ``(piece,)``, bytes: where the answers of each piece lie in memory, and from row to
        row. Their rows are contiguous. They lie in arrays of any number, which numba cannot be
        given otherwise.
    boxes : numpy.ndarray
        Shape ``(piece, 4)``, like `at`: where the pieces fall.
    weights : numpy.ndarray
        Shape ``(piece, 2)``: which rows of `along_y` and `along_x` are those of a piece.
    along_y, along_x : numpy.ndarray
        Shapes ``(window, rows)`` and ``(window, columns)``: weights that sum to one at each cell.
    whole : bool
        Whether to round to whole numbers, as :func:`xgeocat.patching.pieces.round_half_up` does.

    Returns
    -------
    bool
        Whether all went well: False where a NaN came out.
    """
    first, last, left, right = at
    sums = np.empty(right - left)
    active = np.empty(len(addresses), np.int64)
    count = 0
    change = first
    unknown = False
    for y in range(first, last):
        if y == change:
            count = 0
            change = last
            for piece in range(len(addresses)):
                if boxes[piece, 0] <= y < boxes[piece, 1]:
                    active[count] = piece
                    count += 1
                    change = min(change, boxes[piece, 1])
                elif y < boxes[piece, 0]:
                    change = min(change, boxes[piece, 0])
        sums[:] = 0
        for number in range(count):
            piece = active[number]
            y0, _, x0, x1 = boxes[piece]
            address = addresses[piece] + (y - y0) * strides[piece]
            row = numba.carray(_pointer(address, out), x1 - x0)  # type: ignore[attr-defined, call-arg]
            weight = along_y[weights[piece, 0], y - y0]
            own = along_x[weights[piece, 1]]
            part = sums[x0 - left : x1 - left]
            for x in range(x1 - x0):
                part[x] += weight * own[x] * row[x]
        line = out[y, left:right]
        if whole:
            for x in range(right - left):
                line[x] = np.floor(np.rint(sums[x] * 2**20) / 2**20 + 0.5)
        else:
            for x in range(right - left):
                line[x] = sums[x]
                unknown |= sums[x] != sums[x]
    return not unknown
