from __future__ import annotations

import copy
import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr

from xgeocat.patching.selectable import Selectable, packed

SHAPE, BLOCK, SIZE = (96, 80), 32, 16
CELLS = np.arange(SHAPE[0] * SHAPE[1], dtype="float32").reshape(SHAPE)


def noted(folder):
    """Cells that leave a file for every block that is computed."""

    def note(block, block_info=None):
        (y, _), (x, _) = block_info[0]["array-location"]
        (folder / f"{y}-{x}").touch()
        return block

    return da.from_array(CELLS, chunks=BLOCK).map_blocks(
        note, dtype="float32", meta=np.empty((0, 0))
    )


def read(folder):
    names = sorted(path.name for path in folder.iterdir())
    for name in names:
        (folder / name).unlink()
    return names


@pytest.fixture(params=["patches", "answers", "stitched", "transposed", "selected"])
def array(request, field_of, tmp_path):
    """What makes itself again for a selection, by each way to get one."""
    patches = field_of(CELLS).copy(data=noted(tmp_path)).geocat.patch(SIZE, overlap=4)
    answers = patches.geocat.map(np.negative)
    made = {
        "patches": patches,
        "answers": answers,
        "stitched": answers.geocat.stitch(),
        "transposed": answers.transpose("x", "y", "patch").isel(x=0).T,
        "selected": answers.geocat.stitch().isel(y=slice(80), x=[0, 5, 70]),
    }[request.param]
    read(tmp_path)
    return made


def test_what_was_unpickled_selects_as_before(array, tmp_path):
    whole = array.compute()
    read(tmp_path)
    back = pickle.loads(pickle.dumps(array))
    assert isinstance(back.data, Selectable)
    assert back.data.name == array.data.name
    assert back.chunks == array.chunks
    corner = {array.dims[0]: 0}
    array.isel(corner).compute()
    wanted = read(tmp_path)
    xr.testing.assert_identical(back.isel(corner).compute(), whole.isel(corner))
    assert read(tmp_path) == wanted != []
    again = pickle.loads(pickle.dumps(back.isel(corner)))
    xr.testing.assert_identical(again.compute(), whole.isel(corner))
    assert read(tmp_path) == wanted


def corner_of(array):
    return array[:8, :8].compute(scheduler="synchronous")


def test_it_selects_in_another_process(field_of, tmp_path):
    patches = field_of(CELLS).copy(data=noted(tmp_path)).geocat.patch(SIZE, overlap=4)
    field = patches.geocat.map(lambda batch: batch * 2).geocat.stitch()
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        corner = pool.submit(corner_of, field.data).result(timeout=120)
    np.testing.assert_array_equal(corner, CELLS[:8, :8] * 2)
    assert read(tmp_path) == ["0-0"]


@pytest.mark.parametrize("pack", [pickle.dumps, packed])
def test_a_field_in_memory_is_packed_once_for_all_steps(field_of, pack):
    cells = np.random.default_rng(0).random((512, 512))
    patches = field_of(cells, chunks=128).geocat.patch(64, overlap=16)
    field = patches.geocat.map(np.negative).geocat.stitch()
    assert len(pack(field.data)) < 1.2 * cells.nbytes + 200_000
    assert len(pack((patches.data, field.data))) < 2.2 * cells.nbytes + 200_000


def test_a_copy_selects_as_before(field_of, tmp_path):
    patches = field_of(CELLS).copy(data=noted(tmp_path)).geocat.patch(SIZE, overlap=4)
    read(tmp_path)
    for same in (copy.copy(patches.data), patches.copy(), copy.deepcopy(patches.data)):
        same[0].compute()
        assert read(tmp_path) == ["0-0"]


@pytest.mark.usefixtures("no_compute")
def test_packing_computes_nothing(field_of):
    lazy = field_of(CELLS, chunks=BLOCK).geocat.patch(SIZE).geocat.map(np.negative)
    assert dask.is_dask_collection(pickle.loads(pickle.dumps(lazy)))


# --- setting cells --------------------------------------------------------------------------------


def test_cells_that_were_set_are_set_in_every_selection(array):
    before = array.compute()
    first = dict.fromkeys(array.dims, 0)
    array[first] = -5
    assert array.compute()[first] == -5
    assert array.isel(first).compute() == -5
    last = dict.fromkeys(array.dims, -1)
    assert array.isel(last).compute() == before[last]
    some = {dim: slice(0, 3) for dim in array.dims}
    changed = before.copy()
    changed[first] = -5
    xr.testing.assert_identical(array.isel(some).compute(), changed.isel(some))


def test_what_was_made_before_cells_were_set_stays_as_it_was(array):
    before = array.compute()
    turned, some = array.transpose(*array.dims[::-1]), {dim: slice(0, 5) for dim in array.dims}
    selected = array.isel(some)
    array[dict.fromkeys(array.dims, 0)] = -5
    fewer = {dim: slice(0, 2) for dim in array.dims}
    xr.testing.assert_identical(selected.isel(fewer).compute(), before.isel(fewer))
    xr.testing.assert_identical(
        turned.isel(fewer).compute(), before.transpose(*array.dims[::-1]).isel(fewer)
    )


@pytest.mark.parametrize("inline", [False, True])
@pytest.mark.parametrize("when", ["patches", "answers"])
def test_a_model_gets_and_a_field_is_made_of_the_cells_that_were_set(field_of, when, inline):
    patches = field_of(CELLS, chunks=BLOCK).geocat.patch(SIZE)
    if when == "patches":
        patches[0] = -5
    answers = patches.geocat.map(np.negative)
    if when == "answers":
        answers[0] = 5
    want = -CELLS
    want[:SIZE, :SIZE] = 5
    stitched = answers.geocat.stitch(inline=inline)
    np.testing.assert_array_equal(stitched, want)
    np.testing.assert_array_equal(stitched[:4, :4], want[:4, :4])


@pytest.mark.parametrize("later", ["source", "patches", "answers"])
def test_cells_that_are_set_later_do_not_change_what_was_made_before(field_of, later):
    made = {"source": field_of(CELLS, chunks=BLOCK)}
    made["patches"] = made["source"].geocat.patch(SIZE)
    made["answers"] = made["patches"].geocat.map(np.negative)
    stitched = made["answers"].geocat.stitch()
    made[later][{made[later].dims[0]: 0}] = -5
    # Some were made already, some are made of what was kept.
    np.testing.assert_array_equal(stitched, -CELLS)
    np.testing.assert_array_equal(stitched[:4, :4], -CELLS[:4, :4])
    if later == "source":
        mapped = made["patches"].geocat.map(np.negative)
        np.testing.assert_array_equal(mapped.geocat.stitch(), -CELLS)
        first = made["patches"].isel(patch=0)
        np.testing.assert_array_equal(first, CELLS[:SIZE, :SIZE])
