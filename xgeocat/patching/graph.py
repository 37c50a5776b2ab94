"""The only module that builds dask graphs: cut, apply and stitch, a few tasks per block.

What it builds are ordinary dask arrays that can do one thing more: sliced, they build themselves
again for what was asked (`Selectable`). So a corner of a stitched field costs the patches that
reach the corner, and not the blocks around it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise, product
from typing import Protocol, TypeAlias, cast

import dask.array as da
import numpy as np
from dask._task_spec import List, Task, TaskRef
from dask.base import compute_as_if_collection, tokenize
from dask.highlevelgraph import HighLevelGraph
from dask.typing import DaskCollection, Key

from xgeocat.patching.apply import Answer, Batching, run_batches
from xgeocat.patching.fold import Blend, Partial, finish, fold, fold_edges
from xgeocat.patching.patch import cut as cut_blocks
from xgeocat.patching.tiling import Array, Ints, Tiling, interiors

#: One entry per dimension of an array: what of it was asked for.
Selection: TypeAlias = tuple[int | slice | Array, ...]
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


class Selectable(da.Array):
    """A dask array that builds itself again for a selection, where it can."""

    _select: Callable[[Selection], da.Array | None]

    @classmethod
    def build(
        cls,
        name: str,
        tasks: Tasks,
        sources: Sequence[da.Array],
        chunks: tuple[tuple[int, ...], ...],
        dtype: np.dtype,
        select: Callable[[Selection], da.Array | None],
    ) -> Selectable:
        """Make the array from its tasks and from what builds it again (None: it cannot)."""
        self = cls(_graph(name, tasks, sources), name, chunks, dtype=dtype)
        self._select = select
        return self

    def __getitem__(self, index: object) -> da.Array:
        selection = _selection(index, self.shape)
        if selection is not None:
            selected = self._select(selection)
            if selected is not None:
                return selected
        return da.Array.__getitem__(self, index)


def _graph(name: str, tasks: Tasks, sources: Sequence[da.Array]) -> HighLevelGraph:
    # dask's own array does not match dask's own protocol, to a type checker.
    dependencies = cast("Sequence[DaskCollection]", sources)
    return HighLevelGraph.from_collections(name, tasks, dependencies=dependencies)


def _selection(index: object, shape: tuple[int, ...]) -> Selection | None:
    """Write an index as one entry a dimension; None where it is of another kind, or everything."""
    key = index if isinstance(index, tuple) else (index,)
    if not all(isinstance(k, (int, np.integer, slice, np.ndarray, type(...))) for k in key):
        return None
    if sum(isinstance(k, np.ndarray) for k in key) > 1:
        return None
    dots = next((i for i, k in enumerate(key) if k is ...), len(key))
    tail = key[dots + 1 :]
    key = (*key[:dots], *[slice(None)] * (len(shape) - dots - len(tail)), *tail)
    entries = [
        slice(None) if isinstance(k, slice) and k.indices(n) == (0, n, 1) else k
        for k, n in zip(key, shape, strict=True)
    ]
    return None if all(_is_whole(k) for k in entries) else tuple(entries)


def _is_whole(entry: object) -> bool:
    return isinstance(entry, slice) and entry == slice(None)


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
        if not all(_is_whole(k) for k in tiled) or any(isinstance(k, np.ndarray) for k in rest):
            return None
        if isinstance(which, (int, np.integer)):
            return cut(source[(*rest, ...)], starts[[which]], tiling)[0]
        return cut(source[(*rest, ...)], starts[which], tiling)

    chunks = (
        tuple(len(g) for g in groups) or (0,),
        *source.chunks[: source.ndim - n],
        *((size,) for size in tiling.size),
    )
    if not groups:
        return da.zeros(tuple(map(sum, chunks)), source.dtype, chunks=chunks)
    return Selectable.build(name, tasks, [source], chunks, source.dtype, select)


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
        if not all(_is_whole(k) for k in selection[1:]):
            return None
        if isinstance(which, (int, np.integer)):
            return apply([a[[which]] for a in inputs], batching, stacked, answer)[0]
        return apply([a[which] for a in inputs], batching, stacked, answer)

    chunks = (wanted[0], *((n,) for n in answer.shape))
    return Selectable.build(name, tasks, inputs, chunks, answer.dtype, select)


# --- stitch ---------------------------------------------------------------------------------------


def stitch(patches: da.Array, starts: Ints, tiling: Tiling, blend: Blend) -> da.Array:
    """Stitch lazy patches ``(patch, ..., *size)`` into a lazy field ``(..., *shape)``."""
    return _stitch_box(patches, starts, tiling, blend, (0,) * len(tiling.shape), tiling.shape)


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

    def select(selection: Selection) -> da.Array | None:
        return _select_box(patches, starts, tiling, blend, lo, hi, selection)

    dtype = blend.reducer.dtype(blend.dtype)
    chunks = (*rest_chunks, *tiles.blocks)
    return Selectable.build(f"stitch-{token}", tasks, [patches], chunks, dtype, select)


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


def _select_box(
    patches: da.Array,
    starts: Ints,
    tiling: Tiling,
    blend: Blend,
    lo: tuple[int, ...],
    hi: tuple[int, ...],
    selection: Selection,
) -> da.Array | None:
    """Stitch again, with the patches that reach the selected box and no others."""
    n = len(tiling.dims)
    box_lo, box_hi, within = [], [], list(selection[: len(selection) - n])
    for entry, a, b in zip(selection[len(selection) - n :], lo, hi, strict=True):
        cells = np.arange(a, b)[entry]
        if not cells.size:
            return None
        box_lo.append(int(cells.min()))
        box_hi.append(int(cells.max()) + 1)
        within.append(_relative(entry, cells - box_lo[-1]))
    if (tuple(box_lo), tuple(box_hi)) == (lo, hi):
        return None
    first, last = interiors(starts, tiling, blend.crop)
    needed = np.flatnonzero(((first < box_hi) & (last > box_lo)).all(axis=1))
    if len(needed) < len(starts):
        patches, starts = patches[needed], starts[needed]
    box = _stitch_box(patches, starts, tiling, blend, tuple(box_lo), tuple(box_hi))
    return da.Array.__getitem__(box, tuple(within))


def _relative(entry: int | slice | Array, cells: Ints) -> int | slice | Ints:
    if not isinstance(entry, slice):
        return int(cells) if cells.ndim == 0 else cells
    if entry.step in (None, 1):
        return slice(None)
    return cells


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
