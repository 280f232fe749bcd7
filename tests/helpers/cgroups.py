"""Control groups for processes of the tests: in all hierarchies, or one with a CPU quota or a freezer."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import pytest

G = TypeVar("G", bound="ControlGroup")

CGROUPS = Path("/sys/fs/cgroup")
#: Where cgroup v2 may be mounted: alone, or by systemd beside v1.
UNIFIED = (CGROUPS, CGROUPS / "unified")
#: Seconds after which a control group that still has processes stays, and after which freezing counts as failed.
LIMIT = 5.0


def _memberships() -> dict[str, str]:
    """Return the path of this process's control group in each hierarchy: by the controllers of v1, and by "" in v2."""
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    return {names: path.lstrip("/") for _, names, path in (line.split(":", 2) for line in lines)}


def hierarchies() -> list[Path]:
    """Return this process's control group in each hierarchy of cgroup v1 (none where only v2 is used)."""
    return [CGROUPS / names.removeprefix("name=") / path for names, path in _memberships().items() if names]


def _remove(path: Path) -> None:
    """Remove a control group, and those in it, when their processes have ended."""
    deadline = time.monotonic() + LIMIT
    while path.exists():
        for directory, _, _ in os.walk(path, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(directory)
        if time.monotonic() > deadline:
            raise AssertionError(f"{path} still has processes")


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
        for path in self.paths:
            _remove(path)


class ControlGroup:
    """
    A control group for one purpose, below this process's own. A context manager: at its end the group is removed.

    ``controller`` is what v1 calls the hierarchy and the controller, ``old`` and ``new`` are the files that the group
    needs in v1 and in v2. The test is skipped if there is neither.
    """

    controller: str
    old: str
    new: str

    def __init__(self, name: str) -> None:
        for parent, setting in self._places():
            path = parent / name
            with contextlib.suppress(OSError):
                path.mkdir()
                if (path / setting).exists():
                    self.path, self.is_old = path, setting == self.old
                    return
                path.rmdir()
        pytest.skip(f"needs permission to make a control group with {self.old} or {self.new}")

    def _places(self) -> Iterator[tuple[Path, str]]:
        """Yield the groups below which this one can be made, and the file that it then needs."""
        for names, path in _memberships().items():
            if self.controller in names.split(","):
                yield CGROUPS / names / path, self.old
            elif not names:
                for parent in (each / path for each in UNIFIED):
                    with contextlib.suppress(OSError):
                        (parent / "cgroup.subtree_control").write_text(f"+{self.controller}")
                    yield parent, self.new

    def add(self, pid: int) -> None:
        """Move a process into the group."""
        (self.path / "cgroup.procs").write_text(str(pid))

    def __enter__(self: G) -> G:
        return self

    def __exit__(self, *error: object) -> None:
        _remove(self.path)


class CpuQuota(ControlGroup):
    """A control group whose processes together get ``quota`` of each ``period``, in seconds, of one CPU."""

    controller, old, new = "cpu", "cpu.cfs_quota_us", "cpu.max"

    def __init__(self, name: str, quota: float, period: float) -> None:
        super().__init__(name)
        slice_us, period_us = int(quota * 1e6), int(period * 1e6)
        if self.is_old:
            (self.path / "cpu.cfs_period_us").write_text(str(period_us))
            (self.path / "cpu.cfs_quota_us").write_text(str(slice_us))
        else:
            (self.path / "cpu.max").write_text(f"{slice_us} {period_us}")

    def throttled(self) -> int:
        """Return in how many periods the processes had to wait for the next one."""
        figures = dict(line.split() for line in (self.path / "cpu.stat").read_text().splitlines())
        return int(figures["nr_throttled"])


class Freezer(ControlGroup):
    """A control group whose processes can be frozen, as ``docker pause`` does it."""

    controller, old, new = "freezer", "freezer.state", "cgroup.freeze"

    def freeze(self) -> None:
        """Freeze all processes of the group, and wait until none of them runs."""
        (self.path / self._file).write_text("FROZEN" if self.is_old else "1")
        deadline = time.monotonic() + LIMIT
        while not self._is_frozen():
            assert time.monotonic() < deadline, f"{self.path} was not frozen within {LIMIT} s"
            time.sleep(0.001)

    def thaw(self) -> None:
        """Let them go on."""
        (self.path / self._file).write_text("THAWED" if self.is_old else "0")

    @property
    def _file(self) -> str:
        return self.old if self.is_old else self.new

    def _is_frozen(self) -> bool:
        if self.is_old:
            return (self.path / self.old).read_text().strip() == "FROZEN"
        return "frozen 1" in (self.path / "cgroup.events").read_text().splitlines()

    def __exit__(self, *error: object) -> None:
        self.thaw()  # frozen processes cannot be killed
        super().__exit__(*error)
