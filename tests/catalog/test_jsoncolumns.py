"""Members of JSON as columns: none is lost, whatever its kinds are."""

import json

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xgeocat.catalog.jsoncolumns import parsed

VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-5, 5), st.text("a\n\"", max_size=2)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("xy"), inner),
    max_leaves=5,
)  # fmt: skip


def columns_of(objects):
    return parsed(pa.array(map(json.dumps, objects), pa.string()))


def says(found, wanted):
    """Whether a value of a column is one of JSON, or its text; a missing member is null."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        return all(says(found.get(k), wanted.get(k)) for k in {*found, *wanted})
    if isinstance(found, list) and isinstance(wanted, list):
        return len(found) == len(wanted) and all(map(says, found, wanted))
    return found == wanted or found == json.dumps(wanted)


@settings(deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from("ab"), VALUES, max_size=2), max_size=4))
def test_columns_hold_what_the_objects_say(objects):
    found = columns_of(objects)
    for column in found.values():
        column.validate(full=True)
        assert len(column) == len(objects)
    for name in {name for one in objects for name in one}:
        wanted = [one.get(name) for one in objects]
        if name in found:
            assert all(map(says, found[name].to_pylist(), wanted))
        else:
            # Of which there is nothing but nulls, however deep, Parquet has no column.
            assert not any(_is_known(value) for value in wanted)


def _is_known(value):
    if isinstance(value, (list, dict)):
        return any(map(_is_known, value.values() if isinstance(value, dict) else value))
    return value is not None


@pytest.mark.parametrize(
    "value", [[None, False], [None, 1], [None, "a"], {"p": [{"q": [None, 2]}]}]
)
def test_lists_that_begin_with_null_are_kept(value):
    (found,) = columns_of([{"a": value}, {"a": value}])["a"].to_pylist()[:1]
    assert says(found, value)


def test_no_objects_have_no_columns():
    assert columns_of([]) == {}
