"""The integrity check finds nothing wrong with a consistent store, and finds each damaged derived word."""

from __future__ import annotations

import contextlib
import random
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from asgi_ipc.check import check_stores
from asgi_ipc.exceptions import ChannelFull
from asgi_ipc.shm.layout import (
    AT_BUCKETS,
    AT_FIFOS,
    AT_FLUSHING,
    AT_FREE_HEADS,
    AT_PAGES,
    AT_POWER_MAP,
    AT_QUICK,
    AT_RESERVED,
    AT_SPLIT_MAPS,
    AT_TAG,
    NEVER,
    POWERS,
    QUICK_WORDS,
    SPLITS,
)
from asgi_ipc.stores.groups import members as m
from asgi_ipc.stores.groups.store import GroupStore
from asgi_ipc.stores.messages import channels as c
from asgi_ipc.stores.messages import records as q
from asgi_ipc.stores.messages import waiters as w
from asgi_ipc.stores.messages.receiving import Registered
from asgi_ipc.stores.messages.store import MessageStore
from asgi_ipc.structures.hashtable import HASH, NAME_LENGTH
from asgi_ipc.structures.slab import PAGE_RECORDS, TAG

SIZE = 256 * 1024
PAGE_PREVIOUS, PAGE_FREE, PAGE_LIVE = 1, 2, 3


class Clock:
    """A clock that stands still until a test changes ``now`` (ns)."""

    def __init__(self) -> None:
        self.now = 10**12

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def messages(prefix: str, clock: Clock) -> Iterator[MessageStore]:
    store = MessageStore(prefix, SIZE, 60, clock=clock)
    yield store
    store.unlink()
    store.close()


@pytest.fixture
def groups(prefix: str, clock: Clock) -> Iterator[GroupStore]:
    store = GroupStore(prefix, None, SIZE, 60, clock=clock)
    yield store
    store.unlink()
    store.close()


def test_the_check_finds_nothing_after_random_operations(
    messages: MessageStore, groups: GroupStore, clock: Clock
) -> None:
    rng = random.Random(20)
    names = [f"c{number}" for number in range(60)] + [f"p{number % 3}!{number}" for number in range(60)]

    def send() -> None:
        length = rng.choice((rng.randrange(3000), rng.randrange(200)))
        messages.append(rng.choice(names), 5, bytes(length))

    def send_to_many() -> None:
        messages.append_each([(name, 5) for name in rng.sample(names, 10)], bytes(rng.randrange(500)))

    def add() -> None:
        groups.add(f"g{rng.randrange(6)}", rng.choice(names))

    def pass_time() -> None:
        clock.now += rng.choice((1, 10**6, 10**9, 10**10, 7 * 10**10))

    def receive() -> None:
        name = rng.choice(names)
        messages.pop([name[: name.index("!") + 1] if "!" in name else name])

    operations: list[Callable[[], Any]] = [
        *[send] * 40,
        *[receive] * 25,
        *[send_to_many] * 5,
        *[add] * 10,
        *[pass_time] * 5,
        lambda: groups.discard(f"g{rng.randrange(6)}", rng.choice(names)),
        lambda: groups.channels(f"g{rng.randrange(6)}"),
        lambda: messages.figures(rng.choice(names)),
    ]
    for step in range(3000):
        with contextlib.suppress(ChannelFull):
            rng.choice(operations)()
        if rng.randrange(1000) == 0:
            rng.choice((messages, groups)).flush()
        if step % 10 == 0:
            assert check_stores(messages, groups) == [], f"seed 20, step {step}"


# -- message segments: one damaged word each -----------------------------------------------------------------


def fill_messages(store: MessageStore, clock: Clock) -> None:
    """
    Fill a store with something of each kind.

    Two pages of channels, a queue of three messages, an inbox with three ready channels and an empty one, a
    body shared by two channels, free blocks, and blocks in quick lists.
    """
    for number in range(PAGE_RECORDS + 5):
        store.append(f"c{number}", 5, b"x" * 40)
        clock.now += 1
    for _ in range(2):
        store.append("c0", 5, b"y" * 40)
    for local in ("p!1", "p!2", "p!3", "p!4"):
        store.append(local, 50, b"z" * 10)
    for _ in range(3):
        assert store.pop(["p!"]) is not None
    store.append("p!1", 50, b"again")
    store.append("p!2", 50, b"again")
    assert store.append_each([("c1", 5), ("c2", 5)], b"shared" * 20) == []
    store.append("gap", 5, b"g" * 2000)
    store.append("behind", 5, b"b" * 2000)
    store.pop(["gap"])
    assert check_stores(store) == []


def record(store: MessageStore, channel: str) -> int:
    return store.sections.exclusively(store.sections.parts.queues.channels.find, channel)


def free_block(words: Any) -> int:
    """Return the header of some free block."""
    return next(head for head in words[AT_FREE_HEADS : AT_FREE_HEADS + POWERS * SPLITS].tolist() if head)


def quick_block(words: Any) -> tuple[int, int]:
    """Return the size of the blocks in some quick list, and the first of them."""
    found = words[AT_QUICK : AT_QUICK + QUICK_WORDS + 1].tolist()
    return next((total, block) for total, block in enumerate(found) if block)


#: Returns the value to overwrite a word with, for the value that it has.
Change = Callable[[int], int]
MORE: Change = lambda word: word + 1  # noqa: E731
LESS: Change = lambda word: word - 1  # noqa: E731
FLIP: Change = lambda word: word ^ 1  # noqa: E731
ZERO: Change = lambda word: 0  # noqa: E731
ONE: Change = lambda word: 1  # noqa: E731

#: Returns the offset of a word of a store, and the value to overwrite it with.
Damage = Callable[[Any, Any], tuple[int, int]]


def field(channel: str, at: int, change: Change) -> Damage:
    def damage(store: MessageStore, words: Any) -> tuple[int, int]:
        where = record(store, channel) + at
        return where, change(words[where])

    return damage


def header(at: int, change: Change) -> Damage:
    return lambda store, words: (at, change(words[at]))


def message_field(channel: str, at: int, value: int) -> Damage:
    return lambda store, words: (words[record(store, channel) + c.HEAD] + at, value)


def body_field(at: int, value: int) -> Damage:
    return lambda store, words: (words[words[record(store, "c1") + c.TAIL] + q.BODY] + at, value)


def page_field(at: int, change: Change) -> Damage:
    return lambda store, words: (words[AT_PAGES] + at, change(words[words[AT_PAGES] + at]))


def free_field(at: int, change: Change) -> Damage:
    return lambda store, words: (free_block(words) + at, change(words[free_block(words) + at]))


def footer(store: Any, words: Any) -> tuple[int, int]:
    block = free_block(words)
    return block + (words[block] >> 2) - 1, block - 4


def behind_free(store: Any, words: Any) -> tuple[int, int]:
    block = free_block(words)
    return block + (words[block] >> 2), words[block + (words[block] >> 2)] & ~2


def free_list_head(store: Any, words: Any) -> tuple[int, int]:
    heads = words[AT_FREE_HEADS : AT_FREE_HEADS + POWERS * SPLITS].tolist()
    return AT_FREE_HEADS + next(number for number, head in enumerate(heads) if head), 0


def wrong_class(store: Any, words: Any) -> tuple[int, int]:
    heads = words[AT_FREE_HEADS : AT_FREE_HEADS + POWERS * SPLITS].tolist()
    return AT_FREE_HEADS + next(number for number, head in enumerate(heads) if not head), free_block(words)


def split_map(store: Any, words: Any) -> tuple[int, int]:
    power = words[AT_POWER_MAP].bit_length() - 1
    return AT_SPLIT_MAPS + power, words[AT_SPLIT_MAPS + power] ^ 0x11


def quick_head(store: Any, words: Any) -> tuple[int, int]:
    total, _ = quick_block(words)
    return AT_QUICK + total, 0


def quick_count(store: Any, words: Any) -> tuple[int, int]:
    _, block = quick_block(words)
    return block + 1, words[block + 1] + 1


def quick_in_use(store: Any, words: Any) -> tuple[int, int]:
    message = words[record(store, "c3") + c.HEAD]
    return AT_QUICK + (words[message - 1] >> 2), message


def quick_of_another_size(store: Any, words: Any) -> tuple[int, int]:
    total, block = quick_block(words)
    return AT_QUICK + total + 50, block


def free_tag(store: Any, words: Any) -> tuple[int, int]:
    return words[words[AT_PAGES] + PAGE_FREE] + TAG, 7


def last_block(store: Any, words: Any) -> tuple[int, int]:
    return words[AT_RESERVED] - 1, words[words[AT_RESERVED] - 1] | 4 << 2


def leaked(store: Any, words: Any) -> tuple[int, int]:
    return record(store, "behind") + c.HEAD, 0


def bucket_of_another(store: Any, words: Any) -> tuple[int, int]:
    buckets = words[AT_BUCKETS : store.sections.attachment.heap.start].tolist()
    return AT_BUCKETS + buckets.index(0), record(store, "c3")


def cycle(store: Any, words: Any) -> tuple[int, int]:
    return words[record(store, "c3") + c.HEAD], words[record(store, "c3") + c.HEAD]


MESSAGE_DAMAGE = {
    "flushing": (header(AT_FLUSHING, ONE), "the flag of a flush is 1, not 0"),
    "tail": (field("c0", c.TAIL, MORE), "TAIL of channel 'c0'"),
    "sent": (field("c0", c.SENT, MORE), "SENT - TAKEN of channel 'c0' is 4, not 3"),
    "taken": (field("c0", c.TAKEN, MORE), "SENT - TAKEN of channel 'c0' is 2, not 3"),
    "earliest expiry": (field("c0", c.EARLIEST_EXPIRY, MORE), "EARLIEST_EXPIRY of channel 'c0' is .* later than"),
    "sent of an empty one": (field("gap", c.SENT, MORE), "SENT - TAKEN of channel 'gap' is 1, not 0"),
    "inbox": (field("p!2", c.INBOX, ZERO), "INBOX of channel 'p!2' is 0"),
    "inbox of none": (field("c2", c.INBOX, lambda word: 9000), "INBOX of channel 'c2' is 9000"),
    "head of an inbox": (field("p!", c.HEAD, lambda word: 5), "the queue of channel 'p!' leads out"),
    "sent of an inbox": (field("p!", c.SENT, LESS), "SENT - TAKEN of channel 'p!' is 2, not 3"),
    "taken of an inbox": (field("p!", c.TAKEN, LESS), "SENT - TAKEN of channel 'p!' is 4, not 3"),
    "earliest expiry of an inbox": (
        field("p!", c.EARLIEST_EXPIRY, lambda word: word + 10**11),
        "EARLIEST_EXPIRY of channel 'p!' is",
    ),
    "locals": (field("p!", c.LOCALS, MORE), "LOCALS of channel 'p!' is 5, not 4"),
    "locals of none": (field("c1", c.LOCALS, ONE), "LOCALS of channel 'c1' is 1, not 0"),
    "ready": (field("p!", c.READY, ZERO), "channels in the ready ring of channel 'p!' is"),
    "ready of none": (
        field("c1", c.READY, lambda word: 8000),
        "ready ring of channel 'c1' leads to 8000, which is not a channel",
    ),
    "after": (field("p!4", c.AFTER, lambda word: word ^ 8), "ready ring of channel 'p!'"),
    "before": (field("p!4", c.BEFORE, MORE), "the item before .* in the ready ring of channel 'p!'"),
    "tag 0": (field("c4", TAG, ZERO), "TAG of channel 'c4' is 0"),
    "tag of another": (field("c4", TAG, ONE), "is also that of channel .*"),
    "last tag": (header(AT_TAG, LESS), "TAG of channel .* is .*, not from 1 to"),
    "page of a record": (field("c4", c.PAGE, MORE), "PAGE of channel 'c4' is"),
    "name": (field("c4", c.NAME, FLIP), "the hash of channel b'b4'"),
    "length of a name": (field("c4", NAME_LENGTH, lambda word: 2**40), "has a name of 1099511627776 bytes"),
    "hash": (field("c4", HASH, FLIP), "the hash of channel b'c4'"),
    "bucket": (bucket_of_another, "the bucket of channel b'c3'"),
    "queue in a cycle": (cycle, "the queue of channel 'c3' leads in a cycle"),
    "length of a message": (message_field("c5", q.LENGTH, 400), "channel 'c5' at .* needs a block of 55"),
    "references": (body_field(q.REFERENCES, 1), "REFERENCES of the shared body at .* is 1, not 2"),
    "length of a body": (body_field(q.BODY_LENGTH, 1), "lengths of the shared body at .* is \\{1\\}, not \\{120\\}"),
    "live records": (page_field(PAGE_LIVE, MORE), "the number of live records in page"),
    "free records": (page_field(PAGE_FREE, ZERO), "the free records in page .* is \\[\\], not"),
    "previous page": (page_field(PAGE_PREVIOUS, ONE), "the page before page .* is 1, not 0"),
    "pages with free records": (header(AT_PAGES, ZERO), "whether page .* is listed as having room is False"),
    "tag of a free record": (free_tag, "TAG of the free record at .* is 7, not 0"),
    "reserved": (header(AT_RESERVED, lambda word: 2**50), "RESERVED is"),
    "reserved less": (header(AT_RESERVED, lambda word: word - 512), "block at|free block"),
    "free header": (free_field(0, lambda word: word & ~1), "a block of .* words at .* is lost"),
    "free size": (free_field(0, lambda word: word + (4 << 2)), "free block at .* ends with|has an impossible size"),
    "next free": (free_field(1, lambda word: 6000), "the free list .* leads to 6000, which is not free"),
    "previous free": (free_field(2, lambda word: 6000), "the free list .* has 6000 before"),
    "footer": (footer, "the free block at .* ends with"),
    "flag behind a free block": (behind_free, "marks the block before it as used"),
    "head of a free list": (free_list_head, "the free block at .* is in no list"),
    "head of another free list": (wrong_class, "the free list .* has the block at"),
    "bitmap": (split_map, "the bitmap of power .* is"),
    "bitmap of powers": (header(AT_POWER_MAP, FLIP), "bit 0 of the bitmap of powers is wrong"),
    "bitmap beyond": (header(AT_POWER_MAP, lambda word: word | 1 << 50), "bits beyond the last power"),
    "head of a quick list": (quick_head, "a block of .* words at .* is lost"),
    "count of a quick list": (quick_count, "the quick list of .* words counts"),
    "quick list with a block in use": (quick_in_use, "is in a quick list, but does not exist or is in use"),
    "quick list of another size": (quick_of_another_size, "the quick list of .* words leads to"),
    "end of the heap": (last_block, "the block at .* that ends the heap is not empty"),
    "message out of reach": (leaked, "a block of .* words at .* is lost"),
}


@pytest.mark.parametrize("name", MESSAGE_DAMAGE)
def test_the_check_finds_each_damaged_word_of_messages(messages: MessageStore, clock: Clock, name: str) -> None:
    damage, sentence = MESSAGE_DAMAGE[name]
    fill_messages(messages, clock)
    _damage_and_check(messages, damage, sentence)


# -- message segments with waiters: one damaged word each ----------------------------------------------------


@pytest.fixture
def waiting(prefix: str, clock: Clock) -> Iterator[MessageStore]:
    store = MessageStore(prefix, SIZE, 60, clock=clock)
    yield store
    store.unlink()
    store.close()


def fill_waiters(store: MessageStore) -> None:
    """Register FIFOs with three waiters, two of them notified, with two waiters, and with none."""
    store._sweep_due = NEVER  # a sweep would make another FIFO the first one
    fifos = [store.wakeups.new_fifo() for _ in range(3)]
    for fifo, channels in zip(fifos, (("a", "b", "p!"), ("a", "c"), ("d",))):
        outcome = store.wakeups.pop_again(channels, fifo)
        assert isinstance(outcome, Registered)
        assert len(outcome.waiters) == len(channels)
    store.wakeups.unregister_all(fifos[2])
    store.append("b", 5, b"b")
    store.append("p!1", 5, b"p")
    assert check_stores(store) == []


def fifo(number: int) -> Callable[[Any], int]:
    def find(words: Any) -> int:
        found: int = words[AT_FIFOS]
        for _ in range(number):
            found = words[found + w.NEXT_FIFO]
        return found

    return find


def waiter(number: int) -> Callable[[Any], int]:
    """A waiter of the first FIFO: 0 waits for ``a``, 1 for ``b``, 2 for ``p!``; 1 and 2 were notified."""

    def find(words: Any) -> int:
        found: int = words[fifo(0)(words) + w.OF_FIFO]
        for _ in range(number):
            found = words[found + w.NEXT_OF_FIFO]
        return found

    return find


def word_of(place: Callable[[Any], int], at: int, change: Change) -> Damage:
    return lambda store, words: (place(words) + at, change(words[place(words) + at]))


def to_another_fifo(store: Any, words: Any) -> tuple[int, int]:
    return waiter(0)(words) + w.FIFO, fifo(1)(words)


def to_another_channel(store: Any, words: Any) -> tuple[int, int]:
    return waiter(0)(words) + w.CHANNEL, record(store, "c")


def first_of_another_channel(store: Any, words: Any) -> tuple[int, int]:
    return record(store, "d") + c.WAITERS, waiter(0)(words)


def notified_of_another(store: Any, words: Any) -> tuple[int, int]:
    return fifo(1)(words) + w.NOTIFIED, words[fifo(0)(words) + w.NOTIFIED]


def first_of_another_fifo(store: Any, words: Any) -> tuple[int, int]:
    return fifo(1)(words) + w.OF_FIFO, waiter(0)(words)


def last_fifo_lost(store: Any, words: Any) -> tuple[int, int]:
    """The ring of FIFOs closes before the last one."""
    return fifo(1)(words) + w.NEXT_FIFO, fifo(0)(words)


WAITING_DAMAGE = {
    "FIFOs": (header(AT_FIFOS, ZERO), "WAITING of channel 'a' is 2, not 0"),
    "FIFOs lost": (header(AT_FIFOS, ZERO), "a block of .* words at .* is lost"),
    "ring of FIFOs": (last_fifo_lost, "the item before .* in the ring of FIFOs is"),
    "previous FIFO": (word_of(fifo(1), w.NEXT_FIFO + 1, MORE), "the item before .* in the ring of FIFOs is"),
    "notified list": (word_of(fifo(0), w.NOTIFIED, ZERO), "the notified list of the FIFO at .* is \\[\\], not \\["),
    "notified list of another": (notified_of_another, "the notified list of the FIFO at .* is \\[.*\\], not \\[\\]"),
    "waiters of a FIFO": (word_of(fifo(0), w.OF_FIFO, ZERO), "WAITING of channel 'a' is 2, not 1"),
    "waiters of another": (first_of_another_fifo, "a waiter at .* is also a waiter"),
    "notified": (word_of(waiter(0), w.IS_NOTIFIED, ONE), "the waiters of channel 'a' is"),
    "not notified": (word_of(waiter(1), w.IS_NOTIFIED, ZERO), "the waiters of channel 'b' is \\[\\], not"),
    "FIFO": (to_another_fifo, "FIFO of the waiter at .* is"),
    "channel": (to_another_channel, "WAITING of channel 'c' is 1, not 2"),
    "no channel": (word_of(waiter(0), w.CHANNEL, lambda word: 5), "a waiter waits for 5, which is not a channel"),
    "next notified": (word_of(waiter(2), w.NEXT, ZERO), "the notified list of the FIFO at"),
    "previous": (word_of(waiter(0), w.NEXT + 1, MORE), "the ring of waiters of channel 'a' is"),
    "previous of FIFO": (word_of(waiter(0), w.NEXT_OF_FIFO + 1, MORE), "the ring of waiters of the FIFO at .* is"),
    "waiters": (field("a", c.WAITERS, ZERO), "the waiters of channel 'a' is \\[\\], not"),
    "waiters of none": (first_of_another_channel, "the waiters of channel 'd' is"),
    "waiting": (field("a", c.WAITING, MORE), "WAITING of channel 'a' is 3, not 2"),
    "waiting of an inbox": (field("p!", c.WAITING, ZERO), "WAITING of channel 'p!' is 0, not 1"),
    "owner of none": (field("a", c.OWNER, ONE), "OWNER of channel 'a', which is not an inbox, is 1, not 0"),
    "owner of a local": (field("p!1", c.OWNER, ONE), "OWNER of channel 'p!1', which is not an inbox, is 1, not 0"),
    "individual of none": (
        field("a", c.INDIVIDUAL, ONE),
        "INDIVIDUAL of channel 'a', which is not an inbox, is 1, not 0",
    ),
    "individual": (field("p!", c.INDIVIDUAL, lambda word: 2), "INDIVIDUAL of channel 'p!' is 2"),
}


@pytest.mark.parametrize("name", WAITING_DAMAGE)
def test_the_check_finds_each_damaged_word_of_fifos_and_waiters(waiting: MessageStore, name: str) -> None:
    damage, sentence = WAITING_DAMAGE[name]
    fill_waiters(waiting)
    _damage_and_check(waiting, damage, sentence)


# -- group segments ------------------------------------------------------------------------------------------


def group(store: GroupStore, name: str) -> int:
    return store.sections.parts.members.find_group(name)


def group_field(at: int, change: Change) -> Damage:
    def damage(store: GroupStore, words: Any) -> tuple[int, int]:
        where = group(store, "chat") + at
        return where, change(words[where])

    return damage


def member_field(number: int, at: int, change: Change) -> Damage:
    def damage(store: GroupStore, words: Any) -> tuple[int, int]:
        member = words[group(store, "chat") + m.FIRST]
        for _ in range(number):
            member = words[member + m.NEXT]
        return member + at, change(words[member + at])

    return damage


def index_bucket(store: GroupStore, words: Any) -> tuple[int, int]:
    """Lose the chain of one index bucket."""
    geometry = store.sections.attachment.segment.geometry
    heads = words[geometry.index_at : geometry.index_at + geometry.indexes].tolist()
    return geometry.index_at + next(number for number, head in enumerate(heads) if head), 0


def index_group(store: GroupStore, words: Any) -> tuple[int, int]:
    """Enter a group into the index of members."""
    geometry = store.sections.attachment.segment.geometry
    heads = words[geometry.index_at : geometry.index_at + geometry.indexes].tolist()
    return geometry.index_at + heads.index(0), group(store, "other")


def index_twice(store: GroupStore, words: Any) -> tuple[int, int]:
    """Enter a member into an index bucket that is not its own."""
    geometry = store.sections.attachment.segment.geometry
    heads = words[geometry.index_at : geometry.index_at + geometry.indexes].tolist()
    return geometry.index_at + heads.index(0), next(head for head in heads if head)


def no_members(store: GroupStore, words: Any) -> tuple[int, int]:
    return group(store, "other") + m.FIRST, 0


GROUP_DAMAGE = {
    "flushing": (header(AT_FLUSHING, ONE), "the flag of a flush is 1"),
    "count": (group_field(m.COUNT, MORE), "COUNT of group 'chat' is 4, not 3"),
    "last": (group_field(m.LAST, ZERO), "LAST of group 'chat' is 0"),
    "earliest expiry": (group_field(m.EARLIEST_EXPIRY, MORE), "EARLIEST_EXPIRY of group 'chat' is"),
    "group": (member_field(1, m.GROUP, MORE), "GROUP of member 'c1' of group 'chat'"),
    "before": (member_field(1, m.BEFORE, ZERO), "BEFORE of member 'c1' of group 'chat' is 0"),
    "hash": (member_field(1, HASH, FLIP), "the hash of member 'c1' of group 'chat'"),
    "length": (member_field(1, NAME_LENGTH, lambda word: 100), "has a name of 100 bytes"),
    "same name": (member_field(1, m.MEMBER_NAME, lambda word: word - 256), "member 'c0' .* exists twice"),
    "chain": (member_field(2, m.NEXT, lambda word: word or 7), "the chain of group 'chat' leads out of the heap"),
    "lost from the index": (index_bucket, "is not in the index"),
    "group in the index": (index_group, "the index leads to .*, which is not a member"),
    "twice in the index": (index_twice, "which is in it twice|the index bucket of member"),
    "group without members": (no_members, "group 'other' has no members"),
    "lost members": (no_members, "a block of .* words at .* is lost"),
    "free list": (free_list_head, "the free block at .* is in no list"),
    "footer": (footer, "the free block at .* ends with"),
    "quick list": (quick_head, "a block of .* words at .* is lost"),
}


@pytest.mark.parametrize("name", GROUP_DAMAGE)
def test_the_check_finds_each_damaged_word_of_groups(groups: GroupStore, clock: Clock, name: str) -> None:
    damage, sentence = GROUP_DAMAGE[name]
    for channel in ("c0", "c1", "c2"):
        groups.add("chat", channel)
        clock.now += 1
    groups.add("other", "c0")
    groups.add("gone", "c" * 99)
    groups.discard("gone", "c" * 99)
    assert check_stores(groups) == []
    _damage_and_check(groups, damage, sentence)


def _damage_and_check(store: Any, damage: Damage, sentence: str) -> None:
    words = store.sections.attachment.segment.words
    where, value = damage(store, words)
    right = words[where]
    assert value != right
    words[where] = value
    try:
        found = check_stores(store)
    finally:
        words[where] = right
    assert any(re.search(sentence, finding.problem) for finding in found), found
    assert {finding.segment for finding in found} == {store.name}
    assert check_stores(store) == [], "the check itself has changed a word"


def test_the_check_of_a_closed_store_raises(prefix: str) -> None:
    store = MessageStore(prefix, SIZE)
    store.unlink()
    store.close()
    with pytest.raises(RuntimeError, match="closed"):
        check_stores(store)


def test_the_check_of_a_removed_segment_checks_the_new_one(messages: MessageStore) -> None:
    messages.append("c", 5, b"lost")
    messages.unlink()
    assert check_stores(messages) == []
    assert messages.snapshot() == {}
