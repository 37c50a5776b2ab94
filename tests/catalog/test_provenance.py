"""What was done to a catalog travels with it, and changes nothing else."""

from __future__ import annotations

import copy
import json
import pickle
import re

import geopandas as gpd
import pytest
import xarray as xr
from shapely.geometry import box

import xgeocat as xgc
from xgeocat.catalog.provenance import LIMIT, PROVENANCE, Step, history, recorded
from xgeocat.runs.fingerprint import fingerprint


@pytest.fixture
def ds(make_catalog):
    return make_catalog([box(i, 0, i + 1, 1) for i in range(4)], cloud=[1, 2, 3, 4])


def actions(ds: xr.Dataset) -> list[object]:
    return [step["action"] for step in ds.attrs[PROVENANCE]]


def test_a_query_of_a_query_tells_both(ds):
    inner = ds.geocat.query((0, 0, 2, 1), time="2024-06")
    outer = inner.geocat.query(gpd.GeoSeries([box(0.5, 0.25, 0.75, 0.5)], crs=4326))
    first, second = outer.attrs[PROVENANCE]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", first.pop("when"))
    assert first == {
        "action": "query",
        "aoi": {"kind": "Polygon", "bounds": [0, 0, 2, 1], "crs": "EPSG:4326"},
        "time": ["2024-06-01T00:00:00.000000Z", "2024-06-30T23:59:59.999999Z"],
    }
    assert second["aoi"]["bounds"] == [0.5, 0.25, 0.75, 0.5]
    assert "time" not in second
    assert ds.attrs == {}
    assert len(inner.attrs[PROVENANCE]) == 1


def test_combined_catalogs_tell_of_both(ds):
    a, b = ds.geocat.query((0, 0, 2, 1)), ds.geocat.query(time="2024")
    found = a.geocat.matchup(b, max_gap="1D", nearest=2)
    assert actions(found) == ["query", "matchup"]
    step = found.attrs[PROVENANCE][-1]
    assert (step["max_gap"], step["spatial"], step["nearest"]) == ("P1DT0H0M0S", "intersects", 2)
    assert [(other["scenes"], [s["action"] for s in other["steps"]]) for other in step["others"]] == [(4, ["query"])]  # fmt: skip
    assert actions(a.geocat.union(b, ds)) == ["query", "union"]
    assert actions(ds.geocat.intersect(b)) == ["intersect"]
    assert ds.geocat.difference(b, spatial_only=True).attrs[PROVENANCE][0]["spatial_only"] is True


def test_steps_are_json_and_survive_what_datasets_survive(ds, tmp_path):
    found = ds.geocat.query((0, 0, 2, 1)).geocat.intersect(ds.geocat.query(time="2024"))
    told = found.attrs[PROVENANCE]
    assert json.loads(json.dumps(told)) == told
    for same in (found.isel(scene=[0]), copy.deepcopy(found), pickle.loads(pickle.dumps(found))):
        assert same.attrs[PROVENANCE] == told
    back = xgc.open_catalog(found.geocat.to_geoparquet(tmp_path / "c.parquet"))
    xr.testing.assert_identical(back, found)
    later = copy.deepcopy(back.attrs[PROVENANCE])
    for step in [*later, *later[-1]["others"][0]["steps"]]:
        step["when"] = "2030-01-01T00:00:00Z"
    assert back.assign_attrs({PROVENANCE: later}).identical(found)
    later[0]["action"] = "search"
    assert not back.assign_attrs({PROVENANCE: later}).identical(found)


def test_attrs_of_any_json_come_back_from_geoparquet(ds, tmp_path):
    named = ds.assign_attrs(title="mine", numbers=[1, 2.5, None], nested={"a": True})
    back = xgc.open_catalog(named.geocat.to_geoparquet(tmp_path / "c.parquet"))
    xr.testing.assert_identical(back, named)


def test_long_histories_keep_the_newest_steps_and_say_how_many_went_before(ds):
    for number in range(3 * LIMIT):
        ds = recorded(ds, "step", number=number)
    told = ds.attrs[PROVENANCE]
    assert [step["number"] for step in told] == list(range(2 * LIMIT, 3 * LIMIT))
    assert [step.get("earlier") for step in told] == [2 * LIMIT, *[None] * (LIMIT - 1)]


def test_catalogs_joined_to_themselves_do_not_tell_ever_more(ds):
    sizes = []
    for _ in range(3 * LIMIT):
        ds = recorded(ds, "union", [ds])
        sizes.append(len(json.dumps(ds.attrs[PROVENANCE])))
    assert sizes[-1] < 200_000
    assert sizes[-1] <= 1.01 * sizes[-4] < 2 * sizes[2 * LIMIT]


def test_a_step_equals_a_step_at_another_time_only():
    step = Step(action="query", when="a")
    assert step == Step(action="query", when="b") == {"action": "query", "when": "c"}
    assert step != Step(action="search", when="a")
    assert step != "query"
    with pytest.raises(TypeError):
        hash(step)


def test_no_run_depends_on_when_its_catalog_was_made(tmp_path):
    from xgeocat.datasets import lake_tahoe

    ds = xgc.from_items(lake_tahoe(tmp_path, resolution=600)).isel(scene=[0])
    found = ds.geocat.query(time="2024")
    prints = [
        fingerprint(lambda field: field, domain, list(domain.slices()))
        for domain in (ds.geocat.domain(), found.geocat.domain())
    ]
    prints = [{k: v for k, v in p.items() if k != "pipeline"} for p in prints]
    assert prints[0] == prints[1]
    assert history(found)
