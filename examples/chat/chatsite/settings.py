"""
Settings of the chat. Values that differ from run to run come from the environment, which ``run.py`` sets.

There is no database, no session and no broker. The processes share only the channel layer.
"""

import os

from django.core.management.utils import get_random_secret_key

from .commands import DEFAULT_PREFIX

CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "asgi_ipc.AsyncIPCChannelLayer",
        "CONFIG": {"prefix": os.environ.get("CHAT_PREFIX", DEFAULT_PREFIX)},
    },
}

INSTALLED_APPS = [
    "daphne",  # first, so that runserver is Daphne's and supports WebSocket
    "channels",
    "django.contrib.staticfiles",
    "chatsite",
]
ASGI_APPLICATION = "chatsite.asgi.application"
ROOT_URLCONF = "chatsite.urls"

ALLOWED_HOSTS = os.environ.get("CHAT_HOSTS", "localhost,127.0.0.1,[::1]").split(",")
SECRET_KEY = get_random_secret_key()  # nothing is signed, so every process can have its own
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}]
STATIC_URL = "static/"
USE_TZ = True

#: Shown on the page.
CHAT_SERVER = os.environ.get("CHAT_SERVER", "")
CHAT_ROOMS = ["lobby", "kitchen", "workshop"]
