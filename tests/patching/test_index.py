from __future__ import annotations

import copy
import pickle

import dask.array as da
import numpy as np
import pytest
import xarray as xr

import xgeocat as xgc
from tests.patching import oracle


@pytest.fixture(params=[None, 5], ids=["eager", "lazy"])
def field(request, positive):
    return positive((12, 14), "float32", chunks=request.param)


@pytest.fixture
def patches(field):
    return field.geocat.patch(5, overlap=2)


# --- what it survives: after each, stitch needs no argument and puts every patch in its place -----

SAME = {
    "copy": lambda p: p.copy(),
    "deep copy": lambda p: copy.deepcopy(p),
    "pickle": lambda p: pickle.loads(pickle.dumps(p)),
    "compute": lambda p: p.compute(),
    "persist": lambda p: p.persist(),
    "chunk along patch": lambda p: p.chunk(patch=3),
    "chunk along y and x": lambda p: p.chunk(y=2, x=3),
    "arithmetic": lambda p: (p * 4 + p) / 5,
    "in-place arithmetic": lambda p: p.__iadd__(0),
    "ufunc": lambda p: np.negative(-p),
    "where": lambda p: p.where(p > -1),
    "where other": lambda p: p.where(p > -1, 0),
    "xr.where": lambda p: xr.where(p > -1, p, 0.0).transpose(*p.dims).rename(p.name),
    "clip": lambda p: p.clip(-1, 1e6),
    "fillna": lambda p: p.fillna(0),
    "apply_ufunc": lambda p: xr.apply_ufunc(
        lambda a: a[..., ::-1][..., ::-1],
        p,
        input_core_dims=[["x"]],
        output_core_dims=[["x"]],
        dask="allowed",
    ),
    "isel in another order": lambda p: p.isel(patch=slice(None, None, -1)),
    "isel by array": lambda p: p.isel(patch=np.random.default_rng(0).permutation(p.sizes["patch"])),
    "isel by DataArray": lambda p: p.isel(
        patch=xr.DataArray(np.arange(p.sizes["patch"])[::-1], dims="patch")
    ),
    "isel by mask": lambda p: p.isel(patch=np.ones(p.sizes["patch"], bool)),
    "sortby": lambda p: p.sortby("x_start"),
    "concat": lambda p: xr.concat([p[4:], p[:2], p[2:4]], "patch"),
    "transpose": lambda p: p.transpose("x", "y", "patch"),
    "expand and squeeze": lambda p: p.expand_dims("model").squeeze("model"),
    "to_dataset": lambda p: p.to_dataset(name="a")["a"],
    "to_dataset and to_dataarray": lambda p: (
        p.to_dataset(name="a").to_dataarray("band").isel(band=0, drop=True)
    ),
    "assign_coords": lambda p: p.assign_coords(score=("patch", np.arange(p.sizes["patch"]))),
    "assign_attrs": lambda p: p.assign_attrs(more=1),
    "rename of itself": lambda p: p.rename("other"),
    "astype": lambda p: p.astype("float64").astype("float32"),
    "pipe of xarray": lambda p: (p - p.mean(("y", "x"))) + p.mean(("y", "x")),
}


@pytest.mark.parametrize("operation", SAME.values(), ids=SAME.keys())
def test_stitch_needs_no_argument_after(patches, field, operation):
    back = operation(patches).geocat.stitch()
    assert back.dims == ("y", "x")
    np.testing.assert_allclose(back.values, field.values, rtol=2e-6)
    for name in ("y", "x", "spatial_ref"):
        assert back[name].identical(field[name])


SUBSETS = {
    "slice": lambda p: p.isel(patch=slice(2, 6)),
    "list": lambda p: p.isel(patch=[7, 1]),
    "one as a list": lambda p: p.isel(patch=[3]),
    "none": lambda p: p.isel(patch=[]),
    "repeated": lambda p: p.isel(patch=[2, 2, 5]),
    "mask": lambda p: p.isel(patch=(p["y_start"] > 0).values),
    "where drop": lambda p: p.where(p["x_start"] < 5, drop=True),
    "concat of parts": lambda p: xr.concat([p[6:8], p[:1]], "patch"),
    "dropna": lambda p: p.where(p["x_start"] < 5).dropna("patch"),
    "head": lambda p: p.head(patch=3),
}


@pytest.mark.parametrize("operation", SUBSETS.values(), ids=SUBSETS.keys())
def test_a_subset_goes_where_it_came_from(patches, field, operation):
    some = operation(patches)
    starts = list(zip(some["y_start"].values, some["x_start"].values, strict=True))
    reached = np.zeros(field.shape, bool)
    for y, x in starts:
        reached[y : y + 5, x : x + 5] = True
    back = some.geocat.stitch().values
    oracle.assert_close(back, np.where(reached, field.values, np.nan))


def test_the_start_coordinates_say_where_the_data_is_after_every_selection(numbered):
    patches = numbered((12, 14), 5).geocat.patch(4)
    for some in (
        patches[::-2],
        patches.isel(patch=[5, 1]),
        xr.concat([patches[3:], patches], "patch"),
    ):
        firsts = some.isel(y=0, x=0)
        np.testing.assert_array_equal(firsts.values, firsts["y_start"] * 14 + firsts["x_start"])


def test_a_dataset_of_patches_keeps_it_through_arithmetic_and_concat(positive):
    cube = xr.Dataset({"a": positive(), "b": positive(seed=1)})
    patches = cube.geocat.patch(5)
    again = xr.concat(
        [patches.isel(patch=slice(4)) * 2, patches.isel(patch=slice(4, None)) * 2], "patch"
    )
    for name in "ab":
        np.testing.assert_array_equal(again.geocat.stitch()[name], cube[name] * 2)


def test_patches_survive_groupby_along_patch(patches, field):
    rows = patches.groupby("y_start").map(lambda p: p * 1)
    np.testing.assert_allclose(rows.geocat.stitch().values, field.values, rtol=2e-6)


def test_bands_of_one_grid_mix(positive):
    red, nir = positive(seed=1), positive(seed=2)
    a, b = (f.geocat.patch(5, overlap=2) for f in (red, nir))
    ndvi = ((b - a) / (b + a)).geocat.stitch()
    np.testing.assert_allclose(ndvi.values, ((nir - red) / (nir + red)).values, rtol=1e-5)
    both = xr.concat([a, b], dim=xr.Variable("band", ["red", "nir"]))
    assert both.geocat.stitch().sizes == {"band": 2, "y": 12, "x": 14}
    assert set(xr.Dataset({"red": a, "nir": b}).geocat.stitch()) == {"red", "nir"}


def test_lazy_and_eager_patches_of_one_grid_mix(positive):
    field = positive()
    total = field.geocat.patch(5) + field.chunk(20).geocat.patch(5)
    np.testing.assert_array_equal(total.geocat.stitch().values, 2 * field.values)


# --- what it refuses ------------------------------------------------------------------------------

GRIDS = {
    "another patch size": lambda make: make().geocat.patch(4),
    "another shape": lambda make: make((12, 19)).geocat.patch(5),
    "another place": lambda make: make().assign_coords(x=make()["x"] + 1).geocat.patch(5),
    "another CRS": lambda make: make().odc.assign_crs("EPSG:32611").geocat.patch(5),
}


@pytest.mark.parametrize("other", GRIDS.values(), ids=GRIDS.keys())
@pytest.mark.parametrize(
    "mix",
    [
        lambda a, b: a + b,
        lambda a, b: xr.concat([a, b], "patch"),
        lambda a, b: xr.Dataset({"a": a, "b": b}),
        lambda a, b: xr.where(a > 0, a, b),
    ],
    ids=["arithmetic", "concat", "Dataset", "where"],
)
def test_patches_of_two_grids_refuse_to_mix(positive, other, mix):
    # Some of these xarray refuses itself, before it asks the index.
    with pytest.raises(ValueError, match=r"different grids do not mix|conflicting|exact"):
        mix(positive().geocat.patch(5), other(positive))


@pytest.mark.parametrize("other", GRIDS.values(), ids=GRIDS.keys())
def test_the_refusal_tells_the_two_grids_apart(positive, other):
    with pytest.raises(ValueError, match="different grids") as refusal:
        positive().geocat.patch(5) + other(positive)
    one, two = (
        str(refusal.value).split("one is tiled as ")[1].split(". Put")[0].split(", the other as ")
    )
    assert "y: 5 of 12 px, x: 5 of 14 px" in one
    assert one != two


def test_the_same_patches_in_another_order_refuse_arithmetic(patches):
    with pytest.raises(ValueError, match="in another order"):
        patches + patches[::-1]


def test_some_of_the_patches_refuse_arithmetic_with_all(patches):
    with pytest.raises(ValueError, match=r"different patches of one grid \(16 and 4"):
        patches + patches[:4]


def test_two_strides_of_one_grid_can_be_put_behind_each_other(positive):
    field = positive()
    both = xr.concat([field.geocat.patch(5), field.geocat.patch(5, overlap=3)], "patch")
    np.testing.assert_array_equal(both.geocat.stitch().values, field.values)


@pytest.mark.parametrize(
    "lose",
    [
        lambda p: p.drop_vars(["y_start", "x_start"]),
        lambda p: xr.DataArray(p.values, dims=p.dims),
        lambda p: p.mean("y").expand_dims(y=5).drop_vars(["y_start", "x_start"]),
    ],
)
def test_without_its_coordinates_stitch_says_what_is_missing(patches, lose):
    with pytest.raises(ValueError, match=r"no PatchIndex.*patch coordinates.*\.geocat\.patch"):
        lose(patches).geocat.stitch()


LOST = {
    "dropped": lambda p: p.drop_indexes(["y_start", "x_start"]),
    "dropped, in another order": lambda p: p.drop_indexes(["y_start", "x_start"])[::-1],
    "dropped, some of them": lambda p: xr.concat(
        [p.drop_indexes(["y_start", "x_start"])[k] for k in (slice(9, None), slice(9))], "patch"
    ),
    "starts as floats": lambda p: p.drop_indexes(["y_start", "x_start"]).assign_coords(
        x_start=("patch", p["x_start"].values.astype(float))
    ),
}


@pytest.mark.parametrize("lose", LOST.values(), ids=LOST.keys())
def test_a_lost_index_is_made_again_of_the_start_coordinates(patches, field, lose):
    without = lose(patches)
    assert not without.xindexes
    back = without.geocat.stitch()
    np.testing.assert_array_equal(back.values, field.values)
    for name in ("y", "x", "spatial_ref"):
        assert back[name].identical(field[name])


def test_a_field_that_was_never_cut_says_so(field):
    for action in (lambda f: f.geocat.stitch(), lambda f: f.geocat.map(np.negative)):
        with pytest.raises(ValueError, match="no PatchIndex: it was never cut"):
            action(field)


def test_a_single_patch_says_how_to_select_it(patches):
    with pytest.raises(ValueError, match="PatchIndex") as refusal:
        patches.isel(patch=0).geocat.stitch()
    assert "never cut" not in str(refusal.value)


@pytest.mark.parametrize("name", ["patch", "y_start"])
def test_what_stitch_needs_by_name_cannot_be_renamed(patches, name):
    with pytest.raises(ValueError, match=f"{name}.*cannot be renamed"):
        patches.rename({name: "other"})


def test_other_names_can_be_changed(positive):
    patches = positive((3, 9, 9), dims=("band", "y", "x")).geocat.patch(4)
    assert patches.rename(band="bands").geocat.stitch().dims == ("bands", "y", "x")


def test_averaging_over_patches_leaves_no_index_behind(patches):
    mean = patches.mean("patch")
    assert mean.dims == ("y", "x")
    assert not mean.xindexes


def test_the_index_prints_what_was_cut(patches):
    text = repr(patches.xindexes["y_start"])
    assert "16 patches" in text
    assert "5 of 12 px" in text


@pytest.mark.usefixtures("no_compute")
def test_working_with_the_index_computes_nothing(positive):
    patches = positive(chunks=5).geocat.patch(5, overlap=2)
    mixed = xr.concat([patches[3:], patches[:3]], "patch").isel(patch=slice(None, None, -1)) + 1
    assert isinstance((mixed * mixed).data, da.Array)
    assert pickle.loads(pickle.dumps(patches)).shape == patches.shape
    assert xgc.stitch(mixed).shape == (12, 14)
