"""Map a model over patches."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xgeocat.patching.index import PATCH, patch_index
from xgeocat.patching.nodata import nodata_of, representable, valid_mask
from xgeocat.patching.tiling import Array

if TYPE_CHECKING:
    import dask.array as da

log = logging.getLogger(__name__)

#: A model: a batch of patches in, one answer per patch out, the patch dimension first in both.
Model: TypeAlias = Callable[[Array], Array]

BAND = "band"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model answers for one patch: the shape without the patch dimension, and the dtype."""

    shape: tuple[int, ...]
    dtype: np.dtype


@dataclass(frozen=True, slots=True)
class Batching:
    """How a model is fed.

    Parameters
    ----------
    model : callable
        The model.
    size : int
        Patches per call, at most.
    nodata : tuple of (float or int or None)
        Nodata value of each input array.
    skip_empty : bool
        Whether patches without any valid cell are answered with `fill` instead of by the model.
    fill : float or int
        Answer for such patches.
    """

    model: Model
    size: int
    nodata: tuple[float | int | None, ...]
    skip_empty: bool
    fill: float | int


def map_patches(
    patches: xr.DataArray | xr.Dataset,
    model: Model,
    *,
    batch_size: int = 32,
    dims: Sequence[str] | None = None,
    fill: float | None = None,
    skip_empty: bool = False,
    meta: Array | None = None,
) -> xr.DataArray:
    """Map a model over patches, in batches.

    Parameters
    ----------
    patches : DataArray or Dataset
        With a ``patch`` dimension. A Dataset is stacked along a new ``band`` dimension, in the
        order of its variables: the model gets ``(batch, band, ..., y, x)``. A DataArray keeps its
        own dims: ``(batch, ..., y, x)``.
    model : callable
        Takes and returns numpy arrays with the patch dimension first.
    batch_size : int, default: 32
        Patches per call, at most.
    dims : sequence of str, optional
        Names of all dimensions of an answer but the patch dimension. By default: those of the
        input where the shape is the same, else the tiled dimensions last, and ``band`` for one
        more before them.
    fill : number, optional
        Value that means "not known" in the answers: it is declared as their ``nodata``, which
        stitching leaves out and fills with. NaN needs no declaration.
    skip_empty : bool, default: False
        Answer patches that are all NaN or nodata with `fill` (NaN for floats) without running the
        model on them.
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
        For a model that returns another number of answers than patches, or another shape than
        for the batches before; for dims that do not name every dimension; and for
        ``skip_empty=True`` with integer answers and no `fill`.
    TypeError
        For a model that returns no array, or changes its dtype from batch to batch.
    """
    index = patch_index(patches)
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}: it must be at least 1.")
    variables = _inputs(patches)
    rest = tuple(d for d in variables[0].dims if d not in (PATCH, *index.tiling.dims))
    in_dims = (PATCH, *rest, *index.tiling.dims)
    arrays = [var.transpose(*in_dims).data for var in variables]
    stacked = isinstance(patches, xr.Dataset)
    shape = (len(arrays),) * stacked + arrays[0].shape[1:]
    dtype = np.result_type(*arrays)
    lazy = not all(isinstance(a, np.ndarray) for a in arrays)
    if meta is not None:
        answer: Answer | None = Answer(meta.shape[1:], meta.dtype)
    else:
        answer = probe(model, shape, dtype) if lazy or not arrays[0].shape[0] else None
    if answer is not None:
        names = answer_dims(answer.shape, shape, in_dims[1:], stacked, dims, index.tiling.dims)
        _check_fill(answer.dtype, fill, skip_empty)
    nodata = tuple(nodata_of(var) for var in variables)
    batching = Batching(model, batch_size, nodata, skip_empty, np.nan if fill is None else fill)
    data: Array | da.Array
    if lazy:
        from xgeocat.patching import graph

        assert answer is not None
        data = graph.apply(arrays, batching, stacked, answer)
    else:
        data = run_batches(arrays, batching, stacked, answer)
        names = answer_dims(data.shape[1:], shape, in_dims[1:], stacked, dims, index.tiling.dims)
        _check_fill(data.dtype, fill, skip_empty)
    return _label(patches, names, data, fill)


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


def probe(model: Model, shape: tuple[int, ...], dtype: np.dtype) -> Answer:
    """Ask a model for the shape and dtype of its answers, with a batch of no patches."""
    try:
        answer = np.asarray(model(np.empty((0, *shape), dtype)))
        # Of an empty list numpy makes shape (0,), whatever the model makes of patches.
        if answer.shape[:1] == (0,) and answer.shape[1:][-1:] == shape[-1:]:
            return Answer(answer.shape[1:], answer.dtype)
    except Exception as error:
        # Many models cannot take an empty batch, each in its own way: then one patch decides.
        log.debug("the model cannot take a batch of no patches: %r", error)
    answer = np.asarray(model(np.ones((1, *shape), dtype)))
    _check_length(answer, 1)
    return Answer(answer.shape[1:], answer.dtype)


def answer_dims(
    answer: tuple[int, ...],
    given: tuple[int, ...],
    in_dims: tuple[Hashable, ...],
    stacked: bool,
    dims: Sequence[str] | None,
    tiled: tuple[str, ...],
) -> tuple[Hashable, ...]:
    """Name the dimensions of one answer; see :func:`map_patches`."""
    tail = given[len(given) - len(tiled) :]
    if answer[len(answer) - len(tiled) :] != tail:
        raise ValueError(
            f"The model was given patches of shape {given} and answered with {answer}: the last "
            f"{len(tiled)} dims must stay {tail} ({', '.join(tiled)}). Make it return the grid it "
            "is given."
        )
    if dims is not None:
        if PATCH in dims or len(set(dims)) != len(dims):
            raise ValueError(
                f"dims={tuple(dims)} must name all dimensions of an answer, each once, without "
                f"{PATCH!r}."
            )
        if len(dims) != len(answer) or tuple(dims[len(dims) - len(tiled) :]) != tiled:
            raise ValueError(
                f"dims={tuple(dims)} must name all dimensions of an answer of shape {answer}, "
                f"the tiled {tiled} last, without {PATCH!r}."
            )
        return tuple(dims)
    if answer == given:
        return ((BAND,) if stacked else ()) + in_dims
    if stacked and answer == given[1:]:
        return in_dims
    extra = len(answer) - len(tiled)
    if extra > 1:
        raise ValueError(
            f"The model answered with shape {answer}, which has {extra} dims before {tiled}. Name "
            "them: map(model, dims=('head', 'band', 'y', 'x'))."
        )
    return (BAND,) * extra + tiled


def _check_fill(dtype: np.dtype, fill: float | None, skip_empty: bool) -> None:
    if fill is not None and not representable(fill, dtype):
        raise ValueError(f"fill={fill!r} is not a value of the answers' dtype {dtype}.")
    if skip_empty and fill is None and dtype.kind in "iub":
        raise ValueError(
            f"skip_empty=True needs a value for skipped patches, and the model answers {dtype}, "
            "which has no NaN. Give one that no answer uses: fill=255, or let the model answer "
            "floats."
        )


def run_batches(
    arrays: Sequence[Array], batching: Batching, stacked: bool, answer: Answer | None = None
) -> Array:
    """Run a model over patches in memory.

    Parameters
    ----------
    arrays : sequence of numpy.ndarray
        Shape ``(patch, ...)`` each: the bands of a Dataset, or one array.
    batching : Batching
        The model and how it is fed.
    stacked : bool
        Whether the arrays are stacked to ``(patch, band, ...)``.
    answer : Answer, optional
        What the answers must be; by default, as the first.

    Returns
    -------
    numpy.ndarray
        Shape ``(patch, *answer)``.
    """
    n = arrays[0].shape[0]
    run = _worth_running(arrays, batching)
    out: Array | None = None
    if answer is not None:
        out = np.empty((n, *answer.shape), answer.dtype)
    elif not run.any():
        stack = np.empty((0, *((len(arrays),) * stacked), *arrays[0].shape[1:]))
        answer = probe(batching.model, stack.shape[1:], np.result_type(*arrays))
        out = np.empty((n, *answer.shape), answer.dtype)
    chosen = np.flatnonzero(run)
    for first in range(0, len(chosen), batching.size):
        at = chosen[first : first + batching.size]
        pick = slice(at[0], at[-1] + 1) if at[-1] - at[0] + 1 == len(at) else at
        given = np.stack([a[pick] for a in arrays], axis=1) if stacked else arrays[0][pick].copy()
        result = np.asarray(batching.model(given))
        _check_length(result, len(at))
        if out is None:
            out = np.empty((n, *result.shape[1:]), result.dtype)
        _check_same(result, out)
        out[pick] = result
    assert out is not None
    if not run.all():
        _check_fill(out.dtype, None if np.isnan(batching.fill) else batching.fill, True)
        out[~run] = batching.fill
    return out


def _worth_running(arrays: Sequence[Array], batching: Batching) -> NDArray[np.bool_]:
    n = arrays[0].shape[0]
    if not batching.skip_empty:
        return np.ones(n, bool)
    run = np.zeros(n, bool)
    for array, nodata in zip(arrays, batching.nodata, strict=True):
        valid = valid_mask(array, nodata)
        if valid is None:
            return np.ones(n, bool)
        run |= valid.reshape(n, -1).any(axis=1)
    return run


def _check_length(answer: Array, n: int) -> None:
    if answer.ndim == 0 or answer.shape[0] != n:
        raise ValueError(
            f"The model was given {n} patches and returned shape {answer.shape}; it must return "
            "one answer per patch, the patch dimension first."
        )


def _check_same(result: Array, out: Array) -> None:
    if result.shape[1:] != out.shape[1:]:
        raise ValueError(
            f"The model returned answers of shape {result.shape[1:]} for one batch and promised "
            f"{out.shape[1:]} (its answer to an earlier one, or meta=); they must all be alike."
        )
    if result.dtype != out.dtype:
        raise TypeError(
            f"The model returned {result.dtype} for one batch and promised {out.dtype} (its "
            "answer to an earlier one, or meta=). Cast to one dtype inside the model."
        )


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
