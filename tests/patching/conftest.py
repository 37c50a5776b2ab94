"""Fields and models for the patching room; session-wide, so that hypothesis may use them too."""

from __future__ import annotations

import threading

import dask
import numpy as np
import odc.geo.xr
import pytest
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox

import xgeocat  # noqa: F401 - registers .geocat


@pytest.fixture(scope="session")
def field_of():
    """Factory of georeferenced fields around given values; dims default to ``(y, x)``."""

    def make(values, dims=("y", "x"), chunks=None, crs="EPSG:32610", attrs=None, west=500000):
        values = np.asarray(values)
        sizes = dict(zip(dims, values.shape, strict=True))
        box = GeoBox((sizes["y"], sizes["x"]), Affine(10, 0, west, 0, -10, 4300000), crs)
        coords = dict(odc.geo.xr.xr_zeros(box, dtype="uint8").coords)
        if "time" in dims:
            coords["time"] = np.datetime64("2024-06-01", "ns") + np.arange(sizes["time"])
        if "band" in dims:
            coords["band"] = [f"b{i}" for i in range(sizes["band"])]
        field = xr.DataArray(values, dims=dims, coords=coords, name="made", attrs=attrs)
        field.attrs["long_name"] = "what was made"
        return field if chunks is None else field.chunk(chunks)

    return make


@pytest.fixture(scope="session")
def noise():
    """Factory of values of a dtype, over its whole range; the same for the same seed."""

    def make(shape, dtype, seed=0):
        rng = np.random.default_rng(seed)
        dtype = np.dtype(dtype)
        if dtype.kind == "b":
            return rng.random(shape) > 0.5
        if dtype.kind in "iu":
            info = np.iinfo(dtype)
            values = rng.integers(info.min, info.max, shape, dtype, endpoint=True)
            few = rng.choice(np.array([info.min, info.max, 0, 1], dtype), shape)
            return np.where(rng.random(shape) < 0.2, few, values)
        exponent = 4 if dtype == np.float16 else 30
        parts = [
            rng.standard_normal(shape) * 10.0 ** rng.uniform(-exponent, exponent, shape)
            for _ in range(2 if dtype.kind == "c" else 1)
        ]
        values = parts[0] if dtype.kind == "f" else parts[0] + 1j * parts[1]
        return values.astype(dtype)

    return make


@pytest.fixture(scope="session")
def numbered(field_of):
    """Factory of fields whose cells hold their own number, so that a patch tells its start."""

    def make(shape, chunks=None):
        return field_of(np.arange(np.prod(shape), dtype=float).reshape(shape), chunks=chunks)

    return make


@pytest.fixture(scope="session")
def positive(field_of):
    """Factory of fields with values in 1..200, where no sum cancels."""

    def make(shape=(12, 14), dtype="float32", dims=("y", "x"), chunks=None, seed=0, **attrs):
        values = np.random.default_rng(seed).uniform(1, 200, shape)
        values = values > 100 if np.dtype(dtype) == bool else values.astype(dtype)
        return field_of(values, dims, chunks, attrs=attrs)

    return make


class Counting:
    """A model that gives back what it gets, and remembers the first cell of every patch."""

    def __init__(self):
        self.seen = []
        self.batches = []
        self.lock = threading.Lock()

    def __call__(self, batch):
        with self.lock:
            self.batches.append(batch.shape)
            self.seen += batch.reshape(len(batch), -1)[:, 0].tolist() if batch.size else []
        return batch.copy()

    def __dask_tokenize__(self):
        return "counting", id(self)


@pytest.fixture(scope="session")
def counting():
    """The class of models that count; see `Counting`."""
    return Counting


@pytest.fixture
def no_compute():
    """Fail the test if anything asks dask to compute."""

    def refuse(*args, **kwargs):
        raise AssertionError("something computed")

    with dask.config.set(scheduler=refuse):
        yield
