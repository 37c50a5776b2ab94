"""Fixtures that every room uses: real data where it is, made data as factories."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import numpy as np
import odc.geo.xr
import pytest
import rasterio
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox

import xgeocat as xgc
from tests import bucket

TRANSFORM = Affine(10, 0, 500000, 0, -10, 4300000)
SHARED = Path(__file__).resolve().parents[1].parent / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real satellite data, kept outside the repository."""
    if not SHARED.is_dir():
        pytest.skip(f"the real satellite data is not here ({SHARED.name}/ beside the checkout)")
    return SHARED


@pytest.fixture(scope="session")
def job_environment() -> dict[str, str]:
    """Environment in which a child process imports this checkout of xgeocat."""
    root = str(Path(xgc.__file__).parents[1])
    return {**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}


@pytest.fixture(scope="session")
def s3_url() -> Iterator[str]:
    """URL of a real S3 endpoint."""
    with bucket.s3_server() as url:
        yield url


@pytest.fixture
def new_bucket(s3_url, monkeypatch) -> Callable[[], str]:
    """Factory of empty buckets, ``s3://...``, that this process and its children know."""
    for name, value in bucket.environment(s3_url).items():
        monkeypatch.setenv(name, value)

    def make():
        name = f"bucket-{uuid4().hex[:12]}"
        bucket.make_bucket(s3_url, name)
        return f"s3://{name}"

    return make


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
