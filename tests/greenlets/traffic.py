"""
Traffic in which every message is accounted for: the same function for threads and for greenlets.

The threads are those of ``threading``: after a patch by gevent or eventlet, these are greenlets.
"""

from __future__ import annotations

import threading
import time
from typing import Any

from asgi_ipc import IPCChannelLayer

#: The channel that all players use, and one for each player, which only it uses.
SHARED, OWN = "traffic", "traffic.{}"
#: How many threads send, and how many receive.
SENDERS, RECEIVERS = 4, 4
#: Options of every layer: receivers look often whether the time is over.
OPTIONS: dict[str, Any] = {"message_memory": 1024 * 1024, "group_memory": 256 * 1024, "block_timeout": 0.2}


class Tally:
    """What one player has sent and received, and the errors that it got."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.received: list[str] = []
        self.errors: list[str] = []

    def as_json(self) -> dict[str, list[str]]:
        return {"sent": self.sent, "received": self.received, "errors": self.errors}


def play(layer: IPCChannelLayer, name: str, seconds: float, pauses: bool = False) -> dict[str, list[str]]:
    """
    Send and receive in several threads for some time. ``name`` is part of every message.

    With ``pauses``, one more thread sleeps inside the critical section now and then, and lets other greenlets run
    there, as a finaliser or a signal handler may do in any call.
    """
    tally = Tally()
    deadline = time.monotonic() + seconds
    channels = [SHARED, OWN.format(name)]

    def send(number: int) -> None:
        turn = 0
        while time.monotonic() < deadline:
            message = f"{name}-{number}-{turn}"
            try:
                layer.send(channels[turn % 2], {"id": message})
            except layer.ChannelFull:
                time.sleep(0.002)
                continue
            tally.sent.append(message)
            turn += 1
            time.sleep(0)  # greenlets run in turn only where one of them sleeps

    def receive(number: int) -> None:
        while time.monotonic() < deadline:
            channel, message = layer.receive(channels, block=number % 2 == 0)
            if message is not None:
                tally.received.append(message["id"])
            time.sleep(0 if channel else 0.001)

    def pause(number: int) -> None:
        while time.monotonic() < deadline:
            layer.message_store.sections.exclusively(time.sleep, 0.01)
            time.sleep(0.1)

    def collect_errors(work: Any, number: int) -> None:
        try:
            work(number)
        except Exception as error:
            tally.errors.append(f"{type(error).__name__}: {error}")

    works = [(send, number) for number in range(SENDERS)] + [(receive, number) for number in range(RECEIVERS)]
    works += [(pause, 0)] * pauses
    threads = [threading.Thread(target=collect_errors, args=work) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return tally.as_json()


def assert_accounted(layer: IPCChannelLayer, tallies: list[dict[str, list[str]]], names: list[str]) -> None:
    """Each message was received exactly once or is still there, and no call has failed."""
    left = []
    channels = [SHARED, *map(OWN.format, names)]
    while True:
        _, message = layer.receive(channels)
        if message is None:
            break
        left.append(message["id"])
    assert [error for tally in tallies for error in tally["errors"]] == []
    sent = sorted(message for tally in tallies for message in tally["sent"])
    received = sorted([message for tally in tallies for message in tally["received"]] + left)
    lost, doubled = sorted(set(sent) - set(received)), len(received) - len(set(received))
    assert (lost, doubled) == ([], 0)
    assert received == sent


def assert_all_took_part(tallies: list[dict[str, list[str]]]) -> None:
    """Each player has sent and received."""
    assert all(tally["sent"] and tally["received"] for tally in tallies)
