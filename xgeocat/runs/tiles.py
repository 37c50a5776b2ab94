"""Tiles: which tiles of a common grid scenes meet, and which are to be done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
import pyproj
import shapely
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox
from shapely.affinity import translate
from shapely.geometry.base import BaseGeometry

from xgeocat.catalog.aoi import Where, reproject
from xgeocat.catalog.sources import Json
from xgeocat.domain.geoslice import crs_of
from xgeocat.runs.grid import windows
from xgeocat.runs.ledger import Ledger, RunMismatchError
from xgeocat.runs.tile import Scene, Tile, records


def tiles_to_do(
    ledger: Ledger,
    grid: GeoBox,
    scenes: Sequence[Scene],
    steps: pd.DatetimeIndex | None,
    edge: int,
) -> list[Tile]:
    """The tiles that are to be done: some scene is new there, or pixels are still to be written."""
    cut = windows((int(grid.shape[0]), int(grid.shape[1])), edge)
    boxes = [grid[window] for window in cut]
    kept = records(ledger)
    _require_unchanged(kept, scenes)
    meet = _meetings(boxes, scenes, steps)
    for record in kept.values():
        if not record["written"]:
            meet.setdefault((record["step"], record["tile"]), [])
    found = []
    for (step, number), there in meet.items():
        rows, columns = cut[number]
        name = f"{rows.start}_{columns.start}"
        if steps is not None and step is not None:
            name = f"{steps[step]:%Y%m%dT%H%M%S}_{name}"
        record = kept.get(name, {"applied": [], "written": False})
        applied = {about["scene"] for about in record["applied"]}
        if not record["written"] or any(scene.piece.name not in applied for scene in there):
            found.append(Tile(name, cut[number], boxes[number], number, step, tuple(there)))
    return found


def _meetings(
    boxes: Sequence[GeoBox], scenes: Sequence[Scene], steps: pd.DatetimeIndex | None
) -> dict[tuple[int | None, int], list[Scene]]:
    """The scenes of each time step that meet each tile, by where their pixels are."""
    tree = shapely.STRtree([box.extent.geom for box in boxes])
    meet: dict[tuple[int | None, int], list[Scene]] = {}
    crs = crs_of(boxes[0])
    # A grid in degrees may count beyond 180.
    turns = (-360, 0, 360) if crs.geographic else (0,)
    for scene in scenes:
        extent = _extent(scene.piece.geobox, crs)
        found = (
            range(len(boxes))
            if extent is None
            else {
                int(n) for turn in turns for n in tree.query(translate(extent, turn), "intersects")
            }
        )
        step = _step_of(scene, steps)
        for number in sorted(found):
            meet.setdefault((step, int(number)), []).append(scene)
    return meet


def _extent(geobox: GeoBox, crs: CRS) -> BaseGeometry | None:
    """Outline of a grid in another CRS; None where it cannot be drawn there, as round a pole."""
    source, target = (pyproj.CRS.from_user_input(c.to_wkt()) for c in (crs_of(geobox), crs))
    try:
        return reproject(Where(geobox.extent.geom, source), target)
    except ValueError:
        return None


def _step_of(scene: Scene, steps: pd.DatetimeIndex | None) -> int | None:
    if steps is None or scene.piece.interval is None:
        return None
    return int(steps.searchsorted(pd.Timestamp(scene.piece.interval[0]), "right")) - 1


def _require_unchanged(kept: Mapping[str, Json], scenes: Sequence[Scene]) -> None:
    """Refuse scenes that are in the mosaic, at any place and time, and have changed since."""
    applied = {about["scene"]: about for record in kept.values() for about in record["applied"]}
    for scene in scenes:
        was = applied.get(scene.piece.name)
        if was is not None and was != scene.about:
            raise RunMismatchError(
                f"Scene {scene.piece.name} has changed since it was added to the mosaic: was "
                f"{was}, is {scene.about}. What was added cannot be taken out; make the mosaic "
                "anew, elsewhere."
            )
