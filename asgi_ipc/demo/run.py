"""
``asgi-ipc demo``: several processes share a layer, some are killed, and every message is accounted for.

The workers (``demo.workers``) keep journals of what they have sent and received. This module starts and kills
them, reads the journals (``demo.tally``) and reports. It leaves nothing in shared memory, however it ends.
Its exit status is 0 only if no message was lost, duplicated, corrupted or out of order.
"""

from __future__ import annotations

__all__ = ["DemoOptions", "run_demo"]

import multiprocessing
import os
import random
import secrets
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.context import SpawnProcess
from typing import Any

from .. import clock, codec
from ..core import IPCChannelLayer
from ..exceptions import ChannelFull, SegmentError
from ..stores.unlink import leftovers
from .tally import Journals, Tally, copy_sources
from .workers import CAPACITY, LARGEST_PIECE, PIECES, control_channel, receive, send

#: Seconds between two reads of the journals.
POLL_PERIOD = 0.02
#: Seconds without progress after which the demo fails.
STALLED = 30.0


@dataclass(frozen=True)
class DemoOptions:
    """
    How long to send, in seconds, and with how many processes.

    ``kill`` says which kind is killed: "sender", "receiver", "both" or "none".
    """

    seconds: float = 6.0
    senders: int = 2
    receivers: int = 2
    kill: str = "both"


class DemoFailed(Exception):
    """The demo cannot continue. The text says why."""


def run_demo(options: DemoOptions) -> int:
    """Run the demo, print what happened, and return the exit status."""
    prefix = f"asgi-ipc-demo-{os.getpid()}-{secrets.token_hex(3)}"
    try:
        with _terminating(), tempfile.TemporaryDirectory(prefix="asgi-ipc-demo-") as directory:
            demo = _Demo(options, prefix, directory)
            try:
                demo.run()
            finally:
                demo.clean_up()
            return demo.judge()
    except (DemoFailed, SegmentError, ChannelFull, OSError) as error:
        print(f"asgi-ipc demo: failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("asgi-ipc demo: interrupted; its shared memory was removed", file=sys.stderr)
        return 130


@contextmanager
def _terminating() -> Iterator[None]:
    """Make SIGTERM end the demo with an exception, so that it cleans up."""

    def leave(number: int, frame: Any) -> None:
        raise SystemExit(128 + number)

    previous = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


class _Worker:
    """One process: its kind, its number among those of its kind, and the number of its journal."""

    def __init__(self, kind: str, number: int, journal: int, process: SpawnProcess) -> None:
        self.kind = kind
        self.number = number
        self.journal = journal
        self.process = process

    def __str__(self) -> str:
        return f"{self.kind} {self.number + 1} (process {self.process.pid})"


class _Demo:
    def __init__(self, options: DemoOptions, prefix: str, directory: str) -> None:
        self.options = options
        self.prefix = prefix
        self.context = multiprocessing.get_context("spawn")
        self.directory = directory
        output = os.path.join(directory, "output")
        os.mkdir(output)
        self.sources = copy_sources(os.path.join(directory, "sources"))
        self.journals = Journals(os.path.join(directory, "journals"))
        self.tally = Tally(self.sources, output, options.senders)
        self.workers: list[_Worker] = []
        self.killed: list[str] = []
        self.receivers_killed = 0
        self.layer = IPCChannelLayer(prefix, capacity=CAPACITY)

    # -- the run ---------------------------------------------------------------------------------------------

    def run(self) -> None:
        options = self.options
        print(
            f"Senders: {options.senders}, receivers: {options.receivers}. Each is a separate process. They "
            f"share the layer\n{self.prefix!r} for {options.seconds:g} seconds. The senders split the "
            f"{len(self.sources)} modules of asgi_ipc\ninto messages of 1 to {LARGEST_PIECE:,} bytes, and the "
            "receivers reassemble them.\n",
            flush=True,
        )
        for number in range(options.receivers):
            self.start_receiver(number)
        for number in range(options.senders):
            self.start_sender(number, number, 0)
        self.watch(lambda: self.tally.received > 0)
        self.begun = clock.monotonic()
        if options.kill in ("sender", "both"):
            self.watch(lambda: self.passed() > options.seconds / 3)
            self.kill_sender()
        if options.kill in ("receiver", "both"):
            self.watch(lambda: self.passed() > options.seconds * 2 / 3)
            self.kill_receiver()
        self.watch(lambda: self.passed() > options.seconds)
        self.stop()

    def passed(self) -> float:
        return clock.monotonic() - self.begun

    def watch(self, until: Callable[[], bool]) -> None:
        """Read the journals until the condition holds. Fails if a worker ends early or no message arrives."""
        counted = idle = 0
        while True:
            self.read_journals()
            if until():
                return
            for worker in self.workers:
                if worker.process.exitcode:
                    raise DemoFailed(f"{worker} ended unexpectedly, with exit status {worker.process.exitcode}")
            idle, counted = (idle + 1 if self.tally.received == counted else 0), self.tally.received
            if idle * POLL_PERIOD > STALLED:
                raise DemoFailed(
                    f"no message has arrived for {STALLED:g} seconds: {self.layer.global_statistics()}"
                )
            time.sleep(POLL_PERIOD)

    def read_journals(self) -> None:
        for journal, kind, line in self.journals.new_lines():
            self.tally.note(journal, kind, line)

    def stop(self) -> None:
        """Tell the senders to stop, then the receivers, after the last piece."""
        for sender in self.of_kind("sender"):
            self.layer.send(control_channel(sender.number), {"stop": True})
        self.watch(lambda: not any(sender.process.is_alive() for sender in self.of_kind("sender")))
        for _ in self.of_kind("receiver"):
            self.watch(self.stop_sent)
        self.watch(lambda: not any(receiver.process.is_alive() for receiver in self.of_kind("receiver")))
        self.read_journals()
        self.took = self.passed()

    def stop_sent(self) -> bool:
        try:
            self.layer.send(PIECES, {"stop": True})
        except ChannelFull:
            return False
        return True

    # -- workers ---------------------------------------------------------------------------------------------

    def of_kind(self, kind: str) -> list[_Worker]:
        return [worker for worker in self.workers if worker.kind == kind]

    def start_receiver(self, number: int) -> None:
        self.start("receiver", number, receive)

    def start_sender(self, number: int, stream: int, part: int) -> None:
        paths = [path for _, path in self.sources]
        worker = self.start("sender", number, send, paths, number, self.options.senders, stream, part)
        self.tally.expect(worker.journal, stream, part)

    def start(self, kind: str, number: int, target: Callable[..., None], *args: Any) -> _Worker:
        journal, path = self.journals.add(kind)
        process = self.context.Process(
            target=target, args=(self.prefix, os.getpid(), self.directory, path, *args), daemon=True
        )
        # A Ctrl-C sends SIGINT to every process of the terminal. Only this process handles it, and then ends
        # the workers, which start with SIGINT blocked. (The first process to start would start the resource
        # tracker, which unblocks SIGINT: so it is started before.)
        resource_tracker.ensure_running()
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        try:
            process.start()
            worker = _Worker(kind, number, journal, process)
            self.workers.append(worker)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        return worker

    def kill(self, kind: str) -> _Worker:
        """Kill one worker of a kind with SIGKILL, at any point of its work, and read the rest of its journal."""
        victim = random.choice(self.of_kind(kind))
        at = self.passed()
        victim.process.kill()
        victim.process.join()
        self.workers.remove(victim)
        self.read_journals()
        self.killed.append(kind)
        print(f"  {at:4.1f} s  killed {victim} with SIGKILL", flush=True)
        return victim

    def kill_receiver(self) -> None:
        victim = self.kill("receiver")
        self.receivers_killed += 1
        self.start_receiver(victim.number)
        print("          a new one replaces it", flush=True)

    def kill_sender(self) -> None:
        """Kill a sender and start a new one that continues exactly where it ended."""
        victim = self.kill("sender")
        stream, part = self.tally.following(victim.journal)
        if self.was_sent(stream, part):  # but that is not in its journal
            self.tally.note(victim.journal, "sender", ["piece", str(stream), str(part)])
            stream, part = self.tally.following(victim.journal)
        name, _ = self.sources[stream % len(self.sources)]
        print(f"          a new one continues with piece {part + 1} of {name}", flush=True)
        self.start_sender(victim.number, stream, part)

    def was_sent(self, stream: int, part: int) -> bool:
        """
        True if the message that a sender was sending when it was killed has reached the layer.

        Then it either waits there now, or a receiver had taken it before this snapshot. A receiver takes its
        next message only after it has journalled the last one. So once each receiver's journal has grown by a
        line after the snapshot, the message is in one of the journals.
        """
        waiting = [codec.decode(body) for body in self.layer.message_store.snapshot().get(PIECES, [])]
        if any((message.get("stream"), message.get("part")) == (stream, part) for message in waiting):
            return True
        self.read_journals()
        seen = {worker.journal: self.journals.count(worker.journal) for worker in self.of_kind("receiver")}
        self.watch(lambda: all(self.journals.count(journal) > count for journal, count in seen.items()))
        return self.tally.has_arrived(stream, part)

    # -- the end ---------------------------------------------------------------------------------------------

    def clean_up(self) -> None:
        """End every worker and remove the shared memory, with SIGINT and SIGTERM blocked."""
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGTERM])
        try:
            for worker in self.workers:
                worker.process.kill()
                worker.process.join()
            self.layer.unlink()
            self.layer.close()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)

    def judge(self) -> int:
        """Print the report and return the exit status."""
        tally = self.tally
        missing = tally.settle()
        in_flight = min(missing, self.receivers_killed)
        megabytes = tally.bytes / 1e6
        left = leftovers(self.prefix)
        faults = [
            (missing - in_flight, "lost"),
            (tally.doubled, "duplicated"),
            (tally.torn, "corrupted"),
            (tally.out_of_order, "out of order"),
            (len(left), "left in shared memory"),
        ]
        lines: list[tuple[str, str]] = [
            ("messages", f"{tally.sent:,} sent, {tally.received:,} received"),
            ("rate", f"{tally.received / self.took:,.0f} messages and {megabytes / self.took:.1f} MB per second"),
            ("files", f"{tally.whole:,} reassembled and verified by SHA-256"),
            ("killed", " and ".join(f"a {kind}" for kind in self.killed) or "none"),
            ("longest call", f"{tally.longest * 1000:.1f} ms, in any process"),
        ]
        if self.receivers_killed:
            note = "had taken it but not yet written it" if in_flight else "had written every message that it took"
            lines.append(("in flight", f"{in_flight} (the killed receiver {note})"))
        lines.append(("faults", ", ".join(f"{count} {what}" for count, what in faults)))
        print()
        for label, text in lines:
            print(f"{label:<13} {text}")
        wrong = any(count for count, _ in faults)
        print("\nThe demo failed: see the faults above." if wrong else "\nEvery message is accounted for.")
        return 1 if wrong else 0
