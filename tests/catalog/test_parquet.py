"""Catalogs on disk: GeoParquet that comes back identical, and that other tools read as it is."""

from __future__ import annotations

import asyncio
import json
import os

import geopandas as gpd
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pystac
import pytest
import shapely
import stac_geoparquet.arrow as sga
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely.geometry import MultiPolygon, Point, box

import xgeocat as xgc
from xgeocat.catalog.stac import to_dicts


@pytest.fixture
def ds(make_item):
    red = {
        "href": "https://example.com/r.tif", "roles": ["data"], "proj:epsg": 32631,
        "proj:shape": [10, 10], "proj:transform": [10, 0, 5e5, 0, -10, 1e5],
        "raster:bands": [{"nodata": 0, "data_type": "uint16", "scale": 1e-4, "offset": -0.1}],
    }  # fmt: skip
    return xgc.from_items(
        make_item(f"s{i}", box(i, 0, i + 1, 1), f"2024-0{i + 1}-01T00:00:00Z", number=i,
                  assets={"red": red} if i else {"red": red, "nir": {**red, "title": "NIR"}},
                  flag=bool(i % 2), **{"eo:cloud_cover": i * 1.5, "nested": {"a": {"b": [1, 2]}}})
        for i in range(4)
    )  # fmt: skip


def round_trip(ds, path):
    assert ds.geocat.to_geoparquet(path) == path
    back = xgc.open_catalog(path)
    xr.testing.assert_identical(back, ds)
    assert {k: v.dtype for k, v in back.variables.items()} == {
        k: v.dtype for k, v in ds.variables.items()
    }
    assert back.geocat.crs == ds.geocat.crs
    assert to_dicts(back) == to_dicts(ds)
    return back


def masked(ds, *picks):
    return ds.isel(scene=list(picks))


# --- there and back -------------------------------------------------------------------------------


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:32631", "EPSG:3413", "OGC:CRS84",
                                 "+proj=laea +lat_0=10 +lon_0=5 +datum=WGS84"])  # fmt: skip
def test_a_catalog_comes_back_identical_in_its_crs(crs, ds, tmp_path):
    projected = xgc.from_items(to_dicts(ds), crs=crs)
    back = round_trip(projected, tmp_path / "c.parquet")
    place = projected.geometry.values[2]
    assert list(back.geocat.query(place.centroid).scene.values) == ["s2"]


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:32631"])
def test_an_empty_catalog_comes_back_identical(crs, tmp_path):
    back = round_trip(xgc.from_items([], crs=crs), tmp_path / "c.parquet")
    assert back.sizes["scene"] == 0


def test_a_selection_of_nothing_can_be_written_and_opened(ds, tmp_path):
    nothing = ds.geocat.query((100, 50, 101, 51))
    back = xgc.open_catalog(nothing.geocat.to_geoparquet(tmp_path / "c.parquet"))
    assert back.sizes["scene"] == 0
    assert back.geocat.crs == ds.geocat.crs


def test_a_selection_comes_back_in_its_order(ds, tmp_path):
    back = xgc.open_catalog(masked(ds, 3, 0, 2).geocat.to_geoparquet(tmp_path / "c.parquet"))
    assert list(back.scene.values) == ["s3", "s0", "s2"]
    assert to_dicts(back) == to_dicts(masked(ds, 3, 0, 2))


def test_a_catalog_of_files_comes_back_identical(make_tif, tmp_path):
    files = [make_tif(f"a_2024060{i}.tif") for i in range(1, 4)]
    made = xgc.from_files(files, pattern=r"a_(?P<date>\d{8})\.tif")
    back = round_trip(made, tmp_path / "c.parquet")
    assert tuple(back.geocat.bounds.bbox) == tuple(made.geocat.bounds.bbox)


@pytest.mark.parametrize(
    "values",
    [
        np.array([0.5, np.nan, 1e-300, -3.0]),
        np.arange(4),
        np.arange(4) > 1,
        np.array(["a", "", "ü", "d"], dtype=object),
        np.array(["a", None, "c", None], dtype=object),
        np.array([2**60, -(2**60), 0, 1]),
    ],
    ids=["floats", "integers", "booleans", "text", "text with gaps", "long integers"],
)
def test_variables_that_a_catalog_gained_come_back_identical(values, ds, tmp_path):
    round_trip(ds.assign(gained=("scene", values)), tmp_path / "c.parquet")


@pytest.mark.parametrize(
    "change",
    [
        lambda ds: ds.assign(quality=(("scene", "asset"), np.ones((4, 2)))),
        lambda ds: ds.assign_coords(label=("scene", list("abcd"))),
        lambda ds: ds.assign_attrs(title=("mine", "yours")),
        lambda ds: ds.assign(age=("scene", np.arange(4).astype("m8[s]"))),
    ],
    ids=["per asset", "coordinate", "attrs", "timedelta"],
)
def test_what_cannot_be_kept_is_refused_and_not_dropped(change, ds, tmp_path):
    changed = change(ds)
    try:
        back = xgc.open_catalog(changed.geocat.to_geoparquet(tmp_path / "c.parquet"))
    except ValueError as error:
        assert any(name in str(error) for name in ("quality", "label", "title", "age"))  # noqa: PT017
    else:
        xr.testing.assert_identical(back, changed)


@pytest.mark.parametrize(
    "change",
    [
        {"time": None},
        {"time": ("2024-01-01T00:00:00Z", "2024-01-31T00:00:00Z")},
        {"time": "2024-06-01T10:00:00+02:00"},
        {"time": "2024-06-01T10:00:00.1234567Z"},
        {"geometry": Point(1, 2)},
        {"geometry": MultiPolygon([box(179, 0, 180, 1), box(-180, 0, -179, 1)])},
        {"geometry": box(179, 0, 181, 1)},
        {"geometry": None},
        {"assets": {}},
        {"assets": {"a/b c": {"href": "https://example.com/x", "deep": {"er": []}}}},
        {"collection": None},
        {"empty": {}},
        {"empty": []},
        {"null": None},
        {"number": 2**60},
        {"number": 2**70},
        {"created": "2020-10-31"},
        {"updated": "not a date"},
        {"mixed": [1, "a", {"b": 2}]},
        {"text": "ü\n\x00\U0001f6f0"},
    ],
    ids=str,
)
def test_an_item_of_any_shape_comes_back_identical(change, make_item, tmp_path):
    round_trip(xgc.from_items([make_item("a", **change)]), tmp_path / "c.parquet")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"q": 1}, {}), ({"q": 2**60}, {}), ({"q": None}, {"q": 3}), ({"q": {"a": 1}}, {"q": {}}),
        ({"q": [1]}, {"q": []}), ({"geometry": None}, {}), ({"time": None}, {}),
        ({"geometry": Point(0, 0)}, {}), ({"collection": None}, {}),
    ],
    ids=str,
)  # fmt: skip
def test_items_that_differ_in_what_they_say_come_back_identical(one, other, make_item, tmp_path):
    made = xgc.from_items([make_item("a", **one), make_item("b", **other)])
    round_trip(made, tmp_path / "c.parquet")


@pytest.mark.parametrize(
    ("one", "other"), [(1, "x"), ({"a": 1}, "x"), ([1], [["x"]]), (True, {"a": 1})], ids=str
)
def test_kinds_that_no_column_holds_are_kept_or_refused_with_what_to_do(
    one, other, make_item, tmp_path
):
    made = xgc.from_items([make_item("a", q=one), make_item("b", q=other)])
    try:
        round_trip(made, tmp_path / "c.parquet")
    except ValueError as error:
        assert "a file for each collection" in str(error)  # noqa: PT017 - the documented answer
        assert list(tmp_path.iterdir()) == []


def test_relative_hrefs_start_at_the_file_so_that_a_folder_can_be_moved(make_item, tmp_path):
    made = xgc.from_items([make_item("a", assets={"red": {"href": "./out/red.tif"}})])
    (tmp_path / "run").mkdir()
    made.geocat.to_geoparquet(tmp_path / "run" / "catalog.parquet")
    (tmp_path / "run").rename(tmp_path / "moved")
    assert xgc.open_catalog(tmp_path / "moved").href.item() == f"{tmp_path}/moved/out/red.tif"


def test_two_scenes_of_one_id_come_back(make_item, tmp_path):
    round_trip(xgc.from_items([make_item("a"), make_item("a")]), tmp_path / "c.parquet")


properties = st.dictionaries(
    st.sampled_from(["a", "b", "eo:cloud_cover", "scene"]),
    st.one_of(st.none(), st.integers(-(2**53), 2**53)), max_size=4,
)  # fmt: skip


@given(st.lists(st.tuples(st.integers(-179, 178), properties), max_size=6),
       st.sampled_from([4326, 32631, 3857]))  # fmt: skip
@settings(max_examples=15, deadline=None)
def test_any_catalog_comes_back_identical(tmp_path_factory, make_item, rows, crs):
    made = [
        make_item(f"s{i}", box(lon, 0, lon + 1, 1) if crs == 4326 else box(2, 0, 3, 1), **values)
        for i, (lon, values) in enumerate(rows)
    ]
    round_trip(xgc.from_items(made, crs=crs), tmp_path_factory.mktemp("any") / "c.parquet")


@pytest.mark.parametrize(
    "provider",
    ["cop-dem", "dea-ard", "hls", "modis", "sentinel1", "sentinel2-cdse",
     "sentinel2-earthsearch-v1", "sentinel2-planetarycomputer", "sentinel2-stactools"],
)  # fmt: skip
def test_real_catalogs_come_back_identical(provider, real_items, tmp_path):
    made = real_items(provider)
    for item in made:
        for asset in item["assets"].values():
            # Relative hrefs would be resolved against the file, on purpose.
            if "://" not in asset.get("href", "://"):
                asset["href"] = f"https://example.com/{asset['href'].lstrip('./')}"
    round_trip(xgc.from_items(made), tmp_path / "c.parquet")


@pytest.mark.slow
@pytest.mark.parametrize("provider", ["landsat", "misc", "sentinel2-other"])
def test_each_real_item_of_mixed_providers_can_be_written(provider, real_items, tmp_path):
    wrong = []
    for item in real_items(provider):
        try:
            made = xgc.from_items([item])
        except ValueError:
            continue  # test_stac.py lists these
        try:
            back = xgc.open_catalog(made.geocat.to_geoparquet(tmp_path / "c.parquet"))
        except Exception as error:
            wrong.append(f"{item['id']}: {type(error).__name__} {error}"[:160])
        else:
            for was, found in zip(to_dicts(made), to_dicts(back), strict=True):
                assert found["properties"] == was["properties"]
                assert found["geometry"] == was["geometry"]
                assert set(found["assets"]) == set(was["assets"])
    assert wrong == []


# --- other tools ----------------------------------------------------------------------------------


def test_geopandas_reads_it_as_it_is(ds, tmp_path):
    frame = gpd.read_parquet(ds.geocat.to_geoparquet(tmp_path / "c.parquet"))
    assert list(frame["id"]) == list(ds.scene.values)
    assert frame.crs.to_epsg() in (4326, None) or frame.crs == "OGC:CRS84"
    assert all(a.equals(b) for a, b in zip(frame.geometry, ds.geometry.values, strict=True))
    assert list(frame["eo:cloud_cover"]) == list(ds["eo:cloud_cover"].values)
    np.testing.assert_array_equal(
        frame["datetime"].dt.tz_convert(None).to_numpy("M8[us]"), ds.start_time.values
    )


def test_a_projected_catalog_is_written_where_geopandas_finds_it(ds, tmp_path):
    projected = xgc.from_items(to_dicts(ds), crs=32631)
    frame = gpd.read_parquet(projected.geocat.to_geoparquet(tmp_path / "c.parquet"))
    assert all(a.equals(b) for a, b in zip(frame.geometry, ds.geometry.values, strict=True))


def test_pyarrow_reads_plain_columns(ds, tmp_path):
    table = pq.read_table(ds.geocat.to_geoparquet(tmp_path / "c.parquet"))
    assert table["id"].to_pylist() == list(ds.scene.values)
    assert table["number"].to_pylist() == [0, 1, 2, 3]
    assert pa.types.is_timestamp(table.schema.field("datetime").type)
    geo = json.loads(table.schema.metadata[b"geo"])
    assert geo["primary_column"] == "geometry"
    assert geo["columns"]["geometry"]["encoding"] == "WKB"
    assert shapely.from_wkb(table["geometry"][1].as_py()).equals(box(1, 0, 2, 1))


def test_stac_geoparquet_reads_the_same_items(ds, tmp_path):
    table = pq.read_table(ds.geocat.to_geoparquet(tmp_path / "c.parquet"))
    found = [pystac.Item.from_dict(i) for i in sga.stac_table_to_items(table)]
    assert [i.id for i in found] == list(ds.scene.values)
    assert [i.assets["red"].href for i in found] == ["https://example.com/r.tif"] * 4
    assert [i.properties["eo:cloud_cover"] for i in found] == [0, 1.5, 3, 4.5]


def test_rustac_reads_the_same_items(ds, tmp_path):
    rustac = pytest.importorskip("rustac")
    path = ds.geocat.to_geoparquet(tmp_path / "c.parquet")

    async def read():
        return (await rustac.read(str(path)))["features"]

    found = asyncio.run(read())
    assert [i["id"] for i in found] == list(ds.scene.values)
    assert [i["properties"]["eo:cloud_cover"] for i in found] == [0, 1.5, 3, 4.5]
    assert [i["assets"]["red"]["href"] for i in found] == ["https://example.com/r.tif"] * 4
    assert found[1]["properties"]["datetime"].startswith("2024-02-01T00:00:00")


def check_foreign(found, made):
    """The same rows, whatever columns the writer had to fill with nulls."""
    assert list(found.scene.values) == list(made.scene.values)
    found = found.sel(asset=made.asset)
    for name in ("start_time", "end_time", "eo:cloud_cover", "flag", "nodata", "scale", "offset",
                 "proj:shape", "proj:transform"):  # fmt: skip
        np.testing.assert_array_equal(found[name].values, made[name].values, name)
    for name in ("collection", "href", "proj:code", "dtype"):
        assert (found[name].fillna("-").values == made[name].fillna("-").values).all(), name
    assert all(
        a.equals(b) for a, b in zip(found.geometry.values, made.geometry.values, strict=True)
    )
    assert list(found.geocat.query((2.2, 0.2, 2.8, 0.8)).scene.values) == ["s2"]


def test_a_file_of_stac_geoparquet_is_read(ds, tmp_path):
    table = sga.parse_stac_items_to_arrow(to_dicts(ds)).read_all()
    sga.to_parquet(table, tmp_path / "c.parquet")
    check_foreign(xgc.open_catalog(tmp_path / "c.parquet"), ds)


def test_a_file_of_rustac_is_read(ds, tmp_path):
    rustac = pytest.importorskip("rustac")

    async def write():
        await rustac.write(str(tmp_path / "c.parquet"), to_dicts(ds))

    asyncio.run(write())
    check_foreign(xgc.open_catalog(tmp_path / "c.parquet"), ds)


@pytest.mark.parametrize(
    ("name", "count"),
    [("1000-sentinel-2-items", 1000), ("100-landsat-items", 100),
     ("sentinel-1-global-mosaics", None)],
)  # fmt: skip
def test_real_foreign_files_are_read_row_by_row(name, count, shared_data, planetary_computer):
    path = shared_data / "stac" / f"{name}.parquet"
    ds = planetary_computer if count == 1000 else xgc.open_catalog(path)
    frame = gpd.read_parquet(path)
    assert ds.sizes["scene"] == len(frame) == (count or len(frame))
    assert list(ds.scene.values) == list(frame["id"])
    assert all(a.equals(b) for a, b in zip(ds.geometry.values, frame.geometry, strict=True))
    start = frame["start_datetime"] if "start_datetime" in frame else frame["datetime"]
    start = start.fillna(frame["datetime"]).dt.tz_convert(None)
    np.testing.assert_array_equal(ds.start_time.values, start.to_numpy("M8[us]"))
    assets = frame["assets"][0]
    for key, asset in assets.items():
        if asset is not None:
            assert ds.href.isel(scene=0).sel(asset=key).item() == asset["href"]


def test_a_real_foreign_file_comes_back_identical_from_ours(shared_data, tmp_path):
    ds = xgc.open_catalog(shared_data / "stac" / "sentinel-1-global-mosaics.parquet")
    round_trip(ds, tmp_path / "c.parquet")


# --- the xarray backend ---------------------------------------------------------------------------


def test_xarray_opens_it_as_a_catalog(ds, tmp_path):
    path = ds.geocat.to_geoparquet(tmp_path / "c.parquet")
    for given_path in (path, str(path)):
        found = xr.open_dataset(given_path, engine="geocat")
        xr.testing.assert_identical(found, ds)
    assert list(found.geocat.query(Point(2.5, 0.5)).scene.values) == ["s2"]


def test_xarray_leaves_out_what_it_is_told(ds, tmp_path):
    path = ds.geocat.to_geoparquet(tmp_path / "c.parquet")
    for drop in ("number", ["number", "flag"]):
        found = xr.open_dataset(path, engine="geocat", drop_variables=drop)
        assert not {drop} & set(found) if isinstance(drop, str) else not set(drop) & set(found)
        assert "eo:cloud_cover" in found


def test_xarray_ignores_names_to_leave_out_that_are_not_there(ds, tmp_path):
    # As every other engine does.
    path = ds.geocat.to_geoparquet(tmp_path / "c.parquet")
    assert "number" in xr.open_dataset(path, engine="geocat", drop_variables=["unknown"])


def test_xarray_does_not_guess_that_a_parquet_is_a_catalog(ds, tmp_path):
    path = ds.geocat.to_geoparquet(tmp_path / "c.parquet")
    with pytest.raises(ValueError, match="engine"):
        xr.open_dataset(path)


# --- what goes wrong ------------------------------------------------------------------------------


def test_a_missing_path_says_what_to_give(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no catalog at .*nowhere\.parquet.*Give"):
        xgc.open_catalog(tmp_path / "nowhere.parquet")


def test_a_folder_without_a_catalog_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"catalog\.parquet"):
        xgc.open_catalog(tmp_path)


@pytest.mark.parametrize("cut", [0, 3, 100, 0.5, 0.99])
def test_a_truncated_file_is_refused_by_its_name(cut, ds, tmp_path):
    path = ds.geocat.to_geoparquet(tmp_path / "c.parquet")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(cut * len(whole)) if isinstance(cut, float) else cut])
    with pytest.raises(ValueError, match=r"c\.parquet is no readable Parquet file"):
        xgc.open_catalog(path)


def test_a_damaged_file_is_refused_or_read_but_never_read_wrongly(ds, tmp_path):
    path = ds.geocat.to_geoparquet(tmp_path / "c.parquet")
    whole = path.read_bytes()
    for at in range(100, len(whole) - 20_000, 4000):
        path.write_bytes(whole[:at] + bytes(600) + whole[at + 600 :])
        with pytest.raises(ValueError, match=r"c\.parquet.* cannot be read"):
            xgc.open_catalog(path).load()


@pytest.mark.parametrize("column", ["a", "id", "geometry"])
def test_a_table_of_something_else_is_refused_by_its_columns(column, tmp_path):
    pq.write_table(pa.table({column: ["x"]}), tmp_path / "t.parquet")
    with pytest.raises(ValueError, match=rf"holds no STAC items.*'{column}'"):
        xgc.open_catalog(tmp_path / "t.parquet")


def test_a_geoparquet_of_something_else_is_refused_by_its_name(tmp_path):
    frame = gpd.GeoDataFrame({"id": ["a"]}, geometry=[Point(0, 0)], crs=4326)
    frame.to_parquet(tmp_path / "t.parquet")
    with pytest.raises(ValueError, match=r"t\.parquet"):
        xgc.open_catalog(tmp_path / "t.parquet")


def test_a_failed_write_leaves_the_older_file_as_it_was(ds, tmp_path, monkeypatch):
    path = ds.geocat.to_geoparquet(tmp_path / "c.parquet")
    before = path.read_bytes()

    def fail(*args, **kwargs):
        raise pa.ArrowInvalid("no column holds this")

    with monkeypatch.context() as broken:
        broken.setattr(pq.ParquetWriter, "write_table", fail)
        with pytest.raises(ValueError, match="no column holds this"):
            masked(ds, 1).geocat.to_geoparquet(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["c.parquet"]
    xr.testing.assert_identical(xgc.open_catalog(path), ds)


def test_a_disk_that_fills_up_leaves_the_older_file_as_it_was(ds, tmp_path, monkeypatch):
    path = ds.geocat.to_geoparquet(tmp_path / "c.parquet")
    before = path.read_bytes()

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    with pytest.raises(OSError, match="No space left"):
        masked(ds, 1).geocat.to_geoparquet(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["c.parquet"]


def test_a_write_replaces_the_older_file(ds, tmp_path):
    path = ds.geocat.to_geoparquet(tmp_path / "c.parquet")
    masked(ds, 1).geocat.to_geoparquet(path)
    assert list(xgc.open_catalog(path).scene.values) == ["s1"]
    assert os.listdir(tmp_path) == ["c.parquet"]


def test_a_folder_that_is_not_there_is_refused_by_its_name(ds, tmp_path):
    with pytest.raises(OSError, match="nowhere"):
        ds.geocat.to_geoparquet(tmp_path / "nowhere" / "c.parquet")


def test_a_folder_is_no_place_for_a_file(ds, tmp_path):
    with pytest.raises(IsADirectoryError, match=f"{tmp_path.name} is a folder. Name the file"):
        ds.geocat.to_geoparquet(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_partitioning_is_refused_before_anything_is_written(ds, tmp_path):
    with pytest.raises(ValueError, match=r"by='week' must be one of \('year', 'month'\)"):
        ds.geocat.to_geoparquet(tmp_path / "c", by="week")
    assert list(tmp_path.iterdir()) == []


def test_a_catalog_is_opened_from_a_path_and_nothing_else():
    with pytest.raises(TypeError, match="not from a list. Of STAC items xgeocat.from_items"):
        xgc.open_catalog([])


def test_what_is_no_catalog_is_refused_by_the_name_of_what_was_called(tmp_path):
    with pytest.raises(TypeError, match="to_geoparquet works on a catalog"):
        xgc.to_geoparquet(
            xr.Dataset({"red": (("y", "x"), np.zeros((2, 2)))}), tmp_path / "x.parquet"
        )
    assert list(tmp_path.iterdir()) == []
