"""A model that runs in the tasks that fold its answers: the same field, and no patch runs twice."""

from __future__ import annotations

import pickle
from functools import partial

import dask
import numpy as np
import pytest
import xarray as xr
from dask.callbacks import Callback
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.patching import oracle
from xgeocat import ApplyToChips, GridSampler, Sequential, Stitch
from xgeocat.patching.reducers import REDUCERS

SHAPE, SIZE, OVERLAP = (50, 61), 8, 3
WEIGHTED = ("mean", "vote", "variance")


def sync(lazy):
    """Compute in one thread: models that answer in one and the same memory need that."""
    return lazy.compute(scheduler="sync")


class Reusing:
    """A model that answers in the same memory every time, and counts."""

    def __init__(self):
        self.memory, self.seen = None, 0

    def __call__(self, batch):
        self.seen += len(batch)
        if self.memory is None or len(self.memory) < len(batch):
            self.memory = np.empty_like(batch)
        answer = self.memory[: len(batch)]
        answer[...] = batch
        return answer

    def __dask_tokenize__(self):
        return "reusing", id(self)


class Pairs:
    """A model with two answers a cell, both above zero: for the reducers that take several."""

    def __call__(self, batch):
        return np.stack([batch, batch / 2 + 1], axis=1)

    def __dask_tokenize__(self):
        return "pairs"


def double(batch):
    return batch * 2


def chain(field, model, inline=True, batch_size=5, **options):
    patches = field.geocat.patch(SIZE, overlap=OVERLAP)
    answers = patches.geocat.map(model, batch_size=batch_size)
    return answers.geocat.stitch(inline=inline, **options)


# --- the same bits --------------------------------------------------------------------------------


@pytest.mark.parametrize("reduce", sorted(REDUCERS))
@pytest.mark.parametrize("chunks", [20, (50, 9), (7, 61)])
def test_every_reducer_gives_the_same_bits_inline_or_not_lazy_or_not(positive, reduce, chunks):
    several = reduce in ("soft_vote", "inverse_variance")
    options = {"reduce": reduce, "crop": 1}
    if reduce in WEIGHTED or several:
        options["window"] = "hann"
    field = positive(SHAPE)
    lazy = field.chunk(dict(zip("yx", np.broadcast_to(chunks, 2).tolist(), strict=True)))
    model = Pairs() if several else Reusing()
    want = chain(field, model, **options)
    for inline in (True, False):
        xr.testing.assert_identical(sync(chain(lazy, model, inline, **options)), want)
    corner = {"y": slice(11, 37), "x": slice(30, 33)}
    got = sync(chain(lazy, model, **options).isel(corner))
    xr.testing.assert_identical(got, want.isel(corner))


@given(st.data())
@settings(max_examples=30, deadline=None)
def test_any_field_stitched_inline_is_the_one_stitched_in_memory(noise, field_of, data):
    dims = data.draw(st.sampled_from([("y", "x"), ("time", "y", "x"), ("y", "x", "band")]))
    tiled = data.draw(st.sampled_from([("y", "x"), ("x",), dims]))
    sizes = {d: data.draw(st.integers(1, 14 if d in tiled else 3)) for d in dims}
    sizes |= {d: min(sizes[d], 6) for d in dims if len(tiled) == 3}
    size = {d: data.draw(st.integers(1, 6)) for d in dims if d in tiled}
    stride = {d: data.draw(st.integers(1, n)) for d, n in size.items()}
    dtype = data.draw(st.sampled_from(["float32", "uint8", "bool", "complex64", "float16"]))
    values = noise(tuple(sizes.values()), dtype, data.draw(st.integers(0, 99)))
    if values.dtype.kind in "fc":
        rate = data.draw(st.sampled_from([0, 0.1, 0.7]))
        values[np.random.default_rng(0).random(values.shape) < rate] = np.nan
    field = field_of(values, dims)
    batching = {
        "batch_size": data.draw(st.integers(1, 9)),
        "skip_empty": data.draw(st.booleans()),
        "fixed_batch": data.draw(st.booleans()),
        "fill": {"u": 1, "b": True}.get(values.dtype.kind, np.nan),
    }
    weighted = ["mean", "sum"] if values.dtype.kind == "c" else ["mean", "vote", "max", "median"]
    how = {
        "reduce": data.draw(st.sampled_from([*weighted, "first", "last", "centre"])),
        "crop": {d: data.draw(st.integers(0, (n - 1) // 2)) for d, n in size.items()},
        "fill": {"u": 1, "b": True}.get(values.dtype.kind, np.nan),
    }
    n = len(field.geocat.patch(size, stride=stride)["patch"])
    order = np.array(data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=30)))
    some = data.draw(st.booleans())

    def run(source, model, inline):
        patches = source.geocat.patch(size, stride=stride)
        if some:
            # In one order, which blocks have no say in: some of them, some of them twice.
            rows = np.lexsort([patches[f"{d}_start"].values for d in size][::-1])
            patches = patches.isel(patch=rows[order])
        return patches.geocat.map(model, **batching).geocat.stitch(**how, inline=inline)

    want = run(field, Reusing(), inline=False)
    lazy = field.chunk({d: data.draw(st.integers(1, n)) for d, n in sizes.items()})
    model = Reusing()
    made = run(lazy, model, inline=True)
    before = model.seen
    xr.testing.assert_identical(sync(made), want)
    if not (batching["skip_empty"] or batching["fixed_batch"]):
        reaching = made.geocat.explain().patches
        assert model.seen - before == reaching <= (len(order) if some else n)
    box = {}
    for dim, length in want.sizes.items():
        ends = data.draw(st.integers(0, length)), data.draw(st.integers(0, length))
        box[dim] = slice(min(ends), max(ends))
    xr.testing.assert_identical(sync(made.isel(box)), want.isel(box))


LAYOUTS = {
    "columns": np.asfortranarray,
    "one number everywhere": lambda b: np.broadcast_to(b.mean((1, 2), keepdims=True), b.shape),
    "mirrored": lambda b: b[..., ::-1],
    "upside down": lambda b: b[:, ::-1],
    "channels last": lambda b: np.moveaxis(np.stack([b, b + 1], axis=-1), -1, 1),
    "the other byte order": lambda b: b.astype(b.dtype.newbyteorder()),
    "read-only": lambda b: np.frombuffer(b.tobytes(), b.dtype).reshape(b.shape),
    "its own batch": lambda b: b,
    "patches in reverse": lambda b: b[::-1],
    "lists": lambda b: b.tolist(),
}


@pytest.mark.parametrize("reduce", ["mean", "max"])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_answers_may_lie_in_memory_in_any_way(positive, layout, reduce):
    field = positive(SHAPE)
    # One patch a batch, so that a model which mixes its patches up answers the same.
    want = chain(field, layout, batch_size=1, reduce=reduce)
    for inline in (True, False):
        got = sync(chain(field.chunk(20), layout, inline, 1, reduce=reduce))
        xr.testing.assert_identical(got, want)
    steps = [GridSampler(SIZE, overlap=OVERLAP), ApplyToChips(layout, 1), Stitch(reduce=reduce)]
    with dask.config.set(scheduler="sync"):
        xr.testing.assert_identical(Sequential(steps)(field), want)


def test_threads_fold_the_same_bits(positive):
    field = positive((300, 310))
    want = chain(field, double, window="hann")
    lazy = chain(field.chunk(60), double, window="hann")
    for _ in range(3):
        xr.testing.assert_identical(lazy.compute(scheduler="threads", num_workers=8), want)


# --- every patch once -----------------------------------------------------------------------------


@pytest.mark.parametrize("chunks", [20, (50, 9), (50, 61)])
@pytest.mark.parametrize("layers", [{}, {"coverage": True}, {"disagreement": True}])
def test_every_patch_reaches_the_model_once(numbered, counting, chunks, layers):
    model = counting()
    made = chain(numbered(SHAPE, chunks), model, **layers)
    model.seen.clear()
    sync(made)
    starts = oracle.grid(SHAPE, (SIZE, SIZE), (SIZE - OVERLAP,) * 2, "shift")
    assert sorted(model.seen) == sorted(float(np.ravel_multi_index(s, SHAPE)) for s in starts)


@pytest.mark.parametrize("crop", [0, 1])
@given(st.data())
@settings(max_examples=20, deadline=None)
def test_any_box_runs_exactly_the_patches_that_reach_it(numbered, counting, crop, data):
    model = counting()
    made = chain(numbered(SHAPE, 20), model, crop=crop)
    lo = [data.draw(st.integers(0, n - 1)) for n in SHAPE]
    hi = [data.draw(st.integers(a + 1, n)) for a, n in zip(lo, SHAPE, strict=True)]
    model.seen.clear()
    corner = made[lo[0] : hi[0], lo[1] : hi[1]]
    told = corner.geocat.explain()
    sync(corner)
    want = []
    for start in oracle.grid(SHAPE, (SIZE, SIZE), (SIZE - OVERLAP,) * 2, "shift"):
        first, last = oracle.box(start, (SIZE, SIZE), SHAPE, (crop, crop))
        if all(a < d and b > c for a, b, c, d in zip(first, last, lo, hi, strict=True)):
            want.append(float(np.ravel_multi_index(start, SHAPE)))
    assert sorted(model.seen) == sorted(want)
    assert told.patches == len(want)
    assert told.recompute == 1


@pytest.mark.parametrize("chunk", [1, 3])
def test_other_dims_that_are_chunked_do_not_run_the_model_twice(positive, counting, chunk):
    field = positive((3, *SHAPE), dims=("band", "y", "x"))
    model = counting()
    made = chain(field.chunk(band=chunk, y=20, x=20), model)
    model.seen.clear()
    got = sync(made)
    assert len(model.seen) == field.geocat.patch(SIZE, overlap=OVERLAP).sizes["patch"]
    xr.testing.assert_identical(got, chain(field, counting()))


def test_a_model_upon_a_model_runs_both_once(numbered, counting):
    first, second = counting(), counting()
    patches = numbered(SHAPE, 20).geocat.patch(SIZE, overlap=OVERLAP)
    made = patches.geocat.map(first).geocat.map(second).geocat.stitch(inline=True)
    for model in (first, second):
        model.seen.clear()
    told = made.geocat.explain()
    sync(made)
    assert len(first.seen) == len(second.seen) == patches.sizes["patch"] == told.patches


@pytest.mark.usefixtures("no_compute")
def test_nothing_is_computed_before_it_is_asked_for(numbered, counting):
    model = counting()
    made = chain(numbered(SHAPE, 20), model)[3:20]
    made.geocat.explain()
    # What kind of answers it gives is found out beforehand.
    assert all(n <= 1 for n, *_ in model.batches)


# --- what is said of it ---------------------------------------------------------------------------


class Tasks(Callback):
    """Note the tasks that are run."""

    def __init__(self):
        super().__init__()
        self.keys = []

    def _pretask(self, key, dsk, state):
        self.keys.append(key)


@pytest.mark.parametrize("chunks", [20, (50, 61), (7, 61)])
@pytest.mark.parametrize("batch_size", [1, 7, 100])
def test_what_is_said_of_an_inlined_field_is_what_it_takes(counting, field_of, chunks, batch_size):
    field = field_of(np.arange(float(np.prod(SHAPE))).reshape(SHAPE), chunks=chunks)
    # Blocks that are made by tasks, as those of a reader are.
    field = field.copy(data=field.data.map_blocks(np.copy, dtype=field.dtype))
    model = counting()
    patches = field.geocat.patch(SIZE, overlap=OVERLAP)
    made = patches.geocat.map(model, batch_size=batch_size).geocat.stitch(inline=True)
    assert not any("apply" in name for name in made.data.dask.layers)
    told = made.geocat.explain()
    model.batches.clear()
    with Tasks() as tasks:
        dask.persist(made.data, scheduler="sync", optimize_graph=False)
    assert told.patches == sum(n for n, *_ in model.batches) == patches.sizes["patch"]
    assert told.batches == len(model.batches)
    assert told.recompute == 1
    assert told.bytes_read == field.nbytes
    raw = [key for key in made.data.dask if str(key).startswith("('xarray-")]
    assert told.tasks - len(raw) in (len(tasks.keys), len(tasks.keys) - len(raw))
    outside = patches.geocat.map(model, batch_size=batch_size).geocat.stitch().geocat.explain()
    assert (told.patches, told.batches) == (outside.patches, outside.batches)
    assert told.tasks < outside.tasks
    assert told.blocks == outside.blocks


def test_an_inlined_field_takes_less_memory_than_its_answers(positive):
    lazy = positive((400, 400), chunks=200)
    sizes = [chain(lazy, double, inline).geocat.explain().peak_bytes for inline in (True, False)]
    assert sizes[0] < sizes[1]


# --- in other processes ---------------------------------------------------------------------------


def test_it_is_pickled_whole_and_selects_as_before(positive, counting):
    field = positive(SHAPE)
    made = chain(field.chunk(20), double, window="hann")
    want = chain(field, double, window="hann")
    again = pickle.loads(pickle.dumps(made))
    xr.testing.assert_identical(sync(again), want)
    corner = {"y": slice(0, 9), "x": slice(40, 61)}
    xr.testing.assert_identical(sync(again.isel(corner)), want.isel(corner))
    assert again.isel(corner).geocat.explain().patches == made.isel(corner).geocat.explain().patches


def test_keys_are_the_same_when_built_again_and_others_when_not_inline(positive):
    build = partial(chain, positive(SHAPE, chunks=20), double)
    assert build().data.name == build().data.name != build(inline=False).data.name
    assert build().data.dask.keys() == build().data.dask.keys()


@pytest.fixture(scope="module")
def client():
    """Client of two worker processes."""
    from distributed import Client, LocalCluster

    cluster = LocalCluster(
        n_workers=2, threads_per_worker=2, processes=True, dashboard_address=None, memory_limit=0
    )
    with cluster, Client(cluster, set_as_default=False) as client:
        yield client


@pytest.mark.slow
@pytest.mark.parametrize("reduce", ["mean", "max", "vote"])
def test_a_cluster_gives_the_same_bits(client, positive, reduce):
    field = positive((3, 200, 210), dims=("band", "y", "x"))
    lazy = field.chunk(band=2, y=40, x=60)
    want = chain(field, double, reduce=reduce)
    made = chain(lazy, double, reduce=reduce)
    # Blocks travel to other workers, and come back read-only; a second time they are there already.
    for _ in range(2):
        xr.testing.assert_identical(client.compute(made).result(), want)
    kept = client.persist(made)
    xr.testing.assert_identical(client.compute(kept).result(), want)
    corner = {"y": slice(35, 90), "x": slice(110, 130)}
    got = client.compute(made.isel(corner)).result()
    xr.testing.assert_identical(got, want.isel(corner))
