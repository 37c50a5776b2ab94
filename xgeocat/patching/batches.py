"""Batches: run a model over patches in memory, or over what cuts them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from xgeocat.patching.cut import Windows
from xgeocat.patching.loading import Model
from xgeocat.patching.nodata import representable, valid_mask
from xgeocat.patching.scratch import empty
from xgeocat.patching.tiling import Array, Ints

log = logging.getLogger(__name__)

#: Patches, or what cuts them when asked for some.
Patches: TypeAlias = Array | Windows


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model answers for one patch: the shape without the patch dimension, and the dtype."""

    shape: tuple[int, ...]
    dtype: np.dtype


@dataclass(frozen=True, slots=True)
class Batching:
    """How a model is fed.

    Parameters
    ----------
    model : callable
        The model.
    size : int
        Patches per call, at most.
    nodata : tuple of (float or int or None)
        Nodata value of each input array.
    skip_empty : bool
        Whether patches without any valid cell are answered with `fill` instead of by the model.
    fill : float or int
        Answer for such patches.
    fixed : bool
        Whether every call gets exactly `size` patches, the last one filled up with copies.
    nan_allowed : bool
        Whether nothing but NaN is an answer to patches without NaN.
    """

    model: Model
    size: int
    nodata: tuple[float | int | None, ...]
    skip_empty: bool
    fill: float | int
    fixed: bool
    nan_allowed: bool


@dataclass(frozen=True, slots=True)
class Answers:
    """The answers of a model, which it gives when they are asked for.

    Parameters
    ----------
    arrays : sequence of numpy.ndarray or Windows
        Shape ``(patch, ...)`` each: the bands of a Dataset, or one array; or what cuts them.
    batching : Batching
        The model and how it is fed.
    stacked : bool
        Whether the arrays are stacked to ``(patch, band, ...)``.
    answer : Answer, optional
        What the answers must be; by default, as the first.
    """

    arrays: Sequence[Patches]
    batching: Batching
    stacked: bool
    answer: Answer | None = None

    def __len__(self) -> int:
        return len(self.arrays[0])

    def batches(self) -> Iterator[tuple[Ints, Array]]:
        """Run the model: numbers of patches, ascending, and their answers ``(patch, *answer)``.

        An array is to be used before the next one is asked for: the memory may be the model's.
        """
        worth, size = _worth_running(self.arrays, self.batching), self.batching.size
        chosen = np.flatnonzero(worth)
        answer = self.answer
        before = 0
        for first in range(0, len(chosen), size):
            at = chosen[first : first + size]
            pick = _compact(at)
            result = _ask(_batch(self.arrays, pick, self.stacked), self.batching)
            answer = answer or Answer(result.shape[1:], result.dtype)
            _check_same(result, answer)
            _refuse_nothing_but_nan(result, self.arrays, pick, self.batching)
            yield from self._skipped(np.flatnonzero(~worth[before : at[-1]]) + before, answer)
            yield at, result
            before = int(at[-1]) + 1
        last = np.flatnonzero(~worth[before:]) + before
        if len(last):
            yield from self._skipped(last, answer or self._probe())

    def all(self) -> Array:
        """Answers for all patches at once: shape ``(patch, *answer)``."""
        out = None
        for which, result in self.batches():
            if out is None:
                out = self._room(Answer(result.shape[1:], result.dtype))
            out[_compact(which)] = result
        return self._room(self.answer or self._probe()) if out is None else out

    def _room(self, answer: Answer) -> Array:
        return empty((len(self), *answer.shape), answer.dtype)

    def _probe(self) -> Answer:
        one = _batch(self.arrays, slice(0, 0), self.stacked)
        fixed = self.batching.size if self.batching.fixed else None
        return probe(self.batching.model, one.shape[1:], one.dtype, fixed)

    def _skipped(self, which: Ints, answer: Answer) -> Iterator[tuple[Ints, Array]]:
        """What is answered for patches that the model was not asked about, some at a time."""
        fill, size = self.batching.fill, self.batching.size
        for some in np.split(which, range(size, len(which), size)) if len(which) else ():
            check_fill(answer.dtype, None if np.isnan(fill) else fill, True)
            yield some, np.full((len(some), *answer.shape), fill, answer.dtype)


def _compact(numbers: Ints) -> slice | Ints:
    """A slice, if ascending numbers have no gaps: it costs less than a list of them."""
    if numbers[-1] - numbers[0] + 1 == len(numbers):
        return slice(int(numbers[0]), int(numbers[-1]) + 1)
    return numbers


def probe(
    model: Model, shape: tuple[int, ...], dtype: np.dtype, fixed: int | None = None
) -> Answer:
    """Ask a model for the shape and dtype of its answers, with a batch of no patches if it can."""
    if fixed is None:
        try:
            answer = np.asarray(model(np.empty((0, *shape), dtype)))
            # Of an empty list numpy makes shape (0,), whatever the model makes of patches.
            if answer.shape[:1] == (0,) and answer.shape[1:][-1:] == shape[-1:]:
                return Answer(answer.shape[1:], answer.dtype)
        except Exception as error:
            # Many models cannot take an empty batch, each in its own way: then one patch decides.
            log.debug("the model cannot take a batch of no patches: %r", error)
    n = fixed or 1
    answer = np.asarray(model(np.ones((n, *shape), dtype)))
    _check_length(answer, n)
    return Answer(answer.shape[1:], answer.dtype)


def check_fill(dtype: np.dtype, fill: float | None, skip_empty: bool) -> None:
    """Refuse a fill value that answers cannot hold, and skipping patches without one."""
    if fill is not None and not representable(fill, dtype):
        raise ValueError(f"fill={fill!r} is not a value of the answers' dtype {dtype}.")
    if skip_empty and fill is None and dtype.kind in "iub":
        raise ValueError(
            f"skip_empty=True needs a value for skipped patches, and the model answers {dtype}, "
            "which has no NaN. Give one that no answer uses: fill=255, or let the model answer "
            "floats."
        )


def _batch(arrays: Sequence[Patches], pick: slice | Ints, stacked: bool) -> Array:
    """Patches for one call of the model, which may write into them."""
    if len(arrays) > 1:
        return np.stack([a[pick] for a in arrays], axis=1)
    batch = arrays[0][pick].copy() if isinstance(arrays[0], np.ndarray) else arrays[0][pick]
    return batch[:, None] if stacked else batch


def _ask(batch: Array, batching: Batching) -> Array:
    """Run the model on one batch, filled up to its fixed size where it has one."""
    n = len(batch)
    missing = batching.size - n if batching.fixed else 0
    if missing:
        batch = np.concatenate([batch, np.repeat(batch[-1:], missing, axis=0)])
    result = np.asarray(batching.model(batch))
    _check_length(result, n + missing)
    return result[:n]


def _refuse_nothing_but_nan(
    result: Array, arrays: Sequence[Patches], pick: slice | Ints, batching: Batching
) -> None:
    """Refuse answers that are all NaN to patches that are all known, and not all the same."""
    if batching.nan_allowed or result.dtype.kind not in "fc" or not result.size:
        return
    if not (np.isnan(result.flat[0]) and np.isnan(result).all()):
        return
    given = [a[pick] for a in arrays]
    known = all(valid_mask(a, n) is None for a, n in zip(given, batching.nodata, strict=True))
    if known and any(a.min() < a.max() for a in given if a.dtype.kind != "c"):
        raise ValueError(
            f"The model answered NaN in every cell of a batch of {len(result)} patches that hold "
            "no NaN or nodata themselves. Check the model, e.g. how it normalises; if such answers "
            "are right, say so: map(..., fill=np.nan)."
        )


def _worth_running(arrays: Sequence[Patches], batching: Batching) -> NDArray[np.bool_]:
    """Which patches the model is asked about: all, or those with any valid cell."""
    n = len(arrays[0])
    if not batching.skip_empty:
        return np.ones(n, bool)
    run = np.zeros(n, bool)
    for array, nodata in zip(arrays, batching.nodata, strict=True):
        for first in range(0, n, batching.size):
            some = slice(first, first + batching.size)
            valid = valid_mask(array[some], nodata)
            run[some] |= True if valid is None else valid.reshape(len(valid), -1).any(axis=1)
    return run


def _check_length(answer: Array, n: int) -> None:
    if answer.ndim == 0 or answer.shape[0] != n:
        raise ValueError(
            f"The model was given {n} patches and returned shape {answer.shape}; it must return "
            "one answer per patch, the patch dimension first."
        )


def _check_same(result: Array, answer: Answer) -> None:
    if result.shape[1:] != answer.shape:
        raise ValueError(
            f"The model returned answers of shape {result.shape[1:]} for one batch and promised "
            f"{answer.shape} (its answer to an earlier one, or meta=); they must all be alike."
        )
    if result.dtype != answer.dtype:
        raise TypeError(
            f"The model returned {result.dtype} for one batch and promised {answer.dtype} (its "
            "answer to an earlier one, or meta=). Cast to one dtype inside the model."
        )
