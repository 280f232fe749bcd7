"""
The entry point of worker processes. It is started by its path: ``python worker.py check|host|pyperf ...``.

It imports ``benchmarks`` without the checkout on ``sys.path``. Otherwise old peers would import the
checkout's asgi_ipc instead of their own.
"""

from __future__ import annotations

import importlib.util
import os
import sys


def import_benchmarks() -> None:
    """Make ``benchmarks`` importable, but nothing else in the checkout."""
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
    import_benchmarks()
    from benchmarks import host

    host.main(sys.argv[1:])


if __name__ == "__main__":
    main()
