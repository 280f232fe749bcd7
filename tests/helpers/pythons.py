"""Other Pythons of this machine, with what the package needs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Iterator, Optional

import pytest

#: What the package needs: it is asked for before anything is installed.
NEEDS = "import msgpack, posix_ipc"
#: Seconds after which pip is taken to get nowhere.
LIMIT = 180


def _found(version: str) -> Iterator[str]:
    """Interpreters of a version, such as "3.9": this one, pyenv's, those on the path."""
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
    An interpreter that can import the package; the test is skipped if there is none.

    One that lacks what the package needs gets an environment in ``cache``, once.
    """
    made = cache / version / "bin" / "python"
    if made.exists() and _runs(str(made), NEEDS):
        return str(made)
    base: Optional[str] = None
    for python in _found(version):
        if _runs(python, NEEDS):
            return python
        base = base or (python if _runs(python, "import venv, ensurepip") else None)
    if base is None:
        pytest.skip(f"needs Python {version}")
    try:
        subprocess.run([base, "-m", "venv", "--clear", str(cache / version)], check=True, timeout=LIMIT)
        pip = [str(made), "-m", "pip", "--disable-pip-version-check", "install", "-q", "msgpack", "posix_ipc"]
        subprocess.run(pip, check=True, timeout=LIMIT, capture_output=True)
    except (subprocess.SubprocessError, OSError) as error:
        pytest.skip(f"needs msgpack and posix_ipc for Python {version}, and pip could not install them: {error}")
    return str(made)
