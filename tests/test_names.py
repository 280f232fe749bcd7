"""Names: which are valid where, and the texts of the errors."""

from __future__ import annotations

import random
import re
import string

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from asgi_ipc.names import (
    MAX_LENGTH,
    check_full_name,
    check_pattern,
    match_type_and_length,
    non_local_name,
    random_local_part,
    valid_channel_name,
    valid_channel_names,
    valid_group_name,
    valid_stored_name,
)

ALLOWED = set(string.ascii_letters + string.digits + "-_.")


class SafeString(str):
    """Represents the ``str`` subclasses that frameworks use."""


NORMAL = ["a", "http.request", "A-b_c.9", "-", ".", "0", "a" * 99, SafeString("safe")]
LOCAL = ["a!b", "http.response!AbC", "specific.abc!def", "a!-", "!".join(["a" * 49, "b" * 49])]
SINGLE = ["a?b", "http.reply?x_.-9", "a?" + "b" * 97]
INBOXES = ["a!", "http.response!", "a" * 98 + "!"]
PATTERNS = ["a?", "http.reply?"]

# No function accepts any of these.
BROKEN = {
    "empty": ("", "it is empty"),
    "long": ("a" * 100, "it has 100 characters"),
    "very long": ("a" * 1_000_000, "it has 1000000 characters"),
    "long local": ("a!" + "b" * 98, "it has 100 characters"),
    "nothing before !": ("!a", 'nothing before its "!"'),
    "nothing before ?": ("?a", 'nothing before its "?"'),
    "only !": ("!", 'nothing before its "!"'),
    "only ?": ("?", 'nothing before its "?"'),
    "two !": ("a!b!c", 'more than one "!" or "?"'),
    "double !": ("a!!", 'more than one "!" or "?"'),
    "two ?": ("a?b?c", 'more than one "!" or "?"'),
    "both": ("a!b?c", 'more than one "!" or "?"'),
    "both, other order": ("a?b!", 'more than one "!" or "?"'),
    "space": ("a b", "it contains ' '"),
    "slash": ("a/b", "it contains '/'"),
    "local slash": ("a!b/c", "it contains '/'"),
    "final newline": ("abc\n", r"it contains '\n'"),
    "final newline after local part": ("abc!def\n", r"it contains '\n'"),
    "final newline after inbox": ("abc!\n", r"it contains '\n'"),
    "NUL": ("a\0", r"it contains '\x00'"),
    "other digits": ("a\u0663", r"it contains '\u0663'"),
    "other local digits": ("a!\u0663", r"it contains '\u0663'"),
    "other letters": ("\xe4", r"it contains '\xe4'"),
    "other local letters": ("a?\xe4", r"it contains '\xe4'"),
    "combining": ("e\u0301", r"it contains '\u0301'"),
    "surrogate": ("a\ud800", r"it contains '\ud800'"),
    "bytes": (b"abc", "it is a bytes, not a str"),
    "None": (None, "it is a NoneType, not a str"),
    "int": (1, "it is an int, not a str"),
    "list": (["abc"], "it is a list, not a str"),
}
BROKEN_GROUPS = dict(
    BROKEN,
    **{
        "nothing before !": ("!a", "it contains '!'"),
        "nothing before ?": ("?a", "it contains '?'"),
        "only !": ("!", "it contains '!'"),
        "only ?": ("?", "it contains '?'"),
        "two !": ("a!b!c", "it contains '!'"),
        "double !": ("a!!", "it contains '!'"),
        "two ?": ("a?b?c", "it contains '?'"),
        "both": ("a!b?c", "it contains '!'"),
        "both, other order": ("a?b!", "it contains '?'"),
        "local slash": ("a!b/c", "it contains '!'"),
        "final newline after local part": ("abc!def\n", "it contains '!'"),
        "final newline after inbox": ("abc!\n", "it contains '!'"),
        "other local digits": ("a!\u0663", "it contains '!'"),
        "other local letters": ("a?\xe4", "it contains '?'"),
        "inbox": ("a!", "it contains '!'"),
        "pattern": ("a?", "it contains '?'"),
        "local": ("a!b", "it contains '!'"),
        "single-reader": ("a?b", "it contains '?'"),
    },
)


def refusal(call, *arguments):
    """Return the text of the ``TypeError`` that the call must raise."""
    with pytest.raises(TypeError) as caught:
        call(*arguments)
    return str(caught.value)


def is_refusal_of(text, name, why):
    assert why in text
    assert "is a str of 1 to 99 characters, ASCII letters, digits," in text
    assert len(text) < 500
    if not isinstance(name, str) or len(name) <= MAX_LENGTH:
        assert repr(name) in text
    else:
        assert repr(name)[:20] in text
    return True


@pytest.mark.parametrize("name", NORMAL + LOCAL + SINGLE)
def test_valid_names_for_send(name):
    assert valid_channel_name(name) is True
    check_full_name(name)


@pytest.mark.parametrize("name", NORMAL + INBOXES + SINGLE)
def test_valid_names_for_receive(name):
    assert valid_channel_name(name, receive=True) is True


@pytest.mark.parametrize("name", INBOXES + PATTERNS)
def test_inboxes_and_patterns_are_refused_for_send(name):
    expected_text = f'it ends in "{name[-1]}"'
    assert is_refusal_of(refusal(valid_channel_name, name), name, expected_text)
    assert is_refusal_of(refusal(check_full_name, name), name, expected_text)


@pytest.mark.parametrize("name", LOCAL)
def test_channels_of_an_inbox_are_refused_for_receive(name):
    text = refusal(valid_channel_name, name, True)
    assert is_refusal_of(text, name, 'has a local part after its "!"')
    assert repr(str(name[: name.index("!") + 1])) in text


@pytest.mark.parametrize("name", PATTERNS)
def test_patterns_are_refused_for_receive(name):
    assert is_refusal_of(refusal(valid_channel_name, name, True), name, 'it ends in "?"')


@pytest.mark.parametrize(("name", "why"), BROKEN.values(), ids=BROKEN)
def test_broken_channel_names_are_refused(name, why):
    assert is_refusal_of(refusal(valid_channel_name, name), name, why)
    assert is_refusal_of(refusal(valid_channel_name, name, True), name, why)
    assert is_refusal_of(refusal(check_full_name, name), name, why)
    assert is_refusal_of(refusal(check_pattern, name), name, why)
    assert is_refusal_of(refusal(valid_channel_names, ["a", name]), name, why)


@pytest.mark.parametrize("name", NORMAL)
def test_valid_group_names(name):
    assert valid_group_name(name) is True


@pytest.mark.parametrize(("name", "why"), BROKEN_GROUPS.values(), ids=BROKEN_GROUPS)
def test_broken_group_names_are_refused(name, why):
    text = refusal(valid_group_name, name)
    assert is_refusal_of(text, name, why)
    assert text.startswith("group name ")


@pytest.mark.parametrize("pattern", [*PATTERNS, "a" * 74 + "?", SafeString("a?")])
def test_valid_patterns(pattern):
    check_pattern(pattern)
    assert valid_channel_name(pattern + random_local_part())


@pytest.mark.parametrize("pattern", NORMAL + LOCAL + SINGLE + INBOXES)
def test_new_channel_accepts_only_patterns(pattern):
    assert is_refusal_of(refusal(check_pattern, pattern), pattern, 'must end in "?"')


def test_a_pattern_leaves_room_for_the_random_part():
    longest = "a" * (MAX_LENGTH - len(random_local_part()) - 1) + "?"
    check_pattern(longest)
    text = refusal(check_pattern, "a" + longest)
    assert is_refusal_of(text, "a" + longest, f"at most {len(longest)}")


@pytest.mark.parametrize(
    "names",
    [["a", "b!"], ("a", "b!"), {"a", "b!"}, frozenset(("a",)), {"a": 1}, {"a": 1}.keys(), []],
    ids=type,
)
def test_any_iterable_of_names_is_accepted(names):
    assert valid_channel_names(names, receive=True) is True


def test_all_names_of_an_iterator_are_checked():
    assert valid_channel_names(iter(["a", "b"])) is True
    assert "'b c'" in refusal(valid_channel_names, iter(["a", "b c"]))


def test_the_argument_receive_applies_to_each_name():
    assert "'b!'" in refusal(valid_channel_names, ["a", "b!"])
    assert "'b!c'" in refusal(valid_channel_names, ["a", "b!c"], True)
    assert valid_channel_names(["a", "b!c"]) is True


@pytest.mark.parametrize("names", ["abc", SafeString("abc"), "", b"abc", bytearray(b"abc")])
def test_a_single_name_instead_of_a_list_is_refused(names):
    text = refusal(valid_channel_names, names, True)
    assert text.startswith("channels must be a list of channel names, not only ")
    assert repr(names) in text


@pytest.mark.parametrize("names", [None, 1, valid_channel_name])
def test_an_object_that_is_not_iterable_is_refused(names):
    text = refusal(valid_channel_names, names, True)
    assert text.startswith("channels must be a list (or another iterable)")
    assert type(names).__name__ in text


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a", True),
        ("a" * 99, True),
        (SafeString("a"), True),
        ("not a name!!", True),
        ("", False),
        ("a" * 100, False),
        (b"a", False),
        (None, False),
        (["a"], False),
        (1, False),
    ],
)
def test_match_type_and_length(name, expected):
    assert match_type_and_length(name) is expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a", "a"), ("a.b", "a.b"), ("a!b", "a!"), ("a!", "a!"), ("a?b", "a?b"), ("spec.x!y", "spec.x!")],
)
def test_non_local_name(name, expected):
    assert non_local_name(name) == expected


def test_local_parts_use_all_32_symbols():
    parts = [random_local_part() for _ in range(2000)]
    assert len(set(parts)) == len(parts)
    assert {len(part) for part in parts} == {24}
    seen = set("".join(parts))
    # 48,000 characters: the probability that one of 32 symbols is missing, 32 * (31/32)**48000, is about 0.
    assert len(seen) == 32
    assert seen < set(string.ascii_lowercase + string.digits)


def test_local_parts_do_not_depend_on_the_seed_of_random():
    random.seed(1)
    one = random_local_part()
    random.seed(1)
    assert random_local_part() != one


# An independent implementation without regular expressions.
def is_valid(name, receive):
    if not 1 <= len(name) <= 99:
        return False
    marks = [index for index, character in enumerate(name) if character in "!?"]
    if any(character not in ALLOWED and character not in "!?" for character in name) or len(marks) > 1:
        return False
    if not marks:
        return True
    [at] = marks
    if at == 0:
        return False
    ends = at == len(name) - 1
    return not ends if name[at] == "?" or not receive else ends


NEARLY_NAMES = st.one_of(
    st.text(alphabet="aZ09-_.!?", max_size=12),
    st.text(alphabet="aZ09-_.!?\n /\u0663\xe4\u212a", max_size=12),
    st.text(max_size=5),
    st.text(alphabet="a!?", min_size=97, max_size=101),
)


@given(NEARLY_NAMES, st.booleans())
@example("a\n", False)
@example("a!\n", True)
def test_channel_names_against_an_independent_check(name, receive):
    try:
        accepted = valid_channel_name(name, receive)
    except TypeError as error:
        assert "channel name" in str(error)
        accepted = False
    assert accepted == is_valid(name, receive)


def accepts(name: str, receive: bool) -> bool:
    try:
        return valid_channel_name(name, receive)
    except TypeError:
        return False


@given(NEARLY_NAMES)
@example("a!")
@example("a?")
@example("a!b")
@example("a?b\n")
@example("a" * 99)
@example("a" * 100)
def test_stored_names_are_those_that_are_sent_to_or_received_from(name: str) -> None:
    assert valid_stored_name(name.encode()) == (accepts(name, False) or accepts(name, True))


@pytest.mark.parametrize("byte", range(256))
def test_a_stored_name_has_only_the_bytes_of_names(byte: int) -> None:
    allowed = chr(byte) in ALLOWED
    assert valid_stored_name(bytes([byte])) == allowed
    assert valid_stored_name(b"a!" + bytes([byte])) == allowed
    assert valid_stored_name(b"a" + bytes([byte])) == (allowed or byte == ord("!"))


@given(NEARLY_NAMES)
@example("a\n")
def test_group_names_against_an_independent_check(name):
    try:
        accepted = valid_group_name(name)
    except TypeError as error:
        assert "group name" in str(error)
        accepted = False
    assert accepted == (1 <= len(name) <= 99 and set(name) <= ALLOWED)


@given(NEARLY_NAMES)
def test_accepted_patterns_make_valid_names(pattern):
    try:
        check_pattern(pattern)
    except TypeError as error:
        assert "channel name" in str(error)
        assert not re.fullmatch(r"[A-Za-z0-9_.-]{1,74}\?", pattern)
    else:
        assert is_valid(pattern + random_local_part(), False)
