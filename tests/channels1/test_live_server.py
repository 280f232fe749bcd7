"""``ChannelLiveServerTestCase``, in Django's own test runner."""

from __future__ import annotations

from .servers import Site


def test_live_server(site: Site) -> None:
    """The tests in ``site.live`` pass: the same five with one and with four worker threads."""
    run = site.command("test", "channels1.site.live", "--noinput")
    code = run.wait()
    assert code == 0, run.log()
    assert "Ran 10 tests" in run.log()
    assert "OK" in run.log().splitlines()
