"""Looking at layers from outside, and ruling their time."""

from __future__ import annotations

import itertools
import time
from typing import Any, Callable, Dict, List, Tuple

from asgi_ipc import ChannelFull, IPCChannelLayer, codec
from asgi_ipc.check import check_stores
from asgi_ipc.shm.layout import AT_RESERVED, WORD


class Clock:
    """Nanoseconds that pass only when told to: for the stores of layers, and for whatever counts seconds."""

    def __init__(self, *layers: IPCChannelLayer) -> None:
        self.now = time.monotonic_ns()
        self.rule(*layers)

    def __call__(self) -> int:
        return self.now

    def rule(self, *layers: IPCChannelLayer) -> None:
        """Let these layers live by this clock."""
        for layer in layers:
            layer.message_store.sections.clock = layer.group_store.sections.clock = self

    def forward(self, seconds: float) -> None:
        """Let time pass."""
        self.now += int(seconds * 1e9)

    def seconds(self) -> float:
        """The time in seconds."""
        return self.now / 1e9


def message_of(size: int) -> Dict[str, Any]:
    """A message whose encoded form has exactly ``size`` bytes: 1, or at least 3."""
    if size == 1:
        return {}
    for padding in range(max(0, size - 8), size):
        for message in ({"": "x" * padding}, {"": b"x" * padding}):
            if len(codec.encode(message)) == size:
                return message
    raise AssertionError(f"no message has {size} bytes")


State = Tuple[Dict[str, List[bytes]], Dict[str, Dict[str, int]]]


def state(layer: IPCChannelLayer) -> State:
    """Everything that is kept, as plain dicts: messages by channel, and members with their end by group."""
    return layer.message_store.snapshot(), layer.group_store.snapshot()


def assert_sound(layer: IPCChannelLayer) -> None:
    """Every derived word is what a walk over the truth finds."""
    wrong = check_stores(layer.message_store, layer.group_store)
    assert not wrong, wrong


def drain(layer: IPCChannelLayer, *channels: str) -> List[Tuple[str, Dict[str, Any]]]:
    """Receive until there is nothing left: what came, in order."""
    found: List[Tuple[str, Dict[str, Any]]] = []
    while True:
        channel, message = layer.receive(list(channels))
        if channel is None:
            return found
        assert message is not None
        found.append((channel, message))


def until_full(action: Callable[[int], object]) -> Tuple[int, ChannelFull]:
    """Call ``action(0)``, ``action(1)``, ... until one is refused: how many were not, and the refusal."""
    for number in itertools.count():
        try:
            action(number)
        except ChannelFull as full:
            return number, full
    raise AssertionError


def heap_bytes(layer: IPCChannelLayer) -> int:
    """The bytes of the message segment that messages and channels share: all of it but the fixed parts."""
    attachment = layer.message_store.sections.attachment
    assert attachment is not None
    return (attachment.heap.end - attachment.heap.start) * WORD


def reserved_bytes(layer: IPCChannelLayer) -> int:
    """The bytes of the message segment that have memory."""
    attachment = layer.message_store.sections.attachment
    assert attachment is not None
    return int(attachment.segment.words[AT_RESERVED]) * WORD
