"""Mosaic: what all scenes say of each cell, tile by tile, and nothing twice."""

import json
import os
import random
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import odc.geo.xr
import pytest
import rasterio.warp
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox
from zarr.storage import LocalStore

import xgeocat as xgc
from tests.domain import scenes
from tests.runs.archive import contextual, ndvi
from xgeocat.runs import tile as tile_module
from xgeocat.runs.ledger import RunMismatchError
from xgeocat.runs.run import RunFailuresWarning

pytestmark = pytest.mark.filterwarnings("error::xgeocat.runs.run.RunFailuresWarning")

UTM = "EPSG:32610"
SHAPE = (300, 400)
GRID = GeoBox((600, 1100), scenes.GRID, UTM)
#: Where scenes begin, in pixels of the grid: over its edges, over one another, on four tiles.
CORNERS = [(-100, -50), (100, 200), (250, 300), (150, 780), (100, 200)]


@pytest.fixture
def make_items(tmp_path):
    """Factory of overlapping scenes, two in each month."""

    def make(n=5, corners=CORNERS, shape=SHAPE, crs=UTM, transform=scenes.GRID):
        made = []
        for i, (row, column) in enumerate(corners[:n]):
            files = {
                band: scenes.write_cog(
                    tmp_path / "archive" / f"{i}" / f"{band}.tif",
                    scenes.pixels(shape, seed=10 * i + k), crs=crs,
                    transform=transform * Affine.translation(column, row),
                )
                for k, band in enumerate(("red", "nir"))
            }  # fmt: skip
            when = f"2024-{6 + i // 2:02d}-{10 + i:02d}T18:00:00Z"
            assets = {band: scenes.asset(path) for band, path in files.items()}
            made.append(scenes.item(f"s{i}", assets, when=when, properties={"cloud": 50 - 7 * i}))
        return made

    return make


def domain_of(items, **options):
    return xgc.from_items(items).geocat.domain(bands=["red", "nir"], **options)


def mosaic(pipe, domain, out, grid=GRID, tile=512, **options):
    return xgc.mosaic(pipe, domain, grid, out, tile=tile, progress=False, **options)


def stacked(pipe, domain, names=None):
    """Predictions of each scene on the whole grid, put where their coordinates say."""
    empty = odc.geo.xr.xr_zeros(GRID, dtype="float64") * np.nan
    found = []
    for piece in domain.slices():
        if names is None or piece.name in names:
            field = pipe(domain.load(piece)).compute()
            found.append(field.astype("float64").reindex_like(empty, method="nearest", tolerance=1))
    return np.stack([field.values for field in found])


REDUCE = {
    "mean": lambda stack: np.nanmean(stack, axis=0),
    "std": lambda stack: np.nanstd(stack, axis=0),
    "sum": lambda stack: np.where(np.isnan(stack).all(axis=0), np.nan, np.nansum(stack, axis=0)),
    "min": lambda stack: np.nanmin(stack, axis=0),
    "max": lambda stack: np.nanmax(stack, axis=0),
    "count": lambda stack: (~np.isnan(stack)).sum(axis=0),
    "first": lambda stack: np.take_along_axis(
        stack, (~np.isnan(stack)).argmax(axis=0)[None], axis=0
    )[0],
}


@pytest.mark.filterwarnings("ignore:All-NaN slice", "ignore:Mean of empty", "ignore:Degrees of")
@pytest.mark.parametrize("chunks", [pytest.param(2048, marks=pytest.mark.slow), 128])
def test_cells_hold_what_numpy_makes_of_all_scenes(make_items, make_pipe, tmp_path, chunks):
    pipe, domain = make_pipe(contextual), domain_of(make_items(), chunks=chunks)
    found = mosaic(pipe, domain, tmp_path / "out", reduce=list(REDUCE))
    assert found.odc.geobox == GRID
    stack = stacked(pipe, domain)
    assert (~np.isnan(stack)).any(axis=(1, 2)).all(), "a scene without a cell tests nothing"
    for name, oracle in REDUCE.items():
        values = found[f"prediction_{name}"].values
        np.testing.assert_allclose(values, oracle(stack), rtol=2e-6, atol=1e-6, err_msg=name)


def test_tiles_leave_no_seam(make_items, make_pipe, tmp_path):
    """The model sees the patches of the whole scene, wherever tiles end."""
    pipe, domain = make_pipe(contextual), domain_of(make_items(1, corners=[(50, 150)], shape=(500, 900)))  # fmt: skip
    fine = mosaic(pipe, domain, tmp_path / "fine", reduce="first")
    whole = pipe(domain.load(next(domain.slices()))).compute()
    part = fine["prediction"].values[50:550, 150:1050]
    np.testing.assert_array_equal(part, whole.values)


def test_steps_of_time_hold_the_scenes_that_begin_in_them(make_items, make_pipe, tmp_path):
    domain = domain_of(make_items())
    found = mosaic(make_pipe(), domain, tmp_path / "out", reduce="count", time="1MS")
    assert found.time.values.astype("datetime64[D]").astype(str).tolist() == [
        "2024-06-01", "2024-07-01", "2024-08-01"]  # fmt: skip
    for step, names in enumerate((["s0", "s1"], ["s2", "s3"], ["s4"])):
        stack = stacked(make_pipe(), domain, names)
        np.testing.assert_array_equal(found["prediction"].values[step], REDUCE["count"](stack))


@pytest.mark.parametrize(
    ("reducers", "order"),
    [(["mean", "count", "std"], [3, 0, 4, 1, 2]),
     pytest.param(["first"], [4, 3, 2, 1, 0], marks=pytest.mark.slow),
     pytest.param(["first", "min", "max", "sum"], [3, 0, 4, 1, 2], marks=pytest.mark.slow)],
)  # fmt: skip
def test_scenes_that_come_later_end_in_what_all_at_once_do(
    make_items, make_pipe, tmp_path, reducers, order
):
    items, pipe = make_items(), make_pipe()
    options = {"reduce": reducers, "precedence": "cloud"}
    want = mosaic(pipe, domain_of(items), tmp_path / "all", **options)
    for n in (1, 2, 4, 5):
        found = mosaic(pipe, domain_of([items[i] for i in order[:n]]), tmp_path / "out", **options)
    xr.testing.assert_allclose(found.compute(), want.compute(), rtol=1e-6, atol=1e-7)


@pytest.mark.slow
def test_only_new_scenes_alone_can_be_given(make_items, make_pipe, tmp_path):
    items, pipe = make_items(), make_pipe()
    want = mosaic(pipe, domain_of(items), tmp_path / "all", reduce="mean", time="1MS")
    for part in (items[:2], items[2:4], items[4:]):
        found = mosaic(pipe, domain_of(part), tmp_path / "out", reduce="mean", time="1MS")
    xr.testing.assert_allclose(found.compute(), want.compute(), rtol=1e-6)


def test_a_later_scene_touches_only_the_tiles_it_meets(make_items, make_pipe, tmp_path):
    items, pipe = make_items(), make_pipe()
    out = tmp_path / "out"
    mosaic(pipe, domain_of(items[:3]), out)
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()}
    mosaic(pipe, domain_of(items[:4]), out)
    touched = {p.parent.name + "/" + p.name for p, t in before.items()
               if "mosaic.zarr" in p.parts and "prediction" in p.parts and p.stat().st_mtime_ns != t}  # fmt: skip
    # The fourth begins at column 780 and is 400 wide: second and third column of tiles.
    assert touched == {"0/1"}
    chunks = {p.parent.name + "/" + p.name for p in (out / "mosaic.zarr" / "prediction" / "c").rglob("*") if p.is_file()}  # fmt: skip
    assert {"0/2", "0/1", "0/0"} <= chunks


def test_called_again_nothing_is_done(make_items, make_pipe, tmp_path, tree):
    calls = []

    def model(batch):
        calls.append(len(batch))
        return ndvi(batch)

    mosaic(make_pipe(model), domain_of(make_items()), tmp_path / "out")
    before, _ = tree(tmp_path / "out"), calls.clear()
    mosaic(make_pipe(model), domain_of(make_items()), tmp_path / "out")
    # But for the empty batch that says what the model answers.
    assert sum(calls) == 0
    assert tree(tmp_path / "out") == before


@pytest.mark.parametrize("crs", ["EPSG:32611", "EPSG:4326"])
def test_scenes_on_other_pixels_are_resampled_as_gdal_does(make_items, make_pipe, tmp_path, crs):
    pipe, domain = make_pipe(), domain_of(make_items(1, corners=[(0, 0)]))
    source = pipe(domain.load(next(domain.slices()))).compute()
    grid = GeoBox.from_bbox(
        source.odc.geobox.extent.to_crs(crs).boundingbox.buffered(0), crs, shape=(700, 800)
    )
    found = mosaic(pipe, domain, tmp_path / "out", grid=grid)["prediction"].values
    want = np.full(grid.shape, np.nan, "float32")
    rasterio.warp.reproject(
        source.values, want, src_transform=source.odc.transform, src_crs=UTM, src_nodata=np.nan,
        dst_transform=grid.transform, dst_crs=crs, dst_nodata=np.nan, tolerance=0,
    )  # fmt: skip
    same = (found == want) | (np.isnan(found) & np.isnan(want))
    # Nearest: which of two pixels that are as near is a matter of how exactly a place is known.
    assert same.mean() > 0.97
    assert np.isfinite(want).mean() > 0.5


KINDS = {
    "bool": (lambda batch: batch[:, 0] > batch[:, 1], 255),
    "uint8": (lambda batch: (batch[:, 0] % 5).astype("uint8"), 255),
    "int16": (lambda batch: (batch[:, 0] % 5 - 2).astype("int16"), -32768),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "other",
    [pytest.param(False, marks=pytest.mark.slow), True],
    ids=["same pixels", "other pixels"],
)
def test_labels_win_by_votes_and_cells_without_any_hold_nodata(
    make_items, make_pipe, tmp_path, kind, other
):
    model, nodata = KINDS[kind]
    pipe, domain = make_pipe(model, overlap=0, window="boxcar"), domain_of(make_items())
    grid = GeoBox((600, 1100), scenes.GRID * Affine.translation(0.5, 0.5), UTM) if other else GRID
    found = mosaic(pipe, domain, tmp_path / "out", grid=grid, reduce=["vote", "count"])
    votes, count = found["prediction_vote"], found["prediction_count"].values
    assert votes.attrs["nodata"] == nodata
    assert votes.dtype == ("uint8" if kind == "bool" else kind)
    np.testing.assert_array_equal(votes.values == nodata, count == 0)
    assert (count == 0).any()
    if not other:
        stack = stacked(pipe, domain)
        labels = np.unique(stack[~np.isnan(stack)])
        want = labels[(stack[None] == labels[:, None, None, None]).sum(axis=1).argmax(axis=0)]
        np.testing.assert_array_equal(votes.values[count > 0], want[count > 0])


@pytest.mark.parametrize("kind", KINDS)
def test_means_of_integers_are_floats_and_nan_where_no_scene_is(
    make_items, make_pipe, tmp_path, kind
):
    pipe, domain = make_pipe(KINDS[kind][0], overlap=0, window="boxcar"), domain_of(make_items())
    found = mosaic(pipe, domain, tmp_path / "out", reduce=["mean", "sum", "std", "max"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        stack = stacked(pipe, domain)
        for name in ("mean", "sum", "std"):
            values = found[f"prediction_{name}"]
            assert values.dtype.kind == "f"
            np.testing.assert_allclose(values.values, REDUCE[name](stack), rtol=1e-6, atol=1e-6)
        largest = REDUCE["max"](stack)
    extreme = np.where(np.isnan(largest), KINDS[kind][1], largest)
    np.testing.assert_array_equal(found["prediction_max"].values, extreme)


def test_several_bands_and_variables_keep_their_dims(make_items, tmp_path):
    def pipe(cube):
        cube = cube.isel(time=0, drop=True).astype("float32")
        both = cube.to_dataarray("band")
        return xr.Dataset({"both": both, "ratio": cube["red"] / (cube["nir"] + 1)})

    domain = domain_of(make_items())
    found = mosaic(pipe, domain, tmp_path / "out", reduce="max", time="1YS")
    assert found["both"].dims == ("time", "band", "y", "x")
    assert found["both"].band.values.tolist() == ["red", "nir"]
    alone = mosaic(lambda cube: pipe(cube)["both"].sel(band="nir", drop=True), domain,
                   tmp_path / "alone", reduce="max")  # fmt: skip
    np.testing.assert_array_equal(
        found["both"].sel(band="nir").isel(time=0).values, alone["prediction"].values
    )


# --- what goes wrong ------------------------------------------------------------------------------


def test_a_tile_that_fails_is_recorded_and_done_later(make_items, make_pipe, tmp_path):
    items, pipe = make_items(), make_pipe()
    path = Path(items[3]["assets"]["red"]["href"])
    pixels, domain = path.read_bytes(), domain_of(items)
    path.unlink()
    with pytest.warns(RunFailuresWarning, match="tiles failed"):
        mosaic(pipe, domain, tmp_path / "out")
    failed = xgc.failures(tmp_path / "out")
    assert set(failed.scene.values) == {"0_512", "0_1024"}
    assert set(failed["failure:step"].values) == {"load"}
    assert all("while scene s3 was added" in trace for trace in failed["failure:traceback"].values)
    path.write_bytes(pixels)
    found = mosaic(pipe, domain, tmp_path / "out")
    assert xgc.failures(tmp_path / "out").sizes["scene"] == 0
    xr.testing.assert_identical(found.compute(), mosaic(pipe, domain, tmp_path / "calm").compute())


def test_pixels_that_were_not_written_follow_whoever_calls_next(
    make_items, make_pipe, tmp_path, monkeypatch
):
    """Killed between the state and its pixels, a call with other scenes writes them too."""
    items, pipe = make_items(), make_pipe()

    def dies(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(tile_module, "write_region", dies)
    with pytest.raises(KeyboardInterrupt):
        mosaic(pipe, domain_of(items[:1]), tmp_path / "out")
    monkeypatch.undo()
    found = mosaic(pipe, domain_of(items[3:4]), tmp_path / "out")
    want = mosaic(pipe, domain_of([items[0], items[3]]), tmp_path / "calm")
    xr.testing.assert_identical(found.compute(), want.compute())


def test_a_scene_that_has_changed_is_refused(make_items, make_pipe, tmp_path, tree):
    mosaic(make_pipe(), domain_of(make_items()), tmp_path / "out")
    before = tree(tmp_path / "out")
    moved = domain_of(make_items(corners=[(-90, -50), *CORNERS[1:]]))
    with pytest.raises(RunMismatchError, match="Scene s0 has changed"):
        mosaic(make_pipe(), moved, tmp_path / "out")
    assert tree(tmp_path / "out") == before


@pytest.mark.parametrize(
    "options",
    [{"reduce": "max"}, {"tile": 1024}, {"time": "1MS"}, {"precedence": "cloud"},
     {"resampling": "bilinear"}, {"grid": GRID.pad(1)}],
)  # fmt: skip
def test_another_mosaic_is_refused(make_items, make_pipe, tmp_path, options):
    domain = domain_of(make_items(2))
    mosaic(make_pipe(), domain, tmp_path / "out")
    with pytest.raises(RunMismatchError, match="What changed"):
        mosaic(make_pipe(), domain, tmp_path / "out", **options)
    with pytest.raises(RunMismatchError):
        xgc.run(make_pipe(), domain, tmp_path / "out", progress=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reduce": "average"}, "reduce=.*average.* must be one or several of"),
        ({"reduce": []}, "must be one or several"),
        ({"reduce": ["mean", "mean"]}, "must be one or several"),
        ({"tile": 500}, "tile=500 is no multiple of 512"),
        ({"precedence": "eo:cloud"}, "no property 'eo:cloud'.*cloud"),
        ({"grid": GeoBox((5, 5), scenes.GRID, None)}, "no CRS"),
        ({"resampling": "bilinaer"}, "resampling='bilinaer' must be one of.*bilinear"),
    ],
)
def test_bad_options_are_refused_before_anything_is_written(
    make_items, make_pipe, tmp_path, options, message
):
    with pytest.raises(ValueError, match=message):
        mosaic(make_pipe(), domain_of(make_items(1)), tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_grid_that_is_none_is_refused(make_items, make_pipe, tmp_path):
    domain = domain_of(make_items(1))
    with pytest.raises(TypeError, match=r"\(0, 0, 1, 1\) is no GeoBox.*from_bbox"):
        xgc.mosaic(make_pipe(), domain, (0, 0, 1, 1), tmp_path / "out")
    with pytest.raises(TypeError, match="Dataset is no domain"):
        xgc.mosaic(make_pipe(), domain.catalog, GeoBox((5, 5), scenes.GRID, UTM), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_grid_that_no_scene_meets_is_told(make_items, make_pipe, tmp_path):
    items = make_items(3)
    far = GeoBox((64, 64), Affine.translation(-3e5, 0) @ scenes.GRID, UTM)
    with pytest.warns(UserWarning, match="None of the 3 scenes meets the grid.*order of x and y"):
        found = mosaic(make_pipe(), domain_of(items), tmp_path / "out", grid=far)
    assert np.isnan(found["prediction"].values).all()


def test_a_scene_before_the_first_step_is_refused(make_items, make_pipe, tmp_path):
    items = make_items()
    mosaic(make_pipe(), domain_of(items[2:]), tmp_path / "out", time="1MS")
    with pytest.raises(ValueError, match=r"begins at 2024-07-01.*a scene at 2024-06-10"):
        mosaic(make_pipe(), domain_of(items), tmp_path / "out", time="1MS")


def test_no_scenes_make_an_empty_mosaic(make_items, make_pipe, tmp_path):
    domain = xgc.from_items(make_items(1)).isel(scene=[]).geocat.domain()
    assert not mosaic(make_pipe(), domain, tmp_path / "out").data_vars


def test_scenes_of_a_tile_that_failed_are_not_forgotten(make_items, make_pipe, tmp_path):
    """Later scenes alone end well, but the tile still lacks those that failed."""
    items, pipe = make_items(), make_pipe()
    path = Path(items[3]["assets"]["red"]["href"])
    pixels = path.read_bytes()
    path.unlink()
    with pytest.warns(RunFailuresWarning):
        mosaic(pipe, domain_of(items[:4]), tmp_path / "out")
    mosaic(pipe, domain_of(items[4:]), tmp_path / "out")
    assert "0_512" in xgc.failures(tmp_path / "out").scene.values
    path.write_bytes(pixels)
    found = mosaic(pipe, domain_of(items[:4]), tmp_path / "out")
    assert xgc.failures(tmp_path / "out").sizes["scene"] == 0
    want = mosaic(pipe, domain_of(items), tmp_path / "calm")
    xr.testing.assert_allclose(found.compute(), want.compute(), rtol=1e-6)


def test_a_scene_that_moved_in_time_is_refused(make_items, make_pipe, tmp_path):
    items = make_items(2)
    mosaic(make_pipe(), domain_of(items), tmp_path / "out", reduce="count", time="1MS")
    items[0]["properties"]["datetime"] = "2024-07-10T18:00:00Z"
    with pytest.raises(RunMismatchError, match="Scene s0 has changed"):
        mosaic(make_pipe(), domain_of(items), tmp_path / "out", reduce="count", time="1MS")


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float64"])
def test_answers_of_another_kind_are_not_mixed_in(make_items, make_pipe, tmp_path, dtype):
    kind = ["float32"]

    def model(batch):
        return (batch[:, 0] % 5).astype(kind[0])

    items, pipe = make_items(4), make_pipe(model, overlap=0)
    mosaic(pipe, domain_of(items[:2]), tmp_path / "out", reduce="max")
    kind[:] = [dtype]
    with pytest.raises(RunMismatchError, match="other answers are not mixed in"):
        mosaic(pipe, domain_of(items[2:]), tmp_path / "out", reduce="max")


@pytest.mark.parametrize("after", [1, *(pytest.param(n, marks=pytest.mark.slow) for n in (2, 3))])
def test_killed_while_its_axis_grows_the_mosaic_goes_on(
    make_items, make_pipe, tmp_path, monkeypatch, after
):
    items, pipe = make_items(), make_pipe()
    mosaic(pipe, domain_of(items[:2]), tmp_path / "out", time="1MS")
    written, real = [], LocalStore.set_sync

    def dies(self, key, value):
        if str(self.root).endswith("mosaic.zarr"):
            written.append(key)
            if len(written) > after:
                raise KeyboardInterrupt
        real(self, key, value)

    monkeypatch.setattr(LocalStore, "set_sync", dies)
    with pytest.raises(KeyboardInterrupt):
        mosaic(pipe, domain_of(items), tmp_path / "out", time="1MS")
    monkeypatch.undo()
    found = mosaic(pipe, domain_of(items), tmp_path / "out", time="1MS")
    want = mosaic(pipe, domain_of(items), tmp_path / "calm", time="1MS")
    xr.testing.assert_allclose(found.compute(), want.compute(), rtol=1e-6)


def test_nan_as_nodata_is_like_none(make_items, make_pipe, tmp_path):
    pipe, domain = make_pipe(), domain_of(make_items(2))
    want = mosaic(pipe, domain, tmp_path / "plain")
    said = mosaic(
        lambda cube: pipe(cube).assign_attrs(nodata=float("nan")), domain, tmp_path / "said"
    )
    xr.testing.assert_equal(said.compute(), want.compute())


def test_one_time_is_no_time_axis(make_items, tmp_path):
    found = mosaic(lambda cube: cube[["red"]].astype("float32"), domain_of(make_items(2)),
                   tmp_path / "out")  # fmt: skip
    assert found["red"].dims == ("y", "x")
    assert "time" not in found.coords


def test_a_call_that_is_refused_claims_no_folder(make_items, make_pipe, tmp_path):
    items = make_items(2)
    domain = domain_of(items)
    without = [xgc.GeoSlice(geobox=s.geobox, scenes=s.scenes) for s in domain.slices()]
    domain.slices = lambda: iter(without)
    with pytest.raises(ValueError, match="no time"):
        mosaic(make_pipe(), domain, tmp_path / "out", time="1MS")
    assert not (tmp_path / "out").exists()
    mosaic(make_pipe(), domain, tmp_path / "out")


def test_another_worker_on_the_same_tile_is_noticed(make_items, make_pipe, tmp_path, monkeypatch):
    """One that was given up comes back, while the tile goes on elsewhere."""
    items, pipe, real = make_items(), make_pipe(), tile_module.TileJob._commit
    mosaic(pipe, domain_of(items[:1]), tmp_path / "out")
    other = [True]

    def commit(self, unit, *args):
        if other:
            other.clear()
            self._once(unit)
        return real(self, unit, *args)

    monkeypatch.setattr(tile_module.TileJob, "_commit", commit)
    found = mosaic(pipe, domain_of(items), tmp_path / "out")
    want = mosaic(pipe, domain_of(items), tmp_path / "calm")
    xr.testing.assert_allclose(found.compute(), want.compute(), rtol=1e-6)


@pytest.mark.parametrize("west", [179.6, -180.0, 178.6])
def test_a_scene_across_the_antimeridian_reaches_both_sides(tmp_path, west):
    source = GeoBox((600, 2000), Affine(100, 0, 650000, 0, -100, 5000000), "EPSG:32660")
    values = np.arange(600.0)[:, None] + np.arange(2000.0) / 1e4
    field = xr.Dataset({"v": odc.geo.xr.wrap_xr(values.astype("float32"), source)})
    grid = GeoBox.from_bbox((west, 44.7, west + 0.4, 45.1), "EPSG:4326", resolution=0.001)
    domain = xgc.RasterDomain(field.chunk(512))
    found = mosaic(lambda cube: cube, domain, tmp_path / "out", grid=grid)["v"].values
    want = np.full(grid.shape, np.nan, "float32")
    rasterio.warp.reproject(
        field["v"].values, want, src_transform=source.transform, src_crs="EPSG:32660",
        src_nodata=np.nan, dst_transform=grid.transform, dst_crs="EPSG:4326", dst_nodata=np.nan,
    )  # fmt: skip
    assert np.isfinite(want).mean() > 0.2
    assert np.isfinite(found).mean() > 0.99 * np.isfinite(want).mean()
    both = np.isfinite(found) & np.isfinite(want)
    assert np.abs(found[both] - want[both]).max() < 2


# --- elsewhere ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_mosaic_in_an_object_store_is_the_same(make_items, make_pipe, tmp_path, new_bucket):
    items, out = make_items(), f"{new_bucket()}/mosaic"
    for n in (3, 5):
        found = mosaic(make_pipe(), domain_of(items[:n]), out, reduce=["mean", "std"], time="1MS")
        want = mosaic(
            make_pipe(), domain_of(items[:n]), tmp_path / "disk", reduce=["mean", "std"], time="1MS"
        )
    xr.testing.assert_identical(found.compute(), want.compute())


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_killed_again_and_again_the_mosaic_is_the_same(make_items, tmp_path, tree, job_environment):
    items = tmp_path / "items.json"
    items.write_text(json.dumps({"type": "FeatureCollection", "features": make_items()}))
    moments = random.Random(3)

    def go(out, seconds=None):
        child = subprocess.Popen(
            [sys.executable, "-W", "ignore", str(Path(__file__).with_name("job.py")), "mosaic",
             str(items), str(tmp_path / out)],
            env={**os.environ, **job_environment},
        )  # fmt: skip
        try:
            return child.wait(seconds)
        except subprocess.TimeoutExpired:
            child.kill()
            return child.wait()

    start = time.monotonic()
    assert go("calm") == 0
    length = time.monotonic() - start
    kills = 0
    while go("out", moments.uniform(0.4, 0.9) * length) != 0:
        kills += 1
        assert kills < 30
    assert kills
    assert tree(tmp_path / "out") == tree(tmp_path / "calm")
