"""Stitch: put the answers of patches back on the map."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from xgeocat.patching.fold import Blend, finish, fold
from xgeocat.patching.index import PATCH, PatchIndex, patch_index
from xgeocat.patching.nodata import nodata_of, representable
from xgeocat.patching.patch import Field, is_whole_number
from xgeocat.patching.reducers import reducer
from xgeocat.patching.tiling import Array, Ints, Tiling, covers, interiors
from xgeocat.patching.windows import Window, weights

if TYPE_CHECKING:
    import dask.array as da


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
    per_dim = crop if isinstance(crop, dict) else dict.fromkeys(tiling.dims, crop)
    if not all(is_whole_number(n) for n in per_dim.values()):
        raise ValueError(f"crop={crop!r}: it must be whole pixels.")
    unknown = set(per_dim) - set(tiling.dims)
    if unknown:
        raise ValueError(f"crop names {sorted(unknown)}; the tiled dims are {tiling.dims}.")
    for dim, size in zip(tiling.dims, tiling.size, strict=True):
        if not 0 <= 2 * per_dim.get(dim, 0) < size:
            raise ValueError(
                f"crop={per_dim[dim]} along {dim!r} leaves nothing of a patch of {size} px; it "
                f"must be 0..{(size - 1) // 2}."
            )
    return tuple(int(per_dim.get(dim, 0)) for dim in tiling.dims)


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
        raise ValueError(
            f"window={window!r} has no meaning with reduce={reduce!r}: only a mean "
            "is weighted. Leave out the window."
        )
    for size in tiling.size:
        weights(window, size)
    ordered = patches.transpose(PATCH, *rest, *tiling.dims)
    data: Array | da.Array
    if isinstance(ordered.data, np.ndarray):
        data = stitch_numpy(ordered.data, index.starts, tiling, blend)
    else:
        from xgeocat.patching import graph

        data = graph.stitch(ordered.data, index.starts, tiling, blend)
    field = _on_parent_grid(patches, index, rest, data)
    if fill is not None or (nodata is not None and blend.fill != nodata):
        field.attrs = {k: v for k, v in field.attrs.items() if k != "_FillValue"}
        field.attrs["nodata"] = blend.fill
    return field


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
    if fill is None and nodata is not None and reduce == "sum" and dtype.kind in "iu":
        # Sums may well come to the nodata of what was summed, but not to the end of 64 bits.
        fill = np.iinfo(dtype).max if dtype.kind == "u" else np.iinfo(dtype).min
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
    patches: xr.DataArray, index: PatchIndex, rest: tuple[Hashable, ...], data: Array | da.Array
) -> xr.DataArray:
    parent = index.parent
    gone = [n for n, c in patches.coords.items() if set(c.dims) & {PATCH, *parent.tiling.dims}]
    field = xr.DataArray(
        data,
        dims=(*rest, *parent.tiling.dims),
        coords=patches.coords.to_dataset().drop_vars(gone).coords,
        attrs=patches.attrs,
    ).rename(patches.name)
    kept = {n: c for n, c in parent.coords.items() if set(c.dims) <= set(field.dims)}
    field = field.assign_coords(kept)
    layout = parent.dims.get(patches.name, parent.dims[None])
    if set(rest) <= set(layout):
        field = field.transpose(*(d for d in layout if d in field.dims))
    field.encoding = {k: v for k, v in patches.encoding.items() if k == "_FillValue"}
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
