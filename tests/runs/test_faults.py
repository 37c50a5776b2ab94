"""A server that fails: with retries everything is done as if it had not; without, all is told."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

import xgeocat as xgc
from tests.faults import FAULTS, serving
from tests.runs.archive import run
from xgeocat.catalog import remote as http
from xgeocat.runs.run import RunFailuresWarning

#: Those that GDAL itself does not ask again for, and those that it does (three times).
HTTP = [f for f in FAULTS if f not in ("slow", "404", "403")]
#: When a file is opened, and while it is read: the other cases are slow tests.
FEW = (("503", 0), ("reset", 3), ("truncate", 3))


@pytest.fixture
def short_waits(monkeypatch):
    """GDAL gives up at once, so that the retries are those of the run."""
    monkeypatch.setitem(http.READING, "GDAL_HTTP_MAX_RETRY", "0")
    monkeypatch.setitem(http.READING, "GDAL_HTTP_LOW_SPEED_TIME", "1")


@pytest.fixture
def remote(make_archive, tmp_path):
    """Factory of an archive of `n` scenes behind a server; and the server."""
    with serving(tmp_path) as server:

        def make(n=4, **options):
            items = make_archive(n, shape=(300, 330), **options)
            for i, item in enumerate(items):
                for band, asset in item["assets"].items():
                    local = Path(asset["href"])
                    renamed = local.rename(local.with_name(f"s{i}_{band}.tif"))
                    asset["href"] = f"{server.url}/{renamed.relative_to(tmp_path)}"
            return items

        yield make, server


@pytest.mark.parametrize(
    ("fault", "first"),
    [
        pytest.param(fault, first, marks=() if (fault, first) in FEW else pytest.mark.slow)
        for fault in HTTP
        for first in (0, 3)
    ],
)
@pytest.mark.usefixtures("short_waits")
def test_a_fault_that_passes_leaves_no_trace(remote, make_pipe, tmp_path, tree, fault, first):
    make, server = remote
    domain = xgc.from_items(make()).geocat.domain(bands=["red", "nir"])
    run(make_pipe(), domain, tmp_path / "undisturbed")
    rules = {"s1_red.tif": [fault, first, first], "s2_nir.tif": [fault, first, first + 1]}
    server.tell(rules)
    out = run(make_pipe(), domain, tmp_path / "out", retries=5)
    assert out.sizes["scene"] == 4
    assert tree(tmp_path / "out") == tree(tmp_path / "undisturbed")


@pytest.mark.parametrize(
    "fault",
    ["404", "503", *(pytest.param(f, marks=pytest.mark.slow) for f in ("429", *HTTP[2:], "403"))],
)
@pytest.mark.usefixtures("short_waits")
def test_without_retries_exactly_the_scenes_that_were_hit_have_failed(
    remote, make_pipe, tmp_path, fault
):
    make, server = remote
    domain = xgc.from_items(make()).geocat.domain(bands=["red", "nir"])
    server.tell({"s1_red.tif": [fault, 0, 10**6], "s3_nir.tif": [fault, 0, 10**6]})
    with pytest.warns(RunFailuresWarning, match="2 of 4"):
        out = run(make_pipe(), domain, tmp_path / "out", retries=0)
    assert out.scene.values.tolist() == ["s0", "s2"]
    failed = xgc.failures(tmp_path / "out")
    assert failed.scene.values.tolist() == ["s1", "s3"]
    assert set(failed["failure:step"].values) == {"load"}
    server.tell()
    out = run(make_pipe(), domain, tmp_path / "out", retries=1)
    assert out.scene.values.tolist() == ["s0", "s1", "s2", "s3"]


@pytest.mark.parametrize(("fault", "tries"), [("404", 1), ("503", 3), ("403", 3)])
@pytest.mark.usefixtures("short_waits")
def test_what_will_not_pass_is_not_asked_for_again(remote, make_pipe, tmp_path, fault, tries):
    make, server = remote
    domain = xgc.from_items(make(1)).geocat.domain(bands=["red", "nir"])
    server.tell({"s0_red.tif": [fault, 0, 10**6]})
    with pytest.warns(RunFailuresWarning):
        run(make_pipe(), domain, tmp_path / "out", retries=2)
    failed = xgc.failures(tmp_path / "out")
    assert failed["failure:tries"].item() == tries
    assert fault in failed["failure:message"].item()


def test_a_busy_server_is_asked_again_by_gdal_itself(remote, make_pipe, tmp_path):
    """One range of thousands is no reason to read a scene anew."""
    make, server = remote
    domain = xgc.from_items(make(1)).geocat.domain(bands=["red", "nir"])
    server.tell({"s0_red.tif": ["503", 1, 2]})
    assert run(make_pipe(), domain, tmp_path / "out", retries=0).sizes["scene"] == 1


# --- signatures -----------------------------------------------------------------------------------


class Signer:
    """Signs with what is right at the time, and counts."""

    def __init__(self, secrets):
        self.secrets, self.calls = list(secrets), []

    def __call__(self, href):
        self.calls.append(href)
        secret = self.secrets.pop(0) if len(self.secrets) > 1 else self.secrets[0]
        return f"{href}?sig={secret}&x=1"


@pytest.mark.usefixtures("short_waits")
def test_hrefs_are_signed_before_each_read_and_signatures_kept_nowhere(
    remote, make_pipe, tmp_path, tree, caplog, capfd
):
    make, server = remote
    items = make(2)
    plain = xgc.from_items(items).geocat.domain(bands=["red", "nir"])
    run(make_pipe(), plain, tmp_path / "undisturbed")
    sign = Signer(["geheim7"])
    domain = xgc.from_items(items).geocat.domain(bands=["red", "nir"], sign=sign)
    assert sign.calls == []
    server.tell(secret="geheim7")
    run(make_pipe(), domain, tmp_path / "out")
    assert len(sign.calls) == 4
    assert tree(tmp_path / "out") == tree(tmp_path / "undisturbed")
    assert {query for _, query in server.tell()} == {"sig=geheim7&x=1"}

    # One that has run out: it is told of, but not itself.
    server.tell(secret="new")
    # With another signature, for GDAL has kept what it read with the first.
    domain = xgc.from_items(items).geocat.domain(bands=["red", "nir"], sign=Signer(["geheim8"]))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run(make_pipe(name="other"), domain, tmp_path / "late", retries=0)
    failed = xgc.failures(tmp_path / "late")
    assert failed.sizes["scene"] == 2
    assert "403" in failed["failure:message"].values[0]
    told = caplog.text + repr(domain) + repr(failed) + "".join(map(str, capfd.readouterr()))
    told += "".join(str(w.message) for w in caught)
    assert "geheim" not in told
    for path, content in tree(tmp_path).items():
        assert b"geheim" not in content, path


@pytest.mark.usefixtures("short_waits")
def test_a_retry_signs_anew(remote, make_pipe, tmp_path):
    make, server = remote
    sign = Signer(["old", "old", "new"])
    domain = xgc.from_items(make(1)).geocat.domain(bands=["red", "nir"], sign=sign)
    server.tell(secret="new")
    assert run(make_pipe(), domain, tmp_path / "out", retries=1).sizes["scene"] == 1
    assert len(sign.calls) == 4


def test_an_error_that_is_raised_shows_no_signature(remote, make_pipe, tmp_path):
    make, server = remote
    domain = xgc.from_items(make(1)).geocat.domain(bands=["red"], sign=Signer(["geheim7"]))
    server.tell(secret="new")
    from xgeocat.runs.errors import UnitError

    with pytest.raises(UnitError, match="s0 failed at load") as error:
        run(make_pipe(lambda b: b[:, 0] * 1.0), domain, tmp_path / "out", retries=0,
            on_error="raise")  # fmt: skip
    assert "geheim7" not in str(error.value)
    assert error.value.__cause__ is None
