from __future__ import annotations

from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xgeocat.patching.cut import Windows, cut


@st.composite
def fields(draw):
    """A field in blocks, and starts of patches that lie in it at least in part."""
    dims = draw(st.integers(1, 3))
    rest = draw(st.sampled_from([(), (2,), (2, 3)]))
    shape = [draw(st.integers(1, (20, 12, 6)[dims - 1])) for _ in range(dims)]
    size = [draw(st.integers(1, 7)) for _ in range(dims)]
    cuts = [[0, *sorted(draw(st.sets(st.integers(1, n), max_size=3)) - {n}), n] for n in shape]
    field = np.arange(np.prod(rest + tuple(shape)), dtype="int32").reshape(*rest, *shape)
    starts = [
        [draw(st.integers(1 - k, n - 1)) for n, k in zip(shape, size, strict=True)]
        for _ in range(draw(st.integers(0, 5)))
    ]
    return field, cuts, np.array(starts, np.int64).reshape(-1, dims), tuple(size)


def blocks_of(field, cuts):
    """Blocks of a field, and their origins."""
    blocks, origins = [], []
    for corners in product(*(pairwise(c) for c in cuts)):
        blocks.append(field[(..., *(slice(a, b) for a, b in corners))].copy())
        origins.append([a for a, _ in corners])
    return blocks, np.array(origins, np.int64)


def reflected(field, start, size):
    """One patch by plain slices; what is beyond the field, by reflecting what is inside."""
    inside, missing = [], []
    for s, k, n in zip(start, size, field.shape[-len(size) :], strict=True):
        inside.append(slice(max(s, 0), min(s + k, n)))
        missing.append((max(-s, 0), max(s + k - n, 0)))
    others = [(0, 0)] * (field.ndim - len(size))
    return np.pad(field[(..., *inside)], [*others, *missing], mode="reflect")


@given(fields())
@settings(max_examples=100, deadline=None)
def test_patches_cut_of_blocks_are_slices_of_the_field(given_field):
    field, cuts, starts, size = given_field
    blocks, origins = blocks_of(field, cuts)
    shape = field.shape[field.ndim - len(size) :]
    patches = cut(blocks, origins, starts, size, shape)
    want = [reflected(field, start, size) for start in starts.tolist()]
    assert patches.dtype == field.dtype
    assert patches.shape == (len(starts), *field.shape[: field.ndim - len(size)], *size)
    for got, expected in zip(patches, want, strict=True):
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize(
    "which", [slice(1, 4), slice(0, 0), np.array([4, 0, 4]), np.array([], int)]
)
def test_windows_are_cut_when_they_are_asked_for(which):
    field = np.arange(200.0).reshape(10, 20)
    blocks, origins = blocks_of(field, [[0, 5, 10], [0, 8, 20]])
    starts = np.array([[0, 0], [4, 6], [5, 8], [6, 15], [-2, -1]])
    windows = Windows(blocks, origins, starts, (4, 5), (10, 20))
    assert len(windows) == 5
    whole = cut(blocks, origins, starts, (4, 5), (10, 20))
    np.testing.assert_array_equal(windows[which], whole[which])


def test_what_is_cut_can_be_written_to():
    field = np.arange(200.0).reshape(10, 20)
    windows = Windows([field], np.zeros((1, 2), int), np.array([[2, 3]]), (4, 5), (10, 20))
    once = windows[0:1]
    once[...] = -1
    np.testing.assert_array_equal(windows[0:1][0], field[2:6, 3:8])
    assert (field >= 0).all()


@pytest.mark.parametrize("dtype", [">f4", ">i2", ">u8", ">c16"])
def test_patches_are_in_the_byte_order_of_the_machine(dtype):
    field = np.arange(200).reshape(10, 20).astype(dtype)
    patches = cut([field], np.zeros((1, 2), int), np.array([[2, 3]]), (4, 5), (10, 20))
    assert patches.dtype.isnative
    assert patches.dtype == np.dtype(dtype).newbyteorder("=")
    np.testing.assert_array_equal(patches[0], field[2:6, 3:8])


LAYOUTS = {
    "rows": np.ascontiguousarray,
    "columns": np.asfortranarray,
    "a part": lambda a: np.pad(a, [(0, 0)] * (a.ndim - 2) + [(1, 2)] * 2)[..., 1:-2, 1:-2],
    "mirrored": lambda a: a[..., ::-1].copy()[..., ::-1],
    "upside down": lambda a: a[..., ::-1, :].copy()[..., ::-1, :],
    "every second": lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
    "other byte order": lambda a: a.astype(a.dtype.newbyteorder()),
    "read-only": lambda a: np.frombuffer(a.tobytes(), a.dtype).reshape(a.shape),
}


@pytest.mark.parametrize(
    "dtype",
    ["bool", "int8", "float16", "int32", "float64", "complex64", "complex128", "datetime64[ns]"],
)
@pytest.mark.parametrize("rest", [(), (3,), (2, 2)])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_blocks_may_lie_in_memory_in_any_way(noise, dtype, rest, layout):
    shape, size = (11, 13), (4, 5)
    numbers = noise((*rest, *shape), "int64" if dtype[0] == "d" else dtype, 1)
    field = numbers.astype(dtype)
    starts = np.array([[0, 0], [3, 5], [7, 8], [2, 4], [-1, 10]])
    want = [reflected(field, start, size) for start in starts.tolist()]
    cuts = [[0, 5, 11], [0, 3, 9, 13]]
    plain, origins = blocks_of(field, cuts)
    for blocks in (
        [layout(block) for block in plain],
        # Some one way, some another.
        [layout(block) if i % 2 else block for i, block in enumerate(plain)],
        [block if i % 2 else layout(block) for i, block in enumerate(plain)],
    ):
        patches = cut(blocks, origins, starts, size, shape)
        assert patches.dtype == field.dtype
        assert patches.flags.c_contiguous
        np.testing.assert_array_equal(patches, want)


# Memory beside what a block has must not become pixels: nor what was there before.
WRONG = {
    "lower": lambda block: block[..., :-1, :],
    "narrower": lambda block: block[..., :-1],
    "higher": lambda block: np.repeat(block, 2, axis=-2),
    "of fewer bands": lambda block: block[:1],
    "of more bands": lambda block: np.repeat(block, 2, axis=0),
    "without bands": lambda block: block[0],
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG.keys())
@pytest.mark.parametrize("dtype", ["float32", ">f4"])
def test_a_block_that_is_not_as_it_should_be_is_refused(wrong, dtype):
    field = np.arange(3 * 200).reshape(3, 10, 20).astype(dtype)
    blocks, origins = blocks_of(field, [[0, 5, 10], [0, 8, 20]])
    blocks[0] = wrong(blocks[0])
    with pytest.raises((ValueError, IndexError)):
        cut(blocks, origins, np.array([[2, 3], [4, 6]]), (4, 6), (10, 20))
