"""The whole archive as one catalog: fifty million scenes in fifty files, on a laptop.

    python benchmarks/bench_archive_catalog.py [--rows 50000000] [--archive FOLDER]

Each file is of one year, five to a year, and sorted by itself. What a user does first, one after
the other in one process: open the folder, query one degree by 30 days, load the scenes found, query
other places, the same again, take the items of one scene, all scenes of a month, and read one
column of all. Seconds for each, and the most memory so far.

Making fifty million rows takes a quarter of an hour and 5 GB: with `--archive` they are kept, and
used again.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import measure
from bench_query import PART, TIME, places

YEARS = 10


def make_year(folder: str, number: int, rows: int) -> measure.Job:
    from archive_catalog import archive

    import xgeocat as xgc

    # From 2020 on, which is asked for.
    first = 365 * ((number + 4) % YEARS)

    def job(out: Path) -> dict[str, int]:
        ds = archive(rows, number, days=(first, first + 365))
        xgc.to_geoparquet(ds, Path(folder) / "years" / f"year-{number}.parquet")
        return {"rows": rows}

    return job


def archive(folder: str) -> measure.Job:
    import xgeocat as xgc

    def job(out: Path) -> dict[str, float]:
        facts: dict[str, float] = {}

        def timed(name: str, do: Callable[[], object]) -> object:
            start = time.perf_counter()
            made = do()
            facts[name] = time.perf_counter() - start
            facts[f"{name}, MiB"] = measure.peak()
            return made

        ds = timed("open", lambda: xgc.open_catalog(Path(folder) / "years"))
        first, *others = places()
        hits = timed("first query", lambda: ds.geocat.query(first, TIME))
        timed("load the scenes found", hits.load)
        for name in ("a new place", "asked before"):
            facts[name] = statistics.median(_seconds(ds, others))
            facts[f"{name}, MiB"] = measure.peak()
        one = ds.geocat.query(first, TIME).isel(scene=[0])
        timed("items of one scene", one.geocat.to_items)
        timed("all scenes of a month", lambda: ds.geocat.query(time=TIME))
        timed("one column of all", lambda: ds["eo:cloud_cover"].values.mean())
        return facts | {"rows": ds.sizes["scene"]}

    return job


def _seconds(ds, boxes) -> Iterator[float]:
    for box in boxes:
        start = time.perf_counter()
        ds.geocat.query(box, TIME)
        yield time.perf_counter() - start


def main() -> None:
    given = measure.options(__doc__, rows=50_000_000, archive="")
    with measure.scratch() as scratch:
        folder = Path(given.archive) if given.archive else scratch
        parts = -(-given.rows // PART)
        (folder / "years").mkdir(parents=True, exist_ok=True)
        for number in range(parts):
            if not (folder / "years" / f"year-{number}.parquet").exists():
                rows = min(PART, given.rows - number * PART)
                measure.once(__file__, "make_year", folder, number=number, rows=rows)
        facts = measure.once(__file__, "archive", folder).facts
        print(f"{facts['rows']:,} scenes")
        for name in [name for name in facts if f"{name}, MiB" in facts]:
            print(f"  {name:24} {facts[name]:8.3f} s  {facts[f'{name}, MiB']:7,.0f} MiB")
        measure.reach("peak memory", facts["one column of all, MiB"], 4096, below=True, unit=" MiB")


if __name__ == "__main__":
    main()
