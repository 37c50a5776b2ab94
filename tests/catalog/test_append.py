"""Append: scenes come into a catalog on disk once, or the catalog stays as it is."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import textwrap
import time

import numpy as np
import pyarrow.parquet as pq
import pytest
from shapely.geometry import box

import xgeocat as xgc
from xgeocat.catalog import append, ordering, parquet
from xgeocat.catalog.openfile import ChangedFileError
from xgeocat.catalog.stac import to_dicts
from xgeocat.storage.folder import folder_at

PLACES = ["file", "flat folder", "Hive folder"]


@pytest.fixture(params=PLACES)
def written(request, tmp_path):
    """Writer of a catalog into a file or a folder; gives its path."""

    def write(ds):
        if request.param == "file":
            return xgc.to_geoparquet(ds, tmp_path / "c.parquet")
        if request.param == "Hive folder":
            return xgc.to_geoparquet(ds, tmp_path / "c", by="month")
        (tmp_path / "c").mkdir()
        xgc.to_geoparquet(ds, tmp_path / "c" / "first.parquet")
        return tmp_path / "c"

    return write


def by_key(ds):
    """Items by collection and id, of which each is there once."""
    items = {(item.get("collection"), item["id"]): item for item in to_dicts(ds)}
    assert len(items) == ds.sizes["scene"]
    return items


def test_scenes_are_appended_with_all_they_say(written, make_item):
    old = [make_item(f"a{i}", box(i, 0, i + 1, 1), f"2024-0{i + 1}-01T00:00:00Z", q=i)
           for i in range(3)]  # fmt: skip
    new = [
        make_item("b0", box(1, 0, 2, 1), "2024-02-10T00:00:00Z", r="x", q=7,
                  assets={"nir": {"href": "https://example.com/n.tif", "title": "N"}}),
        make_item("b1", box(5, 0, 6, 1), None, q=8),
    ]  # fmt: skip
    path = written(xgc.from_items(old))
    assert xgc.append(xgc.from_items(new), path) == 2
    back = xgc.open_catalog(path)
    assert by_key(back) == by_key(xgc.from_items([*old, *new]))
    assert set(back.asset.values) == {"red", "nir"}
    assert back["q"].dtype == np.int64
    assert set(back.geocat.query((1.2, 0.2, 1.8, 0.8)).scene.values) == {"a1", "b0"}


def test_appending_again_adds_nothing(written, make_item):
    old = xgc.from_items([make_item("a")])
    new = xgc.from_items([make_item("a"), make_item("b"), make_item("b"), make_item("c")])
    path = written(old)
    assert [xgc.append(new, path), xgc.append(new, path)] == [2, 0]
    assert sorted(xgc.open_catalog(path).scene.values) == ["a", "b", "c"]


@pytest.mark.parametrize("collections", [("A", "B"), (None, "B")], ids=str)
def test_scenes_of_one_id_in_two_collections_are_two(collections, written, make_item):
    path = written(xgc.from_items([make_item("a")]))
    for collection in collections:
        new = xgc.from_items([make_item("x", collection=collection)])
        assert [xgc.append(new, path), xgc.append(new, path)] == [1, 0]
    assert {c for c, i in by_key(xgc.open_catalog(path)) if i == "x"} == set(collections)


def test_what_is_appended_to_the_output_of_a_run_is_found_there(make_item, tmp_path):
    xgc.to_geoparquet(xgc.from_items([make_item("a")]), tmp_path / "catalog.parquet")
    assert xgc.append(xgc.from_items([make_item("b")]), tmp_path) == 1
    assert sorted(xgc.open_catalog(tmp_path).scene.values) == ["a", "b"]


def test_an_empty_folder_is_appended_to(make_item, tmp_path):
    for name in "ab":
        xgc.append(xgc.from_items([make_item(name)]), tmp_path)
    assert sorted(xgc.open_catalog(tmp_path).scene.values) == ["a", "b"]


VALUES = {
    "integers": [1, 2], "long integers": [2**60 + 1, 5], "longer": [2**70, 1], "floats": [0.5, 1.5],
    "booleans": [True, False], "boolean gap": [True, None], "texts": ["x", ""],
    "text gap": ["x", None], "integer gap": [3, None], "long gap": [2**60 + 1, None],
    "mixed": [1, "x"], "nothing": [None, None],
}  # fmt: skip


OFTEN = ("integers", "long integers", "booleans", "boolean gap", "texts")
PAIRS = [
    pytest.param(one, other, marks=() if {one, other} <= {*OFTEN, "nothing"} else pytest.mark.slow)
    for one in VALUES
    for other in VALUES
]


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_values_of_two_kinds_come_back_as_they_were_or_are_refused(one, other, make_item, tmp_path):
    old, new = (
        [make_item(f"{kind}{i}", **({} if v is None else {"q": v})) for i, v in enumerate(values)]
        for kind, values in zip("ab", (VALUES[one], VALUES[other]), strict=True)
    )
    path = xgc.to_geoparquet(xgc.from_items(old), tmp_path / "c.parquet")
    before = path.read_bytes()
    try:
        xgc.append(xgc.from_items(new), path)
    except ValueError as error:
        assert "'q' is of kinds" in str(error)  # noqa: PT017 - the documented answer
        assert path.read_bytes() == before
        return
    found = xgc.open_catalog(path)
    expected = xgc.from_items([*old, *new])
    assert [i["properties"] for i in to_dicts(found)] == [
        i["properties"] for i in to_dicts(expected)
    ]
    if "q" in expected:
        assert found["q"].dtype == expected["q"].dtype


@pytest.mark.parametrize("kinds", [("texts", "booleans"), ("long gap", "texts"),
                                   ("mixed", "boolean gap"), ("floats", "texts", "longer")])  # fmt: skip
def test_kinds_that_change_from_one_row_group_to_the_next_come_back(
    kinds, make_item, tmp_path, monkeypatch
):
    monkeypatch.setattr(parquet, "GROUP", 2)
    values = [v for kind in kinds for v in VALUES[kind]]
    made = xgc.from_items(
        make_item(f"s{i}", **({} if v is None else {"q": v})) for i, v in enumerate(values)
    )
    back = xgc.open_catalog(xgc.to_geoparquet(made, tmp_path / "c.parquet"))
    assert to_dicts(back) == to_dicts(made)


def test_scenes_of_unknown_time_share_a_row_group(make_item, tmp_path):
    made = xgc.from_items(make_item(f"s{i}", time=None) for i in range(5))
    path = xgc.to_geoparquet(made, tmp_path / "c", by="month")
    (file,) = path.rglob("*.parquet")
    assert pq.read_metadata(file).num_row_groups == 1


def test_a_rewritten_file_is_brought_into_order(make_item, tmp_path, monkeypatch):
    for module, name, size in ((append, "GROUP", 3), (append, "BATCH", 6), (parquet, "GROUP", 3), (parquet, "SLAB", 6), (ordering, "GROUP", 3),
                               (ordering, "SLAB", 6)):  # fmt: skip
        monkeypatch.setattr(module, name, size)
    items = [make_item(f"s{i}", box(i % 5, 0, i % 5 + 1, 1), f"2024-06-{i + 1:02d}T00:00:00Z", q=i)
             for i in range(20)]  # fmt: skip
    path = xgc.to_geoparquet(xgc.from_items(items[:11]), tmp_path / "c.parquet")
    assert xgc.append(xgc.from_items(items[7:]), path) == 9
    back = xgc.open_catalog(path)
    assert by_key(back) == by_key(xgc.from_items(items))
    assert pq.read_metadata(path).num_row_groups >= 7


# --- what is refused ------------------------------------------------------------------------------


def files_of(path):
    """Content of a file, or of all files in a folder."""
    found = [path] if path.is_file() else sorted(path.rglob("*.parquet"))
    return {file: file.read_bytes() for file in found}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda ds: xgc.from_items(to_dicts(ds), crs=32631), r"EPSG:4326.*EPSG:32631.*same crs"),
        (lambda ds: ds.assign(q=ds["q"].astype(str)), r"'q' is of kinds.*drop_vars"),
        (lambda ds: ds.where(ds["q"] > 8), "masked"),
        (lambda ds: ds.assign(age=("scene", np.ones(2, "m8[s]"))), "no place for.*age"),
    ],
    ids=["CRS", "kind", "masked", "no place"],
)
def test_what_is_refused_leaves_everything_as_it_was(change, message, written, make_item):
    path = written(xgc.from_items([make_item("a", q=1)]))
    before = files_of(path)
    new = change(xgc.from_items([make_item("b", q=2), make_item("c", q=9)]))
    with pytest.raises(ValueError, match=message):
        xgc.append(new, path)
    assert files_of(path) == before


def test_a_file_of_another_tool_and_of_a_later_version_is_refused(make_item, tmp_path):
    made = xgc.from_items([make_item("a")])
    path = xgc.to_geoparquet(made, tmp_path / "c.parquet")
    table = pq.read_table(path)
    metadata = dict(table.schema.metadata)
    about = json.loads(metadata.pop(b"geocat"))
    for said, message in (({}, "not written by xgeocat"),
                          ({b"geocat": json.dumps({**about, "version": 99})}, "later xgeocat")):  # fmt: skip
        pq.write_table(table.replace_schema_metadata({**metadata, **said}), path)
        before = path.read_bytes()
        with pytest.raises(ValueError, match=message):
            xgc.append(xgc.from_items([make_item("b")]), path)
        assert path.read_bytes() == before


def test_a_folder_that_is_partitioned_in_another_way_is_refused(make_item, tmp_path):
    (tmp_path / "c" / "platform=a").mkdir(parents=True)
    xgc.to_geoparquet(xgc.from_items([make_item("a")]), tmp_path / "c" / "platform=a" / "x.parquet")
    new = xgc.from_items([make_item("b")])
    with pytest.raises(ValueError, match=r"partitioned by \['platform'\].*one of the folders"):
        xgc.append(new, tmp_path / "c")
    assert xgc.append(new, tmp_path / "c" / "platform=a") == 1
    assert sorted(xgc.open_catalog(tmp_path / "c").scene.values) == ["a", "b"]


def test_where_there_is_no_folder_nothing_is_made(make_item, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        xgc.append(xgc.from_items([make_item("a")]), tmp_path / "nowhere" / "c.parquet")
    assert list(tmp_path.iterdir()) == []


# --- who is killed, and who comes together --------------------------------------------------------

CHILD = """
    import sys
    import xgeocat as xgc
    from shapely.geometry import box, mapping
    def item(name, day):
        return {"type": "Feature", "id": name, "collection": "made", "geometry": mapping(box(0, 0, 1, 1)),
                "properties": {"datetime": f"2024-{day % 12 + 1:02d}-01T00:00:00Z", "q": day},
                "links": [], "assets": {"red": {"href": f"https://example.com/{name}"}}}
    path, first, last, tries = sys.argv[1], *map(int, sys.argv[2:])
    print("ready", flush=True)
    sys.stdin.readline()
    for i in range(first, last):
        for _ in range(tries):
            try:
                xgc.append(xgc.from_items([item(f"n{i}-{k}", k) for k in range(4)]), path)
                break
            except RuntimeError as error:
                print("busy", flush=True)
                import time; time.sleep(0.05)
        else:
            sys.exit("never came in")
    print("done", flush=True)
"""


@pytest.fixture
def child(job_environment):
    """Starter of a process that appends n0, n1, ... of four scenes each, when it is told."""
    begun = []

    def start(path, first, last, tries=400):
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(CHILD), path, str(first), str(last), str(tries)],
            env=job_environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        begun.append(process)
        assert process.stdout.readline() == "ready\n"
        return process

    yield start
    for process in begun:
        process.kill()
        process.communicate()


def go(process):
    process.stdin.write("\n")
    process.stdin.flush()


@pytest.mark.slow
@pytest.mark.parametrize("after", [0.05, 0.15, 0.3, 0.6])
def test_who_is_killed_leaves_files_that_are_whole_and_the_rest_can_be_appended(
    after, written, make_item, child
):
    path = written(xgc.from_items([make_item("a", q=1)]))
    process = child(path, 0, 200)
    go(process)
    time.sleep(after)
    process.kill()
    process.wait()
    found = xgc.open_catalog(path).load()
    names = [name for name in found.scene.values if name != "a"]
    assert len(set(names)) == len(names)
    if path.is_file():
        # Of one file: whole appends, one after another.
        assert sorted(names) == sorted(
            f"n{i}-{k}" for i in range(len(names) // 4) for k in range(4)
        )
    again = child(path, 0, 3)
    go(again)
    assert again.stdout.read().endswith("done\n")
    names = list(xgc.open_catalog(path).scene.values)
    assert len(set(names)) == len(names)
    assert set(names) >= {"a", *(f"n{i}-{k}" for i in range(3) for k in range(4))}


@pytest.mark.slow
def test_of_two_who_append_at_once_none_loses_anything(written, make_item, child):
    path = written(xgc.from_items([make_item("a", q=1)]))
    # Of what both append, each scene is there once.
    both = [child(path, 0, 6), child(path, 3, 9)]
    for process in both:
        go(process)
    for process in both:
        assert process.communicate()[0].endswith("done\n")
    names = sorted(xgc.open_catalog(path).scene.values)
    assert names == sorted(["a", *(f"n{i}-{k}" for i in range(9) for k in range(4))])


def test_who_comes_while_another_is_at_work_is_told(written, make_item):
    path = written(xgc.from_items([make_item("a")]))
    inside = path if path.is_dir() else path.parent
    with (
        folder_at(inside).locked(),
        pytest.raises(RuntimeError, match=r"Somebody else is at work in .*Append again"),
    ):
        xgc.append(xgc.from_items([make_item("b")]), path)
    assert xgc.append(xgc.from_items([make_item("b")]), path) == 1


# --- object stores --------------------------------------------------------------------------------


@pytest.mark.parametrize("by", [None, "month"])
def test_scenes_are_appended_in_an_object_store(by, make_item, new_bucket):
    path = f"{new_bucket()}/deep/c.parquet"
    old = [
        make_item(f"a{i}", box(i, 0, i + 1, 1), f"2024-0{i + 1}-01T00:00:00Z", q=i)
        for i in range(3)
    ]
    new = [make_item("b", box(1, 0, 2, 1), "2025-02-10T00:00:00Z", r="x", q=7)]
    assert xgc.to_geoparquet(xgc.from_items(old), path, by=by) == path
    added = xgc.from_items([*old, *new])
    assert [xgc.append(added, path), xgc.append(added, path)] == [1, 0]
    back = xgc.open_catalog(path)
    assert by_key(back) == by_key(added)
    assert set(back.geocat.query((1.2, 0.2, 1.8, 0.8)).scene.values) == {"a1", "b"}
    lazy = pickle.loads(pickle.dumps(xgc.open_catalog(path)))
    assert sorted(lazy["q"].values) == [0, 1, 2, 7]
    if by is None:
        xgc.to_geoparquet(xgc.from_items(new), path)
        with pytest.raises(ChangedFileError, match="open the catalog again"):
            lazy["r"].values  # noqa: B018


def test_a_bucket_and_a_trailing_slash_are_opened(make_item, new_bucket, tmp_path):
    bucket = new_bucket()
    made = xgc.from_items([make_item("a")])
    xgc.to_geoparquet(made, f"{bucket}/x.parquet")
    xgc.to_geoparquet(made, f"{bucket}/deep/x.parquet")
    xgc.to_geoparquet(made, tmp_path / "x.parquet")
    for place in (bucket, f"{bucket}/", f"{bucket}/deep", f"{bucket}/deep/", f"{tmp_path}/"):
        assert list(xgc.open_catalog(place).scene.values) == ["a"], place


def test_a_property_may_be_called_as_the_places_of_rows_are(make_item, tmp_path):
    path = tmp_path / "c.parquet"
    items = [make_item(f"s{i}", rank=5 - i, **{"geocat:rank": f"r{i}"}) for i in range(2)]
    for item in items:
        xgc.append(xgc.from_items([item]), path)
    assert to_dicts(xgc.open_catalog(path)) == items
