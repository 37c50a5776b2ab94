"""The command: what it says and writes, and errors of use in one line."""

import pytest
from shapely.geometry import box, mapping

import xgeocat as xgc
from tests.catalog.api import serving
from xgeocat.cli import main


def item(name, x, day):
    return {
        "type": "Feature", "stac_version": "1.0.0", "id": name, "collection": "made", "links": [],
        "geometry": mapping(box(x, 0, x + 1, 1)), "bbox": [x, 0, x + 1, 1],
        "properties": {"datetime": f"2024-06-{day:02d}T00:00:00Z"},
        "assets": {"red": {"href": f"https://example.com/{name}.tif"}},
    }  # fmt: skip


ITEMS = [item("a", 0, 1), item("b", 10, 2), item("c", 20, 3)]


@pytest.fixture
def archive(tmp_path):
    path = tmp_path / "archive.parquet"
    xgc.to_geoparquet(xgc.from_items(ITEMS), path)
    return str(path)


def test_info_says_what_a_catalog_holds(archive, capsys):
    assert main(["info", archive]) == 0
    said = capsys.readouterr().out
    assert "3 scenes, footprints in EPSG:4326" in said
    assert "(0.0, 0.0, 21.0, 1.0)" in said
    assert "collections made" in said
    assert "assets      red" in said


@pytest.mark.parametrize(("options", "left"), [
    (["--bbox", "9", "0", "12", "1"], ["b"]), (["--time", "2024-06-02/2024-06-03"], ["b", "c"]),
    (["--bbox", "50", "50", "51", "51"], []),
])  # fmt: skip
def test_query_writes_the_scenes_that_match(archive, tmp_path, capsys, options, left):
    out = tmp_path / "hits.parquet"
    assert main(["query", archive, str(out), *options]) == 0
    assert list(xgc.open_catalog(out)["scene"].values) == left
    assert capsys.readouterr().out.startswith(f"{len(left)} scenes -> ")


def test_query_writes_to_a_bucket(archive, new_bucket):
    out = f"{new_bucket()}/hits.parquet"
    assert main(["query", archive, out, "--time", "2024-06-02"]) == 0
    assert list(xgc.open_catalog(out)["scene"].values) == ["b"]


def test_search_writes_what_an_api_answers(tmp_path, tmp_path_factory, capsys):
    out = tmp_path / "found.parquet"
    with serving(ITEMS, tmp_path_factory.mktemp("api"), 2) as api:
        assert main(["search", api.url, str(out), "--collections", "made"]) == 0
    assert capsys.readouterr().out.startswith("3 scenes -> ")
    assert set(xgc.open_catalog(out)["scene"].values) == {"a", "b", "c"}


def test_an_error_of_use_is_one_line_and_a_status(tmp_path, capsys):
    assert main(["info", str(tmp_path / "missing.parquet")]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("xgeocat: ")
    assert "missing.parquet" in said.err
    assert said.err.count("\n") == 1


def test_a_command_is_required(capsys):
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 2
    assert "COMMAND" in capsys.readouterr().err
