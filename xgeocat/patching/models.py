"""Models: what `map` takes besides a plain numpy function."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import xarray as xr

from xgeocat.patching.index import PATCH
from xgeocat.patching.loading import (
    ONNX_FILES,
    TORCH_FILES,
    LoadedOnce,
    Model,
    ModelFile,
    PathLike,
    require,
)
from xgeocat.patching.names import qualified_name
from xgeocat.patching.onnxmodel import LiveSession, Provider, load_onnx
from xgeocat.patching.tiling import Array
from xgeocat.patching.torchmodel import fingerprint, load_torch, packed

if TYPE_CHECKING:
    import onnxruntime
    import torch

#: What can be made a model; see `as_model`.
ModelLike: TypeAlias = "Model | PathLike | torch.nn.Module | onnxruntime.InferenceSession"


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
    if isinstance(thing, (str, os.PathLike)) and Path(thing).suffix in ONNX_FILES:
        return onnx_model(thing)
    if isinstance(thing, (str, os.PathLike)) and Path(thing).suffix in TORCH_FILES:
        return torch_model(thing)
    # What was never imported cannot have made this object, and is slow to import.
    torch, onnxruntime = sys.modules.get("torch"), sys.modules.get("onnxruntime")
    if torch and isinstance(thing, torch.nn.Module):
        return torch_model(thing)
    if onnxruntime and isinstance(thing, onnxruntime.InferenceSession):
        # It does not tell its weights, so that no other session may pass for it.
        live = LiveSession(thing)
        name = f"onnx {thing.get_modelmeta().graph_name}@{live.token[:12]}"
        return LoadedOnce(name, partial(load_onnx, live))
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
    return LoadedOnce(qualified_name(factory), partial(_from_factory, factory))


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
    kind = None if dtype is None else str(dtype).removeprefix("torch.")
    as_asked = "" if kind is None else f" in {kind}"
    if isinstance(source, (str, os.PathLike)):
        file = ModelFile.find(source)
        return LoadedOnce(file.name + as_asked, partial(load_torch, file, device, kind))
    import torch

    if isinstance(source, torch.nn.Module):
        name = f"{qualified_name(source)}@{fingerprint(source)}"
        return LoadedOnce(name + as_asked, partial(load_torch, packed(source), device, kind))
    if not callable(source):
        raise TypeError(
            f"source={source!r} is no torch model. Give a torch.nn.Module, the path of a "
            "TorchScript or torch.export file, or a function that returns a Module."
        )
    name = qualified_name(source)
    return LoadedOnce(name + as_asked, partial(load_torch, source, device, kind))


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
    as_asked = "" if output is None else f" output {output}"
    if isinstance(path_or_bytes, bytes):
        name = f"onnx@{hashlib.sha256(path_or_bytes).hexdigest()[:12]}"
        return LoadedOnce(name + as_asked, partial(load_onnx, path_or_bytes, *how))
    file = ModelFile.find(path_or_bytes)
    return LoadedOnce(file.name + as_asked, partial(load_onnx, file, *how))


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
        return qualified_name(self.function)

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


def _from_factory(factory: Callable[[], Model]) -> Model:
    model = factory()
    if not callable(model):
        raise TypeError(
            f"{qualified_name(factory)} returned {model!r}; it must return a callable of numpy "
            "batches."
        )
    return model
