"""Pipelines: the same steps as one object, on one raster or over an archive."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
import xarray as xr
from dask.base import is_dask_collection

from xgeocat.patching.apply import map_patches
from xgeocat.patching.explain import Explanation, explain
from xgeocat.patching.models import ModelLike, as_model
from xgeocat.patching.names import qualified_name
from xgeocat.patching.nodata import without_inherited
from xgeocat.patching.patch import PerDim, patch
from xgeocat.patching.pieces import Reducer
from xgeocat.patching.samplers import Sampler
from xgeocat.patching.stitch import stitch
from xgeocat.patching.tiling import Boundary
from xgeocat.patching.windows import Window
from xgeocat.patching.writing import in_blocks, into_memory

Field = xr.DataArray | xr.Dataset
Step = Callable[[Field], Field]

TIME = "time"


@runtime_checkable
class Described(Protocol):
    """Something that can say, in plain JSON values, all that its results depend on."""

    def describe(self) -> Mapping[str, object]:
        """Describe it."""
        ...


@dataclass(frozen=True, slots=True)
class GridSampler:
    """Cut a field into a regular grid of patches; see :func:`xgeocat.patch`.

    A ``time`` dimension of length one is dropped first, so that a cube of one scene and a raster
    without time look the same to a model.
    """

    size: PerDim
    overlap: PerDim | None = None
    stride: PerDim | None = None
    boundary: Boundary = "shift"

    def __call__(self, cube: Field) -> Field:
        """Cut."""
        return patch(
            _without_time(cube, self.size),
            self.size,
            overlap=self.overlap,
            stride=self.stride,
            boundary=self.boundary,
        )

    def describe(self) -> Mapping[str, object]:
        """Describe the sampler."""
        return {
            "step": "GridSampler",
            "size": self.size,
            "overlap": self.overlap,
            "stride": self.stride,
            "boundary": self.boundary,
        }


@dataclass(frozen=True, slots=True)
class PatchSampler:
    """Cut patches where a sampler says; see :mod:`xgeocat.samplers` and :func:`xgeocat.patch`.

    A ``time`` dimension of length one is dropped first, as :class:`GridSampler` does.
    """

    size: PerDim
    at: Sampler
    boundary: Boundary = "shift"

    def __call__(self, cube: Field) -> Field:
        """Cut."""
        cube = _without_time(cube, self.size)
        return patch(cube, self.size, at=self.at, boundary=self.boundary)

    def describe(self) -> Mapping[str, object]:
        """Describe the sampler."""
        return {
            "step": "PatchSampler",
            "size": self.size,
            "at": describe(self.at),
            "boundary": self.boundary,
        }


def _without_time(cube: Field, size: PerDim) -> Field:
    if cube.sizes.get(TIME) == 1 and not (isinstance(size, Mapping) and TIME in size):
        return cube.isel({TIME: 0})
    return cube


#: Steps that cut patches.
SAMPLERS = (GridSampler, PatchSampler)


@dataclass(frozen=True, slots=True)
class ApplyToChips:
    """Map a model over patches; see :func:`xgeocat.map_patches` for the other parameters.

    Parameters
    ----------
    model : callable, torch.nn.Module, onnxruntime.InferenceSession, str or Path
        As for :func:`xgeocat.map_patches`. A network or file is taken as it is now.
    name : str, optional
        Name and version of the model, ``"water-unet v3"``. A run keeps it with its output and
        refuses to go on with another. By default the model's own `name`, which follows the
        weights of a network or file, or else its importable name, which does not.

    Raises
    ------
    TypeError
        For what is no model.
    """

    model: ModelLike
    batch_size: int = 32
    dims: Sequence[str] | None = None
    fill: float | None = None
    skip_empty: bool = False
    fixed_batch: bool = False
    name: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", as_model(self.model))

    def __call__(self, patches: Field) -> xr.DataArray:
        """Map."""
        return map_patches(
            patches,
            self.model,
            batch_size=self.batch_size,
            dims=self.dims,
            fill=self.fill,
            skip_empty=self.skip_empty,
            fixed_batch=self.fixed_batch,
        )

    def describe(self) -> Mapping[str, object]:
        """Describe the step. Batches are left out: they change no answer."""
        own = getattr(self.model, "name", None)
        return {
            "step": "ApplyToChips",
            "model": self.name or (own if isinstance(own, str) else qualified_name(self.model)),
            "dims": None if self.dims is None else list(self.dims),
            "fill": None if self.fill is None else repr(self.fill),
            "skip_empty": self.skip_empty,
        }


@dataclass(frozen=True, slots=True)
class Stitch:
    """Put the answers back on the map; see :func:`xgeocat.stitch`."""

    window: Window = "boxcar"
    reduce: str | Reducer = "mean"
    crop: int | dict[str, int] = field(default=0)
    fill: complex | None = None
    coverage: bool = False
    disagreement: bool = False

    def __call__(self, patches: Field, inline: bool = False) -> Field:
        """Stitch."""
        return stitch(
            patches,
            window=self.window,
            reduce=self.reduce,
            crop=self.crop,
            fill=self.fill,
            coverage=self.coverage,
            disagreement=self.disagreement,
            inline=inline,
        )

    def describe(self) -> Mapping[str, object]:
        """Describe the step."""
        window = self.window if isinstance(self.window, str) else list(self.window)
        return {
            "step": "Stitch",
            "window": window,
            "reduce": self.reduce if isinstance(self.reduce, str) else qualified_name(self.reduce),
            "crop": self.crop,
            "fill": None if self.fill is None else repr(self.fill),
            "coverage": self.coverage,
            "disagreement": self.disagreement,
        }


class Sequential:
    """Steps, one after the other.

    Parameters
    ----------
    steps : sequence of callable
        Each takes what the one before returns: GridSampler, ApplyToChips, Stitch, or any function
        of a DataArray or Dataset.

    Raises
    ------
    TypeError
        For a step that cannot be called.
    ValueError
        For no steps, or for patches that are mapped or stitched before any are cut.

    Examples
    --------
    >>> pipe = Sequential([GridSampler(256, overlap=64), ApplyToChips(model), Stitch("hann")])
    >>> water = pipe(cube)
    """

    def __init__(self, steps: Sequence[Step]) -> None:
        self.steps: tuple[Step, ...] = tuple(
            inner for s in steps for inner in (s.steps if isinstance(s, Sequential) else (s,))
        )
        if not self.steps:
            raise ValueError("A Sequential needs at least one step, e.g. [GridSampler(256), ...].")
        for step in self.steps:
            if not callable(step):
                raise TypeError(f"{step!r} is no step: it cannot be called.")
        self._require_order()

    def _require_order(self) -> None:
        cut = False
        for place, step in enumerate(self.steps, start=1):
            needs = not isinstance(step, SAMPLERS)
            if isinstance(step, (*SAMPLERS, ApplyToChips, Stitch)) and cut != needs:
                state = "there are no patches" if needs else "there are patches already"
                raise ValueError(
                    f"{type(step).__name__} comes at place {place}, where {state}. The order is "
                    "GridSampler(size, overlap=...), ApplyToChips(model), Stitch(window=...)."
                )
            if isinstance(step, (*SAMPLERS, Stitch)):
                cut = not cut

    def __call__(self, cube: Field) -> Field:
        """Run a field through the steps; lazy if the field is.

        A field in memory comes out in memory. On the way it is worked through block by block, on
        threads, where all steps are of this module and the last one stitches: so its patches, of
        which there are more pixels than in the field, never are in memory all at once.
        """
        blockwise = not is_dask_collection(cube) and isinstance(self.steps[-1], Stitch)
        blockwise &= all(isinstance(step, (*SAMPLERS, ApplyToChips, Stitch)) for step in self.steps)
        result = self._steps(in_blocks(cube) if blockwise else cube)
        return into_memory(result) if blockwise else result

    def _steps(self, field: Field) -> Field:
        for before, step in zip((None, *self.steps), self.steps, strict=False):
            # Nobody else has the answers that a step is given by the one before; but a step that
            # follows may take several selections of the field, which would run the model each.
            last = step is self.steps[-1]
            if last and isinstance(before, ApplyToChips) and isinstance(step, Stitch):
                field = step(field, inline=True)
            elif isinstance(step, (*SAMPLERS, ApplyToChips, Stitch)):
                field = step(field)
            else:
                field = computed(step, field)
        return field

    def explain(self, cube: Field) -> Explanation:
        """Say what running a field through the steps will take; see :func:`xgeocat.explain`."""
        return explain(self._steps(cube if is_dask_collection(cube) else in_blocks(cube)))

    def __repr__(self) -> str:
        return f"Sequential({', '.join(type(step).__name__ for step in self.steps)})"

    def describe(self) -> Mapping[str, object]:
        """Describe all that the results depend on."""
        return {"steps": [_plain(describe(step)) for step in self.steps]}


def computed(step: Step, field: Field) -> Field:
    """What a function makes of a field, without what only the field's own numbers mean."""
    made = step(field)
    if isinstance(made, (xr.DataArray, xr.Dataset)):
        return without_inherited(made, field)
    return made


def _plain(value: object) -> object:
    """Turn numpy numbers, tuples and mappings into what JSON has."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value.item() if isinstance(value, np.generic) else value


def describe(step: object) -> Mapping[str, object]:
    """Describe a step: in its own words, or by its importable name."""
    return step.describe() if isinstance(step, Described) else {"step": qualified_name(step)}
