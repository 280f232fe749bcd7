"""
``IPCChannelLayer``: the synchronous channel layer of the ASGI draft, compatible with asgi_ipc 1.x.

``layer`` has the operations that do not wait for a message, ``waiting`` those that do.
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
    A synchronous channel layer in POSIX shared memory (ASGI draft).

    All layers with the same ``prefix`` on one machine exchange messages, whether they are in one process or in
    several, and whether they are synchronous or asynchronous. Any number of threads may use a layer. As a context
    manager, a layer closes itself.

    The first process creates the shared memory and sets its sizes. Later processes use it with those sizes.

    Arguments:
        prefix: How the names of all shared memory objects begin: 1 to 200 (macOS: 20) ASCII letters, digits, hyphens,
            underscores and periods.
        expiry: Seconds after which a message that was not received is dropped.
        group_expiry: Seconds after which a group membership ends unless it is renewed.
        capacity: The number of messages that a channel can hold. Process-local channels whose names are equal up to
            the ``!`` share one capacity, unless an asynchronous layer receives from them.
        channel_capacity: A dict that sets other capacities for some channels. A key is a glob (a ``str``) that must
            match the full name of the channel, or a compiled regular expression, which is used with its ``match``.
            The first key that matches counts.
        message_memory: Bytes of shared memory for messages, at least 64 KiB (default: 100 MiB). The system provides
            the memory as it is used.
        group_memory: Bytes of shared memory for group memberships, at least 64 KiB (default: 20 MiB).
        mode: The permissions of the shared memory. With ``0o660``, processes of other users in the same group can
            use the layer, with ``0o666`` those of all users. No other value is allowed.
        message_limit: The largest encoded message, in bytes. None means 1 MiB or ``message_memory // 8``, whichever
            is larger.
        patience: Seconds to wait for another process that was stopped (not killed) during an operation.
        block_timeout: The most seconds that ``receive(..., block=True)`` waits for a message.

    Raises:
        TypeError: An option has the wrong type.
        ValueError: An option has a value that is not allowed. The error names the option.
        SegmentError: The shared memory cannot be used, for example because it belongs to another user
            (``SegmentRefused``) or to another version of asgi_ipc (``SegmentMismatch``).

    Every method that accesses the shared memory can also raise ``SegmentError``, and ``RuntimeError`` if the layer is
    closed or if a signal handler or finaliser calls it while it interrupts a call of the layer.

    Attributes:
        prefix: The option; ``expiry``, ``group_expiry``, ``capacity`` and ``block_timeout`` are attributes too.
        channel_capacity: The option as a list of pairs: a compiled regular expression and its capacity.
        extensions: The names of the extensions that this layer supports (ASGI draft, "Extensions"): ``groups``,
            ``flush``, ``statistics``, ``async`` and, if Twisted is installed, ``twisted``.
        ChannelFull: The exception ``asgi_ipc.ChannelFull``.
        MessageTooLarge: The exception ``asgi_ipc.MessageTooLarge``.
    """

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
        Take one message from one of several channels (ASGI draft, ``receive``).

        The order in which the channels are tried varies, so that none of them is starved.

        Arguments:
            channels: An iterable of channel names. The name of a process-local channel must end at its ``!``; it
                stands for all channels whose names begin with it.
            block: Whether to wait for a message, for up to ``block_timeout`` seconds. Signal handlers run during the
                wait. An exception that one of them raises ends it, and no message is taken.

        Returns:
            ``(channel, message)``, with the full name of the channel, or ``(None, None)`` if there is no message. If
            ``channels`` is empty, ``(None, None)`` is returned without waiting.

        Raises:
            TypeError: ``channels`` is not an iterable of valid names.
            SegmentCorrupt: Another program has damaged the message. It is no longer in the channel.
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
        Wait in an asyncio event loop for a message in one of several channels (ASGI draft, extension ``async``).

        There is no timeout. The call may be cancelled at any time: a message that it did not return remains in its
        channel. It works in any number of event loops and threads.

        Arguments:
            channels: As for ``receive``.

        Returns:
            ``(channel, message)``, with the full name of the channel; ``(None, None)`` only if ``channels`` is empty.

        Raises:
            TypeError: ``channels`` is not an iterable of valid names.
            SegmentCorrupt: Another program has damaged the message. It is no longer in the channel.
        """
        checked = self.check_names(channels)
        if not checked:
            return None, None
        hubs = self.hubs or self.open_hubs()
        taken = hubs.try_pop(checked)
        if taken is None:
            taken = await asyncio_loop.receive(hubs, checked)
        return self.decode(taken)

    def receive_twisted(self, channels: Iterable[str]) -> Any:
        """
        Wait in Twisted's reactor for a message in one of several channels (ASGI draft, extension ``twisted``).

        Call it in the reactor's thread. There is no timeout. The ``Deferred`` may be cancelled at any time: a message
        that it did not deliver remains in its channel.

        Arguments:
            channels: As for ``receive``.

        Returns:
            A ``Deferred`` of ``(channel, message)``, with the full name of the channel; of ``(None, None)`` only if
            ``channels`` is empty.

        Raises:
            ImportError: Twisted is not installed.
            TypeError: ``channels`` is not an iterable of valid names.
        """
        from .waiting import twisted_reactor

        checked = self.check_names(channels)
        if not checked:
            return twisted_reactor.nothing()
        return twisted_reactor.receive(self.hubs or self.open_hubs(), checked).addCallback(self.decode)

    def receive_many(self, channels: Iterable[str], block: bool = False) -> tuple[str | None, Message | None]:
        """Call ``receive`` with the same arguments, and emit a ``DeprecationWarning``: use ``receive`` instead."""
        warnings.warn("receive_many is deprecated: call receive", DeprecationWarning, stacklevel=2)
        return self.receive(channels, block)

    def new_channel(self, pattern: str) -> str:
        """
        Return a name for a new single-reader channel (ASGI draft, ``new_channel``).

        Arguments:
            pattern: How the name begins: up to 74 characters that a channel name may contain, and a ``?``.

        Returns:
            The pattern with 24 random characters after it. No channel has this name.

        Raises:
            TypeError: The pattern is not such a name, or does not end in ``?``.
        """
        names.check_pattern(pattern)
        while True:
            channel = pattern + names.random_local_part()
            if not self.message_store.has(channel):
                return channel

    # -- the layer as a whole ---------------------------------------------------------------------------------

    def global_statistics(self) -> dict[str, float]:
        """
        Return the statistics of all channels together (ASGI draft, "Statistics").

        Returns:
            A dict with the following keys.

            - ``messages_count``: messages sent since the layer was created or flushed
            - ``messages_count_per_second``: their rate since the previous call on this object, 0.0 in the first call
            - ``messages_pending``: messages that are waiting to be received
            - ``messages_max_age``: the age of the oldest of them, in seconds
            - ``channel_full_count``: messages refused because a channel was full, since the same time
            - ``channel_full_count_per_second``: their rate, in the same way
        """
        return self._rates.report(None, self.message_store.figures())

    def channel_statistics(self, channel: str) -> dict[str, float]:
        """
        Return the statistics of one channel (ASGI draft, "Statistics").

        The layer forgets a channel that has been idle for some time. Its counts then start again from 0.

        Arguments:
            channel: The full name of a channel, or a name that ends in ``!`` for all channels that begin with it.

        Returns:
            A dict as ``global_statistics`` returns it. The rates are those since the previous call for this channel.

        Raises:
            TypeError: The name is not valid.
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

    # -- helpers that layers of the ASGI draft have -----------------------------------------------------------

    def compile_capacities(self, channel_capacity: Mapping[Any, int] | None) -> list[tuple[Any, int]]:
        """
        Compile the option ``channel_capacity``.

        Arguments:
            channel_capacity: A dict as the constructor takes it, or None.

        Returns:
            A list of pairs of a compiled regular expression and its capacity, in the order of the dict.

        Raises:
            TypeError: A key or a value has the wrong type.
            ValueError: A glob is not valid, or a capacity is less than 1.
        """
        return list(capacities.compile_capacities(channel_capacity))

    def valid_channel_name(self, name: str, receive: bool = False) -> bool:
        """
        Check a channel name.

        Arguments:
            name: The name to check.
            receive: Whether the name is for ``receive``. Then a process-local name must end at its ``!``. Otherwise
                the name is for sending, and must be complete.

        Returns:
            True.

        Raises:
            TypeError: The name is not valid. The error says what a channel name may contain.
        """
        return names.valid_channel_name(name, receive)

    def valid_channel_names(self, channels: Iterable[str], receive: bool = False) -> bool:
        """
        Check several channel names.

        Arguments:
            channels: An iterable of names.
            receive: As for ``valid_channel_name``.

        Returns:
            True.

        Raises:
            TypeError: A name is not valid, or ``channels`` is a single name or not an iterable.
        """
        return names.valid_channel_names(channels, receive)

    def valid_group_name(self, name: str) -> bool:
        """
        Check a group name.

        Arguments:
            name: The name to check.

        Returns:
            True.

        Raises:
            TypeError: The name is not valid. The error says what a group name may contain.
        """
        return names.valid_group_name(name)

    def match_type_and_length(self, name: Any) -> bool:
        """
        Check the type and the length of a name, but not its characters.

        Arguments:
            name: Any object.

        Returns:
            True if it is a ``str`` of 1 to 99 characters.
        """
        return names.match_type_and_length(name)

    def non_local_name(self, name: str) -> str:
        """
        Return the part of a channel name that identifies the receiving process: up to and including the ``!``.

        Arguments:
            name: A valid channel name.

        Returns:
            That part, or the full name if it contains no ``!``.
        """
        return names.non_local_name(name)
