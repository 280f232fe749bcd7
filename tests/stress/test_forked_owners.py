"""Owners of inboxes that fork: the messages and memberships stay as long as one of the two processes lives."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from .crew import Crew
from .relays import Relay, ServerRelay
from .workers import Receiver, Sender

relays = pytest.mark.parametrize("relay", [Relay, ServerRelay], ids=["sync", "async"])


@relays
def test_a_child_takes_over_an_inbox(make_crew: Callable[..., Crew], seconds: float, relay: type[Relay]) -> None:
    crew = make_crew()
    crew.hire(relay, 2)
    crew.begin()
    crew.hire(Sender, 2, to_group=1.0, pause=(0.001, 0.01))
    crew.work(seconds)
    crew.finish()


@pytest.mark.exhaustive
@relays
def test_the_same_with_kills(make_crew: Callable[..., Crew], seconds: float, relay: type[Relay]) -> None:
    crew = make_crew()
    crew.hire(relay, 2)
    crew.hire(Receiver)
    crew.begin()
    crew.hire(Sender, 3, to_group=0.5)
    crew.kill_at_random(seconds, Receiver, Sender)
    crew.finish()
