"""Rows to Dataset: the one place that assembles a catalog."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyproj
import xarray as xr
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from xgeocat.catalog import schema
from xgeocat.catalog.index import Drawn, FootprintIndex


@dataclass(frozen=True, slots=True)
class Scene:
    """One row of a catalog.

    Parameters
    ----------
    id, collection : str
        What it is called.
    geometry : shapely.Geometry or None
        Footprint in the catalog's CRS.
    start, end : numpy.datetime64
        UTC; NaT where not known.
    properties : mapping of str to scalar
        Properties under their STAC names.
    assets : mapping of str to mapping
        For each asset, values of `schema.ASSET_VARIABLES`; None or missing: not known.
    rest : str
        What STAC says beyond these, as JSON text of an item.
    """

    id: str
    collection: str | None
    geometry: BaseGeometry | None
    start: np.datetime64
    end: np.datetime64
    properties: Mapping[str, object] = field(default_factory=dict)
    assets: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    rest: str = '{"properties":{}}'


def catalog_dataset(scenes: Sequence[Scene], crs: pyproj.CRS) -> xr.Dataset:
    """Assemble the catalog of some scenes, in their order; see `schema`.

    Parameters
    ----------
    scenes : sequence of Scene
        None gives the empty catalog.
    crs : pyproj.CRS
        CRS of the footprints.
    """
    geometry = np.empty(len(scenes), dtype=object)
    geometry[:] = [scene.geometry for scene in scenes]
    start = np.array([scene.start for scene in scenes], dtype=schema.TIME_DTYPE)
    end = np.array([scene.end for scene in scenes], dtype=schema.TIME_DTYPE)
    index = FootprintIndex(Drawn(geometry, start, end), crs)
    ids = schema.text_array([scene.id for scene in scenes])
    assets = list(dict.fromkeys(key for scene in scenes for key in scene.assets))
    coords = xr.Coordinates(
        {
            schema.SCENE: (schema.SCENE, ids),
            schema.COLLECTION: (schema.SCENE, schema.text_array([s.collection for s in scenes])),
            schema.ASSET: (schema.ASSET, schema.text_array(assets)),
        }
    ).assign(xr.Coordinates.from_xindex(index))
    variables: dict[str, tuple[tuple[str, ...], NDArray[np.generic]]] = {
        name: ((schema.SCENE, schema.ASSET, *extra), _asset_variable(scenes, assets, name, extra))
        for name, extra in schema.ASSET_VARIABLES.items()
    }
    variables[schema.ITEM_JSON] = (
        (schema.SCENE,),
        schema.text_array([scene.rest for scene in scenes]),
    )
    for key in dict.fromkeys(key for scene in scenes for key in scene.properties):
        values = [scene.properties.get(key) for scene in scenes]
        variables[key] = ((schema.SCENE,), schema.column(values))
    return xr.Dataset(variables, coords=coords)


def _asset_variable(
    scenes: Sequence[Scene], assets: Sequence[str], name: str, extra: tuple[str, ...]
) -> NDArray[np.generic]:
    at = {key: i for i, key in enumerate(assets)}
    shape = (len(scenes), len(assets), *(schema.SIZES[dim] for dim in extra))
    out: NDArray[Any]
    if name in schema.TEXT:
        out = np.full(shape, None, dtype=object)
    else:
        out = np.full(shape, np.nan)
    for i, scene in enumerate(scenes):
        for key, values in scene.assets.items():
            value = values.get(name)
            if value is not None:
                out[i, at[key]] = value
    return out
