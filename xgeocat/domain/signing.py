"""Signatures of URLs, which must be kept nowhere."""

from __future__ import annotations

import logging
import re

#: Loggers that tell of URLs that could not be read.
LOGGERS = ("odc.loader._rio", "rasterio._env", "rasterio._err", "rasterio._io")
QUERY = re.compile(r"(\w+://[^\s'\"?<>]+)\?[^\s'\"<>]*")


def unsigned(text: str) -> str:
    """Leave out the queries of all URLs in a text: that is where signatures are."""
    return QUERY.sub(r"\1?...", text)


def _leave_out(record: logging.LogRecord) -> bool:
    """Leave signatures out of what libraries log."""
    record.msg, record.args = unsigned(record.getMessage()), ()
    return True


for name in LOGGERS:
    logging.getLogger(name).addFilter(_leave_out)
