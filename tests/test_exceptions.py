"""Errors: attributes, texts that name the object and say how to fix it, pickling and copying."""

from __future__ import annotations

import copy
import inspect
import pickle

import pytest

from asgi_ipc import exceptions
from asgi_ipc.exceptions import (
    ChannelFull,
    GroupStoreFull,
    MemoryFull,
    MessageTooLarge,
    Refusal,
    SegmentBusy,
    SegmentCorrupt,
    SegmentError,
    SegmentGone,
    SegmentMismatch,
    SegmentRefused,
    TooManyProcesses,
    a_type,
    short_repr,
)

# (error, its attributes, the parts that its text must contain)
CASES = [
    (
        ChannelFull("http.request", 101, 100),
        {"channel": "http.request", "count": 101, "capacity": 100},
        ["'http.request'", "101", "100", "receive from it faster", "raise capacity", "channel_capacity"],
    ),
    (
        MemoryFull("a", "/asgi-messages", 8192, 8001, 8100, "memory"),
        {"channel": "a", "segment": "/asgi-messages", "size": 8192, "used": 8001, "reserved": 8100, "reason": "memory"},
        ["'a'", "/asgi-messages", "8192", "8001", "larger message_memory", "created again"],
    ),
    (
        MemoryFull("a", "/asgi-messages", 8192, 4096, 4352, "filesystem"),
        {
            "channel": "a",
            "segment": "/asgi-messages",
            "size": 8192,
            "used": 4096,
            "reserved": 4352,
            "reason": "filesystem",
        },
        ["'a'", "/asgi-messages", "8192", "4096", "/dev/shm", "full", "--shm-size"],
    ),
    (
        GroupStoreFull("chat", "a", "/asgi-groups", 4096, "memory"),
        {"group": "chat", "channel": "a", "segment": "/asgi-groups", "size": 4096, "reason": "memory"},
        ["'chat'", "'a'", "/asgi-groups", "4096", "larger group_memory", "created again"],
    ),
    (
        GroupStoreFull("chat", "a", "/asgi-groups", 4096, "filesystem"),
        {"group": "chat", "channel": "a", "segment": "/asgi-groups", "size": 4096, "reason": "filesystem"},
        ["'chat'", "'a'", "/asgi-groups", "4096", "/dev/shm", "full", "--shm-size"],
    ),
    (
        MessageTooLarge(2000001, 1048576, "a"),
        {"size": 2000001, "limit": 1048576, "channel": "a"},
        ["2000001 bytes", "1048576 bytes", "'a'", "in pieces"],
    ),
    (
        MessageTooLarge(2000001, 1048576),
        {"size": 2000001, "limit": 1048576, "channel": None},
        ["2000001 bytes", "1048576 bytes", "in pieces"],
    ),
    (
        SegmentError("/asgi-messages", "it is on fire; put it out"),
        {"segment": "/asgi-messages", "why": "it is on fire; put it out"},
        ["/asgi-messages", "it is on fire; put it out"],
    ),
    (
        SegmentRefused("/asgi-messages", "user 7 owns it; choose another prefix"),
        {"segment": "/asgi-messages", "why": "user 7 owns it; choose another prefix"},
        ["/asgi-messages", "cannot be used", "user 7 owns it; choose another prefix"],
    ),
    (
        SegmentMismatch("/asgi-messages", "layout 9; unlink it"),
        {"segment": "/asgi-messages", "why": "layout 9; unlink it"},
        ["/asgi-messages", "cannot be used by this version of asgi_ipc", "layout 9; unlink it"],
    ),
    (
        SegmentCorrupt("/asgi-messages", "a head leads out of the heap; flush it"),
        {"segment": "/asgi-messages", "why": "a head leads out of the heap; flush it"},
        ["/asgi-messages", "damaged", "a head leads out of the heap; flush it"],
    ),
    (
        SegmentBusy("/asgi-messages", 4711, 10.04),
        {"segment": "/asgi-messages", "pid": 4711, "seconds": 10.04},
        ["/asgi-messages", "process 4711", "10.0 s", "kill -CONT 4711", "kill -KILL 4711"],
    ),
    (
        SegmentBusy("/asgi-messages", None, 10.0),
        {"segment": "/asgi-messages", "pid": None, "seconds": 10.0},
        ["/asgi-messages", "another PID namespace", "10.0 s", "SIGCONT", "SIGKILL"],
    ),
    (
        TooManyProcesses("/asgi-messages", 1024),
        {"segment": "/asgi-messages", "limit": 1024},
        ["/asgi-messages", "1024 processes", "different prefixes"],
    ),
    (
        SegmentGone("/asgi-messages"),
        {"segment": "/asgi-messages"},
        ["/asgi-messages", "removed while in use", "try again"],
    ),
]
IDS = [repr(error) for error, _, _ in CASES]


def are_same(one: BaseException, other: BaseException) -> bool:
    return (type(one), one.args, vars(one), str(one), repr(one)) == (
        type(other),
        other.args,
        vars(other),
        str(other),
        repr(other),
    )


def test_every_class_has_a_case():
    classes = {item for _, item in inspect.getmembers(exceptions, inspect.isclass)} - {Refusal}
    assert classes == {type(error) for error, _, _ in CASES}
    assert {item.__name__ for item in classes} == set(exceptions.__all__)


@pytest.mark.parametrize(("error", "attributes", "parts"), CASES, ids=IDS)
def test_attributes_and_text(error, attributes, parts):
    assert {name: getattr(error, name) for name in attributes} == attributes
    text = str(error)
    for part in parts:
        assert part in text
    assert "None" not in text
    assert "\n" not in text


@pytest.mark.parametrize(("error", "attributes", "parts"), CASES, ids=IDS)
def test_errors_can_be_pickled_and_copied(error, attributes, parts):
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert are_same(pickle.loads(pickle.dumps(error, protocol)), error)
    assert are_same(copy.copy(error), error)
    assert are_same(copy.deepcopy(error), error)


@pytest.mark.parametrize(("error", "attributes", "parts"), CASES, ids=IDS)
def test_keywords_make_the_same_error(error, attributes, parts):
    made = type(error)(**attributes)
    assert are_same(made, error)
    assert are_same(pickle.loads(pickle.dumps(made)), error)


@pytest.mark.parametrize(("error", "attributes", "parts"), CASES, ids=IDS)
def test_added_attributes_are_pickled_too(error, attributes, parts):
    marked = copy.copy(error)
    marked.request_id = 17
    assert pickle.loads(pickle.dumps(marked)).request_id == 17


def test_base_classes():
    assert issubclass(MemoryFull, ChannelFull)
    assert issubclass(GroupStoreFull, ChannelFull)
    for kind in (
        SegmentRefused,
        SegmentMismatch,
        SegmentCorrupt,
        SegmentBusy,
        TooManyProcesses,
        SegmentGone,
    ):
        assert issubclass(kind, SegmentError)
    assert not issubclass(SegmentError, (ChannelFull, MessageTooLarge))
    assert not issubclass(ChannelFull, MessageTooLarge)


def test_refusals_share_a_private_base_class():
    assert issubclass(ChannelFull, Refusal)
    assert issubclass(MessageTooLarge, Refusal)
    assert not issubclass(SegmentError, Refusal)
    assert "Refusal" not in exceptions.__all__


def test_full_memory_errors_have_the_attributes_of_channel_full():
    for error in (
        MemoryFull("a", "/s", 8, 8, 8, "memory"),
        GroupStoreFull("g", "a", "/s", 8, "memory"),
    ):
        assert (error.channel, error.count, error.capacity) == ("a", None, None)


def test_a_front_end_may_mix_in_a_class_of_another_library():
    class Foreign(Exception):
        pass

    class Both(ChannelFull, Foreign):
        pass

    error = Both("a", 1, 1)
    assert isinstance(error, Foreign)
    assert error.args == ("a", 1, 1)
    assert "'a'" in str(error)


@pytest.mark.parametrize("reason", ["Memory", "", "disk", None])
def test_an_unknown_reason_is_refused(reason):
    with pytest.raises(ValueError, match="reason must be"):
        MemoryFull("a", "/s", 8, 8, 8, reason)
    with pytest.raises(ValueError, match="reason must be"):
        GroupStoreFull("g", "a", "/s", 8, reason)


def test_short_repr_is_the_repr_of_short_values():
    for value in ("a" * 99, b"a" * 99, 10**99, "\ud800", 1, None, ["a"], "it's"):
        assert short_repr(value) == repr(value)


class WithoutRepr:
    def __repr__(self):
        raise RuntimeError("no")


@pytest.mark.parametrize(
    "value", ["a" * 100_000, b"a" * 100_000, 10**100_000, ["a" * 100_000] * 100, WithoutRepr()], ids=type
)
def test_short_repr_is_short_and_never_fails(value):
    assert 0 < len(short_repr(value)) < 1000


def test_a_type():
    assert a_type(1) == "an int"
    assert a_type({}) == "a dict"
    assert a_type(WithoutRepr()) == f"a {__name__}.WithoutRepr"
