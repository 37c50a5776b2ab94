"""A catalog of a table with geometries, as of labels in a vector file, and the way back."""

from __future__ import annotations

import datetime as dt
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import geopandas as gpd
import numpy as np
import pandas as pd
import pyproj
import shapely
import xarray as xr
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from xgeocat.catalog import schema
from xgeocat.catalog.aoi import WGS84, Where, outline, same_crs
from xgeocat.catalog.index import footprint_index
from xgeocat.catalog.interval import ALWAYS, Interval, TimeLike, parse_interval
from xgeocat.catalog.sources import Json, absolute
from xgeocat.catalog.stac import (
    NOT_COLUMNS,
    bbox_of,
    from_items,
    native_fields,
    time_fields,
)

#: Bounds of the time of each row, ``datetime64[us]``.
Times = tuple[NDArray[np.datetime64], NDArray[np.datetime64]]
#: Degrees. The edges of what is smaller are bent by centimetres in another CRS.
SMALL = 0.01


def from_geodataframe(
    table: gpd.GeoDataFrame | str | os.PathLike[str],
    *,
    time: TimeLike | tuple[str, str] = None,
    id: str | None = None,
    href: str | Sequence[str] | Mapping[str, str] | None = None,
    crs: object | None = None,
    collection: str | None = None,
) -> xr.Dataset:
    """Build a catalog from a table with geometries: labels, plots, tracks, station lists.

    Parameters
    ----------
    table : GeoDataFrame or path
        A path may be GeoParquet (``.parquet``), or anything that :func:`geopandas.read_file` reads.
    time : column, pair of columns, time or pair of times, optional
        A column of times, or two of first and last moments; null is a time that is not known
        (NaT). Or one time for all rows, as :func:`xgeocat.query` reads it. By default rows hold at
        all times, from year 1 to 9999. Text and dates without a time of day, columns of midnights
        (as files have for dates), and whole numbers (years) mean all of the day, month or year.
        What carries a time zone is converted to UTC, what carries none is UTC.
    id : column, optional
        Ids of the scenes; by default the index of the table.
    href : column, several of them, or mapping of asset to column, optional
        Where the assets of a row are; null is no asset. Assets are named by their columns. Relative
        hrefs are resolved against the path, where one is given.
    crs : CRS, optional
        CRS of a table that does not say its own.
    collection : str, optional
        Collection that the scenes belong to.

    Returns
    -------
    Dataset
        One row per row, in order, in the CRS of the table. Footprints are the geometries, points
        and lines too; all other columns are variables under their own names, times among them as
        text (ISO 8601, UTC).

    Raises
    ------
    FileNotFoundError
        When there is no such file.
    ValueError
        For a table without geometries or CRS; for ids that repeat or are missing, and times or
        coordinates that cannot be read, with the list of offenders; for columns that a catalog has
        no place for.
    """
    base = None if isinstance(table, gpd.GeoDataFrame) else os.path.abspath(os.fspath(table))
    frame = table if isinstance(table, gpd.GeoDataFrame) else _read(Path(os.fspath(table)))
    known = _crs(frame, crs)
    hrefs = _hrefs(frame, href)
    ids = _ids(frame, id)
    start, end = _times(frame, time, ids)
    columns = _columns(frame, [frame.geometry.name, id, *hrefs.values(), *_parts(time)])
    geometries = _geometries(frame, ids)
    drawn = _drawn(geometries, known)
    items = (
        _item(
            name,
            drawn[i],
            (start[i], end[i]),
            {key: values[i] for key, values in columns.items() if values[i] is not None}
            | native_fields(geometries[i], known),
            {key: frame[column].iloc[i] for key, column in hrefs.items()},
            collection,
        )
        for i, name in enumerate(ids)
    )
    return from_items((absolute(item, base) for item in items), crs=known)


def _read(path: Path) -> gpd.GeoDataFrame:
    if not path.exists() and "://" not in str(path) and not str(path).startswith("/vsi"):
        raise FileNotFoundError(f"There is no file {path}. Give a vector file, or a GeoDataFrame.")
    try:
        if path.suffix in (".parquet", ".geoparquet"):
            return gpd.read_parquet(path)
        found = gpd.read_file(path)
    except (RuntimeError, ValueError, OSError) as error:
        raise ValueError(
            f"{path} cannot be read as a table with geometries: {error}. Read it yourself, e.g. "
            "with geopandas.read_file(path, layer=...), and give the GeoDataFrame."
        ) from error
    if not isinstance(found, gpd.GeoDataFrame):
        raise ValueError(
            f"{path} is a table without geometries, with the columns {list(found.columns)}. Make "
            "some: gpd.GeoDataFrame(table, geometry=gpd.points_from_xy(...), crs=...)."
        )
    return found


def _crs(frame: gpd.GeoDataFrame, crs: object | None) -> pyproj.CRS:
    if frame.active_geometry_name is None:
        raise ValueError(
            f"The GeoDataFrame with columns {list(frame.columns)} has no active geometry. Choose "
            "one: gdf.set_geometry(...)."
        )
    given = None if crs is None else pyproj.CRS.from_user_input(crs)
    if frame.crs is None:
        if given is None:
            raise ValueError(
                "The table has no CRS, so its geometries are nowhere on the map. Give it one: "
                "crs='EPSG:4326' for longitudes and latitudes."
            )
        return given
    if given is not None and not same_crs(given, frame.crs):
        raise ValueError(
            f"The table is in {frame.crs.to_string()}, and crs={crs!r} says otherwise. To "
            "reproject it, gdf.to_crs(...); to correct it, gdf.set_crs(..., allow_override=True)."
        )
    return frame.crs


def _hrefs(frame: gpd.GeoDataFrame, href: object) -> dict[str, str]:
    """Column of each asset."""
    if href is None:
        return {}
    if isinstance(href, str):
        href = [href]
    named = dict(href) if isinstance(href, Mapping) else {name: name for name in href}  # type: ignore[attr-defined]
    _require_columns(frame, list(named.values()), "href")
    return named


def _require_columns(frame: gpd.GeoDataFrame, names: Sequence[str], argument: str) -> None:
    missing = [name for name in names if name not in frame.columns]
    if missing:
        raise ValueError(
            f"{argument}= names {missing}, which are no columns of the table. It has "
            f"{list(map(str, frame.columns))}."
        )


def _refuse(ids: Sequence[str], wrong: Mapping[int, object], problem: str, remedy: str) -> None:
    if wrong:
        shown = "\n  ".join(f"{ids[i]}: {why}" for i, why in list(wrong.items())[:20])
        raise ValueError(f"{len(wrong)} of {len(ids)} rows {problem}. {remedy}\n  {shown}")


def _ids(frame: gpd.GeoDataFrame, column: str | None) -> list[str]:
    if column is not None:
        _require_columns(frame, [column], "id")
    values = (frame.index if column is None else frame[column]).tolist()
    where = "The index" if column is None else f"The column {column!r}"
    gaps = [value for value in values if _is_null(value)]
    names = ["_".join(map(str, v)) if isinstance(v, tuple) else str(v) for v in values]
    twice = sorted({name for name, count in pd.Series(names).value_counts().items() if count > 1})
    if gaps or twice:
        raise ValueError(
            f"{where} does not tell the rows apart: {len(gaps)} are null, {len(twice)} repeat, "
            f"e.g. {twice[:3]}. Name another column, id=..., or number the rows: "
            "gdf.reset_index(drop=True)."
        )
    return names


def _parts(time: object) -> list[object]:
    """One or two of what may be columns or times."""
    return list(time) if isinstance(time, (tuple, list)) else [time]


def _times(frame: gpd.GeoDataFrame, time: object, ids: Sequence[str]) -> Times:
    """First and last moment of each row."""
    if time is None:
        return np.full(len(ids), ALWAYS[0]), np.full(len(ids), ALWAYS[1])
    named = [isinstance(part, str) and part in frame.columns for part in _parts(time)]
    if not all(named) or len(named) > 2:
        try:
            interval = parse_interval(cast("TimeLike", time))
        except ValueError as error:
            raise ValueError(
                f"time={time!r} is neither a column or two of the table, which has "
                f"{list(map(str, frame.columns))}, nor a time: {error}"
            ) from error
        return np.full(len(ids), interval[0]), np.full(len(ids), interval[1])
    intervals = [_moments(frame[part], str(part), ids) for part in _parts(time)]
    first, last = intervals[0][0], intervals[-1][1]
    late = {int(i): f"{first[i]} .. {last[i]}" for i in np.flatnonzero(last < first)}
    _refuse(ids, late, "end before they start", f"Swap time={time!r}, or mend them:")
    return first, last


def _moments(column: pd.Series, name: str, ids: Sequence[str]) -> Times:
    """First and last moment of what a column says of each row; NaT where it says nothing."""
    values = column
    if column.dtype.kind == "M":
        known = column.dropna()
        # Files have no dates, but midnights; in UTC or none, for elsewhere midnight is a moment.
        plain = column.dtype == np.dtype("M8") or not isinstance(column.dtype, pd.DatetimeTZDtype)
        if plain and len(known) and (known == known.dt.normalize()).all():
            values = column.dt.date
    out = np.full((2, len(ids)), "NaT", schema.TIME_DTYPE)
    wrong: dict[int, object] = {}
    for i, value in enumerate(values.tolist()):
        if _is_null(value):
            continue
        try:
            out[:, i] = parse_interval(_as_time(value))
        except ValueError as error:
            wrong[i] = error
    _refuse(ids, wrong, f"have times in {name!r} that cannot be read", "Mend or null them:")
    return out[0], out[1]


def _as_time(value: object) -> TimeLike:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 1 <= value <= 9999:
        return f"{int(value):04d}" if value == int(value) else str(value)
    return value if isinstance(value, (str, dt.date, np.datetime64)) else str(value)


def _columns(frame: gpd.GeoDataFrame, used: Sequence[object]) -> dict[str, list[object]]:
    """All other columns, as lists of JSON scalars; None where null."""
    rest = [name for name in frame.columns if name not in used]
    taken = [str(name) for name in rest if str(name) in NOT_COLUMNS]
    if taken:
        raise ValueError(
            f"The columns {taken} have names that a catalog uses itself. Rename them, "
            f"gdf.rename(columns={{{taken[0]!r}: ...}}), or drop them."
        )
    columns, wrong = {}, []
    for name in rest:
        values = frame[name]
        if values.dtype.kind == "M":
            values = _utc_text(values)
        plain = [None if _is_null(value) else _plain(value) for value in values.tolist()]
        if any(v is not None and not isinstance(v, (str, int, float)) for v in plain):
            wrong.append(f"{name} ({frame[name].dtype})")
        columns[str(name)] = plain
    if wrong:
        raise ValueError(
            f"The columns {wrong} hold what is no number, boolean, text or time, and a catalog has "
            "no place for it. Turn them into such, or drop them: gdf.drop(columns=...)."
        )
    return columns


def _is_null(value: object) -> bool:
    return value is None or value is pd.NA or value is pd.NaT or value != value


def _plain(value: object) -> object:
    if isinstance(value, np.generic):
        return value.item()
    return value.isoformat() if isinstance(value, dt.date) else value


def _utc_text(times: pd.Series) -> pd.Series:
    naive = pd.to_datetime(times, utc=True).dt.tz_localize(None).to_numpy(schema.TIME_DTYPE)
    texts = [None if np.isnat(t) else f"{np.datetime_as_string(t, unit='us')}Z" for t in naive]
    return pd.Series(texts, dtype=object)


def _geometries(frame: gpd.GeoDataFrame, ids: Sequence[str]) -> NDArray[np.object_]:
    """Geometries; None for empty ones."""
    found = np.array(frame.geometry.to_numpy(), dtype=object)
    found[shapely.is_empty(found)] = None
    boxes = shapely.bounds(found)
    wrong: dict[int, object] = {
        int(i): found[i]
        for i in np.flatnonzero(~shapely.is_missing(found) & ~np.isfinite(boxes).all(axis=1))
    }
    _refuse(ids, wrong, "have coordinates that are not finite", "Mend or null them:")
    return found


def _drawn(geometries: NDArray[np.object_], crs: pyproj.CRS) -> NDArray[np.object_]:
    """Geometries in WGS 84, as STAC has them."""
    if same_crs(crs, WGS84):
        return geometries
    moved = np.array(gpd.GeoSeries(geometries, crs=crs).to_crs(WGS84).to_numpy(), dtype=object)
    boxes = shapely.bounds(moved)
    small = (boxes[:, 2:] - boxes[:, :2] < SMALL).all(axis=1) | shapely.is_missing(moved)
    for i in np.flatnonzero(~small):
        moved[i] = outline(Where(geometries[i], crs))
    return moved


def _item(
    name: str,
    drawn: BaseGeometry | None,
    interval: Interval,
    properties: Json,
    hrefs: Mapping[str, object],
    collection: str | None,
) -> Json:
    """Describe a row as a STAC item."""
    item: Json = {
        "type": "Feature",
        "stac_version": "1.1.0",
        "id": name,
        "geometry": None if drawn is None else json.loads(shapely.to_geojson(drawn)),
        "properties": {**time_fields(interval), **properties},
        "links": [],
        "assets": {
            key: {"href": os.fspath(href)}
            for key, href in hrefs.items()
            if isinstance(href, (str, os.PathLike)) and os.fspath(href)
        },
    }
    if drawn is not None:
        item["bbox"] = bbox_of(drawn)
    return item if collection is None else {**item, "collection": collection}


def to_geodataframe(ds: xr.Dataset) -> gpd.GeoDataFrame:
    """Make a table of the scenes of a catalog.

    Parameters
    ----------
    ds : Dataset
        A catalog.

    Returns
    -------
    geopandas.GeoDataFrame
        A row per scene, in order, in the catalog's CRS, with the ids as index ``scene``. Columns:
        ``geometry``; ``start_time`` and ``end_time`` (UTC); ``collection``; each variable over
        ``scene`` under its own name; and ``href:ASSET`` for each asset.

    Raises
    ------
    TypeError
        When `ds` is no catalog.
    """
    ds = schema.require_catalog(ds, "to_geodataframe")
    index = footprint_index(ds)
    columns: dict[str, object] = {
        schema.START: index.start,
        schema.END: index.end,
        schema.COLLECTION: ds[schema.COLLECTION].values,
    }
    left_out = {schema.SCENE, schema.GEOMETRY, schema.ITEM_JSON, *columns}
    columns |= {
        str(name): var.values
        for name, var in ds.variables.items()
        if var.dims == (schema.SCENE,) and name not in left_out
    }
    hrefs = ds[schema.HREF].transpose(schema.SCENE, schema.ASSET).values
    columns |= {
        f"{schema.HREF}:{key}": hrefs[:, i] for i, key in enumerate(ds[schema.ASSET].values)
    }
    ids = pd.Index(ds[schema.SCENE].values, name=schema.SCENE)
    return gpd.GeoDataFrame(columns, index=ids, geometry=index.geometry, crs=index.crs)
