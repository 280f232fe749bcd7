"""
Pictures of the results: unread messages, round trips, groups, sizes of messages, and throughput.

The same document gives the same bytes. The caption of a picture describes the machine and the command.
"""

from __future__ import annotations

__all__ = ["draw"]

import os
import textwrap
from typing import Any, Callable, Dict, List, Sequence, Tuple

from .adapters import PEERS

#: The colours of each family of peers. Lower bounds are grey and dashed.
COLOURS: Dict[str, Sequence[str]] = {
    "own": ("#0b6e4f", "#31b57c"),
    "memory": ("#7a4fbf",),
    "redis": ("#c0392b", "#e8776b", "#d68910", "#f0b95a"),
    "old": ("#5d6d7e", "#8d9aa6", "#b5bec6"),
    "queue": ("#1f6fb2", "#58a4de", "#15435f", "#7f8c1f", "#a5b437"),
    "floor": ("#333333", "#777777", "#aaaaaa", "#333333", "#777777"),
}
WIDTH, INK, FAINT = 9.0, "#222222", "#dddddd"
#: Characters in a line of a caption.
LINE = 150
Document = Dict[str, Any]
Points = List[Tuple[float, float]]


def draw(document: Document, folder: str) -> List[str]:
    """Write each picture for which there are figures; return the paths. Raises ``ImportError`` without matplotlib."""
    import matplotlib

    matplotlib.use("svg")
    settings = {
        "svg.hashsalt": "asgi_ipc",
        "svg.fonttype": "path",
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": INK,
        "axes.labelcolor": INK,
    }
    os.makedirs(folder, exist_ok=True)
    paths = []
    with matplotlib.rc_context(settings):
        for name, picture in PICTURES.items():
            figure = picture(document)
            if figure is None:
                continue
            figure.text(0.01, 0.01, caption(document), fontsize=7, color="#666666", verticalalignment="bottom")
            path = os.path.join(folder, f"{name}.svg")
            figure.savefig(path, metadata={"Date": None})
            paths.append(path)
            close(figure)
    return paths


def caption(document: Document) -> str:
    """Return the caption: the machine and the command."""
    machine = document["environment"]
    text = f"{machine['cpu']}, {machine['cores']} cores, {machine['kernel']}, {machine['python']}"
    return textwrap.fill(f"{text}  ·  {document['command']}", LINE).replace("$", r"\$")


def new(height: float) -> Tuple[Any, Any]:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(WIDTH, height))
    axes.grid(True, color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    return figure, axes


def close(figure: Any) -> None:
    from matplotlib import pyplot

    pyplot.close(figure)


def colour(peer: str) -> str:
    family = [name for name, spec in PEERS.items() if spec.family == PEERS[peer].family]
    shades = COLOURS[PEERS[peer].family]
    return shades[family.index(peer) % len(shades)]


def series(document: Document, workload: str, by: str, metric: str, **wanted: Any) -> Dict[str, Points]:
    """Return the line of each peer: points (setting ``by``, median of ``metric``)."""
    lines: Dict[str, Points] = {}
    for result in document["results"]:
        if (
            result["workload"] == workload
            and wanted.items() <= result["params"].items()
            and metric in result["metrics"]
        ):
            point = float(result["params"][by]), float(result["metrics"][metric]["median"])
            lines.setdefault(result["peer"], []).append(point)
    return {peer: sorted(lines[peer]) for peer in PEERS if peer in lines}


def curves(lines: Dict[str, Points], title: str, across: str, up: str, linear: float = 0.0) -> Any:
    """Draw a line for each peer, with its name at the right end; return None without a line of two points."""
    lines = {peer: points for peer, points in lines.items() if len(points) > 1}
    if not lines:
        return None
    figure, axes = new(5.2)
    for peer, points in lines.items():
        own, floor = PEERS[peer].family == "own", PEERS[peer].family == "floor"
        axes.plot(
            *zip(*points),
            color=colour(peer),
            linewidth=2.6 if own else 1.3,
            linestyle="--" if floor else "-",
            marker="o",
            markersize=5 if own else 3,
            zorder=3 if own else 2,
        )
    if linear:
        axes.set_xscale("symlog", linthresh=linear, linscale=0.5)
    else:
        axes.set_xscale("log")
    axes.set_yscale("log")
    ticks = sorted({x for points in lines.values() for x, _ in points})
    apart = [x for x, after in zip(ticks, [*ticks[1:], float("inf")]) if after > 1.5 * x]
    axes.set_xticks(apart, minor=False)
    axes.minorticks_off()
    plain(axes.xaxis)
    plain(axes.yaxis)
    axes.set(xlabel=across, ylabel=up)
    axes.set_title(title, loc="left", fontweight="bold", color=INK)
    figure.subplots_adjust(left=0.11, right=0.72, top=0.92, bottom=0.15)
    name_ends(figure, axes, lines)
    return figure


def name_ends(figure: Any, axes: Any, lines: Dict[str, Points]) -> None:
    """Write the peers' names at the right, at the heights of their last points, without overlaps."""
    ends = []
    for peer, points in lines.items():
        _, height = axes.transAxes.inverted().transform(axes.transData.transform(points[-1]))
        ends.append([height, peer])
    gap, floor = 0.045, -0.08
    for entry in sorted(ends):
        entry[0] = floor = max(entry[0], floor + gap)
    over = floor - 1.0  # the highest names may now be above the axes: move them, and those below them, down
    if over > 0:
        ceiling = 1.0 + gap
        for entry in sorted(ends, reverse=True):
            entry[0] = ceiling = min(entry[0], ceiling - gap)
    for height, peer in ends:
        weight = "bold" if PEERS[peer].family == "own" else "normal"
        axes.annotate(
            PEERS[peer].title,
            (1.015, height),
            xycoords="axes fraction",
            va="center",
            color=colour(peer),
            fontsize=8.5,
            fontweight=weight,
        )


def plain(axis: Any) -> None:
    """Write the numbers of an axis without exponents."""
    from matplotlib.ticker import FuncFormatter

    def told(value: float, _: int) -> str:
        return f"{value:,.0f}" if value == 0 or value >= 1 else f"{value:g}"

    axis.set_major_formatter(FuncFormatter(told))


def backlog(document: Document) -> Any:
    lines = series(document, "backlog", "unread", "pair")
    title = "Send and receive while unread messages wait"
    return curves(lines, title, "unread messages in 1,000 other channels", "µs for a send and a receive", linear=1000)


def payload(document: Document) -> Any:
    title = "Send and receive messages of different sizes, in one process"
    return curves(series(document, "payload", "payload", "pair"), title, "bytes", "µs for a send and a receive")


def fanout(document: Document) -> Any:
    title = "Send to a group, with members in two processes (in-memory layer: in one)"
    one, two = (series(document, "fanout", "members", "last", processes=count) for count in (1, 2))
    lines = {**two, **{peer: points for peer, points in one.items() if "processes" in PEERS[peer].lacks}}
    return curves(lines, title, "members", "ms until the last member has its message")


def throughput(document: Document) -> Any:
    """Draw the settings with as many senders as receivers."""
    found = document["results"]
    even = {"results": [each for each in found if each["params"].get("senders") == each["params"].get("receivers")]}
    title = "Messages through one channel, by number of processes"
    return curves(series(even, "throughput", "senders", "rate"), title, "senders, with as many receivers", "messages/s")


def roundtrip(document: Document) -> Any:
    """Draw a bar for each median, and a tick for each p99."""
    found = [result for result in document["results"] if result["workload"] == "roundtrip"]
    if not found:
        return None
    found.sort(key=lambda result: -float(result["metrics"]["median"]["median"]))
    figure, axes = new(0.9 + 0.34 * len(found))
    names = [result["peer"] for result in found]
    medians, rare = ([result["metrics"][metric]["median"] for result in found] for metric in ("median", "p99"))
    axes.barh(range(len(found)), medians, color=[colour(name) for name in names], height=0.62, zorder=2)
    axes.scatter(rare, range(len(found)), marker="|", s=90, color=INK, zorder=3)
    for row, median in enumerate(medians):
        axes.annotate(f"{median:,.0f} µs  ", (median, row), va="center", fontsize=8, color="white", ha="right")
    axes.set_yticks(range(len(found)), [PEERS[name].title for name in names], fontsize=8.5)
    for label, name in zip(axes.get_yticklabels(), names):
        label.set_fontweight("bold" if PEERS[name].family == "own" else "normal")
    axes.set_xscale("log")
    axes.set_xlim(left=min(medians) / 4)
    plain(axes.xaxis)
    axes.set_xlabel("µs: the bar is the median, the tick is the 99th percentile")
    axes.set_title("A message to another process, and its answer", loc="left", fontweight="bold", color=INK)
    height = figure.get_size_inches()[1]
    figure.subplots_adjust(left=0.27, right=0.97, top=1 - 0.35 / height, bottom=0.75 / height)
    return figure


PICTURES: Dict[str, Callable[[Document], Any]] = {
    "backlog": backlog,
    "roundtrip": roundtrip,
    "fanout": fanout,
    "payload": payload,
    "throughput": throughput,
}
