"""Fold: from the answers of patches to one finished block of the field, on plain arrays.

All answers that reach a block meet here, and are folded in one order: by where their patches start,
row-major. So no result depends on how the field is chunked, nor on the order of the patches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from xgeocat.patching.averages import Mean
from xgeocat.patching.nodata import valid_mask
from xgeocat.patching.pieces import (
    Piece,
    Reducer,
    State,
    mean_rows,
    outer,
    round_half_up,
)
from xgeocat.patching.scratch import empty
from xgeocat.patching.tiling import Array, Box, Ints, Region, Tiling, depth, interiors
from xgeocat.patching.windows import Window, weights

#: A block of the field: its first and its past-the-last cell.
Bounds = tuple[tuple[int, ...], tuple[int, ...]]
Weights = NDArray[np.float64]

#: Rows finished at a time, so that what finishing needs stays in cache.
ROWS = 64


@dataclass(frozen=True, slots=True)
class Blend:
    """How overlapping answers of one array become one.

    Parameters
    ----------
    reducer : Reducer
        What is done with the answers that reach a cell.
    window : str or (str, float)
        Blending window.
    crop : tuple of int
        Margin thrown away on each side of every patch, in pixels, per tiled dimension.
    dtype : numpy.dtype
        Dtype of the answers.
    nodata : float or int or None
        Answers of this value do not count (NaN never counts).
    fill : float or int or complex or None
        Value of cells that no answer reached; None where there are none.
    regular : bool
        Whether the patches of the whole field are every combination of some positions a dimension,
        each once: then sums of weights are products of one vector a dimension.
    rest : int
        Number of dimensions that ride along, between the patch dimension and the tiled ones.
    """

    reducer: Reducer
    window: Window
    crop: tuple[int, ...]
    dtype: np.dtype
    nodata: float | int | None
    fill: complex | None
    regular: bool
    rest: int

    @property
    def result(self) -> np.dtype:
        """Dtype of the field."""
        return self.reducer.dtype(self.dtype)


@dataclass(slots=True)
class Part:
    """What one patch answers for in one block.

    Parameters
    ----------
    start : tuple of int
        First cell of the patch in the field.
    number : int
        Number of the patch; decides between patches of one start.
    at : tuple of slice
        The cells of the field that it answers for.
    patch : numpy.ndarray
        Shape ``(..., *size)``: answers, of all of the patch or of this part.
    within : tuple of slice
        Where in them the part is.
    """

    start: tuple[int, ...]
    number: int
    at: Box
    patch: Array
    within: Box

    def alone(self) -> Part:
        """The part without the rest of its patch."""
        inside: Region = (..., *self.within)
        alone = tuple(slice(0, s.stop - s.start) for s in self.within)
        return Part(self.start, self.number, self.at, self.patch[inside].copy(), alone)


def parts(
    answers: Array, starts: Ints, first: int, bounds: Bounds, tiling: Tiling, blend: Blend
) -> list[Part]:
    """Find the parts of a group of patches that reach a block, as views.

    Parameters
    ----------
    answers : numpy.ndarray
        Shape ``(patch, ..., *size)``; tiled dimensions of length one may be missing.
    starts : numpy.ndarray
        Shape ``(patch, dim)``: first cell of each patch in the field.
    first : int
        Number of the first of them.
    bounds : (tuple of int, tuple of int)
        First and past-the-last cell of the block in the field.
    tiling : Tiling
        The tiling of the whole field.
    blend : Blend
        How answers become one.
    """
    lo, hi = interiors(starts, tiling, blend.crop)
    lo, hi = np.maximum(lo, bounds[0]), np.minimum(hi, bounds[1])
    answers = answers.reshape(*answers.shape[: blend.rest + 1], *tiling.size)
    found = []
    here = np.flatnonzero((lo < hi).all(axis=1))
    boxes = (x[here].tolist() for x in (starts, lo, hi))
    for i, start, first_cell, last_cell in zip(here.tolist(), *boxes, strict=True):
        at = tuple(map(slice, first_cell, last_cell))
        within = tuple(
            slice(a - s, b - s) for a, b, s in zip(first_cell, last_cell, start, strict=True)
        )
        found.append(Part(tuple(start), first + i, at, answers[i], within))
    return found


def edges(
    answers: Array,
    starts: Ints,
    first: int,
    blocks: Mapping[tuple[int, ...], Bounds],
    tiling: Tiling,
    blend: Blend,
) -> dict[tuple[int, ...], list[Part]]:
    """Copy what a group of patches contributes to each of several blocks."""
    return {
        block: [part.alone() for part in parts(answers, starts, first, bounds, tiling, blend)]
        for block, bounds in blocks.items()
    }


def fold(
    found: Sequence[Part], bounds: Bounds, rest: tuple[int, ...], tiling: Tiling, blend: Blend
) -> Array:
    """Make one block of the field of all the parts that reach it.

    Parameters
    ----------
    found : sequence of Part
        In any order.
    bounds : (tuple of int, tuple of int)
        First and past-the-last cell of the block in the field.
    rest : tuple of int
        Lengths of the dimensions that ride along.
    tiling : Tiling
        The tiling of the whole field.
    blend : Blend
        How answers become one.

    Returns
    -------
    numpy.ndarray
        Shape ``(..., *block)``, dtype ``blend.result``.
    """
    box = tuple(map(slice, *bounds))
    shape = tuple(s.stop - s.start for s in box)
    out = empty((*blend.reducer.rest(rest), *shape), blend.result)
    ordered = sorted(found, key=lambda part: (part.start, part.number))
    if not ordered or not out.size:
        out[...] = 0 if blend.fill is None else blend.fill
        return out
    windows, totals = _windows(ordered, box, tiling, blend)
    pieces = [
        Piece(part.patch, part.within, _relative(part.at, box), window, None)
        for part, window in zip(ordered, windows, strict=True)
    ]
    covered = blend.regular and all(total.min() > 0 for total in totals)
    simple = covered and type(blend.reducer) is Mean and _all_known(pieces, blend)
    if simple and mean_rows(out, pieces):
        return out
    for piece in pieces:
        piece.valid = valid_mask(piece.values, blend.nodata)
        if blend.reducer.joint and piece.valid is not None:
            # What counts together is known together, or not at all.
            piece.valid = np.broadcast_to(piece.valid.all(axis=0), piece.valid.shape)
    _fold(out, rest, pieces, totals, blend)
    return out


def _all_known(pieces: Sequence[Piece], blend: Blend) -> bool:
    """Tell whether no answer is nodata; NaN shows by itself in what comes out."""
    if blend.nodata is None or np.isnan(blend.nodata):
        return True
    return all(valid_mask(piece.values, blend.nodata) is None for piece in pieces)


def _fold(
    out: Array,
    rest: tuple[int, ...],
    pieces: Sequence[Piece],
    totals: Sequence[Weights],
    blend: Blend,
) -> None:
    """Fold pieces and finish the block into `out`."""
    how = blend.reducer
    shape = out.shape[out.ndim - len(totals) :]
    state = how.init((*rest, *shape), blend.dtype, _depth(pieces, shape))
    arrived = None
    if not blend.regular or any(piece.valid is not None for piece in pieces):
        arrived = _Arrived.nothing(rest, shape, pieces)
    for piece in pieces:
        how.fold(state, piece)
        if arrived is not None:
            arrived.add(piece)
    weight, reached = _reached(totals, arrived, how.relative and blend.regular)
    if reached is not None and reached.ndim > out.ndim:
        reached = np.logical_and.reduce(reached, axis=0)
    _finish(out, state, weight, reached, blend)


def _reached(
    totals: Sequence[Weights], arrived: _Arrived | None, relative: bool
) -> tuple[Weights, NDArray[np.bool_] | None]:
    """Weight at each cell, and which cells any answer reached: None for all of them."""
    if arrived is not None:
        reached = arrived.weight > 0
        weight = arrived.of_one() if relative else arrived.weight
        return weight, None if reached.all() else reached
    weight = np.ones(()) if relative else outer(totals)
    everywhere = all(total.min() > 0 for total in totals)
    return weight, None if everywhere else outer([total > 0 for total in totals])


@dataclass(slots=True)
class _Arrived:
    """Weight that arrived at each cell, where it is not the same product everywhere."""

    weight: Weights
    complete: NDArray[np.bool_]

    @classmethod
    def nothing(
        cls, rest: tuple[int, ...], shape: tuple[int, ...], pieces: Sequence[Piece]
    ) -> Self:
        planes = rest if any(p.valid is not None for p in pieces) else (1,) * len(rest)
        return cls(np.zeros((*planes, *shape)), np.ones((*planes, *shape), bool))

    def add(self, piece: Piece) -> None:
        mask = piece.valid
        if mask is None:
            mask = np.ones(self.weight[piece.region].shape, bool)
        else:
            self.complete[piece.region] &= mask
        piece.add_to(self.weight, mask)

    def of_one(self) -> Weights:
        """Weights that sum to exactly one where no answer is missing."""
        return np.where(self.complete & (self.weight > 0), 1.0, self.weight)


def _relative(at: Box, box: Box) -> Box:
    return tuple(slice(a.start - b.start, a.stop - b.start) for a, b in zip(at, box, strict=True))


def _windows(
    ordered: Sequence[Part], box: Box, tiling: Tiling, blend: Blend
) -> tuple[list[tuple[Weights, ...]], list[Weights]]:
    """Weights of each part, one vector a dimension, and their sums over the block."""
    window = blend.reducer.window or blend.window
    per_axis: list[dict[int, Weights]] = []
    totals = []
    for axis, size in enumerate(tiling.size):
        whole = weights(window, size)
        total = np.zeros(box[axis].stop - box[axis].start)
        once = {part.start[axis]: part.at[axis] for part in ordered}
        own = {}
        for start, at in sorted(once.items()):
            own[start] = whole[at.start - start : at.stop - start]
            total[at.start - box[axis].start : at.stop - box[axis].start] += own[start]
        if blend.reducer.relative and blend.regular:
            for start, at in once.items():
                own[start] = (
                    own[start] / total[at.start - box[axis].start : at.stop - box[axis].start]
                )
        per_axis.append(own)
        totals.append(total)
    found = [
        tuple(own[start] for own, start in zip(per_axis, part.start, strict=True))
        for part in ordered
    ]
    return found, totals


def _depth(pieces: Sequence[Piece], shape: tuple[int, ...]) -> int:
    lo = np.array([[s.start for s in piece.at] for piece in pieces], np.int64)
    hi = np.array([[s.stop for s in piece.at] for piece in pieces], np.int64)
    return depth(lo, hi, shape)


def _finish(
    out: Array,
    state: State,
    weight: Weights,
    reached: NDArray[np.bool_] | None,
    blend: Blend,
) -> None:
    """Finish a block, some rows at a time, so that what is between stays in cache."""
    axis = -1 if len(blend.crop) == 1 else -2
    for row in range(0, out.shape[axis], ROWS):
        rows: Region = (..., slice(row, row + ROWS), *(slice(None),) * (-axis - 1))
        part = out[rows]
        at = None if reached is None else np.broadcast_to(reached, out.shape)[rows]
        values = blend.reducer.finish(
            tuple(array[rows] for array in state), weight if weight.ndim == 0 else weight[rows]
        )
        if out.dtype.kind in "iub" and values.dtype.kind == "f":
            values = round_half_up(values if at is None else np.where(at, values, 0))
        # What the dtype of the answers cannot hold, such as a variance of large ones, is infinite.
        with np.errstate(over="ignore"):
            if at is None:
                np.copyto(part, values, casting="unsafe")
                continue
            # Without a fill, such cells only lie between those that were asked for.
            part[...] = 0 if blend.fill is None else blend.fill
            np.copyto(part, values, casting="unsafe", where=at)
