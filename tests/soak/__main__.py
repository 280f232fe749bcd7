"""The command line: ``PYTHONPATH=tests python -m soak --minutes 60``, at the top of a checkout."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m soak", description="Use one layer for an hour, in every way.")
    parser.add_argument("--minutes", type=int, default=60, help="how long, at least 3 (default: %(default)s)")
    parser.add_argument("--minute", type=float, default=60, help="seconds of a minute, to try the soak itself")
    parser.add_argument("--prefix", default=f"soak-{os.getpid()}", help="of the shared memory (default: %(default)s)")
    given = parser.parse_args()
    if given.minutes < 3:
        parser.error("--minutes must be at least 3: the thirds of the time are compared")
    os.environ["SOAK_PREFIX"] = given.prefix
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that it ends what it has started
    from .soak import Soak  # the settings of the site need the prefix

    with tempfile.TemporaryDirectory(prefix="asgi-ipc-soak-") as directory, Soak(given.prefix, directory) as soak:
        return soak.run(given.minutes, given.minute)


if __name__ == "__main__":
    sys.exit(main())
