"""
The front ends of the layer behind one set of synchronous calls, so that one test applies to all of them.

``MemoryFrontEnd`` is Channels' own in-memory layer: the reference where the semantics agree.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from asgi_ipc import AsyncIPCChannelLayer, ChannelFull, IPCChannelLayer

from .waiting import OPTIONS

Message = dict[str, Any]

#: Steps of the event loop after which a ``receive`` that does not have to wait has returned.
STEPS = 5


class SyncFrontEnd:
    """``IPCChannelLayer``."""

    name = "sync"
    ours = True
    ChannelFull: type[Exception] = ChannelFull

    def __init__(self, prefix: str, **options: Any) -> None:
        self.layer = IPCChannelLayer(prefix, **{**OPTIONS, **options})
        self.underneath = self.layer

    def send(self, channel: str, message: Any) -> None:
        self.layer.send(channel, message)

    def receive_now(self, channel: str) -> Message | None:
        """Return the first message of a channel, or None. A process-local channel needs its full name."""
        return self.layer.receive([channel])[1]

    def new_channel(self) -> str:
        """Return a new, unused name."""
        return self.layer.new_channel("specific?")

    def group_add(self, group: str, channel: str) -> None:
        self.layer.group_add(group, channel)

    def group_discard(self, group: str, channel: str) -> None:
        self.layer.group_discard(group, channel)

    def group_send(self, group: str, message: Any) -> None:
        self.layer.send_group(group, message)

    def group_channels(self, group: str) -> list[str]:
        return self.layer.group_channels(group)

    def flush(self) -> None:
        self.layer.flush()

    def close(self) -> None:
        self.layer.close()


class SyncOverAsync:
    """Runs each call of an asynchronous layer to its end, in an event loop that belongs to the front end."""

    layer: Any

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()

    def run(self, call: Any) -> Any:
        return self.loop.run_until_complete(call)

    def send(self, channel: str, message: Any) -> None:
        self.run(self.layer.send(channel, message))

    def receive_now(self, channel: str) -> Message | None:
        async def receive() -> Message | None:
            task = asyncio.ensure_future(self.layer.receive(channel))
            for _ in range(STEPS):
                await asyncio.sleep(0)
            task.cancel()
            try:
                message: Message = await task
            except asyncio.CancelledError:
                return None
            return message

        found: Message | None = self.run(receive())
        return found

    def new_channel(self) -> str:
        return str(self.run(self.layer.new_channel()))

    def group_add(self, group: str, channel: str) -> None:
        self.run(self.layer.group_add(group, channel))

    def group_discard(self, group: str, channel: str) -> None:
        self.run(self.layer.group_discard(group, channel))

    def group_send(self, group: str, message: Any) -> None:
        self.run(self.layer.group_send(group, message))

    def flush(self) -> None:
        self.run(self.layer.flush())

    def close(self) -> None:
        if not self.loop.is_closed():
            self.run(self.layer.close())
            self.loop.close()


class AsyncFrontEnd(SyncOverAsync):
    """``AsyncIPCChannelLayer``."""

    name = "async"
    ours = True
    ChannelFull: type[Exception] = ChannelFull

    def __init__(self, prefix: str, **options: Any) -> None:
        super().__init__()
        self.layer = AsyncIPCChannelLayer(prefix, **{**OPTIONS, **options})
        self.underneath = self.layer._layer

    def group_channels(self, group: str) -> list[str]:
        found: list[str] = self.run(self.layer.group_channels(group))
        return found


class MemoryFrontEnd(SyncOverAsync):
    """Channels' in-memory layer: the reference."""

    name = "Channels' InMemoryChannelLayer"
    ours = False

    def __init__(self, prefix: str, **options: Any) -> None:
        layers = pytest.importorskip("channels.layers", reason="needs Channels 2 or later: its layer is the reference")
        if not hasattr(layers, "InMemoryChannelLayer"):
            pytest.skip("needs Channels 2 or later: its layer is the reference")
        super().__init__()
        self.layer = layers.InMemoryChannelLayer(**options)
        self.ChannelFull = self.layer.ChannelFull if hasattr(self.layer, "ChannelFull") else layers.ChannelFull

    def group_channels(self, group: str) -> list[str]:
        return list(self.layer.groups.get(group, ()))


FRONT_ENDS = {"sync": SyncFrontEnd, "async": AsyncFrontEnd, "memory": MemoryFrontEnd}
OURS = {"sync": SyncFrontEnd, "async": AsyncFrontEnd}
