"""Peak memory of the streamed chain, as the raster grows: COG or made by dask -> stitch -> Zarr.

    python benchmarks/bench_streaming_memory.py [--edge 32768] [--repeats 1]

A model on patches of 256 px that overlap by 64 px, a hann window, blocks of 2048 px, 2 threads.
Neither source holds the raster: one is computed block by block, the other a COG of plain blocks
that is cheap to write. GDAL may keep 64 MiB of what it has read (GDAL_CACHEMAX); left to itself it
takes 5 % of the machine's memory. `before` is what the process holds when the run starts. Each run
is a process of its own; of several (--repeats) the largest peak counts.
"""

from __future__ import annotations

from pathlib import Path

import measure
from bench_chain import threshold
from measure import CHUNK, OVERLAP, SIZE

STORED = 512
GROWTH, CEILING = 1.3, 1024


def make_cog(folder: str, edge: int) -> measure.Job:
    """A tiled and deflated GeoTIFF, one value a block, written a row of blocks at a time."""
    import numpy as np
    import rasterio
    from affine import Affine

    profile = {"driver": "GTiff", "height": edge, "width": edge, "count": 1, "dtype": "uint16"}
    profile |= {"crs": "EPSG:32610", "transform": Affine(10, 0, 500000, 0, -10, 4300000)}
    profile |= {"nodata": 0, "tiled": True, "blockxsize": STORED, "blockysize": STORED}
    profile |= {"compress": "deflate", "zlevel": 1}

    def job(out: Path) -> None:
        with rasterio.open(path_of(folder, edge), "w", **profile) as file:
            for row in range(0, edge, STORED):
                columns = np.arange(edge) // STORED
                values = (1000 + (columns + row // STORED) % 9 * 125).astype("uint16")
                height = min(STORED, edge - row)
                window = rasterio.windows.Window(0, row, edge, height)
                file.write(np.broadcast_to(values, (height, edge)), 1, window=window)

    return job


def path_of(folder: str, edge: int) -> Path:
    return Path(folder) / f"band{edge}_20240601.tif"


def made_raster(edge: int):
    """A raster that each task makes its block of."""
    import dask.array as da
    import numpy as np
    import odc.geo.xr
    import xarray as xr
    from affine import Affine
    from odc.geo.geobox import GeoBox

    def block(block_info=None):
        shape, at = (block_info[None][key] for key in ("chunk-shape", "chunk-location"))
        return np.full(shape, 1000 + sum(at) % 9 * 125, "uint16")

    chunks = da.core.normalize_chunks(CHUNK, (edge, edge))
    like = {"dtype": "uint16", "meta": np.empty((0, 0), "uint16")}
    geobox = GeoBox((edge, edge), Affine(10, 0, 500000, 0, -10, 4300000), "EPSG:32610")
    values = da.map_blocks(block, name=f"made-{edge}", chunks=chunks, **like)
    return xr.DataArray(values, dims=("y", "x"), coords=odc.geo.xr.xr_coords(geobox))


def chain(folder: str, edge: int, source: str) -> measure.Job:
    import xgeocat as xgc

    measure.two_threads()
    sampler = xgc.GridSampler(SIZE, overlap=OVERLAP)
    pipe = xgc.Sequential([sampler, xgc.ApplyToChips(threshold), xgc.Stitch(window="hann")])

    def job(out: Path) -> None:
        if source == "made":
            domain = xgc.RasterDomain(made_raster(edge))
        else:
            cog = path_of(folder, edge)
            domain = xgc.from_files([cog], time="2024-06-01").geocat.domain(chunks=CHUNK)
        if xgc.run(pipe, domain, out, progress=False).sizes["scene"] != 1:
            raise SystemExit(xgc.failures(out)["failure:traceback"].values[0])

    return job


def main() -> None:
    given = measure.options(__doc__, repeats=1, edge=32768, source=("both", "cog", "made"))
    edges = [given.edge // 8, given.edge // 4, given.edge // 2, given.edge]
    for source in ("cog", "made") if given.source == "both" else (given.source,):
        print(f"\n{source} -> zarr, {measure.THREADS} threads, peak resident memory")
        print(f"{'px square':>9}{'seconds':>9}{'before MiB':>12}{'peak MiB':>10}")
        peaks = []
        for edge in edges:
            with measure.scratch() as folder:
                if source == "cog":
                    measure.once(__file__, "make_cog", folder, edge=edge)
                about = {"edge": edge, "source": source}
                runs = [
                    measure.once(__file__, "chain", folder, **about) for _ in range(given.repeats)
                ]
            this = max(runs, key=lambda run: run.peak)
            print(f"{edge:9}{this.median:9.1f}{this.before:12.0f}{this.peak:10.0f}", flush=True)
            peaks.append(this.peak)
        growth = f"{source}: growth from {edges[0]} to {edges[-1]} px"
        measure.reach(growth, peaks[-1] / peaks[0], GROWTH, below=True, unit="x")
        measure.reach(f"{source}: largest peak", max(peaks), CEILING, below=True, unit=" MiB")


if __name__ == "__main__":
    main()
