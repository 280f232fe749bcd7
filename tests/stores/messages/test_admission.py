"""
A single send and a group send decide alike whether a channel is full, and neither goes past the capacity.

Two stores get the same operations at the same times. Where a message goes to several channels, one store gets it as a
group send and the other one as single sends in the same order: both must refuse the same channels and end up with the
same messages.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from asgi_ipc import ChannelFull, IPCChannelLayer
from asgi_ipc.check import check_stores
from asgi_ipc.locking.liveness import Liveness
from asgi_ipc.stores.messages.channels import OWNER
from asgi_ipc.stores.messages.ownership import DROP_SLICE
from asgi_ipc.stores.messages.store import MessageStore

#: Plain channels; channels of an inbox that counts as a whole; channels of one where each counts for itself.
CHANNELS = ("a", "b", "shared!a", "shared!b", "shared!c", "single!a", "single!b")
INBOXES = ("shared!", "single!")
#: An owner of an inbox that is proven dead: no process has this slot so often.
DEAD_OWNER = (1 << 40) | 7
SECOND = 10**9


class Send(NamedTuple):
    """A message for these channels, that expires after so many seconds."""

    channels: tuple[str, ...]
    expiry: int
    capacity: int


class Receive(NamedTuple):
    """Take a message from a channel or an inbox."""

    channel: str


class Wait(NamedTuple):
    """Let so many seconds pass."""

    seconds: int


class OwnerDies(NamedTuple):
    """The owner of an inbox is dead from now on."""

    inbox: str


class Flush(NamedTuple):
    """Empty the store."""


OPERATIONS = st.one_of(
    st.builds(
        Send,
        st.lists(st.sampled_from(CHANNELS), min_size=1, max_size=8).map(tuple),
        st.integers(1, 9),
        st.integers(1, 4),
    ),
    st.builds(Receive, st.sampled_from(("a", "b", *INBOXES, "single!a"))),
    st.builds(Wait, st.integers(1, 9)),
    st.builds(OwnerDies, st.sampled_from(INBOXES)),
    st.builds(Flush),
)


class Clock:
    """Nanoseconds that pass only when told to."""

    def __init__(self) -> None:
        self.now = time.monotonic_ns()

    def __call__(self) -> int:
        return self.now


class Pair:
    """The two stores: ``grouped`` gets group sends, ``single`` single sends."""

    def __init__(self, prefix: str) -> None:
        self.clock = Clock()
        self.grouped, self.single = self.stores = [
            MessageStore(f"{prefix}-{name}", 1 << 20, clock=self.clock) for name in ("grouped", "single")
        ]

    def begin(self) -> None:
        """Empty stores, in which this process receives from the inboxes."""
        self.clock.now += 3600 * SECOND
        for store in self.stores:
            store.flush()
            store.own_inbox("single!")
            assert store.pop(["shared!"]) is None

    def apply(self, operation: Any) -> None:
        """Do the same to both; they must answer the same."""
        if isinstance(operation, Send):
            targets = [(channel, operation.capacity) for channel in operation.channels]
            for store in self.stores:
                store.expiry = operation.expiry * SECOND
            body = f"{self.clock.now + operation.expiry * SECOND}".encode()  # tells when it expires
            assert self.grouped.append_each(targets, body) == self.send_singly(targets, body)
            self.assert_within_capacity(operation)
        elif isinstance(operation, Receive):
            assert self.grouped.pop([operation.channel]) == self.single.pop([operation.channel])
        elif isinstance(operation, Wait):
            self.clock.now += operation.seconds * SECOND
        elif isinstance(operation, OwnerDies):
            for store in self.stores:
                store.sections.exclusively(owner_dies, store, operation.inbox)
        else:
            for store in self.stores:
                store.flush()
                store.own_inbox("single!")

    def live_messages(self, store: MessageStore) -> Iterator[tuple[str, list[bytes]]]:
        """The messages that have not expired, by channel. When expired ones are dropped depends on the calls made."""
        for channel, bodies in store.snapshot().items():
            live = [body for body in bodies if int(body) > self.clock.now]
            if live:
                yield channel, live

    def send_singly(self, targets: list[tuple[str, int]], body: bytes) -> list[str]:
        """What a group send does, one channel after the other: the channels that were full."""
        missed = []
        for channel, capacity in targets:
            try:
                self.single.append(channel, capacity, body)
            except ChannelFull as full:
                assert full.count is not None
                assert full.count >= capacity
                missed.append(channel)
        return missed

    def assert_within_capacity(self, operation: Send) -> None:
        """No quota that was sent to holds more messages than fit, unless it did so before with a larger capacity."""
        for store in self.stores:
            pending = {channel: store.figures(channel).pending for channel in (*CHANNELS, *INBOXES)}
            for channel in operation.channels:
                quota = "shared!" if channel.startswith("shared!") else channel
                assert pending[quota] <= max(operation.capacity, 4)

    def assert_equal(self) -> None:
        """Both hold the same messages that have not expired, and nothing is wrong with either."""
        grouped, single = (dict(self.live_messages(store)) for store in self.stores)
        assert grouped == single
        assert check_stores(*self.stores) == []


def owner_dies(store: MessageStore, inbox: str) -> None:
    """Let an inbox that exists belong to a process that is dead."""
    queues = store.sections.parts.queues
    record = queues.channels.find(inbox)
    if record:
        queues.words[record + OWNER] = DEAD_OWNER
        queues.ownership.forget()


@pytest.fixture
def pair(prefix: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pair]:
    """Two stores; the made-up owner is known to be dead."""
    is_dead = Liveness.is_dead
    monkeypatch.setattr(Liveness, "is_dead", lambda self, owner: owner == DEAD_OWNER or is_dead(self, owner))
    made = Pair(prefix)
    yield made
    for store in made.stores:
        store.unlink()
        store.close()


#: A shared inbox whose earliest expiry is out of date, and a group send to more channels than there is room for.
OUT_OF_DATE = [
    Send(("shared!a",), 9, 3),
    Send(("shared!a",), 1, 3),
    Receive("shared!"),
    Send(("shared!a",), 9, 3),
    Receive("shared!"),
    Wait(2),
    Send(("shared!a", "shared!b", "shared!c", "shared!a", "shared!b", "shared!c"), 9, 3),
]
#: A full channel whose messages count no longer, as their owner is dead.
FULL_OF_THE_DEAD = [Send(("single!a", "a"), 9, 1), OwnerDies("single!"), Send(("single!a", "single!b"), 9, 1)]


@settings(max_examples=300, suppress_health_check=list(HealthCheck))
@given(operations=st.lists(OPERATIONS, max_size=30))
@example(operations=OUT_OF_DATE)
@example(operations=FULL_OF_THE_DEAD)
def test_group_sends_and_single_sends_decide_alike(pair: Pair, operations: list[Any]) -> None:
    pair.begin()
    for operation in operations:
        pair.apply(operation)
    pair.assert_equal()


def test_a_group_send_keeps_to_the_capacity_of_a_shared_inbox(make_layer: Any) -> None:
    layer, hasty = make_layer(capacity=3), make_layer(capacity=3, expiry=0.05)
    layer.send("in!a", {})
    hasty.send("in!a", {})
    assert layer.receive(["in!"]) == ("in!a", {})
    layer.send("in!a", {})
    layer.receive(["in!"])
    time.sleep(0.1)
    for number in range(6):
        layer.group_add("group", f"in!m{number}")
    layer.send_group("group", {"n": 1})
    assert layer.channel_statistics("in!")["messages_pending"] == 3


def test_a_group_send_reaches_a_channel_that_a_dead_owner_left_full(pair: Pair) -> None:
    """The messages that are dropped for it do not count."""
    pair.begin()
    store = pair.grouped
    store.append("single!a", 1, b"unread")
    store.sections.exclusively(owner_dies, store, "single!")
    assert store.append_each([("single!a", 1), ("single!b", 1)], b"new") == []
    assert store.snapshot() == {"single!a": [b"new"], "single!b": [b"new"]}


@pytest.mark.parametrize("group", [False, True], ids=["single send", "group send"])
def test_a_message_sent_after_the_owner_died_is_kept_however_much_it_left(pair: Pair, group: bool) -> None:
    """The unread messages are dropped in several critical sections, before the new message is added."""
    pair.begin()
    store = pair.grouped
    for number in range(20 * DROP_SLICE):
        store.append(f"single!{number % 7}", 10**6, b"unread")
    store.sections.exclusively(owner_dies, store, "single!")
    for body in (b"first", b"second"):
        if group:
            assert store.append_each([("single!a", 10), ("plain", 10)], body) == []
        else:
            store.append("single!a", 10, body)
    found = store.snapshot()
    assert found.pop("plain", [b"first", b"second"]) == [b"first", b"second"]
    assert found == {"single!a": [b"first", b"second"]}


def test_a_group_of_one_stores_no_shared_body(make_layer: Any) -> None:
    """One member gets its message as a single send would store it."""
    layer: IPCChannelLayer = make_layer()
    layer.group_add("group", "a")
    layer.send_group("group", {"n": 1})
    one = layer.message_store.sections.parts.inspect
    layer.message_store.flush()
    before = layer.message_store.sections.exclusively(one.memory).used
    layer.send("a", {"n": 1})
    single = layer.message_store.sections.exclusively(one.memory).used
    layer.message_store.flush()
    layer.send_group("group", {"n": 1})
    assert layer.message_store.sections.exclusively(one.memory).used - before == single - before
