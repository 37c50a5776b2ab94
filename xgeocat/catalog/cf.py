"""What CF attributes say of a stack: its axes, the edges of its cells, its CRS, its times.

https://cfconventions.org/cf-conventions/cf-conventions.html, sections 4 (coordinate types), 5.6
(grid mappings), 7.1 (cell boundaries) and 8.1 (packed data).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import odc.geo.xr
import pyproj
import shapely
import xarray as xr
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from shapely.geometry.base import BaseGeometry

from xgeocat.catalog.aoi import WGS84, cut_at_antimeridian
from xgeocat.catalog.schema import TIME_DTYPE

Axis: TypeAlias = Literal["X", "Y", "T"]
STANDARD_NAMES: Mapping[str, Axis] = {
    "longitude": "X", "projection_x_coordinate": "X", "grid_longitude": "X",
    "latitude": "Y", "projection_y_coordinate": "Y", "grid_latitude": "Y", "time": "T",
}  # fmt: skip
UNITS: Mapping[str, Axis] = {
    **dict.fromkeys(("degrees_east", "degree_east", "degrees_E", "degree_E"), "X"),
    **dict.fromkeys(("degrees_north", "degree_north", "degrees_N", "degree_N"), "Y"),
}
#: Where attributes say nothing.
NAMES: Mapping[str, Axis] = {
    **dict.fromkeys(("x", "lon", "longitude", "easting"), "X"),
    **dict.fromkeys(("y", "lat", "latitude", "northing"), "Y"),
    **dict.fromkeys(("t", "time", "date"), "T"),
}
#: Calendars of the world, as numpy counts days.
CALENDARS = ("standard", "gregorian", "proleptic_gregorian")
METRES = {
    **dict.fromkeys(("m", "metre", "meter", "metres", "meters"), 1.0),
    **dict.fromkeys(("km", "kilometre", "kilometer", "kilometres", "kilometers"), 1000.0),
}
#: How far off, in cells, a coordinate may be from where even ones were.
EVEN = 0.01
#: What only a grid mapping has.
MAPPINGS = {"grid_mapping_name", "crs_wkt", "spatial_ref"}
#: What says of a variable how numbers are packed.
FILLS = ("_FillValue", "missing_value")


@dataclass(frozen=True, slots=True)
class StackGrid:
    """Grid of a stack as it is loaded: north up, from west to east, longitudes from -180 on.

    Parameters
    ----------
    y, x : str
        Dims of the stack.
    shape : (int, int)
        Rows, columns.
    transform : Affine
        Pixel to CRS.
    crs : pyproj.CRS
        CRS of the grid.
    flipped : tuple of str
        Dims that run the other way in the stack.
    turned : int
        Columns by which a stack once round the globe is turned.
    """

    y: str
    x: str
    shape: tuple[int, int]
    transform: Affine
    crs: pyproj.CRS
    flipped: tuple[str, ...]
    turned: int

    @property
    def geobox(self) -> GeoBox:
        """The grid itself."""
        return GeoBox(self.shape, self.transform, self.crs.to_wkt())

    @property
    def is_global(self) -> bool:
        """Whether its columns go once round the globe."""
        return self.crs.is_geographic and math.isclose(
            self.shape[1] * self.transform.a, 360, abs_tol=self.transform.a * EVEN
        )

    @property
    def footprint(self) -> BaseGeometry:
        """Outline of its cells, in its CRS; in degrees cut at the poles and the antimeridian."""
        west, north = self.transform @ (0, 0)
        east, south = self.transform @ (self.shape[1], self.shape[0])
        if not self.crs.is_geographic:
            return shapely.box(west, south, east, north)
        south, north = max(south, -90.0), min(north, 90.0)
        if east - west >= 360 - self.transform.a * EVEN:
            return shapely.box(-180, south, 180, north)
        return cut_at_antimeridian(shapely.box(west, south, east, north), long_edges=False)

    def placed(self, field: xr.DataArray) -> xr.DataArray:
        """Bring a field of the stack onto the grid: nothing is resampled."""
        field = field.transpose(..., self.y, self.x)
        field = field.isel({dim: slice(None, None, -1) for dim in self.flipped})
        if self.turned:
            field = field.roll({self.x: -self.turned}, roll_coords=False)
        others = [n for n, c in field.coords.items() if {self.y, self.x} & set(c.dims)]
        names = dict(zip((self.y, self.x), self.geobox.dimensions, strict=True))
        field = field.drop_vars(others).rename({k: v for k, v in names.items() if k != v})
        return field.assign_coords(odc.geo.xr.xr_coords(self.geobox))


def stack_grid(ds: xr.Dataset, name: str, crs: pyproj.CRS | None = None) -> StackGrid:
    """Find the grid of a variable.

    Parameters
    ----------
    ds : Dataset
        Opened without ``mask_and_scale`` and ``decode_times``.
    name : str
        The variable.
    crs : pyproj.CRS, optional
        Where the stack does not say its own.

    Raises
    ------
    ValueError
        For a grid that is curvilinear or uneven, and one whose CRS is not known.
    """
    found = axes_of(ds, name)
    if not {"X", "Y"} <= found.keys():
        raise ValueError(_without_axes(ds, name))
    x, y = found["X"], found["Y"]
    known = _crs(ds, name, ds[x], crs)
    (west, dx, columns), (top, dy, rows) = (_edges(ds, found[axis], known) for axis in ("X", "Y"))
    flipped = [ds[c].dims[0] for c, wrong in ((x, dx < 0), (y, dy > 0)) if wrong]
    if dx < 0:
        west, dx = west + columns * dx, -dx
    if dy > 0:
        top, dy = top + rows * dy, -dy
    turned = 0
    if known.is_geographic:
        if abs(columns * dx - 360) < dx * EVEN:
            # The first centre is at -180 or the next after it.
            turned = math.ceil((-180 - west - dx / 2) % 360 / dx - EVEN) % columns
            west += turned * dx
            west -= 360 * math.floor((west + dx / 2 + 180 + dx * EVEN) / 360)
        else:
            west -= 360 * round((west + columns * dx / 2) / 360)
    transform = Affine(dx, 0, west, 0, dy, top)
    names = (str(ds[y].dims[0]), str(ds[x].dims[0]))
    return StackGrid(*names, (rows, columns), transform, known, tuple(map(str, flipped)), turned)


def axes_of(ds: xr.Dataset, name: str) -> dict[Axis, str]:
    """Coordinate of each axis of a variable: those along one dim, and a time along none."""
    found: dict[Axis, str] = {}
    # The coordinate of a dim before others along it.
    others = [str(n) for n in ds.variables if n not in ds.dims]
    for coord in [*map(str, ds[name].dims), *others]:
        if coord not in ds.variables or coord == name or ds[coord].ndim > 1:
            continue
        along = set(ds[coord].dims)
        axis = _axis(coord, ds[coord].attrs)
        if axis is not None and along <= set(ds[name].dims) and (along or axis == "T"):
            found.setdefault(axis, coord)
    return found


def _axis(name: str, attrs: Mapping[object, object]) -> Axis | None:
    units = str(attrs.get("units", ""))
    if " since " in units:
        return "T"
    said = STANDARD_NAMES.get(str(attrs.get("standard_name"))) or UNITS.get(units)
    if said is None and attrs.get("axis") in ("X", "Y", "T"):
        said = attrs["axis"]  # type: ignore[assignment]
    return said or (NAMES.get(name.lower()) if "standard_name" not in attrs else None)


def _without_axes(ds: xr.Dataset, name: str) -> str:
    dims = tuple(map(str, ds[name].dims))
    bent = [
        str(n)
        for n, var in ds.variables.items()
        if var.ndim == 2 and n != name and _axis(str(n), var.attrs) in ("X", "Y")
    ]
    if bent:
        return (
            f"{name!r} with dims {dims} is on a curvilinear grid: its coordinates {bent} have two "
            "dims. Regrid it to even longitudes and latitudes before."
        )
    return (
        f"{name!r} with dims {dims} has no x and y axis that CF attributes (standard_name, units, "
        'axis) or names tell. Name them: ds.rename(...="x", ...="y").'
    )


def _numbers(ds: xr.Dataset, name: str, about: Mapping[object, object]) -> NDArray[np.float64]:
    """Values of a coordinate, unpacked, as they were meant."""
    values = ds[name].values
    if values.dtype == np.float32:
        # The shortest decimals, which is what was written: 0.1, not 0.10000000149.
        values = values.astype(str)
    scale, offset = (
        about.get(key, default) for key, default in (("scale_factor", 1), ("add_offset", 0))
    )
    return values.astype(np.float64) * float(scale) + float(offset)  # type: ignore[arg-type]


def _edges(ds: xr.Dataset, name: str, crs: pyproj.CRS) -> tuple[float, float, int]:
    """First edge, step and number of the cells along a coordinate, in units of the CRS."""
    attrs = ds[name].attrs
    factor = _unit(name, attrs, crs)
    centres = _numbers(ds, name, attrs) * factor
    n = len(centres)
    bounds = str(attrs.get("bounds"))
    if bounds in ds.variables and ds[bounds].shape == (n, 2):
        pairs = _numbers(ds, bounds, {**attrs, **ds[bounds].attrs}) * factor
        if n > 1 and (centres[-1] - centres[0]) * (pairs[0, 1] - pairs[0, 0]) < 0:
            pairs = pairs[:, ::-1]
        edges = np.append(pairs[:, 0], pairs[-1, 1])
        gap = np.abs(pairs[1:, 0] - pairs[:-1, 1]).max(initial=0)
    elif n > 1:
        step = (centres[-1] - centres[0]) / (n - 1)
        edges, gap = np.append(centres - step / 2, centres[-1] + step / 2), 0.0
    else:
        raise ValueError(
            f"The axis {name!r} has one cell and no bounds, so how large it is is not known. Add "
            "a bounds variable."
        )
    step = (edges[-1] - edges[0]) / n
    even = edges[0] + step * np.arange(n + 1)
    off = max(float(np.abs(edges - even).max()), gap)
    if not (off <= abs(step) * EVEN and step):
        raise ValueError(
            f"The axis {name!r} is uneven: its cells are off by up to {off:.6g} from an even step "
            f"of {step:.6g}. Regrid it to an even one before."
        )
    return float(edges[0]), float(step), n


def _unit(name: str, attrs: Mapping[object, object], crs: pyproj.CRS) -> float:
    """What a coordinate is to be multiplied with to be in units of the CRS."""
    units = str(attrs.get("units", ""))
    if not units or units == "1" or (crs.is_geographic and units.startswith("degree")):
        return 1.0
    if units not in METRES or crs.is_geographic:
        raise ValueError(
            f"The axis {name!r} is in {units!r}, which is no unit of {crs.name!r}. Convert it, as "
            "radians of a geostationary view to metres with the height of the satellite."
        )
    return METRES[units] / float(crs.axis_info[0].unit_conversion_factor)


def _crs(ds: xr.Dataset, name: str, x: xr.DataArray, given: pyproj.CRS | None) -> pyproj.CRS:
    """CRS of a variable: from its grid mapping, as given, or WGS 84 for longitudes."""
    said = ds[name].attrs.get("grid_mapping") or ds[name].encoding.get("grid_mapping")
    mapping = str(said).split(":")[0].split()[0] if said else None
    if mapping is None:
        # rioxarray and odc-geo go without the attribute where there is one grid mapping.
        alone = [str(n) for n, var in ds.variables.items() if MAPPINGS & set(var.attrs)]
        mapping = alone[0] if len(alone) == 1 else None
    if mapping in ds.variables:
        attrs = ds[mapping].attrs
        wkt = attrs.get("crs_wkt") or attrs.get("spatial_ref")
        try:
            found = pyproj.CRS.from_user_input(wkt) if wkt else pyproj.CRS.from_cf(dict(attrs))
        except (pyproj.exceptions.CRSError, KeyError) as error:
            raise ValueError(
                f"The grid mapping {mapping!r} of {name!r} says no CRS that can be read: {error}. "
                "Give it: grid_crs='EPSG:...'."
            ) from error
        epsg = found.to_epsg()
        if epsg is None and _is_plain(found):
            return WGS84
        return found if epsg is None else pyproj.CRS.from_epsg(epsg)
    if given is not None:
        return given
    units = str(x.attrs.get("units", ""))
    if (
        x.attrs.get("standard_name") == "longitude"
        or UNITS.get(units) == "X"
        or (str(x.name).lower() in ("lon", "longitude") and not units)
    ):
        return WGS84
    raise ValueError(
        f"{name!r} has neither a grid mapping nor longitudes: the CRS of its axis {x.name!r} "
        f"({units or 'no units'}) is not known. Give it: grid_crs='EPSG:...'."
    )


def _is_plain(crs: pyproj.CRS) -> bool:
    """Tell whether longitudes and latitudes are of WGS 84, or of no datum on its ellipsoid."""
    datum, ellipsoid = crs.datum, crs.ellipsoid
    return (
        crs.type_name == "Geographic 2D CRS"
        and datum is not None
        and datum.name.lower().startswith(("undefined", "unknown", "world geodetic system 1984"))
        and ellipsoid is not None
        and math.isclose(ellipsoid.semi_major_metre, 6378137.0)
        and math.isclose(ellipsoid.inverse_flattening, 298.257223563)
    )


def stack_times(ds: xr.Dataset, name: str) -> tuple[str | None, NDArray[np.datetime64]]:
    """Find the times of a variable.

    Returns
    -------
    dim : str or None
        The dim of time; None for a stack of one moment, or of none.
    numpy.ndarray
        Shape ``(steps, 3)``, ``datetime64[us]``, UTC: the time of each step, its first and its last
        moment. Time bounds in CF end where the next ones start, so the last moment is a microsecond
        before. No steps for a stack without time.

    Raises
    ------
    ValueError
        For a calendar that is none of this world, and times that are missing or repeat.
    """
    coord = axes_of(ds, name).get("T")
    if coord is None:
        return None, np.empty((0, 3), TIME_DTYPE)
    attrs = ds[coord].attrs
    calendar = str(attrs.get("calendar", "standard")).lower()
    if calendar not in CALENDARS:
        raise ValueError(
            f"The times {coord!r} are of the calendar {calendar!r}, whose days are none of this "
            "world's. Convert them before: ds.convert_calendar('standard')."
        )
    bounds = attrs.get("bounds")
    names = [coord, *([bounds] if bounds in ds.variables else [])]
    coder = xr.coders.CFDatetimeCoder(use_cftime=False, time_unit="us")
    decoded = xr.decode_cf(ds[names].reset_coords(), decode_times=coder, decode_timedelta=False)
    times = np.atleast_1d(decoded[coord].values)
    if times.dtype.kind != "M":
        raise ValueError(
            f"The times {coord!r} have the units {attrs.get('units')!r}, which CF does not know; "
            "write e.g. 'days since 1970-01-01'."
        )
    times = times.astype(TIME_DTYPE)
    steps = np.stack([times, times, times], axis=1)
    if len(names) > 1:
        pairs = np.sort(decoded[bounds].values.astype(TIME_DTYPE).reshape(-1, 2), axis=1)
        tick = np.timedelta64(1, "us") * (pairs[:, 1] > pairs[:, 0])
        steps[:, 1], steps[:, 2] = pairs[:, 0], pairs[:, 1] - tick
    if np.isnat(steps).any() or len(np.unique(times)) < len(times):
        raise ValueError(
            f"The times {coord!r} are missing or repeat, so steps cannot be told apart. Mend them, "
            "e.g. ds.drop_duplicates('time')."
        )
    return (str(ds[coord].dims[0]) if ds[coord].ndim else None), steps


def nodata_of(var: xr.DataArray) -> float | None:
    """What a variable has where it has nothing; None where it does not say.

    Raises
    ------
    ValueError
        When it has two different ones.
    """
    said = {float(np.ravel(var.attrs[key])[0]) for key in FILLS if key in var.attrs}
    # NaN is never a number, whatever else is none.
    numbers = {value for value in said if not math.isnan(value)}
    if len(numbers) > 1:
        raise ValueError(
            f"{var.name!r} has two values for nothing, {sorted(numbers)} ({' and '.join(FILLS)}), "
            "and a catalog has a place for one. Write it anew with one."
        )
    return (numbers or said or {None}).pop()  # type: ignore[arg-type]
