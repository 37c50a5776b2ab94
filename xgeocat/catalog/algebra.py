"""Catalog algebra: union, intersection and difference of scenes, in place and time."""

from __future__ import annotations

import numpy as np
import pandas as pd
import shapely
import xarray as xr
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from xgeocat.catalog import schema
from xgeocat.catalog.index import FootprintIndex, Geometries, Times, footprint_index
from xgeocat.catalog.overlap import SLIVER, Positions, clean, meeting, shared, size
from xgeocat.catalog.pairs import absent, pair_ids, paired, require_suffix
from xgeocat.catalog.provenance import recorded
from xgeocat.catalog.rows import footprints_in, in_crs, redrawn


def union(ds: xr.Dataset, *others: xr.Dataset) -> xr.Dataset:
    """Put catalogs behind each other, each scene once.

    Parameters
    ----------
    ds : Dataset
        A catalog.
    *others : Dataset
        More of them. Footprints in another CRS are drawn in that of `ds`, with densified edges.

    Returns
    -------
    Dataset
        The catalog of all scenes in order, with all columns and all assets, and the attrs of `ds`.
        A scene is known by id and collection: of those that repeat the first stays. What a catalog
        has no column or asset for is null: NaN in numbers (whole ones become floats), NaT, and
        None or NaN in text.

    Raises
    ------
    TypeError
        When one of them is no catalog.
    ValueError
        For footprints that have no place in the CRS of `ds`, and for variables without a dim
        ``scene`` of which two catalogs say different things.
    """
    catalogs = [schema.require_catalog(one, "union") for one in (ds, *others)]
    crs = footprint_index(ds).crs
    first = _firsts(catalogs)
    parts = [in_crs(c.isel({schema.SCENE: f}), crs) for c, f in zip(catalogs, first, strict=True)]
    keys = list(dict.fromkeys(str(key) for part in parts for key in part[schema.ASSET].values))
    names = list(dict.fromkeys(name for part in parts for name in part.variables))
    like = {n: next(p.variables[n] for p in parts if n in p.variables) for n in names}
    coords = [n for n in names if any(n in p.coords for p in parts)]
    joined = xr.concat(
        [_complete(_with_keys(part, keys), like).set_coords(coords) for part in parts],
        schema.SCENE,
        data_vars="minimal",
        coords="minimal",
        compat="equals",
        join="override",
        combine_attrs="override",
    )
    return recorded(joined, "union", others)


def _firsts(catalogs: list[xr.Dataset]) -> list[NDArray[np.bool_]]:
    """Of each catalog, which scenes have not been seen before."""
    names = pd.DataFrame(
        {
            "id": np.concatenate([c[schema.SCENE].values for c in catalogs]),
            "collection": np.concatenate([c[schema.COLLECTION].values for c in catalogs]),
        }
    )
    first = ~names.duplicated().to_numpy()
    return np.split(first, np.cumsum([c.sizes[schema.SCENE] for c in catalogs])[:-1])


def _with_keys(ds: xr.Dataset, keys: list[str]) -> xr.Dataset:
    """Give a catalog all assets, in one order; those it does not have are null."""
    own = [str(key) for key in ds[schema.ASSET].values]
    new = [key for key in keys if key not in own]
    over = [n for n, v in ds.variables.items() if schema.ASSET in v.dims and n != schema.ASSET]
    order = [(own + new).index(key) for key in keys]
    longer = {
        name: xr.Variable.concat(
            [v, absent(v, {**v.sizes, schema.ASSET: len(new)})], schema.ASSET
        ).isel({schema.ASSET: order})
        for name, v in ((n, ds.variables[n]) for n in over)
    }
    coords = [name for name in over if name in ds.coords]
    plain = ds.drop_dims(schema.ASSET).assign(longer).set_coords(coords)
    return plain.assign_coords({schema.ASSET: (schema.ASSET, schema.text_array(keys))})


def _complete(ds: xr.Dataset, like: dict[object, xr.Variable]) -> xr.Dataset:
    """Give a catalog the columns over scenes that others have; they are null."""
    sizes = dict(ds.sizes)
    return ds.assign(
        {
            name: absent(variable, {**variable.sizes, **sizes})
            for name, variable in like.items()
            if name not in ds.variables and schema.SCENE in variable.dims
        }
    )


def intersect(
    ds: xr.Dataset, other: xr.Dataset, *, spatial_only: bool = False, suffix: str = "_other"
) -> xr.Dataset:
    """Pair the scenes of two catalogs that share place and time, and keep what they share.

    Parameters
    ----------
    ds, other : Dataset
        Catalogs. Footprints of `other` in another CRS are reprojected to that of `ds`, with
        densified edges; invalid ones are read as ``shapely.make_valid`` has them.
    spatial_only : bool, default: False
        Leave times out of it, as for static labels; then those of `ds` stay.
    suffix : str, default: "_other"
        Appended to columns and assets of `other` whose names `ds` has too.

    Returns
    -------
    Dataset
        One row for each pair, in the order of `ds` and then of `other`, named by both ids
        (``a__b``). The footprint is clipped and the interval is the one of both, in the items
        too; columns and assets are those of both, and ``match`` and ``match:...`` say which scene
        of `other` it is. Two footprints share a place if they share an area (of lines and points
        what lies inside counts): those that only touch do not. Intervals are closed. A scene
        whose footprint or time is not known shares nothing, except that with `spatial_only` times
        need not be known.

    Raises
    ------
    TypeError
        When one of them is no catalog.
    ValueError
        For a suffix that is empty, and footprints of `other` that cannot be reprojected.
    """
    require_suffix(suffix)
    index, one, two, (i, j) = _meeting(ds, other, "intersect", spatial_only)
    parts = shared(one[i], two[j])
    kept = np.flatnonzero(shapely.is_geometry(parts))
    i, j, parts = i[kept], j[kept], parts[kept]
    start, end = index.start[i], index.end[i]
    if not spatial_only:
        theirs = footprint_index(other)
        start = np.maximum(start, theirs.start[j])
        end = np.minimum(end, theirs.end[j])
    footprints = _unless_whole(parts, one[i], index.geometry[i])
    rows = redrawn(paired(ds, other, (i, j), suffix), footprints, start, end)
    named = rows.assign_coords({schema.SCENE: (schema.SCENE, pair_ids(ds, other, (i, j)))})
    return recorded(named, "intersect", [other], spatial_only=spatial_only)


def difference(ds: xr.Dataset, other: xr.Dataset, *, spatial_only: bool = False) -> xr.Dataset:
    """Keep of the scenes of a catalog what another one does not cover.

    Parameters
    ----------
    ds, other : Dataset
        Catalogs; see :func:`intersect` for how their footprints are read.
    spatial_only : bool, default: False
        Leave times out of it. Otherwise a place is covered if it is throughout the interval of
        the scene, by one scene of `other` or by several in turn.

    Returns
    -------
    Dataset
        The catalog of the scenes of `ds` of which something is left, in order, under their ids,
        with their columns and times. Footprints are clipped, in the items too. A scene whose
        footprint or time is not known neither covers nor is covered: that of `ds` stays.

    Raises
    ------
    TypeError
        When one of them is no catalog.
    ValueError
        For footprints of `other` that cannot be reprojected.
    """
    index, one, two, (i, j) = _meeting(ds, other, "difference", spatial_only)
    parts = shared(one[i], two[j])
    solid = shapely.get_dimensions(parts) == shapely.get_dimensions(one[i])
    i, j, parts = i[solid], j[solid], parts[solid]
    scenes, begins = np.unique(i, return_index=True)
    theirs = footprint_index(other)
    geometry, left = index.geometry.copy(), np.ones(len(one), bool)
    for scene, js, covers in zip(
        scenes, np.split(j, begins)[1:], np.split(parts, begins)[1:], strict=True
    ):
        if spatial_only:
            cover = shapely.union_all(covers)
        else:
            interval = index.start[scene], index.end[scene]
            cover = _covered_throughout(covers, (theirs.start[js], theirs.end[js]), interval)
        rest = shapely.difference(one[scene], cover)
        whole, remains = size(np.array([one[scene], rest], dtype=object))
        left[scene] = remains > SLIVER * whole
        if remains < (1 - SLIVER) * whole:
            geometry[scene] = rest
    kept = np.flatnonzero(left)
    rows = ds.isel({schema.SCENE: kept})
    rows = redrawn(rows, geometry[kept], index.start[kept], index.end[kept])
    return recorded(rows, "difference", [other], spatial_only=spatial_only)


def _meeting(
    ds: xr.Dataset, other: xr.Dataset, action: str, spatial_only: bool
) -> tuple[FootprintIndex, Geometries, Geometries, tuple[Positions, Positions]]:
    """Index of one catalog, clean footprints of both in its CRS, and the pairs that may share."""
    index = footprint_index(schema.require_catalog(ds, action))
    theirs = footprint_index(schema.require_catalog(other, action))
    one, two = clean(index.geometry), footprints_in(other, index)
    i, j = meeting(one, two)
    if not spatial_only:
        both = (index.start[i] <= theirs.end[j]) & (theirs.start[j] <= index.end[i])
        i, j = i[both], j[both]
    return index, one, two, (i, j)


def _unless_whole(parts: Geometries, clean_ones: Geometries, given: Geometries) -> Geometries:
    """Leave footprints as they were given where nothing was clipped off but rounding."""
    whole = shapely.get_dimensions(parts) == shapely.get_dimensions(clean_ones)
    whole &= size(parts) >= (1 - SLIVER) * size(clean_ones)
    found: Geometries = np.where(whole, given, parts)
    return found


def _covered_throughout(
    covers: Geometries, times: tuple[Times, Times], interval: tuple[np.datetime64, np.datetime64]
) -> BaseGeometry:
    """Return the place that is covered at every moment of a closed interval."""
    tick = np.timedelta64(1, "us")
    begins, ends = np.maximum(times[0], interval[0]), np.minimum(times[1], interval[1])
    # Nothing changes between these moments: times are whole microseconds.
    moments = np.unique(np.concatenate([[interval[0]], begins, ends + tick]))
    place = None
    for moment in moments[moments <= interval[1]]:
        now = shapely.union_all(covers[(begins <= moment) & (moment <= ends)])
        place = now if place is None else shapely.intersection(place, now)
    return shapely.GeometryCollection() if place is None else place
