"""pyproject.toml, environment.yml and constraints.txt name the same software."""

import re
import tomllib
from functools import cache
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]

# Where conda-forge calls a package by another name.
CONDA_NAMES = {"dask": "dask-core"}

# What environment.yml needs beside the dependencies.
CONDA_ONLY = {"python", "pip"}


@cache
def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def lower_bound(requirement):
    """Return the one ``>=`` of a requirement; anything else is refused."""
    specs = list(requirement.specifier)
    assert len(specs) == 1, f"{requirement}: want one lower bound, name>=version"
    assert specs[0].operator == ">=", f"{requirement}: want a lower bound, name>=version"
    return specs[0].version


def runtime():
    requirements = [Requirement(text) for text in project()["dependencies"]]
    return {canonicalize_name(r.name): r for r in requirements}


def extras():
    """Return each extra with its own packages, references to other extras of xgeocat left out."""
    return {
        extra: {
            canonicalize_name(r.name): r
            for r in map(Requirement, texts)
            if canonicalize_name(r.name) != "xgeocat"
        }
        for extra, texts in project()["optional-dependencies"].items()
    }


def conda():
    text = (ROOT / "environment.yml").read_text(encoding="utf-8")
    entries = yaml.safe_load(text)["dependencies"]
    assert all(isinstance(entry, str) for entry in entries), "environment.yml: no pip: section"
    requirements = [Requirement(entry) for entry in entries]
    return {canonicalize_name(r.name): r for r in requirements}


def pin_lines():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")]


@cache
def pins():
    found = {}
    for line in pin_lines():
        requirement = Requirement(line)
        name = canonicalize_name(requirement.name)
        assert name not in found, f"constraints.txt pins {name} twice"
        found[name] = requirement
    return found


def test_environment_has_the_names_of_pyproject():
    want = {CONDA_NAMES.get(name, name) for name in runtime()}
    have = set(conda()) - CONDA_ONLY
    missing, unknown = sorted(want - have), sorted(have - want)
    assert not missing, f"in pyproject.toml but not in environment.yml: {', '.join(missing)}"
    assert not unknown, f"in environment.yml but not in pyproject.toml: {', '.join(unknown)}"


def test_environment_has_the_lower_bounds_of_pyproject():
    have = conda()
    different = []
    for name, requirement in runtime().items():
        twin = have.get(CONDA_NAMES.get(name, name))
        if twin is not None and lower_bound(twin) != lower_bound(requirement):
            different.append(f"{requirement} (pyproject.toml) is {twin} (environment.yml)")
    assert not different, "lower bounds differ: " + "; ".join(different)


def test_environment_has_the_python_of_pyproject():
    have = conda()
    assert set(have) >= CONDA_ONLY, "environment.yml needs python and pip"
    assert str(have["python"].specifier) == project()["requires-python"]


def test_extras_refer_to_extras_that_exist():
    known = set(project()["optional-dependencies"])
    for extra, texts in project()["optional-dependencies"].items():
        for requirement in map(Requirement, texts):
            if canonicalize_name(requirement.name) == "xgeocat":
                unknown = sorted(requirement.extras - known)
                assert not unknown, f"extra {extra!r} refers to unknown {', '.join(unknown)}"


@pytest.mark.parametrize("group", ["dependencies", *sorted(extras())])
def test_every_package_is_pinned_within_its_bound(group):
    requirements = runtime() if group == "dependencies" else extras()[group]
    missing = sorted(set(requirements) - set(pins()))
    assert not missing, f"not pinned in constraints.txt: {', '.join(missing)}; `make constraints`"
    for name, requirement in requirements.items():
        version = next(iter(pins()[name].specifier)).version
        assert version in requirement.specifier, (
            f"constraints.txt pins {name}=={version}, but pyproject.toml asks for {requirement}"
        )
        lower_bound(requirement)


def test_constraints_are_plain_pins():
    plain = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9.!+]+( *; *\w.*)?")
    wrong = [line for line in pin_lines() if not plain.fullmatch(line)]
    assert not wrong, f"constraints.txt: want name==version, found {wrong}"


def test_constraints_name_no_place():
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    found = re.findall(r"\S*://\S*|\S* @ \S*|\b[\w.-]+\.(?:com|dev|io|net|org)\b|(?<=\s)/\S+", text)
    found += re.findall(r"^\s*-{1,2}[a-z].*$", text, flags=re.MULTILINE)
    assert not found, f"constraints.txt names a host, an address or an option: {found}"
