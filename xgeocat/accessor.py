"""The ``.geocat`` accessors. Doors only: every body is a call."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pystac
import xarray as xr
from odc.geo.geom import BoundingBox

from xgeocat.catalog import append, parquet, query, stac
from xgeocat.catalog.aoi import AOI
from xgeocat.catalog.index import footprint_index
from xgeocat.catalog.interval import TimeLike
from xgeocat.catalog.schema import GEOMETRY, SCENE, require_catalog
from xgeocat.domain.catalog import CatalogDomain
from xgeocat.patching import apply, explain, single, stitch
from xgeocat.patching import patch as patching
from xgeocat.patching.explain import Explanation
from xgeocat.patching.index import patch_index
from xgeocat.patching.models import ModelLike
from xgeocat.patching.patch import PerDim
from xgeocat.patching.pieces import Reducer
from xgeocat.patching.tiling import Array, Boundary, Ints
from xgeocat.patching.windows import Window

if TYPE_CHECKING:
    import folium
    import geopandas as gpd
    import pyproj
    import torch
    from matplotlib.axes import Axes

    from xgeocat.patching.samplers import Sampler


def _require_field(obj: xr.DataArray | xr.Dataset, action: str) -> None:
    if SCENE in obj.dims and (GEOMETRY in obj.coords or "href" in getattr(obj, "data_vars", ())):
        raise TypeError(
            f".geocat.{action} works on a field with pixels; got a catalog of "
            f"{obj.sizes[SCENE]} scenes. Load one first: domain = ds.geocat.domain(); "
            "cube = domain.load(next(domain.slices()))."
        )


class _PatchingDoor:
    """What fields and patches have in common, as DataArray and as Dataset."""

    _obj: xr.DataArray | xr.Dataset

    def map(
        self,
        model: ModelLike,
        *,
        batch_size: int = 32,
        dims: Sequence[str] | None = None,
        fill: float | None = None,
        skip_empty: bool = False,
        fixed_batch: bool = False,
        meta: Array | None = None,
    ) -> xr.DataArray:
        """Map a model over patches; see :func:`xgeocat.map_patches`."""
        _require_field(self._obj, "map")
        return apply.map_patches(
            self._obj,
            model,
            batch_size=batch_size,
            dims=dims,
            fill=fill,
            skip_empty=skip_empty,
            fixed_batch=fixed_batch,
            meta=meta,
        )

    def __getitem__(self, number: int) -> xr.DataArray | xr.Dataset:
        """One patch as a field of its own on the map; see :func:`single.one_patch`."""
        _require_field(self._obj, "[number]")
        return single.one_patch(self._obj, number)

    def __len__(self) -> int:
        """Number of patches."""
        _require_field(self._obj, "len()")
        return len(patch_index(self._obj).starts)

    def __iter__(self) -> Iterator[xr.DataArray | xr.Dataset]:
        """Go through the patches one by one, in memory; see :func:`single.each_patch`."""
        _require_field(self._obj, "iter()")
        return single.each_patch(self._obj)

    def to_geodataframe(self) -> gpd.GeoDataFrame:
        """Make a table of patches, a row each; see :func:`single.to_geodataframe`."""
        _require_field(self._obj, "to_geodataframe")
        return single.to_geodataframe(self._obj)

    def to_torch(
        self,
        *,
        labels: xr.DataArray | xr.Dataset | None = None,
        transform: Callable[..., object] | None = None,
    ) -> torch.utils.data.Dataset[object]:
        """Serve patches for training; see :func:`training.to_torch`."""
        from xgeocat.patching import training

        _require_field(self._obj, "to_torch")
        return training.to_torch(self._obj, labels=labels, transform=transform)

    def explain(self) -> Explanation:
        """Say what computing this will take; see :func:`explain.explain`."""
        _require_field(self._obj, "explain")
        return explain.explain(self._obj)

    def stitch(
        self,
        *,
        window: Window = "boxcar",
        reduce: str | Reducer = "mean",
        crop: int | dict[str, int] = 0,
        fill: complex | None = None,
        coverage: bool = False,
        disagreement: bool = False,
        inline: bool = False,
    ) -> xr.DataArray | xr.Dataset:
        """Put patches back on the map; see :func:`xgeocat.stitch`."""
        _require_field(self._obj, "stitch")
        return stitch.stitch(
            self._obj,
            window=window,
            reduce=reduce,
            crop=crop,
            fill=fill,
            coverage=coverage,
            disagreement=disagreement,
            inline=inline,
        )


@xr.register_dataarray_accessor("geocat")
class DataArrayGeocat(_PatchingDoor):
    """``DataArray.geocat``: patch a field, map a model over patches, stitch."""

    _obj: xr.DataArray

    def __init__(self, obj: xr.DataArray) -> None:
        self._obj = obj

    def patch(
        self,
        size: PerDim,
        *,
        overlap: PerDim | None = None,
        stride: PerDim | None = None,
        at: Sampler | Ints | None = None,
        boundary: Boundary = "shift",
    ) -> xr.DataArray:
        """Cut the field into patches; see :func:`xgeocat.patch`."""
        _require_field(self._obj, "patch")
        return patching.patch(
            self._obj, size, overlap=overlap, stride=stride, at=at, boundary=boundary
        )

    def query(self, aoi: AOI | None = None, time: TimeLike | None = None) -> xr.Dataset:
        """Refuse: a DataArray is no catalog."""
        return require_catalog(self._obj, "query")


@xr.register_dataset_accessor("geocat")
class DatasetGeocat(_PatchingDoor):
    """``Dataset.geocat``: query, draw and save a catalog; patch, map and stitch a field."""

    _obj: xr.Dataset

    def __init__(self, obj: xr.Dataset) -> None:
        self._obj = obj

    # --- catalogs ---------------------------------------------------------------------------------

    @property
    def crs(self) -> pyproj.CRS:
        """CRS of the footprints."""
        return footprint_index(require_catalog(self._obj, ".geocat.crs")).crs

    @property
    def bounds(self) -> BoundingBox | None:
        """Bounds of all footprints, in the catalog's CRS; None for an empty catalog."""
        return query.bounds(self._obj)

    def query(self, aoi: AOI | None = None, time: TimeLike | None = None) -> xr.Dataset:
        """Select scenes by place and time; see :func:`xgeocat.query`."""
        return query.query(self._obj, aoi, time)

    def domain(
        self,
        *,
        bands: Sequence[str] | None = None,
        resolution: float | None = None,
        crs: object | None = None,
        mask_and_scale: bool = False,
        resampling: str = "nearest",
        chunks: int = 2048,
        sign: Callable[[str], str] | None = None,
    ) -> CatalogDomain:
        """Make a domain of the scenes; see :class:`xgeocat.CatalogDomain`."""
        return CatalogDomain(
            self._obj,
            bands=bands,
            resolution=resolution,
            crs=crs,
            mask_and_scale=mask_and_scale,
            resampling=resampling,
            chunks=chunks,
            sign=sign,
        )

    def to_items(self) -> list[pystac.Item]:
        """Turn the catalog into STAC items; see :func:`xgeocat.to_items`."""
        return stac.to_items(self._obj)

    def to_geoparquet(
        self, path: str | os.PathLike[str], *, by: parquet.By | None = None
    ) -> Path | str:
        """Write the catalog as GeoParquet; see :func:`xgeocat.to_geoparquet`."""
        return parquet.to_geoparquet(self._obj, path, by=by)

    def append(self, path: str | os.PathLike[str]) -> int:
        """Add the scenes to a catalog on disk; see :func:`xgeocat.append`."""
        return append.append(self._obj, path)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the footprints; see :func:`xgeocat.plotting.footprints`."""
        from xgeocat import plotting

        return plotting.footprints(self._obj, ax)

    def explore(self) -> folium.Map:
        """Show the footprints on an interactive map; see :func:`xgeocat.plotting.explore`."""
        from xgeocat import plotting

        return plotting.explore(self._obj)

    # --- fields -----------------------------------------------------------------------------------

    def patch(
        self,
        size: PerDim,
        *,
        overlap: PerDim | None = None,
        stride: PerDim | None = None,
        at: Sampler | Ints | None = None,
        boundary: Boundary = "shift",
    ) -> xr.Dataset:
        """Cut the field into patches; see :func:`xgeocat.patch`."""
        _require_field(self._obj, "patch")
        return patching.patch(
            self._obj, size, overlap=overlap, stride=stride, at=at, boundary=boundary
        )
