"""Foreign: files of other tools are read as the items in them, and queried as what they show."""

from __future__ import annotations

import datetime as dt
import json
from decimal import Decimal

import duckdb
import geopandas as gpd
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
import stac_geoparquet.arrow as sga
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely.geometry import MultiPolygon, Point, Polygon, box

import xgeocat as xgc
from xgeocat.catalog.stac import to_dicts

BOX = pa.struct([(corner, pa.float64()) for corner in ("xmin", "ymin", "xmax", "ymax")])


@pytest.fixture
def foreign(tmp_path):
    """Writer of items with stac-geoparquet, of which some columns are then replaced or added."""

    def write(items, columns=(), name="c.parquet", **options):
        table = sga.parse_stac_items_to_arrow(items).read_all()
        for column, values in dict(columns).items():
            if column in table.column_names:
                table = table.drop_columns(column)
            if values is not None:
                table = table.append_column(column, values)
        pq.write_table(table, tmp_path / name, **options)
        return tmp_path / name

    return write


def found(ds, *args, **kwargs):
    return list(ds.geocat.query(*args, **kwargs).scene.values)


# --- what is found --------------------------------------------------------------------------------

#: How a footprint that runs from west to east, beyond 180 perhaps, may be drawn, and boxed.
DRAWN = ("plain", "cut", "beyond", "before", "long edges")
BOXED = ("bounds", "west > east", "all round", "rounded", "missing")


def draw(west, east, south, north, how):
    if west == east and south == north:
        return Point((west + 180) % 360 - 180, south)
    if east <= 180:
        return box(west, south, east, north)
    if how == "beyond":
        return box(west, south, east, north)
    if how == "before":
        return box(west - 360, south, east - 360, north)
    if how == "long edges":
        return Polygon([(west, south), (east - 360, south), (east - 360, north), (west, north)])
    return MultiPolygon([box(west, south, 180, north), box(-180, south, east - 360, north)])


def boxed(west, east, south, north, how, drawn):
    if how == "missing":
        return None
    bounds = drawn.bounds
    if east > 180 and how in ("west > east", "all round"):
        bounds = (
            (west, south, east - 360, north) if how == "west > east" else (-180, south, 180, north)
        )
    if how == "rounded":
        bounds = np.round(bounds, 4)
    return dict(zip(("xmin", "ymin", "xmax", "ymax"), map(float, bounds), strict=True))


def meets(one, other):
    """Whether two ranges of longitude meet, anywhere on the circle."""
    return any(one[0] <= other[1] + turn and other[0] + turn <= one[1] for turn in (-360, 0, 360))


scenes = st.tuples(
    st.sampled_from([-180, -100, -20, -3, 0, 5, 80, 165, 174, 179]),
    st.sampled_from([0, 1, 4, 30, 90]), st.integers(-80, 70), st.sampled_from([0, 1, 7]),
    st.sampled_from(DRAWN), st.sampled_from(BOXED), st.sampled_from([None, 0, 3, 40]),
    st.sampled_from([None, 0, 0, 0, 10]),
)  # fmt: skip
places = st.tuples(st.sampled_from([-179.5, -101.5, -2.5, 2.5, 100.5, 169.5, 178.5]),
                   st.sampled_from([0.25, 3, 14, 60, 150]), st.integers(-80, 60), st.integers(1, 90))  # fmt: skip
DAY = np.timedelta64(1, "D")


@given(st.lists(scenes, min_size=1, max_size=8), st.lists(places, min_size=1, max_size=4),
       st.integers(1, 4), st.booleans())  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_a_query_finds_what_is_drawn_however_it_is_drawn_and_boxed(
    tmp_path_factory, make_item, rows, aois, group, statistics
):
    start = np.datetime64("2024-06-01", "us")
    items, boxes, shapes, times = [], [], [], []
    for i, (west, width, south, height, how, box_how, day, length) in enumerate(rows):
        if not width or not height:
            width = height = 0
        # A footprint is not decided by a bbox that was rounded.
        west, east, north = west + 3e-5, west + width + 3e-5, south + height
        shape = draw(west, east, south, north, how)
        time = None if day is None else f"{start + day * DAY}Z"
        if day is not None and length:
            time = (time, f"{start + (day + length) * DAY}Z")
        items.append(make_item(f"s{i}", shape, time))
        boxes.append(boxed(west, east, south, north, box_how, shape))
        shapes.append((west, east, south, north))
        times.append(None if day is None else (day, day + (length or 0)))
    path = tmp_path_factory.mktemp("any") / "c.parquet"
    table = sga.parse_stac_items_to_arrow(items).read_all()
    table = table.drop_columns("bbox").append_column("bbox", pa.array(boxes, BOX))
    pq.write_table(table, path, row_group_size=group, write_statistics=statistics)
    ds = xgc.open_catalog(path)
    memory = xgc.from_items(items)
    for west, width, south, height in aois:
        east, low, high = west + width, south + 0.5, min(south + height, 89) + 0.5
        aoi = (west, low, east - 360 if east > 180 else east, high)
        for days in (None, (2, 5)):
            period = days and tuple(str((start + d * DAY).astype("M8[D]")) for d in days)
            expected = [
                f"s{i}" for i, ((w, e, s, n), when) in enumerate(zip(shapes, times, strict=True))
                if meets((w, e), (west, east)) and s <= high and low <= n
                and (days is None or (when is not None and when[0] < days[1] + 1 and days[0] <= when[1]))
            ]  # fmt: skip
            assert found(ds, aoi, period) == expected == found(memory, aoi, period)


def test_a_footprint_that_is_not_known_meets_nothing(make_item, foreign):
    items = [make_item("a"), make_item("b")]
    wkb = pa.array([shapely.to_wkb(box(0, 0, 1, 1)), None])
    path = foreign(items, {"geometry": wkb})
    ds = xgc.open_catalog(path)
    assert found(ds, (0, 0, 1, 1)) == ["a"]
    assert ds.geometry.values[1] is None
    assert to_dicts(ds)[1]["geometry"] is None


@pytest.mark.parametrize(
    "kind",
    [pa.timestamp("ms", "Europe/Berlin"), pa.timestamp("ns", "UTC"), pa.timestamp("us"),
     pa.timestamp("s"), pa.string(), pa.large_string()],
    ids=str,
)  # fmt: skip
def test_times_of_any_kind_are_read(kind, make_item, foreign):
    texts = ["2024-06-30T23:30:00Z", "2024-07-01T00:30:00Z"]
    made = [make_item(f"s{i}", time=text) for i, text in enumerate(texts)]
    column = pa.array(texts)
    if pa.types.is_timestamp(kind):
        moments = [dt.datetime.fromisoformat(text) for text in texts]
        column = pa.array(moments, pa.timestamp("us", "UTC")).cast(kind)
    ds = xgc.open_catalog(foreign(made, {"datetime": column.cast(kind)}))
    assert list(ds.start_time.values.astype(str)) == ["2024-06-30T23:30:00.000000",
                                                      "2024-07-01T00:30:00.000000"]  # fmt: skip
    assert found(ds, time="2024-06") == ["s0"]
    said = [item["properties"]["datetime"] for item in to_dicts(ds)]
    assert [dt.datetime.fromisoformat(t) for t in said] == [
        dt.datetime.fromisoformat(t) for t in texts
    ]


# --- what comes back ------------------------------------------------------------------------------


@pytest.mark.parametrize("statistics", [True, False])
@pytest.mark.parametrize(
    "values",
    [[1, 2], [1, None], [2**60 + 1, 5], [2**60 + 1, None], [True, False], [True, None], [0.5, None],
     ["x", None], ["x", "y"]],
    ids=str,
)  # fmt: skip
def test_properties_come_back_as_items_have_them(statistics, values, make_item, foreign):
    made = [make_item(f"s{i}", **({} if v is None else {"q": v})) for i, v in enumerate(values)]
    expected = xgc.from_items(made)
    column = pa.array(values)
    ds = xgc.open_catalog(foreign(made, {"q": column}, write_statistics=statistics))
    assert ds["q"].dtype == expected["q"].dtype
    assert to_dicts(ds) == to_dicts(expected)


def test_values_that_json_has_not_come_as_what_it_has(make_item, foreign):
    moment = dt.datetime(2024, 1, 2, 3, 4, 5, 600)
    path = foreign([make_item("a"), make_item("b")], {
        "when": pa.array([moment, None]), "day": pa.array([moment.date(), None]),
        "price": pa.array([Decimal("1.5"), None]), "long": pa.array(["x", None], pa.large_string()),
        "class": pa.array(["x", None]).dictionary_encode(), "huge": pa.array([2**63 + 5, 1], pa.uint64()),
        "raw": pa.array([b"x", None]), "nested": pa.array([{"t": moment}, None]),
    })  # fmt: skip
    ds = xgc.open_catalog(path)
    said = {"when": "2024-01-02T03:04:05.000600Z", "day": "2024-01-02", "price": 1.5, "long": "x",
            "class": "x", "huge": 2**63 + 5, "raw": "eA=="}  # fmt: skip
    assert {name: ds[name].values[0] for name in said} == said
    first, second = to_dicts(ds)
    assert first["properties"].items() >= said.items()
    assert first["properties"]["nested"] == {"t": "2024-01-02T03:04:05.000600Z"}
    assert set(second["properties"]) == {"datetime", "huge"}


def test_a_property_that_some_scenes_have_is_read_of_those_that_have_it_not(make_item, foreign):
    made = [make_item("a", updated="2024-01-01T00:00:00Z"), make_item("b")]
    ds = xgc.open_catalog(foreign(made))
    assert ds.isel(scene=[1])["updated"].values.tolist() == [None]
    assert ds.isel(scene=1)["updated"].item() is None


@pytest.mark.parametrize(
    "bbox", [None, [0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 5.0, 1.0, 1.0, 9.0]], ids=str
)
def test_bboxes_of_items_come_back(bbox, make_item, foreign):
    corners = ("xmin", "ymin", "xmax", "ymax") if bbox and len(bbox) == 4 else (
        "xmin", "ymin", "zmin", "xmax", "ymax", "zmax")  # fmt: skip
    column = None
    if bbox:
        column = pa.array([dict(zip(corners, bbox, strict=True)), None])
    ds = xgc.open_catalog(foreign([make_item("a"), make_item("b")], {"bbox": column}))
    first, second = to_dicts(ds)
    assert first["bbox"] == (bbox or [0, 0, 1, 1])
    assert second["bbox"] == [0, 0, 1, 1]
    assert found(ds, (0, 0, 1, 1)) == ["a", "b"]


# --- tools ----------------------------------------------------------------------------------------


def by_geopandas(path, out):
    gpd.read_parquet(path).to_parquet(out)


def by_geopandas_with_boxes(path, out):
    gpd.read_parquet(path).to_parquet(out, write_covering_bbox=True)


def by_duckdb(path, out):
    duckdb.sql(f"COPY (SELECT * FROM '{path}') TO '{out}' (FORMAT parquet)")


def by_pyarrow(path, out):
    pq.write_table(pq.read_table(path), out)


def by_rustac(path, out):
    import asyncio

    import rustac

    async def copy():
        await rustac.write(str(out), (await rustac.read(str(path)))["features"])

    asyncio.run(copy())


TOOLS = [by_geopandas, by_geopandas_with_boxes, by_duckdb, by_pyarrow, by_rustac]


@pytest.mark.parametrize("crs", [4326, 32631])
@pytest.mark.parametrize("tool", TOOLS)
def test_a_file_of_ours_that_another_tool_wrote_again_is_read(tool, crs, make_item, tmp_path):
    # rustac 0.9 reads no second column of geometries of several types.
    last = MultiPolygon([box(5, 0, 6, 1), box(7, 0, 8, 1)]) if crs == 4326 else box(5, 0, 6, 1)
    made = xgc.from_items(
        [make_item("a", q=1, created="2024-01-01T00:00:00Z"), make_item("b", box(3, 3, 4, 4), r="x"),
         make_item("c", last, None)],
        crs=crs,
    )  # fmt: skip
    path = xgc.to_geoparquet(made, tmp_path / "ours.parquet")
    tool(path, tmp_path / "theirs.parquet")
    ds = xgc.open_catalog(tmp_path / "theirs.parquet")
    assert list(ds.scene.values) == ["a", "b", "c"]
    assert found(ds, box(0.2, 0.2, 0.8, 0.8), "2024-06") == (
        ["a"] if ds.geocat.crs.to_epsg() == 4326 else []
    )
    assert list(ds["q"].values[:1]) == [1]
    assert ds["r"].values[1] == "x"
    assert (ds.href.values == made.href.values).all()
    for item, was in zip(to_dicts(ds), to_dicts(made), strict=True):
        assert shapely.from_geojson(json.dumps(item["geometry"])).equals(
            shapely.from_geojson(json.dumps(was["geometry"]))
        )
        assert item["collection"] == "made"


def test_the_file_of_a_tool_becomes_ours_and_stays_the_same(make_item, foreign, tmp_path):
    made = [make_item(f"s{i}", box(i, 0, i + 1, 1), q=i) for i in range(5)]
    theirs = xgc.open_catalog(foreign(made))
    ours = xgc.open_catalog(xgc.to_geoparquet(theirs, tmp_path / "ours.parquet"))
    assert to_dicts(ours) == to_dicts(theirs) == made


def test_footprints_in_another_crs_are_refused_with_what_to_do(tmp_path):
    frame = gpd.GeoDataFrame(
        {"id": ["a"], "assets": [{"r": {"href": "x"}}]}, geometry=[Point(0, 0)], crs=32631
    )
    frame.to_parquet(tmp_path / "c.parquet")
    with pytest.raises(ValueError, match=r"WKB in EPSG:32631.*to_crs\(4326\)"):
        xgc.open_catalog(tmp_path / "c.parquet")
