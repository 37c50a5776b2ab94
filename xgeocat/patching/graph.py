"""The only module that builds dask graphs: cut, apply and stitch, a few tasks per block.

What it builds are dask arrays that can do one thing more: sliced, they build themselves again for
what was asked (`Selectable`). So a corner of a stitched field costs the patches that
reach the corner, and not the blocks around it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise, product
from typing import TypeAlias, cast

import dask.array as da
import numpy as np
from dask._task_spec import List, Task, TaskRef
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer
from dask.typing import DaskCollection, Key

from xgeocat.patching.apply import Answer, Batching, run_batches
from xgeocat.patching.cut import Windows
from xgeocat.patching.cut import cut as cut_blocks
from xgeocat.patching.explain import FACTS
from xgeocat.patching.fold import Blend, Bounds, Part, edges, fold, parts
from xgeocat.patching.selectable import Selectable, Selection, is_whole, outer_getitem
from xgeocat.patching.tiling import Array, Ints, Tiling, distinct, interiors

Tasks: TypeAlias = dict[Key, Task]
#: Number of a block along each dimension.
Block: TypeAlias = tuple[int, ...]
#: Starts of a chunk of patches, the number of the first, and the blocks that they reach.
Reach: TypeAlias = tuple[Ints, int, list[Block]]

#: Patches per task where their order follows no blocks.
SCATTERED = 64


def graph_of(
    name: str, tasks: Tasks, sources: Sequence[da.Array], facts: Mapping[str, int] | None = None
) -> HighLevelGraph:
    """Put tasks upon the graphs of their sources, with what is to be told of them."""
    # dask's own array does not match dask's own protocol, to a type checker.
    below = HighLevelGraph.merge(*(cast("DaskCollection", s).__dask_graph__() for s in sources))
    layer = MaterializedLayer(tasks, collection_annotations={FACTS: facts} if facts else None)
    return HighLevelGraph(
        {**below.layers, name: layer}, {**below.dependencies, name: {s.name for s in sources}}
    )


def _edges(chunks: tuple[int, ...]) -> Ints:
    return np.concatenate([[0], np.cumsum(chunks)]).astype(np.int64)


# --- cut ------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Cut:
    """How lazy patches are cut of a dask array.

    Parameters
    ----------
    source : dask.array.Array
        Shape ``(..., *tiling.shape)``.
    starts : numpy.ndarray
        Shape ``(patch, dim)``.
    tiling : Tiling
        The tiling of the source.
    """

    source: da.Array
    starts: Ints
    tiling: Tiling

    @property
    def dtype(self) -> np.dtype:
        """Dtype of the patches."""
        return self.source.dtype

    @cached_property
    def groups(self) -> list[Ints]:
        """Starts of the patches of each chunk."""
        return list(_groups(self.starts, self.tiling))

    @cached_property
    def edges(self) -> list[Ints]:
        """Edges of the source's chunks along the tiled dimensions."""
        n = len(self.tiling.dims)
        return [_edges(chunks) for chunks in self.source.chunks[self.source.ndim - n :]]

    def arguments(
        self, group: Ints, rest: Block
    ) -> tuple[List, Ints, Ints, tuple[int, ...], tuple[int, ...]]:
        """What cutting a group of patches takes, for one chunk of the other dimensions."""
        blocks, origins = _blocks_met(group, self.tiling, self.edges)
        refs = List(*(TaskRef((self.source.name, *rest, *block)) for block in blocks))
        return refs, origins, group, self.tiling.size, self.tiling.shape

    @property
    def facts(self) -> dict[str, int]:
        """What cutting takes: see :class:`xgeocat.patching.explain.Explanation`."""
        met = {block for g in self.groups for block in _blocks_met(g, self.tiling, self.edges)[0]}
        item = self.source.dtype.itemsize
        others = math.prod(self.source.shape[: self.source.ndim - len(self.edges)])
        cells = [
            math.prod(int(e[i + 1] - e[i]) for e, i in zip(self.edges, block, strict=True))
            for block in met
        ]
        return {
            "patches": len(self.starts),
            "distinct": distinct(self.starts, self.tiling.shape),
            "read": sum(cells) * others * item,
            "working": 2 * max(cells, default=0) * others * item,
        }


def cut(source: da.Array, starts: Ints, tiling: Tiling) -> da.Array:
    """Cut patches from a dask array ``(..., *shape)``: a lazy ``(patch, ..., *size)``."""
    n = len(tiling.dims)
    name = f"patch-{tokenize(source.name, starts, tiling)}"
    made = Cut(source, starts, tiling)
    chunks = (
        tuple(len(g) for g in made.groups) or (0,),
        *source.chunks[: source.ndim - n],
        *((size,) for size in tiling.size),
    )
    if not made.groups:
        return da.zeros(tuple(map(sum, chunks)), dtype=source.dtype, chunks=chunks)
    tasks: Tasks = {}
    for number, group in enumerate(made.groups):
        for rest in product(*map(range, source.numblocks[: source.ndim - n])):
            key: Key = (name, number, *rest, *(0,) * n)
            tasks[key] = Task(key, cut_blocks, *made.arguments(group, rest))

    def select(selection: Selection) -> da.Array | None:
        which, rest, tiled = selection[0], selection[1 : source.ndim - n + 1], selection[-n:]
        if not all(is_whole(k) for k in tiled) or any(isinstance(k, np.ndarray) for k in rest):
            return None
        if isinstance(which, (int, np.integer)):
            return da.Array.__getitem__(cut(source[(*rest, ...)], starts[[which]], tiling), 0)
        return cut(source[(*rest, ...)], starts[which], tiling)

    patches = da.Array(graph_of(name, tasks, [source], made.facts), name, chunks, source.dtype)
    return Selectable.wrap(patches, select, made)


def _groups(starts: Ints, tiling: Tiling) -> Iterator[Ints]:
    """Split patches, in their order, into runs that start in one block."""
    if not len(starts):
        return
    owner = tiling.block_of(starts)
    cuts = np.flatnonzero(np.diff(owner)) + 1
    if len(cuts) > 2 * len(np.unique(owner)):
        cuts = np.arange(SCATTERED, len(starts), SCATTERED)
    yield from np.split(starts, cuts)


def _blocks_met(
    starts: Ints, tiling: Tiling, edges: Sequence[Ints]
) -> tuple[list[tuple[int, ...]], Ints]:
    """Numbers and origins of the source blocks that any of the patches meets."""
    stops = np.minimum(starts + np.asarray(tiling.size), np.asarray(tiling.shape))
    per_axis = [
        np.arange(
            max(np.searchsorted(e, starts[:, axis].min(), side="right") - 1, 0),
            np.searchsorted(e, stops[:, axis].max(), side="left"),
        )
        for axis, e in enumerate(edges)
    ]
    blocks = []
    for block in product(*(numbers.tolist() for numbers in per_axis)):
        lo = np.array([e[i] for e, i in zip(edges, block, strict=True)])
        hi = np.array([e[i + 1] for e, i in zip(edges, block, strict=True)])
        if ((starts < hi) & (stops > lo)).all(axis=1).any():
            blocks.append(block)
    origins = [[e[i] for e, i in zip(edges, block, strict=True)] for block in blocks]
    return blocks, np.array(origins, np.int64)


# --- apply ----------------------------------------------------------------------------------------


def apply(
    arrays: Sequence[da.Array], batching: Batching, stacked: bool, answer: Answer
) -> da.Array:
    """Run a model over lazy patches ``(patch, ...)``: a lazy ``(patch, *answer)``.

    Patches that were cut of dask arrays and not touched since are cut in the task that runs the
    model on them, batch by batch, so they never exist all at once.
    """
    arrays = [da.asarray(a) for a in arrays]
    first = next((a for a in arrays if isinstance(a, Selectable)), arrays[0])
    wanted = (first.chunks[0], *((n,) for n in first.shape[1:]))
    inputs = [_input(a, wanted) for a in arrays]
    sources = [cut.source if isinstance(cut, Cut) else cut for cut in inputs]
    name = f"apply-{tokenize([a.name for a in arrays], batching, stacked, answer)}"
    tasks: Tasks = {}
    for number in range(len(wanted[0])):
        key: Key = (name, number, *(0,) * len(answer.shape))
        given = List(*(_patches_of(one, number) for one in inputs))
        tasks[key] = Task(key, run_batches, given, batching, stacked, answer)

    def select(selection: Selection) -> da.Array | None:
        which = selection[0]
        if is_whole(which):
            return None
        one = isinstance(which, (int, np.integer))
        some = np.atleast_1d(np.arange(first.shape[0])[which])
        answers = apply([a[some] for a in arrays], batching, stacked, answer)
        return outer_getitem(answers, (0 if one else slice(None), *selection[1:]))

    chunks = (wanted[0], *((n,) for n in answer.shape))
    graph = graph_of(name, tasks, sources, _apply_facts(inputs, wanted, batching, answer))
    return Selectable.wrap(da.Array(graph, name, chunks, dtype=answer.dtype), select)


def _apply_facts(
    inputs: Sequence[Cut | da.Array],
    wanted: tuple[tuple[int, ...], ...],
    batching: Batching,
    answer: Answer,
) -> dict[str, int]:
    """What running the model takes; what was cut before in tasks of its own is told of there."""
    cuts = [one.facts for one in inputs if isinstance(one, Cut)]
    given = sum(math.prod(n[0] for n in wanted[1:]) * one.dtype.itemsize for one in inputs)
    answered = math.prod(answer.shape) * answer.dtype.itemsize
    working = max(wanted[0]) * answered + min(batching.size, max(wanted[0])) * (given + answered)
    return {
        "batches": sum(-(-n // batching.size) for n in wanted[0]),
        "patches": cuts[0]["patches"] if cuts else 0,
        "distinct": cuts[0]["distinct"] if cuts else 0,
        "read": sum(cut["read"] for cut in cuts),
        "working": working + sum(cut["working"] for cut in cuts),
    }


def _input(array: da.Array, wanted: tuple[tuple[int, ...], ...]) -> Cut | da.Array:
    """Patches as they were cut, if nothing was done to them since; else in the wanted chunks."""
    made = getattr(array, "made", None)
    if isinstance(made, Cut) and array.chunks[0] == wanted[0]:
        rest = made.source.ndim - len(made.tiling.dims)
        whole = made.source.rechunk(dict.fromkeys(range(rest), -1)) if rest else made.source
        return Cut(whole, made.starts, made.tiling)
    return array if array.chunks == wanted else array.rechunk(wanted)


def _patches_of(given: Cut | da.Array, number: int) -> Task | TaskRef:
    """One chunk of patches, as an argument of the task that runs the model."""
    if isinstance(given, Cut):
        rest = (0,) * (given.source.ndim - len(given.tiling.dims))
        return Task(None, Windows, *given.arguments(given.groups[number], rest))
    return TaskRef((given.name, number, *(0,) * (given.ndim - 1)))


# --- stitch ---------------------------------------------------------------------------------------


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
    block_edges = [_edges(b) + a for b, a in zip(tiles.blocks, cells[0], strict=True)]
    token = tokenize(patches.name, starts, tiling, blend, cells)
    reach = _reach(starts, tiling, blend, _edges(patches.chunks[0]), block_edges)
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
) -> dict[str, int]:
    """What stitching takes: a block with its sums at work, a row of edges waiting."""
    planes = math.prod(lengths)
    block = planes * math.prod(max(b, default=0) for b in tiles.blocks)
    overlaps = math.prod(
        -(-size // stride) for size, stride in zip(tiling.size, tiling.stride, strict=True)
    )
    row = planes * math.prod(tiles.shape[1:]) * tiling.size[0]
    return {
        "working": block * (8 + blend.result.itemsize),
        "waiting": row * overlaps * patches.dtype.itemsize // 2,
    }


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
