"""Capacity: the limit of pending messages, for each channel and inbox, by pattern, and for each sender."""

from __future__ import annotations

import importlib.util
import re

import pytest
from helpers.layers import assert_sound, drain, state

from asgi_ipc import ChannelFull, IPCChannelLayer


def accepted(layer, channel, most=500):
    """Send until the channel is full; return the number of accepted messages."""
    for count in range(most):
        try:
            layer.send(channel, {})
        except ChannelFull:
            return count
    raise AssertionError(f"{channel} took {most} messages")


def test_the_default_capacity_is_a_hundred(layer):
    assert accepted(layer, "a") == 100
    assert accepted(layer, "b") == 100


def test_a_full_channel_is_refused_with_count_and_capacity(make_layer):
    layer = make_layer(capacity=3)
    accepted(layer, "a")
    before = state(layer)
    with pytest.raises(layer.ChannelFull) as full:
        layer.send("a", {"n": 4})
    assert (full.value.channel, full.value.count, full.value.capacity) == ("a", 3, 3)
    assert state(layer) == before
    assert_sound(layer)


def test_receiving_makes_room(make_layer):
    layer = make_layer(capacity=3)
    assert accepted(layer, "a") == 3
    layer.receive(["a"])
    assert accepted(layer, "a") == 1
    assert len(drain(layer, "a")) == 3
    assert accepted(layer, "a") == 3


def test_the_channels_of_an_inbox_share_one_capacity(make_layer):
    layer = make_layer(capacity=5)
    for number in range(5):
        layer.send(f"p!{number}", {})
    for channel in ("p!0", "p!new"):
        with pytest.raises(ChannelFull) as full:
            layer.send(channel, {})
        assert (full.value.channel, full.value.count, full.value.capacity) == (channel, 5, 5)
    assert accepted(layer, "q!0") == 5
    assert accepted(layer, "p") == 5
    assert accepted(layer, "p?0") == 5
    layer.receive(["p!"])
    assert accepted(layer, "p!new") == 1
    assert_sound(layer)


def test_a_pattern_is_matched_against_the_full_name(make_layer):
    layer = make_layer(capacity=9, channel_capacity={"p!small*": 2, "p!*": 4})
    assert layer.get_capacity("p!small.1") == 2
    assert layer.get_capacity("p!other") == 4
    assert layer.get_capacity("p") == 9
    assert accepted(layer, "p!small.1") == 2
    assert accepted(layer, "p!other") == 2  # two of the four that the inbox may have are used


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        ({"a*": 2, "ab": 3, re.compile("a"): 4}, 2),
        ({"ab": 3, "a*": 2, re.compile("a"): 4}, 3),
        ({re.compile("a"): 4, "ab": 3, "a*": 2}, 4),
        ({"x": 2, "b": 3, re.compile("b"): 4}, 7),
    ],
    ids=["glob", "name", "regex", "none"],
)
def test_the_first_pattern_that_matches_wins(make_layer, patterns, expected):
    layer = make_layer(capacity=7, channel_capacity=patterns)
    assert layer.get_capacity("ab") == expected
    assert accepted(layer, "ab") == expected


def test_a_layer_applies_its_own_capacity(make_layer):
    """Each sender counts all pending messages, but compares them with its own capacity."""
    narrow, wide = make_layer(capacity=2), make_layer(capacity=6)
    assert accepted(wide, "a") == 6
    with pytest.raises(ChannelFull) as full:
        narrow.send("a", {})
    assert (full.value.count, full.value.capacity) == (6, 2)
    while len(state(wide)[0]["a"]) > 1:
        wide.receive(["a"])
    assert accepted(narrow, "a") == 1
    assert accepted(wide, "a") == 4


def test_the_helper_methods_of_asgi_ipc_1_exist(make_layer):
    layer = make_layer(channel_capacity={"a": 5, re.compile("b"): 6})
    compiled = layer.compile_capacities({"a": 5, re.compile("b"): 6})
    assert [(bool(pattern.match("a")), capacity) for pattern, capacity in compiled] == [(True, 5), (False, 6)]
    assert (layer.capacity, layer.expiry, layer.group_expiry) == (100, 60, 86400)
    assert layer.extensions[:4] == ["groups", "flush", "statistics", "async"]
    assert ("twisted" in layer.extensions) == bool(importlib.util.find_spec("twisted"))
    assert layer.valid_channel_name("a!b")
    assert layer.valid_channel_names(["a", "b!"], receive=True)
    assert layer.valid_group_name("g")
    assert layer.match_type_and_length("a")
    assert not layer.match_type_and_length(b"a")
    assert layer.non_local_name("a!b") == "a!"
    assert (layer.ChannelFull, layer.MessageTooLarge.__name__) == (ChannelFull, "MessageTooLarge")


def send_race(talk, prefix, channel, capacity, tries):
    """Run in a child: when told to, send ``tries`` messages without pause and report the accepted number."""
    with IPCChannelLayer(prefix, capacity=capacity, message_memory=1 << 20, group_memory=1 << 18) as layer:
        while True:
            talk.say("ready")
            if not talk.hear():
                return
            taken = 0
            for number in range(tries):
                try:
                    layer.send(channel.format(number % 5), {"n": number})
                    taken += 1
                except ChannelFull:
                    pass
            talk.say(taken)


@pytest.mark.parametrize("channel", ["a", "p!{}"], ids=["channel", "inbox"])
def test_racing_senders_never_exceed_the_capacity(make_layer, start, channel):
    layer = make_layer(capacity=40)
    senders = [start(send_race, layer.prefix, channel, 40, 3000) for _ in range(3)]

    def race():
        assert [sender.hear() for sender in senders] == ["ready"] * 3
        for sender in senders:
            sender.say(True)

    race()
    assert sum(sender.hear() for sender in senders) == 40
    assert len(drain(layer, "a", "p!")) == 40
    race()
    received = 0
    for _ in range(200):
        waiting = sum(map(len, state(layer)[0].values()))
        assert waiting <= 40
        for _ in range(10):
            received += layer.receive(["a", "p!"])[0] is not None
    taken = sum(sender.hear() for sender in senders)
    assert received + len(drain(layer, "a", "p!")) == taken
    assert_sound(layer)
    for sender in senders:
        sender.hear()
        sender.say(False)
        sender.end()
