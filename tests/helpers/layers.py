"""The state of layers, and a clock for their stores."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any

from asgi_ipc import ChannelFull, IPCChannelLayer, codec
from asgi_ipc.check import check_stores
from asgi_ipc.shm.layout import AT_RESERVED, WORD


class Clock:
    """A clock that stands still until ``forward`` is called. Calling it returns nanoseconds."""

    def __init__(self, *layers: IPCChannelLayer) -> None:
        self.now = time.monotonic_ns()
        self.rule(*layers)

    def __call__(self) -> int:
        return self.now

    def rule(self, *layers: IPCChannelLayer) -> None:
        """Make the stores of these layers use this clock."""
        for layer in layers:
            layer.message_store.sections.clock = layer.group_store.sections.clock = self

    def forward(self, seconds: float) -> None:
        """Advance the clock by ``seconds``."""
        self.now += int(seconds * 1e9)

    def seconds(self) -> float:
        """Return the time in seconds."""
        return self.now / 1e9


def message_of(size: int) -> dict[str, Any]:
    """Return a message whose encoded form has exactly ``size`` bytes: 1, or at least 3."""
    if size == 1:
        return {}
    for padding in range(max(0, size - 8), size):
        for message in ({"": "x" * padding}, {"": b"x" * padding}):
            if len(codec.encode(message)) == size:
                return message
    raise AssertionError(f"no message has {size} bytes")


State = tuple[dict[str, list[bytes]], dict[str, dict[str, int]]]


def state(layer: IPCChannelLayer) -> State:
    """Return everything that is stored: messages by channel, and members with their expiry by group."""
    return layer.message_store.snapshot(), layer.group_store.snapshot()


def assert_sound(layer: IPCChannelLayer) -> None:
    """Assert that every derived word of both segments is what a walk over the truth finds."""
    wrong = check_stores(layer.message_store, layer.group_store)
    assert not wrong, wrong


def drain(layer: IPCChannelLayer, *channels: str) -> list[tuple[str, dict[str, Any]]]:
    """Receive until nothing is left; return (channel, message) of each message, in order."""
    found: list[tuple[str, dict[str, Any]]] = []
    while True:
        channel, message = layer.receive(list(channels))
        if channel is None:
            return found
        assert message is not None
        found.append((channel, message))


def until_full(action: Callable[[int], object]) -> tuple[int, ChannelFull]:
    """Call ``action(0)``, ``action(1)``, ... until ``ChannelFull``; return (successes, error)."""
    for number in itertools.count():
        try:
            action(number)
        except ChannelFull as full:
            return number, full
    raise AssertionError


def heap_bytes(layer: IPCChannelLayer) -> int:
    """Return the size of the message segment's heap in bytes: all of the segment but its fixed parts."""
    attachment = layer.message_store.sections.attachment
    assert attachment is not None
    return (attachment.heap.end - attachment.heap.start) * WORD


def reserved_bytes(layer: IPCChannelLayer) -> int:
    """Return how many bytes of the message segment have memory reserved."""
    attachment = layer.message_store.sections.attachment
    assert attachment is not None
    return int(attachment.segment.words[AT_RESERVED]) * WORD


def recoveries(layer: IPCChannelLayer) -> dict[str, int]:
    """Return how often either store was recovered, by cause."""
    groups = layer.group_store.recoveries()
    return {cause: count + groups[cause] for cause, count in layer.message_store.recoveries().items()}
