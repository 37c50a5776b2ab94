"""ONNX models: how a session is opened, and how it is fed."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NoReturn, TypeAlias
from uuid import uuid4

import numpy as np

from xgeocat.patching.loading import Model, ModelFile, Runner

if TYPE_CHECKING:
    import onnxruntime

#: An execution provider of ONNX Runtime, by its name or with options.
Provider: TypeAlias = str | tuple[str, Mapping[str, object]]

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


def load_onnx(
    source: ModelFile | bytes | LiveSession,
    output: str | None = None,
    providers: tuple[Provider, ...] | None = None,
) -> Model:
    """Open a session in this process; see :func:`xgeocat.patching.models.onnx_model`."""
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
