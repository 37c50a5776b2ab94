from __future__ import annotations

import threading
from concurrent.futures import ProcessPoolExecutor

import dask
import dask.array as da
import dask.multiprocessing
import numpy as np
import pytest
import xarray as xr
from dask.callbacks import Callback

from xgeocat import ApplyToChips, GridSampler, Sequential, Stitch
from xgeocat.patching import writing

SHAPE, SIZE, OVERLAP = (24, 30), 6, 2


class Target:
    """An array that remembers which region was written when, and counts the writes of a cell."""

    def __init__(self, shape, dtype=float):
        self.values = np.zeros(shape, dtype)
        self.writes = np.zeros(shape, int)
        self.regions = []
        self.lock = threading.Lock()

    def __setitem__(self, region, values):
        with self.lock:
            self.values[region] = values
            self.writes[region] += 1
            self.regions.append(region)

    def __dask_tokenize__(self):
        return "target", id(self)


@pytest.fixture
def predicted(numbered, counting):
    """Lazy answers, the field they are made of, and the model that counts."""

    def make(chunks=8, shuffle=False, shape=SHAPE):
        field = numbered(shape, chunks)
        model = counting()
        patches = field.geocat.patch(SIZE, overlap=OVERLAP)
        if shuffle:
            order = np.random.default_rng(0).permutation(patches.sizes["patch"])
            patches = patches.isel(patch=order)
        return patches.geocat.map(model), field, model

    return make


def patches_of(shape=SHAPE):
    """How many patches there are."""
    step = SIZE - OVERLAP
    return int(np.prod([1 + -(-(n - SIZE) // step) for n in shape]))


# --- write ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheduler", ["sync", "threads"])
@pytest.mark.parametrize("shuffle", [False, True])
def test_every_cell_is_written_once_and_every_patch_run_once(predicted, scheduler, shuffle):
    answers, field, model = predicted(shuffle=shuffle)
    stitched = answers.geocat.stitch()
    target = Target(SHAPE)
    with dask.config.set(scheduler=scheduler):
        writing.write([stitched.data], [target], "here")
    np.testing.assert_array_equal(target.values, field.values)
    assert (target.writes == 1).all()
    assert len(target.regions) == stitched.data.npartitions
    assert len(model.seen) == len(set(model.seen)) == patches_of()


@pytest.mark.parametrize("scheduler", ["sync", "threads"])
def test_fields_that_share_answers_are_written_side_by_side(predicted, scheduler):
    answers, field, model = predicted()
    layers = answers.geocat.stitch(window="hann", coverage=True, disagreement=True)
    finer = answers.geocat.map(lambda b: np.kron(b, np.ones((2, 2)))).geocat.stitch()
    sources = [*(layers[name].data for name in layers), finer.data]
    targets = [Target(source.shape) for source in sources]
    with dask.config.set(scheduler=scheduler):
        writing.write(sources, targets, "here")
    for source, target in zip(sources, targets, strict=True):
        np.testing.assert_array_equal(target.values, source.compute(scheduler="sync"))
        assert (target.writes == 1).all()
    np.testing.assert_allclose(targets[0].values, field.values, rtol=1e-15)
    # Once to write, and once for each source that was computed to compare.
    assert all(model.seen.count(first) == 1 + len(sources) for first in set(model.seen))


def test_blocks_are_written_row_by_row(predicted):
    answers, _, _ = predicted()
    stitched = answers.geocat.stitch()
    target = Target(SHAPE)
    with dask.config.set(scheduler="sync"):
        writing.write([stitched.data], [target], "here")
    rows = [region[0].start for region in target.regions]
    assert rows == sorted(rows)


def test_side_by_side_means_that_all_are_as_far_down(predicted):
    answers, _, _ = predicted(shape=(48, 30))
    finer = answers.geocat.map(lambda b: np.kron(b, np.ones((2, 2)))).geocat.stitch()
    written = []

    class Noting(Target):
        def __setitem__(self, region, values):
            written.append(region[-2].start / self.values.shape[-2])
            super().__setitem__(region, values)

    sources = [answers.geocat.stitch().data, finer.data]
    with dask.config.set(scheduler="sync"):
        writing.write(sources, [Noting(s.shape) for s in sources], "here")
    assert written == sorted(written)


@pytest.mark.parametrize("dims", [("y", "x"), ("band", "y", "x"), ("time", "band", "y", "x")])
def test_other_dims_ride_along(positive, dims):
    sizes = {"time": 2, "band": 3, "y": 24, "x": 30}
    shape = tuple(sizes[d] for d in dims)
    field = positive(shape, dims=dims, chunks={d: 1 if d == "band" else 8 for d in dims})
    target = Target(shape, "float32")
    writing.write([field.geocat.patch(SIZE).geocat.stitch().data], [target], "here")
    np.testing.assert_array_equal(target.values, field.values)
    assert (target.writes == 1).all()


def test_one_dim_can_be_written(noise):
    series = xr.DataArray(noise((50,), "int32"), dims="time", name="made").chunk(time=9)
    target = Target((50,), "int32")
    writing.write([series.geocat.patch({"time": 7}).geocat.stitch().data], [target], "here")
    np.testing.assert_array_equal(target.values, series.values)


def test_nothing_is_written_of_nothing(positive):
    writing.write([], [], "here")
    field = positive((0, 5), chunks=3)
    target = Target((0, 5))
    writing.write([field.geocat.patch(4).geocat.stitch().data], [target], "here")
    assert not any(np.size(target.values[region]) for region in target.regions)


@pytest.mark.parametrize("scheduler", ["sync", "threads"])
def test_a_failed_write_is_raised(predicted, scheduler):
    class Full(Target):
        def __setitem__(self, region, values):
            raise OSError("no space left")

    answers, _, _ = predicted()
    with dask.config.set(scheduler=scheduler), pytest.raises(OSError, match="no space left"):
        writing.write([answers.geocat.stitch().data], [Full(SHAPE)], "here")


def test_half_done_work_that_waits_is_a_row_of_it(counting, numbered):
    """However large the field: patches run before the row above is written are few."""
    field = numbered((160, 24), 8)
    model = counting()
    stitched = field.geocat.patch(SIZE, overlap=OVERLAP).geocat.map(model).geocat.stitch()
    ahead = []

    class Noting(Target):
        def __setitem__(self, region, values):
            furthest = max(model.seen) // 24
            ahead.append(furthest - region[0].start)
            super().__setitem__(region, values)

    with dask.config.set(scheduler="sync"):
        writing.write([stitched.data], [Noting(field.shape)], "here")
    # The block itself, and one row of blocks more.
    assert max(ahead) <= 24


# --- into memory ----------------------------------------------------------------------------------


def test_a_field_is_computed_into_memory(predicted):
    answers, field, model = predicted()
    stitched = answers.geocat.stitch()
    got = writing.into_memory(stitched)
    assert isinstance(got.data, np.ndarray)
    xr.testing.assert_identical(got, stitched.compute(scheduler="sync"))
    assert got.dtype == field.dtype
    assert all(model.seen.count(first) == 2 for first in set(model.seen))


def test_a_dataset_is_computed_in_one_go(predicted):
    answers, _, model = predicted()
    layers = answers.geocat.stitch(window="hann", coverage=True, disagreement=True)
    layers = layers.assign(when=("time", [1, 2]), title="a cube")
    got = writing.into_memory(layers)
    assert len(model.seen) == len(set(model.seen))
    assert all(isinstance(var.data, np.ndarray) for var in got.values())
    xr.testing.assert_identical(got, layers.compute(scheduler="sync"))


def test_the_scheduler_that_was_set_is_used_and_threads_by_default(predicted):
    answers, field, _ = predicted()

    def elsewhere(*args, **kwargs):
        raise AssertionError("computed elsewhere")

    with dask.config.set(scheduler=None):
        got = writing.into_memory(answers.geocat.stitch())
    np.testing.assert_array_equal(got.values, field.values)
    with (
        dask.config.set(scheduler=elsewhere),
        pytest.raises(AssertionError, match="computed elsewhere"),
    ):
        writing.into_memory(answers.geocat.stitch())


# Tasks of other processes would fill copies of the arrays, and these would keep what happened to be
# in memory.
ELSEWHERE = {
    "processes": lambda: "processes",
    "processes, by another name": lambda: "multiprocessing",
    "a distributed client": lambda: "dask.distributed",
    "a distributed client, by another name": lambda: "distributed",
    "a function of other processes": lambda: dask.multiprocessing.get,
    "a pool of other processes": lambda: ProcessPoolExecutor(1),
}


@pytest.mark.parametrize("elsewhere", ELSEWHERE.values(), ids=ELSEWHERE.keys())
def test_memory_of_this_process_is_filled_in_this_process(numbered, monkeypatch, elsewhere):
    def refuse(*args, **kwargs):
        raise AssertionError("asked other processes")

    for name in ("processes", "multiprocessing"):
        monkeypatch.setitem(dask.base.named_schedulers, name, refuse)
    monkeypatch.setattr(ProcessPoolExecutor, "submit", refuse)
    stitched = numbered(SHAPE, 8).geocat.patch(SIZE).geocat.map(np.negative).geocat.stitch()
    layers = {"a": stitched, "b": stitched + 1}
    with dask.config.set(scheduler=elsewhere()):
        got = writing.into_memory(stitched)
        both = writing.into_memory(xr.Dataset(layers))
    want = -np.arange(float(np.prod(SHAPE))).reshape(SHAPE)
    np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(both["b"], want + 1)


@pytest.mark.slow
def test_memory_of_this_process_is_filled_even_where_a_client_is_active(numbered):
    from distributed import Client, LocalCluster

    pipe = Sequential([GridSampler(SIZE), ApplyToChips(np.negative), Stitch("hann")])
    field = numbered(SHAPE)
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, processes=True, dashboard_address=None)
        as cluster,
        Client(cluster),
    ):  # fmt: skip
        for i in range(3):
            np.testing.assert_allclose(pipe(field + i), -field - i, rtol=1e-14)


# --- roots of one's own ---------------------------------------------------------------------------


def test_every_task_has_its_own_copy_of_the_roots():
    opened = []

    def read(file, number):
        return np.full((2, 3), number)

    graph = {("file",): (opened.append, 1)} | {
        ("cube", i, 0): (read, ("file",), i) for i in range(5)
    }
    array = da.Array(graph, "cube", ((2,) * 5, (3,)), dtype=int)
    own = writing.with_own_roots(array)
    assert own.shape == array.shape
    assert own.chunks == array.chunks
    assert own.dtype == array.dtype
    tasks = dict(own.dask)
    assert set(tasks) == {("cube", i, 0) for i in range(5)}
    assert not any(task.dependencies for task in tasks.values())
    np.testing.assert_array_equal(own.compute(), np.repeat(np.arange(5), 2)[:, None] * [1, 1, 1])
    assert opened == [1] * 5


def test_tasks_between_the_roots_and_the_blocks_are_kept():
    array = (da.from_array(np.arange(20.0), chunks=4) + 1) * 2
    own = writing.with_own_roots(array)
    np.testing.assert_array_equal(own.compute(), (np.arange(20.0) + 1) * 2)
    np.testing.assert_array_equal(own[3:9].compute(), (np.arange(3.0, 9) + 1) * 2)


class Tasks(Callback):
    """Count the tasks that run."""

    def __init__(self):
        super().__init__()
        self.run = 0

    def _posttask(self, key, result, dsk, state, worker_id):
        self.run += 1


def test_finishing_steps_run_in_the_task_that_folds_and_writes_a_block(numbered):
    field = numbered(SHAPE, 8)
    patches = field.geocat.patch(SIZE, overlap=OVERLAP)
    scores = patches.geocat.map(lambda batch: np.stack([batch, 200 - batch], axis=1))
    stitched = scores.geocat.stitch(window="hann")
    label = stitched.argmax("band").astype("uint8")
    counted = []
    for result in (stitched, label):
        target = Target(result.shape)
        with Tasks() as tasks, dask.config.set(scheduler="sync"):
            writing.write([result.data], [target], "here")
        counted.append(tasks.run)
    assert counted[0] == counted[1]
    np.testing.assert_array_equal(target.values, field.values < 100)
