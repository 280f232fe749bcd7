"""Wakeup FIFOs alone: ``notify`` wakes the owner, never blocks or raises, and writes to no other file."""

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
from helpers.segments import OTHER_USER, needs_files

from asgi_ipc import SegmentRefused
from asgi_ipc.shm import wakeup_fifo
from asgi_ipc.shm.fifo_directory import UNFINISHED_AGE, drop_directory, fifo_directory, fifo_path, sweep_fifos
from asgi_ipc.shm.wakeup_fifo import OPEN_FIFOS, Notifier, WakeupFifo, notify_all

pytestmark = needs_files
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file away")


@pytest.fixture
def make_fifo(prefix):
    """Return a function that makes wakeup FIFOs of the segment ``prefix``; all are closed after the test."""
    made = []

    def make(mode=0o600):
        made.append(WakeupFifo(prefix, mode, os.getgid()))
        return made[-1]

    yield make
    for fifo in made:
        fifo.close()


@pytest.fixture
def fifo(make_fifo):
    return make_fifo()


@pytest.fixture
def notifier(prefix):
    notifier = Notifier(prefix, 0o600)
    yield notifier
    notifier.close()


def was_notified(fifo):
    return fifo.wait(0)


def make_fifo_without_owner(prefix, token=77):
    """Make a FIFO that no process has open, as a killed owner leaves it; return its path."""
    path = fifo_path(prefix, token)
    with contextlib.suppress(FileExistsError):
        os.mkdir(fifo_directory(prefix), 0o700)
    os.mkfifo(path, 0o600)
    return path


def files(prefix):
    try:
        return sorted(os.listdir(fifo_directory(prefix)))
    except FileNotFoundError:
        return []


# -- notifications -------------------------------------------------------------------------------------------


def test_several_notifications_wake_once(fifo, notifier):
    assert not was_notified(fifo)
    for _ in range(3):
        assert notifier.notify(fifo.token)
    assert fifo.wait(LIMIT)
    assert not was_notified(fifo)
    fifo.notify()
    assert was_notified(fifo)


def test_a_full_fifo_counts_as_notified(fifo, notifier):
    writer = os.open(fifo.path, os.O_WRONLY | os.O_NONBLOCK)
    for size in (4096, 1):
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writer, bytes(size))
    os.close(writer)
    for _ in range(2):  # with a new descriptor and with a cached one
        assert notifier.notify(fifo.token)
    fifo.notify()
    assert fifo.wait(LIMIT)


def test_notifying_more_fifos_than_are_kept_open(make_fifo, notifier):
    before = len(os.listdir("/proc/self/fd"))
    fifos = [make_fifo() for _ in range(OPEN_FIFOS + 40)]
    for _ in range(2):
        for fifo in fifos:
            assert notifier.notify(fifo.token)
            assert was_notified(fifo)
        assert len(os.listdir("/proc/self/fd")) <= before + len(fifos) + OPEN_FIFOS
    notifier.close()
    assert len(os.listdir("/proc/self/fd")) == before + len(fifos)
    assert notifier.notify(fifos[0].token)


@pytest.mark.parametrize("disposition", [signal.SIG_IGN, signal.SIG_DFL])
def test_only_a_fresh_open_proves_that_the_owner_is_dead(fifo, notifier, disposition):
    """A cached descriptor that fails is opened again first, since the FIFO may have a new owner."""
    before = signal.signal(signal.SIGPIPE, disposition)
    try:
        assert notifier.notify(fifo.token)
        os.close(fifo.fd)  # as the death of its owner closes it; the file stays
        assert notifier.notify(fifo.token) is False
        fifo.fd = os.open(fifo.path, os.O_RDWR | os.O_NONBLOCK)
        fifo.drain()
        assert notifier.notify(fifo.token)
        assert signal.SIGPIPE not in signal.sigpending()
        assert signal.SIGPIPE not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    finally:
        signal.signal(signal.SIGPIPE, before)
    assert os.read(fifo.fd, 9)


def test_a_recreated_fifo_is_reopened(fifo, notifier):
    assert notifier.notify(fifo.token)
    os.close(fifo.fd)
    os.unlink(fifo.path)
    os.mkfifo(fifo.path, 0o600)
    fifo.fd = os.open(fifo.path, os.O_RDWR | os.O_NONBLOCK)
    assert notifier.notify(fifo.token)
    assert os.read(fifo.fd, 9)


def test_a_sigpipe_that_was_already_pending_stays_pending(fifo, notifier):
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


def test_a_missing_file_does_not_prove_that_the_owner_is_dead(fifo, notifier):
    os.unlink(fifo.path)
    assert notifier.notify(fifo.token)
    assert not was_notified(fifo)
    assert fifo.is_unlinked()


def test_a_fifo_detects_that_it_was_unlinked(fifo):
    assert not fifo.is_unlinked()
    os.rename(fifo.path, fifo.path + ".away")
    assert fifo.is_unlinked()
    os.mkfifo(fifo.path)
    assert fifo.is_unlinked()
    os.rename(fifo.path + ".away", fifo.path)
    assert not fifo.is_unlinked()


# -- files that must not be written to -----------------------------------------------------------------------


def test_a_file_that_is_not_a_fifo_is_not_written_to(prefix, notifier, tmp_path):
    target = tmp_path / "target"
    target.write_bytes(b"mine")
    link, plain = fifo_path(prefix, 1), fifo_path(prefix, 2)
    os.mkdir(fifo_directory(prefix), 0o700)
    os.symlink(target, link)
    with open(os.open(plain, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as file:
        file.write(b"mine")
    assert notifier.notify(1)
    assert notifier.notify(2)
    with open(plain, "rb") as file:
        assert file.read() == target.read_bytes() == b"mine"


@needs_root
def test_a_fifo_of_another_user_is_not_notified(fifo, notifier):
    os.chown(fifo.path, OTHER_USER, -1)
    assert notifier.notify(fifo.token)
    assert not was_notified(fifo)


def test_a_fifo_that_others_may_write_to_is_notified_only_if_the_mode_allows_it(prefix, make_fifo, notifier):
    fifo = make_fifo(0o660)
    assert notifier.notify(fifo.token)
    assert not was_notified(fifo)
    asked = Notifier(prefix, 0o660)
    assert asked.notify(fifo.token)
    assert was_notified(fifo)
    asked.close()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644], ids=oct)
def test_a_fifo_that_others_may_read_is_not_notified(fifo, notifier, mode):
    """They could read the bytes that are to wake its owner."""
    os.chmod(fifo.path, mode)
    assert notifier.notify(fifo.token)
    assert not was_notified(fifo)


def test_the_mode_does_not_depend_on_the_umask(make_fifo):
    before = os.umask(0o777)
    try:
        fifos = {mode: make_fifo(mode) for mode in (0o600, 0o660, 0o666)}
    finally:
        os.umask(before)
    for mode, fifo in fifos.items():
        found = os.lstat(fifo.path)
        assert stat.S_ISFIFO(found.st_mode)
        assert stat.S_IMODE(found.st_mode) == mode


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_no_room_for_a_fifo_says_what_to_do(prefix, monkeypatch, number):
    def full(*args):
        raise OSError(number, "full")

    monkeypatch.setattr(wakeup_fifo.os, "mkfifo", full)
    with pytest.raises(SegmentRefused, match="--shm-size"):
        WakeupFifo(prefix, 0o600, os.getgid())


def test_any_other_error_is_passed_on_and_leaves_nothing(prefix, monkeypatch):
    def fails(*args):
        raise OSError(errno.EIO, "broken")

    before = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(wakeup_fifo.os, "rename", fails)
    with pytest.raises(OSError, match="broken"):
        WakeupFifo(prefix, 0o600, os.getgid())
    assert files(prefix) == []
    assert len(os.listdir("/proc/self/fd")) == before


# -- signals, threads, forks, exits --------------------------------------------------------------------------


def test_a_signal_handler_that_interrupts_notify_may_notify(make_fifo, notifier, monkeypatch):
    first, second = make_fifo(), make_fifo()
    write = wakeup_fifo.write_byte
    interruptions, handled = [1], []

    def interrupted(fd):
        if interruptions:
            interruptions.clear()
            handled.append(notifier.notify(second.token))
        return write(fd)

    monkeypatch.setattr(wakeup_fifo, "write_byte", interrupted)
    assert notifier.notify(first.token)
    assert handled == [True]
    assert was_notified(first)
    assert was_notified(second)
    assert notifier.notify(second.token)


def test_a_call_that_interrupts_notify_may_close_the_notifier(make_fifo, notifier, monkeypatch):
    """Its descriptors are closed at the end of ``notify``, which may be using one of them."""
    fifo = make_fifo()
    opened = os.listdir("/proc/self/fd")
    write = wakeup_fifo.write_byte
    written = []

    def interrupted(fd):
        notifier.close()
        written.append(write(fd))
        return written[-1]

    monkeypatch.setattr(wakeup_fifo, "write_byte", interrupted)
    assert notifier.notify(fifo.token)
    assert written == [True]
    assert os.listdir("/proc/self/fd") == opened


def test_a_forked_child_does_not_wait_on_a_fifo_of_its_parent(fifo):
    child = os.fork()
    if child == 0:
        os._exit(0 if fifo.is_unlinked() and not fifo.wait(0.01) else 1)
    assert reap(child) == 0
    assert not fifo.is_unlinked()


def test_many_threads_share_one_notifier(make_fifo, notifier, monkeypatch):
    monkeypatch.setattr(wakeup_fifo, "OPEN_FIFOS", 2)  # so that the threads keep closing each other's descriptors
    fifos = [make_fifo() for _ in range(6)]
    wakeups = [0] * len(fifos)
    over = threading.Event()
    outcomes = set()

    def notify_until_over():
        while not over.is_set():
            outcomes.update({notifier.notify(fifo.token) for fifo in fifos})

    threads = [threading.Thread(target=notify_until_over) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        deadline = time.monotonic() + LIMIT
        while min(wakeups) < 50:
            assert time.monotonic() < deadline
            for number, fifo in enumerate(fifos):
                wakeups[number] += fifo.wait(LIMIT)
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert outcomes == {True}


def test_a_forked_child_does_not_inherit_its_parents_fifos(fifo, notifier, prefix):
    assert notifier.notify(fifo.token)
    pid = os.fork()
    if not pid:
        code = 1
        try:
            assert fifo.fd == -1
            assert notifier.notify(fifo.token)  # with its own descriptor
            fifo.close()
            code = 0
        finally:
            os._exit(code)
    assert reap(pid) == 0
    assert files(prefix) == [os.path.basename(fifo.path)]
    assert fifo.wait(LIMIT)
    assert notifier.notify(fifo.token)
    assert was_notified(fifo)


def test_a_process_that_exits_removes_its_fifos(prefix):
    script = (
        "import os, sys; from asgi_ipc.shm.wakeup_fifo import WakeupFifo; "
        f"kept = WakeupFifo({prefix!r}, 0o600, os.getgid()); print(os.path.exists(kept.path)); sys.exit(3)"
    )
    ended = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, timeout=LIMIT)
    assert (ended.returncode, ended.stdout) == (3, "True\n")
    assert files(prefix) == []


# -- all FIFOs of a segment ----------------------------------------------------------------------------------


def test_sweep_fifos_removes_fifos_without_owner(fifo, prefix):
    dead = make_fifo_without_owner(prefix)
    unfinished_young, unfinished_old = f"{dead}1~", f"{dead}2~"
    of_other_segment = make_fifo_without_owner(f"{prefix}-other")
    for path in (unfinished_young, unfinished_old):
        os.mkfifo(path)
    os.utime(unfinished_old, (0, time.time() - 2 * UNFINISHED_AGE))
    assert sorted(sweep_fifos(prefix, 0o600)) == sorted(os.path.basename(path) for path in (dead, unfinished_old))
    assert {fifo_directory(prefix) + "/" + name for name in files(prefix)} == {fifo.path, unfinished_young}
    assert os.path.exists(of_other_segment)
    os.unlink(unfinished_young)
    os.unlink(of_other_segment)
    drop_directory(f"{prefix}-other")


def test_notify_all_removes_fifos_without_owner(make_fifo, notifier, prefix):
    fifos = [make_fifo() for _ in range(3)]
    make_fifo_without_owner(prefix)
    notify_all(notifier)
    assert all(was_notified(fifo) for fifo in fifos)
    assert len(files(prefix)) == 3
