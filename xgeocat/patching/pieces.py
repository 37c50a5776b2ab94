"""What reducers are given, and what they must do.

A reducer is three steps over a state of plain arrays: `init` it for a block, `fold` in one piece
after the other, `finish` it into values. All pieces that reach a block are folded there, in one
order, so no states are ever merged. The weight that reached each cell is kept by the caller, and so
is the fill value of cells that none reached.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from xgeocat.patching.tiling import Array, Box, Region
from xgeocat.patching.windows import Window

State: TypeAlias = tuple[Array, ...]
Floats: TypeAlias = NDArray[np.float64]
Mask: TypeAlias = NDArray[np.bool_]


@dataclass(slots=True)
class Piece:
    """The part of one patch that falls into a block.

    Parameters
    ----------
    patch : numpy.ndarray
        Shape ``(..., *size)``: the answers of the patch.
    within : tuple of slice
        The part of it.
    at : tuple of slice
        Where it falls in the block.
    window : tuple of numpy.ndarray
        Blending weights, one vector for each dimension of the part; never zero.
    valid : numpy.ndarray or None
        Shape of `values`, bool: False where the answer is NaN or nodata. None: all valid.
    """

    patch: Array
    within: Box
    at: Box
    window: tuple[Floats, ...]
    valid: Mask | None

    @property
    def values(self) -> Array:
        """The answers of the part, shape ``(..., *part)``."""
        inside: Region = (..., *self.within)
        return self.patch[inside]

    @property
    def region(self) -> Region:
        """Index of the part in an array over the block."""
        return (..., *self.at)

    @property
    def weight(self) -> Floats:
        """The weights as one array, shape ``part``."""
        return outer(self.window)

    @property
    def mask(self) -> Mask:
        """`valid`, as an array in any case."""
        return np.ones(self.values.shape, bool) if self.valid is None else self.valid

    def add_to(self, sums: Array, values: Array | None = None, squared: bool = False) -> None:
        """Add the answers, times their weights, to float64 or complex128 sums over the block.

        Parameters
        ----------
        sums : numpy.ndarray
            Shape ``(..., *block)``; changed in place.
        values : numpy.ndarray, optional
            What to add instead of the answers, shape ``(..., *part)``.
        squared : bool, default: False
            Whether to add them times the square of their weights.
        """
        window = tuple(weights**2 for weights in self.window) if squared else self.window
        if values is None:
            _add(sums, self.at, self.patch, self.within, window)
        else:
            _add(sums, self.at, values, tuple(slice(0, len(w)) for w in window), window)


class Reducer(ABC):
    """How the answers that reach a cell become one; a subclass of your own is taken as ``reduce=``.

    Attributes
    ----------
    weighted : bool
        Whether blending windows mean anything to it.
    relative : bool
        Whether it is to be given weights that were divided by their sum at each cell. Without gaps
        they sum to one there, and nothing needs dividing any more.
    joint : bool
        Whether it needs all that stands along the first dimension after ``patch`` at once.
    window : str, (str, float) or None
        The only window that makes sense, whatever the user gives.
    """

    weighted: bool = False
    relative: bool = False
    joint: bool = False
    window: Window | None = None

    def dtype(self, dtype: np.dtype) -> np.dtype:
        """Dtype of the result for answers of `dtype`."""
        return dtype

    def rest(self, rest: tuple[int, ...]) -> tuple[int, ...]:
        """Lengths of the dimensions before the tiled ones in the result, for those of answers."""
        return rest

    @abstractmethod
    def init(self, shape: tuple[int, ...], dtype: np.dtype, depth: int) -> State:
        """State of a block that no patch has reached; at most `depth` will reach a cell."""

    @abstractmethod
    def fold(self, state: State, piece: Piece) -> None:
        """Fold one piece into the state, in place; pieces come in the order of their patches."""

    @abstractmethod
    def finish(self, state: State, weight: Array) -> Array:
        """Values of the block; what stands where the weight is zero does not matter.

        It is asked for a few rows at a time: no value may depend on neighbouring cells.
        """


def outer(vectors: Iterable[Array]) -> Array:
    """Outer product of one vector a dimension."""
    first, *others = vectors
    out: Array = first
    for vector in others:
        out = out[..., None] * vector
    return out


def round_half_up(values: Floats) -> Floats:
    """Round to whole numbers, halves up.

    What is within 2**-20 of a half is a half: weights that should cancel leave a last bit behind.
    """
    return np.floor(np.rint(values * 2**20) / 2**20 + 0.5)


def _add(sums: Array, at: Box, values: Array, within: Box, window: tuple[Floats, ...]) -> None:
    """Add a box of values times separable weights to a box of sums, plane by plane."""
    add = _kernel()
    if len(window) == 1:
        sums, values = sums[..., None, :], values[..., None, :]
        at, within, window = (slice(0, 1), *at), (slice(0, 1), *within), (np.ones(1), *window)
    *leading, along_y, along_x = window
    y, x, of_y, of_x = at[-2].start, at[-1].start, within[-2].start, within[-1].start
    if values.dtype.kind == "c":
        # Multiplied by ``weight + 0j``, infinities would become NaN.
        sums, values, along_x = _parts(sums), _parts(values), np.repeat(along_x, 2)
        x, of_x = 2 * x, 2 * of_x
    elif values.dtype.kind == "b":
        values = values.view(np.uint8)
    elif values.dtype == np.float16:
        values = values.astype(np.float32)
    if values.ndim == 2:
        add(sums, y, x, values, of_y, of_x, along_y, along_x)
        return
    rest = values.shape[: values.ndim - len(window)]
    for plane in product(*map(range, (*rest, *map(len, leading)))):
        outside, inside = plane[: len(rest)], plane[len(rest) :]
        factor = math.prod(weights[i] for weights, i in zip(leading, inside, strict=True))
        mine = (*outside, *(s.start + i for s, i in zip(at, inside, strict=False)))
        theirs = (*outside, *(s.start + i for s, i in zip(within, inside, strict=False)))
        add(sums[mine], y, x, values[theirs], of_y, of_x, along_y * factor, along_x)


@cache
def _kernel() -> Callable[..., None]:
    """The compiled loop; numba takes half a second to import, and only folding needs it."""
    from xgeocat.patching.kernels import add_weighted

    return add_weighted


def _parts(numbers: Array) -> Array:
    """Complex numbers as their real and imaginary parts, side by side along the last dimension."""
    if numbers.strides[-1] != numbers.itemsize:
        numbers = np.ascontiguousarray(numbers)
    return numbers.view(np.float32 if numbers.dtype == np.complex64 else np.float64)
