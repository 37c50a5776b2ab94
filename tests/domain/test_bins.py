"""Bins: solar days as odc-stac has them, and steps that do not depend on the scenes there are."""

import datetime as dt

import numpy as np
import odc.stac.model
import pandas as pd
import pytest
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox

from xgeocat.domain.bins import (
    bins_of,
    day_bin,
    frequency,
    longitude_of,
    running_longitudes,
    solar_days,
)

MOMENTS = st.datetimes(dt.datetime(1972, 1, 1), dt.datetime(2060, 1, 1))


def times(*moments):
    return np.array(moments, "datetime64[us]")


@given(MOMENTS, st.floats(-180, 180))
def test_a_solar_day_is_the_one_that_odc_stac_finds(moment, longitude):
    want = odc.stac.model._convert_to_solar_time(moment, longitude).date()
    assert solar_days(times(moment), longitude)[0] == np.datetime64(want)


def test_longitudes_count_on_across_the_antimeridian_and_so_do_days():
    west, east = shapely.box(178.6, 60, 179.6, 61), shapely.box(-179.5, 60, -178.5, 61)
    cut = shapely.MultiPolygon([shapely.box(179.5, 60, 180, 61), shapely.box(-180, 60, -179.5, 61)])
    found = running_longitudes([west, cut, east])
    np.testing.assert_allclose(found, [179.1, 180, 181])
    np.testing.assert_allclose(running_longitudes([east, east, west]), [181, 181, 179.1])
    np.testing.assert_allclose(running_longitudes([east]), [-179])
    assert len(set(solar_days(times(*["2024-06-01T00:10"] * 3), found).tolist())) == 1
    # Apart, they are of two days.
    assert len(set(solar_days(times(*["2024-06-01T00:10"] * 2), np.array([179.1, -179])))) == 2


def test_elsewhere_longitudes_are_what_they_are():
    boxes = [shapely.box(x, 40, x + 1, 41) for x in (-120, 10, 15.5)]
    np.testing.assert_allclose(running_longitudes(boxes), [-119.5, 10.5, 16])
    assert running_longitudes([]).shape == (0,)


def at(x, y, crs, step=10):
    return GeoBox((100, 100), Affine(step, 0, x, 0, -step, y), crs)


@pytest.mark.parametrize(("geobox", "want"), [
    (at(500000 - 500, 4300000, "EPSG:32610"), -123),
    (at(120 - 0.5, 40, "EPSG:4326", 0.01), 120),
    (at(-500, 1000000 + 500, "EPSG:3413"), 135),
])  # fmt: skip
def test_the_longitude_of_a_grid_is_that_of_its_middle(geobox, want):
    assert longitude_of(geobox) == pytest.approx(want, abs=1e-6)


def test_all_of_a_utm_zone_at_180_degrees_is_on_one_side_of_the_date_line():
    one = [longitude_of(at(x, 7500000, "EPSG:32601")) for x in (300000, 400000, 600000)]
    assert one == sorted(one)
    assert -182 < one[0] < -180 < one[1]
    sixty = longitude_of(at(690000, 7500000, "EPSG:32660"))
    assert 180 < sixty < 182


# --- steps ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("time", "moment", "start", "end", "name"), [
    ("1MS", "2024-02-29T12", "2024-02-01", "2024-03-01", "2024-02"),
    ("2MS", "2024-02-10", "2024-01-01", "2024-03-01", "2024-01"),
    ("QS", "2024-12-31T23:59:59.999999", "2024-10-01", "2025-01-01", "2024-10"),
    ("YS", "2024-01-01", "2024-01-01", "2025-01-01", "2024-01"),
    ("10D", "1970-01-11", "1970-01-11", "1970-01-21", "1970-01-11"),
    ("10D", "1969-12-31", "1969-12-22", "1970-01-01", "1969-12-22"),
    ("1D", "2024-06-01T23", "2024-06-01", "2024-06-02", "2024-06-01"),
    ("W-MON", "2024-06-05", "2024-06-03", "2024-06-10", "2024-06-03"),
    ("6h", "2024-06-01T13", "2024-06-01T12", "2024-06-01T18", "2024-06-01T120000"),
    ("24h", "2024-06-01T13", "2024-06-01", "2024-06-02", "2024-06-01"),
])  # fmt: skip
def test_steps_begin_end_and_are_called_as_written(time, moment, start, end, name):
    (found,) = bins_of(times(moment), time)
    assert found.interval == (*times(start), times(end)[0] - np.timedelta64(1, "us"))
    assert found.name == name


@settings(max_examples=20, deadline=None)
@given(st.lists(MOMENTS, min_size=1, max_size=8), st.sampled_from(["1MS", "3MS", "7D", "5h", "YS"]))
def test_a_step_holds_its_scene_and_does_not_depend_on_others(moments, time):
    found = bins_of(times(*moments), time)
    for moment, step in zip(moments, found, strict=True):
        assert step.start <= np.datetime64(moment) <= step.end
        assert bins_of(times(moment), time) == [step]
    assert len({step.name for step in found}) == len(set(found))


def test_steps_of_months_are_those_of_pandas():
    moments = pd.date_range("2023-11-17", "2024-04-02", freq="53h")
    want = moments.to_period("M")
    assert [b.name for b in bins_of(moments.values, "1MS")] == [str(p) for p in want]


def test_a_day_in_solar_time_says_so():
    day = day_bin(np.datetime64("2024-06-01"))
    assert (day.name, day.is_local) == ("2024-06-01", True)


@pytest.mark.parametrize("time", ["month", "", "-1D", "0D"])
def test_what_is_no_length_of_time_is_refused(time):
    with pytest.raises(ValueError, match="solar_day|no length"):
        frequency(time)


def test_scenes_before_all_counting_are_refused():
    with pytest.raises(ValueError, match="1800-01-01"):
        bins_of(times("1700-01-01"), "1MS")
