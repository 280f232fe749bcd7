"""A script that sends one message to the room of the site, and ends: ``python -m soak.script``."""

from __future__ import annotations

import os

from stress.workers import OPTIONS

from asgi_ipc import IPCChannelLayer


def main() -> None:
    with IPCChannelLayer(os.environ["SOAK_PREFIX"], **OPTIONS) as layer:
        layer.send_group("room", {"type": "said", "content": {"from": "a script"}})


if __name__ == "__main__":
    main()
