"""
Benchmarks that compare asgi_ipc with alternatives, and with lower bounds of the machine.

``python -m benchmarks`` measures all workloads (``workloads/``) with all peers (``adapters/``). It prints the
figures, writes them to a file, and draws them. With ``--quick`` it takes about two minutes. The peers take turns
in short rounds, and the figures are medians with quartiles. Other work on the machine therefore widens the
spread, but favours no peer. If a peer is not available, or cannot run a workload, the report gives the reason.
``python -m benchmarks compare REVISION REVISION`` compares two revisions of this repository in the same way.

Every peer runs in separate processes (``host.py``, started by ``player.py``). The layers for Channels 1 run in
an environment of their own (``environments.py``).
"""
