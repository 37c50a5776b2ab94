"""CatalogDomain: the scenes of a catalog, each a slice on its own grid or on one you name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Literal

import numpy as np
import shapely
import xarray as xr
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox
from odc.geo.geom import BoundingBox, bbox_union
from odc.geo.overlap import compute_output_geobox
from shapely.geometry.base import BaseGeometry

from xgeocat.catalog import schema
from xgeocat.catalog.aoi import Where, outline
from xgeocat.catalog.index import footprint_index, loaded
from xgeocat.catalog.sources import Json
from xgeocat.catalog.stac import to_dicts
from xgeocat.domain.align import union_grid
from xgeocat.domain.assets import scenes_of
from xgeocat.domain.bands import data_bands
from xgeocat.domain.bins import SOLAR_DAY, running_longitudes, solar_days
from xgeocat.domain.fuse import load_steps
from xgeocat.domain.geoslice import GeoSlice, crs_code, crs_of, grid_of
from xgeocat.domain.load import load_scene
from xgeocat.domain.scenes import (
    Sign,
    assets_digest,
    footprints_of,
    has_band,
    in_common,
    native_grids,
    properties,
    require_options,
    require_times,
    scene_ids,
    signed,
)

NATIVE = "native"


class CatalogDomain:
    """A catalog as a domain: one slice per scene, or per solar day.

    Parameters
    ----------
    catalog : Dataset
        A catalog; an empty one is a domain without slices.
    bands : sequence of str, optional
        What `load` loads by default, and what the native grid is taken from: the finest of theirs.
        By default all raster assets that are data.
    resolution : float, optional
        Pixel edge in units of the CRS; the native one by default. Grids in the native CRS keep
        the scene's own north-west corner.
    crs : CRS or "native", optional
        One CRS for all slices, or each scene's own. Needed where scenes are in several.
    groupby : "solar_day", optional
        One slice for all scenes of one day of local mean solar time, on a grid that covers them
        all: their own pixels, or, with `resolution`, those whose edges are multiples of it. Where
        scenes overlap, the first valid pixel wins, in the order of the catalog. Days are those at
        the middles of the footprints, counted on across the antimeridian. With ``crs="native"``
        there is a slice for each day and CRS. For scenes that are far apart take a GridDomain.
    mask_and_scale : bool, default: False
        See :func:`xgeocat.domain.load.load_scene`, as for `resampling` and `chunks`.
    resampling : str, default: "nearest"
        Where the grids differ.
    chunks : int, default: 2048
        Chunk edge of the cubes, in pixels.
    sign : callable, optional
        Takes the href of a raster and returns one that may be read, e.g. with a signature
        (``planetary_computer.sign``). It is called just before a scene is read, and again on every
        retry, in the process that reads; what it returns is kept nowhere.

    Raises
    ------
    TypeError
        When `catalog` is no catalog, or `resolution` no number.
    ValueError
        For options with which nothing could be loaded, ids that repeat, a band that no scene has,
        scenes whose grid is not known, and scenes in several CRSs without `crs`. With `groupby` for
        scenes without a time or on pixels of their own, and for a `crs` without `resolution`.
    """

    def __init__(
        self,
        catalog: xr.Dataset,
        *,
        bands: Sequence[str] | None = None,
        resolution: float | None = None,
        crs: object | None = None,
        groupby: Literal["solar_day"] | None = None,
        mask_and_scale: bool = False,
        resampling: str = "nearest",
        chunks: int = 2048,
        sign: Sign | None = None,
    ) -> None:
        self.catalog = loaded(schema.require_catalog(catalog, "CatalogDomain"))
        require_options(resolution, resampling, chunks)
        self.bands = None if bands is None else list(bands)
        self.resolution = resolution
        self.mask_and_scale = mask_and_scale
        self.resampling = resampling
        self.chunks = chunks
        self.sign = sign
        self._ids = scene_ids(self.catalog)
        self._require_known_bands()
        self._native = native_grids(self.catalog, range(len(self._ids)), self.bands, sign)
        self._crs = self._target_crs(crs)
        self.groupby = groupby
        self._days = None if groupby is None else self._in_days(crs)

    def _require_known_bands(self) -> None:
        if self.bands is None or not self._ids:
            return
        missing = set(self.bands)
        for scene in scenes_of(self.catalog):
            missing -= {name for name in missing if has_band(scene, name)}
            if not missing:
                return
        has = sorted(str(name) for name in self.catalog[schema.ASSET].values)
        raise ValueError(f"No scene has a band {sorted(missing)}; the assets are {has}.")

    def _target_crs(self, crs: object | None) -> CRS | None:
        found = list(dict.fromkeys(geobox.crs for geobox in self._native))
        if crs is not None and crs != NATIVE:
            return CRS(crs)
        if len(found) > 1 and crs is None:
            raise ValueError(
                f"The scenes are in {len(found)} CRSs, {[str(c) for c in found[:5]]}. Choose one "
                "for all, e.g. crs='EPSG:3857', or crs='native' to keep each on its own grid."
            )
        return None

    @property
    def crs(self) -> CRS:
        """CRS of the slices; of the footprints where slices are in several."""
        found = {crs_of(geobox) for geobox in self._native}
        if self._crs is not None:
            return self._crs
        return found.pop() if len(found) == 1 else CRS(footprint_index(self.catalog).crs.to_wkt())

    @property
    def bounds(self) -> BoundingBox | None:
        """Bounds of all slices, in `crs`; None if there are none."""
        crs = self.crs
        boxes = [
            s.geobox.boundingbox if s.crs == crs else s.geobox.extent.to_crs(crs).boundingbox
            for s in self.slices()
        ]
        return bbox_union(boxes) if boxes else None

    def __len__(self) -> int:
        return len(self._ids if self._days is None else self._days)

    def __repr__(self) -> str:
        days = "" if self._days is None else f" in {len(self)} solar days"
        return f"CatalogDomain({len(self._ids)} scenes{days}, crs={self.crs}, bands={self.bands})"

    def describe(self) -> Mapping[str, object]:
        """Describe, in JSON values, what `load` depends on beside the slices."""
        return {
            "bands": self.bands,
            "mask_and_scale": self.mask_and_scale,
            "resampling": self.resampling,
            "assets": assets_digest(self.catalog),
        } | ({} if self.groupby is None else {"groupby": self.groupby})

    def slices(self) -> Iterator[GeoSlice]:
        """Yield one slice per scene, in the order of the catalog; or per solar day, in time.

        That of a day is called by it, ``"2024-06-01"`` (``"2024-06-01_EPSG32610"`` where each scene
        keeps its own CRS); its properties are those that all its scenes share, and their ids as
        ``source:scenes``.
        """
        known = properties(self.catalog)
        if self._days is not None:
            yield from (self._day(label, *of_day, known) for label, of_day in self._days.items())
            return
        index = footprint_index(self.catalog)
        for i, (name, native) in enumerate(zip(self._ids, self._native, strict=True)):
            drawn = index.geometry[i]
            yield GeoSlice(
                geobox=self._grid(native),
                interval=self._interval([i]),
                scenes=(name,),
                footprint=None if drawn is None else partial(outline, Where(drawn, index.crs)),
                properties=known[i],
            )

    def _day(
        self, label: str, rows: list[int], geobox: GeoBox, known: Sequence[Mapping[str, object]]
    ) -> GeoSlice:
        ids = [self._ids[i] for i in rows]
        return GeoSlice(
            geobox=geobox,
            interval=self._interval(rows),
            scenes=ids,
            footprint=partial(self._footprint, rows),
            properties=in_common([known[i] for i in rows]) | {"source:scenes": ids},
            label=label,
        )

    def _interval(self, rows: list[int]) -> tuple[np.datetime64, np.datetime64] | None:
        index = footprint_index(self.catalog)
        starts, ends = index.start[rows], index.end[rows]
        known = not np.isnat(starts).any() and not np.isnat(ends).any()
        return (starts.min(), ends.max()) if known else None

    def _footprint(self, rows: list[int]) -> BaseGeometry:
        """Where some scenes are, in WGS 84."""
        index = footprint_index(self.catalog)
        drawn = footprints_of(self.catalog, rows, [self._native[i] for i in rows])
        return outline(Where(shapely.union_all(drawn), index.crs))

    def _in_days(self, crs: object | None) -> dict[str, tuple[list[int], GeoBox]]:
        """Scenes and grid of each solar day, by name."""
        if self.groupby != SOLAR_DAY:
            raise ValueError(f"groupby={self.groupby!r} must be {SOLAR_DAY!r} or None.")
        if self._crs is not None and self.resolution is None:
            raise ValueError(
                f"groupby with crs={str(self._crs)!r} needs resolution= too, for all days to be on "
                "the same pixels."
            )
        require_times(self.catalog)
        index = footprint_index(self.catalog)
        drawn = footprints_of(self.catalog, range(len(self._ids)), self._native)
        longitudes = running_longitudes([outline(Where(shape, index.crs)) for shape in drawn])
        found: dict[str, list[int]] = {}
        for i, day in enumerate(solar_days(index.start, longitudes)):
            own = f"_{crs_code(self._native[i]).replace(':', '')}" if crs == NATIVE else ""
            found.setdefault(f"{day}{own}", []).append(i)
        return {label: (found[label], self._union(found[label])) for label in sorted(found)}

    def _union(self, rows: list[int]) -> GeoBox:
        """A grid that covers some scenes."""
        grids = [(self._ids[i], self._native[i]) for i in rows]
        native = grids[0][1]
        crs = self._crs or crs_of(native)
        if crs == native.crs and self.resolution in (None, abs(native.resolution.x)):
            return union_grid(grids)
        boxes = [
            compute_output_geobox(g, crs, resolution=self.resolution or "auto").boundingbox
            for _, g in grids
        ]
        return GeoBox.from_bbox(bbox_union(boxes), crs, resolution=self.resolution, anchor="edge")

    def _grid(self, native: GeoBox) -> GeoBox:
        if self._crs is not None and self._crs != native.crs:
            return compute_output_geobox(native, self._crs, resolution=self.resolution or "auto")
        if self.resolution is None or self.resolution == abs(native.resolution.x):
            return native
        return grid_of(native.boundingbox.bbox, self.resolution, native.crs)

    def item(self, request: GeoSlice) -> Json | None:
        """STAC item of the scene that a slice is of; None with `groupby`."""
        if self.groupby is not None:
            return None
        (item,) = to_dicts(self.catalog.isel({schema.SCENE: [self._ids.index(request.name)]}))
        return item

    def load(self, request: GeoSlice, bands: Sequence[str] | None = None) -> xr.Dataset:
        """Load exactly the scenes that a slice names, lazily, on the slice's grid.

        Parameters
        ----------
        request : GeoSlice
            One of `slices`, or one with the same scenes on another grid.
        bands : sequence of str, optional
            Instead of the domain's own.

        Returns
        -------
        Dataset
            See :func:`xgeocat.domain.load.load_scene`; of a solar day
            :func:`xgeocat.domain.fuse.load_steps`.

        Raises
        ------
        KeyError
            For a band or asset that the scene does not have.
        ValueError
            For a slice that does not name scenes of this catalog, or more than one without
            `groupby`.
        """
        at = [self._ids.index(name) for name in request.scenes if name in self._ids]
        several = self.groupby is not None
        if not at or len(at) < len(request.scenes) or (len(at) > 1 and not several):
            raise ValueError(
                f"The slice names the scenes {request.scenes}; a CatalogDomain loads one scene of "
                "its catalog at a time (with groupby= those of a day). Take slices from "
                "domain.slices()."
            )
        scenes = scenes_of(self.catalog, sorted(at))
        names = bands or self.bands or data_bands(scenes[0])
        readable = [signed(scene, names, self.sign) for scene in scenes]
        if several:
            return load_steps(
                [readable],
                request.geobox,
                names,
                mask_and_scale=self.mask_and_scale,
                resampling=self.resampling,
                chunks=self.chunks,
            )
        return load_scene(
            readable[0],
            request.geobox,
            names,
            mask_and_scale=self.mask_and_scale,
            resampling=self.resampling,
            chunks=self.chunks,
        )
