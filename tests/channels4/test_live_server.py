"""``ChannelsLiveServerTestCase``, run in a separate pytest process, as a project runs its tests."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.processes import LIMIT

pytest.importorskip("channels.layers", reason="needs Channels 4: tox -e channels4")
pytest.importorskip("daphne", reason="needs daphne: tox -e channels4")
pytest.importorskip("websockets", reason="needs websockets: tox -e channels4")


def test_the_server_and_the_tests_share_the_layer() -> None:
    cases = Path(__file__).with_name("live_server_cases.py")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=short", str(cases)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=2 * LIMIT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^5 passed", done.stdout, re.MULTILINE), done.stdout
