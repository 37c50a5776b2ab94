"""Patch: cut a field into windows of one size."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, TypeAlias, TypeGuard, TypeVar

import numpy as np
import xarray as xr

from xgeocat.patching.cut import cut
from xgeocat.patching.index import PATCH, Parent, PatchIndex
from xgeocat.patching.tiling import Array, Boundary, Ints, Tiling, plan, settle

if TYPE_CHECKING:
    import dask.array as da

    from xgeocat.patching.samplers import Sampler

#: What goes in comes out; the third is for a caller who knows no more than that it is one of them.
Field = TypeVar("Field", xr.DataArray, xr.Dataset, xr.DataArray | xr.Dataset)
PerDim: TypeAlias = int | Mapping[str, int]

#: Names that mean "the spatial dimensions" when a size is given as one number.
SPATIAL_DIMS = (("y", "x"), ("latitude", "longitude"), ("lat", "lon"))


def patch(
    field: Field,
    size: PerDim,
    *,
    overlap: PerDim | None = None,
    stride: PerDim | None = None,
    at: Sampler | Ints | None = None,
    boundary: Boundary = "shift",
) -> Field:
    """Cut a field into patches.

    Parameters
    ----------
    field : DataArray or Dataset
        Any field on a grid, numpy- or dask-backed. Dask-backed fields stay lazy.
    size : int or mapping of str to int
        Patch edge in pixels; one number means both spatial dimensions. Any dimensions may be named,
        ``dict(time=3, y=256, x=256)``; the others ride along.
    overlap : int or mapping of str to int, optional
        Pixels shared by neighbouring patches, smaller than `size`; default 0.
    stride : int or mapping of str to int, optional
        Step between patch starts, instead of `overlap`.
    at : sampler or numpy.ndarray of int, optional
        Where patches start, instead of a regular grid: one of :mod:`xgeocat.samplers`, or an array
        of shape ``(patch, dim)`` with the first cell of each, in the order of `size`.
    boundary : {"shift", "pad", "drop", "raise"}, default: "shift"
        Where the field is not a whole number of strides: the last patch moves in, runs past the
        edge and is filled by reflection, is left out, or is refused. A field smaller than a patch
        is padded under "shift". With `at`: what happens to patches that lie partly outside.

    Returns
    -------
    DataArray or Dataset
        Dims ``(patch, ..., *tiled)``, tiled dimensions at patch size and without coordinates; a
        PatchIndex with coordinates ``y_start``, ``x_start`` says where each patch came from.
        Dtype, attrs and all other coordinates are kept.

    Raises
    ------
    ValueError
        For an unknown dimension, a size below one, an overlap not smaller than the size, both
        overlap and stride, or a field that does not fit under ``boundary="raise"``.
    """
    if PATCH in field.dims:
        raise ValueError(
            f"These are patches already, with dims {tuple(map(str, field.dims))}. Stitch them "
            "before they are cut again."
        )
    sizes = _named(field, size, "size")
    if at is not None and (overlap is not None or stride is not None):
        raise ValueError("at= says where every patch starts: leave out overlap and stride.")
    tiling = plan(
        sizes={str(d): n for d, n in field.sizes.items()},
        chunks=_chunks(field),
        size=sizes,
        stride=_strides(field, sizes, overlap, stride),
        boundary=boundary if at is None else "shift",
    )
    starts = tiling.starts() if at is None else _placed(field, at, sizes, tiling, boundary)
    parent = Parent(
        tiling,
        _layouts(field),
        {n: c.variable for n, c in field.coords.items() if set(c.dims) & set(tiling.dims)},
        {n: c.variable for n, c in field.coords.items() if "crs_wkt" in c.attrs},
    )
    index = PatchIndex(parent, starts)
    if isinstance(field, xr.DataArray):
        return _cut_array(field, index)
    _refuse_partly_tiled(field, tiling)
    cut = {
        name: _cut_array(var, index) if set(tiling.dims) <= set(var.dims) else var
        for name, var in field.data_vars.items()
    }
    unused = {n: c for n, c in field.coords.items() if n not in parent.coords}
    return xr.Dataset(cut, attrs=field.attrs).assign_coords(unused)


def _layouts(field: xr.DataArray | xr.Dataset) -> dict[Hashable, tuple[Hashable, ...]]:
    """Order of the dims of each variable, and under None that of all of them."""
    layouts: dict[Hashable, tuple[Hashable, ...]] = {None: tuple(field.dims)}
    if isinstance(field, xr.Dataset):
        layouts |= {name: var.dims for name, var in field.data_vars.items()}
    return layouts


def spatial_dims(field: xr.DataArray | xr.Dataset) -> tuple[str, str]:
    """Return the names of the two spatial dimensions of a field.

    Raises
    ------
    ValueError
        When no known pair of names is among its dimensions.
    """
    for pair in SPATIAL_DIMS:
        if set(pair) <= set(field.dims):
            return pair
    raise ValueError(
        f"The dims {tuple(map(str, field.dims))} hold none of the spatial pairs {SPATIAL_DIMS}. "
        "Name the dims to cut, e.g. patch({'row': 256, 'col': 256}), or rename them."
    )


def _named(field: xr.DataArray | xr.Dataset, value: PerDim, what: str) -> dict[str, int]:
    per_dim = (
        dict(value) if isinstance(value, Mapping) else dict.fromkeys(spatial_dims(field), value)
    )
    unknown = [d for d in per_dim if d not in field.dims]
    if unknown:
        raise ValueError(
            f"{what} names the dims {unknown}, but the field has {tuple(map(str, field.dims))}."
        )
    wrong = {d: n for d, n in per_dim.items() if not is_whole_number(n) or n < 0}
    if wrong or not per_dim:
        raise ValueError(f"{what}={value!r}: it must be whole pixels, at least 0, per dim.")
    return {d: int(n) for d, n in per_dim.items()}


def is_whole_number(value: object) -> TypeGuard[int]:
    """Tell whether a value is an integer, Python's or numpy's, and no boolean."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _strides(
    field: xr.DataArray | xr.Dataset,
    size: Mapping[str, int],
    overlap: PerDim | None,
    stride: PerDim | None,
) -> dict[str, int]:
    if overlap is not None and stride is not None:
        raise ValueError(f"Give overlap or stride, not both (got {overlap!r} and {stride!r}).")
    given = stride if stride is not None else (0 if overlap is None else overlap)
    what = "overlap" if stride is None else "stride"
    per_dim = (
        dict.fromkeys(size, int(given)) if is_whole_number(given) else _named(field, given, what)
    )
    untiled = set(per_dim) - set(size)
    if untiled:
        raise ValueError(f"{what} names {sorted(untiled)}, but only {sorted(size)} are tiled.")
    if stride is not None:
        return {d: per_dim.get(d, n) for d, n in size.items()}
    for dim, n in size.items():
        if not 0 <= per_dim.get(dim, 0) < max(n, 1):
            raise ValueError(
                f"overlap={per_dim[dim]} along {dim!r} must be 0..{n - 1} for patches of {n} px: "
                "smaller than the size."
            )
    return {d: n - per_dim.get(d, 0) for d, n in size.items()}


def _placed(
    field: xr.DataArray | xr.Dataset,
    at: Sampler | Ints,
    size: Mapping[str, int],
    tiling: Tiling,
    boundary: Boundary,
) -> Ints:
    """Starts that the user or a sampler gives, in the order of the tiled dims."""
    given = np.asarray(at(field, size) if callable(at) else at)
    if given.ndim != 2 or given.shape[1] != len(size) or given.dtype.kind not in "iu":
        raise ValueError(
            f"at= gives starts of shape {given.shape} and dtype {given.dtype}; it must be integers "
            f"of shape (patch, {len(size)}), one column for each of {tuple(size)}."
        )
    order = [list(size).index(dim) for dim in tiling.dims]
    return settle(given[:, order].astype(np.int64), tiling, boundary)


def _chunks(field: xr.DataArray | xr.Dataset) -> dict[str, tuple[int, ...]]:
    variables = [field] if isinstance(field, xr.DataArray) else list(field.data_vars.values())
    for var in variables:
        if var.chunks is not None:
            return {str(d): c for d, c in zip(var.dims, var.chunks, strict=True)}
    return {}


def _refuse_partly_tiled(field: xr.Dataset, tiling: Tiling) -> None:
    if not any(set(tiling.dims) <= set(var.dims) for var in field.data_vars.values()):
        raise ValueError(
            f"No variable of the Dataset has the dims {tiling.dims}: there is nothing to cut. It "
            f"has { ({str(n): v.dims for n, v in field.data_vars.items()}) }."
        )
    for name, var in field.data_vars.items():
        if 0 < len(set(tiling.dims) & set(var.dims)) < len(tiling.dims):
            raise ValueError(
                f"Variable {name!r} has dims {tuple(map(str, var.dims))}: only some of the tiled "
                f"{tiling.dims}. Drop it, or make it a coordinate."
            )


def _cut_array(field: xr.DataArray, index: PatchIndex) -> xr.DataArray:
    tiling = index.tiling
    rest: tuple[Hashable, ...] = tuple(d for d in field.dims if d not in tiling.dims)
    ordered = field.variable.transpose(*rest, *tiling.dims)
    data = ordered.data
    patches: Array | da.Array
    if isinstance(data, np.ndarray):
        origin = np.zeros((1, len(tiling.dims)), np.int64)
        patches = cut([data], origin, index.starts, tiling.size, tiling.shape)
    else:
        from xgeocat.patching import graph

        patches = graph.cut(data, index.starts, tiling)
    # By way of a Dataset, which keeps the indexes as they are.
    riding = field.coords.to_dataset().drop_vars(index.parent.coords).coords
    found = xr.DataArray(
        patches,
        dims=(PATCH, *rest, *tiling.dims),
        coords=riding.assign(xr.Coordinates.from_xindex(index)),
        attrs=field.attrs,
    )
    found.encoding = {k: v for k, v in field.encoding.items() if k == "_FillValue"}
    # Not in the constructor: for name=None it takes the name of the dask array.
    return found.rename(field.name)
