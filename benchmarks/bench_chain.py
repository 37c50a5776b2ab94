"""COG or Zarr -> threshold model -> stitch -> Zarr, one band, against the bare limit.

    python benchmarks/bench_chain.py [--edge 10980] [--repeats 5] [--source both|cog|zarr]

The bare limit does the same block reads, the same model and the same chunk writes with the same
number of threads, and nothing between: no overlap, no blending. The answers are the same. Beside
the chain itself (a lazy cube, the pipeline, `write_zarr`) stands the whole of `xgc.run`, which
keeps a ledger and a catalog too.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import measure
from measure import CHUNK, OVERLAP, SIZE, THREADS

STORED = 512  # blocks of the COG, chunks of the Zarrs
REACH = 0.8


def threshold(batch):
    return (batch > 1500).astype("float32")


def make_source(folder: str, edge: int, source: str) -> measure.Job:
    """One band of smooth 1/f-like values that deflate compresses about as it does Sentinel-2."""
    import numpy as np
    import odc.geo.xr
    import rasterio
    import xarray as xr
    from affine import Affine
    from odc.geo.geobox import GeoBox

    grid, crs = Affine(10, 0, 699960, 0, -10, 4400040), "EPSG:32610"
    rng = np.random.default_rng(0)
    coarse = rng.normal(1500, 600, (edge // 64 + 2, edge // 64 + 2))
    values = np.kron(coarse, np.ones((64, 64)))[:edge, :edge]
    values += rng.normal(0, 40, values.shape)
    values = values.clip(1, 20000).astype("uint16")

    def cog(out: Path) -> None:
        profile = {"driver": "COG", "height": edge, "width": edge, "count": 1, "dtype": "uint16"}
        profile |= {"crs": crs, "transform": grid, "nodata": 0}
        profile |= {"compress": "deflate", "blocksize": STORED}
        with rasterio.open(path_of(folder, source), "w", **profile) as file:
            file.write(values, 1)

    def zarr(out: Path) -> None:
        coords = odc.geo.xr.xr_coords(GeoBox((edge, edge), grid, crs))
        band = xr.DataArray(values, dims=("y", "x"), coords=coords, name="band")
        band.encoding = {"chunks": (STORED, STORED), "grid_mapping": "spatial_ref"}
        band.to_dataset().to_zarr(path_of(folder, source), zarr_format=3, consolidated=False)

    return {"cog": cog, "zarr": zarr}[source]


def path_of(folder: str, source: str) -> Path:
    return Path(folder) / ("band_20240601.tif" if source == "cog" else "band.zarr")


def domain_of(path: Path, source: str):
    import xarray as xr

    import xgeocat as xgc

    if source == "cog":
        return xgc.from_files([path], time="2024-06-01").geocat.domain(chunks=CHUNK)
    chunks = {"y": CHUNK, "x": CHUNK}
    stored = xr.open_zarr(path, chunks=chunks, decode_coords="all", consolidated=False)
    return xgc.RasterDomain(stored["band"])


def pipeline():
    import xgeocat as xgc

    sampler = xgc.GridSampler(SIZE, overlap=OVERLAP)
    return xgc.Sequential([sampler, xgc.ApplyToChips(threshold), xgc.Stitch(window="hann")])


def xgeocat(folder: str, edge: int, source: str) -> measure.Job:
    from xgeocat.runs.store import write_zarr

    measure.two_threads()
    domain, pipe = domain_of(path_of(folder, source), source), pipeline()

    def job(out: Path) -> Path:
        field = pipe(domain.load(next(iter(domain.slices()))))
        write_zarr(field.to_dataset(name="prediction"), out)
        return out / "prediction"

    return job


def run(folder: str, edge: int, source: str) -> measure.Job:
    import xgeocat as xgc

    measure.two_threads()
    path, pipe = path_of(folder, source), pipeline()

    def job(out: Path) -> Path:
        domain = domain_of(path, source)
        if xgc.run(pipe, domain, out, progress=False).sizes["scene"] != 1:
            raise SystemExit(xgc.failures(out)["failure:traceback"].values[0])
        return next(out.glob("data/**/prediction"))

    return job


def bare(folder: str, edge: int, source: str) -> measure.Job:
    import numpy as np
    import rasterio
    import zarr

    path = path_of(folder, source)

    def read(rows: slice, columns: slice):
        if source == "zarr":
            return zarr.open_array(path / "band", mode="r")[rows, columns]
        with rasterio.open(path) as file:
            return file.read(1, window=rasterio.windows.Window.from_slices(rows, columns))

    def job(out: Path) -> Path:
        like = {"chunks": (STORED, STORED), "dtype": "float32", "fill_value": np.nan}
        target = zarr.create_array(out, shape=(edge, edge), **like)

        def block(at: tuple[int, int]) -> None:
            rows, columns = (slice(i, min(i + CHUNK, edge)) for i in at)
            target[rows, columns] = threshold(read(rows, columns)[None])[0]

        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(block, product(range(0, edge, CHUNK), repeat=2)))
        return out

    return job


def require_same_encoding(found: dict[str, measure.Found]) -> None:
    """Both must write the same chunks with the same codecs, or the race is not fair."""
    about = [json.loads((this.result / "zarr.json").read_text()) for this in found.values()]
    for one in about:  # xgeocat keeps a time of length one
        one["chunks"] = one["chunk_grid"]["configuration"]["chunk_shape"][-2:]
    for key in ("chunks", "data_type", "fill_value", "codecs"):
        if any(one[key] != about[0][key] for one in about):
            raise SystemExit(f"{key} differ: {[one[key] for one in about]}")


def main() -> None:
    given = measure.options(__doc__, source=("both", "cog", "zarr"))
    for source in ("cog", "zarr") if given.source == "both" else (given.source,):
        with measure.scratch() as folder:
            measure.once(__file__, "make_source", folder, edge=given.edge, source=source)
            variants = ["bare", "xgeocat", "run"]
            found = measure.race(
                __file__, variants, given.repeats, folder, edge=given.edge, source=source
            )
            print(f"\n{source} -> zarr, {given.edge} px square, {THREADS} threads")
            measure.table(found, "bare", given.edge**2)
            require_same_encoding(found)
            measure.agree(found, folder)
            ratio = found["xgeocat"].times_faster_than(found["bare"])
            measure.reach(f"{source}: of the bare limit", ratio, REACH)
            whole = found["run"].times_faster_than(found["bare"])
            print(f"  {source}: with ledger and catalog {whole:.3f} of the bare limit")


if __name__ == "__main__":
    main()
