"""More than one copy of the package in a process, as subinterpreters and a purge of ``sys.modules`` make them."""

from __future__ import annotations

import importlib
import json
import os
import sys
from types import ModuleType
from typing import Any

import pytest


def is_of_package(name: str) -> bool:
    return name == "asgi_ipc" or name.startswith("asgi_ipc.")


def another_copy() -> ModuleType:
    """Return a new copy of the package. ``sys.modules`` has the same modules as before."""
    before = {name: sys.modules.pop(name) for name in list(sys.modules) if is_of_package(name)}
    try:
        return importlib.import_module("asgi_ipc")
    finally:
        for name in filter(is_of_package, list(sys.modules)):
            del sys.modules[name]
        sys.modules.update(before)


class Subinterpreter:
    """
    A subinterpreter that shares the interpreter lock, as mod_wsgi and uWSGI make them.

    Skips the test if this Python has none, or if they cannot import what the package needs.
    """

    def __init__(self) -> None:
        self._api, self._id = _make()
        problem = self.run(f"sys.path[:0] = {sys.path!r}; import msgpack, posix_ipc")
        if problem is not None:
            self.destroy()
            pytest.skip(f"a subinterpreter cannot import the requirements of the package: {problem}")

    def run(self, code: str) -> Any:
        """Run code, and return the value of its variable ``result``; an exception in it is returned as a text."""
        reading, writing = os.pipe()
        lines = [
            "import json, os, sys",
            "result = None",
            "try:",
            *(f"    {line}" for line in code.splitlines()),
            "except Exception as error:",
            "    result = f'{type(error).__name__}: {error}'",
            f"os.write({writing}, json.dumps(result).encode())",
        ]
        try:
            self._api.run_string(self._id, "\n".join(lines))
            return json.loads(os.read(reading, 65536))
        finally:
            os.close(reading)
            os.close(writing)

    def destroy(self) -> None:
        """End the subinterpreter."""
        self._api.destroy(self._id)


def _make() -> tuple[Any, Any]:
    """Return the module for subinterpreters, and the id of a new one."""
    try:
        api = importlib.import_module("_interpreters")  # Python 3.13
    except ImportError:
        try:
            api = importlib.import_module("_xxsubinterpreters")
        except ImportError:
            pytest.skip("this Python has no module that makes subinterpreters")
        return api, api.create(isolated=False)
    return api, api.create("legacy")
