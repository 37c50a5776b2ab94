"""Cut: patches from the blocks of a field, on plain arrays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from xgeocat.patching.copying import Rows, copy_rows, has_rows, rows_in
from xgeocat.patching.scratch import empty
from xgeocat.patching.tiling import Array, Ints, Region, box_between


@dataclass(frozen=True, slots=True)
class Windows:
    """Patches that are cut when they are asked for: ``windows[numbers]``.

    Parameters
    ----------
    blocks, origins, starts, size, shape
        See :func:`cut`.
    """

    blocks: Sequence[Array]
    origins: Ints
    starts: Ints
    size: tuple[int, ...]
    shape: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, which: slice | Ints) -> Array:
        return cut(self.blocks, self.origins, self.starts[which], self.size, self.shape)


def cut(
    blocks: Sequence[Array],
    origins: Ints,
    starts: Ints,
    size: tuple[int, ...],
    shape: tuple[int, ...],
) -> Array:
    """Cut patches from the blocks of a field.

    Parameters
    ----------
    blocks : sequence of numpy.ndarray
        Shape ``(..., *block)``: the blocks that the patches meet.
    origins : numpy.ndarray
        Shape ``(block, dim)``: first cell of each block in the field.
    starts : numpy.ndarray
        Shape ``(patch, dim)``: first cell of each patch in the field.
    size : tuple of int
        Patch edges.
    shape : tuple of int
        Shape of the field. Cells of a patch beyond it are filled by reflecting the patch's own
        cells, so that they do not depend on how the field is chunked.

    Returns
    -------
    numpy.ndarray
        Shape ``(patch, ..., *size)``.
    """
    n = len(size)
    rest = blocks[0].shape[:-n]
    # Neither compiled loops nor torch know numbers of the other byte order, as netCDF 3 has them.
    out = empty((len(starts), *rest, *size), blocks[0].dtype.newbyteorder("="))
    if not out.size:
        return out
    stops = np.minimum(starts + np.asarray(size), np.asarray(shape))
    # A lazy array may hold other numbers than it says; memory is copied as it is only where not.
    alike = all(has_rows(block) and block.dtype == out.dtype for block in blocks)
    _require_all(blocks, origins, starts, stops, rest)
    copy = _copy_rows if n == 2 and alike else _copy_boxes
    copy(out, blocks, origins, starts, stops)
    before, after = (
        np.maximum(-starts, 0),
        np.maximum(starts + np.asarray(size) - np.asarray(shape), 0),
    )
    for i in np.flatnonzero((before + after > 0).any(axis=1)).tolist():
        missing = list(zip(before[i].tolist(), after[i].tolist(), strict=True))
        known: Region = (..., *(slice(a, n - b) for (a, b), n in zip(missing, size, strict=True)))
        out[i] = np.pad(out[i][known], [(0, 0)] * len(rest) + missing, mode="reflect")
    return out


def _require_all(
    blocks: Sequence[Array], origins: Ints, starts: Ints, stops: Ints, rest: tuple[int, ...]
) -> None:
    """Refuse blocks that are not as they are said to be: memory beside them would be copied."""
    wanted, found = np.maximum(starts, 0), 0
    for block, origin in zip(blocks, origins, strict=True):
        lo = np.maximum(starts, origin)
        hi = np.minimum(stops, origin + np.asarray(block.shape[-starts.shape[1] :]))
        found += int(np.maximum(hi - lo, 0).prod(axis=1).sum())
    alike = all(block.shape[: -starts.shape[1]] == rest for block in blocks)
    if not alike or found != np.maximum(stops - wanted, 0).prod(axis=1).sum():
        raise ValueError(
            f"The blocks of the field have the shapes {sorted({block.shape for block in blocks})}, "
            "which are not those of its chunks. Whatever made the lazy array (map_blocks, a "
            "reader) says other chunks than it makes."
        )


def _copy_rows(
    out: Array, blocks: Sequence[Array], origins: Ints, starts: Ints, stops: Ints
) -> None:
    """Copy what blocks have of patches ``(patch, ..., y, x)``, in one go."""
    to, of, shapes = [], [], []
    planes = math.prod(out.shape[1:-2])
    each = np.arange(len(starts)) * out.strides[0]
    for block, origin in zip(blocks, origins, strict=True):
        lo = np.maximum(starts, origin)
        hi = np.minimum(stops, origin + np.asarray(block.shape[-2:]))
        here = np.flatnonzero((lo < hi).all(axis=1))
        lo, hi = lo[here], hi[here]
        mine = rows_in(out[0], lo - starts[here])
        to.append(Rows(mine.addresses + np.tile(each[here], planes), mine.strides))
        of.append(rows_in(block, lo - origin))
        shapes.append(np.tile(hi - lo, (planes, 1)))
    copy_rows(Rows.joined(to), Rows.joined(of), np.concatenate(shapes), out.dtype)


def _copy_boxes(
    out: Array, blocks: Sequence[Array], origins: Ints, starts: Ints, stops: Ints
) -> None:
    """Copy what blocks have of patches ``(patch, ..., *size)``, one by one."""
    n = starts.shape[1]
    for block, origin in zip(blocks, origins, strict=True):
        lo = np.maximum(starts, origin)
        hi = np.minimum(stops, origin + np.asarray(block.shape[-n:]))
        for i in np.flatnonzero((lo < hi).all(axis=1)).tolist():
            target: Region = (..., *box_between(lo[i] - starts[i], hi[i] - starts[i]))
            source: Region = (..., *box_between(lo[i] - origin, hi[i] - origin))
            out[i][target] = block[source]
