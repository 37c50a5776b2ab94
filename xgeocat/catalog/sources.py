"""Where STAC items come from: objects in memory, files, and a STAC API."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pystac

#: A STAC item or a part of one: arbitrary JSON by its nature.
Json = dict[str, Any]
#: What an href begins with that needs nothing to stand in; for `re` and Arrow alike.
URL = "^[a-zA-Z][a-zA-Z0-9+.-]*://"
Source = (
    str
    | os.PathLike[str]
    | pystac.Item
    | pystac.ItemCollection
    | Mapping[str, object]
    | Iterable[pystac.Item | Mapping[str, object]]
)


def read_items(source: Source) -> Iterator[Json]:
    """Yield the items of a source as plain dicts with absolute hrefs.

    Raises
    ------
    ValueError
        For a file or mapping that holds no STAC items.
    TypeError
        For an element that is no item.
    """
    if isinstance(source, (str, os.PathLike)):
        yield from _read_file(Path(source))
    elif isinstance(source, pystac.Item):
        yield _from_pystac(source)
    elif isinstance(source, Mapping):
        yield from _read_json(dict(source), None)
    else:
        for item in source:
            if isinstance(item, pystac.Item):
                yield _from_pystac(item)
            elif isinstance(item, Mapping):
                yield from _read_json(dict(item), None)
            else:
                raise TypeError(
                    f"{type(item).__name__} is no STAC item: {item!r:.80}. Give pystac.Item "
                    "objects or dicts."
                )


def _from_pystac(item: pystac.Item) -> Json:
    # Without this, pystac would look for the root catalog, over the network if need be.
    found: Json = item.to_dict(include_self_link=True, transform_hrefs=False)
    return absolute(found, item.get_self_href())


def _read_file(path: Path) -> Iterator[Json]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path} cannot be read as STAC JSON: {error}. A GeoParquet file "
            "is opened with open_catalog."
        ) from error
    base = str(path.resolve())
    try:
        found = json.loads(text)
    except json.JSONDecodeError as whole:
        # Not one JSON value: newline-delimited items, one on each line.
        for number, line in enumerate(text.splitlines(), start=1):
            if line.strip():
                try:
                    item = json.loads(line)
                except json.JSONDecodeError as error:
                    raise ValueError(
                        f"{path} is neither JSON ({whole}) nor one JSON value on each line (line "
                        f"{number}: {error})."
                    ) from error
                yield from _read_json(item, base)
        if not text.strip():
            raise ValueError(f"{path} is empty: it holds no STAC items.") from whole
        return
    yield from _read_json(found, base)


def _read_json(found: Json, base: str | None) -> Iterator[Json]:
    kind = found.get("type") if isinstance(found, dict) else None
    if kind == "FeatureCollection":
        for item in found.get("features", []):
            yield absolute(item, base)
    elif kind == "Feature" and "assets" in found:
        yield absolute(found, base)
    elif kind in ("Catalog", "Collection"):
        if base is None:
            raise ValueError(
                f"A {kind} is walked from its file; give its path instead of its content."
            )
        yield from map(_from_pystac, pystac.read_file(base).get_items(recursive=True))  # type: ignore[attr-defined]
    else:
        keys = sorted(found)[:8] if isinstance(found, dict) else type(found).__name__
        raise ValueError(
            f"{base or 'This'} is no STAC item, ItemCollection, Catalog or Collection: it has "
            f"type={kind!r} and {keys}."
        )


def absolute(item: Json, base: str | None) -> Json:
    """Resolve relative asset hrefs against the file that the item came from."""
    if base is None:
        return item
    assets = {
        key: {**asset, "href": absolute_href(asset["href"], base)}
        if isinstance(asset.get("href"), str)
        else asset
        for key, asset in item.get("assets", {}).items()
    }
    return {**item, "assets": assets}


def absolute_href(href: str, base: str) -> str:
    """Resolve an href against the file that it stands in."""
    if re.match(URL, href):
        return href
    # On a web server, what begins with a slash is on that server; elsewhere it is a path.
    if href.startswith("/") and not base.startswith(("http://", "https://")):
        return href
    return pystac.utils.make_absolute_href(href, base)
