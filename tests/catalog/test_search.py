"""Search: against a real STAC API on the loopback, and against one that misbehaves."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import xarray as xr
from shapely.geometry import MultiPolygon, box, mapping

import xgeocat as xgc

pytestmark = pytest.mark.timeout(120)
#: Scenes in a lattice: one for each day of ten months, in two collections, and three near 180 E.
LATTICE = 250


def ids(ds):
    return sorted(ds.scene.values)


# --- a real server --------------------------------------------------------------------------------


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def serve(path):
    """Start rustac over a file of items; return its address and its process once it answers."""
    pytest.importorskip("rustac")
    here = Path(sys.executable).parent / "rustac"
    program = str(here) if here.exists() else shutil.which("rustac")
    if program is None:
        pytest.skip("the rustac command is not here")
    port = free_port()
    log = path.with_suffix(".log").open("w")
    process = subprocess.Popen(
        [program, "serve", "-a", f"127.0.0.1:{port}", "--use-duckdb", "false",
         "--create-collections", str(path)],
        stdout=log, stderr=subprocess.STDOUT,
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    give_up = time.monotonic() + 60
    while time.monotonic() < give_up and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=2) as answer:
                assert answer.status == 200
            return url, process
        except OSError:
            time.sleep(0.1)
    process.kill()
    raise RuntimeError(f"rustac did not come up: {path.with_suffix('.log').read_text()[-500:]}")


def stop(process):
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def items(make_item):
    made = [
        make_item(
            f"s{i:03d}", box(i % 25, i // 25, i % 25 + 0.9, i // 25 + 0.9),
            f"2024-{1 + i // 28:02d}-{1 + i % 28:02d}T10:00:00Z", collection="ab"[i % 2],
            **{"eo:cloud_cover": i / 10},
        )
        for i in range(LATTICE)
    ]  # fmt: skip
    return [
        *made,
        make_item("east", box(179, -40, 179.5, -39), collection="far"),
        make_item("west", box(-179.5, -40, -179, -39), collection="far"),
        make_item("across", MultiPolygon([box(179.8, -42, 180, -41), box(-180, -42, -179.8, -41)]),
                  collection="far"),
        make_item("middle", box(0, -40, 1, -39), collection="far"),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def api(items, tmp_path_factory):
    path = tmp_path_factory.mktemp("api") / "items.ndjson"
    path.write_text("\n".join(map(json.dumps, items)))
    url, process = serve(path)
    yield url
    stop(process)


@pytest.fixture(scope="module")
def local(items):
    return xgc.from_items(items)


def search(url, **asked):
    return xgc.search(url, progress=False, **asked)


def test_everything_comes_over_several_pages_once(api, items):
    ds = search(api)
    assert ids(ds) == sorted(i["id"] for i in items)
    assert ds.geocat.query((0, 0, 0.5, 0.5)).sizes["scene"] == 1


def test_what_comes_is_what_from_items_makes(api, local):
    found = search(api, collections=["a"]).sortby("scene")
    expected = local.isel(scene=local.collection == "a").sortby("scene")
    names = ["href", "eo:cloud_cover", "start_time", "end_time", "collection"]
    for name in names:
        assert list(found[name].values.ravel()) == list(expected[name].values.ravel())
    assert all(a.equals(b) for a, b in zip(found.geometry.values, expected.geometry.values,
                                           strict=True))  # fmt: skip


@pytest.mark.parametrize("bbox", [(0, 0, 3, 3), (2.95, 2.95, 2.99, 2.99), (20, 5, 40, 30),
                                  (-180, -90, 180, 90)])  # fmt: skip
def test_a_bbox_finds_what_a_query_of_the_whole_finds(bbox, api, local):
    assert ids(search(api, bbox=bbox)) == ids(local.geocat.query(bbox))


@pytest.mark.parametrize(
    ("datetime", "time"),
    [
        ("2024-06-01/2024-07-31", "2024-06-01/2024-07-31"),
        ("2024-03", "2024-03"),
        ("2024-05-03T00:00:00Z/2024-05-05T23:59:59Z", ("2024-05-03", "2024-05-05")),
        ("2024-08-20/..", "2024-08-20/.."),
        ("../2024-01-10", "../2024-01-10"),
    ],
)
def test_a_datetime_finds_what_a_query_of_the_whole_finds(datetime, time, api, local):
    expected = ids(local.geocat.query(time=time))
    assert 0 < len(expected) < LATTICE
    assert ids(search(api, datetime=datetime)) == expected


def test_collections_are_searched_and_others_are_not(api, local):
    for names in (["a"], ["a", "far"]):
        chosen = local.isel(scene=local.collection.isin(names))
        assert ids(search(api, collections=names)) == ids(chosen)


def test_place_time_and_collection_are_all_asked(api, local):
    asked = search(api, collections=["b"], bbox=(0, 0, 12, 12), datetime="2024-02/2024-04")
    expected = local.geocat.query((0, 0, 12, 12), "2024-02/2024-04")
    assert ids(asked) == ids(expected.isel(scene=expected.collection == "b"))
    assert asked.sizes["scene"] > 0


def test_a_geometry_finds_its_scenes(api, local):
    strip = box(0, 0, 0.5, 9).union(box(0, 8.5, 24, 9))
    assert ids(search(api, intersects=mapping(strip))) == ids(local.geocat.query(strip))


@pytest.mark.parametrize("count", [1, 99, 100, 101, 150])
def test_max_items_stops_there(count, api):
    ds = search(api, max_items=count)
    assert ds.sizes["scene"] == count
    assert len(set(ids(ds))) == count


def test_a_bbox_across_180_is_searched_on_both_sides(api):
    assert ids(search(api, bbox=(178, -50, -178, -30))) == ["across", "east", "west"]
    assert ids(search(api, bbox=(178, -40, -179.9, -30))) == ["east"]
    assert search(api, bbox=(178, -50, -178, -30), max_items=2).sizes["scene"] == 2


@pytest.mark.parametrize(
    "asked",
    [{"bbox": (50, 50, 51, 51)}, {"datetime": "1999"}, {"collections": ["unknown"]}],
    ids=str,
)
def test_nothing_found_is_an_empty_catalog(asked, api):
    ds = search(api, **asked)
    assert ds.sizes["scene"] == 0
    assert ds.geocat.query((0, 0, 1, 1), time="2024").sizes["scene"] == 0


def test_progress_is_shown_or_not(api, capsys):
    search(api, bbox=(0, 0, 3, 3))
    assert capsys.readouterr().err == ""
    xgc.search(api, bbox=(0, 0, 3, 3))
    assert "search" in capsys.readouterr().err


def test_a_real_archive_answers_a_search_as_its_catalog_does(
    shared_data, planetary_computer, tmp_path
):
    path = tmp_path / "items.parquet"
    path.write_bytes((shared_data / "stac" / "1000-sentinel-2-items.parquet").read_bytes())
    url, process = serve(path)
    try:
        denver = (-105.5, 39.5, -104.5, 40.2)
        found = search(url, bbox=denver)
        asked = search(url, bbox=denver, datetime="2024-08-01/2024-08-15")
    finally:
        stop(process)
    assert found.sizes["scene"] == 83
    assert ids(found) == ids(planetary_computer.geocat.query(denver))
    assert asked.sizes["scene"] == 24


# --- servers that misbehave -----------------------------------------------------------------------


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    """Retries follow at once."""
    monkeypatch.setattr("urllib3.util.retry.Retry.get_backoff_time", lambda self: 0)


@pytest.fixture
def make_api():
    """Factory of a STAC API over pages of items; `answer(n, request)` may spoil search number n."""
    running = []

    def make(pages, *, matched=None, answer=lambda n, request: None, landing=lambda n: None):
        seen = {"landing": 0, "search": 0, "bodies": []}

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args):
                pass

            def send(self, status, body, headers=()):
                payload = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(payload)))
                for name, value in headers:
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(payload)

            def do_GET(self):
                seen["landing"] += 1
                spoiled = landing(seen["landing"])
                if spoiled is not None:
                    return self.send(*spoiled)
                return self.send(200, {
                    "type": "Catalog", "stac_version": "1.0.0", "id": "made", "description": "made",
                    "conformsTo": ["https://api.stacspec.org/v1.0.0/core",
                                   "https://api.stacspec.org/v1.0.0/item-search",
                                   "https://api.stacspec.org/v1.0.0/item-search#query"],
                    "links": [{"rel": "search", "href": f"{url}/search", "method": method,
                               "type": "application/geo+json"} for method in ("GET", "POST")],
                })  # fmt: skip

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                seen["search"] += 1
                seen["bodies"].append(body)
                spoiled = answer(seen["search"], body)
                if spoiled is not None:
                    return self.send(*spoiled)
                page = body.get("page", 0)
                links = []
                if page + 1 < len(pages):
                    links = [{"rel": "next", "href": f"{url}/search", "method": "POST",
                              "body": {**body, "page": page + 1}}]  # fmt: skip
                found = {"type": "FeatureCollection", "features": pages[page], "links": links}
                if matched is not None:
                    found.update(
                        matched if isinstance(matched, dict) else {"numberMatched": matched}
                    )
                return self.send(200, found)

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        running.append((server, thread))
        url = f"http://127.0.0.1:{server.server_address[1]}"
        return url, seen

    yield make
    for server, thread in running:
        server.shutdown()
        server.server_close()
        thread.join(10)


@pytest.fixture
def pages(items):
    return [items[:3], items[3:6], items[6:8]]


BUSY = (503, {"detail": "busy"})


def test_pages_are_followed_to_the_last(make_api, pages):
    url, seen = make_api(pages, matched=8)
    assert ids(search(url)) == [f"s{i:03d}" for i in range(8)]
    assert seen["search"] == 3


def test_no_more_pages_are_read_than_are_asked_for(make_api, pages):
    url, seen = make_api(pages, matched=8)
    assert search(url, max_items=3).sizes["scene"] == 3
    assert seen["search"] <= 2


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_an_error_that_passes_is_tried_again(status, make_api, pages):
    url, seen = make_api(pages, answer=lambda n, body: (status, {}) if n in (1, 3) else None,
                         landing=lambda n: (status, {}) if n == 1 else None)  # fmt: skip
    assert search(url).sizes["scene"] == 8
    assert seen["search"] == 5
    assert seen["landing"] == 2


def test_a_server_that_names_its_pause_is_waited_for(make_api, pages):
    busy = (429, {}, [("Retry-After", "1")])
    url, _ = make_api(pages, answer=lambda n, body: busy if n == 1 else None)
    before = time.monotonic()
    assert search(url).sizes["scene"] == 8
    assert time.monotonic() - before >= 0.9


@pytest.mark.parametrize("first_bad", [1, 2])
def test_an_error_that_stays_is_a_connection_error_after_some_tries(first_bad, make_api, pages):
    url, seen = make_api(pages, answer=lambda n, body: BUSY if n >= first_bad else None)
    with pytest.raises(ConnectionError, match=rf"{url} failed after {3 * (first_bad - 1)} items"):
        search(url)
    assert 3 <= seen["search"] - first_bad <= 12


def test_an_address_where_nothing_listens_is_a_connection_error():
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(ConnectionError, match=url):
        search(url)


def test_an_address_without_a_stac_api_is_refused_by_its_name(make_api):
    url, _ = make_api([[]], landing=lambda n: (404, {"detail": "no"}))
    with pytest.raises((ConnectionError, ValueError), match=url):
        search(url)


@pytest.mark.parametrize("body", [b"<html>hello</html>", b"", b"[]", b'{"hello": 1}'])
def test_an_answer_that_is_no_stac_is_refused_by_its_address(body, make_api):
    url, _ = make_api([[]], landing=lambda n: (200, body))
    with pytest.raises((ConnectionError, ValueError), match=url):
        search(url)


@pytest.mark.parametrize("body", [b"<html>hello</html>", b"{}"])
def test_a_page_that_is_no_stac_is_refused(body, make_api, pages):
    url, _ = make_api(pages, matched=8, answer=lambda n, request: (200, body) if n >= 2 else None)
    with pytest.raises((ConnectionError, ValueError), match=rf"{url}|sent 3"):
        search(url)


def test_a_request_that_the_server_refuses_says_what_the_server_said(make_api, pages):
    refusal = (400, {"code": "BadRequest", "description": "limit too high"})
    url, seen = make_api(pages, answer=lambda n, body: refusal)
    with pytest.raises((ConnectionError, ValueError), match="limit too high"):
        search(url)
    assert seen["search"] == 1


@pytest.mark.parametrize("matched", [9, {"context": {"matched": 9}}], ids=str)
def test_fewer_items_than_the_server_said_are_refused(matched, make_api, pages):
    url, _ = make_api(pages, matched=matched)
    with pytest.raises(ValueError, match=r"9 items match and sent 8"):
        search(url)
    with pytest.raises(ValueError, match=r"9 items match and sent 8"):
        search(url, max_items=50)
    assert search(url, max_items=5).sizes["scene"] == 5


@pytest.mark.parametrize(
    "matched", [8, None, {"numberMatched": None}, {"context": {"matched": 8}}, {"context": {}},
                {"context": None}, 0, 7],
    ids=str,
)  # fmt: skip
def test_all_that_the_server_said_or_more_is_taken(matched, make_api, pages):
    url, _ = make_api(pages, matched=matched)
    assert search(url).sizes["scene"] == 8


def test_an_item_that_comes_twice_is_one_scene(make_api, items):
    url, _ = make_api([items[:3], items[2:5]])
    assert ids(search(url)) == [f"s{i:03d}" for i in range(5)]


def test_one_id_in_two_collections_is_two_scenes(make_api, items):
    other = {**items[0], "collection": "other"}
    url, _ = make_api([[items[0], other]])
    assert sorted(search(url).collection.values) == ["a", "other"]


def test_a_box_across_180_is_never_sent(make_api, items):
    url, seen = make_api([[items[-2]]])
    ds = search(url, bbox=(170, -50, -170, -30))
    assert [b["bbox"] for b in seen["bodies"]] == [[170, -50, 180, -30], [-180, -50, -170, -30]]
    assert ids(ds) == ["across"]


def test_what_is_asked_is_sent(make_api, items):
    url, seen = make_api([[items[0]]])
    search(url, collections=["a"], datetime="2024-06-01/2024-06-30",
           query={"eo:cloud_cover": {"lt": 15}}, intersects=mapping(box(0, 0, 1, 1)))  # fmt: skip
    (body,) = seen["bodies"]
    assert body["collections"] == ["a"]
    assert body["query"] == {"eo:cloud_cover": {"lt": 15}}
    assert body["datetime"] == "2024-06-01T00:00:00Z/2024-06-30T23:59:59Z"
    assert body["intersects"]["type"] == "Polygon"


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ({"datetime": "soon"}, "datetime|time"),
        ({"datetime": "2024-08-01/2024-07-01"}, "datetime|time|before"),
        ({"bbox": (0, 0, 1, 1), "intersects": mapping(box(0, 0, 1, 1))}, "bbox.*intersects"),
        ({"bbox": (0, 0, 1)}, "bbox"),
        ({"bbox": (0, 1, 1, 0)}, "bbox|south"),
    ],
    ids=str,
)
def test_a_wrong_question_is_a_value_error_before_it_is_sent(asked, text, make_api, items):
    url, seen = make_api([[items[0]]])
    with pytest.raises(ValueError, match=text):
        search(url, **asked)
    assert seen["search"] == 0


def test_an_item_that_cannot_be_a_scene_is_listed(make_api, items):
    bad = {**items[1], "properties": {"datetime": "soon"}}
    url, _ = make_api([[items[0], bad]])
    with pytest.raises(ValueError, match=r"1 of 2 items cannot be read(.|\n)*s001"):
        search(url)


def test_the_catalog_of_a_search_can_be_saved(make_api, pages, tmp_path):
    url, _ = make_api(pages)
    ds = search(url)
    back = xgc.open_catalog(ds.geocat.to_geoparquet(tmp_path / "c.parquet"))
    xr.testing.assert_identical(back, ds)


def test_the_catalog_says_what_was_searched_but_no_secret(make_api, pages):
    url, _ = make_api(pages)
    asked = {"collections": ["made"], "query": {"eo:cloud_cover": {"lt": 15}}, "max_items": 7}
    corner = {"type": "Point", "coordinates": [1.5, 2.5]}
    open_door = url.replace("://", "://user:word@") + "?token=secret"
    (step,) = search(open_door, **asked, intersects=corner).attrs["geocat:provenance"]
    assert step.pop("when").endswith("Z")
    where = {"kind": "Point", "bounds": [1.5, 2.5, 1.5, 2.5], "crs": "EPSG:4326"}
    assert step == {"action": "search", "url": url, "intersects": where, **asked}
