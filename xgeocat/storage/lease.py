"""A lock in an object store: one object, renewed by whoever holds it.

Nothing lets go of an object when a process dies, and clocks differ. So nobody looks at a clock of
somebody else: who wants in looks twice, as far apart as a holder lets pass between two renewals,
and a bit more. If nothing has changed, the holder is gone, and the object is replaced, if it is
still the same (``If-Match``, https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html).
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from uuid import uuid4

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError

from xgeocat.storage.disk import FolderInUseError

if TYPE_CHECKING:
    from obstore import UpdateVersion
    from obstore.store import ObjectStore

LEASE_FILE = ".lease"
#: Seconds between two renewals; who wants in waits for three times as long.
RENEW = 5.0

log = logging.getLogger(__name__)


@contextmanager
def leased(store: ObjectStore, url: str) -> Iterator[None]:
    """Hold the lease of a folder.

    Raises
    ------
    FolderInUseError
        When somebody else holds it.
    """
    name = uuid4().hex
    try:
        tag = _begun(store, name)
    except AlreadyExistsError:
        tag = _taken_over(store, url, name)
    stop = threading.Event()
    renewing = threading.Thread(target=_renew, args=(store, url, name, tag, stop), daemon=True)
    renewing.start()
    try:
        yield
    finally:
        stop.set()
        renewing.join()
        _let_go(store, name)


def _begun(store: ObjectStore, name: str) -> UpdateVersion:
    return _tag(obstore.put(store, LEASE_FILE, _content(name, 0), mode="create"))


def _taken_over(store: ObjectStore, url: str, name: str) -> UpdateVersion:
    try:
        before = _tag(obstore.head(store, LEASE_FILE))
        log.info("%s is leased; waiting to see whether its holder is alive", url)
        time.sleep(3 * RENEW)
        return _tag(obstore.put(store, LEASE_FILE, _content(name, 0), mode=before))
    except (PreconditionError, FileNotFoundError) as error:
        raise FolderInUseError(url) from error


def _renew(
    store: ObjectStore, url: str, name: str, tag: UpdateVersion, stop: threading.Event
) -> None:
    count = 0
    while not stop.wait(RENEW):
        count += 1
        try:
            tag = _tag(obstore.put(store, LEASE_FILE, _content(name, count), mode=tag))
        except PreconditionError:
            mine = _still_mine(store, name)
            if mine is not None:
                # It was renewed, and the answer was lost.
                tag = mine
                continue
            # This process stood still for so long that somebody took over. Both write the same
            # objects, so nothing is torn; but both do the work.
            log.warning("%s was leased by another run in the meantime", url)
            return
        except BaseError as error:
            log.warning("the lease of %s could not be renewed: %s", url, type(error).__name__)


def _still_mine(store: ObjectStore, name: str) -> UpdateVersion | None:
    try:
        found = obstore.get(store, LEASE_FILE)
        return _tag(found.meta) if json.loads(found.bytes().to_bytes())["holder"] == name else None
    except (FileNotFoundError, BaseError):
        return None


def _let_go(store: ObjectStore, name: str) -> None:
    try:
        kept = json.loads(obstore.get(store, LEASE_FILE).bytes().to_bytes())
        if kept["holder"] == name:
            obstore.delete(store, LEASE_FILE)
    except (FileNotFoundError, BaseError) as error:
        log.warning("the lease could not be given back: %s", type(error).__name__)


def _content(name: str, count: int) -> bytes:
    return json.dumps({"holder": name, "renewed": count}).encode()


def _tag(answer: obstore.PutResult | obstore.ObjectMeta) -> UpdateVersion:
    """What tells this version of an object from others; which of both counts is up to the store."""
    tag: UpdateVersion = {}
    for key in ("e_tag", "version"):
        if answer[key] is not None:
            tag[key] = answer[key]
    if not tag:
        raise OSError("This object store gives no ETags, so that runs cannot keep each other out.")
    return tag
