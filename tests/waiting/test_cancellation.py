"""
Cancelling ``receive`` at any moment loses no message: the receivers that still wait get what is there.

Waiters also poll once a second, which finds whatever was lost. Most tests switch the polls off, so that a
message arrives only if the cancelled receive has passed its notification on.
"""

from __future__ import annotations

import asyncio
import gc
import weakref

import pytest
from helpers.waiting import (
    OPTIONS,
    assert_sound,
    ended,
    never_poll,
    store_of,
    until_async,
    until_waiting,
    waiters,
    within,
)

from asgi_ipc import AsyncIPCChannelLayer, IPCChannelLayer

#: More steps of the event loop than it takes from a message to the end of the ``receive`` that takes it.
STEPS = 10


@pytest.fixture
def no_polling(monkeypatch):
    never_poll(monkeypatch.setattr)


async def steps(count):
    for _ in range(count):
        await asyncio.sleep(0)


def waits(talk, prefix, channel):
    """A child: receive from a channel in an event loop, without polling, and report each message."""
    never_poll()

    async def main():
        async with AsyncIPCChannelLayer(prefix, **OPTIONS) as layer:
            while True:
                talk.say(await layer.receive(channel))

    asyncio.run(main())


def sleeps(talk, prefix, channel):
    """A child: do the same with blocking receives."""
    never_poll()
    with IPCChannelLayer(prefix, block_timeout=3600, **OPTIONS) as layer:
        while True:
            talk.say(layer.receive([channel], block=True)[1])


@pytest.mark.usefixtures("no_polling")
@pytest.mark.parametrize("channel", ["plain", "specific.process!one"])
def test_cancelled_receive_passes_its_notification_on_in_the_same_loop(make_async, channel):
    layer = make_async()

    async def main():
        passed_on = 0
        for number in range(STEPS):
            first = asyncio.create_task(layer.receive(channel))
            await until_waiting(layer, channel, 1)
            second = asyncio.create_task(layer.receive(channel))
            await until_waiting(layer, channel, 2)
            await layer.send(channel, {"n": number})
            await steps(number)
            if await ended(first):
                passed_on += 1
                assert await within(second) == {"n": number}
            else:
                assert first.result() == {"n": number}
                assert await ended(second)
        assert 0 < passed_on < STEPS, "the cancellation came before the message, or after it, every time"
        assert waiters(layer, channel) == 0
        assert_sound(layer)

    asyncio.run(main())


@pytest.mark.usefixtures("no_polling")
@pytest.mark.parametrize("other", [waits, sleeps])
def test_cancelled_receive_passes_its_notification_on_to_another_process(make_async, prefix, start, other):
    layer = make_async()
    child = start(other, prefix, "a")

    async def main():
        passed_on = 0
        await until_waiting(layer, "a", 1)
        for number in range(STEPS):
            # The child's waiter is the first of the channel: a message for it makes it register behind ours.
            first = asyncio.create_task(layer.receive("a"))
            await until_waiting(layer, "a", 2)
            await layer.send("a", {"n": -1})
            assert await asyncio.to_thread(child.hear) == {"n": -1}
            await until_waiting(layer, "a", 2)
            await layer.send("a", {"n": number})
            await steps(number)
            if await ended(first):
                passed_on += 1
                assert await asyncio.to_thread(child.hear) == {"n": number}
                await until_waiting(layer, "a", 1)
            else:
                assert first.result() == {"n": number}
        assert 0 < passed_on < STEPS, "the cancellation came before the message, or after it, every time"

    asyncio.run(main())
    child.die()


@pytest.mark.usefixtures("no_polling")
def test_receive_that_was_cancelled_before_a_message_came_is_not_notified(make_async):
    layer = make_async()

    async def main():
        tasks = [asyncio.create_task(layer.receive("a")) for _ in range(6)]
        await until_waiting(layer, "a", 6)
        for task in tasks[:5]:
            assert await ended(task)
        assert waiters(layer, "a") == 1
        await layer.send("a", {"n": 1})
        assert await within(tasks[5]) == {"n": 1}

    asyncio.run(main())


@pytest.mark.usefixtures("no_polling")
def test_notified_receives_are_cancelled_together_and_the_others_get_every_message(make_async):
    layer = make_async()

    async def main():
        for number in range(STEPS):
            tasks = [asyncio.create_task(layer.receive("a")) for _ in range(20)]
            await until_waiting(layer, "a", 20)
            for each in range(10):
                await layer.send("a", {"n": each})
            await steps(number)
            for task in tasks[:10]:
                task.cancel()
            early = [task for task in tasks[:10] if not await ended(task)]
            late = [await within(task) for task in tasks[10 : 20 - len(early)]]
            assert sorted(each["n"] for each in [*(task.result() for task in early), *late]) == list(range(10))
            for task in tasks[20 - len(early) :]:
                assert await ended(task)

    asyncio.run(main())


# -- several channels ----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_polling")
@pytest.mark.parametrize("cancel", [False, True])
def test_receive_notified_for_two_channels_passes_one_notification_on(make_layer, cancel):
    """It takes one message, or none if it is cancelled; the other waiters of the channels get the rest."""
    layer = make_layer()

    async def main():
        took = set()
        for number in range(30):
            both = asyncio.create_task(layer.receive_async(["a", "b"]))
            await until_waiting(layer, "b", 1)
            single = {each: asyncio.create_task(layer.receive_async([each])) for each in "ab"}
            await until_waiting(layer, "a", 2)
            await until_waiting(layer, "b", 2)
            for each in "ab":
                layer.send(each, {"n": number})
            if cancel:
                await steps(number % 3)
            expected = set("ab")
            if not (cancel and await ended(both)):
                taken, message = await within(both)
                assert message == {"n": number}
                took.add(taken)
                expected -= {taken}
            for each in expected:
                assert await within(single[each]) == (each, {"n": number})
            for each in set("ab") - expected:
                assert await ended(single[each])
        assert cancel or took == set("ab"), "one channel was never served"
        assert_sound(layer)

    asyncio.run(main())


@pytest.mark.usefixtures("no_polling")
def test_receive_that_took_a_message_no_longer_waits_for_its_other_channels(make_layer):
    layer = make_layer()

    async def main():
        for _ in range(5):
            both = asyncio.create_task(layer.receive_async({"a", "b"}))
            await until_waiting(layer, "b", 1)
            other = asyncio.create_task(layer.receive_async(["b"]))
            await until_waiting(layer, "b", 2)
            layer.send("a", {"n": 1})
            assert await within(both) == ("a", {"n": 1})
            assert waiters(layer, "b") == 1
            layer.send("b", {"n": 2})
            assert await within(other) == ("b", {"n": 2})

    asyncio.run(main())


@pytest.mark.usefixtures("no_polling")
def test_waiters_of_an_inbox_and_of_its_channel_pass_notifications_on_to_each_other(make_layer, make_async):
    inboxes, locals_ = make_layer(), make_async()
    inbox, channel = "specific.process!", "specific.process!one"

    async def main():
        for inbox_first in (False, True):
            for number in range(STEPS):
                receives = [lambda: locals_.receive(channel), lambda: inboxes.receive_async([inbox])]
                tasks = []
                for receive in receives[::-1] if inbox_first else receives:
                    tasks.append(asyncio.create_task(receive()))
                    await steps(3)
                await until_waiting(inboxes, inbox, 1)
                await until_waiting(inboxes, channel, 1)
                await locals_.send(channel, {"n": number})
                await steps(number)
                first, second = tasks if waiters(inboxes, channel) == 0 else tasks[::-1]
                results = []
                for task in (first, second):
                    if not results and not await ended(task):
                        results.append(task.result())
                    elif not results and task is first:
                        results.append(await within(second))
                        break
                    elif task is second:
                        assert await ended(second)
                assert results in ([{"n": number}], [(channel, {"n": number})])
        assert_sound(inboxes)

    asyncio.run(main())


# -- timeouts ------------------------------------------------------------------------------------------------


def test_timed_out_receive_leaves_no_waiter(make_async):
    layer = make_async()

    async def main():
        for seconds in (0, 0.001, 0.02):
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(layer.receive("a"), seconds)
        assert waiters(layer, "a") == 0
        await layer.send("a", {"n": 1})
        assert await asyncio.wait_for(layer.receive("a"), 60) == {"n": 1}

    asyncio.run(main())


def test_receives_that_the_end_of_their_loop_cancels_leave_no_waiter(make_async):
    """``asyncio.run`` cancels its tasks when ``main`` returns, and when ``KeyboardInterrupt`` ends it."""
    layer = make_async()

    async def main(raised):
        for _ in range(10):
            asyncio.create_task(layer.receive("a"))  # noqa: RUF006  the loop cancels it
        await until_waiting(layer, "a", 10)
        await layer.send("a", {"n": 1})
        if raised:
            raise raised

    asyncio.run(main(None))
    assert waiters(layer, "a") == 0
    assert asyncio.run(layer.receive("a")) == {"n": 1}
    with pytest.raises(KeyboardInterrupt):
        asyncio.run(main(KeyboardInterrupt()))
    assert waiters(layer, "a") == 0
    assert asyncio.run(layer.receive("a")) == {"n": 1}
    assert_sound(layer)


# -- coroutines that are closed or collected -----------------------------------------------------------------


def test_closed_coroutine_leaves_no_waiter(make_async):
    layer = make_async()

    async def main():
        waiting = layer.receive("a")
        waiting.send(None)  # the first step registers its waiter
        assert waiters(layer, "a") == 1
        waiting.close()
        await until_waiting(layer, "a", 0)
        await layer.send("a", {"n": 1})
        assert await layer.receive("a") == {"n": 1}
        assert_sound(layer)

    asyncio.run(main())


@pytest.mark.usefixtures("no_polling")
def test_coroutine_closed_after_its_notification_passes_it_on(make_async):
    layer = make_async()

    async def main():
        for number in range(STEPS):
            waiting = layer.receive("a")
            waiting.send(None)
            other = asyncio.create_task(layer.receive("a"))
            await until_waiting(layer, "a", 2)
            await layer.send("a", {"n": number})
            await steps(number)
            waiting.close()
            with pytest.raises(asyncio.TimeoutError):  # the next use of the hub cancels what was abandoned
                await asyncio.wait_for(layer.receive("b"), 0.001)
            assert await within(other) == {"n": number}

    asyncio.run(main())


def test_exception_thrown_into_a_coroutine_loses_no_message(make_async):
    """``throw`` raises at the one ``await`` where the coroutine waits."""
    layer = make_async()

    async def main():
        for error in (ZeroDivisionError, asyncio.CancelledError, KeyboardInterrupt):
            waiting = layer.receive("a")
            waiting.send(None)
            await layer.send("a", {"n": 1})
            await steps(3)
            with pytest.raises(error):
                waiting.throw(error())
            assert waiters(layer, "a") == 0
            assert await within(layer.receive("a")) == {"n": 1}

    asyncio.run(main())


def test_garbage_collection_in_a_critical_section_may_close_a_waiting_coroutine(make_async):
    """The finaliser must not take the mutex, which its own thread already holds."""
    layer = make_async()
    store = store_of(layer)

    async def main():
        for _ in range(20):
            waiting = layer.receive("a")
            waiting.send(None)
            cycle = [waiting]
            cycle.append(cycle)
            reference = weakref.ref(waiting)
            del waiting, cycle
            assert reference() is not None
            store.sections.exclusively(gc.collect)
            assert reference() is None
        await until_waiting(layer, "a", 0)
        await layer.send("a", {"n": 1})
        assert await layer.receive("a") == {"n": 1}
        assert_sound(layer)

    gc.disable()
    try:
        asyncio.run(main())
    finally:
        gc.enable()


# -- the layer is closed, or its segment removed, while receives wait ----------------------------------------


def test_receive_cancelled_after_the_layer_was_closed_raises_cancelled_error(make_async):
    """As in a program that closes its layer before ``asyncio.run`` cancels the tasks that still wait."""
    layer = make_async()

    async def main():
        task = asyncio.create_task(layer.receive("a"))
        await until_waiting(layer, "a", 1)
        await layer.close()
        assert await ended(task)

    asyncio.run(main())


def test_receive_cancelled_after_its_segment_was_removed_raises_cancelled_error(make_async):
    layer = make_async()

    async def main():
        for number in range(4):
            tasks = [asyncio.create_task(layer.receive("a")) for _ in range(2)]
            await until_async(lambda: waiters(layer, "a") == 2)
            await layer.unlink()
            await steps(number)
            assert await ended(tasks[0])
            await layer.send("a", {"n": number})
            assert await within(tasks[1]) == {"n": number}

    asyncio.run(main())
