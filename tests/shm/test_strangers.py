"""
Files of other users in ``/dev/shm`` slow nothing down, however many there are and whatever they are called.

The tests count what an operation does, with a few files and with many: the calls of functions, and the files that it
lists. They measure no time.
"""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from helpers.processes import Children, Talk
from helpers.segments import GROUP_SIZE, OTHER_USER, SHARED_GROUP, SIZE, THIRD_USER, needs_files

from asgi_ipc import IPCChannelLayer
from asgi_ipc.shm import semaphores
from asgi_ipc.shm.layout import AT_FILE_SWEEP
from asgi_ipc.shm.semaphores import HASH_BYTES, STICKY_MARK
from asgi_ipc.stores.messages.store import MESSAGES
from asgi_ipc.stores.unlink import remove_segment

pytestmark = [
    needs_files,
    pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can be several users"),
]

#: The number of files with each kind of name. Other tests run at the same time, and must find leftovers: so these are
#: few, and the limit of a search is lower in the processes of this test.
PLANTED, VISITED = 100, 60
#: How many more calls an operation may do: it depends on how long it has to wait. Each file that is visited costs
#: several, so visits of the planted ones would be far more.
MORE = 300
#: Its own wakeup FIFOs, which an operation may list.
OWN = 5
#: The operations that list ``/dev/shm``, and how often.
SEARCHES = {"create": 4, "sweep": 1, "unlink": 4}


class Effort:
    """Counts the calls of functions, Python's and C's, and the files that are listed."""

    def __init__(self) -> None:
        self.calls = self.listed = 0

    def of(self, operation: Callable[[], object]) -> list[int]:
        """Run an operation, and return (calls, files listed)."""
        self.calls = self.listed = 0
        listdir, scandir = os.listdir, os.scandir

        def counting_listdir(*args: Any) -> list[str]:
            names = listdir(*args)
            self.listed += len(names)
            return names

        os.listdir, os.scandir = counting_listdir, lambda *args: Listing(scandir(*args), self)
        sys.setprofile(self._profile)
        try:
            operation()
        finally:
            sys.setprofile(None)
            os.listdir, os.scandir = listdir, scandir
        return [self.calls, self.listed]

    def _profile(self, frame: object, event: str, what: object) -> None:
        self.calls += event in ("call", "c_call")


class Listing:
    """Like ``os.scandir``, and counts the entries."""

    def __init__(self, entries: Any, effort: Effort) -> None:
        self.entries, self.effort = entries, effort

    def __enter__(self) -> Listing:
        return self

    def __exit__(self, *error: object) -> None:
        self.entries.close()

    def __iter__(self) -> Iterator[os.DirEntry[str]]:
        for entry in self.entries:
            self.effort.listed += 1
            yield entry


def recover(layer: IPCChannelLayer) -> None:
    """Raise in a critical section of both stores, so that both are recovered."""

    def fail() -> None:
        raise ZeroDivisionError

    for store in (layer.message_store, layer.group_store):
        try:
            store.sections.exclusively(fail)
        except ZeroDivisionError:
            continue


def postpone_file_sweep(layer: IPCChannelLayer) -> None:
    sections = layer.message_store.sections
    sections.opened().segment.words[AT_FILE_SWEEP] = sections.clock()


def sweep(layer: IPCChannelLayer) -> None:
    """Let an operation do all kinds of sweeps."""
    store = layer.message_store
    words = store.sections.opened().segment.words
    words[AT_FILE_SWEEP] = 0
    store._sweep(store.sections.clock() + 10**9)
    assert words[AT_FILE_SWEEP]


def act(talk: Talk, prefix: str, user: int) -> None:
    """Run in a child: as a user, do the operation that each command names, and report its effort."""
    os.setgroups([])
    os.setgid(SHARED_GROUP)
    os.setuid(user)
    semaphores.VISITED = VISITED
    made: list[IPCChannelLayer] = []
    options = {"message_memory": SIZE, "group_memory": GROUP_SIZE, "block_timeout": 0.01}
    operations: dict[str, Callable[[], object]] = {
        "create": lambda: made.append(IPCChannelLayer(prefix, **options)),
        "use": lambda: (made[-1].send("a", {}), made[-1].receive(["a"]), made[-1].group_add("g", "a")),
        "wait": lambda: made[-1].receive(["nothing"], block=True),
        "recover": lambda: recover(made[-1]),
        "flush": lambda: made[-1].flush(),
        "sweep": lambda: sweep(made[-1]),
        "unlink": lambda: made.pop().unlink(),
    }
    effort = Effort()
    while True:
        command = talk.hear()
        if command is None:
            return
        if made:  # so that only the operation that is to search for files does it
            postpone_file_sweep(made[-1])
        talk.say(effort.of(operations[command]))


@pytest.fixture
def planted(prefix: str) -> Iterator[Callable[[], None]]:
    """Return a function that creates the files of another user; they are removed after the test."""
    made: list[str] = []
    two = secrets.token_hex(1)

    def plant() -> None:
        for number in range(PLANTED):
            made.extend(
                f"/dev/shm/{name}"
                for name in (
                    f"sem.{prefix}-messages.{secrets.token_hex(HASH_BYTES)}",
                    f"sem.{prefix}-groups.{number:x}",
                    f"sem.{two}{number:04x}",
                    f"{prefix}-messages.wakeup.{number:x}",
                    f"{prefix}-{number}",
                )
                if not os.path.exists(f"/dev/shm/{name}")
            )
        for path in made:
            os.mknod(path, 0o600 | STICKY_MARK)
            os.chown(path, OTHER_USER, OTHER_USER)
            os.utime(path, (0, 0))

    yield plant
    for path in made:
        if os.path.exists(path) and os.stat(path).st_uid == OTHER_USER:
            os.unlink(path)


def test_nothing_is_slowed_down_by_files_of_other_users(
    prefix: str, start: Children, planted: Callable[[], None]
) -> None:
    child = start(act, prefix, THIRD_USER)
    commands = ["create", "use", "wait", "recover", "recover", "flush", "sweep", "use", "wait", "unlink"]
    efforts: list[list[list[int]]] = [[], []]
    for found in efforts:
        for command in commands:
            child.say(command)
            found.append(child.hear())
        if found is efforts[0]:
            planted()
    child.say(None)
    child.end()
    for command, few, many in zip(commands, *efforts):
        searches = SEARCHES.get(command, 0)
        assert many[1] <= OWN + searches * VISITED, f"{command} lists {many[1]} files"
        # Visiting a file costs a few calls. A file with a suitable name is looked at and perhaps tried to be removed.
        assert many[0] <= few[0] + searches * VISITED * 12 + MORE, f"{command} does {many[0]} calls, {few[0]} without"
    assert PLANTED * 5 > 3 * VISITED  # otherwise these limits prove nothing


def test_the_command_finds_leftovers_among_all_files(prefix: str, start: Children, planted: Callable[[], None]) -> None:
    """It is run by hand. It says how many files it may not remove, and does not list thousands of names."""
    child = start(act, prefix, THIRD_USER)
    for command in ("create", "use", "recover"):
        child.say(command)
        child.hear()
    planted()
    child.die()
    remover = start(remove_as, prefix, THIRD_USER)
    removed, kept = remover.hear()
    remover.end()
    assert f"segment {prefix}-messages" in removed
    assert f"directory {prefix}-messages.wakeup" in removed
    assert len(removed) == 3
    assert len(kept) <= 12
    assert kept[-1] == f"{PLANTED - 10} more files with names of its semaphores"
    remover = start(remove_as, prefix, OTHER_USER)
    removed, kept = remover.hear()
    remover.end()
    assert len(removed) == PLANTED
    assert kept == []


def remove_as(talk: Talk, prefix: str, user: int) -> None:
    """Run in a child: as a user, remove the message segment as the command does."""
    os.setgroups([])
    os.setgid(SHARED_GROUP)
    os.setuid(user)
    talk.say(remove_segment(f"{prefix}-messages", MESSAGES))
