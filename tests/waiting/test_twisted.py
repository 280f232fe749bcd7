"""
``receive_twisted``: a Deferred in Twisted's reactor, as Daphne 1 needs it.

A reactor can run only once in a process, so each test runs one in a child.
"""

from __future__ import annotations

import gc
import signal
import time

import pytest
from helpers.stopped import LONGEST_GAP, STOPPED, stopped_inside
from helpers.waiting import OPTIONS, assert_sound, fifos, files_of, never_poll, until, waiters

from asgi_ipc import IPCChannelLayer

pytest.importorskip("twisted", reason="needs Twisted")


def in_reactor(main):
    """
    Return a child's function that runs ``main(reactor, talk, layer)`` in the reactor.

    ``main`` is a generator of Deferreds, as ``inlineCallbacks`` expects it.
    """

    def child(talk, prefix, poll=False, patience=10):
        from twisted.internet import defer, reactor

        if not poll:
            never_poll()
        layer = IPCChannelLayer(prefix, patience=patience, **OPTIONS)
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


def beats(reactor, longest):
    """Measure how long the reactor stands still; return a function that stops it."""
    from twisted.internet import task

    last = [time.monotonic()]

    def beat():
        now = time.monotonic()
        longest.append(now - last[0])
        last[0] = now

    call = task.LoopingCall(beat)
    call.start(0.005)

    def stop():
        beat()
        call.stop()

    return stop


def waits_for_a_stopped_holder(reactor, talk, layer):
    """Receives while another process is stopped inside: some find a message, some register, two are cancelled."""
    from twisted.internet import defer, threads

    (yield layer.receive_twisted(["first"]))
    pending = layer.receive_twisted(["later"])
    talk.say("register")
    yield threads.deferToThread(talk.hear)
    longest = []
    stop = beats(reactor, longest)
    waiting = [layer.receive_twisted(["full"]) for _ in range(10)]
    for cancelled in (waiting.pop(0), waiting.pop(3)):
        cancelled.addErrback(lambda failure: failure.trap(defer.CancelledError))
        cancelled.cancel()
    talk.say([each.called for each in waiting])
    late = []

    def receive_again(taken):
        """Call ``receive_twisted`` while the other receives still wait for their turn."""
        late.append(layer.receive_twisted(["full"]))
        return taken

    waiting[0].addCallback(receive_again)
    yield threads.deferToThread(talk.hear)
    got = []
    for each in waiting:
        got.append((yield each)[1]["n"])
    got.append((yield late[0])[1]["n"])
    got.append((yield pending)[1]["n"])
    stop()
    talk.say([got, max(longest), len(longest)])


def gives_up(reactor, talk, layer):
    """A receive that needs the mutex fails after ``patience``; one that is pending lives on."""
    from twisted.internet import threads

    from asgi_ipc import SegmentBusy

    pending = layer.receive_twisted(["later"])
    talk.say("registered")
    yield threads.deferToThread(talk.hear)
    longest = []
    stop = beats(reactor, longest)
    before = time.monotonic()
    try:
        yield layer.receive_twisted(["full"])
    except SegmentBusy as busy:
        talk.say([busy.pid, time.monotonic() - before])
    yield pause(reactor, 1.5)  # its polls meet the stopped holder, too
    talk.say([pending.called, max(longest)])
    stop()
    talk.say((yield pending))


class REACTORS:
    """The functions of the children, by name."""


for each in (
    receives,
    cancels,
    shares,
    polls_and_closes,
    is_refused,
    waits_for_many,
    is_dropped,
    waits_for_a_stopped_holder,
    gives_up,
):
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


def test_reactor_goes_on_while_receives_wait_for_a_stopped_holder(layer, prefix, start):
    """In the order of the calls; a cancelled Deferred takes no message."""
    for number in range(9):
        layer.send("full", {"n": number})
    child = start(REACTORS.waits_for_a_stopped_holder, prefix)
    layer.send("first", {})
    assert child.hear() == "register"
    until(lambda: waiters(layer, "later") == 1)
    holder = stopped_inside(start, prefix)
    child.say()
    assert child.hear() == [False] * 8
    time.sleep(STOPPED)
    holder.resume()
    child.say()
    layer.send("later", {"n": 9})
    got, longest, beats = child.hear()
    assert got == list(range(10))
    assert longest < LONGEST_GAP, "the reactor stood still"
    assert beats > 10
    assert child.hear() == "done"
    child.end()
    assert_sound(layer)


def test_busy_error_reaches_only_the_receive_that_needed_the_mutex(layer, prefix, start):
    layer.send("full", {"n": 0})
    child = start(REACTORS.gives_up, prefix, True, 0.6)
    assert child.hear() == "registered"
    holder = stopped_inside(start, prefix)
    child.say()
    pid, seconds = child.hear()
    assert pid == holder.pid
    assert seconds > 0.5
    called, longest = child.hear()
    assert not called
    assert longest < LONGEST_GAP, "the reactor stood still"
    holder.resume()
    layer.send("later", {"n": 1})
    assert child.hear() == ["later", {"n": 1}]
    assert child.hear() == "done"
    child.end()


def test_reactor_recovers_from_a_killed_holder_while_a_receive_waits(layer, prefix, start):
    for number in range(9):
        layer.send("full", {"n": number})
    child = start(REACTORS.waits_for_a_stopped_holder, prefix)
    layer.send("first", {})
    assert child.hear() == "register"
    until(lambda: waiters(layer, "later") == 1)
    holder = stopped_inside(start, prefix)
    child.say()
    child.hear()
    holder.child.die()
    child.say()
    layer.send("later", {"n": 9})
    assert child.hear()[0] == list(range(10))
    assert child.hear() == "done"
    child.end()
    assert_sound(layer)
