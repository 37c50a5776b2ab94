"""What the tests of runs share beside their fixtures."""

from __future__ import annotations

import numpy as np
import xarray as xr
from odc.geo.geobox import GeoBox

import xgeocat as xgc
from tests.domain import scenes

UTM = "EPSG:32610"
GRID = GeoBox((70, 90), scenes.GRID, UTM)


def ndvi(batch):
    """(batch, red nir, y, x) to float32 NDVI, NaN where either is nodata (0)."""
    red, nir = batch[:, 0].astype("float32"), batch[:, 1].astype("float32")
    with np.errstate(invalid="ignore"):
        return np.where((red == 0) | (nir == 0), np.nan, (nir - red) / (nir + red))


def contextual(batch):
    """A model that sees its whole patch, so that tiling and blending show."""
    answer = ndvi(batch)
    if len(batch):
        answer = answer + batch[:, 1].mean(axis=(-2, -1), keepdims=True).astype("float32") / 1e4
    return answer.astype("float32")


def bands_of(catalog, i):
    """Stored pixels (band, y, x) of a scene of the source catalog, by rasterio."""
    return np.stack([scenes.read(href) for href in catalog.href.values[i]])


def open_raw(href):
    """One output variable as it is stored."""
    group, name = str(href).rsplit("/", 1)
    return xr.open_zarr(group, consolidated=False, mask_and_scale=False, decode_coords="all")[name]


def run(pipe, domain, out, **options):
    return xgc.run(pipe, domain, out, progress=False, **options)
