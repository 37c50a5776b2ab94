"""Stitch: put the answers of patches back on the map."""

from __future__ import annotations

from collections.abc import Hashable
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from xgeocat.patching.answergrid import AnswerGrid, answer_grid, scales_of
from xgeocat.patching.averages import Coverage, Spread, Sum
from xgeocat.patching.choices import NO_CLASS, SoftVote, Vote
from xgeocat.patching.fold import Blend, Canvas, fold
from xgeocat.patching.index import PATCH, Parent, PatchIndex, patch_index
from xgeocat.patching.nodata import nodata_of, representable
from xgeocat.patching.parts import Bounds, Parts
from xgeocat.patching.patch import is_whole_number
from xgeocat.patching.pieces import Reducer
from xgeocat.patching.reducers import reducer
from xgeocat.patching.tiling import Array, Ints, Tiling, covers, interiors, is_product
from xgeocat.patching.windows import Window, weights

if TYPE_CHECKING:
    import dask.array as da


def stitch(
    patches: xr.DataArray | xr.Dataset,
    *,
    window: Window = "boxcar",
    reduce: str | Reducer = "mean",
    crop: int | dict[str, int] = 0,
    fill: complex | None = None,
    coverage: bool = False,
    disagreement: bool = False,
    inline: bool = False,
) -> xr.DataArray | xr.Dataset:
    """Put patches, or a model's answers for them, back on the grid they were cut from.

    Parameters
    ----------
    patches : DataArray or Dataset
        With a ``patch`` dimension that carries a PatchIndex. Patches may be a subset, reordered or
        repeated. Tiled dimensions have the patch's size; or k times as many cells, or a k-th: the
        field comes out on that finer or coarser grid; or they are missing: the field has one cell
        for each patch along them, a stride long, in the patch's middle (along dimensions that are
        not on the map: at its last step).
    window : str or (str, float), default: "boxcar"
        Blending weights: ``"boxcar"``, ``"hann"``, ``"tukey"``, ``"gaussian"``; see
        :func:`xgeocat.patching.windows.weights`.
    reduce : str or Reducer, default: "mean"
        How overlapping answers become one; NaN and nodata answers never count. Of all:
        ``"mean"``, ``"median"``, ``"sum"``, ``"max"``, ``"min"``, ``"variance"``; of labels:
        ``"vote"`` (most weight wins, ties go to the smaller label); of one patch: ``"first"``,
        ``"last"`` (row-major), ``"centre"`` (whose centre is nearest). Of answers with more to
        them along the first dimension after ``patch``: ``"soft_vote"`` (class probabilities to the
        number of the most probable class, uint8; 255 where there is none), ``"inverse_variance"``
        (a value and its variance, to such a pair). Or a reducer of your own, see
        :class:`xgeocat.Reducer`.
    crop : int or dict of str to int, default: 0
        Margin, in cells of the answers, thrown away on every side of each patch before blending,
        except on the field's own edge.
    fill : number, optional
        Value of cells that no answer reached: NaN by default for floats, the ``nodata`` of the
        patches for integers.
    coverage : bool, default: False
        Return a Dataset with a variable ``coverage`` too (float32): the sum of the weights that
        reached each cell; with the boxcar window, the number of answers.
    disagreement : bool, default: False
        Return a Dataset with a variable ``disagreement`` too: the weighted standard deviation of
        the answers at each cell (with ``reduce="vote"`` the share of the votes that lost), NaN
        where fewer than two meet.
    inline : bool, default: False
        Run the model in the tasks that fold its answers, which then never exist all at once: that
        is faster, and takes less memory. But whatever else is made of the same answers, and is
        computed together with the field, runs the model again. A pipeline does so, where nothing
        else can be. It means something only for what comes straight of a lazy ``map``, without
        `coverage` and `disagreement`, which are made of the same answers.

    Returns
    -------
    DataArray or Dataset
        On the grid of the answers, with the field's coordinates and CRS; lazy if the patches are.
        With `coverage` or `disagreement` a Dataset, in which the field keeps its name
        (``field`` if it has none).

    Raises
    ------
    ValueError
        Without a PatchIndex, for answers on no grid that fits the patches, for a crop that leaves
        nothing, for a window where the reducer takes no weights, and for integers that would
        leave cells without a value.
    """
    index = patch_index(patches)
    made: dict[Hashable, xr.DataArray] = {}
    variables: dict[Hashable, xr.DataArray]
    if isinstance(patches, xr.Dataset):
        several, variables = True, dict(patches.data_vars.items())
    else:
        several, variables = False, {patches.name or "field": patches}
    layers = ["coverage"] * coverage + ["disagreement"] * disagreement
    taken = [f"{name}_{layer}" if several else layer for name in variables for layer in layers]
    if set(taken) & variables.keys():
        raise ValueError(
            f"The answers are called {sorted(map(str, set(taken) & variables.keys()))}, as a layer "
            "is to be that they would come with. Rename them before stitching."
        )
    for name, var in variables.items():
        if PATCH not in var.dims:
            made[name] = var
            continue
        how = reducer(reduce, var.dtype)
        made[name] = _stitch_array(var, index, how, window, crop, fill, inline and not layers)
        prefix = f"{name}_" if several else ""
        if coverage:
            counted = Coverage(how.joint)
            layer = _stitch_array(var, index, counted, _given(how, window), crop, 0)
            made[f"{prefix}coverage"] = layer.drop_attrs()
        if disagreement:
            layer = _stitch_array(var, index, _spread(how), _given(how, window), crop, np.nan)
            made[f"{prefix}disagreement"] = layer.drop_attrs()
    if not several and not coverage and not disagreement:
        return next(iter(made.values())).rename(patches.name)
    return xr.Dataset(made, attrs=patches.attrs if several else None)


def _given(how: Reducer, window: Window) -> Window:
    """The window whose weights mean something to the reducer."""
    return window if how.weighted else "boxcar"


def _spread(how: Reducer) -> Reducer:
    if how.joint:
        raise ValueError(
            "disagreement=True has no one meaning for answers of several values that count "
            "together. Stitch them once more with reduce='variance'."
        )
    return Vote(dissent=True) if isinstance(how, Vote) else Spread(root=True, least=2)


def _stitch_array(
    patches: xr.DataArray,
    index: PatchIndex,
    how: Reducer,
    window: Window,
    crop: int | dict[str, int],
    fill: complex | None,
    inline: bool = False,
) -> xr.DataArray:
    tiled = index.tiling.dims
    if not patches.dtype.isnative:
        patches = patches.astype(patches.dtype.newbyteorder("="))
    rest = tuple(d for d in patches.dims if d != PATCH and d not in tiled)
    grid = answer_grid(index.parent, index.starts, scales_of(index.tiling, patches.sizes))
    tiling, starts = grid.tiling, grid.starts
    lengths = tuple(patches.sizes[d] for d in rest)
    margins = _per_dim(crop, tiling)
    nodata = nodata_of(patches)
    blend = Blend(
        reducer=how,
        window=window,
        crop=margins,
        dtype=patches.dtype,
        nodata=nodata,
        fill=_fill_value(how.dtype(patches.dtype), how, nodata, fill),
        regular=is_product(starts, tiling.shape),
        rest=len(rest),
    )
    _require_values(blend, starts, tiling, fill)
    if window != "boxcar" and not how.weighted:
        raise ValueError(
            f"window={window!r} has no meaning with the reducer {type(how).__name__}: only means, "
            "variances and votes are weighted. Leave out the window."
        )
    for size in tiling.size:
        weights(window, size)
    how.rest(lengths)
    how.init((*lengths, *(0,) * len(tiled)), patches.dtype, 1)
    ordered = patches.transpose(PATCH, *rest, *(d for d in tiled if d in patches.dims))
    data: Array | da.Array
    if isinstance(ordered.data, np.ndarray):
        data = stitch_numpy(ordered.data, starts, tiling, blend)
    else:
        from xgeocat.patching import fieldgraph

        data = fieldgraph.stitch(ordered.data, starts, tiling, blend, inline)
    field = _on_grid(
        patches, index.parent, grid, rest[len(rest) - (data.ndim - len(tiled)) :], data
    )
    declared = nodata is not None or isinstance(how, SoftVote)
    if fill is not None or (declared and blend.fill != nodata):
        field.attrs = {k: v for k, v in field.attrs.items() if k != "_FillValue"}
        field.attrs["nodata"] = blend.fill
    return field


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


def _fill_value(
    dtype: np.dtype, how: Reducer, nodata: float | int | None, fill: complex | None
) -> complex | None:
    """Value of cells that no answer reaches; None where the dtype has none of its own."""
    if fill is None and isinstance(how, SoftVote):
        return NO_CLASS
    if fill is None and isinstance(how, Spread):
        # The nodata of answers, 0 say, may well be a variance.
        return np.nan
    if fill is None and nodata is not None and dtype.kind in "iu" and isinstance(how, Sum):
        # Sums may well come to the nodata of what was summed, but not to the end of 64 bits.
        return int(np.iinfo(dtype).max if dtype.kind == "u" else np.iinfo(dtype).min)
    if fill is None and nodata is not None and representable(nodata, dtype):
        return nodata
    if fill is None:
        return np.nan if dtype.kind in "fc" else None
    if not representable(fill, dtype):
        raise ValueError(f"fill={fill!r} is not a value of dtype {dtype}; give one that is.")
    return fill


def _require_values(blend: Blend, starts: Ints, tiling: Tiling, fill: complex | None) -> None:
    """Refuse integers that would leave cells without a value."""
    if blend.fill is not None:
        return
    dtype = blend.result
    if blend.dtype.kind in "fc" or blend.nodata is not None:
        raise ValueError(
            f"Answers may be unknown (NaN, nodata), and {dtype} has no value for that. Give one "
            "that no answer uses: stitch(fill=...)."
        )
    lo, hi = interiors(starts, tiling, blend.crop)
    if not covers(lo, hi, tiling.shape):
        raise ValueError(
            f"Some cells are reached by no patch, and {dtype} has no value for 'unknown'. Give one "
            "that no answer uses: stitch(fill=...), e.g. fill="
            f"{False if dtype.kind == 'b' else np.iinfo(dtype).max}."
        )


def _on_grid(
    patches: xr.DataArray,
    parent: Parent,
    grid: AnswerGrid,
    rest: tuple[Hashable, ...],
    data: Array | da.Array,
) -> xr.DataArray:
    dims = (*rest, *parent.tiling.dims)
    gone = [n for n, c in patches.coords.items() if not set(c.dims) <= set(rest)]
    field = xr.DataArray(
        data,
        dims=dims,
        coords=patches.coords.to_dataset().drop_vars(gone).coords,
        attrs=patches.attrs,
    ).rename(patches.name)
    field = field.assign_coords({n: c for n, c in grid.coords.items() if set(c.dims) <= set(dims)})
    layout = parent.dims.get(patches.name, parent.dims[None])
    if set(rest) <= set(layout):
        field = field.transpose(*(d for d in layout if d in field.dims))
    field.encoding = {k: v for k, v in patches.encoding.items() if k == "_FillValue"}
    for name, coord in field.coords.items():
        if "crs_wkt" in coord.attrs:
            field.encoding["grid_mapping"] = name
    return field


def stitch_numpy(patches: Array, starts: Ints, tiling: Tiling, blend: Blend) -> Array:
    """Stitch answers in memory, ``(patch, ..., *size)``, into one array ``(..., *shape)``."""
    rest, numbers = patches.shape[1 : blend.rest + 1], np.arange(len(starts))
    found = Parts.of(patches, starts, numbers, tiling, blend.crop, blend.rest)
    whole: Bounds = ((0,) * len(tiling.shape), tiling.shape)
    canvas = Canvas.over(whole, rest, blend)
    stops = [np.cumsum(blocks).tolist() for blocks in tiling.blocks]
    for hi in product(*stops):
        lo = tuple(
            h - blocks[s.index(h)] for h, s, blocks in zip(hi, stops, tiling.blocks, strict=True)
        )
        fold([found], (lo, hi), canvas, tiling, blend)
    return canvas.values
