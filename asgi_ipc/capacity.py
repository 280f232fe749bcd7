"""
How many messages a channel may hold.

The default capacity holds for every channel that no pattern matches. Patterns are matched against the full
channel name, local part included, in the order of the dict, and the first that matches wins. The front ends
compile the patterns once; the stores only ever see the number.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping, Sequence
from typing import Any

from .exceptions import a_type, short_repr

__all__ = ["compile_capacities", "get_capacity"]


def compile_capacities(channel_capacity: Mapping[Any, int] | None) -> list[tuple[re.Pattern[str], int]]:
    """
    Make `(regex, capacity)` pairs of the `channel_capacity` option, in the order in which they are to be
    tried.

    `channel_capacity` is a dict or None. A key that is a `str` is a glob (`*`, `?`, `[a-z]`), case-sensitive,
    for the whole name; a key that is a compiled regex is used with its `match`, so it is anchored at the
    start only. A value is a positive int: how many messages such a channel may hold.

    Raises TypeError for keys and values of other types, ValueError for a capacity below 1 and for a glob that
    cannot be read; each names the pattern.
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
    The capacity of the channel named `channel`: that of the first pattern in `compiled` that matches, or
    `default`.

    `compiled` is what `compile_capacities` returned.
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
            raise ValueError(f"the glob {short_repr(key)} in channel_capacity cannot be read: {error}") from error
    if isinstance(key, re.Pattern):
        if isinstance(key.pattern, str):
            return key
        raise TypeError(
            f"the regex {short_repr(key.pattern)} in channel_capacity is made of bytes; "
            "channel names are str, so compile it from a str"
        )
    raise TypeError(
        f"the pattern {short_repr(key)} in channel_capacity is {a_type(key)}; "
        "it must be a str, which is read as a glob, or a compiled regex"
    )


def _checked(key: Any, capacity: object) -> int:
    name = short_repr(key if isinstance(key, str) else key.pattern)
    # True is an int to Python; to whoever wrote it, it is not a number of messages.
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
