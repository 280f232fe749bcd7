"""Pages and uploads, from a client through Daphne to a worker and back."""

from __future__ import annotations

import concurrent.futures
import hashlib
import http.client
import json
import os
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from asgi_ipc import IPCChannelLayer

from .servers import Site
from .waiting import until

MIB = 1024 * 1024


def form(content: bytes) -> tuple[bytes, dict[str, str]]:
    """Return body and headers of a form with one file, as a browser sends it."""
    boundary = uuid.uuid4().hex
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="file"\r\n\r\n'
    body = head.encode() + content + f"\r\n--{boundary}--\r\n".encode()
    return body, {"Content-Type": f"multipart/form-data; boundary={boundary}"}


def assert_full_channel_gives_503(site: Site, script: IPCChannelLayer) -> None:
    """Assert that a site with capacity 5 answers the sixth pending request with 503 and serves the others."""
    daphne = site.daphne()
    with concurrent.futures.ThreadPoolExecutor(5) as pool:
        pages = [pool.submit(daphne.page, "/") for _ in range(5)]
        until(lambda: script.channel_statistics("http.request")["messages_pending"] == 5)
        assert daphne.request("/").status == 503
        worker = site.worker()
        assert [page.result()["pid"] for page in pages] == [worker.pid] * 5
    assert daphne.page("/")["pid"] == worker.pid


@pytest.mark.parametrize(
    ("options", "mode"),
    [((), "native Twisted mode"), (("--force-sync",), "busy-loop synchronous mode")],
    ids=["twisted", "force-sync"],
)
def test_pages_are_served_by_the_worker(site: Site, options: Sequence[str], mode: str) -> None:
    """Daphne itself serves no page: request and response both pass through the layer."""
    daphne, worker = site.daphne(*options), site.worker()
    connection = daphne.connect()
    for _ in range(20):
        connection.request("GET", "/")
        page = json.loads(connection.getresponse().read())
        assert (page["path"], page["pid"]) == ("/", worker.pid)
    connection.close()
    assert daphne.request("/nowhere/").status == 404
    assert f"Using {mode} on channel layer" in daphne.log()


def test_requests_wait_for_a_worker(site: Site) -> None:
    """Requests that arrive before a worker has started are answered after it has started."""
    daphne = site.daphne()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        page = pool.submit(daphne.page, "/")
        daphne.wait_for("Listening on endpoint")
        worker = site.worker()
        assert page.result()["pid"] == worker.pid


def test_many_clients_and_several_workers(site: Site) -> None:
    """Every client gets its own answer, from either worker, with many requests pending."""
    daphne = site.daphne()
    workers = [site.worker(), site.worker()]

    def visit(number: int) -> int:
        page = daphne.page(f"/upload/?{number}", b"%d" % number, {"Content-Type": "application/octet-stream"})
        assert page["sha256"] == hashlib.sha256(b"%d" % number).hexdigest()
        return int(page["pid"])

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        answered = set(pool.map(visit, range(150)))
    assert answered <= {worker.pid for worker in workers}


def test_upload_of_several_megabytes(site: Site) -> None:
    """Daphne 1 puts a whole upload into one message; it arrives unchanged."""
    daphne, _ = site.daphne(), site.worker()
    content = os.urandom(6 * MIB)
    expected = (len(content), hashlib.sha256(content).hexdigest())
    for body, headers in (form(content), (content, {"Content-Type": "application/octet-stream"})):
        page = daphne.page("/upload/", body, headers)
        assert (page["size"], page["sha256"]) == expected


def test_concurrent_uploads(site: Site) -> None:
    """Several large messages and small ones are pending at the same time."""
    daphne = site.daphne()
    contents = [os.urandom(3 * MIB + number) for number in range(4)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        uploads = [pool.submit(daphne.page, "/upload/", *form(content)) for content in contents]
        pages = [pool.submit(daphne.page, "/") for _ in contents]
        site.worker()
        for upload, content in zip(uploads, contents):
            assert upload.result()["sha256"] == hashlib.sha256(content).hexdigest()
        assert all(page.result()["path"] == "/" for page in pages)


def test_upload_above_the_message_limit(site: Site) -> None:
    """An upload above the message limit (an eighth of 64 MiB) is refused; later requests are served."""
    daphne, worker = site.daphne(), site.worker()
    answer: Any = daphne.request("/upload/", bytes(9 * MIB), {"Content-Type": "application/octet-stream"})
    assert answer.status == 500
    assert "MessageTooLarge" in daphne.log()
    assert daphne.page("/")["pid"] == worker.pid


def test_download_of_more_than_the_layer_holds(site: Site) -> None:
    """Channels splits a response of 80 MiB into 160 messages and waits while the layer is full."""
    daphne, _ = site.daphne(), site.worker()
    answer: Any = daphne.request(f"/download/{80 * MIB}/")
    assert answer.status == 200
    assert len(answer.content) == 80 * MIB
    assert answer.content == bytes(range(256)) * (80 * MIB // 256)


def test_a_full_channel_gives_503(make_site: Callable[..., Site], script: IPCChannelLayer) -> None:
    """Daphne answers 503 if the channel is full; pending requests are still served."""
    assert_full_channel_gives_503(make_site(options={"capacity": 5}), script)


def test_runserver(site: Site) -> None:
    """The development server has Daphne and four worker threads in one process, on one layer object."""
    server = site.runserver("--noreload")
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        pages = list(pool.map(lambda _: server.page("/"), range(40)))
    assert {page["pid"] for page in pages} == {server.pid}


def test_runserver_reloads(site: Site) -> None:
    """After a file has changed, the process ends while its threads wait, and a new process replaces it."""
    server = site.runserver()
    first = server.page("/")["pid"]
    assert first != server.pid  # this process only restarts the other one

    def has_reloaded() -> bool:
        try:
            if server.page("/")["pid"] != first:
                return True
        except (ConnectionError, http.client.HTTPException):  # the old process has ended, the new one is not ready
            return False
        os.utime(Path(__file__).with_name("site") / "views.py")  # repeated until Django notices
        return False

    until(has_reloaded)
    pages = [server.page("/") for _ in range(5)]
    assert first not in {page["pid"] for page in pages}
