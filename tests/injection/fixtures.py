"""Fixtures for the tests that cut operations short: small worlds, short waits, counted steps."""

from __future__ import annotations

__all__ = ["MakeLife", "MakeTrial", "counted_steps", "life", "trial"]

import random
import secrets
from typing import Callable, Iterator, List

import pytest

from asgi_ipc.check import heap as heap_check
from asgi_ipc.check import stores as store_check
from asgi_ipc.locking import mutex
from asgi_ipc.shm import wakeup_fifo
from asgi_ipc.stores.messages import ownership, queues, store, waiters, wakeups
from asgi_ipc.structures import heap, slab
from asgi_ipc.waiting import hub

from . import steps
from .cases import PAGE_RECORDS
from .children import Trial
from .lives import LifeTrial
from .table import CASES
from .world import Clock, World

MakeTrial = Callable[[str], Trial]
MakeLife = Callable[[str, str], LifeTrial]

#: Small enough that a small world has several of everything.
QUICK_BATCH, QUICK_MOST, SLICE = 4, 64, 2
#: Words of memory that are reserved at once.
PIECE = 1024


@pytest.fixture
def counted_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Count steps, wait for nothing that is surely over, and make slices, pieces and pages small."""
    monkeypatch.setattr(mutex, "SUSPICION", -1.0)
    monkeypatch.setattr(mutex, "VISIBILITY", 0.0)
    monkeypatch.setattr(mutex, "SPINS", 1)
    monkeypatch.setattr(heap, "PIECE", PIECE)
    for module in (heap, heap_check):
        monkeypatch.setattr(module, "QUICK_BATCH", QUICK_BATCH)
    for module in (heap, queues, heap_check):
        monkeypatch.setattr(module, "QUICK_MOST", QUICK_MOST)
    for module in (slab, store_check):
        monkeypatch.setattr(module, "PAGE_RECORDS", PAGE_RECORDS)
    monkeypatch.setattr(queues, "EXPIRED_SLICE", SLICE)
    monkeypatch.setattr(store, "SEND_SLICE", SLICE)
    monkeypatch.setattr(ownership, "DROP_SLICE", SLICE)
    monkeypatch.setattr(waiters, "UNREGISTER_SLICE", SLICE)
    for module in (waiters, wakeups, hub):
        monkeypatch.setattr(module, "POLL_SLICE", SLICE)
    monkeypatch.setattr(wakeup_fifo, "UNFINISHED_AGE", -1.0)
    draw, random_bits = random.Random(1), secrets.randbits
    # The same keys of the hash each time, so that the same records share a bucket; names still are random.
    monkeypatch.setattr(
        secrets, "randbits", lambda count: draw.getrandbits(count) if count == 64 else random_bits(count)
    )
    steps.install(monkeypatch)


@pytest.fixture
def trial(prefix: str, counted_steps: None) -> Iterator[MakeTrial]:
    """Set a case up, by its name, in a world of its own."""
    worlds: List[World] = []

    def set_up(name: str) -> Trial:
        case = CASES[name]
        worlds.append(World(prefix, case.kind, Clock()))
        return Trial(worlds[0], case)

    yield set_up
    for world in worlds:
        left = world.semaphores()
        world.close()
        assert len(left) < 2, f"left behind: all but one of {left}"


@pytest.fixture
def life(prefix: str, counted_steps: None) -> Iterator[MakeLife]:
    """Set the life of a segment up, by its name and the kind of segment."""
    lives: List[LifeTrial] = []

    def set_up(name: str, kind: str) -> LifeTrial:
        lives.append(LifeTrial(prefix, kind, name))
        return lives[0]

    yield set_up
    for each in lives:
        each.clean_up()
