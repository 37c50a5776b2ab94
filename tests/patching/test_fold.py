from __future__ import annotations

import copy

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.patching import oracle
from xgeocat.patching import fold as fold_module
from xgeocat.patching.fold import Blend, edges, fold, parts
from xgeocat.patching.reducers import REDUCERS, reducer
from xgeocat.patching.tiling import is_product, plan

PLAIN = sorted(set(REDUCERS) - {"soft_vote", "inverse_variance"})
WEIGHTED = ("mean", "vote", "variance")


def planned(shape, size, stride, boundary="shift"):
    dims = ("t", "y", "x")[3 - len(shape) :]
    named = [dict(zip(dims, v, strict=True)) for v in (shape, size, stride)]
    return plan(named[0], {}, named[1], named[2], boundary)


def blend_of(reduce="mean", dtype="float32", regular=True, **options):
    dtype = np.dtype(dtype)
    options = {"window": "boxcar", "crop": (0, 0), "nodata": None, "rest": 0,
               "fill": 0 if dtype.kind in "iub" else np.nan} | options  # fmt: skip
    return Blend(reducer=reducer(reduce, dtype), dtype=dtype, regular=regular, **options)


def split(data, n):
    """A random split of `n` patches into groups, each in random order."""
    order = np.array(data.draw(st.permutations(range(n))), np.int64)
    cuts = sorted(data.draw(st.sets(st.integers(0, n), max_size=4)))
    return np.split(order, cuts)


def found(patches, starts, groups, bounds, tiling, blend):
    """Parts of all groups; of every second one as copies, as they travel between tasks."""
    out = []
    for i, group in enumerate(groups):
        if i % 2:
            moved = edges(patches[group], starts[group], 100 * i, {(7,): bounds}, tiling, blend)
            out += moved[7,]
        else:
            out += parts(patches[group], starts[group], 100 * i, bounds, tiling, blend)
    return out


# --- values ---------------------------------------------------------------------------------------


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_any_split_into_groups_and_blocks_gives_the_oracles_field(data):
    dims = data.draw(st.integers(1, 3))
    shape = tuple(data.draw(st.integers(1, (30, 10, 5)[dims - 1])) for _ in range(dims))
    size = tuple(data.draw(st.integers(1, 4)) for _ in shape)
    tiling = planned(shape, size, [data.draw(st.integers(1, n + 1)) for n in size])
    crop = tuple(data.draw(st.integers(0, (n - 1) // 2)) for n in size)
    starts = tiling.starts()
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    dtype = data.draw(st.sampled_from(["float32", "float64", "int16", "int64", "bool"]))
    patches = rng.integers(0, 9, (len(starts), *size)).astype(dtype)
    nodata = data.draw(st.sampled_from([None, 5])) if dtype != "bool" else None
    if patches.dtype.kind == "f":
        patches[rng.random(patches.shape) < data.draw(st.sampled_from([0, 0.2]))] = np.nan
    reduce = data.draw(st.sampled_from(PLAIN))
    options = {"crop": crop, "nodata": nodata}
    window = data.draw(st.sampled_from(["boxcar", "hann"])) if reduce in WEIGHTED else "boxcar"
    regular = data.draw(st.booleans())
    if regular:
        assert is_product(starts, shape)
    blend = blend_of(reduce, dtype, regular, window=window, **options)
    want = oracle.reduced(reduce, patches, starts.tolist(), shape, window_name=window, **options)
    groups = split(data, len(starts))
    cut = data.draw(st.integers(0, shape[0]))
    zeros = (0,) * dims
    for lo, hi in ((zeros, (cut, *shape[1:])), ((cut, *zeros[1:]), shape)):
        reaching = found(patches, starts, groups, (lo, hi), tiling, blend)
        block = fold(reaching, (lo, hi), (), tiling, blend)
        assert block.dtype == blend.result
        rtol = {"float32": 2.4e-7, "float64": 1e-15}.get(block.dtype.name, 0)
        atol = 1e-12 if reduce == "variance" else 0
        oracle.assert_reduced(block, want[lo[0] : hi[0]], blend.fill, rtol, atol)


@pytest.mark.parametrize("dtype", ["uint8", "int64", "float32", "float64", "complex64"])
@pytest.mark.parametrize("reduce", ["mean", "vote", "variance", "sum", "median", "first", "centre"])
@pytest.mark.parametrize("holes", [False, True])
def test_no_bit_depends_on_blocks_groups_or_order(noise, dtype, reduce, holes):
    if dtype == "complex64" and reduce in ("vote", "median"):
        reduce = "mean"
    shape, size = (23, 31), (7, 6)
    tiling = planned(shape, size, (3, 4))
    starts = tiling.starts()
    rng = np.random.default_rng(0)
    patches = rng.uniform(1, 200, (len(starts), *size)).astype(dtype)
    if holes and patches.dtype.kind in "fc":
        patches[rng.random(patches.shape) < 0.1] = np.nan
    nodata = 100 if holes else None
    blend = blend_of(reduce, dtype, window="hann" if reduce in WEIGHTED else "boxcar",
                     nodata=nodata)  # fmt: skip
    whole = ((0, 0), shape)
    want = fold(parts(patches, starts, 0, whole, tiling, blend), whole, (), tiling, blend)
    for seed in range(3):
        rng = np.random.default_rng(seed)
        groups = np.array_split(rng.permutation(len(starts)), 1 + 4 * seed)
        for lo, hi in (((0, 0), (5, 31)), ((5, 0), (22, 9)), ((5, 9), (22, 31)), ((22, 0), shape)):
            reaching = found(patches, starts, groups, (lo, hi), tiling, blend)
            got = fold(reaching, (lo, hi), (), tiling, blend)
            np.testing.assert_array_equal(got, want[lo[0] : hi[0], lo[1] : hi[1]])


@pytest.mark.parametrize("holes", [False, True])
@pytest.mark.parametrize("dtype", ["int32", "float32", "float64"])
def test_what_is_finished_at_a_time_changes_nothing(monkeypatch, noise, holes, dtype):
    tiling = planned((40, 11), (9, 5), (4, 3))
    starts = tiling.starts()
    rng = np.random.default_rng(0)
    patches = rng.integers(1, 99, (len(starts), 9, 5)).astype(dtype)
    patches[rng.random(patches.shape) < 0.2 * holes] = 7
    bounds = ((0, 0), (40, 11))
    for reduce in PLAIN:
        blend = blend_of(reduce, dtype, nodata=7)
        reaching = parts(patches, starts, 0, bounds, tiling, blend)
        want = fold(reaching, bounds, (), tiling, blend)
        for rows in (1, 7, 1000):
            monkeypatch.setattr(fold_module, "ROWS", rows)
            np.testing.assert_array_equal(fold(reaching, bounds, (), tiling, blend), want)


@pytest.mark.parametrize("reduce", PLAIN)
@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "uint8", "bool"])
def test_folding_twice_gives_the_same_and_changes_no_patch(reduce, dtype):
    # dask may run a task again (a worker died) on inputs it still holds: they must be left alone.
    tiling = planned((9, 9), (4, 4), (2, 2))
    starts = tiling.starts()
    patches = np.random.default_rng(0).uniform(0, 9, (len(starts), 4, 4)).astype(dtype)
    bounds, blend = ((1, 0), (8, 9)), blend_of(reduce, dtype)
    reaching = found(patches, starts, [np.arange(5), np.arange(5, 16)], bounds, tiling, blend)
    before = copy.deepcopy(reaching)
    once = fold(reaching, bounds, (), tiling, blend)
    kept = once.copy()
    once[:] = 0
    np.testing.assert_array_equal(fold(reaching, bounds, (), tiling, blend), kept)
    for a, b in zip(before, reaching, strict=True):
        assert (a.start, a.number, a.at, a.within) == (b.start, b.number, b.at, b.within)
        np.testing.assert_array_equal(a.patch, b.patch)


@pytest.mark.parametrize(("dtype", "fill"), [("float32", np.nan), ("uint8", 255), ("bool", True)])
@pytest.mark.parametrize("reduce", ["mean", "max", "vote", "median"])
@pytest.mark.parametrize("regular", [False, True])
def test_a_block_that_nothing_reaches_is_all_fill(dtype, fill, reduce, regular):
    tiling = planned((9, 9), (4, 4), (4, 4))
    blend = blend_of(reduce, dtype, regular, fill=fill)
    bounds = ((6, 6), (9, 9))
    assert parts(np.ones((1, 4, 4), dtype), np.array([[0, 0]]), 0, bounds, tiling, blend) == []
    block = fold([], bounds, (), tiling, blend)
    assert block.dtype == dtype
    np.testing.assert_array_equal(block, np.full((3, 3), fill, dtype))


@pytest.mark.parametrize("reduce", ["mean", "max", "first", "vote", "median", "sum"])
@pytest.mark.parametrize("regular", [False, True])
def test_cells_between_patches_need_no_fill_where_nobody_asks_for_them(reduce, regular):
    # So it is for a selection of single cells: what lies between is computed and thrown away.
    tiling = planned((20, 4), (4, 4), (4, 4))
    starts = np.array([[0, 0], [16, 0]])
    bounds, blend = ((0, 0), (20, 4)), blend_of(reduce, "int16", regular, fill=None)
    patches = np.full((2, 4, 4), 7, "int16")
    block = fold(parts(patches, starts, 0, bounds, tiling, blend), bounds, (), tiling, blend)
    assert (block[:4] == 7).all()
    assert (block[16:] == 7).all()


@pytest.mark.parametrize("reduce", [*PLAIN, "soft_vote", "inverse_variance"])
def test_other_dims_stand_before_the_block(reduce):
    tiling = planned((6, 6), (4, 4), (2, 2))
    starts = tiling.starts()
    bounds = ((0, 0), (6, 6))
    patches = np.random.default_rng(0).uniform(1, 9, (4, 2, 3, 4, 4)).astype("float32")
    blend = blend_of(reduce, rest=2)
    block = fold(parts(patches, starts, 0, bounds, tiling, blend), bounds, (2, 3), tiling, blend)
    alone = blend_of(reduce, rest=1)
    for i in range(3):
        one = patches[:, :, i] if alone.reducer.joint else patches[:, 0, i, None]
        rest = one.shape[1:2]
        reaching = parts(one, starts, 0, bounds, tiling, alone)
        want = fold(reaching, bounds, rest, tiling, alone)
        got = block[:, i] if reduce == "inverse_variance" else (
            block[i] if reduce == "soft_vote" else block[:1, i])  # fmt: skip
        np.testing.assert_array_equal(got, want)


# --- parts ----------------------------------------------------------------------------------------


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_parts_are_the_cells_that_a_patch_answers_for_in_the_block(data):
    shape = (data.draw(st.integers(1, 20)), data.draw(st.integers(1, 20)))
    size = (data.draw(st.integers(1, 7)), data.draw(st.integers(1, 7)))
    crop = tuple(data.draw(st.integers(0, (n - 1) // 2)) for n in size)
    tiling = planned(shape, size, size)
    one = st.tuples(*(st.integers(1 - k, n - 1) for n, k in zip(shape, size, strict=True)))
    starts = np.array(data.draw(st.lists(one, min_size=1, max_size=5)), np.int64)
    lo = [data.draw(st.integers(0, n - 1)) for n in shape]
    hi = [data.draw(st.integers(a + 1, n)) for a, n in zip(lo, shape, strict=True)]
    blend = blend_of(crop=crop)
    patches = np.arange(len(starts) * np.prod(size), dtype="float32").reshape(-1, *size)
    got = parts(patches, starts, 50, (tuple(lo), tuple(hi)), tiling, blend)
    reaching = iter(got)
    for i, start in enumerate(starts.tolist()):
        first, last = oracle.box(start, size, shape, crop)
        first, last = np.maximum(first, lo), np.minimum(last, hi)
        if (first >= last).any():
            continue
        part = next(reaching)
        assert part.start == tuple(start)
        assert part.number == 50 + i
        assert part.at == tuple(map(slice, first.tolist(), last.tolist()))
        inner = tuple(slice(a - s, b - s) for a, b, s in zip(first, last, start, strict=True))
        np.testing.assert_array_equal(part.patch[part.within], patches[i][inner])
        assert np.shares_memory(part.patch, patches)
    assert next(reaching, None) is None


def test_tiled_dims_of_length_one_may_be_missing_in_the_answers():
    tiling = planned((4, 6), (1, 3), (1, 3))
    starts = tiling.starts()
    bounds, blend = ((0, 0), (4, 6)), blend_of()
    answers = np.arange(8 * 3, dtype="float32").reshape(8, 3)
    block = fold(parts(answers, starts, 0, bounds, tiling, blend), bounds, (), tiling, blend)
    np.testing.assert_array_equal(block, answers.reshape(4, 2, 3).reshape(4, 6))


def test_edges_hold_no_more_than_what_reaches_their_blocks():
    tiling = planned((100, 100), (10, 10), (10, 10))
    starts = np.array([[0, 0], [10, 20], [14, 24], [15, 0]])
    patches = np.random.default_rng(0).random((4, 2, 10, 10))
    blocks = {
        (0, 1): ((0, 30), (20, 100)),
        (1, 0): ((20, 0), (100, 30)),
        (4, 4): ((80, 80), (99, 99)),
    }
    made = edges(patches, starts, 7, blocks, tiling, blend_of(dtype="float64", rest=1))
    assert made.keys() == blocks.keys()
    assert [part.number for part in made[0, 1]] == [9]
    assert [part.number for part in made[1, 0]] == [9, 10]
    assert made[4, 4] == []
    for block, found_parts in made.items():
        for part in found_parts:
            assert part.patch.shape == (2, *(s.stop - s.start for s in part.at))
            assert not np.shares_memory(part.patch, patches)
            assert part.patch.base is None
            for a, lo, hi in zip(part.at, *blocks[block], strict=True):
                assert lo <= a.start < a.stop <= hi
    (corner,) = made[0, 1]
    np.testing.assert_array_equal(corner.patch, patches[2][:, :6, 6:])
