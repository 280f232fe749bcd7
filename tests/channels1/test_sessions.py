"""Sessions of pages and of sockets, in Django's session backends, over several workers."""

from __future__ import annotations

from typing import Any, Callable, Dict

import pytest

from .servers import Server, Site


def cookie_from(daphne: Server, path: str) -> str:
    """Visit a page for the first time: the cookie that it sets."""
    answer: Any = daphne.request(path)
    assert answer.status == 200, answer.content
    return str(answer.headers["Set-Cookie"].split(";")[0])


@pytest.fixture(params=["db", "cache", "cached_db"])
def site(request: pytest.FixtureRequest, make_site: Callable[..., Site]) -> Site:
    """The site with one backend after the other."""
    return make_site(environment={"SITE_SESSIONS": request.param})


def test_visits_are_counted(site: Site) -> None:
    """A visitor's session holds, whoever serves the next page; another visitor has another."""
    daphnes = [site.daphne(), site.daphne()]
    workers = {site.worker().pid, site.worker().pid}
    cookies: Dict[str, str] = {"Cookie": cookie_from(daphnes[0], "/visits/")}
    for number in range(2, 12):
        page = daphnes[number % 2].page("/visits/", headers=cookies)
        assert page["visits"] == number
        assert page["pid"] in workers
    assert daphnes[0].page("/visits/")["visits"] == 1


def test_sockets_know_who_is_logged_in(site: Site) -> None:
    """The user comes over from the page's session, and the socket keeps a session of its own."""
    daphne = site.daphne()
    for _ in range(2):
        site.worker()
    ann, bob = (cookie_from(daphne, f"/login/?name={name}") for name in ("ann", "bob"))
    with daphne.socket("/room/red/", ann) as hers, daphne.socket("/room/red/", bob) as his:
        assert hers.hear() == {"hello": "ann"}
        assert his.hear() == {"hello": "bob"}
        for number in range(1, 6):
            for name, speaker in (("ann", hers), ("bob", his)):
                speaker.say("hello")
                for client in (hers, his):
                    heard = client.hear()
                    assert (heard["who"], heard["nth"]) == (name, number)
