"""The page on users and permissions, with real users."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ..blocks import sections
from . import site
from .machine import Machine

PAGE = "deployment/users.rst"
SECTIONS = {each.title: each for each in sections(PAGE)}
SHARE = SECTIONS["Share a layer between two users"]
SEND = "import asgi_ipc; asgi_ipc.IPCChannelLayer('mysite').send('x', {})"
UNLINK = "asgi-ipc unlink mysite"


def test_every_section_is_tested() -> None:
    assert set(SECTIONS) == {"Share a layer between two users", "Processes whose primary group is another one"}


@pytest.fixture
def machine() -> Iterator[Machine]:
    """A machine with the users, the settings and the script of the page."""
    with Machine() as made:
        for command in SHARE.blocks[0].commands:
            made.run(command)
        site.install(made, "web")
        site.put(made, SHARE.files)
        yield made


def start_site(machine: Machine) -> None:
    """Start the web server as the page says, and wait for it."""
    server, _ = SHARE.blocks[-1].commands
    machine.start(server, cwd=site.HOME)


@pytest.mark.parametrize("first", ["web", "jobs"])
def test_two_users_share_a_layer(machine: Machine, first: str) -> None:
    _, script = SHARE.blocks[-1].commands
    if first == "jobs":
        machine.run(script, cwd=site.HOME)
    start_site(machine)
    site.check(machine, 2, "web", MODE="0o660")
    site.check(machine, 0, "root", script)
    assert machine.run("stat -c '%U %G %a' /dev/shm/mysite-messages") == f"{first} mysite 660\n"
    other = "web" if first == "jobs" else "jobs"
    assert "belongs to user" in machine.run(UNLINK, other, check=False)
    assert "removed" in machine.run(UNLINK, first)


def test_a_member_of_the_group(machine: Machine) -> None:
    machine.run(["useradd", "--create-home", "alice"])
    add, script = SECTIONS["Processes whose primary group is another one"].commands
    machine.run(add)
    # She comes first, so her primary group is that of the shared memory.
    machine.run(script, cwd=site.HOME)
    assert machine.run("stat -c '%U %G %a' /dev/shm/mysite-messages") == "alice mysite 660\n"
    start_site(machine)
    site.check(machine, 2, "web", MODE="0o660")


def test_without_sg_the_group_is_wrong(machine: Machine) -> None:
    machine.run("useradd --create-home alice; usermod --append --groups mysite alice")
    machine.run("runuser -u alice -- python news.py", cwd=site.HOME)
    assert machine.run("stat -c %G /dev/shm/mysite-messages") == "alice\n"
    with pytest.raises(AssertionError, match="SegmentRefused"):
        machine.run("runuser -u jobs -- python news.py", cwd=site.HOME)


@pytest.mark.parametrize("user", ["jobs", "root"])
def test_without_the_mode_other_users_are_refused(machine: Machine, user: str) -> None:
    machine.run(["python", "-c", SEND], "web")
    assert machine.run("stat -c '%U %G %a' /dev/shm/mysite-messages") == "web mysite 600\n"
    with pytest.raises(AssertionError, match="SegmentRefused"):
        machine.run(["python", "-c", SEND], user)
    assert "run this as its owner" in machine.run(UNLINK, user, check=False)
    assert "\nremoved" in "\n" + machine.run(f"runuser -u web -- {UNLINK}")


def test_root_first_locks_the_others_out(machine: Machine) -> None:
    machine.run(["python", "-c", SEND])
    with pytest.raises(AssertionError, match="SegmentRefused"):
        machine.run(["python", "-c", SEND], "web")


def test_a_wider_mode_than_asked_for_is_refused(machine: Machine) -> None:
    machine.run("runuser -u jobs -- python news.py", cwd=site.HOME)
    with pytest.raises(AssertionError, match="so other users may write to it"):
        machine.run(["python", "-c", SEND], "jobs")
