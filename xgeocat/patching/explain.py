"""Explain: what computing patches, answers or a field will take, before anything is computed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import cast

import dask
import xarray as xr
from dask.base import is_dask_collection
from dask.core import flatten
from dask.highlevelgraph import HighLevelGraph
from dask.system import CPU_COUNT
from dask.typing import DaskCollection

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
    facts = list(_facts(graph))
    patches = sum(f.get("patches", 0) for f in facts)
    distinct = sum(f.get("distinct", 0) for f in facts)
    variables = obj.data_vars.values() if isinstance(obj, xr.Dataset) else [obj]
    arrays = [var.data for var in variables if is_dask_collection(var.data)]
    return Explanation(
        patches=patches,
        batches=sum(f.get("batches", 0) for f in facts),
        recompute=patches / distinct if distinct else float("nan"),
        bytes_read=sum(f.get("read", 0) for f in facts),
        tasks=len(graph.cull(set(flatten(lazy.__dask_keys__()))).to_dict()),
        blocks=max((array.npartitions for array in arrays), default=0),
        peak_bytes=_threads() * sum(f.get("working", 0) for f in facts)
        + sum(f.get("waiting", 0) for f in facts),
    )


def _facts(graph: HighLevelGraph) -> Iterator[Mapping[str, int]]:
    for layer in graph.layers.values():
        yield (layer.collection_annotations or {}).get(FACTS, {})


def _threads() -> int:
    return int(dask.config.get("num_workers", CPU_COUNT))
