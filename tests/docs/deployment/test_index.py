"""The first page on deployment: the three rules, and the commands that check them."""

from __future__ import annotations

import pytest

from ..blocks import sections
from . import site
from .machine import Machine

PAGE = "deployment/index.rst"
SECTIONS = {each.title: each for each in sections(PAGE)}
#: Puts a message into the layer of a prefix, and prints how many wait there.
KEEP = """
import sys
from asgi_ipc import IPCChannelLayer
with IPCChannelLayer(sys.argv[1]) as layer:
    layer.send("kept", {})
    print(layer.global_statistics()["messages_pending"])
"""


def test_every_section_is_tested() -> None:
    assert set(SECTIONS) == {"Check it", "Change a size, or upgrade asgi_ipc"}


@pytest.fixture
def keep(machine: Machine) -> list[str]:
    """The command that puts a message into the layer of the prefix that follows it."""
    machine.write("/srv/keep.py", KEEP)
    return ["python", "/srv/keep.py"]


def test_the_three_rules(machine: Machine, keep: list[str]) -> None:
    assert machine.run([*keep, "mysite"], "mysite") == "1\n"
    assert machine.run([*keep, "mysite"], "mysite") == "2\n"
    assert machine.run([*keep, "staging"], "mysite") == "1\n", "another prefix is another layer"
    with pytest.raises(AssertionError, match="SegmentRefused"):
        machine.run([*keep, "mysite"], "nobody")
    own_shm = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs tmpfs /dev/shm; exec "$@"', "sh"]
    assert machine.run([*own_shm, *keep, "mysite"]) == "1\n", "another /dev/shm is another layer"
    version = "sed -i 's/^VERSION = .*/VERSION = 999/' asgi_ipc/shm/layout.py"
    machine.run(f"cd /srv && cp -r mysite/.venv/lib/python*/site-packages/asgi_ipc . && {version}")
    with pytest.raises(AssertionError, match="SegmentMismatch"):
        machine.run(["env", "PYTHONPATH=/srv", *keep, "mysite"], "mysite")


def test_what_the_check_shows(machine: Machine) -> None:
    [command] = SECTIONS["Check it"].commands
    assert not machine.ok(command)
    server = machine.start("uvicorn mysite.asgi:application --workers 2", "mysite", site.HOME)
    machine.wait_until(lambda: "startup complete" in server.log(), "the server")
    assert not machine.ok(command)
    site.check(machine, 0, "mysite")
    lines = [line.split() for line in machine.run(command).splitlines()]
    assert {line[2] for line in lines} == {"mysite"}
    assert [line[-1] for line in lines if line[-1] in ("mysite-messages", "mysite-groups")] == [
        "mysite-groups",
        "mysite-messages",
    ]
    server.stop()


def test_unlink_while_the_site_runs(machine: Machine, keep: list[str]) -> None:
    [command] = SECTIONS["Change a size, or upgrade asgi_ipc"].commands
    server = machine.start("uvicorn mysite.asgi:application --workers 2", "mysite", site.HOME)
    site.check(machine, 2, "mysite")
    assert machine.run([*keep, "mysite"], "mysite") == "1\n"
    assert "removed" in machine.run(command, "mysite")
    site.check(machine, 2, "mysite")  # with new sockets
    assert machine.run([*keep, "mysite"], "mysite") == "1\n"
    server.stop()
