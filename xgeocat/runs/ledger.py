"""The ledger: what is finished, what failed, under which fingerprint."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from xgeocat.catalog.sources import Json

try:
    import fcntl
except ImportError:
    fcntl = None  # type: ignore[assignment]

FINGERPRINT_FILE = "run.json"
#: Held while a run is at work. It stays, for whoever removed it would let two runs in.
LOCK_FILE = ".lock"
ITEMS, FAILURES, DATA = "items", "failures", "data"


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
    root : Path
        Output folder of the run.
    """

    root: Path

    def open(self, fingerprint: Mapping[str, object]) -> None:
        """Begin a run, or go on with one of the same fingerprint.

        Raises
        ------
        RunMismatchError
            When the folder holds another run, or something else.
        """
        self._sweep()
        self.require(fingerprint)
        if not self.is_run():
            self.root.mkdir(parents=True, exist_ok=True)
            write_json(self.root / FINGERPRINT_FILE, json.loads(json.dumps(fingerprint)))
        for folder in (ITEMS, FAILURES, DATA):
            (self.root / folder).mkdir(exist_ok=True)
        for failure in (self.root / FAILURES).glob("*.json"):
            # Finished since, by a run that was stopped before it could forget the failure.
            if (self.root / ITEMS / failure.name).exists():
                failure.unlink()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other runs out of the folder; a run that dies lets go by itself.

        On systems without ``flock`` (Windows) nobody is kept out.

        Raises
        ------
        RunMismatchError
            When another run is at work there.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / LOCK_FILE).open("a") as file:
            try:
                if fcntl is not None:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise RunMismatchError(
                    f"Another run is at work in {self.root}. Wait until it is done, or stop it; "
                    "what it has finished by then is kept."
                ) from error
            yield

    def _sweep(self) -> None:
        """Remove what a run that was stopped had begun to write."""
        begun = [*self.root.glob(f".{FINGERPRINT_FILE}.*.tmp")]
        if self.is_run():
            for folder in (self.root, self.root / ITEMS, self.root / FAILURES, self.root / DATA):
                begun += folder.glob(".*.tmp")
        for entry in set(begun):
            if entry.is_dir():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink()

    def require(self, fingerprint: Mapping[str, object]) -> None:
        """Refuse a folder that holds another run, or something else; see :meth:`open`."""
        wanted = json.loads(json.dumps(fingerprint))
        file = self.root / FINGERPRINT_FILE
        if not self._others():
            return
        if not self.is_run():
            raise RunMismatchError(
                f"{self.root} holds something that is no run of xgeocat ({self._others()[:5]}), "
                "and nothing in it will be touched. Choose an empty or new folder."
            )
        try:
            kept = json.loads(file.read_text())
        except ValueError as error:
            raise RunMismatchError(
                f"{file} is not the record of a run ({error}), and nothing in the folder will be "
                "touched. Choose an empty or new folder."
            ) from error
        if kept != wanted:
            changed = "\n".join(
                f"  {path}: was {was!r}, is {now!r}" for path, was, now in differences(kept, wanted)
            )
            raise RunMismatchError(
                f"{self.root} holds the output of another run, and two are never mixed. What "
                f"changed:\n{changed}\nRun into another folder, or take back the change."
            )

    def _others(self) -> list[str]:
        """What is in the folder, beside the lock."""
        entries = self.root.iterdir() if self.root.exists() else ()
        return sorted(entry.name for entry in entries if entry.name != LOCK_FILE)

    def is_run(self) -> bool:
        """Tell whether there is a run at all."""
        return (self.root / FINGERPRINT_FILE).exists()

    def data_path(self, unit: str, suffix: str) -> Path:
        """Where the output of a unit goes."""
        return self.root / DATA / f"{safe_name(unit)}{suffix}"

    def unfinished(self, units: Iterable[str]) -> list[str]:
        """Those of some units that are not finished."""
        done = {file.name for file in (self.root / ITEMS).glob("*.json")}
        return [unit for unit in units if self._item(unit).name not in done]

    def finish(self, unit: str, item: Json) -> None:
        """Record a finished unit, and forget that it failed before."""
        write_json(self._item(unit), item)
        self._failure(unit).unlink(missing_ok=True)

    def has_failed(self, unit: str) -> bool:
        """Tell whether a unit failed before."""
        return self._failure(unit).exists()

    def fail(self, unit: str, item: Json) -> None:
        """Record a failed unit."""
        write_json(self._failure(unit), item)

    def items(self, units: Iterable[str]) -> list[Json]:
        """Items of the finished units among `units`, in their order."""
        return [json.loads(f.read_text()) for u in units if (f := self._item(u)).exists()]

    def failures(self) -> list[Json]:
        """Return the records of all failed units."""
        failed = sorted((self.root / FAILURES).glob("*.json"))
        return [
            json.loads(f.read_text()) for f in failed if not (self.root / ITEMS / f.name).exists()
        ]

    def _item(self, unit: str) -> Path:
        return self.root / ITEMS / f"{safe_name(unit)}.json"

    def _failure(self, unit: str) -> Path:
        return self.root / FAILURES / f"{safe_name(unit)}.json"


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


def write_json(path: Path, content: Json) -> None:
    """Write a JSON file that appears whole or not at all, even if the machine stops."""
    beside = path.with_name(f".{path.name}.{os.getpid()}-{uuid4().hex[:8]}.tmp")
    with beside.open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=1, sort_keys=True)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


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
