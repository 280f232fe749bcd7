"""
A file system for shared memory that is small, or full: a refusal, never a SIGBUS, and no harm done.

Each child has a /dev/shm of its own: a tmpfs in a mount namespace, where that is permitted.
"""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import time

import pytest
from helpers.layers import assert_sound, drain, state, until_full
from helpers.processes import LIMIT, reap

from asgi_ipc import GroupStoreFull, IPCChannelLayer, MemoryFull, SegmentError, SegmentRefused

FILLER = "/dev/shm/filler"


@pytest.fixture
def own_shm():
    """The command that starts a process with a /dev/shm of so many KiB; skips where that is not permitted."""

    def through(kibibytes):
        mount = f"mount -t tmpfs -o size={kibibytes}k,mode=1777 tmpfs /dev/shm"
        return ["unshare", "--mount", "sh", "-c", f'{mount} && exec "$@"', "sh"]

    try:
        permitted = subprocess.run([*through(1024), "true"], capture_output=True, timeout=LIMIT).returncode == 0
    except FileNotFoundError:
        permitted = False
    if not permitted:
        pytest.skip("this user may not mount a file system of his own")
    return through


def fill_up():
    """Leave not one free page in /dev/shm."""
    fd = os.open(FILLER, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        while True:
            os.write(fd, bytes(4096))
    except OSError as error:
        assert error.errno == errno.ENOSPC
    finally:
        os.close(fd)


def told(error):
    """What the test wants to know of an error."""
    return [type(error).__name__, getattr(error, "reason", None), str(error)]


def fills_messages(talk, prefix):
    """A child: fill the memory with messages of several sizes and drain it, over and over."""
    layer = IPCChannelLayer(prefix, capacity=10**9)  # the default sizes
    for size in (2000, 60_000, 300, 900_000, 2000):
        message = {"d": b"x" * size}
        count, full = until_full(lambda _, m=message: layer.send("a", m))
        received = drain(layer, "a")
        assert all(one == ("a", message) for one in received)
        talk.say([size, count, len(received), told(full)])
    assert_sound(layer)


def test_messages_in_a_docker_sized_file_system(prefix, start, own_shm):
    """The segments are sparse: 100 MiB and 20 MiB fit into 16 MiB until they are used."""
    child = start(fills_messages, prefix, through=own_shm(16 * 1024))
    counts = []
    for size in (2000, 60_000, 300, 900_000, 2000):
        sent_size, sent, received, (kind, reason, text) = child.hear()
        assert sent_size == size
        assert (kind, reason) == ("MemoryFull", "filesystem")
        assert sent == received > 0
        assert "/dev/shm" in text
        assert "--shm-size" in text
        assert f"{prefix}-messages" in text
        counts.append(sent)
    child.end()
    assert counts[0] * 2000 > 13 * 2**20
    assert counts[-1] >= 0.95 * counts[0]


def fills_groups(talk, prefix):
    """A child: fill the memory with memberships, end them, and begin again."""
    layer = IPCChannelLayer(prefix)
    for _ in range(2):
        count, full = until_full(lambda number: layer.group_add(f"group-{number % 50}", f"channel-{number}"))
        members = sum(len(layer.group_channels(f"group-{number}")) for number in range(50))
        talk.say([count, members, told(full)])
        for number in range(count):
            layer.group_discard(f"group-{number % 50}", f"channel-{number}")
    assert_sound(layer)
    layer.group_add("g", "a")
    before = state(layer)
    layer.send_group("g", {"n": 1})  # the memberships have taken all there is, and keep it
    assert state(layer) == before


def test_groups_in_a_small_file_system(prefix, start, own_shm):
    child = start(fills_groups, prefix, through=own_shm(4 * 1024))
    (first, *first_rest), (second, *second_rest) = child.hear(), child.hear()
    child.end()
    assert first == second > 10_000
    for count, (members, (kind, reason, text)) in ((first, first_rest), (second, second_rest)):
        assert members == count
        assert (kind, reason) == ("GroupStoreFull", "filesystem")
        assert f"{prefix}-groups" in text
        assert "--shm-size" in text


def has_no_room(talk, prefix):
    """A child: try to make a layer, say how it went and what is left, then try with room."""
    for memory in (100 << 20, 1 << 20):
        try:
            layer = IPCChannelLayer(prefix, message_memory=memory, group_memory=65536)
        except SegmentRefused as refusal:
            talk.say([told(refusal), refusal.segment, os.listdir("/dev/shm")])
        else:
            layer.send("a", {})
            assert layer.receive(["a"]) == ("a", {})
            talk.say("made")


def test_a_file_system_too_small_to_begin(prefix, start, own_shm):
    child = start(has_no_room, prefix, through=own_shm(400))
    (kind, _, text), name, left = child.hear()
    assert (kind, name) == ("SegmentRefused", f"{prefix}-messages")
    for part in ("/dev/shm has no room for its first", "enlarge it", "--shm-size"):
        assert part in text
    assert left == []
    assert child.hear() == "made"
    child.end()


def fills_the_rest(talk, prefix):
    """A child: use a layer while something else has taken every page, and after it has given them back."""
    layer = IPCChannelLayer(prefix, capacity=10**9)
    layer.send("a", {"d": b"x" * 100_000})
    fill_up()
    count, full = until_full(lambda _: layer.send("a", {"d": b"x" * 1000}))
    assert isinstance(full, MemoryFull)
    assert layer.receive(["a"])[1] == {"d": b"x" * 100_000}
    again, _ = until_full(lambda _: layer.send("a", {"d": b"x" * 1000}))
    assert len(drain(layer, "a")) == count + again
    layer.flush()
    _, full = until_full(lambda number: layer.group_add("g", f"channel-{number}"))
    assert isinstance(full, GroupStoreFull)
    try:
        IPCChannelLayer(prefix + "2")
    except SegmentRefused as refusal:
        talk.say([count, again, told(full), told(refusal)])
    os.unlink(FILLER)
    layer.send("a", {"d": b"x" * 900_000})
    layer.group_add("g", "a")
    IPCChannelLayer(prefix + "2").send("a", {})
    assert_sound(layer)


def test_a_file_system_that_others_fill(prefix, start, own_shm):
    child = start(fills_the_rest, prefix, through=own_shm(16 * 1024))
    count, again, (kind, reason, _), (refused, _, _) = child.hear()
    assert 50 < count < 500  # what is left of the piece that the first message was put into
    assert again >= 90  # and what its own end gave back
    assert (kind, reason, refused) == ("GroupStoreFull", "filesystem", "SegmentRefused")
    child.end()


def dies_inside(layer):
    """Kill the process in the section."""
    layer.message_store._exclusively(os.kill, os.getpid(), signal.SIGKILL)


def repairs_without_room(talk, prefix):
    """A child: lose a process in the section when there is no room for even a semaphore."""
    layer = IPCChannelLayer(prefix)
    layer.send("a", {"n": 1})
    pid = os.fork()
    if not pid:
        dies_inside(layer)
    assert reap(pid) == -signal.SIGKILL
    fill_up()
    errors = []
    for _ in range(3):
        try:
            layer.receive(["a"])
        except SegmentError as error:
            errors.append(told(error))
    os.unlink(FILLER)
    talk.say(errors)
    deadline = time.monotonic() + LIMIT
    while time.monotonic() < deadline:
        channel, message = layer.receive(["a"])
        if channel:
            break
    talk.say(message)
    assert_sound(layer)


def test_a_repair_that_finds_no_room_is_made_when_there_is_some(prefix, start, own_shm):
    """Nothing is lost meanwhile, and the error says what is wrong."""
    child = start(repairs_without_room, prefix, through=own_shm(4 * 1024))
    errors = child.hear()
    assert len(errors) == 3
    for kind, _, text in errors:
        assert kind == "SegmentRefused"
        assert f"{prefix}-messages" in text
        assert "no room" in text
        assert "--shm-size" in text
    assert child.hear() == {"n": 1}
    child.end()
