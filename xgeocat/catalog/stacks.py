"""A catalog of stacks: NetCDF files and Zarr groups with an axis of time, or without."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

import numpy as np
import pyproj
import shapely
import xarray as xr
from numpy.typing import NDArray

from xgeocat.catalog.aoi import WGS84, Where, outline, reproject, same_crs
from xgeocat.catalog.cf import StackGrid, axes_of, nodata_of, stack_grid, stack_times
from xgeocat.catalog.fields import STEP, VARIABLE, ZARR, is_unsigned, media_type, open_stack
from xgeocat.catalog.interval import ALWAYS, Interval, parse_interval
from xgeocat.catalog.sources import Json
from xgeocat.catalog.stac import bbox_of, from_items, native_fields, time_fields
from xgeocat.storage.reading import REMOTE

#: Stacks opened at once: they wait for the disk or the network, not for a core.
READERS = 16


def from_stacks(
    stacks: Iterable[str | os.PathLike[str]],
    *,
    variables: str | Sequence[str] | None = None,
    scenes: Literal["step", "stack"] = "step",
    crs: object | None = None,
    grid_crs: object | None = None,
    collection: str | None = None,
) -> xr.Dataset:
    """Build a catalog from stacks: NetCDF files and Zarr groups, read by their CF attributes.

    Parameters
    ----------
    stacks : iterable of path or URL
        NetCDF 4 files (``.nc``, ``.h5``; needs ``xgeocat[netcdf]``) and Zarr groups (v2 or v3), on
        a disk, in an object store or on a web server (needs ``xgeocat[s3]``).
    variables : str or sequence of str, optional
        What becomes an asset; by default all numbers over y and x. A dim beside time, y and x makes
        bands of one: ``"t.1"``, ``"t.2"``, or by its coordinate ``"t_850"``.
    scenes : {"step", "stack"}, default: "step"
        What a scene is: a step of time, or a stack with all of its steps.
    crs : CRS, optional
        CRS of the catalog's footprints; by default the one that all stacks share.
    grid_crs : CRS, optional
        CRS of stacks that do not say their own by a grid mapping. Longitudes and latitudes without
        one are WGS 84.
    collection : str, optional
        Collection that the scenes belong to.

    Returns
    -------
    Dataset
        One row per step (or stack), in order. Footprints are outlines of cells, from their bounds
        or half a cell beyond their centres, cut at the antimeridian. Times are those of CF, in UTC,
        with their bounds; a stack without any has those of its attributes ``time_coverage_start``
        and ``time_coverage_end``, or holds at all times. Grids are north up, with longitudes from
        -180 on, whatever way the stack has them; pixels are the same.

    Raises
    ------
    TypeError
        For a single path, or a Dataset.
    ValueError
        With the list of offenders: for stacks that cannot be opened, whose grids are curvilinear or
        uneven or have no CRS, or whose times are of another calendar; and for stacks in several
        CRSs without `crs`.
    """
    if isinstance(stacks, (str, os.PathLike, xr.Dataset, xr.DataArray)):
        raise TypeError(
            f"from_stacks takes a list of paths; got a {type(stacks).__name__}. Give [path]; a "
            "Dataset in memory is a domain by itself: RasterDomain(ds)."
        )
    if scenes not in ("step", "stack"):
        raise ValueError(f"scenes={scenes!r}: a scene is a 'step' of time, or a whole 'stack'.")
    hrefs = [_absolute(stack) for stack in stacks]
    given = None if grid_crs is None else pyproj.CRS.from_user_input(grid_crs)
    wanted = [variables] if isinstance(variables, str) else variables and list(variables)
    found = _read_all(hrefs, wanted, given)
    target = _common_crs(found, crs)
    items = [
        item
        for name, stack in zip(_names(hrefs), found, strict=True)
        for item in _items(name, stack, scenes, target, collection)
    ]
    return from_items(items, crs=target)


@dataclass(frozen=True, slots=True)
class Stack:
    """What is in a stack.

    Parameters
    ----------
    href : str
        Where it is.
    assets : dict
        Each variable as a STAC asset, without its step.
    grids : list of StackGrid
        Of its variables.
    steps : numpy.ndarray
        Times, first and last moments, ``(steps, 3)``; see :func:`cf.stack_times`.
    covers : (datetime64, datetime64)
        When it is, if it has no steps.
    """

    href: str
    assets: dict[str, Json]
    grids: list[StackGrid]
    steps: NDArray[np.datetime64]
    covers: Interval


def _absolute(stack: str | os.PathLike[str]) -> str:
    if isinstance(stack, (xr.Dataset, xr.DataArray)):
        raise TypeError(
            "from_stacks takes paths; got a Dataset in memory, which no catalog could find again. "
            "Give the path it was opened from, or make it a domain: RasterDomain(ds)."
        )
    href = os.fspath(stack)
    return (
        href.rstrip("/")
        if href.startswith(REMOTE)
        else os.path.abspath(href.removeprefix("file://"))
    )


def _read_all(
    hrefs: Sequence[str], variables: Sequence[str] | None, crs: pyproj.CRS | None
) -> list[Stack]:
    wrong: list[str] = []

    def read(href: str) -> Stack | None:
        try:
            return _read(href, variables, crs)
        except (OSError, ValueError, KeyError) as error:
            wrong.append(f"{href}: {str(error) or repr(error)}")
            return None

    with ThreadPoolExecutor(READERS) as pool:
        found = list(pool.map(read, hrefs))
    if wrong:
        shown = "\n  ".join(sorted(wrong)[:20])
        raise ValueError(
            f"{len(wrong)} of {len(hrefs)} stacks cannot be read. Mend them, or leave them out:\n"
            f"  {shown}"
        )
    return [stack for stack in found if stack is not None]


def _read(href: str, variables: Sequence[str] | None, crs: pyproj.CRS | None) -> Stack:
    with open_stack(href) as ds:
        names = _fields(ds) if variables is None else list(variables)
        if variables is None and media_type(href) == ZARR:
            names.sort()  # in Zarr they have no order
        missing = [name for name in names if name not in ds.data_vars]
        if missing or not names:
            # What would be a field says why it is none.
            largest = max(ds.data_vars, key=lambda n: ds[n].ndim, default=None)
            if not missing and largest is not None and ds[largest].ndim >= 2:
                stack_grid(ds, str(largest), crs)
            raise ValueError(
                f"it has no variables {missing or 'over y and x'}; it has "
                f"{ {str(n): tuple(map(str, v.dims)) for n, v in ds.data_vars.items()} }"
            )
        grids = [stack_grid(ds, name, crs) for name in names]
        times = [stack_times(ds, name) for name in names]
        steps = times[0][1]
        if any(not np.array_equal(steps, other) for _, other in times):
            raise ValueError(
                f"its variables {names} have different times. Name those of one: variables=[...]"
            )
        assets = {
            name: _asset(href, ds, name, grid, time)
            for name, grid, (time, _) in zip(names, grids, times, strict=True)
        }
        return Stack(href, assets, grids, steps, _covers(ds))


def _fields(ds: xr.Dataset) -> list[str]:
    """Names of what is a field of numbers over y and x."""
    return [
        str(name)
        for name, var in ds.data_vars.items()
        if var.dtype.kind in "iufb" and {"X", "Y"} <= axes_of(ds, str(name)).keys()
    ]


def _covers(ds: xr.Dataset) -> Interval:
    """When a stack without steps is, by the conventions of data discovery (ACDD)."""
    first, last = (ds.attrs.get(f"time_coverage_{which}") for which in ("start", "end"))
    return parse_interval((first, last)) if first and last else ALWAYS


def _asset(href: str, ds: xr.Dataset, name: str, grid: StackGrid, time: str | None) -> Json:
    """Describe a variable as a STAC asset."""
    var = ds[name]
    more = [d for d in var.dims if d not in (time, grid.y, grid.x) and var.sizes[d] > 1]
    if len(more) > 1:
        raise ValueError(
            f"{name!r} has the dims {tuple(map(str, var.dims))}: beside time, y and x there may be "
            "one more, for bands. Leave it out: variables=[...]"
        )
    if var.dtype.kind not in "iufb":
        raise ValueError(f"{name!r} holds {var.dtype}, no numbers. Leave it out: variables=[...]")
    dtype = np.dtype(f"u{var.dtype.itemsize}") if is_unsigned(var) else var.dtype
    nodata = nodata_of(var)
    if nodata is not None and is_unsigned(var):
        nodata %= 2 ** (8 * dtype.itemsize)
    band: Json = {"data_type": str(np.dtype(dtype).newbyteorder("="))}
    if nodata is not None:
        # JSON has no NaN; STAC writes it as text.
        band["nodata"] = nodata if math.isfinite(nodata) else str(nodata)
    for key, cf_name in (("raster:scale", "scale_factor"), ("raster:offset", "add_offset")):
        if cf_name in var.attrs:
            band[key] = float(np.ravel(var.attrs[cf_name])[0])
    if "units" in var.attrs:
        band["unit"] = str(var.attrs["units"])
    code = grid.crs.to_authority()
    return {
        "href": href,
        "type": media_type(href),
        "roles": ["data"],
        **({"title": str(var.attrs["long_name"])} if "long_name" in var.attrs else {}),
        "proj:code": ":".join(code) if code else grid.crs.to_wkt(),
        "proj:shape": list(grid.shape),
        "proj:transform": list(grid.transform)[:6],
        "bands": [{**band, **named} for named in _bands(var, more)],
        VARIABLE: name,
    }


def _bands(var: xr.DataArray, more: Sequence[Hashable]) -> list[Json]:
    """Names of the bands that one dim more makes, where its coordinate gives them."""
    if not more:
        return [{}]
    if more[0] not in var.coords:
        return [{}] * var.sizes[more[0]]
    values = var[more[0]].values
    texts = [f"{v:g}" if values.dtype.kind in "iuf" else str(v) for v in values.tolist()]
    return [{"name": f"{var.name}_{text}"} for text in texts]


def _common_crs(stacks: Sequence[Stack], crs: object | None) -> pyproj.CRS:
    if crs is not None:
        return pyproj.CRS.from_user_input(crs)
    found: list[pyproj.CRS] = []
    for grid in (grid for stack in stacks for grid in stack.grids):
        if not any(same_crs(grid.crs, other) for other in found):
            found.append(grid.crs)
    if len(found) > 1:
        raise ValueError(
            f"The stacks are in {len(found)} CRSs, {[c.to_string()[:40] for c in found[:5]]}, and "
            "a catalog's footprints are in one. Choose it: from_stacks(..., crs='EPSG:4326')."
        )
    return found[0] if found else WGS84


def _names(hrefs: Sequence[str]) -> list[str]:
    """Name of each stack: its stem, with its folder where stems are not unique."""
    paths = [PurePosixPath(href.partition("?")[0]) for href in hrefs]
    stems = [path.stem for path in paths]
    count = Counter(stems)
    return [
        stem if count[stem] == 1 else f"{path.parent.name}_{stem}"
        for path, stem in zip(paths, stems, strict=True)
    ]


def _items(
    name: str, stack: Stack, scenes: str, crs: pyproj.CRS, collection: str | None
) -> Iterator[Json]:
    """Describe the scenes of a stack as STAC items."""
    outlines = [reproject(Where(grid.footprint, grid.crs), crs) for grid in _distinct(stack.grids)]
    footprint = outlines[0] if len(outlines) == 1 else shapely.union_all(outlines)
    drawn = outline(Where(footprint, crs))
    fixed: Json = {
        "type": "Feature",
        "stac_version": "1.1.0",
        "geometry": json.loads(shapely.to_geojson(drawn)),
        "bbox": bbox_of(drawn),
        "links": [],
        **({} if collection is None else {"collection": collection}),
    }
    native = native_fields(footprint, crs)
    if scenes == "stack" or not len(stack.steps):
        interval = (
            (stack.steps[:, 1].min(), stack.steps[:, 2].max()) if len(stack.steps) else stack.covers
        )
        properties = {**time_fields(interval), **native}
        yield {**fixed, "id": name, "properties": properties, "assets": stack.assets}
        return
    for time, first, last in stack.steps:
        written = np.datetime_as_string(time, unit="us")
        moment = written.replace("-", "").replace(":", "").removesuffix(".000000")
        yield {
            **fixed,
            "id": f"{name}_{moment}",
            "properties": {**time_fields((first, last)), **native},
            "assets": {k: {**asset, STEP: written} for k, asset in stack.assets.items()},
        }


def _distinct(grids: Sequence[StackGrid]) -> list[StackGrid]:
    """Those grids that cover something else."""
    return list({(grid.shape, grid.transform, grid.crs): grid for grid in grids}.values())
