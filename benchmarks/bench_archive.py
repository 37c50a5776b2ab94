"""An archive of full-size scenes -> threshold model -> stitched Zarrs, against the bare limit.

    python benchmarks/bench_archive.py [--scenes 22] [--edge 10980] [--repeats 2] [--workers 2]

The bare limit reads the same blocks, asks the same model once for each pixel, and writes the same
chunks with the same number of threads, over all scenes at once; no overlap, no record, no catalog.
`by_hand` is the loop one writes without us: `odc.stac.load` for each scene, dask's `map_overlap`,
`to_zarr`. Then the same run on a cluster in this machine, of several workers of one thread against
one (`--workers 0` leaves it out). The scenes are a few files under many names.
"""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import measure
from bench_chain import STORED, require_same_encoding
from measure import CHUNK, OVERLAP, SIZE, THREADS

FILES = 3  # that differ
PROJECTION = "https://stac-extensions.github.io/projection/v2.0.0/schema.json"
REACH, AGAINST_LOOP = 0.8, 2.0
EFFICIENCY = 0.85  # of each worker: two are to be 1.7 times as fast as one


def threshold(batch):
    return (batch > 1500).astype("float32")


# --- the archive ----------------------------------------------------------------------------------


def make_archive(folder: str, edge: int, scenes: int) -> measure.Job:
    """Some COGs of one band, uint16, deflate; smooth, with the noise of a sensor on top."""

    def job(out: Path) -> None:
        (Path(folder) / "scenes").mkdir()
        for number in range(scenes):
            path = Path(folder) / "scenes" / f"s{number:05d}.tif"
            if number < FILES:
                make_scene(path, edge, seed=number)
            else:
                os.link(path.with_name(f"s{number % FILES:05d}.tif"), path)

    return job


def make_scene(path: Path, edge: int, seed: int = 0) -> None:
    import numpy as np
    import rasterio
    from affine import Affine

    rng = np.random.default_rng(seed)
    knots = np.arange(edge // 64 + 2)
    coarse = rng.normal(1500, 600, (len(knots), len(knots)))
    place = np.arange(edge) / 64
    across = np.stack([np.interp(place, knots, row) for row in coarse])
    profile = {"driver": "COG", "height": edge, "width": edge, "count": 1, "dtype": "uint16"}
    profile |= {"crs": "EPSG:32610", "transform": Affine(10, 0, 699960, 0, -10, 4400040)}
    profile |= {"nodata": 0, "compress": "deflate", "predictor": "yes"}
    profile |= {"blocksize": STORED, "bigtiff": "if_safer"}
    with rasterio.open(path, "w", **profile) as file:
        for first in range(0, edge, STORED):
            rows = place[first : first + STORED, None]
            near = rows.astype(int)[:, 0]
            values = across[near] + (across[near + 1] - across[near]) * (rows % 1)
            values += rng.normal(0, 40, values.shape)
            window = rasterio.windows.Window(0, first, edge, len(rows))
            file.write(values.clip(1, 20000).astype("uint16"), 1, window=window)


def files(folder: str) -> list[Path]:
    return sorted((Path(folder) / "scenes").glob("*.tif"))


def catalog_of(folder: str):
    import xgeocat as xgc

    return xgc.from_files(files(folder), time="2024-06-01")


# --- the variants ---------------------------------------------------------------------------------


def pipeline():
    import xgeocat as xgc

    model = xgc.ApplyToChips(threshold, name="threshold")
    return xgc.Sequential([xgc.GridSampler(SIZE, overlap=OVERLAP), model, xgc.Stitch()])


def run_into(out: Path, domain) -> dict[str, object]:
    import xgeocat as xgc

    found = xgc.run(pipeline(), domain, out, sink="zarr", progress=False)
    if found.sizes["scene"] != len(domain):
        raise SystemExit(xgc.failures(out)["failure:traceback"].values[0])
    return {"fields": sorted(map(str, (out / "data").glob("*.zarr/prediction")))}


def xgeocat(folder: str, edge: int, workers: int) -> measure.Job:
    measure.two_threads()
    domain = catalog_of(folder).geocat.domain(chunks=CHUNK)
    return lambda out: run_into(out, domain)


def bare(folder: str, edge: int, workers: int) -> measure.Job:
    import numpy as np
    import rasterio
    import zarr

    paths = files(folder)
    blocks = list(product(range(0, edge, CHUNK), repeat=2))
    like = {"shape": (edge, edge), "chunks": (STORED, STORED), "dtype": "float32"}

    def block(path: Path, target: zarr.Array, at: tuple[int, int]) -> None:
        rows, columns = (slice(i, min(i + CHUNK, edge)) for i in at)
        with rasterio.open(path) as file:
            values = file.read(1, window=rasterio.windows.Window.from_slices(rows, columns))
        target[rows, columns] = threshold(values[None])[0]

    def job(out: Path) -> dict[str, object]:
        fields = [out / f"{path.stem}.zarr" for path in paths]
        targets = [zarr.create_array(field, fill_value=np.nan, **like) for field in fields]
        with ThreadPoolExecutor(THREADS) as pool:
            pairs = product(zip(paths, targets, strict=True), blocks)
            list(pool.map(lambda pair: block(*pair[0], pair[1]), pairs))
        return {"fields": list(map(str, fields))}

    return job


def by_hand(folder: str, edge: int, workers: int) -> measure.Job:
    import odc.stac

    measure.two_threads()
    items = catalog_of(folder).geocat.to_items()
    for item in items:
        item.stac_extensions = [PROJECTION]
    chunks = {"y": CHUNK, "x": CHUNK}

    def job(out: Path) -> dict[str, object]:
        fields = []
        for item in items:
            cube = odc.stac.load([item], chunks=chunks)
            (name,) = cube.data_vars
            band = cube[name]
            depth = {0: 0, 1: OVERLAP // 2, 2: OVERLAP // 2}
            values = band.data.map_overlap(
                threshold, depth=depth, boundary="none", dtype="float32", meta=band.data._meta
            )
            field = band.copy(data=values).drop_attrs(deep=False).to_dataset(name="prediction")
            encoding = {"prediction": {"chunks": (1, STORED, STORED), "_FillValue": float("nan")}}
            path = out / f"{item.id}.zarr"
            field.to_zarr(path, encoding=encoding, zarr_format=3, consolidated=False)
            fields.append(str(path / "prediction"))
        return {"fields": sorted(fields)}

    return job


def one_worker(folder: str, edge: int, workers: int) -> measure.Job:
    return on_cluster(folder, 1)


def more_workers(folder: str, edge: int, workers: int) -> measure.Job:
    return on_cluster(folder, workers)


def on_cluster(folder: str, workers: int) -> measure.Job:
    """Run on workers of one thread each; the largest of them is told of."""
    from distributed import Client, LocalCluster

    cluster = LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        memory_limit=0,
        dashboard_address=None,
        local_directory=str(Path(folder) / f"workers{workers}"),
    )
    client = Client(cluster)
    domain = catalog_of(folder).geocat.domain(chunks=CHUNK)

    def job(out: Path) -> dict[str, object]:
        facts = run_into(out, domain)
        return {**facts, "worker": max(client.run(measure._peak).values())}

    return job


# --- the race -------------------------------------------------------------------------------------


def require_alike(found: dict[str, measure.Found], folder: Path, scenes: int) -> None:
    """All must have written every scene, with the same chunks and codecs and the same values."""
    for name, this in found.items():
        if len(this.facts["fields"]) != scenes:
            raise SystemExit(f"{name} wrote {len(this.facts['fields'])} of {scenes} scenes")
    for number in range(min(FILES, scenes)):
        for this in found.values():
            this.result = Path(this.facts["fields"][number])
        require_same_encoding(found)
        measure.agree(found, folder)


def main() -> None:
    given = measure.options(__doc__, repeats=2, scenes=22, workers=2)
    about = {"edge": given.edge, "workers": given.workers}
    pixels = given.scenes * given.edge**2
    with measure.scratch() as folder:
        start = time.perf_counter()
        measure.once(__file__, "make_archive", folder, edge=given.edge, scenes=given.scenes)
        size = sum(path.stat().st_size for path in files(str(folder))[:FILES]) / 2**20
        took = time.perf_counter() - start
        print(f"{given.scenes} scenes of {given.edge} px square; {FILES} files of {size:.0f} MiB")
        print(f"made in {took:.0f} s; {THREADS} threads")
        variants = ["bare", "xgeocat", "by_hand"]
        found = measure.race(__file__, variants, given.repeats, folder, **about)
        measure.table(found, "bare", pixels)
        require_alike(found, folder, given.scenes)
        ours, hand = found["xgeocat"], found["by_hand"]
        measure.reach("of the bare limit", ours.times_faster_than(found["bare"]), REACH)
        measure.reach("against the loop by hand", ours.times_faster_than(hand), AGAINST_LOOP)
        measure.reach("memory of that loop", ours.peak / hand.peak, 1, below=True, unit="x")
        if given.workers > 1:
            variants = ["one_worker", "more_workers"]
            found = measure.race(__file__, variants, given.repeats, folder, **about)
            for this in found.values():
                this.peak = this.facts["worker"]
            print(f"\na cluster of {given.workers} workers against one; memory of the largest")
            measure.table(found, "one_worker", pixels)
            require_alike(found, folder, given.scenes)
            ratio = found["more_workers"].times_faster_than(found["one_worker"])
            wanted = EFFICIENCY * given.workers
            measure.reach(f"{given.workers} workers against one", ratio, wanted)


if __name__ == "__main__":
    main()
