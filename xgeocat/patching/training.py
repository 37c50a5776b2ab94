"""Training: patches as a torch Dataset."""

from __future__ import annotations

import operator
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, SupportsIndex, TypeAlias, TypeVar, cast

import dask.array as da
import numpy as np
import xarray as xr
from dask.base import compute

from xgeocat.patching.index import PATCH, PatchIndex, patch_index
from xgeocat.patching.loading import require
from xgeocat.patching.selectable import packed
from xgeocat.patching.tiling import Array

if TYPE_CHECKING:
    import torch

#: Takes the tensors of an item, and returns what shall be in their place.
Transform: TypeAlias = Callable[..., object]

Labels = TypeVar("Labels", xr.DataArray, xr.Dataset, xr.DataArray | xr.Dataset)

#: torch has these dtypes, and hardly an operation for them.
WIDER = {"uint16": "int32", "uint32": "int64", "uint64": "int64"}


def to_torch(
    patches: xr.DataArray | xr.Dataset,
    *,
    labels: xr.DataArray | xr.Dataset | None = None,
    transform: Transform | None = None,
) -> torch.utils.data.Dataset[object]:
    """Make a torch Dataset of patches, for a DataLoader.

    Lazy patches are read when they are asked for: an item computes the blocks of the field that
    this patch meets, a batch those that its patches meet, each once, in the thread that asks. So
    it may be used in the worker processes of a DataLoader, started in any way. (Files opened by
    GDAL do not live on in a fork: for a field of rioxarray give the DataLoader
    ``multiprocessing_context="spawn"``.)

    Parameters
    ----------
    patches : DataArray or Dataset
        With a ``patch`` dimension and its PatchIndex. A Dataset is stacked: items are
        ``(band, ..., y, x)``, in the order of its variables. Items of a DataArray keep its dims,
        ``(..., y, x)``. Arithmetic on lazy patches makes dask compute all patches of a block for
        one: calculate before `patch`, or in `transform`.
    labels : DataArray or Dataset, optional
        The same patches of a field on the same grid, in any order; there may be more of them.
    transform : callable, optional
        Takes an item, as ``transform(patch)`` or ``transform(patch, label)``, and returns what
        shall be in its place.

    Returns
    -------
    torch.utils.data.Dataset
        Map-style. Items are tensors, or with `labels` pairs of them. Dtypes are kept, but for
        those that torch can hardly calculate with: uint16 becomes int32, uint32 and uint64 int64.

    Raises
    ------
    ValueError
        For labels of another grid or of other patches, variables that cannot be stacked, or
        patches without a PatchIndex.
    TypeError
        For values that torch has no dtype for.
    ImportError
        Where torch is not installed.

    Examples
    --------
    >>> pairs = to_torch(cube.geocat.patch(256), labels=landcover.geocat.patch(256))
    >>> loader = torch.utils.data.DataLoader(pairs, batch_size=16, shuffle=True, num_workers=4)
    """
    require("torch", "torch")
    parts = [_part(patches)]
    if labels is not None:
        parts.append(_part(_matched(labels, patch_index(patches))))
    return cast("torch.utils.data.Dataset[object]", _dataset_class()(parts, transform))


class PatchDataset:
    """Patches, and perhaps labels, as tensors; see :func:`to_torch`, which makes it."""

    def __init__(self, parts: Sequence[Part], transform: Transform | None) -> None:
        self.parts = tuple(parts)
        self.transform = transform

    def __len__(self) -> int:
        return self.parts[0].arrays[0].shape[0]

    def __getitem__(self, number: SupportsIndex) -> object:
        return self.__getitems__([number])[0]

    def __getitems__(self, numbers: Sequence[SupportsIndex]) -> list[object]:
        if not len(numbers):
            return []
        import torch

        # In their order, neighbours share blocks and tasks.
        which, places = np.unique([self._place(n) for n in numbers], return_inverse=True)
        picked = [[array[which] for array in part.arrays] for part in self.parts]
        read = compute(picked, scheduler="synchronous")[0]
        batches = [part.batch(values) for part, values in zip(self.parts, read, strict=True)]
        items: list[object] = []
        for place in places:
            # Copies: a transform may work in place, and a patch be asked for twice.
            item = tuple(torch.from_numpy(batch[place].copy()) for batch in batches)
            if self.transform is not None:
                items.append(self.transform(*item))
            else:
                items.append(item[0] if len(item) == 1 else item)
        return items

    def _place(self, number: SupportsIndex) -> int:
        place = operator.index(number)
        if not -len(self) <= place < len(self):
            raise IndexError(f"Patch {place} was asked for, and there are {len(self)} patches.")
        return place % len(self)

    def __repr__(self) -> str:
        parts = " with labels ".join(f"{part.shape} {part.dtype}" for part in self.parts)
        return f"PatchDataset({len(self)} patches of {parts})"

    def __reduce__(self) -> tuple[Callable[[bytes], PatchDataset], tuple[bytes]]:
        return _unpacked, (packed((self.parts, self.transform)),)


@dataclass(frozen=True, slots=True)
class Part:
    """What makes one tensor of an item.

    Parameters
    ----------
    arrays : tuple of numpy.ndarray or dask.array.Array
        Shape ``(patch, ...)`` each: the variables of a Dataset, or one array.
    stacked : bool
        Whether they are stacked to ``(patch, band, ...)``.
    dtype : numpy.dtype
        That of the tensor.
    """

    arrays: tuple[Array | da.Array, ...]
    stacked: bool
    dtype: np.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor."""
        return (len(self.arrays),) * self.stacked + self.arrays[0].shape[1:]

    def batch(self, values: Sequence[Array]) -> Array:
        """Stack what was read of the arrays."""
        batch = np.stack(values, axis=1) if self.stacked else values[0]
        if batch.dtype == np.uint64 and batch.size and batch.max() > np.iinfo(np.int64).max:
            raise ValueError(
                f"The patches hold {batch.max()} (uint64), and torch calculates with int64, up to "
                f"{np.iinfo(np.int64).max}. Give the field another dtype before it is cut."
            )
        return batch.astype(self.dtype, copy=False)


def _matched(labels: Labels, index: PatchIndex) -> Labels:
    """Take the labels of some patches, in their order: that of lazy patches follows the blocks."""
    found = patch_index(labels)
    if not index.parent.same_grid(found.parent):
        raise ValueError(
            f"The labels have another grid than the patches: {found}, and {index}. Put the "
            "labels on the grid of the field, and cut both with the same size."
        )
    places = {tuple(start): place for place, start in enumerate(found.starts.tolist())}
    wanted = [tuple(start) for start in index.starts.tolist()]
    missing = [start for start in wanted if start not in places]
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(wanted)} patches have no label; the first starts at "
            f"{dict(zip(index.tiling.dims, missing[0], strict=True))}. Cut both with the same "
            "overlap, or select the patches that have one."
        )
    return labels.isel({PATCH: [places[start] for start in wanted]})


def _part(patches: xr.DataArray | xr.Dataset) -> Part:
    tiled = patch_index(patches).tiling.dims
    stacked = isinstance(patches, xr.Dataset)
    variables = [patches]
    if isinstance(patches, xr.Dataset):
        variables = [var for var in patches.data_vars.values() if PATCH in var.dims]
    sizes = {str(var.name): dict(var.sizes) for var in variables}
    if not variables or any(size != sizes[str(variables[0].name)] for size in sizes.values()):
        raise ValueError(
            "The variables of a Dataset are stacked as bands, so they must share their dims; got "
            f"{sizes}. Select those that are wanted, e.g. patches[['red', 'nir']]."
        )
    rest = [dim for dim in variables[0].dims if dim not in (PATCH, *tiled)]
    arrays = tuple(var.transpose(PATCH, *rest, *tiled).data for var in variables)
    dtype = np.result_type(*arrays)
    return Part(arrays, stacked, _torch_dtype(dtype))


def _torch_dtype(dtype: np.dtype) -> np.dtype:
    import torch

    wanted = np.dtype(WIDER.get(dtype.name, dtype)).newbyteorder("=")
    try:
        torch.from_numpy(np.empty(0, wanted))
    except TypeError as error:
        raise TypeError(
            f"The patches hold {dtype}, which torch has no dtype for. Give the field a number "
            "dtype before it is cut, e.g. field.astype('float32')."
        ) from error
    return wanted


@cache
def _dataset_class() -> type[PatchDataset]:
    """Make the class a torch Dataset too, once torch is wanted."""
    from torch.utils.data import Dataset

    made = type("PatchDataset", (PatchDataset, Dataset), {"__module__": __name__})
    return cast("type[PatchDataset]", made)


def _unpacked(state: bytes) -> PatchDataset:
    return _dataset_class()(*pickle.loads(state))
