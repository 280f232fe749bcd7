"""Fixtures: Django with the layer, a browser, the chat. Modules skip themselves if a package is missing."""

from __future__ import annotations

import gc
import importlib.util
import os
import secrets
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from asgi_ipc import IPCChannelLayer
from asgi_ipc.stores.unlink import leftovers

from .chat import Chat

if importlib.util.find_spec("channels"):  # otherwise the modules that need it skip themselves
    import django

    os.environ["DJANGO_SETTINGS_MODULE"] = "channels4.settings"
    django.setup()

#: Prefix of objects that several tests share, so that ``nothing_left_behind`` does not report them.
SHARED_MARK = f"asgichat{os.getpid()}"


@pytest.fixture(autouse=True)
def nothing_left_by_the_plugin(nothing_left_behind: None) -> Iterator[None]:
    """Fail a test that leaves shared memory objects of the package's own fixtures."""
    yield
    gc.collect()
    left = leftovers(f"pytest-{os.getpid()}-")
    for name in left:
        os.unlink(os.path.join("/dev/shm", name))
    assert not left, f"left in shared memory: {left}"


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A headless Chromium."""
    pytest.importorskip("selenium", reason="needs selenium: see [testenv:channels4] in tox.ini")
    from .browser import start_chromium

    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("needs Chromium and its driver: apt-get install chromium chromium-driver")
    started = start_chromium(chromium, driver, tmp_path_factory.mktemp("chromium"))
    yield started
    started.quit()


@pytest.fixture(scope="session")
def chats() -> Iterator[dict[str, Chat]]:
    """The running chats by the name of their server; the fixture ``chat`` starts them on first use."""
    running: dict[str, Chat] = {}
    yield running
    try:
        for chat in running.values():
            chat.end()
    finally:
        for chat in running.values():
            with IPCChannelLayer(chat.prefix) as layer:
                layer.unlink()


@pytest.fixture(params=["uvicorn", "daphne"])
def chat(request: pytest.FixtureRequest, chats: dict[str, Chat]) -> Chat:
    """The chat with three worker processes behind each server. Each test uses its own room."""
    server = request.param
    if server not in chats:
        chats[server] = Chat(f"{SHARED_MARK}-{server}-{secrets.token_hex(4)}", server, 3)
    return chats[server]


@pytest.fixture
def room() -> str:
    """The name of a room that no other test uses."""
    return f"r{secrets.token_hex(4)}"
