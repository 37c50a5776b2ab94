"""Torch networks: how they are read, packed, told apart and run."""

from __future__ import annotations

import hashlib
import io
import threading
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from xgeocat.patching.loading import Model, ModelFile, Runner
from xgeocat.patching.names import qualified_name
from xgeocat.patching.tiling import Array

if TYPE_CHECKING:
    import torch


def load_torch(
    source: ModelFile | bytes | Callable[[], torch.nn.Module],
    device: str | None,
    dtype: str | None,
) -> Model:
    """Read a network in this process; see :func:`xgeocat.patching.models.torch_model`."""
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
                f"{qualified_name(source)} returned {network!r}; it must return a "
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


def packed(network: torch.nn.Module) -> bytes:
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


def fingerprint(network: torch.nn.Module) -> str:
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
