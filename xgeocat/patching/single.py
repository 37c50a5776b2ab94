"""Single patches on the map, and rows of a table: what patches are outside of stitching."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from xgeocat.patching.answergrid import AnswerGrid, answer_grid, scales_of
from xgeocat.patching.index import PATCH, PatchIndex, patch_index, start_name
from xgeocat.patching.tiling import Array

if TYPE_CHECKING:
    import geopandas as gpd

    from xgeocat.patching.patch import Field


def one_patch(patches: Field, number: int) -> Field:
    """Return one patch, or the answer for it, as a field of its own on the map.

    Parameters
    ----------
    patches : DataArray or Dataset
        With a ``patch`` dimension that carries a PatchIndex.
    number : int
        Position along ``patch``; negative from the end.

    Returns
    -------
    DataArray or Dataset
        Without ``patch``, with the coordinates and the CRS of its own place; lazy if the patches
        are, and then only this patch is computed.

    Raises
    ------
    IndexError
        For a number beyond the patches.
    """
    n = patches.sizes[PATCH] if PATCH in patches.dims else 0
    if not -n <= number < n:
        raise IndexError(f"patch {number} of {n}: it must be {-n}..{n - 1}.")
    index = patch_index(patches)
    return _placed(patches.isel({PATCH: number}), index, _grid(patches, index), number % n)


def each_patch(patches: Field) -> Iterator[Field]:
    """Go through patches one by one, in memory, computing one chunk of them at a time.

    Each is on the map, as :func:`one_patch` gives it, but for the coordinates of its start.
    """
    index = patch_index(patches)
    grid = _grid(patches, index)
    frame = _frame(patches, index, grid) if isinstance(patches, xr.DataArray) else None
    chunks: tuple[int, ...] = patches.chunksizes.get(PATCH, (patches.sizes[PATCH],))
    for first, last in pairwise(np.cumsum([0, *chunks]).tolist()):
        some = patches.isel({PATCH: slice(first, last)}).compute()
        plain = some.drop_vars([start_name(dim) for dim in index.tiling.dims], errors="ignore")
        for number in range(first, last):
            boxes = _boxes(grid, patches, number)
            if frame is None or not _inside(boxes, frame):
                yield _placed(plain.isel({PATCH: number - first}), index, grid, number)
                continue
            # Coordinates that are cut together cost a tenth of those that are given one by one.
            place = frame.isel({dim: slice(a, a + n) for dim, (a, n) in boxes.items()})
            yield place.copy(deep=False, data=plain.data[number - first])


def _frame(patches: xr.DataArray, index: PatchIndex, grid: AnswerGrid) -> xr.DataArray | None:
    """The whole grid, with all coordinates and no values; None where single patches have others."""
    lengths = dict(zip(grid.tiling.dims, grid.tiling.shape, strict=True))
    dims = patches.dims[1:]
    along_patch = [n for n, c in patches.coords.items() if PATCH in c.dims]
    if patches.dims[0] != PATCH or len(along_patch) > len(index.tiling.dims):
        return None
    shape = [lengths.get(str(dim), patches.sizes[dim]) for dim in dims]
    riding = {n: c for n, c in patches.coords.items() if PATCH not in c.dims}
    own = {n: c for n, c in grid.coords.items() if set(c.dims) <= set(dims)}
    mapping = {n: _without_place(c) for n, c in index.parent.mapping.items()}
    nothing = np.broadcast_to(np.zeros(()), shape)
    frame = xr.DataArray(nothing, dims=dims, coords={**riding, **own, **mapping})
    frame.attrs = patches.attrs
    return frame.rename(patches.name)


def _inside(boxes: Mapping[str, tuple[int, int]], frame: xr.DataArray) -> bool:
    return all(a >= 0 and a + n <= frame.sizes[dim] for dim, (a, n) in boxes.items())


def _grid(patches: xr.DataArray | xr.Dataset, index: PatchIndex) -> AnswerGrid:
    return answer_grid(index.parent, index.starts, scales_of(index.tiling, patches.sizes))


def _boxes(
    grid: AnswerGrid, patches: xr.DataArray | xr.Dataset, number: int
) -> dict[str, tuple[int, int]]:
    """First cell and length of one patch along each tiled dimension that it has."""
    return {
        dim: (int(start), size)
        for dim, start, size in zip(
            grid.tiling.dims, grid.starts[number], grid.tiling.size, strict=True
        )
        if dim in patches.dims
    }


def _placed(patch: Field, index: PatchIndex, grid: AnswerGrid, number: int) -> Field:
    """Give one patch the coordinates of its place."""
    boxes = _boxes(grid, patch, number)
    own: dict[Hashable, xr.Variable] = {
        start_name(dim): xr.Variable((), start)
        for dim, start in zip(index.tiling.dims, index.starts[number], strict=True)
    }
    for name, coord in grid.coords.items():
        if set(coord.dims) <= boxes.keys():
            values = coord.values
            for axis, dim in enumerate(coord.dims):
                values = _window(values, axis, *boxes[str(dim)])
            own[name] = xr.Variable(coord.dims, values, coord.attrs)
    own |= {name: _without_place(mapping) for name, mapping in index.parent.mapping.items()}
    return patch.assign_coords(own)


def _without_place(mapping: xr.Variable) -> xr.Variable:
    """Grid mapping without the GeoTransform of the field: coordinates say where a patch is."""
    attrs = {name: value for name, value in mapping.attrs.items() if name != "GeoTransform"}
    return xr.Variable(mapping.dims, mapping.values, attrs)


def _window(values: Array, axis: int, start: int, size: int) -> Array:
    """Cut a window from coordinate values; those of cells beyond the field go on evenly."""
    n = values.shape[axis]
    if start >= 0 and start + size <= n:
        return np.take(values, range(start, start + size), axis)
    if values.ndim > 1 or n < 2:
        raise ValueError(
            f"The patch covers cells {start}..{start + size} of {n}: the coordinates of those "
            "beyond the field are not known. Cut with boundary='shift'."
        )
    return np.asarray(values[0] + (values[1] - values[0]) * np.arange(start, start + size))


def to_geodataframe(patches: xr.DataArray | xr.Dataset) -> gpd.GeoDataFrame:
    """Make a table of patches: a row each, with its outline and its values.

    Parameters
    ----------
    patches : DataArray or Dataset
        One value per patch (embeddings, scene classes), or a vector each along one more dimension;
        lazy ones are computed.

    Returns
    -------
    geopandas.GeoDataFrame
        In the field's CRS, in the order of the patches. Columns: the start of each patch along
        each tiled dimension, in pixels; a column for each variable, named after it (``value`` for a
        DataArray without a name), with a list of numbers where there is a vector each; coordinates
        along ``patch``; and ``geometry``, the whole patch.

    Raises
    ------
    ValueError
        For patches with pixels, or of a field without a regular grid.
    """
    import geopandas as gpd

    index = patch_index(patches)
    tiling = index.tiling
    variables = (
        {str(n): v for n, v in patches.data_vars.items() if PATCH in v.dims}
        if isinstance(patches, xr.Dataset)
        else {str(patches.name or "value"): patches}
    )
    columns: dict[str, object] = {
        start_name(dim): index.starts[:, axis] for axis, dim in enumerate(tiling.dims)
    }
    columns |= {
        str(n): c.values
        for n, c in patches.coords.items()
        if c.dims == (PATCH,) and n not in columns
    }
    for name, var in variables.items():
        rest = [d for d in var.dims if d != PATCH]
        if set(rest) & set(tiling.dims) or len(rest) > 1:
            raise ValueError(
                f"{name!r} has the dims {tuple(map(str, var.dims))}: a row holds one value or one "
                "vector per patch. Reduce the others first, e.g. .mean(('y', 'x')), or stitch."
            )
        values = var.transpose(PATCH, *rest).values
        columns[name] = values if not rest else list(values)
    return gpd.GeoDataFrame(columns, geometry=_outlines(index), crs=index.parent.crs)


def _outlines(index: PatchIndex) -> Array:
    """Outlines of patches, in the field's CRS."""
    import shapely

    from xgeocat.patching.answergrid import geobox_of

    found = geobox_of(index.parent)
    if found is None:
        raise ValueError(
            "The patches were cut from a field without a regular grid and a CRS, so they have no "
            "outlines. Give the field coordinates and a CRS before it is cut (.odc.assign_crs)."
        )
    geobox, dims = found
    axes = [index.tiling.dims.index(d) for d in dims if d in index.tiling.dims]
    if len(axes) < 2:
        raise ValueError(
            f"The patches are cut along {index.tiling.dims} only, and have no outlines on the map."
        )
    size = np.asarray(index.tiling.size)[axes]
    lo, hi = index.starts[:, axes], index.starts[:, axes] + size
    corners = [
        (lo[:, 1], lo[:, 0]),
        (hi[:, 1], lo[:, 0]),
        (hi[:, 1], hi[:, 0]),
        (lo[:, 1], hi[:, 0]),
    ]
    a = geobox.affine
    ring = [
        np.stack([a.a * x + a.b * y + a.c, a.d * x + a.e * y + a.f], axis=-1) for x, y in corners
    ]
    return np.asarray(shapely.polygons(np.stack([*ring, ring[0]], axis=1)))
