from __future__ import annotations

import multiprocessing
import os
import pickle
import sys
import threading
import warnings
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr

from xgeocat.patching.training import to_torch

SIZE, BLOCK = 16, 40
#: How worker processes are started; those that inherit nothing import torch first.
METHODS = [
    pytest.param(method, marks=[] if method == "fork" else pytest.mark.slow)
    for method in multiprocessing.get_all_start_methods()
    if method != "forkserver"
]


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="a torch Dataset needs torch")


@pytest.fixture
def bands(positive):
    """Dataset of three bands of different dtypes."""
    return xr.Dataset(
        {
            "red": positive((100, 90), "uint8", seed=1),
            "nir": positive((100, 90), "uint16", seed=2),
            "swir": positive((100, 90), "float32", seed=3),
        }
    )


@pytest.fixture
def classes(positive):
    return (positive((100, 90), seed=4) > 100).astype("uint8")


def cut(field):
    return field.geocat.patch(SIZE, overlap=4)


def lazy(field):
    return field.chunk({"y": BLOCK, "x": BLOCK})


def noted(field, folder):
    """The field, lazily; each block that is computed leaves a file with its first cell."""

    def note(block, block_info=None):
        (y, _), (x, _) = block_info[0]["array-location"]
        (folder / f"{y}-{x}-{os.getpid()}-{threading.get_ident()}-{os.urandom(4).hex()}").touch()
        return block

    data = da.from_array(field.values, chunks=BLOCK)
    return field.copy(data=data.map_blocks(note, dtype=field.dtype, meta=np.empty((0, 0))))


def windows(field, patches):
    """Values of patches, cut from the values of their field by plain slices."""
    starts = zip(*(patches[f"{d}_start"].values for d in "yx"), strict=True)
    values = field.transpose(..., "y", "x").values
    return np.stack([values[..., y : y + SIZE, x : x + SIZE] for y, x in starts])


def blocks(folder):
    """First cells of the blocks that were computed, and empty the folder."""
    found = sorted(tuple(map(int, path.name.split("-")[:2])) for path in folder.iterdir())
    for path in folder.iterdir():
        path.unlink()
    return found


def blocks_of(patches, *numbers):
    """First cells of the blocks that patches meet, found by asking for every cell."""
    met = set()
    for number in numbers:
        y, x = (int(patches[f"{d}_start"][number]) for d in "yx")
        for i, j in np.ndindex(SIZE, SIZE):
            met.add(((y + i) // BLOCK * BLOCK, (x + j) // BLOCK * BLOCK))
    return sorted(met)


# --- items ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("backing", [lambda f: f, lazy], ids=["numpy", "dask"])
def test_items_of_a_dataset_are_its_variables_as_bands(torch, bands, backing):
    patches = cut(backing(bands))
    want = windows(bands.to_dataarray("band"), patches)
    items = to_torch(patches)
    assert isinstance(items, torch.utils.data.Dataset)
    assert len(items) == len(want) == patches.sizes["patch"]
    for k in range(len(items)):
        assert items[k].dtype == torch.float32
        np.testing.assert_array_equal(items[k].numpy(), want[k])


@pytest.mark.parametrize("backing", [lambda f: f, lazy], ids=["numpy", "dask"])
@pytest.mark.parametrize(
    ("dims", "shape"), [(("y", "x"), ()), (("time", "y", "x"), (2,)), (("y", "x", "band"), (3,))]
)
def test_items_of_a_dataarray_keep_its_dims(torch, positive, dims, shape, backing):
    sizes = {"y": 50, "x": 60, "time": 2, "band": 3}
    field = positive(tuple(sizes[d] for d in dims), dims=dims)
    patches = cut(backing(field))
    items = to_torch(patches)
    assert items[0].shape == (*shape, SIZE, SIZE)
    np.testing.assert_array_equal(torch.stack(list(items)).numpy(), windows(field, patches))


@pytest.mark.parametrize(
    ("dtype", "want"),
    [
        ("uint16", "int32"),
        ("uint32", "int64"),
        ("uint64", "int64"),
        *[(d, d) for d in ("uint8", "int8", "int16", "int32", "int64")],
        *[(d, d) for d in ("bool", "float16", "float32", "float64", "complex64")],
        (">u2", "int32"),
        (">f4", "float32"),
    ],
)
def test_dtypes_are_those_that_torch_can_calculate_with(torch, positive, dtype, want):
    field = positive((40, 40)).astype(dtype)
    items = to_torch(cut(lazy(field)))
    assert items[1].dtype == getattr(torch, want)
    np.testing.assert_array_equal(items[1].numpy(), cut(field).values[1].astype(want))
    assert (items[1] + items[1]).shape == (SIZE, SIZE)


def test_values_beyond_int64_are_refused(torch, positive):
    field = positive((40, 40)).astype("uint64")
    field[0, 0] = 2**63
    items = to_torch(cut(field))
    items[len(items) - 1]
    with pytest.raises(ValueError, match=r"hold 9223372036854775808 \(uint64\), and torch calcul"):
        items[0]


@pytest.mark.parametrize("dtype", ["datetime64[ns]", "U3", "float128"])
def test_values_that_torch_has_no_dtype_for_are_refused(torch, positive, dtype):
    if dtype == "float128" and not hasattr(np, dtype):
        pytest.skip("there is no float128 on this machine")
    with pytest.raises(TypeError, match=r"torch has no dtype for. Give the field a number dtype"):
        to_torch(cut(positive((40, 40)).astype("int64").astype(dtype)))


def test_items_are_asked_for_like_those_of_a_list(torch, bands):
    items = to_torch(cut(lazy(bands)))
    n = len(items)
    for k in (0, 3, n - 1):
        for same in (k - n, np.int64(k), torch.tensor(k)):
            assert torch.equal(items[same], items[k])
    for wrong in (n, -n - 1, n + 100):
        with pytest.raises(IndexError, match=rf"Patch {wrong} was asked for, and there are {n} p"):
            items[wrong]
    with pytest.raises(TypeError):
        items[1.5]
    with pytest.raises(IndexError):
        items.__getitems__([0, n])
    assert sum(1 for _ in items) == n


def test_a_batch_comes_in_the_order_in_which_it_was_asked_for(torch, bands):
    items = to_torch(cut(lazy(bands)))
    order = [7, 0, 7, -1, 3]
    batch = items.__getitems__(order)
    assert len(batch) == len(order)
    for k, item in zip(order, batch, strict=True):
        assert torch.equal(item, items[k])
    assert items.__getitems__([]) == []


def test_items_may_be_changed_in_place(torch, bands):
    for patches in (cut(bands), cut(lazy(bands))):
        items = to_torch(patches)
        kept = items[2].clone()
        first, second = items.__getitems__([2, 2])
        first += 1
        assert torch.equal(second, kept)
        assert torch.equal(items[2], kept)


def test_patches_may_be_chosen_first(torch, bands):
    patches = cut(lazy(bands))
    chosen = [9, 2, 5]
    items = to_torch(patches.isel(patch=chosen))
    everything = to_torch(patches)
    assert len(items) == 3
    for item, k in zip(items, chosen, strict=True):
        assert torch.equal(item, everything[k])


def test_it_says_what_it_holds(torch, bands, classes):
    items = to_torch(cut(bands), labels=cut(classes))
    assert repr(items) == (
        f"PatchDataset({len(items)} patches of (3, 16, 16) float32 with labels (16, 16) uint8)"
    )


# --- labels and transforms ------------------------------------------------------------------------


@pytest.mark.parametrize("lazy_ones", ["neither", "patches", "labels", "both"])
def test_with_labels_items_are_pairs_of_one_place(torch, bands, classes, lazy_ones):
    # Lazy patches come block by block, and so in another order than those in memory.
    patches = cut(lazy(bands) if lazy_ones in ("patches", "both") else bands)
    labels = cut(lazy(classes) if lazy_ones in ("labels", "both") else classes)
    items = to_torch(patches, labels=labels)
    inputs, want = to_torch(patches), windows(classes, patches)
    for k in (0, 4, 17, -1):
        patch, label = items[k]
        assert torch.equal(patch, inputs[k])
        assert label.dtype == torch.uint8
        np.testing.assert_array_equal(label.numpy(), want[k])


def test_labels_are_found_among_more_and_may_be_several(torch, bands, classes):
    patches = cut(lazy(bands)).isel(patch=[20, 3, 3, 11])
    labels = cut(xr.Dataset({"class": classes, "weight": classes + 1}))
    items = to_torch(patches, labels=labels)
    want = windows(classes, patches)
    for k, (_, label) in enumerate(items):
        np.testing.assert_array_equal(label.numpy(), [want[k], want[k] + 1])


def test_labels_of_other_patches_are_refused(torch, bands, classes, positive):
    patches = cut(bands)
    far = positive((100, 90)).assign_coords(x=np.arange(90.0))
    for labels in (cut(far), classes.geocat.patch(8), cut(classes.isel(y=slice(50)))):
        with pytest.raises(
            ValueError, match=r"labels have another grid than the patches: .* Put the"
        ):
            to_torch(patches, labels=labels)
    n = len(to_torch(patches))
    with pytest.raises(
        ValueError,
        match=rf"{n - 3} of {n} patches have no label; the first starts at {{'y': 0, 'x': 36}}. Cut",
    ):
        to_torch(patches, labels=cut(classes).isel(patch=slice(3)))
    with pytest.raises(
        ValueError, match=r"patches have no label; the first starts at .* same overlap"
    ):
        to_torch(patches, labels=classes.geocat.patch(SIZE))
    with pytest.raises(ValueError, match="carries no PatchIndex"):
        to_torch(patches, labels=classes)


def test_a_transform_gets_the_tensors_of_an_item(torch, bands, classes):
    patches, labels = cut(bands), cut(classes)
    scaled = to_torch(patches, transform=lambda patch: patch / 100)
    assert torch.equal(scaled[3], to_torch(patches)[3] / 100)
    flipped = to_torch(patches, labels=labels, transform=lambda p, m: (p.flip(-1), m.flip(-1)))
    for got, kept in zip(flipped[3], to_torch(patches, labels=labels)[3], strict=True):
        assert torch.equal(got, kept.flip(-1))
    named = to_torch(patches, labels=labels, transform=lambda p, m: {"image": p, "mask": m})
    assert set(named[0]) == {"image", "mask"}


# --- what is read ---------------------------------------------------------------------------------


def test_nothing_is_read_before_an_item_is_asked_for(torch, bands, classes, no_compute):
    items = to_torch(cut(lazy(bands)), labels=cut(lazy(classes)))
    pickle.loads(pickle.dumps(items))
    assert len(items) > 0


@pytest.mark.parametrize("travelled", [False, True], ids=["here", "unpickled"])
def test_an_item_reads_the_blocks_that_its_patch_meets(torch, positive, tmp_path, travelled):
    patches = cut(noted(positive((100, 90)), tmp_path))
    items = to_torch(patches)
    if travelled:
        items = pickle.loads(pickle.dumps(items))
    met = [blocks_of(patches, k) for k in range(len(items))]
    assert {len(m) for m in met} == {1, 2, 4}
    for k, wanted in enumerate(met):
        items[k]
        assert blocks(tmp_path) == wanted


@pytest.mark.parametrize("travelled", [False, True], ids=["here", "unpickled"])
def test_a_batch_reads_each_block_once_for_patches_and_labels(torch, positive, tmp_path, travelled):
    field = noted(positive((100, 90)), tmp_path)
    bands = xr.Dataset({"a": field, "b": field + 1})
    items = to_torch(cut(bands), labels=cut(field > 100))
    if travelled:
        items = pickle.loads(pickle.dumps(items))
    for numbers in ([30, 2, 3, 30], [0, len(items) - 1]):
        items.__getitems__(numbers)
        assert blocks(tmp_path) == blocks_of(cut(field), *numbers)


def test_what_was_chosen_and_transposed_reads_no_more_after_travelling(torch, positive, tmp_path):
    field = noted(positive((100, 90)), tmp_path)
    patches = cut(field).isel(patch=slice(40, 5, -1)).transpose("x", "y", "patch")
    items = pickle.loads(pickle.dumps(to_torch(patches)))
    want = windows(positive((100, 90)), cut(field))
    for k in range(len(items)):
        np.testing.assert_array_equal(items[k].numpy(), want[40 - k])
        assert blocks(tmp_path) == blocks_of(cut(field), 40 - k)


def test_everything_is_read_in_the_thread_that_asks(torch, positive, tmp_path):
    field = noted(positive((100, 90)), tmp_path)
    items = to_torch(cut(field))
    before = threading.active_count()
    with dask.config.set(scheduler="threads"):
        items.__getitems__(range(len(items)))
    assert {p.name.split("-")[3] for p in tmp_path.iterdir()} == {str(threading.get_ident())}
    assert threading.active_count() == before


# --- DataLoaders ----------------------------------------------------------------------------------


def load_all(items, **how):
    from torch.utils.data import DataLoader

    with warnings.catch_warnings():
        # Forking a process of several threads is what is tested here.
        warnings.simplefilter("ignore", DeprecationWarning)
        return list(DataLoader(items, batch_size=7, timeout=100 * bool(how), **how))


@pytest.mark.parametrize("method", METHODS)
def test_workers_give_what_the_process_itself_gives(torch, bands, classes, tmp_path, method):
    field = noted(bands["red"], tmp_path)
    # The pool of dask's threads is here before the fork, and not in it.
    field.compute(scheduler="threads")
    blocks(tmp_path)
    items = to_torch(cut(lazy(bands).assign(red=field)), labels=cut(classes))
    here = load_all(items)
    blocks(tmp_path)
    there = load_all(items, num_workers=2, multiprocessing_context=method)
    assert len(here) == len(there) > 2
    for (a, b), (c, d) in zip(here, there, strict=True):
        assert torch.equal(a, c)
        assert torch.equal(b, d)
    workers = {path.name.split("-")[2] for path in tmp_path.iterdir()}
    assert len(workers) == 2
    assert str(os.getpid()) not in workers


@pytest.mark.parametrize("method", METHODS)
def test_workers_read_a_zarr_store(torch, bands, tmp_path, method):
    lazy(bands).drop_encoding().to_zarr(tmp_path / "cube.zarr", zarr_format=3, consolidated=False)
    stored = xr.open_zarr(tmp_path / "cube.zarr", consolidated=False, chunks={})[list(bands)]
    stored["red"].compute()
    items = to_torch(cut(stored))
    got = torch.cat(load_all(items, num_workers=2, multiprocessing_context=method))
    want = windows(bands.to_dataarray("band"), cut(stored))
    np.testing.assert_array_equal(got.numpy(), want)


def test_a_transform_without_a_name_travels(torch, bands):
    items = to_torch(cut(lazy(bands)), transform=lambda patch: patch.mean())
    there = pickle.loads(pickle.dumps(items))
    assert isinstance(there, torch.utils.data.Dataset)
    assert torch.equal(there[5], items[5])


def test_shuffled_subsets_and_sums_of_torch_take_it(torch, bands, classes):
    from torch.utils.data import ConcatDataset, DataLoader, random_split

    items = to_torch(cut(lazy(bands)), labels=cut(lazy(classes)))
    split = random_split(items, [0.75, 0.25], torch.Generator().manual_seed(0))
    assert sum(map(len, split)) == len(items)
    seen = [x for part in split for x, _ in DataLoader(part, batch_size=4, shuffle=True)]
    assert sum(map(len, seen)) == len(items)
    total = torch.cat(seen).double().sum()
    want = torch.stack([x for x, _ in items]).double().sum()
    assert total == pytest.approx(float(want), rel=1e-12)
    assert isinstance(items + items, ConcatDataset)


# --- errors ---------------------------------------------------------------------------------------


def test_torch_that_is_not_there_is_named_with_its_extra(bands, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match=r'needs torch, .*: pip install "xgeocat\[torch\]"'):
        to_torch(cut(bands))


def test_what_was_not_cut_or_cannot_be_stacked_is_refused(torch, bands):
    with pytest.raises(ValueError, match="carries no PatchIndex"):
        to_torch(bands)
    patches = cut(bands)
    uneven = patches.assign(two=patches["red"].expand_dims(time=2))
    with pytest.raises(
        ValueError, match=r"must share their dims; got .* patches\[\['red', 'nir'\]\]"
    ):
        to_torch(uneven)


def test_importing_it_imports_no_torch():
    import subprocess

    code = "import sys, xgeocat.patching.training; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
