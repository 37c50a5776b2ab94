"""An independent answer for all that the room does: slow, plain, from the design's words."""

from __future__ import annotations

import math
from itertools import product

import numpy as np


def starts(length, size, stride, boundary):
    """Patch starts along one dimension; None where the boundary refuses."""
    found = list(range(0, length - size + 1, stride))
    end = found[-1] + size if found else 0
    if length == 0 or end == length or boundary == "drop":
        return found
    if boundary == "raise":
        return None
    if boundary == "shift":
        return [*found, max(0, length - size)]
    following = found[-1] + stride if found else 0
    return [*found, following] if following < length else found


def grid(shape, size, stride, boundary):
    """Starts of all patches of a field, as a set of tuples."""
    axes = [starts(*axis, boundary) for axis in zip(shape, size, stride, strict=True)]
    return set(product(*axes))


def window(name, size):
    """Blending weights along one dimension, sampled at pixel centres."""
    kind, parameter = (name, None) if isinstance(name, str) else name
    out = []
    for i in range(size):
        at = (i + 0.5) / size
        if kind == "boxcar":
            w = 1.0
        elif kind == "hann":
            w = 0.5 - 0.5 * math.cos(2 * math.pi * at)
        elif kind == "tukey":
            taper = 0.5 if parameter is None else parameter
            edge = min(at, 1 - at)
            w = 1.0 if edge >= taper / 2 else 0.5 - 0.5 * math.cos(2 * math.pi * edge / taper)
        else:
            sigma = 1 / 6 if parameter is None else parameter
            w = math.exp(-(((at - 0.5) / sigma) ** 2) / 2)
        out.append(w)
    return np.array(out)


def box(start, size, shape, crop):
    """Cells a patch answers for: its own, less the crop, which is kept on the field's edge."""
    lo = [0 if s == 0 else s + c for s, c in zip(start, crop, strict=True)]
    hi = [
        n if s + k >= n else s + k - c for s, k, n, c in zip(start, size, shape, crop, strict=True)
    ]
    return lo, hi


def stitch(patches, where, shape, *, window_name="boxcar", reduce="mean", crop=(0, 0), nodata=None):
    """Stitch by laying every patch out over the whole field, then reducing over the layers.

    Returns the values (means unrounded, in the widest float there is) and the mask of the cells
    that any valid answer reached.
    """
    n = len(shape)
    rest, size = patches.shape[1:-n], patches.shape[-n:]
    layers = np.zeros((len(patches), *rest, *shape), patches.dtype)
    weight = np.zeros(layers.shape, np.longdouble)
    kernel = window(window_name, size[0])
    for edge in size[1:]:
        kernel = np.multiply.outer(kernel, window(window_name, edge))
    for layer, answer, start in zip(range(len(patches)), patches, where, strict=True):
        lo, hi = box(start, size, shape, crop)
        target = (layer, ..., *map(slice, lo, hi))
        inner = tuple(slice(a - s, b - s) for a, b, s in zip(lo, hi, start, strict=True))
        layers[target] = answer[(..., *inner)]
        weight[target] = kernel[inner]
    valid = weight > 0
    if patches.dtype.kind in "fc":
        valid &= ~np.isnan(layers)
    if nodata is not None:
        valid &= layers != nodata
    return _reduce(layers, weight, valid, where, reduce), valid.any(axis=0)


def _reduce(layers, weight, valid, where, reduce):
    if not len(where):
        return np.zeros(layers.shape[1:], layers.dtype)
    if reduce == "first":
        order = sorted(range(len(where)), key=lambda i: tuple(where[i]))
        first = valid[order].argmax(axis=0)
        return np.take_along_axis(layers[order], first[None], axis=0)[0]
    if reduce in ("max", "min"):
        wide = layers.astype(object)
        wide[~valid] = None
        pick = max if reduce == "max" else min
        flat = wide.reshape(len(wide), -1).T
        best = [pick((v for v in cell if v is not None), default=0) for cell in flat]
        return np.array(best, dtype=layers.dtype).reshape(layers.shape[1:])
    kind = layers.dtype.kind
    if reduce == "sum":
        wide = {"u": np.uint64, "f": np.longdouble, "c": np.clongdouble}.get(kind, np.int64)
        return np.where(valid, layers, 0).astype(wide).sum(axis=0)
    wide = layers.astype(np.clongdouble if kind == "c" else np.longdouble)
    weight = np.where(valid, weight, 0)
    total = (np.where(valid, wide, 0) * weight).sum(axis=0)
    return total / np.where(weight.sum(axis=0) > 0, weight.sum(axis=0), 1)


def assert_close(got, want, ulps=2):
    """Compare arrays: the same NaNs and infinities, and all else within so many ulp."""
    got, want = np.asarray(got), np.asarray(want)
    assert got.shape == want.shape
    if got.dtype.kind not in "fc":
        np.testing.assert_array_equal(got, want)
        return
    if got.dtype.kind == "c":
        assert_close(got.real, want.real, ulps)
        assert_close(got.imag, want.imag, ulps)
        return
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
    finite = np.isfinite(got) & np.isfinite(want)
    known = ~np.isnan(got)
    np.testing.assert_array_equal(got[known & ~finite], want[known & ~finite])
    a, b = got[finite], want[finite].astype(got.dtype)
    step = np.spacing(np.maximum(np.abs(a), np.abs(b)))
    off = np.abs(a.astype(np.longdouble) - b) / step
    assert not off.size or off.max() <= ulps, f"{off.max()} ulp apart at {off.argmax()}"


def assert_answer(got, want, reached, fill, ulps=2):
    """Compare a stitched array with `stitch`'s answer; integer means may round either way."""
    got = np.asarray(got)
    empty = got[~reached]
    filled = np.isnan(empty) if np.isnan(fill) else empty == fill
    assert filled.all(), f"cells that no answer reached hold {empty[~filled][:5]}, not {fill}"
    if got.dtype.kind in "iub" and want.dtype.kind == "f":
        off = np.abs(got[reached].astype(np.longdouble) - want[reached])
        assert not off.size or off.max() <= 0.5 + 1e-9
        return
    with np.errstate(over="ignore"):
        assert_close(got[reached], want[reached].astype(got.dtype), ulps)


def assert_same_field(got, want, ulps=0):
    """The same field in every respect: values, dtype, dims, name, coords, attrs and CRS."""
    assert got.dims == want.dims
    assert got.dtype == want.dtype
    assert got.name == want.name
    assert got.attrs == want.attrs
    assert set(got.coords) == set(want.coords)
    for name in want.coords:
        assert got.coords[name].identical(want.coords[name]), name
    assert set(got.xindexes) == set(want.xindexes)
    assert_close(got.values, want.values, ulps)
