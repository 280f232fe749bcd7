"""The site of the quick start, put on a machine."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ..blocks import Block, section, sections
from .machine import VENV, Machine

#: Where the site is.
HOME = "/srv/mysite"
#: A script that puts a message into the layer, and prints how many wait there.
KEEP = """
from asgi_ipc import IPCChannelLayer
with IPCChannelLayer("mysite") as layer:
    layer.send("kept", {})
    print(layer.global_statistics()["messages_pending"])
"""
BROWSERS = Path(__file__).resolve().with_name("browsers.py")


def put(machine: Machine, blocks: Iterable[Block], home: str = HOME) -> None:
    """Write the files that a page shows: absolute paths as they are, others in the directory of the site."""
    for block in blocks:
        path = f"{home}/{block.file}"
        if block.file.startswith("/"):
            path = block.file
        before = machine.run(["cat", path]) if block.is_appended else ""
        machine.write(path, before + block.text)


def install(machine: Machine, user: str = "root") -> None:
    """
    Make the site of the quick start on a machine, with the ``runworker`` consumer of the page on scripts.

    All of it belongs to ``user``.
    """
    for command in section("quickstart.rst", "Create the project").commands:
        machine.run(command, cwd=HOME)
    for each in sections("quickstart.rst"):
        put(machine, each.files)
    put(machine, section("scripts.rst", "Send work to a consumer").files)
    machine.run(f"cp {BROWSERS} {HOME}; find {HOME} -path {VENV} -prune -o -exec chown {user}: {{}} +")


def check(machine: Machine, processes: int, user: str, script: str = "python news.py", **environment: str) -> None:
    """Check that browsers that are connected to so many processes get what a script sends."""
    settings = [f"{name}={value}" for name, value in environment.items()]
    machine.run(["env", *settings, "python", "browsers.py", str(processes), *script.split()], user, HOME)
