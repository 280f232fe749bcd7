"""A second copy of the package in one process is refused, and takes nothing from the first one."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from helpers.copies import Subinterpreter, another_copy
from helpers.holders import OPTIONS
from helpers.layers import assert_sound, drain
from helpers.processes import Children, Talk
from helpers.segments import needs_files, path_of

from asgi_ipc import IPCChannelLayer, SegmentRefused
from asgi_ipc.shm import copies
from asgi_ipc.shm.layout import KIND_MESSAGES
from asgi_ipc.shm.segment import Segment
from asgi_ipc.structures.heap import Heap

pytestmark = needs_files

#: What the refusal of a second copy says.
PARTS = (
    "another copy of asgi_ipc in this process already uses it",
    "WSGIApplicationGroup %{GLOBAL}",
    "single-interpreter = true",
    "sys.modules",
    "another prefix",
)
#: A byte that no slot has.
BYTE = 1 << 20


def owner_of(layer: IPCChannelLayer) -> bool | None:
    """True if the kernel proves that this process uses the layer's messages."""
    attachment = layer.message_store.sections.opened()
    return attachment.segment.locks.is_ours(1 + attachment.liveness.slot)


def descriptors(path: str) -> int:
    """Return how many descriptors of a file this process has."""
    found = 0
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # that of the listing
            found += os.readlink(f"/proc/self/fd/{name}") == path
    return found


# -- a purge of sys.modules --


def test_a_copy_made_by_a_purge_of_sys_modules_is_refused(prefix: str, layer: IPCChannelLayer, start: Children) -> None:
    layer.receive(["p!"])
    layer.group_add("g", "p!a")
    second = another_copy()
    assert second.IPCChannelLayer is not IPCChannelLayer
    before = descriptors(path_of(prefix))
    for _ in range(3):
        with pytest.raises(second.SegmentRefused) as refusal:
            second.IPCChannelLayer(prefix, **OPTIONS)
        for part in PARTS:
            assert part in str(refusal.value)
    assert descriptors(path_of(prefix)) == before
    assert owner_of(layer)
    observer = start(sees, prefix)
    assert observer.hear() == ["p!a"]
    layer.close()
    with second.IPCChannelLayer(prefix, **OPTIONS) as its:  # now it is the only copy that uses the prefix
        its.send("a", {"n": 1})
        assert its.receive(["a"]) == ("a", {"n": 1})
        with pytest.raises(SegmentRefused):
            IPCChannelLayer(prefix, **OPTIONS)


def sees(talk: Talk, prefix: str) -> None:
    """A child: report the members of a group. Those of dead processes leave it."""
    with IPCChannelLayer(prefix, **OPTIONS) as layer:
        talk.say(layer.group_channels("g"))


def test_each_copy_can_use_a_prefix_of_its_own(prefix: str, layer: IPCChannelLayer) -> None:
    second = another_copy()
    with second.IPCChannelLayer(f"{prefix}-2", **OPTIONS) as its:
        its.send("a", {"n": 2})
        layer.send("a", {"n": 1})
        assert its.receive(["a"]) == ("a", {"n": 2})
        its.unlink()
    assert owner_of(layer)


def test_a_layer_that_its_copy_drops_makes_room_for_the_next_copy(prefix: str) -> None:
    first, second = another_copy(), another_copy()
    layer = first.IPCChannelLayer(prefix, **OPTIONS)
    with pytest.raises(second.SegmentRefused):
        second.IPCChannelLayer(prefix, **OPTIONS)
    del layer  # it is part of a cycle
    second.IPCChannelLayer(prefix, **OPTIONS).close()


# -- without /proc --


@pytest.fixture
def blind(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A copy in a process that cannot read its mappings."""
    copy = another_copy()
    monkeypatch.setattr(copy.shm.copies, "MAPS", "/proc/does-not-exist")
    return copy


def test_without_proc_the_byte_locks_show_the_first_copy(prefix: str, layer: IPCChannelLayer, blind: Any) -> None:
    """The second copy had to open the file, and must not close it."""
    before = descriptors(path_of(prefix))
    for _ in range(3):
        with pytest.raises(blind.SegmentRefused, match="another copy of asgi_ipc"):
            blind.IPCChannelLayer(prefix, **OPTIONS)
        assert owner_of(layer)
        assert descriptors(path_of(prefix)) == before + 1
    layer.close()
    with blind.IPCChannelLayer(prefix, **OPTIONS) as its:
        its.send("a", {})
        its.unlink()
    assert descriptors(path_of(prefix)) == 0


# -- at the same time --


def races(talk: Talk, prefix: str, rounds: int) -> None:
    """A child: let four copies open the same prefix at the same time, and report what came of it."""
    all_copies = [another_copy() for _ in range(4)]
    for number in range(rounds):
        name = f"{prefix}-{number}"
        barrier = threading.Barrier(len(all_copies))
        layers: list[Any] = []
        refusals: list[str] = []

        def opens(
            copy: Any,
            name: str = name,
            barrier: threading.Barrier = barrier,
            layers: list[Any] = layers,
            refusals: list[str] = refusals,
        ) -> None:
            barrier.wait()
            try:
                layers.append(copy.IPCChannelLayer(name, **OPTIONS))
            except copy.SegmentRefused as error:
                refusals.append(error.segment)

        threads = [threading.Thread(target=opens, args=(copy,)) for copy in all_copies]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        talk.say([len(layers), len(refusals), [owner_of(layer) for layer in layers]])
        for layer in layers:
            layer.unlink()
            layer.close()


def test_of_copies_that_open_a_prefix_at_the_same_time_one_gets_it(prefix: str, start: Children) -> None:
    rounds = 25
    child = start(races, prefix, rounds)
    for _ in range(rounds):
        assert child.hear() == [1, 3, [True]], child.errors()
    child.end()


# -- subinterpreters --


@pytest.fixture
def subinterpreter() -> Iterator[Subinterpreter]:
    made = Subinterpreter()
    yield made
    made.destroy()


OPEN = "import asgi_ipc\nlayer = asgi_ipc.IPCChannelLayer({!r}, **{!r})"


def test_a_subinterpreter_is_refused(prefix: str, layer: IPCChannelLayer, subinterpreter: Subinterpreter) -> None:
    refusal = subinterpreter.run(OPEN.format(prefix, OPTIONS))
    assert refusal is not None
    assert refusal.startswith("SegmentRefused: ")
    for part in PARTS:
        assert part in refusal
    layer.send("a", {"n": 1})
    assert owner_of(layer)
    assert subinterpreter.run(OPEN.format(f"{prefix}-own", OPTIONS) + "\nlayer.unlink(); layer.close()") is None
    assert owner_of(layer)
    assert drain(layer, "a") == [("a", {"n": 1})]
    assert_sound(layer)


def test_a_layer_of_a_subinterpreter_keeps_the_main_one_out(
    prefix: str, make_layer: Callable[..., IPCChannelLayer], subinterpreter: Subinterpreter, start: Children
) -> None:
    uses = OPEN.format(prefix, OPTIONS) + "\nlayer.receive(['p!']); layer.group_add('g', 'p!a')"
    assert subinterpreter.run(uses) is None
    for _ in range(2):
        with pytest.raises(SegmentRefused, match="another copy of asgi_ipc"):
            make_layer()
    assert start(sees, prefix).hear() == ["p!a"]  # its proof of life is still there
    assert subinterpreter.run("layer.send('a', {'n': 1})\nlayer.close()") is None
    assert make_layer().receive(["a"]) == ("a", {"n": 1})


# -- one copy that maps a file twice --


def test_a_segment_that_is_closed_leaves_the_locks_of_one_on_the_same_file(prefix: str) -> None:
    """That happens if a process was killed while it removed the segment: its next user finishes the removal."""

    def attach() -> Segment:
        return Segment.attach(prefix, KIND_MESSAGES, 1 << 18, 0o600, 1.0, lambda new: Heap(new).rebuild([]))

    first = attach()
    assert first.locks.lock(BYTE)
    attach().close()
    assert first.locks.is_ours(BYTE)
    first.remove(1.0)
    first.close()
    assert descriptors(f"/dev/shm/{prefix} (deleted)") == 0


def test_the_files_in_use_are_forgotten(prefix: str, layer: IPCChannelLayer) -> None:
    segment = layer.message_store.sections.opened().segment
    assert segment.locked in copies._uses
    layer.close()
    assert segment.locked not in copies._uses
