"""The only module that builds dask graphs: cut, apply and stitch, a few tasks per block.

What it builds are dask arrays that can do one thing more: sliced, they build themselves again for
what was asked (`Selectable`). So a corner of a stitched field costs the patches that
reach the corner, and not the blocks around it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise, product
from typing import Protocol, TypeAlias, cast

import dask.array as da
import numpy as np
from dask._task_spec import List, Task, TaskRef, convert_legacy_graph
from dask.base import compute_as_if_collection, tokenize
from dask.highlevelgraph import HighLevelGraph
from dask.typing import DaskCollection, Key

from xgeocat.patching.apply import Answer, Batching, run_batches
from xgeocat.patching.fold import Blend, Partial, finish, fold, fold_edges
from xgeocat.patching.patch import cut as cut_blocks
from xgeocat.patching.selectable import Selectable, Selection, is_whole, outer_getitem
from xgeocat.patching.tiling import Array, Ints, Tiling, interiors

Tasks: TypeAlias = dict[Key, Task]
#: Number of a block along each dimension, and its first and past-the-last cell.
Block: TypeAlias = tuple[int, ...]
Bounds: TypeAlias = tuple[tuple[int, ...], tuple[int, ...]]
#: Starts of a chunk of patches, and the blocks that they reach.
Reach: TypeAlias = tuple[Ints, list[Block]]

#: Patches per task where their order follows no blocks.
SCATTERED = 64


class Target(Protocol):
    """What blocks are written to."""

    def __setitem__(self, region: tuple[slice, ...], values: Array) -> None: ...


def _graph(name: str, tasks: Tasks, sources: Sequence[da.Array]) -> HighLevelGraph:
    # dask's own array does not match dask's own protocol, to a type checker.
    dependencies = cast("Sequence[DaskCollection]", sources)
    return HighLevelGraph.from_collections(name, tasks, dependencies=dependencies)


def _edges(chunks: tuple[int, ...]) -> Ints:
    return np.concatenate([[0], np.cumsum(chunks)]).astype(np.int64)


# --- cut ------------------------------------------------------------------------------------------


def cut(source: da.Array, starts: Ints, tiling: Tiling) -> da.Array:
    """Cut patches from a dask array ``(..., *shape)``: a lazy ``(patch, ..., *size)``."""
    n = len(tiling.dims)
    name = f"patch-{tokenize(source.name, starts, tiling)}"
    edges = [_edges(chunks) for chunks in source.chunks[source.ndim - n :]]
    groups = list(_groups(starts, tiling))
    tasks: Tasks = {}
    for number, group in enumerate(groups):
        blocks, origins = _blocks_met(group, tiling, edges)
        for rest in product(*map(range, source.numblocks[: source.ndim - n])):
            key: Key = (name, number, *rest, *(0,) * n)
            refs = List(*(TaskRef((source.name, *rest, *block)) for block in blocks))
            tasks[key] = Task(key, cut_blocks, refs, origins, group, tiling.size, tiling.shape)

    def select(selection: Selection) -> da.Array | None:
        which, rest, tiled = selection[0], selection[1 : source.ndim - n + 1], selection[-n:]
        if not all(is_whole(k) for k in tiled) or any(isinstance(k, np.ndarray) for k in rest):
            return None
        if isinstance(which, (int, np.integer)):
            return da.Array.__getitem__(cut(source[(*rest, ...)], starts[[which]], tiling), 0)
        return cut(source[(*rest, ...)], starts[which], tiling)

    chunks = (
        tuple(len(g) for g in groups) or (0,),
        *source.chunks[: source.ndim - n],
        *((size,) for size in tiling.size),
    )
    if not groups:
        return da.zeros(tuple(map(sum, chunks)), dtype=source.dtype, chunks=chunks)
    patches = da.Array(_graph(name, tasks, [source]), name, chunks, dtype=source.dtype)
    return Selectable.wrap(patches, select)


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
            np.searchsorted(e, starts[:, axis].min(), side="right") - 1,
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
    """Run a model over lazy patches ``(patch, ...)``: a lazy ``(patch, *answer)``."""
    first = da.asarray(arrays[0])
    wanted = (first.chunks[0], *((n,) for n in first.shape[1:]))
    inputs = [
        a if getattr(a, "chunks", None) == wanted else da.asarray(a).rechunk(wanted) for a in arrays
    ]
    name = f"apply-{tokenize([a.name for a in inputs], batching, stacked, answer)}"
    tasks: Tasks = {}
    for number in range(len(wanted[0])):
        key: Key = (name, number, *(0,) * len(answer.shape))
        refs = List(*(TaskRef((a.name, number, *(0,) * (a.ndim - 1))) for a in inputs))
        tasks[key] = Task(key, run_batches, refs, batching, stacked, answer)

    def select(selection: Selection) -> da.Array | None:
        which = selection[0]
        if is_whole(which):
            return None
        one = isinstance(which, (int, np.integer))
        some = np.atleast_1d(np.arange(first.shape[0])[which])
        answers = apply([a[some] for a in inputs], batching, stacked, answer)
        return outer_getitem(answers, (0 if one else slice(None), *selection[1:]))

    chunks = (wanted[0], *((n,) for n in answer.shape))
    answers = da.Array(_graph(name, tasks, inputs), name, chunks, dtype=answer.dtype)
    return Selectable.wrap(answers, select)


# --- stitch ---------------------------------------------------------------------------------------


def stitch(patches: da.Array, starts: Ints, tiling: Tiling, blend: Blend) -> da.Array:
    """Stitch lazy patches ``(patch, ..., *size)`` into a lazy field ``(..., *shape)``."""
    n = len(tiling.dims)
    if any(blocks > 1 for blocks in patches.numblocks[patches.ndim - n :]):
        patches = patches.rechunk(dict.fromkeys(range(patches.ndim - n, patches.ndim), -1))
    if 0 in tiling.shape:
        shape = (*patches.shape[1 : patches.ndim - n], *tiling.shape)
        return da.zeros(shape, dtype=blend.reducer.dtype(blend.dtype))
    field = _stitch_box(patches, starts, tiling, blend, (0,) * n, tiling.shape)

    def select(selection: Selection) -> da.Array:
        return _stitch_cells(patches, starts, tiling, blend, selection)

    return Selectable.wrap(field, select)


def _stitch_cells(
    patches: da.Array, starts: Ints, tiling: Tiling, blend: Blend, selection: Selection
) -> da.Array:
    """Stitch some cells of the field, with the patches that reach them and no others."""
    n = len(tiling.dims)
    rest, tiled = selection[: len(selection) - n], selection[len(selection) - n :]
    cells = [np.arange(length)[entry] for length, entry in zip(tiling.shape, tiled, strict=True)]
    if not all(np.size(c) for c in cells):
        nothing = np.broadcast_to(np.empty((), bool), (*patches.shape[1:-n], *tiling.shape))
        shape = outer_getitem(da.from_array(nothing), selection).shape
        return da.empty(shape, dtype=blend.reducer.dtype(blend.dtype))
    needed = _needed(starts, tiling, blend, cells)
    if len(needed) < len(starts):
        patches, starts = patches[needed], starts[needed]
    lo = tuple(int(np.min(c)) for c in cells)
    hi = tuple(int(np.max(c)) + 1 for c in cells)
    box = _stitch_box(patches, starts, tiling, blend, lo, hi)
    within: list[int | slice | Ints] = []
    for wanted, first, last in zip(cells, lo, hi, strict=True):
        if np.ndim(wanted) == 0:
            within.append(0)
        else:
            whole = np.array_equal(wanted, np.arange(first, last))
            within.append(slice(None) if whole else wanted - first)
    return outer_getitem(box, (*rest, *within))


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
    lo: tuple[int, ...],
    hi: tuple[int, ...],
) -> da.Array:
    """Stitch the cells ``lo`` (included) to ``hi`` (not included) of the field."""
    n = len(tiling.dims)
    rest_chunks = patches.chunks[1 : patches.ndim - n]
    tiles = tiling.window(lo, hi)
    block_edges = [_edges(b) + a for b, a in zip(tiles.blocks, lo, strict=True)]
    token = tokenize(patches.name, starts, tiling, blend, lo, hi)
    reach = _reach(starts, tiling, blend, _edges(patches.chunks[0]), block_edges)
    tasks: Tasks = {}
    for rest in product(*(range(len(c)) for c in rest_chunks)):
        rest_shape = tuple(c[i] for c, i in zip(rest_chunks, rest, strict=True))
        answers = {c: TaskRef((patches.name, c, *rest, *(0,) * n)) for c in reach}
        tasks |= _stitch_tasks(token, rest, rest_shape, answers, reach, block_edges, tiling, blend)
    name = f"stitch-{token}"
    dtype = blend.reducer.dtype(blend.dtype)
    chunks = (*rest_chunks, *tiles.blocks)
    return da.Array(_graph(name, tasks, [patches]), name, chunks, dtype=dtype)


def _stitch_tasks(
    token: str,
    rest: Block,
    rest_shape: tuple[int, ...],
    answers: dict[int, TaskRef],
    reach: dict[int, Reach],
    block_edges: Sequence[Ints],
    tiling: Tiling,
    blend: Blend,
) -> Tasks:
    """Tasks of one chunk of the dims that ride along.

    A chunk of patches is at home in the first block that it reaches. There it is folded straight
    into the block; what it gives to other blocks is folded in one task of its own, which the home
    waits for as well. So a chunk of answers is dropped as soon as its home is done, and only thin
    edges wait in memory for the next row of blocks.
    """
    tasks: Tasks = {}
    at_home: dict[Block, list[int]] = {}
    visitors: dict[Block, list[TaskRef]] = {}
    for chunk, (group, blocks) in reach.items():
        home, *others = blocks
        at_home.setdefault(home, []).append(chunk)
        if others:
            key: Key = (f"edges-{token}", chunk, *rest)
            bounds = {block: _bounds(block, block_edges) for block in others}
            tasks[key] = Task(key, fold_edges, answers[chunk], group, bounds, tiling, blend)
            for block in blocks:
                visitors.setdefault(block, []).append(TaskRef(key))
    for block in product(*(range(len(e) - 1) for e in block_edges)):
        first, last = bounds_of = _bounds(block, block_edges)
        shape = (*rest_shape, *(b - a for a, b in zip(first, last, strict=True)))
        own = at_home.get(block, [])
        key = (f"stitch-{token}", *rest, *block)
        tasks[key] = Task(
            key,
            _stitch_block,
            block,
            List(*(answers[chunk] for chunk in own)),
            [reach[chunk][0] for chunk in own],
            List(*visitors.get(block, [])),
            bounds_of,
            shape,
            tiling,
            blend,
        )
    return tasks


def _stitch_block(
    block: Block,
    own: Sequence[Array],
    starts: Sequence[Ints],
    visitors: Sequence[Mapping[Block, Partial]],
    bounds: Bounds,
    shape: tuple[int, ...],
    tiling: Tiling,
    blend: Blend,
) -> Array:
    """Make one output block of the patches at home in it and the edges of others."""
    partials = [fold(p, s, bounds, tiling, blend) for p, s in zip(own, starts, strict=True)]
    partials += [edges[block] for edges in visitors if block in edges]
    return finish(partials, shape, blend)


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
            reach[chunk] = (starts[a:b], blocks)
    return reach


# --- write ----------------------------------------------------------------------------------------


def write(source: da.Array, target: Target, label: str) -> None:
    """Compute a lazy array and write it, block by block, each block by one task.

    A chain of empty tasks runs along the blocks, row-major. It holds up nobody, but the scheduler
    orders all work by it: down the field, row by row. So what is half done and waits in memory is
    a row of edges, however the scheduler would have gone about it by itself.

    Parameters
    ----------
    source : dask.array.Array
        Shape ``(..., y, x)``.
    target : array
        Takes a block with ``target[region] = block``; of the same shape.
    label : str
        What tells this target from others, e.g. its path.
    """
    token = tokenize(source.name, label)
    edges = [_edges(chunks) for chunks in source.chunks]
    tasks: Tasks = {}
    written: Key | None = None
    for block in product(*map(range, source.numblocks)):
        region = tuple(map(slice, *_bounds(block, edges)))
        key: Key = (f"write-{token}", *block)
        tasks[key] = Task(key, _write_block, TaskRef((source.name, *block)), target, region)
        so_far: Key = (f"written-{token}", *block)
        before = [] if written is None else [TaskRef(written)]
        tasks[so_far] = Task(so_far, _nothing, TaskRef(key), *before)
        written = so_far
    graph = _graph(f"write-{token}", tasks, [source])
    compute_as_if_collection(da.Array, graph, [written])


def _write_block(values: Array, target: Target, region: tuple[slice, ...]) -> None:
    target[region] = values


def _nothing(*after: None) -> None:
    """Do nothing, once others are done."""


def with_own_roots(array: da.Array) -> da.Array:
    """Give every task its own copy of the few tasks that all of them hang on.

    The arrays of odc-stac share an open file, a grid and a configuration. With so few roots dask
    orders the work by other rules, and a scene's worth of patches waits in memory.
    """
    tasks = convert_legacy_graph(dict(array.dask))
    roots = {k for k, task in tasks.items() if not task.dependencies and k[0] != array.name}
    own = {
        key: task.substitute({root: tasks[root] for root in task.dependencies & roots})
        for key, task in tasks.items()
        if key not in roots
    }
    return da.Array(own, array.name, array.chunks, dtype=array.dtype)
