"""Both archives, each installed in a new environment on the oldest and the newest Python, and used there."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.pythons import with_venv

import asgi_ipc

from .archives import ROOT, Archives, Environment, classifiers, needs_tools

pytestmark = needs_tools

#: The supported Pythons, oldest first.
PYTHONS = [each for each in classifiers("Programming Language :: Python") if each.startswith("3.")]
#: The Djangos that work with Channels 4. (tox -e channels1 tests Django 1.11.) The first is the newest that the oldest
#: Python has, and the others need a newer Python.
DJANGOS = [each for each in classifiers("Framework :: Django") if not each.startswith("1.")]
NEEDED_BY_DJANGO = {"3.12", "3.13"}

#: Prints the place of the package, then answers one question, or asks it.
TALK = """
import sys
import asgi_ipc

with asgi_ipc.IPCChannelLayer(sys.argv[2], block_timeout=60) as layer:
    if sys.argv[1] == "answer":
        print(asgi_ipc.__file__, asgi_ipc.__version__, flush=True)
        _, question = layer.receive(["questions"], block=True)
        layer.send(question["reply_to"], {"sum": sum(question["numbers"])})
    else:
        reply_to = layer.new_channel("answers?")
        layer.send("questions", {"numbers": [40, 2], "reply_to": reply_to})
        print(layer.receive([reply_to], block=True)[1])
        layer.unlink()
"""

#: The same through the settings of Django.
CHANNELS = """
import asyncio, sys
import django
from asgiref.sync import async_to_sync
from django.conf import settings

settings.configure(
    CHANNEL_LAYERS={"default": {"BACKEND": "asgi_ipc.AsyncIPCChannelLayer", "CONFIG": {"prefix": sys.argv[2]}}},
    INSTALLED_APPS=["channels"],
)
django.setup()
from channels.layers import get_channel_layer
layer = get_channel_layer()

async def listen():
    name = await layer.new_channel()
    await layer.group_add("news", name)
    print(django.get_version(), flush=True)
    print((await asyncio.wait_for(layer.receive(name), 60))["text"])
    await layer.unlink()

if sys.argv[1] == "listen":
    asyncio.run(listen())
else:
    async_to_sync(layer.group_send)("news", {"type": "news.flash", "text": "hello from " + type(layer).__module__})
"""

#: A typed module of a user, in which only the last line is wrong.
TYPED = """\
from typing import Optional
from asgi_ipc import ChannelFull, IPCChannelLayer

def ask(layer: IPCChannelLayer, name: str) -> Optional[str]:
    try:
        layer.send("questions", {"reply_to": name})
    except ChannelFull:
        return None
    return layer.new_channel("answers?")

IPCChannelLayer(prefix=5)
"""

#: Positions in the sorted list of the Pythons of the machine.
OLDEST, NEWEST = 0, -1
ages = pytest.mark.parametrize("age", [OLDEST, NEWEST], ids=["oldest", "newest"])
kinds = pytest.mark.parametrize("kind", ["wheel", "sdist"])
Installed = Callable[[int, str], Environment]


@pytest.fixture(scope="session")
def pythons() -> list[tuple[str, str]]:
    """The supported Pythons of the machine, oldest first: version and path."""
    found = list(with_venv(PYTHONS).items())
    if not found:
        pytest.skip("needs a Python with venv")
    return found


@pytest.fixture(scope="session")
def installed(
    archives: Archives, pythons: list[tuple[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> Installed:
    """
    Return a function that returns the environment with an archive on a Python. The first use makes it.

    Beside the wheel it has mypy.
    """
    made: dict[tuple[int, str], Environment] = {}

    def find_or_make(age: int, kind: str) -> Environment:
        if (age, kind) not in made:
            environment = Environment(pythons[age][1], tmp_path_factory.mktemp(kind) / "venv")
            environment.install(*([str(archives.wheel), "mypy"] if kind == "wheel" else [str(archives.sdist)]))
            made[age, kind] = environment
        return made[age, kind]

    return find_or_make


def talk(environment: Environment, script: str, first: str, second: str, prefix: str, cwd: Path) -> tuple[str, str]:
    """Start one process, wait for its first line, and run another one; return what both have printed."""
    (cwd / "talk.py").write_text(script)
    command = [str(environment.bin / "python"), "talk.py"]
    with subprocess.Popen([*command, first, prefix], cwd=cwd, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            printed = environment.run("python", "talk.py", second, prefix, cwd=cwd)
            line += process.communicate(timeout=60)[0]
        finally:
            process.kill()
    assert process.returncode == 0
    return line, printed


@kinds
@ages
def test_two_processes_exchange_messages(
    installed: Installed, age: int, kind: str, prefix: str, tmp_path: Path
) -> None:
    environment = installed(age, kind)
    place, answer = talk(environment, TALK, "answer", "ask", prefix, tmp_path)
    assert answer == "{'sum': 42}\n"
    path, version = place.split()
    assert Path(path).is_relative_to(environment.folder.resolve())
    assert ROOT not in Path(path).parents
    assert version == asgi_ipc.__version__


@kinds
@ages
def test_the_command_prints_its_help(installed: Installed, age: int, kind: str, tmp_path: Path) -> None:
    printed = installed(age, kind).run("asgi-ipc", "--help", cwd=tmp_path)
    assert printed.startswith("usage: asgi-ipc")
    assert "demo" in printed


def test_the_demo_accounts_for_every_message(installed: Installed, tmp_path: Path) -> None:
    printed = installed(OLDEST, "wheel").run("asgi-ipc", "demo", cwd=tmp_path)
    assert "Every message is accounted for." in printed


@ages
def test_both_archives_install_the_same_files(installed: Installed, age: int) -> None:
    def files(kind: str) -> set[str]:
        (package,) = installed(age, kind).folder.glob("lib/python3*/site-packages/asgi_ipc")
        return {str(path.relative_to(package)) for path in package.rglob("*") if path.suffix != ".pyc"}

    assert files("wheel") == files("sdist")
    assert "py.typed" in files("wheel")


@ages
def test_a_type_checker_sees_the_types(installed: Installed, age: int, tmp_path: Path) -> None:
    (tmp_path / "typed.py").write_text(TYPED)
    environment = installed(age, "wheel")
    options = ["--strict", "--no-error-summary", "--hide-error-context"]
    printed = environment.run("python", "-c", MYPY, *options, "typed.py", cwd=tmp_path)
    line = TYPED.count("\n")
    assert [each.partition(": error: ")[0] for each in printed.splitlines()] == [f"typed.py:{line}"], printed
    assert printed.rstrip().endswith("[arg-type]")


#: mypy exits with 1 for the error that the test expects.
MYPY = "import sys; from mypy import api; out, err, status = api.run(sys.argv[1:]); print(out + err, end='')"


@pytest.mark.parametrize("django", DJANGOS)
def test_it_is_a_backend_of_channels(
    archives: Archives, pythons: list[tuple[str, str]], installed: Installed, django: str, prefix: str, tmp_path: Path
) -> None:
    age = OLDEST if django == DJANGOS[0] else NEWEST
    if age == NEWEST and pythons[age][0] not in NEEDED_BY_DJANGO:
        pytest.skip(f"Django {django} needs a newer Python")
    environment = installed(age, "wheel")
    environment.install(f"{archives.wheel}[channels]", f"django~={django}.0")
    heard, _ = talk(environment, CHANNELS, "listen", "tell", prefix, tmp_path)
    version, text = heard.splitlines()
    assert version.startswith(f"{django}.")
    assert text == "hello from asgi_ipc.aio"
