"""Searches into a file: page after page, on after a failure, each item once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
import xarray as xr
from shapely.geometry import box

import xgeocat as xgc
from tests.catalog.api import serving
from xgeocat.catalog import pages

pytestmark = pytest.mark.timeout(120)
SCENES, SIZE = 57, 5
LAST = (SCENES - 1) // SIZE


@pytest.fixture
def items(make_item):
    places = np.random.default_rng(0).uniform((-170, -80), (170, 80), (SCENES, 2))
    return [
        make_item(f"s{i:02d}", box(x, y, x + 1, y + 1), f"2024-06-{1 + i % 28:02d}T00:00:00Z", n=i)
        for i, (x, y) in enumerate(places)
    ]


@pytest.fixture
def api(items, tmp_path_factory):
    with serving(items, tmp_path_factory.mktemp("api"), SIZE) as api:
        yield api


@pytest.fixture
def out(tmp_path):
    return tmp_path / "found.parquet"


def harvest(api, out, **options):
    return xgc.search(api.url, out=out, progress=False, **options)


def same(found: xr.Dataset, wanted: xr.Dataset) -> None:
    xr.testing.assert_identical(found.drop_attrs(deep=False), wanted.drop_attrs(deep=False))


def test_a_search_into_a_file_is_the_search_in_memory(api, items, out):
    found = harvest(api, out)
    same(found, xgc.from_items(items))
    assert found.attrs == xgc.search(api.url, progress=False).attrs
    assert os.listdir(out.parent) == [out.name]


def test_no_item_at_all_is_an_empty_catalog(tmp_path, out):
    with serving([], tmp_path, SIZE) as api:
        assert harvest(api, out).sizes["scene"] == 0


@pytest.mark.parametrize("most", [1, 5, 12])
def test_no_more_items_are_written_than_are_asked_for(most, api, items, out):
    same(harvest(api, out, max_items=most), xgc.from_items(items[:most]))


@pytest.mark.parametrize("fault", ["500", "429", "cut", "html"])
def test_a_page_that_is_spoiled_once_is_asked_for_again(fault, api, items, out, monkeypatch):
    monkeypatch.setattr(pages, "PAUSES", (0.01,) * 3)
    api.spoil(page_3=[fault, 1])
    same(harvest(api, out), xgc.from_items(items))
    assert sorted(api.asked) == sorted([*range(LAST + 1), 3])


@pytest.mark.parametrize("fault", ["404", "html", "cut"])
def test_after_a_failure_it_goes_on_at_the_page_that_failed(fault, api, items, out, monkeypatch):
    monkeypatch.setattr(pages, "PAUSES", (0.01,) * 3)
    api.spoil(page_4=[fault, 10])
    with pytest.raises((ConnectionError, ValueError), match=api.url):
        harvest(api, out)
    assert not out.exists()
    before = len(api.asked)
    api.spoil()
    same(harvest(api, out), xgc.from_items(items))
    first = api.asked[before:][0]
    # What is no JSON may be no STAC API at all: then it begins again, and keeps each item once.
    assert first == (0 if fault == "html" else 4)
    assert os.listdir(out.parent) == [out.name]


def test_a_link_that_has_expired_begins_again_and_keeps_each_item_once(api, items, out, caplog):
    api.spoil(page_4=["404", 1])
    same(harvest(api, out), xgc.from_items(items))
    assert api.asked == [0, 1, 2, 3, 4, *range(LAST + 1)]
    assert "asked for again from the first" in caplog.text


@pytest.mark.parametrize("fault", ["circle", "empty"])
def test_pages_that_lead_nowhere_are_refused(fault, api, out, monkeypatch):
    monkeypatch.setattr(pages, "EMPTY", 3)
    api.spoil(**{f"page_{n}": [fault, 99] for n in range(3, 12)})
    for where in (out, None):
        with pytest.raises(ValueError, match="circles"):
            harvest(api, where)


def test_a_body_that_never_ends_is_given_up(api, out, monkeypatch):
    monkeypatch.setattr(pages, "LONGEST", 0.5)
    api.spoil(page_2=["drip", 99])
    with pytest.raises(ConnectionError, match=r"after 10 items.*does not end"):
        harvest(api, out)


def test_a_body_that_is_too_large_is_given_up(api, out, monkeypatch):
    monkeypatch.setattr(pages, "LARGEST", 100)
    with pytest.raises(ConnectionError, match="does not end"):
        harvest(api, out)


def test_an_address_that_does_not_exist_is_told_at_once():
    before = time.monotonic()
    with pytest.raises(ConnectionError, match=r"no-such-host\.invalid"):
        xgc.search("http://no-such-host.invalid/stac", progress=False)
    # Six attempts with growing pauses would take half a minute.
    assert time.monotonic() - before < 15


def test_a_file_that_is_there_is_not_touched(api, out):
    out.write_bytes(b"mine")
    with pytest.raises(FileExistsError, match="append"):
        harvest(api, out)
    assert out.read_bytes() == b"mine"
    assert api.asked == []


def test_pages_of_another_search_are_refused_with_the_difference(api, out):
    api.spoil(page_4=["404", 99])
    with pytest.raises(ConnectionError):
        harvest(api, out)
    with pytest.raises(ValueError, match=r"\['max_items'\] differ.*was None and is 7"):
        harvest(api, out, max_items=7)


CHILD = """
    import sys
    import xgeocat as xgc
    xgc.search(sys.argv[1], out=sys.argv[2], progress=False)
"""


@pytest.mark.slow
def test_killed_at_any_moment_it_goes_on_and_has_each_item_once(api, items, out, job_environment):
    rng = np.random.default_rng(1)
    code = textwrap.dedent(CHILD)
    for _ in range(30):
        child = subprocess.Popen(
            [sys.executable, "-c", code, api.url, str(out)], env=job_environment
        )
        asked = len(api.asked)
        while len(api.asked) == asked and child.poll() is None:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.3))
        child.send_signal(signal.SIGKILL)
        child.wait()
        if out.exists():
            break
    if not out.exists():
        harvest(api, out)
    same(xgc.open_catalog(out), xgc.from_items(items))


@pytest.mark.slow
def test_a_search_into_an_object_store(api, items, new_bucket):
    same(harvest(api, f"{new_bucket()}/found.parquet"), xgc.from_items(items))
