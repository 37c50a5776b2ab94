"""Batches: run a model over patches in memory, or over what cuts them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
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


def run_batches(
    arrays: Sequence[Patches], batching: Batching, stacked: bool, answer: Answer | None = None
) -> Array:
    """Run a model over patches.

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

    Returns
    -------
    numpy.ndarray
        Shape ``(patch, *answer)``.
    """
    n = len(arrays[0])
    chosen = np.flatnonzero(_worth_running(arrays, batching))
    out = None if answer is None else empty((n, *answer.shape), answer.dtype)
    if out is None and not len(chosen):
        one = _batch(arrays, slice(0, 0), stacked)
        fixed = batching.size if batching.fixed else None
        answer = probe(batching.model, one.shape[1:], one.dtype, fixed)
        out = empty((n, *answer.shape), answer.dtype)
    for first in range(0, len(chosen), batching.size):
        at = chosen[first : first + batching.size]
        pick = slice(at[0], at[-1] + 1) if at[-1] - at[0] + 1 == len(at) else at
        result = _ask(_batch(arrays, pick, stacked), batching)
        if out is None:
            out = empty((n, *result.shape[1:]), result.dtype)
        _check_same(result, out)
        _refuse_nothing_but_nan(result, arrays, pick, batching)
        out[pick] = result
    assert out is not None
    if len(chosen) < n:
        check_fill(out.dtype, None if np.isnan(batching.fill) else batching.fill, True)
        out[np.setdiff1d(np.arange(n), chosen)] = batching.fill
    return out


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


def _check_same(result: Array, out: Array) -> None:
    if result.shape[1:] != out.shape[1:]:
        raise ValueError(
            f"The model returned answers of shape {result.shape[1:]} for one batch and promised "
            f"{out.shape[1:]} (its answer to an earlier one, or meta=); they must all be alike."
        )
    if result.dtype != out.dtype:
        raise TypeError(
            f"The model returned {result.dtype} for one batch and promised {out.dtype} (its "
            "answer to an earlier one, or meta=). Cast to one dtype inside the model."
        )
