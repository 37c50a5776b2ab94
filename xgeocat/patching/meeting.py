"""Meeting: which chunks of patches reach which blocks of a field, and where they meet there.

Pure integers, numpy only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from typing import TypeAlias

import numpy as np

from xgeocat.patching.parts import Bounds
from xgeocat.patching.tiling import Ints, Tiling, interiors

#: Number of a block along each dimension.
Block: TypeAlias = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Duties:
    """What a chunk of patches has to do with the blocks of the field.

    Parameters
    ----------
    home : (tuple of int, tuple of int)
        First and past-the-last cell of the block that it is at home in.
    clear : (tuple of int, tuple of int) or None
        Box of that block that no other chunk reaches.
    shared : mapping of tuple of int to sequence of (tuple of int, tuple of int)
        For each block that it reaches, the boxes in which its answers may meet those of others.
    """

    home: Bounds
    clear: Bounds | None
    shared: Mapping[Block, Sequence[Bounds]]


@dataclass(frozen=True, slots=True)
class Met:
    """A block of the field, and the chunks of patches that meet in it.

    Parameters
    ----------
    bounds : (tuple of int, tuple of int)
        First and past-the-last cell of the block.
    chunks : sequence of int
        Chunks of patches that reach it.
    home : int or None
        The one that is at home in it; None where none is, or several are.
    clear : (tuple of int, tuple of int) or None
        Box of it that no other chunk reaches.
    shared : sequence of (tuple of int, tuple of int)
        Boxes that make up the rest.
    """

    bounds: Bounds
    chunks: Sequence[int]
    home: int | None
    clear: Bounds | None
    shared: Sequence[Bounds]


@dataclass(frozen=True, slots=True)
class Meetings:
    """Chunks of patches, and the blocks of a field.

    Parameters
    ----------
    chunks : mapping of int to (int, int)
        First and past-the-last patch of each chunk that reaches any block.
    reached : mapping of int to sequence of tuple of int
        The blocks that it reaches, row-major; it is at home in the first.
    blocks : mapping of tuple of int to Met
        All blocks.
    """

    chunks: Mapping[int, tuple[int, int]]
    reached: Mapping[int, Sequence[Block]]
    blocks: Mapping[Block, Met]

    def duties(self, chunk: int) -> Duties:
        """What a chunk of patches has to do."""
        reached = [(block, self.blocks[block]) for block in self.reached[chunk]]
        home = reached[0][1]
        return Duties(
            home.bounds,
            home.clear if home.home == chunk else None,
            {block: met.shared for block, met in reached if met.shared},
        )


def meet(
    starts: Ints,
    tiling: Tiling,
    crop: Sequence[int],
    chunk_edges: Ints,
    block_edges: Sequence[Ints],
) -> Meetings:
    """Find out which chunks of patches reach which blocks.

    Parameters
    ----------
    starts : numpy.ndarray
        Shape ``(patch, dim)``: first cell of each patch in the field.
    tiling : Tiling
        The tiling of the field.
    crop : sequence of int
        Margin thrown away on each side of every patch.
    chunk_edges : numpy.ndarray
        First patch of each chunk, and the past-the-last of the last one.
    block_edges : sequence of numpy.ndarray
        For each dimension, first cell of each block, and the past-the-last of the last one.
    """
    lo, hi = interiors(starts, tiling, crop)
    chunks: dict[int, tuple[int, int]] = {}
    reached: dict[int, list[Block]] = {}
    arriving: dict[Block, dict[int, Bounds]] = {}
    for chunk, (a, b) in enumerate(pairwise(chunk_edges.tolist())):
        met = _reach(lo[a:b], hi[a:b], block_edges)
        if met:
            chunks[chunk], reached[chunk] = (a, b), list(met)
        for block, extent in met.items():
            arriving.setdefault(block, {})[chunk] = extent
    blocks = {
        block: _met(block, block_edges, arriving.get(block, {}), reached)
        for block in product(*(range(len(e) - 1) for e in block_edges))
    }
    return Meetings(chunks, reached, blocks)


def _reach(lo: Ints, hi: Ints, block_edges: Sequence[Ints]) -> dict[Block, Bounds]:
    """Blocks that some patches reach, row-major, and the extent of what they reach there."""
    if not len(lo):
        return {}
    per_axis = [
        range(
            max(int(np.searchsorted(e, lo[:, axis].min(), side="right")) - 1, 0),
            min(int(np.searchsorted(e, hi[:, axis].max(), side="left")), len(e) - 1),
        )
        for axis, e in enumerate(block_edges)
    ]
    found = {}
    for block in product(*per_axis):
        first, last = _bounds(block, block_edges)
        low, high = np.maximum(lo, first), np.minimum(hi, last)
        here = (low < high).all(axis=1)
        if here.any():
            extent = low[here].min(axis=0), high[here].max(axis=0)
            found[block] = (tuple(extent[0].tolist()), tuple(extent[1].tolist()))
    return found


def _met(
    block: Block,
    block_edges: Sequence[Ints],
    arriving: Mapping[int, Bounds],
    reached: Mapping[int, Sequence[Block]],
) -> Met:
    bounds = _bounds(block, block_edges)
    at_home = [chunk for chunk in arriving if reached[chunk][0] == block]
    if len(at_home) != 1:
        return Met(bounds, list(arriving), None, None, [bounds])
    home = at_home[0]
    others = [extent for chunk, extent in arriving.items() if chunk != home]
    clear = clear_of(bounds, others)
    return Met(bounds, list(arriving), home, clear, around(bounds, clear))


def _bounds(block: Block, edges: Sequence[Ints]) -> Bounds:
    first = tuple(int(e[i]) for e, i in zip(edges, block, strict=True))
    last = tuple(int(e[i + 1]) for e, i in zip(edges, block, strict=True))
    return first, last


def clear_of(bounds: Bounds, others: Sequence[Bounds]) -> Bounds | None:
    """Box within a box that no others reach: as much as can be had by cutting off sides."""
    lo, hi = list(bounds[0]), list(bounds[1])
    for first, last in others:
        if any(a >= d or b <= c for a, b, c, d in zip(lo, hi, first, last, strict=True)):
            continue
        lengths = [b - a for a, b in zip(lo, hi, strict=True)]
        # What would be left along each dimension, as a share: behind the other box, or before it.
        shares = [
            (max(kept, 0) / lengths[axis], axis, behind)
            for axis in range(len(lo))
            for behind, kept in ((True, hi[axis] - last[axis]), (False, first[axis] - lo[axis]))
        ]
        most, axis, behind = max(shares)
        if not most:
            return None
        if behind:
            lo[axis] = last[axis]
        else:
            hi[axis] = first[axis]
    return tuple(lo), tuple(hi)


def around(bounds: Bounds, clear: Bounds | None) -> list[Bounds]:
    """Boxes that make up a box without another one within it."""
    if clear is None:
        return [bounds]
    found = []
    lo, hi = list(bounds[0]), list(bounds[1])
    for axis, (first, last) in enumerate(zip(*clear, strict=True)):
        if lo[axis] < first:
            found.append((tuple(lo), (*hi[:axis], first, *hi[axis + 1 :])))
        if last < hi[axis]:
            found.append(((*lo[:axis], last, *lo[axis + 1 :]), tuple(hi)))
        lo[axis], hi[axis] = first, last
    return found
