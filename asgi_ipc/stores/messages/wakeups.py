"""
``WaitingStore``: the message store of those who also wait for messages.

Nothing here sleeps: a section takes a message or hangs waiters up, and the caller sleeps at the doorbell in whatever
way is his (``waiting``).  Bells of others are rung outside of the sections.
"""

from __future__ import annotations

__all__ = ["Hung", "WaitingStore"]

import contextlib
import os
import threading
import time
import weakref
from typing import Any, Dict, Iterable, List, Optional, Sequence, Union

from ...exceptions import SegmentError
from ...shm.wakeup_fifo import Doorbell, every, ring_everybody
from ..attachment import Arena
from .channels import READY
from .records import Again
from .store import TROUBLE, MessageStore, is_trouble
from .waiters import LOOK_SLICE, NEWS_SLICE
from .waits import Hung, Taken

#: ns for which a receiver lingers before it sleeps: no longer than it takes to be woken. On a single core nobody could
#: send meanwhile.
LINGER = 50_000 if (os.cpu_count() or 1) > 1 else 0
#: Doorbells that are kept for the next call, when many threads have waited at once.
IDLE_BELLS = 64

_stores: weakref.WeakSet[WaitingStore] = weakref.WeakSet()


class WaitingStore(MessageStore):
    """A message store with doorbells of its own."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self._forget()
        _stores.add(self)
        super().__init__(*args, **options)

    def _forget(self) -> None:
        """Have no doorbells: as at birth, and in a forked child, whose parent sleeps at them."""
        #: Where event loops wait: whatever ``waiting`` keeps for each of them.
        self.rooms: Dict[Any, Any] = {}
        self.rooms_lock = threading.RLock()
        #: Many wait: taking a message and hanging up a waiter are then better done in one section.
        self.crowded = False
        self._idle: List[Doorbell] = []
        #: How many calls are to go by without lingering, and how many have.
        self._skip = self._skipped = 0
        self._bells: weakref.WeakValueDictionary[int, Doorbell] = weakref.WeakValueDictionary()

    # -- doorbells --------------------------------------------------------------------------------------------

    def new_bell(self) -> Doorbell:
        """A doorbell; give it back with ``give_bell`` or ``dismiss``. Raises ``SegmentRefused`` and ``OSError``."""
        segment = self._opened().segment
        bell = Doorbell(self.name, segment.mode, segment.semaphores.group)
        self._bells[bell.token] = bell
        return bell

    def take_bell(self) -> Doorbell:
        """A doorbell that was given back, or a new one."""
        while self._idle:
            try:
                bell = self._idle.pop()
            except IndexError:  # another thread was faster
                break
            if not bell.is_spoiled():
                return bell
            self.dismiss(bell)
        return self.new_bell()

    def give_bell(self, bell: Doorbell, hangs: bool) -> None:
        """
        Give back a doorbell; ``hangs`` if there may be waiters on it.

        If these cannot be taken down just now, it is closed, and they are later: so no error takes the place of what
        has ended the waiting.
        """
        if hangs:
            try:
                self.take_all_down(bell)
            except TROUBLE as error:
                bell.close()
                if not is_trouble(error):
                    raise
        if bell.fd < 0 or len(self._idle) >= IDLE_BELLS:
            bell.close()
        else:
            self._idle.append(bell)
        if self._arena is None:
            self._close_idle()

    def dismiss(self, bell: Doorbell) -> None:
        """Close a doorbell for good, and take down whatever hangs on it. Never raises ``SegmentError``."""
        bell.close()
        if self._arena is not None:
            with contextlib.suppress(SegmentError, RuntimeError):  # else whoever rings it does that
                self.take_down_deserted(bell.token)

    def close(self) -> None:
        """Also wake those who still wait: they learn that the layer was closed."""
        super().close()
        self._close_idle()
        for bell in every(self._bells):
            bell.ring()
            bell.remove_name()  # its sleeper may not get round to that any more

    def _close_idle(self) -> None:
        while self._idle:
            with contextlib.suppress(IndexError):  # another thread was faster
                self._idle.pop().close()

    def flush(self) -> None:
        """Empty the store, for every process, and wake all who wait: they hang themselves up anew."""
        super().flush()
        self._ring_everybody()

    def unlink(self) -> None:
        """Remove the segment for every process, and wake all who wait: they attach anew."""
        super().unlink()
        self._ring_everybody()

    def _ring_everybody(self) -> None:
        arena = self._arena
        if arena is not None:
            ring_everybody(arena.ringer)

    def _attached(self, arena: Arena) -> None:
        super()._attached(arena)
        for bell in every(self._bells):
            bell.ring()  # those who wait hang themselves up in the new segment

    # -- waiting ----------------------------------------------------------------------------------------------

    def linger(self, channels: Sequence[str]) -> None:
        """
        Look at the queues of some channels for a moment, as a message may be on its way: that costs less than a ring.

        Without the guard, so that nobody is kept out: what is seen there is a hint, and may be wrong either way. Where
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
        until = time.monotonic_ns() + LINGER
        try:
            while heads and time.monotonic_ns() < until:
                for at in heads:
                    if words[at]:
                        self._skip = 0
                        return
        except (ValueError, IndexError):  # another thread has closed the segment
            return
        self._skip, self._skipped = min(2 * self._skip + 1, 255), 0

    def pop_or_hang(self, channels: Sequence[str], bell: Doorbell) -> Union[Taken, Hung]:
        """Take a message from one of the channels, or hang waiters for all of them on a doorbell."""
        while True:
            outcome = self._run("pop_or_hang", channels, bell, self.clock())
            if not isinstance(outcome, Again):
                return outcome  # type: ignore[no-any-return]

    def pop_again(self, channels: Sequence[str], bell: Doorbell) -> Union[Taken, Hung]:
        """
        Take a message from one of the channels, or see to it that waiters for all of them, and no others, hang there.

        For the only one who sleeps at the doorbell. What he was called for and leaves is passed on.
        """
        while True:
            calls, outcome = self._run("pop_again", channels, bell, self.clock())
            self.ring(calls)
            if not isinstance(outcome, Again):
                return outcome  # type: ignore[no-any-return]

    def take_all_down(self, bell: Doorbell) -> None:
        """Take all waiters of a doorbell down, and pass on what they were called for."""
        self.ring(self._run("take_all_down", bell))

    def give_up(self, bell: Doorbell, life: int, waiters: List[int], called_for: Iterable[str] = ()) -> None:
        """Take waiters down that were hung in this life of the bell, and pass on what others were called for."""
        self.ring(self._run("give_up", bell, life, waiters, list(called_for)))

    def news(self, bell: Doorbell) -> Optional[List[int]]:
        """
        The waiters of a doorbell that were called, in that order, which are gone now. None: all its waiters are gone.

        In slices: whoever has thousands of them keeps nobody out.
        """
        called: List[int] = []
        while True:
            more = self._run("news", bell)
            if more is None:
                return None
            called += more
            if len(more) < NEWS_SLICE:
                called.reverse()
                return called

    def look(self, bell: Doorbell, waiters: int) -> Optional[List[int]]:
        """
        The same, once a second, and for channels that others wait for too, whether messages are there all the same.

        ``waiters`` hang on the doorbell. Heals whatever was lost between a message and its receiver.
        """
        called = self.news(bell)
        if called is None or not self._run("shares", bell):
            return called
        for first in range(0, waiters, LOOK_SLICE):
            self._run("look", bell, first == 0, min(LOOK_SLICE, waiters - first))
        more = self.news(bell)
        return None if more is None else called + more


def _after_fork_in_child() -> None:
    for store in list(_stores):
        store._forget()


os.register_at_fork(after_in_child=_after_fork_in_child)
