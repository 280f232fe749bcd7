"""The life cycle of a layer: opening, closing, garbage collection, removal while in use; pickled errors."""

from __future__ import annotations

import copy
import gc
import logging
import os
import pickle
import re

import pytest
from conftest import objects_of_tests
from helpers.layers import Clock, assert_sound, drain, state, until_full

from asgi_ipc import ChannelFull, GroupStoreFull, IPCChannelLayer, MemoryFull, MessageTooLarge, SegmentMismatch

needs_proc = pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")
OPTIONS = {"message_memory": 1 << 20, "group_memory": 1 << 18}

#: Every operation on shared memory, with arguments that work.
OPERATIONS = {
    "send": lambda layer: layer.send("a", {}),
    "receive": lambda layer: layer.receive(["a"]),
    "receive_several": lambda layer: layer.receive(["a", "b"]),
    "receive_many": lambda layer: layer.receive_many(["a"]),
    "new_channel": lambda layer: layer.new_channel("a?"),
    "group_add": lambda layer: layer.group_add("g", "a"),
    "group_discard": lambda layer: layer.group_discard("g", "a"),
    "group_channels": lambda layer: layer.group_channels("g"),
    "send_group": lambda layer: layer.send_group("g", {}),
    "flush": lambda layer: layer.flush(),
    "global_statistics": lambda layer: layer.global_statistics(),
    "channel_statistics": lambda layer: layer.channel_statistics("a"),
    "unlink": lambda layer: layer.unlink(),
}
operations = pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)


@pytest.fixture
def warnings_logged(caplog):
    """Return a function that lists the warnings which the package has logged so far."""
    caplog.set_level(logging.INFO, logger="asgi_ipc")
    return lambda: [r.getMessage() for r in caplog.records if r.name == "asgi_ipc" and r.levelno >= logging.WARNING]


def held(prefix):
    """Return this process's descriptors and mappings of a prefix's objects."""
    descriptors = []
    for number in os.listdir("/proc/self/fd"):
        try:
            descriptors.append(os.readlink(f"/proc/self/fd/{number}"))
        except FileNotFoundError:  # the descriptor that listed the folder
            continue
    with open("/proc/self/maps") as maps:
        mappings = [line.split()[-1] for line in maps if prefix in line]
    return sorted(found for found in descriptors if prefix in found), sorted(mappings)


# -- the layer as an object --


def test_repr_shows_the_prefix(layer):
    assert repr(layer) == f"IPCChannelLayer(prefix={layer.prefix!r})"


def test_a_layer_is_a_context_manager(prefix):
    with IPCChannelLayer(prefix, **OPTIONS) as layer:
        assert isinstance(layer, IPCChannelLayer)
        layer.send("a", {"n": 1})
    with pytest.raises(RuntimeError, match="was closed"):
        layer.receive(["a"])
    with IPCChannelLayer(prefix, **OPTIONS) as layer:
        assert layer.receive(["a"]) == ("a", {"n": 1})


def test_a_layer_closes_when_its_block_raises(prefix):
    with pytest.raises(ZeroDivisionError), IPCChannelLayer(prefix, **OPTIONS) as layer:
        raise ZeroDivisionError
    with pytest.raises(RuntimeError, match="was closed"):
        layer.send("a", {})


def test_closing_twice_does_nothing(make_layer):
    layer = make_layer()
    layer.close()
    layer.close()
    with layer:
        pass


@operations
@pytest.mark.filterwarnings("ignore:receive_many")
def test_a_closed_layer_raises_and_changes_nothing(make_layer, operation):
    layer, other = make_layer(), make_layer()
    other.send("a", {"n": 1})
    other.group_add("g", "a")
    before = state(other)
    layer.close()
    closed = f"{layer.prefix}-(messages|groups): this layer was closed; create a new one"
    with pytest.raises(RuntimeError, match=closed):
        operation(layer)
    assert state(other) == before
    assert other.receive(["a"]) == ("a", {"n": 1})


def test_closing_keeps_messages_and_members(make_layer):
    layer = make_layer()
    layer.send("a", {"n": 1})
    layer.group_add("g", "a")
    layer.close()
    layer = make_layer()
    assert layer.receive(["a"]) == ("a", {"n": 1})
    assert layer.group_channels("g") == ["a"]


# -- what a layer holds --


@needs_proc
def test_several_layers_of_a_process_share_two_segments(prefix, make_layer):
    make_layer()
    one = held(prefix)
    assert len(one[0]) >= 2
    layers = [make_layer() for _ in range(10)]
    for layer in layers:
        layer.send("a", {})
    assert held(prefix) == one


@needs_proc
def test_closing_the_last_layer_releases_the_segments(prefix, make_layer):
    first, second = make_layer(), make_layer()
    first.send("a", {})
    first.close()
    second.send("a", {})
    assert held(prefix) != ([], [])
    second.close()
    assert held(prefix) == ([], [])


@needs_proc
def test_a_thousand_layers_in_turn_leave_nothing(prefix):
    before = len(os.listdir("/proc/self/fd"))
    for number in range(1000):
        layer = IPCChannelLayer(prefix, **OPTIONS)
        layer.send("a", {"n": number})
        assert layer.receive(["a"]) == ("a", {"n": number})
        del layer
    gc.collect()
    assert held(prefix) == ([], [])
    assert len(os.listdir("/proc/self/fd")) == before


@needs_proc
def test_a_thousand_layers_at_once_leave_nothing(prefix):
    layers = [IPCChannelLayer(prefix, **OPTIONS) for _ in range(1000)]
    layers[0].send("a", {})
    assert layers[-1].receive(["a"]) == ("a", {})
    layers.clear()
    gc.collect()
    assert held(prefix) == ([], [])


@needs_proc
def test_a_layer_in_a_reference_cycle_leaves_nothing(prefix):
    layer = IPCChannelLayer(prefix, **OPTIONS)
    layer.itself = layer
    layer.send("a", {})
    del layer
    gc.collect()
    assert held(prefix) == ([], [])


@needs_proc
def test_a_layer_that_could_not_be_made_leaves_nothing(prefix):
    """The message segment is attached before the group segment is refused."""
    with open(os.open(f"/dev/shm/{prefix}-groups", os.O_WRONLY | os.O_CREAT, 0o600), "wb") as file:
        file.write(b"x" * 65536)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        with pytest.raises(SegmentMismatch):
            IPCChannelLayer(prefix, **OPTIONS)
    gc.collect()
    assert held(prefix) == ([], [])
    assert len(os.listdir("/proc/self/fd")) == before


# -- removed while in use --


def objects(prefix):
    """Return the names of a prefix's shared memory objects."""
    return [name for name in objects_of_tests() if prefix in name]


def test_unlink_removes_every_object(prefix, make_layer):
    layer = make_layer()
    layer.send("a", {})
    layer.group_add("g", "a")
    assert len(objects(prefix)) == 5
    layer.unlink()
    assert objects(prefix) == []


@operations
@pytest.mark.filterwarnings("ignore:receive_many")
def test_a_layer_is_empty_after_another_one_unlinked_it(prefix, make_layer, warnings_logged, operation):
    layer, other = make_layer(), make_layer()
    layer.send("a", {"n": "old"})
    layer.group_add("g", "a")
    other.unlink()
    result = operation(layer)
    assert result in (None, (None, None), []) or isinstance(result, (dict, str))
    layer.group_channels("g")
    layer.flush()
    layer.send("a", {"n": "new"})
    assert other.receive(["a"]) == ("a", {"n": "new"})
    assert_sound(layer)
    warnings = [text for text in warnings_logged() if text.startswith(f"{prefix}-messages")]
    assert len(warnings) <= 2  # at most one for each layer object
    assert all("was removed while in use" in text for text in warnings)
    other.unlink()
    assert objects(prefix) == []


def send_and_report_warnings(talk, prefix):
    """Run in a child: send when told to, and report the warnings logged so far."""
    texts = []
    handler = logging.Handler()
    handler.emit = lambda record: texts.append(record.getMessage()) if record.levelno >= logging.WARNING else None
    logging.getLogger("asgi_ipc").addHandler(handler)
    layer = IPCChannelLayer(prefix, **OPTIONS)
    clock = Clock(layer)
    while True:
        layer.send("a", {"from": "child"})
        layer.group_add("g", "child")
        talk.say(texts)
        seconds = talk.hear()
        if seconds is None:
            return
        clock.forward(seconds)


@pytest.mark.parametrize("how", ["unlink", "rm"])
def test_another_process_notices_a_removal_and_attaches_again_with_one_warning(prefix, make_layer, start, how):
    layer = make_layer()
    child = start(send_and_report_warnings, prefix)
    assert child.hear() == []
    layer.send("a", {"n": "old"})
    if how == "unlink":
        layer.unlink()
        seconds = 0
    else:
        layer.close()
        for kind in ("messages", "groups"):
            os.unlink(f"/dev/shm/{prefix}-{kind}")
        seconds = 1.001  # the name is checked once a second
    child.say(seconds)
    expected = [f"{prefix}-{kind} was removed while in use" for kind in ("messages", "groups")]
    warnings = child.hear()
    assert [text.partition(":")[0] for text in warnings] == expected
    layer = make_layer()
    assert drain(layer, "a") == [("a", {"from": "child"})]
    assert layer.group_channels("g") == ["child"]
    child.say(5)
    assert child.hear() == warnings
    assert layer.receive(["a"]) == ("a", {"from": "child"})
    child.say(None)
    child.end()
    layer.unlink()
    assert objects(prefix) == []  # also none of the first segments


def test_a_removed_file_is_noticed_within_one_second_of_use(prefix, make_layer, warnings_logged):
    layer = make_layer()
    clock = Clock(layer)
    layer.send("a", {})
    os.unlink(f"/dev/shm/{prefix}-messages")
    for _ in range(101):
        clock.forward(0.01)
        layer.receive(["b"])
    assert len(warnings_logged()) == 1
    assert os.path.exists(f"/dev/shm/{prefix}-messages")


def test_unlink_removes_the_successor_of_a_removed_segment(prefix, make_layer):
    layer = make_layer()
    for kind in ("messages", "groups"):
        os.unlink(f"/dev/shm/{prefix}-{kind}")
    Clock(layer)  # the clock stands still, so the layer does not check the name
    with IPCChannelLayer(prefix + "x", **OPTIONS) as other:
        for kind in ("messages", "groups"):
            os.rename(f"/dev/shm/{prefix}x-{kind}", f"/dev/shm/{prefix}-{kind}")
        os.rmdir(f"/dev/shm/{prefix}x-messages.wakeup")
        layer.unlink()
        assert [name for name in objects(prefix) if not name.startswith("sem.")] == []
        other.close()


def test_unlinking_twice_creates_nothing(prefix, make_layer, warnings_logged):
    layer, other = make_layer(), make_layer()
    layer.unlink()
    layer.unlink()
    other.unlink()
    assert objects(prefix) == []
    assert warnings_logged() == []


# -- errors --


def test_errors_of_a_layer_can_be_pickled_and_copied(make_layer):
    layer = make_layer(message_memory=128 * 1024, group_memory=64 * 1024, capacity=1000, channel_capacity={"one": 1})
    layer.send("one", {})
    errors = [
        until_full(lambda _: layer.send("one", {}))[1],
        until_full(lambda number: layer.send(f"c{number}", {"d": b"x" * 500}))[1],
        until_full(lambda number: layer.group_add("g", f"c{number}"))[1],
    ]
    with pytest.raises(MessageTooLarge) as too_large:
        layer.send("a", {"d": bytes(10**6)})
    errors.append(too_large.value)
    assert [type(error) for error in errors] == [ChannelFull, MemoryFull, GroupStoreFull, MessageTooLarge]
    for error in errors:
        for other in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
            assert type(other) is type(error)
            assert vars(other) == vars(error)
            assert str(other) == str(error)
            assert re.search(r"one|c\d+|'a'", str(other))
