"""
What the docs get from the network and cannot have yet: the repository on GitHub, and a release on PyPI.

Both are made from the files of this checkout. Git and pip find them through their own environment variables, so the
commands of the docs run as they stand.
"""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from distribution.archives import ROOT, run, sources

from .project import Shell

URL = "https://github.com/django/asgi_ipc"
#: The user's own settings of pip, proxies and certificates.
_KEPT = ("PIP_", "SSL_", "REQUESTS_", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")


@dataclass
class Newcomer:
    """A user who has Python, Git and nothing of this project: no environment is active, and no package installed."""

    directory: Path
    environment: dict[str, str]

    def open_shell(self) -> Shell:
        """Open a terminal."""
        return Shell(self.directory, self.environment)


def make_repository(folder: Path) -> Path:
    """Make a Git repository with the present content of the checkout's files."""
    for name in sources():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    run("git", "init", "-q", "-b", "main", cwd=folder)
    run("git", "add", "--all", "--force", cwd=folder)
    author = ["-c", "user.name=Docs", "-c", "user.email=docs@localhost", "-c", "commit.gpgsign=false"]
    run("git", *author, "commit", "-q", "-m", "The checkout", cwd=folder)
    return folder


def make_supplies(folder: Path) -> None:
    """Make the repository, a wheel of it, and a ``python3`` that is in no environment."""
    repository = make_repository(folder / "repository")
    build = folder / "build"
    shutil.copytree(repository, build)  # pip writes into the folder from which it builds
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--disable-pip-version-check", "--no-deps"]
    run(*pip, "--wheel-dir", folder / "wheels", build, cwd=folder)
    python = folder / "programs" / "python3"
    python.parent.mkdir()
    # A link would make the environments that it creates depend on this folder.
    python.write_text(f'#!/bin/sh\nexec "{Path(sys.base_prefix) / "bin" / "python3"}" "$@"\n')
    python.chmod(0o755)


def make_newcomer(supplies: Path, folder: Path) -> Newcomer:
    """Make an empty directory and a home for a user whose Git and pip find the supplies."""
    home, directory = folder / "home", folder / "directory"
    for each in (home, directory):
        each.mkdir()
    kept = {name: value for name, value in os.environ.items() if name.upper().startswith(_KEPT)}
    environment = {
        **kept,
        "PATH": f"{supplies / 'programs'}:/usr/local/bin:/usr/bin:/bin",
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "PYTHONUNBUFFERED": "1",
        "PIP_CACHE_DIR": _pip_cache(),
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_FIND_LINKS": f"{os.environ.get('PIP_FIND_LINKS', '')} {supplies / 'wheels'}".strip(),
        "PIP_NO_COMPILE": "1",
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{supplies / 'repository'}.insteadOf",
        "GIT_CONFIG_VALUE_0": URL,
    }
    return Newcomer(directory, environment)


def _pip_cache() -> str:
    """Return pip's cache of the user who runs the tests: ``HOME`` is another one here."""
    # PIP_QUIET in the environment would leave nothing to read, so pip is told to ignore the environment.
    given = os.environ.get("PIP_CACHE_DIR")
    return given or run(sys.executable, "-m", "pip", "--isolated", "cache", "dir", cwd=ROOT).splitlines()[-1]
