"""Failures are data: a scene that fails is retried, recorded, returned, and stops no other."""

import errno
import os
import re
import shutil
import warnings
from pathlib import Path

import pytest
import xarray as xr

import xgeocat as xgc
from tests.domain import scenes
from tests.runs.archive import GRID, ndvi, run
from xgeocat.runs.errors import UnitError
from xgeocat.runs.run import RunFailuresWarning


def broken(items, i, how):
    """Break one scene of an archive; return what mends it."""
    path = Path(items[i]["assets"]["red"]["href"])
    whole = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "truncated":
        path.write_bytes(whole[: len(whole) // 2])
    elif how == "garbage":
        path.write_bytes(b"this is no TIFF" * 100)
    return lambda: path.write_bytes(whole)


@pytest.mark.parametrize("how", ["missing", "truncated", "garbage"])
def test_a_scene_that_cannot_be_read_fails_alone_and_is_done_once_mended(
    make_archive, make_pipe, tmp_path, tree, how
):
    items = make_archive(4, shape=(200, 300))
    domain = xgc.from_items(items).geocat.domain()
    run(make_pipe(), domain, tmp_path / "undisturbed")
    mend = broken(items, 2, how)
    with pytest.warns(RunFailuresWarning, match="1 of 4"):
        out = run(make_pipe(), domain, tmp_path / "out", retries=1)
    assert out.scene.values.tolist() == ["s0", "s1", "s3"]
    failed = xgc.failures(tmp_path / "out")
    assert failed.scene.values.tolist() == ["s2"]
    # What is not there now will not be there in a second.
    assert failed["failure:tries"].item() == (1 if how == "missing" else 2)
    assert "Error" in failed["failure:error"].item()
    assert failed["failure:message"].item()
    assert failed.geocat.query(GRID[:3, :3], time="2024-06-03").sizes["scene"] == 1
    assert not (tmp_path / "out" / "data" / "s2.zarr").exists()

    mend()
    out = run(make_pipe(), domain, tmp_path / "out")
    assert out.scene.values.tolist() == ["s0", "s1", "s2", "s3"]
    assert xgc.failures(tmp_path / "out").sizes["scene"] == 0
    assert tree(tmp_path / "out") == tree(tmp_path / "undisturbed")


@pytest.mark.parametrize("how", ["missing", "truncated", "garbage"])
@pytest.mark.parametrize("what", ["step", "file"])
def test_the_record_of_a_file_that_cannot_be_read_says_load_and_which(
    make_archive, make_pipe, tmp_path, how, what
):
    """Pixels are read while the field streams to disk; that is no failure to write."""
    items = make_archive(1, shape=(200, 300))
    domain = xgc.from_items(items).geocat.domain()
    broken(items, 0, how)
    with pytest.warns(RunFailuresWarning):
        run(make_pipe(), domain, tmp_path / "out", retries=0)
    failed = xgc.failures(tmp_path / "out")
    if what == "step":
        assert failed["failure:step"].item() == "load"
    else:
        assert "red.tif" in failed["failure:message"].item()


def test_the_record_of_a_model_that_fails_says_pipeline(marked, make_pipe, tmp_path):
    pipe = make_pipe(Fails(ValueError("shape of things"), 9999, 10**6), overlap=0)
    with pytest.warns(RunFailuresWarning):
        run(pipe, marked, tmp_path / "out")
    assert xgc.failures(tmp_path / "out")["failure:step"].item() == "pipeline"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_disk_that_is_full_ends_the_run_which_goes_on_once_there_is_room(
    make_domain, make_pipe, tmp_path, tree, monkeypatch, number
):
    from zarr.storage import LocalStore

    domain, real = make_domain(3), LocalStore.set_sync
    run(make_pipe(), domain, tmp_path / "undisturbed")

    def full(self, key, value):
        if "s1.zarr" in str(self.root) and "/c/" in key:
            raise OSError(number, os.strerror(number))
        real(self, key, value)

    monkeypatch.setattr(LocalStore, "set_sync", full)
    with pytest.raises(OSError, match=os.strerror(number)) as error:
        run(make_pipe(), domain, tmp_path / "out")
    assert any("The same call goes on" in note for note in error.value.__notes__)
    assert not (tmp_path / "out" / "failures").exists()
    monkeypatch.undo()
    run(make_pipe(), domain, tmp_path / "out")
    assert tree(tmp_path / "out") == tree(tmp_path / "undisturbed")


class Fails:
    """A model that fails `times` times on batches of one scene, then works."""

    def __init__(self, error, value, times):
        self.error, self.value, self.times, self.calls = error, value, times, 0

    def __call__(self, batch):
        # Each made scene is told by a number that only it has.
        if batch.size and (batch == self.value).any():
            self.calls += 1
            if self.calls <= self.times:
                raise self.error
        return ndvi(batch)


@pytest.fixture
def marked(make_archive):
    """Three scenes, of which the second alone holds the number 9999, in one patch."""
    items = make_archive(3)
    path = Path(items[1]["assets"]["red"]["href"])
    values = scenes.read(path)
    values[40, 40] = 9999
    scenes.write_cog(path, values)
    return xgc.from_items(items).geocat.domain()


def test_a_model_that_fails_fails_its_scene_alone(marked, make_pipe, tmp_path):
    pipe = make_pipe(Fails(ValueError("shape of things"), 9999, 10**6), overlap=0)
    with pytest.warns(RunFailuresWarning):
        out = run(pipe, marked, tmp_path / "out")
    assert out.scene.values.tolist() == ["s0", "s2"]
    failed = xgc.failures(tmp_path / "out")
    row = {
        name: failed[f"failure:{name}"].item()
        for name in ("step", "error", "tries", "message", "traceback")
    }
    assert failed.scene.item() == "s1"
    assert (row["error"], row["tries"], row["message"]) == ("ValueError", 1, "shape of things")
    assert "raise self.error" in row["traceback"]


@pytest.mark.parametrize(
    "error", [OSError("network"), ConnectionError("reset"), TimeoutError("slow")]
)
def test_an_error_that_passes_is_tried_again_and_leaves_no_trace(
    marked, make_pipe, tmp_path, tree, error
):
    run(make_pipe(ndvi, overlap=0), marked, tmp_path / "undisturbed")
    model = Fails(error, 9999, 2)
    out = run(make_pipe(model, overlap=0), marked, tmp_path / "out", retries=2)
    assert model.calls == 3
    assert out.scene.values.tolist() == ["s0", "s1", "s2"]
    assert xgc.failures(tmp_path / "out").sizes["scene"] == 0
    assert tree(tmp_path / "out") == tree(tmp_path / "undisturbed")


@pytest.mark.parametrize(("retries", "calls"), [(0, 1), (1, 2), (3, 4)])
def test_an_error_that_stays_is_tried_as_often_as_asked_for(
    marked, make_pipe, tmp_path, retries, calls
):
    model = Fails(OSError("network"), 9999, 10**6)
    with pytest.warns(RunFailuresWarning):
        run(make_pipe(model, overlap=0), marked, tmp_path / "out", retries=retries)
    assert model.calls == calls
    assert xgc.failures(tmp_path / "out")["failure:tries"].item() == calls


@pytest.mark.parametrize(
    "error", [ValueError("no"), TypeError("no"), KeyError("no"), ZeroDivisionError("no")]
)
def test_an_error_that_will_not_pass_is_not_tried_again(marked, make_pipe, tmp_path, error):
    model = Fails(error, 9999, 10**6)
    with pytest.warns(RunFailuresWarning):
        run(make_pipe(model, overlap=0), marked, tmp_path / "out", retries=5)
    assert model.calls == 1


def test_on_error_raise_ends_the_run_and_keeps_what_was_done(marked, make_pipe, tmp_path):
    model = Fails(ValueError("stop here"), 9999, 1)
    with pytest.raises(UnitError, match="s1 failed at pipeline.*ValueError: stop here"):
        run(make_pipe(model, overlap=0), marked, tmp_path / "out", on_error="raise")
    finished = {p.name for p in (tmp_path / "out" / "items").iterdir()}
    assert {"s0.json"} <= finished <= {"s0.json", "s2.json"}
    done = (tmp_path / "out" / "items" / "s0.json").stat().st_mtime_ns
    out = run(make_pipe(model, overlap=0), marked, tmp_path / "out", on_error="raise")
    assert out.scene.values.tolist() == ["s0", "s1", "s2"]
    assert (tmp_path / "out" / "items" / "s0.json").stat().st_mtime_ns == done


def test_an_unknown_on_error_is_refused_before_anything_runs(make_domain, make_pipe, tmp_path):
    with pytest.raises(ValueError, match="on_error"):
        run(make_pipe(), make_domain(1), tmp_path / "out", on_error="ignore")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("retries", [-1, -5, "2", 1.5])
def test_what_is_no_number_of_retries_is_refused(make_domain, make_pipe, tmp_path, retries):
    with pytest.raises(ValueError, match="retries"):
        run(make_pipe(), make_domain(1), tmp_path / "out", retries=retries)


def test_interruption_ends_the_run_and_can_be_resumed(marked, make_pipe, tmp_path, tree):
    run(make_pipe(ndvi, overlap=0), marked, tmp_path / "undisturbed")
    model = Fails(KeyboardInterrupt(), 9999, 1)
    with pytest.raises(KeyboardInterrupt):
        run(make_pipe(model, overlap=0), marked, tmp_path / "out")
    run(make_pipe(model, overlap=0), marked, tmp_path / "out")
    assert tree(tmp_path / "out") == tree(tmp_path / "undisturbed")


def test_a_band_that_one_scene_lacks_fails_that_scene_alone(make_archive, make_pipe, tmp_path):
    items = make_archive(3)
    del items[1]["assets"]["nir"]
    domain = xgc.from_items(items).geocat.domain(bands=["red", "nir"])
    with pytest.warns(RunFailuresWarning):
        out = run(make_pipe(), domain, tmp_path / "out")
    assert out.scene.values.tolist() == ["s0", "s2"]
    failed = xgc.failures(tmp_path / "out")
    assert (failed["failure:step"].item(), failed["failure:error"].item()) == ("load", "KeyError")
    assert "nir" in failed["failure:message"].item()


def test_an_answer_that_is_nowhere_fails_with_a_remedy(make_domain, tmp_path):
    def lost(cube):
        return xr.DataArray(cube["red"].values[0], dims=("y", "x"))

    with pytest.warns(RunFailuresWarning):
        run(lost, make_domain(1), tmp_path / "out")
    assert "spatial_ref" in xgc.failures(tmp_path / "out")["failure:message"].item()


@pytest.mark.parametrize(
    ("pipe", "message"),
    [
        (lambda cube: None, "returned NoneType, which is no field"),
        (lambda cube: cube["red"].values, "returned ndarray, which is no field"),
        (lambda cube: cube.drop_vars(["red", "nir"]), "returned no variables"),
        (lambda cube: cube["red"].astype(str), r"'prediction': '<U5'}, which are no numbers"),
        (xgc.Sequential([xgc.GridSampler(32)]), r"returned patches.*End it with Stitch\(\)"),
    ],
)
def test_a_pipeline_that_returns_no_field_fails_and_is_told_what_to_return(
    make_domain, tmp_path, pipe, message
):
    with pytest.warns(RunFailuresWarning):
        found = run(pipe, make_domain(1), tmp_path / "out")
    assert found.sizes["scene"] == 0
    failed = xgc.failures(tmp_path / "out")
    assert failed["failure:step"].item() == "pipeline"
    assert re.search(message, failed["failure:message"].item(), re.DOTALL)


def test_what_is_no_pipeline_or_no_domain_is_refused(make_domain, make_pipe, tmp_path):
    domain, pipe = make_domain(1), make_pipe()
    for given in (domain.catalog, pipe, None):
        with pytest.raises(TypeError, match=r"is no domain.*ds\.geocat\.domain"):
            run(pipe, given, tmp_path / "out")
    with pytest.raises(TypeError, match="str is no pipeline"):
        run("ndvi", domain, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# --- failures, run again --------------------------------------------------------------------------


@pytest.mark.parametrize("files", [False, True], ids=["items", "files"])
def test_the_catalog_of_failures_can_be_run_as_it_is(
    make_archive, make_pipe, tmp_path, tree, files
):
    items = make_archive(4)
    catalog = xgc.from_items(items)
    if files:
        red = [item["assets"]["red"]["href"] for item in items]
        paths = [shutil.copy(path, tmp_path / f"f{i}.tif") for i, path in enumerate(red)]
        catalog = xgc.from_files(paths, time="2024-06-01")
    names, bands = catalog.scene.values.tolist(), catalog.asset.values.tolist()

    def model(batch):
        return batch[:, 0].astype("float32")

    pipe = make_pipe(model, overlap=0, name="first band")
    run(pipe, catalog.geocat.domain(), tmp_path / "calm")
    for path in catalog["href"].values[[1, 3]].ravel():
        Path(path).rename(f"{path}.away")
    with pytest.warns(RunFailuresWarning, match="2 of 4"):
        run(pipe, catalog.geocat.domain(), tmp_path / "out")
    failed = xgc.failures(tmp_path / "out")
    assert failed.scene.values.tolist() == [names[1], names[3]]
    assert failed.asset.values.tolist() == bands
    for path in failed["href"].values.ravel():
        Path(f"{path}.away").rename(path)
    again = run(pipe, failed.geocat.domain(), tmp_path / "again")
    assert not [name for name in again.data_vars if str(name).startswith("failure")]
    calm = tree(tmp_path / "calm" / "data").items()
    wanted = {name: file for name, file in calm if name.partition(".zarr")[0] in names[1::2]}
    assert tree(tmp_path / "again" / "data") == wanted


def test_what_signs_a_url_is_not_in_the_record(make_archive, tmp_path):
    items = make_archive(1)
    for asset in items[0]["assets"].values():
        asset["href"] = f"https://127.0.0.1:1{asset['href']}?sig=geheim&se=2024"
        asset["alternate"] = {"s3": {"href": f"{asset['href']}&more=geheim"}}
    items[0]["links"] = [{"rel": "self", "href": "https://127.0.0.1:1/s0.json?sig=geheim"}]
    with pytest.warns(RunFailuresWarning):
        run(lambda cube: cube, xgc.from_items(items).geocat.domain(), tmp_path / "out", retries=0)
    (record,) = (tmp_path / "out" / "failures").iterdir()
    assert "geheim" not in record.read_text()
    hrefs = xgc.failures(tmp_path / "out")["href"].values.ravel().tolist()
    assert [href.rpartition("/")[2] for href in hrefs] == ["red.tif", "nir.tif"]


def test_a_day_that_fails_is_a_scene_without_files(make_domain, tmp_path):
    def broken_model(cube):
        raise ValueError("broken")

    domain = make_domain(2).catalog.geocat.domain(groupby="solar_day")
    with pytest.warns(RunFailuresWarning):
        run(broken_model, domain, tmp_path / "out")
    failed = xgc.failures(tmp_path / "out")
    assert failed.sizes["scene"] == 2
    assert failed.sizes["asset"] == 0


def test_failures_of_a_folder_without_a_run_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="no run"):
        xgc.failures(tmp_path / "nothing")


def test_every_scene_may_fail(make_archive, make_pipe, tmp_path):
    items = make_archive(2)
    domain = xgc.from_items(items).geocat.domain()
    for i in (0, 1):
        broken(items, i, "missing")
    with pytest.warns(RunFailuresWarning, match="2 of 2"):
        out = run(make_pipe(), domain, tmp_path / "out", retries=0)
    assert out.sizes["scene"] == 0
    assert xgc.failures(tmp_path / "out").sizes["scene"] == 2


@pytest.mark.parametrize("works", [True, False], ids=["model works", "model fails"])
def test_a_footprint_that_cannot_be_projected_ends_no_run(make_domain, make_pipe, tmp_path, works):
    """Neither describing an output nor recording a failure may take the other scenes along."""

    class Astray(xgc.CatalogDomain):
        def slices(self):
            for i, s in enumerate(super().slices()):
                footprint = scenes.shapely.box(1e30, 1e30, 2e30, 2e30) if i == 1 else s.footprint
                yield xgc.GeoSlice(geobox=s.geobox, interval=s.interval, scenes=s.scenes,
                                   footprint=footprint)  # fmt: skip

    def fails(batch):
        raise ValueError("broken")

    domain = Astray(make_domain(3).catalog)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RunFailuresWarning)
        out = run(make_pipe(ndvi if works else fails), domain, tmp_path / "out")
    failed = xgc.failures(tmp_path / "out")
    assert sorted([*out.scene.values, *failed.scene.values]) == ["s0", "s1", "s2"]
    if works:
        assert {"s0", "s2"} <= set(out.scene.values)
    else:
        assert failed.sizes["scene"] == 3
