"""An ASGI application with a consumer of every kind that Channels 4 has, as the tests use them."""

from __future__ import annotations

import os
from typing import Any, Dict, List, Optional

from asgiref.sync import async_to_sync
from channels.consumer import AsyncConsumer, SyncConsumer
from channels.exceptions import ChannelFull, StopConsumer
from channels.generic.http import AsyncHttpConsumer
from channels.generic.websocket import (
    AsyncJsonWebsocketConsumer,
    AsyncWebsocketConsumer,
    JsonWebsocketConsumer,
    WebsocketConsumer,
)
from channels.routing import ChannelNameRouter, ProtocolTypeRouter, URLRouter
from django.urls import path

urlpatterns: List[Any] = []


class Plain(AsyncConsumer):
    """No more than a consumer: it joins a group when it is told to, and says what comes from there."""

    async def test_join(self, message: Dict[str, Any]) -> None:
        await self.channel_layer.group_add(message["group"], self.channel_name)
        await self.send({"type": "joined", "channel": self.channel_name})

    async def test_leave(self, message: Dict[str, Any]) -> None:
        await self.channel_layer.group_discard(message["group"], self.channel_name)
        await self.send({"type": "left"})

    async def test_event(self, message: Dict[str, Any]) -> None:
        await self.send({"type": "event", "n": message["n"]})

    async def test_stop(self, message: Dict[str, Any]) -> None:
        raise StopConsumer


class PlainSync(SyncConsumer):
    """The same, its handlers in threads."""

    def test_join(self, message: Dict[str, Any]) -> None:
        async_to_sync(self.channel_layer.group_add)(message["group"], self.channel_name)
        self.send({"type": "joined", "channel": self.channel_name})

    def test_leave(self, message: Dict[str, Any]) -> None:
        async_to_sync(self.channel_layer.group_discard)(message["group"], self.channel_name)
        self.send({"type": "left"})

    def test_event(self, message: Dict[str, Any]) -> None:
        self.send({"type": "event", "n": message["n"]})

    def test_stop(self, message: Dict[str, Any]) -> None:
        raise StopConsumer


class AsyncText(AsyncWebsocketConsumer):
    """Texts to and from everybody; the groups are joined and left by Channels itself."""

    groups = ["texts"]

    async def receive(self, text_data: Optional[str] = None, bytes_data: Optional[bytes] = None) -> None:
        event = {"type": "say", "text": text_data, "bytes": bytes_data}
        await self.channel_layer.group_send("texts", event)

    async def say(self, event: Dict[str, Any]) -> None:
        await self.send(text_data=event["text"], bytes_data=event["bytes"])


class SyncText(WebsocketConsumer):
    """The same, its handlers in threads."""

    groups = ["texts"]

    def receive(self, text_data: Optional[str] = None, bytes_data: Optional[bytes] = None) -> None:
        event = {"type": "say", "text": text_data, "bytes": bytes_data}
        async_to_sync(self.channel_layer.group_send)("texts", event)

    def say(self, event: Dict[str, Any]) -> None:
        self.send(text_data=event["text"], bytes_data=event["bytes"])


class AsyncJson(AsyncJsonWebsocketConsumer):
    """Rooms, and a channel that anybody may fill."""

    async def connect(self) -> None:
        self.room = self.scope["url_route"]["kwargs"]["room"]
        await self.channel_layer.group_add(self.room, self.channel_name)
        await self.accept()
        await self.send_json({"channel": self.channel_name, "pid": os.getpid()})

    async def disconnect(self, code: int) -> None:
        await self.channel_layer.group_discard(self.room, self.channel_name)

    async def receive_json(self, content: Dict[str, Any], **kwargs: Any) -> None:
        if "fill" in content:
            await self.send_json({"sent": await self.fill(content["fill"])})
        else:
            await self.channel_layer.group_send(self.room, {"type": "say", **content})

    async def fill(self, channel: str) -> int:
        """Send to a channel until it is full: how many messages it took."""
        sent = 0
        while True:
            try:
                await self.channel_layer.send(channel, {"n": sent})
            except ChannelFull:
                return sent
            sent += 1

    async def say(self, event: Dict[str, Any]) -> None:
        await self.send_json({"said": event["text"], "pid": os.getpid()})


class SyncJson(JsonWebsocketConsumer):
    """The same, its handlers in threads."""

    def connect(self) -> None:
        self.room = self.scope["url_route"]["kwargs"]["room"]
        async_to_sync(self.channel_layer.group_add)(self.room, self.channel_name)
        self.accept()
        self.send_json({"channel": self.channel_name, "pid": os.getpid()})

    def disconnect(self, code: int) -> None:
        async_to_sync(self.channel_layer.group_discard)(self.room, self.channel_name)

    def receive_json(self, content: Dict[str, Any], **kwargs: Any) -> None:
        if "fill" in content:
            self.send_json({"sent": self.fill(content["fill"])})
        else:
            async_to_sync(self.channel_layer.group_send)(self.room, {"type": "say", **content})

    def fill(self, channel: str) -> int:
        """Send to a channel until it is full: how many messages it took."""
        sent = 0
        while True:
            try:
                async_to_sync(self.channel_layer.send)(channel, {"n": sent})
            except ChannelFull:
                return sent
            sent += 1

    def say(self, event: Dict[str, Any]) -> None:
        self.send_json({"said": event["text"], "pid": os.getpid()})


class LongPoll(AsyncHttpConsumer):
    """A request that is answered with the next thing said in a group: it waits on a channel that it has made."""

    async def handle(self, body: bytes) -> None:
        channel = await self.channel_layer.new_channel("poll")
        await self.channel_layer.group_add("polls", channel)
        event = await self.channel_layer.receive(channel)
        await self.channel_layer.group_discard("polls", channel)
        await self.send_response(200, event["text"].encode(), headers=[(b"Content-Type", b"text/plain")])


class Answering(AsyncConsumer):
    """What ``runworker`` runs: answers every task in the channel that the task names."""

    async def task(self, message: Dict[str, Any]) -> None:
        answer = {"channel": self.scope["channel"], "n": message["n"], "pid": os.getpid()}
        await self.channel_layer.send(message["answer"], answer)


class AnsweringSync(SyncConsumer):
    """The same, in threads."""

    def task(self, message: Dict[str, Any]) -> None:
        answer = {"channel": self.scope["channel"], "n": message["n"], "pid": os.getpid()}
        async_to_sync(self.channel_layer.send)(message["answer"], answer)


application = ProtocolTypeRouter(
    {
        "http": URLRouter([path("poll/", LongPoll.as_asgi())]),
        "websocket": URLRouter(
            [
                path("async-text/", AsyncText.as_asgi()),
                path("sync-text/", SyncText.as_asgi()),
                path("async-json/<slug:room>/", AsyncJson.as_asgi()),
                path("sync-json/<slug:room>/", SyncJson.as_asgi()),
            ]
        ),
        "channel": ChannelNameRouter({"tasks": Answering.as_asgi(), "tasks-sync": AnsweringSync.as_asgi()}),
    }
)
