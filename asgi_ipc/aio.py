"""
``AsyncIPCChannelLayer``: the asynchronous channel layer for Channels 2 and later.

No method blocks the thread of the event loop for longer than some milliseconds for another process's sake.  Each one
tries; if it cannot have the mutex, it waits in the event loop while other tasks run (``waiting.asyncio_loop``).
"""

from __future__ import annotations

__all__ = ["AsyncIPCChannelLayer"]

from collections.abc import Mapping
from types import TracebackType
from typing import Any

from . import codec, exceptions, names
from .layer import Layer, Message, corrupt_error
from .locking.contention import WouldBlock
from .locking.liveness import NO_OWNER
from .memo import Memo
from .options import MIB
from .waiting import asyncio_loop
from .waiting.loop_turns import LoopTurns

#: Names whose check a layer remembers.
REMEMBERED = 16384


class AsyncIPCChannelLayer:
    """
    An asynchronous channel layer in POSIX shared memory, for Channels 2 to 4 and other asyncio programs.

    It implements the Channels specification, and takes the options of ``IPCChannelLayer`` except ``block_timeout``.

    All layers with the same ``prefix`` on one machine exchange messages, whether they are in one process or in
    several, and whether they are synchronous or asynchronous. A layer works in any number of event loops and threads,
    in turn or at the same time. As an asynchronous context manager, a layer closes itself.

    If Channels is installed, ``ChannelFull`` and ``MessageTooLarge`` are also subclasses of the exceptions with the
    same names in ``channels.exceptions``.

    Arguments:
        prefix: How the names of all shared memory objects begin: 1 to 200 (macOS: 20) ASCII letters, digits, hyphens,
            underscores and periods.
        expiry: Seconds after which a message that was not received is dropped.
        group_expiry: Seconds after which a group membership ends unless it is renewed.
        capacity: The number of messages that a channel can hold.
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

    Raises:
        TypeError: An option has the wrong type.
        ValueError: An option has a value that is not allowed. The error names the option.
        SegmentError: The shared memory cannot be used, for example because it belongs to another user
            (``SegmentRefused``) or to another version of asgi_ipc (``SegmentMismatch``).

    Every method that accesses the shared memory can also raise ``SegmentError``, and ``RuntimeError`` if the layer is
    closed or if a signal handler or finaliser calls it while it interrupts a call of the layer.

    Attributes:
        prefix: The option; ``expiry``, ``group_expiry`` and ``capacity`` are attributes too.
        channel_capacity: The option as a list of pairs: a compiled regular expression and its capacity.
        extensions: The names of the extensions that this layer supports: ``groups`` and ``flush``.
        ChannelFull: The exception ``asgi_ipc.ChannelFull``.
        MessageTooLarge: The exception ``asgi_ipc.MessageTooLarge``.
    """

    extensions = ["groups", "flush"]

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
    ) -> None:
        _join_channels()
        self._layer = Layer(
            waits=False,
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
        self.prefix = self._layer.prefix
        self.expiry = expiry
        self.group_expiry = group_expiry
        self.capacity = capacity
        self.channel_capacity = self._layer.channel_capacity
        self._messages = self._layer.message_store
        self._group_turns = LoopTurns(self._layer.group_store.name, patience)
        self._hubs = self._layer.open_hubs()
        self._message_turns = self._hubs.turns
        self._waiting = self._message_turns.waiting
        self._find_capacity = self._layer.find_capacity
        self._receivable: Memo[str, None] = Memo(REMEMBERED)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(prefix={self.prefix!r})"

    # -- messages ---------------------------------------------------------------------------------------------

    async def send(self, channel: str, message: Message) -> None:
        """
        Send a message to a channel (Channels specification, ``send``).

        When this returns, every process with the same prefix can receive the message. This does not wait until a
        full channel has room: it raises ``ChannelFull``. After each of the errors below, the message is not in the
        channel.

        Arguments:
            channel: The full name of the channel, including the part after a ``!``.
            message: A dict with ``str`` keys. It can hold ``bytes``, ``str``, ``int`` (64 bits), ``float``, ``bool``,
                None, and lists, tuples and dicts of these, in at most 100 levels. Tuples arrive as lists.

        Raises:
            ChannelFull: The channel is at capacity, or there is no memory left (its subclass ``MemoryFull``).
            MessageTooLarge: The encoded message is larger than ``message_limit``.
            TypeError: The name is not valid, or the message contains a value that cannot be sent. The error says
                where in the message the value is.
        """
        # What ``Layer.send`` and ``asyncio_loop.call`` do, without the calls.
        body = codec.encode(message)
        capacity = self._find_capacity(channel) if type(channel) is str else None
        if capacity is None:
            capacity = self._layer.remember_capacity(channel)
        try:
            if not self._waiting:
                self._messages.append(channel, capacity, body)
                return
        except WouldBlock:
            pass
        await asyncio_loop.call_in_turn(self._message_turns, self._messages.append, channel, capacity, body)

    async def receive(self, channel: str) -> Message:
        """
        Wait for a message in a channel, and take it (Channels specification, ``receive``).

        There is no timeout. The call may be cancelled at any time: a message that it did not return remains in its
        channel.

        Arguments:
            channel: The full name of the channel, including the part after a ``!``.

        Returns:
            The message.

        Raises:
            TypeError: The name is not valid.
            SegmentCorrupt: Another program has damaged the message. It is no longer in the channel.
        """
        try:
            known = channel in self._receivable
        except TypeError:  # it cannot be looked up
            known = False
        if not known:
            names.check_full_name(channel)
            self._receivable.remember(channel, None)
        hubs, channels, taken = self._hubs, (channel,), None
        if not (hubs.crowded or self._waiting):
            try:  # noqa: SIM105  it is quicker
                taken = self._messages.pop(channels)
            except WouldBlock:
                pass
        if taken is None:
            taken = await asyncio_loop.receive(hubs, channels)
        try:  # what ``Layer.decode`` does, without the call
            return codec.decode(taken[1])
        except ValueError as error:
            raise corrupt_error(self._messages.name, channel, error) from error

    async def new_channel(self, prefix: str = "specific") -> str:
        """
        Return a name for a new channel that this process receives from (Channels specification, ``new_channel``).

        When the process ends, its channels leave their groups.

        Arguments:
            prefix: How the name begins: 1 to 49 ASCII letters, digits, hyphens, underscores and periods.

        Returns:
            ``PREFIX.PROCESS!UNIQUE``, in which a random part identifies this process, and another the channel.

        Raises:
            TypeError: The prefix is too long or not valid.
        """
        names.check_local_prefix(prefix)
        inbox = f"{prefix}.{names.process_part()}!"
        await asyncio_loop.call(self._message_turns, self._messages.own_inbox, inbox)
        return inbox + names.random_local_part()

    # -- groups -----------------------------------------------------------------------------------------------

    async def group_add(self, group: str, channel: str) -> None:
        """
        Add a channel to a group, or renew its membership (Channels specification, ``group_add``).

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
        owner, call = NO_OWNER, asyncio_loop.call
        if "!" in channel:  # as in ``Layer.group_add``
            owner = await call(self._message_turns, self._messages.owner_of, channel)
        await call(self._group_turns, self._layer.group_store.add, group, channel, owner)

    async def group_discard(self, group: str, channel: str) -> None:
        """
        Remove a channel from a group, if it is a member (Channels specification, ``group_discard``).

        Arguments:
            group: The name of the group.
            channel: The full name of the channel.

        Raises:
            TypeError: A name is not valid.
        """
        names.valid_group_name(group)
        names.valid_channel_name(channel)
        await asyncio_loop.call(self._group_turns, self._layer.group_store.discard, group, channel)

    async def group_channels(self, group: str) -> list[str]:
        """
        Return the members of a group. Not in the Channels specification.

        Arguments:
            group: The name of the group.

        Returns:
            The names of its channels, in the order in which they were added, without those of dead processes.

        Raises:
            TypeError: The name is not valid.
        """
        names.valid_group_name(group)
        return await asyncio_loop.call(self._group_turns, self._layer.group_store.channels, group)

    async def group_send(self, group: str, message: Message) -> None:
        """
        Send a message to every member of a group (Channels specification, ``group_send``).

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
        channels = await asyncio_loop.call(self._group_turns, self._layer.group_store.channels, group)
        sending = self._messages.begin_each(self._layer.with_capacities(channels), body)
        try:
            await asyncio_loop.call(self._message_turns, sending.go_on)
        finally:  # if an error or a cancellation ends it, for the slices that are done
            sending.notify()
        self._layer.log_missed(group, len(sending.missed), len(channels))

    # -- the layer as a whole ---------------------------------------------------------------------------------

    async def flush(self) -> None:
        """Drop all messages and group memberships, for every process with this prefix (Channels specification)."""
        await asyncio_loop.call(self._message_turns, self._messages.flush)
        await asyncio_loop.call(self._group_turns, self._layer.group_store.flush)

    async def close(self) -> None:
        """
        Release everything that this process holds for the layer. Messages and memberships remain.

        Calling it again has no effect. Every other method that accesses the shared memory raises ``RuntimeError`` from
        then on, and so do receives that are waiting.
        """
        self._layer.close()

    async def unlink(self) -> None:
        """
        Remove the shared memory, with all messages and memberships. Not in the Channels specification.

        This process and others can continue to use the layer: it is then empty.

        Raises:
            SegmentRefused: The shared memory belongs to another user.
        """
        await asyncio_loop.call(self._message_turns, self._messages.unlink)
        await asyncio_loop.call(self._group_turns, self._layer.group_store.unlink)

    async def __aenter__(self) -> AsyncIPCChannelLayer:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()


def _join_channels() -> None:
    """
    Make our refusals subclasses of those in ``channels.exceptions``, so that handlers for either catch them.

    Channels is imported only when a layer is created: the package does not need it.
    """
    try:
        from channels import exceptions as theirs
    except ImportError:
        return
    for ours in (exceptions.ChannelFull, exceptions.MessageTooLarge):
        their = getattr(theirs, ours.__name__, Exception)  # Channels 1 has neither
        if not issubclass(ours, their):
            ours.__bases__ = (exceptions.Refusal, their)
