"""
The segment map: what every word of a segment means.

A segment is an array of 64-bit words in the machine's own byte order.  Every offset in the package counts words,
never bytes, and a word that holds an offset holds 0 for "none" (word 0 is the magic, so no object starts there).

    word 0            64             64 + 2 * 1024           .              .               .            reserved
    +----------------+--------------+------------------+-----------------+----------------+------------ - - -+- - -
    | header         | slots        | heap tables      | buckets         | index buckets  | heap blocks      | hole
    | see below      | 2 words each | bitmaps, heads   | heads of chains | (groups only)  | header + payload |
    +----------------+--------------+------------------+-----------------+----------------+------------ - - -+- - -

A slot belongs to one process: word 0 is the epoch whose token it holds (0: none), word 1 counts the processes that
had the slot.  A heap block is one header word, ``total words << 2 | previous is free << 1 | free``, and its payload;
offsets of blocks point to the payload.  The hole behind the word that ``RESERVED`` names has no memory yet.

*Truth* is what commits; everything else is *derived* and is rebuilt by walking the truth after a crash:

    truth     buckets and the chains behind them, HEAD and each message's NEXT, fixed fields of a record, a group's
              FIRST and each member's NEXT, FLUSHING, OWNER and INDIVIDUAL of an inbox
    derived   tails, counts, free lists, counts of references, ready rings, index buckets, statistics, sweeps,
              FIFOs and waiters
"""

from __future__ import annotations

__all__ = ["WORD", "MAGIC", "VERSION", "NEVER", "COUNTED", "TOMBSTONE", "Geometry", "fixed_checksum"]

import zlib
from dataclasses import dataclass
from typing import Sequence

#: Bytes in a word.
WORD = 8
#: Spells "asgi_ipc" when the bytes are in the order of the machine that wrote it.
MAGIC = int.from_bytes(b"asgi_ipc", "big")
#: Moves with every change of anything drawn in this module.
VERSION = 202
#: A time (in ns of the monotonic clock) that does not come.
NEVER = 2**63 - 1
#: A counter this high was not counted by anybody, but overwritten.
COUNTED = 2**62

# -- the header -------------------------------------------------------------------------------------------------
AT_MAGIC = 0  # written last at creation: without it nothing else counts
AT_VERSION = 1
AT_KIND = 2
AT_SIZE = 3  # of the whole segment, in bytes
AT_NONCE = 4  # makes the names of this segment's semaphores its own
AT_KEY = 5  # two words: the key of the hash, so that nobody can make names collide
AT_LOCK_DEVICE = 7  # where locks live in a file of their own (macOS): which file
AT_LOCK_INODE = 8
AT_CHECKSUM = 9  # over words 0 to 8, none of which changes after creation

AT_EPOCH = 16  # even: open; odd: being recovered; TOMBSTONE: removed
AT_SEQ = 17  # moves with every section: proof of progress
AT_FLUSHING = 18  # truth: a flush has begun and must be finished
AT_GENERATION = 19  # moves when remembered offsets become void (flush, recovery, a page of records given back)
AT_TAG = 20  # the last tag given to a record; nothing resets it
AT_RESERVED = 21  # first word behind the memory that is really there
AT_SWEEP_CURSOR = 22  # the next bucket to sweep
AT_SWEEP_DUE = 23  # ns: when the next sweep is due
AT_PAGES = 26  # first page of records with a free place
AT_GONE_SENT = 27  # statistics of records that were dropped
AT_GONE_REFUSED = 28
AT_FULL_SWEEP = 29  # ns: when everything was last swept for want of memory
AT_FIFOS = 30  # one of the FIFOs, which form a ring
AT_WAIT_GENERATION = 31  # moves when FIFOs, waiters and owners that a process remembers are void (flush, recovery)
AT_CHANGES = 32  # moves with every change of the members of a group: lists that a process remembers are void
AT_NAPS = 33  # counts, roughly, the naps of those who wait for the mutex: long operations give way to them
AT_SCRATCH = 63  # stands for the slot of a process that has none yet
HEADER_WORDS = 64

#: The value of AT_EPOCH in a segment that was removed. Odd, so that no process takes it for an open epoch.
TOMBSTONE = 2**64 - 1

KIND_MESSAGES = 1
KIND_GROUPS = 2

# -- slots ------------------------------------------------------------------------------------------------------
SLOTS = 1024
SLOT_WORDS = 2
AT_SLOTS = HEADER_WORDS

# -- heap tables ------------------------------------------------------------------------------------------------
# Two-level segregated fit (Masmano et al., ECRTS 2004): a size class is (power of two, sixteenth of it).
SPLIT_BITS = 4
SPLITS = 1 << SPLIT_BITS
POWERS = 40
#: Blocks up to this many words (header counted) wait in a quick list of their exact size, not merged, when freed.
QUICK_WORDS = 136
AT_POWER_MAP = AT_SLOTS + SLOTS * SLOT_WORDS
AT_SPLIT_MAPS = AT_POWER_MAP + 1
AT_FREE_HEADS = AT_SPLIT_MAPS + POWERS
AT_QUICK = AT_FREE_HEADS + POWERS * SPLITS
AT_BUCKETS = AT_QUICK + QUICK_WORDS + 1


@dataclass(frozen=True)
class Geometry:
    """
    Where the parts of a segment of one size and kind lie, in words.

    Two processes compute the same geometry from the size and kind in the header; nothing of it is read from memory
    that anybody could have overwritten since.
    """

    size: int
    buckets: int
    index_at: int
    indexes: int
    heap_at: int
    end: int

    @classmethod
    def of(cls, size: int, kind: int) -> Geometry:
        """The geometry of a segment of ``size`` bytes: about one bucket a KiB; in groups, four index buckets too."""
        buckets = 1 << max(4, (size // 1024).bit_length() - 1)
        indexes = 4 * buckets if kind == KIND_GROUPS else 0
        index_at = AT_BUCKETS + buckets
        return cls(size, buckets, index_at, indexes, index_at + indexes, size // WORD)


def fixed_checksum(words: Sequence[int]) -> int:
    """Checksum of the header words that never change: a damaged header is refused, not believed."""
    return zlib.crc32(b"".join(int(words[i]).to_bytes(WORD, "little") for i in range(AT_CHECKSUM)))
