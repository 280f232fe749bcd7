"""``docs/channels1.rst``: its blocks, run as they stand with Channels 1, and what its site does."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("docutils", reason="needs docutils: see tests/channels1/requirements.txt")
pytest.importorskip("packaging", reason="needs packaging: see tests/channels1/requirements.txt")

from docs.blocks import Block, Section, sections
from docs.project import PORT, SHM, Project, machine_to_itself, prefixes_of

from asgi_ipc import IPCChannelLayer

from .conftest import installed
from .servers import Socket
from .waiting import until

PAGE = "channels1.rst"
ON_REDIS = "The local layer of asgi_redis"


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    """A new project of Django 1.11, with the machine to itself."""
    with machine_to_itself({*prefixes_of(PAGE), "mysite", "mysite-test"}):
        project = Project(tmp_path, PYTHONWARNINGS="ignore")  # the old packages cause many
        try:
            project.command("django-admin startproject mysite .")
            project.command("python manage.py migrate -v 0")
            yield project
        finally:
            project.end()


def shown() -> tuple[list[Section], list[Section]]:
    """Return the sections of the page, and those that need Redis."""
    there = sections(PAGE)
    return [each for each in there if each.title != ON_REDIS], [each for each in there if each.title == ON_REDIS]


def test_the_page(project: Project) -> None:
    with contextlib.ExitStack() as stack:

        def connect(block: Block) -> None:
            """Open a socket before the script of the page sends to it."""
            if block.commands == ["python news.py"]:
                sockets.append(stack.enter_context(Socket(f"ws://127.0.0.1:{PORT}/", "")))
                with IPCChannelLayer(prefix="mysite") as layer:
                    until(lambda: len(layer.group_channels("news")) == 1)

        sockets: list[Socket] = []
        ordinary, _ = shown()
        project.run_all([block for each in ordinary for block in each.blocks], connect)
        [client] = sockets
        assert client.receive_bytes() == b"The backup is done"
        assert "Using native Twisted mode on channel layer" in (project.directory / "started-1.log").read_text()
        with IPCChannelLayer(prefix="mysite") as layer:
            layer.group_add("news", "reader")  # stands for a socket of Channels 4
            project.script(
                "import os; os.environ['DJANGO_SETTINGS_MODULE'] = 'mysite.settings'\n"
                "import django; django.setup()\n"
                "from mysite.news import publish; publish('To both')"
            )
            assert layer.receive(["reader"]) == ("reader", {"type": "news.flash", "text": "To both"})
    settings = project.script(
        "from mysite.test_settings import CHANNEL_LAYERS\n"
        "print({CHANNEL_LAYERS['default'][name]['prefix'] for name in ('CONFIG', 'TEST_CONFIG')})"
    )
    assert settings == "{'mysite-test'}\n"


def test_the_page_on_redis(project: Project, tmp_path: Path) -> None:
    if installed("asgi_redis") != "1.4.3":
        pytest.skip("needs asgi_redis 1.4.3: tox -e channels1-redis")
    if shutil.which("redis-server") is None:
        pytest.skip("needs redis-server (Debian: apt-get install redis-server)")
    ordinary, on_redis = shown()
    for each in ordinary:
        for block in each.files:
            project.write(block)
    command = ["redis-server", "--bind", "127.0.0.1", "--port", "6379", "--save", "", "--dir", str(tmp_path)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        project.run_all([block for each in on_redis for block in each.blocks])
        [run] = [block for each in ordinary if each.title == "Run" for block in each.blocks[:1]]
        project.run(run)
        assert server.poll() is None, "redis-server has ended: does another one use port 6379?"
        with Socket(f"ws://127.0.0.1:{PORT}/", "") as client:
            project.script(
                "import os, time; os.environ['DJANGO_SETTINGS_MODULE'] = 'mysite.settings'\n"
                "import django; django.setup()\n"
                "from channels import Group, channel_layers\n"
                "layer = channel_layers['default'].channel_layer\n"
                "while not layer.group_channels('news'):\n"
                "    time.sleep(0.02)  # the worker has not accepted the socket yet\n"
                "Group('news').send({'text': 'over Redis'})"
            )
            assert client.receive_bytes() == b"over Redis"
        assert (SHM / "mysite-messages").exists()
    finally:
        server.terminate()
        server.wait()
