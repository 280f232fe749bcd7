"""The directory of a segment's wakeup FIFOs: who may use it, when it exists, and what is removed from it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import stat
import time
from collections.abc import Callable

import pytest
from conftest import objects_of_tests
from helpers.processes import Children, Talk
from helpers.segments import (
    GROUP_SIZE,
    OTHER_GROUP,
    OTHER_USER,
    SHARED_GROUP,
    SIZE,
    THIRD_USER,
    needs_files,
    raise_in_critical_sections,
)
from helpers.waiting import NEVER, files_of, never_poll, until, waiters

from asgi_ipc import IPCChannelLayer, SegmentRefused
from asgi_ipc.shm import fifo_directory as directories
from asgi_ipc.shm.fifo_directory import (
    UNFINISHED_AGE,
    drop_directory,
    fifo_directory,
    fifo_files,
    prepare_directory,
    sweep_fifos,
)
from asgi_ipc.shm.layout import AT_FILE_SWEEP
from asgi_ipc.shm.wakeup_fifo import Notifier, WakeupFifo, notify_all
from asgi_ipc.stores.messages.store import MessageStore
from asgi_ipc.stores.messages.sweep import FILE_SWEEP_PAUSE, SWEEP_PERIOD
from asgi_ipc.stores.messages.wakeups import Wakeups

MakeLayer = Callable[..., IPCChannelLayer]

pytestmark = needs_files
root_only = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can be several users")
OPTIONS = {"message_memory": SIZE, "group_memory": GROUP_SIZE}


def of(prefix: str) -> str:
    """Return the path of the directory of a prefix."""
    return fifo_directory(f"{prefix}-messages")


def permissions(path: str) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


# -- who may use it ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("umask", [0, 0o022, 0o777], ids=oct)
@pytest.mark.parametrize(("mode", "expected"), [(0o600, 0o700), (0o660, 0o770), (0o666, 0o777)])
def test_the_users_of_the_segment_may_use_the_directory(
    prefix: str, make_layer: MakeLayer, mode: int, expected: int, umask: int
) -> None:
    before = os.umask(umask)
    try:
        make_layer(mode=mode)
    finally:
        os.umask(before)
    assert permissions(of(prefix)) == expected
    assert not os.path.exists(fifo_directory(f"{prefix}-groups"))


def test_a_new_segment_takes_the_directory_over(prefix: str, make_layer: MakeLayer) -> None:
    """The earlier one of that name may have had another mode, or its creator was killed before it set the mode."""
    os.mkdir(of(prefix))
    os.chmod(of(prefix), 0o777)
    os.mkfifo(of(prefix) + "/1")  # of a dead process
    make_layer()
    assert permissions(of(prefix)) == 0o700
    assert os.listdir(of(prefix)) == []


def link(path: str) -> None:
    os.symlink("/tmp", path)


def file(path: str) -> None:
    os.mknod(path, 0o600)


def foreign(path: str) -> None:
    os.mkdir(path, 0o700)
    os.chown(path, OTHER_USER, OTHER_GROUP)


def open_to_all(path: str) -> None:
    foreign(path)
    os.chmod(path, 0o777)


@pytest.mark.parametrize(
    "occupy", [link, file, *(pytest.param(each, marks=root_only) for each in (foreign, open_to_all))]
)
def test_anything_else_of_that_name_is_refused(
    prefix: str, make_layer: MakeLayer, occupy: Callable[[str], None]
) -> None:
    occupy(of(prefix))
    mode = 0o666 if occupy is link else 0o600  # a link has all permissions
    with pytest.raises(SegmentRefused) as refusal:
        make_layer(mode=mode)
    assert of(prefix) in str(refusal.value)
    assert "remove it" in str(refusal.value)
    (shutil.rmtree if os.path.isdir(of(prefix)) and not os.path.islink(of(prefix)) else os.unlink)(of(prefix))
    layer = make_layer(mode=mode)
    # And if it takes the place of a directory that was removed by hand:
    os.rmdir(of(prefix))
    occupy(of(prefix))
    with pytest.raises(SegmentRefused):
        layer.receive(["a"], block=True)
    assert fifo_files(f"{prefix}-messages", mode) == []


@root_only
def test_the_directory_of_another_user_is_not_looked_through(prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    open_to_all(fifo_directory(prefix))
    for number in range(100):
        os.mkfifo(f"{fifo_directory(prefix)}/{number:x}")

    def refuse(path: str) -> None:
        raise AssertionError(f"{path} is looked through")

    monkeypatch.setattr(directories.os, "listdir", refuse)
    monkeypatch.setattr(directories.os, "scandir", refuse)
    notifier = Notifier(prefix, 0o600)
    notify_all(notifier)
    notifier.close()
    assert sweep_fifos(prefix, 0o600) == []
    monkeypatch.undo()
    assert len(os.listdir(fifo_directory(prefix))) == 100


def wait_as_user(talk: Talk, prefix: str, user: int, group: int, mode: int) -> None:
    """Run in a child: as another user, wait for a message, or send one."""
    os.setgroups([])
    os.setgid(group)
    os.setuid(user)
    never_poll()
    with IPCChannelLayer(prefix, mode=mode, block_timeout=NEVER, **OPTIONS) as layer:
        talk.say("opened")
        while True:
            command = talk.hear()
            if command is None:
                return
            if command == "send":
                layer.send("a", {"from": user})
                talk.say("sent")
            else:
                talk.say(layer.receive(["a"], block=True)[1])


def owners_of_files(prefix: str) -> set[int]:
    """Return the users who own a FIFO. A file may get its final name, or be removed, meanwhile."""
    found = set()
    for name in files_of(prefix):
        with contextlib.suppress(FileNotFoundError):
            found.add(os.stat(f"{of(prefix)}/{name}").st_uid)
    return found


@root_only
@pytest.mark.parametrize(("group", "mode"), [(SHARED_GROUP, 0o660), (OTHER_GROUP, 0o666)])
def test_users_who_share_a_layer_notify_each_other(prefix: str, start: Children, group: int, mode: int) -> None:
    """Each of them has FIFOs in the directory that one of them has created."""
    users = {OTHER_USER: SHARED_GROUP, THIRD_USER: group}
    children = {}
    for user, its_group in users.items():
        children[user] = start(wait_as_user, prefix, user, its_group, mode)
        assert children[user].hear() == "opened"
    assert os.stat(of(prefix)).st_uid == OTHER_USER
    for sender, receiver in ((OTHER_USER, THIRD_USER), (THIRD_USER, OTHER_USER)):
        children[receiver].say("receive")
        until(lambda receiver=receiver: receiver in owners_of_files(prefix))
        time.sleep(0.1)  # until it sleeps
        children[sender].say("send")
        assert children[sender].hear() == "sent"
        assert children[receiver].hear() == {"from": sender}
    for child in children.values():
        child.say(None)
        child.end()


# -- when it exists ------------------------------------------------------------------------------------------


def test_the_directory_exists_as_long_as_the_segment(prefix: str, make_layer: MakeLayer) -> None:
    """Otherwise another user could create it, as its name is known."""
    layer = make_layer(block_timeout=0.01)
    assert os.path.isdir(of(prefix))
    assert layer.receive(["a"], block=True) == (None, None)
    layer.close()
    assert os.listdir(of(prefix)) == []
    make_layer().unlink()
    assert objects_of_tests() == []


def test_a_directory_that_was_removed_by_hand_is_created_again(prefix: str, make_layer: MakeLayer) -> None:
    layer = make_layer(block_timeout=0.01)
    assert layer.receive(["a"], block=True) == (None, None)
    shutil.rmtree(of(prefix))
    assert layer.receive(["a"], block=True) == (None, None)
    assert permissions(of(prefix)) == 0o700


def create_fifos(talk: Talk, segment: str) -> None:
    """Run in a child: create and close FIFOs until told to end."""
    for _ in range(3000):
        WakeupFifo(segment, 0o600, os.getgid()).close()
    talk.say("done")


def test_fifos_are_created_while_other_processes_remove_the_directory(prefix: str, start: Children) -> None:
    """No segment of that name exists, so each process that closes a FIFO tries to remove the directory."""
    children = [start(create_fifos, prefix) for _ in range(3)]
    for child in children:
        child.hear()
        child.end()
    assert not os.path.exists(fifo_directory(prefix))


def test_the_last_waiting_process_removes_the_directory_of_a_removed_segment(prefix: str) -> None:
    fifos = [WakeupFifo(prefix, 0o600, os.getgid()) for _ in range(2)]
    drop_directory(prefix)
    fifos[0].close()
    assert os.path.isdir(fifo_directory(prefix))
    fifos[1].close()
    assert not os.path.exists(fifo_directory(prefix))


# -- files that nothing in the segment refers to --------------------------------------------------------------


def die_while_creating_a_fifo(talk: Talk, prefix: str, where: str) -> None:
    """Run in a child: wait for a message, and be killed before the FIFO is registered."""

    def die(*args: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    layer = IPCChannelLayer(prefix, block_timeout=60, **OPTIONS)
    if where == "before its name":
        os.rename = die
    else:
        Wakeups.pop_again = die
    layer.receive(["a"], block=True)


def sweep(layer: IPCChannelLayer) -> None:
    """Let an operation sweep."""
    layer.message_store._sweep_due = 0
    time.sleep(2 * SWEEP_PERIOD / 1e9)
    layer.send("swept", {})
    assert layer.receive(["swept"])[0]


@pytest.mark.parametrize("where", ["before its name", "after its name"])
def test_the_fifo_of_a_process_that_was_killed_before_it_registered_is_removed(
    prefix: str, make_layer: MakeLayer, start: Children, where: str
) -> None:
    layer = make_layer()
    sweep(layer)
    child = start(die_while_creating_a_fifo, prefix, where)
    assert child._wait() == -signal.SIGKILL
    (name,) = files_of(prefix)
    assert name.endswith("~") is (where == "before its name")
    words = layer.message_store.sections.opened().segment.words
    sweep(layer)
    assert files_of(prefix) == [name]  # a sweep does not look each time
    words[AT_FILE_SWEEP] -= FILE_SWEEP_PAUSE
    if name.endswith("~"):
        sweep(layer)
        assert files_of(prefix) == [name]  # its process might still be creating it
        os.utime(f"{of(prefix)}/{name}", (0, time.time() - 2 * UNFINISHED_AGE))
        words[AT_FILE_SWEEP] -= FILE_SWEEP_PAUSE
    sweep(layer)
    assert files_of(prefix) == []


def receive(talk: Talk, prefix: str) -> None:
    """Run in a child: wait for a message."""
    with IPCChannelLayer(prefix, block_timeout=60, **OPTIONS) as layer:
        talk.say("waits")
        layer.receive(["a"], block=True)


@pytest.mark.parametrize("fails", [False, True], ids=["the recovery does it", "the next sweep does it"])
def test_fifos_of_killed_processes_do_not_stay_after_a_recovery(
    prefix: str, make_layer: MakeLayer, start: Children, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    """A recovery forgets the records, by which sweeps find them. It may be unable to notify, or it may come first."""
    layer = make_layer()
    sweep(layer)
    child = start(receive, prefix)
    child.hear()
    until(lambda: waiters(layer, "a") > 0)
    child.die()
    assert len(files_of(prefix)) == 1
    if fails:
        monkeypatch.setattr(Notifier, "notify", lambda *args: True)
    raise_in_critical_sections(layer)
    assert waiters(layer, "a") == 0
    assert len(files_of(prefix)) == fails
    sweep(layer)
    assert files_of(prefix) == []


def test_one_process_looks_once_a_minute(layer: IPCChannelLayer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The word that decides is in the segment. Here, two stores act for two processes."""
    looks = []
    monkeypatch.setattr(Wakeups, "sweep_files", lambda wakeups: looks.append(wakeups))
    other = MessageStore(layer.prefix, SIZE)
    now = [10**15]
    for store in (layer.message_store, other):
        store.sections.clock = lambda: now[0]
    for _ in range(150):  # seconds
        for store in (layer.message_store, other):
            now[0] += 10**9 // 2
            store.append("a", 10, b"")
            assert store.pop(["a"])
    assert len(looks) == 3  # at the start, and after one and two minutes
    other.close()


def test_a_sweep_checks_a_limited_number_of_fifos(prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It begins anywhere, so that dead ones are found among many live ones, but not always at once."""
    prepare_directory(prefix, 0o600, os.getgid())
    for number in range(300):
        os.mkfifo(f"{fifo_directory(prefix)}/{number:x}")
    checked = []
    real = directories._is_swept
    monkeypatch.setattr(directories, "_is_swept", lambda path: checked.append(path) or real(path))
    rounds = 0
    while fifo_files(prefix, 0o600):
        rounds += 1
        sweep_fifos(prefix, 0o600, 100)
        assert len(checked) <= 100 * rounds
    assert rounds == 3
    drop_directory(prefix)
