"""``import xgeocat`` costs little, and yet all names are there, for people, tools and workers."""

from __future__ import annotations

import ast
import json
import os
import pickle
import pkgutil
import pydoc
import subprocess
import sys
import tomllib
import traceback
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

import xgeocat as xgc

ROOT = Path(__file__).resolve().parents[1]
#: The catalog needs none of these, whatever else it needs.
PIXELS = ("numba", "odc.loader", "odc.stac", "rasterio", "rioxarray", "zarr", "xgeocat.patching",
          "xgeocat.domain", "xgeocat.runs")  # fmt: skip
OPTIONAL = ("distributed", "folium", "matplotlib", "onnxruntime", "stac_geoparquet", "torch")

NEW_MODULES = """
import json, sys
import xarray, odc.geo
before = set(sys.modules)
{code}
print(json.dumps(sorted(set(sys.modules) - before)))
"""


@pytest.fixture
def fresh(job_environment):
    """Run code in an interpreter that has imported nothing yet; what it printed."""

    def run(code, *arguments, given=None):
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)],
            env=job_environment, input=given, capture_output=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr.decode()[-3000:]
        return done.stdout.decode()

    return run


@pytest.fixture
def new_modules(fresh):
    """Names of the modules that some code loads beyond those of xarray and odc-geo."""
    return lambda code: json.loads(fresh(NEW_MODULES.format(code=code)).splitlines()[-1])


def of(packages, modules):
    return [m for m in modules if any(m == p or m.startswith(f"{p}.") for p in packages)]


# --- what is loaded -------------------------------------------------------------------------------


def test_import_loads_nothing_of_others_that_xarray_and_odc_geo_do_not(new_modules):
    found = new_modules("import xgeocat")
    assert of(["xgeocat.accessor"], found)
    # The last, where it is installed, reads versions in the place of importlib.metadata.
    known = {*sys.stdlib_module_names, "xgeocat", "importlib_metadata"}
    assert [m for m in found if m.partition(".")[0] not in known] == []
    assert len(of(["xgeocat"], found)) < 10


def test_using_a_name_loads_what_it_needs(new_modules):
    found = new_modules("import xgeocat; xgeocat.CatalogDomain")
    assert {"odc.stac", "rasterio", "xgeocat.domain.load"} <= set(found)


def test_a_catalog_loads_nothing_that_reads_or_draws_pixels(new_modules):
    found = new_modules(f"""
import xgeocat as xgc
catalog = xgc.from_items([{ITEM!r}])
assert catalog.geocat.query((0, 0, 2, 2), "2024").sizes["scene"] == 1
assert catalog.geocat.query((5, 5, 6, 6)).sizes["scene"] == 0
""")
    assert of(["xgeocat.catalog.query"], found)
    assert of([*PIXELS, *OPTIONAL], found) == []


def test_the_xarray_engine_loads_nothing_that_reads_or_draws_pixels(new_modules):
    # xarray loads all engines when it is asked for any.
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    module, _, name = project["entry-points"]["xarray.backends"]["geocat"].partition(":")
    found = new_modules(f"from {module} import {name}; {name}().guess_can_open('a.nc')")
    assert module in found
    assert of([*PIXELS, *OPTIONAL], found) == []


ITEM = {
    "type": "Feature", "stac_version": "1.0.0", "id": "s", "collection": "made",
    "geometry": {"type": "Polygon",
                 "coordinates": [[[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]]]},
    "bbox": [0, 0, 1, 1], "properties": {"datetime": "2024-01-01T00:00:00Z"}, "links": [],
    "assets": {"red": {"href": "https://example.com/a.tif", "proj:code": "EPSG:32631",
                       "proj:shape": [10, 10],
                       "proj:transform": [10, 0, 5e5, 0, -10, 1e5]}},
}  # fmt: skip


# --- the names ------------------------------------------------------------------------------------


def names_for_type_checkers():
    """Name and home of each import under ``if TYPE_CHECKING``."""
    tree = ast.parse(Path(xgc.__file__).read_text(encoding="utf-8"))
    (block,) = (
        node
        for node in tree.body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    return {alias.asname: line.module for line in block.body for alias in line.names}


def test_type_checkers_and_python_know_the_same_names():
    assert sorted(names_for_type_checkers()) == xgc.__all__


@pytest.mark.parametrize(("name", "home"), sorted(names_for_type_checkers().items()))
def test_a_name_is_what_its_import_says(name, home):
    named = {}
    exec(f"from {home} import {name}", named)
    assert getattr(xgc, name) is named[name]


def test_no_name_is_that_of_a_module_of_xgeocat():
    # Importing the module would put it in the place of the name.
    assert {m.name for m in pkgutil.iter_modules(xgc.__path__)} & set(xgc.__all__) == set()


def test_a_star_brings_all_names_and_no_other():
    brought = {}
    exec("from xgeocat import *", brought)
    assert set(brought) - {"__builtins__"} == set(xgc.__all__)


def test_completion_knows_all_names_and_imports_none(new_modules):
    found = new_modules("import xgeocat; assert set(xgeocat.__all__) <= set(dir(xgeocat))")
    assert of(["xgeocat.runs", "xgeocat.domain", "xgeocat.patching.stitch"], found) == []


def test_help_tells_of_all_names():
    page = pydoc.render_doc(xgc, renderer=pydoc.plaintext)
    assert [name for name in xgc.__all__ if name not in page] == []
    assert "Select the scenes whose true footprint meets" in page


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("qery", "did you mean 'query'?"),
        ("CatalogueDomain", "did you mean 'CatalogDomain'?"),
        ("zzz", "dir(xgeocat) lists those it has."),
    ],
)
def test_a_name_that_is_not_there_is_refused_with_one_hint(name, hint):
    assert not hasattr(xgc, name)
    with pytest.raises(AttributeError) as refused:
        getattr(xgc, name)
    assert str(refused.value) == f"module 'xgeocat' has no attribute {name!r}; {hint}"
    (shown,) = traceback.format_exception_only(refused.value)
    assert shown.lower().count("did you mean") == hint.count("did you mean")
    with pytest.raises(ImportError, match=name):
        exec(f"from xgeocat import {name}")


EACH_ALONE = """
import os, xgeocat
for name in xgeocat.__all__:
    child = os.fork()
    if not child:
        getattr(xgeocat, name)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, f"{name} cannot be imported first"
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_each_name_can_be_the_first(fresh):
    fresh(EACH_ALONE)


AT_ONCE = """
import sys, threading
from concurrent.futures import ThreadPoolExecutor
import xgeocat
sys.setswitchinterval(1e-5)
gate = threading.Barrier(len(xgeocat.__all__))

def first_use(name):
    gate.wait()
    return getattr(xgeocat, name)

with ThreadPoolExecutor(len(xgeocat.__all__)) as threads:
    for name, found in zip(xgeocat.__all__, threads.map(first_use, xgeocat.__all__)):
        assert found is getattr(xgeocat, name), name
"""


@pytest.mark.slow
def test_threads_may_use_names_for_the_first_time_at_once(fresh):
    fresh(AT_ONCE)


# --- doors and pickles in a process that has imported nothing --------------------------------------

DOORS = """
import numpy as np, xarray as xr, xgeocat
field = xr.DataArray(np.arange(600.0).reshape(20, 30), dims=("y", "x"), name="red",
                     coords=dict(y=np.arange(20) + .5, x=np.arange(30) + .5))
for kind in (field, field.to_dataset()):
    patches = kind.geocat.patch(8, overlap=2)
    assert len(patches.geocat) == 15
    xr.testing.assert_identical(patches.geocat.stitch(window="hann"), kind)
"""


def test_importing_xgeocat_opens_the_doors(fresh):
    fresh(DOORS)


UNPICKLE = """
import pickle, sys
found = pickle.load(sys.stdin.buffer)
import numpy as np
assert found["query"](found["catalog"], (0, 0, 2, 2)).sizes["scene"] == 1
assert found["catalog"].geocat.bounds.bbox == (0, 0, 1, 1)
assert len(found["domain"]) == 1 and len(list(found["domain"].slices())) == 1
field = found["pipeline"](found["field"].to_dataset(name="red"))
np.testing.assert_allclose(np.squeeze(field.values), found["field"].values * 2, rtol=1e-6)
np.testing.assert_array_equal(found["patches"].geocat.stitch().values, found["field"].values)
"""


def doubled(batch):
    return batch * 2


def test_pickles_open_where_xgeocat_was_never_imported(fresh, make_field, monkeypatch):
    cloudpickle = pytest.importorskip("cloudpickle")
    # As a notebook's functions, by value: the other process has no such module.
    monkeypatch.setattr(doubled, "__module__", "__main__")
    field = make_field((40, 50))
    catalog = xgc.from_items([ITEM])
    steps = [xgc.GridSampler(16, overlap=4), xgc.ApplyToChips(doubled), xgc.Stitch()]
    sent = {
        "query": xgc.query,
        "catalog": catalog,
        "domain": catalog.geocat.domain(),
        "pipeline": xgc.Sequential(steps),
        "field": field,
        "patches": field.geocat.patch(16, overlap=4),
    }
    fresh(UNPICKLE, given=cloudpickle.dumps(sent))


def test_names_are_pickled_by_their_homes():
    for name, home in names_for_type_checkers().items():
        value = getattr(xgc, name)
        if isinstance(value, type(xgc)):
            assert value is import_module(f"{home}.{name}")
        else:
            assert pickle.loads(pickle.dumps(value)) is value


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_worker_unpickles_what_it_never_imported(make_field, tmp_path):
    distributed = pytest.importorskip("distributed")
    field = make_field((40, 50), chunks=20)
    answer = field.geocat.patch(16, overlap=4).geocat.map(np.negative).geocat.stitch()
    with (
        distributed.LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None,
                                 local_directory=str(tmp_path)) as cluster,
        distributed.Client(cluster) as client,
    ):  # fmt: skip
        (loaded,) = client.run(lambda: "xgeocat" in sys.modules).values()
        assert not loaded
        np.testing.assert_array_equal(client.compute(answer).result(), -field.values)
        (loaded,) = client.run(lambda: "xgeocat" in sys.modules).values()
        assert loaded
