"""
Which names channels and groups may have.

A channel name is a ``str`` of 1 to 99 characters: ASCII letters, digits, ``-``, ``_`` and ``.``, with at most
one ``!`` or one ``?``, and at least one character before it. The part after the ``!`` or ``?`` is the local
part:

- ``http.request``: a normal channel. Any process can send to it and receive from it.
- ``websocket.send!abc``: process-local. One process receives from the inbox ``websocket.send!``; ``abc``
  identifies the recipient within that process. (ASGI draft; in Channels 2 and later
  ``specific.<process>!<unique>``.)
- ``reply?abc``: single-reader. One process receives from it.

A group name has the same characters without ``!`` and ``?``.

Every invalid name raises TypeError, as channel layers have always done. The error shows the name and says
what is allowed. Nothing here accesses a store.
"""

from __future__ import annotations

__all__ = [
    "MAX_LENGTH",
    "check_full_name",
    "check_local_prefix",
    "check_pattern",
    "match_type_and_length",
    "non_local_name",
    "process_part",
    "random_local_part",
    "valid_channel_name",
    "valid_channel_names",
    "valid_group_name",
    "valid_stored_name",
]

import os
import re
from collections.abc import Iterable
from typing import NoReturn

from .exceptions import a_type, short_repr

#: The most characters that a name may have (ASGI draft).
MAX_LENGTH = 99

#: Explicit ASCII classes, always used with fullmatch: \d and \w match other scripts too, and $ matches before
#: a final newline.
_PART = r"[A-Za-z0-9\-_.]"
_CHANNEL = re.compile(rf"{_PART}+(?:[!?]{_PART}*)?")
_GROUP = re.compile(rf"{_PART}+")
#: As bytes: a channel that messages can be sent to, or an inbox.
_STORED = re.compile(rf"{_PART}+(?:!{_PART}*|\?{_PART}+)?".encode("ascii"))
_FOREIGN = re.compile(r"[^A-Za-z0-9\-_.]")

_CHARACTERS = 'ASCII letters, digits, "-", "_" and "."'
_CHANNEL_RULE = (
    f"a channel name is a str of 1 to {MAX_LENGTH} characters, {_CHARACTERS}, with at most one "
    '"!" or "?" and something before it'
)
_GROUP_RULE = f"a group name is a str of 1 to {MAX_LENGTH} characters, {_CHARACTERS}"

#: 32 symbols, so that each of them is equally likely for a random byte. l, o, 0 and 1 look alike and are left
#: out.
_SYMBOLS = b"abcdefghijkmnpqrstuvwxyz23456789"
_TO_SYMBOLS = _SYMBOLS * (256 // len(_SYMBOLS))
_RANDOM_LENGTH = 24
#: The asynchronous ``new_channel`` adds a period, the process part, "!" and the local part.
_LONGEST_PREFIX = MAX_LENGTH - 2 - 2 * _RANDOM_LENGTH
_process = ""


def match_type_and_length(name: object) -> bool:
    """True if ``name`` is a ``str`` (or a subclass) of 1 to 99 characters."""
    return isinstance(name, str) and 1 <= len(name) <= MAX_LENGTH


def valid_channel_name(name: str, receive: bool = False) -> bool:
    """
    True if a message can be sent to ``name``; with ``receive``, if the synchronous ``receive`` accepts it.

    A message is sent to a full name, so without ``receive`` a name that ends in ``!`` or ``?`` is not valid.
    The synchronous ``receive`` takes a whole inbox, so with ``receive`` a name may end in ``!`` and must have
    nothing after it. (ASGI draft.)

    Raises TypeError for any other name.
    """
    _check_channel_characters(name)
    if name.endswith("?"):
        _refuse_channel(name, 'it ends in "?"; add the local part, as new_channel does')
    if receive:
        if "!" in name and not name.endswith("!"):
            inbox = short_repr(non_local_name(name))
            _refuse_channel(name, f'it has a local part after its "!"; receive from the whole inbox, {inbox}')
    elif name.endswith("!"):
        _refuse_channel(name, 'it ends in "!", so it is an inbox; add the local part, which names the recipient')
    return True


def valid_channel_names(names: Iterable[str], receive: bool = False) -> bool:
    """
    True if each of ``names`` passes ``valid_channel_name(name, receive)``; True also if there are no names.

    ``names`` is any iterable of names; an iterator is consumed. Raises TypeError for the first name that is
    not valid, for a single name in place of several, and for an object that is not iterable.
    """
    if isinstance(names, (str, bytes, bytearray)):
        raise TypeError(f"channels must be a list of channel names, not only {short_repr(names)}; write [name]")
    try:
        iterator = iter(names)
    except TypeError:
        raise TypeError(
            f"channels must be a list (or another iterable) of channel names, not {a_type(names)}"
        ) from None
    for name in iterator:
        valid_channel_name(name, receive)
    return True


def valid_group_name(name: str) -> bool:
    """True if ``name`` is a group name. Raises TypeError if it is not."""
    if not match_type_and_length(name):
        why = _type_or_length(name)
    elif not _GROUP.fullmatch(name):
        why = f"it contains {_FOREIGN.findall(name)[0]!a}"
    else:
        return True
    raise TypeError(f"group name {short_repr(name)} is not valid: {why}; {_GROUP_RULE}")


def valid_stored_name(name: bytes) -> bool:
    """
    True if a segment may contain a channel with this name: a message can be sent to it, or it is an inbox.

    This is what ``valid_channel_name`` accepts with or without ``receive``. It is one comparison and raises
    nothing, because a recovery checks every name.
    """
    return len(name) <= MAX_LENGTH and _STORED.fullmatch(name) is not None


def check_pattern(pattern: str) -> None:
    """
    Check the argument of the synchronous ``new_channel``: a channel name that ends in ``?`` (ASGI draft).

    Raises TypeError for anything else, and if the random part would make the name too long.
    """
    _check_channel_characters(pattern)
    if not pattern.endswith("?"):
        _refuse_channel(pattern, 'it is not a pattern for new_channel, which must end in "?", as in "reply?"')
    if len(pattern) + _RANDOM_LENGTH > MAX_LENGTH:
        _refuse_channel(
            pattern,
            f"it has {len(pattern)} characters, and a pattern for new_channel may have at most "
            f"{MAX_LENGTH - _RANDOM_LENGTH}, as {_RANDOM_LENGTH} random ones are added",
        )


def check_full_name(name: str) -> None:
    """
    Check the argument of the asynchronous ``receive``: a full name, including the local part.

    Raises TypeError for anything else.
    """
    _check_channel_characters(name)
    if name.endswith(("!", "?")):
        _refuse_channel(name, f'it ends in "{name[-1]}"; receive takes a full name, as new_channel returns it')


def check_local_prefix(prefix: str) -> None:
    """
    Check the argument of the asynchronous ``new_channel``: a name without ``!`` and ``?``.

    Raises TypeError for anything else, and if the parts that are added would make the name too long.
    """
    if not match_type_and_length(prefix):
        why = _type_or_length(prefix)
    elif not _GROUP.fullmatch(prefix):
        why = f"it contains {_FOREIGN.findall(prefix)[0]!a}"
    elif len(prefix) > _LONGEST_PREFIX:
        why = f"it has {len(prefix)} characters"
    else:
        return
    raise TypeError(
        f"channel prefix {short_repr(prefix)} is not valid: {why}; a prefix for new_channel is a str of 1 to "
        f"{_LONGEST_PREFIX} characters, {_CHARACTERS}"
    )


def non_local_name(name: str) -> str:
    """
    Return the part of a channel name that identifies the receiving process: up to and including the ``!``.

    This is the full name for every channel without ``!``, single-reader channels included (ASGI draft).
    ``name`` must be valid.
    """
    head, mark, _ = name.partition("!")
    return head + mark


def process_part() -> str:
    """Return the part of new names that identifies this process: 24 random characters, new after a fork."""
    global _process
    if not _process:
        _process = random_local_part()
    return _process


def _forget_process() -> None:
    global _process
    _process = ""


os.register_at_fork(after_in_child=_forget_process)


def random_local_part() -> str:
    """
    Return a new local part: 24 lower-case letters and digits, 120 bits from the operating system.

    It cannot be guessed, a forked child does not repeat it, and seeding ``random`` has no effect on it.
    """
    return os.urandom(_RANDOM_LENGTH).translate(_TO_SYMBOLS).decode("ascii")


def _check_channel_characters(name: str) -> None:
    if not match_type_and_length(name):
        _refuse_channel(name, _type_or_length(name))
    if not _CHANNEL.fullmatch(name):
        _refuse_channel(name, _why_no_channel(name))


def _why_no_channel(name: str) -> str:
    if name[0] in "!?":
        return f'it has nothing before its "{name[0]}"'
    head, *parts = re.split("[!?]", name)
    foreign = _FOREIGN.findall(head + "".join(parts))
    return f"it contains {foreign[0]!a}" if foreign else 'it has more than one "!" or "?"'


def _type_or_length(name: object) -> str:
    if not isinstance(name, str):
        return f"it is {a_type(name)}, not a str"
    return "it is empty" if not name else f"it has {len(name)} characters"


def _refuse_channel(name: object, why: str) -> NoReturn:
    raise TypeError(f"channel name {short_repr(name)} is not valid: {why}; {_CHANNEL_RULE}")
