"""Run a model over thousands of satellite scenes without leaving xarray."""

from difflib import get_close_matches
from importlib.metadata import version
from typing import TYPE_CHECKING

from xgeocat import accessor as _accessor  # noqa: F401 - registers .geocat

if TYPE_CHECKING:
    from xgeocat.catalog.algebra import difference as difference
    from xgeocat.catalog.algebra import intersect as intersect
    from xgeocat.catalog.algebra import union as union
    from xgeocat.catalog.append import append as append
    from xgeocat.catalog.duplicates import deduplicate as deduplicate
    from xgeocat.catalog.files import from_files as from_files
    from xgeocat.catalog.matchup import matchup as matchup
    from xgeocat.catalog.opening import open_catalog as open_catalog
    from xgeocat.catalog.parquet import to_geoparquet as to_geoparquet
    from xgeocat.catalog.query import query as query
    from xgeocat.catalog.search import search as search
    from xgeocat.catalog.stac import from_items as from_items
    from xgeocat.catalog.stac import to_items as to_items
    from xgeocat.catalog.stacks import from_stacks as from_stacks
    from xgeocat.catalog.table import from_geodataframe as from_geodataframe
    from xgeocat.domain.catalog import CatalogDomain as CatalogDomain
    from xgeocat.domain.geoslice import GeoSlice as GeoSlice
    from xgeocat.domain.grid import GridDomain as GridDomain
    from xgeocat.domain.protocol import Domain as Domain
    from xgeocat.domain.raster import RasterDomain as RasterDomain
    from xgeocat.domain.tilegrid import MGRS as MGRS
    from xgeocat.patching import models as models
    from xgeocat.patching import samplers as samplers
    from xgeocat.patching.apply import map_patches as map_patches
    from xgeocat.patching.explain import explain as explain
    from xgeocat.patching.patch import patch as patch
    from xgeocat.patching.pieces import Reducer as Reducer
    from xgeocat.patching.stitch import stitch as stitch
    from xgeocat.pipeline import ApplyToChips as ApplyToChips
    from xgeocat.pipeline import GridSampler as GridSampler
    from xgeocat.pipeline import PatchSampler as PatchSampler
    from xgeocat.pipeline import Sequential as Sequential
    from xgeocat.pipeline import Stitch as Stitch
    from xgeocat.runs import sinks as sinks
    from xgeocat.runs.mosaic import mosaic as mosaic
    from xgeocat.runs.run import failures as failures
    from xgeocat.runs.run import run as run

#: Where each public name is imported from when it is first used, so that `import xgeocat` costs
#: little more than xarray and odc-geo. What type checkers and editors read above says the same.
_HOMES = {
    "ApplyToChips": "xgeocat.pipeline",
    "CatalogDomain": "xgeocat.domain.catalog",
    "Domain": "xgeocat.domain.protocol",
    "GeoSlice": "xgeocat.domain.geoslice",
    "GridDomain": "xgeocat.domain.grid",
    "GridSampler": "xgeocat.pipeline",
    "MGRS": "xgeocat.domain.tilegrid",
    "PatchSampler": "xgeocat.pipeline",
    "RasterDomain": "xgeocat.domain.raster",
    "Reducer": "xgeocat.patching.pieces",
    "Sequential": "xgeocat.pipeline",
    "Stitch": "xgeocat.pipeline",
    "append": "xgeocat.catalog.append",
    "deduplicate": "xgeocat.catalog.duplicates",
    "difference": "xgeocat.catalog.algebra",
    "explain": "xgeocat.patching.explain",
    "failures": "xgeocat.runs.run",
    "from_files": "xgeocat.catalog.files",
    "from_geodataframe": "xgeocat.catalog.table",
    "from_items": "xgeocat.catalog.stac",
    "from_stacks": "xgeocat.catalog.stacks",
    "intersect": "xgeocat.catalog.algebra",
    "map_patches": "xgeocat.patching.apply",
    "matchup": "xgeocat.catalog.matchup",
    "models": "xgeocat.patching",
    "mosaic": "xgeocat.runs.mosaic",
    "open_catalog": "xgeocat.catalog.opening",
    "patch": "xgeocat.patching.patch",
    "query": "xgeocat.catalog.query",
    "run": "xgeocat.runs.run",
    "samplers": "xgeocat.patching",
    "search": "xgeocat.catalog.search",
    "sinks": "xgeocat.runs",
    "stitch": "xgeocat.patching.stitch",
    "to_geoparquet": "xgeocat.catalog.parquet",
    "to_items": "xgeocat.catalog.stac",
    "union": "xgeocat.catalog.algebra",
}

__all__ = list(_HOMES)
__version__ = version("xgeocat")


# Hidden from type checkers: to them, a module with __getattr__ has every name there is.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            near = get_close_matches(name, _HOMES, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "dir(xgeocat) lists those it has."
            raise AttributeError(f"module 'xgeocat' has no attribute {name!r}; {hint}", name=name)
        # As in `from home import name`, so that a name may also be a module.
        globals()[name] = getattr(__import__(_HOMES[name], fromlist=[name]), name)
        return globals()[name]

    def __dir__() -> list[str]:
        return sorted({*globals(), *_HOMES})
