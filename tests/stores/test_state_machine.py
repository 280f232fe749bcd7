"""
A layer and a model of it, side by side: the model is a dict of deques and a dict of dicts.

Hypothesis chooses the operations of several layer objects with one prefix, how time passes, and when a holder
crashes in a critical section after all derived words were overwritten. After every step the stores' snapshots
must equal the model, and ``check_stores`` must find every derived word correct.
"""

from __future__ import annotations

import itertools
import logging
import os
import random
import signal
import time
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple, Union

import pytest
from helpers.extent import Extent
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from asgi_ipc import ChannelFull, IPCChannelLayer, codec
from asgi_ipc.check import check_stores
from asgi_ipc.locking import contention, recovery
from asgi_ipc.locking.liveness import SEVERAL
from asgi_ipc.shm.layout import AT_BUCKETS, AT_PAGES, AT_POWER_MAP
from asgi_ipc.stores.groups import members as mb
from asgi_ipc.stores.groups.store import GroupStore
from asgi_ipc.stores.messages import channels as ch
from asgi_ipc.stores.messages.store import MessageStore

SECOND = 10**9
PLAIN = ("plain-0", "plain-1", "tight", "reply?abc", "reply?def")
LOCALS = ("in-a!x", "in-a!y", "in-a!z", "in-b!x", "in-b!y")
INBOXES = ("in-a!", "in-b!")
GROUPS = ("group-0", "group-1")
CAPACITY = {"tight": 1, "in-a!*": 5, "reply?d*": 2}
DEFAULT_CAPACITY = 4
#: (message expiry, group expiry) of the layers, in seconds: messages of different expiry mix in one queue.
EXPIRIES = ((10, 30), (2, 300), (60, 3))
STEPS = int(os.environ.get("ASGI_IPC_MODEL_STEPS", "60"))
#: With ``--exhaustive``, and without it.
EXAMPLES = 90, 30


class Sent(NamedTuple):
    """A message in the model."""
    number: int
    expires: int
    came: int
    message: dict[str, Any]


def inbox_of(channel: str) -> str:
    """Return the inbox of a process-local channel; of any other channel, the channel itself."""
    head, mark, _ = channel.partition("!")
    return head + mark


def capacity_of(channel: str) -> int:
    if channel.startswith("in-a!"):
        return CAPACITY["in-a!*"]
    if channel.startswith("reply?d"):
        return CAPACITY["reply?d*"]
    return CAPACITY.get(channel, DEFAULT_CAPACITY)


class Model:
    """What a layer must do. Expired messages stay in the deques until the store may have removed them."""

    def __init__(self) -> None:
        self.now = 0
        self.clear()
        self.sent = self.refused = 0

    def clear(self) -> None:
        self.queues: dict[str, deque[Sent]] = {channel: deque() for channel in (*PLAIN, *LOCALS)}
        self.groups: dict[str, dict[str, int]] = {group: {} for group in GROUPS}
        self.sent = self.refused = 0
        #: How often each process-local channel with messages was passed_over over in its inbox.
        self.passed_over: dict[str, int] = dict.fromkeys(LOCALS, 0)

    def live(self, channel: str) -> list[Sent]:
        return [sent for sent in self.queues[channel] if sent.expires > self.now]

    def waiting_in(self, inbox: str) -> list[str]:
        """Return those channels of an inbox that have messages; ``inbox`` may also be a plain channel."""
        return [channel for channel in self.queues if inbox_of(channel) == inbox and self.live(channel)]

    def members(self, group: str) -> set[str]:
        return {channel for channel, expires in self.groups[group].items() if expires > self.now}

    def is_full(self, channel: str) -> bool:
        together = [other for other in self.queues if inbox_of(other) == inbox_of(channel)]
        return sum(len(self.live(other)) for other in together) >= capacity_of(channel)

    def append(self, channel: str, sent: Sent) -> bool:
        if self.is_full(channel):
            self.refused += 1
            return False
        self.queues[channel].append(sent)
        self.sent += 1
        return True

    def take(self, channel: str) -> Sent:
        """Remove and return the first live message of a channel; remove the expired messages before it."""
        queue = self.queues[channel]
        while True:
            sent = queue.popleft()
            if sent.expires > self.now:
                break
        if channel in LOCALS:
            neighbours = [other for other in LOCALS if inbox_of(other) == inbox_of(channel) and other != channel]
            for other in filter(self.live, neighbours):
                self.passed_over[other] += 1
                assert self.passed_over[other] <= len(neighbours), f"{other} is starved by other channels"
            self.passed_over[channel] = 0
        return sent

    def pending(self) -> list[Sent]:
        return [sent for channel in self.queues for sent in self.live(channel)]


# -- crashes -------------------------------------------------------------------------------------------------


class Crash(Exception):
    """An exception for a critical section to raise, so that it ends like a crash."""


AnyStore = Union[MessageStore, GroupStore]


def overwrite_messages(store: AnyStore, rng: random.Random) -> None:
    """Overwrite the derived words of a message segment. Truth and counters stay."""
    assert store.sections.attachment is not None
    words, geometry = store.sections.attachment.segment.words, store.sections.attachment.segment.geometry
    for bucket in range(AT_BUCKETS, AT_BUCKETS + geometry.buckets):
        record = words[bucket]
        while record:
            derived = (ch.TAIL, ch.SENT, ch.EARLIEST_EXPIRY, ch.INBOX, ch.READY, ch.AFTER, ch.BEFORE, ch.LOCALS)
            for word in (*derived, ch.IDLE):
                words[record + word] = rng.getrandbits(63)
            message = words[record + ch.HEAD]
            while message:
                words[message - 1] = rng.getrandbits(64)  # the header of the heap block
                message = words[message]
            record = words[record]
    words[AT_PAGES] = rng.getrandbits(20)
    overwrite_heap(store, rng)


def overwrite_groups(store: AnyStore, rng: random.Random) -> None:
    """Overwrite the derived words of a group segment."""
    assert store.sections.attachment is not None
    words, geometry = store.sections.attachment.segment.words, store.sections.attachment.segment.geometry
    for bucket in range(AT_BUCKETS, AT_BUCKETS + geometry.buckets):
        record = words[bucket]
        while record:
            for word in (mb.COUNT, mb.LAST, mb.EARLIEST_EXPIRY):
                words[record + word] = rng.getrandbits(63)
            member = words[record + mb.FIRST]
            while member:
                words[member - 1] = rng.getrandbits(64)
                for word in (0, 1, mb.BEFORE):  # words 0 and 1 are its place in the index
                    words[member + word] = rng.getrandbits(63)
                member = words[member + mb.NEXT]
            record = words[record]
    for bucket in range(geometry.index_at, geometry.index_at + geometry.indexes):
        words[bucket] = rng.getrandbits(16)
    overwrite_heap(store, rng)


def overwrite_heap(store: AnyStore, rng: random.Random) -> None:
    assert store.sections.attachment is not None
    for word in range(AT_POWER_MAP, AT_BUCKETS):
        store.sections.attachment.segment.words[word] = rng.getrandbits(30)


# -- the machine ---------------------------------------------------------------------------------------------

channels = st.sampled_from((*PLAIN, *LOCALS))
receivable = st.sampled_from((*PLAIN, *INBOXES))
clients = st.integers(0, len(EXPIRIES) - 1)
sizes = st.sampled_from((0, 1, 7, 8, 60, 61, 200, 900, 1500))


def share_inboxes(store: MessageStore) -> None:
    """Make the inboxes shared, as if another live process had received from them."""
    queues = store.sections.parts.queues

    def section() -> None:
        for inbox in INBOXES:
            record = queues.channels.find(inbox)
            if record:
                queues.words[record + ch.OWNER] = SEVERAL

    store.sections.exclusively(section)


class LayerMachine(RuleBasedStateMachine):
    """The rules are operations; ``client`` is the number of a layer object, each with its own expiries."""
    numbers = itertools.count()
    prefix = ""

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.time = time.monotonic_ns()
        self.name = f"{self.prefix}-{next(self.numbers)}"
        self.number = 0
        self.layers: list[IPCChannelLayer | None] = [None] * len(EXPIRIES)
        self.rng = random.Random(0)

    @property
    def now(self) -> int:
        self.model.now = self.time
        return self.time

    def layer(self, client: int) -> IPCChannelLayer:
        """Return the layer object of a client, a new one if it was closed."""
        layer = self.layers[client]
        if layer is None:
            expiry, group_expiry = EXPIRIES[client]
            layer = self.layers[client] = IPCChannelLayer(
                self.name,
                expiry=expiry,
                group_expiry=group_expiry,
                capacity=DEFAULT_CAPACITY,
                channel_capacity=CAPACITY,
                message_memory=128 * 1024,
                group_memory=64 * 1024,
            )
            layer._draw = random.Random(0).random  # a failing example must be reproducible
            layer.message_store.sections.clock = layer.group_store.sections.clock = lambda: self.time
        return layer

    def new_message(self, client: int, size: int) -> Sent:
        self.number += 1
        message = {"number": self.number, "data": self.rng.randbytes(size)}
        return Sent(self.number, self.now + EXPIRIES[client][0] * SECOND, self.now, message)

    @initialize()
    def open_one(self) -> None:
        self.layer(0)

    # -- messages --------------------------------------------------------------------------------------------

    @rule(client=clients, channel=channels, size=sizes)
    def send(self, client: int, channel: str, size: int) -> None:
        sent = self.new_message(client, size)
        if self.model.append(channel, sent):
            self.layer(client).send(channel, sent.message)
            return
        with pytest.raises(ChannelFull) as caught:
            self.layer(client).send(channel, sent.message)
        assert caught.value.capacity == capacity_of(channel)
        assert caught.value.count == capacity_of(channel)

    @rule(client=clients, channel=channels, size=sizes, times=st.integers(2, 6))
    def send_several(self, client: int, channel: str, size: int, times: int) -> None:
        for _ in range(times):
            self.send(client=client, channel=channel, size=size)

    @rule(client=clients, wanted=st.lists(receivable, max_size=4))
    def receive(self, client: int, wanted: list[str]) -> None:
        self.model.now = self.time
        possible = {channel for inbox in wanted for channel in self.model.waiting_in(inbox)}
        channel, message = self.layer(client).receive(wanted)
        if channel is None:
            assert not possible, f"messages wait in {possible}"
            assert message is None
            return
        assert channel in possible
        assert message == self.model.take(channel).message

    @rule(client=clients, wanted=st.sampled_from((*PLAIN, *INBOXES)))
    def drain(self, client: int, wanted: str) -> None:
        for _ in range(20):
            self.receive(client=client, wanted=[wanted])

    @rule(client=clients)
    def new_channel(self, client: int) -> None:
        channel = self.layer(client).new_channel("reply?")
        assert channel.startswith("reply?")
        assert channel not in self.model.queues

    # -- groups ----------------------------------------------------------------------------------------------

    @rule(client=clients, group=st.sampled_from(GROUPS), channel=channels)
    def group_add(self, client: int, group: str, channel: str) -> None:
        self.layer(client).group_add(group, channel)
        self.model.groups[group][channel] = self.now + EXPIRIES[client][1] * SECOND

    @rule(client=clients, group=st.sampled_from(GROUPS), chosen=st.lists(channels, min_size=2, max_size=8))
    def group_add_several(self, client: int, group: str, chosen: list[str]) -> None:
        for channel in chosen:
            self.group_add(client=client, group=group, channel=channel)

    @precondition(lambda self: any(self.model.members(group) for group in GROUPS))
    @rule(client=clients, group=st.sampled_from(GROUPS))
    def renew_all(self, client: int, group: str) -> None:
        for channel in sorted(self.model.members(group)):
            self.group_add(client=client, group=group, channel=channel)

    @rule(client=clients, group=st.sampled_from(GROUPS), channel=channels)
    def group_discard(self, client: int, group: str, channel: str) -> None:
        self.layer(client).group_discard(group, channel)
        self.model.groups[group].pop(channel, None)

    @rule(client=clients, group=st.sampled_from(GROUPS), size=sizes)
    def send_group(self, client: int, group: str, size: int) -> None:
        layer, sent = self.layer(client), self.new_message(client, size)
        members = layer.group_channels(group)
        assert sorted(members) == sorted(self.model.members(group))
        layer.send_group(group, sent.message)
        for channel in members:
            self.model.append(channel, sent)

    @precondition(lambda self: any(self.model.members(group) for group in GROUPS))
    @rule(client=clients, group=st.sampled_from(GROUPS), size=sizes, times=st.integers(2, 6))
    def send_group_several(self, client: int, group: str, size: int, times: int) -> None:
        for _ in range(times):
            self.send_group(client=client, group=group, size=size)

    # -- time, and the layers themselves ---------------------------------------------------------------------

    @rule(seconds=st.sampled_from((0.001, 0.5, 1, 1.5, 3, 9, 31, 301)))
    def pass_time(self, seconds: float) -> None:
        self.time += int(seconds * SECOND)

    @rule(client=clients)
    def flush(self, client: int) -> None:
        self.layer(client).flush()
        self.model.clear()

    @rule(client=clients)
    def close(self, client: int) -> None:
        layer, self.layers[client] = self.layers[client], None
        if layer is not None:
            layer.close()

    @rule(client=clients)
    def close_and_open(self, client: int) -> None:
        self.close(client=client)
        self.layer(client)

    @rule()
    def close_all_and_open(self) -> None:
        """Close the process's last layer, which disowns its inboxes. They are shared: nothing is lost."""
        for layer in filter(None, self.layers[:]):
            share_inboxes(layer.message_store)
        for client in range(len(EXPIRIES)):
            self.close(client=client)
        self.layer(0)

    @precondition(lambda self: self.model.sent)
    @rule(client=clients)
    def unlink(self, client: int) -> None:
        """Remove the segments while they are in use: the layers go on with new ones."""
        self.layer(client).unlink()
        self.model.clear()
        for layer in filter(None, self.layers):
            assert layer.receive([*PLAIN, *INBOXES]) == (None, None)
            assert layer.group_channels(GROUPS[0]) == []

    @rule(client=clients)
    def statistics(self, client: int) -> None:
        layer, now, pending = self.layer(client), self.now, self.model.pending()
        found = layer.global_statistics()
        assert found["messages_pending"] == len(pending)
        assert found["messages_count"] == self.model.sent
        assert found["channel_full_count"] == self.model.refused
        assert found["messages_max_age"] == max((now - sent.came for sent in pending), default=0) / 1e9
        for channel in (*PLAIN, *INBOXES):
            waiting = [sent for other in self.model.waiting_in(channel) for sent in self.model.live(other)]
            found = layer.channel_statistics(channel)
            assert found["messages_pending"] == len(waiting)
            assert found["messages_max_age"] == max((now - sent.came for sent in waiting), default=0) / 1e9

    # -- crashes ---------------------------------------------------------------------------------------------

    @rule(client=clients, messages=st.booleans(), seed=st.integers(0, 2**16))
    def crash(self, client: int, messages: bool, seed: int) -> None:
        """Raise in a critical section after all derived words were overwritten."""
        store, overwrite = self.store_to_damage(client, messages)

        def section() -> None:
            overwrite(store, random.Random(seed))
            raise Crash

        with pytest.raises(Crash):
            store.sections.exclusively(section)
        self.model.passed_over = dict.fromkeys(LOCALS, 0)

    @rule(client=clients, messages=st.booleans(), seed=st.integers(0, 2**16))
    def kill(self, client: int, messages: bool, seed: int) -> None:
        """Kill another process in a critical section after all derived words were overwritten."""
        store, overwrite = self.store_to_damage(client, messages)

        def section() -> None:
            overwrite(store, random.Random(seed))
            os.kill(os.getpid(), signal.SIGKILL)

        child = os.fork()
        if not child:
            try:
                signal.alarm(20)
                store.sections.exclusively(section)
            finally:
                os._exit(1)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status)
        assert os.WTERMSIG(status) == signal.SIGKILL
        self.model.passed_over = dict.fromkeys(LOCALS, 0)

    def store_to_damage(
        self, client: int, messages: bool
    ) -> tuple[AnyStore, Callable[[AnyStore, random.Random], None]]:
        layer = self.layer(client)
        return (layer.message_store, overwrite_messages) if messages else (layer.group_store, overwrite_groups)

    # -- what must always be true ----------------------------------------------------------------------------

    @invariant()
    def layer_is_as_the_model_says(self) -> None:
        layer = next(filter(None, self.layers), None)
        if layer is None:
            return
        now = self.now
        snapshot = layer.message_store.snapshot()
        for channel, queue in self.model.queues.items():
            found = [codec.decode(body) for body in snapshot.pop(channel, [])]
            numbers = [message["number"] for message in found]
            known = {sent.number: sent for sent in queue}
            assert numbers == [number for number in known if number in numbers], "wrong order, or a message never sent"
            live = [sent.message for sent in queue if sent.expires > now]
            assert [message for message in found if known[message["number"]].expires > now] == live
        assert not snapshot, "messages in channels that were never sent to"
        groups = layer.group_store.snapshot()
        for group, members in self.model.groups.items():
            expiries = groups.pop(group, {})
            assert expiries.items() <= members.items()
            assert members.keys() - expiries.keys() <= members.keys() - self.model.members(group)
        assert not groups
        # The listing removes expired members of the first group; the second group may keep them.
        assert sorted(layer.group_channels(GROUPS[0])) == sorted(self.model.members(GROUPS[0]))
        assert check_stores(layer.message_store) == []
        assert check_stores(layer.group_store) == []

    def teardown(self) -> None:
        layer = self.layer(0)
        try:
            for wanted in (*PLAIN, *INBOXES):
                self.drain(client=0, wanted=wanted)
            assert not self.model.pending()
            self.layer_is_as_the_model_says()
        finally:
            layer.unlink()
            for client in range(len(EXPIRIES)):
                self.close(client=client)


@pytest.mark.parametrize("seed", [1, 2])
def test_layer_against_model(prefix: str, monkeypatch: pytest.MonkeyPatch, extent: Extent, seed: int) -> None:
    monkeypatch.setattr(contention, "SUSPICION", 0.001)
    monkeypatch.setattr(recovery, "VISIBILITY", 0.0002)
    logging.getLogger("asgi_ipc").addFilter(quiet)

    class Machine(LayerMachine):
        pass

    Machine.prefix = prefix
    Machine.__qualname__ = f"Machine{seed}"  # derandomised examples are drawn from the name
    try:
        run_state_machine_as_test(  # type: ignore[no-untyped-call]
            Machine,
            settings=settings(
                max_examples=extent.amount("ASGI_IPC_MODEL_EXAMPLES", *EXAMPLES),
                stateful_step_count=STEPS,
                deadline=None,
                derandomize=True,
                print_blob=True,
                suppress_health_check=list(HealthCheck),
            ),
        )
    finally:
        logging.getLogger("asgi_ipc").removeFilter(quiet)


def quiet(record: logging.LogRecord) -> bool:
    """Filter out every record: the removed segments and full groups of this test are logged very often."""
    return False
