"""The ledger: what is finished, what failed, under which fingerprint."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xgeocat.runs.ledger import Ledger, RunMismatchError, differences, encoded, safe_name
from xgeocat.storage.folder import folder_at

PLAIN = set(string.ascii_letters + string.digits + "._-+")

NASTY = [
    "../../x", "a/b", "/etc/passwd", ".hidden", "..", ".", "", " ", "a b", "a\tb", "a\nb", "a\\b",
    "C:\\x", "~", "ä", "雪", "🛰", "a" * 500, "ä" * 300, "-rf", "a:b", "a?b", "a*b", "con", "a\u202eb",
    "S2A_33TWL_20230815_0_L2A", "a+b", "a..b", "a.json", "a.zarr",
]  # fmt: skip


@pytest.mark.parametrize("name", NASTY)
def test_any_id_becomes_a_file_name_inside_the_folder(tmp_path, name):
    ledger = Ledger(folder_at(tmp_path / "out"))
    ledger.open({})
    path = ledger.data.root / safe_name(name)
    assert path.parent == tmp_path / "out" / "data"
    assert path.resolve().parent == (tmp_path / "out" / "data").resolve()
    assert not path.name.startswith(".")
    path.mkdir(parents=True)
    ledger.fail(name, {"id": name})
    assert ledger.failures() == [{"id": name}]
    ledger.finish(name, {"id": name})
    assert ledger.items([name]) == [{"id": name}]
    assert ledger.failures() == []
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "run.json",
        "items",
        "failures",
        "data",
    }


def test_nasty_ids_do_not_collide():
    names = [safe_name(name) for name in NASTY]
    assert len(set(names)) == len(NASTY)


@given(st.text(max_size=300))
def test_file_names_are_short_plain_and_not_hidden(name):
    safe = safe_name(name)
    assert 0 < len(safe.encode()) <= 200
    assert not safe.startswith(".")
    assert set(safe) <= PLAIN


@given(st.text("ab/\\ .é-_", max_size=6), st.text("ab/\\ .é-_", max_size=6))
def test_two_ids_never_share_a_file_name(one, other):
    assert (one == other) == (safe_name(one) == safe_name(other))


@given(st.text(max_size=20))
def test_an_id_that_looks_like_another_one_s_file_name_does_not_collide_with_it(name):
    """The name made for one id is itself a possible id."""
    made = safe_name(name)
    assert made == name or safe_name(made) != made


@given(st.text(string.ascii_letters + string.digits + "_-", min_size=1, max_size=100))
def test_ordinary_ids_stay_readable(name):
    assert safe_name(name) == name


def test_a_new_folder_becomes_a_run_and_can_be_opened_again(tmp_path):
    root = tmp_path / "deep" / "out"
    Ledger(folder_at(root)).open({"pipeline": {"a": 1}})
    assert Ledger(folder_at(root)).is_run()
    Ledger(folder_at(root)).open({"pipeline": {"a": 1}})


def test_an_empty_folder_becomes_a_run(tmp_path):
    Ledger(folder_at(tmp_path)).open({})
    assert Ledger(folder_at(tmp_path)).is_run()


def test_a_folder_with_something_else_is_refused_and_not_touched(tmp_path):
    (tmp_path / "thesis.txt").write_text("all of it")
    with pytest.raises(RunMismatchError, match=r"thesis\.txt"):
        Ledger(folder_at(tmp_path)).open({})
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]
    assert (tmp_path / "thesis.txt").read_text() == "all of it"


def test_a_file_in_place_of_the_folder_is_refused_and_not_touched(tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises((RunMismatchError, NotADirectoryError, FileExistsError)):
        Ledger(folder_at(tmp_path / "out")).open({})
    assert (tmp_path / "out").read_text() == "a file"


def test_a_run_killed_while_it_began_can_begin_again(tmp_path):
    """The first thing a run writes is its fingerprint, beside its place: that may be all."""
    (tmp_path / ".run.json.4711.tmp").write_text('{"pipe')
    Ledger(folder_at(tmp_path)).open({"a": 1})
    assert Ledger(folder_at(tmp_path)).is_run()


def test_another_fingerprint_is_refused_and_says_what_changed(tmp_path):
    Ledger(folder_at(tmp_path)).open(
        {"pipeline": {"steps": [{"model": "v1"}, {"window": "hann"}]}, "bands": None}
    )
    before = (tmp_path / "run.json").read_bytes()
    with pytest.raises(RunMismatchError) as error:
        Ledger(folder_at(tmp_path)).open(
            {"pipeline": {"steps": [{"model": "v2"}, {"window": "hann"}]}, "bands": ["red"]}
        )
    text = str(error.value)
    for word in ("steps[0].model", "'v1'", "'v2'", "bands", "['red']"):
        assert word in text
    assert "window" not in text
    assert (tmp_path / "run.json").read_bytes() == before


def test_finishing_forgets_the_failure(tmp_path):
    ledger = Ledger(folder_at(tmp_path))
    ledger.open({})
    ledger.fail("a", {"id": "a"})
    assert ledger.unfinished(["a"]) == ["a"]
    assert len(ledger.failures()) == 1
    ledger.finish("a", {"id": "a"})
    assert ledger.unfinished(["a"]) == []
    assert ledger.failures() == []


def test_a_finished_unit_is_no_failure_even_if_killed_before_the_failure_was_forgotten(tmp_path):
    ledger = Ledger(folder_at(tmp_path))
    ledger.open({})
    ledger.fail("a", {"id": "a"})
    # What `finish` does first; then the process dies.
    folder_at(tmp_path).write("items/a.json", encoded({"id": "a"}))
    again = Ledger(folder_at(tmp_path))
    again.open({})
    assert again.unfinished(["a"]) == []
    assert again.failures() == []


def test_items_come_in_the_order_asked_for_and_only_those(tmp_path):
    ledger = Ledger(folder_at(tmp_path))
    ledger.open({})
    for name in "abc":
        ledger.finish(name, {"id": name})
    assert [item["id"] for item in ledger.items(["c", "gone", "a"])] == ["c", "a"]


def test_leftovers_of_a_killed_writer_are_no_records(tmp_path):
    ledger = Ledger(folder_at(tmp_path))
    ledger.open({})
    for folder in ("items", "failures"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / ".a.json.4711.tmp").write_text('{"half')
    assert ledger.failures() == []
    assert ledger.unfinished(["a"]) == ["a"]
    assert ledger.items(["a"]) == []


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text("ab", max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("xyz", max_size=2), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@given(JSON, JSON)
def test_differences_are_found_exactly_where_values_differ(was, now):
    found = differences(was, now)
    if was == now:
        assert found == []
    else:
        assert found or _only_null_members(was, now)
    assert differences(was, was) == []


def _only_null_members(was, now):
    """A member that is null on one side and missing on the other: the one thing it cannot show."""
    if isinstance(was, dict) and isinstance(now, dict):
        return all(_only_null_members(was.get(k), now.get(k)) for k in {*was, *now})
    if isinstance(was, list) and isinstance(now, list) and len(was) == len(now):
        return all(map(_only_null_members, was, now))
    return was == now
