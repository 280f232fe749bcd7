"""Doorbells alone: a ring wakes, never waits, never raises, and goes to nobody whom it is not meant for."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import stat
import subprocess
import sys
import threading
import time

import pytest
from helpers.processes import LIMIT, reap
from helpers.segments import STRANGER, needs_files

from asgi_ipc import SegmentRefused
from asgi_ipc.shm import wakeup_fifo as doorbells
from asgi_ipc.shm.wakeup_fifo import OPEN_BELLS, STILLBORN_AGE, Doorbell, Ringer, ring_everybody, sweep_bells

pytestmark = needs_files
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file away")


@pytest.fixture
def make_bell(prefix):
    """Make doorbells of the segment that is called as the prefix; all are closed after the test."""
    made = []

    def make(mode=0o600):
        made.append(Doorbell(prefix, mode, os.getgid()))
        return made[-1]

    yield make
    for bell in made:
        bell.close()


@pytest.fixture
def bell(make_bell):
    return make_bell()


@pytest.fixture
def ringer(prefix):
    ringer = Ringer(prefix, 0o600)
    yield ringer
    ringer.close()


def has_rung(bell):
    return bell.sleep(0)


def deserted(prefix, token=77):
    """A FIFO as a killed owner leaves it; its path."""
    path = f"/dev/shm/{prefix}.bell.{token:x}"
    os.mkfifo(path, 0o600)
    return path


def files(prefix):
    return sorted(name for name in os.listdir("/dev/shm") if name.startswith(f"{prefix}.bell."))


# -- rings --------------------------------------------------------------------------------------------------------


def test_a_ring_wakes_once_however_often_it_rang(bell, ringer):
    assert not has_rung(bell)
    for _ in range(3):
        assert ringer.ring(bell.token)
    assert bell.sleep(LIMIT)
    assert not has_rung(bell)
    bell.ring()
    assert has_rung(bell)


def test_a_full_pipe_rings_already(bell, ringer):
    writer = os.open(bell.path, os.O_WRONLY | os.O_NONBLOCK)
    for size in (4096, 1):
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writer, bytes(size))
    os.close(writer)
    for _ in range(2):  # with a fresh descriptor and with a remembered one
        assert ringer.ring(bell.token)
    bell.ring()
    assert bell.sleep(LIMIT)


def test_rings_of_more_bells_than_are_kept_open(make_bell, ringer):
    before = len(os.listdir("/proc/self/fd"))
    bells = [make_bell() for _ in range(OPEN_BELLS + 40)]
    for _ in range(2):
        for bell in bells:
            assert ringer.ring(bell.token)
            assert has_rung(bell)
        assert len(os.listdir("/proc/self/fd")) <= before + len(bells) + OPEN_BELLS
    ringer.close()
    assert len(os.listdir("/proc/self/fd")) == before + len(bells)
    assert ringer.ring(bells[0].token)


@pytest.mark.parametrize("disposition", [signal.SIG_IGN, signal.SIG_DFL])
def test_an_owner_who_is_gone_is_proven_by_a_fresh_look_only(bell, ringer, disposition):
    """A remembered descriptor that fails is opened anew: somebody may be there all the same."""
    before = signal.signal(signal.SIGPIPE, disposition)
    try:
        assert ringer.ring(bell.token)
        os.close(bell.fd)  # as its owner's death closes it; the file stays
        assert ringer.ring(bell.token) is False
        bell.fd = os.open(bell.path, os.O_RDWR | os.O_NONBLOCK)
        bell.drain()
        assert ringer.ring(bell.token)
        assert signal.SIGPIPE not in signal.sigpending()
        assert signal.SIGPIPE not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    finally:
        signal.signal(signal.SIGPIPE, before)
    assert os.read(bell.fd, 9)


def test_a_doorbell_that_was_made_anew_is_opened_anew(bell, ringer):
    assert ringer.ring(bell.token)
    os.close(bell.fd)
    os.unlink(bell.path)
    os.mkfifo(bell.path, 0o600)
    bell.fd = os.open(bell.path, os.O_RDWR | os.O_NONBLOCK)
    assert ringer.ring(bell.token)
    assert os.read(bell.fd, 9)


def test_a_sigpipe_that_was_pending_already_is_left_to_whom_it_belongs(bell, ringer):
    before = signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGPIPE])
    try:
        assert ringer.ring(bell.token)
        signal.pthread_kill(threading.get_ident(), signal.SIGPIPE)
        os.close(bell.fd)
        bell.fd = -1
        assert ringer.ring(bell.token) is False
        assert signal.SIGPIPE in signal.sigpending()
        signal.sigwait([signal.SIGPIPE])
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGPIPE])
        signal.signal(signal.SIGPIPE, before)


def test_a_file_that_is_gone_proves_nothing(bell, ringer):
    os.unlink(bell.path)
    assert ringer.ring(bell.token)
    assert not has_rung(bell)
    assert bell.is_spoiled()


def test_a_doorbell_knows_whether_it_can_be_rung(bell):
    assert not bell.is_spoiled()
    os.rename(bell.path, bell.path + ".away")
    assert bell.is_spoiled()
    os.mkfifo(bell.path)
    assert bell.is_spoiled()
    os.rename(bell.path + ".away", bell.path)
    assert not bell.is_spoiled()


# -- whom it is not meant for -------------------------------------------------------------------------------------


def test_other_files_in_the_place_of_a_doorbell_are_not_written_to(prefix, ringer, tmp_path):
    target = tmp_path / "target"
    target.write_bytes(b"mine")
    link, plain = f"/dev/shm/{prefix}.bell.1", f"/dev/shm/{prefix}.bell.2"
    os.symlink(target, link)
    with open(os.open(plain, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as file:
        file.write(b"mine")
    assert ringer.ring(1)
    assert ringer.ring(2)
    with open(plain, "rb") as file:
        assert file.read() == target.read_bytes() == b"mine"


@needs_root
def test_a_doorbell_of_somebody_else_is_not_rung(bell, ringer):
    os.chown(bell.path, STRANGER, -1)
    assert ringer.ring(bell.token)
    assert not has_rung(bell)


def test_a_doorbell_that_others_may_write_to_is_not_rung_unless_that_was_asked_for(prefix, make_bell, ringer):
    bell = make_bell(0o660)
    assert ringer.ring(bell.token)
    assert not has_rung(bell)
    asked = Ringer(prefix, 0o660)
    assert asked.ring(bell.token)
    assert has_rung(bell)
    asked.close()


def test_the_mode_holds_whatever_the_umask(make_bell):
    before = os.umask(0o777)
    try:
        bells = {mode: make_bell(mode) for mode in (0o600, 0o660, 0o666)}
    finally:
        os.umask(before)
    for mode, bell in bells.items():
        found = os.lstat(bell.path)
        assert stat.S_ISFIFO(found.st_mode)
        assert stat.S_IMODE(found.st_mode) == mode


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_no_room_for_a_doorbell_says_what_to_do(prefix, monkeypatch, number):
    def full(*args):
        raise OSError(number, "full")

    monkeypatch.setattr(doorbells.os, "mkfifo", full)
    with pytest.raises(SegmentRefused, match="--shm-size"):
        Doorbell(prefix, 0o600, os.getgid())


def test_any_other_error_comes_through_and_leaves_nothing(prefix, monkeypatch):
    def fails(*args):
        raise OSError(errno.EIO, "broken")

    before = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(doorbells.os, "rename", fails)
    with pytest.raises(OSError, match="broken"):
        Doorbell(prefix, 0o600, os.getgid())
    assert files(prefix) == []
    assert len(os.listdir("/proc/self/fd")) == before


# -- signals, threads, forks, ends ----------------------------------------------------------------------------------


def test_a_handler_that_interrupts_a_ring_may_ring(make_bell, ringer, monkeypatch):
    first, second = make_bell(), make_bell()
    write = doorbells._write
    interruptions, handled = [1], []

    def interrupted(fd):
        if interruptions:
            interruptions.clear()
            handled.append(ringer.ring(second.token))
        return write(fd)

    monkeypatch.setattr(doorbells, "_write", interrupted)
    assert ringer.ring(first.token)
    assert handled == [True]
    assert has_rung(first)
    assert has_rung(second)
    assert ringer.ring(second.token)


def test_many_threads_ring_with_one_ringer(make_bell, ringer, monkeypatch):
    monkeypatch.setattr(doorbells, "OPEN_BELLS", 2)  # so that they close each other's descriptors all the time
    bells = [make_bell() for _ in range(6)]
    heard = [0] * len(bells)
    over = threading.Event()
    outcomes = set()

    def ring():
        while not over.is_set():
            outcomes.update({ringer.ring(bell.token) for bell in bells})

    threads = [threading.Thread(target=ring) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        deadline = time.monotonic() + LIMIT
        while min(heard) < 50:
            assert time.monotonic() < deadline
            for number, bell in enumerate(bells):
                heard[number] += bell.sleep(LIMIT)
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert outcomes == {True}


def test_a_forked_child_has_no_part_in_its_parents_doorbells(bell, ringer, prefix):
    assert ringer.ring(bell.token)
    pid = os.fork()
    if not pid:
        code = 1
        try:
            assert bell.fd == -1
            assert ringer.ring(bell.token)  # with a descriptor of its own
            bell.close()
            code = 0
        finally:
            os._exit(code)
    assert reap(pid) == 0
    assert files(prefix) == [os.path.basename(bell.path)]
    assert bell.sleep(LIMIT)
    assert ringer.ring(bell.token)
    assert has_rung(bell)


def test_a_process_that_ends_removes_its_doorbells(prefix):
    script = (
        "import os, sys; from asgi_ipc.shm.wakeup_fifo import Doorbell; "
        f"kept = Doorbell({prefix!r}, 0o600, os.getgid()); print(os.path.exists(kept.path)); sys.exit(3)"
    )
    ended = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, timeout=LIMIT)
    assert (ended.returncode, ended.stdout) == (3, "True\n")
    assert files(prefix) == []


# -- all of them ----------------------------------------------------------------------------------------------------


def test_sweeping_removes_what_nobody_has_open(bell, prefix):
    dead = deserted(prefix)
    young, old = f"{dead}1~", f"{dead}2~"
    neighbour = deserted(f"{prefix}-other")
    for path in (young, old):
        os.mkfifo(path)
    os.utime(old, (0, time.time() - 2 * STILLBORN_AGE))
    sweep_bells(prefix)
    assert {f"/dev/shm/{name}" for name in files(prefix)} == {bell.path, young}
    assert os.path.exists(neighbour)
    os.unlink(young)
    os.unlink(neighbour)


def test_ringing_everybody_removes_what_nobody_has_open(make_bell, ringer, prefix):
    bells = [make_bell() for _ in range(3)]
    deserted(prefix)
    ring_everybody(ringer)
    assert all(has_rung(bell) for bell in bells)
    assert len(files(prefix)) == 3
