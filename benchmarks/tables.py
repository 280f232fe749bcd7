"""
The tables of figures, in plain text of at most ``WIDTH`` columns.

Every figure has its unit. The first figure of a row also has its spread, and how it compares with asgi_ipc.
"""

from __future__ import annotations

__all__ = ["OURS", "WIDTH", "comparison", "number", "spread", "table", "told"]

from typing import Any, Dict, Iterator, List, Sequence

from .adapters import PEERS
from .measure import Figures
from .workloads.base import Workload

#: The longest line, in characters.
WIDTH = 100
#: The peer that the others are compared with.
OURS = "asgi_ipc"
#: Figures count as about equal up to this ratio.
EQUAL = 1.05
NOTHING = "-"


def table(workload: Workload, results: Sequence[Dict[str, Any]]) -> Iterator[str]:
    """Yield the lines of a table: a row for each peer, all with the same settings."""
    metrics = list(workload.labels)
    ours = next((result["metrics"].get(metrics[0]) for result in results if result["peer"] == OURS), None)
    labels = [workload.labels[metric] for metric in metrics]
    rows = [["layer or queue", labels[0], "spread", f"vs {OURS}", *labels[1:]]]
    for result in results:
        first, *others = (result["metrics"].get(metric) for metric in metrics)
        compared = NOTHING if result["peer"] == OURS or not first or not ours else comparison(workload, first, ours)
        row = [PEERS[result["peer"]].title, cell(first), spread(first), compared]
        rows.append(row + [cell(each) for each in others])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        name, *figures = (text.rjust(width) for text, width in zip(row, widths))
        yield "  ".join(["", row[0].ljust(len(name)), *figures])


def comparison(workload: Workload, figures: Figures, ours: Figures) -> str:
    """Return how a figure compares with ours, such as ``27 x slower``; "unclear" if their quartiles overlap."""
    one, other = figures["median"], ours["median"]
    if one <= 0 or other <= 0:
        return NOTHING
    ratio = max(one / other, other / one)
    if ratio <= EQUAL:
        return "about equal"
    several = len(figures["values"]) > 1 and len(ours["values"]) > 1
    if several and figures["low"] <= ours["high"] and ours["low"] <= figures["high"]:
        return "unclear"
    return f"{number(ratio)} x {workload.contrast[(one > other) is not workload.more_is_better]}"


def cell(figures: Any) -> str:
    return f"{number(figures['median'])} {figures['unit']}" if figures else NOTHING


def spread(figures: Any) -> str:
    """Return the distance from the median to the farther quartile, in percent of the median."""
    if not figures or len(figures["values"]) < 2 or not figures["median"]:
        return NOTHING
    median = figures["median"]
    share = max(figures["high"] - median, median - figures["low"]) / abs(median) * 100
    return f"± {share:.0f} %"


def told(params: Dict[str, Any]) -> str:
    """Return settings as ``name=value`` pairs."""
    return " ".join(f"{name}={value:,}" if type(value) is int else f"{name}={value}" for name, value in params.items())


def settings(results: Sequence[Dict[str, Any]]) -> List[Dict[str, Any]]:
    """Return the different settings of some results, in their order."""
    found: List[Dict[str, Any]] = []
    for result in results:
        if result["params"] not in found:
            found.append(result["params"])
    return found


def number(value: float) -> str:
    """Return a number with three significant digits, or without a fraction from 1,000."""
    if value == 0 or abs(value) >= 999.5:
        return f"{value:,.0f}"
    return f"{value:.3g}"
