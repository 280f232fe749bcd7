"""
Waiting in event loops: a hub holds the pending receives of one loop, with one FIFO, and polls once a second for all.

A notification only wakes the receives that were notified.  Each takes its own message when it runs.  So a receive that
is cancelled in between has taken nothing, and passes the notification on.  A hub belongs to the thread of its loop, and
to the loop itself: the loop's reader and timers are all that keeps it alive.  Its *upkeep* reads the notified list, and
cancels what could not be cancelled earlier.  If the upkeep cannot have the mutex, it waits for it (``loop_turns``).
"""

from __future__ import annotations

__all__ = ["Hub"]

import weakref
from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import Protocol

from ..exceptions import SegmentBusy, SegmentError
from ..locking.contention import WouldBlock
from ..stores.messages.own_fifo import OwnFifo
from ..stores.messages.receiving import Registered, Taken
from ..stores.messages.store import MessageStore
from ..stores.messages.waiters import POLL_SLICE
from ..stores.messages.wakeups import Wakeups
from .event_loop import EventLoop
from .loop_turns import LoopTurns, Turn
from .pending import PendingReceive, PendingReceives, Wake
from .thread import POLL_PERIOD, SHORT_POLL_PERIOD

#: If more receives than this are pending in a loop, the next one will most likely wait too.
CROWD = 8
#: The errors of the store that end the receives of a loop, unless they only say that the store is busy.
ERRORS = (SegmentError, RuntimeError, OSError)


class Owner(Protocol):
    """What a hub belongs to (``hubs.Hubs``)."""

    store: MessageStore
    turns: LoopTurns
    #: Many receives are pending.
    crowded: bool


class Hub:
    """The pending receives of one event loop, for the messages of one store."""

    def __init__(self, owner: Owner, loop: EventLoop) -> None:
        self.loop = loop
        self._owner = weakref.ref(owner, partial(_lose_owner, weakref.ref(self)))
        self._turns = owner.turns
        self._fifo: OwnFifo | None = None
        self.pending = PendingReceives()
        #: Receives that gave up but may still have waiters: the mutex could not be had, or a finaliser, which must not
        #: enter it, ended them.
        self._abandoned: deque[PendingReceive] = deque()
        self._poll_scheduled = False
        #: The turn of an upkeep that could not have the mutex, and whether it is to be a complete poll.
        self._turn: Turn | None = None
        self._poll_due = False
        #: Set while the segment and this hub may disagree about what is registered. An exception at such a point (from
        #: a signal handler) leaves it set, and the next use of the hub resets it.
        self._inconsistent = False

    # -- for receives -----------------------------------------------------------------------------------------

    def pop_or_wait(self, channels: Sequence[str], wake: Wake) -> Taken | PendingReceive:
        """
        Take a message from one of the channels, or register a receive: ``wake`` is called when it should try again.

        A receive that was woken is no longer pending. One that gives up before that calls ``cancel``. Raises
        ``WouldBlock``, too: then nothing has happened.
        """
        wakeups = self._open_wakeups()
        if self._inconsistent:
            self.reset()
        wakeups.unregister_dropped()
        self._cancel_abandoned()
        fifo = self._fifo or self._open_fifo(wakeups)
        self._inconsistent = True
        try:
            outcome = wakeups.pop_or_register(channels, fifo)
        except (SegmentError, WouldBlock):  # then nothing was registered, or no waiter exists any more
            self._inconsistent = False
            raise
        if isinstance(outcome, Registered):
            return self._add(fifo, outcome, channels, wake)
        self._inconsistent = False
        return outcome

    def _add(self, fifo: OwnFifo, registered: Registered, channels: Sequence[str], wake: Wake) -> PendingReceive:
        """Add a receive whose waiters were registered."""
        pending = self.pending.add(fifo, registered, channels, wake)
        owner = self._owner()
        if owner is not None:
            owner.crowded = len(self.pending.receives) > CROWD
        if not self._poll_scheduled:
            self._poll_later(POLL_PERIOD if registered.waiters else SHORT_POLL_PERIOD)
        self._inconsistent = False
        return pending

    def cancel(self, pending: PendingReceive) -> None:
        """
        Cancel a receive, and pass on its notifications.

        This neither waits nor replaces the exception that cancelled the receive by an error of the segment or of a
        closed layer. If unregistering fails, the upkeep does it later.
        """
        if self._inconsistent:
            self.reset()
        self._cancel_or_abandon(pending)

    def abandon(self, pending: PendingReceive) -> None:
        """Cancel a receive when the hub is next used: for finalisers."""
        self._abandoned.append(pending)

    def pass_on(self, pending: PendingReceive, taken: str) -> None:
        """Pass on the notifications of a receive that took a message, except those for the channel ``taken``."""
        pending.notified_for = [channel for channel in pending.notified_for if channel != taken]
        if pending.notified_for:
            self._cancel_or_abandon(pending)

    # -- for the event loop -----------------------------------------------------------------------------------

    def on_notified(self) -> None:
        """Wake the receives that were notified: the FIFO can be read."""
        if self._fifo is not None:
            self._fifo.drain()
            self._do_upkeep()

    def on_poll(self) -> None:
        """Detect a lost notification, a killed receiver and a removed segment."""
        self._poll_scheduled = False
        without_waiters = self.pending.without_waiters()
        try:
            for pending in without_waiters:
                self.pending.wake(pending)
            self._poll_due = True
            self._do_upkeep()
        finally:
            if (self.pending.receives or self._abandoned or without_waiters) and not self._poll_scheduled:
                self._poll_later(SHORT_POLL_PERIOD if without_waiters else POLL_PERIOD)

    def reset(self, error: BaseException | None = None) -> None:
        """Close the FIFO and wake every receive. Those that wait again get a new FIFO."""
        self._inconsistent = True
        fifo, wakeups = self._fifo, self._wakeups()
        if fifo is not None:
            if fifo.fd >= 0:
                self.loop.unwatch(fifo.fd)
            self._fifo = None
            if wakeups is not None:
                wakeups.dismiss(fifo)
            fifo.close()
        self.pending.wake_all(error)
        self._inconsistent = False

    def clear(self) -> None:
        """Unregister what is left, because the loop was closed. Wakes no receive."""
        self.pending.clear()
        self._abandoned.clear()
        self.reset()

    def lose_owner(self) -> None:
        """Clean up after the layer was garbage-collected: no receive will be served any more. For finalisers."""
        fifo = self._fifo
        if fifo is not None and fifo.fd >= 0 and not self.loop.call_soon_threadsafe(self.reset):
            fifo.close()

    # -- upkeep -----------------------------------------------------------------------------------------------

    def _do_upkeep(self) -> None:
        """Do the upkeep at once, or at its turn."""
        if self._turn is not None:
            return
        try:
            self._upkeep()
        except WouldBlock as blocked:
            self._await_turn(blocked)

    def _await_turn(self, blocked: WouldBlock) -> None:
        """Do the upkeep at its turn, because it was ``blocked``."""
        if self._turn is None:
            self._turn = self._turns.join(self.loop, self._on_turn)
        if not self._turn.is_first():
            return
        try:
            self._turn.pause(blocked)
        except ERRORS as error:
            self._end_turn()
            if not isinstance(error, SegmentBusy):
                self.reset(error)
            elif not self._poll_scheduled:  # it has needed the mutex, not the receives: it tries again later
                self._poll_later(POLL_PERIOD)

    def _on_turn(self) -> None:
        self.loop.call_later(0, self._try_upkeep)

    def _try_upkeep(self) -> None:
        """Do the upkeep at its turn."""
        if self._turn is None:
            return
        try:
            self._upkeep()
        except WouldBlock as blocked:
            self._await_turn(blocked)
        except BaseException:
            self._end_turn()
            raise
        else:
            self._end_turn()

    def _end_turn(self) -> None:
        turn, self._turn = self._turn, None
        if turn is not None:
            turn.leave()

    def _upkeep(self) -> None:
        """Cancel what was abandoned, and wake the receives that were notified. Raises ``WouldBlock``."""
        wakeups = self._wakeups()
        if wakeups is None:
            return
        wakeups.unregister_dropped()
        self._cancel_abandoned()
        fifo = self._fifo
        if self._inconsistent or (self._poll_due and (fifo is None or fifo.is_unlinked())):
            self.reset()
        elif fifo is not None:
            self._wake_those(wakeups, fifo)
        self._poll_due = False

    # -- internal ---------------------------------------------------------------------------------------------

    def _wakeups(self) -> Wakeups | None:
        owner = self._owner()
        return None if owner is None else owner.store.wakeups

    def _open_wakeups(self) -> Wakeups:
        wakeups = self._wakeups()
        if wakeups is None:
            raise RuntimeError("this layer no longer exists; create a new one")
        return wakeups

    def _open_fifo(self, wakeups: Wakeups) -> OwnFifo:
        fifo = wakeups.new_fifo()
        self._fifo, self.pending.registration = fifo, -1
        try:
            self.loop.watch(fifo.fd, self.on_notified)
        except BaseException:
            self.reset()
            raise
        return fifo

    def _poll_later(self, seconds: float) -> None:
        self.loop.call_later(seconds, self.on_poll)
        self._poll_scheduled = True  # after the call: one poll too many does no harm

    def _wake_those(self, wakeups: Wakeups, fifo: OwnFifo) -> None:
        """Wake the receives that were notified; all of them if the FIFO is not registered, or if asking fails."""
        self._inconsistent = True
        notified: list[int] = []
        blocked: WouldBlock | None = None
        try:
            if self._poll_due:
                registered = wakeups.poll(fifo, len(self.pending.by_waiter), notified)
            else:
                registered = wakeups.take_notified(fifo, notified)
        except WouldBlock as error:
            blocked, registered = error, True
        except ERRORS as error:
            if not isinstance(error, SegmentBusy):
                self.reset(error)
                return
            blocked, registered = WouldBlock(None), True  # the segment was removed and cannot be replaced now
        if registered:
            self._wake_notified(notified)
        else:
            self.pending.wake_all()
        self._inconsistent = False
        if blocked is not None:
            raise blocked

    def _wake_notified(self, notified: list[int]) -> None:
        """Wake the receives whose waiters were notified, and unregister their other waiters."""
        left, strays = self.pending.wake_notified(notified)
        if self._fifo is not None:
            for first in range(0, len(left), POLL_SLICE):
                self._cancel_or_abandon(self.pending.leave(self._fifo, left[first : first + POLL_SLICE]))
        if strays:  # an exception came between a critical section and ``_add``: all receives must try again
            self.reset()

    def _cancel_or_abandon(self, pending: PendingReceive) -> None:
        """Unregister the waiters of a receive, and pass on its notifications; if that fails, the upkeep does it."""
        try:
            if self._try_cancel(pending):
                return
        except WouldBlock as blocked:
            self.abandon(pending)
            self._await_turn(blocked)
        else:
            self.abandon(pending)
        if not self._poll_scheduled:
            self._poll_later(POLL_PERIOD)

    def _try_cancel(self, pending: PendingReceive) -> bool:
        """Do the same; False or ``WouldBlock`` if it must be done later."""
        wakeups = self._wakeups()
        if wakeups is None or not (pending.waiters or pending.notified_for):
            self.pending.forget(pending)
            return True
        was_inconsistent, self._inconsistent = self._inconsistent, True
        cancelled = True
        try:
            wakeups.cancel(pending.fifo, pending.registration, list(pending.waiters), pending.notified_for)
        except WouldBlock:
            self._inconsistent = was_inconsistent
            raise
        except SegmentError:
            cancelled = False
        except (RuntimeError, OSError):  # the layer was closed, or the segment was removed and cannot be replaced
            pass
        if cancelled:
            self.pending.forget(pending)
            pending.waiters.clear()
            pending.notified_for.clear()
        self._inconsistent = was_inconsistent
        return cancelled

    def _cancel_abandoned(self) -> None:
        """Cancel the receives that were abandoned. Raises ``WouldBlock``."""
        while self._abandoned:
            if not self._try_cancel(self._abandoned[0]):
                return
            self._abandoned.popleft()


def _lose_owner(hub: weakref.ref[Hub], _: object) -> None:
    """The callback of a hub's reference to its owner. It does not keep the hub alive."""
    found = hub()
    if found is not None:
        found.lose_owner()
