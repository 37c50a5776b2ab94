"""Footers: what they say of a row group holds all that is in it."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xgeocat.catalog.footers import ALWAYS, ROUNDED, TIMES, Places, extents, widened
from xgeocat.catalog.metadata import CORNERS

EXACT, OTHERS = (Places("geometry", "bbox", exact=exact) for exact in (True, False))
MOMENT = pa.timestamp("us", tz="UTC")
EVERYWHERE = [-np.inf, -np.inf, np.inf, np.inf]


def footer(path, boxes, times=None, statistics=True, rows=2, **columns):
    """Footer of a file of these boxes, (4, n), and times (one list per column)."""
    members = [pa.array(corner, pa.float64(), from_pandas=True) for corner in boxes]
    made = {"bbox": pa.StructArray.from_arrays(members, list(CORNERS))}
    made |= {name: pa.array(values, MOMENT) for name, values in (times or {}).items()}
    table = pa.table(made | columns)
    pq.write_table(table, path, row_group_size=rows, write_statistics=statistics)
    return pq.read_metadata(path)


coordinate = st.floats(-170, 170, allow_subnormal=False)
boxes = st.none() | st.tuples(coordinate, coordinate, st.floats(0, 9), st.floats(0, 9)).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
)
moment = st.none() | st.datetimes(dt.datetime(1, 1, 1), dt.datetime(9999, 12, 31))
rows_of = st.lists(st.tuples(boxes, moment, moment, moment), min_size=1, max_size=7)


@given(rows_of)
@settings(max_examples=60, deadline=None)
def test_extents_are_those_of_the_rows_of_each_group(tmp_path_factory, rows):
    corners = np.array([[np.nan] * 4 if row[0] is None else row[0] for row in rows]).T
    times = {
        name: [None if t is None else t.replace(tzinfo=dt.UTC) for t in column]
        for name, column in zip(TIMES, list(zip(*rows, strict=True))[1:], strict=True)
    }
    found = footer(tmp_path_factory.mktemp("f") / "t.parquet", corners, times)
    got, when = extents(found, EXACT)
    for group, first in enumerate(range(0, len(rows), 2)):
        some = corners[:, first : first + 2]
        known = some[:, ~np.isnan(some[0])]
        wanted = [*known[:2].min(axis=1), *known[2:].max(axis=1)] if known.size else [np.nan] * 4
        np.testing.assert_array_equal(got[:, group], wanted)
        moments = [
            t.replace(tzinfo=None) for name in TIMES for t in times[name][first : first + 2] if t
        ]
        edges = [min(moments), max(moments)] if moments else ["NaT", "NaT"]
        np.testing.assert_array_equal(when[:, group], np.array(edges, "M8[us]"))


def spellings(west, width):
    """Longitudes of a box, as others write them: RFC 7946 has west > east, others go beyond 180."""
    across = west + width > 180
    beyond = [(west, west + width - 360), (west - 360, west + width - 360)] if across else []
    return [(west, west + width), *beyond]


longitudes = st.tuples(st.floats(-180, 179), st.floats(0.01, 180))


@given(st.lists(st.tuples(longitudes, st.floats(0, 1), st.integers(0, 2)), min_size=1, max_size=4))
@settings(max_examples=60, deadline=None)
def test_groups_of_others_hold_what_their_boxes_mean_in_each_spelling(tmp_path_factory, rows):
    said = [(spelled := spellings(*place))[which % len(spelled)] for place, _, which in rows]
    corners = np.array([(west, 0, east, 1) for west, east in said], float).T
    found = footer(tmp_path_factory.mktemp("f") / "t.parquet", corners, rows=len(rows))
    group = extents(found, OTHERS)[0][:, 0]
    for one, ((west, width), part, _) in zip(widened(corners).T, rows, strict=True):
        inside = west + part * width
        for held in (one, group):
            assert held[0] <= inside - 360 * (inside > 180) <= held[2]
            assert held[1] <= 0 < 1 <= held[3]


@pytest.mark.parametrize("across", [(180, 0), (0, -180), (170, -170)], ids=str)
def test_a_box_across_180_degrees_is_seen_beside_others(across, tmp_path):
    corners = np.array([[across[0], 0, across[1], 1], [-10, 0, 20, 1]], float).T
    west, _, east, _ = extents(footer(tmp_path / "t.parquet", corners), OTHERS)[0][:, 0]
    assert (west, east) == (-180, 180)


def test_a_box_that_is_not_known_stays_so():
    assert np.isnan(widened(np.full((4, 2), np.nan))).all()


# --- what footers do not say ----------------------------------------------------------------------

BOXES = np.array([[1, 2, 3], [1, 2, 3], [4, 5, 6], [4, 5, 6]], float)
WHEN = [dt.datetime(2024, 1, day, tzinfo=dt.UTC) for day in (1, 2, 3)]


def test_without_statistics_groups_are_everywhere_at_all_times(tmp_path):
    times = dict.fromkeys(TIMES, WHEN)
    found = footer(tmp_path / "t.parquet", BOXES, times, statistics=False)
    got, when = extents(found, EXACT)
    np.testing.assert_array_equal(got.T, [EVERYWHERE] * 2)
    np.testing.assert_array_equal(when.T, [ALWAYS] * 2)


def test_of_times_those_are_taken_that_are_there(tmp_path):
    found = footer(tmp_path / "t.parquet", BOXES, {"datetime": [None, None, WHEN[2]],
                                                   "end_datetime": [*WHEN[:2], None]})  # fmt: skip
    _, when = extents(found, EXACT)
    np.testing.assert_array_equal(when.astype("M8[D]").astype(str).T,
                                  [["2024-01-01", "2024-01-02"], ["2024-01-03"] * 2])  # fmt: skip
    _, never = extents(footer(tmp_path / "t.parquet", BOXES), EXACT)
    assert np.isnat(never).all()


def test_times_that_are_texts_say_nothing(tmp_path):
    texts = pa.array(["2024-01-01", "2024-01-02", None])
    _, when = extents(footer(tmp_path / "t.parquet", BOXES, datetime=texts), OTHERS)
    np.testing.assert_array_equal(when[:, 0], ALWAYS)


def test_others_may_have_no_box_for_a_footprint(tmp_path):
    some = BOXES.copy()
    some[:, 1] = np.nan
    found = footer(tmp_path / "t.parquet", some)
    # Of ours there is then no footprint.
    np.testing.assert_array_equal(extents(found, EXACT)[0].T, [[1, 1, 4, 4], [3, 3, 6, 6]])
    got = extents(found, OTHERS)[0].T
    assert (got[0, ::2] == [-180, 180]).all()
    assert (got[0, 1::2] == [-np.inf, np.inf]).all()
    np.testing.assert_allclose(got[1], [3, 3, 6, 6], atol=2 * ROUNDED)


@pytest.mark.parametrize("box", [None, "other"])
def test_without_a_column_of_boxes_groups_are_everywhere(box, tmp_path):
    found = footer(tmp_path / "t.parquet", BOXES)
    got = extents(found, Places("geometry", box, exact=False))[0].T
    assert (got[:, 0] <= -180).all()
    assert (got[:, 2] >= 180).all()
    assert np.isinf(got[:, 1::2]).all()


def test_a_file_without_groups_has_no_extents(tmp_path):
    schema = pa.schema([("datetime", MOMENT)])
    pq.ParquetWriter(tmp_path / "t.parquet", schema).close()
    got, when = extents(pq.read_metadata(tmp_path / "t.parquet"), EXACT)
    assert (got.shape, when.shape) == ((4, 0), (2, 0))
