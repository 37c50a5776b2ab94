from __future__ import annotations

import os
import pickle
import subprocess
import sys
import textwrap
from itertools import product

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.patching import oracle

SHAPE, SIZE, OVERLAP = (24, 30), 6, 2


def run(array):
    """Compute in one thread, so that models need no locks and errors come at once."""
    return array.compute(scheduler="sync")


def reaching(shape, cells, size=SIZE, stride=SIZE - OVERLAP, crop=0, whole_box=False):
    """First cells of the patches that reach any of the cells, or the box around all of them."""
    wanted = np.zeros(shape, bool)
    wanted[np.ix_(*cells)] = True
    if whole_box:
        ends = [slice(min(c), max(c) + 1) for c in cells] if all(map(len, cells)) else []
        wanted[tuple(ends)] = bool(ends)
    found = set()
    for start in oracle.grid(shape, (size, size), (stride, stride), "shift"):
        lo, hi = oracle.box(start, (size, size), shape, (crop, crop))
        if wanted[lo[0] : hi[0], lo[1] : hi[1]].any():
            found.add(float(np.ravel_multi_index(start, shape)))
    return found


@pytest.fixture
def predicted(numbered, counting):
    """A lazy stitched field, the field it is made of, and the model that counts."""

    def make(shape=SHAPE, chunks=8, shuffle=False, crop=0, **options):
        field = numbered(shape, chunks)
        model = counting()
        patches = field.geocat.patch(SIZE, overlap=OVERLAP)
        if shuffle:
            order = np.random.default_rng(0).permutation(patches.sizes["patch"])
            patches = patches.isel(patch=order)
        stitched = patches.geocat.map(model, **options).geocat.stitch(crop=crop)
        return stitched, field, model

    return make


# --- law 3: nothing is computed before it is asked for --------------------------------------------


@pytest.mark.usefixtures("no_compute")
def test_the_whole_chain_computes_nothing(predicted):
    stitched, _, model = predicted()
    corner = stitched.isel(y=slice(3), x=slice(2, 5)).sel(y=slice(None))
    assert isinstance(corner.data, da.Array)
    repr(stitched), stitched._repr_html_()
    assert model.seen == []


def test_the_whole_field_runs_the_model_once_per_patch(predicted):
    for chunks in (8, 5, 100, {"y": 24, "x": 7}):
        stitched, field, model = predicted(chunks=chunks)
        np.testing.assert_array_equal(run(stitched).values, field.values)
        assert len(model.seen) == len(set(model.seen))
        assert set(model.seen) == reaching(SHAPE, [range(n) for n in SHAPE])


def test_every_source_chunk_is_read_once(numbered):
    read = []

    def load(block, block_info=None):
        read.append(block_info[0]["chunk-location"])
        return block

    field = numbered(SHAPE, 8)
    field = field.copy(data=field.data.map_blocks(load, dtype=float, meta=np.empty((0, 0))))
    run(field.geocat.patch(SIZE, overlap=OVERLAP).geocat.map(lambda b: b).geocat.stitch())
    assert sorted(read) == list(product(range(3), range(4)))


def test_two_fields_of_one_prediction_share_the_model_runs(numbered, counting):
    model = counting()
    answers = numbered(SHAPE, 8).geocat.patch(SIZE, overlap=OVERLAP).geocat.map(model)
    both = xr.Dataset(
        {
            "mean": answers.geocat.stitch(window="hann"),
            "max": answers.geocat.stitch(reduce="max"),
            "min": answers.geocat.stitch(reduce="min"),
        }
    )
    run(both)
    assert len(model.seen) == len(set(model.seen)) == len(reaching(SHAPE, map(range, SHAPE)))


def test_other_dims_chunked_do_not_run_the_model_twice(counting, field_of):
    number = np.arange(24 * 30, dtype=float).reshape(1, 24, 30) + np.zeros((2, 1, 1))
    field = field_of(number, ("time", "y", "x")).chunk(time=1, y=8, x=8)
    model = counting()
    run(field.geocat.patch(SIZE, overlap=OVERLAP).geocat.map(model).geocat.stitch())
    assert len(model.seen) == len(set(model.seen))
    assert {shape[1:] for shape in model.batches} == {(2, SIZE, SIZE)}


# --- law 3: a corner costs the patches that reach it ----------------------------------------------

CORNERS = {
    "first corner": (slice(5), slice(4)),
    "last corner": (slice(-3, None), slice(-2, None)),
    "middle": (slice(9, 12), slice(11, 20)),
    "one row": (slice(7, 8), slice(None)),
    "backwards": (slice(8, 3, -1), slice(None, 5)),
    "one cell": (13, 17),
    "one cell of each": (slice(13, 14), -1),
    "every third": (slice(2, 20, 3), slice(0, 9, 2)),
    "a list and a slice": ([4, 6, 5], slice(2, 9)),
    "a mask and a number": (np.arange(24) // 4 == 2, 9),
    "two lists": ([3, 5], [6, 4]),
    "an array": (np.array([20, 22]), slice(3)),
    "nothing": (slice(5, 5), slice(4)),
}


@pytest.mark.parametrize("corner", CORNERS.values(), ids=CORNERS.keys())
@pytest.mark.parametrize("chunks", [8, 100], ids=["blocks", "one block"])
@pytest.mark.parametrize("shuffle", [False, True], ids=["in order", "shuffled"])
def test_a_corner_runs_the_model_only_on_the_patches_that_reach_it(
    predicted, corner, chunks, shuffle
):
    stitched, field, model = predicted(chunks=chunks, shuffle=shuffle)
    at = dict(zip("yx", corner, strict=True))
    got = run(stitched.isel(at))
    xr.testing.assert_equal(got, field.isel(at).compute())
    cells = [np.atleast_1d(np.arange(n)[k]) for n, k in zip(SHAPE, corner, strict=True)]
    assert len(model.seen) == len(set(model.seen))
    assert set(model.seen) >= reaching(SHAPE, cells)
    assert set(model.seen) <= reaching(SHAPE, cells, whole_box=True)


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_any_box_runs_exactly_the_patches_that_reach_it(numbered, counting, data):
    shape = (data.draw(st.integers(1, 25)), data.draw(st.integers(1, 25)))
    size = data.draw(st.integers(1, 9))
    stride = data.draw(st.integers(1, size))
    crop = data.draw(st.integers(0, min((size - 1) // 2, (size - stride) // 2)))
    lo = [data.draw(st.integers(0, n - 1)) for n in shape]
    hi = [data.draw(st.integers(a + 1, n)) for a, n in zip(lo, shape, strict=True)]
    field = numbered(shape, data.draw(st.sampled_from([4, 7, 100])))
    model = counting()
    answers = field.geocat.patch(size, stride=stride).geocat.map(model, batch_size=3)
    box = {d: slice(a, b) for d, a, b in zip("yx", lo, hi, strict=True)}
    got = run(answers.geocat.stitch(crop=crop).isel(box))
    xr.testing.assert_equal(got, field.isel(box).compute())
    cells = [range(a, b) for a, b in zip(lo, hi, strict=True)]
    assert sorted(model.seen) == sorted(reaching(shape, cells, size, stride, crop))


def test_a_corner_by_coordinates_is_a_corner(predicted):
    stitched, field, model = predicted()
    y, x = field["y"].values, field["x"].values
    got = run(stitched.sel(y=slice(y[3], y[6]), x=slice(x[10], x[12])))
    xr.testing.assert_equal(got, field.isel(y=slice(3, 7), x=slice(10, 13)).compute())
    assert set(model.seen) == reaching(SHAPE, [range(3, 7), range(10, 13)])


def test_the_nearest_cell_by_coordinates_is_one_cell(predicted):
    stitched, field, model = predicted()
    got = run(
        stitched.sel(y=field["y"].values[9] + 2, x=field["x"].values[4] - 2, method="nearest")
    )
    assert got.values == field.values[9, 4]
    assert set(model.seen) == reaching(SHAPE, [[9], [4]])


def test_points_run_no_more_than_the_blocks_they_lie_in(predicted):
    stitched, field, model = predicted(chunks=8)
    points = {d: xr.DataArray(v, dims="point") for d, v in (("y", [1, 2]), ("x", [3, 5]))}
    np.testing.assert_array_equal(run(stitched.isel(points)), field.isel(points))
    assert set(model.seen) <= reaching(SHAPE, [range(8), range(8)])


@pytest.mark.parametrize(
    "steps",
    [
        [{"y": slice(4, 9)}, {"x": slice(5)}],
        [{"y": slice(2, 20)}, {"y": slice(1, 3), "x": slice(10)}, {"x": slice(2, 4)}],
        [{"y": 5}, {"x": slice(3)}],
        [{"y": [5, 6]}, {"x": slice(3)}],
        [{"y": slice(0, 20, 2)}, {"y": slice(2), "x": slice(3)}],
    ],
    ids=["slice, slice", "slice, box, slice", "number, slice", "list, slice", "strided, box"],
)
def test_a_corner_of_a_corner_costs_no_more(predicted, steps):
    stitched, field, model = predicted(chunks=100)
    cells = xr.Dataset(coords={"y": np.arange(SHAPE[0]), "x": np.arange(SHAPE[1])})
    for step in steps:
        stitched, field, cells = stitched.isel(step), field.isel(step), cells.isel(step)
    xr.testing.assert_equal(run(stitched), field.compute())
    where = [np.atleast_1d(cells[d].values) for d in "yx"]
    assert set(model.seen) <= reaching(SHAPE, where, whole_box=True)


@pytest.mark.parametrize("dims", [("band", "y", "x"), ("y", "x", "band"), ("y", "band", "x")])
@pytest.mark.parametrize(
    "steps",
    [
        [{"y": slice(4), "x": slice(5)}],
        [{"y": slice(4), "x": slice(5), "band": 1}],
        [{"band": 1}, {"y": slice(4), "x": slice(5)}],
        [{"y": slice(4), "x": slice(5)}, {"band": [1]}],
    ],
    ids=["all bands", "with a band", "a band first", "a band last"],
)
def test_a_corner_of_a_field_with_bands_is_a_corner(counting, field_of, dims, steps):
    number = np.arange(24 * 30, dtype=float).reshape(24, 30)
    field = field_of(np.stack([number] * 3), ("band", "y", "x")).transpose(*dims).chunk(y=100)
    model = counting()
    stitched = field.geocat.patch(SIZE, overlap=OVERLAP).geocat.map(model).geocat.stitch()
    for step in steps:
        stitched, field = stitched.isel(step), field.isel(step)
    xr.testing.assert_equal(run(stitched), field.compute())
    assert set(model.seen) == reaching(SHAPE, [range(4), range(5)])


def test_one_band_of_the_answers_is_stitched_as_cheaply(counting, numbered):
    model = counting()
    patches = numbered(SHAPE, 100).geocat.patch(SIZE, overlap=OVERLAP)
    answers = patches.geocat.map(lambda b: np.stack([model(b), b], axis=1))
    run(answers.isel(band=0).geocat.stitch().isel(y=slice(4), x=slice(5)))
    assert set(model.seen) == reaching(SHAPE, [range(4), range(5)])


def test_a_corner_of_a_dataset_is_a_corner(counting, numbered):
    models = {"a": counting(), "b": counting()}
    patches = numbered(SHAPE, 8).geocat.patch(SIZE, overlap=OVERLAP)
    fields = xr.Dataset({n: patches.geocat.map(m).geocat.stitch() for n, m in models.items()})
    run(fields.isel(y=slice(4), x=slice(5)))
    for model in models.values():
        assert sorted(model.seen) == sorted(reaching(SHAPE, [range(4), range(5)]))


def test_a_corner_that_no_patch_reaches_runs_no_model(counting, numbered):
    model = counting()
    field = numbered((20, 20), 8)
    stitched = field.geocat.patch(6, boundary="drop").geocat.map(model).geocat.stitch()
    assert np.isnan(run(stitched[18:, 18:])).all()
    assert model.seen == []


def test_a_corner_reads_only_the_chunks_its_patches_meet(numbered):
    read = []

    def load(block, block_info=None):
        read.append(block_info[0]["chunk-location"])
        return block

    field = numbered((24, 24), 6)
    field = field.copy(data=field.data.map_blocks(load, dtype=float, meta=np.empty((0, 0))))
    stitched = field.geocat.patch(6).geocat.map(lambda b: b).geocat.stitch()
    read.clear()
    run(stitched.isel(y=slice(7, 9), x=slice(13, 14)))
    assert read == [(1, 2)]


# --- a stitched field is an ordinary dask array ---------------------------------------------------

ORDINARY = {
    "Dataset.compute": lambda s, f: xr.Dataset({"s": s, "f": f}).compute(),
    "Dataset.load": lambda s, f: xr.Dataset({"s": s, "f": f}).load(),
    "Dataset.persist": lambda s, f: xr.Dataset({"s": s, "f": f}).persist().compute(),
    "Dataset.unify_chunks": lambda s, f: xr.Dataset({"s": s, "f": f}).unify_chunks(),
    "lazy coordinate": lambda s, f: s.assign_coords(height=f).compute(),
    "apply_ufunc": lambda s, f: xr.apply_ufunc(np.add, s, f, dask="parallelized").compute(),
    "arithmetic": lambda s, f: (s + f).compute(),
    "where": lambda s, f: s.where(f > 100).compute(),
    "concat": lambda s, f: xr.concat([s, f], "model").compute(),
    "dask.compute": lambda s, f: dask.compute(s, f),
    "da.stack": lambda s, f: da.stack([s.data, f.data]).compute(),
    "pickle": lambda s, f: pickle.loads(pickle.dumps(s)).compute(),
    "deep copy": lambda s, f: s.copy(deep=True).compute(),
    "map_blocks": lambda s, f: xr.map_blocks(lambda b: b, s).compute(),
    "rechunk": lambda s, f: s.chunk(y=5, x=-1).compute(),
    "rolling": lambda s, f: s.rolling(x=3).mean().compute(),
    "coarsen": lambda s, f: s.coarsen(y=2, x=2).mean().compute(),
    "reduction": lambda s, f: s.mean().compute(),
}


@pytest.mark.parametrize("use", ORDINARY.values(), ids=ORDINARY.keys())
def test_a_stitched_field_mixes_with_other_lazy_arrays(positive, use):
    field = positive(SHAPE, chunks=8)
    stitched = field.geocat.patch(SIZE, overlap=OVERLAP).geocat.stitch()
    for lazy in (field * 2, stitched * 2):
        use(stitched, lazy)


@pytest.mark.parametrize("kind", ["patches", "answers"])
def test_patches_and_answers_mix_with_other_lazy_arrays(positive, kind):
    patches = positive(SHAPE, chunks=8).geocat.patch(SIZE)
    given_patches = patches if kind == "patches" else patches.geocat.map(lambda b: b)
    xr.Dataset({"a": given_patches, "b": given_patches * 2}).compute()


def test_a_stitched_field_and_its_source_go_into_one_zarr(positive, tmp_path):
    field = positive(SHAPE, chunks=8)
    stitched = field.geocat.patch(SIZE).geocat.map(lambda b: b * 2).geocat.stitch()
    both = xr.Dataset({"field": field * 1, "twice": stitched}).chunk(y=8, x=8)
    both.to_zarr(tmp_path / "both.zarr", consolidated=False)
    with xr.open_zarr(tmp_path / "both.zarr", consolidated=False) as stored:
        np.testing.assert_allclose(stored["twice"], 2 * stored["field"])


@pytest.mark.parametrize("chunks", [8, {"y": 5, "x": 30}, 100])
def test_what_it_says_of_itself_is_true(positive, chunks):
    field = positive(SHAPE, "uint8", chunks=chunks)
    patches = field.geocat.patch(SIZE, overlap=OVERLAP)
    answers = patches.geocat.map(lambda b: b.astype("float32"))
    for lazy in (patches, answers, answers.geocat.stitch(), patches.geocat.stitch()):
        blocks = lazy.data.to_delayed().ravel()
        sizes = list(product(*lazy.data.chunks))
        for block, size in zip(dask.compute(*blocks, scheduler="sync"), sizes, strict=True):
            assert block.shape == size
            assert block.dtype == lazy.dtype


# --- graphs ---------------------------------------------------------------------------------------


def task_count(field):
    return len(dict(field.data.__dask_graph__()))


def test_a_grid_of_blocks_takes_about_a_dozen_tasks_each():
    source = xr.DataArray(da.zeros((512, 512), chunks=64), dims=("y", "x"))
    patches = source.geocat.patch(16, overlap=4)
    stitched = patches.geocat.map(np.negative).geocat.stitch(window="hann")
    assert stitched.data.numblocks == (8, 8)
    assert task_count(stitched) - task_count(source) <= 12 * 64


@pytest.mark.parametrize("order", ["rows", "shuffled"])
def test_patches_in_another_order_do_not_make_a_task_each(order):
    source = xr.DataArray(da.zeros((512, 512), chunks=256), dims=("y", "x"))
    patches = source.geocat.patch(8)
    patches = patches.sortby(["y_start", "x_start"]) if order == "rows" else patches.isel(
        patch=np.random.default_rng(0).permutation(patches.sizes["patch"])
    )  # fmt: skip
    stitched = patches.geocat.map(np.negative).geocat.stitch()
    assert task_count(stitched) < patches.sizes["patch"] / 2


def test_a_field_of_ten_gigapixels_builds_as_a_small_graph():
    source = xr.DataArray(da.zeros((100_000, 100_000), chunks=2048, dtype="uint8"), dims=("y", "x"))
    patches = source.geocat.patch(256, overlap=64)
    stitched = patches.geocat.map(np.invert).geocat.stitch(window="hann")
    assert stitched.data.numblocks == (49, 49)
    assert task_count(stitched) < 13 * 49 * 49
    corner = stitched.isel(y=slice(50_000, 50_100), x=slice(100))
    assert task_count(corner) - task_count(source) < 40
    assert corner.compute().values.min() == 255


def test_a_corner_has_no_tasks_of_the_rest_after_optimizing(positive):
    field = positive((240, 240), chunks=24)
    stitched = field.geocat.patch(8, overlap=2).geocat.map(np.negative).geocat.stitch()
    (corner,) = dask.optimize(stitched.isel(y=slice(4), x=slice(5)))
    assert len(dict(corner.data.__dask_graph__())) < 12


BUILD = textwrap.dedent(
    """
    import dask.array as da, numpy as np, xarray as xr, xgeocat
    from xgeocat.patching.stitch import stitch

    def build():
        source = xr.DataArray(da.ones((40, 50), chunks=16), dims=("y", "x"))
        both = xr.Dataset({"a": source, "b": source + 1})
        patches = both.geocat.patch(8, overlap=3, boundary="pad")
        answers = patches.geocat.map(np.negative, skip_empty=True, batch_size=4)
        field = answers.geocat.stitch(window=("tukey", 0.3), crop=1)
        corner = field.isel(band=0, y=slice(3, 9), x=slice(20, None))
        parts = [patches["a"], answers, field, corner]
        return [key for part in parts for key in sorted(map(str, part.data.__dask_graph__()))]
    """
)


def test_keys_are_the_same_when_built_again_and_in_a_fresh_process():
    here = {}
    exec(BUILD, here)
    keys = here["build"]()
    assert here["build"]() == keys
    script = BUILD + "\nprint('\\n'.join(build()))"
    fresh = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert fresh.stdout.splitlines() == keys


@pytest.mark.parametrize(
    "other",
    [
        {"window": "hann"},
        {"window": ("gaussian", 0.2)},
        {"reduce": "max"},
        {"crop": 1},
        {"fill": -1},
        {"model": np.positive},
        {"overlap": 3},
        {"size": 7},
        {"skip_empty": True},
        {"order": slice(None, None, -1)},
        {"dtype": "float64"},
    ],
    ids=lambda other: next(iter(other)),
)
def test_keys_differ_when_anything_differs(positive, other):
    def build(
        *, size=6, overlap=2, order=slice(None), model=np.negative, skip_empty=False,
        dtype="float32", **options,
    ):  # fmt: skip
        field = positive(SHAPE, dtype, chunks=8)
        patches = field.geocat.patch(size, overlap=overlap).isel(patch=order)
        answers = patches.geocat.map(model, skip_empty=skip_empty)
        return answers.geocat.stitch(**options).data.name

    assert build() != build(**other)
    assert build(**other) == build(**other)


def test_fields_of_different_values_have_different_keys(positive):
    names = {positive(SHAPE, chunks=8, seed=s).geocat.patch(6).geocat.stitch().data.name
             for s in (0, 1)}  # fmt: skip
    assert len(names) == 2


def test_a_corner_and_the_field_can_be_computed_together(predicted):
    stitched, field, _ = predicted()
    corner = stitched.isel(y=slice(2, 9), x=slice(4, 11))
    whole, part, other = dask.compute(stitched, corner, stitched[5:], scheduler="sync")
    np.testing.assert_array_equal(whole, field)
    np.testing.assert_array_equal(part, field[2:9, 4:11])
    np.testing.assert_array_equal(other, field[5:])
