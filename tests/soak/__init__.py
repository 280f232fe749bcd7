"""
A soak: a small site runs for an hour, with servers, workers and scripts that are killed, frozen and forked.

It is run by hand, in an environment with what ``tests/channels4/requirements.txt`` names::

    PYTHONPATH=tests python -m soak --minutes 60

Everything uses one layer:

- two Uvicorn servers with a Channels site, and clients with WebSockets that connect, talk in a room, and leave;
- two ``runworker`` processes, which answer tasks of the site;
- scripts that send one message and end;
- the crew of ``tests/stress``: senders, receivers, event loops, and processes that fork all the time.

About once a second, one of them is killed and replaced, or some are stopped for a moment. Once a minute, everything is
stopped for longer than the layer's ``patience``. One process of each kind is never killed.

Once a minute the soak takes figures: the memory in use in both segments, the files in ``/dev/shm``, the memory and the
descriptors of the processes that are never killed, and how long messages took. At the end it prints a table of
their medians in each third of the time, and says whether they are flat: the last third must not be above the middle
third. It checks the accounts of all messages and the integrity of the segments, as each scenario of ``tests/stress``
does. It exits with 0 if all of that is right.
"""
