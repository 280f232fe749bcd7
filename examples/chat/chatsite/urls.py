"""The URLs of the pages and of the sockets."""

from django.urls import path, register_converter

from . import views
from .consumers import ChatConsumer
from .rooms import ROOM_PATTERN


class RoomConverter:
    """A room's name in a URL."""

    regex = ROOM_PATTERN

    def to_python(self, value: str) -> str:
        return value

    def to_url(self, value: str) -> str:
        return value


register_converter(RoomConverter, "room")

urlpatterns = [
    path("", views.door, name="door"),
    path("room/<room:room>/", views.room, name="room"),
]
websocket_urlpatterns = [
    path("ws/room/<room:room>/", ChatConsumer.as_asgi()),
]
