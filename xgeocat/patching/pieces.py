"""What reducers are given, and what they must do.

A reducer is three steps over a state of plain arrays: `init` it for a block, `fold` in one piece
after the other, `finish` it into values. All pieces that reach a block are folded there, in one
order, so no states are ever merged. The weight that reached each cell is kept by the caller, and so
is the fill value of cells that none reached.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from xgeocat.patching.tiling import Array, Region
from xgeocat.patching.windows import Window

State: TypeAlias = tuple[Array, ...]
Floats: TypeAlias = NDArray[np.float64]
Mask: TypeAlias = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Piece:
    """The part of one patch that falls into a block.

    Parameters
    ----------
    values : numpy.ndarray
        Shape ``(..., *box)``, the answers.
    window : tuple of numpy.ndarray
        Blending weights, one vector for each dimension of the box; never zero.
    valid : numpy.ndarray or None
        Shape of `values`, bool: False where the answer is NaN or nodata. None: all valid.
    """

    values: Array
    window: tuple[Floats, ...]
    valid: Mask | None

    @property
    def weight(self) -> Floats:
        """The weights as one array, shape ``box``."""
        return outer(self.window)

    @property
    def mask(self) -> Mask:
        """`valid`, as an array in any case."""
        return np.ones(self.values.shape, bool) if self.valid is None else self.valid


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
    def fold(self, state: State, at: Region, piece: Piece) -> None:
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


def add_weighted(sums: Array, values: Array, window: tuple[Floats, ...]) -> None:
    """Add values times their separable weights to float64 or complex128 sums, in place."""
    from xgeocat.patching import kernels

    *leading, along_y, along_x = window if len(window) > 1 else (np.ones(1), *window)
    if len(window) == 1:
        sums, values = sums[..., None, :], values[..., None, :]
    if values.dtype.kind == "c":
        # Multiplied by ``weight + 0j``, infinities would become NaN.
        sums, values, along_x = _parts(sums), _parts(values), np.repeat(along_x, 2)
    elif values.dtype.kind == "b":
        values = values.view(np.uint8)
    elif values.dtype == np.float16:
        values = values.astype(np.float32)
    for plane in np.ndindex(values.shape[:-2]):
        own = zip(leading, plane[len(plane) - len(leading) :], strict=True)
        factor = np.prod([weights[i] for weights, i in own])
        kernels.add_weighted(sums[plane], values[plane], along_y * factor, along_x)


def _parts(numbers: Array) -> Array:
    """Complex numbers as their real and imaginary parts, side by side along the last dimension."""
    return numbers.view(np.float32 if numbers.dtype == np.complex64 else np.float64)
