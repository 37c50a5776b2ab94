"""Fold: from the answers of patches to one finished box of the field, on plain arrays.

All answers that reach a box meet here, and are folded in one order: by where their patches start,
row-major. So no result depends on how the field is chunked, nor on the order of the patches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Self

import numpy as np
from numpy.typing import NDArray

from xgeocat.patching.averages import Mean
from xgeocat.patching.copying import address_of
from xgeocat.patching.nodata import valid_mask
from xgeocat.patching.parts import Bounds, Parts
from xgeocat.patching.pieces import Piece, Reducer, State, outer, round_half_up
from xgeocat.patching.scratch import empty
from xgeocat.patching.tiling import Array, Ints, Region, Tiling, depth
from xgeocat.patching.windows import Shares, Window, shares

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


@dataclass(frozen=True, slots=True)
class Canvas:
    """An array over a box of the field, which is folded into, one smaller box at a time.

    Parameters
    ----------
    values : numpy.ndarray
        Shape ``(..., *box)``, contiguous.
    origin : tuple of int
        First cell of the box in the field.
    """

    values: Array
    origin: tuple[int, ...]

    @classmethod
    def over(cls, bounds: Bounds, rest: tuple[int, ...], blend: Blend) -> Self:
        """An array over a box of the field, for answers with `rest` before the tiled dimensions."""
        shape = tuple(b - a for a, b in zip(*bounds, strict=True))
        return cls(empty((*blend.reducer.rest(rest), *shape), blend.result), bounds[0])

    def region(self, bounds: Bounds) -> Region:
        """Where a box of the field lies in the array."""
        edges = zip(*bounds, self.origin, strict=True)
        return (..., *(slice(a - origin, b - origin) for a, b, origin in edges))


def fold(
    found: Sequence[Parts], bounds: Bounds, canvas: Canvas, tiling: Tiling, blend: Blend
) -> None:
    """Fold all the parts that reach a box of the field, into an array.

    Parameters
    ----------
    found : sequence of Parts
        What patches answer for, in the box and around it, in any order.
    bounds : (tuple of int, tuple of int)
        First and past-the-last cell of the box in the field.
    canvas : Canvas
        The array, of dtype ``blend.result``. Only the cells of the box are touched.
    tiling : Tiling
        The tiling of the whole field.
    blend : Blend
        How answers become one.
    """
    out = canvas.values[canvas.region(bounds)]
    reaching = [parts for parts in (parts.within(bounds) for parts in found) if len(parts)]
    if not reaching or not out.size:
        out[...] = 0 if blend.fill is None else blend.fill
        return
    parts = Parts.joined(reaching).ordered()
    _require_planes(out, parts, blend)
    of_axis = _shares(parts, bounds, tiling, blend)
    covered = blend.regular and all(of.total.min() > 0 for of in of_axis)
    plain = covered and type(blend.reducer) is Mean
    if plain and _all_known(parts, blend) and _mean_rows(canvas, parts, bounds, of_axis):
        return
    _fold(out, _pieces(parts, bounds, of_axis, blend), [of.total for of in of_axis], blend)


def _require_planes(out: Array, parts: Parts, blend: Blend) -> None:
    """Refuse answers with other lengths beside the tiled dimensions than they are said to have."""
    n = len(blend.crop)
    for rest in {answers.shape[:-n] for answers in parts.answers}:
        if blend.reducer.rest(rest) != out.shape[:-n]:
            raise ValueError(
                f"Answers of shape {rest} for each cell were to become {out.shape[:-n]}. Whatever "
                "made the lazy array (map_blocks, a reader) says other chunks than it makes."
            )


def _shares(parts: Parts, bounds: Bounds, tiling: Tiling, blend: Blend) -> list[Shares]:
    """Weights of the parts along each dimension."""
    window = blend.reducer.window or blend.window
    relative = blend.reducer.relative and blend.regular
    found = []
    for axis, size in enumerate(tiling.size):
        once = sorted(
            zip(
                parts.starts[:, axis].tolist(),
                parts.lo[:, axis].tolist(),
                parts.hi[:, axis].tolist(),
                strict=True,
            )
        )
        first, last = bounds[0][axis], bounds[1][axis]
        found.append(shares(window, size, tuple(dict.fromkeys(once)), (first, last), relative))
    return found


def _all_known(parts: Parts, blend: Blend) -> bool:
    """Tell whether no answer is nodata; NaN shows by itself in what comes out."""
    if blend.nodata is None or np.isnan(blend.nodata):
        return True
    return all(valid_mask(values, blend.nodata) is None for values in parts.values())


def _mean_rows(canvas: Canvas, parts: Parts, bounds: Bounds, of_axis: Sequence[Shares]) -> bool:
    """Blend parts into a box without gaps, in one pass; the fast way of the common case.

    Parameters
    ----------
    canvas, parts, bounds
        As for :func:`fold`; the parts in order, none with nodata.
    of_axis : sequence of Shares
        Weights that sum to one at each cell.

    Returns
    -------
    bool
        Whether all is done: not where an answer is NaN, or for what the loop is not made for.
    """
    from xgeocat.patching import kernels

    out = canvas.values.view(np.uint8) if canvas.values.dtype.kind == "b" else canvas.values
    if any(answers.dtype != canvas.values.dtype for answers in parts.answers):
        # A lazy array may hold other numbers than it says. The loop would not notice.
        return False
    strides = np.array([answers.strides for answers in parts.answers])
    contiguous = (strides[:, -1] == out.itemsize).all() and out.flags.c_contiguous
    if (
        len(of_axis) != 2
        or out.dtype.kind not in "iuf"
        or out.dtype == np.float16
        or not contiguous
    ):
        return False
    # The answers stay alive as long as their addresses are in use.
    bases = np.array([address_of(answers) for answers in parts.answers])
    bases += ((parts.lo - parts.origins) * strides[:, -2:]).sum(axis=1)
    origin: Ints = np.asarray(canvas.origin, np.int64)
    boxes = np.stack([parts.lo - origin, parts.hi - origin], axis=2).reshape(-1, 4)
    at: Ints = np.stack([bounds[0] - origin, bounds[1] - origin], axis=1).ravel()
    numbers = np.stack(
        [np.searchsorted(of.starts, parts.starts[:, axis]) for axis, of in enumerate(of_axis)],
        axis=1,
    )
    along_y, along_x = (of.weights for of in of_axis)
    whole = out.dtype.kind in "iu"
    return all(
        kernels.mean_rows(
            out[plane],
            at,
            bases + strides[:, :-2] @ np.array(plane, np.int64),
            strides[:, -2],
            boxes,
            numbers,
            along_y,
            along_x,
            whole,
        )
        for plane in product(*map(range, out.shape[:-2]))
    )


def _pieces(parts: Parts, bounds: Bounds, of_axis: Sequence[Shares], blend: Blend) -> list[Piece]:
    """The parts as reducers get them."""
    columns = zip(
        parts.answers,
        parts.inside(),
        parts.relative(bounds[0]),
        parts.starts.tolist(),
        strict=True,
    )
    pieces = []
    for patch, within, at, start in columns:
        window = tuple(of.of(first) for of, first in zip(of_axis, start, strict=True))
        piece = Piece(patch, within, at, window, None)
        piece.valid = valid_mask(piece.values, blend.nodata)
        if blend.reducer.joint and piece.valid is not None:
            # What counts together is known together, or not at all.
            piece.valid = np.broadcast_to(piece.valid.all(axis=0), piece.valid.shape)
        pieces.append(piece)
    return pieces


def _fold(out: Array, pieces: Sequence[Piece], totals: Sequence[Weights], blend: Blend) -> None:
    """Fold pieces and finish the box into `out`."""
    how = blend.reducer
    shape = out.shape[out.ndim - len(totals) :]
    rest = pieces[0].patch.shape[: -len(totals)]
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
