"""Fixtures for the tests that interrupt operations: small worlds, short waits, counted steps."""

from __future__ import annotations

__all__ = ["MakeLifecycle", "MakeTrial", "counted_steps", "lifecycle", "trial"]

import random
import secrets
from typing import Callable, Iterator, List

import pytest

from asgi_ipc.check import heap as heap_check
from asgi_ipc.check import stores as store_check
from asgi_ipc.locking import contention, mutex, recovery
from asgi_ipc.shm import fifo_directory
from asgi_ipc.stores.messages import group_send, ownership, queues, waiters, wakeups
from asgi_ipc.structures import heap, slab
from asgi_ipc.waiting import hub

from . import steps
from .cases import PAGE_RECORDS
from .children import Trial
from .lifecycle import LifecycleTrial
from .table import CASES
from .world import Clock, World

MakeTrial = Callable[[str], Trial]
MakeLifecycle = Callable[[str, str], LifecycleTrial]

#: So small that even a small world has several slices and batches of everything.
QUICK_BATCH, QUICK_MOST, SLICE = 4, 64, 2
#: Words of memory that are reserved at a time.
PIECE = 1024


@pytest.fixture
def counted_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Count steps, remove the waits of the mutex, and make slices, pieces and pages small."""
    monkeypatch.setattr(contention, "SUSPICION", -1.0)
    monkeypatch.setattr(recovery, "VISIBILITY", 0.0)
    monkeypatch.setattr(mutex, "SPINS", 1)
    monkeypatch.setattr(heap, "PIECE", PIECE)
    for module in (heap, heap_check):
        monkeypatch.setattr(module, "QUICK_BATCH", QUICK_BATCH)
    for module in (heap, queues, heap_check):
        monkeypatch.setattr(module, "QUICK_MOST", QUICK_MOST)
    for module in (slab, store_check):
        monkeypatch.setattr(module, "PAGE_RECORDS", PAGE_RECORDS)
    monkeypatch.setattr(queues, "EXPIRED_SLICE", SLICE)
    monkeypatch.setattr(group_send, "SEND_SLICE", SLICE)
    monkeypatch.setattr(ownership, "DROP_SLICE", SLICE)
    monkeypatch.setattr(waiters, "UNREGISTER_SLICE", SLICE)
    for module in (waiters, wakeups, hub):
        monkeypatch.setattr(module, "POLL_SLICE", SLICE)
    monkeypatch.setattr(fifo_directory, "UNFINISHED_AGE", -1.0)
    rng, random_bits = random.Random(1), secrets.randbits
    # The hash has the same key each time, so that the same records share a bucket. Names are still random.
    monkeypatch.setattr(
        secrets, "randbits", lambda count: rng.getrandbits(count) if count == 64 else random_bits(count)
    )
    steps.install(monkeypatch)


@pytest.fixture
def trial(prefix: str, counted_steps: None) -> Iterator[MakeTrial]:
    """Return a function that sets up a case, by its name, in a new world."""
    worlds: List[World] = []

    def set_up(name: str) -> Trial:
        case = CASES[name]
        worlds.append(World(prefix, case.kind, Clock()))
        return Trial(worlds[0], case)

    yield set_up
    for world in worlds:
        left = world.semaphores()
        world.close()
        assert len(left) < 2, f"all but one of these semaphores were left: {left}"


@pytest.fixture
def lifecycle(prefix: str, counted_steps: None) -> Iterator[MakeLifecycle]:
    """Return a function that sets up a stage of the lifecycle, by its name and the kind of segment."""
    trials: List[LifecycleTrial] = []

    def set_up(name: str, kind: str) -> LifecycleTrial:
        trials.append(LifecycleTrial(prefix, kind, name))
        return trials[0]

    yield set_up
    for each in trials:
        each.clean_up()
