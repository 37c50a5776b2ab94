"""A catalog like that of the whole Sentinel-2 archive, made by the million rows."""

from __future__ import annotations

import json

import numpy as np
import pyproj
import shapely
import xarray as xr

from xgeocat.catalog import schema
from xgeocat.catalog.index import Drawn, FootprintIndex

BANDS = ("blue", "green", "red", "nir")
TILES = 20_000
FIRST, DAYS = np.datetime64("2016-01-01", "us"), 3650


def tile_corners() -> np.ndarray:
    """South-west corners of tiles of 100 km, spread as land is: more of it in the north."""
    rng = np.random.default_rng(1)
    lat = np.clip(rng.normal(25, 28, TILES), -56, 82)
    lon = rng.uniform(-180, 178, TILES)
    return np.stack([lon, lat], axis=1)


def archive(rows: int, seed: int = 0, days: tuple[int, int] = (0, DAYS)) -> xr.Dataset:
    """Scenes at random of some days of the archive, in memory; footprints are tilted as swaths."""
    rng = np.random.default_rng(seed)
    tile = rng.integers(0, TILES, rows)
    corner = tile_corners()[tile]
    wide = np.minimum(1 / np.cos(np.deg2rad(corner[:, 1])), 180 - corner[:, 0])
    cut = rng.uniform(0.3, 1, rows)
    x, y = corner.T
    ring = np.stack(
        [
            np.stack([x, x + wide * cut, x + wide * np.minimum(cut + 0.1, 1), x, x], axis=1),
            np.stack([y, y, y + 1, y + 1, y], axis=1),
        ],
        axis=2,
    )
    footprints = shapely.polygons(ring)
    start = FIRST + rng.integers(*(day * 86_400_000_000 for day in days), rows).astype("m8[us]")
    day = np.datetime_as_string(start, unit="s")
    names = np.array([f"{n // 1000:02d}{'CDEFGHJKLM'[n % 10]}{n:05d}" for n in range(TILES)])
    ids = [
        f"S2A_{t}_{d[:10]}_{seed}_{i}_L2A"
        for i, (t, d) in enumerate(zip(names[tile].tolist(), day.tolist(), strict=True))
    ]
    index = FootprintIndex(Drawn(footprints, start, start), pyproj.CRS.from_epsg(4326))
    said = {"stac_version": "1.0.0", "stac_extensions": [], "links": []}
    rest = [
        json.dumps({**said, "properties": {"datetime": f"{d}Z"}}, separators=(",", ":"))
        for d in day.tolist()
    ]
    about = json.dumps(
        {
            "type": "image/tiff; application=geotiff; profile=cloud-optimized",
            "roles": ["data", "reflectance"],
            "proj:shape": [10980, 10980],
            "raster:bands": [{"nodata": 0, "data_type": "uint16", "scale": 0.0001, "offset": -0.1}],
        },
        separators=(",", ":"),
    )
    shape = (rows, len(BANDS))
    hrefs = np.array(
        [[f"https://example.com/sentinel-2/{i}/{band}.tif" for band in BANDS] for i in ids], object
    ).reshape(shape)
    numbers = {
        name: np.full(shape, np.nan) for name in (schema.NODATA, schema.SCALE, schema.OFFSET)
    }
    variables = {
        schema.HREF: (("scene", "asset"), hrefs),
        schema.CRS: (("scene", "asset"), np.full(shape, None, object)),
        schema.SHAPE: (("scene", "asset", "grid_axis"), np.full((*shape, 2), np.nan)),
        schema.TRANSFORM: (("scene", "asset", "affine"), np.full((*shape, 6), np.nan)),
        **{name: (("scene", "asset"), values) for name, values in numbers.items()},
        schema.DTYPE: (("scene", "asset"), np.full(shape, None, object)),
        schema.ASSET_JSON: (("scene", "asset"), np.full(shape, about, object)),
        schema.ITEM_JSON: ("scene", np.array(rest, object)),
        "eo:cloud_cover": ("scene", rng.uniform(0, 100, rows).round(2)),
        "platform": ("scene", np.full(rows, "sentinel-2a", object)),
        "s2:mgrs_tile": ("scene", names[tile].astype(object)),
        "s2:processing_baseline": ("scene", np.full(rows, "05.10", object)),
    }
    coords = xr.Coordinates(
        {
            "scene": ("scene", np.array(ids, object)),
            "collection": ("scene", np.full(rows, "sentinel-2-l2a", object)),
            "asset": ("asset", np.array(BANDS, object)),
        }
    ).assign(xr.Coordinates.from_xindex(index))
    return xr.Dataset(variables, coords=coords)
