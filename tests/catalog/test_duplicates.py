"""Scenes processed again: which are kept, which dropped; pandas answers the same question."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import xgeocat as xgc

STRIP = "S2A_OPER_MSI_L2A_DS_S2RP_20230630T022413_S20200305T103210_N05.00"


@pytest.fixture
def made(make_item):
    """Factory of a catalog of one acquisition, with these properties of its scenes."""

    def make(*properties):
        return xgc.from_items(
            [
                make_item(
                    f"s{i}", **{"s2:datastrip_id": STRIP, "s2:mgrs_tile": "32TMT", **more}
                )
                for i, more in enumerate(properties)
            ]
        )  # fmt: skip

    return make


def test_real_reprocessed_scenes_are_dropped_and_no_other(real_items):
    ds = xgc.from_items(real_items("sentinel2-earthsearch-v1"))
    best, dropped = xgc.deduplicate(ds), xgc.deduplicate(ds, keep="dropped")
    table = ds[["s2:datastrip_id", "s2:processing_baseline", "grid:code"]].to_dataframe()
    table["strip"] = table["s2:datastrip_id"].str.extract("(S2._).*_(S.{15})_").agg("".join, axis=1)
    winner = table.groupby(["grid:code", "strip"])["s2:processing_baseline"].idxmax()
    assert list(best.scene.values) == [s for s in ds.scene.values if s in set(winner)]
    assert dropped.sizes["scene"] == 8
    assert set(dropped["s2:processing_baseline"].values) == {"02.14"}
    kept = best.sel(scene=dropped["superseded_by"].values)
    assert set(kept["s2:processing_baseline"].values) == {"05.00"}
    assert list(kept["grid:code"].values) == list(dropped["grid:code"].values)


def test_no_ground_is_lost_at_the_edge_of_a_datatake(planetary_computer):
    # 13 tiles have two granules of one datatake: halves of it, not versions.
    assert xgc.deduplicate(planetary_computer).sizes["scene"] == 1000


@pytest.mark.parametrize("by", [["s2:mgrs_tile", "s2:datatake_id"], ["s2:mgrs_tile", "start_time"]])
def test_by_columns_is_what_pandas_groups(planetary_computer, by):
    best = xgc.deduplicate(planetary_computer, by=by, precedence="s2:generation_time")
    names = [*by, "s2:generation_time", "scene"]
    table = pd.DataFrame({name: planetary_computer[name].values for name in names})
    expected = table.sort_values("s2:generation_time").groupby(by)["scene"].last()
    assert best.sizes["scene"] == 987
    assert set(best.scene.values) == set(expected)


def test_best_and_dropped_together_are_the_catalog(planetary_computer):
    by = ["s2:mgrs_tile", "s2:datatake_id"]
    best = xgc.deduplicate(planetary_computer, by=by)
    dropped = xgc.deduplicate(planetary_computer, by=by, keep="dropped")
    assert sorted([*best.scene.values, *dropped.scene.values]) == sorted(
        planetary_computer.scene.values
    )
    assert list(best.scene.values) == [
        s for s in planetary_computer.scene.values if s not in set(dropped.scene.values)
    ]
    xr.testing.assert_identical(planetary_computer.geocat.deduplicate(by=by), best)
    xr.testing.assert_identical(xgc.deduplicate(best, by=by), best)


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ({"s2:processing_baseline": "05.10"}, {"s2:processing_baseline": "05.09"}),
        ({"s2:processing_baseline": "05.10"}, {"s2:processing_baseline": "02.14",
                                               "updated": "2026-01-01T00:00:00Z"}),
        ({"s2:processing_baseline": "02.14"}, {}),
        ({"s2:generation_time": "2024-01-01T00:00:00.5Z"}, {"s2:generation_time": "2024-01-01T00:00:00Z"}),
        ({"processing:datetime": "2024-01-01T12:00:00+00:00"}, {"processing:datetime": "2024-01-01T13:00:00+02:00"}),
        ({"created": "2024-01-02T00:00:00Z"}, {"created": "2024-01-01T00:00:00Z", "updated": "2025-01-01T00:00:00Z"}),
        ({"updated": "2024-01-02T00:00:00Z"}, {"updated": "2024-01-01T00:00:00Z"}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("first", [True, False])
def test_default_precedence(made, better, worse, first):
    ds = made(better, worse) if first else made(worse, better)
    assert xgc.deduplicate(ds).scene.values.tolist() == ["s0" if first else "s1"]


def test_landsat_tier_1_goes_before_tier_2_and_real_time(make_item):
    name = "LC08_L2SP_033032_20241127_{}_02_{}"
    tiers = [("20241205", "T1"), ("20241207", "T2"), ("20241209", "RT")]
    ids = [name.format(*tier) for tier in tiers]
    for k in range(3):
        left = xgc.from_items([make_item(id) for id in ids[k:][::-1]])
        assert xgc.deduplicate(left).scene.values.tolist() == [ids[k]]


def test_precedence_by_columns(made):
    ds = made(
        {"eo:cloud_cover": 10.0, "grade": "b"},
        {"eo:cloud_cover": 5.0, "grade": "a"},
        {"grade": "b"},
    )

    def kept(precedence):
        return xgc.deduplicate(ds, precedence=precedence).scene.values.tolist()

    assert kept("eo:cloud_cover") == ["s0"]
    assert kept("-eo:cloud_cover") == ["s1"]  # what is not known is never the best
    assert kept(["grade", "-eo:cloud_cover"]) == ["s0"]
    assert kept(["-grade"]) == ["s1"]
    assert kept("grade") == ["s2"]  # at last, the id
    assert kept([]) == ["s2"]


def test_scenes_like_no_other_are_kept(make_catalog):
    ds = make_catalog([None] * 4, tile=["a", None, None, "a"], day=[1.0, 1.0, None, 1.0])
    assert xgc.deduplicate(ds).sizes["scene"] == 4
    assert xgc.deduplicate(ds, by=["tile", "day"]).scene.values.tolist() == ["s1", "s2", "s3"]
    assert xgc.deduplicate(ds, by="tile").scene.values.tolist() == ["s1", "s2", "s3"]


def test_by_a_function(make_catalog):
    ds = make_catalog([None] * 4, [f"2024-06-0{d}T1{d}:00:00Z" for d in (1, 1, 2, 3)])
    best = xgc.deduplicate(ds, by=lambda ds: ds.start_time.dt.day)
    assert best.scene.values.tolist() == ["s1", "s2", "s3"]
    none = xgc.deduplicate(ds, by=lambda ds: [None, "x", None, "x"])
    assert none.scene.values.tolist() == ["s0", "s2", "s3"]


def test_the_same_item_twice_is_once(made):
    ds = made({})
    twice = xr.concat([ds, ds], "scene")
    xr.testing.assert_identical(xgc.deduplicate(twice), ds)


rows = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", None]),
        st.sampled_from([1.0, 2.0, None]),
        st.sampled_from([1.0, 2.0, 3.0, None]),
    ),
    max_size=8,
)


@settings(deadline=None)
@given(rows=rows, seed=st.integers(0, 99))
def test_what_is_kept_is_what_pandas_keeps_whatever_the_order(make_catalog, rows, seed):
    tile, day, grade = ([row[k] for row in rows] for k in range(3))
    ds = make_catalog([None] * len(rows), tile=tile, day=day, grade=grade)
    ds = ds.assign(
        {n: ds.get(n, ("scene", np.full(len(rows), np.nan))) for n in ("tile", "day", "grade")}
    )
    kept = set(xgc.deduplicate(ds, by=["tile", "day"], precedence="grade").scene.values)

    table = pd.DataFrame({"tile": tile, "day": day, "grade": grade}, dtype=object)
    table["scene"] = [f"s{i}" for i in range(len(rows))]
    known = table.dropna(subset=["tile", "day"])
    known = known.assign(grade=known["grade"].fillna(-1).astype(float))
    best = known.sort_values(["grade", "scene"]).groupby(["tile", "day"])["scene"].last()
    assert kept == set(best) | set(table.scene) - set(known.scene)

    order = np.random.default_rng(seed).permutation(len(rows))
    again = xgc.deduplicate(ds.isel(scene=order), by=["tile", "day"], precedence="grade")
    assert set(again.scene.values) == kept


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"by": "tile_id"}, r"'tile_id' is no variable over \('scene',\).*'s2:mgrs_tile'"),
        ({"by": "href"}, "'href' is no variable over"),
        ({"by": []}, "names nothing to compare"),
        ({"by": lambda ds: [1]}, "by= gives 1 values for 2 scenes"),
        ({"precedence": "-clouds"}, "'clouds' is no variable"),
        ({"precedence": "mixed"}, r"precedence names 'mixed'.*\['int', 'str'\]"),
        ({"keep": "first"}, "keep='first': it is 'best' or 'dropped'"),
    ],
)
def test_what_cannot_be_done_is_refused(made, arguments, message):
    ds = made({"mixed": "a"}, {"mixed": 1})
    with pytest.raises(ValueError, match=message):
        xgc.deduplicate(ds, **arguments)


def test_a_field_is_refused(make_field):
    with pytest.raises(TypeError, match="deduplicate works on a catalog"):
        xgc.deduplicate(make_field().to_dataset(name="red"))


def test_empty_and_dropped_catalogs_are_catalogs(made, tmp_path):
    ds = made({}, {"s2:processing_baseline": "05.00"})
    assert xgc.deduplicate(ds.isel(scene=[])).sizes["scene"] == 0
    assert xgc.deduplicate(ds.isel(scene=[]), keep="dropped").sizes["scene"] == 0
    dropped = xgc.deduplicate(ds, keep="dropped")
    path = dropped.geocat.to_geoparquet(tmp_path / "dropped.parquet")
    assert xgc.open_catalog(path)["superseded_by"].values.tolist() == ["s1"]
