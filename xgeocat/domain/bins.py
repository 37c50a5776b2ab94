"""Bins of time: solar days, and the steps that pandas has names for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyproj
import shapely
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from shapely.geometry.base import BaseGeometry

from xgeocat.catalog.index import Times
from xgeocat.catalog.interval import Interval
from xgeocat.catalog.schema import TIME_DTYPE
from xgeocat.domain.geoslice import crs_of

SOLAR_DAY = "solar_day"
#: Steps of months and years are counted from here, so that none depends on the scenes there are.
EPOCH = pd.Timestamp("1800-01-01")
DAYS = (pd.offsets.Day, pd.offsets.Week)
INSTANT = np.timedelta64(1, "us")

Longitudes = NDArray[np.float64]


@dataclass(frozen=True, slots=True, order=True)
class Bin:
    """A closed interval of time, and what it is called.

    Parameters
    ----------
    start, end : numpy.datetime64
        First and last microsecond.
    name : str
        As part of a file name.
    is_local : bool
        Whether it is in solar time, not in UTC.
    """

    start: np.datetime64
    end: np.datetime64
    name: str
    is_local: bool = False

    @property
    def interval(self) -> Interval:
        """First and last microsecond."""
        return self.start, self.end


def solar_days(times: Times, longitude: float | Longitudes) -> NDArray[np.datetime64]:
    """Days of local mean solar time, as odc-stac has them.

    A day lasts from midnight to midnight at the longitude: UTC plus the whole hours in
    ``longitude / 15``, cut towards zero (``odc.stac.model._convert_to_solar_time``).

    Parameters
    ----------
    times : numpy.ndarray
        UTC.
    longitude : float or numpy.ndarray
        Degrees, one for all or one each; beyond 180 the day is counted on, not back.

    Returns
    -------
    numpy.ndarray
        ``datetime64[D]``.
    """
    hours = np.trunc(np.asarray(longitude) / 15).astype("timedelta64[h]")
    return (times + hours).astype("datetime64[D]")


def longitude_of(geobox: GeoBox) -> float:
    """Longitude of the middle of a grid, in degrees.

    It is counted on from the middle of the area that the CRS is used in: so all tiles of a UTM zone
    at 180 degrees have the same days, and the date changes from zone to zone, not within one.
    """
    rows, columns = geobox.shape
    x, y = geobox.transform @ (columns / 2, rows / 2)
    to_wgs84 = pyproj.Transformer.from_crs(crs_of(geobox).to_wkt(), 4326, always_xy=True)
    longitude = float(to_wgs84.transform(x, y)[0])
    area = to_wgs84.source_crs.area_of_use if to_wgs84.source_crs is not None else None
    if area is None:
        return longitude
    middle = area.west + ((area.east - area.west) % 360 or 360) / 2
    return (longitude - middle + 180) % 360 - 180 + middle


def running_longitudes(footprints: Sequence[BaseGeometry]) -> Longitudes:
    """Longitudes of the middles of footprints, without a jump among neighbours at 180 degrees.

    Where the antimeridian runs through them they are counted on eastward, beyond 180: so scenes of
    one swath are of one solar day, that of the western side. The jump, of a set all round the
    globe, is on the far side of its middle.

    Parameters
    ----------
    footprints : sequence of shapely.Geometry
        In WGS 84, cut at the antimeridian.
    """
    if not len(footprints):
        return np.empty(0)
    middles = np.array([shapely.centroid(_in_one_piece(shape)).x for shape in footprints])
    angles = np.exp(1j * np.radians(middles))
    middle = float(np.degrees(np.angle(angles.mean())))
    found = middle + (middles - middle + 180) % 360 - 180
    return found + 360 if found.min() < -180 else found


def _in_one_piece(footprint: BaseGeometry) -> BaseGeometry:
    west, _, east, _ = footprint.bounds
    parts = shapely.get_parts(footprint)
    if not (west == -180 and east == 180 and len(parts) > 1):
        return footprint
    moved = [shapely.transform(p, lambda xy: xy + np.array([360, 0])) if p.bounds[2] <= 0 else p
             for p in parts]  # fmt: skip
    return shapely.GeometryCollection(moved)


def day_bin(day: np.datetime64) -> Bin:
    """The bin of one solar day, in solar time."""
    start = day.astype(TIME_DTYPE)
    return Bin(start, start + np.timedelta64(1, "D") - INSTANT, str(day), True)


def frequency(time: str) -> pd.DateOffset:
    """Read the length of a step.

    Raises
    ------
    ValueError
        For what pandas does not know.
    """
    try:
        offset = pd.tseries.frequencies.to_offset(time)
    except ValueError as error:
        raise ValueError(
            f"time={time!r} is neither {SOLAR_DAY!r} nor a length that pandas knows ({error}); "
            "e.g. '1MS' for months, '10D' for ten days."
        ) from None
    if offset is None or offset.n < 1:
        raise ValueError(f"time={time!r} is no length of time; e.g. '1MS' or '10D'.")
    return offset


def bins_of(times: Times, time: str) -> list[Bin]:
    """The step that each time is in.

    Steps of fixed length are counted from 1970-01-01, months and years from 1800-01-01: so a step
    does not depend on the scenes there are.

    Parameters
    ----------
    times : numpy.ndarray
        UTC.
    time : str
        Length of a step, as pandas has it: "1MS", "10D", "6h".

    Returns
    -------
    list of Bin
        One for each time.
    """
    offset = frequency(time)
    moments = pd.DatetimeIndex(times)
    if not len(moments):
        return []
    if isinstance(offset, (pd.offsets.Tick, pd.offsets.Day)):
        length = _length(offset)
        zero = np.datetime64(0, "us")
        starts = zero + (moments.values.astype(TIME_DTYPE) - zero) // length * length
        stops = starts + length
    else:
        edges = pd.date_range(EPOCH - 2 * offset, moments.max() + 2 * offset, freq=offset)
        at = np.searchsorted(edges.values, moments.values, side="right")
        if not at.all():
            raise ValueError(
                f"time={time!r} counts from {EPOCH}, and a scene is of {moments.min()}."
            )
        starts, stops = (edges.values[i].astype(TIME_DTYPE) for i in (at - 1, at))
    return [
        Bin(start, stop - INSTANT, _name(start, offset))
        for start, stop in zip(starts, stops, strict=True)
    ]


def _length(offset: pd.DateOffset) -> np.timedelta64:
    """Length of a step that always has the same."""
    if isinstance(offset, pd.offsets.Day):
        return np.timedelta64(offset.n, "D").astype("timedelta64[us]")
    return pd.Timedelta(offset).to_timedelta64().astype("timedelta64[us]")


def _name(start: np.datetime64, offset: pd.DateOffset) -> str:
    moment = pd.Timestamp(start)
    if isinstance(offset, pd.offsets.Tick) and _length(offset) % np.timedelta64(1, "D"):
        return f"{moment:%Y-%m-%dT%H%M%S}"
    if isinstance(offset, (pd.offsets.Tick, *DAYS)) or moment.day != 1:
        return f"{moment:%Y-%m-%d}"
    return f"{moment:%Y-%m}"
