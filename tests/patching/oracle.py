"""An independent answer for all that the room does: slow, plain, from the design's words."""

from __future__ import annotations

import math
from fractions import Fraction
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
    lo = [0 if s <= 0 else s + c for s, c in zip(start, crop, strict=True)]
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


# --- every reducer, cell by cell ------------------------------------------------------------------


def cells(patches, where, shape, *, window_name="boxcar", crop=None, nodata=None):
    """For each cell, what reached it: ``(weight, distance, value)`` in the order of the starts.

    Distances are those to the patch's centre, squared, in patch sizes, and exact. A value is left
    out where it is NaN or nodata. Returns a dict from ``(*rest, *cell)`` to a list; cells that
    nothing reached are not in it.
    """
    n = len(shape)
    rest, size = patches.shape[1:-n], patches.shape[-n:]
    weights = [window(window_name, k) for k in size]
    found = {}
    for i in sorted(range(len(where)), key=lambda i: (tuple(where[i]), i)):
        for cell in product(*map(range, *box(where[i], size, shape, crop or (0,) * n))):
            at = [c - s for c, s in zip(cell, where[i], strict=True)]
            weight = math.prod(w[j] for w, j in zip(weights, at, strict=True))
            away = sum(Fraction(2 * j + 1 - k, 2 * k) ** 2 for j, k in zip(at, size, strict=True))
            for other in np.ndindex(*rest):
                value = patches[(i, *other, *at)]
                if value == value and (nodata is None or value != nodata):
                    found.setdefault((*other, *cell), []).append((weight, away, value))
    return found


def one_value(reduce, answers):
    """One value for the answers of a cell, as `cells` lists them; exact as far as that is cheap."""
    kind = answers[0][2].dtype.kind
    values = [v.item() for _, _, v in answers]
    if kind in "fc":
        wide = np.clongdouble if kind == "c" else np.longdouble
        weights = [np.longdouble(w) for w, _, _ in answers]
    else:
        wide, weights = Fraction, [Fraction(w) for w, _, _ in answers]
    total = sum(weights)
    mean = sum(w * wide(v) for w, v in zip(weights, values, strict=True)) / total
    spread = sum(w * abs(wide(v) - mean) ** 2 for w, v in zip(weights, values, strict=True)) / total
    if reduce == "vote" or reduce == "dissent":
        votes = {v: sum(w for w, u in zip(weights, values, strict=True) if u == v) for v in values}
        most = float(max(votes.values()))
        if reduce == "dissent":
            return 1 - most / float(total) if len(values) > 1 else np.nan
        return min(v for v, w in votes.items() if float(w) >= most * (1 - 1e-9))
    if reduce == "median":
        low, high = (sorted(values)[i] for i in ((len(values) - 1) // 2, len(values) // 2))
        return (wide(low) + wide(high)) / 2
    if reduce == "deviation":
        return float(spread) ** 0.5 if len(values) > 1 else np.nan
    return {
        "mean": lambda: mean,
        "variance": lambda: spread,
        "sum": lambda: sum(map(wide, values)),
        "coverage": lambda: total,
        "max": lambda: max(values),
        "min": lambda: min(values),
        "first": lambda: values[0],
        "last": lambda: values[-1],
        "centre": lambda: min(answers, key=lambda answer: answer[1])[2].item(),
    }[reduce]()


def reduced(reduce, patches, where, shape, **options):
    """Stitch cell by cell: the values, unrounded, as objects; None where nothing arrived."""
    out = np.full((*patches.shape[1 : -len(shape)], *shape), None, object)
    for cell, answers in cells(patches, where, shape, **options).items():
        out[cell] = one_value(reduce, answers)
    return out


def assert_reduced(got, want, fill, rtol, atol=0.0):
    """Compare a stitched array with `reduced`'s answer; integers are rounded, halves up."""
    got = np.asarray(got)
    assert got.shape == want.shape
    for cell in np.ndindex(*got.shape):
        mine, exact = got[cell], want[cell]
        if exact is None or exact != exact:
            empty = fill if exact is None else np.nan
            assert mine == empty or (np.isnan(mine) and np.isnan(empty)), (cell, mine, exact)
        elif got.dtype.kind in "iub" and isinstance(exact, Fraction):
            # What is within 2**-21 below a half is a half, whatever the last bit of a weight.
            half = Fraction(1, 2) + Fraction(1, 2**21)
            near = {math.floor(exact + half + e) for e in (Fraction(-1, 2**40), Fraction(1, 2**40))}
            assert int(mine) in near, (cell, mine, float(exact))
        elif got.dtype.kind in "iub":
            assert mine == exact, (cell, mine, exact)
        elif np.isinf(got.dtype.type(exact)):
            assert mine == got.dtype.type(exact), (cell, mine, exact)
        else:
            off = abs(np.clongdouble(mine) - np.clongdouble(complex(exact)))
            assert off <= rtol * abs(complex(exact)) + atol, (cell, mine, exact)


# --- comparing ------------------------------------------------------------------------------------


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
