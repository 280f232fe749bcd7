"""
``receive_twisted``: a Deferred in Twisted's reactor, as Daphne 1 needs it.

A reactor can run only once in a process, so each test runs one in a child.
"""

from __future__ import annotations

import gc
import signal

import pytest
from helpers.waiting import OPTIONS, assert_sound, fifos, files_of, never_poll, until, waiters

from asgi_ipc import IPCChannelLayer

pytest.importorskip("twisted", reason="needs Twisted")


def in_reactor(main):
    """
    Return a child's function that runs ``main(reactor, talk, layer)`` in the reactor.

    ``main`` is a generator of Deferreds, as ``inlineCallbacks`` expects it.
    """

    def child(talk, prefix, poll=False, **options):
        from twisted.internet import defer, reactor

        if not poll:
            never_poll()
        layer = IPCChannelLayer(prefix, **{**OPTIONS, **options})
        failures = []

        def stop(failure):
            failures.append(failure)
            reactor.stop()

        def begin():
            defer.inlineCallbacks(main)(reactor, talk, layer).addBoth(stop)

        reactor.callWhenRunning(begin)
        reactor.run(installSignalHandlers=False)
        layer.close()
        if failures != [None]:
            failures[0].raiseException()
        talk.say("done")

    child.__module__, child.__qualname__ = main.__module__, f"REACTORS.{main.__name__}"
    return child


def pause(reactor, seconds=0.0):
    """Return a Deferred that fires after ``seconds``, in a later step of the reactor."""
    from twisted.internet import task

    return task.deferLater(reactor, seconds, lambda: None)


def receives(reactor, talk, layer):
    """Receive a message that is there already, then messages that are sent later to channels and an inbox."""
    layer.send("a", {"n": 0})
    ready = layer.receive_twisted(["a"])
    assert ready.called
    assert (yield ready) == ("a", {"n": 0})
    none = layer.receive_twisted([])
    assert (yield none) == (None, None)
    for number in range(100):
        waiting = layer.receive_twisted({"a", "b", "http.response!"})
        assert not waiting.called
        talk.say(number)
        talk.say((yield waiting))


def cancels(reactor, talk, layer):
    """Cancel a Deferred some steps after its notification: it passes the notification on."""
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
    """A Deferred notified for two channels takes one message and passes the other notification on."""
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


def polls_and_closes(reactor, talk, layer):
    """A notification is lost: the poll finds the message. Then the layer is closed: the Deferred fails."""
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
    """Report the errors of calls with invalid names."""
    for names in ("a", ["a b"], ["a!b"], [7]):
        try:
            layer.receive_twisted(names)
        except TypeError as error:
            talk.say(str(error))
    yield pause(reactor)


def waits_for_many(reactor, talk, layer):
    """A thousand Deferreds wait at once, at one wakeup FIFO."""
    waiting = [layer.receive_twisted([f"a{number}"]) for number in range(1000)]
    talk.say("wait")
    for number, each in enumerate(waiting):
        assert (yield each) == (f"a{number}", {"n": number})


def is_dropped(reactor, talk, layer):
    """Drop 100 layers, and report how many descriptors the reactor still watches."""
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
    """The functions of the children, by name."""


for each in (receives, cancels, shares, polls_and_closes, is_refused, waits_for_many, is_dropped):
    setattr(REACTORS, each.__name__, staticmethod(in_reactor(each)))


@pytest.fixture
def layer(make_layer):
    """Return the layer of the test itself."""
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


def test_cancelled_deferred_passes_its_notification_on(layer, prefix, start):
    child = start(REACTORS.cancels, prefix)
    assert 0 < child.hear() < 8
    assert child.hear() == "done"
    child.end()
    assert_sound(layer)


def test_deferred_notified_for_two_channels_passes_one_notification_on(layer, prefix, start):
    child = start(REACTORS.shares, prefix)
    assert child.hear() == "done"
    child.end()
    assert_sound(layer)


def test_poll_finds_a_message_whose_notification_was_lost_and_close_is_an_error(layer, prefix, start, monkeypatch):
    child = start(REACTORS.polls_and_closes, prefix, True)
    assert child.hear() == "waits"
    monkeypatch.setattr(layer.message_store.sections.attachment.notifier, "notify", lambda token: True)
    layer.send("a", {"n": 1})
    assert "this layer was closed" in child.hear()
    assert child.hear() == "done"
    child.end()


def test_invalid_names_are_refused(layer, prefix, start):
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


def test_dropped_layers_leave_no_fifo(layer, prefix, start):
    child = start(REACTORS.is_dropped, prefix)
    assert child.hear() <= 1, "the reactor still watches wakeup FIFOs"
    assert child.hear() == "done"
    child.end()


def test_killed_reactor_leaves_no_waiter_and_no_fifo(layer, prefix, start):
    child = start(REACTORS.polls_and_closes, prefix, True)
    assert child.hear() == "waits"
    child.kill(signal.SIGKILL)
    child._wait()
    layer.send("a", {"n": 1})
    until(lambda: layer.receive(["b"]) == (None, None) and fifos(layer) == 0)  # operations sweep

    assert layer.receive(["a"]) == ("a", {"n": 1})
    assert waiters(layer, "a") == 0
    assert files_of(prefix) == []
