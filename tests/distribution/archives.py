"""The sdist and the wheel of this checkout, built once, and virtual environments to install them in."""

from __future__ import annotations

__all__ = [
    "DECOYS",
    "ROOT",
    "Archives",
    "Environment",
    "build_archives",
    "classifiers",
    "needs_tools",
    "run",
    "sources",
]

import configparser
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
#: Seconds after which a command counts as stuck.
LIMIT = 300
#: Files that tools write into a checkout. None of them belongs in an archive.
DECOYS = [
    ".hypothesis/examples/decoy",
    ".pytest_cache/decoy",
    "asgi_ipc/__pycache__/core.cpython-39.pyc",
    "benchmarks/results/decoy.json",
    "build/lib/asgi_ipc/decoy.py",
    "docs/_build/html/index.html",
    "htmlcov/index.html",
    "tests/__pycache__/conftest.cpython-39-pytest-8.pyc",
    "tests/channels4/.mypy_cache/3.13/decoy.json",
]


def _is_installed(distribution: str) -> bool:
    """Whether a distribution is installed. (A folder ``build`` in the checkout can be imported, too.)"""
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


needs_tools = [
    pytest.mark.skipif(
        not all(map(_is_installed, ["build", "twine"])), reason="needs build and twine (tox -e package)"
    ),
    pytest.mark.skipif(not (ROOT / ".gitignore").exists(), reason="needs a checkout, not an unpacked sdist"),
    pytest.mark.skipif(shutil.which("git") is None, reason="needs git"),
]


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command and return its output; fail with all that it printed. It does not see this environment."""
    hidden = ("PYTHONPATH", "VIRTUAL_ENV", "PYTEST_ADDOPTS")
    done = subprocess.run(
        command,
        cwd=cwd,
        env={name: value for name, value in os.environ.items() if name not in hidden},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(map(str, command))} ended with {done.returncode}:\n{done.stdout}"
    return done.stdout


def sources() -> set[str]:
    """
    Return the files that are in Git.

    A copy of a checkout may have no repository. There, Git lists the files that ``.gitignore`` does not name.
    """
    with tempfile.TemporaryDirectory() as empty:
        if (ROOT / ".git").exists():
            command = ["git", "ls-files", "-z"]
        else:
            run("git", "init", "-q", "--bare", empty, cwd=ROOT)
            command = ["git", f"--git-dir={empty}", "--work-tree=.", "ls-files", "-z", "-o", "--exclude-standard"]
        return {name for name in run(*command, cwd=ROOT).split("\0") if name and (ROOT / name).exists()}


@dataclass(frozen=True)
class Archives:
    """The two files that a release uploads."""

    sdist: Path
    wheel: Path

    def sdist_names(self) -> set[str]:
        """Return the files of the sdist, without its top folder."""
        with tarfile.open(self.sdist) as archive:
            return {member.name.partition("/")[2] for member in archive if member.isfile()}

    def wheel_names(self) -> set[str]:
        """Return the files of the wheel."""
        with zipfile.ZipFile(self.wheel) as archive:
            return set(archive.namelist())

    def metadata(self) -> Message:
        """Return the metadata of the wheel: headers, and the long description as the payload."""
        with zipfile.ZipFile(self.wheel) as archive:
            name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
            return Parser().parsestr(archive.read(name).decode())

    def unpack_sdist(self, folder: Path) -> Path:
        """Unpack the sdist into a folder, and return its top folder."""
        with tarfile.open(self.sdist) as archive:
            if hasattr(tarfile, "data_filter"):
                archive.extraction_filter = tarfile.data_filter
            archive.extractall(folder)
        return folder / self.sdist.name[: -len(".tar.gz")]


def build_archives(folder: Path) -> Archives:
    """
    Build both archives, the wheel from the sdist, from a copy of the checkout with ``DECOYS``.

    The copy keeps ``build`` and ``*.egg-info`` out of the checkout.
    """
    copy, output = folder / "copy", folder / "dist"
    for name in sources():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, copy / name)
    for name in DECOYS:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).touch()
    run(sys.executable, "-m", "build", "--outdir", output, copy, cwd=folder)
    (sdist,), (wheel,) = output.glob("*.tar.gz"), output.glob("*.whl")
    return Archives(sdist, wheel)


class Environment:
    """A virtual environment."""

    def __init__(self, python: str, folder: Path) -> None:
        self.folder = folder
        self.bin = folder / "bin"
        run(python, "-m", "venv", folder, cwd=folder.parent)

    def install(self, *requirements: str) -> None:
        """Install requirements with this environment's own pip; most of their modules are never imported."""
        pip = ["-m", "pip", "install", "-q", "--no-compile", "--disable-pip-version-check"]
        run(self.bin / "python", *pip, *requirements, cwd=self.folder)

    def run(self, command: str, *arguments: str | Path, cwd: Path) -> str:
        """Run a command of the environment, and return its output."""
        return run(self.bin / command, *arguments, cwd=cwd)


def classifiers(group: str) -> list[str]:
    """Return the classifiers of a group in setup.cfg, without the name of the group."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    lines = config["metadata"]["classifiers"].split("\n")
    return [line[len(group) + 4 :] for line in lines if line.startswith(f"{group} :: ")]
