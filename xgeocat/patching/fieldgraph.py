"""Task graphs of fields: the answers of patches go to the blocks that they reach.

Three tasks a block, beside the model's (:mod:`xgeocat.patching.graph`) where it has one of its own:
one folds the answers at home in the block, one hands out their edges, and one finishes the block.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from operator import itemgetter
from typing import cast

import dask.array as da
import numpy as np
from dask._task_spec import List, Task, TaskRef
from dask.base import tokenize
from dask.typing import Key

from xgeocat.patching.explain import Facts
from xgeocat.patching.fold import Blend, Canvas
from xgeocat.patching.gather import finish, gather
from xgeocat.patching.graph import Applied, Tasks, edges_of, graph_of, upon
from xgeocat.patching.meeting import Block, Meetings, meet
from xgeocat.patching.parts import Bounds
from xgeocat.patching.selectable import Selectable, Selection, outer_getitem
from xgeocat.patching.tiling import Array, Ints, Tiling, interiors


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
    # A copy: whoever has the answers may set cells of them later on.
    split = any(patches.numblocks[i] > 1 for i in whole)
    patches = patches.rechunk(whole) if split else patches.copy()
    lengths = patches.shape[1 : rest + 1]
    if 0 in tiling.shape:
        return da.zeros((*blend.reducer.rest(lengths), *tiling.shape), dtype=blend.result)
    applied = getattr(patches, "made", None) if inline else None
    plan = Stitching(
        patches, starts, tiling, blend, applied if isinstance(applied, Applied) else None
    )
    return Selectable.wrap(plan.box(plan.whole), plan.cells, plan)


@dataclass(frozen=True, eq=False)
class Stitching:
    """How a field is stitched of lazy answers.

    Parameters
    ----------
    patches, starts, tiling, blend
        See :func:`stitch`.
    applied : Applied or None
        How to make the answers in the tasks that fold them; None: they have tasks of their own.
    """

    patches: da.Array
    starts: Ints
    tiling: Tiling
    blend: Blend
    applied: Applied | None

    @property
    def whole(self) -> Bounds:
        """All cells of the field."""
        return (0,) * len(self.tiling.shape), self.tiling.shape

    def into(self, target: Array) -> da.Array:
        """The field, folded into an array in memory: its blocks are views of that."""
        return self.box(self.whole, target)

    def cells(self, selection: Selection) -> da.Array:
        """Some cells of the field, of the patches that reach them and no others."""
        n = len(self.tiling.dims)
        others, tiled = selection[: len(selection) - n], selection[len(selection) - n :]
        shape = self.tiling.shape
        cells = [np.arange(length)[entry] for length, entry in zip(shape, tiled, strict=True)]
        if not all(np.size(c) for c in cells):
            riding = self.patches.shape[1 : self.blend.rest + 1]
            empty = da.empty((*self.blend.reducer.rest(riding), *shape), dtype=self.blend.result)
            return outer_getitem(empty, selection)
        lo = tuple(int(np.min(c)) for c in cells)
        hi = tuple(int(np.max(c)) + 1 for c in cells)
        box = self._reaching(cells).box((lo, hi))
        within: list[int | slice | Ints] = []
        for wanted, first, last in zip(cells, lo, hi, strict=True):
            if np.ndim(wanted) == 0:
                within.append(0)
            else:
                all_of_it = np.array_equal(wanted, np.arange(first, last))
                within.append(slice(None) if all_of_it else wanted - first)
        return outer_getitem(box, (*others, *within))

    def _reaching(self, cells: Sequence[Ints]) -> Stitching:
        """The same with the patches that reach any of the cells."""
        first, last = interiors(self.starts, self.tiling, self.blend.crop)
        reached = np.ones(len(self.starts), bool)
        for axis, wanted in enumerate(cells):
            ordered = np.sort(np.atleast_1d(wanted))
            reached &= np.searchsorted(ordered, first[:, axis]) < np.searchsorted(
                ordered, last[:, axis]
            )
        if reached.all():
            return self
        needed = np.flatnonzero(reached)
        patches = self.patches[needed]
        applied = None if self.applied is None else cast("Selectable", patches).made
        return Stitching(
            patches, self.starts[needed], self.tiling, self.blend, cast("Applied | None", applied)
        )

    def box(self, cells: Bounds, target: Array | None = None) -> da.Array:
        """A box of cells of the field; in `target`, where there is one."""
        rest = self.blend.rest
        rest_chunks = self.patches.chunks[1 : rest + 1]
        tiles = self.tiling.window(*cells)
        block_edges = [edges_of(b) + a for b, a in zip(tiles.blocks, cells[0], strict=True)]
        inline, place = self.applied is not None, None if target is None else id(target)
        token = tokenize(
            self.patches.name, self.starts, self.tiling, self.blend, cells, inline, place
        )
        chunk_edges = edges_of(self.patches.chunks[0])
        meetings = meet(self.starts, self.tiling, self.blend.crop, chunk_edges, block_edges)
        gathering: Tasks = {}
        finishing: Tasks = {}
        for chunk in product(*(range(len(c)) for c in rest_chunks)):
            plan = _Plan(self, token, chunk, meetings, target)
            gathering |= plan.gathering()
            finishing |= plan.finishing()
        kept = len(self.blend.reducer.rest((1,) * rest))
        chunks = (*rest_chunks[rest - kept :], *tiles.blocks)
        below = graph_of(
            f"gather-{token}",
            gathering,
            self.applied.sources if self.applied else [self.patches],
            self.applied.facts(whole=False) if self.applied else None,
        )
        graph = upon(below, {f"gather-{token}"}, f"stitch-{token}", finishing, self._facts(tiles))
        return da.Array(graph, f"stitch-{token}", chunks, dtype=self.blend.result)

    def _facts(self, tiles: Tiling) -> Facts:
        """What stitching takes: a block with its sums at work, a row of edges waiting."""
        planes = math.prod(self.patches.shape[1 : self.blend.rest + 1])
        block = planes * math.prod(max(b, default=0) for b in tiles.blocks)
        size, stride = self.tiling.size, self.tiling.stride
        overlaps = math.prod(-(-a // b) for a, b in zip(size, stride, strict=True))
        row = planes * math.prod(tiles.shape[1:]) * size[0]
        return Facts(
            working=block * (8 + self.blend.result.itemsize),
            waiting=row * overlaps * self.patches.dtype.itemsize // 2,
        )


@dataclass(frozen=True)
class _Plan:
    """The tasks of one chunk of the dims that ride along."""

    of: Stitching
    token: str
    chunk: Block
    meetings: Meetings
    target: Array | None

    @property
    def lengths(self) -> tuple[int, ...]:
        """Lengths of the dims that ride along."""
        chunks = self.of.patches.chunks[1:]
        return tuple(c[i] for c, i in zip(chunks, self.chunk, strict=False))

    def _canvas(self) -> Canvas | None:
        """The array in memory that is folded into."""
        if self.target is None:
            return None
        chunks = self.of.patches.chunks[1 : self.of.blend.rest + 1]
        kept = len(self.of.blend.reducer.rest(self.chunk))
        riding = zip(chunks[len(chunks) - kept :], self._kept(), strict=True)
        region = tuple(slice(sum(c[:i]), sum(c[: i + 1])) for c, i in riding)
        return Canvas(self.target[region], self.of.whole[0])

    def _kept(self) -> Block:
        """Number of the chunk along the dims that the result still has."""
        kept = len(self.of.blend.reducer.rest(self.chunk))
        return self.chunk[len(self.chunk) - kept :]

    def _answers(self, chunk: int) -> Task | TaskRef:
        if self.of.applied is not None:
            return self.of.applied.answers(chunk)
        tiled = (0,) * (self.of.patches.ndim - self.of.blend.rest - 1)
        return TaskRef((self.of.patches.name, chunk, *self.chunk, *tiled))

    def gathering(self) -> Tasks:
        """Tasks that fold chunks of patches at home, and hand out what meets others.

        The edges have tasks of their own: so a block is not kept, or sent to other machines, for
        the sake of its edges.
        """
        tasks: Tasks = {}
        canvas = self._canvas()
        for chunk, (first, last) in self.meetings.chunks.items():
            key: Key = (f"gather-{self.token}", chunk, *self.chunk)
            tasks[key] = Task(
                key,
                gather,
                self._answers(chunk),
                self.of.starts[first:last],
                first,
                self.meetings.duties(chunk),
                canvas or self.lengths,
                self.of.tiling,
                self.of.blend,
            )
            edges: Key = (f"edges-{self.token}", chunk, *self.chunk)
            tasks[edges] = Task(edges, itemgetter(1), TaskRef(key))
        return tasks

    def finishing(self) -> Tasks:
        """Tasks that finish the blocks."""
        tasks: Tasks = {}
        canvas = self._canvas()
        for block, met in self.meetings.blocks.items():
            key: Key = (f"stitch-{self.token}", *self._kept(), *block)
            home: Key = (f"gather-{self.token}", met.home or 0, *self.chunk)
            edges = (TaskRef((f"edges-{self.token}", c, *self.chunk)) for c in met.chunks)
            tasks[key] = Task(
                key,
                finish,
                None if met.clear is None else Task(None, itemgetter(0), TaskRef(home)),
                List(*edges) if met.shared else [],
                block,
                met,
                canvas or self.lengths,
                self.of.tiling,
                self.of.blend,
            )
        return tasks
