"""The operations of those who wait, and on inboxes of processes that live or are dead."""

from __future__ import annotations

__all__ = ["hung"]

import os
from typing import Iterable

from asgi_ipc.stores.messages.waits import Hung

from .cases import Act, Lawful, case, check, first, old_or_new
from .group_cases import lists, members
from .message_cases import append, ours, pop, pop_nothing, sent, to_many
from .recovery_cases import messages, recovery
from .world import Snapshot, World

KIND = "messages"


# -- words ----------------------------------------------------------------------------------------------------


def hung(*channels: str) -> Act:
    """The process that judges waits for these at one more doorbell."""

    def act(world: World) -> None:
        bell = world.messages.new_bell()
        world.bells.append(bell)
        outcome = world.messages.pop_again(channels, bell)
        assert isinstance(outcome, Hung)
        assert outcome.waiters
        world.hung.append(outcome)

    return act


def by_another(*acts: Act) -> Act:
    """Done by a process that ends with it, without a farewell."""

    def act(world: World) -> None:
        pid = os.fork()
        if not pid:
            try:
                world.bells = []  # they are not his
                first(*acts)(world)
                os._exit(0)
            finally:
                os._exit(1)
        _, status = os.waitpid(pid, 0)
        assert status == 0, "the other one failed"

    return act


def hang(*channels: str) -> Act:
    """Wait at a doorbell of one's own."""

    def act(world: World) -> None:
        bell = world.messages.new_bell()
        check(isinstance(world.messages.pop_again(channels, bell), Hung), "there was something")
        bell.remove_name()

    return act


def enter(*channels: str) -> Act:
    """The same as one of many who wait at a doorbell."""

    def act(world: World) -> None:
        bell = world.messages.new_bell()
        check(isinstance(world.messages.pop_or_hang(channels, bell), Hung), "there was something")
        check(isinstance(world.messages.pop_or_hang(channels, bell), Hung), "there was something")
        bell.remove_name()

    return act


# The process that is cut short stands in for the one that judges: it does what is done at that one's doorbells.


def pop_called(*channels: str) -> Act:
    return lambda world: check(
        not isinstance(world.messages.pop_again(channels, world.bells[0]), Hung), "nothing came"
    )


def hang_again(*channels: str) -> Act:
    return lambda world: check(isinstance(world.messages.pop_again(channels, world.bells[0]), Hung), "something came")


def take_all_down(world: World) -> None:
    world.messages.take_all_down(world.bells[0])


def give_up(world: World) -> None:
    world.messages.give_up(world.bells[0], *world.hung[0])


def give_up_what_was_called(world: World) -> None:
    world.messages.give_up(world.bells[0], world.hung[0].life, [], ["c"])


def look_at_news(world: World) -> None:
    assert world.messages.news(world.bells[0]) == world.hung[0].waiters


def look(number: int) -> Act:
    """The look at a doorbell, which finds a message although nobody has called it."""

    def act(world: World) -> None:
        waiters = world.hung[number].waiters
        assert world.messages.look(world.bells[number], len(waiters)) == waiters[:1]

    return act


def sweep_bells(world: World) -> None:
    world.clock.now += 10**9
    for _ in range(4):
        world.messages._sweep(world.clock.now)


def adopt(world: World) -> None:
    world.messages.adopt("p!")


def new_case(name: str, prepare: Act, operate: Act, lawful: Lawful = old_or_new) -> None:
    case(KIND, name, prepare, operate, lawful=lawful)


# -- waiting --------------------------------------------------------------------------------------------------

new_case("hang", sent("a"), hang("c"))
new_case("hang for several", first(ours, sent("a")), hang("a2", "c", "p!"))
new_case("hang where others do", hung("c"), hang("c"))
new_case("enter a room", first(ours, sent("a")), enter("c", "p!"))
new_case("hang again", hung("c", "d"), hang_again("c", "d"))
new_case("send to one who waits", hung("c"), append("c"))
new_case("send to one who waits for several", first(hung("c", "d"), hung("d")), append("d"))
new_case("send to one who was called", first(hung("c", "d"), sent("c")), append("d"))
new_case("send to one who waits for an inbox", first(ours, hung("p!")), append("p!1"))
new_case("receive when one was called", first(hung("c"), sent("c", "c")), pop("c"))
new_case("take what one was called for", first(hung("c", "d"), sent("c")), pop_called("d", "c"))
new_case(
    "take one of two that one was called for",
    first(hung("c", "d"), hung("d"), hung("c"), sent("c", "d")),
    pop_called("c", "d"),
)
new_case("take from an inbox what one was called for", first(ours, hung("c", "p!"), sent("p!1")), pop_called("c", "p!"))
new_case("leave what one waits for", first(hung("c", "d"), hung("c")), take_all_down)
new_case("leave what one was called for", first(hung("c", "d"), hung("c"), sent("c")), take_all_down)
new_case("leave an inbox that one was called for", first(ours, hung("p!"), hung("p!"), sent("p!1")), take_all_down)
new_case("give up", first(hung("c", "d"), hung("c")), give_up)
new_case("give up what one was called for", first(hung("c", "d"), hung("c"), hung("d"), sent("c", "d")), give_up)
new_case("give up what one has heard of", first(hung("d"), hung("c"), sent("c")), give_up_what_was_called)
new_case("hear what one was called for", first(hung("c", "d"), sent("c", "d")), look_at_news)
new_case("look at what another one was called for", first(hung("c"), hung("c", "d", "e"), sent("c")), look(1))


def one_by_one(*names: str) -> Lawful:
    """Members are reached one after the other."""

    def lawful(old: Snapshot, new: Snapshot) -> Iterable[Snapshot]:
        for count in range(len(names) + 1):
            yield {**old, **{name: new[name] for name in names[:count]}}

    return lawful


new_case(
    "send to many who wait",
    first(ours, hung("c", "d"), hung("d"), hung("p!"), hung("p!")),
    to_many("c", "p!1", "d", "p!2"),
    one_by_one("c", "p!1", "d", "p!2"),
)

# -- the dead -------------------------------------------------------------------------------------------------

new_case("send to one who is dead", first(by_another(hang("c", "d")), hung("c")), append("c"))
new_case("send to one who is dead and waits for much", first(by_another(hang(*"cdefg")), hung("d")), append("c"))
new_case(
    "sweep of doorbells",
    first(by_another(hang("c", "d", "e")), sent("c"), hung("a"), by_another(hang("a", "b"))),
    sweep_bells,
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
new_case("make a name", sent("c"), adopt)
new_case("make a name in an inbox that one has", first(ours, sent("p!1")), adopt)
new_case("make a name in the inbox of a dead owner", unread("p!1", "p!1", "c"), adopt, dropping)

#: An owner that is taken to be dead, and who he is not.
DEAD, ALIVE = (7, 7), (8, 7)


def orphans(group: str, *channels: str) -> Act:
    """Members whose owner is dead; called old, because they count no more."""

    def act(world: World) -> None:
        world.groups.find_dead = lambda owners: owners & {DEAD}
        for number, channel in enumerate(channels):
            world.groups.add(group, channel, DEAD if channel.startswith("old") else (ALIVE, (0, 0))[number % 2])

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

waited = first(messages, hung("w", "v"), hung("w"), by_another(hang("w")))
for step in (6, 14):
    recovery("messages", f"a send to those who wait, step {step}", waited, append("w"), step)
recovery("messages", "a hanging up", waited, hang("w", "v"), 9)
