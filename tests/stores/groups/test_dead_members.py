"""Members of dead processes leave their groups, whatever message segments their owners were counted in."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from asgi_ipc import SegmentBusy
from asgi_ipc.locking.liveness import OwnedInbox, Owner
from asgi_ipc.stores.groups.members import EXPIRES, NONCE, OWNER, Members
from asgi_ipc.stores.groups.store import GroupStore

OLD_SEGMENT, SEGMENT = 5, 6


class Deaths:
    """Stands for the message store: of the owners in its segment, those in ``dead`` are dead."""

    def __init__(self) -> None:
        self.dead: set[int] = set()

    def dead_owners(self, owners: Iterable[Owner]) -> set[Owner]:
        return {owner for owner in owners if owner.nonce == SEGMENT and owner.process in self.dead}

    def unshared_inboxes(self, suspects: Iterable[OwnedInbox]) -> set[OwnedInbox]:
        return set(suspects)


@pytest.fixture
def deaths() -> Deaths:
    return Deaths()


@pytest.fixture
def groups(prefix: str, deaths: Deaths) -> Any:
    store = GroupStore(prefix, deaths, 1 << 18)
    yield store
    store.unlink()
    store.close()


@pytest.mark.parametrize("old_first", [True, False])
def test_equal_numbers_of_two_segments_are_two_owners(groups: GroupStore, deaths: Deaths, old_first: bool) -> None:
    """A new message segment counts its owners anew: of those in the old one nothing is proven, nor hidden."""
    nonces = [OLD_SEGMENT, SEGMENT] if old_first else [SEGMENT, OLD_SEGMENT]
    for nonce in nonces:
        groups.add("group", f"inbox{nonce}!a", Owner(7, nonce))
    assert len(groups.channels("group")) == 2
    deaths.dead.add(7)
    assert groups.channels("group") == [f"inbox{OLD_SEGMENT}!a"]


@pytest.mark.parametrize("operation", ["add", "discard"])
def test_a_sweep_that_fails_does_not_deny_what_was_done(
    groups: GroupStore, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    groups.add("group", "kept")
    run, swept = groups.sections.run, []

    def broken(section: Any, *args: Any) -> Any:
        if section is Members.sweep:
            swept.append(section)
            raise SegmentBusy(groups.name, None, 1.0)
        return run(section, *args)

    monkeypatch.setattr(groups.sections, "run", broken)
    groups._sweep_due = 0
    if operation == "add":
        groups.add("group", "new")
    else:
        groups.discard("group", "kept")
    assert swept
    assert groups.channels("group") == (["kept", "new"] if operation == "add" else [])


def killed_at(word: int, members: Members, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have ``members`` raise in place of the next store to the field ``word`` of a member."""
    words = members.words

    class Words:
        def __getitem__(self, at: Any) -> Any:
            return words[at]

        def __setitem__(self, at: int, value: int) -> None:
            if at == members_at[0] + word and value:
                raise KeyboardInterrupt
            words[at] = value

    members_at = [member for record in members.groups_in(range(1 << 20)) for member in members.walk(record)]
    monkeypatch.setattr(members, "words", Words())


@pytest.mark.parametrize("word", [NONCE, OWNER, EXPIRES], ids=["nonce", "owner", "expires"])
def test_a_kill_in_a_renewal_mixes_no_owner_with_the_segment_of_another(
    groups: GroupStore, deaths: Deaths, monkeypatch: pytest.MonkeyPatch, word: int
) -> None:
    """The message segment was replaced. Process 7 of the new one is dead, and is not the owner."""
    groups.add("group", "inbox!a", Owner(7, OLD_SEGMENT))
    deaths.dead.add(7)
    with monkeypatch.context() as patch:
        killed_at(word, groups.sections.parts.members, patch)
        with pytest.raises(KeyboardInterrupt):
            groups.add("group", "inbox!a", Owner(8, SEGMENT))
    assert groups.channels("group") == ["inbox!a"]
    deaths.dead.add(8)
    groups.add("group", "inbox!a", Owner(8, SEGMENT))
    assert groups.channels("group") == []
