"""Icechunk: scenes are committed in batches, all of one or nothing, and the history tells."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr

import xgeocat as xgc
from tests.runs.archive import ndvi, run
from xgeocat.runs.ledger import Ledger
from xgeocat.runs.run import RunFailuresWarning
from xgeocat.storage import versions
from xgeocat.storage.folder import folder_at

icechunk = pytest.importorskip("icechunk", reason="needs the extra xgeocat[icechunk]")


@pytest.fixture(params=["disk", pytest.param("s3", marks=pytest.mark.slow)])
def out(request, tmp_path):
    if request.param == "disk":
        return str(tmp_path / "out")
    return f"{request.getfixturevalue('new_bucket')()}/out"


def repository(out):
    return versions._repository(folder_at(f"{out}/data/archive.icechunk"))


def messages(out):
    return [found.message for found in repository(out).ancestry(branch="main")][::-1]


def groups(out):
    store = repository(out).readonly_session("main").store
    return sorted(zarr.open_group(store, mode="r").group_keys())


def test_scenes_are_committed_in_batches_and_hold_what_a_zarr_holds(
    make_domain, make_pipe, tmp_path, out
):
    domain = make_domain(5, shape=(600, 700))
    found = run(make_pipe(), domain, out, sink=xgc.sinks.Icechunk(every=2))
    want = run(make_pipe(), domain, tmp_path / "zarr", sink="zarr")
    assert messages(out)[2:] == ["2: s0, s1", "2: s2, s3", "1: s4"]
    assert groups(out) == ["s0", "s1", "s2", "s3", "s4"]
    assert found.scene.values.tolist() == want.scene.values.tolist()
    here, there = found.geocat.domain(), want.geocat.domain()
    for one, other in zip(here.slices(), there.slices(), strict=True):
        xr.testing.assert_identical(here.load(one).compute(), there.load(other).compute())


def test_older_versions_can_still_be_read(make_domain, make_pipe, out):
    run(make_pipe(), make_domain(3), out, sink=xgc.sinks.Icechunk(every=1))
    second = list(repository(out).ancestry(branch="main"))[1]
    store = repository(out).readonly_session(snapshot_id=second.id).store
    assert sorted(zarr.open_group(store, mode="r").group_keys()) == ["s0", "s1"]


def test_a_run_that_stops_keeps_what_was_written_and_goes_on(make_domain, make_pipe, out):
    domain, calls, broken = make_domain(5), [], [True]

    def model(batch):
        calls.append(len(batch))
        if broken and sum(calls) > 40:
            raise KeyboardInterrupt
        return ndvi(batch)

    with pytest.raises(KeyboardInterrupt):
        run(make_pipe(model), domain, out, sink=xgc.sinks.Icechunk(every=4))
    kept = groups(out)
    assert 0 < len(kept) < 5
    broken.clear()
    calls.clear()
    found = run(make_pipe(model), domain, out, sink=xgc.sinks.Icechunk(every=4))
    assert found.sizes["scene"] == 5
    # 70 x 90 px in patches of 32 px with 8 px overlap.
    assert sum(calls) == (5 - len(kept)) * 3 * 4


def test_what_was_committed_but_not_recorded_is_done_again(
    make_domain, make_pipe, out, monkeypatch
):

    def dies(*args):
        raise KeyboardInterrupt

    domain = make_domain(2)
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "finish", dies)
        with pytest.raises(KeyboardInterrupt):
            run(make_pipe(), domain, out, sink="icechunk")
    assert groups(out) == ["s0", "s1"]
    assert run(make_pipe(), domain, out, sink="icechunk").sizes["scene"] == 2


def test_a_scene_that_fails_is_not_committed(make_archive, make_pipe, out):
    items = make_archive(3)
    Path(items[1]["assets"]["red"]["href"]).unlink()
    with pytest.warns(RunFailuresWarning):
        found = run(make_pipe(), xgc.from_items(items).geocat.domain(), out, sink="icechunk")
    assert found.scene.values.tolist() == ["s0", "s2"]
    assert xgc.failures(out).scene.values.tolist() == ["s1"]
    values = found.geocat.domain().load(next(found.geocat.domain().slices()))["prediction"].values
    assert np.isfinite(values).any()
