"""
``IPCChannelLayer``: the synchronous channel layer, as the ASGI draft and asgi_ipc 1.x describe it.

What it does without waiting is in ``layer``, how it waits in ``waiting``.
"""

from __future__ import annotations

__all__ = ["IPCChannelLayer"]

import importlib.util
import warnings
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any

from . import capacity as capacities
from . import exceptions, names
from .layer import Layer, Message
from .options import MIB, check_seconds
from .statistics import Rates
from .waiting import asyncio_loop, thread


class IPCChannelLayer(Layer):
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
        block_timeout: seconds for which ``receive(..., block=True)`` waits for a message.

    The first process to come creates the segments and sets their sizes; a later one uses what is there.

    Raises ``TypeError`` and ``ValueError`` for unusable options, ``SegmentRefused`` and ``SegmentMismatch`` for shared
    memory that belongs to another user or to another version.
    """

    #: What this layer can do beyond sending and receiving (ASGI draft, "Extensions").
    extensions = ["groups", "flush", "statistics", "async"] + ["twisted"] * bool(importlib.util.find_spec("twisted"))

    ChannelFull = exceptions.ChannelFull
    MessageTooLarge = exceptions.MessageTooLarge

    def __init__(
        self,
        prefix: str = "asgi",
        expiry: float = 60,
        group_expiry: float = 86400,
        capacity: int = 100,
        channel_capacity: Mapping[Any, int] | None = None,
        message_memory: int = 100 * MIB,
        group_memory: int = 20 * MIB,
        *,
        mode: int = 0o600,
        message_limit: int | None = None,
        patience: float = 10,
        block_timeout: float = 5,
    ) -> None:
        self.block_timeout = check_seconds("block_timeout", block_timeout)
        super().__init__(
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
        self._rates = Rates()

    # -- receiving --------------------------------------------------------------------------------------------

    def receive(self, channels: Iterable[str], block: bool = False) -> tuple[str | None, Message | None]:
        """
        Take a message from one of the channels: ``(channel, message)``, or ``(None, None)`` (ASGI draft, ``receive``).

        ``channels`` is any iterable of names; of a process-local channel it must end at the ``!``, and the name that
        comes back is the full one. No channel is starved by the others. With ``block`` this sleeps until there is a
        message, for ``block_timeout`` seconds at the most; signal handlers run meanwhile, and what they raise ends it.
        With no channels it returns at once. Raises ``TypeError`` for wrong names.
        """
        checked = self.check_names(channels)
        taken = self.message_store.pop(checked) if checked else None
        if taken is None and block and checked:
            taken = thread.receive(self.message_store.wakeups, checked, self.block_timeout)
        if taken is None:
            return None, None
        return self.decode(taken)

    async def receive_async(self, channels: Iterable[str]) -> tuple[str | None, Message | None]:
        """
        The same in an asyncio event loop, as long as it takes (ASGI draft, extension ``async``).

        May be cancelled at any time: a message that was not returned is still there.
        """
        checked = self.check_names(channels)
        if not checked:
            return None, None
        taken = None if self.hubs.crowded else self.message_store.pop(checked)
        if taken is None:
            taken = await asyncio_loop.wait(self.hubs, checked)
        return self.decode(taken)

    def receive_twisted(self, channels: Iterable[str]) -> Any:
        """
        The same in Twisted's reactor: a Deferred of ``(channel, message)`` (ASGI draft, extension ``twisted``).

        To be called in the reactor's thread. The Deferred may be cancelled. Raises ``ImportError`` without Twisted.
        """
        from .waiting import twisted_reactor

        checked = self.check_names(channels)
        if not checked:
            return twisted_reactor.nothing()
        return twisted_reactor.receive(self.hubs, checked).addCallback(self.decode)

    def receive_many(self, channels: Iterable[str], block: bool = False) -> tuple[str | None, Message | None]:
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

    # -- the layer as a whole ---------------------------------------------------------------------------------

    def global_statistics(self) -> dict[str, float]:
        """
        Figures of all channels together (ASGI draft, "Statistics").

        ``messages_count`` and ``channel_full_count`` count since the segment was made or flushed, ``messages_pending``
        wait now, the oldest of them for ``messages_max_age`` seconds; the rates ``..._per_second`` are taken between
        this layer object's last call and this one (0.0 at the first).
        """
        return self._rates.report(None, self.message_store.figures())

    def channel_statistics(self, channel: str) -> dict[str, float]:
        """
        The same of one channel, or of all channels of the process ``prefix!``. ``TypeError`` for a wrong name.

        Counts of a channel begin anew when it has been idle for so long that it was forgotten.
        """
        names.valid_channel_name(channel, receive=isinstance(channel, str) and channel.endswith("!"))
        return self._rates.report(channel, self.message_store.figures(channel))

    def __enter__(self) -> IPCChannelLayer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # -- helpers that layers of that era have -----------------------------------------------------------------

    def compile_capacities(self, channel_capacity: Mapping[Any, int] | None) -> list[tuple[Any, int]]:
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
