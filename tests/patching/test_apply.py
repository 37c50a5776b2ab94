from __future__ import annotations

import re

import dask.array as da
import numpy as np
import pytest
import xarray as xr

import xgeocat as xgc


def double(batch):
    return batch * 2


@pytest.fixture(params=[None, 5], ids=["eager", "lazy"])
def chunks(request):
    return request.param


@pytest.fixture
def patches(positive, chunks):
    return positive((12, 14), chunks=chunks).geocat.patch(4)


@pytest.fixture
def cube(positive, chunks):
    """Dataset of three bands; the dtype of each differs."""
    return xr.Dataset(
        {
            "red": positive((12, 14), "uint8", chunks=chunks, seed=1),
            "nir": positive((12, 14), "uint16", chunks=chunks, seed=2),
            "swir": positive((12, 14), "float32", chunks=chunks, seed=3),
        }
    )


# --- what the model sees --------------------------------------------------------------------------


def test_a_dataarray_keeps_its_own_dims(patches, counting):
    model = counting()
    answers = patches.geocat.map(model).compute()
    assert {shape[1:] for shape in model.batches} == {(4, 4)}
    xr.testing.assert_equal(answers, patches.compute())


@pytest.mark.parametrize(
    ("dims", "seen"),
    [(("time", "y", "x"), (2, 4, 4)), (("y", "x", "band"), (3, 4, 4))],
)
def test_other_dims_come_between_patch_and_space(positive, counting, chunks, dims, seen):
    sizes = {"y": 12, "x": 14, "time": 2, "band": 3}
    field = positive(tuple(sizes[d] for d in dims), dims=dims, chunks=chunks)
    model = counting()
    answers = field.geocat.patch(4).geocat.map(model).compute()
    assert {shape[1:] for shape in model.batches} == {seen}
    assert answers.dims == ("patch", *(d for d in dims if d not in "yx"), "y", "x")


def test_a_dataset_is_stacked_to_bands_in_the_order_of_its_variables(cube):
    for order in (["red", "nir", "swir"], ["swir", "red", "nir"]):
        answers = cube[order].geocat.patch(4).geocat.map(lambda b: b.copy())
        batch = answers.values
        assert batch.dtype == np.float32
        assert batch.shape[1:] == (3, 4, 4)
        stacked = cube[order].to_dataarray("band").geocat.patch(4)
        want = stacked.transpose("patch", "band", "y", "x").values
        np.testing.assert_array_equal(batch, want)


def test_a_dataset_of_one_band_still_has_a_band_dim(cube, counting):
    model = counting()
    answers = cube[["red"]].geocat.patch(4).geocat.map(model).compute()
    assert {shape[1:] for shape in model.batches} == {(1, 4, 4)}
    assert answers.dims == ("patch", "band", "y", "x")


def test_a_dataset_with_time_has_the_band_dim_before_it(positive, counting, chunks):
    bands = {n: positive((2, 12, 14), dims=("time", "y", "x"), chunks=chunks) for n in "ab"}
    model = counting()
    answers = xr.Dataset(bands).geocat.patch(4).geocat.map(model).compute()
    assert {shape[1:] for shape in model.batches} == {(2, 2, 4, 4)}
    assert answers.dims == ("patch", "band", "time", "y", "x")
    assert answers["time"].equals(bands["a"]["time"])


def test_variables_that_were_not_cut_are_not_given_to_the_model(cube, counting):
    model = counting()
    cube.assign(when=("time", [1, 2])).geocat.patch(4).geocat.map(model).compute()
    assert {shape[1:] for shape in model.batches} == {(3, 4, 4)}


@pytest.mark.parametrize("batch_size", [1, 5, 12, 1000])
def test_batches_are_at_most_so_large_and_hold_every_patch_once(
    numbered, chunks, counting, batch_size
):
    patches = numbered((12, 14), chunks).geocat.patch(4)
    model = counting()
    patches.geocat.map(model, batch_size=batch_size).compute()
    counts = [shape[0] for shape in model.batches if shape[0]]
    assert max(counts) <= batch_size
    starts = patches["y_start"] * 14 + patches["x_start"]
    assert sorted(model.seen) == sorted(starts.values.tolist())


def test_in_memory_all_batches_but_the_last_are_full(positive, counting):
    model = counting()
    positive((12, 16)).geocat.patch(4).geocat.map(model, batch_size=5)
    assert [shape[0] for shape in model.batches] == [5, 5, 2]


def test_the_batch_size_changes_no_answer(patches):
    answers = [patches.geocat.map(double, batch_size=n).compute() for n in (1, 3, 50)]
    for other in answers[1:]:
        xr.testing.assert_identical(answers[0], other)


def test_a_model_that_writes_into_its_batch_changes_no_patch(patches):
    def greedy(batch):
        batch -= 1
        return batch

    before = patches.compute().copy(deep=True)
    persisted = patches.persist()
    answers = persisted.geocat.map(greedy, meta=np.empty((0, 4, 4), "float32"))
    both = xr.Dataset({"answers": answers, "again": answers + persisted}).compute()
    np.testing.assert_array_equal(persisted.values, before.values)
    np.testing.assert_allclose(both["answers"].values, before.values - 1, rtol=1e-6)
    np.testing.assert_allclose(both["again"].values, 2 * before.values - 1, rtol=1e-6)


# --- what it answers ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "dims", "dtype"),
    [
        (double, ("patch", "band", "y", "x"), "float32"),
        (lambda b: b.mean(axis=1), ("patch", "y", "x"), "float32"),
        (lambda b: b[:, 0] > 9, ("patch", "y", "x"), "bool"),
        (lambda b: b.argmax(axis=1).astype("uint8"), ("patch", "y", "x"), "uint8"),
        (lambda b: np.repeat(b, 2, axis=1), ("patch", "band", "y", "x"), "float32"),
        (lambda b: b[:, :1].astype("complex64"), ("patch", "band", "y", "x"), "complex64"),
    ],
    ids=["same", "one per cell", "bool", "classes", "twice the bands", "one band"],
)
def test_answers_may_change_bands_and_dtype(cube, model, dims, dtype):
    patches = cube.geocat.patch(4)
    answers = patches.geocat.map(model)
    assert answers.dims == dims
    assert answers.dtype == dtype
    given = patches.to_dataarray("band").transpose("patch", "band", "y", "x").values
    np.testing.assert_array_equal(answers.values, model(given))
    assert answers.geocat.stitch().dims == dims[1:]


def test_a_dataarray_may_get_a_new_band_dim(patches):
    answers = patches.geocat.map(lambda b: np.stack([b, b > 9], axis=1).astype("float32"))
    assert answers.dims == ("patch", "band", "y", "x")
    assert answers.geocat.stitch().shape == (2, 12, 14)


def test_a_dataarray_may_lose_its_band_dim_or_change_its_length(positive, chunks):
    field = positive((3, 12, 14), dims=("band", "y", "x"), chunks=chunks)
    patches = field.geocat.patch(4)
    assert patches.geocat.map(lambda b: b.sum(axis=1)).dims == ("patch", "y", "x")
    five = patches.geocat.map(lambda b: np.repeat(b, 2, axis=1)[:, :5])
    assert five.dims == ("patch", "band", "y", "x")
    assert "band" not in five.coords
    assert patches.geocat.map(double)["band"].equals(field["band"])


def test_named_dims_are_used(patches):
    def two_heads(batch):
        return np.stack([np.stack([batch] * 3, 1)] * 2, 1)

    answers = patches.geocat.map(two_heads, dims=("head", "band", "y", "x"))
    assert answers.dims == ("patch", "head", "band", "y", "x")
    field = answers.geocat.stitch()
    assert dict(field.sizes) == {"head": 2, "band": 3, "y": 12, "x": 14}


def test_answers_know_where_they_are(patches):
    answers = patches.geocat.map(double)
    for name in ("y_start", "x_start"):
        assert answers[name].equals(patches[name])
    assert answers["spatial_ref"].identical(patches["spatial_ref"])
    assert answers.name == patches.name


def test_patches_in_any_order_and_number_can_be_mapped(patches):
    some = patches.isel(patch=[5, 2, 2, 7])
    np.testing.assert_array_equal(some.geocat.map(double).values, some.values * 2)
    none = patches.isel(patch=[]).geocat.map(double)
    assert none.shape == (0, 4, 4)
    assert none.dtype == patches.dtype


def test_function_and_method_are_the_same(patches):
    xr.testing.assert_identical(
        xgc.map_patches(patches, double, batch_size=3).compute(),
        patches.geocat.map(double, batch_size=3).compute(),
    )


def test_a_model_may_build_its_answer_from_a_list(patches):
    answers = patches.geocat.map(lambda batch: np.array([p * 2 for p in batch]))
    np.testing.assert_array_equal(answers.values, patches.values * 2)


def test_a_model_that_cannot_take_an_empty_batch_is_asked_with_one_patch(patches):
    def picky(batch):
        assert len(batch) > 0
        return (batch / batch.max(axis=(1, 2), keepdims=True)).astype("float16")

    answers = patches.geocat.map(picky)
    assert answers.dtype == "float16"
    np.testing.assert_array_equal(answers.values, picky(patches.values))


# --- lazy -----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_compute")
def test_mapping_lazy_patches_computes_nothing_and_runs_on_no_patch(positive, counting):
    patches = positive((12, 14), chunks=5).geocat.patch(4)
    model = counting()
    answers = patches.geocat.map(model)
    assert isinstance(answers.data, da.Array)
    assert sum(shape[0] for shape in model.batches) == 0


def test_with_meta_the_model_is_not_asked_at_all(positive, counting):
    patches = positive((12, 14), chunks=5).geocat.patch(4)
    model = counting()
    answers = patches.geocat.map(model, meta=np.empty((0, 4, 4), "float32"))
    assert model.batches == []
    np.testing.assert_array_equal(answers.values, patches.values)


def test_lazy_answers_equal_eager_ones(positive):
    field = positive((2, 12, 14), dims=("time", "y", "x"))
    eager = field.geocat.patch(4, overlap=1).geocat.map(double)
    for chunks in ({"time": 1, "y": 5, "x": 6}, {"y": 12, "x": 14}, {"time": 1, "y": 12, "x": 3}):
        lazy = field.chunk(chunks).geocat.patch(4, overlap=1).geocat.map(double)
        order = ["y_start", "x_start"]
        xr.testing.assert_identical(lazy.compute().sortby(order), eager.sortby(order))


def test_lazy_and_eager_variables_can_be_mixed(positive):
    bands = {"a": positive(seed=1), "b": positive(seed=2)}
    want = xr.Dataset(bands).geocat.patch(4).geocat.map(double)
    mixed = xr.Dataset({"a": bands["a"], "b": bands["b"].chunk(20)}).geocat.patch(4)
    xr.testing.assert_equal(mixed.geocat.map(double).compute(), want)


@pytest.mark.parametrize("name", [None, "red"])
def test_answers_have_the_name_of_the_patches_or_none(positive, chunks, name):
    field = positive(chunks=chunks).rename(name)
    assert field.geocat.patch(4).name == name
    assert field.geocat.patch(4).geocat.map(double).name == name
    assert field.geocat.patch(4).geocat.stitch().name == name
    assert xr.Dataset({"a": field}).geocat.patch(4).geocat.map(double).name is None


# --- clear errors, as early as they can be --------------------------------------------------------


def check(patches, model, error, message, **options):
    """The error comes at map() for eager patches, and at map() too for lazy ones."""
    with pytest.raises(error, match=message):
        patches.geocat.map(model, **options)


def test_a_wrong_number_of_answers_is_refused(patches):
    check(patches, lambda b: np.zeros((7, 4, 4)), ValueError, r"given \d+ patches.*\(7, 4, 4\)")


def test_answers_lost_within_a_batch_are_refused(patches):
    with pytest.raises(ValueError, match=r"given \d+ patches and returned shape.*one answer per"):
        patches.geocat.map(lambda b: b[:1]).compute()


@pytest.mark.parametrize("shape", [(3, 3), (4, 5), (8, 4), (2, 8), (6, 6), (7, 4), (3, 2, 3)])
def test_a_grid_that_is_neither_finer_nor_coarser_is_refused(patches, shape):
    check(
        patches,
        lambda b: np.zeros((len(b), *shape)),
        ValueError,
        rf"patches of shape \(4, 4\) and answered with {re.escape(str(shape))}: its last 2 dims "
        r"are neither \(4, 4\) nor a grid k times finer or coarser.*dims=\('band', 'y', 'x'\)",
    )


@pytest.mark.parametrize(
    ("shape", "dims"),
    [
        ((8, 8), ("y", "x")),
        ((2, 2), ("y", "x")),
        ((5, 12, 12), ("band", "y", "x")),
        ((5, 2, 2), ("band", "y", "x")),
        ((), ()),
        ((1,), ("feature",)),
        ((7,), ("feature",)),
    ],
)
def test_answers_on_a_finer_or_coarser_grid_or_one_per_patch_are_named(patches, shape, dims):
    answers = patches.geocat.map(lambda b: np.zeros((len(b), *shape)))
    assert answers.dims == ("patch", *dims)
    assert answers.shape[1:] == shape
    assert {"y_start", "x_start"} <= set(answers.coords)


def test_no_answer_is_refused(patches):
    check(patches, lambda b: None, (TypeError, ValueError), "model")


def test_a_shape_that_changes_between_batches_is_refused(patches):
    def moody(batch):
        bands = 2 if len(batch) in (0, 2) else 3
        return np.zeros((len(batch), bands, 4, 4), "float32")

    with pytest.raises(ValueError, match=r"\(3, 4, 4\).*\(2, 4, 4\).*alike"):
        patches.isel(patch=slice(0, 5)).geocat.map(moody, batch_size=2).compute()


def test_a_dtype_that_changes_between_batches_is_refused(patches):
    def moody(batch):
        return batch.astype("float32" if len(batch) in (0, 2) else "float64")

    with pytest.raises(TypeError, match=r"float64.*float32.*Cast to one dtype"):
        patches.isel(patch=slice(0, 5)).geocat.map(moody, batch_size=2).compute()


def test_an_answer_that_is_not_as_meta_promised_is_refused(patches):
    meta = np.empty((0, 4, 4), "float64")
    with pytest.raises(TypeError, match=r"float32.*float64.*meta="):
        patches.geocat.map(double, meta=meta).compute()


def test_meta_on_another_grid_is_refused_at_once(patches):
    check(patches, double, ValueError, "neither.*nor a grid", meta=np.empty((0, 3, 3), "float32"))


def test_with_meta_what_is_wrong_with_the_names_is_said_before_the_model_runs(patches, counting):
    model = counting()
    meta = np.empty((0, 4, 4), "float32")
    for options in ({"dims": ("band", "y", "x")}, {"fill": 1j}):
        with pytest.raises((ValueError, TypeError), match="dims=|fill="):
            patches.geocat.map(model, meta=meta, **options)
    assert model.batches == []


def test_two_new_dims_without_names_are_refused(patches):
    check(
        patches,
        lambda b: np.stack([np.stack([b] * 3, 1)] * 2, 1),
        ValueError,
        r"\(2, 3, 4, 4\).*2 dims before.*dims=\('head', 'band', 'y', 'x'\)",
    )


@pytest.mark.parametrize("dims", [("y",), ("band", "y", "x"), ("patch", "y", "x"), ("y", "y"), ()])
def test_names_that_do_not_fit_the_answer_are_refused(patches, dims):
    message = rf"dims={re.escape(str(dims))} must name all 2 dims of an answer of shape \(4, 4\)"
    check(patches, double, ValueError, message, dims=dims)


@pytest.mark.parametrize("dims", [("x", "y"), ("y", "band"), ("x", "band")])
def test_names_that_leave_the_tiled_dims_anywhere_but_last_are_refused(patches, dims):
    check(patches, double, ValueError, "the tiled dims.*come last, in this order", dims=dims)


def test_names_without_the_tiled_dims_make_answers_of_one_cell_per_patch(patches):
    assert patches.geocat.map(double, dims=("row", "col")).dims == ("patch", "row", "col")


@pytest.mark.parametrize("dims", [("patch", "y", "x"), ("y", "y", "x")])
def test_names_that_are_taken_are_refused(patches, dims):
    check(patches, lambda b: b[:, None], ValueError, "dims=", dims=dims)


@pytest.mark.parametrize("batch_size", [0, -3])
def test_a_batch_size_below_one_is_refused(patches, batch_size):
    check(patches, double, ValueError, f"batch_size={batch_size}", batch_size=batch_size)


@pytest.mark.parametrize("fill", [300, -1, 0.5, np.nan])
def test_a_fill_that_the_answers_cannot_hold_is_refused(patches, fill):
    check(patches, lambda b: b.astype("uint8"), ValueError, "fill=.*uint8", fill=fill)


def test_variables_of_different_shape_are_refused_with_their_names(positive, chunks):
    cube = xr.Dataset(
        {
            "red": positive((12, 14), chunks=chunks),
            "deep": positive((2, 12, 14), dims=("time", "y", "x"), chunks=chunks),
        }
    )
    check(cube.geocat.patch(4), double, ValueError, r"red.*deep.*patches\[\['red'")


def test_an_error_of_the_model_itself_comes_through(patches):
    def broken(batch):
        raise RuntimeError("out of cheese")

    check(patches, broken, RuntimeError, "out of cheese")


def test_mapping_a_catalog_or_a_field_says_what_to_call(positive):
    with pytest.raises(ValueError, match=r"never cut.*\.geocat\.patch"):
        positive().geocat.map(double)
    catalog = xr.Dataset({"href": (("scene", "asset"), np.array([["a.tif"]]))})
    with pytest.raises(TypeError, match="catalog"):
        catalog.geocat.map(double)


# --- skip_empty -----------------------------------------------------------------------------------


@pytest.fixture
def half_empty(positive, chunks):
    """Field whose left half is not known, in one of two ways."""

    def make(dtype="float32", nodata=None):
        field = positive((12, 16), dtype)
        field[:, :8] = np.nan if nodata is None else nodata
        if nodata is not None:
            field.attrs["nodata"] = nodata
        return field if chunks is None else field.chunk(chunks)

    return make


@pytest.mark.parametrize(
    ("dtype", "nodata"), [("float32", None), ("float32", -9999.0), ("uint8", 0)]
)
def test_the_model_does_not_see_empty_patches(half_empty, counting, dtype, nodata):
    patches = half_empty(dtype, nodata).geocat.patch(4)
    model = counting()
    fill = 255 if dtype == "uint8" else None
    answers = patches.geocat.map(model, skip_empty=True, fill=fill).compute()
    assert sum(shape[0] for shape in model.batches) == 6
    assert not any(v == (nodata or 0) or np.isnan(v) for v in model.seen)
    left = answers.isel(patch=(answers["x_start"] < 8).values).values
    assert (left == 255).all() if fill else np.isnan(left).all()
    field = answers.geocat.stitch()
    assert (field[:, :8] == 255).all() if fill else np.isnan(field[:, :8]).all()
    np.testing.assert_array_equal(field[:, 8:], half_empty(dtype, nodata)[:, 8:])


def test_a_patch_with_one_known_cell_is_not_empty(half_empty, counting):
    patches = half_empty().geocat.patch({"y": 4, "x": 9}, stride={"x": 7})
    model = counting()
    answers = patches.geocat.map(model, skip_empty=True).compute()
    assert sum(shape[0] for shape in model.batches) == 6
    assert not np.isnan(answers.isel(patch=(answers["x_start"] == 0).values)[..., 8]).any()


def test_a_patch_is_empty_only_if_all_its_bands_are(half_empty, positive, counting, chunks):
    other = positive((12, 16), chunks=chunks)
    model = counting()
    xr.Dataset({"a": half_empty(), "b": other}).geocat.patch(4).geocat.map(
        model, skip_empty=True
    ).compute()
    assert sum(shape[0] for shape in model.batches) == 12


def test_every_band_has_its_own_nodata(positive, counting, chunks):
    a, b = positive((8, 8), "uint8", nodata=0), positive((8, 8), "uint8", nodata=255)
    a[:4], b[:4] = 0, 255
    a[4:, :4], b[4:, :4] = 255, 0
    cube = xr.Dataset({"a": a, "b": b})
    model = counting()
    patches = (cube if chunks is None else cube.chunk(chunks)).geocat.patch(4)
    patches.geocat.map(model, skip_empty=True, fill=7).compute()
    assert sum(shape[0] for shape in model.batches) == 2


def test_skipped_patches_break_no_batch(half_empty, counting):
    patches = half_empty().compute().geocat.patch(4)
    model = counting()
    patches.geocat.map(model, skip_empty=True, batch_size=4)
    assert [shape[0] for shape in model.batches] == [4, 2]


def test_all_patches_may_be_empty(half_empty, counting):
    patches = half_empty().geocat.patch(4)
    patches = patches.isel(patch=(patches["x_start"] < 8).values)
    model = counting()
    answers = patches.geocat.map(model, skip_empty=True).compute()
    assert np.isnan(answers).all()
    assert sum(shape[0] for shape in model.batches) <= 1
    assert np.isnan(answers.geocat.stitch()).all()


@pytest.mark.parametrize("dtype", ["uint8", "int32", "bool"])
def test_skipping_with_integer_answers_needs_a_fill(half_empty, dtype):
    check(
        half_empty().geocat.patch(4),
        lambda b: (b > 9).astype(dtype),
        ValueError,
        rf"skip_empty=True.*{dtype}.*fill=",
        skip_empty=True,
    )


def test_a_fill_is_declared_as_nodata(patches):
    answers = patches.geocat.map(lambda b: b.astype("uint8"), fill=255)
    assert answers.attrs["nodata"] == 255
    assert answers.geocat.stitch().attrs["nodata"] == 255


def test_answers_of_the_fill_value_do_not_count_in_the_mean(positive, chunks):
    field = positive((4, 6), "uint8", chunks=chunks) * 0
    patches = field.geocat.patch({"y": 4, "x": 4}, overlap={"x": 2})
    left = (patches["x_start"] == 0).astype("uint8")
    answers = (patches + 10 * left).geocat.map(lambda b: np.where(b == 10, 255, b), fill=255)
    np.testing.assert_array_equal(answers.geocat.stitch().values[0], [255, 255, 0, 0, 0, 0])
