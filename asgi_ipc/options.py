"""
The options that every front end takes, and their checks.

They are checked before any object is created. Each error names the option.
"""

from __future__ import annotations

__all__ = ["MIB", "MIN_MEMORY", "MODES", "Options", "check_options", "check_seconds"]

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .capacity import compile_capacities
from .exceptions import short_repr

MIB = 1024 * 1024
#: The smallest segment, in bytes. Its fixed parts take about 30 KiB.
MIN_MEMORY = 64 * 1024
MAX_MEMORY = 2**46
#: Names of shared memory objects have at most 31 characters on macOS and 255 elsewhere; up to 40 are added to
#: a prefix.
MAX_PREFIX = 20 if sys.platform == "darwin" else 200
PREFIX = re.compile(r"[A-Za-z0-9._-]+", re.ASCII)
#: The permissions that the shared memory can have. Whoever may open it must be able to read and write. A user who may
#: only read could hold read locks on its bytes, and these look like proofs of life of dead processes.
MODES = (0o600, 0o660, 0o666)
#: Seconds. More than a hundred years is a mistake, and would not fit into 64 bits of nanoseconds.
MAX_SECONDS = 3.2e9

Capacities = list[tuple[re.Pattern[str], int]]


@dataclass(frozen=True)
class Options:
    """Checked options: sizes in bytes, times in seconds, ``capacities`` compiled."""

    prefix: str
    expiry: float
    group_expiry: float
    capacity: int
    capacities: Capacities
    message_memory: int
    group_memory: int
    mode: int
    message_limit: int | None
    patience: float


def check_options(
    *,
    prefix: Any,
    expiry: Any,
    group_expiry: Any,
    capacity: Any,
    channel_capacity: Mapping[Any, Any] | None,
    message_memory: Any,
    group_memory: Any,
    mode: Any,
    message_limit: Any,
    patience: Any,
) -> Options:
    """Return the checked options. The first invalid one raises ``TypeError`` or ``ValueError``, which names it."""
    return Options(
        prefix=_prefix(prefix),
        expiry=check_seconds("expiry", expiry),
        group_expiry=check_seconds("group_expiry", group_expiry),
        capacity=_whole("capacity", capacity, 1, sys.maxsize),
        capacities=compile_capacities(channel_capacity),
        message_memory=_memory("message_memory", message_memory),
        group_memory=_memory("group_memory", group_memory),
        mode=_mode(mode),
        message_limit=None if message_limit is None else _whole("message_limit", message_limit, 1, MAX_MEMORY),
        patience=check_seconds("patience", patience),
    )


def _prefix(prefix: Any) -> str:
    if not isinstance(prefix, str):
        raise TypeError(f"prefix must be a str, not {short_repr(prefix)}")
    if not PREFIX.fullmatch(prefix) or len(prefix) > MAX_PREFIX:
        raise ValueError(
            f"prefix {short_repr(prefix)} is not valid: it must be 1 to {MAX_PREFIX} ASCII letters, "
            "digits, hyphens, underscores and periods (no slash)"
        )
    return str(prefix)


def check_seconds(name: str, value: Any) -> float:
    """
    Return ``value``, a number of seconds above 0, as a float.

    Raises ``TypeError`` or ``ValueError``, which names the option ``name``.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number of seconds, not {short_repr(value)}")
    if not 0 < value <= MAX_SECONDS:  # also false for NaN
        raise ValueError(f"{name} must be more than 0 seconds and at most {MAX_SECONDS:.0f}, not {short_repr(value)}")
    return float(value)


def _whole(name: str, value: Any, least: int, most: int, unit: str = "") -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, not {short_repr(value)}")
    if not least <= value <= most:
        raise ValueError(f"{name} must be between {least} and {most}{unit}, not {short_repr(value)}")
    return int(value)


def _memory(name: str, value: Any) -> int:
    size = _whole(name, value, MIN_MEMORY, MAX_MEMORY, " bytes")
    return size + -size % 4096  # whole pages


def _mode(mode: Any) -> int:
    value = _whole("mode", mode, 0, 0o777)
    if value not in MODES:
        raise ValueError(
            "mode must be 0o600 (only this user), 0o660 (also the users of its group) or 0o666 (all users), "
            f"not {value:#o}: a user who may open the shared memory must be able to read and write"
        )
    return value
