"""Reducers that weigh all answers against each other: means, variances, sums."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from xgeocat.patching.pieces import Piece, Reducer, State, round_half_up
from xgeocat.patching.scratch import zeros
from xgeocat.patching.tiling import Array


def _float_like(dtype: np.dtype) -> np.dtype:
    """Floats in which a spread of answers of `dtype` is given."""
    if dtype.kind == "f":
        return dtype
    wide = dtype.itemsize > (8 if dtype.kind == "c" else 2)
    return np.dtype(np.float64 if wide else np.float32)


def _known(piece: Piece) -> Array:
    """Values, with zero for those that do not count."""
    values = piece.values
    return values if piece.valid is None else np.where(piece.valid, values, values.dtype.type(0))


def _over(sums: Array, weight: Array) -> Array:
    """Quotient of sums and their weight; anything where the weight is zero."""
    if weight.ndim == 0:
        return sums
    with np.errstate(invalid="ignore", divide="ignore"):
        if sums.dtype.kind != "c":
            return sums / weight
        out = np.empty_like(sums)
        np.divide(sums.real, weight, out=out.real)
        np.divide(sums.imag, weight, out=out.imag)
        return out


class Mean(Reducer):
    """Weighted mean, summed in float64 (complex128): more than the answers hold."""

    weighted = True
    relative = True

    def init(self, shape: tuple[int, ...], dtype: np.dtype, depth: int) -> State:
        return (zeros(shape, np.complex128 if dtype.kind == "c" else np.float64),)

    def fold(self, state: State, piece: Piece) -> None:
        piece.add_to(state[0], None if piece.valid is None else _known(piece))

    def finish(self, state: State, weight: Array) -> Array:
        return _over(state[0], weight)


class SteadyMean(Mean):
    """Weighted mean of 64-bit answers: one of them, and the mean deviation from it.

    A sum in float64 could not hold them exactly. Where all answers agree, so does the mean, to the
    last bit.
    """

    def init(self, shape: tuple[int, ...], dtype: np.dtype, depth: int) -> State:
        wide = np.complex128 if dtype.kind == "c" else np.float64
        return np.zeros(shape, wide), np.zeros(shape, dtype), np.zeros(shape, np.bool_)

    def fold(self, state: State, piece: Piece) -> None:
        reference, seen = (array[piece.region] for array in state[1:])
        np.copyto(reference, piece.values, where=piece.mask & ~seen)
        seen |= piece.mask
        deviation = deviations(piece.values, reference)
        if piece.valid is not None:
            deviation = np.where(piece.valid, deviation, 0)
        piece.add_to(state[0], deviation)

    def finish(self, state: State, weight: Array) -> Array:
        sums, reference, _ = state
        mean = _over(sums, weight)
        if reference.dtype.kind in "fc":
            return reference + mean
        mean = np.where(np.isfinite(mean), mean, 0)
        small = np.abs(mean) < 2**32
        mean = np.where(small, round_half_up(np.where(small, mean, 0)), np.rint(mean))
        size = np.minimum(np.abs(mean), 2.0**64 - 2048).astype(np.uint64)
        start = reference.view(np.uint64)
        return np.where(mean < 0, start - size, start + size).view(reference.dtype)


def deviations(values: Array, reference: Array) -> Array:
    """Differences of answers from a reference, in float64 (complex128)."""
    if values.dtype.kind in "iu" and values.dtype.itemsize == 8:
        # A difference of two 64-bit integers fits 64 bits only without its sign.
        above = values >= reference
        mine, theirs = values.view(np.uint64), reference.view(np.uint64)
        size = np.where(above, mine - theirs, theirs - mine).astype(np.float64)
        return np.where(above, size, -size)
    wide = np.complex128 if values.dtype.kind == "c" else np.float64
    with np.errstate(invalid="ignore", over="ignore"):
        difference = np.subtract(values, reference, dtype=wide)
        odd = ~np.isfinite(difference)
        if odd.any():
            # Infinity less infinity is NaN; a finite answer does not move an infinite one.
            same = (values == reference) | (np.isinf(reference) & np.isfinite(values))
            difference[odd & same] = 0
    return difference


@dataclass(frozen=True, slots=True)
class Spread(Reducer):
    """Weighted variance of the answers around their mean, or its root.

    Parameters
    ----------
    root : bool
        Whether to give the standard deviation.
    least : int
        Answers without which the spread of a cell is not known (NaN).

    Notes
    -----
    ``sum(w (x - x0)^2) / W - (sum(w (x - x0)) / W)^2`` with the first answer for ``x0``: shifted
    data, Chan, Golub & LeVeque (1983), "Algorithms for computing the sample variance".
    """

    root: bool = False
    least: int = 1
    weighted = True
    relative = True

    def dtype(self, dtype: np.dtype) -> np.dtype:
        return _float_like(dtype)

    def init(self, shape: tuple[int, ...], dtype: np.dtype, depth: int) -> State:
        wide = np.complex128 if dtype.kind == "c" else np.float64
        return (
            np.zeros(shape, wide),
            np.zeros(shape),
            np.zeros(shape, dtype),
            np.zeros(shape, np.int32),
        )

    def fold(self, state: State, piece: Piece) -> None:
        reference, count = (array[piece.region] for array in state[2:])
        np.copyto(reference, piece.values, where=piece.mask & (count == 0))
        count += piece.mask
        plain = piece.values.view(np.uint8) if piece.values.dtype.kind == "b" else piece.values
        first = reference.view(np.uint8) if reference.dtype.kind == "b" else reference
        deviation = np.where(piece.mask, deviations(plain, first), 0)
        if first.dtype.kind in "fc" and np.isinf(first).any():
            # A finite answer does not move an infinite mean; but it does not agree with it.
            deviation[np.isinf(first) & np.isfinite(plain) & piece.mask] = np.inf
        piece.add_to(state[0], deviation)
        piece.add_to(state[1], np.abs(deviation) ** 2)

    def finish(self, state: State, weight: Array) -> Array:
        sums, squares, _, count = state
        with np.errstate(invalid="ignore"):
            variance = np.maximum(_over(squares, weight) - np.abs(_over(sums, weight)) ** 2, 0)
        variance[count < self.least] = np.nan
        return np.sqrt(variance) if self.root else variance


class InverseVarianceMean(Reducer):
    """Mean weighted by how sure the model is: answers are pairs of a value and its variance.

    The pair is the first dimension after the patch dimension. The result is such a pair again:
    ``sum(w x / v) / sum(w / v)``, and its variance ``sum(w^2 / v) / sum(w / v)^2`` for answers that
    are independent (W. G. Cochran, "Problems arising in the analysis of a series of similar
    experiments", 1937).
    """

    weighted = True
    relative = True
    joint = True

    def init(self, shape: tuple[int, ...], dtype: np.dtype, depth: int) -> State:
        if dtype.kind != "f" or shape[0] != 2:
            raise ValueError(
                "reduce='inverse_variance' takes floats with two values along the first dim after "
                f"'patch', the answer and its variance; got {dtype} with {shape[0]} values there."
            )
        return np.zeros(shape[1:]), np.zeros(shape[1:]), np.zeros(shape[1:])

    def fold(self, state: State, piece: Piece) -> None:
        values, variance = piece.values.astype(np.float64, copy=False)
        valid = piece.mask.all(axis=0)
        if (variance[valid] <= 0).any():
            raise ValueError(
                f"reduce='inverse_variance' was given the variance {variance[valid].min()}; it "
                "must be above 0. Let the model answer NaN where it does not know."
            )
        precision = np.where(valid, 1 / np.where(valid, variance, 1), 0)
        piece.add_to(state[0], np.where(valid, values, 0) * precision)
        piece.add_to(state[1], precision)
        piece.add_to(state[2], precision, squared=True)

    def finish(self, state: State, weight: Array) -> Array:
        values, precision, squared = state
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.stack([values / precision, squared / precision**2])


class Sum(Reducer):
    """Plain sum of all answers, without weights; integers are summed in 64 bits."""

    def dtype(self, dtype: np.dtype) -> np.dtype:
        if dtype.kind in "bi":
            return np.dtype(np.int64)
        return np.dtype(np.uint64) if dtype.kind == "u" else dtype

    def init(self, shape: tuple[int, ...], dtype: np.dtype, depth: int) -> State:
        wide = {"f": np.float64, "c": np.complex128}.get(dtype.kind, self.dtype(dtype))
        return (np.zeros(shape, wide),)

    def fold(self, state: State, piece: Piece) -> None:
        state[0][piece.region] += _known(piece).astype(state[0].dtype, copy=False)

    def finish(self, state: State, weight: Array) -> Array:
        return state[0]


@dataclass(frozen=True, slots=True)
class Coverage(Reducer):
    """How much weight reached a cell; how many answers, with a boxcar window.

    Parameters
    ----------
    joint : bool
        Whether all that stands along the first dimension after ``patch`` is one answer.
    """

    joint: bool = False
    weighted = True

    def rest(self, rest: tuple[int, ...]) -> tuple[int, ...]:
        return rest[1:] if self.joint else rest

    def dtype(self, dtype: np.dtype) -> np.dtype:
        return np.dtype(np.float32)

    def init(self, shape: tuple[int, ...], dtype: np.dtype, depth: int) -> State:
        return (np.zeros(shape[1:] if self.joint else shape),)

    def fold(self, state: State, piece: Piece) -> None:
        piece.add_to(state[0], piece.mask[0] if self.joint else piece.mask)

    def finish(self, state: State, weight: Array) -> Array:
        # However little weight arrived, it is not none.
        least = np.finfo(np.float32).tiny
        return np.where(state[0] > 0, np.maximum(state[0], least), 0)
