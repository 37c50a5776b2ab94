"""The ledger: what is finished, what failed, under which fingerprint."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from xgeocat.catalog.sources import Json
from xgeocat.storage.disk import FolderInUseError
from xgeocat.storage.folder import Folder

FINGERPRINT_FILE = "run.json"
ITEMS, FAILURES, PARTS, DATA = "items", "failures", "parts", "data"


class RunMismatchError(ValueError):
    """An output folder belongs to another run."""


@dataclass(frozen=True, slots=True)
class Ledger:
    """The records of a run, beside its output.

    Each is one small file that appears whole or not at all: a STAC item of the output in
    ``items/`` for a finished unit, one with the error in ``failures/`` for a failed one. Nothing in
    them depends on when or how fast the run went, so that a resumed run ends in the same bytes.

    Parameters
    ----------
    folder : Folder
        Output folder of the run.
    """

    folder: Folder

    @property
    def data(self) -> Folder:
        """Where the outputs are."""
        return self.folder.inside(DATA)

    def open(self, fingerprint: Mapping[str, object]) -> None:
        """Begin a run, or go on with one of the same fingerprint.

        Raises
        ------
        RunMismatchError
            When the folder holds another run, or something else.
        """
        self.require(fingerprint)
        if not self.is_run():
            self.folder.write(FINGERPRINT_FILE, encoded(json.loads(json.dumps(fingerprint))))
        self.sweep()
        finished = set(self.folder.names(ITEMS))
        for name in finished.intersection(self.folder.names(FAILURES)):
            # Finished since, by a run that was stopped before it could forget the failure.
            self.folder.remove(f"{FAILURES}/{name}")

    def sweep(self) -> None:
        """Remove what a run or a worker that was stopped had begun to write."""
        self.folder.sweep(("", ITEMS, FAILURES, DATA))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other runs out of the folder; a run that dies lets go by itself.

        Raises
        ------
        RunMismatchError
            When another run is at work there.
        """
        try:
            with self.folder.locked():
                yield
        except FolderInUseError as error:
            raise RunMismatchError(
                f"Another run is at work in {self.folder.url}. Wait until it is done, or stop it; "
                "what it has finished by then is kept."
            ) from error

    def require(self, fingerprint: Mapping[str, object]) -> None:
        """Refuse a folder that holds another run, or something else; see :meth:`open`."""
        wanted = json.loads(json.dumps(fingerprint))
        others = self.folder.names()
        if not others:
            return
        if FINGERPRINT_FILE not in others:
            raise RunMismatchError(
                f"{self.folder.url} holds something that is no run of xgeocat ({others[:5]}), "
                "and nothing in it will be touched. Choose an empty or new folder."
            )
        try:
            kept = json.loads(self.folder.read(FINGERPRINT_FILE))
        except ValueError as error:
            raise RunMismatchError(
                f"{FINGERPRINT_FILE} in {self.folder.url} is not the record of a run ({error}), "
                "and nothing in the folder will be touched. Choose an empty or new folder."
            ) from error
        if kept != wanted:
            changed = "\n".join(
                f"  {path}: was {was!r}, is {now!r}" for path, was, now in differences(kept, wanted)
            )
            raise RunMismatchError(
                f"{self.folder.url} holds the output of another run, and two are never mixed. What "
                f"changed:\n{changed}\nRun into another folder, or take back the change."
            )

    def is_run(self) -> bool:
        """Tell whether there is a run at all."""
        return self.folder.has(FINGERPRINT_FILE)

    def unfinished(self, units: Iterable[str]) -> list[str]:
        """Those of some units that are not finished."""
        done = set(self.folder.names(ITEMS))
        return [unit for unit in units if f"{safe_name(unit)}.json" not in done]

    def is_finished(self, unit: str) -> bool:
        """Tell whether a unit is finished."""
        return self.folder.has(_item(unit))

    def finish(self, unit: str, item: Json) -> None:
        """Record a finished unit, and forget that it failed before."""
        self.folder.write(_item(unit), encoded(item))
        self.forget_failure(unit)

    def forget(self, unit: str) -> None:
        """Forget that a unit is finished."""
        self.folder.remove(_item(unit))

    def forget_failure(self, unit: str) -> None:
        """Forget that a unit failed before."""
        self.folder.remove(_failure(unit))

    def has_failed(self, unit: str) -> bool:
        """Tell whether a unit failed before."""
        return self.folder.has(_failure(unit))

    def failure(self, unit: str) -> Json | None:
        """Record of a failed unit; None if it has not failed."""
        if not self.has_failed(unit):
            return None
        found: Json = json.loads(self.folder.read(_failure(unit)))
        return found

    def fail(self, unit: str, item: Json) -> None:
        """Record a failed unit, unless another attempt has finished it."""
        if not self.is_finished(unit):
            # The order of assets is that of the bands that are loaded by default.
            self.folder.write(_failure(unit), json.dumps(item, indent=1).encode())

    def finish_part(self, unit: str, part: str) -> None:
        """Record a finished part of a unit."""
        self.folder.write(f"{PARTS}/{safe_name(unit)}/{part}.json", b"{}")

    def parts(self, unit: str) -> set[str]:
        """Those parts of a unit that are finished."""
        names = self.folder.names(f"{PARTS}/{safe_name(unit)}")
        return {name.removesuffix(".json") for name in names}

    def forget_parts(self, unit: str) -> None:
        """Forget the parts of a unit."""
        self.folder.remove_all(f"{PARTS}/{safe_name(unit)}")

    def items(self, units: Iterable[str]) -> list[Json]:
        """Items of the finished units among `units`, in their order."""
        done = set(self.folder.names(ITEMS))
        wanted = (_item(unit) for unit in units)
        return [json.loads(self.folder.read(n)) for n in wanted if n.rpartition("/")[2] in done]

    def failures(self) -> list[Json]:
        """Return the records of all failed units."""
        failed = sorted(set(self.folder.names(FAILURES)) - set(self.folder.names(ITEMS)))
        return [json.loads(self.folder.read(f"{FAILURES}/{name}")) for name in failed]


def _item(unit: str) -> str:
    return f"{ITEMS}/{safe_name(unit)}.json"


def _failure(unit: str) -> str:
    return f"{FAILURES}/{safe_name(unit)}.json"


def safe_name(name: str) -> str:
    """Turn any id into a file name of its own.

    Letters, digits, ``.``, ``_`` and ``-`` stay. Where anything had to change (a slash, a leading
    dot, great length), part of a hash of the id is added, so that two ids never share a name.
    """
    safe = re.sub(r"[^A-Za-z0-9._+-]", "_", name).lstrip(".")[:120]
    # What looks like a name that was made safe might be another id's: it is made safe as well.
    if safe == name and name and not re.search(r"-[0-9a-f]{12}$", name):
        return name
    return f"{safe or 'scene'}-{hashlib.sha256(name.encode()).hexdigest()[:12]}"


def encoded(content: Json) -> bytes:
    """JSON as it is kept: the same bytes for the same content."""
    return json.dumps(content, indent=1, sort_keys=True).encode()


def differences(was: object, now: object, path: str = "") -> list[tuple[str, object, object]]:
    """List where two JSON values differ: (path, was, is)."""
    if isinstance(was, dict) and isinstance(now, dict):
        keys = sorted({*was, *now})
        return [
            d for k in keys for d in differences(was.get(k), now.get(k), f"{path}.{k}".strip("."))
        ]
    if isinstance(was, list) and isinstance(now, list) and len(was) == len(now):
        return [
            d
            for i, (a, b) in enumerate(zip(was, now, strict=True))
            for d in differences(a, b, f"{path}[{i}]")
        ]
    return [] if was == now else [(path, was, now)]
