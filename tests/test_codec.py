"""
The codec: round trips, refused values and their errors, and bytes that are not a message.

The last test runs this whole file again with msgpack's pure Python implementation.
"""

from __future__ import annotations

import collections
import datetime
import decimal
import enum
import gc
import math
import os
import subprocess
import sys
import threading
import types
from pathlib import Path

import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from asgi_ipc import codec
from asgi_ipc.codec import MAX_DEPTH, decode, encode
from asgi_ipc.exceptions import MessageTooLarge

PURE = bool(os.environ.get("MSGPACK_PUREPYTHON"))


class SafeString(str):
    """Like Django's ``SafeString``: a ``str`` with a marker method."""

    def __str__(self):
        return self

    def __html__(self):
        return self


class OtherMethods(str):
    """Its methods return something else than its content."""

    def __str__(self):
        return "lie"

    def encode(self, *args):
        return b"lie"

    def __len__(self):
        return 2**40


class EqualToNothing(str):
    """Equal to nothing."""

    __hash__ = str.__hash__

    def __eq__(self, other):
        return False


class Data(bytes):
    def __bytes__(self):
        return b"lie"

    def __len__(self):
        return 2**40


class Number(int):
    def __int__(self):
        return 0


class Real(float):
    def __float__(self):
        return 0.0


class Colour(enum.IntEnum):
    RED = 1


class Kind(str, enum.Enum):
    TEXT = "text"


class Box(dict):
    def items(self):
        return [("lie", 1)]

    def __len__(self):
        return 17


class Row(list):
    def __iter__(self):
        return iter(["lie"])


Point = collections.namedtuple("Point", "x y")


def plain(value):
    """Return the expected result of a round trip, with types, so that True differs from 1 and 1.0 from 1."""
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {plain(key): plain(item) for key, item in value.items()}
    if type(value) is float and math.isnan(value):
        return (float, "nan")
    return (type(value), repr(value))  # repr: -0.0 is not 0.0


def nested(levels, innermost=None, kind="dict"):
    """Return a message of ``levels`` nested containers."""
    value = innermost
    for level in range(levels - 1):
        value = [value] if kind == "list" or (kind == "both" and level % 2) else {"a": value}
    return {"a": value}


# -- round trips --

UNCHANGED = {
    "empty": {},
    "flat": {"text": "x" * 100},
    "scalars": {"a": b"a", "b": "b", "c": 1, "d": 1.5, "e": True, "f": False, "g": None},
    "bytes and str apart": {"bytes": b"abc", "str": "abc"},
    "empty ones": {"": "", "b": b"", "l": [], "d": {}},
    "ints": {"a": [n + d for b in (0, 5, 7, 8, 15, 16, 31, 32, 63) for n in (2**b, -(2**b)) for d in (0, 1)]},
    "extreme ints": {"a": -(2**63), "b": 2**64 - 1},
    "floats": {"floats": [0.0, -0.0, 1e308, 5e-324, 0.1, math.inf, -math.inf]},
    "text": {"\xe4\u20ac\U0001f600\0": "\xe4\u20ac\U0001f600\0" * 70},
    "every byte": {"bytes": bytes(range(256))},
    "lengths": {"b": [b"x" * n for n in (31, 32, 255, 256, 65535, 65536)]},
    "many items": {"l": list(range(70_000)), "d": {str(n): n for n in range(70_000)}},
    "http.request": {
        "type": "http.request",
        "headers": [[b"host", b"example.org"], [b"accept", b"*/*"]],
        "client": ["127.0.0.1", 40000],
        "body": b"\xff\xfe",
        "state": {"user": {"id": 7, "tags": ["a", "b"]}, "none": None},
    },
    "one object twice": {"a": [shared := {"b": [1]}, shared], "c": shared},
}


@pytest.mark.parametrize("message", UNCHANGED.values(), ids=UNCHANGED)
def test_round_trip(message):
    before = plain(message)
    data = encode(message)
    assert type(data) is bytes
    assert plain(decode(data)) == before
    assert list(decode(data)) == list(message)
    assert plain(message) == before


def test_round_trip_of_nan():
    assert math.isnan(decode(encode({"a": math.nan}))["a"])


CONVERTED = {
    "tuples": ({"a": (1, (2, ()))}, {"a": [1, [2, []]]}),
    "SafeString": ({"a": SafeString("<p>")}, {"a": "<p>"}),
    "SafeString key": ({SafeString("a"): {SafeString("b"): 1}}, {"a": {"b": 1}}),
    "SafeString in a list": ({"a": ["x", [SafeString("<p>")]]}, {"a": ["x", ["<p>"]]}),
    "str with other methods": ({"a": OtherMethods("truth"), OtherMethods("b"): 1}, {"a": "truth", "b": 1}),
    "bytes with other methods": ({"a": Data(b"truth")}, {"a": b"truth"}),
    "int with other methods": ({"a": Number(7)}, {"a": 7}),
    "extreme ints": ({"a": [Number(-(2**63)), Number(2**64 - 1)]}, {"a": [-(2**63), 2**64 - 1]}),
    "float with other methods": ({"a": Real(1.5)}, {"a": 1.5}),
    "dict with other methods": ({"a": Box(b=2)}, {"a": {"b": 2}}),
    "list with other methods": ({"a": Row([1, 2])}, {"a": [1, 2]}),
    "IntEnum": ({"a": Colour.RED}, {"a": 1}),
    "str Enum": ({"a": Kind.TEXT, Kind.TEXT: 1}, {"a": "text", "text": 1}),
    "namedtuple": ({"a": Point(1, b"2")}, {"a": [1, b"2"]}),
    "OrderedDict": (collections.OrderedDict(a=1, b=2), {"a": 1, "b": 2}),
    "defaultdict": (collections.defaultdict(list, a=[1]), {"a": [1]}),
    "Counter": (collections.Counter("aab"), {"a": 2, "b": 1}),
    "subclass of dict": (Box(a=Box(b=1)), {"a": {"b": 1}}),
}


@pytest.mark.parametrize(("message", "expected"), CONVERTED.values(), ids=CONVERTED)
def test_tuples_and_subclasses_become_plain(message, expected):
    assert plain(decode(encode(message))) == plain(expected)


def test_a_reordered_ordered_dict_keeps_its_order():
    message = collections.OrderedDict(a=1, b=2, c=3)
    message.move_to_end("a")
    assert list(decode(encode({"a": message}))["a"]) == ["b", "c", "a"]


def test_later_changes_have_no_effect():
    message = {"a": [1, {"b": 2}]}
    data = encode(message)
    message["a"][1]["b"] = 3
    message["a"].append(4)
    assert decode(data) == {"a": [1, {"b": 2}]}


@pytest.mark.parametrize("kind", ["dict", "list", "both"])
@pytest.mark.parametrize("leaf", [None, SafeString("a")], ids=["plain", "walked"])
def test_the_deepest_accepted_message(kind, leaf):
    message = nested(MAX_DEPTH, leaf, kind)
    assert plain(decode(encode(message))) == plain(nested(MAX_DEPTH, leaf and "a", kind))


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(),
    st.binary(),
    st.text(st.characters(codec="utf-8")),
)
KEYS = st.text(st.characters(codec="utf-8"), max_size=8)
MESSAGES = st.dictionaries(
    KEYS,
    st.recursive(
        SCALARS,
        lambda inner: st.one_of(
            st.lists(inner), st.lists(inner).map(tuple), st.dictionaries(KEYS | KEYS.map(SafeString), inner)
        ),
        max_leaves=20,
    )
    | KEYS.map(SafeString),
)


@given(MESSAGES)
def test_round_trip_of_anything(message):
    # plain() keeps the type SafeString, so the expectation is built from plain text.
    def text(value):
        if isinstance(value, str):
            return "".join(value)
        if isinstance(value, dict):
            return {text(key): text(item) for key, item in value.items()}
        return [text(item) for item in value] if isinstance(value, (list, tuple)) else value

    assert plain(decode(encode(message))) == plain(text(message))


# -- refused values --


def cyclic_dicts():
    message = {"a": {"b": {}}}
    message["a"]["b"]["c"] = message["a"]
    return message


def cyclic_lists():
    cycle = [1]
    cycle.append([cycle, cycle])
    return {"a": cycle}


def cyclic_message():
    message = {}
    message["self"] = (message,)
    return message


class Proxy:
    """Claims to be a ``str``, as lazy proxies do."""

    __class__ = str


ALLOWED = r"; a message holds bytes, str, int \(64 bits\), float, bool, None, and lists, tuples and dicts .*$"
KEYS_RULE = "; the keys of a message must be str$"
DICT_RULE = "; a message must be a dict with str keys$"
INT_RULE = r"; an int in a message must be from -2\*\*63 to 2\*\*64 - 1, so send it as a str$"
REFUSED = {
    "datetime": (
        {"user": {"joined": datetime.datetime(2024, 1, 1)}},
        r'^message\["user"\]\["joined"\] is a datetime\.datetime' + ALLOWED,
    ),
    "aware datetime": (
        {"a": datetime.datetime(2024, 1, 1, tzinfo=datetime.timezone.utc)},
        r'^message\["a"\] is a datetime\.datetime' + ALLOWED,
    ),
    "in a list": ({"a": [1, {"b": ({2},)}]}, r'^message\["a"\]\[1\]\["b"\]\[0\] is a set' + ALLOWED),
    "by a subclass": ({SafeString("a"): {"b": object()}}, r'^message\["a"\]\["b"\] is an object' + ALLOWED),
    "frozenset": ({"a": frozenset()}, r'^message\["a"\] is a frozenset' + ALLOWED),
    "Decimal": ({"a": decimal.Decimal(1)}, r'^message\["a"\] is a decimal\.Decimal' + ALLOWED),
    "complex": ({"a": 1j}, r'^message\["a"\] is a complex' + ALLOWED),
    "bytearray": ({"a": bytearray(b"a")}, r'^message\["a"\] is a bytearray' + ALLOWED),
    "memoryview": ({"a": [memoryview(b"a")]}, r'^message\["a"\]\[0\] is a memoryview' + ALLOWED),
    "range": ({"a": range(3)}, r'^message\["a"\] is a range' + ALLOWED),
    "generator": ({"a": (n for n in "a")}, r'^message\["a"\] is a generator' + ALLOWED),
    "keys": ({"a": {}.keys()}, r'^message\["a"\] is a dict_keys' + ALLOWED),
    "mapping": ({"a": types.MappingProxyType({})}, r'^message\["a"\] is a mappingproxy' + ALLOWED),
    "class": ({"a": str}, r'^message\["a"\] is a type' + ALLOWED),
    "proxy": ({"a": Proxy()}, rf'^message\["a"\] is a {__name__}\.Proxy' + ALLOWED),
    "ExtType": ({"a": msgpack.ExtType(1, b"a")}, r'^message\["a"\] is a msgpack\.ext\.ExtType' + ALLOWED),
    "Timestamp": ({"a": (msgpack.Timestamp(1),)}, r'^message.* is a msgpack\.ext\.Times.*' + ALLOWED),
    "int key": ({1: "a"}, "^message has a key that is an int" + KEYS_RULE),
    "bytes key": ({"a": {b"b": 1}}, r'^message\["a"\] has a key that is a bytes' + KEYS_RULE),
    "None key": ({"a": [{None: 1}]}, r'^message\["a"\]\[0\] has a key that is a NoneType' + KEYS_RULE),
    "tuple key": ({("a", "b"): 1}, "^message has a key that is a tuple" + KEYS_RULE),
    "bool key": ({"a": {True: 1}}, r'^message\["a"\] has a key that is a bool' + KEYS_RULE),
    "None": (None, "^message is a NoneType" + DICT_RULE),
    "list": ([("a", 1)], "^message is a list" + DICT_RULE),
    "str": ("a", "^message is a str" + DICT_RULE),
    "bytes": (b"a", "^message is a bytes" + DICT_RULE),
    "mapping itself": (types.MappingProxyType({}), "^message is a mappingproxy" + DICT_RULE),
    "ChainMap": (collections.ChainMap({}), r"^message is a collections\.ChainMap" + DICT_RULE),
    "int too high": ({"a": 2**64}, r'^message\["a"\] is an int of 65 bits' + INT_RULE),
    "int too low": ({"a": [-(2**63) - 1]}, r'^message\["a"\]\[0\] is an int of 64 bits' + INT_RULE),
    "huge int": ({"a": 10**10_000}, r'^message\["a"\] is an int of 33220 bits' + INT_RULE),
    "Number": ({"a": Number(2**64)}, rf'^message\["a"\] is a {__name__}\.Number of 65 bits' + INT_RULE),
    "surrogate": (
        {"a": {"b": "xy\ud800z"}},
        r"""^message\["a"\]\["b"\] is a str with a lone surrogate, '\\ud800' at index 2, which UTF-8""",
    ),
    "surrogate in a key": (
        {"a": {"xy\udfff": 1}},
        r"""^a key of message\["a"\] is a str with a lone surrogate, '\\udfff' at index 2, which UTF-8""",
    ),
    "surrogate in a subclass": (
        {"a": SafeString("\ud800")},
        rf"""^message\["a"\] is a {__name__}\.SafeString with a lone surrogate, '\\ud800' at index 0""",
    ),
    "two keys with the same text": (
        {EqualToNothing("a"): 1, "a": 2},
        r'^message has two keys with the text "a"; only one can be sent$',
    ),
    "cyclic dicts": (
        cyclic_dicts(),
        r'^message\["a"\]\["b"\]\["c"\] is message\["a"\], which contains it; a message must not contain ',
    ),
    "cyclic lists": (
        cyclic_lists(),
        r'^message\["a"\]\[1\]\[0\] is message\["a"\], which contains it; a message must not contain itself$',
    ),
    "message in itself": (
        cyclic_message(),
        r'^message\["self"\]\[0\] is message, which contains it; a message must not contain itself$',
    ),
    "key with quotes": ({'a"b\n': {1}}, r'^message\["a\\"b\\n"\] is a set' + ALLOWED),
    "key beyond ASCII": ({"\xe4": {1}}, r'^message\["\\u00e4"\] is a set' + ALLOWED),
}


@pytest.mark.parametrize(("message", "expected_text"), REFUSED.values(), ids=REFUSED)
def test_refused_values_raise_a_clear_error(message, expected_text):
    with pytest.raises(TypeError, match=expected_text) as caught:
        encode(message)
    # A traceback must not show an error of msgpack before this one.
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None or caught.value.__suppress_context__
    assert str(caught.value).isascii()


@pytest.mark.parametrize("kind", ["dict", "list", "both"])
@pytest.mark.parametrize("levels", [MAX_DEPTH + 1, MAX_DEPTH * 20, 100_000])
def test_messages_nested_too_deep_are_refused(kind, levels):
    with pytest.raises(TypeError, match=r"^message\[.* is nested too deeply; .* at most 100 levels$") as caught:
        encode(nested(levels, None, kind))
    assert len(str(caught.value)) < 300


def test_long_keys_are_shortened_in_the_path():
    with pytest.raises(TypeError, match=r'^message\["kkk.*\.\.\.k+"\] is a set') as caught:
        encode({"k" * 100_000: {1}})
    assert len(str(caught.value)) < 400


def test_a_value_too_long_for_msgpack_is_too_large():
    # Nothing touches the pages of these bytes, so they take no memory.
    for value in (bytes(2**32), [bytes(2**32)]):
        with pytest.raises(MessageTooLarge) as caught:
            encode({"a": value})
        assert (caught.value.size, caught.value.limit) == (2**32, 2**32 - 1)


ANYTHING = st.recursive(
    st.one_of(
        SCALARS, st.integers(), st.text(), st.complex_numbers(), st.datetimes(), st.binary().map(bytearray)
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.text() | st.integers() | st.binary(), inner, max_size=4),
        st.lists(inner, max_size=4).map(Row),
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), ANYTHING, max_size=3) | ANYTHING)
def test_any_value_is_encoded_or_is_a_type_error(message):
    try:
        data = encode(message)
    except TypeError as error:
        assert "message" in str(error)
    else:
        assert encode(decode(data)) == data


def test_a_change_by_another_thread_is_refused_when_msgpack_finds_it(monkeypatch):
    message = {"a": [1]}

    def look(container, hub):
        message["a"].append({2})
        return True

    monkeypatch.setattr(codec, "_is_plain", look)
    with pytest.raises(TypeError, match=r'^message\["a"\]\[1\] is a set' + ALLOWED):
        encode(message)


# -- packers are not re-entered --

BIG = {"rows": [{"n": number, "name": ("row", str(number))} for number in range(300)]}
SMALL = {"text": "inside"}


def assert_round_trip(message):
    assert decode(encode(message)) == decode(msgpack.packb(message))


def test_a_finaliser_may_encode_while_its_thread_encodes():
    expected_big, expected_small, wrong = encode(BIG), encode(SMALL), []
    active = True

    class Cycle:
        def __init__(self):
            self.cycle = self

        def __del__(self):
            if encode(SMALL) != expected_small:
                wrong.append("inside")
            if active:
                Cycle()

    threshold = gc.get_threshold()
    Cycle()
    gc.set_threshold(1)
    try:
        for _ in range(20):
            if encode(BIG) != expected_big:
                wrong.append("outside")
    finally:
        active = False
        gc.set_threshold(*threshold)
        gc.collect()
    assert wrong == []


def test_a_signal_handler_may_encode_at_any_point():
    # The profiler runs the handler at each call and return, where a signal handler may also run.
    expected_small, wrong, calls = encode(SMALL), [], 0

    def handler(frame, event, argument):
        nonlocal calls
        calls += 1
        if encode(SMALL) != expected_small:
            wrong.append(event)

    message = {"rows": BIG["rows"][:20], "end": SafeString("end")}
    expected = encode(message)
    sys.setprofile(handler)
    try:
        data = encode(message)
    finally:
        sys.setprofile(None)
    assert calls > 5
    assert wrong == []
    assert data == expected
    assert encode(message) == expected


class Interrupted(BaseException):
    pass


def is_interrupted(event_number, message):
    """Encode, and raise from the profiler at the given event; return True if that event occurred."""
    left = event_number

    def handler(frame, event, argument):
        nonlocal left
        left -= argument is not sys.setprofile
        if left == 0:
            raise Interrupted

    sys.setprofile(handler)
    try:
        encode(message)
    except Interrupted:
        return True
    finally:
        sys.setprofile(None)
    return False


def test_an_exception_from_a_handler_leaves_no_partial_state():
    message = {"a": [1, "b"], "c": SafeString("d")}
    expected, expected_small = encode(message), encode(SMALL)
    event_number = 1
    while is_interrupted(event_number, message):
        assert encode(SMALL) == expected_small
        assert encode(message) == expected
        event_number += 1
    assert event_number > 10


@pytest.mark.parametrize("bad", [{"a": "x" * 5000, "b": "\ud800"}, {"a": "x" * 5000, "b": 2**64}])
def test_a_refused_message_leaves_no_partial_state(bad):
    for _ in range(3):
        with pytest.raises(TypeError):
            encode(bad)
        assert_round_trip(SMALL)


def test_threads_encode_independently():
    wrong = []
    interval = sys.getswitchinterval()

    def work(number):
        message = {"number": number, "rows": [{"text": str(number) * 10}] * number}
        expected = msgpack.packb(message)
        for _ in range(100):
            data = encode(message)
            if data != expected or decode(data) != message:
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert wrong == []


def test_packers_are_reused_unless_their_buffer_is_huge():
    encode(SMALL)
    packers = list(codec._spare_packers)
    for _ in range(10):
        encode(SMALL)
        with pytest.raises(TypeError):
            encode({"a": set()})
    assert codec._spare_packers == packers
    encode({"a": bytes(codec._KEPT_SIZE)})
    assert len(codec._spare_packers) == len(packers) - 1


# -- bytes that are not a message --


def deep_bytes(levels, opener, innermost=b"\xc0"):
    """Return a map whose value is ``levels - 1`` nested containers."""
    return b"\x81\xa1a" + opener * (levels - 1) + innermost


MALFORMED = {
    "nothing": b"",
    "trailing byte": encode(SMALL) + b"\x00",
    "two messages": encode(SMALL) * 2,
    "nil": b"\xc0",
    "int": b"\x01",
    "str": b"\xa1a",
    "bytes": b"\xc4\x01a",
    "list": b"\x90",
    "list of a message": b"\x91" + encode(SMALL),
    "never used": b"\xc1",
    "never used inside": b"\x81\xa1a\xc1",
    "int key": b"\x81\x01\x01",
    "bytes key": b"\x81\xc4\x01a\x01",
    "nil key": b"\x81\xc0\x01",
    "list key": b"\x81\x90\x01",
    "map key": b"\x81\x80\x01",
    "deeper bytes key": b"\x81\xa1a\x91\x81\xc4\x01a\x01",
    "deeper int key": b"\x81\xa1a\x81\x01\x01",
    "extension": b"\x81\xa1a\xd4\x05x",
    "extension of negative code": b"\x81\xa1a\xd4\xf0x",
    "long extension": b"\x81\xa1a\xc7\x03\x05abc",
    "empty extension": b"\x81\xa1a\xc7\x00\x05",
    "extension in a list": b"\x81\xa1a\x91\xd4\x05x",
    "extension as key": b"\x81\xd4\x05x\x01",
    "extension as message": b"\xd4\x05x",
    "timestamp": b"\x81\xa1a\xd6\xff\x00\x00\x00\x01",
    "timestamp of wrong length": b"\x81\xa1a\xd5\xff\x00\x00",
    "timestamp of too many nanoseconds": b"\x81\xa1a\xd7\xff" + b"\xff" * 8,
    "timestamp as key": b"\x81\xd6\xff\x00\x00\x00\x01\x01",
    "not UTF-8": b"\x81\xa1a\xa1\xff",
    "not UTF-8 in a key": b"\x81\xa1\xff\x01",
    "surrogate in UTF-8": b"\x81\xa1a\xa3\xed\xa0\x80",
    "overlong UTF-8": b"\x81\xa1a\xa2\xc0\x80",
    "half a character": b"\x81\xa1a\xa1\xc3",
    "long str without content": b"\x81\xa1a\xdb\xff\xff\xff\xff",
    "long bytes without content": b"\x81\xa1a\xc6\xff\xff\xff\xff",
    "long list without content": b"\x81\xa1a\xdd\xff\xff\xff\xff",
    "long map without content": b"\xdf\xff\xff\xff\xff",
    "long extension without content": b"\x81\xa1a\xc9\xff\xff\xff\xff\x05",
    "long lists in long lists": deep_bytes(50, b"\xdd\x7f\xff\xff\xff"),
    "one level too deep": deep_bytes(MAX_DEPTH + 1, b"\x91"),
    "one map too deep": deep_bytes(MAX_DEPTH + 1, b"\x81\xa1a"),
    "much too deep": deep_bytes(600, b"\x91"),
    "too deep for msgpack": deep_bytes(2000, b"\x91"),
    "too deep for anything": deep_bytes(1_000_000, b"\x91"),
    "maps too deep for anything": deep_bytes(300_000, b"\x81\xa1a"),
    "pickle": b"\x80\x04\x95\x06\x00\x00\x00\x00\x00\x00\x00}\x94.",
    "JSON": b'{"text": "inside"}',
    "zeroes": bytes(1000),
    "ones": b"\xff" * 1000,
}


def refused(data):
    """Assert that decoding raises a plain ``ValueError`` with this package's text, and return True."""
    with pytest.raises(ValueError, match=rf"^{len(data)} bytes are not a message: .") as caught:
        decode(data)
    assert type(caught.value) is ValueError
    return True


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED)
def test_malformed_bytes_are_refused(data):
    assert refused(data)


@pytest.mark.parametrize("opener", [b"\x91", b"\x81\xa1a"], ids=["lists", "maps"])
def test_the_deepest_accepted_bytes(opener):
    message = decode(deep_bytes(MAX_DEPTH, opener))
    assert encode(message) == deep_bytes(MAX_DEPTH, opener)


def assert_refused_or_message(data):
    try:
        message = decode(data)
    except ValueError as error:
        assert type(error) is ValueError
    else:
        assert type(message) is dict
        assert plain(decode(encode(message))) == plain(message)


WHOLE = encode(
    {
        "type": "websocket.receive",
        "headers": [[b"host", b"a" * 40], ["b", None]],
        "n": [1, -1, 200, -200, 70_000, -70_000, 2**40, -(2**40), 2**63, 1.5],
        "state": {"user": {"id": True, "x": "\xe4" * 20}},
        "list": list(range(20)),
    }
)


def test_every_truncation_is_refused():
    decode(WHOLE)
    for length in range(len(WHOLE)):
        assert refused(WHOLE[:length])


def test_every_change_of_one_byte_is_refused_or_a_message():
    for index in range(len(WHOLE)):
        for value in range(256):
            assert_refused_or_message(WHOLE[:index] + bytes([value]) + WHOLE[index + 1 :])


@given(st.binary())
@example(b"\x80")
def test_any_bytes_are_refused_or_a_message(data):
    assert_refused_or_message(data)


@given(MESSAGES, st.data())
def test_damaged_messages_are_refused_or_a_message(message, draws):
    data = bytearray(encode(message))
    for _ in range(draws.draw(st.integers(1, 4))):
        data[draws.draw(st.integers(0, len(data) - 1))] = draws.draw(st.integers(0, 255))
    assert_refused_or_message(bytes(data))


def test_a_memory_error_for_valid_bytes_is_passed_on(monkeypatch):
    def unpackb(data):
        raise MemoryError

    monkeypatch.setattr(codec, "unpackb", unpackb)
    with pytest.raises(MemoryError):
        decode(WHOLE)
    for data in (WHOLE[:-1], WHOLE + b"\x00", b"", MALFORMED["long lists in long lists"], b"\x81\xa1a\xc1"):
        assert refused(data)


def test_lengths_beyond_the_available_memory_are_refused():
    pytest.importorskip("resource")
    program = """
import resource
resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))
from asgi_ipc.codec import decode
# 400 nested lists that each claim as many items as there are bytes
data = b"\\x81\\xa1a" + b"\\xdd\\x00\\x10\\x00\\x00" * 400
data += b"\\xc0" * (2**20 - len(data))
try:
    decode(data)
except ValueError as error:
    print(type(error).__name__, error)
"""
    assert run("-c", program).startswith(f"ValueError {2**20} bytes are not a message: ")


@pytest.mark.skipif(PURE, reason="msgpack's pure Python implementation itself recurses")
def test_a_caller_with_a_deep_stack_can_decode():
    message = nested(MAX_DEPTH)
    data = encode(message)
    frame, depth = sys._getframe(), 0
    while frame:
        frame, depth = frame.f_back, depth + 1
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(depth + MAX_DEPTH // 3)
    try:
        received = decode(data)
    finally:
        sys.setrecursionlimit(limit)
    assert received == message


# -- with msgpack in pure Python --


def run(*arguments, **environment):
    root = Path(__file__).resolve().parent.parent
    process = subprocess.run(
        [sys.executable, *arguments],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    assert process.returncode == 0, process.stdout
    return process.stdout


@pytest.mark.exhaustive
@pytest.mark.skipif(PURE, reason="this is already that run")
def test_all_of_this_file_with_msgpack_in_pure_python():
    check = "import msgpack; print(msgpack.Packer.__module__, msgpack.Unpacker.__module__)"
    assert run("-c", check, MSGPACK_PUREPYTHON="1").split() == ["msgpack.fallback", "msgpack.fallback"]
    output = run("-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", __file__, MSGPACK_PUREPYTHON="1")
    assert " passed" in output
