from __future__ import annotations

import dataclasses
import json
import math
import pickle
import warnings
from fractions import Fraction
from itertools import pairwise

import geopandas as gpd
import numpy as np
import odc.geo.xr
import pytest
import rasterio.transform
import shapely
import xarray as xr
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox

from tests.patching import oracle
from xgeocat.patching import samplers
from xgeocat.patching.patch import patch

UTM = Affine(10, 0, 500000, 0, -10, 4300000)
ASCENDING = Affine(10, 0, 500000, 0, 10, 4299000)
LANDSAT = Affine(30, 0, 399960.0, 0, -30, 4000020.0)
DEGREES = Affine(0.1, 0, -120.3, 0, -0.1, 39.7)
GRIDS = [(UTM, "EPSG:32610"), (ASCENDING, "EPSG:32610"), (LANDSAT, "EPSG:32610"), (DEGREES, 4326)]

seeds = st.integers(0, 2**32)
lengths = st.integers(1, 60)
sizes = st.integers(1, 25)


def on_grid(shape=(70, 90), transform=UTM, crs="EPSG:32610", dtype="uint8", **extra):
    box = GeoBox(shape, transform, crs)
    field = odc.geo.xr.xr_zeros(box, dtype=dtype)
    return field.expand_dims(extra) if extra else field


def plain(*shape, dims=("y", "x")):
    return xr.DataArray(np.zeros(shape, "uint8"), dims=dims)


def edges(*size, dims=("y", "x")):
    return dict(zip(dims, size, strict=True))


def rows(starts):
    return list(map(tuple, starts.tolist()))


def centres(field, starts, size):
    """x and y of the pixel in the middle of each patch, from the coordinates of the field."""
    middle = starts + np.array([size["y"] // 2, size["x"] // 2])
    return np.stack([field.x.values[middle[:, 1]], field.y.values[middle[:, 0]]], axis=-1)


PLACES = [(500105.0, 4299895.0), (500305.0, 4299595.0), (500888.0, 4299311.0)]
POLYGONS = gpd.GeoDataFrame(
    {"cover": ["water", "forest"]},
    geometry=[
        shapely.box(500000, 4299500, 500400, 4300000),
        shapely.box(500400, 4299300, 500900, 4299900),
    ],
    crs="EPSG:32610",
)


def labels_of(values, nodata=None, like=None):
    values = np.asarray(values)
    field = on_grid(values.shape) if like is None else like
    labels = xr.DataArray(values, dims=("y", "x"), coords=field.coords)
    return labels if nodata is None else labels.assign_attrs(nodata=nodata)


ALL = {
    "grid": lambda: samplers.grid(overlap=2),
    "grid, stride": lambda: samplers.grid(stride={"y": 5, "x": 6}),
    "jittered": lambda: samplers.jittered(stride=9, amount=3, seed=1),
    "random": lambda: samplers.random(20, seed=1),
    "poisson_disk": lambda: samplers.poisson_disk(12, seed=1),
    "poisson_disk, n": lambda: samplers.poisson_disk(12.5, seed=1, n=4),
    "points": lambda: samplers.points(PLACES, crs=32610),
    "track": lambda: samplers.track(shapely.LineString(PLACES), 7.5),
    "stratified": lambda: samplers.stratified(labels_of(np.arange(6300).reshape(70, 90) % 3), 5, 1),
    "stratified, polygons": lambda: samplers.stratified(POLYGONS, 5, seed=1, column="cover"),
}
RANDOM = {
    "jittered": lambda seed: samplers.jittered(9, 3, seed),
    "random": lambda seed: samplers.random(20, seed),
    "poisson_disk": lambda seed: samplers.poisson_disk(12, seed),
    "poisson_disk, n": lambda seed: samplers.poisson_disk(12, seed, n=5),
    "stratified": lambda seed: samplers.stratified(POLYGONS, 5, seed, column="cover"),
}

each = pytest.mark.parametrize("make", ALL.values(), ids=ALL.keys())
each_random = pytest.mark.parametrize("make", RANDOM.values(), ids=RANDOM.keys())


# --- every sampler --------------------------------------------------------------------------------


@each
@pytest.mark.parametrize("kind", ["numpy", "dask", "Dataset"])
def test_a_sampler_gives_integer_starts_of_any_kind_of_field(make, kind, no_compute):
    field = on_grid()
    if kind == "dask":
        field = field.chunk(20)
    if kind == "Dataset":
        field = xr.Dataset({"red": field, "nir": field})
    starts = make()(field, edges(9, 8))
    assert starts.dtype == np.int64
    assert starts.ndim == 2
    assert starts.shape[1] == 2
    assert len(starts) > 1
    np.testing.assert_array_equal(starts, make()(on_grid(), edges(9, 8)))


@each
def test_columns_follow_the_order_of_the_size(make):
    sampler, field = make(), on_grid()
    y_first = sampler(field, {"y": 9, "x": 8})
    x_first = sampler(field, {"x": 8, "y": 9})
    assert (x_first <= [90 - 1, 70 - 1]).all()
    assert x_first[:, 0].max() > 70 - 9
    # Those two draw along each dimension in turn, so that another order gives other numbers.
    if sampler.name not in ("jittered", "random"):
        assert sorted(rows(y_first)) == sorted(rows(x_first[:, ::-1]))


@each
def test_a_patch_larger_than_the_field_starts_at_0(make):
    starts = make()(on_grid(), edges(100, 8))
    assert (starts[:, 0] == 0).all()
    assert len(np.unique(starts[:, 1])) > 1
    with warnings.catch_warnings():
        # Of places that may not be near each other there is room for one.
        warnings.simplefilter("ignore")
        assert (make()(on_grid(), edges(100, 100)) == 0).all()


@each
def test_a_field_without_cells_has_no_starts(make):
    assert make()(on_grid().isel(y=slice(0)), edges(4, 4)).shape == (0, 2)


@each
def test_a_sampler_survives_pickling_and_says_the_same(make):
    sampler = make()
    again = pickle.loads(pickle.dumps(sampler))
    assert again.describe() == sampler.describe() == make().describe()
    assert repr(again) == repr(sampler)
    field = on_grid()
    np.testing.assert_array_equal(again(field, edges(9, 8)), sampler(field, edges(9, 8)))


@each
def test_a_sampler_is_frozen(make):
    with pytest.raises(dataclasses.FrozenInstanceError):
        make().name = "another"


@each
def test_a_description_is_plain_json_with_the_name(make):
    said = make().describe()
    assert json.loads(json.dumps(said)) == said
    assert said["sampler"] == make().name
    assert repr(make()).startswith(f"{make().name}(")


@pytest.mark.parametrize(
    "changed",
    [
        lambda: samplers.grid(overlap=3),
        lambda: samplers.grid(stride={"y": 5, "x": 7}),
        lambda: samplers.jittered(stride=9, amount=3, seed=2),
        lambda: samplers.jittered(stride=9, amount=2, seed=1),
        lambda: samplers.random(20, seed=2),
        lambda: samplers.random(21, seed=1),
        lambda: samplers.poisson_disk(12.5, seed=1),
        lambda: samplers.poisson_disk(12.5, seed=1, n=5),
        lambda: samplers.points(PLACES[::-1], crs=32610),
        lambda: samplers.points(PLACES),
        lambda: samplers.points(PLACES, crs=32611),
        lambda: samplers.points(PLACES, crs=32610, outside="drop"),
        lambda: samplers.track(shapely.LineString(PLACES[::-1]), 7.5),
        lambda: samplers.track(shapely.LineString(PLACES), 7.5, crs=32610),
        lambda: samplers.track(shapely.LineString(PLACES), 8),
        lambda: samplers.stratified(labels_of(np.arange(6300).reshape(70, 90) % 4), 5, 1),
        lambda: samplers.stratified(labels_of(np.arange(6300).reshape(70, 90) % 3, 0), 5, 1),
        lambda: samplers.stratified(labels_of(np.arange(6300).reshape(70, 90) % 3), 6, 1),
        lambda: samplers.stratified(POLYGONS[::-1], 5, 1, column="cover"),
        lambda: samplers.stratified(POLYGONS.assign(cover=["a", "b"]), 5, 1, column="cover"),
        lambda: samplers.stratified(POLYGONS.set_crs(32611, allow_override=True), 5, 1, "cover"),
    ],
)
def test_a_description_tells_every_parameter(changed):
    assert json.dumps(changed().describe()) not in {
        json.dumps(m().describe()) for m in ALL.values()
    }


def test_a_description_does_not_depend_on_how_numbers_and_points_are_given():
    one = samplers.random(n=np.int32(5), seed=np.uint8(3))
    assert one.describe() == samplers.random(5, 3).describe()
    assert json.dumps(one.describe())
    as_points = samplers.points(gpd.GeoSeries(shapely.points(PLACES), crs=32610))
    assert as_points.describe() == ALL["points"]().describe()


@each_random
def test_the_same_seed_gives_the_same_starts_and_another_seed_others(make):
    field, size = on_grid(), edges(9, 8)
    np.testing.assert_array_equal(make(7)(field, size), make(7)(field, size))
    assert rows(make(7)(field, size)) != rows(make(8)(field, size))


@each_random
def test_random_starts_leave_the_global_random_state_alone(make):
    before = np.random.get_state()[1].tolist()  # noqa: NPY002
    make(3)(on_grid(), edges(9, 8))
    assert np.random.get_state()[1].tolist() == before  # noqa: NPY002


@each_random
def test_random_starts_come_in_row_major_order(make):
    starts = rows(make(5)(on_grid(time=range(7)), {"time": 3, "y": 9, "x": 8}))
    assert starts == sorted(starts)


@each
def test_other_dims_are_cut_too_whatever_their_place_in_the_size(make):
    field = on_grid(time=range(7))
    size = {"y": 9, "time": 3, "x": 8}
    sampler = make()
    if sampler.name == "grid" and "stride" in sampler.describe():
        sampler = samplers.grid(stride={"y": 5})
    starts = sampler(field, size)
    times = set(starts[:, 1].tolist())
    if sampler.name in ("random", "jittered"):
        assert times <= {0, 1, 2, 3, 4}
        assert len(times) > 2
    else:
        flat = sampler(field.isel(time=0), edges(9, 8)).tolist()
        every = oracle.starts(7, 3, 1 if sampler.describe().get("overlap") else 3, "pad")
        expected = [(y, t, x) for y, x in flat for t in every]
        assert sorted(rows(starts)) == sorted(expected)
        if sampler.name in ("points", "track"):
            assert rows(starts) == expected


@each
@pytest.mark.parametrize("size", [{}, {"row": 4, "x": 4}, {"y": 0, "x": 4}])
def test_a_size_must_fit_the_dims_of_the_field(make, size):
    with pytest.raises(ValueError, match=r"must give dims of the field at least 1.*'y': 70"):
        make()(on_grid(), size)


@pytest.mark.parametrize("name", ["poisson_disk", "points", "track", "stratified"])
def test_places_need_both_spatial_dims(name):
    with pytest.raises(ValueError, match=r"size=\{'x': 4\}.*both spatial dims, \('y', 'x'\)"):
        ALL[name]()(on_grid(), {"x": 4})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: samplers.grid(overlap=-1), "overlap=-1.*at least 0"),
        (lambda: samplers.grid(overlap=1.5), "overlap=1.5.*whole number"),
        (lambda: samplers.grid(stride=0), "stride=0.*at least 1"),
        (lambda: samplers.grid(stride={"y": True}), r"stride\['y'\]=True.*whole"),
        (lambda: samplers.grid(overlap=0, stride=5), "not both.*0.*5"),
        (lambda: samplers.jittered(0, 1, 0), "stride=0.*at least 1"),
        (lambda: samplers.jittered(5, -1, 0), "amount=-1.*at least 0"),
        (lambda: samplers.jittered(5, {"x": 0.5}, 0), r"amount\['x'\]=0.5.*whole"),
        (lambda: samplers.jittered(5, 1, -3), "seed=-3.*at least 0"),
        (lambda: samplers.random(0, 0), "n=0.*at least 1"),
        (lambda: samplers.random(5.0, 0), "n=5.0.*whole"),
        (lambda: samplers.random(5, None), "seed=None.*whole"),
        (lambda: samplers.random(5, "now"), "seed='now'.*whole"),
        (lambda: samplers.poisson_disk(0.5, 0), "distance=0.5.*at least 1"),
        (lambda: samplers.poisson_disk(math.nan, 0), "distance=nan.*at least 1"),
        (lambda: samplers.poisson_disk(math.inf, 0), "distance=inf"),
        (lambda: samplers.poisson_disk(5, 0, n=0), "n=0.*at least 1"),
        (lambda: samplers.points(PLACES, outside="clip"), "'clip' is unknown.*raise.*drop"),
        (lambda: samplers.points(PLACES, crs="EPSG:nine"), "crs='EPSG:nine' is unknown.*EPSG:4326"),
        (lambda: samplers.track(shapely.LineString(PLACES), 0), "step=0.*at least 1"),
        (lambda: samplers.stratified(POLYGONS, 0, 0, "cover"), "per_class=0.*at least 1"),
        (lambda: samplers.stratified(POLYGONS, 5, 0), "column=None must name.*'cover'"),
        (lambda: samplers.stratified(POLYGONS, 5, 0, "class"), "column='class'.*'cover'"),
        (
            lambda: samplers.stratified(labels_of([[1]]), 5, 0, "class"),
            "column='class'.*no columns",
        ),
        (
            lambda: samplers.stratified(labels_of([[1]]).expand_dims("time"), 5, 0),
            r"\('time', 'y', 'x'\).*isel",
        ),
    ],
)
def test_bad_parameters_are_refused_when_the_sampler_is_made(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: samplers.poisson_disk("far", 0), "distance='far'.*number of pixels"),
        (lambda: samplers.track(shapely.LineString(PLACES), True), "step=True.*number"),
        (lambda: samplers.points(POLYGONS), "Got.*Polygon.*needs Point or MultiPoint"),
        (lambda: samplers.points([1.0, 2.0]), "needs Point"),
        (lambda: samplers.points(np.zeros((4, 3))), "needs Point"),
        (lambda: samplers.points(["here"]), "Got.*str.*needs Point"),
        (lambda: samplers.points(gpd.GeoSeries([])), "Got nothing"),
        (lambda: samplers.points(None), "Got.*NoneType|missing"),
        (lambda: samplers.track(PLACES, 5), "Got.*Point.*needs LineString"),
        (lambda: samplers.stratified(gpd.GeoDataFrame({"c": [1]}, geometry=[shapely.Point(0, 0)]), 5, 0, "c"), "needs Polygon"),
        (lambda: samplers.stratified(labels_of([[1.0]]), 5, 0), r"float64.*integers.*fillna"),
        (lambda: samplers.stratified([[1]], 5, 0), "list.*DataArray of integers.*GeoDataFrame"),
    ],
)  # fmt: skip
def test_the_wrong_kind_of_thing_is_refused(make, message):
    with pytest.raises((TypeError, ValueError), match=message):
        make()


# --- grid -----------------------------------------------------------------------------------------


@given(st.tuples(lengths, lengths), st.tuples(sizes, sizes), st.data())
@settings(max_examples=100, deadline=None)
def test_a_grid_leaves_to_the_boundary_what_patch_does_with_it(shape, size, data):
    stride = tuple(data.draw(st.integers(1, n)) for n in size)
    starts = samplers.grid(stride=edges(*stride))(plain(*shape), edges(*size))
    assert rows(starts) == sorted(oracle.grid(shape, size, stride, "pad"))
    shifted = np.minimum(starts, np.maximum(np.subtract(shape, size), 0))
    inside = starts[(starts + size <= shape).all(axis=1)]
    assert rows(shifted) == sorted(oracle.grid(shape, size, stride, "shift"))
    assert rows(inside) == sorted(oracle.grid(shape, size, stride, "drop"))


@pytest.mark.parametrize("given", [{"overlap": 3}, {"stride": 5}, {"overlap": {"x": 2}}, {}])
def test_a_grid_is_that_of_patch(given, numbered):
    field = numbered((40, 50))
    patches = patch(field, 8, boundary="pad", **given)
    expected = zip(patches.y_start.values.tolist(), patches.x_start.values.tolist(), strict=True)
    assert rows(samplers.grid(**given)(field, edges(8, 8))) == sorted(expected)


def test_the_stride_of_a_dimension_left_out_is_its_size():
    starts = samplers.grid(stride={"x": 2})(plain(8, 8), edges(4, 4))
    assert sorted(set(starts[:, 0].tolist())) == [0, 4]
    assert sorted(set(starts[:, 1].tolist())) == [0, 2, 4]


@pytest.mark.parametrize("overlap", [8, {"x": 9}])
def test_an_overlap_must_be_smaller_than_the_size(overlap):
    with pytest.raises(ValueError, match=r"overlap=[89] along.*smaller than size=8"):
        samplers.grid(overlap)(plain(40, 50), edges(8, 8))


@pytest.mark.parametrize("make", [samplers.grid, lambda given: samplers.jittered(given, 0, 0)])
def test_only_tiled_dims_can_be_named(make):
    with pytest.raises(ValueError, match=r"\{'t': 2\} names dims.*\['y', 'x'\]"):
        make({"t": 2})(plain(40, 50), edges(8, 8))


# --- jittered and random --------------------------------------------------------------------------


@given(
    st.tuples(lengths, lengths),
    st.tuples(sizes, sizes),
    st.integers(1, 30),
    st.integers(0, 40),
    seeds,
)
@settings(max_examples=100, deadline=None)
def test_jittered_starts_stay_inside_and_near_the_grid(shape, size, stride, amount, seed):
    last = np.maximum(np.subtract(shape, size), 0)
    starts = samplers.jittered(stride, amount, seed)(plain(*shape), edges(*size))
    regular = np.minimum(sorted(oracle.grid(shape, size, (stride, stride), "pad")), last)
    assert starts.shape == regular.shape
    assert ((starts >= 0) & (starts <= last)).all()
    away = np.abs(starts[:, None] - regular[None]).max(axis=2).min(axis=1)
    assert (away <= amount).all()


def test_jitter_reaches_as_far_as_it_may_and_is_even():
    field = plain(101, 101)
    moved = np.concatenate(
        [samplers.jittered(1000, 3, s)(field, edges(1, 1)) for s in range(400)]
        + [samplers.jittered({"y": 50, "x": 1000}, {"y": 3}, s)(field, edges(1, 1))[[1]] - [50, 0] for s in range(400)]
    )  # fmt: skip
    alone, middle = moved[:400], moved[400:]
    assert set(alone.ravel().tolist()) == {0, 1, 2, 3}
    assert set(middle[:, 0].tolist()) == {-3, -2, -1, 0, 1, 2, 3}
    assert set(middle[:, 1].tolist()) == {0}
    assert abs(middle[:, 0].mean()) < 0.4


def test_without_an_amount_nothing_moves():
    starts = samplers.jittered(7, 0, 0)(plain(40, 50), edges(8, 8))
    assert rows(starts) == sorted(oracle.grid((40, 50), (8, 8), (7, 7), "shift"))


@given(st.tuples(lengths, lengths), st.tuples(sizes, sizes), st.integers(1, 50), seeds)
@settings(max_examples=100, deadline=None)
def test_random_starts_are_inside(shape, size, n, seed):
    starts = samplers.random(n, seed)(plain(*shape), edges(*size))
    assert starts.shape == (n, 2)
    assert ((starts >= 0) & (starts <= np.maximum(np.subtract(shape, size), 0))).all()


def test_random_starts_are_even():
    starts = samplers.random(40_000, 0)(plain(13, 14), edges(10, 10))
    _, counts = np.unique(starts, axis=0, return_counts=True)
    assert len(counts) == 4 * 5
    # Five standard deviations of a count with the mean 2000.
    assert np.abs(counts - 2000).max() < 5 * math.sqrt(2000)


# --- poisson_disk ---------------------------------------------------------------------------------


def squares(a, b):
    return ((a[:, None] - b[None]) ** 2).sum(axis=-1)


@given(
    st.tuples(lengths, lengths),
    st.tuples(sizes, sizes),
    st.one_of(st.integers(1, 40), st.floats(1, 40)),
    seeds,
)
@settings(max_examples=150, deadline=None)
def test_no_two_places_are_near_and_none_fits_between(shape, size, distance, seed):
    starts = samplers.poisson_disk(distance, seed)(plain(*shape), edges(*size))
    apart = squares(starts, starts)
    np.fill_diagonal(apart, 10**6)
    assert (apart >= distance**2).all()
    last = np.maximum(np.subtract(shape, size), 0)
    assert ((starts >= 0) & (starts <= last)).all()
    every = np.stack(np.meshgrid(*(np.arange(n + 1) for n in last)), axis=-1).reshape(-1, 2)
    assert (squares(every, starts).min(axis=1) < distance**2).all()


@pytest.mark.parametrize("distance", [1, math.sqrt(2), 2, 3 * math.sqrt(2), 5 * math.sqrt(2)])
def test_the_diagonal_of_a_cell_is_no_special_distance(distance):
    for seed in range(10):
        starts = samplers.poisson_disk(distance, seed)(plain(30, 30), edges(1, 1))
        apart = squares(starts, starts)[~np.eye(len(starts), dtype=bool)]
        assert apart.min() >= distance**2


def test_at_distance_1_every_start_is_taken():
    starts = samplers.poisson_disk(1, 0)(plain(9, 11), edges(3, 3))
    assert rows(starts) == [(y, x) for y in range(7) for x in range(9)]


def test_places_are_spread_evenly():
    field, size = plain(60, 60), edges(1, 1)
    starts = np.concatenate([samplers.poisson_disk(9, s)(field, size) for s in range(60)])
    inner = starts[((starts >= 10) & (starts < 50)).all(axis=1)] - 10
    counts = np.bincount(inner[:, 0] // 10 * 4 + inner[:, 1] // 10, minlength=16)
    assert np.abs(counts / counts.mean() - 1).max() < 0.2


@pytest.mark.parametrize("n", [1, 7, 20])
def test_as_many_places_as_wanted_and_still_apart(n):
    starts = samplers.poisson_disk(9, 4, n=n)(plain(80, 90), edges(8, 8))
    assert len(starts) == n
    assert (squares(starts, starts)[~np.eye(n, dtype=bool)] >= 81).all()


def test_fewer_places_than_wanted_are_warned_of_at_the_line_of_the_caller():
    sampler = samplers.poisson_disk(30, 0, n=100)
    with pytest.warns(UserWarning, match=r"Only \d+ of n=100 .* distance=30") as caught:
        starts = sampler(plain(80, 90), edges(8, 8))
    assert 4 < len(starts) < 20
    assert f"Only {len(starts)} of" in str(caught[0].message)
    assert [w.filename for w in caught if w.category is UserWarning] == [__file__]


# --- points ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("transform", "crs"), GRIDS)
@given(st.lists(st.tuples(st.floats(-0.2, 1.2), st.floats(-0.2, 1.2)), min_size=1, max_size=20))
@settings(max_examples=40, deadline=None)
def test_the_pixel_of_a_point_is_that_of_rasterio(transform, crs, at):
    field = on_grid((70, 90), transform, crs)
    xy = np.array([transform @ (90 * u, 70 * v) for u, v in at])
    pixels = np.array([(~transform) @ tuple(p) for p in xy])
    # Where floats differ, on an edge, another test says which pixel it is.
    xy = xy[(np.abs(pixels - np.round(pixels)) > 1e-6).all(axis=1)]
    if not len(xy):
        return
    row, column = rasterio.transform.rowcol(transform, *xy.T)
    cells = np.stack([row, column], axis=-1)
    inside = ((cells >= 0) & (cells < (70, 90))).all(axis=1)
    size = {str(d): n for d, n in zip(field.dims, (5, 6), strict=True)}
    starts = samplers.points(xy, outside="drop")(field, size)
    np.testing.assert_array_equal(starts, cells[inside] - [2, 3])
    if not inside.all():
        with pytest.raises(ValueError, match=f"{(~inside).sum()} of {len(xy)} points"):
            samplers.points(xy)(field, size)


@pytest.mark.parametrize(
    # 1/49 times 49 is less than 1 in floats.
    "transform",
    [UTM, ASCENDING, LANDSAT, Affine(49, 0, 500000, 0, -49, 4300000)],
)
def test_a_point_on_an_edge_is_in_the_pixel_of_the_higher_number(transform):
    field = on_grid((70, 90), transform)
    cells = np.array([(r, c) for r in range(70) for c in range(90)])
    corners = np.array([transform @ (c, r) for r, c in cells.tolist()])
    starts = samplers.points(corners)(field, edges(1, 1))
    np.testing.assert_array_equal(starts, cells)
    exact = [
        (
            math.floor((Fraction(y) - Fraction(transform.f)) / Fraction(transform.e)),
            math.floor((Fraction(x) - Fraction(transform.c)) / Fraction(transform.a)),
        )
        for x, y in corners.tolist()
    ]
    assert rows(starts) == exact


def test_the_outer_edges_of_the_field_are_half_open():
    field = on_grid((7, 9))
    west, south, east, north = field.odc.geobox.boundingbox.bbox
    assert rows(samplers.points([(west, north)])(field, edges(1, 1))) == [(0, 0)]
    for corner in [(east, north), (west, south), (east, south)]:
        assert samplers.points([corner], outside="drop")(field, edges(1, 1)).shape == (0, 2)


@pytest.mark.parametrize("edge", [1, 2, 7, 8, 15])
def test_the_pixel_of_the_point_is_in_the_middle(edge):
    field = on_grid()
    size = edges(edge, edge)
    starts = samplers.points(PLACES)(field, size)
    found = centres(field, starts, size)
    # Nearest pixel centre by brute force.
    for (x, y), middle in zip(PLACES, found, strict=True):
        assert middle.tolist() == [
            field.x.values[np.abs(field.x.values - x).argmin()],
            field.y.values[np.abs(field.y.values - y).argmin()],
        ]


def test_patches_may_lie_partly_outside():
    field = on_grid((20, 20))
    starts = samplers.points([(500005, 4299995), (500195, 4299805)])(field, edges(8, 9))
    assert rows(starts) == [(-4, -4), (15, 15)]


FORMS = {
    "list": PLACES,
    "array": np.array(PLACES),
    "whole numbers": np.array(PLACES).astype(int),
    "list of Points": [shapely.Point(p) for p in PLACES],
    "array of Points": shapely.points(PLACES),
    "with heights": [shapely.Point(*p, 12.0) for p in PLACES],
    "MultiPoint": shapely.MultiPoint(PLACES),
    "GeoSeries": gpd.GeoSeries(shapely.points(PLACES), crs=32610),
    "GeoSeries without a CRS": gpd.GeoSeries(shapely.points(PLACES)),
    "GeoDataFrame": gpd.GeoDataFrame({"a": range(3)}, geometry=shapely.points(PLACES), crs=32610),
    "mixed": gpd.GeoSeries([shapely.Point(PLACES[0]), shapely.MultiPoint(PLACES[1:])]),
}


@pytest.mark.parametrize("places", FORMS.values(), ids=FORMS.keys())
def test_points_come_in_many_forms_and_keep_their_order(places):
    expected = [(6, 6), (36, 26), (64, 84)]
    assert rows(samplers.points(places)(on_grid(), edges(9, 9))) == expected


def test_one_point_is_one_patch():
    assert rows(samplers.points(shapely.Point(PLACES[0]))(on_grid(), edges(9, 9))) == [(6, 6)]


def test_a_point_that_comes_twice_gets_two_patches():
    starts = samplers.points([PLACES[1], PLACES[0], PLACES[1]])(on_grid(), edges(9, 9))
    assert rows(starts) == [(36, 26), (6, 6), (36, 26)]


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:32611", "EPSG:3857", "OGC:CRS84"])
@pytest.mark.parametrize("carried", [True, False])
def test_points_of_another_crs_are_where_geopandas_puts_them(crs, carried):
    field = on_grid()
    rng = np.random.default_rng(0)
    home = gpd.GeoSeries(
        gpd.points_from_xy(rng.uniform(500000, 500900, 200), rng.uniform(4299300, 4300000, 200)),
        crs="EPSG:32610",
    )
    away = home.to_crs(crs)
    back = away.to_crs("EPSG:32610")
    expected = np.stack(rasterio.transform.rowcol(UTM, back.x, back.y), axis=-1)
    sampler = (
        samplers.points(away)
        if carried
        else samplers.points(np.stack([away.x, away.y], axis=-1), crs=crs)
    )
    np.testing.assert_array_equal(sampler(field, edges(1, 1)), expected)


def test_longitude_comes_first_on_a_field_in_degrees():
    field = on_grid((70, 90), DEGREES, "EPSG:4326")
    assert field.dims == ("latitude", "longitude")
    size = {"latitude": 3, "longitude": 3}
    # Five pixels and a half east and seven and a half south of the corner.
    assert rows(samplers.points([(-119.75, 38.95)], crs=4326)(field, size)) == [(6, 4)]


def test_a_rotated_grid_holds_a_point_in_the_pixel_that_rasterio_says():
    transform = Affine.translation(500000, 4300000) @ Affine.rotation(30) @ Affine.scale(10, -10)
    field = on_grid((70, 90), transform)
    inner = np.random.default_rng(0).uniform(0, 1, (200, 2)) * (90, 70)
    xy = np.array([transform @ tuple(p) for p in inner])
    np.testing.assert_array_equal(
        samplers.points(xy)(field, edges(1, 1)),
        np.stack(rasterio.transform.rowcol(transform, *xy.T), axis=-1),
    )


def test_coordinates_alone_make_a_grid_too():
    field = plain(7, 9).assign_coords(y=np.arange(7) * 2.0, x=100 - np.arange(9) * 3.0)
    starts = samplers.points([(100, 0), (95.6, 11.9), (95.4, 4.1)])(field, edges(1, 1))
    assert rows(starts) == [(0, 0), (6, 1), (2, 2)]


def test_points_outside_are_named_with_what_to_do():
    places = [(1.0, 2.0), PLACES[0], (3.0, 4.0), (5.0, 6.0), (7.0, 8.0)]
    with pytest.raises(ValueError, match=r"4 of 5 points.*bounds.*500000.*EPSG:32610") as caught:
        samplers.points(places)(on_grid(), edges(9, 9))
    said = str(caught.value)
    assert "[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]" in said
    assert "7.0" not in said
    assert "crs=" in said
    assert "outside='drop'" in said


def test_points_outside_are_left_out_when_asked():
    places = [(1.0, 2.0), PLACES[1], (3.0, 4.0), PLACES[0]]
    starts = samplers.points(places, outside="drop")(on_grid(), edges(9, 9))
    assert rows(starts) == [(36, 26), (6, 6)]
    nowhere = samplers.points([(1.0, 2.0)], outside="drop")
    assert nowhere(on_grid(time=range(4)), {"time": 2, "y": 9, "x": 9}).shape == (0, 3)


def test_a_point_that_cannot_be_projected_is_outside():
    far = samplers.points([(-33.0, 0.0), (-123.0, 38.845)], crs=4326, outside="drop")
    assert len(far(on_grid(), edges(9, 9))) == 1
    refused = samplers.points([(-33.0, 0.0), (-123.0, 38.845)], crs=4326)
    with pytest.raises(ValueError, match=r"1 of 2 points.*\[\[-33\.0, 0\.0\]\] in EPSG:4326"):
        refused(on_grid(), edges(9, 9))


@pytest.mark.parametrize(
    "broken",
    [
        [shapely.Point(1, 2), None, shapely.Point()],
        gpd.GeoSeries([shapely.Point(1, 2), shapely.Point(np.nan, 1), shapely.Point(np.inf, 1)]),
        np.array([(1.0, 2.0), (np.nan, 1), (1, -np.inf)]),
        [shapely.Point(1, 2), shapely.MultiPoint([(0, 0), (np.nan, 1)]), shapely.MultiPoint()],
    ],
)
def test_points_that_are_missing_or_not_finite_are_refused(broken):
    with pytest.raises(ValueError, match=r"2 of 3 places are missing.*\[1, 2\]"):
        samplers.points(broken)


def test_two_different_crs_are_refused_and_the_same_twice_is_not():
    places = FORMS["GeoDataFrame"]
    with pytest.raises(ValueError, match="crs=EPSG:4326, but.*EPSG:32610.*to_crs"):
        samplers.points(places, crs=4326)
    assert samplers.points(places, crs="EPSG:32610").describe()["crs"] == "EPSG:32610"
    assert samplers.points(places, crs=on_grid().odc.crs).describe()["crs"] == "EPSG:32610"


def test_places_with_a_crs_need_a_field_with_one():
    field = plain(70, 90).assign_coords(y=on_grid().y.values, x=on_grid().x.values)
    assert len(samplers.points(PLACES)(field, edges(9, 9))) == 3
    with pytest.raises(ValueError, match=r"in EPSG:4326, and the field has no CRS.*assign_crs"):
        samplers.points(PLACES, crs=4326)(field, edges(9, 9))


@pytest.mark.parametrize(
    "field",
    [
        plain(7, 9),
        plain(7, 9).assign_coords(y=np.arange(7.0), x=np.arange(9.0) ** 2),
        plain(7, 9).assign_coords(y=np.zeros(7), x=np.arange(9.0)),
        plain(1, 9).assign_coords(y=np.zeros(1), x=np.arange(9.0)),
    ],
    ids=["no coordinates", "uneven", "repeated", "one row"],
)
@pytest.mark.parametrize(
    "sampler",
    [
        samplers.points([(1, 1)]),
        samplers.track(shapely.LineString([(1, 1), (2, 2)]), 1),
        samplers.stratified(POLYGONS.set_crs(None, allow_override=True), 1, 0, "cover"),
    ],
    ids=["points", "track", "stratified"],
)
def test_a_field_without_a_regular_grid_has_no_places(field, sampler):
    with pytest.raises(ValueError, match=r"\('y', 'x'\) has no regular grid.*assign_coords"):
        sampler(field, edges(2, 2))


def test_other_names_of_dims_have_no_places():
    with pytest.raises(ValueError, match="none of the spatial pairs"):
        samplers.points([(1, 1)])(plain(4, 4, dims=("row", "col")), {"row": 2, "col": 2})


# --- track ----------------------------------------------------------------------------------------


def middles(sampler, field, edge=1):
    """Row and column of the pixels that a sampler chose."""
    return rows(sampler(field, edges(edge, edge)) + edge // 2)


def test_a_track_goes_step_by_step_and_has_both_ends():
    line = shapely.LineString([(500005, 4299995), (500005, 4299795), (500105, 4299795)])
    # 30 pixels: 20 south, 10 east.
    expected = [(0, 0), (8, 0), (16, 0), (20, 4), (20, 10)]
    assert middles(samplers.track(line, 8), on_grid()) == expected
    assert middles(samplers.track(line, 8), on_grid(), edge=9) == expected
    assert middles(samplers.track(line, 100), on_grid()) == [(0, 0), (20, 10)]


def test_the_end_of_a_whole_number_of_steps_comes_once():
    line = shapely.LineString([(500005.1, 4299995), (500305.1, 4299995)])
    assert middles(samplers.track(line, 10), on_grid()) == [(0, 0), (0, 10), (0, 20), (0, 30)]
    # 25 steps of 2.28 fall short of the end by rounding, which here is the edge of a pixel.
    line = shapely.LineString([(500000, 4299995), (500570, 4299995)])
    assert 57 - 1e-9 < np.arange(0, 57, 2.28)[-1] < 57
    assert middles(samplers.track(line, 2.28), on_grid())[-2:] == [(0, 54), (0, 57)]


def test_a_track_keeps_the_direction_of_the_line():
    line = shapely.LineString([(500005, 4299795, 7.0), (500005, 4299995, 8.0)])
    expected = [(20, 0), (12, 0), (4, 0), (0, 0)]
    assert middles(samplers.track(line, 8), on_grid()) == expected
    assert middles(samplers.track(line.reverse(), 8), on_grid())[0] == (0, 0)
    flat = shapely.force_2d(line)
    assert samplers.track(line, 8).describe() == samplers.track(flat, 8).describe()


@given(
    st.lists(
        # Never on the edge of a pixel, where rounding would decide.
        st.tuples(*[st.integers(-40, 200).map(lambda n: n / 2 + 0.3)] * 2),
        min_size=2,
        max_size=6,
        unique=True,
    ),
    st.floats(1, 60),
)
@settings(max_examples=80, deadline=None)
def test_a_track_equals_a_walk_along_it(vertices, step):
    """Walk along the line in pixels, segment by segment, by hand."""
    at, walked = [vertices[0]], 0.0
    for (x0, y0), (x1, y1) in pairwise(vertices):
        length = math.hypot(x1 - x0, y1 - y0)
        while length and len(at) * step <= walked + length:
            part = (len(at) * step - walked) / length
            at.append((x0 + part * (x1 - x0), y0 + part * (y1 - y0)))
        walked += length
    at.append(vertices[-1])
    inside = [(y, x) for x, y in at if 0 <= x < 90 and 0 <= y < 70]
    line = shapely.LineString([UTM @ v for v in vertices])
    if not inside:
        return
    got = np.array(middles(samplers.track(line, step), on_grid()))
    # Every place is in, or within rounding of, a pixel of the walk, and the other way round.
    near = np.abs(got[:, None] + 0.5 - np.array(inside)[None]).max(axis=2) <= 0.5 + 1e-5
    assert near.any(axis=1).all()
    assert near.any(axis=0).all()
    assert len(np.unique(got, axis=0)) == len(got)


def test_only_the_part_inside_the_field_gets_patches():
    field = on_grid((20, 20))
    line = shapely.LineString([(499905, 4299905), (500405, 4299905)])
    assert middles(samplers.track(line, 5), field) == [(9, 0), (9, 5), (9, 10), (9, 15)]


def test_pixels_that_are_not_square_count_as_pixels():
    field = on_grid((70, 90), Affine(20, 0, 500000, 0, -5, 4300000))
    line = shapely.LineString([(500010, 4299997.5), (500410, 4299997.5), (500410, 4299897.5)])
    expected = [(0, 0), (0, 10), (0, 20), (10, 20), (20, 20)]
    assert middles(samplers.track(line, 10), field) == expected


def test_each_part_of_a_line_has_its_own_ends():
    parts = [[(500005, 4299995), (500125, 4299995)], [(500005, 4299795), (500055, 4299795)]]
    expected = [(0, 0), (0, 10), (0, 12), (20, 0), (20, 5)]
    lines = shapely.MultiLineString(parts)
    for given_as in [
        lines,
        list(lines.geoms),
        gpd.GeoSeries(list(lines.geoms), crs=32610),
        gpd.GeoDataFrame(geometry=[lines], crs=32610),
    ]:
        assert middles(samplers.track(given_as, 10), on_grid()) == expected


def test_a_pixel_gets_one_patch_where_a_line_closes_or_crosses_itself():
    ring = shapely.box(500005, 4299895, 500105, 4299995).exterior
    found = middles(samplers.track(shapely.LineString(ring), 10), on_grid())
    assert sorted(found) == [(0, 0), (0, 10), (10, 0), (10, 10)]


def test_a_line_of_another_crs_bends_as_it_does_on_the_ground():
    # A parallel of latitude over two degrees is no straight line in UTM: it is off by kilometres.
    field = on_grid((800, 3500), Affine(100, 0, 300000, 0, -100, 4480000))
    line = shapely.LineString([(-125.0, 40.0), (-121.5, 40.0)])
    found = samplers.track(line, 40, crs=4326)(field, edges(1, 1))
    fine = gpd.GeoSeries(gpd.points_from_xy(np.linspace(-125, -121.5, 40_001), 40.0), crs=4326)
    fine = fine.to_crs(32610)
    xy = np.stack([fine.x, fine.y], axis=-1)
    found_xy = centres(field, found, edges(1, 1))
    away = np.sqrt(((found_xy[:, None] - xy[None]) ** 2).sum(axis=2)).min(axis=1)
    assert away.max() < 100 * math.sqrt(0.5)
    straight = shapely.LineString([xy[0], xy[-1]])
    assert straight.distance(shapely.Point(xy[20_000])) > 1000
    way = np.hypot(*np.diff(xy, axis=0).T).sum() / 100
    assert len(found) == math.floor(way / 40) + 2


def test_a_line_that_never_is_inside_is_refused():
    line = shapely.LineString([(1, 2), (3, 4)])
    with pytest.raises(ValueError, match=r"\(1.0, 2.0, 3.0, 4.0\) in no CRS.*never inside.*crs="):
        samplers.track(line, 5)(on_grid(), edges(9, 9))


@pytest.mark.parametrize("turn", [0, 360], ids=["-180..180", "0..360"])
def test_a_line_that_goes_far_is_followed_near_the_field(turn):
    field = on_grid()
    around = shapely.LineString([(-179 + turn, 38.845), (turn - 10, 38.845)])
    found = samplers.track(around, 9, crs=4326)(field, edges(1, 1))
    assert 10 <= len(found) <= 11
    away = gpd.GeoSeries(gpd.points_from_xy(*centres(field, found, edges(1, 1)).T), crs=32610)
    np.testing.assert_allclose(away.to_crs(4326).y, 38.845, atol=5e-5)


def test_a_line_that_cannot_be_projected_is_refused():
    # In web mercator from the field to the point on the equator where UTM has no answer.
    line = shapely.LineString([(-13692297.4, 4699000.0), (-3673543.2, 0.0)])
    with pytest.raises(ValueError, match=r"in EPSG:3857, cannot be projected.*32610.*Clip"):
        samplers.track(line, 9, crs=3857)(on_grid(), edges(1, 1))


def test_a_line_over_a_geostationary_image_whose_corners_are_off_the_globe():
    crs = "+proj=geos +h=35785831 +lon_0=-75 +sweep=x"
    field = on_grid((110, 110), Affine(100_000, 0, -5_500_000, 0, -100_000, 5_500_000), crs)
    line = shapely.LineString([(-100.0, 10.0), (-50.0, 10.0)])
    found = samplers.track(line, 5, crs=4326)(field, edges(1, 1))
    expected = gpd.GeoSeries([shapely.Point(-100, 10)], crs=4326).to_crs(crs).iloc[0]
    row, column = rasterio.transform.rowcol(field.odc.geobox.transform, expected.x, expected.y)
    assert found[0].tolist() == [row, column]
    assert len(found) > 8


@pytest.mark.parametrize("step", [5, 7.5])
@pytest.mark.parametrize(
    "parts",
    [
        [[(179.9, 10), (180, 10)], [(-180, 10), (-179.9, 10)]],
        [[(179.9, 10), (180.1, 10)]],
        [[(-180.1, 10), (-179.9, 10)]],
    ],
    ids=["cut", "beyond 180", "beyond -180"],
)
def test_a_line_across_the_antimeridian_reaches_both_sides_of_a_field(parts, step):
    corner = gpd.GeoSeries(gpd.points_from_xy([180], [10]), crs=4326).to_crs(32601).iloc[0]
    field = on_grid((60, 80), Affine(10, 0, corner.x - 400, 0, -10, corner.y + 300), "EPSG:32601")
    columns = samplers.track(shapely.MultiLineString(parts), step, crs=4326)(field, edges(1, 1))[
        :, 1
    ]
    assert columns.min() < step
    assert columns.max() >= 80 - step - 1
    assert np.diff(np.sort(columns)).max() <= step + 1


# --- stratified -----------------------------------------------------------------------------------


def drawn(sampler, field, edge=5):
    return sampler(field, edges(edge, edge)) + edge // 2


@given(
    st.integers(1, 30), st.integers(1, 30), st.integers(1, 5), st.integers(1, 60), seeds, st.data()
)
@settings(max_examples=60, deadline=None)
def test_every_class_gives_as_many_cells_as_it_can(height, width, classes, per_class, seed, data):
    values = np.random.default_rng(seed).integers(0, classes, (height, width)).astype("int16")
    nodata = data.draw(st.sampled_from([None, 0, -1]))
    if (values == nodata).all():
        return
    field = plain(height, width).assign_coords(y=np.arange(height), x=np.arange(width))
    labels = xr.DataArray(values, dims=("y", "x"), coords=field.coords)
    labels = labels if nodata is None else labels.assign_attrs(nodata=nodata)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cells = drawn(samplers.stratified(labels, per_class, seed), field, edge=1)
    assert len(np.unique(cells, axis=0)) == len(cells)
    got = values[tuple(cells.T)].tolist()
    for code in range(classes):
        wanted = 0 if code == nodata else min(per_class, int((values == code).sum()))
        assert got.count(code) == wanted


def test_cells_of_a_class_are_drawn_evenly():
    labels = labels_of(np.repeat([[1, 2]], 4, axis=0).repeat(4, axis=1))
    field = on_grid((4, 8))
    cells = np.concatenate(
        [drawn(samplers.stratified(labels, 2, s), field, 1) for s in range(2000)]
    )
    counts = np.bincount(cells[:, 0] * 8 + cells[:, 1], minlength=32)
    # Each of 16 cells of a class is drawn 250 times, by two of sixteen.
    assert np.abs(counts - 250).max() < 5 * math.sqrt(250 * 14 / 16)


def test_a_class_with_few_cells_gives_all_and_is_named():
    values = np.full((70, 90), 7)
    values[3, 4] = values[5, 6] = 2
    sampler = samplers.stratified(labels_of(values), 5, 0)
    with pytest.warns(UserWarning, match=r"per_class=5.*\{2: 2\}") as caught:
        cells = drawn(sampler, on_grid())
    assert [w.filename for w in caught if w.category is UserWarning] == [__file__]
    assert len(cells) == 7
    assert {(3, 4), (5, 6)} <= set(rows(cells))


@pytest.mark.parametrize("write", ["nodata", "_FillValue", "encoding"])
def test_nodata_is_no_class(write):
    values = np.zeros((70, 90), "uint8")
    values[:, 50:] = 255
    labels = labels_of(values)
    if write == "encoding":
        labels.encoding["_FillValue"] = 255
    else:
        labels.attrs[write] = 255
    cells = drawn(samplers.stratified(labels, 20, 0), on_grid())
    assert len(cells) == 20
    assert cells[:, 1].max() < 50


def test_a_mask_has_two_classes():
    cells = drawn(samplers.stratified(labels_of(np.indices((70, 90))[1] >= 40), 6, 0), on_grid())
    assert (cells[:, 1] >= 40).sum() == 6
    assert len(cells) == 12


def test_labels_may_be_lazy_transposed_and_are_kept_as_they_were():
    values = np.random.default_rng(0).integers(0, 3, (70, 90))
    expected = rows(drawn(samplers.stratified(labels_of(values), 6, 0), on_grid()))
    labels = labels_of(values)
    for same in (labels.chunk(20), labels.transpose("x", "y")):
        assert rows(drawn(samplers.stratified(same, 6, 0), on_grid())) == expected
    sampler = samplers.stratified(labels, 6, 0)
    said = sampler.describe()
    labels[:] = 0
    assert rows(drawn(sampler, on_grid())) == expected
    assert sampler.describe() == said


@pytest.mark.parametrize(
    "change",
    [
        lambda labels: labels.isel(y=slice(1, None)),
        lambda labels: labels.isel(y=slice(None, None, -1)),
        lambda labels: labels.assign_coords(x=labels.x + 5),
        lambda labels: labels.drop_vars("x"),
        lambda labels: labels.odc.assign_crs("EPSG:32611"),
        lambda labels: labels.rename(y="latitude", x="longitude"),
    ],
    ids=["shape", "order", "shifted", "no coordinate", "CRS", "names"],
)
def test_labels_on_another_grid_are_refused(change):
    labels = change(labels_of(np.ones((70, 90), int)))
    with pytest.raises(ValueError, match=r"not on the grid of the field.*differ.*reproject"):
        samplers.stratified(labels, 5, 0)(on_grid(), edges(5, 5))


def test_labels_may_differ_by_rounding_and_lack_a_crs():
    labels = labels_of(np.ones((70, 90), int))
    labels = labels.assign_coords(x=labels.x + 1e-6).drop_vars("spatial_ref")
    assert len(samplers.stratified(labels, 5, 0)(on_grid(), edges(5, 5))) == 5


def cells_in(polygons, field):
    """Row and column of the cells whose centre is in each polygon, by geopandas."""
    y, x = np.meshgrid(field.y, field.x, indexing="ij")
    table = gpd.GeoDataFrame(
        geometry=gpd.points_from_xy(x.ravel(), y.ravel()), crs=field.odc.crs.proj
    )
    joined = gpd.sjoin(table, polygons, predicate="within")
    return {
        name: {divmod(int(i), field.sizes["x"]) for i in part.index}
        for name, part in joined.groupby("cover")
    }


@pytest.mark.parametrize("crs", ["EPSG:32610", "EPSG:4326", None])
def test_polygons_label_the_cells_whose_centre_they_hold(crs):
    rng = np.random.default_rng(3)
    middle = np.stack([rng.uniform(500050, 500850, 9), rng.uniform(4299350, 4299950, 9)], axis=-1)
    fans = shapely.union_all(shapely.buffer(shapely.points(middle), 60))
    rest = shapely.box(500000, 4299300, 500500, 4299700).difference(shapely.buffer(fans, 1))
    polygons = gpd.GeoDataFrame({"cover": ["fan", "rest"]}, geometry=[fans, rest], crs=32610)
    field = on_grid()
    expected = cells_in(polygons, field)
    given_as = polygons.to_crs(crs) if crs else polygons.set_crs(None, allow_override=True)
    with pytest.warns(UserWarning, match=r"'fan': \d+, 'rest': \d+"):
        cells = drawn(samplers.stratified(given_as, 10**6, 0, column="cover"), field)
    assert set(rows(cells)) == expected["fan"] | expected["rest"]
    assert len(cells) == len(expected["fan"]) + len(expected["rest"])
    few = drawn(samplers.stratified(given_as, 11, 0, column="cover"), field)
    assert len(set(rows(few)) & expected["fan"]) == len(set(rows(few)) & expected["rest"]) == 11


def test_the_last_polygon_wins_and_one_without_a_class_is_left_out():
    whole = shapely.box(500000, 4299300, 500900, 4300000)
    west = shapely.box(500000, 4299300, 500200, 4300000)
    polygons = gpd.GeoDataFrame(
        {"code": [4, 2, np.nan]}, geometry=[whole, west, whole], crs=32610, index=[5, 5, 5]
    )
    cells = drawn(samplers.stratified(polygons, 30, 0, column="code"), on_grid())
    assert (cells[:, 1] < 20).sum() == 30
    assert len(cells) == 60


@pytest.mark.parametrize("last", ["east", "west"])
def test_the_last_polygon_wins_across_the_antimeridian_too(last):
    corner = gpd.GeoSeries(gpd.points_from_xy([180], [10]), crs=4326).to_crs(32601).iloc[0]
    field = on_grid((60, 80), Affine(10, 0, corner.x - 400, 0, -10, corner.y + 300), "EPSG:32601")
    # The same place, its longitudes counted from the east and from the west.
    boxes = {
        "east": shapely.box(179.9, 9.9, 180.1, 10.1),
        "west": shapely.box(-180.1, 9.9, -179.9, 10.1),
    }
    names = sorted(boxes, key=lambda name: name == last)
    polygons = gpd.GeoDataFrame({"cover": names}, geometry=[boxes[n] for n in names], crs=4326)
    with pytest.warns(
        UserWarning, match=f"'{names[0]}': 0, '{last}': 4800|'{last}': 4800, '{names[0]}': 0"
    ):
        samplers.stratified(polygons, 10**6, 0, column="cover")(field, edges(1, 1))


def test_a_class_outside_the_field_is_warned_of_and_no_class_at_all_is_refused():
    field = on_grid((20, 20))
    sampler = samplers.stratified(POLYGONS, 3, 0, column="cover")
    with pytest.warns(UserWarning, match=r"\{'forest': 0\}"):
        assert len(sampler(field, edges(5, 5))) == 3
    far = on_grid((20, 20), Affine(10, 0, 600000, 0, -10, 4300000))
    with pytest.raises(ValueError, match=r"No cell.*'forest', 'water'.*CRS"):
        sampler(far, edges(5, 5))
    with pytest.raises(ValueError, match=r"No cell of the field has a class"):
        samplers.stratified(labels_of(np.zeros((70, 90), int), 0), 3, 0)(on_grid(), edges(5, 5))


def test_more_than_255_classes_keep_apart():
    strips = [shapely.box(500000 + 1 * i, 4299300, 500001 + 1 * i, 4300000) for i in range(300)]
    polygons = gpd.GeoDataFrame({"cover": range(300)}, geometry=strips, crs=32610)
    field = on_grid((70, 300), Affine(1, 0, 500000, 0, -10, 4300000))
    cells = drawn(samplers.stratified(polygons, 1, 0, column="cover"), field)
    assert sorted(cells[:, 1].tolist()) == list(range(300))


def test_polygons_of_the_whole_world_are_cut_before_they_are_projected():
    world = gpd.GeoDataFrame(
        {"cover": ["west", "east", "none"]},
        geometry=[
            shapely.box(-180, -85, -122.995, 85),
            shapely.box(-122.995, -85, 180, 85),
            shapely.box(50, -80, 60, 80),
        ],
        crs=4326,
    )
    field = on_grid()
    with pytest.warns(UserWarning, match="'east': [0-9]+, 'none': 0, 'west': [0-9]+"):
        cells = drawn(samplers.stratified(world, 10**6, 0, column="cover"), field, edge=1)
    assert len(cells) == 70 * 90
    few = centres(
        field, drawn(samplers.stratified(world[:2], 50, 0, column="cover"), field, 1), edges(1, 1)
    )
    lon = gpd.GeoSeries(gpd.points_from_xy(*few.T), crs=32610).to_crs(4326).x
    assert (lon < -122.995).sum() == (lon > -122.995).sum() == 50


def test_polygons_that_are_missing_are_refused():
    missing = gpd.GeoDataFrame({"cover": [1, 2]}, geometry=[POLYGONS.geometry[0], None], crs=32610)
    with pytest.raises(ValueError, match=r"1 of 2 places are missing.*\[1\]"):
        samplers.stratified(missing, 3, 0, column="cover")
