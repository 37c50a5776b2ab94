"""Stitch: put the answers of patches back on the map."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TypeVar, cast

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xgeocat.patching.index import PATCH, PatchIndex, patch_index
from xgeocat.patching.nodata import nodata_of, representable, valid_mask
from xgeocat.patching.reducers import Piece, Reducer, State, reducer
from xgeocat.patching.tiling import Ints, Tiling, covers, interiors, is_product
from xgeocat.patching.windows import Window, weights

Field = TypeVar("Field", xr.DataArray, xr.Dataset)
Array = NDArray[np.generic]


@dataclass(frozen=True, slots=True)
class Blend:
    """How overlapping answers of one array become one.

    Parameters
    ----------
    reduce : str
        Name of the reducer.
    window : str or (str, float)
        Blending window.
    crop : tuple of int
        Margin thrown away on each side of every patch, in pixels, per tiled dimension.
    dtype : numpy.dtype
        Dtype of the answers.
    nodata : float or int or None
        Answers of this value do not count (NaN never counts).
    fill : float or int or complex
        Value of cells that no answer reached.
    """

    reduce: str
    window: Window
    crop: tuple[int, ...]
    dtype: np.dtype
    nodata: float | int | None
    fill: complex

    @property
    def reducer(self) -> Reducer:
        """The reducer for these answers."""
        return reducer(self.reduce, self.dtype)


@dataclass(frozen=True, slots=True)
class Partial:
    """What one group of patches contributes to one block: a reducer's state over a box."""

    at: tuple[slice, ...]
    state: State
    weight: NDArray[np.float64]


def stitch(
    patches: Field,
    *,
    window: Window = "boxcar",
    reduce: str = "mean",
    crop: int | dict[str, int] = 0,
    fill: complex | None = None,
) -> Field:
    """Put patches, or a model's answers for them, back on the grid they were cut from.

    Parameters
    ----------
    patches : DataArray or Dataset
        With a ``patch`` dimension that carries a PatchIndex and the tiled dimensions at patch
        size. Patches may be a subset, reordered or repeated.
    window : str or (str, float), default: "boxcar"
        Blending weights: ``"boxcar"``, ``"hann"``, ``"tukey"``, ``"gaussian"``; see
        :func:`xgeocat.patching.windows.weights`.
    reduce : {"mean", "sum", "max", "min", "first"}, default: "mean"
        How overlapping answers become one. NaN and nodata answers never count.
    crop : int or dict of str to int, default: 0
        Margin in pixels thrown away on every side of each patch before blending, except on the
        field's own edge.
    fill : number, optional
        Value of cells that no answer reached: NaN by default for floats, the ``nodata`` of the
        patches for integers.

    Returns
    -------
    DataArray or Dataset
        On the parent's grid, with its coordinates and CRS; lazy if the patches are.

    Raises
    ------
    ValueError
        Without a PatchIndex, for patches of another shape than were cut, for a crop that leaves
        nothing, for a window where the reducer takes no weights, and for integers that would
        leave cells without a value.
    """
    index = patch_index(patches)
    if isinstance(patches, xr.Dataset):
        stitched = {
            name: stitch(var, window=window, reduce=reduce, crop=crop, fill=fill)
            if PATCH in var.dims
            else var
            for name, var in patches.data_vars.items()
        }
        return xr.Dataset(stitched, attrs=patches.attrs)
    return _stitch_array(patches, index, window, reduce, _per_dim(crop, index.tiling), fill)


def _per_dim(crop: int | dict[str, int], tiling: Tiling) -> tuple[int, ...]:
    per_dim = dict.fromkeys(tiling.dims, crop) if isinstance(crop, int) else crop
    unknown = set(per_dim) - set(tiling.dims)
    if unknown:
        raise ValueError(f"crop names {sorted(unknown)}; the tiled dims are {tiling.dims}.")
    for dim, size in zip(tiling.dims, tiling.size, strict=True):
        if not 0 <= 2 * per_dim.get(dim, 0) < size:
            raise ValueError(
                f"crop={per_dim[dim]} along {dim!r} leaves nothing of a patch of {size} px; it "
                f"must be 0..{(size - 1) // 2}."
            )
    return tuple(per_dim.get(dim, 0) for dim in tiling.dims)


def _stitch_array(
    patches: xr.DataArray,
    index: PatchIndex,
    window: Window,
    reduce: str,
    crop: tuple[int, ...],
    fill: complex | None,
) -> xr.DataArray:
    tiling = index.tiling
    rest = _rest_dims(patches, tiling)
    lo, hi = interiors(index.starts, tiling, crop)
    nodata = nodata_of(patches)
    blend = Blend(
        reduce=reduce,
        window=window,
        crop=crop,
        dtype=patches.dtype,
        nodata=nodata,
        fill=_fill_value(patches, reduce, nodata, fill, covers(lo, hi, tiling.shape)),
    )
    if window != "boxcar" and not blend.reducer.weighted:
        raise ValueError(f"window={window!r} has no meaning with reduce={reduce!r}: only a mean "
                         "is weighted. Leave out the window.")  # fmt: skip
    for size in tiling.size:
        weights(window, size)
    ordered = patches.transpose(PATCH, *rest, *tiling.dims)
    if isinstance(ordered.data, np.ndarray):
        data = stitch_numpy(ordered.data, index.starts, tiling, blend)
    else:
        from xgeocat.patching import graph

        data = graph.stitch(ordered.data, index.starts, tiling, blend)
    return _on_parent_grid(patches, index, rest, data)


def _rest_dims(patches: xr.DataArray, tiling: Tiling) -> tuple[Hashable, ...]:
    got = {dim: patches.sizes.get(dim) for dim in tiling.dims}
    wanted = dict(zip(tiling.dims, tiling.size, strict=True))
    if got != wanted:
        raise ValueError(
            f"These patches have sizes {got}, but were cut with {wanted}: only answers on the "
            "patch's own grid can be stitched. Make the model return the shape it is given."
        )
    return tuple(d for d in patches.dims if d != PATCH and d not in tiling.dims)


def _fill_value(
    patches: xr.DataArray,
    reduce: str,
    nodata: float | int | None,
    fill: complex | None,
    covered: bool,
) -> complex:
    dtype = reducer(reduce, patches.dtype).dtype(patches.dtype)
    if fill is None:
        fill = nodata if nodata is not None else (np.nan if dtype.kind in "fc" else None)
    if fill is None:
        if not covered:
            raise ValueError(
                f"Some cells are reached by no patch, and {dtype} has no value for 'unknown'. "
                "Give one that no answer uses: stitch(fill=...), e.g. fill="
                f"{False if dtype.kind == 'b' else np.iinfo(dtype).max}."
            )
        return 0
    if not representable(fill, dtype):
        raise ValueError(f"fill={fill!r} is not a value of dtype {dtype}; give one that is.")
    return fill


def _on_parent_grid(
    patches: xr.DataArray, index: PatchIndex, rest: tuple[Hashable, ...], data: Array
) -> xr.DataArray:
    parent = index.parent
    coords = {
        name: coord for name, coord in patches.coords.items()
        if PATCH not in coord.dims and not set(coord.dims) & set(parent.tiling.dims)
    }  # fmt: skip
    field = xr.DataArray(
        data,
        dims=(*rest, *parent.tiling.dims),
        coords=xr.Coordinates(coords),
        name=patches.name,
        attrs=patches.attrs,
    ).assign_coords(parent.coords)
    if set(rest) <= set(parent.dims):
        field = field.transpose(*(d for d in parent.dims if d in field.dims))
    for name, coord in field.coords.items():
        if "crs_wkt" in coord.attrs:
            field.encoding["grid_mapping"] = name
    return field


def stitch_numpy(patches: Array, starts: Ints, tiling: Tiling, blend: Blend) -> Array:
    """Stitch patches in memory, ``(patch, ..., *size)``, into one array ``(..., *shape)``."""
    origin = (0,) * len(tiling.shape)
    partial = fold(patches, starts, (origin, tiling.shape), tiling, blend)
    shape = (*patches.shape[1 : patches.ndim - len(tiling.dims)], *tiling.shape)
    return finish([partial], shape, blend)


def fold(
    patches: Array,
    starts: Ints,
    block: tuple[Sequence[int], Sequence[int]],
    tiling: Tiling,
    blend: Blend,
) -> Partial:
    """Fold a group of patches into what they contribute to one output block.

    Parameters
    ----------
    patches : numpy.ndarray
        Shape ``(patch, ..., *size)``.
    starts : numpy.ndarray
        Shape ``(patch, dim)``: first cell of each patch in the field.
    block : (sequence of int, sequence of int)
        First and past-the-last cell of the block in the field.
    tiling : Tiling
        The tiling of the whole field.
    blend : Blend
        How answers become one.

    Returns
    -------
    Partial
        Over the smallest box of the block that the patches reach.
    """
    first, last = interiors(starts, tiling, blend.crop)
    lo, hi = np.maximum(first, block[0]), np.minimum(last, block[1])
    here = np.flatnonzero((lo < hi).all(axis=1))
    rest = patches.shape[1 : patches.ndim - len(tiling.dims)]
    if not len(here):
        empty = tuple(slice(0, 0) for _ in tiling.dims)
        state = blend.reducer.init((*rest, *(0 for _ in empty)), blend.dtype)
        return Partial(empty, state, np.zeros([1] * len(rest) + [0] * len(empty)))
    starts, lo, hi, patches = starts[here], lo[here], hi[here], patches[here]
    corner, far = lo.min(axis=0), hi.max(axis=0)
    at = tuple(slice(a, b) for a, b in zip(corner - block[0], far - block[0], strict=True))
    box = tuple((far - corner).tolist())

    axes = [weights(blend.window, size) for size in tiling.size]
    valid = valid_mask(patches, blend.nodata)
    state = blend.reducer.init((*rest, *box), blend.dtype)
    ranks = np.ravel_multi_index(tuple(np.maximum(starts, 0).T), tiling.shape)
    separable = valid is None and is_product(starts)
    total = np.zeros((*((1,) * len(rest) if valid is None else rest), *box))
    for i, (start, a, b) in enumerate(zip(starts, lo, hi, strict=True)):
        within = (..., *map(slice, a - start, b - start))
        region = (..., *map(slice, a - corner, b - corner))
        weight = _outer([w[s] for w, s in zip(axes, within[1:], strict=True)])
        mask = None if valid is None else valid[i][within]
        piece = Piece(patches[i][within], weight, mask, int(ranks[i]))
        blend.reducer.fold(state, region, piece)
        if not separable:
            total[region] += weight if mask is None else weight * mask
    if separable:
        total[...] = _outer(_axis_weights(axes, starts, lo, hi, corner, box))
    return Partial(at, state, total)


def _outer(vectors: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    out = vectors[0]
    for vector in vectors[1:]:
        out = out[..., None] * vector
    return out


def _axis_weights(
    axes: Sequence[NDArray[np.float64]], starts: Ints, lo: Ints, hi: Ints, corner: Ints,
    box: tuple[int, ...],
) -> list[NDArray[np.float64]]:  # fmt: skip
    """Weight sums of a full grid of patches, which factor into one vector a dimension."""
    sums = [np.zeros(n) for n in box]
    for axis, window in enumerate(axes):
        _, once = np.unique(starts[:, axis], return_index=True)
        for i in once:
            start, a, b = starts[i, axis], lo[i, axis], hi[i, axis]
            sums[axis][a - corner[axis] : b - corner[axis]] += window[a - start : b - start]
    return sums


def finish(partials: Sequence[Partial], shape: tuple[int, ...], blend: Blend) -> Array:
    """Sum up the partials of one block, divide by the weights, and fill what none reached."""
    how = blend.reducer
    n = len(partials[0].at) if partials else len(shape)
    if len(partials) == 1 and partials[0].state[0].shape == shape:
        state, weight = partials[0].state, partials[0].weight
    else:
        state = how.init(shape, blend.dtype)
        broadcast = np.broadcast_shapes(*(p.weight.shape[:-n] for p in partials))
        weight = np.zeros((*broadcast, *shape[len(shape) - n :]))
        for partial in partials:
            at = (..., *partial.at)
            how.merge(state, partial.state, at, (weight[at], partial.weight))
            weight[at] += partial.weight
    dtype = how.dtype(blend.dtype)
    values = how.finish(state, weight)
    if dtype.kind in "iub" and values.dtype.kind == "f":
        np.rint(values, out=values)
    reached = weight > 0
    if reached.all():
        return values.astype(dtype, copy=False)
    values = np.where(reached, values, 0).astype(dtype)
    return cast("Array", np.where(reached, values, np.asarray(blend.fill).astype(dtype)))
