"""Consumers of WebSockets and of a plain channel."""

import json
import os

from channels import Group
from channels.generic.websockets import WebsocketConsumer


class Room(WebsocketConsumer):
    """A chat room: every message goes to all sockets of the room, with the user of the page's session."""

    http_user = True  # copy the user from the page's session into the socket's session

    def connection_groups(self, room):
        """Return the group of the room."""
        return ["room-" + room]

    def connect(self, message, room):
        """Accept the socket and greet it with its user name."""
        message.channel_session["count"] = 0
        message.reply_channel.send({"accept": True, "text": json.dumps({"hello": message.user.username})})

    def receive(self, text=None, bytes=None, room=None):  # noqa: A002  Channels passes it by this name
        """Send the message to the room, with the user name and the number of messages on this socket."""
        session = self.message.channel_session
        session["count"] += 1
        values = {"user": self.message.user.username, "count": session["count"], "pid": os.getpid()}
        message = {"bytes": bytes} if bytes else {"text": json.dumps(dict(values, text=text))}
        Group("room-" + room).send(message)


class Ordered(WebsocketConsumer):
    """Sends each message back, in order, across workers."""

    strict_ordering = True

    def receive(self, text=None, bytes=None):  # noqa: A002
        """Answer with the same text and the worker's process id."""
        self.send(json.dumps({"text": text, "pid": os.getpid()}))


def job(message):
    """Handle a job of the channel ``site.job``: send its text and the worker's process id to the room."""
    Group("room-" + message["room"]).send({"text": json.dumps({"job": message["text"], "pid": os.getpid()})})
