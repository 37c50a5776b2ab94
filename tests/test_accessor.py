"""The ``.geocat`` doors: each is the function behind it, and each knows what it does not open."""

from __future__ import annotations

import inspect
import re

import numpy as np
import pyproj
import pytest
import xarray as xr
from odc.geo.geom import BoundingBox
from shapely.geometry import box, mapping

import xgeocat as xgc
from xgeocat.accessor import DataArrayGeocat, DatasetGeocat
from xgeocat.patching import single
from xgeocat.patching.training import to_torch


@pytest.fixture
def catalog():
    """Two scenes of one asset, in UTM zone 10."""
    return xgc.from_items(
        [
            {
                "type": "Feature", "stac_version": "1.0.0", "id": f"s{i}", "collection": "made",
                "geometry": mapping(box(-123 + i, 38, -122 + i, 39)), "bbox": [-123, 38, -121, 39],
                "properties": {"datetime": f"2024-0{i + 1}-01T00:00:00Z"}, "links": [],
                "assets": {"red": {"href": f"https://example.com/{i}.tif", "proj:epsg": 32610,
                                   "proj:shape": [10, 10],
                                   "proj:transform": [10, 0, 5e5, 0, -10, 43e5]}},
            }
            for i in range(2)
        ]
    )  # fmt: skip


@pytest.fixture
def cube(make_field):
    return make_field((40, 50)).to_dataset(name="red")


# --- doors lead to functions ----------------------------------------------------------------------


def test_catalog_doors_are_the_functions_behind_them(catalog, tmp_path):
    place = (-123, 38, -122.5, 39)
    xr.testing.assert_identical(
        catalog.geocat.query(place, "2024-01"), xgc.query(catalog, place, "2024-01")
    )
    assert [i.to_dict() for i in catalog.geocat.to_items()] == [
        i.to_dict() for i in xgc.to_items(catalog)
    ]
    path = catalog.geocat.to_geoparquet(tmp_path / "c.parquet")
    xr.testing.assert_identical(xgc.open_catalog(path), catalog)


def test_crs_and_bounds_are_those_of_the_footprints(catalog):
    assert catalog.geocat.crs == pyproj.CRS.from_epsg(4326)
    assert isinstance(catalog.geocat.bounds, BoundingBox)
    assert tuple(catalog.geocat.bounds.bbox) == (-123, 38, -121, 39)
    assert catalog.isel(scene=[]).geocat.bounds is None


def test_domain_is_the_class_behind_it(catalog):
    domain = catalog.geocat.domain(resolution=10)
    assert isinstance(domain, xgc.CatalogDomain)
    assert len(domain) == len(xgc.CatalogDomain(catalog, resolution=10))


@pytest.mark.parametrize("kind", ["Dataset", "DataArray"])
def test_field_doors_are_the_functions_behind_them(kind, cube):
    field = cube if kind == "Dataset" else cube["red"]
    patches = field.geocat.patch(16, overlap=4)
    xr.testing.assert_identical(patches, xgc.patch(field, 16, overlap=4))
    xr.testing.assert_identical(
        patches.geocat.stitch(window="hann"), xgc.stitch(patches, window="hann")
    )
    one = patches.geocat.map(lambda batch: batch * 2, batch_size=4)
    xr.testing.assert_identical(
        one, xgc.map_patches(patches, lambda batch: batch * 2, batch_size=4)
    )


@pytest.mark.parametrize("kind", ["Dataset", "DataArray"])
def test_patches_are_counted_and_gone_through_one_by_one(kind, cube):
    patches = (cube if kind == "Dataset" else cube["red"]).geocat.patch(16, overlap=4)
    assert len(patches.geocat) == patches.sizes["patch"]
    for number, one in enumerate(patches.geocat):
        picked = patches.geocat[number]
        xr.testing.assert_identical(picked, single.one_patch(patches, number))
        xr.testing.assert_identical(one, picked.drop_vars(["y_start", "x_start"]))
    assert number == len(patches.geocat) - 1


@pytest.mark.parametrize(
    ("method", "function"),
    [
        (DatasetGeocat.query, xgc.query),
        (DataArrayGeocat.query, xgc.query),
        (DatasetGeocat.patch, xgc.patch),
        (DataArrayGeocat.patch, xgc.patch),
        (DatasetGeocat.stitch, xgc.stitch),
        (DataArrayGeocat.stitch, xgc.stitch),
        (DatasetGeocat.map, xgc.map_patches),
        (DatasetGeocat.explain, xgc.explain),
        (DataArrayGeocat.to_torch, to_torch),
        (DataArrayGeocat.to_geodataframe, single.to_geodataframe),
        (DataArrayGeocat.__getitem__, single.one_patch),
        (DataArrayGeocat.__iter__, single.each_patch),
        (DatasetGeocat.to_geoparquet, xgc.to_geoparquet),
        (DatasetGeocat.to_items, xgc.to_items),
        (DatasetGeocat.domain, xgc.CatalogDomain),
        (DatasetGeocat.deduplicate, xgc.deduplicate),
    ],
    ids=lambda f: f.__qualname__,
)
def test_a_door_takes_what_its_function_takes_with_the_same_defaults(method, function):
    def arguments(of):
        found = list(inspect.signature(of).parameters.values())[1:]
        return [(p.name, p.default, p.kind) for p in found]

    assert arguments(method) == arguments(function)


@pytest.mark.parametrize("cls", [DatasetGeocat, DataArrayGeocat])
def test_every_door_says_in_a_line_what_is_behind_it(cls):
    for name, member in inspect.getmembers(cls):
        if not name.startswith("_"):
            assert inspect.getdoc(member), name


def test_a_door_keeps_nothing_and_changes_nothing(catalog):
    before = catalog.copy(deep=True)
    catalog.geocat.query((0, 0, 1, 1))
    catalog.geocat.to_items()
    xr.testing.assert_identical(catalog, before)


# --- the wrong kind of object ---------------------------------------------------------------------

CATALOG_DOORS = {
    "query": lambda ds: ds.geocat.query((0, 0, 1, 1)),
    "crs": lambda ds: ds.geocat.crs,
    "bounds": lambda ds: ds.geocat.bounds,
    "domain": lambda ds: ds.geocat.domain(),
    "deduplicate": lambda ds: ds.geocat.deduplicate(),
    "to_items": lambda ds: ds.geocat.to_items(),
    "to_geoparquet": lambda ds: ds.geocat.to_geoparquet("never-written.parquet"),
    "plot": lambda ds: ds.geocat.plot(),
    "explore": lambda ds: ds.geocat.explore(),
}
FIELD_DOORS = {
    "patch": lambda ds: ds.geocat.patch(16),
    "map": lambda ds: ds.geocat.map(lambda batch: batch),
    "stitch": lambda ds: ds.geocat.stitch(),
    "explain": lambda ds: ds.geocat.explain(),
    "to_torch": lambda ds: ds.geocat.to_torch(),
    "[number]": lambda ds: ds.geocat[0],
    "len()": lambda ds: len(ds.geocat),
    "iter()": lambda ds: next(iter(ds.geocat)),
}


@pytest.mark.parametrize("door", CATALOG_DOORS)
def test_a_cube_at_a_catalog_s_door_hears_what_it_is_and_what_to_call(door, cube):
    with pytest.raises(TypeError, match=rf"{door}|CatalogDomain") as caught:
        CATALOG_DOORS[door](cube)
    message = str(caught.value)
    assert "got a Dataset with dims ('y', 'x')" in message
    assert "from_items" in message
    assert ".geocat.patch(" in message


def test_a_field_at_the_query_door_hears_what_it_is_and_what_to_call(cube):
    with pytest.raises(TypeError, match=r"got a DataArray with dims \('y', 'x'\).*geocat\.patch"):
        cube["red"].geocat.query((0, 0, 1, 1))


@pytest.mark.parametrize("door", FIELD_DOORS)
def test_a_catalog_at_a_field_s_door_hears_what_it_is_and_what_to_call(door, catalog):
    with pytest.raises(TypeError, match=rf"\.geocat\.{re.escape(door)} works on") as caught:
        FIELD_DOORS[door](catalog)
    message = str(caught.value)
    assert "catalog of 2 scenes" in message
    assert ".geocat.domain()" in message


@pytest.mark.parametrize("door", FIELD_DOORS)
def test_a_column_of_a_catalog_at_a_field_s_door_hears_that_it_is_one(door, catalog):
    with pytest.raises(TypeError, match="catalog"):
        FIELD_DOORS[door](catalog["nodata"])


def test_a_column_of_a_catalog_at_the_query_door_hears_that_it_is_one(catalog):
    with pytest.raises(TypeError, match="one column of a catalog"):
        catalog["href"].geocat.query((0, 0, 1, 1))


@pytest.mark.parametrize(
    "function",
    [xgc.query, xgc.to_items, lambda what: xgc.to_geoparquet(what, "never-written.parquet")],
)
@pytest.mark.parametrize("what", [[1, 2], None, "catalog.parquet", np.zeros(3)], ids=str)
def test_what_is_no_dataset_is_refused_by_its_type(function, what):
    with pytest.raises(TypeError, match=rf"works on a catalog.*got a {type(what).__name__}"):
        function(what)


@pytest.mark.parametrize(
    "function",
    [lambda ds: xgc.patch(ds, 16), xgc.stitch, lambda ds: xgc.map_patches(ds, lambda b: b)],
    ids=["patch", "stitch", "map_patches"],
)
def test_a_catalog_given_to_a_field_s_function_hears_its_dims(function, catalog):
    with pytest.raises((TypeError, ValueError), match=r"dims \('scene', 'asset'"):
        function(catalog)


def test_one_scene_of_a_catalog_hears_what_a_catalog_is(catalog):
    with pytest.raises(TypeError, match=r"dims \('scene', 'asset'\)"):
        catalog.isel(scene=0).geocat.query((0, 0, 1, 1))
