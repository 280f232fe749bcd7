"""
The heap alone, checked against a model: a dict from each block in use to its expected content.

``walk`` reads a heap's memory without the heap's code and checks every rule of its format. It covers what the
model cannot see: the bits of the maps and the links of the lists.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from typing import Any

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
#: A message of 200 bytes, and the payload in words of its block: four words and the body.
MESSAGE_BYTES = 200
MESSAGE_PAYLOAD = BODY + body_words(MESSAGE_BYTES)


class Memory:
    """The parts of a segment that a heap uses, in private memory; only ``backed`` words can be reserved."""

    def __init__(self, size: int = 256 * KIB, kind: int = KIND_MESSAGES) -> None:
        self.geometry = Geometry.of(size, kind)
        self.data = bytearray(random.Random(size).randbytes(size))  # the content of free memory is arbitrary
        self.words = memoryview(self.data).cast("Q")
        self.words[AT_RESERVED] = self.geometry.heap_at
        self.backed = self.geometry.end
        self.asked: list[tuple[int, int]] = []

    def reserve(self, first: int, last: int) -> bool:
        self.asked.append((first, last))
        return last <= self.backed


def fresh_heap(size: int = 256 * KIB, kind: int = KIND_MESSAGES) -> tuple[Memory, Heap]:
    memory = Memory(size, kind)
    heap = Heap(memory)  # type: ignore[arg-type]
    heap.rebuild([])
    return memory, heap


# -- an independent reader of the format ---------------------------------------------------------------------


def walk(heap: Heap) -> tuple[dict[int, int], dict[int, int]]:
    """
    Check every word of the heap's metadata. Return the blocks in use and the free ones, as dicts from payload
    offset to payload words. A block in a quick list counts as free.
    """
    words, start, reserved = heap.words, heap.start, heap.words[AT_RESERVED]
    used: dict[int, int] = {}
    free: dict[int, int] = {}
    position, after_free = start, False
    while position < reserved - 1:
        header = words[position]
        total, is_free = header >> 2, bool(header & FREE)
        assert bool(header & AFTER_FREE) == after_free, f"block {position} has a wrong flag for the previous block"
        assert total >= heaps.MIN_WORDS, f"block {position} has {total} words"
        assert position + total <= reserved - 1, f"block {position} extends beyond the end"
        if is_free:
            assert not after_free, f"free block {position} and the previous one were not merged"
            assert words[position + total - 1] == position, f"free block {position} does not end with its offset"
        (free if is_free else used)[position + 1] = total - 1
        position, after_free = position + total, is_free
    if reserved > start:
        assert position == reserved - 1, "the blocks do not end at the end of the memory"
        assert words[position] == (AFTER_FREE if after_free else 0), "the last word is not a used block of size 0"
    assert listed_free(heap) == sorted(free), "the free lists do not contain exactly the free blocks"
    for block in quick_blocks(heap):
        assert used.pop(block, None) is not None, f"quick list: block {block} is free, or is in it twice"
        free[block] = (words[block - 1] >> 2) - 1
    return used, free


def listed_free(heap: Heap) -> list[int]:
    """Return the payload offsets of all blocks in the free lists; check the lists and their maps."""
    words = heap.words
    found: list[int] = []
    powers = 0
    for power in range(POWERS):
        splits = 0
        for split in range(SPLITS):
            header, previous = words[AT_FREE_HEADS + power * SPLITS + split], 0
            splits |= bool(header) << split
            while header:
                assert heaps.size_class(words[header] >> 2) == (power, split), f"block {header} is in a wrong list"
                assert words[header + 2] == previous, f"block {header} has a wrong previous link"
                found.append(header + 1)
                assert len(found) <= heap.end, "a free list is cyclic"
                header, previous = words[header + 1], header
        assert words[AT_SPLIT_MAPS + power] == splits, f"the map of power {power} is wrong"
        powers |= bool(splits) << power
    assert words[AT_POWER_MAP] == powers, "the map of powers is wrong"
    return sorted(found)


def quick_blocks(heap: Heap) -> Iterator[int]:
    """Yield the blocks in the quick lists; check size and count of each."""
    words = heap.words
    for total in range(QUICK_WORDS + 1):
        block, above = words[AT_QUICK + total], None
        while block:
            assert words[block - 1] >> 2 == total, f"block {block} is in the quick list of {total} words"
            count = words[block + 1]
            assert above is None or count == above - total, f"block {block} has a wrong count"
            assert total <= count <= heaps.QUICK_MOST, f"block {block} has a count of {count} words"
            yield block
            block, above = words[block], count
            assert bool(block) == (above > total), "a quick list does not have its counted length"


class Model:
    """A heap and the expected content of every block in use."""

    def __init__(self, memory: Memory, heap: Heap) -> None:
        self.memory, self.heap = memory, heap
        self.blocks: dict[int, bytes] = {}
        self.stamp = 0

    def allocate(self, payload: int) -> int | None:
        block = self.heap.allocate(payload)
        return self._fill(block, payload) if block else None

    def allocate_several(self, payload: int, count: int) -> list[int]:
        blocks = self.heap.allocate_several(payload, count)
        assert len(blocks) <= count
        return [self._fill(block, payload) for block in blocks]

    def _fill(self, block: int, payload: int) -> int:
        """Write unique content into a new block."""
        assert self.heap.start < block, "a block outside of the heap"
        assert block + payload < self.heap.words[AT_RESERVED], "a block in memory that was not reserved"
        self.stamp += 1
        content = random.Random(self.stamp).randbytes(payload * WORD)
        self.memory.data[block * WORD : (block + payload) * WORD] = content
        assert block not in self.blocks, f"block {block} was allocated twice"
        self.blocks[block] = content
        return block

    def free(self, block: int) -> None:
        self.check(block)
        del self.blocks[block]
        self.heap.free(block)

    def check(self, block: int) -> None:
        content = self.blocks[block]
        found = bytes(self.memory.data[block * WORD : block * WORD + len(content)])
        assert found == content, f"the content of block {block} has changed"

    def check_all(self) -> None:
        """Check that every block is unchanged and that the heap has exactly these blocks in use."""
        for block in self.blocks:
            self.check(block)
        used, _ = walk(self.heap)
        assert sorted(used) == sorted(self.blocks)
        for block, content in self.blocks.items():
            assert used[block] * WORD >= len(content), f"block {block} is smaller than requested"

    def free_all(self) -> None:
        for block in list(self.blocks):
            self.free(block)

    def rebuild(self, keep: Callable[[int], bool]) -> None:
        """Drop the blocks for which ``keep`` is false, and rebuild the heap from the others."""
        self.blocks = {block: content for block, content in self.blocks.items() if keep(block)}
        self.heap.rebuild([(block, len(content) // WORD) for block, content in self.blocks.items()])


def largest_payload(heap: Heap) -> int:
    """Return the payload of the single block of an empty heap: all words but its header and the last one."""
    return heap.end - heap.start - 2


def assert_empties_to_one_block(model: Model) -> None:
    """Free every block and assert that the memory is then a single block again."""
    model.free_all()
    block = model.allocate(largest_payload(model.heap))
    assert block == model.heap.start + 1, "an empty heap is not a single free block"
    model.check_all()
    model.free_all()


def usable_for_messages(model: Model) -> float:
    """Return the fraction of the segment that messages of 200 bytes can fill, block headers included."""
    count = 0
    while model.allocate(MESSAGE_PAYLOAD):
        count += 1
    assert model.heap.shortage == "memory"
    return count * (MESSAGE_PAYLOAD + 1) * WORD / model.memory.geometry.size


#: Payloads in words: for the quick lists, larger ones, slab pages, messages of a mebibyte.
payloads = st.one_of(
    st.integers(1, 40), st.integers(1, QUICK_WORDS + 8), st.integers(1, 2000), st.integers(1, 40_000), st.just(964)
)


def random_payload(rng: random.Random) -> int:
    largest = rng.choice((8, 40, QUICK_WORDS + 8, QUICK_WORDS + 8, 1000, 4000))
    return rng.randint(1, largest)


# -- against the model ---------------------------------------------------------------------------------------


class HeapMachine(RuleBasedStateMachine):
    """Hypothesis chooses what to allocate and free, when to rebuild, and when the file system is full."""

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
        assert len(blocks) == count or self.model.allocate(payload) is None, "there was memory for more blocks"

    @precondition(lambda self: self.model.blocks)
    @rule(data=st.data())
    def free(self, data: Any) -> None:
        self.model.free(data.draw(st.sampled_from(sorted(self.model.blocks))))

    @rule(seed=st.integers(0, 2**16), share=st.floats(0, 1))
    def free_many(self, seed: int, share: float) -> None:
        rng = random.Random(seed)
        for block in list(self.model.blocks):
            if rng.random() < share:
                self.model.free(block)

    @rule(seed=st.integers(0, 2**16), share=st.sampled_from((0.0, 0.1, 0.5, 1.0)))
    def rebuild(self, seed: int, share: float) -> None:
        rng = random.Random(seed)
        self.model.rebuild(lambda block: rng.random() < share)

    @rule(share=st.floats(0, 1))
    def file_system_full(self, share: float) -> None:
        heap, memory = self.model.heap, self.model.memory
        memory.backed = max(heap.words[AT_RESERVED], int(heap.end * share))

    @rule()
    def file_system_has_room(self) -> None:
        self.model.memory.backed = self.model.heap.end

    @invariant()
    def heap_matches_model(self) -> None:
        if hasattr(self, "model"):
            self.model.check_all()

    def teardown(self) -> None:
        if hasattr(self, "model"):
            self.model.memory.backed = self.model.heap.end
            assert_empties_to_one_block(self.model)


TestHeapMachine = HeapMachine.TestCase
TestHeapMachine.settings = settings(
    max_examples=60,
    stateful_step_count=30,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)


def allocate_and_free(model: Model, rng: random.Random, steps: int) -> None:
    """Allocate and free blocks of changing sizes; the fraction in use goes up and down."""
    for step in range(steps):
        mostly_freeing = (step // 2000) % 2
        if model.blocks and rng.random() < (0.55 if mostly_freeing else 0.45):
            model.free(rng.choice(list(model.blocks)) if step % 10 == 0 else next(iter(model.blocks)))
        elif model.allocate(random_payload(rng)) is None:
            for block in list(model.blocks)[: len(model.blocks) // 2]:
                model.free(block)
        if step % 2500 == 0:
            model.check_all()


@pytest.mark.parametrize("payload", [1923, 500, 3000, 9000])
def test_an_allocation_that_fails_has_tried_all_memory(payload: int) -> None:
    """The last memory of a segment is less than a search wants, but may be merged with what is free before it."""
    for size in range(280 * KIB, 300 * KIB, 1024):
        model = Model(*fresh_heap(size, 1))
        while model.allocate(payload) is not None:
            pass
        assert model.allocate(payload) is None, f"a segment of {size} bytes had memory for one more"



@pytest.mark.parametrize("seed", [1, 2, 3])
def test_many_allocations_and_frees(seed: int) -> None:
    rng = random.Random(seed)
    model = Model(*fresh_heap(512 * KIB))
    allocate_and_free(model, rng, 15_000)
    model.check_all()
    model.rebuild(lambda block: rng.random() < 0.5)
    model.check_all()
    allocate_and_free(model, rng, 5_000)
    assert_empties_to_one_block(model)


# -- guarantees ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [KIND_MESSAGES, KIND_GROUPS])
@pytest.mark.parametrize("size", [64 * KIB, 256 * KIB, 1024 * KIB, 5 * 1024 * KIB])
def test_an_empty_heap_is_a_single_block(size: int, kind: int) -> None:
    model = Model(*fresh_heap(size, kind))
    assert_empties_to_one_block(model)
    assert model.allocate(largest_payload(model.heap) + 1) is None
    assert model.heap.shortage == "memory"


@pytest.mark.parametrize("order", ["first", "last", "odd first", "shuffled"])
def test_freed_blocks_are_merged_into_one(order: str) -> None:
    model = Model(*fresh_heap())
    rng = random.Random(order)
    while model.allocate(random_payload(rng)):
        pass
    blocks = sorted(model.blocks)
    if order == "last":
        blocks.reverse()
    elif order == "odd first":
        blocks = blocks[1::2] + blocks[::2]
    elif order == "shuffled":
        rng.shuffle(blocks)
    for block in blocks:
        model.free(block)
    assert_empties_to_one_block(model)


@pytest.mark.parametrize("uses", [0, 1, 4])
def test_messages_fill_most_of_the_memory(uses: int) -> None:
    model = Model(*fresh_heap(1024 * KIB))
    rng = random.Random(uses)
    for _ in range(uses):
        allocate_and_free(model, rng, 6_000)
        while model.allocate(random_payload(rng)):
            pass
        model.free_all()
    assert usable_for_messages(model) >= 0.9
    model.check_all()


def test_messages_fill_most_of_the_memory_around_remaining_blocks() -> None:
    """A few remaining blocks of other sizes must not waste the memory between them."""
    model = Model(*fresh_heap(1024 * KIB))
    rng = random.Random(5)
    while model.allocate(random_payload(rng)):
        pass
    kept_blocks = set(rng.sample(sorted(model.blocks), 20))
    remaining = sum(len(model.blocks[block]) + WORD for block in kept_blocks)
    for block in [block for block in model.blocks if block not in kept_blocks]:
        model.free(block)
    assert usable_for_messages(model) + remaining / model.memory.geometry.size >= 0.9


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.98, 1.0])
def test_rebuild_from_any_subset(share: float) -> None:
    rng = random.Random(int(share * 100))
    model = Model(*fresh_heap(512 * KIB))
    allocate_and_free(model, rng, 3_000)
    for at in range(AT_POWER_MAP, AT_QUICK + QUICK_WORDS + 1):
        model.heap.words[at] = rng.getrandbits(64)  # these words are derived, so the rebuild must not read them
    kept = {block for block in model.blocks if rng.random() < share}
    model.rebuild(lambda block: block in kept)
    model.check_all()
    allocate_and_free(model, rng, 2_000)
    model.free_all()
    usable = usable_for_messages(model)
    assert usable >= 0.9
    assert_empties_to_one_block(model)


@pytest.mark.parametrize("gap", range(1, 8))
def test_rebuild_with_blocks_at_odd_distances(gap: int) -> None:
    """After damage, blocks may be at odd offsets. A gap too small for a block may be lost, nothing else."""
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


def test_live_blocks_reject_overlaps_and_offsets_outside_of_the_heap() -> None:
    _, heap = fresh_heap()
    assert heap.allocate(5000)
    live_blocks = LiveBlocks(heap)
    start, last = heap.start, heap.words[AT_RESERVED] - 1
    assert live_blocks.mark(start + 1, 9)  # words 0 to 9 of the heap
    assert not live_blocks.mark(start + 1, 9)
    assert not live_blocks.mark(start + 10, 3)  # its header would overlap the last word of the first block
    assert not live_blocks.mark(start, 3)
    assert not live_blocks.mark(0, 3)
    assert not live_blocks.mark(2**63, 3)
    assert not live_blocks.mark(start + 100, 2**61)
    assert live_blocks.mark(start + 11, 1)  # takes four words nevertheless, the minimum
    assert not live_blocks.mark(start + 14, 3)
    assert live_blocks.mark(start + 15, 3)
    assert not live_blocks.mark(last - 2, 3)
    assert live_blocks.mark(last - 3, 3)
    live_blocks.unmark_last()
    assert live_blocks.mark(last - 3, 3)
    assert live_blocks.live == [(start + 1, 9), (start + 11, 1), (start + 15, 3), (last - 3, 3)]


class ReadLimited:
    """Words that may be read only ``most`` times, so that an endless walk fails instead of hanging."""

    def __init__(self, words: memoryview, most: int) -> None:
        self.words, self.left = words, most

    def __getitem__(self, at: Any) -> Any:
        self.left -= 1
        assert self.left, "the walk does not end"
        return self.words[at]

    def __setitem__(self, at: Any, value: Any) -> None:
        self.words[at] = value


def nearly_full_heap(payload: int) -> tuple[Model, list[int]]:
    """Return a heap whose only free blocks are two of the same size that are not adjacent."""
    model = Model(*fresh_heap())
    blocks = [model.allocate(size) for size in (payload, 1, payload, 1)]
    while model.allocate(1):
        pass
    chosen = [block for block in (blocks[0], blocks[2]) if block]
    for block in chosen:
        model.free(block)
    return model, chosen


def test_a_cycle_in_a_free_list_does_not_hang() -> None:
    model, blocks = nearly_full_heap(499)
    heap, words = model.heap, model.memory.words
    for block in blocks:
        assert words[block - 1] & FREE
        words[block] = block - 1
    heap.words = ReadLimited(words, 10_000)  # type: ignore[assignment]
    assert heap.allocate(502) == 0  # of the same size class as the two, but larger
    assert heap.allocate(499) in blocks


def test_a_cycle_in_a_quick_list_does_not_hang() -> None:
    model, _ = nearly_full_heap(60)
    heap, words = model.heap, model.memory.words
    first = words[AT_QUICK + 61]
    assert first
    words[first] = first
    heap.words = ReadLimited(words, 10_000)  # type: ignore[assignment]
    with contextlib.suppress(ValueError, IndexError):
        heap.allocate(5000)


# -- reservation of memory -----------------------------------------------------------------------------------


def test_memory_is_reserved_before_use_and_only_as_needed() -> None:
    memory, heap = fresh_heap(1024 * KIB)
    assert memory.asked == []
    assert heap.allocate(10)
    assert memory.asked == [(heap.start - 1, heap.start + heaps.PIECE)]  # and the word before, which is read
    while heap.allocate(10):
        pass
    firsts, lasts = zip(*memory.asked)
    assert [*firsts, heap.end - 1] == [heap.start - 1, *(last - 1 for last in lasts)], "pieces must be contiguous"
    assert max(last - first for first, last in memory.asked) * WORD <= 1024 * KIB


@pytest.mark.parametrize("payload", [1, MESSAGE_PAYLOAD, 500, 20_000])
def test_a_full_file_system_is_reported_as_shortage(payload: int) -> None:
    model = Model(*fresh_heap(1024 * KIB))
    heap, memory = model.heap, model.memory
    memory.backed = heap.start + heaps.PIECE
    while model.allocate(payload):
        pass
    assert heap.shortage == "filesystem"
    model.check_all()
    assert heap.words[AT_RESERVED] <= memory.backed
    memory.backed = heap.end  # there is room in the file system again
    assert model.allocate(payload)
    while model.allocate(payload):
        pass
    assert heap.shortage == "memory"
    model.check_all()
    assert_empties_to_one_block(model)


def test_allocation_fails_if_no_memory_can_be_reserved() -> None:
    model = Model(*fresh_heap())
    model.memory.backed = 0
    assert model.allocate(1) is None
    assert model.heap.shortage == "filesystem"
    model.memory.backed = model.heap.end
    assert_empties_to_one_block(model)


# -- through the store ---------------------------------------------------------------------------------------


def fill(store: MessageStore, choose: Callable[[], tuple[str, int]]) -> int:
    """Append bodies until the memory is full; ``choose()`` returns channel and size. Return their number."""
    count = 0
    while True:
        channel, size = choose()
        try:
            store.append(channel, 10**9, bytes(size))
        except MemoryFull as error:
            assert error.reason == "memory"
            return count
        count += 1


@pytest.mark.parametrize("uses", [0, 2])
def test_messages_fill_most_of_a_stores_memory(prefix: str, uses: int) -> None:
    """Messages fill at least 90 % of the segment, also after messages of other sizes have filled it."""
    size = 1024 * KIB
    store = MessageStore(prefix, size, expiry=3600)
    rng = random.Random(uses)
    for use in range(uses):
        fill(store, lambda: (f"use-{use}-{rng.randrange(40)}", random_payload(rng) * WORD))  # noqa: B023
        for number in range(40):
            while store.pop([f"use-{use}-{number}"]):
                pass
    count = fill(store, lambda: (f"channel-{rng.randrange(10)}", MESSAGE_BYTES))
    assert count * (MESSAGE_BYTES + 40) / size >= 0.9
    assert sum(len(bodies) for bodies in store.snapshot().values()) == count
    store.unlink()
    store.close()
