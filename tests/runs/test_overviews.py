"""Overviews: each level is what numpy makes of the one before, on a grid that others read."""

import json
import math

import numpy as np
import pytest
import xarray as xr
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from odc.geo.geobox import GeoBox

import xgeocat as xgc
from xgeocat.runs.overviews import grids, halve

SHAPE = (700, 1090)


def slowly(values, nodata):
    """One cell of four, cell by cell."""
    rows, columns = (-(-n // 2) for n in values.shape[-2:])
    made = np.empty((*values.shape[:-2], rows, columns), values.dtype)
    for place in np.ndindex(made.shape):
        *outer, y, x = place
        cells = values[(*outer, slice(2 * y, 2 * y + 2), slice(2 * x, 2 * x + 2))].ravel()
        if values.dtype.kind != "f":
            made[place] = cells[0]
            continue
        known = [float(v) for v in cells if not math.isnan(v) and v != nodata]
        unknown = math.nan if nodata is None else nodata
        made[place] = sum(known) / len(known) if known else unknown
    return made


@given(st.data(), st.sampled_from(["float32", "float64", "uint8", "int16", "bool"]),
       array_shapes(min_dims=2, max_dims=4, min_side=1, max_side=5),
       st.sampled_from([None, -1, 2]))  # fmt: skip
def test_one_cell_is_made_of_four(data, dtype, shape, nodata):
    elements = {"f": st.sampled_from([-1, 0, 1, 2, 3.5, math.nan]), "b": st.booleans()}
    elements = elements.get(np.dtype(dtype).kind, st.integers(0, 9))
    values = data.draw(arrays(dtype, shape, elements=elements))
    kept = values.copy()
    made = halve(values, nodata)
    assert made.dtype == values.dtype
    np.testing.assert_allclose(made, slowly(values, nodata), rtol=1e-6)
    np.testing.assert_array_equal(values, kept)


@pytest.mark.parametrize(("shape", "wanted"), [
    ((512, 512), []), ((513, 10), [(257, 5)]), ((1, 2049), [(1, 1025), (1, 513), (1, 257)]),
])  # fmt: skip
def test_levels_go_down_to_one_chunk(shape, wanted):
    base = GeoBox(shape, Affine(10, 0, 500_000, 0, -10, 4_300_000), "EPSG:32610")
    found = grids(base, 512)
    assert [tuple(grid.shape) for grid in found] == wanted
    for level, grid in enumerate(found, start=1):
        assert grid.affine == base.affine @ Affine.scale(2**level)


def run(make_domain, make_pipe, out, sink, **options):
    domain = make_domain(2, shape=SHAPE)
    return xgc.run(make_pipe(), domain, out, sink=sink, progress=False, **options)


def level(path, group=None):
    return xr.open_zarr(path, group=group, consolidated=False, decode_coords="all")


@pytest.mark.parametrize("sink", [
    xgc.sinks.Zarr(overviews=True),
    pytest.param(xgc.sinks.Zarr(128, shard=256, overviews=True), marks=pytest.mark.slow),
    pytest.param(xgc.sinks.Zarr(100, overviews=True), marks=pytest.mark.slow),
])  # fmt: skip
def test_a_run_writes_levels_that_numpy_and_odc_geo_agree_on(
    make_domain, make_pipe, tmp_path, sink
):
    run(make_domain, make_pipe, tmp_path / "out", sink)
    path = tmp_path / "out" / "data" / "s0.zarr"
    finer = level(path)
    layout = json.loads((path / "zarr.json").read_text())["attributes"]["multiscales"]["layout"]
    assert layout[0]["asset"] == "prediction"
    assert len(layout) > 1
    for number, about in enumerate(layout[1:], start=1):
        made = level(path, str(number))
        np.testing.assert_array_equal(
            made["prediction"].values, slowly(finer["prediction"].values, None)
        )
        grid = made.odc.geobox
        assert grid.affine == finer.odc.geobox.affine @ Affine.scale(2)
        assert grid.crs == finer.odc.geobox.crs
        assert about["asset"] == f"{number}/prediction"
        assert about["derived_from"] == layout[number - 1]["asset"]
        assert about["proj:shape"] == list(grid.shape)
        assert about["proj:transform"] == list(grid.transform)[:6]
        finer = made
    assert max(finer["prediction"].shape[-2:]) <= sink.chunk
    with pytest.raises(FileNotFoundError):
        level(path, str(len(layout)))


def test_pixels_and_readers_of_the_scene_itself_see_no_difference(
    make_domain, make_pipe, tmp_path, tree
):
    plain = run(make_domain, make_pipe, tmp_path / "plain", "zarr")
    with_levels = run(make_domain, make_pipe, tmp_path / "levels", xgc.sinks.Zarr(overviews=True))
    # Which hrefs and collection they are of says where they are, and of which run.
    own = ["href", "collection"]
    xr.testing.assert_identical(
        with_levels.drop_vars(own).drop_attrs(), plain.drop_vars(own).drop_attrs()
    )
    here, there = tree(tmp_path / "plain" / "data"), tree(tmp_path / "levels" / "data")
    roots = {f"s{i}.zarr/zarr.json" for i in range(2)}
    assert {k: v for k, v in there.items() if k in here and k not in roots} == {
        k: v for k, v in here.items() if k not in roots
    }
    domain = with_levels.geocat.domain()
    cube = domain.load(next(domain.slices()))
    np.testing.assert_array_equal(
        cube["prediction"].values[0], level(tmp_path / "plain/data/s0.zarr")["prediction"].values
    )


@pytest.mark.parametrize("part", [512, pytest.param(1024, marks=pytest.mark.slow)])
def test_parts_end_in_the_levels_of_the_whole(make_domain, make_pipe, tmp_path, tree, part):
    sink = xgc.sinks.Zarr(256, overviews=True)
    run(make_domain, make_pipe, tmp_path / "whole", sink, part=None)
    run(make_domain, make_pipe, tmp_path / "parts", sink, part=part)
    assert tree(tmp_path / "parts" / "data") == tree(tmp_path / "whole" / "data")


@pytest.mark.parametrize("part", [pytest.param(None, marks=pytest.mark.slow), 512])
def test_objects_in_a_bucket_are_the_files_on_a_disk(
    make_domain, make_pipe, tmp_path, new_bucket, part
):
    sink = xgc.sinks.Zarr(256, overviews=True)
    out = f"{new_bucket()}/out"
    found = run(make_domain, make_pipe, out, sink, part=part)
    run(make_domain, make_pipe, tmp_path / "disk", sink, part=part)
    from xgeocat.storage.folder import parent_and_name

    folder, name = parent_and_name(found["href"].values[0, 0].rpartition("/")[0])
    for group in (None, "1", "2"):
        there = xr.open_zarr(folder.group(name), group=group, consolidated=False)
        xr.testing.assert_identical(
            there.compute(),
            xr.open_zarr(tmp_path / "disk/data/s0.zarr", group=group, consolidated=False).compute(),
        )


@pytest.mark.slow
def test_a_join_that_is_done_again_changes_nothing(make_domain, make_pipe, tmp_path, tree):
    """As after a kill between the move of the group and its record."""
    sink = xgc.sinks.Zarr(256, overviews=True)
    found = run(make_domain, make_pipe, tmp_path / "out", sink, part=512)
    before = tree(tmp_path / "out")
    (record,) = (tmp_path / "out" / "items").glob("s1*")
    record.unlink()
    again = run(make_domain, make_pipe, tmp_path / "out", sink, part=512)
    xr.testing.assert_identical(again, found)
    assert tree(tmp_path / "out") == before


def test_several_variables_with_bands_have_levels_each(make_domain, tmp_path):
    def pipe(cube):
        both = xr.concat([cube["red"], cube["red"] * 2], "band").isel(time=0, drop=True)
        classes = (cube["red"].isel(time=0) > 1500).astype("uint8")
        return xr.Dataset({"both": both.astype("float32"), "classes": classes})

    xgc.run(
        pipe, make_domain(1, shape=SHAPE), tmp_path / "out",
        sink=xgc.sinks.Zarr(overviews=True), progress=False,
    )  # fmt: skip
    path = tmp_path / "out" / "data" / "s0.zarr"
    base, half = level(path), level(path, "1")
    np.testing.assert_allclose(half["both"].values, slowly(base["both"].values, None), rtol=1e-6)
    np.testing.assert_array_equal(half["classes"].values, base["classes"].values[..., ::2, ::2])
    layout = json.loads((path / "zarr.json").read_text())["attributes"]["multiscales"]["layout"]
    assert [(one["asset"], one.get("resampling_method")) for one in layout] == [
        ("both", None), ("1/both", "average"), ("2/both", "average"),
        ("classes", None), ("1/classes", "nearest"), ("2/classes", "nearest"),
    ]  # fmt: skip
