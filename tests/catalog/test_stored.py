"""Stored: what a query finds in files is what it finds in memory, and it reads no more than it must."""

from __future__ import annotations

import pickle
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely.geometry import MultiPoint, MultiPolygon, Point, box

import xgeocat as xgc
from xgeocat.catalog import lazy, openfile, ordering, parquet
from xgeocat.catalog.stac import to_dicts

START = np.datetime64("2024-06-01", "us")
DAY = np.timedelta64(1, "D")


@pytest.fixture
def small_groups(monkeypatch):
    """As if three scenes filled a row group, and two were too many to have in memory."""
    monkeypatch.setattr(lazy, "IN_MEMORY", 2)
    for module in (parquet, ordering):
        monkeypatch.setattr(module, "GROUP", 3)
        monkeypatch.setattr(module, "SLAB", 6)


@pytest.fixture
def reads(monkeypatch):
    """What was read since: (file, row group, columns)."""
    seen = []
    read = openfile.OpenFile.read

    def told(self, group, columns):
        seen.append((self.file.name, group, tuple(columns)))
        return read(self, group, columns)

    monkeypatch.setattr(openfile.OpenFile, "read", told)
    return seen


def brute_force(ds, aoi, interval):
    """Positions of the scenes of a catalog in memory that meet a geometry and an interval."""
    hit = np.ones(ds.sizes["scene"], bool)
    if aoi is not None:
        hit &= np.array([g is not None and g.intersects(aoi) for g in ds.geometry.values], bool)
    if interval is not None:
        hit &= (ds.start_time.values <= interval[1]) & (ds.end_time.values >= interval[0])
    return np.flatnonzero(hit)


# --- what is found --------------------------------------------------------------------------------

corner = st.integers(-170, 160)
footprints = st.one_of(
    st.none(), st.builds(Point, corner, st.integers(-70, 70)),
    st.builds(lambda x, y, w, h: box(x, y, min(x + w, 180), min(y + h, 90)), corner, st.integers(-80, 70),
              st.sampled_from([1e-7, 0.5, 3, 60, 150]), st.sampled_from([1e-7, 1, 20])),
    st.builds(lambda y, w: MultiPolygon([box(180 - w, y, 180, y + 1), box(-180, y, w - 180, y + 1)]),
              st.integers(-70, 70), st.integers(1, 9)),
    st.builds(lambda x, y: shapely.Polygon([(x, y), (x + 9, y), (x, y + 9)]), corner, st.integers(-70, 70)),
    st.builds(lambda x, y: MultiPoint([(x, y), (-x, -y)]), corner, st.integers(-70, 70)),
)  # fmt: skip
moments = st.one_of(st.none(), st.tuples(st.integers(0, 60), st.sampled_from([0, 0, 1, 30])))
places = st.one_of(
    st.none(),
    st.builds(lambda x, y, w: box(x - 0.3, y - 0.3, x + w, y + w), corner, st.integers(-80, 70),
              st.sampled_from([0.1, 4.7, 19.7])),
    st.builds(lambda x, y: Point(x + 0.4, y + 0.4).buffer(7), corner, st.integers(-70, 70)),
    st.builds(lambda x, y: MultiPolygon([box(x, y, x + 2, y + 2), box(-x - 3, -y, -x - 2.5, 1 - y)]),
              st.integers(4, 150), st.integers(4, 70)),
)  # fmt: skip


@given(st.lists(st.tuples(footprints, moments), max_size=25), st.lists(places, min_size=1, max_size=4),
       st.sampled_from([None, (3, 9), (20, 20)]), st.sampled_from([None, "year", "month"]),
       st.sampled_from([4326, 8857]))  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_a_query_of_files_finds_what_brute_force_finds(
    tmp_path_factory, make_catalog, rows, aois, days, by, crs
):
    times = [
        None if m is None else (f"{START + m[0] * DAY}Z", f"{START + (m[0] + m[1]) * DAY}Z")
        for _, m in rows
    ]
    made = make_catalog([footprint for footprint, _ in rows], times, crs=crs)
    path = tmp_path_factory.mktemp("any") / "c"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lazy, "IN_MEMORY", 2)
        for module in (parquet, ordering):
            patch.setattr(module, "GROUP", 4)
            patch.setattr(module, "SLAB", 8)
        ds = xgc.open_catalog(xgc.to_geoparquet(made, path, by=by))
        memory = made.set_xindex("scene").sel(scene=ds.scene.values) if len(rows) else made
        assert sorted(ds.scene.values) == sorted(made.scene.values)
        interval = days and tuple(START + d * DAY for d in days)
        for aoi in aois:
            if aoi is not None and crs != 4326:
                lon, lat = aoi.representative_point().coords[0]
                aoi = Point(lon * 9e4, lat * 1e5).buffer(4e5 + abs(lat) * 1e4)
            expected = list(memory.scene.values[brute_force(memory, aoi, interval)])
            period = interval and slice(*interval)
            found = ds.geocat.query(aoi, period)
            assert list(found.scene.values) == expected
            assert list(memory.geocat.query(aoi, period).scene.values) == expected
            # A selection, in another order and some of it twice, is asked as well.
            picks = [*range(len(rows) - 1, -1, -2), *range(len(rows))]
            some = ds.isel(scene=picks).geocat.query(aoi, period)
            assert list(some.scene.values) == [
                s for s in memory.scene.values[picks] if s in set(expected)
            ]


@pytest.mark.parametrize("by", [None, "year", "month"])
def test_catalogs_of_several_files_and_row_groups_come_back(by, make_item, tmp_path, small_groups):
    items = [
        make_item(f"s{i:02d}", box(7 * i % 40, 0, 7 * i % 40 + 1, 1), f"202{i % 3}-0{i % 4 + 1}-01T00:00:00Z",
                  assets={f"a{i % 5}": {"href": f"https://example.com/{i}", "t": i % 2 or "x"}},
                  **({"q": i} if i % 4 else {}), **({"flag": i % 2 == 0} if i % 3 else {}),
                  **({"mixed": [i, str(i), i / 7, i > 9][i % 4]}),
                  **({"created": f"2020-10-{i + 1:02d}"} if i % 6 else {"created": "odd"}),
                  **({"nested": {f"k{i % 3}": [{f"m{i % 2}": i}]}}))
        for i in range(20)
    ]  # fmt: skip
    made = xgc.from_items(items)
    ds = xgc.open_catalog(xgc.to_geoparquet(made, tmp_path / "c", by=by))
    same = made.sel(scene=ds.scene.values)
    assert to_dicts(ds) == to_dicts(same)
    assert set(ds.variables) == set(same.variables)
    for name, variable in same.variables.items():
        assert ds.variables[name].dtype == variable.dtype, name
    assert (
        ds.drop_indexes("scene").load().sel(asset=same.asset).identical(same.drop_indexes("scene"))
    )


# --- what is read ---------------------------------------------------------------------------------


@pytest.fixture
def large(make_item, tmp_path, small_groups):
    """A file of 24 scenes in 8 row groups: along a row of degrees, one month after the other."""
    made = xgc.from_items(
        make_item(f"s{i:02d}", box(4 * i, 0, 4 * i + 1, 1), f"2024-{i // 2 + 1:02d}-01T00:00:00Z", cloud=i, q="x")
        for i in range(24)
    )  # fmt: skip
    return xgc.to_geoparquet(made, tmp_path / "c.parquet")


def columns_read(reads):
    return {column for _, _, columns in reads for column in columns}


def groups_read(reads):
    return {group for _, group, _ in reads}


def test_opening_and_showing_read_footers_only(large, reads):
    ds = xgc.open_catalog(large)
    assert "cloud" in repr(ds)
    assert "cloud" in ds._repr_html_()
    assert (ds.sizes["scene"], ds["cloud"].dtype, ds.nbytes > 0) == (24, np.int64, True)
    assert reads == []


def test_a_query_reads_boxes_of_the_groups_that_can_match_and_their_candidates(large, reads):
    ds = xgc.open_catalog(large)
    groups = xgc.open_catalog(large).scene.values.tolist().index("s05") // 3
    reads.clear()
    assert list(ds.geocat.query(box(20.2, 0.2, 20.4, 0.4)).scene.values) == ["s05"]
    assert groups_read(reads) == {groups}
    assert columns_read(reads) == {
        "bbox",
        "datetime",
        "start_datetime",
        "end_datetime",
        "geometry",
        "id",
    }
    reads.clear()
    assert ds.geocat.query(box(20.2, 0.2, 20.4, 0.4), "2024-03").sizes["scene"] == 1
    # What was read is kept.
    assert columns_read(reads) <= {"id"}
    reads.clear()
    assert ds.geocat.query((-50, -50, -40, -40)).sizes["scene"] == 0
    assert ds.geocat.query(time="1999").sizes["scene"] == 0
    assert reads == []


def test_no_footprint_is_read_where_boxes_decide(large, reads):
    assert xgc.open_catalog(large).geocat.query((-1, -1, 30, 30)).sizes["scene"] == 8
    assert "geometry" not in columns_read(reads)


def test_a_column_is_read_alone_and_a_selection_from_its_groups(large, reads):
    ds = xgc.open_catalog(large)
    assert ds["cloud"].values.sum() == sum(range(24))
    assert columns_read(reads) == {"cloud"}
    reads.clear()
    assert ds["cloud"].values.sum() == sum(range(24))
    assert reads == []
    some = ds.isel(scene=[4, 3])
    reads.clear()
    assert some["q"].values.tolist() == ["x", "x"]
    assert [(group, columns) for _, group, columns in reads] == [(1, ("q",))]
    reads.clear()
    hrefs = ds["href"].isel(scene=slice(0, 2)).values
    assert hrefs.shape == (2, 1)
    assert reads[-1] == ("c.parquet", 0, ("assets.red.href",))
    assert columns_read(reads[:-1]) <= {"id"}


def test_loading_a_selection_reads_each_column_of_its_groups_but_a_few_times(large, reads):
    some = xgc.open_catalog(large).isel(scene=[0, 1, 2, 3])
    reads.clear()
    some.load()
    often = [(group, column) for _, group, columns in reads for column in columns]
    assert groups_read(reads) == {0, 1}
    assert max(often.count(one) for one in often) <= 3
    assert len(reads) <= 2 * 2 * len(some.variables)


def test_items_of_a_selection_are_read_in_one_pass(large, reads):
    some = xgc.open_catalog(large).isel(scene=[0, 1])
    reads.clear()
    assert some["nodata"].shape == (2, 1)
    assert np.isnan(some["nodata"].values).all()
    assert np.isnan(some["scale"].values).all()
    assert len(reads) == 1


# --- other processes, other files -----------------------------------------------------------------


def test_a_file_that_was_replaced_is_noticed(large, make_item):
    ds = xgc.open_catalog(large)
    pickled = pickle.dumps(ds)
    xgc.to_geoparquet(xgc.from_items([make_item("other")]), large)
    for catalog in (ds, pickle.loads(pickled)):
        with pytest.raises(
            openfile.ChangedFileError, match=r"c\.parquet was written again.*open the catalog again"
        ):
            catalog["cloud"].values  # noqa: B018


def test_a_lazy_catalog_travels_to_another_process(large, tmp_path, job_environment):
    (tmp_path / "ds.pickle").write_bytes(pickle.dumps(xgc.open_catalog(large)))
    assert (tmp_path / "ds.pickle").stat().st_size < 60_000
    script = """
        import pickle, sys
        ds = pickle.load(open(sys.argv[1], "rb"))
        print(*ds.geocat.query((20.2, 0.2, 20.4, 0.4)).scene.values, ds["cloud"].values.sum())
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), tmp_path / "ds.pickle"],
        env=job_environment, cwd="/", capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split() == ["s05", "276"]


def test_a_file_that_is_gone_is_told_by_its_name(large):
    ds = xgc.open_catalog(large)
    large.unlink()
    with pytest.raises(FileNotFoundError, match=r"c\.parquet"):
        ds["cloud"].values  # noqa: B018


def test_a_file_is_opened_once_however_many_columns_are_read(make_catalog, tmp_path, monkeypatch):
    ds = make_catalog([box(i, 0, i + 1, 1) for i in range(3)], a=[1, 2, 3], b=[4, 5, 6])
    opened = []
    whole = openfile.pq.ParquetFile

    def counted(*args, **options):
        opened.append(args)
        return whole(*args, **options)

    path = ds.geocat.to_geoparquet(tmp_path / "c.parquet")
    monkeypatch.setattr(openfile.pq, "ParquetFile", counted)
    loaded = xgc.open_catalog(path).load()
    assert loaded["a"].values.tolist() == [1, 2, 3]
    assert loaded["b"].values.tolist() == [4, 5, 6]
    assert len(opened) == 1
