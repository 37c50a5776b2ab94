"""Many small scenes: what a run takes beside the pixels, against a plain loop.

    python benchmarks/bench_scenes.py [--scenes 500] [--repeats 3]

Scenes of 64 x 64 px, one COG each, to a threshold, to one Zarr each. The loop reads with rasterio
and writes with zarr-python, and that is all: no grid, no record, no catalog. `resume` is a run
over scenes that are all finished.
"""

from __future__ import annotations

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


def files(folder: str) -> list[Path]:
    return sorted((Path(folder) / "scenes").glob("*.tif"))


def pipeline():
    import xgeocat as xgc

    model = xgc.ApplyToChips(threshold, name="threshold")
    return xgc.Sequential([xgc.GridSampler(EDGE), model, xgc.Stitch()])


def xgeocat(folder: str, scenes: int) -> measure.Job:
    import xgeocat as xgc

    measure.two_threads()
    domain = xgc.from_files(files(folder), time="2024-06-01").geocat.domain()

    def job(out: Path) -> dict[str, int]:
        return {"scenes": xgc.run(pipeline(), domain, out, progress=False).sizes["scene"]}

    return job


def resume(folder: str, scenes: int) -> measure.Job:
    import xgeocat as xgc

    measure.two_threads()
    domain = xgc.from_files(files(folder), time="2024-06-01").geocat.domain()
    xgc.run(pipeline(), domain, Path(folder) / "finished", progress=False)

    def job(out: Path) -> dict[str, int]:
        found = xgc.run(pipeline(), domain, Path(folder) / "finished", progress=False)
        return {"scenes": found.sizes["scene"]}

    return job


def loop(folder: str, scenes: int) -> measure.Job:
    import numpy as np
    import rasterio
    import zarr

    def job(out: Path) -> dict[str, int]:
        out.mkdir()
        for path in files(folder):
            with rasterio.open(path) as file:
                values = threshold(file.read(1))
            like = {"chunks": (EDGE, EDGE), "dtype": "float32", "fill_value": np.nan}
            zarr.create_array(out / f"{path.stem}.zarr", shape=(EDGE, EDGE), **like)[:] = values
        return {"scenes": len(files(folder))}

    return job


def main() -> None:
    given = measure.options(__doc__, repeats=3, scenes=500)
    with measure.scratch() as folder:
        measure.once(__file__, "make_scenes", folder, scenes=given.scenes)
        variants = ["xgeocat", "resume", "loop"]
        found = measure.race(__file__, variants, given.repeats, folder, scenes=given.scenes)
        measure.table(found, "loop", given.scenes * EDGE**2)
        for name, this in found.items():
            print(f"  {name}: {this.median / given.scenes * 1e3:.2f} ms a scene")
        slower = 1 / found["xgeocat"].times_faster_than(found["loop"])
        measure.reach("xgeocat: of the loop's time", slower, 2, below=True, unit="x")
        resumed = found["resume"].median / given.scenes * 10_000
        measure.reach("resuming 10,000 finished scenes", resumed, 5, below=True, unit=" s")


if __name__ == "__main__":
    main()
