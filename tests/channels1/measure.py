"""
Measure the time of one page through Daphne and one worker: ``python -m channels1.measure``, in ``tests``.

``--beside PYTHON``, which may be repeated, measures another installation alternately with this one, such as
one with asgi_ipc 1.4.2, so that both run under the same conditions. ``tox -e channels1-measure`` does that.
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

from .servers import Site

SHM = Path("/dev/shm")
VERSION = "from importlib.metadata import version; print('asgi_ipc', version('asgi_ipc'))"


def serve(python: str, stack: ExitStack) -> HTTPConnection:
    """Start a site with one worker, warm it up, and return a connection to it. It ends with ``stack``."""
    prefix = f"measure{os.getpid()}-{secrets.token_hex(4)}"

    def remove_objects() -> None:
        for left in SHM.iterdir() if SHM.is_dir() else ():
            if prefix in left.name:
                left.unlink()

    stack.callback(remove_objects)
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
    """Request one page, read its body, and return the time in milliseconds."""
    began = time.perf_counter()
    connection.request("GET", "/")
    answer = connection.getresponse()
    answer.read()
    assert answer.status == 200, answer.status
    return (time.perf_counter() - began) * 1000


def main() -> None:
    """Measure each installation, and print its median, 99th percentile and ratio to the first median."""
    parser = argparse.ArgumentParser(description="Median HTTP request through Daphne and one worker.")
    parser.add_argument("--beside", action="append", default=[], metavar="PYTHON", help="another installation")
    parser.add_argument("--pages", type=int, default=400, help="pages of each installation (default: 400)")
    options = parser.parse_args()

    with ExitStack() as stack:
        sites: dict[str, HTTPConnection] = {}
        for python in [sys.executable, *options.beside]:
            name = subprocess.check_output([python, "-c", VERSION], text=True).strip()
            sites[name] = serve(python, stack)
        times: dict[str, list[float]] = {name: [] for name in sites}
        while len(times[name]) < options.pages:
            for name, connection in sites.items():
                times[name] += [visit(connection) for _ in range(20)]

    first = statistics.median(next(iter(times.values())))
    for name, taken in times.items():
        median, slow = statistics.median(taken), statistics.quantiles(taken, n=100)[98]
        print(f"{name:<20} median {median:6.1f} ms   p99 {slow:6.1f} ms   x {median / first:.1f}")


if __name__ == "__main__":
    main()
