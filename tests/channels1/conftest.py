"""
Sites for the tests in this folder, which are skipped if Channels 1.1.8 is not installed.

These tests import nothing of the old packages: Daphne, the workers and Django's test runner are separate
processes, as in production. Warnings of the old packages therefore stay in those processes, and warnings in
the test process remain errors.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from asgi_ipc import IPCChannelLayer

from .redis_server import RedisServer
from .servers import MEMORY, Site

HERE = Path(__file__).parent


def installed(package: str) -> str:
    """Return the version of a package, or ``"none"``."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "none"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests of this folder if Channels 1.1.8 is not installed."""
    found = installed("channels")
    if found != "1.1.8":
        reason = f"needs channels 1.1.8 and its requirements (installed: {found}): tox -e channels1"
        for item in items:
            if HERE in item.path.parents:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with the site's tables, to be copied, since Django takes long to create them."""
    site = Site("unused", tmp_path_factory.mktemp("database"))
    site.make_tables()
    return site.database


@pytest.fixture
def make_site(prefix: str, tmp_path: Path, database: Path) -> Iterator[Callable[..., Site]]:
    """Return a function that makes a site on this test's prefix, with the arguments of ``Site``."""
    made: list[Site] = []

    def make(**arguments: Any) -> Site:
        site = Site(prefix, tmp_path, **arguments)
        made.append(site)
        shutil.copy(database, site.database)
        return site

    yield make
    for site in made:
        site.clean_up()


@pytest.fixture
def site(make_site: Callable[..., Site]) -> Site:
    """A site on ``IPCChannelLayer``, with sessions in the database."""
    return make_site()


@pytest.fixture
def script(make_layer: Callable[..., IPCChannelLayer]) -> IPCChannelLayer:
    """The site's layer in this process, as a script without Channels uses it."""
    return make_layer(**MEMORY)


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis server for one test."""
    if installed("asgi_redis") != "1.4.3":
        pytest.skip("needs asgi_redis 1.4.3 (tox -e channels1-redis)")
    if shutil.which("redis-server") is None:
        pytest.skip("needs redis-server (Debian: apt-get install redis-server)")
    server = RedisServer(tmp_path)
    yield server
    server.clean_up()


@pytest.fixture
def redis_site(make_site: Callable[..., Site], redis: RedisServer) -> Any:
    """A site on asgi_redis's local layer: ``IPCChannelLayer`` for local channels, Redis for the others."""
    return make_site(environment={"SITE_REDIS": redis.address})
