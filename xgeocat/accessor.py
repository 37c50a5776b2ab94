"""The ``.geocat`` accessors. Doors only: every body is a call.

What is behind a door is imported when it is opened: importing xgeocat registers the doors, and is
to cost little more than xarray and odc-geo.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import xarray as xr

# Not late: its modules, and pyproj's, import each other, and fail where two threads do it at once.
from odc.geo.geom import BoundingBox

import xgeocat as xgc  # imports each of its names when it is first used
from xgeocat.catalog.schema import GEOMETRY, SCENE, is_catalog, require_catalog

if TYPE_CHECKING:
    import folium
    import geopandas as gpd
    import pyproj
    import pystac
    import torch
    from matplotlib.axes import Axes
    from odc.geo.geom import BoundingBox

    from xgeocat.catalog.aoi import AOI
    from xgeocat.catalog.interval import TimeLike
    from xgeocat.catalog.matchup import Gap
    from xgeocat.catalog.parquet import By
    from xgeocat.patching.explain import Explanation
    from xgeocat.patching.models import ModelLike
    from xgeocat.patching.patch import PerDim
    from xgeocat.patching.samplers import Sampler
    from xgeocat.patching.tiling import Array, Boundary, Ints
    from xgeocat.patching.windows import Window


def _require_field(obj: xr.DataArray | xr.Dataset, action: str) -> None:
    if SCENE in obj.dims and (GEOMETRY in obj.coords or "href" in getattr(obj, "data_vars", ())):
        raise TypeError(
            f".geocat.{action} works on a field with pixels; got a catalog of "
            f"{obj.sizes[SCENE]} scenes. Load one first: domain = ds.geocat.domain(); "
            "cube = domain.load(next(domain.slices()))."
        )


def _to_geodataframe(obj: xr.Dataset) -> gpd.GeoDataFrame:
    """A table of a catalog's scenes, or of a field's patches."""
    from xgeocat.catalog import table
    from xgeocat.patching import single

    return table.to_geodataframe(obj) if is_catalog(obj) else single.to_geodataframe(obj)


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
        return xgc.map_patches(
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
        from xgeocat.patching import single

        _require_field(self._obj, "[number]")
        return single.one_patch(self._obj, number)

    def __len__(self) -> int:
        """Number of patches."""
        from xgeocat.patching.index import patch_index

        _require_field(self._obj, "len()")
        return len(patch_index(self._obj).starts)

    def __iter__(self) -> Iterator[xr.DataArray | xr.Dataset]:
        """Go through the patches one by one, in memory; see :func:`single.each_patch`."""
        from xgeocat.patching import single

        _require_field(self._obj, "iter()")
        return single.each_patch(self._obj)

    def to_geodataframe(self) -> gpd.GeoDataFrame:
        """Make a table of patches, a row each; see :func:`single.to_geodataframe`."""
        from xgeocat.patching import single

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
        return xgc.explain(self._obj)

    def stitch(
        self,
        *,
        window: Window = "boxcar",
        reduce: str | xgc.Reducer = "mean",
        crop: int | dict[str, int] = 0,
        fill: complex | None = None,
        coverage: bool = False,
        disagreement: bool = False,
        inline: bool = False,
    ) -> xr.DataArray | xr.Dataset:
        """Put patches back on the map; see :func:`xgeocat.stitch`."""
        _require_field(self._obj, "stitch")
        return xgc.stitch(
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
        return xgc.patch(self._obj, size, overlap=overlap, stride=stride, at=at, boundary=boundary)

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
        from xgeocat.catalog.index import footprint_index

        return footprint_index(require_catalog(self._obj, ".geocat.crs")).crs

    @property
    def bounds(self) -> BoundingBox | None:
        """Bounds of all footprints, in the catalog's CRS; None for an empty catalog."""
        from xgeocat.catalog.query import bounds

        return bounds(self._obj)

    def query(self, aoi: AOI | None = None, time: TimeLike | None = None) -> xr.Dataset:
        """Select scenes by place and time; see :func:`xgeocat.query`."""
        return xgc.query(self._obj, aoi, time)

    def deduplicate(
        self,
        *,
        by: str | Sequence[str] | Callable[[xr.Dataset], Sequence[object]] | None = None,
        precedence: str | Sequence[str] | None = None,
        keep: Literal["best", "dropped"] = "best",
    ) -> xr.Dataset:
        """Keep one scene of each acquisition; see :func:`xgeocat.deduplicate`."""
        return xgc.deduplicate(self._obj, by=by, precedence=precedence, keep=keep)

    def union(self, *others: xr.Dataset) -> xr.Dataset:
        """Put catalogs behind each other, each scene once; see :func:`xgeocat.union`."""
        return xgc.union(self._obj, *others)

    def intersect(
        self, other: xr.Dataset, *, spatial_only: bool = False, suffix: str = "_other"
    ) -> xr.Dataset:
        """Keep what scenes of two catalogs share; see :func:`xgeocat.intersect`."""
        return xgc.intersect(self._obj, other, spatial_only=spatial_only, suffix=suffix)

    def difference(self, other: xr.Dataset, *, spatial_only: bool = False) -> xr.Dataset:
        """Keep what another catalog does not cover; see :func:`xgeocat.difference`."""
        return xgc.difference(self._obj, other, spatial_only=spatial_only)

    def matchup(
        self,
        other: xr.Dataset,
        *,
        max_gap: Gap | None = None,
        spatial: str | float = "intersects",
        nearest: int | None = None,
        suffix: str = "_match",
    ) -> xr.Dataset:
        """Match scenes of two catalogs in place and time; see :func:`xgeocat.matchup`."""
        return xgc.matchup(
            self._obj, other, max_gap=max_gap, spatial=spatial, nearest=nearest, suffix=suffix
        )

    def domain(
        self,
        *,
        bands: Sequence[str] | None = None,
        resolution: float | None = None,
        crs: object | None = None,
        groupby: Literal["solar_day"] | None = None,
        mask_and_scale: bool = False,
        resampling: str = "nearest",
        chunks: int = 2048,
        sign: Callable[[str], str] | None = None,
    ) -> xgc.CatalogDomain:
        """Make a domain of the scenes; see :class:`xgeocat.CatalogDomain`."""
        return xgc.CatalogDomain(
            self._obj,
            bands=bands,
            resolution=resolution,
            crs=crs,
            groupby=groupby,
            mask_and_scale=mask_and_scale,
            resampling=resampling,
            chunks=chunks,
            sign=sign,
        )

    def to_items(self) -> list[pystac.Item]:
        """Turn the catalog into STAC items; see :func:`xgeocat.to_items`."""
        return xgc.to_items(self._obj)

    def to_geodataframe(self) -> gpd.GeoDataFrame:
        """Make a table of scenes (:func:`table.to_geodataframe`) or patches, a row each."""
        return _to_geodataframe(self._obj)

    def to_geoparquet(self, path: str | os.PathLike[str], *, by: By | None = None) -> Path | str:
        """Write the catalog as GeoParquet; see :func:`xgeocat.to_geoparquet`."""
        return xgc.to_geoparquet(self._obj, path, by=by)

    def append(self, path: str | os.PathLike[str]) -> int:
        """Add the scenes to a catalog on disk; see :func:`xgeocat.append`."""
        return xgc.append(self._obj, path)

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
        return xgc.patch(self._obj, size, overlap=overlap, stride=stride, at=at, boundary=boundary)
