"""The README: its commands work in a fresh clone, and its blocks make a site."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("docutils", reason="needs docutils: see tests/docs/requirements.txt")

from asgi_ipc import IPCChannelLayer

from .blocks import ROOT, Block, blocks, section
from .checkout import URL, Newcomer
from .project import Project, machine_to_itself

README = ROOT / "README.rst"
#: What GitHub shows. Not all of it is in the documentation, which Sphinx checks.
SHOWN = ["README.rst", "CHANGELOG.rst", "CONTRIBUTING.rst", "SECURITY.rst", "examples/chat/README.rst"]
#: The tests that the README's test command runs here. All of them would include this one.
SOME_TESTS = "tests/test_names.py"
INSTALL, USE, TRY, SYNCHRONOUS = "Install", "Use it", "Try it from a checkout", "The synchronous interface"


def shown(title: str) -> list[Block]:
    """Return the blocks of a section."""
    found = [block for each, block in blocks(README) if each == title]
    assert found, f"the README has no section {title!r} with code blocks"
    return found


def commands(title: str) -> list[str]:
    """Return the commands of the blocks of a section that are not Python, with or without prompts."""
    return [
        command
        for block in shown(title)
        if block.language != "python"
        for command in (block.commands or block.text.strip().splitlines())
    ]


def command_with(title: str, part: str) -> str:
    """Return the only command of a section that contains a text."""
    (found,) = (command for command in commands(title) if part in command)
    return found


def program(title: str) -> dict[str, str]:
    """Return the files of a section: the first line of each is a comment that begins with the path."""
    files = {}
    for block in shown(title):
        first = block.text.partition("\n")[0]
        assert first.startswith("# "), f"line {block.line}: a comment with the path of the file is missing"
        files[first[2:].partition(",")[0]] = block.text
    return files


@pytest.fixture
def run(newcomer: Newcomer) -> Iterator[Callable[[str], str]]:
    """Return a function that runs a command in the terminal of a new user, and returns what it prints."""
    shell = newcomer.open_shell()

    def run(command: str) -> str:
        status, printed = shell.run(command)
        assert status == 0, f"{command} has exit status {status}:\n{printed}"
        return printed

    yield run
    shell.end()


def test_each_block_is_tested() -> None:
    """The tests below use the blocks of these sections, and there are no others."""
    assert {title for title, _ in blocks(README)} == {INSTALL, USE, TRY, SYNCHRONOUS}
    assert len(commands(INSTALL)) == len(commands(TRY)) == 2
    assert set(program(USE)) == {"mysite/settings.py", "mysite/consumers.py", "news.py"}
    assert [block.language for block in shown(SYNCHRONOUS)] == ["python"]


@pytest.mark.parametrize("name", SHOWN)
def test_github_can_show_it(name: str) -> None:
    command = [sys.executable, "-m", "docutils", "--report=2", "--halt=2", str(ROOT / name)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "<h1" in done.stdout


@pytest.mark.parametrize("is_from_git", [False, True], ids=["the release", "the repository"])
def test_the_install_lines(run: Callable[[str], str], is_from_git: bool) -> None:
    (command,) = (each for each in commands(INSTALL) if (URL in each) is is_from_git)
    run("python3 -m venv .venv && . .venv/bin/activate")
    run(command)
    described = "import importlib.metadata as m; print(m.distribution('asgi_ipc').read_text('direct_url.json'))"
    origin = json.loads(run(f'python -c "import asgi_ipc, channels; {described}"').replace("None", "null"))
    assert (origin or {}).get("vcs_info", {}).get("vcs") == ("git" if is_from_git else None)
    assert run("python -c 'import asgi_ipc; print(asgi_ipc.__version__)'").startswith("2.")


def test_the_demo_in_a_fresh_clone(run: Callable[[str], str]) -> None:
    run(f"git clone -q {URL} && cd asgi_ipc")
    assert run(command_with(TRY, "demo")).endswith("Every message is accounted for.\n")
    assert run("git status --porcelain") == "", "what the command makes is not in .gitignore"


def test_the_test_command_in_a_fresh_clone(run: Callable[[str], str]) -> None:
    run(f"git clone -q {URL} && cd asgi_ipc")
    run(f"export PYTEST_ADDOPTS={SOME_TESTS}")
    printed = run(command_with(TRY, "pytest"))
    assert " passed in " in printed
    assert "failed" not in printed
    assert run("git status --porcelain") == "", "what the command makes is not in .gitignore"


def test_settings_consumer_and_script_work_together(tmp_path: Path) -> None:
    pytest.importorskip("channels.layers", reason="needs Channels 4: see tests/docs/requirements.txt")
    pytest.importorskip("uvicorn", reason="needs uvicorn: see tests/docs/requirements.txt")
    from .sockets import open_sockets, receive

    files = program(USE)
    with machine_to_itself(["mysite"]):
        project = Project(tmp_path)
        try:
            # The rest of a site, which the README leaves to the quick start: it routes to the same consumer.
            project.run_all(section("quickstart.rst", "Create the project").blocks[:1])
            consumer = section("quickstart.rst", "Write a consumer")
            (asgi,) = (block for block in consumer.files if block.file == "mysite/asgi.py")
            project.write(asgi)
            settings = tmp_path / "mysite" / "settings.py"
            settings.write_text(settings.read_text() + files["mysite/settings.py"])
            for name in ("mysite/consumers.py", "news.py"):
                (tmp_path / name).write_text(files[name])
            project.run_all(section("quickstart.rst", "Start two workers").blocks)
            with open_sockets(workers=2) as sockets:
                assert project.command("python news.py").strip() == ""
                assert [receive(socket) for socket in sockets] == [{"text": "The backup is done"}] * len(sockets)
                sockets[0].send(json.dumps({"text": "hello"}))
                assert [receive(socket) for socket in sockets] == [{"text": "hello"}] * len(sockets)
        finally:
            project.end()


def test_the_synchronous_interface(tmp_path: Path) -> None:
    (block,) = shown(SYNCHRONOUS)
    with machine_to_itself(["aeracode"]):
        project = Project(tmp_path)
        try:
            assert project.script(block.text) == "('my_channel', {'text': 'Hello ASGI'})\n"
            with IPCChannelLayer(prefix="aeracode", message_memory=200 * 1024 * 1024) as layer:
                assert layer.receive(["my_channel"]) == (None, None)
        finally:
            project.end()
