"""A folder in an object store: Amazon S3 and all that speak like it, Google's, Azure's."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Self

from xgeocat.storage.lease import LEASE_FILE, leased

try:
    import obstore
    from obstore.exceptions import BaseError
    from obstore.store import from_url
except ImportError as error:
    raise ImportError(
        "Object stores (s3://, gs://, az://) need obstore: pip install 'xgeocat[s3]'."
    ) from error

if TYPE_CHECKING:
    import pyarrow as pa
    from obstore.store import ClientConfig, ObjectStore
    from typing_extensions import Buffer
    from zarr.abc.store import Store

#: How long a request is tried again by itself; a run tries whole scenes again after that.
TRYING = timedelta(seconds=30)


class StorageError(OSError):
    """An object store does not do what it was asked for."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """A folder in an object store; see :class:`xgeocat.storage.folder.Folder`.

    Objects appear whole, but nothing can be moved: groups are filled in their place. A group that
    was begun and not finished is filled again by the same objects, so it needs no sweeping; that
    it is whole is what the record of its unit says, which is written last.

    Parameters
    ----------
    url : str
        ``s3://bucket/prefix``.
    """

    url: str

    @property
    def absolute(self) -> str:
        """Its URL."""
        return self.url

    def inside(self, name: str) -> Self:
        """A folder in this one."""
        return type(self)(f"{self.url}/{name}") if name else self

    @property
    def store(self) -> ObjectStore:
        """What is asked."""
        return store_at(self.url)

    def read(self, name: str) -> bytes:
        """Read an object."""
        with _told(self.url):
            return obstore.get(self.store, name).bytes().to_bytes()

    def write(self, name: str, content: bytes) -> None:
        """Write an object."""
        with _told(self.url):
            obstore.put(self.store, name, content)

    @contextmanager
    def new_file(self, name: str) -> Iterator[Path]:
        """Give a file on disk to fill; it is uploaded."""
        with tempfile.TemporaryDirectory(prefix="xgeocat-") as temporary:
            path = Path(temporary) / name.rpartition("/")[2]
            yield path
            with _told(self.url):
                obstore.put(self.store, name, path)

    def open(self, name: str) -> pa.NativeFile:
        """Open an object to read parts of it."""
        import pyarrow as pa

        with _told(self.url):
            return pa.PythonFile(_Object(self.store, self.url, name), mode="r")

    def version(self, name: str) -> str:
        """Say which version of an object this is."""
        with _told(self.url):
            found = obstore.head(self.store, name)
        return found["e_tag"] or f"{found['size']}-{found['last_modified'].isoformat()}"

    def remove(self, name: str) -> None:
        """Remove an object."""
        # Some object stores say that there is none.
        with suppress(FileNotFoundError), _told(self.url):
            obstore.delete(self.store, name)

    def remove_all(self, name: str) -> None:
        """Remove all objects below a prefix."""
        with _told(self.url):
            for page in obstore.list(self.store, name):
                with suppress(FileNotFoundError):
                    obstore.delete(self.store, [found["path"] for found in page])

    def has(self, name: str) -> bool:
        """Tell whether there is such an object."""
        try:
            with _told(self.url):
                obstore.head(self.store, name)
        except FileNotFoundError:
            return False
        return True

    def names(self, inside: str = "") -> list[str]:
        """Names below a prefix, without that of the lease."""
        with _told(self.url):
            found = obstore.list_with_delimiter(self.store, inside or None)
        paths = [*found["common_prefixes"], *(entry["path"] for entry in found["objects"])]
        names = {path.rpartition("/")[2] for path in paths}
        return sorted(names - {LEASE_FILE})

    def sweep(self, folders: Sequence[str]) -> None:
        """Do nothing, as nothing is written beside its place."""

    def sweep_group(self, name: str) -> None:
        """Do nothing, as objects appear whole."""

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep others out, by a lease that is renewed as long as this process lives."""
        with ExitStack() as inside:
            with _told(self.url):
                inside.enter_context(leased(self.store, self.url))
            yield

    @contextmanager
    def new_group(self, name: str) -> Iterator[Store]:
        """Give a Zarr store to fill, in its place."""
        yield self.group(name)

    @contextmanager
    def new_files(self, name: str) -> Iterator[Path]:
        """Give a folder on disk to fill; its files are uploaded."""
        with tempfile.TemporaryDirectory(prefix="xgeocat-") as temporary:
            root = Path(temporary)
            yield root
            with _told(self.url):
                for path in sorted(p for p in root.rglob("*") if p.is_file()):
                    obstore.put(self.store, f"{name}/{path.relative_to(root).as_posix()}", path)

    def group(self, name: str) -> Store:
        """Zarr store over a prefix."""
        from zarr.storage import ObjectStore

        return ObjectStore(store_at(f"{self.url}/{name}"))

    def parts(self, name: str) -> Store:
        """Zarr store over a group that several tasks fill, in its place."""
        return self.group(name)

    def publish_parts(self, name: str) -> None:
        """Do nothing: the group is in its place."""

    def forget_parts(self, name: str) -> None:
        """Do nothing: there is nothing beside the place of the group."""


class _Object(io.RawIOBase):
    """An object as a file, of which exactly what is asked for is read.

    The reader of obstore reads a megabyte at least, and cannot tell whether it is closed, which
    pyarrow asks for.
    """

    def __init__(self, store: ObjectStore, url: str, name: str) -> None:
        self._store, self._url, self._name = store, url, name
        self._size = obstore.head(store, name)["size"]
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def readinto(self, buffer: Buffer) -> int:
        into = memoryview(buffer).cast("B")
        length = max(min(len(into), self._size - self._at), 0)
        if length:
            with _told(self._url):
                found = obstore.get_range(self._store, self._name, start=self._at, length=length)
            into[:length] = memoryview(found)
        self._at += length
        return length


@lru_cache(maxsize=64)
def store_at(url: str) -> ObjectStore:
    """Object store, or web server, at a URL."""
    plain: ClientConfig | None = {"allow_http": True} if url.startswith("http://") else None
    return from_url(url, client_options=plain, retry_config={"retry_timeout": TRYING})


def reader_at(url: str) -> obstore.ReadableFile:
    """What reads ranges of an object."""
    parent, _, name = url.rpartition("/")
    return obstore.open_reader(store_at(parent), name)


@contextmanager
def _told(url: str) -> Iterator[None]:
    """Tell of errors as of those of a disk."""
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{url}: {str(error).splitlines()[0]}") from None
    except BaseError as error:
        first = str(error).splitlines()[0]
        raise StorageError(f"{url}: {type(error).__name__}: {first}") from error
