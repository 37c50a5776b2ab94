"""Scenes: what domains over a catalog ask of its rows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from numbers import Real

import numpy as np
import pyproj
import rasterio
import xarray as xr
from odc.geo.geobox import GeoBox
from rasterio.warp import Resampling
from shapely.geometry.base import BaseGeometry

from xgeocat.catalog import schema
from xgeocat.catalog.aoi import Where, reproject
from xgeocat.catalog.index import footprint_index
from xgeocat.domain.assets import Scene, scenes_of
from xgeocat.domain.bands import data_bands, find_bands, native_geobox
from xgeocat.domain.geoslice import crs_of
from xgeocat.domain.signing import unsigned

READERS = 16
Sign = Callable[[str], str]


def scene_ids(catalog: xr.Dataset) -> list[str]:
    """Ids of the scenes.

    Raises
    ------
    ValueError
        Where they repeat.
    """
    ids = [str(name) for name in catalog[schema.SCENE].values]
    names, counts = np.unique(ids, return_counts=True)
    if (counts > 1).any():
        raise ValueError(
            f"{int((counts > 1).sum())} scene ids are repeated, e.g. "
            f"{names[counts > 1][:3].tolist()}, and outputs are named by them. Keep one of "
            f"each: ds.drop_duplicates('{schema.SCENE}')."
        )
    return ids


def has_band(scene: Scene, name: str) -> bool:
    """Tell whether a scene has a band."""
    return name in scene.hrefs or name in scene.bands()


def own_bands(scene: Scene, wanted: Sequence[str] | None) -> list[str]:
    """Those of some bands that a scene has, or all that are data.

    Raises
    ------
    KeyError
        Where there are none.
    """
    names = (
        data_bands(scene) if wanted is None else [name for name in wanted if has_band(scene, name)]
    )
    if not names:
        raise KeyError(f"it has no raster asset {'' if wanted is None else list(wanted)}")
    return names


def signed(scene: Scene, names: Sequence[str], sign: Sign | None) -> Scene:
    """One scene, with hrefs that may be read for some bands."""
    if sign is None:
        return scene
    read = {key for _, key, _ in find_bands(scene, names)}
    hrefs = {key: sign(href) if key in read else href for key, href in scene.hrefs.items()}
    return replace(scene, hrefs=hrefs)


def native_grids(
    catalog: xr.Dataset, rows: Sequence[int], bands: Sequence[str] | None, sign: Sign | None
) -> list[GeoBox]:
    """Native grids of some scenes; headers are read at once, for those that need it.

    Raises
    ------
    ValueError
        Naming the scenes whose grid is not known.
    """
    wrong = []

    def grid(scene: Scene) -> GeoBox | None:
        try:
            return native_geobox(scene, own_bands(scene, bands), sign)
        except (KeyError, ValueError, rasterio.errors.RasterioIOError) as error:
            wrong.append(f"{scene.name}: {unsigned(str(error))}")
            return None

    with ThreadPoolExecutor(READERS) as pool:
        grids = list(pool.map(grid, scenes_of(catalog, rows)))
    if wrong:
        shown = "\n  ".join(sorted(wrong)[:20])
        raise ValueError(
            f"The grid of {len(wrong)} of {len(grids)} scenes is not known. Leave them out "
            f"(ds.drop_sel(scene=[...])), or mend their files or proj:* fields:\n  {shown}"
        )
    return [geobox for geobox in grids if geobox is not None]


def footprints_of(
    catalog: xr.Dataset, rows: Sequence[int], grids: Sequence[GeoBox]
) -> list[BaseGeometry]:
    """Footprints of some scenes in the CRS of the catalog; outlines of grids where none is drawn.

    Parameters
    ----------
    catalog : Dataset
        The catalog.
    rows : sequence of int
        Which scenes.
    grids : sequence of GeoBox
        Their native grids.
    """
    index = footprint_index(catalog)
    found = []
    for i, geobox in zip(rows, grids, strict=True):
        drawn = index.geometry[i]
        if drawn is None or drawn.is_empty:
            own = pyproj.CRS.from_user_input(crs_of(geobox).to_wkt())
            drawn = reproject(Where(geobox.extent.geom, own), index.crs)
        found.append(drawn)
    return found


def require_options(resolution: float | None, resampling: str, chunks: int) -> None:
    """Refuse options with which no scene could be loaded.

    Raises
    ------
    TypeError
        For a `resolution` that is no number.
    ValueError
        For one that is not positive, a `resampling` that GDAL does not know, and `chunks` that are
        no whole number of pixels.
    """
    if resolution is not None and not isinstance(resolution, Real):
        raise TypeError(
            f"resolution={resolution!r} is a {type(resolution).__name__}; give a number, in units "
            "of the CRS, e.g. 10 for metres."
        )
    if resolution is not None and not 0 < resolution < np.inf:
        raise ValueError(
            f"resolution={resolution!r} must be a positive number, in units of the CRS: the size "
            "of a pixel."
        )
    known = [method.name for method in Resampling]
    if resampling not in known:
        raise ValueError(f"resampling={resampling!r} must be one of {known}.")
    if not isinstance(chunks, (int, np.integer)) or chunks < 1:
        raise ValueError(f"chunks={chunks!r} must be a number of pixels, e.g. 2048.")


def require_times(catalog: xr.Dataset) -> None:
    """Refuse scenes without a time, which belong to no day.

    Raises
    ------
    ValueError
        Naming some of them.
    """
    without = catalog[schema.SCENE].values[np.isnat(footprint_index(catalog).start)].tolist()
    if without:
        raise ValueError(
            f"{len(without)} scenes have no time, e.g. {without[:3]}, so they belong to no day or "
            "step. Leave them out: ds.drop_sel(scene=[...])."
        )


def properties(catalog: xr.Dataset) -> list[dict[str, object]]:
    """Scalar properties of each scene, but for those that are not known."""
    columns = {
        str(name): var.values.tolist()
        for name, var in catalog.data_vars.items()
        if var.dims == (schema.SCENE,) and name != schema.ITEM_JSON and var.dtype.kind in "biufOU"
    }
    return [
        {
            key: values[i]
            for key, values in columns.items()
            if isinstance(values[i], (bool, int, float, str)) and values[i] == values[i]
        }
        for i in range(catalog.sizes[schema.SCENE])
    ]


def in_common(several: Sequence[Mapping[str, object]]) -> dict[str, object]:
    """Properties that all of several scenes have, and the same."""
    first, *others = several
    return {
        key: value
        for key, value in first.items()
        if all(key in other and other[key] == value for other in others)
    }


def assets_digest(catalog: xr.Dataset) -> str:
    """Hash of where the pixels of a catalog are, and of what their numbers mean."""
    rows = [
        catalog[name].values.tolist()
        for name in (schema.HREF, schema.NODATA, schema.SCALE, schema.OFFSET)
    ]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()
