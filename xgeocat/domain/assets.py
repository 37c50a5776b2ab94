"""Assets: the scenes of a catalog as plain values, as far as their pixels go."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import xarray as xr
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from xgeocat.catalog import schema
from xgeocat.catalog.radiometry import Radiometry
from xgeocat.catalog.sources import Json
from xgeocat.catalog.stac import own_key

#: Pictures of a scene, not its data.
NOT_DATA = {"thumbnail", "overview", "visual"}
#: How many different texts of assets, and grids, are kept.
KEPT = 4096


@dataclass(frozen=True, slots=True)
class Asset:
    """One asset of one scene.

    Parameters
    ----------
    href : str
        The file.
    fields : dict
        What STAC says of it, as parsed JSON; shared, so not to be changed.
    crs : str or None
        Of its native grid, where the catalog says it.
    geobox : GeoBox or None
        Its native grid, where the catalog says all of it.
    radiometry : Radiometry
        Of its first band.
    """

    href: str
    fields: Json
    crs: str | None
    geobox: GeoBox | None
    radiometry: Radiometry


@dataclass(frozen=True, slots=True)
class Scene:
    """One row of a catalog.

    Parameters
    ----------
    name : str
        Its id.
    start : numpy.datetime64
        When it begins, in UTC.
    hrefs : mapping of str to str
        Its files by asset, in the order of the catalog; only those that it has.
    """

    name: str
    start: np.datetime64
    hrefs: Mapping[str, str]
    _row: int = field(repr=False)
    _columns: Mapping[str, NDArray[np.generic]] = field(repr=False)
    _at: Mapping[str, int] = field(repr=False)

    def fields(self, key: str) -> Json:
        """What STAC says of an asset, but for its href; shared, so not to be changed."""
        text = self._columns[schema.ASSET_JSON][self._row, self._at[key]]
        return _parsed(text) if isinstance(text, str) else {}

    def __getitem__(self, key: str) -> Asset:
        said = {name: values[self._row, self._at[key]] for name, values in self._columns.items()}
        crs = said[schema.CRS] if isinstance(said[schema.CRS], str) else None
        grid = (*said[schema.SHAPE].tolist(), *said[schema.TRANSFORM].tolist())
        dtype = said[schema.DTYPE]
        return Asset(
            self.hrefs[key],
            self.fields(key),
            crs,
            None if crs is None or not np.isfinite(grid).all() else _grid(crs, *grid),
            Radiometry(
                dtype if isinstance(dtype, str) else None,
                *(
                    None if np.isnan(said[name]) else float(said[name])
                    for name in (schema.NODATA, schema.SCALE, schema.OFFSET)
                ),
            ),
        )

    def bands(self) -> dict[str, tuple[str, int]]:
        """Asset and number of each band, from 1, by every name that it has."""
        known: dict[str, tuple[str, int]] = {}
        for key in self.hrefs:
            asset = self.fields(key)
            is_picture = {own_key(key, asset), *(asset.get("roles") or ())} & NOT_DATA
            for i, band in enumerate(described(asset), start=1):
                for name in (band.get("eo:common_name"), band.get("common_name"), band.get("name")):
                    # The first asset with a name has it: true colour pictures repeat them all.
                    if isinstance(name, str) and not is_picture:
                        known.setdefault(name, (key, i))
                known[f"{key}.{i}"] = (key, i)
        # An asset's own key is stronger than what another one calls a band.
        return known | {key: (key, 1) for key in self.hrefs}


def scenes_of(catalog: xr.Dataset, rows: Sequence[int] | None = None) -> list[Scene]:
    """Take scenes from a catalog.

    Parameters
    ----------
    catalog : Dataset
        In memory.
    rows : sequence of int, optional
        Which; by default all.
    """
    return list(_scenes(catalog, range(catalog.sizes[schema.SCENE]) if rows is None else rows))


def _scenes(catalog: xr.Dataset, rows: Sequence[int]) -> Iterator[Scene]:
    dims = (schema.SCENE, schema.ASSET, ...)
    columns = {name: catalog[name].transpose(*dims).values for name in schema.ASSET_VARIABLES}
    keys = [str(key) for key in catalog[schema.ASSET].values]
    at = {key: n for n, key in enumerate(keys)}
    names, starts = catalog[schema.SCENE].values, catalog[schema.START].values
    for i in rows:
        hrefs = {
            key: href
            for key, href in zip(keys, columns[schema.HREF][i].tolist(), strict=True)
            if isinstance(href, str)
        }
        yield Scene(str(names[i]), starts[i], hrefs, i, columns, at)


def described(asset: Json) -> list[Json]:
    """List what STAC says of an asset's bands, in whichever version it says it."""
    for name in ("bands", "eo:bands", "raster:bands"):
        bands = asset.get(name)
        if isinstance(bands, list) and bands and all(isinstance(b, dict) for b in bands):
            return bands
    return []


@lru_cache(KEPT)
def _parsed(text: str) -> Json:
    fields: Json = json.loads(text)
    return fields


@lru_cache(KEPT)
def _grid(crs: str, height: float, width: float, *transform: float) -> GeoBox:
    return GeoBox((int(height), int(width)), Affine(*transform), crs)
