"""An ASGI channel layer in POSIX shared memory: no server, no broker, no daemon."""

from __future__ import annotations

from .aio import AsyncIPCChannelLayer
from .core import IPCChannelLayer
from .exceptions import (
    ChannelFull,
    GroupStoreFull,
    MemoryFull,
    MessageTooLarge,
    SegmentBusy,
    SegmentCorrupt,
    SegmentError,
    SegmentGone,
    SegmentMismatch,
    SegmentRefused,
    TooManyProcesses,
)

__version__ = "2.0.0"

__all__ = [
    "AsyncIPCChannelLayer",
    "ChannelFull",
    "GroupStoreFull",
    "IPCChannelLayer",
    "MemoryFull",
    "MessageTooLarge",
    "SegmentBusy",
    "SegmentCorrupt",
    "SegmentError",
    "SegmentGone",
    "SegmentMismatch",
    "SegmentRefused",
    "TooManyProcesses",
    "__version__",
]
