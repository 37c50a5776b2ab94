"""Duplicates: of scenes that are the same acquisition, processed again, the best."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import pandas as pd
import xarray as xr

from xgeocat.catalog import acquisition, schema

#: Variable of dropped scenes: the id of the one that is kept instead.
SUPERSEDED_BY = "superseded_by"


def deduplicate(
    ds: xr.Dataset,
    *,
    by: str | Sequence[str] | Callable[[xr.Dataset], Sequence[object]] | None = None,
    precedence: str | Sequence[str] | None = None,
    keep: Literal["best", "dropped"] = "best",
) -> xr.Dataset:
    """Keep one scene of each acquisition that was processed more than once.

    Parameters
    ----------
    ds : Dataset
        A catalog.
    by : name or names of variables, or function of the Dataset, optional
        Scenes where all of these are equal are the same; those where one is null are like no other.
        A function gives one value per scene. By default what is known of the archives of
        Sentinel-1 and -2, Landsat, MODIS and HLS; see
        :func:`xgeocat.catalog.acquisition.acquisitions`.
    precedence : name or names of variables, optional
        The scene with the highest value is kept, or the lowest for ``"-name"``; of those with the
        same value, by the next name, and at last by the scene's id. What is known goes before what
        is not. By default the highest processing baseline (Landsat: collection, then tier 1 before
        2 before real-time), then the latest time of processing, of ``created`` and of ``updated``.
    keep : {"best", "dropped"}, default: "best"
        ``"dropped"`` gives the others: what ``"best"`` leaves out, with the id of the scene that is
        kept instead as ``superseded_by``.

    Returns
    -------
    Dataset
        The catalog of these scenes, in their order. Which they are does not depend on that order.

    Raises
    ------
    TypeError
        When `ds` is no catalog.
    ValueError
        For names that are no variables over ``scene``, or whose values cannot be compared.
    """
    ds = schema.require_catalog(ds, "deduplicate")
    if keep not in ("best", "dropped"):
        raise ValueError(f"keep={keep!r}: it is 'best' or 'dropped'.")
    groups = _groups(ds, by)
    ranked = pd.Series(_ranks(ds, precedence))
    # Ranks of scenes that are alike in everything, ids included, are told by their place.
    best = ranked[groups >= 0].groupby(groups[groups >= 0]).idxmax()
    winner = pd.Series(groups).map(best)
    dropped = (winner.notna() & (winner != np.arange(len(groups)))).to_numpy()
    if keep == "best":
        return ds.isel({schema.SCENE: ~dropped})
    instead = ds[schema.SCENE].values[winner[dropped].astype(np.int64)]
    found = ds.isel({schema.SCENE: dropped})
    return found.assign({SUPERSEDED_BY: (schema.SCENE, instead.astype(object))})


def _groups(
    ds: xr.Dataset,
    by: str | Sequence[str] | Callable[[xr.Dataset], Sequence[object]] | None,
) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Number of the group of each scene; -1 for one that is like no other."""
    if by is None or callable(by):
        keys = pd.Series(np.asarray((by or acquisition.acquisitions)(ds), dtype=object))
        if len(keys) != ds.sizes[schema.SCENE]:
            raise ValueError(
                f"by= gives {len(keys)} values for {ds.sizes[schema.SCENE]} scenes; it must give "
                "one for each."
            )
        return _codes(keys)
    names = [by] if isinstance(by, str) else list(by)
    if not names:
        raise ValueError("by=[] names nothing to compare; leave it out for the default.")
    codes = pd.DataFrame({name: _codes(_column(ds, name)) for name in names})
    known = (codes >= 0).all(axis=1)
    return codes.groupby(names).ngroup().where(known, -1).to_numpy(np.int64)


def _codes(values: pd.Series) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return pd.factorize(values)[0].astype(np.int64)


def _ranks(
    ds: xr.Dataset, precedence: str | Sequence[str] | None
) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Place of each scene from the worst to the best."""
    levels: list[np.ndarray[tuple[int], np.dtype[np.int64]]] = []
    if precedence is None:
        levels = [_order(f"level {i}", v) for i, v in enumerate(acquisition.versions(ds))]
    else:
        for name in [precedence] if isinstance(precedence, str) else precedence:
            lowest = name.startswith("-") and name not in ds.variables
            order = _order(name, _column(ds, name.removeprefix("-") if lowest else name))
            levels.append(
                np.where(order < 0, -1, order.max(initial=0) - order) if lowest else order
            )
    levels.append(_order(schema.SCENE, pd.Series(ds[schema.SCENE].values, dtype=object)))
    places = np.empty(ds.sizes[schema.SCENE], np.int64)
    places[np.lexsort(levels[::-1])] = np.arange(len(places))
    return places


def _order(name: str, values: pd.Series) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Numbers that sort like some values, the same for equal ones; -1 for null."""
    known = values[values.notna()]
    try:
        distinct = np.sort(known.unique())
    except TypeError as error:
        kinds = sorted({type(value).__name__ for value in known})
        raise ValueError(
            f"precedence names {name!r}, whose values cannot be compared: they are of the kinds "
            f"{kinds}. Make them one kind first."
        ) from error
    return pd.Categorical(values, categories=distinct, ordered=True).codes.astype(np.int64)


def _column(ds: xr.Dataset, name: str) -> pd.Series:
    if name not in ds.variables or ds[name].dims != (schema.SCENE,):
        known = sorted(str(n) for n, v in ds.variables.items() if v.dims == (schema.SCENE,))
        raise ValueError(
            f"{name!r} is no variable over ({schema.SCENE!r},) of this catalog. It has {known}."
        )
    return pd.Series(ds[name].values)
