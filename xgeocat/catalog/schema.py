"""The names of a catalog Dataset, and what makes a Dataset a catalog."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
import xarray as xr
from numpy.typing import NDArray

SCENE = "scene"
ASSET = "asset"
GEOMETRY = "geometry"
START = "start_time"
END = "end_time"
COLLECTION = "collection"

#: Per scene and asset. What is not known is null: NaN or, in text, None.
HREF = "href"
CRS = "proj:code"
SHAPE = "proj:shape"
TRANSFORM = "proj:transform"
NODATA = "nodata"
SCALE = "scale"
OFFSET = "offset"
DTYPE = "dtype"
#: What STAC says beyond the columns, as JSON text, so that nothing is lost on the way back.
ASSET_JSON = "asset_json"
ITEM_JSON = "item_json"
#: In the JSON of an asset that stands beside those of another item: its own item's id, its key
#: there, and what that item says of it.
OWN_ITEM = "geocat:item"

#: Dims of the per-asset variables, beyond ``(scene, asset)``.
ASSET_VARIABLES: Mapping[str, tuple[str, ...]] = {
    HREF: (),
    CRS: (),
    SHAPE: ("grid_axis",),
    TRANSFORM: ("affine",),
    NODATA: (),
    SCALE: (),
    OFFSET: (),
    DTYPE: (),
    ASSET_JSON: (),
}
#: Sizes of the dims beyond.
SIZES: Mapping[str, int] = {"grid_axis": 2, "affine": 6}
TEXT = (HREF, CRS, DTYPE, ASSET_JSON)
RESERVED = {
    *SIZES,
    SCENE,
    ASSET,
    GEOMETRY,
    START,
    END,
    COLLECTION,
    ITEM_JSON,
    *ASSET_VARIABLES,
}

#: Times are UTC, naive, to the microsecond (what STAC APIs and GeoParquet carry).
TIME_DTYPE = np.dtype("datetime64[us]")


def is_catalog(ds: object) -> bool:
    """Tell whether something is a catalog."""
    return isinstance(ds, xr.Dataset) and SCENE in ds.dims and HREF in ds


def require_catalog(ds: object, action: str) -> xr.Dataset:
    """Return `ds` if it is a catalog.

    Raises
    ------
    TypeError
        When it is something else, saying what it is and what to call instead.
    """
    if is_catalog(ds):
        return cast("xr.Dataset", ds)
    got = type(ds).__name__
    if isinstance(ds, (xr.Dataset, xr.DataArray)):
        got += f" with dims {tuple(map(str, ds.dims))}"
        if isinstance(ds, xr.DataArray) and SCENE in ds.dims:
            got += " (one column of a catalog)"
    raise TypeError(
        f"{action} works on a catalog, a Dataset with dims ('{SCENE}', '{ASSET}') as made by "
        f"from_items, from_files, search or open_catalog; got a {got}. To cut a field into "
        "patches, call .geocat.patch(size)."
    )


def text_array(
    values: Sequence[str | None] | Sequence[Sequence[str | None]],
) -> NDArray[np.object_]:
    """Object array of text; None is unknown text (which xarray may turn into NaN)."""
    return np.array(values, dtype=object)


def column(values: Sequence[object]) -> NDArray[np.generic]:
    """Turn one scalar property of many scenes (None: missing) into the plainest array.

    Integers and booleans stay so if none is missing, numbers with gaps become float64 with NaN,
    anything else an object array with None for the gaps.
    """
    kinds = {type(v) for v in values}
    if kinds == {bool}:
        return np.array(values, dtype=bool)
    if kinds == {int} and all(-(2**63) <= v < 2**63 for v in values):  # type: ignore[operator]
        return np.array(values, dtype=np.int64)
    # An integer beyond 2**53 would lose digits as a float; then objects keep it exact.
    exact = all(not isinstance(v, int) or abs(v) <= 2**53 for v in values)
    if kinds <= {int, float, type(None)} and kinds != {type(None)} and exact:
        return np.array([np.nan if v is None else v for v in values], dtype=np.float64)
    out = np.empty(len(values), dtype=object)
    out[:] = values
    return out
