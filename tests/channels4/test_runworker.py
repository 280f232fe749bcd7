"""
``manage.py runworker`` on plain channels: workers get tasks from scripts, and are killed and restarted.

Tests request ``start`` after ``ipc_layer``, so that the workers end before the shared memory is removed.
"""

from __future__ import annotations

import signal
import time
from collections import Counter
from typing import Any

import pytest
from helpers.processes import LIMIT, Children, Talk

from asgi_ipc import IPCChannelLayer

pytest.importorskip("channels.layers", reason="needs Channels 4: tox -e channels4")


def runworker(talk: Talk, prefix: str, *arguments: str) -> None:
    """Run in a child: ``manage.py runworker`` on a layer with this prefix."""
    from django.core.management import call_command
    from django.test.utils import override_settings

    setting = {"BACKEND": "asgi_ipc.AsyncIPCChannelLayer", "CONFIG": {"prefix": prefix}}
    with override_settings(CHANNEL_LAYERS={"default": setting, "another": setting}):
        talk.say("ready")
        call_command("runworker", *arguments)


def start_worker(start: Children, prefix: str, *arguments: str) -> Any:
    child = start(_set_up_and_run, prefix, *arguments)
    assert child.hear() == "ready"
    return child


def _set_up_and_run(talk: Talk, prefix: str, *arguments: str) -> None:
    import channels4.conftest  # noqa: F401  sets Django up, as for the tests

    runworker(talk, prefix, *arguments)


def receive_several(layer: IPCChannelLayer, channel: str, count: int) -> list[dict[str, Any]]:
    """Receive ``count`` messages, waiting for each."""
    found: list[dict[str, Any]] = []
    deadline = time.monotonic() + LIMIT
    while len(found) < count:
        assert time.monotonic() < deadline, f"{len(found)} of {count} answers arrived"
        got, message = layer.receive([channel], block=True)
        if got is not None:
            assert message is not None
            found.append(message)
    return found


def send_when_possible(layer: IPCChannelLayer, channel: str, message: dict[str, Any]) -> None:
    """Send, and wait while the channel is full."""
    deadline = time.monotonic() + LIMIT
    while True:
        try:
            layer.send(channel, message)
        except layer.ChannelFull:
            assert time.monotonic() < deadline, f"{channel} stays full"
            time.sleep(0.001)
        else:
            return


@pytest.mark.parametrize("channel", ["tasks", "tasks-sync"])
def test_tasks_are_answered_in_order(ipc_layer: IPCChannelLayer, start: Children, channel: str) -> None:
    worker = start_worker(start, ipc_layer.prefix, channel)
    for n in range(200):
        send_when_possible(ipc_layer, channel, {"type": "task", "n": n, "answer": f"answers{n % 2}"})
    answers = receive_several(ipc_layer, "answers0", 100) + receive_several(ipc_layer, "answers1", 100)
    assert [answer["n"] for answer in answers] == [*range(0, 200, 2), *range(1, 200, 2)]
    assert {answer["pid"] for answer in answers} == {worker.pid}


def test_one_worker_listens_on_several_channels(ipc_layer: IPCChannelLayer, start: Children) -> None:
    start_worker(start, ipc_layer.prefix, "tasks", "tasks-sync", "--layer", "another")
    for n in range(20):
        for channel in ("tasks", "tasks-sync"):
            send_when_possible(ipc_layer, channel, {"type": "task", "n": n, "answer": "answers"})
    answers = receive_several(ipc_layer, "answers", 40)
    for channel in ("tasks", "tasks-sync"):
        assert [answer["n"] for answer in answers if answer["channel"] == channel] == list(range(20))


def test_several_workers_share_a_channel(ipc_layer: IPCChannelLayer, start: Children) -> None:
    workers = [start_worker(start, ipc_layer.prefix, "tasks") for _ in range(3)]
    for n in range(300):
        send_when_possible(ipc_layer, "tasks", {"type": "task", "n": n, "answer": f"answers{n % 10}"})
    answers = [answer for part in range(10) for answer in receive_several(ipc_layer, f"answers{part}", 30)]
    assert sorted(answer["n"] for answer in answers) == list(range(300))
    assert {answer["pid"] for answer in answers} <= {worker.pid for worker in workers}


def test_tasks_of_a_killed_worker_go_to_the_next_worker(ipc_layer: IPCChannelLayer, start: Children) -> None:
    """The killed worker loses at most one message for each receive; the next worker gets the others once."""
    first = start_worker(start, ipc_layer.prefix, "tasks")
    for n in range(80):
        send_when_possible(ipc_layer, "tasks", {"type": "task", "n": n, "answer": "answers"})
    receive_several(ipc_layer, "answers", 1)
    first.die()
    waiting = 80 - 1 - ipc_layer.channel_statistics("answers")["messages_pending"]
    left = ipc_layer.channel_statistics("tasks")["messages_pending"]
    second = start_worker(start, ipc_layer.prefix, "tasks")
    for n in range(80, 90):
        send_when_possible(ipc_layer, "tasks", {"type": "task", "n": n, "answer": "answers"})
    assert left <= waiting
    pending = int(80 - 1 - waiting + left + 10)
    answers = receive_several(ipc_layer, "answers", pending)
    assert max(Counter(answer["n"] for answer in answers).values()) == 1
    assert [answer["n"] for answer in answers][-10:] == list(range(80, 90))
    assert [answer["pid"] for answer in answers][-10:] == [second.pid] * 10


@pytest.mark.parametrize("channel", ["tasks", "tasks-sync"])
def test_a_script_sends_tasks_and_receives_the_answers(
    ipc_layer: IPCChannelLayer, start: Children, channel: str
) -> None:
    start_worker(start, ipc_layer.prefix, channel)
    replies = [ipc_layer.new_channel("reply?") for _ in range(3)]
    for n, reply in enumerate(replies):
        ipc_layer.send(channel, {"type": "task", "n": n, "answer": reply})
    for n, reply in enumerate(replies):
        (answer,) = receive_several(ipc_layer, reply, 1)
        assert answer["n"] == n


def test_a_signal_ends_an_idle_worker(ipc_layer: IPCChannelLayer, start: Children) -> None:
    worker = start_worker(start, ipc_layer.prefix, "tasks")
    send_when_possible(ipc_layer, "tasks", {"type": "task", "n": 1, "answer": "answers"})
    receive_several(ipc_layer, "answers", 1)
    worker.kill(signal.SIGTERM)
    assert worker.process.wait(LIMIT) == -signal.SIGTERM
