"""
Every error that asgi_ipc raises of its own accord.

Two families. `ChannelFull` and `MessageTooLarge` are the refusals that the ASGI draft knows: the layer works,
this one message cannot be taken, nothing was changed. `SegmentError` and its subclasses say that something is
wrong with the shared memory itself.

Rules for every class here:

- Its arguments are kept as attributes, so that a program need not read the text.
- `str()` is made from the attributes and says what happened and what mends it.
- `args` holds what the constructor took, in its order. That is what lets an error cross a process boundary:
  pickle and copy build it anew from `args` and get an equal one.

Wrong names, wrong messages and wrong options are programming mistakes, and plain `TypeError` and
`ValueError`.
"""

from __future__ import annotations

import reprlib

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

_SHOWN = 120
"""The most characters of a value that an error shows: more than any name that is valid."""

_REASONS = ("memory", "filesystem")
_FILESYSTEM_FULL = (
    "the file system that backs shared memory (usually /dev/shm) is full; make it larger "
    "(mount -o remount,size=..., or --shm-size for Docker), or remove what else fills it"
)


def short_repr(value: object) -> str:
    """`repr(value)` for an error message: cut in the middle when it is long, and never an error itself."""
    shortener = reprlib.Repr()
    shortener.maxstring = shortener.maxother = shortener.maxlong = _SHOWN
    try:
        return shortener.repr(value)
    except Exception:  # Python refuses the repr of an int of thousands of digits, for one
        return f"<{a_type(value)}>"


def a_type(value: object) -> str:
    """The type of `value` for an error message, as in "an int" or "a datetime.datetime"."""
    kind = type(value)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return f"an {name}" if name[0] in "aeioAEIO" else f"a {name}"


def _check_reason(reason: str) -> None:
    """A misspelt reason would tell the user to mend the wrong thing."""
    if reason not in _REASONS:
        raise ValueError(f'reason must be "memory" or "filesystem", not {short_repr(reason)}')


class Refusal(Exception):
    """
    The layer works, but cannot take this one message.

    It stands between its subclasses and Exception so that they can be given another base beside it: the classes of the
    same names that Channels has (see `aio`).
    """


class ChannelFull(Refusal):
    """
    A message was refused because its channel is at capacity (ASGI draft). Nothing was queued.

    Attributes: `channel`, its name; `count`, the messages that wait in it; `capacity`, how many may. Both
    numbers are None in the subclasses, where it is not the count that refused the message.
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
            f"{self.capacity}; receive from it faster, or raise capacity (or channel_capacity, for it alone)"
        )


class MemoryFull(ChannelFull):
    """
    A message was refused because there is no memory left for it. Nothing was queued.

    Attributes: `channel`; `segment`, the name of the message segment; `size`, the bytes that the segment may
    hold; `used`, the bytes taken of them; `reason`, "memory" when the segment is used up, "filesystem" when
    the file system behind it is.
    """

    def __init__(self, channel: str, segment: str, size: int, used: int, reason: str) -> None:
        _check_reason(reason)
        Exception.__init__(self, channel, segment, size, used, reason)
        self.channel = channel
        self.count = None
        self.capacity = None
        self.segment = segment
        self.size = size
        self.used = used
        self.reason = reason

    def __str__(self) -> str:
        opening = f"no memory left for a message to channel {short_repr(self.channel)}: "
        taken = f"{self.used} of {self.size} bytes of shared memory segment {self.segment} are used"
        if self.reason == "filesystem":
            return f"{opening}{taken}, and {_FILESYSTEM_FULL}"
        return (
            f"{opening}{taken}; receive faster, or give the layer a larger message_memory, which takes "
            "effect when the segments are made anew (unlink them first)"
        )


class GroupStoreFull(ChannelFull):
    """
    A channel could not be added to a group because there is no memory left for it. Nothing was added.

    Attributes: `group` and `channel`; `segment`, the name of the group segment; `size`, the bytes that it may
    hold; `reason`, "memory" when the segment is used up, "filesystem" when the file system behind it is.
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
            "effect when the segments are made anew (unlink them first)"
        )


class MessageTooLarge(Refusal):
    """
    A message was refused because it can never be taken, however empty the channel is (ASGI draft).

    Attributes: `size`, the bytes of the encoded message; `limit`, the most that are taken; `channel`, or None
    where it is not known.
    """

    def __init__(self, size: int, limit: int, channel: str | None = None) -> None:
        Exception.__init__(self, size, limit, channel)
        self.size = size
        self.limit = limit
        self.channel = channel

    def __str__(self) -> str:
        target = "" if self.channel is None else f" for channel {short_repr(self.channel)}"
        return (
            f"a message of {self.size} bytes{target} is too large, the limit is {self.limit} bytes; "
            "send it in pieces, give the layer a larger limit, or pass on where the data is stored instead"
        )


class SegmentError(Exception):
    """
    Something is wrong with shared memory; base of all that can be.

    Attributes: `segment`, the name of the segment (or of the semaphore or FIFO beside it); `why`, what is
    wrong and what mends it, where the raiser says so.
    """

    _opening = "cannot be used"

    def __init__(self, segment: str, why: str) -> None:
        super().__init__(segment, why)
        self.segment = segment
        self.why = why

    def __str__(self) -> str:
        return f"{self.segment} {self._opening}: {self.why}"


class SegmentRefused(SegmentError):
    """A segment, semaphore or FIFO belongs to someone else, or others may write to it: it is not touched."""

    _opening = "is refused"


class SegmentMismatch(SegmentError):
    """A segment is not one that this version can read: other layout or byte order, cut short, or not ours."""

    _opening = "does not fit this version of asgi_ipc"


class SegmentCorrupt(SegmentError):
    """The contents of a segment were found broken: something other than asgi_ipc wrote to it."""

    _opening = "holds broken data"


class SegmentBusy(SegmentError):
    """
    The process that holds a segment has been stopped (SIGSTOP, a debugger) for too long.

    Attributes: `segment`; `pid`, or None when the holder lives in another PID namespace; `seconds`, for how
    long.
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
                "without getting on; look there for a stopped process, and let it go on with SIGCONT or end "
                "it with SIGKILL"
            )
        else:
            self.why = (
                f"process {pid} has held it for {seconds:.1f} s without getting on, so it is stopped "
                f"(SIGSTOP, a debugger); let it go on with kill -CONT {pid}, or end it with kill -KILL {pid}"
            )


class TooManyProcesses(SegmentError):
    """
    Every slot for a process is taken.

    Attributes: `segment`; `limit`, the number of processes that may use one prefix at a time.
    """

    _opening = "has no slot left for this process"

    def __init__(self, segment: str, limit: int) -> None:
        super(SegmentError, self).__init__(segment, limit)
        self.segment = segment
        self.limit = limit
        self.why = (
            f"{limit} processes use this prefix already, and no more may; end some of them, or let those "
            "that need not talk to each other use different prefixes"
        )


class SegmentGone(SegmentError):
    """
    A segment was unlinked while this process used it. Inside the package this is the sign to attach anew.

    Attribute: `segment`.
    """

    _opening = "is gone"

    def __init__(self, segment: str) -> None:
        super(SegmentError, self).__init__(segment)
        self.segment = segment
        self.why = (
            "it was removed while in use, and what waited in it is lost; try again, and a new one is made or "
            "attached to (if nobody removed it on purpose, look for what does, as systemd's RemoveIPC)"
        )
