"""Task graphs of patches: cutting them, and running a model on them, one task per block.

What is built here and in :mod:`xgeocat.patching.fieldgraph` are dask arrays that can do one thing
more: sliced, they build themselves again for what was asked (`Selectable`). So a corner of a
stitched field costs the patches that reach the corner, and not the blocks around it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import TypeAlias, cast

import dask.array as da
import numpy as np
from dask._task_spec import List, Task, TaskRef
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer
from dask.typing import DaskCollection, Key

from xgeocat.patching.batches import Answer, Answers, Batching
from xgeocat.patching.cut import Windows
from xgeocat.patching.cut import cut as cut_blocks
from xgeocat.patching.explain import FACTS, Facts
from xgeocat.patching.selectable import Selectable, Selection, is_whole, outer_getitem
from xgeocat.patching.tiling import Ints, Tiling

Tasks: TypeAlias = dict[Key, Task]
#: Number of a block along each dimension.
Block: TypeAlias = tuple[int, ...]

#: Patches per task where their order follows no blocks.
SCATTERED = 64


def graph_of(
    name: str, tasks: Tasks, sources: Sequence[da.Array], facts: Facts | None = None
) -> HighLevelGraph:
    """Put tasks upon the graphs of their sources, with what is to be told of them."""
    # dask's own array does not match dask's own protocol, to a type checker.
    below = HighLevelGraph.merge(*(cast("DaskCollection", s).__dask_graph__() for s in sources))
    return upon(below, {s.name for s in sources}, name, tasks, facts)


def upon(
    below: HighLevelGraph, layers: set[str], name: str, tasks: Tasks, facts: Facts | None
) -> HighLevelGraph:
    """Put a layer of tasks upon some layers of a graph."""
    layer = MaterializedLayer(tasks, collection_annotations={FACTS: facts} if facts else None)
    return HighLevelGraph({**below.layers, name: layer}, {**below.dependencies, name: layers})


def edges_of(chunks: tuple[int, ...]) -> Ints:
    """First cell of each chunk, and the past-the-last of the last one."""
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
        return self.source.dtype.newbyteorder("=")

    @cached_property
    def groups(self) -> list[Ints]:
        """Starts of the patches of each chunk."""
        return list(_groups(self.starts, self.tiling))

    @cached_property
    def edges(self) -> list[Ints]:
        """Edges of the source's chunks along the tiled dimensions."""
        n = len(self.tiling.dims)
        return [edges_of(chunks) for chunks in self.source.chunks[self.source.ndim - n :]]

    @cached_property
    def met(self) -> list[tuple[list[Block], Ints]]:
        """Numbers and origins of the source blocks that the patches of each chunk meet."""
        return [_blocks_met(group, self.tiling, self.edges) for group in self.groups]

    def arguments(
        self, number: int, rest: Block
    ) -> tuple[List, Ints, Ints, tuple[int, ...], tuple[int, ...]]:
        """What cutting a chunk of patches takes, for one chunk of the other dimensions."""
        blocks, origins = self.met[number]
        refs = List(*(TaskRef((self.source.name, *rest, *block)) for block in blocks))
        return refs, origins, self.groups[number], self.tiling.size, self.tiling.shape

    @property
    def facts(self) -> Facts:
        """What cutting takes: see :class:`xgeocat.patching.explain.Explanation`."""
        met = {block for blocks, _ in self.met for block in blocks}
        item = self.source.dtype.itemsize
        others = math.prod(self.source.shape[: self.source.ndim - len(self.edges)])
        cells = [
            math.prod(int(e[i + 1] - e[i]) for e, i in zip(self.edges, block, strict=True))
            for block in met
        ]
        return Facts(
            groups=self.groups,
            shape=self.tiling.shape,
            of=(self.source.name, self.tiling.dims, self.tiling.size),
            sources={self.source.name: (self.source.chunks, item)},
            working=2 * max(cells, default=0) * others * item,
        )


def cut(source: da.Array, starts: Ints, tiling: Tiling) -> da.Array:
    """Cut patches from a dask array ``(..., *shape)``: a lazy ``(patch, ..., *size)``."""
    # Whoever has the array may set cells of it later on, which changes the array itself.
    source = source.copy()
    n = len(tiling.dims)
    name = f"patch-{tokenize(source.name, starts, tiling)}"
    made = Cut(source, starts, tiling)
    chunks = (
        tuple(len(g) for g in made.groups) or (0,),
        *source.chunks[: source.ndim - n],
        *((size,) for size in tiling.size),
    )
    if not made.groups:
        return da.zeros(tuple(map(sum, chunks)), dtype=made.dtype, chunks=chunks)
    tasks: Tasks = {}
    for number in range(len(made.groups)):
        for rest in product(*map(range, source.numblocks[: source.ndim - n])):
            key: Key = (name, number, *rest, *(0,) * n)
            tasks[key] = Task(key, cut_blocks, *made.arguments(number, rest))

    def select(selection: Selection) -> da.Array | None:
        which, rest, tiled = selection[0], selection[1 : source.ndim - n + 1], selection[-n:]
        if not all(is_whole(k) for k in tiled) or any(isinstance(k, np.ndarray) for k in rest):
            return None
        if isinstance(which, (int, np.integer)):
            return da.Array.__getitem__(cut(source[(*rest, ...)], starts[[which]], tiling), 0)
        return cut(source[(*rest, ...)], starts[which], tiling)

    patches = da.Array(graph_of(name, tasks, [source], made.facts), name, chunks, made.dtype)
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


@dataclass(frozen=True, eq=False)
class Applied:
    """How a model is run over lazy patches.

    Parameters
    ----------
    inputs : sequence of Cut or dask.array.Array
        Patches, or how they are cut.
    lengths : tuple of int
        Patches in each chunk.
    batching, stacked, answer
        See :class:`xgeocat.patching.batches.Answers`.
    """

    inputs: Sequence[Cut | da.Array]
    lengths: tuple[int, ...]
    batching: Batching
    stacked: bool
    answer: Answer

    @property
    def sources(self) -> list[da.Array]:
        """What the tasks hang on."""
        return [one.source if isinstance(one, Cut) else one for one in self.inputs]

    def answers(self, number: int) -> Task:
        """Answers for one chunk of patches, as an argument of the task that wants them."""
        given = List(*(_patches_of(one, number) for one in self.inputs))
        return Task(None, Answers, given, self.batching, self.stacked, self.answer)

    def facts(self, whole: bool) -> Facts:
        """What it takes, with or without room for `whole` chunks of answers.

        What was cut before in tasks of its own is told of there.
        """
        cuts = [one.facts for one in self.inputs if isinstance(one, Cut)]
        size, most = self.batching.size, max(self.lengths)
        given = sum(_bytes_of_one(one) for one in self.inputs)
        answered = math.prod(self.answer.shape) * self.answer.dtype.itemsize
        batch = min(size, most) * (given + answered)
        return Facts(
            groups=cuts[0].groups if cuts else (),
            shape=cuts[0].shape if cuts else (),
            of=(id(self.batching.model), *(cut.of for cut in cuts)),
            batches=[-(-n // size) for n in self.lengths],
            sources={name: source for cut in cuts for name, source in cut.sources.items()},
            working=batch + most * answered * whole + sum(cut.working for cut in cuts),
        )


def apply(
    arrays: Sequence[da.Array], batching: Batching, stacked: bool, answer: Answer
) -> da.Array:
    """Run a model over lazy patches ``(patch, ...)``: a lazy ``(patch, *answer)``.

    Patches that were cut of dask arrays and not touched since are cut in the task that runs the
    model on them, batch by batch, so they never exist all at once.
    """
    arrays = [da.asarray(a).copy() for a in arrays]
    first = next((a for a in arrays if isinstance(a, Selectable)), arrays[0])
    wanted = (first.chunks[0], *((n,) for n in first.shape[1:]))
    inputs = [_input(a, wanted) for a in arrays]
    made = Applied(inputs, first.chunks[0], batching, stacked, answer)
    name = f"apply-{tokenize([a.name for a in arrays], batching, stacked, answer)}"
    tasks: Tasks = {}
    for number in range(len(made.lengths)):
        key: Key = (name, number, *(0,) * len(answer.shape))
        tasks[key] = Task(key, Answers.all, made.answers(number))

    def select(selection: Selection) -> da.Array | None:
        which = selection[0]
        if is_whole(which):
            return None
        one = isinstance(which, (int, np.integer))
        some = np.atleast_1d(np.arange(first.shape[0])[which])
        answers = apply([a[some] for a in arrays], batching, stacked, answer)
        return outer_getitem(answers, (0 if one else slice(None), *selection[1:]))

    chunks = (made.lengths, *((n,) for n in answer.shape))
    lazy = da.Array(
        graph_of(name, tasks, made.sources, made.facts(whole=True)), name, chunks, answer.dtype
    )
    return Selectable.wrap(lazy, select, made)


def _bytes_of_one(patches: Cut | da.Array) -> int:
    if isinstance(patches, Cut):
        rest = patches.source.shape[: patches.source.ndim - len(patches.tiling.dims)]
        return math.prod((*rest, *patches.tiling.size)) * patches.dtype.itemsize
    return math.prod(patches.shape[1:]) * patches.dtype.itemsize


def _input(array: da.Array, wanted: tuple[tuple[int, ...], ...]) -> Cut | da.Array:
    """Patches as they were cut, if nothing was done to them since; else in the wanted chunks."""
    made = getattr(array, "made", None)
    if isinstance(made, Cut) and array.chunks[0] == wanted[0]:
        rest = made.source.ndim - len(made.tiling.dims)
        if not rest:
            return made
        whole = made.source.rechunk(dict.fromkeys(range(rest), -1))
        return Cut(whole, made.starts, made.tiling)
    return array if array.chunks == wanted else array.rechunk(wanted)


def _patches_of(given: Cut | da.Array, number: int) -> Task | TaskRef:
    """One chunk of patches, as an argument of the task that runs the model."""
    if isinstance(given, Cut):
        rest = (0,) * (given.source.ndim - len(given.tiling.dims))
        return Task(None, Windows, *given.arguments(number, rest))
    return TaskRef((given.name, number, *(0,) * (given.ndim - 1)))
