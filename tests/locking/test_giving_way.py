"""A waiter that lets another process in first does not try, so it learns nothing about the token."""

from __future__ import annotations

import time

from helpers.layers import recoveries

from asgi_ipc import IPCChannelLayer
from asgi_ipc.clock import monotonic_ns
from asgi_ipc.locking.contention import SUSPICION
from asgi_ipc.shm.layout import AT_STARVING, AT_STARVING_UNTIL


def test_a_waiter_that_gives_way_does_not_recover(layer: IPCChannelLayer) -> None:
    """The token is free, and no process is inside or has an intent: that is no reason for a recovery."""
    layer.send("a", {"n": 1})
    mutex = layer.message_store.sections.opened().mutex
    contender = mutex.contender()
    for _ in range(3):
        mutex.words[AT_STARVING], mutex.words[AT_STARVING_UNTIL] = 1, monotonic_ns() + 5_000_000
        mutex.advance(contender)
        assert contender.gives_way
        time.sleep(1.5 * SUSPICION)
    mutex.words[AT_STARVING] = 0
    assert not any(recoveries(layer).values())
