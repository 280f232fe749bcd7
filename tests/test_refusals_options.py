"""Every refusal of an option, before any object is made; and options at the limits."""

from __future__ import annotations

import re

import pytest
from conftest import objects_of_tests

from asgi_ipc import IPCChannelLayer

HUGE = 10**5000

WRONG_OPTIONS = {
    "prefix_slash": ({"prefix": "a/b"}, ValueError, ["prefix 'a/b'", "no slash", "letters"]),
    "prefix_leading_slash": ({"prefix": "/asgi"}, ValueError, ["prefix '/asgi'", "no slash"]),
    "prefix_empty": ({"prefix": ""}, ValueError, ["prefix ''", "1 to "]),
    "prefix_too_long": ({"prefix": "x" * 201}, ValueError, ["prefix 'xxx", "1 to "]),
    "prefix_space": ({"prefix": "a b"}, ValueError, ["prefix 'a b'"]),
    "prefix_newline": ({"prefix": "a\n"}, ValueError, [r"prefix 'a\n'"]),
    "prefix_nul": ({"prefix": "a\0"}, ValueError, [r"prefix 'a\x00'"]),
    "prefix_foreign_letter": ({"prefix": "caf\u00e9"}, ValueError, ["prefix 'caf\u00e9'", "ASCII"]),
    "prefix_bytes": ({"prefix": b"a"}, TypeError, ["prefix must be a str, not b'a'"]),
    "prefix_none": ({"prefix": None}, TypeError, ["prefix must be a str, not None"]),
    **{
        f"{name}_{kind}": ({name: value}, error, [name, expected])
        for name in ("expiry", "group_expiry", "patience")
        for kind, value, error, expected in [
            ("negative", -1, ValueError, "more than 0 seconds"),
            ("zero", 0, ValueError, "more than 0 seconds"),
            ("nan", float("nan"), ValueError, "not nan"),
            ("infinite", float("inf"), ValueError, "not inf"),
            ("centuries", 1e11, ValueError, "at most"),
            ("huge", HUGE, ValueError, "at most"),
            ("true", True, TypeError, "number of seconds, not True"),
            ("str", "60", TypeError, "number of seconds, not '60'"),
            ("none", None, TypeError, "number of seconds, not None"),
        ]
    },
    **{
        f"{name}_{kind}": ({name: value}, error, [name, expected])
        for name in ("message_memory", "group_memory")
        for kind, value, error, expected in [
            ("zero", 0, ValueError, "between 65536 and"),
            ("negative", -1, ValueError, "between 65536 and"),
            ("too_little", 65535, ValueError, "bytes, not 65535"),
            ("too_much", 2**60, ValueError, "between 65536 and"),
            ("huge", HUGE, ValueError, "between 65536 and"),
            ("true", True, TypeError, "an int, not True"),
            ("float", 1e8, TypeError, "an int, not 100000000.0"),
            ("str", "1000000", TypeError, "an int, not '1000000'"),
            ("none", None, TypeError, "an int, not None"),
        ]
    },
    "capacity_zero": ({"capacity": 0}, ValueError, ["capacity must be between 1 and", "not 0"]),
    "capacity_negative": ({"capacity": -5}, ValueError, ["capacity", "not -5"]),
    "capacity_float": ({"capacity": 1.5}, TypeError, ["capacity must be an int, not 1.5"]),
    "capacity_true": ({"capacity": True}, TypeError, ["capacity must be an int, not True"]),
    "channel_capacity_list": ({"channel_capacity": [("a", 1)]}, TypeError, ["channel_capacity must be a dict"]),
    "channel_capacity_int": ({"channel_capacity": 5}, TypeError, ["channel_capacity must be a dict"]),
    "pattern_int": ({"channel_capacity": {5: 1}}, TypeError, ["the pattern 5 in channel_capacity is an int", "glob"]),
    "pattern_bytes": ({"channel_capacity": {b"a": 1}}, TypeError, ["the pattern b'a' in channel_capacity"]),
    "pattern_regex_of_bytes": (
        {"channel_capacity": {re.compile(b"a"): 1}},
        TypeError,
        ["the regex b'a' in channel_capacity is a bytes pattern", "compile it from a str"],
    ),
    "pattern_capacity_zero": (
        {"channel_capacity": {"a": 0}},
        ValueError,
        ["the capacity of 'a' in channel_capacity is 0", "at least 1"],
    ),
    "pattern_capacity_str": ({"channel_capacity": {"a": "5"}}, TypeError, ["the capacity of 'a'", "positive int"]),
    "pattern_capacity_true": ({"channel_capacity": {"a": True}}, TypeError, ["the capacity of 'a'", "positive int"]),
    "pattern_capacity_none": (
        {"channel_capacity": {re.compile("a"): None}},
        TypeError,
        ["the capacity of 'a'", "positive int"],
    ),
    "mode_executable": ({"mode": 0o700}, ValueError, ["mode must be 0o600 (only this user)", "0o660", "not 0o700"]),
    "mode_not_readable": ({"mode": 0o200}, ValueError, ["mode must be 0o600 (only this user)", "not 0o200"]),
    "mode_not_writable": ({"mode": 0o440}, ValueError, ["mode must be 0o600 (only this user)", "not 0o440"]),
    **{
        f"mode_{mode:o}": ({"mode": mode}, ValueError, ["must be able to read and write", "0o666", f"not {mode:#o}"])
        for mode in (0o644, 0o640, 0o604, 0o664, 0o646, 0o620, 0o602, 0o606)
    },
    "mode_sticky": ({"mode": 0o1600}, ValueError, ["mode must be between"]),
    "mode_str": ({"mode": "0o600"}, TypeError, ["mode must be an int, not '0o600'"]),
    "mode_true": ({"mode": True}, TypeError, ["mode must be an int, not True"]),
    "message_limit_zero": ({"message_limit": 0}, ValueError, ["message_limit must be between 1 and", "not 0"]),
    "message_limit_float": ({"message_limit": 1e6}, TypeError, ["message_limit must be an int, not 1000000.0"]),
}


@pytest.mark.parametrize(("options", "error", "parts"), WRONG_OPTIONS.values(), ids=WRONG_OPTIONS)
def test_wrong_options_are_refused_before_any_object_is_made(prefix, options, error, parts):
    with pytest.raises(error) as refusal:
        IPCChannelLayer(**{"prefix": prefix, **options})
    for part in parts:
        assert part in str(refusal.value)
    assert objects_of_tests() == []


def test_unknown_options_are_refused(prefix):
    with pytest.raises(TypeError, match="hosts"):
        IPCChannelLayer(prefix, hosts=["localhost"])
    assert objects_of_tests() == []


def test_the_seven_options_of_asgi_ipc_1_keep_their_order(prefix):
    with IPCChannelLayer(prefix, 30, 40, 5, {"a*": 2}, 1 << 20, 1 << 18) as layer:
        assert (layer.prefix, layer.expiry, layer.group_expiry, layer.capacity) == (prefix, 30, 40, 5)
        assert (layer.get_capacity("ab"), layer.get_capacity("b")) == (2, 5)
        layer.send("a", {})
        layer.group_add("g", "a")
        assert layer.message_store.expiry == 30 * 10**9
        assert layer.group_store.expiry == 40 * 10**9
        sizes = [store.sections.opened().segment.size for store in (layer.message_store, layer.group_store)]
        assert sizes == [1 << 20, 1 << 18]
        layer.unlink()


@pytest.mark.parametrize("extra", ["mode", "message_limit", "patience"])
def test_further_options_are_keyword_only(prefix, extra):
    with pytest.raises(TypeError, match="positional"):
        IPCChannelLayer(prefix, 60, 86400, 100, None, 1 << 20, 1 << 18, {"mode": 0o600}.get(extra, 5))
    assert objects_of_tests() == []


@pytest.mark.parametrize(
    "options",
    [
        {"prefix": "x" * 170},
        {"expiry": 0.001},
        {"group_expiry": 3e9, "expiry": 3e9},
        {"message_memory": 65536, "group_memory": 65536},
        {"message_memory": 65537},
        {"mode": 0o666},
        {"capacity": 10**12},
    ],
    ids=["long_prefix", "brief", "for_a_century", "small", "odd", "for_everybody", "large_capacity"],
)
def test_options_at_the_limits_work(prefix, options):
    options = {"message_memory": 1 << 20, "group_memory": 1 << 18, **options}
    with IPCChannelLayer(**{**options, "prefix": prefix + options.get("prefix", "")}) as layer:
        layer.group_add("g", "a")
        layer.send_group("g", {"n": 1})
        layer.send("p!a", {"n": 2})
        if options.get("expiry") != 0.001:
            assert layer.receive(["a"]) == ("a", {"n": 1})
            assert layer.receive(["p!"]) == ("p!a", {"n": 2})
        layer.unlink()
