"""Plan: what a run would do, said before it starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from xgeocat.domain.geoslice import GeoSlice
from xgeocat.patching.explain import Explanation, explain
from xgeocat.pipeline import Field
from xgeocat.runs.executors import active_client, threads_here
from xgeocat.runs.grid import Window
from xgeocat.runs.unit import Job


@dataclass(frozen=True, slots=True)
class RunPlan:
    """What a run would do.

    Parameters
    ----------
    out : str
        Where to.
    units, finished, failed : int
        Scenes of the run; those that are finished already; those that failed, and would be tried
        again.
    pixels : int
        Pixels that are still to be predicted.
    where : str
        On what.
    largest : str or None
        Name of the largest scene that is still to be done.
    of_largest : Explanation or None
        What that one takes; None where nothing is left, or where it is not lazy.
    """

    out: str
    units: int
    finished: int
    failed: int
    pixels: int
    where: str
    largest: str | None
    of_largest: Explanation | None

    def __str__(self) -> str:
        """Say it in a few lines."""
        todo = self.units - self.finished
        lines = [
            f"run into     {self.out}, {self.where}",
            f"scenes       {self.units:,}: {self.finished:,} finished, {todo:,} to do "
            f"({self.failed:,} failed before)",
            f"pixels       {self.pixels / 1e6:,.1f} million to predict",
        ]
        if self.of_largest is not None:
            lines += [f"largest      {self.largest}", str(self.of_largest)]
        return "\n".join(lines)

    __repr__ = __str__


def plan_run(job: Job, slices: Sequence[GeoSlice], unfinished: Sequence[GeoSlice]) -> RunPlan:
    """Say what a run would do. The largest scene is opened for it, and no pixels are read."""
    todo = [unit for piece in unfinished for unit in job.todo(piece)]
    largest = max(todo, key=lambda unit: unit.pixels, default=None)
    of_largest = None
    if largest is not None:
        of_largest = explain(_part(job.pipe(job.domain.load(largest.piece)), largest.window))
    client = active_client()
    threads = threads_here()
    return RunPlan(
        out=job.ledger.folder.url,
        units=len(slices),
        finished=len(slices) - len(unfinished),
        failed=len(job.ledger.failures()),
        pixels=sum(unit.pixels for unit in todo),
        where=f"on {threads} threads here" if client is None else f"on {client.dashboard_link}",
        largest=None if largest is None else largest.name,
        of_largest=of_largest,
    )


def _part(field: Field, window: Window | None) -> Field:
    if window is None:
        return field
    return field.isel(dict(zip(field.odc.spatial_dims, window, strict=True)))
