"""Signatures of URLs are kept nowhere."""

import pytest

from xgeocat.domain.signing import unsigned, without_queries


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("https://a.b/c.tif?sig=secret&x=1", "https://a.b/c.tif"),
        ("s3://b/c.tif", "s3://b/c.tif"),
        ('see <a href="https://a.b/?sig=secret">here</a>, "why?"',
         'see <a href="https://a.b/">here</a>, "why?"'),
        ("C:\\scenes\\a.tif?", "C:\\scenes\\a.tif?"), ("is it? 1 < 2", "is it? 1 < 2"), ("", ""),
    ],
)  # fmt: skip
def test_json_keeps_all_but_the_queries_of_urls(said, kept):
    content = {"a": said, "b": [said, {"c": said, "n": None}], "d": 1.5, "e": True, said: {}}
    before = repr(content)
    assert without_queries(content) == {
        "a": kept, "b": [kept, {"c": kept, "n": None}], "d": 1.5, "e": True, said: {},
    }  # fmt: skip
    assert repr(content) == before


def test_texts_say_that_there_was_a_query():
    assert unsigned("cannot read https://a.b/c.tif?sig=x: 403") == (
        "cannot read https://a.b/c.tif?... 403"
    )
