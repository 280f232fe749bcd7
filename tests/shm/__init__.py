"""Tests of ``asgi_ipc.shm``: segments, semaphores, permissions and wakeup FIFOs."""
