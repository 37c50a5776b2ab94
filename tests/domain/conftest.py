"""Made scenes for the domain room."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import xgeocat as xgc
from tests.domain import scenes


@pytest.fixture
def make_cog(tmp_path: Path) -> Callable[..., Path]:
    """Factory of real COGs; see `scenes.write_cog`."""

    def make(name="scene/red.tif", values=None, **options):
        return scenes.write_cog(
            tmp_path / name, scenes.pixels() if values is None else values, **options
        )

    return make


@pytest.fixture
def make_item(make_cog) -> Callable[..., dict]:
    """Factory of STAC items with one real COG per band.

    ``make_item("a", red=values, nir=values)``; what is not an array goes to `scenes.item`.
    """

    def make(name="a", *, cog=None, about=None, proj=True, properties=None, when=None, **bands):
        bands = bands or {"red": scenes.pixels(seed=1), "nir": scenes.pixels(seed=2)}
        assets = {
            key: scenes.asset(
                make_cog(f"{name}/{key}.tif", values, **(cog or {})), proj=proj, **(about or {})
            )
            for key, values in bands.items()
        }
        return scenes.item(name, assets, properties=properties, when=when or "2024-06-01T18:00:00Z")

    return make


@pytest.fixture
def make_catalog(make_item) -> Callable[..., object]:
    """Factory of catalogs of `n` scenes a day apart, each with its own pixels (red, nir)."""

    def make(n=3, shape=(70, 90), **options):
        items = [
            make_item(
                f"s{i}",
                when=f"2024-06-{i + 1:02d}T18:00:00Z",
                red=scenes.pixels(shape, seed=10 * i + 1),
                nir=scenes.pixels(shape, seed=10 * i + 2),
                **options,
            )
            for i in range(n)
        ]
        return xgc.from_items(items)

    return make
