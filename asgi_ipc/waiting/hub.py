"""
Waiting in an event loop: any number of calls wait at one doorbell, and cost one look a second together.

A ring only wakes those who were called; each takes its own message when it runs, so that one which is cancelled in
between has taken nothing, and passes the call on.  What an event loop must provide is four small methods; ``loops``
has them for asyncio, ``twisted`` for Twisted.  A room belongs to the thread of its loop.
"""

from __future__ import annotations

__all__ = ["Room", "Ticket", "Wake"]

import weakref
from collections import deque
from typing import Callable, Deque, Dict, List, Optional, Sequence, Union

from ..exceptions import SegmentError
from ..shm.wakeup_fifo import Doorbell
from ..stores.messages.waiters import LOOK_SLICE
from ..stores.messages.waits import Taken
from ..stores.messages.wakeups import Hung, WaitingStore
from .thread import LOOK, SHORT

#: Called once, when there may be a message, or with the error that has ended the waiting.
Wake = Callable[[Optional[BaseException]], None]


class Ticket:
    """One call that waits: its waiters with their channels, and the channels that it was called for."""

    __slots__ = ("bell", "called_for", "life", "waiters", "wake")

    def __init__(self, bell: Doorbell, life: int, waiters: Dict[int, str], wake: Wake) -> None:
        self.bell = bell
        self.life = life
        self.waiters = waiters
        self.called_for: List[str] = []
        self.wake = wake

#: With more calls than this waiting in a loop, the next one will most likely wait, too.
CROWD = 8


class Room:
    """Where the calls in one event loop wait for messages of one store."""

    def __init__(self, store: WaitingStore) -> None:
        self._store = weakref.ref(store, self._lost_store)
        self._bell: Optional[Doorbell] = None
        self._life = -1
        #: Everybody who waits, whether waiters hang for him or there was no memory for them.
        self._tickets: Dict[Ticket, None] = {}
        self._by_waiter: Dict[int, Ticket] = {}
        #: Those who have left, but may have waiters: a finaliser must not enter the guard, and others could not.
        self._abandoned: Deque[Ticket] = deque()
        self._looking = False
        #: Set while the segment and this room may not agree on who waits. An exception that comes just then (from a
        #: signal handler) leaves it set, and whoever uses the room next begins anew with an empty one.
        self._torn = False

    # -- what an event loop provides --------------------------------------------------------------------------

    def watch(self, fd: int) -> None:
        """Call ``on_ring`` whenever ``fd`` can be read."""
        raise NotImplementedError

    def unwatch(self, fd: int) -> None:
        """Do that no longer."""
        raise NotImplementedError

    def call_later(self, seconds: float) -> None:
        """Call ``on_look`` once."""
        raise NotImplementedError

    def call_soon(self, shut: Callable[[], None]) -> bool:
        """Call ``shut`` in the thread of the loop, from any thread; False if the loop is over."""
        raise NotImplementedError

    # -- for those who wait -----------------------------------------------------------------------------------

    def enter(self, channels: Sequence[str], wake: Wake) -> Union[Taken, Ticket]:
        """
        Take a message from one of the channels, or wait: ``wake`` is called when it is time to try again.

        Whoever was woken has left already; whoever gives up before calls ``leave``.
        """
        store = self._open_store()
        if self._torn:
            self.shut()
        self._settle()
        bell = self._bell or self._move_in(store)
        self._torn = True
        try:
            outcome = store.pop_or_hang(channels, bell)
        except SegmentError:  # then nothing was hung up, or all waiters are gone
            self._torn = False
            raise
        if isinstance(outcome, Hung):
            return self._admit(bell, outcome, channels, wake)
        self._torn = False
        return outcome

    def _admit(self, bell: Doorbell, hung: Hung, channels: Sequence[str], wake: Wake) -> Ticket:
        """Note somebody whose waiters were hung up."""
        if hung.life != self._life:
            self._wake_all()  # what they had hung up is gone
            self._life = hung.life
        ticket = Ticket(bell, hung.life, dict(zip(hung.waiters, dict.fromkeys(channels))), wake)
        self._tickets[ticket] = None
        store = self._store()
        if store is not None:
            store.crowded = len(self._tickets) > CROWD
        for waiter in hung.waiters:
            self._by_waiter[waiter] = ticket
        if not self._looking:
            self._look_later(LOOK if hung.waiters else SHORT)
        self._torn = False
        return ticket

    def is_empty(self) -> bool:
        """Whether nobody waits here."""
        return not self._tickets

    def leave(self, ticket: Ticket) -> None:
        """
        Give up waiting, and pass on what one was called for.

        Whatever is wrong with the segment, or that the layer was closed, must not take the place of the cancellation
        that has led here: what could not be taken down is, at the next look.
        """
        if self._torn:
            self.shut()
        if not self._give_up(ticket):
            self.abandon(ticket)
            if not self._looking:
                self._look_later(LOOK)

    def abandon(self, ticket: Ticket) -> None:
        """The same from a finaliser: it takes effect when the room is next used."""
        self._abandoned.append(ticket)

    def pass_on(self, ticket: Ticket, taken: str) -> None:
        """Somebody who was called has taken a message from the channel ``taken``: others may be called in turn."""
        rest = [channel for channel in ticket.called_for if channel != taken]
        if rest:
            ticket.called_for = rest
            self._give_up(ticket)

    # -- for the event loop -----------------------------------------------------------------------------------

    def on_ring(self) -> None:
        """The doorbell has rung: wake whoever was called."""
        bell, store = self._bell, self._store()
        if bell is None or store is None:
            return
        bell.drain()
        self._tell(lambda: store.news(bell))

    def on_look(self) -> None:
        """The look that heals what was lost: a ring, a receiver who was killed, the segment itself."""
        self._looking = False
        store = self._store()
        if store is None:
            return
        unhung: List[Ticket] = []
        try:
            self._settle()
            unhung = [ticket for ticket in self._tickets if not ticket.waiters]
            for ticket in unhung:
                self._wake(ticket)
            bell = self._bell
            if bell is None or bell.is_spoiled():
                self.shut()
            else:
                self._tell(lambda: store.look(bell, len(self._by_waiter)))
        finally:
            if (self._tickets or self._abandoned or unhung) and not self._looking:
                self._look_later(SHORT if unhung else LOOK)

    def shut(self, error: Optional[BaseException] = None) -> None:
        """Close the doorbell and wake everybody; whoever waits on takes a new one."""
        self._torn = True
        bell, store = self._bell, self._store()
        if bell is not None:
            if bell.fd >= 0:
                self.unwatch(bell.fd)
            self._bell = None
            if store is not None:
                store.dismiss(bell)
            bell.close()
        self._wake_all(error)
        self._torn = False

    # -- within -----------------------------------------------------------------------------------------------

    def _open_store(self) -> WaitingStore:
        store = self._store()
        if store is None:
            raise RuntimeError("this layer is gone; make a new one to go on")
        return store

    def _move_in(self, store: WaitingStore) -> Doorbell:
        bell = store.new_bell()
        self._bell, self._life = bell, -1
        try:
            self.watch(bell.fd)
        except BaseException:
            self.shut()
            raise
        return bell

    def _look_later(self, seconds: float) -> None:
        self.call_later(seconds)
        self._looking = True  # behind it: a look too many does no harm

    def _tell(self, ask: Callable[[], Optional[List[int]]]) -> None:
        """Wake those whose waiters were called; everybody, if all waiters are gone or nobody can tell."""
        if self._torn:
            self.shut()
            return
        self._torn = True
        try:
            called = ask()
        except (SegmentError, RuntimeError, OSError) as error:
            self.shut(error)
            return
        if called is None:
            self._wake_all()
        else:
            self._hand_over(called)
        self._torn = False

    def _hand_over(self, called: List[int]) -> None:
        """Wake those whose waiters were called, and take down what else hangs for them."""
        tickets: Dict[Ticket, None] = {}
        strays = False
        for waiter in called:  # all of them first: who was called for two channels has no waiter for either any more
            ticket = self._by_waiter.pop(waiter, None)
            if ticket is None:
                strays = True
            else:
                ticket.called_for.append(ticket.waiters.pop(waiter))
                tickets[ticket] = None
        for ticket in tickets:
            self._wake(ticket)
        left = [waiter for ticket in tickets for waiter in ticket.waiters]
        for ticket in tickets:
            ticket.waiters.clear()
        if self._bell is not None:
            for first in range(0, len(left), LOOK_SLICE):
                self._take_down(self._bell, left[first : first + LOOK_SLICE])
        if strays:  # an exception came between a section and its note here: the others look for themselves
            self.shut()

    def _take_down(self, bell: Doorbell, waiters: List[int]) -> None:
        """Take down what hangs for those who were woken."""
        rest = Ticket(bell, self._life, dict.fromkeys(waiters, ""), _nobody)
        if not self._give_up(rest):
            self._by_waiter.update(dict.fromkeys(waiters, rest))
            self.abandon(rest)

    def _give_up(self, ticket: Ticket) -> bool:
        """Take down what hangs for somebody, and pass on what he was called for; False if that has to wait."""
        store = self._store()
        if store is None or not (ticket.waiters or ticket.called_for):
            self._forget(ticket)
            return True
        was_torn, self._torn = self._torn, True
        given_up = True
        try:
            store.give_up(ticket.bell, ticket.life, list(ticket.waiters), ticket.called_for)
        except SegmentError:
            given_up = False
        except (RuntimeError, OSError):  # the layer was closed, or the segment is gone and another cannot be had
            pass
        if given_up:
            self._forget(ticket)
            ticket.waiters.clear()
            ticket.called_for.clear()
        self._torn = was_torn
        return given_up

    def _wake(self, ticket: Ticket, error: Optional[BaseException] = None) -> None:
        ticket.wake(error)
        self._forget(ticket)

    def _wake_all(self, error: Optional[BaseException] = None) -> None:
        """Wake everybody: what they had hung up is gone."""
        for ticket in list(self._tickets):
            self._wake(ticket, error)
            ticket.waiters.clear()
        self._by_waiter.clear()

    def _forget(self, ticket: Ticket) -> None:
        self._tickets.pop(ticket, None)
        for waiter in ticket.waiters:
            if self._by_waiter.get(waiter) is ticket:
                del self._by_waiter[waiter]

    def _settle(self) -> None:
        """Take down what hangs for those who have left without doing it."""
        while self._abandoned:
            ticket = self._abandoned.popleft()
            if not self._give_up(ticket):
                self._abandoned.appendleft(ticket)
                return

    def _lost_store(self, _: object) -> None:
        """Nobody has the layer any more, and so nobody waits."""
        bell = self._bell
        if bell is not None and bell.fd >= 0 and not self.call_soon(self.shut):
            bell.close()


def _nobody(_: Optional[BaseException]) -> None:
    """Wakes nobody."""
