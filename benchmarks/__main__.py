"""Run the benchmarks that are named, or all."""

from __future__ import annotations

import argparse
import sys

from . import backlog, kills, pair, recovery
from .measure import machine

BENCHMARKS = {"pair": pair.run, "backlog": backlog.run, "recovery": recovery.run, "kills": kills.run}


def main() -> int:
    """Print a report on each benchmark; the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="What the package costs, as ratios."
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"one of {', '.join(BENCHMARKS)} (default: all)"
    )
    names = parser.parse_args().names or list(BENCHMARKS)
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"there is no benchmark {unknown[0]!r}; there are {', '.join(BENCHMARKS)}")
    print(machine())
    for name in names:
        print(f"\n{name}")
        for line in BENCHMARKS[name]():
            print(f"  {line}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
