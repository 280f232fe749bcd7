"""
What both front ends share: they check names, encode and decode messages, and have two stores.

The synchronous front end (``core``) also calls the stores here.  The asynchronous one (``aio``) has stores that do not
wait, and calls them so that its event loop can wait (``waiting.asyncio_loop``).  No call holds the mutexes of both
stores at once: an operation on both stores is atomic in each of them.
"""

from __future__ import annotations

__all__ = ["Layer", "Message", "corrupt_error"]

import logging
import random
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, Dict

from . import capacity as capacities
from . import clock, codec, exceptions, names
from .locking.liveness import NO_OWNER
from .memo import Memo
from .options import check_options
from .stores.groups.store import GroupStore
from .stores.messages.receiving import Taken
from .stores.messages.store import MessageStore
from .waiting.hubs import Hubs
from .waiting.loop_turns import LoopTurns

logger = logging.getLogger("asgi_ipc")

#: The number of names for which a layer remembers the check and the capacity.
REMEMBERED = 16384
#: Seconds between two log lines about full members of one group.
LOG_PERIOD = 1.0

Message = Dict[str, Any]


def corrupt_error(store: str, channel: str, error: ValueError) -> exceptions.SegmentCorrupt:
    """Return the error for bytes that were taken from a store and cannot be decoded."""
    why = f"a message in channel {channel!r} could not be decoded and was dropped: {error}"
    return exceptions.SegmentCorrupt(store, why)


class Layer:
    """
    A channel layer that never waits for a message. It takes the options that ``check_options`` checks.

    Without ``waits``, its stores are those of event loops: they raise ``WouldBlock``.
    """

    def __init__(self, waits: bool = True, **given: Any) -> None:
        options = check_options(**given)
        self.prefix = options.prefix
        self.expiry: float = given["expiry"]
        self.group_expiry: float = given["group_expiry"]
        self.capacity = options.capacity
        self.channel_capacity = options.capacities
        self._patience = options.patience
        self._open_messages = partial(
            MessageStore,
            options.prefix,
            options.message_memory,
            options.expiry,
            options.mode,
            options.patience,
            options.message_limit,
        )
        self.message_store = self._open_messages(waits=waits)
        self.group_store = GroupStore(
            options.prefix,
            self.message_store,
            options.group_memory,
            options.group_expiry,
            options.mode,
            options.patience,
            waits=waits,
        )
        #: What waits for messages in event loops (``open_hubs``).
        self.hubs: Hubs | None = None
        self._capacities: Memo[str, int] = Memo(REMEMBERED)
        #: For each valid name to receive from: what ``check_names`` returns for a list of only that name.
        self._receivable: Memo[str, tuple[str]] = Memo(REMEMBERED)
        self.find_capacity, self._find_receivable = self._capacities.get, self._receivable.get
        self._draw = random.Random().random  # its own generator: does not disturb one that the program has seeded
        self._logged: Memo[str, float] = Memo(REMEMBERED)

    def get_capacity(self, channel: str) -> int:
        """
        Return how many messages a channel can hold.

        Arguments:
            channel: The full name of the channel.

        Returns:
            The capacity for the first pattern in ``channel_capacity`` that matches the name, or ``capacity``.
        """
        return capacities.get_capacity(self.channel_capacity, self.capacity, channel)

    def open_hubs(self) -> Hubs:
        """
        Set and return ``hubs``.

        A store that waits would block the threads of event loops, so then they get another one. Both use the same
        attachment, so opening it needs no mutex.
        """
        store = self.message_store
        store.sections.opened()
        if store.sections.waits:
            store = self._open_messages(waits=False)
        hubs = Hubs(store, LoopTurns(store.name, self._patience))
        self.hubs = self.__dict__.setdefault("_first_hubs", hubs)  # another thread may do the same
        if self.hubs is not hubs:
            store.close()
        if self.message_store.sections.attachment is None:  # another thread has closed the layer meanwhile
            self.close()
        return self.hubs

    def __repr__(self) -> str:
        return f"{type(self).__name__}(prefix={self.prefix!r})"

    # -- messages ---------------------------------------------------------------------------------------------

    def send(self, channel: str, message: Message) -> None:
        """
        Send a message to a channel (ASGI draft, ``send``).

        When this returns, every process with the same prefix can receive the message. This does not wait until a
        full channel has room: it raises ``ChannelFull``. After each of the errors below, the message is not in the
        channel.

        Arguments:
            channel: The full name of the channel, including the part after a ``!`` or ``?``.
            message: A dict with ``str`` keys. It can hold ``bytes``, ``str``, ``int`` (64 bits), ``float``, ``bool``,
                None, and lists, tuples and dicts of these, in at most 100 levels. Tuples arrive as lists.

        Raises:
            ChannelFull: The channel is at capacity, or there is no memory left (its subclass ``MemoryFull``).
            MessageTooLarge: The encoded message is larger than ``message_limit``.
            TypeError: The name is not valid, or the message contains a value that cannot be sent. The error says
                where in the message the value is.
        """
        body = codec.encode(message)
        try:
            capacity = self.find_capacity(channel)
        except TypeError:  # it cannot be looked up: the check below raises the error
            capacity = None
        if capacity is None:
            capacity = self.remember_capacity(channel)
        self.message_store.append(channel, capacity, body)

    def remember_capacity(self, channel: str) -> int:
        """Check the name of a channel to send to, and return its capacity."""
        names.valid_channel_name(channel)
        return self._capacities.remember(channel, self.get_capacity(channel))

    def check_names(self, channels: Iterable[str]) -> Sequence[str]:
        """
        Check the channels to receive from, and return them in an order that starves none of them.

        Takes any iterable of names. Never returns the caller's own list, which may change while a receive waits. The
        name of a process-local channel must end at the ``!``. Raises ``TypeError`` for other names.
        """
        try:  # first the most common case: one known name
            if type(channels) is list and len(channels) == 1:
                known = self._find_receivable(channels[0])
                if known is not None:
                    return known
        except TypeError:  # it is not a str and cannot be looked up
            pass
        if isinstance(channels, (str, bytes, bytearray)) or not isinstance(channels, Iterable):
            names.valid_channel_names(channels, receive=True)  # raises an error that says what is wrong
        found = list(channels)
        try:
            all_known = self._receivable.knows(found)
        except TypeError:  # one is not a str and cannot be looked up
            all_known = False
        if not all_known:
            names.valid_channel_names(found, receive=True)
            for name in found:
                self._receivable.remember(name, (name,))
        if len(found) > 1:
            # Start at a random one, so that none is starved. A counter could synchronise with the caller's pattern.
            first = int(self._draw() * len(found))
            found = found[first:] + found[:first]
        return found

    def decode(self, taken: Taken) -> tuple[str, Message]:
        """Return ``(channel, message)`` for bytes taken from the store. Raises ``SegmentCorrupt`` for damaged ones."""
        channel, body = taken
        try:
            return channel, codec.decode(body)
        except ValueError as error:
            raise corrupt_error(self.message_store.name, channel, error) from error

    # -- groups -----------------------------------------------------------------------------------------------

    def group_add(self, group: str, channel: str) -> None:
        """
        Add a channel to a group, or renew its membership (ASGI draft, ``group_add``).

        The membership ends after ``group_expiry`` seconds. That of a process-local channel also ends with the process
        that receives from it, if the layer already knows that process.

        Arguments:
            group: The name of the group.
            channel: The full name of the channel.

        Raises:
            GroupStoreFull: There is no memory left for the membership. This is a subclass of ``ChannelFull``.
            TypeError: A name is not valid.
        """
        names.valid_group_name(group)
        names.valid_channel_name(channel)
        # The membership ends with the process that receives from the channel, if that is already known.
        owner = self.message_store.owner_of(channel) if "!" in channel else NO_OWNER
        self.group_store.add(group, channel, owner)

    def group_discard(self, group: str, channel: str) -> None:
        """
        Remove a channel from a group, if it is a member (ASGI draft, ``group_discard``).

        Arguments:
            group: The name of the group.
            channel: The full name of the channel.

        Raises:
            TypeError: A name is not valid.
        """
        names.valid_group_name(group)
        names.valid_channel_name(channel)
        self.group_store.discard(group, channel)

    def group_channels(self, group: str) -> list[str]:
        """
        Return the members of a group (ASGI draft, ``group_channels``).

        Arguments:
            group: The name of the group.

        Returns:
            The names of its channels, in the order in which they were added, without those of dead processes.

        Raises:
            TypeError: The name is not valid.
        """
        names.valid_group_name(group)
        return self.group_store.channels(group)

    def send_group(self, group: str, message: Message) -> None:
        """
        Send a message to every member of a group (ASGI draft, ``send_group``).

        Members whose channel is full, or for which there is no memory left, do not get the message. Their number is
        logged (logger ``asgi_ipc``, level INFO), at most once a second for each group.

        Arguments:
            group: The name of the group.
            message: As for ``send``.

        Raises:
            MessageTooLarge: The encoded message is larger than ``message_limit``.
            TypeError: The name is not valid, or the message contains a value that cannot be sent.
        """
        names.valid_group_name(group)
        body = codec.encode(message)
        targets = self.with_capacities(self.group_store.channels(group))
        missed = self.message_store.append_each(targets, body)
        self.log_missed(group, len(missed), len(targets))

    def with_capacities(self, channels: Iterable[str]) -> list[tuple[str, int]]:
        """Return pairs of a channel and its capacity."""
        targets = []
        for channel in channels:
            capacity = self._capacities.get(channel)
            targets.append((channel, self.remember_capacity(channel) if capacity is None else capacity))
        return targets

    def log_missed(self, group: str, missed: int, members: int) -> None:
        """Log how many members did not get a message, but not too often."""
        if not missed:
            return
        now = clock.monotonic()
        if now - self._logged.get(group, -LOG_PERIOD) >= LOG_PERIOD:
            self._logged.remember(group, now)
            logger.info("%d of %d channels over capacity in group %s", missed, members, group)

    # -- the layer as a whole ---------------------------------------------------------------------------------

    def flush(self) -> None:
        """Drop all messages and group memberships, for every process with this prefix (ASGI draft, ``flush``)."""
        self.message_store.flush()
        self.group_store.flush()

    def close(self) -> None:
        """
        Release everything that this process holds for the layer. Messages and memberships remain.

        Calling it again has no effect. Every other method that accesses the shared memory raises ``RuntimeError`` from
        then on, and so do receives that are waiting.
        """
        self.message_store.close()
        self.group_store.close()
        if self.hubs is not None:
            self.hubs.store.close()

    def unlink(self) -> None:
        """
        Remove the shared memory, with all messages and memberships.

        This process and others can continue to use the layer: it is then empty.

        Raises:
            SegmentRefused: The shared memory belongs to another user.
        """
        self.message_store.unlink()
        self.group_store.unlink()
