"""asgi_ipc itself: the synchronous and the asynchronous layer."""

from __future__ import annotations

import os
import signal
from functools import partial
from typing import Any, Awaitable, Callable, Dict

import asgi_ipc

from ..recoveries import Known, Recoveries
from .base import AsyncPeer, Message, SyncPeer, Unfit

#: Large enough for every workload.
OPTIONS: Dict[str, Any] = {
    "capacity": 2_000_000,
    "expiry": 86400,
    "message_memory": 512 * 1024 * 1024,
    "group_memory": 64 * 1024 * 1024,
}
#: False in old revisions: these have no asynchronous layer, and their ``receive`` does not wait.
WAITS = hasattr(asgi_ipc, "AsyncIPCChannelLayer")
#: Timeout of ``receive`` in seconds.
FOREVER = 86400


def unlink(prefix: str) -> None:
    with asgi_ipc.IPCChannelLayer(prefix, **OPTIONS) as layer:
        layer.unlink()


class Sync(SyncPeer):
    """``IPCChannelLayer``."""

    def open(self) -> None:
        options: Dict[str, Any] = {**OPTIONS, "block_timeout": FOREVER} if WAITS else OPTIONS
        self.layer = asgi_ipc.IPCChannelLayer(self.place.prefix, **options)

    def close(self) -> None:
        self.layer.close()

    def remove(self) -> None:
        unlink(self.place.prefix)

    def sender(self, channel: str) -> Callable[[Message], Any]:
        return partial(self.layer.send, channel)

    def receiver(self, channel: str, wait: bool) -> Callable[[], Any]:
        if not wait:
            return partial(self.layer.receive, [channel])
        if not WAITS:
            raise Unfit(f"receive of asgi_ipc {asgi_ipc.__version__} does not wait")
        return partial(self.layer.receive, [channel], True)

    def group_add(self, group: str, channel: str) -> None:
        self.layer.group_add(group, channel)

    def group_send(self, group: str, message: Message) -> None:
        self.layer.send_group(group, message)

    def recoveries(self) -> Callable[[], Known]:
        return partial(Recoveries().known, self.layer)

    def die_inside(self) -> None:
        """Kill this process in a critical section, while it holds the mutex."""
        store: Any = self.layer.message_store
        # Earlier revisions, which ``compare`` also runs, have another name for it.
        run = store.sections.exclusively if hasattr(store, "sections") else store._guarded
        run(os.kill, os.getpid(), signal.SIGKILL)


class Async(AsyncPeer):
    """``AsyncIPCChannelLayer``."""

    @classmethod
    def check(cls) -> None:
        if not WAITS:
            raise Unfit(f"asgi_ipc {asgi_ipc.__version__} has no asynchronous layer")

    async def connect(self) -> None:
        self.layer = asgi_ipc.AsyncIPCChannelLayer(prefix=self.place.prefix, **OPTIONS)

    async def disconnect(self) -> None:
        await self.layer.close()

    def remove(self) -> None:
        unlink(self.place.prefix)

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

    def recoveries(self) -> Callable[[], Known]:
        return partial(Recoveries().known, getattr(self.layer, "_layer", None))
