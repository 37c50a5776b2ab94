"""Bands of a scene: which asset, and which of its bands, a name means."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox

from xgeocat.catalog import schema
from xgeocat.catalog.fields import STEP, VARIABLE
from xgeocat.catalog.headers import Header, read_header
from xgeocat.catalog.radiometry import Radiometry, band_radiometry
from xgeocat.catalog.sources import Json
from xgeocat.catalog.stac import own_key

ZARR_TYPES = ("application/vnd+zarr", "application/vnd.zarr", "application/x-zarr")
IMAGE_TYPES = ("image/tiff", "image/jp2", "image/vnd.stac.geotiff", "image/x.geotiff")
#: Pictures of a scene, not its data.
NOT_DATA = {"thumbnail", "overview", "visual"}
SUFFIXES = (".tif", ".tiff", ".jp2", ".vrt", ".img", ".zarr")


@dataclass(frozen=True, slots=True)
class Band:
    """One band of one scene, and all that is needed to read it.

    Parameters
    ----------
    name : str
        As asked for.
    href : str
        The file.
    index : int
        Band of the file, from 1.
    count : int
        How many bands the file has.
    geobox : GeoBox
        Native grid.
    dtype : str
        Stored dtype.
    nodata, scale, offset : float or None
        Physical value = stored * scale + offset where stored is not nodata.
    is_zarr : bool
        Whether it is a Zarr array rather than a raster file.
    variable, step : str or None
        Of a stack: the variable, and the step of time (ISO 8601; None for all).
    """

    name: str
    href: str
    index: int
    count: int
    geobox: GeoBox
    dtype: str
    nodata: float | None
    scale: float | None
    offset: float | None
    is_zarr: bool
    variable: str | None = None
    step: str | None = None


def data_bands(scene: xr.Dataset) -> list[str]:
    """Names of all bands of one scene that are data: raster assets, without pictures."""
    names = []
    for key, asset in _assets(scene).items():
        kind = str(asset.get("type", ""))
        roles = {*asset.get("roles", ()), own_key(key, asset)}
        is_raster = (
            VARIABLE in asset
            or kind.startswith((*IMAGE_TYPES, *ZARR_TYPES))
            or (not kind and str(asset["href"]).lower().endswith(SUFFIXES))
        )
        if is_raster and not roles & NOT_DATA:
            count = len(_described(asset))
            names += [key] if count < 2 else [f"{key}.{i + 1}" for i in range(count)]
    return names


def find_bands(scene: xr.Dataset, names: Sequence[str]) -> list[tuple[str, str, int]]:
    """Find what band names mean in one scene.

    Parameters
    ----------
    scene : Dataset
        One row of a catalog, ``ds.isel(scene=i)``.
    names : sequence of str
        An asset (``"red"``), a band of one with several (``"image.2"``), or the name or common
        name that STAC gives a band (``"nir"``).

    Returns
    -------
    list of (str, str, int)
        Name, asset key, band number from 1.

    Raises
    ------
    KeyError
        For names that the scene does not have, with those it has.
    """
    known = _names(_assets(scene))
    unknown = [name for name in names if name not in known]
    if unknown:
        raise KeyError(
            f"Scene {scene[schema.SCENE].item()} has no band {unknown}; it has {sorted(known)}."
        )
    return [(name, *known[name]) for name in names]


def describe_bands(scene: xr.Dataset, names: Sequence[str]) -> list[Band]:
    """Say all that is needed to read some bands; what the catalog does not say, headers do.

    Raises
    ------
    KeyError
        For names that the scene does not have.
    rasterio.errors.RasterioIOError
        When a header is needed and the file cannot be opened.
    """
    return [_describe(scene, name, key, index) for name, key, index in find_bands(scene, names)]


def native_geobox(
    scene: xr.Dataset, names: Sequence[str], sign: Callable[[str], str] | None = None
) -> GeoBox:
    """Return the finest native grid among some bands of a scene.

    Where the catalog does not say, headers do, whose hrefs are signed by `sign`, if any.
    """
    bands = [
        _geobox(scene.sel({schema.ASSET: key}), None, sign)
        for _, key, _ in find_bands(scene, names)
    ]
    return min(bands, key=lambda geobox: abs(geobox.resolution.x))


def _assets(scene: xr.Dataset) -> dict[str, Json]:
    found = {}
    for key, href, text in zip(
        scene[schema.ASSET].values,
        scene[schema.HREF].values,
        scene[schema.ASSET_JSON].values,
        strict=True,
    ):
        if isinstance(href, str):
            found[str(key)] = {**(json.loads(text) if isinstance(text, str) else {}), "href": href}
    return found


def _described(asset: Mapping[str, object]) -> list[Json]:
    """List what STAC says of an asset's bands, in whichever version it says it."""
    for name in ("bands", "eo:bands", "raster:bands"):
        bands = asset.get(name)
        if isinstance(bands, list) and bands and all(isinstance(b, dict) for b in bands):
            return bands
    return []


def _names(assets: Mapping[str, Json]) -> dict[str, tuple[str, int]]:
    known: dict[str, tuple[str, int]] = {}
    for key, asset in assets.items():
        own = own_key(key, asset)
        for i, band in enumerate(_described(asset), start=1):
            for name in (band.get("eo:common_name"), band.get("common_name"), band.get("name")):
                # The first asset with a name has it: true colour pictures repeat them all.
                if isinstance(name, str) and not {own, *asset.get("roles", ())} & NOT_DATA:
                    known.setdefault(name, (key, i))
            known[f"{key}.{i}"] = (key, i)
    # An asset's own key is stronger than what another one calls a band.
    return known | {key: (key, 1) for key in assets}


def _describe(scene: xr.Dataset, name: str, key: str, index: int) -> Band:
    row = scene.sel({schema.ASSET: key})
    asset = _assets(scene)[key]
    href = local_path(str(asset["href"]))
    is_zarr = str(asset.get("type", "")).startswith(ZARR_TYPES) or href.endswith(".zarr")
    bands = _described(asset)
    known = Radiometry(
        row[schema.DTYPE].item(),
        *(_number(row[name].item()) for name in (schema.NODATA, schema.SCALE, schema.OFFSET)),
    )
    if index > 1:
        known = band_radiometry(asset, {}, index - 1)
    header = None
    variable = asset.get(VARIABLE)
    if not (is_zarr or variable) and (not isinstance(known.dtype, str) or known.nodata is None):
        header = read_header(href)
        known = _filled_up(known, header, index - 1)
    if known.nodata is None:
        # A file has one nodata for all its bands, and the catalog may know it.
        known = replace(known, nodata=_number(row[schema.NODATA].item()))
    count = len(header.dtypes) if header is not None else max(len(bands), index)
    geobox = _geobox(row, header)
    return Band(
        name,
        href,
        index,
        count,
        geobox,
        str(known.dtype),
        known.nodata,
        known.scale,
        known.offset,
        is_zarr,
        variable,
        asset.get(STEP),
    )


def _filled_up(known: Radiometry, header: Header, band: int) -> Radiometry:
    """Fill up what STAC does not say with what the file says."""
    unscaled = known.scale is None and known.offset is None
    scaled = (header.scales[band], header.offsets[band]) != (1, 0)
    return Radiometry(
        header.dtypes[band],
        header.nodata[band] if known.nodata is None else known.nodata,
        header.scales[band] if unscaled and scaled else known.scale,
        header.offsets[band] if unscaled and scaled else known.offset,
    )


def local_path(href: str) -> str:
    """Make a path that is relative to the working folder absolute; leave URLs as they are."""
    is_url = "://" in href or href.startswith("/vsi") or ":" in href.split("/", 1)[0]
    return href if is_url else os.path.abspath(href)


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _geobox(
    row: xr.Dataset, header: Header | None, sign: Callable[[str], str] | None = None
) -> GeoBox:
    """Native grid of an asset: from ``proj:*`` where the catalog has it all, else the header."""
    crs, shape = row[schema.CRS].item(), row[schema.SHAPE].values
    transform = row[schema.TRANSFORM].values
    if isinstance(crs, str) and np.isfinite(shape).all() and np.isfinite(transform).all():
        return GeoBox((int(shape[0]), int(shape[1])), Affine(*transform), crs)
    href = str(row[schema.HREF].item())
    header = header or read_header(href if sign is None else sign(href))
    if header.crs is None and not isinstance(crs, str):
        raise ValueError(f"{href} has no CRS, and neither has its STAC item (proj:code).")
    return GeoBox(header.shape, Affine(*header.transform), header.crs or crs)
