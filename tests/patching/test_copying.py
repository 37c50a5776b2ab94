"""Boxes that are copied in one go are the boxes that numpy copies, and nothing beside them."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xgeocat.patching.copying import Rows, address_of, copy_planes, copy_rows, has_rows, rows_in

#: Every length of an element, and every kind.
DTYPES = ["bool", "int8", "float16", "uint16", "int32", "float32", "int64", "float64", "complex64",
          "complex128", "datetime64[ns]", "timedelta64[s]", "S3", "U3", "V5", "longdouble",
          [("a", "i2"), ("b", "f4")]]  # fmt: skip
NAMES = [dtype if isinstance(dtype, str) else "record" for dtype in DTYPES]
OTHER = ">" if sys.byteorder == "little" else "<"


def bits(shape, dtype, seed=0):
    """Elements of any dtype, of any bits (bools: of those that are one)."""
    dtype, rng = np.dtype(dtype), np.random.default_rng(seed)
    if dtype.kind == "b":
        return rng.random(shape) > 0.5
    memory = rng.integers(0, 256, (*shape, dtype.itemsize), "uint8")
    return memory.view(dtype)[..., 0]


def same(got, want):
    """Whether two arrays hold the same bits, NaNs that differ in theirs included."""
    return got.dtype == want.dtype and got.tobytes() == want.tobytes()


@st.composite
def boxes_within(draw, shape, n):
    """Row and column, and the lengths, of `n` boxes in an array."""
    at = [[draw(st.integers(0, k)) for k in shape] for _ in range(n)]
    lengths = [[draw(st.integers(0, k - a)) for k, a in zip(shape, one, strict=True)] for one in at]
    return np.array(at, np.int64).reshape(-1, 2), np.array(lengths, np.int64).reshape(-1, 2)


@pytest.mark.parametrize("dtype", DTYPES, ids=NAMES)
@given(st.data())
@settings(max_examples=15, deadline=None)
def test_planes_are_copied_and_nothing_around_them_is_touched(dtype, data):
    rest = data.draw(st.sampled_from([(), (2,), (2, 3), (0,)]))
    to, of, kept, wanted = [], [], [], []
    for i in range(data.draw(st.integers(1, 4))):
        shape = tuple(data.draw(st.integers(0, 6)) for _ in "yx")
        around = [[(data.draw(st.integers(0, 2)), data.draw(st.integers(0, 2))) for _ in "yx"]
                  for _ in range(2)]  # fmt: skip
        wholes, inner = [], []
        for edges in around:
            larger = tuple(a + n + b for n, (a, b) in zip(shape, edges, strict=True))
            wholes.append(bits((*rest, *larger), dtype, len(wholes) + 10 * i))
            inner.append((..., *(slice(a, a + n) for n, (a, _) in zip(shape, edges, strict=True))))
        if data.draw(st.booleans()):
            # Rows from the bottom up.
            wholes[1] = wholes[1][..., ::-1, :].copy()[..., ::-1, :]
        want = wholes[0].copy()
        want[inner[0]] = wholes[1][inner[1]]
        wholes[1].flags.writeable = False
        to.append(wholes[0][inner[0]])
        of.append(wholes[1][inner[1]])
        kept.append(wholes[0])
        wanted.append(want)
    copy_planes(to, of)
    assert all(map(same, kept, wanted))


@pytest.mark.parametrize("dtype", DTYPES, ids=NAMES)
@pytest.mark.parametrize("rest", [(), (3,), (2, 2)])
@given(st.data())
@settings(max_examples=8, deadline=None)
def test_boxes_of_one_array_go_to_boxes_of_another_plane_by_plane(dtype, rest, data):
    n = data.draw(st.integers(0, 3))
    source, target = bits((*rest, 9, 8), dtype, 1), bits((*rest, 30, 8), dtype, 2)
    first, lengths = data.draw(boxes_within((9, 8), n))
    # One below the other, so that they do not overlap.
    at = np.array([[10 * i, 8 - length[1]] for i, length in enumerate(lengths.tolist())], np.int64)
    want = target.copy()
    for (y, x), (v, u), (rows, columns) in zip(at, first, lengths, strict=True):
        want[..., y : y + rows, x : x + columns] = source[..., v : v + rows, u : u + columns]
    planes = int(np.prod(rest, dtype=int))
    copy_rows(
        rows_in(target, at.reshape(-1, 2)),
        rows_in(source, first),
        np.tile(lengths, (planes, 1)),
        source.dtype,
    )
    assert same(target, want)


def test_tables_of_boxes_are_put_one_behind_the_other():
    source, target = bits((12, 10), "float32", 1), np.zeros((8, 10), "float32")
    corners = [np.array([[0, 0], [1, 5]]), np.zeros((0, 2), int), np.array([[8, 2]])]
    places = [np.array([[0, 0], [0, 5]]), np.zeros((0, 2), int), np.array([[4, 2]])]
    of = Rows.joined([rows_in(source, some) for some in corners])
    to = Rows.joined([rows_in(target, some) for some in places])
    copy_rows(to, of, np.array([[3, 4], [2, 5], [4, 8]]), source.dtype)
    want = np.zeros((8, 10), "float32")
    want[:3, :4], want[:2, 5:], want[4:, 2:] = source[:3, :4], source[1:3, 5:], source[8:, 2:]
    assert same(target, want)


def test_one_row_may_be_given_many_times_over():
    row = bits((7,), "int16", 3)
    of, target = np.broadcast_to(row, (5, 7)), np.zeros((5, 7), "int16")
    assert has_rows(of)
    copy_planes([target], [of])
    np.testing.assert_array_equal(target, of)


def test_elements_may_lie_at_any_address():
    memory = np.random.default_rng(0).integers(0, 256, 1 + 8 * 42, "uint8")
    source = memory[1:].view("float64").reshape(6, 7)
    assert not source.flags.aligned
    target = np.zeros(1 + 8 * 42, "uint8")[1:].view("float64").reshape(6, 7)
    copy_planes([target[:5]], [source[1:]])
    assert same(target[:5], source[1:])
    assert (target[5] == 0).all()


# --- what is copied as it is ----------------------------------------------------------------------

OBJECTS = np.array([["a", None], [1, "b"]], object)
IS_COPIED = {
    "rows": (np.zeros((4, 5)), True),
    "a part": (np.zeros((9, 9))[2:5, 1:4], True),
    "upside down": (np.zeros((4, 5))[::-1], True),
    "every second row": (np.zeros((4, 5))[::2], True),
    "read-only": (np.frombuffer(bytes(80)).reshape(2, 5), True),
    "columns": (np.zeros((4, 5), order="F"), False),
    "mirrored": (np.zeros((4, 5))[:, ::-1], False),
    "every second column": (np.zeros((4, 6))[:, ::2], False),
    "one number everywhere": (np.broadcast_to(1.5, (4, 5)), False),
    "a real part": (np.zeros((4, 5), complex).real, False),
    "the other byte order": (np.zeros((4, 5), f"{OTHER}f4"), False),
    "a record of the other byte order": (np.zeros((4, 5), [("a", f"{OTHER}f4")]), False),
    "objects": (OBJECTS, False),
    "texts of any length": (np.zeros((4, 5), np.dtypes.StringDType()), False),
}


@pytest.mark.parametrize(("array", "copied"), IS_COPIED.values(), ids=IS_COPIED.keys())
def test_only_plain_rows_are_copied_as_they_are(array, copied):
    assert has_rows(array) is copied


@pytest.mark.parametrize(
    "array", [np.arange(20.0), np.arange(20.0)[3:], np.arange(20.0)[::-1], np.zeros((0, 3))]
)
def test_an_address_is_that_of_the_first_element(array):
    assert address_of(array) == array.ctypes.data
