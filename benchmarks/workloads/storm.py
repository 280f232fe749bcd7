"""
Senders and receivers that are killed at random, and the count of lost and doubled messages.

Each worker is a forked process with a journal (the demo's): a sender writes a message to it after the send, a
receiver after the receive. So one message of a killed sender may be in the layer and not in its journal, and
one message of a killed receiver may be gone and in no journal.
"""

from __future__ import annotations

__all__ = ["Storm"]

import os
import random
import signal
import time
from typing import Any, Callable, Dict, List, Optional, Set, Tuple

from asgi_ipc import ChannelFull, IPCChannelLayer
from asgi_ipc.demo.workers import Journal, Reader

SENDERS = RECEIVERS = 2
#: The pause between two kills is random, up to so many seconds.
LONGEST_PAUSE = 0.1
CHANNEL = "killed"
CAPACITY = 1000
#: Seconds that a worker sleeps when the channel is full or empty.
PAUSE = 0.001


class Storm:
    """The workers, each with a numbered journal."""

    def __init__(self, prefix: str, directory: str) -> None:
        self.prefix = prefix
        self.directory = directory
        self.running: Dict[int, Tuple[Callable[..., None], int]] = {}  # role, process id
        self.journals: List[Tuple[Callable[..., None], str]] = []
        self.killed = {send: 0, receive: 0}

    def run(self, kills: int) -> None:
        """Kill workers at random, replacing each; then let the receivers empty the channel."""
        for role, count in ((receive, RECEIVERS), (send, SENDERS)):
            for _ in range(count):
                self.start(role)
        for _ in range(kills):
            time.sleep(random.uniform(0, LONGEST_PAUSE))
            number = random.choice(list(self.running))
            role = self.kill(number)
            self.killed[role] += 1
            self.start(role)
        for number in [number for number, (role, _) in self.running.items() if role is send]:
            self.kill(number)
        with IPCChannelLayer(self.prefix, capacity=CAPACITY) as layer:
            for _ in range(RECEIVERS):
                while not sent(layer, {"stop": True}):
                    time.sleep(PAUSE)
        for _, process in self.running.values():
            os.waitpid(process, 0)
        self.running.clear()

    def start(self, role: Callable[..., None]) -> None:
        number = len(self.journals)
        path = os.path.join(self.directory, str(number))
        self.journals.append((role, path))
        process = os.fork()
        if not process:
            try:
                with IPCChannelLayer(self.prefix, capacity=CAPACITY) as layer:
                    role(layer, Journal(path), number)
            finally:
                os._exit(0)
        self.running[number] = (role, process)

    def kill(self, number: int) -> Callable[..., None]:
        role, process = self.running.pop(number)
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        return role

    def end(self) -> None:
        for number in list(self.running):
            self.kill(number)
        with IPCChannelLayer(self.prefix) as layer:
            layer.unlink()

    def report(self) -> Dict[str, Optional[float]]:
        """Return the figures of the run, from the journals."""
        sent_by: Dict[str, int] = {}
        received: Set[Tuple[str, str]] = set()
        doubled, longest = 0, 0.0
        for number, (role, path) in enumerate(self.journals):
            for kind, *words in Reader(path).lines():
                if kind == "wait":
                    longest = max(longest, float(words[0]))
                elif role is send:
                    sent_by[str(number)] = int(words[1]) + 1
                else:
                    doubled += (words[0], words[1]) in received
                    received.add((words[0], words[1]))
        gone = sum(
            (sender, str(n)) not in received for sender, count in sent_by.items() for n in range(count)
        )
        return {
            "longest stall": longest * 1000,
            "gone": gone / max(1, self.killed[receive]),
            "doubled": doubled,
            "messages": sum(sent_by.values()),
        }


def sent(layer: IPCChannelLayer, message: Dict[str, Any]) -> bool:
    try:
        layer.send(CHANNEL, message)
    except ChannelFull:
        return False
    return True


def send(layer: IPCChannelLayer, journal: Journal, number: int) -> None:
    """Send numbered messages until killed."""
    count = 0
    while True:
        if journal.timed(sent, layer, {"sender": number, "count": count}):
            journal.write("piece", number, count)
            count += 1
        else:
            time.sleep(PAUSE)


def receive(layer: IPCChannelLayer, journal: Journal, number: int) -> None:
    """Receive until told to stop, or killed."""
    while True:
        _, message = journal.timed(layer.receive, [CHANNEL])
        if message is None:
            time.sleep(PAUSE)
        elif "stop" in message:
            return
        else:
            journal.write("piece", message["sender"], message["count"])
