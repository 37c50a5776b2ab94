"""Accumulate: fold the predictions of one scene after the other into a few numbers for each cell.

What is kept (`State`) is enough to go on later, with scenes that come later: the result of all at
once and that of one after the other are the same, floats to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from xgeocat.patching.tiling import Array

Mask: TypeAlias = NDArray[np.bool_]
#: What is kept of a variable, by name: arrays ``(..., y, x)``; ``votes`` has labels before these.
State: TypeAlias = dict[str, Array]

#: What each reducer needs to be kept.
NEEDS: Mapping[str, tuple[str, ...]] = {
    "count": ("count",),
    "mean": ("sum", "count"),
    "sum": ("sum", "count"),
    "std": ("m2", "sum", "count"),
    "min": ("min", "count"),
    "max": ("max", "count"),
    "first": ("first", "place", "count"),
    "vote": ("votes", "labels", "count"),
}
#: Labels of which votes are counted; more are most likely no labels.
MOST_LABELS = 256
NOBODY = -1


def require_reducers(reducers: Sequence[str]) -> None:
    """Refuse reducers that are not known, or that repeat."""
    wrong = [name for name in reducers if name not in NEEDS]
    if wrong or not reducers or len(set(reducers)) < len(reducers):
        raise ValueError(f"reduce={list(reducers)} must be one or several of {sorted(NEEDS)}.")


def dtype_of(reducer: str, dtype: np.dtype) -> np.dtype:
    """Dtype of a result, of predictions of a dtype: wide enough for any number of scenes."""
    if reducer == "count":
        return np.dtype(np.uint32)
    if reducer == "sum":
        return np.dtype(np.float64)
    if reducer in ("mean", "std"):
        return np.result_type(dtype, np.float32)
    # GeoTIFF and Zarr readers know no nodata for booleans.
    return np.dtype(np.uint8) if dtype.kind == "b" else dtype


def fill_of(dtype: np.dtype, nodata: float | None) -> float | int:
    """What a cell holds that no scene reaches: NaN, the nodata that is declared, or an extreme."""
    if dtype.kind == "f":
        return np.nan
    if nodata is not None:
        return int(nodata)
    limits = np.iinfo(dtype)
    return int(limits.max if dtype.kind == "u" else limits.min)


def empty_state(reducers: Sequence[str], shape: tuple[int, ...], dtype: np.dtype) -> State:
    """What is kept before there is any scene."""
    kept = dtype_of("first", dtype)
    made: dict[str, Callable[[], Array]] = {
        "count": lambda: np.zeros(shape, np.uint32),
        "sum": lambda: np.zeros(shape, np.float64),
        "m2": lambda: np.zeros(shape, np.float64),
        "min": lambda: np.zeros(shape, kept),
        "max": lambda: np.zeros(shape, kept),
        "first": lambda: np.zeros(shape, kept),
        "place": lambda: np.full(shape, NOBODY, np.int32),
        "labels": lambda: np.zeros(0, kept),
        "votes": lambda: np.zeros((0, *shape), np.uint32),
    }
    needed = {name for reducer in reducers for name in NEEDS[reducer]}
    return {name: made[name]() for name in sorted(needed)}


def fold(state: State, values: Array, known: Mask, place: int, goes_before: Sequence[bool]) -> None:
    """Add a scene to what is kept, in place.

    Parameters
    ----------
    state : State
        What is kept.
    values : ndarray
        Predictions of the scene.
    known : ndarray of bool
        Where there are any.
    place : int
        Number of the scene among those that are applied, in the order they came.
    goes_before : sequence of bool
        For each of the scenes before it, whether this one is taken instead by ``"first"``.
    """
    count = state["count"]
    if "m2" in state:
        # Welford's, https://doi.org/10.1080/00401706.1962.10490022.
        safe = np.where(known, values, 0).astype(np.float64)
        before = safe - state["sum"] / np.maximum(count, 1)
        after = safe - (state["sum"] + safe) / (count + 1.0)
        np.add(state["m2"], before * after, out=state["m2"], where=known & (count > 0))
    if "sum" in state:
        np.add(state["sum"], values, out=state["sum"], where=known)
    for name, better in (("min", np.less), ("max", np.greater)):
        if name in state:
            np.copyto(
                state[name], values, where=known & ((count == 0) | better(values, state[name]))
            )
    if "first" in state:
        taken = np.append(np.asarray(goes_before, bool), True)
        wins = known & taken[state["place"]]
        np.copyto(state["first"], values, where=wins)
        state["place"][wins] = place
    if "votes" in state:
        _vote(state, values, known)
    np.add(count, 1, out=count, where=known)


def _vote(state: State, values: Array, known: Mask) -> None:
    labels = np.union1d(state["labels"], np.unique(values[known])).astype(state["labels"].dtype)
    if len(labels) > MOST_LABELS:
        raise ValueError(
            f"reduce='vote' counts votes for labels, and there are more than {MOST_LABELS}, e.g. "
            f"{labels[:3].tolist()}. Let the pipeline answer with classes, or use reduce='mean'."
        )
    votes = np.zeros((len(labels), *values.shape), np.uint32)
    votes[np.searchsorted(labels, state["labels"])] = state["votes"]
    for plane, label in zip(votes, labels, strict=True):
        plane += known & (values == label)
    state["labels"], state["votes"] = labels, votes


def result(state: State, reducer: str, dtype: np.dtype, fill: float) -> Array:
    """The result of a reducer; `fill` where no scene reaches."""
    count = state["count"]
    if reducer == "count":
        return count
    with np.errstate(invalid="ignore", divide="ignore"):
        if reducer == "mean":
            found = state["sum"] / count
        elif reducer == "std":
            found = np.sqrt(state["m2"] / count)
        elif reducer == "vote":
            labels, votes = state["labels"], state["votes"]
            # Of labels with as many votes, the smallest.
            found = labels[votes.argmax(axis=0)] if len(labels) else np.zeros(count.shape, dtype)
        else:
            found = state[reducer]
    return np.where(count > 0, found, fill).astype(dtype_of(reducer, dtype))
