"""Align: check that tiles lie on the pixels that were asked for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, TypeAlias

import numpy as np
from affine import Affine
from odc.geo.geobox import GeoBox
from odc.geo.types import AnchorEnum

Align: TypeAlias = Literal["edge", "center", "floating", "native"]
#: In pixels: what odc-stac takes for the same pixel, and so does a run.
TOLERANCE = 0.01
ANCHORS = {
    AnchorEnum.EDGE: "edge",
    AnchorEnum.CENTER: "center",
    AnchorEnum.FLOATING: "floating",
}
MODES = (*ANCHORS.values(), "native")


def require_mode(align: Align | AnchorEnum) -> str:
    """Return the name of a mode.

    Raises
    ------
    ValueError
        For an unknown one.
    """
    mode = ANCHORS.get(align, align) if isinstance(align, AnchorEnum) else align
    if mode not in MODES:
        raise ValueError(f"align={align!r} must be one of {MODES}, or an AnchorEnum of odc.geo.")
    return str(mode)


def require_anchor(tile: GeoBox, mode: str) -> None:
    """Refuse a tile whose pixel edges (or centres) are no multiples of the resolution.

    Parameters
    ----------
    tile : GeoBox
        The tile.
    mode : str
        "edge" or "center"; with others there is nothing to refuse.

    Raises
    ------
    ValueError
        Saying by how many pixels it is off.
    """
    if mode not in ("edge", "center"):
        return
    rx, ry = tile.resolution.xy
    half = 0.5 if mode == "center" else 0.0
    corner = tile.transform.c / rx + half, tile.transform.f / ry + half
    off = _off(corner)
    if max(map(abs, off)) > TOLERANCE:
        raise ValueError(
            f"align={mode!r}: the pixel {mode}s of the grid are to be multiples of its resolution "
            f"({abs(rx):g}, {abs(ry):g}), and are off by {off[0]:.3g} pixels in x and {off[1]:.3g} "
            f"in y. Move its origin, or use align='floating'."
        )


def require_native(tile: GeoBox, name: str, scenes: Iterable[tuple[str, GeoBox]]) -> None:
    """Refuse a tile that does not lie on the own pixels of the scenes that serve it.

    Parameters
    ----------
    tile : GeoBox
        The tile.
    name : str
        What it is called.
    scenes : iterable of (str, GeoBox)
        Ids and native grids of the scenes.

    Raises
    ------
    ValueError
        For another CRS or resolution, or saying by how many pixels the tile is off.
    """
    for scene, native in scenes:
        start = f"align='native': tile {name} is not on the pixels of scene {scene}: "
        if native.crs != tile.crs:
            raise ValueError(f"{start}it is in {tile.crs}, and the scene in {native.crs}.")
        own: Affine = ~native.transform @ tile.transform
        rows, columns = tile.shape
        corner, end = own @ (0, 0), own @ (int(columns), int(rows))
        stretch = max(abs(end[0] - corner[0] - columns), abs(end[1] - corner[1] - rows))
        if stretch > TOLERANCE:
            raise ValueError(
                f"{start}its pixels are {tuple(map(abs, tile.resolution.xy))} wide and high, and "
                f"the scene's {tuple(map(abs, native.resolution.xy))}: over the tile they part by "
                f"{stretch:.3g} pixels."
            )
        off = _off(corner)
        if max(map(abs, off)) > TOLERANCE:
            raise ValueError(
                f"{start}it is off by {off[0]:.3g} pixels in x and {off[1]:.3g} in y. Give the "
                "grid an origin on the scene's pixels (GridSpec(..., origin=...)), or use "
                "align='floating' to resample."
            )


def _off(place: tuple[float, float]) -> tuple[float, float]:
    """How far a place is from the nearest whole pixels."""
    x, y = (float(value - np.round(value)) for value in place)
    return x, y
