"""Files read where they are, as if they were here."""

from __future__ import annotations

import io
import pickle
import sys

import numpy as np
import pytest
import zarr

from tests import faults
from xgeocat.storage.reading import RemoteFile, readable, zarr_store

CONTENT = np.random.default_rng(0).bytes(3_000_000)


@pytest.fixture(params=["s3", "http"])
def remote(request, tmp_path):
    """URL of a file of CONTENT."""
    obstore = pytest.importorskip("obstore")
    if request.param == "s3":
        url = request.getfixturevalue("new_bucket")()
        obstore.put(obstore.store.from_url(url), "a/b.bin", CONTENT)
        yield f"{url}/a/b.bin"
    else:
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "b.bin").write_bytes(CONTENT)
        with faults.serving(tmp_path) as server:
            yield f"{server.url}/a/b.bin"


def test_a_remote_file_is_read_where_it_is_sought(remote):
    file, local = RemoteFile(remote), io.BytesIO(CONTENT)
    assert file.readable()
    assert file.seekable()
    moves = [(0, 0), (1_500_000, 0), (-10, 2), (-500_000, 1), (0, 2), (7, 0)]
    for offset, whence in moves:
        assert file.seek(offset, whence) == local.seek(offset, whence) == file.tell()
        assert file.read(100_000) == local.read(100_000)
    copy = pickle.loads(pickle.dumps(file))
    assert copy.read(10) == CONTENT[:10]
    assert file.readall() == local.read()


def test_what_is_not_there_is_said(remote):
    with pytest.raises(FileNotFoundError):
        RemoteFile(f"{remote}.not").read(1)


def test_local_paths_stay_what_they_are(tmp_path):
    assert readable("/a/b.nc") == readable("file:///a/b.nc") == "/a/b.nc"
    zarr.create_array(tmp_path / "z", data=np.arange(3))
    store = zarr_store(str(tmp_path / "z"))
    assert store.read_only
    np.testing.assert_array_equal(zarr.open_array(store, mode="r")[:], np.arange(3))


@pytest.mark.parametrize("open_it", [readable, zarr_store])
def test_urls_without_the_extra_say_what_to_install(monkeypatch, open_it):
    monkeypatch.setitem(sys.modules, "obstore", None)
    monkeypatch.delitem(sys.modules, "xgeocat.storage.bucket", raising=False)
    with pytest.raises(ImportError, match=r"pip install 'xgeocat\[s3\]'"):
        open_it("s3://bucket/a")
