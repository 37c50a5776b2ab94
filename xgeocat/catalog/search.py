"""Search: from a STAC API over HTTP to a catalog."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import urlsplit, urlunsplit

import xarray as xr

from xgeocat.catalog.aoi import WGS84
from xgeocat.catalog.interval import parse_interval
from xgeocat.catalog.provenance import place, recorded
from xgeocat.catalog.sources import Json
from xgeocat.catalog.stac import from_items

if TYPE_CHECKING:
    from tqdm import tqdm

    from xgeocat.catalog.harvest import Ask, Page


def search(
    url: str,
    *,
    collections: Sequence[str] | None = None,
    bbox: Sequence[float] | None = None,
    intersects: Mapping[str, object] | None = None,
    datetime: str | None = None,
    query: Mapping[str, object] | None = None,
    max_items: int | None = None,
    out: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> xr.Dataset:
    """Search a STAC API and build a catalog of what it answers.

    Parameters
    ----------
    url : str
        Root of the API.
    collections : sequence of str, optional
        Collections to search.
    bbox : (west, south, east, north), optional
        Degrees, WGS 84; ``west > east`` crosses the antimeridian and is searched as two boxes.
    intersects : mapping, optional
        GeoJSON geometry, instead of `bbox`.
    datetime : str, optional
        As the API wants it: ``"2024-06-01/2024-07-31"``.
    query : mapping, optional
        Query extension, e.g. ``{"eo:cloud_cover": {"lt": 15}}``.
    max_items : int, optional
        Stop after so many items.
    out : path or URL, optional
        Write page after page to this GeoParquet file, in bounded memory, and open it in the end.
        Called again after a failure with the same arguments, the search goes on after the last
        page that came: they are kept beside the file, in ``.NAME.search``, until all are there.
    progress : bool, default: True
        Show how many items have come, of how many.

    Returns
    -------
    Dataset
        The catalog, each item once; empty if nothing matches. Its attrs say under
        ``geocat:provenance`` what was asked, and when.

    Raises
    ------
    ConnectionError
        When the API cannot be reached, or fails on after several retries.
    ValueError
        When it answers with fewer items than it said there are.
    """
    if bbox is not None and (intersects is not None or len(bbox) != 4 or bbox[1] > bbox[3]):
        raise ValueError(
            f"bbox={bbox!r} with intersects={intersects!r:.80}: give one of them; a bbox is (west, "
            "south, east, north), south not above north."
        )
    if datetime is not None:
        parse_interval(datetime)
    asked: Json = {
        "collections": collections,
        "intersects": intersects,
        "datetime": datetime,
        "query": query,
        "max_items": max_items,
    }
    told = {**_as_json({**asked, "bbox": bbox}), "intersects": _outline(intersects)}

    def describe(found: xr.Dataset) -> xr.Dataset:
        return recorded(found, "search", url=_public(url), **told)

    requests = [{**asked, "bbox": box} for box in _boxes(bbox)]
    if out is not None:
        return _harvested(url, requests, out, {**told, "url": _public(url)}, describe, progress)
    found: dict[tuple[object, object], Json] = {}
    with _answers(url, found), _bar(progress) as bar:
        for ask in _searches(url, requests):
            seen = 0
            for items, _, matched in ask(None, 0):
                found |= {(item.get("collection"), item["id"]): item for item in items}
                seen += len(items)
                bar.tell(seen, matched)
    return describe(from_items(list(found.values())[:max_items]))


def _harvested(
    url: str,
    requests: Sequence[Json],
    out: str | os.PathLike[str],
    told: Json,
    describe: Callable[[xr.Dataset], xr.Dataset],
    progress: bool,
) -> xr.Dataset:
    """Search into a file."""
    from pystac_client.exceptions import APIError

    from xgeocat.catalog.harvest import Harvest

    harvest = Harvest(out, told)
    with _answers(url, harvest.state), _bar(progress) as bar:
        searches = _searches(url, requests)
        try:
            harvest.gather(searches, bar.tell)
        except APIError as error:
            status = getattr(error, "status_code", None)
            if harvest.state["next"] is None or status is None or not 400 <= status < 429:
                raise
            harvest.begin_again()
            harvest.gather(searches, bar.tell)
    return harvest.finish(describe)


def _searches(url: str, requests: Sequence[Json]) -> list[Ask]:
    """For each of some requests a function that gives its pages, from a link on."""
    from pystac_client import Client

    from xgeocat.catalog.pages import each_page, patient_io

    io = patient_io()
    client = Client.open(url, stac_io=io)

    def ask(request: Json, start: Json | None, seen: int) -> Iterator[Page]:
        answer = client.search(**request)
        most, matched = request["max_items"], None
        for page, link in each_page(answer, io, start):
            matched = page.get("numberMatched", (page.get("context") or {}).get("matched", matched))
            items = page["features"] if most is None else page["features"][: most - seen]
            seen += len(items)
            last = most is not None and seen >= most
            yield items, None if last else link, matched
            if last:
                return
        if matched is not None and seen < matched:
            raise ValueError(
                f"The API said that {matched} items match and sent {seen}: its paging broke off. "
                "Search again, in smaller pieces of place or time."
            )

    return [partial(ask, request) for request in requests]


@contextmanager
def _answers(url: str, found: Mapping[Any, object]) -> Iterator[None]:
    """Tell of a server that fails, or that is none of STAC."""
    import pystac
    from pystac_client.errors import ClientTypeError
    from pystac_client.exceptions import APIError
    from requests.exceptions import RequestException

    try:
        yield
    except (APIError, RequestException) as error:
        items = found.get("items", len(found))
        raise ConnectionError(
            f"The STAC API at {url} failed after {items} items, retries included: {error}. "
            "Check the address, or try again later."
        ) from error
    except (pystac.STACError, ClientTypeError, ValueError, KeyError, AttributeError) as error:
        raise ValueError(f"{url} does not answer as a STAC API: {error}.") from error


class _Bar:
    """Progress: items that came, of those there are."""

    def __init__(self, bar: tqdm[NoReturn]) -> None:
        self.bar = bar

    def tell(self, items: int, of: int | None) -> None:
        self.bar.total = of
        self.bar.update(items - self.bar.n)


@contextmanager
def _bar(progress: bool) -> Iterator[_Bar]:
    from tqdm import tqdm

    with tqdm(desc="search", unit=" items", disable=not progress) as bar:
        yield _Bar(bar)


def _as_json(asked: Json) -> Json:
    """Copy what was asked, as it went over the wire."""
    copied: Json = json.loads(json.dumps(asked, default=str))
    return copied


def _outline(intersects: object) -> object:
    """Say in short where was searched, in whichever form the client takes it."""
    geometry = getattr(intersects, "__geo_interface__", intersects)
    return place(geometry, WGS84) if isinstance(geometry, Mapping) else geometry


def _public(url: str) -> str:
    """Leave out of an address what may be secret: a user's name and password, a token."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _boxes(bbox: Sequence[float] | None) -> list[Sequence[float] | None]:
    """Split a box at the antimeridian: some servers answer one that crosses it with everything."""
    if bbox is None or bbox[0] <= bbox[2]:
        return [bbox]
    west, south, east, north = bbox
    return [(west, south, 180, north), (-180, south, east, north)]
