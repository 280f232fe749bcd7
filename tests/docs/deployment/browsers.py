"""
Stand for several browsers: connect to the site, run the script that sends news, and check that all get them.

This runs in the machine, as the site's user: ``browsers.py PROCESSES SCRIPT...``. It opens WebSockets until they
are spread over ``PROCESSES`` processes, which it sees from the members of the group. Then it runs the script,
and prints the number of sockets.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from typing import Any

from websockets.asyncio.client import connect

from asgi_ipc import IPCChannelLayer

URL = os.environ.get("URL", "ws://localhost:8000/ws/news/")
ORIGIN: Any = "http://localhost:8000"
#: Seconds to wait for a server to listen, and for a message to arrive.
LIMIT = 30.0
#: The most sockets to open. The kernel decides which process accepts one.
MOST = 200


async def open_socket() -> Any:
    """Connect, and wait for the server to listen if it does not yet."""
    deadline = time.monotonic() + LIMIT
    while True:
        try:
            return await connect(URL, origin=ORIGIN)
        except Exception:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.05)


def processes(layer: IPCChannelLayer) -> int:
    """Return over how many processes the members of the group are spread."""
    return len({member.partition("!")[0] for member in layer.group_channels("news")})


async def main(wanted: int, script: list[str]) -> None:
    """Open the sockets, run the script, and check what arrives."""
    sockets = [await open_socket()]
    if wanted:
        with IPCChannelLayer(prefix="mysite", mode=int(os.environ.get("MODE", "0o600"), 8)) as layer:
            while processes(layer) < wanted:
                if len(sockets) == MOST:
                    raise SystemExit(f"{MOST} sockets are spread over {processes(layer)} processes, not {wanted}")
                sockets.append(await open_socket())
    await asyncio.to_thread(subprocess.run, script, check=True, stdout=subprocess.DEVNULL)
    for socket in sockets:
        received = json.loads(await asyncio.wait_for(socket.recv(), LIMIT))
        if received["text"] != "The backup is done":
            raise SystemExit(f"a browser received {received}")
    await asyncio.gather(*(socket.close() for socket in sockets))


asyncio.run(main(int(sys.argv[1]), sys.argv[2:]))
