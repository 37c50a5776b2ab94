"""Task graphs of fields: the answers of patches go to the blocks that they reach.

Three tasks a block, beside the model's (:mod:`xgeocat.patching.graph`) where it has one of its own:
one folds the answers at home in the block, one hands out their edges, and one finishes the block.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from operator import itemgetter

import dask.array as da
import numpy as np
from dask._task_spec import List, Task, TaskRef
from dask.base import tokenize
from dask.typing import Key

from xgeocat.patching.explain import Facts
from xgeocat.patching.fold import Blend
from xgeocat.patching.gather import finish, gather
from xgeocat.patching.graph import Applied, Tasks, edges_of, graph_of, upon
from xgeocat.patching.meeting import Block, Meetings, meet
from xgeocat.patching.parts import Bounds
from xgeocat.patching.selectable import Selectable, Selection, outer_getitem
from xgeocat.patching.tiling import Ints, Tiling, interiors


def stitch(
    patches: da.Array, starts: Ints, tiling: Tiling, blend: Blend, inline: bool = False
) -> da.Array:
    """Stitch lazy answers ``(patch, ..., *size)`` into a lazy field ``(..., *shape)``.

    Parameters
    ----------
    patches : dask.array.Array
        Dimensions of length one may be missing among the tiled ones.
    starts : numpy.ndarray
        Shape ``(patch, dim)``: first cell of each patch in the field.
    tiling, blend
        The plan, and how answers become one.
    inline : bool, default: False
        Whether the model is run in the tasks that fold its answers, so that these never exist all
        at once. What else is made of the same answers runs it again.
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
    field = _stitch_box(patches, starts, tiling, blend, (lo, tiling.shape), inline)

    def select(selection: Selection) -> da.Array:
        return _stitch_cells(patches, starts, tiling, blend, selection, inline)

    return Selectable.wrap(field, select)


def _stitch_cells(
    patches: da.Array,
    starts: Ints,
    tiling: Tiling,
    blend: Blend,
    selection: Selection,
    inline: bool,
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
    box = _stitch_box(patches, starts, tiling, blend, (lo, hi), inline)
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
    patches: da.Array,
    starts: Ints,
    tiling: Tiling,
    blend: Blend,
    cells: Bounds,
    inline: bool,
) -> da.Array:
    """Stitch a box of cells of the field."""
    rest = blend.rest
    rest_chunks = patches.chunks[1 : rest + 1]
    tiles = tiling.window(*cells)
    block_edges = [edges_of(b) + a for b, a in zip(tiles.blocks, cells[0], strict=True)]
    applied = getattr(patches, "made", None) if inline else None
    applied = applied if isinstance(applied, Applied) else None
    token = tokenize(patches.name, starts, tiling, blend, cells, applied is None)
    meetings = meet(starts, tiling, blend.crop, edges_of(patches.chunks[0]), block_edges)
    gathering: Tasks = {}
    finishing: Tasks = {}
    for chunk in product(*(range(len(c)) for c in rest_chunks)):
        lengths = tuple(c[i] for c, i in zip(rest_chunks, chunk, strict=True))
        tail = (*chunk, *(0,) * (patches.ndim - rest - 1))
        answers: dict[int, Task | TaskRef] = {
            c: applied.answers(c) if applied else TaskRef((patches.name, c, *tail))
            for c in meetings.chunks
        }
        plan = _Plan(token, chunk, lengths, tiling, blend)
        gathering |= _gather_tasks(plan, answers, starts, meetings)
        finishing |= _finish_tasks(plan, meetings)
    kept = len(blend.reducer.rest((1,) * rest))
    chunks = (*rest_chunks[rest - kept :], *tiles.blocks)
    facts = _stitch_facts(patches, tiles, tiling, blend, patches.shape[1 : rest + 1])
    below = graph_of(
        f"gather-{token}",
        gathering,
        applied.sources if applied else [patches],
        applied.facts(whole=False) if applied else None,
    )
    graph = upon(below, {f"gather-{token}"}, f"stitch-{token}", finishing, facts)
    return da.Array(graph, f"stitch-{token}", chunks, dtype=blend.result)


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
    tiling: Tiling
    blend: Blend


def _gather_tasks(
    plan: _Plan, answers: Mapping[int, Task | TaskRef], starts: Ints, meetings: Meetings
) -> Tasks:
    """Tasks that fold chunks of patches at home, and those that hand out what meets others.

    The edges have tasks of their own: so a block is not kept, or sent to other machines, for the
    sake of its edges.
    """
    tasks: Tasks = {}
    for chunk, (first, last) in meetings.chunks.items():
        key: Key = (f"gather-{plan.token}", chunk, *plan.chunk)
        tasks[key] = Task(
            key,
            gather,
            answers[chunk],
            starts[first:last],
            first,
            meetings.duties(chunk),
            plan.lengths,
            plan.tiling,
            plan.blend,
        )
        edges: Key = (f"edges-{plan.token}", chunk, *plan.chunk)
        tasks[edges] = Task(edges, itemgetter(1), TaskRef(key))
    return tasks


def _finish_tasks(plan: _Plan, meetings: Meetings) -> Tasks:
    """Tasks that finish the blocks."""
    tasks: Tasks = {}
    kept = len(plan.blend.reducer.rest((1,) * len(plan.chunk)))
    for block, met in meetings.blocks.items():
        key: Key = (f"stitch-{plan.token}", *plan.chunk[len(plan.chunk) - kept :], *block)
        home = TaskRef((f"gather-{plan.token}", met.home, *plan.chunk))
        edges = (TaskRef((f"edges-{plan.token}", c, *plan.chunk)) for c in met.chunks)
        tasks[key] = Task(
            key,
            finish,
            None if met.clear is None else Task(None, itemgetter(0), home),
            List(*edges) if met.shared else [],
            block,
            met.bounds,
            met.shared,
            plan.lengths,
            plan.tiling,
            plan.blend,
        )
    return tasks
