"""Signatures of URLs, which must be kept nowhere."""

from __future__ import annotations

import logging
import re

from xgeocat.catalog.sources import Json

#: Loggers that tell of URLs that could not be read.
LOGGERS = ("odc.loader._rio", "rasterio._env", "rasterio._err", "rasterio._io")
QUERY = re.compile(r"(\w+://[^\s'\"?<>]+)\?[^\s'\"<>]*")


def unsigned(text: str) -> str:
    """Leave out the queries of all URLs in a text: that is where signatures are."""
    return QUERY.sub(r"\1?...", text)


def without_queries(content: Json) -> Json:
    """JSON values without the queries of all URLs in them, which can then be signed anew."""
    return {key: _without_queries(value) for key, value in content.items()}


def _without_queries(value: object) -> object:
    if isinstance(value, str):
        return QUERY.sub(r"\1", value)
    if isinstance(value, dict):
        return without_queries(value)
    return [_without_queries(one) for one in value] if isinstance(value, list) else value


def _leave_out(record: logging.LogRecord) -> bool:
    """Leave signatures out of what libraries log."""
    record.msg, record.args = unsigned(record.getMessage()), ()
    return True


for name in LOGGERS:
    logging.getLogger(name).addFilter(_leave_out)
