"""
What both front ends do without waiting: check names and messages, turn messages into bytes and back, keep two stores.

The front ends (``core``, ``aio``) only add the waiting, so no logic is written twice.  No call here holds both stores'
mutexes at once: what touches both stores is atomic in each.
"""

from __future__ import annotations

__all__ = ["Layer", "Message", "corrupt_error"]

import logging
import random
import time
from collections.abc import Iterable, Sequence
from typing import Any, Dict

from . import capacity as capacities
from . import codec, exceptions, names
from .locking.liveness import NO_OWNER
from .memo import Memo
from .options import check_options
from .stores.groups.store import GroupStore
from .stores.messages.receiving import Taken
from .stores.messages.store import MessageStore
from .waiting.hub import Hubs

logger = logging.getLogger("asgi_ipc")

#: Names whose check and capacity a layer remembers.
REMEMBERED = 16384
#: Seconds between two log lines about full members of one group.
LOG_PERIOD = 1.0

Message = Dict[str, Any]


def corrupt_error(store: str, channel: str, error: ValueError) -> exceptions.SegmentCorrupt:
    """The error for bytes, taken from a store, that are not a message any more."""
    why = f"a message on channel {channel!r} is not a message any more ({error}); it is gone"
    return exceptions.SegmentCorrupt(store, why)


class Layer:
    """
    A channel layer that never waits. Takes all the options of ``IPCChannelLayer`` that ``check_options`` checks.
    """

    def __init__(self, **given: Any) -> None:
        options = check_options(**given)
        self.prefix = options.prefix
        self.expiry: float = given["expiry"]
        self.group_expiry: float = given["group_expiry"]
        self.capacity = options.capacity
        self.channel_capacity = options.capacities
        self.message_store = MessageStore(
            options.prefix,
            options.message_memory,
            options.expiry,
            options.mode,
            options.patience,
            options.message_limit,
        )
        self.group_store = GroupStore(
            options.prefix,
            self.message_store,
            options.group_memory,
            options.group_expiry,
            options.mode,
            options.patience,
        )
        self.hubs = Hubs(self.message_store)
        self._capacities: Memo[str, int] = Memo(REMEMBERED)
        #: For names to receive from, what ``check_names`` returns for each alone.
        self._receivable: Memo[str, tuple[str]] = Memo(REMEMBERED)
        self._find_capacity, self._find_receivable = self._capacities.get, self._receivable.get
        self._draw = random.Random().random  # of our own: a program that seeds its generator is left alone
        self._logged: Memo[str, float] = Memo(REMEMBERED)

    def get_capacity(self, channel: str) -> int:
        """The capacity of a channel: that of the first pattern which matches its full name, or the default."""
        return capacities.get_capacity(self.channel_capacity, self.capacity, channel)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(prefix={self.prefix!r})"

    # -- messages ---------------------------------------------------------------------------------------------

    def send(self, channel: str, message: Message) -> None:
        """
        Put a message into a channel. It is there for every process when this returns (ASGI draft, ``send``).

        Raises ``ChannelFull`` when the channel is at capacity or there is no memory left, ``MessageTooLarge``, and
        ``TypeError`` for a wrong name or a message that cannot be sent, naming what in it. Nothing was queued then.
        """
        body = codec.encode(message)
        try:
            capacity = self._find_capacity(channel)
        except TypeError:  # it cannot even be looked up: the check says what a name is
            capacity = None
        if capacity is None:
            capacity = self._remember(channel)
        self.message_store.append(channel, capacity, body)

    def _remember(self, channel: str) -> int:
        """Check the name of a channel that is sent to, and find its capacity."""
        names.valid_channel_name(channel)
        return self._capacities.remember(channel, self.get_capacity(channel))

    def check_names(self, channels: Iterable[str]) -> Sequence[str]:
        """
        Check the channels to receive from, and return them in the order in which to try them: none is starved.

        Takes any iterable of names, and never returns the caller's own list: it may change while a receive waits. The
        name of a process-local channel must end at the ``!``. Raises ``TypeError`` for others.
        """
        try:  # one known name first: nearly every call has just that
            if type(channels) is list and len(channels) == 1:
                known = self._find_receivable(channels[0])
                if known is not None:
                    return known
        except TypeError:  # it is no str, nor anything else that can be looked up
            pass
        if isinstance(channels, (str, bytes, bytearray)) or not isinstance(channels, Iterable):
            names.valid_channel_names(channels, receive=True)  # raises, and says what is wrong
        found = list(channels)
        try:
            all_known = self._receivable.knows(found)
        except TypeError:  # one is no str, nor anything else that can be looked up
            all_known = False
        if not all_known:
            names.valid_channel_names(found, receive=True)
            for name in found:
                self._receivable.remember(name, (name,))
        if len(found) > 1:
            # The first one is drawn, so that none is starved. A count could fall into step with the caller's rhythm.
            first = int(self._draw() * len(found))
            found = found[first:] + found[:first]
        return found

    def decode(self, taken: Taken) -> tuple[str, Message]:
        """What was taken from the store: ``(channel, message)``. Raises ``SegmentCorrupt`` if its bytes are damaged."""
        channel, body = taken
        try:
            return channel, codec.decode(body)
        except ValueError as error:
            raise corrupt_error(self.message_store.name, channel, error) from error

    # -- groups -----------------------------------------------------------------------------------------------

    def group_add(self, group: str, channel: str) -> None:
        """
        Make a channel a member of a group for ``group_expiry`` seconds from now (ASGI draft, "Groups").

        Raises ``TypeError`` for wrong names and ``GroupStoreFull`` (a ``ChannelFull``) when there is no memory for it.
        """
        names.valid_group_name(group)
        names.valid_channel_name(channel)
        # The membership ends with the process that receives from the channel, if it is known by now.
        owner = self.message_store.owner_of(channel) if "!" in channel else NO_OWNER
        self.group_store.add(group, channel, owner)

    def group_discard(self, group: str, channel: str) -> None:
        """End a channel's membership in a group; nothing happens if it is no member. ``TypeError`` for wrong names."""
        names.valid_group_name(group)
        names.valid_channel_name(channel)
        self.group_store.discard(group, channel)

    def group_channels(self, group: str) -> list[str]:
        """The names of a group's members. ``TypeError`` for a wrong name."""
        names.valid_group_name(group)
        return self.group_store.channels(group)

    def send_group(self, group: str, message: Message) -> None:
        """
        Send a message to every member of a group (ASGI draft, ``send_group``).

        Members whose channel is full are skipped, and logged. Raises ``TypeError`` and ``MessageTooLarge`` as ``send``
        does.
        """
        names.valid_group_name(group)
        body = codec.encode(message)
        targets = []
        for channel in self.group_store.channels(group):
            capacity = self._capacities.get(channel)
            targets.append((channel, self._remember(channel) if capacity is None else capacity))
        missed = self.message_store.append_each(targets, body)
        if missed:
            self._log_missed(group, len(missed), len(targets))

    def _log_missed(self, group: str, missed: int, members: int) -> None:
        now = time.monotonic()
        if now - self._logged.get(group, -LOG_PERIOD) >= LOG_PERIOD:
            self._logged.remember(group, now)
            logger.info("%d of %d channels over capacity in group %s", missed, members, group)

    # -- the layer as a whole ---------------------------------------------------------------------------------

    def flush(self) -> None:
        """Drop every message and every group membership, for every process with this prefix (ASGI draft, "Flush")."""
        self.message_store.flush()
        self.group_store.flush()

    def close(self) -> None:
        """Give back all that this process holds for the layer. Any other call after this one is a ``RuntimeError``."""
        self.message_store.close()
        self.group_store.close()

    def unlink(self) -> None:
        """Remove the shared memory for every process. Those that go on, this one too, begin with an empty layer."""
        self.message_store.unlink()
        self.group_store.unlink()
