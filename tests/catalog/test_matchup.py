"""Matchup equals a brute force over all pairs; nearness in time never beats place."""

from __future__ import annotations

import datetime as dt

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely.geometry import Point, Polygon, box

import xgeocat as xgc
from xgeocat.catalog.index import footprint_index

SQUARE = box(0, 0, 1, 1)


def ids(ds: xr.Dataset) -> list[str]:
    return list(ds.scene.values)


def pairs(found: xr.Dataset) -> list[tuple[str, str]]:
    """(scene, match) of each row, whose ids are the pairs'."""
    return [(name.split("__")[0], match) for name, match in zip(ids(found), found["match"].values, strict=True)]  # fmt: skip


@pytest.fixture(scope="module")
def catalog(make_item):
    """Factory of catalogs of (footprint, (first hour, last hour) or None), named with a prefix."""

    def make(prefix, rows, **properties):
        items = [
            make_item(
                f"{prefix}{i}", footprint, time and tuple(hour(h) for h in time), **properties
            )
            for i, (footprint, time) in enumerate(rows)
        ]
        return xgc.from_items(items)

    return make


def hour(number: int) -> str:
    return (dt.datetime(2024, 6, 1) + dt.timedelta(hours=number)).isoformat() + "Z"


# --- against brute force --------------------------------------------------------------------------


@st.composite
def scenes(draw):
    made = []
    for _ in range(draw(st.integers(0, 6))):
        x, y = draw(st.integers(0, 5)), draw(st.integers(0, 5))
        w, h = draw(st.integers(1, 3)), draw(st.integers(1, 3))
        shape = draw(
            st.sampled_from(
                [box(x, y, x + w, y + h), Polygon([(x, y), (x + w, y), (x, y + h)]), None]
            )
        )
        first = draw(st.integers(0, 60))
        made.append((shape, draw(st.sampled_from([None, (first, first), (first, first + 30)]))))
    return made


def brute_force(one, two, max_gap, least, nearest):
    """Pairs by scene, nearest first, with gap in hours; areas by geopandas in an equal-area CRS."""
    flat = [
        gpd.GeoSeries([g for g, _ in rows], crs=4326).segmentize(0.01).to_crs(6933)
        for rows in (one, two)
    ]
    out = []
    for i, (a, time) in enumerate(one):
        found = []
        for j, (b, when) in enumerate(two):
            if a is None or b is None or a.intersection(b).area == 0:
                continue
            known = time is not None and when is not None
            gap = np.nan
            if known:
                gap = max(0, when[0] - time[1]) - max(0, time[0] - when[1])
            if (max_gap is not None or nearest is not None) and not known:
                continue
            if max_gap is not None and abs(gap) > max_gap:
                continue
            share = flat[0][i].intersection(flat[1][j]).area / flat[0][i].area
            if share < least:
                continue
            found.append((np.inf if np.isnan(gap) else abs(gap), -round(share, 5), f"b{j}", gap))
        out += [(f"a{i}", name, gap, -share) for _, share, name, gap in sorted(found)[:nearest]]
    return out


@given(
    scenes(),
    scenes(),
    st.sampled_from([None, 0, 12, 40]),
    st.sampled_from(["intersects", 0.3, 1.0]),
    st.sampled_from([None, 1, 2]),
)
@settings(max_examples=60, deadline=None)
def test_matchup_equals_brute_force(catalog, one, two, max_gap, spatial, nearest):
    gap = None if max_gap is None else f"{max_gap}h"
    ds, other = catalog("a", one), catalog("b", two)
    found = ds.geocat.matchup(other, max_gap=gap, spatial=spatial, nearest=nearest)
    least = 0 if spatial == "intersects" else spatial - 1e-7
    want = brute_force(one, two, max_gap, least, nearest)
    assert pairs(found) == [(a, b) for a, b, *_ in want]
    np.testing.assert_allclose(
        found["match:gap_days"] * 24, [gap for *_, gap, _ in want], atol=1e-9
    )
    np.testing.assert_allclose(found["match:overlap"], [share for *_, share in want], atol=2e-5)
    again = ds.geocat.matchup(other, max_gap=gap, spatial=spatial, nearest=nearest)
    xr.testing.assert_identical(found, again)


@given(scenes(), scenes(), st.randoms(use_true_random=False))
@settings(max_examples=20, deadline=None)
def test_order_of_the_other_catalog_does_not_matter(catalog, one, two, random):
    ds, other = catalog("a", one), catalog("b", two)
    order = list(range(len(two)))
    random.shuffle(order)
    for nearest in (None, 1, 2):
        there = ds.geocat.matchup(other, nearest=nearest)
        turned = ds.geocat.matchup(other.isel(scene=order), nearest=nearest)
        assert pairs(there) == pairs(turned)


def test_every_second_real_scene_finds_the_other_half(planetary_computer):
    ds = planetary_computer.isel(scene=slice(0, 100))
    one, two = ds.isel(scene=slice(0, None, 2)), ds.isel(scene=slice(1, None, 2))
    found = one.geocat.matchup(two, max_gap="2D")
    a, b = (
        gpd.GeoDataFrame({"t": pd.to_datetime(c.start_time.values)}, geometry=footprint_index(c).geometry, crs=4326)
        for c in (one, two)
    )  # fmt: skip
    joined = gpd.sjoin(a, b, predicate="intersects")
    left = a.geometry.loc[joined.index].to_numpy()
    right = b.geometry.loc[joined.index_right].to_numpy()
    near = (joined.t_right - joined.t_left).abs() <= pd.Timedelta("2D")
    assert found.sizes["scene"] == int((near.to_numpy() & ~shapely.touches(left, right)).sum()) > 0


# --- rules ----------------------------------------------------------------------------------------


def test_place_comes_before_nearness_in_time(catalog):
    ds = catalog("a", [(SQUARE, (10, 10))])
    other = catalog("b", [(box(1, 0, 2, 1), (10, 10)), (box(0.5, 0, 2, 1), (90, 90))])
    found = ds.geocat.matchup(other, nearest=1)
    assert list(found["match"].values) == ["b1"]
    assert ds.geocat.matchup(other, nearest=1, max_gap="1D").sizes["scene"] == 0


@pytest.mark.parametrize(
    ("time", "gap"),
    [((0, 4), -6), ((0, 10), 0), ((12, 15), 0), ((5, 30), 0), ((20, 20), 0), ((21, 40), 1)],
)
def test_gaps_are_between_closed_intervals_and_signed(catalog, time, gap):
    ds, other = catalog("a", [(SQUARE, (10, 20))]), catalog("b", [(SQUARE, time)])
    found = ds.geocat.matchup(other)
    assert found["match:gap_days"].item() == gap / 24
    limit = dt.timedelta(hours=abs(gap))
    assert ds.geocat.matchup(other, max_gap=limit).sizes["scene"] == 1
    if gap:
        less = limit - dt.timedelta(microseconds=1)
        assert ds.geocat.matchup(other, max_gap=less).sizes["scene"] == 0


def test_equally_near_ones_are_told_apart_by_overlap_and_then_by_id(catalog):
    ds = catalog("a", [(SQUARE, (10, 10))])
    other = catalog("b", [(SQUARE, (12, 12)), (box(0, 0, 0.5, 1), (8, 8)), (SQUARE, (8, 8))])
    found = ds.geocat.matchup(other, nearest=2)
    assert list(found["match"].values) == ["b0", "b2"]
    assert list(found["match:gap_days"].values) == [2 / 24, -2 / 24]


def test_unknown_times_match_only_where_time_is_not_asked(catalog):
    ds = catalog("a", [(SQUARE, (10, 10)), (SQUARE, None)])
    other = catalog("b", [(SQUARE, None), (SQUARE, (99, 99))])
    assert pairs(ds.geocat.matchup(other)) == [("a0", "b1"), ("a0", "b0"), ("a1", "b0"), ("a1", "b1")]  # fmt: skip
    assert np.isnan(ds.geocat.matchup(other)["match:gap_days"].values).tolist() == [False, True, True, True]  # fmt: skip
    assert ds.geocat.matchup(other, nearest=5).sizes["scene"] == 1
    assert ds.geocat.matchup(other, max_gap="999D").sizes["scene"] == 1


@pytest.mark.parametrize(("nearest", "want"), [(1, ["a0", "a1"]), (2, ["a0__b1", "a0__b0", "a1__b1", "a1__b0"])])  # fmt: skip
def test_scenes_with_one_match_keep_their_ids(catalog, nearest, want):
    ds = catalog("a", [(SQUARE, (10, 10)), (SQUARE, (12, 12))], cloud=1)
    other = catalog("b", [(SQUARE, (90, 90)), (SQUARE, (50, 50))], cloud=2, label="x")
    found = ds.geocat.matchup(other, nearest=nearest)
    assert ids(found) == want
    assert set(found["cloud"].values) == {1}
    assert set(found["cloud_match"].values) == {2}
    assert set(found["label"].values) == {"x"}
    assert list(found.asset.values) == ["red", "red_match"]
    assert found["match:end_time"].values[0] == "2024-06-03T02:00:00.000000Z"
    assert footprint_index(found).geometry[0].equals(SQUARE)


def test_points_are_labels_of_the_scenes_they_lie_in(catalog):
    labels = catalog(
        "p", [(Point(0.5, 0.5), (0, 0)), (Point(1, 0.5), (0, 0)), (Point(5, 5), (0, 0))]
    )
    imagery = catalog("s", [(SQUARE, (1, 1))])
    found = labels.geocat.matchup(imagery, spatial=1.0)
    assert pairs(found) == [("p0", "s0")]
    assert found["match:overlap"].item() == 1
    assert imagery.geocat.matchup(labels)["match:overlap"].item() == 0


@pytest.mark.parametrize("latitude", [-80, 0, 45, 70])
def test_overlap_is_measured_on_the_ellipsoid(catalog, latitude):
    """pyproj integrates along geodesics, which parallels are not; finely cut they are."""
    ds = catalog("a", [(box(0, latitude, 10, latitude + 8), (0, 0))])
    other = catalog("b", [(Polygon([(0, latitude), (10, latitude), (0, latitude + 8)]), (0, 0))])
    found = ds.geocat.matchup(other)["match:overlap"].item()
    geod = ds.geocat.crs.get_geod()
    areas = [
        abs(
            geod.geometry_area_perimeter(shapely.segmentize(footprint_index(c).geometry[0], 0.02))[
                0
            ]
        )
        for c in (other, ds)
    ]
    assert found == pytest.approx(areas[0] / areas[1], rel=1e-5)


def test_a_match_can_be_matched_again(catalog):
    ds, other = catalog("a", [(SQUARE, (10, 10))]), catalog("b", [(SQUARE, (12, 12))])
    twice = ds.geocat.matchup(other, nearest=1).geocat.matchup(other, nearest=1, suffix="_2")
    assert twice["match_2"].item() == "b0"
    assert twice["match:gap_days_2"].item() == 2 / 24
    assert ids(twice.geocat.query((0, 0, 1, 1), time="2024-06-01")) == ["a0"]


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"max_gap": 3}, "max_gap=3"),
        ({"max_gap": "3"}, "max_gap='3'"),
        ({"max_gap": "soon"}, "max_gap='soon'"),
        ({"max_gap": "-3D"}, "not below 0"),
        ({"max_gap": pd.NaT}, "max_gap=NaT"),
        ({"spatial": "within"}, "spatial='within'"),
        ({"spatial": 0}, "spatial=0"),
        ({"spatial": 1.5}, "spatial=1.5"),
        ({"spatial": True}, "spatial=True"),
        ({"nearest": 0}, "nearest=0"),
        ({"nearest": 1.5}, "nearest=1.5"),
        ({"nearest": True}, "nearest=True"),
        ({"suffix": ""}, "suffix=''"),
    ],
)
def test_what_cannot_be_read_is_refused(catalog, wrong, message):
    ds = catalog("a", [(SQUARE, (0, 0))])
    with pytest.raises(ValueError, match=message):
        ds.geocat.matchup(ds, **wrong)


@pytest.mark.parametrize("gap", ["2h", dt.timedelta(hours=2), np.timedelta64(2, "h"), pd.Timedelta("2h")])  # fmt: skip
def test_gaps_are_read_as_people_write_them(catalog, gap):
    ds, other = (
        catalog("a", [(SQUARE, (10, 10))]),
        catalog("b", [(SQUARE, (12, 12)), (SQUARE, (13, 13))]),
    )
    assert pairs(ds.geocat.matchup(other, max_gap=gap)) == [("a0", "b0")]


@pytest.mark.slow
def test_a_hundred_thousand_scenes_on_each_side_are_matched():
    import pyproj

    from xgeocat.catalog.build import Scene, catalog_dataset

    def many(seed, number=100_000):
        rng = np.random.default_rng(seed)
        x, y = rng.uniform(-170, 170, number), rng.uniform(-70, 70, number)
        drawn = shapely.box(x, y, x + 0.3, y + 0.3)
        days = np.datetime64("2024-01-01", "us") + rng.integers(0, 365, number).astype("m8[D]")
        rows = [Scene(f"{i}", "c", drawn[i], days[i], days[i]) for i in range(number)]
        return catalog_dataset(rows, pyproj.CRS.from_epsg(4326))

    ds, other = many(1), many(2)
    found = ds.geocat.matchup(other, nearest=1)
    assert found.sizes["scene"] > 30_000
