"""
Event loops while another process is stopped inside the critical section: they run other tasks, and lose nothing.

``tests/locking`` has the same for threads, which wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from helpers.holders import OPTIONS
from helpers.stopped import STOPPED, StoppedHolder, beating, holds_admin_lock, stopped_inside
from helpers.waiting import assert_sound, ended, never_poll, store_of, until_async, until_waiting, waiters, within

from asgi_ipc import AsyncIPCChannelLayer, SegmentBusy
from asgi_ipc.locking.contention import WouldBlock
from asgi_ipc.shm.layout import AT_EPOCH
from asgi_ipc.stores.messages.group_send import SEND_SLICE
from asgi_ipc.stores.messages.queues import Queues

#: The layer option ``patience`` of the tests in which it ends, in seconds.
PATIENCE = 0.6


@pytest.fixture
def layer(make_async):
    return make_async(**OPTIONS)


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request):
    """Return a function like ``asyncio.run``, for each kind of event loop."""
    if request.param == "asyncio":
        return asyncio.run
    uvloop = pytest.importorskip("uvloop", reason="needs uvloop")

    def run_uvloop(main):
        loop = uvloop.new_event_loop()
        try:
            return loop.run_until_complete(main)
        finally:
            loop.close()

    return run_uvloop


async def numbers(layer, channel="a"):
    """Receive until a channel is empty; return the numbers in the messages, in order."""
    found = []
    while True:
        try:
            found.append((await asyncio.wait_for(layer.receive(channel), 0.05))["n"])
        except asyncio.TimeoutError:
            return found


def send(layer, number, channel="a"):
    """Return a task that sends a number."""
    return asyncio.create_task(layer.send(channel, {"n": number}))


# -- the loop goes on ----------------------------------------------------------------------------------------


Operation = Callable[[AsyncIPCChannelLayer], Awaitable[Any]]

#: Every method that enters a critical section, and the store of that section.
OPERATIONS: dict[str, tuple[str, Operation]] = {
    "send": ("message_store", lambda layer: layer.send("a", {"n": 1})),
    "receive": ("message_store", lambda layer: layer.receive("full")),
    "receive of many": ("message_store", lambda layer: asyncio.gather(*(layer.receive("full") for _ in range(20)))),
    "new_channel": ("message_store", lambda layer: layer.new_channel()),
    "group_add": ("group_store", lambda layer: layer.group_add("g", "a")),
    "group_add of an inbox": ("message_store", lambda layer: layer.group_add("g", "inbox.!x")),
    "group_discard": ("group_store", lambda layer: layer.group_discard("g", "a")),
    "group_channels": ("group_store", lambda layer: layer.group_channels("g")),
    "group_send, groups": ("group_store", lambda layer: layer.group_send("full", {"n": 1})),
    "group_send, messages": ("message_store", lambda layer: layer.group_send("full", {"n": 1})),
    "flush, messages": ("message_store", lambda layer: layer.flush()),
    "flush, groups": ("group_store", lambda layer: layer.flush()),
}


@pytest.mark.parametrize(("store", "operation"), OPERATIONS.values(), ids=OPERATIONS)
def test_loop_runs_other_tasks_while_an_operation_waits_for_a_stopped_holder(
    layer, prefix, start, store, operation
):
    async def main():
        for number in range(20):
            await layer.send("full", {"n": number})
        await layer.group_add("full", "b")
        holder = stopped_inside(start, prefix, store)
        with beating():
            task = asyncio.ensure_future(operation(layer))
            await asyncio.sleep(STOPPED / 2)
            assert not task.done()
            holder.resume()
            await within(task)
        await layer.send("after", {"n": 1})
        assert await within(layer.receive("after")) == {"n": 1}
        assert_sound(layer)

    asyncio.run(main())


def test_loop_runs_other_tasks_while_unlink_waits_for_a_process_that_removes_the_segment(layer, prefix, start):
    async def main():
        holder = start(holds_admin_lock, prefix)
        holder.hear()
        holder.kill(signal.SIGSTOP)
        with beating():
            task = asyncio.create_task(layer.unlink())
            await asyncio.sleep(STOPPED / 2)
            assert not task.done()
            holder.kill(signal.SIGCONT)
            holder.say()
            holder.hear()
            await within(task)
        await layer.send("after", {"n": 1})
        assert await within(layer.receive("after")) == {"n": 1}

    asyncio.run(main())


def test_unlink_gives_up_after_patience(make_async, prefix, start):
    layer = make_async(**OPTIONS, patience=PATIENCE)

    async def main():
        holder = start(holds_admin_lock, prefix)
        holder.hear()
        before = time.monotonic()
        with beating(), pytest.raises(SegmentBusy):
            await within(layer.unlink())
        assert time.monotonic() - before > PATIENCE / 2
        holder.say()
        holder.hear()

    asyncio.run(main())


def test_close_does_not_wait(layer, prefix, start):
    async def main():
        holder = stopped_inside(start, prefix)
        with beating():
            tasks = [send(layer, 1), asyncio.create_task(layer.receive("b"))]
            await asyncio.sleep(0.05)
            await layer.close()
            for task in tasks:
                with pytest.raises(RuntimeError, match="this layer was closed"):
                    await within(task)
        holder.resume()

    asyncio.run(main())


def test_thread_of_the_same_process_that_waits_does_not_block_the_loop(layer, make_layer, prefix, start):
    """It does not keep the process's own lock while it waits."""
    sync = make_layer(**OPTIONS)

    async def main():
        holder = stopped_inside(start, prefix)
        thread = threading.Thread(target=sync.send, args=("a", {"n": 1}))
        thread.start()
        with beating():
            await asyncio.sleep(STOPPED / 4)
            task = send(layer, 2)
            await asyncio.sleep(STOPPED / 2)
            assert thread.is_alive()
            assert not task.done()
            holder.resume()
            await within(task)
            await asyncio.to_thread(thread.join)
        assert sorted(await numbers(layer)) == [1, 2]

    asyncio.run(main())


def test_receive_async_of_a_synchronous_layer_does_not_block_its_loop(make_layer, prefix, start):
    layer = make_layer(**OPTIONS)
    layer.send("b", {"n": 0})

    async def main():
        holder = stopped_inside(start, prefix)
        with beating():
            tasks = [asyncio.create_task(layer.receive_async([name])) for name in "ab"]
            await asyncio.sleep(STOPPED / 2)
            assert not any(task.done() for task in tasks)
            holder.resume()
            layer.send("a", {"n": 1})
            assert await within(asyncio.gather(*tasks)) == [("a", {"n": 1}), ("b", {"n": 0})]

    asyncio.run(main())


# -- order ---------------------------------------------------------------------------------------------------


def test_operations_that_wait_are_done_in_the_order_of_their_calls(layer, prefix, start, run):
    """Once each, and a call that comes when the first ones are done does not overtake the rest."""

    async def main():
        holder = stopped_inside(start, prefix)
        with beating():
            tasks = [send(layer, number) for number in range(50)]
            tasks[0].add_done_callback(lambda _: tasks.append(send(layer, 50)))
            await asyncio.sleep(STOPPED)
            assert not any(task.done() for task in tasks)
            holder.resume()
            await within(asyncio.gather(*tasks))
        assert len(tasks) == 51
        await within(tasks[-1])
        assert await numbers(layer) == list(range(51))
        assert not layer._message_turns.waiting, "the queue is gone"

    run(main())


def test_operations_of_two_loops_do_not_wait_for_each_other(layer, prefix, start):
    """Each loop has its own queue for the store."""

    async def main(first):
        with beating():
            await within(asyncio.gather(*(send(layer, first + number) for number in range(20))))

    holder = stopped_inside(start, prefix)
    threads = [threading.Thread(target=asyncio.run, args=(main(first),)) for first in (0, 100)]
    for thread in threads:
        thread.start()
    time.sleep(STOPPED / 2)
    holder.resume()
    for thread in threads:
        thread.join()
    found = asyncio.run(numbers(layer))
    assert [number for number in found if number < 100] == list(range(20))
    assert [number for number in found if number >= 100] == list(range(100, 120))
    assert not layer._message_turns.waiting


def test_stopped_holder_of_one_store_does_not_delay_the_other_store(layer, prefix, start):
    async def main():
        holder = stopped_inside(start, prefix)
        task = send(layer, 1)
        await asyncio.sleep(0.05)
        for number in range(10):
            await asyncio.wait_for(layer.group_add("g", f"a{number}"), STOPPED)
        assert not task.done()
        holder.resume()
        await within(task)

    asyncio.run(main())


# -- cancellation --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", [[0], [0, 1, 2], [1, 3], [9], range(10)], ids=str)
def test_cancelled_operation_did_not_happen_and_the_others_do(layer, prefix, start, run, which):
    async def main():
        holder = stopped_inside(start, prefix)
        tasks = [send(layer, number) for number in range(10)]
        await asyncio.sleep(0.05)
        for number in which:
            assert await ended(tasks[number])
        tasks.append(send(layer, 10))
        await asyncio.sleep(0.05)
        holder.resume()
        await within(asyncio.wait(tasks))
        expected = [number for number in range(11) if number not in which]
        assert [task.result() for number, task in enumerate(tasks) if number not in which] == [None] * len(expected)
        assert await numbers(layer) == expected
        assert not layer._message_turns.waiting

    run(main())


@pytest.mark.parametrize("steps", range(6))
def test_operation_that_is_cancelled_when_its_turn_comes_happened_or_did_not(layer, prefix, start, steps):
    """The cancellation comes some steps of the loop after the holder has left."""

    async def main():
        holder = stopped_inside(start, prefix)
        tasks = [send(layer, number) for number in range(5)]
        await asyncio.sleep(0.05)
        holder.resume()
        for _ in range(steps):
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await within(asyncio.wait(tasks))
        done = [number for number, task in enumerate(tasks) if not task.cancelled()]
        assert await numbers(layer) == done
        await within(send(layer, 5))
        assert await numbers(layer) == [5]

    asyncio.run(main())


def test_coroutine_that_is_closed_in_the_queue_leaves_it(layer, prefix, start):
    """As the garbage collector does with coroutines that are driven by hand."""

    async def main():
        holder = stopped_inside(start, prefix)
        by_hand = [layer.send("a", {"n": -1}) for _ in range(2)]
        by_hand[0].send(None)
        task = send(layer, 1)
        await asyncio.sleep(0.02)
        by_hand[1].send(None)
        for coroutine in by_hand:
            coroutine.close()
        holder.resume()
        await within(task)
        assert await numbers(layer) == [1]

    asyncio.run(main())


def test_cancelled_receive_neither_waits_nor_keeps_its_notification(layer, prefix, start, monkeypatch):
    never_poll(monkeypatch.setattr)

    async def main():
        first = asyncio.create_task(layer.receive("a"))
        await until_waiting(layer, "a", 1)
        second = asyncio.create_task(layer.receive("a"))
        await until_waiting(layer, "a", 2)
        await layer.send("a", {"n": 1})
        holder = stopped_inside(start, prefix)
        with beating():
            await asyncio.sleep(0.05)
            before = time.monotonic()
            assert await ended(first)
            assert time.monotonic() - before < STOPPED / 4
            await asyncio.sleep(0.05)
            holder.resume()
            assert await within(second) == {"n": 1}
        await until_async(lambda: waiters(layer, "a") == 0)
        assert_sound(layer)

    asyncio.run(main())


def test_receives_that_are_cancelled_while_the_mutex_is_held_leave_no_waiter(layer, prefix, start, monkeypatch):
    never_poll(monkeypatch.setattr)

    async def main():
        tasks = [asyncio.create_task(layer.receive(name)) for name in "aabbcc"]
        await until_waiting(layer, "c", 2)
        holder = stopped_inside(start, prefix)
        with beating():
            for task in tasks:
                assert await ended(task)
            await asyncio.sleep(0.1)
            holder.resume()
            await until_async(lambda: all(waiters(layer, name) == 0 for name in "abc"))
        assert_sound(layer)

    asyncio.run(main())


class Gate:
    """Lets some critical sections of one kind in, and refuses the following ones."""

    def __init__(self, store, section, monkeypatch):
        self.left = 0
        self._store, self._section, self._run = store, section, store.sections.run
        monkeypatch.setattr(store.sections, "run", self)

    def __call__(self, section, *args):
        if section is self._section:
            if not self.left:
                raise WouldBlock(self._store.sections.bound[0])
            self.left -= 1
        return self._run(section, *args)


def test_group_send_that_is_cancelled_between_two_slices_has_notified_the_first(layer, monkeypatch):
    never_poll(monkeypatch.setattr)

    async def main():
        names = [f"a{number}" for number in range(3 * SEND_SLICE)]
        for name in names:
            await layer.group_add("g", name)
        receives = [asyncio.create_task(layer.receive(name)) for name in names]
        await until_waiting(layer, names[-1], 1)
        gate = Gate(store_of(layer), Queues.enqueue_each, monkeypatch)
        gate.left = 1
        sending = asyncio.create_task(layer.group_send("g", {"n": 1}))
        await asyncio.sleep(0.05)
        assert not sending.done()
        later = asyncio.create_task(layer.send("later", {"n": 2}))
        await asyncio.sleep(0.05)
        assert not later.done()
        assert await ended(sending)
        await within(later)
        got = await within(asyncio.gather(*receives[:SEND_SLICE]))
        assert got == [{"n": 1}] * SEND_SLICE
        assert not any(task.done() for task in receives[SEND_SLICE:])
        gate.left = 10**6
        await within(layer.group_send("g", {"n": 3}))
        assert await within(asyncio.gather(*receives[SEND_SLICE:])) == [{"n": 3}] * (2 * SEND_SLICE)

    asyncio.run(main())


def test_group_send_goes_on_where_it_was(layer, monkeypatch):
    async def main():
        names = [f"a{number}" for number in range(3 * SEND_SLICE)]
        for name in names:
            await layer.group_add("g", name)
        gate = Gate(store_of(layer), Queues.enqueue_each, monkeypatch)
        gate.left = 2
        sending = asyncio.create_task(layer.group_send("g", {"n": 1}))
        await asyncio.sleep(0.05)
        gate.left = 1
        await within(sending)
        for name in names[:: SEND_SLICE // 4]:
            assert await numbers(layer, name) == [1]

    asyncio.run(main())


# -- SegmentBusy ---------------------------------------------------------------------------------------------


def test_busy_error_reaches_only_the_call_that_needed_the_mutex(make_async, prefix, start, run):
    layer = make_async(**OPTIONS, patience=PATIENCE)

    async def main():
        pending = [asyncio.create_task(layer.receive(name)) for name in "aab"]
        await until_waiting(layer, "b", 1)
        holder = stopped_inside(start, prefix)
        with beating():
            await asyncio.sleep(2.5 * PATIENCE)  # the polls of the receives meet the stopped holder, too
            before = time.monotonic()
            with pytest.raises(SegmentBusy) as busy:
                await within(layer.send("c", {}))
            assert time.monotonic() - before > PATIENCE * 0.9
            assert busy.value.pid == holder.pid
            assert not any(task.done() for task in pending)
            holder.resume()
            for channel in "aab":
                await within(layer.send(channel, {"to": channel}))
            assert await within(asyncio.gather(*pending)) == [{"to": channel} for channel in "aab"]
        assert_sound(layer)

    run(main())


def test_each_call_waits_for_one_patience_from_its_own_beginning(make_async, prefix, start):
    layer = make_async(**OPTIONS, patience=PATIENCE)

    async def main():
        seconds: list[float] = []

        async def wait():
            before = time.monotonic()
            with pytest.raises(SegmentBusy):
                await layer.send("a", {})
            seconds.append(time.monotonic() - before)

        holder = stopped_inside(start, prefix)
        with beating():
            tasks = []
            for _ in range(3):
                tasks += [asyncio.create_task(wait()) for _ in range(10)]
                await asyncio.sleep(PATIENCE / 3)
            await within(asyncio.gather(*tasks))
        assert min(seconds) > PATIENCE * 0.9
        assert max(seconds) < PATIENCE * 10, "later calls have waited for the patience of earlier ones"
        holder.resume()

    asyncio.run(main())


def test_loop_keeps_its_patience_on_a_segment_that_replaced_a_removed_one(make_async, prefix, start):
    """The layer attaches to it in the loop, without waiting."""
    layer = make_async(**OPTIONS)

    async def main():
        await layer.unlink()
        await layer.send("a", {"n": 1})
        holder = stopped_inside(start, prefix)
        task = send(layer, 2)
        await asyncio.sleep(STOPPED / 4)
        assert not task.done()
        holder.resume()
        await within(task)
        assert await numbers(layer) == [1, 2]

    asyncio.run(main())


# -- dead holders --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("polls_only", [False, True])
def test_loop_recovers_from_a_killed_holder_while_it_waits(layer, prefix, start, run, polls_only):
    """Also if nothing but the poll of a pending receive needs the mutex."""

    async def main():
        words = store_of(layer).sections.bound[0].words
        pending = asyncio.create_task(layer.receive("b"))
        await until_waiting(layer, "b", 1)
        holder: StoppedHolder = stopped_inside(start, prefix)
        epoch = words[AT_EPOCH]
        with beating():
            tasks = [] if polls_only else [send(layer, number) for number in range(20)]
            await asyncio.sleep(0.1)
            holder.child.die()
            await within(asyncio.gather(*tasks))
            await until_async(lambda: words[AT_EPOCH] > epoch)
            await within(layer.send("b", {"n": 1}))
            assert await within(pending) == {"n": 1}
        assert await numbers(layer) == list(range(len(tasks)))
        assert_sound(layer)

    run(main())


# -- frozen clocks -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tick", [False, True])
def test_loop_whose_clock_is_frozen_waits_as_well(layer, prefix, start, tick):
    """The timers of such a loop never fire."""
    freezegun = pytest.importorskip("freezegun", reason="needs freezegun")

    async def main():
        pending = asyncio.create_task(layer.receive("b"))
        await until_waiting(layer, "b", 1)
        holder = stopped_inside(start, prefix)
        resumed = threading.Timer(STOPPED / 2, holder.resume)
        with freezegun.freeze_time("2012-01-14", tick=tick):
            tasks = [send(layer, number) for number in range(10)]
            resumed.start()
            used = time.process_time()
            await asyncio.gather(*tasks)
            assert time.process_time() - used < STOPPED / 4, "the loop was busy"
            await layer.send("b", {"n": 1})
            assert await pending == {"n": 1}
            assert [(await layer.receive("a"))["n"] for _ in range(10)] == list(range(10))
        resumed.join()

    asyncio.run(main())


# -- what a cleared queue leaves -----------------------------------------------------------------------------


def test_dropped_loop_with_operations_in_the_queue_is_collected(layer, prefix, start):
    """They are gone with it, and the next loop does not wait for them."""
    holder = stopped_inside(start, prefix)

    def drop():
        loop = asyncio.new_event_loop()
        loop.set_exception_handler(lambda *_: None)
        for number in range(3):
            loop.create_task(layer.send("a", {"n": number}))  # noqa: RUF006  it is dropped, too
        with contextlib.suppress(asyncio.TimeoutError):
            loop.run_until_complete(asyncio.wait_for(layer.send("a", {"n": 3}), 0.05))

    thread = threading.Thread(target=drop)
    thread.start()
    thread.join()
    with pytest.warns(ResourceWarning, match="unclosed event loop"):
        gc.collect()
    assert not layer._message_turns.waiting
    holder.resume()
    assert asyncio.run(numbers(layer)) == []
