"""Samplers: where patches start, when that is not a regular grid over all of the field.

A sampler is a small frozen object that ``patch(..., at=sampler)`` calls with the field and the
size. It is made without a field, so one serves every slice of an archive.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
import warnings
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, TypeVar, get_args

import numpy as np
import pyproj
import shapely
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from shapely.geometry.base import BaseGeometry

from xgeocat.patching.nodata import nodata_of
from xgeocat.patching.patch import PerDim, is_whole_number, spatial_dims
from xgeocat.patching.tiling import Array, Ints, axis_starts

if TYPE_CHECKING:
    import geopandas as gpd
    from odc.geo.geobox import GeoBox

    Geometries: TypeAlias = (
        gpd.GeoDataFrame | gpd.GeoSeries | BaseGeometry | Sequence[BaseGeometry] | ArrayLike
    )

#: A geometry, or an array of them.
G = TypeVar("G", BaseGeometry, NDArray[np.object_])
Field: TypeAlias = xr.DataArray | xr.Dataset
Outside: TypeAlias = Literal["raise", "drop"]
#: A class for each cell of a field, as a code, and the code of each class.
Classes: TypeAlias = tuple[Array, Mapping[Hashable, int]]

#: Edges are cut into pieces no longer than this before they are reprojected, in units of a
#: projected and of a geographic CRS; a straight piece is then a few centimetres off at most.
LONGEST = (1_000.0, 0.01)


class Sampler(Protocol):
    """What says where patches start."""

    def __call__(self, field: Field, size: Mapping[str, int]) -> Ints:
        """First cell of each patch, of `size` pixels along each tiled dimension of `field`.

        Shape ``(patch, dim)``, int64, dims in the order of `size`. A patch may lie partly outside.
        """
        ...


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class _Sampler:
    name: str
    place: partial[Ints]

    def __call__(self, field: Field, size: Mapping[str, int]) -> Ints:
        if not size or not size.keys() <= set(field.dims) or min(size.values()) < 1:
            raise ValueError(
                f"size={dict(size)} must give dims of the field at least 1 pixel; the field has "
                f"{dict(field.sizes)}."
            )
        if not all(field.sizes[dim] for dim in size):
            return np.empty((0, len(size)), np.int64)
        return self.place(field, size)

    def describe(self) -> Mapping[str, object]:
        """Describe, in JSON values, all that the starts depend on beside the field and size."""
        return {"sampler": self.name, **_parameters(self.place)}

    def __repr__(self) -> str:
        given = ", ".join(f"{k}={v!r}" for k, v in _parameters(self.place).items())
        return f"{self.name}({given})"


def grid(overlap: PerDim | None = None, stride: PerDim | None = None) -> _Sampler:
    """Regular grid, row by row, as :func:`xgeocat.patch` lays it by itself.

    Parameters
    ----------
    overlap, stride : int or mapping of str to int, optional
        Pixels shared by neighbours (default 0), or the step between starts instead. A dimension
        that a mapping leaves out has no overlap.

    Raises
    ------
    ValueError
        For both, for numbers out of range, and when called for an overlap not below the size.
    """
    if overlap is not None and stride is not None:
        raise ValueError(f"Give overlap or stride, not both (got {overlap!r} and {stride!r}).")
    if stride is not None:
        return _Sampler("grid", partial(_grid, stride=_pixels("stride", stride, 1)))
    return _Sampler("grid", partial(_grid, overlap=_pixels("overlap", overlap or 0, 0)))


def _grid(
    field: Field, size: Mapping[str, int], *, overlap: PerDim = 0, stride: PerDim | None = None
) -> Ints:
    shared = _per_dim(overlap, size, dict.fromkeys(size, 0))
    for dim, n in shared.items():
        if n >= size[dim]:
            raise ValueError(f"overlap={n} along {dim!r} must be smaller than size={size[dim]}.")
    apart = {dim: n - shared[dim] for dim, n in size.items()}
    steps = apart if stride is None else _per_dim(stride, size, size)
    return _combinations(_regular(field, size, steps))


def jittered(stride: PerDim, amount: PerDim, seed: int) -> _Sampler:
    """Regular grid with every patch moved a little at random, inside the field; row by row.

    Parameters
    ----------
    stride : int or mapping of str to int
        Step of the grid in pixels; a dimension that a mapping leaves out steps by the size.
    amount : int or mapping of str to int
        Pixels that a patch moves at most, either way; a dimension left out is not moved.
    seed : int
        Seed of the random numbers.

    Raises
    ------
    ValueError
        For numbers that are not whole or too small.
    """
    steps, most = _pixels("stride", stride, 1), _pixels("amount", amount, 0)
    place = partial(_jittered, stride=steps, amount=most, seed=_whole("seed", seed, 0))
    return _Sampler("jittered", place)


def _jittered(
    field: Field, size: Mapping[str, int], *, stride: PerDim, amount: PerDim, seed: int
) -> Ints:
    steps = _per_dim(stride, size, size)
    most = np.array(list(_per_dim(amount, size, dict.fromkeys(size, 0)).values()))
    last = _last(field, size)
    starts = np.minimum(_combinations(_regular(field, size, steps)), last)
    low, high = np.maximum(starts - most, 0), np.minimum(starts + most, last)
    return _in_order(np.random.default_rng(seed).integers(low, high, endpoint=True))


def random(n: int, seed: int) -> _Sampler:
    """`n` starts inside the field, row by row, each drawn by itself: one may come twice.

    Raises
    ------
    ValueError
        For numbers that are not whole or too small.
    """
    return _Sampler("random", partial(_random, n=_whole("n", n, 1), seed=_whole("seed", seed, 0)))


def _random(field: Field, size: Mapping[str, int], *, n: int, seed: int) -> Ints:
    rng = np.random.default_rng(seed)
    return _in_order(rng.integers(0, _last(field, size), (n, len(size)), endpoint=True))


def poisson_disk(distance: float, seed: int, n: int | None = None) -> _Sampler:
    """Random starts inside the field, row by row, no two of them near each other.

    Parameters
    ----------
    distance : float
        Least Euclidean distance of two patch centres in pixels, at least 1, along the spatial
        dimensions. Other tiled dimensions are cut at every multiple of their size.
    seed : int
        Seed of the random numbers.
    n : int, optional
        Number of places; fewer, with a warning, where no more fit. By default as many as it takes
        for no other to fit between.

    Raises
    ------
    ValueError
        For a distance below 1, or numbers that are not whole or too small.

    Notes
    -----
    Darts, as R. L. Cook, "Stochastic sampling in computer graphics", ACM Trans. Graphics 5 (1986);
    then each cell of a grid that has room for one place only is searched for what is still free,
    after M. S. Ebeida et al., "Efficient maximal Poisson-disk sampling", ACM Trans. Graphics 30
    (2011). On whole pixels the search is exact.
    """
    far, count = _number("distance", distance), None if n is None else _whole("n", n, 1)
    place = partial(_poisson_disk, distance=far, seed=_whole("seed", seed, 0), n=count)
    return _Sampler("poisson_disk", place)


def _poisson_disk(
    field: Field, size: Mapping[str, int], *, distance: float, seed: int, n: int | None
) -> Ints:
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


def points(places: Geometries, crs: object = None, outside: Outside = "raise") -> _Sampler:
    """One patch around each point, in the order of the points.

    The pixel that contains the point is the middle one of its patch, the one after the middle for
    an even size; on an edge between pixels, that is the pixel of the higher number. Other tiled
    dimensions are cut at every multiple of their size.

    Parameters
    ----------
    places : GeoDataFrame, GeoSeries, Point, MultiPoint, sequence of them, or array
        The points; an array has shape ``(n, 2)``, x or longitude first.
    crs : str, int or CRS, optional
        CRS of the points; by default their own, or the field's if they carry none.
    outside : {"raise", "drop"}, default: "raise"
        What happens to points outside the field.

    Raises
    ------
    TypeError
        For something that holds no points.
    ValueError
        For points that are missing or not finite, or a wrong CRS; when called, for points outside,
        or a field without a regular grid.
    """
    if outside not in get_args(Outside):
        raise ValueError(f"outside={outside!r} is unknown; use one of {get_args(Outside)}.")
    geometries, own = _located(places, crs, "Point")
    all_of_them = shapely.MultiPoint(shapely.get_coordinates(geometries))
    place = partial(_points, places=all_of_them, crs=own, outside=outside)
    return _Sampler("points", place)


def _points(
    field: Field,
    size: Mapping[str, int],
    *,
    places: shapely.MultiPoint,
    crs: pyproj.CRS | None,
    outside: Outside,
) -> Ints:
    geobox = _geobox(field)
    positions = _row_column(geobox, shapely.get_coordinates(_projected(places, crs, geobox)))
    inside = _inside(positions, geobox)
    if outside == "raise" and not inside.all():
        raise ValueError(
            f"{(~inside).sum()} of {len(inside)} points lie outside the field, which has the "
            f"bounds {geobox.boundingbox.bbox} in {_name(geobox.crs)}; the first are "
            f"{shapely.get_coordinates(places)[~inside][:3].tolist()} in {_name(crs)}. Say which "
            "CRS they are in (crs=), or leave them out (outside='drop')."
        )
    return _centred(field, size, np.floor(positions[inside]).astype(np.int64))


def track(line: Geometries, step: float, crs: object = None) -> _Sampler:
    """Patches along a line, where it is inside the field; at most one around each pixel.

    Parameters
    ----------
    line : LineString, MultiLineString, sequence of them, GeoDataFrame or GeoSeries
        Each part is followed from its first point to its last; both get a patch.
    step : float
        Way between patch centres in pixels of the field, at least 1.
    crs : str, int or CRS, optional
        CRS of the line; by default its own, or the field's if it carries none.

    Raises
    ------
    TypeError
        For something that holds no lines.
    ValueError
        For a step below 1, lines that are missing or not finite, or a wrong CRS; when called, for
        lines that are never inside, or a field without a regular grid.
    """
    geometries, own = _located(line, crs, "LineString")
    lines = shapely.MultiLineString(shapely.get_parts(geometries).tolist())
    place = partial(_track, line=lines, step=_number("step", step), crs=own)
    return _Sampler("track", place)


def _track(
    field: Field,
    size: Mapping[str, int],
    *,
    line: shapely.MultiLineString,
    step: float,
    crs: pyproj.CRS | None,
) -> Ints:
    geobox = _geobox(field)
    parts, _ = _near(line, crs, geobox)
    on_grid = shapely.transform(parts, lambda xy: _row_column(geobox, xy)[:, ::-1])
    places = [np.empty((0, 2))]
    for part in on_grid:
        # The end is added, so a last step that reaches it but for rounding is left out.
        way = np.append(np.arange(0, part.length - step * 1e-6, step), part.length)
        places.append(shapely.get_coordinates(shapely.line_interpolate_point(part, way))[:, ::-1])
    positions = np.concatenate(places)
    positions = positions[_inside(positions, geobox)]
    if not len(positions):
        raise ValueError(
            f"The line with the bounds {line.bounds} in {_name(crs)} is never inside the field, "
            f"which has the bounds {geobox.boundingbox.bbox} in {_name(geobox.crs)}. Say which CRS "
            "it is in (crs=), or choose a field that it crosses."
        )
    cells = np.floor(positions).astype(np.int64)
    _, first = np.unique(cells, axis=0, return_index=True)
    return _centred(field, size, cells[np.sort(first)])


def stratified(
    labels: xr.DataArray | gpd.GeoDataFrame, per_class: int, seed: int, column: Hashable = None
) -> _Sampler:
    """Patches around cells drawn at random from every class, row by row, none twice.

    The drawn cell is the middle one of its patch, the one after the middle for an even size. Other
    tiled dimensions are cut at every multiple of their size.

    Parameters
    ----------
    labels : DataArray or GeoDataFrame
        Integers on the field's grid, nodata where there is no class; they are read at once. Or
        polygons: a cell is of the class of the (last) polygon that holds its centre.
    per_class : int
        Cells to draw from each class; with a warning all that it has, where they are fewer.
    seed : int
        Seed of the random numbers.
    column : str, optional
        Column of the GeoDataFrame that holds the class; rows without one are left out.

    Raises
    ------
    TypeError
        For labels that are neither integers nor polygons.
    ValueError
        For numbers that are not whole or too small, an unknown column, or other dims than the
        spatial ones; when called, for labels on another grid, or without a class in the field.
    """
    each, start = _whole("per_class", per_class, 1), _whole("seed", seed, 0)
    place = partial(_stratified, labels=_labels(labels, column), per_class=each, seed=start)
    return _Sampler("stratified", place)


def _stratified(
    field: Field, size: Mapping[str, int], *, labels: partial[Classes], per_class: int, seed: int
) -> Ints:
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


# --- starts ---------------------------------------------------------------------------------------


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


# --- parameters -----------------------------------------------------------------------------------


def _whole(name: str, value: object, least: int) -> int:
    if not is_whole_number(value) or value < least:
        raise ValueError(f"{name}={value!r} must be a whole number, at least {least}.")
    return int(value)


def _number(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
        raise TypeError(f"{name}={value!r} must be a number of pixels.")
    if not 1 <= value < math.inf:
        raise ValueError(f"{name}={value!r} must be a number of pixels, at least 1.")
    return float(value)


def _pixels(name: str, value: PerDim, least: int) -> PerDim:
    if isinstance(value, Mapping):
        return {str(dim): _whole(f"{name}[{dim!r}]", n, least) for dim, n in value.items()}
    return _whole(name, value, least)


def _per_dim(value: PerDim, size: Mapping[str, int], rest: Mapping[str, int]) -> dict[str, int]:
    if not isinstance(value, Mapping):
        return dict.fromkeys(size, value)
    if not value.keys() <= size.keys():
        raise ValueError(f"{dict(value)} names dims that are not tiled; those are {list(size)}.")
    return {dim: value.get(dim, rest[dim]) for dim in size}


def _parameters(place: partial[Any]) -> dict[str, object]:
    return {name: _plain(value) for name, value in place.keywords.items()}


def _plain(value: object) -> object:
    """JSON value for a parameter: geometries, classes and label arrays by their hash."""
    if isinstance(value, partial):
        return _parameters(value)
    if isinstance(value, pyproj.CRS):
        return value.to_string()
    if isinstance(value, BaseGeometry):
        return hashlib.sha256(shapely.to_wkb(value, byte_order=1)).hexdigest()
    if isinstance(value, tuple):
        return hashlib.sha256(json.dumps(value, default=str).encode()).hexdigest()
    if isinstance(value, xr.DataArray):
        head = repr((value.dims, value.shape, value.dtype.str, nodata_of(value)))
        return hashlib.sha256(head.encode() + value.values.tobytes()).hexdigest()
    return value


def _warn(message: str) -> None:
    """Warn at the line of the caller's that led here, however deep in this package."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals["__name__"].startswith("xgeocat."):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level)


# --- places on the grid of a field ----------------------------------------------------------------


def _located(places: object, crs: object, kind: str) -> tuple[Array, pyproj.CRS | None]:
    """Geometries of one kind (single or multi), and the CRS they are in."""
    import geopandas as gpd

    own = None if crs is None else _crs(crs)
    if isinstance(places, (gpd.GeoDataFrame, gpd.GeoSeries)):
        if own is not None and places.crs is not None and own != places.crs:
            raise ValueError(
                f"crs={_name(own)}, but the places are in {_name(places.crs)}. Leave crs= out, or "
                "convert them before: places.to_crs(...)."
            )
        own, geometries = own or places.crs, places.geometry.to_numpy()
    else:
        geometries = np.atleast_1d(np.asarray(places))
        if geometries.dtype.kind in "iuf" and geometries.ndim == 2 and geometries.shape[1] == 2:
            geometries = shapely.points(geometries)
    got = {getattr(geometry, "geom_type", type(geometry).__name__) for geometry in geometries}
    if got - {kind, f"Multi{kind}", "NoneType"} or not got:
        raise TypeError(
            f"Got {sorted(got) or 'nothing'}, and needs {kind} or Multi{kind}: shapely geometries, "
            "a GeoSeries or a GeoDataFrame of them, or an (n, 2) array of x, y for points."
        )
    # Bounds are NaN where there is no geometry, but pass over a coordinate that is NaN.
    broken = ~np.isfinite(shapely.bounds(geometries).sum(axis=1))
    xy, owner = shapely.get_coordinates(geometries, return_index=True)
    broken[owner[~np.isfinite(xy.sum(axis=1))]] = True
    if broken.any():
        raise ValueError(
            f"{broken.sum()} of {len(broken)} places are missing, empty or not finite; the first "
            f"are number {np.flatnonzero(broken)[:3].tolist()}, from 0. Leave them out."
        )
    return shapely.force_2d(geometries), own


def _crs(crs: object) -> pyproj.CRS:
    try:
        return pyproj.CRS.from_user_input(getattr(crs, "proj", crs))
    except pyproj.exceptions.CRSError as error:
        raise ValueError(f"crs={crs!r} is unknown; give e.g. 'EPSG:4326'.") from error


def _name(crs: object) -> str:
    return "no CRS" if crs is None else _crs(crs).to_string()


def _geobox(field: Field) -> GeoBox:
    import odc.geo.xr  # noqa: F401 - registers .odc
    from affine import TransformNotInvertibleError
    from odc.geo.geobox import GeoBox

    try:
        geobox = field.odc.geobox
    except TransformNotInvertibleError:
        geobox = None
    # odc-geo reads the first and last coordinate alone.
    steps = [np.diff(field[d].values) for d in spatial_dims(field) if d in field.coords]
    even = all(np.ptp(step) <= np.abs(step).max() / 100 for step in steps if step.size)
    if not even or not isinstance(geobox, GeoBox) or not geobox.transform.determinant:
        raise ValueError(
            f"The field with the dims {tuple(map(str, field.dims))} has no regular grid to find "
            "places on. Give it evenly spaced y and x coordinates: field.assign_coords(...)."
        )
    return geobox


def _projected(geometry: G, crs: pyproj.CRS | None, geobox: GeoBox) -> G:
    """Geometries in the CRS of a grid; what cannot be projected has infinite coordinates."""
    if crs is None or (geobox.crs and crs.equals(geobox.crs.proj, ignore_axis_order=True)):
        return geometry
    if geobox.crs is None:
        raise ValueError(
            f"The places are in {_name(crs)}, and the field has no CRS. Give it one: "
            "field.odc.assign_crs('EPSG:...')."
        )
    fine = shapely.segmentize(geometry, LONGEST[crs.is_geographic])
    transformer = pyproj.Transformer.from_crs(crs, geobox.crs.proj, always_xy=True)
    # What is not interleaved takes x and y apart, which the stubs do not say.
    return shapely.transform(fine, transformer.transform, interleaved=False)  # type: ignore[arg-type]


def _near(
    geometry: BaseGeometry, crs: pyproj.CRS | None, geobox: GeoBox
) -> tuple[NDArray[np.object_], Ints]:
    """Parts of lines or polygons around a grid, in its CRS, and the number of what each is of."""
    parts, owner = shapely.get_parts(geometry), np.arange(shapely.get_num_geometries(geometry))
    if crs is not None and crs.is_geographic and geobox.crs and not geobox.crs.geographic:
        # Projections fold far from home, so all that is not near is cut off before.
        pieces = [
            shapely.get_parts(shapely.clip_by_rect(parts, *box), return_index=True)
            for box in _neighbourhood(crs, geobox)
        ]
        owner = np.concatenate([index for _, index in pieces])
        order = np.argsort(owner, kind="stable")
        parts, owner = np.concatenate([piece for piece, _ in pieces])[order], owner[order]
    parts = _projected(parts, crs, geobox)
    if not np.isfinite(shapely.get_coordinates(parts)).all():
        raise ValueError(
            f"Part of the geometries, which are in {_name(crs)}, cannot be projected to the CRS of "
            f"the field, {_name(geobox.crs)}. Clip them to its neighbourhood: shapely.clip_by_rect."
        )
    return parts, owner


def _neighbourhood(degrees: pyproj.CRS, geobox: GeoBox) -> list[tuple[float, ...]]:
    """Boxes of longitude and latitude that hold a grid, one for each way to count longitudes."""
    transformer = pyproj.Transformer.from_crs(_crs(geobox.crs), degrees, always_xy=True)
    west, south, east, north = transformer.transform_bounds(*geobox.boundingbox.bbox)
    if not np.isfinite([west, south, east, north]).all():
        # The corners of the grid lie off the globe, as those of a geostationary image.
        return [(-360, -90, 360, 90)]
    east += 360 * (west > east)
    margin = max(east - west, north - south) / 10
    return [
        (west - margin + turn, south - margin, east + margin + turn, north + margin)
        for turn in (-360, 0, 360)
    ]


def _row_column(geobox: GeoBox, xy: Array) -> Array:
    """Row and column, as fractions, of some x and y: shape ``(place, 2)``."""
    a, b, c, d, e, f = geobox.transform[:6]
    x, y = xy[:, 0] - c, xy[:, 1] - f
    if b == d == 0:
        # The offset is divided, not multiplied with an inverse: exact on the edges of pixels.
        return np.stack([y / e, x / a], axis=-1)
    return np.stack([a * y - d * x, e * x - b * y], axis=-1) / (a * e - b * d)


def _inside(positions: Array, geobox: GeoBox) -> NDArray[np.bool_]:
    return np.logical_and.reduce((positions >= 0) & (positions < geobox.shape), axis=1)


def _labels(labels: object, column: Hashable) -> partial[Classes]:
    import geopandas as gpd

    if isinstance(labels, gpd.GeoDataFrame):
        if column not in labels.columns:
            raise ValueError(
                f"column={column!r} must name the classes, as one of {list(labels.columns)} does."
            )
        kept = labels[labels[column].notna()]
        polygons, crs = _located(kept, None, "Polygon")
        collection = shapely.GeometryCollection(polygons.tolist())
        return partial(_painted, polygons=collection, classes=tuple(kept[column]), crs=crs)
    if not isinstance(labels, xr.DataArray) or labels.dtype.kind not in "iub":
        got = getattr(labels, "dtype", type(labels).__name__)
        raise TypeError(
            f"labels are {got}, and must be a DataArray of integers, e.g. labels.fillna(0)"
            ".astype('uint8').assign_attrs(nodata=0), or a GeoDataFrame of polygons."
        )
    if set(labels.dims) != set(spatial_dims(labels)) or column is not None:
        raise ValueError(
            f"labels with the dims {labels.dims} and column={column!r}: a DataArray must have the "
            "two spatial dims alone, and has no columns. Select a time or band with .isel()."
        )
    return partial(_gridded, labels=labels.copy().compute())


def _gridded(field: Field, *, labels: xr.DataArray) -> Classes:
    import odc.geo.xr  # noqa: F401 - registers .odc

    spatial = spatial_dims(field)
    crs = {grid.odc.crs for grid in (field, labels)} - {None}
    if len(crs) > 1 or not all(_same_axis(field, labels, dim) for dim in spatial):
        raise ValueError(
            f"The labels, {dict(labels.sizes)} in {_name(labels.odc.crs)}, are not on the grid of "
            f"the field, {dict(field.sizes)} in {_name(field.odc.crs)}: shape, coordinates or CRS "
            "differ. Use labels.odc.reproject(field.odc.geobox, resampling='nearest')."
        )
    codes, nodata = labels.transpose(*spatial).values, nodata_of(labels)
    return codes, {code: code for code in np.unique(codes).tolist() if code != nodata}


def _same_axis(field: Field, labels: xr.DataArray, dim: str) -> bool:
    if labels.sizes.get(dim) != field.sizes[dim] or (dim in labels.coords) != (dim in field.coords):
        return False
    if dim not in field.coords:
        return True
    here, there = field[dim].values, labels[dim].values
    pixel = abs(here[-1] - here[0]) / max(len(here) - 1, 1)
    return np.allclose(here, there, rtol=0, atol=pixel / 100)


def _painted(
    field: Field,
    *,
    polygons: shapely.GeometryCollection,
    classes: tuple[Hashable, ...],
    crs: pyproj.CRS | None,
) -> Classes:
    import pandas as pd
    from rasterio.features import rasterize

    geobox = _geobox(field)
    shapes, owner = _near(polygons, crs, geobox)
    numbers, names = pd.factorize(pd.Series(classes), sort=True)
    codes = np.zeros(geobox.shape, np.min_scalar_type(len(names)))
    if len(shapes):
        burnt = zip(shapes, (numbers + 1)[owner].tolist(), strict=True)
        rasterize(burnt, out=codes, transform=geobox.transform)
    return codes, {name: code for code, name in enumerate(names.tolist(), start=1)}
