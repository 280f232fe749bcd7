"""
The layers while a test freezes or moves the time of its process, as freezegun and time-machine do.

Each case (``frozen``) runs in a child, which ends itself if it hangs.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from helpers.holders import STORES, holds
from helpers.processes import Children
from helpers.waiting import OPTIONS, until, waiters

from asgi_ipc import IPCChannelLayer

from . import frozen

pytest.importorskip("freezegun", reason="needs freezegun: pip install 'asgi_ipc[test]'")
pytest.importorskip("time_machine", reason="needs time-machine: pip install 'asgi_ipc[test]'")

freezers = pytest.mark.parametrize("freezer", frozen.FREEZERS)
#: Without the one that stops the clocks of the package, by which messages expire.
libraries = pytest.mark.parametrize("freezer", [name for name in frozen.FREEZERS if name != "own-clocks"])


@freezers
def test_messages_within_a_process(start: Children, prefix: str, freezer: str) -> None:
    child = start(frozen.in_one_process, prefix, freezer)
    assert child.hear() == "done"
    child.end()


@freezers
@pytest.mark.parametrize(
    "case", [frozen.sync_message_of_a_process, frozen.async_message_of_a_process], ids=["sync", "async"]
)
def test_a_message_of_another_process(
    start: Children, prefix: str, case: Callable[..., None], freezer: str
) -> None:
    child = start(case, prefix, freezer)
    assert child.hear() == "receiving"
    with IPCChannelLayer(prefix, **OPTIONS) as layer:
        until(lambda: waiters(layer, "a") == 1)
        layer.send("a", {"n": 1})
        assert child.hear() == "done"
    child.end()


@libraries
def test_messages_and_members_expire_by_the_real_clock(start: Children, prefix: str, freezer: str) -> None:
    child = start(frozen.sync_expiry, prefix, freezer)
    assert child.hear() == "done"
    child.end()


@pytest.mark.parametrize("freezer", [name for name in frozen.FREEZERS if name != "freezegun-auto-tick"])
def test_a_receive_that_waits_leaves_the_processor_alone(start: Children, prefix: str, freezer: str) -> None:
    """(With ``auto_tick_seconds`` a loop's timers are due at once: it is the loop that never sleeps then.)"""
    child = start(frozen.async_idle, prefix, freezer)
    assert child.hear() == "done"
    child.end()


@pytest.mark.parametrize("freezer", ["freezegun", "freezegun-auto-tick", "time-machine-still"])
def test_a_dead_holder_is_found(start: Children, prefix: str, freezer: str) -> None:
    for store, _ in STORES.values():
        holder = start(holds, prefix, store)
        holder.hear()
        holder.die()
    child = start(frozen.sync_after_a_dead_holder, prefix, freezer)
    assert child.hear() == "done"
    child.end()
