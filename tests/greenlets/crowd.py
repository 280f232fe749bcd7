"""What runs beside the greenlets: a process with threads, and victims that are killed every now and then."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from helpers.processes import Child, Children, Talk

from asgi_ipc import IPCChannelLayer

from .traffic import OPTIONS, play

#: Seconds between two kills, so that there are several recoveries in each test.
PERIOD = 0.5


def plays(talk: Talk, prefix: str, name: str, seconds: float) -> None:
    """Play in threads, when the test says so."""
    with IPCChannelLayer(prefix, **OPTIONS) as layer:
        talk.say("ready")
        talk.hear()
        talk.say(play(layer, name, seconds))


def hammers(talk: Talk, prefix: str) -> None:
    """Use a channel of its own without end, so that it is probably inside a critical section when it is killed."""
    with IPCChannelLayer(prefix, **OPTIONS) as layer:
        talk.say("ready")
        while True:
            with contextlib.suppress(layer.ChannelFull):
                layer.send("victims", {"filler": b"." * 1000})
            layer.receive(["victims"])


@contextlib.contextmanager
def killing(start: Children, prefix: str) -> Iterator[None]:
    """Kill one victim after another while the test runs: each may have died inside, so the next caller recovers."""
    is_over = threading.Event()

    def kill() -> None:
        while not is_over.is_set():
            victim = start(hammers, prefix)
            victim.hear()
            is_over.wait(PERIOD)
            victim.die()

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        yield
    finally:
        is_over.set()
        killer.join()


def player(start: Children, prefix: str, name: str, seconds: float) -> Child:
    """Return a process that plays when it gets a value."""
    child = start(plays, prefix, name, seconds)
    assert child.hear() == "ready"
    return child
