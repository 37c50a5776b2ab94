"""Every Python block of the guide runs, in order; so does the README's own-model block."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]


def blocks(name: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(), flags=re.DOTALL)


def test_guide_runs_from_top_to_bottom(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = blocks("docs/guide.md")
    assert len(found) >= 6
    # One module, as a reader would type it.
    exec(compile("\n".join(found), "guide.md", "exec"), {"__name__": "guide"})


def test_readme_model_block_runs_on_a_cube(make_field):
    cube = make_field((400, 500), chunks=128).to_dataset(name="green")
    cube["nir"] = cube["green"] * 0.5
    names = {"cube": cube}
    block = blocks("README.md")[-1]
    corner = cube.isel(x=slice(10, 30), y=slice(10, 30))
    x, y = corner.x.values, corner.y.values
    block = re.sub(r"slice\(750e3, 752e3\)", f"slice({x[0]}, {x[-1]})", block)
    block = re.sub(r"slice\(4340e3, 4338e3\)", f"slice({y[0]}, {y[-1]})", block)
    exec(compile(block, "README.md", "exec"), names)
    np.testing.assert_allclose(names["field"].compute(), np.full((400, 500), 1 / 3), rtol=1e-6)


@pytest.mark.parametrize(
    "name", ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "docs/guide.md"]
)
def test_links_to_files_of_the_repository_lead_somewhere(name):
    page = ROOT / name
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_architecture_names_every_module():
    page = (ROOT / "ARCHITECTURE.md").read_text()
    modules = {p.name for p in (ROOT / "xgeocat").rglob("*.py")} - {"__init__.py"}
    assert {name for name in modules if name not in page} == set()
