"""Scenes of a catalog as plain values: as xarray has them, and without reading what is not asked."""

import json

import numpy as np
import pytest

import xgeocat as xgc
from tests.domain import scenes
from xgeocat.catalog import schema
from xgeocat.domain import assets
from xgeocat.domain.assets import scenes_of


@pytest.fixture
def catalog(make_item):
    """Two scenes, of which each lacks an asset of the other."""
    return xgc.from_items(
        [
            make_item("a", red=scenes.pixels(), about={"nodata": 0, "data_type": "uint16"}),
            make_item("b", nir=scenes.pixels(), proj=False),
        ]
    )


def test_scenes_say_what_the_rows_say(catalog):
    a, b = scenes_of(catalog)
    assert (a.name, b.name) == ("a", "b")
    assert (a.start, b.start) == tuple(catalog["start_time"].values)
    assert list(a.hrefs) == ["red"]
    assert list(b.hrefs) == ["nir"]
    row = catalog.sel(scene="a", asset="red")
    red = a["red"]
    assert red.href == row["href"].item()
    assert red.fields == json.loads(row["asset_json"].item())
    assert red.crs == row["proj:code"].item()
    assert red.geobox.shape == tuple(row["proj:shape"].values)
    assert red.geobox.affine[:6] == tuple(row["proj:transform"].values)
    assert (red.radiometry.dtype, red.radiometry.nodata) == ("uint16", 0)
    assert red.radiometry.scale is None


def test_what_a_catalog_does_not_say_is_none(catalog):
    nir = scenes_of(catalog)[1]["nir"]
    assert (nir.crs, nir.geobox, nir.radiometry.dtype) == (None, None, None)


def test_an_asset_that_a_scene_lacks_is_a_key_error(catalog):
    with pytest.raises(KeyError, match="nir"):
        scenes_of(catalog)[0]["nir"]


@pytest.mark.parametrize("rows", [[1], [1, 0], []])
def test_only_the_rows_asked_for_are_taken(catalog, rows):
    assert [scene.name for scene in scenes_of(catalog, rows)] == ["ab"[i] for i in rows]


def test_the_order_of_dims_changes_nothing(catalog):
    turned = catalog.transpose("asset", "affine", "grid_axis", "scene")
    for one, other in zip(scenes_of(turned), scenes_of(catalog), strict=True):
        assert one.hrefs == other.hrefs
        assert [one[key] for key in one.hrefs] == [other[key] for key in other.hrefs]


def test_a_band_asked_for_by_its_asset_parses_no_other(make_catalog, monkeypatch):
    from xgeocat.domain.bands import describe_bands

    catalog, seen = make_catalog(2), []
    monkeypatch.setattr(assets, "_parsed", lambda text: seen.append(text) or json.loads(text))
    for scene in scenes_of(catalog):
        describe_bands(scene, ["red"])
    assert seen == catalog["asset_json"].sel(asset="red").values.tolist()


def test_text_that_xarray_turned_into_nan_is_no_text(catalog):
    blank = catalog["asset_json"].astype(object).where(False)
    (a, _) = scenes_of(catalog.assign({schema.ASSET_JSON: blank}))
    assert np.isnan(blank.values[0, 0])
    assert a["red"].fields == {}
