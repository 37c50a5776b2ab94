"""What patches answer for: as a plain loop over cells would say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.patching import oracle
from xgeocat.patching.parts import Parts
from xgeocat.patching.tiling import plan


def planned(shape, size):
    named = [dict(zip(("y", "x"), v, strict=True)) for v in (shape, size)]
    return plan(named[0], {}, named[1], named[1], "shift")


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_parts_are_the_cells_that_a_patch_answers_for_in_a_box(data):
    shape = (data.draw(st.integers(1, 20)), data.draw(st.integers(1, 20)))
    size = (data.draw(st.integers(1, 7)), data.draw(st.integers(1, 7)))
    crop = tuple(data.draw(st.integers(0, (n - 1) // 2)) for n in size)
    one = st.tuples(*(st.integers(1 - k, n - 1) for n, k in zip(shape, size, strict=True)))
    starts = np.array(data.draw(st.lists(one, min_size=1, max_size=5)), np.int64)
    lo = [data.draw(st.integers(0, n - 1)) for n in shape]
    hi = [data.draw(st.integers(a + 1, n)) for a, n in zip(lo, shape, strict=True)]
    patches = np.arange(len(starts) * np.prod(size), dtype="float32").reshape(-1, *size)
    numbers = 50 + np.arange(len(starts))
    whole = Parts.of(patches, starts, numbers, planned(shape, size), crop, 0)
    got = whole.within((tuple(lo), tuple(hi)))
    found = 0
    for i, start in enumerate(starts.tolist()):
        first, last = oracle.box(start, size, shape, crop)
        first, last = np.maximum(first, lo), np.minimum(last, hi)
        if (first >= last).any():
            continue
        assert got.starts[found].tolist() == list(start)
        assert got.numbers[found] == 50 + i
        assert got.lo[found].tolist() == first.tolist()
        assert got.hi[found].tolist() == last.tolist()
        inner = tuple(slice(a - s, b - s) for a, b, s in zip(first, last, start, strict=True))
        np.testing.assert_array_equal(got.values()[found], patches[i][inner])
        assert np.shares_memory(got.answers[found], patches)
        found += 1
    assert len(got) == found


@pytest.mark.parametrize(
    "dtype", ["bool", "int8", "float16", "uint16", "float32", "int64", "complex64", "complex128"]
)
@pytest.mark.parametrize("rest", [(), (2, 3)])
@pytest.mark.parametrize("layout", [lambda a: a, lambda a: a[..., ::-1], lambda a: a[..., ::-1, :]],
                         ids=["rows", "mirrored", "upside down"])  # fmt: skip
def test_parts_that_stand_alone_are_copies_of_their_cells_alone(noise, dtype, rest, layout):
    starts = np.array([[0, 0], [3, 5], [8, 2], [3, 9]])
    patches = layout(noise((4, *rest, 6, 7), dtype, 1))
    whole = Parts.of(patches, starts, np.arange(4), planned((14, 16), (6, 7)), (0, 0), len(rest))
    reaching = whole.within(((4, 6), (12, 16)))
    alone = reaching.alone()
    assert len(alone) == len(reaching) > 1
    for mine, theirs in zip(alone.answers, reaching.values(), strict=True):
        assert not np.shares_memory(mine, patches)
        assert mine.dtype == theirs.dtype
        np.testing.assert_array_equal(mine, theirs)
    again = alone.within(((5, 6), (11, 14)))
    for mine, theirs in zip(again.values(), whole.within(((5, 6), (11, 14))).values(), strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("dims", [1, 3])
def test_parts_along_one_or_three_dims_stand_alone_too(dims):
    names, rng = ("t", "y", "x")[:dims], np.random.default_rng(0)
    shape, size = dict.fromkeys(names, 9), dict(zip(names, (4, 3, 2), strict=False))
    tiling = plan(shape, {}, size, size, "shift")
    starts = tiling.starts()
    patches = rng.random((len(starts), *tiling.size))
    whole = Parts.of(patches, starts, np.arange(len(starts)), tiling, (0,) * dims, 0)
    reaching = whole.within(((1,) * dims, (8,) * dims))
    for mine, theirs in zip(reaching.alone().answers, reaching.values(), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_order_is_by_start_row_major_and_then_by_number(noise):
    starts = np.array([[5, 0], [0, 7], [0, 7], [0, -2], [5, 0]])
    numbers = np.array([4, 9, 3, 11, 2])
    patches = noise((5, 4, 4), "float32")
    parts = Parts.of(patches, starts, numbers, planned((20, 20), (4, 4)), (0, 0), 0)
    ordered = Parts.joined([parts[np.array([0, 1])], parts[np.array([2, 3, 4])]]).ordered()
    assert ordered.numbers.tolist() == [11, 3, 9, 2, 4]
    for number, answers in zip(ordered.numbers.tolist(), ordered.answers, strict=True):
        np.testing.assert_array_equal(answers, patches[numbers.tolist().index(number)])
