"""
Every refusal of wrong input: the error names the input and says how to fix it, and nothing has changed.

Options are tested in ``test_refusals_options``, unusable segments in ``shm/test_segments``.
"""

from __future__ import annotations

import datetime
import decimal
import uuid

import msgpack
import pytest
from helpers.layers import assert_sound, state, until_full

from asgi_ipc import ChannelFull, GroupStoreFull, MemoryFull, MessageTooLarge

CHANNEL_RULE = "a channel name is a str of 1 to 99 characters, ASCII letters, digits"
GROUP_RULE = "a group name is a str of 1 to 99 characters, ASCII letters, digits"

#: Names that are wrong for every method that takes a channel, and a part of the error.
WRONG_CHANNELS = {
    "empty": ("", "'' is not valid: it is empty"),
    "too_long": ("x" * 100, "it has 100 characters"),
    "space": ("a b", "'a b' is not valid: it contains ' '"),
    "slash": ("a/b", "'a/b' is not valid: it contains '/'"),
    "final_newline": ("a\n", r"'a\n' is not valid: it contains '\n'"),
    "letter_outside_ascii": ("caf\u00e9", r"it contains '\xe9'"),
    "digit_outside_ascii": ("a\u0663", r"it contains '\u0663'"),
    "nul": ("a\0b", r"it contains '\x00'"),
    "two_exclamation_marks": ("a!b!c", "'a!b!c' is not valid: it has more than one"),
    "both_marks": ("a?b!c", "'a?b!c' is not valid: it has more than one"),
    "nothing_before_exclamation_mark": ("!a", "'!a' is not valid: it has nothing before its"),
    "nothing_before_question_mark": ("?a", "'?a' is not valid: it has nothing before its"),
    "bytes": (b"a", "b'a' is not valid: it is a bytes, not a str"),
    "int": (5, "5 is not valid: it is an int, not a str"),
    "none": (None, "None is not valid: it is a NoneType, not a str"),
    "list": (["a"], "['a'] is not valid: it is a list, not a str"),
    "dict": ({"a": 1}, "{'a': 1} is not valid: it is a dict, not a str"),
}
#: Names that are only wrong for sending, or only for receiving.
WRONG_TO_SEND = {
    "ends_in_question_mark": ("a?", "'a?' is not valid: it ends in \"?\"; add the local part"),
    "ends_in_exclamation_mark": ("a!", "'a!' is not valid: it ends in \"!\", so it is an inbox; add the local part"),
}
WRONG_TO_RECEIVE = {
    "ends_in_question_mark": ("a?", "'a?' is not valid: it ends in \"?\"; add the local part"),
    "goes_on": ("a!b", "'a!b' is not valid: it has a local part after its \"!\"; receive from the whole inbox, 'a!'"),
}
WRONG_GROUPS = {
    name: case for name, case in WRONG_CHANNELS.items() if "mark" not in name
}
WRONG_GROUPS.update(
    exclamation_mark=("a!b", "'a!b' is not valid: it contains '!'"),
    question_mark=("a?b", "'a?b' is not valid: it contains '?'"),
)
WRONG_PATTERNS = {
    **WRONG_CHANNELS,
    "normal": ("a", "'a' is not valid: it is not a pattern for new_channel, which must end in \"?\""),
    "inbox": ("a!", "'a!' is not valid: it is not a pattern for new_channel"),
    "full_name": ("a?b", "'a?b' is not valid: it is not a pattern for new_channel"),
    "too_long": ("x" * 80 + "?", "at most 75"),
}
CALLS = {
    "send": (lambda layer, name: layer.send(name, {}), {**WRONG_CHANNELS, **WRONG_TO_SEND}, CHANNEL_RULE),
    "receive": (lambda layer, name: layer.receive([name]), {**WRONG_CHANNELS, **WRONG_TO_RECEIVE}, CHANNEL_RULE),
    "receive_among_others": (
        lambda layer, name: layer.receive(["full", name]),
        {**WRONG_CHANNELS, **WRONG_TO_RECEIVE},
        CHANNEL_RULE,
    ),
    "new_channel": (lambda layer, name: layer.new_channel(name), WRONG_PATTERNS, CHANNEL_RULE),
    "group_add_channel": (
        lambda layer, name: layer.group_add("g", name),
        {**WRONG_CHANNELS, **WRONG_TO_SEND},
        CHANNEL_RULE,
    ),
    "group_add_group": (lambda layer, name: layer.group_add(name, "a"), WRONG_GROUPS, GROUP_RULE),
    "group_discard_channel": (
        lambda layer, name: layer.group_discard("g", name),
        {**WRONG_CHANNELS, **WRONG_TO_SEND},
        CHANNEL_RULE,
    ),
    "group_discard_group": (lambda layer, name: layer.group_discard(name, "a"), WRONG_GROUPS, GROUP_RULE),
    "group_channels": (lambda layer, name: layer.group_channels(name), WRONG_GROUPS, GROUP_RULE),
    "send_group": (lambda layer, name: layer.send_group(name, {}), WRONG_GROUPS, GROUP_RULE),
    "channel_statistics": (lambda layer, name: layer.channel_statistics(name), WRONG_CHANNELS, CHANNEL_RULE),
}


@pytest.fixture
def used(make_layer):
    """A layer with messages and members, so that a change would be visible."""
    layer = make_layer(capacity=3)
    for number in range(3):
        layer.send("full", {"n": number})
    layer.send("p!a", {"n": 0})
    layer.group_add("g", "full")
    layer.group_add("g", "a")
    return layer


def assert_refused(layer, call, error, *parts):
    """Assert that the call raises ``error`` with all parts in its text and changes nothing. Return it."""
    before = state(layer)
    with pytest.raises(error) as refusal:
        call()
    for part in parts:
        assert part in str(refusal.value)
    assert state(layer) == before
    assert_sound(layer)
    return refusal.value


# -- names --


@pytest.mark.parametrize(
    ("call", "name", "why", "rule"),
    [
        pytest.param(call, name, why, rule, id=f"{call_id}-{name_id}")
        for call_id, (call, cases, rule) in CALLS.items()
        for name_id, (name, why) in cases.items()
    ],
)
def test_wrong_names_are_refused(used, call, name, why, rule):
    assert_refused(used, lambda: call(used, name), TypeError, why, rule)


@pytest.mark.parametrize(
    ("channels", "why"),
    [
        pytest.param("a", "not only 'a'; write [name]", id="one_name"),
        pytest.param(b"a", "not only b'a'", id="bytes"),
        pytest.param(bytearray(b"a"), "not only bytearray", id="bytearray"),
        pytest.param(None, "not a NoneType", id="none"),
        pytest.param(5, "not an int", id="int"),
    ],
)
def test_receive_refuses_channels_that_are_not_a_list(used, channels, why):
    assert_refused(used, lambda: used.receive(channels), TypeError, "channels must be a list", why)


# -- messages --


class Strange:
    """A type that a message may not hold."""


CYCLE: dict = {"list": []}
CYCLE["list"].append(CYCLE)
DEEP: list = []
for _ in range(200):
    DEEP = [DEEP]

WRONG_MESSAGES = {
    "list": ([], "message is a list; a message must be a dict with str keys"),
    "str": ("text", "message is a str; a message must be a dict"),
    "none": (None, "message is a NoneType; a message must be a dict"),
    "datetime": (
        {"user": {"joined": datetime.datetime(2020, 1, 1)}},
        'message["user"]["joined"] is a datetime.datetime; a message holds bytes, str, int',
    ),
    "decimal": ({"price": decimal.Decimal(1)}, 'message["price"] is a decimal.Decimal'),
    "uuid": ({"id": uuid.uuid4()}, 'message["id"] is a uuid.UUID'),
    "set": ({"a": [1, {2}]}, 'message["a"][1] is a set'),
    "bytearray": ({"a": bytearray(b"b")}, 'message["a"] is a bytearray'),
    "complex": ({"a": 1j}, 'message["a"] is a complex'),
    "object": ({"a": (Strange(),)}, 'message["a"][0] is a test_refusals.Strange'),
    "extension_type": ({"a": msgpack.ExtType(1, b"")}, 'message["a"] is a msgpack.ext.ExtType'),
    "timestamp": ({"a": msgpack.Timestamp(1)}, 'message["a"] is a msgpack.ext.Timestamp'),
    "int_key": ({1: 2}, "message has a key that is an int; the keys of a message must be str"),
    "bytes_key": ({b"a": 2}, "message has a key that is a bytes"),
    "none_key": ({None: 2}, "message has a key that is a NoneType"),
    "nested_key": ({"a": [{"b": {3: 4}}]}, 'message["a"][0]["b"] has a key that is an int'),
    "cycle": (CYCLE, 'message["list"][0] is message, which contains it; a message must not contain itself'),
    "too_deep": ({"a": DEEP}, "is nested too deeply; a message may have at most"),
    "large_int": ({"a": 2**64}, 'message["a"] is an int of 65 bits'),
    "small_int": ({"a": -(2**63) - 1}, 'message["a"] is an int of 64 bits'),
    "lone_surrogate": ({"a": "x\ud800"}, 'message["a"] is a str with a lone surrogate'),
    "lone_surrogate_in_a_key": ({"x\udfff": 1}, "a key of message is a str with a lone surrogate"),
}


@pytest.mark.parametrize(("message", "why"), WRONG_MESSAGES.values(), ids=WRONG_MESSAGES)
@pytest.mark.parametrize("call", ["send", "send_group"])
def test_wrong_messages_are_refused(used, call, message, why):
    target = {"send": "a", "send_group": "g"}[call]
    assert_refused(used, lambda: getattr(used, call)(target, message), TypeError, why)


@pytest.mark.parametrize("call", ["send", "send_group"])
def test_messages_above_the_limit_are_refused(make_layer, call):
    layer = make_layer(message_limit=100)
    layer.group_add("g", "a")
    target = {"send": "a", "send_group": "g"}[call]
    message = {"d": b"x" * 97}
    error = assert_refused(
        layer, lambda: getattr(layer, call)(target, message), MessageTooLarge, "102 bytes", "100 bytes", "in pieces"
    )
    assert (error.size, error.limit) == (102, 100)
    getattr(layer, call)(target, {"d": b"x" * 95})


# -- full channels and full memory --


def test_a_full_channel_is_refused(used):
    parts = "channel 'full' is full", "3 messages wait", "capacity is 3", "channel_capacity"
    error = assert_refused(used, lambda: used.send("full", {}), ChannelFull, *parts)
    assert not isinstance(error, MemoryFull)


def test_a_full_message_memory_is_refused(make_layer):
    layer = make_layer(message_memory=128 * 1024, capacity=10**6)
    until_full(lambda _: layer.send("a", {"d": b"x" * 500}))
    parts = "channel 'a'", f"131072 bytes of shared memory segment {layer.prefix}-messages", "message_memory", "unlink"
    error = assert_refused(layer, lambda: layer.send("a", {"d": b"x" * 500}), MemoryFull, *parts)
    assert error.reason == "memory"


@pytest.mark.parametrize(("group", "channel"), [("g", "new-channel"), ("new-group", "a")], ids=["member", "group"])
def test_a_full_group_memory_is_refused(make_layer, group, channel):
    layer = make_layer(group_memory=64 * 1024)
    until_full(lambda number: layer.group_add("g", f"channel-{number}"))
    parts = f"channel '{channel}' to group '{group}'", f"65536 bytes of shared memory segment {layer.prefix}-groups"
    error = assert_refused(
        layer, lambda: layer.group_add(group, channel), GroupStoreFull, *parts, "group_memory", "group_expiry"
    )
    assert isinstance(error, ChannelFull)
    assert error.reason == "memory"
