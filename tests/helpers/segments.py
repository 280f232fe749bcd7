"""Segments as files: where they are, what they hold, and whether a layer works on them."""

from __future__ import annotations

import array
import os
from typing import Callable, List, Tuple

import pytest
from conftest import objects_of_tests

from asgi_ipc import IPCChannelLayer, SegmentMismatch

from .layers import assert_sound

#: Where the system shows no files for shared memory (macOS), there is nothing to look at.
needs_files = pytest.mark.skipif(not os.path.isdir("/dev/shm"), reason="shared memory has no files here")
#: Users and groups that need not exist.
STRANGER, COLLEAGUE, TEAM, OTHER_TEAM = 61001, 61002, 61500, 61600

SIZE, GROUP_SIZE = 1 << 20, 1 << 18
KINDS = ("messages", "groups")
kinds = pytest.mark.parametrize("kind", KINDS)


def path_of(prefix: str, kind: str = "messages") -> str:
    """The file that shows a segment."""
    return f"/dev/shm/{prefix}-{kind}"


def objects(prefix: str) -> List[str]:
    """The names of a prefix's objects: two segments, two semaphores."""
    return [name for name in objects_of_tests() if prefix in name]


def read(path: str) -> Tuple[bytes, int]:
    """What a file holds, and which file it is."""
    with open(path, "rb") as file:
        return file.read(), os.fstat(file.fileno()).st_ino


def write(path: str, content: bytes) -> None:
    """Make a file that only we can write, as a segment is."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)


def words_of(path: str) -> array.array[int]:
    """The words of a segment's file."""
    return array.array("Q", read(path)[0])


def works(layer: IPCChannelLayer) -> None:
    """Messages and groups go through."""
    layer.send("works", {"n": 1})
    assert layer.receive(["works"]) == ("works", {"n": 1})
    layer.group_add("works", "a")
    assert layer.group_channels("works") == ["a"]
    layer.group_discard("works", "a")
    assert_sound(layer)


def break_off(layer: IPCChannelLayer) -> None:
    """Leave both sections by an exception, so that both stores are repaired and get new semaphores."""

    def fail() -> None:
        raise ZeroDivisionError

    for store in (layer.message_store, layer.group_store):
        with pytest.raises(ZeroDivisionError):
            store._exclusively(fail)


def assert_mismatch(prefix: str, kind: str, make_layer: Callable[[], object], why: str) -> None:
    """A layer cannot be made, the error says how to mend that, and the file is as it was."""
    path = path_of(prefix, kind)
    before = read(path)
    with pytest.raises(SegmentMismatch) as refusal:
        make_layer()
    assert refusal.value.segment == f"{prefix}-{kind}"
    for part in (why, "stop the processes that use it", f"'asgi-ipc unlink {prefix}'", f"rm {path}"):
        assert part in str(refusal.value)
    assert read(path) == before
