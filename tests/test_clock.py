"""
The clocks of the package: which module reads them, what they show while time is frozen, and that no loop needs them.

``waiting/test_frozen_time.py`` tests the layers while time is frozen.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import asgi_ipc
from asgi_ipc import clock
from asgi_ipc.shm import fifo_directory
from asgi_ipc.shm.permissions import just_created

PACKAGE = Path(asgi_ipc.__file__).parent
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "clock.py")
names_of_modules = pytest.mark.parametrize(
    "path", MODULES, ids=[path.relative_to(PACKAGE).with_suffix("").as_posix() for path in MODULES]
)

# -- who reads a clock --------------------------------------------------------------------------------------------

#: What other modules may use of ``time``. A test library leaves ``sleep`` alone; gevent replaces it, which is right.
ALLOWED = {"sleep"}


def reads(source: str) -> list[str]:
    """Return the uses of the standard library's clocks in a module."""
    found = []
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.asname or alias.name for alias in node.names if alias.name in ("time", "datetime")}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module in ("time", "datetime"):
            found += [f"line {node.lineno}: {alias.name}" for alias in node.names if alias.name not in ALLOWED]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.attr not in ALLOWED:
            found += [f"line {node.lineno}: {name}.{node.attr}" for name in names if name == node.value.id]
    return found


@names_of_modules
def test_only_one_module_reads_the_clocks_of_the_standard_library(path: Path) -> None:
    assert reads(path.read_text()) == []


@pytest.mark.parametrize(
    "source",
    [
        "import time\ndeadline = time.monotonic() + 1",
        "import time\ndef f(clock=time.monotonic_ns): pass",
        "import time as t\nt.time()",
        "from time import perf_counter",
        "from time import sleep, time",
        "def f():\n    import time\n    return time.clock_gettime(1)",
        "import datetime\ndatetime.datetime.now()",
        "from datetime import datetime",
    ],
)
def test_uses_of_clocks_are_found(source: str) -> None:
    assert reads(source)


@pytest.mark.parametrize("source", ["import time\ntime.sleep(1)", "from .. import clock\nclock.monotonic()"])
def test_other_uses_are_accepted(source: str) -> None:
    assert reads(source) == []


# -- loops --------------------------------------------------------------------------------------------------------

#: The names of functions that read a clock, however they are reached: ``sections.clock()``, ``clock.monotonic()``.
CLOCKS = {"monotonic", "monotonic_ns", "wall", "clock", "time", "time_ns", "perf_counter", "perf_counter_ns"}
#: Functions that return a time for a time.
ARITHMETIC = {"abs", "float", "int", "max", "min", "round"}
#: Loops that compare a clock before they end, and that count as well: module and function, with what they count.
COUNTS = {("waiting/thread", "receive"): "the seconds for which it has slept"}
Function = (ast.FunctionDef, ast.AsyncFunctionDef)
Assignment = (ast.Assign, ast.AugAssign, ast.AnnAssign, ast.NamedExpr)


def within(node: ast.AST) -> Iterator[ast.AST]:
    """Yield a node and all nodes in it, but not those of functions in it."""
    yield node
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, (*Function, ast.Lambda)):
            yield from within(child)


def is_time(node: ast.AST | None, times: set[str]) -> bool:
    """True if an expression is a time: a call of a clock, one of the names ``times``, or computed with these."""
    if isinstance(node, ast.Name):
        return node.id in times
    if isinstance(node, ast.Call):
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        return name in CLOCKS or (name in ARITHMETIC and any(is_time(each, times) for each in node.args))
    if isinstance(node, (ast.BinOp, ast.UnaryOp, ast.IfExp, ast.Tuple, ast.NamedExpr)):
        return any(is_time(each, times) for each in ast.iter_child_nodes(node))
    return False


def times_in(nodes: list[ast.AST]) -> set[str]:
    """Return the names to which a function assigns times."""
    times: set[str] = set()
    before = -1
    while len(times) > before:
        before = len(times)
        for each in nodes:
            if isinstance(each, Assignment) and is_time(each.value, times):
                targets = each.targets if isinstance(each, ast.Assign) else [each.target]
                times |= {name.id for target in targets for name in within(target) if isinstance(name, ast.Name)}
    return times


def conditions(loop: ast.While) -> list[ast.expr]:
    """Return the conditions that end a loop: its own, and each ``if`` that leaves it."""
    leaving = (ast.Break, ast.Return, ast.Raise)
    return [loop.test] + [
        each.test
        for each in within(loop)
        if isinstance(each, ast.If) and any(isinstance(end, leaving) for end in within(each))
    ]


def loops_by_clock(source: str) -> list[str]:
    """Return the functions with a ``while`` loop that may end because of a time that it compares."""
    found = []
    for function in ast.walk(ast.parse(source)):
        if isinstance(function, Function):
            inside = [each for statement in function.body for each in within(statement)]
            times = times_in(inside)
            for condition in [each for loop in inside if isinstance(loop, ast.While) for each in conditions(loop)]:
                comparisons = [each for each in within(condition) if isinstance(each, ast.Compare)]
                if any(is_time(side, times) for each in comparisons for side in (each.left, *each.comparators)):
                    found.append(function.name)
                    break
    return found


@names_of_modules
def test_no_loop_ends_by_a_clock_alone(path: Path) -> None:
    module = path.relative_to(PACKAGE).with_suffix("").as_posix()
    assert [name for name in loops_by_clock(path.read_text()) if (module, name) not in COUNTS] == []


def test_the_exceptions_exist() -> None:
    for module, function in COUNTS:
        assert function in loops_by_clock((PACKAGE / f"{module}.py").read_text())


@pytest.mark.parametrize(
    "loop",
    [
        "while time.monotonic() < until: pass",
        "while heads and monotonic_ns() < until:\n        if heads[0]: return",
        "while not done():\n        if clock.monotonic() > deadline: raise TimeoutError",
        "while True:\n        now = clock.monotonic()\n        if now > deadline: break",
        "left = end - sections.clock()\n    while left > 0: pass",
        "while True:\n        t += clock.monotonic() - began\n        if done: pass\n        elif t > 3: return",
    ],
)
def test_loops_by_a_clock_are_found(loop: str) -> None:
    assert loops_by_clock(f"def f():\n    {loop}") == ["f"]


@pytest.mark.parametrize(
    "loop",
    [
        "for _ in range(9):\n        if clock.monotonic() > deadline: break",
        "while queue:\n        queue.pop(clock.monotonic())",
        "while True:\n        found = section(sections.clock())\n        if found is not None: return found",
    ],
)
def test_other_loops_are_accepted(loop: str) -> None:
    assert loops_by_clock(f"def f():\n    {loop}") == []


# -- what they show -----------------------------------------------------------------------------------------------


def test_they_agree_with_those_of_the_standard_library() -> None:
    assert clock.monotonic() == pytest.approx(time.monotonic(), abs=5)
    assert clock.monotonic_ns() == pytest.approx(time.monotonic_ns(), abs=5e9)
    assert clock.Quickest.monotonic_ns() == pytest.approx(time.monotonic_ns(), abs=5e9)
    assert clock.wall() == pytest.approx(time.time(), abs=5)


def test_the_wall_clock_is_that_of_files(tmp_path: Path) -> None:
    """But for some milliseconds, as the kernel may stamp files by a finer clock."""
    path = tmp_path / "file"
    path.write_text("")
    assert -0.1 < clock.wall() - path.stat().st_mtime < 5


#: A program that freezes time, imports the package before or after that, and prints its clocks and the date.
PROGRAM = """
import json, sys, time
library, imported = sys.argv[1:]
if library == "freezegun":
    import freezegun
    frozen = freezegun.freeze_time("2012-01-14")
else:
    import time_machine
    frozen = time_machine.travel("2012-01-14", tick=False)
real = time.clock_gettime(time.CLOCK_MONOTONIC), time.clock_gettime(time.CLOCK_REALTIME)
if imported == "before":
    from asgi_ipc import clock
with frozen:
    from asgi_ipc import clock
    from asgi_ipc.stores.messages.store import MessageStore
    assert time.strftime("%Y") == "2012"
    shown = clock.monotonic(), clock.monotonic_ns() / 1e9, clock.Quickest.monotonic_ns() / 1e9, clock.wall()
after = clock.Quickest.monotonic_ns() / 1e9
(default,) = [each for each in MessageStore.__init__.__defaults__ if callable(each)]
print(json.dumps([real, shown, after, default() / 1e9]))
"""


@pytest.mark.parametrize("imported", ["before", "while"])
@pytest.mark.parametrize("library", ["freezegun", "time_machine"])
def test_no_library_changes_them(library: str, imported: str) -> None:
    pytest.importorskip(library, reason=f"needs {library}: pip install 'asgi_ipc[test]'")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, library, imported],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)},
    )
    (monotonic, wall), shown, after, default = json.loads(done.stdout)
    for each in (*shown[:3], after, default):
        assert each == pytest.approx(monotonic, abs=60)
    assert shown[3] == pytest.approx(wall, abs=60)


# -- tries and file times -----------------------------------------------------------------------------------------


def test_tries_end_with_the_time() -> None:
    began = time.monotonic()
    count = sum(1 for _ in clock.tries(0.2, 0.001))
    assert time.monotonic() - began >= 0.2
    assert 2 <= count <= 201


def test_without_time_there_is_one_try() -> None:
    assert sum(1 for _ in clock.tries(0, 60)) == 1


def test_tries_end_although_the_clock_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "monotonic", lambda: 0.0)
    assert sum(1 for _ in clock.tries(0.05, 0.01)) == 6


def test_an_object_whose_time_is_in_the_future_was_not_just_created(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The clock was set back. Otherwise a segment that may not be opened would be waited for, instead of refused."""
    path = tmp_path / "object"
    path.write_text("")
    monkeypatch.setattr("asgi_ipc.shm.permissions.object_path", lambda name: str(path))
    assert just_created("object")
    for seconds in (3600, -3600):
        monkeypatch.setattr(clock, "wall", lambda seconds=seconds: path.stat().st_ctime + seconds)
        assert not just_created("object")


@pytest.mark.parametrize("date", ["2012-01-14", "2112-01-14"])
def test_a_frozen_date_does_not_change_the_age_of_files(date: str, tmp_path: Path) -> None:
    freezegun = pytest.importorskip("freezegun", reason="needs freezegun: pip install 'asgi_ipc[test]'")
    old, new = tmp_path / "old~", tmp_path / "new~"
    for path in (old, new):
        path.write_text("")
    before = time.time() - 2 * fifo_directory.UNFINISHED_AGE
    os.utime(old, (before, before))
    with freezegun.freeze_time(date):
        assert fifo_directory._is_swept(str(old))
        assert not fifo_directory._is_swept(str(new))
