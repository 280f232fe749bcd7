"""
The storm, for a while: see ``storm.py`` for what must be true in it.

It is short unless ``--exhaustive`` is given.  ``ASGI_IPC_STORM_SECONDS`` makes it longer, ``ASGI_IPC_STORM_SEED``
repeats its troubles (not the moments they hit).
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import signal
import subprocess
import sys
from pathlib import Path

from helpers.extent import Extent

import asgi_ipc

#: With ``--exhaustive``, and without it.
SECONDS = 20.0, 8.0
SEED = os.environ.get("ASGI_IPC_STORM_SEED") or secrets.token_hex(4)


def test_nothing_is_lost_doubled_or_torn_in_a_storm(prefix: str, extent: Extent) -> None:
    """In a process group of its own, with a limit: nobody may outlive this test."""
    seconds = extent.amount("ASGI_IPC_STORM_SECONDS", *SECONDS)
    storm = Path(__file__).with_name("storm.py")
    command = [sys.executable, str(storm), "--seconds", str(seconds), "--seed", SEED, "--prefix", prefix]
    package = str(Path(asgi_ipc.__file__).parent.parent)
    path = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        start_new_session=True,
    )
    try:
        said, _ = process.communicate(timeout=3 * seconds + 120)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    sys.stdout.write(said)
    assert process.returncode == 0, said
    troubles = re.search(r"(\d+) messages sent.* (\d+) processes killed, (\d+) stopped, (\d+) repairs", said)
    assert troubles, said
    assert all(int(number) for number in troubles.groups()), f"a storm that hit nobody proves nothing: {said}"
