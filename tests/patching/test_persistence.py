"""Patches and answers that are saved, and opened again, still know where they belong."""

from __future__ import annotations

import json
import pickle
import threading
import warnings

import dask.array as da
import numpy as np
import odc.geo.xr
import pytest
import xarray as xr
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from odc.geo.geobox import GeoBox

from tests.patching import oracle
from xgeocat.patching.index import PatchIndex
from xgeocat.patching.record import ATTRIBUTE

SHAPE = (50, 61)
GRIDS = {
    "UTM": (Affine(10, 0, 500000, 0, -10, 4300000), "EPSG:32610", ("y", "x")),
    "pixels not square": (
        Affine(9.7, 0, 500000.3, 0, -12.1, 4300000.1),
        "EPSG:32610",
        ("y", "x"),
    ),
    "degrees": (
        Affine(1 / 3600, 0, -120.123456789, 0, -1 / 3600, 39.3),
        "EPSG:4326",
        ("latitude", "longitude"),
    ),
    "a CRS of no authority": (
        Affine(500, 0, -1e6 / 3, 0, -500, 1e6 / 7),
        "+proj=laea +lat_0=47.3 +lon_0=-119.7 +datum=WGS84 +units=m",
        ("y", "x"),
    ),
    "rotated": (
        Affine.translation(500000, 4300000) @ Affine.rotation(30) @ Affine.scale(10, -10),
        "EPSG:32610",
        ("y", "x"),
    ),
}
NETCDF = [e for e in ("netcdf4", "h5netcdf", "scipy") if e in xr.backends.list_engines()]


@pytest.fixture(scope="module")
def field_on():
    """Factory of fields on a grid by name."""

    def make(grid="UTM", shape=SHAPE, chunks=None, dtype="float64", seed=0, name="made"):
        affine, crs, dims = GRIDS[grid]
        box = GeoBox(shape, affine, crs)
        values = np.random.default_rng(seed).uniform(1, 200, shape).astype(dtype)
        coords = odc.geo.xr.xr_coords(box, dims=dims)
        field = xr.DataArray(values, dims=dims, coords=coords, name=name, attrs={"units": "m"})
        return field if chunks is None else field.chunk(chunks)

    return make


@pytest.fixture
def saved(tmp_path):
    """Save patches, and open them again."""
    count = iter(range(1000))

    def save(patches, how="zarr", **options):
        path = tmp_path / f"{next(count)}.{how}"
        single = isinstance(patches, xr.DataArray)
        with warnings.catch_warnings():
            # Of zarr and xarray, about formats and chunks.
            warnings.simplefilter("ignore")
            if how == "zarr":
                patches.to_zarr(path)
                opened = xr.open_dataset(path, engine="zarr", **options)
            else:
                patches.to_netcdf(path, engine=how)
                opened = xr.open_dataset(path, engine=how, **options)
        if not single:
            return opened
        (name,) = opened.data_vars
        return opened[name].rename(patches.name)

    return save


BACKENDS = ["zarr", *NETCDF]


def assert_same(got, want, ulps=0):
    oracle.assert_same_field(got, want, ulps)
    assert got.odc.geobox == want.odc.geobox
    assert got.odc.crs == want.odc.crs


def assert_same_coords(got, want):
    assert set(got.coords) == set(want.coords)
    for name in want.coords:
        xr.testing.assert_identical(got.coords[name].variable, want.coords[name].variable)
        assert got.coords[name].dtype == want.coords[name].dtype


# --- saved, opened, stitched ----------------------------------------------------------------------


@pytest.mark.parametrize("how", BACKENDS)
@pytest.mark.parametrize("grid", GRIDS)
def test_saved_patches_stitch_to_the_field(field_on, saved, grid, how):
    field = field_on(grid)
    again = saved(field.geocat.patch(16), how)
    assert not any(isinstance(index, PatchIndex) for index in again.xindexes.values())
    assert_same(again.geocat.stitch(), field)


OPENINGS = {
    "in memory": lambda p: p.load(),
    "lazy": lambda p: p.chunk(),
    "other chunks": lambda p: p.chunk(patch=7),
    "cut through": lambda p: p.chunk(patch=5, y=10, x=3),
    "shuffled": lambda p: p.isel(patch=np.random.default_rng(0).permutation(p.sizes["patch"])),
    "shuffled and lazy": lambda p: p.chunk(patch=4).isel(patch=slice(None, None, -1)),
    "sorted": lambda p: p.sortby("x_start"),
    "in parts": lambda p: xr.concat([p[7:], p[:7]], "patch"),
    "transposed": lambda p: p.transpose("x", "patch", "y"),
    "arithmetic": lambda p: (p * 2 + p) / 3,
    "copied": lambda p: p.copy(deep=True),
    "pickled": lambda p: pickle.loads(pickle.dumps(p)),
    "masked": lambda p: p.where(p > -1),
    "saved again": None,
}


@pytest.mark.parametrize("opening", OPENINGS.values(), ids=OPENINGS.keys())
def test_saved_patches_stitch_whatever_is_done_to_them(field_on, saved, opening):
    field = field_on()
    again = saved(field.geocat.patch(16))
    done = saved(saved(again)) if opening is None else opening(again)
    stitched = done.geocat.stitch()
    assert_same_coords(stitched, field)
    np.testing.assert_allclose(stitched.transpose("y", "x").values, field.values, rtol=1e-14)


@pytest.mark.parametrize("chunks", [None, 20])
@pytest.mark.parametrize("window", ["boxcar", "hann"])
def test_saving_changes_no_bit_of_what_is_stitched(field_on, saved, window, chunks):
    patches = field_on(chunks=chunks).geocat.patch(16, overlap=6)
    answers = patches.geocat.map(lambda b: np.sqrt(b))
    again = saved(answers.chunk(patch=8) if chunks else answers)
    xr.testing.assert_identical(
        again.geocat.stitch(window=window).compute(), answers.geocat.stitch(window=window).compute()
    )


@pytest.mark.parametrize("lazy", [False, True])
def test_some_of_the_saved_patches_go_where_they_came_from(field_on, saved, lazy):
    field = field_on()
    again = saved(field.geocat.patch(16), **({"chunks": {"patch": 3}} if lazy else {}))
    some = again.isel(patch=[9, 2, 4])
    reached = np.zeros(SHAPE, bool)
    for y, x in zip(some["y_start"].values, some["x_start"].values, strict=True):
        reached[y : y + 16, x : x + 16] = True
    stitched = some.geocat.stitch()
    np.testing.assert_array_equal(stitched.values, np.where(reached, field.values, np.nan))
    assert_same_coords(stitched, field)


def test_a_corner_reads_only_the_saved_patches_that_reach_it(field_on, saved):
    field = field_on()
    patches = field.geocat.patch(16)
    read = []
    lock = threading.Lock()

    def note(block, block_info=None):
        with lock:
            read.append(block_info[0]["chunk-location"][0])
        return block

    again = saved(patches).load()
    lazy = da.from_array(again.values, chunks=(1, -1, -1))
    again = again.copy(data=lazy.map_blocks(note, dtype=float, meta=np.empty((0, 0, 0))))
    corner = again.geocat.stitch().isel(y=slice(14, 18), x=slice(3, 7))
    np.testing.assert_array_equal(corner.values, field.values[14:18, 3:7])
    starts = np.stack([patches["y_start"], patches["x_start"]], axis=-1)
    want = [n for n, (y, x) in enumerate(starts) if y < 18 and y + 16 > 14 and x < 7]
    assert sorted(read) == want


@pytest.mark.parametrize("how", BACKENDS)
@pytest.mark.parametrize("size", [{"y": 16, "x": 16}, {"time": 3, "y": 16, "x": 16}, {"time": 2}])
def test_any_dims_come_back(field_on, saved, size, how):
    field = field_on()
    days = np.datetime64("2024-01-01", "ns") + np.cumsum(np.arange(7)) * np.timedelta64(1, "D")
    cube = field.expand_dims(time=days, axis=2).copy()
    cube = cube.assign_coords(orbit=("time", np.arange(7) % 2 == 0))
    cube.values[...] *= np.arange(1, 8)
    back = saved(cube.geocat.patch(size), how).geocat.stitch()
    assert back.dims == ("y", "x", "time")
    if "time" not in size and how != "zarr":
        # Then it is on its own in the file, where there are no booleans.
        back = back.assign_coords(orbit=back["orbit"].astype(bool))
    np.testing.assert_array_equal(back.values, cube.values)
    for name in ("y", "x", "time", "orbit", "spatial_ref"):
        xr.testing.assert_equal(back[name].variable, cube[name].variable)


@pytest.mark.parametrize("tiled", [True, False])
def test_bands_with_names_come_back(field_on, saved, tiled):
    field = field_on()
    bands = field.expand_dims(band=["red", "nir", "größe"]).copy()
    bands.values[...] *= np.arange(1, 4).reshape(3, 1, 1)
    size = {"y": 16, "x": 16} | ({"band": 1} if tiled else {})
    assert_same(saved(bands.geocat.patch(size)).geocat.stitch(), bands)


@pytest.mark.parametrize("how", BACKENDS)
def test_a_dataset_comes_back_whole(field_on, saved, how):
    field = field_on()
    cube = xr.Dataset(
        {
            "red": field.astype("float32"),
            "counts": field.transpose().astype("int32"),
            "orbit": ((), np.int32(17)),
        },
        attrs={"title": "both"},
    )
    back = saved(cube.geocat.patch(16), how).geocat.stitch()
    assert back.attrs == cube.attrs
    for name in cube:
        assert back[name].dims == cube[name].dims
        assert back[name].dtype == cube[name].dtype
        np.testing.assert_array_equal(back[name].values, cube[name].values)
    assert_same_coords(back, cube)


def test_a_field_without_a_name_comes_back_without(field_on, tmp_path):
    field = field_on(name=None)
    field.geocat.patch(16).to_zarr(tmp_path / "made.zarr", zarr_format=2)
    again = xr.open_dataarray(tmp_path / "made.zarr", engine="zarr")
    assert_same(again.geocat.stitch(), field)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "float32"])
def test_nodata_still_counts_for_nothing(field_on, saved, dtype):
    field = field_on(dtype=dtype).assign_attrs(nodata=7)
    field.values[:20] = 7
    again = saved(field.geocat.patch(16, overlap=4))
    assert again.dtype == dtype
    stitched = again.geocat.stitch(window="hann")
    assert stitched.attrs["nodata"] == 7
    assert (stitched.values[:20] == 7).all()
    first = again.isel(patch=[0]).geocat.stitch()
    assert_same(first.isel(y=slice(20)), field.isel(y=slice(20)))


def test_patches_that_are_saved_in_pieces_are_one_field(field_on, tmp_path):
    field = field_on(chunks=20)
    patches = field.geocat.patch(16).chunk(patch=8)
    path = tmp_path / "made.zarr"
    patches[:8].to_dataset().to_zarr(path, zarr_format=2)
    patches[8:].to_dataset().to_zarr(path, append_dim="patch")
    with xr.open_zarr(path) as opened:
        assert_same(opened["made"].geocat.stitch(), field.compute())


@pytest.mark.parametrize("boundary", ["shift", "pad", "drop"])
def test_places_of_ones_own_are_saved_too(field_on, saved, boundary):
    field = field_on()
    at = np.array([[-3, 5], [10, 10], [45, 57], [10, 10]])
    patches = field.geocat.patch(8, at=at, boundary=boundary)
    again = saved(patches).geocat.stitch()
    xr.testing.assert_identical(again, patches.geocat.stitch())


# --- saved answers --------------------------------------------------------------------------------


@pytest.mark.parametrize("how", BACKENDS)
@pytest.mark.parametrize(
    "model",
    [
        lambda b: b.repeat(2, 1).repeat(2, 2),
        lambda b: b[:, ::4, ::4],
        lambda b: b.mean((1, 2)),
        lambda b: b[:, 0, :5],
        lambda b: np.stack([b, -b], 1),
    ],
    ids=["finer", "coarser", "values", "vectors", "bands"],
)
def test_saved_answers_stitch_where_they_would_have(field_on, saved, model, how):
    answers = field_on().geocat.patch(16, overlap=4, boundary="pad").geocat.map(model)
    again = saved(answers, how)
    want = answers.geocat.stitch()
    got = again.geocat.stitch()
    xr.testing.assert_identical(got, want)
    assert got.odc.geobox == want.odc.geobox
    assert len(again.geocat) == len(answers.geocat)
    table, expected = again.geocat, answers.geocat
    if "y" not in answers.dims:
        table, expected = table.to_geodataframe(), expected.to_geodataframe()
        assert table.geometry.geom_equals(expected.geometry).all()
        assert table.crs == expected.crs


def test_saved_patches_can_be_mapped_and_looked_at(field_on, saved, counting):
    field = field_on()
    model = counting()
    again = saved(field.geocat.patch(16), chunks={"patch": 4})
    stitched = again.geocat.map(model).geocat.stitch().compute()
    np.testing.assert_array_equal(stitched.values, field.values)
    assert_same_coords(stitched, field)
    assert len(model.seen) == len(again.geocat) == again.sizes["patch"]
    for number, one in enumerate(again.geocat):
        y, x = (int(again[f"{d}_start"].values[number]) for d in "yx")
        np.testing.assert_array_equal(one.values, field.values[y : y + 16, x : x + 16])
        xr.testing.assert_equal(one["x"].variable, field["x"][x : x + 16].variable)
    assert again.geocat.explain().tasks > 0


def test_saved_and_new_patches_of_one_grid_mix(field_on, saved):
    field = field_on()
    patches = field.geocat.patch(16)
    both = saved(patches) + patches
    np.testing.assert_array_equal(both.geocat.stitch().values, 2 * field.values)
    assert_same_coords(both.geocat.stitch(), field)


# --- coordinates, bit by bit ----------------------------------------------------------------------

TIMES = st.sampled_from(["M8[ns]", "m8[ns]", "M8[s]"]).map(np.dtype)
DTYPES = st.one_of(
    hnp.floating_dtypes(sizes=(32, 64)),
    hnp.integer_dtypes(),
    hnp.unsigned_integer_dtypes(),
    hnp.boolean_dtypes(),
    hnp.complex_number_dtypes(sizes=128),
    hnp.unicode_string_dtypes(min_len=1, max_len=4),
    TIMES,
)


def forgotten(patches):
    """As after saving and opening: coordinates and their attributes, and no index."""
    names = [name for name in patches.coords if str(name).endswith("_start")]
    bare = patches.drop_indexes(names)
    text = bare.coords[names[0]].attrs[ATTRIBUTE]
    assert json.loads(text)
    return bare


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_coordinate_comes_back_bit_by_bit(data):
    n, m = data.draw(st.integers(1, 9)), data.draw(st.integers(2, 9))
    coords = {}
    for name, dims, shape in [("a", "y", n), ("b", ("x",), m), ("c", ("y", "x"), (n, m))]:
        values = data.draw(hnp.arrays(data.draw(DTYPES), shape))
        coords[name] = xr.Variable(dims, values, {"note": "größe", "n": 3, "list": [1.5, 2.0]})
    even = data.draw(st.floats(-1e6, 1e6)) + data.draw(st.floats(-3, 3)) * np.arange(m)
    coords["x"] = xr.Variable("x", even.astype(data.draw(st.sampled_from(["f4", "f8", ">f8"]))))
    field = xr.DataArray(np.arange(n * m).reshape(n, m), dims=("y", "x"), coords=coords)
    again = forgotten(field.geocat.patch({"y": 2, "x": 3})).geocat.stitch()
    assert set(again.coords) == set(field.coords)
    for name in field.coords:
        got, want = again[name].variable, field[name].variable
        assert got.dtype == want.dtype
        assert got.attrs == want.attrs
        assert got.values.tobytes() == want.values.tobytes()


@pytest.mark.parametrize(
    "values",
    [
        np.array([f"col {i} é" * (i % 3) for i in range(61)], dtype=object),
        np.array([f"col {i} é" for i in range(61)]),
        np.array([f"col {i} é" for i in range(61)], dtype=np.dtypes.StringDType()),
        np.array([b"ab", b"c"] * 30 + [b""]),
        np.array(["2024-01-01", "NaT"] * 30 + ["1970-01-01"], dtype="M8[ns]"),
        np.where(np.arange(61) % 3 == 0, np.nan, np.inf),
    ],
    ids=["objects", "words", "StringDType", "bytes", "times", "nan and inf"],
)
def test_labels_of_columns_come_back(field_on, values):
    field = field_on().assign_coords(label=("x", values))
    again = forgotten(field.geocat.patch(16)).geocat.stitch()
    assert again["label"].dtype == values.dtype
    np.testing.assert_array_equal(again["label"].values, values)


@pytest.mark.parametrize("how", BACKENDS)
def test_uneven_and_two_dimensional_coordinates_come_back(field_on, saved, how):
    rng = np.random.default_rng(0)
    field = field_on().assign_coords(
        y=np.sort(rng.uniform(0, 1e5, 50))[::-1],
        x=np.cumsum(rng.uniform(1, 2, 61)).astype("float32"),
        lon=(("y", "x"), rng.normal(size=SHAPE), {"units": "degrees_east"}),
        lat=(("y", "x"), rng.normal(size=SHAPE).astype("float32")),
        acquired=("y", np.datetime64("2024-01-01", "ns") + np.arange(50) ** 2),
        orbit=np.int32(17),
    )
    assert_same_coords(saved(field.geocat.patch(16), how).geocat.stitch(), field)


@pytest.mark.usefixtures("no_compute")
def test_cutting_computes_no_lazy_coordinate(field_on):
    field = field_on(chunks=20)
    field = field.assign_coords(lon=(("y", "x"), da.ones(SHAPE, chunks=20)))
    stitched = field.geocat.patch(16).geocat.stitch()
    assert isinstance(stitched["lon"].data, da.Array)


def test_a_swath_does_not_make_its_record_as_large_as_itself():
    shape = (1000, 1200)
    lon = np.random.default_rng(0).normal(size=shape)
    swath = xr.DataArray(
        np.zeros(shape, "uint8"), dims=("y", "x"), coords={"lon": (("y", "x"), lon)}
    )
    patches = swath.geocat.patch(256)
    # It is an attribute, so it is in memory, in every copy, and in the metadata of a store.
    assert len(patches["y_start"].attrs[ATTRIBUTE]) < lon.nbytes / 4
    xr.testing.assert_identical(patches.geocat.stitch()["lon"].variable, swath["lon"].variable)


# --- what is refused ------------------------------------------------------------------------------


def with_record(patches, change):
    found = json.loads(patches["y_start"].attrs[ATTRIBUTE])
    change(found)
    bare = forgotten(patches).copy()
    bare["y_start"].attrs[ATTRIBUTE] = json.dumps(found)
    return bare


@pytest.mark.parametrize(
    "use",
    [
        lambda p: p.geocat.stitch(),
        lambda p: p.geocat.map(np.negative),
        lambda p: p.geocat[0],
        lambda p: len(p.geocat),
        lambda p: p.mean(("y", "x")).geocat.to_geodataframe(),
    ],
    ids=["stitch", "map", "one", "len", "table"],
)
def test_a_record_of_a_newer_version_is_refused_in_words(field_on, use):
    newer = with_record(field_on().geocat.patch(16), lambda r: r.update(version=99))
    with pytest.raises(ValueError, match=r"newer xgeocat.*record 99.*Update xgeocat"):
        use(newer)


@pytest.mark.parametrize("name", ["x_start", "y_start"])
def test_a_start_that_was_dropped_is_named(field_on, saved, name):
    again = saved(field_on().geocat.patch(16)).drop_vars(name)
    with pytest.raises(ValueError, match=r"start'.* gone|coordinates were dropped"):
        again.geocat.stitch()


MIXES = {
    "arithmetic of two": lambda a, b, save: save(a) + save(b),
    "concat of two": lambda a, b, save: xr.concat([save(a), save(b)], "patch"),
    "arithmetic with new ones": lambda a, b, save: save(a) + b,
}


@pytest.mark.parametrize("mix", MIXES.values(), ids=MIXES.keys())
def test_saved_patches_of_two_grids_refuse_to_mix(field_on, saved, mix):
    field = field_on()
    # Two tiles of one satellite have the same shape, so their patches have the same starts.
    other = field.assign_coords(x=field["x"] + 610)

    def indexed(patches):
        return saved(patches).set_xindex(["y_start", "x_start"], PatchIndex)

    with pytest.raises(ValueError, match=r"grids|conflicting|dropped|gone"):
        mix(field.geocat.patch(16), other.geocat.patch(16), indexed).geocat.stitch()


def test_saved_patches_in_two_orders_refuse_arithmetic(field_on, saved):
    again = saved(field_on().geocat.patch(16))
    with pytest.raises(ValueError, match="patch coordinates were dropped"):
        (again + again[::-1]).geocat.stitch()


# --- pickling -------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunks", [None, 20])
@pytest.mark.parametrize("grid", GRIDS)
def test_patches_and_answers_survive_pickling(field_on, grid, chunks):
    field = field_on(grid, chunks=chunks)
    patches = field.geocat.patch(16, overlap=4)
    again = pickle.loads(pickle.dumps(patches))
    name = f"{field.dims[0]}_start"
    assert again.xindexes[name].equals(patches.xindexes[name])
    xr.testing.assert_identical(again.compute(), patches.compute())
    # They are patches of one grid still.
    np.testing.assert_array_equal((again + patches).values, 2 * patches.values)
    answers = pickle.loads(pickle.dumps(patches.geocat.map(np.negative)))
    field_again = pickle.loads(pickle.dumps(answers.geocat.stitch()))
    assert_same_coords(field_again, field)
    np.testing.assert_allclose(field_again.values, -field.values, rtol=1e-14)


def test_pickling_lazy_patches_computes_nothing_and_carries_no_pixels(field_on):
    field = field_on(shape=(512, 512))
    source = da.zeros((512, 512), chunks=128)
    patches = field.copy(data=source).geocat.patch(32, overlap=16)
    assert len(pickle.dumps(patches)) < patches.nbytes / 20
