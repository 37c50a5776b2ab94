"""What a model may answer: another grid, a number for each patch, fewer dims; and where it lies.

The oracles: odc-geo's own GeoBox arithmetic for grids, plain numpy and `oracle.stitch` for values.
"""

from __future__ import annotations

import math
import threading
from fractions import Fraction

import dask
import numpy as np
import odc.geo.xr
import pytest
import rasterio
import rioxarray  # noqa: F401 - registers .rio
import xarray as xr
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox
from zarr.storage import LocalStore

from tests.patching import oracle
from xgeocat.runs.store import write_zarr

#: Affine, CRS, and names of the dims. Numbers that are no sums of a few powers of two, too.
GRIDS = {
    "UTM": (Affine(10, 0, 500000, 0, -10, 4300000), "EPSG:32610", ("y", "x")),
    "pixels not square": (
        Affine(9.7, 0, 500000.3, 0, -12.1, 4300000.1),
        "EPSG:32610",
        ("y", "x"),
    ),
    "y ascending": (Affine(30, 0, 399960, 0, 30, 4190220), "EPSG:32633", ("y", "x")),
    "degrees": (
        Affine(1 / 3600, 0, -120.123456789, 0, -1 / 3600, 39.3),
        "EPSG:4326",
        ("latitude", "longitude"),
    ),
    "lat ascending": (Affine(0.1, 0, -180, 0, 0.1, -90), "EPSG:4326", ("lat", "lon")),
    "far from zero": (Affine(300, 0, -1e7 / 3, 0, -300, 1e7 / 7), "EPSG:3857", ("y", "x")),
    "rotated": (
        Affine.translation(500000, 4300000) @ Affine.rotation(30) @ Affine.scale(10, -10),
        "EPSG:32610",
        ("y", "x"),
    ),
}
AXIS_ALIGNED = [name for name in GRIDS if name != "rotated"]


def finer(k):
    """A model: every cell k times along the last two dims, each of its own value."""

    def model(batch):
        steps = np.arange(k * k, dtype=batch.dtype).reshape(k, k) / 8
        return np.kron(batch, np.ones((k, k), batch.dtype)) + np.tile(steps, batch.shape[-2:])

    return model


def coarser(k):
    """A model: means of k by k cells."""

    def model(batch):
        *rest, ny, nx = batch.shape
        return batch.reshape(*rest, ny // k, k, nx // k, k).mean((-3, -1))

    return model


def means(batch):
    return batch.mean((-2, -1))


def moments(batch):
    return np.stack([batch.mean((-2, -1)), batch.max((-2, -1)), batch.min((-2, -1))], axis=1)


@pytest.fixture(scope="module")
def field_on():
    """Factory of fields on a grid by name."""

    def make(grid="UTM", shape=(48, 60), chunks=None, dtype="float64", seed=0):
        affine, crs, dims = GRIDS[grid]
        box = GeoBox(shape, affine, crs)
        values = np.random.default_rng(seed).uniform(1, 200, shape).astype(dtype)
        coords = odc.geo.xr.xr_coords(box, dims=dims)
        field = xr.DataArray(values, dims=dims, coords=coords, name="made")
        return (field if chunks is None else field.chunk(chunks)), box

    return make


@pytest.fixture(scope="module")
def counted(counting):
    """Factory of models that count what they see, and answer as another model does."""

    def make(model):
        count = counting()

        class Counted:
            seen = count.seen
            lock = threading.Lock()

            def __call__(self, batch):
                return model(count(batch))

            def __dask_tokenize__(self):
                return "counted", id(self)

        return Counted()

    return make


def geotransform(field):
    """The transform that GDAL reads, from the text that says it."""
    mapping = next(c for c in field.coords.values() if "crs_wkt" in c.attrs)
    return Affine.from_gdal(*map(float, mapping.attrs["GeoTransform"].split()))


def assert_on(field, want, exact=True):
    """The field lies on a geobox, to the last bit, for odc-geo, rioxarray and GDAL."""
    found = field.odc.geobox
    assert found.shape == want.shape
    assert found.crs == want.crs
    assert field.rio.crs == rasterio.crs.CRS.from_wkt(want.crs.to_wkt())
    said = geotransform(field)
    if exact:
        assert tuple(found.affine) == tuple(want.affine)
        assert tuple(said) == tuple(want.affine)
    cell = 1e-9 * max(map(abs, (want.affine.a, want.affine.b, want.affine.e)))
    corners = [(0, 0), tuple(want.shape[::-1]), (want.shape[1], 0)]
    for read in (found.affine, said, field.rio.transform()):
        for corner in corners:
            assert read @ corner == pytest.approx(want.affine @ corner, rel=1e-14, abs=cell)


# --- where finer, coarser and single answers lie --------------------------------------------------


@pytest.mark.parametrize("k", [2, 3, 4])
@pytest.mark.parametrize("grid", GRIDS)
def test_a_finer_grid_is_the_one_odc_makes(field_on, grid, k):
    field, _ = field_on(grid)
    stitched = field.geocat.patch(12, overlap=4).geocat.map(finer(k)).geocat.stitch()
    assert stitched.dims == field.dims
    assert_on(stitched, field.odc.geobox.zoom_to(shape=(48 * k, 60 * k)))


@pytest.mark.parametrize("k", [2, 3, 4])
@pytest.mark.parametrize("shape", [(48, 60), (50, 61), (5, 7)], ids=["whole", "rest", "small"])
@pytest.mark.parametrize("grid", GRIDS)
def test_a_coarser_grid_is_the_one_odc_makes(field_on, grid, shape, k):
    field, _ = field_on(grid, shape)
    stitched = field.geocat.patch(12, boundary="pad").geocat.map(coarser(k)).geocat.stitch()
    parent = field.odc.geobox
    want = GeoBox([-(-n // k) for n in shape], parent.affine @ Affine.scale(k), parent.crs)
    if not any(n % k for n in shape):
        assert want == parent.zoom_out(k)
    assert_on(stitched, want)


@pytest.mark.parametrize("stride", [12, 8, 5, 15], ids=["touching", "overlap", "odd", "gaps"])
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("model", [means, moments])
def test_one_cell_per_patch_is_a_stride_long_and_in_its_middle(field_on, grid, stride, model):
    field, _ = field_on(grid)
    patches = field.geocat.patch(12, stride=stride, boundary="drop")
    stitched = patches.geocat.map(model).geocat.stitch()
    parent = field.odc.geobox
    counts = [1 + (n - 12) // stride for n in (48, 60)]
    edge = (12 - stride) / 2
    moved = Affine.translation(edge, edge) @ Affine.scale(stride)
    assert_on(stitched, GeoBox(counts, parent.affine @ moved, parent.crs))
    for row in range(counts[0]):
        window = parent[row * stride : row * stride + 12, 0:12]
        middle = window.affine @ (6, 6)
        assert stitched.odc.geobox.affine @ (0.5, row + 0.5) == pytest.approx(middle, rel=1e-14)


@pytest.mark.parametrize("shape", [(12, 12), (12, 36), (36, 12)])
def test_a_field_of_one_patch_or_one_row_of_patches_keeps_its_scale(field_on, shape):
    field, box = field_on(shape=shape)
    stitched = field.geocat.patch(12).geocat.map(means).geocat.stitch()
    assert_on(stitched, box.zoom_out(12))


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("shape", [(1, 9), (9, 1), (1, 1)])
def test_a_field_of_one_pixel_a_side_can_be_made_finer(field_on, shape, k):
    field, box = field_on(shape=shape)
    size = {d: min(3, n) for d, n in field.sizes.items()}
    stitched = field.geocat.patch(size).geocat.map(finer(k)).geocat.stitch()
    assert_on(stitched, box.zoom_to(shape=[n * k for n in shape]))


@pytest.mark.parametrize("model", [finer(2), coarser(2), means], ids=["finer", "coarser", "one"])
def test_a_window_of_a_larger_field_lies_where_the_window_lies(field_on, model):
    field, box = field_on(shape=(80, 90))
    # xarray leaves the text of the transform as it was: it still says where the larger field lies.
    part = field.isel(y=slice(8, 56), x=slice(30, 90))
    stitched = part.geocat.patch(12).geocat.map(model).geocat.stitch()
    assert_on(stitched, box[8:56, 30:90].zoom_out(60 / stitched.sizes["x"]))


@pytest.mark.parametrize("write", ["crs", "spatial_ref"])
@pytest.mark.parametrize("coords", [True, False], ids=["coords", "transform only"])
def test_a_field_as_rioxarray_makes_it_can_be_made_finer(field_on, write, coords):
    field, box = field_on()
    plain = xr.DataArray(field.values, dims=("y", "x"))
    if coords:
        plain = plain.assign_coords(y=field["y"].values, x=field["x"].values)
    plain = plain.rio.write_crs("EPSG:32610", grid_mapping_name=write)
    plain = plain.rio.write_transform(box.affine, grid_mapping_name=write)
    stitched = plain.geocat.patch(12).geocat.map(finer(2)).geocat.stitch()
    assert {c for c in stitched.coords if "crs_wkt" in stitched[c].attrs} == {write}
    assert_on(stitched, box.zoom_out(0.5))


def test_only_one_of_the_dims_may_be_finer_when_it_is_named(field_on):
    field, box = field_on()
    answers = field.geocat.patch(12, overlap=4).geocat.map(
        lambda b: np.repeat(b, 3, axis=-1), dims=("y", "x")
    )
    stitched = answers.geocat.stitch()
    np.testing.assert_allclose(stitched.values, np.repeat(field.values, 3, axis=1), rtol=1e-14)
    assert_on(stitched, GeoBox((48, 180), box.affine @ Affine.scale(1 / 3, 1), box.crs))


def test_one_dim_of_the_map_may_be_missing_when_the_other_is_named(field_on):
    field, box = field_on()
    answers = field.geocat.patch(12).geocat.map(lambda b: b.mean(1), dims=("x",))
    stitched = answers.geocat.stitch()
    want = field.values.reshape(4, 12, 60).mean(1)
    np.testing.assert_allclose(stitched.values, want, rtol=1e-14)
    assert_on(stitched, GeoBox((4, 60), box.affine @ Affine.scale(1, 12), box.crs))


# --- values, against plain numpy ------------------------------------------------------------------


def padded(values, start, size):
    """One patch by plain slices, what lies beyond the field by reflection."""
    cut, missing = [], []
    for s, k, n in zip(start, size, values.shape, strict=True):
        cut.append(slice(max(s, 0), min(s + k, n)))
        missing.append((max(-s, 0), max(s + k - n, 0)))
    return np.pad(values[tuple(cut)], missing, mode="reflect")


@st.composite
def layouts(draw, kind):
    """Shape, size, stride, boundary, k and chunks that fit answers of a kind."""
    k = draw(st.integers(2, 4))
    unit = k if kind == "coarser" else 1
    size = tuple(unit * draw(st.integers(1 if unit > 1 else 2, 4)) for _ in range(2))
    stride = tuple(unit * draw(st.integers(1, s // unit + 1)) for s in size)
    # A patch is reflected from its own cells, so it must not lie beyond the field by much.
    shape = tuple(s + draw(st.integers(0, 3 * s)) for s in size)
    boundaries = ["shift", "pad", "drop"] if kind == "finer" else ["pad", "drop"]
    chunks = draw(st.sampled_from([None, 5, 8, 100]))
    return k, size, stride, shape, draw(st.sampled_from(boundaries)), chunks


@pytest.mark.parametrize("kind", ["finer", "coarser", "one"])
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_values_are_those_of_layers_over_the_whole_field(field_on, kind, data):
    k, size, stride, shape, boundary, chunks = data.draw(layouts(kind))
    window = data.draw(st.sampled_from(["boxcar", "hann", ("tukey", 0.5), "gaussian"]))
    reduce = data.draw(st.sampled_from(["mean", "max", "sum", "first"]))
    window = window if reduce == "mean" else "boxcar"
    scale = {"finer": Fraction(k), "coarser": Fraction(1, k)}.get(kind)
    sizes = tuple(1 if scale is None else int(n * scale) for n in size)
    crop = data.draw(st.integers(0, (min(sizes) - 1) // 2))
    model = {"finer": finer(k), "coarser": coarser(k), "one": means}[kind]
    field, _ = field_on(shape=shape, chunks=chunks, seed=data.draw(st.integers(0, 5)))
    values = field.values.copy()
    if data.draw(st.booleans()):
        values[np.random.default_rng(0).random(shape) < 0.1] = np.nan
        field = field.copy(data=values if chunks is None else dask.array.from_array(values, chunks))

    patches = field.geocat.patch(
        dict(zip("yx", size, strict=True)),
        stride=dict(zip("yx", stride, strict=True)),
        boundary=boundary,
    )
    got = patches.geocat.map(model).geocat.stitch(window=window, reduce=reduce, crop=crop)

    starts = sorted(oracle.grid(shape, size, stride, boundary))
    answers = [model(padded(values, start, size)[None])[0] for start in starts]
    if kind == "one":
        where = [[s // t for s, t in zip(start, stride, strict=True)] for start in starts]
        lengths = [
            len(oracle.starts(*axis, boundary)) for axis in zip(shape, size, stride, strict=True)
        ]
        answers = [a.reshape(1, 1) for a in answers]
    else:
        where = [[int(s * scale) for s in start] for start in starts]
        lengths = [math.ceil(n * scale) for n in shape]
    want, reached = oracle.stitch(
        np.array(answers),
        where,
        lengths,
        window_name=window,
        reduce=reduce,
        crop=(crop, crop),
    )
    assert got.shape == tuple(lengths)
    # Sums of many terms, and weights, each rounded; the oracle sums in long doubles.
    known = np.where(reached, want, np.nan).astype(float)
    np.testing.assert_allclose(got.values, known, rtol=1e-12)


@pytest.mark.parametrize("chunks", [None, 16, 100])
@pytest.mark.parametrize("k", [2, 3])
def test_other_channels_ride_along_on_a_finer_grid(field_on, k, chunks):
    field, box = field_on(chunks=chunks)

    def classes(batch):
        return np.stack([finer(k)(batch), -finer(k)(batch), finer(k)(batch) * 0], axis=1)

    stitched = field.geocat.patch(12, overlap=3).geocat.map(classes).geocat.stitch(window="hann")
    assert stitched.dims == ("band", "y", "x")
    alone = field.geocat.patch(12, overlap=3).geocat.map(finer(k)).geocat.stitch(window="hann")
    np.testing.assert_array_equal(stitched[0].values, alone.values)
    np.testing.assert_array_equal(stitched[1].values, -alone.values)
    assert_on(stitched, box.zoom_to(shape=(48 * k, 60 * k)))


MODELS = {
    "same": (lambda b: b * 2, "shift"),
    "channels": (lambda b: np.stack([b, -b], 1), "shift"),
    "finer": (finer(3), "shift"),
    "coarser": (coarser(2), "pad"),
    "vectors": (moments, "pad"),
    "values": (means, "drop"),
}


@pytest.mark.parametrize("chunks", [16, (20, 25), {"y": (7, 41), "x": 60}, 100])
@pytest.mark.parametrize(("model", "boundary"), MODELS.values(), ids=MODELS.keys())
def test_lazy_answers_are_bit_by_bit_the_eager_ones(field_on, model, boundary, chunks):
    field, _ = field_on()

    def predict(source):
        patches = source.geocat.patch(12, overlap=4, boundary=boundary)
        return patches.geocat.map(model, batch_size=5).geocat.stitch(window="hann")

    lazy = predict(
        field.chunk(dict(zip("yx", chunks, strict=True)) if isinstance(chunks, tuple) else chunks)
    )
    assert dask.is_dask_collection(lazy)
    xr.testing.assert_identical(lazy.compute(), predict(field))


@pytest.mark.parametrize("order", ["shuffled", "repeated"])
@pytest.mark.parametrize(("model", "boundary"), MODELS.values(), ids=MODELS.keys())
def test_the_order_of_answers_changes_nothing(field_on, model, boundary, order):
    field, _ = field_on()
    answers = field.geocat.patch(12, overlap=4, boundary=boundary).geocat.map(model)
    n = answers.sizes["patch"]
    picked = np.random.default_rng(0).permutation(n)
    picked = np.concatenate([picked, picked[:4]]) if order == "repeated" else picked
    want = answers.geocat.stitch(reduce="max")
    xr.testing.assert_identical(answers.isel(patch=picked).geocat.stitch(reduce="max"), want)


@pytest.mark.parametrize("chunks", [None, 16])
@pytest.mark.parametrize(
    ("model", "factor"),
    [(finer(2), 2), (coarser(2), 1 / 2), (means, 1 / 12)],
    ids=["finer", "coarser", "one"],
)
def test_some_of_the_answers_leave_the_other_cells_unknown(field_on, model, factor, chunks):
    field, _ = field_on(chunks=chunks)
    answers = field.geocat.patch(12).geocat.map(model)
    keep = np.array([(y // 12 + x // 12) % 2 == 0 for y, x in starts_of(answers)])
    some = answers.isel(patch=keep).geocat.stitch()
    assert some.shape == tuple(int(n * factor) for n in (48, 60))
    cells = max(int(12 * factor), 1)
    rows, columns = np.indices(some.shape) // cells
    want = np.where((rows + columns) % 2 == 0, answers.geocat.stitch().values, np.nan)
    np.testing.assert_array_equal(some.values, want)


def starts_of(patches):
    return np.stack([patches[f"{d}_start"].values for d in "yx"], axis=-1).tolist()


@pytest.mark.parametrize("chunks", [None, 16])
@pytest.mark.parametrize("model", [coarser(3), finer(2), means], ids=["coarser", "finer", "one"])
def test_labels_need_a_fill_where_drop_leaves_cells_out(field_on, model, chunks):
    field, _ = field_on(shape=(50, 61), chunks=chunks)
    answers = field.geocat.patch(12, stride=6, boundary="drop").geocat.map(
        lambda b: model(b).astype("uint8")
    )
    if model is means:
        # There every cell is that of a patch.
        assert answers.geocat.stitch(reduce="first").dtype == "uint8"
        return
    with pytest.raises(ValueError, match=r"no patch.*uint8.*stitch\(fill=\.\.\.\)"):
        answers.geocat.stitch(reduce="vote")
    labels = answers.geocat.stitch(reduce="vote", fill=255)
    assert labels.dtype == "uint8"
    assert labels.attrs["nodata"] == 255
    beyond = (labels.odc.geobox.affine.a / 10) * np.arange(labels.sizes["y"]) >= 48
    np.testing.assert_array_equal((labels == 255).all("x").values, beyond)


def test_a_crop_counts_cells_of_the_answers(field_on):
    field, _ = field_on()
    answers = field.geocat.patch(12, overlap=6).geocat.map(lambda b: finer(2)(b * 0))
    marked = answers.copy(data=np.full(answers.shape, 7.0))
    marked.values[:, 3:-3, 3:-3] = 1
    stitched = marked.geocat.stitch(crop=3).values
    assert (stitched[3:-3, 3:-3] == 1).all()
    # On the edge of the field the margin stays: no other patch could answer there.
    assert (stitched[:3] == 7).all()
    with pytest.raises(ValueError, match=r"crop=12 .*patch of 24 px.*0\.\.11"):
        marked.geocat.stitch(crop=12)


@pytest.mark.parametrize("boundary", ["shift", "pad"])
def test_coverage_counts_answers_on_their_own_grid(field_on, boundary):
    field, box = field_on(shape=(50, 61))
    found = (
        field.geocat.patch(12, overlap=4, boundary=boundary)
        .geocat.map(finer(2))
        .geocat.stitch(coverage=True)
    )
    want = np.zeros((100, 122))
    for y, x in oracle.grid((50, 61), (12, 12), (8, 8), boundary):
        want[2 * y : 2 * y + 24, 2 * x : 2 * x + 24] += 1
    np.testing.assert_array_equal(found["coverage"].values, want)
    assert_on(found["coverage"], box.zoom_to(shape=(100, 122)))


# --- laziness -------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_compute")
@pytest.mark.parametrize(("model", "boundary"), MODELS.values(), ids=MODELS.keys())
def test_nothing_is_computed_before_it_is_asked_for(field_on, counted, model, boundary):
    field, _ = field_on(chunks=16)
    count = counted(model)
    patches = field.geocat.patch(12, overlap=4, boundary=boundary)
    answers = patches.geocat.map(count)
    # A model that cannot take a batch of no patches is asked with one that is made of ones.
    assert set(count.seen) <= {1.0}
    count.seen.clear()
    stitched = answers.geocat.stitch(window="hann")
    stitched.isel(x=slice(0, 3)), repr(stitched), stitched.odc.geobox
    assert count.seen == []


@pytest.mark.parametrize("crop", [0, 1])
@pytest.mark.parametrize(
    "corner",
    [
        (slice(0, 3), slice(0, 3)),
        (slice(7, 9), slice(10, 14)),
        (-1, -1),
        (slice(None), slice(5, 6)),
        ([1, 4], slice(None, None, 4)),
    ],
)
@pytest.mark.parametrize("kind", ["finer", "coarser", "one"])
def test_a_corner_runs_the_model_only_on_patches_that_reach_it(
    numbered, counted, kind, corner, crop
):
    shape, size, stride = (48, 60), 12, 8
    model, scale = {
        "finer": (finer(2), Fraction(2)),
        "coarser": (coarser(4), Fraction(1, 4)),
        "one": (means, None),
    }[kind]
    crop = 0 if kind == "one" else crop
    count = counted(model)
    patches = numbered(shape, 16).geocat.patch(size, stride=stride, boundary="pad")
    field = patches.geocat.map(count).geocat.stitch(crop=crop)
    count.seen.clear()
    whole = field.compute(scheduler="sync")
    assert len(count.seen) == len(set(count.seen)) == patches.sizes["patch"]
    count.seen.clear()
    part = dict(zip("yx", corner, strict=True))
    np.testing.assert_array_equal(field.isel(part).compute(scheduler="sync"), whole.isel(part))

    wanted = np.zeros(whole.shape, bool)
    wanted[
        np.ix_(*(np.atleast_1d(np.arange(n)[c]) for n, c in zip(whole.shape, corner, strict=True)))
    ] = True
    needed = set()
    for start in oracle.grid(shape, (size, size), (stride, stride), "pad"):
        at = [s // stride if scale is None else int(s * scale) for s in start]
        edge = 1 if scale is None else int(size * scale)
        lo, hi = oracle.box(at, (edge, edge), whole.shape, (crop, crop))
        if wanted[lo[0] : hi[0], lo[1] : hi[1]].any():
            needed.add(float(np.ravel_multi_index(start, shape)))
    assert set(count.seen) == needed
    assert len(count.seen) == len(needed)


# --- a window over time ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def series(field_on):
    """Factory of fields over time, whose days are not evenly spaced."""

    def make(steps=9, shape=(70, 90), chunks=None, order=("time", "y", "x")):
        field, box = field_on(shape=shape)
        values = np.random.default_rng(3).uniform(1, 200, (steps, *shape))
        days = np.cumsum(np.arange(1, steps + 1)) * np.timedelta64(1, "D")
        cube = xr.DataArray(
            values,
            dims=("time", "y", "x"),
            coords={
                "time": np.datetime64("2024-01-01", "ns") + days,
                "orbit": ("time", np.arange(steps) % 2),
                "y": field["y"],
                "x": field["x"],
                "spatial_ref": field["spatial_ref"],
            },
        ).transpose(*order)
        return (cube if chunks is None else cube.chunk(chunks)), box

    return make


@pytest.mark.parametrize("chunks", [None, {"time": 2, "y": 40, "x": 40}, {"time": 1}])
@pytest.mark.parametrize("boundary", ["shift", "pad", "drop"])
def test_a_lookback_is_a_rolling_loop_and_carries_the_last_time(series, chunks, boundary):
    cube, box = series(chunks=chunks)
    patches = cube.geocat.patch(
        {"time": 3, "y": 64, "x": 64}, stride={"time": 1, "y": 48, "x": 48}, boundary=boundary
    )
    # As the design says it: a model that weighs what led up to the last step.
    weigh = np.array([0.2, 0.3, 0.5]).reshape(3, 1, 1)
    field = patches.geocat.map(lambda b: (b * weigh).sum(1)).geocat.stitch(window="hann")
    assert field.dims == ("time", "y", "x")
    np.testing.assert_array_equal(field["time"], cube["time"][2:])
    values = cube.values
    want = np.stack([(values[t - 2 : t + 1] * weigh).sum(0) for t in range(2, 9)])
    if boundary == "drop":
        want[:, 64:] = np.nan
        want[:, :, 64:] = np.nan
    np.testing.assert_allclose(field.values, want, rtol=1e-12)
    assert_on(field, box)


@pytest.mark.parametrize("chunks", [None, {"time": 2}])
@pytest.mark.parametrize(("size", "stride"), [(3, 2), (2, 2), (4, 5), (9, 1), (1, 1), (1, 4)])
def test_steps_between_windows_may_be_left_out(series, size, stride, chunks):
    cube, _ = series(chunks=chunks)
    patches = cube.geocat.patch(
        {"time": size, "y": 32, "x": 32}, stride={"time": stride, "y": 32, "x": 32}, boundary="pad"
    )
    last = list(range(size - 1, 9, stride))
    inside = patches.isel(patch=(patches["time_start"] + size <= 9).values)
    if patches.sizes["patch"] != inside.sizes["patch"]:
        with pytest.raises(ValueError, match=r"past the end of 'time'.*'drop'"):
            patches.geocat.map(lambda b: b.mean(1)).geocat.stitch()
        patches = cube.geocat.patch(
            {"time": size, "y": 35, "x": 45},
            stride={"time": stride, "y": 35, "x": 45},
            boundary="drop",
        )
    field = patches.geocat.map(lambda b: b.mean(1)).geocat.stitch()
    np.testing.assert_array_equal(field["time"], cube["time"].values[last])
    want = np.stack([cube.values[t - size + 1 : t + 1].mean(0) for t in last])
    np.testing.assert_allclose(field.values, want, rtol=1e-12)


def test_a_lookback_with_bands_gives_the_bands_of_the_model(series):
    cube, _ = series()
    bands = xr.Dataset({"red": cube, "nir": cube + 1})
    seen = []

    def model(batch):
        seen.append(batch.shape[1:])
        return np.concatenate([batch[:, :, -1], batch[:, :1, 0], batch[:, 1:, 0]], axis=1)

    patches = bands.geocat.patch({"time": 3, "y": 35, "x": 45}, stride={"time": 1})
    field = patches.geocat.map(model).geocat.stitch()
    assert set(seen) == {(2, 3, 35, 45)}
    assert set(field.dims) == {"band", "time", "y", "x"}
    got = field.transpose("band", "time", "y", "x")
    assert got.shape == (4, 7, 70, 90)
    np.testing.assert_array_equal(got[1].values, cube.values[2:] + 1)
    np.testing.assert_array_equal(got[2].values, cube.values[:-2])


def test_the_order_of_dims_of_the_field_is_kept(series):
    cube, _ = series(order=("y", "x", "time"))
    patches = cube.geocat.patch({"time": 3, "y": 35, "x": 45}, stride={"time": 1})
    assert patches.dims == ("patch", "y", "x", "time")
    field = patches.geocat.map(lambda b: b.mean(-1), dims=("y", "x")).geocat.stitch()
    assert field.dims == ("y", "x", "time")
    np.testing.assert_array_equal(field["time"], cube["time"][2:])


def test_a_corner_in_time_runs_the_model_for_that_time_only(series, counted):
    cube, _ = series(shape=(32, 48), chunks={"time": 2, "y": 16, "x": 16})
    count = counted(lambda b: b.mean(1))
    field = (
        cube.geocat.patch({"time": 3, "y": 16, "x": 16}, stride={"time": 1})
        .geocat.map(count)
        .geocat.stitch()
    )
    count.seen.clear()
    one = field.sel(time=cube["time"][4]).isel(y=slice(0, 16)).compute(scheduler="sync")
    np.testing.assert_allclose(one.values, cube.values[2:5, :16].mean(0), rtol=1e-14)
    assert sorted(count.seen) == sorted(cube.values[2, 0, ::16].tolist())


@pytest.mark.parametrize("x", [48, 45, 47])
def test_answers_without_the_only_cut_dim_are_the_dims_that_rode_along(series, x):
    cube, _ = series(shape=(30, x))
    patches = cube.geocat.patch({"time": 3}, stride=1)
    assert patches.dims == ("patch", "y", "x", "time")
    answers = patches.geocat.map(lambda b: b.mean(-1))
    assert answers.dims == ("patch", "y", "x")
    field = answers.geocat.stitch()
    assert field.sizes == {"time": 7, "y": 30, "x": x}
    want = np.stack([cube.values[t - 2 : t + 1].mean(0) for t in range(2, 9)])
    np.testing.assert_allclose(field.transpose("time", "y", "x").values, want, rtol=1e-14)


# --- any dims -------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunks", [None, 7])
@pytest.mark.parametrize("k", [2, 3])
def test_one_dim_alone_can_be_finer_and_coarser(k, chunks):
    depth = xr.DataArray(
        np.random.default_rng(0).normal(size=36), dims="z", coords={"z": 5 + 0.25 * np.arange(36)}
    )
    field = depth if chunks is None else depth.chunk(chunks)
    patches = field.geocat.patch({"z": 12})
    up = patches.geocat.map(lambda b: np.repeat(b, k, -1)).geocat.stitch()
    np.testing.assert_array_equal(up.values, np.repeat(depth.values, k))
    # The cells of the new grid fill those of the old: the same edges, and centres between.
    edges = np.linspace(4.875, 13.875, 36 * k + 1)
    np.testing.assert_allclose(up["z"], (edges[1:] + edges[:-1]) / 2, rtol=1e-14)
    down = patches.geocat.map(lambda b: b.reshape(len(b), -1, k).mean(-1)).geocat.stitch()
    np.testing.assert_allclose(down.values, depth.values.reshape(-1, k).mean(-1), rtol=1e-14)
    np.testing.assert_allclose(down["z"], depth["z"].values.reshape(-1, k).mean(-1), rtol=1e-14)


@pytest.mark.parametrize("chunks", [None, {"z": 5, "y": 9, "x": 20}])
def test_three_dims_can_be_finer_at_once(field_on, chunks):
    flat, box = field_on(shape=(24, 36))
    levels = xr.Variable("z", 10.0 + 2 * np.arange(12))
    cube = (flat * xr.DataArray(np.arange(1.0, 13), dims="z", coords={"z": levels})).transpose(
        "z", "y", "x"
    )
    source = cube if chunks is None else cube.chunk(chunks)
    answers = source.geocat.patch({"z": 6, "y": 12, "x": 12}, overlap=3).geocat.map(
        lambda b: b.repeat(2, 1).repeat(2, 2).repeat(2, 3)
    )
    field = answers.geocat.stitch()
    want = cube.values.repeat(2, 0).repeat(2, 1).repeat(2, 2)
    np.testing.assert_allclose(field.values, want, rtol=1e-14)
    np.testing.assert_allclose(field["z"], 9.5 + np.arange(24), rtol=1e-14)
    assert_on(field, box.zoom_out(0.5))


def test_a_field_without_a_crs_gets_even_coordinates(field_on):
    field, _ = field_on()
    plain = field.drop_vars("spatial_ref")
    for name in "yx":
        plain[name].attrs.clear()
    up = plain.geocat.patch(12).geocat.map(finer(2)).geocat.stitch()
    np.testing.assert_allclose(up["x"], 500002.5 + 5 * np.arange(120), rtol=1e-15)
    np.testing.assert_allclose(up["y"], 4299997.5 - 5 * np.arange(96), rtol=1e-15)
    bare = plain.drop_vars(["y", "x"]).geocat.patch(12).geocat.map(finer(2)).geocat.stitch()
    assert bare.shape == (96, 120)
    assert not set(bare.coords) & {"y", "x"}


@pytest.mark.parametrize(
    "values",
    [
        np.array([0, 1, 3, 4.0] * 3) + np.arange(12) * 9,
        np.datetime64("2024-01-01", "ns") + np.arange(12),
        np.array(list("abcdefghijkl")),
    ],
    ids=["irregular", "times", "words"],
)
def test_coordinates_that_cannot_be_divided_are_refused_with_what_to_do(values):
    line = xr.DataArray(np.arange(12.0), dims="z", coords={"z": values})
    answers = line.geocat.patch({"z": 4}).geocat.map(lambda b: np.repeat(b, 2, -1))
    with pytest.raises(ValueError, match=r"'z'.*evenly.*\.drop_vars\('z'\)"):
        answers.geocat.stitch()
    bare = line.drop_vars("z").geocat.patch({"z": 4}).geocat.map(lambda b: np.repeat(b, 2, -1))
    np.testing.assert_array_equal(bare.geocat.stitch().values, np.repeat(np.arange(12.0), 2))


@pytest.mark.parametrize("model", [finer(2), coarser(2), means], ids=["finer", "coarser", "one"])
def test_other_coordinates_stay_where_they_still_hold(field_on, model):
    field, _ = field_on()
    cube = field.expand_dims(level=[10, 20]).assign_coords(
        lon=(("y", "x"), field.values),
        name=("level", ["low", "high"]),
        row=("y", np.arange(48)),
        scene="S2A",
    )
    answers = cube.geocat.patch(12).geocat.map(
        model, dims=("level",) if model is means else ("level", "y", "x")
    )
    stitched = answers.geocat.stitch()
    assert set(stitched.coords) == {"y", "x", "spatial_ref", "level", "name", "scene"}
    assert stitched["name"].values.tolist() == ["low", "high"]
    assert stitched["scene"].item() == "S2A"


# --- what an answer is taken for ------------------------------------------------------------------


@pytest.mark.parametrize("chunks", [None, 16])
@pytest.mark.parametrize("n", [1, 2, 4, 6, 8, 11, 12, 13, 24, 60])
def test_a_vector_per_patch_is_a_vector_whatever_its_length(field_on, n, chunks):
    field, _ = field_on(chunks=chunks)
    answers = field.geocat.patch(12).geocat.map(lambda b: np.ones((len(b), n)))
    assert answers.dims == ("patch", "feature")
    assert answers.sizes["feature"] == n


@pytest.mark.parametrize("chunks", [None, 16])
@pytest.mark.parametrize(
    "model",
    [
        lambda b: np.repeat(b, 2, axis=1),
        lambda b: b[:, ::4],
        lambda b: b[:, :5],
        lambda b: b[:, :, :5],
        lambda b: np.repeat(b, 2, axis=1)[:, :, ::2],
    ],
    ids=["twice as high", "a quarter as high", "cropped in y", "cropped in x", "mixed"],
)
def test_a_grid_that_fits_in_one_dim_only_is_not_taken_for_channels(field_on, model, chunks):
    field, _ = field_on(chunks=chunks)
    with pytest.raises(ValueError, match=r"patches of shape \(12, 12\).*dims="):
        field.geocat.patch(12).geocat.map(model)


@pytest.mark.parametrize("chunks", [None, 256])
@pytest.mark.parametrize("cut", [6, 1], ids=["244", "254"])
def test_a_valid_convolution_is_refused_with_both_shapes(field_on, counted, chunks, cut):
    field, _ = field_on(shape=(256, 300), chunks=chunks)
    inner = 256 - 2 * cut
    with pytest.raises(
        ValueError, match=rf"\(256, 256\).*\({inner}, {inner}\).*k times finer or coarser.*dims="
    ):
        field.geocat.patch(256).geocat.map(lambda b: b[:, cut:-cut, cut:-cut])


def test_naming_the_dims_does_not_put_a_valid_convolution_on_a_grid(field_on):
    field, _ = field_on(shape=(256, 300))
    answers = field.geocat.patch(256).geocat.map(lambda b: b[:, 6:-6, 6:-6], dims=("y", "x"))
    with pytest.raises(ValueError, match=r"244 cells along 'y' for patches of 256.*pad what"):
        answers.geocat.stitch()


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize("chunks", [None, 16])
@pytest.mark.parametrize(
    ("stride", "boundary", "k", "where"),
    [
        (9, "pad", 2, 9),
        (9, "drop", 4, 9),
        (12, "shift", 3, 38),
        (12, "shift", 2, 49),
        (6, "pad", 4, 6),
    ],
)
def test_coarser_cells_must_meet_the_starts_of_patches(
    field_on, stride, boundary, k, where, chunks
):
    field, _ = field_on(shape=(50, 61), chunks=chunks)
    answers = field.geocat.patch(12, stride=stride, boundary=boundary).geocat.map(coarser(k))
    with pytest.raises(
        ValueError, match=rf"{k} times coarser.*starts at {where}, .*no multiple of {k}.*'pad'"
    ):
        answers.geocat.stitch()


@pytest.mark.parametrize("chunks", [None, 16])
@pytest.mark.parametrize("model", [means, moments])
@pytest.mark.parametrize("stride", [12, 8, 5])
def test_one_answer_per_patch_needs_a_regular_grid(field_on, model, stride, chunks):
    field, _ = field_on(shape=(50, 61), chunks=chunks)
    answers = field.geocat.patch(12, stride=stride).geocat.map(model)
    message = rf"one answer per patch.*starts at 38.*every {stride} cells.*'pad'.*to_geodataframe"
    with pytest.raises(ValueError, match=message):
        answers.geocat.stitch()
    assert len(answers.geocat.to_geodataframe()) == answers.sizes["patch"]


@pytest.mark.parametrize("model", [means, coarser(2)], ids=["one", "coarser"])
def test_shift_is_no_obstacle_where_nothing_is_shifted(field_on, model):
    field, _ = field_on(shape=(48, 60))
    shift = field.geocat.patch(12).geocat.map(model).geocat.stitch()
    xr.testing.assert_identical(
        shift, field.geocat.patch(12, boundary="raise").geocat.map(model).geocat.stitch()
    )


# --- kept by storage ------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", AXIS_ALIGNED)
@pytest.mark.parametrize(
    ("model", "chunks"),
    [(finer(3), None), (finer(3), 16), (coarser(4), 16), (moments, 16), (means, None)],
    ids=["finer", "finer lazy", "coarser", "vectors", "values"],
)
def test_what_is_written_lies_where_it_lay(tmp_path, field_on, grid, model, chunks):
    field, _ = field_on(grid, chunks=chunks)
    stitched = field.geocat.patch(12).geocat.map(model).geocat.stitch()
    want = stitched.odc.geobox
    assert write_zarr(stitched.to_dataset(name="made"), LocalStore(tmp_path / "made.zarr")) == want
    with xr.open_zarr(tmp_path / "made.zarr", consolidated=False, decode_coords="all") as opened:
        again = opened["made"]
        np.testing.assert_array_equal(again.values, stitched.values)
        assert again.dims == stitched.dims
        assert_on(again, want)


def test_gdal_reads_a_finer_grid_where_it_lies(tmp_path, field_on):
    field, box = field_on("pixels not square")
    stitched = field.geocat.patch(12).geocat.map(finer(3)).geocat.stitch()
    stitched.rio.to_raster(tmp_path / "made.tif")
    with rasterio.open(tmp_path / "made.tif") as file:
        want = box.zoom_to(shape=(144, 180)).affine
        assert tuple(file.transform) == pytest.approx(tuple(want), rel=1e-14)
        assert file.crs.to_epsg() == 32610
        np.testing.assert_array_equal(file.read(1), stitched.values)
