"""Sinks: what the outputs of a run are written as."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import xarray as xr
from odc.geo.geobox import GeoBox

from xgeocat.runs.cog import write_cogs
from xgeocat.runs.store import write_zarr

COG_TYPE = "image/tiff; application=geotiff; profile=cloud-optimized"


@dataclass(frozen=True, slots=True)
class Sink:
    """One kind of output: a folder for each unit, with an entry for each variable.

    Parameters
    ----------
    name : str
        What ``run(sink=...)`` calls it.
    suffix : str
        Of the folders.
    extension : str
        Of the entries.
    media_type : str
        Of an entry, as STAC has it.
    write : callable
        Writes a field into a new folder, and returns its grid.
    """

    name: str
    suffix: str
    extension: str
    media_type: str
    write: Callable[[xr.Dataset, Path], GeoBox]


SINKS = {
    sink.name: sink
    for sink in (
        Sink("zarr", ".zarr", "", "application/vnd+zarr; version=3", write_zarr),
        Sink("cog", "", ".tif", COG_TYPE, write_cogs),
    )
}


def find_sink(name: str) -> Sink:
    """Find a sink by its name."""
    if name not in SINKS:
        raise ValueError(f"sink={name!r} is unknown; use one of {sorted(SINKS)}.")
    return SINKS[name]
