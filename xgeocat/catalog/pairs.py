"""Pairs: rows of one catalog with rows of another beside them."""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterable, Sequence

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xgeocat.catalog import schema
from xgeocat.catalog.index import footprint_index
from xgeocat.catalog.overlap import Positions
from xgeocat.catalog.radiometry import ITEM_SAYS
from xgeocat.catalog.rows import DRAWN, item_text
from xgeocat.catalog.stac import iso_texts, item_rest, property_columns

#: Which scene of the other catalog a row was paired with.
MATCH = "match"


def paired(
    ds: xr.Dataset, other: xr.Dataset, pairs: tuple[Positions, Positions], suffix: str
) -> xr.Dataset:
    """Put rows of another catalog beside rows of a catalog.

    Parameters
    ----------
    ds, other : Dataset
        Catalogs.
    pairs : tuple of numpy.ndarray
        Shape ``(pair,)`` each: positions of the scenes in `ds`, and in `other`.
    suffix : str
        Appended to the names of columns and assets of `other` that `ds` has too, as often as it
        takes.

    Returns
    -------
    Dataset
        A catalog with dim ``scene`` of ``(pair,)``: the rows of `ds`, with the columns and assets
        of `other`, and ``match``, ``match:collection``, ``match:start_time`` and
        ``match:end_time`` (ISO 8601), which say which scene of `other` it is.
    """
    taken = taken_names(ds)
    right = _speaking_for_itself(other, pairs[1])
    # What the items of `other` say of their assets would else be said of those of `ds`.
    rubs_off = not ITEM_SAYS.isdisjoint(map(str, other.variables))
    left = _speaking_for_itself(ds, pairs[0]) if rubs_off else ds.isel({schema.SCENE: pairs[0]})
    out = _with_assets(left, right, suffix, taken)
    gained: dict[str, xr.Variable] = {}
    for name, variable in [*_identity(right).items(), *_columns(right).items()]:
        gained[free_name(name, taken, suffix)] = variable
    return out.assign(gained).assign({schema.ITEM_JSON: _extended(left, right)})


def pair_ids(
    ds: xr.Dataset, other: xr.Dataset, pairs: tuple[Positions, Positions]
) -> NDArray[np.object_]:
    """Name pairs by both ids, each name once."""
    one, two = ds[schema.SCENE].values[pairs[0]], other[schema.SCENE].values[pairs[1]]
    return schema.text_array(_unique([f"{a}__{b}" for a, b in zip(one, two, strict=True)]))


def _unique(names: Sequence[str]) -> list[str]:
    """Number the repeats of a name, ``-2``, ``-3``, past names that are there already."""
    taken, seen, out = set(names), set(), []
    for name in names:
        new, n = name, 2
        while new in seen or (new != name and new in taken):
            new, n = f"{name}-{n}", n + 1
        seen.add(new)
        out.append(new)
    return out


def require_suffix(suffix: str) -> None:
    """Refuse a suffix that would tell no names apart."""
    if not isinstance(suffix, str) or not suffix:
        raise ValueError(f"suffix={suffix!r} tells no names apart; give text, e.g. '_other'.")


def taken_names(ds: xr.Dataset) -> set[str]:
    """Names that a catalog uses, or may use."""
    return {str(name) for name in [*ds.variables, *ds.dims]} | schema.RESERVED


def free_name(name: str, taken: set[str], suffix: str) -> str:
    """Return a name with as many suffixes as it takes, and take it."""
    while name in taken:
        name += suffix
    taken.add(name)
    return name


def _identity(right: xr.Dataset) -> dict[str, xr.Variable]:
    index = footprint_index(right)
    told: dict[str, Iterable[object]] = {
        MATCH: right[schema.SCENE].values,
        f"{MATCH}:{schema.COLLECTION}": right[schema.COLLECTION].values,
        f"{MATCH}:{schema.START}": iso_texts(index.start),
        f"{MATCH}:{schema.END}": iso_texts(index.end),
    }
    return {
        name: xr.Variable((schema.SCENE,), np.array([*values, None], dtype=object)[:-1])
        for name, values in told.items()
    }


def _columns(right: xr.Dataset) -> dict[str, xr.Variable]:
    return {
        str(name): variable
        for name, variable in right.variables.items()
        if name not in schema.RESERVED and schema.ASSET not in variable.dims
    }


def _with_assets(left: xr.Dataset, right: xr.Dataset, suffix: str, taken: set[str]) -> xr.Dataset:
    keys = [str(key) for key in left[schema.ASSET].values]
    keys_taken = set(keys)
    keys += [free_name(str(key), keys_taken, suffix) for key in right[schema.ASSET].values]
    joined: dict[str, xr.Variable] = {}
    for name in _over_assets(left):
        joined[name] = _joined(left.variables[name], right.variables.get(name), left, right)
    for name in _over_assets(right):
        if name not in joined:
            new = free_name(name, taken, suffix)
            joined[new] = _joined(None, right.variables[name], left, right)
    coords = [name for name in joined if name in left.coords or name in right.coords]
    return (
        left.drop_dims(schema.ASSET)
        .assign(joined)
        .set_coords(coords)
        .assign_coords({schema.ASSET: (schema.ASSET, schema.text_array(keys))})
    )


def _over_assets(ds: xr.Dataset) -> list[str]:
    return [
        str(name)
        for name, variable in ds.variables.items()
        if schema.ASSET in variable.dims and name != schema.ASSET
    ]


def _joined(
    one: xr.Variable | None, two: xr.Variable | None, left: xr.Dataset, right: xr.Dataset
) -> xr.Variable:
    """Join one variable of two catalogs along the assets; where one has none, it is null."""
    like = one if one is not None else two
    assert like is not None
    if two is None or set(two.dims) != set(like.dims):
        two = absent(like, {**like.sizes, schema.ASSET: right.sizes[schema.ASSET]})
    if one is None:
        one = absent(like, {**like.sizes, schema.ASSET: left.sizes[schema.ASSET]})
    return xr.Variable.concat([one, two.transpose(*one.dims)], schema.ASSET)


def absent(like: xr.Variable, sizes: dict[Hashable, int]) -> xr.Variable:
    """Make a variable of nothing but nulls, of the plainest kind that goes with another one."""
    shape = tuple(sizes[dim] for dim in like.dims)
    kind = like.dtype.kind
    if 0 in shape:
        return xr.Variable(like.dims, np.empty(shape, like.dtype))
    if kind in "mM":
        return xr.Variable(like.dims, np.full(shape, "NaT", like.dtype))
    exact = kind not in "iu" or like.size == 0 or bool((abs(like.astype(object)) <= 2**53).all())
    if kind in "fiu" and exact:
        return xr.Variable(like.dims, np.full(shape, np.nan, like.dtype if kind == "f" else float))
    return xr.Variable(like.dims, np.full(shape, None, dtype=object))


def _speaking_for_itself(catalog: xr.Dataset, rows: Positions) -> xr.Dataset:
    """Rows of a catalog whose assets say what their item says of them, for another item."""
    used, back = np.unique(rows, return_inverse=True)
    other = catalog.isel({schema.SCENE: used})
    columns = property_columns(other)
    said = [name for name in columns if name in ITEM_SAYS]
    texts = other[schema.ASSET_JSON].transpose(schema.SCENE, schema.ASSET)
    out = texts.values.copy()
    keys = [str(key) for key in other[schema.ASSET].values]
    scenes, collections = other[schema.SCENE].values, other[schema.COLLECTION].values
    for i, rest in enumerate(other[schema.ITEM_JSON].values):
        properties = item_rest(scenes[i], rest)["properties"]
        own = {
            k: v
            for k, v in properties.items()
            if k in ITEM_SAYS or (k.startswith("proj:") and k not in DRAWN)
        }
        own |= {name: columns[name][i] for name in said if columns[name][i] is not None}
        own |= {"id": str(scenes[i])}
        if isinstance(collections[i], str):
            own["collection"] = collections[i]
        for j, text in enumerate(out[i]):
            if isinstance(text, str):
                asset = json.loads(text)
                asset.setdefault(schema.OWN_ITEM, {**own, "key": keys[j]})
                out[i, j] = json.dumps(asset, separators=(",", ":"))
    return other.assign({schema.ASSET_JSON: (texts.dims, out)}).isel({schema.SCENE: back})


def _extended(left: xr.Dataset, right: xr.Dataset) -> xr.Variable:
    """Items of some rows, with the STAC extensions of those beside them."""
    key = "stac_extensions"
    texts = left[schema.ITEM_JSON].values.copy()
    scenes, others = left[schema.SCENE].values, right[schema.SCENE].values
    for i, rest in enumerate(right[schema.ITEM_JSON].values):
        extensions = item_rest(others[i], rest).get(key) or ()
        if not all(f'"{name}"' in str(texts[i]) for name in extensions):
            mine = item_rest(scenes[i], texts[i])
            mine[key] = list(dict.fromkeys([*(mine.get(key) or ()), *extensions]))
            texts[i] = item_text(mine)
    return xr.Variable((schema.SCENE,), texts)
