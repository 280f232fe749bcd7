"""The page on servers: every command starts a real server, whose workers share the layer."""

from __future__ import annotations

import importlib.util
import shutil

import pytest

from ..blocks import Section, sections
from . import site
from .machine import Machine

PAGE = "deployment/servers.rst"
SECTIONS = {each.title: each for each in sections(PAGE)}
USER = "mysite"
#: For each section that shows how to start a server: over how many processes the browsers must be spread.
PROCESSES = {
    "Uvicorn": 2,
    "Gunicorn": 2,
    "Gunicorn with --preload": 2,
    "Hypercorn": 2,
    "Daphne": 1,
    "Several Daphne processes on one socket": 2,
    "During development": 1,
}
#: The sections with a test of their own.
OTHERS = {"Several Daphne processes behind nginx", "Background workers"}
COMMANDS = [(title, command) for title in PROCESSES for command in SECTIONS[title].commands]
#: What the site does at its import to show that --preload is safe: it creates the layer, and uses it.
USES_THE_LAYER = """
from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer

async_to_sync(get_channel_layer().send)("imported", {"by": os.getpid()})
"""


def test_every_section_is_tested() -> None:
    assert set(SECTIONS) == set(PROCESSES) | OTHERS


def needs(command: str) -> None:
    """Skip the test if the server of a command is not installed."""
    server = "daphne" if command.startswith("python serve.py") else command.split()[0]
    if shutil.which(server) is None and importlib.util.find_spec(server) is None and server != "python":
        pytest.skip(f"needs {server}: see tests/docs/requirements.txt")


@pytest.mark.parametrize(("title", "command"), COMMANDS, ids=[command for _, command in COMMANDS])
def test_the_workers_of_a_server_share_the_layer(machine: Machine, title: str, command: str) -> None:
    needs(command)
    site.put(machine, SECTIONS[title].files)
    if "--preload" in command:
        asgi = machine.run(f"cat {site.HOME}/mysite/asgi.py")
        machine.write(f"{site.HOME}/mysite/asgi.py", asgi + USES_THE_LAYER)
    server = machine.start(command, USER, site.HOME)
    try:
        site.check(machine, PROCESSES[title], USER)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{server.log()}") from error
    assert "deprecat" not in server.log().lower()
    if "--preload" in command:
        imported = "len([*iter(lambda: l.receive(['imported'])[0], None)])"
        reader = f"from asgi_ipc import IPCChannelLayer; l = IPCChannelLayer('mysite'); print({imported})"
        count = machine.run(["python", "-c", reader], USER)
        assert count == "1\n", "the site was not imported once, before the fork"
    if "--reload" in command:
        machine.run(f"echo >>{site.HOME}/mysite/consumers.py")
        machine.wait_until(lambda: "Reloading" in server.log(), "the server to notice the change")
        site.check(machine, 1, USER)
    server.stop()


def test_daphne_behind_nginx(machine: Machine) -> None:
    needs("daphne")
    if not machine.ok("nginx -v"):
        pytest.skip("needs nginx: apt-get install nginx-light")
    shown = SECTIONS["Several Daphne processes behind nginx"]
    site.put(machine, shown.files)
    machine.run(f"install -d -o {USER} /run/mysite; rm -f /etc/nginx/sites-enabled/*")
    for command in shown.commands:
        assert command.endswith(" &")
        machine.start(command.removesuffix(" &"), USER, site.HOME)
    # The text leaves it to the reader how nginx's user gets access to the sockets.
    sockets = [command.split()[2] for command in shown.commands]
    machine.wait_until(lambda: machine.ok(f"chmod a+w {' '.join(sockets)}"), "Daphne's sockets")
    machine.run(["nginx", "-t"])
    machine.start("nginx -g 'daemon off;'")
    site.check(machine, len(shown.commands), USER)


def test_one_runworker_of_several_gets_a_message(machine: Machine) -> None:
    [command] = SECTIONS["Background workers"].commands
    workers = [machine.start(command, USER, site.HOME) for _ in range(2)]
    for _ in range(4):
        assert machine.run("python count.py", USER, site.HOME) == "{'letters': 5}\n"
    sends = "import asgi_ipc; asgi_ipc.IPCChannelLayer('mysite').send('counter', {'n': 1})"
    receives = "import asgi_ipc; print(asgi_ipc.IPCChannelLayer('mysite').receive(['counter']))"
    workers[0].stop()
    assert machine.run("python count.py", USER, site.HOME) == "{'letters': 5}\n"
    workers[1].stop()
    machine.run(["python", "-c", sends], USER)
    assert machine.run(["python", "-c", receives], USER) == "('counter', {'n': 1})\n"


@pytest.fixture(autouse=True)
def websockets() -> None:
    """Skip if the client is missing."""
    pytest.importorskip("websockets", reason="needs websockets: see tests/docs/requirements.txt")


def test_each_command_is_a_block() -> None:
    """Each block of the page is a command or a file that a test above uses."""
    for each in SECTIONS.values():
        assert isinstance(each, Section)
        for block in each.blocks:
            assert block.caption or block.commands, block.text
