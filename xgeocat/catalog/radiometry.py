"""From stored numbers to physical ones: nodata, scale and offset of an asset, as STAC says them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

#: Reflectance bands of Sentinel-2 under their own names.
_S2_BANDS = {f"B{n:02d}" for n in range(1, 13)} | {"B8A"}
#: Properties of an item that say something of its assets, beside its grid (``proj:*``).
ITEM_SAYS = {
    *("data_type", "nodata", "scale", "offset"),
    *("raster:data_type", "raster:nodata", "raster:scale", "raster:offset"),
    *("s2:product_type", "product:type", "s2:processing_baseline"),
    "earthsearch:boa_offset_applied",
}


@dataclass(frozen=True, slots=True)
class Radiometry:
    """How to read the numbers of one band; None where it is not said.

    Physical value = stored value * `scale` + `offset`, where the stored value is not `nodata`.
    """

    dtype: str | None
    nodata: float | None
    scale: float | None
    offset: float | None


def asset_radiometry(
    key: str, asset: Mapping[str, object], properties: Mapping[str, object]
) -> Radiometry:
    """Read the radiometry of an asset's first band; see :func:`band_radiometry` for others.

    Sources, in this order: ``raster:bands`` (raster extension v1), ``bands`` and the asset itself
    (STAC 1.1 with raster extension v2), the item.

    Two facts about Sentinel-2 are known beyond them. Earth Search says with
    ``earthsearch:boa_offset_applied`` that an offset is already in the stored numbers. And L2A
    items without any scale hold reflectance * 10000, shifted by 1000 from processing baseline
    04.00 on (ESA, Sentinel-2 Products Specification, section "Radiometric offset").
    """
    found = band_radiometry(asset, properties, 0)
    scale, offset = found.scale, found.offset
    if scale is None and offset is None:
        scale, offset = _sentinel2(key, properties)
    if properties.get("earthsearch:boa_offset_applied") is True and offset:
        offset = 0.0
    return Radiometry(found.dtype, found.nodata, scale, offset)


def band_radiometry(
    asset: Mapping[str, object], properties: Mapping[str, object], index: int
) -> Radiometry:
    """Read what STAC says of one band of an asset, counted from 0, in whichever version."""
    said = [properties, asset]
    for name in ("bands", "raster:bands"):
        bands = asset.get(name)
        if isinstance(bands, list) and len(bands) > index and isinstance(bands[index], Mapping):
            said.append(bands[index])
    dtype = _last_said(said, "data_type")
    return Radiometry(
        dtype if isinstance(dtype, str) else None,
        _number(_last_said(said, "nodata")),
        _number(_last_said(said, "scale")),
        _number(_last_said(said, "offset")),
    )


def _last_said(said: Sequence[Mapping[str, object]], name: str) -> object:
    """What is said last, in one of two spellings: raster extension v2, and v1 or STAC 1.1."""
    for fields in reversed(said):
        for key in (f"raster:{name}", name):
            if key in fields:
                return fields[key]
    return None


def _sentinel2(key: str, properties: Mapping[str, object]) -> tuple[float | None, float | None]:
    product = str(properties.get("s2:product_type", properties.get("product:type", "")))
    baseline = properties.get("s2:processing_baseline")
    if key.upper() not in _S2_BANDS or not product.endswith("2A") or not isinstance(baseline, str):
        return None, None
    return 1e-4, (-0.1 if baseline >= "04.00" else 0.0)


def _number(value: object) -> float | None:
    # STAC writes NaN and infinity as text, because JSON has no number for them.
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return None
    return float(value) if isinstance(value, (int, float)) else None
