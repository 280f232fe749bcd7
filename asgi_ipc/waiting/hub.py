"""
Waiting in an event loop: any number of calls wait at one wakeup FIFO, and cost one look a second together.

A ring only wakes those who were called; each takes its own message when it runs, so that one which is cancelled in
between has taken nothing, and passes the call on.  What an event loop must provide is four small methods; ``loops``
has them for asyncio, ``twisted`` for Twisted.  A room belongs to the thread of its loop.
"""

from __future__ import annotations

__all__ = ["Hub", "PendingReceive", "Wake"]

import weakref
from collections import deque
from typing import Callable, Deque, Dict, List, Optional, Sequence, Union

from ..exceptions import SegmentError
from ..shm.wakeup_fifo import WakeupFifo
from ..stores.messages.waiters import POLL_SLICE
from ..stores.messages.waits import Taken
from ..stores.messages.wakeups import Registered, WaitingStore
from .thread import POLL_PERIOD, SHORT_POLL_PERIOD

#: Called once, when there may be a message, or with the error that has ended the waiting.
Wake = Callable[[Optional[BaseException]], None]


class PendingReceive:
    """One call that waits: its waiters with their channels, and the channels that it was called for."""

    __slots__ = ("fifo", "notified_for", "registration", "waiters", "wake")

    def __init__(self, fifo: WakeupFifo, registration: int, waiters: Dict[int, str], wake: Wake) -> None:
        self.fifo = fifo
        self.registration = registration
        self.waiters = waiters
        self.notified_for: List[str] = []
        self.wake = wake

#: With more calls than this waiting in a loop, the next one will most likely wait, too.
CROWD = 8


class Hub:
    """Where the calls in one event loop wait for messages of one store."""

    def __init__(self, store: WaitingStore) -> None:
        self._store = weakref.ref(store, self._lost_store)
        self._fifo: Optional[WakeupFifo] = None
        self._registration = -1
        #: Everybody who waits, whether waiters hang for him or there was no memory for them.
        self._pending: Dict[PendingReceive, None] = {}
        self._by_waiter: Dict[int, PendingReceive] = {}
        #: Those who have left, but may have waiters: a finaliser must not enter the mutex, and others could not.
        self._abandoned: Deque[PendingReceive] = deque()
        self._poll_scheduled = False
        #: Set while the segment and this room may not agree on who waits. An exception that comes just then (from a
        #: signal handler) leaves it set, and whoever uses the room next begins anew with an empty one.
        self._inconsistent = False

    # -- what an event loop provides --------------------------------------------------------------------------

    def watch(self, fd: int) -> None:
        """Call ``on_notified`` whenever ``fd`` can be read."""
        raise NotImplementedError

    def unwatch(self, fd: int) -> None:
        """Do that no longer."""
        raise NotImplementedError

    def call_later(self, seconds: float) -> None:
        """Call ``on_poll`` once."""
        raise NotImplementedError

    def call_soon(self, reset: Callable[[], None]) -> bool:
        """Call ``reset`` in the thread of the loop, from any thread; False if the loop is over."""
        raise NotImplementedError

    # -- for those who wait -----------------------------------------------------------------------------------

    def receive_or_wait(self, channels: Sequence[str], wake: Wake) -> Union[Taken, PendingReceive]:
        """
        Take a message from one of the channels, or wait: ``wake`` is called when it is time to try again.

        Whoever was woken has left already; whoever gives up before calls ``cancel``.
        """
        store = self._open_store()
        if self._inconsistent:
            self.reset()
        self._cancel_abandoned()
        fifo = self._fifo or self._open_fifo(store)
        self._inconsistent = True
        try:
            outcome = store.pop_or_register(channels, fifo)
        except SegmentError:  # then nothing was hung up, or all waiters are gone
            self._inconsistent = False
            raise
        if isinstance(outcome, Registered):
            return self._add(fifo, outcome, channels, wake)
        self._inconsistent = False
        return outcome

    def _add(self, fifo: WakeupFifo, registered: Registered, channels: Sequence[str], wake: Wake) -> PendingReceive:
        """Note somebody whose waiters were hung up."""
        if registered.registration != self._registration:
            self._wake_all()  # what they had hung up is gone
            self._registration = registered.registration
        waiters = dict(zip(registered.waiters, dict.fromkeys(channels)))
        pending = PendingReceive(fifo, registered.registration, waiters, wake)
        self._pending[pending] = None
        store = self._store()
        if store is not None:
            store.crowded = len(self._pending) > CROWD
        for waiter in registered.waiters:
            self._by_waiter[waiter] = pending
        if not self._poll_scheduled:
            self._poll_later(POLL_PERIOD if registered.waiters else SHORT_POLL_PERIOD)
        self._inconsistent = False
        return pending

    def is_empty(self) -> bool:
        """Whether nobody waits here."""
        return not self._pending

    def cancel(self, pending: PendingReceive) -> None:
        """
        Give up waiting, and pass on what one was called for.

        Whatever is wrong with the segment, or that the layer was closed, must not take the place of the cancellation
        that has led here: what could not be taken down is, at the next look.
        """
        if self._inconsistent:
            self.reset()
        if not self._try_cancel(pending):
            self.abandon(pending)
            if not self._poll_scheduled:
                self._poll_later(POLL_PERIOD)

    def abandon(self, pending: PendingReceive) -> None:
        """The same from a finaliser: it takes effect when the room is next used."""
        self._abandoned.append(pending)

    def pass_on(self, pending: PendingReceive, taken: str) -> None:
        """Somebody who was called has taken a message from the channel ``taken``: others may be called in turn."""
        rest = [channel for channel in pending.notified_for if channel != taken]
        if rest:
            pending.notified_for = rest
            self._try_cancel(pending)

    # -- for the event loop -----------------------------------------------------------------------------------

    def on_notified(self) -> None:
        """The wakeup FIFO has rung: wake whoever was called."""
        fifo, store = self._fifo, self._store()
        if fifo is None or store is None:
            return
        fifo.drain()
        self._wake_those(lambda: store.take_notified(fifo))

    def on_poll(self) -> None:
        """The look that heals what was lost: a ring, a receiver who was killed, the segment itself."""
        self._poll_scheduled = False
        store = self._store()
        if store is None:
            return
        unregistered: List[PendingReceive] = []
        try:
            self._cancel_abandoned()
            unregistered = [pending for pending in self._pending if not pending.waiters]
            for pending in unregistered:
                self._wake(pending)
            fifo = self._fifo
            if fifo is None or fifo.is_unlinked():
                self.reset()
            else:
                self._wake_those(lambda: store.poll(fifo, len(self._by_waiter)))
        finally:
            if (self._pending or self._abandoned or unregistered) and not self._poll_scheduled:
                self._poll_later(SHORT_POLL_PERIOD if unregistered else POLL_PERIOD)

    def reset(self, error: Optional[BaseException] = None) -> None:
        """Close the wakeup FIFO and wake everybody; whoever waits on takes a new one."""
        self._inconsistent = True
        fifo, store = self._fifo, self._store()
        if fifo is not None:
            if fifo.fd >= 0:
                self.unwatch(fifo.fd)
            self._fifo = None
            if store is not None:
                store.dismiss(fifo)
            fifo.close()
        self._wake_all(error)
        self._inconsistent = False

    # -- within -----------------------------------------------------------------------------------------------

    def _open_store(self) -> WaitingStore:
        store = self._store()
        if store is None:
            raise RuntimeError("this layer is gone; make a new one to go on")
        return store

    def _open_fifo(self, store: WaitingStore) -> WakeupFifo:
        fifo = store.new_fifo()
        self._fifo, self._registration = fifo, -1
        try:
            self.watch(fifo.fd)
        except BaseException:
            self.reset()
            raise
        return fifo

    def _poll_later(self, seconds: float) -> None:
        self.call_later(seconds)
        self._poll_scheduled = True  # behind it: a look too many does no harm

    def _wake_those(self, ask: Callable[[], Optional[List[int]]]) -> None:
        """Wake those whose waiters were called; everybody, if all waiters are gone or nobody can tell."""
        if self._inconsistent:
            self.reset()
            return
        self._inconsistent = True
        try:
            notified = ask()
        except (SegmentError, RuntimeError, OSError) as error:
            self.reset(error)
            return
        if notified is None:
            self._wake_all()
        else:
            self._wake_notified(notified)
        self._inconsistent = False

    def _wake_notified(self, notified: List[int]) -> None:
        """Wake those whose waiters were called, and take down what else hangs for them."""
        pending_receives: Dict[PendingReceive, None] = {}
        strays = False
        for waiter in notified:  # all of them first: who was called for two channels has no waiter for either any more
            pending = self._by_waiter.pop(waiter, None)
            if pending is None:
                strays = True
            else:
                pending.notified_for.append(pending.waiters.pop(waiter))
                pending_receives[pending] = None
        for pending in pending_receives:
            self._wake(pending)
        left = [waiter for pending in pending_receives for waiter in pending.waiters]
        for pending in pending_receives:
            pending.waiters.clear()
        if self._fifo is not None:
            for first in range(0, len(left), POLL_SLICE):
                self._take_down(self._fifo, left[first : first + POLL_SLICE])
        if strays:  # an exception came between a section and its note here: the others look for themselves
            self.reset()

    def _take_down(self, fifo: WakeupFifo, waiters: List[int]) -> None:
        """Take down what hangs for those who were woken."""
        rest = PendingReceive(fifo, self._registration, dict.fromkeys(waiters, ""), _nobody)
        if not self._try_cancel(rest):
            self._by_waiter.update(dict.fromkeys(waiters, rest))
            self.abandon(rest)

    def _try_cancel(self, pending: PendingReceive) -> bool:
        """Take down what hangs for somebody, and pass on what he was called for; False if that has to wait."""
        store = self._store()
        if store is None or not (pending.waiters or pending.notified_for):
            self._forget(pending)
            return True
        was_inconsistent, self._inconsistent = self._inconsistent, True
        given_up = True
        try:
            store.cancel(pending.fifo, pending.registration, list(pending.waiters), pending.notified_for)
        except SegmentError:
            given_up = False
        except (RuntimeError, OSError):  # the layer was closed, or the segment is gone and another cannot be had
            pass
        if given_up:
            self._forget(pending)
            pending.waiters.clear()
            pending.notified_for.clear()
        self._inconsistent = was_inconsistent
        return given_up

    def _wake(self, pending: PendingReceive, error: Optional[BaseException] = None) -> None:
        pending.wake(error)
        self._forget(pending)

    def _wake_all(self, error: Optional[BaseException] = None) -> None:
        """Wake everybody: what they had hung up is gone."""
        for pending in list(self._pending):
            self._wake(pending, error)
            pending.waiters.clear()
        self._by_waiter.clear()

    def _forget(self, pending: PendingReceive) -> None:
        self._pending.pop(pending, None)
        for waiter in pending.waiters:
            if self._by_waiter.get(waiter) is pending:
                del self._by_waiter[waiter]

    def _cancel_abandoned(self) -> None:
        """Take down what hangs for those who have left without doing it."""
        while self._abandoned:
            pending = self._abandoned.popleft()
            if not self._try_cancel(pending):
                self._abandoned.appendleft(pending)
                return

    def _lost_store(self, _: object) -> None:
        """Nobody has the layer any more, and so nobody waits."""
        fifo = self._fifo
        if fifo is not None and fifo.fd >= 0 and not self.call_soon(self.reset):
            fifo.close()


def _nobody(_: Optional[BaseException]) -> None:
    """Wakes nobody."""
