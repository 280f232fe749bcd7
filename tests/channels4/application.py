"""An ASGI application with a consumer of every kind that Channels 4 has."""

from __future__ import annotations

import os
from typing import Any

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

urlpatterns: list[Any] = []


class Plain(AsyncConsumer):
    """A bare consumer: it joins and leaves a group when told to, and reports the events that it receives."""

    async def test_join(self, message: dict[str, Any]) -> None:
        await self.channel_layer.group_add(message["group"], self.channel_name)
        await self.send({"type": "joined", "channel": self.channel_name})

    async def test_leave(self, message: dict[str, Any]) -> None:
        await self.channel_layer.group_discard(message["group"], self.channel_name)
        await self.send({"type": "left"})

    async def test_event(self, message: dict[str, Any]) -> None:
        await self.send({"type": "event", "n": message["n"]})

    async def test_stop(self, message: dict[str, Any]) -> None:
        raise StopConsumer


class PlainSync(SyncConsumer):
    """The same with synchronous handlers, which run in threads."""

    def test_join(self, message: dict[str, Any]) -> None:
        async_to_sync(self.channel_layer.group_add)(message["group"], self.channel_name)
        self.send({"type": "joined", "channel": self.channel_name})

    def test_leave(self, message: dict[str, Any]) -> None:
        async_to_sync(self.channel_layer.group_discard)(message["group"], self.channel_name)
        self.send({"type": "left"})

    def test_event(self, message: dict[str, Any]) -> None:
        self.send({"type": "event", "n": message["n"]})

    def test_stop(self, message: dict[str, Any]) -> None:
        raise StopConsumer


class AsyncText(AsyncWebsocketConsumer):
    """Sends each text or binary frame to all sockets; Channels itself joins and leaves the groups."""

    groups = ["texts"]

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        event = {"type": "say", "text": text_data, "bytes": bytes_data}
        await self.channel_layer.group_send("texts", event)

    async def say(self, event: dict[str, Any]) -> None:
        await self.send(text_data=event["text"], bytes_data=event["bytes"])


class SyncText(WebsocketConsumer):
    """The same with synchronous handlers, which run in threads."""

    groups = ["texts"]

    def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        event = {"type": "say", "text": text_data, "bytes": bytes_data}
        async_to_sync(self.channel_layer.group_send)("texts", event)

    def say(self, event: dict[str, Any]) -> None:
        self.send(text_data=event["text"], bytes_data=event["bytes"])


class AsyncJson(AsyncJsonWebsocketConsumer):
    """A socket in a room; on request, it fills a channel."""

    async def connect(self) -> None:
        self.room = self.scope["url_route"]["kwargs"]["room"]
        await self.channel_layer.group_add(self.room, self.channel_name)
        await self.accept()
        await self.send_json({"channel": self.channel_name, "pid": os.getpid()})

    async def disconnect(self, code: int) -> None:
        await self.channel_layer.group_discard(self.room, self.channel_name)

    async def receive_json(self, content: dict[str, Any], **kwargs: Any) -> None:
        if "fill" in content:
            await self.send_json({"sent": await self.fill(content["fill"])})
        else:
            await self.channel_layer.group_send(self.room, {"type": "say", **content})

    async def fill(self, channel: str) -> int:
        """Send to a channel until it is full; return the number of messages sent."""
        sent = 0
        while True:
            try:
                await self.channel_layer.send(channel, {"n": sent})
            except ChannelFull:
                return sent
            sent += 1

    async def say(self, event: dict[str, Any]) -> None:
        await self.send_json({"said": event["text"], "pid": os.getpid()})


class SyncJson(JsonWebsocketConsumer):
    """The same with synchronous handlers, which run in threads."""

    def connect(self) -> None:
        self.room = self.scope["url_route"]["kwargs"]["room"]
        async_to_sync(self.channel_layer.group_add)(self.room, self.channel_name)
        self.accept()
        self.send_json({"channel": self.channel_name, "pid": os.getpid()})

    def disconnect(self, code: int) -> None:
        async_to_sync(self.channel_layer.group_discard)(self.room, self.channel_name)

    def receive_json(self, content: dict[str, Any], **kwargs: Any) -> None:
        if "fill" in content:
            self.send_json({"sent": self.fill(content["fill"])})
        else:
            async_to_sync(self.channel_layer.group_send)(self.room, {"type": "say", **content})

    def fill(self, channel: str) -> int:
        """Send to a channel until it is full; return the number of messages sent."""
        sent = 0
        while True:
            try:
                async_to_sync(self.channel_layer.send)(channel, {"n": sent})
            except ChannelFull:
                return sent
            sent += 1

    def say(self, event: dict[str, Any]) -> None:
        self.send_json({"said": event["text"], "pid": os.getpid()})


class LongPoll(AsyncHttpConsumer):
    """A request that is answered with the next event of a group, received on a new channel."""

    async def handle(self, body: bytes) -> None:
        channel = await self.channel_layer.new_channel("poll")
        await self.channel_layer.group_add("polls", channel)
        event = await self.channel_layer.receive(channel)
        await self.channel_layer.group_discard("polls", channel)
        await self.send_response(200, event["text"].encode(), headers=[(b"Content-Type", b"text/plain")])


class Answering(AsyncConsumer):
    """A consumer for ``runworker``: it answers every task in the channel that the task names."""

    async def task(self, message: dict[str, Any]) -> None:
        answer = {"channel": self.scope["channel"], "n": message["n"], "pid": os.getpid()}
        await self.channel_layer.send(message["answer"], answer)


class AnsweringSync(SyncConsumer):
    """The same with a synchronous handler, which runs in a thread."""

    def task(self, message: dict[str, Any]) -> None:
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
