"""Consumers of WebSockets and of a plain channel."""

import json
import os

from channels import Group
from channels.generic.websockets import WebsocketConsumer


class Room(WebsocketConsumer):
    """A chat room: what one says, all hear. Who speaks is known by the session of the page."""

    http_user = True  # the user comes over from the session of the page, and stays in a session of the socket

    def connection_groups(self, room):
        """The group of the room."""
        return ["room-" + room]

    def connect(self, message, room):
        """Say who has come in, as soon as the socket is open."""
        message.channel_session["heard"] = 0
        message.reply_channel.send({"accept": True, "text": json.dumps({"hello": message.user.username})})

    def receive(self, text=None, bytes=None, room=None):  # noqa: A002  Channels calls it so
        """Pass on what was said, with who said it and how many times he or she has spoken on this socket."""
        session = self.message.channel_session
        session["heard"] += 1
        values = {"who": self.message.user.username, "nth": session["heard"], "pid": os.getpid()}
        said = {"bytes": bytes} if bytes else {"text": json.dumps(dict(values, text=text))}
        Group("room-" + room).send(said)


class Ordered(WebsocketConsumer):
    """Sends back what it hears, in the order in which it was said, whichever worker takes which message."""

    strict_ordering = True

    def receive(self, text=None, bytes=None):  # noqa: A002
        """Answer with the same words, and with who answers."""
        self.send(json.dumps({"text": text, "pid": os.getpid()}))


def job(message):
    """What a worker does that listens to a channel of its own: it tells the room who it is."""
    Group("room-" + message["room"]).send({"text": json.dumps({"job": message["text"], "pid": os.getpid()})})
