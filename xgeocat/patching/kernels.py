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
    at: tuple[int, int],
    values: Array,
    within: tuple[int, int],
    along_y: NDArray[np.float64],
    along_x: NDArray[np.float64],
) -> None:
    """Add a box of values, times its separable weights, to a box of sums, in place.

    Parameters
    ----------
    sums : numpy.ndarray
        Shape ``(y, x)``, float64.
    at, within : (int, int)
        First cell of the box in the sums and in the values. Whole arrays are given, rather than
        views of the boxes, because the compiler knows only of those that their rows are contiguous.
    values : numpy.ndarray
        Shape ``(y, x)``, integers or floats (numba knows no float16).
    along_y, along_x : numpy.ndarray
        Weights; their lengths are those of the box.
    """
    width = len(along_x)
    for y in range(len(along_y)):
        weight = along_y[y]
        row_of_sums = sums[at[0] + y, at[1] : at[1] + width]
        row = values[within[0] + y, within[1] : within[1] + width]
        for x in range(width):
            row_of_sums[x] += weight * along_x[x] * row[x]
