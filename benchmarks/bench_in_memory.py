"""A field in memory, an identity model, blended patches, and a field in memory again.

    python benchmarks/bench_in_memory.py [--edge 10980] [--peer-edge 4096] [--repeats 5]
        [--batch 32]

All cut patches of 256 px that overlap by 64 px and blend them with a hann window, but for
map_overlap, which has 32 px more around each block and blends nothing. `loop` is what one would
write by hand for one core: float32, one accumulator, weights divided out in the end. `xgeocat` is a
pipeline over the numpy field, `xgeocat_dask` the three methods one by one over dask blocks. Slow
peers, and xgeocat beside them, run on a smaller field.
"""

from __future__ import annotations

from pathlib import Path

import measure
from measure import CHUNK, OVERLAP, SIZE

STEP = SIZE - OVERLAP


def identity(batch):
    return batch


def make_field(folder: str, edge: int) -> measure.Job:
    import numpy as np

    values = np.random.default_rng(0).random((edge, edge), "float32")
    return lambda out: np.save(Path(folder) / f"field{edge}", values)


def field(folder: str, edge: int):
    import numpy as np

    return np.load(Path(folder) / f"field{edge}.npy")


def hann():
    import numpy as np

    return np.sin(np.pi * (np.arange(SIZE) + 0.5) / SIZE) ** 2


def xgeocat_dask(folder: str, edge: int, batch: int) -> measure.Job:
    import xarray as xr

    import xgeocat  # noqa: F401 - registers .geocat

    measure.two_threads()
    values = field(folder, edge)

    def job(out: Path):
        lazy = xr.DataArray(values, dims=("y", "x")).chunk(CHUNK)
        patches = lazy.geocat.patch(SIZE, overlap=OVERLAP)
        return patches.geocat.map(identity).geocat.stitch(window="hann").values

    return job


def xgeocat(folder: str, edge: int, batch: int) -> measure.Job:
    import xarray as xr

    import xgeocat as xgc

    measure.two_threads()
    sampler = xgc.GridSampler(SIZE, overlap=OVERLAP)
    pipe = xgc.Sequential(
        [sampler, xgc.ApplyToChips(identity, batch_size=batch), xgc.Stitch(window="hann")]
    )
    values = xr.DataArray(field(folder, edge), dims=("y", "x"))
    return lambda out: pipe(values).values


def loop(folder: str, edge: int, batch: int) -> measure.Job:
    import numpy as np

    values, weights = field(folder, edge), hann().astype("float32")
    window = np.multiply.outer(weights, weights)
    starts = [*range(0, edge - SIZE, STEP), edge - SIZE]

    def job(out: Path):
        sums, tmp = np.zeros_like(values), np.empty_like(window)
        total = np.zeros(edge, "float32")
        for y in starts:
            total[y : y + SIZE] += weights
            for x in starts:
                at = slice(y, y + SIZE), slice(x, x + SIZE)
                np.multiply(identity(values[at]), window, out=tmp)
                sums[at] += tmp
        for row in range(0, edge, STEP):
            rows = slice(row, row + STEP)
            sums[rows] /= np.multiply.outer(total[rows], total)
        return sums

    return job


def map_overlap(folder: str, edge: int, batch: int) -> measure.Job:
    import dask.array as da

    measure.two_threads()
    values, depth = field(folder, edge), OVERLAP // 2

    def job(out: Path):
        lazy = da.from_array(values, chunks=CHUNK)
        return lazy.map_overlap(identity, depth=depth, boundary="none", dtype="float32").compute()

    return job


def tiler(folder: str, edge: int, batch: int) -> measure.Job:
    from tiler import Merger, Tiler

    values = field(folder, edge)

    def job(out: Path):
        tiles = Tiler(data_shape=(edge, edge), tile_shape=(SIZE, SIZE), overlap=OVERLAP)
        merger = Merger(tiles, window="hann", save_visits=False)
        for number, tile in tiles(values):
            merger.add(number, identity(tile))
        return merger.merge()

    return job


def xrpatcher(folder: str, edge: int, batch: int) -> measure.Job:
    import numpy as np
    import xarray as xr
    from xrpatcher import XRDAPatcher

    coords = {"y": np.arange(edge), "x": np.arange(edge)}
    values = xr.DataArray(field(folder, edge), dims=("y", "x"), coords=coords)
    window = np.multiply.outer(hann(), hann())

    def job(out: Path):
        patcher = XRDAPatcher(values, dict.fromkeys("yx", SIZE), dict.fromkeys("yx", STEP))
        items = [identity(patch.values) for patch in patcher]
        return patcher.reconstruct(items, weight=window).values.astype("float32")

    return job


REACH = {"tiler": 8, "xrpatcher": 20, "map_overlap": 2, "loop": 1.4}


def main() -> None:
    given = measure.options(__doc__, peer_edge=4096, batch=32)
    slow = measure.installed("tiler", "xrpatcher")
    for edge, peers in ((given.edge, ["loop", "map_overlap"]), (given.peer_edge, slow)):
        if not peers:
            continue
        with measure.scratch() as folder:
            measure.once(__file__, "make_field", folder, edge=edge)
            variants = ["xgeocat", "xgeocat_dask", *peers]
            found = measure.race(
                __file__, variants, given.repeats, folder, edge=edge, batch=given.batch
            )
            print(f"\n{edge} px square, float32, {measure.THREADS} threads for dask")
            measure.table(found, "xgeocat", edge**2)
            # Peers leave the last patches away, and tiler's window is 0 on the outermost cells.
            measure.agree(found, folder, margin=min(2 * SIZE, edge // 4))
            for peer in peers:
                faster = found["xgeocat"].times_faster_than(found[peer])
                measure.reach(f"xgeocat against {peer}", faster, REACH[peer], unit="x")


if __name__ == "__main__":
    main()
