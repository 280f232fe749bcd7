"""
A small world, in which an operation can run again and again from the same state.

It has a store, a clock that stands still, an image of the shared memory, and garbage in all unused memory.
"""

from __future__ import annotations

__all__ = ["World", "die_inside", "garble", "postpone_sweeps", "unexpired"]

import contextlib
import os
import random
from typing import Any, Callable, Dict, Iterator, List, Optional, Set, Tuple

from posix_ipc import BusyError

from asgi_ipc.check import check_stores
from asgi_ipc.check.heap import HeapCheck
from asgi_ipc.check.stores import GroupCheck, MessageCheck
from asgi_ipc.check.walk import Reached
from asgi_ipc.exceptions import ChannelFull
from asgi_ipc.names import non_local_name
from asgi_ipc.shm.layout import (
    AT_EPOCH,
    AT_GENERATION,
    AT_PAGES,
    AT_RESERVED,
    AT_SEQ,
    AT_SLOTS,
    AT_SWEEP_DUE,
    AT_WAIT_GENERATION,
    NEVER,
    SLOT_WORDS,
    SLOTS,
)
from asgi_ipc.shm.permissions import SHM_DIRECTORY
from asgi_ipc.shm.segment import ADMIN_LOCK_BYTE
from asgi_ipc.shm.wakeup_fifo import WakeupFifo
from asgi_ipc.stores.groups.members import MEMBER_NAME
from asgi_ipc.stores.groups.store import GroupStore
from asgi_ipc.stores.messages import channels as c
from asgi_ipc.stores.messages.receiving import Registered
from asgi_ipc.stores.messages.store import MessageStore

from .steps import STEPS

SIZE = 128 * 1024
#: The expiry of messages and memberships, in seconds.
EXPIRY = 60
#: The names of bodies and members that have expired when the operation begins start with this.
OLD = "old"
#: A capacity that is never reached.
PLENTY = 10**6

#: Words: only smaller objects are copied into free memory.
SMALL = 32

Snapshot = Dict[str, Any]


class Clock:
    """A clock that stands still until a test changes ``now`` (ns)."""

    def __init__(self) -> None:
        self.now = 10**15

    def __call__(self) -> int:
        return self.now

    def pass_seconds(self, seconds: float) -> None:
        self.now += int(seconds * 1e9)


class World:
    """
    A store of a kind ("messages" or "groups"), with a saved state that can be restored.

    ``store`` is the store. ``messages`` or ``groups`` is the same object.
    """

    def __init__(self, prefix: str, kind: str, clock: Clock) -> None:
        self.prefix, self.kind, self.clock = prefix, kind, clock
        if kind == "messages":
            self.messages = MessageStore(prefix, SIZE, EXPIRY, patience=5, clock=clock)
        else:
            self.groups = GroupStore(prefix, None, SIZE, EXPIRY, patience=5, clock=clock)
        self.store: Any = self.messages if kind == "messages" else self.groups
        self.image = b""
        self.dead = False
        #: Channels whose places this process remembers.
        self.known: List[str] = []
        #: The parent's FIFOs, their registered waiters, and the places of their records in the saved state.
        self.fifos: List[WakeupFifo] = []
        self.registered: List[Registered] = []
        self._places: List[Tuple[Any, int, int, int]] = []

    @property
    def words(self) -> memoryview:
        """The words of the segment; stores to them are not counted."""
        return self.store.sections.attachment.segment.words.raw  # type: ignore[no-any-return]

    @property
    def data(self) -> Any:
        """The bytes of the segment; stores to them are not counted."""
        return self.store.sections.attachment.segment.data.raw

    # -- saving and restoring --------------------------------------------------------------------------------

    def remember(self, dead: bool = False) -> None:
        """Save the state for ``restore``; with ``dead``, without a token, as its holder is dead."""
        self.image = bytes(self.data[:])
        self.dead = dead
        self._places = [(fifo.home, fifo.record, fifo.wait_generation, fifo.registration) for fifo in self.fifos]
        if self.kind == "messages" and not dead:
            check = MessageCheck(self.store.sections.attachment)
            check.run()
            self.known = sorted(check.channels)

    def restore(self) -> None:
        """Restore the saved state, except the words that never go back: EPOCH, SEQ, GENERATION."""
        words = self.words
        kept = {at: words[at] for at in (AT_EPOCH, AT_SEQ, AT_GENERATION)}
        assert not kept[AT_EPOCH] & 1, "the store is being recovered"
        self.data[:] = self.image
        for at, word in kept.items():
            words[at] = word
        words[AT_GENERATION] += 1  # so that no process uses what it remembers of earlier runs
        for slot in range(AT_SLOTS, AT_SLOTS + SLOTS * SLOT_WORDS, SLOT_WORDS):
            if words[slot]:
                words[slot] = kept[AT_EPOCH]
        if self.dead:
            token = self.store.sections.attachment.segment.semaphores.open(kept[AT_EPOCH])
            with contextlib.suppress(BusyError):  # a holder that has just died has it already
                token.acquire(0)
            token.close()
        for channel in self.known:
            self.store.sections.parts.queues.locate(channel, False)
        self.store.sections.attachment.liveness._alive_until.clear()
        self.adopt_fifos()
        for fifo in self.fifos:
            fifo.drain()

    def adopt_fifos(self) -> None:
        """Restore the places of the FIFOs' records; also in a child, which acts in place of its parent."""
        for fifo, place in zip(self.fifos, self._places):
            fifo.home, fifo.record, fifo.wait_generation, fifo.registration = place

    def must_have_notified(self) -> None:
        """Check that a recovery has notified every FIFO, as the waiters must be registered again."""
        waiting = [fifo for fifo in self.fifos if fifo.fd >= 0]  # none in a forked child
        if waiting and self.words[AT_WAIT_GENERATION] != self._places[0][2]:
            assert all(fifo.wait(0) for fifo in waiting), "the store was recovered, but a FIFO was not notified"

    def semaphores(self) -> List[str]:
        """Return the names of the segment's semaphores that have a file."""
        names = os.listdir(SHM_DIRECTORY) if SHM_DIRECTORY else []
        return [name for name in names if name.startswith(f"sem.{self.store.name}.")]

    def close(self) -> None:
        """Remove and close the store."""
        self.store.unlink()
        self.store.close()

    # -- checks ----------------------------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        """Return the content of the store; the order of messages and members matters."""
        found = self.store.snapshot()
        if self.kind == "groups":
            return {group: list(members.items()) for group, members in found.items()}
        return found  # type: ignore[no-any-return]

    def problems(self) -> List[str]:
        """Return what is wrong with the store, as sentences."""
        return [str(finding) for finding in check_stores(self.store)]

    def admin_lock_holder(self) -> Optional[int]:
        """Return another process that holds the admin lock, which a recovery needs, or None."""
        return self.store.sections.attachment.segment.locks.holder(ADMIN_LOCK_BYTE)  # type: ignore[no-any-return]

    def use(self) -> None:
        """Use the store in every way, and check that its content comes out once and in order."""
        if self.kind == "messages":
            use_messages(self)
            use_waiters(self)
        else:
            use_groups(self)
        wrong = self.problems()
        assert not wrong, f"after using the store: {wrong}"


def use_messages(world: World) -> None:
    """Send in every way, receive everything, then send large messages."""
    store = world.messages
    arrived: Dict[str, bytes] = {}
    with contextlib.suppress(ChannelFull):  # the case may have filled the memory
        for channel in [*world.known, "after", "p!after"]:
            if not channel.endswith("!"):
                store.append(channel, PLENTY, b"a" * 60)
                arrived[channel] = b"a" * 60
        store.append("large", PLENTY, bytes(6000))
        arrived["large"] = bytes(6000)
    found = store.snapshot()
    assert {channel: found.get(channel, [b""])[-1] for channel in arrived} == arrived, "a sent message is missing"
    store.append_each([(name, PLENTY) for name in ("after", "p!after", "p!new", "new")], b"c" * 200)
    expected = unexpired(store.snapshot())
    received: Dict[str, List[bytes]] = {}
    names = sorted({non_local_name(name) for name in [*expected, "after", "p!", "new"]})
    taken = store.pop(names)
    while taken is not None:
        received.setdefault(taken[0], []).append(taken[1])
        taken = store.pop(names)
    assert received == expected, f"received {short_repr(received)} of {short_repr(expected)}"
    assert unexpired(store.snapshot()) == {}
    store.append("large", PLENTY, bytes(9000))
    store.append("after", PLENTY, b"d")
    assert store.pop(["after"]) == ("after", b"d")
    assert store.pop(["large"]) == ("large", bytes(9000))


def use_waiters(world: World) -> None:
    """Wait at every FIFO of this process, or at a new one, and send a message to it."""
    store = world.messages
    own = [fifo for fifo in world.fifos if fifo.fd >= 0]
    new = [] if own else [store.wakeups.new_fifo()]
    for fifo in new or own:
        store.wakeups.unregister_all(fifo)
        outcome = store.wakeups.pop_again(["waited", "p!"], fifo)
        assert isinstance(outcome, Registered), "a message that was received came again"
        fifo.drain()
        store.append("waited", PLENTY, b"w")
        if outcome.waiters:  # else there was no memory for them
            assert fifo.wait(0), "a FIFO was not notified"
        assert store.wakeups.pop_again(["waited", "p!"], fifo) == ("waited", b"w")
    for fifo in new:
        store.wakeups.dismiss(fifo)


def use_groups(world: World) -> None:
    """Add, renew and discard members in every group, then empty it."""
    store = world.groups
    before = unexpired(world.snapshot())
    for group, members in before.items():
        names = [name for name, _ in members]
        assert store.channels(group) == names
        with contextlib.suppress(ChannelFull):
            store.add(group, names[-1])
            store.add(group, "one-more")
            assert store.channels(group) == [*names, "one-more"]
            store.discard(group, "one-more")
        store.discard(group, names[0])
        assert store.channels(group) == names[1:]
        for name in names[1:]:
            store.discard(group, name)
    for number in range(3):
        store.add("new", "n" * 60 + str(number))
    store.discard("new", "n" * 60 + "1")
    assert len(store.channels("new")) == 2


def short_repr(queues: Dict[str, List[bytes]]) -> Dict[str, List[bytes]]:
    """Return queues with the first bytes of their bodies."""
    return {name: [body[:12] for body in bodies] for name, bodies in queues.items()}


def unexpired(found: Snapshot) -> Snapshot:
    """Return a snapshot without the bodies and members that are named ``old``."""

    def is_live(item: Any) -> bool:
        return not (item.startswith(OLD.encode()) if isinstance(item, bytes) else item[0].startswith(OLD))

    kept = {name: [item for item in items if is_live(item)] for name, items in found.items()}
    return {name: items for name, items in kept.items() if items}


# -- garbage -------------------------------------------------------------------------------------------------


def garble(world: World, seed: str) -> None:
    """
    Overwrite all unused memory of the segment with words that look like valid ones.

    Unused are free blocks, blocks in quick lists and free channel records, except for their links, and the
    memory behind RESERVED. Some of the garbage are copies of live objects, as freed memory contains them. The
    rest points to these copies, or is random.
    """
    rng = random.Random(seed)
    attachment = world.store.sections.attachment
    words = world.words
    check = (MessageCheck if world.kind == "messages" else GroupCheck)(attachment)
    assert check.run() == []
    tempting = [*check.reached, *getattr(check, "counts", {})] or [attachment.heap.start + 1]
    heap = HeapCheck(words, attachment.heap.start, words[AT_RESERVED], {})
    if words[AT_RESERVED] > attachment.heap.start:
        heap._blocks()
    free: Set[int] = set(range(words[AT_RESERVED], len(words)))
    for header, total in heap.free.items():
        free |= set(range(header + 3, header + total - 1))
    for header in heap._quick_lists():
        free |= set(range(header + 3, header + (words[header] >> 2)))
    if world.kind == "messages":
        free |= set(_free_records(words))
    copies = _copy(world, rng, free, check.reached)
    for at in sorted(free):
        words[at] = rng.choice(
            (
                rng.choice(copies or tempting),
                rng.choice(copies or tempting),
                rng.choice(tempting),
                rng.getrandbits(64),
                rng.randrange(200),
                2**63 + rng.randrange(500),
                0,
            )
        )
    assert world.problems() == []


def _copy(world: World, rng: random.Random, free: Set[int], reached: Reached) -> List[int]:
    """Copy small objects into free memory, remove that from ``free``, and return the copies' offsets."""
    words = world.words
    originals = [(block, payload) for block, (payload, _) in sorted(reached.items()) if payload < SMALL]
    copies: List[int] = []
    for place in range(world.store.sections.attachment.heap.start, len(words) - SMALL, 2 * SMALL) if originals else ():
        block, payload = rng.choice(originals)
        space = set(range(place - 1, place + payload))
        if space <= free:
            free -= space
            for at in range(payload):
                words[place + at] = words[block + at]
            words[place - 1] = (payload + 1) << 2
            if world.kind == "groups":  # give the member another name
                words[place + MEMBER_NAME] += rng.randrange(1, 5)
            copies.append(place)
    return copies


def _free_records(words: memoryview) -> Iterator[int]:
    """Yield the unused words of free channel records."""
    page = words[AT_PAGES]
    while page:
        record = words[page + 2]
        while record:
            yield from (record + at for at in range(c.RECORD_WORDS) if at not in (0, 2))
            record = words[record]
        page = words[page]


def postpone_sweeps(world: World) -> None:
    """Postpone sweeps, so that no operation sweeps."""
    world.words[AT_SWEEP_DUE] = NEVER
    world.store._sweep_due = NEVER


def die_inside(world: World, operate: Callable[[World], None], at: int) -> None:
    """Let a child begin the operation and exit before its step ``at``; save the state that it leaves."""
    pid = os.fork()
    if pid == 0:
        world.store.snapshot()  # acquires a slot
        STEPS.arm(at, lambda: os._exit(7))
        operate(world)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    assert os.WEXITSTATUS(status) == 7, "the operation has fewer steps"
    world.remember(dead=True)

