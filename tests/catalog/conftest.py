"""Fixtures of the catalog room: made items, made catalogs, and brute-force answers to queries."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import shapely
import xarray as xr
from shapely.geometry import box

import xgeocat as xgc

#: A moment, (start, end), or None for a scene of unknown time.
Time = str | tuple[str | None, str | None] | None
SQUARE = box(0, 0, 1, 1)
#: Pieces into which the oracle cuts edges before it reprojects: finer than the product does.
ORACLE_PIECES = 400


@pytest.fixture(scope="session")
def make_item() -> Callable[..., dict]:
    """Factory of STAC items as dicts."""

    def make(
        id="scene",
        geometry=SQUARE,
        time: Time = "2024-06-01T10:00:00Z",
        *,
        assets=None,
        collection="made",
        **properties,
    ):
        times = {"datetime": time}
        if isinstance(time, tuple):
            times = {"datetime": None, "start_datetime": time[0], "end_datetime": time[1]}
        item = {
            "type": "Feature",
            "stac_version": "1.0.0",
            "id": id,
            "collection": collection,
            "geometry": None if geometry is None else json.loads(shapely.to_geojson(geometry)),
            "properties": {**times, **properties},
            "links": [],
            "assets": {"red": {"href": f"https://example.com/{id}_red.tif"}}
            if assets is None
            else assets,
        }
        if geometry is not None:
            item["bbox"] = list(geometry.bounds)
        return item

    return make


@pytest.fixture(scope="session")
def make_catalog(make_item) -> Callable[..., xr.Dataset]:
    """Factory of catalogs: footprints (WGS 84) and perhaps times of the scenes ``s0, s1, ...``."""

    def make(footprints: Iterable, times: Sequence[Time] | None = None, crs=4326, **properties):
        footprints = list(footprints)
        times = ["2024-06-01T10:00:00Z"] * len(footprints) if times is None else times
        items = [
            make_item(f"s{i}", footprint, time, **{k: v[i] for k, v in properties.items()})
            for i, (footprint, time) in enumerate(zip(footprints, times, strict=True))
        ]
        return xgc.from_items(items, crs=crs)

    return make


@pytest.fixture(scope="session")
def brute_force() -> Callable[..., tuple[set[str], set[str]]]:
    """Oracle of queries by place: (scenes that must be found, scenes that may be found).

    geopandas cuts the edges finely, reprojects both sides to the catalog's CRS and tries every
    pair. With a tolerance (in units of that CRS) the two sets differ by the scenes that are decided
    by less than it; without one they are equal.
    """

    def answer(footprints, aoi, aoi_crs, crs=4326, tolerance=0.0):
        def moved(series):
            if series.crs == gpd.GeoSeries([], crs=crs).crs:
                return series
            box = series.bounds
            step = np.maximum(box.maxx - box.minx, box.maxy - box.miny) / ORACLE_PIECES
            fine = shapely.segmentize(series.values, np.where(step > 0, step, 1))
            return gpd.GeoSeries(fine, crs=series.crs).to_crs(crs)

        scenes = moved(gpd.GeoSeries(list(footprints), crs=4326))
        place = moved(gpd.GeoSeries([aoi], crs=aoi_crs).explode()).union_all()
        hit = scenes.intersects(place)
        if not tolerance:
            found = {f"s{i}" for i in np.flatnonzero(hit)}
            return found, found
        less = place.buffer(-tolerance, join_style="mitre")
        must = scenes.intersects(less) | scenes[hit].buffer(
            -tolerance, join_style="mitre"
        ).intersects(place).reindex(scenes.index, fill_value=False)
        may = scenes.distance(place) <= tolerance
        return {f"s{i}" for i in np.flatnonzero(must)}, {f"s{i}" for i in np.flatnonzero(may)}

    return answer


@pytest.fixture(scope="session")
def planetary_computer(shared_data: Path) -> xr.Dataset:
    """1000 real Sentinel-2 scenes in three UTM zones."""
    return xgc.open_catalog(shared_data / "stac" / "1000-sentinel-2-items.parquet")


@pytest.fixture(scope="session")
def real_items(shared_data: Path) -> Callable[[str], list[dict]]:
    """Reader of ``stac/NAME.ndjson``: real items of a provider, as dicts."""

    def read(name: str) -> list[dict]:
        lines = (shared_data / "stac" / f"{name}.ndjson").read_text().splitlines()
        return [json.loads(line) for line in lines if line.strip()]

    return read
