"""
The Python environment for the layers for Channels 1, which the suite creates. All other peers use this one.
"""

from __future__ import annotations

__all__ = ["Unmade", "find_python", "old_environment"]

import glob
import hashlib
import os
import shutil
import subprocess
import sys
from typing import Iterator, List, Optional

#: The packages of the old environment. The suite itself needs pyperf and psutil.
PINS = ("asgi_ipc==1.4.2", "asgi_redis==1.4.3", "asgiref==1.1.2", "redis==2.10.6", "pyperf", "psutil")
#: Replaces the msgpack-python that they require. The C extension of that package does not build on these
#: Pythons, and without it the package is much slower. This is the last msgpack whose ``unpackb`` accepts the
#: arguments of the old layers.
MSGPACK = "msgpack==0.6.2"
#: The Pythons that both the old packages and this suite run on.
PYTHONS = ("3.9", "3.10")
#: The timeout in seconds of each command that creates the environment.
PATIENCE = 600


class Unmade(Exception):
    """The environment cannot be created; the text contains the reason."""


def find_python() -> Optional[str]:
    """Return a Python for the old packages (this one, one on the PATH, or one of pyenv's), or None."""
    for version in PYTHONS:
        for python in candidates(version):
            if works(python, version):
                return python
    return None


def candidates(version: str) -> Iterator[str]:
    yield sys.executable
    found = shutil.which(f"python{version}")
    if found:
        yield found
    root = os.environ.get("PYENV_ROOT", os.path.expanduser("~/.pyenv"))
    yield from sorted(glob.glob(os.path.join(root, "versions", f"{version}.*", "bin", "python3")))


def works(python: str, version: str) -> bool:
    """Return True if it runs and has that version. The shims of pyenv may not run."""
    code = "import sys, venv, ensurepip; print('%d.%d' % sys.version_info[:2])"
    try:
        answer = subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return answer.returncode == 0 and answer.stdout.strip() == version


def old_environment(folder: str, python: Optional[str] = None) -> str:
    """
    Return the path of the Python with the old packages. Creates its environment in ``folder`` if necessary.

    Raises ``Unmade``.
    """
    python = python or find_python()
    if python is None:
        raise Unmade(f"no Python {' or '.join(PYTHONS)} was found for the old packages (--old-python PATH)")
    mark = hashlib.sha256(" ".join((python, *PINS, MSGPACK)).encode()).hexdigest()[:12]
    place = os.path.join(folder, f"old-{mark}")
    own_python, done = os.path.join(place, "bin", "python"), os.path.join(place, "made")
    if not os.path.exists(done):
        shutil.rmtree(place, ignore_errors=True)
        run([python, "-m", "venv", place])
        pip = [own_python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        run([*pip, "wheel"])
        run([*pip, *PINS])
        run([*pip, "--force-reinstall", "--no-deps", MSGPACK])
        with open(done, "w", encoding="utf-8") as file:
            file.write("\n".join((*PINS, MSGPACK)))
    return own_python


def run(command: List[str]) -> None:
    try:
        subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True)
    except subprocess.CalledProcessError as error:
        lines = [line for line in (error.stderr or error.stdout).splitlines() if line.strip()]
        raise Unmade(f"{' '.join(command[1:4])} failed: {lines[-1] if lines else 'it printed no error'}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unmade(f"{' '.join(command[1:4])} failed: {error}") from error
