"""Groups of the synchronous layer: members, renewal, and sends that skip full members and log it."""

from __future__ import annotations

import logging
import struct

import pytest
from helpers.layers import Clock, assert_sound, drain, state, until_full

from asgi_ipc import GroupStoreFull, IPCChannelLayer
from asgi_ipc import layer as layer_module
from asgi_ipc.structures.slab import TAG


@pytest.fixture
def info(caplog):
    """Return a function that lists the package's log records as (level, text)."""
    caplog.set_level(logging.INFO, logger="asgi_ipc")
    return lambda: [(r.levelname, r.getMessage()) for r in caplog.records if r.name == "asgi_ipc"]


@pytest.fixture
def seconds(monkeypatch):
    """A clock for the time limits of the front end."""
    clock = Clock()

    class Time:
        monotonic = staticmethod(clock.seconds)

    monkeypatch.setattr(layer_module, "clock", Time)
    return clock


def test_members_are_listed_in_the_order_of_addition(layer):
    names = [f"c{number}" for number in (5, 3, 9, 1, 7)]
    for name in names:
        layer.group_add("g", name)
    assert layer.group_channels("g") == names
    layer.group_discard("g", "c9")
    layer.group_add("g", "c9")
    assert layer.group_channels("g") == ["c5", "c3", "c1", "c7", "c9"]
    assert_sound(layer)


def test_adding_twice_is_one_membership(layer):
    layer.group_add("g", "a")
    layer.group_add("g", "b")
    layer.group_add("g", "a")
    assert layer.group_channels("g") == ["a", "b"]
    layer.send_group("g", {"n": 1})
    assert drain(layer, "a") == [("a", {"n": 1})]


def test_only_adding_again_renews_a_membership(make_layer):
    layer = make_layer(group_expiry=10)
    clock = Clock(layer)
    layer.group_add("g", "a")
    layer.group_add("g", "b")
    clock.forward(6)
    layer.group_add("g", "a")
    layer.send_group("g", {})
    layer.group_channels("g")
    assert state(layer)[1] == {"g": {"a": clock.now + 10 * 10**9, "b": clock.now + 4 * 10**9}}


@pytest.mark.parametrize(("group", "channel"), [("g", "absent"), ("absent", "a")], ids=["channel", "group"])
def test_discarding_an_absent_member_changes_nothing(layer, group, channel):
    layer.group_add("g", "a")
    before = state(layer)
    layer.group_discard(group, channel)
    assert state(layer) == before


def test_groups_are_separate(layer):
    layer.group_add("g", "a")
    layer.group_add("h", "a")
    layer.group_add("h", "b")
    layer.group_discard("g", "a")
    assert layer.group_channels("g") == []
    assert layer.group_channels("h") == ["a", "b"]
    assert layer.group_channels("never") == []
    assert_sound(layer)


def test_every_member_gets_the_message_once_and_in_order(layer):
    members = ["a", "b?c", "p!1", "p!2", "q!1"]
    for member in members:
        layer.group_add("g", member)
    for number in range(5):
        layer.send_group("g", {"n": number})
    received = drain(layer, "a", "b?c", "p!", "q!")
    assert len(received) == 25
    for member in members:
        assert [message["n"] for channel, message in received if channel == member] == list(range(5))
    assert_sound(layer)


def test_a_send_to_an_empty_group_does_nothing(layer, info):
    layer.send_group("empty", {"n": 1})
    assert state(layer) == ({}, {})
    assert info() == []


def test_a_large_message_to_a_large_group_is_stored_only_a_few_times(make_layer):
    """300 copies of 10,000 bytes would not fit: a body is stored once for each slice of members."""
    layer = make_layer()
    members = [f"c{number}" for number in range(300)]
    for member in members:
        layer.group_add("g", member)
    message = {"d": bytes(range(250)) * 40}
    layer.send_group("g", message)
    assert sorted(drain(layer, *members)) == sorted((member, message) for member in members)
    assert state(layer)[0] == {}
    assert_sound(layer)


def test_group_and_single_sends_keep_their_order_on_one_channel(layer):
    layer.group_add("g", "a")
    layer.send("a", {"n": 0})
    layer.send_group("g", {"n": 1})
    layer.send("a", {"n": 2})
    assert [message["n"] for _, message in drain(layer, "a")] == [0, 1, 2]


def test_full_members_are_skipped_and_counted(make_layer, info):
    layer = make_layer(capacity=1)
    for member in ("a", "b", "c", "p!1", "p!2"):
        layer.group_add("g", member)
    layer.send("b", {"n": "old"})
    layer.send_group("g", {"n": "new"})  # b is full, and p!1 and p!2 share a capacity of one
    assert info() == [("INFO", "2 of 5 channels over capacity in group g")]
    received = drain(layer, "a", "b", "c", "p!")
    assert sorted(received) == [("a", {"n": "new"}), ("b", {"n": "old"}), ("c", {"n": "new"}), ("p!1", {"n": "new"})]
    assert_sound(layer)


def test_full_members_are_logged_at_most_once_a_second_for_each_group(make_layer, info, seconds):
    layer = make_layer(capacity=1)
    for group in ("g", "h"):
        layer.group_add(group, "a")
    layer.send("a", {})
    for _ in range(50):
        layer.send_group("g", {})
        layer.send_group("h", {})
    line = "1 of 1 channels over capacity in group "
    assert [text for _, text in info()] == [line + "g", line + "h"]
    seconds.forward(0.9)
    layer.send_group("g", {})
    assert len(info()) == 2
    seconds.forward(0.2)
    for _ in range(50):
        layer.send_group("g", {})
    assert [text for _, text in info()] == [line + "g", line + "h", line + "g"]


def test_the_record_of_logged_groups_is_bounded(make_layer, monkeypatch):
    monkeypatch.setattr(layer_module, "REMEMBERED", 5)
    layer = make_layer(capacity=1)
    layer.send("a", {})
    for number in range(20):
        layer.group_add(f"g{number}", "a")
        layer.send_group(f"g{number}", {})
    assert len(layer._logged) <= 5


def test_members_are_skipped_and_counted_when_memory_is_full(make_layer, info):
    layer = make_layer(message_memory=128 * 1024, capacity=10**6)
    until_full(lambda _: layer.send("filler", {"d": b"x" * 100}))
    for member in ("a", "b", "c"):
        layer.group_add("g", member)
    before = state(layer)
    layer.send_group("g", {"d": b"x" * 1000})
    assert info() == [("INFO", "3 of 3 channels over capacity in group g")]
    assert state(layer) == before
    assert_sound(layer)


def test_a_full_group_store_refuses_and_adds_nothing(make_layer):
    layer = make_layer(group_memory=64 * 1024)
    count, full = until_full(lambda number: layer.group_add("g", f"channel-{number}"))
    members = [f"channel-{number}" for number in range(count)]
    assert isinstance(full, GroupStoreFull)
    assert (full.group, full.channel, full.reason) == ("g", f"channel-{count}", "memory")
    assert (full.segment, full.size) == (f"{layer.prefix}-groups", 64 * 1024)
    assert "group_memory" in str(full)
    before = state(layer)
    with pytest.raises(GroupStoreFull):
        layer.group_add("another", "channel-0")
    assert state(layer) == before
    assert_sound(layer)
    layer.group_add("g", members[0])  # renewal takes no memory
    assert layer.group_channels("g") == members
    for member in members:
        layer.group_discard("g", member)
    for member in members:
        layer.group_add("h", member)
    assert layer.group_channels("h") == members
    assert_sound(layer)


# -- both stores --


def test_flush_empties_both_stores_for_all_layers(make_layer):
    layer, other = make_layer(), make_layer()
    for channel in ("a", "p!b"):
        layer.send(channel, {"n": 1})
        layer.group_add("g", channel)
    other.flush()
    assert state(layer) == ({}, {})
    assert layer.receive(["a", "p!"]) == (None, None)
    assert layer.group_channels("g") == []
    assert layer.global_statistics()["messages_pending"] == 0
    layer.send("a", {"n": 2})
    layer.send("p!b", {"n": 2})
    layer.group_add("g", "a")
    assert sorted(drain(other, "a", "p!")) == [("a", {"n": 2}), ("p!b", {"n": 2})]
    assert other.group_channels("g") == ["a"]
    assert_sound(layer)


def test_flush_frees_all_memory(make_layer):
    layer = make_layer(capacity=10**6)
    counts = []
    for _ in range(2):
        counts.append(until_full(lambda _: layer.send("a", {"d": b"x" * 1000}))[0])
        layer.flush()
    assert counts[0] == counts[1] > 900


def send_after_flush(talk, prefix):
    """Run in a child: use 100 channels, then send to the last one after another process's flush."""
    with IPCChannelLayer(prefix, message_memory=1 << 20, group_memory=1 << 18) as layer:
        for number in range(100):
            layer.send(f"c{number}", {"n": "old"})
        talk.say("sent")
        talk.hear()
        layer.send("c99", {"n": "new"})
        talk.say("sent")


def test_cached_offsets_of_channels_are_not_used_after_a_flush(layer, start):
    """The cache must not be used even if the new content at the old offset looks like the same channel."""
    child = start(send_after_flush, layer.prefix)
    child.hear()
    store = layer.message_store

    def tag_of_last():
        queues = store.sections.parts.queues
        return queues.words[queues.channels.find("c99") + TAG]

    lookalike = struct.pack("=Q", store.sections.exclusively(tag_of_last)) * 50_000
    layer.flush()
    store.append("lookalike", 1, lookalike)
    child.say()
    child.hear()
    child.end()
    assert store.pop(["lookalike"]) == ("lookalike", lookalike)
    assert layer.receive(["c99"]) == ("c99", {"n": "new"})
    assert state(layer)[0] == {}
    assert_sound(layer)
