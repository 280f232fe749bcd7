"""The site: one room for all, and tasks that ``runworker`` processes answer."""

from __future__ import annotations

import contextlib
import os
from typing import Any

import django
from channels.consumer import AsyncConsumer
from channels.exceptions import ChannelFull
from channels.generic.websocket import AsyncJsonWebsocketConsumer
from channels.routing import ChannelNameRouter, ProtocolTypeRouter

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "soak.settings")
django.setup()

#: The channel from which the ``runworker`` processes receive.
WORK = "work"


class Room(AsyncJsonWebsocketConsumer):
    """Says what a client says to all clients, and hands tasks to a ``runworker`` process."""

    groups = ["room"]

    async def receive_json(self, content: dict[str, Any], **kwargs: Any) -> None:
        if "task" in content:
            try:
                await self.channel_layer.send(WORK, {"type": "work", "answer": self.channel_name, "content": content})
            except ChannelFull:
                await self.send_json({"refused": content["task"]})
        else:
            await self.channel_layer.group_send("room", {"type": "said", "content": content})

    async def said(self, event: dict[str, Any]) -> None:
        # The client may have left. Its disconnect follows, so go on: an exception here would end the consumer before it
        # leaves the group, and its channel would be a member as long as the process lives.
        with contextlib.suppress(OSError):
            await self.send_json(event["content"])


class Work(AsyncConsumer):
    """Answers tasks."""

    async def work(self, event: dict[str, Any]) -> None:
        with contextlib.suppress(ChannelFull):  # then the client notes a task that is lost
            await self.channel_layer.send(event["answer"], {"type": "said", "content": event["content"]})


application = ProtocolTypeRouter({"websocket": Room.as_asgi(), "channel": ChannelNameRouter({WORK: Work.as_asgi()})})
