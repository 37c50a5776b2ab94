from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import xgeocat as xgc
from tests.patching import oracle

BOUNDARIES = ("shift", "pad", "drop")


def starts_of(patches):
    return list(map(tuple, np.stack([patches["y_start"], patches["x_start"]], axis=-1).tolist()))


# --- what is cut ----------------------------------------------------------------------------------


@given(st.data())
@settings(max_examples=80, deadline=None)
def test_patches_hold_the_cells_at_their_starts(numbered, data):
    shape = (data.draw(st.integers(1, 25)), data.draw(st.integers(1, 25)))
    size = {d: data.draw(st.integers(1, 10)) for d in "yx"}
    stride = {d: data.draw(st.integers(1, 12)) for d in "yx"}
    boundary = data.draw(st.sampled_from(BOUNDARIES))
    chunks = data.draw(st.sampled_from([None, 3, 7, {"y": 4, "x": 9}, 100]))
    field = numbered(shape, chunks)
    patches = field.geocat.patch(size, stride=stride, boundary=boundary)
    starts = starts_of(patches)
    assert set(starts) == oracle.grid(shape, size.values(), stride.values(), boundary)
    assert len(set(starts)) == len(starts)
    values, cells = patches.values, field.values
    for got, (y, x) in zip(values, starts, strict=True):
        want = cells[y : y + size["y"], x : x + size["x"]]
        np.testing.assert_array_equal(got[: want.shape[0], : want.shape[1]], want)


@pytest.mark.parametrize("chunks", [None, 2, 5])
@pytest.mark.parametrize("boundary", ["pad", "shift"])
def test_cells_past_the_edge_are_a_reflection_of_the_patch(numbered, boundary, chunks):
    field = numbered((3, 7), chunks)
    patches = field.geocat.patch(5, boundary=boundary)
    for got, (y, x) in zip(patches.values, starts_of(patches), strict=True):
        inside = field.values[y : y + 5, x : x + 5]
        missing = [(0, 5 - n) for n in inside.shape]
        np.testing.assert_array_equal(got, np.pad(inside, missing, mode="reflect"))


def test_a_field_of_one_pixel_is_padded_to_a_patch_of_it(numbered):
    patches = (numbered((1, 1)) + 7).geocat.patch(4)
    assert (patches.values == 7).all()
    assert patches.shape == (1, 4, 4)


@pytest.mark.parametrize(
    ("dims", "expected"),
    [
        (("y", "x"), ("patch", "y", "x")),
        (("time", "y", "x"), ("patch", "time", "y", "x")),
        (("y", "x", "band"), ("patch", "band", "y", "x")),
        (("band", "y", "time", "x"), ("patch", "band", "time", "y", "x")),
    ],
)
@pytest.mark.parametrize("chunks", [None, 3])
def test_patches_have_the_patch_dim_first_and_the_tiled_dims_last(positive, dims, expected, chunks):
    sizes = {"y": 8, "x": 9, "time": 2, "band": 3}
    field = positive(tuple(sizes[d] for d in dims), dims=dims, chunks=chunks)
    patches = field.geocat.patch(4, overlap=1)
    assert patches.dims == expected
    start = {d: int(patches[f"{d}_start"][2]) for d in "yx"}
    want = field.isel({d: slice(s, s + 4) for d, s in start.items()}).transpose(*expected[1:])
    np.testing.assert_array_equal(patches.values[2], want.values)


@pytest.mark.parametrize("chunks", [None, 5])
def test_patches_keep_dtype_name_attrs_and_the_other_coords(positive, chunks):
    field = positive((2, 9, 9), "uint16", ("time", "y", "x"), chunks, units="m")
    field = field.assign_coords(cloud=("time", [1.0, 2.0]))
    patches = field.geocat.patch(4)
    assert patches.dtype == field.dtype
    assert patches.name == field.name
    assert patches.attrs == field.attrs
    assert set(patches.coords) == {"time", "cloud", "spatial_ref", "y_start", "x_start"}
    assert patches["spatial_ref"].attrs == field["spatial_ref"].attrs
    assert patches["time"].identical(field["time"])


def test_other_dims_can_be_cut_than_y_and_x(noise):
    field = xr.DataArray(noise((5, 6, 7), "int32"), dims=("time", "row", "col"))
    patches = field.geocat.patch({"time": 2, "row": 3, "col": 4}, overlap={"row": 1})
    assert patches.sizes == {"patch": 3 * 3 * 2, "time": 2, "row": 3, "col": 4}
    assert set(patches.coords) == {"time_start", "row_start", "col_start"}


@pytest.mark.parametrize("names", [("y", "x"), ("latitude", "longitude"), ("lat", "lon")])
def test_one_number_means_both_spatial_dims_by_any_usual_name(names):
    field = xr.DataArray(np.zeros((2, 8, 9)), dims=("time", *names))
    patches = field.geocat.patch(4)
    assert patches.sizes == {"patch": 6, "time": 2, names[0]: 4, names[1]: 4}


def test_size_overlap_and_stride_can_differ_by_dim(numbered):
    field = numbered((12, 12))
    by_overlap = field.geocat.patch({"y": 4, "x": 6}, overlap={"x": 2})
    by_stride = field.geocat.patch({"y": 4, "x": 6}, stride={"x": 4})
    assert starts_of(by_overlap) == starts_of(by_stride)
    assert set(by_overlap["y_start"].values) == {0, 4, 8}
    assert set(by_overlap["x_start"].values) == {0, 4, 6}


def test_the_function_and_the_method_are_the_same(positive):
    field = positive()
    xr.testing.assert_identical(
        xgc.patch(field, 5, overlap=2, boundary="pad"),
        field.geocat.patch(5, overlap=2, boundary="pad"),
    )


def test_numpy_integers_are_integers(positive):
    field = positive()
    patches = field.geocat.patch(np.int64(5), overlap=np.uint8(2))
    xr.testing.assert_identical(patches, field.geocat.patch(5, overlap=2))


def test_patches_are_copies_of_the_field(positive):
    field = positive()
    before = field.copy(deep=True)
    patches = field.geocat.patch(4)
    patches[:] = -1
    assert field.identical(before)


# --- datasets -------------------------------------------------------------------------------------


def test_a_dataset_is_cut_variable_by_variable(positive):
    red, nir = positive((9, 9), "uint8"), positive((2, 9, 9), "float64", ("time", "y", "x"))
    cube = xr.Dataset({"red": red, "nir": nir, "when": ("time", [1, 2])}, attrs={"title": "t"})
    patches = cube.geocat.patch(4, overlap=1)
    assert patches.attrs == cube.attrs
    assert patches["when"].equals(cube["when"])
    for name in ("red", "nir"):
        alone = cube[name].geocat.patch(4, overlap=1)
        assert patches[name].equals(alone)
        assert patches[name].attrs == alone.attrs


def test_a_dataset_keeps_coordinates_that_no_variable_uses(positive):
    cube = xr.Dataset({"red": positive((9, 9))}, coords={"wavelength": ("wl", [1.0, 2.0])})
    assert "wavelength" in cube.geocat.patch(4).coords


def test_variables_chunked_in_different_ways_are_cut_alike(positive):
    cube = xr.Dataset(
        {"a": positive((20, 20), chunks=4), "b": positive((20, 20), chunks=7, seed=1)}
    )
    patches = cube.geocat.patch(5, overlap=2)
    eager = cube.compute().geocat.patch(5, overlap=2)
    for name in "ab":
        by_start = patches[name].sortby(["y_start", "x_start"])
        np.testing.assert_array_equal(
            by_start.values, eager[name].sortby(["y_start", "x_start"]).values
        )


def test_a_variable_with_only_one_of_the_tiled_dims_is_refused(positive):
    cube = xr.Dataset({"red": positive((9, 9)), "row": ("y", np.zeros(9))})
    with pytest.raises(ValueError, match=r"'row'.*\('y',\).*only some.*\('y', 'x'\)"):
        cube.geocat.patch(4)


# --- lazy -----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_compute")
def test_patching_a_lazy_field_computes_nothing(positive):
    field = positive((30, 30), chunks=8)
    patches = field.geocat.patch(6, overlap=2)
    assert isinstance(patches.data, da.Array)
    assert isinstance(xr.Dataset({"a": field}).geocat.patch(6)["a"].data, da.Array)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_lazy_and_eager_patches_are_the_same_but_for_their_order(field_of, noise, data):
    shape = (data.draw(st.integers(1, 25)), data.draw(st.integers(1, 25)))
    chunks = {
        d: tuple(np.diff([0, *sorted(data.draw(st.sets(st.integers(1, n - 1)))), n]).tolist())
        if n > 1
        else 1
        for d, n in zip("yx", shape, strict=True)
    }
    field = field_of(noise(shape, "int16"))
    options = {
        "overlap": {"y": data.draw(st.integers(0, 3)), "x": 2},
        "boundary": data.draw(st.sampled_from(BOUNDARIES)),
    }
    lazy = field.chunk(chunks).geocat.patch(4, **options)
    order = ["y_start", "x_start"]
    xr.testing.assert_identical(
        lazy.sortby(order).compute(), field.geocat.patch(4, **options).sortby(order)
    )


@pytest.mark.parametrize("patch", [0, -1, np.int64(3)])
def test_one_lazy_patch_can_be_looked_at(numbered, patch):
    patches = numbered((12, 12), 5).geocat.patch(4)
    one = patches.isel(patch=patch)
    assert one.dims == ("y", "x")
    assert one.values[0, 0] == one["y_start"] * 12 + one["x_start"]


@pytest.mark.parametrize(
    "index",
    [
        {"patch": slice(2, 7)},
        {"patch": slice(None, None, -2)},
        {"patch": [5, 0, 5]},
        {"patch": np.arange(9) % 2 == 0},
        {"patch": [4], "time": 1},
        {"patch": slice(1, 4), "time": slice(1, None)},
        {"time": [1, 0]},
        {"patch": [3, 1], "time": [1]},
        {"patch": slice(3), "y": 2, "x": slice(1, 3)},
    ],
)
def test_selecting_from_lazy_patches_equals_selecting_from_eager_ones(positive, index):
    field = positive((2, 12, 12), dims=("time", "y", "x"))
    eager = field.geocat.patch(4)
    lazy = field.chunk(y=12, x=12, time=1).geocat.patch(4)
    xr.testing.assert_identical(lazy.isel(index).compute(), eager.isel(index))


def test_selected_patches_read_only_the_chunks_they_meet(numbered):
    read = []

    def load(block, block_info=None):
        read.append(block_info[0]["chunk-location"])
        return block

    field = numbered((20, 20), 5)
    field = field.copy(data=field.data.map_blocks(load, dtype=float, meta=np.empty((0, 0))))
    patches = field.geocat.patch(5)
    at = next(i for i, s in enumerate(starts_of(patches)) if s == (10, 5))
    read.clear()
    patches.isel(patch=[at]).compute(scheduler="sync")
    assert read == [(2, 1)]


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "options", "message"),
    [
        (4, {"overlap": 4}, "overlap=4 along 'y'.*0..3.*smaller than the size"),
        (4, {"overlap": 9}, "overlap=9"),
        (4, {"overlap": -1}, "overlap=-1"),
        (0, {}, "size=0"),
        (-4, {}, "size=-4"),
        (4, {"stride": 0}, "stride=0"),
        (4, {"overlap": 1, "stride": 3}, "overlap or stride, not both.*1.*3"),
        ({"y": 4, "z": 4}, {}, r"size names.*\['z'\].*\('y', 'x'\)"),
        ({"y": 4}, {"overlap": {"x": 1}}, "overlap names.*'x'.*only.*'y'"),
        ({}, {}, "size="),
        (4, {"boundary": "mirror"}, "'mirror' is unknown.*shift"),
        (5, {"boundary": "raise"}, "'y'.*12 pixels.*5"),
    ],
)
def test_bad_input_is_refused_with_the_value_and_the_remedy(positive, size, options, message):
    with pytest.raises(ValueError, match=message):
        positive((12, 14)).geocat.patch(size, **options)


@pytest.mark.parametrize("size", ["4", 4.5, True, None, [4, 4]])
def test_a_size_that_is_no_number_is_refused_by_name(positive, size):
    with pytest.raises((TypeError, ValueError), match="size"):
        positive().geocat.patch(size)


def test_a_field_without_spatial_dims_says_which_it_has():
    field = xr.DataArray(np.zeros((8, 8)), dims=("row", "col"))
    with pytest.raises(ValueError, match=r"\('row', 'col'\).*patch\(\{'row'"):
        field.geocat.patch(4)


def test_a_dataset_that_holds_nothing_to_cut_is_refused():
    cube = xr.Dataset({"a": ("time", [1, 2])}, coords={"y": [1.0, 2.0], "x": [1.0, 2.0]})
    with pytest.raises(ValueError, match="variable"):
        cube.geocat.patch(2)


def test_patching_patches_is_refused_in_words_of_patches(positive):
    with pytest.raises(ValueError, match=r"already|stitch"):
        positive().geocat.patch(6).geocat.patch(2)


def test_patching_a_catalog_says_what_to_do_first():
    catalog = xr.Dataset({"href": (("scene", "asset"), np.array([["a.tif"]]))})
    with pytest.raises(TypeError, match="catalog.*domain"):
        catalog.geocat.patch(4)
