"""A folder on a disk."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self
from uuid import uuid4

try:
    import fcntl
except ImportError:
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    import pyarrow as pa
    from zarr.abc.store import Store

#: Held by whoever is at work. It stays, for whoever removed it would let two in.
LOCK_FILE = ".lock"
#: A file that is gone when an attempt was swept away, though whoever fills it makes folders anew.
WHOLE = ".whole"


class FolderInUseError(RuntimeError):
    """Somebody else is at work in a folder."""


@dataclass(frozen=True, slots=True)
class DiskFolder:
    """A folder on a disk; see :class:`xgeocat.storage.folder.Folder`.

    What is written is written beside its place, and moved there whole.

    Parameters
    ----------
    root : Path
        Where it is. It is made when something is written.
    """

    root: Path

    @property
    def url(self) -> str:
        """Its path."""
        return str(self.root)

    @property
    def absolute(self) -> str:
        """Its path from the root of the file system."""
        return str(self.root.resolve())

    def inside(self, name: str) -> Self:
        """A folder in this one."""
        return type(self)(self.root / name)

    def read(self, name: str) -> bytes:
        """Read a file."""
        return (self.root / name).read_bytes()

    def write(self, name: str, content: bytes) -> None:
        """Write a file, so that it is there even if the machine stops."""
        (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        with self.new_file(name) as beside:
            beside.write_bytes(content)

    @contextmanager
    def new_file(self, name: str) -> Iterator[Path]:
        """Give a file to fill, in a folder that is there."""
        path = self.root / name
        beside = _beside(path)
        try:
            yield beside
            with beside.open("rb+") as file:
                os.fsync(file.fileno())
            beside.replace(path)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise

    def open(self, name: str) -> pa.NativeFile:
        """Open a file to read parts of it."""
        import pyarrow as pa

        return pa.OSFile(str(self.root / name))

    def version(self, name: str) -> str:
        """Say which version of a file this is."""
        found = (self.root / name).stat()
        return f"{found.st_ino}-{found.st_size}-{found.st_mtime_ns}"

    def remove(self, name: str) -> None:
        """Remove a file."""
        (self.root / name).unlink(missing_ok=True)

    def remove_all(self, name: str) -> None:
        """Remove a folder with all that is in it."""
        path = self.root / name
        if path.exists():
            shutil.rmtree(path)

    def has(self, name: str) -> bool:
        """Tell whether there is such a file."""
        return (self.root / name).is_file()

    def names(self, inside: str = "") -> list[str]:
        """Names in a folder, without those of files that are being written, and of the lock."""
        folder = self.root / inside
        if not folder.is_dir():
            return []
        return sorted(n for n in os.listdir(folder) if n != LOCK_FILE and not _is_begun(n))

    def sweep(self, folders: Sequence[str]) -> None:
        """Remove what was begun and never finished."""
        for folder in folders:
            for entry in (self.root / folder).glob(".*.tmp"):
                # All of it at once: a worker that lost its client may still be at work on it.
                gone = entry.with_name(f".{uuid4().hex}.tmp")
                with suppress(FileNotFoundError):
                    entry.rename(gone)
                    gone.unlink() if gone.is_file() else shutil.rmtree(gone, ignore_errors=True)

    def sweep_group(self, name: str) -> None:
        """Remove what zarr had begun to write beside the place of a chunk."""
        for partial in (self.root / name).rglob("*.partial"):
            partial.unlink(missing_ok=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep others out. On systems without ``flock`` (Windows) nobody is kept out."""
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / LOCK_FILE).open("a") as file:
            try:
                if fcntl is not None:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise FolderInUseError(self.url) from error
            yield

    @contextmanager
    def new_group(self, name: str) -> Iterator[Store]:
        """Give a Zarr store to fill."""
        from zarr.storage import LocalStore

        with self.new_files(name) as path:
            yield LocalStore(path)

    @contextmanager
    def new_files(self, name: str) -> Iterator[Path]:
        """Give a folder to fill.

        However many attempts there are at one time, each fills its own, and one is kept; but none
        that was swept away in the meantime, for what it wrote since is not all of it.
        """
        path = self.root / name
        beside = _beside(path)
        filled, whole = beside / path.name, beside / WHOLE
        try:
            filled.mkdir(parents=True)
            whole.touch()
            yield filled
            whole.unlink()
            _move(filled, path)
        finally:
            shutil.rmtree(beside, ignore_errors=True)

    def group(self, name: str) -> Store:
        """Zarr store over a folder."""
        from zarr.storage import LocalStore

        return LocalStore(self.root / name)

    def parts(self, name: str) -> Store:
        """Zarr store beside the place of a group that several tasks fill."""
        return self.group(f".{name}.parts")

    def publish_parts(self, name: str) -> None:
        """Move the group to its place, without what killed writers left in it."""
        parts, place = f".{name}.parts", self.root / name
        if not place.exists():
            self.sweep_group(parts)
            _move(self.root / parts, place)

    def forget_parts(self, name: str) -> None:
        """Remove what is left beside the place of a group."""
        self.remove_all(f".{name}.parts")


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}-{uuid4().hex[:8]}.tmp")


def _is_begun(name: str) -> bool:
    return name.startswith(".") and name.endswith(".tmp")


def _move(beside: Path, path: Path) -> None:
    """Move a finished folder to its place, unless another attempt has put it there."""
    try:
        beside.rename(path)
    except OSError:
        # A folder is only ever moved here whole, so what is there is finished.
        if not path.exists():
            raise
