"""
The Pythons that peers run in: this one, and one with the packages of the time of Channels 1, which the suite makes.
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

#: What runs there. pyperf and psutil are the suite's.
PINS = ("asgi_ipc==1.4.2", "asgi_redis==1.4.3", "asgiref==1.1.2", "redis==2.10.6", "pyperf", "psutil")
#: Installed over the msgpack-python that they ask for, whose C extension does not build on these Pythons: it falls back
#: to pure Python then. This is the last msgpack whose ``unpackb`` takes what the old layers pass.
MSGPACK = "msgpack==0.6.2"
#: The Pythons that both the old packages and this suite run on.
PYTHONS = ("3.9", "3.10")
#: Seconds that making it may take.
PATIENCE = 600


class Unmade(Exception):
    """The environment cannot be made; the text says why."""


def find_python() -> Optional[str]:
    """A Python for the old packages: this one, one on the PATH, or one of pyenv's."""
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
    """Whether it runs (pyenv has commands that do not), and is of that version."""
    code = "import sys, venv, ensurepip; print('%d.%d' % sys.version_info[:2])"
    try:
        answer = subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return answer.returncode == 0 and answer.stdout.strip() == version


def old_environment(folder: str, python: Optional[str] = None) -> str:
    """
    The Python of the environment with the old packages, which is made below a folder unless it is there already.

    Raises ``Unmade``.
    """
    python = python or find_python()
    if python is None:
        raise Unmade(f"no Python {' or '.join(PYTHONS)} was found for the packages of that time (--old-python PATH)")
    mark = hashlib.sha256(" ".join((python, *PINS, MSGPACK)).encode()).hexdigest()[:12]
    place = os.path.join(folder, f"old-{mark}")
    inside, done = os.path.join(place, "bin", "python"), os.path.join(place, "made")
    if not os.path.exists(done):
        shutil.rmtree(place, ignore_errors=True)
        run([python, "-m", "venv", place])
        pip = [inside, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        run([*pip, "wheel"])
        run([*pip, *PINS])
        run([*pip, "--force-reinstall", "--no-deps", MSGPACK])
        with open(done, "w", encoding="utf-8") as file:
            file.write("\n".join((*PINS, MSGPACK)))
    return inside


def run(command: List[str]) -> None:
    try:
        subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True)
    except subprocess.CalledProcessError as error:
        lines = [line for line in (error.stderr or error.stdout).splitlines() if line.strip()]
        raise Unmade(f"{' '.join(command[1:4])} failed: {lines[-1] if lines else 'it said nothing'}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unmade(f"{' '.join(command[1:4])} failed: {error}") from error
