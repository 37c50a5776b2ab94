"""Queries of a catalog of millions of scenes, against DuckDB and geopandas.

    python benchmarks/bench_query.py [--rows 10000000] [--repeats 5] [--archive FOLDER]

A catalog like that of the whole Sentinel-2 archive in one GeoParquet file. A query is of one degree
by 30 days, at places all over the globe. *warm*: places that were asked for before, in a process
that has the file open; DuckDB has the file's metadata cached, and the bounding boxes as a
predicate, as its users write it. *cold*: a new process opens the file, answers one query, and has
the matching scenes in memory with all their columns. geopandas has a million rows in memory, with
its own tree.

Making ten million rows takes a quarter of an hour: with `--archive` they are kept, and used again.
"""

from __future__ import annotations

from pathlib import Path

import measure

PART = 1_000_000
PLACES = 40
TIME = ("2020-06-01", "2020-06-30")


def make_part(folder: str, number: int, rows: int) -> measure.Job:
    from archive_catalog import archive

    import xgeocat as xgc

    def job(out: Path) -> dict[str, int]:
        ds = archive(rows, number)
        xgc.to_geoparquet(ds, Path(folder) / "parts" / f"part-{number}.parquet")
        return {"rows": rows}

    return job


def make_file(folder: str, name: str, parts: str) -> measure.Job:
    """One sorted file of some parts, and how many scenes there are in it."""
    import xgeocat as xgc

    def job(out: Path) -> dict[str, int]:
        path = xgc.to_geoparquet(xgc.open_catalog(Path(folder) / parts), Path(folder) / name)
        return {"rows": xgc.open_catalog(path).sizes["scene"], "bytes": Path(path).stat().st_size}

    return job


def places() -> list[tuple[float, float, float, float]]:
    """Boxes of one degree where there are scenes."""
    import numpy as np
    from archive_catalog import tile_corners

    corners = tile_corners()[np.random.default_rng(2).integers(0, 20_000, PLACES)]
    return [(x, y, x + 1, y + 1) for x, y in corners.round(3).tolist()]


# --- warm -----------------------------------------------------------------------------------------


def xgeocat(folder: str, source: str) -> measure.Job:
    import xgeocat as xgc

    ds = xgc.open_catalog(Path(folder) / source)

    def job(out: Path) -> dict[str, int]:
        return {"scenes": sum(ds.geocat.query(p, TIME).sizes["scene"] for p in places())}

    return job


def rows_xgeocat(folder: str, source: str) -> measure.Job:
    """The rows alone, without the Dataset of them."""
    import shapely

    import xgeocat as xgc
    from xgeocat.catalog.interval import parse_interval

    index = xgc.open_catalog(Path(folder) / source).xindexes["geometry"]
    interval = parse_interval(TIME)

    def job(out: Path) -> dict[str, int]:
        found = (index.overlapping(shapely.box(*place), interval) for place in places())
        return {"scenes": sum(map(len, found))}

    return job


SQL = """select {columns} from read_parquet('{file}')
where bbox.xmin <= {e} and bbox.xmax >= {w} and bbox.ymin <= {n} and bbox.ymax >= {s}
and datetime between '2020-06-01T00:00:00Z' and '2020-06-30T23:59:59.999999Z'"""


def sql(file: str, place: tuple[float, float, float, float], columns: str) -> str:
    west, south, east, north = place
    return SQL.format(columns=columns, file=file, w=west, s=south, e=east, n=north)


def duckdb(folder: str, source: str) -> measure.Job:
    import duckdb as db

    con = db.connect(config={"threads": measure.THREADS})
    path = str(Path(folder) / source)
    con.sql(f"select count(*) from read_parquet('{path}')").fetchall()
    con.sql("set parquet_metadata_cache = true")

    def job(out: Path) -> dict[str, int]:
        found = (con.sql(sql(path, p, "id, bbox, geometry")).fetchall() for p in places())
        return {"scenes": sum(map(len, found))}

    return job


def geopandas(folder: str, source: str) -> measure.Job:
    import geopandas as gpd
    import pandas as pd
    import shapely

    frame = gpd.read_parquet(Path(folder) / source, columns=["id", "datetime", "geometry"])
    tree = frame.sindex
    first, last = (pd.Timestamp(t, tz="UTC") for t in (TIME[0], f"{TIME[1]}T23:59:59.999999"))

    def job(out: Path) -> dict[str, int]:
        scenes = 0
        for place in places():
            hit = frame.iloc[tree.query(shapely.box(*place), predicate="intersects")]
            scenes += int(((hit["datetime"] >= first) & (hit["datetime"] <= last)).sum())
        return {"scenes": scenes}

    return job


# --- cold -----------------------------------------------------------------------------------------


def cold_xgeocat(folder: str, source: str, place: int) -> measure.Job:
    import xgeocat as xgc

    def job(out: Path) -> dict[str, int]:
        hits = xgc.open_catalog(Path(folder) / source).geocat.query(places()[place], TIME).load()
        return {"scenes": hits.sizes["scene"]}

    return job


def cold_duckdb(folder: str, source: str, place: int) -> measure.Job:
    """What a user would do to have the scenes in xarray."""
    import duckdb as db
    import xarray as xr

    def job(out: Path) -> dict[str, int]:
        con = db.connect(config={"threads": measure.THREADS})
        table = con.sql(sql(str(Path(folder) / source), places()[place], "*")).arrow()
        rows = table.read_all() if hasattr(table, "read_all") else table
        return {"scenes": xr.Dataset.from_dataframe(rows.to_pandas()).sizes["index"]}

    return job


def main() -> None:
    given = measure.options(__doc__, rows=10_000_000, archive="")
    with measure.scratch() as scratch:
        folder = Path(given.archive) if given.archive else scratch
        parts = -(-given.rows // PART)
        (folder / "parts").mkdir(parents=True, exist_ok=True)
        for number in range(parts):
            if not (folder / "parts" / f"part-{number}.parquet").exists():
                rows = min(PART, given.rows - number * PART)
                measure.once(__file__, "make_part", folder, number=number, rows=rows)
        if not (folder / "archive.parquet").exists():
            made = measure.once(
                __file__, "make_file", folder, name="archive.parquet", parts="parts"
            )
            print(
                f"{made.facts['rows']:,} rows sorted into {made.facts['bytes'] / 2**20:,.0f} MiB "
                f"in {made.median:.0f} s, {made.peak:.0f} MiB"
            )
        peers = ["duckdb"] if measure.installed("duckdb") else []
        print(f"\nwarm, {given.rows:,} rows, {PLACES} places")
        found = measure.race(
            __file__,
            ["xgeocat", "rows_xgeocat", *peers],
            given.repeats,
            folder,
            source="archive.parquet",
        )
        measure.table(found, "xgeocat", 0)
        each = found["xgeocat"].median / PLACES * 1e3
        measure.reach("a query", each, 5, below=True, unit=" ms")
        if peers:
            ratio = found["xgeocat"].times_faster_than(found["duckdb"])
            measure.reach("times as fast as DuckDB", ratio, 50, unit="x")
            alone = found["rows_xgeocat"].times_faster_than(found["duckdb"])
            print(f"  the rows alone, without a Dataset of them: {alone:.1f}x")

        print("\nwarm, a million rows")
        found = measure.race(
            __file__,
            ["xgeocat", "rows_xgeocat", "geopandas"],
            given.repeats,
            folder,
            source="parts/part-0.parquet",
        )
        measure.table(found, "xgeocat", 0)
        same = {this.facts["scenes"] for this in found.values()}
        if len(same) != 1:
            raise SystemExit(f"the answers differ: {same}")
        ratio = found["xgeocat"].times_faster_than(found["geopandas"])
        measure.reach("times as fast as geopandas", ratio, 5, unit="x")
        alone = found["rows_xgeocat"].times_faster_than(found["geopandas"])
        print(f"  the rows alone, without a Dataset of them: {alone:.1f}x")

        print(f"\ncold, {given.rows:,} rows: open, query, matching rows as a Dataset")
        cold: dict[str, measure.Found] = {}
        for place in range(given.repeats):
            for name in ("cold_xgeocat", *(f"cold_{peer}" for peer in peers)):
                this = measure.once(__file__, name, folder, source="archive.parquet", place=place)
                known = cold.setdefault(name, measure.Found())
                known.seconds += this.seconds
                known.peak = max(known.peak, this.peak)
                known.facts = this.facts
        measure.table(cold, "cold_xgeocat", 0)
        measure.reach("peak memory", cold["cold_xgeocat"].peak, 1536, below=True, unit=" MiB")
        if peers:
            ratio = cold["cold_xgeocat"].times_faster_than(cold["cold_duckdb"])
            measure.reach("times as fast as DuckDB", ratio, 1, unit="x")


if __name__ == "__main__":
    main()
