"""Samplers: where patches start, when that is not a regular grid over all of the field.

A sampler is a small frozen object that ``patch(..., at=sampler)`` calls with the field and the
size. It is made without a field, so one serves every slice of an archive.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, get_args

import numpy as np
import pyproj
import shapely
import xarray as xr
from numpy.typing import ArrayLike
from shapely.geometry.base import BaseGeometry

from xgeocat.patching import placing
from xgeocat.patching.nodata import nodata_of
from xgeocat.patching.patch import PerDim, is_whole_number
from xgeocat.patching.places import labels_of, located
from xgeocat.patching.placing import Outside
from xgeocat.patching.tiling import Ints

if TYPE_CHECKING:
    import geopandas as gpd

    Geometries: TypeAlias = (
        gpd.GeoDataFrame | gpd.GeoSeries | BaseGeometry | Sequence[BaseGeometry] | ArrayLike
    )

Field: TypeAlias = xr.DataArray | xr.Dataset


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
        return _Sampler("grid", partial(placing.grid, stride=_pixels("stride", stride, 1)))
    return _Sampler("grid", partial(placing.grid, overlap=_pixels("overlap", overlap or 0, 0)))


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
    place = partial(placing.jittered, stride=steps, amount=most, seed=_whole("seed", seed, 0))
    return _Sampler("jittered", place)


def random(n: int, seed: int) -> _Sampler:
    """`n` starts inside the field, row by row, each drawn by itself: one may come twice.

    Raises
    ------
    ValueError
        For numbers that are not whole or too small.
    """
    return _Sampler(
        "random", partial(placing.random, n=_whole("n", n, 1), seed=_whole("seed", seed, 0))
    )


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
    place = partial(placing.poisson_disk, distance=far, seed=_whole("seed", seed, 0), n=count)
    return _Sampler("poisson_disk", place)


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
    geometries, own = located(places, crs, "Point")
    all_of_them = shapely.MultiPoint(shapely.get_coordinates(geometries))
    place = partial(placing.points, places=all_of_them, crs=own, outside=outside)
    return _Sampler("points", place)


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
    geometries, own = located(line, crs, "LineString")
    lines = shapely.MultiLineString(shapely.get_parts(geometries).tolist())
    place = partial(placing.track, line=lines, step=_number("step", step), crs=own)
    return _Sampler("track", place)


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
    place = partial(
        placing.stratified, labels=labels_of(labels, column), per_class=each, seed=start
    )
    return _Sampler("stratified", place)


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
