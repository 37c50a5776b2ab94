"""Opening: what is at a path, and who else reads what we wrote there."""

from __future__ import annotations

import json

import duckdb
import geopandas as gpd
import numpy as np
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest
from shapely.geometry import box

import xgeocat as xgc
from xgeocat.catalog import parquet
from xgeocat.catalog.stac import to_dicts


@pytest.fixture
def made(make_item):
    return xgc.from_items(
        make_item(f"s{i:02d}", box(7 * i % 60, 0, 7 * i % 60 + 1, 1), f"202{i % 3}-0{i % 4 + 1}-01T00:00:00Z", q=i)
        for i in range(20)
    )  # fmt: skip


@pytest.fixture(params=[None, "year", "month"])
def written(request, made, tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "GROUP", 4)
    name = "c.parquet" if request.param is None else "c"
    return xgc.to_geoparquet(made, tmp_path / name, by=request.param)


# --- who else reads it ----------------------------------------------------------------------------


@pytest.mark.parametrize("aoi", [(10, 0, 20, 1), (-5, -5, -1, -1), (0, 0, 100, 1)], ids=str)
def test_duckdb_finds_by_boxes_what_a_query_finds(aoi, made, written):
    source = str(written) if written.is_file() else f"{written}/**/*.parquet"
    west, south, east, north = aoi
    rows = duckdb.sql(
        f"SELECT id FROM read_parquet('{source}') WHERE bbox.xmin <= {east} AND bbox.xmax >= {west}"
        f" AND bbox.ymin <= {north} AND bbox.ymax >= {south}"
    ).fetchall()
    assert sorted(name for (name,) in rows) == sorted(
        xgc.open_catalog(written).geocat.query(aoi).scene.values
    )


def test_folders_say_when_their_scenes_begin(made, written):
    if written.is_file():
        return
    table = (
        pads.dataset(written, partitioning="hive").to_table(["id", "year", "datetime"]).to_pylist()
    )
    assert len(table) == 20
    assert all(row["year"] == row["datetime"].year for row in table)
    rows = duckdb.sql(
        f"SELECT id FROM read_parquet('{written}/**/*.parquet', hive_partitioning=true) WHERE year = 2021"
    )
    assert {name for (name,) in rows.fetchall()} == set(made.geocat.query(time="2021").scene.values)


def test_geopandas_reads_a_file_or_a_folder(made, written):
    frame = gpd.read_parquet(written).set_index("id").loc[made.scene.values]
    assert all(a.equals(b) for a, b in zip(frame.geometry, made.geometry.values, strict=True))
    np.testing.assert_array_equal(frame["q"], made["q"].values)


# --- what is at a path ----------------------------------------------------------------------------


def test_an_empty_catalog_makes_a_folder_that_can_be_opened_and_added_to(made, tmp_path):
    nothing = made.isel(scene=[])
    path = xgc.to_geoparquet(nothing, tmp_path / "c", by="month")
    assert xgc.open_catalog(path).sizes["scene"] == 0
    assert xgc.append(made, path) == 20
    assert sorted(xgc.open_catalog(path).scene.values) == sorted(made.scene.values)


def test_a_place_where_something_is_is_not_overwritten_by_a_folder(made, written):
    with pytest.raises(FileExistsError, match=r"xgeocat\.append"):
        xgc.to_geoparquet(made, written, by="year")
    assert xgc.open_catalog(written).sizes["scene"] == 20


def test_a_relative_path_is_opened_for_good(made, tmp_path, monkeypatch):
    xgc.to_geoparquet(made, tmp_path / "c.parquet")
    monkeypatch.chdir(tmp_path)
    ds = xgc.open_catalog("c.parquet")
    monkeypatch.chdir("/")
    assert ds["q"].values.sum() == made["q"].values.sum()


def test_files_in_two_crs_are_refused(made, tmp_path):
    xgc.to_geoparquet(made, tmp_path / "a.parquet")
    xgc.to_geoparquet(xgc.from_items(to_dicts(made), crs=32631), tmp_path / "b.parquet")
    with pytest.raises(ValueError, match=r"EPSG:4326 and EPSG:32631 do not go into one catalog"):
        xgc.open_catalog(tmp_path)


def test_a_file_of_a_later_version_is_refused(made, tmp_path):
    path = xgc.to_geoparquet(made, tmp_path / "c.parquet")
    table = pq.read_table(path)
    about = json.loads(table.schema.metadata[b"geocat"]) | {"version": 99}
    metadata = {**table.schema.metadata, b"geocat": json.dumps(about).encode()}
    pq.write_table(table.replace_schema_metadata(metadata), path)
    with pytest.raises(ValueError, match="later xgeocat .*Update"):
        xgc.open_catalog(path)


@pytest.mark.parametrize("column", ["q", "geocat:item", "bbox", "datetime"])
def test_a_file_of_ours_that_lost_a_column_is_one_of_another_tool(column, made, tmp_path):
    # pyarrow keeps what we said of the table, whatever becomes of it.
    path = xgc.to_geoparquet(made, tmp_path / "c.parquet")
    pq.write_table(pq.read_table(path).drop_columns([column]), path)
    ds = xgc.open_catalog(path)
    assert ds.load().sizes["scene"] == 20
    assert ("q" in ds) == (column != "q")
    assert list(ds.geocat.query((7, 0, 7.5, 1)).scene.values) == list(
        made.geocat.query((7, 0, 7.5, 1)).scene.values
    )


@pytest.mark.parametrize(
    "name",
    ["type", "bbox", "created", "links", "stac_version", "datetime.x", "a.b", "geometry.wkb"],
)
@pytest.mark.parametrize("values", [[1, 2], [0.5, None], [True, False], ["x", None]], ids=str)
def test_properties_may_be_called_as_columns_are(name, values, make_item, tmp_path):
    made = xgc.from_items(
        make_item(f"s{i}", **({} if v is None else {name: v})) for i, v in enumerate(values)
    )
    ds = xgc.open_catalog(xgc.to_geoparquet(made, tmp_path / "c.parquet"))
    assert ds[name].dtype == made[name].dtype
    assert ds.load().identical(made)
