"""RasterDomain: a raster in memory, dask-backed, or opened from Zarr, as a domain."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import odc.geo.xr  # noqa: F401 - registers .odc
import xarray as xr
from dask.base import tokenize
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox
from odc.geo.geom import BoundingBox

from xgeocat.domain.geoslice import GeoSlice, crs_of, regular_geobox

TIME = "time"


class RasterDomain:
    """A raster as a domain: one slice per time step, or one if it has no time.

    Parameters
    ----------
    raster : DataArray or Dataset
        On a regular grid with a CRS, numpy- or dask-backed. A model sees the variables of a
        Dataset as bands, in their order; that of a Zarr store opened without consolidated
        metadata is not fixed, so select them by name: ``ds[["red", "nir"]]``.

    Raises
    ------
    TypeError
        For anything else than a DataArray or Dataset.
    ValueError
        For a raster without a regular grid or a CRS, or with time steps that repeat.
    """

    def __init__(self, raster: xr.DataArray | xr.Dataset) -> None:
        if not isinstance(raster, (xr.DataArray, xr.Dataset)):
            raise TypeError(
                f"RasterDomain takes a DataArray or Dataset; got a {type(raster).__name__}. Open "
                "files with rioxarray.open_rasterio(path, chunks=True) or xr.open_zarr(path)."
            )
        geobox = regular_geobox(raster)
        if geobox is None:
            has_crs = any({"crs_wkt", "spatial_ref"} & set(c.attrs) for c in raster.coords.values())
            lacks = "no regular y, x grid" if has_crs else "no CRS"
            raise ValueError(
                f"The raster with dims {tuple(map(str, raster.dims))} has {lacks}, so its "
                "answers could not be put on a map. Give it one: raster.odc.assign_crs('EPSG:...')."
            )
        if TIME in raster.dims and (TIME not in raster.coords or raster[TIME].dtype.kind != "M"):
            raise ValueError(
                "The raster has a time dimension without times (datetime64), so its slices could "
                "not be told apart. Give it some: raster.assign_coords(time=...)."
            )
        if TIME in raster.dims and not raster.indexes[TIME].is_unique:
            raise ValueError(
                "The raster has time steps that repeat, which slices could not tell apart. Make "
                "them unique, e.g. raster.groupby('time').first()."
            )
        self.raster = raster
        self.geobox: GeoBox = geobox

    @property
    def crs(self) -> CRS:
        """CRS of the raster."""
        return crs_of(self.geobox)

    @property
    def bounds(self) -> BoundingBox:
        """Bounds of the raster."""
        return self.geobox.boundingbox

    def describe(self) -> Mapping[str, object]:
        """Tell this raster from others: a hash of its values, or of how they are computed."""
        return {"raster": tokenize(self.raster)}

    def __len__(self) -> int:
        return int(self.raster.sizes.get(TIME, 1))

    def __repr__(self) -> str:
        rows, columns = self.geobox.shape
        return f"RasterDomain({len(self)} slices of {rows} x {columns} px, {self.crs})"

    def slices(self) -> Iterator[GeoSlice]:
        """Yield one slice per time step, or one."""
        if TIME not in self.raster.coords:
            yield GeoSlice(geobox=self.geobox)
            return
        for time in np.atleast_1d(self.raster[TIME].values):
            moment = time.astype("datetime64[us]")
            yield GeoSlice(geobox=self.geobox, interval=(moment, moment))

    def load(
        self, request: GeoSlice, bands: Sequence[str] | None = None
    ) -> xr.Dataset | xr.DataArray:
        """Return the part of the raster that a slice asks for, as it is: nothing is resampled.

        Parameters
        ----------
        request : GeoSlice
            On the raster's own pixels: any of `slices`, or a smaller grid aligned with it.
        bands : sequence of str, optional
            Variables of a Dataset, in the order wanted.

        Raises
        ------
        ValueError
            For a grid that is not on the raster's pixels or reaches beyond them, a time that the
            raster does not have, and an unknown band.
        """
        field = self.raster
        if bands is not None:
            field = self._bands(bands)
        y, x = field.odc.spatial_dims
        rows, columns = self._window(request.geobox)
        field = field.isel({y: rows, x: columns})
        if TIME in field.dims and request.interval is not None:
            start, end = request.interval
            times = field[TIME].values.astype("datetime64[us]")
            field = field.isel({TIME: (times >= start) & (times <= end)})
            if not field.sizes[TIME]:
                raise ValueError(f"The raster has no time step in {start} .. {end}.")
        return field

    def _bands(self, bands: Sequence[str]) -> xr.Dataset:
        if isinstance(self.raster, xr.DataArray):
            raise ValueError(
                f"bands={list(bands)} names variables of a Dataset, and the raster is a DataArray. "
                "Select from it with .sel(band=...) before."
            )
        unknown = [band for band in bands if band not in self.raster]
        if unknown:
            raise ValueError(
                f"The raster has no bands {unknown}; it has {list(map(str, self.raster.data_vars))}"
            )
        return self.raster[list(bands)]

    def _window(self, wanted: GeoBox) -> tuple[slice, slice]:
        offset = ~self.geobox.transform @ wanted.transform
        column, row = round(offset.c), round(offset.f)
        same_grid = wanted.crs == self.crs and offset.almost_equals(
            type(offset).translation(column, row), precision=1e-4
        )
        rows, columns = wanted.shape
        inside = (
            0 <= row <= row + rows <= self.geobox.shape[0]
            and 0 <= column <= column + columns <= self.geobox.shape[1]
        )
        if not (same_grid and inside):
            raise ValueError(
                f"The slice's grid {wanted!r} is not part of the raster's {self.geobox!r}, and a "
                "RasterDomain does not resample. Reproject first: raster.odc.reproject(geobox)."
            )
        return slice(row, row + rows), slice(column, column + columns)
