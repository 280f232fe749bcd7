"""The quick start, followed to the letter: what the page shows, typed by a user who has nothing else."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("docutils", reason="needs docutils: see tests/docs/requirements.txt")
pytest.importorskip("websockets", reason="needs websockets: see tests/docs/requirements.txt")

from asgi_ipc import IPCChannelLayer

from .blocks import Block, section, sections
from .checkout import URL, Newcomer
from .project import Project, Shell, build_quickstart, machine_to_itself, wait_until
from .sockets import open_sockets, receive

PAGE = "quickstart.rst"
INSTALL, SERVE, SCRIPT, CLEAN_UP = "Install", "Start two workers", "Send from a script", "Clean up"
FLASH = "The backup is done"


@pytest.fixture
def project(newcomer: Newcomer) -> Iterator[Project]:
    """An empty directory and the first terminal."""
    with machine_to_itself(["mysite"]):
        project = Project(newcomer.directory, **newcomer.environment)
        project.really_installs = True
        try:
            yield project
        finally:
            project.end()


def follow(project: Project, blocks: list[Block]) -> None:
    """Do what blocks say, in the directory in which the terminal is."""
    for block in blocks:
        project.run_all([block])
        project.directory = Path(project.command("pwd").strip())


def split_install() -> tuple[list[Block], Block]:
    """Return the blocks of the installation, and the one that replaces its last line until there is a release."""
    ordinary: list[Block] = []
    from_git: list[Block] = []
    for block in section(PAGE, INSTALL).blocks:
        (from_git if any(URL in command for command in block.commands) else ordinary).append(block)
    assert len(from_git) == 1
    return ordinary, from_git[0]


def open_second_terminal(newcomer: Newcomer, project: Project) -> Shell:
    """Open a terminal in the directory of the project, with its virtual environment."""
    shell = newcomer.open_shell()
    status, printed = shell.run(f"cd {project.directory} && . .venv/bin/activate")
    assert status == 0, printed
    return shell


def test_the_page_to_the_letter(newcomer: Newcomer, project: Project) -> None:
    ordinary, _ = split_install()
    follow(project, ordinary)
    version = project.command("python -c 'import asgi_ipc; print(asgi_ipc.__file__)'")
    assert version.startswith(str(project.directory)), "the terminal does not use the new virtual environment"
    done = {INSTALL}
    for each in sections(PAGE):
        if each.title not in {INSTALL, SCRIPT, CLEAN_UP}:
            follow(project, each.blocks)
            done.add(each.title)
    terminal = open_second_terminal(newcomer, project)
    try:
        with open_sockets(workers=2) as sockets:
            check_one_socket_to_all(sockets)
            script = section(PAGE, SCRIPT)
            for block in script.files:
                project.write(block)
            (command,) = script.commands
            for _ in range(2):  # the second one finds that a script leaves nothing that disturbs the next
                status, printed = terminal.run(command)
                assert (status, printed.strip()) == (0, ""), printed
                news = [receive(socket) for socket in sockets]
                assert {each["text"] for each in news} == {FLASH}
                assert len({each["worker"] for each in news}) == 2
            check_a_killed_worker(terminal, command, sockets, [each["worker"] for each in news])
        (command,) = section(PAGE, CLEAN_UP).commands
        status, printed = terminal.run(command)
        assert status == 0, printed
        assert "removed segment mysite-messages" in printed
    finally:
        terminal.end()
    done |= {SCRIPT, CLEAN_UP}
    assert done == {each.title for each in sections(PAGE)}


def check_one_socket_to_all(sockets: list[Any]) -> None:
    """What one browser sends arrives at all, through both workers."""
    sockets[0].send(json.dumps({"text": "hello"}))
    news = [receive(socket) for socket in sockets]
    assert {each["text"] for each in news} == {"hello"}
    assert len({each["worker"] for each in news}) == 2


def check_a_killed_worker(terminal: Shell, command: str, sockets: list[Any], workers: list[int]) -> None:
    """The other worker continues, the sockets of the dead one leave the group, and a new worker starts."""
    killed = workers[0]
    alive = [socket for socket, worker in zip(sockets, workers) if worker != killed]
    os.kill(killed, signal.SIGKILL)
    before = time.monotonic()
    status, printed = terminal.run(command)
    assert status == 0, printed
    for socket in alive:
        assert receive(socket)["text"] == FLASH
    assert time.monotonic() - before < 5
    with IPCChannelLayer(prefix="mysite") as layer:
        wait_until(lambda: len(layer.group_channels("news")) == len(alive), "the sockets of the dead to leave")
    with open_sockets(workers=2) as others:
        others[-1].send(json.dumps({"text": "again"}))
        assert {receive(socket)["text"] for socket in [*others, *alive]} == {"again"}


def test_the_line_until_there_is_a_release(project: Project) -> None:
    ordinary, from_git = split_install()
    commands = [command for block in ordinary for command in block.commands]
    for command in commands[:-1]:
        project.command(command)
    project.directory = Path(project.command("pwd").strip())
    follow(project, [from_git])
    assert "pip install" in commands[-1]
    described = "import importlib.metadata as m; print(m.distribution('asgi_ipc').read_text('direct_url.json'))"
    assert json.loads(project.command(f'python -c "{described}"'))["vcs_info"]["vcs"] == "git"
    follow(project, section(PAGE, "Create the project").blocks)
    check = "import asgi_ipc, channels, uvicorn, websockets, mysite.settings as s; print(s.CHANNEL_LAYERS)"
    assert "asgi_ipc.AsyncIPCChannelLayer" in project.command(f'python -c "{check}"')


def test_the_page_in_a_browser(tmp_path: Path) -> None:
    """Two tabs: what the form sends appears in both, and a tab whose worker was killed connects again."""
    pytest.importorskip("selenium", reason="needs selenium: see tests/docs/requirements.txt")
    pytest.importorskip("uvicorn", reason="needs uvicorn: see tests/docs/requirements.txt")
    pytest.importorskip("channels.layers", reason="needs Channels 4: see tests/docs/requirements.txt")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("needs Chromium and its driver: apt-get install chromium chromium-driver")
    from channels4.browser import start_chromium

    folder = tmp_path / "project"
    folder.mkdir()
    with machine_to_itself(["mysite"]):
        project = Project(folder)
        try:
            build_quickstart(project)
            project.run_all(section(PAGE, SERVE).blocks)
            browser = start_chromium(chromium, driver, tmp_path / "profile")
            try:
                try_the_tabs(browser)
            finally:
                browser.quit()
        finally:
            project.end()


def try_the_tabs(browser: Any) -> None:
    tabs: list[str] = []
    with IPCChannelLayer(prefix="mysite") as layer:
        while len(tabs) < 2:
            browser.switch_to.new_window("tab")
            browser.get("http://127.0.0.1:8000/")
            tabs.append(browser.current_window_handle)
            wait_until(lambda: len(layer.group_channels("news")) == len(tabs), "the tab to connect")

        def lines(tab: str) -> list[str]:
            browser.switch_to.window(tab)
            return [item.text for item in browser.find_elements("css selector", "li")]

        def say(text: str) -> list[str]:
            """Send from the last tab, and return the line that each tab shows."""
            browser.switch_to.window(tabs[-1])
            browser.find_element("name", "text").send_keys(text)
            browser.find_element("css selector", "button").click()
            wait_until(lambda: all(text in " ".join(lines(tab)) for tab in tabs), f"{text!r} in all tabs")
            return [lines(tab)[0] for tab in tabs]

        shown = say("tea is ready")
        assert all(line.startswith("tea is ready (worker ") for line in shown)
        worker = int(shown[0].removesuffix(")").rpartition(" ")[2])
        os.kill(worker, signal.SIGKILL)
        wait_until(lambda: not os.path.exists(f"/proc/{worker}"), "Uvicorn to notice")
        wait_until(lambda: len(layer.group_channels("news")) == len(tabs), "the tabs to connect again")
        shown = say("and cake")
        assert str(worker) not in " ".join(shown)
