"""The mutex's protocol, checked exhaustively with SPIN: the protocol holds, and each mutation is detected.

The model and the table of cases are in ``tests/model``. The large cases are run by hand, with ``run.py``.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

RUNNER = Path(__file__).resolve().parent / "run.py"


def load_runner():
    """Return ``run.py`` as a module: it is a script beside its model, not part of a package."""
    spec = importlib.util.spec_from_file_location("mutex_model_runner", RUNNER)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


model = load_runner()
missing = model.missing_tools()
needs_spin = pytest.mark.skipif(bool(missing), reason=missing or "SPIN is available")

#: Cases that take from one to fifteen seconds each.
LARGE = {
    "epochs-n2-hasty",
    "exact-n3",
    "exact-n3-abandon",
    "exact-n3-tso",
    "n2-live",
    "n2-pso",
    "n2-tso-live",
    "n3-hasty-abandon",
}

SMALL = model.Case("small", "N=2")
BROKEN = model.Case("broken", "N=2 NOCHECK", model.ASSERTION)

CLEAN = """
State-vector 48 byte, depth reached 4573, errors: 0
    25240 states, stored
  182.871\ttotal actual memory usage
"""


def as_parameter(case):
    """Return a case as a parameter of a test; the cases with the largest state spaces are exhaustive."""
    return pytest.param(case, id=case.id, marks=[pytest.mark.exhaustive] if case.id in LARGE else [])


@needs_spin
@pytest.mark.parametrize("case", [as_parameter(case) for case in model.CI_CASES])
def test_protocol_has_the_expected_result(case):
    outcome = model.check(case)
    assert outcome.ok, f"{case.flags}: expected {case.expect}, got {outcome.report}"


@needs_spin
@pytest.mark.parametrize(
    ("case", "problem"),
    [
        (SMALL._replace(depth=100), "max search depth too small"),
        (model.Case("big", "N=3 LIVE MAXC=1"), "reached -DMEMLIM bound"),
        (SMALL._replace(flags="N=2 PSO MAXC=("), "spin made no verifier"),
    ],
    ids=["depth", "memory", "syntax"],
)
def test_incomplete_search_proves_nothing(case, problem, monkeypatch):
    monkeypatch.setattr(model, "CI_MEMORY", 256)
    outcome = model.check(case)
    assert not outcome.ok
    assert problem in outcome.report.problem


@needs_spin
@pytest.mark.parametrize(
    "case",
    [
        SMALL._replace(expect=model.ASSERTION),
        BROKEN._replace(expect=model.HOLDS),
        BROKEN._replace(expect=model.DEADLOCK),
        BROKEN._replace(expect=model.NEEDLESS),
    ],
    ids=["holds-instead-of-violation", "violation-instead-of-holds", "deadlock", "needless-recovery"],
)
def test_unexpected_result_fails(case):
    outcome = model.check(case)
    assert not outcome.report.problem
    assert not outcome.ok


@needs_spin
def test_progress_check_also_finds_deadlocks():
    deadlocked = model.Case("deadlocked", "N=2 LIVE MAXC=1 NOTIMEOUT", search=model.PROGRESS)
    assert model.check(deadlocked).report.found == model.DEADLOCK


@needs_spin
def test_trail_replays_the_violation():
    assert "assertion violated" in model.check(BROKEN, trail=True).trail


def test_clean_output_holds():
    assert model.parse(CLEAN) == model.Report(model.HOLDS, "", 25240, 4573, 182.871)


@pytest.mark.parametrize(
    "line",
    [
        "error: max search depth too small",
        "pan: out of memory",
        "pan: reached -DMEMLIM bound",
        "Warning: Search not completed",
    ],
)
def test_incomplete_output_is_a_problem(line):
    assert model.parse(f"{line}\n{CLEAN}").problem


def test_violation_in_an_incomplete_search_is_also_a_problem():
    found = "pan:1: assertion violated (x==0) (at depth 9)\n" + CLEAN.replace("errors: 0", "errors: 1")
    assert model.parse(found).found == "assertion violated (x==0)"
    assert model.parse("error: max search depth too small\n" + found).problem


def test_no_output_is_a_problem():
    assert model.parse("Segmentation fault").problem


def test_large_cases_are_in_the_table():
    assert {case.id for case in model.CI_CASES} >= LARGE


def test_case_ids_are_unique():
    ids = [case.id for case in model.CASES]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("case", model.CASES, ids=lambda case: case.id)
def test_flags_are_known_to_the_model(case):
    assert model.unknown_flags(case) == []


def test_misspelt_flag_is_rejected():
    with pytest.raises(ValueError, match="NOCHEK"):
        model.check(SMALL._replace(flags="N=2 NOCHEK"))
