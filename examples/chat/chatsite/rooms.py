"""
What a room is on the channel layer: two groups, and what is sent to them.

``chat.<room>``
    the channels of the sockets in the room. Whoever wants to say something in it, a consumer, the bot or a script,
    sends ``{"type": "chat.said", "name": ..., "text": ..., "pid": ...}`` to this group.
``chat.<room>.here``
    one name for each visitor. Nobody sends to these: that they are members is all they say. Each has the inbox of the
    visitor's worker process (``specific.<process>!``), so the layer drops them when that process dies, and carries the
    process id and the visitor's name behind it. So who is here is ``group_channels``, and kept nowhere else.
"""

import base64
import os
from dataclasses import asdict, dataclass
from typing import Any

#: For Django's URLs and for the browser's input field; the latter wants the hyphen escaped.
ROOM_PATTERN = r"[a-z0-9][a-z0-9\-]{0,29}"
MAX_NAME = 20
MAX_TEXT = 2000
#: Bytes of a visitor's name: as base64, and with all that stands before it, it must fit into a channel's name.
MAX_NAME_BYTES = 30


def group_of(room: str) -> str:
    """The group of the sockets in a room."""
    return f"chat.{room}"


def here_group_of(room: str) -> str:
    """The group whose members say who is in a room."""
    return f"chat.{room}.here"


def tidy_name(name: str) -> str:
    """A visitor's name as the room shows it: one line, not too long, and never empty."""
    name = " ".join(name.encode(errors="replace").decode().split())[:MAX_NAME]
    while len(name.encode()) > MAX_NAME_BYTES:
        name = name[:-1]
    return name.strip() or "Somebody"


@dataclass(frozen=True, order=True)
class Visitor:
    """Somebody in a room: the worker process that has the socket, the socket, and the name."""

    pid: int
    id: str
    name: str

    @classmethod
    def on(cls, channel: str, name: str) -> "Visitor":
        """The visitor whose socket has this channel, in this process."""
        return cls(os.getpid(), channel.partition("!")[2][-8:], name)

    def membership(self, channel: str) -> str:
        """The name that says in the ``here`` group that this visitor is there."""
        encoded = base64.urlsafe_b64encode(self.name.encode()).decode().rstrip("=")
        return f"{channel.partition('!')[0]}!{self.pid}.{self.id}.{encoded}"

    @classmethod
    def from_membership(cls, member: str) -> "Visitor":
        """The visitor that a member of the ``here`` group stands for."""
        pid, id_, encoded = member.partition("!")[2].split(".")
        name = base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)).decode()
        return cls(int(pid), id_, name)


async def who_is_here(layer: Any, room: str) -> list[dict[str, Any]]:
    """Everybody in a room, by worker process: those of a process that has just died are not among them."""
    members = await layer.group_channels(here_group_of(room))
    return [asdict(visitor) for visitor in sorted(map(Visitor.from_membership, members))]
