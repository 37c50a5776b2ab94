"""Open files: Parquet files of scenes, of which one version is read and no other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import pyarrow as pa
import pyarrow.parquet as pq

from xgeocat.storage.folder import Folder


class ChangedFileError(RuntimeError):
    """A file was written again since it was opened."""


@dataclass(frozen=True, slots=True, eq=False)
class ScenesFile:
    """One Parquet file, of which the footer was read.

    Parameters
    ----------
    folder, name
        Where it is.
    version : str
        Which version of it the footer is of.
    footer : pyarrow.parquet.FileMetaData
        What it says of itself.
    hidden : frozenset of str
        Columns that mean something else than in the other files; none of them is read.
    """

    folder: Folder
    name: str
    version: str
    footer: pq.FileMetaData
    hidden: frozenset[str] = frozenset()

    @classmethod
    def at(cls, folder: Folder, name: str) -> Self:
        """Read the footer of a file.

        Raises
        ------
        FileNotFoundError
            When there is none.
        ValueError
            When it is no Parquet file, or not all of one.
        """
        version = folder.version(name)
        try:
            with folder.open(name) as source:
                return cls(folder, name, version, pq.read_metadata(source))
        except (pa.ArrowInvalid, OSError) as error:
            if isinstance(error, FileNotFoundError):
                raise
            raise ValueError(
                f"{folder.url}/{name} is no readable Parquet file: {str(error).rstrip('.')}."
            ) from error

    @property
    def schema(self) -> pa.Schema:
        """Its columns, but the hidden ones."""
        found = self.footer.schema.to_arrow_schema()
        return pa.schema(
            [field for field in found if field.name not in self.hidden], found.metadata
        )

    def require_unchanged(self) -> None:
        """See to it that the footer is still that of the file; a ChangedFileError if not."""
        if self.folder.version(self.name) != self.version:
            raise ChangedFileError(
                f"{self.folder.url}/{self.name} was written again since it was opened; open the "
                "catalog again."
            )

    def read(self, group: int, columns: Sequence[str]) -> pa.Table:
        """Read some columns of one row group.

        Raises
        ------
        ChangedFileError
            When it was written again since.
        ValueError
            When it is damaged.
        """
        return OpenFile(self).read(group, columns)


class OpenFile:
    """A file that is open, for one thread at a time.

    To open one of hundreds of columns takes pyarrow longer than to read one of them.
    """

    def __init__(self, file: ScenesFile) -> None:
        file.require_unchanged()
        self.file = file
        self.parquet = pq.ParquetFile(
            file.folder.open(file.name),
            metadata=file.footer,
            pre_buffer=True,
            page_checksum_verification=True,
        )

    def read(self, group: int, columns: Sequence[str]) -> pa.Table:
        """Read some columns of one row group; see :meth:`ScenesFile.read`."""
        self.file.require_unchanged()
        try:
            return self.parquet.read_row_group(group, list(columns))
        except (pa.ArrowInvalid, OSError) as error:
            raise ValueError(
                f"Row group {group} of {self.file.folder.url}/{self.file.name} cannot be read: "
                f"{error}."
            ) from error
