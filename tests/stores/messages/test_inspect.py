"""Queries tell what a message store holds, and change nothing."""

from __future__ import annotations

from typing import Any, Callable

import pytest
from helpers.layers import Clock, message_of, until_full

from asgi_ipc import MemoryFull
from asgi_ipc.check import check_stores
from asgi_ipc.shm.layout import AT_SEQ, AT_SLOTS, SLOT_WORDS, SLOTS

QUERIES: dict[str, Callable[[Any], Any]] = {
    "figures of a channel": lambda store: store.figures("mixed"),
    "figures of an expired channel": lambda store: store.figures("expired"),
    "figures of an inbox": lambda store: store.figures("in!"),
    "figures of nothing": lambda store: store.figures("unused"),
    "figures of all": lambda store: store.figures(),
    "has": lambda store: store.has("expired"),
    "snapshot": lambda store: store.snapshot(),
    "integrity check": check_stores,
    "owner": lambda store: store.owner_of("in!a"),
}


def content(store: Any) -> tuple[int, ...]:
    """Every word of the segment, but for those that the mutex changes."""
    words = store.sections.opened().segment.words
    found = words.tolist()
    for at in (AT_SEQ, *range(AT_SLOTS, AT_SLOTS + SLOTS * SLOT_WORDS)):
        found[at] = 0
    return tuple(found)


@pytest.fixture
def store(make_layer: Any) -> Any:
    """Channels with messages that wait, that have expired, and both in one queue, the expired ones behind."""
    layer, hasty = make_layer(expiry=60), make_layer(expiry=1)
    clock = Clock(layer, hasty)
    for channel in ("mixed", "in!a"):
        layer.send(channel, {"n": 1})
        hasty.send(channel, {"n": 2})
        layer.send(channel, {"n": 3})
    for channel in ("expired", "in!b"):
        hasty.send(channel, {"n": 1})
    clock.forward(2)
    return layer.message_store


@pytest.mark.parametrize("query", QUERIES.values(), ids=QUERIES)
def test_a_query_changes_nothing(store: Any, query: Callable[[Any], Any]) -> None:
    before = content(store)
    query(store)
    assert content(store) == before


def test_expired_messages_do_not_count_as_waiting(store: Any) -> None:
    pending = {"mixed": 2, "expired": 0, "in!a": 2, "in!b": 0, "in!": 2}
    assert {channel: store.figures(channel).pending for channel in pending} == pending
    assert [store.figures(channel).oldest for channel in ("mixed", "expired")] == [2 * 10**9, 0]
    total = store.figures()
    assert (total.sent, total.pending, total.oldest) == (8, 4, 2 * 10**9)


def test_memory_in_use_comes_and_goes_with_messages(make_layer: Any) -> None:
    layer = make_layer(message_memory=1 << 20, capacity=1000)
    store = layer.message_store
    memory = store.sections.parts.inspect.memory
    layer.send("a", {})
    layer.receive(["a"])
    empty = store.sections.exclusively(memory)
    for _ in range(50):
        layer.send("a", message_of(5000))
    full = store.sections.exclusively(memory)
    assert 50 * 5000 <= full.used - empty.used <= 50 * 5100
    for _ in range(50):
        layer.receive(["a"])
    assert store.sections.exclusively(memory).used == empty.used
    assert store.sections.exclusively(memory).reserved == full.reserved
    assert empty.used <= full.used <= full.reserved <= full.size == 1 << 20


def test_an_error_for_full_memory_tells_what_is_in_use(make_layer: Any) -> None:
    """Memory that is reserved and free, in pieces that are too small, is not in use."""
    layer = make_layer(message_memory=1 << 20, capacity=1000)
    size = 8000
    _, first = until_full(lambda number: layer.send("ab"[number % 2], message_of(size)))
    assert isinstance(first, MemoryFull)
    while layer.receive(["a"]) != (None, None):
        pass
    with pytest.raises(MemoryFull) as second:
        layer.send("c", message_of(100_000))
    waiting = layer.channel_statistics("b")["messages_pending"] * size
    assert first.used > 2 * waiting
    assert waiting <= second.value.used <= waiting + 200_000
    assert second.value.used < second.value.reserved <= second.value.size == 1 << 20
    assert f"{second.value.used} of {second.value.size} bytes" in str(second.value)
    assert f"({second.value.reserved} are reserved)" in str(second.value)
