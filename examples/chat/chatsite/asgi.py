"""
The ASGI application: pages, sockets, and the plain channel ``dice`` for ``runworker``.

It also serves the static files, so that the chat is the same on every server. A process that imports this
module registers on the layer, before it serves anything.
"""

import os
import sys

from channels.routing import ChannelNameRouter, ProtocolTypeRouter, URLRouter
from channels.security.websocket import AllowedHostsOriginValidator
from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler
from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "chatsite.settings")
pages = get_asgi_application()  # sets up Django, before the consumers are imported

from .bot import DiceBot  # noqa: E402
from .processes import register  # noqa: E402
from .urls import websocket_urlpatterns  # noqa: E402

application = ProtocolTypeRouter(
    {
        "http": ASGIStaticFilesHandler(pages),
        "websocket": AllowedHostsOriginValidator(URLRouter(websocket_urlpatterns)),
        "channel": ChannelNameRouter({"dice": DiceBot.as_asgi()}),
    }
)

#: Stays open: this process is listed until it ends.
registered = register("bot" if sys.argv[1:2] == ["runworker"] else "worker")
