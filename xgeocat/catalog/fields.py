"""Fields of stacks: what NetCDF files and Zarr groups hold, as it is stored."""

from __future__ import annotations

import numpy as np
import pyproj
import xarray as xr
from dask.base import tokenize

from xgeocat.catalog.cf import stack_grid, stack_times
from xgeocat.storage.reading import readable, zarr_store

ZARR, NETCDF = "application/vnd.zarr", "application/netcdf"
NETCDF_SUFFIXES = (".nc", ".nc4", ".cdf", ".h5", ".hdf5", ".he5")
#: What an asset says of the part of a stack that it is: the variable, and the step of time.
VARIABLE, STEP = "geocat:variable", "geocat:step"


def media_type(href: str) -> str:
    """What a stack is stored as, by its name: Zarr where it is not that of a NetCDF file."""
    return NETCDF if href.partition("?")[0].lower().endswith(NETCDF_SUFFIXES) else ZARR


def open_stack(href: str) -> xr.Dataset:
    """Open a stack lazily, without dask: numbers and times as they are stored.

    Parameters
    ----------
    href : path or URL
        A NetCDF 4 file or a Zarr group (v2 or v3, consolidated or not), on a disk, in an object
        store, or on a web server.

    Raises
    ------
    ImportError
        For NetCDF without the extra ``xgeocat[netcdf]``.
    OSError
        When there is nothing, or something else.
    """
    if media_type(href) == NETCDF:
        try:
            import h5netcdf  # noqa: F401 - xarray's engine
            import h5py  # noqa: F401 - which needs it
        except ImportError as error:
            raise ImportError(
                f"To read NetCDF ({href}) h5netcdf and h5py are needed: pip install "
                "'xgeocat[netcdf]'."
            ) from error
        return xr.open_dataset(
            readable(href),  # type: ignore[arg-type] # a file, which xarray takes
            engine="h5netcdf",
            mask_and_scale=False,
            decode_times=False,
            cache=False,
        )
    for consolidated in (True, False):
        try:
            return xr.open_dataset(
                zarr_store(href),  # type: ignore[arg-type]
                engine="zarr",
                consolidated=consolidated,
                mask_and_scale=False,
                decode_times=False,
                cache=False,
            )
        except (ValueError, KeyError):
            if not consolidated:
                raise
    raise AssertionError("unreachable: the second way returns or raises")


def is_unsigned(var: xr.DataArray) -> bool:
    """Tell whether integers of a variable are meant without a sign (NetCDF 3 has no others)."""
    return var.dtype.kind == "i" and str(var.attrs.get("_Unsigned", "")).lower() == "true"


def open_field(
    href: str,
    variable: str,
    step: str | None,
    *,
    band: int = 1,
    crs: pyproj.CRS | None = None,
    chunks: int = 2048,
) -> xr.DataArray:
    """Open one variable of a stack on its grid, north up, at one step of time.

    Parameters
    ----------
    href : path or URL
        See :func:`open_stack`.
    variable : str
        Its name.
    step : str or None
        ISO 8601, UTC; None for all steps.
    band : int
        Along the dim that is neither time nor space, if any; from 1.
    crs : pyproj.CRS, optional
        CRS of the grid, where the stack does not say it.
    chunks : int
        Chunk edge in pixels, as far as that is whole stored chunks.

    Returns
    -------
    DataArray
        Dims ``(y, x)``, or ``(time, y, x)`` without `step`; as stored, dask-backed.

    Raises
    ------
    ValueError
        When the stack does not have the step.
    """
    ds = open_stack(href)
    grid, (time, steps) = stack_grid(ds, variable, crs), stack_times(ds, variable)
    field = ds[variable]
    stored = field.encoding.get("preferred_chunks", {})
    size = {dim: _whole(int(stored.get(dim, chunks)), chunks) for dim in (grid.y, grid.x)}
    if time is not None and step is not None:
        found = np.flatnonzero(steps[:, 0] == np.datetime64(step, "us"))
        if not len(found):
            raise ValueError(
                f"{href} has no step {step} of {variable!r}; it has {len(steps)}, from "
                f"{steps[0, 0]} to {steps[-1, 0]}. Make the catalog again: from_stacks(...)."
            )
        field = field.isel({time: int(found[0])})
    elif time is not None:
        field = field.drop_vars(time, errors="ignore").rename({time: "time"})
        field = field.assign_coords(time=("time", steps[:, 0]))
        size["time"] = 1
    others = [d for d in field.dims if d not in ("time", grid.y, grid.x)]
    field = field.isel({d: band - 1 if field.sizes[d] > 1 else 0 for d in others})
    # Cut to what is wanted before dask hears of it: a stack may have thousands of steps.
    field = field.chunk(size, token=tokenize(href, variable, step, band))
    placed = grid.placed(field.reset_coords(drop=True))
    placed.encoding = {}
    return placed.astype(f"u{placed.dtype.itemsize}") if is_unsigned(placed) else placed


def _whole(stored: int, wanted: int) -> int:
    return max(stored, wanted // stored * stored)
