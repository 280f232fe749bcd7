"""Check the mutex's protocol with SPIN: generate, compile and run one verifier for each case of ``mutex.pml``.

A case passes only if its search ended as the table says. ``HOLDS`` means that every reachable state was
checked and no assertion failed. The other values name the kind of violation that SPIN must find in a
deliberately broken protocol. A search that ran out of depth, memory or time has proved nothing, and its case
fails.

Usage: ``python tests/model/run.py [--all] [--list] [--trail] [ID ...]``. It needs SPIN 6 (Debian: ``spin``)
and a C compiler, and at most 4 GiB with ``--all`` (1 GiB without). ``README.rst`` in this folder explains the
model.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

MODEL = Path(__file__).resolve().parent / "mutex.pml"

HOLDS = "holds"
ASSERTION = "assertion violated"
NEEDLESS = "needless recovery"  # the assertion of EXACT, recognised by its ghost variable
NO_PROGRESS = "non-progress cycle"
DEADLOCK = "invalid end state"

SAFETY = "safety"  # assertions and deadlocks
PROGRESS = "progress"  # under weak fairness some process always enters the critical section again

PASSES = {
    SAFETY: (("-DSAFETY",), ()),
    PROGRESS: (("-DNP", "-DNFAIR=3"), ("-l", "-f")),
}
SECONDS = 900  # limit for a verifier that hangs or is far too large; not a measure of speed

LARGE_DEPTH = 6_000_000  # steps; enough for three processes

CI_MEMORY, FULL_MEMORY = 1024, 4096  # MiB


class Case(NamedTuple):
    """One check: the ``-D`` flags that choose a variant of the model, and the expected result."""

    id: str
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
        """The optimisation flag. For a short search, optimising costs more time than it saves."""
        return "-O0" if self.ci and ("N=2" in self.flags.split() or self.expect != HOLDS) else "-O2"

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
    """A case after its last pass; ``seconds`` is the processor time of spin, compiler and verifier together."""

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
    """Yield the protocol of the code, with any number of kills, exceptions and recoveries, or one kill."""
    for order, tag in _orders():
        small = order != "TSO"  # every run of TSO is one of PSO too, and with two processes PSO is small enough
        late = f"{order} LATECLEAR" if order else ""
        yield Case(f"n2{tag}", f"N=2 {late} ABANDON", ci=small)
        yield Case(f"n3{tag}-hasty", f"N=3 {order} HASTY", ci=False, depth=LARGE_DEPTH)
        yield Case(f"epochs-n2{tag}", f"N=2 {order} EPOCHS ABANDON", ci=False, depth=LARGE_DEPTH)
        yield Case(f"epochs-n2{tag}-hasty", f"N=2 {order} EPOCHS HASTY ABANDON", ci=not order)
    yield Case("n3-hasty-abandon", "N=3 HASTY ABANDON", depth=2_000_000)
    yield Case("n3-kill1", "N=3 ABANDON MAXC=1", ci=False, depth=LARGE_DEPTH)


def _exact() -> Iterable[Case]:
    """Yield the cases in which a recovery may begin only if the token is lost."""
    for order, tag in _orders()[:2]:
        quick = f"{order} EXACT QUICK"
        yield Case(f"exact-n3{tag}", f"N=3 {quick} STOP MAXC=0")
        yield Case(f"exact-n3{tag}-abandon", f"N=3 {quick} ABANDON MAXC=1", ci=not order, depth=LARGE_DEPTH)
        yield Case(f"exact-n3{tag}-bound", f"N=3 {order} EXACT MAXC=0", ci=False, depth=LARGE_DEPTH)
        yield Case(f"epochs-exact-n3{tag}", f"N=3 {quick} EPOCHS MAXC=0", ci=False, depth=LARGE_DEPTH)
    for variant in ("NORELOOK", "WAITIN"):
        tag = variant.lower()
        yield Case(f"n2-{tag}", f"N=2 {variant}")
        yield Case(f"exact-n3-{tag}", f"N=3 EXACT QUICK MAXC=0 {variant}", ci=False)


def _progressing() -> Iterable[Case]:
    """Yield the progress cases: processes keep entering, despite kills, exceptions and a stopped process."""
    for order, tag in _orders():
        kills = 1 if order else 2
        flags = f"N=2 {order} LIVE ABANDON STOP MAXC={kills}"  # a process may stop: it holds without a stop, too
        yield Case(f"n2{tag}-live", flags, HOLDS, PROGRESS, ci=order != "PSO")
        yield Case(f"epochs-n2{tag}-live", f"{flags} EPOCHS", HOLDS, PROGRESS, ci=False)
    yield Case("n3-live", "N=3 LIVE STOP MAXC=1 MAXSP=0", HOLDS, PROGRESS, ci=False, depth=LARGE_DEPTH)


def _broken() -> Iterable[Case]:
    """Yield the mutations: each removes one safeguard, and SPIN must find the violation."""
    fences = ("TSO NOFENCE1", "PSO NOFENCE1", "PSO NOFENCE2", "TSO NOREFENCE", "PSO NOREFENCE")
    unsafe = ("NOCHECK", "CHECKFIRST", "NOWAIT", "NOREPAIR", "KEEPI", "ONESEM", *fences)
    needless = ("NOINTENT", "NOSEQ", "EARLYSEQ", "UNTRIED", "TSO NOLOCKED", "OLDLOOK", "SEENIN")
    for mutation in unsafe:
        tag = mutation.lower().replace(" ", "-")
        yield Case(f"n2-{tag}", f"N=2 {mutation}", ASSERTION)
        yield Case(f"epochs-n2-{tag}", f"N=2 EPOCHS HASTY {mutation}", ASSERTION, ci=False, depth=LARGE_DEPTH)
        yield Case(f"n3-{tag}", f"N=3 HASTY {mutation}", ASSERTION, ci=False, depth=2 * LARGE_DEPTH)
    for mutation in needless:
        tag = mutation.lower().replace(" ", "-")
        yield Case(f"exact-n3-{tag}", f"N=3 EXACT QUICK MAXC=0 {mutation}", NEEDLESS)
        yield Case(f"epochs-exact-n3-{tag}", f"N=3 EXACT QUICK MAXC=0 EPOCHS {mutation}", NEEDLESS, ci=False)
    yield Case("exact-n2-quietquit", "N=2 EXACT QUICK ABANDON MAXC=1 QUIETQUIT", NEEDLESS)
    live = "N=2 LIVE MAXC=1"
    yield Case("n2-nobound", f"{live} STOP NOBOUND", NO_PROGRESS, PROGRESS)
    yield Case("n2-anyset", f"{live} ANYSET", NO_PROGRESS, PROGRESS)
    yield Case("n2-noclear", f"{live} NOCLEAR", NO_PROGRESS, PROGRESS)
    yield Case("n2-notimeout", f"{live} NOTIMEOUT", DEADLOCK)


def _undetected() -> Iterable[Case]:
    """Yield mutations that violate no assertion of safety: see ``README.rst`` for what they break."""
    yield Case("n2-noclear-safety", "N=2 NOCLEAR")
    yield Case("n2-nointent-safety", "N=2 PSO NOINTENT ABANDON")


CASES = [*_holding(), *_exact(), *_progressing(), *_broken(), *_undetected()]
CI_CASES = [case for case in CASES if case.ci]


def compiler() -> str | None:
    """Return the path of the first C compiler found on ``PATH``, or None."""
    return next((found for found in map(shutil.which, ("cc", "gcc", "clang")) if found), None)


def missing_tools() -> str:
    """Return why nothing can be checked here, or ``""``; another program named spin does not count."""
    if shutil.which("spin") is None:
        return "SPIN is not installed (Debian: apt-get install spin)"
    if "Spin Version" not in _run(["spin", "-V"], MODEL.parent):
        return "the program named spin is not the model checker"
    return "" if compiler() else "no C compiler (cc, gcc or clang) is installed"


def unknown_flags(case: Case) -> list[str]:
    """Return the flags that the model's code does not use: a misspelt flag would not change the protocol."""
    code = re.sub(r"/\*.*?\*/", "", MODEL.read_text(encoding="utf-8"), flags=re.DOTALL)
    names = [flag.partition("=")[0] for flag in case.flags.split()]
    return [name for name in names if not re.search(rf"\b{name}\b", code)]


def parse(output: str) -> Report:
    """Parse a verifier's output. An incomplete search is a problem, whatever else the output says."""
    errors = re.search(r"depth reached (\d+), errors: (\d+)", output)
    if errors is None:
        return Report("nothing", f"the verifier gave no result: {output.strip()[-300:]}")
    violation = re.search(r"^pan:\d+: (.*?) \(at depth", output, re.MULTILINE)
    found = HOLDS if errors[2] == "0" else violation[1].strip() if violation else "an error of unknown kind"
    if found.startswith(ASSERTION) and "gave[" in found:
        found = NEEDLESS
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


def _processor_seconds() -> float:
    """Return the processor time of all finished child processes: unlike the clock, it ignores other load."""
    times = os.times()
    return times.children_user + times.children_system


def _search(case: Case, kind: str, directory: Path) -> Report:
    """Run one pass of a case in an empty directory."""
    macros, options = PASSES[kind]
    cc = compiler() or "cc"
    memory = CI_MEMORY if case.ci else FULL_MEMORY
    shutil.copy(MODEL, directory)
    output = _run(["spin", f"-P{cc} -E -x c", "-a", *case.defines, MODEL.name], directory)
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
        raise ValueError(f"case {case.id}: {MODEL.name} knows no flag {names}; fix the table of cases")
    began, report, replay = _processor_seconds(), Report("nothing", "no pass"), ""
    for kind in case.passes:
        with tempfile.TemporaryDirectory(prefix="mutex-model-") as name:
            directory = Path(name)
            try:
                report = _search(case, kind, directory)
            except subprocess.TimeoutExpired:
                report = Report("nothing", f"no result after {SECONDS} s")
            if trail and (directory / f"{MODEL.name}.trail").exists():
                replay = _run(["spin", "-t", "-p", "-g", *case.defines, MODEL.name], directory)
        if report.problem or report.found != HOLDS:
            break
    return Outcome(case, report, _processor_seconds() - began, replay)


COLUMNS = (28, 43, 18, 8, 7, 4, 4)


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
    parser = argparse.ArgumentParser(description="Check the model of the mutex with SPIN.")
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
            print(f"{case.id:34} {case.expect:20} {' '.join(case.flags.split())}")
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
