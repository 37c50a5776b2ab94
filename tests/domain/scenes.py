"""Made scenes: real COGs written with rasterio, and the STAC items that describe them.

Nothing here calls xgeocat: grids in the items are what rasterio reads back from the files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyproj
import rasterio
import shapely
from affine import Affine

UTM = "EPSG:32610"
GRID = Affine(10, 0, 500000, 0, -10, 4300000)


def pixels(shape=(70, 90), dtype="uint16", seed=0, edge=7, count=None):
    """Random numbers with a slanted swath edge of zeros (nodata) on the left."""
    rng = np.random.default_rng(seed)
    kind = np.dtype(dtype).kind
    size = shape if count is None else (count, *shape)
    high = 120 if np.dtype(dtype).itemsize == 1 else 9000
    values = rng.integers(1, high, size).astype(dtype)
    if kind == "f":
        values = (values + rng.random(size)).astype(dtype)
    rows, columns = np.indices(shape)
    values[..., columns < edge - rows * edge / shape[0]] = 0
    return values


def write_cog(
    path, values, *, crs=UTM, transform=GRID, nodata=0, scales=None, offsets=None, driver="COG",
    **profile,
):  # fmt: skip
    """Write a COG (or another GeoTIFF) of (y, x) or (band, y, x)."""
    bands = values[None] if values.ndim == 2 else values
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    layout = {"blocksize": 128} if driver == "COG" else {
        "tiled": True, "blockxsize": 16, "blockysize": 16}  # fmt: skip
    with rasterio.open(
        path, "w", driver=driver, count=bands.shape[0], height=bands.shape[1],
        width=bands.shape[2], dtype=bands.dtype, crs=crs, transform=transform, nodata=nodata,
        **{"compress": "deflate", **layout, **profile},
    ) as file:  # fmt: skip
        file.write(bands)
        if scales is not None:
            file.scales = scales
        if offsets is not None:
            file.offsets = offsets
    return path


def outline(path):
    """Footprint of a file's whole grid in WGS 84, densified."""
    with rasterio.open(path) as file:
        box = shapely.segmentize(shapely.box(*file.bounds), max(file.width, file.height))
        to_wgs84 = pyproj.Transformer.from_crs(file.crs.to_wkt(), 4326, always_xy=True)
    return shapely.transform(box, to_wgs84.transform, interleaved=False)


def asset(path, *, proj=True, kind="image/tiff; application=geotiff; profile=cloud-optimized",
          **fields):  # fmt: skip
    """Describe a file as a STAC asset: its grid if `proj`, and whatever else is given."""
    found = {"href": str(path), "roles": ["data"], **fields}
    if kind is not None:
        found["type"] = kind
    if proj:
        with rasterio.open(path) as file:
            found |= {
                "proj:code": f"EPSG:{file.crs.to_epsg()}",
                "proj:shape": list(file.shape),
                "proj:transform": list(file.transform)[:6],
            }
    return found


def item(
    name: str,
    assets: Mapping[str, Mapping[str, object]],
    *,
    when="2024-06-01T18:00:00Z",
    properties: Mapping[str, object] | None = None,
    footprint: shapely.Geometry | None = None,
    bbox: Sequence[float] | None = None,
):
    """STAC item of some assets."""
    if footprint is None:
        local = [a["href"] for a in assets.values() if Path(a["href"]).exists()]
        footprint = outline(local[0]) if local else shapely.box(-123, 38, -122, 39)
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "id": name,
        "geometry": shapely.geometry.mapping(footprint),
        "bbox": list(bbox or footprint.bounds),
        "properties": {"datetime": when, **(properties or {})},
        "links": [],
        "assets": {key: dict(value) for key, value in assets.items()},
    }


def read(path, band=1):
    """Pixels of one band as rasterio reads them: the oracle."""
    with rasterio.open(path) as file:
        return file.read(band)


def hann(size):
    """Hann window sampled at pixel centres."""
    return np.sin(np.pi * (np.arange(size) + 0.5) / size) ** 2


def starts(length, size, stride):
    """Starts of patches along one axis where the last one moves in."""
    if length <= size:
        return [0]
    return sorted({*range(0, length - size + 1, stride), length - size})


def eager(values, model, size, overlap, window=np.ones):
    """Patch, map and stitch a numpy array (band, y, x) in a plain loop: the oracle.

    The field must be no smaller than a patch. `model` takes (1, band, y, x) and returns (1, y, x).
    """
    rows, columns = values.shape[-2:]
    weight = np.outer(window(size), window(size))
    total, weights = np.zeros((rows, columns)), np.zeros((rows, columns))
    for row in starts(rows, size, size - overlap):
        for column in starts(columns, size, size - overlap):
            at = (slice(row, row + size), slice(column, column + size))
            answer = model(values[None, :, at[0], at[1]])[0].astype(float)
            known = ~np.isnan(answer)
            total[at] += np.where(known, answer, 0) * weight
            weights[at] += weight * known
    with np.errstate(invalid="ignore"):
        return total / weights


def assert_same(got, want, ulp=2):
    """Equal where not NaN: exactly for integers, to `ulp` units in the last place for floats."""
    got = np.asarray(got)
    want = np.asarray(want).astype(got.dtype)
    assert got.shape == want.shape
    if got.dtype.kind != "f":
        np.testing.assert_array_equal(got, want)
        return
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
    known = ~np.isnan(got)
    np.testing.assert_array_max_ulp(got[known], want[known], ulp)
