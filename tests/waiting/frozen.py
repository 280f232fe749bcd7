"""
What a process does while its time is frozen: the cases of ``test_frozen_time``, which run in children.

A case learns no time from ``time.time`` or ``time.monotonic``, and ends by no timer of its event loop: these are frozen
too. ``freeze`` has a watchdog, which ends a process that hangs.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

from helpers.processes import Talk
from helpers.waiting import OPTIONS, waiters

from asgi_ipc import AsyncIPCChannelLayer, IPCChannelLayer, clock

#: Seconds after which a process counts as hung.
HANG = 30.0
#: Steps of an event loop after which a receive is pending.
STEPS = 10
PAST, FUTURE = "2012-01-14", "2112-01-14"


def _freezegun(date: str, **options: Any) -> AbstractContextManager[Any]:
    import freezegun

    frozen: AbstractContextManager[Any] = freezegun.freeze_time(date, **options)
    return frozen


def _time_machine(date: str, tick: bool) -> AbstractContextManager[Any]:
    import time_machine

    travel: AbstractContextManager[Any] = time_machine.travel(f"{date}T00:00+00:00", tick=tick)
    return travel


@contextlib.contextmanager
def _own_clocks() -> Iterator[None]:
    """Stop even the clocks of the package, as no known library does."""
    before = clock.monotonic, clock.monotonic_ns, clock.Quickest.monotonic_ns
    clock.monotonic = lambda: 1e9  # type: ignore[assignment]
    clock.monotonic_ns = clock.Quickest.monotonic_ns = lambda: 10**18  # type: ignore[assignment]
    try:
        yield
    finally:
        clock.monotonic, clock.monotonic_ns, clock.Quickest.monotonic_ns = before  # type: ignore[assignment]


FREEZERS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "freezegun": lambda: _freezegun(PAST),
    "freezegun-future": lambda: _freezegun(FUTURE),
    "freezegun-tick": lambda: _freezegun(PAST, tick=True),
    "freezegun-auto-tick": lambda: _freezegun(PAST, auto_tick_seconds=15),
    "freezegun-real-asyncio": lambda: _freezegun(PAST, real_asyncio=True),
    "time-machine": lambda: _time_machine(PAST, tick=True),
    "time-machine-still": lambda: _time_machine(FUTURE, tick=False),
    "own-clocks": _own_clocks,
}


@contextlib.contextmanager
def freeze(freezer: str) -> Iterator[None]:
    """Freeze time, and end this process with a traceback if it hangs."""
    faulthandler.dump_traceback_later(HANG, exit=True)
    with FREEZERS[freezer]():
        yield
    faulthandler.cancel_dump_traceback_later()


def real() -> float:
    """Return the seconds of a clock that cannot be frozen."""
    return time.clock_gettime(time.CLOCK_BOOTTIME if hasattr(time, "CLOCK_BOOTTIME") else time.CLOCK_MONOTONIC)


# -- the synchronous layer ----------------------------------------------------------------------------------------


def sync_exchange(prefix: str, freezer: str) -> None:
    with freeze(freezer), IPCChannelLayer(prefix, **OPTIONS) as layer:
        for channel in ("a", "p!x", "b"):
            layer.send(channel, {"n": 1})
            layer.group_add("g", channel)
        layer.send_group("g", {"n": 2})
        assert layer.group_channels("g") == ["a", "p!x", "b"]
        for wanted, channel in (("a", "a"), ("p!", "p!x"), ("b", "b")):
            assert layer.receive([wanted]) == (channel, {"n": 1})
            assert layer.receive([wanted], block=True) == (channel, {"n": 2})
            assert layer.receive([wanted]) == (None, None)
        assert layer.global_statistics()["messages_count"] == 6


def sync_timeout(prefix: str, freezer: str) -> None:
    with freeze(freezer), IPCChannelLayer(prefix, **OPTIONS, block_timeout=0.3) as layer:
        began = real()
        assert layer.receive(["a", "p!"], block=True) == (None, None)
        assert real() - began >= 0.29
        assert waiters(layer, "a") == 0


def sync_message_of_a_thread(prefix: str, freezer: str) -> None:
    with freeze(freezer), IPCChannelLayer(prefix, **OPTIONS, block_timeout=3600) as layer:

        def send() -> None:
            while not waiters(layer, "a"):
                time.sleep(0.001)
            layer.send("a", {"n": 1})

        thread = threading.Thread(target=send)
        thread.start()
        assert layer.receive(["a"], block=True) == ("a", {"n": 1})
        thread.join()


def sync_message_of_a_process(talk: Talk, prefix: str, freezer: str) -> None:
    with freeze(freezer), IPCChannelLayer(prefix, **OPTIONS, block_timeout=3600) as layer:
        talk.say("receiving")
        assert layer.receive(["b", "a"], block=True) == ("a", {"n": 1})
    talk.say("done")


def sync_after_a_dead_holder(talk: Talk, prefix: str, freezer: str) -> None:
    """A process was killed inside the critical section of each store."""
    with freeze(freezer), IPCChannelLayer(prefix, **OPTIONS) as layer:
        layer.group_add("g", "a")
        layer.send_group("g", {"n": 1})
        assert layer.receive(["a"]) == ("a", {"n": 1})
    talk.say("done")


def sync_expiry(talk: Talk, prefix: str, freezer: str) -> None:
    """Messages and members expire by the clock that no library changes: neither later nor earlier."""
    with IPCChannelLayer(prefix, **OPTIONS) as before:
        before.send("early", {"n": 1})
        before.group_add("g", "early")
        with freeze(freezer), IPCChannelLayer(prefix, **OPTIONS, expiry=0.3) as brief:
            assert brief.receive(["early"]) == ("early", {"n": 1})
            assert brief.group_channels("g") == ["early"]
            before.send("late", {"n": 2})
            brief.send("gone", {"n": 3})
            began = real()
            while real() - began < 0.4:
                time.sleep(0.05)
            assert brief.receive(["gone"]) == (None, None)
            assert brief.global_statistics()["messages_max_age"] < HANG
            before.send("late", {"n": 4})
        assert before.receive(["late"]) == ("late", {"n": 2})
        assert before.receive(["late"]) == ("late", {"n": 4})
        assert before.group_channels("g") == ["early"]
    talk.say("done")


# -- the asynchronous layer ---------------------------------------------------------------------------------------


async def _pending(layer: AsyncIPCChannelLayer, channel: str) -> asyncio.Task[Any]:
    """Return a receive that waits."""
    task = asyncio.ensure_future(layer.receive(channel))
    for _ in range(STEPS):
        await asyncio.sleep(0)
    assert waiters(layer, channel) == 1
    return task


def _run(prefix: str, freezer: str, main: Callable[[AsyncIPCChannelLayer], Any]) -> None:
    async def run() -> None:
        async with AsyncIPCChannelLayer(prefix, **OPTIONS) as layer:
            await main(layer)

    with freeze(freezer):
        asyncio.run(run())


def async_exchange(prefix: str, freezer: str) -> None:
    async def main(layer: AsyncIPCChannelLayer) -> None:
        channels = ["a", await layer.new_channel(), await layer.new_channel()]
        for channel in channels:
            await layer.send(channel, {"n": 1})
            await layer.group_add("g", channel)
        await layer.group_send("g", {"n": 2})
        for channel in channels:
            assert [await layer.receive(channel) for _ in range(2)] == [{"n": 1}, {"n": 2}]

    _run(prefix, freezer, main)


def async_cancelled(prefix: str, freezer: str) -> None:
    async def main(layer: AsyncIPCChannelLayer) -> None:
        for n in range(3):
            task = await _pending(layer, "a")
            task.cancel()
            assert await asyncio.gather(task, return_exceptions=True) != [None]
            assert task.cancelled()
            assert waiters(layer, "a") == 0
            await layer.send("a", {"n": n})
            assert await layer.receive("a") == {"n": n}

    _run(prefix, freezer, main)


def async_message_of_the_loop(prefix: str, freezer: str) -> None:
    async def main(layer: AsyncIPCChannelLayer) -> None:
        tasks = {channel: await _pending(layer, channel) for channel in ("a", await layer.new_channel())}
        for channel, task in tasks.items():
            await layer.send(channel, {"n": 1})
            assert await task == {"n": 1}

    _run(prefix, freezer, main)


def async_message_of_a_process(talk: Talk, prefix: str, freezer: str) -> None:
    async def main(layer: AsyncIPCChannelLayer) -> None:
        task = await _pending(layer, "a")
        talk.say("receiving")
        assert await task == {"n": 1}

    _run(prefix, freezer, main)
    talk.say("done")


def async_idle(talk: Talk, prefix: str, freezer: str) -> None:
    """A receive that waits leaves the processor alone, although its loop's timers may be frozen."""

    async def main(layer: AsyncIPCChannelLayer) -> None:
        task = await _pending(layer, "a")
        used = time.clock_gettime(time.CLOCK_PROCESS_CPUTIME_ID)
        await asyncio.get_running_loop().run_in_executor(None, time.sleep, 1)
        used = time.clock_gettime(time.CLOCK_PROCESS_CPUTIME_ID) - used
        assert used < 0.5, f"{used} s of processor time in 1 s"
        await layer.send("a", {"n": 1})
        assert await task == {"n": 1}

    _run(prefix, freezer, main)
    talk.say("done")


def in_one_process(talk: Talk, prefix: str, freezer: str) -> None:
    """Run the cases that need no other process, and freeze and thaw for each."""
    for case in (
        sync_exchange,
        sync_timeout,
        sync_message_of_a_thread,
        async_exchange,
        async_cancelled,
        async_message_of_the_loop,
    ):
        case(prefix, freezer)
    talk.say("done")
