"""What else a Channels 4 site can use: the in-memory layer, and channels_redis with either of its two layers."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any, Awaitable, Callable, Dict, List

from .base import AsyncPeer, Message

#: Room for anything that is done here.
OPTIONS: Dict[str, Any] = {"capacity": 2_000_000, "expiry": 86400}
#: Seconds after which a subscription stands.
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
    """A layer of channels_redis; subclasses say which, and how the server is reached."""

    server: str

    def hosts(self) -> List[Dict[str, Any]]:
        """Without the client's time limit: its default is as long as the layer waits, and ends a receive then."""
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
        """Subscribe: it begins with the first receive, and what was sent before is lost."""

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
        """Channels are the server's: its prefix is for groups only."""
        return channel if channel in self.members else f"{self.place.prefix}.{channel}"


class RedisPubSubTCP(RedisPubSub):
    server = "tcp"


class RedisPubSubUnix(RedisPubSub):
    server = "unix"
