"""A catalog of raster files, from their headers."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pyproj
import pytest
import rasterio
import shapely
from affine import Affine
from shapely.geometry import Point, box

import xgeocat as xgc
from xgeocat.catalog.headers import read_header

ORIGIN = Affine(10, 0, 699960, 0, -10, 4400040)
DATED = r".*_(?P<date>\d{8})\.tif"


def ids(ds):
    return list(ds.scene.values)


def us(text):
    return np.datetime64(text, "us")


@pytest.fixture
def make_header(tmp_path):
    """Factory of sparse files: a full header, and no pixels."""

    def make(name, size=(64, 80), crs="EPSG:32610", transform=ORIGIN, dtype="uint16", **profile):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with rasterio.open(
            path, "w", driver="GTiff", height=size[0], width=size[1], dtype=dtype, crs=crs,
            transform=transform, SPARSE_OK=True, **{"count": 1, **profile},
        ):  # fmt: skip
            pass
        return path

    return make


# --- what a catalog of files says -----------------------------------------------------------------


def test_twenty_two_sparse_sentinel_2_tiles_are_twenty_two_scenes(make_header):
    days = [f"202406{day:02d}" for day in range(1, 23)]
    files = [
        make_header(f"T10SGJ_{day}T184919_B04.tif", (10980, 10980), tiled=True, nodata=0)
        for day in days
    ]
    assert sum(f.stat().st_size for f in files) < 22 * 200_000
    ds = xgc.from_files(files, pattern=r".*_(?P<date>\d{8})T\d{6}_.*\.tif", crs="EPSG:32610")
    assert ds.sizes["scene"] == 22
    assert ds.geocat.crs == pyproj.CRS.from_epsg(32610)
    assert tuple(ds.geocat.bounds.bbox) == (699960, 4290240, 809760, 4400040)
    assert {g.wkt for g in map(shapely.normalize, ds.geometry.values)} == {
        shapely.normalize(box(699960, 4290240, 809760, 4400040)).wkt
    }
    assert list(ds.start_time.values) == [us(f"{d[:4]}-{d[4:6]}-{d[6:]}") for d in days]
    assert ids(ds.geocat.query(time="2024-06-05/2024-06-07")) == ids(ds)[4:7]
    assert ds.geocat.query((0, 0, 1, 1)).sizes["scene"] == 0


def test_every_column_agrees_with_rasterio(make_header):
    files = [
        make_header("a_20240601.tif", nodata=0),
        make_header("b_20240602.tif", (10, 20), transform=Affine(20, 0, 7e5, 0, -20, 44e5),
                    dtype="float32", nodata=-9999.5),
        make_header("c_20240603.tif", dtype="int16"),
        make_header("d_20240604.tif", dtype="float64", nodata=np.nan, count=3),
    ]  # fmt: skip
    with rasterio.open(files[1], "r+") as file:
        file.scales, file.offsets = [0.5], [3.0]
    ds = xgc.from_files(files, pattern=DATED).isel(asset=0)
    assert ids(ds) == ["a_20240601", "b_20240602", "c_20240603", "d_20240604"]
    for i, path in enumerate(files):
        with rasterio.open(path) as file:
            row = ds.isel(scene=i)
            assert row.href.item() == str(path)
            assert rasterio.crs.CRS.from_string(row["proj:code"].item()) == file.crs
            assert tuple(row["proj:shape"].values) == file.shape
            assert Affine(*row["proj:transform"].values) == file.transform
            np.testing.assert_equal(
                row.nodata.item(), np.nan if file.nodata is None else file.nodata
            )
            assert row["dtype"].item() == file.dtypes[0]
            assert row.geometry.item().equals(box(*file.bounds))
            scaled = (file.scales[0], file.offsets[0]) != (1, 0)
            assert not scaled or (row.scale.item(), row.offset.item()) == (0.5, 3.0)
            assert scaled or np.isnan(row.scale.item())


def test_a_header_is_what_the_file_says(make_header):
    header = read_header(str(make_header("a.tif", (3, 4), nodata=7, count=2)))
    assert (header.crs, header.shape, header.nodata) == ("EPSG:32610", (3, 4), (7, 7))
    assert header.dtypes == ("uint16", "uint16")
    assert header.transform == tuple(ORIGIN)[:6]
    assert header.footprint.equals(box(699960, 4400010, 700000, 4400040))


def test_a_rotated_grid_has_a_rotated_footprint(make_header):
    transform = Affine(7, 7, 700000, 7, -7, 4400000)
    ds = xgc.from_files([make_header("r_20240601.tif", (100, 100), transform=transform)],
                        pattern=DATED)  # fmt: skip
    footprint = ds.geometry.item()
    assert footprint.area == pytest.approx(100 * 100 * 98)
    assert ds.geocat.query(Point(700001, 4400000.5)).sizes["scene"] == 1
    corner = box(*footprint.bounds).exterior.coords[0]
    assert ds.geocat.query(Point(corner).buffer(10)).sizes["scene"] == 0


def test_order_is_the_order_given(make_header):
    files = [make_header(f"{n}_20240601.tif") for n in "cab"]
    assert ids(xgc.from_files(iter(files), pattern=DATED)) == [
        "c_20240601", "a_20240601", "b_20240601",
    ]  # fmt: skip


def test_strings_and_paths_are_files(make_header):
    path = make_header("a_20240601.tif")
    for file in (path, str(path)):
        assert xgc.from_files([file], pattern=DATED).href.item() == str(path)


def test_collection_is_kept(make_header):
    path = make_header("a_20240601.tif")
    assert xgc.from_files([path], pattern=DATED, collection="x").collection.item() == "x"
    assert xgc.from_files([path], pattern=DATED).collection.item() is None


def test_no_files_are_an_empty_catalog():
    ds = xgc.from_files([])
    assert ds.sizes["scene"] == 0
    assert xgc.from_files([], crs="EPSG:32610").geocat.crs == pyproj.CRS.from_epsg(32610)


def test_one_file_by_itself_is_refused_as_no_list(make_header):
    path = str(make_header("a_20240601.tif"))
    with pytest.raises((TypeError, ValueError), match=r"list|several|iterable of"):
        xgc.from_files(path, pattern=DATED)


def test_relative_paths_are_found_from_anywhere(make_header, tmp_path, monkeypatch):
    path = make_header("data/a_20240601.tif")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    ds = xgc.from_files(["data/a_20240601.tif"], pattern=DATED)
    ds.geocat.to_geoparquet("out/catalog.parquet")
    monkeypatch.chdir(tmp_path / "out")
    assert Path(xgc.open_catalog("catalog.parquet").href.item()) == path


def test_items_of_files_are_valid_stac_with_their_grid(make_header):
    (item,) = xgc.to_items(xgc.from_files([make_header("a_20240601.tif", nodata=0)], pattern=DATED))
    assert item.properties["proj:code"] == "EPSG:32610"
    asset = item.assets["data"].extra_fields
    assert asset["proj:shape"] == [64, 80]
    assert asset["proj:transform"] == list(ORIGIN)[:6]
    assert asset["bands"] == [{"data_type": "uint16", "nodata": 0}]
    with rasterio.open(item.assets["data"].href) as file:
        west, south, east, north = rasterio.warp.transform_bounds(file.crs, 4326, *file.bounds)
    assert item.bbox == pytest.approx([west, south, east, north], abs=1e-6)


# --- times ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "start", "end"),
    [
        ("20240601", "2024-06-01", "2024-06-01T23:59:59.999999"),
        ("2024153", "2024-06-01", "2024-06-01T23:59:59.999999"),
        ("202406", "2024-06-01", "2024-06-30T23:59:59.999999"),
        ("2024", "2024-01-01", "2024-12-31T23:59:59.999999"),
        ("2024-06-01", "2024-06-01", "2024-06-01T23:59:59.999999"),
        ("2024-06", "2024-06-01", "2024-06-30T23:59:59.999999"),
        ("20240601T101530", "2024-06-01T10:15:30", "2024-06-01T10:15:30"),
        ("20240601101530", "2024-06-01T10:15:30", "2024-06-01T10:15:30"),
        ("2024-06-01T10:15:30", "2024-06-01T10:15:30", "2024-06-01T10:15:30"),
    ],
)
def test_dates_in_names_are_as_precise_as_they_are_written(text, start, end, make_header):
    ds = xgc.from_files([make_header(f"x@{text}.tif")], pattern=r"x@(?P<date>.+)\.tif")
    assert (ds.start_time.values[0], ds.end_time.values[0]) == (us(start), us(end))


def test_start_and_end_in_a_name_are_an_interval_and_other_groups_are_properties(make_header):
    pattern = r"(?P<tile>\w+)_(?P<start>\d{8})-(?P<end>\d{8})_(?P<version>v\d)\.tif"
    ds = xgc.from_files([make_header("t10_20240601-20240630_v2.tif")], pattern=pattern)
    assert ds.start_time.values[0] == us("2024-06-01")
    assert ds.end_time.values[0] == us("2024-06-30T23:59:59.999999")
    assert (ds.tile.item(), ds.version.item()) == ("t10", "v2")
    assert not {"start", "end", "date", "band"} & set(ds.data_vars)


def test_an_optional_group_that_is_absent_is_a_gap(make_header):
    files = [make_header("a_20240601.tif"), make_header("a_20240602_v2.tif")]
    ds = xgc.from_files(files, pattern=r"a_(?P<date>\d{8})(_(?P<version>v\d))?\.tif")
    assert ds.version.fillna("-").values.tolist() == ["-", "v2"]


def test_a_pattern_may_match_the_path_or_the_name(make_header):
    path = make_header("2024/06/01/scene.tif")
    pattern = r".*/(?P<start>\d{4})/\d\d/(?P<end>\d\d)/scene\.tif"
    with pytest.raises(ValueError, match="cannot be dated"):
        xgc.from_files([path], pattern=pattern)  # "01" is no date
    assert (
        xgc.from_files([path], pattern=r".*/(?P<year>\d{4})/.*", time="2024").year.item() == "2024"
    )
    assert xgc.from_files([path], pattern=r"(?P<kind>\w+)\.tif", time="2024").kind.item() == "scene"


@pytest.mark.parametrize(
    ("time", "starts", "ends"),
    [
        ("2024-06", ["2024-06-01"] * 2, ["2024-06-30T23:59:59.999999"] * 2),
        (us("2024-06-01T10:00"), ["2024-06-01T10:00"] * 2, ["2024-06-01T10:00"] * 2),
        (["2024-06", "2024-07-01T10:00:00+02:00"], ["2024-06-01", "2024-07-01T08:00"],
         ["2024-06-30T23:59:59.999999", "2024-07-01T08:00"]),
        (("2023", "2024"), ["2023-01-01", "2024-01-01"],
         ["2023-12-31T23:59:59.999999", "2024-12-31T23:59:59.999999"]),
        ([("2023", "2024"), "2024-06-01"], ["2023-01-01", "2024-06-01"],
         ["2024-12-31T23:59:59.999999", "2024-06-01T23:59:59.999999"]),
    ],
)  # fmt: skip
def test_times_may_be_one_or_one_per_file(time, starts, ends, make_header):
    ds = xgc.from_files([make_header("a.tif"), make_header("b.tif")], time=time)
    assert list(ds.start_time.values) == [us(s) for s in starts]
    assert list(ds.end_time.values) == [us(e) for e in ends]


@pytest.mark.parametrize(
    "time",
    [
        np.array(["2023-01-01", "2024-06-01"], "M8[D]"),
        pd.DatetimeIndex(["2023-01-01", "2024-06-01"]),
        pd.Series(pd.to_datetime(["2023-01-01", "2024-06-01"])),
    ],
    ids=lambda t: type(t).__name__,
)
def test_an_array_of_times_is_one_per_file_too(time, make_header):
    ds = xgc.from_files([make_header("a.tif"), make_header("b.tif")], time=time)
    assert list(ds.start_time.values) == [us("2023-01-01"), us("2024-06-01")]
    assert (ds.end_time.values - ds.start_time.values < np.timedelta64(1, "D")).all()


def test_a_mapping_gives_times_by_path_or_string(make_header):
    a, b = make_header("a.tif"), make_header("b.tif")
    ds = xgc.from_files([a, b], time={str(b): "2024", a: "2023"})
    assert list(ds.start_time.values) == [us("2023-01-01"), us("2024-01-01")]


def test_a_given_time_speaks_before_the_name(make_header):
    ds = xgc.from_files([make_header("a_20240601.tif")], pattern=DATED, time="2020")
    assert ds.start_time.values[0] == us("2020-01-01")


@pytest.mark.parametrize("time", [["2024"], ["2024"] * 3])
def test_a_list_of_another_length_is_refused(time, make_header):
    with pytest.raises(ValueError, match=rf"{len(time)} entries for 2 files"):
        xgc.from_files([make_header("a.tif"), make_header("b.tif")], time=time)


# --- what is refused ------------------------------------------------------------------------------


def test_all_files_that_cannot_be_read_are_listed(make_header, tmp_path):
    good = make_header("good_20240601.tif")
    bare = make_header("bare_20240601.tif", crs=None)
    (tmp_path / "cut_20240601.tif").write_bytes(good.read_bytes()[:60])
    (tmp_path / "empty_20240601.tif").write_bytes(b"")
    (tmp_path / "text_20240601.tif").write_text("hello")
    names = ["cut", "good", "empty", "bare", "text", "missing"]
    with pytest.raises(ValueError, match="5 files cannot be read") as caught:
        xgc.from_files([tmp_path / f"{n}_20240601.tif" for n in names], pattern=DATED)
    message = str(caught.value)
    for name in ("cut", "empty", "bare", "text", "missing"):
        assert f"{name}_20240601.tif" in message
    assert f"{bare}: has no CRS" in message
    assert "good_20240601.tif" not in message


def test_a_file_without_any_georeference_is_refused_the_same_way(tmp_path):
    path = tmp_path / "plain_20240601.tif"
    with (
        pytest.warns(rasterio.errors.NotGeoreferencedWarning),
        rasterio.open(path, "w", driver="GTiff", height=4, width=4, count=1, dtype="uint8") as file,
    ):
        file.write(np.ones((1, 4, 4), "uint8"))
    with pytest.raises(ValueError, match="has no CRS"):
        xgc.from_files([path], pattern=DATED)


def test_all_files_that_do_not_match_are_listed_before_any_is_opened(tmp_path):
    with pytest.raises(ValueError, match=r"2 files do not match the pattern") as caught:
        xgc.from_files(
            [tmp_path / "x.tif", tmp_path / "a_20240601.tif", tmp_path / "y.tif"], pattern=DATED
        )
    assert "x.tif" in str(caught.value)
    assert "y.tif" in str(caught.value)
    assert "a_20240601" not in str(caught.value)


def test_a_long_list_of_offenders_says_how_many_more():
    with pytest.raises(ValueError, match=r"50 files(.|\n)*and 30 more"):
        xgc.from_files([f"{i}.tif" for i in range(50)], pattern=DATED)


@pytest.mark.parametrize("name", ["a.tif", "a_20241399.tif", "a_20240632.tif"])
def test_a_file_without_a_date_is_listed(name, make_header):
    good = make_header("good_20240601.tif")
    with pytest.raises(ValueError, match=r"1 files cannot be dated(.|\n)*time=") as caught:
        xgc.from_files([good, make_header(name)], pattern=r"\w+?(_(?P<date>\d+))?\.tif")
    assert name in str(caught.value)
    assert str(good) not in str(caught.value)


def test_no_pattern_and_no_time_is_refused_with_both(make_header):
    with pytest.raises(ValueError, match=r"cannot be dated.*\(\?P<date>.*time="):
        xgc.from_files([make_header("a_20240601.tif")])


def test_an_interval_in_a_name_that_ends_before_it_starts_is_refused(make_header):
    with pytest.raises(ValueError, match="before it starts"):
        xgc.from_files([make_header("a_20240702-20240701.tif")],
                       pattern=r"a_(?P<start>\d+)-(?P<end>\d+)\.tif")  # fmt: skip


def test_a_mapping_without_one_of_the_files_is_refused_by_its_name(make_header):
    a, b = make_header("a.tif"), make_header("b.tif")
    with pytest.raises(ValueError, match=r"1 files cannot be dated(.|\n)*b\.tif"):
        xgc.from_files([a, b], time={a: "2024"})


# --- coordinate reference systems -----------------------------------------------------------------


def test_files_in_several_crs_need_one_to_be_chosen(make_header):
    files = [make_header("a_20240601.tif"), make_header("b_20240601.tif", crs="EPSG:32611")]
    with pytest.raises(ValueError, match=r"EPSG:32610.*EPSG:32611.*crs="):
        xgc.from_files(files, pattern=DATED)
    ds = xgc.from_files(files, pattern=DATED, crs="EPSG:4326")
    assert ds["proj:code"].values.tolist() == [["EPSG:32610"], ["EPSG:32611"]]
    for footprint, path in zip(ds.geometry.values, files, strict=True):
        with rasterio.open(path) as file:
            assert footprint.bounds == pytest.approx(
                rasterio.warp.transform_bounds(file.crs, 4326, *file.bounds), abs=1e-6
            )
    in_utm = xgc.from_files(files, pattern=DATED, crs=32610)
    assert in_utm.geometry.values[0].equals_exact(ds_box(files[0]), 1e-6, normalize=True)
    assert in_utm.geometry.values[1].bounds[0] > in_utm.geometry.values[0].bounds[2] + 4e5


def ds_box(path):
    with rasterio.open(path) as file:
        return box(*file.bounds)


@pytest.mark.parametrize(
    ("crs", "transform", "tolerance"),
    [
        ("EPSG:4326", Affine(0.01, 0, 10, 0, -0.01, 50), 0),
        ("EPSG:4258", Affine(0.01, 0, 10, 0, -0.01, 50), 1e-9),
        ("EPSG:3413", Affine(100, 0, -20000, 0, -100, 30000), 0),
        ("EPSG:3035", Affine(100, 0, 4e6, 0, -100, 3e6), 0),
        ("+proj=laea +lat_0=10 +lon_0=5 +datum=WGS84", Affine(10, 0, 100, 0, -10, 900), 0.01),
    ],
)
def test_the_crs_that_files_share_is_the_catalog_s(crs, transform, tolerance, make_header):
    path = make_header("a_20240601.tif", crs=crs, transform=transform)
    ds = xgc.from_files([path], pattern=DATED)
    with rasterio.open(path) as file:
        assert ds.geocat.crs.equals(pyproj.CRS.from_wkt(file.crs.to_wkt()), ignore_axis_order=True)
        assert tuple(ds.geocat.bounds.bbox) == pytest.approx(tuple(file.bounds), abs=tolerance)


def test_a_real_file_across_180_is_found_on_both_sides(shared_data):
    path = shared_data / "cog_dateline.tif"
    with rasterio.open(path) as file:
        bounds = tuple(file.bounds)
    ds = xgc.from_files([path], time="2020")
    assert tuple(ds.geocat.bounds.bbox) == bounds
    in_degrees = xgc.from_files([path], time="2020", crs=4326)
    for lon, hit in ((179.5, 1), (-179.5, 1), (0, 0), (170, 0)):
        assert in_degrees.geocat.query(Point(lon, 51.6)).sizes["scene"] == hit


def test_the_item_of_a_file_across_180_has_a_bbox_across_180(make_header):
    # UTM zone 60, 50 km on each side of the antimeridian. RFC 7946, 5.2: west > east.
    to_utm = pyproj.Transformer.from_crs(4326, 32660, always_xy=True)
    x, y = to_utm.transform(180, 50)
    path = make_header("a_20240601.tif", (10, 100), "EPSG:32660",
                       Affine(1000, 0, x - 50_000, 0, -1000, y))  # fmt: skip
    ds = xgc.from_files([path], pattern=DATED)
    assert xgc.to_items(ds)[0].geometry["type"] == "MultiPolygon"
    west, _, east, _ = xgc.to_items(ds)[0].bbox
    assert 179 < west < 180
    assert -180 < east < -179


def test_real_files_of_two_zones_are_one_catalog(shared_data):
    files = [
        shared_data / "s2_33TWM_utm34" / "B04.tif",
        next((shared_data / "s2_33TW").rglob("*33TWM_20230820*/B04.tif"), None)
        or next((shared_data / "s2_33TW").rglob("*33TWM_20230820*/*.tif")),
    ]
    ds = xgc.from_files(files, time="2023-08-20", crs=4326)
    assert ds["proj:code"].values.ravel().tolist() == ["EPSG:32634", "EPSG:32633"]
    one, other = ds.geometry.values
    assert one.intersection(other).area > 0.9 * other.area


# --- bands and names ------------------------------------------------------------------------------

BANDS = r".*_(?P<date>\d{8})[_-](?P<band>B\d\d)\.tiff?"


def test_files_that_differ_only_in_band_are_assets_of_one_scene(make_header):
    names = ["S_20240601_B02", "S_20240602_B02", "S_20240601_B03", "S_20240602_B04"]
    files = {n: make_header(f"{n}.tif") for n in names}
    ds = xgc.from_files(files.values(), pattern=BANDS)
    assert ids(ds) == ["S_20240601", "S_20240602"]
    assert list(ds.asset.values) == ["B02", "B03", "B04"]
    found = ds.href.fillna("-").values.tolist()
    assert found == [
        [str(files["S_20240601_B02"]), str(files["S_20240601_B03"]), "-"],
        [str(files["S_20240602_B02"]), "-", str(files["S_20240602_B04"])],
    ]
    assert "band" not in ds.data_vars


def test_bands_of_other_resolutions_have_their_own_grids_and_one_footprint(make_header):
    files = [
        make_header("S_20240601_B02.tif", (60, 60)),
        make_header(
            "S_20240601_B11.tif", (30, 30), transform=Affine(20, 0, 699960, 0, -20, 4400040)
        ),
        make_header(
            "S_20240601_B01.tif", (11, 11), transform=Affine(60, 0, 699960, 0, -60, 4400040)
        ),
    ]
    ds = xgc.from_files(files, pattern=BANDS)
    assert ds["proj:shape"].values.tolist() == [[[60, 60], [30, 30], [11, 11]]]
    assert ds.geometry.item().equals(box(699960, 4400040 - 660, 699960 + 660, 4400040))


def test_files_named_by_their_band_alone_are_told_apart_by_their_folder(make_header):
    files = [make_header(f"{d}/{b}.tif") for d in ("S1", "S2") for b in ("B02", "B03")]
    ds = xgc.from_files(files, pattern=r"(?P<band>B\d\d)\.tif", time="2024")
    assert ids(ds) == ["S1", "S2"]
    assert ds.href.values.ravel().tolist() == [str(f) for f in files]


def test_a_band_at_the_front_of_a_name_leaves_a_clean_id(make_header):
    files = [make_header(f"{b}_20240601.tif") for b in ("B02", "B03")]
    ds = xgc.from_files(files, pattern=r"(?P<band>B\d\d)_(?P<date>\d{8})\.tif")
    assert ids(ds) == ["20240601"]


def all_hrefs(ds):
    return sorted(h for h in ds.href.values.ravel() if isinstance(h, str))


@pytest.mark.parametrize(
    ("names", "pattern"),
    [
        (["one/T_20240601.tif", "two/T_20240601.tif"], DATED),
        (["one/x/T_20240601.tif", "two/x/T_20240601.tif"], DATED),
        (["one/x/T_20240601.tif", "two/x/T_20240601.tif", "T_20240601.tif"], DATED),
        (["T_20240601.tif", "T_20240601.tiff"], r".*_(?P<date>\d{8})\.tiff?"),
        (["m/B02_20240601_v1.tif", "n/B02_20240601_v1.tif"],
         r"(?P<band>B\d\d)_(?P<date>\d{8})_v1\.tif"),
        (["S_20240601_B02.tif", "S_20240601_B02.tiff"], BANDS),
        (["S_20240601_B02.tif", "S_20240601-B02.tif"], BANDS),
        (["a/x/B02.tif", "b/x/B02.tif"], r"(?P<band>B\d\d)\.tif"),
        (["a/S_20240601_B02.tif", "b/S_20240601_B03.tif"], BANDS),
    ],
)  # fmt: skip
def test_no_file_is_dropped_in_silence(names, pattern, make_header):
    files = [make_header(name) for name in names]
    try:
        ds = xgc.from_files(files, pattern=pattern, time="2024-06-01")
    except ValueError as error:
        assert names[-1] in str(error)  # noqa: PT017 - refusing is one of two right answers
    else:
        assert all_hrefs(ds) == sorted(map(str, files))
        assert len(set(ids(ds))) == ds.sizes["scene"]


def test_scenes_of_one_stem_in_different_folders_are_named_by_both(make_header):
    files = [make_header("one/T_20240601.tif"), make_header("two/T_20240601.tif")]
    assert ids(xgc.from_files(files, pattern=DATED)) == ["one_T_20240601", "two_T_20240601"]


def test_a_file_given_twice_is_one_scene_or_refused(make_header):
    path = make_header("a_20240601.tif")
    try:
        ds = xgc.from_files([path, path], pattern=DATED)
    except ValueError as error:
        assert "a_20240601" in str(error)  # noqa: PT017 - refusing is one of two right answers
    else:
        assert all_hrefs(ds) == [str(path)]


def test_a_file_given_twice_with_two_times_is_refused(make_header):
    path = make_header("a.tif")
    with pytest.raises(ValueError, match=r"a\.tif"):
        xgc.from_files([path, path], time=["2023", "2024"])


def test_bands_of_one_scene_with_different_times_are_refused(make_header):
    files = [make_header("S_20240601_B02.tif"), make_header("S_20240601_B03.tif")]
    with pytest.raises(ValueError, match="S_20240601"):
        xgc.from_files(files, pattern=BANDS, time=["2023", "2024"])


def test_a_url_is_named_by_its_last_part(make_header, tmp_path):
    make_header("a_20240601.tif")
    href = f"/vsisubfile/0_0,{tmp_path}/a_20240601.tif"
    ds = xgc.from_files([href], pattern=DATED)
    assert ids(ds) == ["a_20240601"]
    assert ds.href.item() == href


def test_many_files_are_read_with_their_own_headers(make_header):
    # Headers are read by several threads; each must land in its own row.
    files = [
        make_header(
            f"f_{20240000 + i}.tif", (8 + i, 8), transform=Affine(10, 0, 1000 * i, 0, -10, 0)
        )
        for i in range(1, 60)
    ]
    ds = xgc.from_files(files, time="2024")
    assert ds["proj:shape"].values[:, 0, 0].tolist() == [8 + i for i in range(1, 60)]
    assert [g.bounds[0] for g in ds.geometry.values] == [1000 * i for i in range(1, 60)]
    assert all_hrefs(ds) == sorted(map(os.fspath, files))
