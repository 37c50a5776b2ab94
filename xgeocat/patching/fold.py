"""Fold and finish: the arithmetic of stitching, on plain arrays.

A group of patches is folded into a small partial result for each output block that it reaches;
a block sums up its partials, divides by the weights, and is done. Nothing here knows dask.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np
from numpy.typing import NDArray

from xgeocat.patching.nodata import valid_mask
from xgeocat.patching.reducers import Piece, Reducer, State, reducer, round_half_up
from xgeocat.patching.tiling import (
    Array,
    Box,
    Ints,
    Region,
    Tiling,
    box_between,
    interiors,
    is_product,
)
from xgeocat.patching.windows import Window, weights

#: Up to so many partials a block is finished piece by piece; more are merged into one state.
FEW = 8


@dataclass(frozen=True, slots=True)
class Blend:
    """How overlapping answers of one array become one.

    Parameters
    ----------
    reduce : str
        Name of the reducer.
    window : str or (str, float)
        Blending window.
    crop : tuple of int
        Margin thrown away on each side of every patch, in pixels, per tiled dimension.
    dtype : numpy.dtype
        Dtype of the answers.
    nodata : float or int or None
        Answers of this value do not count (NaN never counts).
    fill : float or int or complex
        Value of cells that no answer reached.
    """

    reduce: str
    window: Window
    crop: tuple[int, ...]
    dtype: np.dtype
    nodata: float | int | None
    fill: complex

    @property
    def precision(self) -> type[np.floating]:
        """What weights are summed in: one precision above the answers."""
        wide = self.dtype.itemsize >= (16 if self.dtype.kind == "c" else 8)
        return np.longdouble if wide and self.dtype.kind in "fc" else np.float64

    @property
    def reducer(self) -> Reducer:
        """The reducer for these answers."""
        return reducer(self.reduce, self.dtype)


@dataclass(frozen=True, slots=True)
class Partial:
    """What one group of patches contributes to one block.

    Parameters
    ----------
    at : tuple of slice
        The box of the block that it reaches.
    state : tuple of numpy.ndarray
        A reducer's state over the box.
    weight : numpy.ndarray or tuple of numpy.ndarray
        Sum of the weights over the box; one vector a dimension where it is their outer product,
        as it is for a full grid of patches without gaps.
    """

    at: Box
    state: State
    weight: NDArray[np.floating] | tuple[NDArray[np.floating], ...]

    def within(self, box: Box) -> tuple[State, NDArray[np.floating]]:
        """State and weight over a part of the box, as views where they can be."""
        part = tuple(
            slice(b.start - a.start, b.stop - a.start) for a, b in zip(self.at, box, strict=True)
        )
        region: Region = (..., *part)
        state = tuple(array[region] for array in self.state)
        if isinstance(self.weight, tuple):
            return state, outer([w[p] for w, p in zip(self.weight, part, strict=True)])
        return state, self.weight[region]


def fold(
    patches: Array,
    starts: Ints,
    block: tuple[Sequence[int], Sequence[int]],
    tiling: Tiling,
    blend: Blend,
) -> Partial:
    """Fold a group of patches into what they contribute to one output block.

    Parameters
    ----------
    patches : numpy.ndarray
        Shape ``(patch, ..., *size)``.
    starts : numpy.ndarray
        Shape ``(patch, dim)``: first cell of each patch in the field.
    block : (sequence of int, sequence of int)
        First and past-the-last cell of the block in the field.
    tiling : Tiling
        The tiling of the whole field.
    blend : Blend
        How answers become one.

    Returns
    -------
    Partial
        Over the smallest box of the block that the patches reach.
    """
    n = len(tiling.dims)
    first, last = interiors(starts, tiling, blend.crop)
    lo, hi = np.maximum(first, block[0]), np.minimum(last, block[1])
    here = np.flatnonzero((lo < hi).all(axis=1))
    rest = patches.shape[1 : patches.ndim - n]
    if not len(here):
        nothing = blend.reducer.init((*rest, *(0,) * n), blend.dtype)
        return Partial((slice(0, 0),) * n, nothing, (np.zeros(0),) * n)
    corner, far = lo[here].min(axis=0), hi[here].max(axis=0)
    box = tuple((far - corner).tolist())
    axes = [weights(blend.window, size).astype(blend.precision) for size in tiling.size]
    window = outer(axes)
    valid = valid_mask(patches, blend.nodata)
    separable = valid is None and is_product(starts[here])
    how = blend.reducer
    state = how.init((*rest, *box), blend.dtype)
    planes = (0,) if separable else (*((1,) * len(rest) if valid is None else rest), *box)
    total = np.zeros(planes, blend.precision)
    ranks = np.ravel_multi_index(tuple(starts.T), tiling.shape)
    for i in here.tolist():
        within: Region = (..., *box_between(lo[i] - starts[i], hi[i] - starts[i]))
        region: Region = (..., *box_between(lo[i] - corner, hi[i] - corner))
        weight = window[within]
        mask = None if valid is None else valid[i][within]
        how.fold(state, region, Piece(patches[i][within], weight, mask, int(ranks[i])))
        if not separable:
            total[region] += weight if mask is None else weight * mask
    at = box_between(corner - block[0], far - block[0])
    if separable:
        return Partial(at, state, _axis_weights(axes, starts[here], lo[here], hi[here]))
    return Partial(at, state, total)


def fold_edges(
    patches: Array,
    starts: Ints,
    blocks: Mapping[tuple[int, ...], tuple[Sequence[int], Sequence[int]]],
    tiling: Tiling,
    blend: Blend,
) -> dict[tuple[int, ...], Partial]:
    """Fold a group of patches into what they contribute to each of several blocks."""
    return {block: fold(patches, starts, bounds, tiling, blend) for block, bounds in blocks.items()}


def outer(vectors: Sequence[NDArray[np.floating]]) -> NDArray[np.floating]:
    """Outer product of one vector a dimension."""
    out = vectors[0]
    for vector in vectors[1:]:
        out = out[..., None] * vector
    return out


def _axis_weights(
    axes: Sequence[NDArray[np.floating]], starts: Ints, lo: Ints, hi: Ints
) -> tuple[NDArray[np.floating], ...]:
    """Weight sums of a full grid of patches, which factor into one vector a dimension."""
    sums = []
    for axis, window in enumerate(axes):
        corner = lo[:, axis].min()
        total = np.zeros(hi[:, axis].max() - corner, window.dtype)
        _, once = np.unique(starts[:, axis], return_index=True)
        for i in once:
            start, a, b = starts[i, axis], lo[i, axis], hi[i, axis]
            total[a - corner : b - corner] += window[a - start : b - start]
        sums.append(total)
    return tuple(sums)


def finish(partials: Sequence[Partial], shape: tuple[int, ...], blend: Blend) -> Array:
    """Make one output block of its partials: merge, divide by the weights, fill what none reached.

    The partials of a regular grid overlap in thin strips only. So the block is finished box by box
    between their edges, and most of it straight from the one partial that reaches it.

    Parameters
    ----------
    partials : sequence of Partial
        In a fixed order, so that sums come out the same every time. They are left as they are.
    shape : tuple of int
        Shape of the block, ``(..., *box)``.
    blend : Blend
        How answers become one.

    Returns
    -------
    numpy.ndarray
        The block, in its final dtype.
    """
    dtype = blend.reducer.dtype(blend.dtype)
    out = np.empty(shape, dtype)
    if not partials:
        out[...] = blend.fill
        return out
    n = len(partials[0].at)
    for box in _boxes(partials, shape[len(shape) - n :]):
        reaching = [p for p in partials if _holds(p.at, box)] if len(partials) <= FEW else partials
        region: Region = (..., *box)
        _finish_box(reaching, box, out[region], blend)
    return out


def _boxes(partials: Sequence[Partial], shape: tuple[int, ...]) -> Iterator[Box]:
    """Boxes between the edges of the partials; each partial holds a box wholly or not at all."""
    if len(partials) > FEW:
        yield tuple(slice(0, n) for n in shape)
        return
    cuts = [
        sorted({0, n, *(e for p in partials for e in (p.at[axis].start, p.at[axis].stop))})
        for axis, n in enumerate(shape)
    ]
    yield from product(*([slice(a, b) for a, b in pairwise(c)] for c in cuts))


def _holds(one: Box, other: Box) -> bool:
    return all(a.start <= b.start and b.stop <= a.stop for a, b in zip(one, other, strict=True))


def _finish_box(partials: Sequence[Partial], box: Box, out: Array, blend: Blend) -> None:
    how = blend.reducer
    if not partials:
        out[...] = blend.fill
        return
    if len(partials) == 1 and _holds(partials[0].at, box):
        state, weight = partials[0].within(box)
    else:
        state, weight = _merged(partials, box, out.shape, blend)
    reached = None if weight.min(initial=1) > 0 else np.broadcast_to(weight > 0, out.shape)
    values = how.finish(state, weight)
    if out.dtype.kind in "iub" and values.dtype.kind == "f":
        values = round_half_up(values if reached is None else np.where(reached, values, 0))
    if reached is None:
        np.copyto(out, values, casting="unsafe")
    else:
        out[...] = blend.fill
        np.copyto(out, values, casting="unsafe", where=reached)


def _merged(
    partials: Sequence[Partial], box: Box, shape: tuple[int, ...], blend: Blend
) -> tuple[State, NDArray[np.floating]]:
    """Merge the parts of some partials over a box into one state."""
    state = blend.reducer.init(shape, blend.dtype)
    weight = np.zeros(shape, blend.precision)
    for partial in partials:
        common = tuple(
            slice(max(a.start, b.start), min(a.stop, b.stop))
            for a, b in zip(partial.at, box, strict=True)
        )
        if any(s.stop <= s.start for s in common):
            continue
        theirs, their_weight = partial.within(common)
        at: Region = (
            ...,
            *(slice(c.start - b.start, c.stop - b.start) for c, b in zip(common, box, strict=True)),
        )
        blend.reducer.merge(state, theirs, at, (weight[at], their_weight))
        weight[at] += their_weight
    return state, weight
