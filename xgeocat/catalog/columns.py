"""Columns: the values of a catalog's variables, read from its files for some rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Self, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyproj
import xarray as xr
from numpy.typing import NDArray

from xgeocat.catalog import metadata, schema
from xgeocat.catalog.footers import TIMES
from xgeocat.catalog.index import Drawn, FootprintIndex
from xgeocat.catalog.sources import URL, Json, absolute_href
from xgeocat.catalog.stac import from_items, to_dicts
from xgeocat.catalog.stored import Rows, StoredScenes, start_and_end

Array: TypeAlias = NDArray[np.generic]

#: Selections whose items are kept, because their columns are read one after the other.
SELECTIONS_KEPT = 2
#: Of so few texts equal ones are not looked for.
FEW = 100


class StoredCatalog:
    """What a catalog's columns are made of.

    Parameters
    ----------
    scenes : StoredScenes
        The rows.
    about : dict
        CRS of the footprints, names of the assets, how each property comes back, attrs; see
        :func:`xgeocat.catalog.layout.about_of`. Of a property that comes back ``"item"`` only
        the item as a whole tells the value.
    base : str
        Where hrefs start that are relative.
    items : callable or None
        Turns rows of the table into items, where the table is not laid out by us.
    """

    def __init__(
        self,
        scenes: StoredScenes,
        about: Json,
        base: str,
        items: Callable[[pa.Table], list[Json]] | None = None,
    ) -> None:
        self.scenes = scenes
        self.about = about
        self.base = base
        self.items = items
        # Columns are read one after the other, each of the same rows.
        self._selected = lru_cache(SELECTIONS_KEPT)(self._select)

    def __reduce__(self) -> tuple[object, ...]:
        return StoredCatalog, (self.scenes, self.about, self.base, self.items)

    @cached_property
    def crs(self) -> pyproj.CRS:
        """CRS of the footprints."""
        return pyproj.CRS.from_json_dict(self.about["crs"])

    @property
    def assets(self) -> Sequence[str]:
        """Names of the assets."""
        found: Sequence[str] = self.about["assets"]
        return found

    @property
    def kinds(self) -> Mapping[str, str]:
        """How each property comes back."""
        found: Mapping[str, str] = self.about["variables"]
        return found

    def keys(self) -> set[tuple[str | None, str | None]]:
        """Collection and id of all scenes."""
        table = self.scenes.read(range(len(self.scenes)), ["collection", "id"])
        return set(zip(table["collection"].to_pylist(), table["id"].to_pylist(), strict=True))

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def dims(self, name: str) -> tuple[str, ...]:
        """Dims of a variable."""
        if name in schema.ASSET_VARIABLES:
            return (schema.SCENE, schema.ASSET, *schema.ASSET_VARIABLES[name])
        return (schema.SCENE,)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a variable."""
        sizes = {schema.SCENE: len(self.scenes), schema.ASSET: len(self.assets), **schema.SIZES}
        return tuple(sizes[dim] for dim in self.dims(name))

    def dtype(self, name: str) -> np.dtype[np.generic]:
        """Dtype of a variable."""
        if name in (schema.START, schema.END):
            return schema.TIME_DTYPE
        if name in schema.ASSET_VARIABLES:
            return np.dtype(object if name in schema.TEXT else float)
        return metadata.dtype_of(self.kinds.get(name, "object"))

    def values(self, name: str, rows: Rows, assets: Sequence[int] | None = None) -> Array:
        """Values of a variable for some rows, and some assets, read now."""
        assets = range(len(self.assets)) if assets is None else assets
        if name in schema.ASSET_VARIABLES and not self._is_stored(name):
            return self._of_items(name, rows, assets)
        if not self._is_stored(name):
            found = np.full(len(rows), None, object)
            selection = self.selection(rows)
            # Of some rows there may be none that has it.
            if name in selection:
                found[:] = selection[name].values
            return found
        keys = [self.assets[i] for i in assets]
        if name in schema.ASSET_VARIABLES and not keys:
            # A table of no columns has no rows.
            return np.empty((len(rows), 0), object)
        table = self.scenes.read(rows, self._paths(name, keys), keep=name == schema.SCENE)
        return self._made(name, table, keys)

    def _is_stored(self, name: str) -> bool:
        """Tell whether columns give a variable, without the items as a whole."""
        if name in (schema.HREF, schema.ASSET_JSON, schema.ITEM_JSON):
            return self.items is None
        return name not in schema.ASSET_VARIABLES and self.kinds.get(name) != "item"

    def _of_items(self, name: str, rows: Rows, assets: Sequence[int]) -> Array:
        """What only the items tell of assets; some rows need not have them all."""
        selection = self.selection(rows)
        shape = (len(rows), len(assets), *(schema.SIZES[d] for d in schema.ASSET_VARIABLES[name]))
        found = np.full(shape, None if name in schema.TEXT else np.nan, self.dtype(name))
        at = {str(key): i for i, key in enumerate(selection[schema.ASSET].values)}
        values = selection[name].values
        for i, asset in enumerate(assets):
            if self.assets[asset] in at:
                found[:, i] = values[:, at[self.assets[asset]]]
        return found

    # --- what is made of which columns ------------------------------------------------------------

    def _paths(self, name: str, keys: Sequence[str]) -> Sequence[str]:
        """Columns that a variable is made of, for assets some of their members."""
        if name == schema.HREF:
            return [f"assets.{key}.{schema.HREF}" for key in keys]
        if name == schema.ASSET_JSON:
            return [f"{metadata.ASSETS}.{key}" for key in keys]
        if name in self.kinds and self._is_of_texts(name):
            plain = [] if metadata.is_from_text(name) else [name]
            return [*plain, f"{metadata.TEXTS}.{name}"]
        column = {
            schema.SCENE: "id",
            schema.ITEM_JSON: metadata.ITEM,
            schema.GEOMETRY: self.scenes.places.footprint,
        }
        return TIMES if name in (schema.START, schema.END) else [column.get(name, name)]

    def _made(self, name: str, table: pa.Table, keys: Sequence[str]) -> Array:
        """Values of a variable, of a table with its columns."""
        if name in (schema.HREF, schema.ASSET_JSON):
            return self._of_assets(name, table, keys)
        if name == schema.GEOMETRY:
            return self.scenes.drawn(table[self.scenes.places.footprint].combine_chunks())
        if name in (schema.START, schema.END):
            return start_and_end(table)[name == schema.END]
        if name in self.kinds:
            return self._of_property(name, table)
        return _objects(table[self._paths(name, keys)[0]])

    def _is_of_texts(self, name: str) -> bool:
        return self.kinds[name] in ("json", metadata.BOOLEAN) or metadata.is_from_text(name)

    def _of_property(self, name: str, table: pa.Table) -> Array:
        dtype = self.dtype(name)
        if self._is_of_texts(name):
            found = _of_texts(name, table)
            if dtype.kind == "O":
                return found
            return np.array([np.nan if v is None else v for v in found]).astype(dtype)
        if dtype.kind == "O":
            return _objects(table[name])
        return table[name].to_numpy(zero_copy_only=False).astype(dtype, copy=False)

    def _of_assets(self, name: str, table: pa.Table, keys: Sequence[str]) -> Array:
        """Hrefs, or all the rest that assets say."""
        column, member = ("assets", [schema.HREF]) if name == schema.HREF else (metadata.ASSETS, [])
        found = np.full((len(table), len(keys)), None, object)
        for i, key in enumerate(keys):
            texts = pc.struct_field(table[column], [key, *member])
            found[:, i] = _objects(texts)
            if name == schema.HREF:
                standing = pc.fill_null(pc.match_substring_regex(texts, URL), True)
                for row in np.flatnonzero(~standing.to_numpy()):
                    found[row, i] = absolute_href(found[row, i], self.base)
        return found

    # --- some rows, in memory ---------------------------------------------------------------------

    def drawn(self, rows: Rows) -> Drawn:
        """Footprints and times of some rows, in memory."""
        return self._drawn(self.scenes.read(rows, [self.scenes.places.footprint, *TIMES]))

    def _drawn(self, table: pa.Table) -> Drawn:
        footprints = table[self.scenes.places.footprint].combine_chunks()
        return Drawn(self.scenes.drawn(footprints), *start_and_end(table))

    def selection(self, rows: Rows) -> xr.Dataset:
        """Catalog of some rows, in memory, made of their items; where they are is left out."""
        return self._selected(np.asarray(rows, np.int64).tobytes())

    def _select(self, rows: bytes) -> xr.Dataset:
        items = self.scene_items(np.frombuffer(rows, np.int64))
        return from_items([{**item, "geometry": None} for item in items])

    def scene_items(self, rows: NDArray[np.int64]) -> list[Json]:
        """Items of some rows."""
        if self.items is not None:
            return self.items(self.scenes.read(rows, self.scenes.schema.names))
        # Of all columns at once: of a few rows reading takes longer than making.
        places = [self.scenes.places.footprint, *TIMES]
        coords = (schema.SCENE, schema.COLLECTION)
        names = (schema.ITEM_JSON, schema.HREF, schema.ASSET_JSON, *self.kinds)
        paths = dict.fromkeys(
            p for name in (*coords, *names) for p in self._paths(name, self.assets)
        )
        table = self.scenes.read(rows, [*places, *paths])
        made = {n: (self.dims(n), self._made(n, table, self.assets)) for n in (*coords, *names)}
        here = {name: made.pop(name) for name in coords}
        here[schema.ASSET] = ((schema.ASSET,), schema.text_array(self.assets))
        drawn = self._drawn(table)
        index = xr.Coordinates.from_xindex(FootprintIndex(drawn, self.crs))
        return to_dicts(xr.Dataset(made, coords=xr.Coordinates(here).assign(index)))


def _of_texts(name: str, table: pa.Table) -> NDArray[np.object_]:
    """Values of which some, or all, are kept as texts."""
    texts = _objects(pc.struct_field(table[metadata.TEXTS], [name]))
    # Scenes that were written apart may have needed no text.
    others = texts if metadata.is_from_text(name) else _objects(table[name])
    found = np.empty(len(texts), object)
    found[:] = [
        other if text is None else json.loads(text)
        for text, other in zip(texts, others, strict=True)
    ]
    return found


def _objects(column: pa.ChunkedArray) -> NDArray[np.object_]:
    """Values as Python has them; those that are equal, as most of a catalog's texts, once."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if len(column) <= FEW:
        values = np.empty(len(column), object)
        values[:] = column.to_pylist()
        return values
    coded = column.combine_chunks().dictionary_encode(null_encoding="encode")
    distinct = np.empty(len(coded.dictionary), object)
    distinct[:] = coded.dictionary.to_pylist()
    return distinct[coded.indices.to_numpy()]
