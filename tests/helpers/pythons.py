"""Other Python versions on this machine that can import the package."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

#: The requirements of the package. An interpreter that has them needs no environment.
REQUIREMENTS = "import msgpack, posix_ipc"
#: Seconds after which pip counts as stuck.
PIP_TIMEOUT = 180


def _find(version: str) -> Iterator[str]:
    """Yield the interpreters of a version, such as ``"3.9"``: this one, pyenv's, and the one on ``PATH``."""
    if f"{sys.version_info[0]}.{sys.version_info[1]}" == version:
        yield sys.executable
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for path in sorted(versions.glob(f"{version}.*/bin/python3")):
        yield str(path)
    on_path = shutil.which(f"python{version}")
    if on_path:
        yield on_path


def _runs(python: str, code: str) -> bool:
    return subprocess.run([python, "-c", code], capture_output=True, check=False).returncode == 0


def interpreter(version: str, cache: Path) -> str:
    """
    Return an interpreter that can import the package; skip the test if there is none.

    If the interpreter lacks the requirements, an environment with them is made once, in ``cache``, under a lock:
    another process may ask for it at the same time.
    """
    with open(cache / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _find_or_make(version, cache)


def _find_or_make(version: str, cache: Path) -> str:
    in_cache = cache / version / "bin" / "python"
    if in_cache.exists() and _runs(str(in_cache), REQUIREMENTS):
        return str(in_cache)
    base: str | None = None
    for python in _find(version):
        if _runs(python, REQUIREMENTS):
            return python
        base = base or (python if _runs(python, "import venv, ensurepip") else None)
    if base is None:
        pytest.skip(f"needs Python {version}")
    try:
        subprocess.run([base, "-m", "venv", "--clear", str(cache / version)], check=True, timeout=PIP_TIMEOUT)
        pip = [str(in_cache), "-m", "pip", "--disable-pip-version-check", "install", "-q", "msgpack", "posix_ipc"]
        subprocess.run(pip, check=True, timeout=PIP_TIMEOUT, capture_output=True)
    except (subprocess.SubprocessError, OSError) as error:
        pytest.skip(f"needs msgpack and posix_ipc for Python {version}, and pip could not install them: {error}")
    return str(in_cache)


def with_venv(versions: Iterable[str]) -> dict[str, str]:
    """Return an interpreter for each of these versions that is installed and can make virtual environments."""
    found = {}
    for version in versions:
        path = next((path for path in _find(version) if _runs(path, "import venv, ensurepip")), None)
        if path:
            found[version] = path
    return found
