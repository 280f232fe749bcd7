"""
A room on the channel layer: two groups, and the messages that are sent to them.

``chat.<room>``
    the channels of the sockets in the room. To say something in the room, a consumer, the bot or a script
    sends ``{"type": "chat.said", "name": ..., "text": ..., "pid": ...}`` to this group.
``chat.<room>.here``
    one name for each visitor. No messages are sent to these names: only the membership matters. Each name is
    in the inbox of the visitor's worker process (``specific.<process>!``), so the layer drops it when that
    process dies. The rest of the name contains the process id and the visitor's name. So ``group_channels``
    returns the visitors, and they are stored nowhere else.
"""

import base64
import os
from dataclasses import dataclass
from typing import Any

#: For Django's URLs and for the browser's input field, which needs the hyphen escaped.
ROOM_PATTERN = r"[a-z0-9][a-z0-9\-]{0,29}"
MAX_NAME = 20
MAX_TEXT = 2000
#: Limit of a visitor's name in bytes: its base64 form must fit into a channel name, behind the inbox and the
#: ids.
MAX_NAME_BYTES = 30


def group_of(room: str) -> str:
    """Return the group of the sockets in a room."""
    return f"chat.{room}"


def here_group_of(room: str) -> str:
    """Return the group whose members are the visitors of a room."""
    return f"chat.{room}.here"


def tidy_name(name: str) -> str:
    """Return a visitor's name as the room shows it: one line, not too long, and never empty."""
    name = " ".join(name.encode(errors="replace").decode().split())[:MAX_NAME]
    while len(name.encode()) > MAX_NAME_BYTES:
        name = name[:-1]
    return name.strip() or "Somebody"


@dataclass(frozen=True, order=True)
class Visitor:
    """A visitor of a room: the worker process of the socket, the socket's id, and the name."""

    pid: int
    id: str
    name: str

    @classmethod
    def on(cls, channel: str, name: str) -> "Visitor":
        """Return the visitor whose socket has this channel, in this process."""
        return cls(os.getpid(), channel.partition("!")[2][-8:], name)

    def membership(self, channel: str) -> str:
        """Return this visitor's member name in the ``here`` group."""
        encoded = base64.urlsafe_b64encode(self.name.encode()).decode().rstrip("=")
        return f"{channel.partition('!')[0]}!{self.pid}.{self.id}.{encoded}"

    @classmethod
    def from_membership(cls, member: str) -> "Visitor":
        """Return the visitor for a member name of the ``here`` group."""
        pid, id_, encoded = member.partition("!")[2].split(".")
        name = base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)).decode()
        return cls(int(pid), id_, name)


async def list_visitors(layer: Any, room: str) -> list[Visitor]:
    """Return the visitors of a room, ordered by worker process, without those of dead processes."""
    return sorted(map(Visitor.from_membership, await layer.group_channels(here_group_of(room))))
