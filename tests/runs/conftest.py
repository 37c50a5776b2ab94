"""Made archives for the runs room."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import xgeocat as xgc
from tests.domain import scenes
from tests.runs import gdal
from tests.runs.archive import ndvi
from xgeocat.runs import unit as unit_module


@pytest.fixture(autouse=True)
def short_pause(monkeypatch) -> None:
    """Wait no half seconds between retries."""
    monkeypatch.setattr(unit_module, "PAUSE", 0.001)


@pytest.fixture
def make_archive(tmp_path: Path) -> Callable[..., list[dict]]:
    """Factory of lists of STAC items: `n` scenes a day apart with real COGs (red, nir)."""

    def make(n=3, shape=(70, 90), ids=None, folder="archive", properties=None, **options):
        found = []
        for i in range(n):
            name = f"s{i}" if ids is None else ids[i]
            files = {
                band: scenes.write_cog(
                    tmp_path / folder / f"{i:03d}" / f"{band}.tif",
                    scenes.pixels(shape, seed=10 * i + k),
                    **options,
                )
                for k, band in enumerate(("red", "nir"))
            }
            assets = {band: scenes.asset(path) for band, path in files.items()}
            when = f"2024-06-{i % 28 + 1:02d}T18:00:00Z"
            found.append(scenes.item(name, assets, when=when, properties=properties))
        return found

    return make


@pytest.fixture
def make_domain(make_archive) -> Callable[..., xgc.CatalogDomain]:
    """Factory of domains over a made archive."""

    def make(n=3, domain=None, **options):
        return xgc.CatalogDomain(xgc.from_items(make_archive(n, **options)), **(domain or {}))

    return make


@pytest.fixture(scope="session")
def read_with_gdal() -> Callable[[Path, str], gdal.Raster]:
    """Reader of Zarr outputs by a GDAL of its own; skips where there is none."""
    reader = gdal.find_reader()
    if isinstance(reader, str):
        pytest.skip(f"no GDAL >= 3.11 that reads Zarr v3: {reader}")
    return reader


@pytest.fixture
def make_pipe() -> Callable[..., xgc.Sequential]:
    """Factory of pipelines of the usual three steps."""

    def make(model=ndvi, size=32, overlap=8, window="hann", name="ndvi v1", stitch=None, **options):
        return xgc.Sequential(
            [
                xgc.GridSampler(size, overlap=overlap),
                xgc.ApplyToChips(model, name=name, **options),
                xgc.Stitch(window, **(stitch or {})),
            ]
        )

    return make


@pytest.fixture
def tree() -> Callable[[Path], dict[str, bytes]]:
    """Every file of a folder, hidden ones too, with its bytes."""

    def read(root: Path) -> dict[str, bytes]:
        root = Path(root)
        return {
            str(path.relative_to(root)): path.read_bytes()
            for path in sorted(root.rglob("*"))
            if path.is_file()
        }

    return read
