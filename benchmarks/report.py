"""
The report of a run as text.

It describes the machine and the packages, shows the tables of each workload, and lists what was left out and
why. On request it also lists the targets, which are goals of the developers.
"""

from __future__ import annotations

__all__ = ["INSTALL", "heading", "introduction", "report", "section", "target_lines"]

import textwrap
from typing import Any, Dict, Iterator, List

from .adapters import PEERS
from .tables import WIDTH, settings, table
from .targets import judged
from .workloads import WORKLOADS
from .workloads.base import Workload

Document = Dict[str, Any]
#: What to install if packages, or the server, are missing.
INSTALL = "python -m pip install -e '.[bench]'"
READING = (
    "Each figure is the median of several rounds, in which the layers take turns.",
    "Spread: at least half of the rounds differ from the figure by no more than this.",
    (
        '"3 x slower": it takes three times as long as asgi_ipc, or passes a third of the messages in the same '
        'time. "About equal": the difference is 5 % or less. "Unclear": the difference is smaller than the spread.'
    ),
    'A "-" means that there was only one round, or that there is nothing to compare.',
)
QUEUES = (
    "multiprocessing, faster_fifo, LMDB and SQLite are not channel layers but queues. They do less: they have no "
    "groups, no expiry and no capacity."
)
#: The families of peers in words.
FAMILIES = {
    "own": "asgi_ipc itself",
    "memory": "Channels' in-memory layer",
    "redis": "channels_redis",
    "old": "layers for Channels 1 (asgi_ipc 1.4.2 and asgi_redis)",
    "queue": "queues (multiprocessing, faster_fifo, LMDB, SQLite)",
    "floor": "lower bounds (parts that every layer needs, measured alone)",
}
QUICK = "A quick run has few, short rounds. Its figures are rough: do not rely on small differences."
BUSY = "the machine is busy with other work, so the figures are worse and spread more than usual"
BOUNDS = (
    'A "lower bound" is no layer. It is the time of those parts that every layer of this kind needs, measured alone: '
    "locking, encoding, copying, or waking a process."
)


def report(document: Document, targets: bool = False) -> Iterator[str]:
    """Yield the lines of the report."""
    yield from introduction(document)
    for name in WORKLOADS:
        lines = list(section(document, name))
        yield from (*heading(name), *lines) if lines else ()
    if targets:
        yield from target_lines(document)


def introduction(document: Document) -> Iterator[str]:
    """Yield what to know before reading the tables: the machine, the versions, and what was left out."""
    yield from surroundings(document)
    yield "\nHow to read the tables"
    families = {PEERS[name].family for name in document.get("peers", {})}
    notes = [(QUEUES, "queue" in families), (BOUNDS, "floor" in families), (QUICK, document.get("quick"))]
    for text in (*READING, *(text for text, applies in notes if applies)):
        yield from wrapped(text, "  ")
    yield from left_out_everywhere(document)


def surroundings(document: Document) -> Iterator[str]:
    """Yield the machine, the versions, and the command."""
    machine, peers = document["environment"], document.get("peers", {})
    cores = f"{machine['cores']} core{'s' * (machine['cores'] != 1)}"
    yield from labelled("Machine", f"{machine['cpu']}, {cores}, {machine['kernel']}, load {machine['load']:.1f}")
    packages = dict(machine["packages"])
    own = f"commit {machine['commit'] or 'unknown'}"
    if "asgi_ipc" in packages:
        own = f"{packages.pop('asgi_ipc')}, {own}"
    versions = ", ".join(f"{name} {version}" for name, version in packages.items())
    yield from labelled("asgi_ipc", f"{own}; {machine['python']}, {versions}")
    others: Dict[str, str] = {}
    for name, peer in peers.items():
        if PEERS[name].environment == "here":
            others.update((package, version) for package, version in peer["versions"].items())
    compared = [f"{package} {version}" for package, version in others.items() if package not in machine["packages"]]
    compared += [machine["redis"].replace("v=", "")] if machine.get("redis") else []
    if compared:
        yield from labelled("Others", ", ".join(compared))
    yield from labelled("Date", machine["date"])
    if document["command"]:
        yield from labelled("Command", document["command"])
    if machine["load"] > machine["cores"] / 2:
        yield from labelled("Note", BUSY)


def left_out_everywhere(document: Document) -> Iterator[str]:
    """Yield the peers without any figure, with reasons, and what was not chosen."""
    reasons: Dict[str, List[str]] = {}
    for entry in document["left_out"]:
        if not entry["workload"]:
            reasons.setdefault(entry["reason"], []).append(PEERS[entry["peer"]].title)
    named = {entry["peer"] for entry in document["left_out"]} | set(document.get("peers", {}))
    unchosen = [name for name in PEERS if name not in named] if document.get("peers") else []
    if not reasons and not unchosen:
        return
    yield "\nLeft out"
    for reason, titles in reasons.items():
        yield from wrapped(f"{'; '.join(titles)}: {reason}", "  ")
    if any(reason.endswith("is not installed") for reason in reasons):
        yield from wrapped(f"To install what is missing: {INSTALL}", "  ")
    families = list(dict.fromkeys(PEERS[name].family for name in unchosen))
    for family in families:
        others = [name for name in unchosen if PEERS[name].family == family]
        if len(others) == sum(spec.family == family for spec in PEERS.values()):
            what, choice = FAMILIES[family], family
        else:
            what, choice = "; ".join(PEERS[name].title for name in others), ",".join(others)
        yield from wrapped(f"{what}: not chosen. To choose: --peers own,{choice}", "  ")


def heading(name: str, before: str = "", after: str = "") -> Iterator[str]:
    """Yield the title of a workload, between the given texts, and what it measures."""
    workload = WORKLOADS[name]
    yield f"\n{before}{workload.title} ({name}){after}"
    better = "Higher" if workload.more_is_better else "Lower"
    yield from wrapped(f"{workload.about} {better} is better.", "  ", "  ")


def section(document: Document, name: str) -> Iterator[str]:
    """Yield the tables of a workload, and the peers that were left out of it."""
    workload = WORKLOADS[name]
    results = [result for result in document["results"] if result["workload"] == name]
    left_out = [entry for entry in document["left_out"] if entry["workload"] == name]
    for params in settings(results):
        yield ""
        if workload.setting(params):
            yield f"  {capitalized(workload.setting(params))}"
        yield from table(workload, [result for result in results if result["params"] == params])
    if left_out:
        yield ""
    for text, titles in reasons_of(workload, left_out, results).items():
        yield from wrapped(f"Left out: {'; '.join(titles)}: {text}", "  ")


def reasons_of(
    workload: Workload, left_out: List[Dict[str, Any]], results: List[Dict[str, Any]]
) -> Dict[str, List[str]]:
    """Return the reasons with the peers; with the settings, if a peer has figures for other settings."""
    measured = {result["peer"] for result in results}
    reasons: Dict[str, List[str]] = {}
    for entry in left_out:
        text = entry["reason"]
        if entry["peer"] in measured:
            text += f" ({'; '.join(workload.brief(each) for each in entry['params'])})"
        reasons.setdefault(text, []).append(PEERS[entry["peer"]].title)
    return reasons


def target_lines(document: Document) -> Iterator[str]:
    """Yield the targets that the run has figures for."""
    yield "\nTargets (goals that the developers set; most need a full run)"
    yield from (f"  {target}" for target in list(judged(document)) or ["the run has no figures for any of them"])


def labelled(label: str, text: str) -> Iterator[str]:
    yield from textwrap.wrap(f"{label:10}{text}", WIDTH, subsequent_indent=" " * 10, break_long_words=False)


def wrapped(text: str, indent: str, more: str = "    ") -> Iterator[str]:
    yield from textwrap.wrap(
        text,
        WIDTH,
        initial_indent=indent,
        subsequent_indent=more,
        break_long_words=False,
        break_on_hyphens=False,
    )


def capitalized(text: str) -> str:
    return text[:1].upper() + text[1:]
