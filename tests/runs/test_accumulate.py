"""Accumulate: one scene after the other is what numpy says of all at once."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from xgeocat.runs.accumulate import NEEDS, dtype_of, empty_state, fill_of, fold, result

SHAPE = (3, 4)
DTYPES = ["float32", "float64", "uint8", "int16", "bool"]


def accumulated(stack, known, reducer, orders=None, state=None, first=0):
    dtype = stack.dtype
    state = empty_state([reducer], SHAPE, dtype) if state is None else state
    orders = list(range(len(stack))) if orders is None else orders
    for place in range(first, len(stack)):
        before = [orders[place] < orders[other] for other in range(place)]
        fold(state, stack[place], known[place], place, before)
    return state


def expected(stack, known, reducer, orders):
    """Cell by cell, in plain numpy."""
    fill = fill_of(dtype_of(reducer, stack.dtype), None)
    made = np.full(SHAPE, fill, dtype_of(reducer, stack.dtype))
    for cell in np.ndindex(SHAPE):
        there = known[(slice(None), *cell)]
        values = stack[(slice(None), *cell)][there].astype("float64")
        if reducer == "count":
            made[cell] = len(values)
        elif len(values) and reducer == "first":
            made[cell] = values[np.argmin(np.array(orders)[there])]
        elif len(values) and reducer == "vote":
            labels, counts = np.unique(values, return_counts=True)
            made[cell] = labels[counts.argmax()]
        elif len(values):
            made[cell] = getattr(np, reducer)(values)
    return made


@st.composite
def stacks(draw):
    dtype = draw(st.sampled_from(DTYPES))
    n = draw(st.integers(0, 5))
    elements = {
        "f": st.floats(-1000, 1000, width=16), "u": st.integers(0, 5), "i": st.integers(-3, 3),
        "b": st.booleans(),
    }[np.dtype(dtype).kind]  # fmt: skip
    stack = draw(hnp.arrays(dtype, (n, *SHAPE), elements=elements))
    known = draw(hnp.arrays(bool, (n, *SHAPE)))
    orders = draw(st.permutations(range(n)))
    return stack, known, orders


@pytest.mark.parametrize("reducer", sorted(NEEDS))
@given(made=stacks())
def test_any_scenes_are_folded_as_numpy_does(reducer, made):
    stack, known, orders = made
    if reducer == "vote" and stack.dtype.kind == "f":
        stack = np.round(stack / 400)
    state = accumulated(stack, known, reducer, orders)
    dtype = dtype_of(reducer, stack.dtype)
    found = result(state, reducer, stack.dtype, fill_of(dtype, None))
    assert found.dtype == dtype
    np.testing.assert_allclose(found, expected(stack, known, reducer, orders), rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("reducer", sorted(NEEDS))
def test_what_is_not_known_never_counts(reducer):
    stack = np.stack([np.full(SHAPE, 7.0), np.full(SHAPE, np.nan), np.full(SHAPE, -9999.0)])
    known = np.array([True, False, False])[:, None, None] & np.ones(SHAPE, bool)
    known[0, 0, 0] = False
    found = result(accumulated(stack, known, reducer), reducer, stack.dtype, np.nan)
    assert found[1, 1] == {"count": 1, "std": 0}.get(reducer, 7)
    assert found[0, 0] == 0 if reducer == "count" else np.isnan(found[0, 0])


def test_more_labels_than_anybody_has_are_refused():
    stack = np.arange(1000.0).reshape(1, 1000, 1)
    state = empty_state(["vote"], (1000, 1), stack.dtype)
    with pytest.raises(ValueError, match="counts votes for labels.*more than 256"):
        fold(state, stack[0], np.ones((1000, 1), bool), 0, [])


def test_spread_of_large_numbers_is_not_lost():
    stack = 1e6 + np.random.default_rng(0).normal(size=(200, *SHAPE))
    found = result(accumulated(stack, np.ones(stack.shape, bool), "std"), "std", stack.dtype, 0)
    np.testing.assert_allclose(found, stack.std(axis=0), rtol=1e-6)
