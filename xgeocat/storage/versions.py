"""An Icechunk repository in a folder: groups that are committed together, and their history.

https://icechunk.io/en/latest/understanding/parallel/: every task writes into a fork of one session,
which is sent to it and comes back with what it changed; these are merged and committed at once.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Sequence
from typing import TYPE_CHECKING

import zarr
from zarr.core.sync import sync

from xgeocat.storage.disk import DiskFolder
from xgeocat.storage.folder import Folder

if TYPE_CHECKING:
    from icechunk import ForkSession, Repository, Storage
    from zarr.abc.store import Store

BRANCH = "main"
#: What folders that are repositories are called by.
SUFFIX = ".icechunk"


def begin(folder: Folder) -> bytes:
    """Open a session on a repository, which is made where there is none; return a fork of it."""
    repository = _repository(folder)
    session = repository.writable_session(BRANCH)
    if not sync(session.store.exists("zarr.json")):
        # Readers open the root, and find the groups in it.
        zarr.create_group(session.store)
        session.commit("begun")
        session = repository.writable_session(BRANCH)
    return pickle.dumps(session.fork())


def forked(base: bytes) -> ForkSession:
    """A fork of a session of one's own, to write into ``fork.store``."""
    fork: ForkSession = pickle.loads(base)
    return fork


def commit(folder: Folder, forks: Sequence[bytes], message: str) -> None:
    """Commit what was written into forks of the session that was opened last."""
    session = _repository(folder).writable_session(BRANCH)
    session.merge(*(pickle.loads(fork) for fork in forks))
    if session.has_uncommitted_changes:
        session.commit(message)


def newest(folder: Folder) -> Store:
    """Zarr store of what was committed last."""
    return _repository(folder).readonly_session(BRANCH).store


def _repository(folder: Folder) -> Repository:
    try:
        import icechunk
    except ImportError as error:
        raise ImportError(
            "Icechunk repositories need icechunk: pip install 'xgeocat[icechunk]'."
        ) from error
    return icechunk.Repository.open_or_create(_storage(folder))


def _storage(folder: Folder) -> Storage:
    import icechunk

    if isinstance(folder, DiskFolder):
        return icechunk.local_filesystem_storage(folder.absolute)
    scheme, _, rest = folder.url.partition("://")
    bucket, _, prefix = rest.partition("/")
    if scheme != "s3":
        raise ValueError(f"Icechunk repositories are on a disk or in S3, not at {folder.url}.")
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    return icechunk.s3_storage(
        bucket=bucket,
        prefix=prefix,
        from_env=True,
        region=os.environ.get("AWS_REGION"),
        endpoint_url=endpoint,
        allow_http=bool(endpoint and endpoint.startswith("http://")),
        force_path_style=endpoint is not None,
    )
