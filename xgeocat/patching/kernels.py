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
    values: Array,
    along_y: NDArray[np.float64],
    along_x: NDArray[np.float64],
) -> None:
    """Add values, times their separable weights, to sums, in place.

    Parameters
    ----------
    sums : numpy.ndarray
        Shape ``(y, x)``, float64.
    values : numpy.ndarray
        The same shape, integers or floats (numba knows no float16).
    along_y, along_x : numpy.ndarray
        Weights, shapes ``(y,)`` and ``(x,)``.
    """
    for y in range(values.shape[0]):
        weight = along_y[y]
        row_of_sums = sums[y]
        row = values[y]
        for x in range(values.shape[1]):
            row_of_sums[x] += weight * along_x[x] * row[x]
