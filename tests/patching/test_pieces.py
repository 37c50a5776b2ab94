from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xgeocat.patching.pieces import Piece, outer, round_half_up

DTYPES = ("bool", "int8", "uint16", "int64", "uint64", "float16", "float32", "float64",
          "complex64", "complex128")  # fmt: skip


@pytest.fixture
def piece_of(noise):
    """Factory of pieces: a part of a patch somewhere in a block, with random weights."""

    def make(dtype="float32", dims=2, rest=(), seed=0, valid=False, layout=lambda a: a):
        rng = np.random.default_rng(seed)
        part = rng.integers(1, 6, dims)
        before, gap = rng.integers(0, 3, (2, dims))
        size = part + before + rng.integers(0, 3, dims)
        patch = layout(noise((*rest, *size.tolist()), dtype, seed))
        return Piece(
            patch,
            tuple(map(slice, before.tolist(), (before + part).tolist())),
            tuple(map(slice, gap.tolist(), (gap + part).tolist())),
            tuple(rng.random(n) + 0.1 for n in part.tolist()),
            rng.random((*rest, *part.tolist())) > 0.4 if valid else None,
        ), (gap + part + rng.integers(0, 3, dims)).tolist()

    return make


def added(piece, sums, values, squared):
    """What `add_to` promises, with an outer product as large as the part."""
    weight = np.ones(())
    for vector in piece.window:
        weight = np.multiply.outer(weight, vector**2 if squared else vector)
    parts = [values.real, values.imag] if values.dtype.kind == "c" else [values]
    into = [sums.real, sums.imag] if values.dtype.kind == "c" else [sums]
    for target, part in zip(into, parts, strict=True):
        target[(..., *piece.at)] += weight * part.astype(np.float64)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("rest", [(), (2,), (2, 3)])
@pytest.mark.parametrize("squared", [False, True])
def test_answers_are_added_times_their_weights(piece_of, dtype, dims, rest, squared):
    for seed in range(3):
        piece, block = piece_of(dtype, dims, rest, seed)
        wide = np.complex128 if piece.patch.dtype.kind == "c" else np.float64
        got, want = np.ones((2, *rest, *block), wide)
        before = piece.patch.copy()
        piece.add_to(got, squared=squared)
        added(piece, want, piece.values, squared)
        if dims < 3:
            np.testing.assert_array_equal(got, want)
        else:
            np.testing.assert_allclose(got, want, rtol=1e-14)
        np.testing.assert_array_equal(piece.patch, before)


@pytest.mark.parametrize("kind", ["bool", "float64", "complex128"])
@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("squared", [False, True])
def test_other_values_can_be_added_in_the_place_of_the_answers(
    piece_of, noise, kind, dims, squared
):
    piece, block = piece_of("uint8", dims, (2,))
    values = noise(piece.values.shape, kind)
    got, want = np.zeros((2, 2, *block), np.complex128 if kind == "complex128" else np.float64)
    piece.add_to(got, values, squared)
    added(piece, want, values, squared)
    np.testing.assert_allclose(got, want, rtol=1e-14)


LAYOUTS = {
    "columns": np.asfortranarray,
    "mirrored": lambda a: a[..., ::-1].copy()[..., ::-1],
    "every second": lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
    "upside down": lambda a: a[..., ::-1, :].copy()[..., ::-1, :],
    "read-only": lambda a: np.frombuffer(a.tobytes(), a.dtype).reshape(a.shape),
}


@pytest.mark.parametrize(
    "dtype", ["bool", "uint8", "float16", "float32", "complex64", "complex128"]
)
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_patches_may_lie_in_memory_in_any_way(piece_of, dtype, layout):
    for rest in ((), (3,)):
        piece, block = piece_of(dtype, 2, rest, 5, layout=layout)
        wide = np.complex128 if piece.patch.dtype.kind == "c" else np.float64
        got, want = np.zeros((2, *rest, *block), wide)
        piece.add_to(got)
        added(piece, want, piece.values, False)
        np.testing.assert_array_equal(got, want)


def test_an_infinite_complex_number_makes_no_nan(piece_of):
    piece, block = piece_of("complex64", 2, (), 3)
    piece.patch[...] = complex(np.inf, 1)
    sums = np.zeros(block, np.complex128)
    piece.add_to(sums)
    inside = sums[piece.at]
    assert np.isposinf(inside.real).all()
    assert np.isfinite(inside.imag).all()


def test_a_piece_knows_its_weight_and_its_mask(piece_of):
    piece, _ = piece_of(dims=3, rest=(2,), valid=True)
    assert piece.weight.shape == piece.values.shape[1:]
    at = tuple(n - 1 for n in piece.weight.shape)
    assert piece.weight[at] == pytest.approx(math.prod(w[-1] for w in piece.window), rel=1e-15)
    assert piece.mask is piece.valid
    piece.valid = None
    assert piece.mask.shape == piece.values.shape
    assert piece.mask.all()


def test_an_outer_product_has_a_dim_for_each_vector():
    vectors = [np.array([1.0, 2.0]), np.array([3.0]), np.array([5.0, 7.0, 0.5])]
    want = np.array([[[a * b * c for c in vectors[2]] for b in vectors[1]] for a in vectors[0]])
    np.testing.assert_array_equal(outer(vectors), want)
    np.testing.assert_array_equal(outer(vectors[:1]), vectors[0])


# --- rounding -------------------------------------------------------------------------------------


@given(st.integers(-(2**31), 2**31), st.integers(-(2**22), 2**22))
@settings(max_examples=300, deadline=None)
def test_halves_go_up_and_so_does_what_is_within_a_millionth_of_one(whole, steps):
    # Steps of 2**-22 around a whole number: exact in float64.
    exact = Fraction(whole) + Fraction(steps, 2**22)
    nearest = Fraction(round(exact * 2**20), 2**20)
    want = math.floor(nearest + Fraction(1, 2))
    assert round_half_up(np.array([float(exact)]))[0] == want
    assert abs(want - exact) <= Fraction(1, 2) + Fraction(1, 2**20)


@pytest.mark.parametrize("half", [-2.5, -0.5, 0.5, 1.5, 2.5, 1e6 + 0.5])
@pytest.mark.parametrize("bits", [-3, -1, 0, 1, 3])
def test_a_last_bit_decides_no_half(half, bits):
    value = half
    for _ in range(abs(bits)):
        value = np.nextafter(value, np.copysign(np.inf, bits))
    assert round_half_up(np.array([value]))[0] == math.floor(half) + 1
