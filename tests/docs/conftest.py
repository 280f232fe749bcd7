"""Fixtures: the built documentation, and users who follow it with nothing installed."""

from __future__ import annotations

import fcntl
import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .checkout import Newcomer

ROOT = Path(__file__).resolve().parents[2]
SPHINX = ["sphinx", "furo", "sphinx_copybutton"]


@pytest.fixture(scope="session")
def make_once(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Callable[..., Path]:
    """Return a function that makes a folder for all processes of this test run, and returns it."""
    base = tmp_path_factory.getbasetemp()
    base = base if worker_id == "master" else base.parent

    def make_once(name: str, make: Callable[[Path], None]) -> Path:
        folder = base / f"once-{name}"
        with open(base / f"once-{name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.exists():
                folder.mkdir()
                try:
                    make(folder)
                except BaseException:
                    shutil.rmtree(folder)  # so that the next one fails, too, and not for another reason
                    raise
        return folder

    return make_once


@pytest.fixture(scope="session")
def worker_id(request: pytest.FixtureRequest) -> str:
    """The name of this process of pytest-xdist, or ``master``; pytest-xdist need not be installed."""
    workerinput: dict[str, str] = getattr(request.config, "workerinput", {})
    return workerinput.get("workerid", "master")


@pytest.fixture(scope="session")
def html(make_once: Callable[..., Path]) -> Path:
    """The folder of the HTML pages, and of the documents that they were made from in ``.doctrees``."""
    missing = [name for name in SPHINX if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}: pip install -e '.[docs]'")
    return make_once("html", _build)


def _build(folder: Path) -> None:
    options = ["-n", "-W", "--keep-going", "-q", "-b", "html"]
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", *options, str(ROOT / "docs"), str(folder)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, ""), f"Sphinx ended with {done.returncode}:\n{done.stdout}"


@pytest.fixture
def newcomer(make_once: Callable[..., Path], tmp_path: Path) -> Newcomer:
    """A user with an empty directory, and Python without any packages."""
    if shutil.which("git") is None:
        pytest.skip("needs git")
    from .checkout import make_newcomer, make_supplies

    return make_newcomer(make_once("supplies", make_supplies), tmp_path)
