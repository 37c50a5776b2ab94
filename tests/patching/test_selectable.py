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
