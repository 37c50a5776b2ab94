"""Cloud-Optimized GeoTIFFs, as rasterio reads them."""

from __future__ import annotations

import json
import subprocess
import sys

import dask.array as da
import numpy as np
import odc.geo.xr
import pytest
import rasterio
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox

import xgeocat as xgc
from tests.runs.archive import run
from xgeocat.runs.cog import write_cogs

GRID = Affine(10, 0, 500000, 0, -10, 4300000)


@pytest.fixture
def made():
    """Factory of fields on a grid."""
    rng = np.random.default_rng(0)

    def make(shape=(600, 700), dtype="float32", lead=(), nodata=None, chunks=None):
        geobox = GeoBox(shape, GRID, "EPSG:32610")
        values = rng.integers(0, 2 if dtype == "bool" else 100, (*lead, *shape)).astype(dtype)
        dims = ("time", "band")[2 - len(lead) :]
        field = xr.DataArray(values, dims=(*dims, "y", "x"), coords=odc.geo.xr.xr_coords(geobox),
                             name="made", attrs={} if nodata is None else {"nodata": nodata})  # fmt: skip
        return field if chunks is None else field.chunk(chunks)

    return make


@pytest.mark.parametrize(
    "dtype", ["uint8", "int8", "uint16", "int16", "uint32", "int32", "int64", "float32", "float64",
              "bool", "float16", "complex64"],
)  # fmt: skip
@pytest.mark.parametrize("chunks", [None, {"y": 512, "x": 512}, {"y": 100, "x": 90}])
def test_pixels_grid_and_dtype_are_those_of_the_field(made, tmp_path, dtype, chunks):
    field = made(dtype=dtype, chunks=chunks)
    geobox = write_cogs(field.to_dataset(), tmp_path / "a")
    with rasterio.open(tmp_path / "a" / "made.tif") as file:
        np.testing.assert_array_equal(file.read(1), field.values)
        assert file.transform == GRID == geobox.transform
        assert file.crs.to_epsg() == 32610
        wider = {"bool": "uint8", "float16": "float32"}
        assert file.dtypes == (wider.get(dtype, dtype),)
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["made.tif"]


def test_it_is_a_true_cog(made, tmp_path):
    """What GDAL's validator looks at: layout, tiles, overviews, and headers before pixels."""
    write_cogs(made((2100, 1900), chunks={"y": 512}).to_dataset(), tmp_path / "a")
    with rasterio.open(tmp_path / "a" / "made.tif") as file:
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert file.block_shapes == [(512, 512)]
        assert file.overviews(1) == [2, 4, 8]
        assert file.compression.name == "deflate"
        assert np.isnan(file.nodata)
        first = [int(file.get_tag_item(f"BLOCK_OFFSET_{x}_{y}", "TIFF", bidx=1))
                 for x in range(4) for y in range(5)]  # fmt: skip
        coarser = [int(file.get_tag_item(f"BLOCK_OFFSET_{x}_{y}", "TIFF", bidx=1, ovr=0))
                   for x in range(2) for y in range(3)]  # fmt: skip
    assert max(coarser) < min(first)


@pytest.mark.parametrize(("dtype", "resampled"), [("float32", "average"), ("uint8", "nearest")])
def test_overviews_of_classes_are_classes_and_of_numbers_averages(made, tmp_path, dtype, resampled):
    field = made((1024, 1024), dtype)
    write_cogs(field.to_dataset(), tmp_path / "a")
    with rasterio.open(tmp_path / "a" / "made.tif", overview_level=0) as file:
        coarse = file.read(1)
    if resampled == "average":
        want = field.values.reshape(512, 2, 512, 2).mean(axis=(1, 3))
        np.testing.assert_allclose(coarse, want, rtol=1e-5)
    else:
        blocks = field.values.reshape(512, 2, 512, 2)
        assert (coarse[:, None, :, None] == blocks).any(axis=(1, 3)).all()


def test_other_dims_are_bands_with_their_labels(made, tmp_path):
    field = made(lead=(2, 3), chunks={"y": 512, "time": 1})
    field = field.assign_coords(time=["2024-06-01", "2024-07-01"], band=["red", "nir", "ndvi"])
    write_cogs(field.to_dataset(), tmp_path / "a")
    with rasterio.open(tmp_path / "a" / "made.tif") as file:
        np.testing.assert_array_equal(file.read(), field.values.reshape(6, 600, 700))
        assert file.descriptions[1] == "2024-06-01, nir"
        assert file.descriptions[5] == "2024-07-01, ndvi"


@pytest.mark.parametrize(("dtype", "nodata"), [("uint8", 255), ("int16", -1), ("float32", -9.0)])
def test_nodata_is_declared(made, tmp_path, dtype, nodata):
    write_cogs(made(dtype=dtype, nodata=nodata).to_dataset(), tmp_path / "a")
    with rasterio.open(tmp_path / "a" / "made.tif") as file:
        assert file.nodata == nodata


@pytest.mark.parametrize("chunks", [None, {"y": 512}])
def test_integers_without_nodata_have_none(made, tmp_path, chunks):
    write_cogs(made(dtype="uint8", chunks=chunks).to_dataset(), tmp_path / "a")
    with rasterio.open(tmp_path / "a" / "made.tif") as file:
        assert file.nodata is None


def test_what_a_geotiff_cannot_hold_is_refused_before_anything_is_written(made, tmp_path):
    field = made().astype("datetime64[s]")
    with pytest.raises(ValueError, match=r"datetime64.*sink='zarr'"):
        write_cogs(field.to_dataset(), tmp_path / "a")
    assert not (tmp_path / "a").exists()
    with pytest.raises(ValueError, match="no regular grid"):
        write_cogs(field.drop_vars(["y", "x", "spatial_ref"]).to_dataset(), tmp_path / "a")


def test_a_run_writes_cogs_that_a_run_can_read(make_domain, make_pipe, tmp_path, tree):
    domain = make_domain(3, shape=(600, 700))
    zarrs = run(make_pipe(), domain, tmp_path / "zarr")
    cogs = run(make_pipe(), domain, tmp_path / "cog", sink="cog")
    assert cogs.scene.values.tolist() == zarrs.scene.values.tolist()
    first, second = zarrs.geocat.domain(), xgc.open_catalog(tmp_path / "cog").geocat.domain()
    for a, b in zip(first.slices(), second.slices(), strict=True):
        want = first.load(a)["prediction"].compute()
        found = second.load(b)["prediction"].compute()
        np.testing.assert_array_equal(found, want)
        assert found.odc.geobox == want.odc.geobox
    run(make_pipe(), domain, tmp_path / "again", sink="cog")
    assert tree(tmp_path / "cog") == tree(tmp_path / "again")


def test_another_sink_is_another_run(make_domain, make_pipe, tmp_path):
    from xgeocat.runs.ledger import RunMismatchError

    domain = make_domain(1)
    run(make_pipe(), domain, tmp_path / "out")
    with pytest.raises(RunMismatchError, match="sink.kind: was 'zarr', is 'cog'"):
        run(make_pipe(), domain, tmp_path / "out", sink="cog")
    with pytest.raises(ValueError, match=r"sink='tiff'.*cog.*zarr"):
        run(make_pipe(), domain, tmp_path / "new", sink="tiff")
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_memory_does_not_follow_the_size_of_a_cog(tmp_path, job_environment):
    def peak(size):
        done = subprocess.run(
            [sys.executable, "-W", "ignore", __file__, str(size), str(tmp_path / str(size))],
            env=job_environment, capture_output=True, text=True, timeout=240, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout.splitlines()[-1])

    small, large = peak(4096), peak(8192)
    assert large < 1.3 * small


if __name__ == "__main__":
    from pathlib import Path

    from tests.peak import peak_mib

    n, out = int(sys.argv[1]), Path(sys.argv[2])
    values = da.zeros((n, n), chunks=2048, dtype="float32") + 1
    lazy = xr.DataArray(values, dims=("y", "x"), name="made",
                        coords=odc.geo.xr.xr_coords(GeoBox((n, n), GRID, "EPSG:32610")))  # fmt: skip
    write_cogs(lazy.to_dataset(), out)
    print(peak_mib())
