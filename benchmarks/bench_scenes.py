"""Many small scenes: what a run takes beside the pixels, against a plain loop.

    python benchmarks/bench_scenes.py [--scenes 10000] [--repeats 3]

Scenes of 64 x 64 px, one COG each, to a threshold, to one Zarr each: a hundredth of them, a tenth,
and all, which are done once and without a warm-up. The loop reads with rasterio and writes with
zarr-python, and that is all: no grid, no record, no catalog. `resume` is a run over scenes that are
all finished.
"""

from __future__ import annotations

import time
from pathlib import Path

import measure

EDGE = 64


def threshold(batch):
    return (batch > 1500).astype("float32")


def make_scenes(folder: str, scenes: int) -> measure.Job:
    import numpy as np
    import rasterio
    from affine import Affine

    rng = np.random.default_rng(0)

    def job(out: Path) -> None:
        (Path(folder) / "scenes").mkdir()
        for number in range(scenes):
            corner = Affine(10, 0, 500_000 + 640 * (number % 100), 0, -10, 4e6 - 640 * number)
            profile = {"driver": "COG", "height": EDGE, "width": EDGE, "count": 1}
            profile |= {"dtype": "uint16", "crs": "EPSG:32610", "transform": corner, "nodata": 0}
            path = Path(folder) / "scenes" / f"s{number:05d}.tif"
            with rasterio.open(path, "w", compress="deflate", **profile) as file:
                file.write(rng.integers(1, 9999, (EDGE, EDGE)).astype("uint16"), 1)

    return job


def files(folder: str, scenes: int) -> list[Path]:
    return sorted((Path(folder) / "scenes").glob("*.tif"))[:scenes]


def domain_of(folder: str, scenes: int):
    import xgeocat as xgc

    return xgc.from_files(files(folder, scenes), time="2024-06-01").geocat.domain()


def pipeline():
    import xgeocat as xgc

    model = xgc.ApplyToChips(threshold, name="threshold")
    return xgc.Sequential([xgc.GridSampler(EDGE), model, xgc.Stitch()])


def xgeocat(folder: str, scenes: int) -> measure.Job:
    import xgeocat as xgc

    measure.two_threads()
    domain = domain_of(folder, scenes)

    def job(out: Path) -> dict[str, int]:
        return {"scenes": xgc.run(pipeline(), domain, out, progress=False).sizes["scene"]}

    return job


def resume(folder: str, scenes: int) -> measure.Job:
    """What `xgeocat` has finished in the same folder."""
    import xgeocat as xgc

    measure.two_threads()
    start = time.perf_counter()
    domain = domain_of(folder, scenes)
    headers = time.perf_counter() - start

    def job(out: Path) -> dict[str, float]:
        found = xgc.run(pipeline(), domain, Path(folder) / "xgeocat", progress=False)
        return {"scenes": found.sizes["scene"], "headers": headers}

    return job


def loop(folder: str, scenes: int) -> measure.Job:
    import numpy as np
    import rasterio
    import zarr

    paths = files(folder, scenes)

    def job(out: Path) -> dict[str, int]:
        out.mkdir()
        for path in paths:
            with rasterio.open(path) as file:
                values = threshold(file.read(1))
            like = {"chunks": (EDGE, EDGE), "dtype": "float32", "fill_value": np.nan}
            zarr.create_array(out / f"{path.stem}.zarr", shape=(EDGE, EDGE), **like)[:] = values
        return {"scenes": len(paths)}

    return job


def main() -> None:
    given = measure.options(__doc__, repeats=3, scenes=10_000)
    each = {}
    with measure.scratch() as folder:
        measure.once(__file__, "make_scenes", folder, scenes=given.scenes)
        for scenes in sorted({max(given.scenes // n, 1) for n in (100, 10, 1)}):
            repeats = 0 if scenes == given.scenes else given.repeats
            found = measure.race(__file__, ["xgeocat", "loop"], repeats, folder, scenes=scenes)
            again = measure.once(__file__, "resume", folder, scenes=scenes)
            for name, this in {**found, "resume": again}.items():
                if this.facts["scenes"] != scenes:
                    raise SystemExit(f"{name}: {this.facts['scenes']} of {scenes} scenes are done")
            print(f"\n{scenes} scenes")
            measure.table(found, "loop", scenes * EDGE**2)
            for name, this in {**found, "resume": again}.items():
                print(f"  {name}: {this.median / scenes * 1e3:.2f} ms a scene")
            each[scenes] = found["xgeocat"].median / scenes
        slower = 1 / found["xgeocat"].times_faster_than(found["loop"])
        measure.reach("xgeocat: of the loop's time", slower, 2, below=True, unit="x")
        growth = each[given.scenes] / min(each.values())
        measure.reach("a scene of all, of one of the fewest", growth, 1.2, below=True, unit="x")
        resumed = again.median / given.scenes * 10_000
        measure.reach("resuming 10,000 finished scenes", resumed, 5, below=True, unit=" s")
        print(f"  beside that, reading the headers of all files: {again.facts['headers']:.1f} s")


if __name__ == "__main__":
    main()
