"""Tile grids: which tiles there are where scenes are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import pyproj
import shapely
from affine import Affine
from odc.geo.geobox import GeoBox, GeoboxTiles
from odc.geo.geom import BoundingBox
from odc.geo.gridspec import GridSpec
from shapely.geometry.base import BaseGeometry

from xgeocat.catalog.aoi import WGS84, Where, reproject
from xgeocat.domain.geoslice import crs_of
from xgeocat.domain.mgrs import EDGE, Square, squares

#: How far a footprint has to reach into a tile to meet it, in pixels: to touch is not enough.
REACH = 0.01
#: More tiles under one footprint are no plan, but a projection that ran away.
MOST = 1_000_000


@dataclass(frozen=True, slots=True)
class MGRS:
    """Tiles that are the 100 km squares of MGRS, each in the UTM zone of its place.

    Squares at the edge of a zone are whole, and reach beyond it: there two zones hold the same
    ground. Between 80 degrees south and 84 degrees north.

    Parameters
    ----------
    resolution : float
        Pixel edge in metres; 100 km are a whole number of them.

    Raises
    ------
    ValueError
        Where they are not.
    """

    resolution: float

    def __post_init__(self) -> None:
        n = EDGE / self.resolution if self.resolution > 0 else 0.5
        if abs(n - round(n)) > 1e-9:
            raise ValueError(
                f"resolution={self.resolution}: 100 km, the edge of a square of MGRS, are no whole "
                "number of such pixels. Take one that divides them (10, 20, 50, 100 m), or tiles "
                "of your own: odc.geo.gridspec.GridSpec(crs, tile_shape, resolution)."
            )


Grid: TypeAlias = GridSpec | GeoBox | GeoboxTiles | MGRS


@dataclass(frozen=True, slots=True)
class GridTile:
    """One tile.

    Parameters
    ----------
    name : str
        As part of a file name.
    geobox : GeoBox
        Its grid.
    limits : shapely.Geometry or None
        Where it counts, in WGS 84: a tile that only reaches beyond is another one's. None:
        everywhere.
    """

    name: str
    geobox: GeoBox
    limits: BaseGeometry | None = None

    def area(self, crs: pyproj.CRS, less: float = REACH) -> BaseGeometry:
        """Its outline in another CRS, a little smaller, so that to touch is not enough.

        Parameters
        ----------
        crs : pyproj.CRS
            A geographic one, where the outline is cut at the antimeridian, or any other.
        less : float, default: 0.01
            By how many pixels, on each side.
        """
        rows, columns = self.geobox.shape
        inside = shapely.box(less, less, columns - less, rows - less)
        drawn = shapely.affinity.affine_transform(inside, _matrix(self.geobox.transform))
        own = pyproj.CRS.from_user_input(crs_of(self.geobox).to_wkt())
        return reproject(Where(drawn, own), crs)


def require_grid(grid: object) -> Grid:
    """Return what says which tiles there are.

    Raises
    ------
    TypeError
        For anything else.
    ValueError
        For a grid without a CRS.
    """
    if isinstance(grid, GeoBox):
        crs_of(grid)
    if isinstance(grid, GeoboxTiles):
        crs_of(_cell(grid, 0, 0))
    if isinstance(grid, (GridSpec, GeoBox, GeoboxTiles, MGRS)):
        return grid
    raise TypeError(
        f"grid is a {type(grid).__name__}; it says which tiles there are: an odc.geo GridSpec "
        "(tiles of one CRS), GeoBox (one tile), GeoboxTiles(geobox, (rows, columns)) (one that is "
        "cut), or xgeocat.MGRS(resolution) (100 km squares in their UTM zones)."
    )


def candidates(
    grid: Grid, footprints: Sequence[BaseGeometry | None], crs: pyproj.CRS
) -> list[GridTile]:
    """The tiles that scenes may meet, row by row or by name: none is missing, some may be too many.

    Parameters
    ----------
    grid : GridSpec, GeoBox, GeoboxTiles or MGRS
        See :func:`require_grid`.
    footprints : sequence of shapely.Geometry
        Of the scenes; None meets nothing.
    crs : pyproj.CRS
        Their CRS.

    Raises
    ------
    ValueError
        For a footprint that cannot be drawn in the CRS of a GridSpec, or that lies where MGRS has
        no squares.
    """
    if isinstance(grid, GeoBox):
        return [GridTile("grid", grid)]
    if isinstance(grid, GeoboxTiles):
        rows, columns = grid.shape
        cells = [(row, column) for row in range(int(rows)) for column in range(int(columns))]
        return [
            GridTile(f"row{row}_col{column}", _cell(grid, row, column)) for row, column in cells
        ]
    drawn = [footprint for footprint in footprints if footprint is not None]
    if isinstance(grid, MGRS):
        found: dict[Square, BaseGeometry] = {}
        for footprint in drawn:
            there = dict(squares(reproject(Where(footprint, crs), WGS84)))
            if not there:
                raise ValueError(
                    f"A footprint with the bounds {footprint.bounds} lies beyond 80 degrees south "
                    "or 84 degrees north, where UTM and its squares end. Leave such scenes out, or "
                    "take polar tiles: GridSpec('EPSG:3413' or 'EPSG:3031', ...)."
                )
            found |= there
        named = {square.name: (square, limits) for square, limits in found.items()}
        return [
            GridTile(name, square.geobox(grid.resolution), limits)
            for name, (square, limits) in sorted(named.items())
        ]
    indexes = {index for footprint in drawn for index in _indexes(grid, footprint, crs)}
    ordered = sorted(indexes, key=lambda index: (index[1], index[0]))
    return [GridTile(f"x{ix}_y{iy}", grid[ix, iy], _this_side(grid[ix, iy])) for ix, iy in ordered]


def _cell(grid: GeoboxTiles, row: int, column: int) -> GeoBox:
    """One tile of a grid that is cut.

    Raises
    ------
    TypeError
        For one that is bent, without rows and columns on the map.
    """
    cell = grid[row, column]
    if not isinstance(cell, GeoBox):
        raise TypeError(f"The tiles of this grid are no GeoBox, but {type(cell).__name__}.")
    return cell


def _indexes(grid: GridSpec, footprint: BaseGeometry, crs: pyproj.CRS) -> Iterator[tuple[int, int]]:
    """Numbers of the tiles that the boxes round the parts of a footprint reach into."""
    own = pyproj.CRS.from_user_input(grid.crs.to_wkt())
    # Less than is needed to meet a tile: no tile beyond the edge of the world comes in by rounding.
    reach = REACH / 2 * abs(grid.resolution.x), REACH / 2 * abs(grid.resolution.y)
    for part in shapely.get_parts(reproject(Where(footprint, crs), own)):
        x, y = (
            (low + min(by, (high - low) / 2), high - min(by, (high - low) / 2))
            for low, high, by in zip(part.bounds[:2], part.bounds[2:], reach, strict=True)
        )
        box = BoundingBox(x[0], y[0], x[1], y[1], crs=grid.crs)
        left, bottom, right, top = grid.idx_bounds(box)
        if (right - left) * (top - bottom) > MOST:
            raise ValueError(
                f"A footprint with the bounds {footprint.bounds} is over {right - left} x "
                f"{top - bottom} tiles of the grid: it lies outside of where {grid.crs} can be "
                "used, or the tiles are far too small. Leave such scenes out, or take another grid."
            )
        yield from ((ix, iy) for ix in range(left, right) for iy in range(bottom, top))


def _this_side(geobox: GeoBox) -> BaseGeometry | None:
    """Where a tile counts that reaches beyond 180 degrees: there it is another tile's ground."""
    left, _, right, _ = geobox.boundingbox.bbox
    if not crs_of(geobox).geographic or (left >= -180 and right <= 180):
        return None
    return shapely.box(max(left, -180), -90, min(right, 180), 90)


def _matrix(transform: Affine) -> tuple[float, float, float, float, float, float]:
    a, b, c, d, e, f = transform[:6]
    return a, b, d, e, c, f
