from __future__ import annotations

import functools
import json
import pickle
from dataclasses import dataclass

import dask
import numpy as np
import odc.geo.xr  # noqa: F401 - registers .odc
import pytest
import xarray as xr

import xgeocat as xgc
from xgeocat import ApplyToChips, GridSampler, Sequential, Stitch
from xgeocat.patching import models, writing
from xgeocat.patching.pieces import Reducer
from xgeocat.pipeline import describe


def water(batch):
    """A model on bands: (batch, band, y, x) -> (batch, y, x)."""
    return (batch[:, 1] - batch[:, 0]).astype("float32")


class Threshold:
    def __init__(self, at):
        self.at = at

    def __call__(self, batch):
        return batch > self.at


@dataclass(frozen=True)
class Gain:
    """A model that is a dataclass."""

    by: object

    def __call__(self, batch):
        return batch * self.by


@dataclass(frozen=True)
class Power(Reducer):
    """A reducer of one's own: the mean of powers."""

    exponent: int
    weighted = True

    def init(self, shape, dtype, depth):
        return (np.zeros(shape),)

    def fold(self, state, piece):
        piece.add_to(state[0], np.where(piece.mask, piece.values, 0).astype(float) ** self.exponent)

    def finish(self, state, weight):
        return (state[0] / weight) ** (1 / self.exponent)


@pytest.fixture(params=[None, 16], ids=["eager", "lazy"])
def cube(request, make_field):
    """Cube of two bands and one time, as a domain loads it."""
    bands = {
        name: make_field((40, 50), seed=seed, extra={"time": 1}, chunks=request.param)
        for seed, name in enumerate(("red", "nir"))
    }
    when = np.array(["2024-06-01"], "datetime64[ns]")
    return xr.Dataset(bands).assign_coords(time=when)


def steps(**changes):
    """A pipeline whose every parameter can be changed: `size=...`, `window=...`."""
    kinds = {
        GridSampler: {"size": 12, "overlap": 4, "boundary": "shift"},
        ApplyToChips: {"model": water, "batch_size": 8},
        Stitch: {"window": "hann", "crop": 1},
    }
    made = []
    for kind, options in kinds.items():
        fields = kind.__dataclass_fields__
        made.append(kind(**{**options, **{k: v for k, v in changes.items() if k in fields}}))
    return made


# --- one object for three steps -------------------------------------------------------------------


def test_a_pipeline_is_the_three_steps_by_hand(cube):
    got = Sequential(steps())(cube)
    patches = cube.isel(time=0).geocat.patch(12, overlap=4)
    want = patches.geocat.map(water, batch_size=8).geocat.stitch(window="hann", crop=1)
    xr.testing.assert_identical(got.compute(), want.compute())
    assert got.dims == ("y", "x")
    assert got.odc.geobox == cube.odc.geobox


def test_every_parameter_reaches_its_function(make_field):
    field = make_field((20, 23), "int16", nodata=-1)
    field[:, :12] = -1
    seen = []

    def model(batch):
        seen.append(batch.shape)
        return np.stack([batch, batch], axis=1)

    pipe = Sequential(
        [
            GridSampler({"y": 6, "x": 5}, stride={"y": 4, "x": 5}, boundary="drop"),
            ApplyToChips(model, batch_size=3, dims=("head", "y", "x"), fill=-7, skip_empty=True),
            Stitch(reduce="max", crop={"y": 1}, fill=-9),
        ]
    )
    got = pipe(field)
    by_pipe, seen[:] = list(seen), []
    patches = field.geocat.patch({"y": 6, "x": 5}, stride={"y": 4, "x": 5}, boundary="drop")
    answers = patches.geocat.map(
        model, batch_size=3, dims=("head", "y", "x"), fill=-7, skip_empty=True
    )
    xr.testing.assert_identical(got, answers.geocat.stitch(reduce="max", crop={"y": 1}, fill=-9))
    # In memory, a pipeline asks for the kind of answers first, as it does lazily.
    assert by_pipe == [(0, 6, 5), *seen]
    assert got.dims == ("head", "y", "x")
    assert (got[:, :, -3:] == -9).all()


@pytest.mark.parametrize("chunks", [None, 9])
@pytest.mark.parametrize("reduce", ["vote", "median", Power(3)], ids=["vote", "median", "own"])
def test_layers_and_reducers_reach_stitch(make_field, reduce, chunks):
    field = make_field((20, 23), "float64", chunks=chunks)
    window = "boxcar" if reduce == "median" else "hann"
    layers = {"coverage": True, "disagreement": True}
    pipe = Sequential(
        [
            GridSampler(6, overlap=3),
            ApplyToChips(np.sqrt, batch_size=4, fixed_batch=True),
            Stitch(window, reduce, crop=1, **layers),
        ]
    )
    got = pipe(field)
    answers = field.compute().geocat.patch(6, overlap=3).geocat.map(np.sqrt)
    want = answers.geocat.stitch(window=window, reduce=reduce, crop=1, **layers)
    assert list(got) == ["made", "coverage", "disagreement"]
    xr.testing.assert_identical(got.compute(), want)


# --- in memory ------------------------------------------------------------------------------------


def test_what_comes_in_in_memory_goes_out_in_memory(make_field):
    field = make_field((40, 50)).assign_coords(
        lat=(("y", "x"), np.random.default_rng(0).random((40, 50))),
        row=("y", np.arange(40)),
        when=np.datetime64("2024-06-01", "ns"),
    )
    cube = xr.Dataset({"red": field, "nir": field + 1, "note": ("time", [1, 2])})
    pipe = Sequential([GridSampler(12, overlap=4), Stitch("hann", coverage=True)])
    for source in (field, cube):
        got = pipe(source)
        assert not any(variable.chunks for variable in got.variables.values())
        for name in source.coords:
            assert got[name].identical(source[name]), name
    np.testing.assert_allclose(pipe(field)["made"], field, rtol=1e-6)


@pytest.mark.parametrize("shape", [(0, 50), (5, 5), (12, 12), (40, 50), (70, 13)])
def test_in_memory_and_lazy_are_the_same_bits(make_field, shape):
    pipe = Sequential(
        [GridSampler(12, overlap=5), ApplyToChips(Gain(np.linspace(0, 1, 12))), Stitch("hann")]
    )
    field = make_field(shape, "float64")
    xr.testing.assert_identical(pipe(field), pipe(field.chunk(16)).compute())


def test_in_memory_no_model_sees_the_field_itself(make_field):
    def greedy(batch):
        batch *= -1
        return batch

    field = make_field((40, 50))
    before = field.copy(deep=True)
    got = Sequential([GridSampler(40, stride=20), ApplyToChips(greedy), Stitch()])(field)
    xr.testing.assert_identical(field, before)
    np.testing.assert_array_equal(got.values, -field.values)


def test_in_memory_a_large_field_is_worked_through_block_by_block(make_field, monkeypatch):
    """Of patches, of which there are more pixels than in the field, few are held at a time."""
    monkeypatch.setattr(writing, "TARGET_BLOCK", 64)
    seen = []

    def model(batch):
        seen.append(len(batch))
        return batch

    field = make_field((256, 192))
    pipe = Sequential([GridSampler(16, overlap=8), ApplyToChips(model, batch_size=8), Stitch()])
    np.testing.assert_array_equal(pipe(field).values, field.values)
    assert max(seen) == 8
    told = pipe.explain(field)
    assert told.blocks == 4 * 3
    assert told.patches == sum(seen) == 31 * 23
    assert told.recompute == 1


@pytest.mark.usefixtures("no_dask")
def test_explaining_a_pipeline_computes_nothing(make_field):
    field = make_field((40, 50))
    pipe = Sequential(steps(model=np.negative))
    for source in (field, field.chunk(16)):
        told = pipe.explain(source)
        assert told.patches == 5 * 6
        assert told.bytes_read == field.nbytes


@pytest.mark.usefixtures("no_dask")
def test_a_pipeline_on_a_lazy_cube_is_lazy(make_field):
    cube = xr.Dataset({n: make_field((40, 50), chunks=16) for n in ("red", "nir")})
    assert Sequential(steps())(cube).chunks is not None


@pytest.fixture
def no_dask():
    import dask

    def refuse(*args, **kwargs):
        raise AssertionError("something computed")

    with dask.config.set(scheduler=refuse):
        yield


def test_a_pipeline_may_hold_any_function_of_a_field(cube):
    pipe = Sequential(
        [
            lambda c: c / 200,
            *steps()[:2],
            lambda patches: patches * 2,
            steps()[2],
            lambda field: field > 0,
        ]
    )
    assert pipe(cube).dtype == bool


def test_a_pipeline_without_a_model_gives_the_field_back(cube):
    back = Sequential([GridSampler(12, overlap=4), Stitch()])(cube)
    for name in ("red", "nir"):
        np.testing.assert_array_equal(back[name].values, cube[name].isel(time=0).values)


def test_one_pipeline_runs_on_many_fields(make_field):
    pipe = Sequential([GridSampler(12), ApplyToChips(np.negative), Stitch()])
    for seed, shape in enumerate([(5, 5), (40, 50), (12, 12)]):
        field = make_field(shape, seed=seed)
        np.testing.assert_array_equal(pipe(field).values, -field.values)


def test_a_pipeline_can_be_pickled(cube):
    pipe = pickle.loads(
        pickle.dumps(Sequential([GridSampler(12), ApplyToChips(np.negative), Stitch()]))
    )
    assert pipe(cube).sizes == {"band": 2, "y": 40, "x": 50}


NEIGHBOURS = {
    "a difference": lambda field: field.diff("y"),
    "what was before": lambda field: field - field.shift(x=1),
    "a moving mean": lambda field: field.rolling(y=3).mean(),
    "two halves": lambda field: xr.Dataset(
        {"whole": field, "half": field.isel(y=slice(1, None)).rename(y="y2")}
    ),
    "a threshold": lambda field: field > 100,
}


@pytest.mark.parametrize("step", NEIGHBOURS.values(), ids=NEIGHBOURS.keys())
def test_a_step_after_stitching_runs_no_patch_twice(make_field, step):
    seen = []

    def model(batch):
        seen.extend(batch[:, 0, 0].tolist())
        return batch

    field = make_field((40, 50)).copy(data=np.arange(2000.0).reshape(40, 50))
    pipe = Sequential([GridSampler(8, overlap=3), ApplyToChips(model), Stitch(), step])
    made = pipe(field.chunk(y=16, x=16))
    n = len(field.geocat.patch(8, overlap=3)["patch"])
    seen.clear()
    told = made.geocat.explain()
    with dask.config.set(scheduler="sync"):
        made.compute()
    assert len(seen) == len(set(seen)) == n
    assert (told.patches, told.recompute) == (n, 1)


# --- time -----------------------------------------------------------------------------------------


def test_a_time_of_length_one_is_dropped_before_the_model(make_field):
    seen = []

    def model(batch):
        seen.append(batch.shape[1:])
        return batch

    pipe = Sequential([GridSampler(12), ApplyToChips(model), Stitch()])
    one = make_field((24, 24), extra={"time": 1})
    assert pipe(one).dims == ("y", "x")
    assert pipe(xr.Dataset({"red": one})).dims == ("band", "y", "x")
    assert set(seen) == {(12, 12), (1, 12, 12)}


def test_the_time_that_was_dropped_stays_as_a_coordinate(cube):
    got = Sequential(steps())(cube)
    assert got["time"].ndim == 0
    assert got["time"].values == cube["time"].values[0]


def test_a_longer_time_is_kept(make_field):
    field = make_field((24, 24), extra={"time": 3})
    pipe = Sequential([GridSampler(12), ApplyToChips(np.negative), Stitch()])
    assert pipe(field).sizes == {"time": 3, "y": 24, "x": 24}


def test_a_time_that_is_cut_is_kept(make_field):
    field = make_field((24, 24), extra={"time": 1})
    back = Sequential([GridSampler({"time": 1, "y": 12, "x": 12}), Stitch()])(field)
    assert back.sizes == {"time": 1, "y": 24, "x": 24}


# --- order ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ([ApplyToChips(water)], "ApplyToChips comes at place 1.*GridSampler"),
        ([Stitch()], "Stitch comes at place 1.*GridSampler"),
        ([Stitch(), GridSampler(8)], "Stitch comes at place 1"),
        ([ApplyToChips(water), GridSampler(8), Stitch()], "ApplyToChips comes at place 1"),
        ([lambda c: c, Stitch()], "Stitch comes at place 2"),
        ([GridSampler(8), Stitch(), ApplyToChips(water)], "ApplyToChips comes at place 3"),
        ([GridSampler(8), Stitch(), Stitch()], "Stitch comes at place 3"),
        ([GridSampler(8), GridSampler(8), Stitch()], "GridSampler comes at place 2"),
        ([], "at least one step"),
    ],
    ids=lambda value: None if isinstance(value, str) else "-".join(type(s).__name__ for s in value),
)
def test_steps_in_the_wrong_order_are_refused_when_put_together(wrong, message):
    with pytest.raises(ValueError, match=message):
        Sequential(wrong)


@pytest.mark.parametrize("wrong", [3, "GridSampler", None])
def test_a_step_that_cannot_be_called_is_refused(wrong):
    with pytest.raises(TypeError, match="is no step"):
        Sequential([GridSampler(8), wrong])


def test_a_second_round_of_patches_is_in_order(make_field):
    again = [GridSampler(8), ApplyToChips(np.negative), Stitch()]
    field = make_field((24, 24))
    np.testing.assert_array_equal(Sequential(again * 2)(field).values, field.values)


def test_a_pipeline_inside_a_pipeline_counts_as_its_steps(make_field):
    inner = Sequential([GridSampler(8), ApplyToChips(np.negative)])
    field = make_field((24, 24))
    np.testing.assert_array_equal(Sequential([inner, Stitch()])(field).values, -field.values)


@pytest.mark.parametrize("thing", [None, 3, "unet.pth", b"onnx"])
def test_what_is_no_model_is_refused_when_put_together(thing):
    with pytest.raises(TypeError, match=r"is no model. Wanted is a callable of numpy batches"):
        ApplyToChips(thing)


# --- describe -------------------------------------------------------------------------------------


def text(**changes):
    return json.dumps(Sequential(steps(**changes)).describe(), sort_keys=True, allow_nan=False)


def test_a_description_is_plain_json_and_always_the_same():
    assert text() == text()
    said = json.loads(text())
    assert [step["step"] for step in said["steps"]] == ["GridSampler", "ApplyToChips", "Stitch"]
    assert said["steps"][1]["model"].endswith("water")


@pytest.mark.parametrize(
    "change",
    [
        {"size": 13},
        {"size": {"y": 12, "x": 13}},
        {"overlap": 5},
        {"overlap": None, "stride": 7},
        {"boundary": "pad"},
        {"model": np.negative},
        {"name": "water v2"},
        {"dims": ("y", "x")},
        {"fill": 255},
        {"fill": float("nan")},
        {"skip_empty": True},
        {"window": "tukey"},
        {"window": ("tukey", 0.2)},
        {"reduce": "max", "window": "boxcar"},
        {"crop": 2},
        {"crop": {"y": 1}},
        {"coverage": True},
        {"disagreement": True},
        {"reduce": "soft_vote"},
        {"reduce": Power(2)},
    ],
    ids=lambda change: "-".join(change),
)
def test_a_description_changes_with_every_parameter_that_changes_an_answer(change):
    assert text(**change) != text()


def test_a_description_does_not_change_with_the_batches():
    assert text(batch_size=1) == text()
    assert text(fixed_batch=True) == text()


def test_two_settings_of_a_reducer_or_model_that_is_a_dataclass_are_told_apart():
    assert text(reduce=Power(2)) == text(reduce=Power(2))
    assert text(reduce=Power(2)) != text(reduce=Power(3))
    assert text(model=Gain(2.0)) == text(model=Gain(2.0))
    assert text(model=Gain(2.0)) != text(model=Gain(3.0))
    # What is told must be the same in every process.
    assert " at 0x" not in text(model=Gain(Threshold(3)))


def test_a_description_is_plain_json_with_numpy_numbers_too():
    assert text(size=np.int64(12), overlap=np.int64(4), crop=np.int64(1)) == text()


def test_a_name_stands_in_for_the_model():
    assert text(model=np.negative, name="water v2") == text(name="water v2")


def test_two_settings_of_one_model_are_told_apart_or_asked_for_a_name():
    one, two = functools.partial(np.add, 1), functools.partial(np.add, 2)
    assert text(model=one) != text(model=two)


def test_a_model_with_a_name_of_its_own_is_called_by_it(tmp_path):
    class Named(Threshold):
        name = "threshold 3"

    assert json.loads(text(model=Named(3)))["steps"][1]["model"] == "threshold 3"
    assert text(model=Named(3), name="mine") == text(name="mine")
    named = models.on_dataarrays(water)
    assert json.loads(text(model=named))["steps"][1]["model"] == named.name


def write_scale(path, gain):
    onnx = pytest.importorskip("onnx", reason="the tests make ONNX files with onnx")
    pytest.importorskip("onnxruntime", reason="ONNX models need onnxruntime")
    kind, shape = onnx.TensorProto.FLOAT, ["n", 2, "y", "x"]
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("Mul", ["given", "gain"], ["scaled"]),
            onnx.helper.make_node("Neg", ["scaled"], ["minus"]),
        ],
        "scale",
        [onnx.helper.make_tensor_value_info("given", kind, shape)],
        [onnx.helper.make_tensor_value_info(name, kind, shape) for name in ("scaled", "minus")],
        [onnx.helper.make_tensor("gain", kind, [1], [gain])],
    )
    opset = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=9), path)
    return path


def test_the_description_of_a_file_follows_its_weights_and_what_is_asked_of_it(tmp_path):
    (tmp_path / "other").mkdir()
    path = write_scale(tmp_path / "net.onnx", 2.0)
    copy = write_scale(tmp_path / "other" / "net.onnx", 2.0)
    told = text(model=path)
    assert told == text(model=str(path)) == text(model=copy) == text(model=models.as_model(path))
    assert told != text(model=models.onnx_model(path, output="minus"))
    assert told != text(model=write_scale(path, 3.0))


def test_a_file_is_a_model_wherever_one_is_wanted(cube, tmp_path):
    path = write_scale(tmp_path / "net.onnx", 2.0)
    model = models.onnx_model(path, output="scaled")
    got = Sequential([GridSampler(12, overlap=4), ApplyToChips(model), Stitch("hann")])(cube)
    want = cube.isel(time=0).to_dataarray("band") * 2
    np.testing.assert_allclose(got.values, want.values, rtol=1e-6)


def test_any_step_describes_itself_by_its_name_or_in_its_own_words():
    class Own:
        def __call__(self, field):
            return field

        def describe(self):
            return {"step": "own", "gain": 2}

    assert describe(Own()) == {"step": "own", "gain": 2}
    assert describe(water)["step"].endswith("test_pipeline.water")
    assert describe(Threshold(1))["step"].endswith("test_pipeline.Threshold")


def test_a_pipeline_prints_its_steps():
    assert repr(Sequential(steps())) == "Sequential(GridSampler, ApplyToChips, Stitch)"


def test_steps_are_values():
    assert GridSampler(8, overlap=2) == GridSampler(8, overlap=2)
    assert Stitch("hann") != Stitch("tukey")
    with pytest.raises(AttributeError):
        GridSampler(8).size = 9


def test_the_public_names_are_these():
    assert xgc.Sequential is Sequential
    assert {"GridSampler", "ApplyToChips", "Stitch", "Sequential"} <= set(xgc.__all__)
