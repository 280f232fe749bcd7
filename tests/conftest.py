"""What every test shares: a prefix of its own, layers that are closed, and proof that nothing stays behind."""

from __future__ import annotations

import gc
import os
import secrets
from typing import Any, Callable, Iterator, List

import pytest
from helpers.processes import Children

from asgi_ipc import AsyncIPCChannelLayer, IPCChannelLayer

SHM = "/dev/shm"
#: Begins the name of every object that these tests make, so that other users of the machine are left alone.
MARK = f"asgitest{os.getpid()}"


def objects_of_tests() -> List[str]:
    """The shared memory objects that tests of this process have made and not removed."""
    return sorted(name for name in os.listdir(SHM) if MARK in name) if os.path.isdir(SHM) else []


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """Fail a test that leaves shared memory behind; remove it, so that the next test is judged by its own deeds."""
    yield
    gc.collect()
    left = objects_of_tests()
    for name in left:
        os.unlink(os.path.join(SHM, name))
    assert not left, f"left in shared memory: {left}"


@pytest.fixture
def prefix() -> Iterator[str]:
    """A prefix that nothing else uses; whatever is made under it is removed after the test."""
    name = f"{MARK}-{secrets.token_hex(4)}"
    yield name
    gc.collect()
    for found in objects_of_tests():
        if found.startswith((name, f"sem.{name}")):
            os.unlink(os.path.join(SHM, found))


@pytest.fixture
def make_layer(prefix: str) -> Iterator[Callable[..., IPCChannelLayer]]:
    """Make layers on this test's prefix (small ones, unless told otherwise); all are closed after the test."""
    made: List[IPCChannelLayer] = []

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
    """The same with asynchronous layers."""
    made: List[AsyncIPCChannelLayer] = []

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
    """Start other processes: ``start(function, *args)``; all are ended and reaped after the test."""
    children = Children()
    yield children
    children.clean_up()


def pytest_collection_finish() -> None:
    """Garbage is collected after every test: what was imported so far need not be looked through each time."""
    gc.collect()
    gc.freeze()
