"""Time, the way people write it, as a closed interval in UTC."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import pandas as pd

from xgeocat.catalog.schema import TIME_DTYPE

#: First and last microsecond, both included.
Interval: TypeAlias = tuple[np.datetime64, np.datetime64]
Moment: TypeAlias = str | dt.date | dt.datetime | np.datetime64 | pd.Timestamp | None
TimeLike: TypeAlias = Moment | Sequence[Moment] | slice

ALWAYS: Interval = (
    np.datetime64("0001-01-01T00:00:00.000000", "us"),
    np.datetime64("9999-12-31T23:59:59.999999", "us"),
)
#: A moment as ISO 8601 writes it: a whole date and at least an hour. What pandas reads beyond it
#: ("20240815", "Aug 2024", "now") would be an instant where a whole day or month is meant.
_INSTANT = re.compile(
    r"\d{4}-\d{2}-\d{2}[T ]\d{2}(:?\d{2}(:?\d{2}([.,]\d+)?)?)?\s*(Z|[+-]\d{2}(:?\d{2})?)?", re.I
)
_PARTIAL = {
    re.compile(r"\d{4}"): "Y",
    re.compile(r"\d{4}-\d{2}"): "M",
    re.compile(r"\d{4}-\d{2}-\d{2}"): "D",
}


def parse_interval(time: TimeLike) -> Interval:
    """Read a time or a pair of times as a closed interval.

    Parameters
    ----------
    time : str, date, datetime, numpy.datetime64, Timestamp, pair of these, slice or None
        A bare year, month or date means all of it; ``"a/b"`` is a pair; None or ``".."`` is an
        open end. What carries a time zone is converted to UTC, what carries none is UTC.

    Returns
    -------
    tuple of numpy.datetime64
        First and last moment, ``datetime64[us]``.

    Raises
    ------
    ValueError
        For text that is no time, or an interval that ends before it starts.
    """
    first, last = _pair(time)
    start = ALWAYS[0] if first is None else _moment(first)[0]
    end = ALWAYS[1] if last is None else _moment(last)[1]
    if end < start:
        raise ValueError(f"time={time!r} ends ({end}) before it starts ({start}); swap the two.")
    return start, end


def _pair(time: TimeLike) -> tuple[Moment, Moment]:
    if isinstance(time, str) and "/" in time:
        time = time.split("/")
    if isinstance(time, slice):
        time = (time.start, time.stop)
    if time is None or isinstance(time, (str, dt.date, np.datetime64)):
        return time, time
    if not hasattr(time, "__len__"):
        raise ValueError(f"time={time!r} is no time; write e.g. '2024-08-15' or '2024-08'.")
    if len(time) != 2:
        raise ValueError(f"time={time!r} has {len(time)} parts; give one time or (start, end).")
    first, last = (None if part in ("..", "") else part for part in time)
    return first, last


def _moment(value: Moment) -> Interval:
    """Return the first and last microsecond of one time as written."""
    unit = None
    wrong = f"time={value!r} is no time; write e.g. '2024-08-15' or '2024-08'."
    if isinstance(value, str):
        value = value.strip()
        unit = next((u for form, u in _PARTIAL.items() if form.fullmatch(value)), None)
        if unit is None and not _INSTANT.fullmatch(value):
            raise ValueError(wrong)
    elif isinstance(value, np.datetime64):
        unit = {"Y": "Y", "M": "M", "D": "D"}.get(np.datetime_data(value.dtype)[0])
    elif isinstance(value, dt.date) and not isinstance(value, dt.datetime):
        unit = "D"
    if unit is not None:
        # The stubs know neither a unit in a variable nor a datetime64 cut to another unit.
        first = np.datetime64(value, unit)  # type: ignore[call-overload]
        if np.isnat(first):
            raise ValueError(wrong)
        after = (first + 1).astype(TIME_DTYPE)
        return first.astype(TIME_DTYPE), after - np.timedelta64(1, "us")
    instant = to_utc(value)
    if np.isnat(instant):
        raise ValueError(wrong)
    return instant, instant


def to_utc(value: Moment) -> np.datetime64:
    """Read one instant as naive UTC, ``datetime64[us]``; None becomes NaT.

    Raises
    ------
    ValueError
        For text that is no time.
    """
    if value is None:
        return np.datetime64("NaT", "us")
    try:
        if not isinstance(value, (str, dt.date, np.datetime64)):
            # pandas would count nanoseconds since 1970.
            raise ValueError(f"a {type(value).__name__}")
        stamp = pd.Timestamp(value)
    except ValueError as error:
        raise ValueError(
            f"{value!r} is no time ({error}); write e.g. '2024-08-15T10:00:00Z'."
        ) from error
    if stamp.tzinfo is not None:
        stamp = stamp.tz_convert("UTC").tz_localize(None)
    return stamp.to_datetime64().astype(TIME_DTYPE)
