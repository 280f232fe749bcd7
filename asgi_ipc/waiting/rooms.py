"""
Waiting in an event loop: any number of calls wait at one doorbell, and cost one look a second together.

A ring only wakes those who were called; each takes its own message when it runs, so that one which is cancelled in
between has taken nothing, and passes the call on.  What an event loop must provide is four small methods; ``loops``
has them for asyncio, ``twisted`` for Twisted.  A room belongs to the thread of its loop.
"""

from __future__ import annotations

__all__ = ["Room", "Ticket", "Wake"]

import contextlib
import weakref
from typing import Callable, Dict, List, Optional, Sequence, Set, Union

from ..exceptions import SegmentError
from ..memory.doorbell import Doorbell
from ..stores.waiting import Hung, WaitingStore
from ..stores.waits import Taken
from .threads import LOOK, SHORT

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


class Room:
    """Where the calls in one event loop wait for messages of one store."""

    def __init__(self, store: WaitingStore) -> None:
        self._store = weakref.ref(store, self._lost_store)
        self._bell: Optional[Doorbell] = None
        self._life = -1
        self._by_waiter: Dict[int, Ticket] = {}
        #: Those for whom there was no memory: they look more often.
        self._unhung: Set[Ticket] = set()
        #: Calls that a finaliser has ended, which must not enter the guard.
        self._abandoned: List[Ticket] = []
        self._looking = False

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

    def call_soon(self, shut: Callable[[], None]) -> None:
        """Call ``shut`` in the thread of the loop, from any thread, unless the loop is over."""
        raise NotImplementedError

    # -- for those who wait -----------------------------------------------------------------------------------

    def enter(self, channels: Sequence[str], wake: Wake) -> Union[Taken, Ticket]:
        """
        Take a message from one of the channels, or wait: ``wake`` is called when it is time to try again.

        Whoever was woken has left already; whoever gives up before calls ``leave``.
        """
        store = self._open_store()
        if self._abandoned:
            self._settle(store)
        bell = self._bell or self._move_in(store)
        outcome = store.pop_or_hang(channels, bell)
        if not isinstance(outcome, Hung):
            return outcome
        if outcome.life != self._life:
            self._wake_all()  # what they had hung up is gone
            self._life = outcome.life
        ticket = Ticket(bell, outcome.life, dict(zip(outcome.waiters, dict.fromkeys(channels))), wake)
        for waiter in outcome.waiters:
            self._by_waiter[waiter] = ticket
        if not outcome.waiters:
            self._unhung.add(ticket)
        if not self._looking:
            self._looking = True
            self.call_later(SHORT if self._unhung else LOOK)
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """
        Give up waiting, and pass on what one was called for.

        Whatever is wrong with the segment, or that the layer was closed, must not take the place of the cancellation
        that has led here: then the looks of the others heal what could not be passed on.
        """
        self._forget(ticket)
        store = self._store()
        if store is not None and (ticket.waiters or ticket.called_for):
            with contextlib.suppress(SegmentError, RuntimeError, OSError):
                store.give_up(ticket.bell, ticket.life, list(ticket.waiters), ticket.called_for)

    def abandon(self, ticket: Ticket) -> None:
        """The same from a finaliser: it takes effect when the room is next used."""
        self._abandoned.append(ticket)

    def pass_on(self, ticket: Ticket, taken: str) -> None:
        """Somebody who was called has taken a message from the channel ``taken``: others may be called in turn."""
        store, rest = self._store(), [channel for channel in ticket.called_for if channel != taken]
        if rest and store is not None:
            store.give_up(ticket.bell, ticket.life, [], rest)

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
        bell, store = self._bell, self._store()
        if bell is None or store is None:
            return
        self._settle(store)
        for ticket in list(self._unhung):
            self._wake(ticket)
        if bell.is_spoiled():
            self.shut()
            return
        self._tell(lambda: store.look(bell, len(self._by_waiter)))
        if self._by_waiter and not self._looking:
            self._looking = True
            self.call_later(LOOK)

    def shut(self, error: Optional[BaseException] = None) -> None:
        """Close the doorbell and wake everybody; whoever waits on takes a new one."""
        bell, self._bell = self._bell, None
        if bell is not None:
            if bell.fd >= 0:
                self.unwatch(bell.fd)
            store = self._store()
            if store is not None:
                store.dismiss(bell)
            bell.close()
        self._wake_all(error)

    # -- within -----------------------------------------------------------------------------------------------

    def _open_store(self) -> WaitingStore:
        store = self._store()
        if store is None:
            raise RuntimeError("this layer is gone; make a new one to go on")
        return store

    def _move_in(self, store: WaitingStore) -> Doorbell:
        bell = store.new_bell()
        self.watch(bell.fd)
        self._bell, self._life = bell, -1
        return bell

    def _tell(self, ask: Callable[[], Optional[List[int]]]) -> None:
        """Wake those whose waiters were called; everybody, if all waiters are gone or nobody can tell."""
        try:
            called = ask()
        except (SegmentError, RuntimeError, OSError) as error:
            self.shut(error)
            return
        if called is None:
            self._wake_all()
            return
        left: Dict[int, List[int]] = {}
        for waiter in called:
            ticket = self._by_waiter.pop(waiter, None)
            if ticket is not None:
                ticket.called_for.append(ticket.waiters.pop(waiter))
                self._wake(ticket)
                left.setdefault(ticket.life, []).extend(ticket.waiters)
                ticket.waiters.clear()
        store, bell = self._store(), self._bell
        for life, waiters in left.items():
            if waiters and store is not None and bell is not None:
                with contextlib.suppress(SegmentError):
                    store.give_up(bell, life, waiters)

    def _wake(self, ticket: Ticket, error: Optional[BaseException] = None) -> None:
        self._forget(ticket)
        ticket.wake(error)

    def _wake_all(self, error: Optional[BaseException] = None) -> None:
        """Wake everybody: what they had hung up is gone."""
        for ticket in [*dict.fromkeys(self._by_waiter.values()), *self._unhung]:
            self._wake(ticket, error)
            ticket.waiters.clear()

    def _forget(self, ticket: Ticket) -> None:
        self._unhung.discard(ticket)
        for waiter in ticket.waiters:
            if self._by_waiter.get(waiter) is ticket:
                del self._by_waiter[waiter]

    def _settle(self, store: WaitingStore) -> None:
        while self._abandoned:
            self.leave(self._abandoned.pop())

    def _lost_store(self, _: object) -> None:
        """Nobody has the layer any more, and so nobody waits."""
        bell = self._bell
        if bell is not None and bell.fd >= 0:
            self.call_soon(self.shut)
