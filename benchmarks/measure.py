"""
How everything here is measured: in rounds that take turns, told as a median with its quartiles.
"""

from __future__ import annotations

__all__ = ["MESSAGE", "fill", "interleaved", "machine", "own_layer", "pairs", "spread"]

import gc
import os
import platform
import secrets
import statistics
import time
from contextlib import contextmanager
from importlib import metadata
from typing import Any, Callable, Dict, Iterator, List

import asgi_ipc
from asgi_ipc import IPCChannelLayer

#: A message with a text of 100 bytes.
MESSAGE = {"text": "x" * 100}

#: Does its work so many times.
Work = Callable[[int], None]


def machine() -> str:
    """What this was measured on, in one paragraph."""
    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            model = next(line.partition(":")[2].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("posix_ipc", "msgpack"))
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return (
        f"asgi_ipc {asgi_ipc.__version__}, {versions}, {python}\n"
        f"{platform.system()} {platform.release()}, {os.cpu_count()} cores, {model}, "
        f"load {os.getloadavg()[0]:.1f}"
    )


@contextmanager
def own_layer(**options: Any) -> Iterator[IPCChannelLayer]:
    """A layer on a prefix of its own, with room for anything that is done here; removed at the end."""
    options = {
        "prefix": f"benchmark{os.getpid()}-{secrets.token_hex(4)}",
        "capacity": 1_000_000,
        "expiry": 86400,
        "message_memory": 256 * 1024 * 1024,
        **options,
    }
    layer = IPCChannelLayer(**options)
    try:
        yield layer
    finally:
        layer.unlink()
        layer.close()


def fill(layer: IPCChannelLayer, messages: int, channels: int = 1000) -> None:
    """Leave messages unread, spread over channels."""
    for number in range(messages):
        layer.send(f"unread.{number % channels}", MESSAGE)


def pairs(layer: IPCChannelLayer) -> Work:
    """The work of sending a message and receiving it again, on one channel."""
    send, receive, channels = layer.send, layer.receive, ["channel"]

    def work(times: int) -> None:
        for _ in range(times):
            send("channel", MESSAGE)
            receive(channels)

    return work


def interleaved(works: Dict[str, Work], times: int, rounds: int) -> Dict[str, List[float]]:
    """ns each work takes once, ``rounds`` figures for each; they take turns, ``times`` times each."""
    figures: Dict[str, List[float]] = {name: [] for name in works}
    for work in works.values():
        work(times)  # caches and branch predictors get warm
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            for name, work in works.items():
                start = time.perf_counter_ns()
                work(times)
                figures[name].append((time.perf_counter_ns() - start) / times)
    finally:
        gc.enable()
    return figures


def spread(figures: List[float], unit: str, scale: float = 1.0, digits: int = 2) -> str:
    """The median of some figures, and the quartiles around it."""
    low, middle, high = (value * scale for value in statistics.quantiles(figures, n=4, method="inclusive"))
    return f"{middle:.{digits}f}{unit} (quartiles {low:.{digits}f} to {high:.{digits}f})"
