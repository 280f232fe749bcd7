"""Both front ends exchange messages across processes and Python versions, over one prefix."""

from __future__ import annotations

import sys

import pytest
from helpers.players import ASK, ECHO, version
from helpers.pythons import interpreter
from helpers.waiting import OPTIONS, assert_sound

from asgi_ipc import IPCChannelLayer

ROUNDS = 200
THIS = "{}.{}".format(*sys.version_info)


@pytest.fixture(scope="session")
def python(request, tmp_path_factory):
    """Return a function from a version to an interpreter; pytest's cache keeps the environments."""
    cache = getattr(request.config, "cache", None)
    place = cache.mkdir("pythons") if cache else tmp_path_factory.mktemp("pythons")
    return lambda wanted: interpreter(wanted, place)


@pytest.mark.parametrize("asker", ASK)
@pytest.mark.parametrize(
    ("first", "second"), [(THIS, THIS), ("3.9", "3.13"), ("3.13", "3.9")], ids=["this Python", "3.9 3.13", "3.13 3.9"]
)
def test_one_process_asks_and_the_others_answer(start, prefix, python, asker, first, second):
    """The messages go through a channel, an inbox and a group, between two Python versions."""
    askers, others = (sys.executable if each == THIS else python(each) for each in (first, second))
    for each, wanted in ((askers, first), (others, second)):
        child = start(version, python=each)
        assert child.hear() == wanted
    with IPCChannelLayer(prefix, **OPTIONS) as layer:
        echoes = [start(echo, prefix, f"to.{front_end}", python=others) for front_end, echo in ECHO.items()]
        for echo in echoes:
            assert echo.hear() == "ready"
        asking = start(ASK[asker], prefix, [f"to.{front_end}" for front_end in ECHO], ROUNDS, python=askers)
        assert asking.hear() == len(ECHO)
        asking.end()
        for echo in echoes:
            assert echo.hear() == "done"
            echo.end()
        assert_sound(layer)
