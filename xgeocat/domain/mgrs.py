"""MGRS: the 100 km squares of the Military Grid Reference System, in their UTM zones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyproj
import shapely
from affine import Affine
from odc.geo.geobox import GeoBox
from shapely.geometry.base import BaseGeometry

from xgeocat.catalog.aoi import WGS84, Where, reproject

EDGE = 100_000
BANDS = "CDEFGHJKLMNPQRSTUVWX"
COLUMNS = ("ABCDEFGH", "JKLMNPQR", "STUVWXYZ")
ROWS = "ABCDEFGHJKLMNPQRSTUV"
SOUTH, NORTH = -80, 84
#: Zones that are not six degrees wide: (zone, south, north) -> west, east. None: there is no such.
ODD_ZONES = {
    (31, 56, 64): (0, 3), (32, 56, 64): (3, 12),
    (31, 72, 84): (0, 9), (32, 72, 84): None, (33, 72, 84): (9, 21), (34, 72, 84): None,
    (35, 72, 84): (21, 33), (36, 72, 84): None, (37, 72, 84): (33, 42),
}  # fmt: skip
#: Between these latitudes the zones have one width each.
BELTS = ((SOUTH, 0), (0, 56), (56, 64), (64, 72), (72, NORTH))


@dataclass(frozen=True, slots=True)
class Square:
    """One 100 km square.

    Parameters
    ----------
    zone : int
        UTM zone, 1 to 60.
    south : bool
        Whether northings are counted with 10 000 km added.
    column, row : int
        Easting and northing of its south-west corner, in 100 km.
    """

    zone: int
    south: bool
    column: int
    row: int

    @property
    def epsg(self) -> int:
        """Code of its CRS: WGS 84 / UTM."""
        return (32700 if self.south else 32600) + self.zone

    @property
    def name(self) -> str:
        """Its designation, e.g. ``"33TWM"``, with the latitude band that its middle is in.

        NGA.STND.0037 (Universal Grids and the Transverse Mercator and Polar Stereographic Map
        Projections), chapter 3: columns repeat every three zones, rows every 2000 km, five rows
        further on in even zones.
        """
        to_wgs84 = pyproj.Transformer.from_crs(self.epsg, 4326, always_xy=True)
        middle = to_wgs84.transform((self.column + 0.5) * EDGE, (self.row + 0.5) * EDGE)
        band = BANDS[min(max(int((middle[1] - SOUTH) // 8), 0), len(BANDS) - 1)]
        letters = COLUMNS[(self.zone - 1) % 3]
        row = ROWS[(self.row + (0 if self.zone % 2 else 5)) % len(ROWS)]
        return f"{self.zone:02d}{band}{letters[self.column - 1]}{row}"

    def geobox(self, resolution: float) -> GeoBox:
        """Its grid, from its north-west corner."""
        n = round(EDGE / resolution)
        west, north = self.column * EDGE, (self.row + 1) * EDGE
        transform = Affine(resolution, 0, west, 0, -resolution, north)
        return GeoBox((n, n), transform, f"EPSG:{self.epsg}")


def squares(footprint: BaseGeometry) -> Iterator[tuple[Square, BaseGeometry]]:
    """Yield the squares that may meet a footprint in WGS 84, each with the limits of its zone."""
    for part in shapely.get_parts(footprint):
        for (zone, south), limits in _zones(part.bounds):
            inside = shapely.intersection(part, limits)
            if inside.is_empty:
                continue
            epsg = (32700 if south else 32600) + zone
            where = reproject(Where(inside, WGS84), pyproj.CRS.from_epsg(epsg))
            west, bottom, east, top = (value / EDGE for value in where.bounds)
            for row in range(int(np.floor(bottom)), int(np.ceil(top))):
                for column in range(max(int(np.floor(west)), 1), min(int(np.ceil(east)), 9)):
                    yield Square(zone, south, column, row), limits


def _zones(
    bounds: tuple[float, float, float, float],
) -> Iterator[tuple[tuple[int, bool], BaseGeometry]]:
    """Zones and hemispheres that a box meets, with the place on the globe that each is for."""
    west, bottom, east, top = bounds
    first, last = max(int((west + 180) // 6) - 1, 0), min(int((east + 180) // 6) + 2, 60)
    for zone in range(first + 1, last + 1):
        for south in (True, False):
            limits = zone_limits(zone, south)
            box = limits.bounds
            if box[0] <= east and west <= box[2] and box[1] <= top and bottom <= box[3]:
                yield (zone, south), limits


def zone_limits(zone: int, south: bool) -> BaseGeometry:
    """Where on the globe a UTM zone is used, in WGS 84: with the wide ones of Norway and Svalbard.

    NGA.STND.0037, section 2.4; between 80 degrees south and 84 degrees north.
    """
    boxes = []
    for low, high in BELTS:
        usual = (-186 + 6 * zone, -180 + 6 * zone)
        ends = ODD_ZONES.get((zone, low, high), usual)
        if (high <= 0) == south and ends is not None:
            boxes.append(shapely.box(ends[0], low, ends[1], high))
    return shapely.union_all(boxes)
