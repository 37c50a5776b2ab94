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

from xgeocat.catalog import layout, schema
from xgeocat.catalog.footers import TIMES
from xgeocat.catalog.index import Drawn, FootprintIndex
from xgeocat.catalog.sources import Json, absolute_href
from xgeocat.catalog.stac import from_items, to_dicts
from xgeocat.catalog.stored import Rows, StoredScenes, start_and_end

Array: TypeAlias = NDArray[np.generic]

#: Selections whose items are kept, because their columns are read one after the other.
SELECTIONS_KEPT = 2


class StoredCatalog:
    """What a catalog's columns are made of.

    Parameters
    ----------
    scenes : StoredScenes
        The rows.
    about : dict
        CRS of the footprints, names of the assets, how each property comes back, attrs; see
        :func:`xgeocat.catalog.layout.metadata_of`. Of a property that comes back ``"item"`` only
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
        return layout.dtype_of(self.kinds.get(name, "object"))

    def values(self, name: str, rows: Rows, assets: Sequence[int] | None = None) -> Array:
        """Values of a variable for some rows, and some assets, read now."""
        if name in (schema.HREF, schema.ASSET_JSON) and self.items is None:
            return self._of_assets(
                name, rows, range(len(self.assets)) if assets is None else assets
            )
        if name in schema.ASSET_VARIABLES:
            return self._of_items(name, rows, range(len(self.assets)) if assets is None else assets)
        return self._of_scenes(name, rows)

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

    def _of_scenes(self, name: str, rows: Rows) -> Array:
        """Values of a variable that has no assets."""
        if name == schema.SCENE:
            return _objects(self.scenes.read(rows, ["id"], keep=True)["id"])
        if name == schema.GEOMETRY:
            column = self.scenes.places.footprint
            return self.scenes.drawn(self.scenes.read(rows, [column])[column].combine_chunks())
        if name in (schema.START, schema.END):
            times = start_and_end(self.scenes.read(rows, TIMES))
            return times[name == schema.END]
        if self.kinds.get(name) == "item" or (name == schema.ITEM_JSON and self.items is not None):
            found = np.full(len(rows), None, object)
            selection = self.selection(rows)
            # Of some rows there may be none that has it.
            if name in selection:
                found[:] = selection[name].values
            return found
        if name == schema.ITEM_JSON:
            return _objects(self.scenes.read(rows, [layout.ITEM])[layout.ITEM])
        if name == schema.COLLECTION:
            return _objects(self.scenes.read(rows, [name])[name])
        return self._of_property(name, rows)

    def _of_property(self, name: str, rows: Rows) -> Array:
        dtype = self.dtype(name)
        if self.kinds[name] in ("json", layout.BOOLEAN) or layout.is_from_text(name):
            found = self._of_texts(name, rows)
            if dtype.kind == "O":
                return found
            return np.array([np.nan if v is None else v for v in found]).astype(dtype)
        column = self.scenes.read(rows, [name])[name]
        if dtype.kind == "O":
            return _objects(column)
        return column.to_numpy(zero_copy_only=False).astype(dtype, copy=False)

    def _of_texts(self, name: str, rows: Rows) -> Array:
        """Values of which some, or all, are kept as texts."""
        plain = [] if layout.is_from_text(name) else [name]
        table = self.scenes.read(rows, [*plain, f"{layout.TEXTS}.{name}"])
        texts = _objects(pc.struct_field(table[layout.TEXTS], [name]))
        # Scenes that were written apart may have needed no text.
        others = _objects(table[name]) if plain else texts
        found = np.empty(len(texts), object)
        found[:] = [
            other if text is None else json.loads(text)
            for text, other in zip(texts, others, strict=True)
        ]
        return found

    def _of_assets(self, name: str, rows: Rows, assets: Sequence[int]) -> Array:
        """Hrefs, or all the rest that assets say."""
        column, member = ("assets", (schema.HREF,)) if name == schema.HREF else (layout.ASSETS, ())
        keys = [self.assets[i] for i in assets]
        paths = [".".join((column, key, *member)) for key in keys]
        found = np.full((len(rows), len(keys)), None, object)
        if keys and len(rows):
            structs = self.scenes.read(rows, paths)[column]
            for i, key in enumerate(keys):
                found[:, i] = _objects(pc.struct_field(structs, [key, *member]))
        if name == schema.HREF:
            for place, href in np.ndenumerate(found):
                found[place] = None if href is None else absolute_href(href, self.base)
        return found

    def drawn(self, rows: Rows) -> Drawn:
        """Footprints and times of some rows, in memory."""
        column = self.scenes.places.footprint
        table = self.scenes.read(rows, [column, *TIMES])
        return Drawn(self.scenes.drawn(table[column].combine_chunks()), *start_and_end(table))

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
        given = [schema.ITEM_JSON, schema.HREF, schema.ASSET_JSON, *self.kinds]
        columns = {name: (self.dims(name), self.values(name, rows)) for name in given}
        coords = {
            schema.SCENE: (schema.SCENE, self.values(schema.SCENE, rows)),
            schema.COLLECTION: (schema.SCENE, self.values(schema.COLLECTION, rows)),
            schema.ASSET: (schema.ASSET, schema.text_array(self.assets)),
        }
        index = xr.Coordinates.from_xindex(FootprintIndex(self.drawn(rows), self.crs))
        return to_dicts(xr.Dataset(columns, coords=xr.Coordinates(coords).assign(index)))


def _objects(column: pa.ChunkedArray) -> NDArray[np.object_]:
    """Values as Python has them; those that are equal, as most of a catalog's texts, once."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    coded = column.combine_chunks().dictionary_encode(null_encoding="encode")
    distinct = np.empty(len(coded.dictionary), object)
    distinct[:] = coded.dictionary.to_pylist()
    return distinct[coded.indices.to_numpy()]
