"""The option ``channel_capacity``: accepted forms, errors, and the pattern that applies."""

from __future__ import annotations

import re
from collections import OrderedDict
from types import MappingProxyType

import pytest

from asgi_ipc.capacity import compile_capacities, get_capacity


@pytest.mark.parametrize(
    ("channel", "expected"),
    [
        ("http.request", 200),
        ("http.request2", 100),
        ("a.http.request", 100),
        ("http.response!abc", 10),
        ("http.response!", 10),
        ("http.response", 100),
        ("http.response?abc", 100),
        ("websocket.send!abc", 20),
        ("websocket.send!", 100),
        ("websocket.send", 100),
        ("a.websocket.send!abc", 100),
    ],
)
def test_the_example_of_the_readme_of_asgi_ipc_1(channel, expected):
    channel_capacity={
        "http.request": 200,
        "http.response!*": 10,
        re.compile(r"^websocket.send\!.+"): 20,
    }  # fmt: skip
    assert get_capacity(compile_capacities(channel_capacity), 100, channel) == expected


@pytest.mark.parametrize("nothing", [None, {}])
def test_without_patterns_the_default_applies(nothing):
    assert compile_capacities(nothing) == []
    assert get_capacity(compile_capacities(nothing), 7, "a") == 7


def test_the_first_match_in_the_order_of_the_dict_applies():
    broad_first = OrderedDict([("a*", 1), (re.compile("ab"), 2), ("abc", 3)])
    assert [capacity for _, capacity in compile_capacities(broad_first)] == [1, 2, 3]
    assert get_capacity(compile_capacities(broad_first), 9, "abc") == 1
    broad_last = OrderedDict(reversed(list(broad_first.items())))
    assert get_capacity(compile_capacities(broad_last), 9, "abc") == 3
    assert get_capacity(compile_capacities(broad_last), 9, "abd") == 2
    assert get_capacity(compile_capacities(broad_last), 9, "ac") == 1
    assert get_capacity(compile_capacities(broad_last), 9, "b") == 9


@pytest.mark.parametrize(
    ("glob", "matching", "others"),
    [
        ("a*", ["a", "a.b!c"], ["ba", "A"]),
        ("A", ["A"], ["a"]),
        ("a?c", ["abc", "a!c", "a?c"], ["ac", "abbc"]),
        ("[ab].c", ["a.c", "b.c"], ["c.c", "abc"]),
        ("[!a]b", ["bb"], ["ab"]),
        ("a.c", ["a.c"], ["abc"]),
        ("a+", ["a+"], ["aa"]),
    ],
)
def test_globs_match_the_full_name_and_are_case_sensitive(glob, matching, others):
    compiled = compile_capacities({glob: 5})
    assert {name: get_capacity(compiled, 100, name) for name in matching} == dict.fromkeys(matching, 5)
    assert {name: get_capacity(compiled, 100, name) for name in others} == dict.fromkeys(others, 100)


def test_regexes_are_anchored_at_the_start_only_and_keep_their_flags():
    compiled = compile_capacities({re.compile("abc", re.IGNORECASE): 5})
    assert get_capacity(compiled, 100, "ABCdef") == 5
    assert get_capacity(compiled, 100, "xabc") == 100


def test_subclasses_of_mapping_str_and_int_are_accepted():
    class Text(str):
        pass

    class Number(int):
        pass

    [(pattern, capacity)] = compile_capacities(MappingProxyType({Text("a*"): Number(3)}))
    assert pattern.match("abc")
    assert (type(capacity), capacity) == (int, 3)


@pytest.mark.parametrize("option", [[("a", 1)], "a", 5, {"a"}, True])
def test_an_option_that_is_not_a_dict_is_refused(option):
    with pytest.raises(TypeError, match=r"^channel_capacity must be a dict .* not an? \w+$"):
        compile_capacities(option)


@pytest.mark.parametrize(
    ("key", "expected_text"),
    [
        (re.compile(rb"^http"), r"^the regex b'\^http' in channel_capacity is a bytes pattern"),
        (b"http.*", r"^the pattern b'http\.\*' in channel_capacity is a bytes; it must be a str, .* regex"),
        (17, r"^the pattern 17 in channel_capacity is an int; it must be"),
        (None, r"^the pattern None in channel_capacity is a NoneType; it must be"),
        (("a", "b"), r"^the pattern \('a', 'b'\) in channel_capacity is a tuple; it must be"),
    ],
)
def test_patterns_of_other_types_are_refused(key, expected_text):
    with pytest.raises(TypeError, match=expected_text):
        compile_capacities({"a": 1, key: 10})


@pytest.mark.parametrize("capacity", [True, False, 1.0, "10", None, (10,), b"1"])
@pytest.mark.parametrize("key", ["http.*", re.compile("http.*")])
def test_capacities_of_other_types_are_refused(key, capacity):
    with pytest.raises(TypeError, match=r"^the capacity of 'http\.\*' in .* be a positive int$") as caught:
        compile_capacities({"a": 1, key: capacity})
    assert repr(capacity) in str(caught.value)
    assert type(capacity).__name__ in str(caught.value)


@pytest.mark.parametrize("capacity", [0, -1, -(10**30)])
def test_capacities_below_one_are_refused(capacity):
    with pytest.raises(ValueError, match=rf"^the capacity of 'http' in .* is {capacity}; .* at least 1$"):
        compile_capacities({"a": 1, "http": capacity})


def test_an_invalid_glob_is_a_clear_error_or_matches_nothing():
    # Some versions of fnmatch turn a reversed range into a regex that re rejects.
    try:
        compiled = compile_capacities({"[z-a]": 5})
    except ValueError as error:
        assert "the glob '[z-a]' in channel_capacity" in str(error)
    else:
        assert get_capacity(compiled, 100, "b") == 100
