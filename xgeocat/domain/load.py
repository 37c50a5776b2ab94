"""Load: one scene on one grid as a lazy cube. The only place that calls odc-stac."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Hashable, Sequence

import numpy as np
import odc.geo.xr
import odc.stac
import pyproj
import pystac
import shapely
import xarray as xr
from odc.geo.geobox import GeoBox

from xgeocat.catalog.fields import open_field
from xgeocat.catalog.remote import reading
from xgeocat.domain.across import is_cut, load_across
from xgeocat.domain.assets import Scene
from xgeocat.domain.bands import Band, describe_bands
from xgeocat.domain.geoslice import crs_code, crs_of
from xgeocat.patching import writing
from xgeocat.storage import versions
from xgeocat.storage.folder import parent_and_name

TIME = "time"
#: Columns that are repeated beyond the antimeridian, for resampling across it.
SEAM = 4


def load_scene(
    scene: Scene,
    geobox: GeoBox,
    bands: Sequence[str],
    *,
    mask_and_scale: bool = False,
    resampling: str = "nearest",
    chunks: int = 2048,
) -> xr.Dataset:
    """Load the pixels of one scene, and of no other, on a grid.

    Parameters
    ----------
    scene : Scene
        One row of a catalog.
    geobox : GeoBox
        The grid. On the scene's own pixels nothing is resampled.
    bands : sequence of str
        See :func:`xgeocat.domain.bands.find_bands`.
    mask_and_scale : bool, default: False
        Turn nodata into NaN and apply the scene's own scale and offset: float32.
    resampling : str, default: "nearest"
        Where the grids differ: a GDAL resampling name.
    chunks : int, default: 2048
        Chunk edge in pixels.

    Returns
    -------
    Dataset
        Dims ``(time, y, x)`` with one time step, one variable per band in the order asked for,
        dask-backed. Without `mask_and_scale` the stored dtype, with ``nodata``, ``scale`` and
        ``offset`` in the attrs.
    """
    return load_bands(
        scene,
        describe_bands(scene, bands),
        geobox,
        mask_and_scale=mask_and_scale,
        resampling=resampling,
        chunks=chunks,
    )


def load_bands(
    scene: Scene,
    found: Sequence[Band],
    geobox: GeoBox,
    *,
    mask_and_scale: bool = False,
    resampling: str = "nearest",
    chunks: int = 2048,
) -> xr.Dataset:
    """Load bands of one scene that are described already; see :func:`load_scene`."""
    time = scene.start.astype("datetime64[us]")
    rasters = [band for band in found if not (band.is_zarr or band.variable)]
    turned = {band.name for band in rasters if is_cut(band.geobox, geobox)}
    rasters = [band for band in rasters if band.name not in turned]
    loaded: dict[str, xr.DataArray] = {}
    if rasters:
        # One scene: nothing under its pixels would have to be looked at first.
        loaded = _read(
            [_item(scene, rasters, time)], [0], rasters, geobox, resampling, chunks, "numpy.copyto"
        )
    for band in found:
        if band.variable:
            loaded[band.name] = _load_stack(band, geobox, resampling, chunks)
        elif band.is_zarr:
            loaded[band.name] = _load_zarr(band, geobox, resampling, chunks)
        elif band.name in turned:
            loaded[band.name] = load_across(band, geobox, resampling, chunks)
    variables = {
        band.name: _finished(loaded[band.name], band, [time], mask_and_scale) for band in found
    }
    return xr.Dataset(variables, attrs={"scene": scene.name})


def load_alike(
    scenes: Sequence[Scene],
    steps: Sequence[int],
    bands: Sequence[Sequence[Band]],
    geobox: GeoBox,
    *,
    mask_and_scale: bool = False,
    resampling: str = "nearest",
    chunks: int = 2048,
) -> xr.Dataset:
    """Load scenes whose stored numbers mean the same, all at once.

    Parameters
    ----------
    scenes : sequence of Scene
        Rows of a catalog.
    steps : sequence of int
        For each the time step that it belongs to, from 0. Where scenes of one step overlap, the
        first valid pixel wins.
    bands : sequence of sequences of Band
        For each its bands, all of them of raster files, and alike in all scenes.
    geobox : GeoBox
        The grid.
    mask_and_scale, resampling, chunks
        See :func:`load_scene`.

    Returns
    -------
    Dataset
        As of :func:`load_scene`, with the steps in their order; the time of each is that of its
        earliest scene.
    """
    moments = [scene.start.astype("datetime64[us]") for scene in scenes]
    times = [
        min(moment for moment, of in zip(moments, steps, strict=True) if of == step)
        for step in sorted(set(steps))
    ]
    items = [
        _item(scene, own, moment) for scene, own, moment in zip(scenes, bands, moments, strict=True)
    ]
    loaded = _read(items, steps, bands[0], geobox, resampling, chunks, None)
    return xr.Dataset(
        {band.name: _finished(loaded[band.name], band, times, mask_and_scale) for band in bands[0]}
    )


def _read(
    items: Sequence[pystac.Item],
    steps: Sequence[int],
    bands: Sequence[Band],
    geobox: GeoBox,
    resampling: str,
    chunks: int,
    fuse: str | None,
) -> dict[str, xr.DataArray]:
    """Rasters of some items, lazily, by band."""
    keys = [f"b{i}.{band.index}" if band.count > 1 else f"b{i}" for i, band in enumerate(bands)]
    # odc-stac takes the options that hold now along into the tasks that read.
    with reading():
        cube = odc.stac.load(
            items,
            bands=keys,
            geobox=geobox,
            chunks={"y": chunks, "x": chunks},
            groupby=lambda item, parsed, number: steps[number],
            preserve_original_order=True,
            resampling=resampling,
            fuse_func=fuse,
            fail_on_error=True,
        )
    cube = cube.map(lambda var: var.copy(data=writing.with_own_roots(var.data)))
    return {band.name: cube[key] for key, band in zip(keys, bands, strict=True)}


def _item(scene: Scene, bands: Sequence[Band], time: np.datetime64) -> pystac.Item:
    """Describe some bands to odc-stac, with nothing left for it to guess."""
    # The whole grid, not the footprint: footprints are drawn roughly, and pixels count.
    geometry = bands[0].geobox.extent.to_crs("EPSG:4326", math.inf).geom
    item = pystac.Item(
        id=scene.name,
        geometry=shapely.geometry.mapping(geometry),
        bbox=list(geometry.bounds),
        datetime=dt.datetime(2000, 1, 1) if np.isnat(time) else time.astype(object),
        properties={"proj:code": crs_code(bands[0].geobox)},
        stac_extensions=["https://stac-extensions.github.io/projection/v2.0.0/schema.json"],
    )
    for i, band in enumerate(bands):
        about: dict[str, object] = {"data_type": band.dtype}
        if band.nodata is not None:
            about["nodata"] = band.nodata if math.isfinite(band.nodata) else str(band.nodata)
        fields = {
            "proj:code": crs_code(band.geobox),
            "proj:shape": list(band.geobox.shape),
            "proj:transform": list(band.geobox.transform)[:6],
            "bands": [about] * band.count,
        }
        asset = pystac.Asset(
            band.href, media_type="image/tiff", roles=["data"], extra_fields=fields
        )
        item.add_asset(f"b{i}", asset)
    return item


def _load_zarr(band: Band, geobox: GeoBox, resampling: str, chunks: int) -> xr.DataArray:
    """Open an array of a Zarr group, and bring it to the grid where it is on another."""
    place, _, name = band.href.rpartition("/")
    folder, entry = parent_and_name(place)
    versioned = folder.url.endswith(versions.SUFFIX)
    stored = xr.open_zarr(
        versions.newest(folder) if versioned else folder.group(entry),
        group=entry if versioned else None,
        consolidated=False,
        mask_and_scale=False,
        decode_coords="all",
        chunks={},
    )[name]
    fill = stored.attrs.pop("_FillValue", None)
    if fill is not None:
        stored.attrs.setdefault("nodata", fill)
    if band.nodata is not None:
        stored.attrs.setdefault("nodata", band.nodata)
    stored.attrs.pop("_CRS", None)
    if stored.odc.geobox != geobox:
        stored = stored.odc.reproject(geobox, resampling=resampling, chunks=(chunks, chunks))
    return stored if TIME in stored.dims else stored.drop_vars(TIME, errors="ignore")


def _load_stack(band: Band, geobox: GeoBox, resampling: str, chunks: int) -> xr.DataArray:
    """Open a variable of a stack, and bring it to the grid where it is on another."""
    crs = pyproj.CRS.from_user_input(crs_of(band.geobox).to_wkt())
    stored = open_field(
        band.href, str(band.variable), band.step, band=band.index, crs=crs, chunks=chunks
    )
    native = band.geobox
    if stored.shape[-2:] != native.shape or not stored.odc.geobox.affine.almost_equals(
        native.affine
    ):
        raise ValueError(
            f"The grid of {band.variable!r} in {band.href} is {stored.odc.geobox!r}, and its "
            f"catalog says {native!r}. It was written anew: make the catalog again."
        )
    stored = stored.assign_coords(odc.geo.xr.xr_coords(native))
    if geobox == native:
        return stored
    if band.nodata is not None:
        stored.attrs["nodata"] = band.nodata
    west, _, east, _ = native.boundingbox.bbox
    if crs.is_geographic and (west < -180 or east > 180):
        stored = _round_the_globe(stored, band)
    return stored.odc.reproject(geobox, resampling=resampling, chunks=(chunks, chunks))


def _round_the_globe(stored: xr.DataArray, band: Band) -> xr.DataArray:
    """Go on beyond the antimeridian, where GDAL finds nothing otherwise.

    Raises
    ------
    ValueError
        For a grid that crosses it, and does not go round the globe.
    """
    native = band.geobox
    columns, step = int(native.shape[1]), float(native.resolution.x)
    if abs(columns * step - 360) > step / 100:
        raise ValueError(
            f"The grid of {band.variable!r} in {band.href} lies across the antimeridian, from "
            f"{native.boundingbox.left} to {native.boundingbox.right} degrees, and can only be "
            "loaded on its own pixels. Leave out resolution= and crs=."
        )
    x = native.dimensions[1]
    more = min(SEAM, columns)
    wider = stored.isel({x: np.arange(-more, columns + more) % columns})
    grid = native.pad(more, 0)
    return wider.drop_vars(x).assign_coords(odc.geo.xr.xr_coords(grid))


def _finished(
    loaded: xr.DataArray, band: Band, times: Sequence[np.datetime64], mask_and_scale: bool
) -> xr.DataArray:
    attrs: dict[Hashable, object] = {}
    nodata = loaded.attrs.get("nodata", band.nodata)
    data = loaded if TIME in loaded.dims else loaded.expand_dims({TIME: 1})
    if data.sizes[TIME] == len(times):
        data = data.assign_coords({TIME: (TIME, np.array(times))})
    if mask_and_scale:
        physical = data.astype(np.float32)
        if nodata is not None and not np.isnan(nodata):
            physical = physical.where(data != nodata)
        if band.scale is not None:
            physical = physical * np.float32(band.scale)
        if band.offset:
            physical = physical + np.float32(band.offset)
        data, attrs = physical, {"nodata": np.nan}
    else:
        known = {"nodata": nodata, "scale": band.scale, "offset": band.offset}
        attrs = {name: value for name, value in known.items() if value is not None}
    data.attrs = attrs
    data.encoding["grid_mapping"] = "spatial_ref"
    return data
