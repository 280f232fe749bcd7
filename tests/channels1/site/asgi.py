"""The channel layer that Daphne serves: ``daphne channels1.site.asgi:channel_layer``."""

import os

from channels.asgi import get_channel_layer

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "channels1.site.settings")

channel_layer = get_channel_layer()
