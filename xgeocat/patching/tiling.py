"""Plan a tiling: where patches start, and which blocks they are cut and folded in.

Pure integers, numpy only: everything here can be tested without an array of pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from types import EllipsisType
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

Boundary: TypeAlias = Literal["shift", "pad", "drop", "raise"]
#: An array of any dtype.
Array: TypeAlias = NDArray[Any]
Ints: TypeAlias = NDArray[np.int64]
#: A box of the tiled dimensions.
Box: TypeAlias = tuple[slice, ...]
#: The same box as an index of an array with other dimensions before: ``(..., *box)``.
Region: TypeAlias = tuple[slice | EllipsisType, ...]

#: Blocks longer than twice this are split, so that memory does not follow the source's chunking.
TARGET_BLOCK = 2048


@dataclass(frozen=True, slots=True)
class Tiling:
    """A regular tiling of a grid: one entry per tiled dimension, all lengths in pixels.

    Parameters
    ----------
    dims : tuple of str
        Names of the tiled dimensions, in the order of the parent field.
    shape : tuple of int
        Lengths of the parent field along `dims`.
    size : tuple of int
        Edge of a patch along each of `dims`.
    stride : tuple of int
        Step between patch starts along each of `dims`.
    boundary : {"shift", "pad", "drop", "raise"}
        What happens where the field is not a whole number of strides.
    blocks : tuple of tuple of int
        Lengths of the blocks, along each of `dims`, in which patches are cut and outputs written.
    """

    dims: tuple[str, ...]
    shape: tuple[int, ...]
    size: tuple[int, ...]
    stride: tuple[int, ...]
    boundary: Boundary
    blocks: tuple[tuple[int, ...], ...]

    def starts(self) -> Ints:
        """First cell of every patch, block by block: shape ``(patch, dim)``."""
        per_axis = [
            axis_starts(length, size, stride, self.boundary, dim)
            for dim, length, size, stride in zip(
                self.dims, self.shape, self.size, self.stride, strict=True
            )
        ]
        grid = np.meshgrid(*per_axis, indexing="ij")
        starts = np.stack([g.ravel() for g in grid], axis=-1)
        return starts[np.argsort(self.block_of(starts), kind="stable")]

    def block_of(self, starts: Ints) -> Ints:
        """Row-major number of the block in which each start lies: shape ``(patch,)``."""
        owners = [
            np.maximum(np.searchsorted(edges, starts[:, axis], side="right") - 1, 0)
            for axis, edges in enumerate(self.edges())
        ]
        counts = tuple(len(b) for b in self.blocks)
        return np.ravel_multi_index(owners, counts).astype(np.int64)

    def edges(self) -> list[Ints]:
        """Start of every block along each dimension."""
        return [np.concatenate([[0], np.cumsum(b)[:-1]]).astype(np.int64) for b in self.blocks]

    def window(self, lo: Sequence[int], hi: Sequence[int]) -> Tiling:
        """Return the tiling of the cells ``lo`` (included) to ``hi`` (not included)."""
        blocks = tuple(
            tuple(int(n) for n in np.diff(np.unique(np.clip([0, *np.cumsum(b)], first, last))))
            for b, first, last in zip(self.blocks, lo, hi, strict=True)
        )
        shape = tuple(last - first for first, last in zip(lo, hi, strict=True))
        return Tiling(self.dims, shape, self.size, self.stride, self.boundary, blocks)


def plan(
    sizes: Mapping[str, int],
    chunks: Mapping[str, tuple[int, ...]],
    size: Mapping[str, int],
    stride: Mapping[str, int],
    boundary: Boundary,
) -> Tiling:
    """Plan the tiling of a field.

    Parameters
    ----------
    sizes : mapping of str to int
        Length of each dimension of the field.
    chunks : mapping of str to tuple of int
        Chunk lengths of the field's data; dimensions that are missing are in one piece.
    size, stride : mapping of str to int
        Patch edge and step for each tiled dimension, in pixels.
    boundary : {"shift", "pad", "drop", "raise"}
        See :class:`Tiling`.

    Raises
    ------
    ValueError
        For an unknown boundary, a size or stride below one, or a field that does not fit under
        ``boundary="raise"``.
    """
    if boundary not in get_args(Boundary):
        raise ValueError(f"boundary={boundary!r} is unknown; use one of {get_args(Boundary)}.")
    dims = tuple(d for d in sizes if d in size)
    for dim in dims:
        if size[dim] < 1 or stride[dim] < 1:
            raise ValueError(
                f"Along {dim!r} size={size[dim]} and stride={stride[dim]}: both must be at least "
                "1 pixel, so the overlap must be smaller than the size. Lower the overlap."
            )
    tiling = Tiling(
        dims=dims,
        shape=tuple(sizes[d] for d in dims),
        size=tuple(size[d] for d in dims),
        stride=tuple(stride[d] for d in dims),
        boundary=boundary,
        blocks=tuple(axis_blocks(chunks.get(d, (sizes[d],)), size[d]) for d in dims),
    )
    for dim, length, edge, step in zip(dims, tiling.shape, tiling.size, tiling.stride, strict=True):
        axis_starts(length, edge, step, boundary, dim)
    return tiling


def axis_starts(length: int, size: int, stride: int, boundary: Boundary, dim: str) -> Ints:
    """First cell of every patch along one dimension, ascending."""
    full = np.arange(0, length - size + 1, stride, dtype=np.int64)
    rest = length - size if length < size else (length - size) % stride
    if rest == 0 or boundary == "drop" or length == 0:
        return full
    if boundary == "raise":
        fits = size + stride * max(0, (length - size) // stride)
        raise ValueError(
            f"Along {dim!r} the field has {length} pixels, which patches of {size} with stride "
            f"{stride} do not fill exactly (they would fill {fits}). Use boundary='shift' (the "
            "last patch moves in), 'pad' or 'drop', or another size."
        )
    if length < size:
        # Nothing to shift into: a field smaller than a patch is padded under "shift" too.
        return np.zeros(1, dtype=np.int64)
    last = length - size if boundary == "shift" else int(full[-1]) + stride
    return full if last >= length else np.append(full, last)


def settle(starts: Ints, tiling: Tiling, boundary: Boundary) -> Ints:
    """Do as `boundary` says with patches that lie partly outside the field.

    Raises
    ------
    ValueError
        For a patch that lies outside altogether, unless they are dropped; and for any that is not
        wholly inside under ``boundary="raise"``.
    """
    shape, size = np.asarray(tiling.shape), np.asarray(tiling.size)
    inside = ((starts >= 0) & (starts + size <= shape)).all(axis=1)
    if boundary == "drop":
        return starts[inside]
    outside = ((starts + size <= 0) | (starts >= shape)).any(axis=1)
    wrong = ~inside if boundary == "raise" else outside
    if wrong.any():
        how = "not wholly inside" if boundary == "raise" else "outside"
        raise ValueError(
            f"{wrong.sum()} of {len(starts)} patches lie {how} the field of {tiling.shape} px, the "
            f"first at {tuple(starts[wrong][0].tolist())}. Leave them out, or say boundary='drop'."
        )
    return starts if boundary == "pad" else np.clip(starts, 0, np.maximum(shape - size, 0))


def axis_blocks(chunks: tuple[int, ...], size: int) -> tuple[int, ...]:
    """Block lengths along one dimension: source chunks, merged up to a patch and split when huge.

    A block is at least as long as a patch (the last one apart), so that a patch meets two blocks
    a dimension at most.
    """
    target = max(TARGET_BLOCK, size)
    blocks: list[int] = []
    pending = 0
    for chunk in chunks:
        pending += chunk
        while pending >= 2 * target:
            blocks.append(target)
            pending -= target
        if pending >= size:
            blocks.append(pending)
            pending = 0
    if pending or not blocks:
        blocks.append(pending)
    return tuple(blocks)


def interiors(starts: Ints, tiling: Tiling, crop: Sequence[int]) -> tuple[Ints, Ints]:
    """First and past-the-last cell that each patch answers for, after `crop`, inside the field.

    On the field's own edge the margin is kept: no other patch could answer there.
    """
    shape = np.asarray(tiling.shape)
    size = np.asarray(tiling.size)
    margin = np.asarray(crop)
    stop = starts + size
    lo = np.where(starts <= 0, 0, starts + margin)
    hi = np.where(stop >= shape, shape, stop - margin)
    return lo.astype(np.int64), hi.astype(np.int64)


def box_between(lo: Ints, hi: Ints) -> Box:
    """Box of the cells ``lo`` (included) to ``hi`` (not included)."""
    return tuple(map(slice, lo.tolist(), hi.tolist()))


def distinct(starts: Ints, shape: Sequence[int]) -> int:
    """Number of different starts; far faster than comparing rows."""
    if not len(starts):
        return 0
    lengths = np.maximum(starts.max(axis=0), shape) - np.minimum(starts.min(axis=0), 0) + 1
    moved = starts - np.minimum(starts.min(axis=0), 0)
    return len(np.unique(np.ravel_multi_index(tuple(moved.T), tuple(lengths.tolist()))))


def is_product(starts: Ints, shape: Sequence[int]) -> bool:
    """Tell whether the starts are every combination of some positions a dimension, each once."""
    per_axis = [len(np.unique(starts[:, axis])) for axis in range(starts.shape[1])]
    # Both counts must agree: duplicates would hide a missing combination.
    return int(np.prod(per_axis)) == len(starts) == distinct(starts, shape)


def covers(lo: Ints, hi: Ints, shape: Sequence[int]) -> bool:
    """Tell whether the boxes ``lo..hi`` (shape ``(patch, dim)``) reach every cell of a grid."""
    return 0 in shape or bool(_counts(lo, hi, shape).all())


def depth(lo: Ints, hi: Ints, shape: Sequence[int]) -> int:
    """Return the largest number of boxes ``lo..hi`` that meet at a cell of a grid."""
    return int(_counts(lo, hi, shape).max(initial=0))


def _counts(lo: Ints, hi: Ints, shape: Sequence[int]) -> Ints:
    """Number of boxes at each cell, on coordinates compressed to the edges of the boxes."""
    cuts = [
        np.unique(np.concatenate([[0, n], lo[:, axis], hi[:, axis]]))
        for axis, n in enumerate(shape)
    ]
    # Each box is one more from each of its first corners on, and one less behind its last.
    counts = np.zeros([len(c) for c in cuts], np.int64)
    edges = [
        (np.searchsorted(c, lo[:, a]), np.searchsorted(c, hi[:, a])) for a, c in enumerate(cuts)
    ]
    for corner in product((0, 1), repeat=len(cuts)):
        at = tuple(edges[axis][side] for axis, side in enumerate(corner))
        np.add.at(counts, at, (-1) ** sum(corner))
    for axis in range(counts.ndim):
        np.cumsum(counts, axis=axis, out=counts)
    return counts[(slice(-1),) * counts.ndim]
