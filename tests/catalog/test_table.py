"""Catalogs of tables with geometries, and back; geopandas says what is in them."""

from __future__ import annotations

import datetime as dt

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import xgeocat as xgc

SHAPES = [
    shapely.box(0, 0, 1, 1),
    shapely.Point(10.5, 45.25),
    shapely.LineString([(0, 0), (3, 4), (5, 5)]),
    shapely.MultiPolygon([shapely.box(2, 2, 3, 3), shapely.box(4, 4, 5, 5)]),
    shapely.MultiPoint([(1, 1), (2, 2)]),
]


@pytest.fixture
def make_table():
    """Factory of tables of shapes."""

    def make(crs=4326, geometry=SHAPES, **columns):
        return gpd.GeoDataFrame(columns, geometry=list(geometry), crs=crs)

    return make


def texts(values):
    """Texts, with None for those that are null in whichever way."""
    return [value if isinstance(value, str) else None for value in values]


def days(first, last=None):
    start = np.datetime64(first, "D").astype("datetime64[us]")
    end = (np.datetime64(last or first, "D") + 1).astype("datetime64[us]")
    return start, end - np.timedelta64(1, "us")


# --- footprints and columns -----------------------------------------------------------------------


@pytest.mark.parametrize("crs", [4326, 32633, 4258, "+proj=laea +lat_0=50 +lon_0=10"])
def test_footprints_are_the_geometries(make_table, crs):
    shapes = SHAPES if crs in (4326, 4258) else [
        shapely.affinity.translate(shapely.affinity.scale(s, 1000, 1000, origin=(0, 0)), 4e5, 5e6)
        for s in SHAPES
    ]  # fmt: skip
    table = make_table(crs, shapes, crop=["a", "b", None, "a", "c"], area=[1.5, 2, 3, np.nan, 4])
    ds = xgc.from_geodataframe(table)
    assert ds.geocat.crs == table.crs
    assert all(a.equals(b) for a, b in zip(ds.geometry.values, shapes, strict=True))
    assert texts(ds["crop"].values) == ["a", "b", None, "a", "c"]
    np.testing.assert_array_equal(ds["area"].values, table["area"].values)
    assert ds.scene.values.tolist() == ["0", "1", "2", "3", "4"]
    west = gpd.GeoSeries(shapes, crs=crs).to_crs(4326)
    for item, expected in zip(ds.geocat.to_items(), west, strict=True):
        assert shapely.hausdorff_distance(shapely.geometry.shape(item.geometry), expected) < 1e-4


@pytest.mark.parametrize("crs", [4326, 32633, "+proj=laea +lat_0=50 +lon_0=10"])
def test_to_geoparquet_and_to_items_lose_nothing(make_table, tmp_path, crs):
    table = make_table(
        crs, [shapely.box(4e5, 5e6, 4e5 + 300, 5e6 + 1e5) if crs != 4326 else s for s in SHAPES],
        when=["2024-06-01", None, "2024-06-03T10:00:00+02:00", "2024-06", "2024"],
        label=[1, 2, 3, 4, 5], good=[True, False, True, True, False],
        image=["a.tif", None, "https://example.com/b.tif", "c.tif", "d.tif"],
    )  # fmt: skip
    ds = xgc.from_geodataframe(table, time="when", href="image", collection="labels")
    path = ds.geocat.to_geoparquet(tmp_path / "labels.parquet")
    again = xgc.from_items(ds.geocat.to_items(), crs=ds.geocat.crs)
    xr.testing.assert_identical(again.drop_vars("item_json"), ds.drop_vars("item_json"))
    xr.testing.assert_identical(xgc.open_catalog(path).drop_vars("href"), ds.drop_vars("href"))
    static = xgc.from_geodataframe(table)
    static.geocat.to_geoparquet(path)
    xr.testing.assert_identical(xgc.open_catalog(path), static)


@pytest.mark.parametrize("name", ["a.gpkg", "a.geojson", "a.parquet", "a.shp"])
def test_a_file_is_its_table(make_table, tmp_path, name):
    shapes = [shapely.box(i, i, i + 1, i + 2, ccw=False) for i in range(4)]  # as in a shapefile
    table = make_table(4326, shapes, cls=[3, 1, 2, 2], kind=["x", "y", None, "x"])
    path = tmp_path / name
    table.to_parquet(path) if name.endswith("parquet") else table.to_file(path)
    ds, expected = xgc.from_geodataframe(path), xgc.from_geodataframe(table)
    xr.testing.assert_identical(ds, expected)
    xr.testing.assert_identical(xgc.from_geodataframe(str(path)), expected)


def test_dates_of_a_shapefile_are_whole_days(make_table, tmp_path):
    table = make_table(when=[dt.date(2024, 6, d) for d in range(1, 6)])
    table.loc[[0, 3]].to_file(tmp_path / "a.shp")  # polygons only
    ds = xgc.from_geodataframe(tmp_path / "a.shp", time="when")
    assert (ds.start_time.values[1], ds.end_time.values[1]) == days("2024-06-04")


def test_geometries_that_are_null_or_empty_are_not_known(make_table):
    ds = xgc.from_geodataframe(
        make_table(geometry=[None, shapely.Polygon(), shapely.box(0, 0, 1, 1)])
    )
    assert ds.geometry.values.tolist() == [None, None, shapely.box(0, 0, 1, 1)]
    assert ds.geocat.query((0, 0, 1, 1)).scene.values.tolist() == ["2"]


def test_polygons_across_the_antimeridian_are_cut(make_table):
    across = shapely.box(179, 0, 181, 1)
    ds = xgc.from_geodataframe(make_table(geometry=[across]))
    assert ds.geometry.values[0].area == pytest.approx(2)
    assert ds.geocat.query((-179.9, 0.2, -179.8, 0.3)).sizes["scene"] == 1
    utm = xgc.from_geodataframe(make_table(geometry=[across]).to_crs(32701))
    assert utm.geocat.to_items()[0].bbox[0] > utm.geocat.to_items()[0].bbox[2]


# --- times ----------------------------------------------------------------------------------------

DAY = np.timedelta64(1, "D")


@pytest.mark.parametrize(
    ("value", "first", "last"),
    [
        ("2024-06-01", *days("2024-06-01")),
        ("2024-06", *days("2024-06-01", "2024-06-30")),
        (dt.date(2024, 6, 1), *days("2024-06-01")),
        (2024, *days("2024-01-01", "2024-12-31")),
        (2024.0, *days("2024-01-01", "2024-12-31")),
        ("2024-06-01T10:00:00Z", *[np.datetime64("2024-06-01T10:00:00", "us")] * 2),
        ("2024-06-01T10:00:00+05:30", *[np.datetime64("2024-06-01T04:30:00", "us")] * 2),
        ("2024-06-01 10:00:00", *[np.datetime64("2024-06-01T10:00:00", "us")] * 2),
        (pd.Timestamp("2024-06-01T23:00:00-05:00"), *[np.datetime64("2024-06-02T04:00:00", "us")] * 2),
        (dt.datetime(2024, 6, 1, 0, 0), *[np.datetime64("2024-06-01T00:00:00", "us")] * 2),
    ],
)  # fmt: skip
def test_times_in_one_column_of_all_kinds(make_table, value, first, last):
    column = pd.Series([value, None, "2020-02-29T12:00:00Z", value, pd.NaT], dtype=object)
    ds = xgc.from_geodataframe(make_table(when=column), time="when")
    noon = np.datetime64("2020-02-29T12:00:00", "us")
    nat = np.datetime64("NaT", "us")
    np.testing.assert_array_equal(ds.start_time, [first, nat, noon, first, nat])
    np.testing.assert_array_equal(ds.end_time, [last, nat, noon, last, nat])
    assert "when" not in ds
    assert ds.geocat.query(time="2020").scene.values.tolist() == ["2"]


@pytest.mark.parametrize(
    ("times", "whole"),
    [
        (["2024-06-01", "2024-06-02", None, "2024-06-04", "2024-06-05"], True),
        (["2024-06-01T00:00", "2024-06-02T10:00", None, "2024-06-04", "2024-06-05"], False),
    ],
)
def test_a_column_of_midnights_is_one_of_dates(make_table, times, whole):
    column = pd.to_datetime(pd.Series(times), format="ISO8601")
    ds = xgc.from_geodataframe(make_table(when=column), time="when")
    first = np.datetime64("2024-06-01", "us")
    assert ds.start_time.values[0] == first
    assert ds.end_time.values[0] == (first + DAY - np.timedelta64(1, "us") if whole else first)
    assert np.isnat(ds.start_time.values[2])
    utc = xgc.from_geodataframe(
        make_table(when=column.dt.tz_localize("Europe/Vienna")), time="when"
    )
    assert utc.start_time.values[0] == utc.end_time.values[0] == first - np.timedelta64(2, "h")


def test_a_pair_of_columns(make_table):
    table = make_table(
        sown=["2024-03-01", "2024-04-01", None, "2024-05", "2024-05-01T06:00:00Z"],
        cut=["2024-09-01", "2024-04-01", "2024-09-01", None, "2024-05-01T18:00:00Z"],
    )
    ds = xgc.from_geodataframe(table, time=("sown", "cut"))
    assert (ds.start_time.values[0], ds.end_time.values[0]) == days("2024-03-01", "2024-09-01")
    assert np.isnat(ds.start_time.values).tolist() == [False, False, True, False, False]
    assert np.isnat(ds.end_time.values).tolist() == [False, False, False, True, False]
    assert ds.geocat.query(time="2024-07").scene.values.tolist() == ["0"]
    again = xgc.from_items(ds.geocat.to_items())
    xr.testing.assert_identical(again.drop_vars("item_json"), ds.drop_vars("item_json"))


def test_static_rows_hold_at_all_times(make_table):
    ds = xgc.from_geodataframe(make_table())
    for time in ("2024-06-01", "1650", ("9999-12-31", None), None):
        assert ds.geocat.query(time=time).sizes["scene"] == 5
    assert ds.geocat.query((0.5, 0.5, 0.6, 0.6), "2024").scene.values.tolist() == ["0"]


@pytest.mark.parametrize(
    "time", ["2024-06", ("2024-06-01", "2024-06-30"), slice("2024-06-01", "2024-06-30")]
)
def test_one_time_for_all_rows(make_table, time):
    ds = xgc.from_geodataframe(make_table(), time=time)
    assert set(zip(ds.start_time.values, ds.end_time.values, strict=True)) == {
        days("2024-06-01", "2024-06-30")
    }


@settings(deadline=None)
@given(
    rows=st.lists(
        st.tuples(
            st.floats(-170, 170), st.floats(-80, 80), st.floats(0, 5),
            st.datetimes(dt.datetime(2000, 1, 1), dt.datetime(2030, 1, 1)),
            st.integers(-12, 12),
        ),
        max_size=8,
    ),
    west=st.floats(-170, 160), south=st.floats(-80, 70),
)  # fmt: skip
def test_queries_are_those_of_geopandas(rows, west, south):
    zones = [dt.timezone(dt.timedelta(hours=h)) for *_, h in rows]
    times = [t.replace(tzinfo=z) for (*_, t, _), z in zip(rows, zones, strict=True)]
    shapes = [shapely.box(x, y, x + size, y + size) for x, y, size, *_ in rows]
    table = gpd.GeoDataFrame({"when": pd.Series(times, dtype=object)}, geometry=shapes, crs=4326)
    ds = xgc.from_geodataframe(table, time="when")
    place = shapely.box(west, south, west + 20, south + 20)
    found = ds.geocat.query(place, time=("2010", "2019"))
    utc = pd.to_datetime(pd.Series(times, dtype=object), utc=True)
    expected = table[table.intersects(place) & (utc.dt.year >= 2010) & (utc.dt.year <= 2019)]
    assert found.scene.values.tolist() == list(map(str, expected.index))


# --- ids and hrefs --------------------------------------------------------------------------------


def test_ids_from_the_index_or_a_column(make_table):
    table = make_table(plot=[5, 4, 3, 2, 1], name=list("edcba"))
    assert xgc.from_geodataframe(table, id="plot").scene.values.tolist() == list("54321")
    named = table.set_index("name")
    assert xgc.from_geodataframe(named).scene.values.tolist() == list("edcba")
    both = table.set_index(["name", "plot"])
    assert xgc.from_geodataframe(both).scene.values.tolist()[0] == "e_5"


def test_assets_are_where_columns_say(make_table, tmp_path):
    table = make_table(
        image=["i/0.tif", None, "https://example.com/2.tif", "", "/abs/4.tif"], mask=["m.tif"] * 5
    )
    ds = xgc.from_geodataframe(table, href={"red": "image", "mask": "mask"})
    assert ds.asset.values.tolist() == ["red", "mask"]
    assert texts(ds.href.sel(asset="red").values) == [
        "i/0.tif", None, "https://example.com/2.tif", None, "/abs/4.tif"]  # fmt: skip
    assert "image" not in ds
    table.to_parquet(tmp_path / "t.parquet")
    stored = xgc.from_geodataframe(tmp_path / "t.parquet", href="image")
    assert stored.href.values[0, 0] == str(tmp_path / "i" / "0.tif")


def test_times_among_the_columns_are_text(make_table):
    table = make_table(made=pd.to_datetime(["2024-06-01T10:00:00.5+02:00"] * 4 + [None]))
    ds = xgc.from_geodataframe(table)
    assert texts(ds["made"].values) == ["2024-06-01T08:00:00.500000Z"] * 4 + [None]


# --- the way back ---------------------------------------------------------------------------------


def test_there_and_back(make_table):
    table = make_table(
        32633, [shapely.box(4e5, 5e6, 4e5 + 9, 5e6 + i) for i in range(1, 6)],
        crop=["a", "b", None, "a", "c"], area=[1.5, 2, 3, np.nan, 4], n=[1, 2, 3, 4, 5],
        first=["2024-06-01T00:00:00Z"] * 5, last=["2024-06-02T12:00:00Z"] * 4 + [None],
        image=["a.tif"] * 4 + [None],
    )  # fmt: skip
    table.index = [f"plot-{i}" for i in range(5)]
    ds = xgc.from_geodataframe(table, time=("first", "last"), href="image")
    back = ds.geocat.to_geodataframe()
    assert back.crs == table.crs
    assert list(back.index) == list(table.index)
    assert back.geometry.geom_equals(table.geometry).all()
    pd.testing.assert_series_equal(back["n"], table["n"], check_names=False, check_index_type=False)
    assert texts(back["href:image"]) == texts(table["image"])
    assert texts(back["crop"]) == ["a", "b", None, "a", "c"]
    assert back["start_time"].tolist() == [pd.Timestamp("2024-06-01")] * 5
    again = xgc.from_geodataframe(
        back.drop(columns="collection"),
        time=("start_time", "end_time"),
        href={"image": "href:image"},
    )
    # Columns of the same midnights are dates.
    xr.testing.assert_identical(again.drop_vars("item_json"), ds.drop_vars("item_json"))


def test_real_scenes_as_a_table(planetary_computer):
    table = planetary_computer.geocat.to_geodataframe()
    assert len(table) == 1000
    assert table.geometry.tolist() == planetary_computer.geometry.values.tolist()
    assert (table["eo:cloud_cover"] < 20).sum() == int(
        (planetary_computer["eo:cloud_cover"] < 20).sum()
    )
    assert (
        table.loc["S2B_MSIL2A_20240828T174909_R141_T13TEF_20240828T214916", "s2:mgrs_tile"]
        == "13TEF"
    )
    assert not {"item_json", "asset_json"} & set(table.columns)
    empty = planetary_computer.isel(scene=[]).geocat.to_geodataframe()
    assert (len(empty), empty.crs) == (0, table.crs)


def test_patches_still_make_a_table_of_patches(make_field):
    patches = make_field((20, 20)).to_dataset(name="red").geocat.patch(10)
    assert len(patches.mean(("y", "x")).geocat.to_geodataframe()) == 4


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        (lambda t: t.set_crs(None, allow_override=True), {}, "has no CRS.*crs='EPSG:4326'"),
        (lambda t: t, {"crs": 32633}, r"is in EPSG:4326, and crs=32633 says otherwise.*to_crs"),
        (lambda t: t, {"id": "n"}, r"column 'n' does not tell the rows apart: 0 are null, 1 repeat.*'1'"),
        (lambda t: t, {"id": "gap"}, r"'gap' does not tell.*: 1 are null"),
        (lambda t: t.set_index("n"), {}, "The index does not tell"),
        (lambda t: t, {"id": "nothing"}, r"id= names \['nothing'\].*\['n', 'gap', 'bad', 'geometry'\]"),
        (lambda t: t, {"href": ["gap", "nothing"]}, r"href= names \['nothing'\]"),
        (lambda t: t, {"time": "nothing"}, "time='nothing' is neither a column.*nor a time"),
        (lambda t: t, {"time": ("gap", "nothing")}, "neither a column or two"),
        (lambda t: t, {"time": "bad"}, r"2 of 5 rows have times in 'bad'.*\n  1: .*tuesday.*\n  3: "),
        (lambda t: t.assign(a="2024", b="2023"), {"time": ("a", "b")}, "5 of 5 rows end before they start"),
        (lambda t: t.assign(scale=1), {}, r"columns \['scale'\] have names that a catalog uses.*rename"),
        (lambda t: t.assign(tags=[[1]] * 5), {}, r"\['tags \(object\)'\] hold what is no number"),
        (lambda t: t.assign(centre=t.geometry.envelope), {}, r"centre \(geometry\)"),
        (lambda t: t.set_geometry([shapely.box(0, 0, 1, 1)] * 4 + [shapely.LineString([(0, 0), (np.inf, 1)])]),
         {}, r"1 of 5 rows have coordinates that are not finite.*\n  4: "),
        (lambda t: gpd.GeoDataFrame({"a": [1]}), {}, "no active geometry"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused(make_table, change, arguments, message):
    table = make_table(
        n=[1, 1, 2, 3, 4], gap=["a", "b", "c", "d", None],
        bad=["2024", "tuesday", None, "2024-13-01", "2024"],
    )  # fmt: skip
    with pytest.raises(ValueError, match=f"(?s){message}"):
        xgc.from_geodataframe(change(table), **arguments)


def test_a_crs_is_given_where_there_is_none(make_table):
    table = make_table(None)
    assert xgc.from_geodataframe(table, crs="EPSG:4326").geocat.crs.to_epsg() == 4326


def test_files_that_are_no_tables_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no file.*nothing.gpkg"):
        xgc.from_geodataframe(tmp_path / "nothing.gpkg")
    (tmp_path / "a.geojson").write_text("hello")
    with pytest.raises(ValueError, match="cannot be read as a table with geometries"):
        xgc.from_geodataframe(tmp_path / "a.geojson")
    (tmp_path / "a.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="table without geometries"):
        xgc.from_geodataframe(tmp_path / "a.csv")
