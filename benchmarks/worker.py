"""
What runs in a peer's Python, started by path: ``python worker.py check|host|pyperf ...``.

It loads this package from its folder without putting the checkout on ``sys.path``, where old peers would find another
asgi_ipc than their own.
"""

from __future__ import annotations

import importlib.util
import os
import sys


def adopt() -> None:
    """Make ``benchmarks`` importable, and nothing beside it."""
    folder = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [path for path in sys.path if os.path.abspath(path or ".") != folder]
    place = os.path.join(folder, "__init__.py")
    spec = importlib.util.spec_from_file_location("benchmarks", place, submodule_search_locations=[folder])
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["benchmarks"] = module
    spec.loader.exec_module(module)


def main() -> None:
    adopt()
    from benchmarks import host

    host.main(sys.argv[1:])


if __name__ == "__main__":
    main()
