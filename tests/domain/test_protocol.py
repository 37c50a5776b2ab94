"""Domain: one pipeline, whatever it is run over."""

import json
import pickle
from pathlib import Path

import dask.array as da
import numpy as np
import odc.geo.xr
import pytest
import xarray as xr
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox
from odc.geo.geom import BoundingBox, bbox_union

import xgeocat as xgc
from tests.domain import scenes

UTM = "EPSG:32610"


class Folder:
    """A third party's domain: a folder of (band, y, x) .npy files with a little JSON beside each."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def _grid(self, name: str) -> GeoBox:
        about = json.loads((self.root / f"{name}.json").read_text())
        return GeoBox(tuple(about["shape"]), scenes.Affine(*about["transform"]), about["crs"])

    @property
    def names(self) -> list[str]:
        return sorted(path.stem for path in self.root.glob("*.npy"))

    @property
    def crs(self):
        return CRS(UTM)

    @property
    def bounds(self) -> BoundingBox | None:
        boxes = [self._grid(name).boundingbox for name in self.names]
        return bbox_union(boxes) if boxes else None

    def __len__(self) -> int:
        return len(self.names)

    def slices(self):
        for name in self.names:
            yield xgc.GeoSlice(geobox=self._grid(name), scenes=[name])

    def load(self, request, bands=None):
        (name,) = request.scenes
        values = np.load(self.root / f"{name}.npy", mmap_mode="r")
        chunked = da.from_array(values, chunks=(1, 33, 41), name=f"{name}-{values.shape}")
        known = ["red", "nir"]
        grid = odc.geo.xr.xr_zeros(request.geobox, dtype="uint8")
        return xr.Dataset(
            {band: (("y", "x"), chunked[known.index(band)], {"nodata": 0})
             for band in (bands or known)},
            coords=grid.coords,
        )  # fmt: skip


@pytest.fixture
def make_folder(tmp_path):
    def make(n=3, shape=(70, 90)):
        root = tmp_path / "folder"
        root.mkdir(exist_ok=True)
        for i in range(n):
            values = np.stack([scenes.pixels(shape, seed=10 * i + k) for k in (1, 2)])
            np.save(root / f"s{i}.npy", values)
            about = {"shape": shape, "transform": list(scenes.GRID)[:6], "crs": UTM}
            (root / f"s{i}.json").write_text(json.dumps(about))
        return Folder(root)

    return make


def contrast(batch):
    """A model that sees its whole patch, so that tiling shows: (batch, 2, y, x) -> (batch, y, x)."""
    red, nir = batch[:, 0].astype("float32"), batch[:, 1].astype("float32")
    known = (red > 0) & (nir > 0)
    mean = nir.mean(axis=(-2, -1), keepdims=True) if len(nir) else nir
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(known, (nir - red) / (nir + red) + mean / 1e4, np.nan).astype("float32")


PIPE = xgc.Sequential(
    [
        xgc.GridSampler(32, overlap=8),
        xgc.ApplyToChips(contrast, name="contrast"),
        xgc.Stitch("hann"),
    ]
)


def expected(i, shape=(70, 90)):
    values = np.stack([scenes.pixels(shape, seed=10 * i + k) for k in (1, 2)])
    return scenes.eager(values, contrast, 32, 8, scenes.hann)


def test_the_package_s_domains_and_a_third_party_s_are_domains(make_catalog, make_folder):
    raster = odc.geo.xr.xr_zeros(GeoBox((4, 5), scenes.GRID, UTM))
    assert isinstance(xgc.RasterDomain(raster), xgc.Domain)
    assert isinstance(make_catalog(1).geocat.domain(), xgc.Domain)
    assert isinstance(make_folder(1), xgc.Domain)


@pytest.mark.parametrize("thing", [[], {}, "path", xr.Dataset(), None, 3])
def test_other_things_are_not(thing):
    assert not isinstance(thing, xgc.Domain)


@pytest.mark.parametrize("lacking", ["crs", "bounds", "__len__", "slices", "load"])
def test_one_that_lacks_a_member_is_not(lacking):
    members = {name: (lambda self: None) for name in ("crs", "bounds", "__len__", "slices", "load")}
    assert isinstance(type("Whole", (), members)(), xgc.Domain)
    del members[lacking]
    assert not isinstance(type("Partial", (), members)(), xgc.Domain)


def test_slices_come_in_the_same_order_and_equal_every_time(make_catalog, make_folder):
    for domain in (make_catalog(4).geocat.domain(), make_folder(4)):
        first, second = list(domain.slices()), list(domain.slices())
        assert first == second
        assert len(first) == len(domain) == 4


def test_a_domain_s_slices_load_in_another_process_s_copy_of_it(make_catalog):
    domain = make_catalog(2).geocat.domain()
    moved = pickle.loads(pickle.dumps(domain))
    assert list(moved.slices()) == list(domain.slices())
    for piece in moved.slices():
        xr.testing.assert_identical(moved.load(piece).compute(), domain.load(piece).compute())


def test_load_reads_no_pixel_until_computed(make_catalog, make_folder):
    for domain in (make_catalog(1).geocat.domain(), make_folder(1)):
        cube = domain.load(next(domain.slices()))
        assert all(var.chunks is not None for var in cube.data_vars.values())


def test_a_third_party_domain_runs_through_the_same_pipeline(make_folder):
    domain = make_folder(2)
    for i, piece in enumerate(domain.slices()):
        field = PIPE(domain.load(piece))
        assert field.chunks is not None
        scenes.assert_same(field.values, expected(i))


def test_a_third_party_domain_runs_through_run(make_folder, tmp_path):
    domain = make_folder(3)
    out = xgc.run(PIPE, domain, tmp_path / "out", progress=False)
    assert out.scene.values.tolist() == ["s0", "s1", "s2"]
    reloaded = out.geocat.domain()
    for i, piece in enumerate(reloaded.slices()):
        cube = reloaded.load(piece)
        assert cube.odc.geobox == GeoBox((70, 90), scenes.GRID, UTM)
        scenes.assert_same(cube["prediction"].values[0], expected(i))


def first_band(batch):
    assert batch.ndim == 4
    return batch[:, 0]


def test_an_empty_third_party_domain_gives_an_empty_catalog(make_folder, tmp_path):
    out = xgc.run(PIPE, make_folder(0), tmp_path / "out", progress=False)
    assert out.sizes["scene"] == 0


@pytest.fixture
def three_ways(make_catalog, tmp_path):
    """The same pixels in memory, as files of a catalog, and in a Zarr store."""
    values = {name: scenes.pixels(seed=k) for k, name in enumerate(("red", "nir"), start=1)}
    grid = odc.geo.xr.xr_zeros(GeoBox((70, 90), scenes.GRID, UTM), dtype="uint8")
    memory = xr.Dataset(
        {name: (("y", "x"), v, {"nodata": 0}) for name, v in values.items()}, coords=grid.coords
    )
    memory.chunk(y=20, x=64).to_zarr(tmp_path / "cube.zarr", zarr_format=3, consolidated=False)
    stored = xr.open_zarr(
        tmp_path / "cube.zarr", consolidated=False, mask_and_scale=False, decode_coords="all"
    )
    return {
        "memory": xgc.RasterDomain(memory),
        "files": make_catalog(1).geocat.domain(),
        # By name: zarr lists the members of a group in no fixed order.
        "zarr": xgc.RasterDomain(stored[["red", "nir"]]),
    }


@pytest.mark.parametrize("where", ["memory", "files", "zarr"])
def test_the_same_pipeline_gives_the_same_field_over_memory_files_and_zarr(three_ways, where):
    domain = three_ways[where]
    (piece,) = domain.slices()
    field = PIPE(domain.load(piece))
    assert field.dims == ("y", "x")
    assert field.odc.geobox == GeoBox((70, 90), scenes.GRID, UTM)
    scenes.assert_same(field.values, expected(0))


def test_runs_over_memory_files_and_zarr_write_the_same_pixels(three_ways, tmp_path):
    found = []
    for where, domain in three_ways.items():
        out = xgc.run(PIPE, domain, tmp_path / where, progress=False)
        reloaded = out.geocat.domain()
        (piece,) = reloaded.slices()
        found.append(reloaded.load(piece)["prediction"].values)
    scenes.assert_same(found[0], found[1])
    scenes.assert_same(found[0], found[2])
    scenes.assert_same(found[0][0], expected(0))
