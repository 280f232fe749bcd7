"""
``IPCChannelLayer``: the synchronous channel layer, as the ASGI draft and asgi_ipc 1.x describe it.

The face checks names and messages, turns messages into bytes and back, and composes two stores that do the rest.  No
call here takes both stores' guards: what touches both is atomic in each.
"""

from __future__ import annotations

__all__ = ["IPCChannelLayer"]

import logging
import random
import time
import warnings
from collections.abc import Iterable as IterableType
from types import TracebackType
from typing import Any, Dict, Iterable, List, Mapping, Optional, Set, Tuple, Type

from . import capacity as capacities
from . import codec, exceptions, names
from .options import MIB, check_options
from .statistics import Rates
from .stores.groups import GroupStore
from .stores.messages import MessageStore

logger = logging.getLogger("asgi_ipc")

#: Names whose check and capacity a layer remembers; past this it forgets them all and begins anew.
REMEMBERED = 16384
#: Seconds between two log lines about full members of one group.
LOG_PERIOD = 1.0

Message = Dict[str, Any]


class IPCChannelLayer:
    """
    A channel layer in POSIX shared memory. Layers with one ``prefix`` talk to each other, whatever process they are in.

    Arguments:
        prefix: begins the names of all shared memory objects; 1 to 200 letters, digits, ``-``, ``_`` and ``.``.
        expiry: seconds after which a message that nobody received is dropped.
        group_expiry: seconds after which a group membership ends unless it is added again.
        capacity: how many messages may wait in a channel.
        channel_capacity: dict from channel names (globs, or compiled regular expressions) to the capacity of the
            channels they match; the first match in its order counts, else ``capacity``.
        message_memory: bytes of shared memory for messages, at least 64 KiB. Taken as it is used.
        group_memory: bytes of shared memory for group memberships, likewise.
        mode: permissions of the shared memory; ``0o660`` lets processes of other users of the group take part.
        message_limit: the largest encoded message in bytes; None: 1 MiB or ``message_memory // 8``, whichever is more.
        patience: seconds to wait for another process that was stopped (not killed) in the middle of an operation.

    The first process to come creates the segments and sets their sizes; a later one uses what is there.

    Raises ``TypeError`` and ``ValueError`` for unusable options, ``SegmentRefused`` and ``SegmentMismatch`` for shared
    memory that belongs to somebody else or to another version.
    """

    #: What this layer can do beyond sending and receiving (ASGI draft, "Extensions").
    extensions = ["groups", "flush", "statistics"]

    ChannelFull = exceptions.ChannelFull
    MessageTooLarge = exceptions.MessageTooLarge

    def __init__(
        self,
        prefix: str = "asgi",
        expiry: float = 60,
        group_expiry: float = 86400,
        capacity: int = 100,
        channel_capacity: Optional[Mapping[Any, int]] = None,
        message_memory: int = 100 * MIB,
        group_memory: int = 20 * MIB,
        *,
        mode: int = 0o600,
        message_limit: Optional[int] = None,
        patience: float = 10,
    ) -> None:
        options = check_options(
            prefix=prefix,
            expiry=expiry,
            group_expiry=group_expiry,
            capacity=capacity,
            channel_capacity=channel_capacity,
            message_memory=message_memory,
            group_memory=group_memory,
            mode=mode,
            message_limit=message_limit,
            patience=patience,
        )
        self.prefix = options.prefix
        self.expiry = expiry
        self.group_expiry = group_expiry
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
            options.prefix, options.group_memory, options.group_expiry, options.mode, options.patience
        )
        self._capacities: Dict[str, int] = {}
        self._receivable: Set[str] = set()
        self._draw = random.Random().random  # of our own: a program that seeds its generator is left alone
        self._logged: Dict[str, float] = {}
        self._rates = Rates()

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
            capacity = self._capacities.get(channel)
        except TypeError:  # it cannot even be looked up: the check says what a name is
            capacity = None
        if capacity is None:
            capacity = self._remember(channel)
        self.message_store.append(channel, capacity, body)

    def _remember(self, channel: str) -> int:
        """Check the name of a channel that is sent to, and find its capacity."""
        names.valid_channel_name(channel)
        if len(self._capacities) >= REMEMBERED:
            self._capacities.clear()
        found = self._capacities[channel] = self.get_capacity(channel)
        return found

    def receive(self, channels: Iterable[str], block: bool = False) -> Tuple[Optional[str], Optional[Message]]:
        """
        Take a message from one of the channels: ``(channel, message)``, or ``(None, None)`` (ASGI draft, ``receive``).

        ``channels`` is any iterable of names; of a process-local channel it must end at the ``!``, and the name that
        comes back is the full one. No channel is starved by the others. ``block`` is accepted; a layer may return
        without a message all the same. Raises ``TypeError`` for wrong names.
        """
        wanted = channels if type(channels) is list else self._listed(channels)
        known = True
        try:
            for channel in wanted:
                if channel not in self._receivable:
                    known = False
                    break
        except TypeError:  # one is no str, nor anything else that can be looked up
            known = False
        if not known:
            self._check_receivable(wanted)
        if not wanted:
            return None, None
        if len(wanted) > 1:
            # Where a call begins is drawn: none is starved. A count could fall into step with the caller's own rhythm.
            first = int(self._draw() * len(wanted))
            wanted = wanted[first:] + wanted[:first]
        taken = self.message_store.pop(wanted)
        if taken is None:
            return None, None
        channel, body = taken
        try:
            return channel, codec.decode(body)
        except ValueError as error:
            raise exceptions.SegmentCorrupt(
                self.message_store.name, f"a message on channel {channel!r} is none any more ({error}); it is gone"
            ) from error

    def _listed(self, channels: Iterable[str]) -> List[str]:
        if isinstance(channels, (str, bytes, bytearray)) or not isinstance(channels, IterableType):
            names.valid_channel_names(channels, receive=True)
        return list(channels)

    def _check_receivable(self, channels: List[str]) -> None:
        names.valid_channel_names(channels, receive=True)
        if len(self._receivable) >= REMEMBERED:
            self._receivable.clear()
        self._receivable.update(channels)

    def receive_many(self, channels: Iterable[str], block: bool = False) -> Tuple[Optional[str], Optional[Message]]:
        """The old name of ``receive``, deprecated since asgi_ipc 1.0."""
        warnings.warn("receive_many is deprecated: call receive", DeprecationWarning, stacklevel=2)
        return self.receive(channels, block)

    def new_channel(self, pattern: str) -> str:
        """
        A channel name that nobody uses, made of a pattern that ends in ``?`` and a random part (ASGI draft).

        Raises ``TypeError`` for any other pattern.
        """
        names.check_pattern(pattern)
        while True:
            channel = pattern + names.random_local_part()
            if not self.message_store.has(channel):
                return channel

    # -- groups -----------------------------------------------------------------------------------------------

    def group_add(self, group: str, channel: str) -> None:
        """
        Make a channel a member of a group for ``group_expiry`` seconds from now (ASGI draft, "Groups").

        Raises ``TypeError`` for wrong names and ``GroupStoreFull`` (a ``ChannelFull``) when there is no memory for it.
        """
        names.valid_group_name(group)
        names.valid_channel_name(channel)
        self.group_store.add(group, channel)

    def group_discard(self, group: str, channel: str) -> None:
        """End a channel's membership in a group; nothing happens if it is no member. ``TypeError`` for wrong names."""
        names.valid_group_name(group)
        names.valid_channel_name(channel)
        self.group_store.discard(group, channel)

    def group_channels(self, group: str) -> List[str]:
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
            if len(self._logged) >= REMEMBERED:
                self._logged.clear()
            self._logged[group] = now
            logger.info("%d of %d channels over capacity in group %s", missed, members, group)

    # -- the layer as a whole ---------------------------------------------------------------------------------

    def flush(self) -> None:
        """Drop every message and every group membership, for every process with this prefix (ASGI draft, "Flush")."""
        self.message_store.flush()
        self.group_store.flush()

    def global_statistics(self) -> Dict[str, float]:
        """
        Figures of all channels together (ASGI draft, "Statistics").

        ``messages_count`` and ``channel_full_count`` count since the segment was made or flushed, ``messages_pending``
        wait now, the oldest of them for ``messages_max_age`` seconds; the rates ``..._per_second`` are taken between
        this layer object's last call and this one (0.0 at the first).
        """
        return self._rates.report(None, self.message_store.figures())

    def channel_statistics(self, channel: str) -> Dict[str, float]:
        """
        The same of one channel, or of all channels of the process ``prefix!``. ``TypeError`` for a wrong name.

        Counts of a channel begin anew when it has been idle for so long that it was forgotten.
        """
        names.valid_channel_name(channel, receive=isinstance(channel, str) and channel.endswith("!"))
        return self._rates.report(channel, self.message_store.figures(channel))

    def close(self) -> None:
        """Give back all that this process holds for the layer. Any other call after this one is a ``RuntimeError``."""
        self.message_store.close()
        self.group_store.close()

    def unlink(self) -> None:
        """Remove the shared memory for every process. Those that go on, this one too, begin with an empty layer."""
        self.message_store.unlink()
        self.group_store.unlink()

    def __enter__(self) -> IPCChannelLayer:
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        self.close()

    # -- helpers that layers of that era have -----------------------------------------------------------------

    def get_capacity(self, channel: str) -> int:
        """The capacity of a channel: that of the first pattern which matches its full name, or the default."""
        return capacities.get_capacity(self.channel_capacity, self.capacity, channel)

    def compile_capacities(self, channel_capacity: Optional[Mapping[Any, int]]) -> List[Tuple[Any, int]]:
        """``channel_capacity`` as a list of compiled patterns with their capacities."""
        return list(capacities.compile_capacities(channel_capacity))

    def valid_channel_name(self, name: str, receive: bool = False) -> bool:
        """True, or ``TypeError`` that says what a channel name may be; ``receive`` is for names to receive from."""
        return names.valid_channel_name(name, receive)

    def valid_channel_names(self, channels: Iterable[str], receive: bool = False) -> bool:
        """True if every name is valid, else ``TypeError``."""
        return names.valid_channel_names(channels, receive)

    def valid_group_name(self, name: str) -> bool:
        """True, or ``TypeError`` that says what a group name may be."""
        return names.valid_group_name(name)

    def match_type_and_length(self, name: Any) -> bool:
        """Whether something is a str of a length that a name may have."""
        return names.match_type_and_length(name)

    def non_local_name(self, name: str) -> str:
        """The name up to and including its ``!``, or all of it."""
        return names.non_local_name(name)
