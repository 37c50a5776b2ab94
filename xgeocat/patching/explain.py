"""Explain: what computing patches, answers or a field will take, before anything is computed."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import dask
import numpy as np
import xarray as xr
from dask._task_spec import GraphNode
from dask.base import is_dask_collection
from dask.core import flatten
from dask.highlevelgraph import HighLevelGraph
from dask.optimization import cull
from dask.system import CPU_COUNT
from dask.typing import DaskCollection, Key

from xgeocat.patching.tiling import Ints, distinct

#: Under this name layers of a task graph carry what is known of them.
FACTS = "xgeocat"


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a computation takes.

    Parameters
    ----------
    patches : int
        Patches that are cut (and that the model is run on, where there is one).
    batches : int
        Calls of the model; 0 where none is run.
    recompute : float
        Patches over different patches: 1.0 where none is computed twice. NaN without patches.
    bytes_read : int
        Bytes of the source's chunks that are needed, as they lie in memory.
    tasks : int
        Tasks of the graph, the source's own included.
    blocks : int
        Blocks of the result that are computed, each on its own.
    peak_bytes : int
        Estimate of the memory that is in use at once, with the threads that dask would use here:
        source chunks, answers and blocks at work, and one row of the edges that wait for their
        neighbours. The imported libraries (about 250 MB) and the result itself, where it is not
        streamed to storage, come on top.
    """

    patches: int
    batches: int
    recompute: float
    bytes_read: int
    tasks: int
    blocks: int
    peak_bytes: int

    def __str__(self) -> str:
        """Say it in a few lines."""
        per_block = self.tasks / self.blocks if self.blocks else float("nan")
        return "\n".join(
            [
                f"patches      {self.patches:,}, in {self.batches:,} calls of the model",
                f"recompute    {self.recompute:.2f} (1.00: no patch is computed twice)",
                f"read         {_size(self.bytes_read)}",
                f"tasks        {self.tasks:,}, {per_block:.1f} for each of {self.blocks:,} blocks",
                f"peak memory  about {_size(self.peak_bytes)} beside the libraries",
            ]
        )

    __repr__ = __str__


def _size(n: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if n < 1024:
            return f"{n:.0f} {unit}"
        n /= 1024
    return f"{n:,.1f} TiB"


def explain(obj: xr.DataArray | xr.Dataset) -> Explanation:
    """Say what computing patches, answers or a field will take; nothing is computed.

    Parameters
    ----------
    obj : DataArray or Dataset
        Anything lazy that came of :func:`xgeocat.patch`, :func:`xgeocat.map_patches` or
        :func:`xgeocat.stitch`, and what xarray makes of it. What is in memory takes nothing.

    Returns
    -------
    Explanation
        With the numbers as attributes; printed, it is a few lines of text.
    """
    if not is_dask_collection(obj):
        return Explanation(0, 0, float("nan"), 0, 0, 0, 0)
    lazy = cast("DaskCollection", obj)
    graph = cast("HighLevelGraph", lazy.__dask_graph__())
    # What is not needed for what is asked (the rest of a field, of a corner) is left out: first
    # layer by layer, which is quick but may keep all of one, then task by task.
    keys = list(flatten(lazy.__dask_keys__()))
    needed, _ = cull(graph.cull(set(keys)).to_dict(), keys)
    tally = _tally(graph, needed)
    different = tally.different()
    variables = obj.data_vars.values() if isinstance(obj, xr.Dataset) else [obj]
    arrays = [var.data for var in variables if is_dask_collection(var.data)]
    return Explanation(
        patches=tally.patches,
        batches=tally.batches,
        recompute=tally.patches / different if different else float("nan"),
        bytes_read=sum(tally.read.values()),
        tasks=len(needed),
        blocks=max((array.npartitions for array in arrays), default=0),
        peak_bytes=_threads() * tally.working + tally.waiting,
    )


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a layer of a task graph, whose keys are ``(name, chunk of patches, ...)``.

    Parameters
    ----------
    groups : sequence of numpy.ndarray
        Starts of the patches of each chunk; nothing where no patches are cut.
    shape : tuple of int
        Shape of the field that they are cut from.
    of : tuple of hashable
        What they are patches of, and the model that is run on them.
    batches : sequence of int
        Calls of the model for each chunk.
    sources : mapping of str to (tuple of tuple of int, int)
        By name, chunks and bytes of an element of the arrays that are cut.
    working, waiting : int
        See :attr:`Explanation.peak_bytes`: for each thread, and once.
    """

    groups: Sequence[Ints] = ()
    shape: tuple[int, ...] = ()
    of: tuple[Hashable, ...] = ()
    batches: Sequence[int] = ()
    sources: Mapping[str, tuple[tuple[tuple[int, ...], ...], int]] = field(default_factory=dict)
    working: int = 0
    waiting: int = 0


@dataclass(slots=True)
class _Tally:
    """What the tasks that are needed take."""

    patches: int = 0
    batches: int = 0
    working: int = 0
    waiting: int = 0
    read: dict[Key, int] = field(default_factory=dict)
    cut: dict[tuple[Hashable, ...], list[Ints]] = field(default_factory=dict)
    shapes: dict[tuple[Hashable, ...], tuple[int, ...]] = field(default_factory=dict)

    def add(self, facts: Facts, tasks: Mapping[Key, GraphNode]) -> None:
        """Count the tasks of one layer."""
        numbers = sorted({cast("tuple[str, int]", key)[1] for key in tasks})
        self.working += facts.working
        self.waiting += facts.waiting
        if facts.groups:
            starts = [facts.groups[number] for number in numbers]
            self.patches += sum(map(len, starts))
            self.cut.setdefault(facts.of, []).extend(starts)
            self.shapes[facts.of] = facts.shape
        if facts.batches:
            self.batches += sum(facts.batches[number] for number in numbers)
        for task in tasks.values():
            for key in task.dependencies:
                name, *block = cast("tuple[str, int]", key) if isinstance(key, tuple) else (key,)
                if name in facts.sources:
                    chunks, item = facts.sources[cast("str", name)]
                    cells = (c[i] for c, i in zip(chunks, block, strict=True))
                    self.read[key] = math.prod(cells) * item

    def different(self) -> int:
        """Number of different patches."""
        return sum(distinct(np.concatenate(s), self.shapes[of]) for of, s in self.cut.items())


def _tally(graph: HighLevelGraph, needed: Mapping[Key, GraphNode]) -> _Tally:
    tally = _Tally()
    for layer in graph.layers.values():
        facts = (layer.collection_annotations or {}).get(FACTS)
        if facts is not None:
            tasks = {key: needed[key] for key in layer if key in needed}
            if tasks:
                tally.add(facts, tasks)
    return tally


def _threads() -> int:
    return int(dask.config.get("num_workers", CPU_COUNT))
