"""Processes that hold the critical section, and others that want to get in."""

from __future__ import annotations

import os
from typing import Any, Callable, Dict, Tuple

import pytest

from asgi_ipc import IPCChannelLayer, SegmentBusy
from asgi_ipc.shm.file_locks import ByteLocks
from asgi_ipc.shm.layout import SLOTS
from asgi_ipc.shm.segment import Segment

from .processes import Talk

OPTIONS = {"message_memory": 1 << 20, "group_memory": 1 << 18, "capacity": 10**6}
#: Seconds that a test waits for a holder which does not move.
PATIENCE = 0.5

#: A layer's stores: the attribute, and an operation that goes through its section.
STORES: Dict[str, Tuple[str, Callable[[IPCChannelLayer], None]]] = {
    "messages": ("message_store", lambda layer: layer.send("a", {"n": 1})),
    "groups": ("group_store", lambda layer: layer.group_add("g", "a")),
}
stores = pytest.mark.parametrize(("store", "operation"), STORES.values(), ids=STORES)


def opened(prefix: str, **options: Any) -> IPCChannelLayer:
    """A layer as every process of these tests makes it."""
    return IPCChannelLayer(prefix, **{**OPTIONS, **options})


def segment_of(layer: IPCChannelLayer, store: str = "message_store") -> Segment:
    """The segment of one of a layer's stores."""
    found: Segment = getattr(layer, store).sections.opened().segment
    return found


def holds(talk: Talk, prefix: str, store: str) -> None:
    """A child: go into the section, say so, and come out when told to."""

    def stay() -> None:
        talk.say(os.getpid())
        talk.hear()

    with opened(prefix) as layer:
        getattr(layer, store).sections.exclusively(stay)
        talk.say("out")
        talk.hear()


def tries(talk: Talk, prefix: str, store: str) -> None:
    """A child: run one operation whenever it is told to, and say how it ended."""
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
    """A child: which bytes of a file are locked, and by whom."""
    locks = ByteLocks(os.open(path, os.O_RDWR))
    talk.say([[byte, locks.holder(byte)] for byte in range(1 + SLOTS) if locks.holder(byte) is not None])


def use(layer: IPCChannelLayer, name: str, count: int) -> None:
    """Send and receive on a channel of one's own, and join a group."""
    for number in range(count):
        layer.send(name, {"n": number})
        assert layer.receive([name]) == (name, {"n": number})
    layer.send("all", {"from": name})
    layer.group_add("g", name)
