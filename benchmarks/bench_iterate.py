"""All patches of a dask-backed field, one by one, as arrays in memory: against xbatcher.

    python benchmarks/bench_iterate.py [--edge 10980] [--peer-edge 4096] [--repeats 3]

Patches of 256 px that overlap by 64 px, of a field in dask blocks of 2048 px: a numpy array in
memory, or with ``--source zarr`` a Zarr in chunks of 512 px. Patches that do not fit are left out
on both sides. xbatcher is slow, so both run on a field of --peer-edge; xgeocat also on --edge.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import measure
from measure import CHUNK, OVERLAP, SIZE

REACH = 20


def make_field(folder: str, edge: int, source: str) -> measure.Job:
    import numpy as np

    values = np.random.default_rng(0).random((edge, edge), "float32")

    def job(out: Path) -> None:
        if source == "memory":
            np.save(Path(folder) / "field.npy", values)
        else:
            import xarray as xr

            stored = xr.Dataset({"band": (("y", "x"), values)})
            encoding = {"band": {"chunks": (512, 512)}}
            path = Path(folder) / "field.zarr"
            stored.to_zarr(path, zarr_format=3, consolidated=False, encoding=encoding)

    return job


def field(folder: str, source: str):
    import numpy as np
    import xarray as xr

    measure.two_threads()
    if source == "zarr":
        chunks = {"y": CHUNK, "x": CHUNK}
        path = Path(folder) / "field.zarr"
        lazy = xr.open_zarr(path, chunks=chunks, consolidated=False)["band"]
    else:
        lazy = xr.DataArray(np.load(Path(folder) / "field.npy"), dims=("y", "x")).chunk(CHUNK)
    return lazy.assign_coords({dim: np.arange(n) for dim, n in lazy.sizes.items()})


def seen(patches):
    """Look at every patch: two of its values, in no order that both sides would have to share."""
    import numpy as np

    ends = [float(p.values[0, 0]) + float(p.values[-1, -1]) for p in patches]
    return np.sort(np.array([ends]))


def xbatcher(folder: str, edge: int, source: str) -> measure.Job:
    from xbatcher import BatchGenerator

    lazy = field(folder, source)
    edges = {"y": SIZE, "x": SIZE}, {"y": OVERLAP, "x": OVERLAP}
    return lambda out: seen(BatchGenerator(lazy, *edges))


def xgeocat(folder: str, edge: int, source: str) -> measure.Job:
    import xgeocat  # noqa: F401 - registers .geocat

    lazy = field(folder, source)

    def by_chunk(patches):
        starts = [0]
        for length in patches.chunksizes["patch"]:
            starts.append(starts[-1] + length)
        for first, last in pairwise(starts):
            here = patches.isel(patch=slice(first, last)).compute()
            for k in range(last - first):
                yield here.isel(patch=k)

    def job(out: Path):
        patches = lazy.geocat.patch(SIZE, overlap=OVERLAP, boundary="drop")
        one_by_one = hasattr(type(patches.geocat), "__iter__")
        return seen(patches.geocat if one_by_one else by_chunk(patches))

    return job


def main() -> None:
    given = measure.options(__doc__, repeats=3, peer_edge=4096, source=("memory", "zarr"))
    peers = measure.installed("xbatcher")
    for edge, variants in ((given.edge, ["xgeocat"]), (given.peer_edge, ["xgeocat", *peers])):
        with measure.scratch() as folder:
            about = {"edge": edge, "source": given.source}
            measure.once(__file__, "make_field", folder, **about)
            found = measure.race(__file__, variants, given.repeats, folder, **about)
            many = ((edge - SIZE) // (SIZE - OVERLAP) + 1) ** 2
            each = found["xgeocat"].median / many * 1e6
            print(f"\n{edge} px square, {given.source}, {many} patches, {each:.0f} us for each")
            measure.table(found, "xgeocat", edge**2)
            if "xbatcher" in found:
                measure.agree(found, folder, within=0)
                faster = found["xgeocat"].times_faster_than(found["xbatcher"])
                measure.reach("xgeocat against xbatcher", faster, REACH, unit="x")


if __name__ == "__main__":
    main()
