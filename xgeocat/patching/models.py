"""Models: what `map` takes besides a plain numpy function, loaded once in every process."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import mmap
import os
import re
import sys
import threading
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeAlias
from uuid import uuid4

import numpy as np
import xarray as xr
from dask.base import tokenize

from xgeocat.patching.index import PATCH
from xgeocat.patching.tiling import Array

if TYPE_CHECKING:
    import onnxruntime
    import torch

#: A batch of patches in, one answer per patch out, the patch dimension first in both.
Model: TypeAlias = Callable[[Array], Array]
PathLike: TypeAlias = str | os.PathLike[str]
#: An execution provider of ONNX Runtime, by its name or with options.
Provider: TypeAlias = str | tuple[str, Mapping[str, object]]

TORCH_FILES = (".pt", ".pt2", ".ts")
ONNX_FILES = (".onnx",)

#: Models that a process keeps loaded; of more, the one not used for longest goes.
KEPT = 8


def as_model(thing: object) -> Model:
    """Make a model of what was given for one.

    Parameters
    ----------
    thing : callable, torch.nn.Module, onnxruntime.InferenceSession, str or Path
        A callable of numpy batches stays as it is. The path of an ``.onnx`` file goes to
        :func:`onnx_model`, that of a ``.pt``, ``.pt2`` or ``.ts`` file to :func:`torch_model`.

    Returns
    -------
    callable
        Takes and returns numpy batches, the patch dimension first.

    Raises
    ------
    TypeError
        For anything else.
    """
    if isinstance(thing, (str, Path)) and Path(thing).suffix in ONNX_FILES:
        return onnx_model(thing)
    if isinstance(thing, (str, Path)) and Path(thing).suffix in TORCH_FILES:
        return torch_model(thing)
    # What was never imported cannot have made this object, and is slow to import.
    torch, onnxruntime = sys.modules.get("torch"), sys.modules.get("onnxruntime")
    if torch and isinstance(thing, torch.nn.Module):
        return torch_model(thing)
    if onnxruntime and isinstance(thing, onnxruntime.InferenceSession):
        live = LiveSession(thing)
        return LoadedOnce(f"onnx {thing.get_modelmeta().graph_name}", partial(_load_onnx, live))
    network_class = torch and isinstance(thing, type) and issubclass(thing, torch.nn.Module)
    if callable(thing) and not network_class:
        return thing
    raise TypeError(
        f"model={thing!r} is no model. Wanted is a callable of numpy batches, a torch.nn.Module "
        "(an instance, not its class), an onnxruntime.InferenceSession, or the path of a file "
        f"that ends in {', '.join(ONNX_FILES + TORCH_FILES)}. A checkpoint holds weights only: "
        "give models.torch_model() a function that makes the network and loads them."
    )


def load(factory: Callable[[], Model]) -> LoadedOnce:
    """Make a model of a function that loads it, once in every process.

    Parameters
    ----------
    factory : callable
        Takes nothing and returns a callable of numpy batches. It travels, the model does not: a
        function of a module, or a :func:`functools.partial` of one.

    Returns
    -------
    LoadedOnce
        Its `name` is the factory's, which says nothing of the weights that it loads. Give a run
        their version: ``ApplyToChips(model, name="water-unet v3")``.
    """
    if not callable(factory):
        raise TypeError(
            f"factory={factory!r} cannot be called. Give a function that takes nothing and "
            "returns the model."
        )
    return LoadedOnce(_qualified_name(factory), partial(_from_factory, factory))


def torch_model(
    source: torch.nn.Module | PathLike | Callable[[], torch.nn.Module],
    *,
    device: str | None = None,
    dtype: str | torch.dtype | None = None,
) -> LoadedOnce:
    """Make a model of a torch network.

    It runs in evaluation and inference mode, one batch at a time in each process: torch spreads a
    batch over all cores by itself, and a GPU has memory for one.

    Parameters
    ----------
    source : torch.nn.Module, str, Path or callable
        A network, as it is now: its weights travel. Or the path of a TorchScript or
        ``torch.export`` file, or a function that takes nothing and returns a network: they travel
        alone, which suits large networks.
    device : str, optional
        "cpu", "cuda", "cuda:1" or "mps"; by default "cuda" where there is one, else "cpu".
    dtype : str or torch.dtype, optional
        What batches are cast to, by default float32. A floating one is the network's, too.

    Returns
    -------
    LoadedOnce
        The model. The first batch raises ValueError or TypeError where the device is not there,
        the file is of another kind or changed since, or the function returns something else.

    Raises
    ------
    ImportError
        Where torch is not installed.
    FileNotFoundError
        For a path without a file.
    TypeError
        For another kind of source, or a network that cannot be pickled.
    """
    require("torch", "torch")
    how = (device, None if dtype is None else str(dtype).removeprefix("torch."))
    if isinstance(source, (str, os.PathLike)):
        file = ModelFile.find(source)
        return LoadedOnce(file.name, partial(_load_torch, file, *how))
    import torch

    if isinstance(source, torch.nn.Module):
        name = f"{_qualified_name(source)}@{_fingerprint(source)}"
        return LoadedOnce(name, partial(_load_torch, _packed(source), *how))
    if not callable(source):
        raise TypeError(
            f"source={source!r} is no torch model. Give a torch.nn.Module, the path of a "
            "TorchScript or torch.export file, or a function that returns a Module."
        )
    return LoadedOnce(_qualified_name(source), partial(_load_torch, source, *how))


def onnx_model(
    path_or_bytes: PathLike | bytes,
    *,
    output: str | None = None,
    providers: Sequence[Provider] | None = None,
) -> LoadedOnce:
    """Make a model of an ONNX file, to be run by ONNX Runtime.

    Batches are cast to the dtype of its input. Where it was made for one batch size, other
    batches are cut and filled up to that.

    Parameters
    ----------
    path_or_bytes : str, Path or bytes
        The file, which travels by its path, or its content.
    output : str, optional
        Which output is the answer, where there are several.
    providers : sequence of str or tuple, optional
        Execution providers of ONNX Runtime; by default CUDA where there is one, then CPU.

    Returns
    -------
    LoadedOnce
        The model. The first batch raises ValueError where a provider is not there, the file
        changed since, or it has several inputs, or several outputs and none was named.

    Raises
    ------
    ImportError
        Where onnxruntime is not installed.
    FileNotFoundError
        For a path without a file.
    """
    require("onnxruntime", "onnx")
    how = (output, None if providers is None else tuple(providers))
    if isinstance(path_or_bytes, bytes):
        name = f"onnx@{hashlib.sha256(path_or_bytes).hexdigest()[:12]}"
        return LoadedOnce(name, partial(_load_onnx, path_or_bytes, *how))
    file = ModelFile.find(path_or_bytes)
    return LoadedOnce(file.name, partial(_load_onnx, file, *how))


def on_dataarrays(
    function: Callable[[xr.DataArray], xr.DataArray],
    *,
    dims: Sequence[str] = (PATCH, "band", "y", "x"),
) -> OnDataArrays:
    """Make a model of a function of a DataArray.

    Parameters
    ----------
    function : callable
        Takes a batch as a DataArray without coordinates, and returns one with a ``patch``
        dimension. The dims that it adds come between ``patch`` and those of the batch.
    dims : sequence of str, default: ("patch", "band", "y", "x")
        Names of the dims of a batch, ``patch`` first.

    Returns
    -------
    OnDataArrays
        The model.

    Raises
    ------
    ValueError
        For dims without ``patch`` in front, or named twice.
    """
    if tuple(dims[:1]) != (PATCH,) or len(set(dims)) != len(dims):
        raise ValueError(
            f"dims={tuple(dims)} must name the dims of a batch, each once, {PATCH!r} first, e.g. "
            "('patch', 'band', 'y', 'x')."
        )
    return OnDataArrays(function, tuple(dims))


@dataclass(frozen=True, slots=True)
class OnDataArrays:
    """A model that is a function of a DataArray; see :func:`on_dataarrays`."""

    function: Callable[[xr.DataArray], xr.DataArray]
    dims: tuple[str, ...]

    @property
    def name(self) -> str:
        """Importable name of the function."""
        return _qualified_name(self.function)

    def __call__(self, batch: Array) -> Array:
        if batch.ndim != len(self.dims):
            raise ValueError(
                f"A batch has shape {batch.shape}, but its dims are named {self.dims}. Name all: "
                "on_dataarrays(function, dims=('patch', ..., 'y', 'x'))."
            )
        answer = self.function(xr.DataArray(batch, dims=self.dims))
        if not isinstance(answer, xr.DataArray) or PATCH not in answer.dims:
            dims = answer.dims if isinstance(answer, xr.DataArray) else "none"
            raise TypeError(
                f"{self.name} returned a {type(answer).__name__} (dims: {dims}); it must return "
                f"a DataArray with a {PATCH!r} dimension."
            )
        new = [d for d in answer.dims if d not in self.dims]
        known = [d for d in self.dims[1:] if d in answer.dims]
        return answer.transpose(PATCH, *new, *known).to_numpy()


# --- loaded once ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, repr=False)
class LoadedOnce:
    """A model that every process loads once, with the first batch of any thread.

    Parameters
    ----------
    name : str
        What it is, for the record of a run: a file or class, and a hash of its content.
    make : callable
        Loads the model. This is what travels to other processes.
    """

    name: str
    make: Callable[[], Model] = field(compare=False)
    token: str = field(init=False)

    def __post_init__(self) -> None:
        # Made once and sent along: of some functions dask makes another in every process.
        object.__setattr__(self, "token", tokenize(self.make))

    @property
    def batch_size(self) -> int | None:
        """Patches in every batch where the model was made for one size; this loads it."""
        return getattr(_here.get(self), "batch_size", None)

    def __call__(self, batch: Array) -> Array:
        return _here.get(self)(batch)

    def __repr__(self) -> str:
        return f"LoadedOnce({self.name})"

    def __dask_tokenize__(self) -> tuple[str, str]:
        return "xgeocat.LoadedOnce", self.token


@dataclass(slots=True)
class _Slot:
    model: Model | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)


class _Process:
    """The models that this process has loaded."""

    def __init__(self) -> None:
        self.guard = threading.Lock()
        self.slots: OrderedDict[str, _Slot] = OrderedDict()
        self.inherited: list[OrderedDict[str, _Slot]] = []

    def get(self, wanted: LoadedOnce) -> Model:
        with self.guard:
            slot = self.slots.setdefault(wanted.token, _Slot())
            self.slots.move_to_end(wanted.token)
            if len(self.slots) > KEPT:
                self.slots.popitem(last=False)
        with slot.lock:
            if slot.model is None:
                slot.model = wanted.make()
            return slot.model

    def after_fork(self) -> None:
        # The threads of these models stayed with the parent. They cannot run here, and a session
        # of ONNX Runtime that is taken apart without its threads crashes: leave them alone.
        self.inherited.append(self.slots)
        self.guard, self.slots = threading.Lock(), OrderedDict()


_here = _Process()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_here.after_fork)


@dataclass(frozen=True, slots=True)
class ModelFile:
    """The file of a model, and a hash of what was in it when it was given."""

    path: Path
    digest: str

    @classmethod
    def find(cls, path: PathLike) -> ModelFile:
        """Find a file, from wherever the process that loads it was started."""
        full = Path(path).expanduser().absolute()
        if not full.is_file():
            raise FileNotFoundError(
                f"There is no model file at {full}. Give the path of a local file that every "
                "process can read."
            )
        own, beside = _content(full)
        digests = [own, *(_content(part)[0] for part in beside)]
        return cls(full, hashlib.sha256("".join(digests).encode()).hexdigest())

    @property
    def name(self) -> str:
        """Name and content."""
        return f"{self.path.name}@{self.digest[:12]}"

    def unchanged(self) -> Path:
        """Return the path, if the file is still the one that was given."""
        now = self.find(self.path)
        if now != self:
            raise ValueError(
                f"{self.path} changed after it was given as a model: it was {self.name} and is "
                f"{now.name}. Give it again, so that the answers of two models do not mix."
            )
        return self.path


def _content(path: Path) -> tuple[str, tuple[Path, ...]]:
    stat = path.stat()
    return _read_content(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=64)
def _read_content(path: Path, mtime: int, size: int) -> tuple[str, tuple[Path, ...]]:
    """Hash of a file, and the files that an ONNX file keeps its weights in."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        if path.suffix not in ONNX_FILES or not size:
            return digest, ()
        # In ONNX (protobuf) a pair of strings: "location", and a path of less than 128 bytes.
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            keys = list(re.finditer(rb"\x0a\x08location\x12([\x01-\x7f])", content))
            names = {content[key.end() : key.end() + key[1][0]] for key in keys}
    parts = (path.parent / os.fsdecode(name.replace(b"\0", b"")) for name in names)
    return digest, tuple(sorted(part for part in parts if part.is_file()))


# --- how they run ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Runner:
    """A loaded model: how it is called, with which dtype, and how many patches it must get."""

    run: Model
    dtype: np.dtype
    batch_size: int | None
    turn: AbstractContextManager[object]

    def __call__(self, batch: Array) -> Array:
        given = _cast(batch, self.dtype)
        size = self.batch_size or max(len(given), 1)
        answers = []
        for first in range(0, max(len(given), 1), size):
            part = given[first : first + size]
            missing = size - len(part) if self.batch_size else 0
            filled = np.concatenate([part, np.zeros((missing, *part.shape[1:]), part.dtype)])
            with self.turn:
                answers.append(self.run(filled if missing else part)[: len(part)])
        return answers[0] if len(answers) == 1 else np.concatenate(answers)


def _cast(batch: Array, dtype: np.dtype) -> Array:
    """Copy a batch, since a layer may work in place, in the dtype that a model takes."""
    with np.errstate(invalid="ignore"):
        cast = batch.astype(dtype, order="C")
    exact = dtype.kind in "fc" or np.can_cast(batch.dtype, dtype) or np.array_equal(cast, batch)
    if not exact:
        raise ValueError(
            f"The model takes {dtype}, which cannot hold all values of a batch of {batch.dtype} "
            f"({batch.min()} to {batch.max()}). Scale or clip the patches first."
        )
    return cast


def _from_factory(factory: Callable[[], Model]) -> Model:
    model = factory()
    if not callable(model):
        raise TypeError(
            f"{_qualified_name(factory)} returned {model!r}; it must return a callable of numpy "
            "batches."
        )
    return model


def require(package: str, extra: str) -> None:
    """Raise ImportError where a package of an extra is not installed; imports nothing."""
    if importlib.util.find_spec(package) is None:
        raise ImportError(
            f'This needs {package}, which is not installed: pip install "xgeocat[{extra}]"'
        )


def _qualified_name(thing: object) -> str:
    if isinstance(thing, partial):
        given = [*map(repr, thing.args), *(f"{k}={v!r}" for k, v in thing.keywords.items())]
        return f"{_qualified_name(thing.func)}({', '.join(given)})"
    named = thing if hasattr(thing, "__qualname__") else type(thing)
    return f"{named.__module__}.{getattr(named, '__qualname__', '')}"


# --- ONNX Runtime ---------------------------------------------------------------------------------

ONNX_DTYPES = {"float": "float32", "double": "float64", "float16": "float16", "bool": "bool"} | {
    f"{kind}{bits}": f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)
}


@dataclass(frozen=True, slots=True)
class LiveSession:
    """A session that was given as it is, and so belongs to this process."""

    session: onnxruntime.InferenceSession
    token: str = field(default_factory=lambda: uuid4().hex)

    def __dask_tokenize__(self) -> str:
        return self.token

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "An onnxruntime.InferenceSession cannot travel to other processes. Give the path of "
            "its file instead, and every process opens it for itself: models.onnx_model(path)."
        )


def _load_onnx(
    source: ModelFile | bytes | LiveSession,
    output: str | None = None,
    providers: tuple[Provider, ...] | None = None,
) -> Model:
    import onnxruntime

    if isinstance(source, LiveSession):
        return _onnx_runner(source.session, output)
    there = onnxruntime.get_available_providers()
    usual = [p for p in ("CUDAExecutionProvider", "CPUExecutionProvider") if p in there]
    names = {p if isinstance(p, str) else p[0] for p in providers or ()}
    file = source if isinstance(source, bytes) else source.unchanged()
    session = None
    if names <= set(there):
        session = onnxruntime.InferenceSession(file, providers=list(providers or usual))
    # One whose libraries are missing is listed as there, and left out of the session.
    missing = names - set(session.get_providers() if session else there)
    if missing:
        raise ValueError(
            f"providers={providers}: {sorted(missing)} cannot run here; this process has {there}. "
            "Leave providers=None to take the best of them."
        )
    return _onnx_runner(session, output)


def _onnx_runner(session: onnxruntime.InferenceSession, output: str | None) -> Runner:
    inputs = {given.name: given for given in session.get_inputs()}
    outputs = [answer.name for answer in session.get_outputs()]
    if len(inputs) != 1:
        raise ValueError(
            f"This ONNX model takes {len(inputs)} inputs, {list(inputs)}; one is wanted, the batch "
            "of patches. Make the others constants of the model, or wrap it in a function."
        )
    if output not in outputs and (output is not None or len(outputs) != 1):
        raise ValueError(
            f"output={output!r}: this ONNX model has the outputs {outputs}. Name the one that is "
            f"the answer: models.onnx_model(path, output={outputs[0]!r})."
        )
    answer = outputs[0] if output is None else output
    ((name, given),) = inputs.items()
    dtype = ONNX_DTYPES.get(given.type.removeprefix("tensor(").removesuffix(")"))
    if dtype is None:
        raise ValueError(
            f"Input {name!r} of this ONNX model is a {given.type}; wanted is a tensor of one of "
            f"{sorted(ONNX_DTYPES)}. Put a Cast in front of it."
        )
    fixed = given.shape[0] if given.shape and isinstance(given.shape[0], int) else None
    # On a CPU batches share the session's threads; a GPU has memory for one at a time.
    alone = session.get_providers()[0] != "CPUExecutionProvider"
    turn = threading.Lock() if alone else nullcontext()
    return Runner(lambda b: session.run([answer], {name: b})[0], np.dtype(dtype), fixed, turn)


# --- torch ----------------------------------------------------------------------------------------


def _load_torch(
    source: ModelFile | bytes | Callable[[], torch.nn.Module],
    device: str | None,
    dtype: str | None,
) -> Model:
    import torch

    where, wanted = _torch_device(device), getattr(torch, dtype or "float32", None)
    if not isinstance(wanted, torch.dtype):
        raise ValueError(f"dtype={dtype!r} is no dtype of torch. Give one, e.g. 'float16'.")
    batch_size = None
    if isinstance(source, (ModelFile, bytes)):
        network, batch_size = _read_torch(source, where)
    else:
        network = source()
        if not isinstance(network, torch.nn.Module):
            raise TypeError(
                f"{_qualified_name(source)} returned {network!r}; it must return a "
                "torch.nn.Module. For other models there is models.load(function)."
            )
    with suppress(NotImplementedError):  # An exported network knows no training.
        network.eval()
    network.to(where, wanted if dtype and wanted.is_floating_point else None)

    def run(batch: Array) -> Array:
        with torch.inference_mode():
            answer = network(torch.from_numpy(batch).to(where, wanted))
            if not isinstance(answer, torch.Tensor):
                raise TypeError(
                    f"The network answered with a {type(answer).__name__}; it must answer with one "
                    "tensor. Wrap it in a Module that returns the one that is wanted."
                )
            known = answer.float() if answer.dtype == torch.bfloat16 else answer
            return known.numpy(force=True)

    # torch casts to the short floats; numpy does not know all of them.
    exact = dtype and (dtype == "float64" or not wanted.is_floating_point)
    return Runner(run, np.dtype(dtype if exact else "float32"), batch_size, threading.Lock())


def _torch_device(asked: str | None) -> torch.device:
    import torch

    cuda = [f"cuda:{n}" for n in range(torch.cuda.device_count())]
    there = ["cpu", *cuda, *(["mps"] if torch.backends.mps.is_available() else [])]
    if asked is None:
        return torch.device("cuda" if cuda else "cpu")
    if asked not in there and not (asked == "cuda" and cuda):
        raise ValueError(
            f"device={asked!r} cannot be used: this process has {there}. Take one of them, or "
            "leave device=None for the best."
        )
    return torch.device(asked)


def _read_torch(
    source: ModelFile | bytes, where: torch.device
) -> tuple[torch.nn.Module, int | None]:
    """Read a network, and the batch size that it was made for."""
    import torch

    file = io.BytesIO(source) if isinstance(source, bytes) else source.unchanged()
    names = zipfile.ZipFile(file).namelist() if zipfile.is_zipfile(file) else []
    kinds = {name.rpartition("/")[2] for name in names}
    if isinstance(file, io.BytesIO):
        file.seek(0)
    if kinds & {"archive_format", "serialized_exported_program.json"}:
        return _read_exported(file, where)
    if "constants.pkl" in kinds:
        return torch.jit.load(file, map_location=where), None
    if isinstance(source, bytes):
        # These were packed by torch_model; a file of this kind could run any code.
        return torch.load(file, map_location=where, weights_only=False), None
    raise ValueError(
        f"{file} is neither a TorchScript nor a torch.export file"
        + (", but a checkpoint. " if "data.pkl" in kinds else ". ")
        + "Give models.torch_model() a function that makes the network and loads the weights, or "
        "save the network with torch.export.save()."
    )


def _read_exported(
    file: Path | io.BytesIO, where: torch.device
) -> tuple[torch.nn.Module, int | None]:
    import torch
    from torch.export.passes import move_to_device_pass

    program = move_to_device_pass(torch.export.load(file), where)
    inputs = program.graph_signature.user_inputs
    if len(inputs) != 1:
        raise ValueError(
            f"{file} takes {len(inputs)} inputs, {list(inputs)}; one is wanted, the batch of "
            "patches. Export a network that takes only that."
        )
    (given,) = (node for node in program.graph.nodes if node.name == inputs[0])
    batch = given.meta["val"].shape[0]
    return program.module(), batch if isinstance(batch, int) else None


def _packed(network: torch.nn.Module) -> bytes:
    """Pack a network, classes of a notebook included."""
    import cloudpickle
    import torch

    file = io.BytesIO()
    try:
        if isinstance(network, torch.jit.ScriptModule):
            torch.jit.save(network, file)
        else:
            torch.save(network, file, pickle_module=cloudpickle)
    except Exception as error:
        raise TypeError(
            f"This {type(network).__name__} cannot be pickled ({error}). Give a function that "
            "makes it, models.torch_model(make), or save it with torch.export.save() and give "
            "the path."
        ) from error
    return file.getvalue()


def _fingerprint(network: torch.nn.Module) -> str:
    """Hash of the layers, their settings and the weights; the same in every process."""
    import torch

    digest = hashlib.sha256(repr(network).encode())
    for name, layer in network.named_modules():
        plain = {
            key: value
            for key, value in vars(layer).items()
            if isinstance(value, (bool, int, float, str, tuple)) and key[0] != "_"
        }
        plain.pop("training", None)
        about = (name, type(layer).__qualname__, sorted(plain.items()), getattr(layer, "code", ""))
        digest.update(repr(about).encode())
    for name, value in network.state_dict().items():
        digest.update(
            f"{name} {getattr(value, 'dtype', '')} {getattr(value, 'shape', '')}".encode()
        )
        if isinstance(value, torch.Tensor):
            flat = value.detach().cpu().contiguous().reshape(-1)
            digest.update(flat.view(torch.uint8).numpy().tobytes())
        else:
            digest.update(repr(value).encode())
    return digest.hexdigest()[:12]
