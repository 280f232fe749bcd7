"""
One contract for every face: what ``IPCChannelLayer`` and ``AsyncIPCChannelLayer`` must do alike.

Where the semantics agree, Channels' own in-memory layer is asked the same questions: it is the reference.
"""

from __future__ import annotations

import collections
import contextlib
import datetime
import logging
import re
import time

import pytest
from helpers.front_ends import FACES, OURS, AsyncFace, SyncFace
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

#: (what, why it cannot be sent)
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
    """Makes faces of the kind that the test is for; all are closed after it."""
    faces = []

    def make(**options):
        face = request.param(prefix, **options)
        faces.append(face)
        return face

    yield make
    for face in faces:
        face.close()


every_face = pytest.mark.parametrize("make", FACES.values(), ids=FACES, indirect=True)
each_of_ours = pytest.mark.parametrize("make", OURS.values(), ids=OURS, indirect=True)


def drain(face, channel):
    found = []
    while True:
        message = face.take(channel)
        if message is None:
            return found
        found.append(message)


# -- messages ----------------------------------------------------------------------------------------------------


@every_face
def test_messages_come_in_the_order_of_sending(make):
    face = make()
    for number in range(50):
        face.send("a", {"n": number})
        face.send("b", {"n": -number})
    assert drain(face, "a") == [{"n": number} for number in range(50)]
    assert drain(face, "b") == [{"n": -number} for number in range(50)]


@every_face
def test_message_comes_once(make):
    face = make()
    face.send("a", {"n": 1})
    assert face.take("a") == {"n": 1}
    assert face.take("a") is None


@every_face
@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: "-".join(message) or "empty")
def test_every_type_comes_back_as_it_was(make, message):
    face = make()
    face.send("a", message)
    found = face.take("a")
    assert found == message
    assert repr(found) == repr(message), "equal is not enough: 1 is no True, and -0.0 no 0.0"


@every_face
def test_later_changes_do_not_reach_what_was_sent(make):
    face = make()
    message = {"list": [1], "dict": {"a": 1}}
    face.send("a", message)
    face.group_add("g", "b")
    face.group_send("g", message)
    message["list"].append(2)
    message["dict"].clear()
    message["new"] = True
    for channel in "ab":
        assert face.take(channel) == {"list": [1], "dict": {"a": 1}}


@every_face
def test_receivers_of_a_group_send_do_not_share_a_message(make):
    face = make()
    for channel in "ab":
        face.group_add("g", channel)
    face.group_send("g", {"list": []})
    face.take("a")["list"].append(1)
    assert face.take("b") == {"list": []}


@each_of_ours
def test_tuples_and_subclasses_come_back_as_what_they_stand_for(make):
    class Text(str):
        pass

    face = make()
    ordered = collections.OrderedDict(a=1)
    face.send("a", collections.OrderedDict({Text("t"): Text("x"), "tuple": (1, (2,)), "o": ordered}))
    found = face.take("a")
    assert found == {"t": "x", "tuple": [1, [2]], "o": {"a": 1}}
    assert [type(value) for value in (found, found["t"], found["o"], *found)] == [dict, str, dict, str, str, str]


@each_of_ours
@pytest.mark.parametrize(("message", "why"), REFUSED, ids=range(len(REFUSED)))
def test_what_cannot_be_sent_is_refused_when_it_is_sent(make, message, why):
    face = make()
    face.group_add("g", "b")
    for send in (lambda: face.send("a", message), lambda: face.group_send("g", message)):
        with pytest.raises(TypeError, match=why):
            send()
    assert face.take("a") is None
    assert face.take("b") is None


@each_of_ours
def test_message_that_holds_itself_is_refused(make):
    face = make()
    message = {}
    message["self"] = [message]
    with pytest.raises(TypeError):
        face.send("a", message)
    assert face.take("a") is None


@each_of_ours
def test_message_that_never_fits_is_too_large(make):
    face = make()
    with pytest.raises(MessageTooLarge) as large:
        face.send("a", {"": b"x" * (1 << 21)})
    assert large.value.size > 1 << 21 > large.value.limit
    assert large.value.channel == "a"
    face.group_add("g", "a")
    with pytest.raises(MessageTooLarge):
        face.group_send("g", {"": b"x" * (1 << 21)})
    assert face.take("a") is None


@each_of_ours
def test_message_limit_is_kept(make):
    face = make(message_limit=100)
    face.send("a", {"": b"x" * 80})
    with pytest.raises(MessageTooLarge, match="the limit is 100 bytes"):
        face.send("a", {"": b"x" * 100})
    assert drain(face, "a") == [{"": b"x" * 80}]


# -- capacity ----------------------------------------------------------------------------------------------------


@every_face
def test_channel_takes_no_more_than_its_capacity(make):
    face = make(capacity=3)
    for number in range(3):
        face.send("a", {"n": number})
    for _ in range(2):
        with pytest.raises(face.ChannelFull):
            face.send("a", {"n": 3})
    face.send("b", {"n": 0})
    assert face.take("a") == {"n": 0}
    face.send("a", {"n": 3})
    assert drain(face, "a") == [{"n": 1}, {"n": 2}, {"n": 3}]


@every_face
def test_default_capacity_is_a_hundred(make):
    face = make()
    for _ in range(100):
        face.send("a", {})
    with pytest.raises(face.ChannelFull):
        face.send("a", {})


@each_of_ours
def test_full_channel_says_how_full(make):
    face = make(capacity=2)
    for _ in range(2):
        face.send("a", {})
    with pytest.raises(face.ChannelFull, match="channel 'a' is full: 2 messages wait in it, and its capacity is 2"):
        face.send("a", {})


@each_of_ours
def test_full_memory_is_a_full_channel(make):
    face = make(capacity=10**6, message_memory=1 << 16)
    sent, full = until_full(lambda _: face.send("a", {"": b"x" * 1000}))
    assert isinstance(full, MemoryFull)
    assert sent == len(drain(face, "a")) > 10
    face.send("a", {"n": 1})
    assert face.take("a") == {"n": 1}


@each_of_ours
def test_first_pattern_that_matches_the_full_name_counts(make):
    patterns = {"http.request": 1, re.compile(r"^http\."): 2, "*.slow!*": 3, "*": 4}
    face = make(capacity=5, channel_capacity=patterns)
    for channel, capacity in {"http.request": 1, "http.requests": 2, "x.slow!1": 3, "other": 4}.items():
        for _ in range(capacity):
            face.send(channel, {})
        with pytest.raises(face.ChannelFull):
            face.send(channel, {})


@each_of_ours
def test_default_capacity_is_for_what_no_pattern_matches(make):
    face = make(capacity=2, channel_capacity={"few*": 1})
    for channel, capacity in {"few": 1, "a.few": 2}.items():
        for _ in range(capacity):
            face.send(channel, {})
        with pytest.raises(face.ChannelFull):
            face.send(channel, {})


# -- expiry ------------------------------------------------------------------------------------------------------


@every_face
def test_expired_messages_never_come(make):
    face = make(expiry=0.05)
    for _ in range(3):
        face.send("a", {})
    time.sleep(0.1)
    assert face.take("a") is None


@each_of_ours
def test_expired_messages_do_not_count(make):
    face = make(expiry=0.05, capacity=2)
    for turn in range(3):
        for number in range(2):
            face.send("a", {"n": number, "turn": turn})
        time.sleep(0.1)
    face.send("a", {"n": 2})


@each_of_ours
def test_each_message_lives_as_long_as_its_own_sender_says(make):
    short, long = make(expiry=0.05), make()
    short.send("a", {"n": 1})
    long.send("a", {"n": 2})
    short.send("a", {"n": 3})
    time.sleep(0.1)
    assert drain(short, "a") == [{"n": 2}]


@each_of_ours
def test_membership_ends(make):
    short, long = make(group_expiry=0.05), make()
    short.group_add("g", "a")
    long.group_add("g", "b")
    short.group_add("g", "c")
    long.group_add("g", "c")  # renewed
    time.sleep(0.1)
    assert short.group_channels("g") == ["b", "c"]
    short.group_send("g", {"n": 1})
    assert [short.take(channel) for channel in "abc"] == [None, {"n": 1}, {"n": 1}]


# -- groups ------------------------------------------------------------------------------------------------------


@every_face
def test_every_member_gets_what_is_sent_to_the_group(make):
    face = make()
    names = [face.new_channel() for _ in range(200)]
    for name in names:
        face.group_add("g", name)
    face.group_send("g", {"n": 1})
    face.group_send("g", {"n": 2})
    for name in names:
        assert drain(face, name) == [{"n": 1}, {"n": 2}]


@every_face
def test_whoever_is_no_member_gets_nothing(make):
    face = make()
    face.group_add("g", "a")
    face.group_add("other", "b")
    face.group_add("g", "c")
    face.group_discard("g", "c")
    face.group_send("g", {})
    assert [len(drain(face, channel)) for channel in "abc"] == [1, 0, 0]


@every_face
def test_adding_twice_is_one_membership(make):
    face = make()
    face.group_add("g", "a")
    face.group_add("g", "a")
    assert face.group_channels("g") == ["a"]
    face.group_send("g", {})
    assert len(drain(face, "a")) == 1
    face.group_discard("g", "a")
    assert face.group_channels("g") == []


@every_face
def test_discarding_who_is_no_member_is_nothing(make):
    face = make()
    face.group_discard("g", "a")
    face.group_add("g", "b")
    face.group_discard("g", "a")
    assert face.group_channels("g") == ["b"]


@every_face
def test_group_of_nobody_can_be_sent_to(make):
    face = make()
    face.group_send("g", {})
    assert face.group_channels("g") == []


@every_face
def test_full_members_are_skipped(make):
    face = make(capacity=1)
    for channel in "abc":
        face.group_add("g", channel)
    face.send("b", {"n": 0})
    face.group_send("g", {"n": 1})
    assert [drain(face, channel) for channel in "abc"] == [[{"n": 1}], [{"n": 0}], [{"n": 1}]]


@each_of_ours
def test_full_members_are_counted_in_the_log_once_a_second(make, caplog):
    caplog.set_level(logging.INFO, logger="asgi_ipc")
    face = make(capacity=1)
    for channel in "abcde":
        face.group_add("g", channel)
        face.group_add("other", channel)
    for channel in "bd":
        face.send(channel, {})
    face.group_send("g", {})
    face.group_send("other", {})
    face.group_send("g", {})
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("INFO", "2 of 5 channels over capacity in group g"),
        ("INFO", "5 of 5 channels over capacity in group other"),
    ]


@each_of_ours
def test_no_memory_for_a_member_is_an_error_that_says_so(make):
    face = make(group_memory=1 << 16)
    added, full = until_full(lambda number: face.group_add("g", f"member.{number}"))
    assert isinstance(full, GroupStoreFull)
    assert (full.group, full.channel) == ("g", f"member.{added}")
    assert len(face.group_channels("g")) == added > 10


# -- flush -------------------------------------------------------------------------------------------------------


@every_face
def test_flush_drops_messages_and_memberships(make):
    face = make()
    face.send("a", {})
    face.group_add("g", "b")
    face.flush()
    face.group_send("g", {})
    assert [face.take(channel) for channel in "ab"] == [None, None]
    face.send("a", {"n": 1})
    face.group_add("g", "b")
    face.group_send("g", {"n": 2})
    assert [face.take(channel) for channel in "ab"] == [{"n": 1}, {"n": 2}]


@each_of_ours
def test_flush_is_for_every_layer_of_the_prefix(make):
    one, other = make(), make()
    one.send("a", {})
    one.group_add("g", "a")
    other.flush()
    assert one.take("a") is None
    assert one.group_channels("g") == []


# -- names -------------------------------------------------------------------------------------------------------


@every_face
@pytest.mark.parametrize("name", ["a", "A-b_c.9", "a" * 99, "specific.process!local"])
def test_names_that_are_allowed(make, name):
    face = make()
    face.send(name, {"n": 1})
    face.group_add("g" * 99, name)
    face.group_send("g" * 99, {"n": 2})
    if "!" not in name or not isinstance(face, SyncFace):
        assert drain(face, name) == [{"n": 1}, {"n": 2}]


@every_face
@pytest.mark.parametrize("name", ["", "a" * 100, "a b", "a/b", "ä", "a!b!c", None, 7, b"a"])
def test_names_that_nobody_allows(make, name):
    face = make()
    for call in (
        lambda: face.send(name, {}),
        lambda: face.take(name),
        lambda: face.group_add("g", name),
        lambda: face.group_discard("g", name),
    ):
        with pytest.raises(TypeError):
            call()


@each_of_ours
@pytest.mark.parametrize("name", WRONG_NAMES, ids=repr)
def test_wrong_name_is_shown_with_what_is_allowed(make, name):
    face = make()
    calls = [lambda: face.send(name, {}), lambda: face.group_add("g", name), lambda: face.group_discard("g", name)]
    if name != "a!" or not isinstance(face, SyncFace):  # the synchronous layer receives from a whole inbox
        calls.append(lambda: face.take(name))
    for call in calls:
        with pytest.raises(TypeError, match="a channel name is a str of 1 to 99 characters") as refusal:
            call()
        assert repr(name)[:40].rstrip("'") in str(refusal.value)
    assert face.group_channels("g") == []


@each_of_ours
@pytest.mark.parametrize("name", WRONG_GROUPS, ids=repr)
def test_wrong_group_is_shown_with_what_is_allowed(make, name):
    face = make()
    for call in (
        lambda: face.group_add(name, "a"),
        lambda: face.group_discard(name, "a"),
        lambda: face.group_send(name, {}),
        lambda: face.group_channels(name),
    ):
        with pytest.raises(TypeError, match="a group name is a str of 1 to 99 characters") as refusal:
            call()
        assert repr(name)[:40].rstrip("'") in str(refusal.value)


@every_face
def test_new_names_differ_and_can_be_used(make):
    face = make()
    names = [face.new_channel() for _ in range(100)]
    assert len(set(names)) == 100
    for number, name in enumerate(names):
        face.send(name, {"n": number})
    for number, name in enumerate(names):
        assert face.take(name) == {"n": number}


# -- both of ours ------------------------------------------------------------------------------------------------


def test_both_faces_see_the_same(prefix):
    with contextlib.closing(SyncFace(prefix)) as sync, contextlib.closing(AsyncFace(prefix)) as asynchronous:
        for sender, receiver in ((sync, asynchronous), (asynchronous, sync)):
            sender.send("a", {"n": 1})
            assert receiver.take("a") == {"n": 1}
            sender.group_add("g", "b")
            assert receiver.group_channels("g") == ["b"]
            receiver.group_send("g", {"n": 2})
            assert sender.take("b") == {"n": 2}
            receiver.group_discard("g", "b")
            assert sender.group_channels("g") == []
