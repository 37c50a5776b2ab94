"""GeoSlice: a frozen request for one piece of the world and of time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self, TypeAlias

import numpy as np
import xarray as xr
from affine import Affine, TransformNotInvertibleError
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox
from shapely.geometry.base import BaseGeometry

from xgeocat.catalog.interval import Interval, TimeLike, parse_interval

Bounds: TypeAlias = tuple[float, float, float, float]
Footprint: TypeAlias = BaseGeometry | Callable[[], BaseGeometry] | None


@dataclass(frozen=True, slots=True, init=False)
class GeoSlice:
    """A bounded request: a grid, a closed time interval, and the scenes that serve it.

    As an AOI it needs `bounds` and says where and when; as a request it needs a grid too, from
    `resolution` and `crs` or as `geobox`.

    Parameters
    ----------
    bounds : (float, float, float, float), optional
        West, south, east, north, in `crs`.
    interval : time or pair of times, optional
        As :func:`xgeocat.query` reads it.
    resolution : float, optional
        Pixel edge in units of `crs`. The grid starts at the north-west corner of `bounds`.
    crs : CRS, optional
        CRS of `bounds`.
    geobox : GeoBox, optional
        The grid itself, instead of `bounds`, `resolution` and `crs`.
    scenes : sequence of str, optional
        Ids of the scenes that serve the request.
    footprint : shapely.Geometry, or a function that makes it, optional
        Where there is data, in WGS 84, as STAC has it; the outline of the grid by default. A
        function is called when somebody asks.
    properties : mapping, optional
        What else is known of the piece, under STAC names.
    label : str, optional
        Its name, where scenes, time or place would not make a good one.

    Raises
    ------
    ValueError
        Without bounds or geobox, or with bounds that are empty or upside down.
    """

    bounds: Bounds
    interval: Interval | None
    crs: CRS | None
    grid: GeoBox | None
    scenes: tuple[str, ...]
    label: str | None
    drawn: Footprint = field(compare=False, repr=False)
    properties: Mapping[str, object] = field(compare=False, repr=False)

    def __init__(
        self,
        bounds: Sequence[float] | None = None,
        interval: TimeLike = None,
        resolution: float | None = None,
        crs: object | None = None,
        *,
        geobox: GeoBox | None = None,
        scenes: Sequence[str] = (),
        footprint: Footprint = None,
        properties: Mapping[str, object] | None = None,
        label: str | None = None,
    ) -> None:
        if (geobox is None) == (bounds is None):
            raise ValueError("A GeoSlice needs bounds (with resolution and crs) or a geobox: one.")
        if geobox is not None and (resolution is not None or crs is not None):
            raise ValueError("A geobox brings its own resolution and crs; give it alone.")
        if geobox is None:
            assert bounds is not None
            crs = None if crs is None else CRS(crs)
            box = _checked(bounds, wraps=resolution is None and (crs is None or crs.geographic))
            if resolution is not None:
                geobox = grid_of(box, resolution, crs)
        else:
            box, crs = geobox.boundingbox.bbox, geobox.crs
        set_field = object.__setattr__
        set_field(self, "bounds", tuple(map(float, box)))
        set_field(self, "interval", None if interval is None else parse_interval(interval))
        set_field(self, "crs", crs)
        set_field(self, "grid", geobox)
        set_field(self, "scenes", tuple(scenes))
        set_field(self, "label", label)
        set_field(self, "drawn", footprint)
        set_field(self, "properties", dict(properties or {}))

    @property
    def geobox(self) -> GeoBox:
        """The grid; a ValueError where none was asked for."""
        if self.grid is None:
            raise ValueError(
                f"This GeoSlice over {self.bounds} has no grid: it says where, not how finely. "
                "Give resolution= (and crs=), or geobox=."
            )
        return self.grid

    @property
    def footprint(self) -> BaseGeometry | None:
        """Where there is data, in WGS 84."""
        return self.drawn() if callable(self.drawn) else self.drawn

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the grid."""
        rows, columns = self.geobox.shape
        return int(rows), int(columns)

    @property
    def resolution(self) -> float | None:
        """Pixel edge in units of the CRS, for square pixels; None without a grid."""
        return None if self.grid is None else abs(float(self.grid.resolution.x))

    @property
    def name(self) -> str:
        """Name of the piece: its label, else its scenes, else its time, else its place."""
        if self.label is not None:
            return self.label
        if self.scenes:
            return "+".join(self.scenes)
        if self.interval is not None:
            moment = np.datetime_as_string(self.interval[0], unit="us").replace(":", "")
            return moment.removesuffix(".000000")
        return "_".join(f"{value:.10g}" for value in self.bounds)

    def with_interval(self, interval: TimeLike) -> Self:
        """Return the same place at another time."""
        return type(self)(
            self.bounds if self.grid is None else None,
            interval,
            crs=self.crs if self.grid is None else None,
            geobox=self.grid,
            scenes=self.scenes,
            footprint=self.drawn,
            properties=self.properties,
            label=self.label,
        )


def _checked(bounds: Sequence[float], *, wraps: bool) -> Bounds:
    if len(bounds) != 4:
        raise ValueError(f"bounds={tuple(bounds)} must be four: west, south, east, north.")
    west, south, east, north = map(float, bounds)
    across = wraps and -180 <= east < west <= 180
    if not np.isfinite((west, south, east, north)).all():
        raise ValueError(f"bounds={tuple(bounds)} are not finite.")
    if not ((west < east or across) and south < north):
        raise ValueError(
            f"bounds={tuple(bounds)} are empty or upside down; the order is west, south, east, "
            "north."
        )
    return west, south, east, north


def regular_geobox(field: xr.DataArray | xr.Dataset) -> GeoBox | None:
    """Grid of a field; None where it has no CRS, or its coordinates are not evenly spaced.

    odc-geo takes a grid from the first and last coordinate; here those between count too, to a
    hundredth of a pixel.
    """
    import odc.geo.xr

    try:
        geobox = field.odc.geobox
    except TransformNotInvertibleError:
        # Coordinates that repeat make pixels of no size.
        return None
    if not isinstance(geobox, GeoBox) or geobox.crs is None or not all(geobox.resolution.xy):
        return None
    even = odc.geo.xr.xr_coords(geobox, dims=field.odc.spatial_dims)
    steps = (abs(geobox.resolution.y), abs(geobox.resolution.x))
    for dim, step in zip(field.odc.spatial_dims, steps, strict=True):
        if dim in field.coords and not np.allclose(field[dim], even[dim], rtol=0, atol=step / 100):
            return None
    return geobox


def crs_of(geobox: GeoBox) -> CRS:
    """CRS of a grid.

    Raises
    ------
    ValueError
        For a grid without one.
    """
    if geobox.crs is None:
        raise ValueError(f"This grid has no CRS: {geobox!r}. Give it one: GeoBox(..., crs=...).")
    return geobox.crs


def crs_code(geobox: GeoBox) -> str:
    """CRS of a grid as STAC writes it: its EPSG code where it has one, else WKT."""
    crs = crs_of(geobox)
    epsg = crs.to_epsg()
    return crs.to_wkt() if epsg is None else f"EPSG:{epsg}"


def grid_of(bounds: Bounds, resolution: float, crs: CRS | None) -> GeoBox:
    """Grid of square pixels that starts at the north-west corner and covers `bounds`.

    Raises
    ------
    ValueError
        Without a CRS, or for a resolution that is not above 0.
    """
    if crs is None:
        raise ValueError(f"A grid over {bounds} needs crs=, e.g. crs='EPSG:32610'.")
    if not 0 < resolution < np.inf:
        raise ValueError(f"resolution={resolution}: it must be above 0, in units of {crs}.")
    west, south, east, north = bounds
    # A millionth of a pixel more is rounding in the bounds, not another pixel.
    rows = int(np.ceil((north - south) / resolution - 1e-6))
    columns = int(np.ceil((east - west) / resolution - 1e-6))
    return GeoBox((rows, columns), Affine(resolution, 0, west, 0, -resolution, north), crs)
