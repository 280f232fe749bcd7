"""A process that dies with the token before it is inside: the cause of the recovery is its death, in any case."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from helpers.holders import opened
from helpers.layers import recoveries
from helpers.processes import Children, Talk

from asgi_ipc import IPCChannelLayer


def takes_the_token(talk: Talk, prefix: str) -> None:
    """A child: take the token as ``RobustMutex.run`` does, and stop before it is inside."""
    layer = opened(prefix)
    layer.send("a", {"n": 1})
    mutex = layer.message_store.sections.opened().mutex
    mutex.words[mutex.slot_at] = mutex.intent
    mutex.token(0)
    talk.say("taken")
    talk.hear()


@pytest.mark.parametrize("newcomer", [False, True], ids=["its slot is free", "a new process gets its slot"])
def test_the_cause_is_its_death(
    prefix: str, make_layer: Callable[..., IPCChannelLayer], start: Children, newcomer: bool
) -> None:
    layers = [] if newcomer else [make_layer()]  # this process has a slot before the other one, or gets that of it
    holder = start(takes_the_token, prefix)
    assert holder.hear() == "taken"
    holder.die()
    layer = layers[0] if layers else make_layer()
    layer.send("a", {"n": 2})
    assert recoveries(layer) == {"death": 1, "exception": 0, "silence": 0, "semaphore": 0}
