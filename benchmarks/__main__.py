"""The command line: ``python -m benchmarks [run|report|plot|compare]``; the default is ``run``."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import sys
from typing import Any, Callable, Dict, List, Sequence

from . import compare, plots
from .adapters import PEERS
from .report import report, surroundings
from .suite import Suite
from .workloads import WORKLOADS

FOLDER = os.path.dirname(os.path.abspath(__file__))
#: The default folders of the results and of the environments of peers.
OUTPUT = os.path.join(FOLDER, "results")
ENVIRONMENTS = os.path.join(os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache")), "asgi-ipc-benchmarks")
RESULTS = "results.json"


def main(words: Sequence[str]) -> int:
    """Run a command; return the exit status."""
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
    """Measure, print and write the results, and draw them."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure asgi_ipc and its alternatives in turns, and draw the results.",
        epilog="Other commands: report FILE; plot FILE; compare REVISION REVISION. Each has a --help.",
    )
    parser.add_argument(
        "workloads", nargs="*", metavar="WORKLOAD", help=f"what to measure, of {', '.join(WORKLOADS)} (default: all)"
    )
    families = ", ".join(dict.fromkeys(spec.family for spec in PEERS.values()))
    parser.add_argument(
        "--peers",
        metavar="A,B,...",
        default="",
        help=f"which of {', '.join(PEERS)}, or of the families {families} (default: all)",
    )
    parser.add_argument("--quick", action="store_true", help="a few minutes in all: check that it works, not how fast")
    parser.add_argument("--rounds", type=int, metavar="N", help="number of rounds (default: each workload's own)")
    parser.add_argument("--output", default=OUTPUT, metavar="FOLDER", help=f"for {RESULTS} and pictures ({OUTPUT})")
    parser.add_argument(
        "--environments", default=ENVIRONMENTS, metavar="FOLDER", help=f"for old packages ({ENVIRONMENTS})"
    )
    parser.add_argument("--old-python", metavar="PATH", help="a Python 3.9 or 3.10 for old packages (default: search)")
    options = parser.parse_args(words)
    workloads = known(parser, "workload", options.workloads, WORKLOADS)
    peers = known(parser, "peer", [name for word in options.peers.split(",") for name in family(word)], PEERS)
    suite = Suite(
        workloads,
        peers,
        options.quick,
        options.rounds,
        options.environments,
        options.old_python,
        say,
    )
    suite.document["command"] = command_of(options)
    for text in surroundings(suite.document["environment"], suite.document["command"]):
        say(text)
    document = suite.document
    try:
        suite.run()
    except KeyboardInterrupt:
        say("interrupted: the results so far follow")
    os.makedirs(options.output, exist_ok=True)
    path = os.path.join(options.output, RESULTS)
    with open(path, "w", encoding="utf-8") as file:
        json.dump(document, file, indent=1, ensure_ascii=False)
    say("\n" + "=" * 40)
    for text in report(document):
        say(text)
    say(f"\nwritten: {path}")
    draw(document, options.output)
    return 0


def family(word: str) -> List[str]:
    """Return the peers of a family, such as ``redis``; of any other word, the word itself."""
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
    for text in report(read(parser.parse_args(words).file)):
        say(text)
    return 0


def plot(words: Sequence[str]) -> int:
    """Draw the pictures of a file of results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks plot", description=plot.__doc__)
    parser.add_argument("file", nargs="?", default=os.path.join(OUTPUT, RESULTS))
    parser.add_argument("--output", metavar="FOLDER", help="for pictures (default: the folder of the file)")
    options = parser.parse_args(words)
    return draw(read(options.file), options.output or os.path.dirname(os.path.abspath(options.file)))


def draw(document: Dict[str, Any], folder: str) -> int:
    try:
        for path in plots.draw(document, folder):
            say(f"drawn: {path}")
    except ImportError as error:
        say(f"not drawn: {error.name} is not installed (pip install asgi_ipc[bench])")
        return 1
    return 0


def compare_revisions(words: Sequence[str]) -> int:
    """Measure two revisions of this repository in turns, and print the ratios of the second to the first."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks compare", description=compare_revisions.__doc__)
    parser.add_argument("before", help="a git revision, or . for the working tree")
    parser.add_argument("after", help="the same")
    parser.add_argument("workloads", nargs="*", metavar="WORKLOAD", help=f"of {', '.join(compare.WORKLOADS)}")
    parser.add_argument("--rounds", type=int, default=compare.ROUNDS, metavar="N", help="of each (%(default)s)")
    parser.add_argument("--starts", type=int, default=compare.STARTS, metavar="N", help="of processes (%(default)s)")
    parser.add_argument("--fail-above", type=float, metavar="RATIO", help="exit with 1 if a whole interval is above")
    parser.add_argument("--output", metavar="FILE", help="for the figures, as JSON")
    options = parser.parse_args(words)
    workloads = known(parser, "workload", options.workloads, {name: name for name in compare.WORKLOADS})
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
    """Return the names, or all names if there are none; exit with an error if one is unknown."""
    for name in names:
        if name not in all_names:
            parser.error(f"there is no {kind} {name!r}; there are {', '.join(all_names)}")
    return names or list(all_names)


def read(path: str) -> Dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:
            document: Dict[str, Any] = json.load(file)
    except (OSError, ValueError) as error:
        raise SystemExit(f"{path} cannot be read ({error}): python -m benchmarks writes it") from error
    return document


def say(text: str) -> None:
    print(text, flush=True)


def stop(*_: Any) -> None:
    """End like Control-C: end all processes and write the results so far."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGINT, stop)  # in the background of a shell it would be ignored
    signal.signal(signal.SIGTERM, stop)
    sys.exit(main(sys.argv[1:]))
