"""The one loop that numpy cannot do in a single pass, compiled by numba on first use.

``sums += weights * values`` reads a patch once, widens it in registers and leaves no temporary; in
numpy it takes three passes. It runs without the interpreter's lock, so threads fold side by side.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from xgeocat.patching.tiling import Array


@numba.njit(nogil=True, cache=True)
def add_weighted(
    sums: NDArray[np.float64],
    y0: int,
    x0: int,
    values: Array,
    of_y: int,
    of_x: int,
    along_y: NDArray[np.float64],
    along_x: NDArray[np.float64],
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
