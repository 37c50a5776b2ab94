"""Folders: the same on a disk and in an object store."""

import os
import pickle
import subprocess
import sys
import threading
import time
from contextlib import suppress
from uuid import uuid4

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from xgeocat.storage import lease
from xgeocat.storage.bucket import StorageError
from xgeocat.storage.disk import DiskFolder, FolderInUseError
from xgeocat.storage.folder import folder_at, parent_and_name


@pytest.fixture(params=["disk", "s3"])
def folder(request, tmp_path):
    if request.param == "disk":
        return folder_at(tmp_path / "out")
    return folder_at(request.getfixturevalue("new_bucket")())


def test_what_is_written_is_read(folder):
    folder.write("a b.json", b"one")
    folder.write("items/ä+1.json", b"two")
    folder.write("items/ä+1.json", b"three")
    assert folder.read("a b.json") == b"one"
    assert folder.read("items/ä+1.json") == b"three"
    assert folder.inside("items").read("ä+1.json") == b"three"
    assert folder.has("a b.json")
    assert not folder.has("b")
    assert folder.names() == ["a b.json", "items"]
    assert folder.names("items") == ["ä+1.json"]
    assert folder.names("nothing here") == []


def test_parts_of_a_file_are_read(folder):
    content = bytes(range(256)) * 9
    folder.write("a", content)
    with folder.open("a") as file:
        assert file.size() == len(content)
        assert file.read(5) == content[:5]
        file.seek(100)
        assert file.read(7) == content[100:107]
        file.seek(-3, 2)
        assert file.tell() == len(content) - 3
        assert file.read() == content[-3:]
        assert file.read(4) == b""


def test_a_file_that_is_filled_appears_whole(folder):
    folder.write("b", b"old")
    with folder.new_file("b") as path:
        path.write_bytes(b"new")
        assert folder.read("b") == b"old"
    assert folder.read("b") == b"new"
    with suppress(ZeroDivisionError), folder.new_file("b") as path:
        path.write_bytes(b"half")
        _ = 1 / 0
    assert folder.read("b") == b"new"
    assert folder.names() == ["b"]


def test_a_file_that_is_written_again_is_of_another_version(folder):
    folder.write("a", b"one")
    first = folder.version("a")
    assert folder.version("a") == first
    folder.write("a", b"two")
    assert folder.version("a") != first
    for read in (folder.version, folder.open):
        with pytest.raises(FileNotFoundError):
            read("nope")


def test_a_folder_is_a_value(folder):
    folder.write("a", b"1")
    again = pickle.loads(pickle.dumps(folder))
    assert again == folder
    assert again.read("a") == b"1"
    assert folder_at(folder.url) == folder


def test_what_is_not_there_is_told_in_a_line(folder):
    with pytest.raises(FileNotFoundError, match="nope") as error:
        folder.read("nope")
    assert len(str(error.value)) < 600


def test_what_is_removed_is_gone_and_nothing_else(folder):
    for name in ("a/1", "a/2/3", "ab", "b"):
        folder.write(name, b"x")
    folder.remove("b")
    folder.remove("b")
    folder.remove_all("a")
    folder.remove_all("a")
    assert folder.names() == ["ab"]


def test_files_appear_when_all_of_them_are_there(folder):
    with folder.new_files("cogs") as path:
        (path / "x.tif").write_bytes(b"1" * 10_000)
        assert folder.names() == []
    assert folder.inside("cogs").names() == ["x.tif"]
    assert folder.read("cogs/x.tif") == b"1" * 10_000


def test_files_of_an_attempt_that_fails_never_appear(folder):
    def fail():
        with folder.new_files("cogs") as path:
            (path / "x.tif").write_bytes(b"1")
            raise ValueError("half")

    with pytest.raises(ValueError, match="half"):
        fail()
    assert folder.names() == []
    with folder.new_files("cogs") as path:
        (path / "x.tif").write_bytes(b"2")
    assert folder.read("cogs/x.tif") == b"2"


def test_of_two_attempts_at_one_group_one_is_kept_whole(folder):
    def attempt(value):
        with folder.new_group("g.zarr") as store:
            array = zarr.create_array(store, name="a", shape=(4,), dtype="i4", overwrite=True)
            array[:] = value

    attempt(1)
    attempt(1)
    assert folder.names() == ["g.zarr"]
    found = zarr.open_array(folder.group("g.zarr"), path="a", mode="r")[:]
    np.testing.assert_array_equal(found, [1, 1, 1, 1])


def test_a_group_is_filled_in_parts_by_several(folder):
    zarr.create_array(folder.parts("g.zarr"), name="a", shape=(4,), chunks=(2,), dtype="i4")
    for i in (0, 2):
        array = zarr.open_array(folder.parts("g.zarr"), path="a", mode="r+")
        array[i : i + 2] = i + 1
    for _ in range(2):
        folder.publish_parts("g.zarr")
        folder.forget_parts("g.zarr")
    assert folder.names() == ["g.zarr"]
    found = zarr.open_array(folder.group("g.zarr"), path="a", mode="r")[:]
    np.testing.assert_array_equal(found, [1, 1, 3, 3])


def test_a_second_one_is_kept_out_and_let_in_afterwards(folder, monkeypatch):
    monkeypatch.setattr(lease, "RENEW", 0.1)
    with folder.locked():
        with pytest.raises(FolderInUseError), folder.locked():
            pytest.fail("two are in")
        assert folder.names() == []
    with folder.locked():
        folder.write("a", b"1")


def test_of_many_at_once_one_gets_in(folder, monkeypatch):
    monkeypatch.setattr(lease, "RENEW", 0.2)
    inside, most, refused, lock = [], [], [], threading.Lock()

    def enter():
        try:
            with folder.locked():
                with lock:
                    inside.append(1)
                    most.append(len(inside))
                time.sleep(1.5)
                with lock:
                    inside.pop()
        except FolderInUseError:
            refused.append(1)

    threads = [threading.Thread(target=enter) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1
    assert len(most) + len(refused) == 5


def test_whoever_is_killed_lets_go(folder, job_environment, monkeypatch):
    monkeypatch.setattr(lease, "RENEW", 0.3)
    script = (
        "import sys, time; from xgeocat.storage.folder import folder_at\n"
        "from xgeocat.storage import lease; lease.RENEW = 0.3\n"
        "with folder_at(sys.argv[1]).locked(): print('in', flush=True); time.sleep(60)"
    )
    path = {"PYTHONPATH": job_environment["PYTHONPATH"]}
    holder = subprocess.Popen([sys.executable, "-c", script, folder.url], env={**os.environ, **path},
                              stdout=subprocess.PIPE, text=True)  # fmt: skip
    assert holder.stdout.readline() == "in\n"
    with pytest.raises(FolderInUseError), folder.locked():
        pytest.fail("two are in")
    holder.kill()
    holder.wait()
    with folder.locked():
        folder.write("a", b"1")
    assert folder.names() == ["a"]


# --- on a disk ------------------------------------------------------------------------------------


def test_a_file_on_a_disk_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    folder = DiskFolder(tmp_path)
    folder.write("a", b"old")

    def dies(*args):
        raise OSError("no room")

    monkeypatch.setattr("os.fsync", dies)
    with pytest.raises(OSError, match="no room"):
        folder.write("a", b"new" * 10_000)
    assert folder.read("a") == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_what_was_begun_is_not_seen_and_swept(tmp_path):
    folder = DiskFolder(tmp_path)
    folder.write("items/a", b"1")
    (tmp_path / "items" / ".b.4711-x.tmp").write_bytes(b"half")
    (tmp_path / "items" / ".c.4711-x.tmp").mkdir()
    (tmp_path / "items" / ".c.4711-x.tmp" / "z").write_bytes(b"half")
    assert folder.names("items") == ["a"]
    folder.sweep(("items", "nothing"))
    assert [p.name for p in (tmp_path / "items").iterdir()] == ["a"]


@pytest.mark.parametrize("url", ["http://a/b", "ftp://a/b", "memory://x"])
def test_other_urls_are_refused(url):
    with pytest.raises(ValueError, match="s3://"):
        folder_at(url)


def test_file_urls_are_paths(tmp_path):
    assert folder_at(f"file://{tmp_path}") == folder_at(tmp_path)
    assert parent_and_name(tmp_path / "a.parquet") == (folder_at(tmp_path), "a.parquet")
    assert parent_and_name("s3://bucket/x/a.parquet") == (folder_at("s3://bucket/x"), "a.parquet")


@settings(max_examples=30)
@given(st.dictionaries(st.sampled_from(["a", "b", "c/d", "c/e", "c/f/g"]), st.binary(max_size=50)))
def test_any_files_come_back(tmp_path_factory, files):
    folder = folder_at(tmp_path_factory.mktemp("files") / uuid4().hex)
    for name, content in files.items():
        folder.write(name, content)
    assert {name: folder.read(name) for name in files} == files
    assert folder.names() == sorted({name.partition("/")[0] for name in files})


# --- in an object store ---------------------------------------------------------------------------


def test_a_bucket_that_does_not_exist_is_told_in_a_line(new_bucket):
    new_bucket()
    missing = folder_at("s3://there-is-no-such-bucket/x")
    with pytest.raises(FileNotFoundError, match="no-such-bucket"):
        missing.write("a", b"1")
    with pytest.raises(StorageError, match="no-such-bucket") as error:
        missing.names()
    assert "\n" not in str(error.value)


def test_a_lease_that_another_one_took_is_not_given_back(new_bucket, monkeypatch, caplog):
    """A process that stood still, as on a laptop that slept, must not let a third one in."""
    monkeypatch.setattr(lease, "RENEW", 0.1)
    folder = folder_at(new_bucket())
    with folder.locked():
        folder.write(lease.LEASE_FILE, b'{"holder": "another", "renewed": 3}')
        time.sleep(0.4)
    assert folder.read(lease.LEASE_FILE) == b'{"holder": "another", "renewed": 3}'
    assert "another run in the meantime" in caplog.text


def test_an_answer_that_was_lost_does_not_end_a_lease(new_bucket, monkeypatch, caplog):
    """The store has renewed it, but said so to nobody."""
    monkeypatch.setattr(lease, "RENEW", 0.1)
    folder, real, lost = folder_at(new_bucket()), lease.obstore.put, []

    def put(store, name, content, **options):
        answer = real(store, name, content, **options)
        if not lost and b'"renewed": 1' in content:
            lost.append(name)
            raise lease.BaseError("the connection broke")
        return answer

    monkeypatch.setattr(lease.obstore, "put", put)
    with folder.locked():
        time.sleep(0.6)
        assert lost
        with pytest.raises(FolderInUseError), folder.locked():
            pytest.fail("two are in")
    assert "another run in the meantime" not in caplog.text
