from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.patching import oracle
from xgeocat.patching.pieces import Reducer
from xgeocat.patching.reducers import REDUCERS, reducer

WINDOWS = ("boxcar", "hann", "tukey", "gaussian", ("tukey", 0.2), ("gaussian", 0.1))
DTYPES = (
    "bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64",
    "float16", "float32", "float64", "complex64", "complex128",
)  # fmt: skip
#: Reducers of one value for each answer; the others take several together.
PLAIN = sorted(set(REDUCERS) - {"soft_vote", "inverse_variance"})
WEIGHTED = ("mean", "vote", "variance")


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


# --- every reducer against a plain loop over cells -----------------------------------------------


@st.composite
def tilings(draw, most=(40, 11, 6)):
    """Shape, size, stride, crop and boundary along one, two or three dims."""
    dims = draw(st.integers(1, 3), "dims")
    edge = most[dims - 1]
    size = [draw(st.integers(1, 6 if dims < 3 else 4)) for _ in range(dims)]
    return {
        "shape": tuple(draw(st.integers(1, edge)) for _ in range(dims)),
        "size": size,
        "stride": [draw(st.integers(1, n + 1)) for n in size],
        "crop": [draw(st.integers(0, (n - 1) // 2)) for n in size],
        "boundary": draw(st.sampled_from(["shift", "pad", "drop"])),
    }


def answers_of(rng, shape, dtype, holes, nodata=None):
    """Values whose means, halves and ties are many, and whose order is not that of the starts."""
    dtype = np.dtype(dtype)
    if dtype.kind == "b":
        return rng.random(shape) > 0.5
    values = rng.integers(0, 9, shape).astype(dtype)
    if dtype.kind in "fc":
        values += rng.random(shape).round(1).astype(dtype)
        if dtype.kind == "c":
            values += (1j * rng.random(shape)).astype(dtype)
        values[rng.random(shape) < holes] = np.nan
    if nodata is not None:
        values[rng.random(shape) < holes] = nodata
    return values


def cut(field_of_dims, plan, at=None):
    """Patches of a plan, and their starts."""
    dims = field_of_dims.dims[-len(plan["shape"]) :]
    patches = field_of_dims.geocat.patch(
        dict(zip(dims, plan["size"], strict=True)),
        **({"stride": dict(zip(dims, plan["stride"], strict=True))} if at is None else {"at": at}),
        boundary=plan["boundary"],
    )
    return patches, dims


def starts_of(patches, dims):
    return np.stack([patches[f"{d}_start"].values for d in dims], axis=-1).tolist()


@st.composite
def answers(draw, dtype, joint=0):
    """Answers for patches in any order and number, and all that the oracle needs to know of them."""
    plan = draw(tilings())
    rest = (joint,) * bool(joint) + draw(st.sampled_from([(), (2,)]))
    dims = ("kind",) * bool(joint) + ("other",) * (len(rest) - bool(joint))
    dims += ("time", "y", "x")[3 - len(plan["shape"]) :]
    field = xr.DataArray(np.zeros((*rest, *plan["shape"]), dtype), dims=dims, name="made")
    nodata = draw(st.sampled_from([None, 5])) if np.dtype(dtype).kind != "b" else None
    if nodata is not None:
        field.attrs["nodata"] = nodata
    rng = np.random.default_rng(draw(st.integers(0, 999), "seed"))
    at = None
    if draw(st.integers(0, 3), "anywhere") == 0:
        ends = [(1 - k, n - 1) for n, k in zip(plan["shape"], plan["size"], strict=True)]
        at = np.stack([rng.integers(a, b, 9, endpoint=True) for a, b in ends], axis=-1)
    patches, tiled = cut(field, plan, at)
    holes = draw(st.sampled_from([0, 0.1, 0.5]), "holes")
    patches = patches.copy(data=answers_of(rng, patches.shape, dtype, holes, nodata))
    n = patches.sizes["patch"]
    picks = {
        "all": np.arange(n),
        "shuffled": rng.permutation(n),
        "some": rng.permutation(n)[n // 3 :],
        "repeated": rng.integers(0, n, n + 2) if n else np.arange(0),
    }
    patches = patches.isel(patch=picks[draw(st.sampled_from(sorted(picks)), "order")])
    crop = dict(zip(tiled, plan["crop"], strict=True))
    given_options = {"crop": crop}
    known = {"crop": plan["crop"], "nodata": nodata}
    return patches, (starts_of(patches, tiled), plan["shape"]), given_options, known


def chunkings(draw, patches):
    """The answers as they are, and in random chunks along every dim but the tiled ones."""
    n = draw(st.integers(1, 5), "patches per chunk")
    return [patches, patches.chunk({"patch": n} | dict.fromkeys(set(patches.dims) & {"other"}, 1))]


#: Relative and absolute error allowed where values are averaged: two last bits of the result.
DOUBLES = ("float64", "complex128")
ULPS = {
    "float16": 2e-3,
    "float32": 2.4e-7,
    "float64": 5e-16,
    "complex64": 3e-7,
    "complex128": 7e-16,
}
CHOOSING = ("max", "min", "first", "last", "centre", "vote")


@pytest.mark.parametrize("dtype", DTYPES)
@given(st.data())
@settings(max_examples=25, deadline=None)
def test_every_reducer_equals_a_loop_over_cells(dtype, data):
    complex_ones = ("mean", "sum", "first", "last", "centre", "variance")
    names = [n for n in PLAIN if np.dtype(dtype).kind != "c" or n in complex_ones]
    reduce = data.draw(st.sampled_from(names), "reduce")
    patches, (where, shape), options, known = data.draw(answers(dtype))
    if reduce in WEIGHTED:
        options["window"] = known["window_name"] = data.draw(st.sampled_from(WINDOWS), "window")
    want = oracle.reduced(reduce, patches.values, where, shape, **known)
    result = reducer(reduce, np.dtype(dtype)).dtype(np.dtype(dtype))
    fill = np.nan if result.kind in "fc" else (1 if result.kind == "b" else 99)
    rtol = 0 if reduce in CHOOSING else ULPS.get(result.name, 0)
    # A mean of 64-bit answers is one of them and a deviation: right to the ulp of the largest.
    atol = 1e-13 * 81 if reduce == "variance" else 4e-15 * (np.dtype(dtype).name in DOUBLES)
    for given_patches in chunkings(data.draw, patches):
        got = given_patches.geocat.stitch(reduce=reduce, fill=fill, **options)
        assert got.dtype == result
        oracle.assert_reduced(got.values, want, fill, rtol, atol)


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_coverage_and_disagreement_equal_a_loop_over_cells(data):
    dtype = data.draw(st.sampled_from(["bool", "uint8", "int64", "float32", "float64"]))
    reduce = data.draw(st.sampled_from(PLAIN), "reduce")
    patches, (where, shape), options, known = data.draw(answers(dtype))
    if reduce in WEIGHTED:
        options["window"] = known["window_name"] = data.draw(st.sampled_from(WINDOWS), "window")
    weight = oracle.reduced("coverage", patches.values, where, shape, **known)
    kind = "dissent" if reduce == "vote" else "deviation"
    spread = oracle.reduced(kind, patches.values, where, shape, **known)
    fill = {"b": 1, "i": 99, "u": 99, "f": -1}[np.dtype(dtype).kind]
    for given_patches in chunkings(data.draw, patches):
        alone = given_patches.geocat.stitch(reduce=reduce, fill=fill, **options)
        found = given_patches.geocat.stitch(
            reduce=reduce, fill=fill, coverage=True, disagreement=True, **options
        )
        assert list(found) == ["made", "coverage", "disagreement"]
        xr.testing.assert_identical(found["made"].compute(), alone.compute())
        assert found["coverage"].dtype == "float32"
        oracle.assert_reduced(found["coverage"].values, weight, 0, 2.4e-7)
        oracle.assert_reduced(found["disagreement"].values, spread, np.nan, 2.4e-7, 4e-7)
        for name in ("coverage", "disagreement"):
            assert "nodata" not in found[name].attrs


@given(st.data())
@settings(max_examples=30, deadline=None)
def test_soft_votes_go_to_the_highest_mean_probability(data):
    dtype = data.draw(st.sampled_from(["uint8", "float32", "float64"]))
    patches, (where, shape), options, known = data.draw(answers(dtype, joint=3))
    window = options["window"] = known["window_name"] = data.draw(st.sampled_from(WINDOWS))
    # Probabilities of a patch count together, or not at all.
    raw = patches.values.astype(float)
    gone = np.isnan(raw).any(axis=1) | (known["nodata"] is not None) & (raw == 5).any(axis=1)
    raw[np.broadcast_to(gone[:, None], raw.shape)] = np.nan
    means = oracle.reduced("mean", raw, where, shape, **known)
    for given_patches in chunkings(data.draw, patches):
        got = given_patches.geocat.stitch(reduce="soft_vote", fill=255, **options).compute()
        assert got.dtype == "uint8"
        assert got.dims == patches.dims[2:]
        for cell in np.ndindex(*got.shape):
            classes = [means[(c, *cell)] for c in range(3)]
            if None in classes:
                assert got.values[cell] == 255, (window, cell)
            else:
                # Ties, which weights break or make in their last bit, may go either way.
                best = float(max(classes))
                assert float(classes[got.values[cell]]) >= best - 1e-12 * abs(best)


@given(st.data())
@settings(max_examples=30, deadline=None)
def test_a_mean_by_inverse_variance_is_that_of_the_text_books(data):
    dtype = data.draw(st.sampled_from(["float16", "float32", "float64"]))
    patches, (where, shape), options, known = data.draw(answers(dtype, joint=2))
    options["window"] = known["window_name"] = data.draw(st.sampled_from(WINDOWS))
    raw = patches.values.copy()
    raw[:, 1] = np.abs(raw[:, 1]) + 0.5
    # A pair counts as a whole: both are known, or neither is.
    gone = np.isnan(raw).any(axis=1) | (known["nodata"] is not None) & (raw == 5).any(axis=1)
    raw[np.broadcast_to(gone[:, None], raw.shape)] = np.nan
    patches = patches.copy(data=raw)
    value, variance = (oracle.cells(raw[:, i], where, shape, **known) for i in (0, 1))
    for given_patches in chunkings(data.draw, patches):
        got = given_patches.geocat.stitch(reduce="inverse_variance", fill=-1, **options).values
        for cell in np.ndindex(*got.shape[1:]):
            if cell not in value:
                assert (got[(slice(None), *cell)] == -1).all()
                continue
            weights = np.array([w for w, _, _ in value[cell]])
            x, v = (np.array([float(a) for _, _, a in one[cell]]) for one in (value, variance))
            mean = (weights * x / v).sum() / (weights / v).sum()
            spread = (weights**2 / v).sum() / (weights / v).sum() ** 2
            rtol = max(ULPS[dtype], 2e-15)
            np.testing.assert_allclose(got[(slice(None), *cell)], [mean, spread], rtol=rtol)


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


# --- last, centre, votes, medians ---------------------------------------------------------------


@pytest.mark.parametrize("chunks", [None, 1])
@pytest.mark.parametrize("order", [[0, 1], [1, 0], [1, 0, 1]])
def test_last_is_the_patch_that_starts_last_in_the_field(pair, chunks, order):
    patches = pair(3, 8, "uint8").isel(patch=order)
    patches = patches if chunks is None else patches.chunk(patch=chunks)
    assert shared(patches.geocat.stitch(reduce="last")) == 8


@pytest.mark.parametrize("reduce", ["first", "last"])
def test_of_patches_at_one_place_the_order_of_the_patches_decides(positive, reduce):
    patches = positive((4, 4), "int16").geocat.patch(4).isel(patch=[0, 0, 0])
    patches = patches.copy(data=np.arange(3, dtype="int16")[:, None, None] + np.zeros((4, 4), "i2"))
    want = 0 if reduce == "first" else 2
    for given_patches in (patches, patches.chunk(patch=1), patches.chunk(patch=2)):
        assert (given_patches.geocat.stitch(reduce=reduce) == want).all()


def test_the_nearest_centre_gives_every_cell_its_own_tile(positive):
    # Patches of 6 in steps of 4 from 0: the centres part the field halfway between them.
    patches = positive((14, 14)).geocat.patch(6, overlap=2)
    number = (10 * patches["y_start"] + patches["x_start"]).astype("float32")
    back = (patches * 0 + number).geocat.stitch(reduce="centre").values
    start = np.repeat([0, 4, 8], [5, 4, 5])
    np.testing.assert_array_equal(back, 10 * start[:, None] + start[None, :])


@pytest.mark.parametrize("size", [2, 3, 5, 6, 7, 9, 10, 12, 14, 19, 31, 49, 100])
def test_of_two_centres_as_near_the_first_is_taken_whatever_the_last_bits(size):
    # Weights on the two sides of a centre may differ in their last bit.
    for stride in range(1 + size % 2, size + 1, 2)[-9:]:
        field = xr.DataArray(np.zeros(2 * stride + size), dims="x")
        patches = field.geocat.patch({"x": size}, stride={"x": stride})
        back = (patches * 0 + patches["x_start"]).geocat.stitch(reduce="centre")
        between = [(2 * start + stride + size - 1) // 2 for start in (0, stride)]
        np.testing.assert_array_equal(back[between], [0, stride])


def test_the_nearest_centre_of_those_that_know_is_taken(pair):
    field = pair(np.nan, 8, "float32").geocat.stitch(reduce="centre")
    assert (field[:, 2:] == 8).all()
    assert np.isnan(field[:, :2]).all()


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int64", "float32"])
@pytest.mark.parametrize("chunks", [None, 1])
def test_most_weight_wins_and_a_tie_goes_to_the_smaller_label(pair, dtype, chunks):
    for a, b in ((0, 1), (1, 0)):
        patches = pair(a, b, dtype)
        patches = patches if chunks is None else patches.chunk(patch=chunks)
        assert shared(patches.geocat.stitch(reduce="vote")) == 0
        assert shared(patches.isel(patch=[0, 1, 1]).geocat.stitch(reduce="vote")) == b


def test_the_weight_of_a_vote_is_that_of_its_window(pair):
    # With a window each column of the two goes to the patch whose middle it is nearer to.
    field = pair(4, 7, "uint8").geocat.stitch(reduce="vote", window="hann")
    np.testing.assert_array_equal(field.values[0], [4, 4, 4, 7, 7, 7])


def test_votes_for_many_labels_are_counted_apart(positive):
    patches = positive((4, 4), "int32").geocat.patch(4).isel(patch=[0] * 7)
    labels = np.array([9, -3, 2**31 - 1, -3, 9, 2**31 - 1, 2**31 - 1], "int32")
    patches = patches.copy(data=np.broadcast_to(labels[:, None, None], (7, 4, 4)))
    assert (patches.geocat.stitch(reduce="vote") == 2**31 - 1).all()
    assert (patches.isel(patch=slice(6)).geocat.stitch(reduce="vote") == -3).all()


@pytest.mark.parametrize(
    ("dtype", "values", "median"),
    [
        ("int8", [-128, 127], 0),
        ("int64", [-(2**63), 2**63 - 1], 0),
        ("int64", [2**63 - 1, 2**63 - 1, 2**63 - 3], 2**63 - 1),
        ("uint64", [2**64 - 1, 2**64 - 2], 2**64 - 1),
        ("uint8", [1, 255, 254, 2], 128),
        ("int16", [-3, -2], -2),
        ("bool", [True, False], True),
        ("bool", [True, False, False], False),
        ("float16", [60000, 60000, 1, 65500], 60000),
        ("float32", [np.inf, 3, -np.inf], 3),
        ("float64", [1.7e308, 1.7e308], 1.7e308),
    ],
)
def test_medians_neither_overflow_nor_drop_halves(positive, dtype, values, median):
    patches = positive((3, 3), dtype).geocat.patch(3).isel(patch=[0] * len(values))
    layers = np.array(values, dtype)[:, None, None]
    patches = patches.copy(data=np.broadcast_to(layers, (len(values), 3, 3)))
    for order in (slice(None), slice(None, None, -1)):
        back = patches.isel(patch=order).geocat.stitch(reduce="median")
        assert back.dtype == dtype
        assert (back == np.dtype(dtype).type(median)).all()


def test_a_median_leaves_out_what_is_not_known(pair):
    patches = pair(5, np.nan, "float32").isel(patch=[0, 1, 1, 1])
    assert shared(patches.geocat.stitch(reduce="median")) == 5
    patches = pair(5, 255, "uint8", nodata=255).isel(patch=[0, 1, 1, 1])
    assert shared(patches.geocat.stitch(reduce="median")) == 5


# --- variance and disagreement --------------------------------------------------------------------


@pytest.mark.parametrize("offset", [0.0, 1e6, -1e12])
@pytest.mark.parametrize("chunks", [None, 1])
def test_a_variance_does_not_cancel_beside_a_large_mean(pair, offset, chunks):
    patches = pair(offset + 1, offset + 4, "float64")
    patches = patches if chunks is None else patches.chunk(patch=chunks)
    assert shared(patches.geocat.stitch(reduce="variance")) == 2.25
    found = patches.geocat.stitch(disagreement=True)
    assert shared(found["disagreement"]) == 1.5


@pytest.mark.parametrize("dtype", ["uint8", "int64", "uint64", "float32", "bool"])
def test_where_all_agree_the_variance_is_zero_and_not_nearly(pair, dtype):
    top = 1 if dtype == "bool" else 123
    for window in ("boxcar", "hann", ("gaussian", 0.1)):
        patches = pair(top, top, dtype).isel(patch=[0, 1, 1])
        assert shared(patches.geocat.stitch(reduce="variance", window=window)) == 0
        found = patches.geocat.stitch(reduce="mean", window=window, disagreement=True)
        assert shared(found["disagreement"]) == 0


def test_one_answer_has_no_disagreement_but_a_variance_of_zero(pair):
    found = pair(1, 5, "float32").geocat.stitch(disagreement=True, coverage=True)
    np.testing.assert_array_equal(
        found["disagreement"].values[0], [np.nan, np.nan, 2, 2, np.nan, np.nan]
    )
    np.testing.assert_array_equal(found["coverage"].values[0], [1, 1, 2, 2, 1, 1])
    alone = pair(1, 5, "float32").geocat.stitch(reduce="variance")
    np.testing.assert_array_equal(alone.values[0], [0, 0, 4, 4, 0, 0])


@pytest.mark.parametrize(("a", "b"), [(np.inf, 5), (5, np.inf), (-np.inf, np.inf)])
@pytest.mark.parametrize("reduce", ["mean", "variance"])
def test_a_finite_answer_beside_an_infinite_one_does_not_agree_with_it(pair, a, b, reduce):
    patches = pair(a, b, "float32")
    found = patches.geocat.stitch(reduce="max", disagreement=True)["disagreement"]
    spread = patches.geocat.stitch(reduce="variance")
    for got in (found, spread):
        assert not np.isfinite(got.values[:, 2:4]).any()


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32"])
@pytest.mark.parametrize("nodata", [0, 9])
def test_the_nodata_of_the_answers_is_no_variance(pair, dtype, nodata):
    # A variance of 0 means that all agree; of 9, that they are 6 apart.
    patches = pair(7, 13, dtype, nodata=nodata).isel(patch=[0, 1, 1, 1])
    spread = patches.where(patches["x_start"] > 0, nodata).astype(dtype)
    spread.attrs["nodata"] = nodata
    for answers, known in ((patches, slice(None)), (spread, slice(2, None))):
        field = answers.geocat.stitch(reduce="variance")
        assert field.attrs.get("nodata", np.nan) != nodata
        assert not np.isnan(field.values[:, known]).any()
        unknown = np.ones(6, bool)
        unknown[known] = False
        assert np.isnan(field.values[:, unknown]).all()


def test_votes_that_lost_are_the_disagreement_of_a_vote(pair):
    patches = pair(3, 8, "uint8").isel(patch=[0, 1, 1])
    found = patches.geocat.stitch(reduce="vote", disagreement=True)
    np.testing.assert_allclose(
        found["disagreement"].values[0], [np.nan] * 2 + [1 / 3] * 2 + [0] * 2, rtol=1e-6
    )
    assert found["disagreement"].dtype == "float32"


@pytest.mark.parametrize("reduce", ["soft_vote", "inverse_variance"])
def test_answers_that_count_together_have_no_one_disagreement(positive, reduce):
    patches = positive((2, 6, 6), dims=("band", "y", "x")).geocat.patch(3)
    with pytest.raises(ValueError, match="disagreement=True has no one meaning.*'variance'"):
        patches.geocat.stitch(reduce=reduce, disagreement=True)
    found = patches.geocat.stitch(reduce=reduce, coverage=True)
    assert found["coverage"].dims == ("y", "x")


# --- answers that count together ------------------------------------------------------------------


def test_soft_votes_are_not_votes(positive):
    # Two sure ones against three that are nearly undecided.
    probabilities = np.array([[0.9, 0.1]] * 2 + [[0.45, 0.55]] * 3, "float32")
    patches = positive((2, 4, 4), dims=("band", "y", "x")).geocat.patch(4).isel(patch=[0] * 5)
    patches = patches.copy(data=probabilities[:, :, None, None] + np.zeros((4, 4), "float32"))
    assert (patches.geocat.stitch(reduce="soft_vote") == 0).all()
    assert (patches.argmax("band").geocat.stitch(reduce="vote") == 1).all()


@pytest.mark.parametrize("chunks", [None, 1])
def test_a_cell_without_probabilities_is_filled(positive, chunks):
    field = positive((3, 8, 8), dims=("band", "y", "x"))
    most = field.argmax("band").values
    patches = field.geocat.patch(4)
    patches = patches.where(patches["x_start"] > 0)
    patches = patches if chunks is None else patches.chunk(patch=chunks, band=1)
    for fill in (None, 255, 7):
        field = patches.geocat.stitch(reduce="soft_vote", fill=fill)
        want = 7 if fill == 7 else 255
        assert field.dtype == "uint8"
        assert (field[:, :4] == want).all()
        np.testing.assert_array_equal(field[:, 4:], most[:, 4:])
        assert field.attrs["nodata"] == want


@pytest.mark.parametrize("nodata", [0, 2, -9999])
def test_the_nodata_of_probabilities_is_no_class(positive, nodata):
    patches = positive((3, 8, 8), dims=("band", "y", "x"), nodata=nodata).geocat.patch(4)
    patches[:, 0] = 999
    field = patches.isel(patch=slice(1, None)).geocat.stitch(reduce="soft_vote")
    assert (field[:4, :4] == 255).all()
    assert (field[4:] == 0).all()
    assert field.attrs["nodata"] == 255


def test_256_classes_are_too_many(positive):
    patches = positive((256, 4, 4), dims=("band", "y", "x")).geocat.patch(4)
    with pytest.raises(ValueError, match=r"up to 255 classes.*\(256,\)"):
        patches.geocat.stitch(reduce="soft_vote")
    assert patches.isel(band=slice(255)).geocat.stitch(reduce="soft_vote").dtype == "uint8"


@pytest.mark.parametrize("bands", [None, 1, 3])
def test_a_mean_by_inverse_variance_takes_pairs(positive, bands):
    dims = ("y", "x") if bands is None else ("band", "y", "x")
    patches = positive((bands, 4, 4)[bands is None :], dims=dims).geocat.patch(4)
    with pytest.raises((ValueError, IndexError), match="inverse_variance.*two values"):
        patches.geocat.stitch(reduce="inverse_variance")


@pytest.mark.parametrize("variance", [0, -1])
def test_a_variance_that_is_none_is_refused_with_its_value(positive, variance):
    patches = positive((2, 4, 4), dims=("band", "y", "x")).geocat.patch(4)
    patches[:, 1, 2, 2] = variance
    with pytest.raises(ValueError, match=rf"the variance {variance}\.0; it must be above 0"):
        patches.geocat.stitch(reduce="inverse_variance")


@pytest.mark.parametrize("half", [0, 1])
@pytest.mark.parametrize("fill", [None, -1])
def test_half_a_pair_counts_for_nothing(positive, half, fill):
    patches = positive((2, 4, 8), dims=("band", "y", "x")).geocat.patch(4)
    patches[0, half] = np.nan
    found = patches.geocat.stitch(reduce="inverse_variance", fill=fill, coverage=True)
    empty = found["made"].values[:, :, :4]
    assert np.isnan(empty).all() if fill is None else (empty == fill).all()
    np.testing.assert_array_equal(found["coverage"].values[0], [0] * 4 + [1] * 4)


@pytest.mark.parametrize("reduce", ["soft_vote", "inverse_variance"])
@pytest.mark.parametrize("half", [0, 1])
def test_coverage_counts_what_counts_together_as_one(positive, reduce, half):
    patches = positive((2, 4, 6), dims=("band", "y", "x")).geocat.patch({"y": 4, "x": 4}, stride=2)
    patches[0, half] = np.nan
    found = patches.geocat.stitch(reduce=reduce, coverage=True)
    np.testing.assert_array_equal(found["coverage"].values[0], [0, 0, 1, 1, 1, 1])


# --- the registry ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", REDUCERS)
@pytest.mark.parametrize("dtype", ["uint8", "int64", "float16", "float32", "float64"])
def test_every_name_gives_a_reducer_of_the_right_dtype(name, dtype):
    wide = {"uint8": "uint64", "int64": "int64"}.get(dtype, dtype)
    spread = {"uint8": "float32", "int64": "float64"}.get(dtype, dtype)
    want = {"sum": wide, "variance": spread, "soft_vote": "uint8"}.get(name, dtype)
    made = reducer(name, np.dtype(dtype))
    assert isinstance(made, Reducer)
    assert made.dtype(np.dtype(dtype)) == want


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"'mode' is unknown") as refusal:
        reducer("mode", np.dtype("float32"))
    assert all(repr(name) in str(refusal.value) for name in REDUCERS)


@pytest.mark.parametrize("reduce", [None, 3, np.mean, REDUCERS["mean"], Reducer])
def test_what_is_neither_a_name_nor_a_reducer_is_refused(reduce):
    with pytest.raises(TypeError, match=r"is no reducer.*'mean'.*subclass of xgeocat\.Reducer"):
        reducer(reduce, np.dtype("float32"))


@pytest.mark.parametrize("name", ["max", "min", "median", "vote", "soft_vote", "inverse_variance"])
def test_what_orders_is_refused_for_complex_numbers(name):
    for dtype in ("complex64", "complex128"):
        with pytest.raises(ValueError, match=rf"{name}.*no meaning for {dtype}.*'mean' or 'first'"):
            reducer(name, np.dtype(dtype))


@pytest.mark.parametrize("dtype", ["bool"])
def test_probabilities_are_numbers(dtype):
    with pytest.raises(ValueError, match=f"soft_vote.*not {dtype}.*'vote'"):
        reducer("soft_vote", np.dtype(dtype))


WIDE = [np.dtype(t) for t in (np.longdouble, np.clongdouble) if np.dtype(t).itemsize > 16
        or (t is np.longdouble and np.dtype(t).itemsize > 8)]  # fmt: skip


@pytest.mark.parametrize("dtype", ["datetime64[s]", "timedelta64[s]", "U3", "object", *WIDE])
def test_what_is_no_number_is_refused(dtype):
    with pytest.raises(TypeError, match="cannot be stitched"):
        reducer("mean", np.dtype(dtype))


# --- reducers of one's own ------------------------------------------------------------------------


class Nearness(Reducer):
    """The largest weight that reached a cell: knows of no answers."""

    weighted = True

    def dtype(self, dtype):
        return np.dtype("float64")

    def init(self, shape, dtype, depth):
        return (np.zeros(shape),)

    def fold(self, state, piece):
        mine = state[0][piece.region]
        np.maximum(mine, np.where(piece.mask, piece.weight, 0), out=mine)

    def finish(self, state, weight):
        return state[0]


@dataclass(frozen=True)
class Quantile(Reducer):
    """Keeps every answer in a layer of its own."""

    q: float

    def init(self, shape, dtype, depth):
        return np.full((depth, *shape), np.nan, dtype), np.zeros((1, *shape), int)

    def fold(self, state, piece):
        layers, count = (array[piece.region] for array in state)
        for i in range(len(layers)):
            np.copyto(layers[i], piece.values, where=piece.mask & (count[0] == i))
        count += piece.mask

    def finish(self, state, weight):
        layers, count = state
        layers[:, count[0] == 0] = 0
        return np.nanquantile(layers, self.q, axis=0).astype(layers.dtype)


@pytest.mark.parametrize("q", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("holes", [0, 0.3])
@pytest.mark.parametrize("chunks", [None, 4])
def test_a_reducer_of_ones_own_is_taken_and_told_the_depth(positive, q, holes, chunks):
    patches = positive((2, 13, 15), "float64", ("band", "y", "x")).geocat.patch(6, overlap=3)
    values = answers_of(np.random.default_rng(0), patches.shape, "float64", holes)
    patches = patches.copy(data=values)
    given_patches = patches if chunks is None else patches.chunk(patch=chunks, band=1)
    got = given_patches.geocat.stitch(reduce=Quantile(q)).values
    found = oracle.cells(values, starts_of(patches, "yx"), (13, 15))
    want = np.full((2, 13, 15), np.nan)
    for cell, reached in found.items():
        want[cell] = np.quantile([v for _, _, v in reached], q)
    np.testing.assert_allclose(got, want, rtol=1e-14)


@pytest.mark.parametrize("window", ["boxcar", "hann"])
@pytest.mark.parametrize("chunks", [None, 4])
def test_a_reducer_of_ones_own_gets_the_window_and_the_validity(positive, window, chunks):
    patches = positive((9, 11), "int16").geocat.patch(5, stride=3)
    patches = patches.where(patches > 60, -1).astype("int16").assign_attrs(nodata=-1)
    given_patches = patches if chunks is None else patches.chunk(patch=chunks)
    got = given_patches.geocat.stitch(reduce=Nearness(), window=window, fill=-5)
    want = np.full((9, 11), -5.0)
    where = starts_of(patches, "yx")
    for cell, reached in oracle.cells(
        patches.values, where, (9, 11), window_name=window, nodata=-1
    ).items():
        want[cell] = max(w for w, _, _ in reached)
    np.testing.assert_allclose(got, want, rtol=1e-14)


def test_a_reducer_that_takes_no_weights_refuses_a_window(positive):
    with pytest.raises(ValueError, match="window='hann'.*reducer Quantile"):
        positive().geocat.patch(4).geocat.stitch(reduce=Quantile(0.5), window="hann")


@pytest.mark.parametrize(("dtype", "attrs"), [("float32", {}), ("int16", {"nodata": -1})])
def test_a_reducer_to_integers_of_what_may_be_unknown_needs_a_fill(positive, dtype, attrs):
    class Count(Reducer):
        def dtype(self, dtype):
            return np.dtype("uint8")

        def init(self, shape, dtype, depth):
            return (np.zeros(shape, "uint8"),)

        def fold(self, state, piece):
            state[0][piece.region] += piece.mask

        def finish(self, state, weight):
            return state[0]

    patches = positive((8, 8), dtype, **attrs).geocat.patch(4)
    with pytest.raises(ValueError, match=r"uint8 has no value.*stitch\(fill=\.\.\.\)"):
        patches.geocat.stitch(reduce=Count())
    unknown = patches.where(patches["x_start"] > 0, attrs.get("nodata", np.nan)).astype(dtype)
    field = unknown.assign_attrs(attrs).geocat.stitch(reduce=Count(), fill=255)
    np.testing.assert_array_equal(field.values[0], [255] * 4 + [1] * 4)


def test_a_reducer_without_its_three_steps_cannot_be_made():
    class Half(Reducer):
        def init(self, shape, dtype, depth):
            return ()

    with pytest.raises(TypeError, match="abstract.*fold"):
        Half()


def test_fields_of_two_settings_of_a_reducer_have_two_keys(positive):
    patches = positive(chunks=5).geocat.patch(4)
    names = [patches.geocat.stitch(reduce=Quantile(q)).data.name for q in (0.1, 0.9, 0.1)]
    assert names[0] == names[2] != names[1]


@pytest.mark.parametrize("reduce", [Quantile(0.25), *sorted(set(REDUCERS) - {"soft_vote"})])
@pytest.mark.parametrize("dtype", ["float32", "int16", "bool"])
def test_any_reducer_computes_a_corner_as_it_does_the_whole(positive, reduce, dtype):
    field = positive((2, 25, 31), dims=("band", "y", "x"), chunks={"y": 8, "x": 8})
    if dtype != "float32" and (reduce == "inverse_variance" or isinstance(reduce, Quantile)):
        reduce = "mean"
    patches = field.geocat.patch(7, overlap=4)
    answers = patches.geocat.map(lambda b: (b * np.arange(7) > 99).astype("bool") if dtype == "bool"
                                 else (b * np.arange(1, 8)).astype(dtype))  # fmt: skip
    stitched = answers.geocat.stitch(reduce=reduce)
    whole = stitched.compute()
    for corner in ({"y": slice(9, 12), "x": slice(4, 23)}, {"y": [3, 20], "x": 7}, {"x": [0, 30]}):
        xr.testing.assert_identical(stitched.isel(corner).compute(), whole.isel(corner))
