"""Processes that get little of the CPU: beside busy threads, under a quota, with a low priority, in a crowd."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from helpers.cgroups import CpuQuota
from helpers.extent import Extent
from helpers.schedulers import SignalQuota

from .crew import Crew
from .workers import BusySender, BusyServer, Hog, Inbox, Pairs, Receiver, Sender, Server

#: Seconds between two sends of a process that is busy with other things.
NOW_AND_THEN = 0.02, 0.07
#: Seconds between two sends of a process in a crowd.
OFTEN = 0.0, 0.02
#: Seconds that an operation of a process may take that gets hardly any CPU time.
STARVED = 60.0
#: The number of processes in a crowd with ``--exhaustive``, and without it.
CROWD = 100, 40
#: Messages that wait in a channel, so that a recovery takes long.
BACKLOG = 100_000


def test_busy_threads(make_crew: Callable[..., Crew], seconds: float) -> None:
    """A process with busy threads may get the token, and then wait for the GIL before it goes on."""
    crew = make_crew()
    crew.hire(Inbox)
    crew.hire(Server)
    crew.hire(Receiver)
    crew.begin()
    crew.hire(BusySender, to_group=0.8, pause=NOW_AND_THEN)
    crew.hire(Sender)
    crew.work(2 * seconds)
    crew.finish()


def test_busy_threads_in_servers(make_crew: Callable[..., Crew], seconds: float) -> None:
    crew = make_crew()
    crew.hire(BusyServer, 2)
    crew.hire(Receiver)
    crew.begin()
    crew.hire(Sender, pause=NOW_AND_THEN)
    crew.work(seconds)
    crew.finish()


@pytest.mark.exhaustive
def test_busy_threads_with_many_messages_waiting(make_crew: Callable[..., Crew], seconds: float) -> None:
    """A recovery would walk over all of them."""
    crew = make_crew()
    for number in range(BACKLOG):
        crew.layer.send(f"backlog-{number % 100}", {"n": number})
    crew.hire(Receiver)
    crew.begin()
    crew.hire(BusySender, pause=NOW_AND_THEN)
    crew.hire(Sender)
    crew.work(seconds)
    crew.finish()


def test_kills_beside_busy_threads(make_crew: Callable[..., Crew], seconds: float) -> None:
    """Recoveries after deaths, while live processes are starved."""
    crew = make_crew()
    crew.hire(Inbox)
    crew.hire(Receiver, 2)
    crew.hire(BusyServer)
    crew.begin()
    crew.hire(BusySender, pause=NOW_AND_THEN)
    crew.hire(Sender, 2)
    crew.hire(Pairs, 2)
    crew.kill_at_random(seconds, Sender, Receiver, Inbox, BusySender, Pairs)
    crew.finish()


def test_a_quota(make_crew: Callable[..., Crew], quota: CpuQuota | SignalQuota, seconds: float) -> None:
    """Half of the processes get 20 ms of CPU time in each 100 ms, all together."""
    crew = make_crew()
    pids = crew.hire(Inbox) + crew.hire(Receiver) + crew.hire(Server)
    crew.hire(Inbox)
    crew.hire(Receiver)
    crew.begin()
    pids += crew.hire(Sender) + crew.hire(Pairs, 2) + crew.hire(BusySender, pause=NOW_AND_THEN)
    for pid in pids:
        quota.add(pid)
    crew.hire(Sender)
    crew.work(seconds)
    assert quota.throttled() > 2 * seconds, "the quota was not used up"
    crew.finish()


def test_low_priorities(make_crew: Callable[..., Crew], seconds: float) -> None:
    """Processes with nice 19 beside others that use every CPU."""
    crew = make_crew()
    crew.hire(Inbox, nice=19)
    crew.hire(Receiver, nice=19)
    crew.hire(Receiver)
    crew.hire(Server, nice=19)
    crew.begin()
    crew.hire(Sender, nice=19)
    crew.hire(Pairs, 2, nice=19)
    crew.hire(BusySender, nice=19, pause=NOW_AND_THEN)
    crew.hire(Sender, pause=NOW_AND_THEN)
    crew.hire(Hog, os.cpu_count() or 1)
    crew.work(seconds)
    crew.finish(STARVED)


@pytest.mark.parametrize("kills", [False, pytest.param(True, marks=pytest.mark.exhaustive)], ids=["alive", "kills"])
def test_more_processes_than_cores(make_crew: Callable[..., Crew], extent: Extent, seconds: float, kills: bool) -> None:
    count = extent.amount("ASGI_IPC_STRESS_PROCESSES", *CROWD)
    crew = make_crew()
    crew.hire(Inbox, count // 8)
    crew.hire(Server, count // 8)
    crew.hire(Receiver, count // 4)
    crew.begin()
    crew.hire(Sender, count // 4, to_group=0.02, pause=OFTEN)
    crew.hire(Pairs, count // 4)
    if kills:
        crew.kill_at_random(seconds, Inbox, Server, Receiver, Sender, Pairs)
    else:
        crew.work(seconds)
    crew.finish()
