from __future__ import annotations

import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import cache, partial

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from dask.base import tokenize

from xgeocat.patching import loading, models

GAIN = np.array([1.5, -2.0, 0.25], "float32")


@pytest.fixture
def batch():
    return np.random.default_rng(1).uniform(-9, 9, (5, 3, 6, 4)).astype("float32")


@pytest.fixture
def folder(tmp_path):
    """Folder where every load leaves a file."""
    (tmp_path / "loads").mkdir()
    return tmp_path / "loads"


def loads(folder):
    """How often each process loaded."""
    pids = [int(path.name.split("-")[0]) for path in folder.iterdir()]
    return {pid: pids.count(pid) for pid in pids}


def tell(folder):
    with open(folder / f"{os.getpid()}-{time.perf_counter_ns()}", "x"):
        # Long enough for all the threads of a test to be there before it ends.
        time.sleep(0.05)


def double(batch):
    return batch * 2


def make_double(folder):
    tell(folder)
    return double


def make_nothing():
    return None


def run_often(model, batch, times=6):
    """What a worker does: unpickle the model for every task, in several threads."""
    packed = pickle.dumps(model)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: pickle.loads(packed)(batch), range(times)))
    assert all(np.array_equal(a, answers[0]) for a in answers)
    return os.getpid(), answers[0]


def in_fresh_processes(*calls, processes=2):
    """Results of calls in processes that inherit nothing."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=spawn) as pool:
        return [f.result(timeout=120) for f in [pool.submit(*call) for call in calls]]


def in_fork(function):
    """Exit code of a fork of this process that runs a function."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = multiprocessing.get_context("fork").Process(target=function)
        child.start()
    child.join(60)
    if child.is_alive():
        child.kill()
        pytest.fail("the fork hangs")
    return child.exitcode


# --- loaded once ----------------------------------------------------------------------------------


def test_a_model_is_loaded_with_the_first_batch_once_for_all_threads(folder, batch):
    model = models.load(partial(make_double, folder))
    assert loads(folder) == {}
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(model, [batch] * 24))
    assert loads(folder) == {os.getpid(): 1}
    for answer in answers:
        np.testing.assert_array_equal(answer, batch * 2)


def test_a_model_is_loaded_once_in_every_process_however_often_it_is_unpickled(folder, batch):
    model = models.load(partial(make_double, folder))
    done = in_fresh_processes(*[(run_often, model, batch)] * 6)
    pids = {pid for pid, _ in done}
    assert os.getpid() not in pids
    assert loads(folder) == dict.fromkeys(pids, 1)
    np.testing.assert_array_equal(done[0][1], batch * 2)


def test_a_fork_loads_for_itself_even_while_another_thread_was_loading(folder, batch):
    model = models.load(partial(make_double, folder))
    busy = threading.Thread(target=model, args=(batch,))
    busy.start()
    assert in_fork(lambda: np.testing.assert_array_equal(model(batch), batch * 2)) == 0
    busy.join()
    model(batch)
    assert sorted(loads(folder).values()) == [1, 1]


def test_two_models_load_at_the_same_time(folder):
    # Each waits for the other, which would never come under one lock for all.
    meet = threading.Barrier(2, timeout=20)

    def make(sign):
        meet.wait()
        return lambda batch: sign * batch

    both = [models.load(partial(make, sign)) for sign in (1, -1)]
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(lambda model: model(np.float32(3)), both)) == [3, -3]


def test_a_load_that_failed_is_tried_again(folder):
    tries = []

    def make():
        tries.append(len(tries))
        if len(tries) == 1:
            raise OSError("the disk is away")
        return double

    model = models.load(make)
    with pytest.raises(OSError, match="the disk is away"):
        model(np.ones(1))
    assert model(np.ones(1)) == 2
    assert len(tries) == 2


def make_product(factor):
    return partial(np.multiply, factor)


def test_a_process_keeps_a_few_models_those_used_last(folder, batch):
    used = models.load(partial(make_double, folder))
    for factor in range(loading.KEPT + 3):
        np.testing.assert_array_equal(used(batch), batch * 2)
        other = models.load(partial(make_product, factor))
        np.testing.assert_array_equal(other(batch), batch * factor)
    assert loads(folder) == {os.getpid(): 1}
    assert len(loading._here.slots) == loading.KEPT


def test_the_same_factory_is_the_same_model(folder, batch):
    for _ in range(3):
        models.load(partial(make_double, folder))(batch)
    assert loads(folder) == {os.getpid(): 1}


def test_a_factory_that_cannot_be_called_or_returns_no_model_is_refused(batch):
    with pytest.raises(TypeError, match=r"factory=3 cannot be called. Give a function"):
        models.load(3)
    with pytest.raises(TypeError, match=r"make_nothing returned None; it must return a callable"):
        models.load(make_nothing)(batch)


def test_a_model_says_what_it_is(folder):
    model = models.load(partial(make_double, "here"))
    assert model.name == f"{__name__}.make_double('here')"
    assert repr(model) == f"LoadedOnce({model.name})"
    assert models.load(make_nothing).name == f"{__name__}.make_nothing"


def test_tokens_are_the_same_in_every_process():
    model = models.load(partial(make_double, "here"))
    other = models.load(partial(make_double, "there"))
    assert tokenize(model) != tokenize(other)
    assert in_fresh_processes((token_of_a_factory,)) == [tokenize(model)]
    assert tokenize(pickle.loads(pickle.dumps(model))) == tokenize(model)
    assert pickle.loads(pickle.dumps(model)) == model != other


def token_of_a_factory():
    return tokenize(models.load(partial(make_double, "here")))


# --- functions of a DataArray ---------------------------------------------------------------------


def ndvi(bands):
    assert not bands.coords
    red, nir = bands.isel(band=0), bands.isel(band=1)
    return (nir - red) / (nir + red)


def test_a_function_of_a_dataarray_gets_named_dims(batch):
    positive = np.abs(batch) + 1
    model = models.on_dataarrays(ndvi)
    red, nir = positive[:, 0], positive[:, 1]
    np.testing.assert_array_equal(model(positive), (nir - red) / (nir + red))
    assert model.name == f"{__name__}.ndvi"
    assert pickle.loads(pickle.dumps(model)) == model
    assert tokenize(model) == tokenize(models.on_dataarrays(ndvi))


def test_its_answer_is_brought_into_order(batch):
    def classes(patches):
        parts = xr.concat([patches > 0, patches <= 0], "class")
        return parts.transpose("y", "class", "x", "patch", "band")

    answer = models.on_dataarrays(classes)(batch)
    np.testing.assert_array_equal(answer, np.stack([batch > 0, batch <= 0], axis=1))


def test_dims_may_be_named(batch):
    dims = ("patch", "time", "lat", "lon")
    model = models.on_dataarrays(lambda p: p.mean("time"), dims=dims)
    np.testing.assert_array_equal(model(batch), batch.mean(1))


@pytest.mark.parametrize("dims", [("band", "patch", "y", "x"), ("patch", "y", "y"), ()])
def test_dims_without_patch_in_front_are_refused(dims):
    with pytest.raises(
        ValueError, match=r"must name the dims of a batch, each once, 'patch' first"
    ):
        models.on_dataarrays(double, dims=dims)


def test_answers_and_batches_of_another_kind_are_refused(batch):
    with pytest.raises(
        ValueError, match=r"shape \(5, 6, 4\), but its dims are named \('patch', 'b"
    ):
        models.on_dataarrays(double)(batch[:, 0])
    with pytest.raises(TypeError, match=r"returned a DataArray \(dims: \('band',"):
        models.on_dataarrays(lambda p: p.mean("patch"))(batch)
    with pytest.raises(
        TypeError, match=r"returned a ndarray \(dims: none\); it must return a Data"
    ):
        models.on_dataarrays(lambda p: p.values)(batch)


# --- files ----------------------------------------------------------------------------------------


def test_a_file_that_is_not_there_is_refused_at_once(tmp_path):
    pytest.importorskip("onnxruntime", reason="ONNX models need onnxruntime")
    with pytest.raises(FileNotFoundError, match=r"no model file at .*away.onnx. Give the path"):
        models.as_model(tmp_path / "away.onnx")
    with pytest.raises(FileNotFoundError, match=r"no model file at"):
        models.onnx_model(tmp_path)


def test_the_name_of_a_file_follows_its_content_only(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    for path in (tmp_path / "net.pt", tmp_path / "elsewhere" / "net.pt"):
        path.write_bytes(b"weights")
    first, second = (loading.ModelFile.find(p) for p in sorted(tmp_path.rglob("net.pt")))
    assert first.name == second.name
    assert first.name.startswith("net.pt@")
    assert len(first.name) == len("net.pt@") + 12
    second.path.write_bytes(b"other weights")
    assert loading.ModelFile.find(second.path).name != first.name


def test_a_path_holds_wherever_a_process_was_started(tmp_path, monkeypatch):
    (tmp_path / "net.pt").write_bytes(b"weights")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert loading.ModelFile.find("net.pt") == loading.ModelFile.find("~/net.pt")
    assert loading.ModelFile.find("net.pt").path == tmp_path / "net.pt"


# --- ONNX -----------------------------------------------------------------------------------------


@pytest.fixture
def onnx():
    pytest.importorskip("onnxruntime", reason="ONNX models need onnxruntime")
    return pytest.importorskip("onnx", reason="the tests make ONNX files with onnx")


@pytest.fixture
def write_onnx(onnx, tmp_path):
    """Factory of ONNX files that multiply each band by GAIN."""
    from onnx import helper, numpy_helper

    def write(
        name="net.onnx", n="n", dtype="float32", inputs=("x",), outputs=("y",), gain=GAIN, **how
    ):
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        gains = np.asarray(gain).reshape(-1, 1, 1).astype(dtype)
        nodes = [helper.make_node("Mul", ["x", "gain"], ["y"], name="scale")]
        nodes += [helper.make_node("Neg", ["y"], [extra]) for extra in outputs[1:]]
        shape = [n, 3, "rows", "cols"]
        graph = helper.make_graph(
            nodes,
            "water",
            [helper.make_tensor_value_info(i, kind, shape) for i in inputs],
            [helper.make_tensor_value_info(o, kind, shape) for o in outputs],
            [numpy_helper.from_array(gains, "gain")],
        )
        opset = [helper.make_opsetid("", 17)]
        made = helper.make_model(graph, opset_imports=opset, ir_version=9)
        onnx.save(made, tmp_path / name, **how)
        return tmp_path / name

    return write


def scaled(batch):
    return batch.astype("float32") * GAIN[:, None, None]


def count_sessions(model, batch):
    """Sessions that a process opens for many tasks."""
    import onnxruntime

    opened = []
    original = onnxruntime.InferenceSession

    class Counted(original):
        def __init__(self, *args, **kwargs):
            opened.append(args)
            time.sleep(0.05)
            super().__init__(*args, **kwargs)

    onnxruntime.InferenceSession = Counted
    try:
        return len(opened), *run_often(model, batch), len(opened)
    finally:
        onnxruntime.InferenceSession = original


def test_an_onnx_file_runs_on_batches_of_any_length(write_onnx, batch):
    model = models.onnx_model(write_onnx())
    assert model.batch_size is None
    for n in (5, 1, 0):
        answer = model(batch[:n])
        assert answer.dtype == np.float32
        np.testing.assert_array_equal(answer, scaled(batch[:n]))


def test_it_runs_from_bytes(write_onnx, batch):
    model = models.onnx_model(write_onnx().read_bytes())
    np.testing.assert_array_equal(model(batch), scaled(batch))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model))(batch), scaled(batch))
    assert model.name.startswith("onnx@")


@pytest.mark.parametrize(
    "dtype", ["uint16", "uint8", "int16", "int64", "float64", "float16", ">f4", "bool"]
)
def test_batches_are_cast_to_what_it_takes(write_onnx, batch, dtype):
    given = np.abs(batch).astype(dtype)
    answer = models.onnx_model(write_onnx())(given)
    assert answer.dtype == np.float32
    np.testing.assert_array_equal(answer, scaled(given))


def test_batches_that_are_views_run_too(write_onnx, batch):
    view = np.broadcast_to(batch[:, :, ::-1, ::2].transpose(0, 1, 3, 2), (5, 3, 2, 6))
    view.flags.writeable = False
    np.testing.assert_array_equal(models.onnx_model(write_onnx())(view), scaled(view))


def test_whole_numbers_must_not_wrap_around(write_onnx, batch):
    model = models.onnx_model(write_onnx(dtype="int32", gain=[1, 2, 3]))
    whole = np.round(batch)
    np.testing.assert_array_equal(model(whole), whole * np.array([1, 2, 3])[:, None, None])
    with pytest.raises(
        ValueError, match=r"takes int32, which cannot hold all values of a batch of float32 \(-"
    ):
        model(batch)
    for wrong in (np.full_like(batch, np.nan), np.full(batch.shape, 2**40)):
        with pytest.raises(ValueError, match=r"cannot hold all values"):
            model(wrong)


@pytest.mark.parametrize("n", [0, 1, 3, 4, 5, 8])
def test_a_fixed_batch_size_is_told_and_any_batch_is_cut_and_filled_up(write_onnx, n):
    model = models.onnx_model(write_onnx(n=4))
    assert model.batch_size == 4
    batch = np.random.default_rng(n).random((n, 3, 6, 4), "float32")
    np.testing.assert_array_equal(model(batch), scaled(batch))


def test_one_of_several_outputs_must_be_named(write_onnx, batch):
    path = write_onnx(outputs=("y", "minus"))
    with pytest.raises(ValueError, match=r"outputs \['y', 'minus'\]. Name the one .*output='y'"):
        models.onnx_model(path)(batch)
    with pytest.raises(ValueError, match=r"output='z': this ONNX model has the outputs"):
        models.onnx_model(path, output="z")(batch)
    np.testing.assert_array_equal(models.onnx_model(path, output="y")(batch), scaled(batch))
    np.testing.assert_array_equal(models.onnx_model(path, output="minus")(batch), -scaled(batch))


def test_several_inputs_are_refused(write_onnx, batch):
    with pytest.raises(ValueError, match=r"takes 2 inputs, \['x', 'aux'\]; one is wanted"):
        models.onnx_model(write_onnx(inputs=("x", "aux")))(batch)


def test_an_input_of_another_type_is_refused(onnx, tmp_path, batch):
    from onnx import TensorProto, helper

    value = partial(helper.make_tensor_value_info, elem_type=TensorProto.STRING, shape=["n"])
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])], "words", [value("x")], [value("y")]
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), tmp_path / "words.onnx")
    with pytest.raises(
        ValueError, match=r"Input 'x' of this ONNX model is a tensor\(string\); wan"
    ):
        models.onnx_model(tmp_path / "words.onnx")(batch)


def test_a_provider_that_is_not_there_is_refused(write_onnx, batch):
    path = write_onnx()
    wrong = models.onnx_model(path, providers=[("CUDAExecutionProvider", {"device_id": 9})])
    with pytest.raises(
        ValueError, match=r"\['CUDAExecutionProvider'\] cannot run here; this process has"
    ):
        wrong(batch)
    right = models.onnx_model(path, providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(right(batch), scaled(batch))


@pytest.mark.slow
def test_an_onnx_file_is_opened_once_in_every_process(write_onnx, batch):
    model = models.onnx_model(write_onnx())
    before, _, answer, after = count_sessions(model, batch)
    assert (before, after) == (0, 1)
    for before, _, there, after in in_fresh_processes((count_sessions, model, batch)):
        assert (before, after) == (0, 1)
        np.testing.assert_array_equal(there, answer)


def test_a_fork_opens_it_again(write_onnx, batch):
    model = models.onnx_model(write_onnx())
    model(batch)
    assert in_fork(lambda: np.testing.assert_array_equal(model(batch), scaled(batch))) == 0
    np.testing.assert_array_equal(model(batch), scaled(batch))


def test_a_fork_leaves_the_threads_of_a_session_alone(write_onnx, batch):
    # Taken apart in a fork, a session joins threads that are not there, and the process crashes.
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 8
    models.as_model(onnxruntime.InferenceSession(write_onnx(), options))(batch)

    def use_many():
        for factor in range(loading.KEPT + 1):
            models.load(partial(make_product, factor))(batch)

    assert in_fork(use_many) == 0


def test_only_its_path_travels(write_onnx):
    path = write_onnx(gain=np.ones(3000))
    assert path.stat().st_size > 12000
    assert len(pickle.dumps(models.onnx_model(path))) < 1000


def test_a_file_that_changed_is_refused(write_onnx, batch):
    path = write_onnx()
    model = models.onnx_model(path)
    write_onnx(gain=[1, 1, 1])
    with pytest.raises(
        ValueError, match=r"net.onnx changed after it was given .* was net.onnx@\w+ and is net"
    ):
        model(batch)
    np.testing.assert_array_equal(models.onnx_model(path)(batch), batch)


def test_weights_beside_an_onnx_file_count_as_its_content(write_onnx, batch):
    how = {"save_as_external_data": True, "location": "weights.bin", "size_threshold": 0}
    path = write_onnx(**how)
    first = models.onnx_model(path)
    np.testing.assert_array_equal(first(batch), scaled(batch))
    own = path.read_bytes()
    (path.parent / "weights.bin").unlink()
    write_onnx(gain=[1, 1, 1], **how)
    assert path.read_bytes() == own
    second = models.onnx_model(path)
    assert second.name != first.name
    assert tokenize(second) != tokenize(first)
    np.testing.assert_array_equal(second(batch), batch)


def test_the_token_of_an_onnx_model_follows_file_and_options(write_onnx):
    path = write_onnx()
    same = [tokenize(models.onnx_model(p)) for p in (path, str(path), path)]
    other = [
        tokenize(models.onnx_model(path, output="y")),
        tokenize(models.onnx_model(path, providers=["CPUExecutionProvider"])),
        tokenize(models.onnx_model(write_onnx(gain=[1, 1, 1]))),
    ]
    assert len(set(same)) == 1
    assert len({*same, *other}) == 4
    named = models.onnx_model(path).name
    assert models.onnx_model(path, output="y").name == f"{named} output y"
    assert models.onnx_model(path, providers=["CPUExecutionProvider"]).name == named


def test_a_live_session_runs_here_and_says_why_it_does_not_travel(write_onnx, batch):
    import onnxruntime

    session = onnxruntime.InferenceSession(write_onnx(), providers=["CPUExecutionProvider"])
    model = models.as_model(session)
    np.testing.assert_array_equal(model(batch), scaled(batch))
    again = models.as_model(session)
    assert model.name.startswith("onnx water@")
    assert tokenize(model) == tokenize(model) != tokenize(again)
    assert model.name != again.name
    with pytest.raises(TypeError, match=r"cannot travel to other processes. Give the path of"):
        pickle.dumps(model)


def test_an_onnx_model_maps_over_patches(write_onnx, positive):
    model = models.as_model(write_onnx())
    field = positive((40, 30), dtype="uint16", dims=("y", "x")).expand_dims(band=["a", "b", "c"])
    want = scaled(field.values)
    lazy = field.chunk({"y": 16, "x": 16}).geocat.patch(8, overlap=2).geocat.map(model)
    for scheduler in ("threads", "synchronous"):
        with dask.config.set(scheduler=scheduler):
            np.testing.assert_allclose(lazy.geocat.stitch().values, want, rtol=1e-6)


def test_it_runs_in_dask_processes(write_onnx, batch):
    model = models.onnx_model(write_onnx())
    blocks = da.from_array(np.concatenate([batch] * 4), chunks=(5, -1, -1, -1))
    answers = blocks.map_blocks(model, dtype="float32", meta=np.empty((0,) * 4, "float32"))
    got = answers.compute(scheduler="processes", num_workers=2)
    np.testing.assert_array_equal(got, scaled(np.concatenate([batch] * 4)))


# --- whatever it was given for one ----------------------------------------------------------------


def test_a_callable_stays_as_it_is():
    for thing in (double, np.negative, partial(np.add, 1), models.load(make_nothing)):
        assert models.as_model(thing) is thing


@pytest.mark.parametrize("thing", [None, 3, "resnet50", "net.pth", b"onnx"])
def test_anything_else_is_refused(thing):
    with pytest.raises(
        TypeError,
        match=r"is no model. Wanted is a callable of numpy .* ends in .onnx, .pt, .pt2, .ts.",
    ):
        models.as_model(thing)


def test_nothing_heavy_is_imported_before_it_is_needed():
    code = (
        "import sys; from xgeocat.patching import models; models.as_model(len);"
        "print([m for m in ('torch', 'onnxruntime', 'cloudpickle') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = done.stdout.strip()
    assert heavy in ("[]", "['cloudpickle']")  # dask imports cloudpickle by itself


@pytest.mark.parametrize(
    ("package", "extra", "make"),
    [
        ("torch", "torch", lambda: models.torch_model(make_nothing)),
        ("torch", "torch", lambda: models.as_model("net.pt")),
        ("onnxruntime", "onnx", lambda: models.as_model("net.onnx")),
    ],
)
def test_a_package_that_is_not_there_is_named_with_its_extra(monkeypatch, package, extra, make):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        ImportError, match=rf'needs {package}, .*: pip install "xgeocat\[{extra}\]"'
    ):
        make()


# --- torch ----------------------------------------------------------------------------------------


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="torch models need torch")


@cache
def gain_class():
    """Class of a network that multiplies each band; in training it doubles that."""
    import torch

    class Gain(torch.nn.Module):
        def __init__(self, gain):
            super().__init__()
            self.gain = torch.nn.Parameter(torch.tensor(gain).reshape(-1, 1, 1))

        def forward(self, x):
            if self.training:
                x = x * 2
            return x * self.gain

    return Gain


def make_net(folder=None, gain=GAIN):
    import torch

    if folder is not None:
        tell(folder)
    return torch.nn.Sequential(gain_class()(gain))


def make_tuple_net():
    import torch

    class Two(torch.nn.Module):
        def forward(self, x):
            return {"out": x, "aux": x}

    return Two()


@pytest.fixture
def script(torch, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(make_net()), tmp_path / "net.ts")
    return tmp_path / "net.ts"


@pytest.fixture
def export(torch, tmp_path):
    def write(n=None):
        dims = ({0: torch.export.Dim("n"), 2: torch.export.Dim("y"), 3: torch.export.Dim("x")},)
        example = (torch.zeros(n or 2, 3, 6, 4),)
        program = torch.export.export(
            make_net().eval(), example, dynamic_shapes=None if n else dims
        )
        torch.export.save(program, tmp_path / "net.pt2")
        return tmp_path / "net.pt2"

    return write


@pytest.fixture(params=["module", "factory", "script", "export"])
def source(request, torch):
    if request.param == "module":
        return make_net()
    if request.param == "factory":
        return make_net
    made = request.getfixturevalue(request.param)
    return made() if request.param == "export" else made


@pytest.mark.parametrize("dtype", ["float32", "uint16", "uint8", "int64", "float64", "bool", ">f4"])
def test_every_source_runs_in_evaluation_on_any_dtype(source, batch, dtype):
    model = models.torch_model(source)
    given = np.abs(batch).astype(dtype)
    kept = given.copy()
    answer = model(given)
    assert type(answer) is np.ndarray
    assert answer.dtype == np.float32
    np.testing.assert_array_equal(answer, scaled(given))
    np.testing.assert_array_equal(given, kept)
    np.testing.assert_array_equal(model(given[:1]), scaled(given[:1]))
    np.testing.assert_array_equal(model(given[:0]), scaled(given[:0]))


@pytest.mark.slow
def test_it_runs_in_other_processes(torch, source, batch):
    model = models.torch_model(source)
    for _, answer in in_fresh_processes(*[(run_often, model, batch)] * 2):
        np.testing.assert_array_equal(answer, scaled(batch))


def test_it_is_loaded_once_in_every_process(torch, folder, batch):
    model = models.torch_model(partial(make_net, folder))
    assert loads(folder) == {}
    here, _ = run_often(model, batch)
    done = in_fresh_processes(*[(run_often, model, batch)] * 4, processes=1)
    assert loads(folder) == {here: 1} | {pid: 1 for pid, _ in done}


def test_a_network_is_unpacked_once_however_many_tasks_carry_it(torch, batch, monkeypatch):
    read = []
    load = torch.load
    monkeypatch.setattr(torch, "load", lambda *a, **k: read.append(a) or load(*a, **k))
    model = models.torch_model(make_net(gain=np.array([3, 4, 5.5], "float32")))
    run_often(model, batch, times=20)
    run_often(models.torch_model(make_net(gain=np.array([3, 4, 5.5], "float32"))), batch)
    assert len(read) == 1


def test_a_class_of_a_notebook_travels(torch, batch, tmp_path):
    # What is defined in __main__ has no name that another process could import.
    code = f"""
import pickle, torch, numpy as np
from xgeocat.patching import loading, models
class Plus(torch.nn.Module):
    def forward(self, x):
        return x + 1
if __name__ == "__main__":
    with open({str(tmp_path / "model")!r}, "wb") as file:
        pickle.dump(models.torch_model(Plus()), file)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
    model = pickle.loads((tmp_path / "model").read_bytes())
    np.testing.assert_array_equal(model(batch), batch + 1)
    assert model.name.startswith("__main__.Plus@")


def test_a_network_is_taken_as_it_is_now_and_left_alone(torch, batch):
    net = make_net()
    model = models.as_model(net)
    assert net.training
    with torch.no_grad():
        net[0].gain += 1
    np.testing.assert_array_equal(model(batch), scaled(batch))
    assert net.training
    assert all(p.requires_grad and p.device.type == "cpu" for p in net.parameters())
    later = models.as_model(net)
    assert later.name != model.name
    assert tokenize(later) != tokenize(model)
    np.testing.assert_allclose(later(batch), scaled(batch) + batch, rtol=1e-6)


def test_a_layer_in_place_does_not_change_the_batch(torch, batch):
    kept = batch.copy()
    answer = models.torch_model(torch.nn.ReLU(inplace=True))(batch)
    np.testing.assert_array_equal(answer, np.maximum(batch, 0))
    np.testing.assert_array_equal(batch, kept)


def test_one_batch_at_a_time(torch, batch):
    inside, most = [], []

    def make():
        class Slow(torch.nn.Module):
            def forward(self, x):
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.01)
                inside.pop()
                return x

        return Slow()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(models.torch_model(make), [batch] * 12))
    assert most == [1] * 12


def test_no_gradients_are_kept(torch, batch):
    modes = []

    def make():
        class Look(torch.nn.Module):
            def forward(self, x):
                modes.append(torch.is_inference_mode_enabled())
                return x

        return Look()

    models.torch_model(make)(batch)
    assert modes == [True]


@pytest.mark.parametrize(
    ("dtype", "want"), [("float16",) * 2, ("bfloat16", "float32"), ("float64",) * 2]
)
def test_a_floating_dtype_is_that_of_batches_and_network(torch, batch, dtype, want):
    whole = np.abs(np.round(batch)).astype("uint16")
    for asked in (dtype, getattr(torch, dtype)):
        answer = models.torch_model(make_net(), dtype=asked)(whole)
        assert answer.dtype == want
        np.testing.assert_array_equal(answer, scaled(whole))


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint8", "bool"])
def test_a_whole_dtype_is_that_of_batches(torch, batch, dtype):
    whole = (np.abs(batch) > 4).astype("uint16")
    for asked in (dtype, getattr(torch, dtype)):
        answer = models.torch_model(torch.nn.Identity(), dtype=asked)(whole)
        assert answer.dtype == dtype
        np.testing.assert_array_equal(answer, whole)


def test_values_that_a_whole_dtype_cannot_hold_are_refused(torch, batch):
    with pytest.raises(
        ValueError, match=r"takes int32, which cannot hold all values of a batch of fl"
    ):
        models.torch_model(torch.nn.Identity, dtype="int32")(batch)


def test_a_dtype_that_torch_does_not_know_is_refused(torch, batch):
    with pytest.raises(ValueError, match=r"dtype='float23' is no dtype of torch. Give one"):
        models.torch_model(torch.nn.Identity, dtype="float23")(batch)


@pytest.mark.parametrize("device", ["cuda:99", "gpu", "meta"])
def test_a_device_that_is_not_there_is_refused_with_what_is(torch, batch, device):
    with pytest.raises(
        ValueError, match=rf"device='{device}' cannot be used: this process has \['cpu'"
    ):
        models.torch_model(make_net, device=device)(batch)


def test_cuda_without_a_gpu_is_refused(torch, batch):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(
        ValueError, match=r"device='cuda' cannot be used: this process has \['cpu'\]"
    ):
        models.torch_model(make_net, device="cuda")(batch)


def test_every_source_runs_on_cuda(torch, source, batch):
    if not torch.cuda.is_available():
        pytest.skip("there is no GPU here")
    for device in (None, "cuda", "cuda:0"):
        model = models.torch_model(source, device=device)
        np.testing.assert_allclose(model(batch), scaled(batch), rtol=1e-6)


def test_an_exported_network_of_one_batch_size_takes_any_batch(torch, export, batch):
    model = models.as_model(export(n=2))
    assert model.batch_size == 2
    for n in range(6):
        np.testing.assert_array_equal(model(batch[:n]), scaled(batch[:n]))


def test_an_exported_network_of_several_inputs_is_refused(torch, tmp_path, batch):
    class Two(torch.nn.Module):
        def forward(self, x, y):
            return x + y

    zeros = torch.zeros(2, 3, 6, 4)
    torch.export.save(torch.export.export(Two(), (zeros, zeros)), tmp_path / "two.pt2")
    with pytest.raises(ValueError, match=r"takes 2 inputs, \['x', 'y'\]; one is wanted, the batch"):
        models.as_model(tmp_path / "two.pt2")(batch)


@pytest.mark.parametrize("what", ["weights", "network", "text"])
def test_files_without_a_program_are_refused(torch, tmp_path, batch, what):
    path = tmp_path / "net.pt"
    if what == "text":
        path.write_text("not a network")
    else:
        torch.save(make_net().state_dict() if what == "weights" else torch.nn.ReLU(), path)
    kind = ". Give" if what == "text" else ", but a checkpoint. Give"
    with pytest.raises(
        ValueError, match=rf"neither a TorchScript nor a torch.export file{kind} models.torch"
    ):
        models.as_model(path)(batch)


def test_a_torch_file_that_changed_is_refused(torch, script, batch):
    model = models.as_model(script)
    script.write_bytes(b"other")
    with pytest.raises(ValueError, match=r"net.ts changed after it was given as a model"):
        model(batch)


def test_only_paths_and_factories_travel(torch, script):
    assert len(pickle.dumps(models.torch_model(script))) < 1000
    assert len(pickle.dumps(models.torch_model(make_net))) < 1000


def test_sources_of_another_kind_are_refused(torch, batch):
    with pytest.raises(TypeError, match=r"source=3 is no torch model. Give a torch.nn.Module"):
        models.torch_model(3)
    with pytest.raises(
        TypeError, match=r"make_nothing returned None; it must return a torch.nn.Mod"
    ):
        models.torch_model(make_nothing)(batch)
    with pytest.raises(TypeError, match=r"is no model. .*\(an instance, not its class\)"):
        models.as_model(torch.nn.ReLU)


def test_answers_of_another_kind_are_refused(torch, batch):
    with pytest.raises(
        TypeError, match=r"answered with a dict; it must answer with one tensor. Wrap"
    ):
        models.torch_model(make_tuple_net)(batch)


def test_a_network_that_cannot_be_pickled_is_refused_with_the_way_out(torch, export):
    exported = torch.export.load(export()).module()
    with pytest.raises(
        TypeError, match=r"cannot be pickled \(.*\). Give a function .* torch.export.save"
    ):
        models.as_model(exported)
    locked = torch.nn.ReLU()
    locked.lock = threading.Lock()
    with pytest.raises(TypeError, match=r"This ReLU cannot be pickled"):
        models.as_model(locked)


def test_a_factory_may_return_an_exported_network(torch, export, batch):
    path = export()
    model = models.torch_model(lambda: torch.export.load(path).module())
    np.testing.assert_array_equal(model(batch), scaled(batch))


def described(kind):
    import torch

    torch.manual_seed(3)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU())
    if kind == "script":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            net = torch.jit.script(net)
    return models.torch_model(net).name


@pytest.mark.parametrize("kind", ["plain", "script"])
def test_the_name_of_a_network_is_the_same_in_every_process(torch, kind):
    here = described(kind)
    assert in_fresh_processes((described, kind)) == [here] == [described(kind)]
    assert here.startswith("torch.")
    assert len(here.rpartition("@")[2]) == 12


def test_names_and_tokens_tell_networks_apart(torch):
    conv = partial(torch.nn.Conv2d, 3, 3, 3, bias=False)
    torch.manual_seed(0)
    one, other = conv(), conv()
    moved = conv(padding=1)
    moved.load_state_dict(one.state_dict())
    hot, cold = torch.nn.Identity(), torch.nn.Identity()
    hot.factor = 3.0
    nets = [one, other, moved, conv().double(), torch.nn.ReLU(), torch.nn.Sigmoid(), hot, cold]
    made = [models.torch_model(net) for net in nets]
    assert len({m.name for m in made}) == len({tokenize(m) for m in made}) == len(nets)
    assert models.torch_model(cold.train()).name == models.torch_model(cold.eval()).name


def test_a_network_maps_over_patches(torch, positive):
    model = models.as_model(make_net())
    field = positive((40, 30), dtype="uint16").expand_dims(band=["a", "b", "c"])
    answers = field.chunk({"y": 16, "x": 16}).geocat.patch(8, overlap=2).geocat.map(model)
    np.testing.assert_allclose(answers.geocat.stitch().values, scaled(field.values), rtol=1e-6)


def test_the_name_says_what_else_the_answers_depend_on(torch):
    net = torch.nn.ReLU()
    plain, half = models.torch_model(net), models.torch_model(net, dtype=torch.float16)
    assert half.name == f"{plain.name} in float16"
    assert models.torch_model(net, device="cpu").name == plain.name


def test_short_floats_and_scalars_are_hashed(torch):
    net = torch.nn.BatchNorm2d(3).to(torch.bfloat16)
    assert models.torch_model(net).name != models.torch_model(torch.nn.BatchNorm2d(3)).name


# --- on a cluster ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def client():
    """Client of two worker processes of two threads."""
    from distributed import Client, LocalCluster

    cluster = LocalCluster(
        n_workers=2, threads_per_worker=2, processes=True, dashboard_address=None, memory_limit=0
    )
    with cluster, Client(cluster, set_as_default=False) as client:
        yield client


def make_big_double(folder):
    """A model of 40 MB."""
    tell(folder)
    gain = np.full(10_000_000, 2, "float32")
    return lambda batch: batch * gain[0]


def big_field(positive):
    """A field of 64 blocks that takes no room in a graph."""
    like = positive((512, 512))
    return like.copy(data=da.full(like.shape, 3, dtype="float32", chunks=64))


@pytest.mark.slow
def test_workers_of_a_cluster_load_once_each(client, folder, positive):
    field = big_field(positive)
    workers = set(client.run(os.getpid).values())
    for _ in range(2):
        answers = field.geocat.patch(32, overlap=8).geocat.map(
            models.load(partial(make_big_double, folder)), meta=np.empty((0, 32, 32), "float32")
        )
        assert len(pickle.dumps(answers.geocat.stitch().data.dask)) < 200_000
        assert len(pickle.dumps(answers.geocat.stitch())) < 200_000
        np.testing.assert_allclose(client.compute(answers.geocat.stitch()).result(), 6, rtol=1e-6)
    assert loads(folder) == dict.fromkeys(workers, 1)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["onnx", "torch"])
def test_workers_of_a_cluster_read_a_file_themselves(client, positive, kind, request):
    if kind == "torch":
        path = request.getfixturevalue("export")()
    else:
        path = request.getfixturevalue("write_onnx")()
        big = request.getfixturevalue("onnx").load(path)
        big.doc_string = "4 MB of text " * 300_000
        path.write_bytes(big.SerializeToString())
    field = big_field(positive).expand_dims(band=["a", "b", "c"])
    answers = field.geocat.patch(32, overlap=8).geocat.map(path)
    assert len(pickle.dumps(answers.geocat.stitch().data.dask)) < 300_000
    got = client.compute(answers.geocat.stitch()).result()
    np.testing.assert_allclose(got, scaled(field.values), rtol=1e-6)
