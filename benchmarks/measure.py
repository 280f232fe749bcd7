"""
Summaries of figures (median and quartiles), and the description of the machine that they were measured on.
"""

from __future__ import annotations

__all__ = ["Figures", "environment", "median_interval", "percentile", "summary"]

import datetime
import os
import platform
import statistics
import subprocess
from importlib import metadata
from typing import Any, Dict, List, Sequence, Tuple

#: A summary: median, quartiles and all values.
Figures = Dict[str, Any]


def summary(values: Sequence[float], unit: str) -> Figures:
    """Summarize the values of the rounds of one run."""
    ordered = sorted(values)
    low, middle, high = quartiles(ordered)
    return {"unit": unit, "median": middle, "low": low, "high": high, "values": list(values)}


def quartiles(ordered: Sequence[float]) -> Tuple[float, float, float]:
    if len(ordered) == 1:
        return ordered[0], ordered[0], ordered[0]
    low, middle, high = statistics.quantiles(ordered, n=4, method="inclusive")
    return low, middle, high


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return the value below which ``share`` (0 to 1) of the ordered values lie."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def median_interval(values: Sequence[float]) -> Tuple[float, float]:
    """Return a 95 % confidence interval of the median, for any distribution (ranks of a binomial)."""
    ordered, count = sorted(values), len(values)
    reach = 0.98 * count**0.5  # 1.96 standard deviations of sqrt(n) / 2
    first = max(0, int(count / 2 - reach))
    last = min(count - 1, int(count / 2 + reach))
    return ordered[first], ordered[last]


def environment(packages: Sequence[str] = ("asgi_ipc", "posix_ipc", "msgpack", "pyperf")) -> Dict[str, Any]:
    """Describe the machine and this Python."""
    return {
        "cpu": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "kernel": f"{platform.system()} {platform.release()}",
        "libc": " ".join(platform.libc_ver()),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "packages": versions(packages),
        "load": os.getloadavg()[0],
        "governor": first_line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "commit": commit(),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }


def versions(packages: Sequence[str]) -> Dict[str, str]:
    """Return the versions of those packages that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def first_line(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.readline().strip()
    except OSError:
        return ""


def commit() -> str:
    """Return the commit of the checkout, with a ``+`` if files were changed; "" outside of a checkout."""
    folder = os.path.dirname(os.path.abspath(__file__))
    try:
        answers: List[str] = [
            subprocess.run(["git", "-C", folder, *words], capture_output=True, text=True, check=True).stdout.strip()
            for words in (["rev-parse", "--short", "HEAD"], ["status", "--porcelain", "--untracked-files=no", ".."])
        ]
    except (OSError, subprocess.CalledProcessError):
        return ""
    return answers[0] + ("+" if answers[1] else "")
