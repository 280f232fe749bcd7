"""Django with the layer under test, a browser, and the chat. Modules say themselves what they are skipped without."""

from __future__ import annotations

import os
import secrets
import shutil
from pathlib import Path
from typing import Any, Dict, Iterator

import pytest

from asgi_ipc import IPCChannelLayer

from .chat import Chat

#: Begins the names of shared memory that several tests use: they are not to be missed after the first of them.
SHARED_MARK = f"asgichat{os.getpid()}"


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
def chats() -> Iterator[Dict[str, Chat]]:
    """The chat behind each server, by its name: started when it is first asked for."""
    running: Dict[str, Chat] = {}
    yield running
    try:
        for chat in running.values():
            chat.end()
    finally:
        for chat in running.values():
            with IPCChannelLayer(chat.prefix) as layer:
                layer.unlink()


@pytest.fixture(params=["uvicorn", "daphne"])
def chat(request: pytest.FixtureRequest, chats: Dict[str, Chat]) -> Chat:
    """The chat with three worker processes behind a server. Tests have rooms of their own in it."""
    server = request.param
    if server not in chats:
        chats[server] = Chat(f"{SHARED_MARK}-{server}-{secrets.token_hex(4)}", server, 3)
    return chats[server]


@pytest.fixture
def room(request: pytest.FixtureRequest) -> str:
    """A room that no other test uses."""
    return f"r{secrets.token_hex(4)}"


EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "chat"
