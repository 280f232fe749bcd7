"""
``WaitingStore``: the message store of those who also wait for messages.

Nothing here sleeps: a section takes a message or hangs waiters up, and the caller sleeps at the wakeup FIFO in whatever
way is his (``waiting``).  FIFOs of others are rung outside of the sections.
"""

from __future__ import annotations

__all__ = ["Registered", "WaitingStore"]

import contextlib
import os
import threading
import time
import weakref
from typing import Any, Dict, Iterable, List, Optional, Sequence, Union

from ...exceptions import SegmentError
from ...shm.wakeup_fifo import WakeupFifo, live_fifos, notify_all
from ..attachment import Attachment
from .channels import READY
from .records import Again
from .store import STORE_ERRORS, MessageStore, is_store_error
from .waiters import NOTIFIED_SLICE, POLL_SLICE
from .waits import Registered, Taken

#: ns for which a receiver lingers before it sleeps: no longer than it takes to be woken. On a single core nobody could
#: send meanwhile.
SPIN_NS = 50_000 if (os.cpu_count() or 1) > 1 else 0
#: Wakeup FIFOs that are kept for the next call, when many threads have waited at once.
IDLE_FIFOS = 64

_stores: weakref.WeakSet[WaitingStore] = weakref.WeakSet()


class WaitingStore(MessageStore):
    """A message store with wakeup FIFOs of its own."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self._forget()
        _stores.add(self)
        super().__init__(*args, **options)

    def _forget(self) -> None:
        """Have no wakeup FIFOs: as at birth, and in a forked child, whose parent sleeps at them."""
        #: Where event loops wait: whatever ``waiting`` keeps for each of them.
        self.hubs: Dict[Any, Any] = {}
        self.hubs_lock = threading.RLock()
        #: Many wait: taking a message and hanging up a waiter are then better done in one section.
        self.crowded = False
        self._idle: List[WakeupFifo] = []
        #: How many calls are to go by without lingering, and how many have.
        self._skip = self._skipped = 0
        self._fifos: weakref.WeakValueDictionary[int, WakeupFifo] = weakref.WeakValueDictionary()

    # -- wakeup FIFOs --------------------------------------------------------------------------------------------

    def new_fifo(self) -> WakeupFifo:
        """A FIFO; give it back with ``give_back_fifo`` or ``dismiss``. Raises ``SegmentRefused`` and ``OSError``."""
        segment = self._opened().segment
        fifo = WakeupFifo(self.name, segment.mode, segment.semaphores.group)
        self._fifos[fifo.token] = fifo
        return fifo

    def take_fifo(self) -> WakeupFifo:
        """A wakeup FIFO that was given back, or a new one."""
        while self._idle:
            try:
                fifo = self._idle.pop()
            except IndexError:  # another thread was faster
                break
            if not fifo.is_unlinked():
                return fifo
            self.dismiss(fifo)
        return self.new_fifo()

    def give_back_fifo(self, fifo: WakeupFifo, is_registered: bool) -> None:
        """
        Give back a wakeup FIFO; ``is_registered`` if there may be waiters on it.

        If these cannot be taken down just now, it is closed, and they are later: so no error takes the place of what
        has ended the waiting.
        """
        if is_registered:
            try:
                self.unregister_all(fifo)
            except STORE_ERRORS as error:
                fifo.close()
                if not is_store_error(error):
                    raise
        if fifo.fd < 0 or len(self._idle) >= IDLE_FIFOS:
            fifo.close()
        else:
            self._idle.append(fifo)
        if self._attachment is None:
            self._close_idle()

    def dismiss(self, fifo: WakeupFifo) -> None:
        """Close a wakeup FIFO for good, and take down whatever hangs on it. Never raises ``SegmentError``."""
        fifo.close()
        if self._attachment is not None:
            with contextlib.suppress(SegmentError, RuntimeError):  # else whoever rings it does that
                self.unregister_abandoned(fifo.token)

    def close(self) -> None:
        """Also wake those who still wait: they learn that the layer was closed."""
        super().close()
        self._close_idle()
        for fifo in live_fifos(self._fifos):
            fifo.notify()
            fifo.remove_name()  # its sleeper may not get round to that any more

    def _close_idle(self) -> None:
        while self._idle:
            with contextlib.suppress(IndexError):  # another thread was faster
                self._idle.pop().close()

    def flush(self) -> None:
        """Empty the store, for every process, and wake all who wait: they hang themselves up anew."""
        super().flush()
        self._notify_all()

    def unlink(self) -> None:
        """Remove the segment for every process, and wake all who wait: they attach anew."""
        super().unlink()
        self._notify_all()

    def _notify_all(self) -> None:
        attachment = self._attachment
        if attachment is not None:
            notify_all(attachment.notifier)

    def _attached(self, attachment: Attachment) -> None:
        super()._attached(attachment)
        for fifo in live_fifos(self._fifos):
            fifo.notify()  # those who wait hang themselves up in the new segment

    # -- waiting ----------------------------------------------------------------------------------------------

    def spin(self, channels: Sequence[str]) -> None:
        """
        Look at the queues of some channels for a moment, as a message may be on its way: that costs less than a ring.

        Without the mutex, so that nobody is kept out: what is seen there is a hint, and may be wrong either way. Where
        it has not paid, it is left out for more and more calls, up to 255.
        """
        if self._skipped < self._skip:
            self._skipped += 1
            return
        queues = self._bound[1][0]
        words = queues.words
        heads = []
        for channel in channels:
            place = queues.seen.get(channel)
            if place is not None:
                heads.append(place[2] + READY if place[7] == place[2] else place[3])
        until = time.monotonic_ns() + SPIN_NS
        try:
            while heads and time.monotonic_ns() < until:
                for at in heads:
                    if words[at]:
                        self._skip = 0
                        return
        except (ValueError, IndexError):  # another thread has closed the segment
            return
        self._skip, self._skipped = min(2 * self._skip + 1, 255), 0

    def pop_or_register(self, channels: Sequence[str], fifo: WakeupFifo) -> Union[Taken, Registered]:
        """Take a message from one of the channels, or hang waiters for all of them on a wakeup FIFO."""
        while True:
            outcome = self._run("pop_or_register", channels, fifo, self.clock())
            if not isinstance(outcome, Again):
                return outcome  # type: ignore[no-any-return]

    def pop_again(self, channels: Sequence[str], fifo: WakeupFifo) -> Union[Taken, Registered]:
        """
        Take a message from one of the channels, or see to it that waiters for all of them, and no others, hang there.

        For the only one who sleeps at the wakeup FIFO. What he was called for and leaves is passed on.
        """
        while True:
            calls, outcome = self._run("pop_again", channels, fifo, self.clock())
            self.notify(calls)
            if not isinstance(outcome, Again):
                return outcome  # type: ignore[no-any-return]

    def unregister_all(self, fifo: WakeupFifo) -> None:
        """Take all waiters of a wakeup FIFO down, and pass on what they were called for."""
        self.notify(self._run("unregister_all", fifo))

    def cancel(self, fifo: WakeupFifo, registration: int, waiters: List[int], notified_for: Iterable[str] = ()) -> None:
        """Take waiters down that were hung in this life of the FIFO, and pass on what others were called for."""
        self.notify(self._run("cancel", fifo, registration, waiters, list(notified_for)))

    def take_notified(self, fifo: WakeupFifo) -> Optional[List[int]]:
        """
        The waiters of a FIFO that were notified, in that order, which are gone now. None: all its waiters are gone.

        In slices: whoever has thousands of them keeps nobody out.
        """
        notified: List[int] = []
        while True:
            more = self._run("take_notified", fifo)
            if more is None:
                return None
            notified += more
            if len(more) < NOTIFIED_SLICE:
                notified.reverse()
                return notified

    def poll(self, fifo: WakeupFifo, waiters: int) -> Optional[List[int]]:
        """
        The same, once a second, and for channels that others wait for too, whether messages are there all the same.

        ``waiters`` hang on the wakeup FIFO. Heals whatever was lost between a message and its receiver.
        """
        notified = self.take_notified(fifo)
        if notified is None or not self._run("is_contended", fifo):
            return notified
        for first in range(0, waiters, POLL_SLICE):
            self._run("poll", fifo, first == 0, min(POLL_SLICE, waiters - first))
        more = self.take_notified(fifo)
        return None if more is None else notified + more


def _after_fork_in_child() -> None:
    for store in list(_stores):
        store._forget()


os.register_at_fork(after_in_child=_after_fork_in_child)
