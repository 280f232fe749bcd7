"""Django settings of the site, and of ``runworker``. The prefix comes from the environment."""

from __future__ import annotations

import os

from stress.workers import OPTIONS

PREFIX = os.environ["SOAK_PREFIX"]
#: Seconds. Everything is frozen for longer than that, again and again.
PATIENCE = 2.0

CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "asgi_ipc.AsyncIPCChannelLayer",
        "CONFIG": {**OPTIONS, "prefix": PREFIX, "patience": PATIENCE, "expiry": 60, "capacity": 100},
    },
}
INSTALLED_APPS = ["channels"]
ASGI_APPLICATION = "soak.site.application"
ALLOWED_HOSTS = ["*"]
SECRET_KEY = "nothing is signed"
USE_TZ = True
LOGGING = {
    "version": 1,
    "handlers": {"stderr": {"class": "logging.StreamHandler"}},
    "loggers": {"asgi_ipc": {"handlers": ["stderr"], "level": "WARNING"}},
}
