"""Write down, as text, the field that patches were cut from, so that saved patches still stitch.

An xarray Index is not saved with its coordinates, but their attributes are. So the start
coordinates carry this record, and an index is made of it again when saved patches are opened.
"""

from __future__ import annotations

import base64
import json
import warnings
import zlib
from collections.abc import Hashable, Mapping
from typing import TypedDict

import numpy as np
import xarray as xr
from dask.base import is_dask_collection

from xgeocat.patching.tiling import Array, Tiling, axis_blocks

#: Attribute of the start coordinates that holds the record.
ATTRIBUTE = "xgeocat_parent"
VERSION = 1
#: Coordinates over several dims of more bytes are left out: the record is an attribute.
LARGEST = 1_000_000
PLAN = ("dims", "shape", "size", "stride", "boundary")


class _Saved(TypedDict, total=False):
    """A variable in the record; its values as a list, as first and step, or as packed bytes."""

    dims: list[str]
    attrs: dict[str, object]
    dtype: str
    shape: list[int]
    list: list[object]
    first: float
    step: float
    zlib: str


Layouts = Mapping[Hashable, tuple[Hashable, ...]]
Variables = Mapping[Hashable, xr.Variable]


def write_down(tiling: Tiling, layouts: Layouts, coords: Variables, mapping: Variables) -> str:
    """Write a parent down as JSON; `mapping` is its grid mapping, by name.

    Coordinates that are lazy, or large ones over several dims, are only named.
    """
    kept = {
        n: v
        for n, v in coords.items()
        if not is_dask_collection(v) and (v.ndim < 2 or v.nbytes <= LARGEST)
    }
    return json.dumps(
        {
            "version": VERSION,
            "left_out": [str(n) for n in coords if n not in kept],
            "tiling": {name: getattr(tiling, name) for name in PLAN},
            "layouts": [[name, list(dims)] for name, dims in layouts.items()],
            "coords": {str(n): _variable(v) for n, v in kept.items()},
            "mapping": {str(n): _variable(v) for n, v in mapping.items()},
        },
        default=_plain,
    )


def read_back(
    text: str,
) -> tuple[Tiling, Layouts, dict[Hashable, xr.Variable], dict[Hashable, xr.Variable]]:
    """Read what :func:`write_down` wrote.

    Raises
    ------
    ValueError
        For a record of a newer version.
    """
    found = json.loads(text)
    if found["version"] > VERSION:
        raise ValueError(
            f"These patches were saved by a newer xgeocat (record {found['version']}; this one "
            f"reads up to {VERSION}). Update xgeocat to stitch them."
        )
    if found.get("left_out"):
        warnings.warn(
            f"The coordinates {found['left_out']} of the field are too large to be saved with its "
            "patches, and are gone. Put them back on the stitched field with .assign_coords.",
            stacklevel=2,
        )
    plan = found["tiling"]
    tiling = Tiling(
        dims=tuple(plan["dims"]),
        shape=tuple(plan["shape"]),
        size=tuple(plan["size"]),
        stride=tuple(plan["stride"]),
        boundary=plan["boundary"],
        # How the field was chunked is no part of what is saved: its blocks are planned anew.
        blocks=tuple(
            axis_blocks((length,), size)
            for length, size in zip(plan["shape"], plan["size"], strict=True)
        ),
    )
    layouts = {name: tuple(dims) for name, dims in found["layouts"]}
    coords, mapping = (
        {name: _read_variable(v) for name, v in found[part].items()}
        for part in ("coords", "mapping")
    )
    return tiling, layouts, coords, mapping


def _plain(value: object) -> object:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    return str(value)


def _variable(variable: xr.Variable) -> dict[str, object]:
    values = np.asarray(variable.values)
    return {
        "dims": list(variable.dims),
        "attrs": dict(variable.attrs),
        "dtype": "T" if values.dtype.kind == "T" else values.dtype.str,
        "shape": list(values.shape),
        **_data(values),
    }


def _data(values: Array) -> dict[str, object]:
    if values.dtype.kind in "OT":
        return {"list": values.ravel().tolist()}
    if values.ndim == 1 and values.dtype.kind in "if" and len(values) > 1:
        with np.errstate(all="ignore"):
            first, step = values[0].item(), (values[1] - values[0]).item()
            even = (first + step * np.arange(len(values))).astype(values.dtype)
        if even.tobytes() == values.tobytes():
            return {"first": first, "step": step}
    # The fastest level: this is done whenever patches are cut.
    packed = zlib.compress(np.ascontiguousarray(values).tobytes(), 1)
    return {"zlib": base64.b64encode(packed).decode()}


def _read_variable(found: _Saved) -> xr.Variable:
    shape = tuple(found["shape"])
    dtype = np.dtypes.StringDType() if found["dtype"] == "T" else np.dtype(found["dtype"])
    values: Array
    if "list" in found:
        values = np.empty(shape, dtype)
        values[...] = np.reshape(np.array(found["list"], object), shape)
    elif "step" in found:
        values = (found["first"] + found["step"] * np.arange(shape[0])).astype(dtype)
    else:
        values = np.frombuffer(zlib.decompress(base64.b64decode(found["zlib"])), dtype)
        values = values.reshape(shape).copy()
    return xr.Variable(tuple(found["dims"]), values, found["attrs"])
