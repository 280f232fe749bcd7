"""Groups with thousands of members in several processes: which members get a message, which are skipped."""

from __future__ import annotations

import asyncio
import logging
import time
from types import SimpleNamespace

import pytest
from helpers.holders import holds
from helpers.processes import LIMIT
from helpers.waiting import assert_sound, never_poll, until, waiters

from asgi_ipc import AsyncIPCChannelLayer, IPCChannelLayer, SegmentBusy
from asgi_ipc.locking import turns
from asgi_ipc.shm.layout import AT_NAPS
from asgi_ipc.stores.messages.group_send import SEND_SLICE
from asgi_ipc.stores.messages.queues import Queues

PROCESSES, SOCKETS = 5, 1000
OPTIONS = {"message_memory": 16 << 20, "group_memory": 8 << 20}


@pytest.fixture
def script(prefix):
    """Return the layer of a script: synchronous, with the default capacity."""
    with IPCChannelLayer(prefix, **OPTIONS) as layer:
        yield layer


@pytest.fixture
def info(caplog):
    """Return a function that returns what the package has logged at level INFO."""
    caplog.set_level(logging.INFO, logger="asgi_ipc")
    return lambda: [record.getMessage() for record in caplog.records if record.levelno == logging.INFO]


def serves(talk, prefix, sockets, waits, options):
    """
    A child: a server with ``sockets`` channels in a group; with ``waits``, a task waits at each all the time.

    Report the channel names. Then read a count, receive that many messages on each channel and report them,
    until the count is 0.
    """

    async def main():
        layer = AsyncIPCChannelLayer(prefix, **options)
        names = [await layer.new_channel() for _ in range(sockets)]
        for name in names:
            await layer.group_add("g", name)
        tasks = {name: asyncio.create_task(layer.receive(name)) for name in names} if waits else {}
        await asyncio.sleep(0)
        talk.say(names)
        while True:
            count = await asyncio.to_thread(talk.hear)
            if not count:
                break
            got = {}
            for name in names:
                got[name] = []
                for _ in range(count):
                    got[name].append(await (tasks.pop(name, None) or layer.receive(name)))
            if waits:
                tasks = {name: asyncio.create_task(layer.receive(name)) for name in names}
                await asyncio.sleep(0)
            kinds = {repr(each) for each in got.values()}
            talk.say(got[names[0]] if len(kinds) == 1 else sorted(kinds))
        for task in tasks.values():
            task.cancel()
        await layer.close()

    asyncio.run(main())


def waits_for(talk, prefix, channels):
    """A child: block in ``receive``, without polling, and report the message."""
    never_poll()
    with IPCChannelLayer(prefix, **OPTIONS, block_timeout=LIMIT) as layer:
        layer.send("here", {})
        talk.say("ready")
        talk.say(layer.receive(channels, block=True)[1])
        talk.hear()


@pytest.mark.parametrize("waits", [True, False], ids=["waiting", "unread"])
def test_five_thousand_members_in_several_processes(script, prefix, start, info, waits):
    servers = [start(serves, prefix, SOCKETS, waits, OPTIONS) for _ in range(PROCESSES)]
    names = [server.hear() for server in servers]
    members = {name for each in names for name in each}
    assert len(members) == PROCESSES * SOCKETS
    assert set(script.group_channels("g")) == members

    for number in range(3):
        script.send_group("g", {"n": number})
    for server in servers:
        server.say(3)
    for server in servers:
        assert server.hear() == [{"n": 0}, {"n": 1}, {"n": 2}]
    assert info() == []

    # One process dies: its members are gone at once, and no other process loses a message.
    servers[2].die()
    alive = members - set(names[2])
    script.send_group("g", {"n": 3})
    assert set(script.group_channels("g")) == alive
    for server in (*servers[:2], *servers[3:]):
        server.say(1)
    for server in (*servers[:2], *servers[3:]):
        assert server.hear() == [{"n": 3}]
    assert script.global_statistics()["messages_pending"] == 0
    # Its waiters are unregistered by the sweeps that operations do, slice by slice.
    until(lambda: script.receive(["nothing"]) == (None, None) and all(waiters(script, name) == 0 for name in names[2]))

    for server in (*servers[:2], *servers[3:]):
        server.say(0)
    for server in (*servers[:2], *servers[3:]):
        server.end()
    assert script.group_channels("g") == []
    assert_sound(script)


def test_async_group_send_reaches_every_member_of_the_sync_front_end(prefix, script, start):
    mine = [f"script!{number}" for number in range(SOCKETS)]
    for name in mine:
        script.group_add("g", name)

    async def main():
        # The channels of the inbox count together, and the capacity is that of the sender.
        async with AsyncIPCChannelLayer(prefix, capacity=SOCKETS, **OPTIONS) as layer:
            await layer.group_send("g", {"n": 1})

    asyncio.run(main())
    got = [script.receive(["script!"]) for _ in range(SOCKETS)]
    assert sorted(name for name, _ in got) == sorted(mine)
    assert all(message == {"n": 1} for _, message in got)
    assert script.receive(["script!"]) == (None, None)


# -- capacity ------------------------------------------------------------------------------------------------


def test_script_reaches_a_thousand_sockets_of_one_process(script, prefix, start, info):
    """With the default capacity of 100: channels whose names the server has made count one by one."""
    server = start(serves, prefix, SOCKETS, False, OPTIONS)
    server.hear()
    for number in range(100):
        script.send_group("g", {"n": number})
    assert info() == []
    script.send_group("g", {"n": 100})
    assert info() == [f"{SOCKETS} of {SOCKETS} channels over capacity in group g"]
    server.say(100)
    assert server.hear() == [{"n": number} for number in range(100)]
    server.say(0)
    server.end()


def test_full_members_cost_the_other_members_no_message(script, prefix, start, info):
    """The full members are skipped and counted; the others get every message."""

    async def main():
        async with AsyncIPCChannelLayer(prefix, **OPTIONS) as layer:
            names = [await layer.new_channel() for _ in range(300)]
            slow = names[::10]
            for name in names:
                await layer.group_add("g", name)
            for name in slow:
                for number in range(100):
                    await layer.send(name, {"early": number})
            script.send_group("g", {"n": 1})
            await layer.group_send("g", {"n": 2})
            for name in names:
                if name not in slow:
                    assert [await layer.receive(name) for _ in range(2)] == [{"n": 1}, {"n": 2}]
            for name in slow:
                assert [await layer.receive(name) for _ in range(100)] == [{"early": number} for number in range(100)]
            script.send_group("g", {"n": 3})
            for name in names:
                assert await layer.receive(name) == {"n": 3}

    asyncio.run(main())
    # Both layers have sent, and each logs its own sends.
    assert info() == ["30 of 300 channels over capacity in group g"] * 2


# -- members of dead processes -------------------------------------------------------------------------------


def joins(talk, prefix, front_end):
    """A child: add its channels to groups, and send messages to them that it does not read."""

    async def names_of(layer):
        return [await layer.new_channel() for _ in range(3)]

    if front_end == "async":
        layer = AsyncIPCChannelLayer(prefix, **OPTIONS)
        names = asyncio.run(names_of(layer))
        layer = layer._layer
    else:
        layer = IPCChannelLayer(prefix, **OPTIONS)
        names = [f"sync.{number}!x" for number in range(3)]
        layer.receive([f"sync.{number}!" for number in range(3)])
    for name in names:
        layer.group_add("g", name)
        layer.group_add("h", name)
        layer.send(name, {"unread": True})
    layer.group_add("g", "plain")
    talk.say(names)
    talk.hear()


@pytest.mark.parametrize("front_end", ["sync", "async"])
def test_members_of_a_killed_process_are_gone_at_once(script, prefix, start, front_end):
    child = start(joins, prefix, front_end)
    names = child.hear()
    script.group_add("g", "mine")
    assert script.group_channels("g") == [*names, "plain", "mine"]
    child.die()
    assert script.group_channels("g") == ["plain", "mine"], "a plain channel has no owner"
    script.send_group("h", {"n": 1})
    assert script.group_channels("h") == []
    assert asyncio.run(AsyncIPCChannelLayer(prefix, **OPTIONS).group_channels("g")) == ["plain", "mine"]
    for name in names:
        script.send(name, {"n": 2})  # a send to the inbox of a dead process drops its unread messages
        assert script.channel_statistics(name)["messages_pending"] == 1
    assert_sound(script)


def test_members_of_a_process_that_exits_are_gone_too(script, prefix, start):
    child = start(joins, prefix, "async")
    child.hear()
    child.say()
    child.end()
    assert script.group_channels("g") == ["plain"]


def test_members_of_a_shared_inbox_stay_when_one_receiver_dies(script, prefix, start):
    child = start(joins, prefix, "sync")
    names = child.hear()
    assert script.receive(["sync.0!"])[1] == {"unread": True}
    child.die()
    assert script.group_channels("g") == [names[0], "plain"]


def test_members_reached_before_an_error_ended_a_group_send_are_notified(script, start, prefix, monkeypatch):
    names = [f"c{number}" for number in range(2 * SEND_SLICE)]
    child = start(waits_for, prefix, names[:3])
    assert child.hear() == "ready"
    until(lambda: waiters(script, names[0]) == 1)
    for name in names:
        script.group_add("g", name)
    run, slices = script.message_store.sections.run, []

    def fail_second_slice(section, *args):
        slices.append(section is Queues.enqueue_each)
        if sum(slices) > 1:
            raise SegmentBusy("raised by the test", 1, 1.0)
        return run(section, *args)

    monkeypatch.setattr(script.message_store.sections, "run", fail_second_slice)
    with pytest.raises(SegmentBusy):
        script.send_group("g", {"n": 1})
    assert child.hear() == {"n": 1}


def test_a_process_that_waits_for_the_mutex_counts_its_naps(script, start, prefix):
    words = script.message_store.sections.bound[0].words
    holder = start(holds, prefix, "message_store")
    holder.hear()
    before = words[AT_NAPS]
    child = start(waits_for, prefix, ["a"])
    until(lambda: words[AT_NAPS] > before)
    holder.say("leave")
    assert child.hear() == "ready"


def test_a_long_group_send_yields_once_to_processes_that_wait_for_the_mutex(script, monkeypatch):
    for number in range(4 * SEND_SLICE):
        script.group_add("g", f"c{number}")
    held, naps = script.message_store.sections.bound[0], []
    monkeypatch.setattr(turns, "time", SimpleNamespace(monotonic=time.monotonic, sleep=naps.append))
    script.send_group("g", {})
    assert naps == []  # no process waits for the mutex
    held.words[AT_NAPS] += 1  # as another process does
    script.send_group("g", {})
    assert naps == [turns.FIRST_NAP]
    held.words[AT_NAPS] += 1
    held.turns.naps += 1  # as this process does itself
    script.send_group("g", {})
    assert len(naps) == 1
