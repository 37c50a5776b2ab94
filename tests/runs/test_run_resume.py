"""A run goes on where it stopped, and two runs are never mixed."""

import shutil
from pathlib import Path

import numpy as np
import odc.geo.xr
import pytest
import xarray as xr

import xgeocat as xgc
from tests.domain import scenes
from tests.runs.archive import GRID, contextual, ndvi, run
from xgeocat.runs.ledger import RunMismatchError
from xgeocat.runs.run import RunFailuresWarning


def pipes(make_pipe, **changes):
    return make_pipe(**{"overlap": 8, "window": "hann", "name": "ndvi v1", "size": 32, **changes})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "ndvi v2"}, ["model", "ndvi v1", "ndvi v2"]),
        ({"size": 40}, ["size", "32", "40"]),
        ({"overlap": 16}, ["overlap", "8", "16"]),
        ({"window": "boxcar"}, ["window", "hann", "boxcar"]),
        ({"fill": -1.0}, ["fill", "-1.0"]),
        ({"skip_empty": True}, ["skip_empty", "False", "True"]),
        ({"stitch": {"crop": 2}}, ["crop", "0", "2"]),
        ({"stitch": {"fill": 5.0}}, ["fill", "5.0"]),
    ],
)
def test_a_changed_pipeline_is_refused_by_name(
    make_domain, make_pipe, tmp_path, tree, changes, words
):
    domain = make_domain(2)
    run(pipes(make_pipe), domain, tmp_path / "out")
    before = tree(tmp_path / "out")
    with pytest.raises(RunMismatchError) as error:
        run(pipes(make_pipe, **changes), domain, tmp_path / "out")
    for word in words:
        assert word in str(error.value)
    assert tree(tmp_path / "out") == before


@pytest.mark.parametrize(
    ("options", "output"),
    [({"sink": "zarr"}, "s1.zarr"), ({"sink": "cog"}, "s1"), ({"part": 512}, "s1.zarr")],
)
def test_outputs_that_somebody_removed_are_done_again(
    make_domain, make_pipe, tmp_path, tree, caplog, options, output
):
    domain = make_domain(3, shape=(520, 90))
    run(make_pipe(), domain, tmp_path / "out", **options)
    before = tree(tmp_path / "out")
    shutil.rmtree(tmp_path / "out" / "data" / output)
    assert run(make_pipe(), domain, tmp_path / "out", dry_run=True, **options).finished == 2
    run(make_pipe(), domain, tmp_path / "out", **options)
    assert "done again, as it is gone: ['s1'] (1 in all)" in caplog.text
    assert tree(tmp_path / "out") == before
    caplog.clear()
    run(make_pipe(), domain, tmp_path / "out", **options)
    assert "gone" not in caplog.text


def test_an_output_that_is_gone_and_cannot_be_made_again_is_a_failure(
    make_domain, make_pipe, tmp_path
):
    domain = make_domain(2)
    run(make_pipe(), domain, tmp_path / "out")
    shutil.rmtree(tmp_path / "out" / "data" / "s1.zarr")
    for href in domain.catalog["href"].values[1]:
        Path(href).unlink()
    with pytest.warns(RunFailuresWarning, match="1 of 2"):
        found = run(make_pipe(), domain, tmp_path / "out")
    assert found.scene.values.tolist() == ["s0"]
    assert xgc.failures(tmp_path / "out").scene.values.tolist() == ["s1"]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda ds: ds.isel(scene=[0, 1]), "slices"),
        (lambda ds: ds.isel(scene=[1, 0, 2]), "slices"),
        (
            lambda ds: ds.assign(href=ds.href.where(ds.asset != "red", ds.href.sel(asset="nir"))),
            "assets",
        ),
        (lambda ds: ds.assign(nodata=ds.nodata.fillna(5)), "assets"),
        (lambda ds: ds.assign(scale=ds["scale"].fillna(5)), "assets"),
    ],
    ids=["a row fewer", "another order", "another href", "another nodata", "another scale"],
)
def test_a_changed_catalog_is_refused(make_archive, make_pipe, tmp_path, tree, change, word):
    catalog = xgc.from_items(make_archive(3))
    run(make_pipe(), catalog.geocat.domain(), tmp_path / "out")
    before = tree(tmp_path / "out")
    with pytest.raises(RunMismatchError, match=word):
        run(make_pipe(), change(catalog).geocat.domain(), tmp_path / "out")
    assert tree(tmp_path / "out") == before


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"resolution": 20}, "slices"),
        ({"crs": "EPSG:3857"}, "slices"),
        ({"bands": ["nir", "red"]}, "bands"),
        ({"mask_and_scale": True}, "mask_and_scale"),
        ({"resampling": "bilinear"}, "resampling"),
    ],
)
def test_changed_options_of_the_domain_are_refused(
    make_archive, make_pipe, tmp_path, options, word
):
    catalog = xgc.from_items(make_archive(2))
    run(make_pipe(), catalog.geocat.domain(), tmp_path / "out")
    with pytest.raises(RunMismatchError, match=word):
        run(make_pipe(), catalog.geocat.domain(**options), tmp_path / "out")


@pytest.mark.parametrize("options", [{"chunks": 64}, {"chunks": 1000}])
def test_what_changes_no_answer_is_not_refused(make_archive, make_pipe, tmp_path, options):
    catalog = xgc.from_items(make_archive(2))
    run(make_pipe(), catalog.geocat.domain(), tmp_path / "out")
    run(make_pipe(batch_size=3), catalog.geocat.domain(**options), tmp_path / "out")


def test_another_model_under_its_own_name_is_refused(make_domain, tmp_path):
    def piped(model):
        return xgc.Sequential([xgc.GridSampler(32), xgc.ApplyToChips(model), xgc.Stitch()])

    domain = make_domain(1)
    run(piped(ndvi), domain, tmp_path / "out")
    with pytest.raises(RunMismatchError, match="ndvi.*contextual"):
        run(piped(contextual), domain, tmp_path / "out")


def above(batch, threshold):
    return batch[:, 0] > threshold


def test_a_partial_with_other_arguments_is_another_model(make_domain, tmp_path):
    from functools import partial

    def piped(threshold):
        model = partial(above, threshold=threshold)
        return xgc.Sequential([xgc.GridSampler(32), xgc.ApplyToChips(model), xgc.Stitch()])

    domain = make_domain(1)
    run(piped(1000), domain, tmp_path / "out")
    with pytest.raises(RunMismatchError, match="1000.*2000"):
        run(piped(2000), domain, tmp_path / "out")


def test_another_raster_on_the_same_grid_is_not_taken_for_the_first(make_pipe, tmp_path):
    def domain(seed):
        grid = odc.geo.xr.xr_zeros(GRID, dtype="uint8")
        return xgc.RasterDomain(xr.Dataset(
            {name: (("y", "x"), scenes.pixels(seed=seed + k), {"nodata": 0}) for k, name in enumerate(("red", "nir"))},
            coords=grid.coords,
        ))  # fmt: skip

    run(make_pipe(), domain(1), tmp_path / "out")
    with pytest.raises(RunMismatchError):
        run(make_pipe(), domain(5), tmp_path / "out")


@pytest.mark.parametrize("content", ["file", "folder", "hidden", "foreign run.json"])
def test_a_folder_with_something_else_is_refused_and_untouched(
    make_domain, make_pipe, tmp_path, tree, content
):
    root = tmp_path / "out"
    root.mkdir()
    if content == "file":
        (root / "thesis.tex").write_text("all of it")
    elif content == "folder":
        (root / "items").mkdir()
        (root / "items" / "mine.json").write_text("{}")
    elif content == "hidden":
        (root / ".keep").write_text("")
    else:
        (root / "run.json").write_text("not even JSON")
    before = tree(root)
    with pytest.raises(RunMismatchError, match="out"):
        run(make_pipe(), make_domain(1), root)
    assert tree(root) == before


def test_whole_numbers_of_numpy_are_numbers(make_domain, tmp_path):
    def piped(kind):
        return xgc.Sequential(
            [xgc.GridSampler(kind(32), overlap=kind(8)), xgc.ApplyToChips(ndvi), xgc.Stitch(crop=0)]
        )

    domain = make_domain(1)
    run(piped(int), domain, tmp_path / "out")
    run(piped(np.int64), domain, tmp_path / "out")


def test_sizes_per_dimension_and_windows_with_a_parameter_are_described(make_domain, tmp_path):
    def piped(taper):
        return xgc.Sequential([
            xgc.GridSampler({"y": 32, "x": 40}, overlap={"y": 8, "x": 4}), xgc.ApplyToChips(ndvi),
            xgc.Stitch(("tukey", taper), crop={"y": 2, "x": 0}),
        ])  # fmt: skip

    domain = make_domain(1)
    run(piped(0.5), domain, tmp_path / "out")
    run(piped(0.5), domain, tmp_path / "out")
    with pytest.raises(RunMismatchError, match=r"window.*0\.25"):
        run(piped(0.25), domain, tmp_path / "out")


def test_two_slices_of_one_name_are_refused_before_anything_runs(make_pipe, tmp_path):
    class Twice(xgc.RasterDomain):
        def slices(self):
            yield from [xgc.GeoSlice(geobox=self.geobox, scenes=["a"])] * 2

    raster = odc.geo.xr.xr_zeros(GRID, dtype="uint8")
    with pytest.raises(ValueError, match="repeated.*'a'"):
        run(make_pipe(), Twice(raster), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_finished_run_run_again_does_nothing(make_domain, make_pipe, tmp_path):
    calls = []

    def model(batch):
        calls.append(len(batch))
        return ndvi(batch)

    domain = make_domain(3)
    run(make_pipe(model), domain, tmp_path / "out")
    root = tmp_path / "out"
    before = {
        p: p.stat().st_mtime_ns
        for p in root.rglob("*")
        if p.is_file() and p.name != "catalog.parquet"
    }
    assert sum(calls) > 0
    calls.clear()
    out = run(make_pipe(model), domain, tmp_path / "out")
    assert calls == []
    assert out.scene.values.tolist() == ["s0", "s1", "s2"]
    assert all(p.stat().st_mtime_ns == at for p, at in before.items())


def test_two_runs_of_the_same_thing_are_the_same_bytes(make_domain, make_pipe, tmp_path, tree):
    domain = make_domain(3, shape=(600, 700))
    run(make_pipe(size=64), domain, tmp_path / "one")
    run(make_pipe(size=64, batch_size=5), domain, tmp_path / "other")
    assert tree(tmp_path / "one") == tree(tmp_path / "other")


def test_each_patch_of_a_run_meets_the_model_once(make_domain, make_pipe, tmp_path):
    seen = []

    def model(batch):
        seen.append(len(batch))
        return ndvi(batch)

    run(make_pipe(model, size=32, overlap=8), make_domain(2), tmp_path / "out")
    rows, columns = (len(scenes.starts(n, 32, 24)) for n in (70, 90))
    assert sum(seen) in (2 * rows * columns, 2 * rows * columns + 2)  # asked once about its answers


def test_progress_can_be_shown(make_domain, make_pipe, tmp_path, capsys):
    xgc.run(make_pipe(), make_domain(2), tmp_path / "out")
    assert "unit" in capsys.readouterr().err
    run(make_pipe(), make_domain(2), tmp_path / "quiet")
    assert capsys.readouterr().err == ""


def test_a_run_leaves_no_files_but_its_own(make_domain, make_pipe, tmp_path):
    run(make_pipe(), make_domain(2), tmp_path / "out")
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert names == {
        ".lock", "run.json", "items", "data", "catalog.parquet", "collection.json"
    }  # fmt: skip
    assert not list((tmp_path / "out").rglob("*.tmp"))
