"""Placing: how each sampler finds the starts of patches; see `xgeocat.patching.samplers`."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from typing import Literal, TypeAlias

import numpy as np
import pyproj
import shapely
import xarray as xr

from xgeocat.patching.patch import PerDim, spatial_dims
from xgeocat.patching.places import (
    Classes,
    crs_name,
    grid_of,
    inside_grid,
    near,
    projected,
    row_column,
)
from xgeocat.patching.tiling import Ints, axis_starts

Field: TypeAlias = xr.DataArray | xr.Dataset
Outside: TypeAlias = Literal["raise", "drop"]


def grid(
    field: Field, size: Mapping[str, int], *, overlap: PerDim = 0, stride: PerDim | None = None
) -> Ints:
    """Regular grid."""
    shared = _per_dim(overlap, size, dict.fromkeys(size, 0))
    for dim, n in shared.items():
        if n >= size[dim]:
            raise ValueError(f"overlap={n} along {dim!r} must be smaller than size={size[dim]}.")
    apart = {dim: n - shared[dim] for dim, n in size.items()}
    steps = apart if stride is None else _per_dim(stride, size, size)
    return _combinations(_regular(field, size, steps))


def jittered(
    field: Field, size: Mapping[str, int], *, stride: PerDim, amount: PerDim, seed: int
) -> Ints:
    """Regular grid, moved."""
    steps = _per_dim(stride, size, size)
    most = np.array(list(_per_dim(amount, size, dict.fromkeys(size, 0)).values()))
    last = _last(field, size)
    starts = np.minimum(_combinations(_regular(field, size, steps)), last)
    low, high = np.maximum(starts - most, 0), np.minimum(starts + most, last)
    return _in_order(np.random.default_rng(seed).integers(low, high, endpoint=True))


def random(field: Field, size: Mapping[str, int], *, n: int, seed: int) -> Ints:
    """Anywhere."""
    rng = np.random.default_rng(seed)
    return _in_order(rng.integers(0, _last(field, size), (n, len(size)), endpoint=True))


def poisson_disk(
    field: Field, size: Mapping[str, int], *, distance: float, seed: int, n: int | None
) -> Ints:
    """At random, apart from each other."""
    rng = np.random.default_rng(seed)
    shape = _last(field, {dim: size[dim] for dim in _spatial(field, size)}) + 1
    edge = math.ceil(distance / math.sqrt(2))
    reach = math.ceil((distance - 1) / edge)
    least = math.ceil(distance**2)
    # At a random origin, for the edges of cells not to show in the density of many draws.
    origin = -rng.integers(edge, size=2)
    counts = -((origin - shape) // edge)

    def boxes() -> Iterator[tuple[Ints, Ints]]:
        for _ in range(int(counts.prod())):
            dart = rng.integers(shape)
            yield dart, dart + 1
        for cell in rng.permutation(counts.prod()):
            lo = origin + edge * np.array(divmod(cell, counts[1]))
            yield np.maximum(lo, 0), np.minimum(lo + edge, shape)

    found: dict[tuple[int, int], tuple[int, int]] = {}
    for lo, hi in boxes():
        i, j = ((lo - origin) // edge).tolist()
        if (i, j) in found:
            continue
        around = product(range(i - reach, i + reach + 1), range(j - reach, j + reach + 1))
        rows, columns = np.arange(lo[0], hi[0]), np.arange(lo[1], hi[1])
        free = np.ones((rows.size, columns.size), bool)
        for row, column in (found[cell] for cell in around if cell in found):
            free &= np.add.outer((rows - row) ** 2, (columns - column) ** 2) >= least
        if free.any():
            row, column = divmod(int(rng.choice(np.flatnonzero(free))), columns.size)
            found[i, j] = (int(lo[0]) + row, int(lo[1]) + column)
            if len(found) == n:
                break
    if n is not None and len(found) < n:
        _warn(f"Only {len(found)} of n={n} patches fit at distance={distance}. Lower one of them.")
    return _in_order(_combined(field, size, np.array(list(found.values()), np.int64)))


def points(
    field: Field,
    size: Mapping[str, int],
    *,
    places: shapely.MultiPoint,
    crs: pyproj.CRS | None,
    outside: Outside,
) -> Ints:
    """Around points."""
    geobox = grid_of(field)
    positions = row_column(geobox, shapely.get_coordinates(projected(places, crs, geobox)))
    inside = inside_grid(positions, geobox)
    if outside == "raise" and not inside.all():
        raise ValueError(
            f"{(~inside).sum()} of {len(inside)} points lie outside the field, which has the "
            f"bounds {geobox.boundingbox.bbox} in {crs_name(geobox.crs)}; the first are "
            f"{shapely.get_coordinates(places)[~inside][:3].tolist()} in {crs_name(crs)}. Say "
            "which CRS they are in (crs=), or leave them out (outside='drop')."
        )
    return _centred(field, size, np.floor(positions[inside]).astype(np.int64))


def track(
    field: Field,
    size: Mapping[str, int],
    *,
    line: shapely.MultiLineString,
    step: float,
    crs: pyproj.CRS | None,
) -> Ints:
    """Along a line."""
    geobox = grid_of(field)
    parts, _ = near(line, crs, geobox)
    on_grid = shapely.transform(parts, lambda xy: row_column(geobox, xy)[:, ::-1])
    places = [np.empty((0, 2))]
    for part in on_grid:
        # The end is added, so a last step that reaches it but for rounding is left out.
        way = np.append(np.arange(0, part.length - step * 1e-6, step), part.length)
        places.append(shapely.get_coordinates(shapely.line_interpolate_point(part, way))[:, ::-1])
    positions = np.concatenate(places)
    positions = positions[inside_grid(positions, geobox)]
    if not len(positions):
        raise ValueError(
            f"The line with the bounds {line.bounds} in {crs_name(crs)} is never inside the field, "
            f"which has the bounds {geobox.boundingbox.bbox} in {crs_name(geobox.crs)}. Say which "
            "CRS it is in (crs=), or choose a field that it crosses."
        )
    cells = np.floor(positions).astype(np.int64)
    _, first = np.unique(cells, axis=0, return_index=True)
    return _centred(field, size, cells[np.sort(first)])


def stratified(
    field: Field, size: Mapping[str, int], *, labels: partial[Classes], per_class: int, seed: int
) -> Ints:
    """Around cells of every class."""
    rng = np.random.default_rng(seed)
    codes, classes = labels(field)
    having = {name: np.flatnonzero(codes == code) for name, code in classes.items()}
    few = {name: cells.size for name, cells in having.items() if cells.size < per_class}
    if not any(cells.size for cells in having.values()):
        raise ValueError(
            f"No cell of the field has a class, of {list(having)}. Choose a field where the labels "
            "are, or check their CRS and nodata."
        )
    if few:
        _warn(f"Fewer cells than per_class={per_class}, so all are taken (class: cells): {few}.")
    drawn = [rng.choice(c, min(per_class, c.size), replace=False) for c in having.values()]
    cells = np.stack(np.unravel_index(np.concatenate(drawn), codes.shape), axis=-1)
    return _in_order(_centred(field, size, cells))


def _combinations(axes: Sequence[Ints]) -> Ints:
    """Every combination of one number from each axis, row-major."""
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(axes))


def _regular(field: Field, size: Mapping[str, int], steps: Mapping[str, int]) -> list[Ints]:
    # Past the edge, so that it is the boundary that shifts, pads, drops or raises.
    return [axis_starts(field.sizes[d], n, steps[d], "pad", d) for d, n in size.items()]


def _last(field: Field, size: Mapping[str, int]) -> Ints:
    return np.array([max(field.sizes[dim] - n, 0) for dim, n in size.items()], np.int64)


def _in_order(starts: Ints) -> Ints:
    return starts[np.lexsort(starts.T[::-1])]


def _spatial(field: Field, size: Mapping[str, int]) -> tuple[str, str]:
    dims = spatial_dims(field)
    if not set(dims) <= size.keys():
        raise ValueError(f"size={dict(size)} must give both spatial dims, {dims}.")
    return dims


def _centred(field: Field, size: Mapping[str, int], cells: Ints) -> Ints:
    """Starts of the patches around some cells, which have the shape ``(place, 2)``."""
    dims = _spatial(field, size)
    edge = np.array([size[dim] for dim in dims])
    fits = edge <= [field.sizes[dim] for dim in dims]
    return _combined(field, size, np.where(fits, cells - edge // 2, 0))


def _combined(field: Field, size: Mapping[str, int], starts: Ints) -> Ints:
    """Combine spatial starts, of shape ``(place, 2)``, with the regular ones of the other dims."""
    spatial = _spatial(field, size)
    others = {dim: n for dim, n in size.items() if dim not in spatial}
    table = _combinations([np.arange(len(starts)), *_regular(field, others, others)])
    columns = [*starts[table[:, 0]].T, *table[:, 1:].T]
    per_dim = dict(zip((*spatial, *others), columns, strict=True))
    return np.stack([per_dim[dim] for dim in size], axis=-1)


def _per_dim(value: PerDim, size: Mapping[str, int], rest: Mapping[str, int]) -> dict[str, int]:
    if not isinstance(value, Mapping):
        return dict.fromkeys(size, value)
    if not value.keys() <= size.keys():
        raise ValueError(f"{dict(value)} names dims that are not tiled; those are {list(size)}.")
    return {dim: value.get(dim, rest[dim]) for dim in size}


def _warn(message: str) -> None:
    """Warn at the line of the caller's that led here, however deep in this package."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals["__name__"].startswith("xgeocat."):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level)
