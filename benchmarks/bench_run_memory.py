"""Peak memory of `xgc.run` for one scene, as the scene grows: COG -> threshold -> stitch -> Zarr.

    python benchmarks/bench_run_memory.py [--edge 16384] [--repeats 1]

Scenes as those of bench_archive.py, of an eighth of the edge and up; 2 threads. `before` is what
the process holds when the run starts, GDAL may keep 64 MiB of what it has read (GDAL_CACHEMAX).
Each run is a process of its own; of several (--repeats) the largest peak counts.
"""

from __future__ import annotations

from pathlib import Path

import measure
from bench_archive import catalog_of, make_scene, run_into
from measure import CHUNK

GROWTH = 1.3


def make_cog(folder: str, edge: int) -> measure.Job:
    def job(out: Path) -> None:
        (Path(folder) / "scenes").mkdir()
        make_scene(Path(folder) / "scenes" / "s00000.tif", edge)

    return job


def one_run(folder: str, edge: int) -> measure.Job:
    measure.two_threads()
    domain = catalog_of(folder).geocat.domain(chunks=CHUNK)
    return lambda out: run_into(out, domain)


def main() -> None:
    given = measure.options(__doc__, repeats=1, edge=16384)
    print(f"COG -> zarr, {measure.THREADS} threads, peak resident memory")
    head = ("px square", "seconds", "Mpx/s", "before MiB", "peak MiB", "ratio")
    print(("{:>9}{:>9}{:>8}{:>12}{:>10}{:>8}").format(*head))
    peaks: list[float] = []
    for edge in (given.edge // 8, given.edge // 4, given.edge // 2, given.edge):
        with measure.scratch() as folder:
            measure.once(__file__, "make_cog", folder, edge=edge)
            runs = [
                measure.once(__file__, "one_run", folder, edge=edge) for _ in range(given.repeats)
            ]
        this = max(runs, key=lambda run: run.peak)
        peaks.append(this.peak)
        print(
            f"{edge:9}{this.median:9.2f}{edge**2 / 1e6 / this.median:8.1f}{this.before:12.0f}"
            f"{this.peak:10.0f}{this.peak / peaks[0]:8.2f}",
            flush=True,
        )
    largest = f"largest peak, of that at {given.edge // 8} px"
    measure.reach(largest, max(peaks) / peaks[0], GROWTH, below=True, unit="x")
    beyond = f"largest peak, of that at {given.edge // 4} px"
    measure.reach(beyond, max(peaks) / peaks[1], GROWTH, below=True, unit="x")


if __name__ == "__main__":
    main()
