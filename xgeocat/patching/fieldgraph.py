"""Task graphs of fields: the answers of patches go to the blocks that they reach.

Three tasks a block: the model's (:mod:`xgeocat.patching.graph`), one that copies the edges for
neighbours, and one that folds all that reaches the block.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from typing import TypeAlias

import dask.array as da
import numpy as np
from dask._task_spec import List, Task, TaskRef
from dask.base import tokenize
from dask.typing import Key

from xgeocat.patching.explain import Facts
from xgeocat.patching.fold import Blend, Bounds, Part, edges, fold, parts
from xgeocat.patching.graph import Block, Tasks, edges_of, graph_of
from xgeocat.patching.selectable import Selectable, Selection, outer_getitem
from xgeocat.patching.tiling import Array, Ints, Tiling, interiors

#: Starts of a chunk of patches, the number of the first, and the blocks that they reach.
Reach: TypeAlias = tuple[Ints, int, list[Block]]


def stitch(patches: da.Array, starts: Ints, tiling: Tiling, blend: Blend) -> da.Array:
    """Stitch lazy answers ``(patch, ..., *size)`` into a lazy field ``(..., *shape)``.

    Parameters
    ----------
    patches : dask.array.Array
        Dimensions of length one may be missing among the tiled ones.
    starts : numpy.ndarray
        Shape ``(patch, dim)``: first cell of each patch in the field.
    tiling, blend
        The plan, and how answers become one.
    """
    rest = blend.rest
    whole = dict.fromkeys(range(rest + 1, patches.ndim), -1)
    if blend.reducer.joint and rest:
        whole[1] = -1
    patches = patches.rechunk(whole) if any(patches.numblocks[i] > 1 for i in whole) else patches
    lengths = patches.shape[1 : rest + 1]
    if 0 in tiling.shape:
        return da.zeros((*blend.reducer.rest(lengths), *tiling.shape), dtype=blend.result)
    lo = (0,) * len(tiling.shape)
    field = _stitch_box(patches, starts, tiling, blend, (lo, tiling.shape))

    def select(selection: Selection) -> da.Array:
        return _stitch_cells(patches, starts, tiling, blend, selection)

    return Selectable.wrap(field, select)


def _stitch_cells(
    patches: da.Array, starts: Ints, tiling: Tiling, blend: Blend, selection: Selection
) -> da.Array:
    """Stitch some cells of the field, with the patches that reach them and no others."""
    n = len(tiling.dims)
    others, tiled = selection[: len(selection) - n], selection[len(selection) - n :]
    cells = [np.arange(length)[entry] for length, entry in zip(tiling.shape, tiled, strict=True)]
    if not all(np.size(c) for c in cells):
        shape = (*blend.reducer.rest(patches.shape[1 : blend.rest + 1]), *tiling.shape)
        return outer_getitem(da.empty(shape, dtype=blend.result), selection)
    needed = _needed(starts, tiling, blend, cells)
    if len(needed) < len(starts):
        patches, starts = patches[needed], starts[needed]
    lo = tuple(int(np.min(c)) for c in cells)
    hi = tuple(int(np.max(c)) + 1 for c in cells)
    box = _stitch_box(patches, starts, tiling, blend, (lo, hi))
    within: list[int | slice | Ints] = []
    for wanted, first, last in zip(cells, lo, hi, strict=True):
        if np.ndim(wanted) == 0:
            within.append(0)
        else:
            whole = np.array_equal(wanted, np.arange(first, last))
            within.append(slice(None) if whole else wanted - first)
    return outer_getitem(box, (*others, *within))


def _needed(starts: Ints, tiling: Tiling, blend: Blend, cells: Sequence[Ints]) -> Ints:
    """Numbers of the patches that reach any of the cells."""
    first, last = interiors(starts, tiling, blend.crop)
    reached = np.ones(len(starts), bool)
    for axis, wanted in enumerate(cells):
        ordered = np.sort(np.atleast_1d(wanted))
        reached &= np.searchsorted(ordered, first[:, axis]) < np.searchsorted(
            ordered, last[:, axis]
        )
    return np.flatnonzero(reached)


def _stitch_box(
    patches: da.Array, starts: Ints, tiling: Tiling, blend: Blend, cells: Bounds
) -> da.Array:
    """Stitch a box of cells of the field."""
    rest = blend.rest
    rest_chunks = patches.chunks[1 : rest + 1]
    tiles = tiling.window(*cells)
    block_edges = [edges_of(b) + a for b, a in zip(tiles.blocks, cells[0], strict=True)]
    token = tokenize(patches.name, starts, tiling, blend, cells)
    reach = _reach(starts, tiling, blend, edges_of(patches.chunks[0]), block_edges)
    tasks: Tasks = {}
    for chunk in product(*(range(len(c)) for c in rest_chunks)):
        lengths = tuple(c[i] for c, i in zip(rest_chunks, chunk, strict=True))
        tail = (*chunk, *(0,) * (patches.ndim - rest - 1))
        answers = {c: TaskRef((patches.name, c, *tail)) for c in reach}
        plan = _Plan(token, chunk, lengths, block_edges, tiling, blend)
        tasks |= _stitch_tasks(plan, answers, reach)
    kept = len(blend.reducer.rest((1,) * rest))
    chunks = (*rest_chunks[rest - kept :], *tiles.blocks)
    name = f"stitch-{token}"
    lengths = patches.shape[1 : rest + 1]
    graph = graph_of(name, tasks, [patches], _stitch_facts(patches, tiles, tiling, blend, lengths))
    return da.Array(graph, name, chunks, dtype=blend.result)


def _stitch_facts(
    patches: da.Array, tiles: Tiling, tiling: Tiling, blend: Blend, lengths: tuple[int, ...]
) -> Facts:
    """What stitching takes: a block with its sums at work, a row of edges waiting."""
    planes = math.prod(lengths)
    block = planes * math.prod(max(b, default=0) for b in tiles.blocks)
    overlaps = math.prod(
        -(-size // stride) for size, stride in zip(tiling.size, tiling.stride, strict=True)
    )
    row = planes * math.prod(tiles.shape[1:]) * tiling.size[0]
    return Facts(
        working=block * (8 + blend.result.itemsize),
        waiting=row * overlaps * patches.dtype.itemsize // 2,
    )


@dataclass(frozen=True)
class _Plan:
    """What the tasks of one chunk of the dims that ride along have in common."""

    token: str
    chunk: Block
    lengths: tuple[int, ...]
    block_edges: Sequence[Ints]
    tiling: Tiling
    blend: Blend


def _stitch_tasks(plan: _Plan, answers: dict[int, TaskRef], reach: dict[int, Reach]) -> Tasks:
    """Tasks of one chunk of the dims that ride along.

    A chunk of patches is at home in the first block that it reaches. There it is folded where it
    is; what it gives to other blocks is copied in one task of its own, which the home waits for as
    well. So a chunk of answers is dropped as soon as its home is done, and only thin edges wait in
    memory for the next row of blocks.
    """
    tasks: Tasks = {}
    at_home: dict[Block, list[int]] = {}
    visitors: dict[Block, list[TaskRef]] = {}
    for chunk, (group, first, blocks) in reach.items():
        home, *others = blocks
        at_home.setdefault(home, []).append(chunk)
        if others:
            key: Key = (f"edges-{plan.token}", chunk, *plan.chunk)
            bounds = {block: _bounds(block, plan.block_edges) for block in others}
            tasks[key] = Task(
                key, edges, answers[chunk], group, first, bounds, plan.tiling, plan.blend
            )
            for block in blocks:
                visitors.setdefault(block, []).append(TaskRef(key))
    kept = len(plan.blend.reducer.rest((1,) * len(plan.chunk)))
    for block in product(*(range(len(e) - 1) for e in plan.block_edges)):
        own = at_home.get(block, [])
        key = (f"stitch-{plan.token}", *plan.chunk[len(plan.chunk) - kept :], *block)
        tasks[key] = Task(
            key,
            _stitch_block,
            List(*(answers[chunk] for chunk in own)),
            [reach[chunk][:2] for chunk in own],
            List(*visitors.get(block, [])),
            block,
            _bounds(block, plan.block_edges),
            plan.lengths,
            plan.tiling,
            plan.blend,
        )
    return tasks


def _stitch_block(
    answers: Sequence[Array],
    starts: Sequence[tuple[Ints, int]],
    visitors: Sequence[Mapping[Block, list[Part]]],
    block: Block,
    bounds: Bounds,
    rest: tuple[int, ...],
    tiling: Tiling,
    blend: Blend,
) -> Array:
    """Make one output block of the patches at home in it and the edges of others."""
    found = [part for edges_of in visitors for part in edges_of.get(block, ())]
    for group, (own, first) in zip(answers, starts, strict=True):
        found += parts(group, own, first, bounds, tiling, blend)
    return fold(found, bounds, rest, tiling, blend)


def _bounds(block: Block, edges: Sequence[Ints]) -> Bounds:
    first = tuple(int(e[i]) for e, i in zip(edges, block, strict=True))
    last = tuple(int(e[i + 1]) for e, i in zip(edges, block, strict=True))
    return first, last


def _reach(
    starts: Ints, tiling: Tiling, blend: Blend, chunk_edges: Ints, block_edges: Sequence[Ints]
) -> dict[int, Reach]:
    """For each chunk of patches, its starts and the output blocks that it reaches, row-major."""
    first, last = interiors(starts, tiling, blend.crop)
    reach: dict[int, Reach] = {}
    for chunk, (a, b) in enumerate(pairwise(chunk_edges.tolist())):
        if a == b:
            continue
        lo, hi = first[a:b], last[a:b]
        per_axis = [
            range(
                max(int(np.searchsorted(e, lo[:, axis].min(), side="right")) - 1, 0),
                min(int(np.searchsorted(e, hi[:, axis].max(), side="left")), len(e) - 1),
            )
            for axis, e in enumerate(block_edges)
        ]
        blocks = []
        for block in product(*per_axis):
            corner, far = _bounds(block, block_edges)
            if ((lo < far) & (hi > corner)).all(axis=1).any():
                blocks.append(block)
        if blocks:
            reach[chunk] = (starts[a:b], a, blocks)
    return reach
