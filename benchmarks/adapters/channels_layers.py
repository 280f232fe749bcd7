"""The other layers for Channels 4: the in-memory layer, and the two layers of channels_redis."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any, Awaitable, Callable, Dict, List

from .base import AsyncPeer, Message

#: Large enough for every workload.
OPTIONS: Dict[str, Any] = {"capacity": 2_000_000, "expiry": 86400}
#: Seconds after which a subscription is active.
SUBSCRIBING = 0.5


class ChannelsPeer(AsyncPeer):
    """A layer with the interface of Channels 2 and later."""

    layer: Any

    def sender(self, channel: str) -> Callable[[Message], Awaitable[Any]]:
        return partial(self.layer.send, channel)

    def receiver(self, channel: str) -> Callable[[], Awaitable[Any]]:
        return partial(self.layer.receive, channel)

    async def new_channel(self) -> str:
        return str(await self.layer.new_channel())

    async def group_add(self, group: str, channel: str) -> None:
        await self.layer.group_add(group, channel)

    async def group_send(self, group: str, message: Message) -> None:
        await self.layer.group_send(group, message)


class InMemory(ChannelsPeer):
    """``channels.layers.InMemoryChannelLayer``."""

    async def connect(self) -> None:
        from channels.layers import InMemoryChannelLayer

        self.layer = InMemoryChannelLayer(**OPTIONS)


class RedisPeer(ChannelsPeer):
    """A layer of channels_redis; ``server`` is how it connects: "tcp" or "unix"."""

    server: str

    def hosts(self) -> List[Dict[str, Any]]:
        """Return the server's address without a timeout. The default timeout would end a receive that waits long."""
        return [{"address": self.place.servers[self.server], "socket_timeout": None}]

    async def disconnect(self) -> None:
        await self.layer.flush()


class RedisCore(RedisPeer):
    """``channels_redis.core.RedisChannelLayer``."""

    async def connect(self) -> None:
        from channels_redis.core import RedisChannelLayer

        self.layer = RedisChannelLayer(hosts=self.hosts(), prefix=self.place.prefix, **OPTIONS)

    async def disconnect(self) -> None:
        await self.layer.close_pools()


class RedisCoreTCP(RedisCore):
    server = "tcp"


class RedisCoreUnix(RedisCore):
    server = "unix"


class RedisPubSub(RedisPeer):
    """``channels_redis.pubsub.RedisPubSubChannelLayer``."""

    async def connect(self) -> None:
        from channels_redis.pubsub import RedisPubSubChannelLayer

        self.layer = RedisPubSubChannelLayer(hosts=self.hosts(), prefix=self.place.prefix)

    def listen(self, channel: str) -> None:
        """Subscribe: a subscription begins with the first receive, and earlier messages are lost."""

        async def work() -> None:
            waiting = asyncio.ensure_future(self.receiver(channel)())
            await asyncio.sleep(SUBSCRIBING)
            await self.sender(channel)({"body": b""})
            await waiting

        self.run(work())

    def sender(self, channel: str) -> Callable[[Message], Awaitable[Any]]:
        return super().sender(self.name(channel))

    def receiver(self, channel: str) -> Callable[[], Awaitable[Any]]:
        return super().receiver(self.name(channel))

    def name(self, channel: str) -> str:
        """Return a channel name with our prefix. The layer applies its own prefix only to groups."""
        return channel if channel in self.members else f"{self.place.prefix}.{channel}"


class RedisPubSubTCP(RedisPubSub):
    server = "tcp"


class RedisPubSubUnix(RedisPubSub):
    server = "unix"
