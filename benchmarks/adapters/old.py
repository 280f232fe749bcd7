"""asgi_ipc 1.4.2 and asgi_redis 1.4.3, layers for the ASGI draft. They run in an environment of their own."""

from __future__ import annotations

import contextlib
import time
from functools import partial
from typing import Any, Callable, Dict

from .base import Message, SyncPeer, Unfit

#: Large enough for every workload.
OPTIONS: Dict[str, Any] = {"capacity": 2_000_000, "expiry": 86400}
#: Seconds that a worker of Channels 1 sleeps when there is no message.
PAUSE = 0.01


class OldPeer(SyncPeer):
    """A layer of the ASGI draft: a blocking ``receive`` may return without a message."""

    layer: Any

    @classmethod
    def check(cls) -> None:
        import msgpack

        if "fallback" in msgpack.Packer.__module__:
            raise Unfit("msgpack has no C extension here, so the figures would not be representative")

    def sender(self, channel: str) -> Callable[[Message], Any]:
        return partial(self.layer.send, channel)

    def receiver(self, channel: str, wait: bool) -> Callable[[], Any]:
        receive, channels = self.layer.receive, [channel]
        if not wait:
            return partial(receive, channels)

        def waiting() -> Any:
            while True:
                found, message = receive(channels, block=True)
                if found is not None:
                    return message
                time.sleep(PAUSE)

        return waiting

    def group_add(self, group: str, channel: str) -> None:
        self.layer.group_add(group, channel)

    def group_send(self, group: str, message: Message) -> None:
        self.layer.send_group(group, message)


class OldIPC(OldPeer):
    """``asgi_ipc.IPCChannelLayer`` of 1.4.2."""

    def open(self) -> None:
        import asgi_ipc

        self.layer = asgi_ipc.IPCChannelLayer(prefix=self.place.prefix, **OPTIONS)

    def remove(self) -> None:
        import posix_ipc

        for store in ("messages", "groups"):
            for unlink in (posix_ipc.unlink_shared_memory, posix_ipc.unlink_semaphore):
                with contextlib.suppress(posix_ipc.ExistentialError):
                    unlink(f"{self.place.prefix}-{store}")


class OldRedis(OldPeer):
    """``asgi_redis.RedisChannelLayer``."""

    server: str

    def open(self) -> None:
        import asgi_redis

        servers = [self.place.servers[self.server]]
        self.layer = asgi_redis.RedisChannelLayer(hosts=servers, prefix=self.place.prefix + ":", **OPTIONS)


class OldRedisTCP(OldRedis):
    server = "tcp"


class OldRedisUnix(OldRedis):
    server = "unix"
