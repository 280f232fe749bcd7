"""
What asgi_ipc costs beside everything a user would pick instead, and beside what the machine can do.

``python -m benchmarks`` measures all workloads (``workloads/``) with all peers (``adapters/``), prints and writes the
figures, and draws them. What is compared is measured in one run: peers take turns in short rounds, and figures are
medians with quartiles, so that other work of the machine shows in the spread instead of favouring somebody. A peer that
cannot be had, or cannot do a workload, is named with the reason. ``python -m benchmarks compare REVISION REVISION``
does the same with two revisions of this repository.

Every peer runs in processes of its own (``host.py``, started by ``player.py``), the old ones in an environment of
their own (``environments.py``).
"""
