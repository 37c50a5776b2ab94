"""Provenance: what was done to a catalog, and when, in its attrs."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np
import pyproj
import xarray as xr

from xgeocat.catalog.aoi import AOI, locate
from xgeocat.catalog.interval import Interval
from xgeocat.catalog.schema import SCENE
from xgeocat.catalog.sources import Json

PROVENANCE = "geocat:provenance"
#: The newest steps that are kept, of a catalog and of each that went into it.
LIMIT = 32


class Step(dict[str, object]):
    """One thing done to a catalog, in JSON values: ``action``, its arguments, ``when`` (UTC).

    Steps that differ in ``when`` only are equal, so catalogs made in one way are identical,
    whenever they were made.
    """

    __hash__ = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, dict) and _timeless(self) == _timeless(other)

    def __ne__(self, other: object) -> bool:
        return not self == other


def _timeless(step: dict[str, object]) -> dict[str, object]:
    return {key: value for key, value in step.items() if key != "when"}


def history(ds: xr.Dataset) -> list[Step]:
    """Return what was done to a catalog, oldest first; empty where nothing is recorded."""
    return as_steps(ds.attrs.get(PROVENANCE, ()))


def as_steps(told: Iterable[Json]) -> list[Step]:
    """Read steps from JSON values."""
    return [
        Step({k: _with_steps(v) if k == "others" else v for k, v in step.items()}) for step in told
    ]


def _with_steps(others: Sequence[Json]) -> list[Json]:
    return [{**other, "steps": as_steps(other["steps"])} for other in others]


def is_json(value: object) -> bool:
    """Tell whether a value comes back from JSON as it is."""
    try:
        return bool(json.loads(json.dumps(value)) == value)
    except (TypeError, ValueError):
        return False


def attrs_from_json(attrs: Json) -> Json:
    """Read attrs that were written as JSON."""
    return {k: as_steps(v) if k == PROVENANCE else v for k, v in attrs.items()}


def recorded(
    ds: xr.Dataset, action: str, others: Sequence[xr.Dataset] = (), **arguments: object
) -> xr.Dataset:
    """Say in the attrs of a new catalog what was done last to make it.

    Parameters
    ----------
    ds : Dataset
        The result, made just now, with the history of the first catalog that went into it.
    action : str
        Name of the function.
    others : sequence of Dataset
        The further catalogs that went into it; told by size and their own steps, which name no
        others again, so that what is told stays short.
    **arguments
        JSON values; those that are None were not given and are left out.

    Returns
    -------
    Dataset
        The same, with the newest `LIMIT` steps in ``attrs["geocat:provenance"]``; the first of them
        says in ``earlier`` how many went before.
    """
    given: Json = {k: v for k, v in arguments.items() if v is not None}
    if others:
        given["others"] = [
            {"scenes": other.sizes[SCENE], "steps": _brief(history(other))}
            for other in others[:LIMIT]
        ]
    now = dt.datetime.now(dt.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    steps = [*history(ds), Step(action=action, **given, when=now)]
    # In its place: a copy of a Dataset takes as long as half a query.
    ds.attrs = {**ds.attrs, PROVENANCE: _newest(steps)}
    return ds


def _brief(steps: Sequence[Step]) -> list[Step]:
    return _newest([Step({k: v for k, v in step.items() if k != "others"}) for step in steps])


def _newest(steps: list[Step]) -> list[Step]:
    over = len(steps) - LIMIT
    if over <= 0:
        return steps
    before = [step.get("earlier") for step in steps[: over + 1]]
    earlier = over + sum(n for n in before if isinstance(n, int))
    return [Step({**steps[over], "earlier": earlier}), *steps[over + 1 :]]


def place(aoi: AOI, crs: pyproj.CRS) -> Json:
    """Say in short where an AOI is; without a CRS of its own it is in `crs`."""
    where = locate(aoi)
    return {
        "kind": where.geometry.geom_type,
        "bounds": [float(v) for v in where.geometry.bounds],
        "crs": short_crs(where.crs or crs),
    }


def moments(interval: Interval | None) -> list[str] | None:
    """Write an interval as ISO 8601."""
    return None if interval is None else [f"{np.datetime_as_string(t)}Z" for t in interval]


def short_crs(crs: pyproj.CRS) -> str:
    """Name a CRS in a line: by its authority if it has one."""
    # By its own text, which is at hand; to hash or compare a CRS writes it out anew.
    return _short(crs.srs)


@lru_cache(64)
def _short(text: str) -> str:
    crs = pyproj.CRS.from_user_input(text)
    authority = crs.to_authority()
    return ":".join(authority) if authority else str(crs.name)
