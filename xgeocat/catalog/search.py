"""Search: from a STAC API over HTTP to a catalog."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from urllib.parse import urlsplit, urlunsplit

import xarray as xr

from xgeocat.catalog.aoi import WGS84
from xgeocat.catalog.interval import parse_interval
from xgeocat.catalog.provenance import place, recorded
from xgeocat.catalog.sources import Json
from xgeocat.catalog.stac import from_items

#: Seconds without an answer after which a request is given up, and tried again.
TIMEOUT = 30
#: What passes by itself: rate limits, and gateways whose server is busy.
RETRY_STATUS = (429, 500, 502, 503, 504)


def search(
    url: str,
    *,
    collections: Sequence[str] | None = None,
    bbox: Sequence[float] | None = None,
    intersects: Mapping[str, object] | None = None,
    datetime: str | None = None,
    query: Mapping[str, object] | None = None,
    max_items: int | None = None,
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
    import pystac
    import pystac_client
    import pystac_client.errors
    from pystac_client.exceptions import APIError
    from pystac_client.stac_api_io import StacApiIO
    from requests.exceptions import RequestException
    from urllib3 import Retry

    retry = Retry(total=6, backoff_factor=0.5, status_forcelist=RETRY_STATUS, allowed_methods=None)
    if bbox is not None and (intersects is not None or len(bbox) != 4 or bbox[1] > bbox[3]):
        raise ValueError(
            f"bbox={bbox!r} with intersects={intersects!r:.80}: give one of them; a bbox is (west, "
            "south, east, north), south not above north."
        )
    if datetime is not None:
        parse_interval(datetime)
    found: dict[tuple[object, object], Json] = {}
    try:
        client = pystac_client.Client.open(
            url, stac_io=StacApiIO(max_retries=retry, timeout=TIMEOUT)
        )
        for box in _boxes(bbox):
            # pystac-client takes any sequence and mapping; its annotations know only list and dict.
            request: Json = {
                "collections": collections,
                "bbox": box,
                "intersects": intersects,
                "datetime": datetime,
                "query": query,
                "max_items": max_items,
            }
            answer = client.search(**request)
            for item in _all_items(answer.pages_as_dicts(), max_items, progress):
                found[item.get("collection"), item["id"]] = item
    except (
        pystac.STACError,
        pystac_client.errors.ClientTypeError,
        ValueError,
        KeyError,
        AttributeError,
    ) as error:
        raise ValueError(f"{url} does not answer as a STAC API: {error}.") from error
    except (APIError, RequestException) as error:
        raise ConnectionError(
            f"The STAC API at {url} failed after {len(found)} items, retries included: {error}. "
            "Check the address, or try again later."
        ) from error
    catalog = from_items(list(found.values())[:max_items])
    asked = {
        "collections": collections,
        "bbox": bbox,
        "datetime": datetime,
        "query": query,
        "max_items": max_items,
    }
    return recorded(
        catalog, "search", url=_public(url), intersects=_outline(intersects), **_as_json(asked)
    )


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


def _all_items(pages: Iterator[Json], max_items: int | None, progress: bool) -> Iterator[Json]:
    from tqdm import tqdm

    seen, matched = 0, None
    with tqdm(desc="search", unit=" items", disable=not progress) as bar:
        for page in pages:
            matched = page.get("numberMatched", (page.get("context") or {}).get("matched", matched))
            bar.total = (
                min(n for n in (matched, max_items) if n is not None)
                if (matched or max_items)
                else None
            )
            for item in page["features"]:
                seen += 1
                bar.update()
                yield item
    if matched is not None and seen < min(matched, max_items or matched):
        raise ValueError(
            f"The API said that {matched} items match and sent {seen}: its paging broke off. "
            "Search again, in smaller pieces of place or time."
        )
