"""Segments as files: their paths, their content, and whether a layer works on them."""

from __future__ import annotations

import array
import os
import subprocess
from collections.abc import Callable

import pytest
from conftest import objects_of_tests

from asgi_ipc import IPCChannelLayer, SegmentMismatch

from .layers import assert_sound

#: Some systems (macOS) show no files for shared memory.
needs_files = pytest.mark.skipif(not os.path.isdir("/dev/shm"), reason="shared memory has no files here")
#: User ids and group ids that need not exist.
OTHER_USER, THIRD_USER, SHARED_GROUP, OTHER_GROUP = 61001, 61002, 61500, 61600

SIZE, GROUP_SIZE = 1 << 20, 1 << 18
KINDS = ("messages", "groups")
kinds = pytest.mark.parametrize("kind", KINDS)


def path_of(prefix: str, kind: str = "messages") -> str:
    """Return the path of a segment's file."""
    return f"/dev/shm/{prefix}-{kind}"


def objects(prefix: str) -> list[str]:
    """Return the names of a prefix's objects: two segments, two semaphores, and the directory of wakeup FIFOs."""
    return [name for name in objects_of_tests() if prefix in name]


def memory_objects(prefix: str, kind: str = "") -> list[str]:
    """Return the same without the directory, perhaps only those of one kind: its segment, then its semaphore."""
    return [name for name in objects(prefix) if kind in name and not name.endswith(".wakeup")]


def read(path: str) -> tuple[bytes, int]:
    """
    Return the content and the inode number of a file.

    Another process reads it: closing it here would drop the proof of life of layers in this process.
    """
    content = subprocess.run(["cat", path], stdout=subprocess.PIPE, check=True).stdout
    return content, os.stat(path).st_ino


def write(path: str, content: bytes) -> None:
    """Make a file with a segment's default mode, 0o600."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)


def words_of(path: str) -> array.array[int]:
    """Return the words of a segment's file."""
    return array.array("Q", read(path)[0])


def assert_works(layer: IPCChannelLayer) -> None:
    """Assert that messages and groups work and that both stores are consistent."""
    layer.send("works", {"n": 1})
    assert layer.receive(["works"]) == ("works", {"n": 1})
    layer.group_add("works", "a")
    assert layer.group_channels("works") == ["a"]
    layer.group_discard("works", "a")
    assert_sound(layer)


def raise_in_critical_sections(layer: IPCChannelLayer) -> None:
    """Raise in the critical sections of both stores, so that both are recovered and get new semaphores."""

    def fail() -> None:
        raise ZeroDivisionError

    for store in (layer.message_store, layer.group_store):
        with pytest.raises(ZeroDivisionError):
            store.sections.exclusively(fail)


def assert_mismatch(prefix: str, kind: str, make_layer: Callable[[], object], why: str) -> None:
    """Assert that making a layer fails, the error says how to fix it, and the file is unchanged."""
    path = path_of(prefix, kind)
    before = read(path)
    with pytest.raises(SegmentMismatch) as refusal:
        make_layer()
    assert refusal.value.segment == f"{prefix}-{kind}"
    for part in (why, "stop the processes that use it", f"'asgi-ipc unlink {prefix}'", f"rm {path}"):
        assert part in str(refusal.value)
    assert read(path) == before
