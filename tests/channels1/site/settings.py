"""
Django settings of the test site. What differs between tests comes from the environment:

``SITE_DIR`` is where the cache lives, ``SITE_DATABASE`` is the file of the database, ``SITE_LAYER`` holds the
options of the channel layer as JSON, ``SITE_REDIS`` is the address of a Redis and puts asgi_redis's local layer
in place of ours, ``SITE_SESSIONS`` chooses a session backend.
"""

import json
import os

DIRECTORY = os.environ["SITE_DIR"]

SECRET_KEY = "only for tests"
DEBUG = False
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "channels1.site.urls"
INSTALLED_APPS = [
    "django.contrib.contenttypes",
    "django.contrib.auth",
    "django.contrib.sessions",
    "channels",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
]
#: An upload is read into memory by Daphne 1 anyway.
DATA_UPLOAD_MAX_MEMORY_SIZE = 64 * 1024 * 1024

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ["SITE_DATABASE"],
        "OPTIONS": {"timeout": 30},
        "TEST": {"NAME": os.path.join(DIRECTORY, "test.sqlite3")},  # the live server refuses one in memory
    }
}
CACHES = {
    "default": {
        "BACKEND": "django.core.cache.backends.filebased.FileBasedCache",
        "LOCATION": os.path.join(DIRECTORY, "cache"),
    }
}
SESSION_ENGINE = "django.contrib.sessions.backends." + os.environ.get("SITE_SESSIONS", "db")

LAYER = json.loads(os.environ["SITE_LAYER"])
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "asgi_ipc.IPCChannelLayer",
        "ROUTING": "channels1.site.routing.channel_routing",
        "CONFIG": LAYER,
        # The live server takes these, but Group("name") in a consumer takes those above: they must be one layer.
        # As the live server flushes it, a project wants a prefix for tests in both.
        "TEST_CONFIG": LAYER,
    }
}
if "SITE_REDIS" in os.environ:
    CHANNEL_LAYERS["default"].update(
        BACKEND="channels1.site.layers.RedisLocalChannelLayer",
        CONFIG={
            "prefix": LAYER["prefix"] + ":",  # asgi_ipc gets it without the colon
            "hosts": [os.environ["SITE_REDIS"]],
            "capacity": LAYER.get("capacity", 100),
        },
    )
