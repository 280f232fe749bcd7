"""Event loops that a program drops without closing them, while receives wait in them."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
import weakref

import pytest
from helpers.sleepers import sleeps
from helpers.waiting import (
    OPTIONS,
    assert_sound,
    fifos,
    files_of,
    never_poll,
    until,
    until_async,
    until_waiting,
    waiters,
    within,
)

from asgi_ipc import AsyncIPCChannelLayer

#: Seconds: far less than the poll period of a waiter, far more than a notification takes.
AT_ONCE = 0.5

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture(params=["asyncio", "uvloop"])
def new_loop(request):
    """Return a function that makes an event loop, of each kind."""
    if request.param == "uvloop":
        return pytest.importorskip("uvloop", reason="needs uvloop").new_event_loop
    return asyncio.new_event_loop


def drop_loop(layer, new_loop, channel="a", count=2):
    """
    Run receives in a new loop, and drop the loop while they wait. Returns a weak reference to one of the tasks.

    In a thread of its own: uvloop itself keeps a loop that was run in the main thread and never closed.
    """
    found = []

    def run():
        loop = new_loop()
        loop.set_exception_handler(lambda *_: None)  # each task is reported to it when it is collected
        tasks = [loop.create_task(layer.receive(channel)) for _ in range(count)]
        loop.run_until_complete(until_waiting(layer, channel, count))
        found.append(weakref.ref(tasks[0]))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return found[0]


def test_dropped_loop_is_collected_with_its_receives(make_async, new_loop):
    layer = make_async()
    task = drop_loop(layer, new_loop)
    gc.collect()
    assert task() is None
    assert not layer._hubs.by_loop.references


def test_message_does_not_wait_for_the_receives_of_a_dropped_loop(make_async, make_layer, new_loop, monkeypatch):
    """Neither in this process nor in the sender is anything else done in between."""
    never_poll(monkeypatch.setattr)
    layer, other = make_async(), make_layer()
    drop_loop(layer, new_loop)
    gc.collect()

    async def main():
        task = asyncio.create_task(other.receive_async(["a"]))
        await until_async(lambda: waiters(other, "a") in (1, 3))  # 1: a sweep has found the other two
        before = time.monotonic()
        other.send("a", {"n": 1})
        assert await within(task) == ("a", {"n": 1})
        assert time.monotonic() - before < AT_ONCE
        assert waiters(other, "a") == 0

    asyncio.run(main())
    assert_sound(layer)


def sends(talk, prefix):
    """A child: send messages to a channel whenever told to."""

    async def main():
        async with AsyncIPCChannelLayer(prefix, **OPTIONS) as layer:
            talk.say("ready")
            while talk.hear():
                await layer.send("a", {"n": 1})
                talk.say("sent")

    asyncio.run(main())


def test_sender_in_another_process_passes_the_message_on(make_async, make_layer, prefix, start, new_loop, monkeypatch):
    """It finds that no process has the FIFO open, though it has notified it before."""
    never_poll(monkeypatch.setattr)
    layer, other = make_async(), make_layer()
    sender, receiver = start(sends, prefix), start(sleeps, prefix, ["a"], False)
    sender.hear()
    until(lambda: waiters(other, "a") == 1)
    sender.say(True)
    sender.hear()
    assert receiver.hear() == ["a", {"n": 1}]

    async def first():
        task = asyncio.create_task(layer.receive("a"))
        await until_waiting(layer, "a", 1)
        sender.say(True)
        sender.hear()
        await within(task)
        del task
        for _ in range(2):
            asyncio.get_running_loop().create_task(layer.receive("a"))
        await until_waiting(layer, "a", 2)

    loop = new_loop()
    loop.set_exception_handler(lambda *_: None)
    thread = threading.Thread(target=loop.run_until_complete, args=(first(),))
    thread.start()
    thread.join()
    del loop, thread, first
    gc.collect()
    receiver.say()
    receiver.end()
    last = start(sleeps, prefix, ["a"], False)  # this process does nothing more, so its sweeps do not help
    until(lambda: waiters(other, "a") == 3)
    before = time.monotonic()
    sender.say(True)
    sender.hear()
    assert last.hear() == ["a", {"n": 1}]
    assert time.monotonic() - before < AT_ONCE
    last.say()
    last.end()
    sender.say(False)
    sender.end()


def test_dropped_loops_leave_no_waiter_no_descriptor_and_no_file(make_async, prefix, new_loop):
    layer = make_async()

    def descriptors():
        return len(os.listdir("/proc/self/fd"))

    def use():
        gc.collect()

        async def main():
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(layer.receive("b"), 0.01)

        asyncio.run(main())  # the next use of a hub unregisters what was dropped
        return descriptors()

    use()
    drop_loop(layer, new_loop)
    before = use()
    for number in range(10):
        drop_loop(layer, new_loop, f"a{number}")
    # (uvloop itself never closes the descriptors of a loop that was not closed.)
    assert use() <= before or new_loop is not asyncio.new_event_loop
    assert not any(waiters(layer, f"a{number}") for number in range(10))
    assert files_of(prefix) == []
    assert fifos(layer) <= 1, "the record of a FIFO without waiters stays until a sweep finds it"
    assert_sound(layer)


def leaves(talk, prefix):
    """A child: end while waiters of a dropped loop are registered."""
    layer = AsyncIPCChannelLayer(prefix, **OPTIONS)
    drop_loop(layer, asyncio.new_event_loop)
    gc.collect()
    talk.say([waiters(layer, "a"), len(files_of(prefix))])


def test_process_that_dropped_a_loop_leaves_no_file(make_async, prefix, start):
    make_async()
    child = start(leaves, prefix)
    assert child.hear() == [2, 1]
    child.end()
    assert files_of(prefix) == []


def test_receives_of_a_running_loop_are_not_collected(make_async, make_layer, new_loop):
    """The program keeps no reference to their tasks, and event loops refer to tasks weakly only."""
    layer, other = make_async(), make_layer()
    got = []

    async def wait(number):
        got.append((number, await layer.receive("a")))

    async def main():
        for number in range(3):
            asyncio.get_running_loop().create_task(wait(number))
        await until_waiting(layer, "a", 3)
        for _ in range(3):
            gc.collect()
            await asyncio.sleep(0)
        for number in range(3):
            other.send("a", {"n": number})
        await until_async(lambda: len(got) == 3)

    loop = new_loop()
    loop.run_until_complete(main())
    loop.close()
    assert got == [(number, {"n": number}) for number in range(3)]


def test_receives_of_a_loop_that_runs_again_are_not_collected(make_async, make_layer, new_loop):
    layer, other = make_async(), make_layer()
    got = []

    async def wait():
        got.append(await layer.receive("a"))

    async def main():
        asyncio.get_running_loop().create_task(wait())
        await until_waiting(layer, "a", 1)

    async def see():
        await until_async(lambda: bool(got))

    loop = new_loop()
    loop.run_until_complete(main())
    gc.collect()
    other.send("a", {"n": 1})
    loop.run_until_complete(see())
    loop.close()
    assert got == [{"n": 1}]


def test_operations_that_wait_for_the_mutex_are_not_collected(make_async, make_layer, prefix, start, new_loop):
    """The program keeps no reference to their tasks here either."""
    from helpers.holders import OPTIONS as HELD
    from helpers.stopped import stopped_inside

    layer, other = make_async(**HELD), make_layer(**HELD)

    async def main():
        holder = stopped_inside(start, prefix)
        for number in range(5):
            asyncio.get_running_loop().create_task(layer.send("a", {"n": number}))
        for _ in range(5):
            await asyncio.sleep(0.01)
            gc.collect()
        holder.resume()
        await until_async(lambda: not layer._message_turns.waiting)

    loop = new_loop()
    loop.run_until_complete(main())
    loop.close()
    assert [other.receive(["a"]) for _ in range(5)] == [("a", {"n": number}) for number in range(5)]
