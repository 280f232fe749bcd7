"""A receive keeps a list of its own: whatever the caller does with theirs while it waits, no unchecked name gets in."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from helpers.sleepers import Sleeper
from helpers.waiting import assert_sound, until, until_waiting, waiters, within

from asgi_ipc import IPCChannelLayer
from asgi_ipc.shm.layout import AT_EPOCH

#: Names that a receive refuses, and values that are no names at all.
WRONG = [None, 5, "ü", "no spaces", "", "x" * 1000, "whole!name", b"a", ["a"]]


def epoch(layer: IPCChannelLayer) -> int:
    """Moves with every recovery."""
    return int(layer.message_store.sections.opened().segment.words[AT_EPOCH])


@pytest.mark.parametrize("names", [["a"], ["a", "b"]], ids=["one", "several"])
def test_an_asynchronous_receive_waits_for_the_names_that_it_was_given(layer: Any, names: list[Any]) -> None:
    async def main() -> None:
        given = list(names)
        before = epoch(layer)
        receive = asyncio.ensure_future(layer.receive_async(given))
        await until_waiting(layer, "a", 1)
        given[:] = WRONG
        layer.send("b" if len(names) > 1 else "a", {"n": 1})
        assert await within(receive) == (names[-1], {"n": 1})
        assert epoch(layer) == before

    asyncio.run(main())
    assert_sound(layer)


@pytest.mark.parametrize("names", [["a"], ["a", "b"]], ids=["one", "several"])
def test_a_blocking_receive_waits_for_the_names_that_it_was_given(make_layer: Any, names: list[Any]) -> None:
    layer = make_layer(block_timeout=60)
    given, before = list(names), epoch(layer)
    receiver = Sleeper(layer, given)
    until(lambda: waiters(layer, "a") == 1)
    given[:] = WRONG
    layer.send(names[-1], {"n": 1})
    assert receiver.result() == (names[-1], {"n": 1})
    assert epoch(layer) == before
    assert_sound(layer)


@pytest.mark.parametrize("known", [False, True], ids=["first use", "known names"])
@pytest.mark.parametrize("names", [["a"], ["a", "b"], []], ids=["one", "several", "none"])
def test_checked_names_are_never_the_callers_list(layer: Any, names: list[str], known: bool) -> None:
    if known:
        layer.check_names(names)
    checked = layer.check_names(names)
    assert sorted(checked) == names
    assert checked is not names
