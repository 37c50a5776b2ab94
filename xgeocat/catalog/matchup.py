"""Matchup: scenes of two sensors, or of imagery and labels, at one place and about one time."""

from __future__ import annotations

import datetime as dt
import re
from typing import TypeAlias

import numpy as np
import pandas as pd
import shapely
import xarray as xr
from numpy.typing import NDArray

from xgeocat.catalog import schema
from xgeocat.catalog.index import FootprintIndex, footprint_index
from xgeocat.catalog.overlap import SLIVER, Numbers, Positions, clean, fraction, meeting, shared
from xgeocat.catalog.pairs import MATCH, free_name, pair_ids, paired, require_suffix, taken_names
from xgeocat.catalog.provenance import recorded
from xgeocat.catalog.rows import footprints_in

#: How long between two scenes: what pandas reads as a time delta.
Gap: TypeAlias = str | dt.timedelta | np.timedelta64 | pd.Timedelta
INTERSECTS = "intersects"
DAY = np.timedelta64(1, "D")


def matchup(
    ds: xr.Dataset,
    other: xr.Dataset,
    *,
    max_gap: Gap | None = None,
    spatial: str | float = INTERSECTS,
    nearest: int | None = None,
    suffix: str = "_match",
) -> xr.Dataset:
    """Match the scenes of a catalog with those of another at the same place and about that time.

    Place comes first: scenes that share none are never a match, however near in time. Then the
    gap between their closed intervals counts, which is 0 if they share a moment; and of what is
    left, the nearest in time.

    Parameters
    ----------
    ds, other : Dataset
        Catalogs, of two sensors, or of imagery and labels. Footprints of `other` in another CRS
        are reprojected to that of `ds`, with densified edges; invalid ones are read as
        ``shapely.make_valid`` has them.
    max_gap : timedelta, numpy.timedelta64 or str, optional
        The longest gap in time, included: ``"3D"``, ``"90min"``. By default any.
    spatial : "intersects" or float, default: "intersects"
        What place they must share: an area, however small (of lines and points what lies inside;
        to touch is not enough), or at least this part of the footprint in `ds`, above 0 and to 1.
    nearest : int, optional
        At most so many for each scene of `ds`, the nearest in time; of those equally near, the
        ones that share more, and then by id. By default all.
    suffix : str, default: "_match"
        Appended to columns and assets of `other` whose names `ds` has too.

    Returns
    -------
    Dataset
        One row for each match, in the order of `ds` and then from near to far, with the footprint
        and times of the scene in `ds` and the columns and assets of both. It gains

        - ``match``, ``match:collection``, ``match:start_time``, ``match:end_time``: which scene
          of `other` it is;
        - ``match:gap_days``, float64: days from the scene to its match, negative if the match
          came before, 0 if they share a moment; NaN if a time is not known;
        - ``match:overlap``, float64: area that both share / area of the footprint in `ds`. In a
          geographic CRS these are areas on its ellipsoid, in a projected one those of the plane;
          for lines lengths and for points numbers take their place.

        With ``nearest=1`` scenes keep their ids; otherwise rows are named by both (``a__b``).
        A scene whose footprint is not known matches nothing, nor, with `max_gap` or `nearest`,
        one whose time is not.

    Raises
    ------
    TypeError
        When one of them is no catalog.
    ValueError
        For arguments that cannot be read, and footprints of `other` that cannot be reprojected.
    """
    index = footprint_index(schema.require_catalog(ds, "matchup"))
    theirs = footprint_index(schema.require_catalog(other, "matchup"))
    longest, least = _longest(max_gap), _least(spatial)
    _require_count(nearest)
    require_suffix(suffix)
    one, two = clean(index.geometry), footprints_in(other, index)
    i, j = meeting(one, two)
    gap = _gaps(index, theirs, i, j)
    # Cheap before dear: both are conditions on a pair, so the order does not show.
    soon = np.ones(len(i), bool) if longest is None else abs(gap) <= longest
    if nearest is not None:
        soon &= ~np.isnat(gap)
    i, j, gap = i[soon], j[soon], gap[soon]
    parts = shared(one[i], two[j])
    there = shapely.is_geometry(parts)
    i, j, gap, parts = i[there], j[there], gap[there], parts[there]
    if nearest is not None and not least:
        # Areas on the ground are dear too, and then matter only among the equally near.
        near = _no_later(i, gap, nearest)
        i, j, gap, parts = i[near], j[near], gap[near], parts[near]
    overlap = fraction(parts, one[i], index.crs)
    chosen = np.flatnonzero(overlap >= least)
    chosen = chosen[_near_first(i[chosen], gap[chosen], overlap[chosen], _ranks(other, j[chosen]))]
    if nearest is not None:
        chosen = chosen[_place_in_group(i[chosen]) < nearest]
    rows = _rows(ds, other, (i[chosen], j[chosen]), suffix, keep_ids=nearest == 1)
    rows = _measured(rows, gap[chosen], overlap[chosen], suffix)
    given = None if longest is None else pd.Timedelta(longest).isoformat()
    return recorded(rows, "matchup", [other], max_gap=given, spatial=spatial, nearest=nearest)


def _longest(max_gap: Gap | None) -> np.timedelta64 | None:
    if max_gap is None:
        return None
    wrong = f"max_gap={max_gap!r} is no length of time; give e.g. '3D', '90min' or a timedelta."
    # pandas would read a bare number as nanoseconds.
    if isinstance(max_gap, str) and re.fullmatch(r"[\s\d.+-]*", max_gap):
        raise ValueError(wrong)
    if not isinstance(max_gap, (str, dt.timedelta, np.timedelta64)):
        raise ValueError(wrong)
    try:
        longest = pd.Timedelta(max_gap)
    except ValueError as error:
        raise ValueError(wrong) from error
    if pd.isna(longest) or longest < pd.Timedelta(0):
        raise ValueError(f"{wrong[:-1]}, not below 0.")
    return longest.to_timedelta64().astype("m8[us]")


def _least(spatial: str | float) -> float:
    if spatial == INTERSECTS:
        return 0.0
    if isinstance(spatial, (int, float)) and not isinstance(spatial, bool) and 0 < spatial <= 1:
        return spatial - SLIVER
    raise ValueError(
        f"spatial={spatial!r} is neither {INTERSECTS!r} nor a part of a footprint; give a number "
        "above 0 and to 1, e.g. 0.5."
    )


def _require_count(nearest: int | None) -> None:
    whole = isinstance(nearest, (int, np.integer)) and not isinstance(nearest, bool)
    if nearest is not None and not (whole and nearest >= 1):
        raise ValueError(f"nearest={nearest!r} is no number of matches; give 1 or more, or None.")


def _gaps(
    one: FootprintIndex, two: FootprintIndex, i: Positions, j: Positions
) -> NDArray[np.timedelta64]:
    """From closed interval to closed interval: positive if the second comes after the first."""
    after = two.start[j] - one.end[i]
    before = one.start[i] - two.end[j]
    none = np.timedelta64(0, "us")
    # NaT goes through maximum, so a gap is known if all four times are.
    gap: NDArray[np.timedelta64] = np.maximum(after, none) - np.maximum(before, none)
    return gap


def _ranks(other: xr.Dataset, j: Positions) -> Positions:
    """Places of scenes in the order of ids, collections and rows."""
    names = pd.DataFrame(
        {
            "id": other[schema.SCENE].values.astype(str),
            "collection": other[schema.COLLECTION].values.astype(str),
        }
    )
    rank = np.empty(len(names), np.int64)
    rank[names.sort_values(["id", "collection"], kind="stable").index] = np.arange(len(names))
    return rank[j]


def _near_first(
    i: Positions, gap: NDArray[np.timedelta64], overlap: Numbers, rank: Positions
) -> Positions:
    """Order of pairs: by scene, then the nearer, the larger, the first by name."""
    # Equal footprints may share areas that differ by rounding.
    less = -np.round(overlap / SLIVER)
    known = np.where(np.isnat(gap), np.timedelta64(2**62, "us"), abs(gap))
    return np.lexsort((rank, less, known, i))


def _no_later(i: Positions, gap: NDArray[np.timedelta64], count: int) -> Positions:
    """Positions of the pairs that are no farther in time than the `count`-th of their scene."""
    order = np.lexsort((abs(gap), i))
    _, first, group = np.unique(i[order], return_index=True, return_inverse=True)
    last = np.minimum(first + count, np.append(first[1:], len(i))) - 1
    ordered = abs(gap)[order]
    return np.sort(order[ordered <= ordered[last][group]])


def _place_in_group(i: Positions) -> Positions:
    """Count from 0 in every run of equal numbers."""
    _, first, group = np.unique(i, return_index=True, return_inverse=True)
    places: Positions = np.arange(len(i)) - first[group]
    return places


def _rows(
    ds: xr.Dataset,
    other: xr.Dataset,
    pairs: tuple[Positions, Positions],
    suffix: str,
    *,
    keep_ids: bool,
) -> xr.Dataset:
    rows = paired(ds, other, pairs, suffix)
    if keep_ids:
        return rows
    return rows.assign_coords({schema.SCENE: (schema.SCENE, pair_ids(ds, other, pairs))})


def _measured(
    rows: xr.Dataset, gap: NDArray[np.timedelta64], overlap: Numbers, suffix: str
) -> xr.Dataset:
    taken = taken_names(rows)
    days = gap / DAY
    return rows.assign(
        {
            free_name(f"{MATCH}:gap_days", taken, suffix): (schema.SCENE, days),
            free_name(f"{MATCH}:overlap", taken, suffix): (schema.SCENE, overlap),
        }
    )
