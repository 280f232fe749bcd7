"""
``AsyncIPCChannelLayer``: the asynchronous channel layer that Channels 2 and later use.

What it does without waiting for messages is in ``layer``, and is done at once, in the event loop.  Only ``receive``
waits (``waiting.asyncio_loop``).
"""

from __future__ import annotations

__all__ = ["AsyncIPCChannelLayer"]

from collections.abc import Mapping
from types import TracebackType
from typing import Any

from . import codec, exceptions, names
from .layer import Layer, Message, corrupt_error
from .memo import Memo
from .options import MIB
from .waiting import asyncio_loop

#: Names whose check a layer remembers.
REMEMBERED = 16384


class AsyncIPCChannelLayer:
    """
    The channel layer for Django Channels 2 to 4, and for any other asyncio program (Channels specification).

    Takes the options of ``IPCChannelLayer``, but for ``block_timeout``, and talks to every layer with the same
    ``prefix``, of either kind. It works in any number of event loops and threads, one after the other or at once.

    Raises what ``IPCChannelLayer`` raises. Where Channels is installed, ``ChannelFull`` and ``MessageTooLarge`` are
    those of ``channels.exceptions``, too.
    """

    #: What this layer can do beyond sending and receiving (Channels specification).
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
        self._receivable: Memo[str, None] = Memo(REMEMBERED)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(prefix={self.prefix!r})"

    # -- messages ---------------------------------------------------------------------------------------------

    async def send(self, channel: str, message: Message) -> None:
        """
        Put a message into a channel: it is there for every process when this returns (Channels specification).

        Raises ``ChannelFull`` when the channel is at capacity or there is no memory left, ``MessageTooLarge``, and
        ``TypeError`` for a wrong name or a message that cannot be sent, naming what in it. Nothing was queued then.
        """
        self._layer.send(channel, message)

    async def receive(self, channel: str) -> Message:
        """
        Take a message from a channel, waiting for it as long as it takes (Channels specification).

        May be cancelled at any time: a message that was not returned is still there. A process-local channel is
        received from by its full name. Raises ``TypeError`` for a wrong name.
        """
        try:
            known = channel in self._receivable
        except TypeError:  # nothing that can be looked up
            known = False
        if not known:
            names.check_full_name(channel)
            self._receivable.remember(channel, None)
        hubs, channels = self._layer.hubs, (channel,)
        taken = None if hubs.crowded else hubs.store.pop(channels)
        if taken is None:
            taken = await asyncio_loop.wait(hubs, channels)
        try:  # what ``Layer.decode`` does, without the call
            return codec.decode(taken[1])
        except ValueError as error:
            raise corrupt_error(hubs.store.name, channel, error) from error

    async def new_channel(self, prefix: str = "specific") -> str:
        """
        A channel name that nobody uses, for this process to receive from: ``PREFIX.PROCESS!UNIQUE``.

        (Channels specification, ``new_channel``.) When the process dies, its channels leave their groups. Raises
        ``TypeError`` for a prefix that is no part of a name, or too long.
        """
        names.check_local_prefix(prefix)
        inbox = f"{prefix}.{names.process_part()}!"
        self._layer.message_store.own_inbox(inbox)
        return inbox + names.random_local_part()

    # -- groups -----------------------------------------------------------------------------------------------

    async def group_add(self, group: str, channel: str) -> None:
        """
        Make a channel a member of a group for ``group_expiry`` seconds from now (Channels specification, "Groups").

        Raises ``TypeError`` for wrong names and ``GroupStoreFull`` (a ``ChannelFull``) when there is no memory for it.
        """
        self._layer.group_add(group, channel)

    async def group_discard(self, group: str, channel: str) -> None:
        """End a channel's membership in a group; nothing happens if it is no member. ``TypeError`` for wrong names."""
        self._layer.group_discard(group, channel)

    async def group_channels(self, group: str) -> list[str]:
        """The names of a group's members, those of dead processes left out. ``TypeError`` for a wrong name."""
        return self._layer.group_channels(group)

    async def group_send(self, group: str, message: Message) -> None:
        """
        Send a message to every member of a group (Channels specification, ``group_send``).

        Members whose channel is full are skipped, and logged. Raises ``TypeError`` and ``MessageTooLarge`` as ``send``
        does.
        """
        self._layer.send_group(group, message)

    # -- the layer as a whole ---------------------------------------------------------------------------------

    async def flush(self) -> None:
        """Drop every message and every group membership, for every process with this prefix."""
        self._layer.flush()

    async def close(self) -> None:
        """Give back all that this process holds for the layer. Any other call after this one is a ``RuntimeError``."""
        self._layer.close()

    async def unlink(self) -> None:
        """Remove the shared memory for every process. Those that go on, this one too, begin with an empty layer."""
        self._layer.unlink()

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
    Let our refusals be those of ``channels.exceptions``, too, so that Channels and its users catch them by either name.

    Channels is looked for only when this layer is made: the package does not need it.
    """
    try:
        from channels import exceptions as theirs
    except ImportError:
        return
    for ours in (exceptions.ChannelFull, exceptions.MessageTooLarge):
        their = getattr(theirs, ours.__name__, Exception)  # Channels 1 has neither
        if not issubclass(ours, their):
            ours.__bases__ = (exceptions.Refusal, their)
