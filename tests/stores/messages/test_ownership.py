"""
When the process that owns ``prefix!`` dies, the next use drops its unread messages and its memberships.

The death must be proven: a shared inbox, and one whose owner is unknown or only stopped, keep everything.

"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import time

import pytest
from helpers.layers import assert_sound, drain
from helpers.processes import LIMIT, reap
from helpers.segments import raise_in_critical_sections
from helpers.waiting import OPTIONS, until

from asgi_ipc import AsyncIPCChannelLayer, ChannelFull, IPCChannelLayer
from asgi_ipc.locking.liveness import ALIVE_FOR, OwnedInbox
from asgi_ipc.shm.layout import AT_SLOTS, SLOT_WORDS
from asgi_ipc.stores.base import LONG_AGO
from asgi_ipc.stores.messages.ownership import MAX_OWNED
from asgi_ipc.structures.slab import TAG


def owns(talk, prefix, inbox):
    """A child: receive from an inbox whenever told to and report the result, or close the layer."""
    layer = IPCChannelLayer(prefix, **OPTIONS)
    while True:
        talk.say(layer.receive([inbox]))
        if talk.hear() == "close":
            layer.close()
            talk.say("closed")
            talk.hear()


def consumes(talk, prefix, groups):
    """A child like a server of Channels 4: make a channel name, add it to groups, and wait for messages."""

    async def main():
        layer = AsyncIPCChannelLayer(prefix, **OPTIONS)
        name = await layer.new_channel()
        for group in groups:
            await layer.group_add(group, name)
        talk.say(name)
        while True:
            talk.say(await layer.receive(name))

    asyncio.run(main())


@pytest.fixture
def owner(start, prefix):
    """Return a process that has received from the inbox ``p!`` and so owns it."""
    child = start(owns, prefix, "p!")
    assert child.hear() == [None, None]
    return child


def die(child):
    """Kill a process, and wait until no result of an earlier liveness check is still used."""
    child.die()
    time.sleep(2 * ALIVE_FOR / 1e9)


def pending(layer):
    """Return the number of messages by channel."""
    return {channel: len(bodies) for channel, bodies in layer.message_store.snapshot().items()}


# -- messages ------------------------------------------------------------------------------------------------


def test_a_receive_drops_the_unread_messages_of_a_dead_owner(layer, owner):
    for channel in ("p!1", "p!2", "p!1", "plain"):
        layer.send(channel, {})
    die(owner)
    assert layer.receive(["p!"]) == (None, None)
    assert pending(layer) == {"plain": 1}
    assert_sound(layer)


def test_a_send_drops_the_unread_messages_of_a_dead_owner(make_layer, owner):
    """The inbox was full. Messages that are sent from then on are for the next receiver."""
    layer = make_layer(capacity=3)
    for number in range(3):
        layer.send("p!1", {"n": number})
    with pytest.raises(ChannelFull):
        layer.send("p!2", {})
    die(owner)
    for number in range(3):
        layer.send("p!2", {"late": number})
    assert drain(layer, "p!") == [("p!2", {"late": number}) for number in range(3)]
    assert_sound(layer)


def test_a_message_for_the_empty_inbox_of_a_dead_owner_is_for_the_next_receiver(layer, owner):
    die(owner)
    layer.send("p!1", {"n": 1})
    assert layer.receive(["p!"]) == ("p!1", {"n": 1})


def test_a_group_send_drops_the_unread_messages_of_a_dead_owner(layer, owner):
    for number in range(300):  # more than one critical section drops
        layer.message_store.append(f"p!{number % 20}", 10**6, b"x")
    layer.group_store.add("g", "p!new")  # a membership without an owner
    die(owner)
    layer.send_group("g", {})
    assert pending(layer) == {"p!new": 1}
    assert_sound(layer)


def test_more_unread_messages_are_dropped_than_one_critical_section_drops(layer, owner):
    for number in range(1000):
        layer.message_store.append(f"p!{number % 20}", 10**6, b"x")
    die(owner)
    assert layer.receive(["p!"]) == (None, None)
    assert pending(layer) == {}
    assert_sound(layer)


def test_a_live_owner_shares_its_messages_with_other_receivers(layer, owner):
    for number in range(2):
        layer.send("p!1", {"n": number})
    assert layer.receive(["p!"]) == ("p!1", {"n": 0})
    owner.say()
    assert owner.hear() == ["p!1", {"n": 1}]


@pytest.mark.parametrize("dies", ["owner", "other", "both"])
def test_an_inbox_from_which_two_processes_have_received_keeps_everything(layer, start, prefix, owner, dies):
    """As when a script has received from the inbox of a server."""
    layer.group_add("g", "p!1")
    other = start(owns, prefix, "p!")
    assert other.hear() == [None, None]
    layer.group_add("h", "p!1")
    layer.send("p!1", {"n": 1})
    for child in {"owner": [owner], "other": [other], "both": [owner, other]}[dies]:
        die(child)
    layer.send("p!2", {"n": 2})
    assert layer.group_channels("g") == layer.group_channels("h") == ["p!1"]
    assert len(drain(layer, "p!")) == 2


def test_an_inbox_without_a_known_owner_keeps_everything(layer, start, prefix):
    """No process has received from the inbox; a process that used another inbox is dead."""
    child = start(owns, prefix, "other!")
    child.hear()
    layer.send("p!1", {"n": 1})
    layer.group_add("g", "p!1")
    layer.group_add("g", "plain")
    die(child)
    assert layer.group_channels("g") == ["p!1", "plain"]
    assert layer.receive(["p!"]) == ("p!1", {"n": 1})


def test_a_stopped_owner_is_alive(layer, owner):
    layer.group_add("g", "p!1")
    os.kill(owner.pid, signal.SIGSTOP)
    layer.send("p!1", {"n": 1})
    time.sleep(2 * ALIVE_FOR / 1e9)
    layer.send("p!1", {"n": 2})
    assert layer.group_channels("g") == ["p!1"]
    assert pending(layer) == {"p!1": 2}
    os.kill(owner.pid, signal.SIGCONT)
    owner.say()
    assert owner.hear() == ["p!1", {"n": 1}]


def test_an_owner_that_closes_its_layer_no_longer_owns_its_inbox(layer, owner):
    layer.send("p!1", {"n": 1})
    layer.group_add("g", "p!1")
    owner.say("close")
    assert owner.hear() == "closed"
    assert layer.group_channels("g") == []
    assert layer.receive(["p!"]) == (None, None)


def test_a_zombie_is_dead(layer, prefix):
    """The process was killed, but its parent has not waited for it."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if not pid:
        IPCChannelLayer(prefix, **OPTIONS).receive(["p!"])
        os.write(write_end, b"!")
        signal.pause()
    os.read(read_end, 1)
    layer.send("p!1", {})
    layer.group_add("g", "p!1")
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert layer.group_channels("g") == []
    assert layer.receive(["p!"]) == (None, None)
    assert reap(pid) == -signal.SIGKILL


def test_another_process_in_the_slot_of_a_dead_owner_is_not_taken_for_it(layer, start, prefix, owner):
    layer.send("p!1", {})
    layer.group_add("g", "p!1")
    words = layer.message_store.sections.bound[0].words
    counters = AT_SLOTS + 1
    counts = words[counters : counters + 2 * SLOT_WORDS : SLOT_WORDS].tolist()
    die(owner)
    successor = start(owns, prefix, "successor!")
    assert successor.hear() == [None, None]
    assert words[counters : counters + 2 * SLOT_WORDS : SLOT_WORDS].tolist() == [counts[0], counts[1] + 1]
    assert layer.group_channels("g") == []
    assert layer.receive(["p!"]) == (None, None)


def test_a_restarted_process_gets_no_message_for_the_dead_one(layer, start, prefix, owner):
    layer.send("p!1", {"to": "the dead process"})
    die(owner)
    successor = start(owns, prefix, "p!")
    assert successor.hear() == [None, None]
    layer.send("p!1", {"to": "its successor"})
    successor.say()
    assert successor.hear() == ["p!1", {"to": "its successor"}]


def test_a_forked_child_does_not_count_as_its_parent(layer, prefix):
    """The parent owns the inbox and dies; the child lives, but has received nothing from the inbox."""
    read_end, write_end = os.pipe()
    parent = os.fork()
    if not parent:
        mine = IPCChannelLayer(prefix, **OPTIONS)
        mine.receive(["p!"])
        child = os.fork()
        if not child:
            mine.send("plain", {})  # acquires a slot for the child
            os.write(write_end, b"%d " % os.getpid())
        signal.pause()
    child = int(os.read(read_end, 20))
    try:
        layer.group_add("g", "p!1")
        layer.send("p!1", {})
        assert layer.group_channels("g") == ["p!1"]
        os.kill(parent, signal.SIGKILL)
        assert reap(parent) == -signal.SIGKILL
        assert layer.group_channels("g") == []
        assert layer.receive(["p!"]) == (None, None)
    finally:
        os.kill(child, signal.SIGKILL)


def receive_as_script(layer, channel):
    """Receive from an inbox through the synchronous layer; return what came."""
    return layer.receive([channel[: channel.index("!") + 1]])[1]


def receive_as_consumer(layer, channel):
    """Receive from a full name through the asynchronous layer of the same process; return what came."""

    async def receive():
        with contextlib.suppress(asyncio.TimeoutError):
            return await asyncio.wait_for(layer.receive(channel), 0.01)

    return asyncio.run(receive())


@pytest.mark.parametrize(
    ("kind", "receive"), [(IPCChannelLayer, receive_as_script), (AsyncIPCChannelLayer, receive_as_consumer)]
)
def test_an_inbox_that_a_forked_child_receives_from_is_shared(layer, prefix, kind, receive):
    """The parent owns the inbox. Nothing is dropped when it ends, as the child receives from it, too."""
    read_end, write_end = os.pipe()
    parent = os.fork()
    if not parent:
        mine = kind(prefix, **OPTIONS)
        receive(mine, "p!1")
        child = os.fork()
        if not child:
            receive(mine, "p!1")
            os.write(write_end, b"%d " % os.getpid())
            while (message := receive(mine, "p!1")) is None:
                time.sleep(0.001)
            os.write(write_end, b"%d " % message["n"])
        signal.pause()
    child = int(os.read(read_end, 20))
    try:
        layer.group_add("g", "p!1")
        os.kill(parent, signal.SIGKILL)
        assert reap(parent) == -signal.SIGKILL
        assert layer.group_channels("g") == ["p!1"]
        layer.send("p!1", {"n": 7})
        assert select.select([read_end], [], [], LIMIT)[0]
        assert int(os.read(read_end, 20)) == 7
    finally:
        os.kill(child, signal.SIGKILL)
        os.close(read_end)
        os.close(write_end)


def test_a_recovery_keeps_the_owner_of_an_inbox(layer, owner):
    layer.send("p!1", {})
    layer.group_add("g", "p!1")
    raise_in_critical_sections(layer)
    assert layer.group_channels("g") == ["p!1"]
    die(owner)
    assert layer.group_channels("g") == []
    assert layer.receive(["p!"]) == (None, None)


def test_remembered_names_of_an_inbox_are_not_used_after_a_recovery(layer):
    words, channels = layer.message_store.sections.bound[0].words, layer.message_store.sections.parts.queues.channels
    for recovered in (False, True):
        layer.send("p!a", {"to": "p!a"})
        layer.send("p!b", {"to": "p!b"})
        if recovered:
            a, b = channels.find("p!a") + TAG, channels.find("p!b") + TAG
            words[a], words[b] = words[b], words[a]
            raise_in_critical_sections(layer)
        for channel, message in (layer.receive(["p!"]), layer.receive(["p!"])):
            assert message == {"to": channel}


def test_an_owner_owns_its_inbox_again_after_a_flush(layer, owner):
    layer.flush()
    layer.send("p!1", {})
    layer.group_add("g", "p!1")  # the inbox has no known owner now
    owner.say()
    owner.hear()
    layer.send("p!1", {})
    layer.group_add("h", "p!1")
    die(owner)
    assert layer.group_channels("h") == []
    assert layer.receive(["p!"]) == (None, None)


def test_inboxes_that_a_process_uses_once_do_not_fill_the_memory(make_layer):
    """The record of an inbox is kept as long as its owner lives, so a process disowns its oldest inboxes."""
    layer = make_layer(message_memory=65536)
    for number in range(5000):
        layer.send(f"p{number}!x", {"n": number})
        assert layer.receive([f"p{number}!"]) == (f"p{number}!x", {"n": number})
    assert_sound(layer)


def test_an_inbox_with_unread_messages_is_not_disowned(layer, start, prefix):
    child = start(owns_many, prefix, 3 * MAX_OWNED)
    child.hear()
    layer.send("p0!x", {})
    child.say()
    child.hear()
    layer.group_add("g", "p0!x")
    die(child)
    assert layer.group_channels("g") == []
    assert layer.receive(["p0!"]) == (None, None)


def owns_many(talk, prefix, count):
    """A child: receive from one inbox and, when told to, from many others."""
    layer = IPCChannelLayer(prefix, **OPTIONS)
    layer.receive(["p0!"])
    talk.say("one")
    talk.hear()
    for number in range(1, count):
        layer.receive([f"p{number}!"])
    talk.say("many")
    talk.hear()


# -- groups --------------------------------------------------------------------------------------------------


def test_channels_of_a_dead_server_leave_their_groups_at_once(make_layer, start, prefix):
    layer = make_layer()
    servers = [start(consumes, prefix, ["g", "h"]) for _ in range(3)]
    names = [server.hear() for server in servers]
    layer.group_add("g", "plain")
    assert sorted(layer.group_channels("g")) == sorted([*names, "plain"])
    servers[0].die()
    assert sorted(layer.group_channels("g")) == sorted([*names[1:], "plain"])
    layer.send_group("h", {"n": 1})
    assert [server.hear() for server in servers[1:]] == [{"n": 1}] * 2
    assert pending(layer) == {}
    servers[1].die()
    layer.send_group("g", {"n": 2})  # here, too
    assert servers[2].hear() == {"n": 2}
    assert pending(layer) == {"plain": 1}
    servers[2].die()
    assert layer.group_channels("g") == ["plain"]
    assert layer.group_channels("h") == []
    assert_sound(layer)


def test_a_membership_that_another_process_added_ends_with_the_owner(layer, owner):
    for group in ("g", "h"):
        layer.group_add(group, "p!1")
        layer.group_add(group, "q!1")
    owner.die()
    assert layer.group_channels("g") == ["q!1"]
    layer.group_add("h", "p!1")  # the member is still stored, and its owner is known to be dead
    layer.send_group("h", {})
    assert pending(layer) == {"q!1": 1}


def test_a_membership_from_before_the_owner_was_known_stays_until_it_is_renewed(layer, start, prefix):
    layer.group_add("g", "p!1")
    layer.group_add("h", "p!1")
    child = start(owns, prefix, "p!")
    child.hear()
    layer.group_add("h", "p!1")
    child.die()
    assert layer.group_channels("g") == ["p!1"]
    assert layer.group_channels("h") == []


def test_members_of_dead_processes_make_room_for_others(make_layer, start, prefix):
    """No operation uses their groups: the sweep that a full memory causes removes them."""
    layer = make_layer(group_memory=65536)
    child = start(owns, prefix, "p!")
    child.hear()
    count = 0
    try:
        while True:
            layer.group_add(f"g{count % 50}", f"p!{count}")
            count += 1
    except ChannelFull:
        pass
    child.die()
    until(lambda: adds(layer, "fresh", "f" * 90))
    for number in range(count // 2):
        layer.group_add("fresh", f"q!{number}")
    assert_sound(layer)


def adds(layer, group, channel):
    """Add a member; return False if there is no memory (everything is swept at most once a second)."""
    try:
        layer.group_add(group, channel)
    except ChannelFull:
        return False
    return True


def test_owners_in_a_message_segment_that_was_replaced_count_as_alive(layer, start, prefix, caplog):
    """The groups have stayed, but their owners' slots are unused by now, or belong to other processes."""
    child = start(owns, prefix, "p!")
    child.hear()
    layer.group_add("g", "p!1")
    layer.message_store.unlink()
    layer.send("plain", {})
    assert layer.group_channels("g") == ["p!1"]
    child.die()
    assert layer.group_channels("g") == ["p!1"]
    successor = start(owns, prefix, "p!")
    successor.hear()
    layer.group_add("g", "p!1")
    assert layer.group_channels("g") == ["p!1"]
    successor.die()
    assert layer.group_channels("g") == []


# -- capacity ------------------------------------------------------------------------------------------------


def test_channels_of_an_inbox_count_together_until_names_are_made_in_it(make_layer, make_async):
    layer, other = make_layer(capacity=2), make_async()
    for number in range(2):
        layer.send(f"p!{number}", {})
    with pytest.raises(ChannelFull):
        layer.send("p!2", {})
    name = asyncio.run(other.new_channel())
    inbox = name.partition("!")[0] + "!"
    for number in range(5):
        for _ in range(2):
            layer.send(f"{inbox}{number}", {})
        with pytest.raises(ChannelFull):
            layer.send(f"{inbox}{number}", {})
    assert_sound(layer)


# -- a new message segment ------------------------------------------------------------------------------------


def test_the_dead_of_a_removed_segment_are_not_taken_for_the_living_of_the_next(layer):
    """The segment is replaced after its dead owners were found. Numbers of processes begin again in the new one."""
    store = layer.message_store
    layer.receive(["p!"])
    before = store.owner_of("p!a")
    layer.unlink()
    layer.receive(["p!"])
    after = store.owner_of("p!a")
    assert after.process == before.process  # another process had that number in the old segment
    assert after.nonce != before.nonce
    assert store.unshared_inboxes({OwnedInbox("p!", before), OwnedInbox("q!", before)}) == set()
    assert store.unshared_inboxes({OwnedInbox("p!", after)}) == {OwnedInbox("p!", after)}


def test_an_owner_belongs_to_the_segment_in_which_it_was_found(layer, make_layer, prefix):
    """The question itself detects that the segment was replaced."""
    layer.receive(["p!"])
    os.unlink(f"/dev/shm/{prefix}-messages")
    other = make_layer()
    other.receive(["p!"])
    layer.message_store.sections.check_due = LONG_AGO
    found = layer.message_store.owner_of("p!a")
    assert found.process
    assert found == other.message_store.owner_of("p!a")
