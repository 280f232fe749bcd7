"""Control groups for the processes of one machine, so that what it creates there can be removed after it."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
#: Seconds after which a control group that still has processes stays.
LIMIT = 5.0


def hierarchies() -> list[Path]:
    """Return this process's control group in each hierarchy of cgroup v1 (none where only v2 is used)."""
    found = []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        if names:
            found.append(CGROUPS / names.removeprefix("name=") / path.lstrip("/"))
    return found


class ControlGroups:
    """A control group called ``name`` in each hierarchy, below this process's own."""

    def __init__(self, name: str) -> None:
        self.paths = [each / name for each in hierarchies()]
        for path in self.paths:
            path.mkdir()
            for setting in ("cpuset.cpus", "cpuset.mems"):  # empty in a new group, which then takes no process
                if (path / setting).exists():
                    (path / setting).write_text((path.parent / setting).read_text())
        unified = CGROUPS / "unified"
        if (unified / "cgroup.procs").exists():  # systemd puts groups there, too, where both versions are mounted
            self.paths.append(unified / name)
            self.paths[-1].mkdir()

    def enter(self) -> None:
        """Move this process into the groups."""
        for path in self.paths:
            (path / "cgroup.procs").write_text(str(os.getpid()))

    def remove(self) -> None:
        """Remove the groups, and those that the machine has made in them, when their processes have ended."""
        deadline = time.monotonic() + LIMIT
        for path in self.paths:
            while path.exists():
                for directory, _, _ in os.walk(path, topdown=False):
                    with contextlib.suppress(OSError):
                        os.rmdir(directory)
                if time.monotonic() > deadline:
                    raise AssertionError(f"{path} still has processes")
