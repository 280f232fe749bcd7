"""The layers of the package: imports go downwards only, and some packages are imported in one place only."""

from __future__ import annotations

import ast
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import asgi_ipc

PACKAGE = Path(asgi_ipc.__file__).parent

#: The rows of modules from bottom to top. A module imports only from lower rows, not from its own.
ROWS = [
    # names, options and errors: no shared memory
    ["exceptions", "memo", "clock"],
    ["names", "capacity", "codec", "statistics"],
    ["options"],
    # shm: objects of the operating system
    ["shm", "shm.permissions", "shm.layout", "shm.file_locks", "shm.fifo_io"],
    ["shm.header", "shm.fifo_directory", "shm.copies"],
    ["shm.semaphores", "shm.wakeup_fifo"],
    ["shm.segment"],
    # structures: the division of a segment
    ["structures", "structures.ring", "structures.heap"],
    ["structures.live_blocks"],
    ["structures.slab", "structures.hashtable"],
    # locking: exclusive access to a segment, and which processes live
    ["locking", "locking.reentrancy", "locking.threads", "locking.liveness", "locking.token", "locking.turns"],
    ["locking.recovery"],
    ["locking.contention"],
    ["locking.mutex"],
    # stores: messages and groups
    ["stores", "stores.attachment"],
    ["stores.unlink", "stores.base"],
    ["stores.messages", "stores.messages.channels", "stores.groups", "stores.groups.members"],
    ["stores.messages.records", "stores.groups.dead_members"],
    ["stores.messages.waiters", "stores.messages.ownership", "stores.messages.own_fifo"],
    ["stores.messages.outcomes"],
    ["stores.messages.queues"],
    ["stores.messages.sweep", "stores.messages.inspect", "stores.messages.receiving"],
    ["stores.messages.recovery", "stores.messages.parts", "stores.groups.recovery"],
    ["stores.messages.wakeups", "stores.messages.renewal"],
    ["stores.messages.group_send"],
    ["stores.messages.store", "stores.groups.store"],
    # check: the integrity check of the stores, which nothing imports at run time
    ["check.walk"],
    ["check.heap", "check.waiters"],
    ["check.stores"],
    ["check"],
    # waiting: blocking receives in threads and event loops
    ["waiting", "waiting.thread", "waiting.event_loop", "waiting.pending"],
    ["waiting.loop_turns"],
    ["waiting.hub"],
    ["waiting.hubs"],
    ["waiting.asyncio_loop", "waiting.twisted_reactor"],
    # front ends: the public classes
    ["layer"],
    ["core", "aio"],
    [""],
    # the demo
    ["demo", "demo.workers"],
    ["demo.tally"],
    ["demo.run"],
    # the operator's command line
    ["cli.unlink"],
    ["cli"],
    ["__main__"],
    # pytest fixtures for projects that use the package
    ["pytest_plugin"],
]
RANK: dict[str, int] = {module: rank for rank, row in enumerate(ROWS) for module in row}

#: The only packages from outside the standard library, and the modules that may import certain packages.
THIRD_PARTY = {"typing_extensions", "posix_ipc", "msgpack", "channels", "django", "pytest", "twisted", "zope"}
ONLY_IN = {
    "posix_ipc": ("shm.", "locking.token", "stores.unlink"),
    "mmap": "shm.",
    "msgpack": "codec",
    "multiprocessing": "demo.",
    # These are optional and imported only on request.
    "channels": ("aio", "pytest_plugin"),
    "django": "pytest_plugin",
    "pytest": "pytest_plugin",
    "twisted": "waiting.twisted_reactor",
    "zope": "waiting.twisted_reactor",
}

#: The maximum number of lines of a module.
LONGEST = 350


def modules() -> list[tuple[str, Path]]:
    """Return every module: its name below ``asgi_ipc`` (``""`` for the package itself) and its file."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found.append((".".join(parts[:-1] if parts[-1] == "__init__" else parts), path))
    return found


def imports(module: str, is_package: bool, source: str) -> Iterator[str]:
    """
    Yield the full names of all imports of a module, including those in functions and for type checkers.

    ``from a import b`` gives ``a.b``, whether that is a module or a name in a module.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = ["asgi_ipc", *filter(None, module.split("."))]
                above = above[: len(above) - node.level + is_package]
                base = ".".join(above + ([node.module] if node.module else []))
            yield from (f"{base}.{alias.name}" for alias in node.names)


def below_package(name: str) -> str:
    """Return the module of this package that an imported name is or belongs to."""
    inner = name.partition(".")[2]
    while inner and inner not in RANK:
        inner = inner.rpartition(".")[0]
    return inner


def violations(module: str, is_package: bool, source: str) -> list[str]:
    """Return the violations of the rules by the imports of a module."""
    found = []
    for name in imports(module, is_package, source):
        root = name.partition(".")[0]
        if root == "asgi_ipc":
            target = below_package(name)
            if RANK[target] >= RANK[module]:
                found.append(
                    f"{module} (row {RANK[module]}) imports {target or 'asgi_ipc'} (row {RANK[target]})"
                )
        elif root not in THIRD_PARTY and not in_standard_library(root):
            found.append(f"{module} imports {root}, which is not a requirement of the package")
        if root in ONLY_IN and not module.startswith(ONLY_IN[root]):
            found.append(f"{module} imports {root}, which only {ONLY_IN[root]} may import")
    return found


def in_standard_library(root: str) -> bool:
    if sys.version_info >= (3, 10):
        return root in sys.stdlib_module_names
    spec = importlib.util.find_spec(root)
    return spec is not None and "site-packages" not in (spec.origin or "")


MODULES = modules()
names_of_modules = pytest.mark.parametrize(
    ("module", "path"), MODULES, ids=[name or "asgi_ipc" for name, _ in MODULES]
)


def test_every_module_is_in_exactly_one_row() -> None:
    assert {module for module, _ in MODULES} == set(RANK)
    assert len(RANK) == sum(map(len, ROWS))


@names_of_modules
def test_imports_go_downwards(module: str, path: Path) -> None:
    assert violations(module, path.name == "__init__.py", path.read_text()) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("structures.heap", "from ..core import IPCChannelLayer"),
        ("structures.heap", "from .. import core"),
        ("structures.heap", "from ..stores.base import Store"),
        ("structures.heap", "from .slab import Slab"),
        ("structures.slab", "from .hashtable import HashTable"),
        ("structures.heap", "import asgi_ipc"),
        ("structures.heap", "import asgi_ipc.core as core"),
        ("structures.heap", "def later():\n    from asgi_ipc.stores.messages import store"),
        ("stores.messages.store", "from ..groups.store import GroupStore"),
        ("stores.groups.store", "from ..messages import store"),
        ("names", "from .codec import encode"),
        ("core", "from .cli import main"),
        ("core", "from . import __version__"),
        ("core", "import posix_ipc"),
        ("stores.messages.store", "from mmap import mmap"),
        ("stores.messages.store", "import msgpack"),
        ("core", "import asgiref.base_layer"),
        ("core", "try:\n    import channels\nexcept ImportError:\n    channels = None"),
        ("core", "from .aio import AsyncIPCChannelLayer"),
        ("aio", "from twisted.internet import reactor"),
    ],
)
def test_wrong_imports_are_found(module: str, source: str) -> None:
    assert violations(module, False, source)


@pytest.mark.parametrize(
    ("module", "is_package", "source"),
    [
        ("structures.slab", False, "from .heap import Heap\nfrom ..exceptions import SegmentError"),
        ("stores.messages.store", False, "from ..attachment import Attachment\nimport time"),
        ("", True, "from .core import IPCChannelLayer\nfrom .exceptions import ChannelFull"),
        ("cli", True, "from .. import __version__\nfrom ..demo.run import run_demo"),
        ("core", False, "from . import codec, names"),
        ("shm.segment", False, "import mmap, posix_ipc"),
    ],
)
def test_right_imports_are_accepted(module: str, is_package: bool, source: str) -> None:
    assert violations(module, is_package, source) == []


@names_of_modules
def test_modules_have_a_limited_length(module: str, path: Path) -> None:
    assert len(path.read_text().splitlines()) <= LONGEST


@names_of_modules
def test_modules_have_a_docstring(module: str, path: Path) -> None:
    source = path.read_text()
    assert not source.strip() or ast.get_docstring(ast.parse(source))


FOREIGN = {"asgiref", "channels", "django", "twisted", "redis", "uvloop"}


@pytest.mark.parametrize("statement", ["import asgi_ipc", "import asgi_ipc.cli"])
def test_importing_the_package_imports_no_framework(statement: str, tmp_path: Path) -> None:
    """Even if every framework can be imported, none is."""
    for name in FOREIGN:
        (tmp_path / f"{name}.py").touch()
    check = f"{statement}; import sys; print(*sorted(sys.modules))"
    paths = [str(PACKAGE.parent), str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {paths!r}; {check}"],
        capture_output=True,
        text=True,
        check=True,
    )
    imported: set[str] = {name.partition(".")[0] for name in done.stdout.split()}
    assert "posix_ipc" in imported
    assert imported & FOREIGN == set()


def test_the_integrity_check_is_not_imported_at_run_time(tmp_path: Path) -> None:
    """It is for tests and operators: a site pays nothing for it."""
    program = (
        "import sys, asgi_ipc, asgi_ipc.__main__, asgi_ipc.demo.run\n"
        "with asgi_ipc.IPCChannelLayer(sys.argv[1]) as layer:\n"
        "    layer.send('a', {}); layer.receive(['a']); layer.unlink()\n"
        "print([name for name in sys.modules if name.startswith('asgi_ipc.check')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, f"asgitest-{os.getpid()}"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)},
    )
    assert done.stdout.split() == ["[]"]


def test_only_the_check_itself_imports_the_check() -> None:
    importers = {
        module
        for module, path in MODULES
        for name in imports(module, path.name == "__init__.py", path.read_text())
        if f"{name}.".startswith("asgi_ipc.check.") and not f"{module}.".startswith("check.")
    }
    assert importers == set()
