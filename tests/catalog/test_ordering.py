"""Ordering: neighbours in place and time stand side by side, and every row arrives once."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely.geometry import box

import xgeocat as xgc
from xgeocat.catalog import layout, metadata, ordering
from xgeocat.catalog.ordering import scene_order, sorted_tables


@given(st.lists(st.tuples(st.one_of(st.just(np.nan), st.floats(-179, 178)), st.floats(-89, 88),
                          st.one_of(st.none(), st.integers(0, 500))), max_size=60))  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_every_scene_is_in_the_order_once_and_those_of_a_cell_by_time(rows):
    boxes = (
        np.array([(x, y, x + 1, y + 1) if x == x else [np.nan] * 4 for x, y, _ in rows])
        .reshape(-1, 4)
        .T
    )
    start = np.array([np.datetime64("NaT") if t is None else np.datetime64("2024-01-01") + t for *_, t in rows],
                     "datetime64[us]")  # fmt: skip
    order = scene_order(boxes, start)
    assert sorted(order) == list(range(len(rows)))
    known = np.isnan(boxes[0, order])
    # Those of which the place is not known come last, by time.
    assert list(known) == sorted(known)
    times = start[order][known]
    assert list(times[~np.isnat(times)]) == sorted(times[~np.isnat(times)])


def test_scenes_of_one_place_follow_each_other_in_time():
    rng = np.random.default_rng(0)
    tile = rng.permutation(np.repeat(np.arange(40), 25))
    x, y = 20.0 * (tile % 8) - 80, 20.0 * (tile // 8) - 50
    start = np.datetime64("2024-01-01", "us") + rng.permutation(1000).astype("m8[h]")
    order = scene_order(np.array([x, y, x + 1, y + 1]), start)
    changes = np.flatnonzero(np.diff(tile[order]))
    assert len(changes) == 39
    for part in np.split(order, changes + 1):
        assert (np.diff(start[part]) > np.timedelta64(0)).all()


def test_a_part_comes_before_all_else():
    boxes = np.array([[0, 50, 0, 50], [0, 0, 0, 0], [1, 51, 1, 51], [1, 1, 1, 1]], float)
    start = np.array(["2024-01-03", "2024-01-01", "2024-02-01", "2024-02-02"], "M8[us]")
    order = scene_order(boxes, start, part=start.astype("M8[M]"))
    assert set(order[:2]) == {0, 1}


@given(st.lists(st.integers(0, 7), min_size=1, max_size=6), st.integers(1, 5), st.randoms())
@settings(max_examples=25, deadline=None)
def test_rows_are_sorted_on_disk_each_once_with_all_they_say(
    tmp_path_factory, make_item, sizes, group, random
):
    tables, names = [], []
    for number, size in enumerate(sizes):
        items = [
            make_item(f"{number}-{i}", box(i, 0, i + 1, 1), **{f"p{number % 3}": i})
            for i in range(size)
        ]
        names += [item["id"] for item in items]
        tables.append(layout.table_of(xgc.from_items(items)))
    order = list(range(len(names)))
    random.shuffle(order)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ordering, "GROUP", group)
        patch.setattr(ordering, "SLAB", 3 * group)
        folder = tmp_path_factory.mktemp("spilled")
        again = sorted_tables(lambda: iter(tables), np.array(order, np.int64), folder)
        for _ in range(2):
            found = list(again())
            assert [name for table in found for name in table["id"].to_pylist()] == [
                names[i] for i in order
            ]
            assert all(len(table) <= group for table in found)
            for table in found:
                said = metadata.about_table(table.schema)["variables"]
                assert {n for n in table.column_names if n[0] == "p"} <= set(said)


MEMORY = """
    import sys
    import numpy as np, shapely, xgeocat as xgc
    from tests.peak import peak_mib
    from xgeocat.catalog import append, ordering, parquet
    rows = int(sys.argv[1])
    for module in (append, parquet, ordering):
        module.GROUP, module.BATCH, module.SLAB = 500, 500, 1000
    def item(i):
        x = (i * 7919) % 300 - 150
        return {"type": "Feature", "id": f"s{i}", "collection": "made",
                "geometry": shapely.geometry.mapping(shapely.box(x, 0, x + 1, 1)), "links": [],
                "properties": {"datetime": f"2024-01-{i % 28 + 1:02d}T00:00:00Z", "text": "x" * 3000 + str(i)},
                "assets": {"red": {"href": f"https://example.com/{i}"}}}
    part = sys.argv[2]
    for first in range(0, rows, 1000):
        xgc.to_geoparquet(xgc.from_items([item(i) for i in range(first, first + 1000)]), f"{part}/{first:06d}.parquet")
    before = peak_mib()
    xgc.to_geoparquet(xgc.open_catalog(part), sys.argv[3])
    print(peak_mib() - before)
"""


@pytest.mark.slow
def test_sorting_takes_memory_for_a_few_slabs_and_no_more(tmp_path, job_environment):
    taken = []
    for rows in (3000, 15_000):
        (tmp_path / str(rows)).mkdir()
        out = tmp_path / f"{rows}.parquet"
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(MEMORY), str(rows), tmp_path / str(rows), out],
            env=job_environment, capture_output=True, text=True, check=True,
        )  # fmt: skip
        taken.append(float(done.stdout))
        ds = xgc.open_catalog(out)
        assert sorted(ds.scene.values) == sorted(f"s{i}" for i in range(rows))
        assert (ds["text"].str.slice(3000) == ds.scene.str.slice(1)).all()
    # Five times the rows, 36 MB of text more.
    assert taken[1] < taken[0] + 60, taken
