"""Sinks: what the outputs of a run are written as."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Protocol, Self

import xarray as xr
from odc.geo.geobox import GeoBox

from xgeocat.runs.cog import TILE, write_cogs
from xgeocat.runs.grid import WRITE, Window
from xgeocat.runs.overviews import described, write_overviews
from xgeocat.runs.store import CHUNK, Layout, is_written, write_zarr
from xgeocat.storage import versions
from xgeocat.storage.folder import Folder

ZARR_TYPE = "application/vnd+zarr; version=3"
REPOSITORY = f"archive{versions.SUFFIX}"
COG_TYPE = "image/tiff; application=geotiff; profile=cloud-optimized"


@dataclass(frozen=True, slots=True)
class Written:
    """What came of writing.

    Parameters
    ----------
    geobox : GeoBox
        The grid written.
    changes : bytes or None
        What is to be committed; None where that is not needed.
    """

    geobox: GeoBox
    changes: bytes | None = None


class Sink(Protocol):
    """One kind of output. A unit's output is a folder, with an entry for each variable."""

    @property
    def edge(self) -> int:
        """Edge, in pixels, of what is stored as one: parts of scenes are made of such."""
        ...

    @property
    def media_type(self) -> str:
        """What an entry is, as STAC has it."""
        ...

    def describe(self) -> Mapping[str, object]:
        """Describe, in JSON values, what the bytes depend on."""
        ...

    def entry(self, unit: str, variable: str) -> str:
        """Name of the entry of a variable, within the folder of all outputs."""
        ...

    def write(self, field: xr.Dataset, folder: Folder, unit: str) -> Written:
        """Write a field whole."""
        ...

    def write_part(self, field: xr.Dataset, window: Window, folder: Folder, unit: str) -> None:
        """Write a part of a field, beside its other parts."""
        ...

    def join(self, field: xr.Dataset, folder: Folder, unit: str) -> None:
        """Make the output of all parts of a field. Done again, it changes nothing."""
        ...

    def forget_parts(self, folder: Folder, unit: str) -> None:
        """Remove the parts of an output that is there."""
        ...


@dataclass(frozen=True, slots=True)
class Zarr:
    """One Zarr v3 group for each scene.

    Parameters
    ----------
    chunk : int, default: 512
        Chunk edge in pixels.
    shard : int, optional
        Edge in pixels of what is one object in the store, a multiple of `chunk`: fewer and larger
        objects, of which readers still fetch single chunks. By default every chunk is an object.
    overviews : bool, default: False
        Whether to store each scene at half its resolution too, at half of that, and on down to one
        chunk, in groups ``1``, ``2``, ... of its own; see :mod:`xgeocat.runs.overviews`.

    Raises
    ------
    ValueError
        For a shard that is no whole number of chunks.
    """

    chunk: int = CHUNK
    shard: int | None = None
    overviews: bool = False

    def __post_init__(self) -> None:
        whole = self.shard is None or (self.shard >= self.chunk and self.shard % self.chunk == 0)
        if self.chunk < 1 or not whole:
            raise ValueError(
                f"A shard of {self.shard} px is no whole number of chunks of {self.chunk} px, and "
                f"shards are stored whole. Use e.g. shard={4 * max(self.chunk, 1)}."
            )

    @property
    def edge(self) -> int:
        """Edge of a shard, or of a chunk."""
        return self._layout.edge

    @property
    def media_type(self) -> str:
        """Media type of Zarr."""
        return ZARR_TYPE

    @property
    def _layout(self) -> Layout:
        return Layout(self.chunk, self.shard)

    def describe(self) -> Mapping[str, object]:
        """Describe what the bytes depend on."""
        return {"kind": "zarr", **asdict(self)}

    def entry(self, unit: str, variable: str) -> str:
        """``<unit>.zarr/<variable>``."""
        return f"{unit}.zarr/{variable}"

    def write(self, field: xr.Dataset, folder: Folder, unit: str) -> Written:
        """Write a field whole."""
        with folder.new_group(f"{unit}.zarr") as store:
            geobox = write_zarr(field, store, self._layout, attrs=self._about(field))
            if self.overviews:
                write_overviews(field, store, self._layout)
            return Written(geobox)

    def write_part(self, field: xr.Dataset, window: Window, folder: Folder, unit: str) -> None:
        """Write a part into the group."""
        store = folder.parts(f"{unit}.zarr")
        write_zarr(field, store, self._layout, window, attrs=self._about(field))

    def join(self, field: xr.Dataset, folder: Folder, unit: str) -> None:
        """Put the group in its place, with its overviews."""
        store = folder.parts(f"{unit}.zarr")
        # On a disk the group is gone from there once it is in its place.
        if self.overviews and is_written(store):
            write_overviews(field, store, self._layout)
        folder.publish_parts(f"{unit}.zarr")

    def _about(self, field: xr.Dataset) -> Mapping[str, object]:
        return described(field, self.chunk) if self.overviews else {}

    def forget_parts(self, folder: Folder, unit: str) -> None:
        """Remove what is left beside it."""
        folder.forget_parts(f"{unit}.zarr")


@dataclass(frozen=True, slots=True)
class COG:
    """One Cloud-Optimized GeoTIFF for each scene and variable."""

    @property
    def edge(self) -> int:
        """Edge of a tile."""
        return TILE

    @property
    def media_type(self) -> str:
        """Media type of a COG."""
        return COG_TYPE

    def describe(self) -> Mapping[str, object]:
        """Describe what the bytes depend on."""
        return {"kind": "cog"}

    def entry(self, unit: str, variable: str) -> str:
        """``<unit>/<variable>.tif``."""
        return f"{unit}/{variable}.tif"

    def write(self, field: xr.Dataset, folder: Folder, unit: str) -> Written:
        """Write a field whole."""
        with folder.new_files(unit) as path:
            return Written(write_cogs(field, path))

    def write_part(self, field: xr.Dataset, window: Window, folder: Folder, unit: str) -> None:
        """Write a part into a Zarr group: a COG is written at once, by one task."""
        write_zarr(field, folder.group(_parts(unit)), Layout(TILE), window)

    def join(self, field: xr.Dataset, folder: Folder, unit: str) -> None:
        """Write the COGs of the parts."""
        y, x = field.odc.spatial_dims
        stored = xr.open_zarr(
            folder.group(_parts(unit)),
            consolidated=False,
            mask_and_scale=False,
            chunks={y: WRITE, x: WRITE},
        )
        whole = {
            name: var.transpose(..., y, x).copy(data=stored[name].data)
            for name, var in field.data_vars.items()
        }
        self.write(field.assign(whole), folder, unit)

    def forget_parts(self, folder: Folder, unit: str) -> None:
        """Remove the parts."""
        folder.remove_all(_parts(unit))


@dataclass(frozen=True, slots=True)
class Icechunk:
    """One Icechunk repository, ``data/archive.icechunk``, with a group for each scene.

    Scenes are committed in batches: readers see all of a batch or nothing of it, and the history
    says which came when. Needs the extra ``xgeocat[icechunk]``. Scenes are done as a whole.

    Parameters
    ----------
    every : int, default: 100
        Scenes of a commit. A run that is stopped does those again that were not committed.
    chunk : int, default: 512
        Chunk edge in pixels.
    base : bytes, optional
        The session that changes are made on, while a run is at work.
    """

    every: int = 100
    chunk: int = CHUNK
    base: bytes | None = dataclasses.field(default=None, repr=False)

    @property
    def edge(self) -> int:
        """Edge of a chunk."""
        return self.chunk

    @property
    def media_type(self) -> str:
        """Media type of Zarr."""
        return ZARR_TYPE

    def describe(self) -> Mapping[str, object]:
        """Describe what the bytes depend on."""
        return {"kind": "icechunk", "chunk": self.chunk}

    def entry(self, unit: str, variable: str) -> str:
        """``archive.icechunk/<unit>/<variable>``."""
        return f"{REPOSITORY}/{unit}/{variable}"

    def begin(self, folder: Folder) -> Self:
        """Open a session for a batch."""
        return replace(self, base=versions.begin(folder.inside(REPOSITORY)))

    def commit(self, folder: Folder, changes: Sequence[bytes], message: str) -> None:
        """Commit a batch."""
        versions.commit(folder.inside(REPOSITORY), changes, message)

    def write(self, field: xr.Dataset, folder: Folder, unit: str) -> Written:
        """Write a field into a fork of the session."""
        if self.base is None:
            raise ValueError("Icechunk writes within a batch; see begin.")
        fork = versions.forked(self.base)
        geobox = write_zarr(field, fork.store, Layout(self.chunk), group=f"{unit}/")
        return Written(geobox, pickle.dumps(fork))

    def write_part(self, field: xr.Dataset, window: Window, folder: Folder, unit: str) -> None:
        """Refuse: scenes are done as a whole."""
        raise ValueError("Icechunk takes scenes as a whole; use part=None, or sink='zarr'.")

    def join(self, field: xr.Dataset, folder: Folder, unit: str) -> None:
        """Do nothing, as there are no parts."""

    def forget_parts(self, folder: Folder, unit: str) -> None:
        """Do nothing, as there are no parts."""


SINKS: dict[str, Callable[[], Sink]] = {"zarr": Zarr, "cog": COG, "icechunk": Icechunk}


def find_sink(sink: str | Sink) -> Sink:
    """Find a sink by its name; one that is given is taken as it is."""
    if not isinstance(sink, str):
        return sink
    if sink not in SINKS:
        raise ValueError(f"sink={sink!r} is unknown; use one of {sorted(SINKS)}.")
    return SINKS[sink]()


def _parts(unit: str) -> str:
    return f".{unit}.parts"
