"""Check the mutex's protocol with SPIN: generate, compile and run one verifier for each case.

A case passes only if its search ended as the table says. ``HOLDS`` means that every reachable state was
checked and no assertion failed. The other values name the kind of violation that SPIN must find in a
deliberately broken protocol. A search that ran out of depth, memory or time has proved nothing, and its case
fails.

Usage: ``python tests/model/run.py [--all] [--list] [--trail] [ID ...]``. It needs SPIN 6 (Debian: ``spin``)
and a C compiler, and at most 4 GiB with ``--all`` (1 GiB without). ``README.rst`` in this folder explains the
models.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent

HOLDS = "holds"
ASSERTION = "assertion violated"
NO_PROGRESS = "non-progress cycle"
DEADLOCK = "invalid end state"

SAFETY = "safety"  # assertions and deadlocks
PROGRESS = "progress"  # under weak fairness some process always enters the critical section again

PASSES = {
    SAFETY: (("-DSAFETY",), ()),
    PROGRESS: (("-DNP", "-DNFAIR=3"), ("-l", "-f")),
}
SECONDS = 900  # limit for a verifier that hangs or is far too large; not a measure of speed

CODE = "PRESCAN DROP"  # the variant of the protocol that asgi_ipc/locking/mutex.py follows
LARGE_DEPTH = 6_000_000  # steps; enough for three processes

CI_MEMORY, FULL_MEMORY = 1024, 4096  # MiB


class Case(NamedTuple):
    """One check: a model, the ``-D`` flags that choose a variant of it, and the expected result."""

    id: str
    model: str
    flags: str
    expect: str = HOLDS
    search: str = SAFETY
    ci: bool = True
    depth: int = 1_000_000  # steps of the longest path; a deeper search fails the case

    @property
    def defines(self) -> list[str]:
        return ["-D" + flag for flag in self.flags.split()]

    @property
    def optimise(self) -> str:
        """The optimisation flag. With two processes, optimising costs more time than it saves."""
        return "-O0" if self.ci and "N=2" in self.flags.split() else "-O2"

    @property
    def passes(self) -> list[str]:
        """The searches to run: both if progress must hold, since a progress search cannot see a deadlock."""
        return [SAFETY, PROGRESS] if (self.search, self.expect) == (PROGRESS, HOLDS) else [self.search]


class Report(NamedTuple):
    """A verifier's output: ``found`` is ``HOLDS`` or the violation, ``problem`` why it proves nothing."""

    found: str
    problem: str = ""
    states: float = 0
    depth: int = 0
    memory: float = 0.0  # MiB


class Outcome(NamedTuple):
    """A case after its last pass; ``seconds`` is the time of spin, compiler and verifier together."""

    case: Case
    report: Report
    seconds: float
    trail: str = ""

    @property
    def ok(self) -> bool:
        return not self.report.problem and self.report.found.startswith(self.case.expect)


def _orders() -> tuple[tuple[str, str], ...]:
    """Return the orders in which stores become visible: each as a flag and as a part of a case's id."""
    return (("", ""), ("TSO", "-tso"), ("PSO", "-pso"))


def _holding() -> Iterable[Case]:
    """Yield the protocol of the code (``CODE``) and variants of it: all must hold."""
    for order, tag in _orders():
        code, small = f"{order} {CODE}", order != "PSO"
        ci = order != "TSO"  # with two processes PSO is small enough, and every run of TSO is one of PSO too
        yield Case(f"mutex-n2{tag}", "mutex", f"N=2 {code}", ci=ci)
        yield Case(f"mutex-n2{tag}-abandon", "mutex", f"N=2 {code} ABANDON", ci=ci)
        yield Case(f"mutex-n2{tag}-pass-on", "mutex", f"N=2 {order} PRESCAN ABANDON", ci=False)
        yield Case(f"mutex-n2{tag}-no-prescan", "mutex", f"N=2 {order}", ci=ci)
        depth = 2_500_000 if small else LARGE_DEPTH
        yield Case(f"mutex-n3{tag}", "mutex", f"N=3 {code}", ci=small, depth=depth)
        yield Case(f"mutex-n3{tag}-abandon", "mutex", f"N=3 {code} ABANDON", ci=False, depth=LARGE_DEPTH)
        yield Case(f"mutex-n3{tag}-pass-on", "mutex", f"N=3 {order} PRESCAN", ci=False, depth=LARGE_DEPTH)
        yield Case(f"mutex-n3{tag}-no-prescan", "mutex", f"N=3 {order}", ci=False, depth=LARGE_DEPTH)
        yield Case(f"detail-n2{tag}", "mutex_detail", f"N=2 {code}", ci=ci)
        yield Case(f"detail-n2{tag}-abandon", "mutex_detail", f"N=2 {code} ABANDON", ci=not order)
        yield Case(f"detail-n2{tag}-pass-on", "mutex_detail", f"N=2 {order} PRESCAN", ci=not order)
        yield Case(f"detail-n2{tag}-no-prescan", "mutex_detail", f"N=2 {order}", ci=False)
        yield Case(f"detail-n3{tag}-bounded", "mutex_detail", f"N=3 {code} LIVE MAXC=1", ci=small)
        yield Case(f"detail-n3{tag}-bounded2", "mutex_detail", f"N=3 {code} LIVE MAXC=2", ci=False)
    for order, tag in _orders()[1:]:
        late = f"N=2 {order} {CODE} ABANDON LATECLEAR"
        yield Case(f"mutex-n2{tag}-lateclear", "mutex", late, ci=order != "TSO")
        yield Case(f"detail-n2{tag}-lateclear", "mutex_detail", f"N=2 {order} {CODE} LATECLEAR", ci=False)
    yield Case("mutex-n3-tso-lateclear", "mutex", f"N=3 TSO {CODE} LATECLEAR", ci=False, depth=LARGE_DEPTH)
    yield Case("detail-n3-kill1", "mutex_detail", f"N=3 {CODE} MAXC=1", ci=False, depth=2_000_000)
    yield Case("mutex-n4-bounded", "mutex", f"N=4 {CODE} LIVE MAXC=1", ci=False)
    yield Case("mutex-n4-tso-bounded", "mutex", f"N=4 TSO {CODE} LIVE MAXC=1", ci=False)


def _progressing() -> Iterable[Case]:
    """Yield the progress cases: processes keep entering, despite kills, exceptions and a stopped process."""
    for order, tag in _orders():
        for model, name in (("mutex", "mutex"), ("mutex_detail", "detail")):
            flags, ci = f"{order} {CODE} LIVE ABANDON", model == "mutex" and not order
            # a protocol that holds with a stopped process holds without one: CI needs few of the latter
            yield Case(f"{name}-n2{tag}-live", model, f"N=2 {flags} MAXC=2", HOLDS, PROGRESS, ci)
            two = order != "TSO"
            yield Case(f"{name}-n2{tag}-live-stop", model, f"N=2 {flags} STOP MAXC=2", HOLDS, PROGRESS, two)
            yield Case(f"{name}-n3{tag}-live", model, f"N=3 {flags} MAXC=1", HOLDS, PROGRESS, False)
            yield Case(f"{name}-n3{tag}-live-stop", model, f"N=3 {flags} STOP MAXC=1", HOLDS, PROGRESS, ci)
    yield Case("mutex-n2-live-no-prescan", "mutex", "N=2 LIVE STOP MAXC=2", search=PROGRESS)


def _broken() -> Iterable[Case]:
    """Yield the mutations: each removes one safeguard, and SPIN must find the violation."""
    fences = ("TSO NOFENCE1", "PSO NOFENCE1", "PSO NOFENCE2")
    safeguards = ("NOCHECK", "NOWAIT", "NOREPAIR", "CHECKFIRST", *fences)
    for model, name, mutations in (
        ("mutex", "mutex", safeguards),
        ("mutex_detail", "detail", ("NAIVE", "ONESEM", "CLEAR0", *fences)),
    ):
        for mutation in mutations:
            tag, flags = mutation.lower().replace(" ", "-"), f"{CODE} {mutation}"
            yield Case(f"{name}-n2-{tag}", model, f"N=2 {flags}", ASSERTION)
            yield Case(f"{name}-n3-{tag}", model, f"N=3 {flags}", ASSERTION, ci=False, depth=2 * LARGE_DEPTH)
        live = f"N=2 {CODE} LIVE MAXC=1"
        yield Case(f"{name}-n2-notimeout", model, f"{live} NOTIMEOUT", DEADLOCK)
        yield Case(f"{name}-n2-noclear", model, f"{live} NOCLEAR", NO_PROGRESS, PROGRESS)
    yield Case("mutex-n2-one-nodrain", "mutex", "N=2 PRESCAN ONE NODRAIN", ASSERTION)
    yield Case("mutex-n2-one-live", "mutex", "N=2 PRESCAN LIVE MAXC=0 ONE", NO_PROGRESS, PROGRESS)


def _undetected() -> Iterable[Case]:
    """Yield mutations that violate no assertion: they only break progress (see ``README.rst``)."""
    yield Case("mutex-n2-noclear-safety", "mutex", f"N=2 {CODE} NOCLEAR")
    yield Case("mutex-n3-noclear-safety", "mutex", f"N=3 {CODE} NOCLEAR", ci=False, depth=LARGE_DEPTH)
    yield Case("detail-n2-noclear-safety", "mutex_detail", f"N=2 {CODE} NOCLEAR", ci=False, depth=LARGE_DEPTH)
    yield Case("mutex-n2-one-safety", "mutex", "N=2 PSO PRESCAN ONE")
    yield Case("mutex-n3-one-safety", "mutex", "N=3 TSO PRESCAN ONE", ci=False, depth=LARGE_DEPTH)


CASES = [*_holding(), *_progressing(), *_broken(), *_undetected()]
CI_CASES = [case for case in CASES if case.ci]


def compiler() -> str | None:
    """Return the path of the first C compiler found on ``PATH``, or None."""
    return next((found for found in map(shutil.which, ("cc", "gcc", "clang")) if found), None)


def missing_tools() -> str:
    """Return why nothing can be checked here, or ``""``; another program named spin does not count."""
    if shutil.which("spin") is None:
        return "SPIN is not installed (Debian: apt-get install spin)"
    if "Spin Version" not in _run(["spin", "-V"], HERE):
        return "the program named spin is not the model checker"
    return "" if compiler() else "no C compiler (cc, gcc or clang) is installed"


def unknown_flags(case: Case) -> list[str]:
    """Return the flags that the model's code does not use: a misspelt flag would not change the protocol."""
    code = re.sub(r"/\*.*?\*/", "", (HERE / f"{case.model}.pml").read_text(encoding="utf-8"), flags=re.DOTALL)
    names = [flag.partition("=")[0] for flag in case.flags.split()]
    return [name for name in names if not re.search(rf"\b{name}\b", code)]


def parse(output: str) -> Report:
    """Parse a verifier's output. An incomplete search is a problem, whatever else the output says."""
    errors = re.search(r"depth reached (\d+), errors: (\d+)", output)
    if errors is None:
        return Report("nothing", f"the verifier gave no result: {output.strip()[-300:]}")
    violation = re.search(r"^pan:\d+: (.*?) \(at depth", output, re.MULTILINE)
    found = HOLDS if errors[2] == "0" else violation[1].strip() if violation else "an error of unknown kind"
    states = re.search(r"([\d.e+]+) states, stored", output)
    memory = re.search(r"([\d.]+)\s+total actual memory", output)
    size = float(states[1]) if states else 0, int(errors[1]), float(memory[1]) if memory else 0.0
    limits = ("max search depth too small", "out of memory", "reached -DMEMLIM bound", "VECTORSZ", "NFAIR")
    problem = next((limit for limit in limits if limit in output), "")
    if not problem and found == HOLDS and "Search not completed" in output:
        problem = "the search was not completed"
    return Report(found, problem, *size)


def _run(command: list[str], cwd: Path) -> str:
    both = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.run(command, cwd=cwd, text=True, timeout=SECONDS, check=False, **both).stdout


def _search(case: Case, kind: str, directory: Path) -> Report:
    """Run one pass of a case in an empty directory."""
    macros, options = PASSES[kind]
    cc = compiler() or "cc"
    memory = CI_MEMORY if case.ci else FULL_MEMORY
    model = shutil.copy(HERE / f"{case.model}.pml", directory / "model.pml")
    output = _run(["spin", f"-P{cc} -E -x c", "-a", *case.defines, Path(model).name], directory)
    if not (directory / "pan.c").exists():
        return Report("nothing", f"spin made no verifier: {output.strip()[-300:]}")
    output = _run([cc, case.optimise, "-w", *macros, f"-DMEMLIM={memory}", "-o", "pan", "pan.c"], directory)
    if not (directory / "pan").exists():
        return Report("nothing", f"the verifier does not compile: {output.strip()[-300:]}")
    return parse(_run(["./pan", "-n", f"-m{case.depth}", *options], directory))


def check(case: Case, trail: bool = False) -> Outcome:
    """Run the passes of a case, up to the first that decides it, and return the outcome.

    With ``trail``, the outcome contains SPIN's replay of the violation, step by step. Raises ``ValueError``
    for a flag that the model does not know.
    """
    unknown = unknown_flags(case)
    if unknown:
        names = ", ".join(unknown)
        raise ValueError(f"case {case.id}: {case.model}.pml knows no flag {names}; fix the table of cases")
    began, report, replay = time.monotonic(), Report("nothing", "no pass"), ""
    for kind in case.passes:
        with tempfile.TemporaryDirectory(prefix="mutex-model-") as name:
            directory = Path(name)
            try:
                report = _search(case, kind, directory)
            except subprocess.TimeoutExpired:
                report = Report("nothing", f"no result after {SECONDS} s")
            if trail and (directory / "model.pml.trail").exists():
                replay = _run(["spin", "-t", "-p", "-g", *case.defines, "model.pml"], directory)
        if report.problem or report.found != HOLDS:
            break
    return Outcome(case, report, time.monotonic() - began, replay)


COLUMNS = (24, 46, 18, 8, 7, 4, 4)


def _row(*cells: str) -> str:
    return " ".join(cell.ljust(width) for cell, width in zip(cells, COLUMNS)).rstrip()


def table_row(outcome: Outcome) -> str:
    """Return a row of an RST simple table, as in ``README.rst``."""
    report = outcome.report
    result = report.problem or ("holds" if report.found == HOLDS else outcome.case.expect)
    if not outcome.ok:
        result = f"FAILED, expected {outcome.case.expect}: {report.problem or report.found}"
    return _row(
        outcome.case.id, " ".join(outcome.case.flags.split()), result,
        f"{report.states:.0f}", str(report.depth), f"{report.memory:.0f}", f"{outcome.seconds:.1f}",
    )  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Run the chosen cases and print a table. Return 0 if all are as expected, 1 if not, 2 without SPIN."""
    parser = argparse.ArgumentParser(description="Check the models of the mutex with SPIN.")
    parser.add_argument("ids", nargs="*", metavar="ID", help="only these cases")
    parser.add_argument("--all", action="store_true", help="also the big cases (minutes, up to 4 GiB)")
    parser.add_argument("--list", action="store_true", help="list the cases and do nothing")
    parser.add_argument("--trail", action="store_true", help="replay what was found, step by step")
    options = parser.parse_args(arguments)
    unknown = sorted(set(options.ids) - {case.id for case in CASES})
    if unknown:
        parser.error(f"no case {', '.join(unknown)}; --list --all shows them")
    chosen = [case for case in CASES if (case.id in options.ids if options.ids else options.all or case.ci)]
    if options.list:
        for case in chosen:
            print(f"{case.id:34} {case.expect:20} {case.model} {case.flags}")
        return 0
    reason = missing_tools()
    if reason:
        print(reason, file=sys.stderr)
        return 2
    rule = _row(*("=" * width for width in COLUMNS))
    print(rule, _row("case", "flags", "result", "states", "depth", "MiB", "s"), rule, sep="\n")
    failed = []
    for case in chosen:
        outcome = check(case, trail=options.trail)
        print(table_row(outcome), outcome.trail, sep="\n" if outcome.trail else "", flush=True)
        if not outcome.ok:
            failed.append(case.id)
    print(rule)
    print(f"{len(chosen) - len(failed)} of {len(chosen)} as expected", *failed)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
