"""Sinks: what is written is where it was, what it was, and whole."""

import json
import threading
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import odc.geo.xr
import pyproj
import pytest
import rioxarray
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox
from zarr.storage import LocalStore

from tests.domain import scenes
from xgeocat.runs import store as store_module
from xgeocat.runs.store import CHUNK, write_zarr

UTM = "EPSG:32610"
GRIDS = {
    "utm": (scenes.GRID, UTM),
    "degrees": (scenes.Affine(0.001, 0, -120.5, 0, -0.001, 39.25), "EPSG:4326"),
    "thirds": (scenes.Affine(1 / 3, 0, 0.1, 0, -1 / 3, 0.7), "EPSG:3857"),
    "albers without a code": (
        scenes.Affine(30, 0, -2e6, 0, -30, 2e6),
        "+proj=aea +lat_1=29.5 +lat_2=45.5 +lat_0=23 +lon_0=-96 +datum=NAD83 +units=m +no_defs",
    ),
    "south up": (scenes.Affine(10, 0, 500000, 0, 10, 4299300), UTM),
    "oblong pixels": (scenes.Affine(10, 0, 500000, 0, -20, 4300000), UTM),
}
#: dtype, nodata: what models answer.
KINDS = [("bool", None), ("uint8", None), ("uint8", 255), ("int16", -999), ("int8", -1),
         ("float32", None), ("float32", -9999.0), ("float64", None)]  # fmt: skip


def field(
    shape=(70, 90), dtype="float32", grid="utm", nodata=None, chunks=None, extra=(), seed=0
):  # fmt: skip
    """A field with some unknown cells, if its dtype can say so."""
    transform, crs = GRIDS[grid]
    coords = odc.geo.xr.xr_zeros(GeoBox(shape, transform, crs), dtype="uint8")
    rng = np.random.default_rng(seed)
    sizes = dict(extra)
    values = rng.uniform(
        -100 if np.dtype(dtype).kind in "if" else 0, 100, (*sizes.values(), *shape)
    )
    values = values > 50 if dtype == "bool" else values.astype(dtype)
    if nodata is not None:
        values[..., :9, :5] = nodata
    elif np.dtype(dtype).kind == "f":
        values[..., :9, :5] = np.nan
    made = xr.DataArray(
        values, dims=(*sizes, *coords.dims), coords=coords.coords, name="prediction"
    )
    if nodata is not None:
        made.attrs["nodata"] = nodata
    return made if chunks is None else made.chunk(dict(zip(coords.dims, chunks, strict=True)))


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize(("dtype", "nodata"), [("float32", None), ("uint8", 255)])
def test_odc_rioxarray_and_xarray_read_back_the_grid_and_the_pixels(tmp_path, grid, dtype, nodata):
    made = field(grid=grid, dtype=dtype, nodata=nodata)
    geobox = write_zarr(made.to_dataset(), LocalStore(tmp_path / "a.zarr"))
    assert geobox == made.odc.geobox
    back = xr.open_zarr(
        tmp_path / "a.zarr", consolidated=False, mask_and_scale=False, decode_coords="all"
    )["prediction"]
    np.testing.assert_array_equal(back.values, made.values)
    assert back.dtype == made.dtype
    transform, crs = GRIDS[grid]
    want = pyproj.CRS.from_user_input(crs)
    assert back.odc.geobox.transform == made.odc.geobox.transform
    assert back.odc.geobox.transform.almost_equals(transform, precision=1e-9)
    assert pyproj.CRS(back.odc.geobox.crs.to_wkt()) == want
    y, x = back.dims
    spatial = back.rio.set_spatial_dims(x_dim=x, y_dim=y)
    assert spatial.rio.transform().almost_equals(transform, precision=1e-9)
    assert pyproj.CRS(spatial.rio.crs.to_wkt()) == want


@pytest.mark.parametrize(
    ("grid", "dtype", "nodata"),
    [("utm", *kind) for kind in KINDS] + [(grid, "int16", -999) for grid in GRIDS],
)
def test_gdal_reads_back_the_grid_the_pixels_and_nodata(
    tmp_path, read_with_gdal, grid, dtype, nodata
):
    made = field(grid=grid, dtype=dtype, nodata=nodata, chunks=(30, 40))
    write_zarr(made.to_dataset(), LocalStore(tmp_path / "a.zarr"))
    seen = read_with_gdal(tmp_path / "a.zarr", "prediction")
    transform, crs = GRIDS[grid]
    np.testing.assert_allclose(seen.transform, transform[:6], rtol=1e-9)
    assert seen.crs is not None
    assert seen.crs.equals(pyproj.CRS.from_user_input(crs), ignore_axis_order=True)
    values = made.values.astype("uint8") if dtype == "bool" else made.values
    np.testing.assert_array_equal(seen.values[0], values)
    if np.dtype(dtype).kind == "f" and nodata is None:
        assert np.isnan(seen.nodata)
    elif nodata is not None:
        assert seen.nodata == nodata


@pytest.mark.parametrize("dtype", ["uint8", "int16"])
def test_gdal_masks_nothing_where_every_value_is_an_answer(tmp_path, read_with_gdal, dtype):
    """GDAL takes a Zarr array's fill_value for its nodata: class 0 must not be it (a boolean has no value to spare)."""
    made = field(dtype=dtype)
    assert (made == 0).any()
    write_zarr(made.to_dataset(), LocalStore(tmp_path / "a.zarr"))
    seen = read_with_gdal(tmp_path / "a.zarr", "prediction")
    assert seen.nodata is None or not (seen.values == seen.nodata).any()


@pytest.mark.parametrize(("dtype", "nodata"), KINDS)
def test_xarray_masks_what_is_unknown_and_nothing_else(tmp_path, dtype, nodata):
    made = field(dtype=dtype, nodata=nodata)
    write_zarr(made.to_dataset(), LocalStore(tmp_path / "a.zarr"))
    back = xr.open_zarr(tmp_path / "a.zarr", consolidated=False)["prediction"]
    want = made.values.astype("float64")
    want = want if nodata is None else np.where(want == nodata, np.nan, want)
    np.testing.assert_array_equal(back.values.astype("float64"), want)


@pytest.mark.parametrize(("dtype", "nodata"), KINDS)
@pytest.mark.parametrize("chunks", [None, (30, 40)], ids=["numpy", "dask"])
def test_the_dtype_on_disk_is_that_of_the_field(tmp_path, dtype, nodata, chunks):
    write_zarr(
        field(dtype=dtype, nodata=nodata, chunks=chunks).to_dataset(),
        LocalStore(tmp_path / "a.zarr"),
    )
    about = json.loads((tmp_path / "a.zarr" / "prediction" / "zarr.json").read_text())
    assert about["data_type"] in ({"bool", "int8", "uint8"} if dtype == "bool" else {dtype})


def test_several_bands_are_one_array_that_gdal_reads_band_by_band(tmp_path, read_with_gdal):
    made = field(extra={"band": 3})
    write_zarr(made.to_dataset(), LocalStore(tmp_path / "a.zarr"))
    seen = read_with_gdal(tmp_path / "a.zarr", "prediction")
    np.testing.assert_array_equal(seen.values, made.values)
    assert seen.crs.to_epsg() == 32610


def test_several_variables_are_several_arrays(tmp_path, read_with_gdal):
    made = xr.Dataset({"water": field(dtype="uint8", nodata=255), "depth": field(seed=2)})
    write_zarr(made, LocalStore(tmp_path / "a.zarr"))
    for name in ("water", "depth"):
        seen = read_with_gdal(tmp_path / "a.zarr", name)
        np.testing.assert_array_equal(seen.values[0], made[name].values)


@pytest.mark.parametrize("named", [True, False])
def test_labels_of_bands_are_kept(tmp_path, named):
    made = field(extra={"band": 2})
    if named:
        made = made.assign_coords(band=["land", "water"])
    write_zarr(made.to_dataset(), LocalStore(tmp_path / "a.zarr"))
    back = xr.open_zarr(tmp_path / "a.zarr", consolidated=False)
    np.testing.assert_array_equal(back["prediction"].values, made.values)
    if named:
        assert back["band"].values.tolist() == ["land", "water"]


def test_labels_of_bands_that_are_objects_are_kept(tmp_path):
    made = field(extra={"band": 2}).assign_coords(band=np.array(["land", "water"], object))
    write_zarr(made.to_dataset(), LocalStore(tmp_path / "a.zarr"))
    back = xr.open_zarr(tmp_path / "a.zarr", consolidated=False)
    assert back["band"].values.tolist() == ["land", "water"]


def test_no_attribute_of_the_source_contradicts_what_is_written(tmp_path):
    """rioxarray keeps `_FillValue` among the attrs, which xarray refuses to write over."""
    made = field(dtype="uint8")
    made.attrs["_FillValue"] = 7
    write_zarr(made.to_dataset(), LocalStore(tmp_path / "a.zarr"))
    back = xr.open_zarr(tmp_path / "a.zarr", consolidated=False, mask_and_scale=False)
    np.testing.assert_array_equal(back["prediction"].values, made.values)
    stored = {**back["prediction"].attrs, **back["prediction"].encoding}
    assert stored["_FillValue"] == 7


def test_other_attrs_are_kept_and_the_input_is_not_changed(tmp_path):
    made = field(nodata=-9999.0)
    made.attrs |= {"long_name": "water", "numbers": [1, 2], "one": np.float32(0.5)}
    before = made.copy(deep=True)
    write_zarr(made.to_dataset(), LocalStore(tmp_path / "a.zarr"))
    xr.testing.assert_identical(made, before)
    assert made.encoding == before.encoding
    back = xr.open_zarr(tmp_path / "a.zarr", consolidated=False)["prediction"]
    assert back.attrs["long_name"] == "water"
    assert list(back.attrs["numbers"]) == [1, 2]
    assert back.attrs["one"] == 0.5


def test_dimensions_in_another_order_end_up_as_y_x(tmp_path, read_with_gdal):
    made = field(extra={"band": 2})
    write_zarr(made.transpose("x", "band", "y").to_dataset(), LocalStore(tmp_path / "a.zarr"))
    np.testing.assert_array_equal(
        read_with_gdal(tmp_path / "a.zarr", "prediction").values, made.values
    )


def test_geographic_fields_may_have_dimensions_called_y_and_x(tmp_path, read_with_gdal):
    """rioxarray calls them so, whatever the CRS."""
    made = field(grid="degrees").rename(latitude="y", longitude="x")
    assert made.odc.geobox is not None
    geobox = write_zarr(made.to_dataset(), LocalStore(tmp_path / "a.zarr"))
    assert geobox.transform.almost_equals(GRIDS["degrees"][0], precision=1e-9)
    seen = read_with_gdal(tmp_path / "a.zarr", "prediction")
    np.testing.assert_array_equal(seen.values[0], made.values)
    np.testing.assert_allclose(seen.transform, GRIDS["degrees"][0][:6], rtol=1e-9)


def test_a_field_as_rioxarray_opens_it_can_be_written(tmp_path):
    path = scenes.write_cog(tmp_path / "a.tif", scenes.pixels(), scales=(0.5,), offsets=(2.0,))
    with rioxarray.open_rasterio(path) as raster:
        made = raster.squeeze("band", drop=True).to_dataset(name="prediction")
        write_zarr(made, LocalStore(tmp_path / "a.zarr"))
    back = xr.open_zarr(tmp_path / "a.zarr", consolidated=False, mask_and_scale=False)
    np.testing.assert_array_equal(back["prediction"].values, scenes.read(path))


@pytest.mark.parametrize("shape", [(1, 90), (70, 1), (1, 1)])
def test_one_row_or_column_keeps_its_grid(tmp_path, shape):
    made = field(shape=shape, dtype="uint8")
    write_zarr(made.to_dataset(), LocalStore(tmp_path / "a.zarr"))
    back = xr.open_zarr(tmp_path / "a.zarr", consolidated=False, decode_coords="all")["prediction"]
    assert back.odc.geobox == GeoBox(shape, scenes.GRID, UTM)
    # GDAL 3.12 takes a Zarr array's transform from its coordinates alone: two are needed of each.


@pytest.mark.parametrize("what", ["no crs", "no grid", "irregular", "no dims"])
def test_a_field_that_is_nowhere_is_refused(tmp_path, what):
    made = field()
    if what == "no crs":
        made = made.drop_vars(["spatial_ref", "y", "x"]).assign_coords(
            y=made.y.values, x=made.x.values
        )
    elif what == "no grid":
        made = made.drop_vars(["spatial_ref", "y", "x"])
    elif what == "irregular":
        made = made.isel(x=[0, 1, 3, 7, 20])
    else:
        made = made.mean(["y", "x"])
    made.encoding = {}
    with pytest.raises(ValueError, match="grid|CRS"):
        write_zarr(made.to_dataset(), LocalStore(tmp_path / "a.zarr"))
    assert not (tmp_path / "a.zarr").exists()


def test_a_grid_mapping_under_another_name_is_kept(tmp_path):
    made = field().rename(spatial_ref="crs")
    made.encoding["grid_mapping"] = "crs"
    write_zarr(made.to_dataset(), LocalStore(tmp_path / "a.zarr"))
    back = xr.open_zarr(tmp_path / "a.zarr", consolidated=False, decode_coords="all")["prediction"]
    assert back.odc.geobox == GeoBox((70, 90), scenes.GRID, UTM)


def test_what_a_broken_attempt_left_is_replaced(tmp_path):
    """In an object store, where nothing can be moved, attempts write over one another."""
    write_zarr(field().to_dataset(), LocalStore(tmp_path / "a.zarr"))
    (tmp_path / "a.zarr" / "prediction" / "c" / "0" / "0").write_bytes(b"half")
    write_zarr(field().to_dataset(), LocalStore(tmp_path / "a.zarr"))
    write_zarr(field().to_dataset(), LocalStore(tmp_path / "fresh.zarr"))
    listing = [
        {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}
        for root in (tmp_path / "a.zarr", tmp_path / "fresh.zarr")
    ]
    assert listing[0] == listing[1]


def test_chunking_of_the_source_changes_no_byte_on_disk(tmp_path):
    found = []
    for i, chunks in enumerate([None, (512, 512), (100, 300), (1100, 7), (1, 1300)]):
        root = tmp_path / f"{i}.zarr"
        write_zarr(field((1100, 1300), chunks=chunks).to_dataset(), LocalStore(root))
        found.append(
            {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}
        )
    assert all(other == found[0] for other in found[1:])


@pytest.mark.parametrize(("dtype", "nodata"), KINDS)
@pytest.mark.parametrize("shape", [(512, 512), (1100, 1300), (70, 90), (2, 600, 513)])
@pytest.mark.parametrize("chunks", [None, (512, 512)])
def test_chunks_that_go_straight_to_a_disk_are_those_of_zarr(
    tmp_path, monkeypatch, dtype, nodata, shape, chunks
):
    extra = [("band", shape[0])] if len(shape) == 3 else []
    made = field(shape[-2:], dtype=dtype, nodata=nodata, extra=extra, chunks=chunks)
    if dtype != "bool" and len(shape) == 3:
        # A whole chunk of nothing.
        made = made.where(made.band > 0, np.nan if nodata is None else nodata).astype(dtype)
    made = made.to_dataset()
    went = []
    straight = store_module._put
    with monkeypatch.context() as patch:
        patch.setattr(store_module, "_put", lambda *args: (went.append(1), straight(*args)))
        write_zarr(made, LocalStore(tmp_path / "straight.zarr"))
    with monkeypatch.context() as patch:
        patch.setattr(store_module, "_is_plain", lambda array: False)
        write_zarr(made, LocalStore(tmp_path / "zarr.zarr"))
    one, other = (
        {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}
        for root in (tmp_path / "straight.zarr", tmp_path / "zarr.zarr")
    )
    assert one == other
    assert went, "nothing went straight"


# --- law 6: one writer ----------------------------------------------------------------------------


@pytest.fixture
def spied(monkeypatch):
    """Write with `write_zarr`; return the chunks written to any local store, and those read."""

    def write(made, path):
        written, read, lock = [], [], threading.Lock()

        def note(seen, store, key):
            relative = (Path(store.root) / key).relative_to(path).as_posix()
            if relative.startswith("prediction/c"):
                with lock:
                    seen.append(relative)

        with monkeypatch.context() as patch:
            for name in ("set", "get"):
                whole = getattr(LocalStore, name)
                patch.setattr(
                    LocalStore, name, _noted(whole, written if name == "set" else read, note)
                )
            straight = LocalStore.set_sync

            def set_sync(self, key, value):
                note(written, self, key)
                straight(self, key, value)

            patch.setattr(LocalStore, "set_sync", set_sync)
            write_zarr(made, LocalStore(path))
        return written, read

    return write


def _noted(whole, seen, note):
    async def call(self, key, *args, **kwargs):
        note(seen, self, key)
        return await whole(self, key, *args, **kwargs)

    return call


def expected_chunks(shape, extra=()):
    rows, columns = (-(-n // CHUNK) for n in shape)
    lead = "".join("/0" for _ in extra)
    return sorted(f"prediction/c{lead}/{r}/{c}" for r in range(rows) for c in range(columns))


CHUNKINGS = [
    None, (512, 512), (2048, 2048), (1024, 512), (100, 100), (511, 513), (1, 1300), (1100, 1),
    (300, 700), (513, 512), (2048, 37),
]  # fmt: skip


@pytest.mark.parametrize("chunks", CHUNKINGS)
def test_every_chunk_is_written_once_and_none_is_read_back(tmp_path, spied, chunks):
    made = field((1100, 1300), chunks=chunks)
    written, read = spied(made.to_dataset(), tmp_path / "a.zarr")
    assert sorted(written) == expected_chunks((1100, 1300))
    assert read == []


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_every_chunk_is_written_once_for_any_chunking(tmp_path_factory, spied, data):
    shape = tuple(data.draw(st.integers(1, 1200)) for _ in range(2))
    chunks = []
    for n in shape:
        cuts = data.draw(st.lists(st.integers(1, max(n - 1, 1)), max_size=4))
        cuts += data.draw(st.lists(st.sampled_from([512, 1024]), max_size=2))
        edges = sorted({0, n, *(c for c in cuts if c < n)})
        chunks.append(tuple(int(d) for d in np.diff(edges)))
    made = field(shape, dtype="uint8", chunks=chunks)
    written, read = spied(made.to_dataset(), tmp_path_factory.mktemp("law6") / "a.zarr")
    assert sorted(written) == expected_chunks(shape)
    assert read == []


def test_every_chunk_of_every_band_is_written_once(tmp_path, spied):
    made = field((600, 700), extra={"band": 3}).chunk(band=2, y=200, x=700)
    written, read = spied(made.to_dataset(), tmp_path / "a.zarr")
    want = [f"prediction/c/{b}/{r}/{c}" for b in range(3) for r in range(2) for c in range(2)]
    assert sorted(written) == sorted(want)
    assert read == []


@pytest.mark.parametrize("chunks", [(100, 100), (511, 513), (512, 512)])
def test_each_block_is_computed_once_when_written(tmp_path, chunks):
    """Rechunking on the way to disk must not run a model twice."""
    counts, lock = {}, threading.Lock()

    def block(block_info=None):
        at = block_info[None]["chunk-location"]
        with lock:
            counts[at] = counts.get(at, 0) + 1
        return np.full(block_info[None]["chunk-shape"], 1.0, "float32")

    like = field((1100, 1300), chunks=chunks)
    data = da.map_blocks(
        block, chunks=like.chunks, dtype="float32", meta=np.empty((0, 0), "float32")
    )
    write_zarr(like.copy(data=data).to_dataset(), LocalStore(tmp_path / "a.zarr"))
    assert set(counts.values()) == {1}
    assert len(counts) == data.npartitions


def test_chunks_on_disk_are_small_enough_for_a_corner(tmp_path):
    write_zarr(
        field((1100, 1300), chunks=(1100, 1300)).to_dataset(), LocalStore(tmp_path / "a.zarr")
    )
    about = json.loads((tmp_path / "a.zarr" / "prediction" / "zarr.json").read_text())
    assert about["chunk_grid"]["configuration"]["chunk_shape"] == [512, 512]


def test_writing_stays_in_threads_it_is_given(tmp_path):
    with dask.config.set(scheduler="synchronous"):
        write_zarr(
            field((600, 600), chunks=(100, 100)).to_dataset(), LocalStore(tmp_path / "a.zarr")
        )
    back = xr.open_zarr(tmp_path / "a.zarr", consolidated=False, mask_and_scale=False)
    np.testing.assert_array_equal(back["prediction"].values, field((600, 600)).values)
