"""
The report of the suite's results as text.

It describes the machine, and lists each figure with its ratio to this layer's figure, the peers that were
left out and why, and the targets that were reached or missed.
"""

from __future__ import annotations

__all__ = ["line", "number", "report", "surroundings", "told"]

from typing import Any, Dict, Iterator, List

from .adapters import PEERS
from .measure import Figures
from .targets import judged
from .workloads import WORKLOADS

#: The peer that ratios refer to.
OURS = "asgi_ipc"


def report(document: Dict[str, Any]) -> Iterator[str]:
    """Yield the lines of the report."""
    yield from surroundings(document["environment"], document["command"])
    yield "Medians, with quartiles in brackets; x: as a multiple of asgi_ipc's."
    for workload in WORKLOADS.values():
        results = [result for result in document["results"] if result["workload"] == workload.name]
        left_out = [entry for entry in document["left_out"] if entry["workload"] == workload.name]
        if results:
            yield f"\n{workload.name}: {workload.title}"
            yield from tables(results)
        for entry in left_out:
            yield f"  left out: {PEERS[entry['peer']].title}: {entry['reason']}{which(entry['params'])}"
    everywhere = [entry for entry in document["left_out"] if not entry["workload"]]
    if everywhere:
        yield "\nleft out of everything:"
        yield from (f"  {PEERS[entry['peer']].title}: {entry['reason']}" for entry in everywhere)
    targets = list(judged(document))
    if targets:
        yield "\ntargets:"
        yield from (f"  {target}" for target in targets)


def surroundings(environment: Dict[str, Any], command: str) -> Iterator[str]:
    """Yield the lines that describe the machine, the packages and the command."""
    packages = ", ".join(f"{name} {version}" for name, version in environment["packages"].items())
    if environment.get("redis"):
        packages += f", {environment['redis']}"
    yield f"{environment['cpu']}, {environment['cores']} cores, {environment['kernel']}, load {environment['load']:.1f}"
    yield f"{environment['python']}, {packages}; commit {environment['commit'] or 'unknown'}, {environment['date']}"
    if command:
        yield command


def tables(results: List[Dict[str, Any]]) -> Iterator[str]:
    """Yield the results of a workload, grouped by settings."""
    settings: List[Dict[str, Any]] = []
    for result in results:
        if result["params"] not in settings:
            settings.append(result["params"])
    for params in settings:
        alike = [result for result in results if result["params"] == params]
        ours = next((result for result in alike if result["peer"] == OURS), None)
        yield f" {told(params)}"
        for result in alike:
            text = line(PEERS[result["peer"]].title, {}, result["metrics"])
            yield text + (f"  {ratio(result, ours)}" if ours and result is not ours else "")


def ratio(result: Dict[str, Any], ours: Dict[str, Any]) -> str:
    """Return a result's first figure as a multiple of ours, or "" if one of them is missing."""
    metric = next(iter(ours["metrics"]))
    base = ours["metrics"][metric]["median"]
    if metric not in result["metrics"] or not base:
        return ""
    return f"{number(result['metrics'][metric]['median'] / base)} x"


def which(params: List[Dict[str, Any]]) -> str:
    """Return the settings for which a peer was left out, or "" if there are more than two."""
    return f" ({'; '.join(told(each) for each in params)})" if 0 < len(params) <= 2 else ""


def told(params: Dict[str, Any]) -> str:
    """Return settings as text."""
    return " ".join(f"{name}={value:,}" if type(value) is int else f"{name}={value}" for name, value in params.items())


def line(title: str, params: Dict[str, Any], metrics: Dict[str, Figures]) -> str:
    """Return the figures of a peer in one line."""
    parts = [
        f"{name} {number(figures['median'])} {figures['unit']} ({number(figures['low'])} to {number(figures['high'])})"
        for name, figures in metrics.items()
    ]
    return f"  {title:36} {told(params)}{'  ' if params else ''}{'; '.join(parts)}"


def number(value: float) -> str:
    """Return a number with three significant digits, or without a fraction from 1,000."""
    if value == 0 or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"
