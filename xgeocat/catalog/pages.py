"""Pages: what a STAC API answers to a search, page by page, however it misbehaves."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import requests
from pystac import Link
from pystac_client import ItemSearch
from pystac_client.exceptions import APIError
from pystac_client.stac_api_io import StacApiIO
from urllib3 import Retry
from urllib3.exceptions import HTTPError, NewConnectionError

if TYPE_CHECKING:
    from xgeocat.catalog.sources import Json

LOG = logging.getLogger(__name__)
#: Seconds without an answer after which a request is given up, and tried again.
TIMEOUT = 30
#: What passes by itself: rate limits, and gateways whose server is busy.
RETRY_STATUS = (429, 500, 502, 503, 504)
#: Seconds between attempts at a page that broke off or was no JSON.
PAUSES = (0.5, 1, 2)
#: A page that is longer, in seconds or bytes, is not going to end: they are some megabytes.
LONGEST, LARGEST = 300, 2**30
#: So many pages in a row without a single item, and there will be none.
EMPTY = 100
Answer = TypeVar("Answer")


class PagingError(ValueError):
    """A server's pages lead nowhere."""


def patient_io() -> StacApiIO:
    """Make requests that are tried again where that may help, and given up where it does not.

    An address that does not exist, and a server that is not there, are told at once.
    """
    retry = Retry(
        total=6, connect=0, backoff_factor=0.5, status_forcelist=RETRY_STATUS, allowed_methods=None
    )
    io = StacApiIO(max_retries=retry, timeout=TIMEOUT)
    io.session.hooks["response"].append(_read_within_bounds)
    return io


def each_page(
    search: ItemSearch, io: StacApiIO, start: Json | None
) -> Iterator[tuple[Json, Json | None]]:
    """Yield the pages of a search, each with the link to the next one.

    Parameters
    ----------
    search : pystac_client.ItemSearch
        What is asked.
    io : StacApiIO
        How; see :func:`patient_io`.
    start : dict or None
        The link to go on from; None begins at the first page.

    Raises
    ------
    PagingError
        When the links go round in circles, or pages come without end and without items.
    APIError
        When a page cannot be had, after some attempts.
    """
    parameters = search.get_parameters()
    followed, empty, before = {json.dumps(start, sort_keys=True)}, 0, None

    def first() -> Json:
        found: Json = io.read_json(search.url, method=search.method, parameters=parameters)
        return found

    def follow(to: Json) -> Json:
        found: Json = io.read_json(Link.from_dict(to), parameters=parameters)
        return found

    page = again(first if start is None else partial(follow, start))
    while True:
        ids = [(item.get("collection"), item.get("id")) for item in page["features"]]
        link = next((one for one in page.get("links", ()) if one.get("rel") == "next"), None)
        text = json.dumps(link, sort_keys=True)
        empty = 0 if ids else empty + 1
        if link is not None and (text in followed or (ids and ids == before) or empty > EMPTY):
            raise PagingError(
                "its paging goes round in circles: the next page is one that came already, or has "
                "nothing in it time after time"
            )
        yield page, link
        if link is None:
            return
        followed.add(text)
        before, page = ids, again(partial(follow, link))


def again(ask: Callable[[], Answer]) -> Answer:
    """Ask again for what was cut short on the way, or whose server was gone for a moment."""
    for pause in PAUSES:
        try:
            return ask()
        except (APIError, json.JSONDecodeError) as error:
            if not _was_cut(error):
                raise
            LOG.warning("a page of the search is asked for again: %s", error)
            time.sleep(pause)
    return ask()


def _was_cut(error: Exception) -> bool:
    if isinstance(error, json.JSONDecodeError):
        return True
    # What busy servers say, and silence, was waited for already.
    cause = error.__context__
    if isinstance(cause, requests.ConnectionError):
        reason = getattr(cause.args[0], "reason", None) if cause.args else None
        return isinstance(reason, NewConnectionError)
    return isinstance(cause, HTTPError | requests.exceptions.ChunkedEncodingError)


class EndlessError(requests.RequestException):
    """An answer that does not end."""


def _read_within_bounds(answer: requests.Response, **options: object) -> requests.Response:
    """Read a body as it comes, so that one that drips or never ends is given up."""
    until, read = time.monotonic() + LONGEST, bytearray()
    while chunk := answer.raw.read1(2**16, decode_content=True):
        read += chunk
        if len(read) > LARGEST or time.monotonic() > until:
            answer.close()
            raise EndlessError(
                f"the answer does not end: {len(read)} bytes came, of at most {LARGEST}, in at "
                f"most {LONGEST} s"
            )
    # What requests itself keeps of a body that it has read.
    answer._content, answer._content_consumed = bytes(read), True
    return answer
