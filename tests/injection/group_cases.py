"""The operations on groups, each with the state that it starts from."""

from __future__ import annotations

__all__ = ["add", "discard", "members"]

import contextlib

from asgi_ipc.exceptions import ChannelFull
from asgi_ipc.shm.layout import AT_RESERVED

from .cases import Act, case, check, first, grows, refused, sweep_all
from .message_cases import flush, sweep_everything
from .world import EXPIRY, World

KIND = "groups"
LONGEST = 99


# -- acts ----------------------------------------------------------------------------------------------------


def members(group: str, *channels: str) -> Act:
    """Add these members to a group; the membership of those named ``old`` has expired."""

    def act(world: World) -> None:
        for channel in channels:
            ago = EXPIRY * 10**9 if channel.startswith("old") else 0
            world.clock.now -= ago
            world.groups.add(group, channel)
            world.clock.now += ago

    return act


def add(group: str, channel: str) -> Act:
    return lambda world: world.groups.add(group, channel)


def add_later(group: str, channel: str) -> Act:
    def act(world: World) -> None:
        world.clock.now += 10**9
        world.groups.add(group, channel)

    return act


def discard(group: str, channel: str) -> Act:
    return lambda world: world.groups.discard(group, channel)


def lists(group: str, *right: str) -> Act:
    return lambda world: check(world.groups.channels(group) == list(right), "other members")


def full(world: World) -> None:
    """Fill the memory with members: with long names while they fit, then with short ones."""
    for length in (LONGEST, 1):
        with contextlib.suppress(ChannelFull):
            for number in range(10**6):
                world.groups.add("crowd", f"{number:x}".ljust(length, "m"))


def almost_growing(world: World) -> None:
    """Add members until the next one needs memory that is not reserved yet."""
    number, reserved, image = 0, 0, b""
    while number < 5 or world.words[AT_RESERVED] == reserved:
        reserved, image = world.words[AT_RESERVED], bytes(world.data[:])
        number += 1
        world.groups.add("g", f"{number}".ljust(LONGEST, "m"))
    world.data[:] = image


def new_case(name: str, prepare: Act, operate: Act, fresh: bool = False) -> None:
    case(KIND, name, prepare, operate, fresh)


# -- the cases -----------------------------------------------------------------------------------------------

new_case("first member of all", first(), add("g", "a"))
new_case("first use of a slot by groups", members("g", "a"), add("g", "b"), fresh=True)
new_case("first member", members("h", "a"), add("g", "a"))
new_case("second member", first(members("g", "a"), members("h", "a")), add("g", "b"))
new_case("renewal", members("g", "a", "b", "c"), add_later("g", "b"))
new_case("member that grows memory", almost_growing, grows(add("g", "n" * LONGEST)))
new_case("member refused without memory", full, refused(add("crowd", "n" * LONGEST)))
new_case(
    "group refused without memory",
    first(full, discard("crowd", "0".ljust(LONGEST, "m"))),  # memory for its record, but not for a member
    refused(add("g" * LONGEST, "n" * LONGEST)),
)
new_case("discard of the first", members("g", "a", "b", "c"), discard("g", "a"))
new_case("discard of one in the middle", members("g", "a", "b", "c"), discard("g", "b"))
new_case("discard of the last", members("g", "a", "b", "c"), discard("g", "c"))
new_case("discard of the only one", first(members("g", "a"), members("h", "a")), discard("g", "a"))
new_case("discard of no member", members("g", "a"), discard("g", "b"))
new_case("list", members("g", "a", "b"), lists("g", "a", "b"))
new_case("list with expired memberships", members("g", "old1", "a", "old2", "b", "old3"), lists("g", "a", "b"))
new_case("list of expired memberships", first(members("g", "old1", "old2"), members("h", "a")), lists("g"))
new_case(
    "sweep of groups",
    first(members("g", "old1", "a"), members("h", "old1"), members("i", "b")),
    sweep_all,
)
new_case("sweep of all groups", first(members("g", "old1", "a"), members("h", "old1")), sweep_everything)
new_case("flush of groups", first(*(members(group, "a", "b") for group in "abcdefgh")), flush)
