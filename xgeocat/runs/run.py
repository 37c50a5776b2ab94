"""Run: a pipeline over every slice of a domain, to outputs and a catalog of them."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args, overload

import numpy as np
import xarray as xr

from xgeocat.catalog.parquet import CATALOG_FILE, open_catalog, to_geoparquet
from xgeocat.catalog.schema import SCENE
from xgeocat.catalog.stac import from_items
from xgeocat.domain.geoslice import GeoSlice
from xgeocat.domain.protocol import Domain
from xgeocat.pipeline import Field
from xgeocat.runs.executors import outcomes
from xgeocat.runs.fingerprint import fingerprint
from xgeocat.runs.ledger import Ledger
from xgeocat.runs.plan import RunPlan, plan_run
from xgeocat.runs.progress import watched
from xgeocat.runs.sinks import find_sink
from xgeocat.runs.unit import Job

OnError = Literal["record", "raise"]


class RunFailuresWarning(UserWarning):
    """Some units of a run failed; `xgeocat.failures` has them."""


@overload
def run(
    pipe: Callable[[Field], Field],
    domain: Domain,
    out: str | os.PathLike[str],
    *,
    bands: Sequence[str] | None = ...,
    sink: str = ...,
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
    bands: Sequence[str] | None = ...,
    sink: str = ...,
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
    bands: Sequence[str] | None = None,
    sink: str = "zarr",
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
    out : path
        Output folder: new, empty, or of the same run.
    bands : sequence of str, optional
        What to load of each slice; the domain's own choice by default.
    sink : {"zarr", "cog"}, default: "zarr"
        What to write: one Zarr v3 group per slice, or one Cloud-Optimized GeoTIFF per slice and
        variable.
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
        When two slices have the same name, so that their outputs would; and for an unknown
        `on_error` or `sink`, or negative `retries`.
    """
    if on_error not in get_args(OnError) or retries < 0:
        raise ValueError(
            f"on_error={on_error!r} must be one of {get_args(OnError)}, and retries={retries} at "
            "least 0."
        )
    job = Job(pipe, domain, bands, Ledger(Path(out)), find_sink(sink), retries)
    slices = list(domain.slices())
    _require_unique_names(slices)
    about = {**fingerprint(pipe, domain, slices, bands), "sink": sink}
    # Before anything is changed, the lock of the folder included.
    job.ledger.require(about)
    if dry_run:
        return plan_run(job, slices, _todo(job, slices))
    with job.ledger.locked():
        job.ledger.open(about)
        todo = _todo(job, slices)
        failed = _work(job, todo, len(slices), on_error, progress)
        if failed:
            warnings.warn(
                f"{failed} of {len(slices)} slices failed; xgeocat.failures({str(out)!r}) says "
                "which and why. Run again to try them again.",
                RunFailuresWarning,
                stacklevel=2,
            )
        return _result_catalog(job.ledger, slices)


def failures(out: str | os.PathLike[str]) -> xr.Dataset:
    """Return the slices of a run that failed, as a catalog.

    Parameters
    ----------
    out : path
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
    ledger = Ledger(Path(out))
    if not ledger.is_run():
        raise FileNotFoundError(f"There is no run at {out}.")
    return from_items(ledger.failures())


def _todo(job: Job, slices: Sequence[GeoSlice]) -> list[GeoSlice]:
    unfinished = set(job.ledger.unfinished(piece.name for piece in slices))
    return [piece for piece in slices if piece.name in unfinished]


def _work(job: Job, todo: Sequence[GeoSlice], total: int, on_error: OnError, progress: bool) -> int:
    """Do units; return how many failed."""
    done = failed = 0
    try:
        for outcome in watched(outcomes(job, todo), total, total - len(todo), progress):
            if outcome.error is not None and on_error == "raise":
                raise outcome.error
            done += outcome.error is None
            failed += outcome.error is not None
    except (KeyboardInterrupt, OSError) as error:
        finished = total - len(todo) + done
        error.add_note(
            f"The run into {str(job.ledger.root)!r} was stopped with {finished} of {total} slices "
            "finished, which are kept. The same call goes on with the others."
        )
        raise
    return failed


def _require_unique_names(slices: Sequence[GeoSlice]) -> None:
    names, counts = np.unique([s.name for s in slices], return_counts=True)
    if (counts > 1).any():
        raise ValueError(
            f"{int((counts > 1).sum())} slice names are repeated, e.g. "
            f"{names[counts > 1][:3].tolist()}, and outputs are named by them."
        )


def _result_catalog(ledger: Ledger, slices: Sequence[GeoSlice]) -> xr.Dataset:
    """The catalog of what is finished; written anew unless it is there already."""
    unfinished = set(ledger.unfinished(piece.name for piece in slices))
    finished = [piece.name for piece in slices if piece.name not in unfinished]
    if (ledger.root / CATALOG_FILE).exists():
        kept = open_catalog(ledger.root)
        if kept[SCENE].values.tolist() == finished:
            return kept
    items: Sequence[Mapping[str, object]] = ledger.items(finished)
    to_geoparquet(from_items(items), ledger.root / CATALOG_FILE)
    return open_catalog(ledger.root)
