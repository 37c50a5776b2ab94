"""Models that every process loads once, and what they have in common."""

from __future__ import annotations

import hashlib
import importlib.util
import mmap
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias

import numpy as np
from dask.base import tokenize

from xgeocat.patching.tiling import Array

#: A batch of patches in, one answer per patch out, the patch dimension first in both.
Model: TypeAlias = Callable[[Array], Array]
PathLike: TypeAlias = str | os.PathLike[str]

TORCH_FILES = (".pt", ".pt2", ".ts")
ONNX_FILES = (".onnx",)

#: Models that a process keeps loaded; of more, the one not used for longest goes.
KEPT = 8


def require(package: str, extra: str) -> None:
    """Raise ImportError where a package of an extra is not installed; imports nothing."""
    if importlib.util.find_spec(package) is None:
        raise ImportError(
            f'This needs {package}, which is not installed: pip install "xgeocat[{extra}]"'
        )


@dataclass(frozen=True, slots=True, repr=False)
class LoadedOnce:
    """A model that every process loads once, with the first batch of any thread.

    Parameters
    ----------
    name : str
        What it is, for the record of a run: a file or class, a hash of its content, and what else
        its answers depend on.
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


# --- files ----------------------------------------------------------------------------------------


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


# --- batches --------------------------------------------------------------------------------------


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
