"""Which chunks of patches meet in which blocks, against a count of every single cell."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xgeocat.patching.meeting import around, clear_of, meet
from xgeocat.patching.tiling import interiors, plan


def cells(bounds):
    return tuple(map(slice, *bounds))


@st.composite
def boxes(draw, shape):
    lo = [draw(st.integers(0, n - 1)) for n in shape]
    return tuple(lo), tuple(draw(st.integers(a + 1, n)) for a, n in zip(lo, shape, strict=True))


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_a_clear_box_meets_no_other_and_what_is_around_it_is_the_rest(data):
    dims = data.draw(st.integers(1, 3))
    shape = tuple(data.draw(st.integers(1, 9)) for _ in range(dims))
    block = data.draw(boxes(shape))
    others = data.draw(st.lists(boxes(shape), max_size=4))
    clear = clear_of(block, others)
    count = np.zeros(shape, int)
    for box in around(block, clear):
        count[cells(box)] += 1
    if clear is not None:
        assert count[cells(clear)].sum() == 0
        count[cells(clear)] += 1
        taken = np.zeros(shape, bool)
        for other in others:
            taken[cells(other)] = True
        assert not taken[cells(clear)].any()
    want = np.zeros(shape, int)
    want[cells(block)] = 1
    np.testing.assert_array_equal(count, want)


def test_nothing_else_there_leaves_all_of_a_block_clear():
    block = ((3, 4), (9, 8))
    assert clear_of(block, []) == block
    assert clear_of(block, [((0, 0), (3, 9)), ((3, 8), (9, 9))]) == block
    assert around(block, block) == []


def test_overlaps_from_above_and_from_the_left_are_cut_off():
    assert clear_of(((0, 0), (9, 9)), [((0, 0), (2, 9)), ((0, 0), (9, 3))]) == ((2, 3), (9, 9))
    assert clear_of(((0, 0), (9, 9)), [((0, 0), (9, 9))]) is None


@pytest.mark.parametrize("dims", [1, 2, 3])
@given(st.data())
@settings(max_examples=40, deadline=None)
def test_every_answer_meets_all_others_of_its_cell_in_one_place(dims, data):
    names = ("t", "y", "x")[:dims]
    shape = {d: data.draw(st.integers(1, (30, 12, 7)[dims - 1])) for d in names}
    size = {d: data.draw(st.integers(1, 4)) for d in names}
    tiling = plan(shape, {}, size, size, "shift")
    one = st.tuples(*(st.integers(1 - size[d], shape[d] - 1) for d in names))
    starts = np.array(data.draw(st.lists(one, max_size=12)), np.int64).reshape(-1, dims)
    crop = tuple(data.draw(st.integers(0, (size[d] - 1) // 2)) for d in names)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(starts)), max_size=3)))
    chunk_edges = np.array([0, *cuts, len(starts)])
    edges = [
        np.array(sorted({0, shape[d], *data.draw(st.sets(st.integers(0, shape[d]), max_size=3))}))
        for d in names
    ]
    meetings = meet(starts, tiling, crop, chunk_edges, edges)
    lo, hi = interiors(starts, tiling, crop)

    # Every cell of the field is folded once: at the home of one chunk, or where several meet.
    folded = np.zeros(tiling.shape, int)
    for met in meetings.blocks.values():
        for box in met.shared:
            folded[cells(box)] += 1
        if met.clear is not None:
            folded[cells(met.clear)] += 1
    assert (folded == 1).all()

    # And all answers for it are there.
    for chunk, (a, b) in enumerate(pairwise(chunk_edges.tolist())):
        reached = np.zeros(tiling.shape, bool)
        for first, last in zip(lo[a:b], hi[a:b], strict=True):
            reached[cells((first, last))] = True
        given = np.zeros(tiling.shape, bool)
        if chunk in meetings.chunks:
            assert meetings.chunks[chunk] == (a, b)
            duties = meetings.duties(chunk)
            if duties.clear is not None:
                given[cells(duties.clear)] = True
                met = meetings.blocks[meetings.reached[chunk][0]]
                assert (met.home, met.bounds) == (chunk, duties.home)
            for block, shared in duties.shared.items():
                assert chunk in meetings.blocks[block].chunks
                for box in shared:
                    given[cells(box)] = True
        assert not (reached & ~given).any()
