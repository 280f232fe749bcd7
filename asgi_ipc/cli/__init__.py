"""
The command line, ``asgi-ipc`` or ``python -m asgi_ipc``: it reads the arguments and calls what does the work.
"""

from __future__ import annotations

__all__ = ["main"]

import argparse
import math
from typing import Callable, Optional, Sequence, Union

from .. import __version__
from ..demo.run import DemoOptions, run_demo
from .unlink import unlink


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """
    Run one command, by default that of ``sys.argv``; returns the exit status.

    Wrong arguments end with ``SystemExit(2)``, as argparse does it.
    """
    chosen = _parser().parse_args(arguments)
    if chosen.command == "unlink":
        return unlink(chosen.prefix)
    return run_demo(DemoOptions(chosen.seconds, chosen.senders, chosen.receivers, chosen.kill))


def _at_most(limit: int, kind: Callable[[str], Union[int, float]]) -> Callable[[str], Union[int, float]]:
    """A reader of positive numbers up to ``limit``, for argparse."""

    def read(text: str) -> Union[int, float]:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not 0 < value <= limit:
            raise argparse.ArgumentTypeError(f"{text!r} is no number above 0 and up to {limit}")
        return value

    return read


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="asgi-ipc", description="A channel layer in POSIX shared memory: what an operator needs."
    )
    parser.add_argument("--version", action="version", version=f"asgi_ipc {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    demo = commands.add_parser(
        "demo",
        help="see it work: several processes, some of them killed, every message counted",
        description="Senders cut the files of this package into messages, receivers put them together again, "
        "all in processes of their own; some are killed with SIGKILL, and the others go on. At the end every "
        "message is accounted for. It uses shared memory under a prefix of its own and leaves none behind.",
    )
    demo.add_argument(
        "--seconds", type=_at_most(86400, float), default=6.0, help="how long to send (default: 6)"
    )
    demo.add_argument(
        "--senders", type=_at_most(100, int), default=2, help="processes that send (default: 2)"
    )
    demo.add_argument(
        "--receivers", type=_at_most(100, int), default=2, help="processes that receive (default: 2)"
    )
    demo.add_argument(
        "--kill",
        choices=("sender", "receiver", "both", "none"),
        default="both",
        help="whom to kill (default: both)",
    )

    remove = commands.add_parser(
        "unlink",
        help="remove the shared memory of a prefix, for everybody",
        description="Remove the segments and semaphores of the layers with this prefix: messages that wait "
        "and group memberships are lost. Running processes notice within a second and begin with an empty "
        "layer. Segments of other versions, of asgi_ipc 1.x and damaged ones are removed too; what another "
        "user owns is not.",
    )
    remove.add_argument(
        "prefix", metavar="PREFIX", help='that of the layers ("asgi" if they were given none)'
    )
    return parser
