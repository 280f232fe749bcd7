"""
A layer and a model of it, side by side: the model is a dict of deques and a dict of dicts, and nothing is shared.

Hypothesis chooses what several layer objects with one prefix do, how time passes, and when a holder ends in the middle
of its section with everything derived overwritten.  After every step the stores' snapshots must be what the model
says, and the audit must find each derived word right.
"""

from __future__ import annotations

import itertools
import logging
import os
import random
import signal
import time
from collections import deque
from typing import Any, Callable, Deque, Dict, List, NamedTuple, Optional, Set, Tuple, Union

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
from asgi_ipc.locking import mutex as mutexes
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
#: (message expiry, group expiry) in seconds of the layers that are opened: lives of different length mix in one queue.
LIVES = ((10, 30), (2, 300), (60, 3))
STEPS = int(os.environ.get("ASGI_IPC_MODEL_STEPS", "60"))
#: With ``--exhaustive``, and without it.
EXAMPLES = 90, 30


class Sent(NamedTuple):
    """A message in the model."""

    number: int
    expires: int
    came: int
    message: Dict[str, Any]


def inbox_of(channel: str) -> str:
    """The channel itself, or the inbox that it counts in."""
    head, mark, _ = channel.partition("!")
    return head + mark


def capacity_of(channel: str) -> int:
    if channel.startswith("in-a!"):
        return CAPACITY["in-a!*"]
    if channel.startswith("reply?d"):
        return CAPACITY["reply?d*"]
    return CAPACITY.get(channel, DEFAULT_CAPACITY)


class Model:
    """What a layer must do. Expired messages stay in the deques until nobody could see them any more."""

    def __init__(self) -> None:
        self.now = 0
        self.clear()
        self.sent = self.refused = 0

    def clear(self) -> None:
        self.queues: Dict[str, Deque[Sent]] = {channel: deque() for channel in (*PLAIN, *LOCALS)}
        self.groups: Dict[str, Dict[str, int]] = {group: {} for group in GROUPS}
        self.sent = self.refused = 0
        #: How often each process-local channel with messages was passed over in its inbox.
        self.passed: Dict[str, int] = dict.fromkeys(LOCALS, 0)

    def live(self, channel: str) -> List[Sent]:
        return [sent for sent in self.queues[channel] if sent.expires > self.now]

    def waiting_in(self, inbox: str) -> List[str]:
        """The channels with messages of an inbox; of any other channel, itself."""
        return [channel for channel in self.queues if inbox_of(channel) == inbox and self.live(channel)]

    def members(self, group: str) -> Set[str]:
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
        """Take the first live message of a channel; what has expired in front of it is gone with it."""
        queue = self.queues[channel]
        while True:
            sent = queue.popleft()
            if sent.expires > self.now:
                break
        if channel in LOCALS:
            neighbours = [other for other in LOCALS if inbox_of(other) == inbox_of(channel) and other != channel]
            for other in filter(self.live, neighbours):
                self.passed[other] += 1
                assert self.passed[other] <= len(neighbours), f"{other} is starved by its neighbours"
            self.passed[channel] = 0
        return sent

    def pending(self) -> List[Sent]:
        return [sent for channel in self.queues for sent in self.live(channel)]


# -- ending in the middle -------------------------------------------------------------------------------------


class Crashed(Exception):
    """What a section raises that ends in the middle."""

AnyStore = Union[MessageStore, GroupStore]


def spoil_messages(store: AnyStore, dice: random.Random) -> None:
    """Overwrite what is derived in a message segment. What is truth, and what was counted, stays."""
    assert store.sections.attachment is not None
    words, geometry = store.sections.attachment.segment.words, store.sections.attachment.segment.geometry
    for bucket in range(AT_BUCKETS, AT_BUCKETS + geometry.buckets):
        record = words[bucket]
        while record:
            derived = (ch.TAIL, ch.SENT, ch.EARLIEST_EXPIRY, ch.INBOX, ch.READY, ch.AFTER, ch.BEFORE, ch.LOCALS)
            for word in (*derived, ch.IDLE):
                words[record + word] = dice.getrandbits(63)
            message = words[record + ch.HEAD]
            while message:
                words[message - 1] = dice.getrandbits(64)  # the heap's own header
                message = words[message]
            record = words[record]
    words[AT_PAGES] = dice.getrandbits(20)
    spoil_heap(store, dice)


def spoil_groups(store: AnyStore, dice: random.Random) -> None:
    """Overwrite what is derived in a group segment."""
    assert store.sections.attachment is not None
    words, geometry = store.sections.attachment.segment.words, store.sections.attachment.segment.geometry
    for bucket in range(AT_BUCKETS, AT_BUCKETS + geometry.buckets):
        record = words[bucket]
        while record:
            for word in (mb.COUNT, mb.LAST, mb.EARLIEST_EXPIRY):
                words[record + word] = dice.getrandbits(63)
            member = words[record + mb.FIRST]
            while member:
                words[member - 1] = dice.getrandbits(64)
                for word in (0, 1, mb.BEFORE):  # its place in the index too
                    words[member + word] = dice.getrandbits(63)
                member = words[member + mb.NEXT]
            record = words[record]
    for bucket in range(geometry.index_at, geometry.index_at + geometry.indexes):
        words[bucket] = dice.getrandbits(16)
    spoil_heap(store, dice)


def spoil_heap(store: AnyStore, dice: random.Random) -> None:
    assert store.sections.attachment is not None
    for word in range(AT_POWER_MAP, AT_BUCKETS):
        store.sections.attachment.segment.words[word] = dice.getrandbits(30)


# -- the machine ----------------------------------------------------------------------------------------------

channels = st.sampled_from((*PLAIN, *LOCALS))
receivable = st.sampled_from((*PLAIN, *INBOXES))
clients = st.integers(0, len(LIVES) - 1)
sizes = st.sampled_from((0, 1, 7, 8, 60, 61, 200, 900, 1500))


def share_inboxes(store: MessageStore) -> None:
    """As if another live process received from them, too."""
    queues = store.sections.parts.queues

    def section() -> None:
        for inbox in INBOXES:
            record = queues.channels.find(inbox)
            if record:
                queues.words[record + ch.OWNER] = SEVERAL

    store.sections.exclusively(section)


class LayerMachine(RuleBasedStateMachine):
    """Rules are what callers do; ``client`` chooses one of the layer objects, which differ in their expiries."""

    numbers = itertools.count()
    prefix = ""

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.time = time.monotonic_ns()
        self.name = f"{self.prefix}-{next(self.numbers)}"
        self.number = 0
        self.layers: List[Optional[IPCChannelLayer]] = [None] * len(LIVES)
        self.dice = random.Random(0)

    @property
    def now(self) -> int:
        self.model.now = self.time
        return self.time

    def layer(self, client: int) -> IPCChannelLayer:
        """The layer object of a client, opened if it was closed."""
        layer = self.layers[client]
        if layer is None:
            expiry, group_expiry = LIVES[client]
            layer = self.layers[client] = IPCChannelLayer(
                self.name,
                expiry=expiry,
                group_expiry=group_expiry,
                capacity=DEFAULT_CAPACITY,
                channel_capacity=CAPACITY,
                message_memory=128 * 1024,
                group_memory=64 * 1024,
            )
            layer._draw = random.Random(0).random  # an example that fails must fail again
            layer.message_store.sections.clock = layer.group_store.sections.clock = lambda: self.time
        return layer

    def new_message(self, client: int, size: int) -> Sent:
        self.number += 1
        message = {"number": self.number, "data": self.dice.randbytes(size)}
        return Sent(self.number, self.now + LIVES[client][0] * SECOND, self.now, message)

    @initialize()
    def open_one(self) -> None:
        self.layer(0)

    # -- messages ---------------------------------------------------------------------------------------------

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
    def receive(self, client: int, wanted: List[str]) -> None:
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

    # -- groups -----------------------------------------------------------------------------------------------

    @rule(client=clients, group=st.sampled_from(GROUPS), channel=channels)
    def group_add(self, client: int, group: str, channel: str) -> None:
        self.layer(client).group_add(group, channel)
        self.model.groups[group][channel] = self.now + LIVES[client][1] * SECOND

    @rule(client=clients, group=st.sampled_from(GROUPS), chosen=st.lists(channels, min_size=2, max_size=8))
    def group_add_several(self, client: int, group: str, chosen: List[str]) -> None:
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

    # -- time, and the layers themselves ----------------------------------------------------------------------

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
        """A process that closes its last layer gives its inboxes up; these are everybody's, and nothing is lost."""
        for layer in filter(None, self.layers[:]):
            share_inboxes(layer.message_store)
        for client in range(len(LIVES)):
            self.close(client=client)
        self.layer(0)

    @precondition(lambda self: self.model.sent)
    @rule(client=clients)
    def unlink(self, client: int) -> None:
        """Remove the segments under everybody: they go on with new ones."""
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

    # -- calls that end in the middle -------------------------------------------------------------------------

    @rule(client=clients, messages=st.booleans(), seed=st.integers(0, 2**16))
    def crash(self, client: int, messages: bool, seed: int) -> None:
        """A section raises when it has left nothing derived as it was."""
        store, spoil = self.store_to_spoil(client, messages)

        def section() -> None:
            spoil(store, random.Random(seed))
            raise Crashed

        with pytest.raises(Crashed):
            store.sections.exclusively(section)
        self.model.passed = dict.fromkeys(LOCALS, 0)

    @rule(client=clients, messages=st.booleans(), seed=st.integers(0, 2**16))
    def kill(self, client: int, messages: bool, seed: int) -> None:
        """Another process is killed when it has left nothing derived as it was."""
        store, spoil = self.store_to_spoil(client, messages)

        def section() -> None:
            spoil(store, random.Random(seed))
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
        self.model.passed = dict.fromkeys(LOCALS, 0)

    def store_to_spoil(self, client: int, messages: bool) -> Tuple[AnyStore, Callable[[AnyStore, random.Random], None]]:
        layer = self.layer(client)
        return (layer.message_store, spoil_messages) if messages else (layer.group_store, spoil_groups)

    # -- what must always be true -----------------------------------------------------------------------------

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
            assert numbers == [number for number in known if number in numbers], "order, or messages that nobody sent"
            live = [sent.message for sent in queue if sent.expires > now]
            assert [message for message in found if known[message["number"]].expires > now] == live
        assert not snapshot, "messages in channels that nobody sent to"
        groups = layer.group_store.snapshot()
        for group, members in self.model.groups.items():
            ends = groups.pop(group, {})
            assert ends.items() <= members.items()
            assert members.keys() - ends.keys() <= members.keys() - self.model.members(group)
        assert not groups
        # Listed here, the first group never keeps a membership that has ended; the second one may.
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
            for client in range(len(LIVES)):
                self.close(client=client)


@pytest.mark.parametrize("seed", [1, 2])
def test_layer_against_model(prefix: str, monkeypatch: pytest.MonkeyPatch, extent: Extent, seed: int) -> None:
    for name, seconds in (("SUSPICION", 0.001), ("VISIBILITY", 0.0002)):
        monkeypatch.setattr(mutexes, name, seconds)
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
    """Segments are removed under their users here, and sizes of groups exceeded, thousands of times."""
    return False
