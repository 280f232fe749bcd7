"""
``python boot.py LIBRARY PYTHON -c CODE ARGUMENTS``: patch with gevent or eventlet before anything else is imported.

Then run the code in this process, as PYTHON would. (``Child`` has ``through`` for such a command.)
"""

from __future__ import annotations

import importlib.util
import sys


def need(package: str) -> None:
    """Skip the test if a package is not installed. It is not imported: eventlet changes the process that imports it."""
    import pytest

    if not importlib.util.find_spec(package):
        pytest.skip(f"{package} is not installed")


def patch(library: str) -> None:
    """Make the threads of this process greenlets."""
    if library == "gevent":
        import gevent.monkey

        gevent.monkey.patch_all()
    else:
        import eventlet

        eventlet.monkey_patch()


if __name__ == "__main__":
    del sys.path[0]  # the folder of this file
    patch(sys.argv[1])
    code, sys.argv = sys.argv[4], ["-c", *sys.argv[5:]]
    exec(code)
