"""The ``xgeocat`` command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import xgeocat
from xgeocat.catalog.schema import END, START


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status. Errors of use are one line, without traceback."""
    options = _parser().parse_args(arguments)
    try:
        options.do(options)
    except (ValueError, TypeError, OSError) as error:
        print(f"xgeocat: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="xgeocat", description=xgeocat.__doc__)
    parser.add_argument("--version", action="version", version=xgeocat.__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    show = commands.add_parser("demo", help="make a small archive and map its water, offline")
    show.add_argument("--out", type=Path, default=Path("lake-tahoe-demo"), help="output folder")
    show.set_defaults(do=_demo)

    info = commands.add_parser("info", help="say what a catalog holds")
    info.add_argument("catalog", help="GeoParquet, or the output folder of a run")
    info.set_defaults(do=_info)

    query = commands.add_parser("query", help="select scenes of a catalog by place and time")
    query.add_argument("catalog", help="GeoParquet, or the output folder of a run")
    query.add_argument("out", help="GeoParquet to write, a path or s3://")
    query.add_argument("--bbox", type=float, nargs=4, metavar=("W", "S", "E", "N"))
    query.add_argument("--time", help="e.g. 2024-08 or 2024-08-01/2024-08-15")
    query.set_defaults(do=_query)

    search = commands.add_parser("search", help="search a STAC API")
    search.add_argument("url", help="root of the API")
    search.add_argument("out", help="GeoParquet to write, a path or s3://; after a failure, go on")
    search.add_argument("--collections", nargs="+")
    search.add_argument("--bbox", type=float, nargs=4, metavar=("W", "S", "E", "N"))
    search.add_argument("--datetime", help="e.g. 2024-06-01/2024-07-31")
    search.add_argument("--max-items", type=int)
    search.set_defaults(do=_search)
    return parser


def _demo(options: argparse.Namespace) -> None:
    # Late: the other commands need nothing that makes or draws pixels.
    from xgeocat.demo import demo

    demo(options.out)


def _info(options: argparse.Namespace) -> None:
    catalog = xgeocat.open_catalog(options.catalog)
    print(f"{catalog.sizes['scene']} scenes, footprints in {catalog.geocat.crs.to_string()}")
    if catalog.sizes["scene"]:
        print(f"bounds      {tuple(round(v, 6) for v in catalog.geocat.bounds.bbox)}")
        print(f"time        {catalog[START].min().values} .. {catalog[END].max().values}")
        print(f"collections {', '.join(sorted(set(catalog['collection'].values.astype(str))))}")
        print(f"assets      {', '.join(catalog['asset'].values)}")


def _query(options: argparse.Namespace) -> None:
    aoi = None if options.bbox is None else tuple(options.bbox)
    hits = xgeocat.query(xgeocat.open_catalog(options.catalog), aoi, options.time)
    print(f"{hits.sizes['scene']} scenes -> {xgeocat.to_geoparquet(hits, options.out)}")


def _search(options: argparse.Namespace) -> None:
    found = xgeocat.search(
        options.url,
        collections=options.collections,
        bbox=options.bbox,
        datetime=options.datetime,
        max_items=options.max_items,
        out=options.out,
    )
    print(f"{found.sizes['scene']} scenes -> {options.out}")
