"""Lazy: a catalog whose columns are read from its file when used, and whose rows when selected."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Literal, Self, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyproj
import xarray as xr
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry
from xarray.backends import BackendArray
from xarray.core import indexing
from xarray.core.indexes import Index, PandasIndex
from xarray.core.indexing import IndexSelResult

from xgeocat.catalog import layout, schema
from xgeocat.catalog.index import Drawn, FootprintIndex
from xgeocat.catalog.interval import Interval
from xgeocat.catalog.sources import Json, absolute_href
from xgeocat.catalog.stac import from_items, to_dicts
from xgeocat.catalog.stored import Rows, StoredScenes, start_and_end

Array: TypeAlias = NDArray[np.generic]

#: Up to so many scenes have their ids and footprints in memory when they are asked for.
IN_MEMORY = 100_000
#: Selections whose items are kept, because their columns are read one after the other.
SELECTIONS_KEPT = 2


# --- values ---------------------------------------------------------------------------------------


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

    @property
    def partitioning(self) -> Literal["year", "month"] | None:
        """By what scenes are dealt out into files, as the folders of the files have it."""
        folders = (
            self.scenes.files[0].folder.absolute.rsplit("/", 2)[1:] if self.scenes.files else []
        )
        names = [name.partition("=")[0] for name in folders]
        if names[-1:] == ["month"]:
            return "month"
        return "year" if names[-1:] == ["year"] else None

    def ids(self) -> set[tuple[object, object]]:
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
        kind = self.kinds.get(name, "object")
        return np.dtype(object if kind in ("object", "json", "item") else kind)

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
            return _objects(self.scenes.read(rows, ["id"])["id"])
        if name == schema.GEOMETRY:
            column = self.scenes.places.footprint
            return self.scenes.drawn(self.scenes.read(rows, [column])[column].combine_chunks())
        if name in (schema.START, schema.END):
            times = start_and_end(
                self.scenes.read(rows, ["datetime", "start_datetime", "end_datetime"])
            )
            return times[name == schema.END]
        if self.kinds.get(name) == "item" or (name == schema.ITEM_JSON and self.items is not None):
            return self.selection(rows)[name].values
        if name == schema.ITEM_JSON:
            return _objects(self.scenes.read(rows, [layout.ITEM])[layout.ITEM])
        if name == schema.COLLECTION:
            return _objects(self.scenes.read(rows, [name])[name])
        return self._of_property(name, rows)

    def _of_property(self, name: str, rows: Rows) -> Array:
        kind = self.kinds[name]
        plain = [] if name in layout.MEMBERS else [name]
        if kind == "json":
            table = self.scenes.read(rows, [*plain, f"{layout.TEXTS}.{name}"])
            texts = _objects(pc.struct_field(table[layout.TEXTS], name))
            # Scenes that were written apart may have needed no text.
            others = _objects(table[name]) if plain else texts
            found = np.empty(len(texts), object)
            found[:] = [
                other if text is None else json.loads(text)
                for text, other in zip(texts, others, strict=True)
            ]
            return found
        column = self.scenes.read(rows, [name])[name]
        if kind == "object":
            return _objects(column)
        return column.to_numpy(zero_copy_only=False).astype(kind, copy=False)

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
            known = {
                href: absolute_href(href, self.base) for href in found.flat if href is not None
            }
            found[:] = [[known.get(href) for href in row] for row in found]
        return found

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
        drawn = StoredFootprints(self, rows)
        index = xr.Coordinates.from_xindex(FootprintIndex(drawn, self.crs))
        return to_dicts(xr.Dataset(columns, coords=xr.Coordinates(coords).assign(index)))


def _objects(column: pa.ChunkedArray) -> NDArray[np.object_]:
    found = np.empty(len(column), object)
    found[:] = column.to_pylist()
    return found


# --- arrays ---------------------------------------------------------------------------------------


class StoredArray(BackendArray):
    """One variable of a stored catalog, of which xarray reads what it is asked for."""

    def __init__(self, catalog: StoredCatalog, name: str) -> None:
        self.catalog = catalog
        self.name = name
        self.shape = catalog.shape(name)
        self.dtype = catalog.dtype(name)

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Array:
        return indexing.explicit_indexing_adapter(
            key, self.shape, indexing.IndexingSupport.OUTER, self._read
        )

    def _read(self, key: tuple[int | slice | NDArray[np.int64], ...]) -> Array:
        rows, inner = _positions(key[0], self.shape[0]), key[1:]
        assets = None
        if inner:
            assets = list(_positions(inner[0], self.shape[1]))
        found = self.catalog.values(self.name, rows, assets)
        for axis, which in enumerate(inner[1:], start=2):
            found = np.take(found, list(_positions(which, self.shape[axis])), axis=axis)
        single = tuple(0 if isinstance(k, (int, np.integer)) else slice(None) for k in key)
        return found[single]


def _positions(which: int | slice | NDArray[np.int64], size: int) -> Rows:
    if isinstance(which, slice):
        return range(size)[which]
    return np.atleast_1d(np.asarray(which, np.int64)) % max(size, 1)


def lazily(
    catalog: StoredCatalog, name: str, rows: Rows | None = None
) -> indexing.ExplicitlyIndexed:
    """One variable as an array for xarray, which keeps what it read."""
    stored = StoredArray(catalog, name)
    key = None
    if rows is not None and not is_whole(rows, stored.shape[0]):
        every = (slice(None),) * (len(stored.shape) - 1)
        key = indexing.OuterIndexer((np.asarray(rows, np.int64), *every))
    array = indexing.LazilyIndexedArray(stored, key)
    return indexing.CopyOnWriteArray(indexing.MemoryCachedArray(array))


def is_whole(rows: Rows, size: int) -> bool:
    """Tell whether some rows are all there are, in their order."""
    return isinstance(rows, range) and rows == range(size)


# --- indexes --------------------------------------------------------------------------------------


class StoredFootprints:
    """Footprints in a file; see :class:`xgeocat.catalog.index.Footprints`.

    Parameters
    ----------
    catalog : StoredCatalog
        The file.
    rows : range or numpy.ndarray
        Which of its rows.
    """

    def __init__(self, catalog: StoredCatalog, rows: Rows) -> None:
        self.catalog = catalog
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __deepcopy__(self, memo: object) -> Self:
        return self

    @property
    def _is_whole(self) -> bool:
        return is_whole(self.rows, len(self.catalog.scenes))

    @cached_property
    def geometry(self) -> NDArray[np.object_]:
        """Footprints, read when first asked for."""
        return self.catalog.values(schema.GEOMETRY, self.rows).astype(object, copy=False)

    @cached_property
    def _times(self) -> tuple[NDArray[np.datetime64], NDArray[np.datetime64]]:
        names = ["datetime", "start_datetime", "end_datetime"]
        return start_and_end(self.catalog.scenes.read(self.rows, names))

    @property
    def start(self) -> NDArray[np.datetime64]:
        """First moments."""
        return self._times[0]

    @property
    def end(self) -> NDArray[np.datetime64]:
        """Last moments."""
        return self._times[1]

    @cached_property
    def _drawn(self) -> Drawn:
        return Drawn(self.geometry, self.start, self.end)

    @property
    def boxes(self) -> NDArray[np.float64]:
        """Bounds of each."""
        return self.catalog.scenes.boxes[:, np.asarray(self.rows, np.int64)]

    @property
    def bounds(self) -> tuple[float, float, float, float] | None:
        """Bounds of all."""
        places = self.catalog.scenes.places
        return self.catalog.scenes.bounds if self._is_whole and places.exact else self._drawn.bounds

    @property
    def reach(self) -> tuple[float, float, float, float] | None:
        """Bounds that hold all, from the footer."""
        return self.catalog.scenes.reach or self.bounds

    def overlapping(
        self, geometry: BaseGeometry | None, interval: Interval | None
    ) -> NDArray[np.int64]:
        """By the row groups of the file; a selection of few by a tree of its own."""
        if self._is_whole:
            return self.catalog.scenes.overlapping(geometry, interval)
        if len(self.rows) <= IN_MEMORY:
            return self._drawn.overlapping(geometry, interval)
        found = self.catalog.scenes.overlapping(geometry, interval)
        return np.flatnonzero(np.isin(np.asarray(self.rows), found))

    def take(self, which: slice | NDArray[np.generic]) -> StoredFootprints:
        """Some of them."""
        return StoredFootprints(self.catalog, _taken(self.rows, which))

    def columns(self) -> Mapping[str, object]:
        """Read when they are asked for."""
        names = (schema.GEOMETRY, schema.START, schema.END)
        return {name: lazily(self.catalog, name, self.rows) for name in names}


def _taken(rows: Rows, which: slice | NDArray[np.generic]) -> Rows:
    if isinstance(which, slice):
        return rows[which]
    positions = np.flatnonzero(which) if which.dtype == bool else which.astype(np.int64)
    return np.asarray(rows, np.int64)[positions]


class SceneIndex(Index):
    """Ids of more scenes than should be in memory: read when an id is looked up.

    A selection of few is an ordinary index.
    """

    def __init__(self, catalog: StoredCatalog, rows: Rows) -> None:
        self.catalog = catalog
        self.rows = rows

    def create_variables(
        self, variables: Mapping[Hashable, xr.Variable] | None = None
    ) -> dict[Hashable, xr.Variable]:
        """Return the ids, read when they are asked for."""
        return {
            schema.SCENE: xr.Variable(schema.SCENE, lazily(self.catalog, schema.SCENE, self.rows))
        }

    @cached_property
    def _known(self) -> PandasIndex:
        return PandasIndex(self.catalog.values(schema.SCENE, self.rows), schema.SCENE)

    def to_pandas_index(self) -> object:
        """Ids in memory."""
        return self._known.to_pandas_index()

    def sel(self, labels: dict[object, object], **options: object) -> IndexSelResult:
        """Look ids up."""
        return self._known.sel(labels, **options)

    def isel(self, indexers: Mapping[Hashable, object]) -> Index | None:
        """Select scenes; see :func:`scene_index`."""
        which = indexers.get(schema.SCENE, slice(None))
        if isinstance(which, xr.Variable):
            if which.dims != (schema.SCENE,):
                return None
            which = which.values
        if not isinstance(which, slice):
            if np.ndim(which) == 0:
                return None
            which = np.asarray(which)
        return scene_index(self.catalog, _taken(self.rows, which))

    def equals(self, other: Index, **kwargs: object) -> bool:
        """Tell whether `other` is of the same rows of the same file."""
        return isinstance(other, SceneIndex) and (
            other is self
            or (other.catalog is self.catalog and np.array_equal(other.rows, self.rows))
        )


def scene_index(catalog: StoredCatalog, rows: Rows) -> Index:
    """Index of the ids of some rows."""
    if len(rows) > IN_MEMORY:
        return SceneIndex(catalog, rows)
    return PandasIndex(catalog.values(schema.SCENE, rows), schema.SCENE)


# --- Dataset --------------------------------------------------------------------------------------


def lazy_dataset(catalog: StoredCatalog) -> xr.Dataset:
    """Catalog of all rows of a file."""
    every = range(len(catalog.scenes))
    coords = xr.Coordinates(
        {
            schema.COLLECTION: (schema.SCENE, lazily(catalog, schema.COLLECTION)),
            schema.ASSET: (schema.ASSET, schema.text_array(catalog.assets)),
        }
    )
    for index in (
        scene_index(catalog, every),
        FootprintIndex(StoredFootprints(catalog, every), catalog.crs),
    ):
        coords = coords.assign(xr.Coordinates.from_xindex(index))
    names = [*schema.ASSET_VARIABLES, schema.ITEM_JSON, *catalog.kinds]
    variables = {name: (catalog.dims(name), lazily(catalog, name)) for name in names}
    return xr.Dataset(variables, coords=coords, attrs=catalog.about.get("attrs"))
