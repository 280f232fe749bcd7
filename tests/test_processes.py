"""
Processes and threads that use one prefix: what they share, and that none can stop the others by ending anyhow.

A holder is a process inside the critical section. Children are real processes (``helpers.processes``).
"""

from __future__ import annotations

import fcntl
import gc
import os
import random
import signal
import subprocess
import threading
import time
import traceback

import pytest
from helpers.layers import assert_sound, drain, state
from helpers.processes import LIMIT, reap

from asgi_ipc import ChannelFull, IPCChannelLayer, SegmentBusy, TooManyProcesses
from asgi_ipc.memory.layout import SLOTS
from asgi_ipc.memory.locks import ByteLocks

OPTIONS = {"message_memory": 1 << 20, "group_memory": 1 << 18, "capacity": 10**6}
#: Seconds that a test waits for a holder which does not move.
PATIENCE = 0.5
NAMESPACE = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]

STORES = {"messages": ("message_store", lambda layer: layer.send("a", {"n": 1})),
          "groups": ("group_store", lambda layer: layer.group_add("g", "a"))}  # fmt: skip
stores = pytest.mark.parametrize(("store", "operation"), STORES.values(), ids=STORES)


def opened(prefix, **options):
    """A layer as every process of these tests makes it."""
    return IPCChannelLayer(prefix, **{**OPTIONS, **options})


def segment_of(layer, store="message_store"):
    """The segment of one of a layer's stores."""
    return getattr(layer, store)._opened().segment


def sends(talk, prefix, channel, count):
    """A child: send so many messages, with its id and their number, waiting where there is no room."""
    with opened(prefix) as layer:
        talk.say("ready")
        talk.hear()
        for number in range(count):
            while True:
                try:
                    layer.send(channel, {"from": os.getpid(), "n": number})
                    break
                except ChannelFull:
                    time.sleep(0.001)
        talk.say(os.getpid())


def receives(talk, prefix, channels, count):
    """A child: receive until ``{"end": True}`` comes, and say what came."""
    heard = []
    with opened(prefix) as layer:
        talk.say("ready")
        while True:
            channel, message = layer.receive(channels)
            if channel is None:
                time.sleep(0.0005)
            elif "end" in message:
                break
            else:
                heard.append([channel, message["from"], message["n"]])
    talk.say(heard)


def holds(talk, prefix, store):
    """A child: go into the section, say so, and come out when told to."""

    def stay():
        talk.say(os.getpid())
        talk.hear()

    with opened(prefix) as layer:
        getattr(layer, store)._guarded(stay)
        talk.say("out")
        talk.hear()


def tries(talk, prefix, store):
    """A child: run one operation whenever it is told to, and say how it ended."""
    with opened(prefix, patience=PATIENCE) as layer:
        while True:
            talk.say("ready")
            if not talk.hear():
                return
            try:
                STORES[store][1](layer)
                talk.say(["done"])
            except SegmentBusy as busy:
                talk.say(["busy", busy.pid, str(busy)])


def locked_bytes(talk, path):
    """A child: which bytes of a file are locked, and by whom."""
    locks = ByteLocks(os.open(path, os.O_RDWR))
    talk.say([[byte, locks.holder(byte)] for byte in range(1 + SLOTS) if locks.holder(byte) is not None])


# -- messages between processes --


def test_messages_go_from_process_to_process_in_order(prefix, make_layer, start):
    layer = make_layer(capacity=50)
    sender, receiver = start(sends, prefix, "there", 1000), start(receives, prefix, ["back"], 1000)
    assert sender.hear() == "ready"
    assert receiver.hear() == "ready"
    sender.say()
    heard = 0
    while heard < 1000:
        channel, message = layer.receive(["there"])
        if channel:
            assert message["n"] == heard
            heard += 1
            while True:
                try:
                    layer.send("back", {"from": "parent", "n": message["n"]})
                    break
                except ChannelFull:
                    time.sleep(0.001)
    assert message["from"] == sender.hear()
    layer.send("back", {"end": True})
    assert receiver.hear() == [["back", "parent", number] for number in range(1000)]
    sender.end()
    receiver.end()
    assert_sound(layer)


def test_a_message_goes_to_one_of_many_receivers(prefix, make_layer, start):
    """Senders and receivers race: each message comes out once, and of each sender in its order at each receiver."""
    layer = make_layer(capacity=10**6)
    receivers = [start(receives, prefix, channels, 0) for channels in (["a", "p!"], ["p!", "a"])]
    senders = [start(sends, prefix, channel, 700) for channel in ("a", "a", "p!x", "p!y")]
    for child in (*receivers, *senders):
        assert child.hear() == "ready"
    for sender in senders:
        sender.say()
    pids = [sender.hear() for sender in senders]
    while layer.global_statistics()["messages_pending"]:
        time.sleep(0.005)
    heard = []
    for _ in receivers:
        layer.send("a", {"end": True})  # whoever takes it, stops
    for receiver in receivers:
        mine = receiver.hear()
        for pid in pids:
            numbers = [number for _, sender, number in mine if sender == pid]
            assert numbers == sorted(numbers)
        heard += mine
    assert sorted((pid, number) for _, pid, number in heard) == sorted((p, n) for p in pids for n in range(700))
    for child in (*receivers, *senders):
        child.end()


def test_groups_and_figures_are_shared(prefix, layer, start):
    child = start(tries, prefix, "groups")
    child.hear()
    child.say(True)
    assert child.hear() == ["done"]
    assert layer.group_channels("g") == ["a"]
    child.hear()
    other = start(sends, prefix, "a", 3)
    other.hear()
    other.say()
    other.hear()
    assert layer.channel_statistics("a")["messages_count"] == 3
    layer.send_group("g", {"n": 9})
    assert [message["n"] for _, message in drain(layer, "a")] == [0, 1, 2, 9]
    child.say(False)
    child.end()
    other.end()


def ends_without_closing(talk, prefix, how):
    """A child: leave without closing the layer, in one of several ways."""
    layer = opened(prefix)
    layer.send("a", {"how": how})
    layer.group_add("g", how)
    if how == "_exit":
        os._exit(0)
    if how == "exit":
        raise SystemExit
    if how == "thread":
        threading.Thread(target=layer.send, args=("a", {"how": "thread"})).start()


@pytest.mark.parametrize("how", ["return", "exit", "_exit", "thread"])
def test_a_process_may_end_without_closing(prefix, layer, start, how):
    child = start(ends_without_closing, prefix, how)
    child.end()
    assert child.errors() == ":\n"
    assert layer.receive(["a"]) == ("a", {"how": how})
    assert layer.group_channels("g") == [how]
    assert_sound(layer)


# -- threads --


def test_sixteen_threads_on_one_layer_object(make_layer):
    """Eight send and eight receive, over channels, an inbox and a group: nothing is lost, doubled or out of order."""
    layer = make_layer(**OPTIONS)
    layer.group_add("g", "member")
    channels = ["a", "b", "p!x", "p!y"]
    count = 150
    heard, errors = [[] for _ in range(8)], []
    sent = threading.Event()

    def send(number):
        for turn in range(count):
            layer.send(channels[turn % 4], {"from": number, "n": turn})
            if turn % 10 == 0:
                layer.send_group("g", {"from": number, "n": turn})
                layer.group_add("g", f"own{number}")
                layer.group_discard("g", f"own{number}")

    def receive(number):
        while True:
            over = sent.is_set()
            channel, message = layer.receive(["a", "p!", "b", "member"])
            if channel:
                heard[number].append((channel, message["from"], message["n"]))
            elif over:
                return

    def guarded(work, number):
        try:
            work(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(work, n)) for n in range(8) for work in (send, receive)]
    for thread in threads:
        thread.start()
    for thread in threads[::2]:
        thread.join(LIMIT)
    sent.set()
    for thread in threads[1::2]:
        thread.join(LIMIT)
    assert not any(thread.is_alive() for thread in threads)
    assert errors == []
    expected = [(channels[turn % 4], number, turn) for number in range(8) for turn in range(count)]
    expected += [("member", number, turn) for number in range(8) for turn in range(0, count, 10)]
    assert sorted(one for mine in heard for one in mine if not one[0].startswith("own")) == sorted(expected)
    for mine in heard:
        for channel in (*channels, "member"):
            for number in range(8):
                turns = [turn for where, who, turn in mine if (where, who) == (channel, number)]
                assert turns == sorted(turns)
    assert_sound(layer)


@stores
def test_a_thread_that_waits_lets_the_others_run(prefix, make_layer, start, store, operation):
    """This very thread must run to let the holder out: were the GIL kept while waiting, both would wait for ever."""
    layer = make_layer()
    holder = start(holds, prefix, store)
    holder.hear()
    waiting = threading.Thread(target=operation, args=(layer,))
    waiting.start()
    waiting.join(0.1)
    assert waiting.is_alive()
    holder.say()
    waiting.join(LIMIT)
    assert not waiting.is_alive()
    assert holder.hear() == "out"


# -- fork --


def forked(work, *args):
    """Fork and run ``work(*args)`` in the child; the pid."""
    pid = os.fork()
    if pid:
        return pid
    try:
        work(*args)
        os._exit(0)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


def use(layer, name, count):
    """Send and receive on a channel of one's own, and join a group."""
    for number in range(count):
        layer.send(name, {"n": number})
        assert layer.receive([name]) == (name, {"n": number})
    layer.send("all", {"from": name})
    layer.group_add("g", name)


def forks(talk, prefix, where):
    """A child that forks: outside, with another thread inside the section, from a forked child again."""
    layer = opened(prefix)
    use(layer, "before", 5)
    if where == "thread_inside":
        inside, leave = threading.Event(), threading.Event()

        def stay():
            inside.set()
            assert leave.wait(LIMIT)

        thread = threading.Thread(target=layer.message_store._guarded, args=(stay,))
        thread.start()
        inside.wait()
        pid = forked(use, layer, "child", 50)
        time.sleep(0.05)  # time for the child to do wrong
        waiting = os.waitpid(pid, os.WNOHANG)[0] == 0
        leave.set()
        thread.join()
        talk.say([waiting, reap(pid)])
    elif where == "again":
        pid = forked(lambda: [use(layer, "child", 50), os.waitpid(forked(use, layer, "grandchild", 50), 0)])
        talk.say([True, reap(pid)])
    else:
        pid = forked(use, layer, "child", 200)
        if where == "both":
            use(layer, "parent", 200)
        talk.say([True, reap(pid)])
    use(layer, "after", 50)
    talk.hear()


@pytest.mark.parametrize("where", ["outside", "both", "thread_inside", "again"])
def test_a_forked_child_uses_the_layer_at_once(prefix, layer, start, where):
    child = start(forks, prefix, where)
    assert child.hear() == [True, 0], child.errors()
    proven = {pid for _, pid in start(locked_bytes, f"/dev/shm/{prefix}-messages").hear()}
    assert proven == {child.pid, os.getpid()}  # the forked process has taken nobody's lock with it
    child.say()
    child.end()
    expected = {"before", "child", "after"} | {"both": {"parent"}, "again": {"grandchild"}}.get(where, set())
    assert {message["from"] for _, message in drain(layer, "all")} == expected
    assert set(layer.group_channels("g")) == expected
    assert_sound(layer)


def forks_and_stays(talk, prefix):
    """A child that forks; both use the layer, then the forked one ends and the other goes inside."""
    layer = opened(prefix)
    layer.send("all", {})
    assert reap(forked(use, layer, "child", 5)) == 0

    def stay():
        talk.say(os.getpid())
        talk.hear()

    layer.message_store._guarded(stay)


def test_the_end_of_a_forked_child_is_not_the_end_of_its_parent(prefix, make_layer, start):
    layer = make_layer(patience=PATIENCE)
    child = start(forks_and_stays, prefix)
    pid = child.hear()
    with pytest.raises(SegmentBusy) as busy:
        layer.send("all", {})
    assert busy.value.pid == pid
    child.say()
    child.end()
    layer.send("all", {})


def test_descriptors_do_not_pass_to_other_programs(layer):
    for store in ("message_store", "group_store"):
        assert not os.get_inheritable(segment_of(layer, store).fd)


# -- the proof of life --


def is_proven(start, layer, store="message_store"):
    """Whether another process sees that this one lives."""
    child = start(locked_bytes, f"/dev/shm/{segment_of(layer, store).name}")
    found = [pid for _, pid in child.hear()]
    child.end()
    return os.getpid() in found


@pytest.mark.parametrize("how", ["close", "drop"])
def test_one_layer_less_does_not_make_the_process_look_dead(prefix, make_layer, start, how):
    layer = make_layer()
    use(layer, "a", 1)
    if how == "close":
        make_layer().close()
    else:
        opened(prefix)
        gc.collect()
    for store in ("message_store", "group_store"):
        assert is_proven(start, layer, store)
    layer.close()
    layer = make_layer()
    use(layer, "a", 1)
    for store in ("message_store", "group_store"):
        assert is_proven(start, layer, store)


def test_a_closed_layer_is_no_proof_of_life(prefix, make_layer, start):
    layer = make_layer()
    assert is_proven(start, layer)
    names = [segment_of(layer, store).name for store in ("message_store", "group_store")]
    layer.close()
    for name in names:
        child = start(locked_bytes, f"/dev/shm/{name}")
        assert child.hear() == []
        child.end()


@stores
def test_a_holder_with_a_second_layer_closed_is_not_robbed(prefix, make_layer, start, store, operation):
    layer = make_layer()
    make_layer().close()
    child = start(tries, prefix, {"message_store": "messages", "group_store": "groups"}[store])
    child.hear()

    def hold():
        child.say(True)
        return child.hear()

    outcome = getattr(layer, store)._guarded(hold)
    assert outcome[:2] == ["busy", os.getpid()]
    child.hear()
    child.say(True)
    assert child.hear() == ["done"]
    operation(layer)


# -- holders that end, or stop --


@stores
def test_others_go_on_when_a_holder_is_killed(prefix, layer, start, store, operation):
    """Killed, and not even waited for by its parent."""
    layer.send("kept", {"n": 1})
    layer.group_add("kept", "a")
    for _ in range(3):
        holder = start(holds, prefix, store)
        holder.hear()
        holder.kill()
        operation(layer)
        assert_sound(layer)
    assert layer.receive(["kept"]) == ("kept", {"n": 1})
    assert layer.group_channels("kept") == ["a"]
    assert drain(layer, "a") == ([("a", {"n": 1})] * 3 if store == "message_store" else [])


@stores
def test_many_processes_go_on_when_a_holder_is_killed(prefix, layer, start, store, operation):
    others = [start(tries, prefix, {"message_store": "messages", "group_store": "groups"}[store]) for _ in range(3)]
    for other in others:
        other.hear()
    holder = start(holds, prefix, store)
    holder.hear()
    for other in others:
        other.say(True)
    holder.die()
    operation(layer)
    assert [other.hear() for other in others] == [["done"]] * 3
    assert_sound(layer)


@stores
def test_a_stopped_holder_is_waited_for_then_named(prefix, make_layer, start, store, operation):
    layer = make_layer(patience=PATIENCE)
    holder = start(holds, prefix, store)
    pid = holder.hear()
    holder.kill(signal.SIGSTOP)
    before = time.monotonic()
    with pytest.raises(SegmentBusy) as busy:
        operation(layer)
    assert time.monotonic() - before >= PATIENCE
    assert (busy.value.pid, busy.value.seconds) == (pid, PATIENCE)
    assert busy.value.segment == segment_of(layer, store).name
    assert f"process {pid} has held it" in str(busy.value)
    assert f"kill -CONT {pid}" in str(busy.value)
    holder.kill(signal.SIGCONT)
    holder.say()
    assert holder.hear() == "out"
    operation(layer)
    holder.say()
    holder.end()
    assert_sound(layer)


@stores
def test_a_holder_that_is_killed_while_stopped_holds_nobody_up(prefix, make_layer, start, store, operation):
    layer = make_layer(patience=PATIENCE)
    holder = start(holds, prefix, store)
    holder.hear()
    holder.kill(signal.SIGSTOP)
    with pytest.raises(SegmentBusy):
        operation(layer)
    holder.die()
    operation(layer)
    assert_sound(layer)


# -- signals --


@pytest.fixture
def on_signal():
    """Install a handler for SIGUSR1 and SIGALRM; both are put back."""
    numbers = (signal.SIGUSR1, signal.SIGALRM)
    before = [signal.getsignal(number) for number in numbers]

    def install(handler):
        for number in numbers:
            signal.signal(number, handler)

    yield install
    signal.setitimer(signal.ITIMER_REAL, 0)
    for number, handler in zip(numbers, before):
        signal.signal(number, handler)


@stores
def test_a_handler_that_interrupts_the_section_is_refused(layer, on_signal, store, operation):
    refused = []

    def handler(number, frame):
        try:
            operation(layer)
        except RuntimeError as error:
            refused.append(str(error))

    on_signal(handler)
    assert getattr(layer, store)._guarded(lambda: signal.raise_signal(signal.SIGUSR1) or "done") == "done"
    assert len(refused) == 1
    assert f"this thread is already inside {segment_of(layer, store).name}" in refused[0]
    assert "a signal handler" in refused[0]
    assert state(layer) == ({}, {})
    operation(layer)
    signal.raise_signal(signal.SIGUSR1)  # outside it may
    assert len(refused) == 1
    assert_sound(layer)


@stores
def test_a_finaliser_that_interrupts_the_section_is_refused(layer, store, operation):
    refused = []

    class Finalised:
        def __del__(self):
            try:
                operation(layer)
            except RuntimeError as error:
                refused.append(str(error))

    held = [Finalised()]
    getattr(layer, store)._guarded(held.clear)
    assert len(refused) == 1
    assert state(layer) == ({}, {})
    operation(layer)
    assert_sound(layer)


def test_a_handler_may_use_the_other_store(layer, on_signal):
    on_signal(lambda number, frame: layer.group_add("g", "a"))
    layer.message_store._guarded(lambda: signal.raise_signal(signal.SIGUSR1))
    assert layer.group_channels("g") == ["a"]


class Interrupt(BaseException):
    """What a handler raises."""


@stores
def test_a_handler_that_raises_inside_the_section_leaves_it_usable(layer, on_signal, store, operation):
    def handler(number, frame):
        raise Interrupt

    on_signal(handler)
    layer.send("kept", {"n": 1})
    layer.group_add("kept", "a")
    for _ in range(3):
        with pytest.raises(Interrupt):
            getattr(layer, store)._guarded(lambda: signal.raise_signal(signal.SIGUSR1))
        operation(layer)
        assert_sound(layer)
    assert layer.receive(["kept"]) == ("kept", {"n": 1})
    assert layer.group_channels("kept") == ["a"]


def test_an_interrupted_call_happened_wholly_or_not_at_all(make_layer, on_signal):
    """Interrupts at random moments of every kind of call."""
    layer = make_layer(**OPTIONS)

    def handler(number, frame):
        raise Interrupt

    on_signal(handler)
    chance = random.Random(5)
    calls = [
        lambda number: layer.send("a", {"n": number}),
        lambda number: layer.receive(["a", "p!"]),
        lambda number: layer.send(f"p!{number % 3}", {"n": number}),
        lambda number: layer.group_add("g", f"c{number % 20}"),
        lambda number: layer.group_discard("g", f"c{number % 20}"),
    ]
    interrupted = 0
    for number in range(10_000):
        messages, groups = state(layer)
        try:
            signal.setitimer(signal.ITIMER_REAL, chance.uniform(1e-6, 4e-5))
            try:
                calls[number % 5](number)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
        except Interrupt:
            interrupted += 1
        new_messages, new_groups = state(layer)
        changed = [c for c in {*messages, *new_messages} if messages.get(c) != new_messages.get(c)]
        assert len(changed) <= 1
        for channel in changed:
            old, new = messages.get(channel, []), new_messages.get(channel, [])
            assert new in (old[1:], [*old, new[-1] if new else None])
        old, new = set(groups.get("g", ())), set(new_groups.get("g", ()))
        assert len(old ^ new) <= 1
        if interrupted == 100:
            break
    assert interrupted == 100
    assert_sound(layer)


# -- limits --


def locks_every_slot(talk, path):
    """A child: look like as many processes as may use a prefix."""
    fd = os.open(path, os.O_RDWR)
    fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, SLOTS, 1)
    talk.say("locked")
    talk.hear()


@pytest.mark.parametrize("kind", ["messages", "groups"])
def test_one_process_too_many_is_refused(prefix, make_layer, start, kind):
    make_layer().close()
    crowd = start(locks_every_slot, f"/dev/shm/{prefix}-{kind}")
    crowd.hear()
    with pytest.raises(TooManyProcesses) as refusal:
        opened(prefix).group_add("g", "a")
    assert (refusal.value.segment, refusal.value.limit) == (f"{prefix}-{kind}", 1024)
    assert "1024 processes use this prefix already" in str(refusal.value)
    assert "different prefixes" in str(refusal.value)
    crowd.say()
    crowd.end()
    layer = make_layer()
    layer.send("a", {})
    layer.group_add("g", "a")
    assert_sound(layer)


# -- PID namespaces --


@pytest.fixture
def namespace():
    """The command that starts a process in a PID namespace of its own; skips where that is not permitted."""
    try:
        permitted = subprocess.run([*NAMESPACE, "true"], capture_output=True, timeout=LIMIT).returncode == 0
    except FileNotFoundError:
        permitted = False
    if not permitted:
        pytest.skip("this user may not make PID namespaces")
    return NAMESPACE


@stores
def test_a_holder_in_another_pid_namespace_lives_until_it_dies(prefix, make_layer, start, namespace, store, operation):
    layer = make_layer(patience=PATIENCE)
    holder = start(holds, prefix, store, through=namespace)
    assert holder.hear() == 1  # who it is, it cannot know
    with pytest.raises(SegmentBusy) as busy:
        operation(layer)
    with open(f"/proc/{holder.pid}/task/{holder.pid}/children") as children:
        assert busy.value.pid == int(children.read())
    holder.die()
    operation(layer)
    assert_sound(layer)


@pytest.mark.parametrize("kind", ["messages", "groups"])
def test_a_holder_outside_the_pid_namespace_lives(prefix, make_layer, start, namespace, kind):
    """Its id means nothing in there, and is not given."""
    layer = make_layer()
    child = start(tries, prefix, kind, through=namespace)
    child.hear()

    def hold():
        child.say(True)
        return child.hear()

    how, pid, text = getattr(layer, STORES[kind][0])._guarded(hold)
    assert (how, pid) == ("busy", None)
    assert "a process in another PID namespace" in text
    child.hear()
    child.say(True)
    assert child.hear() == ["done"]
    assert_sound(layer)
