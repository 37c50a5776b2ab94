"""Reducers: how the answers of overlapping patches become one.

Each is four steps over a state of plain arrays: `init` it for a region, `fold` one patch into it,
`merge` the state of another region, `finish` it into values. The weight that reached each cell is
kept by the caller, and so is the fill value of cells that none reached.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from xgeocat.patching.tiling import Array, Region

State: TypeAlias = tuple[Array, ...]


@dataclass(frozen=True, slots=True)
class Piece:
    """The part of one patch that falls into a region.

    Parameters
    ----------
    values : numpy.ndarray
        Shape ``(..., *box)``, the answers.
    weight : numpy.ndarray
        Shape ``box``, blending weights, never zero.
    valid : numpy.ndarray or None
        Shape of `values`, bool: False where the answer is NaN or nodata. None: all valid.
    rank : int
        Position of the patch in the field, row-major; decides who comes first.
    """

    values: Array
    weight: NDArray[np.floating]
    valid: NDArray[np.bool_] | None
    rank: int


class Reducer(Protocol):
    """What a reducer does; `weighted` tells whether blending windows mean anything to it."""

    weighted: bool

    def dtype(self, dtype: np.dtype) -> np.dtype:
        """Dtype of the result for answers of `dtype`."""
        ...

    def init(self, shape: tuple[int, ...], dtype: np.dtype) -> State:
        """State of a region that no patch has reached."""
        ...

    def fold(self, state: State, at: Region, piece: Piece) -> None:
        """Fold one patch into the state, in place."""
        ...

    def merge(self, state: State, other: State, at: Region, weights: tuple[Array, Array]) -> None:
        """Merge another region's state, in place; `weights` are (mine there, the other's)."""
        ...

    def finish(self, state: State, weight: Array) -> Array:
        """Values of the region; what stands where the weight is zero does not matter."""
        ...


def round_half_up(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Round to whole numbers, halves up.

    What is within 2**-20 of a half is a half: which side of it a sum of weights lands on depends
    on the order of summing, and no result may.
    """
    return np.floor(np.rint(values * 2**20) / 2**20 + 0.5)


def scaled(values: Array, factor: NDArray[np.floating]) -> Array:
    """Values times real factors; numpy would multiply complex numbers by ``factor + 0j``."""
    if values.dtype.kind != "c":
        return values * factor
    wide = np.result_type(values, np.complex128)
    out = np.empty(np.broadcast_shapes(values.shape, factor.shape), wide)
    np.multiply(values.real, factor, out=out.real)
    np.multiply(values.imag, factor, out=out.imag)
    return out


class Mean:
    """Weighted mean, accumulated in float64 (complex128): one precision above the answers."""

    weighted = True

    def dtype(self, dtype: np.dtype) -> np.dtype:
        return dtype

    def init(self, shape: tuple[int, ...], dtype: np.dtype) -> State:
        return (np.zeros(shape, np.complex128 if dtype.kind == "c" else np.float64),)

    def fold(self, state: State, at: Region, piece: Piece) -> None:
        values = piece.values if piece.valid is None else np.where(piece.valid, piece.values, 0)
        state[0][at] += scaled(values, piece.weight)

    def merge(self, state: State, other: State, at: Region, weights: tuple[Array, Array]) -> None:
        state[0][at] += other[0]

    def finish(self, state: State, weight: Array) -> Array:
        with np.errstate(invalid="ignore", divide="ignore"):
            return state[0] / weight if state[0].dtype.kind != "c" else scaled(state[0], 1 / weight)


class ExactMean:
    """Weighted mean for 64-bit floats, whose sums in float64 would depend on their order.

    They are summed in the machine's long double (80 bits on x86, no more than 64 on some others).
    Where all answers agree, the mean is that answer to the last bit, everywhere.
    """

    weighted = True

    def dtype(self, dtype: np.dtype) -> np.dtype:
        return dtype

    def init(self, shape: tuple[int, ...], dtype: np.dtype) -> State:
        # Sums, an answer, whether there is one, whether all are the same.
        wide = np.clongdouble if dtype.kind == "c" else np.longdouble
        return (
            np.zeros(shape, wide),
            np.zeros(shape, dtype),
            np.zeros(shape, np.bool_),
            np.ones(shape, np.bool_),
        )

    def fold(self, state: State, at: Region, piece: Piece) -> None:
        sums, one, seen, alike = (array[at] for array in state)
        valid = np.ones(piece.values.shape, bool) if piece.valid is None else piece.valid
        alike &= ~(seen & valid & (one != piece.values))
        np.copyto(one, piece.values, where=valid & ~seen)
        seen |= valid
        with np.errstate(over="ignore"):
            sums += scaled(np.where(valid, piece.values, 0).astype(sums.dtype), piece.weight)

    def merge(self, state: State, other: State, at: Region, weights: tuple[Array, Array]) -> None:
        sums, one, seen, alike = (array[at] for array in state)
        alike &= other[3] & ~(seen & other[2] & (one != other[1]))
        np.copyto(one, other[1], where=other[2] & ~seen)
        seen |= other[2]
        with np.errstate(over="ignore"):
            sums += other[0]

    def finish(self, state: State, weight: Array) -> Array:
        sums, one, _, alike = state
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = sums / weight if sums.dtype.kind != "c" else scaled(sums, 1 / weight)
        return np.where(alike, one, mean)


class ExactIntegerMean:
    """Weighted mean for 64-bit integers: an answer, and the mean deviation from it."""

    weighted = True

    def dtype(self, dtype: np.dtype) -> np.dtype:
        return dtype

    def init(self, shape: tuple[int, ...], dtype: np.dtype) -> State:
        return np.zeros(shape), np.zeros(shape, dtype), np.zeros(shape, np.bool_)

    def fold(self, state: State, at: Region, piece: Piece) -> None:
        sums, reference, seen = (array[at] for array in state)
        valid = np.ones(piece.values.shape, bool) if piece.valid is None else piece.valid
        np.copyto(reference, piece.values, where=valid & ~seen)
        seen |= valid
        sums += np.where(valid, self._deviation(piece.values, reference), 0) * piece.weight

    def merge(self, state: State, other: State, at: Region, weights: tuple[Array, Array]) -> None:
        sums, reference, seen = (array[at] for array in state)
        np.copyto(reference, other[1], where=other[2] & ~seen)
        both = np.where(seen & other[2], self._deviation(other[1], reference), 0)
        sums += other[0] + both * weights[1]
        seen |= other[2]

    @staticmethod
    def _deviation(values: Array, reference: Array) -> NDArray[np.float64]:
        # A difference of two 64-bit integers fits 64 bits only without its sign.
        above = values >= reference
        mine, theirs = values.view(np.uint64), reference.view(np.uint64)
        size = np.where(above, mine - theirs, theirs - mine).astype(np.float64)
        return np.where(above, size, -size)

    def finish(self, state: State, weight: Array) -> Array:
        sums, reference, _ = state
        mean = np.divide(sums, weight, out=np.zeros_like(sums), where=weight > 0)
        small = np.abs(mean) < 2**32
        mean = np.where(small, round_half_up(np.where(small, mean, 0)), np.rint(mean))
        size = np.minimum(np.abs(mean), 2.0**64 - 2048).astype(np.uint64)
        start = reference.view(np.uint64)
        return np.where(mean < 0, start - size, start + size).view(reference.dtype)


class Sum:
    """Plain sum of all answers, without weights; integers are summed in 64 bits."""

    weighted = False

    def dtype(self, dtype: np.dtype) -> np.dtype:
        if dtype.kind in "bi":
            return np.dtype(np.int64)
        return np.dtype(np.uint64) if dtype.kind == "u" else dtype

    def init(self, shape: tuple[int, ...], dtype: np.dtype) -> State:
        wide = {"f": np.float64, "c": np.complex128}.get(dtype.kind, self.dtype(dtype))
        return (np.zeros(shape, wide),)

    def fold(self, state: State, at: Region, piece: Piece) -> None:
        values = piece.values if piece.valid is None else np.where(piece.valid, piece.values, 0)
        state[0][at] += values.astype(state[0].dtype, copy=False)

    def merge(self, state: State, other: State, at: Region, weights: tuple[Array, Array]) -> None:
        state[0][at] += other[0]

    def finish(self, state: State, weight: Array) -> Array:
        return state[0]


@dataclass(frozen=True, slots=True)
class Extreme:
    """Largest or smallest answer."""

    pick: np.ufunc
    weighted = False

    def dtype(self, dtype: np.dtype) -> np.dtype:
        return dtype

    def init(self, shape: tuple[int, ...], dtype: np.dtype) -> State:
        largest = self.pick is np.maximum
        if dtype.kind == "f":
            worst: object = -np.inf if largest else np.inf
        elif dtype.kind in "iu":
            worst = np.iinfo(dtype).min if largest else np.iinfo(dtype).max
        else:
            worst = not largest
        return (np.full(shape, worst, dtype),)

    def fold(self, state: State, at: Region, piece: Piece) -> None:
        valid = True if piece.valid is None else piece.valid
        self.pick(state[0][at], piece.values, out=state[0][at], where=valid)

    def merge(self, state: State, other: State, at: Region, weights: tuple[Array, Array]) -> None:
        self.pick(state[0][at], other[0], out=state[0][at])

    def finish(self, state: State, weight: Array) -> Array:
        return state[0]


class First:
    """The answer of the patch that starts first in the field, row-major, whatever the order."""

    weighted = False

    def dtype(self, dtype: np.dtype) -> np.dtype:
        return dtype

    def init(self, shape: tuple[int, ...], dtype: np.dtype) -> State:
        return np.zeros(shape, dtype), np.full(shape, np.iinfo(np.int64).max)

    def fold(self, state: State, at: Region, piece: Piece) -> None:
        values, rank = (array[at] for array in state)
        earlier = piece.rank < rank
        if piece.valid is not None:
            earlier &= piece.valid
        np.copyto(values, piece.values, where=earlier)
        rank[earlier] = piece.rank

    def merge(self, state: State, other: State, at: Region, weights: tuple[Array, Array]) -> None:
        values, rank = (array[at] for array in state)
        earlier = other[1] < rank
        np.copyto(values, other[0], where=earlier)
        np.copyto(rank, other[1], where=earlier)

    def finish(self, state: State, weight: Array) -> Array:
        return state[0]


REDUCERS = ("mean", "sum", "max", "min", "first")


def reducer(name: str, dtype: np.dtype) -> Reducer:
    """Return the reducer of that name for answers of `dtype`.

    Raises
    ------
    ValueError
        For an unknown name, or one that complex answers have no order for.
    TypeError
        For answers that are not numbers or booleans.
    """
    if dtype.kind not in "biufc":
        raise TypeError(f"Answers of dtype {dtype} cannot be stitched; use numbers or booleans.")
    if name in ("max", "min") and dtype.kind == "c":
        raise ValueError(f"reduce={name!r} has no meaning for {dtype}; use 'mean' or 'first'.")
    if name == "mean":
        wide = dtype.itemsize >= (16 if dtype.kind == "c" else 8)
        if wide and dtype.kind in "iu":
            return ExactIntegerMean()
        return ExactMean() if wide else Mean()
    if name == "sum":
        return Sum()
    if name == "max":
        return Extreme(np.maximum)
    if name == "min":
        return Extreme(np.minimum)
    if name == "first":
        return First()
    raise ValueError(f"reduce={name!r} is unknown; use one of {REDUCERS}.")
