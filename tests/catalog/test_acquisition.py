"""Which scenes are one acquisition: real items of every provider, and the edge of a datatake."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import shapely

import xgeocat as xgc
from xgeocat.catalog.acquisition import acquisitions, versions

T1 = "LC08_L2SP_033032_20241127_20241205_02_T1"


def is_same(make_item, *scenes):
    """Whether all of some scenes (id, properties) are of one known acquisition."""
    items = [make_item(id, **properties) for id, properties in scenes]
    found = acquisitions(xgc.from_items(items))
    assert len(found) == len(items)
    return found[0] is not None and len(set(found)) == 1


@pytest.mark.parametrize(
    ("name", "unknown"),
    [
        ("sentinel2-earthsearch-v1", 0),
        ("sentinel2-planetarycomputer", 1),  # an example without any property
        ("sentinel2-cdse", 1),  # a mosaic of a quarter of a year
        ("landsat", 0),
        ("sentinel1", 0),
        ("modis", 0),
        ("cop-dem", 11),  # no acquisition: a product of years
    ],
)
def test_real_scenes_are_known(real_items, name, unknown):
    found = acquisitions(xgc.from_items(real_items(name)))
    assert sum(key is None for key in found) == unknown


def test_real_sentinel2_is_grouped_as_its_names_say(real_items):
    ds = xgc.from_items(real_items("sentinel2-earthsearch-v1"))
    product = pd.Series(ds["s2:product_uri"].values).str.split("_")
    strip = pd.Series(ds["s2:datastrip_id"].values).str.extract("_S(.{15})_")[0]
    oracle = pd.DataFrame(
        {"satellite": product.str[0], "level": product.str[1], "tile": product.str[5], "at": strip}
    )
    expected = oracle.groupby(list(oracle)).ngroup()
    found = pd.factorize(pd.Series(acquisitions(ds)))[0]
    assert len(set(zip(found, expected, strict=True))) == expected.nunique() == len(set(found))


# --- the edge of a datatake -----------------------------------------------------------------------


def test_two_granules_of_one_tile_and_datatake_are_two(planetary_computer):
    ds = planetary_computer
    table = ds[["s2:mgrs_tile", "s2:datatake_id", "s2:datastrip_id"]].to_dataframe()
    twice = table.duplicated(["s2:mgrs_tile", "s2:datatake_id"], keep=False).to_numpy()
    assert twice.sum() == 26  # what looks like 13 scenes processed twice ...
    assert not table.duplicated(["s2:mgrs_tile", "s2:datastrip_id"]).any()
    pairs = ds.isel(scene=twice)
    ground = pd.DataFrame({"geometry": pairs.geometry.values, "tile": pairs["s2:mgrs_tile"].values,
                           "at": pairs.start_time.values}).groupby(["tile", "at"])["geometry"]  # fmt: skip
    one, other = (ground.nth(i).to_numpy() for i in (0, 1))
    # ... has ground of its own in each, as outlines say ...
    shared = shapely.area(shapely.intersection(one, other))
    assert (shared < 0.5 * shapely.area(shapely.union(one, other))).all()
    # ... and so it is two acquisitions.
    assert len(set(acquisitions(pairs))) == 26


def test_without_a_datastrip_granules_seconds_apart_are_two(real_items):
    # Two granules of T01VCG in the datatake 20230512T231559, seven seconds apart.
    edge = [i for i in real_items("sentinel2-other") if "A032288_T01VCG" in i["id"]]
    assert len(edge) == 2
    assert not any("datastrip" in key for i in edge for key in i["properties"])
    found = acquisitions(xgc.from_items(edge))
    assert None not in found
    assert len(set(found)) == 2


@pytest.mark.parametrize(
    ("seconds", "same"), [(0.0, True), (0.001, True), (0.9, True), (1.1, False), (7.0, False)]
)
def test_granules_are_told_by_their_second(make_item, seconds, same):
    sensed = np.datetime64("2020-03-05T10:37:41.999", "ms")
    name = "S2A_MSIL2A_20200305T103021_{}_R108_T32TMT_{}.SAFE"
    scenes = [
        ("a", {"time": f"{sensed}Z", "s2:product_uri": name.format("N0214", "20200305T132101")}),
        ("b", {"time": f"{sensed + np.timedelta64(int(seconds * 1000), 'ms')}Z",
               "s2:product_uri": name.format("N0500", "20230630T022413")}),
    ]  # fmt: skip
    assert is_same(make_item, *scenes) == same


def test_the_time_of_a_datatake_tells_no_granules_apart(make_item):
    name = "S2A_MSIL2A_20200305T103021_{}_R108_T32TMT_{}"
    scenes = [
        make_item(name.format("N0214", "20200305T132101"), time="2020-03-05T10:30:21.024Z"),
        make_item(name.format("N0500", "20230630T022413"), time="2020-03-05T10:30:21.024Z"),
    ]
    assert acquisitions(xgc.from_items(scenes)) == [None, None]


@pytest.mark.parametrize(
    "other",
    [
        "S2B_OPER_MSI_L2A_DS_SGS__20200305T132101_S20200305T103210_N02.14",
        "S2A_OPER_MSI_L1C_DS_SGS__20200305T132101_S20200305T103210_N02.14",
        "S2A_OPER_MSI_L2A_DS_SGS__20200305T132101_S20200305T103410_N02.14",
    ],
)
def test_other_satellites_levels_and_strips_are_others(make_item, other):
    first = "S2A_OPER_MSI_L2A_DS_S2RP_20230630T022413_S20200305T103210_N05.00"
    again = "S2A_OPER_MSI_L2A_DS_SGS__20200305T132101_S20200305T103210_N02.14"

    def scene(strip, tile="32TMT"):
        return strip, {"s2:datastrip_id": strip, "s2:mgrs_tile": tile}

    assert is_same(make_item, scene(first), scene(again))
    assert not is_same(make_item, scene(first), scene(other))
    assert not is_same(make_item, scene(first), scene(again, "32TNT"))


def test_a_tile_is_known_under_each_of_its_names(make_item):
    strip = "S2A_OPER_MSI_L1C_DS_MTI__20171002T194234_S20171002T194231_N02.05"
    assert is_same(
        make_item,
        ("a", {"s2:datastrip_id": strip, "s2:mgrs_tile": "09VXK"}),
        ("b", {"sentinel:datastrip_id": strip, "grid:code": "MGRS-9VXK"}),
        ("c", {"eopf:datastrip_id": strip,
               "s2:product_uri": "S2A_MSIL1C_20171002T194231_N0205_R042_T09VXK_20171002T194234"}),
    )  # fmt: skip


# --- other archives -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (T1, "LC08_L2SP_033032_20241127_20241130_02_RT", True),
        (T1, "LC08_L2SR_033032_20241127_02_T2", True),
        (T1, "LC09_L2SP_033032_20241127_20241205_02_T1", False),
        (T1, "LC08_L1TP_033032_20241127_20241205_02_T1", False),
        (T1, "LC08_L2SP_033033_20241127_20241205_02_T1", False),
        (T1, "LC08_L2SP_033032_20241213_20241220_02_T1", False),
        (f"{T1}_SR", f"{T1}_ST", False),
        ("LC80340332018034LGN00", "LC80340332018034LGN01", True),
        ("LC80340332018034LGN00", "LC80340332018050LGN00", False),
        ("S1A_IW_GRDH_1SDV_20231031T030757_20231031T030822_051003_062646_8C53",
         "S1A_IW_GRDH_1SDV_20231031T030757_20231031T030822_051003_062646_01AF", True),
        ("S1A_IW_GRDH_1SDV_20231031T030757_20231031T030822_051003_062646_8C53",
         "S1A_IW_GRDH_1SDV_20231031T030757_20231031T030822_051003_062646_8C53_COG", False),
        ("S1A_IW_GRDH_1SDV_20231031T030757_20231031T030822_051003_062646",
         "S1A_IW_GRDH_1SDV_20231031T030757_20231031T030822_051003_062646_rtc", False),
        ("MOD14A1.A2000049.h00v08.006.2015041150332", "MOD14A1.A2000049.h00v08.061.2020041150332",
         True),
        ("MOD14A1.A2000049.h00v08.061.2020041150332", "MYD14A1.A2000049.h00v08.061.2020041150332",
         False),
        ("HLS.S30.T19LDD.2022166T144741.v1.5", "HLS.S30.T19LDD.2022166T144741.v2.0", True),
        ("HLS.S30.T19LDD.2022166T144741.v2.0", "HLS.L30.T19LDD.2022166T144741.v2.0", False),
        ("my-scene", "my-scene", False),
    ],
)  # fmt: skip
def test_names_say_what_is_processed_again(make_item, one, other, same):
    assert is_same(make_item, (one, {}), (other, {})) == same


def test_collections_are_kept_apart(make_item):
    items = [make_item(T1, collection="surface"), make_item(T1, collection="temperature")]
    assert len(set(acquisitions(xgc.from_items(items)))) == 2


def test_real_landsat_is_its_path_row_and_day(shared_data):
    ds = xgc.open_catalog(shared_data / "stac" / "100-landsat-items.parquet")
    oracle = pd.DataFrame(
        {
            "platform": ds["platform"].values,
            "path": ds["landsat:wrs_path"].values,
            "row": ds["landsat:wrs_row"].values,
            "day": ds["start_time"].values.astype("datetime64[D]"),
        }
    )
    assert len(set(acquisitions(ds))) == oracle.drop_duplicates().shape[0] == 100


def test_versions_are_those_of_the_names_where_no_property_says_them(make_item):
    ids = ["LC08_L2SP_033032_20241127_20241130_02_RT", T1, "MOD14A1.A2000049.h00v08.061.2020041150332",
           "S2A_MSIL2A_20200305T103021_N0214_R108_T32TMT_20200305T132101", "nothing"]  # fmt: skip
    version, told, processed, created, updated = versions(
        xgc.from_items([make_item(name) for name in ids])
    )
    assert version.tolist() == ["020", "022", "061", "0214", None]
    assert processed.tolist() == ["20241130", "20241205", "2020041150332", None, None]
    assert all(column.isna().all() for column in (told, created, updated))
