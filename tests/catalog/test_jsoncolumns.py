"""JSON columns: what a loop over the parsed objects finds, stands in the columns."""

from __future__ import annotations

import datetime as dt
import json

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xgeocat.catalog import jsoncolumns
from xgeocat.catalog.jsoncolumns import LINKS, links_or_none, lists_or_none, members_of, struct_of

ODD = ["", "x\ny", "\u2028", "\x85", "'\"\\", "a\x00b", "ü\U0001f6f0", "null", "1", "2024-01-01"]
#: Members that STAC has, and what they are.
KNOWN = {"roles": list, "stac_extensions": list, "properties": dict}
plain = st.one_of(st.integers(-(2**31), 2**31), st.sampled_from(ODD), st.booleans(), st.none(),
                  st.sampled_from([0.5, -1e300, float("nan"), float("inf"), 2**63, 2**70]))  # fmt: skip
anything = st.recursive(
    plain,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["a", "b", "", "a.b"]), inner, max_size=2),
    max_leaves=4,
)  # fmt: skip
members = st.dictionaries(
    st.sampled_from(["q", "r", "", "a.b", "\n", *KNOWN]),
    anything, max_size=4,
)  # fmt: skip


def texts_of(objects):
    return pa.array([json.dumps(one, separators=(",", ":")) for one in objects], pa.string())


def is_nothing(found):
    gaps = found.values() if isinstance(found, dict) else [found]
    return found == [] or all(gap is None for gap in gaps)


def is_said(found, value):
    """Tell whether a value of a column is a JSON value, perhaps as text, with nulls for gaps."""
    if found is None or value is None:
        # Members that are nowhere anything but null are no columns, which this sees as well.
        return True
    if isinstance(value, dict) and isinstance(found, dict):
        return all(is_said(inner, value.get(name)) for name, inner in found.items())
    if isinstance(value, list) and isinstance(found, list):
        return len(found) == len(value) and all(map(is_said, found, value))
    if isinstance(found, dt.datetime):
        return found == dt.datetime.fromisoformat(value)
    if isinstance(found, str) and not isinstance(value, str):
        return json.dumps(json.loads(found)) == json.dumps(value)
    return found == value or found != found


@given(st.lists(members, max_size=5))
@settings(max_examples=150, deadline=None)
def test_columns_say_what_the_objects_say(objects):
    columns = jsoncolumns.parsed(texts_of(objects))
    assert set(columns) <= {name for one in objects for name in one}
    for name, column in columns.items():
        assert len(column) == len(objects)
        for found, one in zip(column.to_pylist(), objects, strict=True):
            if name not in one or not isinstance(one[name], KNOWN.get(name, object)):
                assert is_nothing(found) or is_said(found, one.get(name))
            else:
                assert is_said(found, one[name])


@pytest.mark.parametrize("kind", ["of one kind", "of several kinds"])
@pytest.mark.parametrize("value", [*ODD, 1, -(2**53), 0.5, True, ["a", "b"], {"a": 1}], ids=repr)
def test_values_are_in_a_column_of_their_name(value, kind):
    mixed = {"of one kind": [1, 2], "of several kinds": [1, {"a": "x"}]}[kind]
    objects = [{"q": value, "m": mixed[0]}, {"m": mixed[1]}]
    columns = jsoncolumns.parsed(texts_of(objects))
    assert {*columns} == {"q", "m"}
    found, gap = columns["q"].to_pylist()
    assert gap is None
    if kind == "of one kind" and not isinstance(found, str):
        assert getattr(found, "isoformat", lambda: found)() in (value, f"{value}T00:00:00")
    else:
        assert found == (value if isinstance(value, str) else json.dumps(value))
    if kind == "of several kinds":
        assert columns["m"].to_pylist() == ["1", '{"a": "x"}']


@pytest.mark.parametrize("objects", [[], [{}], [{"a": None}, {}], [{"a": [None]}], [{"a": {}}], [{"a": []}]],
                         ids=str)  # fmt: skip
def test_there_is_no_column_of_nothing(objects):
    assert jsoncolumns.parsed(texts_of(objects)) == {}


@pytest.mark.parametrize("value", [[None, 1], [None, None, "x"], [[None, 1]], {"a": [None, {"b": 1}]},
                                   [{"a": [None, 2]}], [1, None]], ids=str)  # fmt: skip
def test_lists_that_begin_with_null_are_told(value):
    found = jsoncolumns.parsed(texts_of([{"q": value, "r": 1}, {"r": 2}]))
    for column in found.values():
        column.validate(full=True)
    told, gap = found["q"].to_pylist()
    assert (json.loads(told) if isinstance(told, str) else told) == value
    assert gap is None


def test_of_several_kinds_lists_and_links_stay_what_they_are():
    link = {"rel": "self", "href": "x", "method": "POST", "title": 1}
    objects = [
        {"roles": ["a", 1, None], "stac_extensions": "eo", "links": [link], "properties": {"p": [1]}},
        {"roles": "data", "stac_extensions": ["x"], "links": None, "properties": "none", "q": 1},
        {"q": "x", "links": ["no link", {}], "roles": {"a": 1}},
    ]  # fmt: skip
    found = {k: v.to_pylist() for k, v in jsoncolumns.parsed(texts_of(objects)).items()}
    nothing = dict.fromkeys(("href", "rel", "type", "title"))
    assert found == {
        "roles": [["a", "1", None], None, None],
        "stac_extensions": [None, ["x"], None],
        "links": [[{**nothing, "rel": "self", "href": "x", "title": "1"}], [], [nothing]],
        "properties": [{"p": "[1]"}, {"p": None}, {"p": None}],
        "q": [None, "1", "x"],
    }


# --- structs and lists ----------------------------------------------------------------------------


def test_members_of_a_struct_are_null_where_it_is():
    rows = [{"a": 1, "b": None, "c": {"d": None}}, None, {"a": None, "b": None, "c": None}]
    found = members_of(pa.array(rows).slice(0, 3))
    assert {name: column.to_pylist() for name, column in found.items()} == {"a": [1, None, None]}
    assert members_of(pa.array(rows[:2]).slice(1))["a"].to_pylist() == [None]
    assert members_of(None) == members_of(pa.array([1, 2])) == {}


def test_a_struct_is_null_where_it_is_told_to_be():
    columns = {"a": pa.array([1, 2]), "a.b": pa.array(["x", None])}
    assert struct_of(columns).to_pylist() == [{"a": 1, "a.b": "x"}, {"a": 2, "a.b": None}]
    mask = pa.array([True, False])
    assert struct_of(columns, mask).to_pylist() == [None, {"a": 2, "a.b": None}]


@pytest.mark.parametrize(
    "found", [None, pa.array([1, 2]), pa.array(["x", "y"]), pa.array([[1], [2]])], ids=str
)
def test_what_is_no_list_of_texts_is_null(found):
    lists = lists_or_none(found, 2)
    assert lists.type == pa.list_(pa.string())
    assert lists.to_pylist() == [None, None]


def test_lists_of_texts_are_as_they_are():
    assert lists_or_none(pa.array([["x"], None, []]), 3).to_pylist() == [["x"], None, []]


@pytest.mark.parametrize(
    ("found", "links"),
    [
        (None, [[], []]),
        (pa.array(["x", None]), [[], []]),
        (pa.array([[1], [2]]), [[], []]),
        (pa.array([[{"rel": "a", "href": "x"}], None]), [[{"href": "x", "rel": "a"}], []]),
        (pa.array([[{"title": "t", "rel": "a", "body": {"q": 1}}], []]),
         [[{"rel": "a", "title": "t"}], []]),
        (pa.array([[{"rel": "a", "href": 1}], [{}]]), [[{"rel": "a", "href": "1"}], [{}]]),
    ],
    ids=str,
)  # fmt: skip
def test_links_have_the_members_that_stac_says(found, links):
    column = links_or_none(found, 2)
    assert column.type == LINKS
    assert column.to_pylist() == [
        [dict.fromkeys(("href", "rel", "type", "title")) | link for link in each] for each in links
    ]
