"""Processes that are frozen and thawed, as ``docker pause`` and a suspended machine do it: all of them, or some."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from typing import Any

import pytest
from helpers.cgroups import Freezer
from helpers.holders import OPTIONS, STORES, holds, opened
from helpers.layers import assert_sound, recoveries
from helpers.processes import Children, Talk
from helpers.schedulers import SignalFreezer

from asgi_ipc import AsyncIPCChannelLayer, IPCChannelLayer, SegmentBusy

from .crew import LONGEST, Crew
from .workers import Inbox, Receiver, Sender, Server

#: The layer option ``patience``, and for how long everything is frozen.
PATIENCE, FROZEN = 2.0, 2.5
#: Seconds for which everything works between two freezes.
BETWEEN = 0.5
#: Seconds for which a process waits for the mutex before it is frozen, and again after that.
WAITED = 0.3


def test_everything_is_frozen_and_thawed(
    make_crew: Callable[..., Crew], freezer: Freezer | SignalFreezer, seconds: float
) -> None:
    """Each freeze takes longer than ``patience``, and no call raises ``SegmentBusy`` after it."""
    crew = make_crew(patience=PATIENCE)
    pids = crew.hire(Inbox, 2) + crew.hire(Server, 2) + crew.hire(Receiver, 2)
    crew.begin()
    for pid in pids + crew.hire(Sender, 4):
        freezer.add(pid)
    for _ in range(round(seconds)):
        crew.work(BETWEEN)
        freezer.freeze()
        time.sleep(FROZEN)
        freezer.thaw()
    crew.finish(LONGEST + FROZEN)


def test_some_are_frozen_while_others_work(make_crew: Callable[..., Crew], seconds: float) -> None:
    """Some of them are stopped inside. The others wait for these, and do not recover."""
    crew = make_crew()
    pids = crew.hire(Inbox, 2) + crew.hire(Server, 2) + crew.hire(Receiver, 2)
    crew.begin()
    pids += crew.hire(Sender, 4)
    rng = random.Random("some")
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with SignalFreezer() as some:
            for pid in rng.sample(pids, 3):
                some.add(pid)
            some.freeze()
            time.sleep(rng.uniform(0.01, 0.3))
        crew.work(0.01)
    crew.finish()


# -- a process that waits for the mutex is frozen together with its holder --


def waits(talk: Talk, prefix: str, front_end: str, store: str) -> None:
    """A child: when told to, start an operation that must wait for the mutex, and report how it ended."""
    {"sync": _waits, "async": _waits_in_loop}[front_end](talk, prefix, store)


def _waits(talk: Talk, prefix: str, store: str) -> None:
    with opened(prefix, patience=PATIENCE) as layer:
        talk.say("ready")
        talk.hear()
        try:
            STORES[store][1](layer)
        except SegmentBusy as busy:
            talk.say(str(busy))
        else:
            talk.say("done")


def _waits_in_loop(talk: Talk, prefix: str, store: str) -> None:
    """Do the same in an event loop, in which two receives wait as well. No message comes for the second one."""
    options: dict[str, Any] = OPTIONS

    async def main() -> None:
        async with AsyncIPCChannelLayer(prefix, patience=PATIENCE, **options) as layer:
            receives = [asyncio.ensure_future(layer.receive(channel)) for channel in ("a", "nothing")]
            await asyncio.sleep(WAITED)
            talk.say("ready")
            talk.hear()
            try:
                if store == "groups":
                    await layer.group_add("g", "a")
                await layer.send("a", {"n": 1})
                await asyncio.wait_for(receives[0], 30)
            except SegmentBusy as busy:
                talk.say(str(busy))
            else:
                talk.say("done" if not receives[1].done() else f"a receive has ended: {receives[1]}")
            receives[1].cancel()

    asyncio.run(main())


@pytest.mark.parametrize("front_end", ["sync", "async"])
@pytest.mark.parametrize("store", STORES)
def test_a_waiter_is_frozen_with_the_holder(
    prefix: str,
    layer: IPCChannelLayer,
    start: Children,
    freezer: Freezer | SignalFreezer,
    front_end: str,
    store: str,
) -> None:
    """The holder leaves after the thaw, and the waiter goes on, although more than ``patience`` has passed."""
    waiter = start(waits, prefix, front_end, store)
    assert waiter.hear() == "ready"
    holder = start(holds, prefix, STORES[store][0])
    holder.hear()
    waiter.say()
    time.sleep(WAITED)
    for child in (holder, waiter):
        freezer.add(child.pid)
    freezer.freeze()
    time.sleep(FROZEN)
    freezer.thaw()
    time.sleep(WAITED)
    holder.say()
    assert holder.hear() == "out"
    assert waiter.hear() == "done"
    holder.say()
    for child in (holder, waiter):
        child.end()
    assert not any(recoveries(layer).values())
    assert_sound(layer)
