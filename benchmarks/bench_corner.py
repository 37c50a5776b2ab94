"""One corner of a lazy field, and a piece from its middle, against the whole of it.

    python benchmarks/bench_corner.py [--edge 10980] [--repeats 5]

The field is in memory, cut into dask blocks of 2048 px, patched (256 px, overlap 64 px), predicted
and stitched with a hann window; then 100 x 100 px of it are computed. The model counts the patches
it is given. What is laid out once, the graph of the whole field, is not timed.
"""

from __future__ import annotations

from pathlib import Path
from threading import Lock

import measure
from bench_in_memory import make_field  # noqa: F401 - a variant, by name
from measure import CHUNK, OVERLAP, SIZE

PIECE = 100
REACH = 1.0  # per cent


class Counting:
    """The identity, which counts its calls and the patches that it is given."""

    def __init__(self) -> None:
        self.calls = self.patches = 0
        self.lock = Lock()

    def __call__(self, batch):
        if len(batch):  # length 0: asked for the dtype and shape of its answers
            with self.lock:
                self.calls += 1
                self.patches += len(batch)
        return batch


def computed(folder: str, edge: int, first: int, length: int) -> measure.Job:
    """Compute a square of the lazy field, and say what the model was given."""
    import xarray as xr
    from bench_in_memory import field

    import xgeocat  # noqa: F401 - registers .geocat

    measure.two_threads()
    model = Counting()
    lazy = xr.DataArray(field(folder, edge), dims=("y", "x")).chunk(CHUNK)
    patches = lazy.geocat.patch(SIZE, overlap=OVERLAP)
    stitched = patches.geocat.map(model).geocat.stitch(window="hann")
    square = {"y": slice(first, first + length), "x": slice(first, first + length)}

    def job(out: Path):
        model.calls = model.patches = 0
        values = stitched.isel(square).values
        return values, {"calls": model.calls, "patches": model.patches}

    return job


def whole(folder: str, edge: int) -> measure.Job:
    return computed(folder, edge, 0, edge)


def corner(folder: str, edge: int) -> measure.Job:
    return computed(folder, edge, 0, PIECE)


def middle(folder: str, edge: int) -> measure.Job:
    return computed(folder, edge, edge // 2, PIECE)


def require_same_values(found: dict[str, measure.Found], edge: int) -> None:
    import numpy as np

    values = {name: np.load(str(this.result), mmap_mode="r") for name, this in found.items()}
    for name, first in (("corner", 0), ("middle", edge // 2)):
        want = values["whole"][first : first + PIECE, first : first + PIECE]
        np.testing.assert_allclose(values[name], want, rtol=3e-7, err_msg=name)


def main() -> None:
    given = measure.options(__doc__)
    with measure.scratch() as folder:
        measure.once(__file__, "make_field", folder, edge=given.edge)
        variants = ["whole", "corner", "middle"]
        found = measure.race(__file__, variants, given.repeats, folder, edge=given.edge)
        require_same_values(found, given.edge)
    print(f"\n{given.edge} px square, pieces of {PIECE} px square, {measure.THREADS} threads")
    print(f"{'':14}{'seconds':>9}{'% of whole':>12}{'patches':>9}{'calls':>7}{'peak MiB':>10}")
    for name, this in found.items():
        share = 100 / this.times_faster_than(found["whole"])
        print(
            f"{name:14}{this.median:9.4f}{share:12.3f}{this.facts['patches']:9}"
            f"{this.facts['calls']:7}{this.peak:10.0f}"
        )
    for name in ("corner", "middle"):
        this, of = found[name], found["whole"]
        time = 100 / this.times_faster_than(of)
        measure.reach(f"{name}: time", time, REACH, below=True, unit=" %")
        patches = 100 * this.facts["patches"] / of.facts["patches"]
        measure.reach(f"{name}: patches", patches, REACH, below=True, unit=" %")


if __name__ == "__main__":
    main()
