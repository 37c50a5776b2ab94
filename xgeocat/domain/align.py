"""Align: check that grids lie on the pixels that were asked for, and join those that do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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


def require_same_pixels(tile: GeoBox, name: str, scenes: Iterable[tuple[str, GeoBox]]) -> None:
    """Refuse a grid that does not lie on the own pixels of some scenes.

    Parameters
    ----------
    tile : GeoBox
        The grid.
    name : str
        What it is called, e.g. ``"tile x3_y4"``.
    scenes : iterable of (str, GeoBox)
        Ids and native grids of the scenes.

    Raises
    ------
    ValueError
        For another CRS or resolution, or saying by how many pixels the grid is off.
    """
    for scene, native in scenes:
        start = f"{name} is not on the own pixels of scene {scene}: "
        if native.crs != tile.crs:
            raise ValueError(f"{start}it is in {tile.crs}, and the scene in {native.crs}.")
        own: Affine = ~native.transform @ tile.transform
        rows, columns = tile.shape
        corner, end = own @ (0, 0), own @ (int(columns), int(rows))
        stretch = max(abs(end[0] - corner[0] - columns), abs(end[1] - corner[1] - rows))
        if stretch > TOLERANCE:
            size, other = (tuple(map(abs, grid.resolution.xy)) for grid in (tile, native))
            raise ValueError(
                f"{start}its pixels are {size} wide and high, and the scene's {other}: over its "
                f"length they part by {stretch:.3g} pixels."
            )
        off = _off(corner)
        if max(map(abs, off)) > TOLERANCE:
            raise ValueError(
                f"{start}it is off by {off[0]:.3g} pixels in x and {off[1]:.3g} in y. Give the "
                "grid an origin on the scene's pixels (GridSpec(..., origin=...)), or have them "
                "resampled (align='floating'; in a CatalogDomain resolution=)."
            )


def union_grid(grids: Sequence[tuple[str, GeoBox]]) -> GeoBox:
    """Return the smallest grid that covers some grids of the same pixels.

    Parameters
    ----------
    grids : sequence of (str, GeoBox)
        What each is called, and the grid.

    Raises
    ------
    ValueError
        For grids that do not lie on the same pixels, saying by how many one is off.
    """
    (name, first), *others = grids
    require_same_pixels(first, f"scene {name}", others)
    corners = [~first.transform @ (g.transform.c, g.transform.f) for _, g in grids]
    left = min(round(x) for x, _ in corners)
    top = min(round(y) for _, y in corners)
    right = max(round(x) + int(g.shape[1]) for (x, _), (_, g) in zip(corners, grids, strict=True))
    bottom = max(round(y) + int(g.shape[0]) for (_, y), (_, g) in zip(corners, grids, strict=True))
    transform = first.transform @ Affine.translation(left, top)
    return GeoBox((bottom - top, right - left), transform, first.crs)


def _off(place: tuple[float, float]) -> tuple[float, float]:
    """How far a place is from the nearest whole pixels."""
    x, y = (float(value - np.round(value)) for value in place)
    return x, y
