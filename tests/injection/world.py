"""
A small world in which an operation can be tried again and again from the same state: a store, a clock that stands,
an image of the shared memory, garbage wherever nothing is kept.
"""

from __future__ import annotations

__all__ = ["World", "die_inside", "garble", "quietly", "strip"]

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
#: Seconds: of messages and memberships in these tests.
EXPIRY = 60
#: Bodies, channels and groups that have expired when the operation begins are named so.
OLD = "old"
#: Room for everything.
PLENTY = 10**6

#: Words of what is copied into free memory.
SMALL = 32

Snapshot = Dict[str, Any]


class Clock:
    """Nanoseconds that pass only when told to."""

    def __init__(self) -> None:
        self.now = 10**15

    def __call__(self) -> int:
        return self.now

    def pass_seconds(self, seconds: float) -> None:
        self.now += int(seconds * 1e9)


class World:
    """
    A store of a kind ("messages" or "groups"), and a state of it to come back to.

    ``store`` is the store; ``messages`` or ``groups``, too, whichever it is.
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
        #: Channels that this process remembers the places of.
        self.known: List[str] = []
        #: Wakeup FIFOs at which the process that judges waits, what they had hung up, and where they were then.
        self.fifos: List[WakeupFifo] = []
        self.registered: List[Registered] = []
        self._places: List[Tuple[Any, int, int, int]] = []

    @property
    def words(self) -> memoryview:
        """The words of the segment, uncounted."""
        return self.store.sections.attachment.segment.words.raw  # type: ignore[no-any-return]

    @property
    def data(self) -> Any:
        """The bytes of the segment, uncounted."""
        return self.store.sections.attachment.segment.data.raw

    # -- coming back ------------------------------------------------------------------------------------------

    def remember(self, dead: bool = False) -> None:
        """Take the state that ``restore`` comes back to; ``dead``: with the token gone, as its holder died."""
        self.image = bytes(self.data[:])
        self.dead = dead
        self._places = [(fifo.home, fifo.record, fifo.wait_generation, fifo.registration) for fifo in self.fifos]
        if self.kind == "messages" and not dead:
            check = MessageCheck(self.store.sections.attachment)
            check.run()
            self.known = sorted(check.channels)

    def restore(self) -> None:
        """Be as at ``remember``, but for what never goes back: epoch, progress, generation."""
        words = self.words
        kept = {at: words[at] for at in (AT_EPOCH, AT_SEQ, AT_GENERATION)}
        assert not kept[AT_EPOCH] & 1, "the world is under repair"
        self.data[:] = self.image
        for at, word in kept.items():
            words[at] = word
        words[AT_GENERATION] += 1  # so that nobody believes what he remembers of other times
        for slot in range(AT_SLOTS, AT_SLOTS + SLOTS * SLOT_WORDS, SLOT_WORDS):
            if words[slot]:
                words[slot] = kept[AT_EPOCH]
        if self.dead:
            token = self.store.sections.attachment.segment.semaphores.open(kept[AT_EPOCH])
            with contextlib.suppress(BusyError):  # it is gone already when the holder has just died
                token.acquire(0)
            token.close()
        for channel in self.known:
            self.store.sections.parts.queues.locate(channel, False)
        self.store.sections.attachment.liveness._alive_until.clear()
        self.stand_in()
        for fifo in self.fifos:
            fifo.drain()

    def stand_in(self) -> None:
        """Be where the FIFOs were hung: also in a forked child, which does for its parent what is cut short."""
        for fifo, place in zip(self.fifos, self._places):
            fifo.home, fifo.record, fifo.wait_generation, fifo.registration = place

    def must_have_notified(self) -> None:
        """Whoever waited when the store was repaired must hear of it: what he had hung up is gone."""
        sleepers = [fifo for fifo in self.fifos if fifo.fd >= 0]  # none in a forked child
        if sleepers and self.words[AT_WAIT_GENERATION] != self._places[0][2]:
            assert all(fifo.wait(0) for fifo in sleepers), "the store was repaired, and a sleeper not rung"

    def semaphores(self) -> List[str]:
        """The semaphores of the segment that can be seen."""
        names = os.listdir(SHM_DIRECTORY) if SHM_DIRECTORY else []
        return [name for name in names if name.startswith(f"sem.{self.store.name}.")]

    def close(self) -> None:
        """Remove it all."""
        self.store.unlink()
        self.store.close()

    # -- judging ----------------------------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        """What the store holds, in an order that counts."""
        found = self.store.snapshot()
        if self.kind == "groups":
            return {group: list(members.items()) for group, members in found.items()}
        return found  # type: ignore[no-any-return]

    def audit(self) -> List[str]:
        """What is wrong with the store."""
        return [str(finding) for finding in check_stores(self.store)]

    def admin_lock_holder(self) -> Optional[int]:
        """Another process that keeps the byte which whoever recovers needs, or None."""
        return self.store.sections.attachment.segment.locks.holder(ADMIN_LOCK_BYTE)  # type: ignore[no-any-return]

    def go_on(self) -> None:
        """Use the store in every way, and see that what it held comes out of it, once and in order."""
        if self.kind == "messages":
            go_on_with_messages(self)
            wait_anew(self)
        else:
            go_on_with_groups(self)
        wrong = self.audit()
        assert not wrong, f"after going on: {wrong}"


def go_on_with_messages(world: World) -> None:
    """Send in every way, receive everything, then send what needs memory."""
    store = world.messages
    arrived: Dict[str, bytes] = {}
    with contextlib.suppress(ChannelFull):  # what was there before may have filled the memory
        for channel in [*world.known, "after", "p!after"]:
            if not channel.endswith("!"):
                store.append(channel, PLENTY, b"a" * 60)
                arrived[channel] = b"a" * 60
        store.append("large", PLENTY, bytes(6000))
        arrived["large"] = bytes(6000)
    found = store.snapshot()
    assert {channel: found.get(channel, [b""])[-1] for channel in arrived} == arrived, "what was sent is not there"
    store.append_each([(name, PLENTY) for name in ("after", "p!after", "p!new", "new")], b"c" * 200)
    expected = strip(store.snapshot())
    received: Dict[str, List[bytes]] = {}
    names = sorted({non_local_name(name) for name in [*expected, "after", "p!", "new"]})
    taken = store.pop(names)
    while taken is not None:
        received.setdefault(taken[0], []).append(taken[1])
        taken = store.pop(names)
    assert received == expected, f"received {short_repr(received)} of {short_repr(expected)}"
    assert strip(store.snapshot()) == {}
    store.append("large", PLENTY, bytes(9000))
    store.append("after", PLENTY, b"d")
    assert store.pop(["after"]) == ("after", b"d")
    assert store.pop(["large"]) == ("large", bytes(9000))


def wait_anew(world: World) -> None:
    """Wait at every wakeup FIFO of this process, or at a new one, for a message that comes then."""
    store = world.messages
    sleepers = [fifo for fifo in world.fifos if fifo.fd >= 0]
    new = [] if sleepers else [store.wakeups.new_fifo()]
    for fifo in new or sleepers:
        store.wakeups.unregister_all(fifo)
        outcome = store.wakeups.pop_again(["waited", "p!"], fifo)
        assert isinstance(outcome, Registered), "what was received came once more"
        fifo.drain()
        store.append("waited", PLENTY, b"w")
        if outcome.waiters:  # else there was no memory for them
            assert fifo.wait(0), "a wakeup FIFO was not rung"
        assert store.wakeups.pop_again(["waited", "p!"], fifo) == ("waited", b"w")
    for fifo in new:
        store.wakeups.dismiss(fifo)


def go_on_with_groups(world: World) -> None:
    """Add, renew and discard in every group, then empty it."""
    store = world.groups
    before = strip(world.snapshot())
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
    """Queues with the beginnings of their bodies."""
    return {name: [body[:12] for body in bodies] for name, bodies in queues.items()}


def strip(found: Snapshot) -> Snapshot:
    """A snapshot without what has expired: bodies and members that are named so."""

    def lives(item: Any) -> bool:
        return not (item.startswith(OLD.encode()) if isinstance(item, bytes) else item[0].startswith(OLD))

    kept = {name: [item for item in items if lives(item)] for name, items in found.items()}
    return {name: items for name, items in kept.items() if items}


# -- garbage --------------------------------------------------------------------------------------------------


def garble(world: World, seed: str) -> None:
    """
    Overwrite everything in the segment that means nothing, with words that might mean something.

    That is: free and waiting blocks but for their lists, free channel records likewise, and what lies behind the
    memory that is reserved. Some of it are copies of what is in use, as freed memory holds them, which the other
    garbage leads to.
    """
    draw = random.Random(seed)
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
    copies = _copy(world, draw, free, check.reached)
    for at in sorted(free):
        words[at] = draw.choice(
            (
                draw.choice(copies or tempting),
                draw.choice(copies or tempting),
                draw.choice(tempting),
                draw.getrandbits(64),
                draw.randrange(200),
                2**63 + draw.randrange(500),
                0,
            )
        )
    assert world.audit() == []


def _copy(world: World, draw: random.Random, free: Set[int], reached: Reached) -> List[int]:
    """Put copies of messages, members and the like into free memory, and take that out of ``free``; where they are."""
    words = world.words
    originals = [(block, payload) for block, (payload, _) in sorted(reached.items()) if payload < SMALL]
    copies: List[int] = []
    for place in range(world.store.sections.attachment.heap.start, len(words) - SMALL, 2 * SMALL) if originals else ():
        block, payload = draw.choice(originals)
        space = set(range(place - 1, place + payload))
        if space <= free:
            free -= space
            for at in range(payload):
                words[place + at] = words[block + at]
            words[place - 1] = (payload + 1) << 2
            if world.kind == "groups":  # another name
                words[place + MEMBER_NAME] += draw.randrange(1, 5)
            copies.append(place)
    return copies


def _free_records(words: memoryview) -> Iterator[int]:
    """The words of free channel records that mean nothing."""
    page = words[AT_PAGES]
    while page:
        record = words[page + 2]
        while record:
            yield from (record + at for at in range(c.RECORD_WORDS) if at not in (0, 2))
            record = words[record]
        page = words[page]


def quietly(world: World) -> None:
    """Let nothing be swept on the occasion of another operation."""
    world.words[AT_SWEEP_DUE] = NEVER
    world.store._sweep_due = NEVER


def die_inside(world: World, operate: Callable[[World], None], at: int) -> None:
    """Let a child process begin the operation and end before its step ``at``; the world is remembered like that."""
    pid = os.fork()
    if pid == 0:
        world.store.snapshot()  # claims its slot
        STEPS.arm(at, lambda: os._exit(7))
        operate(world)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    assert os.WEXITSTATUS(status) == 7, "the operation has fewer steps"
    world.remember(dead=True)

