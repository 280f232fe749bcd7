"""The command line: ``python -m benchmarks [run|report|plot|compare]``; the default is ``run``."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import sys
from typing import Any, Callable, Dict, Iterator, List, Sequence

from . import compare, plots
from .adapters import PEERS
from .report import INSTALL, report, target_lines
from .suite import Suite
from .workloads import WORKLOADS

FOLDER = os.path.dirname(os.path.abspath(__file__))
#: The default folders of the results and of the environments of peers.
OUTPUT = os.path.join(FOLDER, "results")
ENVIRONMENTS = os.path.join(os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache")), "asgi-ipc-benchmarks")
RESULTS = "results.json"
TARGETS_HELP = "also print which performance targets of the developers were reached"
#: What a quick run measures unless it is told otherwise: what a newcomer needs to know, in about two minutes.
QUICK_WORKLOADS = ("pair", "payload", "backlog", "oneway", "roundtrip", "fanout", "idle", "recovery")
QUICK_FAMILIES = ("own", "memory", "redis", "queue")


def main(words: Sequence[str]) -> int:
    """Run a command and return its exit status."""
    commands: Dict[str, Callable[[Sequence[str]], int]] = {
        "run": run,
        "report": print_report,
        "plot": plot,
        "compare": compare_revisions,
    }
    if words and words[0] in commands:
        return commands[words[0]](words[1:])
    return run(words)


def run(words: Sequence[str]) -> int:
    """Measure; print the results, write them to a file, and draw them."""
    parser = run_parser()
    options = parser.parse_args(words)
    options.workloads = known(parser, "workload", options.workloads, WORKLOADS)
    peers = known(parser, "peer", [name for word in options.peers.split(",") for name in family(word)], PEERS)
    command = command_of(options)
    workloads = options.workloads or list(QUICK_WORKLOADS if options.quick else WORKLOADS)
    peers = peers or [name for name in PEERS if not options.quick or PEERS[name].family in QUICK_FAMILIES]
    suite = Suite(workloads, peers, options.quick, options.rounds, options.environments, options.old_python, say)
    suite.document["command"] = command
    say(f"Benchmarks of asgi_ipc and alternatives: {duration(options, workloads)}\n")
    try:
        suite.run()
    except KeyboardInterrupt:
        say("\nInterrupted. The results so far are kept.")
    if not suite.document["peers"]:
        say("\nNothing was measured, and no file was written: see what was left out, and why.")
        return 1
    finish(suite.document, options)
    return 0


def run_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure asgi_ipc and alternatives to it, print the figures, and draw them.",
        epilog="Other commands are report, plot and compare. Each of them has a --help.",
    )
    parser.add_argument(
        "workloads", nargs="*", metavar="WORKLOAD", help=f"what to measure: {', '.join(WORKLOADS)} (default: all)"
    )
    families = ", ".join(dict.fromkeys(spec.family for spec in PEERS.values()))
    parser.add_argument(
        "--peers",
        metavar="A,B,...",
        default="",
        help=f"what to compare: {', '.join(PEERS)}, or the groups of these, {families} (default: all)",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help=(
            f"take about two minutes: few, short rounds; by default only {', '.join(QUICK_WORKLOADS)}, "
            f"with the peers of {', '.join(QUICK_FAMILIES)}"
        ),
    )
    parser.add_argument("--targets", action="store_true", help=TARGETS_HELP)
    parser.add_argument(
        "--rounds", type=int, metavar="N", help="the number of rounds (default: depends on the workload)"
    )
    parser.add_argument(
        "--output", default=OUTPUT, metavar="FOLDER", help=f"where to write {RESULTS} and pictures ({OUTPUT})"
    )
    parser.add_argument(
        "--environments",
        default=ENVIRONMENTS,
        metavar="FOLDER",
        help=f"where to install the layers for Channels 1 ({ENVIRONMENTS})",
    )
    parser.add_argument("--old-python", metavar="PATH", help="a Python 3.9 or 3.10 for these (default: search)")
    return parser


def duration(options: argparse.Namespace, workloads: Sequence[str]) -> str:
    """Return in words which kind of run it is, and how long it takes."""
    if options.quick:
        few = len(workloads) < len(QUICK_WORKLOADS) or options.peers
        return "a quick run" + ("" if few or options.rounds else ", about two minutes")
    return "a full run" + ("" if options.workloads or options.peers else ", more than half an hour")


def finish(document: Dict[str, Any], options: argparse.Namespace) -> None:
    """Write and draw the results, and say where they are and what else can be measured."""
    os.makedirs(options.output, exist_ok=True)
    path = os.path.join(options.output, RESULTS)
    with open(path, "w", encoding="utf-8") as file:
        json.dump(document, file, indent=1, ensure_ascii=False)
    if options.targets:
        for text in target_lines(document):
            say(text)
    say(f"\nAll figures are in {short(path)}. To print them again:")
    say(f"  python -m benchmarks report{'' if options.output == OUTPUT else ' ' + shlex.quote(short(path))}")
    draw(document, options.output)
    if options.quick:
        if not options.workloads:
            for text in unnamed():
                say(text)
        say("To measure everything, with more and longer rounds, in more than half an hour:")
        say("  python -m benchmarks")
    say("To choose what to measure, see python -m benchmarks --help")


def unnamed() -> Iterator[str]:
    """Yield the workloads that a quick run leaves out, and the commands that measure them."""
    yield "Not in a quick run unless named:"
    for name in WORKLOADS:
        if name not in QUICK_WORKLOADS:
            yield f"  python -m benchmarks --quick {name:17}# {WORKLOADS[name].title}"


def short(path: str) -> str:
    """Return the path, relative to the current folder if it is in that."""
    relative = os.path.relpath(path)
    return path if relative.startswith(os.pardir) else relative


def family(word: str) -> List[str]:
    """Return the peers of a family, such as ``redis``. Any other word is the name of a peer."""
    return [name for name, spec in PEERS.items() if spec.family == word] or ([word] if word else [])


def command_of(options: argparse.Namespace) -> str:
    """Return the command line, without the options that name folders."""
    words = ["python", "-m", "benchmarks", *options.workloads]
    words += ["--peers", options.peers] if options.peers else []
    words += ["--quick"] if options.quick else []
    words += ["--rounds", str(options.rounds)] if options.rounds else []
    return shlex.join(words)


def print_report(words: Sequence[str]) -> int:
    """Print the report of a file of results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks report", description=print_report.__doc__)
    parser.add_argument("file", nargs="?", default=os.path.join(OUTPUT, RESULTS))
    parser.add_argument("--targets", action="store_true", help=TARGETS_HELP)
    options = parser.parse_args(words)
    for text in report(read(options.file), options.targets):
        say(text)
    return 0


def plot(words: Sequence[str]) -> int:
    """Draw the pictures of a file of results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks plot", description=plot.__doc__)
    parser.add_argument("file", nargs="?", default=os.path.join(OUTPUT, RESULTS))
    parser.add_argument(
        "--output", metavar="FOLDER", help="where to write the pictures (default: the folder of the file)"
    )
    options = parser.parse_args(words)
    return draw(read(options.file), options.output or os.path.dirname(os.path.abspath(options.file)))


def draw(document: Dict[str, Any], folder: str) -> int:
    try:
        paths = plots.draw(document, folder)
        if paths:
            say("Pictures:")
        for path in paths:
            say(f"  {short(path)}")
    except ImportError as error:
        say(f"No pictures: {error.name} is not installed. To install it: {INSTALL}")
        return 1
    return 0


def compare_revisions(words: Sequence[str]) -> int:
    """Measure two revisions of this repository in turns, and print the ratio of the second to the first."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks compare", description=compare_revisions.__doc__)
    parser.add_argument("before", help="a git revision, or . for the working tree")
    parser.add_argument("after", help="a git revision, or . for the working tree")
    parser.add_argument(
        "workloads",
        nargs="*",
        metavar="WORKLOAD",
        help=f"what to measure: {', '.join(compare.WORKLOADS)} (default: all except {', '.join(compare.SLOW)})",
    )
    parser.add_argument(
        "--rounds", type=int, default=compare.ROUNDS, metavar="N", help="rounds of each workload (%(default)s)"
    )
    parser.add_argument(
        "--starts", type=int, default=compare.STARTS, metavar="N", help="how often processes are started (%(default)s)"
    )
    parser.add_argument(
        "--fail-above", type=float, metavar="RATIO", help="exit with status 1 if an interval is entirely above"
    )
    parser.add_argument("--output", metavar="FILE", help="where to write the figures, as JSON")
    options = parser.parse_args(words)
    workloads = known(parser, "workload", options.workloads, compare.WORKLOADS)
    workloads = workloads or [name for name in compare.WORKLOADS if name not in compare.SLOW]
    try:
        compared = compare.compare(options.before, options.after, workloads, options.rounds, options.starts, say)
    except compare.NoRevision as error:
        parser.error(str(error))
    if options.output:
        with open(options.output, "w", encoding="utf-8") as file:
            json.dump(compared, file, indent=1)
    slower = [each for each in compared["results"] if options.fail_above and each["interval"][0] > options.fail_above]
    for each in slower:
        say(f"slower than {options.fail_above:g} x: {each['title']}")
    return 1 if slower else 0


def known(parser: argparse.ArgumentParser, kind: str, names: List[str], all_names: Dict[str, Any]) -> List[str]:
    """Return the names. Exits with an error if one is unknown."""
    for name in names:
        if name not in all_names:
            parser.error(f"there is no {kind} {name!r}; there are {', '.join(all_names)}")
    return names


def read(path: str) -> Dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:
            document: Dict[str, Any] = json.load(file)
    except (OSError, ValueError) as error:
        raise SystemExit(f"{path} cannot be read ({error}). python -m benchmarks writes such files.") from error
    return document


def say(text: str) -> None:
    print(text, flush=True)


def stop(*_: Any) -> None:
    """Act as Control-C does: end all processes, and write the results so far."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGINT, stop)  # in the background of a shell it would be ignored
    signal.signal(signal.SIGTERM, stop)
    sys.exit(main(sys.argv[1:]))
