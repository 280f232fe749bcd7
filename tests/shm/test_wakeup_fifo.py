"""Wakeup FIFOs alone: a ring wakes, never waits, never raises, and goes to nobody whom it is not meant for."""

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
from asgi_ipc.shm import wakeup_fifo
from asgi_ipc.shm.wakeup_fifo import OPEN_FIFOS, UNFINISHED_AGE, Notifier, WakeupFifo, notify_all, sweep_fifos

pytestmark = needs_files
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file away")


@pytest.fixture
def make_bell(prefix):
    """Make wakeup FIFOs of the segment that is called as the prefix; all are closed after the test."""
    made = []

    def make(mode=0o600):
        made.append(WakeupFifo(prefix, mode, os.getgid()))
        return made[-1]

    yield make
    for fifo in made:
        fifo.close()


@pytest.fixture
def fifo(make_bell):
    return make_bell()


@pytest.fixture
def notifier(prefix):
    notifier = Notifier(prefix, 0o600)
    yield notifier
    notifier.close()


def has_rung(fifo):
    return fifo.wait(0)


def abandoned_slice(prefix, token=77):
    """A FIFO as a killed owner leaves it; its path."""
    path = f"/dev/shm/{prefix}.FIFO.{token:x}"
    os.mkfifo(path, 0o600)
    return path


def files(prefix):
    return sorted(name for name in os.listdir("/dev/shm") if name.startswith(f"{prefix}.FIFO."))


# -- rings --------------------------------------------------------------------------------------------------------


def test_a_ring_wakes_once_however_often_it_rang(fifo, notifier):
    assert not has_rung(fifo)
    for _ in range(3):
        assert notifier.notify(fifo.token)
    assert fifo.wait(LIMIT)
    assert not has_rung(fifo)
    fifo.notify()
    assert has_rung(fifo)


def test_a_full_pipe_rings_already(fifo, notifier):
    writer = os.open(fifo.path, os.O_WRONLY | os.O_NONBLOCK)
    for size in (4096, 1):
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writer, bytes(size))
    os.close(writer)
    for _ in range(2):  # with a fresh descriptor and with a remembered one
        assert notifier.notify(fifo.token)
    fifo.notify()
    assert fifo.wait(LIMIT)


def test_rings_of_more_bells_than_are_kept_open(make_bell, notifier):
    before = len(os.listdir("/proc/self/fd"))
    fifos = [make_bell() for _ in range(OPEN_FIFOS + 40)]
    for _ in range(2):
        for fifo in fifos:
            assert notifier.notify(fifo.token)
            assert has_rung(fifo)
        assert len(os.listdir("/proc/self/fd")) <= before + len(fifos) + OPEN_FIFOS
    notifier.close()
    assert len(os.listdir("/proc/self/fd")) == before + len(fifos)
    assert notifier.notify(fifos[0].token)


@pytest.mark.parametrize("disposition", [signal.SIG_IGN, signal.SIG_DFL])
def test_an_owner_who_is_gone_is_proven_by_a_fresh_look_only(fifo, notifier, disposition):
    """A remembered descriptor that fails is opened anew: somebody may be there all the same."""
    before = signal.signal(signal.SIGPIPE, disposition)
    try:
        assert notifier.notify(fifo.token)
        os.close(fifo.fd)  # as its owner's death closes it; the file stays
        assert notifier.notify(fifo.token) is False
        fifo.fd = os.open(fifo.path, os.O_RDWR | os.O_NONBLOCK)
        fifo.drain()
        assert notifier.notify(fifo.token)
        assert signal.SIGPIPE not in signal.sigpending()
        assert signal.SIGPIPE not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    finally:
        signal.signal(signal.SIGPIPE, before)
    assert os.read(fifo.fd, 9)


def test_a_doorbell_that_was_made_anew_is_opened_anew(fifo, notifier):
    assert notifier.notify(fifo.token)
    os.close(fifo.fd)
    os.unlink(fifo.path)
    os.mkfifo(fifo.path, 0o600)
    fifo.fd = os.open(fifo.path, os.O_RDWR | os.O_NONBLOCK)
    assert notifier.notify(fifo.token)
    assert os.read(fifo.fd, 9)


def test_a_sigpipe_that_was_pending_already_is_left_to_whom_it_belongs(fifo, notifier):
    before = signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGPIPE])
    try:
        assert notifier.notify(fifo.token)
        signal.pthread_kill(threading.get_ident(), signal.SIGPIPE)
        os.close(fifo.fd)
        fifo.fd = -1
        assert notifier.notify(fifo.token) is False
        assert signal.SIGPIPE in signal.sigpending()
        signal.sigwait([signal.SIGPIPE])
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGPIPE])
        signal.signal(signal.SIGPIPE, before)


def test_a_file_that_is_gone_proves_nothing(fifo, notifier):
    os.unlink(fifo.path)
    assert notifier.notify(fifo.token)
    assert not has_rung(fifo)
    assert fifo.is_unlinked()


def test_a_doorbell_knows_whether_it_can_be_rung(fifo):
    assert not fifo.is_unlinked()
    os.rename(fifo.path, fifo.path + ".away")
    assert fifo.is_unlinked()
    os.mkfifo(fifo.path)
    assert fifo.is_unlinked()
    os.rename(fifo.path + ".away", fifo.path)
    assert not fifo.is_unlinked()


# -- whom it is not meant for -------------------------------------------------------------------------------------


def test_other_files_in_the_place_of_a_doorbell_are_not_written_to(prefix, notifier, tmp_path):
    target = tmp_path / "target"
    target.write_bytes(b"mine")
    link, plain = f"/dev/shm/{prefix}.FIFO.1", f"/dev/shm/{prefix}.FIFO.2"
    os.symlink(target, link)
    with open(os.open(plain, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as file:
        file.write(b"mine")
    assert notifier.notify(1)
    assert notifier.notify(2)
    with open(plain, "rb") as file:
        assert file.read() == target.read_bytes() == b"mine"


@needs_root
def test_a_doorbell_of_somebody_else_is_not_rung(fifo, notifier):
    os.chown(fifo.path, STRANGER, -1)
    assert notifier.notify(fifo.token)
    assert not has_rung(fifo)


def test_a_doorbell_that_others_may_write_to_is_not_rung_unless_that_was_asked_for(prefix, make_bell, notifier):
    fifo = make_bell(0o660)
    assert notifier.notify(fifo.token)
    assert not has_rung(fifo)
    asked = Notifier(prefix, 0o660)
    assert asked.notify(fifo.token)
    assert has_rung(fifo)
    asked.close()


def test_the_mode_holds_whatever_the_umask(make_bell):
    before = os.umask(0o777)
    try:
        fifos = {mode: make_bell(mode) for mode in (0o600, 0o660, 0o666)}
    finally:
        os.umask(before)
    for mode, fifo in fifos.items():
        found = os.lstat(fifo.path)
        assert stat.S_ISFIFO(found.st_mode)
        assert stat.S_IMODE(found.st_mode) == mode


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_no_room_for_a_doorbell_says_what_to_do(prefix, monkeypatch, number):
    def full(*args):
        raise OSError(number, "full")

    monkeypatch.setattr(wakeup_fifo.os, "mkfifo", full)
    with pytest.raises(SegmentRefused, match="--shm-size"):
        WakeupFifo(prefix, 0o600, os.getgid())


def test_any_other_error_comes_through_and_leaves_nothing(prefix, monkeypatch):
    def fails(*args):
        raise OSError(errno.EIO, "broken")

    before = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(wakeup_fifo.os, "rename", fails)
    with pytest.raises(OSError, match="broken"):
        WakeupFifo(prefix, 0o600, os.getgid())
    assert files(prefix) == []
    assert len(os.listdir("/proc/self/fd")) == before


# -- signals, threads, forks, ends ----------------------------------------------------------------------------------


def test_a_handler_that_interrupts_a_ring_may_ring(make_bell, notifier, monkeypatch):
    first, second = make_bell(), make_bell()
    write = wakeup_fifo._write
    interruptions, handled = [1], []

    def interrupted(fd):
        if interruptions:
            interruptions.clear()
            handled.append(notifier.notify(second.token))
        return write(fd)

    monkeypatch.setattr(wakeup_fifo, "_write", interrupted)
    assert notifier.notify(first.token)
    assert handled == [True]
    assert has_rung(first)
    assert has_rung(second)
    assert notifier.notify(second.token)


def test_many_threads_ring_with_one_ringer(make_bell, notifier, monkeypatch):
    monkeypatch.setattr(wakeup_fifo, "OPEN_FIFOS", 2)  # so that they close each other's descriptors all the time
    fifos = [make_bell() for _ in range(6)]
    heard = [0] * len(fifos)
    over = threading.Event()
    outcomes = set()

    def ring():
        while not over.is_set():
            outcomes.update({notifier.notify(fifo.token) for fifo in fifos})

    threads = [threading.Thread(target=ring) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        deadline = time.monotonic() + LIMIT
        while min(heard) < 50:
            assert time.monotonic() < deadline
            for number, fifo in enumerate(fifos):
                heard[number] += fifo.wait(LIMIT)
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert outcomes == {True}


def test_a_forked_child_has_no_part_in_its_parents_doorbells(fifo, notifier, prefix):
    assert notifier.notify(fifo.token)
    pid = os.fork()
    if not pid:
        code = 1
        try:
            assert fifo.fd == -1
            assert notifier.notify(fifo.token)  # with a descriptor of its own
            fifo.close()
            code = 0
        finally:
            os._exit(code)
    assert reap(pid) == 0
    assert files(prefix) == [os.path.basename(fifo.path)]
    assert fifo.wait(LIMIT)
    assert notifier.notify(fifo.token)
    assert has_rung(fifo)


def test_a_process_that_ends_removes_its_doorbells(prefix):
    script = (
        "import os, sys; from asgi_ipc.shm.wakeup_fifo import WakeupFifo; "
        f"kept = WakeupFifo({prefix!r}, 0o600, os.getgid()); print(os.path.exists(kept.path)); sys.exit(3)"
    )
    ended = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, timeout=LIMIT)
    assert (ended.returncode, ended.stdout) == (3, "True\n")
    assert files(prefix) == []


# -- all of them ----------------------------------------------------------------------------------------------------


def test_sweeping_removes_what_nobody_has_open(fifo, prefix):
    dead = abandoned_slice(prefix)
    young, old = f"{dead}1~", f"{dead}2~"
    neighbour = abandoned_slice(f"{prefix}-other")
    for path in (young, old):
        os.mkfifo(path)
    os.utime(old, (0, time.time() - 2 * UNFINISHED_AGE))
    sweep_fifos(prefix)
    assert {f"/dev/shm/{name}" for name in files(prefix)} == {fifo.path, young}
    assert os.path.exists(neighbour)
    os.unlink(young)
    os.unlink(neighbour)


def test_ringing_everybody_removes_what_nobody_has_open(make_bell, notifier, prefix):
    fifos = [make_bell() for _ in range(3)]
    abandoned_slice(prefix)
    notify_all(notifier)
    assert all(has_rung(fifo) for fifo in fifos)
    assert len(files(prefix)) == 3
