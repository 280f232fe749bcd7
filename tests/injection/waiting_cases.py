"""The operations of those who wait, and on inboxes of processes that live or are dead."""

from __future__ import annotations

__all__ = ["registered"]

import os
from typing import Iterable, Set

from asgi_ipc.locking.liveness import NO_OWNER, OwnedInbox, Owner
from asgi_ipc.stores.messages.receiving import Registered

from .cases import Act, Lawful, case, check, first, old_or_new
from .group_cases import lists, members
from .message_cases import append, ours, pop, pop_nothing, sent, to_many
from .recovery_cases import messages, recovery
from .world import Snapshot, World

KIND = "messages"


# -- words ----------------------------------------------------------------------------------------------------


def registered(*channels: str) -> Act:
    """The process that judges waits for these at one more wakeup FIFO."""

    def act(world: World) -> None:
        fifo = world.messages.wakeups.new_fifo()
        world.fifos.append(fifo)
        outcome = world.messages.wakeups.pop_again(channels, fifo)
        assert isinstance(outcome, Registered)
        assert outcome.waiters
        world.registered.append(outcome)

    return act


def by_another(*acts: Act) -> Act:
    """Done by a process that ends with it, without a farewell."""

    def act(world: World) -> None:
        pid = os.fork()
        if not pid:
            try:
                world.fifos = []  # they are not his
                first(*acts)(world)
                os._exit(0)
            finally:
                os._exit(1)
        _, status = os.waitpid(pid, 0)
        assert status == 0, "the other one failed"

    return act


def register(*channels: str) -> Act:
    """Wait at a wakeup FIFO of one's own."""

    def act(world: World) -> None:
        fifo = world.messages.wakeups.new_fifo()
        check(isinstance(world.messages.wakeups.pop_again(channels, fifo), Registered), "there was something")
        fifo.remove_name()

    return act


def enter(*channels: str) -> Act:
    """The same as one of many who wait at a wakeup FIFO."""

    def act(world: World) -> None:
        fifo = world.messages.wakeups.new_fifo()
        check(isinstance(world.messages.wakeups.pop_or_register(channels, fifo), Registered), "there was something")
        check(isinstance(world.messages.wakeups.pop_or_register(channels, fifo), Registered), "there was something")
        fifo.remove_name()

    return act


# The process that is cut short stands in for the one that judges: it does what is done at that one's wakeup FIFOs.


def pop_called(*channels: str) -> Act:
    return lambda world: check(
        not isinstance(world.messages.wakeups.pop_again(channels, world.fifos[0]), Registered), "nothing came"
    )


def hang_again(*channels: str) -> Act:
    return lambda world: check(
        isinstance(world.messages.wakeups.pop_again(channels, world.fifos[0]), Registered), "something came"
    )


def unregister_all(world: World) -> None:
    world.messages.wakeups.unregister_all(world.fifos[0])


def cancel(world: World) -> None:
    world.messages.wakeups.cancel(world.fifos[0], *world.registered[0])


def give_up_what_was_called(world: World) -> None:
    world.messages.wakeups.cancel(world.fifos[0], world.registered[0].registration, [], ["c"])


def look_at_news(world: World) -> None:
    assert world.messages.wakeups.take_notified(world.fifos[0]) == world.registered[0].waiters


def look(number: int) -> Act:
    """The look at a wakeup FIFO, which finds a message although nobody has called it."""

    def act(world: World) -> None:
        waiters = world.registered[number].waiters
        assert world.messages.wakeups.poll(world.fifos[number], len(waiters)) == waiters[:1]

    return act


def sweep_fifos(world: World) -> None:
    world.clock.now += 10**9
    for _ in range(4):
        world.messages._sweep(world.clock.now)


def own_inbox(world: World) -> None:
    world.messages.own_inbox("p!")


def new_case(name: str, prepare: Act, operate: Act, lawful: Lawful = old_or_new) -> None:
    case(KIND, name, prepare, operate, lawful=lawful)


# -- waiting --------------------------------------------------------------------------------------------------

new_case("hang", sent("a"), register("c"))
new_case("hang for several", first(ours, sent("a")), register("a2", "c", "p!"))
new_case("hang where others do", registered("c"), register("c"))
new_case("enter a room", first(ours, sent("a")), enter("c", "p!"))
new_case("hang again", registered("c", "d"), hang_again("c", "d"))
new_case("send to one who waits", registered("c"), append("c"))
new_case("send to one who waits for several", first(registered("c", "d"), registered("d")), append("d"))
new_case("send to one who was called", first(registered("c", "d"), sent("c")), append("d"))
new_case("send to one who waits for an inbox", first(ours, registered("p!")), append("p!1"))
new_case("receive when one was called", first(registered("c"), sent("c", "c")), pop("c"))
new_case("take what one was called for", first(registered("c", "d"), sent("c")), pop_called("d", "c"))
new_case(
    "take one of two that one was called for",
    first(registered("c", "d"), registered("d"), registered("c"), sent("c", "d")),
    pop_called("c", "d"),
)
new_case(
    "take from an inbox what one was called for",
    first(ours, registered("c", "p!"), sent("p!1")),
    pop_called("c", "p!"),
)
new_case("leave what one waits for", first(registered("c", "d"), registered("c")), unregister_all)
new_case("leave what one was called for", first(registered("c", "d"), registered("c"), sent("c")), unregister_all)
new_case(
    "leave an inbox that one was called for",
    first(ours, registered("p!"), registered("p!"), sent("p!1")),
    unregister_all,
)
new_case("give up", first(registered("c", "d"), registered("c")), cancel)
new_case(
    "give up what one was called for",
    first(registered("c", "d"), registered("c"), registered("d"), sent("c", "d")),
    cancel,
)
new_case("give up what one has heard of", first(registered("d"), registered("c"), sent("c")), give_up_what_was_called)
new_case("hear what one was called for", first(registered("c", "d"), sent("c", "d")), look_at_news)
new_case(
    "look at what another one was called for",
    first(registered("c"), registered("c", "d", "e"), sent("c")),
    look(1),
)


def one_by_one(*names: str) -> Lawful:
    """Members are reached one after the other."""

    def lawful(old: Snapshot, new: Snapshot) -> Iterable[Snapshot]:
        for count in range(len(names) + 1):
            yield {**old, **{name: new[name] for name in names[:count]}}

    return lawful


new_case(
    "send to many who wait",
    first(ours, registered("c", "d"), registered("d"), registered("p!"), registered("p!")),
    to_many("c", "p!1", "d", "p!2"),
    one_by_one("c", "p!1", "d", "p!2"),
)

# -- the dead -------------------------------------------------------------------------------------------------

new_case("send to one who is dead", first(by_another(register("c", "d")), registered("c")), append("c"))
new_case(
    "send to one who is dead and waits for much",
    first(by_another(register(*"cdefg")), registered("d")),
    append("c"),
)
new_case(
    "sweep of wakeup FIFOs",
    first(by_another(register("c", "d", "e")), sent("c"), registered("a"), by_another(register("a", "b"))),
    sweep_fifos,
)


def unread(*channels: str) -> Act:
    """Messages for an inbox whose only owner died after they had come."""
    return by_another(pop_nothing("p!"), sent(*channels))




def dropping(old: Snapshot, new: Snapshot) -> Iterable[Snapshot]:
    """What the owner has not read goes message by message, one channel after the other, in whatever order."""
    names = sorted(name for name in old if name.startswith("p!"))
    rest = {name: old[name] for name in old if name not in names}
    for gone in (names, names[::-1], [*names[1:], *names[:1]]):
        for at, name in enumerate(gone):
            later = {other: old[other] for other in gone[at + 1 :]}
            for count in range(len(old[name]) + 1):
                yield {**rest, **later, **({name: old[name][count:]} if old[name][count:] else {})}
    yield rest
    yield new


new_case("send to the inbox of a dead owner", unread("p!1", "p!2", "p!1", "c"), append("p!2"), dropping)
new_case("receive from the inbox of a dead owner", unread("p!1", "p!2", "p!1", "c"), pop_nothing("p!"), dropping)
new_case("be the first to receive from an inbox", sent("c", "p!1"), first(pop("p!"), pop_nothing("p!")))
new_case("be the second to receive from an inbox", first(ours, sent("c", "p!1")), pop("p!"))
new_case("make a name", sent("c"), own_inbox)
new_case("make a name in an inbox that one has", first(ours, sent("p!1")), own_inbox)
new_case("make a name in the inbox of a dead owner", unread("p!1", "p!1", "c"), own_inbox, dropping)

#: An owner that is taken to be dead, and who he is not.
DEAD, ALIVE = Owner(7, 7), Owner(8, 7)


class OneIsDead:
    """Stands for the message store: DEAD is dead, and no other process receives for it."""

    def dead_owners(self, owners: Iterable[Owner]) -> Set[Owner]:
        return {DEAD} & set(owners)

    def unshared_inboxes(self, suspects: Iterable[OwnedInbox]) -> Set[OwnedInbox]:
        return set(suspects)


def orphans(group: str, *channels: str) -> Act:
    """Members whose owner is dead; called old, because they count no more."""

    def act(world: World) -> None:
        world.groups._owners = OneIsDead()
        for number, channel in enumerate(channels):
            world.groups.add(group, channel, DEAD if channel.startswith("old") else (ALIVE, NO_OWNER)[number % 2])

    return act


case("groups", "list with orphans", orphans("g", "old!1", "a", "old!2", "b!1", "old!3"), lists("g", "a", "b!1"))
case("groups", "list of orphans", first(members("h", "a"), orphans("g", "old!1", "old!2")), lists("g"))


def sweep_all_groups(world: World) -> None:
    world.clock.now += 10**9
    assert world.groups._sweep_everything(world.clock.now)


case(
    "groups",
    "sweep of orphans",
    first(*(orphans(group, "old!1", "a", "old!2") for group in "gh"), orphans("i", "old!3")),
    sweep_all_groups,
)

# -- recoveries -----------------------------------------------------------------------------------------------

waited = first(messages, registered("w", "v"), registered("w"), by_another(register("w")))
for step in (6, 14):
    recovery("messages", f"a send to those who wait, step {step}", waited, append("w"), step)
recovery("messages", "a hanging up", waited, register("w", "v"), 9)
