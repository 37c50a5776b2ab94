"""A run as a program of its own, to be killed, measured, or put on a cluster.

``python job.py run ITEMS OUT LOG [OPTIONS]`` run; note every scene that is loaded in LOG
``python job.py points ITEMS WORK EVERY``     die before every EVERY-th change of a file; resume
``python job.py mosaic ITEMS OUT``            make a mosaic
``python job.py cluster ITEMS OUT``           run on a LocalCluster of two processes
``python job.py memory OUT SIZE SOURCE``      run over one raster of SIZE x SIZE pixels
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
from affine import Affine
from odc.geo.geobox import GeoBox

import xgeocat as xgc
from tests.peak import peak_mib
from xgeocat.runs import unit as unit_module

unit_module.PAUSE = 0.001


def ndvi(batch):
    red, nir = batch[:, 0].astype("float32"), batch[:, 1].astype("float32")
    with np.errstate(invalid="ignore"):
        return np.where((red == 0) | (nir == 0), np.nan, (nir - red) / (nir + red))


def slow_ndvi(batch):
    time.sleep(0.004 * len(batch))
    return ndvi(batch)


def pipeline(model=ndvi):
    return xgc.Sequential([
        xgc.GridSampler(32, overlap=8), xgc.ApplyToChips(model, name="ndvi v1"), xgc.Stitch("hann")
    ])  # fmt: skip


class Logged(xgc.CatalogDomain):
    """A CatalogDomain that notes which scenes are loaded."""

    log: Path | None = None

    def load(self, request, bands=None):
        if self.log is not None:
            with self.log.open("a") as file:
                file.write(f"{request.name}\n")
        return super().load(request, bands)


def run(items, out, log=None, model=ndvi, **options):
    domain = Logged(xgc.from_items(items))
    domain.log = log
    return xgc.run(pipeline(model), domain, out, progress=False, retries=1, **options)


def files(root):
    return {str(p.relative_to(root)): p.read_bytes() for p in Path(root).rglob("*") if p.is_file()}


# --- dying at every change of a file --------------------------------------------------------------


class DiesAt:
    """An audit hook that kills the process before the n-th change of a file under a folder."""

    def __init__(self, root, n):
        self.root, self.n, self.seen = str(root), n, 0

    def __call__(self, event, args):
        if event == "open":
            path, _, flags = args
            changes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        else:
            path, changes = (args[0] if args else None), event in (
                "os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree")  # fmt: skip
        if (
            changes
            and isinstance(path, (str, os.PathLike))
            and os.fspath(path).startswith(self.root)
        ):
            self.seen += 1
            if self.seen == self.n:
                os.kill(os.getpid(), signal.SIGKILL)


def forked(work):
    """Do some work in a fork; return how it ended."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1]


def changes(work, root, note):
    """Count the changes of files under a folder that some work makes."""

    def counted():
        hook = DiesAt(root, -1)
        sys.addaudithook(hook)
        work()
        note.write_text(str(hook.seen))

    assert forked(counted) == 0
    return int(note.read_text())


def points(items, work, every, prepare=None):
    """Die at each of many points, resume; report what differs from an undisturbed run."""
    # Imported here once, and not in every fork.
    import stac_geoparquet.arrow  # noqa: F401

    import xgeocat.patching.graph  # noqa: F401

    assert threading.active_count() == 1, "a fork of threads would prove nothing"
    calm, out, log = work / "calm", work / "out", work / "log"
    assert forked(lambda: run(items, calm)) == 0
    want = files(calm)

    def begin():
        shutil.rmtree(out, ignore_errors=True)
        if prepare is not None:
            prepare(out)

    begin()
    total = changes(lambda: run(items, out), out, work / "count")
    report = {"points": 0, "total": total, "bad": []}
    # The first and the last changes are those of the ledger, and every one of them counts.
    ledger = [*range(1, 5), *range(max(total - 4, 1), total + 1)]
    for n in sorted({*ledger, *range(1, total + 1, every)}):
        begin()

        def dying(n=n):
            sys.addaudithook(DiesAt(out, n))
            run(items, out)

        status = forked(dying)
        if os.WIFSIGNALED(status) is False:
            continue
        report["points"] += 1
        finished = {p.stem for p in (out / "items").glob("*.json")} if out.exists() else set()
        log.unlink(missing_ok=True)
        problems = []
        if forked(lambda: run(items, out, log)) != 0:
            problems.append("cannot be resumed")
        else:
            redone = finished & set(log.read_text().split() if log.exists() else [])
            if redone:
                problems.append(f"did {sorted(redone)} again")
            got = files(out)
            extra, gone = sorted(set(got) - set(want)), sorted(set(want) - set(got))
            changed = sorted(name for name in set(want) & set(got) if want[name] != got[name])
            for what, names in (("left over", extra), ("missing", gone), ("changed", changed)):
                if names:
                    problems.append(f"{what}: {names[:3]}")
        if problems:
            report["bad"].append([n, problems])
    return report


# --- a cluster, a large raster --------------------------------------------------------------------


def cluster(items, out):
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None,
                     memory_limit=0) as machines,
        Client(machines) as client,
    ):  # fmt: skip
        found = run(items, out)
        workers = client.run(os.getpid)
        print(json.dumps({"scenes": found.scene.values.tolist(), "workers": len(workers)}))


def lossy(items, out):
    """A cluster of which one worker is killed while it works, and another one comes."""
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None,
                     memory_limit=0) as machines,
        Client(machines) as client,
    ):  # fmt: skip
        killed, sent, submit = [], [], client.submit
        client.submit = lambda *args, **options: sent.append(1) or submit(*args, **options)

        def kill():
            while not list(Path(out).glob("items/*.json")):
                time.sleep(0.01)
            pid = next(iter(client.run(os.getpid).values()))
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)

        killer = threading.Thread(target=kill)
        killer.start()
        found = run(items, out, model=slow_ndvi)
        killer.join()
        print(json.dumps({"scenes": found.scene.values.tolist(), "killed": len(killed),
                          "tasks": len(sent)}))  # fmt: skip


class Deadly(xgc.CatalogDomain):
    """A domain one scene of which no worker survives."""

    def load(self, request, bands=None):
        if request.name == "s2":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().load(request, bands)


def deadly(items, out):
    import dask
    from distributed import Client, LocalCluster

    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 1}),
        LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None,
                     memory_limit=0) as machines,
        Client(machines),
    ):  # fmt: skip
        found = xgc.run(pipeline(), Deadly(xgc.from_items(items)), out, progress=False)
        print(json.dumps({"scenes": found.scene.values.tolist()}))


def raster(size, source, folder):
    """A raster of SIZE x SIZE pixels that takes no memory: dask-backed, or a sparse COG."""
    import dask.array as da
    import odc.geo.xr
    import rasterio
    import xarray as xr
    from affine import Affine
    from odc.geo.geobox import GeoBox

    grid = Affine(10, 0, 500000, 0, -10, 4300000)
    if source == "dask":
        geobox = GeoBox((size, size), grid, "EPSG:32610")

        def block(block_info=None):
            shape = block_info[None]["chunk-shape"]
            at = block_info[None]["chunk-location"]
            return np.full(shape, 1 + sum(at), "uint16")

        chunks = da.core.normalize_chunks(1024, (size, size))
        coords = odc.geo.xr.xr_coords(geobox)
        like = {"dtype": "uint16", "meta": np.empty((0, 0), "uint16")}
        return xgc.RasterDomain(xr.Dataset(
            {name: (("y", "x"), da.map_blocks(block, name=f"{name}-{size}", chunks=chunks, **like))
             for name in ("red", "nir")},
            coords=coords,
        ))  # fmt: skip
    paths = []
    for name in ("red", "nir"):
        paths.append(folder / f"s_20240601_{name}.tif")
        with rasterio.open(
            paths[-1], "w", driver="GTiff", count=1, height=size, width=size, dtype="uint16",
            crs="EPSG:32610", transform=grid, nodata=0, tiled=True, blockxsize=512, blockysize=512,
            sparse_ok=True,
        ) as file:  # fmt: skip
            file.write(np.full((512, 512), 7, "uint16"), 1, window=((0, 512), (0, 512)))
    catalog = xgc.from_files(paths, pattern=r"s_(?P<date>\d{8})_(?P<band>\w+)\.tif")
    return catalog.geocat.domain(bands=["red", "nir"], chunks=1024)


def memory(out, size, source):
    """Print the peak resident memory in MiB before the run, and after it."""
    pipe = xgc.Sequential([
        xgc.GridSampler(256, overlap=64), xgc.ApplyToChips(ndvi, name="ndvi", batch_size=16),
        xgc.Stitch("hann"),
    ])  # fmt: skip
    out.mkdir(parents=True)
    # A small run first: imports, threads and caches are not what is measured.
    (out / "warm").mkdir()
    xgc.run(pipe, raster(600, source, out / "warm"), out / "warm-out", progress=False)
    domain = raster(size, source, out)
    before = peak_mib()
    found = xgc.run(pipe, domain, out / "out", progress=False)
    after = peak_mib()
    print(json.dumps({"before": before, "after": after, "scenes": found.sizes["scene"]}))


def mosaic(items, out):
    grid = GeoBox((600, 1100), Affine(10, 0, 500000, 0, -10, 4300000), "EPSG:32610")
    domain = xgc.from_items(items).geocat.domain(bands=["red", "nir"])
    xgc.mosaic(pipeline(slow_ndvi), domain, grid, out, reduce=["mean", "first", "std"],
               time="1MS", tile=512, progress=False)  # fmt: skip


if __name__ == "__main__":
    task, *arguments = sys.argv[1:]
    first = Path(arguments[0])
    if task == "run":
        options = json.loads(arguments[3]) if len(arguments) > 3 else {}
        run(first, arguments[1], Path(arguments[2]), slow_ndvi, **options)
    elif task == "mosaic":
        mosaic(first, arguments[1])
    elif task == "points":
        print(json.dumps(points(first, Path(arguments[1]), int(arguments[2]))))
    elif task == "cluster":
        cluster(first, Path(arguments[1]))
    elif task == "lossy":
        lossy(first, Path(arguments[1]))
    elif task == "deadly":
        deadly(first, Path(arguments[1]))
    elif task == "memory":
        memory(first, int(arguments[1]), arguments[2])
