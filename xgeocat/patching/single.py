"""Single patches on the map, and rows of a table: what patches are outside of stitching."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from xgeocat.patching.answergrid import AnswerGrid, answer_grid, scales_of
from xgeocat.patching.index import PATCH, Parent, PatchIndex, patch_index, start_name
from xgeocat.patching.patch import SPATIAL_DIMS, is_whole_number
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
    TypeError
        For anything but a whole number.
    """
    index = patch_index(patches)
    if not is_whole_number(number):
        raise TypeError(
            f"patches.geocat[{number!r}]: one patch has a whole number. Several patches are "
            "selected with .isel(patch=...), and stay patches."
        )
    n = len(index.starts)
    if not -n <= number < n:
        raise IndexError(f"patch {number} of {n}: it must be {-n}..{n - 1}.")
    number = int(number) % n
    grid = _grid(index, _scales(patches, index), [number])
    return _placed(patches.isel({PATCH: number}), index, grid, number, 0)


def each_patch(patches: Field) -> Iterator[Field]:
    """Go through patches one by one, in memory, computing one chunk of them at a time.

    Each is on the map, as :func:`one_patch` gives it, but for the coordinates of its start.
    """
    index = patch_index(patches)
    scales = _scales(patches, index)
    # Where answers are coarser, patches may start between their cells: then each has its own grid.
    shared = all(not (index.starts[:, a] % s.denominator).any() for a, s in enumerate(scales))
    grid = _grid(index, scales, range(len(index.starts))) if shared else None
    frame = _frame(patches, index, grid) if grid and isinstance(patches, xr.DataArray) else None
    chunks: tuple[int, ...] = patches.chunksizes.get(PATCH, (patches.sizes[PATCH],))
    for first, last in pairwise(np.cumsum([0, *chunks]).tolist()):
        some = patches.isel({PATCH: slice(first, last)}).compute()
        plain = some.drop_vars([start_name(dim) for dim in index.tiling.dims], errors="ignore")
        for number in range(first, last):
            boxes = {} if grid is None else _boxes(grid, patches, number)
            if frame is None or not _inside(boxes, frame):
                own = grid or _grid(index, scales, [number])
                at = number if grid else 0
                one = _placed(plain.isel({PATCH: number - first}), index, own, number, at)
                yield one.drop_vars([start_name(dim) for dim in index.tiling.dims])
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
    nothing = np.broadcast_to(np.zeros(()), shape)
    coords = {**riding, **own, **_mappings(index, grid)}
    frame = xr.DataArray(nothing, dims=dims, coords=coords)
    frame.attrs = patches.attrs
    return frame.rename(patches.name)


def _inside(boxes: Mapping[str, tuple[int, int]], frame: xr.DataArray) -> bool:
    return all(a >= 0 and a + n <= frame.sizes[dim] for dim, (a, n) in boxes.items())


def _scales(patches: xr.DataArray | xr.Dataset, index: PatchIndex) -> list[Fraction]:
    """Answer cells for a cell of the field; along dims that a single answer has not, one."""
    return [scale or Fraction(1) for scale in scales_of(index.tiling, patches.sizes)]


def _grid(index: PatchIndex, scales: Sequence[Fraction], numbers: Sequence[int]) -> AnswerGrid:
    """Grid of some patches; one alone need not start where a coarser cell of the field does."""
    parent, starts = index.parent, index.starts[list(numbers)]
    if len(starts) == 1:
        between = starts[0] % [scale.denominator for scale in scales]
        if between.any():
            parent, starts = _without_edge(parent, between.tolist()), starts - between
    return answer_grid(parent, starts, tuple(scales))


def _without_edge(parent: Parent, cells: Sequence[int]) -> Parent:
    """The field without so many of its first cells."""
    gone = dict(zip(parent.tiling.dims, cells, strict=True))
    coords = {
        name: coord.isel({dim: slice(gone[str(dim)], None) for dim in coord.dims if dim in gone})
        for name, coord in parent.coords.items()
    }
    return Parent(
        parent.tiling.window(cells, parent.tiling.shape), parent.dims, coords, parent.mapping
    )


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


def _placed(patch: Field, index: PatchIndex, grid: AnswerGrid, number: int, at: int) -> Field:
    """Give one patch, which is the one `at` so many of the grid, the coordinates of its place."""
    boxes = _boxes(grid, patch, at)
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
    own |= _mappings(index, grid)
    return patch.assign_coords(own)


def _mappings(index: PatchIndex, grid: AnswerGrid) -> dict[Hashable, xr.Variable]:
    """Grid mapping of the answers, by name."""
    own = {name: grid.coords.get(name, coord) for name, coord in index.parent.mapping.items()}
    return {name: _without_place(coord) for name, coord in own.items()}


def _without_place(mapping: xr.Variable) -> xr.Variable:
    """Grid mapping without the GeoTransform of the field: coordinates say where a patch is.

    Those of a rotated field count its cells, and mean nothing without it.
    """
    turned = str(mapping.attrs.get("GeoTransform", "")).split()
    if len(turned) == 6 and (float(turned[2]) or float(turned[4])):
        return mapping
    attrs = {name: value for name, value in mapping.attrs.items() if name != "GeoTransform"}
    return xr.Variable(mapping.dims, mapping.values, attrs)


def _window(values: Array, axis: int, start: int, size: int) -> Array:
    """Cut a window from coordinate values; those of cells beyond the field go on evenly."""
    n = values.shape[axis]
    if start >= 0 and start + size <= n:
        return np.take(values, range(start, start + size), axis)
    even = values.ndim == 1 and values.dtype.kind in "fiuMm"
    steps = np.diff(values) if even else np.empty(0)
    if not len(steps) or not _all_alike(steps):
        raise ValueError(
            f"The patch covers cells {start}..{start + size} of {n}: the coordinates of those "
            "beyond the field are not known. Cut with boundary='shift' or 'drop'."
        )
    cells = np.arange(start, start + size)
    known = values[np.clip(cells, 0, n - 1)]
    return np.asarray(known + (cells - np.clip(cells, 0, n - 1)) * steps[0])


def _all_alike(steps: Array) -> bool:
    if steps.dtype.kind == "f":
        return bool(np.allclose(steps, steps[0], rtol=1e-6, atol=0))
    return bool((steps == steps[0]).all())


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

    dims = index.tiling.dims
    if not any(set(pair) <= set(dims) for pair in SPATIAL_DIMS):
        raise ValueError(f"The patches are cut along {dims} only, and have no outlines on the map.")
    found = geobox_of(index.parent)
    if found is None:
        raise ValueError(
            "The patches were cut from a field without a regular grid and a CRS, so they have no "
            "outlines. Give the field coordinates and a CRS before it is cut (.odc.assign_crs)."
        )
    geobox, spatial = found
    axes = [dims.index(dim) for dim in spatial]
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
