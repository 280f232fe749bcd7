"""What goes wrong while somebody waits: interrupts, closed layers, dead sleepers, many at once."""

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
#: Far less than the second after which a sleeper looks by himself, far more than a ring takes.
AT_ONCE = 0.6


@pytest.fixture
def layer(make_layer):
    return make_layer(capacity=10**6)


def words_of(layer):
    return layer.message_store.sections.opened().segment.words


def fifos(layer):
    """The FIFO records of a layer's segment."""
    return list(ring.walk(words_of(layer), AT_FIFOS, waiters.NEXT_FIFO, 10**6))


def repaired(layer):
    """How often the segment was repaired."""
    return words_of(layer)[AT_EPOCH]


def sweep(layer):
    """Let time pass for the sweeps of whoever operates."""
    for _ in range(200):
        layer.receive(["nobody-sends-here"])
        time.sleep(0.001)


async def until(condition):
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


# -- in an event loop -------------------------------------------------------------------------------------------


def test_a_call_for_two_channels_that_both_get_a_message(layer):
    """Both waiters of one call stand in the news of one ring: the second one is not taken down once more."""

    async def run():
        epoch = repaired(layer)
        for number in range(20):
            waits = asyncio.ensure_future(layer.receive_async(["a", "b"]))
            await asyncio.sleep(0.01)
            layer.send("a", {"n": number})
            layer.send("b", {"n": number})
            first = await waits
            second = await asyncio.wait_for(layer.receive_async(["a", "b"]), LIMIT)
            assert sorted([first[0], second[0]]) == ["a", "b"]
        assert repaired(layer) == epoch

    asyncio.run(run())
    assert_sound(layer)


def test_what_a_call_for_two_channels_leaves_is_passed_on(layer):
    """Whoever was called for two messages takes one; the other one's next waiter has it without a look."""

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


def test_a_call_that_is_cancelled_behind_the_end_of_its_layer_is_cancelled(prefix):
    async def run():
        layer = AsyncIPCChannelLayer(prefix, **OPTIONS)
        waits = asyncio.ensure_future(layer.receive("a"))
        await asyncio.sleep(0.02)
        await layer.close()
        waits.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waits

    asyncio.run(run())


def test_cancelling_raises_nothing_else_while_the_store_cannot_be_entered(make_layer, monkeypatch):
    """What could not be taken down then is taken down later, and steals no calls."""
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
def test_an_interrupt_behind_a_section_of_the_loop_leaves_nobody_asleep(layer, monkeypatch, point):
    """KeyboardInterrupt ends run_forever between a section and what the loop notes of it; the loop goes on later."""
    store = layer.message_store.wakeups
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
    assert not repaired(layer) & 1
    assert_sound(layer)


def test_a_flush_wakes_who_waits(prefix, layer):
    """He hangs himself up anew at once: a message that comes next does not lie until he looks."""

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


# -- after the commit -------------------------------------------------------------------------------------------


def test_upkeep_that_fails_loses_no_message(layer, monkeypatch):
    """The sweep behind an operation belongs to others: what it meets neither takes a message nor denies one."""
    store = layer.message_store
    real = store.sections.run

    def run(section, *args):
        if section is Sweep.step:
            raise SegmentCorrupt(store.name, "for once")
        return real(section, *args)

    monkeypatch.setattr(store.sections, "run", run)
    for number in range(3):
        time.sleep(0.002)
        layer.send("a", {"n": number})
    for number in range(3):
        time.sleep(0.002)
        assert layer.receive(["a"]) == ("a", {"n": number})


def test_a_ring_that_fails_loses_no_message(layer, monkeypatch):
    """A sender who cannot take a deserted FIFO down has sent all the same."""
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


# -- what is left -----------------------------------------------------------------------------------------------


def test_closed_and_dropped_layers_leave_no_bells(make_layer, prefix):
    """As long as another layer of the process is there, its slot stands for the process: so somebody must sweep."""
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


def test_a_bell_lost_in_a_process_that_lives_is_taken_down(layer):
    """A wakeup FIFO that was only dropped, with waiters on it: they steal no calls for ever, and keep no record."""
    store = layer.message_store
    fifo = store.wakeups.new_fifo()
    store.wakeups.pop_or_register(["a", "b"], fifo)
    del fifo
    gc.collect()
    assert len(fifos(layer)) == 1
    sweep(layer)
    assert not fifos(layer)
    assert_sound(layer)


def test_interrupting_the_end_of_a_blocking_receive_leaves_no_waiter(layer, monkeypatch):
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


def test_what_a_signal_handler_raises_is_not_lost_in_a_busy_store(layer, monkeypatch):
    """``sys.exit`` from a handler ends a sleeping worker, even if it cannot take its waiters down just then."""
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


def test_a_descriptor_that_somebody_closed_does_not_reach_the_sender(layer):
    """A program that closes every descriptor it finds loses what it remembered; it still sends."""
    store = layer.message_store
    fifo = store.wakeups.new_fifo()
    notifier = store.sections.opened().notifier
    assert notifier.notify(fifo.token)
    os.close(notifier._open[fifo.token])
    assert notifier.notify(fifo.token)
    assert fifo.wait(0)
    store.wakeups.dismiss(fifo)


def test_a_ringer_that_was_closed_keeps_nothing_open(layer, make_layer):
    """A thread rings while another one closes the layer: the descriptor it has opened is nobody's to close."""
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


def test_a_look_at_a_segment_that_another_thread_unmaps(layer, make_layer, monkeypatch):
    """Between the look at the descriptor and the one at the words the segment is closed: that is gone, no crash."""
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


# -- many at once -----------------------------------------------------------------------------------------------


def longest_section(store, monkeypatch, work):
    """Seconds that the longest section of ``work()`` took, and its name."""
    took = [(0.0, "")]
    real = store._run_here

    def timed(section, args):
        began = time.perf_counter()
        try:
            return real(section, args)
        finally:
            took.append((time.perf_counter() - began, section))

    with monkeypatch.context() as patch:
        patch.setattr(store, "_run_here", timed)
        work()
    return took


def test_thousands_who_were_called_are_told_in_slices(make_layer, monkeypatch):
    """No section of theirs visits them all: others get in between."""
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
    called = store.wakeups.take_notified(fifo)
    assert sorted(called) == sorted(registered.waiters)
    assert max(visits) == waiters.NOTIFIED_SLICE
    assert_sound(layer)
    store.wakeups.dismiss(fifo)


def test_thousands_of_calls_that_are_cancelled_before_they_run(make_layer):
    """Each leaves the news of the FIFO without a search through all the others."""
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
    assert many < few * 8 * 4  # eight times as many: a search made it sixty-four
    assert_sound(layer)
