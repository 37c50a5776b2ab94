"""Domain: what a pipeline can be run over."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

import xarray as xr
from odc.geo.crs import CRS
from odc.geo.geom import BoundingBox

from xgeocat.catalog.sources import Json
from xgeocat.domain.geoslice import GeoSlice


@runtime_checkable
class Domain(Protocol):
    """A finite series of slices, and how to load each.

    Any object with these members is a domain: a catalog, a raster, a folder of files, a service.
    Slices are plain values, equal from one process to the next, so that a run can be resumed;
    `load` is lazy and may be called in any process.
    """

    @property
    def crs(self) -> CRS | None:
        """CRS of `bounds`; None for a domain without slices whose CRS is not known."""
        ...

    @property
    def bounds(self) -> BoundingBox | None:
        """Bounds of all slices; None for a domain without slices."""
        ...

    def __len__(self) -> int:
        """Return the number of slices."""
        ...

    def slices(self) -> Iterator[GeoSlice]:
        """Yield the slices, always in the same order."""
        ...

    def load(
        self, request: GeoSlice, bands: Sequence[str] | None = None
    ) -> xr.Dataset | xr.DataArray:
        """Load the field of one slice, lazily, on the slice's grid."""
        ...


@runtime_checkable
class OfItems(Protocol):
    """A domain that knows the STAC item behind a slice, with the assets it is loaded from."""

    def item(self, request: GeoSlice) -> Json | None:
        """STAC item of the one scene that a slice is of; None where it is of several."""
        ...
