"""Folder: what a run needs of the place that it writes to, on a disk or in an object store."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from xgeocat.storage.disk import DiskFolder

if TYPE_CHECKING:
    import pyarrow as pa
    from zarr.abc.store import Store


class Folder(Protocol):
    """A folder whose files appear whole or not at all. Names in it are paths with ``/``.

    A value: equal wherever it is unpickled, and without anything open.
    """

    @property
    def url(self) -> str:
        """Where it is: a path, or a URL."""
        ...

    @property
    def absolute(self) -> str:
        """Where it is, whatever the working folder."""
        ...

    def inside(self, name: str) -> Folder:
        """A folder in this one."""
        ...

    def read(self, name: str) -> bytes:
        """Read a file; a FileNotFoundError where there is none."""
        ...

    def write(self, name: str, content: bytes) -> None:
        """Write a file, or replace it."""
        ...

    def new_file(self, name: str) -> AbstractContextManager[Path]:
        """Give a file to fill, which is `name` once the context is left without an error."""
        ...

    def open(self, name: str) -> pa.NativeFile:
        """Open a file to read parts of it; a FileNotFoundError where there is none."""
        ...

    def version(self, name: str) -> str:
        """Say which version of a file this is: another one as soon as it is written again."""
        ...

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        ...

    def remove_all(self, name: str) -> None:
        """Remove a folder with all that is in it, if it is there."""
        ...

    def has(self, name: str) -> bool:
        """Tell whether there is such a file."""
        ...

    def names(self, inside: str = "") -> list[str]:
        """Names of the files and folders in a folder, sorted; none where it does not exist."""
        ...

    def sweep(self, folders: Sequence[str]) -> None:
        """Remove what was begun in some folders, and never finished."""
        ...

    def sweep_group(self, name: str) -> None:
        """Remove chunks of a Zarr group that were begun in their place, and never finished."""
        ...

    def locked(self) -> AbstractContextManager[None]:
        """Keep others out; a FolderInUseError where somebody else is in.

        Whoever dies lets go by it.
        """
        ...

    def new_group(self, name: str) -> AbstractContextManager[Store]:
        """Give a Zarr store to fill, which is `name` once the context is left without an error."""
        ...

    def new_files(self, name: str) -> AbstractContextManager[Path]:
        """Give a folder on disk to fill, as :meth:`new_group` does a store."""
        ...

    def group(self, name: str) -> Store:
        """Zarr store over a folder that is here already."""
        ...

    def parts(self, name: str) -> Store:
        """Zarr store that several tasks fill, together and in any order, to become `name`."""
        ...

    def publish_parts(self, name: str) -> None:
        """Make it `name`, if nobody has yet."""
        ...

    def forget_parts(self, name: str) -> None:
        """Remove what is left of it."""
        ...


def folder_at(url: str | os.PathLike[str]) -> Folder:
    """Find the folder at a path or URL.

    Parameters
    ----------
    url : str or path
        A path, ``file://``, or the URL of an object store (``s3://``, ``gs://``, ``az://``),
        whose credentials and endpoint come from the environment (``AWS_ACCESS_KEY_ID``,
        ``AWS_ENDPOINT_URL``, ``AWS_REGION``, ...).

    Raises
    ------
    ImportError
        For an object store without the extra ``xgeocat[s3]``.
    ValueError
        For a URL of another kind.
    """
    text = os.fspath(url)
    if is_remote(text):
        from xgeocat.storage.bucket import Bucket

        return Bucket(text.rstrip("/"))
    return DiskFolder(Path(text.removeprefix("file://")))


def is_remote(url: str) -> bool:
    """Tell whether a URL is of an object store, rather than a path; a ValueError for others."""
    scheme, found, _ = url.partition("://")
    if not found or scheme == "file":
        return False
    if scheme not in ("s3", "gs", "az", "abfs"):
        raise ValueError(
            f"{url!r} is no place to write to; give a path, or a URL that begins with s3://, "
            "gs:// or az://."
        )
    return True


def parent_and_name(url: str | os.PathLike[str]) -> tuple[Folder, str]:
    """Split the URL of a file into its folder and its name; that of a bucket is ``""``."""
    text = os.fspath(url)
    if is_remote(text):
        scheme, _, rest = text.rstrip("/").partition("://")
        inside, _, name = rest.rpartition("/")
        return folder_at(f"{scheme}://{inside or name}"), name if inside else ""
    path = Path(text.removeprefix("file://"))
    return DiskFolder(path.parent), path.name
