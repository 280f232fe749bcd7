"""
Events during a receive in an event loop.

The layer is closed or garbage-collected, its segment is removed or flushed, or other processes are killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os

import pytest
from helpers import holders
from helpers.waiting import (
    OPTIONS,
    assert_sound,
    ended,
    fifos,
    files_of,
    never_poll,
    store_of,
    until,
    until_async,
    until_waiting,
    waiters,
    within,
)

from asgi_ipc import AsyncIPCChannelLayer, IPCChannelLayer, SegmentRefused
from asgi_ipc.shm import wakeup_fifo
from asgi_ipc.shm.wakeup_fifo import Notifier

ROUNDS = 1000


@pytest.fixture
def without_polling(monkeypatch):
    never_poll(monkeypatch.setattr)


def open_files():
    return len(os.listdir("/proc/self/fd"))


def watched():
    """Return the number of descriptors that the event loops of this process watch."""
    found = 0
    for fd in os.listdir("/proc/self/fdinfo"):
        with contextlib.suppress(OSError), open(f"/proc/self/fdinfo/{fd}") as info:
            found += sum(line.startswith("tfd:") for line in info)
    return found


# -- closed --------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("without_polling")
def test_close_ends_every_receive_with_an_error(make_async, prefix):
    layer = make_async()

    async def main():
        tasks = [asyncio.create_task(layer.receive(name)) for name in ("a", "a", "b", "specific.process!x")]
        await until_waiting(layer, "a", 2)
        await layer.close()
        for task in tasks:
            with pytest.raises(RuntimeError, match=f"{prefix}-messages: this layer was closed; create a new one"):
                await within(task)
        assert files_of(prefix) == []

    asyncio.run(main())


@pytest.mark.usefixtures("without_polling")
def test_close_in_another_thread_ends_every_receive_with_an_error(make_layer):
    layer = make_layer()

    async def main():
        task = asyncio.create_task(layer.receive_async(["a", "b"]))
        await until_waiting(layer, "a", 1)
        await asyncio.to_thread(layer.close)
        with pytest.raises(RuntimeError, match="this layer was closed"):
            await within(task)

    asyncio.run(main())


def test_every_call_on_a_closed_layer_raises(make_async, prefix):
    layer = make_async()

    async def main():
        name = await layer.new_channel()
        await layer.close()
        await layer.close()
        for call in (
            layer.send("a", {}),
            layer.receive("a"),
            layer.new_channel(),
            layer.group_add("g", name),
            layer.group_discard("g", name),
            layer.group_channels("g"),
            layer.group_send("g", {}),
            layer.flush(),
            layer.unlink(),
        ):
            with pytest.raises(RuntimeError, match=f"{prefix}-(messages|groups): this layer was closed"):
                await call

    asyncio.run(main())


def test_layer_is_closed_by_leaving_its_block(prefix, make_async):
    make_async()  # keeps the segments to the end of the test

    async def main():
        async with AsyncIPCChannelLayer(prefix, **OPTIONS) as layer:
            await layer.send("a", {"n": 1})
        with pytest.raises(RuntimeError, match="closed"):
            await layer.receive("a")

    asyncio.run(main())


# -- garbage-collected ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("close", [False, True], ids=["collected", "closed"])
def test_layers_leave_no_fifo_and_no_descriptor(make_layer, prefix, close):
    """A thousand layers in one event loop, each with a receive that had to wait."""
    other = make_layer()

    async def use(number):
        layer = AsyncIPCChannelLayer(prefix, **OPTIONS)
        task = asyncio.create_task(layer.receive("a"))
        await asyncio.sleep(0)
        if number % 2:
            other.send("a", {"n": number})
            assert await within(task) == {"n": number}
        else:
            assert await ended(task)
        if close:
            await layer.close()

    async def main():
        await use(0)
        gc.collect()
        await asyncio.sleep(0)
        before = open_files(), watched()
        for number in range(ROUNDS):
            await use(number)
        gc.collect()
        await until_async(lambda: files_of(prefix) == [])
        assert open_files() <= before[0] + wakeup_fifo.OPEN_FIFOS + 2
        await until_async(lambda: watched() <= before[1])

    asyncio.run(main())
    assert waiters(other, "a") == 0
    assert_sound(other)
    # Every use of the layer sweeps some records of FIFOs without owners.
    until(lambda: other.receive(["a"]) == (None, None) and fifos(other) <= 1)
    assert_sound(other)


def test_layers_of_many_loops_leave_no_fifo_and_no_descriptor(make_layer, prefix):
    other = make_layer()

    def use():
        layer = AsyncIPCChannelLayer(prefix, **OPTIONS)

        async def main():
            task = asyncio.create_task(layer.receive("a"))
            await asyncio.sleep(0)
            other.send("a", {})
            await within(task)

        asyncio.run(main())

    use()
    gc.collect()
    before = open_files()
    for _ in range(200):
        use()
    gc.collect()
    assert files_of(prefix) == []
    assert open_files() <= before + wakeup_fifo.OPEN_FIFOS + 2
    assert_sound(other)


# -- the segment is removed or emptied -----------------------------------------------------------------------


def remove_files(prefix):
    for kind in ("messages", "groups"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"/dev/shm/{prefix}-{kind}")


def unlink(prefix):
    with IPCChannelLayer(prefix, **OPTIONS) as layer:
        layer.unlink()


def flush(prefix):
    with IPCChannelLayer(prefix, **OPTIONS) as layer:
        layer.flush()


def call_in_child(talk, name, prefix):
    globals()[name](prefix)


@pytest.mark.parametrize("action", [remove_files, unlink, flush])
@pytest.mark.parametrize("actor", ["thread", "process"])
def test_waiters_continue_when_the_segment_is_removed_or_flushed(make_async, prefix, start, monkeypatch, action, actor):
    """``unlink`` and ``flush`` notify the waiters; a removal of the files is noticed at the next poll."""
    if action is not remove_files:
        never_poll(monkeypatch.setattr)
    layer = make_async()

    async def main():
        sender = make_async()
        tasks = {number: asyncio.create_task(layer.receive(f"a{number}")) for number in range(20)}
        await until_waiting(layer, "a19", 1)
        for number in range(2):
            if actor == "thread":
                await asyncio.to_thread(action, prefix)
            else:
                child = start(call_in_child, action.__name__, prefix)
                await asyncio.to_thread(child.end)
            if action is remove_files:  # waiters are not notified, but they also poll once a second
                await until_async(lambda: os.path.exists(f"/dev/shm/{prefix}-messages"))
                sender = make_async()  # the previous one might not have polled yet
            await sender.send(f"a{number}", {"n": number})
            assert await within(tasks.pop(number)) == {"n": number}
            assert waiters(sender, f"a{number}") == 0
        await until_waiting(sender, "a19", 1)
        for number, task in tasks.items():
            await sender.send(f"a{number}", {"n": number})
            assert await within(task) == {"n": number}
        assert_sound(layer)

    asyncio.run(main())


@pytest.mark.usefixtures("without_polling")
def test_waiters_register_again_when_a_later_waiter_notices_the_flush(make_async, make_layer):
    """It registers before the others notice the flush, on the same FIFO; they are no longer registered."""
    layer, other = make_async(), make_layer()

    async def main():
        for _ in range(10):
            tasks = [asyncio.create_task(layer.receive("a")) for _ in range(3)]
            await until_waiting(layer, "a", 3)
            other.flush()
            late = asyncio.create_task(layer.receive("b"))
            await until_waiting(layer, "a", 3)
            for channel in "aaab":
                other.send(channel, {"to": channel})
            assert await within(asyncio.gather(*tasks, late)) == [{"to": channel} for channel in "aaab"]

    asyncio.run(main())


def test_flush_removes_messages_and_members(make_async):
    layer = make_async()

    async def main():
        await layer.send("a", {"n": 1})
        await layer.group_add("g", "a")
        await layer.flush()
        assert await layer.group_channels("g") == []
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(layer.receive("a"), 0.01)

    asyncio.run(main())


def test_a_removed_fifo_is_replaced(make_async, prefix, monkeypatch):
    """It was removed from ``/dev/shm`` by hand; a message sent meanwhile still arrives."""
    layer = make_async()

    async def main():
        tasks = [asyncio.create_task(layer.receive("a")) for _ in range(3)]
        await until_waiting(layer, "a", 3)
        [fifo] = files_of(prefix)
        os.unlink(f"/dev/shm/{prefix}-messages.wakeup/{fifo}")
        Notifier.close(store_of(layer).sections.attachment.notifier)
        await layer.send("a", {"n": 1})
        done, _ = await asyncio.wait(tasks, timeout=60, return_when=asyncio.FIRST_COMPLETED)
        assert [task.result() for task in done] == [{"n": 1}]
        await until_async(lambda: files_of(prefix) not in ([fifo], []))
        await until_waiting(layer, "a", 2)
        never_poll(monkeypatch.setattr)
        for _ in range(2):
            await layer.send("a", {"n": 2})
        left = [task for task in tasks if task not in done]
        assert await within(asyncio.gather(*left)) == [{"n": 2}] * 2

    asyncio.run(main())


# -- others die ----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("without_polling")
def test_waiters_continue_when_a_holder_of_the_mutex_is_killed(make_async, prefix, start):
    """The recovery discards all registrations and notifies all waiters."""
    layer = make_async()

    async def main():
        tasks = [asyncio.create_task(layer.receive("a")) for _ in range(5)]
        await until_waiting(layer, "a", 5)
        for number in range(5):
            holder = start(holders.holds, prefix, "message_store")
            await asyncio.to_thread(holder.hear)
            await asyncio.to_thread(holder.die)
            await layer.send("a", {"n": number})
            done, _ = await asyncio.wait(tasks, timeout=60, return_when=asyncio.FIRST_COMPLETED)
            assert [task.result() for task in done] == [{"n": number}]
            tasks = [task for task in tasks if task not in done]
            await until_waiting(layer, "a", len(tasks))
        assert_sound(layer)

    asyncio.run(main())


def send_and_die(talk, prefix):
    """Run in a child: kill it between the commit of its message and the notification."""
    Notifier.notify = lambda *_: os.kill(os.getpid(), 9)
    IPCChannelLayer(prefix, **OPTIONS).send("a", {"n": 1})


def send_without_notifying(talk, prefix):
    """Run in a child: send a message without notifying the waiters."""
    Notifier.notify = lambda *_: True
    with IPCChannelLayer(prefix, **OPTIONS) as layer:
        layer.send("a", {"n": 1})


@pytest.mark.parametrize("sends", [send_and_die, send_without_notifying])
@pytest.mark.parametrize("count", [1, 3])
def test_a_message_without_notification_arrives(make_async, prefix, start, sends, count):
    layer = make_async()

    async def main():
        tasks = [asyncio.create_task(layer.receive("a")) for _ in range(count)]
        await until_waiting(layer, "a", count)
        child = start(sends, prefix)
        await asyncio.to_thread(child._wait)
        done, _ = await asyncio.wait(tasks, timeout=60, return_when=asyncio.FIRST_COMPLETED)
        assert [task.result() for task in done] == [{"n": 1}]

    asyncio.run(main())


def wait_and_die(talk, prefix):
    """Run in a child: kill it when it is notified, before it takes the message."""
    from asgi_ipc.waiting.hub import Hub

    Hub.on_notified = lambda self: os.kill(os.getpid(), 9)

    async def main():
        async with AsyncIPCChannelLayer(prefix, **OPTIONS) as layer:
            talk.say("waits")
            await layer.receive("a")

    asyncio.run(main())


def test_a_message_for_a_killed_receiver_goes_to_the_next(make_async, prefix, start):
    layer = make_async()

    async def main():
        child = start(wait_and_die, prefix)
        await until_waiting(layer, "a", 1)
        task = asyncio.create_task(layer.receive("a"))
        await until_waiting(layer, "a", 2)
        await layer.send("a", {"n": 1})
        assert await within(task) == {"n": 1}
        assert await asyncio.to_thread(child._wait) == -9
        await until_async(lambda: send(layer) and fifos(layer) == 1)

    def send(layer):  # every send sweeps some FIFOs of dead processes
        store_of(layer).append("b", 1 << 20, b"\x80")
        return True

    asyncio.run(main())
    assert_sound(layer)


# -- full memory, full file system ---------------------------------------------------------------------------


def test_receive_works_without_memory_for_a_waiter(make_async):
    layer = make_async(message_memory=1 << 16)

    async def main():
        size = 1 << 14
        while size:
            try:
                await layer.send("filler", {"": b"x" * size})
            except layer.ChannelFull:
                size //= 2
        task = asyncio.create_task(layer.receive("a"))
        await asyncio.sleep(0.05)
        assert not task.done()
        await layer.receive("filler")
        await layer.receive("filler")
        await layer.send("a", {"n": 1})
        assert await within(task) == {"n": 1}
        assert_sound(layer)

    asyncio.run(main())


def test_no_room_for_a_fifo_is_a_clear_error(make_async, monkeypatch):
    layer = make_async()

    def fail(*_):
        raise OSError(28, "No space left on device")

    async def main():
        with monkeypatch.context() as patch:
            patch.setattr(wakeup_fifo.os, "mkfifo", fail)
            with pytest.raises(SegmentRefused, match="no room for its wakeup FIFO"):
                await layer.receive("a")
        task = asyncio.create_task(layer.receive("a"))
        await until_waiting(layer, "a", 1)
        await layer.send("a", {"n": 1})
        assert await within(task) == {"n": 1}

    asyncio.run(main())
