"""
A process is killed inside the guarded section: how long until the next one has its first operation done?
"""

from __future__ import annotations

__all__ = ["run"]

import os
import signal
import time
from typing import Iterator

from asgi_ipc import IPCChannelLayer

from .measure import MESSAGE, fill, own_layer

TIMES = 7


def run() -> Iterator[str]:
    """Lines of the report."""
    yield "kill -9 inside the section; time to the end of the next send, from the moment the kill is known"
    for waiting in (0, 1000, 10_000, 100_000):
        with own_layer() as layer:
            fill(layer, waiting)
            figures = sorted(recover(layer) * 1000 for _ in range(TIMES))
            left = layer.global_statistics()["messages_pending"]
        lost = waiting + TIMES - left
        yield (
            f"{waiting:>7,} messages waiting: median {figures[TIMES // 2]:6.1f} ms, "
            f"longest {figures[-1]:6.1f} ms, {lost} of them lost"
        )


def recover(layer: IPCChannelLayer) -> float:
    """Seconds a send takes after another process was killed inside the section."""
    child = os.fork()
    if not child:
        try:
            layer.message_store._guarded(os.kill, os.getpid(), signal.SIGKILL)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    start = time.perf_counter()
    layer.send("channel", MESSAGE)
    took = time.perf_counter() - start
    if not os.WIFSIGNALED(status):
        raise RuntimeError(f"the child was to be killed inside the section and ended with status {status}")
    return took
