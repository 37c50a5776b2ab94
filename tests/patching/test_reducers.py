from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.patching import oracle
from xgeocat.patching.reducers import REDUCERS, reducer

WINDOWS = ("boxcar", "hann", "tukey", "gaussian")
DTYPES = ("bool", "int8", "uint8", "uint16", "int32", "int64", "float32", "float64", "complex64")


@pytest.fixture
def pair(positive):
    """Factory of two patches that share the middle two of six columns: answers 'a' and 'b'."""

    def make(a, b, dtype, **attrs):
        field = positive((2, 6), dtype, **attrs)
        patches = field.geocat.patch({"y": 2, "x": 4}, overlap={"x": 2})
        return patches.copy(data=np.broadcast_to(np.array([a, b], dtype)[:, None, None], (2, 2, 4)))

    return make


def shared(field):
    """The one value in the cells that both patches reach."""
    values = np.unique(field.values[:, 2:4])
    assert len(values) == 1
    return values[0]


# --- every reducer against the oracle -------------------------------------------------------------


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_every_reducer_equals_layers_over_the_whole_field(positive, data):
    reduce = data.draw(st.sampled_from(REDUCERS), "reduce")
    dtype = data.draw(st.sampled_from(DTYPES), "dtype")
    if dtype == "complex64" and reduce in ("max", "min"):
        reduce = "first"
    shape = (data.draw(st.integers(1, 14)), data.draw(st.integers(1, 14)))
    extra = data.draw(st.sampled_from([(), (2,)]), "extra")
    size = [data.draw(st.integers(1, 7), "size") for _ in shape]
    stride = [data.draw(st.integers(1, n + 1), "stride") for n in size]
    crop = [data.draw(st.integers(0, (n - 1) // 2), "crop") for n in size]
    window = data.draw(st.sampled_from(WINDOWS), "window") if reduce == "mean" else "boxcar"
    boundary = data.draw(st.sampled_from(["shift", "pad", "drop"]), "boundary")
    nodata = data.draw(st.sampled_from([None, 1, 5]), "nodata")
    if dtype == "bool":
        nodata = None

    field = positive((*extra, *shape), dims=(("band",) if extra else ()) + ("y", "x"))
    if nodata is not None:
        field.attrs["nodata"] = nodata
    patches = field.geocat.patch(
        dict(zip("yx", size, strict=True)),
        stride=dict(zip("yx", stride, strict=True)),
        boundary=boundary,
    )
    rng = np.random.default_rng(data.draw(st.integers(0, 99), "seed"))
    answers = rng.integers(0, 2 if dtype == "bool" else 12, patches.shape).astype(dtype)
    if np.dtype(dtype).kind in "fc":
        answers += rng.random(patches.shape).astype("float32").astype(dtype)
        answers[rng.random(patches.shape) < data.draw(st.sampled_from([0, 0.3]))] = np.nan
        if nodata is not None:
            answers[rng.random(patches.shape) < 0.2] = nodata
    patches = patches.copy(data=answers)
    n = patches.sizes["patch"]
    pick = rng.permutation(n)[data.draw(st.integers(0, n), "left out") :]
    patches = patches.isel(patch=pick)
    starts = np.stack([patches["y_start"], patches["x_start"]], axis=-1).tolist()
    want, reached = oracle.stitch(
        patches.values, starts, shape, window_name=window, reduce=reduce, crop=crop, nodata=nodata
    )
    result = reducer(reduce, np.dtype(dtype)).dtype(np.dtype(dtype))
    fill = np.nan if result.kind in "fc" else (1 if result.kind == "b" else 99)
    for given_patches in (patches, patches.chunk(patch=3)):
        got = given_patches.geocat.stitch(
            window=window, reduce=reduce, crop=dict(zip("yx", crop, strict=True)), fill=fill
        )
        assert got.dtype == result
        oracle.assert_answer(got.values, want, reached, fill)


# --- mean -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "int64", "uint64"])
def test_a_mean_of_integers_is_rounded_not_truncated(pair, dtype):
    assert shared(pair(0, 3, dtype).geocat.stitch()) in (1, 2)
    three = pair(0, 5, dtype).isel(patch=[0, 1, 1])
    assert shared(three.geocat.stitch()) == 3


@pytest.mark.parametrize("dtype", ["uint8", "int32", "int64", "uint64"])
@pytest.mark.parametrize(("a", "b"), [(1, 2), (2, 3), (0, 1)])
def test_a_tie_between_integers_is_broken_the_same_way_in_any_order(pair, dtype, a, b):
    one = shared(pair(a, b, dtype).geocat.stitch())
    assert shared(pair(b, a, dtype).geocat.stitch()) == one
    assert one == shared(pair(a, b, "uint8").geocat.stitch())


@pytest.mark.parametrize(
    ("dtype", "a", "b"),
    [
        ("int64", -(2**63), 2**63 - 1),
        ("int64", 2**62 + 1, 2**62 + 11),
        ("int64", -(2**53) - 1, -(2**53) - 5),
        ("uint64", 0, 2**64 - 1),
        ("uint64", 2**64 - 1, 2**64 - 3),
        ("uint64", 2**63 + 1025, 2**63 + 1),
    ],
)
@pytest.mark.parametrize("copies", [1, 3])
def test_the_mean_of_64_bit_integers_is_exact_to_the_rounding_of_their_difference(
    pair, dtype, a, b, copies
):
    for first, second in ((a, b), (b, a)):
        patches = pair(first, second, dtype).isel(patch=[0] + [1] * copies)
        exact = (Fraction(first) + copies * second) / (1 + copies)
        allowed = Fraction(1, 2) + Fraction(abs(a - b), 2**51)
        for given_patches in (patches, patches.chunk(patch=1)):
            assert abs(int(shared(given_patches.geocat.stitch())) - exact) <= allowed


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize(
    ("a", "b", "mean"),
    [
        (np.inf, 5, np.inf),
        (5, -np.inf, -np.inf),
        (np.inf, np.inf, np.inf),
        (np.nan, 5, 5),
        (60000, 60000, 60000),
        (0.0, -0.0, 0.0),
    ],
)
def test_the_mean_with_infinity_or_nan_does_not_depend_on_the_order(pair, dtype, a, b, mean):
    a, b, mean = (np.dtype(dtype).type(v) for v in (a, b, mean))
    for answers in ((a, b), (b, a)):
        patches = pair(*answers, dtype)
        for given_patches in (patches, patches.chunk(patch=1)):
            assert shared(given_patches.geocat.stitch()) == mean


def test_the_mean_of_small_beside_huge_float64_does_not_depend_on_the_order(pair):
    for answers in ((1e6, 1e-3), (1e-3, 1e6)):
        patches = pair(*answers, "float64").isel(patch=[0, 1, 1, 1])
        want = float((Fraction(answers[0]) + 3 * Fraction(answers[1])) / 4)
        oracle.assert_close(shared(patches.geocat.stitch()), np.float64(want))


def test_the_mean_of_the_largest_floats_does_not_overflow(pair):
    for dtype in ("float16", "float32"):
        top = np.finfo(dtype).max
        assert shared(pair(top, top, dtype).geocat.stitch()) == top
        assert shared(pair(top, -top, dtype).geocat.stitch()) == 0
    top = np.finfo("float64").max
    assert shared(pair(top, top, "float64").geocat.stitch()) == top


# --- sum, max, min, first -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "wide"),
    [
        ("bool", "int64"),
        ("int8", "int64"),
        ("uint8", "uint64"),
        ("uint64", "uint64"),
        ("float32", "float32"),
        ("complex64", "complex64"),
    ],
)
@pytest.mark.parametrize("chunks", [None, 1])
def test_a_sum_counts_every_answer_in_64_bits(pair, dtype, wide, chunks):
    top = 1 if dtype == "bool" else 120
    patches = pair(top, top, dtype).isel(patch=[0, 1, 1, 1])
    back = (patches if chunks is None else patches.chunk(patch=chunks)).geocat.stitch(reduce="sum")
    assert back.dtype == wide
    assert shared(back) == 4 * top


def test_a_sum_that_happens_to_be_the_nodata_value_stays_a_number(pair):
    back = pair(100, 155, "uint8", nodata=255).geocat.stitch(reduce="sum")
    assert shared(back) == 255
    assert back.attrs.get("nodata") != 255


@pytest.mark.parametrize("dtype", ["int8", "uint64", "float32", "float64", "bool"])
@pytest.mark.parametrize("reduce", ["max", "min"])
def test_extremes_start_from_nothing(pair, dtype, reduce):
    low, high = (False, True) if dtype == "bool" else (
        (np.iinfo(dtype).min, np.iinfo(dtype).max) if dtype[0] in "iu" else (-np.inf, np.inf)
    )  # fmt: skip
    for same in (low, high):
        assert shared(pair(same, same, dtype).geocat.stitch(reduce=reduce)) == same
    both = shared(pair(low, high, dtype).geocat.stitch(reduce=reduce))
    assert both == (high if reduce == "max" else low)


@pytest.mark.parametrize("chunks", [None, 1])
@pytest.mark.parametrize("order", [[0, 1], [1, 0], [1, 0, 1]])
def test_first_is_the_patch_that_starts_first_in_the_field(pair, chunks, order):
    patches = pair(3, 8, "uint8").isel(patch=order)
    patches = patches if chunks is None else patches.chunk(patch=chunks)
    assert shared(patches.geocat.stitch(reduce="first")) == 3


def test_first_goes_row_by_row(positive):
    patches = positive((8, 8)).geocat.patch(6)
    number = 10 * patches["y_start"] + patches["x_start"]
    answers = (patches * 0 + number).isel(patch=[3, 2, 1, 0])
    back = answers.geocat.stitch(reduce="first").values
    assert set(back[:6, :6].ravel()) == {0}
    assert set(back[:6, 6:].ravel()) == {2}
    assert set(back[6:, :6].ravel()) == {20}
    assert set(back[6:, 6:].ravel()) == {22}


def test_first_skips_what_is_not_known(pair):
    assert shared(pair(np.nan, 8, "float32").geocat.stitch(reduce="first")) == 8
    assert shared(pair(0, 8, "uint8", nodata=0).geocat.stitch(reduce="first")) == 8


# --- the registry ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", REDUCERS)
def test_every_name_gives_a_reducer(name):
    assert reducer(name, np.dtype("float32")).dtype(np.dtype("float32")) == "float32"


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"'median' is unknown.*mean.*first"):
        reducer("median", np.dtype("float32"))


@pytest.mark.parametrize("dtype", ["datetime64[s]", "U3", "object"])
def test_what_is_no_number_is_refused(dtype):
    with pytest.raises(TypeError, match="cannot be stitched"):
        reducer("mean", np.dtype(dtype))
