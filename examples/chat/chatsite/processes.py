"""
The processes of the site: each one is a member of the group ``chat-processes``, even if it serves no visitor.

No messages are sent to this group. A member's name is in an inbox that its process owns, so the layer drops
the member when the process dies. The rest of the name says what the process is: ``4711.worker``, ``4712.bot``.
"""

import os
import secrets
from dataclasses import dataclass
from typing import Any

from django.conf import settings

from asgi_ipc import IPCChannelLayer

#: No room has this group: those of the rooms begin with ``chat.``.
GROUP = "chat-processes"
#: Seconds after which a membership ends: about thirty years, because here only the process decides.
GROUP_EXPIRY = 1e9


@dataclass(frozen=True)
class Process:
    """A process of the chat: its id, and whether it is a ``worker`` or the ``bot``."""

    pid: int
    kind: str

    @classmethod
    def from_membership(cls, member: str) -> "Process":
        """Return the process for a member name of the group."""
        pid, kind = member.partition("!")[2].split(".")
        return cls(int(pid), kind)


def register(kind: str) -> IPCChannelLayer:
    """
    Add this process to the group. It is a member for as long as the returned layer is open.

    This uses the synchronous layer: some servers import the application in a running event loop, others without
    one. A lifespan event would not do, because Daphne sends none.
    """
    config = settings.CHANNEL_LAYERS["default"]["CONFIG"]
    layer = IPCChannelLayer(**{**config, "group_expiry": GROUP_EXPIRY})
    inbox = f"process.{secrets.token_hex(8)}!"
    layer.receive([inbox])  # the process that receives from an inbox owns it
    layer.group_add(GROUP, f"{inbox}{os.getpid()}.{kind}")
    return layer


async def list_processes(layer: Any) -> list[Process]:
    """Return the processes that live."""
    return list(map(Process.from_membership, await layer.group_channels(GROUP)))
