"""Zarr: a stitched field as a georeferenced Zarr v3 group, whole or part by part."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Self, TypeAlias

import dask.array
import numpy as np
import odc.geo.xr
import xarray as xr
import zarr
from numcodecs import Zstd
from odc.geo.geobox import GeoBox
from zarr.codecs import BytesCodec, ZstdCodec
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import LocalStore, MemoryStore

from xgeocat.domain.geoslice import crs_of
from xgeocat.patching import writing
from xgeocat.patching.nodata import nodata_of
from xgeocat.patching.tiling import Array
from xgeocat.runs.grid import WRITE, Window, require_grid

if TYPE_CHECKING:
    from zarr.abc.store import Store
    from zarr.core.buffer import Buffer
    from zarr.core.metadata import ArrayV3Metadata

ZarrArray: TypeAlias = "zarr.Array[ArrayV3Metadata]"

#: Chunk edge on disk: what a map viewer or a corner of the field reads.
CHUNK = 512
#: Attributes that are written anew, or that would tell a reader to scale what is not scaled.
OURS = ("nodata", "_FillValue", "missing_value", "grid_mapping", "scale_factor", "add_offset")
#: What zarr compresses with by default, said here as `_put` does it too.
COMPRESSOR = ZstdCodec(level=0, checksum=False)
ZSTD = Zstd(level=COMPRESSOR.level, checksum=COMPRESSOR.checksum)
#: What makes a folder a group; written last, so that where it is, all metadata is.
ROOT = "zarr.json"


@dataclass(frozen=True, slots=True)
class Layout:
    """How arrays are stored.

    Parameters
    ----------
    chunk : int
        Chunk edge in pixels: what is compressed as one.
    shard : int or None
        Edge of what is stored as one object, a multiple of `chunk`; each chunk by itself if None.
    """

    chunk: int = CHUNK
    shard: int | None = None

    @property
    def edge(self) -> int:
        """Edge of what one task has to write whole."""
        return self.shard or self.chunk

    def encoding(self, shape: tuple[int, ...]) -> dict[str, object]:
        """Chunks and shards of an array ``(..., y, x)``."""
        outer = (1,) * (len(shape) - 2)
        chunk = outer + tuple(min(self.chunk, max(n, 1)) for n in shape[-2:])
        if self.shard is None:
            return {"chunks": chunk}
        shard = (min(self.shard, -(-max(n, 1) // c) * c) for n, c in zip(shape, chunk, strict=True))
        return {"chunks": chunk, "shards": outer + tuple(shard)[-2:]}


def write_zarr(
    field: xr.Dataset,
    store: Store,
    layout: Layout | None = None,
    window: Window | None = None,
    group: str = "",
    attrs: Mapping[str, object] | None = None,
) -> GeoBox:
    """Write a field, or a part of one, as a Zarr v3 group.

    Every chunk (or shard) is written whole, by one task. Where it lies is said three times, because
    readers differ: a CF grid mapping (rioxarray, odc-geo), its GeoTransform, and the ``_CRS``
    attribute of GDAL's Zarr driver (https://gdal.org/en/stable/drivers/raster/zarr.html).

    Parameters
    ----------
    field : Dataset
        All of the field, on a regular grid with a CRS; dask-backed fields are streamed.
    store : Store
        Where to: empty, or with parts of the same field.
    layout : Layout, optional
        How arrays are stored.
    window : (slice, slice), optional
        Rows and columns of the part; see :func:`xgeocat.runs.grid.windows`. All by default.
    group : str, optional
        Path of the group in the store, ending in a slash; the store itself by default.
    attrs : mapping, optional
        What the group says beside its variables, in JSON values.

    Returns
    -------
    GeoBox
        The grid of the whole field.

    Raises
    ------
    ValueError
        For a field without a regular grid or a CRS.
    """
    layout = layout or Layout()
    geobox = require_grid(field)
    variables = {name: _prepared(var, geobox) for name, var in field.data_vars.items()}
    if not is_written(store, group):
        ready = _with_grid_mapping(xr.Dataset(variables, attrs=attrs), geobox)
        _write_template(ready, store, layout, group)
    lazy = {}
    for name, var in variables.items():
        part, target = var.data, _Chunks.open(store, f"{group}{name}", window)
        if window is not None:
            part = part[(..., *window)]
        if isinstance(part, np.ndarray):
            target[tuple(slice(0, n) for n in part.shape)] = part
        else:
            lazy[name] = (_aligned(part, layout), target)
    sources, targets = [s for s, _ in lazy.values()], [t for _, t in lazy.values()]
    writing.write(sources, targets, label=str((store, group, window)))
    return geobox


def is_written(store: Store, group: str = "") -> bool:
    """Tell whether a store has a group at all, with its metadata and coordinates."""
    return sync(store.exists(group + ROOT))


def write_template(field: xr.Dataset, store: Store, layout: Layout) -> None:
    """Write everything of a field but its pixels, or write it anew; see :func:`write_zarr`.

    Pixels that are there stay where they are: a longer axis is longer at its end.
    """
    geobox = require_grid(field)
    variables = {name: _prepared(var, geobox) for name, var in field.data_vars.items()}
    _write_template(_with_grid_mapping(xr.Dataset(variables), geobox), store, layout)


def write_region(store: Store, name: str, region: tuple[int | slice, ...], values: Array) -> None:
    """Write whole chunks of an array; those of nothing but fill value are not stored."""
    array = zarr.open_array(store, path=name, mode="r+", config={"write_empty_chunks": False})
    array[region] = values


@dataclass(frozen=True, slots=True)
class _Chunks:
    """A part of an array, whose chunks of nothing but fill value are not stored.

    zarr puts all of a process through one event loop, so that threads wait for it: onto a disk,
    chunks go straight (see `_put`).
    """

    array: ZarrArray
    origin: tuple[int, int]

    @classmethod
    def open(cls, store: Store, path: str, window: Window | None) -> Self:
        array = zarr.open_array(store, path=path, mode="r+", config={"write_empty_chunks": False})
        return cls(array, (0, 0) if window is None else (window[0].start, window[1].start))

    def __setitem__(self, region: tuple[slice, ...], values: Array) -> None:
        origin = (0,) * (values.ndim - 2) + self.origin
        place = tuple(slice(s.start + o, s.stop + o) for s, o in zip(region, origin, strict=True))
        store = self.array.store
        if isinstance(store, LocalStore) and _is_plain(self.array):
            _put(store, self.array, tuple(s.start for s in place), values)
        else:
            self.array[place] = values


def _is_plain(array: ZarrArray) -> bool:
    """Tell whether chunks are stored as `_put` makes them."""
    little = sys.byteorder == "little" and array.serializer == BytesCodec(endian="little")
    single = array.dtype.itemsize == 1 and isinstance(array.serializer, BytesCodec)
    return (little or single) and array.shards is None and array.compressors == (COMPRESSOR,)


def _put(store: LocalStore, array: ZarrArray, start: tuple[int, ...], values: Array) -> None:
    """Encode and store whole chunks; the same bytes as zarr's.

    https://zarr-specs.readthedocs.io/en/latest/v3/core/index.html: a chunk that reaches over the
    edge of the array is stored whole.
    """
    chunks, make = array.chunks, default_buffer_prototype().buffer.from_bytes
    counts = (range(-(-n // c)) for n, c in zip(values.shape, chunks, strict=True))
    for number in product(*counts):
        part = values[tuple(slice(i * c, (i + 1) * c) for i, c in zip(number, chunks, strict=True))]
        place = tuple(s // c + i for s, c, i in zip(start, chunks, number, strict=True))
        key = f"{array.path}/{array.metadata.encode_chunk_key(place)}"
        if _is_empty(part, array.fill_value):
            store.delete_sync(key)
            continue
        if part.shape != chunks:
            whole = np.full(chunks, array.fill_value, array.dtype)
            whole[tuple(map(slice, part.shape))] = part
            part = whole
        store.set_sync(key, make(ZSTD.encode(np.ascontiguousarray(part, array.dtype))))


def _is_empty(part: Array, fill: np.generic) -> bool:
    """Tell whether there is nothing but fill value; most often the first cell says that already."""
    unknown = fill != fill
    first = part[(0,) * part.ndim]
    if not (first != first if unknown else first == fill):
        return False
    return bool(np.isnan(part).all() if unknown else (part == fill).all())


def _with_grid_mapping(ready: xr.Dataset, geobox: GeoBox) -> xr.Dataset:
    """Give one grid mapping, with its GeoTransform, and text coordinates a dtype Zarr can hold."""
    mappings = [n for n, c in ready.coords.items() if {"crs_wkt", "spatial_ref"} & set(c.attrs)]
    spatial_ref = odc.geo.xr.xr_coords(geobox)["spatial_ref"]
    ready = ready.drop_vars(mappings).assign_coords(spatial_ref=spatial_ref)
    for name, coord in ready.coords.items():
        if coord.dtype.kind == "O":
            ready = ready.assign_coords({name: coord.astype(str)})
    return ready


def _write_template(ready: xr.Dataset, store: Store, layout: Layout, group: str = "") -> None:
    """Write everything but the pixels: metadata, coordinates, grid mapping.

    It is made in memory, for tasks that write parts at one time must not undo what others wrote:
    they all write the same here.
    """
    empty = ready.copy(
        data={
            name: dask.array.empty(var.shape, dtype=var.dtype, chunks=-1)
            for name, var in ready.data_vars.items()
        }
    )
    encoding = {
        str(name): {**_encoding(var), **layout.encoding(var.shape)}
        for name, var in ready.data_vars.items()
    }
    for var in empty.data_vars.values():
        var.attrs.pop("nodata", None)
    made: dict[str, Buffer] = {}
    empty.to_zarr(
        MemoryStore(made), zarr_format=3, consolidated=False, encoding=encoding, compute=False
    )
    for key in sorted(made, key=lambda key: key == ROOT):
        if isinstance(store, LocalStore):
            store.set_sync(group + key, made[key])
        else:
            sync(store.set(group + key, made[key]))


def _prepared(var: xr.DataArray, geobox: GeoBox) -> xr.DataArray:
    """Bring a variable into the order that is written, with the CRS said to GDAL."""
    y, x = var.odc.spatial_dims
    var = var.transpose(..., y, x)
    crs = crs_of(geobox)
    nodata = nodata_of(var)
    attrs = {k: v for k, v in var.attrs.items() if k not in OURS}
    if nodata is not None:
        attrs["nodata"] = nodata
    attrs["_CRS"] = {"wkt": crs.to_wkt(), "projjson": crs.proj.to_json_dict()}
    prepared = var.copy(deep=False)
    prepared.attrs = attrs
    prepared.encoding = {"grid_mapping": "spatial_ref"}
    return prepared


def _aligned(data: dask.array.Array, layout: Layout) -> dask.array.Array:
    """Bring an array into blocks that are whole chunks, or whole shards."""
    edge = layout.edge
    if all(c % edge == 0 for chunks in data.chunks[-2:] for c in chunks[:-1]):
        return data
    block = -(-WRITE // edge) * edge
    return data.rechunk((*data.chunks[:-2], block, block))


def _encoding(var: xr.DataArray) -> dict[str, object]:
    nodata = nodata_of(var)
    if nodata is None and var.dtype.kind == "f":
        nodata = np.nan
    encoding: dict[str, object] = {"grid_mapping": "spatial_ref", "compressors": (COMPRESSOR,)}
    if nodata is None and var.dtype.kind in "iu":
        # Zarr wants a fill value, and GDAL takes it for nodata: then let it be an unlikely one.
        limits = np.iinfo(var.dtype)
        encoding["fill_value"] = limits.max if var.dtype.kind == "u" else limits.min
    if nodata is not None:
        encoding["_FillValue"] = var.dtype.type(nodata)
        encoding["fill_value"] = var.dtype.type(nodata)
    return encoding
