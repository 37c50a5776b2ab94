"""Run: a pipeline over every slice of a domain, to outputs and a catalog of them."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Literal, get_args, overload

import numpy as np
import xarray as xr

from xgeocat.catalog.opening import CATALOG_FILE, open_catalog
from xgeocat.catalog.parquet import to_geoparquet
from xgeocat.catalog.schema import SCENE
from xgeocat.catalog.stac import from_items
from xgeocat.domain.geoslice import GeoSlice
from xgeocat.domain.protocol import Domain
from xgeocat.pipeline import Field
from xgeocat.runs.executors import outcomes
from xgeocat.runs.fingerprint import digest, fingerprint
from xgeocat.runs.items import COLLECTION_FILE, by_itself, collection_of
from xgeocat.runs.ledger import Ledger, encoded, safe_name
from xgeocat.runs.plan import RunPlan, plan_run
from xgeocat.runs.progress import peak_memory, watched
from xgeocat.runs.sinks import Icechunk, Sink, find_sink
from xgeocat.runs.unit import Job, Outcome, Pending, Unit
from xgeocat.storage.folder import folder_at

OnError = Literal["record", "raise"]
#: Edge of the parts of large slices, about.
PART = 16384

log = logging.getLogger(__name__)


class RunFailuresWarning(UserWarning):
    """Some units of a run failed; `xgeocat.failures` has them."""


@overload
def run(
    pipe: Callable[[Field], Field],
    domain: Domain,
    out: str | os.PathLike[str],
    *,
    sink: str | Sink = ...,
    part: int | Literal["auto"] | None = ...,
    retries: int = ...,
    on_error: OnError = ...,
    progress: bool = ...,
    dry_run: Literal[False] = ...,
) -> xr.Dataset: ...


@overload
def run(
    pipe: Callable[[Field], Field],
    domain: Domain,
    out: str | os.PathLike[str],
    *,
    sink: str | Sink = ...,
    part: int | Literal["auto"] | None = ...,
    retries: int = ...,
    on_error: OnError = ...,
    progress: bool = ...,
    dry_run: Literal[True],
) -> RunPlan: ...


def run(
    pipe: Callable[[Field], Field],
    domain: Domain,
    out: str | os.PathLike[str],
    *,
    sink: str | Sink = "zarr",
    part: int | Literal["auto"] | None = "auto",
    retries: int = 2,
    on_error: OnError = "record",
    progress: bool = True,
    dry_run: bool = False,
) -> xr.Dataset | RunPlan:
    """Run a pipeline over every slice of a domain.

    One output is written per slice, and a record beside it once it is finished. Called again on
    the same folder, the run goes on: finished slices are skipped, failed ones are tried again, and
    the result is the same as that of an undisturbed run, byte for byte. So a run that was stopped,
    by Ctrl-C or in any other way, is resumed by the same call.

    Slices are done on threads here, or, where a ``dask.distributed`` client is active, each by one
    task of its cluster, on whose machines `out` must be the same folder.

    Parameters
    ----------
    pipe : callable
        A Sequential, or any function from a cube to a field on the same grid.
    domain : Domain
        What to run over.
    out : path or URL
        Output folder: new, empty, or of the same run. On a disk, or in an object store:
        ``s3://bucket/prefix`` (with the extra ``xgeocat[s3]``; credentials and endpoint are read
        from the environment, see :func:`xgeocat.storage.folder.folder_at`).
    sink : {"zarr", "cog", "icechunk"} or Sink, default: "zarr"
        What to write: one Zarr v3 group per slice, one Cloud-Optimized GeoTIFF per slice and
        variable, or one Icechunk repository; or one of :mod:`xgeocat.sinks`, with options.
    part : int, "auto" or None, default: "auto"
        Larger slices are done in square parts with edges of so many pixels, each a unit of its
        own: they are spread over the workers, and finished ones are kept. A whole number of what
        the sink stores as one (chunks, shards, tiles); "auto" is about 16,384. None: every slice is
        done as a whole.
    retries : int, default: 2
        How often to try again after an error that may pass by itself (of a network, a file system,
        a busy server), with growing pauses.
    on_error : {"record", "raise"}, default: "record"
        Whether a slice that fails for good is recorded, or ends the run (which can be resumed).
    progress : bool, default: True
        Show a bar.
    dry_run : bool, default: False
        Only say what would be done, and change nothing.

    Returns
    -------
    Dataset or RunPlan
        The catalog of predictions, one row per finished slice, with the properties of its scene;
        also in ``out/catalog.parquet``. Failed slices are in ``xgeocat.failures(out)``. With
        `dry_run`, the plan, which prints as a few lines.

    Raises
    ------
    RunMismatchError
        When `out` holds another run or something else, or another run is at work there; nothing in
        it is touched.
    UnitError
        When a slice fails, with ``on_error="raise"``.
    OSError
        When nothing more can be written; what is finished is kept.
    ValueError
        When two slices have the same name, so that their outputs would; for an unknown `on_error`
        or `sink`, negative `retries`, or parts that would share a chunk.
    """
    require_pipe_and_domain(pipe, domain)
    if on_error not in get_args(OnError):
        raise ValueError(f"on_error={on_error!r} must be one of {get_args(OnError)}.")
    if not isinstance(retries, int) or retries < 0:
        raise ValueError(f"retries={retries!r} must be a whole number, at least 0.")
    ledger, writer = Ledger(folder_at(out)), find_sink(sink)
    edge = None if isinstance(writer, Icechunk) else _part_edge(part, writer.edge)
    slices = list(domain.slices())
    require_unique_names(slices)
    about = {**fingerprint(pipe, domain, slices), "sink": writer.describe()}
    job = Job(pipe, domain, ledger, writer, f"xgeocat-{digest(about)[:12]}", retries, edge)
    # Before anything is changed, the lock of the folder included.
    job.ledger.require(about)
    if dry_run:
        todo = {*ledger.unfinished(piece.name for piece in slices), *job.lost(slices)}
        return plan_run(job, slices, [piece for piece in slices if piece.name in todo])
    with job.ledger.locked():
        job.ledger.open(about)
        _forget_lost(job, slices)
        _forget_parts(job, slices)
        failed = _work(job, slices, on_error, progress)
        # Workers that were killed could not do so.
        _forget_parts(job, slices)
        ledger.sweep()
        if failed:
            warnings.warn(
                f"{failed} of {len(slices)} slices failed; xgeocat.failures({str(out)!r}) says "
                "which and why. Run again to try them again.",
                RunFailuresWarning,
                stacklevel=2,
            )
        return _result_catalog(job, slices)


def failures(out: str | os.PathLike[str]) -> xr.Dataset:
    """Return the slices of a run that failed, as a catalog.

    Parameters
    ----------
    out : path or URL
        Output folder of a run.

    Returns
    -------
    Dataset
        One row per failed slice, with ``failure:step``, ``failure:error``, ``failure:message``,
        ``failure:tries`` and ``failure:traceback``; empty if none failed.

    Raises
    ------
    FileNotFoundError
        When there is no run at `out`.
    """
    ledger = Ledger(folder_at(out))
    if not ledger.is_run():
        raise FileNotFoundError(f"There is no run at {out}.")
    return from_items(ledger.failures())


def _unfinished(job: Job, slices: Sequence[GeoSlice]) -> list[GeoSlice]:
    unfinished = set(job.ledger.unfinished(piece.name for piece in slices))
    return [piece for piece in slices if piece.name in unfinished]


def _outcomes(job: Job, slices: Sequence[GeoSlice], todo: Sequence[Unit]) -> Generator[Outcome]:
    """Do units; then join the parts of slices that have them all."""
    if isinstance(job.sink, Icechunk):
        yield from _committed(job, job.sink, todo)
        return
    yield from outcomes(job, todo)
    divided = [Unit(piece) for piece in slices if job.parts(piece)]
    joined = [unit for unit in divided if not job.todo(unit.piece)]
    if joined:
        yield from outcomes(job, joined)


def _committed(job: Job, sink: Icechunk, todo: Sequence[Unit]) -> Iterator[Outcome]:
    """Do units in batches, each of which is committed as one; then record them."""
    data = job.ledger.data
    for batch in (todo[i : i + sink.every] for i in range(0, len(todo), sink.every)):
        done: dict[str, Pending] = {}
        try:
            for outcome in outcomes(replace(job, sink=sink.begin(data)), batch):
                if outcome.pending is not None:
                    done[outcome.name] = outcome.pending
                yield outcome
        finally:
            # Also what came before the run was stopped.
            if done:
                names = sorted(done)
                message = f"{len(names)}: {', '.join(names)}"
                sink.commit(data, [done[name].changes for name in names], message)
            for name, pending in done.items():
                job.ledger.finish(name, pending.item)


def _work(job: Job, slices: Sequence[GeoSlice], on_error: OnError, progress: bool) -> int:
    """Do all units; return how many slices failed."""
    unfinished = _unfinished(job, slices)
    todo = [unit for piece in unfinished for unit in job.todo(piece)]
    left = len(todo) + sum(1 for piece in unfinished if job.parts(piece))
    total = sum(1 + len(job.parts(piece)) for piece in slices)
    log.info("%s: %d of %d units to do", job.ledger.folder.url, left, total)
    failed = set()
    try:
        # Closed at once, so that what is at work has come to its end when an error is told.
        with closing(_outcomes(job, unfinished, todo)) as coming:
            for outcome in watched(coming, total, total - left, progress):
                if outcome.error is not None:
                    if on_error == "raise":
                        raise outcome.error
                    failed.add(outcome.name)
    except (KeyboardInterrupt, OSError) as error:
        finished = len(slices) - len(_unfinished(job, slices))
        error.add_note(
            f"The run into {job.ledger.folder.url!r} was stopped with {finished} of {len(slices)} "
            "slices finished, which are kept. The same call goes on with the others."
        )
        raise
    log.info("%s: done, %d slices failed, %s", job.ledger.folder.url, len(failed), peak_memory())
    return len(failed)


def _forget_lost(job: Job, slices: Sequence[GeoSlice]) -> None:
    """Let slices be done again whose outputs somebody has removed."""
    lost = job.lost(slices)
    for name in lost:
        job.ledger.forget(name)
    if lost:
        url = job.ledger.folder.url
        log.warning("%s: done again, as it is gone: %s (%d in all)", url, lost[:5], len(lost))


def _forget_parts(job: Job, slices: Sequence[GeoSlice]) -> None:
    """Remove what is left of the parts of finished slices."""
    for piece in slices:
        if job.parts(piece) and job.ledger.is_finished(piece.name):
            job.forget_parts(piece.name)


def _part_edge(part: int | Literal["auto"] | None, edge: int) -> int | None:
    """Edge of the parts, of whole chunks, each of which is written by one task."""
    if part == "auto":
        return -(-PART // edge) * edge
    if part is not None and (not isinstance(part, int) or part < edge or part % edge):
        raise ValueError(
            f"part={part!r} is no whole number of the {edge} px that are stored as one, so that "
            f"two tasks would write into one chunk. Use a multiple, e.g. part={4 * edge}, 'auto' "
            "or None."
        )
    return part


def require_pipe_and_domain(pipe: object, domain: object) -> None:
    """Refuse what is no pipeline, or no domain; a TypeError."""
    if not (hasattr(domain, "slices") and hasattr(domain, "load")):
        raise TypeError(
            f"{type(domain).__name__} is no domain, which comes after the pipeline. Of a catalog "
            "take ds.geocat.domain(...), of a raster xgc.RasterDomain(...)."
        )
    if not callable(pipe):
        raise TypeError(
            f"{type(pipe).__name__} is no pipeline, which is a Sequential or any function from a "
            "cube to a field."
        )


def require_unique_names(slices: Sequence[GeoSlice]) -> None:
    """Refuse slices of the same name, for they would be taken for one another."""
    names, counts = np.unique([s.name for s in slices], return_counts=True)
    if (counts > 1).any():
        raise ValueError(
            f"{int((counts > 1).sum())} slice names are repeated, e.g. "
            f"{names[counts > 1][:3].tolist()}, and outputs are named by them."
        )


def _result_catalog(job: Job, slices: Sequence[GeoSlice]) -> xr.Dataset:
    """The catalog of what is finished; written anew unless it is there already."""
    ledger = job.ledger
    unfinished = {piece.name for piece in _unfinished(job, slices)}
    finished = [piece.name for piece in slices if piece.name not in unfinished]
    url = ledger.folder.url
    if ledger.folder.has(CATALOG_FILE):
        kept = open_catalog(url)
        if kept[SCENE].values.tolist() == finished:
            return kept
    items = ledger.items(finished)
    if items:
        names = [f"{safe_name(name)}.json" for name in finished]
        collection = collection_of(items, names, job.collection)
        ledger.folder.write(COLLECTION_FILE, encoded(collection))
    to_geoparquet(from_items(map(by_itself, items)), f"{url}/{CATALOG_FILE}")
    return open_catalog(url)
