"""
The command line, ``asgi-ipc`` or ``python -m asgi_ipc``: parses the arguments and runs a command.
"""

from __future__ import annotations

__all__ = ["main"]

import argparse
import math
from collections.abc import Callable, Sequence

from .. import __version__
from ..demo.run import DemoOptions, run_demo
from .unlink import unlink


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Run one command, by default that of ``sys.argv``, and return the exit status.

    Invalid arguments raise ``SystemExit(2)``, as argparse does.
    """
    chosen = _parser().parse_args(arguments)
    if chosen.command == "unlink":
        return unlink(chosen.prefix)
    return run_demo(DemoOptions(chosen.seconds, chosen.senders, chosen.receivers, chosen.kill))


def _at_most(limit: int, kind: Callable[[str], int | float]) -> Callable[[str], int | float]:
    """Return an argparse type for positive numbers up to ``limit``."""

    def read(text: str) -> int | float:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not 0 < value <= limit:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0 and at most {limit}")
        return value

    return read


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="asgi-ipc", description="A channel layer in POSIX shared memory: commands for operators."
    )
    parser.add_argument("--version", action="version", version=f"asgi_ipc {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    demo = commands.add_parser(
        "demo",
        help="demonstrate the layer: kill some of several processes, and account for every message",
        description="Senders split the modules of this package into messages, and receivers reassemble them. Each "
        "sender and each receiver is a separate process. Some are killed with SIGKILL, and the others continue. At "
        "the end, the demo accounts for every message. It uses its own prefix, and removes its shared memory.",
    )
    demo.add_argument(
        "--seconds", type=_at_most(86400, float), default=6.0, help="how long to send, in seconds (default: 6)"
    )
    demo.add_argument(
        "--senders", type=_at_most(100, int), default=2, help="how many processes send (default: 2)"
    )
    demo.add_argument(
        "--receivers", type=_at_most(100, int), default=2, help="how many processes receive (default: 2)"
    )
    demo.add_argument(
        "--kill",
        choices=("sender", "receiver", "both", "none"),
        default="both",
        help="which processes to kill (default: both)",
    )

    remove = commands.add_parser(
        "unlink",
        help="remove the shared memory of a prefix, for all processes",
        description="Remove the segments and semaphores of the layers with this prefix. Waiting messages and "
        "group memberships are lost. Running processes notice within a second and continue with an empty "
        "layer. Segments of other versions and of asgi_ipc 1.x, and damaged ones, are removed too. Objects of "
        "another user are not removed.",
    )
    remove.add_argument(
        "prefix", metavar="PREFIX", help='the option prefix of the layers, which is "asgi" by default'
    )
    return parser
