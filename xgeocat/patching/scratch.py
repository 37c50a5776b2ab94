"""Arrays whose memory is used again: fresh pages cost more than the arithmetic done on them.

The operating system zeroes a page, and maps it, when it is first written to. For the large arrays
of each block that took as long as cutting and folding. So their memory is kept for the next block.
An array made here is like any other, and may be kept: only when it and all its views are gone does
its memory come back.
"""

from __future__ import annotations

import math
from collections import deque

import numpy as np
from numpy.typing import DTypeLike

from xgeocat.patching.tiling import Array

#: Memory is handed out in multiples of this, so that blocks of about the same size share it.
GRAIN = 1 << 20
#: No more than this is kept while nobody uses it.
KEPT = 96 << 20

_free: dict[int, deque[Array]] = {}


class _Lease:
    """Memory that goes back when the last array over it is gone."""

    def __init__(self, memory: Array) -> None:
        self.memory = memory
        self.__array_interface__ = memory.__array_interface__

    def __del__(self) -> None:
        if sum(size * len(kept) for size, kept in list(_free.items())) < KEPT:
            _free.setdefault(self.memory.nbytes, deque()).append(self.memory)


def empty(shape: tuple[int, ...], dtype: DTypeLike) -> Array:
    """Like ``numpy.empty``."""
    dtype = np.dtype(dtype)
    size = -(-math.prod(shape) * dtype.itemsize // GRAIN) * GRAIN
    if size <= GRAIN or dtype.hasobject:
        return np.empty(shape, dtype)
    try:
        memory = _free[size].pop()
    except (KeyError, IndexError):
        memory = np.empty(size, np.uint8)
    flat = np.asarray(_Lease(memory))[: math.prod(shape) * dtype.itemsize]
    return flat.view(dtype).reshape(shape)


def zeros(shape: tuple[int, ...], dtype: DTypeLike = np.float64) -> Array:
    """Like ``numpy.zeros``."""
    array = empty(shape, dtype)
    array.fill(0)
    return array
