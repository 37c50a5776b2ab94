"""Single patches on the map, patches one by one, and patches as rows of a table.

The oracles: windows of the field by plain `.isel`, GeoBox windows of odc-geo, GDAL.
"""

from __future__ import annotations

import threading
import tracemalloc

import dask.array as da
import geopandas as gpd
import numpy as np
import odc.geo.xr
import pytest
import rasterio
import rioxarray  # noqa: F401 - registers .rio
import shapely
import xarray as xr
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox

from tests.patching import oracle

GRIDS = {
    "UTM": (Affine(10, 0, 500000, 0, -10, 4300000), "EPSG:32610", ("y", "x")),
    "pixels not square": (
        Affine(9.7, 0, 500000.3, 0, -12.1, 4300000.1),
        "EPSG:32610",
        ("y", "x"),
    ),
    "y ascending": (Affine(30, 0, 399960, 0, 30, 4190220), "EPSG:32633", ("y", "x")),
    "degrees": (
        Affine(1 / 3600, 0, -120.123456789, 0, -1 / 3600, 39.3),
        "EPSG:4326",
        ("latitude", "longitude"),
    ),
    "lat ascending": (Affine(0.1, 0, -180, 0, 0.1, -90), "EPSG:4326", ("lat", "lon")),
    "rotated": (
        Affine.translation(500000, 4300000) @ Affine.rotation(30) @ Affine.scale(10, -10),
        "EPSG:32610",
        ("y", "x"),
    ),
}


@pytest.fixture(scope="module")
def field_on():
    """Factory of fields on a grid by name, with their geobox."""

    def make(grid="UTM", shape=(50, 61), chunks=None, seed=0):
        affine, crs, dims = GRIDS[grid]
        box = GeoBox(shape, affine, crs)
        values = np.random.default_rng(seed).uniform(1, 200, shape)
        coords = odc.geo.xr.xr_coords(box, dims=dims)
        field = xr.DataArray(values, dims=dims, coords=coords, name="made", attrs={"units": "m"})
        return (field if chunks is None else field.chunk(chunks)), box

    return make


@pytest.fixture
def noted():
    """A lazy field, and the list of the blocks of it that were computed."""
    seen = []
    lock = threading.Lock()

    def make(field, chunks=20):
        def note(block, block_info=None):
            with lock:
                seen.append(block_info[0]["chunk-location"])
            return block

        data = da.from_array(field.values, chunks=chunks)
        lazy = data.map_blocks(note, dtype=field.dtype, meta=np.empty((0,) * field.ndim))
        return field.copy(data=lazy), seen

    return make


def finer(batch):
    return batch.repeat(2, -1).repeat(2, -2)


def coarser(batch):
    *rest, ny, nx = batch.shape
    return batch.reshape(*rest, ny // 3, 3, nx // 3, 3).mean((-3, -1))


def means(batch):
    return batch.mean((-2, -1))


def vectors(batch):
    return np.stack([batch.mean((-2, -1)), batch.max((-2, -1))], axis=1)


def without_starts(one):
    return one.drop_vars(["y_start", "x_start"], errors="ignore")


def starts_of(patches, dims=("y", "x")):
    return np.stack([patches[f"{d}_start"].values for d in dims], axis=-1).tolist()


def transforms(field):
    """All that readers take for the transform of a field."""
    mapping = next(c for c in field.coords.values() if "crs_wkt" in c.attrs)
    yield field.odc.geobox.affine
    if field.odc.geobox.axis_aligned:
        # Of a rotated field that was cut, rioxarray and GDAL take the transform for that of a part.
        if set(field.dims) >= {"y", "x"} or set(field.dims) >= {"latitude", "longitude"}:
            yield field.rio.transform()
        if "GeoTransform" in mapping.attrs:
            yield Affine.from_gdal(*map(float, mapping.attrs["GeoTransform"].split()))


def assert_on(field, want):
    """The field lies on a geobox, for odc-geo, rioxarray and whoever reads a GeoTransform."""
    assert field.odc.geobox.shape == want.shape
    assert field.odc.geobox.crs == want.crs
    assert field.rio.crs == rasterio.crs.CRS.from_wkt(want.crs.to_wkt())
    corners = [(0, 0), (want.shape[1], 0), (want.shape[1], want.shape[0])]
    # Coordinates of a million metres leave a few bits for a thousandth of a pixel.
    cell = 1e-6 * max(map(abs, (want.affine.a, want.affine.b, want.affine.e)))
    for read in transforms(field):
        for corner in corners:
            assert read @ corner == pytest.approx(want.affine @ corner, rel=1e-14, abs=cell)


# --- one patch is a window of the field -----------------------------------------------------------


@pytest.mark.parametrize("chunks", [None, 20])
@pytest.mark.parametrize("grid", GRIDS)
def test_a_patch_is_the_window_of_the_field(field_on, grid, chunks):
    field, box = field_on(grid, chunks=chunks)
    patches = field.geocat.patch(16, overlap=4)
    assert len(patches.geocat) == patches.sizes["patch"] == 20
    for number, (y, x) in enumerate(starts_of(patches, field.dims)):
        one = patches.geocat[number]
        window = field.isel(
            dict(zip(field.dims, (slice(y, y + 16), slice(x, x + 16)), strict=True))
        )
        assert one.dims == field.dims
        assert (one.name, one.dtype, one.attrs) == ("made", field.dtype, field.attrs)
        np.testing.assert_array_equal(one.values, window.values)
        assert_on(one, box[y : y + 16, x : x + 16])
        for dim in field.dims:
            xr.testing.assert_identical(one[dim].variable, window[dim].variable)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("step", [1, 2])
def test_a_patch_of_a_window_lies_in_the_window(field_on, grid, step):
    field, _ = field_on(grid, shape=(80, 90))
    # xarray leaves the text of the transform as it was: it still says where the larger field lies.
    part = field.isel(dict(zip(field.dims, (slice(8, 56, step), slice(30, 90, step)), strict=True)))
    known = part.odc.geobox
    patches = part.geocat.patch(12)
    for number in (0, -1):
        y, x = starts_of(patches, part.dims)[number]
        assert_on(patches.geocat[number], known[y : y + 12, x : x + 12])


@pytest.mark.parametrize("grid", ["UTM", "pixels not square", "y ascending", "degrees"])
def test_gdal_reads_a_patch_where_it_lies(tmp_path, field_on, grid):
    field, box = field_on(grid)
    patches = field.geocat.patch(16, overlap=4)
    one = patches.geocat[-1]
    one.rio.to_raster(tmp_path / "one.tif")
    y, x = starts_of(patches, field.dims)[-1]
    with rasterio.open(tmp_path / "one.tif") as file:
        # As rioxarray writes any raster: the same as of the window cut by hand.
        want = box[y : y + 16, x : x + 16].affine
        assert tuple(file.transform) == pytest.approx(tuple(want), rel=1e-9)
        assert file.crs == rasterio.crs.CRS.from_string(GRIDS[grid][1])
        np.testing.assert_array_equal(file.read(1), field.values[y : y + 16, x : x + 16])


def test_numbers_count_from_both_ends(field_on):
    field, _ = field_on()
    patches = field.geocat.patch(16)
    n = len(patches.geocat)
    for number in range(n):
        xr.testing.assert_identical(patches.geocat[number], patches.geocat[number - n])
        xr.testing.assert_identical(patches.geocat[number], patches.geocat[np.int64(number)])
        assert patches.geocat[number]["y_start"] == patches["y_start"][number]


@pytest.mark.parametrize("number", [20, -21, 1000, np.int64(20)])
def test_a_number_beyond_the_patches_is_refused_with_the_range(field_on, number):
    patches = field_on()[0].geocat.patch(16, overlap=4)
    with pytest.raises(IndexError, match=rf"patch {number} of 20: .*-20\.\.19"):
        patches.geocat[number]


@pytest.mark.parametrize("number", [slice(1, 3), 1.0, "first", [0, 1], None, True])
def test_what_is_no_number_is_refused_with_what_to_use(field_on, number):
    patches = field_on()[0].geocat.patch(16, overlap=4)
    with pytest.raises(TypeError, match=r"\.isel\(patch="):
        patches.geocat[number]


@pytest.mark.parametrize("number", [0, -1])
def test_a_field_that_was_never_cut_says_so(field_on, number):
    field, _ = field_on()
    for ask in (
        lambda: field.geocat[number],
        lambda: len(field.geocat),
        lambda: list(field.geocat),
    ):
        with pytest.raises(ValueError, match="never cut"):
            ask()


def test_no_patches_have_no_first(field_on):
    none = field_on()[0].geocat.patch(16).isel(patch=[])
    assert len(none.geocat) == 0
    assert list(none.geocat) == []
    with pytest.raises(IndexError, match="patch 0 of 0"):
        none.geocat[0]


def test_patches_in_any_order_know_their_place(field_on):
    field, box = field_on()
    patches = field.geocat.patch(16, overlap=4)
    order = np.random.default_rng(0).permutation(20)
    some = xr.concat([patches.isel(patch=order[5:]), patches.isel(patch=order[:5])], "patch") * 2
    for number, one in enumerate(some.geocat):
        y, x = starts_of(some)[number]
        np.testing.assert_array_equal(one.values, 2 * field.values[y : y + 16, x : x + 16])
        assert_on(one, box[y : y + 16, x : x + 16])


def test_a_patch_of_a_dataset_is_a_dataset(field_on):
    field, box = field_on()
    cube = xr.Dataset({"red": field, "nir": field + 1, "orbit": 3}, attrs={"title": "both"})
    patches = cube.geocat.patch(16, overlap=4)
    one = patches.geocat[7]
    assert isinstance(one, xr.Dataset)
    assert one.attrs == cube.attrs
    y, x = starts_of(patches)[7]
    window = cube.isel(y=slice(y, y + 16), x=slice(x, x + 16))
    for name in cube:
        np.testing.assert_array_equal(one[name].values, window[name].values)
    assert_on(one, box[y : y + 16, x : x + 16])
    rows = list(patches.geocat)
    assert len(rows) == 20
    xr.testing.assert_identical(without_starts(rows[7]), without_starts(one))


def test_other_dims_and_coordinates_come_with_it(field_on):
    field, _ = field_on()
    cube = field.expand_dims(band=["red", "nir"]).assign_coords(
        lon=(("y", "x"), field.values),
        row=("y", np.arange(50)),
        wavelength=("band", [665, 842]),
        scene="S2A",
    )
    patches = cube.geocat.patch(16)
    for number in (0, 5, -1):
        one = patches.geocat[number]
        y, x = starts_of(patches)[number]
        window = cube.isel(y=slice(y, y + 16), x=slice(x, x + 16))
        assert set(one.coords) == {*window.coords, "y_start", "x_start"}
        for name in set(window.coords) - {"spatial_ref"}:
            xr.testing.assert_equal(one[name].variable, window[name].variable)
        np.testing.assert_array_equal(one.values, window.values)


def test_a_patch_can_be_used_as_any_field(field_on):
    field, _ = field_on()
    one = field.geocat.patch(32).geocat[1]
    again = one.geocat.patch(8, overlap=2)
    xr.testing.assert_allclose(
        without_starts(again.geocat.stitch()), without_starts(one), rtol=1e-14
    )


# --- patches beyond the field ---------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(
    grid=st.sampled_from(["UTM", "pixels not square", "degrees", "y ascending"]),
    start=st.tuples(st.integers(-7, 25), st.integers(-7, 30)),
)
def test_a_patch_beyond_the_edge_lies_where_odc_extends_the_grid(field_on, grid, start):
    field, box = field_on(grid, (26, 31))
    patches = field.geocat.patch(8, boundary="pad", at=np.array([start]))
    one = patches.geocat[0]
    moved = GeoBox((8, 8), box.affine @ Affine.translation(*start[::-1]), box.crs)
    assert_on(one, moved)
    inside = {
        dim: one[dim].values[max(-s, 0) : n - s]
        for dim, s, n in zip(field.dims, start, (26, 31), strict=True)
    }
    for dim, s in zip(field.dims, start, strict=True):
        np.testing.assert_array_equal(inside[dim], field[dim].values[max(s, 0) : s + 8])


@pytest.mark.parametrize("shape", [(5, 9), (5, 40), (2, 2)])
def test_a_patch_larger_than_the_field_goes_on_beyond_it(field_on, shape):
    field, box = field_on(shape=shape)
    patches = field.geocat.patch(8)
    assert_on(patches.geocat[0], GeoBox((8, 8), box.affine, box.crs))


def test_coordinates_inside_the_field_are_its_own_wherever_the_patch_ends(field_on):
    field, _ = field_on()
    days = np.datetime64("2024-01-01", "ns") + np.cumsum(np.arange(9)) * np.timedelta64(1, "D")
    cube = field.expand_dims(time=days)
    patches = cube.geocat.patch({"time": 4}, stride=4, boundary="pad")
    last = patches.isel(patch=[-1])
    assert last["time_start"].item() == 8
    try:
        times = last.geocat[0]["time"].values
    except ValueError as refusal:
        # What comes after the last of uneven steps is not known.
        assert "boundary='shift'" in str(refusal)  # noqa: PT017
    else:
        assert times[0] == days[8]
        assert not np.isin(times[1:], days).any()


def test_even_times_go_on_evenly(field_on):
    field, _ = field_on()
    days = np.datetime64("2024-01-01", "ns") + np.arange(9) * np.timedelta64(16, "D")
    patches = field.expand_dims(time=days).geocat.patch({"time": 4}, stride=4, boundary="pad")
    want = days[0] + np.arange(8, 12) * np.timedelta64(16, "D")
    np.testing.assert_array_equal(patches.geocat[-1]["time"].values, want)


def test_coordinates_of_two_dims_are_not_made_up(field_on):
    field, _ = field_on()
    swath = field.assign_coords(lon=(("y", "x"), field.values))
    patches = swath.geocat.patch(16, boundary="pad")
    assert patches.geocat[0]["lon"].shape == (16, 16)
    with pytest.raises(ValueError, match=r"beyond the field are not known.*boundary='shift'"):
        patches.geocat[-1]


# --- laziness -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["patches", "answers", "expression of patches"])
def test_only_the_one_patch_is_computed(field_on, numbered, noted, counting, kind):
    model = counting()
    field, read = noted(numbered((50, 61)))
    patches = field.geocat.patch(16, overlap=4)
    made = {
        "patches": patches,
        "answers": patches.geocat.map(model),
        "expression of patches": patches.geocat.map(model),
    }[kind]
    for number in (0, 7, -1):
        read.clear()
        model.seen.clear()
        y, x = starts_of(patches)[number]
        one = made.geocat[number]
        assert isinstance(one.data, da.Array)
        assert (read, model.seen) == ([], [])
        np.testing.assert_array_equal(one.compute(scheduler="sync").values, field_values(y, x))
        met = {(i // 20, j // 20) for i in range(y, y + 16) for j in range(x, x + 16)}
        assert sorted(read) == sorted(met)
        if kind != "patches":
            assert model.seen == [y * 61 + x]


def field_values(y, x):
    return np.arange(50 * 61, dtype=float).reshape(50, 61)[y : y + 16, x : x + 16]


@pytest.mark.usefixtures("no_compute")
def test_one_patch_computes_nothing(numbered, counting):
    model = counting()
    answers = numbered((50, 61), 20).geocat.patch(16, overlap=4).geocat.map(model)
    one = answers.geocat[3]
    repr(one), one.odc.geobox, len(answers.geocat)
    assert model.seen == []


def test_going_through_the_patches_computes_each_chunk_once_and_no_chunk_early(
    numbered, noted, counting
):
    model = counting()
    field, _ = noted(numbered((50, 61)))
    answers = field.geocat.patch(16, overlap=4).geocat.map(model, batch_size=100)
    edges = np.cumsum([0, *answers.chunksizes["patch"]])
    assert len(edges) > 3
    firsts = [y * 61 + x for y, x in starts_of(answers)]
    for number, one in enumerate(answers.geocat):
        assert isinstance(one.data, np.ndarray)
        assert one.values[0, 0] == firsts[number]
        # All of this chunk, nothing of the next, and nothing twice.
        so_far = edges[np.searchsorted(edges, number, side="right")]
        assert sorted(model.seen) == sorted(firsts[:so_far])
    assert number == len(firsts) - 1


def test_going_through_the_patches_holds_one_chunk_of_them(field_on):
    field, _ = field_on(shape=(640, 640))
    zeros = field.copy(data=da.zeros((640, 640), chunks=128))
    patches = zeros.geocat.patch(64, overlap=32)
    whole = patches.nbytes
    # What is imported and compiled on the way is not what is measured.
    assert next(iter(patches.geocat)).nbytes == 64 * 64 * 8
    tracemalloc.start()
    try:
        seen = sum(1 for _ in patches.geocat)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert seen == patches.sizes["patch"] == 19 * 19
    assert peak < whole / 4


def test_patches_in_memory_can_be_gone_through(field_on):
    field, _ = field_on()
    patches = field.geocat.patch(16, overlap=4)
    for number, one in enumerate(patches.geocat):
        xr.testing.assert_identical(without_starts(one), without_starts(patches.geocat[number]))
    assert number == 19


@pytest.mark.parametrize("several", [False, True], ids=["DataArray", "Dataset"])
@pytest.mark.parametrize("boundary", ["shift", "pad"])
def test_all_that_are_gone_through_have_the_same_coordinates(field_on, boundary, several):
    field, _ = field_on()
    source = xr.Dataset({"red": field, "nir": field}) if several else field
    found = {frozenset(one.coords) for one in source.geocat.patch(16, boundary=boundary).geocat}
    assert len(found) == 1


def test_going_through_twice_gives_the_same(field_on):
    patches = field_on(chunks=20)[0].geocat.patch(16, overlap=4)
    for one, again in zip(patches.geocat, patches.geocat, strict=True):
        xr.testing.assert_identical(one, again)


def test_what_is_done_to_one_patch_leaves_the_others_and_the_field(field_on):
    field, _ = field_on()
    before = field.copy(deep=True)
    patches = field.geocat.patch(16, overlap=4)
    kept = patches.copy(deep=True)
    for one in patches.geocat:
        one.values[...] = -1
        one.attrs["touched"] = True
    for number in (0, 5):
        one = patches.geocat[number]
        one.attrs["touched"] = True
    xr.testing.assert_identical(field, before)
    assert "touched" not in patches.attrs
    assert kept.attrs == patches.attrs


# --- single answers -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("boundary", "chunks"), [("shift", None), ("shift", 20), ("pad", 20), ("drop", None)]
)
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize(("model", "scale"), [(finer, 2), (coarser, 1 / 3)], ids=["up", "down"])
def test_one_answer_lies_where_its_patch_does_on_its_own_grid(
    field_on, grid, model, scale, boundary, chunks
):
    field, box = field_on(grid, chunks=chunks)
    patches = field.geocat.patch(12, boundary=boundary)
    answers = patches.geocat.map(model)
    for number in (0, 7, -1):
        y, x = starts_of(patches, field.dims)[number]
        one = answers.geocat[number]
        np.testing.assert_array_equal(one.values, model(patches.values)[number])
        own = GeoBox((12, 12), box.affine @ Affine.translation(x, y), box.crs)
        assert_on(one, own.zoom_out(1 / scale))


@pytest.mark.parametrize("boundary", ["shift", "pad", "drop"])
@pytest.mark.parametrize("chunks", [None, 20])
@pytest.mark.parametrize("model", [means, vectors])
def test_one_vector_or_value_needs_no_grid(field_on, model, boundary, chunks):
    field, _ = field_on(chunks=chunks)
    patches = field.geocat.patch(12, boundary=boundary)
    answers = patches.geocat.map(model)
    want = model(patches.values)
    for number in (0, 7, -1):
        one = answers.geocat[number]
        np.testing.assert_array_equal(one.values, want[number])
        assert [one["y_start"].item(), one["x_start"].item()] == starts_of(patches)[number]
        assert one.rio.crs == field.rio.crs
    assert len(list(answers.geocat)) == len(want)


def test_finer_answers_are_windows_of_the_finer_field(field_on):
    field, _ = field_on()
    answers = field.geocat.patch(12, overlap=4).geocat.map(finer)
    whole = answers.geocat.stitch(reduce="first")
    for one in answers.geocat:
        there = whole.sel(y=one["y"], x=one["x"], method=None)
        np.testing.assert_array_equal(one.values, there.values)


# --- starts that the user gives -------------------------------------------------------------------


def cut(values, start, size):
    """A patch by plain slices, what lies beyond the field by reflection."""
    missing = [
        (max(-s, 0), max(s + k - n, 0)) for s, k, n in zip(start, size, values.shape, strict=True)
    ]
    inside = tuple(
        slice(max(s, 0), min(s + k, n)) for s, k, n in zip(start, size, values.shape, strict=True)
    )
    return np.pad(values[inside], missing, mode="reflect")


INSIDE = [[3, 7], [0, 0], [42, 49], [3, 7], [20, 0]]
PARTLY = [[-3, 5], [45, 10], [10, 55], [-2, -2], [47, 57]]


@pytest.mark.parametrize("chunks", [None, 20])
@pytest.mark.parametrize("boundary", ["shift", "pad", "drop", "raise"])
def test_patches_inside_are_cut_where_the_user_says(field_on, boundary, chunks):
    field, box = field_on(chunks=chunks)
    patches = field.geocat.patch({"y": 8, "x": 12}, at=np.array(INSIDE), boundary=boundary)
    assert starts_of(patches) == INSIDE
    want = [cut(field.values, start, (8, 12)) for start in INSIDE]
    np.testing.assert_array_equal(patches.values, want)
    for number, (y, x) in enumerate(INSIDE):
        assert_on(patches.geocat[number], box[y : y + 8, x : x + 12])


@pytest.mark.parametrize("chunks", [None, 20])
def test_patches_partly_outside_do_as_the_boundary_says(field_on, chunks):
    field, _ = field_on(chunks=chunks)
    at = np.array([*PARTLY, [10, 10]])

    def patches(boundary):
        return field.geocat.patch(8, at=at, boundary=boundary)

    np.testing.assert_array_equal(
        patches("pad").values, [cut(field.values, start, (8, 8)) for start in at]
    )
    assert starts_of(patches("pad")) == at.tolist()
    moved = np.clip(at, 0, [42, 53])
    assert starts_of(patches("shift")) == moved.tolist()
    np.testing.assert_array_equal(
        patches("shift").values, [cut(field.values, start, (8, 8)) for start in moved]
    )
    assert starts_of(patches("drop")) == [[10, 10]]
    with pytest.raises(
        ValueError, match=r"5 of 6 patches lie not wholly inside.*\(-3, 5\).*'drop'"
    ):
        patches("raise")


@pytest.mark.parametrize("boundary", ["shift", "pad", "raise"])
@pytest.mark.parametrize("start", [[-8, 0], [50, 0], [0, 61], [0, -100], [1000, 1000]])
def test_a_patch_outside_altogether_is_refused_or_dropped(field_on, boundary, start):
    field, _ = field_on()
    at = np.array([start, [1, 2]])
    with pytest.raises(ValueError, match=r"1 of 2 patches.*outside|not wholly inside") as refusal:
        field.geocat.patch(8, at=at, boundary=boundary)
    assert str(tuple(start)) in str(refusal.value)
    assert "(50, 61) px" in str(refusal.value)
    assert starts_of(field.geocat.patch(8, at=at, boundary="drop")) == [[1, 2]]


def test_starts_come_in_the_order_of_the_size(field_on):
    field, _ = field_on()
    patches = field.geocat.patch({"x": 12, "y": 8}, at=np.array([[7, 3], [49, 42]]))
    assert starts_of(patches) == [[3, 7], [42, 49]]
    np.testing.assert_array_equal(patches.values[0], field.values[3:11, 7:19])


@pytest.mark.parametrize(
    ("at", "message"),
    [
        (np.array([3, 7]), r"shape \(2,\).*\(patch, 2\).*\('y', 'x'\)"),
        (np.array([[3, 7, 1]]), r"shape \(1, 3\)"),
        (np.array([[3.0, 7.0]]), "dtype float64.*integers"),
        (np.zeros((0, 3), int), r"shape \(0, 3\)"),
    ],
)
def test_starts_of_another_shape_are_refused(field_on, at, message):
    with pytest.raises(ValueError, match=message):
        field_on()[0].geocat.patch(8, at=at)


def test_a_list_of_starts_will_do_and_so_will_unsigned_ones(field_on):
    field, _ = field_on()
    assert starts_of(field.geocat.patch(8, at=INSIDE[:2])) == INSIDE[:2]
    unsigned = np.array(INSIDE[:2], "uint16")
    assert starts_of(field.geocat.patch(8, at=unsigned)) == INSIDE[:2]


def test_no_starts_at_all_give_no_patches(field_on):
    field, _ = field_on(chunks=20)
    patches = field.geocat.patch(8, at=np.zeros((0, 2), int))
    assert patches.shape == (0, 8, 8)
    assert np.isnan(patches.geocat.stitch().values).all()


@pytest.mark.parametrize("given", [{"overlap": 2}, {"stride": 4}])
def test_starts_and_a_step_are_refused_together(field_on, given):
    with pytest.raises(ValueError, match="leave out overlap and stride"):
        field_on()[0].geocat.patch(8, at=np.array(INSIDE), **given)


@pytest.mark.parametrize("chunks", [None, 20])
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_patches_anywhere_go_back_to_where_they_came_from(field_on, chunks, data):
    size = data.draw(st.tuples(st.integers(2, 9), st.integers(2, 9)))
    n = data.draw(st.integers(1, 12))
    boundary = data.draw(st.sampled_from(["pad", "shift", "drop"]))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    at = np.stack(
        [rng.integers(1 - s, n, 12) for s, n in zip(size, (26, 31), strict=True)], axis=-1
    )[:n]
    field, _ = field_on(shape=(26, 31), chunks=chunks)
    patches = field.geocat.patch(dict(zip("yx", size, strict=True)), at=at, boundary=boundary)
    reached = np.zeros((26, 31), bool)
    for y, x in starts_of(patches):
        reached[max(y, 0) : y + size[0], max(x, 0) : x + size[1]] = True
    want = np.where(reached, field.values, np.nan)
    oracle.assert_close(patches.geocat.stitch().values, want)


# --- rows of a table ------------------------------------------------------------------------------


@pytest.mark.parametrize(("boundary", "chunks"), [("shift", None), ("pad", 20), ("drop", None)])
@pytest.mark.parametrize("grid", GRIDS)
def test_outlines_are_the_extents_of_windows(field_on, grid, boundary, chunks):
    field, box = field_on(grid, chunks=chunks)
    answers = field.geocat.patch(16, overlap=4, boundary=boundary).geocat.map(means)
    table = answers.geocat.to_geodataframe()
    assert isinstance(table, gpd.GeoDataFrame)
    assert table.crs == GRIDS[grid][1]
    rows, columns = field.dims
    assert list(table.columns) == [f"{rows}_start", f"{columns}_start", "made", "geometry"]
    np.testing.assert_array_equal(table["made"], answers.values)
    for number, (y, x) in enumerate(starts_of(answers, field.dims)):
        own = GeoBox((16, 16), box.affine @ Affine.translation(x, y), box.crs)
        outline = table.geometry[number]
        assert outline.is_valid
        want = own.extent.geom
        assert shapely.hausdorff_distance(outline, want) < 1e-9 * abs(box.affine.a) * 61
        assert outline.area == pytest.approx(want.area, rel=1e-9)
        assert (table[f"{rows}_start"][number], table[f"{columns}_start"][number]) == (y, x)


def test_outlines_of_a_field_within_a_field(field_on):
    field, box = field_on(shape=(80, 90))
    part = field.isel(y=slice(8, 56), x=slice(30, 90))
    table = part.geocat.patch(12).geocat.map(means).geocat.to_geodataframe()
    assert tuple(table.total_bounds) == tuple(box[8:56, 30:90].extent.boundingbox)


@pytest.mark.parametrize("chunks", [None, 20])
def test_embeddings_are_lists_that_parquet_keeps(tmp_path, field_on, chunks):
    field, _ = field_on(chunks=chunks)
    patches = field.geocat.patch(16, overlap=4)
    answers = patches.geocat.map(
        lambda b: b.reshape(len(b), -1)[:, :100].astype("float32"), dims=("feature",)
    ).rename("embedding")
    table = answers.geocat.to_geodataframe()
    table.to_parquet(tmp_path / "made.parquet")
    again = gpd.read_parquet(tmp_path / "made.parquet")
    assert again.crs == table.crs
    assert again.geometry.geom_equals(table.geometry).all()
    want = patches.values.reshape(len(table), -1)[:, :100].astype("float32")
    np.testing.assert_array_equal(np.stack(again["embedding"]), want)
    assert np.stack(again["embedding"]).dtype == "float32"
    np.testing.assert_array_equal(again["y_start"], patches["y_start"])


def test_a_dataset_gives_a_column_each_with_the_labels_of_the_patches(field_on):
    field, _ = field_on()
    patches = field.geocat.patch(16, overlap=4)
    made = xr.Dataset(
        {
            "mean": patches.mean(("y", "x")),
            "moments": patches.geocat.map(vectors).rename("moments"),
            "title": "not a column",
        }
    ).assign_coords(fold=("patch", np.arange(20) % 5), name=("patch", [f"p{i}" for i in range(20)]))
    table = made.geocat.to_geodataframe()
    assert set(table.columns) == {
        "y_start", "x_start", "fold", "name", "mean", "moments", "geometry",
    }  # fmt: skip
    np.testing.assert_array_equal(table["fold"], np.arange(20) % 5)
    np.testing.assert_array_equal(np.stack(table["moments"])[:, 0], table["mean"])


def test_an_answer_without_a_name_is_called_value(field_on):
    answers = field_on()[0].rename(None).geocat.patch(16).geocat.map(means)
    assert "value" in answers.geocat.to_geodataframe()


def test_rows_follow_the_patches_and_places_of_points(field_on):
    field, box = field_on()
    patches = field.geocat.patch(8, at=np.array(INSIDE)).isel(patch=[4, 0, 2])
    table = patches.geocat.map(means).geocat.to_geodataframe()
    for number, start in enumerate([INSIDE[4], INSIDE[0], INSIDE[2]]):
        y, x = start
        window = field.isel(y=slice(y, y + 8), x=slice(x, x + 8))
        assert table["made"][number] == pytest.approx(window.values.mean(), rel=1e-14)
        assert table.geometry[number].equals(box[y : y + 8, x : x + 8].extent.geom)


def test_windows_over_time_have_outlines_and_a_time(field_on):
    field, box = field_on()
    cube = field.expand_dims(time=np.datetime64("2024-01-01", "ns") + np.arange(5))
    patches = cube.geocat.patch({"time": 2, "y": 16, "x": 16}, boundary="drop")
    table = patches.geocat.map(lambda b: b.mean((1, 2, 3))).geocat.to_geodataframe()
    assert set(table.columns) >= {"time_start", "y_start", "x_start"}
    for number in (0, -1):
        y, x = table["y_start"].iloc[number], table["x_start"].iloc[number]
        assert table.geometry.iloc[number].equals(box[y : y + 16, x : x + 16].extent.geom)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda p: p, r"dims \('patch', 'y', 'x'\).*\.mean\(\('y', 'x'\)\)"),
        (lambda p: p.expand_dims(a=2, b=3).mean(("y", "x")), "one value or one vector"),
        (lambda p: p.isel(patch=0), "PatchIndex"),
    ],
    ids=["pixels", "matrices", "one patch"],
)
def test_what_fits_in_no_row_is_refused(field_on, spoil, message):
    patches = field_on()[0].geocat.patch(16)
    with pytest.raises(ValueError, match=message):
        spoil(patches).geocat.to_geodataframe()


@pytest.mark.parametrize(
    "field",
    [
        lambda f: f.drop_vars(["y", "x", "spatial_ref"]),
        lambda f: f.drop_vars(["y", "x"]).drop_vars("spatial_ref").expand_dims(z=3),
    ],
)
def test_patches_off_the_map_have_no_outlines(field_on, field):
    answers = field(field_on()[0]).geocat.patch(16).geocat.map(means)
    with pytest.raises(ValueError, match=r"no outlines.*\.odc\.assign_crs"):
        answers.geocat.to_geodataframe()


def test_patches_along_one_dim_have_no_outlines(field_on):
    answers = field_on()[0].geocat.patch({"x": 16}).geocat.map(lambda b: b.mean((1, 2)), dims=())
    with pytest.raises(ValueError, match=r"cut along \('x',\) only"):
        answers.geocat.to_geodataframe()
