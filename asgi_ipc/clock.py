"""
The clocks of the package.

Test libraries such as freezegun replace ``time.monotonic`` and ``time.time`` in every module that has them as
attributes.  A loop that waits for such a clock would never end, and times in shared memory would not agree with those
of other processes.  So the package reads the clocks of the kernel by their numbers, which these libraries leave alone.
"""

from __future__ import annotations

__all__ = ["monotonic", "monotonic_ns", "wall"]

import time
from functools import partial

#: Seconds and nanoseconds of the machine-wide monotonic clock.
monotonic = partial(time.clock_gettime, time.CLOCK_MONOTONIC)
monotonic_ns = partial(time.clock_gettime_ns, time.CLOCK_MONOTONIC)
#: Seconds of the clock with which the kernel stamps files.
wall = partial(time.clock_gettime, time.CLOCK_REALTIME)
