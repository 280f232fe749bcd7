"""Forks: outside the critical section, while a thread is in it, and with parent and child at work at once."""

from __future__ import annotations

import os
import signal
import threading
import time
import traceback

import pytest
from helpers.holders import PATIENCE, locked_bytes, opened, use
from helpers.layers import assert_sound, drain
from helpers.processes import LIMIT, reap

from asgi_ipc import SegmentBusy


def forked(work, *args):
    """Fork, run ``work(*args)`` in the forked process, and return its process id."""
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


def forks(talk, prefix, where):
    """A child: fork outside the critical section, while a thread is in it, or again in the forked process."""
    layer = opened(prefix)
    use(layer, "before", 5)
    if where == "thread_inside":
        inside, leave = threading.Event(), threading.Event()

        def stay():
            inside.set()
            assert leave.wait(LIMIT)

        thread = threading.Thread(target=layer.message_store.sections.exclusively, args=(stay,))
        thread.start()
        inside.wait()
        pid = forked(use, layer, "child", 50)
        time.sleep(0.05)  # time for the forked process to enter the critical section, which it must not
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
def test_a_forked_process_can_use_the_layer(prefix, layer, start, where):
    child = start(forks, prefix, where)
    assert child.hear() == [True, 0], child.errors()
    alive = {pid for _, pid in start(locked_bytes, f"/dev/shm/{prefix}-messages").hear()}
    assert alive == {child.pid, os.getpid()}  # the end of the forked process has released only its own lock
    child.say()
    child.end()
    expected = {"before", "child", "after"} | {"both": {"parent"}, "again": {"grandchild"}}.get(where, set())
    assert {message["from"] for _, message in drain(layer, "all")} == expected
    assert set(layer.group_channels("g")) == expected
    assert_sound(layer)


def forks_and_stays(talk, prefix):
    """A child: fork, and use the layer in both processes; then stay in a critical section."""
    layer = opened(prefix)
    layer.send("all", {})
    assert reap(forked(use, layer, "child", 5)) == 0

    def stay():
        talk.say(os.getpid())
        talk.hear()

    layer.message_store.sections.exclusively(stay)


def test_the_end_of_a_forked_process_does_not_make_its_parent_look_dead(prefix, make_layer, start):
    layer = make_layer(patience=PATIENCE)
    child = start(forks_and_stays, prefix)
    pid = child.hear()
    with pytest.raises(SegmentBusy) as busy:
        layer.send("all", {})
    assert busy.value.pid == pid
    child.say()
    child.end()
    layer.send("all", {})


def forks_and_sends_in(talk, prefix):
    """A child: fork a process that stays in the critical section, wait for it in vain, kill it, and go on."""
    layer = opened(prefix, patience=PATIENCE)
    layer.send("all", {"n": 1})
    inside, report = os.pipe()

    def stay():
        os.write(report, b"x")
        time.sleep(LIMIT)

    pid = forked(layer.message_store.sections.exclusively, stay)
    os.read(inside, 1)
    try:
        layer.send("all", {"n": 2})
    except SegmentBusy as busy:
        talk.say([pid, busy.pid])
    os.kill(pid, signal.SIGKILL)
    layer.send("all", {"n": 3})
    talk.say(reap(pid))


def test_a_forked_process_holds_a_slot_lock_of_its_own(prefix, layer, start):
    child = start(forks_and_sends_in, prefix)
    pid, busy_pid = child.hear()
    assert pid == busy_pid
    assert child.hear() == -signal.SIGKILL
    child.end()
    assert drain(layer, "all") == [("all", {"n": 1}), ("all", {"n": 3})]
    assert_sound(layer)


def forks_inside(talk, prefix):
    """A child: fork in a critical section; the forked process uses the layer before it leaves."""
    layer = opened(prefix)

    def section():
        pid = os.fork()
        if pid:
            time.sleep(0.3)  # meanwhile the forked process waits for the mutex and must not recover
        else:
            layer.send("a", {})
        return pid

    pid = layer.message_store.sections.exclusively(section)
    if not pid:
        os._exit(0)
    code = reap(pid)
    talk.say([code, layer.message_store.sections.bound[0]._token.value])


def test_a_fork_in_a_critical_section_makes_no_second_token(prefix, layer, start):
    child = start(forks_inside, prefix)
    assert child.hear() == [0, 1]
    child.end()
