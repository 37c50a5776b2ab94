"""Places: points, lines, polygons and labels on the grid of a field."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from functools import partial
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import numpy as np
import pyproj
import shapely
import xarray as xr
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from xgeocat.patching.nodata import nodata_of
from xgeocat.patching.patch import spatial_dims
from xgeocat.patching.tiling import Array, Ints

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

#: A geometry, or an array of them.
G = TypeVar("G", BaseGeometry, NDArray[np.object_])
Field: TypeAlias = xr.DataArray | xr.Dataset
#: A class for each cell of a field, as a code, and the code of each class.
Classes: TypeAlias = tuple[Array, Mapping[Hashable, int]]

#: Edges are cut into pieces no longer than this before they are reprojected, in units of a
#: projected and of a geographic CRS; a straight piece is then a few centimetres off at most.
LONGEST = (1_000.0, 0.01)


def located(places: object, crs: object, kind: str) -> tuple[Array, pyproj.CRS | None]:
    """Geometries of one kind (single or multi), and the CRS they are in."""
    import geopandas as gpd

    own = None if crs is None else _crs(crs)
    if isinstance(places, (gpd.GeoDataFrame, gpd.GeoSeries)):
        if own is not None and places.crs is not None and own != places.crs:
            raise ValueError(
                f"crs={crs_name(own)}, but the places are in {crs_name(places.crs)}. Leave crs= "
                "out, or convert them before: places.to_crs(...)."
            )
        own, geometries = own or places.crs, places.geometry.to_numpy()
    else:
        geometries = np.atleast_1d(np.asarray(places))
        if geometries.dtype.kind in "iuf" and geometries.ndim == 2 and geometries.shape[1] == 2:
            geometries = shapely.points(geometries)
    got = {getattr(geometry, "geom_type", type(geometry).__name__) for geometry in geometries}
    if got - {kind, f"Multi{kind}", "NoneType"} or not got:
        raise TypeError(
            f"Got {sorted(got) or 'nothing'}, and needs {kind} or Multi{kind}: shapely geometries, "
            "a GeoSeries or a GeoDataFrame of them, or an (n, 2) array of x, y for points."
        )
    # Bounds are NaN where there is no geometry, but pass over a coordinate that is NaN.
    broken = ~np.isfinite(shapely.bounds(geometries).sum(axis=1))
    xy, owner = shapely.get_coordinates(geometries, return_index=True)
    broken[owner[~np.isfinite(xy.sum(axis=1))]] = True
    if broken.any():
        raise ValueError(
            f"{broken.sum()} of {len(broken)} places are missing, empty or not finite; the first "
            f"are number {np.flatnonzero(broken)[:3].tolist()}, from 0. Leave them out."
        )
    return shapely.force_2d(geometries), own


def _crs(crs: object) -> pyproj.CRS:
    try:
        return pyproj.CRS.from_user_input(getattr(crs, "proj", crs))
    except pyproj.exceptions.CRSError as error:
        raise ValueError(f"crs={crs!r} is unknown; give e.g. 'EPSG:4326'.") from error


def crs_name(crs: object) -> str:
    """Name of a CRS in messages."""
    return "no CRS" if crs is None else _crs(crs).to_string()


def grid_of(field: Field) -> GeoBox:
    """Grid of a field, with or without a CRS; an error where it is not regular."""
    import odc.geo.xr  # noqa: F401 - registers .odc
    from affine import TransformNotInvertibleError
    from odc.geo.geobox import GeoBox

    try:
        geobox = field.odc.geobox
    except TransformNotInvertibleError:
        geobox = None
    # odc-geo reads the first and last coordinate alone.
    steps = [np.diff(field[d].values) for d in spatial_dims(field) if d in field.coords]
    even = all(np.ptp(step) <= np.abs(step).max() / 100 for step in steps if step.size)
    if not even or not isinstance(geobox, GeoBox) or not geobox.transform.determinant:
        raise ValueError(
            f"The field with the dims {tuple(map(str, field.dims))} has no regular grid to find "
            "places on. Give it evenly spaced y and x coordinates: field.assign_coords(...)."
        )
    return geobox


def projected(geometry: G, crs: pyproj.CRS | None, geobox: GeoBox) -> G:
    """Geometries in the CRS of a grid; what cannot be projected has infinite coordinates."""
    if crs is None or (geobox.crs and crs.equals(geobox.crs.proj, ignore_axis_order=True)):
        return geometry
    if geobox.crs is None:
        raise ValueError(
            f"The places are in {crs_name(crs)}, and the field has no CRS. Give it one: "
            "field.odc.assign_crs('EPSG:...')."
        )
    fine = shapely.segmentize(geometry, LONGEST[crs.is_geographic])
    transformer = pyproj.Transformer.from_crs(crs, geobox.crs.proj, always_xy=True)
    # What is not interleaved takes x and y apart, which the stubs do not say.
    return shapely.transform(fine, transformer.transform, interleaved=False)  # type: ignore[arg-type]


def near(
    geometry: BaseGeometry, crs: pyproj.CRS | None, geobox: GeoBox
) -> tuple[NDArray[np.object_], Ints]:
    """Parts of lines or polygons around a grid, in its CRS, and the number of what each is of."""
    parts, owner = shapely.get_parts(geometry), np.arange(shapely.get_num_geometries(geometry))
    if crs is not None and crs.is_geographic and geobox.crs and not geobox.crs.geographic:
        # Projections fold far from home, so all that is not near is cut off before.
        pieces = [
            shapely.get_parts(shapely.clip_by_rect(parts, *box), return_index=True)
            for box in _neighbourhood(crs, geobox)
        ]
        owner = np.concatenate([index for _, index in pieces])
        order = np.argsort(owner, kind="stable")
        parts, owner = np.concatenate([piece for piece, _ in pieces])[order], owner[order]
    parts = projected(parts, crs, geobox)
    if not np.isfinite(shapely.get_coordinates(parts)).all():
        raise ValueError(
            f"Part of the geometries, which are in {crs_name(crs)}, cannot be projected to the CRS "
            f"of the field, {crs_name(geobox.crs)}. Clip them to its neighbourhood: "
            "shapely.clip_by_rect."
        )
    return parts, owner


def _neighbourhood(degrees: pyproj.CRS, geobox: GeoBox) -> list[tuple[float, ...]]:
    """Boxes of longitude and latitude that hold a grid, one for each way to count longitudes."""
    transformer = pyproj.Transformer.from_crs(_crs(geobox.crs), degrees, always_xy=True)
    west, south, east, north = transformer.transform_bounds(*geobox.boundingbox.bbox)
    if not np.isfinite([west, south, east, north]).all():
        # The corners of the grid lie off the globe, as those of a geostationary image.
        return [(-360, -90, 360, 90)]
    east += 360 * (west > east)
    margin = max(east - west, north - south) / 10
    return [
        (west - margin + turn, south - margin, east + margin + turn, north + margin)
        for turn in (-360, 0, 360)
    ]


def row_column(geobox: GeoBox, xy: Array) -> Array:
    """Row and column, as fractions, of some x and y: shape ``(place, 2)``."""
    a, b, c, d, e, f = geobox.transform[:6]
    x, y = xy[:, 0] - c, xy[:, 1] - f
    if b == d == 0:
        # The offset is divided, not multiplied with an inverse: exact on the edges of pixels.
        return np.stack([y / e, x / a], axis=-1)
    return np.stack([a * y - d * x, e * x - b * y], axis=-1) / (a * e - b * d)


def inside_grid(positions: Array, geobox: GeoBox) -> NDArray[np.bool_]:
    """Tell which rows and columns are inside a grid."""
    return np.logical_and.reduce((positions >= 0) & (positions < geobox.shape), axis=1)


def labels_of(labels: object, column: Hashable) -> partial[Classes]:
    """Function of a field that gives its classes, from labels or polygons."""
    import geopandas as gpd

    if isinstance(labels, gpd.GeoDataFrame):
        if column not in labels.columns:
            raise ValueError(
                f"column={column!r} must name the classes, as one of {list(labels.columns)} does."
            )
        kept = labels[labels[column].notna()]
        polygons, crs = located(kept, None, "Polygon")
        collection = shapely.GeometryCollection(polygons.tolist())
        return partial(_painted, polygons=collection, classes=tuple(kept[column]), crs=crs)
    if not isinstance(labels, xr.DataArray) or labels.dtype.kind not in "iub":
        got = getattr(labels, "dtype", type(labels).__name__)
        raise TypeError(
            f"labels are {got}, and must be a DataArray of integers, e.g. labels.fillna(0)"
            ".astype('uint8').assign_attrs(nodata=0), or a GeoDataFrame of polygons."
        )
    if set(labels.dims) != set(spatial_dims(labels)) or column is not None:
        raise ValueError(
            f"labels with the dims {labels.dims} and column={column!r}: a DataArray must have the "
            "two spatial dims alone, and has no columns. Select a time or band with .isel()."
        )
    return partial(_gridded, labels=labels.copy().compute())


def _gridded(field: Field, *, labels: xr.DataArray) -> Classes:
    import odc.geo.xr  # noqa: F401 - registers .odc

    spatial = spatial_dims(field)
    crs = {grid.odc.crs for grid in (field, labels)} - {None}
    if len(crs) > 1 or not all(_same_axis(field, labels, dim) for dim in spatial):
        raise ValueError(
            f"The labels, {dict(labels.sizes)} in {crs_name(labels.odc.crs)}, are not on the grid "
            f"of the field, {dict(field.sizes)} in {crs_name(field.odc.crs)}: shape, coordinates "
            "or CRS differ. Use labels.odc.reproject(field.odc.geobox, resampling='nearest')."
        )
    codes, nodata = labels.transpose(*spatial).values, nodata_of(labels)
    return codes, {code: code for code in np.unique(codes).tolist() if code != nodata}


def _same_axis(field: Field, labels: xr.DataArray, dim: str) -> bool:
    if labels.sizes.get(dim) != field.sizes[dim] or (dim in labels.coords) != (dim in field.coords):
        return False
    if dim not in field.coords:
        return True
    here, there = field[dim].values, labels[dim].values
    pixel = abs(here[-1] - here[0]) / max(len(here) - 1, 1)
    return np.allclose(here, there, rtol=0, atol=pixel / 100)


def _painted(
    field: Field,
    *,
    polygons: shapely.GeometryCollection,
    classes: tuple[Hashable, ...],
    crs: pyproj.CRS | None,
) -> Classes:
    import pandas as pd
    from rasterio.features import rasterize

    geobox = grid_of(field)
    shapes, owner = near(polygons, crs, geobox)
    numbers, names = pd.factorize(pd.Series(classes), sort=True)
    codes = np.zeros(geobox.shape, np.min_scalar_type(len(names)))
    if len(shapes):
        burnt = zip(shapes, (numbers + 1)[owner].tolist(), strict=True)
        rasterize(burnt, out=codes, transform=geobox.transform)
    return codes, {name: code for code, name in enumerate(names.tolist(), start=1)}
