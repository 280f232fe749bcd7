"""
The common contract of ``IPCChannelLayer`` and ``AsyncIPCChannelLayer``.

Where the semantics agree, the same tests also run on Channels' own in-memory layer: it is the reference.
"""

from __future__ import annotations

import collections
import contextlib
import datetime
import logging
import re
import time

import pytest
from helpers.front_ends import FRONT_ENDS, OURS, AsyncFrontEnd, SyncFrontEnd
from helpers.layers import until_full

from asgi_ipc import GroupStoreFull, MemoryFull, MessageTooLarge

MESSAGES = [
    {},
    {"type": "http.request"},
    {"text": "Zażółć 😀 \x00", "bytes": b"\x00\xff", "empty": ["", b""]},
    {"small": 0, "large": 2**63 - 1, "least": -(2**63), "unsigned": 2**64 - 1},
    {"half": 0.5, "huge": 1e308, "tiny": 5e-324, "minus": -0.0, "never": float("inf")},
    {"yes": True, "no": False, "none": None},
    {"list": [1, "a", b"b", [2, [3, [4]]], {"deep": [None]}], "dict": {"a": {"b": {"c": {}}}}},
    {"": "an empty key", "ключ": "another"},
]

#: Values that cannot be sent, and a part of the error.
REFUSED = [
    ({"user": {"joined": datetime.datetime(2024, 1, 1)}}, r'message\["user"\]\["joined"\] is a datetime.datetime'),
    ({"a": {1, 2}}, r'message\["a"\] is a set'),
    ({"a": [1, object()]}, r'message\["a"\]\[1\] is an object'),
    ({1: "a"}, "key"),
    ({"a": {b"b": 1}}, "key"),
    ({"a": 2**64}, r'message\["a"\]'),
    ({"a": "\ud800"}, r'message\["a"\]'),
    ([], "dict"),
    ("text", "dict"),
    (None, "dict"),
]

FOREIGN_DIGIT = "\N{ARABIC-INDIC DIGIT ONE}"
WRONG_NAMES = ["", "a" * 100, "a b", "a/b", "ä", "a\n", "a!b!c", "!a", FOREIGN_DIGIT, None, 7, b"a", ["a"], "a!"]
WRONG_GROUPS = ["", "a" * 100, "a b", "a!b", "a?b", "ä", "a\n", None, 7, b"a", ["a"]]


@pytest.fixture
def make(request, prefix):
    """Return a function that makes front ends of the parametrized kind; all are closed after the test."""
    front_ends = []

    def make(**options):
        front_end = request.param(prefix, **options)
        front_ends.append(front_end)
        return front_end

    yield make
    for front_end in front_ends:
        front_end.close()


every_front_end = pytest.mark.parametrize("make", FRONT_ENDS.values(), ids=FRONT_ENDS, indirect=True)
each_own_front_end = pytest.mark.parametrize("make", OURS.values(), ids=OURS, indirect=True)


def drain(front_end, channel):
    found = []
    while True:
        message = front_end.receive_now(channel)
        if message is None:
            return found
        found.append(message)


# -- messages ------------------------------------------------------------------------------------------------


@every_front_end
def test_messages_are_received_in_the_order_of_sending(make):
    front_end = make()
    for number in range(50):
        front_end.send("a", {"n": number})
        front_end.send("b", {"n": -number})
    assert drain(front_end, "a") == [{"n": number} for number in range(50)]
    assert drain(front_end, "b") == [{"n": -number} for number in range(50)]


@every_front_end
def test_a_message_is_received_once(make):
    front_end = make()
    front_end.send("a", {"n": 1})
    assert front_end.receive_now("a") == {"n": 1}
    assert front_end.receive_now("a") is None


@every_front_end
@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: "-".join(message) or "empty")
def test_every_type_is_received_unchanged(make, message):
    front_end = make()
    front_end.send("a", message)
    found = front_end.receive_now("a")
    assert found == message
    assert repr(found) == repr(message), "equality is not enough: 1 == True and -0.0 == 0.0"


@every_front_end
def test_later_changes_to_a_sent_message_have_no_effect(make):
    front_end = make()
    message = {"list": [1], "dict": {"a": 1}}
    front_end.send("a", message)
    front_end.group_add("g", "b")
    front_end.group_send("g", message)
    message["list"].append(2)
    message["dict"].clear()
    message["new"] = True
    for channel in "ab":
        assert front_end.receive_now(channel) == {"list": [1], "dict": {"a": 1}}


@every_front_end
def test_receivers_of_a_group_send_get_separate_objects(make):
    front_end = make()
    for channel in "ab":
        front_end.group_add("g", channel)
    front_end.group_send("g", {"list": []})
    front_end.receive_now("a")["list"].append(1)
    assert front_end.receive_now("b") == {"list": []}


@each_own_front_end
def test_tuples_and_subclasses_are_received_as_plain_types(make):
    class Text(str):
        pass

    front_end = make()
    ordered = collections.OrderedDict(a=1)
    front_end.send("a", collections.OrderedDict({Text("t"): Text("x"), "tuple": (1, (2,)), "o": ordered}))
    found = front_end.receive_now("a")
    assert found == {"t": "x", "tuple": [1, [2]], "o": {"a": 1}}
    assert [type(value) for value in (found, found["t"], found["o"], *found)] == [dict, str, dict, str, str, str]


@each_own_front_end
@pytest.mark.parametrize(("message", "why"), REFUSED, ids=range(len(REFUSED)))
def test_unsupported_values_are_refused_on_send(make, message, why):
    front_end = make()
    front_end.group_add("g", "b")
    for send in (lambda: front_end.send("a", message), lambda: front_end.group_send("g", message)):
        with pytest.raises(TypeError, match=why):
            send()
    assert front_end.receive_now("a") is None
    assert front_end.receive_now("b") is None


@each_own_front_end
def test_a_cyclic_message_is_refused(make):
    front_end = make()
    message = {}
    message["self"] = [message]
    with pytest.raises(TypeError):
        front_end.send("a", message)
    assert front_end.receive_now("a") is None


@each_own_front_end
def test_a_message_larger_than_the_memory_is_too_large(make):
    front_end = make()
    with pytest.raises(MessageTooLarge) as large:
        front_end.send("a", {"": b"x" * (1 << 21)})
    assert large.value.size > 1 << 21 > large.value.limit
    assert large.value.channel == "a"
    front_end.group_add("g", "a")
    with pytest.raises(MessageTooLarge):
        front_end.group_send("g", {"": b"x" * (1 << 21)})
    assert front_end.receive_now("a") is None


@each_own_front_end
def test_the_message_limit_is_enforced(make):
    front_end = make(message_limit=100)
    front_end.send("a", {"": b"x" * 80})
    with pytest.raises(MessageTooLarge, match="the limit is 100 bytes"):
        front_end.send("a", {"": b"x" * 100})
    assert drain(front_end, "a") == [{"": b"x" * 80}]


# -- capacity ------------------------------------------------------------------------------------------------


@every_front_end
def test_a_channel_holds_no_more_than_its_capacity(make):
    front_end = make(capacity=3)
    for number in range(3):
        front_end.send("a", {"n": number})
    for _ in range(2):
        with pytest.raises(front_end.ChannelFull):
            front_end.send("a", {"n": 3})
    front_end.send("b", {"n": 0})
    assert front_end.receive_now("a") == {"n": 0}
    front_end.send("a", {"n": 3})
    assert drain(front_end, "a") == [{"n": 1}, {"n": 2}, {"n": 3}]


@every_front_end
def test_default_capacity_is_a_hundred(make):
    front_end = make()
    for _ in range(100):
        front_end.send("a", {})
    with pytest.raises(front_end.ChannelFull):
        front_end.send("a", {})


@each_own_front_end
def test_the_error_of_a_full_channel_has_count_and_capacity(make):
    front_end = make(capacity=2)
    for _ in range(2):
        front_end.send("a", {})
    full = "channel 'a' is full: 2 messages wait in it, and its capacity is 2"
    with pytest.raises(front_end.ChannelFull, match=full):
        front_end.send("a", {})


@each_own_front_end
def test_full_memory_raises_memory_full(make):
    front_end = make(capacity=10**6, message_memory=1 << 16)
    sent, full = until_full(lambda _: front_end.send("a", {"": b"x" * 1000}))
    assert isinstance(full, MemoryFull)
    assert sent == len(drain(front_end, "a")) > 10
    front_end.send("a", {"n": 1})
    assert front_end.receive_now("a") == {"n": 1}


@each_own_front_end
def test_the_first_pattern_that_matches_the_full_name_applies(make):
    patterns = {"http.request": 1, re.compile(r"^http\."): 2, "*.slow!*": 3, "*": 4}
    front_end = make(capacity=5, channel_capacity=patterns)
    for channel, capacity in {"http.request": 1, "http.requests": 2, "x.slow!1": 3, "other": 4}.items():
        for _ in range(capacity):
            front_end.send(channel, {})
        with pytest.raises(front_end.ChannelFull):
            front_end.send(channel, {})


@each_own_front_end
def test_the_default_capacity_applies_if_no_pattern_matches(make):
    front_end = make(capacity=2, channel_capacity={"few*": 1})
    for channel, capacity in {"few": 1, "a.few": 2}.items():
        for _ in range(capacity):
            front_end.send(channel, {})
        with pytest.raises(front_end.ChannelFull):
            front_end.send(channel, {})


# -- expiry --------------------------------------------------------------------------------------------------


@every_front_end
def test_expired_messages_are_not_received(make):
    front_end = make(expiry=0.05)
    for _ in range(3):
        front_end.send("a", {})
    time.sleep(0.1)
    assert front_end.receive_now("a") is None


@each_own_front_end
def test_expired_messages_take_no_capacity(make):
    front_end = make(expiry=0.05, capacity=2)
    for turn in range(3):
        for number in range(2):
            front_end.send("a", {"n": number, "turn": turn})
        time.sleep(0.1)
    front_end.send("a", {"n": 2})


@each_own_front_end
def test_each_message_has_the_expiry_of_its_sender(make):
    short, long = make(expiry=0.05), make()
    short.send("a", {"n": 1})
    long.send("a", {"n": 2})
    short.send("a", {"n": 3})
    time.sleep(0.1)
    assert drain(short, "a") == [{"n": 2}]


@each_own_front_end
def test_memberships_expire(make):
    short, long = make(group_expiry=0.05), make()
    short.group_add("g", "a")
    long.group_add("g", "b")
    short.group_add("g", "c")
    long.group_add("g", "c")  # renewed
    time.sleep(0.1)
    assert short.group_channels("g") == ["b", "c"]
    short.group_send("g", {"n": 1})
    assert [short.receive_now(channel) for channel in "abc"] == [None, {"n": 1}, {"n": 1}]


# -- groups --------------------------------------------------------------------------------------------------


@every_front_end
def test_every_member_receives_the_messages_of_the_group(make):
    front_end = make()
    names = [front_end.new_channel() for _ in range(200)]
    for name in names:
        front_end.group_add("g", name)
    front_end.group_send("g", {"n": 1})
    front_end.group_send("g", {"n": 2})
    for name in names:
        assert drain(front_end, name) == [{"n": 1}, {"n": 2}]


@every_front_end
def test_only_members_receive_the_messages_of_the_group(make):
    front_end = make()
    front_end.group_add("g", "a")
    front_end.group_add("other", "b")
    front_end.group_add("g", "c")
    front_end.group_discard("g", "c")
    front_end.group_send("g", {})
    assert [len(drain(front_end, channel)) for channel in "abc"] == [1, 0, 0]


@every_front_end
def test_adding_twice_is_one_membership(make):
    front_end = make()
    front_end.group_add("g", "a")
    front_end.group_add("g", "a")
    assert front_end.group_channels("g") == ["a"]
    front_end.group_send("g", {})
    assert len(drain(front_end, "a")) == 1
    front_end.group_discard("g", "a")
    assert front_end.group_channels("g") == []


@every_front_end
def test_discarding_a_channel_that_is_not_a_member_does_nothing(make):
    front_end = make()
    front_end.group_discard("g", "a")
    front_end.group_add("g", "b")
    front_end.group_discard("g", "a")
    assert front_end.group_channels("g") == ["b"]


@every_front_end
def test_a_send_to_an_empty_group_does_nothing(make):
    front_end = make()
    front_end.group_send("g", {})
    assert front_end.group_channels("g") == []


@every_front_end
def test_full_members_are_skipped(make):
    front_end = make(capacity=1)
    for channel in "abc":
        front_end.group_add("g", channel)
    front_end.send("b", {"n": 0})
    front_end.group_send("g", {"n": 1})
    assert [drain(front_end, channel) for channel in "abc"] == [[{"n": 1}], [{"n": 0}], [{"n": 1}]]


@each_own_front_end
def test_full_members_are_logged_at_most_once_a_second(make, caplog):
    caplog.set_level(logging.INFO, logger="asgi_ipc")
    front_end = make(capacity=1)
    for channel in "abcde":
        front_end.group_add("g", channel)
        front_end.group_add("other", channel)
    for channel in "bd":
        front_end.send(channel, {})
    front_end.group_send("g", {})
    front_end.group_send("other", {})
    front_end.group_send("g", {})
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("INFO", "2 of 5 channels over capacity in group g"),
        ("INFO", "5 of 5 channels over capacity in group other"),
    ]


@each_own_front_end
def test_full_group_memory_raises_group_store_full(make):
    front_end = make(group_memory=1 << 16)
    added, full = until_full(lambda number: front_end.group_add("g", f"member.{number}"))
    assert isinstance(full, GroupStoreFull)
    assert (full.group, full.channel) == ("g", f"member.{added}")
    assert len(front_end.group_channels("g")) == added > 10


# -- flush ---------------------------------------------------------------------------------------------------


@every_front_end
def test_flush_removes_messages_and_memberships(make):
    front_end = make()
    front_end.send("a", {})
    front_end.group_add("g", "b")
    front_end.flush()
    front_end.group_send("g", {})
    assert [front_end.receive_now(channel) for channel in "ab"] == [None, None]
    front_end.send("a", {"n": 1})
    front_end.group_add("g", "b")
    front_end.group_send("g", {"n": 2})
    assert [front_end.receive_now(channel) for channel in "ab"] == [{"n": 1}, {"n": 2}]


@each_own_front_end
def test_flush_applies_to_every_layer_of_the_prefix(make):
    one, other = make(), make()
    one.send("a", {})
    one.group_add("g", "a")
    other.flush()
    assert one.receive_now("a") is None
    assert one.group_channels("g") == []


# -- names ---------------------------------------------------------------------------------------------------


@every_front_end
@pytest.mark.parametrize("name", ["a", "A-b_c.9", "a" * 99, "specific.process!local"])
def test_valid_names_can_be_used(make, name):
    front_end = make()
    front_end.send(name, {"n": 1})
    front_end.group_add("g" * 99, name)
    front_end.group_send("g" * 99, {"n": 2})
    if "!" not in name or not isinstance(front_end, SyncFrontEnd):
        assert drain(front_end, name) == [{"n": 1}, {"n": 2}]


@every_front_end
@pytest.mark.parametrize("name", ["", "a" * 100, "a b", "a/b", "ä", "a!b!c", None, 7, b"a"])
def test_names_that_no_layer_accepts_raise_type_error(make, name):
    front_end = make()
    for call in (
        lambda: front_end.send(name, {}),
        lambda: front_end.receive_now(name),
        lambda: front_end.group_add("g", name),
        lambda: front_end.group_discard("g", name),
    ):
        with pytest.raises(TypeError):
            call()


@each_own_front_end
@pytest.mark.parametrize("name", WRONG_NAMES, ids=repr)
def test_the_error_for_a_wrong_name_shows_it_and_the_rule(make, name):
    front_end = make()
    calls = [
        lambda: front_end.send(name, {}),
        lambda: front_end.group_add("g", name),
        lambda: front_end.group_discard("g", name),
    ]
    if name != "a!" or not isinstance(front_end, SyncFrontEnd):  # the synchronous layer receives from an inbox
        calls.append(lambda: front_end.receive_now(name))
    for call in calls:
        with pytest.raises(TypeError, match="a channel name is a str of 1 to 99 characters") as refusal:
            call()
        assert repr(name)[:40].rstrip("'") in str(refusal.value)
    assert front_end.group_channels("g") == []


@each_own_front_end
@pytest.mark.parametrize("name", WRONG_GROUPS, ids=repr)
def test_the_error_for_a_wrong_group_shows_it_and_the_rule(make, name):
    front_end = make()
    for call in (
        lambda: front_end.group_add(name, "a"),
        lambda: front_end.group_discard(name, "a"),
        lambda: front_end.group_send(name, {}),
        lambda: front_end.group_channels(name),
    ):
        with pytest.raises(TypeError, match="a group name is a str of 1 to 99 characters") as refusal:
            call()
        assert repr(name)[:40].rstrip("'") in str(refusal.value)


@every_front_end
def test_new_names_are_unique_and_can_be_used(make):
    front_end = make()
    names = [front_end.new_channel() for _ in range(100)]
    assert len(set(names)) == 100
    for number, name in enumerate(names):
        front_end.send(name, {"n": number})
    for number, name in enumerate(names):
        assert front_end.receive_now(name) == {"n": number}


# -- both front ends -----------------------------------------------------------------------------------------


def test_both_front_ends_share_messages_and_groups(prefix):
    with contextlib.closing(SyncFrontEnd(prefix)) as sync, contextlib.closing(AsyncFrontEnd(prefix)) as asynchronous:
        for sender, receiver in ((sync, asynchronous), (asynchronous, sync)):
            sender.send("a", {"n": 1})
            assert receiver.receive_now("a") == {"n": 1}
            sender.group_add("g", "b")
            assert receiver.group_channels("g") == ["b"]
            receiver.group_send("g", {"n": 2})
            assert sender.receive_now("b") == {"n": 2}
            receiver.group_discard("g", "b")
            assert sender.group_channels("g") == []
