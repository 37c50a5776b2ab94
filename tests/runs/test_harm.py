"""What else goes wrong on real machines: broken tiles, lost files, full and read-only disks, clocks."""

from __future__ import annotations

import errno
import os
import subprocess
import threading
import time
from pathlib import Path

import dask
import pytest
import rasterio

import xgeocat as xgc
from tests.faults import serving
from tests.runs.archive import ndvi, run
from xgeocat.catalog import remote as http
from xgeocat.runs.ledger import Ledger
from xgeocat.runs.run import RunFailuresWarning
from xgeocat.storage.folder import folder_at

SINKS = ("zarr", "cog")


@pytest.fixture
def small_disk(tmp_path):
    """Factory of small file systems in memory, and of what changes their options."""
    mounted = []

    def mount(*arguments):
        return subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)

    def make(size="100m"):
        where = tmp_path / f"disk{len(mounted)}"
        where.mkdir()
        done = mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(where))
        if done.returncode:
            pytest.skip(f"mounting a tmpfs is not permitted here: {done.stderr.strip()}")
        mounted.append(where)

        def remount(options):
            changed = mount("-o", f"remount,{options}", str(where))
            assert changed.returncode == 0, changed.stderr

        return where, remount

    try:
        yield make
    finally:
        for where in mounted:
            subprocess.run(["umount", "--lazy", str(where)], check=False)


@pytest.fixture
def others(tree):
    """Everything a run kept of its scenes, but for one: what must not be harmed."""

    def of(out, but):
        return {
            name: content
            for name, content in tree(out).items()
            if name.startswith(("items/", "data/")) and f"/{but}" not in name
        }

    return of


# --- files ----------------------------------------------------------------------------------------


def break_tile(path):
    """Overwrite the middle of the last tile's bytes; return what mends it."""
    with rasterio.open(path) as file:
        block = [n - 1 for n in (-(-file.width // 128), -(-file.height // 128))]
        about = [
            int(file.get_tag_item(f"BLOCK_{what}_{block[0]}_{block[1]}", "TIFF", bidx=1))
            for what in ("OFFSET", "SIZE")
        ]
    whole = path.read_bytes()
    at, size = about[0] + about[1] // 4, about[1] // 2
    path.write_bytes(whole[:at] + b"\xff" * size + whole[at + size :])
    with rasterio.open(path) as file:
        assert file.read(1, window=((0, 10), (0, 10))).shape == (10, 10)
    return lambda: path.write_bytes(whole)


@pytest.mark.parametrize("sink", SINKS)
@pytest.mark.parametrize("how", ["one tile is broken", "the file is gone"])
def test_a_file_that_is_harmed_fails_its_scene_alone_and_nothing_is_made_up_for_it(
    make_archive, make_pipe, tmp_path, tree, others, sink, how
):
    items = make_archive(4, shape=(300, 290))
    domain = xgc.from_items(items).geocat.domain()
    run(make_pipe(), domain, tmp_path / "calm", sink=sink)
    path = Path(items[1]["assets"]["nir"]["href"])
    if how == "one tile is broken":
        mend = break_tile(path)
    else:
        away = path.rename(path.with_suffix(".away"))
        mend = lambda: away.rename(path)  # noqa: E731
    out = tmp_path / "out"
    with pytest.warns(RunFailuresWarning, match="1 of 4"):
        found = run(make_pipe(), domain, out, sink=sink, retries=1)
    assert found.scene.values.tolist() == ["s0", "s2", "s3"]
    failed = xgc.failures(out)
    assert failed.scene.values.tolist() == ["s1"]
    assert failed["failure:step"].item() == "load"
    assert "nir.tif" in failed["failure:message"].item()
    assert others(out, "s1") == others(tmp_path / "calm", "s1")
    assert [p.name for p in (out / "data").iterdir() if p.name.startswith(("s1", "."))] == []
    mend()
    run(make_pipe(), domain, out, sink=sink)
    assert tree(out) == tree(tmp_path / "calm")


def test_a_file_that_is_lost_while_its_scene_is_computed_fails_that_scene_alone(
    make_archive, make_pipe, tmp_path, tree
):
    """After the catalog was made, and after the scene was opened lazily: its pixels are gone."""
    items = make_archive(3)

    path = Path(items[1]["assets"]["red"]["href"])
    away = path.with_suffix(".away")

    class Vanishing(xgc.CatalogDomain):
        lost = True

        def load(self, request, bands=None):
            cube = super().load(request, bands)
            if request.name == "s1" and self.lost:
                path.rename(away)
            return cube

    domain = Vanishing(xgc.from_items(items))
    with pytest.warns(RunFailuresWarning):
        found = run(make_pipe(), domain, tmp_path / "out")
    assert found.scene.values.tolist() == ["s0", "s2"]
    assert xgc.failures(tmp_path / "out")["failure:step"].item() == "load"
    away.rename(path)
    domain.lost = False
    run(make_pipe(), domain, tmp_path / "out")
    run(make_pipe(), domain, tmp_path / "calm")
    assert tree(tmp_path / "out") == tree(tmp_path / "calm")


def test_a_signature_that_runs_out_in_the_middle_fails_what_is_left_and_a_new_one_mends_it(
    make_archive, make_pipe, tmp_path, tree, monkeypatch
):
    monkeypatch.setitem(http.READING, "GDAL_HTTP_MAX_RETRY", "0")
    items = make_archive(4)
    with serving(tmp_path) as server:
        for i, item in enumerate(items):
            for band, asset in item["assets"].items():
                local = Path(asset["href"])
                renamed = local.rename(local.with_name(f"h{i}_{band}.tif"))
                asset["href"] = f"{server.url}/{renamed.relative_to(tmp_path)}"
        catalog = xgc.from_items(items)
        secret = ["first"]

        def sign(href):
            # The server takes another one from the third scene on: ours has run out.
            if "h2_" in href and secret == ["first"]:
                server.tell(secret="second")
            return f"{href}?sig={secret[0]}"

        def domain():
            return catalog.geocat.domain(bands=["red", "nir"], sign=sign)

        server.tell(secret="first")
        with (
            pytest.warns(RunFailuresWarning, match="2 of 4"),
            dask.config.set(scheduler="synchronous"),
        ):
            found = run(make_pipe(), domain(), tmp_path / "out", retries=1)
        assert found.scene.values.tolist() == ["s0", "s1"]
        failed = xgc.failures(tmp_path / "out")
        assert failed.scene.values.tolist() == ["s2", "s3"]
        assert failed["failure:tries"].values.tolist() == [2, 2]
        assert all("403" in text for text in failed["failure:message"].values)
        secret[0] = "second"
        run(make_pipe(), domain(), tmp_path / "out")
        run(make_pipe(), domain(), tmp_path / "calm")
    assert tree(tmp_path / "out") == tree(tmp_path / "calm")


# --- disks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sink", "size"),
    [("zarr", "64k"), ("zarr", "1m"), ("cog", "1m"), ("cog", "2m"),
     *(pytest.param("cog", size, marks=pytest.mark.slow)
       for size in ("1200k", "1400k", "1600k", "1800k", "2200k", "2400k"))],
)  # fmt: skip
def test_a_disk_that_is_full_ends_the_run_and_nothing_broken_is_called_finished(
    make_domain, make_pipe, small_disk, tmp_path, tree, sink, size
):
    """GDAL notices some of it as it closes a file, which rasterio does not say."""
    domain = make_domain(4, shape=(300, 330))
    run(make_pipe(), domain, tmp_path / "calm", sink=sink)
    disk, remount = small_disk(size)
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)) as error:
        run(make_pipe(), domain, disk / "out", sink=sink, retries=1)
    assert error.value.errno == errno.ENOSPC
    assert any("The same call goes on" in note for note in error.value.__notes__)
    assert xgc.failures(disk / "out").sizes["scene"] == 0
    remount("size=100m")
    found = run(make_pipe(), domain, disk / "out", sink=sink)
    assert found.sizes["scene"] == 4
    assert tree(disk / "out") == tree(tmp_path / "calm")


@pytest.mark.parametrize("sink", SINKS)
def test_a_stopped_run_whose_disk_is_read_only_is_refused_untouched_and_goes_on_later(
    make_domain, make_pipe, small_disk, tmp_path, tree, sink
):
    domain = make_domain(3)
    run(make_pipe(), domain, tmp_path / "calm", sink=sink)
    disk, remount = small_disk()
    calls = []

    def model(batch):
        calls.append(len(batch))
        if len(calls) == 8:
            raise KeyboardInterrupt
        return ndvi(batch)

    with dask.config.set(scheduler="synchronous"), pytest.raises(KeyboardInterrupt):
        run(make_pipe(model, batch_size=4), domain, disk / "out", sink=sink)
    assert list((disk / "out" / "items").iterdir())
    remount("ro")
    before = tree(disk)
    with pytest.raises(OSError, match=os.strerror(errno.EROFS)):
        run(make_pipe(), domain, disk / "out", sink=sink)
    assert xgc.failures(disk / "out").sizes["scene"] == 0
    assert tree(disk) == before
    remount("rw")
    run(make_pipe(), domain, disk / "out", sink=sink)
    assert tree(disk / "out") == tree(tmp_path / "calm")


def test_into_a_folder_that_is_read_only_nothing_is_run(make_domain, make_pipe, small_disk):
    disk, remount = small_disk()
    remount("ro")
    calls = []

    def model(batch):
        calls.append(len(batch))
        return ndvi(batch)

    with pytest.raises(OSError, match=os.strerror(errno.EROFS)):
        run(make_pipe(model), make_domain(1), disk / "out")
    assert calls == []


# --- clocks, and others at work -------------------------------------------------------------------


@pytest.mark.parametrize("years", [-60, 40])
@pytest.mark.parametrize("sink", SINKS)
def test_a_clock_that_jumps_changes_nothing(
    make_archive, make_pipe, tmp_path, tree, monkeypatch, years, sink
):
    """The clock, and the times of every file of the half-finished run, are years away."""
    items = make_archive(3)
    domain = xgc.from_items(items).geocat.domain()
    run(make_pipe(), domain, tmp_path / "calm", sink=sink)
    path = Path(items[1]["assets"]["red"]["href"])
    away = path.rename(path.with_suffix(".away"))
    with pytest.warns(RunFailuresWarning):
        run(make_pipe(), domain, tmp_path / "out", sink=sink)
    away.rename(path)
    (tmp_path / "out" / "data" / ".s1.4711-0.tmp").mkdir()
    now = time.time() + years * 365.25 * 86400
    for file in [path, *(tmp_path / "out").rglob("*")]:
        os.utime(file, (max(now, 0), max(now, 0)))
    loaded = []
    real = xgc.CatalogDomain.load
    monkeypatch.setattr(
        xgc.CatalogDomain, "load", lambda *args: loaded.append(args[1].name) or real(*args)
    )
    monkeypatch.setattr(time, "time", lambda: now)
    monkeypatch.setattr(time, "time_ns", lambda: int(now * 1e9))
    found = run(make_pipe(), domain, tmp_path / "out", sink=sink)
    assert loaded == ["s1"]
    assert found.sizes["scene"] == 3
    assert tree(tmp_path / "out") == tree(tmp_path / "calm")


@pytest.mark.parametrize("sink", SINKS)
@pytest.mark.parametrize("again", [False, True], ids=["alone", "done by the other"])
def test_an_attempt_that_a_later_run_swept_away_is_never_kept(
    make_domain, make_pipe, tmp_path, tree, sink, again
):
    """A worker whose client died goes on writing, while the next run sweeps, and does it itself."""
    domain = make_domain(1)
    run(make_pipe(), domain, tmp_path / "calm", sink=sink)
    out, computing, swept = tmp_path / "out", threading.Event(), threading.Event()

    def model(batch):
        if len(batch):
            computing.set()
            assert swept.wait(20)
        return ndvi(batch)

    def orphan():
        with pytest.warns(RunFailuresWarning):
            run(make_pipe(model), domain, out, sink=sink, retries=0)

    thread = threading.Thread(target=orphan)
    thread.start()
    assert computing.wait(20)
    Ledger(folder_at(out)).sweep()
    if again:
        # Its lock is that of a dead process: here it is only out of the way.
        (out / ".lock").unlink()
        run(make_pipe(), domain, out, sink=sink)
    swept.set()
    thread.join()
    assert len(list((out / "failures").glob("*"))) == (0 if again else 1)
    assert list((out / "data").iterdir()) == [*(out / "data").glob("s0*")] * again
    run(make_pipe(), domain, out, sink=sink)
    assert tree(out) == tree(tmp_path / "calm")
