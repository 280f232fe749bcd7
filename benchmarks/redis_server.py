"""
A Redis server for the peers that need one. It listens on loopback and on a unix socket, without persistence.
"""

from __future__ import annotations

__all__ = ["redis_server"]

import os
import shutil
import socket
import subprocess
import time
from contextlib import contextmanager
from typing import Dict, Iterator, Tuple

#: Seconds that the server has to start or to end.
PATIENCE = 10.0


@contextmanager
def redis_server(folder: str) -> Iterator[Tuple[Dict[str, str], str]]:
    """A context manager: (addresses by "tcp" and "unix", version), or ({}, the reason why there is no server)."""
    program = shutil.which("redis-server")
    if program is None:
        yield {}, "there is no redis-server on the PATH (Debian: apt-get install redis-server)"
        return
    port, path = free_port(), os.path.join(folder, "redis.sock")
    log = os.path.join(folder, "redis.log")
    words = ["--bind", "127.0.0.1", "--port", str(port), "--unixsocket", path]
    words += ["--save", "", "--appendonly", "no", "--dir", folder, "--logfile", log]
    # In some workloads subscribers are slower than the sender: do not disconnect them.
    words += ["--client-output-buffer-limit", "pubsub", "0", "0", "0"]
    server = subprocess.Popen([program, *words], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        if wait_for(server, port, path):
            version = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
            yield {"tcp": f"redis://127.0.0.1:{port}/0", "unix": f"unix://{path}"}, version.split("sha=")[0].strip()
        else:
            yield {}, f"{program} did not start: {last_line(log)}"
    finally:
        server.terminate()
        try:
            server.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(server: subprocess.Popen[bytes], port: int, path: str) -> bool:
    """Return True if both addresses accept connections within ``PATIENCE``."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and server.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            if os.path.exists(path):
                return True
        except OSError:
            pass
        time.sleep(0.05)
    return False


def last_line(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return (file.read().splitlines() or ["it printed no error"])[-1]
    except OSError:
        return "it printed no error"
