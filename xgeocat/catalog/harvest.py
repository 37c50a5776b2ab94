"""Harvest: the pages of a search straight into a file, and on after a failure."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import xarray as xr

from xgeocat.catalog import layout, schema
from xgeocat.catalog.lazy import lazy_dataset
from xgeocat.catalog.opening import open_catalog, stored_catalog
from xgeocat.catalog.parquet import require_parent, to_geoparquet
from xgeocat.catalog.sources import Json
from xgeocat.catalog.stac import from_items
from xgeocat.storage.folder import Folder, parent_and_name

LOG = logging.getLogger(__name__)
REQUEST, STATE, PAGES = "request.json", "state.json", "pages"
BEGIN: Json = {"search": 0, "next": None, "seen": 0, "pages": 0, "items": 0, "matched": None}
#: Items, the link to the next page, and how many items match in all, where the server says it.
Page: TypeAlias = "tuple[list[Json], Json | None, int | None]"
#: Gives the pages of a search, from a link on, before which so many items came.
Ask: TypeAlias = "Callable[[Json | None, int], Iterator[Page]]"


class Harvest:
    """Pages that came so far, beside the file that they are for.

    Parameters
    ----------
    out : path or URL
        The file. Pages are in a hidden folder beside it until all are there.
    request : dict
        What is asked, in JSON values without secrets.

    Raises
    ------
    FileExistsError
        When the file is there.
    ValueError
        When pages of another request are beside it.
    """

    def __init__(self, out: str | os.PathLike[str], request: Json) -> None:
        require_parent(out)
        self.out = out
        self.folder, name = parent_and_name(out)
        if self.folder.has(name) or self.folder.names(name):
            raise FileExistsError(
                f"{os.fspath(out)} is there already. Search into another file; "
                "xgeocat.append(ds, path) adds what is new to this one."
            )
        self.name = f".{name}.search"
        self.spool: Folder = self.folder.inside(self.name)
        if self.spool.has(REQUEST):
            kept = json.loads(self.spool.read(REQUEST))
            if kept != request:
                differing = sorted(k for k in {*kept, *request} if kept.get(k) != request.get(k))
                raise ValueError(
                    f"{self.spool.url} holds pages of another search: {differing} differ, e.g. "
                    f"{differing[0]} was {kept.get(differing[0])!r} and is "
                    f"{request.get(differing[0])!r}. Ask the same to go on, or remove the folder."
                )
        self.spool.write(REQUEST, json.dumps(request).encode())
        self.state: Json = (
            json.loads(self.spool.read(STATE)) if self.spool.has(STATE) else dict(BEGIN)
        )

    def gather(self, searches: Sequence[Ask], tell: Callable[[int, int | None], None]) -> None:
        """Write page after page, from where an earlier attempt was stopped.

        Parameters
        ----------
        searches : sequence of callable
            One after the other; each gives its pages.
        tell : callable
            Is told how many items are safe, and how many there are in all.

        Raises
        ------
        ValueError
            When a server sends fewer items than it said. The next attempt asks for all of them.
        """
        tell(self.state["items"], self.state["matched"])
        for number in range(self.state["search"], len(searches)):
            try:
                for page in searches[number](self.state["next"], self.state["seen"]):
                    self._keep(number, page)
                    tell(self.state["items"], self.state["matched"])
            except ValueError:
                self._note(search=0, next=None, seen=0)
                raise

    def _keep(self, number: int, page: Page) -> None:
        """Write a page, then that it is there and what comes next."""
        items, link, matched = page
        with self.spool.new_file(f"{PAGES}/{self.state['pages']:08d}.parquet") as path:
            path.parent.mkdir(parents=True, exist_ok=True)
            table = layout.table_of(from_items(items))
            pq.write_table(table, path, compression="zstd", write_page_checksum=True)
        self._note(
            search=number + (link is None),
            next=link,
            seen=0 if link is None else self.state["seen"] + len(items),
            pages=self.state["pages"] + 1,
            items=self.state["items"] + len(items),
            matched=matched,
        )

    def _note(self, **state: object) -> None:
        self.state |= state
        self.spool.write(STATE, json.dumps(self.state).encode())

    def begin_again(self) -> None:
        """Ask from the first page on, without losing the pages that are there."""
        LOG.warning(
            "the server does not go on from page %d; its pages are asked for again from the first "
            "one. Items that come twice are kept once.",
            self.state["pages"],
        )
        self._note(search=0, next=None, seen=0)

    def finish(self, describe: Callable[[xr.Dataset], xr.Dataset]) -> xr.Dataset:
        """Write all scenes into the file, each once and in order, and open it."""
        if self.state["pages"]:
            stored = stored_catalog(f"{self.spool.url}/{PAGES}")
            keys = stored.scenes.read(range(len(stored.scenes)), ["collection", "id"]).to_pandas()
            first = np.flatnonzero(~pd.MultiIndex.from_frame(keys).duplicated())
            found = lazy_dataset(stored)
            if len(first) < len(keys):
                found = found.isel({schema.SCENE: first})
        else:
            found = from_items([])
        to_geoparquet(describe(found), self.out)
        self.folder.remove_all(self.name)
        return open_catalog(self.out)
