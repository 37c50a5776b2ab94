"""Append: further scenes into a catalog on disk, each once."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import xarray as xr

from xgeocat.catalog import layout, metadata, schema
from xgeocat.catalog.columns import StoredCatalog
from xgeocat.catalog.index import footprint_index
from xgeocat.catalog.opening import CATALOG_FILE, stored_catalog
from xgeocat.catalog.ordering import BATCH, GLOBE, GROUP, scene_order, sorted_tables
from xgeocat.catalog.parquet import (
    By,
    fill,
    in_batches,
    in_order,
    require_kept,
    require_parent,
    to_geoparquet,
)
from xgeocat.catalog.sources import Json
from xgeocat.storage.disk import FolderInUseError
from xgeocat.storage.folder import Folder, is_remote, parent_and_name

#: Collection and id, which tell scenes apart.
Key = tuple[str | None, str | None]
#: By what folders are partitioned that we write.
PARTITIONS: dict[tuple[str, ...], By | None] = {
    (): None,
    ("year",): "year",
    ("year", "month"): "month",
}


def append(ds: xr.Dataset, path: str | os.PathLike[str]) -> int:
    """Add the scenes of a catalog to one on disk, those that are not there yet.

    A scene is there when one of its id and collection is; it stays as it is. A file is written
    anew, and is the old or the new one at any moment; a folder gets further files, each of them
    whole. Who was stopped appends again. Only one appends to a catalog at a time: meanwhile its
    folder (that of the file) is locked, by a file ``.lock`` that stays.

    Parameters
    ----------
    ds : Dataset
        A catalog.
    path : path or URL
        What :func:`to_geoparquet` wrote, or the output folder of a run. Where there is nothing, a
        file is written; into an empty folder as well.

    Returns
    -------
    int
        How many scenes were new.

    Raises
    ------
    FileNotFoundError
        When the folder of a new file does not exist.
    ValueError
        For footprints in another CRS, properties of another kind, masked scenes, a file of other
        tools or of a later version, and a folder that is partitioned in another way. Then nothing
        was written.
    RuntimeError
        When somebody else is appending, or wrote the file in the meantime.
    """
    schema.require_catalog(ds, "append")
    require_kept(ds)
    require_parent(path)
    parent, name = parent_and_name(path)
    inside = parent.inside(name)
    is_folder = bool(inside.names()) or (
        not is_remote(os.fspath(path)) and Path(inside.url).is_dir()
    )
    with _alone(inside if is_folder else parent):
        # Read by whoever is alone, so that what others appended is known.
        stored = _stored(path)
        if stored is None:
            new = _not_among(ds, set())
            if is_folder:
                _add_file(new, inside, None)
            else:
                to_geoparquet(new, path)
            return new.sizes[schema.SCENE]
        if stored.items is not None:
            raise ValueError(
                f"{os.fspath(path)} was not written by xgeocat. Write it as one of ours first: "
                "xgeocat.open_catalog(path).geocat.to_geoparquet(other)."
            )
        new = _not_among(ds, stored.keys())
        whole = metadata.about_all([stored.about, layout.about_of(new)])
        by = _partitioning(stored, inside) if is_folder else None
        if not new.sizes[schema.SCENE]:
            return 0
        if not is_folder:
            _rewrite(new, parent, name, stored, whole)
        elif stored.scenes.files[0].name == CATALOG_FILE:
            _rewrite(new, inside, CATALOG_FILE, stored, whole)
        else:
            _add_file(new, inside, by)
        return new.sizes[schema.SCENE]


@contextmanager
def _alone(folder: Folder) -> Iterator[None]:
    try:
        with folder.locked():
            yield
    except FolderInUseError as error:
        raise FolderInUseError(
            f"Somebody else is at work in {folder.url}, appending or in a run; nothing was "
            "appended. Append again when they are done."
        ) from error


def _stored(path: str | os.PathLike[str]) -> StoredCatalog | None:
    try:
        return stored_catalog(path)
    except FileNotFoundError:
        return None


def _not_among(ds: xr.Dataset, known: set[Key]) -> xr.Dataset:
    """Scenes of a catalog that are not known yet, each once."""
    fresh, seen = [], set(known)
    columns = (layout.texts_of(ds[name]).to_pylist() for name in (schema.COLLECTION, schema.SCENE))
    for i, scene in enumerate(zip(*columns, strict=True)):
        if scene not in seen:
            seen.add(scene)
            fresh.append(i)
    return ds if len(fresh) == ds.sizes[schema.SCENE] else ds.isel({schema.SCENE: fresh})


def _partitioning(stored: StoredCatalog, folder: Folder) -> By | None:
    """By what scenes are dealt out into files, as the folders of the files have it."""
    within = stored.scenes.files[0].folder.absolute.removeprefix(folder.absolute)
    keys = tuple(part.partition("=")[0] for part in within.split("/") if part)
    if keys not in PARTITIONS:
        raise ValueError(
            f"{folder.url} is partitioned by {list(keys)}, not by year and month as by "
            "to_geoparquet(..., by='month'). Append to one of the folders in it."
        )
    return PARTITIONS[keys]


def _add_file(new: xr.Dataset, folder: Folder, by: By | None) -> None:
    """Add a file to a folder, or to those in it, each whole and named by what is in them."""
    keys = zip(*(new[name].values for name in (schema.COLLECTION, schema.SCENE)), strict=True)
    name = f"part-{hashlib.sha256(repr(list(keys)).encode()).hexdigest()[:12]}.parquet"
    with tempfile.TemporaryDirectory(prefix="xgeocat-") as scratch:
        filled, spilled = Path(scratch) / "new", Path(scratch) / "spilled"
        filled.mkdir()
        spilled.mkdir()
        fill(filled if by else filled / name, in_order(new, by, spilled), by, name)
        for path in sorted(filled.rglob("*.parquet")):
            place = path.relative_to(filled).as_posix()
            with folder.new_file(place) as beside:
                # A month may be the first of its year.
                beside.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, beside)


def _rewrite(
    new: xr.Dataset, folder: Folder, name: str, stored: StoredCatalog, whole: Json
) -> None:
    """Write the scenes of a file, and new ones, in its place; `whole` is what it says then."""
    scenes = stored.scenes
    old = len(scenes)
    fresh = footprint_index(new).footprints
    boxes = np.concatenate([scenes.boxes, fresh.boxes], axis=1)
    start = np.concatenate([stored.values(schema.START, range(old)), fresh.start])
    order = np.arange(len(start))
    if len(order) > GROUP:
        geographic = stored.crs.is_geographic
        order = scene_order(boxes, start, GLOBE if geographic else scenes.reach or GLOBE)

    def old_tables() -> Iterator[pa.Table]:
        for first in range(0, old, BATCH):
            table = scenes.read(range(first, min(first + BATCH, old)), scenes.schema.names)
            yield table.replace_schema_metadata(metadata.of_file(stored.about))

    def tables() -> Iterator[pa.Table]:
        for table in chain(old_tables(), in_batches(new)):
            own = metadata.about_table(table.schema)
            yield table.drop_columns(metadata.namesakes(table.schema, own, whole))

    with tempfile.TemporaryDirectory(prefix="xgeocat-") as scratch:
        in_their_order = sorted_tables(tables, order, Path(scratch))
        with folder.new_file(name) as place:
            fill(place, in_their_order, None)
            scenes.require_unchanged()
