"""Align: grids lie on the pixels that were asked for, or the error says by how much they do not."""

import pytest
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox
from odc.geo.types import AnchorEnum

from xgeocat.domain.align import require_anchor, require_mode, require_same_pixels, union_grid


def grid(x=500000.0, y=4300000.0, step=10.0, shape=(100, 120), crs="EPSG:32610"):
    return GeoBox(shape, Affine(step, 0, x, 0, -step, y), crs)


SECOND = 1 / 3600


@pytest.mark.parametrize(("mode", "tile"), [
    ("edge", grid()), ("edge", grid(step=SECOND, x=10_000 * 512 * SECOND, y=0, crs="EPSG:4326")),
    ("edge", grid(step=SECOND, x=-180, y=90, crs="EPSG:4326")),
    ("center", grid(499995, 4300005)), ("center", grid(step=SECOND, x=-180 - SECOND / 2,
     y=90 + SECOND / 2, crs="EPSG:4326")),
    ("floating", grid(3.3, 7.7)), ("native", grid(3.3, 7.7)),
])  # fmt: skip
def test_what_is_aligned_passes(mode, tile):
    require_anchor(tile, mode)


@pytest.mark.parametrize(("mode", "tile", "off"), [
    ("edge", grid(500003), "0.3 pixels in x and 0 in y"),
    ("edge", grid(y=4299997.5), r"0 pixels in x and 0.25 in y"),
    ("center", grid(), "0.5 pixels in x"),
    ("edge", grid(step=SECOND, x=-180 - SECOND / 2, y=0, crs="EPSG:4326"), "0.5 pixels in x"),
])  # fmt: skip
def test_what_is_not_is_refused_with_how_much(mode, tile, off):
    with pytest.raises(ValueError, match=off):
        require_anchor(tile, mode)


def test_modes_are_spelled_as_here_or_as_in_odc():
    assert require_mode(AnchorEnum.EDGE) == require_mode("edge")
    assert require_mode(AnchorEnum.CENTER) == "center"
    assert require_mode(AnchorEnum.FLOATING) == "floating"
    with pytest.raises(ValueError, match="'corner'.*'native'"):
        require_mode("corner")


@given(st.integers(-5000, 5000), st.integers(-5000, 5000), st.sampled_from([10.0, 0.3, SECOND]))
def test_whole_pixels_apart_is_the_same_lattice(dx, dy, step):
    native = grid(123.456 * step, -77.7 * step, step)
    require_same_pixels(native.translate_pix(dx, dy), "tile t", [("s", native)])


@pytest.mark.parametrize(("tile", "message"), [
    (grid(500005), "tile t is not on the own pixels of scene s: it is off by 0.5 pixels in x"),
    (grid(y=4300002.5), "-?0.25 in y"),
    (grid(step=20), "20.*10.*over its length they part by 120 pixels"),
    (grid(step=10.01), "part by 0.12 pixels"),
    (grid(crs="EPSG:32611"), "it is in EPSG:32611, and the scene in EPSG:32610"),
])  # fmt: skip
def test_other_pixels_are_refused_with_how_much(tile, message):
    with pytest.raises(ValueError, match=message):
        require_same_pixels(tile, "tile t", [("s", grid())])


@given(st.lists(st.tuples(st.integers(-300, 300), st.integers(-300, 300), st.integers(1, 90),
                          st.integers(1, 90)), min_size=1, max_size=6))  # fmt: skip
def test_a_union_covers_all_grids_and_no_more(pieces):
    whole = grid(shape=(1000, 1000))
    grids = [whole.translate_pix(dx, dy)[:rows, :columns] for dx, dy, rows, columns in pieces]
    made = union_grid([(str(i), g) for i, g in enumerate(grids)])
    boxes = [g.boundingbox for g in grids]
    want = (min(b.left for b in boxes), min(b.bottom for b in boxes),
            max(b.right for b in boxes), max(b.top for b in boxes))  # fmt: skip
    assert made.boundingbox.bbox == pytest.approx(want)
    assert made.resolution == whole.resolution


def test_grids_of_other_pixels_have_no_union():
    with pytest.raises(ValueError, match="scene a is not on the own pixels of scene b.*0.5"):
        union_grid([("a", grid()), ("b", grid(500005))])
