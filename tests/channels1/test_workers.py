"""Workers: with threads, ended by signals while idle or busy, and killed."""

from __future__ import annotations

import concurrent.futures
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from asgi_ipc import IPCChannelLayer

from .servers import Site
from .waiting import until


def test_four_threads_work_at_once(site: Site) -> None:
    """``runworker --threads 4`` serves four pages at the same time in one process, each in its own thread."""
    daphne, worker = site.daphne(), site.worker("--threads", "4")
    for _ in range(3):
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            pages = list(pool.map(lambda _: daphne.page("/meet/"), range(4)))
        assert {page["pid"] for page in pages} == {worker.pid}
        assert len({page["thread"] for page in pages}) == 4


def test_each_message_goes_to_one_worker(site: Site, script: IPCChannelLayer) -> None:
    """With several processes and threads on one channel, every job is done exactly once."""
    daphne = site.daphne()
    workers = {site.worker("--threads", "4").pid, site.worker("--threads", "4").pid}
    with daphne.socket("/room/red/") as client:
        client.receive()
        done = []
        for begin in range(0, 300, 50):  # more at a time would exceed the capacity of the socket
            for number in range(begin, begin + 50):
                script.send("site.job", {"room": "red", "text": number})
            done += [client.receive() for _ in range(50)]
        script.send("site.job", {"room": "red", "text": "last"})
        assert client.receive()["job"] == "last"
    assert Counter(one["job"] for one in done) == Counter(range(300))
    assert {one["pid"] for one in done} <= workers


def test_workers_receive_only_from_their_channels(site: Site, script: IPCChannelLayer) -> None:
    """Each worker receives only from the channels of its options."""
    daphne = site.daphne()
    job_worker, page_worker = site.worker("--only-channels", "site.*"), site.worker("--exclude-channels", "site.*")
    with daphne.socket("/room/red/") as client:
        client.receive()
        for number in range(10):
            assert daphne.page("/")["pid"] == page_worker.pid
            script.send("site.job", {"room": "red", "text": number})
            assert client.receive() == {"job": number, "pid": job_worker.pid}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("threads", [1, 4])
def test_a_signal_ends_an_idle_worker(make_site: Callable[..., Site], number: int, threads: int) -> None:
    """A worker that waits (for up to an hour) runs its signal handler and exits; a new worker goes on."""
    site = make_site(options={"block_timeout": 3600})
    daphne, worker = site.daphne(), site.worker("--threads", str(threads))
    assert daphne.page("/")["pid"] == worker.pid
    time.sleep(1)  # Channels has handled the message and waits for the next
    worker.send_signal(number)
    assert worker.wait() == 0, worker.log()
    assert "terminating immediately" in worker.log()  # not "while busy"
    assert "Traceback" not in worker.log()
    other = site.worker()
    for _ in range(5):
        assert daphne.page("/")["pid"] == other.pid


def test_a_signal_lets_a_busy_worker_finish(site: Site, tmp_path: Path) -> None:
    """A busy worker that gets SIGTERM answers first and receives no further message."""
    daphne, worker = site.daphne(), site.worker()
    go = tmp_path / "go"
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        page = pool.submit(daphne.page, f"/slow/?until={go}")
        until(Path(f"{go}.begun").exists)
        worker.send_signal(signal.SIGTERM)
        worker.wait_for("waiting for loop termination")
        go.touch()
        assert page.result()["pid"] == worker.pid
    assert worker.wait() == 0, worker.log()
    other = site.worker()
    assert daphne.page("/")["pid"] == other.pid


def test_a_worker_receives_again_after_a_timeout(make_site: Callable[..., Site]) -> None:
    """A worker receives again after its blocking receive has timed out without a message."""
    site = make_site(options={"block_timeout": 0.1})
    daphne, worker = site.daphne(), site.worker("--threads", "2")
    for _ in range(10):
        time.sleep(0.15)
        assert daphne.page("/")["pid"] == worker.pid


def test_killed_workers_lose_no_message(site: Site) -> None:
    """Workers killed while they waited lose no message: the remaining worker answers every request."""
    daphne = site.daphne()
    last = site.worker()
    for _ in range(5):
        killed = [site.worker(), site.worker("--threads", "4")]
        daphne.page("/")
        for worker in killed:
            worker.die()
        for _ in range(6):
            assert daphne.page("/")["pid"] == last.pid


def test_a_signal_ends_an_idle_daphne(site: Site) -> None:
    """Daphne ends cleanly while it waits for answers of workers."""
    daphne, worker = site.daphne(), site.worker()
    assert daphne.page("/")["pid"] == worker.pid
    daphne.send_signal(signal.SIGTERM)
    assert daphne.wait() == 0, daphne.log()
    assert "Traceback" not in daphne.log()
    assert site.daphne().page("/")["pid"] == worker.pid
