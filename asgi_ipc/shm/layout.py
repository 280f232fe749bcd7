"""
The segment map: what each word of a segment means.

A segment is an array of 64-bit words in the machine's own byte order. Every offset in the package counts
words, not bytes. A word that holds an offset holds 0 for "none": word 0 is the magic, so no object starts
there.

    word 0            64             64 + 2 * 1024           .              .               .            reserved
    +----------------+--------------+------------------+-----------------+----------------+------------ - - -+- - -
    | header         | slots        | heap tables      | buckets         | index buckets  | heap blocks      | hole
    | see below      | 2 words each | bitmaps, heads   | heads of chains | (groups only)  | header + payload |
    +----------------+--------------+------------------+-----------------+----------------+------------ - - -+- - -

A slot belongs to one process: word 0 is the epoch whose token the process holds, the epoch + 1 while it
takes that token or gives it back, or 0; word 1 counts the processes that have had the slot. A heap block is one
header word, ``total words << 2 | previous is free << 1 | free``, followed by its payload; an offset of a block
points to its payload. The hole starts at the word that ``AT_RESERVED`` holds and has no memory yet.

*Truth* is what operations commit. *Derived* words are computed from it, and a recovery computes them again by
walking the truth. A recovery checks the truth and cuts off what is damaged, but does not recompute it:

    truth     header      FLUSHING; RESERVED
              messages    the buckets and the chains of channel records; HEAD of a channel, NEXT of a message;
                          OWNER and INDIVIDUAL of an inbox
              groups      the buckets and the chains of group records; FIRST of a group, NEXT of a member;
                          EXPIRES, OWNER and NONCE of a member
              fixed       fields that are written once, before the commit that makes them reachable: of a
                          channel record, its name, hash, tag and page; of a message, LENGTH, EXPIRES, CAME and
                          BODY; of a shared body, its length and bytes; of a group, its name and hash; of a
                          member, GROUP and its name
    counters  only grow, so that no value is used twice: TAG, GENERATION, WAIT_GENERATION, CHANGES, the second
              word of a slot. Statistics, which a recovery keeps, although they may lack the change during
              which a process was killed: TAKEN, REFUSED, GONE_SENT, GONE_REFUSED, RECOVERIES
    derived   header      PAGES, FREE_WORDS, SWEEP_CURSOR, SWEEP_DUE, FULL_SWEEP, FILE_SWEEP, FIFOS
              heap        headers of blocks, free lists, quick lists, bitmaps
              messages    TAIL, SENT, EARLIEST_EXPIRY, INBOX, READY, AFTER, BEFORE, LOCALS, IDLE, WAITERS and
                          WAITING of a channel; REFERENCES of a shared body; headers of pages; FIFOs and waiters
              groups      COUNT, LAST and EARLIEST_EXPIRY of a group; BEFORE and the hash of a member; the index

EPOCH, SEQ, NAPS, INTERRUPTED, ENDING, STARVING, STARVING_UNTIL, DIED and the slots belong to the mutex (``locking``).
"""

from __future__ import annotations

__all__ = ["WORD", "MAGIC", "VERSION", "NEVER", "COUNTED", "TOMBSTONE", "Geometry", "fixed_checksum", "size_class"]

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

#: Bytes in a word.
WORD = 8
#: Spells "asgi_ipc" when the bytes are in the order of the machine that wrote it.
MAGIC = int.from_bytes(b"asgi_ipc", "big")
#: Changes with every change of the layout that this module defines.
VERSION = 204
#: A time (ns of the monotonic clock) that is never reached.
NEVER = 2**63 - 1
#: A counter never gets this high by counting: a larger value means that the word was overwritten.
COUNTED = 2**62

# -- the header -------------------------------------------------------------------------------------------------
AT_MAGIC = 0  # written last at creation: without it the segment is unfinished
AT_VERSION = 1
AT_KIND = 2
AT_SIZE = 3  # of the whole segment, in bytes
AT_NONCE = 4  # tells this segment from others of the same name
AT_KEY = 5  # two words: the secret key of the hashes: names cannot be made to collide, nor semaphores be predicted
AT_LOCK_DEVICE = 7  # device and inode of the lock file where there is one (macOS), else 0
AT_LOCK_INODE = 8
AT_CHECKSUM = 9  # over words 0 to 8, none of which changes after creation

AT_EPOCH = 16  # even: open; odd: being recovered; TOMBSTONE: removed
AT_SEQ = 17  # changes with every critical section (the time at its end): proof of progress
AT_FLUSHING = 18  # 1 while a flush has begun and is not finished
AT_GENERATION = 19  # incremented when remembered offsets become invalid (flush, recovery, a freed page)
AT_TAG = 20  # the last tag given to a record
AT_RESERVED = 21  # first word after the memory that is reserved
AT_SWEEP_CURSOR = 22  # the next bucket to sweep
AT_SWEEP_DUE = 23  # ns of the monotonic clock: when the next sweep is due
AT_PAGES = 26  # first page of channel records with a free record
AT_GONE_SENT = 27  # sums of SENT and REFUSED of the channel records that were dropped
AT_GONE_REFUSED = 28
AT_FULL_SWEEP = 29  # ns: when everything was last swept because memory was short
AT_FIFOS = 30  # one of the FIFO records, which form a ring
AT_WAIT_GENERATION = 31  # incremented when registered FIFOs and waiters become invalid (flush, recovery)
AT_CHANGES = 32  # incremented when a group's members change: makes remembered lists invalid
AT_NAPS = 33  # roughly counts the naps of processes that wait for the mutex: long operations yield to them
AT_FREE_WORDS = 34  # words of the blocks in the heap's free lists, without those in quick lists
AT_INTERRUPTED = 35  # the last epoch in which an exception came while a process took the token or gave it back
AT_ENDING = 36  # why the epoch ends that is being recovered: a number of locking.recovery.CAUSES
AT_RECOVERIES = 37  # four words: how many recoveries there were, by cause
AT_STARVING = 41  # ns: when the wait of the process began that others let in first; 0 if there is none
AT_STARVING_UNTIL = 42  # ns: until when they do
AT_DIED = 43  # SEQ when a process last got the slot of one that had died with an intent
AT_FILE_SWEEP = 48  # ns: when a process last searched for files that dead processes left
AT_SCRATCH = 63  # stands in for the slot word of a process that has no slot yet
HEADER_WORDS = 64

#: The value of AT_EPOCH in a removed segment. It is odd, so that no process takes it for an open epoch.
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
#: Freed blocks of up to this many words (header included) go unmerged into a quick list of their exact size.
QUICK_WORDS = 136
AT_POWER_MAP = AT_SLOTS + SLOTS * SLOT_WORDS
AT_SPLIT_MAPS = AT_POWER_MAP + 1
AT_FREE_HEADS = AT_SPLIT_MAPS + POWERS
AT_QUICK = AT_FREE_HEADS + POWERS * SPLITS
AT_BUCKETS = AT_QUICK + QUICK_WORDS + 1


def size_class(total: int) -> tuple[int, int]:
    """Return the class (power, split) of a free block of ``total`` words."""
    power = total.bit_length() - 1 - SPLIT_BITS
    if power < 0:
        return 0, total
    return power + 1, (total >> power) & (SPLITS - 1)


@dataclass(frozen=True)
class Geometry:
    """
    Where the parts of a segment of one size and kind are, in words.

    It depends only on the size and kind in the header. So all processes compute the same geometry, and none
    reads it from memory that could have been overwritten.
    """

    size: int
    buckets: int
    index_at: int
    indexes: int
    heap_at: int
    end: int

    @classmethod
    def of(cls, size: int, kind: int) -> Geometry:
        """
        Return the geometry of a segment of ``size`` bytes.

        There is about one bucket for each KiB, and in a group segment four index buckets for each bucket.
        """
        buckets = 1 << max(4, (size // 1024).bit_length() - 1)
        indexes = 4 * buckets if kind == KIND_GROUPS else 0
        index_at = AT_BUCKETS + buckets
        return cls(size, buckets, index_at, indexes, index_at + indexes, size // WORD)


def fixed_checksum(words: Sequence[int]) -> int:
    """Return the checksum of the header words that never change, with which a damaged header is detected."""
    return zlib.crc32(b"".join(int(words[i]).to_bytes(WORD, "little") for i in range(AT_CHECKSUM)))
