"""
Benchmarks of asgi_ipc against the alternatives, and against lower bounds of the machine.

``python -m benchmarks`` measures all workloads (``workloads/``) with all peers (``adapters/``), prints and
writes the figures, and draws them. Peers that are compared are measured in one run: they take turns in short
rounds, and figures are medians with quartiles. So other work of the machine widens the spread, but favours no
peer. A peer that is not available, or cannot do a workload, is listed with the reason. ``python -m benchmarks
compare REVISION REVISION`` does the same with two revisions of this repository.

Every peer runs in separate processes (``host.py``, started by ``player.py``). Old packages run in an
environment of their own (``environments.py``).
"""
