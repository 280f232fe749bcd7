"""The command line: ``python -m benchmarks [run|report|plot|compare]``; without a word it runs everything."""

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
#: Where results go, and where environments of peers are kept, unless told otherwise.
OUTPUT = os.path.join(FOLDER, "results")
ENVIRONMENTS = os.path.join(os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache")), "asgi-ipc-benchmarks")
RESULTS = "results.json"


def main(words: Sequence[str]) -> int:
    """The exit status."""
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
    """Measure, print, write the results, and draw them."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure asgi_ipc beside everything else that could be used, in turns, and draw it.",
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
        help=f"whom, of {', '.join(PEERS)}, or of the families {families} (default: all)",
    )
    parser.add_argument("--quick", action="store_true", help="some minutes in all: see that it works, not how fast")
    parser.add_argument("--rounds", type=int, metavar="N", help="as many rounds instead of each workload's own number")
    parser.add_argument("--output", default=OUTPUT, metavar="FOLDER", help=f"for {RESULTS} and pictures ({OUTPUT})")
    parser.add_argument(
        "--environments", default=ENVIRONMENTS, metavar="FOLDER", help=f"where old packages are kept ({ENVIRONMENTS})"
    )
    parser.add_argument("--old-python", metavar="PATH", help="the Python 3.9 for old packages (default: look for one)")
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
    suite.document["command"] = spelt(options)
    for text in surroundings(suite.document["environment"], suite.document["command"]):
        say(text)
    document = suite.document
    try:
        suite.run()
    except KeyboardInterrupt:
        say("interrupted: what there is so far follows")
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
    """The peers of a family, such as ``redis``; or the word itself, if there is one."""
    return [name for name, spec in PEERS.items() if spec.family == word] or ([word] if word else [])


def spelt(options: argparse.Namespace) -> str:
    """The command, without the places where things are kept."""
    words = ["python", "-m", "benchmarks", *options.workloads]
    words += ["--peers", options.peers] if options.peers else []
    words += ["--quick"] if options.quick else []
    words += ["--rounds", str(options.rounds)] if options.rounds else []
    return shlex.join(words)


def print_report(words: Sequence[str]) -> int:
    """Print what a file of results says."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks report", description=print_report.__doc__)
    parser.add_argument("file", nargs="?", default=os.path.join(OUTPUT, RESULTS))
    for text in report(read(parser.parse_args(words).file)):
        say(text)
    return 0


def plot(words: Sequence[str]) -> int:
    """Draw what a file of results says."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks plot", description=plot.__doc__)
    parser.add_argument("file", nargs="?", default=os.path.join(OUTPUT, RESULTS))
    parser.add_argument("--output", metavar="FOLDER", help="where pictures go (default: where the file is)")
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
    """Measure two revisions of this repository in turns, and print how the second one compares with the first."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks compare", description=compare_revisions.__doc__)
    parser.add_argument("before", help="a revision that git knows, or . for the files as they are")
    parser.add_argument("after", help="the same")
    parser.add_argument("workloads", nargs="*", metavar="WORKLOAD", help=f"of {', '.join(compare.WORKLOADS)}")
    parser.add_argument("--rounds", type=int, default=compare.ROUNDS, metavar="N", help="of each (%(default)s)")
    parser.add_argument("--starts", type=int, default=compare.STARTS, metavar="N", help="of processes (%(default)s)")
    parser.add_argument("--fail-above", type=float, metavar="RATIO", help="exit with 1 if one is surely slower")
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
    """The names, or all; unless one is unknown."""
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
    """End as by Control-C: processes are ended, what there is so far is written."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGINT, stop)  # in the background of a shell it would be ignored
    signal.signal(signal.SIGTERM, stop)
    sys.exit(main(sys.argv[1:]))
