"""Consumers in tests that freeze time, run in a separate pytest process: one that hangs is killed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.processes import LIMIT

pytest.importorskip("channels.layers", reason="needs Channels 4: tox -e channels4")
pytest.importorskip("daphne", reason="needs daphne: tox -e channels4")
pytest.importorskip("freezegun", reason="needs freezegun: tox -e channels4")
pytest.importorskip("time_machine", reason="needs time-machine: tox -e channels4")


def test_consumers_work_while_time_is_frozen() -> None:
    cases = Path(__file__).with_name("frozen_cases.py")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=short", str(cases)]
    with_traceback = ["-o", f"faulthandler_timeout={LIMIT / 2}"]
    try:
        done = subprocess.run(
            [*command, *with_traceback],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=LIMIT,
            env={**os.environ, "PYTEST_XDIST_AUTO_NUM_WORKERS": "0"},
        )
    except subprocess.TimeoutExpired as error:
        pytest.fail(f"the tests hang:\n{(error.stdout or b'').decode(errors='replace')}")
    assert done.returncode == 0, done.stdout
    assert re.search(r"^21 passed", done.stdout, re.MULTILINE), done.stdout
