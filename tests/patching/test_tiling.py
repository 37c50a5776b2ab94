from __future__ import annotations

from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.patching import oracle
from xgeocat.patching.tiling import (
    TARGET_BLOCK,
    axis_blocks,
    axis_starts,
    covers,
    depth,
    distinct,
    interiors,
    is_product,
    plan,
    settle,
)

lengths = st.integers(1, 60)
sizes = st.integers(1, 25)
chunkings = st.lists(st.integers(1, 40), min_size=1, max_size=6).map(tuple)


def planned(shape, size, stride, boundary="shift", chunks=None):
    dims = ("y", "x")[: len(shape)]
    named = [dict(zip(dims, v, strict=True)) for v in (shape, chunks or [(n,) for n in shape])]
    return plan(*named, *(dict(zip(dims, v, strict=True)) for v in (size, stride)), boundary)


# --- starts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("boundary", "expected"),
    [("shift", [0, 3, 6, 7]), ("pad", [0, 3, 6, 9]), ("drop", [0, 3, 6])],
)
def test_starts_of_a_length_that_is_not_a_whole_number_of_strides(boundary, expected):
    assert axis_starts(11, 4, 3, boundary, "x").tolist() == expected


@pytest.mark.parametrize("boundary", ["shift", "pad", "drop", "raise"])
def test_a_length_that_fits_needs_no_boundary(boundary):
    assert axis_starts(10, 4, 3, boundary, "x").tolist() == [0, 3, 6]


@given(lengths, sizes, st.integers(1, 30), st.sampled_from(["shift", "pad", "drop"]))
@settings(max_examples=200, deadline=None)
def test_starts_equal_a_plain_loop(length, size, stride, boundary):
    got = axis_starts(length, size, stride, boundary, "x").tolist()
    assert got == oracle.starts(length, size, stride, boundary)


@given(lengths, sizes, st.data(), st.sampled_from(["shift", "pad"]))
@settings(max_examples=200, deadline=None)
def test_every_cell_is_covered_where_the_boundary_covers(length, size, data, boundary):
    stride = data.draw(st.integers(1, size))
    starts = axis_starts(length, size, stride, boundary, "x")
    reached = {cell for s in starts.tolist() for cell in range(s, s + size)}
    assert reached >= set(range(length))
    assert len(set(starts.tolist())) == len(starts)
    assert (starts < length).all()


@given(lengths, sizes, st.integers(1, 30))
@settings(max_examples=100, deadline=None)
def test_dropped_and_shifted_patches_stay_inside(length, size, stride):
    for boundary in ("drop", "shift"):
        starts = axis_starts(length, size, stride, boundary, "x")
        assert (starts >= 0).all()
        assert length < size or (starts + size <= length).all()


@given(lengths, sizes, st.integers(1, 30))
@settings(max_examples=100, deadline=None)
def test_raise_refuses_exactly_what_does_not_fit(length, size, stride):
    if oracle.starts(length, size, stride, "raise") is None:
        with pytest.raises(ValueError, match=rf"'x'.*{length} pixels.*patches of {size}"):
            axis_starts(length, size, stride, "raise", "x")
    else:
        axis_starts(length, size, stride, "raise", "x")


# --- plan -----------------------------------------------------------------------------------------


@given(
    st.tuples(lengths, lengths),
    st.tuples(sizes, sizes),
    st.tuples(sizes, sizes),
    st.sampled_from(["shift", "pad", "drop"]),
    chunkings,
)
@settings(max_examples=100, deadline=None)
def test_a_tiling_holds_every_patch_once_block_by_block(shape, size, stride, boundary, chunks):
    chunks = ((*chunks, shape[0]), (shape[1],))
    shape = (sum(chunks[0]), shape[1])
    tiling = planned(shape, size, stride, boundary, chunks)
    starts = tiling.starts()
    assert sorted(map(tuple, starts.tolist())) == sorted(oracle.grid(shape, size, stride, boundary))
    owners = tiling.block_of(starts)
    assert (np.diff(owners) >= 0).all()
    edges = tiling.edges()
    for start, owner in zip(starts, owners, strict=True):
        block = np.unravel_index(owner, tuple(map(len, tiling.blocks)))
        for axis, number in enumerate(block):
            first = edges[axis][number]
            assert first <= start[axis] < first + tiling.blocks[axis][number]


def test_a_tiling_keeps_the_dims_in_the_order_of_the_field():
    tiling = plan({"x": 8, "t": 2, "y": 6}, {}, {"y": 3, "x": 4}, {"y": 3, "x": 4}, "shift")
    assert tiling.dims == ("x", "y")
    assert tiling.shape == (8, 6)
    assert tiling.size == (4, 3)


def test_a_tiling_is_frozen_and_hashable():
    tiling = planned((8, 8), (4, 4), (2, 2))
    assert {tiling: 1}[planned((8, 8), (4, 4), (2, 2))] == 1
    with pytest.raises(FrozenInstanceError):
        tiling.size = (2, 2)


@pytest.mark.parametrize(
    ("size", "stride", "boundary", "message"),
    [
        (0, 1, "shift", "'y' size=0"),
        (4, 0, "shift", "stride=0"),
        (4, -1, "shift", "stride=-1"),
        (4, 4, "mirror", "'mirror' is unknown.*shift.*pad.*drop.*raise"),
        (4, 3, "raise", "'y'.*9 pixels.*4 with stride 3.*boundary='shift'"),
    ],
)
def test_a_plan_refuses_bad_numbers(size, stride, boundary, message):
    with pytest.raises(ValueError, match=message):
        planned((9, 9), (size, size), (stride, stride), boundary)


def test_a_plan_of_an_archive_sized_field_is_quick_and_small():
    tiling = planned((100_000, 100_000), (256, 256), (192, 192))
    assert len(tiling.starts()) == 521**2
    assert max(map(len, tiling.blocks)) <= 100_000 // TARGET_BLOCK + 1


# --- blocks ---------------------------------------------------------------------------------------


@given(chunkings, st.integers(1, 60))
@settings(max_examples=200, deadline=None)
def test_blocks_cover_the_length_and_hold_a_patch_each(chunks, size):
    blocks = axis_blocks(chunks, size)
    assert sum(blocks) == sum(chunks)
    assert all(n >= size for n in blocks[:-1])
    assert all(n > 0 for n in blocks)


@given(chunkings, st.integers(1, 60))
@settings(max_examples=100, deadline=None)
def test_blocks_end_where_source_chunks_end(chunks, size):
    ends = set(np.cumsum(chunks).tolist())
    assert set(np.cumsum(axis_blocks(chunks, size)).tolist()) <= ends


def test_huge_chunks_are_split_and_chunks_that_fit_are_kept():
    assert max(axis_blocks((50_000,), 256)) < 2 * TARGET_BLOCK
    assert axis_blocks((512,) * 10, 256) == (512,) * 10


@given(
    st.tuples(lengths, lengths),
    st.tuples(sizes, sizes),
    chunkings,
    st.data(),
)
@settings(max_examples=100, deadline=None)
def test_a_window_of_a_tiling_has_the_blocks_cut_to_it(shape, size, chunks, data):
    shape = (sum(chunks), shape[1])
    tiling = planned(shape, size, size, "shift", (chunks, (shape[1],)))
    lo = [data.draw(st.integers(0, n - 1)) for n in shape]
    hi = [data.draw(st.integers(a + 1, n)) for a, n in zip(lo, shape, strict=True)]
    part = tiling.window(lo, hi)
    assert part.shape == tuple(b - a for a, b in zip(lo, hi, strict=True))
    for axis in (0, 1):
        owner = np.repeat(np.arange(len(tiling.blocks[axis])), tiling.blocks[axis])
        _, counts = np.unique(owner[lo[axis] : hi[axis]], return_counts=True)
        assert part.blocks[axis] == tuple(counts.tolist())


# --- interiors, is_product, covers ----------------------------------------------------------------


@given(
    st.tuples(lengths, lengths),
    st.tuples(st.integers(3, 20), st.integers(3, 20)),
    st.data(),
    st.sampled_from(["shift", "pad", "drop"]),
)
@settings(max_examples=100, deadline=None)
def test_interiors_leave_the_crop_out_but_not_on_the_fields_edge(shape, size, data, boundary):
    stride = [data.draw(st.integers(1, n)) for n in size]
    crop = [data.draw(st.integers(0, (n - 1) // 2)) for n in size]
    tiling = planned(shape, size, stride, boundary)
    starts = tiling.starts()
    lo, hi = interiors(starts, tiling, crop)
    for i, start in enumerate(starts.tolist()):
        assert (lo[i].tolist(), hi[i].tolist()) == oracle.box(start, size, shape, crop)


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_covers_equals_painting_every_box(data):
    shape = (data.draw(st.integers(1, 12)), data.draw(st.integers(1, 12)))
    number = data.draw(st.integers(0, 8))
    corner = st.tuples(*(st.integers(0, n - 1) for n in shape))
    lo = np.array([data.draw(corner) for _ in range(number)], np.int64).reshape(-1, 2)
    edge = st.integers(1, 12)
    hi = np.minimum(lo + [[data.draw(edge), data.draw(edge)] for _ in lo] if number else lo, shape)
    painted = np.zeros(shape, bool)
    for a, b in zip(lo, hi, strict=True):
        painted[a[0] : b[0], a[1] : b[1]] = True
    assert covers(lo, hi, shape) == painted.all()


@given(st.integers(1, 4), st.integers(1, 4), st.data())
@settings(max_examples=100, deadline=None)
def test_is_product_knows_a_missing_and_a_repeated_patch(rows, cols, data):
    # Starts may lie before the field, and beyond it.
    first = data.draw(st.integers(-7, 2))
    shape = (data.draw(st.integers(1, 20)), data.draw(st.integers(1, 20)))
    starts = np.array([(first + y * 5, first + x * 3) for y in range(rows) for x in range(cols)])
    shuffled = starts[data.draw(st.permutations(range(len(starts))))]
    assert is_product(shuffled, shape)
    i = data.draw(st.integers(0, len(starts) - 1))
    assert not is_product(np.concatenate([shuffled, shuffled[[i]]]), shape)
    if rows > 1 and cols > 1:
        missing = np.delete(shuffled, i, axis=0)
        assert not is_product(missing, shape)
        j = data.draw(st.integers(0, len(missing) - 1))
        assert not is_product(np.concatenate([missing, missing[[j]]]), shape)


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_distinct_and_depth_count_as_a_plain_loop(data):
    dims = data.draw(st.integers(1, 3))
    shape = [data.draw(st.integers(1, 8)) for _ in range(dims)]
    one = st.tuples(*(st.integers(-5, n + 3) for n in shape))
    starts = data.draw(st.lists(one, max_size=8))
    array = np.array(starts, np.int64).reshape(-1, dims)
    assert distinct(array, shape) == len(set(starts))
    edge = data.draw(st.integers(1, 5))
    boxes = [tuple(slice(max(s, 0), max(s + edge, 0)) for s in start) for start in starts]
    counts = np.zeros(shape, int)
    for box in boxes:
        counts[box] += 1
    lo = np.clip(array, 0, shape)
    hi = np.clip(array + edge, 0, shape)
    assert depth(lo, hi, shape) == counts.max()


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_settled_starts_lie_inside_or_reach_in_or_are_refused(data):
    shape = (data.draw(st.integers(1, 20)), data.draw(st.integers(1, 20)))
    size = (data.draw(st.integers(1, 9)), data.draw(st.integers(1, 9)))
    tiling = planned(shape, size, size)
    one = st.tuples(*(st.integers(-12, n + 3) for n in shape))
    starts = np.array(data.draw(st.lists(one, max_size=6)), np.int64).reshape(-1, 2)
    inside = [all(0 <= s <= n - k for s, n, k in zip(row, shape, size, strict=True))
              for row in starts.tolist()]  # fmt: skip
    reaching = [all(-k < s < n for s, n, k in zip(row, shape, size, strict=True))
                for row in starts.tolist()]  # fmt: skip
    np.testing.assert_array_equal(settle(starts, tiling, "drop"), starts[inside])
    for boundary, well in (("raise", inside), ("pad", reaching), ("shift", reaching)):
        if not all(well):
            with pytest.raises(ValueError, match=rf"{well.count(False)} of {len(starts)} patches"):
                settle(starts, tiling, boundary)
            continue
        got = settle(starts, tiling, boundary)
        if boundary != "shift":
            np.testing.assert_array_equal(got, starts)
            continue
        for row, moved in zip(starts.tolist(), got.tolist(), strict=True):
            want = [min(max(s, 0), max(n - k, 0)) for s, n, k in zip(row, shape, size, strict=True)]
            assert moved == want
