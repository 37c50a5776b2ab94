"""Gathering chunk by chunk, and finishing block by block, is folding all at once: to the last bit."""

from __future__ import annotations

from itertools import pairwise

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.patching.test_fold import blend_of, parts, planned
from tests.patching.test_fold import fold as folded
from xgeocat import ApplyToChips, GridSampler, Sequential, Stitch
from xgeocat.patching.batches import Answers, Batching
from xgeocat.patching.fold import Canvas
from xgeocat.patching.gather import finish, gather
from xgeocat.patching.meeting import meet
from xgeocat.patching.tiling import is_product


def identity(batch):
    return batch


class Reusing:
    """A model that answers in the same memory every time."""

    def __init__(self):
        self.memory = None

    def __call__(self, batch):
        if self.memory is None or len(self.memory) < len(batch):
            self.memory = np.empty_like(batch)
        answer = self.memory[: len(batch)]
        answer[...] = batch
        return answer


def answers_of(patches, model, size):
    batching = Batching(model, size, (None,), False, np.nan, False, False)
    return Answers([patches], batching, False)


def gathered(chunks, meetings, tiling, blend, rest, target=None):
    """The whole field: `gather` for each chunk, `finish` for each block."""
    onto = rest if target is None else Canvas(target, (0,) * len(tiling.shape))
    done = {
        number: gather(answers, starts, first, meetings.duties(number), onto, tiling, blend)
        for number, (answers, starts, first) in chunks.items()
        if number in meetings.chunks
    }
    out = np.empty((*blend.reducer.rest(rest), *tiling.shape), blend.result)
    for block, met in meetings.blocks.items():
        home = None if met.clear is None else done[met.home][0]
        edges = [done[chunk][1] for chunk in met.chunks]
        values = finish(home, edges, block, met, onto, tiling, blend)
        out[(..., *map(slice, *met.bounds))] = values
    return out


@given(st.data())
@settings(max_examples=120, deadline=None)
def test_any_chunks_batches_and_blocks_give_the_bits_of_one_fold(data):
    dims = data.draw(st.integers(1, 3))
    shape = tuple(data.draw(st.integers(1, (40, 14, 6)[dims - 1])) for _ in range(dims))
    size = tuple(data.draw(st.integers(1, 4)) for _ in shape)
    tiling = planned(shape, size, [data.draw(st.integers(1, n)) for n in size])
    starts = tiling.starts()
    if data.draw(st.booleans()):
        # Not all of them, some twice, in any order.
        order = data.draw(st.lists(st.integers(0, len(starts) - 1), min_size=1, max_size=20))
        starts = starts[order]
    rest = (2,) * data.draw(st.integers(0, 1))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    # Numbers of all magnitudes, whose sums are rounded at every step: so any other order shows.
    patches = rng.standard_normal((len(starts), *rest, *size)).astype("float32")
    patches *= 10 ** rng.uniform(-4, 4, patches.shape).astype("float32")
    patches[rng.random(patches.shape) < data.draw(st.sampled_from([0, 0, 0.1]))] = np.nan
    crop = tuple(data.draw(st.integers(0, (n - 1) // 2)) for n in size)
    reduce = data.draw(st.sampled_from(["mean", "max", "vote", "first", "median", "variance"]))
    window = "hann" if reduce in ("mean", "vote", "variance") else "boxcar"
    regular = is_product(starts, shape)
    blend = blend_of(reduce, regular=regular, window=window, crop=crop, rest=len(rest))

    cuts = sorted(data.draw(st.sets(st.integers(0, len(starts)), max_size=3)))
    chunk_edges = np.array([0, *cuts, len(starts)])
    edges = [
        np.array(sorted({0, n, *data.draw(st.sets(st.integers(0, n), max_size=2))})) for n in shape
    ]
    meetings = meet(starts, tiling, crop, chunk_edges, edges)
    model, batch = Reusing(), data.draw(st.integers(1, 7))
    chunks = {}
    for number, (a, b) in enumerate(pairwise(chunk_edges.tolist())):
        some = patches[a:b]
        answers = answers_of(some, model, batch) if data.draw(st.booleans()) else some
        chunks[number] = (answers, starts[a:b], a)
    whole = ((0,) * dims, shape)
    want = folded(parts(patches, starts, 0, whole, tiling, blend), whole, rest, tiling, blend)
    np.testing.assert_array_equal(gathered(chunks, meetings, tiling, blend, rest), want)
    # The same into memory that is there already.
    target = np.empty_like(want)
    gathered(chunks, meetings, tiling, blend, rest, target)
    np.testing.assert_array_equal(target, want)


@pytest.mark.parametrize(("reduce", "which"), [("first", 0), ("last", -1)])
def test_of_patches_at_one_place_the_number_decides_across_chunks(reduce, which):
    tiling = planned((4, 4), (4, 4), (4, 4))
    starts = np.zeros((6, 2), np.int64)
    patches = np.arange(6, dtype="float32")[:, None, None] * np.ones((4, 4), "float32")
    blend = blend_of(reduce, regular=False)
    for cuts in ([3], [1], [5], [1, 2, 5]):
        chunk_edges = np.array([0, *cuts, 6])
        meetings = meet(starts, tiling, (0, 0), chunk_edges, [np.array([0, 4])] * 2)
        chunks = {
            number: (patches[a:b], starts[a:b], a)
            for number, (a, b) in enumerate(pairwise(chunk_edges.tolist()))
        }
        # Later ones come first, as tasks may.
        chunks = dict(reversed(chunks.items()))
        got = gathered(chunks, meetings, tiling, blend, ())
        np.testing.assert_array_equal(got, patches[which])


def test_a_block_that_came_from_another_process_is_finished_in_a_copy(noise):
    tiling = planned((12, 12), (4, 4), (2, 2))
    starts = tiling.starts()
    patches = noise((len(starts), 4, 4), "float32", 1)
    blend = blend_of(window="hann")
    cut = int((starts[:, 0] < 6).sum())
    order = np.argsort(starts[:, 0] >= 6, kind="stable")
    starts, patches = starts[order], patches[order]
    meetings = meet(starts, tiling, (0, 0), np.array([0, cut, len(starts)]),
                    [np.array([0, 6, 12]), np.array([0, 12])])  # fmt: skip
    first = gather(patches[:cut], starts[:cut], 0, meetings.duties(0), (), tiling, blend)
    second = gather(patches[cut:], starts[cut:], cut, meetings.duties(1), (), tiling, blend)
    home = second[0]
    assert home is not None
    home.values.flags.writeable = False
    before = home.values.copy()
    met = meetings.blocks[1, 0]
    values = finish(home, [first[1], second[1]], (1, 0), met, (), tiling, blend)
    np.testing.assert_array_equal(home.values, before)
    bounds = ((6, 0), (12, 12))
    want = folded(parts(patches, starts, 0, bounds, tiling, blend), bounds, (), tiling, blend)
    np.testing.assert_array_equal(values, want)


# --- inline ---------------------------------------------------------------------------------------


@pytest.fixture
def field(noise):
    return xr.DataArray(noise((150, 170), "float32", 1), dims=("y", "x"))


@pytest.mark.parametrize("reduce", ["mean", "sum", "max", "first", "centre", "vote", "median"])
@pytest.mark.parametrize("chunks", [50, (60, 170), (17, 40)])
def test_a_model_that_runs_where_its_answers_are_folded_gives_the_same_bits(field, reduce, chunks):
    patches = field.chunk(dict(zip(("y", "x"), np.broadcast_to(chunks, 2).tolist(), strict=True)))
    answers = patches.geocat.patch(16, overlap=6).geocat.map(Reusing(), batch_size=5)
    want = answers.geocat.stitch(reduce=reduce)
    with dask.config.set(scheduler="synchronous"):
        np.testing.assert_array_equal(answers.geocat.stitch(reduce=reduce, inline=True), want)


@pytest.mark.parametrize("layers", [{}, {"coverage": True}, {"disagreement": True}])
def test_inline_or_not_every_patch_reaches_the_model_once(field, counting, layers):
    model = counting()
    answers = field.chunk(50).geocat.patch(16, overlap=6).geocat.map(model)
    n = answers.sizes["patch"]
    before = len(model.seen)
    made = answers.geocat.stitch(inline=True, **layers)
    assert len(model.seen) == before
    made.compute()
    assert len(model.seen) - before == n


def test_a_corner_of_an_inlined_field_runs_its_own_patches_alone(field, counting):
    model = counting()
    answers = field.chunk(50).geocat.patch(16, overlap=6).geocat.map(model)
    lazy = answers.geocat.stitch(inline=True)
    before = len(model.seen)
    corner = lazy[:8, :8].compute()
    assert len(model.seen) - before == 1
    np.testing.assert_allclose(corner, field[:8, :8], rtol=1e-6)
    assert lazy[40:60, 40:60].geocat.explain().patches < answers.sizes["patch"] / 10


def test_a_pipeline_runs_the_model_inline_and_says_so(field, counting):
    model = counting()
    pipe = Sequential([GridSampler(16, overlap=6), ApplyToChips(model, batch_size=7), Stitch()])
    lazy = pipe(field.chunk(50))
    assert not any("apply" in name for name in lazy.data.dask.layers)
    told = lazy.geocat.explain()
    before, calls = len(model.seen), len(model.batches)
    lazy.compute()
    assert (told.patches, told.batches) == (
        len(model.seen) - before,
        len(model.batches) - calls,
    )
    assert told.recompute == 1
    assert told.bytes_read == field.nbytes


def test_an_expression_on_answers_is_no_less_right_for_being_asked_inline(field):
    answers = field.chunk(50).geocat.patch(16, overlap=6).geocat.map(identity) * 2
    np.testing.assert_allclose(answers.geocat.stitch(inline=True), 2 * field, rtol=1e-6)


def test_a_field_in_memory_is_folded_where_it_will_be(field):
    """No block is made and then copied: the result is the only array of its size."""
    pipe = Sequential([GridSampler(16, overlap=6), ApplyToChips(identity), Stitch("hann")])
    made = pipe(field)
    assert type(made.data) is np.ndarray
    assert made.data.base is None
    np.testing.assert_allclose(made, field, rtol=1e-6)
    assert isinstance(pipe(field.chunk(40)).data, da.Array)


# --- lazy arrays that hold other numbers than they say --------------------------------------------


@pytest.mark.parametrize("held", ["float64", "int16", "uint8"])
def test_blocks_of_another_dtype_than_said_are_cut_as_the_numbers_they_are(field, held):
    small = (field * 0 + np.arange(170) % 50).chunk(50)
    data = small.data.map_blocks(lambda block: block.astype(held), dtype="float32")
    # Some blocks, not all.
    data = da.block([[data[:50]], [small.data[50:]]])
    lying = small.copy(data=data)
    want = small.geocat.patch(16, overlap=6).values
    np.testing.assert_array_equal(lying.geocat.patch(16, overlap=6).values, want)


@pytest.mark.parametrize("held", ["float64", "int16", "uint8"])
def test_answers_of_another_dtype_than_said_are_folded_as_the_numbers_they_are(field, held):
    small = (field * 0 + np.arange(170) % 50).chunk(50)
    answers = small.geocat.patch(16, overlap=6).geocat.map(identity)
    data = answers.data.map_blocks(lambda block: block.astype(held), dtype="float32")
    back = answers.copy(data=data).geocat.stitch(window="hann")
    np.testing.assert_allclose(back, small, rtol=1e-6)


@pytest.mark.parametrize("shape", [(2, 50, 50), (3, 49, 50), (4, 50, 50)])
def test_blocks_of_another_shape_than_said_are_refused(noise, shape):
    said = xr.DataArray(noise((3, 100, 100), "float32", 1), dims=("band", "y", "x")).chunk(50)
    said = said.chunk(band=-1)
    lying = said.data.map_blocks(lambda b: np.zeros(shape, b.dtype), dtype="float32")
    patches = said.copy(data=lying).geocat.patch(16, overlap=6)
    answers = patches.geocat.map(identity, meta=np.empty((0, 3, 16, 16), "float32"))
    with pytest.raises(ValueError, match="not those of its chunks|must all be alike"):
        answers.compute()


@pytest.mark.parametrize("lengths", [(2,), (4,)])
def test_answers_of_another_shape_than_said_are_refused(noise, lengths):
    field = xr.DataArray(noise((3, 100, 100), "float32", 1), dims=("band", "y", "x"))
    answers = field.chunk(y=50, x=50).geocat.patch(16, overlap=6).geocat.map(identity)
    lying = answers.data.map_blocks(
        lambda b: np.zeros((len(b), *lengths, 16, 16), b.dtype), dtype="float32"
    )
    with pytest.raises(ValueError, match="other chunks than it makes"):
        answers.copy(data=lying).geocat.stitch().compute()


def test_cells_that_are_set_later_on_change_no_field_that_was_made_before(field):
    source = field.chunk(50)
    answers = source.geocat.patch(16, overlap=6).geocat.map(identity)
    stitched = answers.geocat.stitch(inline=True)
    answers.data[:] = -1
    source.data[:] = -2
    np.testing.assert_allclose(stitched, field, rtol=1e-6)
    np.testing.assert_allclose(stitched[40:60, 40:60], field[40:60, 40:60], rtol=1e-6)
    stitched.data[:10] = 7
    assert (stitched[:10] == 7).all()
    assert (stitched[5:8, 5:8] == 7).all()


@pytest.mark.parametrize("scheduler", ["threads", "sync", "processes"])
def test_a_field_in_memory_is_made_in_this_process_whatever_the_scheduler(field, scheduler):
    """Other processes would write into copies, and leave the result as it was found in memory."""
    pipe = Sequential([GridSampler(16, overlap=6), ApplyToChips(identity), Stitch("hann")])
    with dask.config.set(scheduler=scheduler):
        np.testing.assert_allclose(pipe(field), field, rtol=1e-6)


def test_a_step_that_follows_may_select_of_the_field_as_often_as_it_likes(field, counting):
    model = counting()

    def halves(lazy):
        return xr.concat([lazy[:40], lazy[40:]], "y")

    steps = [GridSampler(16, overlap=6), ApplyToChips(model), Stitch()]
    lazy = Sequential([*steps, halves])(field.chunk(50))
    assert any("apply" in name for name in lazy.data.dask.layers)


# Memory beside what answers have must not become pixels.
WRONG = {
    "fewer patches": lambda a: a[:1],
    "more patches": lambda a: np.repeat(a, 2, axis=0),
    "fewer bands": lambda a: a[:, :1],
    "more bands": lambda a: np.repeat(a, 2, axis=1),
    "no bands": lambda a: a[:, 0],
    "smaller patches": lambda a: a[..., :-1],
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG.keys())
@pytest.mark.parametrize("reduce", ["mean", "max"])
def test_answers_that_are_not_as_they_should_be_become_no_field(field, wrong, reduce):
    cube = field.expand_dims(band=["a", "b", "c"]).chunk(y=50, x=50)
    answers = cube.geocat.patch(16, overlap=6).geocat.map(identity)
    data = answers.data.map_blocks(wrong, dtype="float32", chunks=answers.data.chunks)
    back = answers.copy(data=data).geocat.stitch(reduce=reduce)
    with pytest.raises((ValueError, IndexError)):
        back.compute(scheduler="sync")
