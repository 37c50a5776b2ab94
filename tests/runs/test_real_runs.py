"""Runs over real scenes, against rasterio and numpy on the same files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio

import xgeocat as xgc
from tests.runs.archive import run
from xgeocat.runs.run import RunFailuresWarning

SINKS = ("zarr", "cog")
THRESHOLD = 1500


def bright(batch):
    """(batch, red, y, x) to 0/1 above a threshold, 255 beyond the swath (0)."""
    red = batch[:, 0]
    return np.where(red == 0, 255, red > THRESHOLD).astype("uint8")


@pytest.fixture(scope="module")
def sentinel(shared_data):
    """Items of six real scenes; two neighbouring tiles on three days."""
    return shared_data / "s2_33TW"


@pytest.fixture(scope="module")
def files(sentinel):
    """File of the red band of each scene, in the order of the catalog."""
    found = sorted(sentinel.glob("sentinel-2-l2a/*/*_L2A.json"))
    red = {json.loads(p.read_text())["id"]: p.with_name("B04.tif") for p in found}
    assert len(red) == 6
    return red


@pytest.fixture(scope="module")
def domain(sentinel):
    catalog = xgc.from_items(sentinel / "catalog.json")
    return catalog.geocat.domain(bands=["red"], resolution=120)


@pytest.fixture
def pipe(make_pipe):
    """Factory of pipelines that find what is bright."""

    def make(model=bright):
        return make_pipe(model, 256, 64, name="bright v1", fill=255)

    return make


def expected(path):
    """What is to be found, its transform and EPSG code, by rasterio alone."""
    with rasterio.open(path) as file:
        red = file.read(1)
        answer = np.full(red.shape, 255, "uint8")
        answer[red > 0] = 0
        answer[red > THRESHOLD] = 1
        return answer, file.transform, file.crs.to_epsg()


def read_output(href, sink, read_with_gdal):
    """Pixels, transform, EPSG code and nodata, by GDAL alone."""
    if sink == "cog":
        with rasterio.open(href) as file:
            return file.read(1), file.transform, file.crs.to_epsg(), file.nodata
    group, name = str(href).rsplit("/", 1)
    seen = read_with_gdal(Path(group), name)
    return seen.values[0], rasterio.Affine(*seen.transform), seen.crs.to_epsg(), seen.nodata


@pytest.mark.parametrize("sink", SINKS)
def test_what_is_written_of_real_scenes_is_what_numpy_finds_in_their_files(
    domain, files, pipe, tmp_path, read_with_gdal, sink
):
    out = run(pipe(), domain, tmp_path / "out", sink=sink)
    assert sorted(out.scene.values) == sorted(files)
    share = []
    for scene in out.scene.values:
        want, transform, code = expected(files[scene])
        href = out.href.sel(scene=scene, asset="prediction").item()
        got = read_output(href, sink, read_with_gdal)
        np.testing.assert_array_equal(got[0], want)
        assert got[1].almost_equals(transform)
        assert got[2:] == (code, 255)
        share.append(((want == 1).mean(), (want == 255).mean()))
    assert max(share)[0] > 0.5
    assert any(0 < beyond < 1 for _, beyond in share), "none of these scenes has a swath edge"


@pytest.mark.parametrize("sink", SINKS)
def test_the_catalog_of_real_predictions_opened_again_is_that_of_their_scenes(
    domain, files, pipe, tmp_path, sink
):
    made = run(pipe(), domain, tmp_path / "out", sink=sink)
    again = xgc.open_catalog(tmp_path / "out")
    source = domain.catalog.sel(scene=again.scene.values)
    assert again.scene.values.tolist() == made.scene.values.tolist()
    np.testing.assert_array_equal(again.start_time.values, source.start_time.values)
    for name in ("eo:cloud_cover", "s2:processing_baseline", "grid:code"):
        assert again[name].values.tolist() == source[name].values.tolist()
    assert again.geocat.query(time="2023-08-15").sizes["scene"] == 2
    reloaded = again.geocat.domain()
    for piece in reloaded.slices():
        got = reloaded.load(piece)["prediction"]
        np.testing.assert_array_equal(got.values[0], expected(files[piece.name])[0])
        assert got.attrs["nodata"] == 255


@pytest.fixture
def harmed(sentinel, tmp_path):
    """The same items beside links to their files, of which one is cut short; and what mends it."""
    root = tmp_path / "s2"
    for path in sentinel.rglob("*"):
        link = root / path.relative_to(sentinel)
        if path.is_dir():
            link.mkdir(parents=True, exist_ok=True)
        else:
            link.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix == ".json":
                link.write_bytes(path.read_bytes())
            else:
                link.symlink_to(path)
    link = next(root.rglob("S2B_33TWM_20230810_0_L2A/B04.tif"))
    whole = link.resolve()
    link.unlink()
    link.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])

    def mend():
        link.unlink()
        link.symlink_to(whole)

    catalog = xgc.from_items(root / "catalog.json")
    return catalog.geocat.domain(bands=["red"], resolution=120), mend


@pytest.mark.parametrize("sink", ["zarr", pytest.param("cog", marks=pytest.mark.slow)])
def test_a_real_scene_cut_short_fails_alone_and_once_mended_the_rest_is_not_done_again(
    harmed, files, pipe, tmp_path, tree, sink
):
    domain, mend = harmed
    with pytest.warns(RunFailuresWarning, match="1 of 6"):
        out = run(pipe(), domain, tmp_path / "out", sink=sink, retries=1)
    name = "S2B_33TWM_20230810_0_L2A"
    assert sorted(out.scene.values) == sorted(set(files) - {name})
    failed = xgc.failures(tmp_path / "out")
    assert failed.scene.values.tolist() == [name]
    assert failed["failure:step"].item() == "load"
    assert "B04.tif" in failed["failure:message"].item()
    assert failed.geocat.query((15.6, 46.3, 15.7, 46.4)).scene.values.tolist() == [name]
    mend()
    seen = []

    def counted(batch):
        seen.append(len(batch))
        return bright(batch)

    done = run(pipe(counted), domain, tmp_path / "out", sink=sink)
    assert done.sizes["scene"] == 6
    # 915 pixels at a stride of 192 are five patches; and it is asked once about its answers.
    assert sum(seen) in (25, 26)
    href = done.href.sel(scene=name, asset="prediction").item()
    if sink == "cog":
        with rasterio.open(href) as file:
            np.testing.assert_array_equal(file.read(1), expected(files[name])[0])
    run(pipe(), domain, tmp_path / "calm", sink=sink)
    assert tree(tmp_path / "out") == tree(tmp_path / "calm")


@pytest.mark.parametrize("sink", ["zarr", pytest.param("cog", marks=pytest.mark.slow)])
def test_a_run_over_real_scenes_that_is_interrupted_goes_on_where_it_stopped(
    domain, pipe, tmp_path, tree, sink
):
    run(pipe(), domain, tmp_path / "calm", sink=sink)
    seen = []

    def model(batch):
        seen.append(len(batch))
        if sum(seen) > 80:
            raise KeyboardInterrupt
        return bright(batch)

    with pytest.raises(KeyboardInterrupt):
        run(pipe(model), domain, tmp_path / "out", sink=sink)
    kept = {p: p.stat().st_mtime_ns for p in (tmp_path / "out" / "items").iterdir()}
    assert 0 < len(kept) < 6
    run(pipe(), domain, tmp_path / "out", sink=sink)
    assert all(p.stat().st_mtime_ns == at for p, at in kept.items())
    assert tree(tmp_path / "out") == tree(tmp_path / "calm")
