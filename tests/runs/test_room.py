"""Room: why a file could not be written."""

import errno

import pytest

from xgeocat.runs.room import writer

NO_DISK_HAS = 1 << 60


def number_of(me, path):
    with pytest.raises(OSError, match="it broke") as error, me.writing(path):
        raise RuntimeError("it broke")
    assert error.value.filename == str(path)
    assert isinstance(error.value.__cause__, RuntimeError)
    return error.value.errno


@pytest.mark.parametrize(("most", "number"), [(0, errno.EIO), (NO_DISK_HAS, errno.ENOSPC)])
def test_what_is_free_tells_why(tmp_path, most, number):
    with writer(most) as me:
        assert number_of(me, tmp_path / "a.tif") == number


def test_those_that_were_at_work_beside_it_may_have_filled_the_disk(tmp_path):
    with writer(0) as me:
        with writer(NO_DISK_HAS) as other:
            pass
        assert number_of(me, tmp_path / "a.tif") == errno.ENOSPC
        with writer(0) as later:
            assert number_of(later, tmp_path / "b.tif") == errno.EIO
    assert number_of(other, tmp_path / "c.tif") == errno.ENOSPC
    with writer(NO_DISK_HAS), writer(0) as second:
        assert number_of(second, tmp_path / "d.tif") == errno.ENOSPC
    with writer(0) as alone:
        assert number_of(alone, tmp_path / "e.tif") == errno.EIO


def test_what_goes_well_goes_well(tmp_path):
    with writer(0) as me, me.writing(tmp_path / "a.tif"):
        pass
