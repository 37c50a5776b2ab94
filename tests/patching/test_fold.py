from __future__ import annotations

import copy

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.patching import oracle
from xgeocat.patching import fold as fold_module
from xgeocat.patching.fold import Blend, Canvas
from xgeocat.patching.fold import fold as fold_onto
from xgeocat.patching.parts import Parts
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


def parts(patches, starts, first, bounds, tiling, blend):
    """Parts of some patches in a block."""
    numbers = first + np.arange(len(starts))
    return Parts.of(patches, starts, numbers, tiling, blend.crop, blend.rest).within(bounds)


def found(patches, starts, groups, bounds, tiling, blend):
    """Parts of all groups; of every second one as copies, as they travel between tasks."""
    out = []
    for i, group in enumerate(groups):
        some = parts(patches[group], starts[group], 100 * i, bounds, tiling, blend)
        out.append(some.alone() if i % 2 else some)
    return out


def fold(reaching, bounds, rest, tiling, blend):
    """A block of its own, of parts in it."""
    canvas = Canvas.over(bounds, rest, blend)
    several = [reaching] if isinstance(reaching, Parts) else reaching
    fold_onto(several, bounds, canvas, tiling, blend)
    return canvas.values


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
        for name in ("starts", "numbers", "lo", "hi", "origins"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
        for mine, theirs in zip(a.answers, b.answers, strict=True):
            np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize(("dtype", "fill"), [("float32", np.nan), ("uint8", 255), ("bool", True)])
@pytest.mark.parametrize("reduce", ["mean", "max", "vote", "median"])
@pytest.mark.parametrize("regular", [False, True])
def test_a_block_that_nothing_reaches_is_all_fill(dtype, fill, reduce, regular):
    tiling = planned((9, 9), (4, 4), (4, 4))
    blend = blend_of(reduce, dtype, regular, fill=fill)
    bounds = ((6, 6), (9, 9))
    assert not len(parts(np.ones((1, 4, 4), dtype), np.array([[0, 0]]), 0, bounds, tiling, blend))
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


# --- the fast way ---------------------------------------------------------------------------------


@pytest.fixture
def slowly(monkeypatch):
    """Fold without the compiled loop that does all at once."""

    def run(*args):
        with monkeypatch.context() as only:
            only.setattr(fold_module, "_mean_rows", lambda *args: False)
            return fold(*args)

    return run


@pytest.mark.parametrize(
    "dtype", ["bool", "uint8", "int16", "uint32", "float16", "float32", "complex64"]
)
@pytest.mark.parametrize("rest", [(), (2,), (2, 3)])
@pytest.mark.parametrize("layout", [lambda a: a, lambda a: a[..., ::-1], lambda a: a[..., ::-1, :]],
                         ids=["rows", "mirrored", "upside down"])  # fmt: skip
def test_the_fast_way_is_the_slow_way_bit_by_bit(noise, slowly, dtype, rest, layout):
    tiling = planned((20, 23), (7, 6), (3, 5))
    starts = tiling.starts()
    patches = layout(noise((len(starts), *rest, 7, 6), dtype, 1))
    blend = blend_of("mean", dtype, window="hann", rest=len(rest))
    for bounds in (((0, 0), (20, 23)), ((3, 5), (11, 22))):
        reaching = parts(patches, starts, 0, bounds, tiling, blend)
        for some in (reaching, reaching.alone()):
            want = slowly(some, bounds, rest, tiling, blend)
            np.testing.assert_array_equal(fold(some, bounds, rest, tiling, blend), want)


@pytest.mark.parametrize("nodata", [None, 3])
def test_an_unknown_answer_is_left_to_the_slow_way(noise, slowly, nodata):
    tiling = planned((20, 23), (7, 6), (3, 5))
    starts = tiling.starts()
    patches = np.random.default_rng(0).integers(1, 9, (len(starts), 7, 6)).astype("float32")
    if nodata is None:
        patches[4, 3, 2] = np.nan
    blend, bounds = blend_of(window="hann", nodata=nodata), ((0, 0), (20, 23))
    reaching = parts(patches, starts, 0, bounds, tiling, blend)
    want = slowly(reaching, bounds, (), tiling, blend)
    np.testing.assert_array_equal(fold(reaching, bounds, (), tiling, blend), want)
    assert np.isfinite(want).mean() > 0.8


def test_only_the_box_of_a_canvas_is_touched(noise):
    tiling = planned((20, 23), (7, 6), (3, 5))
    starts = tiling.starts()
    patches = noise((len(starts), 2, 7, 6), "float32", 1)
    blend = blend_of(window="hann", rest=1)
    whole = ((0, 0), (20, 23))
    reaching = parts(patches, starts, 0, whole, tiling, blend)
    want = fold(reaching, whole, (2,), tiling, blend)
    canvas = Canvas(np.full((2, 16, 20), -1, "float32"), (2, 3))
    fold_onto([reaching], ((5, 7), (11, 19)), canvas, tiling, blend)
    np.testing.assert_array_equal(canvas.values[:, 3:9, 4:16], want[:, 5:11, 7:19])
    canvas.values[:, 3:9, 4:16] = -1
    assert (canvas.values == -1).all()
