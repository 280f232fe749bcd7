"""The state of waiting receivers, and switching off the polls that find lost notifications."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar, Union

from asgi_ipc import AsyncIPCChannelLayer, IPCChannelLayer
from asgi_ipc.check import check_stores
from asgi_ipc.shm.fifo_directory import fifo_directory
from asgi_ipc.shm.layout import AT_FIFOS
from asgi_ipc.stores.messages.channels import WAITING
from asgi_ipc.stores.messages.store import MessageStore
from asgi_ipc.stores.messages.waiters import NEXT_FIFO
from asgi_ipc.structures import ring
from asgi_ipc.waiting import hub, thread

from .processes import LIMIT

AnyLayer = Union[IPCChannelLayer, AsyncIPCChannelLayer]
T = TypeVar("T")

#: Options of the layers in children: those of the fixtures, as other sizes would be logged.
OPTIONS: dict[str, Any] = {"message_memory": 1 << 20, "group_memory": 1 << 18}
#: Seconds, longer than any test: a waiter with this poll period depends on being notified.
NEVER = 3600.0


def never_poll(set_to: Callable[[Any, str, float], None] = setattr) -> None:
    """
    Switch off the polls of all waiters in this process, so that they depend on notifications.

    ``set_to`` sets an attribute; ``monkeypatch.setattr`` restores it at the end of the test.
    """
    for module in (hub, thread):
        set_to(module, "POLL_PERIOD", NEVER)


def store_of(layer: AnyLayer) -> MessageStore:
    """Return the message store of a layer of either front end."""
    return (layer if isinstance(layer, IPCChannelLayer) else layer._layer).message_store


def waiters(layer: AnyLayer, channel: str) -> int:
    """Return how many waiters are registered for a channel, by all processes."""
    store = store_of(layer)
    channels = store.sections.parts.queues.channels

    def count() -> int:
        record = channels.find(channel)
        return int(channels.words[record + WAITING]) if record else 0

    found: int = store.sections.exclusively(count)
    return found


def fifos(layer: AnyLayer) -> int:
    """Return how many wakeup FIFOs are registered in the message segment, by all processes."""
    store = store_of(layer)
    words = store.sections.parts.queues.words
    return len(store.sections.exclusively(lambda: list(ring.walk(words, AT_FIFOS, NEXT_FIFO, 1 << 20))))


def assert_sound(layer: AnyLayer) -> None:
    """Assert that every derived word of the message segment is what a walk over the truth finds."""
    wrong = check_stores(store_of(layer))
    assert not wrong, wrong


def files_of(prefix: str) -> list[str]:
    """Return the file names of a prefix's wakeup FIFOs."""
    try:
        return os.listdir(fifo_directory(f"{prefix}-messages"))
    except FileNotFoundError:  # it is removed with the segment
        return []


def until(condition: Callable[[], bool]) -> None:
    """Wait in this thread until a condition holds."""
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline, f"still not after {LIMIT} s"
        time.sleep(0.001)


async def until_async(condition: Callable[[], bool]) -> None:
    """Wait in the event loop until a condition holds."""
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline, f"still not after {LIMIT} s"
        await asyncio.sleep(0.001)


async def until_waiting(layer: AnyLayer, channel: str, count: int) -> None:
    """Wait in the event loop until ``count`` waiters are registered for a channel."""
    await until_async(lambda: waiters(layer, channel) == count)


async def within(awaitable: Awaitable[T]) -> T:
    """Return the result of an awaitable; raise ``TimeoutError`` if it takes longer than ``LIMIT``."""
    return await asyncio.wait_for(awaitable, LIMIT)


async def ended(task: asyncio.Task[Any]) -> bool:
    """Cancel a task and wait for its end; return False if it returned a result all the same."""
    task.cancel()
    try:
        await within(task)
    except asyncio.CancelledError:
        return True
    return False


def run_in(loop: asyncio.AbstractEventLoop, main: Coroutine[Any, Any, T]) -> T:
    """Run ``main`` like ``asyncio.run``, in a given loop; close the loop at the end."""

    async def cancel_the_rest() -> None:
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    try:
        return loop.run_until_complete(main)
    finally:
        loop.run_until_complete(cancel_the_rest())
        loop.close()
