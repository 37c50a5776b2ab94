"""Fingerprint: all that the outputs of a run depend on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence

from xgeocat.catalog.sources import Json
from xgeocat.domain.geoslice import GeoSlice
from xgeocat.domain.protocol import Domain
from xgeocat.patching.names import qualified_name
from xgeocat.pipeline import Described, Field, describe


def fingerprint(
    pipe: Callable[[Field], Field],
    domain: Domain,
    slices: Sequence[GeoSlice],
) -> Json:
    """Say, in JSON values, all that the outputs of a run depend on."""
    requests = [request_of(piece) for piece in slices]
    about = domain.describe() if isinstance(domain, Described) else {}
    return {
        "pipeline": describe(pipe),
        "domain": {"kind": qualified_name(domain), **about},
        "slices": {"count": len(slices), "sha256": digest(requests)},
    }


def request_of(piece: GeoSlice) -> list[object]:
    """What a slice asks for, in JSON values."""
    about: list[object] = [
        piece.name,
        repr(piece.grid and (piece.grid.shape, tuple(piece.grid.transform), str(piece.grid.crs))),
        None if piece.interval is None else [str(t) for t in piece.interval],
    ]
    # Names of others say which scenes they are made of.
    return about if piece.label is None else [*about, list(piece.scenes)]


def digest(value: object) -> str:
    """Hash of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
