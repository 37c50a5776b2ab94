"""Which errors pass by themselves, and what is told of those that do not."""

import errno
import pickle

import pytest
import rasterio.errors

from xgeocat.domain.signing import unsigned
from xgeocat.runs.errors import UnitError, is_full, passes

Rio = rasterio.errors.RasterioIOError


def caused(error, cause):
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "may_pass"),
    [
        (OSError("network"), True),
        (ConnectionResetError(), True),
        (TimeoutError(), True),
        (Rio("HTTP response code: 503"), True),
        (Rio("HTTP response code: 429"), True),
        (Rio("HTTP response code: 403"), True),
        (Rio("HTTP response code: 404"), False),
        (Rio("HTTP response code: 410"), False),
        (Rio("CURL error: Operation too slow"), True),
        (Rio("Read failed. See previous exception for details."), True),
        (caused(Rio("Read failed."), Rio("HTTP response code: 404")), False),
        (Rio("/data/a.tif: No such file or directory"), False),
        (Rio("'/vsicurl/http://x/a.tif' does not exist in the file system"), True),
        (FileNotFoundError("a.tif"), False),
        (PermissionError("a.tif"), False),
        (ValueError("shape"), False),
        (MemoryError(), False),
        (ZeroDivisionError(), False),
    ],
    ids=repr,
)
def test_errors_of_networks_pass_and_what_is_wrong_stays_wrong(error, may_pass):
    assert passes(error) is may_pass


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_disk_without_room_is_told_however_deep_it_lies(number):
    assert is_full(caused(ValueError("write"), OSError(number, "no room")))
    assert not is_full(caused(ValueError("write"), OSError(errno.EIO, "broken")))


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("https://a.b/c.tif?sig=abc&x=1 failed", "https://a.b/c.tif?... failed"),
        ("'/vsicurl/http://a/b.tif?sig=s'", "'/vsicurl/http://a/b.tif?...'"),
        ("s3://bucket/key?X-Amz-Signature=s, http://b/c?t=1", "s3://bucket/key?... http://b/c?..."),
        ("what? nothing", "what? nothing"),
        ("https://a.b/c.tif", "https://a.b/c.tif"),
    ],
)
def test_queries_of_urls_are_left_out(text, left):
    assert unsigned(text) == left


def test_what_is_told_of_a_unit_goes_from_process_to_process():
    try:
        try:
            raise Rio("https://a/b.tif?sig=secret: HTTP response code: 403")
        except Rio as error:
            raise ValueError("read") from error
    except ValueError as error:
        told = UnitError.of("s1", "write", 3, error)
    again = pickle.loads(pickle.dumps(told))
    assert str(again) == str(told)
    assert "s1 failed at write, after 3 tries: ValueError: read <- https://a/b.tif?..." in str(told)
    assert "secret" not in told.trace
    assert "Traceback" in again.trace
