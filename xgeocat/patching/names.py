"""Names of things, for records and error messages."""

from __future__ import annotations

from functools import partial


def qualified_name(thing: object) -> str:
    """Importable name of a function, or of the class of an object; a partial with its arguments."""
    if isinstance(thing, partial):
        given = [*map(repr, thing.args), *(f"{k}={v!r}" for k, v in thing.keywords.items())]
        return f"{qualified_name(thing.func)}({', '.join(given)})"
    named = thing if hasattr(thing, "__qualname__") else type(thing)
    return f"{named.__module__}.{getattr(named, '__qualname__', '')}"
