"""
How long one page takes through Daphne and one worker: ``python -m channels1.measure``, in ``tests``.

``--beside PYTHON``, which may be given several times, measures a second installation in turns with this one, such as
one with asgi_ipc 1.4.2, so that both see the same machine; ``tox -e channels1-measure`` does that.
"""

from __future__ import annotations

import argparse
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from http.client import HTTPConnection
from pathlib import Path
from typing import Dict, List

from .servers import Site

SHM = Path("/dev/shm")
VERSION = "from importlib.metadata import version; print('asgi_ipc', version('asgi_ipc'))"


def serve(python: str, stack: ExitStack) -> HTTPConnection:
    """Start a site with one worker, warm: a connection to its Daphne. The site ends with the stack."""
    prefix = f"measure{os.getpid()}-{secrets.token_hex(4)}"

    def forget() -> None:
        for left in SHM.iterdir() if SHM.is_dir() else ():
            if prefix in left.name:
                left.unlink()

    stack.callback(forget)
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    site = Site(prefix, folder, python=python)
    stack.callback(site.clean_up)
    site.make_tables()
    daphne = site.daphne()
    site.worker()
    connection = daphne.connect()
    stack.callback(connection.close)
    for _ in range(20):
        visit(connection)
    return connection


def visit(connection: HTTPConnection) -> float:
    """Milliseconds for one page, its body read."""
    began = time.perf_counter()
    connection.request("GET", "/")
    answer = connection.getresponse()
    answer.read()
    assert answer.status == 200, answer.status
    return (time.perf_counter() - began) * 1000


def main() -> None:
    """Measure, and print medians, the slowest of a hundred, and how many times the first one's median that is."""
    parser = argparse.ArgumentParser(description="Median HTTP request through Daphne and one worker.")
    parser.add_argument("--beside", action="append", default=[], metavar="PYTHON", help="another installation")
    parser.add_argument("--pages", type=int, default=400, help="pages of each installation (default: 400)")
    options = parser.parse_args()

    with ExitStack() as stack:
        sites: Dict[str, HTTPConnection] = {}
        for python in [sys.executable, *options.beside]:
            name = subprocess.check_output([python, "-c", VERSION], text=True).strip()
            sites[name] = serve(python, stack)
        times: Dict[str, List[float]] = {name: [] for name in sites}
        while len(times[name]) < options.pages:
            for name, connection in sites.items():
                times[name] += [visit(connection) for _ in range(20)]

    first = statistics.median(next(iter(times.values())))
    for name, taken in times.items():
        median, slow = statistics.median(taken), statistics.quantiles(taken, n=100)[98]
        print(f"{name:<20} median {median:6.1f} ms   p99 {slow:6.1f} ms   x {median / first:.1f}")


if __name__ == "__main__":
    main()
