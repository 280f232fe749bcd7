"""
The exceptions that asgi_ipc raises.

There are two families. ``ChannelFull`` and ``MessageTooLarge`` are the refusals that the ASGI draft defines:
the layer works, but cannot take this one message, and nothing was changed. ``SegmentError`` and its
subclasses report a problem with the shared memory itself.

Rules for every class here:

- Its arguments are kept as attributes, so that a program need not parse the text.
- ``str()`` is made from the attributes and says what happened and how to fix it.
- ``args`` holds what the constructor took, in its order. So an exception can cross a process boundary: pickle
  and copy construct it again from ``args`` and get an equal one.

Invalid names, messages and options are programming errors, and raise plain ``TypeError`` and ``ValueError``.
"""

from __future__ import annotations

__all__ = [
    "ChannelFull",
    "GroupStoreFull",
    "MemoryFull",
    "MessageTooLarge",
    "SegmentBusy",
    "SegmentCorrupt",
    "SegmentError",
    "SegmentGone",
    "SegmentMismatch",
    "SegmentRefused",
    "TooManyProcesses",
]

import reprlib

#: The most characters of a value that an error shows: more than any valid name has.
_SHOWN = 120

_REASONS = ("memory", "filesystem")
_FILESYSTEM_FULL = (
    "the file system that backs shared memory (usually /dev/shm) is full; make it larger "
    "(mount -o remount,size=..., or --shm-size for Docker), or remove other files from it"
)


def short_repr(value: object) -> str:
    """Return ``repr(value)`` for an error text, shortened in the middle if it is long. Never raises."""
    shortener = reprlib.Repr()
    shortener.maxstring = shortener.maxother = shortener.maxlong = _SHOWN
    try:
        return shortener.repr(value)
    except Exception:  # such as the repr of an int with thousands of digits
        return f"<{a_type(value)}>"


def a_type(value: object) -> str:
    """Return the type of ``value`` for an error text, as in "an int" or "a datetime.datetime"."""
    kind = type(value)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return f"an {name}" if name[0] in "aeioAEIO" else f"a {name}"


def _check_reason(reason: str) -> None:
    """Raise ValueError for a misspelt reason, which would produce wrong advice."""
    if reason not in _REASONS:
        raise ValueError(f'reason must be "memory" or "filesystem", not {short_repr(reason)}')


class Refusal(Exception):
    """
    The layer works, but cannot take this one message.

    With this class between them and Exception, its subclasses can get a second base: the classes with the
    same names in Channels (see ``aio``).
    """


class ChannelFull(Refusal):
    """
    A message was refused because its channel is at capacity (ASGI draft). Nothing was queued.

    Attributes:
        channel: The name of the channel.
        count: The number of messages that wait in the channel. None in the subclasses.
        capacity: The number of messages that the channel can hold. None in the subclasses.
    """

    channel: str
    count: int | None
    capacity: int | None

    def __init__(self, channel: str, count: int, capacity: int) -> None:
        Exception.__init__(self, channel, count, capacity)
        self.channel = channel
        self.count = count
        self.capacity = capacity

    def __str__(self) -> str:
        return (
            f"channel {short_repr(self.channel)} is full: {self.count} messages wait in it, and its capacity is "
            f"{self.capacity}; receive from it faster, or raise capacity (or channel_capacity, for this channel alone)"
        )


class MemoryFull(ChannelFull):
    """
    A message was refused because there is no memory left for it. Nothing was queued.

    Attributes:
        channel: The name of the channel.
        segment: The name of the message segment.
        size: The size of the segment, in bytes.
        used: How many of these bytes are in use.
        reserved: How many of these bytes the system has reserved for the segment.
        reason: ``"memory"`` if the segment is full, ``"filesystem"`` if the file system that contains it is full.
    """

    def __init__(self, channel: str, segment: str, size: int, used: int, reserved: int, reason: str) -> None:
        _check_reason(reason)
        Exception.__init__(self, channel, segment, size, used, reserved, reason)
        self.channel = channel
        self.count = None
        self.capacity = None
        self.segment = segment
        self.size = size
        self.used = used
        self.reserved = reserved
        self.reason = reason

    def __str__(self) -> str:
        opening = f"no memory left for a message to channel {short_repr(self.channel)}: "
        taken = (
            f"{self.used} of {self.size} bytes of shared memory segment {self.segment} are in use "
            f"({self.reserved} are reserved)"
        )
        if self.reason == "filesystem":
            return f"{opening}{taken}, and {_FILESYSTEM_FULL}"
        return (
            f"{opening}{taken}; receive faster, or give the layer a larger message_memory, which takes "
            "effect when the segments are created again (unlink them first)"
        )


class GroupStoreFull(ChannelFull):
    """
    A channel could not be added to a group because there is no memory left. Nothing was added.

    Attributes:
        group: The name of the group.
        channel: The name of the channel.
        segment: The name of the group segment.
        size: The size of the segment, in bytes.
        reason: ``"memory"`` if the segment is full, ``"filesystem"`` if the file system that contains it is full.
    """

    def __init__(self, group: str, channel: str, segment: str, size: int, reason: str) -> None:
        _check_reason(reason)
        Exception.__init__(self, group, channel, segment, size, reason)
        self.group = group
        self.channel = channel
        self.count = None
        self.capacity = None
        self.segment = segment
        self.size = size
        self.reason = reason

    def __str__(self) -> str:
        opening = f"no memory left to add channel {short_repr(self.channel)} to group {short_repr(self.group)}: "
        if self.reason == "filesystem":
            return f"{opening}{_FILESYSTEM_FULL} (shared memory segment {self.segment}, {self.size} bytes)"
        return (
            f"{opening}the {self.size} bytes of shared memory segment {self.segment} are used up; "
            "shorten group_expiry or discard members, or give the layer a larger group_memory, which takes "
            "effect when the segments are created again (unlink them first)"
        )


class MessageTooLarge(Refusal):
    """
    A message was refused because it is larger than the limit, even for an empty channel (ASGI draft).

    Attributes:
        size: The size of the encoded message, in bytes.
        limit: The largest size that is accepted, in bytes.
        channel: The name of the channel, or None if it is not known.
    """

    def __init__(self, size: int, limit: int, channel: str | None = None) -> None:
        Exception.__init__(self, size, limit, channel)
        self.size = size
        self.limit = limit
        self.channel = channel

    def __str__(self) -> str:
        target = "" if self.channel is None else f" for channel {short_repr(self.channel)}"
        return (
            f"a message of {self.size} bytes{target} is too large: the limit is {self.limit} bytes; "
            "send it in pieces, raise message_limit, or send a reference to the data instead"
        )


class SegmentError(Exception):
    """
    The shared memory cannot be used. This is the base class of the exceptions below.

    Attributes:
        segment: The name of the segment.
        why: What is wrong and, if known, how to fix it.
    """

    _opening = "cannot be used"

    def __init__(self, segment: str, why: str) -> None:
        super().__init__(segment, why)
        self.segment = segment
        self.why = why

    def __str__(self) -> str:
        return f"{self.segment} {self._opening}: {self.why}"


class SegmentRefused(SegmentError):
    """
    A segment, or one of its semaphores or FIFOs, cannot be trusted or used. It is not changed.

    It belongs to another user, other users may write to it, the file system has no room for it, or another copy of the
    package in this process uses it.

    Attributes:
        segment: The name of the segment.
        why: What is wrong and, if known, how to fix it.
    """


class SegmentMismatch(SegmentError):
    """
    This version of asgi_ipc cannot use the segment.

    The segment has another layout or byte order, is damaged or truncated, or was created by asgi_ipc 1.x or
    another program.

    Attributes:
        segment: The name of the segment.
        why: What is wrong and how to fix it.
    """

    _opening = "cannot be used by this version of asgi_ipc"


class SegmentCorrupt(SegmentError):
    """
    The contents of a segment are damaged: something other than asgi_ipc wrote to it.

    Attributes:
        segment: The name of the segment.
        why: What is damaged, and what was done about it.
    """

    _opening = "contains damaged data"


class SegmentBusy(SegmentError):
    """
    The process that holds a segment has been stopped (SIGSTOP, a debugger) for too long.

    Attributes:
        segment: The name of the segment.
        pid: The id of the process, or None if it is not known or in another PID namespace.
        seconds: How many seconds this process waited for it.
        why: What is wrong and how to fix it.
    """

    _opening = "is busy"

    def __init__(self, segment: str, pid: int | None, seconds: float) -> None:
        super(SegmentError, self).__init__(segment, pid, seconds)
        self.segment = segment
        self.pid = pid
        self.seconds = seconds
        if pid is None:
            self.why = (
                f"a process in another PID namespace (another container) has held it for {seconds:.1f} s "
                "without progress; look there for a stopped process, and resume it with SIGCONT or end "
                "it with SIGKILL"
            )
        else:
            self.why = (
                f"process {pid} has held it for {seconds:.1f} s without progress, so it is stopped "
                f"(SIGSTOP, a debugger); resume it with kill -CONT {pid}, or end it with kill -KILL {pid}"
            )


class TooManyProcesses(SegmentError):
    """
    The maximum number of processes already uses the segment.

    Attributes:
        segment: The name of the segment.
        limit: The number of processes that can use one prefix at the same time.
        why: What is wrong and how to fix it.
    """

    _opening = "has no slot left for this process"

    def __init__(self, segment: str, limit: int) -> None:
        super(SegmentError, self).__init__(segment, limit)
        self.segment = segment
        self.limit = limit
        self.why = (
            f"{limit} processes already use this prefix, which is the maximum; end some of them, or use "
            "different prefixes for processes that do not exchange messages"
        )


class SegmentGone(SegmentError):
    """
    A segment was removed while this process used it. The layers catch this exception and use a new segment.

    Attributes:
        segment: The name of the segment.
        why: What is wrong and how to fix it.
    """

    _opening = "is gone"

    def __init__(self, segment: str) -> None:
        super(SegmentError, self).__init__(segment)
        self.segment = segment
        self.why = (
            "it was removed while in use, and its contents are lost; try again to create or attach to a new "
            "one (if it was not removed on purpose, look for the cause, such as systemd's RemoveIPC)"
        )
