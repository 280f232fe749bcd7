"""
Layers in programs that gevent or eventlet has patched: before everything, before the layer, after a fork, and too late.

Several greenlets send and receive beside another process, while processes that use the layer are killed. So greenlets
wait for the mutex, and some recover the store. Every message is accounted for.
"""

from __future__ import annotations

import contextlib
import os
import posix
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.holders import holds
from helpers.layers import assert_sound
from helpers.processes import Children, Talk, reap

from asgi_ipc import IPCChannelLayer
from asgi_ipc.shm.wakeup_fifo import Notifier, WakeupFifo

from .boot import need, patch
from .crowd import killing, player
from .traffic import OPTIONS, RECEIVERS, SENDERS, assert_accounted, assert_all_took_part, play

SECONDS = 3.0
BOOT = str(Path(__file__).with_name("boot.py"))


@pytest.fixture(params=["gevent", "eventlet"])
def library(request: pytest.FixtureRequest) -> str:
    """A library that replaces threads."""
    need(request.param)
    return str(request.param)


def test_every_message_is_accounted_for_if_the_program_is_patched_first(
    library: str, prefix: str, start: Children, make_layer: Callable[..., IPCChannelLayer]
) -> None:
    layer = make_layer(**OPTIONS)
    beside = player(start, prefix, "threads", SECONDS)
    greenlets = start(plays_patched, prefix, SECONDS, through=[sys.executable, BOOT, library])
    assert greenlets.hear() == library
    with killing(start, prefix):
        greenlets.say()
        beside.say()
        tallies = [greenlets.hear(), beside.hear()]
    assert_accounted(layer, tallies, ["greenlets", "threads"])
    assert_all_took_part(tallies)
    assert_sound(layer)


def plays_patched(talk: Talk, prefix: str, seconds: float) -> None:
    assert "greenlet" in sys.modules
    with IPCChannelLayer(prefix, **OPTIONS) as layer:
        talk.say("gevent" if "gevent.monkey" in sys.modules else "eventlet")
        talk.hear()
        talk.say(play(layer, "greenlets", seconds, pauses=True))


def test_every_message_is_accounted_for_if_only_the_import_came_before_the_patch(
    library: str, prefix: str, start: Children, make_layer: Callable[..., IPCChannelLayer]
) -> None:
    layer = make_layer(**OPTIONS)
    beside = player(start, prefix, "threads", SECONDS)
    greenlets = start(imports_and_patches, library, prefix, SECONDS)
    assert greenlets.hear() == "ready"
    with killing(start, prefix):
        greenlets.say()
        beside.say()
        tallies = [greenlets.hear(), beside.hear()]
    assert_accounted(layer, tallies, ["greenlets", "threads"])
    assert_all_took_part(tallies)
    assert_sound(layer)


def imports_and_patches(talk: Talk, library: str, prefix: str, seconds: float) -> None:
    assert "asgi_ipc" in sys.modules
    patch(library)
    with IPCChannelLayer(prefix, **OPTIONS) as layer:
        talk.say("ready")
        talk.hear()
        talk.say(play(layer, "greenlets", seconds, pauses=True))


def test_every_message_is_accounted_for_if_a_forked_child_is_patched(
    library: str, prefix: str, start: Children, make_layer: Callable[..., IPCChannelLayer]
) -> None:
    """The child has the layer of its parent, which the parent has used. The parent goes on using it."""
    layer = make_layer(**OPTIONS)
    beside = player(start, prefix, "threads", SECONDS)
    greenlets = start(forks_and_patches, library, prefix, SECONDS)
    assert greenlets.hear() == "ready"
    with killing(start, prefix):
        greenlets.say()
        beside.say()
        tallies = [greenlets.hear(), beside.hear()]
    greenlets.end()
    assert_accounted(layer, tallies, ["greenlets", "threads"])
    assert_all_took_part(tallies)
    assert_sound(layer)


def forks_and_patches(talk: Talk, library: str, prefix: str, seconds: float) -> None:
    layer = IPCChannelLayer(prefix, **OPTIONS)
    use(layer)
    child = os.fork()
    if child == 0:
        patch(library)
        talk.say("ready")
        talk.hear()
        talk.say(play(layer, "greenlets", seconds, pauses=True))
        os._exit(0)
    assert reap(child) == 0
    use(layer)
    layer.close()


def use(layer: IPCChannelLayer) -> None:
    """Use every lock of the package once."""
    layer.send("parent", {})
    layer.send_group("parent", {})
    assert layer.receive(["parent"], block=True)[0] == "parent"


def test_a_layer_is_refused_if_gevent_patches_the_program_after_its_first_use(
    prefix: str, start: Children, make_layer: Callable[..., IPCChannelLayer]
) -> None:
    """The error comes at the latest in a second, and says to patch first. Nothing is lost before that."""
    need("gevent")
    layer = make_layer(**OPTIONS)
    greenlets = start(patches_late, "gevent", prefix)
    tally = greenlets.hear()
    refused, other, unlinking = greenlets.hear()
    greenlets.end()
    for error in [*tally["errors"], refused, other, unlinking]:
        assert error.startswith("RuntimeError: gevent or eventlet has replaced the threads of this process after")
        assert "call gevent.monkey.patch_all() or eventlet.monkey_patch() first" in error
    assert len(tally["errors"]) == SENDERS + RECEIVERS + 1
    tally["errors"] = []
    assert_accounted(layer, [tally], ["greenlets"])
    assert_sound(layer)


def test_every_message_is_accounted_for_if_eventlet_patches_the_program_after_the_first_use(
    prefix: str, start: Children, make_layer: Callable[..., IPCChannelLayer]
) -> None:
    """eventlet finds the locks that exist, and replaces them itself."""
    need("eventlet")
    layer = make_layer(**OPTIONS)
    greenlets = start(patches_late, "eventlet", prefix)
    tally = greenlets.hear()
    assert greenlets.hear() == ["", "", ""]
    greenlets.end()
    assert_accounted(layer, [tally], ["greenlets"])
    assert_all_took_part([tally])
    assert_sound(layer)


def patches_late(talk: Talk, library: str, prefix: str) -> None:
    layer = IPCChannelLayer(prefix, **OPTIONS)
    use(layer)
    patch(library)
    talk.say(play(layer, "greenlets", 3, pauses=True))
    other = f"{prefix}.other"
    talk.say(
        [
            error_of(lambda: layer.send("late", {})),
            error_of(lambda: IPCChannelLayer(other, **OPTIONS).unlink()),
            error_of(lambda: layer.group_store.unlink()),
        ]
    )
    layer.close()


def error_of(call: Callable[[], object]) -> str:
    """The error of a call, or an empty string."""
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def test_greenlets_of_a_program_with_native_locks_are_refused_inside_and_not_let_in(
    prefix: str, start: Children, make_layer: Callable[..., IPCChannelLayer]
) -> None:
    """
    ``patch_all(thread=False)`` leaves all locks native, so that they let in every greenlet of a thread.

    Greenlets do not change inside a recovery. If something else lets them, the second one gets an error.
    """
    need("gevent")
    layer = make_layer(**OPTIONS)
    greenlets = start(keeps_threads, prefix)
    assert greenlets.hear() == "ready"
    holder = start(holds, prefix, "message_store")
    holder.hear()
    holder.die()
    greenlets.say()
    assert greenlets.hear() == ["", ""]
    refused, later = greenlets.hear()
    assert refused.startswith(f"RuntimeError: another greenlet of this thread is using {prefix}-messages")
    assert later == ""
    greenlets.end()
    assert layer.message_store.recoveries()["death"] == 1
    assert layer.message_store.recoveries()["exception"] == 0
    assert_sound(layer)


def keeps_threads(talk: Talk, prefix: str) -> None:
    import gevent.monkey

    gevent.monkey.patch_all(thread=False)
    layer = IPCChannelLayer(prefix, **OPTIONS)
    talk.say("ready")
    talk.hear()

    def send() -> str:
        return error_of(lambda: layer.send("greenlets", {}))

    both = [gevent.spawn(send) for _ in range(2)]
    talk.say([each.get() for each in both])
    inside = gevent.spawn(layer.message_store.sections.exclusively, time.sleep, 0.1)
    gevent.sleep(0)
    refused = send()
    inside.get()
    talk.say([refused, send()])
    layer.close()


def test_a_notification_never_waits(library: str, prefix: str, start: Children) -> None:
    """eventlet's ``os.write`` and ``os.read`` wait for a descriptor, even if it is one that must not block."""
    greenlets = start(notifies, prefix, through=[sys.executable, BOOT, library])
    assert greenlets.hear() == [True, True, False]
    greenlets.end()


def notifies(talk: Talk, prefix: str) -> None:
    signal.alarm(10)
    fifo, notifier = WakeupFifo(prefix, 0o600, os.getgid()), Notifier(prefix, 0o600)
    first = notifier.notify(fifo.token)
    with contextlib.suppress(BlockingIOError):
        while True:
            posix.write(fifo.fd, bytes(4096))
    full = notifier.notify(fifo.token)
    fifo.drain()
    fifo.drain()
    talk.say([first, full, fifo.wait(0.01)])
    notifier.close()
    fifo.close()


def test_greenlets_that_wait_for_messages_survive_a_fork(
    prefix: str, start: Children, make_layer: Callable[..., IPCChannelLayer]
) -> None:
    """gevent copies them: those of the child open FIFOs of their own. Every message is received once."""
    need("gevent")
    layer = make_layer(**OPTIONS)
    greenlets = start(forks_while_it_waits, prefix, through=[sys.executable, BOOT, "gevent"])
    assert sorted(greenlets.hear() for _ in range(2)) == ["child", "parent"]
    count = 40
    for number in range(count):
        layer.send("forked", {"n": number})
        time.sleep(0.01)
    for _ in range(2):
        layer.send("forked", {})
    heard = dict(greenlets.hear() for _ in range(2))
    greenlets.end()
    assert sorted(heard["parent"] + heard["child"]) == list(range(count))
    assert_sound(layer)


def forks_while_it_waits(talk: Talk, prefix: str) -> None:
    layer = IPCChannelLayer(prefix, **OPTIONS)
    numbers: list[int] = []

    def receive() -> None:
        while True:
            channel, message = layer.receive(["forked"], block=True)
            if channel and message is not None:
                if "n" not in message:
                    return
                numbers.append(message["n"])

    import gevent

    receiver = gevent.spawn(receive)
    time.sleep(0.05)
    child = os.fork()
    who = "parent" if child else "child"
    talk.say(who)
    receiver.get()
    talk.say([who, numbers])
    if not child:
        os._exit(0)
    assert reap(child) == 0
    layer.close()


def test_a_greenlet_that_waits_for_a_message_lets_others_run(library: str, prefix: str, start: Children) -> None:
    """One greenlet blocks in ``receive`` until another has sent, with descriptors above the limit of ``select``."""
    greenlets = start(waits_and_sends, prefix, through=[sys.executable, BOOT, library])
    channel, turns, seconds = greenlets.hear()
    greenlets.end()
    assert channel == "late"
    assert turns >= 10
    assert seconds < 5


def waits_and_sends(talk: Talk, prefix: str) -> None:
    opened = [os.open("/dev/null", os.O_RDONLY) for _ in range(1100)]
    assert max(opened) > 1024
    layer = IPCChannelLayer(prefix, **{**OPTIONS, "block_timeout": 30})
    turns = []

    def send() -> None:
        for turn in range(10):
            time.sleep(0.01)
            turns.append(turn)
        layer.send("late", {})

    sender = threading.Thread(target=send)
    began = time.monotonic()
    sender.start()
    channel, _ = layer.receive(["late"], block=True)
    talk.say([channel, len(turns), time.monotonic() - began])
    sender.join()
    layer.unlink()
    layer.close()
