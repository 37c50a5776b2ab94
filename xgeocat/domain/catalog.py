"""CatalogDomain: the scenes of a catalog, each a slice on its own grid or on one you name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import rasterio
import xarray as xr
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox
from odc.geo.geom import BoundingBox, bbox_union
from odc.geo.overlap import compute_output_geobox

from xgeocat.catalog import schema
from xgeocat.catalog.aoi import Where, outline
from xgeocat.catalog.index import footprint_index, loaded
from xgeocat.domain.bands import data_bands, find_bands, native_geobox
from xgeocat.domain.geoslice import GeoSlice, crs_of, grid_of
from xgeocat.domain.load import load_scene
from xgeocat.domain.signing import unsigned

NATIVE = "native"
READERS = 16


class CatalogDomain:
    """A catalog as a domain: one slice per scene.

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
        When `catalog` is no catalog.
    ValueError
        For ids that repeat, a band that no scene has, scenes whose grid is not known, and scenes
        in several CRSs without `crs`.
    """

    def __init__(
        self,
        catalog: xr.Dataset,
        *,
        bands: Sequence[str] | None = None,
        resolution: float | None = None,
        crs: object | None = None,
        mask_and_scale: bool = False,
        resampling: str = "nearest",
        chunks: int = 2048,
        sign: Callable[[str], str] | None = None,
    ) -> None:
        self.catalog = loaded(schema.require_catalog(catalog, "CatalogDomain"))
        self.bands = None if bands is None else list(bands)
        self.resolution = resolution
        self.mask_and_scale = mask_and_scale
        self.resampling = resampling
        self.chunks = chunks
        self.sign = sign
        self._ids = [str(name) for name in catalog[schema.SCENE].values]
        self._require_unique_ids()
        self._require_known_bands()
        self._native = self._native_grids()
        self._crs = self._target_crs(crs)

    def _require_unique_ids(self) -> None:
        names, counts = np.unique(self._ids, return_counts=True)
        if (counts > 1).any():
            raise ValueError(
                f"{int((counts > 1).sum())} scene ids are repeated, e.g. "
                f"{names[counts > 1][:3].tolist()}, and outputs are named by them. Keep one of "
                f"each: ds.drop_duplicates('{schema.SCENE}')."
            )

    def _require_known_bands(self) -> None:
        if self.bands is None or not self._ids:
            return
        missing = set(self.bands)
        for i in range(len(self._ids)):
            missing -= {name for name in self.bands if self._has_band(i, name)}
            if not missing:
                return
        has = sorted(str(name) for name in self.catalog[schema.ASSET].values)
        raise ValueError(f"No scene has a band {sorted(missing)}; the assets are {has}.")

    def _has_band(self, i: int, name: str) -> bool:
        try:
            find_bands(self._row(i), [name])
        except KeyError:
            return False
        return True

    def _row(self, i: int) -> xr.Dataset:
        return self.catalog.isel({schema.SCENE: i})

    def _signed(self, scene: xr.Dataset, names: Sequence[str]) -> xr.Dataset:
        """One row, with hrefs that may be read for some bands."""
        if self.sign is None:
            return scene
        read = {key for _, key, _ in find_bands(scene, names)}
        hrefs = [
            self.sign(str(href)) if key in read else href
            for key, href in zip(scene[schema.ASSET].values, scene[schema.HREF].values, strict=True)
        ]
        return scene.assign({schema.HREF: (schema.ASSET, np.array(hrefs, object))})

    def _names(self, i: int) -> list[str]:
        names = (
            data_bands(self._row(i))
            if self.bands is None
            else [name for name in self.bands if self._has_band(i, name)]
        )
        if not names:
            raise KeyError(f"it has no raster asset {'' if self.bands is None else self.bands}")
        return names

    def _native_grids(self) -> list[GeoBox]:
        """Native grid of every scene; headers are read at once, for those that need it."""
        wrong = []

        def grid(i: int) -> GeoBox | None:
            try:
                return native_geobox(self._row(i), self._names(i), self.sign)
            except (KeyError, ValueError, rasterio.errors.RasterioIOError) as error:
                wrong.append(f"{self._ids[i]}: {unsigned(str(error))}")
                return None

        with ThreadPoolExecutor(READERS) as pool:
            grids = list(pool.map(grid, range(len(self._ids))))
        if wrong:
            shown = "\n  ".join(sorted(wrong)[:20])
            raise ValueError(
                f"The grid of {len(wrong)} of {len(grids)} scenes is not known. Leave them out "
                f"(ds.drop_sel(scene=[...])), or mend their files or proj:* fields:\n  {shown}"
            )
        return [geobox for geobox in grids if geobox is not None]

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
        return len(self._ids)

    def __repr__(self) -> str:
        return f"CatalogDomain({len(self)} scenes, crs={self.crs}, bands={self.bands})"

    def describe(self) -> Mapping[str, object]:
        """Describe, in JSON values, what `load` depends on beside the slices."""
        rows = [
            self.catalog[name].values.tolist()
            for name in (schema.HREF, schema.NODATA, schema.SCALE, schema.OFFSET)
        ]
        return {
            "bands": self.bands,
            "mask_and_scale": self.mask_and_scale,
            "resampling": self.resampling,
            "assets": hashlib.sha256(json.dumps(rows).encode()).hexdigest(),
        }

    def slices(self) -> Iterator[GeoSlice]:
        """Yield one slice per scene, in the order of the catalog."""
        index = footprint_index(self.catalog)
        columns = {
            str(name): var.values.tolist()
            for name, var in self.catalog.data_vars.items()
            if var.dims == (schema.SCENE,)
            and name != schema.ITEM_JSON
            and var.dtype.kind in "biufOU"
        }
        for i, (name, native) in enumerate(zip(self._ids, self._native, strict=True)):
            geobox = self._grid(native)
            known = not np.isnat(index.start[i]) and not np.isnat(index.end[i])
            drawn = index.geometry[i]
            yield GeoSlice(
                geobox=geobox,
                interval=(index.start[i], index.end[i]) if known else None,
                scenes=(name,),
                footprint=None if drawn is None else partial(outline, Where(drawn, index.crs)),
                properties={
                    key: values[i]
                    for key, values in columns.items()
                    if isinstance(values[i], (bool, int, float, str)) and values[i] == values[i]
                },
            )

    def _grid(self, native: GeoBox) -> GeoBox:
        if self._crs is not None and self._crs != native.crs:
            return compute_output_geobox(native, self._crs, resolution=self.resolution or "auto")
        if self.resolution is None or self.resolution == abs(native.resolution.x):
            return native
        return grid_of(native.boundingbox.bbox, self.resolution, native.crs)

    def load(self, request: GeoSlice, bands: Sequence[str] | None = None) -> xr.Dataset:
        """Load exactly the scene that a slice names, lazily, on the slice's grid.

        Parameters
        ----------
        request : GeoSlice
            One of `slices`, or one with the same scene on another grid.
        bands : sequence of str, optional
            Instead of the domain's own.

        Returns
        -------
        Dataset
            See :func:`xgeocat.domain.load.load_scene`.

        Raises
        ------
        KeyError
            For a band or asset that the scene does not have.
        ValueError
            For a slice that does not name exactly one scene of this catalog.
        """
        if len(request.scenes) != 1 or request.scenes[0] not in self._ids:
            raise ValueError(
                f"The slice names the scenes {request.scenes}; a CatalogDomain loads one scene of "
                "its catalog at a time. Take slices from domain.slices()."
            )
        scene = self._row(self._ids.index(request.scenes[0]))
        names = bands or self.bands or data_bands(scene)
        return load_scene(
            self._signed(scene, names),
            request.geobox,
            names,
            mask_and_scale=self.mask_and_scale,
            resampling=self.resampling,
            chunks=self.chunks,
        )
