"""
``MessageStore``: channel -> queue of messages, in a segment of its own behind a mutex of its own.

Everything that happens to a queue happens in one section of the mutex (``queues``, ``upkeep``).  This module turns
refusals into exceptions outside of it, and finds memory when it runs short.
"""

from __future__ import annotations

__all__ = ["STORE_ERRORS", "MessageStore", "is_store_error"]

import logging
import time
from typing import Any, Callable, Dict, Iterable, List, Optional, Sequence, Set, Tuple, Union

from ...exceptions import ChannelFull, MemoryFull, MessageTooLarge, SegmentCorrupt, SegmentError, SegmentGone
from ...locking.mutex import BusyError
from ...locking.reentrancy import OUTSIDE, is_ours
from ...shm.layout import AT_EPOCH, AT_SEQ, KIND_MESSAGES, WORD
from ..attachment import Attachment
from ..base import Store
from .fanout import Fanout
from .ownership import Owner
from .queues import Queues, Refusal
from .records import EXPIRED_SLICE, Again
from .recovery import MessageRecovery
from .upkeep import SWEEP_PERIOD, ChannelFigures, Upkeep
from .waits import Waits

logger = logging.getLogger("asgi_ipc")

#: What a store can meet that is not the caller's doing: damage, a stopped process, a layer that was closed meanwhile.
STORE_ERRORS = (SegmentError, RuntimeError, OSError)
#: Members that one section of a group send serves before it lets others in.
SEND_SLICE = 64
#: A message of this many bytes is always accepted, if it fits into the memory at all (ASGI draft).
ALWAYS_ACCEPTED = 1024 * 1024


def is_store_error(error: BaseException) -> bool:
    """Whether an error of these kinds is the store's own, not a signal handler's (``TimeoutError``, say)."""
    return isinstance(error, SegmentError) or is_ours(error)


class MessageStore(Store):
    """
    The messages of the layers with one prefix: FIFO queues of bytes by channel name.

    ``expiry`` is in seconds; ``limit`` is the largest body in bytes (None: 1 MiB or an eighth of the memory, whichever
    is more), and never more than the whole memory holds. Channel names are not checked here.
    """

    kind = KIND_MESSAGES
    recovery = MessageRecovery

    def __init__(
        self,
        prefix: str,
        size: int = 100 * 1024 * 1024,
        expiry: float = 60,
        mode: int = 0o600,
        patience: float = 10,
        limit: Optional[int] = None,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.expiry = max(1, int(expiry * 1e9))
        self._limit_asked = limit
        self._sweep_due = 0
        super().__init__(f"{prefix}-messages", size, mode, patience, clock)

    def _parts(self, attachment: Attachment) -> Tuple[Any, ...]:
        queues = Queues(attachment.segment, attachment.heap, attachment.liveness)
        return queues, Upkeep(queues), Fanout(queues), Waits(queues), queues.waiters, queues.ownership

    def _attached(self, attachment: Attachment) -> None:
        asked = self._limit_asked or max(ALWAYS_ACCEPTED, attachment.segment.size // 8)
        # What never fits is too large: for a full memory, its sender would be told to try again, for ever.
        self.limit = min(asked, self._bound[1][0].largest_body())
        self._run_here("extent", ())  # takes a slot: one process too many hears of it at once

    # -- sending ----------------------------------------------------------------------------------------------

    def append(self, channel: str, capacity: int, body: bytes) -> None:
        """
        Put ``body`` at the end of the channel's queue; it is there for every process when this returns.

        Raises ``ChannelFull`` when ``capacity`` messages wait already, ``MemoryFull`` when there is no memory for it,
        ``MessageTooLarge`` when there never would be. Nothing has changed then.
        """
        if len(body) > self.limit:
            raise MessageTooLarge(len(body), self.limit, channel)
        now = self.clock()
        if now >= self._check_due:
            self._check_name()
        mutex, parts = self._bound
        queues = parts[0]
        mine = None
        try:  # Mutex.run, line by line: two calls less for the operation that everything waits for
            with mutex.lock:
                if mutex.inside is not None:
                    mutex.resolve_inside()
                mine = mutex.inside = []
                try:
                    mutex.token(0)
                except BusyError:
                    mutex.enter()
                    now = self.clock()  # it may have waited long
                else:
                    words, epoch = mutex.words, mutex.epoch
                    words[mutex.slot_at] = epoch  # store first
                    if words[AT_EPOCH] != epoch:  # then check
                        mutex.enter()
                refusal = queues.append(channel, capacity, body, now, now + self.expiry)
                if mutex.inside is mine:
                    words = mutex.words
                    words[AT_SEQ] += 1
                    words[mutex.slot_at] = 0
                    mutex.post()
                    mutex.inside = None
        except BaseException as error:
            mutex.abandon(mine, error)
            if not isinstance(error, SegmentGone):
                raise
            mine = OUTSIDE
            self._attach_anew()
            refusal = self._run("append", channel, capacity, body, now, now + self.expiry)
        mine = OUTSIDE
        if refusal is not None:
            if type(refusal) is int:
                self.notify((refusal,))
            else:
                self._append_after_all(refusal, channel, capacity, body)
        if now >= self._sweep_due:
            self._sweep(now)

    def _sweep(self, now: int) -> None:
        """
        Do a share of the upkeep.

        Behind an operation that is done: what is wrong here must not deny it, and the next one meets it again.
        """
        self._sweep_due = now + SWEEP_PERIOD
        try:
            self.notify(self._run("sweep", now))
        except STORE_ERRORS as error:
            if not is_store_error(error):
                raise
            logger.warning("%s: could not be swept: %s", self.name, error)

    def _append_after_all(self, refusal: Refusal, channel: str, capacity: int, body: bytes) -> None:
        """Find memory for a message that was refused for want of it, or raise what its refusal means."""
        now = self.clock()
        if refusal.shortage and self._sweep_everything(now):
            found = self._run("append", channel, capacity, body, now, now + self.expiry)
            if not isinstance(found, Refusal):
                self.notify((found,) if found else ())
                return
            refusal = found
        if now >= self._sweep_due:  # a sender that is only ever refused sweeps, too
            self._sweep(now)
        if refusal.shortage:
            raise self._memory_full(channel, refusal.shortage)
        raise ChannelFull(channel, refusal.waiting, refusal.capacity)

    def _memory_full(self, channel: str, shortage: str) -> MemoryFull:
        size, used = self._run("extent")
        return MemoryFull(channel, self.name, size, used, shortage)

    def append_each(self, targets: Sequence[Tuple[str, int]], body: bytes) -> List[str]:
        """
        Put ``body`` into the queue of each ``(channel, capacity)``, and return the channels that had no room for it.

        In slices: others get in between. Each slice stores the body once. Raises ``MessageTooLarge``, nothing else.
        Those who wait are rung behind the last one, so that they do not run for the mutex against the sender.
        """
        if len(body) > self.limit:
            raise MessageTooLarge(len(body), self.limit)
        missed: List[str] = []
        to_notify: Set[int] = set()
        swept = False
        try:
            for first in range(0, len(targets), SEND_SLICE):
                if first:
                    self._give_way()
                waiting = targets[first : first + SEND_SLICE]
                while True:
                    now = self.clock()
                    full, reached, shortage, tokens = self._run("append_each", waiting, body, now, now + self.expiry)
                    to_notify.update(tokens)
                    missed += full
                    waiting = waiting[reached:]
                    if not shortage or swept or not self._sweep_everything(now):
                        break
                    swept = True
                missed += [channel for channel, _ in waiting]
        finally:  # those of the slices that are done, too, if an error ends it
            self.notify(to_notify)
        return missed

    def _sweep_everything(self, now: int) -> bool:
        """Sweep every bucket, in slices that let others in; False if that was not worth its time."""
        if not self._run("begin_full_sweep", now):
            return False
        following = self._run("sweep_slice", 0, now)
        while following:
            self._give_way()
            following = self._run("sweep_slice", following, now)
        return True

    def notify(self, tokens: Iterable[int]) -> None:
        """
        Ring FIFOs by their tokens (0: none), outside of every section. A FIFO that nobody hears is taken down.

        Never fails: the message that calls somebody is sent. What cannot be taken down now is, by a sweep.
        """
        pending = [token for token in tokens if token]
        while pending:
            attachment, token = self._attachment, pending.pop()
            if attachment is not None and not attachment.notifier.notify(token):
                try:
                    pending += self._unregister_abandoned(token)
                except STORE_ERRORS as error:
                    if not is_store_error(error):
                        raise
                    logger.warning("%s: a FIFO that nobody hears could not be taken down: %s", self.name, error)

    def unregister_abandoned(self, token: int) -> None:
        """Take down a FIFO that nobody hears any more, and pass on what its waiters were called for."""
        self.notify(self._unregister_abandoned(token))

    def _unregister_abandoned(self, token: int) -> List[int]:
        found: List[int] = []
        done = False
        while not done:
            tokens, done = self._run("abandoned_slice", token)
            found += filter(None, tokens)
        return found

    # -- receiving --------------------------------------------------------------------------------------------

    def pop(self, channels: Sequence[str]) -> Optional[Tuple[str, bytes]]:
        """
        Take the oldest message of the first of these channels that has one: its full name and its body, or None.

        ``prefix!`` takes from all channels of that process in turn.
        """
        now = self.clock()
        if now >= self._check_due:
            self._check_name()
        mutex, parts = self._bound
        queues = parts[0]
        mine = None
        try:  # Mutex.run, line by line
            with mutex.lock:
                if mutex.inside is not None:
                    mutex.resolve_inside()
                mine = mutex.inside = []
                try:
                    mutex.token(0)
                except BusyError:
                    mutex.enter()
                    now = self.clock()  # it may have waited long
                else:
                    words, epoch = mutex.words, mutex.epoch
                    words[mutex.slot_at] = epoch  # store first
                    if words[AT_EPOCH] != epoch:  # then check
                        mutex.enter()
                taken = queues.pop(channels, now)
                if mutex.inside is mine:
                    words = mutex.words
                    words[AT_SEQ] += 1
                    words[mutex.slot_at] = 0
                    mutex.post()
                    mutex.inside = None
        except BaseException as error:
            mutex.abandon(mine, error)
            if not isinstance(error, SegmentGone):
                raise
            mine = OUTSIDE
            self._attach_anew()
            taken = self._run("pop", channels, now)
        mine = OUTSIDE
        if isinstance(taken, Again):
            taken = self._pop_behind_expired(channels)
        if now >= self._sweep_due:
            self._sweep(now)
        return taken  # type: ignore[no-any-return]

    def _pop_behind_expired(self, channels: Sequence[str]) -> Optional[Tuple[str, bytes]]:
        """Go on, section by section, until the expired messages in front are gone."""
        size, _ = self._run("extent")
        for _ in range(size // (EXPIRED_SLICE * WORD) + 1):
            taken: Union[None, Again, Tuple[str, bytes]] = self._run("pop", channels, self.clock())
            if not isinstance(taken, Again):
                return taken
        raise SegmentCorrupt(self.name, "a queue of expired messages runs in a circle; flush() makes it new")

    # -- owners of inboxes ------------------------------------------------------------------------------------

    def own_inbox(self, prefix: str) -> None:
        """This process makes names in the inbox ``prefix``, each of which it will receive from alone."""
        while not self._run("own_inbox", prefix):
            pass

    def owner_of(self, channel: str) -> Owner:
        """The process that receives from a process-local channel, (0, ...) if none or several are known to."""
        return self._run("owner_of", channel)  # type: ignore[no-any-return]

    def dead(self, owners: Set[Owner]) -> Set[Owner]:
        """Those owners that are proven dead."""
        return self._run("dead", owners)  # type: ignore[no-any-return]

    def orphans(self, suspects: Set[Tuple[str, Owner]]) -> Set[Tuple[str, Owner]]:
        """Of inboxes with their dead owners, those that nobody else receives from."""
        return self._run("orphans", suspects)  # type: ignore[no-any-return]

    # -- looking ----------------------------------------------------------------------------------------------

    def has(self, channel: str) -> bool:
        """Whether messages may wait in a channel (they may have expired)."""
        return bool(self._run("has", channel))

    def figures(self, channel: Optional[str] = None) -> ChannelFigures:
        """Figures of one channel, or of all of them together."""
        now = self.clock()
        if channel is not None:
            return self._run("figures", channel, now)  # type: ignore[no-any-return]
        following, total = self._run("figures_slice", 0, now)
        while following:
            self._give_way()
            following, more = self._run("figures_slice", following, now)
            total += more
        return total  # type: ignore[no-any-return]

    def snapshot(self) -> Dict[str, List[bytes]]:
        """
        The store as a plain dict: the bodies that wait, in order, by channel. For debugging and tests.

        One section, so that it is true of one moment: everybody else waits while it is taken.
        """
        return self._run("snapshot")  # type: ignore[no-any-return]
