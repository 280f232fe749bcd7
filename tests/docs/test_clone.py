"""The pages that begin with a clone of the repository: the example chat, the benchmarks, the guide for contributors."""

from __future__ import annotations

import ast
import re
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("docutils", reason="needs docutils: see tests/docs/requirements.txt")

from asgi_ipc import IPCChannelLayer

from .blocks import DOCS, ROOT, blocks
from .checkout import URL, Newcomer
from .project import PORT, Shell, is_listening, machine_to_itself, wait_until

CHAT_README = ROOT / "examples" / "chat" / "README.rst"
CONTRIBUTING = ROOT / "CONTRIBUTING.rst"
CHAT = "examples/chat/run.py"
COMPARE = ".venv/bin/python -m benchmarks compare main ."
SOAK = "PYTHONPATH=tests .venv/bin/python -m soak --minutes 60"
BENCHMARKS = ".venv/bin/python -m benchmarks --quick"
CASES = ROOT / "tests" / "injection" / "message_cases.py"
#: Commands of the guide for contributors that something else runs or must run, and what this test runs instead. What
#: pytest is told here is only to collect: the tests of a clone would include this one.
INSTEAD = {
    ".venv/bin/python tests/model/run.py --all": ".venv/bin/python tests/model/run.py --all --list",  # takes minutes
    SOAK: f"{SOAK} --help",  # takes an hour
    COMPARE: f"{COMPARE} pair --rounds 1 --starts 1",  # takes minutes
    ".venv/bin/ruff check .": ".venv/bin/ruff --version",  # tox -e lint
    ".venv/bin/mypy": ".venv/bin/mypy --version",  # tox -e types
}
#: The section that ends with an upload to PyPI. tests/distribution builds and checks what would be uploaded.
RELEASE = "Make a release"


def commands(path: Path, without: str = "") -> list[str]:
    """Return the commands of a page, one for each that is joined with ``&&``, and without comments."""
    lines: list[str] = []
    for title, block in blocks(path):
        if title != without and block.language in ("", "console"):
            lines += block.commands or block.text.strip().splitlines()
    return [re.sub(r"\s+# .*", "", each).strip() for line in lines for each in line.split("&&")]


@pytest.fixture
def shell(newcomer: Newcomer) -> Iterator[Shell]:
    """The terminal of a new user."""
    shell = newcomer.open_shell()
    yield shell
    shell.end()


@pytest.fixture
def run(shell: Shell) -> Callable[[str], str]:
    """Return a function that runs a command there, and returns what it prints."""

    def run(command: str) -> str:
        status, printed = shell.run(command)
        assert status == 0, f"{command} has exit status {status}:\n{printed}"
        return printed

    return run


def test_the_example_chat(run: Callable[[str], str], shell: Shell, newcomer: Newcomer) -> None:
    shown = commands(DOCS / "example.rst")
    *preparation, start = shown
    assert start.endswith(CHAT)
    for command in preparation:
        run(command)
    with machine_to_itself([f"chat-{PORT}"]):
        try:
            log = newcomer.directory / "log"
            log.touch()
            run(f"{start} >{log} 2>&1 &")
            wait_until(lambda: f"The chat is at http://127.0.0.1:{PORT}/" in log.read_text(), "the chat")
            with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/") as page:
                assert b"<form" in page.read()
            with IPCChannelLayer(prefix=f"chat-{PORT}") as layer:
                layer.group_add("chat.lobby", "reader")
                run('.venv/bin/python examples/chat/post.py lobby "The backup is done"')
                channel, message = layer.receive(["reader"], block=True)
            assert (channel, message["text"]) == ("reader", "The backup is done")
            run("kill %1")  # bash starts what it runs in the background without Ctrl-C
            wait_until(lambda: not is_listening(), "the chat to end")
        finally:
            shell.end()
    assert "Traceback" not in log.read_text()


def test_the_readme_of_the_chat_has_the_same_commands() -> None:
    """It begins at the top of a checkout, and the page with a clone."""
    clone, enter, *others = commands(DOCS / "example.rst")
    assert (clone, enter) == (f"git clone {URL}", "cd asgi_ipc")
    assert commands(CHAT_README) == others
    assert "examples/chat/post.py" in CHAT_README.read_text(encoding="utf-8")


def test_the_command_of_the_benchmarks(run: Callable[[str], str]) -> None:
    """The page says that it takes minutes. So it runs one workload of this layer here, which needs no other package."""
    environment, install, command = commands(DOCS / "performance.rst")
    assert command == BENCHMARKS
    run(f"git clone -q {URL} && cd asgi_ipc")
    run(environment)
    assert "'.[bench]'" in install
    run(install.replace("[bench]", ""))
    assert "asgi_ipc" in run(f"{command} pair --peers asgi_ipc --output results")


def test_the_guide_for_contributors(run: Callable[[str], str]) -> None:
    shown = commands(CONTRIBUTING, without=RELEASE)
    unused = set(INSTEAD) - set(shown)
    assert not unused, f"CONTRIBUTING.rst no longer shows {unused}"
    run("export PIP_QUIET=1")
    for command in shown:
        if " -m pytest" in command:
            printed = run(f"{command} --collect-only -q -n 0 -p no:cacheprovider")
            collected = re.search(r"(\d+)(?:/\d+)? tests collected", printed)
            assert collected, printed
            assert int(collected[1]) > 0
        else:
            run(INSTEAD.get(command, command))
    assert run("git status --porcelain") == "", "what the commands make is not in .gitignore"


def test_the_case_that_contributors_see_exists() -> None:
    """The block shows a case of the module, so the command that follows it finds that case."""
    (block,) = (block for _, block in blocks(CONTRIBUTING) if block.language == "python")
    (shown,) = ast.parse(block.text).body
    assert isinstance(shown, ast.Expr)
    there = {ast.dump(each.value) for each in ast.parse(CASES.read_text()).body if isinstance(each, ast.Expr)}
    assert ast.dump(shown.value) in there


def test_a_release_is_made_of_commands_that_are_tested() -> None:
    (block,) = (block for title, block in blocks(CONTRIBUTING) if title == RELEASE)
    assert [line.split() for line in block.text.splitlines()] == [
        ["git", "clean", "-xdf", "dist"],
        ["python", "-m", "pip", "install", "build", "twine"],
        ["python", "-m", "build"],
        ["python", "-m", "twine", "check", "--strict", "dist/*"],
        ["python", "-m", "twine", "upload", "dist/*"],
    ]
