"""
Django settings of the test site. The settings that differ between tests come from the environment:

``SITE_DIR`` is the folder of the cache, ``SITE_DATABASE`` the file of the database, ``SITE_LAYER`` the
options of the channel layer as JSON, ``SITE_SESSIONS`` a session backend. ``SITE_REDIS``, the address of a
Redis, replaces the layer by asgi_redis's local layer.
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
#: Daphne 1 reads every upload into memory.
DATA_UPLOAD_MAX_MEMORY_SIZE = 64 * 1024 * 1024

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ["SITE_DATABASE"],
        "OPTIONS": {"timeout": 30},
        "TEST": {"NAME": os.path.join(DIRECTORY, "test.sqlite3")},  # the live server rejects a database in memory
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
        # The live server uses TEST_CONFIG, but Group("name") in a consumer uses CONFIG: they must be equal.
        # The live server flushes that layer, so a project should set a prefix for tests in both.
        "TEST_CONFIG": LAYER,
    }
}
if "SITE_REDIS" in os.environ:
    CHANNEL_LAYERS["default"].update(
        BACKEND="channels1.site.layers.RedisLocalChannelLayer",
        CONFIG={
            "prefix": LAYER["prefix"] + ":",  # asgi_redis removes the colon for asgi_ipc
            "hosts": [os.environ["SITE_REDIS"]],
            "capacity": LAYER.get("capacity", 100),
        },
    )
