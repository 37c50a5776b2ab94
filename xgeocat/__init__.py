"""Run a model over thousands of satellite scenes without leaving xarray."""

from importlib.metadata import version

from xgeocat import accessor as _accessor  # noqa: F401 - registers .geocat
from xgeocat.catalog.append import append
from xgeocat.catalog.files import from_files
from xgeocat.catalog.opening import open_catalog
from xgeocat.catalog.parquet import to_geoparquet
from xgeocat.catalog.query import query
from xgeocat.catalog.search import search
from xgeocat.catalog.stac import from_items, to_items
from xgeocat.domain.catalog import CatalogDomain
from xgeocat.domain.geoslice import GeoSlice
from xgeocat.domain.protocol import Domain
from xgeocat.domain.raster import RasterDomain
from xgeocat.patching import models, samplers
from xgeocat.patching.apply import map_patches
from xgeocat.patching.explain import explain
from xgeocat.patching.patch import patch
from xgeocat.patching.pieces import Reducer
from xgeocat.patching.stitch import stitch
from xgeocat.pipeline import ApplyToChips, GridSampler, PatchSampler, Sequential, Stitch
from xgeocat.runs import sinks
from xgeocat.runs.mosaic import mosaic
from xgeocat.runs.run import failures, run

__version__ = version("xgeocat")

__all__ = [
    "ApplyToChips",
    "CatalogDomain",
    "Domain",
    "GeoSlice",
    "GridSampler",
    "PatchSampler",
    "RasterDomain",
    "Reducer",
    "Sequential",
    "Stitch",
    "append",
    "explain",
    "failures",
    "from_files",
    "from_items",
    "map_patches",
    "models",
    "mosaic",
    "open_catalog",
    "patch",
    "query",
    "run",
    "samplers",
    "search",
    "sinks",
    "stitch",
    "to_geoparquet",
    "to_items",
]
