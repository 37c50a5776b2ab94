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
    like: Array,
    addresses: Ints,
    strides: Ints,
    boxes: Ints,
    along_y: Floats,
    along_x: Floats,
    whole: bool,
) -> bool:
    """Blend the answers that reach a block, row by row, in float64; a row of sums fits in cache.

    Parameters
    ----------
    out : numpy.ndarray
        Shape ``(y, x)``: the block; every cell of it must be in a box.
    like : numpy.ndarray
        Any array of the dtype of the answers.
    addresses, strides : numpy.ndarray
        Shape ``(piece,)``, bytes: where the answers of each piece lie in memory, and from row to
        row. Their rows are contiguous. They lie in arrays of any number, which numba cannot be
        given otherwise.
    boxes : numpy.ndarray
        Shape ``(piece, 4)``: first and past-the-last row, first and past-the-last column.
    along_y, along_x : numpy.ndarray
        Shapes ``(piece, rows)`` and ``(piece, columns)``: weights that sum to one at each cell.
    whole : bool
        Whether to round to whole numbers, as :func:`xgeocat.patching.pieces.round_half_up` does.

    Returns
    -------
    bool
        Whether all went well: False where a NaN came out.
    """
    sums = np.empty(out.shape[1])
    unknown = False
    for y in range(out.shape[0]):
        sums[:] = 0
        for piece in range(len(addresses)):
            y0, y1, x0, x1 = boxes[piece]
            if not y0 <= y < y1:
                continue
            address = addresses[piece] + (y - y0) * strides[piece]
            row = numba.carray(_pointer(address, like), x1 - x0)  # type: ignore[attr-defined, call-arg]
            weight = along_y[piece, y - y0]
            own = along_x[piece]
            part = sums[x0:x1]
            for x in range(x1 - x0):
                part[x] += weight * own[x] * row[x]
        line = out[y]
        if whole:
            for x in range(out.shape[1]):
                line[x] = np.floor(np.rint(sums[x] * 2**20) / 2**20 + 0.5)
        else:
            for x in range(out.shape[1]):
                line[x] = sums[x]
                unknown |= sums[x] != sums[x]
    return not unknown
