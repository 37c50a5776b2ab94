"""COG -> threshold model -> stitch -> Zarr on one 10980 x 10980 band, against the bare limit.

    python benchmarks/bench_chain.py [--edge 10980] [--repeats 3]

The bare limit does the same block reads, the same model and the same chunk writes with the same
number of threads, and nothing between: no overlap, no blending. Both run in one call, each in a
process of its own, a warm-up first, then the median; only their ratio means anything, since
machines are noisy. Peak memory is the resident set of the whole process (ru_maxrss).
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine

BLOCK, CHUNK = 2048, 512
THREADS = 2


def threshold(batch):
    return (batch > 1500).astype("float32")


def make_cog(path: Path, edge: int) -> None:
    """A COG of smooth 1/f-like values that deflate compresses about as it does Sentinel-2."""
    rng = np.random.default_rng(0)
    coarse = rng.normal(1500, 600, (edge // 64 + 2, edge // 64 + 2))
    values = np.kron(coarse, np.ones((64, 64)))[:edge, :edge]
    values += rng.normal(0, 40, values.shape)
    profile = {
        "driver": "COG",
        "height": edge,
        "width": edge,
        "count": 1,
        "dtype": "uint16",
        "crs": "EPSG:32610",
        "transform": Affine(10, 0, 699960, 0, -10, 4400040),
        "nodata": 0,
        "compress": "deflate",
        "blocksize": 512,
    }
    with rasterio.open(path, "w", **profile) as file:
        file.write(values.clip(1, 20000).astype("uint16"), 1)


def ours(cog: Path, out: Path) -> None:
    import dask

    import xgeocat as xgc

    domain = xgc.from_files([cog], time="2024-06-01").geocat.domain(chunks=BLOCK)
    pipe = xgc.Sequential(
        [xgc.GridSampler(256, overlap=64), xgc.ApplyToChips(threshold), xgc.Stitch(window="hann")]
    )
    with dask.config.set(scheduler="threads", num_workers=THREADS):
        failed = xgc.run(pipe, domain, out, progress=False).sizes["scene"] != 1
    if failed:
        raise SystemExit(xgc.failures(out)["failure:traceback"].values[0])


def bare(cog: Path, out: Path) -> None:
    import zarr

    with rasterio.open(cog) as file:
        edge = file.height
    array = zarr.create_array(
        out, shape=(edge, edge), chunks=(CHUNK, CHUNK), dtype="float32", fill_value=np.nan
    )

    def block(at):
        y, x = at
        window = rasterio.windows.Window(x, y, min(BLOCK, edge - x), min(BLOCK, edge - y))
        with rasterio.open(cog) as file:
            values = file.read(1, window=window)
        array[y : y + values.shape[0], x : x + values.shape[1]] = threshold(values[None])[0]

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(block, product(range(0, edge, BLOCK), repeat=2)))


def measure(which: str, cog: Path, repeats: int) -> None:
    """Time one variant in this process and print the result as JSON."""
    seconds = []
    for _ in range(repeats + 1):
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            {"ours": ours, "bare": bare}[which](cog, Path(folder) / "out")
            seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": statistics.median(seconds[1:]), "peak_mib": round(peak)}))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--edge", type=int, default=10980)
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument("--measure", choices=["ours", "bare"])
    options.add_argument("--cog", type=Path)
    given = options.parse_args()
    if given.measure:
        measure(given.measure, given.cog, given.repeats)
        return
    folder = Path(tempfile.mkdtemp())
    try:
        cog = folder / "band_20240601.tif"
        # In a process of its own: a child inherits the peak memory of its parent.
        maker = "import sys; from pathlib import Path; import bench_chain as b;"
        maker += "b.make_cog(Path(sys.argv[1]), int(sys.argv[2]))"
        subprocess.run(
            [sys.executable, "-c", maker, str(cog), str(given.edge)],
            check=True,
            cwd=Path(__file__).parent,
        )
        print(
            f"{given.edge} px square, {THREADS} threads, COG of {cog.stat().st_size / 2**20:.0f} "
            f"MiB, median of {given.repeats} after a warm-up"
        )
        found = {}
        for which in ("bare", "ours"):
            call = [
                sys.executable,
                __file__,
                "--measure",
                which,
                "--cog",
                str(cog),
                "--repeats",
                str(given.repeats),
            ]
            text = subprocess.run(call, check=True, capture_output=True, text=True).stdout
            found[which] = json.loads(text.splitlines()[-1])
            rate = given.edge**2 / 1e6 / found[which]["seconds"]
            print(
                f"{which:5} {found[which]['seconds']:7.2f} s {rate:7.1f} Mpx/s  "
                f"peak {found[which]['peak_mib']} MiB"
            )
        ratio = found["bare"]["seconds"] / found["ours"]["seconds"]
        print(f"ratio {ratio:.2f} of the bare limit")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
