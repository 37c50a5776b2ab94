"""Run: a pipeline over every slice of a domain, to outputs and a catalog of them."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import rasterio
import xarray as xr

from xgeocat.catalog.parquet import CATALOG_FILE, open_catalog, to_geoparquet
from xgeocat.catalog.sources import Json
from xgeocat.catalog.stac import from_items
from xgeocat.domain.geoslice import GeoSlice
from xgeocat.domain.protocol import Domain
from xgeocat.patching import batches
from xgeocat.patching.names import qualified_name
from xgeocat.pipeline import Described, Field, describe
from xgeocat.runs.items import failure_item, output_item
from xgeocat.runs.ledger import Ledger
from xgeocat.runs.store import write_zarr

log = logging.getLogger(__name__)

OnError = Literal["record", "raise"]

PREDICTION = "prediction"
#: Errors that may pass by themselves: a network, a file system, a busy server.
TRANSIENT = (OSError, rasterio.errors.RasterioError)
#: Seconds before the first retry; doubled before each further one.
PAUSE = 0.5


class RunFailuresWarning(UserWarning):
    """Some units of a run failed; `xgeocat.failures` has them."""


@dataclass(slots=True)
class UnitError(Exception):
    """A unit failed at one of its steps."""

    step: str
    tries: int
    cause: BaseException


def run(
    pipe: Callable[[Field], Field],
    domain: Domain,
    out: str | os.PathLike[str],
    *,
    bands: Sequence[str] | None = None,
    retries: int = 2,
    on_error: OnError = "record",
    progress: bool = True,
) -> xr.Dataset:
    """Run a pipeline over every slice of a domain.

    One Zarr v3 group is written per slice, and a record beside it once it is finished. Called
    again on the same folder, the run goes on: finished slices are skipped, failed ones are tried
    again, and the result is the same as that of an undisturbed run, byte for byte.

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
    retries : int, default: 2
        How often to try again after an error that may pass by itself, with growing pauses.
    on_error : {"record", "raise"}, default: "record"
        Whether a slice that fails for good is recorded, or ends the run (which can be resumed).
    progress : bool, default: True
        Show a bar.

    Returns
    -------
    Dataset
        The catalog of predictions, one row per finished slice, with the properties of its scene;
        also in ``out/catalog.parquet``. Failed slices are in ``xgeocat.failures(out)``.

    Raises
    ------
    RunMismatchError
        When `out` holds another run or something else; nothing in it is touched.
    ValueError
        When two slices have the same name, so that their outputs would; and for an unknown
        `on_error` or negative `retries`.
    """
    from tqdm import tqdm

    if on_error not in get_args(OnError) or retries < 0:
        raise ValueError(
            f"on_error={on_error!r} must be one of {get_args(OnError)}, and retries={retries} at "
            "least 0."
        )
    slices = list(domain.slices())
    _require_unique_names(slices)
    ledger = Ledger(Path(out))
    ledger.open(fingerprint(pipe, domain, slices, bands))
    todo = [s for s in slices if not ledger.is_finished(s.name)]
    failed = 0
    with tqdm(
        todo,
        desc="run",
        unit="scene",
        total=len(slices),
        initial=len(slices) - len(todo),
        disable=not progress,
    ) as bar:
        for piece in bar:
            try:
                ledger.finish(piece.name, _run_unit(pipe, domain, piece, bands, ledger, retries))
            except UnitError as error:
                if on_error == "raise":
                    raise error.cause from None
                failed += 1
                log.warning("%s failed at %s: %s", piece.name, error.step, error.cause)
                ledger.fail(piece.name, failure_item(piece, error.step, error.tries, error.cause))
                bar.set_postfix(failed=failed)
    if failed:
        warnings.warn(
            f"{failed} of {len(slices)} slices failed; xgeocat.failures({str(out)!r}) says which "
            "and why. Run again to try them again.",
            RunFailuresWarning,
            stacklevel=2,
        )
    return _result_catalog(ledger, slices)


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


def fingerprint(
    pipe: Callable[[Field], Field],
    domain: Domain,
    slices: Sequence[GeoSlice],
    bands: Sequence[str] | None,
) -> Json:
    """Say, in JSON values, all that the outputs of a run depend on."""
    requests = [
        [
            s.name,
            repr(s.grid and (s.grid.shape, tuple(s.grid.transform), str(s.grid.crs))),
            None if s.interval is None else [str(t) for t in s.interval],
        ]
        for s in slices
    ]
    about = domain.describe() if isinstance(domain, Described) else {}
    return {
        "pipeline": describe(pipe),
        "domain": {"kind": qualified_name(domain), **about},
        "bands": None if bands is None else list(bands),
        "slices": {"count": len(slices), "sha256": digest(requests)},
    }


def digest(value: object) -> str:
    """Hash of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _require_unique_names(slices: Sequence[GeoSlice]) -> None:
    names, counts = np.unique([s.name for s in slices], return_counts=True)
    if (counts > 1).any():
        raise ValueError(
            f"{int((counts > 1).sum())} slice names are repeated, e.g. "
            f"{names[counts > 1][:3].tolist()}, and outputs are named by them."
        )


def _run_unit(
    pipe: Callable[[Field], Field],
    domain: Domain,
    piece: GeoSlice,
    bands: Sequence[str] | None,
    ledger: Ledger,
    retries: int,
) -> Json:
    """Load, predict and write one slice, with retries; return its STAC item."""
    path = ledger.data_path(piece.name)
    for attempt in range(1, retries + 2):
        step = "load"
        try:
            cube = domain.load(piece, bands)
            step = "pipeline"
            field = _as_dataset(pipe(cube))
            step = "write"
            geobox = write_zarr(field, path)
            return output_item(piece, field, geobox, path)
        except Exception as error:
            shutil.rmtree(path, ignore_errors=True)
            if attempt > retries or not isinstance(error, TRANSIENT):
                raise UnitError(_step_of(error, step), attempt, error) from error
            time.sleep(PAUSE * 2 ** (attempt - 1))
    raise AssertionError("unreachable: the last attempt returns or raises")


def _step_of(error: BaseException, step: str) -> str:
    """Name the step that an error comes from; all of them are computed while it is written."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        module = frame.f_globals.get("__name__", "")
        if module == batches.__name__:
            return "pipeline"
        if module.startswith(("odc.loader", "rasterio")):
            return "load"
    return step


def _as_dataset(field: Field) -> xr.Dataset:
    if isinstance(field, xr.Dataset):
        return field
    return field.to_dataset(name=PREDICTION)


def _result_catalog(ledger: Ledger, slices: Sequence[GeoSlice]) -> xr.Dataset:
    items: Sequence[Mapping[str, object]] = ledger.items(s.name for s in slices)
    to_geoparquet(from_items(items), ledger.root / CATALOG_FILE)
    return open_catalog(ledger.root)
