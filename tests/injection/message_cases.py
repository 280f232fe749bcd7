"""The operations on messages, each with the state that it starts from."""

from __future__ import annotations

__all__ = ["append", "numbered", "pop", "received", "sent", "to_many"]

import contextlib
import itertools
from typing import Iterable, List, Sequence

from asgi_ipc.exceptions import ChannelFull
from asgi_ipc.shm.layout import AT_FULL_SWEEP
from asgi_ipc.stores.messages.channels import NAME
from asgi_ipc.structures.hashtable import HashTable

from .cases import PAGE_RECORDS, Act, case, check, first, grows, refused, sweep_all
from .world import EXPIRY, PLENTY, Snapshot, World, postpone_sweeps

KIND = "messages"
SHARED = b"shared" * 9
LONG_SHARED = b"shared" * 90


# -- acts ----------------------------------------------------------------------------------------------------


def sent(*channels: str, size: int = 40) -> Act:
    """Send one message to each of these channels, with the channel's name in its body."""

    def act(world: World) -> None:
        for number, channel in enumerate(channels):
            world.messages.append(channel, PLENTY, b"%d %s " % (number, channel.encode()) + b"." * size)

    return act


def expired(*channels: str, size: int = 10) -> Act:
    """Send one message to each of these channels that has expired by now."""

    def act(world: World) -> None:
        world.clock.now -= EXPIRY * 10**9
        for number, channel in enumerate(channels):
            world.messages.append(channel, PLENTY, b"old %d" % number + b"." * size)
        world.clock.now += EXPIRY * 10**9

    return act


def to_many(*channels: str, body: bytes = SHARED) -> Act:
    """Send one message to all of these channels."""
    targets = [(channel, PLENTY) for channel in channels]
    return lambda world: check(world.messages.append_each(targets, body) == [], "some channels were full")


def old_to_many(*channels: str) -> Act:
    """Send one message to all of these channels that has expired by now."""

    def act(world: World) -> None:
        world.clock.now -= EXPIRY * 10**9
        to_many(*channels, body=b"old shared")(world)
        world.clock.now += EXPIRY * 10**9

    return act


def received(*channels: str) -> Act:
    """Take one message from each of these channels."""

    def act(world: World) -> None:
        for channel in channels:
            assert world.messages.pop([channel]) is not None

    return act


def append(channel: str, body: bytes = b"new" * 10, capacity: int = PLENTY) -> Act:
    return lambda world: world.messages.append(channel, capacity, body)


def append_soon(channel: str) -> Act:
    """Send a message that expires before all others."""

    def act(world: World) -> None:
        world.messages.expiry //= 2
        world.messages.append(channel, PLENTY, b"soon")

    return act


def append_beside(channel: str, number: int) -> Act:
    """Send to a channel in the same bucket as ``channel``: to number ``number`` of several."""

    def act(world: World) -> None:
        directory = HashTable(world.store.sections.attachment.segment, NAME)

        def bucket(name: str) -> int:
            return directory.bucket_of(directory.hash(name.encode()))

        others = (name for name in numbered(100000) if bucket(name) == bucket(channel))
        world.messages.append(next(itertools.islice(others, number, None)), PLENTY, b"beside")

    return act


def pop(*channels: str) -> Act:
    return lambda world: check(world.messages.pop(list(channels)) is not None, "there was no message")


def pop_nothing(*channels: str) -> Act:
    return lambda world: check(world.messages.pop(list(channels)) is None, "there was a message")


def share_inbox(world: World) -> None:
    """
    Receive from ``p!`` in the parent, so that the inbox is shared as soon as the child receives, too.

    The messages of an inbox that only the killed child had received from would rightly be dropped.
    """
    pop_nothing("p!")(world)


def numbered(count: int) -> List[str]:
    return [f"c{number}" for number in range(count)]


def full(world: World) -> None:
    """Fill the memory, with smaller and smaller messages."""
    world.words[AT_FULL_SWEEP] = world.clock.now  # so that no full sweep is due
    for size in (4000, 1000, 100, 10, 1):
        with contextlib.suppress(ChannelFull):
            while True:
                world.messages.append("fill", PLENTY, b"f" * size)


def make_full_sweep_due(world: World) -> None:
    """Advance the clock so far that a full sweep is due."""
    world.clock.now += 2 * 10**9
    postpone_sweeps(world)


def flush(world: World) -> None:
    world.store.flush()


def sweep_everything(world: World) -> None:
    assert world.store._sweep_everything(world.clock.now), "it was not due"


def query_figures(world: World) -> None:
    world.messages.figures("c")
    world.messages.figures("p!")
    world.messages.figures()


def new_case(name: str, prepare: Act, operate: Act, **options: bool) -> None:
    case(KIND, name, prepare, operate, **options)  # type: ignore[arg-type]


# -- sending -------------------------------------------------------------------------------------------------

new_case("first message of all", first(), append("c"))
new_case("first use of a slot", sent("c"), append("c"), fresh=True)
new_case("first use of a channel", sent("a"), append("c"))
new_case("first use of a process-local channel", sent("a"), append("p!1"))
new_case("first use of another channel of a process", sent("a", "p!1"), append("p!2"))
new_case("first use of a channel that fills a page", sent(*numbered(PAGE_RECORDS - 1)), append("c"))
new_case("first use of a channel that needs a page", sent(*numbered(PAGE_RECORDS)), append("c"))
new_case(
    "first use of a channel that drops an idle one",  # which an earlier first use in the bucket has seen idle
    first(sent("a"), received("a"), append_beside("a", 0), append_beside("a", 1)),
    append_beside("a", 2),
)
new_case("send to an empty queue", first(sent("c"), received("c")), append("c"))
new_case("send to a queue", sent("c", "c"), append("c"))
new_case("send with memory in a quick list", first(sent(*"ccc"), received("c")), append("c", b"n" * 44))
new_case("send to an empty queue with memory in a quick list", first(sent("c"), received("c")), append("c", b"n" * 44))
new_case("send of an empty body", sent("c"), append("c", b""))
new_case("send that expires first", sent("c"), append_soon("c"))
new_case("send to an inbox that expires first", sent("p!1", "p!2"), append_soon("p!1"))
new_case("refusal", sent("c", "c", "c"), refused(append("c", capacity=3)))
new_case("refusal in an inbox", sent("p!1", "p!2", "p!1"), refused(append("p!3", capacity=3)))
new_case(
    "send to a channel full of expired messages",
    first(expired("c", "c"), sent("c"), expired("c")),
    append("c", capacity=3),
)
new_case(
    "send to an inbox full of expired messages",
    first(expired("p!1"), sent("p!2"), expired("p!2", "p!3", "p!2")),
    append("p!1", capacity=3),
)
new_case("send that grows memory", sent("c"), grows(append("c", b"large" * 3000)))
new_case("send of a medium size", sent("c", "d", size=200), append("c", bytes(700)))
new_case(
    "send that merges the quick lists",
    first(sent(*["gap"] * 12, size=100), full, received(*["gap"] * 12)),
    append("c", bytes(1400)),
)
new_case("refusal without memory", full, refused(append("c", bytes(9000))))
new_case(
    "send that sweeps to get memory",
    first(expired(*numbered(4), size=300), full, make_full_sweep_due),
    append("c0", bytes(400)),
)

# -- receiving -----------------------------------------------------------------------------------------------

new_case("receive the last message", sent("c"), pop("c"))
new_case("receive a message that is not the last", sent("c", "c", "c"), pop("c"))
new_case("receive a large message", sent("c", "c", "d", size=3000), pop("c"))
new_case("receive a message between free blocks", first(sent(*"cdc", size=3000), received("c")), pop("d"))
new_case("receive when the quick lists are full", first(sent(*"c" * 11), received(*"c" * 8)), pop("c"))
new_case("receive from several channels", first(sent("b"), received("b"), sent("c")), pop("a", "b", "c", "d"))
new_case("receive nothing", first(sent("c"), received("c")), pop_nothing("c", "d"))
new_case("receive from an inbox", first(share_inbox, sent("p!1", "p!2", "p!1")), pop("p!"))
new_case("receive the last of one channel of an inbox", first(share_inbox, sent("p!1", "p!2", "p!2")), pop("p!"))
new_case("receive the last of an inbox", first(share_inbox, sent("p!1")), pop("p!"))
new_case("receive after expired messages", first(expired("c", "c"), sent("c", "c")), pop("c"))
new_case("receive only expired messages", expired("c", "c"), pop_nothing("c"))
new_case("receive after many expired messages", first(expired(*["c"] * 5), sent("c")), pop("c"))
new_case("receive after expired ones of an inbox", first(share_inbox, expired("p!1", "p!2"), sent("p!2")), pop("p!"))
new_case("receive a shared message", to_many("c", "d"), pop("c"))
new_case("receive the last of a shared message", first(to_many("c", "d"), received("c")), pop("d"))
new_case("receive after expired shared messages", first(old_to_many("c", "d"), sent("c")), pop("c"))

# -- sweeps, statistics, flushes -----------------------------------------------------------------------------

new_case("sweep", first(expired("c", "p!1", "p!2"), sent("d", "p!2"), expired("d")), sweep_all)
new_case("sweep of a channel", first(sent("c", "p!1"), received("c", "p!"), sweep_all), sweep_all)
new_case(
    "sweep of a page of channels",
    first(sent(*numbered(PAGE_RECORDS + 1)), received(*numbered(PAGE_RECORDS + 1)), sweep_all, sent("c0", "c1")),
    sweep_all,
)
new_case(
    "sweep of everything",
    first(expired("c", "p!1", "p!2", "d"), sent("d", "p!2", "e"), make_full_sweep_due),
    sweep_everything,
)
new_case("statistics", first(expired("c"), sent("c", "p!1"), expired("p!1")), query_figures)
new_case("flush", first(sent(*numbered(10), "c0", "p!1"), to_many("c", "d")), flush)
new_case("flush of nothing", first(), flush)

# -- sending to many -----------------------------------------------------------------------------------------

MEMBERS = ("c", "new", "p!1", "full", "p!2")
MORE_MEMBERS = [f"m{number}" for number in range(6)]


def one_by_one(old: Snapshot, names: Sequence[str], body: bytes) -> Iterable[Snapshot]:
    """Allow any number of reached members: they are reached one after the other."""
    state = {name: list(bodies) for name, bodies in old.items()}
    yield dict(state)
    for name in names:
        state[name] = [*state.get(name, []), body]
        yield dict(state)


def to_members(world: World) -> None:
    targets = [(name, 1 if name == "full" else PLENTY) for name in MEMBERS]
    assert world.messages.append_each(targets, SHARED) == ["full"]


def to_full(world: World) -> None:
    assert world.messages.append_each([("c", 1), ("d", 1)], SHARED) == ["c", "d"]


def to_more_than_fit(world: World) -> None:
    missed = world.messages.append_each([(name, PLENTY) for name in MORE_MEMBERS], LONG_SHARED)
    assert 0 < len(missed) < len(MORE_MEMBERS), missed


case(
    KIND,
    "send to many",
    sent("c", "full", "p!2"),
    to_members,
    allowed=lambda old, new: one_by_one(old, [name for name in MEMBERS if name != "full"], SHARED),
)
case(
    KIND,
    "send to many without memory for all",
    first(sent(*MORE_MEMBERS), sent("gap", size=700), full, received("gap")),
    to_more_than_fit,
    allowed=lambda old, new: one_by_one(old, MORE_MEMBERS, LONG_SHARED),
)
new_case("send to many full channels", sent("c", "d"), to_full)
