"""The two pages: the door, which asks for a name, and a room. A room's messages come through the socket."""

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from .commands import post_command
from .rooms import MAX_NAME, MAX_TEXT, ROOM_PATTERN


def door(request: HttpRequest) -> HttpResponse:
    """Return the page that asks for a name and a room."""
    return render(
        request,
        "chatsite/door.html",
        {"rooms": settings.CHAT_ROOMS, "room_pattern": ROOM_PATTERN, "max_name": MAX_NAME},
    )


def room(request: HttpRequest, room: str) -> HttpResponse:
    """Return the page of a room."""
    prefix = settings.CHANNEL_LAYERS["default"]["CONFIG"]["prefix"]
    rooms = settings.CHAT_ROOMS if room in settings.CHAT_ROOMS else [*settings.CHAT_ROOMS, room]
    return render(
        request,
        "chatsite/room.html",
        {
            "room": room,
            "rooms": rooms,
            "room_pattern": ROOM_PATTERN,
            "max_name": MAX_NAME,
            "max_text": MAX_TEXT,
            "server": settings.CHAT_SERVER,
            "prefix": prefix,
            "command": post_command(prefix, room),
        },
    )
