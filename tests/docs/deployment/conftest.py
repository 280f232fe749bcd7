"""Fixtures: machines with the site of the quick start."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from . import site
from .docker import Docker
from .machine import Machine


@pytest.fixture
def make_machine() -> Iterator[Callable[..., Machine]]:
    """Return a function that starts machines; all end after the test."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(Machine(**options))


@pytest.fixture
def machine(make_machine: Callable[..., Machine]) -> Machine:
    """A machine with the site, which belongs to the user ``mysite``."""
    made = make_machine()
    made.run(["useradd", "--system", "mysite"])
    site.install(made, "mysite")
    return made


@pytest.fixture(scope="session")
def docker_engine() -> Iterator[Docker]:
    """A machine on which Docker runs. It takes about 10 seconds to start, so tests share it."""
    with Machine() as made:
        yield Docker(made)


@pytest.fixture
def docker(docker_engine: Docker) -> Iterator[Docker]:
    """Docker without containers and volumes."""
    yield docker_engine
    docker_engine.remove_all()
