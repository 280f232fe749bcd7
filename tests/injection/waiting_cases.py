"""The operations of waiting receivers, on their waiters, and on inboxes of live and dead processes."""

from __future__ import annotations

__all__ = ["registered"]

import os
from typing import Iterable, Set

from asgi_ipc.locking.liveness import NO_OWNER, OwnedInbox, Owner
from asgi_ipc.stores.messages.receiving import Registered

from .cases import Act, Allowed, case, check, first, old_or_new
from .group_cases import lists, members
from .message_cases import append, pop, pop_nothing, sent, share_inbox, to_many
from .recovery_cases import messages, recovery
from .world import Snapshot, World

KIND = "messages"


# -- acts ----------------------------------------------------------------------------------------------------


def registered(*channels: str) -> Act:
    """Register waiters for these channels in the parent, at a new FIFO."""

    def act(world: World) -> None:
        fifo = world.messages.wakeups.new_fifo()
        world.fifos.append(fifo)
        outcome = world.messages.wakeups.pop_again(channels, fifo)
        assert isinstance(outcome, Registered)
        assert outcome.waiters
        world.registered.append(outcome)

    return act


def by_dead_process(*acts: Act) -> Act:
    """Run these acts in a process that exits at their end without closing the store."""

    def act(world: World) -> None:
        pid = os.fork()
        if not pid:
            try:
                world.fifos = []  # they belong to the parent
                first(*acts)(world)
                os._exit(0)
            finally:
                os._exit(1)
        _, status = os.waitpid(pid, 0)
        assert status == 0, "the other process failed"

    return act


def register(*channels: str) -> Act:
    """Register waiters for these channels in this process, at a new FIFO."""

    def act(world: World) -> None:
        fifo = world.messages.wakeups.new_fifo()
        check(isinstance(world.messages.wakeups.pop_again(channels, fifo), Registered), "there was a message")
        fifo.remove_name()

    return act


def register_at_hub(*channels: str) -> Act:
    """Register the waiters of two receives at one new FIFO, as a hub does."""

    def act(world: World) -> None:
        fifo = world.messages.wakeups.new_fifo()
        check(isinstance(world.messages.wakeups.pop_or_register(channels, fifo), Registered), "there was a message")
        check(isinstance(world.messages.wakeups.pop_or_register(channels, fifo), Registered), "there was a message")
        fifo.remove_name()

    return act


# The following acts run in the child, in place of the parent: they use the parent's FIFOs.


def pop_notified(*channels: str) -> Act:
    return lambda world: check(
        not isinstance(world.messages.wakeups.pop_again(channels, world.fifos[0]), Registered), "there was no message"
    )


def register_again(*channels: str) -> Act:
    return lambda world: check(
        isinstance(world.messages.wakeups.pop_again(channels, world.fifos[0]), Registered), "there was a message"
    )


def unregister_all(world: World) -> None:
    world.messages.wakeups.unregister_all(world.fifos[0])


def cancel(world: World) -> None:
    world.messages.wakeups.cancel(world.fifos[0], *world.registered[0])


def cancel_notified(world: World) -> None:
    world.messages.wakeups.cancel(world.fifos[0], world.registered[0].registration, [], ["c"])


def take_notified(world: World) -> None:
    notified: list[int] = []
    assert world.messages.wakeups.take_notified(world.fifos[0], notified)
    assert notified == world.registered[0].waiters


def poll(number: int) -> Act:
    """Poll at a FIFO: this finds a message of which the FIFO was not notified."""

    def act(world: World) -> None:
        waiters = world.registered[number].waiters
        notified: list[int] = []
        assert world.messages.wakeups.poll(world.fifos[number], len(waiters), notified)
        assert notified == waiters[:1]

    return act


def sweep_fifos(world: World) -> None:
    world.clock.now += 10**9
    for _ in range(4):
        world.messages._sweep(world.clock.now)


def own_inbox(world: World) -> None:
    world.messages.own_inbox("p!")


def new_case(name: str, prepare: Act, operate: Act, allowed: Allowed = old_or_new) -> None:
    case(KIND, name, prepare, operate, allowed=allowed)


# -- waiting -------------------------------------------------------------------------------------------------

new_case("register a waiter", sent("a"), register("c"))
new_case("register waiters for several channels", first(share_inbox, sent("a")), register("a2", "c", "p!"))
new_case("register behind another waiter", registered("c"), register("c"))
new_case("register two receives at one FIFO", first(share_inbox, sent("a")), register_at_hub("c", "p!"))
new_case("register again", registered("c", "d"), register_again("c", "d"))
new_case("send to a waiter", registered("c"), append("c"))
new_case("send to a waiter of several channels", first(registered("c", "d"), registered("d")), append("d"))
new_case("send to a notified receiver", first(registered("c", "d"), sent("c")), append("d"))
new_case("send to a waiter of an inbox", first(share_inbox, registered("p!")), append("p!1"))
new_case("receive when a waiter was notified", first(registered("c"), sent("c", "c")), pop("c"))
new_case("take the message of a notification", first(registered("c", "d"), sent("c")), pop_notified("d", "c"))
new_case(
    "take the message of one of two notifications",
    first(registered("c", "d"), registered("d"), registered("c"), sent("c", "d")),
    pop_notified("c", "d"),
)
new_case(
    "take the message of a notification from an inbox",
    first(share_inbox, registered("c", "p!"), sent("p!1")),
    pop_notified("c", "p!"),
)
new_case("unregister waiters", first(registered("c", "d"), registered("c")), unregister_all)
new_case("unregister a notified waiter", first(registered("c", "d"), registered("c"), sent("c")), unregister_all)
new_case(
    "unregister a notified waiter of an inbox",
    first(share_inbox, registered("p!"), registered("p!"), sent("p!1")),
    unregister_all,
)
new_case("cancel", first(registered("c", "d"), registered("c")), cancel)
new_case(
    "cancel after two notifications",
    first(registered("c", "d"), registered("c"), registered("d"), sent("c", "d")),
    cancel,
)
new_case("cancel after taking the notified list", first(registered("d"), registered("c"), sent("c")), cancel_notified)
new_case("take the notified list", first(registered("c", "d"), sent("c", "d")), take_notified)
new_case(
    "poll for the message of another notification",
    first(registered("c"), registered("c", "d", "e"), sent("c")),
    poll(1),
)


def one_by_one(*names: str) -> Allowed:
    """Allow any number of reached members: they are reached one after the other."""

    def allowed(old: Snapshot, new: Snapshot) -> Iterable[Snapshot]:
        for count in range(len(names) + 1):
            yield {**old, **{name: new[name] for name in names[:count]}}

    return allowed


new_case(
    "send to many waiters",
    first(share_inbox, registered("c", "d"), registered("d"), registered("p!"), registered("p!")),
    to_many("c", "p!1", "d", "p!2"),
    one_by_one("c", "p!1", "d", "p!2"),
)

# -- dead processes ------------------------------------------------------------------------------------------

new_case("send to a dead waiter", first(by_dead_process(register("c", "d")), registered("c")), append("c"))
new_case(
    "send to a dead waiter of many channels",
    first(by_dead_process(register(*"cdefg")), registered("d")),
    append("c"),
)
new_case(
    "sweep of wakeup FIFOs",
    first(by_dead_process(register("c", "d", "e")), sent("c"), registered("a"), by_dead_process(register("a", "b"))),
    sweep_fifos,
)


def unread(*channels: str) -> Act:
    """Send messages to an inbox whose only owner is dead by now."""
    return by_dead_process(pop_nothing("p!"), sent(*channels))


def dropping(old: Snapshot, new: Snapshot) -> Iterable[Snapshot]:
    """Allow any state of the drop: one message after the other, channel by channel, in any order."""
    names = sorted(name for name in old if name.startswith("p!"))
    rest = {name: old[name] for name in old if name not in names}
    for order in (names, names[::-1], [*names[1:], *names[:1]]):
        for at, name in enumerate(order):
            later = {other: old[other] for other in order[at + 1 :]}
            for count in range(len(old[name]) + 1):
                yield {**rest, **later, **({name: old[name][count:]} if old[name][count:] else {})}
    yield rest
    yield new


new_case("send to the inbox of a dead owner", unread("p!1", "p!2", "p!1", "c"), append("p!2"), dropping)
new_case("receive from the inbox of a dead owner", unread("p!1", "p!2", "p!1", "c"), pop_nothing("p!"), dropping)
new_case("first receive from an inbox", sent("c", "p!1"), first(pop("p!"), pop_nothing("p!")))
new_case("receive of a second process from an inbox", first(share_inbox, sent("c", "p!1")), pop("p!"))
new_case("own an inbox", sent("c"), own_inbox)
new_case("own an inbox that is owned already", first(share_inbox, sent("p!1")), own_inbox)
new_case("own the inbox of a dead owner", unread("p!1", "p!1", "c"), own_inbox, dropping)

#: An owner that counts as dead, and one that counts as alive.
DEAD, ALIVE = Owner(7, 7), Owner(8, 7)


class OneIsDead:
    """A stub of the message store: ``DEAD`` is dead, and no inbox is shared."""

    def dead_owners(self, owners: Iterable[Owner]) -> Set[Owner]:
        return {DEAD} & set(owners)

    def unshared_inboxes(self, suspects: Iterable[OwnedInbox]) -> Set[OwnedInbox]:
        return set(suspects)


def dead_members(group: str, *channels: str) -> Act:
    """Add these members to a group; those named ``old``, which no longer count, have a dead owner."""

    def act(world: World) -> None:
        world.groups._owners = OneIsDead()
        for number, channel in enumerate(channels):
            world.groups.add(group, channel, DEAD if channel.startswith("old") else (ALIVE, NO_OWNER)[number % 2])

    return act


case(
    "groups",
    "list with dead members",
    dead_members("g", "old!1", "a", "old!2", "b!1", "old!3"),
    lists("g", "a", "b!1"),
)
case("groups", "list of dead members", first(members("h", "a"), dead_members("g", "old!1", "old!2")), lists("g"))


def sweep_all_groups(world: World) -> None:
    world.clock.now += 10**9
    assert world.groups._sweep_everything(world.clock.now)


case(
    "groups",
    "sweep of dead members",
    first(*(dead_members(group, "old!1", "a", "old!2") for group in "gh"), dead_members("i", "old!3")),
    sweep_all_groups,
)

# -- recoveries ----------------------------------------------------------------------------------------------

with_waiters = first(messages, registered("w", "v"), registered("w"), by_dead_process(register("w")))
for step in (6, 14):
    recovery("messages", f"a send to waiters, step {step}", with_waiters, append("w"), step)
recovery("messages", "a registration of waiters", with_waiters, register("w", "v"), 9)
