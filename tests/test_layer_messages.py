"""Messages of the synchronous layer: order, delivery at most once, several channels, new names, sizes."""

from __future__ import annotations

import warnings

import pytest
from helpers.layers import Clock, assert_sound, drain, heap_bytes, message_of, state, until_full

from asgi_ipc import ChannelFull, MemoryFull, MessageTooLarge, names
from asgi_ipc.layer import REMEMBERED

#: Minimum fraction of the heap that messages can fill after messages of other sizes have been in it.
MIN_FILLED = 0.95


def fill(layer, channel, message):
    """Send until the memory is full; return the number of messages."""
    count, full = until_full(lambda _: layer.send(channel, message))
    assert isinstance(full, MemoryFull)
    return count


# -- order and delivery --


def test_a_message_is_received_unchanged(layer):
    message = {"text": "héllo", "bytes": b"\0\xff", "n": -5, "list": [1, 2.5, None, True, {"deep": []}]}
    layer.send("a", message)
    assert layer.receive(["a"]) == ("a", message)


def test_each_channel_is_first_in_first_out(layer):
    for number in range(30):
        for channel in ("a", "b?c", "d"):
            layer.send(channel, {"n": number})
    for channel in ("d", "a", "b?c"):
        assert [message["n"] for _, message in drain(layer, channel)] == list(range(30))


def test_a_message_is_received_once(layer, make_layer):
    other = make_layer()
    layer.send("a", {"n": 1})
    assert other.receive(["a"]) == ("a", {"n": 1})
    assert layer.receive(["a"]) == (None, None)
    assert other.receive(["a"]) == (None, None)


@pytest.mark.parametrize(
    "channels",
    [["a"], ("a",), {"a"}, frozenset(["a"]), {"a": 1}.keys(), iter(["a"]), (name for name in ["b", "a"])],
    ids=["list", "tuple", "set", "frozenset", "keys", "iterator", "generator"],
)
def test_receive_accepts_any_iterable_of_names(layer, channels):
    layer.send("a", {})
    assert layer.receive(channels) == ("a", {})


@pytest.mark.parametrize("none", [[], (), set(), iter([])], ids=["list", "tuple", "set", "iterator"])
def test_receive_from_no_channels_returns_nothing(layer, none):
    layer.send("a", {})
    assert layer.receive(none) == (None, None)


def test_receive_with_block_returns_after_the_block_timeout(layer):
    assert layer.receive(["a"], block=True) == (None, None)


def test_receive_finds_messages_on_every_channel_of_a_long_list(layer):
    many = [f"c{number}" for number in range(200)]
    for channel in many:
        layer.send(channel, {"to": channel})
    assert sorted(drain(layer, *many)) == sorted((channel, {"to": channel}) for channel in many)


@pytest.mark.parametrize("others", [0, 1, 2, 3], ids=lambda others: f"alternating_with_{others}")
def test_continuous_traffic_does_not_starve_another_channel(layer, others):
    """Also with call patterns that would be in phase with a simple round robin."""
    lists = [["busy", "quiet"], *([[f"x{n}", f"y{n}"] for n in range(others)])]
    for number in range(5):
        layer.send("quiet", {"n": number})
    received = []
    for _ in range(400):
        for wanted in lists:
            layer.send("busy", {})
            channel, message = layer.receive(wanted)
            if channel == "quiet":
                received.append(message["n"])
            layer.receive(["busy"])
        if len(received) == 5:
            break
    assert received == [0, 1, 2, 3, 4]


def test_an_inbox_serves_its_channels_in_turn(layer):
    for number in range(10):
        layer.send("p!busy", {"n": number})
    for channel in ("p!b", "p!c"):
        layer.send(channel, {"n": 0})
    assert sorted(layer.receive(["p!"])[0] for _ in range(3)) == ["p!b", "p!busy", "p!c"]
    assert drain(layer, "p!") == [("p!busy", {"n": number}) for number in range(1, 10)]


def test_continuous_traffic_of_one_socket_does_not_starve_another(layer):
    layer.send("p!busy", {})
    layer.send("p!quiet", {"n": 0})
    received = []
    for _ in range(4):
        layer.send("p!busy", {})
        received.append(layer.receive(["p!"])[0])
    assert received.count("p!quiet") == 1


def test_an_inbox_and_channels_with_the_same_prefix_are_separate(layer):
    layer.send("p!a", {"n": 1})
    layer.send("p", {"n": 2})
    layer.send("p?a", {"n": 3})
    assert layer.receive(["p"]) == ("p", {"n": 2})
    assert layer.receive(["p?a"]) == ("p?a", {"n": 3})
    assert layer.receive(["p!"]) == ("p!a", {"n": 1})


def test_later_changes_to_a_sent_object_have_no_effect(layer):
    message = {"list": [1], "dict": {"a": 1}}
    layer.send("a", message)
    layer.group_add("g", "b")
    layer.send_group("g", message)
    message["list"].append(2)
    message["dict"]["a"] = 2
    message["new"] = 3
    for channel in ("a", "b"):
        assert layer.receive([channel]) == (channel, {"list": [1], "dict": {"a": 1}})


def test_receivers_of_a_group_send_get_separate_objects(layer):
    layer.group_add("g", "a")
    layer.group_add("g", "b")
    layer.send_group("g", {"list": []})
    _, first = layer.receive(["a"])
    first["list"].append(1)
    assert layer.receive(["b"]) == ("b", {"list": []})


def test_the_cache_of_used_names_is_bounded(layer):
    for number in range(REMEMBERED + 10):
        layer.receive([f"reply?{number}"])
    assert len(layer._receivable) <= REMEMBERED
    layer.send("reply?5", {})
    assert layer.receive(["reply?5"]) == ("reply?5", {})


# -- a deprecated method, new names --


def test_receive_many_works_and_is_deprecated(layer):
    layer.send("a", {"n": 1})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert layer.receive_many(["a"]) == ("a", {"n": 1})
    assert [(warning.category, warning.filename) for warning in caught] == [(DeprecationWarning, __file__)]
    assert "call receive" in str(caught[0].message)


def test_new_channel_makes_unique_names_for_a_pattern(layer):
    made = {layer.new_channel("reply?") for _ in range(1000)}
    assert len(made) == 1000
    assert all(name.startswith("reply?") and layer.valid_channel_name(name) for name in made)


def test_new_channel_returns_no_name_in_use(layer, monkeypatch):
    parts = iter(["taken", "taken", "free"])
    monkeypatch.setattr(names, "random_local_part", lambda: next(parts))
    layer.send("reply?taken", {})
    assert layer.new_channel("reply?") == "reply?free"


# -- sizes --


def test_a_mebibyte_is_always_accepted(prefix, make_layer):
    with make_layer(message_memory=100 * 1024 * 1024, group_memory=20 * 1024 * 1024) as layer:
        message = {"bytes": bytes(range(256)) * 4096}
        layer.send("a", message)
        layer.send("a", message_of(1024 * 1024))
        assert layer.receive(["a"]) == ("a", message)


def test_the_default_message_limit_is_an_eighth_of_the_memory(make_layer):
    layer = make_layer(message_memory=16 * 1024 * 1024)
    layer.send("a", message_of(2 * 1024 * 1024))
    with pytest.raises(MessageTooLarge):
        layer.send("a", message_of(2 * 1024 * 1024 + 1))


def test_the_message_limit_is_an_option_and_the_error_has_both_sizes(make_layer):
    layer = make_layer(message_limit=1000)
    layer.send("a", message_of(1000))
    before = state(layer)
    with pytest.raises(MessageTooLarge) as refusal:
        layer.send("a", message_of(1001))
    assert (refusal.value.size, refusal.value.limit, refusal.value.channel) == (1001, 1000, "a")
    assert "1001" in str(refusal.value)
    assert "1000" in str(refusal.value)
    layer.group_add("g", "b")
    before = state(layer)
    with pytest.raises(MessageTooLarge) as refusal:
        layer.send_group("g", message_of(1001))
    assert (refusal.value.size, refusal.value.limit) == (1001, 1000)
    assert state(layer) == before


def test_a_message_larger_than_the_memory_is_too_large_instead_of_channel_full(make_layer):
    """On ``ChannelFull``, a sender would retry for ever."""
    layer = make_layer(message_memory=256 * 1024)
    with pytest.raises(MessageTooLarge) as refusal:
        layer.send("a", message_of(256 * 1024))
    limit = refusal.value.limit
    assert 200 * 1024 < limit < 256 * 1024
    layer.group_add("g", "b")
    message = message_of(limit)
    for send, target, channel in ((layer.send, "a", "a"), (layer.send_group, "g", "b"), (layer.send, "p!c", "p!c")):
        send(target, message)
        assert layer.receive([names.non_local_name(channel)]) == (channel, message)


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 1000, 1023, 1024, 4096, 70_000, 262_144, 500_000])
def test_messages_of_every_size_are_complete(layer, size):
    message = {"d": bytes(number * 7 % 251 for number in range(size))}
    layer.send("a", message)
    layer.group_add("g", "b")
    layer.send_group("g", message)
    assert layer.receive(["a"]) == ("a", message)
    assert layer.receive(["b"]) == ("b", message)


# -- full memory --


def test_full_memory_raises_memory_full(make_layer):
    layer = make_layer(message_memory=256 * 1024, capacity=10**6)
    count, full = until_full(lambda _: layer.send("a", {"d": b"x" * 1000}))
    assert isinstance(full, MemoryFull)
    assert isinstance(full, ChannelFull)
    assert isinstance(full, layer.ChannelFull)
    assert (full.channel, full.segment, full.size, full.reason) == (
        "a",
        f"{layer.prefix}-messages",
        256 * 1024,
        "memory",
    )
    assert count * 1000 < full.used <= full.size
    assert "message_memory" in str(full)
    before = state(layer)
    with pytest.raises(MemoryFull):
        layer.send("b", {"d": b"x" * 1000})
    assert state(layer) == before
    assert_sound(layer)


@pytest.mark.parametrize("size", [10, 200, 1000, 5000, 60_000])
def test_drained_memory_can_be_filled_again(make_layer, size):
    layer = make_layer(capacity=10**6)
    message = {"d": b"x" * size}
    first = fill(layer, "a", message)
    for _ in range(3):
        assert len(drain(layer, "a")) == first
        again = fill(layer, "a", message)
        assert again == first


def test_changing_sizes_waste_no_memory(make_layer):
    """Fill and drain with small and large sizes in turn: each fills as much memory as in a new segment."""
    sizes = [10, 90_000, 333, 5000, 25, 40_000, 1016, 1100, 20_000, 100, 2500, 3, 65_536, 700]
    layer = make_layer(capacity=10**6)
    for size in sizes * 2:
        message = {"d": b"x" * size}
        count = fill(layer, "a", message)
        assert count * (size + 50) >= MIN_FILLED * heap_bytes(layer) - size - 8192, size
        assert len(drain(layer, "a")) == count
    assert_sound(layer)


def test_mixed_sizes_waste_no_memory(make_layer):
    """Every second message of a full memory is received; messages of other sizes fill the gaps."""
    layer = make_layer(capacity=10**6)
    for size in (100, 60, 350, 2000, 900):
        sent, _ = until_full(lambda turn, size=size: layer.send("ab"[turn % 2], {"d": b"x" * size}))
        drain(layer, "a")
        count = fill(layer, "c", {"d": b"y" * (size // 3)})
        assert count >= sent // 2  # at least one for each
        drain(layer, "b", "c")
    assert_sound(layer)


@pytest.mark.parametrize("pattern", ["reply?{}", "p!{}", "p{}!x"], ids=["reply", "socket", "process"])
def test_names_used_once_do_not_fill_the_memory(make_layer, pattern):
    """Names may come faster than the sweep: 8,000 of them, in memory for a thousand channel records."""
    layer = make_layer(message_memory=256 * 1024)
    for number in range(8000):
        channel = pattern.format(number)
        layer.send(channel, {"n": number})
        assert layer.receive([names.non_local_name(channel)]) == (channel, {"n": number})
    assert_sound(layer)


def test_drained_channels_make_room_for_large_messages(make_layer):
    layer = make_layer()
    clock = Clock(layer)
    count, _ = until_full(lambda number: layer.send(f"c{number}", {}))
    for number in range(count):
        assert layer.receive([f"c{number}"]) == (f"c{number}", {})
    clock.forward(1.5)  # a sweep of all channels runs at most once a second
    assert fill(layer, "large", {"d": b"x" * 50_000}) >= 18  # of the 20 that fit into a new segment
    assert_sound(layer)
