"""
How many messages a channel may hold.

The default capacity applies to every channel that no pattern matches. Patterns are matched against the full
channel name, including the local part, in the order of the dict, and the first match counts. The front ends
compile the patterns once. The stores get only the number.
"""

from __future__ import annotations

__all__ = ["compile_capacities", "get_capacity"]

import fnmatch
import re
from collections.abc import Mapping, Sequence
from typing import Any

from .exceptions import a_type, short_repr


def compile_capacities(channel_capacity: Mapping[Any, int] | None) -> list[tuple[re.Pattern[str], int]]:
    """
    Compile the ``channel_capacity`` option into ``(regex, capacity)`` pairs, in the order to try them.

    ``channel_capacity`` is a dict or None. A key that is a ``str`` is a glob (``*``, ``?``, ``[a-z]``),
    case-sensitive, for the whole name. A key that is a compiled regex is used with its ``match``, so it is
    anchored at the start only. A value is a positive int: how many messages such a channel may hold.

    Raises TypeError for keys and values of other types, and ValueError for a capacity below 1 and for a glob that
    is not valid. The error shows the pattern.
    """
    if channel_capacity is None:
        return []
    if not isinstance(channel_capacity, Mapping):
        raise TypeError(
            "channel_capacity must be a dict of channel name patterns and capacities, or None, "
            f"not {a_type(channel_capacity)}"
        )
    return [(_compile(key), _checked(key, value)) for key, value in channel_capacity.items()]


def get_capacity(compiled: Sequence[tuple[re.Pattern[str], int]], default: int, channel: str) -> int:
    """
    Return the capacity of ``channel``: that of the first pattern that matches, or ``default``.

    ``compiled`` is what ``compile_capacities`` returned.
    """
    for pattern, capacity in compiled:
        if pattern.match(channel):
            return capacity
    return default


def _compile(key: object) -> re.Pattern[str]:
    if isinstance(key, str):
        try:
            return re.compile(fnmatch.translate(key))
        except re.error as error:
            raise ValueError(f"the glob {short_repr(key)} in channel_capacity is not valid: {error}") from error
    if isinstance(key, re.Pattern):
        if isinstance(key.pattern, str):
            return key
        raise TypeError(
            f"the regex {short_repr(key.pattern)} in channel_capacity is a bytes pattern; "
            "channel names are str, so compile it from a str"
        )
    raise TypeError(
        f"the pattern {short_repr(key)} in channel_capacity is {a_type(key)}; "
        "it must be a str, which is a glob, or a compiled regex"
    )


def _checked(key: Any, capacity: object) -> int:
    name = short_repr(key if isinstance(key, str) else key.pattern)
    # A bool is an int in Python, but was not meant as a number of messages.
    if isinstance(capacity, bool) or not isinstance(capacity, int):
        raise TypeError(
            f"the capacity of {name} in channel_capacity is {short_repr(capacity)}, {a_type(capacity)}; "
            "it must be a positive int"
        )
    if capacity < 1:
        raise ValueError(
            f"the capacity of {name} in channel_capacity is {short_repr(int(capacity))}; it must be at least 1"
        )
    return int(capacity)
