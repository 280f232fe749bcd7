"""Recoveries: operations that find a dead holder of the mutex, and are interrupted during the recovery."""

from __future__ import annotations

__all__ = ["recovery"]

from asgi_ipc.shm.fifo_directory import sweep_fifos

from .cases import PAGE_RECORDS, Act, case, first, only_new
from .group_cases import add, discard, members
from .message_cases import append, flush, numbered, pop, received, sent, share_inbox, to_many
from .world import World, die_inside, garble, postpone_sweeps


def snapshot(world: World) -> None:
    world.store.snapshot()


def recovery(kind: str, name: str, prepare: Act, operate: Act, at: int) -> None:
    """Recover from an operation that was killed before step ``at``."""

    def die(world: World) -> None:
        prepare(world)
        postpone_sweeps(world)
        garble(world, name)
        die_inside(world, operate, at)
        sweep_fifos(world.store.name, 0o600)  # remove the dead process's FIFO files, as every creation does

    case(kind, f"recovery of {name}", die, snapshot, fresh=True, allowed=only_new, dead=True)


messages = first(
    share_inbox,
    sent("c", "c", "d", "p!1", "p!2", "p!1", *numbered(PAGE_RECORDS + 2)),
    to_many("c", "d", "p!1"),
    received("c1", "c2"),
    sent("large", size=3000),
)
groups = first(
    members("g", "a", "b", "c", "d"), members("h", "a", "e"), members("i", "a"), discard("g", "b")
)

for step in (3, 12):  # before and after the commit
    recovery("messages", f"a send, step {step}", messages, append("p!3"), step)
recovery("messages", "a receive", messages, pop("p!"), 5)
recovery("messages", "a flush", messages, flush, 15)
recovery("groups", "an addition", groups, add("k", "a"), 14)
recovery("groups", "a discard", groups, discard("g", "c"), 4)
recovery("groups", "a flush of groups", groups, flush, 20)
