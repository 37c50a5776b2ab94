"""Lazy: what xarray does with a catalog in a file is what it does with the same in memory."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import xarray as xr
from shapely.geometry import box

import xgeocat as xgc
from xgeocat.catalog import lazy, ordering, parquet
from xgeocat.catalog.stac import to_dicts


@pytest.fixture(params=["small", "large"])
def both(request, make_item, tmp_path, monkeypatch):
    """A catalog of twelve scenes in memory, and in files; of a large one the ids are no index."""
    if request.param == "large":
        monkeypatch.setattr(lazy, "IN_MEMORY", 2)
    for module in (parquet, ordering):
        monkeypatch.setattr(module, "GROUP", 3)
        monkeypatch.setattr(module, "SLAB", 6)
    made = xgc.from_items(
        make_item(f"s{i:02d}", box(5 * i, 0, 5 * i + 1, 1), f"2024-{i + 1:02d}-01T00:00:00Z", cloud=11.5 - i,
                  number=i, collection="ab"[i % 2], **({"gap": i} if i % 3 else {}),
                  assets={f"a{k}": {"href": f"https://example.com/{i}/{k}", "k": k} for k in range(i % 3 + 1)})
        for i in range(12)
    )  # fmt: skip
    stored = xgc.open_catalog(xgc.to_geoparquet(made, tmp_path / "c", by="year"))
    return made.sel(scene=stored.scene.values, asset=stored.asset.values), stored


CHANGES = {
    "isel": lambda ds: ds.isel(scene=[7, 2, 2, -1]),
    "slice": lambda ds: ds.isel(scene=slice(None, None, -3)),
    "nothing": lambda ds: ds.isel(scene=[]),
    "one": lambda ds: ds.isel(scene=4),
    "asset": lambda ds: ds.isel(asset=[2, 0], scene=[1, 5, 8]),
    "one asset": lambda ds: ds.isel(asset=1),
    "sel": lambda ds: ds.sel(scene=["s07", "s01"]),
    "sel one": lambda ds: ds.sel(scene="s07"),
    "where drop": lambda ds: ds.where(ds["cloud"] < 6, drop=True),
    "sortby": lambda ds: ds.sortby("cloud"),
    "sortby time": lambda ds: ds.sortby("start_time", ascending=False),
    "groupby": lambda ds: ds.groupby("collection").map(lambda g: g.isel(scene=[0, 2])),
    "groupby mean": lambda ds: ds[["cloud"]].groupby("collection").mean(),
    "concat": lambda ds: xr.concat([ds.isel(scene=[3]), ds.isel(scene=slice(0, 5))], "scene"),
    "concat of all": lambda ds: xr.concat([ds, ds], "scene"),
    "drop_duplicates": lambda ds: xr.concat([ds, ds], "scene").drop_duplicates("scene"),
    "assign": lambda ds: ds.assign(half=ds["cloud"] / 2),
    "assign selection": lambda ds: ds.isel(scene=[4, 5]).assign(half=lambda x: x["cloud"] / 2),
    "merge": lambda ds: ds.merge(ds[["cloud"]].rename(cloud="other")),
    "query": lambda ds: ds.geocat.query((4, 0, 31, 1), ("2024-03", "2024-11")),
    "query twice": lambda ds: ds.geocat.query((4, 0, 51, 1)).geocat.query(time="2024-05"),
    "copy": lambda ds: ds.copy(deep=True),
    "deepcopy": copy.deepcopy,
    "pickle": lambda ds: pickle.loads(pickle.dumps(ds)),
    "chunk": lambda ds: ds.chunk(scene=5).compute(scheduler="threads"),
    "chunk isel": lambda ds: ds.chunk(scene=5).isel(scene=[8, 1]).compute(scheduler="threads"),
    "transpose": lambda ds: ds.transpose("asset", "scene", ...).isel(scene=[6, 3]),
    "vectorised": lambda ds: ds["href"].isel(scene=xr.DataArray([3, 5], dims="pick"),
                                             asset=xr.DataArray([0, 1], dims="pick")).to_dataset(),
    "head": lambda ds: ds.head(scene=3),
    "dropna": lambda ds: ds.dropna("scene", subset=["gap"]),
    "load": lambda ds: ds.load(),
    "align": lambda ds: xr.align(ds, ds["cloud"], join="inner")[0],
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_what_xarray_does_is_the_same(change, both):
    memory, stored = map(CHANGES[change], both)
    assert set(stored.variables) == set(memory.variables)
    for name, variable in memory.variables.items():
        found = stored.variables[name]
        assert found.dims == variable.dims, name
        # One id of an index of pandas is a text of numpy.
        assert not found.dims or found.dtype == variable.dtype, name
        xr.testing.assert_identical(
            xr.Variable(found.dims, found.values), xr.Variable(variable.dims, variable.values)
        )
    if "scene" in memory.dims and "href" in memory and "asset" in memory.dims:
        assert to_dicts(stored) == to_dicts(memory)


def test_tables_and_pictures_are_the_same(both):
    memory, stored = both
    columns = ["cloud", "number", "gap"]
    one, other = (ds[columns].to_dataframe() for ds in both)
    assert one.equals(other)
    assert stored["collection"].to_series().equals(memory["collection"].to_series())
    for text in (repr(stored), stored._repr_html_()):
        assert all(str(name) in text for name in memory.coords)


def test_a_column_from_elsewhere_is_aligned_by_id(both):
    memory, _ = both
    series = memory["number"].to_series().rename("weight") * 2
    for ds in both:
        gained = ds.drop_vars(["geometry", "start_time", "end_time"]).assign(
            weight=series.to_xarray()
        )
        assert (gained["weight"].values == 2 * gained["number"].values).all()


def test_an_id_that_is_not_there_is_told(both):
    for ds in both:
        with pytest.raises(KeyError, match="nobody|not all values found"):
            ds.sel(scene="nobody")


def test_xarray_opens_it_in_chunks(both, tmp_path):
    memory, _ = both
    ds = xr.open_dataset(tmp_path / "c", engine="geocat", chunks={})
    assert ds["cloud"].chunks is not None
    np.testing.assert_array_equal(ds["cloud"].compute().values, memory["cloud"].values)
    assert to_dicts(ds.compute()) == to_dicts(memory)
    assert list(ds.geocat.query((4, 0, 11, 1)).scene.values) == list(
        memory.geocat.query((4, 0, 11, 1)).scene.values
    )


@pytest.mark.slow
def test_workers_of_a_cluster_read_their_chunks(both):
    distributed = pytest.importorskip("distributed")
    memory, stored = both
    with (
        distributed.LocalCluster(2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster),
    ):
        found = stored.chunk(scene=4).compute()
    assert to_dicts(found) == to_dicts(memory)
