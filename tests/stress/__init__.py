"""
Processes that use one layer while schedulers starve, stop, freeze and thaw them, and while they fork and are killed.

The storm (``tests/storm``) kills and stops processes at random, and watches every critical section. Here nothing looks
into the layer. Each scenario makes one kind of trouble that real sites have: busy threads, CPU quotas, low priorities,
more processes than cores, paused containers, forks. At the end of each, ``Crew.finish`` checks that:

- every message has arrived once, and those of a sender in order (``helpers.accounts``);
- no recovery happened without a death: a live process, however slow, must never be taken for a dead one;
- the integrity check finds nothing, and nothing is left in ``/dev/shm``.

A scenario takes some seconds, and longer with ``--exhaustive``. ``ASGI_IPC_STRESS_SECONDS`` sets its duration,
``ASGI_IPC_STRESS_PROCESSES`` the number of processes in the largest crowd.
"""
