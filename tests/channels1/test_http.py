"""Pages and uploads, from a client through Daphne to a worker and back."""

from __future__ import annotations

import concurrent.futures
import hashlib
import http.client
import json
import os
import uuid
from pathlib import Path
from typing import Any, Callable, Dict, Sequence, Tuple

import pytest

from asgi_ipc import IPCChannelLayer

from .servers import Site
from .waiting import until

MIB = 1024 * 1024


def form(content: bytes) -> Tuple[bytes, Dict[str, str]]:
    """A form with one file in it, as a browser sends it: body and headers."""
    boundary = uuid.uuid4().hex
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="file"\r\n\r\n'
    body = head.encode() + content + f"\r\n--{boundary}--\r\n".encode()
    return body, {"Content-Type": f"multipart/form-data; boundary={boundary}"}


def turns_clients_away(site: Site, script: IPCChannelLayer) -> None:
    """Fill a site whose capacity is 5, and see what the sixth gets."""
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
def test_pages_come_from_the_worker(site: Site, options: Sequence[str], mode: str) -> None:
    """Daphne has no page of its own: what comes back has been through the layer twice."""
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
    """What comes in while no worker is there is answered when one has come."""
    daphne = site.daphne()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        page = pool.submit(daphne.page, "/")
        daphne.wait_for("Listening on endpoint")
        worker = site.worker()
        assert page.result()["pid"] == worker.pid


def test_many_clients_and_several_workers(site: Site) -> None:
    """Every client gets its own answer, whichever worker gives it and however many wait."""
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
    """Daphne 1 puts an upload into one message, with the page's other fields; it arrives as it was sent."""
    daphne, _ = site.daphne(), site.worker()
    content = os.urandom(6 * MIB)
    expected = (len(content), hashlib.sha256(content).hexdigest())
    for body, headers in (form(content), (content, {"Content-Type": "application/octet-stream"})):
        page = daphne.page("/upload/", body, headers)
        assert (page["size"], page["sha256"]) == expected


def test_uploads_at_once(site: Site) -> None:
    """Several big messages wait at once, and small ones beside them."""
    daphne = site.daphne()
    contents = [os.urandom(3 * MIB + number) for number in range(4)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        uploads = [pool.submit(daphne.page, "/upload/", *form(content)) for content in contents]
        pages = [pool.submit(daphne.page, "/") for _ in contents]
        site.worker()
        for upload, content in zip(uploads, contents):
            assert upload.result()["sha256"] == hashlib.sha256(content).hexdigest()
        assert all(page.result()["path"] == "/" for page in pages)


def test_upload_over_the_limit(site: Site) -> None:
    """More than a message may have (here an eighth of 64 MiB) is refused; nothing else suffers."""
    daphne, worker = site.daphne(), site.worker()
    answer: Any = daphne.request("/upload/", bytes(9 * MIB), {"Content-Type": "application/octet-stream"})
    assert answer.status == 500
    assert "MessageTooLarge" in daphne.log()
    assert daphne.page("/")["pid"] == worker.pid


def test_download_of_more_than_the_layer_holds(site: Site) -> None:
    """Channels cuts a response into messages, here 160 of 80 MiB, and waits while the layer is full."""
    daphne, _ = site.daphne(), site.worker()
    answer: Any = daphne.request(f"/download/{80 * MIB}/")
    assert answer.status == 200
    assert len(answer.content) == 80 * MIB
    assert answer.content == bytes(range(256)) * (80 * MIB // 256)


def test_a_full_channel_turns_clients_away(make_site: Callable[..., Site], script: IPCChannelLayer) -> None:
    """Daphne answers 503 to what finds no room, and those that wait are served all the same."""
    turns_clients_away(make_site(options={"capacity": 5}), script)


def test_runserver(site: Site) -> None:
    """The server for development: Daphne and four worker threads in one process, on one layer object."""
    server = site.runserver("--noreload")
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        pages = list(pool.map(lambda _: server.page("/"), range(40)))
    assert {page["pid"] for page in pages} == {server.pid}


def test_runserver_reloads(site: Site) -> None:
    """Where a file changes, the process ends while all its threads wait, and another takes its place."""
    server = site.runserver()
    first = server.page("/")["pid"]
    assert first != server.pid  # that one only watches over the other, where the server is not in the main thread

    def has_reloaded() -> bool:
        try:
            if server.page("/")["pid"] != first:
                return True
        except (ConnectionError, http.client.HTTPException):  # between the one and the other
            return False
        os.utime(Path(__file__).with_name("site") / "views.py")  # again, until Django has seen it
        return False

    until(has_reloaded)
    pages = [server.page("/") for _ in range(5)]
    assert first not in {page["pid"] for page in pages}
