"""``python -m asgi_ipc``: the same as the command ``asgi-ipc``."""

from __future__ import annotations

from .cli import main

if __name__ == "__main__":
    raise SystemExit(main())
