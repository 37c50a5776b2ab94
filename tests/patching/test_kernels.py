"""The compiled loops, against the same arithmetic in numpy: every bit must be the same."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xgeocat.patching import kernels

DTYPES = ("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64",
          "float32", "float64")  # fmt: skip

#: Ways to lay the same numbers out in memory.
LAYOUTS = {
    "rows": np.ascontiguousarray,
    "columns": np.asfortranarray,
    "a part": lambda a: np.pad(a, 3)[3:-3, 3:-3],
    "read-only": lambda a: np.frombuffer(a.tobytes(), a.dtype).reshape(a.shape),
    "upside down": lambda a: a[::-1].copy()[::-1],
    "mirrored": lambda a: a[:, ::-1].copy()[:, ::-1],
}


def add(sums, at, values, within, along_y, along_x):
    """What `add_weighted` promises."""
    box = tuple(slice(a, a + n) for a, n in zip(at, (len(along_y), len(along_x)), strict=True))
    inner = tuple(
        slice(a, a + n) for a, n in zip(within, (len(along_y), len(along_x)), strict=True)
    )
    sums[box] += along_y[:, None] * along_x * values[inner].astype(np.float64)


@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64"])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_values_may_lie_in_memory_in_any_way(noise, dtype, layout):
    values = layout(noise((9, 11), dtype))
    rng = np.random.default_rng(1)
    got, want = np.ones((2, 20, 20))
    along_y, along_x = rng.random(5), rng.random(6)
    kernels.add_weighted(got, 4, 7, values, 2, 3, along_y, along_x)
    add(want, (4, 7), values, (2, 3), along_y, along_x)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("dtype", [d for d in DTYPES if d != "bool"])
@given(st.data())
@settings(max_examples=20, deadline=None)
def test_a_box_is_added_and_nothing_around_it_touched(noise, dtype, data):
    shape, of = ((data.draw(st.integers(1, 9)), data.draw(st.integers(1, 9))) for _ in range(2))
    n = [data.draw(st.integers(0, min(a, b))) for a, b in zip(shape, of, strict=True)]
    at = [data.draw(st.integers(0, a - k)) for a, k in zip(shape, n, strict=True)]
    within = [data.draw(st.integers(0, b - k)) for b, k in zip(of, n, strict=True)]
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    values = noise(of, dtype, 1)
    along_y, along_x = rng.random(n[0]), rng.random(n[1])
    got = rng.random(shape)
    want = got.copy()
    before = values.copy()
    kernels.add_weighted(got, *at, values, *within, along_y, along_x)
    add(want, at, values, within, along_y, along_x)
    np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(values, before)


@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_stays_in_its_own_cell(special):
    values = np.ones((4, 5), np.float32)
    values[1, 2] = special
    sums = np.zeros((4, 5))
    kernels.add_weighted(sums, 0, 0, values, 0, 0, np.full(4, 0.5), np.ones(5))
    want = np.full((4, 5), 0.5)
    want[1, 2] = special
    np.testing.assert_array_equal(sums, want)


# --- rows of means --------------------------------------------------------------------------------


def blend(out, parts, boxes, along_y, along_x):
    """What `mean_rows` promises, before rounding: sums in the order of the parts."""
    sums = np.zeros(out.shape)
    for part, (y0, y1, x0, x1), wy, wx in zip(parts, boxes, along_y, along_x, strict=True):
        sums[y0:y1, x0:x1] += wy[: y1 - y0, None] * wx[: x1 - x0] * part.astype(np.float64)
    return sums


def rows_of(out, parts, boxes, along_y, along_x):
    """Call `mean_rows` for a box within a larger array, with the addresses of the parts."""
    height, width = out.shape
    larger = np.full((height + 3, width + 2), 7, out.dtype)
    order = np.random.default_rng(0).permutation(len(parts))
    done = kernels.mean_rows(
        larger,
        np.array([1, 1 + height, 2, 2 + width]),
        np.array([part.__array_interface__["data"][0] for part in parts]),
        np.array([part.strides[0] for part in parts]),
        np.array(boxes) + np.array([1, 1, 2, 2]),
        np.stack([np.argsort(order), np.argsort(order)], axis=1),
        along_y[order],
        along_x[order],
        out.dtype.kind in "iu",
    )
    out[...] = larger[1 : 1 + height, 2 : 2 + width]
    larger[1 : 1 + height, 2 : 2 + width] = 7
    assert (larger == 7).all()
    return done


@st.composite
def boxes_over(draw, shape):
    """Boxes that reach every cell, in any order."""
    boxes = [(0, shape[0], 0, shape[1])] * draw(st.integers(0, 1))
    cuts = [sorted({0, n, *draw(st.sets(st.integers(0, n), max_size=2))}) for n in shape]
    for y0, y1 in zip(cuts[0], cuts[0][1:], strict=False):
        for x0, x1 in zip(cuts[1], cuts[1][1:], strict=False):
            reach = [draw(st.integers(0, 2)) for _ in range(4)]
            boxes.append((max(y0 - reach[0], 0), min(y1 + reach[1], shape[0]),
                          max(x0 - reach[2], 0), min(x1 + reach[3], shape[1])))  # fmt: skip
    return draw(st.permutations(boxes))


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint32", "float32", "float64"])
@given(st.data())
@settings(max_examples=25, deadline=None)
def test_rows_are_sums_in_the_order_of_the_parts(dtype, data):
    shape = (data.draw(st.integers(1, 12)), data.draw(st.integers(1, 12)))
    boxes = data.draw(boxes_over(shape))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    parts, along_y, along_x = [], [], []
    for y0, y1, x0, x1 in boxes:
        # A part of a larger array, whose other cells must not be read.
        whole = np.full((y1 - y0 + 4, x1 - x0 + 4), 77).astype(dtype)
        if whole.dtype.kind == "f":
            whole[:] = np.nan
        part = whole[2:-2, 2:-2]
        part[...] = rng.integers(0, 99, part.shape)
        if data.draw(st.booleans()):
            # Rows from the bottom up: their distance in memory is negative.
            part = part[::-1]
        parts.append(part)
        along_y.append(np.pad(rng.random(y1 - y0), (0, shape[0] - (y1 - y0)), constant_values=-99))
        along_x.append(np.pad(rng.random(x1 - x0), (0, shape[1] - (x1 - x0)), constant_values=-99))
    along_y, along_x = np.array(along_y), np.array(along_x)
    out = np.empty(shape, dtype)
    assert rows_of(out, parts, boxes, along_y, along_x)
    sums = blend(out, parts, boxes, along_y, along_x)
    want = np.floor(np.rint(sums * 2**20) / 2**20 + 0.5) if out.dtype.kind in "iu" else sums
    np.testing.assert_array_equal(out, want.astype(dtype))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("where", [(0, 0), (2, 3), (4, 5)])
def test_a_nan_is_told(dtype, where):
    part = np.ones((5, 6), dtype)
    one = (np.ones((1, 5)), np.ones((1, 6)))
    out = np.empty((5, 6), dtype)
    assert rows_of(out, [part], [(0, 5, 0, 6)], *one)
    part[where] = np.nan
    assert not rows_of(out, [part], [(0, 5, 0, 6)], *one)
    part[where] = np.inf
    assert rows_of(out, [part], [(0, 5, 0, 6)], *one)
    np.testing.assert_array_equal(out, part)


# --- copies ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", ["u1", "u2", "u4", "u8"])
@given(st.data())
@settings(max_examples=20, deadline=None)
def test_boxes_are_copied_and_nothing_around_them_touched(unit, data):
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    n = data.draw(st.integers(0, 4))
    shapes = np.array([[data.draw(st.integers(0, 5)) for _ in "yx"] for _ in range(n)], np.int64)
    sources = [rng.integers(1, 99, (8, 9)).astype(unit)[::-1] for _ in range(n)]
    targets = [np.zeros((7, 7), unit) for _ in range(n)]
    address = lambda a: a.__array_interface__["data"][0]  # noqa: E731
    kernels.copy_rows(
        np.empty(0, unit),
        np.array([address(a[1:, 2:]) for a in targets], np.int64),
        np.array([a.strides[0] for a in targets], np.int64),
        np.array([address(a[2:, 3:]) for a in sources], np.int64),
        np.array([a.strides[0] for a in sources], np.int64),
        shapes.reshape(-1, 2),
    )
    for (rows, columns), source, target in zip(shapes.tolist(), sources, targets, strict=True):
        want = np.zeros((7, 7), unit)
        want[1 : 1 + rows, 2 : 2 + columns] = source[2 : 2 + rows, 3 : 3 + columns]
        np.testing.assert_array_equal(target, want)
