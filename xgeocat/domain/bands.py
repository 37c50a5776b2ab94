"""Bands of a scene: which asset, and which of its bands, a name means."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from affine import Affine
from odc.geo.geobox import GeoBox

from xgeocat.catalog.fields import STEP, VARIABLE
from xgeocat.catalog.headers import Header, read_header
from xgeocat.catalog.radiometry import Radiometry, band_radiometry
from xgeocat.catalog.stac import own_key
from xgeocat.domain.assets import NOT_DATA, Asset, Scene, described

ZARR_TYPES = ("application/vnd+zarr", "application/vnd.zarr", "application/x-zarr")
IMAGE_TYPES = ("image/tiff", "image/jp2", "image/vnd.stac.geotiff", "image/x.geotiff")
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


def data_bands(scene: Scene) -> list[str]:
    """Names of all bands of one scene that are data: raster assets, without pictures."""
    names = []
    for key, href in scene.hrefs.items():
        asset = scene.fields(key)
        kind = str(asset.get("type", ""))
        roles = {*(asset.get("roles") or ()), own_key(key, asset)}
        is_raster = (
            VARIABLE in asset
            or kind.startswith((*IMAGE_TYPES, *ZARR_TYPES))
            or (not kind and href.lower().endswith(SUFFIXES))
        )
        if is_raster and not roles & NOT_DATA:
            count = len(described(asset))
            names += [key] if count < 2 else [f"{key}.{i + 1}" for i in range(count)]
    return names


def find_bands(scene: Scene, names: Sequence[str]) -> list[tuple[str, str, int]]:
    """Find what band names mean in one scene.

    Parameters
    ----------
    scene : Scene
        One row of a catalog.
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
    # An asset's own key comes before all other names, which take a while to look through.
    if all(name in scene.hrefs for name in names):
        return [(name, name, 1) for name in names]
    known = scene.bands()
    unknown = [name for name in names if name not in known]
    if unknown:
        raise KeyError(f"Scene {scene.name} has no band {unknown}; it has {sorted(known)}.")
    return [(name, *known[name]) for name in names]


def describe_bands(scene: Scene, names: Sequence[str]) -> list[Band]:
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
    scene: Scene, names: Sequence[str], sign: Callable[[str], str] | None = None
) -> GeoBox:
    """Return the finest native grid among some bands of a scene.

    Where the catalog does not say, headers do, whose hrefs are signed by `sign`, if any.
    """
    grids = [_geobox(scene[key], None, sign) for _, key, _ in find_bands(scene, names)]
    return min(grids, key=lambda geobox: abs(geobox.resolution.x))


def _describe(scene: Scene, name: str, key: str, index: int) -> Band:
    asset = scene[key]
    href = local_path(asset.href)
    is_zarr = str(asset.fields.get("type", "")).startswith(ZARR_TYPES) or href.endswith(".zarr")
    known = asset.radiometry if index == 1 else band_radiometry(asset.fields, {}, index - 1)
    header = None
    variable = asset.fields.get(VARIABLE)
    if not (is_zarr or variable) and (known.dtype is None or known.nodata is None):
        header = read_header(href)
        known = _filled_up(known, header, index - 1)
    if known.nodata is None:
        # A file has one nodata for all its bands, and the catalog may know it.
        known = replace(known, nodata=asset.radiometry.nodata)
    count = max(len(described(asset.fields)), index) if header is None else len(header.dtypes)
    return Band(
        name,
        href,
        index,
        count,
        _geobox(asset, header),
        str(known.dtype),
        known.nodata,
        known.scale,
        known.offset,
        is_zarr,
        variable,
        asset.fields.get(STEP),
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


def _geobox(
    asset: Asset, header: Header | None, sign: Callable[[str], str] | None = None
) -> GeoBox:
    """Native grid of an asset: from ``proj:*`` where the catalog has it all, else the header."""
    if asset.geobox is not None:
        return asset.geobox
    header = header or read_header(asset.href if sign is None else sign(asset.href))
    crs = header.crs or asset.crs
    if crs is None:
        raise ValueError(f"{asset.href} has no CRS, and neither has its STAC item (proj:code).")
    return GeoBox(header.shape, Affine(*header.transform), crs)
