"""Django settings for the tests of Channels 4. ``ChannelsLiveServerTestCase`` needs a database in a file."""

import os
import tempfile

PREFIX = f"asgichat{os.getpid()}-settings"
_DATABASES = os.path.join(tempfile.gettempdir(), f"asgi-ipc-channels4-{os.getpid()}.sqlite3")

CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "asgi_ipc.AsyncIPCChannelLayer",
        "CONFIG": {"prefix": PREFIX, "capacity": 100},
    },
}
INSTALLED_APPS = ["channels", "django.contrib.staticfiles"]
DATABASES = {
    "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": _DATABASES, "TEST": {"NAME": f"{_DATABASES}-test"}},
}
ASGI_APPLICATION = "channels4.application.application"
ROOT_URLCONF = "channels4.application"
ALLOWED_HOSTS = ["localhost"]
SECRET_KEY = "nothing is signed"
STATIC_URL = "static/"
USE_TZ = True
