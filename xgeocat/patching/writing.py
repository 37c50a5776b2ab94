"""Stream lazy arrays to storage, row by row, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from itertools import product
from typing import Protocol
from uuid import uuid4

import dask
import dask.array as da
import dask.multiprocessing
import numpy as np
import xarray as xr
from dask._task_spec import DataNode, Task, TaskRef, convert_legacy_graph
from dask.base import compute_as_if_collection, tokenize
from dask.typing import Key

from xgeocat.patching.fieldgraph import Stitching
from xgeocat.patching.graph import Tasks, graph_of
from xgeocat.patching.tiling import TARGET_BLOCK, Array

#: dask's schedulers that run tasks in this process.
HERE = ("threads", "threading", "sync", "synchronous", "single-threaded")


class Target(Protocol):
    """What blocks are written to."""

    def __setitem__(self, region: tuple[slice, ...], values: Array) -> None: ...


def write(sources: Sequence[da.Array], targets: Sequence[Target], label: str) -> None:
    """Compute lazy arrays and write them, block by block, each block by one task.

    A chain of empty tasks runs along the blocks, from the top of the field to its bottom. It holds
    up nobody, but the scheduler orders all work by it: so what is half done and waits in memory is
    a row of edges, however the scheduler would have gone about it by itself. Arrays that share
    answers are written side by side, and each answer is computed once.

    Parameters
    ----------
    sources : sequence of dask.array.Array
        Shape ``(..., y, x)`` each.
    targets : sequence of array
        One for each source, of its shape; takes a block with ``target[region] = block``.
    label : str
        What tells these targets from others, e.g. their path.
    """
    token = tokenize([source.name for source in sources], label)
    tasks: Tasks = {}
    written: Key | None = None
    for _, number, block, region in sorted(_blocks(sources)):
        source = sources[number]
        key: Key = (f"write-{token}", number, *block)
        where = tuple(map(slice, *region))
        tasks[key] = Task(key, _write_block, TaskRef((source.name, *block)), targets[number], where)
        so_far: Key = (f"written-{token}", number, *block)
        before = [] if written is None else [TaskRef(written)]
        tasks[so_far] = Task(so_far, _nothing, TaskRef(key), *before)
        written = so_far
    if written is not None:
        graph = graph_of(f"write-{token}", tasks, sources)
        compute_as_if_collection(da.Array, graph, [written])


def in_blocks(field: xr.DataArray | xr.Dataset) -> xr.DataArray | xr.Dataset:
    """Split a field in memory into blocks of which tasks can be made: views, nothing is copied."""
    if isinstance(field, xr.Dataset):
        return field.map(in_blocks, keep_attrs=True)
    if not field.variable._in_memory:
        # What a file holds is read block by block too.
        return field.chunk({d: TARGET_BLOCK for d, n in field.sizes.items() if n > TARGET_BLOCK})
    chunks = da.core.normalize_chunks(
        tuple(TARGET_BLOCK if n > TARGET_BLOCK else -1 for n in field.shape), field.shape
    )
    # A name of its own: dask would read all of the field to make one of its values.
    name = f"field-{uuid4().hex}"
    blocks = product(*(range(len(c)) for c in chunks))
    views: dict[Key, DataNode] = {}
    for block, region in zip(blocks, da.core.slices_from_chunks(chunks), strict=True):
        views[(name, *block)] = DataNode((name, *block), field.values[region])
    return field.copy(data=da.Array(views, name, chunks, dtype=field.dtype))


def into_memory(field: xr.DataArray | xr.Dataset) -> xr.DataArray | xr.Dataset:
    """Compute a lazy field into arrays made beforehand, which spares putting its blocks together.

    On threads (or as ``dask.config`` says, where that is in this process), even where a distributed
    client is active: other processes would write into copies of the arrays.
    """
    if isinstance(field, xr.DataArray):
        target = np.empty(field.shape, field.dtype)
        _write_here([field.data], [target])
        return field.copy(data=target)
    lazy = {name: var for name, var in field.data_vars.items() if var.chunks is not None}
    made = {name: np.empty(var.shape, var.dtype) for name, var in lazy.items()}
    _write_here([var.data for var in lazy.values()], list(made.values()))
    return field.assign({name: var.copy(data=made[name]) for name, var in lazy.items()})


def _write_here(sources: Sequence[da.Array], targets: Sequence[Array]) -> None:
    wanted = dask.config.get("scheduler", None)
    with dask.config.set(scheduler=wanted if _runs_here(wanted) else "threads"):
        pairs = zip(sources, targets, strict=True)
        write([_onto(*pair) for pair in pairs], targets, label="memory")


def _runs_here(scheduler: object) -> bool:
    """Tell whether a scheduler runs its tasks in this process.

    A distributed client sets itself as the scheduler; so may the user, or other processes.
    """
    if isinstance(scheduler, str):
        return scheduler.lower() in HERE
    if isinstance(scheduler, Executor):
        return isinstance(scheduler, ThreadPoolExecutor)
    owner = getattr(scheduler, "__self__", scheduler)
    elsewhere = "Client" in type(owner).__name__ or scheduler is dask.multiprocessing.get
    return callable(scheduler) and not elsewhere


def _onto(source: da.Array, target: Array) -> da.Array:
    """The source; a stitched field is folded in the target, which spares a copy."""
    made = getattr(source, "made", None)
    return made.into(target) if isinstance(made, Stitching) else source


def _blocks(
    sources: Sequence[da.Array],
) -> Iterator[
    tuple[tuple[float, ...], int, tuple[int, ...], tuple[tuple[int, ...], tuple[int, ...]]]
]:
    """Every block of every source: how far down and across it lies, its source, number, cells."""
    for number, source in enumerate(sources):
        stops = [np.cumsum(chunks) for chunks in source.chunks]
        for block in product(*map(range, source.numblocks)):
            hi = tuple(int(s[i]) for s, i in zip(stops, block, strict=True))
            lo = tuple(h - chunks[i] for h, chunks, i in zip(hi, source.chunks, block, strict=True))
            place = tuple(a / max(n, 1) for a, n in zip(lo[-2:], source.shape[-2:], strict=True))
            yield place, number, block, (lo, hi)


def _write_block(values: Array, target: Target, region: tuple[slice, ...]) -> None:
    if not (isinstance(target, np.ndarray) and np.may_share_memory(values, target)):
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
