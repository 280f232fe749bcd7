"""Receiving in event loops: one after another, several at once, closed while receives wait, uvloop, forks."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import time
import traceback
from concurrent.futures import ThreadPoolExecutor

import pytest
from helpers.processes import LIMIT, reap
from helpers.waiting import (
    OPTIONS,
    assert_sound,
    fifos,
    files_of,
    never_poll,
    run_in,
    until,
    until_waiting,
    waiters,
    within,
)

from asgi_ipc import AsyncIPCChannelLayer, IPCChannelLayer
from asgi_ipc.shm.wakeup_fifo import OPEN_FIFOS

#: Receives that wait at once: as many as there are sockets in a large process.
MANY = 10_000


@pytest.fixture
def no_polling(monkeypatch):
    never_poll(monkeypatch.setattr)


@pytest.fixture(params=["asyncio", "uvloop"])
def new_loop(request):
    """Return a function that makes an event loop, of each kind."""
    if request.param == "uvloop":
        return pytest.importorskip("uvloop", reason="needs uvloop").new_event_loop
    return asyncio.new_event_loop


@pytest.fixture
def pool():
    """A pool of threads, which are joined at the end of the test."""
    with ThreadPoolExecutor(16) as threads:
        yield threads


def open_files() -> int:
    """Return the number of open file descriptors of this process."""
    return len(os.listdir("/proc/self/fd"))


# -- any number of loops -------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_polling")
def test_one_loop_after_another(make_async, make_layer, pool, new_loop):
    layer, other = make_async(), make_layer()

    async def main():
        return await within(layer.receive("a"))

    for number in range(10):
        received = pool.submit(run_in, new_loop(), main())
        until(lambda: waiters(other, "a") == 1)
        other.send("a", {"n": number})
        assert received.result(LIMIT) == {"n": number}
    assert_sound(layer)


@pytest.mark.usefixtures("no_polling")
def test_two_loops_in_two_threads_at_once(make_async, pool, new_loop):
    layer = make_async()

    async def play(mine, theirs):
        for number in range(500):
            await layer.send(theirs, {"n": number})
            assert await within(layer.receive(mine)) == {"n": number}

    loops = [pool.submit(run_in, new_loop(), play(*names)) for names in ("ab", "ba")]
    for loop in loops:
        loop.result(LIMIT)
    assert_sound(layer)


@pytest.mark.usefixtures("no_polling")
def test_receivers_of_one_channel_in_several_loops_get_one_message_each(make_async, make_layer, pool, new_loop):
    layer, other = make_async(), make_layer()

    async def wait():
        return await within(asyncio.gather(*(layer.receive("a") for _ in range(20))))

    loops = [pool.submit(run_in, new_loop(), wait()) for _ in range(4)]
    until(lambda: waiters(other, "a") == 80)
    for number in range(80):
        other.send("a", {"n": number})
    assert sorted(each["n"] for loop in loops for each in loop.result(LIMIT)) == list(range(80))
    assert other.receive(["a"]) == (None, None)
    assert_sound(layer)


@pytest.mark.usefixtures("no_polling")
def test_thread_and_loop_wait_at_once_on_one_layer(make_layer, pool):
    """``receive`` in a thread, ``receive_async`` in the event loop of another thread."""
    layer = make_layer(block_timeout=3600)
    in_thread = pool.submit(layer.receive, ["a"], True)
    in_loop = pool.submit(asyncio.run, within(layer.receive_async(["b"])))
    until(lambda: waiters(layer, "a") == waiters(layer, "b") == 1)
    for channel in "ba":
        layer.send(channel, {"to": channel})
    assert in_thread.result(LIMIT) == ("a", {"to": "a"})
    assert in_loop.result(LIMIT) == ("b", {"to": "b"})


def test_async_to_sync_from_many_threads(make_async, pool):
    """``async_to_sync`` makes an event loop for each call."""
    sync = pytest.importorskip("asgiref.sync", reason="needs asgiref 3")
    if not hasattr(sync, "async_to_sync"):
        pytest.skip("needs asgiref 3: this one has no async_to_sync")
    layer = make_async(capacity=1000)

    def work(number):
        send, receive = sync.async_to_sync(layer.send), sync.async_to_sync(layer.receive)
        for turn in range(25):
            send(f"to{(number + 1) % 8}", {"from": number, "n": turn})
            assert receive(f"to{number}") == {"from": (number - 1) % 8, "n": turn}

    before = open_files()
    for done in [pool.submit(work, number) for number in range(8)]:
        done.result(LIMIT)
    receive_in_vain(layer)  # the first receive in a new loop closes the FIFOs of closed loops
    gc.collect()
    assert files_of(layer.prefix) == []
    assert open_files() <= before + OPEN_FIFOS + 10  # a notifier keeps up to OPEN_FIFOS of other waiters open
    assert_sound(layer)


def receive_in_vain(layer, new_loop=asyncio.new_event_loop):
    """Wait in a new loop for a channel to which nothing is sent."""
    with pytest.raises(asyncio.TimeoutError):
        run_in(new_loop(), asyncio.wait_for(layer.receive("nothing"), 0.01))


# -- loops that are closed while receives wait ---------------------------------------------------------------


def leave_waiting(layer, channel, new_loop, count):
    """Close a loop in which ``count`` tasks wait for a channel; return the tasks, which never run again."""
    loop = new_loop()
    tasks = [loop.create_task(layer.receive(channel)) for _ in range(count)]
    loop.run_until_complete(until_waiting(layer, channel, count))
    loop.set_exception_handler(lambda *_: None)  # each pending task is reported to it when it is collected
    loop.close()
    return tasks


def gives(talk, prefix):
    """A child: receive one message in an event loop, and report it."""

    async def main():
        async with AsyncIPCChannelLayer(prefix, **OPTIONS) as layer:
            talk.say(await layer.receive("a"))

    asyncio.run(main())


@pytest.mark.parametrize("keep", [True, False], ids=["kept", "collected"])
@pytest.mark.parametrize("receiver", ["loop", "thread", "process"])
def test_message_goes_past_the_waiters_of_a_closed_loop(
    make_async, make_layer, prefix, start, pool, receiver, keep
):
    layer, other = make_async(), make_layer(block_timeout=3600)
    tasks = leave_waiting(layer, "a", asyncio.new_event_loop, 3)
    if not keep:
        tasks.clear()
        gc.collect()
    dead = waiters(other, "a")
    if receiver == "loop":
        received = pool.submit(asyncio.run, within(layer.receive("a")))
        until(lambda: waiters(other, "a") == 1)  # the waiters of the closed loop are unregistered
    elif receiver == "thread":
        received = pool.submit(lambda: other.receive(["a"], block=True)[1])
        until(lambda: waiters(other, "a") in (1, dead + 1))  # 1: a sweep has found the dead ones
    else:
        received = pool.submit(start(gives, prefix).hear)
        until(lambda: waiters(other, "a") in (1, dead + 1))
    other.send("a", {"n": 1})
    assert received.result(LIMIT) == {"n": 1}
    assert asyncio.run(asyncio.wait_for(layer.send("b", {}), LIMIT)) is None
    del tasks
    gc.collect()
    assert_sound(layer)


def test_closed_loop_leaves_no_waiter_and_no_fifo(make_async, prefix, new_loop):
    layer = make_async()
    for _ in range(20):
        leave_waiting(layer, "a", new_loop, 2)
    gc.collect()
    receive_in_vain(layer, new_loop)
    assert waiters(layer, "a") == 0
    gc.collect()
    assert files_of(prefix) == []
    assert fifos(layer) <= 1, "the record of a FIFO without waiters stays until a sweep finds it"
    assert_sound(layer)


def test_receive_still_waits_when_its_loop_is_stopped_and_run_again(make_async, new_loop):
    """``run_until_complete`` stops a loop, but does not cancel its other tasks."""
    layer = make_async()
    loop = new_loop()
    task = loop.create_task(layer.receive("a"))
    loop.run_until_complete(until_waiting(layer, "a", 1))
    asyncio.run(layer.send("a", {"n": 1}))
    time.sleep(0.01)
    assert not task.done()
    assert run_in(loop, within(task)) == {"n": 1}


# -- forks ---------------------------------------------------------------------------------------------------


def forks_outside_a_loop(talk, prefix):
    """A child: use a layer in an event loop and fork. Both processes exchange messages in new loops."""
    never_poll()
    layer = AsyncIPCChannelLayer(prefix, **OPTIONS)
    receive_in_vain(layer)

    async def parent():
        name = await layer.new_channel()
        await layer.send("to.child", {"reply": name})
        talk.say([await layer.receive(name), name])

    async def child():
        message = await layer.receive("to.child")
        await layer.send(message["reply"], {"name": await layer.new_channel()})

    pid = os.fork()
    if not pid:
        with os_exit():
            asyncio.run(child())
    asyncio.run(parent())
    talk.say(reap(pid))


@contextlib.contextmanager
def os_exit():
    """End the process at the end of the block: with exit code 0 if nothing was raised, else 1."""
    code = 1
    try:
        yield
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def test_layer_works_in_both_processes_after_a_fork(prefix, start):
    child = start(forks_outside_a_loop, prefix)
    message, parents = child.hear()
    assert message["name"].startswith("specific.")
    assert message["name"].partition("!")[0] != parents.partition("!")[0], "the process part is new after a fork"
    assert child.hear() == 0
    child.end()


def forks_inside_a_loop(talk, prefix, escapes):
    """
    A child: fork in a running event loop in which receives wait.

    The forked process runs a new loop, or (``escapes``) raises an exception through the inherited loop, which
    then cancels its tasks. The receives of the parent must not be disturbed.
    """
    never_poll()
    layer = AsyncIPCChannelLayer(prefix, **OPTIONS)

    async def child():
        await layer.send("answers", await layer.receive("questions"))

    async def main():
        tasks = [asyncio.create_task(layer.receive("a")) for _ in range(3)]
        await until_waiting(layer, "a", 3)
        pid = os.fork()
        if not pid:
            if escapes:
                raise SystemExit(7)
            with os_exit(), ThreadPoolExecutor(1) as threads:
                threads.submit(asyncio.run, child()).result()
        if not escapes:
            await until_waiting(layer, "questions", 1)
            await layer.send("questions", {"n": 1})
            talk.say(await layer.receive("answers"))
        talk.say(reap(pid))
        for number in range(3):
            await layer.send("a", {"n": number})
        talk.say(await asyncio.gather(*tasks))
        assert_sound(layer)

    asyncio.run(main())


@pytest.mark.parametrize("escapes", [False, True], ids=["new loop", "exception"])
def test_fork_in_a_running_loop_does_not_disturb_the_parents_receives(prefix, start, escapes):
    child = start(forks_inside_a_loop, prefix, escapes)
    if not escapes:
        assert child.hear() == {"n": 1}
    assert child.hear() == (7 if escapes else 0)
    assert sorted(each["n"] for each in child.hear()) == [0, 1, 2]
    child.end()


def forks_in_a_handler(talk, prefix):
    """A child: its signal handler forks in a blocking receive; the forked process ends by an exception."""
    never_poll()
    layer = IPCChannelLayer(prefix, block_timeout=3600, **OPTIONS)

    def fork(*_):
        pid = os.fork()
        if not pid:
            raise SystemExit(7)
        talk.say(reap(pid))

    signal.signal(signal.SIGUSR1, fork)
    talk.say("ready")
    talk.say(layer.receive(["a"], block=True))


def test_fork_in_a_blocking_receive_does_not_disturb_the_parents_receive(make_layer, prefix, start):
    layer = make_layer()
    child = start(forks_in_a_handler, prefix)
    child.hear()
    until(lambda: waiters(layer, "a") == 1)
    child.kill(signal.SIGUSR1)
    assert child.hear() == 7
    layer.send("a", {"n": 1})
    assert child.hear() == ["a", {"n": 1}]
    child.end()
    assert_sound(layer)


# -- ten thousand --------------------------------------------------------------------------------------------


def holds_ten_thousand(talk, prefix, kind, seconds):
    """
    A child: ten thousand receives wait in one event loop.

    Report the CPU time that they use in ``seconds``, their channels, and how many got the expected message.
    """
    new_loop = __import__("uvloop").new_event_loop if kind == "uvloop" else asyncio.new_event_loop

    async def main():
        layer = AsyncIPCChannelLayer(prefix)
        names = [await layer.new_channel() for _ in range(MANY)]
        tasks = [asyncio.create_task(layer.receive(name)) for name in names]
        await asyncio.sleep(0)
        before = time.process_time()
        await asyncio.sleep(seconds)
        talk.say(time.process_time() - before)
        names = await asyncio.to_thread(lambda: (talk.say(names), talk.hear())[1])
        talk.say(sum([(await task) == {"n": number} for number, task in enumerate(tasks)]))
        talk.say(talk.hear())
        await layer.close()

    run_in(new_loop(), main())


@pytest.mark.parametrize(("kind", "seconds"), [("asyncio", 5), ("uvloop", 3)])
def test_ten_thousand_waiting_receives_use_no_cpu_time(prefix, start, kind, seconds):
    if kind == "uvloop":
        pytest.importorskip("uvloop", reason="needs uvloop")
    child = start(holds_ten_thousand, prefix, kind, seconds)
    used = child.hear()
    assert used < seconds / 20, "receives use CPU time while no message arrives"
    names = child.hear()
    with IPCChannelLayer(prefix) as layer:
        assert len(files_of(prefix)) == 1
        child.say()
        for number, name in enumerate(names):
            layer.send(name, {"n": number})
        assert child.hear() == MANY
        assert waiters(layer, names[0]) == 0
        assert_sound(layer)
        child.say()
        child.hear()
        child.end()
