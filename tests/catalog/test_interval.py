"""Times as people write them, read as closed intervals in UTC."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xgeocat.catalog.interval import ALWAYS, parse_interval, to_utc

MICRO = np.timedelta64(1, "us")
dates = st.dates(dt.date(1, 1, 1), dt.date(9999, 12, 30))
moments = st.datetimes(dt.datetime(1700, 1, 1), dt.datetime(2200, 1, 1))
offsets = st.integers(-14 * 60, 14 * 60).map(lambda m: dt.timezone(dt.timedelta(minutes=m)))


def us(text: str) -> np.datetime64:
    return np.datetime64(text, "us")


def whole(first: dt.date, after: dt.date) -> tuple[np.datetime64, np.datetime64]:
    return us(first.isoformat()), us(after.isoformat()) - MICRO


@given(dates)
@settings(deadline=None)
def test_a_bare_date_means_all_of_the_day_however_it_is_typed(date):
    day = whole(date, date + dt.timedelta(days=1))
    assert parse_interval(date.isoformat()) == day
    assert parse_interval(date) == day
    assert parse_interval(np.datetime64(date, "D")) == day
    assert parse_interval((date, date)) == day


@given(st.integers(1, 9998), st.integers(1, 12))
@settings(deadline=None)
def test_a_bare_month_or_year_means_all_of_it(year, month):
    first = dt.date(year, month, 1)
    after = dt.date(year + month // 12, month % 12 + 1, 1)
    assert parse_interval(f"{year:04d}-{month:02d}") == whole(first, after)
    assert parse_interval(np.datetime64(f"{year:04d}-{month:02d}", "M")) == whole(first, after)
    of_year = whole(dt.date(year, 1, 1), dt.date(year + 1, 1, 1))
    assert parse_interval(f"{year:04d}") == of_year
    assert parse_interval(np.datetime64(f"{year:04d}", "Y")) == of_year


@given(dates, dates)
@settings(deadline=None)
def test_a_pair_is_closed_at_both_ends_in_every_spelling(one, other):
    first, last = sorted((one, other))
    expected = whole(first, last + dt.timedelta(days=1))
    a, b = first.isoformat(), last.isoformat()
    for spelling in (f"{a}/{b}", (a, b), [a, b], slice(a, b), (first, last), (a, last)):
        assert parse_interval(spelling) == expected


def test_the_design_s_own_example_includes_the_fifteenth():
    start, end = parse_interval(("2024-08-01", "2024-08-15"))
    assert start == us("2024-08-01")
    assert end == us("2024-08-15T23:59:59.999999")


def test_a_pair_of_months_ends_with_the_last_day_of_the_second():
    assert parse_interval("2024-01/2024-02") == (
        us("2024-01-01"), us("2024-02-29T23:59:59.999999"),
    )  # fmt: skip


@given(moments, offsets)
@settings(deadline=None)
def test_a_time_with_a_zone_is_converted_to_utc(moment, zone):
    aware = moment.replace(tzinfo=zone)
    utc = np.datetime64(moment - zone.utcoffset(None), "us")
    for value in (aware, aware.isoformat(), pd.Timestamp(aware)):
        assert parse_interval(value) == (utc, utc)
        assert to_utc(value) == utc


@given(moments)
@settings(deadline=None)
def test_a_time_without_a_zone_is_utc(moment):
    utc = np.datetime64(moment, "us")
    for value in (moment, moment.isoformat(), moment.isoformat() + "Z", pd.Timestamp(moment), utc):
        if value == moment.isoformat() and moment.time() == dt.time():
            continue
        assert parse_interval(value) == (utc, utc)


def test_summer_time_is_converted_by_its_own_offset():
    denver = pd.Timestamp("2024-07-01 12:00", tz="America/Denver")
    assert parse_interval(denver)[0] == us("2024-07-01T18:00")


@pytest.mark.parametrize("unit", ["h", "m", "s", "ms", "us", "ns"])
def test_a_numpy_time_finer_than_a_day_is_an_instant(unit):
    value = np.datetime64("2024-08-15T10", unit)
    assert parse_interval(value) == (us("2024-08-15T10"), us("2024-08-15T10"))


@pytest.mark.parametrize(
    ("time", "start", "end"),
    [
        ("2024-08/..", us("2024-08-01"), ALWAYS[1]),
        ("../2024-08-15", ALWAYS[0], us("2024-08-15T23:59:59.999999")),
        ("2024-08/", us("2024-08-01"), ALWAYS[1]),
        ("/2024", ALWAYS[0], us("2024-12-31T23:59:59.999999")),
        ((None, "2024-08"), ALWAYS[0], us("2024-08-31T23:59:59.999999")),
        (("2024-08", None), us("2024-08-01"), ALWAYS[1]),
        (slice("2024-08", None), us("2024-08-01"), ALWAYS[1]),
        (slice(None, "2024"), ALWAYS[0], us("2024-12-31T23:59:59.999999")),
        (("..", ".."), *ALWAYS),
        (None, *ALWAYS),
        (slice(None), *ALWAYS),
    ],
)
def test_an_open_end_reaches_as_far_as_time_does(time, start, end):
    assert parse_interval(time) == (start, end)


def test_instants_with_seconds_make_an_interval_to_the_microsecond():
    assert parse_interval("2024-08-15T10:00:00Z/2024-08-15T12:30:00+02:00") == (
        us("2024-08-15T10:00:00"), us("2024-08-15T10:30:00"),
    )  # fmt: skip


@pytest.mark.parametrize(
    "time",
    [
        ("2024-08-15", "2024-08-01"),
        "2025/2024",
        slice("2024-08", "2024-07"),
        (dt.date(2024, 1, 2), dt.date(2024, 1, 1)),
        ("2024-08-15T10:00:00Z", "2024-08-15T10:00:00+02:00"),
    ],
)
def test_an_interval_that_ends_before_it_starts_is_refused(time):
    with pytest.raises(ValueError, match=r"ends .* before it starts"):
        parse_interval(time)


@pytest.mark.parametrize(
    "time",
    [
        "soon", "2024-13", "2024-02-30", "", "a/b", "2024/08/15", "2024-08-01/P1M", "12/2024",
        ("2024",), ("2024", "2025", "2026"), ("2024", "soon"), pd.NaT, np.datetime64("NaT"),
        {"from": 1, "to": 2},
    ],
)  # fmt: skip
def test_rubbish_is_refused_as_a_value_error(time):
    with pytest.raises(ValueError, match=r"."):
        parse_interval(time)


@pytest.mark.parametrize("unit", ["Y", "M", "D", "s", "us", "ns"])
def test_a_numpy_nat_is_refused_whatever_its_unit(unit):
    with pytest.raises(ValueError, match="no time"):
        parse_interval(np.datetime64("NaT", unit))


@pytest.mark.parametrize("time", [2024, 2024.0, (2023, 2024), slice(2023, 2024), [2023.0, 2024]])
def test_a_bare_number_is_a_year_or_refused_but_never_nanoseconds_since_1970(time):
    try:
        start, _ = parse_interval(time)
    except (TypeError, ValueError) as error:
        assert "time=" in str(error) or "no time" in str(error)  # noqa: PT017
    else:
        assert start in (us("2023-01-01"), us("2024-01-01"))


@pytest.mark.parametrize(
    ("time", "period"),
    [
        ("2024-8", "2024-08"),
        ("20240815", "2024-08-15"),
        ("2024-8-5", "2024-08-05"),
        ("Aug 2024", "2024-08"),
        ("15 Aug 2024", "2024-08-15"),
        ("2024.08.15", "2024-08-15"),
        ("2024-08-15 ", "2024-08-15"),
        (" 2024-08", "2024-08"),
    ],
)
def test_a_bare_date_in_another_spelling_is_all_of_it_or_refused_but_never_an_instant(time, period):
    try:
        found = parse_interval(time)
    except ValueError as error:
        assert "no time" in str(error)  # noqa: PT017 - refusing is one of two right answers
    else:
        assert found == parse_interval(period)


@pytest.mark.parametrize("time", ["now", "today"])
def test_a_word_that_means_another_time_tomorrow_is_refused(time):
    with pytest.raises(ValueError, match="no time"):
        parse_interval(time)


def test_to_utc_reads_none_as_not_a_time():
    assert np.isnat(to_utc(None))
    assert to_utc(None).dtype == np.dtype("datetime64[us]")


def test_to_utc_keeps_microseconds_and_drops_what_is_finer():
    assert to_utc("2024-08-15T10:00:00.1234567Z") == us("2024-08-15T10:00:00.123456")
