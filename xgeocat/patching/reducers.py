"""The reducers by name."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from xgeocat.patching.averages import InverseVarianceMean, Mean, Spread, SteadyMean, Sum
from xgeocat.patching.choices import Centre, Extreme, First, Last, Median, SoftVote, Vote
from xgeocat.patching.pieces import Reducer

REDUCERS: dict[str, Callable[[], Reducer]] = {
    "mean": Mean,
    "sum": Sum,
    "max": lambda: Extreme(np.maximum),
    "min": lambda: Extreme(np.minimum),
    "first": First,
    "last": Last,
    "centre": Centre,
    "vote": Vote,
    "soft_vote": SoftVote,
    "median": Median,
    "variance": Spread,
    "inverse_variance": InverseVarianceMean,
}
#: Reducers that order what they are given, which complex numbers have none of.
ORDERING = ("max", "min", "median", "vote", "soft_vote", "inverse_variance")


def reducer(reduce: str | Reducer, dtype: np.dtype) -> Reducer:
    """Return the reducer of that name for answers of `dtype`, or the one that was given.

    Raises
    ------
    ValueError
        For an unknown name, or one that answers of `dtype` have no meaning for.
    TypeError
        For answers that are not numbers or booleans, or are wider than 64 bits (complex: 128); and
        for a `reduce` that is neither a name nor a reducer.
    """
    if dtype.kind not in "biufc" or dtype.itemsize > (16 if dtype.kind == "c" else 8):
        raise TypeError(
            f"Answers of dtype {dtype} cannot be stitched; use "
            "numbers of up to 64 bits (complex: 128) or booleans."
        )
    if isinstance(reduce, Reducer):
        return reduce
    if not isinstance(reduce, str):
        raise TypeError(
            f"reduce={reduce!r} is no reducer; use one of {tuple(REDUCERS)}, or an object of a "
            "subclass of xgeocat.Reducer."
        )
    if reduce not in REDUCERS:
        raise ValueError(f"reduce={reduce!r} is unknown; use one of {tuple(REDUCERS)}.")
    if reduce in ORDERING and dtype.kind == "c":
        raise ValueError(f"reduce={reduce!r} has no meaning for {dtype}; use 'mean' or 'first'.")
    if reduce == "soft_vote" and dtype.kind not in "fiu":
        raise ValueError(f"reduce='soft_vote' takes probabilities, not {dtype}; use 'vote'.")
    if reduce == "mean" and dtype.itemsize >= (16 if dtype.kind == "c" else 8):
        return SteadyMean()
    return REDUCERS[reduce]()
