"""Lazy: a catalog whose columns are read from its file when used, and whose rows when selected."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Self, cast

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry
from xarray.backends import BackendArray
from xarray.core import indexing
from xarray.core.indexes import Index, PandasIndex
from xarray.core.indexing import IndexSelResult

from xgeocat.catalog import schema
from xgeocat.catalog.columns import Array, StoredCatalog
from xgeocat.catalog.index import Drawn, FootprintIndex, selected
from xgeocat.catalog.interval import Interval
from xgeocat.catalog.provenance import attrs_from_json
from xgeocat.catalog.stored import Rows

#: Up to so many scenes have their ids and footprints in memory when they are asked for.
IN_MEMORY = 100_000


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
    # As xarray wraps what its own backends open; its annotations know it not.
    return indexing.CopyOnWriteArray(indexing.MemoryCachedArray(array))  # type: ignore[arg-type]


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
    def drawn(self) -> Drawn:
        """The same in memory, read when first asked for."""
        return self.catalog.drawn(self.rows)

    @property
    def geometry(self) -> NDArray[np.object_]:
        """Footprints."""
        return self.drawn.geometry

    @property
    def start(self) -> NDArray[np.datetime64]:
        """First moments."""
        return self.catalog.scenes.times[0][np.asarray(self.rows, np.int64)]

    @property
    def end(self) -> NDArray[np.datetime64]:
        """Last moments."""
        return self.catalog.scenes.times[1][np.asarray(self.rows, np.int64)]

    @property
    def boxes(self) -> NDArray[np.float64]:
        """Bounds of each."""
        return self.catalog.scenes.boxes[:, np.asarray(self.rows, np.int64)]

    @property
    def bounds(self) -> tuple[float, float, float, float] | None:
        """Bounds of all."""
        places = self.catalog.scenes.places
        return self.catalog.scenes.bounds if self._is_whole and places.exact else self.drawn.bounds

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
            return self.drawn.overlapping(geometry, interval)
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
    if isinstance(rows, range):
        # Without a list of millions, of which a few are taken.
        if len(positions) and not -len(rows) <= positions.min() <= positions.max() < len(rows):
            raise IndexError(f"There are {len(rows)} scenes; position {positions.max()} is asked.")
        return rows.start + rows.step * np.where(positions < 0, positions + len(rows), positions)
    return rows[positions]


class SceneIndex(Index):
    """Ids of more scenes than should be in memory: read when an id is looked up.

    A selection of few is an ordinary index.
    """

    #: As a PandasIndex has it, which may have to put this one behind itself.
    dim = schema.SCENE

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

    @property
    def index(self) -> pd.Index:
        """Ids in memory, where a PandasIndex has them too: they are put behind each other."""
        return self._known.index

    @property
    def coord_dtype(self) -> np.dtype[np.generic]:
        """Dtype of the ids; as `index`."""
        return self._known.coord_dtype

    def to_pandas_index(self) -> pd.Index:
        """Ids in memory."""
        return self._known.to_pandas_index()

    def sel(self, labels: dict[object, object], **options: object) -> IndexSelResult:
        """Look ids up."""
        return self._known.sel(labels, **options)

    def rename(  # type: ignore[override]
        self, name_dict: Mapping[Hashable, Hashable], dims_dict: Mapping[Hashable, Hashable]
    ) -> PandasIndex:
        """Call the ids by another name: they are read then."""
        return self._known.rename(name_dict, dims_dict)

    @classmethod
    def concat(  # type: ignore[override]
        cls,
        indexes: Sequence[Index],
        dim: Hashable,
        positions: Iterable[Iterable[int]] | None = None,
    ) -> PandasIndex:
        """Put ids behind each other, in memory."""
        known = [index._known if isinstance(index, SceneIndex) else index for index in indexes]
        return PandasIndex.concat(cast("list[PandasIndex]", known), dim, positions)

    def isel(self, indexers: Mapping[Hashable, object]) -> Index | None:
        """Select scenes; see :func:`scene_index`."""
        which = selected(indexers.get(schema.SCENE, slice(None)))
        return None if which is None else scene_index(self.catalog, _taken(self.rows, which))

    def equals(self, other: Index, **kwargs: object) -> bool:
        """Tell whether `other` has the same ids; those of the same rows need not be read."""
        if isinstance(other, SceneIndex):
            same_rows = np.array_equal(other.rows, self.rows)
            if other.catalog is self.catalog and same_rows:
                return True
            return self.index.equals(other.index)
        return isinstance(other, PandasIndex) and self.index.equals(other.index)


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
    return xr.Dataset(
        variables, coords=coords, attrs=attrs_from_json(catalog.about.get("attrs", {}))
    )
