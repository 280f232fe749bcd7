"""
A small or full ``/dev/shm`` causes an error, never a SIGBUS, and loses nothing.

Each child has its own ``/dev/shm``: a tmpfs in a mount namespace, where that is permitted.
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
    """Return a function from a size in KiB to the command that starts a process with such a ``/dev/shm``."""

    def through(kibibytes, options="mode=1777"):
        mount = f"mount -t tmpfs -o size={kibibytes}k,{options} tmpfs /dev/shm"
        return ["unshare", "--mount", "sh", "-c", f'{mount} && exec "$@"', "sh"]

    try:
        permitted = subprocess.run([*through(1024), "true"], capture_output=True, timeout=LIMIT).returncode == 0
    except FileNotFoundError:
        permitted = False
    if not permitted:
        pytest.skip("this user may not mount a file system")
    return through


def fill_up():
    """Use every free page of ``/dev/shm``."""
    fd = os.open(FILLER, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        while True:
            os.write(fd, bytes(4096))
    except OSError as error:
        assert error.errno == errno.ENOSPC
    finally:
        os.close(fd)


def describe(error):
    """Return the class name, the ``reason`` and the text of an error, as JSON values."""
    return [type(error).__name__, getattr(error, "reason", None), str(error)]


def fill_with_messages(talk, prefix):
    """Run in a child: for each of several sizes, fill the memory with messages of that size and drain it."""
    layer = IPCChannelLayer(prefix, capacity=10**9)  # the default sizes
    for size in (2000, 60_000, 300, 900_000, 2000):
        message = {"d": b"x" * size}
        count, full = until_full(lambda _, m=message: layer.send("a", m))
        received = drain(layer, "a")
        assert all(one == ("a", message) for one in received)
        talk.say([size, count, len(received), describe(full)])
    assert_sound(layer)


def test_messages_in_a_docker_sized_file_system(prefix, start, own_shm):
    """The segments are sparse: 100 MiB and 20 MiB fit into 16 MiB as long as they are not used."""
    child = start(fill_with_messages, prefix, through=own_shm(16 * 1024))
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


def fill_with_memberships(talk, prefix):
    """Run in a child: fill the memory with memberships and discard them, twice."""
    layer = IPCChannelLayer(prefix)
    for _ in range(2):
        count, full = until_full(lambda number: layer.group_add(f"group-{number % 50}", f"channel-{number}"))
        members = sum(len(layer.group_channels(f"group-{number}")) for number in range(50))
        talk.say([count, members, describe(full)])
        for number in range(count):
            layer.group_discard(f"group-{number % 50}", f"channel-{number}")
    assert_sound(layer)
    layer.group_add("g", "a")
    before = state(layer)
    layer.send_group("g", {"n": 1})  # no page is left for a message: the group store keeps the pages it has used
    assert state(layer) == before


def test_groups_in_a_small_file_system(prefix, start, own_shm):
    child = start(fill_with_memberships, prefix, through=own_shm(4 * 1024))
    (first, *first_rest), (second, *second_rest) = child.hear(), child.hear()
    child.end()
    assert first == second > 10_000
    for count, (members, (kind, reason, text)) in ((first, first_rest), (second, second_rest)):
        assert members == count
        assert (kind, reason) == ("GroupStoreFull", "filesystem")
        assert f"{prefix}-groups" in text
        assert "--shm-size" in text


def make_layer_without_room(talk, prefix):
    """Run in a child: fail to make a large layer, report the error and the files, then make a small one."""
    for memory in (100 << 20, 1 << 20):
        try:
            layer = IPCChannelLayer(prefix, message_memory=memory, group_memory=65536)
        except SegmentRefused as refusal:
            talk.say([describe(refusal), refusal.segment, os.listdir("/dev/shm")])
        else:
            layer.send("a", {})
            assert layer.receive(["a"]) == ("a", {})
            talk.say("made")


def test_a_file_system_too_small_for_a_new_segment(prefix, start, own_shm):
    child = start(make_layer_without_room, prefix, through=own_shm(400))
    (kind, _, text), name, left = child.hear()
    assert (kind, name) == ("SegmentRefused", f"{prefix}-messages")
    for part in ("/dev/shm has no room for its first", "enlarge it", "--shm-size"):
        assert part in text
    assert left == []
    assert child.hear() == "made"
    child.end()


def report_refusal(talk, prefix, user):
    """Run in a child: fail to make a layer as this user, and report the error."""
    os.setuid(user)
    try:
        IPCChannelLayer(prefix)
    except SegmentRefused as refusal:
        talk.say([str(refusal), refusal.segment, os.listdir("/dev/shm")])


@pytest.mark.parametrize(("option", "user"), [("ro", 0), ("mode=755", 61001)])
def test_a_directory_in_which_nothing_can_be_created(prefix, start, own_shm, option, user):
    child = start(report_refusal, prefix, user, through=own_shm(400, option))
    text, name, left = child.hear()
    assert name == f"{prefix}-messages"
    assert "this user may not create it" in text
    assert "/dev/shm must be writable" in text
    assert left == []
    child.end()


def use_layer_while_full(talk, prefix):
    """Run in a child: use a layer while another file takes every free page, and after its removal."""
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
        talk.say([count, again, describe(full), describe(refusal)])
    os.unlink(FILLER)
    layer.send("a", {"d": b"x" * 900_000})
    layer.group_add("g", "a")
    IPCChannelLayer(prefix + "2").send("a", {})
    assert_sound(layer)


def test_a_file_system_that_others_fill(prefix, start, own_shm):
    child = start(use_layer_while_full, prefix, through=own_shm(16 * 1024))
    count, again, (kind, reason, _), (refused, _, _) = child.hear()
    assert 50 < count < 500  # the rest of the piece of memory that was reserved for the first message
    assert again >= 90  # the space that the first message gave back
    assert (kind, reason, refused) == ("GroupStoreFull", "filesystem", "SegmentRefused")
    child.end()


def die_in_critical_section(layer):
    """Kill this process in the critical section."""
    layer.message_store.sections.exclusively(os.kill, os.getpid(), signal.SIGKILL)


def recover_without_room(talk, prefix):
    """Run in a child: recover after a process died in the critical section, with no room for a semaphore."""
    layer = IPCChannelLayer(prefix)
    layer.send("a", {"n": 1})
    pid = os.fork()
    if not pid:
        die_in_critical_section(layer)
    assert reap(pid) == -signal.SIGKILL
    fill_up()
    errors = []
    for _ in range(3):
        try:
            layer.receive(["a"])
        except SegmentError as error:
            errors.append(describe(error))
    os.unlink(FILLER)
    talk.say(errors)
    deadline = time.monotonic() + LIMIT
    while time.monotonic() < deadline:
        channel, message = layer.receive(["a"])
        if channel:
            break
    talk.say(message)
    assert_sound(layer)


def test_a_recovery_without_room_succeeds_when_there_is_room_again(prefix, start, own_shm):
    """No message is lost meanwhile, and the error says what is wrong."""
    child = start(recover_without_room, prefix, through=own_shm(4 * 1024))
    errors = child.hear()
    assert len(errors) == 3
    for kind, _, text in errors:
        assert kind == "SegmentRefused"
        assert f"{prefix}-messages" in text
        assert "no room" in text
        assert "--shm-size" in text
    assert child.hear() == {"n": 1}
    child.end()
