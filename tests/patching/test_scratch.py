from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from xgeocat.patching import scratch

LARGE = (3, 512, 1024)


@pytest.fixture(autouse=True)
def nothing_kept():
    """Start and end without memory that is kept."""
    scratch._free.clear()
    yield
    scratch._free.clear()


def address(array):
    return array.__array_interface__["data"][0]


def kept():
    return sum(size * len(memory) for size, memory in scratch._free.items())


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int16", "float32", "float64", "complex128"])
@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 5), (7,), (1000, 1000), LARGE])
def test_an_array_is_like_any_other(dtype, shape):
    for make, like in ((scratch.empty, np.empty), (scratch.zeros, np.zeros)):
        made, want = make(shape, dtype), like(shape, dtype)
        assert (made.shape, made.dtype, made.strides) == (want.shape, want.dtype, want.strides)
        assert made.flags.writeable
        assert made.flags.c_contiguous
        assert made.flags.aligned
        if make is scratch.zeros:
            assert not made.any()
        made[...] = 1
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(made)), np.ones(shape, dtype))


def test_memory_is_used_again_once_the_array_is_gone():
    first = scratch.empty(LARGE, "float32")
    there = address(first)
    first[...] = 5
    del first
    again = scratch.empty(LARGE, "uint32")
    assert address(again) == there
    del again
    zeros = scratch.zeros(LARGE, "float32")
    assert address(zeros) == there
    assert not zeros.any()


@pytest.mark.parametrize(
    "view",
    [
        lambda a: a[1],
        lambda a: a[:, ::2, ::-1],
        lambda a: a.T,
        lambda a: a.view(np.uint8),
        lambda a: a.reshape(-1)[-1:],
        lambda a: np.broadcast_to(a[0, 0, :1], (5, 7)),
        memoryview,
        lambda a: [a[0]],
    ],
    ids=["part", "strided", "transposed", "bytes", "last", "broadcast", "memoryview", "list"],
)
def test_memory_is_not_used_again_while_any_view_is_left(view):
    array = scratch.empty(LARGE, "float32")
    array[...] = 5
    there = address(array)
    left = view(array)
    del array
    others = [scratch.zeros(LARGE, "float32") for _ in range(3)]
    assert there not in map(address, others)
    assert np.array(left).any()


def test_arrays_in_use_never_share_memory():
    arrays = [scratch.empty(LARGE, "float32") for _ in range(4)]
    del arrays[1]
    arrays += [scratch.empty(LARGE, "float32") for _ in range(3)]
    for i, array in enumerate(arrays):
        array[...] = i
    assert all((array == i).all() for i, array in enumerate(arrays))


def test_threads_do_not_share_memory():
    def work(number):
        for _ in range(20):
            array = scratch.empty((600, 1024), "float32")
            array[...] = number
            other = scratch.zeros((600, 1024), "float32")
            assert (array == number).all()
            assert not other.any()
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(1, 9)))


def test_no_more_is_kept_than_it_says():
    many = [scratch.empty((16, 1024, 1024), "uint8") for _ in range(12)]
    del many
    assert 0 < kept() <= scratch.KEPT + (16 << 20)


def test_small_arrays_and_objects_are_numpys_own():
    for array in (scratch.empty((10,), "float64"), scratch.empty((1 << 20,), object)):
        assert array.base is None
    assert kept() == 0
