"""Each code block of a page runs as it stands, from the first to the last, and does what the page says."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import posix_ipc
import pytest

pytest.importorskip("docutils", reason="needs docutils: see tests/docs/requirements.txt")
pytest.importorskip("channels.layers", reason="needs Channels 4: see tests/docs/requirements.txt")
pytest.importorskip("uvicorn", reason="needs uvicorn: see tests/docs/requirements.txt")

from asgi_ipc import IPCChannelLayer, SegmentMismatch

from .blocks import Block, sections
from .project import SHM, Project, build_quickstart, machine_to_itself, prefixes_of

RunPage = Callable[..., Project]

#: A socket of each consumer of the page on consumers, in one process.
CONSUMERS = """
import asyncio, os
os.environ["DJANGO_SETTINGS_MODULE"] = "mysite.settings"
from channels.routing import URLRouter
from channels.testing import WebsocketCommunicator
from django.urls import path
from mysite.asgi import application
from mysite.rooms import RoomConsumer

async def main():
    first, second = (WebsocketCommunicator(application, "/ws/news/") for _ in range(2))
    assert (await first.connect())[0] and (await second.connect())[0]
    await first.send_json_to({"text": "hello"})
    assert await first.receive_json_from() == await second.receive_json_from() == {"text": "hello"}
    rooms = URLRouter([path("rooms/<room>/", RoomConsumer.as_asgi())])
    third, fourth = (WebsocketCommunicator(rooms, "/rooms/tea/") for _ in range(2))
    for members, socket in enumerate([third, fourth], 1):
        assert (await socket.connect())[0]
        assert await socket.receive_json_from() == {"members": members}
    await third.send_json_to({"text": "milk?"})
    assert await third.receive_json_from() == await fourth.receive_json_from() == {"text": "milk?"}
    for socket in (first, second, third, fourth):
        await socket.disconnect()

asyncio.run(main())
"""
#: What the settings of the page on consumers do.
SETTINGS = """
import asyncio, os
os.environ["DJANGO_SETTINGS_MODULE"] = "mysite.settings"
import django
django.setup()
from channels.layers import get_channel_layer

async def main():
    layer = get_channel_layer()
    await layer.group_add("full", "reader")
    for _ in range(1001):
        await layer.group_send("full", {"type": "news.flash"})
    await layer.group_discard("full", "reader")
    assert (layer.expiry, layer.capacity) == (10, 1000)
    assert layer._layer.get_capacity("thumbnails") == 5000

asyncio.run(main())
"""
#: What the settings of the page on options do.
OPTIONS = """
import os
os.environ["DJANGO_SETTINGS_MODULE"] = "mysite.settings"
import django
django.setup()
from channels.layers import get_channel_layer

layer = get_channel_layer()._layer
names = ["http.request", "http.response!x", "websocket.send!y", "other"]
print([layer.get_capacity(name) for name in names])
"""


@pytest.fixture
def run_page(tmp_path: Path) -> Iterator[RunPage]:
    """Return a function that runs all blocks of a page, and returns the project for further checks."""
    with ExitStack() as stack:

        def run_page(page: str, quickstart: bool = True, before: Callable[[Block], None] | None = None) -> Project:
            blocks = [block for each in sections(page) for block in each.blocks]
            stack.enter_context(machine_to_itself({*prefixes_of(page), "asgi", "mysite"}))
            project = Project(tmp_path)
            stack.callback(project.end)
            if quickstart:
                build_quickstart(project)
            project.run_all(blocks, before or (lambda block: None))
            return project

        yield run_page


def test_index(run_page: RunPage) -> None:
    project = run_page("index.rst")
    with IPCChannelLayer(prefix="mysite") as layer:
        layer.group_add("news", "reader")
        project.command("python news.py")
        assert layer.receive(["reader"]) == ("reader", {"type": "news.flash", "text": "The backup is done"})


def test_scripts(run_page: RunPage) -> None:
    def join(block: Block) -> None:
        if "notify('Saved')" in block.text:
            with IPCChannelLayer(prefix="mysite") as layer:
                layer.group_add("news", "reader")

    run_page("scripts.rst", before=join)
    with IPCChannelLayer(prefix="mysite") as layer:
        assert layer.receive(["reader"]) == ("reader", {"type": "news.flash", "text": "Saved"})


def test_consumers(run_page: RunPage) -> None:
    project = run_page("consumers.rst")
    project.script(CONSUMERS)
    (project.directory / "check.py").write_text(SETTINGS)
    assert "1 of 1 channels over capacity in group full" in project.command("python check.py")


def test_testing(run_page: RunPage) -> None:
    pytest.importorskip("pytest_asyncio", reason="needs pytest-asyncio: see tests/docs/requirements.txt")
    pytest.importorskip("daphne", reason="needs daphne: see tests/docs/requirements.txt")
    before = set(SHM.glob("*test-*"))
    run_page("testing.rst")
    assert set(SHM.glob("*test-*")) <= before, "the tests of the page leave shared memory"


def test_options(run_page: RunPage) -> None:
    project = run_page("options.rst")
    assert project.script(OPTIONS) == "[200, 10, 20, 100]\n"


def test_synchronous(run_page: RunPage) -> None:
    run_page("synchronous.rst", quickstart=False)


def test_troubleshooting(run_page: RunPage) -> None:
    def damage(block: Block) -> None:
        if block.commands:
            IPCChannelLayer(prefix="mysite").close()
            os.truncate(SHM / "mysite-messages", 4096)
            with pytest.raises(SegmentMismatch):
                IPCChannelLayer(prefix="mysite")

    run_page("troubleshooting.rst", quickstart=False, before=damage)
    IPCChannelLayer(prefix="mysite").close()


def test_from_1x(run_page: RunPage) -> None:
    def leave(block: Block) -> None:
        """Leave what asgi_ipc 1.x leaves: for each kind, a semaphore and, of the same name, a pickle."""
        for kind in ("messages", "groups"):
            posix_ipc.Semaphore(f"/asgi-{kind}", posix_ipc.O_CREX, initial_value=1).close()
            (SHM / f"asgi-{kind}").write_bytes(pickle.dumps({"channel": [(b"x", 1.0)]}).ljust(65536, b"\0"))
            (SHM / f"asgi-{kind}").chmod(0o600)
        with pytest.raises(SegmentMismatch):
            IPCChannelLayer()

    run_page("from-1.x.rst", quickstart=False, before=leave)
    IPCChannelLayer().close()
