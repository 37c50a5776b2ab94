"""Names of things, for records and error messages."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from functools import partial

import numpy as np


def qualified_name(thing: object) -> str:
    """Importable name of a function, or of the class of an object.

    A partial comes with its arguments, and a dataclass with its fields: so two settings of one
    class are told apart, in every process alike.
    """
    if isinstance(thing, partial):
        given = [*map(repr, thing.args), *(f"{k}={v!r}" for k, v in thing.keywords.items())]
        return f"{qualified_name(thing.func)}({', '.join(given)})"
    if is_dataclass(thing) and not isinstance(thing, type):
        found = {f.name: getattr(thing, f.name) for f in fields(thing) if f.compare}
        own = ", ".join(f"{name}={_said(value)}" for name, value in found.items())
        return f"{type(thing).__module__}.{type(thing).__qualname__}({own})"
    named = thing if hasattr(thing, "__qualname__") else type(thing)
    return f"{named.__module__}.{getattr(named, '__qualname__', '')}"


def _said(value: object) -> str:
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(_said, value))}]"
    plain = value.item() if isinstance(value, np.generic) else value
    known = isinstance(plain, (str, int, float, complex, bool, bytes, type(None)))
    return repr(plain) if known else qualified_name(value)
