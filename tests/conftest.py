"""
Fixtures of all tests: a unique prefix, layers that are closed, a check that no shared memory is left.

And how the suite runs: in two processes where pytest-xdist is installed, and in part unless ``--exhaustive`` is given.
"""

from __future__ import annotations

import contextlib
import gc
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
from helpers.extent import SKIPPED, Extent, is_in_part
from helpers.processes import Children

from asgi_ipc import AsyncIPCChannelLayer, IPCChannelLayer

with contextlib.suppress(ImportError):  # the environments of some tests do not have it
    from hypothesis import HealthCheck, settings

    # How long anything takes depends on the machine. The benchmarks judge that, and no test.
    settings.register_profile("any speed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("any speed")

SHM = "/dev/shm"
#: Prefix of the name of every object that these tests make; objects with other names are never touched. The hyphen
#: ends the process id, so that no other worker's prefix begins with it.
MARK = f"asgitest{os.getpid()}-"


def objects_of_tests() -> list[str]:
    """Return the names of the shared memory objects that tests of this process have left."""
    return sorted(name for name in os.listdir(SHM) if MARK in name) if os.path.isdir(SHM) else []


def remove_objects(names: Iterable[str]) -> None:
    """Remove shared memory objects, also directories with wakeup FIFOs."""
    for name in names:
        path = os.path.join(SHM, name)
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """Fail a test that leaves shared memory objects, and remove them, so that the next test can pass."""
    yield
    gc.collect()
    left = objects_of_tests()
    remove_objects(left)
    assert not left, f"left in shared memory: {left}"


@pytest.fixture
def prefix() -> Iterator[str]:
    """A unique prefix; all objects with this prefix are removed after the test."""
    name = f"{MARK}{secrets.token_hex(4)}"
    yield name
    gc.collect()
    remove_objects(found for found in objects_of_tests() if found.startswith((name, f"sem.{name}")))


@pytest.fixture
def make_layer(prefix: str) -> Iterator[Callable[..., IPCChannelLayer]]:
    """Return a function that makes small layers with this test's prefix; all are closed afterwards."""
    made: list[IPCChannelLayer] = []

    def make(**options: Any) -> IPCChannelLayer:
        options = {"message_memory": 1024 * 1024, "group_memory": 256 * 1024, "prefix": prefix, **options}
        layer = IPCChannelLayer(**options)
        made.append(layer)
        return layer

    yield make
    for layer in made:
        layer.close()


@pytest.fixture
def layer(make_layer: Callable[..., IPCChannelLayer]) -> IPCChannelLayer:
    """A layer with default options and small segments."""
    return make_layer()


@pytest.fixture
def make_async(prefix: str) -> Iterator[Callable[..., AsyncIPCChannelLayer]]:
    """Return a function that makes asynchronous layers in the same way."""
    made: list[AsyncIPCChannelLayer] = []

    def make(**options: Any) -> AsyncIPCChannelLayer:
        options = {"message_memory": 1024 * 1024, "group_memory": 256 * 1024, "prefix": prefix, **options}
        layer = AsyncIPCChannelLayer(**options)
        made.append(layer)
        return layer

    yield make
    for layer in made:
        layer._layer.close()


@pytest.fixture
def start() -> Iterator[Children]:
    """Return ``start(function, *args)``, which starts a child; all are killed and reaped afterwards."""
    children = Children()
    yield children
    children.clean_up()


@pytest.fixture
def extent(request: pytest.FixtureRequest) -> Extent:
    """How much a long test has to try."""
    return Extent(request.config.getoption("exhaustive"), request.node.user_properties)


# -- how the suite runs -------------------------------------------------------------------------------------------


#: Processes that run tests side by side, unless ``-n`` or pytest-xdist's own environment variable says otherwise.
WORKERS = 2


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--exhaustive", action="store_true", help="run all of the long tests, not samples of them")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "exhaustive: a long test that is skipped without --exhaustive")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Choose the number of workers before pytest-xdist looks at it; a debugger or a single test needs none."""
    option = config.option
    is_open = getattr(option, "numprocesses", 0) is None and option.dist == "no" and not option.tx
    is_one = option.usepdb or option.trace or option.capture == "no" or any("::" in each for each in option.file_or_dir)
    if is_open and not is_one and "PYTEST_XDIST_WORKER" not in os.environ:
        option.numprocesses = int(os.environ.get("PYTEST_XDIST_AUTO_NUM_WORKERS", WORKERS))
        option.dist = "worksteal" if option.numprocesses else "no"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("exhaustive"):
        for item in items:
            if item.get_closest_marker("exhaustive"):
                item.add_marker(pytest.mark.skip(reason=SKIPPED))


def pytest_collection_finish() -> None:
    """Exclude all imported objects from the garbage collection after every test, to make it faster."""
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say what was left out."""
    stats = terminalreporter.stats
    in_part = sum(map(is_in_part, [*stats.get("passed", []), *stats.get("failed", [])]))
    skipped = sum(SKIPPED in str(report.longrepr) for report in stats.get("skipped", []))
    if in_part or skipped:
        terminalreporter.write_sep("-", "not everything has run")
        terminalreporter.write_line(
            f"{in_part} tests tried a sample of their cases, and {skipped} long ones were skipped. "
            f"pytest --exhaustive runs everything, and so does bash .ci/run."
        )
