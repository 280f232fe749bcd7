"""
``receive_twisted``: a Deferred in Twisted's reactor, as Daphne 1 wants it.

A reactor runs once in a process, so each test has one in a child.
"""

from __future__ import annotations

import gc
import signal

import pytest
from helpers.waiting import OPTIONS, assert_sound, fifos, files_of, never_poll, until, waiters

from asgi_ipc import IPCChannelLayer

pytest.importorskip("twisted", reason="needs Twisted")


def in_reactor(main):
    """A child function: run ``main(reactor, talk, layer)``, a generator of Deferreds, in the reactor until it ends."""

    def child(talk, prefix, looks=False, **options):
        from twisted.internet import defer, reactor

        if not looks:
            never_poll()
        layer = IPCChannelLayer(prefix, **{**OPTIONS, **options})
        failures = []

        def over(failure):
            failures.append(failure)
            reactor.stop()

        def begin():
            defer.inlineCallbacks(main)(reactor, talk, layer).addBoth(over)

        reactor.callWhenRunning(begin)
        reactor.run(installSignalHandlers=False)
        layer.close()
        if failures != [None]:
            failures[0].raiseException()
        talk.say("done")

    child.__module__, child.__qualname__ = main.__module__, f"REACTORS.{main.__name__}"
    return child


def pause(reactor, seconds=0.0):
    from twisted.internet import task

    return task.deferLater(reactor, seconds, lambda: None)


def hear(talk):
    from twisted.internet import threads

    return threads.deferToThread(talk.hear)


def receives(reactor, talk, layer):
    """What is there comes at once, what is not when it is there; from several channels, inboxes included."""
    layer.send("a", {"n": 0})
    there = layer.receive_twisted(["a"])
    assert there.called
    assert (yield there) == ("a", {"n": 0})
    none = layer.receive_twisted([])
    assert (yield none) == (None, None)
    for number in range(100):
        waiting = layer.receive_twisted({"a", "b", "http.response!"})
        assert not waiting.called
        talk.say(number)
        talk.say((yield waiting))


def cancels(reactor, talk, layer):
    """A Deferred that is cancelled passes on what it was called for, at any step; nothing is lost."""
    from twisted.internet import defer

    passed_on = 0
    for steps in range(8):
        first, second = (layer.receive_twisted(["a"]) for _ in range(2))
        assert waiters(layer, "a") == 2
        layer.send("a", {"n": steps})
        for _ in range(steps):
            yield pause(reactor)
        if first.called:
            assert (yield first) == ("a", {"n": steps})
            second.cancel()
            first = second
        else:
            passed_on += 1
            first.cancel()
            assert (yield second) == ("a", {"n": steps})
        try:
            yield first
        except defer.CancelledError:
            pass
        else:
            raise AssertionError("not cancelled")
        assert waiters(layer, "a") == 0
    talk.say(passed_on)


def shares(reactor, talk, layer):
    """Called for two channels, it takes one message and leaves the other to the next."""
    from twisted.internet import defer

    for _ in range(20):
        both = layer.receive_twisted(["a", "b"])
        single = {name: layer.receive_twisted([name]) for name in "ab"}
        for name in "ab":
            layer.send(name, {"to": name})
        taken, message = yield both
        assert message == {"to": taken}
        other = {"a": "b", "b": "a"}[taken]
        assert (yield single.pop(other)) == (other, {"to": other})
        left = single[taken]
        left.addErrback(lambda failure: failure.trap(defer.CancelledError))
        left.cancel()
    assert waiters(layer, "a") == waiters(layer, "b") == 0


def heals(reactor, talk, layer):
    """A ring that was lost: the look once a second finds the message. One layer that is closed: an error."""
    waiting = layer.receive_twisted(["a"])
    talk.say("waits")
    assert (yield waiting) == ("a", {"n": 1})
    waiting = layer.receive_twisted(["a"])
    layer.close()
    try:
        yield waiting
    except RuntimeError as error:
        talk.say(str(error))


def is_refused(reactor, talk, layer):
    """Wrong names are refused by the call."""
    for wrong in ("a", ["a b"], ["a!b"], [7]):
        try:
            layer.receive_twisted(wrong)
        except TypeError as error:
            talk.say(str(error))
    yield pause(reactor)


def waits_for_many(reactor, talk, layer):
    """Many at once, through one wakeup FIFO."""
    waiting = [layer.receive_twisted([f"a{number}"]) for number in range(1000)]
    talk.say("wait")
    for number, each in enumerate(waiting):
        assert (yield each) == (f"a{number}", {"n": number})


def is_dropped(reactor, talk, layer):
    """Layers that are dropped leave nothing behind."""
    from twisted.internet import defer

    prefix = layer.prefix
    for number in range(100):
        other = IPCChannelLayer(prefix, **OPTIONS)
        waiting = other.receive_twisted(["a"])
        if number % 2:
            layer.send("a", {})
            yield waiting
        else:
            waiting.addErrback(lambda failure: failure.trap(defer.CancelledError))
            waiting.cancel()
        del other, waiting
        yield pause(reactor)
    gc.collect()
    while files_of(prefix):
        yield pause(reactor, 0.001)
    talk.say(len(reactor.getReaders()))


class REACTORS:
    """The children by name."""


for each in (receives, cancels, shares, heals, is_refused, waits_for_many, is_dropped):
    setattr(REACTORS, each.__name__, staticmethod(in_reactor(each)))


@pytest.fixture
def layer(make_layer):
    """The layer of the test itself."""
    return make_layer()


def test_deferred_fires_with_a_message(layer, prefix, start):
    child = start(REACTORS.receives, prefix)
    for number in range(100):
        assert child.hear() == number
        channel = ("a", "b", "http.response!x")[number % 3]
        layer.send(channel, {"n": number})
        assert child.hear() == [channel, {"n": number}]
    assert child.hear() == "done"
    child.end()
    assert_sound(layer)


def test_cancelled_deferred_passes_the_message_on(layer, prefix, start):
    child = start(REACTORS.cancels, prefix)
    assert 0 < child.hear() < 8
    assert child.hear() == "done"
    child.end()
    assert_sound(layer)


def test_deferred_that_was_called_for_two_channels_leaves_one_to_the_next(layer, prefix, start):
    child = start(REACTORS.shares, prefix)
    assert child.hear() == "done"
    child.end()
    assert_sound(layer)


def test_lost_ring_is_healed_and_close_is_an_error(layer, prefix, start, monkeypatch):
    child = start(REACTORS.heals, prefix, True)
    assert child.hear() == "waits"
    monkeypatch.setattr(layer.message_store.sections.attachment.notifier, "notify", lambda token: True)
    layer.send("a", {"n": 1})
    assert "this layer was closed" in child.hear()
    assert child.hear() == "done"
    child.end()


def test_wrong_names_are_refused(layer, prefix, start):
    child = start(REACTORS.is_refused, prefix)
    assert "must be a list of channel names" in child.hear()
    assert "'a b'" in child.hear()
    assert "receive from the whole inbox, 'a!'" in child.hear()
    assert "it is an int, not a str" in child.hear()
    assert child.hear() == "done"
    child.end()


def test_a_thousand_deferreds_wait_at_once(layer, prefix, start):
    child = start(REACTORS.waits_for_many, prefix)
    assert child.hear() == "wait"
    assert len(files_of(prefix)) == 1
    for number in range(1000):
        layer.send(f"a{number}", {"n": number})
    assert child.hear() == "done"
    child.end()


def test_layers_that_are_dropped_leave_nothing_behind(layer, prefix, start):
    child = start(REACTORS.is_dropped, prefix)
    assert child.hear() <= 1, "the reactor still watches wakeup FIFOs"
    assert child.hear() == "done"
    child.end()


def test_killed_reactor_leaves_nobody_waiting(layer, prefix, start):
    child = start(REACTORS.heals, prefix, True)
    assert child.hear() == "waits"
    child.kill(signal.SIGKILL)
    child._wait()
    layer.send("a", {"n": 1})
    until(lambda: layer.receive(["b"]) == (None, None) and fifos(layer) == 0)  # whoever uses the layer sweeps
    assert layer.receive(["a"]) == ("a", {"n": 1})
    assert waiters(layer, "a") == 0
    assert files_of(prefix) == []
