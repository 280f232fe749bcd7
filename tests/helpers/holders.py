"""Processes that hold the mutex of a store, and processes that wait for it."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from asgi_ipc import IPCChannelLayer, SegmentBusy
from asgi_ipc.shm.file_locks import ByteLocks
from asgi_ipc.shm.layout import SLOTS
from asgi_ipc.shm.segment import Segment

from .processes import Talk

OPTIONS = {"message_memory": 1 << 20, "group_memory": 1 << 18, "capacity": 10**6}
#: The layer option ``patience``, in seconds: how long an operation waits for a holder that makes no progress.
PATIENCE = 0.5

#: The stores of a layer: the attribute, and an operation that takes the store's mutex.
STORES: dict[str, tuple[str, Callable[[IPCChannelLayer], None]]] = {
    "messages": ("message_store", lambda layer: layer.send("a", {"n": 1})),
    "groups": ("group_store", lambda layer: layer.group_add("g", "a")),
}
stores = pytest.mark.parametrize(("store", "operation"), STORES.values(), ids=STORES)


def opened(prefix: str, **options: Any) -> IPCChannelLayer:
    """Return a layer with the options that all processes of these tests share."""
    return IPCChannelLayer(prefix, **{**OPTIONS, **options})


def segment_of(layer: IPCChannelLayer, store: str = "message_store") -> Segment:
    """Return the segment of one of a layer's stores."""
    found: Segment = getattr(layer, store).sections.opened().segment
    return found


def holds(talk: Talk, prefix: str, store: str) -> None:
    """A child: enter a critical section, report the process id, and leave when told to."""

    def stay() -> None:
        talk.say(os.getpid())
        talk.hear()

    with opened(prefix) as layer:
        getattr(layer, store).sections.exclusively(stay)
        talk.say("out")
        talk.hear()


def tries(talk: Talk, prefix: str, store: str) -> None:
    """A child: run one operation whenever told to, and report how it ended."""
    with opened(prefix, patience=PATIENCE) as layer:
        while True:
            talk.say("ready")
            if not talk.hear():
                return
            try:
                STORES[store][1](layer)
                talk.say(["done"])
            except SegmentBusy as busy:
                talk.say(["busy", busy.pid, str(busy)])


def locked_bytes(talk: Talk, path: str) -> None:
    """A child: report the locked bytes of a file, each with the process that holds the lock."""
    locks = ByteLocks(os.open(path, os.O_RDWR))
    talk.say([[byte, locks.holder(byte)] for byte in range(1 + SLOTS) if locks.holder(byte) is not None])


def use(layer: IPCChannelLayer, name: str, count: int) -> None:
    """Send to the channel ``name`` and receive from it, ``count`` times; then add it to a group."""
    for number in range(count):
        layer.send(name, {"n": number})
        assert layer.receive([name]) == (name, {"n": number})
    layer.send("all", {"from": name})
    layer.group_add("g", name)
