"""
The clocks of the package, which libraries that freeze or move the time in tests do not change.

freezegun replaces ``time.monotonic``, ``time.time`` and their relatives, in every module that has them as attributes.
time-machine changes the functions themselves, wherever they are held: ``time.time`` and the realtime clock of
``time.clock_gettime`` always, ``time.monotonic`` in its versions 2.13 to 2.19.  With such a clock a wait would never
end, and times in shared memory would not agree with those of other processes.  So the package reads the clocks here,
and only these.  No loop relies on a clock alone all the same: it also counts its pauses or its turns.

gevent and eventlet replace ``time.sleep`` by a function that lets other greenlets run.  A caller that waits wants that,
and uses ``time.sleep``.  A recovery does not, and uses ``sleep``.
"""

from __future__ import annotations

__all__ = ["Quickest", "monotonic", "monotonic_ns", "sleep", "tries", "wall"]

import importlib.util
import math
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from types import BuiltinFunctionType

#: The machine-wide clock that ``time.monotonic`` and ``time.perf_counter`` read too. On macOS it has another number.
_MONOTONIC = getattr(time, "CLOCK_UPTIME_RAW", time.CLOCK_MONOTONIC)
#: What Python calls the same clock.
_IMPLEMENTATIONS = ("clock_gettime(CLOCK_MONOTONIC)", "mach_absolute_time()")
#: Linux's CLOCK_REALTIME_COARSE, which has no name in Python.
_COARSE = 5


def _number_of_wall() -> int:
    """
    Return the number of the clock of file times.

    On Linux this is the coarse one, which no library changes. It is some milliseconds behind. Elsewhere it is
    CLOCK_REALTIME.
    """
    if sys.platform == "linux":
        try:
            time.clock_gettime(_COARSE)
        except OSError:  # an emulation of Linux may not have it
            return time.CLOCK_REALTIME
        return _COARSE
    return time.CLOCK_REALTIME


#: Seconds and nanoseconds of the monotonic clock.
monotonic = partial(time.clock_gettime, _MONOTONIC)
monotonic_ns = partial(time.clock_gettime_ns, _MONOTONIC)
#: Seconds of the clock of file times.
wall = partial(time.clock_gettime, _number_of_wall())


def _quickest() -> Callable[[], int]:
    """
    Return the quickest function that reads the monotonic clock in nanoseconds.

    ``perf_counter_ns`` is a third quicker than ``clock_gettime_ns`` before Python 3.12, and no library changes the
    function itself. If its name stands for something else now, time is frozen at this moment.
    """
    found = time.perf_counter_ns
    same_clock = time.get_clock_info("perf_counter").implementation in _IMPLEMENTATIONS
    return found if same_clock and isinstance(found, BuiltinFunctionType) else monotonic_ns


class Quickest:
    """``monotonic_ns`` for the hot path. It is in a class because freezegun would replace it in a module."""

    monotonic_ns = staticmethod(_quickest())


def _sleep_of_the_system() -> Callable[[float], None]:
    """Return ``time.sleep`` of a new module ``time``: that of the old one may have been replaced already."""
    spec = importlib.util.find_spec("time")
    if spec is None or spec.loader is None:
        return time.sleep
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: Callable[[float], None] = module.sleep
    return found


#: Sleep for some seconds, with the whole thread. Signal handlers run, and may raise.
sleep = _sleep_of_the_system()


def tries(seconds: float, pause: float) -> Iterator[None]:
    """
    Yield once for each try, with pauses in between, until ``seconds`` have passed.

    There is at least one. Their number is limited too, so that a clock that stands still does not matter.
    """
    deadline = monotonic() + seconds
    yield
    for _ in range(math.ceil(seconds / pause)):
        time.sleep(pause)
        yield
        if monotonic() > deadline:
            return
