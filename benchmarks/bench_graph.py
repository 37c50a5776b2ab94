"""How large the graph of a stitched field is, and how long it takes to lay out.

    python benchmarks/bench_graph.py [--edge 100000] [--repeats 3]

The field is lazy zeros in blocks of 2048 px, cut into patches of 256 px that overlap by 64 px,
mapped and stitched with a hann window. Nothing is computed. Tasks are counted as the graph is
built, and as dask runs it (culled and fused), with those that make the source left out.
"""

from __future__ import annotations

import math
from pathlib import Path

import measure
from measure import CHUNK, OVERLAP, SIZE

REACH = 10.0  # seconds


def identity(batch):
    return batch


def stitched(edge: int):
    import dask.array as da
    import xarray as xr

    import xgeocat  # noqa: F401 - registers .geocat

    source = xr.DataArray(da.zeros((edge, edge), chunks=CHUNK, dtype="float32"), dims=("y", "x"))
    patches = source.geocat.patch(SIZE, overlap=OVERLAP)
    return source, patches.geocat.map(identity).geocat.stitch(window="hann")


def build(folder: str, edge: int) -> measure.Job:
    """Lay out the graph, down to every task."""
    stitched(SIZE)  # imports

    def job(out: Path) -> dict[str, int]:
        source, field = stitched(edge)
        tasks = len(dict(field.data.__dask_graph__()))
        blocks = math.prod(field.data.numblocks)
        return {"tasks": tasks - source.data.npartitions, "blocks": blocks}

    return job


def optimize(folder: str, edge: int) -> measure.Job:
    """Count the tasks that dask runs."""
    source, field = stitched(edge)

    def job(out: Path) -> dict[str, int]:
        run = field.data.__dask_optimize__(field.data.__dask_graph__(), field.data.__dask_keys__())
        made = sum(1 for key in dict(run) if key in source.data.__dask_graph__())
        return {"tasks": len(dict(run)) - made, "blocks": math.prod(field.data.numblocks)}

    return job


def main() -> None:
    given = measure.options(__doc__, repeats=3, edge=100_000)
    with measure.scratch() as folder:
        variants = ["build", "optimize"]
        found = measure.race(__file__, variants, given.repeats, folder, edge=given.edge)
    built = found["build"].facts
    count = built["blocks"]
    print(f"\n{given.edge} px square: {count} blocks of the stitched field")
    print(f"{'':14}{'seconds':>9}{'tasks':>9}{'a block':>9}{'peak MiB':>10}")
    for name, this in found.items():
        tasks, blocks = this.facts["tasks"], this.facts["blocks"]
        print(f"{name:14}{this.median:9.2f}{tasks:9}{tasks / blocks:9.2f}{this.peak:10.0f}")
    measure.reach("seconds to build", found["build"].median, REACH, below=True, unit=" s")


if __name__ == "__main__":
    main()
