from __future__ import annotations

import copy

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.patching import oracle
from xgeocat.patching.fold import FEW, Blend, finish, fold
from xgeocat.patching.reducers import REDUCERS
from xgeocat.patching.tiling import plan


def planned(shape, size, stride, boundary="shift"):
    named = [dict(zip("yx", v, strict=True)) for v in (shape, size, stride)]
    return plan(named[0], {}, named[1], named[2], boundary)


def blend_of(dtype="float32", **options):
    options = {"reduce": "mean", "window": "boxcar", "crop": (0, 0), "nodata": None,
               "fill": 0 if np.dtype(dtype).kind in "iub" else np.nan} | options  # fmt: skip
    return Blend(dtype=np.dtype(dtype), **options)


def groups_of(data, n):
    """A random split of `n` patches into groups, each in random order."""
    order = np.array(data.draw(st.permutations(range(n))), np.int64)
    cuts = sorted(data.draw(st.sets(st.integers(0, n), max_size=FEW + 3)))
    return np.split(order, cuts)


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_any_split_into_groups_and_blocks_gives_the_oracles_field(data):
    shape = (data.draw(st.integers(1, 12)), data.draw(st.integers(1, 12)))
    size = tuple(data.draw(st.integers(1, 5)) for _ in shape)
    tiling = planned(shape, size, [data.draw(st.integers(1, n)) for n in size])
    starts = tiling.starts()
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    patches = rng.uniform(1, 9, (len(starts), *size)).astype("float32")
    patches[rng.random(patches.shape) < data.draw(st.sampled_from([0, 0.2]))] = np.nan
    reduce = data.draw(st.sampled_from(REDUCERS))
    window = data.draw(st.sampled_from(["boxcar", "hann"])) if reduce == "mean" else "boxcar"
    blend = blend_of(reduce=reduce, window=window)
    want, reached = oracle.stitch(
        patches, starts.tolist(), shape, window_name=window, reduce=reduce
    )
    groups = groups_of(data, len(starts))
    cut = data.draw(st.integers(0, shape[0]))
    for lo, hi in (((0, 0), (cut, shape[1])), ((cut, 0), shape)):
        partials = [fold(patches[g], starts[g], (lo, hi), tiling, blend) for g in groups]
        block = finish(partials, (hi[0] - lo[0], hi[1] - lo[1]), blend)
        rows = slice(lo[0], hi[0])
        oracle.assert_answer(block, want[rows], reached[rows], np.nan)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "uint8", "bool"])
@pytest.mark.parametrize("reduce", REDUCERS)
@pytest.mark.parametrize("number", [1, 2, FEW + 2])
def test_finishing_twice_gives_the_same(dtype, reduce, number):
    # dask may run a task again (a worker died) on inputs it still holds: they must be left alone.
    tiling = planned((9, 9), (4, 4), (2, 2))
    starts = tiling.starts()
    rng = np.random.default_rng(0)
    patches = rng.uniform(0, 9, (len(starts), 4, 4)).astype(dtype)
    blend = blend_of(dtype, reduce=reduce)
    groups = np.array_split(np.arange(len(starts)), number)
    partials = [fold(patches[g], starts[g], ((0, 0), (9, 9)), tiling, blend) for g in groups]
    before = copy.deepcopy(partials)
    once = finish(partials, (9, 9), blend)
    kept = once.copy()
    once[:] = 0
    np.testing.assert_array_equal(finish(partials, (9, 9), blend), kept)
    for a, b in zip(before, partials, strict=True):
        for x, y in zip(a.state, b.state, strict=True):
            np.testing.assert_array_equal(x, y)


def test_folding_changes_no_patch():
    tiling = planned((9, 9), (4, 4), (2, 2))
    patches = np.random.default_rng(0).uniform(0, 9, (len(tiling.starts()), 4, 4))
    before = patches.copy()
    fold(patches, tiling.starts(), ((0, 0), (9, 9)), tiling, blend_of("float64"))
    np.testing.assert_array_equal(patches, before)


@pytest.mark.parametrize(("dtype", "fill"), [("float32", np.nan), ("uint8", 255), ("bool", True)])
def test_a_block_of_no_partials_or_of_empty_ones_is_all_fill(dtype, fill):
    tiling = planned((9, 9), (4, 4), (4, 4))
    blend = blend_of(dtype, fill=fill)
    far = fold(np.ones((1, 4, 4), dtype), np.array([[0, 0]]), ((6, 6), (9, 9)), tiling, blend)
    for partials in ([], [far], [far] * 3, [far] * (FEW + 1)):
        block = finish(partials, (3, 3), blend)
        assert block.dtype == dtype
        np.testing.assert_array_equal(block, np.full((3, 3), fill, dtype))


def test_a_partial_is_no_larger_than_what_its_patches_reach():
    tiling = planned((100, 100), (4, 4), (4, 4))
    starts = np.array([[10, 20], [14, 24]])
    partial = fold(np.ones((2, 4, 4)), starts, ((8, 8), (60, 60)), tiling, blend_of("float64"))
    assert partial.at == (slice(2, 10), slice(12, 20))
    assert all(array.shape == (8, 8) for array in partial.state)


def test_other_dims_stand_before_the_block():
    tiling = planned((6, 6), (4, 4), (2, 2))
    patches = np.random.default_rng(0).uniform(1, 9, (4, 2, 3, 4, 4)).astype("float32")
    partial = fold(patches, tiling.starts(), ((0, 0), (6, 6)), tiling, blend_of())
    block = finish([partial], (2, 3, 6, 6), blend_of())
    for i in np.ndindex(2, 3):
        want, reached = oracle.stitch(patches[:, *i], tiling.starts().tolist(), (6, 6))
        oracle.assert_answer(block[i], want, reached, np.nan)
