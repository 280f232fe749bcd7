"""Faults while receivers wait: interrupts, closed layers, busy stores, dead waiters, lost FIFOs."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import threading
import time

import pytest
from helpers.layers import assert_sound, drain
from helpers.processes import LIMIT

from asgi_ipc import AsyncIPCChannelLayer, SegmentBusy, SegmentCorrupt
from asgi_ipc.shm.layout import AT_EPOCH, AT_FIFOS
from asgi_ipc.stores.attachment import Attachment
from asgi_ipc.stores.messages import waiters
from asgi_ipc.stores.messages.channels import WAITING
from asgi_ipc.stores.messages.sweep import Sweep
from asgi_ipc.structures import ring

OPTIONS = {"message_memory": 1 << 20, "group_memory": 1 << 18}
#: Seconds: far less than the poll period of a waiter, far more than a notification takes.
AT_ONCE = 0.6


@pytest.fixture
def layer(make_layer):
    return make_layer(capacity=10**6)


def words_of(layer):
    return layer.message_store.sections.opened().segment.words


def fifos(layer):
    """Return the FIFO records of a layer's message segment."""
    return list(ring.walk(words_of(layer), AT_FIFOS, waiters.NEXT_FIFO, 10**6))


def epoch_of(layer):
    """Return the segment's epoch: it changes with every recovery, and is odd during one."""
    return words_of(layer)[AT_EPOCH]


def sweep(layer):
    """Run operations for long enough that they sweep the whole segment."""
    for _ in range(200):
        layer.receive(["always-empty"])
        time.sleep(0.001)


async def until(condition):
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


# -- in an event loop ----------------------------------------------------------------------------------------


def test_a_receive_notified_for_two_channels_at_once_unregisters_each_waiter_once(layer):
    """Both of its waiters are in the notified list when the hub reads it."""

    async def run():
        epoch = epoch_of(layer)
        for number in range(20):
            waits = asyncio.ensure_future(layer.receive_async(["a", "b"]))
            await asyncio.sleep(0.01)
            layer.send("a", {"n": number})
            layer.send("b", {"n": number})
            first = await waits
            second = await asyncio.wait_for(layer.receive_async(["a", "b"]), LIMIT)
            assert sorted([first[0], second[0]]) == ["a", "b"]
        assert epoch_of(layer) == epoch

    asyncio.run(run())
    assert_sound(layer)


def test_a_receive_notified_for_two_channels_passes_one_notification_on(layer):
    """It takes one message; the next waiter of the other channel is notified and needs no poll."""

    async def run():
        first = asyncio.ensure_future(layer.receive_async(["a", "b"]))
        await asyncio.sleep(0.02)
        others = [asyncio.ensure_future(layer.receive_async([name])) for name in ("a", "b")]
        await asyncio.sleep(0.02)
        layer.send("a", {})
        layer.send("b", {})
        began = time.monotonic()
        await first
        _, left = await asyncio.wait(others, timeout=LIMIT, return_when=asyncio.FIRST_COMPLETED)
        assert time.monotonic() - began < AT_ONCE
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    asyncio.run(run())
    assert_sound(layer)


def test_a_receive_cancelled_after_its_layer_was_closed_raises_cancelled_error(prefix):
    async def run():
        layer = AsyncIPCChannelLayer(prefix, **OPTIONS)
        waits = asyncio.ensure_future(layer.receive("a"))
        await asyncio.sleep(0.02)
        await layer.close()
        waits.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waits

    asyncio.run(run())


def test_cancelling_raises_only_cancelled_error_while_the_store_is_busy(make_layer, monkeypatch):
    """The waiter that cannot be unregistered now is unregistered later, and takes no notifications."""
    layer = make_layer(capacity=10**6)
    store = layer.message_store

    async def run():
        first = asyncio.ensure_future(layer.receive_async(["a"]))
        await asyncio.sleep(0.02)
        second = asyncio.ensure_future(layer.receive_async(["a"]))
        await asyncio.sleep(0.02)
        with monkeypatch.context() as patch:
            patch.setattr(store.wakeups, "cancel", busy)
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
        await until(lambda: words_of(layer)[record_of(layer, "a") + WAITING] == 1)
        layer.send("a", {"n": 1})
        assert await asyncio.wait_for(second, LIMIT) == ("a", {"n": 1})

    def busy(*_):
        raise SegmentBusy(store.name, None, 10)

    asyncio.run(run())
    assert_sound(layer)


def record_of(layer, channel):
    return layer.message_store.sections.parts.queues.channels.find(channel)


@pytest.mark.parametrize("point", ["pop_or_register", "take_notified", "cancel"])
def test_an_interrupt_just_after_a_critical_section_of_a_hub_loses_no_wakeup(layer, monkeypatch, point):
    """``KeyboardInterrupt`` comes before the hub has noted the outcome; the loop is run again later."""
    store = layer.open_hubs().store.wakeups
    loop = asyncio.new_event_loop()
    tasks = []
    real = getattr(store, point)

    def interrupted(*args):
        monkeypatch.setattr(store, point, real)
        real(*args)
        raise KeyboardInterrupt

    async def wait(channels):
        return await layer.receive_async(channels)

    try:
        tasks.append(loop.create_task(wait(["a", "b"])))
        loop.run_until_complete(asyncio.sleep(0.05))
        monkeypatch.setattr(store, point, interrupted)
        if point == "pop_or_register":
            tasks.append(loop.create_task(wait(["c"])))
        else:
            layer.send("a", {})
        with contextlib.suppress(KeyboardInterrupt):
            loop.run_until_complete(asyncio.sleep(3))
        assert getattr(store, point) == real, "nothing was interrupted"
        waits = loop.create_task(wait(["d"]))
        loop.run_until_complete(asyncio.sleep(0.05))
        if point == "pop_or_register":
            layer.send("a", {})
        layer.send("d", {})
        loop.run_until_complete(asyncio.wait_for(asyncio.gather(tasks[0], waits), 5))
    finally:
        for task in asyncio.all_tasks(loop):
            task.cancel()
        with contextlib.suppress(KeyboardInterrupt):
            loop.run_until_complete(asyncio.sleep(0.05))
        for task in tasks:
            if task.done() and not task.cancelled():
                task.exception()
        loop.close()
    assert not epoch_of(layer) & 1
    assert_sound(layer)


def test_waiters_register_again_at_once_after_a_flush(prefix, layer):
    """The next message wakes the receiver by a notification, not only by its next poll."""

    async def run():
        other = AsyncIPCChannelLayer(prefix, **OPTIONS)
        for number in range(4):
            waits = asyncio.ensure_future(other.receive("a"))
            await asyncio.sleep(0.05)
            layer.flush()
            await asyncio.sleep(0.05)
            began = time.monotonic()
            layer.send("a", {"n": number})
            assert await waits == {"n": number}
            assert time.monotonic() - began < AT_ONCE
        await other.close()

    asyncio.run(run())


# -- after the commit ----------------------------------------------------------------------------------------


def test_a_sweep_that_fails_loses_no_message(layer, monkeypatch):
    """The sweep after an operation serves other processes: its errors must not replace the result."""
    store = layer.message_store
    real = store.sections.run

    def run(section, *args):
        if section is Sweep.step:
            raise SegmentCorrupt(store.name, "raised by the test")
        return real(section, *args)

    monkeypatch.setattr(store.sections, "run", run)
    for number in range(3):
        time.sleep(0.002)
        layer.send("a", {"n": number})
    for number in range(3):
        time.sleep(0.002)
        assert layer.receive(["a"]) == ("a", {"n": number})


def test_a_notification_that_fails_loses_no_message(layer, monkeypatch):
    """The send succeeds even if the FIFO of a dead process cannot be unregistered."""
    store = layer.message_store
    real, refused = store.sections.run, []

    def run(section, *args):
        if section is waiters.Waiters.unregister_dead:
            refused.append(section)
            raise SegmentBusy(store.name, None, 10)
        return real(section, *args)

    fifo = store.wakeups.new_fifo()
    store.wakeups.pop_or_register(["a"], fifo)
    os.close(fifo.fd)  # as if its owner had been killed
    fifo.fd = -1
    monkeypatch.setattr(store.sections, "run", run)
    layer.send("a", {"n": 1})
    monkeypatch.undo()
    assert refused
    assert drain(layer, "a") == [("a", {"n": 1})]


# -- what is left --------------------------------------------------------------------------------------------


def test_closed_and_dropped_layers_leave_no_waiters(make_layer, prefix):
    """Another layer keeps the process's slot, so the process counts as alive: a sweep unregisters them."""
    kept = make_layer()
    for turn in range(10):
        layer = make_layer(block_timeout=0.01)
        layer.receive(["a"], block=True)
        if turn % 2:
            layer.close()
    layer = None
    gc.collect()
    closing = make_layer(block_timeout=LIMIT)
    raised = []

    def sleep():
        with pytest.raises(RuntimeError) as error:
            closing.receive(["a"], block=True)
        raised.append(error)

    thread = threading.Thread(target=sleep)
    thread.start()
    while len(fifos(kept)) == len(fifos(kept)) and not words_of(kept)[record_of(kept, "a") + WAITING]:
        time.sleep(0.005)
    closing.close()
    thread.join(LIMIT)
    assert raised
    sweep(kept)
    assert words_of(kept)[record_of(kept, "a") + WAITING] == 0 if record_of(kept, "a") else True
    assert_sound(kept)


def test_a_sweep_unregisters_a_dropped_fifo_of_a_live_process(layer):
    """The FIFO was collected while it had waiters: they must not take notifications and memory for ever."""
    store = layer.message_store
    fifo = store.wakeups.new_fifo()
    store.wakeups.pop_or_register(["a", "b"], fifo)
    del fifo
    gc.collect()
    assert len(fifos(layer)) == 1
    sweep(layer)
    assert not fifos(layer)
    assert_sound(layer)


def test_an_interrupt_at_the_end_of_a_blocking_receive_leaves_no_waiter(layer, monkeypatch):
    layer.block_timeout = 0.01

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(layer.message_store.wakeups, "unregister_all", interrupted)
        with pytest.raises(KeyboardInterrupt):
            layer.receive(["a"], block=True)
    sweep(layer)
    assert not record_of(layer, "a") or not words_of(layer)[record_of(layer, "a") + WAITING]
    assert layer.receive(["b"], block=True) == (None, None)
    assert_sound(layer)


def test_a_busy_store_does_not_replace_the_exception_of_a_signal_handler(layer, monkeypatch):
    """``sys.exit`` in a handler ends a waiting worker, even if its waiters cannot be unregistered now."""
    store = layer.message_store
    layer.block_timeout = LIMIT

    def busy(*_):
        raise SegmentBusy(store.name, None, 10)

    def leave(*_):
        monkeypatch.setattr(store.wakeups, "unregister_all", busy)
        raise SystemExit(7)

    before = signal.signal(signal.SIGALRM, leave)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(SystemExit):
            layer.receive(["a"], block=True)
    finally:
        signal.signal(signal.SIGALRM, before)
        monkeypatch.undo()
    sweep(layer)
    assert not record_of(layer, "a") or not words_of(layer)[record_of(layer, "a") + WAITING]
    layer.block_timeout = 0.01
    assert layer.receive(["a"], block=True) == (None, None)
    assert_sound(layer)


def test_a_notifier_opens_a_fifo_again_whose_descriptor_was_closed(layer):
    """Some programs close every descriptor that they find; they can still send."""
    store = layer.message_store
    fifo = store.wakeups.new_fifo()
    notifier = store.sections.opened().notifier
    assert notifier.notify(fifo.token)
    os.close(notifier._open[fifo.token])
    assert notifier.notify(fifo.token)
    assert fifo.wait(0)
    store.wakeups.dismiss(fifo)


def test_a_closed_notifier_keeps_no_descriptor_open(layer, make_layer):
    """A thread notifies while another one closes the layer: no later call would close the descriptor."""
    store = layer.message_store
    fifo = store.wakeups.new_fifo()
    notifier = store.sections.opened().notifier
    notifier.close()
    before = set(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else set()
    assert notifier.notify(fifo.token)
    after = set(os.listdir("/proc/self/fd")) if before else set()
    assert before == after
    assert fifo.wait(0)
    store.wakeups.dismiss(fifo)


def test_is_gone_is_true_for_a_segment_that_another_thread_unmaps(layer, make_layer, monkeypatch):
    """The segment is closed after its descriptor was checked, and before its words are read: no crash."""
    attachment = layer.message_store.sections.opened()

    class Closing(int):
        def __lt__(self, other):
            layer.close()
            return False

    attachment.segment.fd, fd = Closing(attachment.segment.fd), attachment.segment.fd
    try:
        assert Attachment.is_gone(attachment)
    finally:
        if attachment.segment.fd >= 0:
            attachment.segment.fd = fd


# -- many at once --------------------------------------------------------------------------------------------


def test_thousands_of_notified_waiters_are_taken_in_slices(make_layer, monkeypatch):
    """No critical section visits all of them, so that other processes get the mutex in between."""
    layer = make_layer(message_memory=1 << 23, capacity=10**6)
    store = layer.message_store
    count = 3 * waiters.NOTIFIED_SLICE + 5
    fifo = store.wakeups.new_fifo()
    registered = store.wakeups.pop_or_register([f"c{n}" for n in range(count)], fifo)
    for number in range(count):
        layer.send(f"c{number}", {})
    visits = []
    section = waiters.Waiters.take_notified

    def counted(*args):
        outcome = section(*args)
        visits.append(len(outcome))
        return outcome

    store.sections.bound[2][counted] = store.sections.parts.waiters
    monkeypatch.setattr(waiters.Waiters, "take_notified", counted)
    notified = []
    assert store.wakeups.take_notified(fifo, notified)
    assert sorted(notified) == sorted(registered.waiters)
    assert max(visits) == waiters.NOTIFIED_SLICE
    assert_sound(layer)
    store.wakeups.dismiss(fifo)


def test_the_time_to_cancel_notified_receives_grows_linearly(make_layer):
    """Each waiter is unlinked from the notified list without a search through the others."""
    layer = make_layer(message_memory=1 << 24, capacity=10**6)

    async def run(count):
        tasks = [asyncio.ensure_future(layer.receive_async([f"c{n}"])) for n in range(count)]
        await asyncio.sleep(0.1)
        for number in range(count):
            layer.send(f"c{number}", {})
        began = time.process_time()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        took = time.process_time() - began
        layer.flush()
        return took

    few = asyncio.run(run(500))
    many = asyncio.run(run(4000))
    assert many < few * 8 * 4  # 8 times as many; with a search it would take 64 times as long

    assert_sound(layer)
