"""
The heap alone, against a model: a dict from each block in use to what was written into it.

``walk`` reads a heap's memory without using the heap's code and holds every rule of its format against it: so what
the model cannot see (a bit of a map, a list's link) is judged too.
"""

from __future__ import annotations

import contextlib
import random
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from asgi_ipc.exceptions import MemoryFull
from asgi_ipc.shm.layout import (
    AT_FREE_HEADS,
    AT_POWER_MAP,
    AT_QUICK,
    AT_RESERVED,
    AT_SPLIT_MAPS,
    KIND_GROUPS,
    KIND_MESSAGES,
    POWERS,
    QUICK_WORDS,
    SPLITS,
    WORD,
    Geometry,
)
from asgi_ipc.stores.messages.records import BODY, body_words
from asgi_ipc.stores.messages.store import MessageStore
from asgi_ipc.structures import heap as heaps
from asgi_ipc.structures.heap import Heap
from asgi_ipc.structures.live_blocks import LiveBlocks

FREE, AFTER_FREE = 1, 2
KIB = 1024
#: A message of 200 bytes with everything that is stored beside it: the block's header, four words, the body.
MESSAGE_BYTES = 200
MESSAGE_PAYLOAD = BODY + body_words(MESSAGE_BYTES)


class Memory:
    """What a heap needs of a segment, in private memory; nothing behind ``backed`` words can be reserved."""

    def __init__(self, size: int = 256 * KIB, kind: int = KIND_MESSAGES) -> None:
        self.geometry = Geometry.of(size, kind)
        self.data = bytearray(random.Random(size).randbytes(size))  # what free memory contains means nothing
        self.words = memoryview(self.data).cast("Q")
        self.words[AT_RESERVED] = self.geometry.heap_at
        self.backed = self.geometry.end
        self.asked: List[Tuple[int, int]] = []

    def reserve(self, first: int, last: int) -> bool:
        self.asked.append((first, last))
        return last <= self.backed


def fresh_heap(size: int = 256 * KIB, kind: int = KIND_MESSAGES) -> Tuple[Memory, Heap]:
    memory = Memory(size, kind)
    heap = Heap(memory)  # type: ignore[arg-type]
    heap.rebuild([])
    return memory, heap


# -- an independent reader of the format ----------------------------------------------------------------------


def walk(heap: Heap) -> Tuple[Dict[int, int], Dict[int, int]]:
    """
    Check every word of the heap's own. Returns the blocks in use and the free ones, payload offset -> payload words;
    what waits in a quick list counts as free.
    """
    words, start, reserved = heap.words, heap.start, heap.words[AT_RESERVED]
    used: Dict[int, int] = {}
    free: Dict[int, int] = {}
    position, after_free = start, False
    while position < reserved - 1:
        header = words[position]
        total, is_free = header >> 2, bool(header & FREE)
        assert bool(header & AFTER_FREE) == after_free, f"block {position} is wrong about the one in front of it"
        assert total >= heaps.MIN_WORDS, f"block {position} has {total} words"
        assert position + total <= reserved - 1, f"block {position} goes beyond the end"
        if is_free:
            assert not after_free, f"free blocks in front of and at {position} were not merged"
            assert words[position + total - 1] == position, f"free block {position} does not end with its offset"
        (free if is_free else used)[position + 1] = total - 1
        position, after_free = position + total, is_free
    if reserved > start:
        assert position == reserved - 1, "the blocks do not end where the memory does"
        assert words[position] == (AFTER_FREE if after_free else 0), "the end of memory is no used block of size 0"
    assert listed_free(heap) == sorted(free), "the free lists do not hold just the free blocks"
    for block in waiting_blocks(heap):
        assert used.pop(block, None) is not None, f"quick list: block {block} is free, or twice in there"
        free[block] = (words[block - 1] >> 2) - 1
    return used, free


def listed_free(heap: Heap) -> List[int]:
    """The payload offsets of all blocks in the free lists, after a look at the lists' own words."""
    words = heap.words
    found: List[int] = []
    powers = 0
    for power in range(POWERS):
        splits = 0
        for split in range(SPLITS):
            header, previous = words[AT_FREE_HEADS + power * SPLITS + split], 0
            splits |= bool(header) << split
            while header:
                assert heaps.size_class(words[header] >> 2) == (power, split), f"block {header} is in a wrong list"
                assert words[header + 2] == previous, f"block {header} has a wrong link back"
                found.append(header + 1)
                assert len(found) <= heap.end, "a free list runs in a circle"
                header, previous = words[header + 1], header
        assert words[AT_SPLIT_MAPS + power] == splits, f"the map of power {power} is wrong"
        powers |= bool(splits) << power
    assert words[AT_POWER_MAP] == powers, "the map of powers is wrong"
    return sorted(found)


def waiting_blocks(heap: Heap) -> Iterator[int]:
    """The blocks in the quick lists, after a look at size and count of each."""
    words = heap.words
    for total in range(QUICK_WORDS + 1):
        block, above = words[AT_QUICK + total], None
        while block:
            assert words[block - 1] >> 2 == total, f"block {block} waits in the quick list of {total} words"
            count = words[block + 1]
            assert above is None or count == above - total, f"block {block} counts wrongly"
            assert total <= count <= heaps.QUICK_MOST, f"block {block} counts {count} words"
            yield block
            block, above = words[block], count
            assert bool(block) == (above > total), "a quick list is not as long as it says"


class Model:
    """A heap and, beside it, what every block in use must contain."""

    def __init__(self, memory: Memory, heap: Heap) -> None:
        self.memory, self.heap = memory, heap
        self.blocks: Dict[int, bytes] = {}
        self.stamp = 0

    def allocate(self, payload: int) -> Optional[int]:
        block = self.heap.allocate(payload)
        return self._fill(block, payload) if block else None

    def allocate_several(self, payload: int, count: int) -> List[int]:
        blocks = self.heap.allocate_several(payload, count)
        assert len(blocks) <= count
        return [self._fill(block, payload) for block in blocks]

    def _fill(self, block: int, payload: int) -> int:
        """Write something of its own into a new block."""
        assert self.heap.start < block, "a block outside of the heap"
        assert block + payload < self.heap.words[AT_RESERVED], "a block in memory that was not reserved"
        self.stamp += 1
        content = random.Random(self.stamp).randbytes(payload * WORD)
        self.memory.data[block * WORD : (block + payload) * WORD] = content
        assert block not in self.blocks, f"block {block} was given out twice"
        self.blocks[block] = content
        return block

    def free(self, block: int) -> None:
        self.check(block)
        del self.blocks[block]
        self.heap.free(block)

    def check(self, block: int) -> None:
        content = self.blocks[block]
        found = bytes(self.memory.data[block * WORD : block * WORD + len(content)])
        assert found == content, f"what block {block} contained has changed"

    def check_all(self) -> None:
        """Every block is as it was written, none overlaps another, and the heap knows just these."""
        for block in self.blocks:
            self.check(block)
        used, _ = walk(self.heap)
        assert sorted(used) == sorted(self.blocks)
        for block, content in self.blocks.items():
            assert used[block] * WORD >= len(content), f"block {block} is smaller than was asked for"

    def free_all(self) -> None:
        for block in list(self.blocks):
            self.free(block)

    def rebuild(self, keep: Callable[[int], bool]) -> None:
        """Forget the blocks that ``keep`` does not want, and make the heap anew from the others."""
        self.blocks = {block: content for block, content in self.blocks.items() if keep(block)}
        self.heap.rebuild([(block, len(content) // WORD) for block, content in self.blocks.items()])


def largest_payload(heap: Heap) -> int:
    """The payload of the one block that an empty heap can be: all but its header and the word at the end."""
    return heap.end - heap.start - 2


def assert_whole_again(model: Model) -> None:
    """Free everything: the memory must then be one block again, whatever was in it."""
    model.free_all()
    block = model.allocate(largest_payload(model.heap))
    assert block == model.heap.start + 1, "an empty heap is not one free block"
    model.check_all()
    model.free_all()


def usable_for_messages(model: Model) -> float:
    """The part of the whole segment that messages of 200 bytes fill, headers counted, before memory is short."""
    count = 0
    while model.allocate(MESSAGE_PAYLOAD):
        count += 1
    assert model.heap.shortage == "memory"
    return count * (MESSAGE_PAYLOAD + 1) * WORD / model.memory.geometry.size


#: Payloads in words: what fits quick lists, what does not, slab pages, messages of a mebibyte.
payloads = st.one_of(
    st.integers(1, 40), st.integers(1, QUICK_WORDS + 8), st.integers(1, 2000), st.integers(1, 40_000), st.just(964)
)


def random_payload(dice: random.Random) -> int:
    largest = dice.choice((8, 40, QUICK_WORDS + 8, QUICK_WORDS + 8, 1000, 4000))
    return dice.randint(1, largest)


# -- against the model ----------------------------------------------------------------------------------------


class HeapMachine(RuleBasedStateMachine):
    """Hypothesis chooses what to allocate and free, when the heap is made anew, and when the system has no memory."""

    @initialize(size=st.sampled_from((64 * KIB, 300_000 // 4096 * 4096, 1024 * KIB)), kind=st.sampled_from((1, 2)))
    def start(self, size: int, kind: int) -> None:
        self.model = Model(*fresh_heap(size, kind))

    @rule(payload=payloads)
    def allocate(self, payload: int) -> None:
        if self.model.allocate(payload) is None:
            short = self.model.memory.backed < self.model.heap.end
            assert self.model.heap.shortage == ("filesystem" if short else "memory")

    @rule(payload=st.integers(1, QUICK_WORDS), times=st.integers(2, 300))
    def allocate_many(self, payload: int, times: int) -> None:
        for _ in range(times):
            self.model.allocate(payload)

    @rule(payload=payloads, count=st.integers(0, 100))
    def allocate_several(self, payload: int, count: int) -> None:
        blocks = self.model.allocate_several(payload, count)
        assert len(blocks) == count or self.model.allocate(payload) is None, "there was room for more"

    @precondition(lambda self: self.model.blocks)
    @rule(data=st.data())
    def free(self, data: Any) -> None:
        self.model.free(data.draw(st.sampled_from(sorted(self.model.blocks))))

    @rule(seed=st.integers(0, 2**16), share=st.floats(0, 1))
    def free_many(self, seed: int, share: float) -> None:
        dice = random.Random(seed)
        for block in list(self.model.blocks):
            if dice.random() < share:
                self.model.free(block)

    @rule(seed=st.integers(0, 2**16), share=st.sampled_from((0.0, 0.1, 0.5, 1.0)))
    def rebuild(self, seed: int, share: float) -> None:
        dice = random.Random(seed)
        self.model.rebuild(lambda block: dice.random() < share)

    @rule(share=st.floats(0, 1))
    def file_system_full(self, share: float) -> None:
        heap, memory = self.model.heap, self.model.memory
        memory.backed = max(heap.words[AT_RESERVED], int(heap.end * share))

    @rule()
    def file_system_has_room(self) -> None:
        self.model.memory.backed = self.model.heap.end

    @invariant()
    def all_is_well(self) -> None:
        if hasattr(self, "model"):
            self.model.check_all()

    def teardown(self) -> None:
        if hasattr(self, "model"):
            self.model.memory.backed = self.model.heap.end
            assert_whole_again(self.model)


TestHeapMachine = HeapMachine.TestCase
TestHeapMachine.settings = settings(
    max_examples=60,
    stateful_step_count=30,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)


def live_a_life(model: Model, dice: random.Random, steps: int) -> None:
    """Allocate and free blocks of changing sizes; the share that is in use goes up and down."""
    for step in range(steps):
        crowded = (step // 2000) % 2
        if model.blocks and dice.random() < (0.55 if crowded else 0.45):
            model.free(dice.choice(list(model.blocks)) if step % 10 == 0 else next(iter(model.blocks)))
        elif model.allocate(random_payload(dice)) is None:
            for block in list(model.blocks)[: len(model.blocks) // 2]:
                model.free(block)
        if step % 2500 == 0:
            model.check_all()


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_long_life(seed: int) -> None:
    dice = random.Random(seed)
    model = Model(*fresh_heap(512 * KIB))
    live_a_life(model, dice, 15_000)
    model.check_all()
    model.rebuild(lambda block: dice.random() < 0.5)
    model.check_all()
    live_a_life(model, dice, 5_000)
    assert_whole_again(model)


# -- guarantees -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [KIND_MESSAGES, KIND_GROUPS])
@pytest.mark.parametrize("size", [64 * KIB, 256 * KIB, 1024 * KIB, 5 * 1024 * KIB])
def test_an_empty_heap_is_one_block(size: int, kind: int) -> None:
    model = Model(*fresh_heap(size, kind))
    assert_whole_again(model)
    assert model.allocate(largest_payload(model.heap) + 1) is None
    assert model.heap.shortage == "memory"


@pytest.mark.parametrize("order", ["first", "last", "odd first", "shuffled"])
def test_full_coalescing(order: str) -> None:
    model = Model(*fresh_heap())
    dice = random.Random(order)
    while model.allocate(random_payload(dice)):
        pass
    blocks = sorted(model.blocks)
    if order == "last":
        blocks.reverse()
    elif order == "odd first":
        blocks = blocks[1::2] + blocks[::2]
    elif order == "shuffled":
        dice.shuffle(blocks)
    for block in blocks:
        model.free(block)
    assert_whole_again(model)


@pytest.mark.parametrize("lives", [0, 1, 4])
def test_memory_usable_for_messages(lives: int) -> None:
    model = Model(*fresh_heap(1024 * KIB))
    dice = random.Random(lives)
    for _ in range(lives):
        live_a_life(model, dice, 6_000)
        while model.allocate(random_payload(dice)):
            pass
        model.free_all()
    assert usable_for_messages(model) >= 0.9
    model.check_all()


def test_memory_usable_for_messages_beside_survivors() -> None:
    """A few blocks of other sizes that stay must cost their neighbourhood next to nothing."""
    model = Model(*fresh_heap(1024 * KIB))
    dice = random.Random(5)
    while model.allocate(random_payload(dice)):
        pass
    survivors = set(dice.sample(sorted(model.blocks), 20))
    stay = sum(len(model.blocks[block]) + WORD for block in survivors)
    for block in [block for block in model.blocks if block not in survivors]:
        model.free(block)
    assert usable_for_messages(model) + stay / model.memory.geometry.size >= 0.9


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.98, 1.0])
def test_rebuild_from_any_subset(share: float) -> None:
    dice = random.Random(int(share * 100))
    model = Model(*fresh_heap(512 * KIB))
    live_a_life(model, dice, 3_000)
    for at in range(AT_POWER_MAP, AT_QUICK + QUICK_WORDS + 1):
        model.heap.words[at] = dice.getrandbits(64)  # all of it is derived: nothing here may be believed
    kept = {block for block in model.blocks if dice.random() < share}
    model.rebuild(lambda block: block in kept)
    model.check_all()
    live_a_life(model, dice, 2_000)
    model.free_all()
    usable = usable_for_messages(model)
    assert usable >= 0.9
    assert_whole_again(model)


@pytest.mark.parametrize("gap", range(1, 8))
def test_rebuild_with_blocks_at_odd_distances(gap: int) -> None:
    """Damage can leave blocks where no allocation would: a gap too small for a block may be lost, nothing else."""
    memory, heap = fresh_heap()
    model = Model(memory, heap)
    block = model.allocate(1000)
    assert block
    model.heap.free(block)
    model.blocks.clear()
    first = heap.start + gap + 1
    second = first + 10 + gap + 1
    for place in (first, second):
        model.blocks[place] = bytes(memory.data[place * WORD : (place + 10) * WORD])
    model.rebuild(lambda block: True)
    for place in (first, second):
        model.check(place)
    while model.allocate(5):
        pass
    for place in list(model.blocks):
        model.free(place)
    assert heap.allocate(largest_payload(heap) - 8)


def test_claims_refuse_overlap_and_what_lies_outside() -> None:
    _, heap = fresh_heap()
    assert heap.allocate(5000)
    live_blocks = LiveBlocks(heap)
    start, last = heap.start, heap.words[AT_RESERVED] - 1
    assert live_blocks.mark(start + 1, 9)  # words 0 to 9 of the heap
    assert not live_blocks.mark(start + 1, 9)
    assert not live_blocks.mark(start + 10, 3)  # its header would lie over the last word of the first one
    assert not live_blocks.mark(start, 3)
    assert not live_blocks.mark(0, 3)
    assert not live_blocks.mark(2**63, 3)
    assert not live_blocks.mark(start + 100, 2**61)
    assert live_blocks.mark(start + 11, 1)  # takes four words all the same
    assert not live_blocks.mark(start + 14, 3)
    assert live_blocks.mark(start + 15, 3)
    assert not live_blocks.mark(last - 2, 3)
    assert live_blocks.mark(last - 3, 3)
    live_blocks.unmark_last()
    assert live_blocks.mark(last - 3, 3)
    assert live_blocks.live == [(start + 1, 9), (start + 11, 1), (start + 15, 3), (last - 3, 3)]


class Counted:
    """Words that may be looked at so many times, so that a walk without an end is a failure and no hang."""

    def __init__(self, words: memoryview, most: int) -> None:
        self.words, self.left = words, most

    def __getitem__(self, at: Any) -> Any:
        self.left -= 1
        assert self.left, "this never ends"
        return self.words[at]

    def __setitem__(self, at: Any, value: Any) -> None:
        self.words[at] = value


def crowded_heap(payload: int) -> Tuple[Model, List[int]]:
    """A heap in which nothing is free but two blocks of one size, which do not touch."""
    model = Model(*fresh_heap())
    blocks = [model.allocate(size) for size in (payload, 1, payload, 1)]
    while model.allocate(1):
        pass
    chosen = [block for block in (blocks[0], blocks[2]) if block]
    for block in chosen:
        model.free(block)
    return model, chosen


def test_a_circle_in_a_free_list_ends() -> None:
    model, blocks = crowded_heap(499)
    heap, words = model.heap, model.memory.words
    for block in blocks:
        assert words[block - 1] & FREE
        words[block] = block - 1
    heap.words = Counted(words, 10_000)  # type: ignore[assignment]
    assert heap.allocate(502) == 0  # of the class of the two, and larger
    assert heap.allocate(499) in blocks


def test_a_circle_in_a_quick_list_ends() -> None:
    model, _ = crowded_heap(60)
    heap, words = model.heap, model.memory.words
    first = words[AT_QUICK + 61]
    assert first
    words[first] = first
    heap.words = Counted(words, 10_000)  # type: ignore[assignment]
    with contextlib.suppress(ValueError, IndexError):
        heap.allocate(5000)


# -- where the memory comes from ------------------------------------------------------------------------------


def test_memory_is_reserved_before_it_is_used_and_only_as_needed() -> None:
    memory, heap = fresh_heap(1024 * KIB)
    assert memory.asked == []
    assert heap.allocate(10)
    assert memory.asked == [(heap.start - 1, heap.start + heaps.PIECE)]  # and the word before, which is looked at
    while heap.allocate(10):
        pass
    firsts, lasts = zip(*memory.asked)
    assert [*firsts, heap.end - 1] == [heap.start - 1, *(last - 1 for last in lasts)], "pieces must follow each other"
    assert max(last - first for first, last in memory.asked) * WORD <= 1024 * KIB


@pytest.mark.parametrize("payload", [1, MESSAGE_PAYLOAD, 500, 20_000])
def test_a_full_file_system_is_a_shortage(payload: int) -> None:
    model = Model(*fresh_heap(1024 * KIB))
    heap, memory = model.heap, model.memory
    memory.backed = heap.start + heaps.PIECE
    while model.allocate(payload):
        pass
    assert heap.shortage == "filesystem"
    model.check_all()
    assert heap.words[AT_RESERVED] <= memory.backed
    memory.backed = heap.end  # somebody has made room
    assert model.allocate(payload)
    while model.allocate(payload):
        pass
    assert heap.shortage == "memory"
    model.check_all()
    assert_whole_again(model)


def test_nothing_at_all_can_be_reserved() -> None:
    model = Model(*fresh_heap())
    model.memory.backed = 0
    assert model.allocate(1) is None
    assert model.heap.shortage == "filesystem"
    model.memory.backed = model.heap.end
    assert_whole_again(model)


# -- through the store ----------------------------------------------------------------------------------------


def fill(store: MessageStore, choose: Callable[[], Tuple[str, int]]) -> int:
    """Append bodies of the sizes and to the channels that ``choose()`` gives until no memory is left. How many."""
    count = 0
    while True:
        channel, size = choose()
        try:
            store.append(channel, 10**9, bytes(size))
        except MemoryFull as error:
            assert error.reason == "memory"
            return count
        count += 1


@pytest.mark.parametrize("lives", [0, 2])
def test_store_memory_usable_for_messages(prefix: str, lives: int) -> None:
    """At least 90 % of the segment, everything in it counted; also when other sizes filled it before."""
    size = 1024 * KIB
    store = MessageStore(prefix, size, expiry=3600)
    dice = random.Random(lives)
    for life in range(lives):
        fill(store, lambda: (f"life-{life}-{dice.randrange(40)}", random_payload(dice) * WORD))  # noqa: B023
        for number in range(40):
            while store.pop([f"life-{life}-{number}"]):
                pass
    count = fill(store, lambda: (f"channel-{dice.randrange(10)}", MESSAGE_BYTES))
    assert count * (MESSAGE_BYTES + 40) / size >= 0.9
    assert sum(len(bodies) for bodies in store.snapshot().values()) == count
    store.unlink()
    store.close()
