"""
Sleeping on a FIFO, reading it and writing to it, also where gevent or eventlet replaces functions of ``os``.

The function that sleeps is the replaced one, looked up at the call, so that only the calling greenlet sleeps.  The
others are those of ``posix``, which no library replaces: eventlet's ``os.read`` and ``os.write`` wait even for a
descriptor that must not block, and gevent's ``os.close`` leaves a descriptor open until its event loop runs.
"""

from __future__ import annotations

__all__ = ["discard", "wait_readable", "write_byte"]

import contextlib
import posix
import select
import signal

#: Bytes: as many as a FIFO can hold.
_ALL = 65536


def wait_readable(fd: int, seconds: float) -> bool:
    """Sleep until ``fd`` can be read (True), or for ``seconds`` (False)."""
    new_poll = getattr(select, "poll", None)
    if new_poll is not None:
        poll = new_poll()
        poll.register(fd, select.POLLIN)
        return bool(poll.poll(seconds * 1000))
    # eventlet removes ``poll``. Its ``select`` has no limit for descriptors, unlike that of the system.
    return bool(select.select([fd], [], [], seconds)[0])


def discard(fd: int) -> None:
    """Read what is in a FIFO. Never waits."""
    with contextlib.suppress(BlockingIOError):
        posix.read(fd, _ALL)


def write_byte(fd: int) -> bool:
    """Write one byte; False if no process can read it. A full pipe is a pending notification already."""
    if signal.getsignal(signal.SIGPIPE) is signal.SIG_DFL:
        return _write_shielded(fd)
    try:
        posix.write(fd, b"\0")
    except BlockingIOError:
        return True
    except OSError:
        return False
    return True


def _write_shielded(fd: int) -> bool:
    """Like ``write_byte``, in a program that has restored the default action of SIGPIPE, which would end it."""
    sigpipe = {signal.SIGPIPE}
    already = signal.SIGPIPE in signal.sigpending()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, sigpipe)
    try:
        posix.write(fd, b"\0")
    except BlockingIOError:
        return True
    except OSError:
        if not already and signal.SIGPIPE in signal.sigpending():
            signal.sigwait(sigpipe)
        return False
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return True
