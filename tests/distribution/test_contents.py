"""What the sdist and the wheel contain, and what their metadata says."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

import asgi_ipc

from .archives import DECOYS, ROOT, Archives, classifiers, needs_tools, run, sources

pytestmark = needs_tools

#: Files that setuptools adds to an sdist.
ADDED = {"PKG-INFO"} | {
    f"asgi_ipc.egg-info/{name}"
    for name in (
        "PKG-INFO",
        "SOURCES.txt",
        "dependency_links.txt",
        "entry_points.txt",
        "not-zip-safe",
        "requires.txt",
        "top_level.txt",
    )
}
#: Tests that run within a few seconds. The first ones read setup.cfg, the README and the changelog.
SOME_TESTS = ["tests/test_public_api.py", "tests/test_architecture.py"]


def test_twine_accepts_both(archives: Archives, tmp_path: Path) -> None:
    run(sys.executable, "-m", "twine", "check", "--strict", archives.sdist, archives.wheel, cwd=tmp_path)


def test_the_sdist_is_the_repository(archives: Archives) -> None:
    """It lacks only files that are of use in the repository alone: their names begin with a dot."""
    expected = {name for name in sources() if not any(part.startswith(".") for part in name.split("/"))}
    assert archives.sdist_names() - ADDED == expected


@pytest.mark.parametrize(
    "name",
    [
        "CHANGELOG.rst",
        "CONTRIBUTING.rst",
        "LICENSE",
        "README.rst",
        "SECURITY.rst",
        "asgi_ipc/py.typed",
        "benchmarks/__main__.py",
        "docs/design.rst",
        "examples/chat/run.py",
        "tests/conftest.py",
        "tox.ini",
    ],
)
def test_the_sdist_has(archives: Archives, name: str) -> None:
    assert name in archives.sdist_names()


def test_the_wheel_is_the_package(archives: Archives) -> None:
    info = f"asgi_ipc-{asgi_ipc.__version__}.dist-info"
    metadata = ["METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE", "top_level.txt"]
    expected = {name for name in sources() if name.startswith("asgi_ipc/")}
    assert "asgi_ipc/py.typed" in expected
    assert archives.wheel_names() == expected | {f"{info}/{name}" for name in metadata}


@pytest.mark.parametrize("name", DECOYS)
def test_nothing_that_a_tool_has_written_is_in_either(archives: Archives, name: str) -> None:
    assert name not in archives.sdist_names() | archives.wheel_names()


def test_the_tests_run_in_the_unpacked_sdist(archives: Archives, tmp_path: Path) -> None:
    folder = archives.unpack_sdist(tmp_path)
    printed = run(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *SOME_TESTS, cwd=folder)
    assert re.search(r"^\d+ passed", printed, re.MULTILINE), printed


def test_the_license_is_an_spdx_expression(archives: Archives) -> None:
    metadata = archives.metadata()
    assert metadata["License-Expression"] == "BSD-3-Clause"
    assert metadata.get_all("License-File") == ["LICENSE"]


def test_pypi_knows_the_classifiers(archives: Archives) -> None:
    known = pytest.importorskip("trove_classifiers").classifiers
    assert [each for each in archives.metadata().get_all("Classifier", []) if each not in known] == []


def test_the_pythons_are_those_that_tox_tests() -> None:
    environments = re.search(r"^env_list = (.*)$", (ROOT / "tox.ini").read_text(), re.MULTILINE)
    assert environments is not None
    tested = re.findall(r"(?<![\w-])py3(\d+)\b", environments[1])
    assert [f"3.{minor}" for minor in tested] == [
        each for each in classifiers("Programming Language :: Python") if re.fullmatch(r"3\.\d+", each)
    ]
