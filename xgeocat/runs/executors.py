"""Executors: where the units of a run are done, and how many at a time.

On threads, a unit of many blocks has them all to itself; small ones are done side by side, each on
one. On a cluster every unit is one task, done on one thread of a worker: so memory is that of one
streamed scene for each thread, whatever the number of scenes.
"""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from itertools import groupby, islice
from threading import Lock
from typing import TYPE_CHECKING, Protocol, TypeVar
from uuid import uuid4

import dask
from dask.system import CPU_COUNT
from dask.typing import Key

from xgeocat.patching.tiling import TARGET_BLOCK
from xgeocat.runs.errors import UnitError
from xgeocat.runs.unit import Outcome

if TYPE_CHECKING:
    from distributed import Client
    from distributed import Future as Remote


class Unit(Protocol):
    """What is done as one."""

    @property
    def name(self) -> str:
        """Its name."""
        ...

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        ...


UnitT = TypeVar("UnitT", bound=Unit, contravariant=True)


class Job(Protocol[UnitT]):
    """What does units, in any process."""

    def do(self, unit: UnitT) -> Outcome:
        """Do a unit."""
        ...

    def failed(self, unit: UnitT, error: UnitError) -> Outcome:
        """Record that a unit failed."""
        ...


#: What dask calls the scheduler of a cluster; a client sets it.
CLUSTER = (None, "dask.distributed", "distributed")

#: What `one_thread` has set, and for how many.
_scheduler = Lock()
_inside: list[None] = []
_setting = ExitStack()


def outcomes(job: Job[UnitT], units: Iterable[UnitT]) -> Generator[Outcome]:
    """Do units, here or on the cluster that is active; each outcome as soon as it is known.

    Left early (an error, an interrupt), no new unit is begun.
    """
    client = active_client()
    return on_threads(job, units) if client is None else on_cluster(client, job, units)


def active_client() -> Client | None:
    """The client of a dask cluster, if there is one and dask is not told to use something else."""
    if "distributed" not in sys.modules or dask.config.get("scheduler", None) not in CLUSTER:
        return None
    from distributed import default_client

    try:
        return default_client()
    except ValueError:
        return None


def threads_here() -> int:
    """Number of threads that dask is to use in this process."""
    if dask.config.get("scheduler", None) in ("sync", "synchronous", "single-threaded"):
        return 1
    return int(dask.config.get("num_workers", None) or CPU_COUNT)


@contextmanager
def one_thread() -> Iterator[None]:
    """Let dask compute in the thread that asks it to.

    dask's configuration is of the whole process: the first unit sets it, the last one takes it
    back, however many are at work on the threads of a worker.
    """
    with _scheduler:
        _inside.append(None)
        if len(_inside) == 1:
            _setting.enter_context(dask.config.set(scheduler="synchronous"))
    try:
        yield
    finally:
        with _scheduler:
            _inside.pop()
            if not _inside:
                _setting.close()


def on_threads(job: Job[UnitT], units: Iterable[UnitT]) -> Generator[Outcome]:
    """Do units in this process."""
    threads = threads_here()
    for small, group in groupby(units, key=_is_small):
        if small and threads > 1:
            yield from _side_by_side(job, group, threads)
        else:
            yield from map(job.do, group)


def _is_small(unit: Unit) -> bool:
    """Tell whether there is no more than one block, so that threads have nothing to share."""
    return max(unit.shape) <= TARGET_BLOCK


def _side_by_side(job: Job[UnitT], units: Iterator[UnitT], threads: int) -> Generator[Outcome]:
    with (
        one_thread(),
        ThreadPoolExecutor(threads, thread_name_prefix="xgeocat-unit") as pool,
    ):
        at_work: set[Future[Outcome]] = set()
        try:
            while True:
                free = 2 * threads - len(at_work)
                at_work |= {pool.submit(job.do, unit) for unit in islice(units, free)}
                if not at_work:
                    return
                done, at_work = wait(at_work, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
        finally:
            for future in at_work:
                future.cancel()


def on_cluster(client: Client, job: Job[UnitT], units: Iterable[UnitT]) -> Generator[Outcome]:
    """Do units on the workers of a cluster: one for each thread, and none that wait.

    A unit that kills its worker takes those along that wait there, and they are blamed for it too.
    """
    from distributed import as_completed

    run = f"xgeocat-run-{uuid4().hex[:8]}"
    # A task of its own: so it is made again where the worker that had it is lost.
    shared = client.submit(_given, job, key=f"{run}-job", pure=False)
    todo = enumerate(units)
    at_work: dict[Key, tuple[Remote[Outcome], UnitT]] = {}

    def send(n: int) -> list[Remote[Outcome]]:
        sent = []
        for number, unit in islice(todo, n):
            future = client.submit(_do, shared, unit, key=f"{run}-{number}", pure=False)
            at_work[future.key] = future, unit
            sent.append(future)
        return sent

    threads = sum(client.nthreads().values()) or 1
    coming = as_completed(send(threads))
    try:
        for future in coming:
            _, unit = at_work.pop(future.key)
            yield _outcome(job, future, unit)
            coming.update(send(1))
    finally:
        client.cancel([future for future, _ in at_work.values()])


def _given(job: Job[UnitT]) -> Job[UnitT]:
    return job


def _do(job: Job[UnitT], unit: UnitT) -> Outcome:
    """Do a unit on one thread of a worker: its blocks are no tasks of the cluster."""
    with one_thread():
        return job.do(unit)


def _outcome(job: Job[UnitT], future: Remote[Outcome], unit: UnitT) -> Outcome:
    """What came of a unit; one that killed every worker it was given to has failed."""
    from distributed.scheduler import KilledWorker

    try:
        return future.result()
    except KilledWorker as killed:
        tries = int(dask.config.get("distributed.scheduler.allowed-failures")) + 1
        error = UnitError.of(unit.name, "worker", tries, killed)
        return job.failed(unit, error)
