"""Sessions of pages and WebSockets, with Django's session backends and several workers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from .servers import Server, Site


def cookie_from(daphne: Server, path: str) -> str:
    """Visit a page without a cookie and return the cookie that it sets."""
    answer: Any = daphne.request(path)
    assert answer.status == 200, answer.content
    return str(answer.headers["Set-Cookie"].split(";")[0])


@pytest.fixture(params=["db", "cache", "cached_db"])
def site(request: pytest.FixtureRequest, make_site: Callable[..., Site]) -> Site:
    """The site, with each of the session backends."""
    return make_site(environment={"SITE_SESSIONS": request.param})


def test_sessions_persist_across_workers(site: Site) -> None:
    """A visitor keeps the session across servers and workers; a second visitor gets a new one."""
    daphnes = [site.daphne(), site.daphne()]
    workers = {site.worker().pid, site.worker().pid}
    cookies: dict[str, str] = {"Cookie": cookie_from(daphnes[0], "/visits/")}
    for number in range(2, 12):
        page = daphnes[number % 2].page("/visits/", headers=cookies)
        assert page["visits"] == number
        assert page["pid"] in workers
    assert daphnes[0].page("/visits/")["visits"] == 1


def test_sockets_know_the_logged_in_user(site: Site) -> None:
    """The user is read from the page's session, and each WebSocket has its own session."""
    daphne = site.daphne()
    for _ in range(2):
        site.worker()
    ann, bob = (cookie_from(daphne, f"/login/?name={name}") for name in ("ann", "bob"))
    with daphne.socket("/room/red/", ann) as hers, daphne.socket("/room/red/", bob) as his:
        assert hers.receive() == {"hello": "ann"}
        assert his.receive() == {"hello": "bob"}
        for number in range(1, 6):
            for name, speaker in (("ann", hers), ("bob", his)):
                speaker.send("hello")
                for client in (hers, his):
                    message = client.receive()
                    assert (message["user"], message["count"]) == (name, number)
