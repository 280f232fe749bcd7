"""
Run the storm for some seconds; ``storm.py`` says what must be true in it.

It is short unless ``--exhaustive`` is given. ``ASGI_IPC_STORM_SECONDS`` sets its duration,
``ASGI_IPC_STORM_SEED`` repeats its random choices (but not their timing).
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

#: Seconds of a storm with ``--exhaustive``, and without it.
SECONDS = 20.0, 8.0
SEED = os.environ.get("ASGI_IPC_STORM_SEED") or secrets.token_hex(4)


def test_a_storm_loses_doubles_and_damages_no_message(prefix: str, extent: Extent) -> None:
    """The storm runs in its own process group and with a timeout, so that no process outlives it."""
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
        output, _ = process.communicate(timeout=3 * seconds + 120)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    sys.stdout.write(output)
    assert process.returncode == 0, output
    counts = re.search(r"(\d+) messages sent.* (\d+) processes killed, (\d+) stopped, (\d+) recoveries", output)
    assert counts, output
    assert all(int(number) for number in counts.groups()), f"the storm did not send, kill, stop or recover: {output}"
