from __future__ import annotations

import dask.array as da
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import xgeocat as xgc
from tests.patching import oracle
from xgeocat.patching import writing
from xgeocat.patching.reducers import ORDERING, REDUCERS

DTYPES = (
    "bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64",
    "float16", "float32", "float64", "complex64", "complex128",
)  # fmt: skip
WINDOWS = ("boxcar", "hann", "tukey", "gaussian", ("tukey", 0.1), ("gaussian", 0.025))
LAYOUTS = (("y", "x"), ("time", "y", "x"), ("y", "x", "band"), ("band", "y", "time", "x"))


def draw_chunks(data, sizes):
    """Random chunk lengths along each dim."""
    return {
        d: tuple(
            np.diff([0, *sorted(data.draw(st.sets(st.integers(1, n - 1), max_size=4))), n]).tolist()
        )
        if n > 1
        else 1
        for d, n in sizes.items()
    }


def where_cut(patches):
    return np.stack([patches["y_start"], patches["x_start"]], axis=-1).tolist()


# --- law 1: round trip ----------------------------------------------------------------------------


@given(st.data())
@settings(max_examples=120, deadline=None)
def test_stitching_what_was_cut_gives_the_field_back(field_of, noise, data):
    dims = data.draw(st.sampled_from(LAYOUTS), "dims")
    extents = st.one_of(st.integers(1, 4), st.integers(5, 25))
    sizes = {"y": data.draw(extents, "y"), "x": data.draw(extents, "x"), "time": 2, "band": 3}
    sizes = {d: sizes[d] for d in dims}
    dtype = data.draw(st.sampled_from(DTYPES), "dtype")
    values = noise(tuple(sizes.values()), dtype, data.draw(st.integers(0, 99), "seed"))
    attrs = {"units": "m"}
    holes = data.draw(st.sampled_from(["none", "nan", "nodata"]), "holes")
    gaps = np.random.default_rng(0).random(values.shape) < data.draw(st.floats(0, 1))
    if holes == "nan" and values.dtype.kind in "fc":
        values[gaps] = np.nan
    elif holes == "nodata" and dtype != "bool":
        values[gaps] = attrs["nodata"] = 7
    field = field_of(values, dims, attrs=attrs)
    size = {d: data.draw(st.integers(1, 9), f"size {d}") for d in "yx"}
    stride = {d: data.draw(st.integers(1, n), f"stride {d}") for d, n in size.items()}
    boundary = data.draw(st.sampled_from(["shift", "pad"]), "boundary")
    window = data.draw(st.sampled_from(WINDOWS), "window")
    lazy = data.draw(st.booleans(), "lazy")
    given_field = field.chunk(draw_chunks(data, sizes)) if lazy else field

    patches = given_field.geocat.patch(size, stride=stride, boundary=boundary)
    order = data.draw(st.sampled_from(["as cut", "reversed", "shuffled", "repeated"]), "order")
    n = patches.sizes["patch"]
    shuffled = np.random.default_rng(1).permutation(n)
    pick = {
        "as cut": slice(None),
        "reversed": slice(None, None, -1),
        "shuffled": shuffled,
        "repeated": np.concatenate([shuffled, shuffled[: n // 2]]),
    }[order]
    back = patches.isel(patch=pick).geocat.stitch(window=window)

    assert isinstance(back.data, da.Array) is lazy
    oracle.assert_same_field(back.compute(), field, ulps=2 if values.dtype.kind in "fc" else 0)
    assert back.odc.geobox == field.odc.geobox


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "complex64", "complex128"])
@pytest.mark.parametrize("chunks", [None, 4])
@pytest.mark.parametrize("window", ["boxcar", "hann"])
def test_infinities_come_back_and_touch_no_neighbour(field_of, noise, dtype, chunks, window):
    values = noise((9, 11), dtype)
    values[2, 3], values[6, 6], values[8, 0] = np.inf, -np.inf, np.nan
    if values.dtype.kind == "c":
        values[4, 4] = complex(1, np.inf)
    back = field_of(values, chunks=chunks).geocat.patch(4, overlap=2).geocat.stitch(window=window)
    oracle.assert_close(back.values, values)


@pytest.mark.parametrize("chunks", [None, 3])
@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 0)])
def test_an_empty_field_comes_back_empty(positive, shape, chunks):
    field = positive(shape, chunks=chunks)
    assert field.geocat.patch(4).sizes["patch"] == 0
    assert field.geocat.patch(4).geocat.stitch().compute().identical(field.compute())


@pytest.mark.parametrize("chunks", [None, 5])
@pytest.mark.parametrize("size", [{"x": 4}, {"time": 2, "y": 4, "x": 5}, {"band": 2, "x": 3}])
def test_any_number_of_dims_can_be_cut(noise, chunks, size):
    sizes = {"time": 3, "band": 4, "y": 9, "x": 11}
    field = xr.DataArray(noise(tuple(sizes.values()), "int32"), dims=tuple(sizes), name="made")
    given_field = field if chunks is None else field.chunk(dict.fromkeys(sizes, chunks))
    for window in WINDOWS:
        back = given_field.geocat.patch(size, overlap=1).geocat.stitch(window=window)
        oracle.assert_same_field(back.compute(), field)


@pytest.mark.parametrize("chunks", [None, 5])
def test_a_dataset_comes_back_whole(positive, field_of, noise, chunks):
    cube = xr.Dataset(
        {
            "red": field_of(noise((12, 14), "uint16")),
            "nir": positive((2, 12, 14), "float64", ("time", "y", "x"), units="1"),
            "mask": positive((12, 14), "bool"),
            "when": ("time", [3, 4]),
        },
        attrs={"title": "a cube"},
    )
    given_cube = cube if chunks is None else cube.chunk(chunks)
    back = given_cube.geocat.patch(5, overlap=2).geocat.stitch(window="hann")
    assert back.attrs == cube.attrs
    assert list(back) == list(cube)
    assert back.odc.geobox == cube.odc.geobox
    for name in ("red", "nir", "mask"):
        oracle.assert_same_field(back[name].compute(), cube[name], ulps=2)
    assert back["when"].equals(cube["when"])


def test_every_variable_of_a_dataset_keeps_its_own_order_of_dims(positive):
    cube = xr.Dataset(
        {
            "a": positive((12, 14, 3), dims=("y", "x", "band")),
            "b": positive((3, 12, 14), dims=("band", "y", "x")),
        }
    )
    back = cube.geocat.patch(5).geocat.stitch()
    assert back["a"].dims == ("y", "x", "band")
    assert back["b"].dims == ("band", "y", "x")


def test_two_dimensional_and_unusual_coordinates_come_back(positive):
    field = positive((9, 11)).assign_coords(
        lat=(("y", "x"), np.arange(99.0).reshape(9, 11), {"units": "degrees_north"}),
        row=("y", np.arange(9)),
        when=np.datetime64("2024-06-01", "ns"),
    )
    back = field.geocat.patch(4).geocat.stitch()
    oracle.assert_same_field(back, field)


def test_a_coordinate_over_time_and_y_does_not_stop_a_model_that_drops_time(positive):
    field = positive((2, 9, 11), dims=("time", "y", "x"))
    field = field.assign_coords(angle=(("time", "y"), np.zeros((2, 9))))
    back = field.geocat.patch(4).geocat.map(lambda b: b.mean(axis=1)).geocat.stitch()
    assert back.dims == ("y", "x")


def test_a_multi_index_on_another_dim_comes_back(positive):
    passes = pd.MultiIndex.from_tuples([("a", 1), ("b", 1)], names=["satellite", "orbit"])
    field = positive((2, 9, 11), dims=("time", "y", "x")).drop_vars("time")
    field = field.assign_coords(xr.Coordinates.from_pandas_multiindex(passes, "time"))
    assert field.geocat.patch(4).geocat.stitch().identical(field)


@pytest.mark.parametrize("chunks", [None, 4])
def test_nodata_declared_in_the_encoding_survives(positive, chunks):
    # So rioxarray and netCDF hand over integer rasters.
    field = positive((9, 11), "uint8", chunks=chunks)
    field.encoding["_FillValue"] = 0
    back = field.geocat.patch(4, boundary="drop").geocat.stitch()
    assert (back[8:] == 0).all()
    assert 0 in (back.encoding.get("_FillValue"), back.attrs.get("nodata"))


# --- law 4: chunking, order and scheduler change nothing ------------------------------------------


@given(st.data())
@settings(max_examples=80, deadline=None)
def test_answers_in_other_chunks_and_another_order_stitch_to_the_same_field(positive, data):
    dtype = data.draw(st.sampled_from(["uint8", "int32", "int64", "bool", "float32", "float64"]))
    sizes = {"y": data.draw(st.integers(1, 25)), "x": data.draw(st.integers(1, 25))}
    size = data.draw(st.integers(2, 9), "size")
    overlap = data.draw(st.integers(0, size - 1), "overlap")
    options = {
        "window": data.draw(st.sampled_from(WINDOWS), "window"),
        "crop": data.draw(st.integers(0, min(overlap // 2, (size - 1) // 2)), "crop"),
    }
    if data.draw(st.booleans(), "unweighted"):
        options |= {"window": "boxcar", "reduce": data.draw(st.sampled_from(
            ["sum", "max", "min", "first", "last", "centre", "median"]))}  # fmt: skip
    patches = positive(tuple(sizes.values())).geocat.patch(size, overlap=overlap)
    answers = np.random.default_rng(data.draw(st.integers(0, 99))).uniform(1, 120, patches.shape)
    answers = answers > 60 if dtype == "bool" else answers.astype(dtype)
    patches = patches.copy(data=answers)
    want = patches.geocat.stitch(**options)
    shuffle = np.random.default_rng(2).permutation(patches.sizes["patch"])
    each = data.draw(st.integers(1, 9), "patches per chunk")
    for other in (
        patches.chunk(patch=each),
        patches.isel(patch=shuffle),
        patches.isel(patch=shuffle).chunk(patch=each),
    ):
        np.testing.assert_array_equal(other.geocat.stitch(**options).values, want.values)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "complex64", "complex128"])
@pytest.mark.parametrize("reduce", ["mean", "sum", "variance"])
def test_sums_of_floats_are_the_same_bits_in_every_order_and_chunking(
    noise, positive, dtype, reduce
):
    # Numbers of all magnitudes, whose sums are rounded at every step.
    patches = positive((24, 24)).geocat.patch(8, overlap=5)
    patches = patches.copy(data=noise(patches.shape, dtype))
    window = "boxcar" if reduce == "sum" else "hann"
    want = patches.geocat.stitch(reduce=reduce, window=window).values
    rng = np.random.default_rng(0)
    for each in (None, 1, 4, 30):
        shuffled = patches.isel(patch=rng.permutation(patches.sizes["patch"]))
        shuffled = shuffled if each is None else shuffled.chunk(patch=each)
        got = shuffled.geocat.stitch(reduce=reduce, window=window).values
        np.testing.assert_array_equal(got, want)


class Lines:
    """An array that takes blocks, as a file does."""

    def __init__(self, like):
        self.values = np.zeros(like.shape, like.dtype)

    def __setitem__(self, region, values):
        self.values[region] = values


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_eager_lazy_and_streamed_are_the_same_bits(noise, field_of, data):
    dims = data.draw(st.sampled_from(LAYOUTS), "dims")
    extents = st.one_of(st.integers(1, 4), st.integers(5, 25))
    sizes = {"y": data.draw(extents, "y"), "x": data.draw(extents, "x"), "time": 2, "band": 3}
    sizes = {d: sizes[d] for d in dims}
    dtype = data.draw(st.sampled_from(DTYPES), "dtype")
    values = noise(tuple(sizes.values()), dtype, data.draw(st.integers(0, 99), "seed"))
    holes = np.random.default_rng(0).random(values.shape) < data.draw(st.sampled_from([0, 0.2]))
    attrs = {}
    if values.dtype.kind in "fc":
        values[holes] = np.nan
    elif holes.any() and dtype != "bool":
        values[holes] = attrs["nodata"] = 7
    kind = values.dtype.kind
    names = sorted(
        set(REDUCERS) - {"soft_vote", "inverse_variance"} - set(ORDERING if kind == "c" else ())
    )
    reduce = data.draw(st.sampled_from(names), "reduce")
    size = data.draw(st.integers(2, 9), "size")
    overlap = data.draw(st.integers(0, size - 1), "overlap")
    options = {
        "reduce": reduce,
        "crop": data.draw(st.integers(0, (size - 1) // 2 and overlap // 2)),
    }
    options["fill"] = {"b": True, "i": 3, "u": 3}.get(kind, np.nan)
    if reduce in ("mean", "vote", "variance"):
        options["window"] = data.draw(st.sampled_from(WINDOWS), "window")
    if data.draw(st.booleans(), "layers"):
        options |= {"coverage": True, "disagreement": True}
    gain = np.linspace(0.5, 1, size)

    def chain(source):
        patches = source.geocat.patch(size, overlap=overlap)
        # Every patch has an opinion of its own about a cell.
        answers = patches.geocat.map(lambda b: (b * gain).astype(dtype) if kind in "fc" else b)
        found = answers.geocat.stitch(**options)
        return found if isinstance(found, xr.Dataset) else found.to_dataset(name="made")

    field = field_of(values, dims, attrs=attrs)
    want = chain(field)
    lazy = chain(field.chunk(draw_chunks(data, sizes)))
    computed = lazy.compute()
    xr.testing.assert_identical(computed, want)
    sources = [var.data for var in lazy.values()]
    lines = [Lines(source) for source in sources]
    writing.write(sources, lines, "lines")
    for line, name in zip(lines, want, strict=True):
        np.testing.assert_array_equal(line.values, want[name].values)


@pytest.mark.parametrize("window", ["boxcar", "hann"])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_a_hole_in_one_block_changes_no_bit_of_any_cell_it_does_not_reach(positive, window, dtype):
    # A block with a hole is folded in another way than one without.
    patches = positive((40, 40)).geocat.patch(8, overlap=4)
    rng = np.random.default_rng(0)
    patches = patches.copy(data=rng.uniform(1, 200, patches.shape).astype(dtype))
    patches.attrs["nodata"] = 255
    want = patches.geocat.stitch(window=window).values
    hole = np.nan if dtype == "float32" else 255
    spoiled = patches.copy(deep=True)
    spoiled[17, 3, 4] = hole
    y, x = (int(patches[f"{d}_start"][17]) + k for d, k in (("y", 3), ("x", 4)))
    for got in (
        spoiled.geocat.stitch(window=window),
        spoiled.chunk(patch=9).geocat.stitch(window=window),
    ):
        same = got.values == want
        same[y, x] = True
        assert same.all()


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int32", "int64", "uint64"])
@pytest.mark.parametrize("window", WINDOWS)
def test_halves_are_rounded_the_same_way_in_every_order_and_chunking(positive, dtype, window):
    patches = positive((16, 16)).geocat.patch(6, overlap=3)
    rng = np.random.default_rng(0)
    patches = patches.copy(data=rng.integers(0, 2, patches.shape).astype(dtype))
    want = patches.geocat.stitch(window=window).values
    for _ in range(4):
        shuffled = patches.isel(patch=rng.permutation(patches.sizes["patch"]))
        np.testing.assert_array_equal(shuffled.geocat.stitch(window=window).values, want)
        lazy = shuffled.chunk(patch=3).geocat.stitch(window=window)
        np.testing.assert_array_equal(lazy.values, want)


@given(st.data())
@settings(max_examples=30, deadline=None)
def test_the_chunking_of_the_field_changes_no_result(positive, data):
    sizes = {"time": 2, "y": data.draw(st.integers(1, 30)), "x": data.draw(st.integers(1, 30))}
    field = positive(tuple(sizes.values()), dims=tuple(sizes))
    size, window = data.draw(st.integers(3, 9)), data.draw(st.sampled_from(WINDOWS))

    def chain(given_field):
        patches = given_field.geocat.patch(size, overlap=2)
        answers = patches.geocat.map(lambda b: b * np.arange(size, dtype="float32") + 1)
        return answers.geocat.stitch(window=window, crop=1)

    want = chain(field)
    got = chain(field.chunk(draw_chunks(data, sizes)))
    oracle.assert_same_field(got.compute(), want)


@pytest.mark.parametrize("reduce", ["mean", "first", "sum", "max", "vote", "median", "variance"])
def test_threads_and_one_thread_agree_bit_by_bit(positive, reduce):
    field = positive((2, 60, 70), chunks={"time": 1, "y": 16, "x": 16}, dims=("time", "y", "x"))
    patches = field.geocat.patch(9, overlap=4)
    answers = patches.geocat.map(lambda b: b * np.arange(9, dtype="float32"))
    stitched = answers.geocat.stitch(reduce=reduce)
    want = stitched.compute(scheduler="sync")
    for _ in range(3):
        assert stitched.compute(scheduler="threads", num_workers=4).identical(want)


def test_many_chunks_on_one_block_merge_to_the_same(positive):
    patches = positive((20, 20)).geocat.patch(6, overlap=4)
    rng = np.random.default_rng(3)
    patches = patches.copy(data=rng.uniform(1, 9, patches.shape).astype("float32"))
    want = patches.geocat.stitch(window="hann")
    for each in (1, 2, 7, 50):
        got = patches.chunk(patch=each).geocat.stitch(window="hann")
        oracle.assert_same_field(got.compute(), want)


# --- law 2: no silent number ----------------------------------------------------------------------

UNKNOWN = [
    ("float32", {}, None, np.nan),
    ("float64", {"nodata": -9999.0}, None, -9999.0),
    ("complex64", {}, None, np.nan),
    ("float16", {}, -1, -1.0),
    ("uint8", {"nodata": 255}, None, 255),
    ("int16", {"_FillValue": np.int16(-99)}, None, -99),
    ("uint8", {}, 254, 254),
    ("uint8", {"nodata": 255}, 254, 254),
    ("bool", {}, True, True),
    ("int64", {}, -(2**63), -(2**63)),
    ("uint64", {}, 2**64 - 1, 2**64 - 1),
]


@pytest.mark.parametrize(("dtype", "attrs", "fill", "expected"), UNKNOWN)
@pytest.mark.parametrize("chunks", [None, 3])
@pytest.mark.parametrize("reduce", ["mean", "first", "max"])
def test_cells_no_patch_reached_hold_the_fill(
    positive, dtype, attrs, fill, expected, chunks, reduce
):
    if reduce == "max" and dtype.startswith("complex"):
        pytest.skip("complex numbers have no order")
    field = positive((9, 11), dtype, chunks=chunks, **attrs)
    by_drop = field.geocat.patch(4, boundary="drop").geocat.stitch(fill=fill, reduce=reduce)
    some = field.geocat.patch(4).isel(patch=[0, 3])
    by_subset = some.geocat.stitch(fill=fill, reduce=reduce)
    reached = np.zeros((9, 11), bool)
    for y, x in where_cut(some):
        reached[y : y + 4, x : x + 4] = True
    dropped = np.zeros((9, 11), bool)
    dropped[:8, :8] = True
    for got, known in ((by_drop, dropped), (by_subset, reached)):
        assert got.dtype == dtype
        oracle.assert_answer(got.values, field.values, known, expected)


@pytest.mark.parametrize("chunks", [None, 3])
def test_no_patches_at_all_give_a_field_of_nothing(positive, chunks):
    field = positive((9, 11), chunks=chunks)
    back = field.geocat.patch(12, boundary="drop").geocat.stitch()
    assert back.shape == (9, 11)
    assert np.isnan(back).all()
    none = field.geocat.patch(4).isel(patch=[]).geocat.map(lambda b: b).geocat.stitch()
    assert none.dtype == "float32"
    assert np.isnan(none).all()


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int64"])
@pytest.mark.parametrize("chunks", [None, 3])
@pytest.mark.parametrize("reduce", ["mean", "sum", "max", "min", "first", "vote", "median"])
@pytest.mark.parametrize(
    "leave",
    [
        lambda f: f.geocat.patch(4, boundary="drop"),
        lambda f: f.geocat.patch(4).isel(patch=slice(1, None)),
        lambda f: f.geocat.patch(3, stride=4, boundary="pad"),
    ],
    ids=["drop", "subset", "stride beyond size"],
)
@pytest.mark.usefixtures("no_compute")
def test_integers_without_a_fill_refuse_gaps_before_anything_runs(
    positive, dtype, chunks, reduce, leave
):
    with pytest.raises(ValueError, match=r"reached by no patch.*stitch\(fill="):
        leave(positive((9, 11), dtype, chunks=chunks)).geocat.stitch(reduce=reduce)


@pytest.mark.usefixtures("no_compute")
def test_a_crop_that_leaves_gaps_between_patches_is_refused_for_integers(positive):
    patches = positive((12, 12), "uint8", chunks=4).geocat.patch(6, overlap=1)
    with pytest.raises(ValueError, match="reached by no patch"):
        patches.geocat.stitch(crop=1)
    patches.geocat.stitch(crop=1, fill=0)


@pytest.mark.parametrize("nodata", [-9999, np.nan, 0.5, 300])
def test_a_nodata_that_the_dtype_cannot_hold_fills_nothing(positive, nodata):
    patches = positive((9, 9), "uint8", nodata=nodata).geocat.patch(4, boundary="drop")
    with pytest.raises(ValueError, match="reached by no patch"):
        patches.geocat.stitch()


@pytest.mark.parametrize("fill", [300, -1, 0.5, np.nan, np.inf, 1j, 2**64])
def test_a_fill_that_the_dtype_cannot_hold_is_refused(positive, fill):
    patches = positive((9, 9), "uint8").geocat.patch(4)
    with pytest.raises(ValueError, match="fill=.*uint8"):
        patches.geocat.stitch(fill=fill)


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
@pytest.mark.parametrize("fill", [0, 200])
def test_the_fill_that_was_used_is_declared(positive, dtype, fill):
    back = (
        positive((9, 9), dtype, nodata=255)
        .geocat.patch(4, boundary="drop")
        .geocat.stitch(fill=fill)
    )
    assert (back[8, :] == fill).all()
    assert back.attrs["nodata"] == fill


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("chunks", [None, 3])
@pytest.mark.parametrize("nodata", [None, -9999.0])
def test_an_unknown_patch_leaves_its_neighbours_as_they_are(positive, window, chunks, nodata):
    field = positive((12, 12), **({} if nodata is None else {"nodata": nodata}))
    patches = (field if chunks is None else field.chunk(chunks)).geocat.patch(6, overlap=3)
    bad = ((patches["y_start"] == 3) & (patches["x_start"] == 3)).values
    spoiled = patches.where(~xr.DataArray(bad, dims="patch"), np.nan if nodata is None else nodata)
    back = spoiled.geocat.stitch(window=window)
    oracle.assert_close(back.values, field.values)


def test_a_cell_that_all_patches_leave_unknown_is_unknown(positive):
    patches = positive((12, 12)).geocat.patch(6, overlap=3)
    answers = patches.where((patches["y_start"] > 3) | (patches["x_start"] > 3))
    back = answers.geocat.stitch(window="hann")
    unknown = np.zeros((12, 12), bool)
    unknown[:6, :6] = True
    assert np.isnan(back.values[:6, :6]).all()
    assert not np.isnan(back.values[~unknown]).any()


@pytest.mark.parametrize("chunks", [None, 3])
def test_nan_in_one_band_leaves_the_other_bands(positive, chunks):
    field = positive((3, 9, 11), dims=("band", "y", "x"))
    field[1] = np.nan
    back = (
        (field if chunks is None else field.chunk(chunks, band=1))
        .geocat.patch(4, overlap=2)
        .geocat.stitch(window="hann")
    )
    oracle.assert_close(back.values, field.values)


def test_a_nodata_answer_is_not_averaged(positive):
    field = positive((4, 6), "int16", nodata=-9999)
    patches = field.geocat.patch({"y": 4, "x": 4}, overlap={"x": 2})
    patches[:] = 10
    patches[0] = -9999
    np.testing.assert_array_equal(patches.geocat.stitch()[0], [-9999] * 2 + [10] * 4)


# --- crop -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunks", [None, 3])
@pytest.mark.parametrize("boundary", ["shift", "pad"])
def test_the_margin_of_a_patch_reaches_no_cell_but_on_the_fields_edge(positive, chunks, boundary):
    field = positive((13, 16), chunks=chunks)
    patches = field.geocat.patch(7, overlap=4, boundary=boundary)
    marked = patches.compute().copy(deep=True)
    marked[:, [0, 1, -2, -1], :] = -1
    marked[:, :, [0, 1, -2, -1]] = -1
    back = marked.geocat.stitch(crop=2).values
    edge = np.ones((13, 16), bool)
    edge[2:-2, 2:-2] = False
    assert (back[~edge] > 0).all()
    np.testing.assert_array_equal(patches.geocat.stitch(crop=2).values, field.values)


def test_a_crop_can_differ_by_dim(positive):
    field = positive((12, 14))
    patches = field.geocat.patch(6, overlap=4)
    marked = patches.copy(deep=True)
    marked[:, [0, -1], :] = -1
    back = marked.geocat.stitch(crop={"y": 1}).values
    assert (back[1:-1] > 0).all()


@pytest.mark.parametrize(
    ("crop", "message"),
    [
        (2, r"crop=2 along 'y' leaves nothing of a patch of 4 px.*0\.\.1"),
        (99, "crop=99"),
        (-1, "crop=-1"),
        ({"z": 1}, r"crop names \['z'\].*\('y', 'x'\)"),
        ({"x": 2}, "along 'x'"),
    ],
)
def test_a_crop_that_leaves_nothing_is_refused(positive, crop, message):
    with pytest.raises(ValueError, match=message):
        positive().geocat.patch(4, overlap=2).geocat.stitch(crop=crop)


def test_a_crop_may_be_a_numpy_integer(positive):
    patches = positive().geocat.patch(4, overlap=2)
    assert patches.geocat.stitch(crop=np.int64(1)).identical(patches.geocat.stitch(crop=1))


def test_a_crop_of_half_a_pixel_is_refused_by_name(positive):
    with pytest.raises((TypeError, ValueError), match="crop"):
        positive().geocat.patch(4, overlap=2).geocat.stitch(crop=1.5)


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunks", [None, 5])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": "kaiser"}, "'kaiser' is unknown.*hann"),
        ({"window": ("tukey", 2)}, "taper=2"),
        ({"reduce": "mode"}, "'mode' is unknown.*mean.*sum.*max.*min.*first.*median"),
        ({"reduce": "max", "window": "hann"}, "window='hann'.*reducer Extreme.*Leave out"),
        ({"reduce": "first", "window": ("gaussian", 0.2)}, "reducer First.*Leave out"),
        ({"reduce": "sum", "window": "hann"}, "reducer Sum.*Leave out"),
        ({"reduce": "median", "window": "hann"}, "reducer Median.*Leave out"),
        ({"reduce": "centre", "window": "hann"}, "reducer Centre.*Leave out"),
        ({"reduce": "soft_vote"}, r"soft_vote.*classes along the first dim.*lengths \(\)"),
    ],
)
@pytest.mark.usefixtures("no_compute")
def test_bad_options_are_refused_at_once(positive, chunks, options, message):
    with pytest.raises(ValueError, match=message):
        positive(chunks=chunks).geocat.patch(4).geocat.stitch(**options)


@pytest.mark.parametrize("reduce", ["max", "min"])
def test_complex_answers_have_no_largest(positive, reduce):
    with pytest.raises(ValueError, match=f"{reduce}.*complex64"):
        positive(dtype="complex64").geocat.patch(4).geocat.stitch(reduce=reduce)


@pytest.mark.parametrize("dtype", ["datetime64[s]", "U3", "object"])
def test_what_is_no_number_is_refused_with_its_dtype(positive, dtype):
    patches = positive(dtype="int64").geocat.patch(4).astype(dtype)
    with pytest.raises(TypeError, match=r"dtype.*cannot be stitched"):
        patches.geocat.stitch()


@pytest.mark.parametrize("chunks", [None, 5])
@pytest.mark.parametrize("n", [3, 5, 6])
def test_patches_of_another_shape_are_refused(positive, chunks, n):
    patches = positive(chunks=chunks).geocat.patch(4).pad(y=(0, 2)).isel(y=slice(n))
    with pytest.raises(ValueError, match=rf"have {n} cells along 'y' for patches of 4: neither"):
        patches.geocat.stitch()


@pytest.mark.parametrize("chunks", [None, 5])
@pytest.mark.parametrize(
    "spoil", [lambda p: p.isel(x=0), lambda p: p.rename(x="col")], ids=["without x", "renamed"]
)
def test_one_answer_per_patch_where_the_last_patch_moved_in_is_refused(positive, chunks, spoil):
    with pytest.raises(ValueError, match="one answer per patch along 'x'.*starts at 10, off"):
        spoil(positive(chunks=chunks).geocat.patch(4)).geocat.stitch()


# --- layers that come with the field --------------------------------------------------------------


@pytest.mark.parametrize("chunks", [None, 5])
def test_layers_come_with_the_field_under_its_name(positive, chunks):
    field = positive((12, 14), "uint8", chunks=chunks, nodata=0, units="m")
    patches = field.geocat.patch(5, overlap=2)
    assert isinstance(patches.geocat.stitch(), xr.DataArray)
    found = patches.geocat.stitch(coverage=True, disagreement=True)
    assert list(found) == ["made", "coverage", "disagreement"]
    assert found.odc.geobox == field.odc.geobox
    oracle.assert_same_field(found["made"].compute(), field.compute())
    for name in ("coverage", "disagreement"):
        assert found[name].dims == ("y", "x")
        assert found[name].dtype == "float32"
        assert found[name].attrs == {}
        assert isinstance(found[name].data, da.Array) is (chunks is not None)
    nameless = patches.rename(None).geocat.stitch(coverage=True)
    assert list(nameless) == ["field", "coverage"]
    assert list(patches.geocat.stitch(disagreement=True)) == ["made", "disagreement"]


def test_layers_of_a_dataset_are_told_apart_by_the_names_of_its_variables(positive):
    cube = xr.Dataset(
        {"a": positive(), "b": positive(dtype="uint8", seed=1), "when": ("time", [1, 2])},
        attrs={"title": "a cube"},
    )
    found = cube.geocat.patch(5, overlap=2).geocat.stitch(coverage=True, disagreement=True)
    assert found.attrs == cube.attrs
    layers = [f"{name}_{layer}" for name in "ab" for layer in ("coverage", "disagreement")]
    assert set(found) == {"a", "b", "when", *layers}
    alone = cube["b"].geocat.patch(5, overlap=2).geocat.stitch(coverage=True)
    np.testing.assert_array_equal(found["b_coverage"].values, alone["coverage"].values)


@pytest.mark.parametrize("layer", ["coverage", "disagreement"])
def test_a_layer_takes_the_place_of_no_variable(positive, layer):
    patches = positive().geocat.patch(5)
    with pytest.raises(ValueError, match=rf"called \['{layer}'\].*Rename"):
        patches.rename(layer).geocat.stitch(**{layer: True})
    both = xr.Dataset({"a": patches, f"a_{layer}": patches})
    with pytest.raises(ValueError, match=rf"called \['a_{layer}'\].*Rename"):
        both.geocat.stitch(**{layer: True})
    assert list(both.geocat.stitch()) == ["a", f"a_{layer}"]


@pytest.mark.parametrize("chunks", [None, 5])
def test_coverage_is_zero_where_no_patch_was_and_has_no_fill(positive, chunks):
    field = positive((9, 11), "uint8", chunks=chunks)
    patches = field.geocat.patch(4, boundary="drop")
    found = patches.geocat.stitch(fill=255, coverage=True)
    want = np.zeros((9, 11))
    want[:8, :8] = 1
    np.testing.assert_array_equal(found["coverage"].values, want)
    assert found["made"].attrs["nodata"] == 255


@pytest.mark.parametrize("window", WINDOWS)
def test_coverage_is_the_weight_that_arrived(positive, window):
    patches = positive((12, 14)).geocat.patch(6, overlap=3)
    patches = patches.where(patches["x_start"] != 3)
    weight = np.multiply.outer(oracle.window(window, 6), oracle.window(window, 6))
    want = np.zeros((12, 14))
    for y, x in where_cut(patches):
        if x != 3:
            want[y : y + 6, x : x + 6] += weight
    found = patches.geocat.stitch(window=window, coverage=True)
    np.testing.assert_allclose(found["coverage"].values, want, rtol=1e-6, atol=2e-38)
    # However little it is, it is not nothing.
    np.testing.assert_array_equal(found["coverage"].values > 0, want > 0)
    # Reducers that take no weights count answers.
    counted = patches.geocat.stitch(reduce="max", coverage=True)["coverage"]
    np.testing.assert_array_equal(counted.values, counted.values.round())


# --- how numbers lie in memory --------------------------------------------------------------------

MIRRORED = {
    "x": lambda a: a[..., ::-1].copy()[..., ::-1],
    "y": lambda a: a[..., ::-1, :].copy()[..., ::-1, :],
    "columns": np.asfortranarray,
    "read-only": lambda a: np.frombuffer(a.tobytes(), a.dtype).reshape(a.shape),
    "broadcast": lambda a: np.broadcast_to(a[:, :, :1], a.shape),
}


@pytest.mark.parametrize(
    "dtype", ["bool", "uint8", "int64", "float16", "float32", "complex64", "complex128"]
)
@pytest.mark.parametrize("layout", MIRRORED.values(), ids=MIRRORED.keys())
def test_answers_may_lie_in_memory_in_any_way(noise, positive, dtype, layout):
    patches = positive().geocat.patch(5, overlap=2)
    answers = layout(noise(patches.shape, dtype))
    for reduce in ("mean", "variance", "sum", "first"):
        window = "hann" if reduce in ("mean", "variance") else "boxcar"
        want = patches.copy(data=answers.copy(order="C")).geocat.stitch(
            reduce=reduce, window=window
        )
        got = patches.copy(data=answers).geocat.stitch(reduce=reduce, window=window)
        np.testing.assert_array_equal(got.values, want.values)


@pytest.mark.parametrize("dtype", [">i2", ">u4", ">i8", ">f4", ">f8", ">c8", ">c16"])
@pytest.mark.parametrize(
    ("reduce", "chunks"), [("mean", None), ("mean", 5), ("variance", None), ("median", 5)]
)
def test_fields_of_the_other_byte_order_come_back(field_of, noise, dtype, reduce, chunks):
    # So netCDF 3 and FITS files hold them.
    native = np.dtype(dtype).newbyteorder("=")
    if native.kind == "c" and reduce == "median":
        reduce = "sum"
    values = noise((12, 14), native)
    field = field_of(values.astype(dtype), chunks=chunks)
    patches = field.geocat.patch(5, overlap=2)
    back = patches.geocat.stitch(reduce=reduce)
    want = field_of(values).geocat.patch(5, overlap=2).geocat.stitch(reduce=reduce)
    assert patches.dtype == native
    assert back.dtype == want.dtype
    np.testing.assert_array_equal(back.values, want.values)
    # Answers of a model may be of the other order as well.
    answers = field_of(values).geocat.patch(5, overlap=2).astype(dtype)
    np.testing.assert_array_equal(answers.geocat.stitch(reduce=reduce).values, want.values)


# --- a front door ---------------------------------------------------------------------------------


def test_function_and_method_are_the_same(positive):
    patches = positive().geocat.patch(4, overlap=2)
    options = {"window": "hann", "crop": 1}
    assert xgc.stitch(patches, **options).identical(patches.geocat.stitch(**options))


def test_options_reach_every_variable_of_a_dataset(positive):
    cube = xr.Dataset({"a": positive(), "b": positive(seed=1, dtype="uint8")})
    patches = cube.geocat.patch(5, overlap=3)
    got = (patches * xr.DataArray(np.arange(5), dims="x")).geocat.stitch(reduce="max", crop=1)
    for name in "ab":
        alone = patches[name] * xr.DataArray(np.arange(5), dims="x")
        assert got[name].equals(alone.geocat.stitch(reduce="max", crop=1))


def test_stitching_changes_no_patch(positive):
    for dtype in ("float32", "float64", "int64", "bool"):
        patches = positive(dtype=dtype).geocat.patch(5, overlap=3)
        before = patches.copy(deep=True)
        for reduce in ("mean", "sum", "max", "first"):
            patches.geocat.stitch(reduce=reduce)
        assert patches.identical(before)


def test_the_crs_is_found_by_rioxarray_and_odc(positive):
    import rioxarray  # noqa: F401 - registers .rio

    field = positive(chunks=5)
    back = field.geocat.patch(4).geocat.map(lambda b: b > 9).geocat.stitch()
    assert back.rio.crs.to_epsg() == 32610
    assert back.rio.transform() == field.rio.transform()
    assert back.odc.geobox == field.odc.geobox
