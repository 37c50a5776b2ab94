"""How GDAL reads over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import rasterio
from rasterio.env import getenv, hasenv

#: What fails is asked for again at once, for all of a scene would have to be read again otherwise;
#: but not for long, and a server that says nothing is not waited for. GDAL's own defaults are never
#: and for ever (https://gdal.org/en/stable/user/configoptions.html).
READING = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_HTTP_MAX_RETRY": "3",
    "GDAL_HTTP_RETRY_DELAY": "0.5",
    "GDAL_HTTP_CONNECTTIMEOUT": "20",
    "GDAL_HTTP_LOW_SPEED_LIMIT": "1",
    "GDAL_HTTP_LOW_SPEED_TIME": "30",
}


@contextmanager
def reading() -> Iterator[None]:
    """Read with these options, but for those that are set in a ``rasterio.Env`` around."""
    outer = getenv() if hasenv() else {}
    # What is set around holds here by itself, credentials of S3 included, which may not be named.
    with rasterio.Env(**{name: value for name, value in READING.items() if name not in outer}):
        yield
