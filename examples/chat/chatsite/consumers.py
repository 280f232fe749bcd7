"""
A visitor's socket: it sends messages from the browser to the room's group, and from the group to the browser.

Each message carries the ids of the process through which it came in and of the process that delivers it.
"""

import os
from typing import Any
from urllib.parse import parse_qs

from channels.exceptions import ChannelFull
from channels.generic.websocket import AsyncJsonWebsocketConsumer

from .presence import Watch
from .rooms import MAX_TEXT, Visitor, group_of, here_group_of, tidy_name


class ChatConsumer(AsyncJsonWebsocketConsumer):
    """One tab in one room."""

    watch: Watch | None = None

    async def __call__(self, *args: Any) -> None:
        """Run the consumer. However it ends, it leaves the watch."""
        try:
            await super().__call__(*args)
        finally:
            if self.watch is not None:
                self.watch.leave(self)

    async def connect(self) -> None:
        """Add the visitor to the room, and announce the arrival."""
        self.room = self.scope["url_route"]["kwargs"]["room"]
        query = parse_qs(self.scope["query_string"].decode(errors="replace"))
        self.visitor = Visitor.on(self.channel_name, tidy_name(query.get("name", [""])[0]))
        self.membership = self.visitor.membership(self.channel_name)
        await self.accept()
        await self.send_json({"type": "welcome", "pid": os.getpid(), "id": self.visitor.id})
        await self.channel_layer.group_add(group_of(self.room), self.channel_name)
        await self.channel_layer.group_add(here_group_of(self.room), self.membership)
        self.watch = Watch.join(self.channel_layer, self.room, self)
        await self.announce()

    async def disconnect(self, code: int) -> None:
        """Remove the visitor from the room. If the process is killed, the layer does that."""
        if self.watch is not None:
            self.watch.leave(self)  # before the announcement
            await self.channel_layer.group_discard(group_of(self.room), self.channel_name)
            await self.channel_layer.group_discard(here_group_of(self.room), self.membership)
            await self.announce()

    async def announce(self) -> None:
        """Announce an arrival or departure: every process with sockets in the room updates its list."""
        await self.channel_layer.group_send(group_of(self.room), {"type": "chat.look"})

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        """Send the visitor's message to the room. A line that begins with ``/roll`` also goes to the bot."""
        text, id_ = (content.get("text"), content.get("id")) if isinstance(content, dict) else (None, None)
        if not (isinstance(text, str) and text.strip() and isinstance(id_, str) and len(id_) <= 40):
            await self.send_json({"type": "refused", "why": "This is not a valid message."})
            return
        if len(text) > MAX_TEXT:
            await self.send_json({"type": "refused", "why": f"A message can have at most {MAX_TEXT} characters."})
            return
        said = {"type": "chat.said", "id": id_, "name": self.visitor.name, "text": text, "pid": os.getpid()}
        await self.channel_layer.group_send(group_of(self.room), {**said, "visitor": self.visitor.id})
        command, _, dice = text.strip().partition(" ")
        if command == "/roll":
            await self.ask_bot(dice)

    async def ask_bot(self, dice: str) -> None:
        """Send a task to the channel that ``runworker`` listens on. The bot answers in the room."""
        task = {"type": "dice.roll", "room": self.room, "name": self.visitor.name, "dice": dice}
        try:
            await self.channel_layer.send("dice", task)
        except ChannelFull:
            await self.send_json({"type": "refused", "why": "The bot is too busy. Try again in a moment."})

    async def chat_said(self, event: dict[str, Any]) -> None:
        """Pass a message of the room to the browser."""
        await self.send_json({**event, "type": "said", "delivered_by": os.getpid()})

    async def chat_look(self, event: dict[str, Any]) -> None:
        """Query who is here, after an arrival or departure."""
        if self.watch is not None:
            self.watch.nudge()

    async def show_here(self, here: dict[str, Any]) -> None:
        """Send the visitors and the processes to the browser; called by the watch."""
        await self.send_json({"type": "here", **here})
