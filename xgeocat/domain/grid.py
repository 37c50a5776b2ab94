"""GridDomain: a catalog on a common grid, a slice for each tile and step of time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import numpy as np
import shapely
import xarray as xr
from numpy.typing import NDArray
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox
from odc.geo.geom import BoundingBox, bbox_union
from odc.geo.types import AnchorEnum
from shapely.geometry.base import BaseGeometry

from xgeocat.catalog import schema
from xgeocat.catalog.aoi import WGS84, Where, outline, reproject
from xgeocat.catalog.index import footprint_index, loaded
from xgeocat.domain.align import Align, require_anchor, require_mode, require_same_pixels
from xgeocat.domain.assets import scenes_of
from xgeocat.domain.bins import (
    SOLAR_DAY,
    Bin,
    bins_of,
    day_bin,
    frequency,
    longitude_of,
    solar_days,
)
from xgeocat.domain.fuse import load_steps
from xgeocat.domain.geoslice import GeoSlice, crs_of
from xgeocat.domain.scenes import (
    Sign,
    assets_digest,
    footprints_of,
    in_common,
    native_grids,
    own_bands,
    properties,
    require_options,
    require_times,
    scene_ids,
    signed,
)
from xgeocat.domain.tilegrid import Grid, GridTile, candidates, require_grid

GroupBy = Literal["solar_day", "id"]


@dataclass(frozen=True, slots=True)
class Served:
    """A tile at one step of time, and the scenes that serve it.

    Parameters
    ----------
    tile : GridTile
        The tile.
    bin : Bin or None
        The step; None without any.
    rows : tuple of int
        Positions of the scenes in the catalog, in its order.
    """

    tile: GridTile
    bin: Bin | None
    rows: tuple[int, ...]


class GridDomain:
    """A catalog on a common grid as a domain: one slice per tile and step of time.

    A slice names the scenes whose true footprint reaches into the tile (to touch it is not enough)
    and that start in the step. Tiles that no scene reaches are no slices. Where scenes overlap, the
    first valid pixel wins, in the order of the catalog: sort it as you like them,
    ``ds.sortby("eo:cloud_cover")``.

    Footprints are drawn roughly: a few pixels at the edge of a swath may lie on a tile that the
    footprint does not reach, and are not in it.

    Parameters
    ----------
    catalog : Dataset
        A catalog, of one collection or several; an empty one is a domain without slices.
    grid : GridSpec, GeoBox, GeoboxTiles or MGRS
        Which tiles there are: those of an ``odc.geo.gridspec.GridSpec``, which are named
        ``x3_y-12`` by its numbers; one; one that is cut, ``row0_col3``; or the 100 km squares of
        MGRS in the UTM zone of each place, ``33TWM``.
    time : str, optional
        Length of the steps as pandas has it ("1MS", "10D"; from 1970 on, months and years from
        1800 on, so that no step depends on the scenes there are), or "solar_day" at the middle of
        the tile. By default there is one slice per tile.
    bands : sequence of str, optional
        What `load` loads by default; each scene has to have them. By default all raster assets that
        are data, which are to be the same in all scenes.
    groupby : {"solar_day", "id"}, default: "solar_day"
        Which scenes of a slice become one time step of its cube: those of one day of local mean
        solar time at the middle of the tile, as odc-stac has it, or every scene by itself.
    align : {"floating", "edge", "center", "native"} or AnchorEnum, default: "floating"
        What to be sure of: pixel edges or centres at whole multiples of the resolution, or tiles on
        the own pixels of all scenes that serve them (the finest of their bands), so that nothing is
        resampled. Checked, to a hundredth of a pixel; nothing is moved.
    mask_and_scale : bool, default: False
        Turn nodata into NaN and apply each scene's own scale and offset before scenes are put into
        one another: float32. Without it, scenes of one slice whose numbers mean different things
        are refused when they are loaded.
    resampling : str, default: "nearest"
        Where the grids differ: a GDAL resampling name.
    chunks : int, default: 2048
        Chunk edge of the cubes, in pixels.
    sign : callable, optional
        As for :class:`xgeocat.CatalogDomain`.

    Raises
    ------
    TypeError
        When `catalog` is no catalog, or `grid` does not say which tiles there are.
    ValueError
        For ids that repeat, bands that scenes lack, scenes without the time that is needed, an
        unknown option, and tiles that are not aligned as they should be.
    """

    def __init__(
        self,
        catalog: xr.Dataset,
        grid: Grid,
        *,
        time: str | None = None,
        bands: Sequence[str] | None = None,
        groupby: GroupBy = "solar_day",
        align: Align | AnchorEnum = "floating",
        mask_and_scale: bool = False,
        resampling: str = "nearest",
        chunks: int = 2048,
        sign: Sign | None = None,
    ) -> None:
        self.catalog = loaded(schema.require_catalog(catalog, "GridDomain"))
        require_options(None, resampling, chunks)
        self.grid = require_grid(grid)
        if groupby not in get_args(GroupBy):
            raise ValueError(f"groupby={groupby!r} must be one of {get_args(GroupBy)}.")
        if time is not None and time != SOLAR_DAY:
            frequency(time)
        self.time = time
        self.groupby = groupby
        self.align = require_mode(align)
        self.mask_and_scale = mask_and_scale
        self.resampling = resampling
        self.chunks = chunks
        self.sign = sign
        self._ids = scene_ids(self.catalog)
        self._at = {name: i for i, name in enumerate(self._ids)}
        if time is not None or groupby != "id":
            require_times(self.catalog)
        self.bands = self._require_bands(bands)
        self._footprints = self._known_footprints()
        self._served = self._serve()
        self._require_aligned()

    def _require_bands(self, bands: Sequence[str] | None) -> list[str]:
        lacking, found = [], list(bands or ())
        for i, scene in enumerate(scenes_of(self.catalog)):
            try:
                has = own_bands(scene, bands)
            except KeyError as error:
                raise ValueError(f"Scene {scene.name}: {error.args[0]}. Leave it out.") from None
            if bands is None and i == 0:
                found = has
            if set(has) != set(found):
                lacking.append((scene.name, sorted(set(found) ^ set(has))))
        if lacking:
            about = "differ by" if bands is None else "lack"
            raise ValueError(
                f"{len(lacking)} of {len(self._ids)} scenes {about} some bands, e.g. "
                f"{lacking[:3]}; a cube has the same of all its scenes. Name bands= that all of "
                "them have (an asset, or the common name of a band), or leave those scenes out."
            )
        return found

    def _known_footprints(self) -> list[BaseGeometry]:
        """Footprints of all scenes; the outline of their grid where none is drawn."""
        found = list(footprint_index(self.catalog).geometry)
        lacking = [i for i, drawn in enumerate(found) if drawn is None or drawn.is_empty]
        grids = native_grids(self.catalog, lacking, self.bands, self.sign)
        for i, drawn in zip(lacking, footprints_of(self.catalog, lacking, grids), strict=True):
            found[i] = drawn
        return found

    def _serve(self) -> list[Served]:
        crs = footprint_index(self.catalog).crs
        tree = shapely.STRtree(self._footprints)
        bins = self._bins()
        found = []
        for tile in candidates(self.grid, self._footprints, crs):
            area = tile.area(crs)
            rows = np.sort(tree.query(area, "intersects"))
            if tile.limits is not None and len(rows):
                limits = reproject(Where(tile.limits, WGS84), crs)
                counts = shapely.intersection(area, limits)
                if not shapely.intersects(np.array(self._footprints)[rows], counts).any():
                    continue
            found += [Served(tile, bin, rows) for bin, rows in self._in_bins(tile, rows, bins)]
        return found

    def _bins(self) -> Mapping[int, Bin]:
        """Steps of all scenes, where they are the same for all tiles."""
        if self.time is None or self.time == SOLAR_DAY:
            return {}
        return dict(enumerate(bins_of(footprint_index(self.catalog).start, self.time)))

    def _in_bins(
        self, tile: GridTile, rows: NDArray[np.int64], bins: Mapping[int, Bin]
    ) -> list[tuple[Bin | None, tuple[int, ...]]]:
        if not len(rows):
            return []
        if self.time is None:
            return [(None, tuple(map(int, rows)))]
        if self.time == SOLAR_DAY:
            starts = footprint_index(self.catalog).start[rows]
            days = solar_days(starts, longitude_of(tile.geobox))
            bins = dict(zip(rows, map(day_bin, days), strict=True))
        within: dict[Bin, list[int]] = {}
        for i in rows:
            within.setdefault(bins[i], []).append(int(i))
        return [(bin, tuple(within[bin])) for bin in sorted(within)]

    def _require_aligned(self) -> None:
        for served in self._served:
            require_anchor(served.tile.geobox, self.align)
        if self.align != "native":
            return
        rows = sorted({i for served in self._served for i in served.rows})
        grids = native_grids(self.catalog, rows, self.bands, self.sign)
        native = dict(zip(rows, grids, strict=True))
        for served in self._served:
            scenes = [(self._ids[i], native[i]) for i in served.rows]
            require_same_pixels(served.tile.geobox, f"tile {served.tile.name}", scenes)

    @property
    def crs(self) -> CRS:
        """CRS of the tiles; of the footprints where tiles are in several."""
        found = {crs_of(served.tile.geobox) for served in self._served}
        if len(found) == 1:
            return found.pop()
        return CRS(footprint_index(self.catalog).crs.to_wkt())

    @property
    def bounds(self) -> BoundingBox | None:
        """Bounds of all tiles, in `crs`; None if there are none."""
        crs = self.crs
        tiles = {served.tile.name: served.tile.geobox for served in self._served}.values()
        boxes = [
            tile.boundingbox if tile.crs == crs else tile.extent.to_crs(crs).boundingbox
            for tile in tiles
        ]
        return bbox_union(boxes) if boxes else None

    def __len__(self) -> int:
        return len(self._served)

    def __repr__(self) -> str:
        tiles = len({served.tile.name for served in self._served})
        return (
            f"GridDomain({len(self)} slices: {tiles} tiles, {len(self._ids)} scenes, "
            f"time={self.time!r}, crs={self.crs}, bands={self.bands})"
        )

    def describe(self) -> Mapping[str, object]:
        """Describe, in JSON values, what `load` depends on beside the slices."""
        return {
            "bands": self.bands,
            "groupby": self.groupby,
            "mask_and_scale": self.mask_and_scale,
            "resampling": self.resampling,
            "assets": assets_digest(self.catalog),
        }

    def slices(self) -> Iterator[GeoSlice]:
        """Yield one slice per tile and step of time: tile by tile, each in order of time.

        Its name is that of the tile and the step (``"x3_y-12_2024-06"``); its footprint where the
        scenes are on the tile; its properties those that all its scenes share, and their ids as
        ``source:scenes``.
        """
        index = footprint_index(self.catalog)
        known = properties(self.catalog)
        for served in self._served:
            rows = list(served.rows)
            step = served.bin
            yield GeoSlice(
                geobox=served.tile.geobox,
                interval=_interval(index.start[rows], index.end[rows], step),
                scenes=[self._ids[i] for i in rows],
                footprint=partial(self._footprint, served),
                properties=in_common([known[i] for i in rows])
                | {"source:scenes": [self._ids[i] for i in rows]},
                label=served.tile.name if step is None else f"{served.tile.name}_{step.name}",
            )

    def _footprint(self, served: Served) -> BaseGeometry:
        """Where the scenes are on a tile, in WGS 84."""
        crs = footprint_index(self.catalog).crs
        scenes = shapely.union_all([self._footprints[i] for i in served.rows])
        inside = shapely.intersection(scenes, served.tile.area(crs, less=0))
        return outline(Where(inside, crs))

    def load(self, request: GeoSlice, bands: Sequence[str] | None = None) -> xr.Dataset:
        """Load the scenes that a slice names, lazily, on the slice's grid.

        Parameters
        ----------
        request : GeoSlice
            One of `slices`, or one with scenes of the catalog on another grid.
        bands : sequence of str, optional
            Instead of the domain's own.

        Returns
        -------
        Dataset
            Dims ``(time, y, x)``, a step for each group of scenes; see
            :func:`xgeocat.domain.fuse.load_steps`.

        Raises
        ------
        KeyError
            For a band or asset that a scene does not have.
        ValueError
            For a slice that does not name scenes of this catalog; see also
            :func:`xgeocat.domain.fuse.load_steps`.
        """
        unknown = [name for name in request.scenes if name not in self._at]
        if unknown or not request.scenes:
            raise ValueError(
                f"The slice names the scenes {request.scenes}, of which {unknown} are not in this "
                "catalog; a GridDomain loads scenes of its catalog. Take slices from "
                "domain.slices()."
            )
        names = list(bands or self.bands)
        rows = sorted(self._at[name] for name in request.scenes)
        scenes = dict(zip(rows, scenes_of(self.catalog, rows), strict=True))
        return load_steps(
            [
                [signed(scenes[i], names, self.sign) for i in step]
                for step in self._steps(rows, request.geobox)
            ],
            request.geobox,
            names,
            mask_and_scale=self.mask_and_scale,
            resampling=self.resampling,
            chunks=self.chunks,
        )

    def _steps(self, rows: Sequence[int], geobox: GeoBox) -> list[list[int]]:
        """Scenes of each time step in the order of the catalog; the steps in order of time."""
        starts = footprint_index(self.catalog).start
        if self.groupby == "id":
            # Stable: scenes of one time stay in the order of the catalog.
            return [[i] for i in sorted(rows, key=lambda i: starts[i].astype(np.int64))]
        groups: dict[np.datetime64, list[int]] = {}
        for i, day in zip(rows, solar_days(starts[rows], longitude_of(geobox)), strict=True):
            groups.setdefault(day, []).append(i)
        return [groups[day] for day in sorted(groups)]


def _interval(
    starts: np.ndarray, ends: np.ndarray, step: Bin | None
) -> tuple[np.datetime64, np.datetime64] | None:
    """The step; without one, and for a solar day, the time from the first scene to the last."""
    if step is not None and not step.is_local:
        return step.interval
    if np.isnat(starts).any() or np.isnat(ends).any():
        return None
    return starts.min(), ends.max()
