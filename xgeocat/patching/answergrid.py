"""The grid that answers lie on: the field's own, a finer or coarser one, or one cell per patch."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import odc.geo.xr
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox

from xgeocat.patching.index import Parent
from xgeocat.patching.tiling import Ints, Tiling, axis_starts

#: Scale of each tiled dimension: answer cells for a cell of the field; None: one for a patch.
Scales = tuple[Fraction | None, ...]


@dataclass(frozen=True, slots=True)
class AnswerGrid:
    """Where answers lie.

    Parameters
    ----------
    tiling : Tiling
        The tiling of the field, in cells of the answers.
    starts : numpy.ndarray
        Shape ``(patch, dim)``: first cell of each patch among them.
    coords : mapping of str to Variable
        The coordinates of the field along the tiled dimensions, for the new cells, and its
        grid mapping where the grid is another.
    """

    tiling: Tiling
    starts: Ints
    coords: Mapping[Hashable, xr.Variable]


def scale_of(size: int, answered: int) -> Fraction | None:
    """Answer cells for a cell of a patch, where one is a whole number of the other; else None."""
    ratio = Fraction(answered, size) if size else Fraction(1)
    return ratio if 1 in (ratio.numerator, ratio.denominator) and answered else None


def scales_of(tiling: Tiling, sizes: Mapping[Hashable, int]) -> Scales:
    """Find the scale of each tiled dimension from the lengths of the answers.

    Raises
    ------
    ValueError
        For a length that is neither a multiple nor a whole fraction of the patch's.
    """
    scales: list[Fraction | None] = []
    for dim, size in zip(tiling.dims, tiling.size, strict=True):
        scale = scale_of(size, sizes[dim]) if dim in sizes else None
        if scale is None and dim in sizes:
            raise ValueError(
                f"The answers have {sizes[dim]} cells along {dim!r} for patches of {size}: neither "
                "k times as many nor a k-th of them. Make the model return the grid it is given "
                "(pad what a valid convolution cuts off), one k times finer or coarser, or no "
                f"{dim!r} at all."
            )
        scales.append(scale)
    return tuple(scales)


def answer_grid(parent: Parent, starts: Ints, scales: Scales) -> AnswerGrid:
    """Work out where answers lie.

    Parameters
    ----------
    parent : Parent
        The field that was cut.
    starts : numpy.ndarray
        Shape ``(patch, dim)``: first cell of each patch in the field.
    scales : tuple of (Fraction or None)
        See :func:`scales_of`.

    Raises
    ------
    ValueError
        For patches that start between two coarser cells, or off the regular grid where each is to
        become one cell.
    """
    if all(scale == 1 for scale in scales):
        return AnswerGrid(parent.tiling, starts, parent.coords)
    tiling = parent.tiling
    axes = [
        _one_each(tiling, axis, starts[:, axis])
        if scale is None
        else _scaled(tiling, axis, starts[:, axis], scale)
        for axis, scale in enumerate(scales)
    ]
    changed = Tiling(
        dims=tiling.dims,
        shape=tuple(axis.length for axis in axes),
        size=tuple(axis.size for axis in axes),
        stride=tuple(axis.stride for axis in axes),
        boundary=tiling.boundary,
        blocks=tuple(axis.blocks for axis in axes),
    )
    moved = np.stack([axis.starts for axis in axes], axis=-1).astype(np.int64)
    return AnswerGrid(changed, moved, _coords(parent, scales, changed.shape))


@dataclass(frozen=True, slots=True)
class _Axis:
    length: int
    size: int
    stride: int
    blocks: tuple[int, ...]
    starts: Ints


def _scaled(tiling: Tiling, axis: int, starts: Ints, scale: Fraction) -> _Axis:
    k = scale.denominator
    off = starts[starts % k != 0]
    if len(off):
        raise ValueError(
            f"The answers are {k} times coarser than the field along {tiling.dims[axis]!r}, but a "
            f"patch starts at {off[0]}, which is no multiple of {k}. Cut with a stride that is, "
            "and boundary='pad' (or 'drop'), so that the last patch does not move in."
        )
    length = -(-tiling.shape[axis] * scale.numerator // k)
    return _Axis(
        length,
        int(tiling.size[axis] * scale),
        max(1, int(tiling.stride[axis] * scale)),
        _blocks(tiling.blocks[axis], scale, length),
        starts * scale.numerator // k,
    )


def _one_each(tiling: Tiling, axis: int, starts: Ints) -> _Axis:
    dim, stride = tiling.dims[axis], tiling.stride[axis]
    off = starts[starts % stride != 0]
    if len(off):
        raise ValueError(
            f"There is one answer per patch along {dim!r}, and a patch starts at {off[0]}, off the "
            f"grid of one every {stride} cells. Cut with boundary='pad' (or 'drop'), so that the "
            "last patch does not move in; or keep answers as rows: .geocat.to_geodataframe()."
        )
    regular = axis_starts(tiling.shape[axis], tiling.size[axis], stride, tiling.boundary, dim)
    length = max(len(regular), int(starts.max(initial=-stride)) // stride + 1)
    blocks = _blocks(tiling.blocks[axis], Fraction(1, stride), length)
    return _Axis(length, 1, 1, blocks, starts // stride)


def _blocks(blocks: tuple[int, ...], scale: Fraction, length: int) -> tuple[int, ...]:
    edges = [
        min(length, -(-int(e) * scale.numerator // scale.denominator)) for e in np.cumsum(blocks)
    ]
    return tuple(int(n) for n in np.diff(np.unique([0, *edges[:-1], length])))


def _coords(parent: Parent, scales: Scales, shape: tuple[int, ...]) -> dict[Hashable, xr.Variable]:
    """Coordinates of the new cells; those that lie over a changed dimension in another way go."""
    tiling = parent.tiling
    changed = {dim: s for dim, s in zip(tiling.dims, scales, strict=True) if s != 1}
    coords = {n: v for n, v in parent.coords.items() if not changed.keys() & set(v.dims)}
    lengths = dict(zip(tiling.dims, shape, strict=True))
    spatial = geobox_of(parent)
    if spatial is not None and changed.keys() & set(spatial[1]):
        coords |= _spatial_coords(parent, *spatial, changed, lengths)
    for dim in changed.keys() - coords.keys() & parent.coords.keys():
        coords[dim] = _along(parent, dim, changed[dim], lengths[dim])
    return coords


def geobox_of(parent: Parent) -> tuple[GeoBox, tuple[str, str]] | None:
    """Geobox of the field and the names of its dims, where it has a regular grid with a CRS."""
    dims = parent.tiling.dims
    nothing = np.broadcast_to(np.zeros(()), parent.tiling.shape)
    known = {n: v for n, v in parent.coords.items() if set(v.dims) <= set(dims)}
    field = xr.DataArray(nothing, dims=dims).assign_coords({**known, **parent.mapping})
    geobox = field.odc.geobox
    return (geobox, field.odc.spatial_dims) if isinstance(geobox, GeoBox) else None


def _spatial_coords(
    parent: Parent,
    geobox: GeoBox,
    dims: tuple[str, str],
    changed: Mapping[str, Fraction | None],
    lengths: Mapping[str, int],
) -> dict[Hashable, xr.Variable]:
    (ty, sy), (tx, sx) = (_move(parent.tiling, d, changed.get(d, Fraction(1))) for d in dims)
    moved = Affine.translation(float(tx), float(ty)) @ Affine.scale(float(sx), float(sy))
    box = GeoBox((lengths[dims[0]], lengths[dims[1]]), geobox.affine @ moved, geobox.crs)
    name = next(map(str, parent.mapping), "spatial_ref")
    return {n: c.variable for n, c in odc.geo.xr.xr_coords(box, name, dims=dims).items()}


def _move(tiling: Tiling, dim: str, scale: Fraction | None) -> tuple[Fraction, Fraction]:
    """First edge of the new cells, and the length of one, both in cells of the field."""
    if scale is not None:
        return Fraction(0), 1 / scale
    axis = tiling.dims.index(dim)
    stride = tiling.stride[axis]
    return Fraction(tiling.size[axis] - stride, 2), Fraction(stride)


def _along(parent: Parent, dim: str, scale: Fraction | None, length: int) -> xr.Variable:
    """Coordinate of a dimension that is not on the map: times, levels, or a grid without a CRS."""
    values = parent.coords[dim].values
    axis = parent.tiling.dims.index(dim)
    if scale is None:
        # Of a window over time, the last step is the one that all before lead up to.
        last = np.arange(length) * parent.tiling.stride[axis] + parent.tiling.size[axis] - 1
        if last.max(initial=0) >= len(values):
            raise ValueError(
                f"The last patch runs past the end of {dim!r}, so its answer has no place there. "
                "Cut with boundary='shift' or 'drop'."
            )
        return xr.Variable((dim,), values[last], parent.coords[dim].attrs)
    steps = np.diff(values) if values.dtype.kind in "fiu" else np.empty(0)
    if not len(steps) or not np.allclose(steps, steps[0], rtol=1e-6):
        raise ValueError(
            f"The answers are on another grid along {dim!r}, whose coordinate is not evenly "
            f"spaced numbers, so the new cells cannot be placed. Drop it: .drop_vars({dim!r})."
        )
    step = (values[-1] - values[0]) / (len(values) - 1)
    centres = (np.arange(length) + 0.5) / float(scale) - 0.5
    return xr.Variable((dim,), values[0] + centres * step, parent.coords[dim].attrs)
