"""
Waiting in event loops for the mutex of a store, while the loop runs other tasks.

The stores of event loops do not wait: where they cannot have the mutex, they raise ``WouldBlock``, and nothing has
happened.  The operation then gets a *turn* in the queue of its loop and store.  Only the first of a queue tries again,
after pauses; the others wait until it has left.  So the operations of a loop happen in the order of their calls.
"""

from __future__ import annotations

__all__ = ["LoopQueue", "LoopTurns", "Turn"]

import os
import weakref
from collections import OrderedDict
from collections.abc import Callable

from .. import clock
from ..exceptions import SegmentBusy, SegmentGone
from ..locking.contention import COUNTED_PAUSE, Contender, WouldBlock
from ..locking.mutex import RobustMutex
from .event_loop import EventLoop, Pace, PerLoop

#: Seconds between two tries while another process is creating or removing the segment.
CREATION_PAUSE = 0.005

_all_turns: weakref.WeakSet[LoopTurns] = weakref.WeakSet()


class LoopTurns:
    """
    The queues for one store in this process: one for each event loop that has operations waiting.

    ``name`` is that of the store. ``patience`` is how many seconds an operation waits while nothing makes progress.
    """

    def __init__(self, name: str, patience: float) -> None:
        self.name = name
        self.patience = patience
        self.queues: PerLoop[LoopQueue] = PerLoop()
        #: Empty if no event loop has operations waiting: then a call may try at once. Operations on the hot path ask
        #: for this, and for no more than this.
        self.waiting = self.queues.references
        _all_turns.add(self)

    def forget(self) -> None:
        """Have no queues any more: this is a forked child, whose parent runs the loops."""
        self.waiting.clear()

    def join(self, loop: EventLoop, wake: Callable[[], None]) -> Turn:
        """
        Join the queue of a loop at its end. Call it in the thread of the loop.

        ``wake`` is called whenever ``is_first`` has become true, or it is time to try again. It does not try itself: it
        schedules that for a later step of the loop.
        """
        queue = self.queues.get(loop)
        if queue is None:
            queue = LoopQueue(self, loop)
            self.queues.put(queue)
        return Turn(queue, wake)


class Turn:
    """The place of an operation in a queue. It must ``leave`` in any case."""

    __slots__ = ("_paused", "_queue", "began", "joined", "wake")

    def __init__(self, queue: LoopQueue, wake: Callable[[], None]) -> None:
        self._queue = queue
        self.wake = wake
        #: The silence that the queue had counted at that time, and the time in ns.
        self.joined, self.began = queue.silence, clock.monotonic_ns()
        self._paused = False
        queue.turns[self] = None

    def is_first(self) -> bool:
        """True if the operation may try now."""
        return next(iter(self._queue.turns), None) is self

    def pause(self, blocked: WouldBlock) -> None:
        """
        Have ``wake`` called when the first operation should try again, which was ``blocked``.

        This does a step of its wait for the mutex, so it can recover the store. Raises ``SegmentBusy`` if nothing has
        made progress for ``patience`` seconds since the turn began.
        """
        queue = self._queue
        if not self._paused:
            queue.loop.call_later(queue.pace.delay(queue.advance(self, blocked.mutex)), self._on_time)
            self._paused = True

    def leave(self, in_loop: bool = True) -> None:
        """
        Leave the queue; may be called again. The next operation is woken.

        Finalisers, which can run in any thread, call this with ``in_loop=False``.
        """
        queue = self._queue
        if self not in queue.turns:
            return
        was_first = self.is_first()
        del queue.turns[self]
        following = next(iter(queue.turns), None)
        if following is None:
            queue.end()
        elif was_first and in_loop:
            following.wake()
        elif was_first:
            queue.loop.call_soon_threadsafe(following.wake)

    def _on_time(self) -> None:
        self._paused = False
        if self.is_first():
            self.wake()


class LoopQueue:
    """The operations of one event loop that wait for one store, in the order of their calls."""

    def __init__(self, turns: LoopTurns, loop: EventLoop) -> None:
        self.loop = loop
        self.turns: OrderedDict[Turn, None] = OrderedDict()
        self.pace = Pace(loop)
        #: Seconds of silence that were counted in all, and how many of them at the last progress.
        self.silence = self._progress = 0.0
        self._turns = turns
        self._contender: Contender | None = None
        self._mutex: RobustMutex | None = None
        self._asked_at: float | None = None

    def advance(self, turn: Turn, mutex: RobustMutex | None) -> float:
        """
        Do a step of the wait of the first operation, for this mutex. Returns the seconds to pause.

        One wait serves all operations, so that the later ones need not wait anew until the death of a holder is
        noticed. But each has the whole ``patience``: its silence begins when it joins, or with the last progress.
        """
        spared = max(0.0, turn.joined - self._progress)
        if mutex is None:
            return self._await_creation(spared)
        self._asked_at = None
        contender = self._contender
        if contender is None or self._mutex is not mutex:
            self._end_contending()
            contender, self._mutex = mutex.contender(), mutex
            self._contender = contender
        if contender.began != turn.began:
            mutex.queueing.discard(contender.began)
            contender.continue_for(turn.began)
            mutex.queueing.add(turn.began)
        contender.limit = mutex.patience + spared
        before = contender.silence
        try:
            return mutex.advance(contender)
        except SegmentGone:  # the next try finds the segment that has replaced it
            self._end_contending()
            return 0.0
        finally:
            if contender.silence:
                self.silence += contender.silence - before
            else:
                self._progress = self.silence

    def _await_creation(self, spared: float) -> float:
        """Do a step of the wait for another process that is creating or removing the segment."""
        self._end_contending()
        now = clock.monotonic()
        if self._asked_at is None:
            self._progress = self.silence
        else:
            self.silence += min(now - self._asked_at, COUNTED_PAUSE)
        self._asked_at = now
        if self.silence - self._progress > self._turns.patience + spared:
            raise SegmentBusy(self._turns.name, None, self._turns.patience)
        return CREATION_PAUSE

    def end(self) -> None:
        """The last operation has left: a later one gets a new queue."""
        self._end_contending()
        self._turns.queues.remove(self)

    def _end_contending(self) -> None:
        mutex, contender = self._mutex, self._contender
        self._mutex = self._contender = None
        if mutex is not None and contender is not None:
            contender.finish()
            mutex.queueing.discard(contender.began)

    def __del__(self) -> None:
        self._end_contending()  # its loop was dropped


def _after_fork_in_child() -> None:
    for turns in list(_all_turns):
        turns.forget()


os.register_at_fork(after_in_child=_after_fork_in_child)
