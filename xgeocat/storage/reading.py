"""Reading what others wrote, Zarr and files: on a disk, in an object store, on a web server."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zarr.abc.store import Store

REMOTE = ("s3://", "gs://", "az://", "abfs://", "http://", "https://")


def zarr_store(href: str) -> Store:
    """Zarr store over a group, to be read only.

    Raises
    ------
    ImportError
        For a URL without the extra ``xgeocat[s3]``.
    """
    from zarr.storage import LocalStore, ObjectStore

    if not href.startswith(REMOTE):
        return LocalStore(href.removeprefix("file://"), read_only=True)
    from xgeocat.storage.bucket import store_at

    return ObjectStore(store_at(href.rstrip("/")), read_only=True)


def readable(href: str) -> str | RemoteFile:
    """A path as it is, a URL as a file that is read in ranges."""
    return RemoteFile(href) if href.startswith(REMOTE) else href.removeprefix("file://")


class RemoteFile(io.RawIOBase):
    """A file in an object store or on a web server, read where it is sought.

    Parameters
    ----------
    url : str
        Where it is. Another process opens it anew.
    """

    def __init__(self, url: str) -> None:
        from xgeocat.storage.bucket import reader_at

        self.url = url
        self._reader = reader_at(url)

    def __reduce__(self) -> tuple[type[RemoteFile], tuple[str]]:
        return type(self), (self.url,)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._reader.seek(offset, whence)

    def tell(self) -> int:
        return self._reader.tell()

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        found = bytes(self._reader.read(len(buffer)))
        buffer[: len(found)] = found
        return len(found)
