"""Which numbers mean "not known": NaN, and the nodata value a field declares."""

from __future__ import annotations

import math

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from xgeocat.patching.tiling import Array

#: What tells how the numbers of a field are meant.
RADIOMETRY = {"nodata", "scale", "offset", "_FillValue", "scale_factor", "add_offset"}


def nodata_of(field: xr.DataArray) -> float | int | None:
    """Return the nodata value that a field declares and its dtype can hold, or None.

    Looked for, in this order, as odc-stac (``attrs["nodata"]``) and CF or rioxarray
    (``_FillValue`` in attrs, then in encoding) write it. A field with a masked-and-scaled encoding
    holds NaN already, so its encoding is not asked.
    """
    declared = field.attrs.get("nodata", field.attrs.get("_FillValue"))
    if declared is None and field.dtype.kind in "iub":
        declared = field.encoding.get("_FillValue")
    if declared is None or not representable(declared, field.dtype):
        return None
    if field.dtype.kind in "iu":
        # rasterio gives it as a float, beside which a 64-bit integer is not exact.
        return int(declared)
    return declared.item() if isinstance(declared, np.generic) else declared


def without_inherited(
    made: xr.DataArray | xr.Dataset, given: xr.DataArray | xr.Dataset
) -> xr.DataArray | xr.Dataset:
    """A computed field without what only its source's numbers mean.

    xarray (from 2025.11) hands the attributes of operands on to results, so that an index made of
    integers with nodata 0 would declare its zeros unknown, and a scale would be applied to it.

    Parameters
    ----------
    made : DataArray or Dataset
        What was computed.
    given : DataArray or Dataset
        What of.

    Returns
    -------
    DataArray or Dataset
        `made`; nodata, scale and offset that a variable has in common with one of `given` are gone,
        unless it is of the same dtype, or floats under the same name: ``red.where(clear)``.
    """
    if isinstance(made, xr.Dataset):
        changed = {}
        for name, var in made.data_vars.items():
            own = without_inherited(var, given)
            if own is not var:
                changed[name] = own
        return made.assign(changed)
    sources = given.data_vars.values() if isinstance(given, xr.Dataset) else [given]
    gone = []
    for key in RADIOMETRY & made.attrs.keys():
        of = [one for one in sources if _same(one.attrs.get(key), made.attrs[key])]
        kept = any(
            one.dtype == made.dtype or (one.name == made.name and made.dtype.kind == "f")
            for one in of
        )
        if of and not kept:
            gone.append(key)
    if not gone:
        return made
    made = made.copy(deep=False)
    made.attrs = {key: value for key, value in made.attrs.items() if key not in gone}
    return made


def _same(one: ArrayLike | None, other: ArrayLike) -> bool:
    return one is not None and bool(np.array_equal(one, other))


def representable(value: complex, dtype: np.dtype) -> bool:
    """Tell whether `dtype` can hold `value` exactly (floats: at all)."""
    if dtype.kind == "c":
        return True
    if isinstance(value, complex) and not isinstance(value, (int, float)):
        return False
    number = value
    if dtype.kind == "f":
        return True
    if not math.isfinite(number) or number != int(number):
        return False
    if dtype.kind == "b":
        return number in (0, 1)
    limits = np.iinfo(dtype)
    return bool(limits.min <= int(number) <= limits.max)


def valid_mask(values: Array, nodata: float | None) -> NDArray[np.bool_] | None:
    """Mask that is False where a value is NaN or nodata; None where all are valid."""
    mask: NDArray[np.bool_] | None = None
    if values.dtype.kind in "fc":
        # A sum is one read without a temporary; it is NaN if any value is (or inf - inf).
        with np.errstate(invalid="ignore", over="ignore"):
            suspect = bool(np.isnan(values.sum()))
        if suspect:
            mask = ~np.isnan(values)
    if nodata is not None and not np.isnan(nodata):
        known = values != nodata
        mask = known if mask is None else mask & known
    return None if mask is None or mask.all() else mask
