"""The chat of ``examples/chat`` without a browser: names, the consumer, ``run.py`` and its errors."""

from __future__ import annotations

import html
import os
import random
import re
import shlex
import shutil
import socket
import subprocess
import sys
import sysconfig
import urllib.error
import urllib.request
import venv
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from helpers.processes import LIMIT, is_alive

pytest.importorskip("channels.layers", reason="needs Channels 4: tox -e channels4")
pytest.importorskip("uvicorn", reason="needs uvicorn: tox -e channels4")

from channels.layers import get_channel_layer
from channels.routing import ChannelNameRouter, URLRouter
from channels.testing import ApplicationCommunicator, WebsocketCommunicator

from asgi_ipc import IPCChannelLayer, names
from asgi_ipc.stores.unlink import leftovers

from .chat import EXAMPLE, Chat, run_in_shell
from .loops import in_loop

sys.path.insert(0, str(EXAMPLE))
from chatsite.bot import DiceBot, roll
from chatsite.commands import post_command
from chatsite.processes import list_processes
from chatsite.rooms import MAX_TEXT, Visitor, tidy_name
from chatsite.urls import websocket_urlpatterns

sockets = URLRouter(websocket_urlpatterns)

NAMES = ["Ada", "a", "x" * 20, "Jürgen Müßig", "Зоя", "渡辺 麻友", "👩‍🚀", "<b>", "a.b!c?d/e", "Somebody", "\x00"]


@pytest.mark.parametrize("name", NAMES)
@in_loop
async def test_a_membership_identifies_its_visitor(name: str, ipc_channel_layers: Any) -> None:
    channel = await get_channel_layer().new_channel()
    visitor = Visitor.on(channel, tidy_name(name))
    membership = visitor.membership(channel)
    assert names.valid_channel_name(membership)
    assert names.non_local_name(membership) == names.non_local_name(channel)
    assert Visitor.from_membership(membership) == visitor
    assert visitor.pid == os.getpid()


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("  Ada \n Lovelace ", "Ada Lovelace"),
        ("", "Somebody"),
        (" \t ", "Somebody"),
        ("x" * 500, "x" * 20),
        ("渡" * 20, "渡" * 10),
        ("👩" * 20, "👩" * 7),
        ("a\udc80b", "a?b"),
    ],
)
def test_names_are_normalised(given: str, shown: str) -> None:
    assert tidy_name(given) == shown


def test_the_bot_rolls_dice() -> None:
    random.seed(1)
    for _ in range(200):
        rolled, _, total = roll("3d6").partition(" = ")
        dice = [int(part) for part in rolled.removeprefix("3d6: ").split(" + ")]
        assert len(dice) == 3
        assert all(1 <= each <= 6 for each in dice)
        assert sum(dice) == int(total)
    assert roll("").startswith("d6 = ")
    assert roll("D20").startswith("d20 = ")
    assert roll("99d999").count("+") == 12
    for wrong in ("100d6", "0d6", "2d0", "2d1000", "d", "2d6+1", "\u0662d\u0666", "2d6\n2"):
        assert "/roll 2d6" in roll(wrong)


async def entered(name: str, room: str = "lobby") -> WebsocketCommunicator:
    """Return a visitor's socket that has been welcomed and is in the list of visitors."""
    visitor = WebsocketCommunicator(sockets, f"/ws/room/{room}/?name={name}")
    assert (await visitor.connect(LIMIT))[0]
    visitor.id = (await receive_frame(visitor, "welcome"))["id"]
    while visitor.id not in [each["id"] for each in (await receive_frame(visitor, "here"))["visitors"]]:
        pass
    return visitor


@in_loop
async def test_a_room_named_processes_is_apart_from_the_group_of_processes(ipc_channel_layers: Any) -> None:
    ada = await entered("Ada", "processes")
    await ada.send_json_to({"id": "1", "text": "hello"})
    assert (await receive_frame(ada, "said"))["text"] == "hello"
    assert await list_processes(get_channel_layer()) == []
    await ada.disconnect(timeout=LIMIT)


async def receive_frame(visitor: WebsocketCommunicator, kind: str) -> dict[str, Any]:
    """Return the next frame of the given kind; skip others."""
    while True:
        frame: dict[str, Any] = await visitor.receive_json_from(LIMIT)
        if frame["type"] == kind:
            return frame


@in_loop
async def test_visitors_enter_send_messages_and_leave(ipc_channel_layers: Any) -> None:
    ada, grace = await entered("Ada"), await entered("Grace")
    visitors: list[str] = []
    while visitors != ["Ada", "Grace"]:
        visitors = sorted(each["name"] for each in (await receive_frame(ada, "here"))["visitors"])
    await ada.send_json_to({"id": "1", "text": "hello"})
    for visitor in (ada, grace):
        said = await receive_frame(visitor, "said")
        assert (said["id"], said["name"], said["text"], said["visitor"]) == ("1", "Ada", "hello", ada.id)
        assert said["pid"] == said["delivered_by"] == os.getpid()
    await grace.disconnect(timeout=LIMIT)
    while visitors != ["Ada"]:
        visitors = [each["name"] for each in (await receive_frame(ada, "here"))["visitors"]]
    await ada.disconnect(timeout=LIMIT)
    layer = get_channel_layer()
    assert await layer.group_channels("chat.lobby") == await layer.group_channels("chat.lobby.here") == []


@pytest.mark.parametrize(
    "frame",
    [
        {},
        [],
        "text",
        None,
        {"id": "1"},
        {"text": "a"},
        {"id": 1, "text": "a"},
        {"id": "1", "text": 5},
        {"id": "1", "text": "  "},
        {"id": "x" * 41, "text": "a"},
        {"id": "1", "text": "x" * (MAX_TEXT + 1)},
    ],
)
@in_loop
async def test_an_invalid_frame_is_refused_and_has_no_other_effect(frame: Any, ipc_channel_layers: Any) -> None:
    ada = await entered("Ada")
    await ada.send_json_to(frame)
    assert (await receive_frame(ada, "refused"))["why"]
    await ada.send_json_to({"id": "2", "text": "a good one"})
    assert (await receive_frame(ada, "said"))["text"] == "a good one"
    await ada.disconnect(timeout=LIMIT)


@in_loop
async def test_an_overloaded_bot_is_reported_as_refusal(ipc_channel_layers: Any) -> None:
    ada = await entered("Ada")
    layer = get_channel_layer()
    for _ in range(layer.capacity):
        await layer.send("dice", {"type": "dice.roll"})
    await ada.send_json_to({"id": "1", "text": "/roll 2d6"})
    assert "too busy" in (await receive_frame(ada, "refused"))["why"]
    assert (await receive_frame(ada, "said"))["text"] == "/roll 2d6"
    await ada.disconnect(timeout=LIMIT)


@in_loop
async def test_the_bot_answers_in_the_room(ipc_channel_layers: Any) -> None:
    ada = await entered("Ada")
    await ada.send_json_to({"id": "1", "text": "/roll 2d6"})
    task = await get_channel_layer().receive("dice")
    bot = ApplicationCommunicator(
        ChannelNameRouter({"dice": DiceBot.as_asgi()}), {"type": "channel", "channel": "dice"}
    )
    await bot.send_input(task)
    assert (await receive_frame(ada, "said"))["text"] == "/roll 2d6"
    answer = await receive_frame(ada, "said")
    assert (answer["kind"], answer["name"]) == ("bot", "Dice")
    assert answer["text"].startswith("Ada rolls 2d6: ")
    bot.stop()
    await ada.disconnect(timeout=LIMIT)


# -- run.py --------------------------------------------------------------------------------------------------


def run(*arguments: str, python: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *python, "run.py", *arguments]
    return subprocess.run(command, cwd=EXAMPLE, capture_output=True, text=True, timeout=LIMIT, check=False)


def test_missing_packages_are_named_with_the_command_that_installs_them() -> None:
    done = run(python=("-I", "-S"))
    assert done.returncode == 1
    assert "channels, daphne" in done.stderr
    assert "pip install -e '.[channels]' -r examples/chat/requirements.txt" in done.stderr
    assert (EXAMPLE / "requirements.txt").exists()


def test_a_port_in_use_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run("--port", str(port))
    assert done.returncode == 1
    assert f"127.0.0.1:{port}" in done.stderr
    assert "--port" in done.stderr


@pytest.mark.parametrize("arguments", [("--workers", "0"), ("--server", "gunicorn"), ("--port", "http")])
def test_wrong_arguments_are_refused(arguments: tuple[str, str]) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert arguments[0] in done.stderr


def test_a_site_that_does_not_start_ends_with_its_error(ipc_prefix: str) -> None:
    """Here the layer cannot be made, because the prefix is invalid."""
    done = run("--port", "0", "--prefix", "no/prefix")
    assert done.returncode == 1
    assert "does not stay up" in done.stderr
    assert "prefix" in done.stderr


def shown_command(page: str) -> str:
    """Return the command that an HTML page of a room shows."""
    found = re.search(r'<code id="command">(.*?)</code>', page)
    assert found, page
    return html.unescape(re.sub("<.*?>", "", found[1]))


def test_the_shown_command_works_from_any_directory_with_any_path_to_the_checkout(
    tmp_path: Path, ipc_prefix: str
) -> None:
    """Here both the checkout and the interpreter are in a directory whose name the shell would not take as it is."""
    top = tmp_path / "Ada's check out & <more>"
    shutil.copytree(EXAMPLE, top / "examples" / "chat")
    venv.create(top / ".venv", symlinks=True)
    (packages,) = (top / ".venv").glob("lib/python*/site-packages")
    packages_of_tests = sysconfig.get_path("purelib")
    (packages / "tests.pth").write_text(f"import site; site.addsitedir({packages_of_tests!r})")
    python = top / ".venv" / "bin" / "python"
    chat = Chat(ipc_prefix, "daphne", 1, top / "examples" / "chat", str(python))
    try:
        with urllib.request.urlopen(f"{chat.url}room/quiet-room/", timeout=LIMIT) as answer:
            command = shown_command(answer.read().decode())
        assert str(python) in shlex.split(command)
        with IPCChannelLayer(ipc_prefix, block_timeout=LIMIT) as layer:
            layer.group_add("chat.quiet-room", "listener")
            for directory in ("/", str(top)):
                run_in_shell(command, directory)
                _, said = layer.receive(["listener"], block=True)
                assert said is not None
                assert (said["text"], said["kind"]) == ("Hello from a shell", "script")
    finally:
        chat.end()


def test_the_shown_command_names_no_prefix_if_it_is_the_default_one() -> None:
    python, script, *rest = post_command("chat-8000", "lobby")
    assert rest == ["lobby", "'Hello from a shell'"]
    assert post_command("other", "lobby") == [python, script, "--prefix", "other", *rest]
    usage = subprocess.run([sys.executable, script, "--help"], capture_output=True, text=True, check=True).stdout
    assert "default: chat-8000" in " ".join(usage.split())


def test_the_site_removes_its_shared_memory_and_ends_its_processes() -> None:
    """Without ``--prefix``, as it is usually started."""
    chat = Chat(None, "daphne", 1)
    try:
        prefix = f"chat-{urlsplit(chat.url).port}"
        with IPCChannelLayer(prefix) as layer:
            layer.send("dice", {"type": "dice.roll", "room": "lobby", "name": "Ada", "dice": "d6"})
        assert leftovers(prefix)
    finally:
        chat.end()  # fails if a process is left
    assert not is_alive(chat.process.pid)
    assert not leftovers(prefix)


@pytest.mark.parametrize("chat", ["uvicorn"], indirect=True)
def test_other_hosts_and_invalid_rooms_are_refused(chat: Chat) -> None:
    with urllib.request.urlopen(f"{chat.url}room/lobby/", timeout=LIMIT) as answer:
        assert answer.headers["X-Frame-Options"] == "DENY"
        assert b"<title>lobby</title>" in answer.read()
    for path, headers, code in [
        ("room/No-Such-Name/", {}, 404),
        ("room/lobby/", {"Host": "elsewhere.example"}, 400),
        ("static/chatsite/missing.js", {}, 404),
    ]:
        with pytest.raises(urllib.error.HTTPError) as refusal:
            urllib.request.urlopen(urllib.request.Request(chat.url + path, headers=headers), timeout=LIMIT)
        with refusal.value:
            assert refusal.value.code == code

