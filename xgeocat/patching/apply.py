"""Map a model over patches."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from xgeocat.patching.answergrid import scale_of
from xgeocat.patching.batches import Answer, Answers, Batching, check_fill, probe
from xgeocat.patching.index import PATCH, patch_index
from xgeocat.patching.models import ModelLike, as_model
from xgeocat.patching.nodata import nodata_of
from xgeocat.patching.tiling import Array

if TYPE_CHECKING:
    import dask.array as da

BAND = "band"
FEATURE = "feature"


def map_patches(
    patches: xr.DataArray | xr.Dataset,
    model: ModelLike,
    *,
    batch_size: int = 32,
    dims: Sequence[str] | None = None,
    fill: float | None = None,
    skip_empty: bool = False,
    fixed_batch: bool = False,
    meta: Array | None = None,
) -> xr.DataArray:
    """Map a model over patches, in batches.

    Parameters
    ----------
    patches : DataArray or Dataset
        With a ``patch`` dimension. A Dataset is stacked along a new ``band`` dimension, in the
        order of its variables: the model gets ``(batch, band, ..., y, x)``. A DataArray keeps its
        own dims: ``(batch, ..., y, x)``.
    model : callable, torch.nn.Module, onnxruntime.InferenceSession, str or Path
        Takes and returns numpy arrays with the patch dimension first; or a network, or the file of
        one, of which :func:`xgeocat.models.as_model` makes such a model.
    batch_size : int, default: 32
        Patches per call, at most.
    dims : sequence of str, optional
        Names of all dimensions of an answer but the patch dimension, the tiled ones last. By
        default: those of the input where the shape is the same, else the tiled dimensions last and
        ``band`` for one more before them. Tiled dimensions may be k times longer or shorter than
        those of a patch (a finer or coarser grid), or missing (one answer per patch along them):
        an answer of shape ``(n,)`` is a vector per patch, along ``feature``.
    fill : number, optional
        Value that means "not known" in the answers: it is declared as their ``nodata``, which
        stitching leaves out and fills with. NaN needs no declaration.
    skip_empty : bool, default: False
        Answer patches that are all NaN or nodata with `fill` (NaN for floats) without running the
        model on them.
    fixed_batch : bool, default: False
        Give the model exactly `batch_size` patches in every call, as some compiled models want;
        the last batch of a chunk is filled up with copies, whose answers are dropped. An ONNX
        file or an exported torch network of one batch size needs no telling: it is fed by that.
    meta : numpy.ndarray, optional
        Array of length 0 with the dtype and the trailing shape of the answers, e.g.
        ``np.empty((0, 3, 256, 256), "float32")``. Without it, a lazy map asks the model once, with
        a batch of length 0; a model that cannot answer that is asked with one made patch of ones.

    Returns
    -------
    DataArray
        Answers, with the PatchIndex of the input; lazy if the input is.

    Raises
    ------
    ValueError
        For a model that returns another number of answers than patches, another shape than for the
        batches before, or nothing but NaN for a batch without any; for dims that do not name every
        dimension; and for ``skip_empty=True`` with integer answers and no `fill`.
    TypeError
        For what is no model, or one that returns no array, or changes its dtype from batch to
        batch.
    """
    model = as_model(model)
    index = patch_index(patches)
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}: it must be at least 1.")
    tiled = index.tiling.dims
    variables = _inputs(patches)
    rest = tuple(d for d in variables[0].dims if d not in (PATCH, *tiled))
    in_dims = (PATCH, *rest, *tiled)
    arrays = [var.transpose(*in_dims).data for var in variables]
    stacked = isinstance(patches, xr.Dataset)
    shape = (len(arrays),) * stacked + arrays[0].shape[1:]
    lazy = not all(isinstance(a, np.ndarray) for a in arrays)
    answer = None if meta is None else Answer(meta.shape[1:], meta.dtype)
    if answer is None and (lazy or not arrays[0].shape[0]):
        answer = probe(model, shape, np.result_type(*arrays), batch_size if fixed_batch else None)

    def names(answer: Answer) -> tuple[Hashable, ...]:
        check_fill(answer.dtype, fill, skip_empty)
        return answer_dims(answer.shape, shape, in_dims[1:], stacked, dims, tiled)

    batching = Batching(
        model,
        batch_size,
        nodata=tuple(nodata_of(var) for var in variables),
        skip_empty=skip_empty,
        fill=np.nan if fill is None else fill,
        fixed=fixed_batch,
        nan_allowed=fill is not None and bool(np.isnan(fill)),
    )
    # Where the answers are known, what is wrong with them is said before anything runs.
    named = None if answer is None else names(answer)
    if not lazy:
        made = Answers(arrays, batching, stacked, answer).all()
        return _label(patches, named or names(Answer(made.shape[1:], made.dtype)), made, fill)
    assert answer is not None
    assert named is not None
    from xgeocat.patching import graph

    return _label(patches, named, graph.apply(arrays, batching, stacked, answer), fill)


def _inputs(patches: xr.DataArray | xr.Dataset) -> list[xr.DataArray]:
    if isinstance(patches, xr.DataArray):
        return [patches]
    variables = [var for var in patches.data_vars.values() if PATCH in var.dims]
    shapes = {str(var.name): dict(var.sizes) for var in variables}
    if not variables or any(s != shapes[str(variables[0].name)] for s in shapes.values()):
        raise ValueError(
            f"The variables of a Dataset are stacked along {BAND!r}, so they must share their "
            f"dims; got {shapes}. Select those the model takes, e.g. patches[['red', 'nir']]."
        )
    return variables


def answer_dims(
    answer: tuple[int, ...],
    given: tuple[int, ...],
    in_dims: tuple[Hashable, ...],
    stacked: bool,
    dims: Sequence[str] | None,
    tiled: tuple[str, ...],
) -> tuple[Hashable, ...]:
    """Name the dimensions of one answer; see :func:`map_patches`."""
    size = dict(zip(tiled, given[len(given) - len(tiled) :], strict=True))
    if dims is not None:
        if PATCH in dims or len(set(dims)) != len(dims) or len(dims) != len(answer):
            raise ValueError(
                f"dims={tuple(dims)} must name all {len(answer)} dims of an answer of shape "
                f"{answer}, each once, without {PATCH!r}."
            )
        kept = tuple(d for d in tiled if d in dims)
        if tuple(dims[len(dims) - len(kept) :]) != kept:
            raise ValueError(
                f"dims={tuple(dims)}: the tiled dims {kept} come last, in this order. Make the "
                "model move its axes, or name them otherwise."
            )
        return tuple(dims)
    if answer == given:
        return ((BAND,) if stacked else ()) + in_dims
    if stacked and answer == given[1:]:
        return in_dims
    riding = ((BAND,) if stacked else ()) + in_dims[: len(in_dims) - len(tiled)]
    lengths = given[: len(riding)]
    for first in range(1 + stacked):
        if len(riding[first:]) > 1 and answer == lengths[first:]:
            return riding[first:]
    kept = _kept_dims(answer, size)
    extra = len(answer) - len(kept)
    if not kept and extra <= 1:
        return (FEATURE,) * extra
    if not kept:
        raise ValueError(
            f"The model was given patches of shape {given} and answered with {answer}: its last "
            f"{len(tiled)} dims are neither {tuple(size.values())} nor a grid k times finer or "
            "coarser. Make it return the grid it is given, or name the dims of its answers: "
            f"map(model, dims={(BAND, *tiled)})."
        )
    if extra > 1:
        raise ValueError(
            f"The model answered with shape {answer}, which has {extra} dims before {kept}. Name "
            "them: map(model, dims=('head', 'band', 'y', 'x'))."
        )
    return (BAND,) * extra + kept


def _kept_dims(answer: tuple[int, ...], size: Mapping[str, int]) -> tuple[str, ...]:
    """Tiled dims that an answer ends with: all of them, finer or coarser, or the last ones."""
    tiled = tuple(size)
    # The last dim alone is never meant: its length is that of many a vector.
    for first in range(max(1, len(tiled) - 1)):
        kept = tiled[first:]
        ends = answer[len(answer) - len(kept) :]
        if len(ends) < len(kept):
            continue
        scales = {scale_of(size[dim], n) for dim, n in zip(kept, ends, strict=True)}
        if scales == {Fraction(1)} or (first == 0 and len(scales) == 1 and None not in scales):
            # One number a patch is a vector of length one, rather than a grid of one cell.
            return kept
    return ()


def _label(
    patches: xr.DataArray | xr.Dataset,
    dims: tuple[Hashable, ...],
    data: Array | da.Array,
    fill: float | None,
) -> xr.DataArray:
    kept = {
        name: coord
        for name, coord in patches.coords.items()
        if set(coord.dims) <= {PATCH, *dims}
        and all(coord.sizes[d] == data.shape[1 + dims.index(d)] for d in coord.dims if d != PATCH)
        and (isinstance(patches, xr.DataArray) or BAND not in coord.dims)
    }
    index = patch_index(patches)
    labels = xr.Coordinates({n: c for n, c in kept.items() if n not in index.create_variables()})
    answers = xr.DataArray(
        data,
        dims=(PATCH, *dims),
        coords=labels.assign(xr.Coordinates.from_xindex(index)),
        attrs={} if fill is None else {"nodata": fill},
    )
    # Not in the constructor: for name=None it takes the name of the dask array.
    return answers.rename(patches.name if isinstance(patches, xr.DataArray) else None)
