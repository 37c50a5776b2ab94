"""Fixtures that every room uses: real data where it is, made data as factories."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import odc.geo.xr
import pytest
import rasterio
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox

TRANSFORM = Affine(10, 0, 500000, 0, -10, 4300000)
SHARED = Path(__file__).resolve().parents[1].parent / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real satellite data, kept outside the repository."""
    if not SHARED.is_dir():
        pytest.skip(f"the real satellite data is not here ({SHARED.name}/ beside the checkout)")
    return SHARED


@pytest.fixture
def make_field() -> Callable[..., xr.DataArray]:
    """Factory of georeferenced fields ``(y, x)``, or ``(*extra, y, x)``."""

    def make(
        shape=(70, 90),
        dtype="float32",
        chunks=None,
        *,
        crs="EPSG:32610",
        seed=0,
        extra=None,
        nodata=None,
    ):
        rng = np.random.default_rng(seed)
        extra = extra or {}
        dims = (*extra, "y", "x")
        sizes = tuple(dict(extra).values())
        values = rng.uniform(1, 200, (*sizes, *shape))
        values = values > 100 if np.dtype(dtype) == bool else values.astype(dtype)
        geobox = GeoBox(shape, TRANSFORM, crs)
        grid = odc.geo.xr.xr_zeros(geobox, dtype="uint8")
        field = xr.DataArray(values, dims=dims, coords=grid.coords, name="made")
        if nodata is not None:
            field.attrs["nodata"] = nodata
        return field if chunks is None else field.chunk(chunks)

    return make


@pytest.fixture
def make_tif(tmp_path: Path) -> Callable[..., Path]:
    """Factory of real GeoTIFFs."""

    def make(
        name="a_20240601T100000.tif",
        values=None,
        crs="EPSG:32610",
        transform=TRANSFORM,
        nodata=0,
        **profile,
    ):
        if values is None:
            values = np.random.default_rng(0).integers(1, 9000, (64, 80), dtype="uint16")
        bands = values[None] if values.ndim == 2 else values
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with rasterio.open(
            path,
            "w",
            driver="GTiff",
            count=bands.shape[0],
            height=bands.shape[1],
            width=bands.shape[2],
            dtype=bands.dtype,
            crs=crs,
            transform=transform,
            nodata=nodata,
            **{"tiled": True, "blockxsize": 16, "blockysize": 16, "compress": "deflate", **profile},
        ) as file:
            file.write(bands)
        return path

    return make
