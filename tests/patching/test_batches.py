from __future__ import annotations

import threading
import weakref

import numpy as np
import pytest
import xarray as xr

from xgeocat.patching import cut as cut_module


def double(batch):
    return batch * 2


@pytest.fixture(params=[None, 5], ids=["eager", "lazy"])
def chunks(request):
    return request.param


@pytest.fixture
def patches(positive, chunks):
    return positive((12, 14), chunks=chunks).geocat.patch(4)


# --- nothing but NaN ------------------------------------------------------------------------------


def nothing(batch):
    return np.full(batch.shape, np.nan, "float32")


@pytest.mark.parametrize("dtype", ["float16", "float32", "complex64"])
@pytest.mark.parametrize("shape", [(4, 4), (3, 4, 4), (5,), ()])
def test_nothing_but_nan_for_patches_that_are_known_is_refused(patches, dtype, shape):
    def model(batch):
        return np.full((len(batch), *shape), np.nan, dtype)

    with pytest.raises(ValueError, match=r"NaN in every cell of a batch of \d+ .*fill=np\.nan"):
        patches.isel(patch=slice(5)).geocat.map(model).compute()
    answers = patches.geocat.map(model, fill=np.nan).compute()
    assert np.isnan(answers).all()
    assert np.isnan(answers.attrs["nodata"])


def test_a_fill_that_is_a_number_does_not_allow_nan(patches):
    with pytest.raises(ValueError, match="answered NaN in every cell"):
        patches.geocat.map(nothing, fill=-1).compute()


def test_one_batch_of_nothing_but_nan_is_enough(positive, chunks):
    patches = positive((12, 14), chunks=chunks).geocat.patch(4)
    last = float(patches.isel(patch=-1, y=0, x=0))

    def model(batch):
        return np.where((batch[:, 0, 0] == last).any(), np.nan, batch).astype("float32")

    with pytest.raises(ValueError, match="a batch of 1 patches"):
        patches.geocat.map(model, batch_size=1).compute()


@pytest.mark.parametrize(
    "model",
    [
        lambda b: np.where(np.arange(b.size).reshape(b.shape) == 3, b, np.nan).astype("float32"),
        lambda b: np.where(b == b.max(), b, np.nan).astype("float32"),
        lambda b: b.astype("int32"),
        lambda b: np.full((len(b), 0), np.nan),
    ],
    ids=["one cell known", "the last cell known", "integers", "no cells"],
)
def test_one_number_among_nan_is_an_answer(patches, model):
    patches.geocat.map(model, batch_size=1000).compute()


@pytest.mark.parametrize("unknown", ["nan", "nodata", "all alike"])
def test_nothing_but_nan_is_an_answer_to_patches_that_are_not_known(positive, chunks, unknown):
    field = positive((12, 14))
    if unknown == "nan":
        field[::4, ::4] = np.nan
    elif unknown == "nodata":
        field[::4, ::4] = field.attrs["nodata"] = 7
    else:
        field[:] = 9
    given_field = field if chunks is None else field.chunk(chunks)
    answers = given_field.geocat.patch(4).geocat.map(nothing)
    assert np.isnan(answers.compute()).all()


def test_all_bands_must_be_known_for_nan_to_be_refused(positive, chunks):
    bands = enumerate(("uint8", "float32"))
    cube = xr.Dataset({d: positive((12, 14), d, chunks=chunks, seed=i) for i, d in bands})
    holes = cube.copy(deep=True)
    holes["float32"] = cube["float32"].where((cube["y"] + cube["x"]) % 4 > 1)
    answers = holes.geocat.patch(4).geocat.map(lambda b: np.full((len(b), 4, 4), np.nan))
    assert np.isnan(answers.compute()).all()
    with pytest.raises(ValueError, match="NaN in every cell"):
        cube.geocat.patch(4).geocat.map(lambda b: np.full((len(b), 4, 4), np.nan)).compute()


# --- batches of one size --------------------------------------------------------------------------


@pytest.fixture
def compiled():
    """Factory of models that take batches of one size only, and count them."""

    class Compiled:
        def __init__(self, size):
            self.size, self.batches, self.seen = size, 0, []

        def __call__(self, batch):
            assert len(batch) == self.size
            self.batches += 1
            self.seen.append(batch.copy())
            return batch * 2

        def __dask_tokenize__(self):
            return "compiled", id(self)

    return Compiled


@pytest.mark.parametrize("n", [1, 3, 5, 12, 40])
@pytest.mark.parametrize("meta", [None, np.empty((0, 4, 4), "float32")], ids=["asked", "meta"])
def test_every_batch_is_of_the_size_that_was_fixed(patches, compiled, n, meta):
    model = compiled(n)
    answers = patches.geocat.map(model, batch_size=n, fixed_batch=True, meta=meta)
    np.testing.assert_array_equal(answers.values, patches.values * 2)


def test_a_batch_is_filled_up_with_the_last_of_its_patches(positive, compiled):
    patches = positive((12, 16)).geocat.patch(4)
    model = compiled(5)
    patches.geocat.map(model, batch_size=5, fixed_batch=True)
    assert model.batches == 3
    np.testing.assert_array_equal(model.seen[2][:2], patches.values[10:])
    np.testing.assert_array_equal(model.seen[2][2:], np.repeat(patches.values[-1:], 3, axis=0))


def test_no_patches_are_asked_for_in_a_full_batch_too(patches, compiled):
    model = compiled(5)
    none = patches.isel(patch=[]).geocat.map(model, batch_size=5, fixed_batch=True).compute()
    assert none.shape == (0, 4, 4)
    assert none.dtype == "float32"


def test_skipped_patches_leave_no_gap_in_batches_of_one_size(positive, chunks, compiled):
    field = positive((12, 16))
    field[:, :8] = np.nan
    patches = (field if chunks is None else field.chunk(chunks)).geocat.patch(4)
    model = compiled(4)
    options = {"skip_empty": True, "batch_size": 4}
    answers = patches.geocat.map(model, fixed_batch=True, **options).compute()
    xr.testing.assert_identical(answers, patches.geocat.map(double, **options).compute())
    assert not any(np.isnan(batch).any() for batch in model.seen)


def test_an_answer_lost_from_a_full_batch_is_refused(patches):
    with pytest.raises(ValueError, match="given 5 patches"):
        patches.geocat.map(lambda b: b[:4], batch_size=5, fixed_batch=True).compute()


# --- patches that are cut where the model runs ----------------------------------------------------


@pytest.fixture
def held(monkeypatch):
    """How many patches were in memory at the same time, each time that some were cut."""
    cut, alive, counts, lock = cut_module.cut, {}, [], threading.Lock()

    def watched(*args):
        made = cut(*args)
        with lock:
            alive[id(made)] = len(made)
            weakref.finalize(made, alive.pop, id(made), None)
            counts.append(sum(alive.values()))
        return made

    monkeypatch.setattr(cut_module, "cut", watched)
    return counts


def fused(answers):
    """Whether no task makes patches for another one to take."""
    return not any(str(key).startswith("('patch-") for key in answers.data.dask)


@pytest.mark.parametrize("skip_empty", [False, True])
@pytest.mark.parametrize("batch_size", [1, 3, 7])
def test_no_more_patches_than_a_batch_are_in_memory(positive, held, batch_size, skip_empty):
    field = positive((40, 40), chunks=20)
    patches = field.geocat.patch(4, overlap=2)
    answers = patches.geocat.map(double, batch_size=batch_size, skip_empty=skip_empty)
    assert fused(answers)
    held.clear()
    answers.compute(scheduler="sync")
    assert held
    assert max(held) <= batch_size


def test_of_a_dataset_no_more_than_a_batch_of_each_band_is_in_memory(positive, held):
    cube = xr.Dataset({n: positive((40, 40), chunks=20, seed=i) for i, n in enumerate("abc")})
    answers = cube.geocat.patch(4).geocat.map(double, batch_size=5)
    assert fused(answers)
    held.clear()
    answers.compute(scheduler="sync")
    assert max(held) <= 3 * 5


TOUCHED = {
    "not": (lambda p: p, True),
    "some of them": (lambda p: p.isel(patch=slice(3, 50)), True),
    "in another order": (lambda p: p[::-1], True),
    "by numbers": (lambda p: p.isel(patch=[7, 2, 2]), True),
    "one time": (lambda p: p.isel(time=1), True),
    "some times": (lambda p: p.isel(time=slice(1, None)), True),
    "times by number": (lambda p: p.isel(time=[1, 0]), False),
    "arithmetic": (lambda p: p + 0, False),
    "other chunks": (lambda p: p.chunk(patch=4), False),
    "persisted": (lambda p: p.persist(), False),
}


@pytest.mark.parametrize(("touch", "is_fused"), TOUCHED.values(), ids=TOUCHED.keys())
def test_what_was_done_to_the_patches_before_is_done(positive, touch, is_fused):
    field = positive((2, 30, 30), dims=("time", "y", "x"), chunks={"time": 1, "y": 11, "x": 11})
    patches = touch(field.geocat.patch(5, overlap=2))
    answers = patches.geocat.map(double, batch_size=3)
    assert fused(answers) is is_fused
    np.testing.assert_array_equal(answers.values, 2 * patches.values)
    corner = answers.isel(patch=[1, 0])
    np.testing.assert_array_equal(corner.values, 2 * patches.isel(patch=[1, 0]).values)


@pytest.mark.parametrize("batch_size", [1, 4, 100])
@pytest.mark.parametrize("kind", ["array", "dataset"])
@pytest.mark.parametrize("skip_empty", [False, True])
def test_a_model_may_write_into_its_batch(positive, chunks, batch_size, kind, skip_empty):
    def greedy(batch):
        batch *= 2
        return batch

    # Twice the same patch, neighbours that share cells, and a chunk that is one patch.
    field = positive((12, 14))
    source = xr.Dataset({"a": field, "b": field + 1}) if kind == "dataset" else field
    given_source = source if chunks is None else source.chunk(chunks).persist()
    before = given_source.copy(deep=True).compute()
    at = np.array([[0, 0], [0, 0], [2, 3], [1, 2], [8, 10], [-1, -1], [0, 0]])
    patches = given_source.geocat.patch(4, at=at, boundary="pad")
    want = 2 * (patches.to_dataarray("band") if kind == "dataset" else patches).values
    options = {"batch_size": batch_size, "skip_empty": skip_empty}
    answers = patches.geocat.map(greedy, meta=np.empty((0, *want.shape[:0:-1][::-1]), "float32")
                                 if kind == "array" else None, **options)  # fmt: skip
    got = answers.values
    np.testing.assert_array_equal(got, want if kind == "array" else want.swapaxes(0, 1))
    xr.testing.assert_identical(given_source.compute(), before)
    patches.geocat.map(greedy, **options).compute()
    xr.testing.assert_identical(given_source.compute(), before)


def test_a_model_that_keeps_its_batch_keeps_what_was_in_it(positive, chunks):
    kept = []

    def model(batch):
        kept.append(batch)
        return batch

    # Large enough for memory that is used again.
    field = positive((1200, 1200), chunks=None if chunks is None else 600)
    patches = field.geocat.patch(300)
    answers = patches.geocat.map(model, batch_size=4, meta=np.empty((0, 300, 300), "float32"))
    computed = answers.compute(scheduler="sync")
    batches = np.concatenate(kept)
    np.testing.assert_array_equal(computed.values, patches.values)
    np.testing.assert_array_equal(
        batches[batches[:, 0, 0].argsort()], patches.values[patches.values[:, 0, 0].argsort()]
    )


def test_skipping_looks_at_lazy_patches_batch_by_batch(positive, held, counting):
    field = positive((40, 40))
    field[:, :20] = np.nan
    patches = field.chunk(20).geocat.patch(4)
    model = counting()
    answers = patches.geocat.map(model, batch_size=3, skip_empty=True)
    held.clear()
    got = answers.compute(scheduler="sync")
    assert max(held) <= 3
    assert len(model.seen) == 50
    eager = field.geocat.patch(4).geocat.map(counting(), skip_empty=True)
    order = ["y_start", "x_start"]
    xr.testing.assert_identical(got.sortby(order), eager.sortby(order))
