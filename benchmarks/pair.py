"""
Sending and receiving a message in one process, against the floor: what no layer of this kind can do without.
"""

from __future__ import annotations

__all__ = ["run"]

import mmap
import os
import secrets
from contextlib import contextmanager
from typing import Iterator

import posix_ipc

from asgi_ipc.codec import decode, encode

from .measure import MESSAGE, Work, interleaved, own_layer, pairs, spread

#: Rounds are shorter than what a scheduler gives at a time, so that other work falls between most of them.
TIMES, ROUNDS = 250, 400


def run() -> Iterator[str]:
    """Lines of the report."""
    with own_layer() as layer, floor() as bare:
        figures = interleaved({"layer": pairs(layer), "floor": bare}, TIMES, ROUNDS)
    ratios = [ours / theirs for ours, theirs in zip(figures["layer"], figures["floor"])]
    yield "send + receive of a 100-byte text, one process, empty store"
    yield f"layer  {spread(figures['layer'], ' µs', 1e-3)}"
    yield f"floor  {spread(figures['floor'], ' µs', 1e-3)}: semaphore twice, msgpack with its checks, copies in and out"
    yield f"ratio  {spread(ratios, ' x')}"


@contextmanager
def floor() -> Iterator[Work]:
    """A semaphore taken and given back twice, the message encoded and decoded, copied into memory and out."""
    name = f"/benchmark{os.getpid()}-{secrets.token_hex(4)}"
    semaphore = posix_ipc.Semaphore(name, posix_ipc.O_CREX, initial_value=1)
    semaphore.unlink()
    data = mmap.mmap(-1, 1024 * 1024)
    acquire, release = semaphore.acquire, semaphore.release

    def work(times: int) -> None:
        for _ in range(times):
            body = encode(MESSAGE)
            end = 4096 + len(body)
            acquire()
            data[4096:end] = body
            release()
            acquire()
            taken = data[4096:end]
            release()
            decode(taken)

    try:
        yield work
    finally:
        semaphore.close()
        data.close()
